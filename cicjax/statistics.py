"""Intervals and tests for what was counted on one set of questions and for what was repeated over seeds."""

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
from scipy.special import stdtrit

Z95 = 1.959963984540054
MOST_SUMS = 1 << 20
MOST_REPLICATES = 10_000


def wilson(successes: int, trials: int, z: float = Z95) -> tuple[float, float]:
    """Wilson's score interval for a proportion: (low, high), both in [0, 1]. Without trials nothing is known:
    (0, 1).

    Raises ValueError unless 0 <= successes <= trials.
    """
    if not 0 <= successes <= trials:
        raise ValueError(f"{successes} successes in {trials} trials")
    if trials == 0:
        return 0.0, 1.0
    share, spread = successes / trials, z * z / trials
    centre = share + spread / 2
    half = z * math.sqrt(share * (1 - share) / trials + spread / (4 * trials))
    low, high = (centre - half) / (1 + spread), (centre + half) / (1 + spread)
    return (0.0 if successes == 0 else low), (1.0 if successes == trials else high)


def mcnemar_p(gained: int, lost: int) -> float:
    """Exact two-sided p of McNemar's test: of the questions on which two methods differ, either wins with
    probability 1/2.

    Without a difference it is 1. Raises ValueError for negative counts.
    """
    if min(gained, lost) < 0:
        raise ValueError(f"{gained} gained and {lost} lost")
    trials = gained + lost
    tail = sum(math.comb(trials, k) for k in range(min(gained, lost) + 1))
    return min(1.0, 2 * tail / 2**trials)


def paired_interval(gained: int, lost: int, questions: int, z: float = Z95) -> tuple[float, float, float]:
    """(difference, low, high) of two methods' shares solved of the same questions, by the normal
    approximation to the difference of paired proportions: it speaks of these questions' like, not of other
    seeds.

    Raises ValueError where the questions cannot differ so.
    """
    if min(gained, lost) < 0 or gained + lost > questions or not questions:
        raise ValueError(f"{gained} gained and {lost} lost of {questions}")
    difference = (gained - lost) / questions
    half = z * math.sqrt(gained + lost - (gained - lost) ** 2 / questions) / questions
    return difference, difference - half, difference + half


def worse_p(gained: int, lost: int) -> float:
    """Exact one-sided p of McNemar's test against being worse: the probability of so many losses or more
    among the questions that differ, were either side as likely. Raises ValueError for negative counts."""
    if min(gained, lost) < 0:
        raise ValueError(f"{gained} gained and {lost} lost")
    trials = gained + lost
    return sum(math.comb(trials, k) for k in range(lost, trials + 1)) / 2**trials


def t_interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float, float]:
    """(mean, low, high) of Student's interval for the mean of `values`. One value says nothing of its spread:
    low and high are infinite.

    Raises ValueError where there is no value.
    """
    if not values:
        raise ValueError("no values")
    n = len(values)
    mean = math.fsum(values) / n
    if n == 1:
        return mean, -math.inf, math.inf
    half = float(stdtrit(n - 1, (1 + level) / 2)) * deviation(values) / math.sqrt(n)
    return mean, mean - half, mean + half


def deviation(values: Sequence[float]) -> float:
    """Standard deviation of a sample, with n - 1 below. Raises ValueError for fewer than two values."""
    if len(values) < 2:
        raise ValueError(f"no deviation from {len(values)} values")
    mean = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))


def bootstrap(
    values: Sequence[float], *, seed: int, resamples: int = 10_000, level: float = 0.95
) -> tuple[float, float]:
    """(low, high) of the percentile interval of the mean of `values`, by resampling them with replacement.

    A function of its arguments. Raises ValueError where there is no value.
    """
    if not len(values):
        raise ValueError("no values")
    drawn = np.random.default_rng([seed, len(values)]).integers(len(values), size=(resamples, len(values)))
    means = np.asarray(values, np.float64)[drawn].mean(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def sign_flip_p(differences: Sequence[float]) -> float:
    """Exact two-sided p of the sign-flip test: the share of the 2^n sign patterns whose sum lies at least as
    far from 0 as the one seen.

    Patterns with equal sums are counted together, so that shares of a common number of questions stay cheap
    for many seeds. Raises ValueError where there are more than a million different sums.
    """
    sums: Counter[float] = Counter({0.0: 1})
    for difference in differences:
        following: Counter[float] = Counter()
        for total, patterns in sums.items():
            for signed in (total + difference, total - difference):
                following[round(signed, 9)] += patterns
        if len(following) > MOST_SUMS:
            raise ValueError(f"{len(differences)} differences have too many sums for an exact test")
        sums = following
    seen = abs(math.fsum(differences)) - 1e-8
    return sum(patterns for total, patterns in sums.items() if abs(total) >= seen) / 2 ** len(differences)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values, in the order given: all those below a level may be called significant
    together at that level."""
    order = sorted(range(len(p_values)), key=lambda n: p_values[n])
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, n in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[n]))
        adjusted[n] = largest
    return adjusted


def replicates_needed(gap: float, spread: float, level: float = 0.95) -> int | None:
    """The fewest replicates whose t-interval has half a width below |gap|, should their standard deviation
    stay `spread`.

    None where ten thousand are not enough.
    """

    def suffices(n: int) -> bool:
        return float(stdtrit(n - 1, (1 + level) / 2)) * spread / math.sqrt(n) < abs(gap)

    low, high = 1, MOST_REPLICATES
    if not suffices(high):
        return None
    # Half the width falls with n: bisection keeps `suffices(high)` and not `suffices(low)`.
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if suffices(middle) else (middle, high)
    return high
