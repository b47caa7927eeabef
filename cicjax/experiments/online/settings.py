"""Every value that an online run depends on, recorded in config.json."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from cicjax.experiments.online.arms import ARMS
from cicjax.experiments.online.world import SCALES, Counts
from cicjax.model.config import LoRAConfig
from cicjax.training.steps import Optimization


@dataclass(frozen=True, kw_only=True)
class Settings:
    """One run at one seed; `task` is the task's record, `optimization` SFT-1's, `second_stage` that of every
    update after it."""

    seed: int
    counts: Counts
    task: Mapping[str, Any]
    dtype: str
    arms: tuple[str, ...] = tuple(arm.name for arm in ARMS)
    lora: LoRAConfig = field(default_factory=LoRAConfig)
    optimization: Optimization = field(default_factory=lambda: Optimization(warmup_steps=0))
    second_stage: Optimization = field(default_factory=lambda: Optimization(warmup_steps=0))
    events_per_step: int = 8
    updates_per_step: int = 1
    replay_seed: int = 4
    replay_lessons: int = 4
    max_answer_tokens: int = 96

    def record(self) -> dict[str, Any]:
        """Plain values."""
        record = asdict(self)
        record["lora"]["target_modules"] = list(self.lora.target_modules)
        return record | {"arms": list(self.arms)}


__all__ = ["SCALES", "Settings"]
