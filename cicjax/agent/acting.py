"""An answer, from the messages that ask for it to the attempt in the log.

`begin` is committed before the first token is drawn and `attempt` before the last is shown: whoever saw an
answer end can give feedback on it after any crash. An assistant's turn that comes in is the agent's only
where the agent sampled that text after that very conversation; any other is its sender's, and context.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from cicjax.agent import trust
from cicjax.agent.events import Attempt, Draft, Event, digest_of
from cicjax.agent.lessons import Lessons
from cicjax.agent.store import Known, Store
from cicjax.agent.trust import Source
from cicjax.provenance.calls import calls_of
from cicjax.provenance.chat import CALL
from cicjax.provenance.tokenizer import Tokenizer
from cicjax.provenance.transcript import Author, ToolCall
from cicjax.sampling.sampler import Decoding


@dataclass(frozen=True, kw_only=True)
class Begun:
    """An answer that was begun: its event, whose `id` is the receipt, the ids to continue, the version that
    answers and the seed of its samples."""

    event: Event
    prompt: list[int]
    version: int
    seed: int

    @property
    def id(self) -> str:
        return self.event.id


def turn_key(before: str, role: str, said: Any) -> str:
    """What a turn is looked up by: the conversation up to its end."""
    return digest_of([before, role, said])


def spoken(text: str, calls: Sequence[ToolCall]) -> Any:
    """What a turn says, as a client keeps it: its text, and apart from that the calls."""
    if not calls:
        return text
    return [text.partition(CALL[0].name)[0], [[call.name, call.arguments] for call in calls]]


def said_in(message: dict[str, Any]) -> Any:
    """`spoken`, of a message as the log keeps it."""
    calls = message.get("calls")
    return [message["text"], [[c["name"], c["arguments"]] for c in calls]] if calls else message["text"]


class Conversations:
    """Begins and ends answers in a log."""

    def __init__(self, store: Store, lessons: Lessons, tokenizer: Tokenizer) -> None:
        self._store, self._lessons, self._tokenizer = store, lessons, tokenizer

    def begin(
        self,
        messages: Sequence[dict[str, Any]],
        source: Source,
        *,
        version: int,
        decoding: Decoding,
        seed: int | None,
        idempotency: str | None = None,
        tools: Sequence[dict[str, Any]] = (),
        check: Callable[[Sequence[int]], None] = lambda prompt: None,
    ) -> Begun:
        """Log the messages and that an answer begins. Raises BadInput for messages or tools that the protocol
        cannot hold, and what `check` raises for their ids; nothing is logged then."""
        source.needs("chat", "ask")
        drafts, key = list[Any](), digest_of(list(tools)) if tools else ""
        for message in messages:
            key = turn_key(key, message["role"], said_in(message))
            drafts.append(self._turn(message, source, key))
        how = asdict(decoding)
        how = how | {"stop_ids": list(decoding.stop_ids), "stop_strings": list(decoding.stop_strings)}

        def started(store: Store, before: Sequence[Event]) -> Draft:
            """The event that begins an answer, which names the turns before it by their numbers."""
            parts = [event.seq for event in before]
            check(self._lessons.prompt([self._lessons.turns.message(event) for event in before], tools))
            return Draft(
                kind="begin",
                content={"tools": list(tools)} if tools else None,
                source=source.name,
                author=Author.AGENT,
                version=version,
                facts={"parts": parts, "turn": key, "decoding": how, "seed": seed},
                idempotency=idempotency,
            )

        *parts, event = self._store.append(*drafts, started)
        prompt = self._lessons.prompt([self._lessons.turns.message(part) for part in parts], tools)
        # Without a seed of its own an answer is numbered by the event that begins it.
        return Begun(event=event, prompt=prompt, version=version, seed=event.seq if seed is None else seed)

    def _turn(self, message: dict[str, Any], source: Source, key: str) -> Any:
        draft = Draft(
            kind="message",
            source=source.name,
            author=trust.SPEAKERS[message["role"]],
            role=message["role"],
            content=message,
            key=key,
            idempotency=f"turn {key}",
        )

        def known(store: Store, before: Sequence[Event]) -> Draft | Known:
            # The agent's own turn stands for itself, by its event.
            attempts = [event for event in store.by_key(key) if event.kind == "attempt"]
            return Known(attempts[-1]) if attempts else draft

        return known if message["role"] == "assistant" else draft

    def finish(self, begun: Begun, tokens: Sequence[int], logprobs: Sequence[float], finish: str) -> Attempt:
        """Log what was sampled, as it was delivered."""
        text = self._tokenizer.decode(tokens, skip_controls=True)
        calls = calls_of(tokens, self._tokenizer) if begun.event.content else ()
        content = {
            "text": text,
            "tokens": [int(token) for token in tokens],
            "logprobs": [float(logprob) for logprob in logprobs],
        }
        self._store.append(
            Draft(
                kind="attempt",
                source="agent",
                author=Author.AGENT,
                parent=begun.event.seq,
                role="assistant",
                content=content,
                key=turn_key(begun.event.facts["turn"], "assistant", spoken(text, calls)),
                version=begun.version,
                finish=finish,
            )
        )
        return read_attempt(begun.event, content, finish)


def read_attempt(begin: Event, content: dict[str, Any], finish: str) -> Attempt:
    """The attempt that an answer came to."""
    assert begin.version is not None
    return Attempt(
        id=begin.id,
        seq=begin.seq,
        version=begin.version,
        text=content["text"],
        tokens=tuple(content["tokens"]),
        logprobs=tuple(content["logprobs"]),
        finish=finish,
    )
