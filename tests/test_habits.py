"""What users of other trainers type works, or is answered in one sentence."""

import json
import math

import pytest
import tiny_qwen2

import cicjax
from cicjax import cli
from cicjax.commands.habits import HABITS
from cicjax.commands.train import Train
from cicjax.training.steps import Optimization, learning_rate_at

ASK = {"role": "user", "author": "user", "content": "A force of 12 N acts on 3 kg."}
RIGHT = {"role": "assistant", "author": "teacher", "content": "a = 4"}


def main(*arguments):
    return cli.main([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toy") / "model"
    tiny_qwen2.write(folder, seed=2, num_hidden_layers=1)
    return folder


@pytest.fixture
def log(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text("".join(json.dumps({"id": str(n), "messages": [ASK, RIGHT]}) + "\n" for n in range(8)))
    return path


@pytest.mark.parametrize("name", HABITS)
def test_a_habit_is_answered_in_one_line(name, capsys):
    assert name not in cli._spellings("train")
    for flag in (f"--{name}", f"--{name.replace('_', '-')}=1"):
        assert main("train", "log.jsonl", "--output_dir", "x", flag) == 2
        error = capsys.readouterr().err
        assert error == f"cicjax: error: --{name}: {HABITS[name]}\n"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("learning_rat: 1e-3", "unknown key 'learning_rat'; did you mean learning_rate?"),
        ("zzz: 1", "unknown key 'zzz'; its keys are the flags that --help lists"),
        ("bf16: true", f"bf16: {HABITS['bf16']}"),
    ],
)
def test_a_typo_in_a_configuration_names_key_and_file(log, tmp_path, capsys, line, said):
    path = tmp_path / "flags.yaml"
    path.write_text(f"file: {log}\noutput_dir: x\n{line}\n")
    assert main("train", "--config", path) == 2
    assert capsys.readouterr().err == f"cicjax: error: {path}: {said}\n"


def test_other_names_of_flags_are_keys_too(tmp_path):
    path = tmp_path / "flags.yaml"
    path.write_text("file: log.jsonl\nmodel: theirs\noutput_dir: x\nlora_target_modules: all-linear\n")
    read = cli.parse(cli._with_config(["train", "--config", str(path)]))
    assert isinstance(read, Train)
    assert (read.model_name_or_path, read.lora_target_modules) == ("theirs", ("all-linear",))


def test_version_and_help(capsys):
    assert main("--version") == 0
    assert capsys.readouterr().out == f"cicjax {cicjax.__version__}\n"
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0 and "usage: cicjax" in capsys.readouterr().out


def test_schedules():
    optimization = Optimization(learning_rate=1.0, warmup_steps=1)

    def rates(schedule):
        return [learning_rate_at(n, 6, optimization, schedule=schedule) for n in range(6)]

    assert rates("constant") == [0.5, 1, 1, 1, 1, 1]
    for schedule in ("linear", "cosine"):
        rate = rates(schedule)
        assert rate[:2] == [0.5, 1] and math.isclose(rate[-1], 0.1)
        assert rate[1:] == sorted(rate[1:], reverse=True) and math.isclose(rate[3], 0.55)
    assert rates("cosine")[2] > rates("linear")[2] and rates("cosine")[4] < rates("linear")[4]


def test_the_flags_of_habit_that_work(toy, log, tmp_path, capsys):
    held = tmp_path / "held.jsonl"
    held.write_text(json.dumps({"id": "h", "messages": [ASK, RIGHT | {"content": "a = 5"}]}) + "\n")
    run = ("train", log, "--model", toy, "--output_dir", tmp_path / "run", "--lora_r", 2)
    more = ("--per_device_train_batch_size", 2, "--lora-target-modules", "all-linear")
    rate = ("--lr_scheduler_type", "cosine", "--warmup_ratio", 0.5, "--learning_rate", 0.01)
    often = ("--eval_file", held, "--eval_steps", 2, "--save_steps", 1, "--save_total_limit", 3)
    assert main(*run, *more, *rate, *often) == 0
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [line["learning_rate"] for line in lines] == pytest.approx([0.01 / 3, 0.02 / 3, 0.01, 0.001])
    assert ["held_out/teacher" in line for line in lines] == [True, False, True, False]
    before = json.loads((tmp_path / "run/results.json").read_text())["held_out"]["before"]
    assert lines[0]["held_out/teacher"] == pytest.approx(before["teacher"]["nll"])
    steps = sorted(path.name for path in (tmp_path / "run/adapter").iterdir() if path.name.isdigit())
    assert steps == ["2", "3", "4"]
    capsys.readouterr()
    assert main(*run, *more, *rate, *often) == 0
    assert "finished already; to train on, --start_adapter" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--warmup_ratio", 1.5), "--warmup_ratio is a share"),
        (("--eval_steps", 2), "--eval_steps asks the transcripts of --eval_file"),
        (("--save_total_limit", 0), "--save_total_limit is 1 or more"),
    ],
)
def test_refusals(log, tmp_path, capsys, more, said):
    assert main("train", log, "--output_dir", tmp_path / "run", *more) == 2
    assert said in capsys.readouterr().err and not (tmp_path / "run").exists()


def test_the_package_offers_its_words_and_imports_nothing_for_them():
    import subprocess
    import sys
    import tomllib
    from pathlib import Path

    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    assert cicjax.__version__ == project["version"]
    program = (
        "import sys, cicjax; assert 'numpy' not in sys.modules; cicjax.encode, cicjax.Transcript, "
        "cicjax.weights.interventional; assert 'jax' not in sys.modules; cicjax.tasks; "
        "assert set(dir(cicjax)) >= {'encode', '__version__'}; print(cicjax.objectives.__name__)"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout == "cicjax.objectives\n"
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        cicjax.nothing  # noqa: B018
