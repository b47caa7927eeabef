"""An archive holds what its counts were made from, and says where the two do not agree."""

import json
import lzma

import pytest

from cicjax.errors import BadInput, Corrupted
from cicjax.experiments.paper import archive, repro
from cicjax.experiments.paper.flags import Flags
from cicjax.report.runs import read_run
from cicjax.tasks import stem


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    repro.reproduce(Flags(output_dir=folder, scale="smoke", methods=("base", "sft", "interventional")))
    return folder


@pytest.fixture
def kept(run, tmp_path):
    archive.write(run, tmp_path / "kept")
    return tmp_path / "kept"


def test_the_counts_come_out_again_from_the_texts(kept):
    assert archive.recount(kept, stem.task("tiny")) == []


def test_a_count_that_the_texts_do_not_bear_out_is_named(kept):
    results = json.loads((kept / "results.json").read_text())
    results["methods"]["interventional"]["solved"] += 1
    (kept / "results.json").write_text(json.dumps(results))
    (told,) = archive.recount(kept, stem.task("tiny"))
    assert told.startswith("interventional: solved is ")


def test_verdicts_are_made_again_and_not_believed(kept):
    lines = [json.loads(line) for line in lzma.decompress((kept / archive.ANSWERS).read_bytes()).splitlines()]
    wrong = next(
        line for line in lines if "sft" in line["answers"] and not line["answers"]["sft"]["direct"][0]
    )
    wrong["answers"]["sft"]["direct"][0] = 1
    (kept / archive.ANSWERS).write_bytes(lzma.compress("\n".join(map(json.dumps, lines)).encode()))
    assert archive.recount(kept, stem.task("tiny")) == []
    wrong["answers"]["sft"]["direct"][3] = lines[0]["answers"]["sft"]["direct"][3] = "Final answer: 0."
    (kept / archive.ANSWERS).write_bytes(lzma.compress("\n".join(map(json.dumps, lines[1:])).encode()))
    assert archive.recount(kept, stem.task("tiny"))


def test_it_is_small_read_by_the_report_and_says_no_places(run, kept, tmp_path):
    archive.write(run, tmp_path / "again")
    files = {path.name for path in kept.iterdir()}
    assert files == {
        "results.json",
        "config.json",
        "environment.json",
        "timings.json",
        *(archive.ANSWERS, archive.METRICS),
    }
    assert all((kept / name).read_bytes() == (tmp_path / "again" / name).read_bytes() for name in files)
    sizes = [
        sum(path.stat().st_size for path in (run / "evaluations").glob(f"*-{kind}.jsonl"))
        for kind in archive.PROTOCOLS
    ]
    assert (kept / archive.ANSWERS).stat().st_size < sum(sizes) / 10
    assert str(run.parent) not in "".join(
        (kept / name).read_text() for name in files if name.endswith(".json")
    )
    assert read_run(kept).results == read_run(run).results


def test_bad_archives_are_one_line(run, kept, tmp_path):
    with pytest.raises(BadInput, match="finish the run first"):
        archive.write(tmp_path / "nothing", tmp_path / "x")
    (kept / archive.ANSWERS).write_bytes(b"xz?")
    with pytest.raises(Corrupted, match="not the answers of a run"):
        archive.recount(kept, stem.task("tiny"))
