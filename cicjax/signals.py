"""Signals that ask the process to end: a flag, and loops that look at it where it is safe to stop.

An exception out of a handler is lost where nobody can catch it, as in jax's callback to the garbage
collector or the locks of an import, and one that breaks off jax's import ends in a crash. So from that import
on the first signal only sets the flag; `check` raises Stopped where the work so far can be saved. Before it,
and in commands that need no jax, Stopped is raised at once, or when the import at hand is done. A second
signal ends the process on the spot, whatever it is doing.
"""

import os
import signal
import stat
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

STOPPING = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)
# One wish often comes as several signals: from the terminal, and once more from what started the process.
ONE_WISH = 0.5
AGAIN = 0.02

_received = 0
_left_to_others = False


class Stopped(SystemExit):
    """A signal asked the process to end. The exit code is 128 + its number; `kept` says what was saved."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.exit_code = 128 + number
        self.name = signal.Signals(number).name
        self.kept = ""


def received() -> int:
    """Number of the signal that asked the process to end, 0 where none has."""
    return _received


def leave_to_others() -> None:
    """Let `check` pass from now on: several processes work together, and `devices.hosts` agrees with them on
    when to stop."""
    global _left_to_others
    _left_to_others = True


def check() -> None:
    """Raise Stopped where a signal has asked the process to end. Call it where what was done is saved, or
    will be by whoever Stopped passes."""
    if _received and not _left_to_others:
        raise Stopped(_received)


def install() -> None:
    """Take over SIGHUP, SIGINT and SIGTERM, but for those that the process was started to ignore. Call it
    before anything heavy is imported; once is enough."""
    if signal.getsignal(signal.SIGTERM) is not _handle:
        for number in STOPPING:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, _handle)
        signal.signal(signal.SIGALRM, _interrupt)
        # The interpreter writes each signal's number here at once, also while the main thread is away in a
        # compiled program and runs no handler.
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        threading.Thread(target=_watch, args=(reader,), name="signals", daemon=True).start()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)


@contextmanager
def held() -> Iterator[None]:
    """Let signals wait while another program starts in this process, which is to `install` anew."""
    signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    try:
        check()  # the other program would not know
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)


def restore() -> None:
    """Let signals do again what they do to any process: from here on there is nothing left to save."""
    signal.setitimer(signal.ITIMER_REAL, 0)
    for number in STOPPING:
        if signal.getsignal(number) is _handle:
            signal.signal(number, signal.SIG_DFL)


def _handle(number: int, frame: FrameType | None) -> None:
    global _received
    if _received:
        return
    _received = number
    if "jax" not in sys.modules:
        _interrupt(number, frame)
        return
    name = signal.Signals(number).name
    _say(f"cicjax: {name}: stopping at the next safe point; a second signal ends at once\n")


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Raise Stopped, but not out of an import, whose own callbacks would swallow it: then try again soon."""
    if "jax" in sys.modules:
        return  # loops look
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            signal.setitimer(signal.ITIMER_REAL, AGAIN)
            return
        frame = frame.f_back
    raise Stopped(_received)


def _watch(reader: int) -> None:
    """End the process at its second signal."""
    first = 0.0
    while number := os.read(reader, 1):
        if number[0] in STOPPING:
            now = time.monotonic()
            first = first or now
            if now - first > ONE_WISH:
                os._exit(128 + number[0])


def _say(line: str) -> None:
    """To standard error past Python's buffers, which may be half way in a line. Where the terminal is gone,
    what would be written there goes nowhere from now on."""
    try:
        os.write(2, line.encode())
    except OSError:
        with suppress(OSError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            for descriptor in (1, 2):
                if stat.S_ISCHR(os.fstat(descriptor).st_mode):
                    os.dup2(nowhere, descriptor)
