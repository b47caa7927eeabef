"""Who wrote the assistant's turns of a log that does not say: the word of whoever imports it, never the
file's.

Section 2.2 of the paper needs the author of every turn, and most formats keep a role alone. Also here: how an
imported turn becomes native messages, the edited text that some logs keep beside the original, the verdict,
and what a native message has no place for.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from cicjax.errors import BadInput, shorten
from cicjax.files import strict
from cicjax.logs import verdicts
from cicjax.provenance.transcript import NO_VERDICT, Author, Episode, Message

# Parts of a content that are text, by their type, and the key it stands under.
TEXTS = {kind: "text" for kind in ("text", "input_text", "output_text", "summary_text", "reasoning_text")}
TEXTS |= {"refusal": "refusal"}
WORLD = {"system": Author.SYSTEM, "user": Author.USER, "tool": Author.TOOL}


@dataclass(frozen=True, slots=True)
class Attribution:
    """The caller's word on assistant turns: turns of a model in `agent_models` are the agent's, of any other
    known model a teacher's.

    `assistant_author`, agent or teacher, speaks for turns whose model is not known, and for all where no
    models are given.
    """

    assistant_author: Author | None = None
    agent_models: frozenset[str] | None = None

    def __post_init__(self) -> None:
        if self.assistant_author not in (None, Author.AGENT, Author.TEACHER):
            raise BadInput("an assistant's turn is by the agent or by a teacher")

    def author(self, model: str | None, *, edited: bool = False) -> Author:
        """Who wrote a turn of `model` (None where the file names none). Raises BadInput where the caller has
        not said.

        A turn that somebody edited was the agent's: that is what naming the key of the edited texts says of
        it.
        """
        if self.agent_models is not None and model is not None:
            if edited and model not in self.agent_models:
                raise BadInput(
                    f"an edited turn is the agent's own; this one is by {shorten(model)}, "
                    "which --agent_models does not list"
                )
            return Author.AGENT if model in self.agent_models else Author.TEACHER
        if edited:
            return Author.AGENT
        if self.assistant_author is not None:
            return self.assistant_author
        if model is None:
            raise BadInput(
                "nothing says who wrote this assistant's turn, and no model is named; "
                "say --assistant_author agent or teacher"
            )
        raise BadInput(
            f"this assistant's turn is by {shorten(model)}; say whether that is the agent with "
            "--agent_models NAME ... (any other model is a teacher), "
            "or --assistant_author agent or teacher for all"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What logs are read with: who wrote the assistant's turns, the key of edited texts, the key of verdicts
    and the number from which on one says solved."""

    attribution: Attribution
    corrections: str | None = None
    solved: str | None = None
    solved_at: float = 1.0

    def verdict(self, record: Mapping[str, Any], own: Any = None) -> Any:
        """What a record says of its success: at the caller's key, else what its format says."""
        return own if self.solved is None else verdicts.lookup(record, self.solved)

    def read_keys(self) -> set[str]:
        """Keys of a record that are read by the caller's word."""
        return set() if self.solved is None else {self.solved}


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """A turn of an imported log: the native messages it makes, and what stood beside its text: `model`,
    `name`, `reasoning`, and under `foreign` what the format does not know."""

    messages: tuple[Message, ...]
    beside: Mapping[str, Any] = field(default_factory=dict)


def episode(
    turns: Iterable[Turn],
    *,
    id: str,
    source: str,
    line: int,
    tools: Sequence[dict[str, Any]] = (),
    meta: Mapping[str, Any] | None = None,
    verdict: Any = None,
    solved_at: float = 1.0,
) -> Episode:
    """Turns as an Episode. What stood beside one goes to `meta["turns"]`, under the number of its first
    native message, counted from 1; `verdict`, where there is one, is that on the agent's turns. Raises
    BadInput where no message is left, and for what cannot be written back."""
    messages: list[Message] = []
    beside: dict[str, dict[str, Any]] = {}
    for turn in turns:
        if turn.beside:
            beside[str(len(messages) + 1)] = dict(turn.beside)
        messages.extend(turn.messages)
    if not messages:
        raise BadInput("holds no message")
    notes: dict[str, Any] = {"reward": verdict} | dict(meta or {}) | {"turns": beside}
    notes = {key: value for key, value in notes.items() if value not in (None, {}, [])}
    strict.dumps(notes, "what stands beside the messages")
    made = Episode(
        id=id, messages=tuple(messages), source=source, meta=notes or None, tools=tuple(tools), line=line
    )
    return judged(made, verdicts.verdict(verdict, solved_at))


def judged(episode: Episode, solved: int) -> Episode:
    """The episode with a verdict on those of the agent's turns that have none of their own."""
    if solved == NO_VERDICT:
        return episode
    messages = (
        replace(message, solved=solved)
        if message.author is Author.AGENT and message.solved == NO_VERDICT and not message.context_only
        else message
        for message in episode.messages
    )
    return replace(episode, messages=tuple(messages))


def take_edited(record: dict[str, Any], corrections: str | None) -> str | None:
    """Take the edited text out of a message's record, None where there is none. Raises BadInput for what is
    no text."""
    edited = None if corrections is None else record.pop(corrections, None)
    return None if edited is None else text_of(edited, shorten(corrections))


def refuse_author(record: Mapping[str, Any]) -> None:
    """Raise BadInput where an imported file claims to know its authors: whoever wrote the claim is nobody we
    trust."""
    if "author" in record:
        raise BadInput(
            "has the key 'author', which this format does not know: "
            "who wrote a turn is said by whoever imports it, not by the file; "
            "remove the key, or read a native transcript file as native"
        )


def text_of(content: Any, what: str = "content") -> str:
    """A string, or the texts of a list of text parts with nothing put between them.

    Raises BadInput for images, sound and files: the turns after them would answer what nobody can see.
    """
    if isinstance(content, dict) and "type" in content:
        content = [content]
    if not isinstance(content, list):
        return strict.text(content, what)
    return "".join(_part(part, what, n) for n, part in enumerate(content, start=1))


def _part(part: Any, what: str, n: int) -> str:
    if isinstance(part, str):
        return strict.text(part, f"part {n} of {what}")
    fields = present(strict.mapping(part, f"part {n} of {what}"))
    kind = fields.get("type")
    if not isinstance(kind, str) or kind not in TEXTS:
        raise BadInput(
            f"part {n} of {what} is of type {shorten(kind)}, which a transcript of text cannot carry; "
            "leave out this record (--on_error skip), or put a text in its place"
        )
    return strict.text(fields.get(TEXTS[kind]), f"part {n} of {what}")


def present(record: Mapping[str, Any]) -> dict[str, Any]:
    """The keys that say something: tables and client libraries fill absent ones with null or an empty
    list."""
    return {key: value for key, value in record.items() if value is not None and value != []}
