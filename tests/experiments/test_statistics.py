"""Wilson's interval by its definition: the shares whose score test does not reject what was counted."""

import math

import pytest

from cicjax.experiments.statistics import Z95, wilson


@pytest.mark.parametrize(("successes", "trials"), [(0, 10), (1, 10), (42, 100), (63, 100), (85, 100), (100, 100), (7, 9), (500, 1000)])
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
