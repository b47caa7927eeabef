"""Errors a person can act on: one line that says what, where and what to do. The command line turns them into
exit codes."""


class CicjaxError(Exception):
    """Base of every error that ends a command with one line and no traceback."""

    exit_code = 1


class BadInput(CicjaxError):
    """A file, folder or option that cannot be used as given."""

    exit_code = 2


class Locked(CicjaxError):
    """Another process holds the run folder."""

    exit_code = 3


class OutOfResources(CicjaxError):
    """Memory or disk did not suffice."""

    exit_code = 4


class Corrupted(CicjaxError):
    """Stored bytes are not the bytes that were written, or training diverged beyond repair."""

    exit_code = 5


WIDTH = 80


def shorten(value: object) -> str:
    """A value from a file or a flag as a one-line message shows it: ASCII, at most 80 characters.

    What does not print, or moves other text about, appears as escapes; strings keep their quotes, so that
    nobody takes a name for a part of the sentence.
    """
    try:
        text = ascii(value)
    # an integer with more digits than Python prints, lists nested too deeply
    except (ValueError, RecursionError):
        text = f"a very large {type(value).__name__}"
    return text if len(text) <= WIDTH else text[: WIDTH - 3] + "..."


def shown(name: str) -> str:
    """A name as part of a line that is printed: `printable`, and on that one line."""
    return printable(" ".join(name.splitlines()))


def printable(text: str) -> str:
    """Text with what does not print, or moves other text about, spelled out; newline and tab stay."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)
