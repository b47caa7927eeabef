"""Prompts need neither authors nor ids, and OpenAI's calls are read as they stand."""

import pytest

from cicjax.errors import BadInput
from cicjax.logs import prompts
from cicjax.provenance import Author, ToolCall

CALL = {"id": "c", "type": "function", "function": {"name": "count", "arguments": '{"of": "nuts"}'}}


def test_a_request_as_openai_has_it():
    tools = [{"type": "function", "function": {"name": "count", "parameters": {}}}]
    record = {
        "model": "any",
        "temperature": 0.2,
        "tools": tools,
        "messages": [
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": "How many?"},
            {"role": "assistant", "content": None, "tool_calls": [CALL], "annotations": [], "audio": None},
            {"role": "tool", "tool_call_id": "c", "content": "4"},
        ],
    }
    episode = prompts.episode_of(record, where="here", line=3)
    assert [(m.role, m.author, m.content) for m in episode.messages] == [
        ("system", Author.SYSTEM, "Be brief."),
        ("user", Author.USER, "How many?"),
        ("assistant", Author.AGENT, ""),
        ("tool", Author.TOOL, "4"),
    ]
    assert episode.messages[2].tool_calls == (ToolCall(name="count", arguments='{"of": "nuts"}', id="c"),)
    assert episode.tools == tuple(tools)
    assert (episode.id, episode.line) == ("3", 3)


def test_an_author_that_is_said_stays():
    (message,) = prompts.episode_of(
        {"messages": [{"role": "assistant", "author": "teacher", "content": "4"}]}, where="here"
    ).messages
    assert message.author is Author.TEACHER


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ([], "at least one message"),
        ("hello", "at least one message"),
        (["hello"], "message 1: a message is a JSON object"),
        ([{"role": "user"}], "message 1: a message needs the key 'content'"),
        ([{"role": ["user"], "content": "x"}], "message 1: has no author"),
        ([{"role": "critic", "content": "x"}], "message 1: has no author"),
        ([{"role": "user", "content": "x", "name": "Ann"}], "unknown key 'name'"),
        ([{"role": "assistant", "tool_calls": [{"function": "count"}]}], "a tool call"),
    ],
)
def test_what_is_no_prompt_is_placed(messages, said):
    with pytest.raises(BadInput, match=f"^here: .*{said}"):
        prompts.episode_of({"messages": messages}, where="here")
