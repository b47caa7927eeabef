"""What the paper claims, as contrasts between rows of the table, and the word for what came out.

A replicate is a seed that draws everything anew. A claim *holds* if the interval of the mean paired
difference lies above its bound, *does not hold* if it lies below, and is *undecided* otherwise. With fewer
than `ENOUGH` replicates the word describes the runs at hand, no more.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from cicjax.statistics import deviation, holm, mcnemar_p, replicates_needed, sign_flip_p, t_interval

Word = Literal["holds", "does not hold", "undecided"]
ENOUGH = 8
LEVEL = 0.05


class Claim(NamedTuple):
    """`method` minus `other`, share of questions solved directly, lies above `bound`.

    With `terms` it is a weighted sum of several rows, called `contrast`. With a `margin` an interval within
    it on both sides refutes the claim for all that matters, in the words of `within`; one below 0 says
    `below`.
    """

    text: str
    method: str
    other: str
    bound: float = 0.0
    confirmatory: bool = False
    terms: tuple[tuple[str, float], ...] = ()
    contrast: str = ""
    margin: float | None = None
    within: str = ""
    below: str = ""

    @property
    def rows(self) -> tuple[str, ...]:
        """The rows of the table that it speaks of."""
        return tuple(name for name, _ in self.terms) or (self.method, self.other)

    def difference(self, accuracies: Mapping[str, float]) -> float:
        """The contrast at one seed; a weighted one to a hundredth of a point, so that its sums stay
        countable."""
        if not self.terms:
            return accuracies[self.method] - accuracies[self.other]
        return round(math.fsum(weight * accuracies[name] for name, weight in self.terms), 4)


def slope(doses: Mapping[str, float]) -> tuple[tuple[str, float], ...]:
    """The terms of the least-squares slope of accuracy over these doses, with its sign turned: what a whole
    dose costs."""
    middle = math.fsum(doses.values()) / len(doses)
    spread = math.fsum((dose - middle) ** 2 for dose in doses.values())
    return tuple((name, -(dose - middle) / spread) for name, dose in doses.items())


DOSES = {"interventional": 0.0, "dose_0.03": 0.03, "dose_0.1": 0.1, "dose_0.3": 0.3, "observational": 1.0}
CLAIMS = (
    Claim("the mask matters", "interventional", "observational", confirmatory=True),
    Claim("correction context matters", "interventional", "oracle_shared", confirmatory=True),
    Claim("competitive with ReST", "interventional", "rest", bound=-0.05, confirmatory=True),
    Claim("better than simply training more", "interventional", "sft2", confirmatory=True),
    Claim("a stream agent is viable", "interventional", "sft"),
    Claim("stronger than GRPO", "interventional", "grpo"),
    Claim(
        "provenance, beyond filtering errors",
        *("interventional", "mask_wrong"),
        margin=0.02,
        within="errors suffice: within 2 points",
        below="its own correct words help",
    ),
    Claim("the context carries repair information", "interventional", "shuffled"),
    Claim(
        "more of one's own mistakes is worse",
        *("interventional", "observational"),
        terms=slope(DOSES),
        contrast="loss over a whole dose",
    ),
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
    remark: str = ""


class Pair(NamedTuple):
    """A claim within one seed: questions that only the one method solved, only the other, and McNemar's exact
    p."""

    claim: Claim
    gained: int
    lost: int
    questions: int
    p: float


def possible(methods: Mapping[str, Any] | set[str]) -> list[Claim]:
    """The claims whose rows are all there."""
    return [claim for claim in CLAIMS if all(name in methods for name in claim.rows)]


def outcomes(accuracies: Sequence[Mapping[str, float]]) -> list[Outcome]:
    """Every possible claim over the seeds' accuracies by method. Raises ValueError for fewer than two
    seeds."""
    if len(accuracies) < 2:
        raise ValueError("one seed has no spread")
    claims = possible(set.intersection(*(set(each) for each in accuracies)))
    differences = [tuple(map(claim.difference, accuracies)) for claim in claims]
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
    remark = ""
    if significant and low > claim.bound:
        word = "holds"
    elif significant and high < claim.bound:
        word, remark = "does not hold", claim.below
    elif claim.margin is not None and -claim.margin < low and high < claim.margin:
        word, remark = "does not hold", claim.within
    needed = replicates_needed(mean - claim.bound, deviation(differences)) if word == "undecided" else None
    if needed is not None and needed <= len(differences):
        # Narrow enough, and still short of the corrected level: the width alone cannot say how many more.
        needed = None
    return Outcome(claim, differences, mean, low, high, p, adjusted_p, word, descriptive, needed, remark)


def pairs(solved: Mapping[str, Sequence[bool]]) -> list[Pair]:
    """Every possible claim of two rows within one seed; `solved` holds each method's direct verdicts on the
    same questions in the same order."""
    claims = (claim for claim in possible(set(solved)) if not claim.terms)
    return [pair_of(claim, solved[claim.method], solved[claim.other]) for claim in claims]


def pair_of(claim: Claim, method: Sequence[bool], other: Sequence[bool]) -> Pair:
    """The verdicts on both rows' answers to the same questions, in the same order, compared. Raises
    ValueError where they are not as many."""
    both = list(zip(method, other, strict=True))
    gained, lost = sum(a and not b for a, b in both), sum(b and not a for a, b in both)
    return Pair(claim, gained, lost, len(both), mcnemar_p(gained, lost))
