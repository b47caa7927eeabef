"""What an experiment is: every value that results depend on, named once and recorded in config.json.

Values that the paper states are in `PAPER`; `SMALL` and `SMOKE` shrink the counts and nothing else. What the
paper leaves open stands as defaults here, one choice for every method, on real weights and on the embedded
base alike.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from cicjax.errors import BadInput
from cicjax.experiments.paper.flags import Flags
from cicjax.methods import START, Method, grpo
from cicjax.model.config import PROJECTIONS, LoRAConfig
from cicjax.runs import checks
from cicjax.tasks.task import Task, record_of
from cicjax.training.policy import precision
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
    results.json. `task` is the task's name with whatever decides its problems."""

    seed: int
    methods: tuple[str, ...]
    counts: Counts
    task: Mapping[str, Any]
    split: Literal["test", "dev"] = "test"
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    lora: LoRAConfig = field(default_factory=LoRAConfig)
    optimization: Optimization = field(default_factory=Optimization)
    second_stage: Optimization = field(default_factory=Optimization)
    second_stage_epochs: int = 1
    batches: Literal["rows", "live_rows"] = "rows"
    rates: Mapping[str, float] = field(default_factory=dict)
    policy: grpo.Constants = field(default_factory=grpo.Constants)
    policy_optimization: Optimization = field(default_factory=lambda: Optimization(learning_rate=5e-5))
    rows_per_update: int = 8
    attempts_per_problem: int = 8
    max_attempt_tokens: int = 96
    attempt_temperature: float = 1.0
    max_answer_tokens: int = 256
    answer_stop_strings: tuple[str, ...] = ("\nQuestion:",)

    def optimization_of(self, method: Method) -> Optimization:
        """How a method is trained: SFT-1 by its own rate, others by the tuned one where there is one."""
        if method.name == START:
            return self.optimization
        chosen = self.policy_optimization if method.samples == "own" else self.second_stage
        return replace(chosen, learning_rate=self.rates.get(method.name, chosen.learning_rate))

    def record(self) -> dict[str, Any]:
        """Plain values, as they go into config.json and results.json; the pool of operands, where the task
        has one, stands beside the task too."""
        pool = {name: self.task[name] for name in ("numbers",) if name in self.task}
        return asdict(self) | pool


def settings_of(flags: Flags, task: Task, methods: Sequence[Method]) -> Settings:
    """Every value of the experiment; `methods` are those that there are. Raises BadInput for names that do
    not exist and for numbers that cannot be."""
    known = [method.name for method in methods]
    _check(flags, known)
    counts = SCALES[flags.scale]
    if flags.split == "dev" and flags.num_test not in (None, counts.test_problems):
        raise BadInput(
            f"--num_test {flags.num_test} is for --split test; the dev split has {counts.dev_problems} "
            "questions at this scale"
        )
    wanted = {"test_problems": flags.num_test, "sft_rows": flags.num_sft}
    counts = replace(counts, **{name: value for name, value in wanted.items() if value is not None})
    rate = flags.learning_rate
    optimization = Optimization() if rate is None else Optimization(learning_rate=rate)
    second = flags.second_stage_learning_rate
    second_stage = optimization if second is None else Optimization(learning_rate=second)
    return Settings(
        seed=flags.seed,
        methods=tuple(name for name in known if name in (*flags.methods, *flags.arms)),
        counts=counts,
        task=record_of(task),
        split=flags.split,
        dtype=precision(flags.dtype, embedded=flags.embedded),
        lora=LoRAConfig(
            rank=flags.lora_r, alpha=flags.lora_alpha, target_modules=tuple(flags.lora_target_modules)
        ),
        optimization=optimization,
        second_stage=second_stage,
        second_stage_epochs=flags.second_stage_epochs,
        batches=flags.batches,
        attempts_per_problem=flags.attempts_per_problem,
        policy=grpo.Constants(
            num_generations=flags.num_generations,
            epsilon=flags.epsilon,
            beta=flags.beta,
            num_iterations=flags.num_iterations,
            ratio=flags.ratio,
        ),
        policy_optimization=replace(second_stage, learning_rate=second_stage.learning_rate * POLICY_RATE),
    )


def _check(flags: Flags, known: Sequence[str]) -> None:
    checks.check_names("method", flags.methods, known)
    if flags.arms:
        checks.check_names("arm", flags.arms, known)
    checks.check_names("projection", flags.lora_target_modules, PROJECTIONS)
    checks.check_counts(
        flags, "lora_r", "save_steps", "num_generations", "num_iterations", "num_test", "num_sft"
    )
    checks.check_counts(flags, "second_stage_epochs", "attempts_per_problem")
    checks.check_finite(flags, "learning_rate", "second_stage_learning_rate", "lora_alpha", "beta", "epsilon")
    checks.check_seed(flags.seed)


def asked_in(config: Mapping[str, Any], *, where: object) -> Settings | None:
    """What decides the questions and answers of the run whose config.json this is: seed, counts, task and
    limits of an answer.

    None for the configuration of anything but `cicjax repro`. Raises BadInput, naming `where`, for one that
    lacks a value.
    """
    resolved = config.get("resolved")
    if not isinstance(resolved, dict) or "settings" not in resolved:
        return None
    try:
        record = resolved["settings"]
        names = ("seed", "task", "max_answer_tokens")
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
