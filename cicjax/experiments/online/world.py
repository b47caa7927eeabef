"""The stream: which questions come when. Half of the skills were taught before it begins; the others come in
its second third, and all in its last. Every question comes once."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cicjax.errors import BadInput
from cicjax.tasks.task import Problem, Task

PHASES = ("known", "new", "mixed")


@dataclass(frozen=True, kw_only=True)
class Counts:
    """How much of everything; `events` come in three phases."""

    sft_rows: int
    events: int
    dev_problems: int
    evaluate_every: int


SCALES = {
    "paper": Counts(sft_rows=100, events=396, dev_problems=100, evaluate_every=10),
    "small": Counts(sft_rows=100, events=192, dev_problems=60, evaluate_every=8),
    "smoke": Counts(sft_rows=16, events=24, dev_problems=10, evaluate_every=3),
}


@dataclass(frozen=True, kw_only=True)
class World:
    """The seed's problems, of the known skills alone, the stream's, phase by phase, and those that are asked
    again and again."""

    known: tuple[str, ...]
    sft: tuple[Problem, ...]
    phases: tuple[tuple[Problem, ...], ...]
    dev: tuple[Problem, ...]

    @property
    def stream(self) -> tuple[Problem, ...]:
        """All questions in order."""
        return tuple(problem for phase in self.phases for problem in phase)


def make_world(task: Task, seed: int, counts: Counts) -> World:
    """The world of a seed. Raises BadInput for a task of fewer than two skills, or with too few problems."""
    third = counts.events // 3
    splits = task.splits(seed, sft=2 * counts.sft_rows, agent=4 * third, dev=counts.dev_problems, test=0)
    skills = sorted({problem.skill for problem in (*splits.sft, *splits.agent, *splits.dev)})
    if len(skills) < 2:
        raise BadInput(f"task {task.name} has {len(skills)} skill: the stream needs some to be new")
    order = np.random.default_rng([seed, len(skills)]).permutation(len(skills))
    known = {skills[i] for i in order[: len(skills) // 2]}
    old, new = _split(splits.agent, known)
    rest = (*old[third:], *new[third:])
    mixed = [rest[i] for i in np.random.default_rng([seed, third]).permutation(len(rest))[:third]]
    return World(
        known=tuple(sorted(known)),
        sft=tuple(problem for problem in splits.sft if problem.skill in known)[: counts.sft_rows],
        phases=(tuple(old[:third]), tuple(new[:third]), tuple(mixed)),
        dev=tuple(splits.dev),
    )


def _split(problems: Sequence[Problem], known: set[str]) -> tuple[list[Problem], list[Problem]]:
    old = [problem for problem in problems if problem.skill in known]
    return old, [problem for problem in problems if problem.skill not in known]
