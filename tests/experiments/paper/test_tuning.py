"""The grid of rates: what is chosen, what is tried beyond an edge, and that no test question is drawn."""

import json
from dataclasses import replace

import pytest
import tiny_qwen2

from cicjax import cli
from cicjax.errors import BadInput, Corrupted
from cicjax.experiments.paper import rates, stages, tuning
from cicjax.experiments.paper.flags import Flags


def tried(**solved):
    """A rate by its name a1, a2, ... (1e-3, 2e-3, ...): what was solved, or (solved, nats)."""
    told = {float(name[1:]) * 1e-3: value for name, value in solved.items()}
    pairs = {rate: value if isinstance(value, tuple) else (value, 1.0) for rate, value in told.items()}
    return {rate: {"solved": solved, "nats": nats} for rate, (solved, nats) in pairs.items()}


def test_the_most_solved_are_chosen_and_of_equals_the_fewest_nats():
    assert rates.best(tried(a1=3, a2=5, a4=4)) == 2e-3
    assert rates.best(tried(a1=(5, 0.9), a2=(5, 0.7), a4=(4, 0.1))) == 2e-3
    assert rates.entry(tried(a1=3, a2=5, a4=4))["edge"] is False
    assert rates.entry(tried(a1=3, a2=5, a4=7))["edge"] is True


@pytest.mark.parametrize(
    ("solved", "further"),
    [
        ({"a1": 3, "a2": 5, "a4": 4}, None),
        ({"a1": 1, "a2": 2, "a4": 3}, 8e-3),
        ({"a1": 3, "a2": 2}, 5e-4),
        ({"a1": 3}, None),
    ],
)
def test_an_optimum_at_the_edge_adds_one_rate_on_its_side(solved, further):
    assert rates.beyond(tried(**solved)) == further


SFT_1 = {"optimization": {"learning_rate": 3.2e-3}}


def test_the_file_keeps_other_bases_and_this_ones_other_methods(tmp_path):
    path = tmp_path / "rates.json"
    facts = {"name": "toy", "seeds": [1], "questions": 20, "settings": {"to": ("q",)} | SFT_1}
    rates.add(path, "aa", facts, {"grpo": {"rate": 1e-3}})
    rates.add(path, "bb", facts, {"rest": {"rate": 2e-3}})
    rates.add(path, "aa", facts, {"sft2": {"rate": 3e-3}})
    assert rates.chosen(path, "aa", ("sft", "sft2", "grpo"), first=3.2e-3) == {"sft2": 3e-3, "grpo": 1e-3}
    assert rates.chosen(path, "bb", ("sft2", "rest"), first=3.2e-3) == {"rest": 2e-3}
    # At other settings the earlier choices say nothing.
    rates.add(path, "aa", facts | {"seeds": [2]}, {"rest": {"rate": 4e-3}})
    assert rates.chosen(path, "aa", ("sft2", "rest"), first=3.2e-3) == {"rest": 4e-3}


def test_bad_files_are_one_line(tmp_path):
    with pytest.raises(BadInput, match="cicjax tune"):
        rates.chosen(tmp_path / "none.json", "aa", (), first=3.2e-3)
    path = tmp_path / "rates.json"
    path.write_text(json.dumps({"aa": {"settings": SFT_1, "methods": {"grpo": {"rate": "fast"}}}}))
    with pytest.raises(BadInput, match="no rates for the base bb"):
        rates.chosen(path, "bb", (), first=3.2e-3)
    with pytest.raises(Corrupted, match=r"methods\.grpo\.rate"):
        rates.chosen(path, "aa", ("grpo",), first=3.2e-3)
    with pytest.raises(
        BadInput, match=r"SFT-1 at 0.0032, and here it is at 0.0002; give --learning_rate 0.0032"
    ):
        rates.chosen(path, "aa", ("grpo",), first=2e-4)
    path.write_text('{"aa": {"settings": [], "methods": {}}}')
    with pytest.raises(Corrupted, match="settings"):
        rates.chosen(path, "aa", (), first=2e-4)


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    folder = tmp_path_factory.mktemp("grid")
    tiny_qwen2.write(folder / "toy", seed=4, num_hidden_layers=1)
    flags = Flags(
        output_dir=folder / "run",
        model_name_or_path=str(folder / "toy"),
        scale="smoke",
        methods=("base", "sft", "interventional"),
        arms=("sft2",),
        split="dev",
        attempts_per_problem=2,
    )
    return tuning.Grid(flags=flags, seeds=(5,), rates=(1e-3, 1e-2))


def test_a_grid_is_tried_chosen_and_never_done_again(grid, tmp_path, monkeypatch):
    output = tmp_path / "rates.json"
    entries = tuning.tune(grid, output)
    assert list(entries) == ["interventional", "sft2"]
    for name, entry in entries.items():
        # Nothing is solved by babble: nats decide, and the best of two rates is at an edge.
        assert len(entry["tried"]) == 3
        fewest = min(entry["tried"], key=lambda rate, tried=entry["tried"]: tried[rate]["nats"])
        assert entry["rate"] == float(fewest)
        folder = grid.flags.output_dir / "seed-5" / f"rate-{entry['rate']:g}"
        answers = (folder / "evaluations" / f"{name}-direct.jsonl").read_text().splitlines()
        assert len(answers) == 32  # the development questions of this scale
        assert not (folder / name).exists()
    (base,) = json.loads(output.read_text()).values()
    assert base["seeds"] == [5] and base["questions"] == 32 and set(base["methods"]) == set(entries)

    def trained_again(*_):
        raise AssertionError("trained again")

    monkeypatch.setattr(stages, "second_stage", trained_again)
    alone = replace(grid, flags=replace(grid.flags, methods=("sft",)))
    assert tuning.tune(alone, output) == {"sft2": entries["sft2"]}
    (base,) = json.loads(output.read_text()).values()
    assert base["methods"].keys() == entries.keys()
    assert tuning.tune(grid, output) == entries


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"seeds": ()}, "no seed is named"),
        ({"rates": ()}, "no rate is named"),
        ({"rates": (2.0,)}, "between 0 and 1"),
        ({"seeds": (-1,)}, "--seed is from 0"),
    ],
)
def test_a_grid_without_sense_is_refused(grid, tmp_path, changes, told):
    with pytest.raises(BadInput, match=told):
        tuning.tune(replace(grid, **changes), tmp_path / "rates.json")


def test_the_verb_says_what_is_wrong_in_one_line(capsys, tmp_path):
    arguments = ("tune", "--output_dir", tmp_path / "run", "--rates", tmp_path / "r.json", "--methods", "sft")
    assert cli.main([str(argument) for argument in arguments]) == 2
    assert capsys.readouterr().err.count("\n") == 1 and not (tmp_path / "run").exists()
