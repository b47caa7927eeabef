"""What an agent's log is made of: events that are appended and never changed.

An event says who (a source and, by it, an author) wrote what in answer to which event. Its content lies
apart, by digest, so that it can be erased while the chain of events still holds.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from cicjax.provenance.transcript import NO_VERDICT, Author

KINDS = (
    "home",  # the first: what the agent is, by digests
    "source",  # who may write, and what it may
    "message",  # a turn that somebody sent
    "begin",  # the agent begins an answer to these turns
    "attempt",  # the answer, as it was sampled
    "verdict",  # right or wrong
    "correction",  # what the answer should have been
    "reply",  # a remark on an answer
    "demonstration",  # a transcript to learn from, or to replay
    "observation",  # what a tool or the environment says
    "learn",  # somebody asks that all lessons that wait be learned
    "plan",  # a learning step, before it runs
    "outcome",  # what it came to
    "serve",  # a person chooses the version that serves
    "exclude",  # a source is forgotten
    "admit",  # lessons that were set aside wait again
    "erase",  # contents of a source are gone
    "retention",  # how many versions stay on disk
)


@dataclass(frozen=True, kw_only=True)
class Draft:
    """An event before it is in the log. `teaches` asks for the number of a lesson; `key` is what it is looked
    up by. `content` is JSON."""

    kind: str
    source: str
    author: Author
    parent: int | None = None
    role: str = ""
    content: Any = None
    key: str = ""
    version: int | None = None
    finish: str = ""
    solved: int = NO_VERDICT
    teaches: bool = False
    reason: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    idempotency: str | None = None


@dataclass(frozen=True, kw_only=True)
class Event:
    """An event of the log. `digest` is that of the event before it and of everything here; `content` is the
    digest of what lies apart, `lesson` the number of the lesson that it is, without gaps."""

    seq: int
    id: str
    kind: str
    parent: int | None
    role: str
    author: int
    source: str
    content: str | None
    key: str
    version: int | None
    finish: str
    solved: int
    lesson: int | None
    reason: str
    facts: Mapping[str, Any]
    idempotency: str | None
    body: str
    at: str
    digest: str = ""


def canonical(value: Any) -> bytes:
    """JSON with sorted keys, in ASCII: equal bytes for equal values. Raises ValueError on nan and
    infinity."""
    return json.dumps(value, sort_keys=True, allow_nan=False, separators=(",", ":")).encode()


def digest_of(value: Any) -> str:
    """SHA-256 of a value's canonical JSON, in hexadecimal."""
    return hashlib.sha256(canonical(value)).hexdigest()


def chained(previous: str, event: Event) -> str:
    """The digest of an event after the one of digest `previous`."""
    record = {name: value for name, value in asdict(event).items() if name != "digest"}
    return hashlib.sha256(previous.encode() + canonical(record)).hexdigest()


def body_of(draft: Draft) -> str:
    """Digest of what a draft says: the same request, sent again, has the same."""
    return digest_of([draft.kind, draft.parent, draft.role, draft.content, draft.solved])


@dataclass(frozen=True)
class Correction:
    """What the answer should have been. `scope`: "answer", a whole answer; "reply", a remark on one, which is
    no answer and teaches nothing."""

    text: str
    scope: str = "answer"


@dataclass(frozen=True)
class Verdict:
    """Whether an answer is right. It counts in the curves and never makes a target."""

    solved: bool


@dataclass(frozen=True)
class Demonstration:
    """An answer that nobody attempted: `messages` are what was asked."""

    messages: Any
    answer: str


@dataclass(frozen=True)
class Observation:
    """What a tool or the environment says about an answer."""

    text: str


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """An answer of the agent: its receipt, the version that gave it, sampled ids with their
    log-probabilities, the text, and why it ended."""

    id: str
    seq: int
    version: int
    text: str
    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish: str


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """What became of an observation: the number of the lesson, or None and the reason."""

    id: str
    seq: int
    lesson: int | None
    reason: str
    repeated: bool = False
