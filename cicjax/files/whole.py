"""Files that are there whole or not at all, private to their owner, with digests that notice a changed
byte."""

import errno
import fcntl
import glob
import hashlib
import itertools
import json
import os
import secrets
import shutil
import stat
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from cicjax.errors import BadInput, Corrupted, OutOfResources
from cicjax.files import strict

# How the name of a file, and of a folder outside of runs, ends while it is being made.
TEMPORARY, PARTIAL = ".cicjax-tmp", ".partial"
REMEDY = "delete it and repeat the command that made it"


def private_folder(path: Path) -> Path:
    """Create the folder, and what is missing above it, for its owner alone (0o700); leave an existing one as
    it is."""
    for folder in reversed([path, *path.parents]):
        if not folder.exists():
            folder.mkdir(mode=0o700, exist_ok=True)
    path.mkdir(exist_ok=True)  # Raises FileExistsError where a file has the name.
    return path


@contextmanager
def replacing(path: Path, *, mode: int) -> Iterator[BinaryIO]:
    """A file to write that takes the name `path` when the block ends: a reader, or a crash at any moment,
    sees the old file or the whole new one.

    `mode` is less what the umask takes away. Raises OutOfResources when the disk is full; the old file stays
    then, as after any other error.
    """
    temporary = unfinished(path, TEMPORARY)
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with os.fdopen(descriptor, "wb") as file:
            hold(descriptor)
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OutOfResources(f"{path}: {no_space(path)}") from error
        raise
    finally:
        with suppress(OSError):
            temporary.unlink()
    sync(path.parent)


def unfinished(path: Path, ending: str) -> Path:
    """A name beside `path` for what will take its name."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}{ending}")


def hold(descriptor: int) -> None:
    """Show that whoever makes this unfinished file or folder is alive: the kernel forgets it with the
    process."""
    with suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def sweep_beside(path: Path) -> None:
    """Remove what a kill left half made beside `path`, for its name: nobody holds it, for a second or
    more."""
    for ending in (TEMPORARY, PARTIAL):
        for leftover in path.parent.glob(f".{glob.escape(path.name)}.????????{ending}"):
            with suppress(OSError):
                if time.time() - leftover.stat().st_mtime < 1:
                    continue  # its maker may be about to hold it
                descriptor = os.open(leftover, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
                finally:
                    os.close(descriptor)


def write_bytes(path: Path, content: bytes, *, private: bool = True) -> None:
    """Put `content` at `path`, whole or not at all, for its owner alone (0o600) where `private`, else as the
    umask has it; folders above it are made, private ones.

    Raises OutOfResources when the disk is full.
    """
    private_folder(path.parent)
    check_space(path, len(content))
    with replacing(path, mode=0o600 if private else 0o666) as file:
        file.write(content)


def check_space(path: Path, need: int) -> None:
    """Raise OutOfResources where the disk of a file or folder has not `need` bytes to give, before anything
    is written."""
    free = _free(path)
    if free is not None and need > free:
        raise OutOfResources(f"{path}: {no_space(path, need)}")


def no_space(path: Path, need: int | None = None) -> str:
    """What is to be said of a full disk: need, what is free, and what to do."""
    free = _free(path)
    numbers = {"needed": need, "free": free}
    said = ", ".join(f"{count:,} bytes {name}" for name, count in numbers.items() if count is not None)
    return f"no space left on the disk ({said}); free some and repeat the command"


def _free(path: Path) -> int | None:
    """Bytes that the disk under `path` has to give; None where the file system does not say."""
    folder = next(folder for folder in (path, *path.absolute().parents) if folder.is_dir())
    try:
        facts = os.statvfs(folder)
    except OSError:
        return None
    return facts.f_bavail * facts.f_frsize if facts.f_blocks else None


def write_lines(path: str | Path, lines: Iterable[str], *, private: bool = True) -> None:
    """Put lines of text at `path`, whole or not at all; a link is followed, `-` is standard output. A new
    file is its owner's alone where `private`, as transcripts are, else as the umask has it; one that was
    there keeps its permissions. What a kill left of an earlier try goes.

    Raises BadInput where that cannot be done, OutOfResources when the disk is full.
    """
    if str(path) == "-":
        sys.stdout.writelines(f"{line}\n" for line in lines)
        return
    target = Path(path).resolve()
    if target.exists() and not target.is_file():
        # renaming onto a device would replace the device
        raise BadInput(f"{path}: is no ordinary file; name one to be written")
    sweep_beside(target)
    try:
        mode = 0o600 if private else 0o666
        with replacing(target, mode=mode) as file:
            if target.exists():
                permit(file.fileno(), stat.S_IMODE(target.stat().st_mode))
            file.writelines(f"{line}\n".encode() for line in lines)
    except (FileNotFoundError, PermissionError, NotADirectoryError) as error:
        raise BadInput(f"{path}: cannot be written ({error.strerror})") from None


def permit(path: Path | int, mode: int) -> None:
    """chmod, where the file system has permissions; elsewhere its mount says who may read."""
    try:
        os.chmod(path, mode)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL):
            raise


def sync(path: Path) -> None:
    """Make a file, or the names in a folder, durable: a rename is lost in a power cut until its folder is
    written too."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str, *, private: bool = True) -> None:
    """`write_bytes` of UTF-8 text."""
    write_bytes(path, text.encode(), private=private)


def write_json(path: Path, value: Any) -> None:
    """`write_bytes` of `json_text`."""
    write_text(path, json_text(value))


def json_text(value: Any) -> str:
    """Indented JSON with a final newline. Raises ValueError on nan and infinity, which are no JSON."""
    return _json(value, indent=2) + "\n"


def read_json(path: Path) -> Any:
    """The value in a JSON file that a run wrote. Raises Corrupted where it does not parse."""
    try:
        return strict.load(path.read_bytes())
    except BadInput as error:
        raise Corrupted(f"{path}: not the JSON that was written ({error}); restore it from a copy") from None


def json_lines(rows: Iterable[Mapping[str, Any]]) -> str:
    """One JSON object a line, NumPy scalars and arrays as plain numbers and lists. Raises ValueError on nan
    and infinity."""
    return "".join(_json(row) + "\n" for row in rows)


def parse_json_lines(content: bytes) -> list[dict[str, Any]]:
    """Objects from JSON lines. Raises ValueError naming the line, also when the last one does not end: it was
    cut."""
    *lines, rest = content.split(b"\n")
    rows = []
    for number, line in enumerate([*lines, rest] if rest else lines, start=1):
        try:
            rows.append(strict.load(line))
        except BadInput as error:
            raise ValueError(f"line {number} is damaged ({error})") from error
        if not isinstance(rows[-1], dict):
            raise ValueError(f"line {number} is no JSON object")
    if rest:
        raise ValueError(f"line {len(rows)} is cut short: it does not end in a newline")
    return rows


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def array_digest(array: np.ndarray) -> str:
    """SHA-256 of an array's dtype, shape and values, in hexadecimal: equal for two arrays exactly when they
    are bit-equal."""
    array = np.asarray(array)
    digest = hashlib.sha256(f"{array.dtype.name} {array.shape} ".encode())
    # A flat view of bytes, since bfloat16 offers no buffer; reshape copies only what is not contiguous.
    digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def refuse_same(*paths: Path | None) -> None:
    """Raise BadInput where two of a command's files are one, under whatever names: inputs first, then
    outputs; None is no file."""
    for one, other in itertools.combinations(filter(None, paths), 2):
        there = os.path.exists(one) and os.path.exists(other)
        if os.path.samefile(one, other) if there else os.path.realpath(one) == os.path.realpath(other):
            raise BadInput(f"{other}: is the same file as {one}, which would be lost; name another")


def _json(value: Any, *, indent: int | None = None) -> str:
    text = json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False, default=_plain)
    try:
        text.encode()
    except UnicodeEncodeError:
        # Half of a surrogate pair has no UTF-8; as an escape it survives.
        text = json.dumps(value, indent=indent, allow_nan=False, default=_plain)
    return text


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} has no place in a JSON file")
