"""From events to rows: what the agent saw, its attempt, and what the world answered.

    context "attempt"   x  do(y_hat)  y*     the paper's interventional row: y* after the attempt
    context "none"      x  y*                y* as an answer of its own
    context "both"      one row of each

All but y* is context. Nothing that the agent sampled, and nothing that somebody put in its mouth, is a
target: the first by gamma, the second by `context_only`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from cicjax.agent import trust
from cicjax.agent.events import Event
from cicjax.agent.settings import AgentSettings
from cicjax.agent.store import Store
from cicjax.agent.trust import Source
from cicjax.agent.turns import Turns
from cicjax.errors import BadInput
from cicjax.provenance import encode, protocol, weights
from cicjax.provenance.echo import copied
from cicjax.provenance.encode import Encoded
from cicjax.provenance.protocol import Weighting
from cicjax.provenance.tokenizer import Tokenizer
from cicjax.provenance.transcript import Author, Episode, Message, ToolCall
from cicjax.training.batches import Row, make_row

WEIGHTING = Weighting(weights.INTERVENTIONAL)


class Lessons:
    """Reads a log's events as prompts and rows, in the protocol of the settings."""

    def __init__(self, store: Store, tokenizer: Tokenizer, settings: AgentSettings) -> None:
        self._tokenizer, self._settings = tokenizer, settings
        self.turns = Turns(store)
        self.format = settings.format

    def prompt(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]] = ()) -> list[int]:
        """Ids up to where the agent's answer begins. Raises BadInput for messages or tools that the protocol
        cannot hold."""
        return self._encode(messages, tools, open_turn=True).tokens.tolist()

    def rows(self, event: Event, source: Source) -> list[Row]:
        """The rows of a lesson or of a demonstration to replay."""
        if event.kind == "demonstration":
            return [self.demonstrated(self.turns.transcript(event))]
        begin = self.turns.about(event)
        attempt, text = self.turns.attempt_of(begin), self.turns.content(event)["text"]
        return self.corrected(begin, attempt, text, source, at=event.seq)

    def corrected(
        self, begin: Event, attempt: Event | None, text: str, source: Source, *, at: int | None = None
    ) -> list[Row]:
        """The rows of a correction, in the contexts of the settings; verdicts on the attempt count up to
        event `at`."""
        seen, tools = self.turns.seen(begin), self.turns.tools(begin)
        masked = self._masked(begin, attempt, source)
        correction = Message(role="assistant", content=text, author=Author.TEACHER)
        rows, contexts = [], self._settings.contexts if attempt is not None else "none"
        if attempt is not None and contexts != "none":
            solved = self.turns.verdict_on(begin, before=at)
            tried = replace(self.turns.message(attempt), context_only=False, solved=solved)
            rows.append(self._row([*seen, tried, correction], tools, masked))
        if contexts != "attempt":
            rows.append(self._row([*seen, correction], tools, masked))
        return rows

    def unlearned(self, begin: Event) -> Row:
        """What was asked and answered, as context."""
        attempt = self.turns.attempt_of(begin)
        tried = [] if attempt is None else [self.turns.message(attempt)]
        return self._row([*self.turns.seen(begin), *tried], self.turns.tools(begin))

    def demonstrated(self, episode: Episode) -> Row:
        """The row of a transcript."""
        return self._row(episode.messages, episode.tools)

    def count(self, text: str) -> int:
        """How many tokens a text has."""
        return len(self._tokenizer.encode(text))

    def _masked(self, begin: Event, attempt: Event | None, source: Source) -> list[Sequence[int]]:
        """The attempts whose words a correction may not have learned again."""
        if source.vouches or self._settings.echo == "keep":
            return []
        attempts = [
            each
            for each in (*self.turns.parts(begin), attempt)
            if each is not None and each.kind == "attempt"
        ]
        return [self.turns.content(each)["tokens"] for each in attempts]

    def _row(
        self,
        messages: Sequence[Message],
        tools: Sequence[dict[str, Any]] = (),
        masked: Sequence[Sequence[int]] = (),
    ) -> Row:
        encoded = self._encode(messages, tools)
        if masked:
            (positions,) = np.nonzero(encoded.is_target & (encoded.gamma == 0))
            repeats = np.zeros(len(encoded.tokens), bool)
            repeats[positions] = copied(encoded.tokens[positions].tolist(), masked)
            encoded = encoded._replace(is_target=encoded.is_target & ~repeats)
        return make_row(encoded, WEIGHTING)

    def _encode(
        self, messages: Sequence[Message], tools: Sequence[dict[str, Any]], *, open_turn: bool = False
    ) -> Encoded:
        episode = Episode(id="conversation", messages=tuple(messages), tools=tuple(tools))
        render = protocol.renderer(self.format, ("teacher",), [episode], self._tokenizer, open_turn=open_turn)
        return encode(render(episode), self._tokenizer)


def read_messages(given: Any) -> list[dict[str, Any]]:
    """{role, text} of each message: of a text, which is a question, or of mappings with role and content.
    Raises BadInput for anything else."""
    if isinstance(given, str):
        given = [{"role": "user", "content": given}]
    read = list(_messages(given))
    if not read:
        raise BadInput("there are no messages: give at least a question")
    return read


def _messages(given: Any) -> Iterator[dict[str, Any]]:
    for n, each in enumerate(given, start=1):
        record = {"role": each.role, "content": each.content} if isinstance(each, Message) else each
        if not isinstance(record, Mapping) or not isinstance(record.get("content"), str):
            raise BadInput(f"message {n}: a message has a role and a content, both texts")
        if record.get("role") not in trust.SPEAKERS:
            raise BadInput(f"message {n}: roles are {', '.join(trust.SPEAKERS)}")
        read: dict[str, Any] = {"role": record["role"], "text": record["content"]}
        if record.get("tool_calls"):
            calls: Any = record["tool_calls"]
            read["calls"] = [asdict(ToolCall(**call)) for call in calls]
        if record.get("tool_call_id") is not None:
            read["call_id"] = record["tool_call_id"]
        yield read
