"""`cicjax eval` beside `cicjax repro`: the questions of the adapter's run, and never one that it was trained
on."""

import json

import pytest
import tiny_qwen2

from cicjax import cli

FLAGS = ("--scale", "smoke", "--seed", 3, "--num_sft", 30, "--num_test", 8, "--methods", "sft", "--lora_r", 2)


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toy") / "model"
    tiny_qwen2.write(folder, seed=2, num_hidden_layers=1)
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
