"""What a run reports while it goes: metrics.jsonl for programs, a progress bar or plain lines for people."""

import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, TextIO, TypeVar

from cicjax.devices import hosts
from cicjax.errors import Corrupted
from cicjax.files import seal
from cicjax.files.whole import json_lines, parse_json_lines, private_folder

Item = TypeVar("Item")
ROWS_PER_CHUNK = 128


class MetricsLog:
    """Appends to a run's metrics.jsonl, one object a line: {"stage", "update", ...}.

    A stage that starts anew (`resume_after` None) first drops its own lines of an earlier try; one that
    continues after update N drops those beyond N, so that no update is told twice. Other stages' lines stay.
    Of several hosts the first alone writes. Each line reaches the file before `write` returns: write the
    metrics of update N before its checkpoint and none is lost. Raises Corrupted where a line is damaged.
    """

    def __init__(self, path: Path, *, stage: str, resume_after: int | None = None) -> None:
        self._path, self._stage = path, stage
        self._file: TextIO | None = None
        if not hosts.first():
            return
        private_folder(path.parent)
        content = seal.read_bytes(path) if path.exists() else b""
        # A kill in the middle of a line leaves a line without an end; that update will be made again.
        whole = content[: content.rfind(b"\n") + 1]
        rows = _parse(path, whole)
        kept = [
            row
            for row in rows
            if row["stage"] != stage or (resume_after is not None and row["update"] <= resume_after)
        ]
        if len(kept) < len(rows) or len(whole) < len(content) or not path.exists():
            seal.write_bytes(path, json_lines(kept).encode())
        # Lines may follow from here on: for a reader beside, and for who goes on after a kill.
        seal.extend(path)
        self._file = path.open("a", encoding="utf-8")

    def write(self, update: int, values: Mapping[str, Any]) -> None:
        """Append one update's values: numbers, or arrays of one number. A value that is not finite becomes
        null, named in "non_finite"."""
        row: dict[str, Any] = {"stage": self._stage, "update": int(update)}
        non_finite = {}
        for name, value in values.items():
            number = value.item() if hasattr(value, "item") else value
            if isinstance(number, float) and not math.isfinite(number):
                row[name], non_finite[name] = None, str(number)
            else:
                row[name] = number
        if non_finite:
            row["non_finite"] = non_finite
        if self._file is not None:
            self._file.write(json_lines([row]))
            self._file.flush()

    def seal(self) -> None:
        """Make durable what was told so far, and let none of it be changed or lost unnoticed."""
        if self._file is not None:
            self._file.flush()
            os.fsync(self._file.fileno())
            seal.extend(self._path)

    def close(self) -> None:
        """Close the file; further writes raise ValueError."""
        if self._file is not None:
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_metrics(path: Path, *, stage: str | None = None) -> list[dict[str, Any]]:
    """Rows of metrics.jsonl in order, of one stage where it is named; a last line still being written is left
    out."""
    content = seal.read_bytes(path)
    rows = _parse(path, content[: content.rfind(b"\n") + 1])
    return [row for row in rows if stage is None or row["stage"] == stage]


def _parse(path: Path, content: bytes) -> list[dict[str, Any]]:
    try:
        rows = parse_json_lines(content)
        for number, row in enumerate(rows, start=1):
            if not (isinstance(row.get("stage"), str) and isinstance(row.get("update"), int)):
                raise ValueError(f"line {number} has no stage and update")
    except ValueError as error:
        raise Corrupted(f"{path}: {error}; delete that line and repeat the command") from error
    return rows


class Report(Protocol):
    """Tells how far a stage has come; the first call sets the point from which the time left is reckoned."""

    def __call__(self, done: int, total: int, note: str = "") -> None: ...


@contextmanager
def bar(description: str, *, stream: TextIO | None = None, every: float = 10.0) -> Iterator[Report]:
    """A progress bar with the time left where `stream` (standard error) is a terminal, else a plain line
    every `every` seconds. Of several hosts the first alone tells."""
    if not hosts.first():
        yield lambda done, total, note="": None
        return
    out: TextIO = stream or sys.stderr
    if not out.isatty():
        yield _PlainReport(description, stream=out, every=every)
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    # A long window for the speed: a chunk of work may take minutes. What is printed meanwhile goes above the
    # bar on a terminal, and must not where standard output is a file.
    shared = sys.stdout.isatty()
    with Progress(
        *columns, console=Console(file=out), speed_estimate_period=600, redirect_stdout=shared
    ) as progress:
        task = None

        def report(done: int, total: int, note: str = "") -> None:
            nonlocal task
            if task is None:
                task = progress.add_task(description, total=total, completed=done, note=note)
            progress.update(task, total=total, completed=done, note=note)

        yield report


def in_chunks(
    rows: Sequence[Item], description: str, *, size: int = ROWS_PER_CHUNK
) -> Iterator[tuple[int, Sequence[Item]]]:
    """(number of its first row, rows) of each chunk of at most `size` rows, under a `bar` that counts rows.
    Hosts take the same chunks."""
    with bar(description) as report:
        report(0, len(rows))
        for first in range(0, len(rows), size):
            chunk = rows[first : first + size]
            yield first, chunk
            hosts.check()
            report(first + len(chunk), len(rows))


class _PlainReport:
    def __init__(
        self, description: str, *, stream: TextIO, every: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._description, self._stream, self._every, self._clock = description, stream, every, clock
        self._start: tuple[int, float] | None = None
        self._last = -math.inf

    def __call__(self, done: int, total: int, note: str = "") -> None:
        now = self._clock()
        if self._start is None:
            self._start = (done, now)
        if now - self._last < self._every and done < total:
            return
        self._last = now
        first, since = self._start
        left = (
            f", {_clock_time((now - since) / (done - first) * (total - done))} left"
            if first < done < total
            else ""
        )
        ended = f", {_clock_time(now - since)} taken" if done >= total else ""
        print(
            f"{self._description}: {done}/{total}{left}{ended}{f', {note}' if note else ''}",
            file=self._stream,
            flush=True,
        )


def _clock_time(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"
