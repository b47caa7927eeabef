"""Immutable records of an interaction: authors, messages as people keep them, and the segments that become
tokens.

A `Message` is what somebody said; a `Segment` is a run of tokens with one author and one structural role.
`render` turns the first into the second, `encode` the second into arrays. Section 2.2 of the paper:
provenance belongs to the bytes, not to the role.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Self, cast

from cicjax.errors import BadInput, shorten

END_OF_TEXT = "<|endoftext|>"
NO_VERDICT = -1
MAX_ID = 2**31 - 1


class Author(IntEnum):
    """Who wrote a token. Codes fit int8 and start at 1, so that the zeros of padding are nobody's."""

    AGENT = 1
    TEACHER = 2
    USER = 3
    TOOL = 4
    VERIFIER = 5
    ENVIRONMENT = 6
    SYSTEM = 7

    @property
    def label(self) -> str:
        """The name used in files: `agent`, `teacher`, ..."""
        return self.name.lower()


AUTHORS = {author.label: author for author in Author}


@dataclass(frozen=True, slots=True)
class Control:
    """A control token by its name, such as `<|im_start|>`. Only a renderer makes one; text never turns into
    one."""

    name: str


@dataclass(frozen=True, slots=True, init=False)
class Segment:
    """A run of tokens by one author: text to be encoded, ids as they were sampled, or one control token.

    `is_target` says whether loss may fall here, `solved` is the verdict on the turn (1 passed, 0 failed, -1
    none). Raises BadInput for ids that are no ids and for values outside these ranges.
    """

    content: str | tuple[int, ...] | Control
    author: Author
    is_target: bool
    solved: int

    def __init__(
        self,
        content: str | Control | Iterable[int],
        author: Author,
        is_target: bool = True,
        solved: int = NO_VERDICT,
    ) -> None:
        if not isinstance(content, (str, Control)):
            content = token_ids(content)
        object.__setattr__(self, "content", content)
        object.__setattr__(self, "author", _author(author))
        object.__setattr__(self, "is_target", bool(is_target))
        object.__setattr__(self, "solved", _verdict(solved))

    @classmethod
    def end(cls, author: Author, is_target: bool = True, solved: int = NO_VERDICT) -> Self:
        """The end-of-text token, written by `author`. Nobody adds one silently."""
        return cls(Control(END_OF_TEXT), author, is_target, solved)


@dataclass(frozen=True, slots=True, init=False)
class Transcript:
    """Segments in the order in which they were written."""

    segments: tuple[Segment, ...]
    id: str | None

    def __init__(self, segments: Iterable[Segment], id: str | None = None) -> None:
        object.__setattr__(self, "segments", tuple(segments))
        object.__setattr__(self, "id", id)


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """A function that an assistant's turn calls. `arguments` is the JSON text of an object, as it was
    written; `id` ties a result to it."""

    name: str
    arguments: str = "{}"
    id: str | None = None

    def __post_init__(self) -> None:
        for value, what in ((self.name, "name"), (self.arguments, "arguments"), (self.id or "", "id")):
            if not isinstance(value, str):
                raise BadInput(f"the {what} of a tool call is a string, not {shorten(value)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One turn. `role` is its place in the protocol, `author` who wrote the bytes: a teacher may well speak
    as the assistant.

    `tokens` are ids that the agent sampled, the stop id included; they are used as they are, and `content` is
    then for people and verifiers. `logprobs` go with them, one each. `truncated` says that the turn was cut
    at the length limit or by a stop string, so that its author never ended it. `solved` is the verdict on it.
    `context_only` takes the turn out of every loss, whoever wrote it. `tool_calls` belong to an assistant's
    turn, `tool_call_id` to a tool's result. Raises BadInput where these contradict each other.
    """

    role: str
    content: str
    author: Author
    tokens: tuple[int, ...] | None = None
    logprobs: tuple[float, ...] | None = None
    solved: int = NO_VERDICT
    truncated: bool = False
    context_only: bool = False
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.role, str) or not isinstance(self.content, str):
            raise BadInput("role and content of a message are strings")
        object.__setattr__(self, "author", _author(self.author))
        object.__setattr__(self, "solved", _verdict(self.solved))
        for name in ("truncated", "context_only"):
            if not isinstance(getattr(self, name), bool):
                raise BadInput(f"{name} is true or false, not {shorten(getattr(self, name))}")
        if self.tool_calls and self.role != "assistant":
            raise BadInput(f"tool_calls belong to the role assistant, not to {shorten(self.role)}")
        if self.tokens is not None:
            if self.author != Author.AGENT:
                raise BadInput(
                    f"tokens are ids that the agent sampled, and this turn is by {self.author.label}; "
                    "leave them out, its content is what counts"
                )
            object.__setattr__(self, "tokens", token_ids(self.tokens))
        if self.logprobs is not None:
            object.__setattr__(self, "logprobs", _logprobs(self.logprobs, self.tokens))


def token_ids(values: Iterable[int]) -> tuple[int, ...]:
    """Token ids as a tuple of ints. Accepts any sequence or array of integers; raises BadInput for anything
    else."""
    listed: Any = values
    plain = listed.tolist() if hasattr(listed, "tolist") else listed
    if not isinstance(plain, Iterable) or isinstance(plain, (str, bytes, dict)):
        raise BadInput(f"token ids are a list of integers, not {shorten(values)}")
    ids = tuple(int(i) if hasattr(i, "dtype") and i.dtype.kind in "iu" else i for i in plain)
    for i in ids:
        if type(i) is not int or not 0 <= i <= MAX_ID:
            raise BadInput(f"{shorten(i)} is not a token id: ids are integers from 0 up")
    return ids


def _author(value: object) -> Author:
    if not isinstance(value, Author):
        raise BadInput(
            f"{shorten(value)} is no author: use Author." + ", Author.".join(author.name for author in Author)
        )
    return value


def _verdict(value: object) -> int:
    if isinstance(value, float) or value not in (-1, 0, 1):
        raise BadInput(f"a verdict is 1 (passed), 0 (failed) or -1 (none), not {shorten(value)}")
    return int(value)  # pyright: ignore[reportArgumentType]


def _logprobs(values: Sequence[float], tokens: tuple[int, ...] | None) -> tuple[float, ...]:
    if tokens is None or len(values) != len(tokens):
        raise BadInput(
            f"{len(values)} logprobs for {'no' if tokens is None else len(tokens)} "
            "tokens: there is one for each"
        )
    return tuple(_finite(value) for value in values)


def _finite(value: object) -> float:
    try:
        number = math.nan if isinstance(value, (bool, str)) else float(cast(float, value))
    except (TypeError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise BadInput(f"{shorten(value)} is not a log-probability")
    return number


@dataclass(frozen=True, slots=True, kw_only=True)
class Episode:
    """One line of a transcript file. `meta` is any JSON object, carried along; `tools` are function schemas
    that the agent was shown; `protocol` is the one that it was sampled in, where its file says so.

    `line` is where it stood, 0 if it was never read, `file` in which of several files.
    """

    id: str
    messages: tuple[Message, ...]
    source: str = ""
    meta: dict[str, Any] | None = None
    tools: tuple[dict[str, Any], ...] = ()
    protocol: str | None = None
    line: int = 0
    file: str = field(default="", compare=False)
