"""A run's folder: one configuration, one writer at a time, and stages whose finished chunks are never
computed again."""

import fcntl
import hashlib
import json
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from cicjax.devices import hosts
from cicjax.errors import BadInput, Corrupted, Locked, printable, shorten
from cicjax.files import numbered, seal, strict
from cicjax.files.whole import TEMPORARY, json_lines, parse_json_lines, private_folder, write_bytes

Chunk = TypeVar("Chunk")
Row = dict[str, Any]
CONFIG, LOCK = "config.json", "lock"


class RunFolder:
    """`with RunFolder(path, config) as folder:` holds the folder's lock, has settled its config.json and
    checked what its seal knows.

    The first run writes `config` as it is; a later one must bring the same, apart from the names in
    `outside_identity`: those that change how fast results come but not what they are. A name is dotted where
    the configuration nests ("sft.device"), and stands for everything below it. Raises Locked, with the
    holder's details, where another process is at work; BadInput on a different configuration or a path that
    can be no folder; Corrupted where a sealed file is not as it was written, or one is lost that cannot be
    made again. Others that are lost are named on standard error, for the command makes them again.
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
        hosts.once(self._enter)
        try:
            self._check_shared()
        except BaseException:
            self._release()
            raise
        return self

    def _enter(self) -> None:
        try:
            private_folder(self.path)
            self._lock = _take_lock(self.path)
        except OSError as error:
            raise BadInput(
                f"{self.path}: cannot be used as a run folder ({error.strerror}); choose another --output_dir"
            ) from error
        try:
            _sweep(self.path)
            self._settle_config()
            seal.take(self.path)
            _check_sealed(self.path)
        except BaseException:
            self._release()
            raise

    def _check_shared(self) -> None:
        """Raise BadInput, on every host, where one does not see the lock that the first host took."""
        lock = self.path / "lock"
        holder = hosts.tell(lock.read_text() if hosts.first() else "")
        seen = hosts.soon(lambda: lock.exists() and lock.read_text() == holder)
        if hosts.largest(not seen):
            raise BadInput(
                f"{self.path}: not every host sees what the first one wrote there; name an --output_dir on a "
                "file system that all hosts share"
            )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._release()

    def _release(self) -> None:
        if self._lock is not None:
            seal.release(self.path)
            # Emptied, not deleted: a process that waits for this very file would lock a name that no longer
            # leads to it.
            os.ftruncate(self._lock, 0)
            os.close(self._lock)
            self._lock = None

    def _settle_config(self) -> None:
        path = self.path / CONFIG
        if _is_new(self.path):
            seal.begin(self.path)
            seal.write_json(path, self._config)
            return
        seal.require(self.path)
        differences = [
            f"{name} is {_shown(there)} there and {_shown(here)} here"
            for name, there, here in _differences(seal.read_json(path), self._config)
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
        made = list(_until(_chunk_rows(parts, chunks, work=work, progress=progress), stop))
        hosts.once(lambda: seal.write_jsonl(path, made, once=True))
    rows = seal.read_jsonl(path)
    hosts.once(lambda: shutil.rmtree(parts) if parts.exists() else None)
    return rows


def _chunk_rows(
    parts: Path,
    chunks: Sequence[Chunk],
    *,
    work: Callable[[int, Chunk], Sequence[Mapping[str, Any]]],
    progress: Callable[[int, int], None] | None,
) -> Iterator[Row]:
    """Rows of all chunks in order. Those that are not there yet the hosts compute a turn at a time, one
    each."""
    paths = [parts / f"{index:05d}.jsonl" for index in range(len(chunks))]
    missing = [index for index, path in enumerate(paths) if not path.exists()]
    if progress and missing:
        progress(missing[0], len(chunks))
    for index in range(len(chunks)):
        if index in missing:
            turn, missing = missing[: hosts.count()], missing[hosts.count() :]
            for number in turn[hosts.number() :][:1]:
                write_part(paths[number], work(number, chunks[number]))
            hosts.barrier("chunks")
            hosts.check()
            if progress:
                progress(turn[-1] + 1, len(chunks))
        yield from read_part(paths[index])


def _until(rows: Iterator[Row], stop: Callable[[list[Row]], bool] | None) -> Iterator[Row]:
    seen: list[Row] = []
    for row in rows:
        yield row
        seen.append(row)
        if stop and stop(seen):
            return


def write_part(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Rows of a file that only this run reads, below a line that binds them to run and place: there may be
    many, and a seal of their own is not worth a write for each."""
    body = json_lines(rows).encode()
    write_bytes(path, _head(path, body) + body)


def read_part(path: Path) -> list[Row]:
    """The rows that `write_part` wrote there. Raises Corrupted for anything else."""
    hosts.soon(path.exists)
    head, _, body = path.read_bytes().partition(b"\n")
    if head + b"\n" != _head(path, body):
        raise Corrupted(
            f"{path}: not the bytes that were written here; "
            "delete it and repeat the command to compute this chunk again"
        )
    return parse_json_lines(body)


def _head(path: Path, body: bytes) -> bytes:
    root = seal.root_of(path)
    place = "" if root is None else Path(os.path.abspath(path)).relative_to(root).as_posix()
    record = {"run": seal.run_id(path), "path": place, "sha256": hashlib.sha256(body).hexdigest()}
    return json_lines([record]).encode()


def _sweep(path: Path) -> None:
    """Remove what a kill left half written."""
    numbered.sweep(path, below=True)
    for leftover in path.rglob(f".*{TEMPORARY}"):
        leftover.unlink(missing_ok=True)


def _is_new(path: Path) -> bool:
    """Whether nothing was kept here yet: a kill may have come before the configuration was written. Raises
    Corrupted for a run without its configuration."""
    if (path / CONFIG).exists():
        return False
    sealed = (path / seal.NAME).exists() and seal.read(path)["files"]
    # Others may have put their logs here.
    kept = [
        each.name
        for each in sorted(path.iterdir())
        if each.name not in (LOCK, seal.NAME)
        and (each.is_dir() or each.suffix in (".json", ".jsonl"))
        and not each.name.startswith(".")
    ]
    if sealed or kept:
        what = f"it holds {kept[0]}" if kept else f"{seal.NAME} knows of it"
        raise Corrupted(f"{path / CONFIG}: missing, and {what}; {seal.ANEW}")
    return True


def _check_sealed(path: Path) -> None:
    for name, fault in seal.faults(path):
        if fault != "missing":
            raise Corrupted(f"{path / name}: {fault}; {seal.remedy(path / name)}")
        if name in seal.ONCE:
            raise Corrupted(f"{path / name}: missing; {seal.ANEW}")
        print(printable(f"{path / name}: missing, and is made again"), file=sys.stderr)


def _take_lock(path: Path) -> int:
    """Descriptor of the locked file. The lock belongs to the open file, so the kernel frees it however its
    holder ends."""
    descriptor = os.open(path / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
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


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of a folder that is no run's, and sweep what a kill left half written. Raises Locked
    where another process has it, BadInput for a path that can be no folder."""
    try:
        descriptor = _take_lock(private_folder(path))
    except OSError as error:
        raise BadInput(f"{path}: cannot be used ({error.strerror}); choose another folder") from error
    try:
        _sweep(path)
        yield
    finally:
        os.ftruncate(descriptor, 0)
        os.close(descriptor)


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
