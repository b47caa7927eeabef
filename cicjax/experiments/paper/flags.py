"""The flags of `cicjax repro --experiment paper`, each with its default and its help, once."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from cicjax.methods import ARMS, METHODS, grpo
from cicjax.model.config import PROJECTIONS, LoRAConfig

_LORA, _GRPO = LoRAConfig(), grpo.Constants()
_ARMS = (
    f"Controls, as further rows of the table: {', '.join(arm.name for arm in ARMS)}. With --experiment "
    "dialogues, boxes or online: rows of that experiment, all by default; an unknown name lists them, and "
    "the curves over lies and rounds train both losses whatever the rows."
)


@dataclass(frozen=True, kw_only=True)
class Flags:
    """What a user decides; None stands for what scale and base say. `settings_of` makes the experiment's
    values of it."""

    output_dir: Annotated[Path, tyro.conf.arg(metavar="RUN")]
    """Folder of the run: config, metrics, rollouts, one adapter a method, evaluations, results.json."""
    model_name_or_path: Annotated[str | None, tyro.conf.arg(aliases=["--model"], metavar="DIR_OR_HUB_ID")] = (
        None
    )
    """A Qwen2, Qwen3 or Llama folder (config.json, safetensors, tokenizer.json), or a hub id; without
    one, the embedded base."""
    experiment: Literal["paper", "dialogues", "boxes", "online"] = "paper"
    """paper: sections 2.1-2.5; dialogues: losses (1) and (2), with an agent that lies; boxes: delusion
    where the truth is known; online: an agent that learns while it answers (docs/agent.md)."""
    scale: Literal["paper", "small", "smoke"] = "paper"
    """paper: 400 wrong attempts; small: 100; smoke: a check that everything runs."""
    seed: int = 0
    """Problems, adapters, order and samples follow from it."""
    task: Annotated[str, tyro.conf.arg(metavar="stem|MODULE:ATTRIBUTE")] = "stem"
    """Problems and verifier: stem; stem-printed, whose lines leave out what the paper's printed ones do; or
    an object of a Python module of your own, which is imported."""
    methods: Annotated[tuple[str, ...], tyro.conf.arg(metavar="METHOD ...")] = tuple(
        method.name for method in METHODS
    )
    """Rows of the table. oracle_shared is SFT+oracle on the stream's schedule, which answers whether the
    context helps. Rows that the folder has already stay."""
    arms: Annotated[tuple[str, ...], tyro.conf.arg(metavar="ARM ...", help=_ARMS)] = ()
    split: Literal["test", "dev"] = "test"
    """Questions that methods are compared on; settings are chosen on dev alone."""
    num_test: int | None = None
    """Test questions, if not those of the scale."""
    num_sft: int | None = None
    """Teacher rows of SFT-1, if not those of the scale."""
    learning_rate: float | None = None
    """Peak rate of AdamW for SFT-1. By default 2e-4."""
    second_stage_learning_rate: float | None = None
    """Peak rate of every second stage; GRPO takes a quarter of it. By default SFT-1's."""
    rates: Annotated[Path | None, tyro.conf.arg(metavar="RATES.json")] = None
    """Rates that `cicjax tune` chose for this base, a method each; those that it lacks stay as they are."""
    second_stage_epochs: int = 1
    """Epochs of every second stage but GRPO."""
    batches: Literal["rows", "live_rows"] = "rows"
    """What an update has eight of: rows of the stream, or those of them that bear loss for the method."""
    attempts_per_problem: int = 8
    """The stream's attempts at a problem before the next one; fewer give more different questions."""
    lora_r: int = _LORA.rank
    """Rank of the adapter."""
    lora_alpha: float = _LORA.alpha
    """The adapter's product is scaled by alpha / rank."""
    lora_target_modules: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...")] = PROJECTIONS
    """Projections that get an adapter."""
    num_generations: int = _GRPO.num_generations
    """Samples a group, K of equations (8) and (10): ReST and GRPO."""
    num_iterations: int = _GRPO.num_iterations
    """GRPO's updates a group; above 1 the clip becomes live."""
    ratio: Literal["token", "sequence"] = _GRPO.ratio
    """GRPO's ratio: one a token, or one a completion as equation (11) prints it."""
    beta: float = _GRPO.beta
    """Weight of GRPO's KL to SFT-1."""
    epsilon: float = _GRPO.epsilon
    """GRPO's clipping range of the ratio."""
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    """Precision of the frozen base; adapters, gradients and moments are float32."""
    save_steps: int = 25
    """Updates between two checkpoints: the most that a kill can cost."""
    allow_other_environment: bool = False
    """Go on though versions, the kind of device or settings of the numerics are not those the run began
    with."""

    @property
    def embedded(self) -> bool:
        """Whether the base is the one that comes with the package, which has numbers of its own."""
        return self.model_name_or_path is None
