"""Whether a version may serve: its greedy answers to fixed problems, paired with those of the serving version
and of a fixed anchor.

A version is rejected where it is worse than either by the exact one-sided McNemar test, where it has lost
more than a margin against the anchor, or where its answers lose their form in the same way. The anchor is
fixed: compared with the version before alone, a slow drift passes; compared with the best so far, noise
rejects.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from jaxtyping import UInt32

from cicjax.agent.acting import turn_key
from cicjax.agent.settings import GateSettings
from cicjax.provenance.tokenizer import Tokenizer
from cicjax.provenance.transcript import Author, Message
from cicjax.sampling.sampler import Completion, Decode, Decoding
from cicjax.statistics import worse_p
from cicjax.tasks.task import Problem, Splits, Task


class Outcomes(NamedTuple):
    """Answer by answer: whether it is right, and whether it has the form of an answer (ended by the agent,
    with the task's marker, without control tokens inside)."""

    right: tuple[bool, ...]
    formed: tuple[bool, ...]

    def of(self, chosen: Sequence[int]) -> "Outcomes":
        """Those of some of the problems, by their numbers."""
        return Outcomes(tuple(self.right[n] for n in chosen), tuple(self.formed[n] for n in chosen))


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What the gate says, and why not where it rejects; the numbers go into the log."""

    passed: bool
    reason: str
    numbers: dict[str, Any]


def decide(candidate: Outcomes, serving: Outcomes, anchor: Outcomes, settings: GateSettings) -> Decision:
    """The rule, on answers to the same problems in the same order."""
    count = len(candidate.right)
    numbers: dict[str, Any] = {
        "problems": count,
        "right": sum(candidate.right),
        "right_serving": sum(serving.right),
        "right_anchor": sum(anchor.right),
        "formed": sum(candidate.formed),
    }
    reasons = []
    for name, before in (("serving", serving), ("anchor", anchor)):
        for what, now, then in (
            ("right", candidate.right, before.right),
            ("formed", candidate.formed, before.formed),
        ):
            gained, lost = changes(then, now)
            p = worse_p(gained, lost)
            numbers |= {f"{what}_gained_{name}": gained, f"{what}_lost_{name}": lost, f"{what}_p_{name}": p}
            if p <= settings.alpha:
                reasons.append(f"fewer answers {what} than the {name} version (p = {p:.2g})")
            elif name == "anchor" and lost - gained > settings.margin * count:
                reasons.append(f"{lost - gained} of {count} answers fewer {what} than the anchor's")
    return Decision(passed=not reasons, reason="; ".join(reasons), numbers=numbers)


def changes(before: Sequence[bool], now: Sequence[bool]) -> tuple[int, int]:
    """(gained, lost) between two rows of outcomes."""
    pairs = list(zip(before, now, strict=True))
    return sum(b < n for b, n in pairs), sum(b > n for b, n in pairs)


class Answers(Protocol):
    """Whoever answers as a version: a sampler, or an engine that shares the device with others."""

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        keys: UInt32[np.ndarray, "R 2"],
        decoding: Decoding,
        *,
        decode: Decode | None = None,
    ) -> Sequence[Completion]:
        """One completion a prompt."""
        ...


@dataclass(frozen=True, kw_only=True)
class Items:
    """The problems of a gate, as prompts, and how they are answered and graded."""

    task: Task
    problems: tuple[Problem, ...]
    prompts: tuple[Sequence[int], ...]
    tokenizer: Tokenizer
    decoding: Decoding

    def ask(self, sampler: Answers) -> Outcomes:
        """A version's greedy answers, graded."""
        keys = np.zeros((len(self.prompts), 2), np.uint32)  # which have no part in a greedy answer
        answers = sampler.sample(self.prompts, keys, self.decoding, decode=self.tokenizer.decode)
        right, formed = [], []
        for problem, answer in zip(self.problems, answers, strict=True):
            text = self.tokenizer.decode(answer.tokens, skip_controls=True)
            right.append(bool(self.task.verify(problem, text).solved))
            inside = answer.tokens[:-1] if answer.finish_reason == "stop" else answer.tokens
            formed.append(
                answer.finish_reason == "stop"
                and bool(self.task.has_marker(text))
                and not any(map(self.tokenizer.is_control, inside))
            )
        return Outcomes(tuple(right), tuple(formed))


def asked(problem: Problem) -> list[Message]:
    """A problem as the agent is asked it."""
    return [Message(role="user", content=problem.question, author=Author.USER)]


def turn_of(problem: Problem) -> str:
    """What a conversation that asks the problem is looked up by."""
    return turn_key("", "user", problem.question)


def problems_of(task: Task, seed: int, count: int) -> tuple[Problem, ...]:
    """The problems of a gate: the development split beside the paper's other splits."""
    return tuple(_splits(task, seed, count).dev)


def practice(task: Task, seed: int, count: int) -> tuple[Problem, ...]:
    """Problems to be asked and taught, none of which is among the gate's `count`."""
    return tuple(_splits(task, seed, count).agent)


def solved(task: Task, seed: int, count: int) -> tuple[Problem, ...]:
    """Problems whose solutions may be replayed, none of which is among either."""
    return tuple(_splits(task, seed, count).sft)


def _splits(task: Task, seed: int, count: int) -> Splits[Problem]:
    return task.splits(seed, sft=200, agent=200, dev=count, test=0)


class Chance(NamedTuple):
    """How answers change by chance from one version to the next, and what a version does to them on top: the
    share that changes, half each way, and the share that is lost."""

    changed: float
    lost: float = 0.0
    accuracy: float = 0.75


def rejected_share(
    settings: GateSettings, chance: Chance, *, trials: int, versions: int = 1, seed: int = 0
) -> float:
    """How often the rule rejects a version, simulated: the serving one lies `versions` harmless changes from
    the anchor, and the candidate one more, with `chance.lost` of the answers gone. Both comparisons are in
    force."""
    rng = np.random.default_rng(seed)
    rejected = 0
    for _ in range(trials):
        anchor = rng.random(settings.problems) < chance.accuracy
        serving = anchor
        for _ in range(versions):
            serving = changed(rng, serving, chance._replace(lost=0.0))
        outcomes = [_outcomes(row) for row in (changed(rng, serving, chance), serving, anchor)]
        rejected += not decide(outcomes[0], outcomes[1], outcomes[2], settings).passed
    return rejected / trials


def changed(rng: np.random.Generator, right: np.ndarray, chance: Chance) -> np.ndarray:
    """The outcomes of the next version: of all answers `lost` more turn wrong than right."""
    gain = max(chance.changed / 2 - chance.lost / 2, 0.0)
    loss, share = gain + chance.lost, right.mean()
    draw = rng.random(len(right))
    return np.where(right, draw >= loss / max(share, 1e-9), draw < gain / max(1 - share, 1e-9))


def _outcomes(right: np.ndarray) -> Outcomes:
    return Outcomes(tuple(right.tolist()), (True,) * len(right))
