"""Runs of `cicjax train` beside one another: what differs between them, the loss of every update, and the
held-out negative log-likelihood by author."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from cicjax.errors import BadInput, Corrupted, shorten
from cicjax.files.seal import read_json, read_object
from cicjax.report.drawing import STYLE, WIDTH, Drawing, embedded, svg_of
from cicjax.report.runs import if_there
from cicjax.runs.metrics import read_metrics
from cicjax.views.html import Html, bullets, join, page, table, tag

TITLE = "Trainings compared"
COLOURS = ("#1f6fb2", "#b5473c", "#2f8f6b", "#a06ab4", "#c98a1b", "#56b0e0", "#6b7480", "#d06f9b")
# Where a run lies and how often it saves say nothing of what came out.
UNTOLD = (
    *("output_dir", "save_steps", "save_total_limit", "eval_steps", "report_to"),
    *("allow_other_environment", "resolved"),
)


@dataclass(frozen=True, kw_only=True)
class Training:
    """One run of `cicjax train`: its flags, its results where it is finished, and its metrics."""

    folder: Path
    name: str
    config: dict[str, Any]
    budget: dict[str, Any]
    held_out: dict[str, dict[str, Any]]
    metrics: list[dict[str, Any]]


def is_training(folder: Path) -> bool:
    """Whether the folder is a run of `cicjax train`."""
    config = read_object(folder / "config.json")
    return "objective" in config and "scale" not in config


def read_trainings(folders: Sequence[Path]) -> list[Training]:
    """The runs in the order given, by the shortest ends of their paths that tell them apart. Raises BadInput
    for a folder that is none, Corrupted for damaged files."""
    for folder in folders:
        if not is_training(folder):
            raise BadInput(f"{folder}: no run of `cicjax train`, as others here are; report them apart")
    return [_read(folder, name) for folder, name in zip(folders, _names(folders), strict=True)]


def _read(folder: Path, name: str) -> Training:
    results_file = folder / "results.json"
    results = if_there(read_json, results_file) or {}
    held_out, budget = (results.get(key) for key in ("held_out", "budget"))
    if results and not (isinstance(held_out, dict) and isinstance(budget, dict)):
        raise Corrupted(f"{results_file}: not what a training writes; repeat its command in another folder")
    return Training(
        folder=folder,
        name=name,
        config=read_object(folder / "config.json"),
        budget=budget or {},
        held_out=held_out or {},
        metrics=if_there(read_metrics, folder / "metrics.jsonl"),
    )


def _names(folders: Sequence[Path]) -> list[str]:
    paths = [folder.resolve() for folder in folders]
    if len(set(paths)) < len(paths):
        raise BadInput("the same run is named twice; name each once")
    for count in range(1, max(len(path.parts) for path in paths) + 1):
        names = ["/".join(path.parts[-count:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]


def render(runs: Sequence[Training]) -> str:
    """The whole page as text."""
    header = join(
        [
            tag("h1", TITLE if len(runs) > 1 else f"Training {runs[0].name}"),
            bullets([f"{len(runs)} run" + "s" * (len(runs) > 1), *_common(runs)], "facts"),
        ]
    )
    sections = [
        ("runs", "Runs", [_runs_table(runs)]),
        ("settings", "Settings that differ", [_settings_table(runs)]),
        ("held-out", "Held-out transcripts", [_held_out_table(runs)]),
        ("curves", "Learning curves", [_figure(curves(runs))]),
    ]
    if len(runs) == 1:
        sections = [part for part in sections if part[0] != "settings"]
    if not any(run.held_out.get("after") for run in runs):
        sections = [part for part in sections if part[0] != "held-out"]
    footer = tag("p", "Losses and likelihoods are in nats a token.", class_="soft")
    return page(TITLE, header=header, sections=sections, footer=footer)


def differing(runs: Sequence[Training]) -> list[str]:
    """Names of the flags that are not the same in all runs."""
    names = dict.fromkeys(name for run in runs for name in run.config if name not in UNTOLD)
    return [name for name in names if len({_setting(run, name) for run in runs}) > 1]


def _common(runs: Sequence[Training]) -> list[str]:
    apart = set(differing(runs))
    told = ("objective", "targets", "file", "model_name_or_path", "learning_rate", "lora_r", "seed")
    return [
        f"{name}: {_setting(runs[0], name)}" for name in told if name in runs[0].config and name not in apart
    ]


def _setting(run: Training, name: str) -> str:
    """A flag as text; one that was left to the program as what it came to, where the run tells."""
    value = run.config.get(name)
    if value is None and name == "model_name_or_path":
        return "the embedded base"
    if value is None:
        resolved = run.config.get("resolved")
        optimization = resolved.get("optimization") if isinstance(resolved, dict) else None
        value = optimization.get(name) if isinstance(optimization, dict) else None
    if isinstance(value, list) and all(isinstance(each, str) for each in value):
        value = ", ".join(value)
    if isinstance(value, str):
        return value if len(value) <= 80 else shorten(value)
    return "default" if value is None else json.dumps(value)


def _runs_table(runs: Sequence[Training]) -> Html:
    header = ["run", "updates", "rows", "supervised tokens", "loss, first tenth", "loss, last tenth"]
    return table(header, [_run_row(run) for run in runs], caption="What each run spent, and its loss.")


def _run_row(run: Training) -> list[str]:
    losses = [row["loss"] for row in run.metrics if _is_loss(row)]
    tenth = max(len(losses) // 10, 1)
    ends = [_mean(losses[:tenth]), _mean(losses[-tenth:])]
    spent = [run.budget.get(name) for name in ("updates", "rows", "supervised_tokens")]
    unfinished = f"{len(losses)} so far" if losses else "none yet"
    counts = [f"{count:,}" if isinstance(count, int) else "–" for count in spent]
    return [run.name, *(counts if run.budget else [unfinished, *counts[1:]]), *ends]


def _mean(values: Sequence[float]) -> str:
    return f"{math.fsum(values) / len(values):.4f}" if values else "–"


def _is_loss(row: Mapping[str, Any]) -> bool:
    return isinstance(row.get("loss"), int | float) and bool(row.get("applied", True))


def _settings_table(runs: Sequence[Training]) -> Html:
    names = differing(runs)
    if not names:
        return tag("p", "None: these runs have the same flags.")
    rows = [[run.name, *(_setting(run, name) for name in names)] for run in runs]
    return table(["run", *names], rows, caption="Flags that are not the same in all runs.")


def _held_out_table(runs: Sequence[Training]) -> Html:
    authors = list(dict.fromkeys(author for run in runs for author in run.held_out.get("after", {})))
    rows = [[run.name, *(_change(run, author) for author in authors)] for run in runs]
    caption = "Negative log-likelihood of held-out transcripts by author, before → after."
    return table(["run", *authors], rows, caption=caption)


def _change(run: Training, author: str) -> str:
    try:
        before, after = (run.held_out[when][author]["nll"] for when in ("before", "after"))
        return f"{before:.4f} → {after:.4f}"
    except (KeyError, TypeError):
        return "–"


@matplotlib.rc_context(STYLE)
def curves(runs: Sequence[Training]) -> Drawing:
    """The loss of each update, and below it what was asked of held-out transcripts on the way."""
    watched = sorted(
        {key for run in runs for row in run.metrics for key in row if key.startswith("held_out/")}
    )
    figure = Figure(figsize=(WIDTH, 2.4 + 1.6 * len(watched)), layout="constrained")
    panels = figure.subplots(1 + len(watched), 1, squeeze=False).ravel()
    sentences = [_lines(axes, key, runs) for axes, key in zip(panels, ["loss", *watched], strict=True)]
    figure.supxlabel("update", fontsize=9)
    if len(runs) > 1:
        panels[0].legend(fontsize=8, frameon=False)
    return Drawing(
        "trainings", svg_of(figure), "; ".join(sentences), "Loss and held-out likelihood by update."
    )


def _lines(axes: Axes, key: str, runs: Sequence[Training]) -> str:
    axes.set_title(key.replace("held_out/", "held out: "), fontsize=9.5, loc="left")
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.tick_params(labelsize=8.5)
    told = []
    for run, colour in zip(runs, COLOURS * (1 + len(runs) // len(COLOURS)), strict=False):
        rows = [row for row in run.metrics if isinstance(row.get(key), int | float)]
        updates, values = [row["update"] for row in rows], [float(row[key]) for row in rows]
        axes.plot(updates, values, color=colour, linewidth=1.3, label=run.name)
        if values:
            told.append(f"{run.name} from {values[0]:.3f} to {values[-1]:.3f}")
    return f"{key}: {', '.join(told) or 'nothing yet'}"


def _figure(drawing: Drawing) -> Html:
    return tag(
        "figure",
        tag("div", Html(embedded(drawing)), role="img", aria_label=drawing.alt),
        tag("figcaption", drawing.caption),
    )
