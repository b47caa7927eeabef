"""What the paper claims, as contrasts between two rows of the table, and the word for what came out.

A replicate is a seed that draws everything anew. A claim *holds* if the interval of the mean paired
difference lies above its bound, *does not hold* if it lies below, and is *undecided* otherwise. With fewer
than `ENOUGH` replicates the word describes the runs at hand, no more.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from cicjax.statistics import deviation, holm, mcnemar_p, replicates_needed, sign_flip_p, t_interval

Word = Literal["holds", "does not hold", "undecided"]
ENOUGH = 8
LEVEL = 0.05


class Claim(NamedTuple):
    """`method` minus `other`, share of questions solved directly, lies above `bound`."""

    text: str
    method: str
    other: str
    bound: float = 0.0
    confirmatory: bool = False


CLAIMS = (
    Claim("the mask matters", "interventional", "observational", confirmatory=True),
    Claim("correction context matters", "interventional", "oracle_shared", confirmatory=True),
    Claim("competitive with ReST", "interventional", "rest", bound=-0.05, confirmatory=True),
    Claim("better than simply training more", "interventional", "sft2", confirmatory=True),
    Claim("a stream agent is viable", "interventional", "sft"),
    Claim("stronger than GRPO", "interventional", "grpo"),
)
MASK = CLAIMS[0]
PLANNED = sum(claim.confirmatory for claim in CLAIMS)


class Outcome(NamedTuple):
    """A claim over several seeds. `adjusted_p` is Holm's, for confirmatory claims; `needed` replicates would
    decide an undecided one."""

    claim: Claim
    differences: tuple[float, ...]
    mean: float
    low: float
    high: float
    p: float
    adjusted_p: float | None
    word: Word
    descriptive: bool
    needed: int | None


class Pair(NamedTuple):
    """A claim within one seed: questions that only the one method solved, only the other, and McNemar's exact
    p."""

    claim: Claim
    gained: int
    lost: int
    questions: int
    p: float


def possible(methods: Mapping[str, Any] | set[str]) -> list[Claim]:
    """The claims whose two rows are there."""
    return [claim for claim in CLAIMS if claim.method in methods and claim.other in methods]


def outcomes(accuracies: Sequence[Mapping[str, float]]) -> list[Outcome]:
    """Every possible claim over the seeds' accuracies by method. Raises ValueError for fewer than two
    seeds."""
    if len(accuracies) < 2:
        raise ValueError("one seed has no spread")
    claims = possible(set.intersection(*(set(each) for each in accuracies)))
    differences = [tuple(each[claim.method] - each[claim.other] for each in accuracies) for claim in claims]
    p_values = [
        sign_flip_p([d - claim.bound for d in ds]) for claim, ds in zip(claims, differences, strict=True)
    ]
    # A confirmatory claim whose rows are missing still takes its share of the level: the family was chosen
    # before the runs.
    family = [p for claim, p in zip(claims, p_values, strict=True) if claim.confirmatory]
    adjusted = iter(holm(family + [1.0] * (PLANNED - len(family))))
    return [
        _outcome(claim, ds, p, next(adjusted) if claim.confirmatory else None)
        for claim, ds, p in zip(claims, differences, p_values, strict=True)
    ]


def _outcome(claim: Claim, differences: tuple[float, ...], p: float, adjusted_p: float | None) -> Outcome:
    mean, low, high = t_interval(differences)
    descriptive = len(differences) < ENOUGH
    # No sign-flip test of a few seeds can pass a corrected level; the interval alone describes them.
    significant = descriptive or adjusted_p is None or adjusted_p < LEVEL
    word: Word = "undecided"
    if significant and low > claim.bound:
        word = "holds"
    elif significant and high < claim.bound:
        word = "does not hold"
    needed = replicates_needed(mean - claim.bound, deviation(differences)) if word == "undecided" else None
    if needed is not None and needed <= len(differences):
        # Narrow enough, and still short of the corrected level: the width alone cannot say how many more.
        needed = None
    return Outcome(claim, differences, mean, low, high, p, adjusted_p, word, descriptive, needed)


def pairs(solved: Mapping[str, Sequence[bool]]) -> list[Pair]:
    """Every possible claim within one seed; `solved` holds each method's direct verdicts on the same
    questions in the same order."""
    contrasts = []
    for claim in possible(set(solved)):
        both = list(zip(solved[claim.method], solved[claim.other], strict=True))
        gained, lost = sum(a and not b for a, b in both), sum(b and not a for a, b in both)
        contrasts.append(Pair(claim, gained, lost, len(both), mcnemar_p(gained, lost)))
    return contrasts
