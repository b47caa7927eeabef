"""Splits of equation (5): drawn from a seed alone, disjoint by (skill, operands), balanced over the
skills."""

import operator
from collections.abc import Iterator, Sequence

import numpy as np

from cicjax.errors import BadInput
from cicjax.tasks.stem import catalogue
from cicjax.tasks.stem.catalogue import CATALOGUE
from cicjax.tasks.stem.pools import operand_tuples
from cicjax.tasks.stem.problem import Problem
from cicjax.tasks.stem.skills import SKILLS
from cicjax.tasks.task import Splits

# first words of the random streams, so that no two draws share one
_DECK, _SHARES, _ORDER = range(3)


def make_problem(
    skill: str, operands: Sequence[str], *, numbers: str = "paper", phrasing: int = 0
) -> Problem:
    """The row of equation (4) for one operand tuple, with the oracle's solution; `phrasing` indexes the
    skill's questions."""
    record = SKILLS[skill]
    if numbers == CATALOGUE:
        questions, stated = catalogue.KINDS[skill].questions, catalogue.stated(skill, operands)
        work = catalogue.solve(skill, operands)
    else:
        questions, stated = record.questions, operands
        work = record.solve(operands, numbers=numbers)
    return Problem(
        question=questions[phrasing].format(*operands),
        solution=work.line,
        answer=record.formula(*map(float, stated)),
        unit=record.unit,
        rel_tol=record.rel_tol,
        abs_tol=record.abs_tol,
        domain=record.domain,
        skill=skill,
        operands=tuple(operands),
    )


def make_splits(
    seed: int = 0, sft: int = 200, agent: int = 200, test: int = 100, dev: int = 200, numbers: str = "paper"
) -> Splits[Problem]:
    """Disjoint splits with as many problems of each skill as the counts allow, in a shuffled order; a
    function of the arguments alone.

    A longer test split leaves the other splits as they are. Raises BadInput, naming the skill, where a skill
    has too few operand tuples.
    """
    counts = {"sft": sft, "agent": agent, "dev": dev, "test": test}
    _check(seed, counts)
    shares = {split: _shares(seed, i, count) for i, (split, count) in enumerate(counts.items())}
    rows: dict[str, list[Problem]] = {split: [] for split in counts}
    for index, skill in enumerate(SKILLS):
        wanted = {split: shares[split][index] for split in counts}
        deck = _deck(seed, skill, numbers=numbers, size=sum(wanted.values()))
        for split, count in wanted.items():
            rows[split] += [next(deck) for _ in range(count)]
    return Splits(**{split: _shuffled(seed, i, problems) for i, (split, problems) in enumerate(rows.items())})


def _check(seed: int, counts: dict[str, int]) -> None:
    for name, value in {"seed": seed, **counts}.items():
        try:
            whole = operator.index(value)
        except TypeError:
            whole = -1
        if whole < 0:
            raise BadInput(f"{name}={value!r}: give a whole number, 0 or more")


def _shares(seed: int, split_index: int, count: int) -> list[int]:
    """How many problems each skill gives to a split; the odd ones go to skills drawn at random."""
    favoured = np.random.default_rng([_SHARES, seed, split_index]).permutation(len(SKILLS))[
        : count % len(SKILLS)
    ]
    return [count // len(SKILLS) + (i in favoured) for i in range(len(SKILLS))]


def _deck(seed: int, skill: str, *, numbers: str, size: int) -> Iterator[Problem]:
    """The skill's problems in an order drawn from the seed, each operand tuple once."""
    tuples = operand_tuples(skill, numbers)
    if size > len(tuples):
        raise BadInput(
            f"skill {skill} has {len(tuples)} distinct operand tuples with numbers={numbers!r}, {size} asked"
            " (a tenth of sft + agent + dev + test): ask for fewer problems"
        )
    rng = np.random.default_rng([_DECK, seed, list(SKILLS).index(skill)])
    order = rng.permutation(len(tuples))
    phrasings = rng.integers(len(SKILLS[skill].questions), size=len(tuples))
    return (make_problem(skill, tuples[i], numbers=numbers, phrasing=int(phrasings[i])) for i in order)


def _shuffled(seed: int, split_index: int, problems: list[Problem]) -> tuple[Problem, ...]:
    order = np.random.default_rng([_ORDER, seed, split_index]).permutation(len(problems))
    return tuple(problems[i] for i in order)
