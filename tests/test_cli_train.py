"""`cicjax train`, `score`, `generate` and `eval` as a user meets them, on a random toy."""

import json
import shutil

import numpy as np
import pytest
import tiny_qwen2

from cicjax import cli
from cicjax.commands.train import Train
from cicjax.errors import BadInput
from cicjax.runs import metrics
from cicjax.training.checkpoints import leaf_digests, load_adapter

QUESTION = {"role": "user", "author": "user", "content": "A force of 12 N acts on 3 kg."}
ATTEMPT = {"role": "assistant", "author": "agent", "content": "a = F / m = 12 / 3 = 5", "solved": 0}
CORRECTION = {"role": "assistant", "author": "teacher", "content": "a = F / m = 12 / 3 = 4"}


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toy") / "model"
    tiny_qwen2.write(folder, seed=2, num_hidden_layers=1)
    return folder


def write(path, *dialogues):
    path.write_text(
        "".join(
            json.dumps({"id": f"row {n}", "messages": messages}) + "\n"
            for n, messages in enumerate(dialogues)
        )
    )
    return path


@pytest.fixture
def log(tmp_path):
    return write(
        tmp_path / "log.jsonl", *[[QUESTION, ATTEMPT, CORRECTION]] * 6, [QUESTION, ATTEMPT | {"solved": 1}]
    )


def train(toy, log, run, *more):
    arguments = (
        "train",
        log,
        "--model",
        toy,
        "--output_dir",
        run,
        "--lora_r",
        2,
        "--per_device_train_batch_size",
        2,
        *more,
    )
    return cli.main([str(argument) for argument in arguments])


def score(capsys, toy, log, *more):
    capsys.readouterr()
    assert cli.main([str(argument) for argument in ("score", log, "--model", toy, "--json", *more)]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_training_makes_held_out_corrections_likelier_and_repeats_for_free(toy, log, tmp_path, capsys):
    run = tmp_path / "run"
    held_out = write(
        tmp_path / "held_out.jsonl",
        [{**QUESTION, "content": "A force of 8 N acts on 2 kg."}, ATTEMPT, CORRECTION],
    )
    more = ("--eval_file", held_out, "--learning_rate", 0.01, "--num_train_epochs", 3, "--save_steps", 2)
    assert train(toy, log, run, *more) == 0
    first = capsys.readouterr().out
    assert "[MASK] a = F / m = 12 / 3 = 5" in first and "[LOSS] a = F / m = 12 / 3 = 4" in first
    results = json.loads((run / "results.json").read_text())
    before, after = results["held_out"]["before"], results["held_out"]["after"]
    assert set(before) == {"system", "user", "agent", "environment", "teacher"}
    assert after["teacher"]["nll"] < before["teacher"]["nll"]
    assert results["budget"]["updates"] == 12 and results["budget"]["rows"] == 21
    bytes_before = (run / "results.json").read_bytes()
    assert train(toy, log, run, *more) == 0
    assert (run / "results.json").read_bytes() == bytes_before
    assert train(toy, log, run, *more[:-4], "--num_train_epochs", 2) == 2
    assert "another configuration" in capsys.readouterr().err


@pytest.mark.parametrize(
    "more", [(), ("--keep_echoes", "--targets", "teacher", "environment", "--max_steps", 2)]
)
def test_a_run_repeats_through_its_own_configuration(toy, log, tmp_path, capsys, more):
    run, again = tmp_path / "run", tmp_path / "again"
    assert train(toy, log, run, *more) == 0
    results = (run / "results.json").read_bytes()
    assert cli.main(["train", "--config", str(run / "config.json")]) == 0
    assert (run / "results.json").read_bytes() == results
    assert cli.main(["train", str(log), f"--config={run / 'config.json'}", "--output_dir", str(again)]) == 0
    assert (again / "results.json").read_bytes() == results
    capsys.readouterr()
    assert cli.main(["train", "--config", str(run / "config.json"), "--seed", "5"]) == 2
    assert "seed is 0 there and 5 here" in capsys.readouterr().err


def test_no_list_of_a_configuration_swallows_the_file(tmp_path):
    path = tmp_path / "flags.yaml"
    path.write_text("file: theirs.jsonl\ntargets: [teacher, user]\n")
    own = ["train", "mine.jsonl", "--output_dir", "x", "--config", str(path)]
    mine = cli.parse(cli._with_config(own))
    theirs = cli.parse(
        cli._with_config(
            ["train", "--targets", "user", "--keep-echoes", "--config", str(path), "--output_dir", "x"]
        )
    )
    assert isinstance(mine, Train) and isinstance(theirs, Train)
    assert (mine.file.name, mine.targets, mine.keep_echoes) == ("mine.jsonl", ("teacher", "user"), False)
    assert (theirs.file.name, theirs.targets, theirs.keep_echoes) == ("theirs.jsonl", ("user",), True)
    path.write_text("keep_echoes: 3\n")
    with pytest.raises(BadInput, match="keep_echoes is true or false"):
        cli._with_config(own)


def other_adapter(toy, log, tmp_path, seed):
    assert train(toy, log, tmp_path / f"start {seed}", "--max_steps", 1, "--seed", seed) == 0
    return tmp_path / f"start {seed}" / "adapter"


def test_another_start_or_tokenizer_is_another_training(toy, log, tmp_path, capsys):
    run, model = tmp_path / "run", tmp_path / "model"
    shutil.copytree(toy, model)
    first, second = (other_adapter(toy, log, tmp_path, seed) for seed in (1, 2))
    assert train(model, log, run, "--max_steps", 1, "--start_adapter", first) == 0
    results = (run / "results.json").read_bytes()
    moved = first.rename(tmp_path / "moved")
    assert train(model, log, run, "--max_steps", 1, "--start_adapter", moved) == 0
    assert (run / "results.json").read_bytes() == results
    capsys.readouterr()
    for more in ((), ("--start_adapter", second)):
        assert train(model, log, run, "--max_steps", 1, *more) == 2
        assert "resolved.start_adapter" in capsys.readouterr().err
    spec = model / "tokenizer.json"
    spec.write_text(spec.read_text() + "\n")
    assert train(model, log, run, "--max_steps", 1, "--start_adapter", moved) == 2
    assert "trained with the tokenizer" in capsys.readouterr().err


def test_the_scores_add_up(toy, log, tmp_path, capsys):
    records = score(capsys, toy, log)
    assert list(records[0]) == ["id", "tokens", "logprobs", "gamma", "author", "sum_by_author"]
    for record in records:
        assert record["logprobs"][0] is None and all(value < 0 for value in record["logprobs"][1:])
        total = sum(record["sum_by_author"].values())
        assert total == pytest.approx(sum(record["logprobs"][1:]), abs=1e-9)
        assert [a == "agent" for a in record["author"]] == [g == 1 for g in record["gamma"]]


@pytest.mark.parametrize("reduction", ["update", "dialogue"])
def test_the_first_loss_is_the_quotient_of_the_scores(toy, tmp_path, capsys, reduction):
    """An update's loss is the teacher's nats over the teacher's tokens, as `score` counts them; by dialogue,
    the mean of every dialogue's own quotient."""
    run = tmp_path / "run"
    longer = CORRECTION | {"content": CORRECTION["content"] + " m/s^2, since a force is mass by acceleration"}
    log = write(tmp_path / "log.jsonl", [QUESTION, ATTEMPT, CORRECTION], [QUESTION, longer])
    more = ("--max_steps", 1, "--dtype", "float32", "--reduction", reduction)
    assert train(toy, log, run, *more) == 0
    loss = json.loads((run / "metrics.jsonl").read_text().splitlines()[0])["loss"]
    records = score(capsys, toy, log)
    nats = [-record["sum_by_author"]["teacher"] for record in records]
    tokens = [record["author"][1:].count("teacher") for record in records]
    quotients = [each / count for each, count in zip(nats, tokens, strict=True)]
    expected = {"update": sum(nats) / sum(tokens), "dialogue": sum(quotients) / len(quotients)}
    assert abs(expected["update"] - expected["dialogue"]) > 1e-2
    assert loss == pytest.approx(expected[reduction], abs=1e-4)


def test_the_corners_of_the_stream_objective(toy, log, tmp_path):
    digests = {}
    for name, more in {
        "interventional": ("--objective", "interventional"),
        "at 0 0": ("--objective", "stream"),
        "observational": ("--objective", "observational"),
        "at 1 1": ("--objective", "stream", "--wrong", 1, "--correct", 1),
        "wrong masked": ("--objective", "stream", "--wrong", 0, "--correct", 1),
    }.items():
        assert train(toy, log, tmp_path / name, "--max_steps", 2, *more) == 0
        digests[name] = json.dumps(leaf_digests(load_adapter(tmp_path / name / "adapter")[0]))
    assert digests["interventional"] == digests["at 0 0"] != digests["observational"] == digests["at 1 1"]
    assert digests["wrong masked"] not in (digests["interventional"], digests["observational"])


def test_what_is_trained_on_is_not_held_out(toy, log, tmp_path, capsys):
    assert train(toy, log, tmp_path / "run", "--eval_file", log) == 2
    assert (
        "7 of 7 held-out rows are trained on too" in capsys.readouterr().err
        and not (tmp_path / "run").exists()
    )


def test_logs_of_the_agent_alone_teach_nothing(toy, tmp_path, capsys):
    log = write(tmp_path / "log.jsonl", [QUESTION, ATTEMPT])
    assert train(toy, log, tmp_path / "run") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "--corrections" in error and "--targets user" in error
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--max_length", 20), "rows are longer than --max_length 20"),
        (("--max_length", 20, "--overflow", "split"), "never parts a correction from its attempt"),
        (("--wrong", 0.5), "--objective stream"),
        (("--learning_rate", -1), "--learning_rate"),
        (("--num_train_epochs", 0), "--num_train_epochs"),
        (("--lora_target_modules", "x_proj"), "x_proj"),
        (("--start_adapter", "nowhere"), "nowhere"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(toy, log, tmp_path, capsys, more, said):
    assert train(toy, log, tmp_path / "run", *more) == 2
    error = capsys.readouterr().err
    assert error.startswith("cicjax: error: ") and error.count("\n") == 1 and said in error
    assert not (tmp_path / "run").exists()


def test_a_split_keeps_attempt_and_correction_together(toy, tmp_path, capsys):
    three = [
        message
        for n in range(3)
        for message in ({**QUESTION, "content": f"{n} N on 3 kg?"}, ATTEMPT, CORRECTION)
    ]
    log = write(tmp_path / "log.jsonl", three)
    whole = len(score(capsys, toy, log, "--format", "plain")[0]["tokens"])
    split = ("--max_length", whole - 1, "--overflow", "split", "--format", "plain")
    assert train(toy, log, tmp_path / "run", *split) == 0
    order = json.loads((tmp_path / "run" / "adapter" / "order.json").read_text())
    assert sorted(id for update in order for id in update) == ["row 0/1", "row 0/2"]
    budget = json.loads((tmp_path / "run" / "adapter" / "budget.json").read_text())
    assert budget["processed_tokens"] == whole


def test_generate_continues_prompts_and_messages_alike(toy, tmp_path, capsys):
    prompts = tmp_path / "prompts.jsonl"
    text = f"Question:\n{QUESTION['content']}\n\nProposed solution:\n"
    prompts.write_text(
        json.dumps({"id": "a", "prompt": text})
        + "\n"
        + json.dumps({"id": "b", "messages": [QUESTION]})
        + "\n"
    )
    arguments = (
        "generate",
        "--model",
        toy,
        "--prompts",
        prompts,
        "--max_new_tokens",
        5,
        "--dtype",
        "float32",
        "--format",
        "plain",
        "--json",
    )
    assert cli.main([str(argument) for argument in arguments]) == 0
    first, second = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert first["tokens"] == second["tokens"] and first["completion"] == second["completion"]
    assert len(first["logprobs"]) == len(first["tokens"]) <= 5 and first["finish_reason"] in (
        "stop",
        "length",
    )
    prompts.write_text(json.dumps({"id": "a"}) + "\n")
    assert cli.main([str(argument) for argument in arguments]) == 2
    assert f"{prompts}:1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"messages": [QUESTION, {"role": "tool", "author": "tool", "content": "4"}]}, "role 'tool'"),
        ({"prompt": "\ud800"}, "lone surrogate"),
        ({"prompt": ""}, "not empty"),
    ],
)
def test_a_prompt_that_cannot_be_is_placed(toy, tmp_path, capsys, asked, said):
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text(json.dumps({"id": "a", "prompt": "x"}) + "\n" + json.dumps({"id": "b"} | asked) + "\n")
    assert cli.main(["generate", "--model", str(toy), "--format", "plain", "--prompts", str(prompts)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and error.count(f"{prompts}:2: ") == 1 and said in error


def test_results_do_not_depend_on_the_chunks(toy, log, tmp_path, capsys, monkeypatch):
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"id": str(n), "prompt": f"{n} N?"}) + "\n" for n in range(5)))
    few = ("--model", toy, "--max_new_tokens", 4, "--dtype", "float32", "--json")
    verbs = [
        ("generate", "--prompts", prompts, "--temperature", 1.0, *few),
        ("eval", "--num_test", 5, *few),
        ("score", log, "--model", toy, "--json"),
    ]

    def told(verb):
        assert cli.main([str(argument) for argument in verb]) == 0
        captured = capsys.readouterr()
        return [json.loads(line) for line in captured.out.splitlines()], captured.err

    whole = [told(verb)[0] for verb in verbs]
    monkeypatch.setattr(metrics.in_chunks, "__kwdefaults__", {"size": 2})
    for verb, expected in zip(verbs, whole, strict=True):
        found, reported = told(verb)
        assert f"{verb[0]}: 0/{len(expected) - (verb[0] == 'eval')}\n" in reported
        numbers = {"logprobs": 0, "sum_by_author": 0}
        assert [row | numbers for row in found] == [row | numbers for row in expected]
        for row, before in zip(found, expected, strict=True):
            np.testing.assert_allclose(row.get("logprobs", [])[1:], before.get("logprobs", [])[1:], atol=1e-4)


def test_scores_agree_with_the_sampler(toy, tmp_path, capsys):
    """What `generate` says of its tokens is what `score` finds for them."""
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text(json.dumps({"id": "b", "messages": [QUESTION]}) + "\n")
    cli.main(
        [
            str(a)
            for a in (
                "generate",
                "--model",
                toy,
                "--prompts",
                prompts,
                "--max_new_tokens",
                5,
                "--dtype",
                "float32",
                "--json",
            )
        ]
    )
    answer = json.loads(capsys.readouterr().out)
    attempt = {
        "role": "assistant",
        "author": "agent",
        "content": answer["completion"],
        "tokens": answer["tokens"],
    }
    attempt["truncated"] = answer["finish_reason"] != "stop"
    record = score(capsys, toy, write(tmp_path / "log.jsonl", [QUESTION, attempt]))[0]
    found = [p for p, author in zip(record["logprobs"], record["author"], strict=True) if author == "agent"]
    np.testing.assert_allclose(found, answer["logprobs"], atol=1e-4)


def test_eval_grades_a_task(toy, capsys):
    arguments = (
        "eval",
        "--model",
        toy,
        "--num_test",
        3,
        "--max_new_tokens",
        4,
        "--dtype",
        "float32",
        "--json",
    )
    assert cli.main([str(argument) for argument in arguments]) == 0
    *answers, last = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert len(answers) == 3 and last["summary"]["questions"] == 3
    assert {"prompt", "completion", "value", "solved", "reason"} <= answers[0].keys()


@pytest.mark.parametrize("seed", [-1, 2**32, 2**63])
@pytest.mark.parametrize("verb", ["repro", "train", "generate", "eval"])
def test_a_seed_that_jax_would_cut_is_refused(toy, log, tmp_path, capsys, verb, seed):
    run = ("--output_dir", tmp_path / "run")
    needed = {"repro": run, "train": (log, *run), "generate": ("--prompts", log), "eval": ()}[verb]
    assert cli.main([str(argument) for argument in (verb, *needed, "--model", toy, "--seed", seed)]) == 2
    error = capsys.readouterr().err
    assert (
        error.startswith("cicjax: error: --seed is from 0 to 4294967295")
        and error.count("\n") == 1
        and not (tmp_path / "run").exists()
    )
