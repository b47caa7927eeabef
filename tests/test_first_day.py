"""What goes wrong on a first day, each as it was met: one line that says what, where and what to do, or a box
of the command line's own; nothing is written, and nothing that can be read is refused."""

import gzip
import io
import json
from pathlib import Path

import pytest
import tiny_qwen2

from cicjax import assets, cli
from cicjax.training.checkpoints import leaf_digests, load_adapter

QUESTION = {"role": "user", "author": "user", "content": "What is 2+2?"}
ATTEMPT = {"role": "assistant", "author": "agent", "content": "5", "solved": 0}
CORRECTION = {"role": "assistant", "author": "teacher", "content": "4"}
CHAT = [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "5"}]


@pytest.fixture(scope="module")
def desk(tmp_path_factory) -> Path:
    """A desk with what the rows name: logs, models, folders."""
    desk = tmp_path_factory.mktemp("desk")
    tiny_qwen2.write(desk / "toy", seed=2, num_hidden_layers=1)

    def put(name: str, *records: object) -> None:
        (desk / name).parent.mkdir(parents=True, exist_ok=True)
        (desk / name).write_text("".join(json.dumps(record) + "\n" for record in records))

    put("log.jsonl", *({"id": str(n), "messages": [QUESTION, ATTEMPT, CORRECTION]} for n in range(3)))
    put("agent.jsonl", {"id": "1", "messages": [QUESTION, ATTEMPT]})
    put("openai.jsonl", {"id": "1", "model": "m", "messages": CHAT, "temperature": 1})
    put(
        "forged.jsonl",
        {"id": "1", "messages": [{**QUESTION, "content": "<|im_end|><eos> \u202e"}, ATTEMPT, CORRECTION]},
    )
    put("odd/config.json", {"architectures": ["GemmaForCausalLM"], "model_type": "gemma"})
    tiny_qwen2.write(desk / "toy2", seed=3, num_hidden_layers=1)
    tiny_qwen2.write(desk / "small", quantization_config={"bits": 4})
    put("p.jsonl", {"prompt": "a"})
    put("empty/readme.txt")
    put("logs/a.jsonl", {"id": "1", "messages": [QUESTION, ATTEMPT]})
    put("logs/b.json", [{"id": "2", "messages": [QUESTION, ATTEMPT]}])
    (desk / "agent.jsonl.gz").write_bytes(gzip.compress((desk / "agent.jsonl").read_bytes()))
    (desk / "array.json").write_text(json.dumps([{"id": "1", "messages": [QUESTION, ATTEMPT]}], indent=1))
    (desk / "cr.jsonl").write_bytes(
        b"\xef\xbb\xbf\r\n" + (desk / "log.jsonl").read_bytes().replace(b"\n", b"\r\n")
    )
    for name, content in (
        ("nan", '{"id": NaN}'),
        ("half", '{"id": "1", "mess'),
        ("lone", '{"id": "\\ud800", "messages": []}'),
    ):
        (desk / f"{name}.jsonl").write_text(content)
    (desk / "log.gguf").write_bytes(b"GGUF\x03")
    return desk


TRAIN = ["train", "--model", "toy", "--output_dir", "run", "--lora_r", "2"]
MASK = ["mask", "--tokenizer", "toy"]
ROWS = {
    "no such file": ([*TRAIN, "nope.jsonl"], "nope.jsonl: No such file or directory"),
    "OpenAI log to train": (
        [*TRAIN, "openai.jsonl"],
        "openai.jsonl:1: is no episode: nothing says who wrote which turn; `cicjax convert FILE "
        "--assistant_author agent|teacher --output OUT.jsonl` makes episodes of it",
    ),
    "OpenAI log to mask": ([*MASK, "openai.jsonl"], "`cicjax convert FILE --assistant_author agent|teacher"),
    "OpenAI log to score": (["score", "openai.jsonl", "--model", "toy"], "`cicjax convert FILE"),
    "log of the agent alone to train": ([*TRAIN, "agent.jsonl"], "Three ways on: corrections"),
    "folder without a model": (
        ["train", "log.jsonl", "--model", "empty", "--output_dir", "run"],
        "config.json",
    ),
    "quantized weights": (
        ["train", "log.jsonl", "--model", "small", "--output_dir", "run"],
        "quantized weights are not supported; give the model in bfloat16 or float32",
    ),
    "a model in one file": (
        ["train", "log.jsonl", "--model", "log.gguf", "--output_dir", "run"],
        "log.gguf: no such folder",
    ),
    "a hub id without a net": (
        ["train", "log.jsonl", "--model", "nobody/nothing", "--output_dir", "run"],
        "no such folder, and not to be had as a hub id",
    ),
    "another architecture": (
        ["train", "log.jsonl", "--model", "odd", "--output_dir", "run"],
        "'GemmaForCausalLM' is not supported; give a model of Qwen2ForCausalLM, Qwen3ForCausalLM or Llama",
    ),
    "learning rate below 0": (
        [*TRAIN, "log.jsonl", "--learning_rate", "-1"],
        "--learning_rate is a finite number",
    ),
    "learning rate nan": (
        [*TRAIN, "log.jsonl", "--learning_rate", "nan"],
        "--learning_rate is a finite number",
    ),
    "wrong without stream": ([*TRAIN, "log.jsonl", "--wrong", "1"], "belong to --objective stream"),
    "a target misspelled": (
        [*TRAIN, "log.jsonl", "--targets", "techer"],
        "choose from world, agent, teacher",
    ),
    "held out from itself": (
        [*TRAIN, "log.jsonl", "--eval_file", "log.jsonl"],
        "3 of 3 held-out rows are trained on",
    ),
    "adapter where there is none": ([*TRAIN, "log.jsonl", "--start_adapter", "empty"], "empty"),
    "mask without a tokenizer": (["mask", "log.jsonl"], "say whose with --tokenizer DIR"),
    "labels onto the log": ([*MASK, "log.jsonl", "--labels", "log.jsonl"], "would be lost; name another"),
    "broken weights as labels": (
        [*MASK, "log.jsonl", "--labels", "x", "--objective", "stream", "--wrong", "0.5"],
        "labels know only the weights 0 and 1",
    ),
    "rows longer than asked": ([*TRAIN, "log.jsonl", "--max_length", "8"], "3 of 3 rows are longer than"),
    "gzip": ([*TRAIN, "agent.jsonl.gz"], "agent.jsonl.gz: nothing is trained on"),
    "an array": ([*TRAIN, "array.json"], "array.json: nothing is trained on"),
    "a folder": ([*TRAIN, "logs"], "logs: nothing is trained on"),
    "a pattern": ([*TRAIN, "logs/*"], "logs/*: nothing is trained on"),
    "a folder without logs": ([*TRAIN, "empty"], "empty: holds no log: no file below it ends in .jsonl"),
    "a pattern of nothing": ([*TRAIN, "*.log"], "*.log: no file has such a name"),
    "a model as the log": ([*TRAIN, "log.gguf"], "log.gguf: a model, no transcripts"),
    "no number": ([*MASK, "nan.jsonl"], "nan.jsonl:1: NaN is not JSON; leave the value out"),
    "half a line": ([*MASK, "half.jsonl"], "half.jsonl:1: not JSON"),
    "half a character": ([*MASK, "lone.jsonl"], "lone.jsonl:1: "),
    "one of several": (
        ["convert", "log.jsonl", "openai.jsonl", "--output", "x"],
        "openai.jsonl:1: message 2: this assistant's turn is by 'm'; say whether",
    ),
}
BOXES = {
    "another objective": [*TRAIN, "log.jsonl", "--objective", "dpo"],
    "another protocol": [*MASK, "log.jsonl", "--format", "gguf"],
    "a verb misspelled": ["trian"],
    "a flag misspelled": [*TRAIN, "log.jsonl", "--learning_rte", "1"],
    "another format to read": ["convert", "log.jsonl", "--from", "parquet", "--output", "x"],
}


@pytest.fixture(scope="module")
def run(desk) -> Path:
    """A finished training of one update on the desk."""
    folder = desk.parent / "finished"
    model = ["--model", str(desk / "toy"), "--lora_r", "2", "--learning_rate", "0.01"]
    told = ["--max_steps", "1", "--output_dir", str(folder)]
    assert cli.main(["train", str(desk / "log.jsonl"), *model, *told]) == 0
    return folder


AFTER = {
    "other settings in the same folder": (
        ["train", "log.jsonl", "--model", "toy", "--lora_r", "2", "--max_steps", "1", "--output_dir", "RUN"],
        "learning_rate is 0.01 there and None here",
    ),
    "an adapter's folder one too high": (
        [*TRAIN, "log.jsonl", "--start_adapter", "RUN"],
        "holds no adapter itself but adapter; give one of these folders, such as RUN/adapter",
    ),
    "an adapter of another base": (
        ["generate", "--model", "toy2", "--adapter", "RUN/adapter", "--prompts", "p.jsonl"],
        "give the base that it was trained on",
    ),
    "an export onto a folder": (
        ["export", "RUN/adapter", "--model", "toy", "--output_dir", "logs"],
        "logs: exists already, and nothing is replaced",
    ),
}


@pytest.mark.parametrize(("arguments", "said"), AFTER.values(), ids=AFTER.keys())
def test_what_cannot_be_done_with_a_run_is_one_line_too(desk, run, monkeypatch, capsys, arguments, said):
    monkeypatch.chdir(desk)
    assert cli.main([each.replace("RUN", str(run)) for each in arguments]) == 2
    error = capsys.readouterr().err
    assert said.replace("RUN", str(run)) in error and error.count("\n") == 1
    assert not (desk / "run").exists()


def test_a_training_has_a_report(run, capsys):
    assert cli.main(["report", str(run)]) == 0
    assert capsys.readouterr().out == f"{run / 'report.html'}\n"


@pytest.mark.parametrize(("arguments", "said"), ROWS.values(), ids=ROWS.keys())
def test_what_cannot_be_done_is_one_line_with_the_way_out(desk, monkeypatch, capsys, arguments, said):
    monkeypatch.chdir(desk)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    before = sorted(desk.rglob("*"))
    assert cli.main(arguments) == 2
    out, err = capsys.readouterr()
    assert said in err
    assert err.startswith("cicjax: error: ")
    assert err.count("\n") == 1
    assert out == ""
    assert sorted(desk.rglob("*")) == before


@pytest.mark.parametrize("arguments", BOXES.values(), ids=BOXES.keys())
def test_a_flag_or_a_verb_that_there_is_not_is_explained(desk, monkeypatch, capsys, arguments):
    monkeypatch.chdir(desk)
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2
    assert 0 < len(capsys.readouterr().err.splitlines()) < 25
    assert not (desk / "run").exists()


@pytest.mark.parametrize("name", ["forged.jsonl", "cr.jsonl"])
def test_what_is_odd_and_can_be_read_is_read(desk, monkeypatch, capsys, name):
    monkeypatch.chdir(desk)
    assert cli.main([*MASK, name, "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert all(any(weight for weight in row["weight"]) for row in rows)
    assert "\u202e" in "".join(rows[0]["text"]) or name != "forged.jsonl"


def test_a_folder_trains_as_its_files_do_in_one(desk, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(desk)
    rows = (desk / "log.jsonl").read_text().splitlines()
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "a.jsonl.gz").write_bytes(gzip.compress(rows[0].encode()))
    (tmp_path / "logs" / "b.json").write_text(f"[{', '.join(rows[1:])}]")
    digests = {}
    for name in ("log.jsonl", str(tmp_path / "logs")):
        run = tmp_path / f"run {len(digests)}"
        arguments = ["--model", "toy", "--lora_r", "2", "--max_steps", "1", "--output_dir", str(run)]
        assert cli.main(["train", name, *arguments]) == 0
        config = json.loads((run / "config.json").read_text())
        digests[config["resolved"]["file"]] = json.dumps(leaf_digests(load_adapter(run / "adapter")[0]))
    first, second = digests.values()
    assert first == second
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO((desk / "log.jsonl").read_bytes())))
    assert cli.main(["train", "-", *arguments]) == 2
    assert "write standard input to a file first" in capsys.readouterr().err


def test_one_s_own_log_becomes_a_page_in_two_commands(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    edited = {**CHAT[1], "edited": "4"}
    Path("chats.jsonl").write_text(json.dumps({"messages": [CHAT[0], edited]}))
    asked = ["--assistant_author", "agent", "--corrections", "edited"]
    assert cli.main(["convert", "chats.jsonl", *asked, "--output", "log.jsonl"]) == 0
    tiny = str(assets.default_model_folder())
    assert cli.main(["mask", "log.jsonl", "--tokenizer", tiny, "--html", "mask.html"]) == 0
    page = Path("mask.html").read_text(encoding="utf-8")
    assert "none of the" in page
    assert "by-teacher" in page
    capsys.readouterr()
