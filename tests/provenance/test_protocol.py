"""One choice of protocol, targets and weights for every verb."""

from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest

from cicjax.errors import BadInput
from cicjax.provenance import Author, Message, ToolCall, encode, protocol, render, weights
from cicjax.provenance.transcript import Episode
from cicjax.views import demo

USER = Message(role="user", content="How many?", author=Author.USER)
WRONG = Message(role="assistant", content="5", author=Author.AGENT, solved=0)
RIGHT = Message(role="assistant", content="4", author=Author.TEACHER)
SYSTEM = Message(role="system", content="Be brief.", author=Author.SYSTEM)
CALL = Message(role="assistant", content="", author=Author.AGENT, tool_calls=(ToolCall(name="count"),))
SCHEMA = {"type": "function", "function": {"name": "count", "parameters": {}}}


def _episode(*messages: Message, **others) -> Episode:
    return Episode(id="e", messages=messages, line=7, **others)


PLAIN = _episode(USER, WRONG, RIGHT)
CHATS = {
    "a system turn": _episode(SYSTEM, USER, RIGHT),
    "a tool call": _episode(USER, CALL),
    "tools": _episode(USER, RIGHT, tools=(SCHEMA,)),
    "two questions": _episode(USER, USER, RIGHT),
}


def _begins_as_chat(transcript, tokenizer) -> bool:
    return int(encode(transcript, tokenizer).tokens[0]) == tokenizer.control("<|im_start|>")


def test_auto_is_plain_where_the_file_says_so_and_where_there_is_no_other(tokenizer):
    class Bare:
        controls: ClassVar = {"<|endoftext|>": 0}

    said = replace(PLAIN, protocol="plain")
    for episode, knows in ((said, tokenizer), (PLAIN, Bare())):
        # pyright: ignore[reportArgumentType]
        transcript = protocol.renderer("auto", ("teacher",), [episode, episode], knows)(episode)
        assert transcript == render.plain(PLAIN.messages, id="e")


@pytest.mark.parametrize("other", CHATS.values(), ids=CHATS.keys())
def test_auto_is_chat_whatever_the_other_rows_hold(tokenizer, other):
    alone, beside = (
        protocol.renderer("auto", ("teacher",), episodes, tokenizer) for episodes in ([PLAIN], [PLAIN, other])
    )
    assert alone(PLAIN) == beside(PLAIN) == render.chat(PLAIN.messages, id="e")
    assert beside(other) == render.chat(other.messages, tools=other.tools, id="e")


def test_what_is_asked_for_comes_before_what_the_file_says(tokenizer):
    said = replace(PLAIN, protocol="plain")
    assert protocol.decide("auto", [said], tokenizer) == "plain"
    assert protocol.decide("chatml", [said], tokenizer) == "chatml"
    assert protocol.decide("auto", [PLAIN], tokenizer, adapter="plain") == "plain"
    assert protocol.decide("chatml", [said], tokenizer, adapter="chatml") == "chatml"
    assert protocol.decide("auto", [], tokenizer, adapter="plain") == "plain"


@pytest.mark.parametrize(
    ("format", "episodes", "adapter", "said"),
    [
        ("plain", [PLAIN], "chatml", "trained in the protocol chatml; leave --format plain out"),
        ("auto", [replace(PLAIN, protocol="plain")], "chatml", r"^log: says that its protocol is plain, and"),
        (
            "auto",
            [PLAIN, replace(PLAIN, protocol="plain", line=8)],
            None,
            "^log:8: says plain .* 7 says none",
        ),
    ],
)
def test_two_protocols_are_refused(tokenizer, format, episodes, adapter, said):
    with pytest.raises(BadInput, match=said):
        protocol.decide(format, episodes, tokenizer, adapter=adapter, path="log")


@pytest.mark.parametrize("other", CHATS.values(), ids=CHATS.keys())
def test_plain_refuses_what_it_cannot_say(tokenizer, other):
    with pytest.raises(BadInput, match=r"plain protocol|followed by"):
        protocol.renderer("plain", ("teacher",), [other], tokenizer)(other)


def test_a_format_asked_for_is_the_one_given(tokenizer):
    assert _begins_as_chat(protocol.renderer("chatml", ("teacher",), [PLAIN], tokenizer)(PLAIN), tokenizer)
    with pytest.raises(BadInput, match="unknown format 'llama'; formats are auto, plain, chatml, qwen3"):
        protocol.renderer("llama", ("teacher",), [PLAIN], tokenizer)


def test_an_open_turn_ends_where_the_answer_begins(tokenizer):
    asked = _episode(USER)
    for name in ("plain", "chatml"):
        prompt = encode(
            protocol.renderer(name, ("teacher",), [asked], tokenizer, open_turn=True)(asked), tokenizer
        )
        row = encode(
            protocol.renderer(name, ("teacher",), [asked], tokenizer)(_episode(USER, RIGHT)), tokenizer
        )
        assert row.tokens[: len(prompt.tokens)].tolist() == prompt.tokens.tolist()


def test_targets_by_name():
    assert protocol.target_authors(["teacher"]) == {Author.TEACHER}
    assert protocol.target_authors(["world"]) == set(Author) - {Author.AGENT, Author.SYSTEM}
    assert protocol.target_authors(["teacher", "user"]) == {Author.TEACHER, Author.USER}
    with pytest.raises(
        BadInput, match="unknown author 'everyone' among the targets; choose from world, agent"
    ):
        protocol.target_authors(["everyone"])


@pytest.mark.parametrize("name", ["plain", "chatml"])
def test_targets_reach_the_mask(tokenizer, name):
    def supervised(*targets: str) -> set[int]:
        encoded = encode(protocol.renderer(name, targets, [PLAIN], tokenizer)(PLAIN), tokenizer)
        return set(encoded.author[protocol.weighting("interventional")(encoded) > 0].tolist())

    assert supervised("teacher") == {Author.TEACHER}
    assert supervised("user") == {Author.USER}
    assert supervised("world") == {Author.TEACHER, Author.USER, Author.ENVIRONMENT}
    assert supervised("agent") == set()


def test_weights_of_the_objectives(tokenizer):
    encoded = encode(render.plain(demo.EPISODES[1].messages), tokenizer)
    for objective in (weights.interventional, weights.observational):
        assert (
            protocol.weighting(objective.__name__)(encoded) == objective(encoded.gamma, encoded.is_target)
        ).all()
    found = protocol.weighting("stream", wrong=0.25, correct=0.5)(encoded)
    assert set(found[encoded.author == Author.AGENT].tolist()) == {0.25}
    assert found.dtype == np.float32


@pytest.mark.parametrize("objective", ["interventional", "observational", "stream"])
def test_the_first_position_weighs_nothing(tokenizer, objective):
    encoded = encode(render.plain([USER, RIGHT], targets=frozenset(Author)), tokenizer)
    found = protocol.weighting(objective)(encoded)
    assert encoded.is_target[0]
    assert found[0] == 0
    assert found[1:].all()


def test_echoes_weigh_nothing_unless_kept(tokenizer):
    said = "the capital of the land is not what you think it is"
    messages = [
        USER,
        Message(role="assistant", content=said, author=Author.AGENT),
        Message(role="user", content=said, author=Author.USER),
    ]
    encoded = encode(
        render.chat([*messages, RIGHT], targets=frozenset({Author.USER, Author.TEACHER})), tokenizer
    )
    kept = protocol.weighting("interventional", keep_echoes=True)(encoded)
    left = protocol.weighting("interventional")(encoded)
    assert tokenizer.decode(encoded.tokens[kept > left]) == said + "<|im_end|>"
    assert (left <= kept).all()


def test_a_refusal_names_the_line(tokenizer):
    made = protocol.renderer("plain", ("teacher",), [PLAIN], tokenizer)
    with pytest.raises(BadInput, match=r"^log\.jsonl:7: message 1: the plain protocol"):
        list(protocol.encode_all([CHATS["a system turn"]], tokenizer, render=made, path="log.jsonl"))
    assert [
        episode.line for episode, _ in protocol.encode_all([PLAIN], tokenizer, render=made, path="log.jsonl")
    ] == [7]


def test_thoughts_make_it_the_protocol_that_has_them(tokenizer):
    class Thinking:
        controls = dict.fromkeys(
            (
                "<|im_start|>",
                "<|im_end|>",
                "<tool_call>",
                "</tool_call>",
                "<tool_response>",
                "</tool_response>",
                "<think>",
                "</think>",
            )
        )

    episode = CHATS["a system turn"]
    # pyright: ignore[reportArgumentType]
    made = protocol.renderer("auto", ("teacher",), [episode], Thinking())
    assert made(episode) == render.chat(episode.messages, protocol=render.QWEN3, id="e")
