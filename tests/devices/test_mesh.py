"""Several devices do what one does: fake ones, that divide a CPU, in a process of their own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

HERE = Path(__file__).resolve().parent
COUNTS = (1, 2, 4, 8)


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    path = os.pathsep.join(map(str, [HERE.parents[1], HERE.parent / "model"]))
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={max(COUNTS)}"
    done = subprocess.run(
        [sys.executable, HERE / "on_devices.py", tmp_path_factory.mktemp("toy") / "m", *map(str, COUNTS)],
        env=os.environ | {"PYTHONPATH": path, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [record["devices"] for record in found] == list(COUNTS)
    return found


def test_losses_gradients_and_adapters_are_those_of_one_device(records):
    for record in records:
        many, one = record["told"]
        np.testing.assert_allclose(many, one, rtol=1e-5)
        assert record["adapter"] < 1e-5 < record["moved"]
        assert one[2] == [0.0, 0.0]  # an update without rows that bear loss


def test_completions_and_scores_are_those_of_one_device(records):
    for record in records:
        assert record["completions"] and record["loops"]
        assert record["logprobs"] < 1e-5 and record["scores"] < 1e-5
        assert record["reasons"] == ["length", "stop", "stop_string"]


def test_devices_exchange_gradients_once_an_update_and_nothing_else(records):
    for record in records:
        found = record["collectives"]
        update = found.pop("whole_update", None)
        assert {"prefill", "decode_step", "decode_loop", "take_rows"} <= found.keys()
        assert not any(found.values())
        if record["devices"] == 1:
            assert update is None
        else:
            assert set(update) == {"all-reduce"}
