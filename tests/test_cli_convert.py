"""`cicjax convert` from the outside: a log in, a native file out, one line of counts, one line for every
error and then no file."""

import json
from pathlib import Path

import pytest

from cicjax import cli
from cicjax.commands.convert import Convert
from cicjax.logs import native
from cicjax.provenance import Author, Message

CHAT = {
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "2+2?"},
        {"role": "assistant", "content": "5", "weight": 0, "edited": "4", "reasoning_content": "hm"},
        {"role": "assistant", "content": "Next?"},
    ]
}


@pytest.fixture(autouse=True)
def verb(monkeypatch):
    monkeypatch.setitem(cli.VERBS, "convert", Convert)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    file = tmp_path / "log.jsonl"
    file.write_text(json.dumps(CHAT) + "\n")
    return file


def _convert(file: Path, *arguments: object) -> int:
    return cli.main(
        ["convert", str(file), "--output", str(file.with_name("out.jsonl")), *map(str, arguments)]
    )


def test_a_log_becomes_a_native_file_and_a_line_of_counts(log, capsys):
    assert _convert(log, "--from", "openai", "--assistant_author", "agent", "--corrections", "edited") == 0
    (episode,) = native.read_native(log.with_name("out.jsonl"))
    assert episode.messages == (
        Message(role="system", content="Be brief.", author=Author.SYSTEM),
        Message(role="user", content="2+2?", author=Author.USER),
        Message(role="assistant", content="5", author=Author.AGENT, context_only=True),
        Message(role="assistant", content="4", author=Author.TEACHER, context_only=True),
        Message(role="assistant", content="Next?", author=Author.AGENT),
    )
    assert capsys.readouterr().out == (
        f"{log.with_name('out.jsonl')}: 1 episode from openai, 5 turns by agent 2, teacher 1, user 1, "
        "system 1; "
        "2 context only, 0 with sampled ids; the reasoning of 1 turn is in meta alone\n"
    )


def test_the_summary_as_an_object(log, capsys):
    assert _convert(log, "--assistant_author", "teacher", "--corrections", "edited", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {
        "file": str(log),
        "format": "openai",
        "output": str(log.with_name("out.jsonl")),
        "episodes": 1,
        "turns": 5,
        "authors": {
            "agent": 1,
            "teacher": 2,
            "user": 1,
            "tool": 0,
            "verifier": 0,
            "environment": 0,
            "system": 1,
        },
        "context_only": 2,
        "sampled": 0,
        "reasoning_set_aside": 1,
    }


@pytest.mark.parametrize(
    ("name", "record"),
    [
        ("trl", {"prompt": "2+2?", "completion": "4"}),
        (
            "axolotl",
            {
                "conversations": [
                    {"from": "human", "value": "2+2?", "train": False},
                    {"from": "gpt", "value": "4"},
                ]
            },
        ),
        (
            "atif",
            {
                "schema_version": "ATIF-v1.4",
                "agent": {"name": "a", "version": "1", "model_name": "m"},
                "steps": [
                    {"step_id": 1, "source": "user", "message": "2+2?", "is_copied_context": True},
                    {"step_id": 2, "source": "agent", "message": "4"},
                ],
            },
        ),
    ],
)
@pytest.mark.parametrize("said", [True, False])
def test_every_format_named_or_told_by_its_keys(log, name, record, said):
    log.write_text(json.dumps(record))
    assert _convert(log, "--from", name if said else "auto", "--assistant_author", "agent") == 0
    (episode,) = native.read_native(log.with_name("out.jsonl"))
    assert episode.source == name
    assert episode.messages == (
        Message(role="user", content="2+2?", author=Author.USER, context_only=True),
        Message(role="assistant", content="4", author=Author.AGENT),
    )


def test_models_tell_agents_from_teachers(log, capsys):
    turns = [
        {"role": "assistant", "content": "x", "model": model} for model in ("ours-1", "theirs", "ours-2")
    ]
    log.write_text(json.dumps({"messages": turns}))
    assert _convert(log, "--agent_models", "ours-1", "ours-2") == 0
    assert "3 turns by agent 2, teacher 1; " in capsys.readouterr().out
    assert _convert(log, "--agent_models", "ours") == 0
    assert capsys.readouterr().out.endswith(
        "3 turns by agent 0, teacher 3; 0 context only, 0 with sampled ids; no turn is by ours\n"
    )


def test_a_native_file_speaks_for_itself(log, capsys):
    written = Message(role="assistant", content="5", author=Author.AGENT, tokens=(20, 1))
    native.write_native(log, [native.Episode(id="1", messages=(written,), meta={"turns": [1]})])
    assert _convert(log) == 0
    assert native.read_native(log.with_name("out.jsonl")) == native.read_native(log)
    assert "agent 1, teacher 0; 0 context only, 1 with sampled ids" in capsys.readouterr().out
    log.write_text(log.read_text().replace('"content"', '"edited": "4", "content"'))
    assert _convert(log, "--from", "native", "--corrections", "edited") == 0
    assert native.read_native(log.with_name("out.jsonl"))[0].messages == (
        written,
        Message(role="assistant", content="4", author=Author.TEACHER),
    )


REFUSED = {
    "nobody's word": (
        CHAT,
        ["--corrections", "edited"],
        ":1: message 4: nothing says who wrote this assistant's turn",
    ),
    "no key of edits": (CHAT, ["--assistant_author", "agent"], ":1: message 3: unknown key 'edited'"),
    "a key that is taken": (
        CHAT,
        ["--assistant_author", "agent", "--corrections", "role"],
        "--corrections role: that is a key",
    ),
    "claimed authors": (
        {"messages": [{"role": "assistant", "content": "x", "author": "teacher"}]},
        ["--from", "openai", "--assistant_author", "agent"],
        ":1: message 1: has the key 'author'",
    ),
    "a word on a native file": (
        {"id": "1", "messages": [{"role": "assistant", "content": "x", "author": "teacher"}]},
        ["--assistant_author", "agent"],
        "a native file says who wrote each turn",
    ),
    "unknown format": ({"text": "x"}, [], ":1: is of no known format; say which it is with --from NAME"),
    "two formats": ({**CHAT, "conversations": []}, [], "looks like messages and like axolotl"),
    "wrong format": (
        CHAT,
        ["--from", "atif", "--assistant_author", "agent"],
        ":1: a trajectory needs the key 'schema_version'",
    ),
}


@pytest.mark.parametrize(("record", "arguments", "complaint"), REFUSED.values(), ids=REFUSED.keys())
def test_errors_are_one_line_and_leave_no_file(log, capsys, record, arguments, complaint):
    log.write_text(json.dumps(record))
    _fails(log, arguments, complaint, capsys)


def _fails(log: Path, arguments: list[str], complaint: str, capsys) -> None:
    assert _convert(log, *arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert complaint in err
    assert [file.name for file in log.parent.iterdir()] == ["log.jsonl"]


def test_a_log_that_breaks_off_leaves_no_file(log, capsys):
    log.write_text(log.read_text() * 3 + json.dumps(CHAT)[:-9])
    _fails(log, ["--assistant_author", "agent", "--corrections", "edited"], "log.jsonl:4: not JSON", capsys)


def test_a_log_that_breaks_off_leaves_the_file_of_yesterday(log, capsys):
    output = log.with_name("out.jsonl")
    output.write_text("yesterday\n")
    log.write_text("{")
    assert _convert(log, "--from", "openai", "--assistant_author", "agent") == 2
    assert output.read_text() == "yesterday\n"


def test_the_log_itself_is_never_written_over(log, capsys):
    before = log.read_text()
    assert (
        cli.main(
            [
                "convert",
                str(log),
                "--assistant_author",
                "agent",
                "--corrections",
                "edited",
                "--output",
                str(log),
            ]
        )
        == 2
    )
    assert (
        capsys.readouterr().err
        == f"cicjax: error: {log}: is the same file as {log}, which would be lost; name another\n"
    )
    assert log.read_text() == before


@pytest.mark.parametrize("ascii_only", [True, False])
def test_a_key_of_corrections_beyond_ascii(log, ascii_only):
    turns = [{"role": "assistant", "content": "5", "édité": "4"}]
    log.write_text(json.dumps({"messages": turns}, ensure_ascii=ascii_only), encoding="utf-8")
    assert _convert(log, "--assistant_author", "agent", "--corrections", "édité") == 0
    (episode,) = native.read_native(log.with_name("out.jsonl"))
    assert [message.author for message in episode.messages] == [Author.AGENT, Author.TEACHER]
    assert _convert(log, "--assistant_author", "agent", "--corrections", "édit") == 2
