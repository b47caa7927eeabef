"""`cicjax report` as a user meets it: exit codes, one line for what is wrong, and the place of the page."""

import pytest

from cicjax import cli
from cicjax.files import seal

COUNTS = (
    "solved",
    "repair_solved",
    "repair_questions",
    "two_step_solved",
    "natural_two_step",
    "second_turn",
    "kept",
    "lost",
    "gained",
    "harmed",
    "truncated",
    "natural_two_step",
    "second_turn",
)
SPENT = (
    "updates",
    "empty_updates",
    "rows",
    "supervised_tokens",
    "processed_tokens",
    "sampled_tokens",
    "verifier_calls",
    "oracle_solutions",
    "flop",
)


@pytest.fixture
def run(tmp_path):
    """The smallest finished run: one method, no stream."""
    row = dict.fromkeys(COUNTS, 0) | {
        "questions": 4,
        "accuracy": 0.0,
        "wilson_low": 0.0,
        "wilson_high": 0.49,
        "marker_share": 0.5,
    }
    row |= {"by_skill": {"ph": [0, 4]}, "self_confirmation": None, "truth_gain": None}
    row["budget"] = dict.fromkeys(SPENT, 0) | {"learning_rate": None}
    results = {
        "model": "0" * 64,
        "model_name": "toy",
        "seed": 0,
        "settings": {"counts": {}},
        "ledger": {},
        "methods": {"base": row},
    }
    (tmp_path / "run").mkdir()
    seal.begin(tmp_path / "run")
    seal.write_json(tmp_path / "run" / "results.json", results)
    seal.write_json(tmp_path / "run" / "config.json", {})
    return tmp_path / "run"


def refused(capsys, code, *arguments):
    assert cli.main(["report", *map(str, arguments)]) == code
    output = capsys.readouterr()
    assert output.err.count("\n") == 1 and output.err.startswith("cicjax: error: ") and output.out == ""
    return output.err


def test_a_run_and_the_same_elsewhere(capsys, run, tmp_path):
    assert cli.main(["report", str(run)]) == 0
    assert capsys.readouterr().out == f"{run / 'report.html'}\n"
    assert (run / "report.html").read_text().startswith("<!DOCTYPE html>") and (
        run / "figures" / "figure4-solved.svg"
    ).is_file()
    assert cli.main(["report", str(run), "--output", str(tmp_path / "page.html")]) == 0
    assert (tmp_path / "page.html").read_bytes() == (run / "report.html").read_bytes()


def test_what_is_wrong_is_said_in_one_line(capsys, run, tmp_path):
    assert "no such folder" in refused(capsys, 2, tmp_path / "nowhere")
    assert f"seed 0 is in {run} too; name each seed once" in refused(capsys, 2, run, run)
    (run / "results.json").write_text('{"model": ')
    assert "results.json" in refused(capsys, 5, run)
    (run / "results.json").unlink()
    assert "not finished" in refused(capsys, 2, run)
    (run / seal.NAME).unlink()
    (run / "results.json").write_text("{}")
    assert "seal.json: missing" in refused(capsys, 5, run)
    assert not (run / "report.html").exists()


def test_contrasts_are_of_rows_that_are_there(capsys, run):
    assert "'base:sft': " in refused(capsys, 2, run, "--contrasts", "base:sft")
    assert "FIRST:SECOND" in refused(capsys, 2, run, "--contrasts", "base")
    assert not (run / "report.html").exists()


@pytest.mark.parametrize("name", ["results.json", "config.json", "metrics.jsonl", "rollouts", "page"])
def test_the_page_replaces_no_file_of_a_run(capsys, run, name):
    before = {path: path.read_bytes() for path in run.iterdir()}
    assert "end its name in .html" in refused(capsys, 2, run, "--output", run / name)
    assert {path: path.read_bytes() for path in run.iterdir()} == before
    assert cli.main(["report", str(run), "--output", str(run / "other.html")]) == 0


def test_help_has_an_example(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["report", "--help"])
    shown = capsys.readouterr().out
    assert ended.value.code == 0 and "Example: cicjax report" in shown and "--output" in shown


def test_a_run_must_be_named(capsys):
    assert "no run is named" in refused(capsys, 2)
