"""An agent's trajectory, longer than the embedded base's positions: refused whole, trained in windows."""

import json

import pytest

from cicjax import cli

PARTS = ("parser", "lexer", "linker", "loader", "printer")


def step(n):
    part = PARTS[n % len(PARTS)]
    call = {
        "tool_call_id": f"c{n}",
        "function_name": "shell",
        "arguments": {"command": f"make {part}"},
    }
    said = f"{part}.c:{n}: warning: unused variable\n" * 4 + f"built {part} in {n} s\n"
    return {
        "step_id": n + 2,
        "source": "agent",
        "message": f"Next I build the {part}.",
        "tool_calls": [call],
        "observation": {"results": [{"source_call_id": f"c{n}", "content": said}]},
    }


@pytest.fixture
def log(tmp_path):
    """A trajectory as Harbor writes it, converted."""
    task = "Build every part of the tool and say which of them is slow.\n" * 3
    trajectory = {
        "schema_version": "ATIF-v1.2",
        "session_id": "s",
        "agent": {"name": "shell-agent", "version": "1"},
        "steps": [{"step_id": 1, "source": "user", "message": task}, *map(step, range(24))],
    }
    (tmp_path / "trajectory.json").write_text(json.dumps(trajectory))
    log = tmp_path / "log.jsonl"
    convert = ("convert", tmp_path / "trajectory.json", "--assistant_author", "agent", "--output", log)
    assert cli.main(list(map(str, convert))) == 0
    return log


def test_a_trajectory_trains_in_windows_and_is_refused_whole(log, tmp_path, capsys):
    run = ("train", log, "--output_dir", tmp_path / "run", "--targets", "world", "--lora_r", 2)
    capsys.readouterr()
    assert cli.main([str(a) for a in (*run, "--max_steps", 3)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "pass the model's 2,048 positions; cut it" in error
    windows = ("--max_length", 2048, "--overflow", "split", "--max_steps", 3)
    assert cli.main([str(a) for a in (*run, *windows, "--per_device_train_batch_size", 1)]) == 0
    told = capsys.readouterr().out
    assert "1 of 1 rows are longer than 2048 tokens and were split into" in told
    assert "longest row " in told and " GB beside the base" in told
    budget = json.loads((tmp_path / "run" / "adapter" / "budget.json").read_text())
    assert budget["updates"] == 3 and budget["supervised_by_author"]["tool"] > 1000
