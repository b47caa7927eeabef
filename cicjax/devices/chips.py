"""The chips of this node, each for a process of its own: what one process computes in a thousand small steps
gains little from more chips, several processes beside one another gain all of them.

Asks no jax: a process that opens the chips keeps them from those that it starts.
"""

import glob
import importlib.util
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from cicjax import signals
from cicjax.devices import hosts
from cicjax.errors import CicjaxError, printable
from cicjax.files.whole import private_folder

PORT = 8476  # of the first process on a TPU; each has one of its own
OTHERS = ("JAX_COORDINATOR_ADDRESS", "SLURM_STEP_NODELIST")


class Job(NamedTuple):
    """A command, what it is called, and the file that gets what it prints."""

    name: str
    command: Sequence[str]
    log: Path


class Failed(CicjaxError):
    """One of several jobs ended with another code than 0, which is this one's too."""

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.exit_code = code


def alone() -> list[dict[str, str]]:
    """For each chip of this node what the environment says to a process that is to see it alone; [] where
    there are not several, or where other hosts may be at work with this one."""
    workers = os.environ.get("TPU_WORKER_HOSTNAMES", "")
    if hosts.several() or "," in workers or any(name in os.environ for name in OTHERS):
        return []
    chips = _tpus() or _gpus()
    return chips if len(chips) > 1 else []


def _tpus() -> list[dict[str, str]]:
    if not hosts.on_tpu():
        return []
    count = len(glob.glob("/dev/accel[0-9]*") or glob.glob("/dev/vfio/[0-9]*"))
    return [
        {
            "TPU_VISIBLE_CHIPS": str(number),
            "TPU_CHIPS_PER_PROCESS_BOUNDS": "1,1,1",
            "TPU_PROCESS_BOUNDS": "1,1,1",
            "TPU_PROCESS_ADDRESSES": f"localhost:{PORT + number}",
            "TPU_PROCESS_PORT": str(PORT + number),
            "CLOUD_TPU_TASK_ID": "0",
        }
        for number in range(count)
    ]


def _gpus() -> list[dict[str, str]]:
    wanted = os.environ.get("JAX_PLATFORMS", "cuda").split(",")[0] in ("cuda", "gpu")
    plugins = (f"jax_cuda{version}_plugin" for version in (12, 13))
    if not (wanted and any(importlib.util.find_spec(name) for name in plugins)):
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    there = [path.removeprefix("/dev/nvidia") for path in sorted(glob.glob("/dev/nvidia[0-9]*"))]
    return [{"CUDA_VISIBLE_DEVICES": each} for each in (visible.split(",") if visible else there)]


def run(jobs: Sequence[Job], chips: Sequence[Mapping[str, str]]) -> None:
    """Run the jobs, each on a chip of its own, as many at once as there are chips.

    Where one fails the others go on; then Failed says which, with the last line of its log. A signal is
    passed on, and waited for.
    """
    waiting, free = list(jobs), list(range(len(chips)))
    running: dict[int, tuple[Job, subprocess.Popen[bytes]]] = {}
    failed: list[tuple[Job, int]] = []
    try:
        while waiting or running:
            while waiting and free:
                chip, job = free.pop(0), waiting.pop(0)
                print(printable(f"{job.name}: on chip {chip}, {job.log}"), flush=True)
                running[chip] = job, _start(job, chips[chip])
            for chip, (job, process) in list(running.items()):
                if process.poll() is not None:
                    free.append(chip)
                    del running[chip]
                    failed += [(job, process.returncode)] if process.returncode else []
            signals.check()
            time.sleep(0.1)
    finally:
        _stop([process for _, process in running.values()])
    if failed:
        job, code = failed[0]
        said = f"{job.name}: {_last_line(job.log)}" + f"; {len(failed) - 1} more failed" * (len(failed) > 1)
        raise Failed(said, code if code > 0 else 1)


def _start(job: Job, chip: Mapping[str, str]) -> "subprocess.Popen[bytes]":
    private_folder(job.log.parent)
    with os.fdopen(os.open(job.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab") as log:
        # In a session of its own: a terminal's Ctrl-C comes once, through the process that waits.
        return subprocess.Popen(
            job.command, env={**os.environ, **chip}, stdout=log, stderr=log, start_new_session=True
        )


def _stop(processes: "Sequence[subprocess.Popen[bytes]]") -> None:
    """Ask them to end as this process was asked to, and wait: what they have done they save."""
    for process in processes:
        with suppress(ProcessLookupError):
            process.send_signal(signals.received() or signal.SIGTERM)
    for process in processes:
        process.wait()


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()
    return next((line.removeprefix("cicjax: error: ") for line in reversed(lines) if line.strip()), "failed")
