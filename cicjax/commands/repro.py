"""`cicjax repro`: the paper in one folder."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import tyro

from cicjax.commands.together import Together
from cicjax.errors import printable
from cicjax.experiments.paper.flags import Flags


@dataclass(frozen=True, kw_only=True)
class Repro(Together, Flags):
    """Reproduce an experiment of the paper in one folder; the same command, repeated, resumes.

    agent = the model being trained; teacher = anyone else in the assistant's role. observational = train
    every assistant turn; interventional = train only what others wrote.

    Example: cicjax repro --model Qwen2.5-0.5B --scale small --seed 0 --output_dir runs/small
    """

    seeds: Annotated[tuple[int, ...], tyro.conf.arg(metavar="N ...")] = ()
    """Several seeds in the place of one, each in RUN/seed-N as `--seed N` leaves it, and a report of all in
    RUN. On a node with several chips they run beside one another, one a chip, and RUN/seed-N.log has what
    each prints."""
    config: Annotated[Path | None, tyro.conf.arg(metavar="FILE.yaml")] = None
    """Flags from a YAML or JSON file, below those of the command line; a run's config.json is one."""

    def run(self) -> None:
        if self.experiment == "online":
            self._online()
            return
        from cicjax.devices import hosts

        repro = self._experiment()
        runs = repro.replicates(self, self.seeds) if self.seeds else [self]
        if not self._side_by_side(runs):
            self.join()
            for run in runs:
                repro.print_table(repro.reproduce(run))
                hosts.once(lambda run=run: self._report([run.output_dir], None))
        if self.seeds:
            hosts.once(lambda: self._report([run.output_dir for run in runs], self.output_dir))

    def _side_by_side(self, runs: Sequence[Flags]) -> bool:
        """Run the seeds beside one another, each on a chip of its own, where this node has several; say
        whether that was so."""
        from cicjax.devices import chips

        told_of_others = (self.num_processes or 1) > 1 or self.coordinator_address is not None
        there = [] if told_of_others or len(runs) < 2 else chips.alone()
        if there:
            command = [sys.executable, "-m", "cicjax", "repro", "--num_processes", "1"]
            logs = [run.output_dir.with_suffix(".log") for run in runs]
            jobs = [
                chips.Job(f"seed {run.seed}", [*command, *_words(run)], log)
                for run, log in zip(runs, logs, strict=True)
            ]
            chips.run(jobs, there)
        return bool(there)

    def _report(self, folders: list[Path], output_dir: Path | None) -> None:
        from cicjax import report

        page = report.write_report(folders, None if output_dir is None else output_dir / "report.html")
        print(printable(f"{page}: {'open it in a browser' if output_dir is None else 'all seeds'}"))

    def _experiment(self) -> Any:
        """The module with the experiment's `replicates`, `reproduce` and `print_table`."""
        if self.experiment == "dialogues":
            from cicjax.experiments.dialogues import repro
        elif self.experiment == "boxes":
            from cicjax.experiments.boxes import repro
        else:
            from cicjax.experiments.paper import repro
        return repro

    def _online(self) -> None:
        from cicjax.experiments.online import repro

        several = bool(self.seeds)
        runs, folders = [], list[Path]()
        for seed in self.seeds or (self.seed,):
            asked = repro.Online(
                output_dir=self.output_dir / f"seed-{seed}" if several else self.output_dir,
                model_name_or_path=self.model_name_or_path,
                scale=self.scale,
                seed=seed,
                task=self.task,
                arms=self.arms,
                learning_rate=self.learning_rate,
                second_stage_learning_rate=self.second_stage_learning_rate,
                dtype=self.dtype,
                allow_other_environment=self.allow_other_environment,
            )
            runs.append(repro.reproduce(asked))
            folders.append(asked.output_dir)
            repro.print_results(runs[-1])
            self._report(folders[-1:], None)
        if several:
            repro.print_contrasts(repro.over_seeds(runs, self.output_dir))
            self._report(folders, self.output_dir)


def _words(flags: Flags) -> list[str]:
    """The command line of these flags."""
    words: list[str] = []
    for each in fields(Flags):
        value = getattr(flags, each.name)
        if value is True:
            words.append(f"--{each.name}")
        elif value != each.default:
            words += [f"--{each.name}", *map(str, value if isinstance(value, tuple) else [value])]
    return words
