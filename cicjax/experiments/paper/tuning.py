"""`cicjax tune`: every method at every rate of one grid, on development questions.

    OUT/seed-N            SFT-1, the stream and the candidates of a seed, made once
    OUT/seed-N/rate-R     what a method answered and scored at a rate; its adapter goes once it has

A method whose best rate is the first or the last of its grid gets one more on that side. `rates` says what is
chosen and how it is written. No test question is drawn.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cicjax.devices import hosts
from cicjax.errors import BadInput
from cicjax.experiments.attempts import plainly
from cicjax.experiments.paper import held_out, rates, repro, stages
from cicjax.experiments.paper.flags import Flags
from cicjax.experiments.paper.rollouts import Rollouts
from cicjax.experiments.paper.run import Run, draw_problems, load_run
from cicjax.experiments.paper.settings import POLICY_RATE, settings_of
from cicjax.methods import EVERY, START, UNTRAINED, Method
from cicjax.methods.rows import demonstration
from cicjax.model import qwen2
from cicjax.runs import checks, environment
from cicjax.runs.folder import RunFolder

# GRPO takes a quarter of each.
EMBEDDED_RATES = (2e-4, 4e-4, 8e-4, 1.6e-3, 3.2e-3)
RATES = (5e-5, 2e-4, 8e-4)
SEEDS = (1000, 1001, 1002)


@dataclass(frozen=True, kw_only=True)
class Grid:
    """What is tried: the experiment's flags, its seeds, and the rates of every second stage among its
    methods."""

    flags: Flags
    seeds: tuple[int, ...]
    rates: tuple[float, ...]

    @property
    def methods(self) -> list[Method]:
        """Those that have a rate of their own."""
        asked = {*self.flags.methods, *self.flags.arms} - {START}
        return [method for method in EVERY if method.name in asked and method.weighting]


@dataclass(frozen=True, kw_only=True)
class Seed:
    """One development seed: its run, SFT-1, and what methods train on."""

    run: Run
    adapter: qwen2.Tree
    made: Rollouts


def tune(grid: Grid, output: Path) -> dict[str, Any]:
    """Try everything, or what is not there yet, and write the chosen rates to `output`; gives the entries of
    the file by method. Raises BadInput, Locked or Corrupted."""
    flags = grid.flags
    _check(grid)
    task = repro.task_of(flags)
    settings = replace(settings_of(flags, task, EVERY), methods=())
    run = load_run(flags.output_dir, settings, model=flags.model_name_or_path, task=task)
    config = {"seeds": list(grid.seeds), "model": run.base_fingerprint, "settings": settings.record()}
    with RunFolder(flags.output_dir, config):
        environment.settle(flags.output_dir, allow_changes=flags.allow_other_environment)
        seeds = [_seed(run, number) for number in grid.seeds]
        entries = {method.name: _tuned(seeds, method, grid.rates) for method in grid.methods}
        facts = {
            "name": run.model_name,
            "seeds": list(grid.seeds),
            "questions": sum(len(each.run.questions) for each in seeds),
            "settings": {name: value for name, value in settings.record().items() if name not in APART},
        }
        hosts.once(lambda: rates.add(output, run.base_fingerprint, facts, entries))
    return entries


# Decided by the grid, or by whoever takes its rates.
APART = ("seed", "methods", "rates", "split")


def _check(grid: Grid) -> None:
    for seed in grid.seeds:
        checks.check_seed(seed)
    if not grid.seeds or not grid.rates or not grid.methods:
        what = "seed" if not grid.seeds else "rate" if not grid.rates else "method with a rate of its own"
        raise BadInput(f"no {what} is named: there is nothing to tune beside {UNTRAINED} and {START}")
    if bad := [rate for rate in grid.rates if not 0 < rate < 1]:
        raise BadInput(f"--learning_rates are between 0 and 1, not {bad[0]}")


def _seed(run: Run, number: int) -> Seed:
    settings = replace(run.settings, seed=number)
    folder, splits = run.folder / f"seed-{number}", draw_problems(run.task, settings)
    run = replace(run, settings=settings, folder=folder, splits=splits)
    adapter = stages.sft_stage(run)
    return Seed(run=run, adapter=adapter, made=Rollouts(run, adapter))


def _tuned(seeds: Sequence[Seed], method: Method, grid: Sequence[float]) -> dict[str, Any]:
    """The method's entry: its grid, and one rate more where the best one lies at an edge."""
    scale = POLICY_RATE if method.samples == "own" else 1.0
    tried = {rate: _try(seeds, method, rate) for rate in (float(f"{each * scale:.6g}") for each in grid)}
    further = rates.beyond(tried)
    if further is not None:
        tried[further] = _try(seeds, method, further)
    return rates.entry(tried) | {"commit": environment.commit()}


def _try(seeds: Sequence[Seed], method: Method, rate: float) -> dict[str, float]:
    """Solved of all seeds' development questions, and nats a token of the teacher's answers to them."""
    solved, nats = zip(*(_try_one(seed, method, rate) for seed in seeds), strict=True)
    return {"solved": sum(solved), "nats": round(sum(nats) / len(nats), 6)}


def _try_one(seed: Seed, method: Method, rate: float) -> tuple[int, float]:
    settings = replace(seed.run.settings, rates={method.name: rate})
    run = replace(seed.run, settings=settings, folder=seed.run.folder / f"rate-{rate:g}")
    evaluations = run.folder / "evaluations"
    names = [f"{method.name}-{kind}.jsonl" for kind in ("direct", "teacher")]
    there = hosts.largest(all((evaluations / name).exists() for name in names))
    adapter = None if there else stages.second_stage(run, method, seed.adapter, seed.made)
    asked = [plainly(problem) for problem in run.questions]
    answers = stages.answers_stage(run, method.name, "direct", adapter, asked)
    shown = [
        demonstration(problem.id, question_text=problem.question, solution=problem.solution)
        for problem in run.questions
    ]
    scores = held_out.scored(run, adapter, shown, name=f"{method.name}-teacher")
    hosts.once(lambda: shutil.rmtree(run.folder / method.name, ignore_errors=True))
    return sum(answer.solved for answer in answers), held_out.nats(scores)
