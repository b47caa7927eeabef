"""The numbers that problems are made of: two small tables, and the operand tuples that follow from them.

Difficulty is set here and nowhere else. `PAPER` has numbers in the paper's manner (12.5 g, 98.0 g/mol, 0.25
L, 1.00e-04 M); `TINY` has numbers for a model of two million parameters that must know its arithmetic by
heart: few digits, nothing to round. The third pool is `catalogue`, in a file of its own.
"""

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from functools import cache

from cicjax.errors import BadInput
from cicjax.tasks.stem import catalogue
from cicjax.tasks.stem.arithmetic import tiny_figures
from cicjax.tasks.stem.catalogue import CATALOGUE
from cicjax.tasks.stem.skills import SKILLS


def _span(first: str, last: str, step: str) -> tuple[str, ...]:
    """The numbers from first to last in equal steps, all printed with the decimals of `first`."""
    low, high, width = Decimal(first), Decimal(last), Decimal(step)
    return tuple(str(low + width * i) for i in range(int((high - low) / width) + 1))


def _row(numbers: str) -> tuple[str, ...]:
    return tuple(numbers.split())


def _concentrations(mantissas: tuple[str, ...], powers: range) -> tuple[str, ...]:
    return tuple(f"{mantissa}e-{power:02d}" for power in powers for mantissa in mantissas)


@dataclass(frozen=True)
class Pool:
    """The choices for each operand, in the order of the question.

    `backwards`: the first choices are quotients; the first operand is the product of the first two choices,
    so that its quotient by the second comes out even.
    """

    choices: tuple[tuple[str, ...], ...]
    backwards: bool = False


def _pool(*choices: tuple[str, ...], backwards: bool = False) -> Pool:
    return Pool(choices, backwards)


PAPER: dict[str, Pool] = {
    "ohm_voltage": _pool(
        _row("0.2 0.4 0.8") + _span("1.5", "9.5", "0.5"),  # A
        _span("10", "99", "1"),  # ohm
    ),
    "ohm_current": _pool(
        _span("1.0", "60.0", "0.5"),  # V
        _row("2.0 2.5 4.0 5.0 6.0 8.0 10.0 12.0 15.0 16.0 20.0 25.0 30.0 40.0 50.0"),  # ohm
    ),
    "electric_power": _pool(
        _span("3", "99", "1"),  # V
        _row("0.2 0.4 0.8") + _span("1.5", "9.5", "0.5"),  # A
    ),
    "density": _pool(
        _span("10.0", "99.5", "0.5"),  # g
        _row("2.0 2.5 4.0 5.0 6.0 8.0 10.0 12.0 12.5 15.0 20.0 25.0"),  # cm^3
    ),
    "specific_heat": _pool(
        _span("10.0", "100.0", "5.0"),  # g
        _row("0.13 0.24 0.39 0.45 0.50 0.71 0.90 2.4 4.2"),  # J/(g K)
        _row("5.0 8.0 10.0 12.0 15.0 20.0 25.0 30.0 40.0 50.0 60.0 80.0"),  # K
    ),
    "molarity": _pool(
        _span("5.0", "50.0", "2.5"),  # g
        _row("18.0 32.0 36.5 40.0 46.0 56.0 58.5 60.0 63.0 74.5 80.0 98.0 100.0 180.0"),  # g/mol
        _row("0.10 0.20 0.25 0.30 0.40 0.50 0.75 0.80 1.0 1.5 2.0 2.5 4.0 5.0"),  # L
    ),
    "ph": _pool(
        _concentrations(_span("1.00", "9.99", "0.01"), range(1, 7)),  # M
    ),
    "kinetic_energy": _pool(
        _span("0.5", "30.0", "0.5"),  # kg
        _span("2", "30", "1"),  # m/s
    ),
    "engineering_stress": _pool(
        _span("150", "9900", "50"),  # N
        _row("10.0 12.0 12.5 15.0 20.0 25.0 30.0 40.0 50.0 60.0 80.0"),  # mm^2
    ),
    "bragg": _pool(
        _span("0.100", "0.420", "0.002"),  # nm
        _span("10", "60", "5"),  # degrees
    ),
}

TINY: dict[str, Pool] = {
    "ohm_voltage": _pool(_span("2", "9", "1"), _span("11", "99", "1")),
    "ohm_current": _pool(
        _span("2", "99", "1"), _row("0.2 0.4 0.5 2 3 4 5 6 7 8 9 10 11 12 15 20"), backwards=True
    ),
    "electric_power": _pool(_span("11", "99", "1"), _span("2", "9", "1")),
    "density": _pool(_span("1.1", "9.9", "0.1"), _span("2", "12", "1"), backwards=True),
    "specific_heat": _pool(
        _span("10", "90", "5"), _row("0.2 0.3 0.4 0.5 0.6 0.8 0.9 2 4"), _span("2", "20", "1")
    ),
    "molarity": _pool(
        _span("1.2", "9.8", "0.2"),
        _row("18 20 30 32 40 50 58 60 80 98 100"),
        _row("0.2 0.4 0.5 2 4 5"),
        backwards=True,
    ),
    "ph": _pool(_concentrations(_span("1.0", "9.9", "0.1"), range(1, 7))),
    "kinetic_energy": _pool(
        _row("0.2 0.4 0.6 0.8 1.2 1.4 1.6 1.8 2.2 2.4 2.6 2.8 3.2 3.4 3.6 4.2 4.4 4.8")
        + _span("2", "80", "1"),
        _span("2", "30", "1"),
    ),
    "engineering_stress": _pool(
        _span("11", "99", "1"), _span("2", "12", "1") + _row("15 20 25 30 40"), backwards=True
    ),
    # angles whose sines two figures state to within 0.7 %
    "bragg": _pool(
        _span("0.05", "0.49", "0.01") + _row("0.50 0.55 0.60 0.65 0.70 0.75 0.80 0.85 0.90 0.95"),
        _row("11.5 15 17.5 18 20 23.5 25 30 35 37 40 44.5 45 50 53 60 64"),
    ),
}

# One decimal in the mantissa of a pH, as the paper has it: fewer tuples, logarithms to be known by heart.
PRINTED = PAPER | {"ph": _pool(_concentrations(_span("1.0", "9.9", "0.1"), range(1, 7)))}
POOLS = {"paper": PAPER, "printed": PRINTED, "tiny": TINY}


@cache
def operand_tuples(skill: str, numbers: str = "paper") -> tuple[tuple[str, ...], ...]:
    """Every operand tuple of a skill, as printed, in a fixed order. Raises BadInput on an unknown skill or
    pool of numbers.

    Left out: tuples whose careful line strays from the answer by more than a third of the tolerance through
    its own rounding, and in `tiny` those with a result to round or, in any author's line, a number beyond
    three digits. In `catalogue` one operand is a name.
    """
    if numbers not in (*POOLS, CATALOGUE):
        raise BadInput(f"numbers={numbers!r}: choose one of {', '.join((*POOLS, CATALOGUE))}")
    if skill not in SKILLS:
        raise BadInput(f"skill {skill!r}: choose one of {', '.join(SKILLS)}")
    if numbers == CATALOGUE:
        return catalogue.questions_of(skill)
    fits = _fits_tiny if numbers == "tiny" else _fits
    return tuple(
        operands for operands in _candidates(POOLS[numbers][skill]) if fits(skill, operands, numbers)
    )


def _candidates(pool: Pool) -> Iterator[tuple[str, ...]]:
    for drawn in itertools.product(*pool.choices):
        if not pool.backwards:
            yield drawn
            continue
        product = Decimal(drawn[0]) * Decimal(drawn[1])
        if Decimal(dividend := tiny_figures(product)) == product:
            yield (dividend, *drawn[1:])


def _fits(skill: str, operands: tuple[str, ...], numbers: str) -> bool:
    record = SKILLS[skill]
    answer = record.formula(*map(float, operands))
    tolerance = max(record.abs_tol, record.rel_tol * abs(answer))
    return abs(record.solve(operands, numbers=numbers).answer - answer) <= tolerance / 3


def _fits_tiny(skill: str, operands: tuple[str, ...], numbers: str) -> bool:
    record = SKILLS[skill]
    authors = [
        record.solve(operands, numbers=numbers, misconception=name) for name in (None, *record.misconceptions)
    ]
    small = all(
        float(number) < 1000
        for work in authors
        for step in work.steps
        for number in re.findall(r"[0-9.]+", step)
    )
    return small and authors[0].exact and _fits(skill, operands, numbers)
