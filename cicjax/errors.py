"""Errors a person can act on: one line that says what, where and what to do. The command line turns them into exit codes."""


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
