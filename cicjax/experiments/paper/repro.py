"""`cicjax repro`: options -> settings -> stages -> results.json and a table."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from cicjax.errors import BadInput
from cicjax.experiments.paper import settings, stages
from cicjax.experiments.paper.run import load_run
from cicjax.files.whole import write_json
from cicjax.methods import METHODS, grpo
from cicjax.model.config import PROJECTIONS, LoRAConfig
from cicjax.runs.folder import RunFolder
from cicjax.runs.seeds import check_seed
from cicjax.training.policy import precision
from cicjax.training.steps import Optimization

OUTSIDE_IDENTITY = ("model_name_or_path", "output_dir", "save_steps")


@dataclass(frozen=True, kw_only=True)
class Options:
    """The flags of `cicjax repro`; None stands for what scale and numbers say."""

    model_name_or_path: str
    output_dir: Path
    embedded: bool = False
    scale: Literal["paper", "small", "smoke"] = "paper"
    seed: int = 0
    methods: Sequence[str] = METHODS
    split: Literal["test", "dev"] = "test"
    num_test: int | None = None
    num_sft: int | None = None
    learning_rate: float | None = None
    lora_r: int = 16
    lora_alpha: float = 32.0
    lora_target_modules: Sequence[str] = PROJECTIONS
    num_generations: int = 8
    num_iterations: int = 1
    beta: float = 0.04
    epsilon: float = 0.2
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    save_steps: int = 25


def settings_of(options: Options) -> settings.Settings:
    """Every value of the experiment. Raises BadInput for names that do not exist and for numbers that cannot
    be."""
    _check(options)
    counts = settings.SCALES[options.scale]
    if options.split == "dev" and options.num_test not in (None, counts.test_problems):
        raise BadInput(
            f"--num_test {options.num_test} is for --split test; the dev split has {counts.dev_problems} "
            "questions at this scale"
        )
    wanted = {"test_problems": options.num_test, "sft_rows": options.num_sft}
    counts = replace(counts, **{name: value for name, value in wanted.items() if value is not None})
    optimization = (
        Optimization() if options.learning_rate is None else Optimization(learning_rate=options.learning_rate)
    )
    return settings.Settings(
        seed=options.seed,
        methods=tuple(method for method in METHODS if method in options.methods),
        counts=counts,
        numbers="tiny" if options.embedded else "paper",
        split=options.split,
        dtype=precision(options.dtype, embedded=options.embedded),
        lora=LoRAConfig(
            rank=options.lora_r, alpha=options.lora_alpha, target_modules=tuple(options.lora_target_modules)
        ),
        optimization=optimization,
        policy=grpo.Policy(
            num_generations=options.num_generations,
            epsilon=options.epsilon,
            beta=options.beta,
            num_iterations=options.num_iterations,
        ),
        policy_optimization=replace(
            optimization, learning_rate=optimization.learning_rate * settings.POLICY_RATE
        ),
    )


def _check(options: Options) -> None:
    for kind, given, known in (
        ("method", options.methods, METHODS),
        ("projection", options.lora_target_modules, PROJECTIONS),
    ):
        unknown = [name for name in given if name not in known]
        if unknown or not given:
            what = f"unknown {kind} {unknown[0]!r}" if unknown else f"no {kind} is named"
            raise BadInput(f"{what}; choose from {', '.join(known)}")
    for name in ("lora_r", "save_steps", "num_generations", "num_iterations", "num_test", "num_sft"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise BadInput(f"--{name} is 1 or more, not {value}")
    for name in ("learning_rate", "lora_alpha", "beta", "epsilon"):
        value = getattr(options, name)
        if value is not None and not 0 <= value < math.inf:
            raise BadInput(f"--{name} is a finite number from 0 on, not {value}")
    check_seed(options.seed)


def config_of(options: Options, chosen: settings.Settings, fingerprint: str) -> dict[str, Any]:
    """config.json: the flags, so that `--config RUN/config.json` says the same again, and every value that
    they stand for."""
    flags = {
        "model_name_or_path": None if options.embedded else options.model_name_or_path,
        "output_dir": str(options.output_dir),
        "scale": options.scale,
        "seed": options.seed,
        "methods": list(chosen.methods),
        "split": options.split,
        "num_test": chosen.counts.test_problems,
        "num_sft": chosen.counts.sft_rows,
        "learning_rate": chosen.optimization.learning_rate,
        "lora_r": options.lora_r,
        "lora_alpha": options.lora_alpha,
        "lora_target_modules": list(options.lora_target_modules),
        "num_generations": chosen.policy.num_generations,
        "num_iterations": chosen.policy.num_iterations,
        "beta": chosen.policy.beta,
        "epsilon": chosen.policy.epsilon,
        "dtype": chosen.dtype,
        "save_steps": options.save_steps,
    }
    return flags | {"resolved": {"model": fingerprint, "settings": chosen.record()}}


def replicates(options: Options, seeds: Sequence[int]) -> list[Options]:
    """The experiment at each seed, in a folder seed-N inside the output folder. Raises BadInput for flags
    that cannot be."""
    if (options.output_dir / "config.json").exists():
        raise BadInput(
            f"{options.output_dir} is a run already; name another --output_dir for the folders of --seeds"
        )
    chosen = [
        replace(options, seed=seed, output_dir=options.output_dir / f"seed-{seed}")
        for seed in dict.fromkeys(seeds)
    ]
    for one in chosen:
        settings_of(one)
    return chosen


def reproduce(options: Options) -> dict[str, Any]:
    """Run or resume an experiment and give its results. Raises BadInput, Locked or Corrupted."""
    chosen = settings_of(options)
    # Everything that can be wrong with the input is found before the folder is touched.
    run = load_run(
        options.output_dir, chosen, model_folder=options.model_name_or_path, save_steps=options.save_steps
    )
    config = config_of(options, chosen, run.base_fingerprint)
    with RunFolder(options.output_dir, config, outside_identity=OUTSIDE_IDENTITY):
        what = f"{run.model_name}, scale {options.scale}, seed {options.seed}"
        print(f"{what}, in {options.output_dir}: the same command resumes", flush=True)
        results = stages.run_stages(run)
        write_json(options.output_dir / "environment.json", environment())
    return results


def environment() -> dict[str, str]:
    """Versions and device, for the record; results do not depend on this file."""
    import platform
    from importlib.metadata import version

    import jax

    packages = {
        name: version(name) for name in ("jax", "flax", "optax", "orbax-checkpoint", "numpy", "tokenizers")
    }
    return {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "device": jax.devices()[0].device_kind,
    } | packages


def print_table(results: Mapping[str, Any]) -> None:
    """The paper's table in a terminal: direct accuracy with Wilson's 95 % interval, and the two other
    protocols."""
    from rich.console import Console
    from rich.table import Table

    any_method = next(iter(results["methods"].values()))
    table = Table(
        title=f"Solved of {any_method['questions']}, seed {results['seed']} (95 % Wilson intervals)"
    )
    for name in (
        "method",
        "direct",
        "interval",
        "repair",
        "two-step",
        "harmed",
        "with marker",
        "supervised tokens",
    ):
        table.add_column(name, justify="left" if name == "method" else "right")
    for name, row in results["methods"].items():
        table.add_row(
            name,
            f"{row['solved']}",
            f"{100 * row['wilson_low']:.1f}-{100 * row['wilson_high']:.1f} %",
            f"{row['repair_solved']}/{row['repair_questions']}",
            f"{row['two_step_solved']}",
            f"{row['harmed']}/{row['questions'] - row['repair_questions']}",
            f"{row['marker_share']:.0%}",
            f"{row['budget']['supervised_tokens']:,}",
        )
    Console(width=None if Console().is_terminal else 110).print(table)
