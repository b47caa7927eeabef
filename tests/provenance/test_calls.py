"""A sampled turn's tool calls are found by its control tokens, and in no text."""

import json

import pytest

from cicjax.provenance import Author, Message, ToolCall, encode, render
from cicjax.provenance.calls import calls_of

USER = Message(role="user", content="How many?", author=Author.USER)


def sampled(tokenizer, *pieces):
    """Ids of texts, and of control tokens by their names in tuples."""
    return [
        i
        for piece in pieces
        for i in ([tokenizer.control(piece[0])] if isinstance(piece, tuple) else tokenizer.encode(piece))
    ]


OPEN, CLOSE, END = ("<tool_call>",), ("</tool_call>",), ("<|im_end|>",)
CALL = '\n{"name": "count", "arguments": {"of": "nuts"}}\n'


def test_what_a_turn_calls_is_what_was_rendered(tokenizer):
    calls = (ToolCall(name="count", arguments='{"of": "nuts"}'), ToolCall(name="stop", arguments="{}"))
    turn = Message(role="assistant", content="I look.", author=Author.AGENT, tool_calls=calls)
    encoded = encode(render.chat([USER, turn]), tokenizer)
    said = encoded.tokens[encoded.author == Author.AGENT].tolist()
    found = calls_of(said, tokenizer)
    assert [(call.name, json.loads(call.arguments)) for call in found] == [
        ("count", {"of": "nuts"}),
        ("stop", {}),
    ]


@pytest.mark.parametrize(
    "pieces",
    [
        (f"<tool_call>{CALL}</tool_call>", END),  # letters
        (OPEN, CALL),  # never ends
        (CALL, CLOSE),
        (OPEN, '{"name": "count"}', CLOSE),
        (OPEN, '{"name": "count", "arguments": [1]}', CLOSE),
        (OPEN, "count(nuts)", CLOSE),
    ],
)
def test_what_is_no_call_stays_text(tokenizer, pieces):
    assert calls_of(sampled(tokenizer, *pieces), tokenizer) == ()


def test_a_malformed_call_hides_no_other(tokenizer):
    ids = sampled(tokenizer, OPEN, "{", CLOSE, OPEN, "lost", OPEN, CALL, CLOSE, END)
    assert [call.name for call in calls_of(ids, tokenizer)] == ["count"]
    text = tokenizer.decode(ids, skip_controls=True)
    assert text == f"<tool_call>{{</tool_call><tool_call>lost<tool_call>{CALL}</tool_call>"
