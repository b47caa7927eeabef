"""Pages of the experiments that probe beliefs: of one run and of several seeds, and what cannot be one "
"page."""

import json
import re

import pytest

from cicjax.errors import BadInput, Corrupted
from cicjax.report import write_report


def dialogues(seed, **changes):
    row = {
        "margin_mean": 0.1, "margin_sum": 0.5 + seed, "lie_preferred": 0.25, "facts": 2,
        "by_fact": {"a": 0.0, "b": 1.0},
        "after_truth": {"margin_sum": 1.0}, "after_falsehood": {"margin_sum": -1.0},
    }  # fmt: skip
    arms = dict.fromkeys(("base", "observational", "interventional"), row)
    pair = {"observational": 0.3, "interventional": 0.6}
    start = {"margin_sum": 0.0, "lie_preferred": 0.5}
    rounds = {name: [start, {**start, "margin_sum": value}] for name, value in pair.items()}
    return {
        "experiment": "dialogues", "model": "f" * 64, "seed": seed, "settings": {"seed": seed, "lie": 0.6},
        "arms": arms, "p_lie": {"0": pair, "0.6": pair}, "rounds": {"corrected": 0.3, **rounds}, **changes,
    }  # fmt: skip


def boxes(seed):
    row = {name: [0.5, 0.4, 0.3] for name in ("stated", "error", "error_conditional", "prizes")}
    return {
        "experiment": "boxes", "model": "f" * 64, "seed": seed, "settings": {"seed": seed},
        "arms": {"base": row, "expert_all": row}, "bayes": {"do": [0.5] * 3, "conditional": [0.86, 0.7, 0.6]},
    }  # fmt: skip


def written(folder, results):
    folder.mkdir()
    (folder / "results.json").write_text(json.dumps(results))
    return folder


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (dialogues, ("dialogues-margin", "dialogues-rounds", "dialogues-lies")),
        (boxes, ("boxes-stated", "boxes-error")),
    ],
)
def test_one_run_and_several_seeds(tmp_path, make, names):
    runs = [written(tmp_path / f"seed-{seed}", make(seed)) for seed in (1, 0)]
    page = write_report(runs[:1])
    text = page.read_text()
    assert page == runs[0] / "report.html" and all(
        f'id="{each}"' in text for each in ("results", "theory", "origin")
    )
    assert all((runs[0] / "figures" / f"{name}.svg").is_file() for name in (*names, "theory-lemma"))
    assert write_report(runs[:1]).read_text() == text
    both = write_report(runs, tmp_path / "both.html").read_text()
    assert "seed 0, 1" in both and " to " in both and both != text


@pytest.mark.parametrize("make", [dialogues, boxes])
def test_rows_that_not_every_seed_has_are_left_out(tmp_path, make):
    fewer = make(1)
    del fewer["arms"][list(fewer["arms"])[-1]]
    runs = [written(tmp_path / "a", make(0)), written(tmp_path / "b", fewer)]
    for order in (runs, runs[::-1]):
        text = write_report(order, tmp_path / "page.html").read_text()
        table = text[text.index('id="results"') :]
        assert "base" in table and list(make(0)["arms"])[-1] not in table[: table.index("</table>")]


def test_the_masked_arm_s_pairs_and_the_intervals_over_facts(tmp_path):
    found = dialogues(0)
    masked = {"by_fact": {"a": 3.0, "b": 2.0}, "margin_sum": 2.5, "margin_sum_interval": [2.0, 3.0]}
    found["arms"]["interventional"] = found["arms"]["base"] | masked
    text = write_report([written(tmp_path / "run", found)]).read_text()
    rows = [re.sub(r"<[^>]+>", " ", row).split() for row in text.split("<tr>")]
    # Of facts a and b the differences are 3 and 1; over two facts the interval reaches from one to the other.
    assert ["observational", "+2.00", "+1.00", "to", "+3.00"] in [row[:5] for row in rows]
    assert any("2.50 (2.00 to 3.00, over facts)" in " ".join(row) for row in rows)
    assert ["observational,", "margin,", "nats", "0.00", "0.30"] in [row[:5] for row in rows]


def test_where_nothing_was_wrong_the_page_does_not_say_what_still_is(tmp_path):
    found, other = dialogues(0), dialogues(0)
    for results, still in ((found, None), (other, 1.0)):
        for arm in ("observational", "interventional"):
            results["rounds"][arm] = [each | {"still_wrong": still} for each in results["rounds"][arm]]
    assert "still wrong" not in write_report([written(tmp_path / "none", found)]).read_text()
    assert "still wrong" in write_report([written(tmp_path / "some", other)]).read_text()


@pytest.mark.parametrize(
    "changes",
    [
        {"by_fact": {}},
        {"by_fact": []},
        {"by_fact": {"other": 1.0, "a": 0.0}},
        {"margin_sum": "much"},
        {"margin_sum_interval": None},
        {"after_truth": 3},
    ],
)
def test_values_that_no_run_writes_are_one_line(tmp_path, changes):
    found = dialogues(0)
    found["arms"]["interventional"] = found["arms"]["interventional"] | changes
    with pytest.raises(Corrupted, match=r"results\.json: not what `cicjax repro` writes"):
        write_report([written(tmp_path / "run", found)])
    assert not (tmp_path / "run" / "report.html").exists()


def test_no_curves_where_the_scale_has_none(tmp_path):
    rounds = {
        "corrected": 0.3,
        "observational": [{"margin_sum": 0.0}],
        "interventional": [{"margin_sum": 0.0}],
    }
    run = written(tmp_path / "run", dialogues(0, p_lie={}, rounds=rounds))
    assert 'id="figures"' not in write_report([run]).read_text()
    assert sorted(path.name for path in (run / "figures").iterdir()) == [
        "theory-lemma.svg",
        "theory-posteriors.svg",
    ]


def test_what_cannot_be_one_page_is_one_line(tmp_path):
    one, other = written(tmp_path / "a", dialogues(0)), written(tmp_path / "b", boxes(1))
    with pytest.raises(BadInput, match="boxes and dialogues: one report is of one experiment"):
        write_report([one, other], tmp_path / "page.html")
    with pytest.raises(BadInput, match="another experiment"):
        write_report([one, written(tmp_path / "c", dialogues(1, model="e" * 64))], tmp_path / "page.html")
    with pytest.raises(BadInput, match="a seed is there twice"):
        write_report([one, written(tmp_path / "d", dialogues(0))], tmp_path / "page.html")
    with pytest.raises(Corrupted, match="not what `cicjax repro` writes"):
        write_report([written(tmp_path / "e", {"experiment": "boxes", "arms": {"base": {}}})])
    assert not (tmp_path / "page.html").exists()
