"""A training's numbers for the pages that people keep open beside it: TensorBoard, Weights & Biases.

Each library is imported where it is asked for and nowhere else. metrics.jsonl has the same numbers, and is
what runs are resumed and compared by.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from cicjax.devices import hosts
from cicjax.errors import BadInput
from cicjax.files import seal

Name = Literal["none", "tensorboard", "wandb"]
Dashboard = Callable[[int, Mapping[str, float]], None]


def check(names: Sequence[Name]) -> None:
    """Raise BadInput where the library of one of them is missing."""
    for name in names:
        if name != "none":
            _library(name)


@contextmanager
def opened(names: Sequence[Name], folder: Path, *, config: Mapping[str, Any]) -> Iterator[Dashboard | None]:
    """What to call with the number and the values of every update, None where nobody asked; `config` is the
    run's. Of several hosts the first alone tells."""
    if not hosts.first() or not set(names) - {"none"}:
        yield None
        return
    with ExitStack() as stack:
        told = [
            stack.enter_context(OPEN[name](folder, config)) for name in dict.fromkeys(names) if name != "none"
        ]

        def tell(update: int, values: Mapping[str, Any]) -> None:
            numbers = {name: float(value) for name, value in values.items() if type(value) in (int, float)}
            for dashboard in told:
                dashboard(update, numbers)

        yield tell


@contextmanager
def _tensorboard(folder: Path, config: Mapping[str, Any]) -> Iterator[Dashboard]:
    """Events in FOLDER/tensorboard. What is made again after a kill takes the place of what was lost."""
    writer = _library("tensorboard.summary.writer.event_file_writer").EventFileWriter(
        str(folder / "tensorboard")
    )
    events = _library("tensorboard.compat.proto.event_pb2")
    summaries = _library("tensorboard.compat.proto.summary_pb2")
    begun = False

    def tell(update: int, values: Mapping[str, float]) -> None:
        nonlocal begun
        if not begun:
            start = events.SessionLog(status=events.SessionLog.START)
            writer.add_event(events.Event(wall_time=time.time(), step=update, session_log=start))
            begun = True
        points = [summaries.Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        summary = summaries.Summary(value=points)
        writer.add_event(events.Event(wall_time=time.time(), step=update, summary=summary))

    try:
        yield tell
    finally:
        writer.close()


@contextmanager
def _wandb(folder: Path, config: Mapping[str, Any]) -> Iterator[Dashboard]:
    """A run by the name of the folder and with the id of its seal, which a resumed training goes on with; its
    files are in FOLDER/wandb. The environment says which project, and whether anything is sent."""
    known = {"id": seal.run_id(folder / "config.json"), "resume": "allow"}
    run = _library("wandb").init(name=folder.name, dir=str(folder), config=dict(config), **known)
    try:
        yield lambda update, values: run.log(values, step=update)
    finally:
        run.finish()


OPEN = {"tensorboard": _tensorboard, "wandb": _wandb}


def _library(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError:
        package = name.split(".")[0]
        raise BadInput(
            f"--report_to {package}: the package {package} is not installed; pip install {package}, or leave "
            "the flag out: metrics.jsonl has every update, and `cicjax report RUN` draws it"
        ) from None
