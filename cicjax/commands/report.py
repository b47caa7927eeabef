"""`cicjax report`: finished runs as a page to look at."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from cicjax.errors import printable


@dataclass(frozen=True)
class Report:
    """Write a page with tables, figures and transcripts of a finished run, or of several seeds of one
    experiment; of runs of `cicjax train` one that compares their settings, losses and held-out likelihoods;
    of an agent's home one with its curves, versions, gate and sources.

    One run: RUN/report.html and RUN/figures. The page is one file that needs no network and no script to be
    read.

    Example: cicjax report runs/small

    Example: cicjax report runs/seed0 runs/seed1 runs/seed2 --output seeds.html

    Example: cicjax report runs/seed0 runs/seed1 --output two.html --contrasts interventional_replay:sft2

    Example: cicjax report runs/mine

    Example: cicjax report runs/rate1 runs/rate2 runs/rate3 --output rates.html
    """

    runs: Annotated[
        tyro.conf.Positional[tuple[Path, ...]],
        tyro.conf.arg(metavar="RUN [RUN ...]", help_behavior_hint="(required)"),
    ]
    """Folders that `cicjax repro` finished, several of them differing in their seeds alone; or folders of
    `cicjax train`, whatever differs; or the folder of an agent."""
    output: Annotated[Path | None, tyro.conf.arg(metavar="OUT.html")] = None
    """Where the page goes, its figures in a folder beside it. Needed for several runs."""

    contrasts: Annotated[tuple[str, ...], tyro.conf.arg(metavar="FIRST:SECOND [FIRST:SECOND ...]")] = ()
    """Pairs of rows of the paper's table, compared beside the claims: over the seeds, and question by
    question within each."""

    def run(self) -> None:
        from cicjax import report

        print(printable(str(report.write_report(self.runs, self.output, contrasts=self.contrasts))))
