"""Each finding: the smallest file that has it, and none in a clean file."""

import json
from pathlib import Path

import pytest

from cicjax.errors import BadInput
from cicjax.logs import audit
from cicjax.logs.audit import Finding
from cicjax.logs.native import format_episode
from cicjax.provenance import Author, Message, ToolCall, encode, protocol, render
from cicjax.provenance.transcript import Episode
from cicjax.views import demo

USER = Message(role="user", content="How many?", author=Author.USER)
WRONG = Message(role="assistant", content="5", author=Author.AGENT, solved=0)
RIGHT = Message(role="assistant", content="4", author=Author.TEACHER)
SYSTEM = Message(role="system", content="You may count.", author=Author.SYSTEM)
CALL = Message(
    role="assistant", content="", author=Author.AGENT, tool_calls=(ToolCall(name="count", id="c"),)
)
RESULT = Message(role="tool", content="4", author=Author.TOOL, tool_call_id="c")
CLEAN = (USER, WRONG, RIGHT)
CLEAN_TOOLS = (SYSTEM, USER, CALL, RESULT, WRONG, USER, RIGHT)
STANZA = "the quick brown fox jumps over the lazy dog and then sleeps in the warm sun until the evening comes"


def _said(role: str, content: str, author: Author, **facts) -> Message:
    return Message(role=role, content=content, author=author, **facts)


def _file(tmp_path: Path, *conversations, name: str = "log.jsonl") -> Path:
    episodes = [
        Episode(id=str(n), messages=tuple(messages)) for n, messages in enumerate(conversations, start=1)
    ]
    path = tmp_path / name
    path.write_text("".join(format_episode(episode) + "\n" for episode in episodes), encoding="utf-8")
    return path


def _findings(
    path: Path,
    tokenizer,
    *,
    format: str = "auto",
    targets=("teacher",),
    objective="interventional",
    **options,
) -> list[Finding]:
    """As `cicjax mask --audit` does it."""
    episodes, findings = audit.read(path)
    make = protocol.renderer(format, targets, episodes, tokenizer)
    rows, unrendered = audit.encode_or_find(episodes, path, lambda episode: encode(make(episode), tokenizer))
    weigh = protocol.weighting(objective, keep_echoes=True)
    return [*findings, *unrendered, *audit.audit(rows, tokenizer, path=path, weigh=weigh, **options)]


def _codes(findings: list[Finding]) -> list[str]:
    return [finding.code for finding in findings]


def test_a_clean_file_has_no_findings(tmp_path, tokenizer):
    assert not _findings(_file(tmp_path, CLEAN, CLEAN_TOOLS), tokenizer)
    assert not _findings(_file(tmp_path, CLEAN), tokenizer, max_length=200)
    assert not _findings(_file(tmp_path, CLEAN), tokenizer, objective="observational")
    assert not _findings(_file(tmp_path, *(episode.messages for episode in demo.EPISODES)), tokenizer)


LONG = Message(role="assistant", content="4", author=Author.TEACHER, truncated=True)
SAMPLED = Message(role="assistant", content="ab", author=Author.AGENT, tokens=(64, 65))
MEANT = {
    "nothing-supervised": (USER, WRONG),
    "truncated-target": (USER, LONG),
    "no-input": (_said("user", " ", Author.USER), WRONG, RIGHT),
    "gap": (USER, WRONG, _said("assistant", "6", Author.AGENT), RIGHT),
    "missing-result": (SYSTEM, USER, CALL, WRONG, USER, RIGHT),
    "hidden-tools": (USER, CALL, RESULT, RIGHT),
    "elided": (_said("user", "Here is the log: [output truncated] Why?", Author.USER), WRONG, RIGHT),
    "image": (_said("user", "What is in [image]?", Author.USER), WRONG, RIGHT),
}


@pytest.mark.parametrize(("code", "messages"), MEANT.items(), ids=MEANT.keys())
def test_each_code_has_its_smallest_file(tmp_path, tokenizer, code, messages):
    path = _file(tmp_path, CLEAN, messages) if code != "nothing-supervised" else _file(tmp_path, messages)
    findings = [finding for finding in _findings(path, tokenizer) if finding.code != "empty-turn"]
    assert _codes(findings) == [code]
    line, place = (0, path) if code == "nothing-supervised" else (2, f"{path}:2")
    assert findings[0].line == line
    assert str(findings[0]).startswith(f"{place}: {findings[0].severity}: {code}: ")
    assert f"    {code} " in str(audit.__doc__)


def test_an_empty_turn(tmp_path, tokenizer):
    for empty in ("", " \n"):
        findings = _findings(
            _file(tmp_path, (USER, WRONG, _said("assistant", empty, Author.TEACHER))), tokenizer
        )
        assert _codes(findings) == ["empty-turn"]
        assert "message 3, of role assistant" in findings[0].message
    end = _said("assistant", "", Author.AGENT, tokens=(tokenizer.end_of_text,))
    assert _codes(_findings(_file(tmp_path, (USER, end, RIGHT)), tokenizer)) == ["empty-turn"]
    silent_tool = (SYSTEM, USER, CALL, _said("tool", "", Author.TOOL, tool_call_id="c"), RIGHT)
    assert not _findings(_file(tmp_path, silent_tool), tokenizer)


def test_everything_supervised(tmp_path, tokenizer):
    path = _file(tmp_path, (USER, RIGHT))
    assert _codes(_findings(path, tokenizer, targets=("world",), format="plain")) == ["all-supervised"]
    assert not _findings(_file(tmp_path, (USER, WRONG, RIGHT)), tokenizer, targets=("world",), format="plain")


def test_too_long_rows(tmp_path, tokenizer):
    path = _file(tmp_path, CLEAN)
    length = len(encode(render.chat(CLEAN), tokenizer).tokens)
    assert not _findings(path, tokenizer, max_length=length)
    (finding,) = _findings(path, tokenizer, max_length=length - 1)
    assert (finding.code, finding.line) == ("too-long", 1)


@pytest.mark.parametrize("format", ["plain", "chatml"])
def test_an_end_is_asked_of_turns_that_are_trained_on_alone(tmp_path, tokenizer, format):
    cut = (USER, _said("assistant", "5", Author.AGENT, truncated=True), RIGHT)
    path = _file(tmp_path, cut)
    assert not _findings(path, tokenizer, format=format)
    (finding,) = _findings(path, tokenizer, format=format, objective="observational")
    assert finding.code == "truncated-target"
    assert "message 2 was cut" in finding.message
    context = (USER, _said("assistant", "4", Author.TEACHER, truncated=True, context_only=True), RIGHT)
    assert not _findings(_file(tmp_path, context), tokenizer, format=format)


def test_sampled_ids_end_in_a_stop_token(tmp_path, tokenizer):
    for stop in sorted(tokenizer.stop_ids):
        whole = (USER, _said("assistant", "ab", Author.AGENT, tokens=(64, 65, stop)), RIGHT)
        assert not _findings(_file(tmp_path, whole), tokenizer, objective="observational")
    (finding,) = _findings(_file(tmp_path, (USER, SAMPLED, RIGHT)), tokenizer, objective="observational")
    assert (finding.code, finding.line) == ("no-end", 1) and "    no-end " in str(audit.__doc__)
    assert "the sampled ids of message 2" in finding.message


OTHER_IDS = {
    "others": ("I am harmless", (37, 86, 74, 77), ()),
    "more": ("ab", (64, 65, 66), ()),
    "none": ("ab", (), ()),
    "a call that nobody names": ("ab", (64, 65, "<tool_call>", 90, 92, "</tool_call>"), ()),
    "a turn of another's": ("ab", (64, 65, "<|im_start|>", 64), ()),
    "a call that is not there": ("ab", (64, 65), (ToolCall(name="count"),)),
}


@pytest.mark.parametrize(("content", "ids", "calls"), OTHER_IDS.values(), ids=OTHER_IDS.keys())
def test_ids_that_say_something_else_than_their_text_are_found(tmp_path, tokenizer, content, ids, calls):
    tokens = tuple(tokenizer.control(i) if isinstance(i, str) else i for i in ids)
    turn = _said(
        "assistant", content, Author.AGENT, tokens=(*tokens, tokenizer.end_of_text), tool_calls=calls
    )
    findings = _findings(_file(tmp_path, (USER, turn, RIGHT)), tokenizer)
    (finding,) = [each for each in findings if each.code not in ("gap", "missing-result", "hidden-tools")]
    assert (finding.code, finding.severity) == ("other-ids", "error")
    assert "message 2" in finding.message and "    other-ids " in str(audit.__doc__)


def test_ids_that_say_what_their_text_says_are_no_finding(tmp_path, tokenizer):
    begin, end = (tokenizer.control(f"<{slash}tool_call>") for slash in ("", "/"))
    said = tuple(tokenizer.encode("a\u0301b\n"))
    call = (begin, *tokenizer.encode('{"name": "count"}'), end)
    for tokens, calls in ((said, ()), ((*said, *call), (ToolCall(name="count"),))):
        turn = _said(
            "assistant", "\u00e1b", Author.AGENT, tokens=(*tokens, tokenizer.end_of_text), tool_calls=calls
        )
        assert "other-ids" not in _codes(_findings(_file(tmp_path, (USER, turn, RIGHT)), tokenizer))


def test_an_end_that_another_wrote_or_nobody_learns_is_no_end(tmp_path, tokenizer):
    cut_context = _said("assistant", "4", Author.TEACHER, truncated=True, context_only=True)
    path = _file(tmp_path, (USER, cut_context, SAMPLED))
    (finding,) = _findings(path, tokenizer, objective="observational")
    assert "the sampled ids of message 3" in finding.message
    episode = Episode(id="1", messages=CLEAN)
    encoded = encode(render.plain(CLEAN), tokenizer)
    encoded.is_target[-1] = False
    (finding,) = audit.audit(
        [(episode, encoded)], tokenizer, path="x", weigh=protocol.weighting("interventional")
    )
    assert (finding.code, finding.message.split(";")[0]) == (
        "no-end",
        "a turn of teacher is trained on without its end",
    )


def test_an_end_within_a_chat_with_calls_is_found(tmp_path, tokenizer):
    shown = _said("assistant", "I count.", Author.TEACHER, tool_calls=(ToolCall(name="count", id="c"),))
    path = _file(tmp_path, (SYSTEM, USER, shown, RESULT, RIGHT))
    assert not _findings(path, tokenizer)
    assert not _findings(path, tokenizer, targets=("world",))


BROKEN = {
    "unreadable": '{"id": "1", "messages": [',
    "unknown-author": '{"id": "1", "messages": [{"role": "assistant", "content": "4"}]}',
    "orphan-result": '{"id": "1", "messages": [{"role": "tool", "author": "tool", "content": "4", '
    '"tool_call_id": "x"}]}',
}


@pytest.mark.parametrize(("code", "line"), BROKEN.items(), ids=BROKEN.keys())
def test_lines_that_the_reader_refuses_are_findings_and_the_rest_is_audited(tmp_path, tokenizer, code, line):
    path = _file(tmp_path, CLEAN)
    path.write_text(line + "\n\n" + path.read_text() + '{"id": 3}\n')
    findings = _findings(path, tokenizer, max_length=5)
    assert [(finding.code, finding.line) for finding in findings] == [
        (code, 1),
        ("unreadable", 4),
        ("too-long", 3),
    ]
    assert str(path) not in findings[0].message


def test_an_episode_that_the_protocol_cannot_hold(tmp_path, tokenizer):
    path = _file(tmp_path, CLEAN, (SYSTEM, *CLEAN))
    (finding,) = _findings(path, tokenizer, format="plain")
    assert (finding.code, finding.line) == ("unrenderable", 2)
    assert "plain protocol has no role 'system'" in finding.message


@pytest.mark.parametrize("content", [b"", b"\n \n"])
def test_a_file_without_episodes_is_no_audit(tmp_path, content):
    (tmp_path / "empty").write_bytes(content)
    with pytest.raises(BadInput, match="holds no episode"):
        audit.read(tmp_path / "empty")
    with pytest.raises(BadInput, match="No such file"):
        audit.read(tmp_path / "missing")


def test_a_byte_order_mark_and_crlf_are_read(tmp_path):
    path = _file(tmp_path, CLEAN)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    episodes, findings = audit.read(path)
    assert (len(episodes), findings) == (1, [])


def test_results_by_id_and_by_order(tmp_path, tokenizer):
    two = Message(
        role="assistant",
        content="",
        author=Author.AGENT,
        tool_calls=(ToolCall(name="a", id="a"), ToolCall(name="b", id="b")),
    )
    first, second = (_said("tool", name, Author.TOOL, tool_call_id=name) for name in "ab")
    assert not _findings(_file(tmp_path, (SYSTEM, USER, two, second, first, RIGHT)), tokenizer)
    (finding,) = _findings(_file(tmp_path, (SYSTEM, USER, two, second, RIGHT)), tokenizer)
    assert finding.code == "missing-result"
    assert "the call 'a' in message 3" in finding.message
    unnamed = Message(role="assistant", content="", author=Author.AGENT, tool_calls=(ToolCall(name="a"),) * 2)
    result = _said("tool", "x", Author.TOOL)
    assert not _findings(_file(tmp_path, (SYSTEM, USER, unnamed, result, result, RIGHT)), tokenizer)
    assert (
        _codes(_findings(_file(tmp_path, (SYSTEM, USER, unnamed, RIGHT)), tokenizer))
        == ["missing-result"] * 2
    )
    open_end = (SYSTEM, USER, RIGHT, USER, two)
    assert not _findings(_file(tmp_path, open_end), tokenizer)


def test_one_result_without_an_id_answers_all_calls_before_it(tmp_path, tokenizer):
    """As a terminal writes its screen once, after all that was typed."""
    typed = Message(
        role="assistant",
        content="",
        author=Author.AGENT,
        tool_calls=tuple(ToolCall(name="type", id=name) for name in "abc"),
    )
    screen = _said("tool", "$", Author.TOOL)
    assert not _findings(_file(tmp_path, (SYSTEM, USER, typed, screen, typed, screen, RIGHT)), tokenizer)
    two_of_three = (SYSTEM, USER, typed, screen, screen, RIGHT)
    (finding,) = _findings(_file(tmp_path, two_of_three), tokenizer)
    assert finding.code == "missing-result"
    by_id = _said("tool", "$", Author.TOOL, tool_call_id="b")
    assert (
        _codes(_findings(_file(tmp_path, (SYSTEM, USER, typed, by_id, RIGHT)), tokenizer))
        == ["missing-result"] * 2
    )


def test_rows_and_ids_that_stand_twice(tmp_path, tokenizer):
    path = _file(tmp_path, CLEAN, (USER, RIGHT), CLEAN, CLEAN)
    path.write_text(path.read_text().replace('"id": "2"', '"id": "1"'))
    findings = _findings(path, tokenizer)
    assert [(finding.line, finding.code, finding.severity) for finding in findings] == [
        (2, "duplicate-id", "warning"),
        (3, "duplicate-row", "warning"),
        (4, "duplicate-row", "warning"),
    ]
    assert "line 1" in findings[0].message
    assert "line 1" in findings[2].message
    other_author = (USER, _said("assistant", "5", Author.TEACHER), RIGHT)
    assert not _findings(_file(tmp_path, CLEAN, other_author), tokenizer)


@pytest.mark.parametrize("arguments", ['{"a": ', "[]", '{"a": NaN}', '{"a": 1, "a": 2}', "ls -l"])
def test_broken_arguments_are_kept_and_named(tmp_path, tokenizer, arguments):
    call = Message(
        role="assistant",
        content="",
        author=Author.AGENT,
        tool_calls=(ToolCall(name="count", arguments=arguments, id="c"),),
    )
    path = _file(tmp_path, (SYSTEM, USER, call, RESULT, RIGHT))
    (finding,) = _findings(path, tokenizer)
    assert (finding.code, finding.severity) == ("bad-arguments", "warning")
    ((episode,), _) = audit.read(path)
    text = tokenizer.decode(encode(render.chat(episode.messages), tokenizer).tokens)
    assert f'{{"name": "count", "arguments": {arguments}}}' in text


def test_thoughts_of_the_agent_that_are_in_meta_alone(tmp_path, tokenizer):
    def findings(messages, meta):
        path = tmp_path / "log.jsonl"
        path.write_text(format_episode(Episode(id="1", messages=messages, meta=meta)) + "\n")
        return _findings(path, tokenizer)

    thought = {"turns": {"2": {"reasoning": "Five, I think."}}}
    (finding,) = findings(CLEAN, thought)
    assert (finding.code, finding.severity) == ("reasoning-left-out", "warning")
    assert "1 of the agent's turns, message 2 first" in finding.message
    assert not findings(CLEAN, {"turns": {"3": {"reasoning": "a teacher's"}, "2": {"model": "m"}}})
    for odd in ({"turns": [1]}, {"turns": {"2": "x"}}, {"turns": {"2": {"reasoning": ""}}}, {}):
        assert not findings(CLEAN, odd)


def test_findings_roll_up_by_file_and_code():
    def found(line: int, code: str = "gap", file: str = "a") -> Finding:
        return Finding(file, line, code, f"m{line}")

    assert audit.roll_up([found(3)]) == ["a:3: warning: gap: m3"]
    many = [found(0, "too-long"), *(found(n) for n in (2, 2, 3, 5, 8)), found(4, file="b")]
    assert audit.roll_up(many) == [
        "a: error: too-long: m0",
        "a: warning: gap: 5 times in 4 transcripts, lines 2, 3, 5, ...; the first: m2",
        "b:4: warning: gap: m4",
    ]
    assert audit.roll_up([]) == []


def test_a_result_without_a_call(tmp_path, tokenizer):
    result = _said("tool", "4", Author.TOOL)
    assert _codes(_findings(_file(tmp_path, (SYSTEM, USER, result, RIGHT)), tokenizer)) == ["orphan-result"]
    written_out = (SYSTEM, USER, _said("assistant", "count()", Author.AGENT), result, RIGHT)
    assert not _findings(_file(tmp_path, written_out), tokenizer)
    forged = Episode(id="1", messages=(USER, WRONG, RESULT, RIGHT))
    row = (forged, encode(render.chat(forged.messages), tokenizer))
    assert _codes(audit.audit([row], tokenizer, path="x", weigh=protocol.weighting("interventional"))) == [
        "orphan-result"
    ]


def test_a_system_turn_or_schemas_tell_of_tools(tmp_path, tokenizer):
    episode = Episode(id="1", messages=(USER, CALL, RESULT, RIGHT), tools=({"name": "count"},))
    path = tmp_path / "log.jsonl"
    path.write_text(format_episode(episode) + "\n")
    assert not _findings(path, tokenizer)


@pytest.mark.parametrize(
    "marker",
    [
        "[truncated]",
        "<response clipped>",
        "[... 120 lines omitted ...]",
        "(output truncated)",
        "120 characters omitted",
        "a\n...\nb",
        "a\n…",
        "... 12 more lines",
        "[...]",
        "[REDACTED]",
    ],
)
def test_marks_of_elision(tmp_path, tokenizer, marker):
    seen = (USER, WRONG, _said("user", f"It said {marker}", Author.USER), WRONG, RIGHT)
    findings = _findings(_file(tmp_path, seen), tokenizer, format="chatml")
    assert _codes(findings) == ["elided"]
    assert findings[0].message.startswith("message 3 holds ")
    assert not _findings(
        _file(tmp_path, (USER, WRONG, _said("user", marker, Author.USER), RIGHT)), tokenizer, format="chatml"
    )


@pytest.mark.parametrize(
    "marker", ["<image>", "[Image: a chart]", "<|image_pad|>", "data:image/png;base64,AAAA", "[screenshot 2]"]
)
def test_marks_of_images(tmp_path, tokenizer, marker):
    assert _codes(
        _findings(_file(tmp_path, (_said("user", f"See {marker}", Author.USER), WRONG, RIGHT)), tokenizer)
    ) == ["image"]


@pytest.mark.parametrize(
    "innocent",
    [
        "Wait... what is 2+2?",
        "1, 2, 3, ..., 10",
        "The value (truncated to two decimals) is what?",
        "def f():\n    ...\n",
        "a[0] < b and c > d; the truncated cone",
        "Take the imaging data: image it. image[3] = [images]",
        "<img src='a.png'>",
        "Why was the list of 12 items cut off early?",
    ],
)
def test_no_marks(tmp_path, tokenizer, innocent):
    assert not _findings(_file(tmp_path, (_said("user", innocent, Author.USER), WRONG, RIGHT)), tokenizer)


def test_an_elision_that_the_agent_wrote_is_its_own_affair(tmp_path, tokenizer):
    own = (USER, _said("assistant", "[...]\n<image>", Author.AGENT), USER, WRONG, RIGHT)
    assert not _findings(_file(tmp_path, own), tokenizer, format="chatml")


def _duplicates(tmp_path, tokenizer, train, test) -> list[Finding]:
    paths = [_file(tmp_path, *train, name="train.jsonl"), _file(tmp_path, *test, name="test.jsonl")]
    both = []
    for path in paths:
        episodes, _ = audit.read(path)
        both.append([(episode, encode(render.chat(episode.messages), tokenizer)) for episode in episodes])
    return audit.duplicates(*both, path="train.jsonl", test_path="test.jsonl")


def test_duplicates_between_train_and_test(tmp_path, tokenizer):
    other = (_said("user", "Why?", Author.USER), RIGHT)
    assert not _duplicates(tmp_path, tokenizer, [CLEAN, CLEAN], [other])
    respelled = (_said("user", "  HOW\nmany?", Author.USER), WRONG)
    (finding,) = _duplicates(
        tmp_path, tokenizer, [other, CLEAN], [(_said("user", "Who?", Author.USER), RIGHT), respelled]
    )
    assert str(finding).startswith(
        "train.jsonl:2: error: duplicate: the question is asked in test.jsonl:2 too"
    )
    unasked = (SYSTEM, RIGHT)
    (finding,) = _duplicates(tmp_path, tokenizer, [unasked], [other, unasked])
    assert finding.message.startswith("the same tokens stand in test.jsonl:2 too")
    assert not _duplicates(tmp_path, tokenizer, [(SYSTEM, RIGHT)], [(SYSTEM, WRONG)])


def test_the_question_is_what_stands_before_the_first_answer():
    messages = (
        SYSTEM,
        USER,
        _said("user", "ＡＢ  c", Author.USER),
        RIGHT,
        _said("user", "later", Author.USER),
    )
    assert audit.question(Episode(id="1", messages=messages)) == "how many? ab c"


def test_an_echo_is_found_where_it_is_trained_on(tmp_path, tokenizer):
    echo = (
        USER,
        _said("assistant", STANZA, Author.AGENT),
        _said("user", f"You wrote: {STANZA}!", Author.USER),
        RIGHT,
    )
    path = _file(tmp_path, echo)
    assert not _findings(path, tokenizer, format="chatml")
    (finding,) = _findings(path, tokenizer, format="chatml", targets=("teacher", "user"))
    assert (finding.code, finding.severity) == ("echo", "warning")
    assert "by user" in finding.message
    assert STANZA[:20] in finding.message


def test_what_to_do_where_nothing_can_be_learned(tokenizer):
    rows = [encode(render.plain((USER, WRONG)), tokenizer)] * 2
    message = audit.nothing_to_learn(rows)
    assert f"{int(sum(row.gamma.sum() for row in rows)):,} of agent" in message
    assert "teacher" not in message.split("Three ways on")[0]
    for way in ("cicjax convert --corrections FIELD", "--targets user", "verdicts"):
        assert way in message
    assert "\n" not in message
    assert "the tokens are none" in audit.nothing_to_learn([])


def test_findings_as_text_and_as_records():
    found = Finding("a.jsonl", 3, "too-long", "what")
    assert str(found) == "a.jsonl:3: error: too-long: what"
    record = {"file": "a.jsonl", "line": 3, "severity": "error", "code": "too-long", "message": "what"}
    assert json.loads(json.dumps(found.record())) == record
    assert (
        audit.summary([found, found, found._replace(code="echo")], "a.jsonl")
        == "a.jsonl: 3 findings (2 too-long, 1 echo)"
    )
    assert found._replace(code="echo").severity == "warning"
