"""One seal a run: RUN/seal.json has the run's id and, by relative path, the SHA-256 of every file that is
read again.

A file belongs to the nearest folder above it that holds a seal; where there is none, these functions read and
write as `whole` does. So nothing damaged, cut, lost, or of another run, method or seed is taken for what was
written here: config.json is sealed too, and names base and tokenizer by their digests. The seal is written
before the file that it speaks of takes its name, and remembers which one that was ("pending"): after a kill
in between the old bytes are as good as the new ones.
"""

import hashlib
import json
import os
import secrets
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from cicjax.errors import BadInput, CicjaxError, Corrupted, Locked
from cicjax.files import strict, whole

NAME = "seal.json"
ANEW = "restore it from a copy, or begin anew in another folder"
AGAIN = "restore it from a copy, or repeat the command that made it"
# What no repeated command can make again.
ONCE = ("config.json", "environment.json", "metrics.jsonl")
Record = dict[str, Any]

# The word by which this process wrote itself into the seal of each folder that it holds.
_held: dict[Path, str] = {}
# A state may be saved by a thread of its own.
_one_at_a_time = threading.RLock()


def root_of(path: str | os.PathLike[str]) -> Path | None:
    """The nearest folder above a file that holds a seal."""
    parents = Path(os.path.abspath(path)).parents
    return next((folder for folder in parents if folder in _held or (folder / NAME).is_file()), None)


def run_id(path: str | os.PathLike[str]) -> str | None:
    """Id of the run to which a file belongs, if any."""
    root = root_of(path)
    return None if root is None else read(root)["run"]


def begin(root: Path) -> None:
    """Give a folder its seal and a run id. Every file to be read again is to be written from here on."""
    _write(root, {"run": secrets.token_hex(16), "writer": "", "files": {}, "pending": None})


def take(root: Path) -> None:
    """Become the folder's only writer: whoever believes to be it still fails at the next write with
    Locked."""
    root = Path(os.path.abspath(root))
    with _one_at_a_time:
        _held.pop(root, None)
        record = _settled(root, read(root))
        _held[root] = secrets.token_hex(8)
        _write(root, record | {"writer": _held[root]})


def release(root: Path) -> None:
    """Leave the folder, with nothing pending where that can still be written."""
    root = Path(os.path.abspath(root))
    with _one_at_a_time, suppress(OSError, CicjaxError):
        record = read(root)
        if record["pending"] and _held.get(root) == record["writer"]:
            _write(root, _settled(root, record))
    _held.pop(root, None)


def read(root: Path) -> Record:
    """The seal of a folder. Raises Corrupted where it is not as it was written."""
    path = root / NAME
    try:
        record = strict.mapping(strict.load(path.read_bytes()), "a seal")
        if record.pop("sha256") != _checksum(record) or record.keys() != {
            "run",
            "writer",
            "files",
            "pending",
        }:
            raise BadInput("its own digest is another")
    except FileNotFoundError:
        raise Corrupted(f"{path}: missing; {ANEW}") from None
    except (BadInput, KeyError) as error:
        raise Corrupted(f"{path}: not the seal that was written ({error}); {ANEW}") from None
    return record


def write_bytes(path: Path, content: bytes, *, once: bool = False) -> None:
    """Put `content` at `path`, whole or not at all, and under the seal.

    With `once` a file that was lost can only be made again as it was: others depend on it. Raises Corrupted
    where it is not, Locked where another process has taken the folder, OutOfResources when the disk is full.
    """
    root = root_of(path)
    if root is not None:
        entry = {"path": _name(path, root), "sha256": hashlib.sha256(content).hexdigest()}
        _announce(root, entry, same="sha256" if once else None)
    whole.write_bytes(path, content)


def write_json(path: Path, value: Any) -> None:
    """`write_bytes` of indented JSON with a final newline."""
    write_bytes(path, whole.json_text(value).encode())


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]], *, once: bool = False) -> None:
    """`write_bytes` of rows as JSON lines."""
    write_bytes(path, whole.json_lines(rows).encode(), once=once)


def extend(path: Path) -> None:
    """Seal what a file that grows by appending holds now; what comes after it is not sealed yet."""
    root = root_of(path)
    if root is None:
        return
    content = path.read_bytes()
    entry = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
    with _one_at_a_time:
        record = _settled(root, read(root))
        _write(root, record | {"files": record["files"] | {_name(path, root): entry}})


def admit(made: Path, path: Path, *, content: str, once: bool = False, forget: Collection[Path] = ()) -> None:
    """Announce that the file `made` will take the name `path` with the folder that it is in, and that the
    files of `forget` will go.

    `content` is a digest of what the folder says, which its files alone may not settle: they may hold times.
    With `once` a folder that was lost can only be made again with that content.
    """
    root = root_of(path)
    if root is None:
        return
    entry = {"path": _name(path, root), "sha256": whole.file_digest(made), "content": content}
    _announce(root, entry, same="content" if once else None, forget={_name(each, root) for each in forget})


def read_bytes(path: Path) -> bytes:
    """The bytes of a file as they were written. Raises Corrupted where they are not, where the seal does not
    know the file, and where it is lost; FileNotFoundError where there never was one."""
    while True:
        root = root_of(path)
        record = read(root) if root is not None else None
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            if record is None or root is None or _name(path, root) not in record["files"]:
                raise
            raise Corrupted(f"{path}: missing; {ANEW if _name(path, root) in ONCE else AGAIN}") from None
        if record is None or root is None:
            return content
        fault = _fault(record, _name(path, root), content)
        if not fault:
            return content
        if read(root) == record:  # no writer has been at work in between
            raise Corrupted(f"{path}: {fault}; {remedy(path)}")


def read_json(path: Path) -> Any:
    """The value in a JSON file. Raises as `read_bytes` does."""
    try:
        return strict.load(read_bytes(path))
    except BadInput as error:
        raise Corrupted(f"{path}: not the JSON that was written ({error}); {remedy(path)}") from None


def read_object(path: Path) -> Record:
    """The object in a JSON file, {} where there never was one. Raises as `read_bytes` does; outside of a run
    whatever cannot be read is none."""
    try:
        value = read_json(path)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, Corrupted):
        if root_of(path) is not None:
            raise
        return {}
    return value if isinstance(value, dict) else {}


def read_jsonl(path: Path) -> list[Record]:
    """Rows of a JSON-lines file. Raises as `read_bytes` does."""
    content = read_bytes(path)
    try:
        return whole.parse_json_lines(content)
    except ValueError as error:
        raise Corrupted(f"{path}: {error}; {remedy(path)}") from error


def remedy(path: Path) -> str:
    """The way out where a file is damaged."""
    root = root_of(path)
    return ANEW if root is not None and _name(path, root) in ONCE else whole.REMEDY


def check(path: Path) -> None:
    """Raise Corrupted for a file of a run that is not as it was written; a file that no seal knows is its
    owner's affair."""
    root = root_of(path)
    if root is not None and _name(path, root) in read(root)["files"]:
        read_bytes(path)


def require(folder: Path) -> None:
    """Raise Corrupted for the folder of a run that has lost its seal."""
    if not (folder / NAME).is_file():
        raise Corrupted(f"{folder / NAME}: missing, so nothing says that these files are one run's; {ANEW}")


def listed(folder: Path) -> dict[str, Record]:
    """What the seal knows of a folder: {path below it: entry}."""
    root = root_of(folder / NAME)
    if root is None:
        return {}
    prefix = f"{_name(folder, root)}/"
    return {
        name.removeprefix(prefix): entry
        for name, entry in read(root)["files"].items()
        if name.startswith(prefix)
    }


def faults(root: Path) -> Iterator[tuple[str, str]]:
    """(relative path, "missing" or what is wrong with it) of every sealed file that is not as it was
    written. A writer may be at work meanwhile."""
    record = read(root)
    for name in record["files"]:
        known, fault = record, _fault_of(root, record, name)
        while fault and (now := read(root)) != known:
            known, fault = now, _fault_of(root, now, name) if name in now["files"] else ""
        if fault:
            yield name, fault


def _fault_of(root: Path, record: Record, name: str) -> str:
    try:
        return _fault(record, name, (root / name).read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return "missing"


def _fault(record: Record, name: str, content: bytes) -> str:
    known = [record["files"].get(name), record["pending"]]
    entries = [entry for entry in known if entry and entry.get("path", name) == name]
    if not entries:
        return "not a file of this run"
    for entry in entries:
        sealed = content[: entry.get("size", len(content))]
        if hashlib.sha256(sealed).hexdigest() == entry["sha256"]:
            return ""
    return f"not the bytes that were written{_first_bad_line(name, content)}"


def _first_bad_line(name: str, content: bytes) -> str:
    if name.endswith(".jsonl"):
        try:
            whole.parse_json_lines(content)
        except ValueError as error:
            return f" ({error})"
    return ""


def _announce(root: Path, entry: Record, *, same: str | None = None, forget: Collection[str] = ()) -> None:
    with _one_at_a_time:
        record = _settled(root, read(root))
        before, path = record["files"].get(entry["path"], {}), root / entry["path"]
        if same is not None and not path.exists() and before.get(same, entry[same]) != entry[same]:
            raise Corrupted(
                f"{path}: was lost, and what was made in its place is not the same, as on "
                f"another number of cores; {ANEW}"
            )
        files = {name: value for name, value in record["files"].items() if name not in forget}
        _write(root, record | {"files": files, "pending": entry})


def _settled(root: Path, record: Record) -> Record:
    """The seal after its pending write, which has taken place or not. Raises Locked where another process
    holds the folder."""
    if _held.get(root, record["writer"]) != record["writer"]:
        raise Locked(f"{root}: another process has taken this folder; leave it to that one")
    pending = record["pending"]
    if pending is None:
        return record
    name, path = pending["path"], root / pending["path"]
    if path.is_file() and whole.file_digest(path) == pending["sha256"]:
        entry = {key: value for key, value in pending.items() if key != "path"}
        record = record | {"files": record["files"] | {name: entry}}
    return record | {"pending": None}


def _write(root: Path, record: Record) -> None:
    whole.write_json(root / NAME, record | {"sha256": _checksum(record)})


def _checksum(record: Record) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def _name(path: Path, root: Path) -> str:
    return Path(os.path.abspath(path)).relative_to(root).as_posix()
