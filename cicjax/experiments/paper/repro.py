"""`cicjax repro`: flags -> settings -> stages -> results.json and a table."""

from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from cicjax.devices import hosts
from cicjax.errors import BadInput, printable
from cicjax.experiments.paper import rates, stages
from cicjax.experiments.paper.flags import Flags
from cicjax.experiments.paper.records import Results
from cicjax.experiments.paper.run import Run, load_run
from cicjax.experiments.paper.settings import Settings, settings_of
from cicjax.files.seal import read_object, write_json
from cicjax.methods import EVERY, Method
from cicjax.runs import checks, environment
from cicjax.runs.folder import RunFolder
from cicjax.tasks.named import EMBEDDED, named
from cicjax.tasks.task import Task

OUTSIDE_IDENTITY = (
    *("model_name_or_path", "output_dir", "save_steps", "allow_other_environment"),
    *("methods", "arms", "rates", "resolved.settings.methods"),
)


def task_of(flags: Flags) -> Task:
    """The task that the flags name, stem with the numbers of the base. Raises BadInput where there is
    none."""
    return named(flags.task, numbers=EMBEDDED if flags.embedded else "paper")


def config_of(flags: Flags, chosen: Settings, *, model: str, tokenizer: str) -> dict[str, Any]:
    """config.json: the flags, so that `--config RUN/config.json` says the same again, and every value that
    they stand for."""
    chosen_flags = {each.name: _plain(getattr(flags, each.name)) for each in fields(Flags)}
    settled = {
        "num_test": chosen.counts.test_problems,
        "num_sft": chosen.counts.sft_rows,
        "learning_rate": chosen.optimization.learning_rate,
        "dtype": chosen.dtype,
    }
    resolved = {"model": model, "tokenizer": tokenizer, "settings": chosen.record()}
    return chosen_flags | settled | {"resolved": resolved}


def _plain(value: Any) -> Any:
    """A flag as JSON has it."""
    return str(value) if isinstance(value, Path) else list(value) if isinstance(value, tuple) else value


def check(flags: Flags) -> None:
    """Raise BadInput for flags that cannot be."""
    settings_of(flags, task_of(flags), EVERY)


def replicates(
    flags: Flags, seeds: Sequence[int], *, check: Callable[[Flags], object] = check
) -> list[Flags]:
    """The experiment at each seed, in a folder seed-N inside the output folder, its flags checked
    beforehand."""
    if (flags.output_dir / "config.json").exists():
        raise BadInput(
            f"{flags.output_dir} is a run already; name another --output_dir for the folders of --seeds"
        )
    chosen = [
        replace(flags, seed=seed, output_dir=flags.output_dir / f"seed-{seed}")
        for seed in dict.fromkeys(seeds)
    ]
    for one in chosen:
        check(one)
    return chosen


def _rows_there(folder: Path) -> dict[str, tuple[str, ...]]:
    """The rows that a run in the folder has already, by the flag that asked for them."""
    config = read_object(folder / "config.json")
    lists = {name: config.get(name) for name in ("methods", "arms")}
    return {name: tuple(rows) if isinstance(rows, list) else () for name, rows in lists.items()}


def _load(flags: Flags, task: Task, methods: Sequence[Method]) -> Run:
    """Everything that can be wrong with the input is found here, before the folder is touched."""
    run = load_run(
        flags.output_dir,
        settings_of(flags, task, methods),
        model=flags.model_name_or_path,
        task=task,
        methods=methods,
        save_steps=flags.save_steps,
    )
    if flags.rates is None:
        return run
    settings, first = run.settings, run.settings.optimization.learning_rate
    tuned = rates.chosen(flags.rates, run.base_fingerprint, settings.methods, first=first)
    return replace(run, settings=replace(settings, rates=tuned))


def reproduce(flags: Flags, methods: Sequence[Method] = EVERY) -> Results:
    """Run or resume an experiment and give its results; `methods` are those that the flags may name. Raises
    BadInput, Locked or Corrupted."""
    checks.check_folder(flags.output_dir)
    task = task_of(flags)
    settings_of(flags, task, methods)
    # Rows that are there stay: an arm that is asked for later is one more.
    there = _rows_there(flags.output_dir)
    both = {name: (*rows, *getattr(flags, name)) for name, rows in there.items()}
    flags = replace(flags, **{name: tuple(dict.fromkeys(rows)) for name, rows in both.items()})
    run = _load(flags, task, methods)
    config = config_of(flags, run.settings, model=run.base_fingerprint, tokenizer=run.tokenizer.fingerprint)
    # A row's own rate is part of the run's identity from the first time that the row is asked for.
    known = {row for rows in there.values() for row in rows}
    new = [f"resolved.settings.rates.{name}" for name in run.settings.methods if name not in known]
    with RunFolder(flags.output_dir, config, outside_identity=(*OUTSIDE_IDENTITY, *new)):
        what = f"{run.model_name}, scale {flags.scale}, seed {flags.seed}"
        print(printable(f"{what}, in {flags.output_dir}: the same command resumes"), flush=True)
        environment.settle(flags.output_dir, allow_changes=flags.allow_other_environment)
        if known and new:
            hosts.once(lambda: write_json(flags.output_dir / "config.json", config))
        return stages.run_stages(run)


def print_table(results: Results) -> None:
    """The paper's table in a terminal: direct accuracy with Wilson's 95 % interval, and the two other
    protocols."""
    from rich.console import Console
    from rich.table import Table

    questions = next(iter(results.methods.values())).questions
    table = Table(title=f"Solved of {questions}, seed {results.seed} (95 % Wilson intervals)")
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
    for name, row in results.methods.items():
        table.add_row(
            name,
            f"{row.solved}",
            f"{100 * row.wilson_low:.1f}-{100 * row.wilson_high:.1f} %",
            f"{row.repair_solved}/{row.repair_questions}",
            f"{row.two_step_solved}",
            f"{row.harmed}/{row.right_first}",
            f"{row.marker_share:.0%}",
            f"{row.budget.supervised_tokens:,}",
        )
    Console(width=None if Console().is_terminal else 110).print(table)
