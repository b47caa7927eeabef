"""Native files: what is written comes back, and what is not the format is refused with file:line."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cicjax.errors import BadInput
from cicjax.logs import native
from cicjax.provenance import Author, Message, ToolCall, protocol, render

MESSAGE = {"role": "assistant", "author": "agent", "content": "4"}
EPISODE = {"id": "1", "messages": [MESSAGE]}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(), inner, max_size=2),
    max_leaves=4,
)
json_objects = st.dictionaries(st.text(), json_values, max_size=2)
# The text of an object in any spelling: what an agent wrote is not ours to tidy.
argument_texts = st.builds(
    lambda value, indent, ascii_only: json.dumps(value, indent=indent, ensure_ascii=ascii_only),
    json_objects,
    st.none() | st.integers(0, 2),
    st.booleans(),
)
calls = st.builds(ToolCall, name=st.text(), arguments=argument_texts, id=st.none() | st.text())


@st.composite
def messages(draw: st.DrawFn, ids: list[str]) -> Message:
    tokens = draw(st.none() | st.lists(st.integers(0, 2**31 - 1), max_size=4).map(tuple))
    floats = st.floats(max_value=0, allow_nan=False, allow_infinity=False)
    logprobs = (
        None
        if tokens is None
        else draw(st.none() | st.lists(floats, min_size=len(tokens), max_size=len(tokens)).map(tuple))
    )
    role = draw(st.sampled_from(native.ROLES))
    return Message(
        role=role,
        content=draw(st.text()),
        author=draw(st.sampled_from(Author)) if tokens is None else Author.AGENT,
        tokens=tokens,
        logprobs=logprobs,
        solved=draw(st.sampled_from([-1, 0, 1])),
        truncated=draw(st.booleans()),
        context_only=draw(st.booleans()),
        tool_calls=draw(st.lists(calls, max_size=2).map(tuple)) if role == "assistant" else (),
        tool_call_id=draw(st.none() | st.sampled_from(ids)) if role == "tool" and ids else None,
    )


@st.composite
def conversations(draw: st.DrawFn) -> tuple[Message, ...]:
    """Messages in which every result names a call made before it."""
    found: list[Message] = []
    for _ in range(draw(st.integers(1, 3))):
        found.append(
            draw(
                messages([call.id for message in found for call in message.tool_calls if call.id is not None])
            )
        )
    return tuple(found)


episodes = st.builds(
    native.Episode,
    id=st.text(),
    messages=conversations(),
    source=st.text(),
    meta=st.none() | json_objects,
    tools=st.lists(json_objects, max_size=2).map(tuple),
)


@given(episode=episodes)
def test_an_episode_comes_back_as_it_was(episode):
    line = native.format_episode(episode)
    assert "\n" not in line
    assert native.parse_episode(line.encode(), where="x:1") == episode
    record = native.record_of(episode)
    assert record == json.loads(line) and native.episode_of(record, where="x:1") == episode


def test_a_file_comes_back_with_its_line_numbers(tmp_path):
    written = [
        native.Episode(
            id=str(n), messages=(Message(role="user", content="a\u2028b\n\x85", author=Author.USER),)
        )
        for n in range(3)
    ]
    native.write_native(tmp_path / "a.jsonl", written)
    read = native.read_native(tmp_path / "a.jsonl")
    assert [(e.id, e.messages) for e in read] == [(e.id, e.messages) for e in written]
    assert [e.line for e in read] == [1, 2, 3]
    assert [file.name for file in tmp_path.iterdir()] == ["a.jsonl"]


def test_byte_order_mark_crlf_and_blank_lines_are_accepted(tmp_path):
    line = json.dumps(EPISODE).encode()
    (tmp_path / "a.jsonl").write_bytes(b"\xef\xbb\xbf" + line + b"\r\n\r\n" + line)
    assert [e.line for e in native.read_native(tmp_path / "a.jsonl")] == [1, 3]


def _with(**changes) -> str:
    return json.dumps({"id": "1", "messages": [{**MESSAGE, **changes}]})


def _without(key: str) -> str:
    return json.dumps({"id": "1", "messages": [{k: v for k, v in MESSAGE.items() if k != key}]})


def _called(arguments: object) -> str:
    return _with(tool_calls=[{"name": "f", "arguments": arguments}])


REFUSED = {
    "not JSON": ('{"id": "1"', "not JSON"),
    "two objects": ("{} {}", "not JSON"),
    "a list": ("[]", "a record is a JSON object"),
    "no messages": ('{"id": "1"}', "needs the key 'messages'"),
    "empty messages": ('{"id": "1", "messages": []}', "at least one message"),
    "messages no list": ('{"id": "1", "messages": {}}', "at least one message"),
    "message no object": ('{"id": "1", "messages": ["x"]}', "message 1: a message is a JSON object"),
    "no id": (json.dumps({"messages": [MESSAGE]}), "an episode needs the key 'id'"),
    "id a number": (json.dumps({"id": 1, "messages": [MESSAGE]}), "id is a string, not 1"),
    "unknown key": (json.dumps({**EPISODE, "autor": 1}), "unknown key 'autor'"),
    "duplicate key": ('{"id": "1", "id": "2", "messages": []}', "the key 'id' stands twice"),
    "duplicate author": (
        '{"id": "1", "messages": [{"author": "agent", "author": "teacher"}]}',
        "the key 'author' stands twice",
    ),
    "no author": (_without("author"), "nothing says who wrote which turn; `cicjax convert FILE"),
    "one without an author": (
        json.dumps({"id": "1", "messages": [MESSAGE, {"role": "user", "content": "x"}]}),
        "message 2: has no author; say who wrote it: ",
    ),
    "null author": (_with(author=None), "author is a string, not None"),
    "unknown author": (_with(author="Agent"), "unknown author 'Agent'"),
    "unknown role": (_with(role="narrator"), "unknown role 'narrator'"),
    "no content": (_without("content"), "a message needs the key 'content'"),
    "content null": (_with(content=None), "content is a string, not None"),
    "content a list": (_with(content=["x"]), "content is a string"),
    "unknown message key": (_with(truncted=True), "unknown key 'truncted'"),
    "NaN": (
        '{"id": "1", "messages": [{"role": "assistant", "author": "agent", "content": "", "tokens": [1], '
        '"logprobs": [NaN]}]}',
        "NaN is not",
    ),
    "infinite by size": (
        _with(tokens=[1]).replace("[1]", '[1], "logprobs": [-1e999]'),
        "not a log-probability",
    ),
    "tokens of another's": (_with(tokens=[1], author="user"), "this turn is by user"),
    "tokens text": (_with(tokens="12"), "tokens is a list"),
    "tokens floats": (_with(tokens=[1.0]), "1.0 is not a token id"),
    "tokens booleans": (_with(tokens=[True]), "True is not a token id"),
    "tokens negative": (_with(tokens=[-1]), "-1 is not a token id"),
    "tokens huge": (_with(tokens=[0]).replace("[0]", "[" + "9" * 4000 + "]"), "is not a token id"),
    "ten thousand digits": (_with(tokens=[0]).replace("[0]", "[" + "9" * 10_000 + "]"), "too many digits"),
    "logprobs alone": (_with(logprobs=[0.0]), "1 logprobs for no tokens"),
    "logprobs no list": (_with(tokens=[1], logprobs=0.0), "logprobs is a list"),
    "logprobs text": (_with(tokens=[1], logprobs=["0"]), "'0' is not a log-probability"),
    "logprobs too large": (
        _with(tokens=[1]).replace("[1]", '[1], "logprobs": [-1' + "0" * 400 + "]"),
        "not a log-probability",
    ),
    "logprobs null": (_with(tokens=[1], logprobs=[None]), "None is not a log-probability"),
    "solved a word": (_with(solved="yes"), "a verdict is 1"),
    "solved a half": (_with(solved=0.5), "a verdict is 1"),
    "solved a list": (_with(solved=[1]), "a verdict is 1"),
    "truncated a number": (_with(truncated=1), "truncated is true or false"),
    "lone surrogate": (_with(content="\ud800"), "lone surrogate"),
    "surrogate in id": (json.dumps({**EPISODE, "id": "\udfff"}), "lone surrogate"),
    "surrogate in meta": (json.dumps({**EPISODE, "meta": {"a": "\udfff"}}), "meta holds"),
    "infinity in meta": (json.dumps({**EPISODE, "meta": {"a": 0}}).replace("0}", "1e999}"), "meta holds"),
    "meta a list": (json.dumps({**EPISODE, "meta": []}), "meta is a JSON object"),
    "nesting": ("[" * 100_000, "nested too deeply"),
    "nested meta": ('{"id": "1", "meta": ' + '{"a":' * 100_000, "nested too deeply"),
    "arguments a list": (_called([]), "arguments of a tool call are a JSON object or its text, not []"),
    "arguments surrogate": (
        _called({"a": "\udfff"}),
        "arguments of a tool call holds what cannot be written back",
    ),
    "arguments surrogate in text": (_called("\udfff"), "lone surrogate"),
    "call without arguments": (_with(tool_calls=[{"name": "f"}]), "a tool call needs the key 'arguments'"),
    "call without name": (_with(tool_calls=[{"arguments": {}}]), "a tool call needs the key 'name'"),
    "call with a stray key": (
        _with(tool_calls=[{"name": "f", "arguments": {}, "type": "function"}]),
        "unknown key 'type'",
    ),
    "call no object": (_with(tool_calls=["f"]), "a tool call is a JSON object"),
    "call id a number": (
        _with(tool_calls=[{"name": "f", "arguments": {}, "id": 1}]),
        "id of a tool call is a string, not 1",
    ),
    "calls no list": (_with(tool_calls={}), "tool_calls is a list"),
    "calls of a user": (
        _with(role="user", author="user", tool_calls=[{"name": "f", "arguments": {}}]),
        "belong to the role assistant",
    ),
    "orphan result": (
        _with(role="tool", author="tool", tool_call_id="1"),
        "the result of tool call '1', which nobody before it made",
    ),
    "result of an assistant": (_with(tool_call_id="1"), "tool_call_id belongs to the role tool"),
    "result id a number": (_with(role="tool", author="tool", tool_call_id=1), "tool_call_id is a string"),
    "context only a word": (_with(context_only="yes"), "context_only is true or false"),
    "tools an object": (json.dumps({**EPISODE, "tools": {}}), "tools is a list"),
    "tools of text": (json.dumps({**EPISODE, "tools": ["f"]}), "a tool is a JSON object"),
    "infinity in tools": (
        json.dumps({**EPISODE, "tools": [{"a": 0}]}).replace("0}", "1e999}"),
        "tools holds what cannot be written",
    ),
    "unknown protocol": (json.dumps({**EPISODE, "protocol": "xml"}), "unknown protocol 'xml'"),
    "source a number": (json.dumps({**EPISODE, "source": 1}), "source is a string, not 1"),
    "role a number": (_with(role=1), "role is a string, not 1"),
    "call name a number": (
        _with(tool_calls=[{"name": 1, "arguments": {}}]),
        "name of a tool call is a string, not 1",
    ),
    "arguments half a pair": (_called("\udfff"), "arguments of a tool call holds a lone surrogate"),
    "ten megabytes": ("[" + "9," * 5_000_000, "not JSON"),
    "ten megabytes of a role": (_with(role="x" * 10_000_000), "unknown role 'xxx"),
    "mark on a later line": ("\ufeff" + json.dumps(EPISODE), "not JSON"),
    "raw control": ('{"id": "\x00"}', "not JSON"),
}


@pytest.mark.parametrize(("line", "complaint"), REFUSED.values(), ids=REFUSED.keys())
def test_what_is_not_the_format_is_one_line_with_its_place(tmp_path, line, complaint):
    file = tmp_path / "log.jsonl"
    file.write_text(json.dumps(EPISODE) + "\n" + line + "\n")
    with pytest.raises(BadInput) as caught:
        native.read_native(file)
    message = str(caught.value)
    assert message.startswith(f"{file}:2: ")
    assert complaint in message
    assert "\n" not in message
    assert len(message) < 300 + len(str(file))


@pytest.mark.parametrize("content", [b"\xff\xfe{\x00}\x00", b"\x80"])
def test_other_encodings_are_refused(tmp_path, content):
    (tmp_path / "log.jsonl").write_bytes(content)
    with pytest.raises(BadInput, match=r"log\.jsonl:1: not UTF-8"):
        native.read_native(tmp_path / "log.jsonl")


def test_a_truncated_last_line_is_refused(tmp_path):
    (tmp_path / "log.jsonl").write_text((json.dumps(EPISODE) + "\n") * 2 + json.dumps(EPISODE)[:-5])
    with pytest.raises(BadInput, match=r"log\.jsonl:3: not JSON"):
        native.read_native(tmp_path / "log.jsonl")


@pytest.mark.parametrize("content", [b"", b"\n\r\n", b"\xef\xbb\xbf"])
def test_an_empty_file_is_refused(tmp_path, content):
    (tmp_path / "log.jsonl").write_bytes(content)
    with pytest.raises(BadInput, match="holds no episode"):
        native.read_native(tmp_path / "log.jsonl")


def test_a_missing_file_or_a_folder_is_refused(tmp_path):
    with pytest.raises(BadInput, match="No such file"):
        native.read_native(tmp_path / "missing")
    with pytest.raises(BadInput, match="holds no log"):
        native.read_native(tmp_path)


def test_optional_nulls_are_absent_and_verdicts_may_be_booleans():
    line = _with(tokens=None, logprobs=None, solved=True, truncated=None)
    (message,) = native.parse_episode(line, where="x:1").messages
    assert message == Message(role="assistant", content="4", author=Author.AGENT, solved=1)
    assert type(message.solved) is int


EVERYTHING = {
    "id": "1",
    "source": "stem",
    "messages": [
        {"role": "system", "author": "system", "content": "Be brief."},
        {"role": "user", "author": "user", "content": "2+2?"},
        {
            "role": "assistant",
            "author": "agent",
            "content": "5",
            "tokens": [20],
            "logprobs": [-0.5],
            "solved": 0,
            "truncated": True,
            "context_only": True,
            "tool_calls": [{"name": "add", "arguments": "{}", "id": "c"}],
        },
        {"role": "tool", "author": "tool", "content": "4", "tool_call_id": "c"},
        {"role": "verifier", "author": "verifier", "content": "wrong"},
        {"role": "assistant", "author": "teacher", "content": "4", "solved": 1},
    ],
    "meta": {"a": [1]},
    "tools": [{"name": "add"}],
    "protocol": "plain",
}


def test_every_key_by_its_name():
    episode = native.parse_episode(json.dumps(EVERYTHING), where="x:1", line=7)
    assert native.record_of(episode) == EVERYTHING and episode.line == 7
    assert [message.author.label for message in episode.messages] == [
        message["author"] for message in EVERYTHING["messages"]
    ]
    assert (episode.source, episode.meta, episode.protocol) == ("stem", {"a": [1]}, "plain")


def test_a_line_holds_what_says_something_and_no_escapes():
    least = native.parse_episode(json.dumps(EPISODE), where="x:1")
    assert native.record_of(least) == {"id": "1", "source": "", "messages": [MESSAGE]}
    spoken = native.parse_episode(_with(content="\u20ac"), where="x:1")
    assert '"\u20ac"' in native.format_episode(spoken)
    with pytest.raises(ValueError, match="not JSON compliant"):
        native.format_episode(native.Episode(id="1", messages=least.messages, meta={"a": math.nan}))
    with pytest.raises(BadInput, match="x:1: an episode is a JSON object"):
        native.parse_episode("[]", where="x:1")


def test_the_file_is_named_where_there_are_several(tmp_path):
    for name in ("a.jsonl", "b.jsonl"):
        (tmp_path / name).write_text(json.dumps(EPISODE))
    both = native.read_native(tmp_path / "a.jsonl", tmp_path / "b.jsonl")
    assert [episode.file for episode in both] == [str(tmp_path / name) for name in ("a.jsonl", "b.jsonl")]
    assert [episode.file for episode in native.read_native(tmp_path / "a.jsonl")] == [""]


@pytest.mark.parametrize(
    "key",
    "conversations prompt completion steps input output choices traces nodes samples payload "
    "sessionId".split(),
)
def test_a_log_of_another_format_is_told_the_way_out(key):
    assert native.is_foreign({key: []}) and not native.is_foreign({"messages": {}, key: []})
    with pytest.raises(BadInput, match="nothing says who wrote which turn; `cicjax convert"):
        native.episode_of_record({key: []}, 1)


def test_what_is_the_text_of_an_object():
    assert native.is_object('{"a": 1}') is True
    for text in ("[1]", "{", "1", '{"a": "\\ud800"}', '{"a": NaN}'):
        assert native.is_object(text) is False


@given(
    line=st.text()
    | st.recursive(st.none() | st.booleans() | st.floats() | st.text(), st.lists).map(json.dumps)
)
def test_any_text_is_an_episode_or_bad_input(line):
    try:
        native.parse_episode(line, where="x:1")
    except BadInput as error:
        assert str(error).startswith("x:1: ")


def test_a_failed_write_leaves_the_old_file(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text("old\n")

    def lines():
        yield "new"
        raise RuntimeError

    with pytest.raises(RuntimeError):
        native.write_lines(file, lines())
    assert file.read_text() == "old\n"
    assert list(tmp_path.iterdir()) == [file]


def test_writing_where_one_cannot_is_refused(tmp_path):
    for path in (tmp_path, tmp_path / "missing" / "a", tmp_path / "a" / "b"):
        (tmp_path / "a").touch()
        with pytest.raises(BadInput, match=r"cannot be written|no ordinary file"):
            native.write_lines(path, ["x"])


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real" / "file")
    native.write_lines(tmp_path / "link", ["x"])
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "file").read_text() == "x\n"


def test_what_cannot_be_encoded_is_named_by_file_and_line(tokenizer):
    bad = native.parse_episode(_with(role="user", author="user"), where="x:4", line=4)
    answer = Message(role="assistant", content="", author=Author.AGENT, tokens=(10**6,))
    bad = native.Episode(id="9", messages=(*bad.messages, answer), line=4)
    with pytest.raises(
        BadInput, match=r"log\.jsonl:4: transcript '9', segment 2: token id 1000000 is outside"
    ):
        list(
            protocol.encode_all(
                [bad],
                tokenizer,
                render=lambda each: render.plain(each.messages, id=each.id),
                path="log.jsonl",
            )
        )


def test_logprobs_keep_every_bit(tmp_path):
    values = (-0.1, -1e-300, -math.pi)
    message = Message(role="assistant", content="", author=Author.AGENT, tokens=(1, 2, 3), logprobs=values)
    native.write_native(tmp_path / "a", [native.Episode(id="1", messages=(message,))])
    assert native.read_native(tmp_path / "a")[0].messages[0].logprobs == values


def test_a_call_and_its_result_come_back_as_they_were_written():
    call = ToolCall(name="add", arguments='{"a":1,  "b":2.50}', id="c1")
    written = native.Episode(
        id="1",
        messages=(
            Message(role="assistant", content="", author=Author.AGENT, tool_calls=(call,), context_only=True),
            Message(role="tool", content="3.5", author=Author.TOOL, tool_call_id="c1"),
        ),
        tools=({"type": "function", "function": {"name": "add"}},),
    )
    assert json.loads(native.format_episode(written)) == {
        "id": "1",
        "source": "",
        "messages": [
            {
                "role": "assistant",
                "author": "agent",
                "content": "",
                "context_only": True,
                "tool_calls": [{"name": "add", "arguments": '{"a":1,  "b":2.50}', "id": "c1"}],
            },
            {"role": "tool", "author": "tool", "content": "3.5", "tool_call_id": "c1"},
        ],
        "tools": [{"type": "function", "function": {"name": "add"}}],
    }
    assert native.parse_episode(native.format_episode(written), where="x:1") == written


def test_arguments_may_be_an_object_and_a_call_may_have_no_id():
    (message,) = native.parse_episode(_called({"a": [1, "\u20ac"], "b": None}), where="x:1").messages
    assert message.tool_calls == (ToolCall(name="f", arguments='{"a": [1, "\u20ac"], "b": null}'),)
    (record,) = native.record_of(native.Episode(id="1", messages=(message,)))["messages"]
    assert record["tool_calls"] == [{"name": "f", "arguments": '{"a": [1, "\u20ac"], "b": null}'}]


def test_ten_megabytes_of_text_are_text(tmp_path):
    (tmp_path / "log.jsonl").write_text(_with(content="x" * 10_000_000))
    (episode,) = native.read_native(tmp_path / "log.jsonl")
    assert len(episode.messages[0].content) == 10_000_000


def _corrected(tmp_path, *found, field="edited"):
    (tmp_path / "log.jsonl").write_text(json.dumps({"id": "1", "messages": list(found)}))
    (episode,) = native.read_native(tmp_path / "log.jsonl", corrections=field)
    return episode.messages


def test_an_edited_turn_is_the_agents_and_its_edit_a_teachers(tmp_path):
    question = {"role": "user", "author": "user", "content": "2+2?"}
    sampled = {**MESSAGE, "content": "5", "tokens": [20, 1], "solved": 0, "edited": "4"}
    assert _corrected(
        tmp_path, question, sampled, {**MESSAGE, "edited": None}, {**MESSAGE, "edited": "4"}
    ) == (
        Message(role="user", content="2+2?", author=Author.USER),
        Message(role="assistant", content="5", author=Author.AGENT, tokens=(20, 1), solved=0),
        Message(role="assistant", content="4", author=Author.TEACHER),
        Message(role="assistant", content="4", author=Author.AGENT),
        Message(role="assistant", content="4", author=Author.AGENT),
    )


def test_the_edit_of_a_turn_that_is_context_is_context(tmp_path):
    original, edit = _corrected(tmp_path, {**MESSAGE, "context_only": True, "edited": "5"})
    assert (original.context_only, edit.context_only) == (True, True)


@pytest.mark.parametrize(
    ("changes", "field", "complaint"),
    [
        ({"edited": 1}, "edited", "edited is a string, not 1"),
        ({"edited": "\ud800"}, "edited", "lone surrogate"),
        ({"edited": "5", "author": "teacher"}, "edited", "this one is by teacher as assistant"),
        ({"edited": "5", "role": "user", "author": "user"}, "edited", "this one is by user as user"),
        (
            {"edited": "5", "tool_calls": [{"name": "f", "arguments": {}}]},
            "edited",
            "which of the two texts the calls belong to",
        ),
        ({"edited": "5"}, "rewritten", "unknown key 'edited'"),
        ({"edited": "5"}, None, "unknown key 'edited'"),
        ({}, "content", "that is a key of the format itself"),
    ],
)
def test_what_is_no_correction_is_refused(tmp_path, changes, field, complaint):
    with pytest.raises(BadInput, match=complaint):
        _corrected(tmp_path, {**MESSAGE, **changes}, field=field)
