"""The scripts for slices and nodes against stubs: every call is written down, and what a host is told runs,
in a home of its own."""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
STUB = """#!/usr/bin/env bash
{ printf '%q ' "$(basename "$0")" "$@"; echo; } >>"$RECORD"
as() { mkdir -p "$HOMES/$1"; (cd "$HOMES/$1" && HOME=$PWD bash -c "$2"); }
"""
GCLOUD = """
for word in "$@"; do case $word in
    --worker=*) worker=${word#--worker=} ;;
    --command=*) command=${word#--command=} ;;
esac; done
case $4 in
describe) echo 2 ;;
ssh) for host in $([ "$worker" = all ] && echo 0 1 || echo "$worker"); do as "$host" "$command"; done ;;
scp) for host in 0 1; do mkdir -p "$HOMES/$host"; cp "$5" "$HOMES/$host/cicjax.tar"; done ;;
esac
"""
SSH = 'as "$1" "$2"'
SCP = 'node=${3%%:*}; mkdir -p "$HOMES/$node"; cp "$2" "$HOMES/$node/cicjax.tar"'
# What stands for cicjax: says its arguments, and ends as it is told to.
CICJAX = "#!/usr/bin/env bash\necho \"$JAX_COORDINATOR_PORT $*\"\ntrap 'echo stopped; exit 143' TERM\n"
CICJAX += "while :; do sleep 0.05; done\n"


@pytest.fixture
def machine(tmp_path):
    """Runs a script among stubs; `homes` are those of its hosts."""
    bin, record = tmp_path / "bin", tmp_path / "record"
    bin.mkdir()
    for name, body in {"gcloud": GCLOUD, "ssh": SSH, "scp": SCP, "git": 'touch "$5"'}.items():
        (bin / name).write_text(STUB + body)
        (bin / name).chmod(0o755)
    homes = tmp_path / "homes"

    def run(script, *arguments, **environment):
        record.write_text("")
        done = subprocess.run(
            ["bash", ROOT / "scripts" / script, *arguments],
            env=os.environ
            | {"PATH": f"{bin}:{os.environ['PATH']}", "RECORD": str(record), "HOMES": str(homes)}
            | environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
        return done, record.read_text().splitlines()

    yield run, homes
    for pid in homes.glob("*/cicjax/run.pid"):
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid.read_text()), signal.SIGKILL)


def install(homes, *hosts):
    """What setup would have left on each host."""
    for host in hosts:
        program = homes / host / "cicjax/.venv/bin/cicjax"
        program.parent.mkdir(parents=True)
        program.write_text(CICJAX)
        program.chmod(0o755)


def said(homes, host, text):
    """The log of a host, once the text is in it."""
    path, until = homes / host / "cicjax/run.log", time.monotonic() + 20
    while not (path.exists() and text in path.read_text()) and time.monotonic() < until:
        time.sleep(0.05)
    return path.read_text()


def test_a_slice_is_set_up_in_the_order_that_keys_need(machine):
    run, _ = machine
    done, calls = run("tpu_vm.sh", "setup", TPU="slice", ZONE="zone-b", FLAGS="--project=mine")
    gcloud = [call for call in calls if call.startswith("gcloud")]
    assert [call.split()[4] for call in gcloud] == ["describe", "ssh", "ssh", "scp", "ssh"]
    assert all("--zone=zone-b --project=mine" in call for call in gcloud)
    assert ["--worker=0" in gcloud[1], "--worker=1" in gcloud[2], "--worker=all" in gcloud[4]] == [True] * 3
    assert "slice:cicjax.tar" in gcloud[3] and "scripts/setup.sh" in gcloud[4]
    assert done.returncode != 0  # the empty archive has no setup.sh


def test_a_slice_runs_says_and_stops(machine):
    run, homes = machine
    install(homes, "0", "1")
    slice = {"TPU": "slice", "ZONE": "zone-b"}
    arguments = ("train", "a log.jsonl", "--output_dir", "/mnt/$HOME")
    done, calls = run("tpu_vm.sh", "run", *arguments, **slice)
    assert done.returncode == 0, done.stderr
    assert len(calls) == 1 and "--worker=all" in calls[0]
    for host in ("0", "1"):
        assert said(homes, host, "train") == "8476 train a log.jsonl --output_dir /mnt/$HOME\n"
    again, _ = run("tpu_vm.sh", "run", *arguments, **slice)
    assert "runs here already" in again.stderr
    assert run("tpu_vm.sh", "stop", **slice)[0].returncode == 0
    for host in ("0", "1"):
        assert said(homes, host, "stopped").endswith("stopped\n")


def test_nodes_are_told_who_they_are_and_where_they_meet(machine):
    run, homes = machine
    install(homes, "node-0", "node-1")
    done, _ = run("gpu_nodes.sh", "run", "repro", NODES="node-0 node-1", PORT="9000")
    assert done.returncode == 0, done.stderr
    for number, host in enumerate(("node-0", "node-1")):
        told = f"repro --num_processes 2 --process_id {number} --coordinator_address node-0:9000\n"
        assert said(homes, host, "repro").endswith(told)
    assert run("gpu_nodes.sh", "stop", NODES="node-0 node-1")[0].returncode == 0
    assert said(homes, "node-1", "stopped").endswith("stopped\n")
    done, calls = run("gpu_nodes.sh", "setup", NODES="node-0 node-1")
    assert [call.split()[0] for call in calls][:2] == ["git", "scp"]


@pytest.mark.parametrize("script", ["tpu_vm.sh", "gpu_nodes.sh"])
def test_without_a_verb_the_comment_at_the_top_is_shown(machine, script):
    run, _ = machine
    done, calls = run(script, TPU="slice", ZONE="zone", NODES="node")
    assert done.returncode == 2 and f"scripts/{script} setup" in done.stderr and not calls
    assert (
        "set -euo" not in done.stdout
        and run(script, "nothing", TPU="s", ZONE="z", NODES="n")[0].returncode == 2
    )


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="shellcheck is not installed")
def test_shellcheck_has_nothing_to_say():
    scripts = sorted((ROOT / "scripts").glob("*.sh"))
    done = subprocess.run(["shellcheck", *scripts], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
