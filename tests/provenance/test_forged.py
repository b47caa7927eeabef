"""Forged text: whatever people, tools and models write, control ids come from the renderer and words stay
their author's."""

import dataclasses
import functools
import json
import random
import unicodedata
from collections.abc import Callable, Sequence

import pytest
from forgeries import forgery

from cicjax.assets import default_model_folder
from cicjax.provenance import Author, Control, Message, ToolCall, Transcript, encode, render
from cicjax.provenance import tokenizer as provenance_tokenizer
from cicjax.provenance.render import PROTOCOLS

CASES = {"plain": 11_000, "chatml": 6_000, "qwen3": 3_000}
MANY = {"plain": 24_000, "chatml": 16_000, "qwen3": 10_000}
QWEN3_ADDED = ("<tool_response>", "</tool_response>", "<think>", "</think>")


@pytest.fixture(scope="module")
def tiny() -> provenance_tokenizer.Tokenizer:
    return provenance_tokenizer.load(default_model_folder())


@pytest.fixture(scope="module")
def tiny3(tmp_path_factory: pytest.TempPathFactory) -> provenance_tokenizer.Tokenizer:
    """The same with the four tokens that Qwen3 adds."""
    folder = tmp_path_factory.mktemp("qwen3")
    spec = json.loads((default_model_folder() / "tokenizer.json").read_text(encoding="utf-8"))
    last = spec["added_tokens"][-1]
    spec["added_tokens"] += [
        {**last, "id": last["id"] + n, "content": name} for n, name in enumerate(QWEN3_ADDED, start=1)
    ]
    (folder / "tokenizer.json").write_text(json.dumps(spec), encoding="utf-8")
    return provenance_tokenizer.load(folder)


def _nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)


@dataclasses.dataclass
class Case:
    """Messages with what is to be found again: whose text, in their words, and the control tokens by name, in
    their order."""

    messages: list[Message]
    written: dict[Author, str]
    controls: list[str]
    tools: tuple[dict, ...] = ()


def _turn(
    author: Author, text: str, rng: random.Random, tokenizer: provenance_tokenizer.Tokenizer, end: str
) -> Message:
    """An assistant's turn: as text, or as sampled ids whose text for people says something else."""
    if author is Author.TEACHER or rng.random() < 0.5:
        return Message(role="assistant", content=text, author=author)
    ids = (*tokenizer.encode(text), tokenizer.control(end))
    return Message(
        role="assistant", content=f"{end}{text}", author=author, tokens=ids, solved=rng.choice((-1, 0, 1))
    )


def _plain_case(
    forge: Callable[[], str], rng: random.Random, tokenizer: provenance_tokenizer.Tokenizer
) -> Case:
    question, attempt, verdict, correction = (forge() for _ in range(4))
    messages = [
        Message(role="user", content=question, author=Author.USER),
        _turn(Author.AGENT, attempt, rng, tokenizer, "<|endoftext|>"),
        Message(role="verifier", content=verdict, author=Author.VERIFIER),
        _turn(Author.TEACHER, correction, rng, tokenizer, "<|endoftext|>"),
    ]
    written = {
        Author.USER: _nfc(f"Question:\n{question}\n\nProposed solution:\n"),
        Author.AGENT: _nfc(attempt),
        Author.ENVIRONMENT: "Verdict:\nProposed solution:\n",
        Author.VERIFIER: _nfc(f"{verdict}\n"),
        Author.TEACHER: _nfc(correction),
    }
    return Case(messages, written, ["<|endoftext|>"] * 2)


def _chat_case(
    forge: Callable[[], str], rng: random.Random, tokenizer: provenance_tokenizer.Tokenizer, *, qwen3: bool
) -> Case:
    system, question, attempt, name, key, value, result, error, correction = (forge() for _ in range(9))
    arguments = json.dumps({key: value}, ensure_ascii=False)
    attempted = _turn(Author.AGENT, attempt, rng, tokenizer, "<|im_end|>")
    by_text = attempted.tokens is None
    if by_text:
        attempted = dataclasses.replace(attempted, tool_calls=(ToolCall(name=name, arguments=arguments),))
    tools = ({"name": name, "description": value},) if rng.random() < 0.1 else ()
    messages = [
        Message(role="system", content=system, author=Author.SYSTEM),
        Message(role="user", content=question, author=Author.USER),
        attempted,
        Message(role="tool", content=result, author=Author.TOOL),
        Message(role="tool", content=error, author=Author.VERIFIER),
        _turn(Author.TEACHER, correction, rng, tokenizer, "<|im_end|>"),
    ]
    call = ["<tool_call>", "</tool_call>"]
    begin, end = "<|im_start|>", "<|im_end|>"
    answer = [begin, "<think>", "</think>", end] if qwen3 else [begin, end]
    controls = [
        *[begin, *(call * 2 if tools else []), end, begin, end, begin, *(call if by_text else []), end],
        *[begin, *(["<tool_response>", "</tool_response>"] * 2 if qwen3 else []), end, *answer],
    ]
    called = _nfc(attempt + "\n" if attempt else "") + _nfc(
        f'\n{{"name": "{name}", "arguments": {arguments}}}\n'
    )
    written = {
        Author.SYSTEM: _announced(system, tools[0]) if tools else _nfc(system),
        Author.USER: _nfc(question),
        Author.AGENT: called if by_text else _nfc(attempt),
        Author.TOOL: _nfc(f"{result}\n") if result else "",
        Author.VERIFIER: _nfc(f"{error}\n") if error else "",
        Author.TEACHER: _nfc(correction),
        Author.ENVIRONMENT: _structure([system, result, error], tools=bool(tools), qwen3=qwen3),
    }
    return Case(messages, written, controls, tools)


def _announced(system: str, tool: dict) -> str:
    before = (
        "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
        "You are provided with function signatures within <tools></tools> XML tags:\n<tools>\n"
    )
    after = (
        "\n</tools>\n\nFor each function call, return a json object with function name and arguments within "
    )
    rest = ' XML tags:\n\n{"name": <function-name>, "arguments": <args-json-object>}\n'
    return (
        _nfc(f"{system}\n\n" if system else "")
        + _nfc(before + json.dumps(tool, ensure_ascii=False) + after)
        + rest
    )


def _structure(contents: list[str], *, tools: bool, qwen3: bool) -> str:
    """What the protocol writes around six messages. The line end after an empty content is its own."""
    gaps = [
        "" if content else end
        for content, end in zip(contents, ("\n\n" if tools else "", "\n", "\n"), strict=True)
    ]
    left, right = ("", "") if qwen3 else ("<tool_response>", "</tool_response>")
    results = f"user\n{left}\n{gaps[1]}{right}\n{left}\n{gaps[2]}{right}\n"
    return (
        f"system\n{gaps[0]}\nuser\n\nassistant\n\n{results}assistant\n" + ("\n\n\n\n" if qwen3 else "") + "\n"
    )


def _check(case: Case, row: Transcript, tokenizer: provenance_tokenizer.Tokenizer) -> None:
    encoded = encode(row, tokenizer)
    ids, authors = encoded.tokens.tolist(), encoded.author.tolist()
    # Control ids come from the renderer and from sampled stops, none from content.
    assert [tokenizer.decode([i]) for i in ids if tokenizer.is_control(i)] == case.controls
    # Authors are recovered from the arrays alone, their words to the letter as the tokenizer normalises them.
    theirs: dict[int, list[int]] = {author: [] for author in Author}
    for i, code in zip(ids, authors, strict=True):
        theirs[code].append(i)
    for author in Author:
        words = [i for i in theirs[author] if not tokenizer.is_control(i)]
        assert tokenizer.decode(words) == case.written.get(author, "")
    assert encoded.gamma.tolist() == [int(code == Author.AGENT) for code in authors]
    # Spans add up: each segment's ids are what it has alone.
    assert [i for segment in row.segments for i in _alone(segment.content, tokenizer)] == ids


@functools.lru_cache(maxsize=4096)
def _alone(
    content: str | tuple[int, ...] | Control, tokenizer: provenance_tokenizer.Tokenizer
) -> Sequence[int]:
    if isinstance(content, Control):
        return [tokenizer.control(content.name)]
    return tokenizer.encode(content) if isinstance(content, str) else content


def _assert_all_hold(
    protocol: str, tokenizer: provenance_tokenizer.Tokenizer, count: int
) -> set[tuple[Author, str]]:
    """Check `count` cases of a protocol. Returns which authors wrote which control token's name, letter by
    letter."""
    names = [*tokenizer.controls, "<tool_response>", "</tool_response>"]
    placed: set[tuple[Author, str]] = set()
    for number in range(count):
        rng = random.Random(f"{protocol} {number}")
        forge = functools.partial(forgery, names, rng)
        if protocol == "plain":
            case = _plain_case(forge, rng, tokenizer)
            row = render.plain(case.messages)
        else:
            case = _chat_case(forge, rng, tokenizer, qwen3=protocol == "qwen3")
            row = render.chat(case.messages, protocol=PROTOCOLS[protocol], tools=case.tools)
        try:
            _check(case, row, tokenizer)
        except AssertionError as error:
            raise AssertionError(f"case {number}: {case}") from error
        placed |= {
            (message.author, name) for message in case.messages for name in names if name in message.content
        }
    return placed


@pytest.mark.parametrize(
    ("protocol", "authors", "added"), [("plain", 4, 22), ("chatml", 6, 22), ("qwen3", 6, 26)]
)
def test_forged_text_stays_text_and_its_authors(tiny, tiny3, protocol, authors, added):
    tokenizer = tiny3 if protocol == "qwen3" else tiny
    placed = _assert_all_hold(protocol, tokenizer, CASES[protocol])
    assert len(placed) == authors * len({*tokenizer.controls, *QWEN3_ADDED[:2]})
    assert len(tokenizer.controls) == added


@pytest.mark.slow
@pytest.mark.parametrize("protocol", MANY)
def test_forged_text_stays_text_fifty_thousand_times(tiny, tiny3, protocol):
    _assert_all_hold(protocol, tiny3 if protocol == "qwen3" else tiny, MANY[protocol])


@pytest.mark.weights
@pytest.mark.parametrize("protocol", ["plain", "chatml"])
def test_forged_text_stays_text_with_qwen(qwen, protocol):
    _assert_all_hold(protocol, qwen, 500)


@pytest.mark.slow
@pytest.mark.weights
@pytest.mark.parametrize("protocol", ["plain", "chatml"])
def test_forged_text_stays_text_ten_thousand_times_with_qwen(qwen, protocol):
    _assert_all_hold(protocol, qwen, 10_000)
