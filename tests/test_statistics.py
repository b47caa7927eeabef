"""Wilson's interval by its definition: the shares whose score test does not reject what was counted. The rest
by hand, cases and scipy."""

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from cicjax.statistics import (
    Z95,
    bootstrap,
    holm,
    mcnemar_p,
    replicates_needed,
    sign_flip_p,
    t_interval,
    wilson,
)


@pytest.mark.parametrize(
    ("successes", "trials"),
    [(0, 10), (1, 10), (42, 100), (63, 100), (85, 100), (100, 100), (7, 9), (500, 1000)],
)
def test_the_bounds_are_where_the_score_test_just_rejects(successes, trials):
    share = successes / trials
    for bound in wilson(successes, trials):
        if 0 < bound < 1:
            assert abs(share - bound) / math.sqrt(bound * (1 - bound) / trials) == pytest.approx(Z95)


def test_corners():
    assert wilson(0, 0) == (0.0, 1.0)
    assert wilson(0, 50)[0] == 0.0 and wilson(50, 50)[1] == 1.0
    low, high = wilson(85, 100)
    assert (round(low, 3), round(high, 3)) == (0.767, 0.907)
    with pytest.raises(ValueError, match="11 successes in 10 trials"):
        wilson(11, 10)


def test_mcnemar_is_the_binomial_test_of_the_questions_on_which_two_methods_differ():
    for gained, lost in [(0, 0), (1, 0), (5, 1), (3, 3), (25, 4), (0, 9), (140, 171)]:
        n = gained + lost
        chances = [math.comb(n, k) / 2**n for k in range(n + 1)]
        as_far = sum(p for k, p in enumerate(chances) if abs(k - n / 2) >= abs(gained - n / 2))
        assert mcnemar_p(gained, lost) == mcnemar_p(lost, gained) == pytest.approx(as_far)
    assert mcnemar_p(5, 0) == 2 / 32
    with pytest.raises(ValueError, match="-1 lost"):
        mcnemar_p(3, -1)


def test_t_interval_against_scipy_and_by_hand():
    values = [0.1, 0.4, -0.2, 0.25, 0.3, 0.0, 0.15, 0.2]
    mean, low, high = t_interval(values)
    expected = stats.t.interval(0.95, len(values) - 1, loc=np.mean(values), scale=stats.sem(values))
    assert (low, high) == pytest.approx(expected) and mean == pytest.approx(np.mean(values))
    # t of 1 and 2 degrees of freedom: 12.706 and 4.303.
    assert t_interval([1.0, 3.0]) == pytest.approx((2.0, 2 - 12.706, 2 + 12.706), abs=1e-3)
    assert t_interval([1.0, 2.0, 3.0])[2] == pytest.approx(2 + 4.303 / math.sqrt(3), abs=1e-3)
    assert t_interval([7.0]) == (7.0, -math.inf, math.inf) and t_interval([2.0, 2.0]) == (2.0, 2.0, 2.0)
    with pytest.raises(ValueError, match="no values"):
        t_interval([])


@given(st.lists(st.integers(-6, 6), min_size=1, max_size=9))
@settings(deadline=None, max_examples=60)
def test_sign_flips_against_all_patterns(counts):
    differences = [count / 7 for count in counts]
    seen = abs(sum(counts))
    patterns = [
        sum(sign * count for sign, count in zip(signs, counts, strict=True))
        for signs in product((1, -1), repeat=len(counts))
    ]
    assert sign_flip_p(differences) == sum(abs(total) >= seen for total in patterns) / len(patterns)


def test_sign_flips_of_many_seeds_and_of_too_many_sums():
    assert sign_flip_p([0.02] * 40) == 2 / 2**40
    with pytest.raises(ValueError, match="too many sums"):
        sign_flip_p([math.sqrt(n) for n in range(1, 40)])


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0] and holm([]) == []


@pytest.mark.parametrize(("gap", "spread"), [(0.1, 0.05), (0.02, 0.05), (-0.05, 0.1), (0.003, 0.04)])
def test_the_replicates_needed_are_the_first_that_suffice(gap, spread):
    def half(n: int) -> float:
        return float(stats.t.ppf(0.975, n - 1)) * spread / math.sqrt(n)

    n = replicates_needed(gap, spread)
    assert n is not None and half(n) < abs(gap) and (n == 2 or half(n - 1) >= abs(gap))
    assert replicates_needed(0.0, spread) is None and replicates_needed(1e-6, 1.0) is None


def test_the_bootstrap_against_all_resamples():
    values = [0.3, -1.2, 2.0, 0.7, 0.1]
    means = [sum(drawn) / 5 for drawn in product(values, repeat=5)]
    low, high = bootstrap(values, seed=0, resamples=200_000, level=0.9)
    assert (low, high) == pytest.approx(tuple(np.quantile(means, [0.05, 0.95])), abs=0.02)
    assert bootstrap(values, seed=0) == bootstrap(values, seed=0)
    assert bootstrap([2.0] * 4, seed=1) == (2.0, 2.0)
    with pytest.raises(ValueError, match="no values"):
        bootstrap([], seed=0)
