"""Two processes are one run: the same command in both, each with two fake devices of a CPU."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress

import jax
import numpy as np
import pytest
import tiny_qwen2

from cicjax import cli
from cicjax.devices import hosts
from cicjax.errors import BadInput
from cicjax.runs.metrics import read_metrics
from cicjax.training import checkpoints

PATIENCE = 900  # seconds to the end of a process, on a machine that has much else to do
QUESTION = {"role": "user", "author": "user"}
ATTEMPT = {"role": "assistant", "author": "agent", "content": "a = F / m = 12 / 3 = 5", "solved": 0}
CORRECTION = {"role": "assistant", "author": "teacher", "content": "a = F / m = 12 / 3 = 4"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hosts")
    tiny_qwen2.write(folder / "toy", seed=2, num_hidden_layers=1, max_position_embeddings=2048)
    rows = (
        {"id": str(n), "messages": [QUESTION | {"content": f"{n} N on 3 kg?"}, ATTEMPT, CORRECTION]}
        for n in range(24)
    )
    (folder / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def train(folder, run, *more):
    """Arguments of a training of 12 updates."""
    return (
        *("train", folder / "log.jsonl", "--model", folder / "toy", "--output_dir", run, "--lora_r", 2),
        *("--per_device_train_batch_size", 4, "--num_train_epochs", 2, "--dtype", "float32", *more),
    )


def start(arguments, *, devices=2, program=None, **environment):
    """One process of its own: cicjax, or another program."""
    flags = f"--xla_force_host_platform_device_count={devices}"
    what = ("-m", "cicjax") if program is None else ("-c", program)
    return subprocess.Popen(
        [sys.executable, *what, *map(str, arguments)],
        env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def start_both(arguments, **how):
    with socket.socket() as listening:
        listening.bind(("localhost", 0))
        address = f"localhost:{listening.getsockname()[1]}"
    together = ("--num_processes", 2, "--coordinator_address", address)
    return [start((*arguments, *together, "--process_id", number), **how) for number in range(2)]


def ends(processes):
    """(exit code, standard output, standard error) of each; none is left behind."""
    try:
        said = [process.communicate(timeout=PATIENCE) for process in processes]
        return [(process.returncode, *out) for process, out in zip(processes, said, strict=True)]
    finally:
        for process in processes:
            with suppress(OSError):
                process.kill()


def wait_for_update(run, update):
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        path = run / "metrics.jsonl"
        if path.exists() and path.read_bytes().count(b"\n") >= update:
            return
        time.sleep(0.02)
    raise AssertionError(f"update {update} never came")


def digest(run):
    return checkpoints.fingerprint(checkpoints.load_adapter(run / "adapter")[0])


def test_a_signal_to_one_stops_both_and_one_alone_goes_on(folder, tmp_path):
    """And what two hosts and then one device made is what one device makes, to rounding."""
    run, alone = tmp_path / "run", tmp_path / "alone"
    both = start_both(train(folder, run, "--save_steps", 100))
    try:
        wait_for_update(run, 2)
        both[1].send_signal(signal.SIGTERM)
    finally:
        (code, out, err), (other, nothing, _) = ends(both)
    assert (code, other) == (128 + signal.SIGTERM,) * 2, err
    saved = checkpoints.latest(run / "adapter")
    assert saved and 2 <= saved < 12 and f"saved at update {saved} of 12" in err
    assert "[LOSS]" in out and "[LOSS]" not in nothing
    record = json.loads((run / "environment.json").read_text())
    assert (record["hosts"], record["devices"]) == (2, 4)

    assert cli.main([*map(str, train(folder, run)), "--num_processes", "1"]) == 0
    assert [row["update"] for row in read_metrics(run / "metrics.jsonl")] == list(range(1, 13))
    last = json.loads((run / "environment.json").read_text())["resumed"][-1]["environment"]
    assert (last["hosts"], last["devices"]) == (1, 1)
    assert cli.main([*map(str, train(folder, alone))]) == 0
    losses = [[row["loss"] for row in read_metrics(each / "metrics.jsonl")] for each in (run, alone)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_four_devices_stopped_and_one_goes_on(folder, tmp_path):
    run, alone = tmp_path / "run", tmp_path / "alone"
    process = start(train(folder, run, "--save_steps", 100), devices=4)
    try:
        wait_for_update(run, 2)
        process.send_signal(signal.SIGTERM)
    finally:
        ((code, _, err),) = ends([process])
    assert code == 128 + signal.SIGTERM and "saved at update" in err
    assert json.loads((run / "environment.json").read_text())["devices"] == 4
    for each in (run, alone):
        assert cli.main([*map(str, train(folder, each))]) == 0
    losses = [[row["loss"] for row in read_metrics(each / "metrics.jsonl")] for each in (run, alone)]
    assert len(losses[0]) == 12 and losses[0] == pytest.approx(losses[1], rel=1e-5)
    leaves = [jax.tree.leaves(checkpoints.load_adapter(each / "adapter")[0]) for each in (run, alone)]
    for one, other in zip(*leaves, strict=True):
        assert np.allclose(one, other, rtol=0, atol=1e-5)


VERBS = """
import json, sys
from cicjax import cli
for verb in json.loads(sys.argv[1]):
    assert cli.main([*verb, *sys.argv[2:]]) == 0
    print("END", flush=True)
"""


def test_what_a_verb_prints_is_the_same_on_two_hosts(folder, tmp_path):
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"A force of {n} N"}) + "\n" for n in range(5)))
    model = ["--model", str(folder / "toy"), "--dtype", "float32", "--json"]
    sampled = ["--num_samples", "3", "--temperature", "1", "--max_new_tokens", "9"]
    verbs = [
        ["generate", "--prompts", str(prompts), *sampled, *model],
        ["score", str(folder / "log.jsonl"), *model],
        ["eval", "--num_test", "1", "--max_new_tokens", "9", *model],  # a host has nothing to do
    ]
    both = start_both((json.dumps(verbs),), program=VERBS)
    alone = start((json.dumps(verbs), "--num_processes", 1), program=VERBS)
    (code, out, err), (other, nothing, _), (_, expected, _) = ends([*both, alone])
    assert (code, other, nothing) == (0, 0, ""), err
    assert expected.count("END") == 3 and out.count("\n") == expected.count("\n") > 40
    for one, another in zip(out.splitlines(), expected.splitlines(), strict=True):
        assert one == another or close(json.loads(one), json.loads(another))


def close(one, other):
    """Equal, numbers to rounding: another number of rows may round the last bits another way."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(close(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(close, one, other))
    return one == pytest.approx(other, abs=1e-5) if isinstance(one, float) else one == other


@pytest.mark.slow
def test_an_experiment_and_a_grid_on_two_hosts_count_what_one_counts(folder, tmp_path):
    """GRPO's groups too, of which each host draws a part."""
    toy = ("--model", folder / "toy", "--scale", "smoke")
    methods = ("--methods", "sft", "grpo", "interventional", "--num_test", 20, "--num_generations", 3)
    for verb, more in {
        "repro": methods,
        "tune": ("--methods", "interventional", "--seeds", 7, "--learning_rates", 1e-4, 1e-3),
    }.items():
        done = []
        for name, begin in {"two": start_both, "one": lambda each: [start(each)]}.items():
            file = ("--rates", tmp_path / f"{name}.json") if verb == "tune" else ()
            arguments = (verb, *toy, *more, *file, "--output_dir", tmp_path / verb / name)
            codes = ends(begin(arguments))
            assert [code for code, *_ in codes] == [0] * len(codes), codes
            results = tmp_path / f"{name}.json" if verb == "tune" else tmp_path / verb / name / "results.json"
            done.append(json.loads(results.read_text()))
        assert solved(done[0]) == solved(done[1])
    assert close(*(words(tmp_path / "repro" / name) for name in ("two", "one")))


def words(run):
    """What was drawn and answered, and with which log-probabilities: a toy may solve nothing at all."""
    files = ("rollouts/stream.jsonl", "rollouts/grpo.jsonl", "evaluations/interventional-direct.jsonl")
    return [[json.loads(line) for line in (run / file).open()] for file in files]


def solved(record):
    """Every count of solved questions, by where it stands."""
    if not isinstance(record, dict):
        return {}
    found = {key: value for key, value in record.items() if "solved" in key}
    inner = {key: solved(value) for key, value in record.items() if isinstance(value, dict)}
    return found | {key: value for key, value in inner.items() if value}


def test_a_host_that_stays_alone_says_so(folder, tmp_path):
    together = ("--num_processes", 2, "--coordinator_address", "localhost:1", "--process_id", 1)
    before = time.monotonic()
    ((code, _, err),) = ends([start((*train(folder, tmp_path / "r"), *together), CICJAX_JOIN_SECONDS="3")])
    assert code == 2 and err.count("\n") == 1 and "run the same command on every host" in err
    assert time.monotonic() - before < 60 and not (tmp_path / "r").exists()


@pytest.fixture(scope="module")
def unbroken(folder):
    run = folder / "unbroken"
    assert [code for code, *_ in ends(start_both(train(folder, run, "--save_steps", 2)))] == [0, 0]
    return digest(run)


@pytest.mark.slow
@pytest.mark.parametrize("killed", [(0,), (1,), (0, 1)], ids=["first", "second", "both"])
def test_killed_hosts_resume_to_the_digest_of_an_unbroken_run(folder, unbroken, tmp_path, killed):
    broken = train(folder, tmp_path / "broken", "--save_steps", 2)
    both = start_both(broken)
    wait_for_update(tmp_path / "broken", 5)
    for number in killed:
        both[number].kill()
    assert all(code != 0 for code, *_ in ends(both))
    assert checkpoints.latest(tmp_path / "broken" / "adapter") < 12
    assert [code for code, *_ in ends(start_both(broken))] == [0, 0]
    assert digest(tmp_path / "broken") == unbroken


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"processes": 0}, "num_processes is 1 or more"),
        ({"processes": 2, "process": 2}, "process_id is from 0"),
        ({"process": 1}, "process_id is from 0"),
        ({"processes": 2, "process": 0, "address": "host"}, "HOST:PORT"),
    ],
)
def test_numbers_that_do_not_fit_together(given, text):
    with pytest.raises(BadInput, match=text):
        hosts.join(**given)


def test_alone_everything_is_a_plain_call():
    done = []
    hosts.once(lambda: done.append(1))
    hosts.barrier("here")
    assert done == [1] and hosts.tell("a") == "a" and hosts.largest(3) == 3
    assert hosts.first() and not hosts.several() and hosts.soon(lambda: True)
    with pytest.raises(BadInput):
        hosts.once(lambda: hosts.join(processes=0))


@pytest.mark.parametrize("count", [1, 2, 3, 8])
@pytest.mark.parametrize("items", [range(0), range(1), range(2, 9), list("abcdefghij")])
def test_what_hosts_share_is_done_once_each_and_put_together_in_order(monkeypatch, count, items):
    def work(first, part):
        return [[first + place, item] for place, item in enumerate(part)]

    monkeypatch.setattr(hosts, "_count", count)
    monkeypatch.setattr(hosts, "_gathered", lambda content: [content])
    made = []
    for number in range(count):
        monkeypatch.setattr(hosts, "_number", number)
        made += hosts.share(items, work)
    assert made == [list(each) for each in enumerate(items)]


def test_a_run_in_a_bucket_is_refused(folder, capsys):
    for arguments in (train(folder, "gs://mine/run"), ("repro", "--output_dir", "gs://mine/run")):
        assert cli.main([*map(str, arguments)]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and "gs:// has neither the locks" in error
