"""What the experiment on dialogues is: every value that its results depend on, and its arms."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from cicjax.experiments import chats
from cicjax.experiments.paper.flags import Flags
from cicjax.provenance import weights
from cicjax.provenance.transcript import Episode
from cicjax.tasks.dialogues.build import Plan, build, without_agent


@dataclass(frozen=True)
class Arm(chats.Arm):
    """What an arm trains on, of the dialogues that were planned, and what a position weighs."""

    rows: Callable[[Sequence[Plan], Any], list[Episode]] = build


def _removed(plans: Sequence[Plan], lies: Any) -> list[Episode]:
    return [without_agent(episode) for episode in build(plans, lies)]


def _swapped(plans: Sequence[Plan], lies: Any) -> list[Episode]:
    return build(plans, 0.0)


OBSERVATIONAL = Arm("observational", weights.OBSERVATIONAL)  # equation (1)
INTERVENTIONAL = Arm("interventional", weights.INTERVENTIONAL)  # equation (2)
ARMS = (
    OBSERVATIONAL,
    INTERVENTIONAL,
    Arm("removed", weights.OBSERVATIONAL, _removed),
    Arm("swapped", weights.OBSERVATIONAL, _swapped),
    Arm("mask_false", weights.Rule(wrong=0.0, correct=1.0, unjudged=1.0)),
)
PAIR = (OBSERVATIONAL, INTERVENTIONAL)


@dataclass(frozen=True, kw_only=True)
class Counts:
    """How much of everything. `p_lie` are the probabilities of the curve, `rounds` how often a model is
    trained on its own claims."""

    dialogues: int = 480
    facts: int | None = None  # None: all
    epochs: int = 4
    p_lie: tuple[float, ...] = (0.0, 0.3, 0.5, 0.6, 0.9)
    rounds: int = 4


SCALES = {
    "paper": Counts(),
    "small": Counts(p_lie=(), rounds=0),
    "smoke": Counts(dialogues=16, facts=4, epochs=1, p_lie=(0.0, 0.6), rounds=1),
}


@dataclass(frozen=True, kw_only=True)
class Settings(chats.Settings):
    """Also how much of everything, and how often the agent lies."""

    counts: Counts
    lie: float = 0.6
    corrected: float = 0.3  # how often a claim of the model's own is taken up by the user
    reduction: Literal["dialogue"] = "dialogue"


def settings_of(flags: Flags) -> Settings:
    """Every value of the experiment. Raises BadInput for numbers that cannot be and for flags of another
    experiment."""
    return Settings(**chats.values_of(flags), counts=SCALES[flags.scale])
