"""A run's folder: one configuration, one writer at a time, and stages whose finished chunks are never
computed again."""

import fcntl
import hashlib
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from cicjax import signals
from cicjax.errors import BadInput, Corrupted, Locked, shorten
from cicjax.files import strict
from cicjax.files.whole import (
    TEMPORARY,
    json_lines,
    parse_json_lines,
    private_folder,
    read_json,
    read_jsonl,
    write_bytes,
    write_json,
    write_jsonl,
)

Chunk = TypeVar("Chunk")
Row = dict[str, Any]


class RunFolder:
    """`with RunFolder(path, config) as folder:` holds the folder's lock and has settled its config.json.

    The first run writes `config` as it is; a later one must bring the same, apart from the names in
    `outside_identity`: those that change how fast results come but not what they are. A name is dotted where
    the configuration nests ("sft.device"), and stands for everything below it. Raises Locked, with the
    holder's details, where another process is at work; BadInput on a different configuration or a path that
    can be no folder; Corrupted if config.json is damaged.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        config: Mapping[str, Any],
        *,
        outside_identity: Collection[str] = (),
    ) -> None:
        self.path = Path(path)
        self._config = json.loads(json.dumps(config, allow_nan=False))
        self._outside_identity = frozenset(outside_identity)
        self._lock: int | None = None

    def __enter__(self) -> Self:
        try:
            private_folder(self.path)
            self._lock = _take_lock(self.path)
        except OSError as error:
            raise BadInput(
                f"{self.path}: cannot be used as a run folder ({error.strerror}); choose another --output_dir"
            ) from error
        try:
            self._settle_config()
            for leftover in self.path.rglob(f".*{TEMPORARY}"):
                leftover.unlink(missing_ok=True)
        except BaseException:
            self._release()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._release()

    def _release(self) -> None:
        if self._lock is not None:
            # Emptied, not deleted: a process that waits for this very file would lock a name that no longer
            # leads to it.
            os.ftruncate(self._lock, 0)
            os.close(self._lock)
            self._lock = None

    def _settle_config(self) -> None:
        path = self.path / "config.json"
        if not path.exists():
            write_json(path, self._config)
            return
        differences = [
            f"{name} is {_shown(there)} there and {_shown(here)} here"
            for name, there, here in _differences(read_json(path), self._config)
            if not any(
                name == outside or name.startswith(f"{outside}.") for outside in self._outside_identity
            )
        ]
        # What a flag resolves to differs with the flag; one of the two says enough.
        reasons = [line for line in differences if not line.startswith("resolved.")] or differences
        if reasons:
            more = f"; and {len(reasons) - 4} more" if len(reasons) > 4 else ""
            what = "; ".join(reasons[:4])
            raise BadInput(
                f"{path}: the folder holds another configuration, choose another --output_dir: {what}{more}"
            )


def write_in_chunks(
    path: Path,
    chunks: Sequence[Chunk],
    *,
    work: Callable[[int, Chunk], Sequence[Mapping[str, Any]]],
    progress: Callable[[int, int], None] | None = None,
    stop: Callable[[list[Row]], bool] | None = None,
) -> list[Row]:
    """Rows of the stage whose file is `path`: read if it is there, else computed chunk by chunk and then
    written whole.

    `work(index, chunk)` gives a chunk's rows; they are kept in PATH.parts until all are there, so that a
    repeated call computes only what is missing. `stop(rows)` is asked after every row with the rows up to it;
    the file ends with the row at which it first says yes. It must depend on the rows alone, as must `chunks`
    on the stage alone, or a resumed run would differ. `progress(done, total)` counts chunks, from those found
    finished on. Raises Corrupted where a file has changed.
    """
    parts = path.with_name(path.name + ".parts")
    if not path.exists():
        write_jsonl(path, _until(_chunk_rows(parts, chunks, work=work, progress=progress), stop))
    rows = read_jsonl(path)
    if parts.exists():
        shutil.rmtree(parts)
    return rows


def _chunk_rows(
    parts: Path,
    chunks: Sequence[Chunk],
    *,
    work: Callable[[int, Chunk], Sequence[Mapping[str, Any]]],
    progress: Callable[[int, int], None] | None,
) -> Iterator[Row]:
    computed = False
    for index, chunk in enumerate(chunks):
        part = parts / f"{index:05d}.jsonl"
        if not part.exists():
            if progress and not computed:
                progress(index, len(chunks))
            computed = True
            _write_part(part, work(index, chunk))
            signals.check()
            if progress:
                progress(index + 1, len(chunks))
        yield from _read_part(part)


def _until(rows: Iterator[Row], stop: Callable[[list[Row]], bool] | None) -> Iterator[Row]:
    seen: list[Row] = []
    for row in rows:
        yield row
        seen.append(row)
        if stop and stop(seen):
            return


def _write_part(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """A chunk's rows below a line with their digest: a file cut at the end of a row must be noticed too."""
    body = json_lines(rows).encode()
    write_bytes(path, json_lines([{"sha256": hashlib.sha256(body).hexdigest()}]).encode() + body)


def _read_part(path: Path) -> list[Row]:
    head, _, body = path.read_bytes().partition(b"\n")
    if head + b"\n" != json_lines([{"sha256": hashlib.sha256(body).hexdigest()}]).encode():
        raise Corrupted(
            f"{path}: not the bytes that were written; "
            "delete it and repeat the command to compute this chunk again"
        )
    return parse_json_lines(body)


def _take_lock(path: Path) -> int:
    """Descriptor of the locked file. The lock belongs to the open file, so the kernel frees it however its
    holder ends."""
    descriptor = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(descriptor, 0)
        holder = {
            "pid": os.getpid(),
            "host": platform.node(),
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        os.pwrite(descriptor, json.dumps(holder).encode(), 0)
    except BlockingIOError:
        content = os.pread(descriptor, 4096, 0)
        os.close(descriptor)
        raise Locked(
            f"{path}: in use by {_describe_holder(content)}; "
            "wait until it ends or choose another --output_dir"
        ) from None
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def holder(path: Path) -> str | None:
    """Who is at work in a run's folder; None where nobody is, or nobody ever was."""
    try:
        descriptor = os.open(path / "lock", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return None
    except OSError:
        return _describe_holder(os.pread(descriptor, 4096, 0))
    finally:
        os.close(descriptor)


def locks_exclude(path: Path) -> bool:
    """Whether a second lock on a file of this folder's file system is refused while the first one stands."""
    try:
        with tempfile.TemporaryFile(dir=path) as one, open(f"/proc/self/fd/{one.fileno()}", "rb") as other:
            fcntl.flock(one, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _describe_holder(content: bytes) -> str:
    try:
        holder = strict.load(content)
        return f"process {holder['pid']} on {holder['host']} since {holder['started']}"
    except (BadInput, KeyError, TypeError):
        return "another process"  # It has the lock and has not yet said who it is.


def _differences(there: Any, here: Any, *, name: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Dotted names under which two JSON values differ, with both values; `_ABSENT` where one has none."""
    if isinstance(there, dict) and isinstance(here, dict):
        for key in sorted(there.keys() | here.keys()):
            yield from _differences(
                there.get(key, _ABSENT), here.get(key, _ABSENT), name=f"{name}.{key}" if name else key
            )
    elif there != here or isinstance(there, bool) != isinstance(here, bool):
        yield name or "the whole", there, here


_ABSENT = object()


def _shown(value: Any) -> str:
    return "absent" if value is _ABSENT else shorten(value)
