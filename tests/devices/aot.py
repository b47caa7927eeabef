"""Runs of scripts/compile_check.py in a process of its own, and the committed records that they are held
against."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
RECORDS = ROOT / "checkpoints/results/compile"
ON_REQUEST = pytest.mark.skipif(not os.environ.get("CICJAX_AOT"), reason="CICJAX_AOT=1 compiles the 0.5B too")


def committed(target: str, size: str) -> dict[str, Any]:
    """The record in the repository."""
    return json.loads((RECORDS / f"{target.replace(':', '-')}-{size}.json").read_text(encoding="utf-8"))


def check(target: str, size: str, folder: Path, *arguments: str) -> dict[str, Any]:
    """The record of programs compiled now. Skips where the compiler is not installed."""
    file = folder / f"{target.replace(':', '-')}-{size}.json"
    command = [sys.executable, "scripts/compile_check.py", "--target", target, "--model_size", size]
    done = subprocess.run(
        [*command, "--json", str(file), *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "JAX_NUMPY_RANK_PROMOTION": "allow"},
        capture_output=True,
        text=True,
    )
    if done.returncode == 2 and "is not installed" in done.stderr:
        pytest.skip(done.stderr.strip())
    assert file.exists(), done.stderr[-3000:]
    return json.loads(file.read_text(encoding="utf-8"))


def by_name(record: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    return {(each["name"], each["shape"]): each for each in record["programs"]}


def assert_programs_are_sound(record: dict[str, Any]) -> None:
    """All fit; nothing large is rewritten as another type; nobody holds scores of all tokens against all."""
    assert record["programs"]
    for program in record["programs"]:
        assert program["fits"], program
        assert program["bitcasts"] == 0, program
        tokens = int(program["shape"].split(" x ")[-1]) if program["name"].startswith("update") else 0
        assert tokens < 2048 or program["square_arrays"] == 0, program
        if program["chips"] == 1:
            assert not program["collectives"], program


def assert_no_dearer(now: dict[str, Any], before: dict[str, Any], *, cost: str) -> None:
    """The cost of every program within a tenth of the record's; skips where other versions made it."""
    if now["versions"] != before["versions"]:
        pytest.skip(f"recorded by {before['versions']}, compiled by {now['versions']}")
    then = by_name(before)
    for name, program in by_name(now).items():
        assert program[cost] <= 1.1 * then[name][cost], (name, program[cost], then[name][cost])
