"""An archive holds what its counts were made from, and says where the two do not agree."""

import json
import lzma
from pathlib import Path

import pytest

from cicjax.errors import BadInput, Corrupted
from cicjax.experiments.paper import archive, repro
from cicjax.experiments.paper.flags import Flags
from cicjax.report.runs import read_run

# The embedded base's own problems, whichever base that is.
TASK = repro.task_of(Flags(output_dir=Path("run")))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    repro.reproduce(Flags(output_dir=folder, scale="smoke", methods=("base", "sft", "interventional")))
    return folder


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """The same experiment on another machine: its own base and SFT-1, and another arm."""
    folder = tmp_path_factory.mktemp("runs") / "other"
    repro.reproduce(Flags(output_dir=folder, scale="smoke", methods=("base", "sft", "oracle")))
    return folder


@pytest.fixture
def kept(run, tmp_path):
    archive.write(run, tmp_path / "kept")
    return tmp_path / "kept"


def test_the_counts_come_out_again_from_the_texts(kept):
    assert archive.recount(kept, TASK) == []


def test_a_count_that_the_texts_do_not_bear_out_is_named(kept):
    results = json.loads((kept / "results.json").read_text())
    results["methods"]["interventional"]["solved"] += 1
    (kept / "results.json").write_text(json.dumps(results))
    (told,) = archive.recount(kept, TASK)
    assert told.startswith("interventional: solved is ")


def test_verdicts_are_made_again_and_not_believed(kept):
    lines = [json.loads(line) for line in lzma.decompress((kept / archive.ANSWERS).read_bytes()).splitlines()]
    asked = [line["answers"]["sft"]["direct"] for line in lines if "direct" in line["answers"]["sft"]]
    wrong, right = (next(answer for answer in asked if answer[0] == solved) for solved in (0, 1))

    def recounted():
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (kept / archive.ANSWERS).write_bytes(lzma.compress(text.encode()))
        return archive.recount(kept, TASK)

    wrong[0] = 1
    assert recounted() == []
    right[3] = "Final answer: 0."
    assert any(told.startswith("sft: solved is ") for told in recounted())


def test_it_is_small_read_by_the_report_and_says_no_places(run, kept, tmp_path):
    archive.write(run, tmp_path / "again")
    files, plain = {path.name for path in kept.iterdir()}, set(archive.PLAIN)
    assert files == plain | {archive.ANSWERS, archive.METRICS}
    assert all((kept / name).read_bytes() == (tmp_path / "again" / name).read_bytes() for name in files)
    sizes = [path.stat().st_size for path in (run / "evaluations").glob("*-direct.jsonl")]
    assert (kept / archive.ANSWERS).stat().st_size < sum(sizes) / 5
    assert str(run.parent) not in "".join((kept / name).read_text() for name in plain)
    one, other = read_run(run), read_run(kept)
    assert one.results == other.results
    assert one.direct == other.direct and one.direct.keys() == one.methods.keys()
    assert {name: list(right) for name, right in one.direct.items()} == {
        name: list(right) for name, right in other.direct.items()
    }


def test_an_experiment_goes_on_on_another_machine(run, other, kept):
    """Rows that only the archive has stay, with their answers, updates and times."""
    one, two = (json.loads((folder / "results.json").read_text()) for folder in (run, other))
    environment = json.loads((kept / "environment.json").read_text())
    (kept / "environment.json").write_text(json.dumps({**environment, "cores": 999}))
    archive.write(other, kept)
    both = json.loads((kept / "results.json").read_text())
    assert list(both["methods"]) == ["base", "sft", "interventional", "oracle"]
    assert both["methods"] == {**one["methods"], **two["methods"]} and both["ledger"] == one["ledger"]
    assert archive.recount(kept, TASK) == []
    config = json.loads((kept / "config.json").read_text())
    assert config["methods"] == config["resolved"]["settings"]["methods"] == list(both["methods"])
    updates = lzma.decompress((kept / archive.METRICS).read_bytes()).splitlines()
    stages = [json.loads(line)["stage"] for line in updates]
    assert {"sft", "interventional", "oracle"} <= set(stages)
    of_sft = (run / "metrics.jsonl").read_text().count('"stage": "sft"')
    assert stages.count("sft") == of_sft > 0
    assert {"train interventional", "train oracle"} <= json.loads((kept / "timings.json").read_text()).keys()
    (earlier,) = json.loads((kept / "environment.json").read_text())["earlier"]
    assert earlier["cores"] == 999
    before = {path.name: path.read_bytes() for path in kept.iterdir()}
    archive.write(other, kept)
    assert {path.name: path.read_bytes() for path in kept.iterdir()} == before


def test_another_machine_rounds_otherwise_and_counts_alike(other, kept):
    """A row of both stays as the archive has it, to the last digit."""
    results = json.loads((kept / "results.json").read_text())
    told = results["methods"]["base"]["held_out_nats"]
    told["direct"] += 3e-6
    results["ledger"]["positions_mask_wrong"] = 5
    (kept / "results.json").write_text(json.dumps(results))
    archive.write(other, kept)
    both = json.loads((kept / "results.json").read_text())
    assert both["methods"]["base"]["held_out_nats"] == told and "oracle" in both["methods"]
    assert both["ledger"]["positions_mask_wrong"] == 5


def test_a_folder_with_other_results_is_left_alone(other, kept):
    results = json.loads((kept / "results.json").read_text())
    rows, sft = results["methods"], results["methods"]["sft"]
    nats = {**sft["held_out_nats"], "direct": sft["held_out_nats"]["direct"] * 1.001}
    budget = {**sft["budget"], "learning_rate": sft["budget"]["learning_rate"] + 1e-6}
    for change, said in (
        ({"model": "another"}, "another model"),
        ({"methods": {**rows, "sft": {**sft, "held_out_nats": nats}}}, "its row sft"),
        ({"methods": {**rows, "sft": {**sft, "budget": budget}}}, "its row sft"),
        ({"methods": {**rows, "sft": {**sft, "harmed": sft["harmed"] + 1}}}, "its row sft"),
        ({"settings": {**results["settings"], "seed": 7}}, "other settings"),
        ({"ledger": {**results["ledger"], "wrong_attempts": 0}}, "its stream"),
        ({"methods": {**results["methods"], "sft": results["methods"]["base"]}}, "its row sft"),
    ):
        (kept / "results.json").write_text(json.dumps({**results, **change}))
        before = {path.name: path.read_bytes() for path in kept.iterdir()}
        with pytest.raises(BadInput, match=said):
            archive.write(other, kept)
        assert {path.name: path.read_bytes() for path in kept.iterdir()} == before


def test_bad_archives_are_one_line(run, kept, tmp_path):
    with pytest.raises(BadInput, match="finish the run first"):
        archive.write(tmp_path / "nothing", tmp_path / "x")
    (kept / archive.ANSWERS).write_bytes(b"xz?")
    with pytest.raises(Corrupted, match="not the answers of a run"):
        archive.recount(kept, TASK)
