"""A disk that fails: every k-th write, sync, rename and open of a save, in one process; a full file system;
files that were never synced, emptied as after a power cut."""

import builtins
import itertools
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import pytest
import tiny_qwen2

from cicjax import cli
from cicjax.errors import CicjaxError, OutOfResources
from cicjax.files import seal, whole
from cicjax.runs.folder import RunFolder
from cicjax.runs.metrics import MetricsLog
from cicjax.training import checkpoints

CALLS = ("open", "fsync", "replace", "rename", "mkdir", "chmod")


def tree(step: int):
    return {"adapter": {"a": jnp.full((50,), step)}, "step": jnp.int32(step)}


def save(run: Path, step: int) -> None:
    """What the learner does at a step: a line of metrics, sealed, and a checkpoint."""
    with MetricsLog(run / "metrics.jsonl", stage="sft", resume_after=step - 1) as log:
        log.write(step, {"loss": 1.0})
        log.seal()
        checkpoints.save(run / "sft", step, tree=tree(step), metadata={"update": step})


@pytest.fixture
def run(tmp_path):
    with RunFolder(tmp_path / "run", {"seed": 0}) as folder:
        save(folder.path, 1)
    return tmp_path / "run"


def sound(run: Path, *steps: int) -> int:
    """The newest step, one of these, is whole; the next command finds nothing amiss and nothing left over."""
    with RunFolder(run, {"seed": 0}):
        found, metadata = checkpoints.load(run / "sft")
        newest = int(found["step"])
        assert newest in steps and metadata == {"update": newest}
        assert found["adapter"]["a"].tolist() == [newest] * 50
        assert not [path for path in run.rglob(".*")]
    assert not list(seal.faults(run))
    return newest


def test_every_call_of_a_save_fails_once(run, monkeypatch):
    """One line that names a path, then the old state or the new one, for every k."""
    outcomes: dict[str, int] = {}
    before = run.with_name("before")
    shutil.copytree(run, before)
    for k in itertools.count():
        calls = itertools.count()
        with RunFolder(run, {"seed": 0}), monkeypatch.context() as patch:
            for name in CALLS:
                patch.setattr(os, name, failing(getattr(os, name), calls, k))
            patch.setattr(builtins, "open", failing(builtins.open, calls, k))
            try:
                save(run, 2)
                said = "saved"
            except CicjaxError as error:
                assert isinstance(error, OutOfResources) and "\n" not in str(error) and str(run) in str(error)
                said = "one line"
            except OSError as error:
                assert error.filename or str(error)
                said = "one line"
        outcomes[said] = outcomes.get(said, 0) + 1
        sound(run, 1, 2)
        shutil.rmtree(run)
        shutil.copytree(before, run)
        if next(calls) <= k:
            break
    print(outcomes)
    assert k > 60 and outcomes["one line"] > k / 2


def failing(call, calls, k):
    def wrapped(*arguments, **named):
        if next(calls) == k:
            raise OSError(28 if k % 2 else 5, "No space left on device" if k % 2 else "Input/output error")
        return call(*arguments, **named)

    return wrapped


def test_what_was_never_synced_may_be_empty_after_a_power_cut(run, monkeypatch):
    """Every file that no fsync reached when a save ended is emptied: none of a sealed step may be among
    them."""
    synced: set[tuple[int, int]] = set()
    real = os.fsync

    def fsync(descriptor):
        facts = os.fstat(descriptor)
        synced.add((facts.st_dev, facts.st_ino))
        return real(descriptor)

    with monkeypatch.context() as patch, RunFolder(run, {"seed": 0}):
        patch.setattr(os, "fsync", fsync)
        save(run, 2)
    emptied = []
    for path in [*(run / "sft" / "2").rglob("*"), *run.glob("*.json*")]:
        facts = path.stat()
        if path.is_file() and (facts.st_dev, facts.st_ino) not in synced:
            path.write_bytes(b"")
            emptied.append(path.relative_to(run).as_posix())
    # config.json was synced when the run began.
    assert emptied == ["config.json"] or not emptied, emptied


def test_a_save_says_beforehand_what_the_disk_lacks(run, monkeypatch):
    monkeypatch.setattr(whole, "_free", lambda path: 1000)
    with pytest.raises(OutOfResources) as caught:
        checkpoints.save(run / "sft", 2, tree=tree(2), metadata={})
    said = str(caught.value)
    assert str(run / "sft" / "2") in said and "bytes needed" in said and "1,000 bytes free" in said
    assert caught.value.exit_code == 4 and checkpoints.latest(run / "sft") == 1


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 600 KiB, where this user may mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=600k", "none", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("only root may mount a file system")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """A model, a log, and an adapter trained on it."""
    folder = tmp_path_factory.mktemp("toy")
    tiny_qwen2.write(folder / "model", seed=2, num_hidden_layers=1)
    question = '{"role": "user", "author": "user", "content": "2 N?"}'
    answer = '{"role": "assistant", "author": "teacher", "content": "a = 2"}'
    rows = (f'{{"id": "{n}", "messages": [{question}, {answer}]}}\n' for n in range(300))
    (folder / "log.jsonl").write_text("".join(rows))
    train = f"train {folder}/log.jsonl --model {folder}/model --output_dir {folder}/run --max_steps 1"
    assert cli.main(train.split()) == 0
    return folder


FULL = {
    "train": "train {toy}/log.jsonl --model {toy}/model --output_dir {disk}/run --max_steps 2",
    "export": "export {toy}/run/adapter --model {toy}/model --format merged --output_dir {disk}/merged",
    "convert": "convert {toy}/log.jsonl --output {disk}/log.jsonl",
    "mask": "mask {toy}/log.jsonl --tokenizer {toy}/model --html {disk}/page.html",
    "agent": "agent new {disk}/home --model {toy}/model --format plain",
}


@pytest.mark.parametrize("command", FULL.values(), ids=FULL.keys())
def test_a_full_file_system_is_one_line_and_leaves_nothing(small_disk, toy, capsys, command):
    """Where what is needed is known beforehand, with need and free."""
    if not command.startswith("train"):
        (small_disk / "filler").write_bytes(bytes(580 * 1024))
    assert cli.main(command.format(toy=toy, disk=small_disk).split()) == 4
    error = capsys.readouterr().err
    (said,) = [line for line in error.splitlines() if line.startswith("cicjax: error: ")]
    assert str(small_disk) in said and "Traceback" not in error
    if command.split()[0] in ("train", "export"):
        assert "bytes needed" in said and "bytes free" in said
    left = {path.relative_to(small_disk).as_posix() for path in small_disk.rglob("*")}
    assert not [name for name in left if Path(name).name.startswith(".")], left
    assert command.startswith(("train", "agent")) or left == {"filler"}
    if command.startswith("agent"):
        subprocess.run(["mount", "-o", "remount,size=8m", str(small_disk)], check=True)
        assert cli.main(command.format(toy=toy, disk=small_disk).split()) == 0


def test_a_kill_before_a_run_has_a_configuration_is_no_run(tmp_path):
    """The lock, then the seal, then the configuration: a kill between any two leaves a folder to begin in."""
    code = """
import os, signal, sys
from cicjax.runs.folder import RunFolder
real, calls = os.replace, 0
def replace(*args):
    global calls
    calls += 1
    if calls == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*args)
os.replace = replace
with RunFolder(sys.argv[1], {"seed": 0}):
    pass
"""
    for at in range(1, 6):
        folder = tmp_path / str(at)
        subprocess.run([sys.executable, "-c", code, str(folder), str(at)], check=False)
        with RunFolder(folder, {"seed": 0}):
            seal.write_json(folder / "results.json", {})
        assert not list(seal.faults(folder)) and not [*folder.glob(".*")]
