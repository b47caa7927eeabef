"""What the experiment on boxes is: its values and its arms."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, Literal

from cicjax.experiments.dialogues.settings import EMBEDDED_RATE, USED, check_flags
from cicjax.experiments.paper.flags import Flags
from cicjax.model.config import PROJECTIONS, LoRAConfig
from cicjax.provenance import weights
from cicjax.provenance.protocol import Weighting
from cicjax.provenance.transcript import Episode
from cicjax.runs import checks
from cicjax.tasks.boxes import world
from cicjax.training.policy import precision
from cicjax.training.steps import Optimization


@dataclass(frozen=True)
class Arm:
    """Rows as a function of (seed, count), and what a position weighs."""

    name: str
    rows: Callable[[int, int], list[Episode]]
    rule: weights.Rule

    @property
    def weighting(self) -> Weighting:
        return Weighting(self.rule, keep_echoes=True)


ARMS = (
    Arm("expert_all", partial(world.recorded, masked=False), weights.OBSERVATIONAL),
    Arm("expert_masked", partial(world.recorded, masked=True), weights.INTERVENTIONAL),
    Arm("own_all", world.own, weights.OBSERVATIONAL),
    Arm("own_masked", world.own, weights.INTERVENTIONAL),
    Arm("own_taught", world.taught, weights.INTERVENTIONAL),
)
SCALES = {"paper": (800, 2), "small": (400, 2), "smoke": (24, 1)}  # rows and epochs


@dataclass(frozen=True, kw_only=True)
class Settings:
    """One experiment at one seed. Together with the model's fingerprint this decides every number in
    results.json."""

    seed: int
    rows: int
    epochs: int
    dtype: Literal["bfloat16", "float32"]
    lora: LoRAConfig
    optimization: Optimization
    rows_per_update: int = 8
    reduction: Literal["update"] = "update"

    def record(self) -> dict[str, Any]:
        """Plain values, as they go into config.json and results.json."""
        return asdict(self)


def settings_of(flags: Flags) -> Settings:
    """Every value of the experiment. Raises BadInput for numbers that cannot be and for flags of another
    experiment."""
    check_flags(flags, USED)
    checks.check_names("projection", flags.lora_target_modules, PROJECTIONS)
    checks.check_counts(flags, "lora_r", "save_steps")
    checks.check_finite(flags, "learning_rate", "lora_alpha")
    checks.check_seed(flags.seed)
    rows, epochs = SCALES[flags.scale]
    usual = EMBEDDED_RATE if flags.embedded else Optimization.learning_rate
    rate = usual if flags.learning_rate is None else flags.learning_rate
    return Settings(
        seed=flags.seed,
        rows=rows,
        epochs=epochs,
        dtype=precision(flags.dtype, embedded=flags.embedded),
        lora=LoRAConfig(
            rank=flags.lora_r, alpha=flags.lora_alpha, target_modules=tuple(flags.lora_target_modules)
        ),
        optimization=replace(Optimization(), learning_rate=rate),
    )
