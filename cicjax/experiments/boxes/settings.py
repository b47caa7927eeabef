"""What the experiment on boxes is: its values and its arms."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from cicjax.experiments import chats
from cicjax.experiments.paper.flags import Flags
from cicjax.provenance import weights
from cicjax.provenance.transcript import Episode
from cicjax.tasks.boxes import world


@dataclass(frozen=True)
class Arm(chats.Arm):
    """Rows as a function of (seed, count), and what a position weighs."""

    rows: Callable[[int, int], list[Episode]]


ARMS = (
    Arm("expert_all", weights.OBSERVATIONAL, partial(world.recorded, masked=False)),
    Arm("expert_masked", weights.INTERVENTIONAL, partial(world.recorded, masked=True)),
    Arm("own_all", weights.OBSERVATIONAL, world.own),
    Arm("own_masked", weights.INTERVENTIONAL, world.own),
    Arm("own_taught", weights.INTERVENTIONAL, world.taught),
)
SCALES = {"paper": (800, 2), "small": (400, 2), "smoke": (24, 1)}  # rows and epochs


@dataclass(frozen=True, kw_only=True)
class Settings(chats.Settings):
    """Also how many rows, how often."""

    rows: int
    epochs: int


def settings_of(flags: Flags) -> Settings:
    """Every value of the experiment. Raises BadInput for numbers that cannot be and for flags of another
    experiment."""
    rows, epochs = SCALES[flags.scale]
    return Settings(**chats.values_of(flags), rows=rows, epochs=epochs)
