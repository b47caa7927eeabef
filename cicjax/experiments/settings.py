"""What an experiment is: every value that results depend on, named once and recorded in config.json.

Values that the paper states are in `PAPER`; `SMALL` and `SMOKE` shrink the counts and nothing else. What the paper leaves open stands
as defaults here, one choice for every method. `RECIPES` has the optimizer's for real weights and for the embedded base.
"""

from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from cicjax.model.config import LoRAConfig
from cicjax.training.steps import Optimization

Method = Literal["base", "sft", "observational", "interventional"]
METHODS: tuple[Method, ...] = ("base", "sft", "observational", "interventional")


@dataclass(frozen=True, kw_only=True)
class Counts:
    """How much of everything: equation (5) and section 2.3."""

    sft_rows: int
    agent_problems: int
    dev_problems: int
    test_problems: int
    wrong_attempts: int


PAPER = Counts(sft_rows=200, agent_problems=200, dev_problems=200, test_problems=100, wrong_attempts=400)
SMALL = replace(PAPER, wrong_attempts=100)
SMOKE = Counts(sft_rows=96, agent_problems=48, dev_problems=32, test_problems=32, wrong_attempts=24)
SCALES = {"paper": PAPER, "small": SMALL, "smoke": SMOKE}


RECIPES = {"paper": Optimization(), "tiny": Optimization(learning_rate=1e-3)}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """One experiment at one seed. Together with the model's fingerprint this decides every number in results.json."""

    seed: int
    methods: tuple[Method, ...]
    counts: Counts
    numbers: Literal["paper", "tiny"] = "paper"
    split: Literal["test", "dev"] = "test"
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    lora: LoRAConfig = field(default_factory=LoRAConfig)
    optimization: Optimization = field(default_factory=Optimization)
    rows_per_update: int = 8
    attempts_per_problem: int = 8
    max_attempt_tokens: int = 96
    attempt_temperature: float = 1.0
    max_answer_tokens: int = 256
    answer_stop_strings: tuple[str, ...] = ("\nQuestion:",)
    lines_per_batch: int = 1

    def record(self) -> dict[str, Any]:
        """Plain values, as they go into config.json and results.json."""
        return asdict(self)
