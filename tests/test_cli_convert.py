"""`cicjax convert` from the outside: a log in, a native file out, one line of counts, one line for every
error and then no file."""

import gzip
import io
import json
import os
import threading
from pathlib import Path

import pytest

from cicjax import assets, cli
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
        "files": [str(log)],
        "formats": {"openai": 1},
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
        "solved": 0,
        "unsolved": 0,
        "reasoning_set_aside": 1,
        "kept_in_meta": {},
        "rows": 1,
        "left_out": 0,
        "passed_over": [],
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
    "unknown format": ({"mood": "x"}, [], ":1: is of no known format (its keys: 'mood'); say which it is"),
    "two formats": (
        {**CHAT, "conversations": [{}]},
        ["--assistant_author", "agent"],
        ":1: a record has either messages (or conversations)",
    ),
    "a key of verdicts that is not there": (
        CHAT,
        ["--assistant_author", "agent", "--solved", "reward"],
        "no record and no message has a verdict at --solved reward",
    ),
    "a verdict that is none": (
        {**CHAT, "reward": {"a": 1}},
        ["--assistant_author", "agent", "--solved", "reward"],
        ":1: the verdict {'a': 1} is no single number; name the one inside it, --solved KEY.INNER",
    ),
    "labels without a tokenizer": (
        CHAT,
        ["--assistant_author", "agent", "--to", "labels"],
        "--to labels and --tokenizer DIR belong together",
    ),
    "nothing to prefer": (
        CHAT,
        ["--assistant_author", "agent", "--to", "preference"],
        "no transcript has an attempt of the agent's with a correction",
    ),
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


def _chat(content: str = "5", **facts) -> dict:
    turns = [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": content}]
    return {"messages": turns, **facts}


def _episodes(folder: Path) -> list[native.Episode]:
    return native.read_native(folder / "out.jsonl")


def _run(folder: Path, *arguments: object) -> int:
    output = [] if "--output" in arguments else ["--output", folder / "out.jsonl"]
    return cli.main(["convert", *map(str, [*arguments, "--assistant_author", "agent", *output])])


def test_folders_patterns_gzip_arrays_and_several_files(tmp_path, capsys):
    logs = tmp_path / "logs"
    (logs / "deep" / ".hidden").mkdir(parents=True)
    (logs / "a.jsonl").write_text("\n".join(json.dumps(_chat(str(n))) for n in range(2)))
    (logs / "deep" / "b.jsonl.gz").write_bytes(gzip.compress(json.dumps(_chat("gz")).encode()))
    (logs / "deep" / "c.json").write_text(json.dumps([_chat("c"), _chat("d", id="own")], indent=1))
    (logs / "deep" / "metadata.json").write_text('{"avg_reward": 1}')
    (logs / "deep" / "empty.jsonl").write_text("\n")
    (logs / "deep" / "notes.txt").write_text("not a log")
    (logs / "deep" / ".hidden" / "x.jsonl").write_text("not a log either")
    assert _run(tmp_path, logs) == 0
    out = capsys.readouterr().out
    assert f"passed over: {logs}/deep/empty.jsonl: holds no episode" in out
    assert f"{logs}/deep/metadata.json" in out
    assert [episode.id for episode in _episodes(tmp_path)] == ["a-1", "a-2", "b-1", "c-1", "own"]
    whole = [episode.messages[1].content for episode in _episodes(tmp_path)]
    assert whole == ["0", "1", "gz", "c", "d"]
    assert _run(tmp_path, f"{logs}/a.*", logs / "deep", f"{logs}/**/*.gz", logs) == 0
    assert [episode.messages[1].content for episode in _episodes(tmp_path)] == whole
    assert _run(tmp_path, f"{logs}/none*") == 2
    assert f"{logs}/none*: no file has such a name" in capsys.readouterr().err
    assert _run(tmp_path, logs / "deep" / "metadata.json", logs) == 2
    assert "metadata.json:1: is of no known format (its keys: 'avg_reward')" in capsys.readouterr().err
    assert _run(tmp_path, logs, "--output", logs / "a.jsonl") == 2
    assert "which would be lost; name another" in capsys.readouterr().err


def test_from_standard_input_to_standard_output(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(
        "sys.stdin", io.TextIOWrapper(io.BytesIO(gzip.compress(json.dumps(_chat()).encode())))
    )
    assert _run(tmp_path, "-", "--output", "-") == 0
    out, err = capsys.readouterr()
    assert native.parse_episode(out, where="-").messages[1].content == "5"
    assert err.startswith("-: 1 episode from openai, 2 turns by agent 1")
    assert not list(tmp_path.iterdir())


def test_a_request_and_its_answer_in_one_flat_record_keep_what_stands_beside_them(log, capsys):
    answer = {"role": "assistant", "content": "5", "refusal": None, "annotations": [], "edited": "4"}
    turn = {"messages": [{"role": "user", "content": "2+2?"}], "feedback": {"thumbs": 1}, "body": "x"}
    log.write_text(
        json.dumps({"id": "c1", "model": "m", "usage": {}, **turn, "choices": [{"message": answer}]})
    )
    arguments = ["--agent_models", "m", "--corrections", "edited", "--solved", "feedback.thumbs"]
    assert _convert(log, *arguments) == 0
    (episode,) = _episodes(log.parent)
    assert [(message.content, message.solved) for message in episode.messages] == [
        ("2+2?", -1),
        ("5", 1),
        ("4", -1),
    ]
    assert episode.id == "c1"
    assert episode.meta["foreign"] == {"usage": {}, "feedback": {"thumbs": 1}, "body": "x"}
    assert episode.meta["turns"] == {"2": {"model": "m"}}


def test_a_pipe_is_read_once(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    turn = _chat()
    turn["messages"][1]["edited"] = "4"
    writer = threading.Thread(target=pipe.write_text, args=(json.dumps(turn),))
    writer.start()
    assert _run(tmp_path, pipe, "--corrections", "edited") == 0
    writer.join()
    (episode,) = _episodes(tmp_path)
    assert [message.content for message in episode.messages] == ["2+2?", "5", "4"]


def test_what_a_format_does_not_know_is_kept_in_meta_and_named(log, capsys):
    log.write_text(json.dumps(_chat(reward=0.5, usage={"tokens": 3}, tags=[])))
    turn = json.loads(log.read_text())
    turn["messages"][1] |= {"annotations": [], "audio": None, "edited": "4", "latency": 2}
    log.write_text(json.dumps(turn))
    assert _convert(log, "--assistant_author", "agent") == 0
    (episode,) = _episodes(log.parent)
    assert episode.meta == {
        "foreign": {"reward": 0.5, "usage": {"tokens": 3}},
        "turns": {"2": {"foreign": {"edited": "4", "latency": 2}}},
    }
    out = capsys.readouterr().out
    assert (
        "; kept in meta, unread: reward (1), usage (1), message.edited (1), message.latency (1); if " in out
    )
    assert "if edited is an edited text, --corrections edited makes a teacher's turn of it" in out


@pytest.mark.parametrize(
    ("arguments", "values", "solved"),
    [
        ((), [1.0, 0.9, None], [-1, -1, -1]),
        (("--solved", "score"), [1.0, 0.9, None], [1, 0, -1]),
        (("--solved", "score", "--solved_at", "0.5"), [1, 0.5, 0.4], [1, 1, 0]),
        (("--solved", "score.value"), [{"value": "C"}, {"value": "I"}, {}], [1, 0, -1]),
        (("--solved", "score"), [True, "failed", "0.3"], [1, 0, 0]),
    ],
)
def test_verdicts_at_a_key_or_at_keys_within_one_another(log, arguments, values, solved, capsys):
    log.write_text("\n".join(json.dumps(_chat(score=value)) for value in values))
    assert _convert(log, "--assistant_author", "agent", *arguments) == 0
    assert [episode.messages[1].solved for episode in _episodes(log.parent)] == solved
    assert all(episode.messages[0].solved == -1 for episode in _episodes(log.parent))
    passed, failed = solved.count(1), solved.count(0)
    assert (f"of the agent's, {passed} solved and {failed} not" in capsys.readouterr().out) is bool(
        passed + failed
    )


def test_a_verdict_of_a_turn_is_that_turn_s(log):
    turns = [{"role": "assistant", "content": str(n), "ok": n == 1} for n in range(2)]
    log.write_text(json.dumps({"messages": [*turns, {"role": "assistant", "content": "2"}], "ok": True}))
    assert _convert(log, "--assistant_author", "agent", "--solved", "ok") == 0
    (episode,) = _episodes(log.parent)
    assert [message.solved for message in episode.messages] == [0, 1, 1]


def test_all_problems_at_once_and_what_comes_of_them(log, capsys):
    bad = [{**_chat(), "messages": [{"role": "narrator", "content": str(n)}]} for n in range(3)]
    broken = ["{", json.dumps(_chat("kept")), *map(json.dumps, bad)]
    log.write_text("\n".join(broken))
    assert _convert(log, "--assistant_author", "agent") == 2
    out, err = capsys.readouterr()
    first, second, last = err.splitlines()
    assert out == ""
    assert first.startswith(f"{log}:1: not JSON")
    assert second.startswith(f"{log}:3: message 1: unknown role 'narrator'")
    assert second.endswith("(and 2 more like it)")
    assert last == (
        "cicjax: error: 4 records cannot be read and nothing was written; --on_error skip leaves them out"
    )
    assert not log.with_name("out.jsonl").exists()
    assert _convert(log, "--assistant_author", "agent", "--on_error", "skip") == 0
    out, err = capsys.readouterr()
    assert "; 4 records left out" in out
    assert [line[:9] for line in err.splitlines()] == ["left out:"] * 2
    assert [episode.messages[1].content for episode in _episodes(log.parent)] == ["kept"]
    log.write_text("\n".join(map(json.dumps, bad)))
    assert _convert(log, "--assistant_author", "agent", "--on_error", "skip") == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_ids_are_made_each_its_own(tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.jsonl").write_text(
            "\n".join(json.dumps(_chat(id=id)) for id in ("x", "x-2", "x"))
        )
    assert _run(tmp_path, tmp_path / "a.jsonl", tmp_path / "b.jsonl") == 0
    assert [episode.id for episode in _episodes(tmp_path)] == ["x", "x-2", "x-3", "x-4", "x-2-2", "x-5"]


CORRECTED = {
    "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}],
    "messages": [
        {"role": "user", "content": "2+2?"},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "{}"}}],
        },
        {"role": "tool", "tool_call_id": "1", "content": "?"},
        {"role": "assistant", "content": "5", "edited": "4"},
        {"role": "user", "content": "Sure?"},
        {"role": "assistant", "content": "Yes."},
    ],
}


def test_out_again_as_prompts_with_completions_and_as_preferences(log):
    log.write_text(json.dumps(CORRECTED) + "\n" + json.dumps(_chat()))
    arguments = ["--assistant_author", "agent", "--corrections", "edited", "--to"]
    call = {"type": "function", "function": {"name": "f", "arguments": {}}, "id": "1"}
    before = [
        {"role": "user", "content": "2+2?"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "?", "tool_call_id": "1"},
    ]
    attempt, correction = ({"role": "assistant", "content": content} for content in "54")
    assert _convert(log, *arguments, "trl") == 0
    assert list(map(json.loads, log.with_name("out.jsonl").open())) == [
        {"prompt": [*before, attempt], "completion": [correction], "tools": CORRECTED["tools"]}
    ]
    assert _convert(log, *arguments, "preference") == 0
    assert list(map(json.loads, log.with_name("out.jsonl").open())) == [
        {"prompt": before, "chosen": [correction], "rejected": [attempt], "tools": CORRECTED["tools"]}
    ]


def test_out_again_as_labels_equals_the_labels_of_mask(log, tmp_path):
    tiny = assets.default_model_folder()
    log.write_text(json.dumps(CORRECTED))
    arguments = ["--assistant_author", "agent", "--corrections", "edited"]
    assert _convert(log, *arguments) == 0
    masked = cli.main(
        ["mask", str(log.with_name("out.jsonl")), "--tokenizer", str(tiny), "--labels", str(tmp_path / "m")]
    )
    assert masked == 0
    assert _convert(log, *arguments, "--to", "labels", "--tokenizer", tiny) == 0
    assert log.with_name("out.jsonl").read_text() == (tmp_path / "m").read_text()
    (row,) = map(json.loads, (tmp_path / "m").open())
    assert 0 < sum(label != -100 for label in row["labels"]) < len(row["labels"])
