"""Forty odd logs and more, one for each format and habit people have: each converts, or is refused in one
line with the way out; whatever converts can be masked."""

import gzip
import io
import json
import os
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cicjax import cli
from cicjax.logs import formats, native
from cicjax.logs.attribution import Attribution, Reading
from cicjax.provenance import Author

Turns = list[tuple[str, str]]
CALL = {"id": "c1", "type": "function", "function": {"name": "stock", "arguments": '{"part": "M8"}'}}
SCHEMA = {"type": "object", "properties": {"part": {"type": "string"}}}
TOOL = {"type": "function", "function": {"name": "stock", "description": "Parts left.", "parameters": SCHEMA}}
FLAT = {"type": "function", "name": "stock", "description": "Parts left.", "parameters": SCHEMA}
# Who says what in the store's conversation, in any format that holds all of it.
STORE: Turns = [("user", "Any M8 left?"), ("agent", ""), ("tool", "14"), ("agent", "Fourteen.")]
QUESTION: Turns = [("user", "2+2?"), ("agent", "5")]


def _chat(*messages: dict, **record) -> dict:
    return {"messages": list(messages), **record}


def _said(role: str, content: str | None, **facts) -> dict:
    return {"role": role, "content": content, **facts}


ASKS = [_said("user", "Any M8 left?"), _said("assistant", None, tool_calls=[CALL])]
ASKS += [_said("tool", "14", tool_call_id="c1"), _said("assistant", "Fourteen.")]
SIMPLE = [_said("user", "2+2?"), _said("assistant", "5")]


def _lines(*records: object) -> Callable[[Path], str]:
    return lambda folder: _put(folder, "log.jsonl", "\n".join(map(json.dumps, records)).encode())


def _put(folder: Path, name: str, content: bytes) -> str:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)
    return str(folder / name)


def _bytes(name: str, content: bytes) -> Callable[[Path], str]:
    return lambda folder: _put(folder, name, content)


class Odd(NamedTuple):
    """One log: how it is written, and what comes of it, turns or a word of the refusal."""

    write: Callable[[Path], str]
    becomes: Turns | str
    arguments: tuple[str, ...] = ()
    says: str = ""


def _dumped(content: str | None, **facts) -> dict:
    """A message as a client library dumps it, with a key for whatever there might have been."""
    unset = {"refusal": None, "annotations": [], "audio": None, "function_call": None, "tool_calls": None}
    return {"role": "assistant", "content": content, **unset, **facts}


def _completion(*messages: dict, **facts) -> dict:
    choices = [
        {"index": n, "message": m, "finish_reason": "stop", "logprobs": None} for n, m in enumerate(messages)
    ]
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "model": "m",
        "choices": choices,
        "usage": {},
        **facts,
    }


CHATS = {
    "OpenAI's file for fine-tuning": Odd(
        _lines(_chat(_said("developer", "Count."), *ASKS, tools=[TOOL], parallel_tool_calls=False)),
        [("system", "Count."), *STORE],
    ),
    "a client library's dump": Odd(
        _lines(_chat(ASKS[0], _dumped(None, tool_calls=[CALL]), ASKS[2], _dumped("Fourteen."))), STORE
    ),
    "a request and its response": Odd(
        _lines(
            {
                "request": {"model": "m", "messages": ASKS[:3], "tools": [TOOL]},
                "response": _completion(_dumped("Fourteen.")),
            }
        ),
        STORE,
        says="kept in meta, unread: response (1)",
    ),
    "bodies within a proxy's record": Odd(
        _lines(
            {
                "custom_id": "q",
                "request": {"method": "POST", "body": {"messages": SIMPLE[:1]}},
                "response": {"status_code": 200, "body": _completion(_dumped("5"))},
            }
        ),
        QUESTION,
    ),
    "a call as a client's hook saw it": Odd(
        _lines(
            {"kwargs": {"model": "m", "messages": SIMPLE[:1]}, "response": _completion(_dumped("5")), "ms": 3}
        ),
        QUESTION,
        says="ms (1)",
    ),
    "two choices of one request": Odd(
        _lines({"messages": SIMPLE[:1], **_completion(_dumped("5"), _dumped("4"))}),
        [*QUESTION, ("user", "2+2?"), ("agent", "4")],
    ),
    "a response without its request": Odd(
        _lines(_completion(_dumped("5"))), "log the request's messages beside it"
    ),
    "a response that is a text": Odd(_lines({"messages": SIMPLE[:1], "response": "5"}), QUESTION),
    "sampled ids of a server": Odd(
        _lines(
            {
                "messages": SIMPLE[:1],
                "choices": [{"message": _dumped("5"), "token_ids": [20, 1], "finish_reason": "stop"}],
            }
        ),
        QUESTION,
        says="1 with sampled ids",
    ),
    "broken arguments, and their correction": Odd(
        _lines(
            _chat(
                ASKS[0],
                _said(
                    "assistant",
                    "",
                    tool_calls=[{**CALL, "function": {"name": "stock", "arguments": '{"part": M8'}}],
                ),
                _said("tool", "error: not JSON", tool_call_id="c1"),
                _said("assistant", "I do not know.", edited="I called it wrongly."),
            )
        ),
        [
            ("user", "Any M8 left?"),
            ("agent", ""),
            ("tool", "error: not JSON"),
            ("agent", "I do not know."),
            ("teacher", "I called it wrongly."),
        ],
        ("--corrections", "edited"),
    ),
    "keys of one's own in a record": Odd(
        _lines(_chat(*SIMPLE, reward=0.0, score=1, timestamp="now", tags=["a"])),
        QUESTION,
        says="reward (1), score (1)",
    ),
    "keys of one's own in a message": Odd(
        _lines(_chat(SIMPLE[0], {**SIMPLE[1], "id": "m1", "source": "generate", "latency_ms": 3})),
        QUESTION,
        says="message.latency_ms (1)",
    ),
    "an edited text without a word of it": Odd(
        _lines(_chat(SIMPLE[0], {**SIMPLE[1], "edited": "4"})),
        QUESTION,
        says="--corrections edited makes a teacher's turn",
    ),
    "a reward as the verdict": Odd(
        _lines(_chat(*SIMPLE, reward=1.0)), QUESTION, ("--solved", "reward"), "1 solved and 0 not"
    ),
    "ShareGPT": Odd(
        _lines({"conversations": [{"from": "human", "value": "2+2?"}, {"from": "gpt", "value": "5"}]}),
        QUESTION,
    ),
    "ShareGPT with calls as turns": Odd(
        _lines(
            {
                "conversations": [
                    {"from": "human", "value": "Any M8 left?"},
                    {"from": "function_call", "value": '{"name": "stock", "arguments": {"part": "M8"}}'},
                    {"from": "observation", "value": "14"},
                    {"from": "gpt", "value": "Fourteen."},
                ],
                "tools": json.dumps([FLAT]),
            }
        ),
        STORE,
    ),
    "calls as they were once spelled": Odd(
        _lines(
            _chat(
                ASKS[0],
                _said("assistant", None, function_call={"name": "stock", "arguments": "{}"}),
                _said("function", "14", name="stock"),
                ASKS[3],
                functions=[FLAT],
            )
        ),
        STORE,
    ),
    "axolotl's turns to train on": Odd(
        _lines(_chat(*({**turn, "train": True} for turn in SIMPLE))), QUESTION
    ),
    "TRL's prompt and completion": Odd(_lines({"prompt": "2+2?", "completion": "5"}), QUESTION),
    "TRL's lists, tools as text": Odd(
        _lines({"prompt": ASKS[:3], "completion": ASKS[3:], "tools": json.dumps([TOOL])}), STORE
    ),
    "alpaca with a history": Odd(
        _lines({"instruction": "Add.", "input": "2+2?", "output": "5", "history": [["1+1?", "2"]]}),
        [("user", "1+1?"), ("agent", "2"), ("user", "Add.\n2+2?"), ("agent", "5")],
    ),
    "question and answer": Odd(_lines({"question": "2+2?", "answer": "5"}), QUESTION),
    "prompt and response": Odd(_lines({"prompt": "2+2?", "response": "5"}), QUESTION),
    "thoughts by two names": Odd(
        _lines(
            _chat(
                SIMPLE[0],
                {**SIMPLE[1], "reasoning": "Hm.", "reasoning_content": "Hm.", "reasoning_details": [{}]},
            )
        ),
        QUESTION,
        says="the reasoning of 1 turn is in meta alone",
    ),
    "thoughts and no answer": Odd(
        _lines(_chat(SIMPLE[0], _said("assistant", None, reasoning_content="Hm", finish_reason="length"))),
        [("user", "2+2?"), ("agent", "")],
    ),
    "lists of turns, one a line": Odd(_lines(SIMPLE, SIMPLE), [*QUESTION, *QUESTION]),
    "a JSON array": Odd(
        _bytes("log.json", json.dumps([_chat(*SIMPLE)] * 2, indent=2).encode()), [*QUESTION, *QUESTION]
    ),
    "one conversation as an array": Odd(_bytes("log.json", json.dumps(SIMPLE, indent=2).encode()), QUESTION),
    "gzip": Odd(_bytes("log.jsonl.gz", gzip.compress(json.dumps(_chat(*SIMPLE)).encode())), QUESTION),
    "a mark, CRLF and blank lines": Odd(
        _bytes("log.jsonl", b"\xef\xbb\xbf\r\n" + json.dumps(_chat(*SIMPLE)).encode() + b"\r\n\r\n"), QUESTION
    ),
    "a log that is being written": Odd(
        _bytes("log.jsonl", json.dumps(_chat(*SIMPLE)).encode() + b'\n{"messages": [{"ro'),
        QUESTION,
        ("--on_error", "skip"),
        "1 record left out",
    ),
    "authors that the file claims": Odd(
        _lines(_chat(SIMPLE[0], {**SIMPLE[1], "author": "teacher"})),
        "1 of 2 messages have an author; say which format",
    ),
    "a picture": Odd(
        _lines(
            _chat(
                _said("user", None, content_parts=1) | {"content": [{"type": "image_url", "image_url": {}}]}
            )
        ),
        "leave out this record (--on_error skip)",
    ),
}
BLOCKS = [
    _said("user", "Any M8 left?"),
    {
        "role": "assistant",
        "content": [{"type": "tool_use", "id": "c1", "name": "stock", "input": {"part": "M8"}}],
    },
    {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c1", "content": "14"}]},
]
ANSWER = {
    "type": "message",
    "role": "assistant",
    "content": [{"type": "text", "text": "Fourteen."}],
    "stop_reason": "end_turn",
}
SCREEN = {"role": "user", "content": [{"type": "image", "source": {"type": "base64"}}]}
ITEMS = [
    _said("user", "Any M8 left?"),
    {"type": "reasoning", "summary": [], "encrypted_content": "x"},
    {"type": "function_call", "call_id": "c1", "name": "stock", "arguments": '{"part": "M8"}'},
    {"type": "function_call_output", "call_id": "c1", "output": "14"},
]
SPOKEN = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Fourteen."}]}


def _event(kind: str, payload: dict) -> dict:
    return {"timestamp": "2026-01-01T00:00:00Z", "type": kind, "payload": payload}


def _line(n: int, kind: str, message: dict) -> dict:
    return {
        "type": kind,
        "uuid": str(n),
        "parentUuid": str(n - 1) if n else None,
        "sessionId": "s",
        "message": message,
    }


SESSION = [
    _line(n, turn["role"], turn) for n, turn in enumerate([*BLOCKS, {**ANSWER, "id": "m", "model": "claude"}])
]
RESULT = {
    "example_id": 0,
    "prompt": ASKS[:1],
    "completion": [{**ASKS[1], "tool_calls": [json.dumps(CALL)]}, *ASKS[2:]],
}
NODES = [
    {"parent": n - 1 if n else None, "message": m, "sampled": m["role"] == "assistant"}
    for n, m in enumerate(ASKS)
]
SAMPLE = {"id": 1, "epoch": 1, "target": "14", "messages": ASKS, "scores": {"match": {"value": "I"}}}
LOG = {"version": 2, "eval": {"model": "m"}, "samples": [SAMPLE]}


def _archive() -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("header.json", "{}")
        archive.writestr("samples/1_epoch_1.json", json.dumps(SAMPLE))
    return packed.getvalue()


def _trajectory(*steps: dict) -> dict:
    numbered = [{"step_id": n, "message": "", **step} for n, step in enumerate(steps, start=1)]
    return {"schema_version": "ATIF-v1.6", "agent": {"name": "t", "version": "2"}, "steps": numbered}


TYPED = {
    "source": "agent",
    "message": "Typing.",
    "tool_calls": [{"tool_call_id": str(n), "function_name": "keys", "arguments": {}} for n in range(3)],
    "observation": {"results": [{"content": "$"}]},
}
SHELL = _trajectory({"source": "user", "message": "Go."}, TYPED, {"source": "agent", "message": "Done."})


def _job(folder: Path) -> str:
    for name, reward in (("a__1", b"1"), ("b__2", b"0")):
        _put(folder / "job" / name, "agent/trajectory.json", json.dumps(SHELL, indent=2).encode())
        _put(folder / "job" / name, "verifier/reward.txt", reward)
        _put(folder / "job" / name, "result.json", b"{}")
    return str(folder / "job")


TYPING: Turns = [("user", "Go."), ("agent", "Typing."), ("tool", "$"), ("agent", "Done.")]
AGENTS = {
    "Anthropic's request": Odd(
        _lines({"model": "c", "max_tokens": 9, "system": "Count.", "messages": BLOCKS}),
        [("system", "Count."), *STORE[:3]],
    ),
    "Anthropic's request and response": Odd(
        _lines({"request": {"messages": BLOCKS}, "response": ANSWER}), STORE
    ),
    "Anthropic's, with a screenshot": Odd(_lines({"messages": [SCREEN, *BLOCKS[1:]]}), "(--on_error skip)"),
    "Responses": Odd(_lines({"model": "o", "input": ITEMS, "output": [SPOKEN], "tools": [FLAT]}), STORE),
    "Responses that go on": Odd(
        _lines({"previous_response_id": "r", "input": "?", "output": [SPOKEN]}), "log the whole input"
    ),
    "a trace of the Agents SDK": Odd(
        _lines(
            {"object": "trace", "id": "t"},
            *(
                {
                    "object": "trace.span",
                    "trace_id": "t",
                    "span_data": {"type": "response", "input": items, "response": {"output": out}},
                }
                for items, out in ((ITEMS[:1], ITEMS[1:3]), (ITEMS, [SPOKEN]))
            ),
        ),
        STORE,
    ),
    "a trace as the SDK exports it": Odd(
        _lines(
            {"object": "trace.span", "trace_id": "t", "span_data": {"type": "response", "response_id": "r"}}
        ),
        "with a processor of your own",
    ),
    "a session of Codex": Odd(
        _lines(
            _event("session_meta", {"id": "s"}),
            *(_event("response_item", {"type": "message"} | item) for item in [*ITEMS, SPOKEN]),
        ),
        STORE,
    ),
    "what Codex prints": Odd(_lines({"type": "thread.started", "thread_id": "t"}), "give the session's file"),
    "a session of Claude Code": Odd(
        _lines({"type": "summary", "summary": "x", "leafUuid": "y"}, *SESSION), STORE
    ),
    "what Claude Code prints": Odd(
        _lines(*({"type": t["role"], "message": t, "session_id": "s"} for t in [*BLOCKS, ANSWER])), STORE
    ),
    "results of verifiers": Odd(
        _lines({**RESULT, "reward": 1.0, "exact": 1}), STORE, says="2 solved and 0 not"
    ),
    "traces of prime-rl": Odd(
        _lines({"id": "e", "traces": [{"id": "t", "nodes": NODES, "calls": []}]}), STORE
    ),
    "Inspect's log": Odd(
        _bytes("log.json", json.dumps(LOG, indent=2).encode()), STORE, says="0 solved and 2 not"
    ),
    "Inspect's archive": Odd(_bytes("log.eval", _archive()), STORE, says="0 solved and 2 not"),
    "a job of Harbor": Odd(_job, [*TYPING, *TYPING], says="2 solved and 2 not"),
    "a trajectory alone": Odd(_bytes("trajectory.json", json.dumps(SHELL, indent=2).encode()), TYPING),
    "a trajectory with a picture": Odd(
        _lines(_trajectory({"source": "user", "message": [{"type": "image", "source": {}}]})),
        "(--on_error skip)",
    ),
}
NONE = {
    "LangChain's objects": Odd(
        _lines(
            {
                "messages": [
                    {"lc": 1, "type": "constructor", "id": ["HumanMessage"], "kwargs": {"content": "?"}}
                ]
            }
        ),
        "convert_to_openai_messages(messages)",
    ),
    "LangChain's turns": Odd(
        _lines([{"type": "human", "data": {"content": "?"}}, {"type": "ai", "data": {"content": "!"}}]),
        "convert_to_openai_messages(messages)",
    ),
    "LangChain's turns, one a line": Odd(
        _lines({"type": "human", "data": {"content": "?"}}), "convert_to_openai_messages(messages)"
    ),
    "a run of LangSmith": Odd(
        _lines({"run_type": "chain", "inputs": {}, "outputs": {}}), "convert_to_openai_messages"
    ),
    "a preference": Odd(
        _lines({"prompt": "?", "chosen": "4", "rejected": "5"}), "under a key for --corrections"
    ),
    "a bare text": Odd(_lines({"text": "User: 2+2? Assistant: 5"}), "split it into messages with roles"),
    "a datum of ids": Odd(
        _lines({"model_input": {"chunks": []}, "loss_fn_inputs": {}}), "give the transcripts"
    ),
    "ids with their mask": Odd(
        _lines({"input_ids": [1], "labels": [1], "attention_mask": [1]}), "give the transcripts"
    ),
    "Gemini's contents": Odd(
        _lines({"contents": [{"role": "user", "parts": []}]}), "say which it is with --from NAME"
    ),
    "OpenTelemetry": Odd(_lines({"resourceSpans": []}), "export the messages of the model's calls"),
    "Parquet": Odd(_bytes("log.parquet", b"PAR1\x15\x04"), "write it as JSON lines"),
    "zstd": Odd(_bytes("rollout.jsonl.zst", b"\x28\xb5\x2f\xfd\x00"), "unpack it with zstd -d"),
    "half a gzip": Odd(_bytes("log.gz", gzip.compress(b"{}" * 99)[:20]), "damaged or was cut short"),
    "UTF-16": Odd(_bytes("log.jsonl", json.dumps(_chat(*SIMPLE)).encode("utf-16")), "not UTF-8"),
    "no number": Odd(
        _bytes("log.jsonl", b'{"messages": [], "reward": NaN}'), "NaN is not JSON; leave the value out"
    ),
    "no file": Odd(lambda folder: str(folder / "nope.jsonl"), "No such file"),
    "an empty folder": Odd(str, "holds no log: no file below it ends in .jsonl"),
    "a pattern of nothing": Odd(lambda folder: f"{folder}/*.jsonl", "no file has such a name"),
}
ODD = CHATS | AGENTS | NONE


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD.keys())
def test_an_odd_log_converts_or_is_told_the_way_in_one_line(tmp_path, capsys, folder, odd):
    (tmp_path / "logs").mkdir()
    name, output = odd.write(tmp_path / "logs"), tmp_path / "episodes.jsonl"
    code = cli.main(["convert", name, "--assistant_author", "agent", "--output", str(output), *odd.arguments])
    out, err = capsys.readouterr()
    if isinstance(odd.becomes, str):
        assert (code, out, output.exists()) == (2, "", False)
        assert err.count("\n") == 1
        assert odd.becomes in err
        assert len(err) < 500 + 2 * len(str(tmp_path))
        return
    assert code == 0, err
    assert odd.says in out
    episodes = native.read_native(output)
    assert [(m.author.label, m.content) for episode in episodes for m in episode.messages] == odd.becomes
    assert not {m.author for episode in episodes for m in episode.messages} & {Author.VERIFIER}
    assert cli.main(["mask", str(output), "--tokenizer", str(folder), "--format", "chatml", "--json"]) == 0
    assert capsys.readouterr().out.count("\n") == len(episodes)


def test_the_calls_of_all_that_hold_them_are_those_of_the_store(tmp_path):
    """Turns may agree where calls do not."""
    held = 0
    for n, odd in enumerate(ODD.values()):
        if not isinstance(odd.becomes, str) and odd.becomes[-3:-1] == STORE[1:3]:
            (tmp_path / str(n)).mkdir()
            output = tmp_path / f"{n}.jsonl"
            name = odd.write(tmp_path / str(n))
            assert cli.main(["convert", name, "--assistant_author", "agent", "--output", str(output)]) == 0
            (episode,) = native.read_native(output)
            (call,) = episode.messages[-3].tool_calls
            assert call.name == "stock"
            assert json.loads(call.arguments) in ({"part": "M8"}, {})
            assert episode.messages[-2].tool_call_id in (call.id, None)
            held += 1
    assert held >= 15


def test_a_terminal_s_log_has_no_missing_results(tmp_path, capsys, folder):
    """One screen after several keystrokes is one result for all of them."""
    output = tmp_path / "episodes.jsonl"
    name = AGENTS["a job of Harbor"].write(tmp_path)
    assert cli.main(["convert", name, "--assistant_author", "agent", "--output", str(output)]) == 0
    capsys.readouterr()
    assert cli.main(["mask", str(output), "--tokenizer", str(folder), "--audit", "--format", "chatml"]) == 1
    codes = [line.split(": ")[2] for line in capsys.readouterr().out.splitlines()]
    assert codes == ["nothing-supervised", "hidden-tools", "duplicate-row"]


def test_logs_of_one_s_own_convert_and_can_be_masked(tmp_path, capsys, folder):
    """Real trajectories in the folder CICJAX_LOGS, which nobody commits."""
    if not (logs := os.environ.get("CICJAX_LOGS")):
        pytest.skip("CICJAX_LOGS names no folder with logs")
    output = tmp_path / "episodes.jsonl"
    assert cli.main(["convert", logs, "--assistant_author", "agent", "--output", str(output)]) == 0
    episodes = native.read_native(output)
    assert any(m.author is Author.AGENT for episode in episodes for m in episode.messages)
    capsys.readouterr()
    assert cli.main(["mask", str(output), "--tokenizer", str(folder), "--format", "chatml", "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(rows) == len(episodes) > 0
    for row, episode in zip(rows, episodes, strict=True):
        spoken = [m for m in episode.messages if m.author is Author.AGENT]
        text = "".join(piece for piece, gamma in zip(row["text"], row["gamma"], strict=True) if gamma)
        assert all(m.content in text for m in spoken)
        assert not any(weight for weight, gamma in zip(row["weight"], row["gamma"], strict=True) if gamma)


def test_there_are_more_than_forty():
    assert len(ODD) > 40


def _records() -> list[object]:
    """All records of the logs that convert and are text."""
    with tempfile.TemporaryDirectory() as folder:
        written = (
            Path(odd.write(Path(folder) / str(n)))
            for n, odd in enumerate(ODD.values())
            if not isinstance(odd.becomes, str)
        )
        lines = (file.read_bytes().split(b"\n") for file in written if file.suffix == ".jsonl")
        return [
            json.loads(line)
            for some in lines
            for line in some
            if line.startswith((b"{", b"[")) and line.endswith(b"}")
        ]


RECORDS = _records()
JUNK = (
    st.none()
    | st.booleans()
    | st.integers(-1, 3)
    | st.text(max_size=2)
    | st.just([])
    | st.just({})
    | st.just([{}])
)


def _broken(record: object, draw) -> object:
    """A record with something else in one of its places, or without it."""
    if isinstance(record, dict) and record:
        key = draw(st.sampled_from(sorted(record)))
        if draw(st.integers(0, 5)) == 0:
            return {name: value for name, value in record.items() if name != key}
        return {**record, key: _broken(record[key], draw)}
    if isinstance(record, list) and record:
        n = draw(st.integers(0, len(record) - 1))
        return [*record[:n], _broken(record[n], draw), *record[n + 1 :]]
    return draw(JUNK)


@settings(max_examples=250, deadline=None)
@given(data=st.data())
def test_a_log_that_is_broken_anywhere_is_episodes_or_problems_of_a_line(data):
    record = _broken(data.draw(st.sampled_from(RECORDS)), data.draw)
    with tempfile.TemporaryDirectory() as folder:
        name = _put(Path(folder), "log.jsonl", (json.dumps(record) + "\n").encode())
        reading = Reading(attribution=Attribution(Author.AGENT), corrections="edited")
        collected = formats.collect([name], reading)
        assert collected.episodes or collected.problems
        assert all("\n" not in str(problem) for problem in collected.problems)
        if collected.episodes:
            native.write_native(name, collected.episodes)
            assert [replace(e, line=0) for e in native.read_native(name)] == [
                replace(e, line=0) for e in collected.episodes
            ]
