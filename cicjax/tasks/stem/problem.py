"""What a problem is: equation (4) of the paper, one record a row."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """One row of equation (4), and the numbers that it was made of.

    Args:
        question: q, without the protocol's prefixes.
        solution: y*, one worked line that ends in `Final answer: ...`, without an end-of-text.
        answer: alpha, in full precision; the solution shows it rounded.
        unit: u, as the solution spells it; None for a pure number.
        rel_tol, abs_tol: epsilon; the larger of `abs_tol` and `rel_tol * |answer|` counts.
        domain, skill: d and s; `skill` is a key of `SKILLS`.
        operands: the numbers of the question as printed; (skill, operands) is what splits are disjoint by.
    """

    question: str
    solution: str
    answer: float
    unit: str | None
    rel_tol: float
    abs_tol: float
    domain: str
    skill: str
    operands: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """`skill:operand,operand`: the same problem has the same id in every split, seed and phrasing."""
        return f"{self.skill}:{','.join(self.operands)}"
