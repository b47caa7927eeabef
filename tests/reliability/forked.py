"""Calls in forked children of one process: what takes seconds to import is imported once, and a child ends as
a command does, or is killed."""

import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

PATIENCE = 3600  # seconds by the clock, for a child that waits for good


class Ended(NamedTuple):
    """How a child ended: its exit code, negative where a signal ended it, and what it printed."""

    code: int
    out: str
    err: str


class Calls:
    """`with Calls("module") as call: call("module:function", argument, ...)` in a child of its own. What the
    function gives is the exit code."""

    def __init__(self, *modules: str) -> None:
        self._modules = modules

    def __enter__(self) -> "Calls":
        self._folder = tempfile.TemporaryDirectory()
        self._server = subprocess.Popen(
            [sys.executable, __file__, *self._modules],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        )
        return self

    def __exit__(self, *_: object) -> None:
        assert self._server.stdin is not None
        self._server.stdin.close()
        self._server.wait()
        self._folder.cleanup()

    def __call__(self, function: str, *arguments: Any, seconds: float = 900.0) -> Ended:
        """Call it; SIGKILL ends it after so many seconds of its own work, however busy the machine is."""
        assert self._server.stdin is not None and self._server.stdout is not None
        said = [Path(self._folder.name, name) for name in ("out", "err")]
        job = [function, list(map(str, arguments)), seconds, *map(str, said)]
        print(json.dumps(job), file=self._server.stdin, flush=True)
        code = int(self._server.stdout.readline())
        return Ended(code, *(path.read_text(errors="replace") for path in said))


def _serve(names: list[str]) -> None:
    for name in names:
        importlib.import_module(name)
    for line in sys.stdin:
        function, arguments, seconds, *said = json.loads(line)
        child = os.fork()
        if child == 0:
            _work(function, arguments, said)
        print(_code_of(child, seconds), flush=True)


def _work(function: str, arguments: list[str], said: list[str]) -> None:
    """The child's whole life."""
    code = 1
    try:
        for number, path in enumerate(said, start=1):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        module, _, name = function.partition(":")
        code = int(getattr(importlib.import_module(module), name)(*arguments) or 0)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _code_of(child: int, seconds: float) -> int:
    end = time.monotonic() + PATIENCE
    while (done := os.waitpid(child, os.WNOHANG)) == (0, 0):
        if _worked(child) >= seconds or time.monotonic() > end:
            break
        time.sleep(0.005)
    if done == (0, 0):
        os.kill(child, signal.SIGKILL)
        done = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(done[1])


def _worked(child: int) -> float:
    """Seconds of processor time that a child has taken."""
    fields = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    _serve(sys.argv[1:])
