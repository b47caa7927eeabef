"""Runs of `cicjax train` on one page: what differs, losses, held-out likelihoods, and one line for what is no
run."""

import json
import os
import stat

import pytest

from cicjax import cli
from cicjax.files import seal
from cicjax.report import trainings
from cicjax.runs.folder import RunFolder


def training(folder, *, rate=1e-3, updates=4, finished=True, name="adapter", **config):
    """A run's folder as `cicjax train` leaves it."""
    folder.mkdir(parents=True)
    flags = {"file": "log.jsonl", "objective": "interventional", "learning_rate": rate, "seed": 0}
    flags |= {"targets": ["teacher"], "output_dir": str(folder), "resolved": {"rows": folder.name}}
    (folder / "config.json").write_text(json.dumps(flags | config))
    lines = [
        {"stage": name, "update": n + 1, "loss": 2 - 100 * (rate or 2e-4) * n, "applied": True}
        | ({"held_out/teacher": 3 - 100 * (rate or 2e-4) * n} if n % 2 == 0 else {})
        for n in range(updates)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if finished:
        nll = {
            "before": {"teacher": {"nll": 3.0, "tokens": 7}},
            "after": {"teacher": {"nll": 2.5, "tokens": 7}},
        }
        budget = {"updates": updates, "rows": 8, "supervised_tokens": 1234}
        (folder / "results.json").write_text(json.dumps({"budget": budget, "held_out": nll}))
    return folder


def report(*arguments):
    return cli.main(["report", *map(str, arguments)])


def test_a_sweep_on_one_page(tmp_path, capsys):
    runs = [training(tmp_path / f"rate{n}" / "run", rate=n * 1e-3, finished=n < 3) for n in (1, 2, 3)]
    page = tmp_path / "sweep.html"
    assert report(*runs, "--output", page) == 0
    assert capsys.readouterr().out == f"{page}\n"
    text = page.read_text()
    for n in (1, 2, 3):
        assert f"rate{n}/run" in text and f"<td>{n / 1000}</td>" in text
    assert "Settings that differ" in text and "learning_rate" in text and "output_dir" not in text
    assert "1,234" in text and "4 so far" in text and "3.0000 → 2.5000" in text
    assert "loss: rate1/run from 2.000 to 1.700" in text
    assert "held_out/teacher: rate1/run from 3.000 to 2.800" in text


def test_one_run_has_its_page_in_its_folder(tmp_path, capsys):
    run = training(tmp_path / "run")
    assert report(run) == 0
    text = (run / "report.html").read_text()
    assert "Training run" in text and "Settings that differ" not in text and "Held-out transcripts" in text
    assert "objective: interventional" in text and "targets: teacher" in text


def test_a_training_has_no_rows_to_contrast(tmp_path, capsys):
    run = training(tmp_path / "run")
    assert report(run, "--contrasts", "rest:sft") == 2
    assert "--contrasts compares rows of runs of the paper" in capsys.readouterr().err
    assert not (run / "report.html").exists()


def test_what_was_left_to_the_program_is_told_as_what_it_came_to(tmp_path):
    resolved = {"optimization": {"learning_rate": 0.0002}}
    left = training(tmp_path / "left", rate=None, model_name_or_path=None, resolved=resolved)
    asked = training(tmp_path / "asked", rate=2e-4, model_name_or_path=None)
    runs = trainings.read_trainings([left, asked])
    assert trainings.differing(runs) == []
    text = trainings.render(runs[:1])
    assert "learning_rate: 0.0002" in text and "model_name_or_path: the embedded base" in text
    assert ": default" not in text


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600)])
def test_a_page_is_as_the_umask_has_it(tmp_path, umask, mode):
    run, before = training(tmp_path / "run"), os.umask(umask)
    try:
        assert report(run) == 0
    finally:
        os.umask(before)
    assert stat.S_IMODE((run / "report.html").stat().st_mode) == mode


def test_a_run_that_began_has_a_page_too(tmp_path):
    run = training(tmp_path / "run", updates=0, finished=False)
    assert report(run) == 0
    assert "none yet" in (run / "report.html").read_text()


@pytest.mark.parametrize("name", ["metrics.jsonl", "results.json"])
def test_what_a_training_has_lost_is_said(tmp_path, name, capsys):
    with RunFolder(tmp_path / "run", {"file": "log.jsonl", "objective": "interventional", "resolved": {}}):
        seal.write_bytes(tmp_path / "run" / name, b"{}")
    (tmp_path / "run" / name).unlink()
    assert report(tmp_path / "run") == 5
    assert f"{name}: missing" in capsys.readouterr().err


def test_names_of_files_stay_text(tmp_path):
    run = training(tmp_path / "<b>run", file="<script>alert(1)</script>")
    assert report(run) == 0
    text = (run / "report.html").read_text()
    assert "<script>alert" not in text and "&lt;script&gt;alert" in text and "<b>run" not in text


def test_what_differs(tmp_path):
    runs = [training(tmp_path / str(n), rate=n, seed=n % 2) for n in (1, 2, 3)]
    assert trainings.differing(trainings.read_trainings(runs)) == ["learning_rate", "seed"]


def test_what_is_no_training_is_refused(tmp_path, capsys):
    run, other = training(tmp_path / "run"), tmp_path / "other"
    other.mkdir()
    for folders, said in (
        ((run, other), f"{other}: no run of `cicjax train`, as others here are"),
        ((run, run), "the same run is named twice"),
    ):
        assert report(*folders, "--output", tmp_path / "page.html") == 2
        error = capsys.readouterr().err
        assert said in error and error.count("\n") == 1
    assert report(run, training(tmp_path / "second")) == 2
    assert "say where with --output" in capsys.readouterr().err
    (run / "results.json").write_text('{"budget": 3}')
    assert report(run) == 5
    assert "not what a training writes" in capsys.readouterr().err
