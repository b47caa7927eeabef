"""Where records come from: files, folders, patterns, gzip, JSON arrays, archives of samples, standard input.

A record is a JSON object with the place where it stands, `file:line`, or `file[n]` in an array. What cannot
be read is an entry too, so that whoever asks learns of every problem at once. Formats are others' business.
"""

import glob
import gzip
import hashlib
import io
import itertools
import json
import re
import sys
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cicjax.errors import BadInput, shorten
from cicjax.files import strict
from cicjax.files.whole import file_digest

STDIN = "-"
SUFFIXES = (".jsonl", ".json", ".ndjson", ".jsonl.gz", ".json.gz", ".ndjson.gz", ".eval")
ARCHIVE = b"PK\x03\x04"
MARK = b"\xef\xbb\xbf"
MOST_UNPACKED = 1 << 30
# keys by which a turn, or an item between turns, is known
TURNS = frozenset({"role", "from", "call_id", "summary"})
BINARY = {
    b"PAR1": "a Parquet table; write it as JSON lines, for example with datasets' to_json",
    b"SQLite format 3": "a database; export its transcripts as JSON lines",
    b"\x28\xb5\x2f\xfd": "compressed with zstd; unpack it with zstd -d",
    b"BZh": "compressed with bzip2; unpack it with bunzip2",
    b"\xfd7zXZ": "compressed with xz; unpack it with unxz",
    b"GGUF": "a model, no transcripts",
}


class Source(NamedTuple):
    """A file to read, and whether it was named itself or found in a folder."""

    name: str
    named: bool


class Entry(NamedTuple):
    """What stands at a place: an object, or what keeps it from being one."""

    where: str
    line: int
    value: dict[str, Any]
    problem: str = ""


def expand(names: Sequence[str | Path]) -> list[Source]:
    """The files that names stand for, each once: a file, `-`, a folder with all below it, a pattern. Raises
    BadInput for a name that stands for none."""
    found: dict[str, Source] = {}
    for name in map(str, names):
        for source in _stands_for(name):
            key = source.name if source.name == STDIN else str(Path(source.name).resolve())
            found.setdefault(key, source)
    return list(found.values())


def entries(name: str | Path) -> Iterator[Entry]:
    """All records of a file, in order. Raises BadInput where the file as a whole cannot be read, or holds
    none."""
    name = str(name)
    content = _content(name)
    if content.startswith(ARCHIVE):
        yield from _samples(name, content)
        return
    first = list(itertools.islice(_lines(content), 2))
    if not first:
        raise BadInput(f"{name}: holds no episode; a transcript file has one JSON object a line")
    if _is_one_value([line for _, line in first]):
        yield from _whole(name, first[0][0], content)
        return
    for number, line in _lines(content):
        yield _line(f"{name}:{number}", number, line.rstrip())


def digest(name: str | Path) -> str:
    """SHA-256 of what a name stands for, in hexadecimal: of a file its bytes, of several that of their
    digests. Raises BadInput for standard input, which cannot be read again."""
    found = [source.name for source in expand([name])]
    if STDIN in found:
        raise BadInput("a run reads its file again when it is repeated; write standard input to a file first")
    if len(found) == 1:
        return file_digest(Path(found[0]))
    return hashlib.sha256("".join(file_digest(Path(file)) for file in found).encode()).hexdigest()


def mentions(name: str | Path, key: str) -> bool:
    """Whether a file has a key somewhere, in UTF-8 or in the escapes that `json.dumps` writes."""
    content = _content(str(name))
    spellings = [json.dumps(key, ensure_ascii=escaped).encode() for escaped in (True, False)]
    if content.startswith(ARCHIVE):
        return any(entry.problem or key in json.dumps(entry.value) for entry in _samples(str(name), content))
    return any(spelling in content for spelling in spellings)


def _stands_for(name: str) -> Iterator[Source]:
    path = Path(name)
    if name != STDIN and path.is_dir():
        files = [
            file for file in sorted(path.rglob("*")) if _is_log(file.relative_to(path)) and file.is_file()
        ]
        if not files:
            raise BadInput(f"{name}: holds no log: no file below it ends in {', '.join(SUFFIXES)}")
        yield from (Source(str(file), named=False) for file in files)
    elif name != STDIN and not path.exists() and glob.has_magic(name):
        matches = sorted(glob.glob(name, recursive=True))
        if not matches:
            raise BadInput(f"{name}: no file has such a name")
        for match in matches:
            yield from _stands_for(match) if Path(match).is_dir() else [Source(match, named=True)]
    else:
        yield Source(name, named=True)


def _is_log(file: Path) -> bool:
    return file.name.endswith(SUFFIXES) and not any(part.startswith(".") for part in file.parts)


def _content(name: str) -> bytes:
    try:
        content = sys.stdin.buffer.read() if name == STDIN else Path(name).read_bytes()
    except OSError as error:
        raise BadInput(f"{name}: {error.strerror}") from None
    if content.startswith(b"\x1f\x8b"):
        try:
            content = gzip.GzipFile(fileobj=io.BytesIO(content)).read(MOST_UNPACKED + 1)
        except (OSError, EOFError, zlib.error):
            raise BadInput(f"{name}: a gzip file that is damaged or was cut short") from None
        if len(content) > MOST_UNPACKED:
            raise BadInput(f"{name}: unpacks to more than {MOST_UNPACKED:,} bytes; unpack it, and part it")
    for start, what in BINARY.items():
        if content.startswith(start):
            raise BadInput(f"{name}: {what}")
    return content.removeprefix(MARK)


def _lines(content: bytes) -> Iterator[tuple[int, bytes]]:
    """The lines that are not blank, numbered."""
    return ((n, line) for n, line in enumerate(io.BytesIO(content), start=1) if line.strip())


def _is_one_value(lines: Sequence[bytes]) -> bool:
    """Whether a file is one JSON value, on its only line or spread over several, by its first two lines."""
    if len(lines) == 1:
        return True
    first, second = lines
    # a broken first line among whole ones is one record's affair
    return not _is_value(first) and (first.lstrip().startswith(b"[") or not _is_value(second))


def _is_value(line: bytes) -> bool:
    try:
        return isinstance(strict.load(line), dict | list)
    except strict.NotJson:
        return False
    except BadInput:
        return line.rstrip().endswith((b"}", b"]"))  # refused for what stands in it, and whole


def _whole(name: str, line: int, content: bytes) -> Iterator[Entry]:
    try:
        value = strict.load(content.strip())
    except strict.NotJson as error:
        yield Entry(f"{name}:{line + error.line - 1}", line, {}, error.at_place)
        return
    except BadInput as error:
        yield Entry(f"{name}:{line}", line, {}, str(error))
        return
    if isinstance(value, list) and not _is_conversation(value):
        yield from (_as_entry(f"{name}[{n}]", n, element) for n, element in enumerate(value, start=1))
        if not value:
            raise BadInput(f"{name}: holds no episode: the list is empty")
    else:
        yield _as_entry(f"{name}:{line}", line, value)


def _line(where: str, line: int, text: bytes) -> Entry:
    if len(text) > strict.LONGEST_LINE:
        return Entry(where, line, {}, strict.TOO_LONG)
    try:
        value = strict.load(text)
    except strict.NotJson as error:
        return Entry(where, line, {}, f"{error}; each line holds one whole object")
    except BadInput as error:
        return Entry(where, line, {}, str(error))
    return _as_entry(where, line, value)


def _as_entry(where: str, line: int, value: Any) -> Entry:
    if _is_conversation(value):
        value = {"messages" if all("role" in turn or "from" in turn for turn in value) else "input": value}
    if not isinstance(value, dict):
        return Entry(where, line, {}, f"a record is a JSON object, not {shorten(value)}")
    return Entry(where, line, value)


def _is_conversation(value: Any) -> bool:
    """Whether a list is one conversation: its elements are turns, or the items of one."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(turn, dict) and not TURNS.isdisjoint(turn) for turn in value)
        and any("role" in turn or "from" in turn for turn in value)
        and not any("messages" in turn or "conversations" in turn for turn in value)
    )


def _samples(name: str, content: bytes) -> Iterator[Entry]:
    """The samples in an archive, each a JSON file of its own."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = sorted(
                member for member in archive.namelist() if re.fullmatch(r"(.*/)?samples/.*\.json", member)
            )
            for n, member in enumerate(members, start=1):
                with archive.open(member) as packed:
                    yield _line(f"{name}[{member}]", n, packed.read(strict.LONGEST_LINE + 1))
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError):
        raise BadInput(f"{name}: an archive that is damaged or was cut short") from None
    except (NotImplementedError, RuntimeError):
        raise BadInput(
            f"{name}: an archive packed in a way that Python cannot read; write it as text, for an Inspect "
            "log with `inspect log convert --to json`"
        ) from None
    if not members:
        raise BadInput(f"{name}: an archive without samples; unpack it and give the folder")
