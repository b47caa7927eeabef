"""docs/extend.md, taken at its word: its three extensions are cut out of the page, applied to a copy of the
repository and run."""

import json
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DOCUMENT = (ROOT / "docs" / "extend.md").read_text(encoding="utf-8")


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL)


def file_named(name: str) -> str:
    """The Python block that the text before it calls by this name."""
    return re.search(
        rf"`{re.escape(name)}`:\n\n```python\n(.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL
    ).group(1)


@pytest.fixture(scope="module")
def extended(tmp_path_factory):
    """A copy of the package and the embedded base with the page's diff, and a folder with its two files."""
    copy = tmp_path_factory.mktemp("copy")
    for name in ("cicjax", "checkpoints/tiny"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    (diff,) = blocks("diff")
    subprocess.run(["git", "init", "-q"], cwd=copy, check=True)
    subprocess.run(["git", "apply", "-"], input=diff, cwd=copy, check=True, text=True)
    folder = tmp_path_factory.mktemp("mine")
    for name in ("sums.py", "dpo.py"):
        (folder / name).write_text(file_named(name), encoding="utf-8")
    return copy, folder


def run(extended, *arguments):
    copy, folder = extended
    environment = os.environ | {"PYTHONPATH": str(copy)}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def dose(extended):
    methods = ("--methods", "sft", "interventional", "--arms", "dose_0.5")
    run(extended, *REPRO, *methods, "--output_dir", "dose")
    return extended[1] / "dose"


REPRO = ("-m", "cicjax", "repro", "--scale", "smoke", "--num_test", "16")


def test_the_arm_is_one_line():
    (diff,) = blocks("diff")
    changed = {}
    for part in re.split(r"^--- ", diff, flags=re.MULTILINE)[1:]:
        path = re.search(r"^\+\+\+ b/(.*)$", part, re.MULTILINE).group(1)
        lines = part.split("\n")[2:]
        changed[path] = sum(line.startswith(("+", "-")) for line in lines)
    assert changed == {"cicjax/methods/arms.py": 1}


def test_the_arm_shows_itself(dose):
    results = json.loads((dose / "results.json").read_text())
    assert list(results["methods"]) == ["sft", "interventional", "dose_0.5"]
    ledger = results["ledger"]
    assert ledger["positions_dose_0.5"] == ledger["positions_observational"]
    assert "Dose 0.5" in (dose / "report.html").read_text()


def test_the_task_runs_from_flags_to_verdicts(extended):
    methods = ("--task", "sums:TASK", "--methods", "sft", "interventional")
    run(extended, *REPRO, *methods, "--output_dir", "sums_run")
    folder = extended[1] / "sums_run"
    results = json.loads((folder / "results.json").read_text())
    assert results["settings"]["task"]["name"] == "sums"
    assert set(results["methods"]["sft"]["by_skill"]) <= {"carry", "no_carry"}
    answers = [
        json.loads(line) for line in (folder / "evaluations/sft-direct.jsonl").read_text().splitlines()
    ]
    assert len(answers) == 16 and all("What is" in answer["prompt"] for answer in answers)
    written = run(extended, "-m", "cicjax", "eval", "--task", "sums:TASK", "--adapter", "sums_run/sft")
    assert f"\nsolved {results['methods']['sft']['solved']} of 16" in written


def test_the_loss_over_pairs_begins_at_ln_2_and_falls(extended, dose):
    run(extended, "dpo.py", "dose", "dpo_run")
    lines = [json.loads(line) for line in (extended[1] / "dpo_run/metrics.jsonl").read_text().splitlines()]
    assert math.isclose(lines[0]["loss"], math.log(2), rel_tol=1e-5)
    assert min(line["loss"] for line in lines[1:]) < math.log(2) and all(line["applied"] for line in lines)
    failed = json.loads((dose / "results.json").read_text())["ledger"]["wrong_attempts"]
    assert sum(line["rows"] for line in lines) == 2 * failed
