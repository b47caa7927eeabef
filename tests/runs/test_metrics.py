"""metrics.jsonl tells every update once, and progress can be read in a log."""

import io
import json
import shutil
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from cicjax.errors import Corrupted
from cicjax.files import seal
from cicjax.runs import metrics
from cicjax.runs.folder import RunFolder
from cicjax.runs.metrics import MetricsLog, bar, in_chunks, read_metrics


def write(path, stage, updates, **kwargs):
    with MetricsLog(path, stage=stage, **kwargs) as log:
        for update in updates:
            log.write(update, {"loss": 1 / update})


def told(path):
    return [(row["stage"], row["update"]) for row in read_metrics(path)]


def test_each_line_is_in_the_file_before_write_returns(tmp_path):
    path = tmp_path / "run" / "metrics.jsonl"
    with MetricsLog(path, stage="sft") as log:
        log.write(1, {"loss": jnp.float32(0.5), "num_tokens": np.int64(7), "note": "a"})
        assert [json.loads(line) for line in path.read_text().splitlines()] == [
            {"stage": "sft", "update": 1, "loss": 0.5, "num_tokens": 7, "note": "a"}
        ]
    assert path.stat().st_mode & 0o777 == 0o600


def test_resume_tells_no_update_twice_and_leaves_other_stages_alone(tmp_path):
    path = tmp_path / "metrics.jsonl"
    write(path, "sft", [1, 2, 3])
    write(path, "rest", [1, 2, 3, 4])
    write(path, "rest", [3, 4, 5], resume_after=2)
    assert told(path) == [
        ("sft", 1),
        ("sft", 2),
        ("sft", 3),
        ("rest", 1),
        ("rest", 2),
        ("rest", 3),
        ("rest", 4),
        ("rest", 5),
    ]
    assert [row["update"] for row in read_metrics(path, stage="sft")] == [1, 2, 3]


def test_a_stage_that_starts_anew_drops_its_earlier_try(tmp_path):
    path = tmp_path / "metrics.jsonl"
    write(path, "sft", [1, 2])
    write(path, "rest", [1, 2])
    write(path, "sft", [1])
    assert told(path) == [("rest", 1), ("rest", 2), ("sft", 1)]


def test_a_line_cut_by_a_kill_is_dropped_and_a_damaged_one_is_not(tmp_path):
    path = tmp_path / "metrics.jsonl"
    write(path, "sft", [1, 2])
    whole = path.read_text()
    path.write_text(whole + '{"stage": "sft", "upd')
    assert told(path) == [("sft", 1), ("sft", 2)]
    write(path, "sft", [3], resume_after=2)
    assert told(path) == [("sft", 1), ("sft", 2), ("sft", 3)]
    for damaged in (whole.replace("update", "upd", 1), whole.replace("{", "", 1), "[]\n" + whole):
        path.write_text(damaged)
        with pytest.raises(Corrupted, match=r"metrics\.jsonl: line 1"):
            MetricsLog(path, stage="sft", resume_after=2)


def test_lines_that_are_not_sealed_yet_are_read_beside_the_writer_and_after_a_kill(tmp_path):
    """In a run, whose seal has never heard of these lines."""
    with RunFolder(tmp_path / "run", {"seed": 0}) as folder:
        path = folder.path / "metrics.jsonl"
        with MetricsLog(path, stage="sft") as log:
            log.write(1, {"loss": 1.0})
            assert told(path) == [("sft", 1)] and not list(seal.faults(folder.path))
            killed = tmp_path / "killed"
            shutil.copytree(folder.path, killed)
    path = killed / "metrics.jsonl"
    with RunFolder(killed, {"seed": 0}), MetricsLog(path, stage="sft") as log:
        log.write(1, {"loss": 2.0})
        assert told(path) == [("sft", 1)]


@pytest.mark.parametrize("value", [float("nan"), np.float32("nan"), jnp.float32(np.nan)])
def test_values_that_are_not_finite_are_null_and_named(tmp_path, value):
    with MetricsLog(tmp_path / "metrics.jsonl", stage="sft") as log:
        log.write(1, {"loss": value, "grad_norm": -np.inf, "kl": 0.0})
    line = (tmp_path / "metrics.jsonl").read_text()
    assert json.loads(line, parse_constant=pytest.fail) == {
        "stage": "sft",
        "update": 1,
        "loss": None,
        "grad_norm": None,
        "kl": 0.0,
        "non_finite": {"loss": "nan", "grad_norm": "-inf"},
    }


def test_plain_lines_come_at_a_sane_rate_and_reckon_from_the_first_call():
    stream, now = io.StringIO(), 0.0
    report = metrics._PlainReport("stream", stream=stream, every=10, clock=lambda: now)
    # 100 of 200 chunks were found finished; then one a second.
    for done in range(100, 201):
        report(done, 200, "x" if done == 200 else "")
        now += 1
    lines = stream.getvalue().splitlines()
    assert lines[:2] == ["stream: 100/200", "stream: 110/200, 0:01:30 left"]
    assert lines[-1] == "stream: 200/200, 0:01:40 taken, x" and len(lines) == 11


def test_chunks_hold_every_row_once_and_are_counted_on_standard_error(capsys):
    assert list(in_chunks("abcde", "sft", size=2)) == [(0, "ab"), (2, "cd"), (4, "e")]
    assert list(in_chunks([], "rest")) == []
    captured = capsys.readouterr()
    assert (
        captured.out == "" and captured.err == "sft: 0/5\nsft: 5/5, 0:00:00 taken\nrest: 0/0, 0:00:00 taken\n"
    )


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_bar_on_the_terminal_takes_nothing_from_a_file(monkeypatch):
    file, terminal = io.StringIO(), Terminal()
    monkeypatch.setattr(sys, "stdout", file)
    with bar("generate", stream=terminal) as report:
        report(0, 1)
        print("a completion")
        report(1, 1)
    assert file.getvalue() == "a completion\n" and "completion" not in terminal.getvalue()


def test_a_terminal_gets_a_bar(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    stream = Terminal()
    with bar("stream", stream=stream) as report:
        report(1, 4)
        report(4, 4, "loss 0.5")
    assert (
        "stream" in stream.getvalue()
        and "4/4" in stream.getvalue()
        and "left" in stream.getvalue()
        and "loss 0.5" in stream.getvalue()
    )
