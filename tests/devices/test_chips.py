"""Processes beside one another, each with a chip of its own."""

import glob
import importlib.util
import itertools
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import tiny_qwen2

from cicjax import cli
from cicjax.devices import chips
from cicjax.devices.chips import Failed, Job

# Says which chip it saw, when it began and ended; ends with the code that it is told.
WORK = """
import json, os, sys, time
began = time.monotonic()
time.sleep(0.4)
print(json.dumps([os.environ["CHIP"], began, time.monotonic()]), flush=True)
print("cicjax: error: out of luck" if int(sys.argv[1]) else "", file=sys.stderr)
sys.exit(int(sys.argv[1]))
"""
PARENT = """
import sys
from pathlib import Path
from cicjax import cli
from cicjax.commands.doctor import Doctor
from cicjax.devices import chips

WORK = '''
import signal, sys, time
def save(number, frame):
    time.sleep(0.3)
    print("saved", number)
    sys.exit(143)
signal.signal(signal.SIGTERM, save)
print("ready", flush=True)
time.sleep(60)
'''
names = [str(number) for number in range(3)]
jobs = [chips.Job(name, [sys.executable, "-c", WORK], Path(sys.argv[1], f"{name}.log")) for name in names]
Doctor.run = lambda _: chips.run(jobs, [{}, {}])
sys.argv = ["cicjax", "doctor"]
sys.exit(cli.main())
"""


@pytest.fixture
def node(monkeypatch):
    """A node as far as this process can see: files of devices, plugins, variables."""
    for name in ("JAX_PLATFORMS", "CUDA_VISIBLE_DEVICES", "TPU_WORKER_HOSTNAMES", *chips.OTHERS):
        monkeypatch.delenv(name, raising=False)

    def made(*devices, packages=()):
        monkeypatch.setattr(glob, "glob", lambda pattern: [p for p in devices if p[:9] == pattern[:9]])
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: name if name in packages else None)

    return made


def test_each_process_sees_one_chip(node, monkeypatch):
    node("/dev/nvidia0", "/dev/nvidia1", "/dev/nvidia2", packages=["jax_cuda12_plugin"])
    assert [each["CUDA_VISIBLE_DEVICES"] for each in chips.alone()] == ["0", "1", "2"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    assert [each["CUDA_VISIBLE_DEVICES"] for each in chips.alone()] == ["2", "5"]
    node("/dev/accel0", "/dev/accel1", packages=["libtpu"])
    there = chips.alone()
    assert [each["TPU_VISIBLE_CHIPS"] for each in there] == ["0", "1"]
    ports = [each["TPU_PROCESS_PORT"] for each in there]
    assert ports == ["8476", "8477"]
    assert [each["TPU_PROCESS_ADDRESSES"] for each in there] == [f"localhost:{port}" for port in ports]


def test_one_chip_a_cpu_and_a_host_among_others_share_nothing_out(node, monkeypatch):
    node("/dev/nvidia0", packages=["jax_cuda12_plugin"])
    assert chips.alone() == []
    node("/dev/nvidia0", "/dev/nvidia1")  # jax has no plugin for them
    assert chips.alone() == []
    node("/dev/accel0", "/dev/accel1", packages=["libtpu"])
    for name, value in {
        "JAX_PLATFORMS": "cpu",
        "TPU_WORKER_HOSTNAMES": "one,two",
        "JAX_COORDINATOR_ADDRESS": "one:1",
    }.items():
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            assert chips.alone() == []
    assert len(chips.alone()) == 2


def test_jobs_share_the_chips_and_one_that_fails_stops_no_other(tmp_path):
    def job(number, code):
        return Job(f"job {number}", [sys.executable, "-c", WORK, str(code)], tmp_path / f"{number}.log")

    jobs = [job(number, code) for number, code in enumerate([0, 3, 0, 5, 0])]
    with pytest.raises(Failed, match="job 1: out of luck; 1 more failed") as caught:
        chips.run(jobs, [{"CHIP": "a"}, {"CHIP": "b"}])
    assert caught.value.exit_code == 3
    spans = {"a": [], "b": []}
    for each in jobs:
        chip, began, ended = json.loads(each.log.read_text().splitlines()[0])
        spans[chip].append((began, ended))
    assert sorted(map(len, spans.values())) == [2, 3]
    for own in map(sorted, spans.values()):
        assert all(before[1] <= after[0] for before, after in itertools.pairwise(own))
    (_, first_end), (second_begin, _) = spans["a"][0], spans["b"][0]
    assert second_begin < first_end


def test_a_signal_is_passed_on_and_waited_for(tmp_path):
    path = os.pathsep.join(sys.path)
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path)], env=os.environ | {"PYTHONPATH": path}
    )
    logs = [tmp_path / f"{number}.log" for number in range(2)]
    until = time.monotonic() + 60
    while not all(log.exists() and log.read_text() for log in logs):
        assert time.monotonic() < until
        time.sleep(0.02)
    parent.send_signal(signal.SIGTERM)
    assert parent.wait(timeout=60) == 143
    assert all("saved" in log.read_text() for log in logs) and not (tmp_path / "2.log").exists()


def test_the_process_that_starts_them_opens_no_device(tmp_path):
    """A chip that it opened it would keep from them."""
    program = (
        "import sys\nfrom cicjax import cli\nfrom cicjax.devices import chips\n"
        "chips.alone = lambda: [{}, {}]\n"
        "def run(jobs, there):\n    from jax._src import xla_bridge\n"
        "    print(len(jobs), xla_bridge._backends)\n    sys.exit(7)\n"
        "chips.run = run\nsys.exit(cli.main(sys.argv[1:]))"
    )
    for experiment in ("paper", "boxes", "dialogues"):
        flags = ["--experiment", experiment, "--seeds", "0", "1", "--output_dir", str(tmp_path / "run")]
        path = os.pathsep.join(sys.path)
        done = subprocess.run(
            [sys.executable, "-c", program, "repro", *flags],
            env=os.environ | {"PYTHONPATH": path},
            capture_output=True,
            text=True,
        )
        assert (done.returncode, done.stdout) == (7, "2 {}\n"), done.stderr


def test_seeds_side_by_side_are_the_runs_of_each_and_one_report(tmp_path, monkeypatch, capsys):
    tiny_qwen2.write(tmp_path / "toy", num_hidden_layers=1, max_position_embeddings=2048)
    shared = ["repro", "--model", str(tmp_path / "toy"), "--scale", "smoke", "--methods", "base", "sft"]
    assert cli.main([*shared, "--seed", "1", "--output_dir", str(tmp_path / "one")]) == 0
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    monkeypatch.setattr(chips, "alone", lambda: [{}, {}])
    several = [*shared, "--seeds", "0", "1", "--output_dir", str(tmp_path / "all")]
    assert cli.main(several) == 0
    said = capsys.readouterr().out
    assert "seed 1: on chip 1" in said and "report.html: all seeds" in said
    for name in ("results.json", "evaluations/sft-direct.jsonl"):
        assert (tmp_path / "all" / "seed-1" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()
    assert "<summary>Seed 0</summary>" in (tmp_path / "all" / "report.html").read_text()
    (tmp_path / "all" / "seed-0" / "results.json").write_text("{}")
    assert cli.main(several) == 5
    assert "seed 0: " in capsys.readouterr().err
