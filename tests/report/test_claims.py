"""The words for an outcome: by the interval, by Holm where it was promised, and never more than the number of
seeds allows."""

import numpy as np
import pytest

from cicjax.report import claims
from cicjax.statistics import sign_flip_p

WIGGLE = [0.01, -0.01, 0.02, -0.02, 0.0, 0.015, -0.015, 0.005]


def seeds(n: int, **gaps: float) -> list[dict[str, float]]:
    """Accuracies of n seeds: the interventional arm at 0.7, give or take a little, the others below it by
    their gap."""
    return [
        {"interventional": 0.7 + WIGGLE[k]} | {name: 0.7 - gap for name, gap in gaps.items()}
        for k in range(n)
    ]


def words(accuracies) -> dict[str, str]:
    return {outcome.claim.other: outcome.word for outcome in claims.outcomes(accuracies)}


def test_the_three_words_at_eight_seeds():
    found = claims.outcomes(seeds(8, observational=0.1, oracle_shared=-0.1, sft=0.0, grpo=0.05))
    assert {each.claim.other: each.word for each in found} == {
        "observational": "holds",
        "oracle_shared": "does not hold",
        "sft": "undecided",
        "grpo": "holds",
    }
    assert not any(each.descriptive for each in found)
    undecided = next(each for each in found if each.word == "undecided")
    assert undecided.low < 0 < undecided.high and undecided.needed is not None and undecided.needed > 8
    assert all(each.needed is None for each in found if each.word != "undecided")


def test_competitive_is_not_below_by_five_points():
    assert words(seeds(8, rest=-0.02)) == {"rest": "holds"}
    assert words(seeds(8, rest=-0.05)) == {"rest": "undecided"}
    assert words(seeds(8, rest=-0.08)) == {"rest": "does not hold"}


def test_holm_takes_all_four_confirmatory_claims_into_account_even_those_without_a_row():
    (only,) = claims.outcomes(seeds(8, observational=0.1))
    assert only.p == 2 / 2**8 and only.adjusted_p == 4 * only.p < claims.LEVEL
    exploratory = claims.outcomes(seeds(8, sft=0.1))[0]
    assert exploratory.adjusted_p is None and exploratory.word == "holds"


def test_an_interval_alone_does_not_confirm():
    """Seven gains and one loss: the interval is above 0, the exact test at the corrected level is not."""
    rows = [
        {"interventional": 0.7 + d, "observational": 0.7, "sft": 0.7}
        for d in (0.1, 0.11, 0.12, 0.1, 0.11, 0.12, 0.1, -0.01)
    ]
    found = {each.claim.other: each for each in claims.outcomes(rows)}
    assert (
        found["observational"].low > 0
        and found["observational"].p == sign_flip_p(found["observational"].differences) > 0.0125
    )
    assert (found["observational"].word, found["sft"].word) == ("undecided", "holds")
    assert found["observational"].needed is None  # The width of the interval is no obstacle.


def test_few_seeds_are_descriptive_and_one_says_nothing():
    found = claims.outcomes(seeds(3, observational=0.1, sft=0.0))
    assert [each.word for each in found] == ["holds", "undecided"] and all(each.descriptive for each in found)
    with pytest.raises(ValueError, match="no spread"):
        claims.outcomes(seeds(1, observational=0.1))


def test_only_rows_that_every_seed_has():
    rows = seeds(3, observational=0.1, sft=0.0)
    del rows[1]["sft"]
    assert list(words(rows)) == ["observational"]
    assert claims.outcomes([{"interventional": 0.5}, {"interventional": 0.6}]) == []


def test_pairs_within_a_seed():
    solved = {
        "interventional": [True, True, True, False, False],
        "sft": [True, False, False, True, False],
        "base": [True] * 5,
    }
    (pair,) = claims.pairs(solved)
    assert (pair.claim.other, pair.gained, pair.lost, pair.questions) == ("sft", 2, 1, 5) and pair.p == 1.0


def test_the_margin_of_provenance_has_words_for_both_sides_of_nothing():
    def found(gap, spread=0.1):
        rows = [{"interventional": 0.7 + spread * w, "mask_wrong": 0.7 - gap} for w in WIGGLE]
        (only,) = claims.outcomes(rows)
        return only.word, only.remark

    assert found(0.03) == ("holds", "")
    assert found(0.0) == ("does not hold", "errors suffice: within 2 points")
    assert found(-0.03) == ("does not hold", "its own correct words help")
    assert found(0.0, spread=3) == ("undecided", "")


def test_the_slope_over_dose_is_that_of_least_squares():
    rows = [{name: 0.8 - (0.2 + w) * dose + w for name, dose in claims.DOSES.items()} for w in WIGGLE]
    found = next(each for each in claims.outcomes(rows) if each.claim.terms)
    doses = list(claims.DOSES.values())
    lines = [-np.polyfit(doses, [row[name] for name in claims.DOSES], 1)[0] for row in rows]
    np.testing.assert_allclose(found.differences, lines, atol=5e-5)
    assert found.word == "holds" and found.mean == pytest.approx(0.2, abs=0.01)
    assert not any(pair.claim.terms for pair in claims.pairs({name: [True] for name in claims.DOSES}))


def test_under_an_exact_null_the_interval_covers_nothing_as_often_as_it_says():
    """2,000 experiments of eight seeds and 1,000 questions: two methods that are equally good at each seed,
    at a level of its own. The interval covers 0 in 93-97 %, and hardly one claim in forty is decided against
    the corrected level."""
    rng = np.random.default_rng(0)
    covered = confirmed = 0
    for _ in range(2000):
        level = rng.uniform(0.4, 0.9, size=8)
        solved = rng.binomial(1000, level, size=(2, 8)) / 1000
        rows = [{"interventional": a, "observational": b} for a, b in solved.T.tolist()]
        (found,) = claims.outcomes(rows)
        covered += found.low <= 0 <= found.high
        confirmed += found.word != "undecided"
    assert 0.93 <= covered / 2000 <= 0.97
    assert confirmed / 2000 <= 0.025
