"""Messages to segments in a chat protocol: turns between control tokens, tools in the system turn, calls and
results.

The ids are those of the tokenizer's own chat template wherever contents do not begin with a line break, white
space before it included: there the boundary between authors wins over a merge across it. The template itself
is never run.

A protocol is a record, so that what it writes and what people wrote stay apart. Sections 1.2 and 2.2; the
plain protocol is `render`'s.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from cicjax.errors import BadInput, shorten
from cicjax.files import strict
from cicjax.provenance.transcript import Author, Control, Message, Segment, ToolCall, Transcript

# Equation (14): what teachers wrote, their ends of turn included.
TEACHER_ONLY = frozenset({Author.TEACHER})
# Section 1.2, equation (2) in full: all but the context, which is the system's. The agent's turns need no
# mention: gamma weighs them.
WORLD = frozenset(Author) - {Author.AGENT, Author.SYSTEM}

Pieces = tuple[str | Control, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Protocol:
    """How a conversation becomes one row: `begin`, a speaker, `newline`, the content, `end`, `newline`, turn
    after turn.

    `speakers` names who speaks in a turn's header, by role. `system` is the system turn of a conversation
    that has none (None: no such turn). Tools are announced at the end of the system turn by `tools_open`, a
    line of JSON each, and `tools_close`. `call` stands around a call, `result_open` and `result_close` around
    a result; both opens end in a newline. `unthinking` opens the assistant's turn that answers the last
    question: the thought that was not had.
    """

    name: str
    begin: Control
    end: Control
    newline: str
    speakers: Mapping[str, str]
    system: str | None
    tools_open: str
    tools_close: Pieces
    call: tuple[Control, Control]
    result_open: Pieces
    result_close: Pieces
    unthinking: Pieces = ()

    def __post_init__(self) -> None:
        # Content follows these, or a schema: an encoding of its own, which begins where a line does.
        for text in (self.newline, self.tools_open, self.result_open[-1], *self.unthinking[-1:]):
            if not isinstance(text, str) or not text.endswith("\n"):
                raise BadInput(
                    f"protocol {self.name}: {shorten(text)} stands before content, and ends in no newline"
                )


CALL = (Control("<tool_call>"), Control("</tool_call>"))

QWEN25 = Protocol(
    name="chatml",
    begin=Control("<|im_start|>"),
    end=Control("<|im_end|>"),
    newline="\n",
    # These models know no verdicts: like a tool's results they come in the user's turn.
    speakers=MappingProxyType(
        {"system": "system", "user": "user", "assistant": "assistant", "tool": "user", "verifier": "user"}
    ),
    system="You are Qwen, created by Alibaba Cloud. You are a helpful assistant.",
    tools_open=(
        "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
        "You are provided with function signatures within <tools></tools> XML tags:\n<tools>\n"
    ),
    tools_close=(
        "</tools>\n\nFor each function call, return a json object with function name and arguments within ",
        *CALL,
        " XML tags:\n",
        CALL[0],
        '\n{"name": <function-name>, "arguments": <args-json-object>}\n',
        CALL[1],
    ),
    call=CALL,
    result_open=("<tool_response>\n",),
    result_close=("</tool_response>",),
)

# Past turns carry no thought there; the last answer, and the prompt for it, carry an empty one.
QWEN3 = replace(
    QWEN25,
    name="qwen3",
    system=None,
    result_open=(Control("<tool_response>"), "\n"),
    result_close=(Control("</tool_response>"),),
    unthinking=(Control("<think>"), "\n\n", Control("</think>"), "\n\n"),
)

PROTOCOLS: Mapping[str, Protocol] = MappingProxyType(
    {protocol.name: protocol for protocol in (QWEN25, QWEN3)}
)


def chat(
    messages: Sequence[Message],
    *,
    protocol: Protocol = QWEN25,
    tools: Sequence[Mapping[str, Any]] = (),
    targets: AbstractSet[Author] = TEACHER_ONLY,
    open_turn: bool = False,
    id: str | None = None,
) -> Transcript:
    """Render a conversation. `tools` are the function schemas that the assistant was shown, `targets` whose
    words may carry loss.

    What the protocol writes (headers, line ends, wrappers of results) is the environment's; the system turn,
    with the tools in it, is context whole unless the system is among the targets. The agent's turns are
    targets always, since gamma weighs them, and nothing of a message that is context only is one. With
    `open_turn` the row ends where the assistant's next turn begins, which is the prompt to sample it from.
    Arguments of a call that are no JSON object stand as they were written. Raises BadInput, naming the
    message, for a role that the protocol lacks, sampled ids where no turn was sampled, and where there is no
    message.
    """
    if not messages:
        raise BadInput("a conversation has at least one message: there are none")
    return Transcript(_chat(messages, protocol, tools, targets, open_turn), id)


@dataclass(frozen=True, slots=True)
class _Scribe:
    """Makes the segments of one message: what its author said, and what the protocol writes around it."""

    message: Message
    protocol: Protocol
    targets: AbstractSet[Author]

    def said(self, content: str | Control | Iterable[int]) -> Segment:
        message = self.message
        is_target = not message.context_only and (
            message.author is Author.AGENT or message.author in self.targets
        )
        return Segment(content, message.author, is_target, message.solved)

    def written(self, content: str | Control) -> Segment:
        is_context = self.message.context_only or (
            self.message.author is Author.SYSTEM and Author.SYSTEM not in self.targets
        )
        return Segment(content, Author.ENVIRONMENT, not is_context and Author.ENVIRONMENT in self.targets)

    def header(self) -> str:
        return self.protocol.speakers[self.message.role] + self.protocol.newline

    def content(self, opening: Sequence[str | Control], after: str) -> Iterator[Segment]:
        """`opening`, then the content with the text `after` it, one encoding as in the template. After
        nothing, `after` joins `opening`."""
        *pieces, last = opening
        yield from map(self.written, pieces)
        if self.message.content:
            yield self.written(last)
            yield self.said(self.message.content + after)
        else:
            yield self.written(f"{last}{after}")

    def end(self) -> Iterator[Segment]:
        if self.message.truncated:
            yield Segment(self.protocol.end, Author.ENVIRONMENT, is_target=False, solved=self.message.solved)
        elif self.message.tokens is None:
            yield self.said(self.protocol.end)
        yield self.written(self.protocol.newline)


def _chat(
    messages: Sequence[Message],
    protocol: Protocol,
    tools: Sequence[Mapping[str, Any]],
    targets: AbstractSet[Author],
    open_turn: bool,
) -> Iterator[Segment]:
    announced = _schemas(tools)
    if messages[0].role != "system" and (announced or protocol.system is not None):
        unsaid = Message(role="system", content=protocol.system or "", author=Author.SYSTEM)
        yield from _system(
            _Scribe(unsaid, protocol, targets), announced, gap="" if protocol.system is None else "\n\n"
        )
    answer = None if open_turn else _last_answer(messages)
    roles = ["", *(message.role for message in messages), ""]
    for n, message in enumerate(messages, start=1):
        _check(n, message, protocol)
        scribe = _Scribe(message, protocol, targets)
        if message.role == "system" and n == 1:
            yield from _system(scribe, announced, gap="\n\n")
        elif message.role == "tool":
            yield from _result(scribe, first=roles[n - 1] != "tool", last=roles[n + 1] != "tool")
        else:
            yield from _turn(scribe, n, protocol.unthinking if n == answer else ())
    if open_turn:
        prompt = _Scribe(Message(role="assistant", content="", author=Author.ENVIRONMENT), protocol, targets)
        yield from map(prompt.written, (protocol.begin, prompt.header(), *protocol.unthinking))


def _system(scribe: _Scribe, announced: str, *, gap: str) -> Iterator[Segment]:
    yield scribe.written(scribe.protocol.begin)
    yield from scribe.content([scribe.header()], gap if announced else "")
    if announced:
        schemas = replace(scribe, message=replace(scribe.message, author=Author.SYSTEM))
        after, *rest = scribe.protocol.tools_close
        yield from map(schemas.said, (f"{scribe.protocol.tools_open}{announced}{after}", *rest))
    yield from scribe.end()


def _result(scribe: _Scribe, *, first: bool, last: bool) -> Iterator[Segment]:
    """A tool's result; those that follow one another share a turn, which is the environment's to open and to
    end."""
    protocol = scribe.protocol
    if first:
        yield from map(scribe.written, (protocol.begin, scribe.header()))
    yield from scribe.content(protocol.result_open, "\n")
    *pieces, close = protocol.result_close
    yield from map(scribe.written, pieces)
    if last:
        yield from map(scribe.written, (close, protocol.end, protocol.newline))
    elif isinstance(close, str):  # between two texts a boundary stands after a newline only
        yield scribe.written(close + "\n")
    else:
        yield from map(scribe.written, (close, "\n"))


def _turn(scribe: _Scribe, n: int, unthinking: Pieces) -> Iterator[Segment]:
    message, protocol = scribe.message, scribe.protocol
    yield scribe.written(protocol.begin)
    opening = (scribe.header(), *unthinking)
    if message.tokens is not None:
        yield from map(scribe.written, opening)
        yield scribe.said(message.tokens)
    else:
        yield from scribe.content(opening, "\n" if message.tool_calls and message.content else "")
        before, after = protocol.call
        for number, call in enumerate(message.tool_calls):
            between = [scribe.said("\n")] if number else []
            yield from (*between, scribe.said(before), scribe.said(_called(call)), scribe.said(after))
    yield from scribe.end()


def _last_answer(messages: Sequence[Message]) -> int | None:
    """Number of the assistant's turn that ends the conversation, if anybody asked before it."""
    asked = any(message.role in ("user", "verifier") for message in messages)
    return len(messages) if asked and messages[-1].role == "assistant" else None


def _check(n: int, message: Message, protocol: Protocol) -> None:
    if message.role not in protocol.speakers:
        roles = ", ".join(protocol.speakers)
        raise BadInput(
            f"message {n}: the protocol {protocol.name} has no role {shorten(message.role)}, only {roles}"
        )
    if message.tokens is not None and message.role in ("system", "tool"):
        raise BadInput(
            f"message {n}: sampled ids are a whole turn, "
            f"which the role {message.role} has none of; give its content alone"
        )


def _called(call: ToolCall) -> str:
    try:
        arguments = strict.dumps(strict.mapping(strict.load(call.arguments), "what it says"), "it")
    except BadInput:
        arguments = call.arguments  # broken, and so written: where it stood, as it stood
    return f'\n{{"name": "{call.name}", "arguments": {arguments}}}\n'


def _schemas(tools: Sequence[Mapping[str, Any]]) -> str:
    try:
        return "".join(_json(dict(tool)) + "\n" for tool in tools)
    except (TypeError, ValueError, RecursionError):
        raise BadInput(
            "tools are function schemas: JSON objects, without infinite numbers, not nested too deeply"
        ) from None


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)
