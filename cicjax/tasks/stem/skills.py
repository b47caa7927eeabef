"""The ten skills: how a question is put, how a careful author works it in one line, and how a careless one
goes wrong.

A misconception is an error of procedure: it uses the wrong rule and does the arithmetic right. An author
keeps his to the end, which is what a later document generator needs; the oracle has none. Questions and lines
keep the vocabulary of the paper's examples.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from cicjax.errors import BadInput
from cicjax.tasks.stem.arithmetic import NOTATIONS, Sheet

ROUNDS = "rounds_intermediate"


class Work(NamedTuple):
    """A worked line, the number it ends in, and its arithmetic.

    `exact`: no product, quotient or difference was rounded. `steps`: such as `12.5/98.0 = 0.128`, in order.
    """

    line: str
    answer: float
    steps: tuple[str, ...]
    exact: bool


@dataclass(frozen=True)
class Skill:
    """One skill s of equation (4).

    Args:
        questions: phrasings, each a format string over the operands.
        formula: the answer in full precision, from the operands as floats.
        write: (sheet, operands, misconception) -> (the line up to its result, the result as printed).
        misconceptions: the wrong ways `write` knows; the first misses the tolerance for nearly all operands.
        printed: `write` as the paper prints its lines, where those leave a step out.
    """

    domain: str
    unit: str | None
    questions: tuple[str, ...]
    formula: Callable[..., float]
    write: Callable[[Sheet, Sequence[str], str | None], tuple[str, str]]
    misconceptions: tuple[str, ...]
    rel_tol: float = 0.02
    abs_tol: float = 0.001
    printed: Callable[[Sheet, Sequence[str], str | None], tuple[str, str]] | None = None

    def solve(
        self, operands: Sequence[str], *, numbers: str = "paper", misconception: str | None = None
    ) -> Work:
        """The worked solution by the careful author, or by one with the named misconception. Raises BadInput
        on an unknown name."""
        if misconception is not None and misconception not in self.misconceptions:
            raise BadInput(
                f"misconception {misconception!r}: this skill knows {', '.join(self.misconceptions)}"
            )
        sheet = Sheet(NOTATIONS[numbers])
        write = self.printed if numbers == "printed" and self.printed else self.write
        text, result = write(sheet, operands, misconception)
        unit = f" {self.unit}" if self.unit else ""
        return Work(
            f"{text}{unit}. Final answer: {result}{unit}.", float(result), tuple(sheet.steps), sheet.exact
        )


def _ohm_voltage(sheet: Sheet, operands: Sequence[str], wrong: str | None) -> tuple[str, str]:
    current, resistance = operands
    if wrong == "divides":
        voltage = sheet.over(resistance, current)
        return f"V = R/I = {resistance}/{current} = {voltage}", voltage
    voltage = sheet.times(current, resistance)
    return f"V = I*R = {current}*{resistance} = {voltage}", voltage


def _ohm_current(sheet: Sheet, operands: Sequence[str], wrong: str | None) -> tuple[str, str]:
    voltage, resistance = operands
    if wrong == "multiplies":
        current = sheet.times(voltage, resistance)
        return f"I = V*R = {voltage}*{resistance} = {current}", current
    if wrong == "inverts":
        current = sheet.over(resistance, voltage)
        return f"I = R/V = {resistance}/{voltage} = {current}", current
    current = sheet.over(voltage, resistance)
    return f"I = V/R = {voltage}/{resistance} = {current}", current


def _electric_power(sheet: Sheet, operands: Sequence[str], wrong: str | None) -> tuple[str, str]:
    voltage, current = operands
    if wrong == "divides":
        power = sheet.over(voltage, current)
        return f"P = V/I = {voltage}/{current} = {power}", power
    power = sheet.times(voltage, current)
    return f"P = V*I = {voltage}*{current} = {power}", power


def _density(sheet: Sheet, operands: Sequence[str], wrong: str | None) -> tuple[str, str]:
    mass, volume = operands
    if wrong == "inverts":
        density = sheet.over(volume, mass)
        return f"rho = V/m = {volume}/{mass} = {density}", density
    if wrong == "ignores_volume":
        return f"rho = m/V = {mass}", mass
    density = sheet.over(mass, volume)
    return f"rho = m/V = {mass}/{volume} = {density}", density


def _specific_heat(sheet: Sheet, operands: Sequence[str], wrong: str | None) -> tuple[str, str]:
    mass, capacity, rise = operands
    per_kelvin = sheet.times(mass, capacity, rough=wrong == ROUNDS)
    start = f"m*c = {mass}*{capacity} = {per_kelvin}; q = m*c*dT"
    if wrong == "ignores_temperature":
        return f"{start} = {per_kelvin}", per_kelvin
    heat = sheet.times(per_kelvin, rise)
    return f"{start} = {per_kelvin}*{rise} = {heat}", heat


def _molarity(sheet: Sheet, operands: Sequence[str], wrong: str | None) -> tuple[str, str]:
    mass, molar_mass, volume = operands
    moles = sheet.over(mass, molar_mass, rough=wrong == ROUNDS)
    start = f"n = {mass}/{molar_mass} = {moles} mol; M = n/V"
    if wrong == "ignores_volume":
        return f"{start} = {moles}", moles
    molarity = sheet.over(moles, volume)
    return f"{start} = {moles}/{volume} = {molarity}", molarity


def _molarity_printed(sheet: Sheet, operands: Sequence[str], wrong: str | None) -> tuple[str, str]:
    """Without the second division's numbers: what goes wrong there can only be guessed from the result."""
    mass, molar_mass, volume = operands
    moles = sheet.over(mass, molar_mass, rough=wrong == ROUNDS)
    molarity = moles if wrong == "ignores_volume" else sheet.over(moles, volume)
    return f"n = {mass}/{molar_mass} = {moles} mol; M = n/V = {molarity}", molarity


def _ph_printed(sheet: Sheet, operands: Sequence[str], wrong: str | None) -> tuple[str, str]:
    """The logarithm of the whole concentration in one step."""
    (concentration,) = operands
    mantissa, exponent = concentration.split("e-")
    power, logarithm = str(int(exponent)), sheet.log10(mantissa)
    if wrong == "drops_sign":
        ph = sheet.minus(logarithm, power)
        return f"pH = log10([H+]) = log10({concentration}) = {ph}", ph
    ph = power if wrong == "ignores_mantissa" else sheet.minus(power, logarithm)
    return f"pH = -log10([H+]) = -log10({concentration}) = {ph}", ph


def _ph(sheet: Sheet, operands: Sequence[str], wrong: str | None) -> tuple[str, str]:
    (concentration,) = operands
    mantissa, exponent = concentration.split("e-")
    power = str(int(exponent))
    if wrong == "ignores_mantissa":
        return f"pH = -log10({concentration}) = {power}", power
    logarithm = sheet.log10(mantissa)
    if wrong == "drops_sign":
        ph = sheet.minus(logarithm, power)
        return f"pH = log10({mantissa}) - {power} = {logarithm} - {power} = {ph}", ph
    ph = sheet.minus(power, logarithm)
    return f"pH = {power} - log10({mantissa}) = {power} - {logarithm} = {ph}", ph


def _kinetic_energy(sheet: Sheet, operands: Sequence[str], wrong: str | None) -> tuple[str, str]:
    mass, speed = operands
    if wrong == "forgets_square":
        half = sheet.times("0.5", mass)
        energy = sheet.times(half, speed)
        return f"E = 0.5*{mass}*{speed} = {half}*{speed} = {energy}", energy
    square = sheet.times(speed, speed, rough=wrong == ROUNDS)
    start = f"v^2 = {speed}*{speed} = {square}; E ="
    if wrong == "forgets_half":
        energy = sheet.times(mass, square)
        return f"{start} {mass}*{square} = {energy}", energy
    half = sheet.times("0.5", mass)
    energy = sheet.times(half, square)
    return f"{start} 0.5*{mass}*{square} = {half}*{square} = {energy}", energy


def _engineering_stress(sheet: Sheet, operands: Sequence[str], wrong: str | None) -> tuple[str, str]:
    force, area = operands
    if wrong == "inverts":
        stress = sheet.over(area, force)
        return f"sigma = A/F = {area}/{force} = {stress}", stress
    if wrong == "ignores_area":
        return f"sigma = F/A = {force}", force
    stress = sheet.over(force, area)
    return f"sigma = F/A = {force}/{area} = {stress}", stress


def _bragg(sheet: Sheet, operands: Sequence[str], wrong: str | None) -> tuple[str, str]:
    spacing, angle = operands
    sine = sheet.sin(angle, rough=wrong == ROUNDS)
    start = f"sin({angle}) = {sine}; lambda ="
    if wrong == "forgets_two":
        wavelength = sheet.times(spacing, sine)
        return f"{start} {spacing}*{sine} = {wavelength}", wavelength
    double = sheet.times("2", spacing)
    wavelength = sheet.times(double, sine)
    return f"{start} 2*{spacing}*{sine} = {double}*{sine} = {wavelength}", wavelength


SKILLS: dict[str, Skill] = {
    "ohm_voltage": Skill(
        domain="physics",
        unit="V",
        questions=(
            "A current of {0} A flows through a resistor of {1} ohm. What is the voltage?",
            "A resistor of {1} ohm carries a current of {0} A. What is the voltage across it?",
        ),
        formula=lambda current, resistance: current * resistance,
        write=_ohm_voltage,
        misconceptions=("divides",),
    ),
    "ohm_current": Skill(
        domain="physics",
        unit="A",
        questions=(
            "A voltage of {0} V is applied to a resistor of {1} ohm. What is the current?",
            "A resistor of {1} ohm is connected to a supply of {0} V. What is the current through it?",
        ),
        formula=lambda voltage, resistance: voltage / resistance,
        write=_ohm_current,
        misconceptions=("multiplies", "inverts"),
    ),
    "electric_power": Skill(
        domain="physics",
        unit="W",
        questions=(
            "A device draws a current of {1} A at a voltage of {0} V. What is the electric power?",
            "A supply of {0} V delivers a current of {1} A. What is the electric power?",
        ),
        formula=lambda voltage, current: voltage * current,
        write=_electric_power,
        misconceptions=("divides",),
    ),
    "density": Skill(
        domain="materials",
        unit="g/cm^3",
        questions=(
            "A sample has a mass of {0} g and a volume of {1} cm^3. What is the density?",
            "A solid of volume {1} cm^3 has a mass of {0} g. What is its density?",
        ),
        formula=lambda mass, volume: mass / volume,
        write=_density,
        misconceptions=("inverts", "ignores_volume"),
    ),
    "specific_heat": Skill(
        domain="chemistry",
        unit="J",
        questions=(
            "{0} g of a substance (specific heat {1} J/(g K)) is heated by {2} K. What is the heat absorbed?",
            "A sample of {0} g (specific heat {1} J/(g K)) is warmed by {2} K. What is the heat needed?",
        ),
        formula=lambda mass, capacity, rise: mass * capacity * rise,
        write=_specific_heat,
        misconceptions=("ignores_temperature", ROUNDS),
    ),
    "molarity": Skill(
        domain="chemistry",
        unit="M",
        questions=(
            "{0} g of solute (molar mass {1} g/mol) is dissolved to make {2} L of solution. "
            "What is the molarity?",
            "A solution of {2} L contains {0} g of solute (molar mass {1} g/mol). What is the molarity?",
        ),
        formula=lambda mass, molar_mass, volume: mass / molar_mass / volume,
        write=_molarity,
        misconceptions=("ignores_volume", ROUNDS),
        printed=_molarity_printed,
    ),
    "ph": Skill(
        domain="chemistry",
        unit=None,
        questions=(
            "A strong acid solution has [H+] = {0} M. What is the pH?",
            "What is the pH of a strong acid solution with [H+] = {0} M?",
        ),
        formula=lambda concentration: -math.log10(concentration),
        write=_ph,
        misconceptions=("drops_sign", "ignores_mantissa"),
        # 2 % of a pH is a factor of 1.2 in concentration: the scale is logarithmic, so the absolute tolerance
        # is the one that counts
        rel_tol=0.0,
        abs_tol=0.02,
        printed=_ph_printed,
    ),
    "kinetic_energy": Skill(
        domain="physics",
        unit="J",
        questions=(
            "A body of mass {0} kg moves at {1} m/s. What is the kinetic energy?",
            "A body of {0} kg has a speed of {1} m/s. What is its kinetic energy?",
        ),
        formula=lambda mass, speed: 0.5 * mass * speed**2,
        write=_kinetic_energy,
        misconceptions=("forgets_half", "forgets_square", ROUNDS),
    ),
    "engineering_stress": Skill(
        domain="materials",
        unit="MPa",
        questions=(
            "A force of {0} N acts on a cross section of {1} mm^2. What is the engineering stress in MPa?",
            "A bar with a cross section of {1} mm^2 carries a load of {0} N. "
            "What is the engineering stress in MPa?",
        ),
        formula=lambda force, area: force / area,
        write=_engineering_stress,
        misconceptions=("inverts", "ignores_area"),
    ),
    "bragg": Skill(
        domain="materials",
        unit="nm",
        questions=(
            "X-rays show first-order Bragg diffraction at theta = {1} degrees from planes of spacing {0} "
            "nm. What is the wavelength?",
            "Planes of spacing {0} nm give first-order Bragg diffraction at theta = {1} degrees. "
            "What is the wavelength?",
        ),
        formula=lambda spacing, angle: 2 * spacing * math.sin(math.radians(angle)),
        write=_bragg,
        misconceptions=("forgets_two", ROUNDS),
    ),
}
