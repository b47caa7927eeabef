"""Contrasts asked for beside the claims: over seeds and within each they are made of the same answers, and
what cannot be compared is refused in a line."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from cicjax.errors import BadInput
from cicjax.report import contrasts
from cicjax.statistics import Z95, paired_interval, t_interval

QUESTIONS = 40


def made(seed: int, **shares: float):
    """A run of these rows, each right by chance; natural and second turn are counts of no answers here."""
    rng = np.random.default_rng(seed)
    right = {name: [bool(x) for x in rng.random(QUESTIONS) < share] for name, share in shares.items()}
    methods = {
        name: SimpleNamespace(
            questions=QUESTIONS,
            solved=sum(each),
            natural_two_step=None if name == "old" else 7,
            second_turn=5 + seed,
            repair_solved=len(name),
        )
        for name, each in right.items()
    }
    direct = {name: {f"q{n}": each[n] for n in range(QUESTIONS)} for name, each in right.items()}
    return SimpleNamespace(seed=seed, folder=Path(f"seed-{seed}"), methods=methods, direct=direct)


RUNS = [made(seed, rest=0.7, sft=0.5, old=0.4) for seed in range(3)]


def test_over_seeds_and_within_them_are_the_same_answers():
    direct, natural, turn, repaired = contrasts.over_seeds(RUNS, "rest", "sft")
    inside = [contrasts.within(run, "rest", "sft") for run in RUNS]
    assert direct.by_seed == pytest.approx([(each.gained - each.lost) / QUESTIONS for each in inside])
    assert any(each.gained for each in inside) and any(each.lost for each in inside)
    assert (direct.mean, direct.low, direct.high) == pytest.approx(t_interval(direct.by_seed))
    assert natural.by_seed == turn.by_seed == (0.0,) * 3 and repaired.mean == pytest.approx(1 / QUESTIONS)
    back, *_ = contrasts.over_seeds(RUNS, "sft", "rest")
    assert back.by_seed == tuple(-d for d in direct.by_seed) and back.p == direct.p


def test_a_measure_that_a_row_has_not_is_left_out():
    assert [each.measure for each in contrasts.over_seeds(RUNS, "rest", "old")] == [
        *("direct", "second turn", "repaired")
    ]


def test_answers_are_compared_by_question_and_only_where_they_are_to_the_same():
    run = made(0, rest=0.7, sft=0.5)
    straight = contrasts.within(run, "rest", "sft")
    run.direct["sft"] = dict(reversed(run.direct["sft"].items()))
    assert contrasts.within(run, "rest", "sft") == straight
    del run.direct["sft"]["q3"]
    assert contrasts.within(run, "rest", "sft") is None
    run.direct = {}
    assert contrasts.within(run, "rest", "sft") is None


def test_the_interval_is_that_of_the_mean_of_differences_by_question():
    each = np.array([1] * 9 + [-1] * 4 + [0] * 27)
    difference, low, high = paired_interval(9, 4, 40)
    half = Z95 * each.std() / np.sqrt(len(each))
    assert (difference, low, high) == pytest.approx((each.mean(), each.mean() - half, each.mean() + half))
    assert paired_interval(0, 0, 3) == (0.0, 0.0, 0.0)
    for wrong in ((-1, 0, 5), (3, 3, 5), (0, 0, 0)):
        with pytest.raises(ValueError, match="gained and"):
            paired_interval(*wrong)


@pytest.mark.parametrize("word", ["rest", "rest:", ":rest", "rest:rest"])
def test_a_word_that_is_no_pair(word):
    with pytest.raises(BadInput, match="two different rows are needed, FIRST:SECOND"):
        contrasts.chosen([word], RUNS)


def test_a_row_that_one_run_has_not():
    assert contrasts.chosen(["rest:sft"], RUNS) == [("rest", "sft")]
    with pytest.raises(BadInput, match=r"'sft:grpo': seed-1 has no such row; it has rest, sft"):
        contrasts.chosen(["sft:grpo"], [made(0, sft=0.5, grpo=0.5), made(1, rest=0.5, sft=0.5)])
