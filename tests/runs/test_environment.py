"""What a run ran on is written once; a change is said, recorded, and needs a word where it decides more than
the last bits."""

import json
import os
import subprocess
import sys

import pytest

from cicjax.errors import BadInput, Corrupted
from cicjax.runs import environment

HERE = {
    "commit": "a" * 40,
    "versions": {"jax": "0.10.2", "python": "3.11.7"},
    "cores": 2,
    "device": "cpu",
    "devices": 1,
    "hosts": 1,
    "settings": {"jax_enable_x64": False},
}


def other(**changed):
    return HERE | changed


def test_the_start_is_kept_and_the_same_place_says_nothing(tmp_path, capsys):
    for _ in range(2):
        environment.settle(tmp_path, HERE)
    environment.settle(tmp_path, other(commit="b" * 40))
    assert json.loads((tmp_path / environment.FILE).read_text()) == HERE
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("name", "value"), [("cores", 1), ("devices", 8), ("hosts", 2)])
def test_another_number_is_said_and_recorded(tmp_path, capsys, name, value):
    environment.settle(tmp_path, HERE)
    environment.settle(tmp_path, other(**{name: value}))
    assert f"{name} was {HERE[name]} and is {value}" in capsys.readouterr().err
    record = json.loads((tmp_path / environment.FILE).read_text())
    (entry,) = record.pop("resumed")
    assert record == HERE and entry["environment"] == other(**{name: value})
    environment.settle(tmp_path, other(**{name: value}))
    assert capsys.readouterr().err == ""
    environment.settle(tmp_path, HERE)
    assert f"{name} was {value} and is {HERE[name]}" in capsys.readouterr().err


@pytest.mark.parametrize(
    "changed",
    [
        {"versions": {"jax": "0.10.3", "python": "3.11.7"}},
        {"versions": {"jax": "0.10.2"}},
        {"device": "NVIDIA H100"},
        {"settings": {"jax_enable_x64": True}},
        {"settings": {"jax_enable_x64": False, "XLA_FLAGS": "--xla_cpu_enable_fast_math=true"}},
    ],
)
def test_what_decides_needs_a_word(tmp_path, capsys, changed):
    environment.settle(tmp_path, HERE)
    before = (tmp_path / environment.FILE).read_bytes()
    with pytest.raises(BadInput, match="--allow_other_environment"):
        environment.settle(tmp_path, other(**changed))
    assert (tmp_path / environment.FILE).read_bytes() == before
    record = environment.settle(tmp_path, other(**changed), allow_changes=True)
    assert "goes on elsewhere" in capsys.readouterr().err and len(record["resumed"]) == 1


@pytest.mark.parametrize("content", ["[]", '{"resumed": []}', '{"resumed": [3]}', '{"resumed": 3}', "{"])
def test_a_file_that_no_run_wrote_is_corrupted(tmp_path, content):
    (tmp_path / environment.FILE).write_text(content)
    with pytest.raises(Corrupted, match=r"environment\.json"):
        environment.settle(tmp_path, HERE)


def described(**variables):
    code = "import json; from cicjax.runs import environment; print(json.dumps(environment.describe()))"
    told = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | variables, capture_output=True, check=True, text=True
    )
    return json.loads(told.stdout)


def test_settings_that_change_bits_are_seen_and_harmless_ones_are_not():
    plain = described(XLA_FLAGS="--xla_force_host_platform_device_count=4 --xla_dump_to=/nowhere")
    assert plain["devices"] == 4 and "XLA_FLAGS" not in plain["settings"]
    assert {"python", "jax", "flax", "numpy"} <= plain["versions"].keys()
    assert plain["cores"] == len(os.sched_getaffinity(0)) and plain["hosts"] == 1 and plain["device"] == "cpu"
    changed = described(JAX_ENABLE_X64="1", XLA_FLAGS="--xla_cpu_enable_fast_math=true")
    assert [name for name, *_ in environment.changes(plain, changed)] == [
        "devices",
        "settings.XLA_FLAGS",
        "settings.jax_enable_x64",
    ]


def test_random_numbers_are_drawn_by_one_generator_whatever_is_asked_for():
    code = """
from cicjax.devices import process
process.pin_generator()
import jax
print(jax.random.uniform(jax.random.key(0), (3, 5)).tolist())
"""
    told = {
        subprocess.run(
            [sys.executable, "-c", code], env=os.environ | more, capture_output=True, check=True, text=True
        ).stdout
        for more in ({}, {"JAX_DEFAULT_PRNG_IMPL": "rbg"}, {"JAX_THREEFRY_PARTITIONABLE": "0"})
    }
    assert len(told) == 1
