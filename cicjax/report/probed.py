"""Finished runs of the experiments that probe a model's beliefs, and what their pages share."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.ticker import MaxNLocator

from cicjax.errors import BadInput, Corrupted
from cicjax.files.seal import read_json
from cicjax.report import accounts
from cicjax.report.drawing import INK, STYLE, Drawing, canvas, svg_of
from cicjax.report.runs import command_of
from cicjax.statistics import t_interval
from cicjax.views.html import Child, bullets, join, tag

COLOURS = ("#3f6fa8", "#b5473c", "#7fae9b", "#c9a227", "#7b5ea7", "#8a929b")
MARKERS = ("o", "s", "^", "D", "v", "P")
DASHES = (":", "--")
Record = dict[str, Any]


@dataclass(frozen=True)
class Probed:
    """A run: its folder, config.json, environment.json and results.json."""

    folder: Path
    config: Record
    environment: Record
    results: Record

    @property
    def seed(self) -> int:
        return self.results["seed"]

    @property
    def arms(self) -> Record:
        return self.results["arms"]


def shared_arms(runs: Sequence[Probed]) -> list[str]:
    """The rows that all runs have, in the order of the first."""
    return [name for name in runs[0].arms if all(name in run.arms for run in runs)]


def experiment_of(folder: Path) -> str:
    """The experiment that a folder's results.json is of; paper where it does not say."""
    path = folder / "results.json"
    value = read_json(path) if path.is_file() else {}
    return value.get("experiment", "paper") if isinstance(value, dict) else "paper"


def read_probed(folders: Sequence[Path], keys: Sequence[str]) -> list[Probed]:
    """Runs of one experiment in order of their seeds, whose arms have these keys. Raises BadInput where they
    are not one, Corrupted for results that no run wrote."""
    runs = sorted((_read(folder, keys) for folder in folders), key=lambda run: run.seed)
    first = runs[0].results
    for run in runs[1:]:
        settings = {**run.results["settings"], "seed": first["seed"]}
        if (run.results["model"], settings) != (first["model"], first["settings"]):
            raise BadInput(f"{run.folder}: another experiment than {runs[0].folder}; report them one by one")
    if len({run.seed for run in runs}) < len(runs):
        raise BadInput("a seed is there twice; name each seed once")
    return runs


def _read(folder: Path, keys: Sequence[str]) -> Probed:
    path = folder / "results.json"
    found = read_json(path)
    try:
        settings, arms = found["settings"], found["arms"]
        whole = isinstance(found["seed"], int) and isinstance(found["model"], str) and "seed" in settings
        whole = whole and all(key in row for row in arms.values() for key in keys) and bool(arms)
    except (KeyError, TypeError, AttributeError):
        whole = False
    if not whole:
        raise Corrupted(f"{path}: not what `cicjax repro` writes; restore it from a copy or repeat the run")
    others = (folder / name for name in ("config.json", "environment.json"))
    config, environment = (read_json(other) if other.is_file() else {} for other in others)
    return Probed(folder, config, environment, found)


def header(runs: Sequence[Probed], title: str, what: str) -> Child:
    """What this is, and of which weights."""
    config, weights = runs[0].config, []
    if "model_name_or_path" in config:
        named = config["model_name_or_path"]
        weights = [f"weights: {Path(str(named)).name if named else 'the embedded base'}"]
    facts = [
        *weights,
        f"fingerprint {runs[0].results['model'][:12]}",
        f"seed {', '.join(str(run.seed) for run in runs)}",
    ]
    return join([tag("h1", title), bullets(facts, "facts"), tag("p", what)])


def origin(runs: Sequence[Probed]) -> tuple[str, str, list[Child]]:
    """The command of the first run, its environment and every setting."""
    run, parts = runs[0], []
    if words := command_of(run.config):
        parts.append(tag("pre", " ".join(shlex.quote(word) for word in words), class_="command"))
    parts.append(
        accounts.named_values(
            run.environment, head=("environment", ""), caption="What made these numbers.", kind="text"
        )
    )
    return "origin", "How it was made", [*parts, accounts.settings_table(run.results["settings"])]


def spread(values: Sequence[float], digits: int = 2) -> str:
    """A mean, over several seeds with its t-interval."""
    mean, low, high = t_interval(values)
    if len(values) == 1:
        return f"{mean:.{digits}f}"
    return f"{mean:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


@matplotlib.rc_context(STYLE)
def curves(
    name: str,
    series: Mapping[str, Mapping[float, Sequence[float]]],
    *,
    x: str,
    y: str,
    caption: str,
    exact: Mapping[str, Mapping[float, float]] | None = None,
) -> Drawing:
    """Lines over x, a mark a mean of seeds, the seeds themselves small; `exact` lines are theory's."""
    figure, axes = canvas(3.0)
    sentences = []
    for (label, points), colour, marker in zip(series.items(), COLOURS, MARKERS, strict=False):
        means = {place: sum(values) / len(values) for place, values in points.items()}
        axes.plot(
            list(means), list(means.values()), f"{marker}-", color=colour, mec=INK, mew=0.6, label=label
        )
        for place, values in points.items():
            axes.plot([place] * len(values), values, ".", color=colour, alpha=0.5, markersize=4)
        sentences.append(f"{label}: {', '.join(f'{place:g}: {mean:.2f}' for place, mean in means.items())}")
    for (label, line), dashes in zip((exact or {}).items(), DASHES, strict=False):
        axes.plot(list(line), list(line.values()), dashes, color=INK, linewidth=1.2, label=label)
    axes.axhline(0, color=INK, linewidth=0.6)
    if all(place.is_integer() for points in series.values() for place in points):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    figure.legend(loc="outside upper left", ncols=2, frameon=False, fontsize=9.5)
    return Drawing(name, svg_of(figure), f"Lines over {x}. {'; '.join(sentences)}.", caption)
