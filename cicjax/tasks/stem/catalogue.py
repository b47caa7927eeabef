"""A catalogue of parts and substances: questions that name what carries a constant instead of stating it.

`A voltage of 96 V is applied to resistor Rab.` How many ohm that are stands in no question. Everybody who
works such a problem begins with the constant that he believes in. Two constants a name are in circulation,
the true one and a rival; what is believed about one name tells nothing about another, nor whether its holder
is careful. So a few worked problems teach a few names, and no more. The numbers of a question fit every
constant that there is: they betray none.
"""

import itertools
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np

from cicjax.tasks.stem.skills import SKILLS, Work

CATALOGUE = "catalogue"
NOTATION = "tiny"
# A name is the letter of its kind with one of these. A name is one token of an embedded base, as a digit is.
ENDINGS = tuple(vowel + consonant for vowel in "aeiou" for consonant in "bdglmt")
# How many believe in the true constant of a name: in half of the names the fewer.
BELIEVED = (0.4, 0.6)
_TRUTH = 20260101  # seed of the constants, which are facts of the world


class Kind(NamedTuple):
    """What a skill's questions name.

    Args:
        noun: what is named.
        letter: the names are this letter and one of `ENDINGS`.
        place: the operand that a name stands for.
        choices: the numbers of each operand, as printed; at `place` the constants that there are.
        statement: how a line begins, over all operands.
        questions: phrasings, over the operands with the name in its place.
    """

    noun: str
    letter: str
    place: int
    choices: tuple[tuple[str, ...], ...]
    statement: str
    questions: tuple[str, ...]


def _row(values: str) -> tuple[str, ...]:
    return tuple(values.split())


def _whole(first: int, last: int, step: int) -> tuple[str, ...]:
    return tuple(str(number) for number in range(first, last + 1, step))


_AMPERES = _whole(2, 9, 1)
_DIVISORS = _row("2 4 5 8 10 20")  # of a multiple of four they leave at most one decimal
_MANTISSAS = tuple(f"{tenths / 10}" for tenths in range(12, 100, 2))
_ANGLES = _row("11.5 15 17.5 18 20 23.5 25 30 35 37 40 44.5 45 50 53 60 64")
_SPACINGS = _row("0.05 0.10 0.15 0.20 0.25 0.30 0.35 0.40 0.45 0.50")

KINDS: dict[str, Kind] = {
    "ohm_voltage": Kind(
        "Current source", "J", 0, (_AMPERES, _whole(11, 50, 1)), "I = {0} A",
        ("Current source {0} feeds a resistor of {1} ohm. What is the voltage?",
         "A resistor of {1} ohm is fed by current source {0}. What is the voltage across it?"),
    ),
    "ohm_current": Kind(
        "Resistor", "R", 1, (_whole(12, 98, 2), _row("0.2 0.4 0.5 2 4 5")), "R = {1} ohm",
        ("A voltage of {0} V is applied to resistor {1}. What is the current?",
         "Resistor {1} is connected to a supply of {0} V. What is the current through it?"),
    ),
    "electric_power": Kind(
        "Heater", "H", 1, (_whole(11, 50, 1), _AMPERES), "I = {1} A",
        ("Heater {1} runs at a voltage of {0} V. What is the electric power?",
         "A supply of {0} V feeds heater {1}. What is the electric power?"),
    ),
    "density": Kind(
        "Vial", "V", 1, (_whole(12, 100, 4), _DIVISORS), "V = {1} cm^3",
        ("A sample of {0} g fills vial {1}. What is the density?",
         "Vial {1} holds {0} g of a sample. What is its density?"),
    ),
    "specific_heat": Kind(
        "Substance", "X", 1, (_whole(10, 90, 10), _row("0.2 0.3 0.4 0.5 0.6 0.8 0.9 2"), _whole(2, 4, 1)),
        "c = {1} J/(g K)",
        ("{0} g of substance {1} is heated by {2} K. What is the heat absorbed?",
         "A sample of {0} g of substance {1} is warmed by {2} K. What is the heat needed?"),
    ),
    "molarity": Kind(
        "Solute", "Y", 1, (_whole(40, 400, 40), _row("20 25 40 50 80 100"), _row("0.2 0.5 2 5")),
        "molar mass = {1} g/mol",
        ("{0} g of solute {1} is dissolved to make {2} L of solution. What is the molarity?",
         "A solution of {2} L contains {0} g of solute {1}. What is the molarity?"),
    ),
    "ph": Kind(
        "Acid", "A", 1, (_MANTISSAS, _whole(1, 6, 1)), "[H+] = {0}e-0{1} M",
        ("The [H+] of a solution is {0} times that of acid {1}. What is the pH?",
         "What is the pH of a solution with {0} times the [H+] of acid {1}?"),
    ),
    "kinetic_energy": Kind(
        "Ball", "B", 0, (_row("0.2 0.4 0.6 0.8 2 4"), _whole(2, 15, 1)), "m = {0} kg",
        ("Ball {0} moves at {1} m/s. What is the kinetic energy?",
         "Ball {0} has a speed of {1} m/s. What is its kinetic energy?"),
    ),
    "engineering_stress": Kind(
        "Profile", "P", 1, (_whole(104, 196, 4), _DIVISORS), "A = {1} mm^2",
        ("A force of {0} N acts on profile {1}. What is the engineering stress in MPa?",
         "A bar of profile {1} carries a load of {0} N. What is the engineering stress in MPa?"),
    ),
    "bragg": Kind(
        "Crystal", "C", 0, (_SPACINGS, _ANGLES), "d = {0} nm",
        ("X-rays show first-order Bragg diffraction at theta = {1} degrees from crystal {0}. "
         "What is the wavelength?",
         "Crystal {0} gives first-order Bragg diffraction at theta = {1} degrees. What is the wavelength?"),
    ),
}  # fmt: skip


class Constant(NamedTuple):
    """What a name stands for, what it is also held to stand for, and how many hold the truth."""

    true: str
    rival: str
    believed: float


@cache
def constants(skill: str) -> dict[str, Constant]:
    """Name -> constant. All values are equally frequent, among the true ones and the rivals."""
    kind, size = KINDS[skill], len(ENDINGS)
    values = kind.choices[kind.place]
    rng = np.random.default_rng([_TRUTH, list(KINDS).index(skill)])
    true = rng.permutation(np.arange(size) % len(values))
    rival = (true + rng.integers(1, len(values), size)) % len(values)
    believed = rng.permutation(np.arange(size) % len(BELIEVED))
    return {
        kind.letter + ending: Constant(values[t], values[r], BELIEVED[b])
        for ending, t, r, b in zip(ENDINGS, true, rival, believed, strict=True)
    }


@cache
def questions_of(skill: str) -> tuple[tuple[str, ...], ...]:
    """The operands of every question, the name in its place."""
    place, choices = KINDS[skill].place, KINDS[skill].choices
    return tuple(itertools.product(*choices[:place], constants(skill), *choices[place + 1 :]))


@cache
def arithmetic_of(skill: str) -> tuple[tuple[str, ...], ...]:
    """The operands of every problem as `SKILLS` works it."""
    return tuple(_joined(skill, parts) for parts in itertools.product(*KINDS[skill].choices))


def stated(skill: str, operands: Sequence[str], constant: str | None = None) -> tuple[str, ...]:
    """A question's operands as `SKILLS` works them, with `constant` for the name; the true one by default."""
    return _joined(skill, _parts(skill, operands, constant))


def solve(
    skill: str, operands: Sequence[str], *, constant: str | None = None, misconception: str | None = None
) -> Work:
    """The worked line by who believes in `constant`, the true one by default, and states it first."""
    parts = _parts(skill, operands, constant)
    work = SKILLS[skill].solve(_joined(skill, parts), numbers=NOTATION, misconception=misconception)
    return work._replace(line=f"{KINDS[skill].statement.format(*parts)}; {work.line}")


def entry(skill: str, name: str, constant: str) -> str:
    """What a data sheet says of a name."""
    kind = KINDS[skill]
    one = ["1"] * len(kind.choices)  # a concentration is so many times the constant
    one[kind.place] = constant
    return f"{kind.noun} {name}: {kind.statement.format(*one)}."


def _parts(skill: str, operands: Sequence[str], constant: str | None) -> tuple[str, ...]:
    place = KINDS[skill].place
    value = constant or constants(skill)[operands[place]].true
    return (*operands[:place], value, *operands[place + 1 :])


def _joined(skill: str, parts: tuple[str, ...]) -> tuple[str, ...]:
    """A concentration is one operand, whose power of ten is the constant."""
    return (f"{parts[0]}e-0{parts[1]}",) if skill == "ph" else parts
