"""Turns of a log as messages: what the agent saw when it began an answer, and what the answer came to. Needs
no model and no tokenizer."""

from dataclasses import replace
from typing import Any

from cicjax.agent.events import Event
from cicjax.agent.store import Store
from cicjax.errors import Corrupted
from cicjax.logs import native
from cicjax.provenance.transcript import NO_VERDICT, Author, Episode, Message, ToolCall


class Turns:
    """Reads the turns of a store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def message(self, event: Event) -> Message:
        """A turn as context. Raises Corrupted where its content was erased."""
        content = self.content(event)
        if event.kind == "attempt":
            return Message(
                role="assistant",
                content=content["text"],
                author=Author.AGENT,
                tokens=tuple(content["tokens"]),
                logprobs=tuple(content["logprobs"]),
                truncated=event.finish != "stop",
                context_only=True,
            )
        calls = tuple(ToolCall(**call) for call in content.get("calls", ()))
        return Message(
            role=event.role,
            content=content["text"],
            author=Author(event.author),
            context_only=True,
            tool_calls=calls,
            tool_call_id=content.get("call_id"),
        )

    def tools(self, begin: Event) -> tuple[dict[str, Any], ...]:
        """The schemas of the functions that it might call."""
        return tuple(self.content(begin)["tools"]) if begin.content else ()

    def seen(self, begin: Event) -> list[Message]:
        """What the agent saw when it began an answer."""
        return [self.message(each) for each in self.parts(begin)]

    def parts(self, begin: Event) -> list[Event]:
        """The events that it saw."""
        return [self._store.event(seq) for seq in begin.facts["parts"]]

    def attempt_of(self, begin: Event) -> Event | None:
        """The answer that was begun; None where it never ended."""
        return next((each for each in self._store.of_parent(begin.seq) if each.kind == "attempt"), None)

    def verdict_on(self, begin: Event, *, before: int | None = None) -> int:
        """The last verdict on an answer, up to an event."""
        said = [
            each.solved
            for each in self._store.of_parent(begin.seq)
            if each.kind == "verdict" and (before is None or each.seq < before)
        ]
        return said[-1] if said else NO_VERDICT

    def transcript(self, event: Event) -> Episode:
        """A lesson as a transcript: what was asked, the attempt, what it should have been."""
        if event.kind == "demonstration":
            return native.episode_of(self.content(event), where=f"event {event.seq}")
        begin = self.about(event)
        attempt, messages = self.attempt_of(begin), self.seen(begin)
        if attempt is not None:
            solved = self.verdict_on(begin, before=event.seq)
            messages.append(replace(self.message(attempt), context_only=False, solved=solved))
        text = self.content(event)["text"]
        correction = Message(role="assistant", content=text, author=Author.TEACHER)
        return Episode(
            id=f"lesson-{event.lesson}",
            source=event.source,
            messages=(*messages, correction),
            tools=self.tools(begin),
        )

    def about(self, event: Event) -> Event:
        """The beginning of the answer that an event is about."""
        assert event.parent is not None
        return self._store.event(event.parent)

    def content(self, event: Event) -> Any:
        """What an event says. Raises Corrupted where it was erased."""
        content = self._store.content(event)
        if content is None:
            raise Erased(f"{self._store.path}: what event {event.seq} said was erased")
        return content


class Erased(Corrupted):
    """What an event said is not there any more, by a person's wish."""
