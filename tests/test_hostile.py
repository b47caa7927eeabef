"""Hostile names, texts, files and folders at the command line: nothing that moves a terminal is printed,
nothing of others is copied, nothing takes all memory."""

import gzip
import json
import stat
import time
import xml.etree.ElementTree as ElementTree

import pytest
import tiny_qwen2
from byte_tokenizer import write_tokenizer
from matplotlib.figure import Figure

from cicjax import cli
from cicjax.errors import BadInput
from cicjax.files import sources, strict
from cicjax.model import huggingface
from cicjax.provenance import tokenizer as tokenizers
from cicjax.report import drawing

# Clear the screen, set the title (OSC, ended by BEL), CSI as one character, right-to-left override, NUL, a
# line separator.
ESCAPES = "\x1b[2J\x1b]0;mine\x07\x9b31m\u202eabc\x00\u2028"
MESSAGES = [
    {"role": "user", "author": "user", "content": f"What? {ESCAPES}"},
    {"role": "assistant", "author": "agent", "content": f"Four {ESCAPES}"},
    {"role": "assistant", "author": "teacher", "content": f"Five {ESCAPES}"},
]


def harmless(text: str) -> bool:
    return all(c.isprintable() or c in "\n\t" for c in text)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A toy model, a log and prompts, all of whose names and texts hold escapes."""
    folder = tmp_path_factory.mktemp("hostile") / ESCAPES.replace("\x00", "")
    folder.mkdir()
    tiny_qwen2.write(folder / "model", seed=2, num_hidden_layers=1)
    write_tokenizer(folder / "tokenizer")
    record = {"id": f"1 {ESCAPES}", "messages": MESSAGES, "source": ESCAPES, "meta": {ESCAPES: ESCAPES}}
    (folder / "log.jsonl").write_text(json.dumps(record) + "\n")
    (folder / "prompts.jsonl").write_text(
        json.dumps({"id": f"1 {ESCAPES}", "prompt": f"So {ESCAPES}"}) + "\n"
    )
    (folder / "bad.jsonl").write_text(json.dumps({"id": "1", "messages": [{ESCAPES: 1}]}) + "\n")
    (folder / "openai.jsonl").write_text(
        json.dumps({"messages": [{"role": "user", "content": ESCAPES}]}) + "\n"
    )
    return folder


COMMANDS = {
    "mask": "mask {f}/log.jsonl --tokenizer {f}/tokenizer",
    "mask --json": "mask {f}/log.jsonl --tokenizer {f}/tokenizer --json",
    "mask --audit": "mask {f}/log.jsonl --tokenizer {f}/tokenizer --audit",
    "mask --html": "mask {f}/log.jsonl --tokenizer {f}/tokenizer --html {f}/page.html",
    "mask of a bad line": "mask {f}/bad.jsonl --tokenizer {f}/tokenizer",
    "convert": "convert {f}/openai.jsonl --output {f}/out.jsonl --assistant_author agent",
    "convert --json": "convert {f}/openai.jsonl --output {f}/out.jsonl --assistant_author agent --json",
    "no such file": "mask {f}/nothing --tokenizer {f}/tokenizer",
    "no such model": "score {f}/log.jsonl --model {f}/nothing",
    "a flag that there is not": "mask --{f}",
    "a value that there is not": "mask {f}/log.jsonl --tokenizer {f}/tokenizer --objective {f}",
    "a verb that there is not": "{f}",
    "a configuration that there is not": "train {f}/log.jsonl --output_dir {f}/run --config {f}/nothing",
    "score": "score {f}/log.jsonl --model {f}/model",
    "generate": "generate --model {f}/model --prompts {f}/prompts.jsonl --max_new_tokens 24 --temperature 2",
    "generate --json": "generate --model {f}/model --prompts {f}/prompts.jsonl --max_new_tokens 2 --json",
    "train": "train {f}/log.jsonl --model {f}/model --output_dir {f}/run --lora_r 2 --max_steps 1",
    "export": "export {f}/run/adapter --format merged --output_dir {f}/merged",
    "export again": "export {f}/run/adapter --format merged --output_dir {f}/merged",
    "report": "report {f}/run",
    "report of no run": "report {f}/nothing",
    "doctor": "doctor {f}/run",
    "doctor of no run": "doctor {f}/nothing",
    "agent new": "agent new {f}/home --model {f}/model --format plain",
    "agent new again": "agent new {f}/home --model {f}/model",
    "agent say": "agent say {f}/home So{e} --max_new_tokens 24 --temperature 2",
    "agent teach": "agent teach {f}/home no{e} So{e}",
    "agent source": "agent source {f}/home no{e} --rights chat",
    "agent import": "agent import {f}/home {f}/log.jsonl --source local",
    "agent export": "agent export {f}/home --output {f}/lessons.jsonl",
    "agent verify": "agent verify {f}/home",
    "agent versions": "agent versions {f}/home",
    "agent status of none": "agent status {f}/nothing",
    "doctor of an agent": "doctor {f}/home",
}


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS.keys())
def test_nothing_that_moves_a_terminal_is_printed(folder, capsys, command):
    try:
        parts = (part.replace("{f}", str(folder)) for part in command.split(" "))
        cli.main([part.replace("{e}", ESCAPES) for part in parts])
    except SystemExit as ended:
        assert ended.code
    out, err = capsys.readouterr()
    assert out + err and harmless(out + err)


def test_a_configuration_of_aliases_is_refused_at_once(tmp_path, capsys):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    (tmp_path / "bomb.yaml").write_text("\n".join([*lines, "lora_target_modules: *a11"]))
    started = time.monotonic()
    arguments = ["train", "log.jsonl", "--output_dir", str(tmp_path / "run"), "--config"]
    assert cli.main([*arguments, str(tmp_path / "bomb.yaml")]) == 2
    assert "bomb.yaml: an alias" in capsys.readouterr().err and time.monotonic() - started < 5


def test_a_line_longer_than_any_row_is_one_line_of_error(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(strict, "LONGEST_LINE", 1000)
    monkeypatch.setattr(tokenizers, "LONGEST_TEXT", 500)
    write_tokenizer(tmp_path / "tokenizer")
    for size, complaint in ((2000, "longer than"), (700, "a text of 700 characters")):
        messages = [{"role": "user", "author": "user", "content": "x" * size}]
        (tmp_path / "log.jsonl").write_text(json.dumps({"id": "1", "messages": messages}) + "\n")
        assert (
            cli.main(["mask", str(tmp_path / "log.jsonl"), "--tokenizer", str(tmp_path / "tokenizer")]) == 2
        )
        error = capsys.readouterr().err
        assert "log.jsonl:1" in error and complaint in error and error.count("\n") == 1
    (tmp_path / "prompts.jsonl").write_text(json.dumps({"id": "1", "prompt": "x" * 2000}) + "\n")
    with pytest.raises(BadInput, match=r"prompts.jsonl:1: longer"):
        list(strict.records(tmp_path / "prompts.jsonl", what="a prompt"))


def test_a_small_file_that_unpacks_to_a_large_one_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "MOST_UNPACKED", 100_000)
    (tmp_path / "log.jsonl.gz").write_bytes(gzip.compress(b" " * 10_000_000))
    with pytest.raises(BadInput, match=r"log.jsonl.gz: unpacks to more than"):
        list(sources.entries(tmp_path / "log.jsonl.gz"))


@pytest.mark.parametrize("name", huggingface.TOKENIZER_FILES)
def test_what_a_link_leads_to_is_not_exported(tmp_path, name):
    tiny_qwen2.write(tmp_path / "model", num_hidden_layers=1)
    (tmp_path / "secret").write_text("a key")
    (tmp_path / "model" / name).unlink(missing_ok=True)
    (tmp_path / "model" / name).symlink_to(tmp_path / "secret")
    with pytest.raises(BadInput, match=f"{name}: a link that leads out of its folder"):
        huggingface.tokenizer_files(tmp_path / "model")
    (tmp_path / "model" / name).unlink()
    (tmp_path / "model" / "real").write_text("{}")
    (tmp_path / "model" / name).symlink_to("real")
    assert tmp_path / "model" / name in huggingface.tokenizer_files(tmp_path / "model")


def test_converted_transcripts_are_their_owners_alone(tmp_path):
    record = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    (tmp_path / "log.jsonl").write_text(json.dumps(record) + "\n")
    out = tmp_path / "out.jsonl"
    arguments = ["convert", str(tmp_path / "log.jsonl"), "--output", str(out), "--assistant_author", "agent"]
    assert cli.main(arguments) == 0
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    out.chmod(0o644)  # asked for
    assert cli.main(arguments) == 0
    assert stat.S_IMODE(out.stat().st_mode) == 0o644


@pytest.mark.filterwarnings("ignore:Glyph")
def test_a_figure_is_xml_whatever_its_names_hold():
    figure = Figure()
    figure.text(0.1, 0.1, ESCAPES)
    svg = drawing.svg_of(figure)
    ElementTree.fromstring(svg)
    assert harmless(svg)
