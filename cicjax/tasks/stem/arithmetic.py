"""Arithmetic as the author of a worked line does it: on numbers as they are printed, one step at a time.

A result is rounded when it is written down, and the next step starts from what was written. So every step of
a line is true of the numbers that the reader sees, and a model that follows the line needs nothing else.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal


@dataclass(frozen=True)
class Notation:
    """How numbers are written down.

    Args:
        show: text of a product, quotient or difference.
        places: decimals of a logarithm or a sine.
    """

    show: Callable[[Decimal], str]
    places: int


def _rounded(value: Decimal, places: int) -> Decimal:
    return value.quantize(Decimal(1).scaleb(-places), ROUND_HALF_UP)


def _trimmed(value: Decimal) -> str:
    return f"{value.normalize():f}"


def _one_figure(value: Decimal) -> str:
    return _trimmed(_rounded(value, -value.adjusted()))


def paper_figures(value: Decimal) -> str:
    """Three decimals below ten, four significant figures from there on: 0.128, 4.000, 30.25, 144.0 (section
    2.2 prints 0.250 and 4.000)."""
    return f"{_rounded(value, max(0, 3 - max(0, value.adjusted()))):f}"


def tiny_figures(value: Decimal) -> str:
    """At most three significant figures and no trailing zeros: 0.5, 36, 3.49, 144."""
    return _trimmed(_rounded(value, 2 - value.adjusted()))


_PAPER = Notation(paper_figures, places=3)
NOTATIONS = {"paper": _PAPER, "printed": _PAPER, "tiny": Notation(tiny_figures, places=2)}


class Sheet:
    """A sheet of scratch paper. Takes numbers as printed, returns results as printed, and remembers the
    steps.

    `rough=True` rounds a result to one significant figure before it is written down: the author who rounds on
    the way.

    Attributes:
        steps: the arithmetic so far, such as `12.5/98.0 = 0.128`.
        exact: no product, quotient or difference so far needed rounding.
    """

    def __init__(self, notation: Notation):
        self.notation = notation
        self.steps: list[str] = []
        self.exact = True

    def times(self, *factors: str, rough: bool = False) -> str:
        """a*b or a*b*c."""
        return self._write(
            "*".join(factors), math.prod((Decimal(factor) for factor in factors), start=Decimal(1)), rough
        )

    def over(self, dividend: str, divisor: str, rough: bool = False) -> str:
        """a/b."""
        return self._write(f"{dividend}/{divisor}", Decimal(dividend) / Decimal(divisor), rough)

    def minus(self, left: str, right: str) -> str:
        """a - b."""
        return self._write(f"{left} - {right}", Decimal(left) - Decimal(right), rough=False)

    def log10(self, number: str) -> str:
        """log10(a)."""
        return self._write_function(f"log10({number})", Decimal(number).log10(), rough=False)

    def sin(self, degrees: str, rough: bool = False) -> str:
        """sin(a), a in degrees."""
        return self._write_function(f"sin({degrees})", Decimal(math.sin(math.radians(float(degrees)))), rough)

    def _write(self, expression: str, value: Decimal, rough: bool) -> str:
        result = _one_figure(value) if rough else self.notation.show(value)
        self.exact &= Decimal(result) == value
        self.steps.append(f"{expression} = {result}")
        return result

    def _write_function(self, expression: str, value: Decimal, rough: bool) -> str:
        result = _one_figure(value) if rough else f"{_rounded(value, self.notation.places):f}"
        self.steps.append(f"{expression} = {result}")
        return result
