"""`cicjax eval` beside `cicjax repro`: the questions of the adapter's run, and never one that it was trained
on."""

import json
import sys

import pytest
import tiny_qwen2

from cicjax import cli

FLAGS = ("--scale", "smoke", "--seed", 3, "--num_sft", 30, "--num_test", 8, "--methods", "sft", "--lora_r", 2)


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toy") / "model"
    tiny_qwen2.write(folder, seed=2, num_hidden_layers=1, max_position_embeddings=2048)
    return folder


@pytest.fixture(scope="module")
def run(toy, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    assert main("repro", "--model", toy, "--output_dir", folder, *FLAGS) == 0
    return folder


def main(*arguments):
    return cli.main([str(argument) for argument in arguments])


def asked(capsys, toy, run, *more):
    """The answers of `cicjax eval` to what it asks of the run's SFT-1."""
    capsys.readouterr()
    assert main("eval", "--model", toy, "--adapter", run / "sft", "--json", *more) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()][:-1]


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_an_adapter_of_a_run_is_asked_the_runs_questions_and_answers_the_same(toy, run, capsys):
    assert asked(capsys, toy, run) == rows(run / "evaluations" / "sft-direct.jsonl")


def test_however_many_are_asked_none_was_trained_on(toy, run, capsys):
    trained = {row["id"] for row in rows(run / "rollouts" / "sft.jsonl")}
    few = ("--max_new_tokens", 2)
    test = {row["id"] for row in asked(capsys, toy, run, *few, "--num_test", 120)}
    dev = {row["id"] for row in asked(capsys, toy, run, *few, "--split", "dev", "--num_test", 32)}
    assert (len(trained), len(test), len(dev)) == (30, 120, 32)
    assert not trained & test and not trained & dev and not test & dev
    assert {row["id"] for row in rows(run / "evaluations" / "sft-direct.jsonl")} < test


def test_an_adapter_that_began_from_a_runs_is_asked_that_runs_questions(toy, run, tmp_path, capsys):
    own = tmp_path / "own"
    start = ("--start_adapter", run / "sft", "--model", toy, "--output_dir", own, "--max_steps", 1)
    assert main("train", run / "rollouts" / "sft.jsonl", *start) == 0
    assert "protocol: plain (30 rows)" in capsys.readouterr().out
    few = ("--model", toy, "--max_new_tokens", 2)
    expected = [row["id"] for row in rows(run / "evaluations" / "sft-direct.jsonl")]
    moved = (run / "sft").rename(tmp_path / "moved")
    for more in (("--adapter", own / "adapter"), ("--questions_of", run)):
        assert main("eval", *few, *more, "--json") == 0
        *found, last = (json.loads(line) for line in capsys.readouterr().out.splitlines())
        assert [row["id"] for row in found] == expected
        drawn = {"split": "test", "questions": 8, "seed": 3, "teacher_rows": 30, "questions_of": str(run)}
        assert last["asked"] == {"task": "stem", "protocol": "plain"} | drawn
    assert main("eval", *few, "--adapter", own / "adapter") == 0
    told = capsys.readouterr().out
    assert f"questions: 8 of stem (split test, seed 3, beside 30 teacher rows), those of {run}\n" in told
    moved.rename(run / "sft")


def test_the_questions_of_another_run_may_be_known(toy, run, tmp_path, capsys):
    config = json.loads((run / "config.json").read_text())
    config["resolved"]["settings"]["counts"]["sft_rows"] = 29
    (tmp_path / "config.json").write_text(json.dumps(config))
    few = ("--model", toy, "--max_new_tokens", 2, "--questions_of", tmp_path)
    assert main("eval", *few, "--adapter", run / "sft") == 2
    assert f"comes from {run}, and may know the answers" in capsys.readouterr().err
    (tmp_path / "config.json").unlink()
    assert main("eval", *few) == 2
    assert f"{tmp_path}: no run of `cicjax repro`" in capsys.readouterr().err


def test_without_a_run_the_questions_are_those_of_the_papers_counts(toy, capsys):
    from cicjax.tasks import stem

    assert (
        main(
            "eval",
            "--model",
            toy,
            "--num_test",
            5,
            "--seed",
            4,
            "--max_new_tokens",
            2,
            "--split",
            "dev",
            "--json",
        )
        == 0
    )
    dev = [json.loads(line)["id"] for line in capsys.readouterr().out.splitlines()[:-1]]
    assert dev == [problem.id for problem in stem.make_splits(seed=4).dev[:5]]


SUMS = """
from dataclasses import dataclass
from cicjax.tasks.task import Grade, Splits

@dataclass(frozen=True)
class Problem:
    id: str
    question: str
    solution: str
    skill: str = "sum"

class Sums:
    name = "sums"
    def settings(self):
        return {"largest": 40}
    def splits(self, seed, *, sft, agent, dev, test):
        sums = [(a, b) for a in range(40) for b in range(40)]
        made = iter([Problem(f"{a}+{b}", f"What is {a}+{b}?", f"It is {a + b}.") for a, b in sums[seed:]])
        return Splits(*(tuple(next(made) for _ in range(count)) for count in (sft, agent, dev, test)))
    def verify(self, problem, completion):
        return Grade(problem.solution in completion, "compared", {"length": len(completion)})
    def correct(self, problem, attempt):
        return problem.solution
    def has_marker(self, completion):
        return "It is" in completion

TASK = Sums()
"""


def test_a_task_of_ones_own(toy, tmp_path, monkeypatch, capsys):
    """Problems and verifier come from the user's module; they are part of what the run is."""
    (tmp_path / "own_sums.py").write_text(SUMS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    assert main("repro", "--model", toy, "--output_dir", "run", "--task", "own_sums:TASK", *FLAGS) == 0
    settings = json.loads((tmp_path / "run" / "results.json").read_text())["settings"]
    assert settings["task"] == {"largest": 40, "name": "sums"} and "numbers" not in settings
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["task"] == "own_sums:TASK" and config["resolved"]["settings"] == settings
    answers = rows(tmp_path / "run" / "evaluations" / "sft-direct.jsonl")
    assert all(row["reason"] == "compared" and row["length"] == len(row["completion"]) for row in answers)
    assert asked(capsys, toy, tmp_path / "run", "--task", "own_sums:TASK") == answers
    capsys.readouterr()
    assert main("eval", "--model", toy, "--adapter", tmp_path / "run" / "sft") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "'sums'" in error and "is another task" in error


def test_a_task_with_too_few_problems(toy, tmp_path, monkeypatch, capsys):
    short = SUMS.replace("(sft, agent, dev, test)", "(sft, agent, dev, 2)").replace("40", "41")
    (tmp_path / "short_sums.py").write_text(short)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    capsys.readouterr()
    assert main("repro", "--model", toy, "--output_dir", "run", "--task", "short_sums:TASK", *FLAGS) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "its split test has 2 problems where 8 were asked for" in error
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--seed", 4), "--seed"),
        (("--split", "dev", "--num_test", 33), "--num_test"),
        (("--num_test", 0), "--num_test"),
        (("--max_new_tokens", 0), "--max_new_tokens"),
    ],
)
def test_refusals_are_one_line(toy, run, capsys, more, said):
    capsys.readouterr()
    assert main("eval", "--model", toy, "--adapter", run / "sft", *more) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and said in error
