"""Numbers for TensorBoard and Weights & Biases: what they are told, and one line where they are not there."""

import json
import sys
from types import SimpleNamespace

import pytest
import tiny_qwen2

from cicjax import cli
from cicjax.errors import BadInput
from cicjax.runs import dashboards

VALUES = {"loss": 0.5, "rows": 8, "applied": True, "note": "x", "held_out/teacher": None}


class Run:
    def __init__(self):
        self.told, self.finished = [], False

    def log(self, values, *, step):
        self.told.append((step, values))

    def finish(self):
        self.finished = True


@pytest.fixture
def wandb(monkeypatch):
    """A stand-in for the library, with what it was told."""
    library = SimpleNamespace(run=Run(), asked={})

    def init(**asked):
        library.asked = asked
        return library.run

    library.init = init
    monkeypatch.setitem(sys.modules, "wandb", library)
    return library


@pytest.mark.parametrize("names", [(), ("none",)])
def test_nothing_is_imported_where_nobody_asks(tmp_path, monkeypatch, names):
    for name in ("wandb", "tensorboard"):
        monkeypatch.setitem(sys.modules, name, None)
    dashboards.check(names)
    with dashboards.opened(names, tmp_path, config={}) as tell:
        assert tell is None
    assert not list(tmp_path.iterdir())


def test_wandb_is_told_the_numbers_alone_and_closed_on_an_error(tmp_path, wandb):
    with (
        pytest.raises(RuntimeError),
        dashboards.opened(("wandb", "wandb"), tmp_path, config={"seed": 1}) as tell,
    ):
        tell(3, VALUES)
        raise RuntimeError
    assert wandb.run.told == [(3, {"loss": 0.5, "rows": 8.0})] and wandb.run.finished
    assert wandb.asked["name"] == tmp_path.name and wandb.asked["config"] == {"seed": 1}


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_library_that_is_missing_is_one_line_before_anything_is_read(tmp_path, monkeypatch, capsys, name):
    monkeypatch.setitem(sys.modules, name, None)
    for module in [each for each in sys.modules if each.startswith(f"{name}.")]:
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(BadInput, match=f"pip install {name}"):
        dashboards.check((name,))
    asked = ["train", "nope.jsonl", "--output_dir", str(tmp_path / "run"), "--report_to", name]
    assert cli.main(asked) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and f"the package {name} is not installed" in error
    assert not (tmp_path / "run").exists()


def test_tensorboard_reads_what_it_was_told_and_an_update_made_again_takes_the_place(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for updates in ((1, 2, 3), (2, 3, 4)):
        with dashboards.opened(("tensorboard",), tmp_path, config={}) as tell:
            for update in updates:
                tell(update, {"loss": update + len(updates) / 10, "rows": 8})
    read = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert sorted(read.Tags()["scalars"]) == ["loss", "rows"]
    assert [point.step for point in read.Scalars("loss")] == [1, 2, 3, 4]


def test_a_training_tells_what_its_metrics_tell_and_stays_the_same_run(tmp_path, wandb, capsys):
    tiny_qwen2.write(tmp_path / "toy", num_hidden_layers=1)
    turns = [{"role": "user", "author": "user", "content": "12 N"}]
    turns += [{"role": "assistant", "author": "teacher", "content": "4"}]
    (tmp_path / "log.jsonl").write_text(json.dumps({"id": "1", "messages": turns}))
    run = ["--model", str(tmp_path / "toy"), "--output_dir", str(tmp_path / "run"), "--lora_r", "2"]
    asked = ["train", str(tmp_path / "log.jsonl"), *run, "--max_steps", "2"]
    assert cli.main([*asked, "--report_to", "wandb"]) == 0
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [(line["update"], line["loss"]) for line in lines] == [
        (step, values["loss"]) for step, values in wandb.run.told
    ]
    seal = json.loads((tmp_path / "run/seal.json").read_text())
    assert wandb.asked["id"] == seal["run"] and wandb.asked["config"]["max_steps"] == 2
    assert cli.main(asked) == 0  # asking for no page is no other run
    capsys.readouterr()
