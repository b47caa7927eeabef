"""The protocol is decided once: an adapter trained in one is used in it by every verb, and no row's depends
on its neighbours."""

import json

import pytest
import tiny_qwen2

from cicjax import cli
from cicjax.training import checkpoints

ASK = {"role": "user", "author": "user", "content": "A force of 12 N acts on 3 kg."}
WRONG = {"role": "assistant", "author": "agent", "content": "a = 5", "solved": 0}
RIGHT = {"role": "assistant", "author": "teacher", "content": "a = 4"}
SYSTEM = {"role": "system", "author": "system", "content": "Be brief."}


def write(path, *dialogues, **more):
    rows = [{"id": str(n), "messages": messages, **more} for n, messages in enumerate(dialogues)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def main(*arguments):
    return cli.main([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toy") / "model"
    tiny_qwen2.write(folder, seed=2, num_hidden_layers=1, max_position_embeddings=2048)
    return folder


@pytest.fixture(scope="module")
def trained(toy, tmp_path_factory):
    """RUN/adapter by protocol: the same rows without a word of it, and as a file that says plain."""
    folder = tmp_path_factory.mktemp("trained")
    for name, more in (("chatml", {}), ("plain", {"protocol": "plain"})):
        log = write(folder / f"{name}.jsonl", *[[ASK, WRONG, RIGHT]] * 4, **more)
        run = ("--model", toy, "--output_dir", folder / name, "--lora_r", 2, "--max_steps", 1)
        assert main("train", log, *run) == 0
    return {name: folder / name / "adapter" for name in ("chatml", "plain")}


def test_a_row_is_rendered_alike_whatever_stands_beside_it(tmp_path, capsys):
    tokens = []
    for name, dialogues in (("alone", [[ASK, RIGHT]]), ("beside", [[ASK, RIGHT], [SYSTEM, ASK, RIGHT]])):
        log = write(tmp_path / f"{name}.jsonl", *dialogues)
        assert main("mask", log, "--tokenizer", "checkpoints/tiny", "--json") == 0
        tokens.append(json.loads(capsys.readouterr().out.splitlines()[0])["tokens"])
    assert tokens[0] == tokens[1]


def test_the_adapter_keeps_the_protocol(trained):
    for name, adapter in trained.items():
        assert checkpoints.load_adapter(adapter)[1]["protocol"] == name
        assert json.loads((adapter.parent / "config.json").read_text())["resolved"]["protocol"] == name


@pytest.mark.parametrize("name", ["chatml", "plain"])
def test_every_verb_takes_it_from_there(toy, trained, tmp_path, capsys, name):
    using = ("--model", toy, "--adapter", trained[name])
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text(json.dumps({"messages": [{"role": "user", "content": ASK["content"]}]}) + "\n")
    capsys.readouterr()
    assert main("generate", *using, "--prompts", prompts, "--max_new_tokens", 2, "--json") == 0
    answer = capsys.readouterr()
    assert f"protocol: {name} (1 prompts)" in answer.err and json.loads(answer.out)["id"] == "1"
    assert main("score", write(tmp_path / "log.jsonl", [ASK, WRONG, RIGHT]), *using) == 0
    assert f"protocol: {name} (1 rows)" in capsys.readouterr().out
    few = ("--num_test", 1, "--max_new_tokens", 2, "--json")
    assert main("eval", *using, *few) == 0
    first, last = map(json.loads, capsys.readouterr().out.splitlines())
    assert first["prompt"].startswith("<|im_start|>" if name == "chatml" else "Question:")
    assert last["asked"]["protocol"] == name and last["asked"]["questions_of"] is None
    run = ("--output_dir", tmp_path / "run", "--max_steps", 1, "--model", toy)
    assert main("train", tmp_path / "log.jsonl", "--start_adapter", trained[name], *run) == 0
    assert f"protocol: {name} (1 rows)" in capsys.readouterr().out


def test_every_verb_refuses_another(toy, trained, tmp_path, capsys):
    log = write(tmp_path / "log.jsonl", [ASK, WRONG, RIGHT], protocol="plain")
    prompts = write(tmp_path / "prompts.jsonl", [ASK])
    adapter = trained["chatml"]
    run = ("--output_dir", tmp_path / "run", "--start_adapter", adapter)
    said = f"{log}: says that its protocol is plain, and the adapter was trained in chatml; say --format"
    refusals = [
        (("generate", "--prompts", prompts, "--adapter", adapter, "--format", "plain"), "--format plain out"),
        (("eval", "--adapter", adapter, "--format", "plain"), "--format plain out"),
        (("score", log, "--adapter", adapter), said),
        (("score", log, "--adapter", adapter, "--format", "plain"), "--format plain out"),
        (("train", log, *run), said),
        (("train", log, "--format", "plain", *run), "--format plain out"),
    ]
    capsys.readouterr()
    for verb, words in refusals:
        assert main(*verb, "--model", toy) == 2
        error = capsys.readouterr().err
        assert words in error and error.count("\n") == 1
    assert not (tmp_path / "run").exists()
    assert main("score", log, "--adapter", adapter, "--format", "chatml", "--model", toy) == 0


def test_a_file_that_says_two_is_refused(toy, tmp_path, capsys):
    log = write(tmp_path / "log.jsonl", [ASK, RIGHT], protocol="plain")
    log.write_text(log.read_text() + json.dumps({"id": "b", "messages": [ASK, RIGHT]}) + "\n")
    assert main("train", log, "--model", toy, "--output_dir", tmp_path / "run") == 2
    assert f"{log}:2: says none as its protocol where line 1 says plain" in capsys.readouterr().err
    log = write(tmp_path / "log.jsonl", [ASK, RIGHT], protocol="llama")
    assert main("train", log, "--model", toy, "--output_dir", tmp_path / "run") == 2
    assert "unknown protocol 'llama'; protocols are plain, chatml, qwen3" in capsys.readouterr().err


def test_an_export_says_it_and_is_used_in_it(toy, trained, tmp_path, capsys):
    for name, adapter in trained.items():
        assert main("export", adapter, "--model", toy, "--output_dir", tmp_path / name) == 0
        prompts = write(tmp_path / "prompts.jsonl", [ASK])
        using = ("--model", toy, "--adapter", tmp_path / name, "--max_new_tokens", 1)
        assert main("generate", *using, "--prompts", prompts) == 0
        assert f"protocol: {name} " in capsys.readouterr().err
        assert f"- protocol: `{name}`" in (tmp_path / name / "README.md").read_text()


def test_several_samples_of_a_prompt(toy, tmp_path, capsys):
    prompts = write(tmp_path / "prompts.jsonl", [ASK], [ASK])
    using = ("generate", "--model", toy, "--prompts", prompts, "--max_new_tokens", 6, "--json")

    def drawn(*more):
        capsys.readouterr()
        assert main(*using, *more) == 0
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    several = drawn("--num_samples", 3, "--temperature", 1)
    assert [(row["id"], row["sample"]) for row in several] == [(id, n) for id in "01" for n in range(3)]
    assert len({tuple(row["tokens"]) for row in several}) > 3
    one = drawn("--temperature", 1)
    assert [row["tokens"] for row in one] == [row["tokens"] for row in several if row["sample"] == 0]
    assert "sample" not in one[0]
    greedy, first = drawn(), drawn("--temperature", 1, "--top_p", 1e-9)
    assert [each["tokens"] for each in first] == [each["tokens"] for each in greedy]
    assert main(*using, "--temperature", 1, "--top_p", 0) == 2
    assert "--top_p is a share" in capsys.readouterr().err
    assert main(*using, "--num_samples", 3) == 2
    assert "say --temperature too" in capsys.readouterr().err
