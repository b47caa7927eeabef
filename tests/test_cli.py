"""How a command ends: exit codes of what goes wrong in the machine, and nothing half written."""

import os
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from cicjax import cli
from cicjax.commands.mask import Mask


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ((), 0),
        (("--help",), 0),
        (("train",), 2),
        (("train", "--config"), 2),
        (("unknown", "--config", "x"), 2),
    ],
)
def test_what_is_no_command_is_explained(arguments, code, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert ended.value.code == code and "Traceback" not in "".join(capsys.readouterr())


def test_the_installed_command_prepares_its_process_before_it_imports_anything():
    project = tomllib.loads(
        (Path(__file__).resolve().parents[1] / "pyproject.toml").read_text(encoding="utf-8")
    )["project"]
    module, _, name = project["scripts"]["cicjax"].partition(":")
    program = f"""
import sys
from cicjax.devices import process
process.prepare = lambda: sys.exit(int(bool({{"cicjax.cli", "tyro", "jax"}} & set(sys.modules))))
from {module} import {name}
{name}()
sys.exit(2)
"""
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


class XlaRuntimeError(RuntimeError):
    """As jax raises it."""


def failing(monkeypatch, error):
    def run(_):
        raise error

    monkeypatch.setattr(Mask, "run", run)
    return cli.main(["mask", "--demo"])


def test_a_device_out_of_memory_is_one_line(monkeypatch, capsys):
    message = "RESOURCE_EXHAUSTED: Out of memory allocating 137438953472 bytes.\nBufferAssignment: ..."
    assert failing(monkeypatch, XlaRuntimeError(message)) == 4
    error = capsys.readouterr().err
    assert (
        error.startswith("cicjax: error: out of memory")
        and error.count("\n") == 1
        and "137438953472 bytes" in error
    )


def test_jax_itself_ends_so(monkeypatch, capsys):
    def run(_):
        import jax.numpy as jnp

        jnp.zeros((1 << 28, 1 << 30), jnp.float32).block_until_ready()  # an exbibyte

    monkeypatch.setattr(Mask, "run", run)
    assert cli.main(["mask", "--demo"]) == 4
    assert capsys.readouterr().err.count("\n") == 1


def test_another_error_of_the_runtime_keeps_its_traceback(monkeypatch):
    with pytest.raises(XlaRuntimeError):
        failing(monkeypatch, XlaRuntimeError("INTERNAL: a defect"))


PROGRAM = """
import signal, sys, time
from cicjax import cli
from cicjax.commands.mask import Mask
from cicjax.model import storage
from cicjax.files import whole

def lines():
    yield "first"
    print("writing", flush=True)
    time.sleep(60)

def run(_):
    with storage.new_folder("folder", need=0) as folder:
        (folder / "weights").write_text("half")
        whole.write_lines("lines.jsonl", lines())

signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs start with it ignored
Mask.run = run
sys.argv = ["cicjax", "mask", "--demo"]
sys.exit(cli.main())
"""


def writing(folder):
    """PROGRAM in a process of its own, half way."""
    process = subprocess.Popen([sys.executable, "-c", PROGRAM], cwd=folder, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "writing\n"
    return process


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_what_a_kill_left_the_next_command_removes_and_another_at_work_is_left_alone(tmp_path):
    killed = writing(tmp_path)
    killed.kill()
    killed.wait()
    left = set(tmp_path.iterdir())
    assert len(left) == 2
    for path in left:
        os.utime(path, (0, 0))
    one = writing(tmp_path)
    its = set(tmp_path.iterdir())
    assert len(its) == 2 and not its & left
    for path in its:
        os.utime(path, (0, 0))
    other = writing(tmp_path)
    assert its < set(tmp_path.iterdir())
    for process in (one, other):
        process.terminate()
        assert process.wait(timeout=30) == 143
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_command_that_is_stopped_leaves_nothing_half_written(tmp_path, number, code):
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None and process.stdout.readline() == "writing\n"
        assert len(list(tmp_path.iterdir())) == 2
        process.send_signal(number)
        _, error = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == code and not error
    assert not list(tmp_path.iterdir())
