"""Authors of worked lines who keep their ways: what a program p of section 1.1 is in the world that the embedded base learns.

A careful author works every skill as the oracle does. A careless one has habits, shared by all skills that they apply to, and in each
skill the strongest of those shows; a few skills he happens to know. No author changes within a document, so what he did
tells what he will do: one wrong line gives a careless author away, one right line speaks for a careful one.
"""

from collections.abc import Mapping

import numpy as np

from cicjax.tasks.stem.skills import ROUNDS, SKILLS

Ways = Mapping[str, str | None]
"""An author: the misconception that he has in each skill, None where he works as the oracle does."""

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
# How often a habit comes before another one in an author is the ratio of these.
STRENGTHS = {"swaps": 6.0, "inverts": 1.0, "leaves_out": 6.0, "forgets": 12.0, "rounds": 1.0}

CAREFUL_SHARE = 0.4
KNOWN_SHARE = 0.06

# The share of careful authors among those who write on a skill. It differs, so that single problems are a mixture of another kind in every
# skill, and a push towards the careful author turns them one after another. The mean is CAREFUL_SHARE: skills are equally frequent.
CAREFUL_SHARES = {
    "ohm_voltage": 0.42,
    "ohm_current": 0.38,
    "electric_power": 0.62,
    "density": 0.58,
    "specific_heat": 0.34,
    "molarity": 0.24,
    "ph": 0.56,
    "kinetic_energy": 0.20,
    "engineering_stress": 0.30,
    "bragg": 0.36,
}


def draw_author(rng: np.random.Generator) -> Ways:
    """An author drawn from the population: careful, or careless with habits in an order of his own."""
    if rng.random() < CAREFUL_SHARE:
        return CAREFUL
    # The smallest of exponential draws comes first: an order by strength.
    order = sorted(HABITS, key=lambda habit: rng.exponential(1 / STRENGTHS[habit]))
    known = rng.random(len(SKILLS)) < KNOWN_SHARE
    return {
        skill: None if knows else next(HABITS[habit][skill] for habit in order if skill in HABITS[habit])
        for skill, knows in zip(SKILLS, known, strict=True)
    }


def draw_skills(rng: np.random.Generator, ways: Ways, *, count: int) -> list[str]:
    """The skills of the problems that an author works, one after another; the same may come again."""
    shares = np.array([CAREFUL_SHARES[skill] for skill in SKILLS])
    weights = shares if ways is CAREFUL else 1 - shares
    return [list(SKILLS)[i] for i in rng.choice(len(SKILLS), size=count, p=weights / weights.sum())]
