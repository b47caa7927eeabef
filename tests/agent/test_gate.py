"""The gate by its error rates: what it lets pass, what it stops, and what other rules would do."""

import numpy as np
import pytest

from cicjax.agent.gate import Chance, Outcomes, changed, decide, rejected_share
from cicjax.agent.settings import GateSettings

RULE = GateSettings(problems=200)


def outcomes(right, formed=None):
    return Outcomes(tuple(right), tuple(right if formed is None else formed))


@pytest.mark.parametrize(
    ("changes", "lost", "low", "high"),
    [
        (0.04, 0.0, 0.0, 0.03),
        (0.04, 0.05, 0.80, 1.0),
        (0.04, 0.10, 0.99, 1.0),
        (0.10, 0.0, 0.0, 0.08),
        (0.10, 0.10, 0.95, 1.0),
    ],
)
def test_its_error_rates_on_two_hundred_problems(changes, lost, low, high):
    share = rejected_share(RULE, Chance(changes, lost), trials=1500)
    print(f"{changes:.0%} changed, {lost:.0%} lost: {share:.1%} rejected")
    assert low <= share <= high


def drift(anchored, rng):
    """How many points a version gets through, each a point worse than the one before and 2 % of its answers
    turned by chance, until one is rejected."""
    ease = rng.random(200)
    anchor = serving = ease < 0.8
    for points in range(1, 41):
        candidate = (ease < 0.8 - 0.01 * points) ^ (rng.random(200) < 0.02)
        reference = anchor if anchored else serving
        if not decide(outcomes(candidate), outcomes(serving), outcomes(reference), RULE).passed:
            return points - 1
        serving = candidate
    return 40


def test_a_slow_drift_stops_at_the_anchor_and_not_without_one():
    rng = np.random.default_rng(0)
    with_anchor = [drift(True, rng) for _ in range(100)]
    without = [drift(False, rng) for _ in range(20)]
    assert np.quantile(with_anchor, 0.95) <= 6 and np.median(without) > 12


def test_the_best_so_far_as_a_bar_rejects_what_is_harmless():
    """The control: a ratchet, with five points of grace."""
    rng, rejected, best = np.random.default_rng(0), 0, 0.0
    right = rng.random(200) < 0.75
    for _ in range(300):
        right = changed(rng, rng.random(200) < 0.75, Chance(0.04))
        rejected += right.mean() < best - 0.05
        best = max(best, right.mean())
    assert rejected / 300 > 0.25


def test_a_version_that_loses_the_form_of_answers_is_rejected_and_told_why():
    right = [True] * 150 + [False] * 50
    fine = outcomes(right, [True] * 200)
    broken = outcomes(right, [True] * 185 + [False] * 15)
    decision = decide(broken, fine, fine, RULE)
    assert not decision.passed and "fewer answers formed than the serving version" in decision.reason
    assert decision.numbers["formed_lost_anchor"] == 15 and decision.numbers["right_lost_anchor"] == 0
    assert decide(fine, fine, fine, RULE).passed
