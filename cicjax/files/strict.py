"""JSON read strictly, the one reader of the project: what is in the file comes out, or one line says where
and why not.

Accepted in files of lines: a byte-order mark before the first line, CRLF line ends, blank lines. Refused:
other encodings, duplicate keys, NaN and infinities, integers of thousands of digits, lone surrogates where
text is asked for, bottomless nesting, half an object.
"""

import itertools
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from cicjax.errors import BadInput, shorten

# A parsed line takes some ten times its size. A row of 100,000 sampled ids with text has four megabytes.
LONGEST_LINE = 1 << 26
TOO_LONG = f"longer than {LONGEST_LINE:,} bytes, which no row is; part it"


class NotJson(BadInput):
    """Text that is no JSON, with the line of it where that shows, from 1."""

    def __init__(self, error: json.JSONDecodeError) -> None:
        line = f"line {error.lineno}, " if error.lineno > 1 else ""
        super().__init__(f"not JSON ({error.msg} at {line}column {error.colno})")
        self.at_place = f"not JSON ({error.msg} at column {error.colno})"
        self.line = error.lineno


@contextmanager
def place(where: str) -> Iterator[None]:
    """Put `where` before the line of any BadInput raised inside."""
    try:
        yield
    except BadInput as error:
        raise BadInput(f"{where}: {error}") from None


def records(path: str | Path, *, what: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Every JSON object of a file, one a line, with the number of its line.

    Raises BadInput with file:line for what is not strict JSON, and for a file without any object.
    """
    empty = True
    for number, line in enumerate(_lines(Path(path)), start=1):
        if not line.strip():
            continue
        empty = False
        yield number, _numbered_object(line.rstrip(), path, number, what)
    if empty:
        raise BadInput(f"{path}: holds no episode; a transcript file has one JSON object a line")


def load(text: str | bytes) -> Any:
    """The JSON value that a text is. Raises BadInput for anything else."""
    try:
        return _load(text)
    except json.JSONDecodeError as error:
        raise NotJson(error) from None


def dumps(value: Any, what: str) -> str:
    """A JSON value as text. Raises BadInput for what cannot be written back and read again."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
        text.encode("utf-8")
    except (ValueError, RecursionError):
        raise BadInput(
            f"{what} holds what cannot be written back: "
            "a lone surrogate, an infinite number, bottomless nesting"
        ) from None
    return text


def keys(record: dict[str, Any], *, required: Sequence[str], optional: Sequence[str], what: str) -> None:
    """Raise BadInput for a key that is missing and for one that the format does not know."""
    for key in required:
        if key not in record:
            raise BadInput(f"{what} needs the key {key!r}")
    for key in record:
        if key not in required and key not in optional:
            raise BadInput(f"unknown key {shorten(key)}; {what} has " + ", ".join([*required, *optional]))


def text(value: Any, what: str) -> str:
    """A string that is Unicode text. Raises BadInput for anything else."""
    if not isinstance(value, str):
        raise BadInput(f"{what} is a string, not {shorten(value)}")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise BadInput(f"{what} holds a lone surrogate, which is no Unicode text") from None
    return value


def mapping(value: Any, what: str) -> dict[str, Any]:
    """A JSON object. Raises BadInput for anything else."""
    if not isinstance(value, dict):
        raise BadInput(f"{what} is a JSON object, not {shorten(value)}")
    return value


def listing(value: Any, what: str) -> list[Any]:
    """A JSON array. Raises BadInput for anything else."""
    if not isinstance(value, list):
        raise BadInput(f"{what} is a list, not {shorten(value)}")
    return value


def _numbered_object(line: bytes, path: str | Path, number: int, what: str) -> dict[str, Any]:
    try:
        with place(f"{path}:{number}"):
            return mapping(_load(line), what)
    except json.JSONDecodeError as error:
        hint = "" if b"\n" in line else "; each line holds one whole object"
        raise BadInput(
            f"{path}:{number + error.lineno - 1}: not JSON ({error.msg} at column {error.colno}){hint}"
        ) from None


def _load(text: str | bytes) -> Any:
    """The value, or json.JSONDecodeError for the caller to place, or BadInput."""
    try:
        decoded = text.decode("utf-8") if isinstance(text, bytes) else text
        return _DECODER.decode(decoded)
    except UnicodeDecodeError as error:
        raise BadInput(f"not UTF-8 (from byte {error.start + 1} on)") from None
    except json.JSONDecodeError:
        raise
    except ValueError:  # int() refuses integers of thousands of digits
        raise BadInput("a number has too many digits") from None
    except RecursionError:
        raise BadInput("JSON nested too deeply") from None


def _lines(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            for number in itertools.count(1):
                line = file.readline(LONGEST_LINE + 1)
                if len(line) > LONGEST_LINE:
                    raise BadInput(f"{path}:{number}: {TOO_LONG}")
                if not line:
                    return
                yield line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror}") from None


def _no_duplicates(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) != len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise BadInput(f"the key {shorten(twice)} stands twice in one object")
    return record


def _no_constant(name: str) -> NoReturn:
    raise BadInput(f"{name} is not JSON; leave the value out")


_DECODER = json.JSONDecoder(object_pairs_hook=_no_duplicates, parse_constant=_no_constant)
