"""report.html: a finished run, or the seeds of one experiment, as one file that needs nothing else, and its
figures as SVG files.

What is written here is read from run folders; nothing is computed anew but sums, means and intervals. The
same folders give the same bytes.
"""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any

from cicjax.errors import BadInput, Corrupted, printable
from cicjax.files.whole import write_text
from cicjax.methods import START
from cicjax.report import (
    boxes,
    dialogues,
    figures,
    homes,
    information,
    online,
    probed,
    sections,
    theory,
    trainings,
)
from cicjax.report.contrasts import chosen
from cicjax.report.drawing import Drawing
from cicjax.report.runs import FinishedRun, pooled, pooled_ledger, read_runs
from cicjax.views.html import page


def write_report(
    folders: Sequence[str | Path], output: str | Path | None = None, *, contrasts: Sequence[str] = ()
) -> Path:
    """Write the page and its figures; gives the page's path. Raises BadInput or Corrupted before anything is
    written.

    `contrasts`, each FIRST:SECOND, are pairs of rows of the paper's experiment that the page compares beside
    the claims.

    One run without `output`: RUN/report.html and RUN/figures/. Otherwise OUTPUT and, beside it, a folder of
    OUTPUT's name, less its ending, with "-figures". Runs of `cicjax train` and an agent's home make pages of
    their own kind.
    Pages are as the umask has them; a run's folder is its owner's.
    """
    named = [Path(folder) for folder in folders]
    if contrasts and not _of_paper(named):
        raise BadInput(f"{named[0]}: --contrasts compares rows of runs of the paper; leave it out here")
    if any(map(homes.is_home, named)):
        return _write_home(named, output)
    if any(map(trainings.is_training, named)):
        compared = trainings.read_trainings(named)
        target, _ = _places(named, output)
        write_text(target, trainings.render(compared), private=False)
        return target
    parts = _parts({probed.experiment_of(folder) for folder in named})
    if parts is None:
        runs = read_runs(named)
        asked = chosen(contrasts, runs)
        target, drawings_folder = _places([run.folder for run in runs], output)
        drawings = draw(runs)
        content = render_page(runs, drawings, asked)
    else:
        others = probed.read_probed(named, parts.KEYS)
        target, drawings_folder = _places([run.folder for run in others], output)
        drawings, content = _probed(parts, others)
    drawings = [*drawings, *theory.drawings()]
    for drawing in drawings:
        write_text(drawings_folder / f"{drawing.name}.svg", drawing.svg, private=False)
    write_text(target, content, private=False)
    return target


def _of_paper(folders: Sequence[Path]) -> bool:
    if any(homes.is_home(folder) or trainings.is_training(folder) for folder in folders):
        return False
    return _parts({probed.experiment_of(folder) for folder in folders}) is None


def _probed(parts: Any, runs: Sequence[probed.Probed]) -> tuple[Sequence[Drawing], str]:
    """The figures and the page of an experiment that probes beliefs. Raises Corrupted for results that have
    its keys and not its values."""
    try:
        drawings, results = parts.draw(runs), parts.results(runs)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        where = ", ".join(str(run.folder / "results.json") for run in runs)
        raise Corrupted(
            f"{where}: not what `cicjax repro` writes ({type(error).__name__}: {printable(str(error))}); "
            "restore it from a copy or repeat the run"
        ) from error
    return drawings, _probed_page(parts, runs, results, drawings)


def _write_home(folders: Sequence[Path], output: str | Path | None) -> Path:
    """The page of an agent's home."""
    if len(folders) > 1:
        raise BadInput(f"{folders[0]}: an agent lives here; report it alone")
    target, drawings_folder = _places(folders, output)
    living = homes.read_home(folders[0])
    drawings = homes.draw(living)
    for drawing in drawings:
        write_text(drawings_folder / f"{drawing.name}.svg", drawing.svg, private=False)
    write_text(target, homes.render(living, drawings), private=False)
    return target


def _parts(experiments: AbstractSet[str]) -> Any:
    """The module of an experiment that probes beliefs, None for the paper's. Raises BadInput for several."""
    if len(experiments) > 1:
        raise BadInput(f"runs of {' and '.join(sorted(experiments))}: one report is of one experiment")
    return {"dialogues": dialogues, "boxes": boxes, "online": online}.get(next(iter(experiments), "paper"))


def _places(folders: Sequence[Path], output: str | Path | None) -> tuple[Path, Path]:
    output = None if output is None else Path(output)
    if output is None:
        if len(folders) > 1:
            raise BadInput("several runs make one report: say where with --output FILE")
        return folders[0] / "report.html", folders[0] / "figures"
    if output.is_dir() or not output.parent.is_dir():
        raise BadInput(f"{output}: no place for a file; name one in a folder that is there")
    if output.suffix.lower() not in (".html", ".htm"):
        # Nothing else that this package writes or reads is called so, results.json least of all.
        raise BadInput(f"{output}: the page is an HTML file; end its name in .html")
    return output, output.with_name(f"{output.stem}-figures")


def draw(runs: Sequence[FinishedRun]) -> list[Drawing]:
    """The figures that the runs have the numbers for, in the order of the page: the numbered ones first."""
    methods, ledger = pooled(runs), pooled_ledger(runs)
    arms = figures.stream_arms(methods)
    drawings = []
    if ledger and figures.position_bars(ledger, methods):
        drawings.append(figures.positions(ledger, methods))
    if attempts := [attempt for run in runs for attempt in _attempts(run)]:
        drawings.append(figures.composition(attempts))
    drawings.append(figures.protocols(methods))
    if arms:
        drawings.append(figures.stream_matched(methods))
    if len(runs) > 1 and START in methods and len(methods) > 1:
        drawings.append(
            figures.differences({name: [run.methods[name].accuracy for run in runs] for name in methods})
        )
    if any(row.gains is not None for row in methods.values()):
        drawings.append(figures.self_confirmation(methods, {name: _points(runs, name) for name in methods}))
    if any(row.usable_information for row in methods.values()):
        drawings.append(
            information.usable_information(methods, {name: _leaves(runs, name) for name in methods})
        )
    if len(runs) == 1 and runs[0].metrics:
        drawings.append(figures.learning_curves(runs[0].metrics))
    return drawings if len(runs) == 1 else [_added_up(drawing, len(runs)) for drawing in drawings]


def _added_up(drawing: Drawing, seeds: int) -> Drawing:
    if not drawing.name.startswith("figure"):
        return drawing
    intervals = "; the intervals speak of questions, not of seeds" if drawing.name == "figure4-solved" else ""
    return drawing._replace(caption=f"{drawing.caption} Counts of {seeds} seeds added up{intervals}.")


def _points(runs: Sequence[FinishedRun], name: str) -> list[tuple[float, float]]:
    rows = [run.methods[name] for run in runs]
    return [row.gains for row in rows if row.gains is not None]


def _leaves(runs: Sequence[FinishedRun], name: str) -> list[float]:
    told = [(run.methods[name].usable_information or {}).get("where_it_leaves") for run in runs]
    return [nats for nats in told if nats is not None]


def _attempts(run: FinishedRun) -> list[tuple[str, str, bool]]:
    """(skill, question, right) of every first attempt; a question of another seed is another question."""
    attempts = []
    for episode in run.stream:
        meta = episode.meta or {}
        question = f"{run.seed} {meta.get('problem', episode.id)}"
        attempts.append((str(meta.get("skill", "unnamed")), question, episode.messages[1].solved == 1))
    return attempts


def render_page(
    runs: Sequence[FinishedRun], drawings: Sequence[Drawing], pairs: Sequence[tuple[str, str]] = ()
) -> str:
    """The whole page as text; `pairs` are the contrasts asked for."""
    parts = [
        sections.results(runs, pairs),
        sections.drawings(drawings),
        theory.section(sections.figures_of(theory.drawings())),
        *sections.browsing(runs),
        sections.budgets(runs),
        sections.choices(runs[0]),
        sections.origins(runs),
    ]
    seeds = f"seed {runs[0].seed}" if len(runs) == 1 else f"{len(runs)} seeds"
    title = f"{sections.TITLE}: {seeds}"
    return page(title, header=sections.header(runs), sections=parts, footer=sections.footer())


def _probed_page(
    parts: Any, runs: Sequence[probed.Probed], results: sections.Section, drawings: Sequence[Drawing]
) -> str:
    """The page of an experiment that probes beliefs; `parts` is its module."""
    shown = [
        results,
        *([sections.drawings(drawings)] if drawings else []),
        theory.section(sections.figures_of(theory.drawings())),
        probed.origin(runs),
    ]
    header = probed.header(runs, parts.TITLE, parts.WHAT)
    return page(parts.TITLE, header=header, sections=shown, footer=sections.footer())
