"""One seal a run: whatever is flipped, cut, emptied, deleted or exchanged is noticed; a kill between any two
system calls leaves the old state or the new one."""

import contextlib
import itertools
import os
import shutil
import subprocess
import sys

import pytest

from cicjax.errors import Corrupted, Locked
from cicjax.files import seal, whole

ROWS = [{"id": 0, "text": "x = 3 N"}, {"id": 1, "text": "λ"}]
NAMES = ("config.json", "evaluations/a.jsonl", "evaluations/b.jsonl", "sft/budget.json")


@pytest.fixture
def run(tmp_path):
    return begun(tmp_path / "run", "first")


def begun(folder, text):
    folder.mkdir()
    seal.begin(folder)
    for name in NAMES:
        if name.endswith("l"):
            seal.write_jsonl(folder / name, [row | {"of": text + name} for row in ROWS])
        else:
            seal.write_json(folder / name, {"of": text + name})
    seal.take(folder)
    seal.release(folder)
    return folder


def readable(folder):
    """What is read back, file by file; raises what a reader would."""
    return [(seal.read_jsonl if name.endswith("l") else seal.read_json)(folder / name) for name in NAMES]


def test_what_was_written_is_read(run):
    assert readable(run)[0] == {"of": "firstconfig.json"} and readable(run)[1][1]["text"] == "λ"
    assert [*seal.faults(run)] == []
    assert seal.root_of(run / "sft" / "budget.json") == run
    assert seal.run_id(run / "sft/budget.json") != seal.run_id(begun(run.parent / "other", "first") / "x")
    assert set(seal.listed(run / "evaluations")) == {"a.jsonl", "b.jsonl"}


@pytest.mark.parametrize("name", [*NAMES, seal.NAME])
def test_every_flipped_byte_and_every_cut_is_noticed(run, name):
    content = (run / name).read_bytes()
    flipped = [content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :] for at in range(len(content))]
    for damaged in flipped + [content[:at] for at in range(len(content))]:
        if name == seal.NAME and damaged == content[:-1]:
            continue  # the last newline says nothing
        (run / name).write_bytes(damaged)
        with pytest.raises(Corrupted, match=name.rpartition("/")[2]):
            readable(run)
    (run / name).write_bytes(content)
    readable(run)


@pytest.mark.parametrize("name", [*NAMES, seal.NAME])
def test_what_is_lost_is_missed_with_a_way_out(run, name):
    (run / name).unlink()
    if name == seal.NAME:
        with pytest.raises(Corrupted, match=r"seal\.json: missing"):
            seal.require(run)
        return
    way_out = "begin anew" if name in seal.ONCE else "repeat the command"
    with pytest.raises(Corrupted, match=f"missing; restore it from a copy, or {way_out}"):
        readable(run)
    assert [*seal.faults(run)] == [(name, "missing")]
    (run / name).parent.mkdir(exist_ok=True)
    (run / name).touch()
    ((_, fault),) = seal.faults(run)
    assert fault.startswith("not the bytes")


def test_files_that_change_places_are_noticed(run):
    one, other = run / "evaluations/a.jsonl", run / "evaluations/b.jsonl"
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)
    assert [name for name, _ in seal.faults(run)] == ["evaluations/a.jsonl", "evaluations/b.jsonl"]


@pytest.mark.parametrize("name", [*NAMES, seal.NAME])
def test_another_runs_file_is_noticed(run, name):
    shutil.copy(begun(run.parent / "other", "second") / name, run / name)
    with pytest.raises(Corrupted):
        readable(run)


def test_a_file_that_no_seal_knows_is_no_file_of_the_run(run):
    shutil.copy(run / "evaluations/a.jsonl", run / "evaluations/c.jsonl")
    with pytest.raises(Corrupted, match="not a file of this run"):
        seal.read_jsonl(run / "evaluations/c.jsonl")
    seal.check(run / "evaluations/c.jsonl")  # anyone's own file may lie there
    with pytest.raises(FileNotFoundError):
        seal.read_jsonl(run / "evaluations/never.jsonl")
    assert seal.read_object(run / "evaluations/never.json") == {}


def test_what_others_depend_on_is_made_again_as_it_was_or_not_at_all(run):
    path = run / "evaluations/a.jsonl"
    rows = seal.read_jsonl(path)
    path.unlink()
    with pytest.raises(Corrupted, match="what was made in its place is not the same"):
        seal.write_jsonl(path, ROWS, once=True)
    assert not path.exists()
    seal.write_jsonl(path, rows, once=True)
    assert seal.read_jsonl(path) == rows


def test_a_file_that_grows_is_sealed_up_to_its_last_seal(run):
    log = run / "metrics.jsonl"
    log.write_bytes(b"1\n2\n")
    seal.extend(log)
    with log.open("ab") as file:
        file.write(b"3\n")
    assert seal.read_bytes(log) == b"1\n2\n3\n"
    for damaged in (b"1\n3\n3\n", b"1\n2", b""):
        log.write_bytes(damaged)
        with pytest.raises(Corrupted, match="not the bytes"):
            seal.read_bytes(log)


def test_outside_a_run_files_are_read_as_they_are(tmp_path):
    seal.write_json(tmp_path / "a.json", {"a": 1})
    assert seal.read_json(tmp_path / "a.json") == {"a": 1} and not (tmp_path / seal.NAME).exists()
    seal.extend(tmp_path / "a.json")
    (tmp_path / "b.json").write_text("{")
    assert seal.read_object(tmp_path / "b.json") == {} and seal.run_id(tmp_path / "a.json") is None


def test_who_lost_the_folder_writes_nothing_more(run, monkeypatch):
    seal.take(run)
    seal.write_json(run / "sft/budget.json", {"n": 1})
    code = "import sys; from pathlib import Path; from cicjax.files import seal; seal.take(Path(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", code, str(run)], check=True)
    with pytest.raises(Locked, match="another process has taken this folder"):
        seal.write_json(run / "sft/budget.json", {"n": 2})
    assert seal.read_json(run / "sft/budget.json") == {"n": 1}
    seal.release(run)
    seal.take(run)
    seal.write_json(run / "sft/budget.json", {"n": 3})
    seal.release(run)


def test_a_seal_that_is_lost_while_a_run_writes_is_noticed(run):
    seal.take(run)
    (run / seal.NAME).unlink()
    try:
        with pytest.raises(Corrupted, match=r"seal\.json: missing"):
            seal.write_json(run / "sft/budget.json", {"n": 2})
    finally:
        seal.release(run)


class Stopped(BaseException):
    """A kill, or a disk that fails, before a system call."""


@pytest.mark.parametrize("error", [Stopped, OSError])
def test_a_stop_before_any_system_call_leaves_the_old_state_or_the_new(run, monkeypatch, error):
    """The k-th open, write, fsync, rename and mkdir of a write fails, for every k."""
    path, first = run / "sft/budget.json", {"of": "firstsft/budget.json"}
    for k in itertools.count():
        calls = itertools.count()
        with monkeypatch.context() as patch:
            for name in ("open", "fsync", "replace", "mkdir"):
                patch.setattr(os, name, failing(getattr(os, name), calls, k, error))
            with contextlib.suppress(error):
                seal.write_json(path, {"n": k})
        assert seal.read_json(path) in (first, {"n": k}), k
        assert [*seal.faults(run)] == []
        seal.take(run)  # the next process settles what was pending
        assert seal.read_json(path) in (first, {"n": k}) and seal.read(run)["pending"] is None
        seal.write_json(path, first)
        seal.release(run)
        if next(calls) <= k:  # all of them took place
            break
    assert k > 6 and seal.read_json(path) == first


def failing(call, calls, k, error):
    def wrapped(*arguments, **named):
        if next(calls) == k:
            raise error("stopped")
        return call(*arguments, **named)

    return wrapped


def test_a_new_file_that_was_announced_and_never_came_is_none(run, monkeypatch):
    # The seal itself is written by the same function: let that one through.
    real = whole.replacing

    def write(path, content, *, private=False):
        if path.name != seal.NAME:
            raise Stopped
        with real(path, mode=0o600) as file:
            file.write(content)

    monkeypatch.setattr(whole, "write_bytes", write)
    with pytest.raises(Stopped):
        seal.write_json(run / "new.json", {})
    assert [*seal.faults(run)] == [] and not (run / "new.json").exists()
    with pytest.raises(FileNotFoundError):
        seal.read_json(run / "new.json")


def test_a_reader_beside_a_writer_sees_whole_files(run):
    """A hundred writes in one process, reads in another all the while."""
    code = """
import sys
from pathlib import Path
from cicjax.files import seal
for n in range(100):
    seal.write_json(Path(sys.argv[1]) / "sft/budget.json", {"n": [n] * 2000})
    seal.write_json(Path(sys.argv[1]) / "config.json", {"n": n})
"""
    writer = subprocess.Popen([sys.executable, "-c", code, str(run)])
    reads = 0
    while writer.poll() is None:
        assert len(set(seal.read_json(run / "sft/budget.json").get("n", [0]))) == 1
        reads += 1
    assert writer.returncode == 0 and reads > 20
