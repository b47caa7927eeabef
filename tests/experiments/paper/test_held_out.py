"""Measures on text that nobody was trained on, by numbers made by hand."""

import numpy as np
import pytest

from cicjax.experiments.paper import held_out
from cicjax.experiments.paper.held_out import Probes


def scores(**rows):
    kinds = ("attempt", "direct", "repair", "placebo")
    return {kind: [np.asarray(row, float) for row in rows.get(kind, [])] for kind in kinds}


PROBES = Probes(rows={}, questions=["a", "a", "b"], leaves=[1, 0, 2])
START = scores(attempt=[[-1.0, -2.0], [-0.5]], direct=[[-1.0]], repair=[[-1.0]], placebo=[[-1.0]])


def test_a_method_that_is_sft_1_lies_at_no_distance_and_knows_nothing_more():
    told = held_out.summary(START, START, PROBES._replace(questions=["a"], leaves=[0]))
    assert told["kl_to_sft"] == 0
    assert told["held_out_nats"] == {"direct": 1.0, "repair": 1.0, "placebo": 1.0}
    assert told["usable_information"]["nats"] == 0


def test_the_distance_is_unbiased_and_positive():
    """Over all outcomes of a draw from SFT-1, each as often as it comes, the estimate is KL(SFT-1 ||
    method)."""
    first, other = np.array([0.5, 0.25, 0.25]), np.array([0.25, 0.5, 0.25])
    often = [0, 0, 1, 2]
    start, method = (scores(attempt=[[np.log(p[n])] for n in often]) for p in (first, other))
    exact = float((first * np.log(first / other)).sum())
    assert held_out.summary(method, start, PROBES)["kl_to_sft"] == pytest.approx(exact, abs=1e-6)
    assert held_out.summary(method, start, PROBES)["held_out_nats"] is None


def test_what_an_attempt_is_worth_and_where():
    method = scores(
        attempt=[],
        direct=[[-2.0, -2.0], [-2.0], [-2.0, -2.0]],
        repair=[[-1.0, -0.5], [-1.0], [-1.0, -1.0]],
        placebo=[[-1.0, -1.5], [-4.0], [-2.0, -2.0]],
    )
    told = held_out.summary(method, method, PROBES)
    assert told["held_out_nats"] == {"direct": 2.0, "repair": 0.9, "placebo": 2.1}
    worth = told["usable_information"]
    # Gains a token: (0, 1), (3), (1, 1). The third correction begins its attempt: it never leaves.
    assert worth["nats"] == pytest.approx(6 / 5)
    assert worth["where_it_leaves"] == pytest.approx((1 + 3) / 2)
    assert worth["elsewhere"] == pytest.approx((0 + 1 + 1) / 3)
    # Two questions: drawn twice each, or once both.
    assert worth["low"] == pytest.approx(2 / 2) and worth["high"] == pytest.approx(4 / 3)


def test_the_interval_covers_questions_not_rows():
    """Rows of one question are not drawn apart: 50 equal rows of one question count as one observation."""
    gains = [np.array([1.0])] * 50 + [np.array([0.0])]
    low, high = held_out._bootstrap(gains, ["a"] * 50 + ["b"])
    assert (low, high) == (0.0, 1.0)
