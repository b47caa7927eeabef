#!/usr/bin/env python3
"""The evidence of docs/results.md, from first to last; the same command goes on where it stopped.

    scripts/evidence.py --state DIR                        everything on the embedded base
    scripts/evidence.py --state DIR --model QWEN_DIR       everything on real weights
    scripts/evidence.py --state DIR --list                 what there is to do, and how far it is
    scripts/evidence.py --state DIR --minutes 100          no new step after so long: a sitting
    scripts/evidence.py --check                            every count of committed answers, from their texts

Runs lie in DIR, outside the repository, and go on by themselves after a kill. After every arm the run's
archive is written to checkpoints/results, where it is ready to be committed; what lies there is done, on a
machine without DIR too, and a run that begins anew must come to the same SFT-1. No test question of the
paper's experiment is drawn before rates.json is committed as it is.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cicjax.cli import main as cicjax
from cicjax.experiments.paper import archive
from cicjax.files.seal import read_object
from cicjax.tasks.named import named

RESULTS = Path(__file__).resolve().parents[1] / "checkpoints" / "results"
RATES = RESULTS / "rates.json"
FIRST = ("base", "sft")
# SFT-1's on the embedded base, the best of six (checkpoints/results/base/tried.json).
SFT_RATE = "3.2e-3"
# Of updates while in use, at a development seed (embedded/online/grid): fewest nats on corrections to come.
LIVE_RATE = "4e-4"
# The arms of the confirmatory claims and of hypotheses 2, 4 and 6, each tuned on the same grid.
CORE = (
    *("interventional", "observational", "oracle_shared", "rest", "sft2"),
    *("mask_wrong", "interventional_replay", "shuffled", "grpo", "mask_correct"),
)
# The slope over dose and the controls of hypotheses 2 and 7, then what is left.
FURTHER = ("dose_0.03", "dose_0.1", "dose_0.3", "deduplicated", "replay_only", "oracle")
LAST = (
    *("verdict_context", "verdict_context_observational", "verdict_evidence"),
    *("every_world", "no_oracle"),
)
REAL_TUNED = (
    *("interventional", "observational", "oracle_shared", "rest", "sft2", "mask_wrong"),
    "interventional_replay",
)
REAL_FURTHER = ("shuffled", "replay_only", "grpo", "oracle", "deduplicated", "verdict_context")
REAL_MORE = ("interventional", "observational", "oracle_shared", "rest", "sft2", "interventional_replay")
VARIANT = ("interventional", "observational", "oracle_shared", "sft2")


@dataclass(frozen=True)
class Step:
    """One arm of one run, one method of a grid, or a whole run: its `name`, the run's folder below the
    state, and the command."""

    name: str
    run: str
    command: tuple[str, ...]
    rows: tuple[str, ...] = ()
    tunes: bool = False
    base: str = "tiny"

    def done(self) -> bool:
        """Whether its rows are among the results of its archive, or its method among the rates of its
        base."""
        if self.tunes:
            return set(self.rows) <= tuned_on(self.base)
        path = RESULTS / self.run / "results.json"
        return path.exists() and set(self.rows) <= read_object(path).get("methods", {}).keys()

    def do(self, state: Path) -> int:
        """Run it, and keep what it made; gives the exit code."""
        code = cicjax([*self.command, "--output_dir", str(state / self.run)])
        if code == 0 and not self.tunes:
            keep = archive.write if self.rows else archive.keep
            keep(state / self.run, RESULTS / self.run)
        return code


def tuned_on(base: str) -> set[str]:
    """The methods that have a rate on a base of this name."""
    entries = read_object(RATES).values() if RATES.exists() else ()
    return {method for entry in entries if entry["name"] == base for method in entry["methods"]}


def tuned(run: str, methods: tuple[str, ...], *flags: str, base: str = "tiny") -> Iterator[Step]:
    """A grid, method after method."""
    for method in methods:
        command = ("tune", "--methods", method, "--rates", str(RATES), *flags)
        yield Step(f"{run}: rates of {method}", run, command, (method,), tunes=True, base=base)


def arms(
    run: str, methods: tuple[str, ...], *flags: str, at_once: int = 1, first: tuple[str, ...] = FIRST
) -> Iterator[Step]:
    """A run, `at_once` arms after the others; the `first` rows, SFT-1's among them, come with the first."""
    for start in range(0, len(methods), at_once):
        rows = methods[start : start + at_once]
        command = ("repro", "--methods", *first, "--arms", *rows, "--rates", str(RATES), *flags)
        yield Step(f"{run}: {', '.join(rows)}", run, command, (*first, *rows))


def experiment(run: str, name: str, *flags: str) -> Step:
    """A whole run of another experiment."""
    return Step(run, run, ("repro", "--experiment", name, *flags))


def embedded() -> Iterator[Step]:
    """On the base that ships: the grid, eight seeds, those of the other experiments, then the further arms
    and, of one seed, the variants."""
    base, asked = ("--learning_rate", SFT_RATE), ("--learning_rate", SFT_RATE, "--num_test", "1000")
    yield from tuned("embedded/grid", CORE, *base)
    for seed in map(str, range(8)):
        yield from arms(f"embedded/seed-{seed}", CORE, *asked, "--seed", seed, at_once=5)
    for seed in map(str, range(8)):
        yield experiment(f"embedded/dialogues/seed-{seed}", "dialogues", "--seed", seed)
        yield experiment(f"embedded/boxes/seed-{seed}", "boxes", "--seed", seed)
        live = (*base, "--second_stage_learning_rate", LIVE_RATE, "--seed", seed)
        yield experiment(f"embedded/online/seed-{seed}", "online", *live)
    test = (*asked, "--seed", "0")
    yield from tuned("embedded/grid", FURTHER, *base)
    for ratio in ("token", "sequence"):
        clip = ("--num_iterations", "2", "--ratio", ratio)
        yield from arms(f"embedded/clip-{ratio}", ("grpo",), *test, *clip)
    yield from arms("embedded/two-a-problem", VARIANT, *test, "--attempts_per_problem", "2", at_once=4)
    for seed in map(str, range(8)):
        yield from arms(f"embedded/seed-{seed}", FURTHER, *asked, "--seed", seed, at_once=6)
    yield from arms("embedded/live-rows", VARIANT, *test, "--batches", "live_rows", at_once=4)
    yield from tuned("embedded/grid", LAST, *base)
    for seed in map(str, range(8)):
        yield from arms(f"embedded/seed-{seed}", LAST, *asked, "--seed", seed, at_once=5)


def real(model: str, name: str) -> Iterator[Step]:
    """On real weights: the agent that lies and the one in use, a grid of three rates at a development seed,
    seed 0, two seeds more, then the arms of seed 0 that are not tuned, and its variants."""
    base = ("--model", model)
    lies = ("--arms", "observational", "interventional", "swapped")
    yield experiment(f"{name}/dialogues/seed-0", "dialogues", *base, "--scale", "small", *lies)
    live = ("--arms", "frozen", "replay_only", "interventional", "corrections")
    yield experiment(f"{name}/online/seed-0", "online", *base, "--scale", "small", *live)
    called = Path(model).resolve().name
    yield from tuned(f"{name}/grid", REAL_TUNED, *base, "--seeds", "1000", base=called)
    test = (*base, "--num_test", "500")
    yield from arms(f"{name}/seed-0", REAL_TUNED, *test, "--seed", "0")
    for seed in ("1", "2"):
        yield from arms(f"{name}/seed-{seed}", REAL_MORE, *test, "--seed", seed, first=("sft",))
    yield from arms(f"{name}/seed-0", REAL_FURTHER, *test, "--seed", "0")
    few = ("--attempts_per_problem", "2")
    yield from arms(f"{name}/two-a-problem", ("interventional",), *test, "--seed", "0", *few)
    yield from arms(f"{name}/live-rows", ("interventional",), *test, "--seed", "0", "--batches", "live_rows")
    yield from arms(f"{name}/printed", VARIANT, *test, "--seed", "0", "--task", "stem-printed")


def committed(path: Path) -> bool:
    """Whether git holds this file as it is."""
    ask = (["ls-files", "--error-unmatch"], ["diff", "--quiet", "HEAD", "--"])
    told = [subprocess.run(["git", *a, path.name], cwd=path.parent, capture_output=True) for a in ask]
    return not any(each.returncode for each in told)


def check() -> int:
    """Recount every archive; 1 where a count is not borne out."""
    wrong = 0
    for path in sorted(RESULTS.rglob(archive.ANSWERS)):
        task = read_object(path.parent / "results.json")["settings"]["task"]
        told = archive.recount(path.parent, named(task["name"], numbers=task["numbers"]))
        print(f"{path.parent.relative_to(RESULTS)}: {'; '.join(told) or 'every count is borne out'}")
        wrong += bool(told)
    return int(wrong > 0)


def main() -> int:
    """Do the steps in order, until the time of the sitting is over or one fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--state", type=Path, help="folder of the runs, outside the repository")
    parser.add_argument("--model", help="folder of real weights; without one, the embedded base")
    parser.add_argument("--name", help="what the weights are called below checkpoints/results")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="no new step after so long")
    parser.add_argument("--list", action="store_true", help="say what is done and what is not")
    parser.add_argument("--check", action="store_true", help="recount what is committed")
    chosen = parser.parse_args()
    if chosen.check:
        return check()
    if chosen.state is None:
        parser.error("--state DIR is needed: where the runs lie")
    began, name = time.monotonic(), chosen.name or Path(chosen.model or "").resolve().name
    for step in embedded() if chosen.model is None else real(chosen.model, name):
        done = step.done()
        if chosen.list:
            print(f"{'done' if done else 'to do':<6} {step.name}")
        elif not done:
            if time.monotonic() - began > 60 * chosen.minutes:
                print(f"the time of this sitting is over; next: {step.name}")
                return 0
            if step.rows and not step.tunes and not committed(RATES):
                print(f"{RATES}: commit it before {step.name} draws test questions")
                return 3
            print(f"== {step.name}", flush=True)
            if code := step.do(chosen.state):
                return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
