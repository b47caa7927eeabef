"""What an experiment is: every value that results depend on, named once and recorded in config.json.

Values that the paper states are in `PAPER`; `SMALL` and `SMOKE` shrink the counts and nothing else. What the
paper leaves open stands as defaults here, one choice for every method, on real weights and on the embedded
base alike.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from cicjax.errors import BadInput
from cicjax.methods import Method
from cicjax.methods.grpo import Policy
from cicjax.model.config import LoRAConfig
from cicjax.training.steps import Optimization


@dataclass(frozen=True, kw_only=True)
class Counts:
    """How much of everything: equation (5) and section 2.3."""

    sft_rows: int
    agent_problems: int
    dev_problems: int
    test_problems: int
    wrong_attempts: int
    groups: int


PAPER = Counts(
    sft_rows=200, agent_problems=200, dev_problems=200, test_problems=100, wrong_attempts=400, groups=50
)
SMALL = replace(PAPER, wrong_attempts=100, groups=12)
SMOKE = Counts(sft_rows=96, agent_problems=48, dev_problems=32, test_problems=32, wrong_attempts=24, groups=4)
SCALES = {"paper": PAPER, "small": SMALL, "smoke": SMOKE}


# GRPO sees a handful of noisy groups; its untuned rate is a quarter of the others'.
POLICY_RATE = 0.25


@dataclass(frozen=True, kw_only=True)
class Settings:
    """One experiment at one seed. Together with the model's fingerprint this decides every number in
    results.json."""

    seed: int
    methods: tuple[Method, ...]
    counts: Counts
    numbers: Literal["paper", "tiny"] = "paper"
    split: Literal["test", "dev"] = "test"
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    lora: LoRAConfig = field(default_factory=LoRAConfig)
    optimization: Optimization = field(default_factory=Optimization)
    policy: Policy = field(default_factory=Policy)
    policy_optimization: Optimization = field(default_factory=lambda: Optimization(learning_rate=5e-5))
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


def asked_in(config: Mapping[str, Any], *, where: object) -> Settings | None:
    """What decides the questions and answers of the run whose config.json this is: seed, counts, numbers and
    limits of an answer.

    None for the configuration of anything but `cicjax repro`. Raises BadInput, naming `where`, for one that
    lacks a value.
    """
    resolved = config.get("resolved")
    if not isinstance(resolved, dict) or "settings" not in resolved:
        return None
    try:
        record = resolved["settings"]
        names = ("seed", "numbers", "max_answer_tokens")
        return Settings(
            methods=(),
            counts=Counts(**record["counts"]),
            answer_stop_strings=tuple(record["answer_stop_strings"]),
            **{name: record[name] for name in names},
        )
    except (KeyError, TypeError) as error:
        raise BadInput(
            f"{where}: its config.json does not say what the run asked ({error}); "
            "repeat the run with this version"
        ) from None
