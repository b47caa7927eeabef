"""scripts/evidence.py: every step is a command that exists, rates come before the runs that take them, and
what is done is not done again."""

import importlib.util
import json
import subprocess
from pathlib import Path

import pytest

from cicjax import cli
from cicjax.experiments.boxes.settings import ARMS as BOXES
from cicjax.experiments.dialogues.settings import ARMS as DIALOGUES
from cicjax.experiments.online.arms import ARMS as ONLINE
from cicjax.methods import EVERY
from cicjax.report import claims

PATH = Path(__file__).resolve().parents[1] / "scripts" / "evidence.py"
SPEC = importlib.util.spec_from_file_location("evidence", PATH)
evidence = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(evidence)

PROGRAMMES = {"embedded": list(evidence.embedded()), "real": list(evidence.real("model", "weights"))}


@pytest.mark.parametrize("programme", PROGRAMMES)
def test_every_step_is_a_command_of_methods_that_there_are(programme):
    known = {method.name for method in EVERY}
    for step in PROGRAMMES[programme]:
        verb = cli.parse([*step.command, "--output_dir", "run"])
        if not step.rows:
            arms = {"dialogues": DIALOGUES, "boxes": BOXES, "online": ONLINE}[verb.experiment]
            assert set(verb.arms) <= {arm.name for arm in arms}, step.name
            continue
        assert set(verb.methods) | set(verb.arms) <= known, step.name
        assert set(step.rows) <= {*verb.methods, *verb.arms}


@pytest.mark.parametrize("programme", PROGRAMMES)
def test_no_test_question_is_drawn_before_its_methods_rate(programme):
    tuned = set()
    for step in PROGRAMMES[programme]:
        if step.tunes:
            tuned |= set(step.rows)
        elif programme == "embedded":
            assert set(step.rows) - {"base", "sft"} <= tuned, step.name


def test_the_eight_seeds_have_every_row_of_every_claim():
    for seed in range(8):
        steps = [step for step in PROGRAMMES["embedded"] if step.run == f"embedded/seed-{seed}"]
        rows = {row for step in steps for row in step.rows}
        assert not [claim.text for claim in claims.CLAIMS if not rows.issuperset(claim.rows)]
        assert all("1000" in step.command for step in steps)


def test_a_step_is_done_when_its_rows_are_in_the_archive(tmp_path, monkeypatch):
    rates = tmp_path / "rates.json"
    monkeypatch.setattr(evidence, "RESULTS", tmp_path)
    monkeypatch.setattr(evidence, "RATES", rates)
    step = next(step for step in PROGRAMMES["embedded"] if not step.tunes)
    whole = next(step for step in PROGRAMMES["embedded"] if not step.rows)
    path = tmp_path / step.run / "results.json"
    path.parent.mkdir(parents=True)
    for rows, done in ((step.rows[:-1], False), (step.rows, True)):
        path.write_text(json.dumps({"methods": {row: {} for row in rows}}))
        assert step.done() == done and not whole.done()
    grid, other = (next(s for s in PROGRAMMES[name] if s.tunes) for name in ("embedded", "real"))
    assert not grid.done()
    rates.write_text(json.dumps({"digest": {"name": "tiny", "methods": {grid.rows[0]: {}}}}))
    assert grid.done() and not other.done()


def test_a_file_is_committed_as_it_is_or_not(tmp_path):
    def git(*words):
        subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *words], cwd=tmp_path, check=True)

    rates = tmp_path / "rates.json"
    git("init", "-q")
    rates.write_text("{}")
    assert not evidence.committed(rates)
    git("add", "rates.json")
    assert not evidence.committed(rates)
    git("commit", "-qm", "rates")
    assert evidence.committed(rates)
    rates.write_text("{ }")
    assert not evidence.committed(rates)
