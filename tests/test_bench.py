"""The benchmark runs from end to end and writes what it prints."""

import json
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]


def test_all_stages_of_our_own_on_the_embedded_base(tmp_path):
    model, record = REPOSITORY / "checkpoints/tiny", tmp_path / "bench.json"
    arguments = [
        "--model",
        str(model),
        "--rows",
        "4",
        "--pairs",
        "1",
        "--no_peers",
        "--stages",
        "train",
        "sample",
        "--json",
        str(record),
    ]
    done = subprocess.run(
        [sys.executable, "scripts/bench.py", *arguments],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(record.read_text())
    names = ["interventional", "observational", "sampling", "greedy answers"]
    assert [each["stage"] for each in report["stages"]] == names
    for each in report["stages"]:
        assert each["work"] > 0 and each["seconds"] == each["runs"][0] and 0 < each["of_the_limit"] < 1
        assert f"{each['stage']:<44}{each['seconds']:>9.2f}" in done.stdout
    assert (
        report["mask"]["ratio"]
        == report["mask"]["runs"][0]["interventional"] / report["mask"]["runs"][0]["observational"]
    )
    assert report["peak_gb"] > 0
