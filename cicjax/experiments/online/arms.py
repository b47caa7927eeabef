"""The arms: what becomes of an answered question. They share questions, their order, the keys of their
samples, what is replayed and every update's rate."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from cicjax.methods.oracle import without_attempt
from cicjax.provenance import protocol
from cicjax.provenance.protocol import Weighting
from cicjax.provenance.transcript import Episode

WORLD_ALONE = protocol.weighting("interventional")
Rows = Callable[[Sequence[Episode]], list[Episode]]


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One arm.

    Args:
        rows: what is learned of a step's exchanges, (x, y_hat) after a success and (x, y_hat, y*) after a
            failure; None where nothing is.
        weighting: what a position weighs.
        replay: whether rows of the seed and of earlier exchanges go along.
        updates: whether it updates at all.
        in_context: how many of the last corrections stand in the prompt.
        start: the adapter it begins with.
        refit: whether it is trained once, at the end, on all that was corrected.
    """

    name: str
    label: str
    meaning: str
    rows: Rows | None = None
    weighting: Weighting = WORLD_ALONE
    replay: bool = True
    updates: bool = True
    in_context: int = 0
    start: Literal["sft", "fresh"] = "sft"
    refit: bool = False


def failed(exchanges: Sequence[Episode]) -> list[Episode]:
    """Those that were corrected, with their attempts: x, do(y_hat), y*."""
    return [each for each in exchanges if len(each.messages) == 3]


def corrected(exchanges: Sequence[Episode]) -> list[Episode]:
    """The corrections as answers of their own: x, y*."""
    return [without_attempt(each) for each in failed(exchanges)]


def both(exchanges: Sequence[Episode]) -> list[Episode]:
    """A row of each."""
    return failed(exchanges) + corrected(exchanges)


def shuffled(exchanges: Sequence[Episode]) -> list[Episode]:
    """Each correction after the attempt at the next question: a placebo for the attempt as context."""
    rows = failed(exchanges)
    attempts = [each.messages[1] for each in rows]
    return [
        replace(each, messages=(each.messages[0], attempt, each.messages[2]))
        for each, attempt in zip(rows, [*attempts[1:], *attempts[:1]], strict=True)
    ]


FROZEN = Arm(name="frozen", label="Frozen", meaning="never learns: the drift of difficulty", updates=False)
REPLAY = Arm(
    name="replay_only", label="Replay only", meaning="the same updates, on rows of the seed and no lesson"
)
INTERVENTIONAL = Arm(
    name="interventional", label="Interventional", meaning="the paper's agent, live", rows=failed
)
OBSERVATIONAL = Arm(
    name="observational",
    label="Observational",
    meaning="learns its own answers too, right or wrong",
    rows=list,
    weighting=protocol.weighting("observational"),
)
CORRECTIONS = Arm(
    name="corrections", label="Corrections alone", meaning="x -> y*, without the attempt", rows=corrected
)
ARMS: tuple[Arm, ...] = (
    FROZEN,
    REPLAY,
    INTERVENTIONAL,
    replace(
        INTERVENTIONAL,
        name="no_replay",
        label="Interventional, no replay",
        meaning="its lessons and nothing else",
        replay=False,
    ),
    OBSERVATIONAL,
    replace(
        OBSERVATIONAL,
        name="mask_wrong",
        label="Wrong attempts masked",
        meaning="learns its own right answers too",
        weighting=protocol.weighting("stream", correct=1.0),
    ),
    CORRECTIONS,
    replace(INTERVENTIONAL, name="both", label="Both contexts", meaning="a row of each", rows=both),
    replace(
        INTERVENTIONAL,
        name="shuffled",
        label="Shuffled attempts",
        meaning="each correction after another question's attempt",
        rows=shuffled,
    ),
    replace(
        FROZEN,
        name="in_context",
        label="In context",
        meaning="the last four corrections in the prompt, no training",
        in_context=4,
    ),
    replace(
        INTERVENTIONAL,
        name="one_stream",
        label="One stream",
        meaning="no SFT stage: the seed's rows come with the stream",
        start="fresh",
    ),
    replace(
        CORRECTIONS,
        name="refit",
        label="Refit",
        meaning="trained once, at the end, on all corrections of the frozen arm: a ceiling",
        updates=False,
        refit=True,
    ),
)
# Fixed beforehand, paired over seeds.
CONTRASTS = tuple(
    (INTERVENTIONAL.name, other) for other in ("replay_only", "observational", "corrections", "shuffled")
)


def named(name: str) -> Arm:
    """The arm of this name."""
    return next(arm for arm in ARMS if arm.name == name)
