"""Each of the larger formats, after its documentation or its writer, becomes literal native episodes."""

import json
import zipfile
from pathlib import Path

import pytest

from cicjax.errors import BadInput
from cicjax.logs import formats, harbor
from cicjax.logs.attribution import Attribution, Reading
from cicjax.provenance import Author, Message, ToolCall

AGENT = Attribution(assistant_author=Author.AGENT)
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}}
WEATHER = {
    "type": "function",
    "function": {"name": "weather", "description": "What it is like.", "parameters": PARAMETERS},
}
CALL = ToolCall(name="weather", arguments='{"city": "Rome"}', id="c1")


def said(role: str, content: str, author: Author, **facts) -> Message:
    return Message(role=role, content=content, author=author, **facts)


def system(content: str, **facts) -> Message:
    return said("system", content, Author.SYSTEM, **facts)


def user(content: str, **facts) -> Message:
    return said("user", content, Author.USER, **facts)


def agent(content: str, **facts) -> Message:
    return said("assistant", content, Author.AGENT, **facts)


def tool(content: str, **facts) -> Message:
    return said("tool", content, Author.TOOL, **facts)


ASKED = (
    system("Be brief."),
    user("How is Rome?"),
    agent("", tool_calls=(CALL,)),
    tool("Sunny.", tool_call_id="c1"),
)


def _write(path: Path, *records: object) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def _read(tmp_path: Path, *records: object, **reading):
    file = _write(tmp_path / "log.jsonl", *records)
    collected = formats.collect([file], Reading(attribution=AGENT, **reading))
    assert not collected.problems, collected.problems
    return collected.episodes


def _problem(tmp_path: Path, *records: object) -> str:
    collected = formats.collect([_write(tmp_path / "log.jsonl", *records)], Reading(attribution=AGENT))
    assert not collected.episodes
    (problem,) = collected.problems
    assert "\n" not in str(problem)
    return str(problem)


# Anthropic

REQUEST = {
    "model": "claude-x",
    "max_tokens": 1024,
    "system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
    "tools": [{"name": "weather", "description": "What it is like.", "input_schema": PARAMETERS}],
    "messages": [
        {"role": "user", "content": "How is Rome?"},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "Look it up.", "signature": "s"},
                {"type": "tool_use", "id": "c1", "name": "weather", "input": {"city": "Rome"}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "c1", "content": [{"type": "text", "text": "Sunny."}]},
                {"type": "text", "text": "Well?"},
            ],
        },
    ],
}
ANSWER = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "claude-x",
    "content": [{"type": "text", "text": "Rome is "}, {"type": "text", "text": "sunny."}],
    "stop_reason": "end_turn",
    "usage": {"output_tokens": 5},
}


def test_anthropic_a_request_with_its_response(tmp_path):
    (episode,) = _read(tmp_path, {"request": REQUEST, "response": ANSWER, "reward": 1}, solved="reward")
    assert episode.messages == (
        *ASKED[:2],
        agent("", tool_calls=(CALL,), solved=1),
        ASKED[3],
        user("Well?"),
        agent("Rome is sunny.", solved=1),
    )
    assert episode.id == "msg_1"
    assert episode.tools == (WEATHER,)
    assert episode.meta == {
        "reward": 1,
        "foreign": {
            "request": {"max_tokens": 1024},
            "response": {
                "type": "message",
                "role": "assistant",
                "model": "claude-x",
                "stop_reason": "end_turn",
            }
            | {"usage": {"output_tokens": 5}},
        },
        "turns": {"3": {"model": "claude-x", "reasoning": "Look it up."}, "6": {"model": "claude-x"}},
    }


@pytest.mark.parametrize(
    ("block", "complaint"),
    [
        ({"type": "image", "source": {}}, "message 1: part 2 of content is of type 'image'"),
        ({"type": "document", "source": {}}, "of type 'document'"),
    ],
)
def test_anthropic_what_text_cannot_hold(tmp_path, block, complaint):
    turn = {"role": "user", "content": [{"type": "text", "text": "See:"}, block]}
    record = {"messages": [turn], "anthropic_version": "x"}
    assert complaint in _problem(tmp_path, record)
    assert "--on_error skip" in _problem(tmp_path, record)


def test_anthropic_hosted_tools_and_cut_answers(tmp_path):
    hosted = {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}}
    record = {"messages": [{"role": "assistant", "content": [hosted]}]}
    assert "message 1: a block of type 'server_tool_use': a tool that ran at the service" in _problem(
        tmp_path, record
    )
    cut = {**ANSWER, "stop_reason": "max_tokens"}
    (episode,) = _read(tmp_path, {"request": {"messages": [REQUEST["messages"][0]]}, "response": cut})
    assert episode.messages[-1] == agent("Rome is sunny.", truncated=True)
    redacted = {
        "role": "assistant",
        "content": [{"type": "redacted_thinking", "data": "x"}, ANSWER["content"][0]],
    }
    (episode,) = _read(tmp_path, {"messages": [redacted]})
    assert episode.meta["turns"]["1"]["reasoning"] == "[redacted]"


# The Responses interface

ITEMS = [
    {"role": "user", "content": [{"type": "input_text", "text": "How is Rome?"}]},
    {"type": "reasoning", "id": "r", "summary": [{"type": "summary_text", "text": "Look it up."}]},
    {
        "type": "function_call",
        "call_id": "c1",
        "name": "weather",
        "arguments": '{"city": "Rome"}',
        "id": "fc",
    },
    {"type": "function_call_output", "call_id": "c1", "output": "Sunny."},
]
SPOKEN = {
    "type": "message",
    "role": "assistant",
    "content": [{"type": "output_text", "text": "Rome is sunny.", "annotations": []}],
}
RESPONSE = {"id": "resp_1", "object": "response", "model": "o", "output": [SPOKEN], "usage": {}}
FLAT = {"type": "function", "name": "weather", "description": "What it is like.", "parameters": PARAMETERS}


@pytest.mark.parametrize(
    "record",
    [
        {"input": ITEMS, "instructions": "Be brief.", "tools": [FLAT], **RESPONSE},
        {"request": {"input": ITEMS, "instructions": "Be brief.", "tools": [FLAT]}, "response": RESPONSE},
        {
            "input": [{"role": "system", "content": "Be brief."}, *ITEMS, SPOKEN],
            "tools": [FLAT],
            "id": "resp_1",
        },
    ],
)
def test_responses_however_they_are_logged(tmp_path, record):
    (episode,) = _read(tmp_path, record)
    assert episode.messages == (*ASKED, agent("Rome is sunny."))
    assert (episode.id, episode.tools) == ("resp_1", (WEATHER,))
    assert episode.meta["turns"]["3"]["reasoning"] == "Look it up."


def test_responses_the_list_of_items_alone(tmp_path):
    (tmp_path / "items.json").write_text(json.dumps([*ITEMS, SPOKEN], indent=1))
    (episode,) = formats.read("responses", tmp_path / "items.json", AGENT)
    assert episode.messages == (*ASKED[1:], agent("Rome is sunny."))


def test_responses_hosted_tools_keep_their_call_and_what_came_of_it_where_it_is_there(tmp_path):
    items = [
        {"type": "message", "role": "user", "content": "Sum it."},
        {"type": "web_search_call", "id": "ws", "action": {"type": "search", "query": "sum"}},
        {
            "type": "code_interpreter_call",
            "id": "ci",
            "code": "1+1",
            "outputs": [{"type": "logs", "logs": "2"}],
        },
        {"type": "mcp_call", "id": "mc", "name": "say", "arguments": "{}", "output": "two"},
        {"type": "custom_tool_call", "call_id": "cc", "name": "shell", "input": "ls -l"},
        {"type": "custom_tool_call_output", "call_id": "cc", "output": [{"type": "input_text", "text": "a"}]},
        SPOKEN,
        SPOKEN,
    ]
    (episode,) = _read(tmp_path, {"input": items, "model": "m"})
    searched = ToolCall(name="web_search", arguments='{"type": "search", "query": "sum"}', id="ws")
    ran = ToolCall(name="code_interpreter", arguments='{"code": "1+1"}', id="ci")
    assert episode.messages == (
        user("Sum it."),
        agent("", tool_calls=(searched, ran)),
        tool("2", tool_call_id="ci"),
        agent("", tool_calls=(ToolCall(name="say", id="mc"),)),
        tool("two", tool_call_id="mc"),
        agent("", tool_calls=(ToolCall(name="shell", arguments="ls -l", id="cc"),)),
        tool("a", tool_call_id="cc"),
        agent("Rome is sunny.Rome is sunny."),
    )


@pytest.mark.parametrize(
    ("record", "complaint"),
    [
        (
            {"input": ITEMS, "previous_response_id": "resp_0", "output": [SPOKEN]},
            "continues a response whose turns",
        ),
        (RESPONSE, "is a response alone"),
        (
            {"input": [*ITEMS, {"type": "compaction", "encrypted_content": "x"}]},
            "item 5: the context was replaced",
        ),
        ({"input": [{"type": "riddle"}, *ITEMS]}, "item 1: an item of type 'riddle' is not known"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image"}]}, SPOKEN]},
            "of type 'input_image'",
        ),
    ],
)
def test_responses_that_hide_what_was_seen(tmp_path, record, complaint):
    assert complaint in _problem(tmp_path, record)


# Traces of the Agents SDK


def _span(trace: str = "t", **data) -> dict:
    return {"object": "trace.span", "id": "s", "trace_id": trace, "started_at": "x", "span_data": data}


def test_traces_are_the_longest_conversations_of_their_spans(tmp_path):
    first = {"output": [ITEMS[2]], "model": "o", "tools": [FLAT]}
    last = {**first, "output": [SPOKEN]}
    chat = [{"role": "user", "content": "Hi"}]
    records = [
        {"object": "trace", "id": "t", "workflow_name": "w"},
        _span(type="agent", name="a"),
        _span(type="response", input=[ITEMS[0]], response=first),
        _span(type="function", name="weather", input="{}", output="Sunny."),
        _span(type="response", input=[ITEMS[0], *ITEMS[2:]], response=last),
        _span("u", type="generation", input=chat, output=[{"role": "assistant", "content": "Ho"}], model="m"),
        _span(type="generation", input=chat, output=[{"role": "assistant", "content": "He"}], model="m"),
    ]
    episodes = _read(tmp_path, *records)
    assert [(episode.id, episode.line) for episode in episodes] == [("t-1", 5), ("t-2", 7), ("u", 6)]
    assert episodes[0].messages == (*ASKED[1:], agent("Rome is sunny."))
    assert episodes[0].tools == (WEATHER,)
    assert episodes[1].messages == (user("Hi"), agent("He"))
    assert episodes[2].meta == {"turns": {"2": {"model": "m"}}}


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        ({"type": "response", "response_id": "resp_1"}, "line 1: a response span without its words"),
        ({"type": "generation", "input": None, "output": None}, "trace_include_sensitive_data was off"),
        ({"type": "function"}, "a trace without a span of a model's call"),
    ],
)
def test_traces_without_words(tmp_path, data, complaint):
    assert complaint in _problem(tmp_path, _span(**data))


# Codex


def _event(kind: str, **payload) -> dict:
    return {"timestamp": "2026-01-01T00:00:00Z", "type": kind, "payload": payload}


META = _event("session_meta", id="s1", cwd="/w", cli_version="1", base_instructions={"text": "Be brief."})


def _items(*items: dict) -> list[dict]:
    return [_event("response_item", **{"type": "message", **item}) for item in items]


def test_codex_a_session(tmp_path):
    context = {"role": "user", "content": [{"type": "input_text", "text": "<environment_context>\n/w"}]}
    records = [META, *_items(context), _event("turn_context", model="o"), *_items(*ITEMS, SPOKEN)]
    records.insert(3, _event("event_msg", type="user_message", message="How is Rome?"))
    (episode,) = _read(tmp_path, *records)
    assert episode.messages == (
        ASKED[0],
        said("user", "<environment_context>\n/w", Author.ENVIRONMENT),
        *ASKED[1:],
        agent("Rome is sunny."),
    )
    assert episode.id == "s1"
    assert episode.meta["session"] == {"id": "s1", "cli_version": "1", "originator": None, "cwd": "/w"}
    assert episode.meta["turns"]["4"] == {"model": "o", "reasoning": "Look it up."}


def test_codex_compactions_cut_a_session(tmp_path):
    kept = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "So far: sunny."}]}
    compacted = _event("compacted", message="", replacement_history=[kept])
    records = [
        META,
        *_items(ITEMS[0], SPOKEN),
        compacted,
        *_items({"role": "user", "content": "And now?"}, SPOKEN),
    ]
    first, second = _read(tmp_path, *records)
    assert first.messages == (*ASKED[:2], agent("Rome is sunny."))
    assert second.messages == (
        ASKED[0],
        user("So far: sunny.", context_only=True),
        user("And now?"),
        agent("Rome is sunny."),
    )
    assert [first.id, second.id] == ["s1-1", "s1-2"]


def test_codex_sessions_of_old_are_items_alone(tmp_path):
    head = {"id": "old", "timestamp": "x", "instructions": None, "git": {}}
    shell = {"type": "local_shell_call", "call_id": "c1", "status": "completed"}
    shell |= {"action": {"type": "exec", "command": ["ls"]}}
    failed = {"type": "function_call_output", "call_id": "c1", "output": {"content": "no", "success": False}}
    (episode,) = _read(
        tmp_path, head, {"record_type": "state"}, ITEMS[0] | {"type": "message"}, shell, failed, SPOKEN
    )
    call = ToolCall(name="local_shell", arguments='{"type": "exec", "command": ["ls"]}', id="c1")
    assert episode.messages == (
        user("How is Rome?"),
        agent("", tool_calls=(call,)),
        tool("no", tool_call_id="c1"),
        agent("Rome is sunny."),
    )
    assert "a session in which the model said nothing" in _problem(tmp_path, META)


# Claude Code


def _line(kind: str, uuid: str, parent: str | None, message: dict, **facts) -> dict:
    return {
        "parentUuid": parent,
        "isSidechain": False,
        "sessionId": "s1",
        "version": "2",
        "cwd": "/w",
        "type": kind,
        "uuid": uuid,
        "message": message,
        **facts,
    }


def _asks(text: str) -> dict:
    return {"role": "user", "content": text}


def _answers(id: str, *blocks: dict, **facts) -> dict:
    return {"id": id, "role": "assistant", "model": "claude-x", "content": list(blocks), "usage": {}, **facts}


def _text(text: str) -> dict:
    return {"type": "text", "text": text}


def _use(id: str) -> dict:
    return {"type": "tool_use", "id": id, "name": "weather", "input": {"city": "Rome"}}


def _result(id: str) -> dict:
    return {"role": "user", "content": [{"type": "tool_result", "tool_use_id": id, "content": "Sunny."}]}


def test_claude_code_a_session_with_calls_made_at_once_and_a_rewound_turn(tmp_path):
    records = [
        {"type": "summary", "summary": "Rome", "leafUuid": "x"},
        _line("user", "u0", None, _asks("<caveat>"), isMeta=True),
        _line("user", "u1", "u0", _asks("How is Roma?")),
        _line("assistant", "a1", "u1", _answers("m1", _text("Who?"))),
        _line("user", "u2", "u0", _asks("How is Rome?")),
        _line("assistant", "b1", "u2", _answers("m2", {"type": "thinking", "thinking": "Look."})),
        _line("assistant", "b2", "b1", _answers("m2", _use("c1"))),
        _line("user", "r1", "b2", _result("c1"), toolUseResult={"stdout": "Sunny."}),
        _line("assistant", "b3", "b2", _answers("m2", _use("c2"))),
        _line("user", "r2", "b3", _result("c2")),
        {"type": "progress", "uuid": "p", "parentUuid": "r2", "sessionId": "s1", "data": {}},
        _line("assistant", "e", "p", _answers("m3", _text("API Error")), isApiErrorMessage=True),
        _line("assistant", "b4", "e", _answers("m4", _text("Sunny."))),
    ]
    (episode,) = _read(tmp_path, *records)
    second = ToolCall(name="weather", arguments=CALL.arguments, id="c2")
    assert episode.messages == (
        said("user", "<caveat>", Author.ENVIRONMENT),
        user("How is Rome?"),
        agent("", tool_calls=(CALL, second)),
        tool("Sunny.", tool_call_id="c1"),
        tool("Sunny.", tool_call_id="c2"),
        agent("Sunny."),
    )
    assert (episode.id, episode.line) == ("s1", 2)
    assert episode.meta["turns"]["3"] == {"model": "claude-x", "reasoning": "Look."}


def test_claude_code_compactions_and_side_chains_are_episodes_of_their_own(tmp_path):
    side = {"isSidechain": True, "agentId": "sub"}
    records = [
        _line("user", "u1", None, _asks("Go.")),
        _line("assistant", "a1", "u1", _answers("m1", _text("Going."))),
        _line("user", "s1", None, _asks("Look around."), **side),
        _line("assistant", "s2", "s1", _answers("m2", _text("Nothing.")), **side),
        {"type": "system", "subtype": "compact_boundary", "uuid": "k", "parentUuid": None, "sessionId": "s1"},
        _line("user", "u2", "k", _asks("So far: going."), isCompactSummary=True),
        _line("assistant", "a2", "u2", _answers("m3", _text("Gone."), stop_reason="max_tokens")),
    ]
    first, sub, second = _read(tmp_path, *records)
    assert [first.id, sub.id, second.id] == ["s1", "sub", "s1-2"]
    assert first.messages == (user("Go."), agent("Going."))
    assert sub.messages == (user("Look around."), agent("Nothing."))
    assert second.messages == (
        said("user", "So far: going.", Author.ENVIRONMENT),
        agent("Gone.", truncated=True),
    )


def test_claude_code_as_it_is_printed(tmp_path):
    records = [
        {"type": "system", "subtype": "init", "session_id": "s9", "tools": ["weather"], "model": "claude-x"},
        {"type": "user", "message": _asks("How is Rome?"), "session_id": "s9", "parent_tool_use_id": None},
        {"type": "assistant", "message": _answers("m1", _text("Sunny.")), "session_id": "s9"},
        {"type": "result", "subtype": "success", "session_id": "s9", "result": "Sunny."},
    ]
    (episode,) = _read(tmp_path, *records)
    assert (episode.id, episode.messages) == ("s9", (user("How is Rome?"), agent("Sunny.")))
    assert "a session in which the model said nothing" in _problem(tmp_path, records[0])


# verifiers and prime-rl

TOOL_CALL = {"id": "c1", "name": "weather", "arguments": '{"city": "Rome"}'}


def _step(ids: list[int], **facts) -> dict:
    tokens = {"prompt_ids": [1], "completion_ids": ids, "completion_logprobs": [-0.5] * len(ids)}
    return {"tokens": tokens, "reward": None, **facts}


@pytest.mark.parametrize(
    "call",
    [
        TOOL_CALL,
        json.dumps(TOOL_CALL),
        {"id": "c1", "function": {k: TOOL_CALL[k] for k in ("name", "arguments")}},
    ],
)
def test_verifiers_results_with_sampled_ids(tmp_path, call):
    record = {
        "example_id": 3,
        "prompt": [{"role": "system", "content": "Be brief."}, _asks("How is Rome?")],
        "completion": [
            {"role": "assistant", "content": "", "tool_calls": [call], "thinking_blocks": [{}]},
            {"role": "tool", "tool_call_id": "c1", "content": "Sunny."},
            {"role": "assistant", "content": "Rome is", "reasoning_content": "Hm."},
        ],
        "answer": "sunny",
        "reward": 0.5,
        "metrics": {"exact": 0.5},
        "exact": 0.5,
        "tool_defs": [{"name": "weather", "description": "What it is like.", "parameters": PARAMETERS}],
        "trajectory": [_step([5, 6]), _step([7], is_truncated=True)],
        "is_truncated": True,
        "timing": {},
    }
    first, second = _read(tmp_path, record, {**record, "reward": 1.0, "trajectory": []})
    ids = {"tokens": (5, 6), "logprobs": (-0.5, -0.5)}
    assert first.messages == (
        system("Be brief.", context_only=True),
        user("How is Rome?", context_only=True),
        agent("", tool_calls=(CALL,), solved=0, **ids),
        tool("Sunny.", tool_call_id="c1"),
        agent("Rome is", solved=0, truncated=True, tokens=(7,), logprobs=(-0.5,)),
    )
    assert (first.id, second.id, first.tools) == ("3", "3-2", (WEATHER,))
    assert first.meta == {
        "reward": 0.5,
        "rollout": {"answer": "sunny", "metrics": {"exact": 0.5}},
        "foreign": {"exact": 0.5},
    }
    assert second.messages[-1] == agent("Rome is", solved=1, truncated=True)
    assert second.messages[2] == agent("", tool_calls=(CALL,), solved=1)
    assert second.meta["turns"] == {"5": {"reasoning": "Hm."}}
    broken = _read(tmp_path, {**record, "error": {"error": "SandboxError"}})[0]
    assert broken.messages[-1].solved == -1


def _node(parent: int | None, message: dict, ids: list[int] = (), sampled: bool = False) -> dict:
    mask = [False, *[True] * len(ids)]
    found = {"token_ids": [9, *ids], "mask": mask, "logprobs": [-1.0] * len(ids)} if ids else {}
    return {"parent": parent, "message": message, "sampled": sampled, **found}


def test_verifiers_traces_are_the_paths_of_their_graph(tmp_path):
    nodes = [
        _node(None, _asks("How is Rome?")),
        _node(0, {"role": "assistant", "content": "An example."}),
        _node(1, {"role": "assistant", "content": "Sunny."}, [4, 5], True),
        _node(1, {"role": "assistant", "content": "Wet."}, [6], True),
    ]
    trace = {
        "id": "t1",
        "nodes": nodes,
        "calls": [{"node": 2, "model": "ours"}, {"node": 3, "model": "theirs", "finish_reason": "length"}],
        "rewards": {"right": {"score": 1.0, "weight": 2.0}, "style": None},
        "tools": [],
        "ok": True,
        "task": {"type": "T"},
    }
    file = _write(tmp_path / "traces.jsonl", {"id": "e", "task": {}, "traces": [trace]})
    ours = Attribution(agent_models=frozenset({"ours"}))
    collected = formats.collect([file], Reading(attribution=ours))
    first, second = collected.episodes
    shot = said("assistant", "An example.", Author.ENVIRONMENT, context_only=True)
    assert first.messages == (
        user("How is Rome?"),
        shot,
        agent("Sunny.", tokens=(4, 5), logprobs=(-1.0, -1.0), solved=1),
    )
    assert second.messages == (
        user("How is Rome?"),
        shot,
        said("assistant", "Wet.", Author.TEACHER, truncated=True),
    )
    assert (first.id, second.id, first.meta["reward"]) == ("t1-1", "t1-2", 2.0)
    assert "an episode without a trace" in _problem(tmp_path, {"id": "e", "traces": []})
    assert "trace 1: a node's parent stands before it" in _problem(
        tmp_path, {"traces": [{"nodes": [_node(3, _asks("?"))]}]}
    )
    failed = {**trace, "ok": False, "nodes": nodes[:3]}
    assert _read(tmp_path, failed)[0].messages[-1].solved == -1


# Inspect

SAMPLE = {
    "id": "rome",
    "epoch": 1,
    "input": "How is Rome?",
    "target": "sunny",
    "messages": [
        {"id": "1", "role": "system", "content": "Be brief."},
        {"id": "2", "role": "user", "content": "attachment://a1", "source": "input"},
        {
            "id": "3",
            "role": "assistant",
            "source": "generate",
            "model": "m",
            "content": [{"type": "reasoning", "reasoning": "Look it up.", "signature": "s"}],
            "tool_calls": [
                {"id": "c1", "function": "weather", "arguments": {"city": "Rome"}, "type": "function"}
            ],
        },
        {"id": "4", "role": "tool", "function": "weather", "tool_call_id": "c1", "content": "Sunny."},
        {
            "id": "5",
            "role": "assistant",
            "content": [{"type": "text", "text": "Rome is sunny."}],
            "model": "m",
        },
    ],
    "scores": {"match": {"value": "C", "answer": "sunny"}},
    "attachments": {"a1": "How is Rome?"},
    "events": [
        {
            "event": "model",
            "tools": [{"name": "weather", "description": "What it is like.", "parameters": PARAMETERS}],
        }
    ],
    "output": {"model": "m", "choices": []},
}
LOG = {"version": 2, "status": "success", "eval": {"task": "t", "model": "p/m"}, "plan": {}}


def test_inspect_logs_as_text_and_as_archives(tmp_path):
    failed = {**SAMPLE, "epoch": 2, "scores": {"match": {"value": "I"}}}
    broken = {**SAMPLE, "id": 7, "error": {"message": "x"}}
    several = {**SAMPLE, "id": 8, "scores": {"a": {"value": 0.2}, "b": {"value": 1}}}
    samples = [SAMPLE, failed, broken, several]
    (tmp_path / "log.json").write_text(json.dumps({**LOG, "samples": samples}, indent=1))
    with zipfile.ZipFile(tmp_path / "log.eval", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("header.json", json.dumps(LOG))
        for n, sample in enumerate(samples):
            archive.writestr(f"samples/{n}_epoch_1.json", json.dumps(sample))
    whole = formats.read("auto", tmp_path / "log.json", AGENT)
    assert whole[0].messages == (
        *ASKED[:2],
        agent("", tool_calls=(CALL,), solved=1),
        ASKED[3],
        agent("Rome is sunny.", solved=1),
    )
    assert [episode.id for episode in whole] == ["rome", "rome-2", "7", "8"]
    assert [episode.messages[-1].solved for episode in whole] == [1, 0, -1, -1]
    assert whole[0].tools == (WEATHER,)
    assert whole[0].meta["turns"]["3"] == {"model": "m", "reasoning": "Look it up."}
    packed = formats.read("auto", tmp_path / "log.eval", AGENT)
    assert [episode.messages for episode in packed] == [episode.messages for episode in whole]
    reading = Reading(attribution=AGENT, solved="scores.b.value")
    judged = formats.collect([tmp_path / "log.eval"], reading).episodes
    assert [episode.messages[-1].solved for episode in judged] == [-1, -1, -1, 1]


def test_inspect_what_is_missing(tmp_path):
    assert "holds no sample; write the log with its samples" in _problem(tmp_path, {**LOG, "samples": []})
    lost = {**SAMPLE, "attachments": {"other": "x"}}
    assert "sample 1: a text stands in an attachment that is not in the log" in _problem(
        tmp_path, {**LOG, "samples": [lost]}
    )
    (tmp_path / "x.eval").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(BadInput, match="an archive that is damaged"):
        formats.read("auto", tmp_path / "x.eval", AGENT)
    timeout = {"role": "tool", "content": "", "error": {"type": "timeout", "message": "too slow"}}
    (episode,) = _read(
        tmp_path, {**SAMPLE, "messages": [*SAMPLE["messages"][:3], {**timeout, "tool_call_id": "c1"}]}
    )
    assert episode.messages[-1] == tool("too slow", tool_call_id="c1")


# Harbor


def _trial(job: Path, name: str, *, steps: int = 1, **files: str) -> None:
    steps_of = [
        {"step_id": 1, "source": "user", "message": "Go."},
        {"step_id": 2, "source": "agent", "message": "Gone."},
    ]
    for part in ("agent", "verifier"):
        (job / name / part).mkdir(parents=True)
    (job / name / "result.json").write_text(files.pop("result", "{}"))
    if steps:
        trajectory = {
            "schema_version": "ATIF-v1.6",
            "session_id": "same",
            "agent": {"name": "a", "version": "1"},
        }
        (job / name / "agent" / "trajectory.json").write_text(json.dumps({**trajectory, "steps": steps_of}))
    for file, content in files.items():
        (job / name / "verifier" / file.replace("_", ".")).write_text(content)


def test_harbor_jobs_are_trajectories_with_the_reward_of_their_verifier(tmp_path):
    job = tmp_path / "jobs" / "2026"
    _trial(job, "a__1", reward_txt="1\n")
    _trial(job, "b__2", reward_json='{"reward": 0.25, "style": 1}')
    _trial(job, "c__3", result='{"verifier_result": {"rewards": {"reward": 1.0}}}')
    _trial(job, "d__4")
    _trial(job, "e__5", steps=0)
    (job / "config.json").write_text("{}")
    collected = formats.collect([tmp_path / "jobs"], Reading(attribution=AGENT))
    assert not collected.problems
    assert collected.formats == {"harbor": 4}
    assert collected.passed_over == [str(job / "e__5")]
    assert [(episode.id, episode.messages[-1].solved) for episode in collected.episodes] == [
        ("a__1", 1),
        ("b__2", 0),
        ("c__3", 1),
        ("d__4", -1),
    ]
    assert collected.episodes[1].meta["reward"] == 0.25
    half = formats.collect([tmp_path / "jobs"], Reading(attribution=AGENT, solved_at=0.25))
    assert half.episodes[1].messages == (user("Go."), agent("Gone.", solved=1))
    _trial(job, "f__6", reward_json='{"a": 1, "b": 0}')
    (problem,) = formats.collect([job], Reading(attribution=AGENT)).problems
    assert "f__6" in problem.where
    assert "--solved KEY.INNER" in problem.message
    (job / "f__6" / "verifier" / "reward.txt").write_text("many")
    with pytest.raises(BadInput, match=r"reward\.txt: holds no number"):
        harbor.trials(job)
