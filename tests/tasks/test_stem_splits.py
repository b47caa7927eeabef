"""Splits: disjoint, complete, balanced, and a function of the seed alone."""

import collections
import hashlib
import itertools
import os
import subprocess
import sys

import pytest

from cicjax.errors import BadInput
from cicjax.tasks import stem

BOTH = pytest.mark.parametrize("numbers", ["paper", "tiny", "catalogue"])
NAMES = ("sft", "agent", "dev", "test")


def rows(splits: stem.Splits) -> list[stem.Problem]:
    return [problem for name in NAMES for problem in getattr(splits, name)]


@BOTH
@pytest.mark.parametrize("seed", [*range(18), 1000, 2**40])
def test_disjoint_complete_balanced_and_solved_by_the_oracle(seed, numbers):
    splits = stem.make_splits(seed, sft=200, agent=200, dev=200, test=1000, numbers=numbers)
    assert [len(getattr(splits, name)) for name in NAMES] == [200, 200, 200, 1000]
    problems = rows(splits)
    assert (
        len({(problem.skill, problem.operands) for problem in problems})
        == len({problem.id for problem in problems})
        == 1600
    )
    for name in NAMES:
        shares = collections.Counter(problem.skill for problem in getattr(splits, name))
        assert set(shares.values()) == {len(getattr(splits, name)) // 10} and len(shares) == 10
    for problem in problems:
        verdict = stem.verify(problem, problem.solution)
        assert verdict.solved, (problem, verdict)
        assert problem.unit is None or verdict.unit == problem.unit
        assert "\n" not in problem.solution and "Final answer: " in problem.solution


@BOTH
def test_another_problems_solution_seldom_solves(numbers):
    problems = stem.make_splits(3, numbers=numbers).agent
    hits = sum(stem.verify(a, b.solution).solved for a, b in itertools.pairwise(problems))
    assert hits < 0.05 * len(problems)


def test_odd_counts_are_as_even_as_they_can_be():
    splits = stem.make_splits(5, sft=7, agent=0, dev=23, test=101)
    for name, count in {"sft": 7, "agent": 0, "dev": 23, "test": 101}.items():
        problems = getattr(splits, name)
        shares = collections.Counter(problem.skill for problem in problems)
        assert len(problems) == count
        assert all(count // 10 <= shares[skill] <= count // 10 + 1 for skill in stem.SKILLS)


def test_skills_are_mixed_and_phrasings_vary():
    problems = stem.make_splits(0).sft
    skills = [problem.skill for problem in problems]
    neighbours = sum(a == b for a, b in itertools.pairwise(skills))
    assert neighbours < 50  # 20 expected of a shuffle, 190 of sorted rows
    questions = {problem.question for problem in problems}
    for skill, record in stem.SKILLS.items():
        for phrasing in range(len(record.questions)):
            assert any(
                stem.make_problem(p.skill, p.operands, phrasing=phrasing).question in questions
                for p in problems
                if p.skill == skill
            )


def test_seeds_differ_and_repeat():
    assert stem.make_splits(0) == stem.make_splits(0)
    first, second = stem.make_splits(0), stem.make_splits(1)
    assert [p.id for p in first.sft] != [p.id for p in second.sft]


def test_a_longer_test_split_leaves_the_others_as_they_are():
    short, long = stem.make_splits(4, test=100), stem.make_splits(4, test=1000)
    assert (short.sft, short.agent, short.dev) == (long.sft, long.agent, long.dev)
    assert {p.id for p in short.test} < {p.id for p in long.test}


def test_the_hash_seed_does_not_matter():
    drawn = (
        "hashlib.sha256(repr([stem.make_splits(7, numbers=n) for n in ('paper', "
        "'tiny', 'catalogue')]).encode()).hexdigest()"
    )
    code = f"import hashlib; from cicjax.tasks import stem; print({drawn})"
    here = hashlib.sha256(
        repr([stem.make_splits(7, numbers=n) for n in ("paper", "tiny", "catalogue")]).encode()
    ).hexdigest()
    for hash_seed in ("1", "31337"):
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "PYTHONHASHSEED": hash_seed,
        }
        there = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
        )
        assert there.stdout.strip() == here


def test_running_out_names_the_skill():
    smallest = min(stem.SKILLS, key=lambda skill: len(stem.operand_tuples(skill, "tiny")))
    enough = 10 * len(stem.operand_tuples(smallest, "tiny"))
    assert len(stem.make_splits(0, sft=0, agent=0, dev=0, test=enough, numbers="tiny").test) == enough
    with pytest.raises(BadInput, match=f"skill {smallest} has {enough // 10} .* {enough // 10 + 1} asked"):
        stem.make_splits(0, sft=10, agent=0, dev=0, test=enough, numbers="tiny")


@pytest.mark.parametrize(
    "wrong", [{"seed": -1}, {"seed": 0.5}, {"sft": -10}, {"test": "100"}, {"numbers": "huge"}]
)
def test_bad_arguments_are_bad_input(wrong):
    with pytest.raises(BadInput, match=next(iter(wrong))):
        stem.make_splits(**wrong)


def test_arguments_are_positional_in_the_promised_order():
    splits = stem.make_splits(2, 10, 20, 30, 40, "tiny")
    assert [len(getattr(splits, name)) for name in NAMES] == [10, 20, 40, 30]
