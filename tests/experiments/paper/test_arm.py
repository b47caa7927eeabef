"""An arm beside the paper's is one record: it shows itself in results, ledger, tables, figures, report and
card."""

import json
import shutil
from dataclasses import replace

import pytest

from cicjax import cli, methods, report
from cicjax.errors import BadInput
from cicjax.experiments.paper import repro
from cicjax.experiments.paper.flags import Flags
from cicjax.methods import EVERY, METHODS, interventional
from cicjax.provenance import protocol

DOSE = replace(
    interventional.METHOD,
    name="dose_0.5",
    label="Dose 0.5",
    weighting=protocol.weighting("stream", wrong=0.5, correct=0.5),
)
CHOSEN = ("sft", "observational", "interventional", DOSE.name)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The smoke scale on the embedded base, with the arm behind the paper's methods."""
    folder = tmp_path_factory.mktemp("runs") / "dose"
    return folder, repro.reproduce(Flags(output_dir=folder, scale="smoke", methods=CHOSEN), (*METHODS, DOSE))


@pytest.fixture
def listed(monkeypatch):
    """The arm has its place among the arms."""
    monkeypatch.setattr(methods, "EVERY", (*EVERY, DOSE))


def test_it_has_a_row_and_a_ledger(finished, capsys):
    folder, results = finished
    written = json.loads((folder / "results.json").read_text())
    assert tuple(written["methods"]) == tuple(results.methods) == CHOSEN
    ledger, row = written["ledger"], written["methods"][DOSE.name]
    # Attempts and corrections bear loss, those with half of the weight.
    assert ledger["positions_dose_0.5"] == ledger["positions_observational"] > 0
    assert row["budget"]["supervised_tokens"] == ledger["positions_dose_0.5"]
    gains = {name: each["self_confirmation"] for name, each in written["methods"].items()}
    assert gains["interventional"] < gains[DOSE.name] < gains["observational"]
    orders = [json.loads((folder / name / "order.json").read_text()) for name in CHOSEN[1:]]
    assert orders[0] == orders[1] == orders[2]
    repro.print_table(results)
    assert DOSE.name in capsys.readouterr().out


def test_the_page_draws_and_explains_it(finished, listed):
    folder, _ = finished
    page = report.write_report([folder]).read_text()
    for caption in ("Every method on the same questions", "The methods do not buy the same", "Against SFT-1"):
        table = page[page.index(caption, page.index("<main>")) :]
        assert "Dose 0.5" in table[: table.index("</table>")], caption
    assert "positions: dose 0.5" in page and "<dt>dose 0.5</dt>" in page
    assert "a failed attempt 0.5 and a right one 0.5" in page and "[0.50]" in page
    figures = ("figure2-positions", "figure4-solved", "figure5-stream-matched", "self-confirmation")
    for figure in (*figures, "learning-curves"):
        assert "Dose 0.5" in (folder / "figures" / f"{figure}.svg").read_text(), figure


def test_the_card_says_what_was_trained(finished, listed, tmp_path):
    folder, results = finished
    assert cli.main(["export", str(folder / DOSE.name), "--output_dir", str(tmp_path / "out")]) == 0
    card = (tmp_path / "out" / "README.md").read_text()
    assert "objective: Dose 0.5, equation (14): the stream, where a correction weighs 1" in card
    assert "targets: agent, teacher" in card and "tokens of the stream by author: agent" in card
    row = results.methods[DOSE.name]
    assert f"| dose_0.5 | {row.solved} of {row.questions} |" in card


def test_an_arm_that_is_asked_for_later_joins_the_rows_that_are_there(finished, tmp_path):
    folder, before = finished
    shutil.copytree(folder, tmp_path / "run")
    later = Flags(
        output_dir=tmp_path / "run",
        scale="smoke",
        methods=("sft",),
        arms=("mask_wrong",),
        rates=rates(folder),
    )
    after = repro.reproduce(later, (*EVERY, DOSE))
    assert tuple(after.methods) == ("sft", "observational", "interventional", "mask_wrong", DOSE.name)
    assert {name: after.methods[name] for name in CHOSEN} == before.methods
    assert after.methods["mask_wrong"].budget.learning_rate == 1e-3
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["methods"] == list(CHOSEN) and config["arms"] == ["mask_wrong"]
    # A rate that would move a row that is there is another experiment.
    moved = replace(later, rates=rates(folder, interventional={"rate": 1e-3}))
    with pytest.raises(BadInput, match=r"rates\.interventional is absent there and 0\.001 here"):
        repro.reproduce(moved, (*EVERY, DOSE))


def rates(folder, **more):
    model = json.loads((folder / "results.json").read_text())["model"]
    path = folder.parent / "rates.json"
    path.write_text(json.dumps({model: {"methods": {"mask_wrong": {"rate": 1e-3}} | more}}))
    return path
