"""The walkthrough runs as a program, and the notebook beside it has the same cells, with outputs and without
errors."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"
PROGRAM, NOTEBOOK = SCRIPTS / "walkthrough.py", SCRIPTS / "walkthrough.ipynb"


def cells_of_the_program():
    """[kind, source] of each percent-format cell."""
    found = []
    for part in re.split(r"^# %%", PROGRAM.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
        head, _, body = part.partition("\n")
        kind = "markdown" if "[markdown]" in head else "code"
        lines = body.strip("\n").split("\n")
        found.append(
            [
                kind,
                "\n".join(re.sub(r"^# ?", "", line) for line in lines)
                if kind == "markdown"
                else "\n".join(lines),
            ]
        )
    return found


def test_it_runs_as_a_program(tmp_path):
    results, temporary = tmp_path / "results", tmp_path / "temporary"
    temporary.mkdir()
    environment = os.environ | {
        "CICJAX_WALKTHROUGH": str(results),
        "TMPDIR": str(temporary),
        "PYTHONPATH": str(SCRIPTS.parent),
    }
    command = [sys.executable, str(PROGRAM)]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "largest gradient where the agent's tokens are predicted: 0.0" in done.stdout
    assert (
        "opened left, empty: P(left is right | a, o) = 0.69   P(left is right | do(a), o) = 0.20"
        in done.stdout
    )
    assert (results / "run" / "results.json").is_file() and (
        results / "run" / "self_confirmation.svg"
    ).is_file()
    assert not list(temporary.iterdir())


def test_the_notebook_is_made_of_this_program():
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert [
        [cell["cell_type"], "".join(cell["source"])] for cell in notebook["cells"]
    ] == cells_of_the_program()
    outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", ())]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert not [output for output in outputs if output["output_type"] == "error"]
