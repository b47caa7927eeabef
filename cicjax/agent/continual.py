"""The agent: act, observe, learn. Everything that happens is in its log before anybody hears of it.

with Agent.open(home) as agent:
    attempt = agent.act("What is 6 times 7?")
    agent.observe(attempt.id, Correction("6 * 7 = 42"), source="teacher")
    agent.learn()
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from cicjax import signals
from cicjax.agent import trust
from cicjax.agent.acting import Begun, Conversations
from cicjax.agent.events import Attempt, Draft, Event, Receipt
from cicjax.agent.home import Home, holding
from cicjax.agent.lessons import Lessons, read_messages
from cicjax.agent.observing import Check, Observations, Said
from cicjax.agent.retention import Retention, disk
from cicjax.agent.settings import AgentSettings
from cicjax.agent.steps import Pause, Steps
from cicjax.agent.store import Store
from cicjax.agent.trust import OPERATOR, Source
from cicjax.agent.versions import FORGOTTEN, History, Version
from cicjax.errors import BadInput
from cicjax.provenance.transcript import Author, Episode
from cicjax.sampling.draw import row_keys
from cicjax.sampling.sampler import Completion, Decoding, Sampler
from cicjax.training.batches import Row
from cicjax.training.policy import decoding as decoding_of


class Agent:
    """An agent in its home, which it holds alone. `Agent.new` makes one, `Agent.open` goes on with it.

    `check(questions, answer)` is the verifier of a task, where there is one. Raises Locked where another
    process is at work in the home, BadInput where none lives there, Corrupted where bytes have changed.
    """

    def __init__(self, home: Path, *, model: str | None = None, check: Check | None = None) -> None:
        with ExitStack() as stack:
            self.home = stack.enter_context(holding(home))
            self.policy = self.home.load_base(model)
            self.settings = self.home.identity.settings
            self.history = History()
            self.store = stack.enter_context(Store(home, follow=self.history.apply))
            tokenizer = self.policy.tokenizer
            self._lessons = Lessons(self.store, tokenizer, self.settings)
            self.turns = self._lessons.turns
            self._conversations = Conversations(self.store, self._lessons, tokenizer)
            self._observations = Observations(
                store=self.store,
                history=self.history,
                lessons=self._lessons,
                settings=self.settings,
                check=check,
            )
            self.steps = Steps(self.home, self.policy, self.store, self.history, self._lessons)
            self._samplers: dict[int, Sampler] = {}
            self.steps.repair()
            self._stack = stack.pop_all()

    @classmethod
    def open(
        cls,
        home: str | Path,
        model: str | None = None,
        settings: AgentSettings | None = None,
        *,
        check: Check | None = None,
    ) -> Self:
        """The agent that lives in `home`; where none does, a new one on `model` (a folder or hub id, None:
        the embedded base). Raises BadInput for settings other than those it has."""
        home = Path(home)
        if not Home.exists(home):
            Home.make(home, model=model, settings=settings or AgentSettings())
        elif settings is not None:
            Home.read(home).check(settings)
        return cls(home, model=model, check=check)

    def act(
        self,
        messages: Any,
        *,
        decoding: Decoding | None = None,
        source: str = OPERATOR,
        version: int | None = None,
        seed: int | None = None,
    ) -> Attempt:
        """An answer to messages (a text, or mappings of role and content) by the serving version, or by
        another; greedy unless `decoding` says otherwise."""
        return self.act_all([messages], decoding=decoding, source=source, version=version, seeds=[seed])[0]

    def act_all(
        self,
        conversations: Sequence[Any],
        *,
        decoding: Decoding | None = None,
        source: str = OPERATOR,
        version: int | None = None,
        seeds: Sequence[int | None] | None = None,
    ) -> list[Attempt]:
        """Answers to several conversations at once."""
        how, seeds = decoding or self.decoding(), seeds or [None] * len(conversations)
        begun = [
            self.begin(messages, decoding=how, source=source, version=version, seed=seed)
            for messages, seed in zip(conversations, seeds, strict=True)
        ]
        completions = self._sample(begun, how)
        return [self.finish(each, *completion) for each, completion in zip(begun, completions, strict=True)]

    def decoding(self, *, temperature: float = 0.0, max_new_tokens: int | None = None) -> Decoding:
        """How answers are drawn; in the plain protocol one ends where another question would begin."""
        stop_strings = ("\nQuestion:",) if self._lessons.format == "plain" else ()
        return decoding_of(
            self.policy.tokenizer,
            max_new_tokens=max_new_tokens or self.settings.max_new_tokens,
            temperature=temperature,
            stop_strings=stop_strings,
        )

    def begin(
        self,
        messages: Any,
        *,
        decoding: Decoding,
        source: str = OPERATOR,
        version: int | None = None,
        seed: int | None = None,
        idempotency: str | None = None,
        tools: Sequence[dict[str, Any]] = (),
        check: Callable[[Sequence[int]], None] = lambda prompt: None,
    ) -> Begun:
        """The first half of `act`, for whoever draws the tokens: the answer is begun, its receipt given.
        Nothing is begun where `check` raises for the ids to continue."""
        number = self.history.serving if version is None else self.history.version(version).number
        self.servable(number)
        return self._conversations.begin(
            read_messages(messages),
            self.source(source),
            version=number,
            decoding=decoding,
            seed=seed,
            idempotency=None if idempotency is None else f"key {idempotency}",
            tools=tools,
            check=check,
        )

    def finish(self, begun: Begun, tokens: Sequence[int], logprobs: Sequence[float], finish: str) -> Attempt:
        """The second half: log what was sampled, as it was delivered."""
        return self._conversations.finish(begun, tokens, logprobs, finish)

    def _sample(self, begun: Sequence[Begun], how: Decoding) -> list[Completion]:
        completions: dict[str, Completion] = {}
        for number in {each.version for each in begun}:
            own = [each for each in begun if each.version == number]
            keys = row_keys(self.settings.seed, "act", [each.seed for each in own], [0] * len(own))
            prompts = [each.prompt for each in own]
            drawn = self.sampler(number).sample(prompts, keys, how, decode=self.policy.tokenizer.decode)
            completions |= {each.id: completion for each, completion in zip(own, drawn, strict=True)}
        return [completions[each.id] for each in begun]

    def sampler(self, version: int) -> Sampler:
        """A version, ready to sample; the newest few are kept."""
        if version not in self._samplers:
            while len(self._samplers) >= 4:
                self._samplers.pop(next(iter(self._samplers)))
            adapter = self.steps.adapter(version)
            self._samplers[version] = Sampler(self.policy.model, self.policy.base, adapter)
        return self._samplers[version]

    def observe(
        self, about: str | None, said: Said, *, source: str = OPERATOR, idempotency: str | None = None
    ) -> Receipt:
        """Log what a source says about an answer (by its `id`), or a demonstration, which is about none.

        Gives the number of the lesson, or why it is none. The same idempotency key gives the same receipt.
        Raises Refused where the source may not say this.
        """
        event = None if about is None else self._begin_of(about)
        key = None if idempotency is None else f"key {idempotency}"
        return self._receive(self._observations.draft(event, said, self.source(source), key))

    def rows_about(self, begin: Event, lesson: Event | None = None) -> list[Row]:
        """The rows that an answer became with a lesson on it; without one the answer alone, of which nothing
        is learned."""
        if lesson is not None:
            return self._lessons.rows(lesson, self.history.source_at(lesson.source, lesson.seq))
        return [self._lessons.unlearned(begin)]

    def demonstrate(self, episode: Episode, *, source: str, replay: bool = False) -> Receipt:
        """Log a transcript, to learn from or to replay beside lessons."""
        return self._receive(self._observations.episode(episode, self.source(source), replay=replay))

    def _receive(self, drafted: Any) -> Receipt:
        last = self.store.last
        (event,) = self.store.append(drafted)
        repeated = last is not None and event.seq <= last.seq
        return Receipt(
            id=event.id, seq=event.seq, lesson=event.lesson, reason=event.reason, repeated=repeated
        )

    def _begin_of(self, id: str) -> Event:
        event = self.store.by_id(id)
        if event.kind == "attempt" and event.parent is not None:
            event = self.store.event(event.parent)
        if event.kind != "begin":
            raise BadInput(f"{id} is the receipt of a {event.kind}, not of an answer")
        return event

    def source(self, name: str) -> Source:
        """A source by its name; one that nobody has declared gets the rights of the settings. Raises Refused
        where those are none, or where the source was forgotten."""
        if name in self.history.excluded:
            raise trust.Refused(f"the source {name} was forgotten; use another name")
        if name not in self.history.sources:
            if not self.settings.new_sources:
                raise trust.Refused(f"nobody has declared a source {name}; declare it and say what it may")
            self.declare(name, self.settings.new_sources)
        return self.history.sources[name]

    def declare(self, name: str, rights: Sequence[str], *, vouches: bool = False) -> Source:
        """Say what a source may from now on."""
        self.store.append(trust.declaration(name, rights, vouches=vouches))
        return self.history.sources[name]

    def learn(self, *, due: bool = False, pause: Pause | None = None) -> list[Version]:
        """Learn the lessons that wait, step by step; with `due` full steps alone. `pause` is called between
        micro-batches. Gives the versions that were made."""
        return list(self.learning(due=due, pause=pause))

    def learning(self, *, due: bool = False, pause: Pause | None = None) -> Iterator[Version]:
        """`learn`, one version at a time."""
        with self.store.held():
            waiting = self.history.waiting()
            if not due and waiting and waiting[-1].seq > max(self.history.marks, default=0):
                # Those that are there now: in the log, for whenever these steps are taken again.
                self.store.append(Draft(kind="learn", source=OPERATOR, author=Author.SYSTEM))
        while (version := self.steps.next(pause)) is not None:
            yield version
            signals.check()

    def serve(self, number: int, *, reason: str = "", confirm: bool = False) -> Version:
        """Let this version serve, and go on from it, moments and all. Lessons that it has not learned are set
        aside. With `confirm` it becomes the gate's anchor."""
        self.steps.settle()
        version = self.history.version(number)
        self.servable(number)
        self.steps.adapter(number)  # made again where it did not stay on disk, before anything is decided
        facts = {"version": number, "confirmed": confirm}
        self.store.append(
            Draft(kind="serve", source=OPERATOR, author=Author.SYSTEM, facts=facts, reason=reason)
        )
        return version

    def rollback(self) -> Version:
        """Let the version before the serving one serve."""
        parent = self.history.versions[self.history.serving].parent
        if parent is None:
            raise BadInput("version 0 serves, and there is none before it")
        return self.serve(parent, reason="rollback")

    def servable(self, number: int) -> None:
        """Raise BadInput for a version that cannot serve any more, or never could."""
        if self.history.version(number).state == FORGOTTEN:
            raise BadInput(f"version {number} has learned from a source that was forgotten; choose another")
        if not self.history.version(number).digest:
            raise BadInput(f"nothing came of version {number}; choose another")

    def admit(self, lessons: Sequence[int]) -> None:
        """Let lessons that were set aside wait again."""
        if not lessons:
            raise BadInput("no lesson is named; `cicjax agent versions` has their numbers")
        unknown = [number for number in lessons if number not in self.history.aside]
        if unknown:
            raise BadInput(f"lesson {unknown[0]} was not set aside")
        facts = {"lessons": list(lessons)}
        self.store.append(Draft(kind="admit", source=OPERATOR, author=Author.SYSTEM, facts=facts))

    def forget(self, source: str, *, erase: bool = False, pause: Pause | None = None) -> list[Version]:
        """Forget a source: back to before its first lesson was learned, and the others' lessons since again,
        in steps as they would have been without it. With `erase` what it said is erased too.

        Gives the versions that were made. Raises BadInput where the source is not known.
        """
        self.steps.settle()
        if source not in self.history.sources:
            raise BadInput(f"there is no source {source}; there are {', '.join(self.history.sources)}")
        if source not in self.history.excluded:
            facts = {"source": source}
            self.store.append(Draft(kind="exclude", source=OPERATOR, author=Author.SYSTEM, facts=facts))
        self._samplers.clear()
        self.steps.repair()
        made = self.learn(due=True, pause=pause)
        if erase:
            self.store.append(
                Draft(kind="erase", source=OPERATOR, author=Author.SYSTEM, facts={"source": source})
            )
            self.steps.repair()
        return made

    def versions(self) -> list[Version]:
        """All versions, in the order in which they were made."""
        return [self.history.versions[number] for number in sorted(self.history.versions)]

    def retain(self, retention: Retention) -> list[int]:
        """Decide which versions stay on disk from now on, and give the numbers of those that were removed.
        One that is asked for again is made again from the log."""
        self.steps.settle()
        if asdict(retention) != self.history.retention:
            self.store.append(retention.draft())
        return self.steps.prune()

    def status(self) -> dict[str, Any]:
        """What an operator asks first, as JSON."""
        return self.history.status() | disk(self.home.folder)

    def close(self) -> None:
        """Close the log and let go of the home."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
