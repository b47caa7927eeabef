"""What an agent is, beside its base: every value that its weights depend on, recorded in config.json."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, Self

from cicjax.errors import BadInput
from cicjax.model.config import LoRAConfig
from cicjax.training.steps import Optimization

Contexts = Literal["attempt", "none", "both"]


@dataclass(frozen=True, kw_only=True)
class GateSettings:
    """When a version may serve. Of `problems` (0: every version may) its answers are compared with those of
    the serving version and of the anchor; see `gate`."""

    problems: int = 0
    every: int = 1
    alpha: float = 0.01
    margin: float = 0.05


@dataclass(frozen=True, kw_only=True)
class AgentSettings:
    """The identity of an agent; with the base and the log it decides every version.

    Args:
        seed: fresh adapter, replay and samples follow from it.
        format: protocol of conversations; `auto` is the chat protocol whose control tokens the base has.
        task: name of the task whose problems the gate asks, "" for none.
        lessons_per_step, updates_per_step: a step is due when so many lessons wait; so often it updates.
        replay_seed, replay_lessons: rows of the seed and of earlier lessons that go with a step.
        contexts: a correction is learned after the attempt that it corrects, as an answer of its own, or
            both.
        echo: whether spans that a correction copies from the agent are masked, where its source does not
            vouch.
        max_row_tokens, lesson_tokens: longer rows and longer corrections are kept and not learned.
        new_sources: what a source may that writes before anybody has declared it; () refuses it.
    """

    seed: int = 0
    format: Literal["auto", "plain", "chatml", "qwen3"] = "auto"
    task: str = ""
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    lora: LoRAConfig = field(default_factory=LoRAConfig)
    optimization: Optimization = field(default_factory=lambda: Optimization(warmup_steps=0))
    lessons_per_step: int = 8
    updates_per_step: int = 4
    replay_seed: int = 4
    replay_lessons: int = 4
    contexts: Contexts = "none"
    echo: Literal["mask", "keep"] = "mask"
    max_row_tokens: int = 1024
    lesson_tokens: int = 512
    max_new_tokens: int = 256
    new_sources: tuple[str, ...] = ("chat", "judge", "teach")
    gate: GateSettings = field(default_factory=GateSettings)

    def __post_init__(self) -> None:
        for name in (
            "lessons_per_step",
            "updates_per_step",
            "max_row_tokens",
            "lesson_tokens",
            "max_new_tokens",
        ):
            if getattr(self, name) < 1:
                raise BadInput(f"--{name} is 1 or more, not {getattr(self, name)}")
        for name in ("replay_seed", "replay_lessons"):
            if getattr(self, name) < 0:
                raise BadInput(f"--{name} is 0 or more, not {getattr(self, name)}")
        if self.gate.problems and not self.task:
            raise BadInput("a gate needs problems: name a --task, such as stem")

    def record(self) -> dict[str, Any]:
        """Plain values, as config.json has them."""
        record = asdict(self)
        record["lora"]["target_modules"] = list(self.lora.target_modules)
        return record | {"new_sources": list(self.new_sources)}

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Self:
        """The settings of a record. Raises BadInput for one that another version wrote."""
        unknown = record.keys() - {each.name for each in fields(cls)}
        if unknown:
            raise BadInput(f"settings of another version: unknown {', '.join(sorted(unknown))}")
        try:
            lora = LoRAConfig(**record["lora"] | {"target_modules": tuple(record["lora"]["target_modules"])})
            nested = {
                "lora": lora,
                "optimization": Optimization(**record["optimization"]),
                "gate": GateSettings(**record["gate"]),
                "new_sources": tuple(record["new_sources"]),
            }
            return cls(**dict(record) | nested)
        except (KeyError, TypeError) as error:
            raise BadInput(f"settings of another version ({error})") from None
