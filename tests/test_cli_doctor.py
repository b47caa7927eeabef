"""`cicjax doctor`: what it says of a machine and of a run's folder, and the code of the worst."""

import fcntl
import json
import os

import numpy as np
import pytest

from cicjax import cli
from cicjax.files import seal
from cicjax.runs import folder as run_folder
from cicjax.runs import health
from cicjax.runs.folder import RunFolder
from cicjax.training import checkpoints

GOOD = {name: "1.0" for name in health.PACKAGES} | {"jax": "0.10.2", "jaxlib": "0.10.2", "flax": "0.12.8"}


@pytest.fixture
def run(tmp_path):
    """A small run, made of the parts that runs are made of."""
    path = tmp_path / "run"
    with RunFolder(path, {"objective": "interventional", "seed": 0}):
        for step in (1, 2):
            tree = {"adapter": {"a": np.full(3, step, np.float32)}}
            checkpoints.save(path / "adapter", step, tree=tree, metadata={})
        seal.write_jsonl(path / "rollouts" / "stream.jsonl", [{"a": 1}])
        lines = [{"stage": "adapter", "update": n, "applied": n > 1, "live_rows": 1} for n in (1, 2)]
        seal.write_jsonl(path / "metrics.jsonl", lines)
        seal.write_json(path / "results.json", {})
    return path


def found(run) -> dict[str, list[health.Finding]]:
    by_check: dict[str, list[health.Finding]] = {}
    for finding in health.run(run):
        by_check.setdefault(finding.check, []).append(finding)
    return by_check


def test_a_sound_run_on_this_machine(run, capsys):
    assert cli.main(["doctor", str(run)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 24 and all(line[:4] in ("ok  ", "look") for line in lines)
    assert cli.main(["doctor", str(run), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["code"] == 0 and len(record["findings"]) == len(lines)
    assert {"versions", "devices", "memory", "disk", "cache", "SQLite", "lock", "run", "steps"} <= {
        finding["check"] for finding in record["findings"]
    }
    (devices,) = [finding for finding in record["findings"] if finding["check"] == "devices"][:1]
    assert devices["word"] == "ok" and "kind cpu" in devices["text"]
    assert found(run)["steps"][0].text == "adapter: 1, 2"
    assert found(run)["metrics"][0].text == "2 updates, 1 of them not finite and skipped"


def test_each_fault_of_a_run_is_named_with_its_code(run, capsys):
    leaf = next(path for path in sorted((run / "adapter" / "2" / "state").rglob("*")) if path.is_file())
    leaf.write_bytes(leaf.read_bytes() + b"x")
    (finding, _) = found(run)["steps"]
    assert finding.code == 5 and str(leaf.relative_to(run / "adapter" / "2")) in finding.text
    assert cli.main(["doctor", str(run)]) == 5
    assert "as it was written" in capsys.readouterr().err
    rows = run / "rollouts" / "stream.jsonl"
    rows.write_bytes(rows.read_bytes().replace(b"1", b"2"))
    (finding,) = found(run)["seal"]
    assert finding.code == 5 and "stream.jsonl: not the bytes" in finding.text
    (run / "metrics.jsonl").write_text("{}\n")
    assert found(run)["metrics"][0].code == 5
    (run / "adapter" / ".saving-3").mkdir()
    assert ".saving-3" in found(run)["leftovers"][0].text
    run.chmod(0o755)
    assert found(run)["permissions"][0].note
    (run / "config.json").write_text("{")
    assert found(run)["config"][0].code == 5
    (run / "config.json").unlink()
    assert [finding.code for finding in health.run(run)] == [5]
    assert [finding.code for finding in health.run(run / "nothing")] == [2]


def test_digests_of_another_step_are_named_and_not_the_files_beside_them(run):
    manifest = run / "adapter" / "2" / "digests.json"
    record = json.loads(manifest.read_text())
    record["files"] = dict.fromkeys(record["files"], "0" * 64)
    manifest.write_text(json.dumps(record))
    (finding,) = [each for each in found(run)["steps"] if each.code]
    assert f"{manifest.parent}: digests.json is not" in finding.text


def test_a_run_that_somebody_holds(run):
    with RunFolder(run, {"objective": "interventional", "seed": 0}):
        (finding,) = found(run)["lock"]
        assert finding.code == 3 and f"process {os.getpid()}" in finding.text
    assert found(run)["lock"][0].text == "free"


def test_locks_that_keep_nobody_out(run, monkeypatch):
    assert run_folder.locks_exclude(run)
    monkeypatch.setattr(fcntl, "flock", lambda *_: None)
    assert not run_folder.locks_exclude(run) and found(run)["lock"][0].note


@pytest.mark.parametrize(
    ("changed", "python", "word"),
    [
        ({"jax": "0.11.2", "jaxlib": "0.11.2"}, (3, 12), "flax 0.12.8 fails on import under jax 0.11.2"),
        ({"flax": "0.12.10"}, (3, 11), "flax 0.12.10 needs a newer jax than 0.10.2"),
        ({"jax": "0.11.2", "jaxlib": "0.11.2", "flax": "0.12.10"}, (3, 11), "jax 0.11.2 needs Python 3.12"),
        ({"jaxlib": "0.9.0"}, (3, 11), "jaxlib 0.9.0 is not of jax 0.10.2"),
    ],
)
def test_pairs_that_do_not_go_together(changed, python, word):
    (finding,) = health._versions(GOOD | changed, python=python)
    assert finding.code == 2 and word in finding.text
    assert [each.code for each in health._versions(GOOD, python=(3, 11))] == [0]
    newer = {"jax": "0.12.0", "jaxlib": "0.12.0", "flax": "0.12.10"}
    assert [each.code for each in health._versions(GOOD | newer, python=(3, 12))] == [0]


def test_what_is_missing_or_too_little(monkeypatch, tmp_path):
    (finding,) = health._versions({name: GOOD[name] for name in GOOD if name != "optax"}, python=(3, 11))
    assert finding.code == 2 and "optax is missing" in finding.text
    assert health._sqlite((3, 30, 0), "3.30.0").code == 2
    monkeypatch.setattr(health, "LITTLE_DISK", 1 << 60)
    monkeypatch.setattr(health, "LITTLE_MEMORY", 1 << 60)
    assert health._disk(tmp_path / "not" / "yet").code == health._memory().code == 4
    assert health._cache(None).note and not health._cache(str(tmp_path)).note
