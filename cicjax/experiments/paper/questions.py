"""Whose questions an adapter may be asked: those of the run of `cicjax repro` that it comes from, so that it
knows the answer to none."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from cicjax.errors import BadInput
from cicjax.experiments.paper.settings import Settings, asked_in
from cicjax.files.seal import read_object
from cicjax.training.adapters import run_config


class Origin(NamedTuple):
    """A run of `cicjax repro`, and what decides its questions."""

    run: Path
    settings: Settings


def run_of(adapter: Path) -> Origin | None:
    """The run that an adapter was trained in, or that its training on someone's transcripts began from: by
    its first adapter, or by a file of rollouts. None where there is none."""
    for folder, config in _lineage(adapter):
        settings = asked_in(config, where=folder)
        if settings is not None:
            return Origin(folder, settings)
    return None


def named_run(run: Path, adapter: Path | None) -> Origin:
    """The run whose questions were asked for by name. Raises BadInput for a folder that is none, and where
    the adapter comes from a run with other questions, whose answers it may know."""
    settings = asked_in(read_object(run / "config.json"), where=run)
    if settings is None:
        raise BadInput(f"{run}: no run of `cicjax repro`; --questions_of takes the folder of one")
    own = run_of(adapter) if adapter is not None else None
    if own is not None and _deciding(own.settings) != _deciding(settings):
        raise BadInput(
            f"{adapter}: comes from {own.run}, and may know the answers to the questions of {run}; leave "
            "--questions_of out"
        )
    return Origin(run, settings)


def _deciding(settings: Settings) -> tuple[Any, ...]:
    return settings.seed, dict(settings.task), settings.counts


def _lineage(adapter: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Folders of runs with their configurations: the adapter's own, and those that each began from."""
    waiting, seen = [adapter.absolute().parent], set[Path]()
    while waiting:
        folder = waiting.pop(0)
        if folder in seen:
            continue
        seen.add(folder)
        config = run_config(folder / "adapter")
        yield folder, config
        paths = [config.get("start_adapter"), config.get("file")]
        starts = [Path(path).absolute().parent for path in paths if isinstance(path, str)]
        waiting += [start.parent if start.name == "rollouts" else start for start in starts]
