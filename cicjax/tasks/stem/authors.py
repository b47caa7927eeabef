"""Authors of worked lines who keep their ways: what a program p of section 1.1 is in the world that the
embedded base learns.

A careful author works every skill as the oracle does. A careless one has habits, each shared by the skills
that it applies to, and in a skill the strongest of those shows; a skill here and there he happens to know. No
author changes within a document, so what he did tells what he will do: one wrong line gives a careless author
away, and a right one speaks for a careful one.
"""

from collections.abc import Mapping

import numpy as np

from cicjax.tasks.stem.skills import ROUNDS, SKILLS

# An author: his misconception in each skill, None where he works as the oracle does.
Ways = Mapping[str, str | None]
CAREFUL: Ways = dict.fromkeys(SKILLS)

# habit -> how it shows in each skill that it applies to
HABITS: dict[str, dict[str, str]] = {
    "swaps": {"ohm_voltage": "divides", "ohm_current": "multiplies", "electric_power": "divides"},
    "inverts": {"ohm_current": "inverts", "density": "inverts", "engineering_stress": "inverts"},
    "leaves_out": {
        "density": "ignores_volume",
        "specific_heat": "ignores_temperature",
        "molarity": "ignores_volume",
        "ph": "ignores_mantissa",
        "kinetic_energy": "forgets_square",
        "engineering_stress": "ignores_area",
    },
    "forgets": {"ph": "drops_sign", "kinetic_energy": "forgets_half", "bragg": "forgets_two"},
    "rounds": {"specific_heat": ROUNDS, "molarity": ROUNDS, "kinetic_energy": ROUNDS, "bragg": ROUNDS},
}
# In an author, one habit is stronger than another as often as these are to each other.
STRENGTHS = {"swaps": 6.0, "inverts": 1.0, "leaves_out": 6.0, "forgets": 12.0, "rounds": 1.0}

CAREFUL_SHARE = 0.4
KNOWN_SHARE = 0.06

# How many of those who write on a skill are careful; the mean is CAREFUL_SHARE, so that all skills are
# equally frequent. With one share
# for all, the likeliest line to a lone question would be right in nearly every skill or in none, and a little
# tuning would turn them all at
# once. These put three skills on the right side from the start and leave the others ever further from it.
CAREFUL_SHARES = {
    "ohm_voltage": 0.47,
    "ohm_current": 0.37,
    "electric_power": 0.76,
    "density": 0.70,
    "specific_heat": 0.23,
    "molarity": 0.16,
    "ph": 0.70,
    "kinetic_energy": 0.12,
    "engineering_stress": 0.20,
    "bragg": 0.29,
}


def draw_author(rng: np.random.Generator, *, careful: float = CAREFUL_SHARE) -> Ways:
    """An author from a population of which so many are careful: one of those, or careless with habits of his
    own strength."""
    if rng.random() < careful:
        return CAREFUL
    # Of waiting times with these rates, the shortest belongs to each in proportion to its rate: the order of
    # the habits.
    waits = dict(zip(HABITS, rng.exponential(size=len(HABITS)) / list(STRENGTHS.values()), strict=True))
    known = rng.random(len(SKILLS)) < KNOWN_SHARE
    return {skill: None if knows else _way(skill, waits) for skill, knows in zip(SKILLS, known, strict=True)}


def _way(skill: str, waits: Mapping[str, float]) -> str:
    strongest = min((habit for habit in HABITS if skill in HABITS[habit]), key=lambda habit: waits[habit])
    return HABITS[strongest][skill]


def draw_skills(rng: np.random.Generator, ways: Ways, *, count: int) -> list[str]:
    """The skills that an author writes on, one after another; one may come again."""
    skills, shares = list(CAREFUL_SHARES), np.array(list(CAREFUL_SHARES.values()))
    weights = shares if ways is CAREFUL else 1 - shares
    return [skills[i] for i in rng.choice(len(skills), size=count, p=weights / weights.sum())]
