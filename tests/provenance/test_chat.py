"""The chat protocols: literal grids, the tokenizer's own template, prompts that are prefixes of rows."""

import dataclasses
import functools
import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from cicjax.assets import default_model_folder
from cicjax.errors import BadInput
from cicjax.provenance import Author, Control, Message, Segment, ToolCall, encode, render, weights
from cicjax.provenance import tokenizer as provenance_tokenizer
from cicjax.provenance.render import PROTOCOLS, QWEN3, QWEN25, TEACHER_ONLY, WORLD

BEGIN, END = Control("<|im_start|>"), Control("<|im_end|>")
CALL, CALLED = Control("<tool_call>"), Control("</tool_call>")
# What Qwen3's tokenizer lists after the 22 added tokens of Qwen2.5, in its order.
QWEN3_ADDED = ("<tool_response>", "</tool_response>", "<think>", "</think>")
TOOL = {"type": "function", "function": {"name": "ohm", "parameters": {"type": "object"}}}
AGENT, TEACHER, USER, RESULT, ENV, SYSTEM = (
    Author.AGENT, Author.TEACHER, Author.USER, Author.TOOL, Author.ENVIRONMENT, Author.SYSTEM,
)  # fmt: skip


def _system(text: str) -> Message:
    return Message(role="system", content=text, author=Author.SYSTEM)


def _asks(text: str = "What?", **facts) -> Message:
    return Message(role="user", content=text, author=Author.USER, **facts)


def _says(author: Author, text: str = "4", **facts) -> Message:
    return Message(role="assistant", content=text, author=author, **facts)


def _calls(author: Author, text: str = "", **facts) -> Message:
    return _says(author, text, tool_calls=(ToolCall(name="ohm", arguments='{"V": 6}'),), **facts)


def _returns(text: str = "2 A", **facts) -> Message:
    return Message(role="tool", content=text, author=Author.TOOL, **facts)


CONVERSATION = (_system("Be brief."), _asks(), _calls(AGENT, solved=0), _returns(), _says(TEACHER, "2 A."))


@pytest.fixture(scope="module")
def tiny() -> provenance_tokenizer.Tokenizer:
    """The embedded base's tokenizer: 512 entries, the 22 added tokens of Qwen2.5."""
    return provenance_tokenizer.load(default_model_folder())


@pytest.fixture(scope="module")
def tiny3(tmp_path_factory: pytest.TempPathFactory) -> provenance_tokenizer.Tokenizer:
    return provenance_tokenizer.load(
        _with_qwen3_tokens(default_model_folder(), tmp_path_factory.mktemp("qwen3"))
    )


def _with_qwen3_tokens(source: Path, folder: Path) -> Path:
    spec = json.loads((source / "tokenizer.json").read_text(encoding="utf-8"))
    numbers = [token["id"] for token in spec["added_tokens"]]
    # Some copies of the file list added tokens and fillers as words, and would number new ones after those.
    spec["model"]["vocab"] = {word: i for word, i in spec["model"]["vocab"].items() if i < min(numbers)}
    for i, name in enumerate(QWEN3_ADDED, start=max(numbers) + 1):
        spec["added_tokens"].append({**spec["added_tokens"][-1], "id": i, "content": name, "special": False})
    (folder / "tokenizer.json").write_text(json.dumps(spec), encoding="utf-8")
    (folder / "tokenizer_config.json").write_bytes((source / "tokenizer_config.json").read_bytes())
    return folder


def _texts(transcript) -> str:
    return "".join(
        s.content.name if isinstance(s.content, Control) else s.content for s in transcript.segments
    )


def test_grid_of_a_corrected_tool_call(tiny):
    """Every token of system, question, the agent's call, the result and the teacher's correction, under both
    targets."""
    agent, teacher, user, tool, env, system = AGENT, TEACHER, USER, RESULT, ENV, SYSTEM
    # The pieces of a segment, its author; then is_target, interventional weight, observational weight under
    # TEACHER_ONLY and under WORLD.
    grid = [
        ("<|im_start|>",                   env,     "000", "000"),
        ("system·\n",                      env,     "000", "000"),
        ("B·e· b·ri·e·f·.",                system,  "000", "000"),
        ("<|im_end|>",                     system,  "000", "000"),
        ("\n",                             env,     "000", "000"),
        ("<|im_start|>",                   env,     "000", "111"),
        ("user·\n",                        env,     "000", "111"),
        ("What·?",                         user,    "000", "111"),
        ("<|im_end|>",                     user,    "000", "111"),
        ("\n",                             env,     "000", "111"),
        ("<|im_start|>",                   env,     "000", "111"),
        ("assistant·\n",                   env,     "000", "111"),
        ("<tool_call>",                    agent,   "101", "101"),
        ('\n·{·"·n·am·e·"·:· ·"·o·hm·"·,', agent,   "101", "101"),
        (' ·"·ar·g·um·en·t·s·"·:· ·{',     agent,   "101", "101"),
        ('"·V·"·:· ·6·}·}·\n',             agent,   "101", "101"),
        ("</tool_call>",                   agent,   "101", "101"),
        ("<|im_end|>",                     agent,   "101", "101"),
        ("\n",                             env,     "000", "111"),
        ("<|im_start|>",                   env,     "000", "111"),
        ("user·\n",                        env,     "000", "111"),
        ("<·t·o·ol·_·res·p·on·se·>·\n",    env,     "000", "111"),
        ("2· A·\n",                        tool,    "000", "111"),
        ("<·/·t·o·ol·_·res·p·on·se·>",     env,     "000", "111"),
        ("<|im_end|>",                     env,     "000", "111"),
        ("\n",                             env,     "000", "111"),
        ("<|im_start|>",                   env,     "000", "111"),
        ("assistant·\n",                   env,     "000", "111"),
        ("2· A·.",                         teacher, "111", "111"),
        ("<|im_end|>",                     teacher, "111", "111"),
        ("\n",                             env,     "000", "111"),
    ]  # fmt: skip
    rows = [(piece, *row[1:]) for row in grid for piece in row[0].split("·")]
    pieces, authors, *under = zip(*rows, strict=True)
    for targets, wanted in zip((TEACHER_ONLY, WORLD), under, strict=True):
        encoded = encode(render.chat(CONVERSATION, targets=targets), tiny)
        assert tiny.pieces(encoded.tokens) == list(pieces)
        assert encoded.author.tolist() == list(authors)
        assert encoded.gamma.tolist() == [int(author is agent) for author in authors]
        assert encoded.solved.tolist() == [0 if author is agent else -1 for author in authors]
        is_target, interventional, observational = (
            [int(digit) for digit in column] for column in zip(*wanted, strict=True)
        )
        assert encoded.is_target.tolist() == [bool(digit) for digit in is_target]
        assert weights.interventional(encoded.gamma, encoded.is_target).tolist() == interventional
        assert weights.observational(encoded.gamma, encoded.is_target).tolist() == observational


ANNOUNCED = (
    "# Tools\n\nYou may call one or more functions to assist with the user query.\n\nYou are provided with "
    "function signatures within "
    '<tools></tools> XML tags:\n<tools>\n{"type": "function", "function": {"name": "ohm", "parameters": '
    '{"type": "object"}}}\n</tools>\n\n'
    "For each function call, return a json object with function name and arguments within "
)


def _announcement(before: list[Segment]) -> list[Segment]:
    """A system turn that ends with the announcement of TOOL."""
    pieces = (
        ANNOUNCED,
        CALL,
        CALLED,
        " XML tags:\n",
        CALL,
        '\n{"name": <function-name>, "arguments": <args-json-object>}\n',
        CALLED,
        END,
    )
    return [
        Segment(BEGIN, ENV, False),
        *before,
        *(Segment(piece, SYSTEM, False) for piece in pieces),
        Segment("\n", ENV, False),
    ]


def _opened(speaker: str, *more: str | Control) -> list[Segment]:
    return [Segment(piece, ENV, False) for piece in (BEGIN, f"{speaker}\n", *more)]


def test_qwen25_segment_by_segment():
    row = render.chat(CONVERSATION, tools=(TOOL,), id="7")
    assert row.id == "7"
    assert list(row.segments) == [
        *_announcement([Segment("system\n", ENV, False), Segment("Be brief.\n\n", SYSTEM, False)]),
        *_opened("user"), Segment("What?", USER, False), Segment(END, USER, False), Segment("\n", ENV, False),
        *_opened("assistant"), Segment(CALL, AGENT, True, 0),
        Segment('\n{"name": "ohm", "arguments": {"V": 6}}\n', AGENT, True, 0),
        Segment(CALLED, AGENT, True, 0), Segment(END, AGENT, True, 0), Segment("\n", ENV, False),
        *_opened("user", "<tool_response>\n"), Segment("2 A\n", RESULT, False),
        Segment("</tool_response>", ENV, False), Segment(END, ENV, False), Segment("\n", ENV, False),
        *_opened("assistant"), Segment("2 A.", TEACHER), Segment(END, TEACHER), Segment("\n", ENV, False),
    ]  # fmt: skip


def test_qwen3_segment_by_segment():
    """Past turns have no thought, the last answer an empty one; a result's wrapper is two control tokens; no
    system text of its own."""
    row = render.chat(
        [_asks(), _calls(TEACHER, "So:"), _returns(), _says(TEACHER, "2 A.")], protocol=QWEN3, tools=(TOOL,)
    )
    assert list(row.segments) == [
        *_announcement([Segment("system\n", ENV, False)]),
        *_opened("user"), Segment("What?", USER, False), Segment(END, USER, False), Segment("\n", ENV, False),
        *_opened("assistant"), Segment("So:\n", TEACHER), Segment(CALL, TEACHER),
        Segment('\n{"name": "ohm", "arguments": {"V": 6}}\n', TEACHER), Segment(CALLED, TEACHER),
        Segment(END, TEACHER), Segment("\n", ENV, False),
        *_opened("user", Control("<tool_response>"), "\n"), Segment("2 A\n", RESULT, False),
        *(Segment(piece, ENV, False) for piece in (Control("</tool_response>"), END, "\n")),
        *_opened("assistant", Control("<think>"), "\n\n", Control("</think>"), "\n\n"),
        Segment("2 A.", TEACHER), Segment(END, TEACHER), Segment("\n", ENV, False),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("messages", "protocol", "tools", "open_turn", "text"),
    [
        ([_asks()], QWEN25, (), True,
         "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. "
         "You are a helpful assistant.<|im_end|>\n"
         "<|im_start|>user\nWhat?<|im_end|>\n<|im_start|>assistant\n"),
        ([_asks()], QWEN3, (), True,
         "<|im_start|>user\nWhat?<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"),
        ([_asks(), _says(TEACHER)], QWEN3, (), False,
         "<|im_start|>user\nWhat?<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n4<|im_end|>\n"),
        ([_asks(), _says(AGENT, "5"), _asks("No."), _says(TEACHER)], QWEN3, (), False,
         "<|im_start|>user\nWhat?<|im_end|>\n<|im_start|>assistant\n5<|im_end|>\n"
         "<|im_start|>user\nNo.<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n4<|im_end|>\n"),
        ([Message(role="verifier", content="wrong", author=Author.VERIFIER), _says(TEACHER)],
         QWEN3, (), False,
         "<|im_start|>user\nwrong<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n4<|im_end|>\n"),
        # Nobody asked, so nothing is thought about; a later turn of the system is a turn like others.
        ([_system("x"), _says(TEACHER), _system("")], QWEN3, (), False,
         "<|im_start|>system\nx<|im_end|>\n<|im_start|>assistant\n4<|im_end|>\n"
         "<|im_start|>system\n<|im_end|>\n"),
        ([_system("x"), _says(TEACHER)], QWEN3, (), False,
         "<|im_start|>system\nx<|im_end|>\n<|im_start|>assistant\n4<|im_end|>\n"),
        ([_system("x"), _says(TEACHER, "", tool_calls=(
            ToolCall(name="f"), ToolCall(name="g", arguments='{"é":[1,2.0,null]}')))],
         QWEN25, (), False,
         '<|im_start|>system\nx<|im_end|>\n<|im_start|>assistant\n'
         '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>\n'
         '<tool_call>\n{"name": "g", "arguments": {"é": [1, 2.0, null]}}\n</tool_call><|im_end|>\n'),
        ([_system("x"), _returns("1"), _returns(""), _returns("3"), _asks()], QWEN25, (), False,
         "<|im_start|>system\nx<|im_end|>\n<|im_start|>user\n"
         "<tool_response>\n1\n</tool_response>\n<tool_response>\n\n</tool_response>\n"
         "<tool_response>\n3\n</tool_response><|im_end|>\n<|im_start|>user\nWhat?<|im_end|>\n"),
        ([_system("x"), Message(role="verifier", content="wrong", author=Author.VERIFIER)], QWEN25, (), False,
         "<|im_start|>system\nx<|im_end|>\n<|im_start|>user\nwrong<|im_end|>\n"),
        ([_system(""), _asks()], QWEN3, (TOOL,), False,
         f"<|im_start|>system\n\n\n{ANNOUNCED}<tool_call></tool_call> XML tags:\n<tool_call>\n"
         '{"name": <function-name>, "arguments": '
         '<args-json-object>}\n</tool_call><|im_end|>\n<|im_start|>user\nWhat?<|im_end|>\n'),
    ],
)  # fmt: skip
def test_the_text_of_a_row(tiny3, messages, protocol, tools, open_turn, text):
    row = render.chat(messages, protocol=protocol, tools=tools, open_turn=open_turn)
    assert _texts(row) == text
    assert tiny3.decode(encode(row, tiny3).tokens) == text


# What may be learned


def _learned(row) -> str:
    return "".join(
        s.content.name if isinstance(s.content, Control) else str(s.content)
        for s in row.segments
        if s.is_target
    )


def test_targets_choose_authors_and_the_agent_is_always_one():
    messages = [_system("x"), _asks("u"), _says(AGENT, "a"), _returns("t"), _says(TEACHER, "c")]
    by_author = {
        AGENT: "",
        TEACHER: "c<|im_end|>",
        USER: "u<|im_end|>",
        RESULT: "t\n",
        SYSTEM: "x<|im_end|>",
    }
    for author, text in by_author.items():
        learned = _learned(render.chat(messages, targets={author}))
        assert learned == {USER: f"{text}a<|im_end|>", SYSTEM: f"{text}a<|im_end|>"}.get(
            author, f"a<|im_end|>{text}"
        )
    assert _learned(render.chat(messages, targets={ENV})) == (
        "<|im_start|>user\n\n<|im_start|>assistant\na<|im_end|>\n"
        "<|im_start|>user\n<tool_response>\n</tool_response><|im_end|>\n<|im_start|>assistant\n\n"
    )
    everything = render.chat(messages, targets=frozenset(Author))
    assert _learned(everything) == _texts(everything)
    assert frozenset(Author) - WORLD == {AGENT, SYSTEM}


@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=PROTOCOLS)
@pytest.mark.parametrize("author", Author)
def test_context_only_has_no_targets(protocol, author):
    context = [
        Message(
            role=role,
            content="x",
            author=author,
            context_only=True,
            tool_calls=(ToolCall(name="f"),) if role == "assistant" else (),
        )
        for role in ("system", "user", "assistant", "tool", "verifier", "assistant")
    ]
    assert _learned(render.chat(context, protocol=protocol, tools=(TOOL,), targets=frozenset(Author))) == ""
    # Neither do its neighbours lose theirs, nor a wrapper that two results share.
    between = [_system("x"), _returns("1"), _returns("2", context_only=True), _returns("3")]
    learned = _learned(render.chat(between, protocol=protocol, targets=WORLD))
    assert learned == (
        "<|im_start|>user\n<tool_response>\n1\n</tool_response>\n"
        "<tool_response>\n3\n</tool_response><|im_end|>\n"
    )


def test_a_turn_that_was_cut_has_an_end_that_nobody_learns():
    for author, tokens in ((AGENT, None), (AGENT, (65,)), (TEACHER, None)):
        row = render.chat(
            [_asks(), _says(author, "A", tokens=tokens, truncated=True, solved=0)], targets=WORLD
        )
        said, end, newline = row.segments[-3:]
        assert said == Segment(tokens or "A", author, True, 0)
        assert end == Segment(END, ENV, False, 0)
        assert newline == Segment("\n", ENV, True)


def test_sampled_ids_are_used_as_they_are(tiny):
    stop = tiny.control("<|im_end|>")
    # Merged otherwise than the text would be, with a call whose arguments are no JSON: what was sampled was
    # sampled.
    tokens = (*tiny.encode("a"), *tiny.encode("ss"), tiny.control("<tool_call>"), *tiny.encode("{"), stop)
    message = _calls(AGENT, "ass{", tokens=tokens)
    row = render.chat([_asks(), message], tools=(TOOL,))
    assert row.segments[-3:] == (
        Segment("assistant\n", ENV, False),
        Segment(tokens, AGENT),
        Segment("\n", ENV, False),
    )
    assert tuple(encode(row, tiny).tokens[-len(tokens) - 1 : -1]) == tokens
    assert encode(row, tiny).gamma[-len(tokens) - 1 :].tolist() == [1] * len(tokens) + [0]


def test_who_wrote_a_turn_changes_provenance_alone(tiny):
    """An assistant's turn by a teacher is evidence, by the agent an action, the line end between its calls
    too; the ids are the same."""
    twice = (ToolCall(name="ohm"), ToolCall(name="volt"))
    turns = (_says(author, "So:", tool_calls=twice) for author in (AGENT, TEACHER))
    mine, theirs = (encode(render.chat([_asks(), turn, _returns()]), tiny) for turn in turns)
    np.testing.assert_array_equal(mine.tokens, theirs.tokens)
    np.testing.assert_array_equal(mine.is_target, theirs.is_target)
    np.testing.assert_array_equal(mine.gamma == 1, theirs.author == TEACHER)
    assert tiny.decode(mine.tokens[mine.gamma == 1]) == (
        'So:\n<tool_call>\n{"name": "ohm", "arguments": {}}\n</tool_call>\n'
        '<tool_call>\n{"name": "volt", "arguments": {}}\n</tool_call><|im_end|>'
    )
    assert not theirs.gamma.any()


# The tokenizer's own template, and where a boundary wins over it

NAMES = re.compile(
    "|".join(map(re.escape, [*provenance_tokenizer.load(default_model_folder()).controls, *QWEN3_ADDED]))
)


def _ordinary(text: str) -> bool:
    """Whether the template's ids are ours to reach: no control token's name, which it would obey, and no line
    break at the start."""
    return not NAMES.search(text) and (text == "" or not re.match(r"\s*[\r\n]", text + "\n"))


fragments = st.sampled_from(
    ["4", "What", "?", ".", ":", ">", " ", "  ", "\n", "\n\n", "\r\n", "\t", "\u00a0", "'s",
     "\u0301", "e\u0301", "\u212b", "\u6f22", "{", '"', "</tools>"]
)  # fmt: skip
contents = st.lists(fragments | st.characters(codec="utf-8"), max_size=6).map("".join).filter(_ordinary)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | contents,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(contents, inner, max_size=2),
    max_leaves=4,
)
objects = st.dictionaries(contents, values, max_size=2)
calls = st.builds(
    ToolCall,
    name=contents,
    arguments=st.tuples(objects, st.booleans()).map(lambda o: json.dumps(o[0], ensure_ascii=o[1])),
)
turns = st.one_of(
    contents.map(_asks),
    st.builds(functools.partial(_says, TEACHER), contents, tool_calls=st.lists(calls, max_size=2).map(tuple)),
    contents.map(_returns),
    contents.map(_system),
)
conversations = st.builds(
    lambda first, rest: [*first, *rest],
    st.lists(contents.map(_system), max_size=1),
    st.lists(turns, min_size=1, max_size=5),
)
toolboxes = st.lists(objects, max_size=2)


def _as_dicts(messages: list[Message]) -> list[dict[str, Any]]:
    return [
        {"role": message.role, "content": message.content}
        | ({"tool_calls": [_as_dict(call) for call in message.tool_calls]} if message.tool_calls else {})
        for message in messages
    ]


def _as_dict(call: ToolCall) -> dict[str, Any]:
    return {"type": "function", "function": {"name": call.name, "arguments": json.loads(call.arguments)}}


def _assert_equal_to_template(reference, ours, messages, tools, open_turn, protocol) -> None:
    wanted = reference.apply_chat_template(
        _as_dicts(messages),
        tools=tools or None,
        add_generation_prompt=open_turn,
        tokenize=True,
        return_dict=False,
        enable_thinking=False,
    )
    row = render.chat(messages, protocol=protocol, tools=tools, open_turn=open_turn)
    assert encode(row, ours).tokens.tolist() == list(wanted)


def _reference(folder: Path, template: str):
    transformers = pytest.importorskip("transformers")
    return transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"), chat_template=template
    )


def _published(name: str) -> str:
    """A template as published, out of the package that keeps copies of them; it is a neighbour here and not
    required."""
    spec = importlib.util.find_spec("trl")
    file = Path(spec.origin).parent / "chat_templates" / name if spec and spec.origin else None
    if file is None or not file.is_file():
        pytest.skip("trl, which keeps the published chat templates, is not installed")
    return file.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def by_template(tmp_path_factory: pytest.TempPathFactory):
    """Protocol -> the published template on the embedded base's vocabulary, and ours on the same."""
    folder = _with_qwen3_tokens(default_model_folder(), tmp_path_factory.mktemp("template"))
    return {
        QWEN25.name: (
            _reference(default_model_folder(), _published("qwen2_5.jinja")),
            provenance_tokenizer.load(default_model_folder()),
        ),
        QWEN3.name: (_reference(folder, _published("qwen3.jinja")), provenance_tokenizer.load(folder)),
    }


@given(
    messages=conversations,
    tools=toolboxes,
    open_turn=st.booleans(),
    protocol=st.sampled_from(list(PROTOCOLS.values())),
)
def test_ids_are_the_templates(by_template, messages, tools, open_turn, protocol):
    # Where a prompt follows an answer, Qwen3's template leaves the thought on both; see the test of prompts.
    assume(not (protocol is QWEN3 and open_turn and messages[-1].role == "assistant"))
    _assert_equal_to_template(*by_template[protocol.name], messages, tools, open_turn, protocol)


@pytest.fixture(scope="module")
def qwen_reference(qwen_folder: Path):
    return pytest.importorskip("transformers").AutoTokenizer.from_pretrained(str(qwen_folder))


@pytest.mark.weights
@given(messages=conversations, tools=toolboxes, open_turn=st.booleans())
def test_ids_are_the_templates_with_qwen(qwen, qwen_reference, messages, tools, open_turn):
    _assert_equal_to_template(qwen_reference, qwen, messages, tools, open_turn, QWEN25)


@pytest.fixture(scope="module")
def qwen3_pair(qwen_folder: Path, tmp_path_factory: pytest.TempPathFactory):
    """Qwen2.5's vocabulary with the four tokens that Qwen3's has besides, under their published ids."""
    folder = _with_qwen3_tokens(qwen_folder, tmp_path_factory.mktemp("qwen3_real"))
    ours = provenance_tokenizer.load(folder)
    assert [ours.control(name) for name in QWEN3_ADDED] == [151665, 151666, 151667, 151668]
    return _reference(folder, _published("qwen3.jinja")), ours


@pytest.mark.weights
@given(messages=conversations, tools=toolboxes, open_turn=st.booleans())
def test_ids_are_qwen3s_templates_with_qwen(qwen3_pair, messages, tools, open_turn):
    assume(not (open_turn and messages[-1].role == "assistant"))
    _assert_equal_to_template(*qwen3_pair, messages, tools, open_turn, QWEN3)


@given(text=st.text("\n\r \t4?", max_size=4), role=st.sampled_from(("user", "assistant", "tool")))
def test_a_leading_line_break_stays_its_authors(tiny, text, role):
    """The boundary wins: the header ends with its own newline, and what follows is encoded as if it stood
    alone."""
    # Question marks before it, since this vocabulary merges line breaks there alone.
    protocol = dataclasses.replace(
        QWEN25, speakers={**QWEN25.speakers, role: "user?"}, result_open=("result?\n",)
    )
    assert len(tiny.encode("?\n\n")) == 1
    text = "\n" + text
    row = render.chat([_system("x"), Message(role=role, content=text, author=TEACHER)], protocol=protocol)
    assert Segment("user?\n", ENV, False) in row.segments
    encoded = encode(row, tiny)
    mine = encoded.tokens[encoded.author == TEACHER].tolist()
    assert (
        mine == tiny.encode(text + "\n")
        if role == "tool"
        else mine == [*tiny.encode(text), tiny.control("<|im_end|>")]
    )
    assert encoded.tokens.tolist() != [
        i
        for part in _merged(row)
        for i in (tiny.encode(part) if isinstance(part, str) else [tiny.control(part.name)])
    ]


def _merged(row) -> list[str | Control]:
    """The row as a template would encode it, without boundaries between texts."""
    merged: list[str | Control] = []
    for segment in row.segments:
        if merged and isinstance(segment.content, str) and isinstance(merged[-1], str):
            merged[-1] += segment.content
        else:
            merged.append(segment.content)
    return merged


@pytest.mark.weights
def test_a_leading_line_break_differs_from_the_template_with_qwen(qwen, qwen_reference):
    messages = [_system("x"), _asks("\nx")]
    row = render.chat(messages)
    theirs = qwen_reference.apply_chat_template(_as_dicts(messages), tokenize=True, return_dict=False)
    ours = encode(row, qwen)
    assert (qwen.encode("\n"), qwen.encode("\n\n")) == ([198], [271])
    assert qwen.pieces(ours.tokens[-5:]) == ["\n", "\n", "x", "<|im_end|>", "\n"]
    assert qwen.pieces(theirs[-5:]) == ["user", "\n\n", "x", "<|im_end|>", "\n"]
    assert qwen.decode(ours.tokens) == qwen.decode(theirs)


# Prompts


@given(
    messages=conversations,
    tools=toolboxes,
    author=st.sampled_from((AGENT, TEACHER)),
    targets=st.sampled_from((TEACHER_ONLY, WORLD)),
)
def test_prompts_are_prefixes_of_rows(tiny, messages, tools, author, targets):
    messages = [*messages, _says(author, "4"), _asks("?"), _says(author, "\n5")]
    row = encode(render.chat(messages, tools=tools, targets=targets), tiny)
    for turn, message in enumerate(messages):
        if turn and message.role == "assistant":
            _assert_prompt(messages[:turn], row, tiny, tools=tools, targets=targets, protocol=QWEN25)


@given(messages=conversations, tools=toolboxes)
def test_qwen3s_prompt_is_a_prefix_of_the_row_that_it_ends(tiny3, messages, tools):
    """An attempt before the open turn is past, as it is in the row: there the template would leave it a
    thought."""
    for before in (messages, [*messages, _asks(), _says(AGENT)]):
        rows = [*before, _says(TEACHER)]
        if any(message.role == "user" for message in before):
            row = encode(render.chat(rows, tools=tools, protocol=QWEN3), tiny3)
            _assert_prompt(before, row, tiny3, tools=tools, targets=TEACHER_ONLY, protocol=QWEN3)


def _assert_prompt(before, row, tokenizer, *, tools, targets, protocol) -> None:
    prompt = encode(
        render.chat(before, tools=tools, targets=targets, protocol=protocol, open_turn=True), tokenizer
    )
    for part, whole in zip(prompt, row, strict=True):
        np.testing.assert_array_equal(part, whole[: len(part)])
    assert tokenizer.decode(prompt.tokens).endswith(
        "<|im_start|>assistant\n" + "".join(str(getattr(p, "name", p)) for p in protocol.unthinking)
    )
    assert len(row.tokens) > len(prompt.tokens)
    assert row.author[len(prompt.tokens)] in (AGENT, TEACHER)


# What is refused


@pytest.mark.parametrize(
    ("messages", "complaint"),
    [
        ([], "at least one message"),
        ([_system("x"), Message(role="function", content="", author=RESULT)], "message 2: the protocol "
        "chatml has no role 'function'"),
        ([Message(role="tool", content="", author=AGENT, tokens=(65,))], "message 1: sampled ids are a whole "
        "turn"),
        ([Message(role="system", content="", author=AGENT, tokens=(65,))], "message 1: sampled ids are a "
        "whole turn"),
    ],
)  # fmt: skip
def test_what_the_protocol_cannot_say_is_refused_in_one_line(messages, complaint):
    with pytest.raises(BadInput, match=complaint) as caught:
        render.chat(messages)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "arguments",
    [
        "", "[]", "1", "null", '"{}"', "{", "{} {}", '{"a": NaN}', '{"a": -Infinity}', '{"a": 1e999}',
        '{"a": 1, "a": 1}', '{"a": ' + "9" * 10_000 + "}", '{"a": ' * 100_000,
    ],
)  # fmt: skip
def test_arguments_that_are_no_object_stand_as_they_were_written(arguments):
    call = _says(AGENT, tool_calls=(ToolCall(name="f", arguments=arguments),))
    assert f'<tool_call>\n{{"name": "f", "arguments": {arguments}}}\n</tool_call>' in _texts(
        render.chat([_asks(), call])
    )


@pytest.mark.parametrize("tool", [{"a": float("nan")}, {"a": {1, 2}}, "ohm", 3])
def test_tools_are_json_objects(tool):
    with pytest.raises(BadInput, match="tools are function schemas"):
        render.chat([_asks()], tools=(tool,))


def test_a_vocabulary_without_the_protocols_tokens_is_named(tiny):
    with pytest.raises(BadInput, match="no control token '<tool_response>'"):
        encode(render.chat([_asks(), _returns()], protocol=QWEN3), tiny)


def test_a_protocol_is_a_frozen_record():
    assert list(PROTOCOLS.items()) == [("chatml", QWEN25), ("qwen3", QWEN3)]
    with pytest.raises(dataclasses.FrozenInstanceError):
        QWEN25.name = "mine"
    with pytest.raises(TypeError):
        QWEN25.speakers["user"] = "assistant"
    with pytest.raises(TypeError):
        PROTOCOLS["mine"] = QWEN25
    for change in (
        {"newline": ""},
        {"tools_open": "<tools>"},
        {"result_open": (CALL,)},
        {"unthinking": ("hm",)},
    ):
        with pytest.raises(BadInput, match="ends in no newline"):
            dataclasses.replace(QWEN25, **change)
