"""Signals that ask a command to end, sent to real processes: saved at once, no update lost, no traceback."""

import json
import os
import pty
import random
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
import tiny_qwen2
from faults import Kept

from cicjax import signals
from cicjax.training import checkpoints

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="signals, and their masks under /proc")

UPDATES = 300
STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
# Seconds from the first handler: before and in tyro's import, in jax's, while the base is read. And after so
# many more updates.
MOMENTS = (0.0, 0.2, 1.0, 2.0)
COUNTS = (1, 3, 60)


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("signals")
    tiny_qwen2.write(folder / "model", seed=2, num_hidden_layers=1)
    messages = [
        {"role": "user", "author": "user", "content": "A force of 12 N acts on 3 kg."},
        {"role": "assistant", "author": "teacher", "content": "a = F / m = 12 / 3 = 4"},
    ]
    lines = [json.dumps({"id": f"row {n}", "messages": messages}) for n in range(8)]
    (folder / "log.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def command(toy: Path, run: Path, *, save_steps: int = 1000) -> list[str]:
    numbers = {"max_steps": UPDATES, "save_steps": save_steps, "per_device_train_batch_size": 1, "lora_r": 2}
    flags = [text for name, value in numbers.items() for text in (f"--{name}", str(value))]
    paths = [str(toy / "log.jsonl"), "--model", str(toy / "model"), "--output_dir", str(run)]
    return [sys.executable, "-m", "cicjax", "train", *paths, *flags, "--lora_target_modules", "q_proj"]


@pytest.fixture(scope="module", autouse=True)
def not_in_the_background():
    """Jobs in the background of a shell start with SIGINT ignored, and cicjax leaves it so."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def start(arguments: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def drain(terminal: int) -> None:
    with suppress(OSError):
        while os.read(terminal, 4096):
            pass


def updates_told(run: Path) -> int:
    path = run / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def wait_for_handlers(process: subprocess.Popen) -> None:
    """Until then the interpreter is still starting, and a signal ends it as it would any program."""
    status, taken = Path(f"/proc/{process.pid}/status"), 0
    while process.poll() is None and not taken & 1 << signal.SIGTERM - 1:
        taken = int(status.read_text().split("SigCgt:")[1].split()[0], 16)


def wait_for_updates(process: subprocess.Popen, run: Path, count: int) -> None:
    while process.poll() is None and updates_told(run) < count:
        time.sleep(0.005)


def ended(process: subprocess.Popen[str], number: int) -> str:
    """Send the signal and give what the process says, which is to end as signals end a command."""
    process.send_signal(number)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 128 + number, error
    assert "Traceback" not in error and "ignored" not in error
    return error


@pytest.fixture(scope="module")
def whole(toy):
    run = toy / "whole"
    subprocess.run(command(toy, run), check=True, capture_output=True)
    return checkpoints.leaf_digests(checkpoints.load_adapter(run / "adapter")[0])


def test_a_run_stopped_at_many_moments_loses_no_update_and_ends_bit_equal(toy, whole, tmp_path):
    run = tmp_path / "run"
    for turn, moment in enumerate((*MOMENTS, *COUNTS)):
        process, number = start(command(toy, run)), STOPPING[turn % 3]
        if turn < len(MOMENTS):
            wait_for_handlers(process)
            time.sleep(moment)
        else:
            wait_for_updates(process, run, updates_told(run) + moment)
        before = updates_told(run)
        error = ended(process, number)
        saved = checkpoints.latest(run / "adapter") or 0
        assert before <= saved == updates_told(run)
        if saved:
            said = f"{signal.Signals(number).name}: {run / 'adapter'}: saved at update {saved} of {UPDATES};"
            assert said in error
    assert not (run / "results.json").exists()
    subprocess.run(command(toy, run), check=True, capture_output=True)
    assert checkpoints.leaf_digests(checkpoints.load_adapter(run / "adapter")[0]) == whole


@pytest.mark.slow
def test_two_hundred_signals_over_a_grid_of_moments(toy, whole, tmp_path):
    """Training from its first handler to its last update, again and again; sampling, and a verb without jax.
    What was stopped resumes, and every run that ends is bit-equal to one that nobody stopped."""
    kept, run = Kept("signals"), tmp_path / "0"
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"id": str(n), "prompt": "A force"}) + "\n" for n in range(1500)))
    generate = ["generate", "--model", str(toy / "model"), "--prompts", str(prompts)]
    mask = ["mask", str(toy / "log.jsonl"), "--tokenizer", str(toy / "model")]
    for turn in range(len(kept.rows), 200):
        number, moment = STOPPING[turn % 3], turn % 50 / 50 * 6
        others = {0: generate, 5: mask}.get(turn % 10)
        process = start(command(toy, run) if others is None else [sys.executable, "-m", "cicjax", *others])
        wait_for_handlers(process)
        if others is mask:
            moment /= 10
        if others is None and turn % 4 == 3:
            wait_for_updates(process, run, updates_told(run) + random.Random(turn).randrange(1, 60))
        else:
            time.sleep(moment)
        before = updates_told(run)
        process.send_signal(number)
        error = process.communicate(timeout=120)[1]
        assert "Traceback" not in error and "ignored" not in error, error
        # Code 0, or the signal itself: the work was done already, and its result was written.
        done = process.returncode in (0, -number)
        assert done or process.returncode == 128 + number, (turn, process.returncode, error)
        lost = finished = 0
        if others is None:
            lost = max(before - (checkpoints.latest(run / "adapter") or 0), 0)
            finished = int((run / "results.json").exists())
            assert lost <= 1 and (finished or not done)
            if finished:
                assert checkpoints.leaf_digests(checkpoints.load_adapter(run / "adapter")[0]) == whole
                run = tmp_path / str(turn)
        kept.add([int(done), lost, finished])
    late, lost, finished = map(sum, zip(*kept.rows, strict=True))
    print(f"200 signals, {finished} runs ended bit-equal, {late} after the end, {lost} updates lost")


def test_a_second_signal_ends_at_once_and_the_same_wish_sent_twice_does_not(toy, tmp_path):
    run = tmp_path / "run"
    process = start(command(toy, run))
    wait_for_updates(process, run, 1)
    process.send_signal(signal.SIGINT)
    ended(process, signal.SIGINT)
    saved = checkpoints.latest(run / "adapter")
    assert saved and saved == updates_told(run)

    # The main thread is away in a C function, which itself says so: no handler runs, and the second signal
    # ends the process all the same.
    program = (
        "import sys, ctypes\nfrom cicjax import signals\nsignals.install()\nsys.modules['jax'] = signals\n"
        "ctypes.CDLL(None).system(b'echo away; exec sleep 9 >/dev/null 2>&1')\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "away\n"
    process.send_signal(signal.SIGTERM)
    time.sleep(signals.ONE_WISH + 0.2)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=5)
    assert process.returncode == 143 and not error


def test_what_nohup_ignores_stays_ignored():
    program = (
        "import os, signal\nsignal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "from cicjax import signals\nsignals.install()\n"
        "os.kill(os.getpid(), signal.SIGHUP)\nprint(signals.received())"
    )
    process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (process.returncode, process.stdout) == (0, "0\n")


def test_no_import_is_broken_off(tmp_path):
    (tmp_path / "slow_to_import.py").write_text(
        "import os, signal, time\nos.kill(os.getpid(), signal.SIGTERM)\ntime.sleep(0.1)\ndone = True\n"
    )
    program = (
        "import sys, time\nfrom cicjax import signals\nsignals.install()\nimport slow_to_import\n"
        "sys.stdout.write(f'{slow_to_import.done}\\n')\ntime.sleep(60)"
    )
    path = f"{tmp_path}:{os.environ.get('PYTHONPATH', '.')}"
    process = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=30,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert (process.returncode, process.stdout, process.stderr) in [(143, "True\n", ""), (143, "", "")]


def test_a_terminal_that_goes_away_costs_nothing(toy, tmp_path):
    run = tmp_path / "run"
    in_terminal = "import os, sys\nos.login_tty(0)\nos.execv(sys.argv[1], sys.argv[1:])"
    leader, follower = pty.openpty()
    process = subprocess.Popen([sys.executable, "-c", in_terminal, *command(toy, run)], stdin=follower)
    os.close(follower)
    threading.Thread(target=drain, args=(leader,), daemon=True).start()
    wait_for_updates(process, run, 1)
    os.close(leader)
    assert process.wait(timeout=60) == 129
    saved = checkpoints.latest(run / "adapter")
    assert saved and saved == updates_told(run)
