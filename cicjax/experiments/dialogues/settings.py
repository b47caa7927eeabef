"""What the experiment on dialogues is: every value that its results depend on, and its arms."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

from cicjax.errors import BadInput
from cicjax.experiments.paper.flags import Flags
from cicjax.model.config import PROJECTIONS, LoRAConfig
from cicjax.provenance import weights
from cicjax.provenance.protocol import Weighting
from cicjax.provenance.transcript import Episode
from cicjax.runs import checks
from cicjax.tasks.dialogues.build import Plan, build, without_agent
from cicjax.training.policy import precision
from cicjax.training.steps import Optimization

# The embedded base was pretrained on other text than these dialogues and needs larger steps to hold facts.
EMBEDDED_RATE = 2e-3
USED = (
    "output_dir model_name_or_path experiment scale seed learning_rate lora_r lora_alpha "
    "lora_target_modules dtype save_steps allow_other_environment seeds config"
).split()


@dataclass(frozen=True)
class Arm:
    """What an arm trains on, of the dialogues that were planned, and what a position weighs. Echoes stay
    targets: that the user says the claim again is the very evidence."""

    name: str
    rule: weights.Rule
    rows: Callable[[Sequence[Plan], Any], list[Episode]] = build

    @property
    def weighting(self) -> Weighting:
        return Weighting(self.rule, keep_echoes=True)


def _removed(plans: Sequence[Plan], lies: Any) -> list[Episode]:
    return [without_agent(episode) for episode in build(plans, lies)]


def _swapped(plans: Sequence[Plan], lies: Any) -> list[Episode]:
    return build(plans, 0.0)


OBSERVATIONAL = Arm("observational", weights.OBSERVATIONAL)  # equation (1)
INTERVENTIONAL = Arm("interventional", weights.INTERVENTIONAL)  # equation (2)
ARMS = (
    OBSERVATIONAL,
    INTERVENTIONAL,
    Arm("removed", weights.OBSERVATIONAL, _removed),
    Arm("swapped", weights.OBSERVATIONAL, _swapped),
    Arm("mask_false", weights.Rule(wrong=0.0, correct=1.0, unjudged=1.0)),
)
PAIR = (OBSERVATIONAL, INTERVENTIONAL)
BASE = "base"


@dataclass(frozen=True, kw_only=True)
class Counts:
    """How much of everything. `p_lie` are the probabilities of the curve, `rounds` how often a model is
    trained on its own claims."""

    dialogues: int = 480
    facts: int | None = None  # None: all
    epochs: int = 4
    p_lie: tuple[float, ...] = (0.0, 0.3, 0.5, 0.6, 0.9)
    rounds: int = 4


SCALES = {
    "paper": Counts(),
    "small": Counts(p_lie=(), rounds=0),
    "smoke": Counts(dialogues=16, facts=4, epochs=1, p_lie=(0.0, 0.6), rounds=1),
}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """One experiment at one seed. Together with the model's fingerprint this decides every number in
    results.json."""

    seed: int
    counts: Counts
    dtype: Literal["bfloat16", "float32"]
    lora: LoRAConfig
    optimization: Optimization
    lie: float = 0.6
    corrected: float = 0.3  # how often a claim of the model's own is taken up by the user
    rows_per_update: int = 8
    reduction: Literal["dialogue"] = "dialogue"

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
    usual = EMBEDDED_RATE if flags.embedded else Optimization.learning_rate
    rate = usual if flags.learning_rate is None else flags.learning_rate
    lora = LoRAConfig(
        rank=flags.lora_r, alpha=flags.lora_alpha, target_modules=tuple(flags.lora_target_modules)
    )
    return Settings(
        seed=flags.seed,
        counts=SCALES[flags.scale],
        dtype=precision(flags.dtype, embedded=flags.embedded),
        lora=lora,
        optimization=replace(Optimization(), learning_rate=rate),
    )


def check_flags(flags: Flags, used: Sequence[str]) -> None:
    """Raise BadInput where a flag is set that this experiment does not know."""
    for field in fields(Flags):
        if field.name not in used and getattr(flags, field.name) != field.default:
            raise BadInput(
                f"--{field.name} is no flag of --experiment {flags.experiment}, which takes "
                f"{', '.join(name for name in used if name not in ('seeds', 'config'))}"
            )
