"""The course of a learning step: plan, work, gate, outcome; and what a crash between them needs.

No plan in the log: nothing has happened. A plan without a state: the same work, the same bits. A state
without an outcome: the gate asks again, and decides the same.
"""

from collections.abc import Callable
from typing import Any

from cicjax.agent import gate, replay
from cicjax.agent.events import Draft, Event
from cicjax.agent.gate import Items, Outcomes
from cicjax.agent.home import Home
from cicjax.agent.learner import States
from cicjax.agent.lessons import Lessons
from cicjax.agent.retention import surplus
from cicjax.agent.store import Store
from cicjax.agent.versions import FORGOTTEN, KEPT, REJECTED, SERVED, History, Version, window
from cicjax.errors import Corrupted
from cicjax.files import numbered
from cicjax.model import qwen2
from cicjax.provenance.transcript import Author
from cicjax.sampling.sampler import Sampler
from cicjax.training import checkpoints
from cicjax.training import steps as training
from cicjax.training.batches import Row
from cicjax.training.learner import Diverged
from cicjax.training.policy import LoadedPolicy, decoding

Pause = Callable[[], None]


class Steps:
    """Takes the steps of one home."""

    def __init__(
        self, home: Home, policy: LoadedPolicy, store: Store, history: History, lessons: Lessons
    ) -> None:
        self._policy, self._store, self._history, self._lessons = policy, store, history, lessons
        self._identity, self._settings = home.identity, home.identity.settings
        self.states = States(home.folder, policy, self._settings)
        self._newest: tuple[int, training.TrainState] | None = None
        self._items: Items | None = None
        # Who answers a gate's problems as a version: whoever shares the device puts somebody else here.
        self.sampler: Callable[[int], gate.Answers] = self._sampler
        self._answers: dict[int, Outcomes] = {}

    def next(self, pause: Pause | None = None) -> Version | None:
        """Take the step that was planned and not ended, or the one that is due; None where there is none."""
        with self._store.held():
            planned = self._history.open_plan() or self._plan()
        return None if planned is None else self._take(planned, pause)

    def settle(self) -> None:
        """Take the step that was planned and not ended."""
        if (planned := self._history.open_plan()) is not None:
            self._take(planned, None)

    def adapter(self, number: int) -> qwen2.Tree:
        """The adapter of a version."""
        return self._state(number).adapter

    def repair(self) -> None:
        """Finish what a crash may have left: versions that need not stay, what a forgotten source said."""
        numbered.sweep(self.states.all)
        self.prune()
        if self._newest and self._history.versions[self._newest[0]].state == FORGOTTEN:
            self._newest = None
        self._answers = {
            n: o for n, o in self._answers.items() if self._history.versions[n].state != FORGOTTEN
        }
        erased = {event.facts["source"] for event in self._store.events() if event.kind == "erase"}
        if erased:
            self._store.erase(said_by(self._store, erased))

    def prune(self, *, until: int | None = None) -> list[int]:
        """Remove the versions that need not stay, and give their numbers; with `until` not those that a later
        one than that comes from."""
        gone = surplus(self.states.all, self._history, until=until)
        for number in gone:
            numbered.discard(self.states.of(number))
        return gone

    def _plan(self) -> Version | None:
        history, settings = self._history, self._settings
        taught = [each for each in history.lessons.values() if not history.forgotten(each)]
        lessons = window(history.waiting(), history.marks, size=settings.lessons_per_step, taught=taught)
        if not lessons:
            return None
        parent = history.versions[history.head]
        seeds = [seq for seq, source in history.seeds.items() if source not in history.excluded]
        learned = [history.lessons[number].seq for number in history.learned()]
        counts = settings.replay_seed, settings.replay_lessons
        facts = {
            "version": max(history.versions) + 1,
            "parent": parent.number,
            "lessons": [lesson.number for lesson in lessons],
            "replay": replay.draw(settings.seed, parent.depth + 1, seeds, learned, counts),
        }
        self._store.append(Draft(kind="plan", source="agent", author=Author.SYSTEM, facts=facts))
        return history.open_plan()

    def rows(self, version: Version) -> list[Row]:
        """The rows of a step: its lessons, then what is replayed."""
        events = [self._store.event(self._history.lessons[number].seq) for number in version.lessons]
        events += [self._store.event(seq) for seq in version.replay]
        return [row for event in events for row in self._lessons.rows(event, self._source_of(event))]

    def _source_of(self, event: Event) -> Any:
        """The source as it was declared when it taught."""
        return self._history.source_at(event.source, event.seq)

    def _take(self, version: Version, pause: Pause | None) -> Version:
        assert version.parent is not None
        try:
            state = self._work(version, self._state(version.parent), pause)
        except Diverged:
            numbered.discard(self.states.of(version.number))
            return self._ended(version, REJECTED, "", {}, reason="none of its updates was finite")
        self._newest = version.number, state
        state_of, numbers = SERVED, dict[str, Any]()
        if (due := self._gated(version)) is not None:
            decision = self._decide(version, due)
            numbers = decision.numbers | {"reason": decision.reason}
            state_of = SERVED if decision.passed else REJECTED
        elif self._settings.gate.problems:
            state_of = KEPT
        return self._ended(version, state_of, checkpoints.fingerprint(state.adapter), numbers)

    def _ended(
        self, version: Version, state: str, digest: str, numbers: dict[str, Any], *, reason: str = ""
    ) -> Version:
        facts = {"version": version.number, "state": state, "digest": digest, "gate": numbers}
        self._store.append(
            Draft(kind="outcome", source="agent", author=Author.SYSTEM, facts=facts, reason=reason)
        )
        self.prune()
        return self._history.versions[version.number]

    def _work(
        self, version: Version, start: training.TrainState, pause: Pause | None = None
    ) -> training.TrainState:
        plan = self._store.event(version.plan)
        state = self.states.step(version, plan.digest, start, self.rows(version), pause)
        self.states.seal(version.number)
        return state

    def _state(self, number: int, *, compare: bool = True) -> training.TrainState:
        """The state of a version; one that did not stay on disk is made again from the nearest of its lineage
        that is there. Raises Corrupted where it comes out otherwise, unless told not to `compare`."""
        missing, state = list[Version](), None
        for version in self._history.lineage(number):
            if self._newest is not None and self._newest[0] == version.number:
                state = self._newest[1]
            elif version.number == 0 or self.states.here(version.number):
                state = self.states.load(version.number)
            if state is not None:
                break
            missing.append(version)
        assert state is not None
        for version in reversed(missing):
            state = self._work(version, state)
            if compare and checkpoints.fingerprint(state.adapter) != version.digest:
                numbered.discard(self.states.of(version.number))
                there = ", ".join(map(str, numbered.numbers(self.states.all)))
                raise Corrupted(
                    f"{self.states.of(version.number)}: made again it comes out otherwise; the same bits "
                    f"take the same libraries, kind of device and number of cores; on disk are {there}"
                )
        return state

    def remade(self, number: int) -> str:
        """The digest of a version, made from the log where it is not on disk."""
        return checkpoints.fingerprint(self._state(number, compare=False).adapter)

    def _gated(self, version: Version) -> Items | None:
        """The gate's problems, where this version meets it."""
        settings = self._settings.gate
        if not settings.problems or version.depth % settings.every:
            return None
        return self._known_items()

    def _known_items(self) -> Items:
        if self._items is None:
            self._items = self._read_items()
        return self._items

    def gate_length(self) -> int:
        """Tokens that the longest of the gate's problems takes with its answer; 0 without a gate."""
        if not self._settings.gate.problems:
            return 0
        items = self._known_items()
        return max(map(len, items.prompts)) + items.decoding.max_new_tokens

    def _read_items(self) -> Items:
        settings = self._settings
        task = self._identity.task()
        problems = gate.problems_of(task, settings.seed, settings.gate.problems)
        return Items(
            task=task,
            problems=problems,
            prompts=tuple(self._lessons.prompt(gate.asked(problem)) for problem in problems),
            tokenizer=self._policy.tokenizer,
            decoding=decoding(
                self._policy.tokenizer, max_new_tokens=settings.max_new_tokens, temperature=0.0
            ),
        )

    def _decide(self, version: Version, items: Items) -> gate.Decision:
        # A problem that somebody has taught is no test any more.
        taught = {
            event.facts["turn"]
            for event in self._store.events()
            if event.lesson is not None and event.seq < version.plan
        }
        kept = [n for n, problem in enumerate(items.problems) if gate.turn_of(problem) not in taught]
        serving, anchor = version.before, self._history.anchor
        outcomes = [self._outcomes(items, number) for number in (version.number, serving, anchor)]
        chosen = [each.of(kept) for each in outcomes]
        return gate.decide(chosen[0], chosen[1], chosen[2], self._settings.gate)

    def _outcomes(self, items: Items, number: int) -> Outcomes:
        if number not in self._answers:
            self._answers[number] = items.ask(self.sampler(number))
        return self._answers[number]

    def _sampler(self, number: int) -> Sampler:
        return Sampler(self._policy.model, self._policy.base, self.adapter(number))


def said_by(store: Store, sources: set[str]) -> list[str]:
    """Digests of what these sources said, and of what the agent answered them, as far as no other has said
    the same."""
    events = list(store.events())
    begun = {event.seq for event in events if event.kind == "begin" and event.source in sources}
    gone = {
        event.content
        for event in events
        if event.content and (event.source in sources or (event.kind == "attempt" and event.parent in begun))
    }
    kept = {
        event.content
        for event in events
        if event.source not in sources and not (event.kind == "attempt" and event.parent in begun)
    }
    return sorted(digest for digest in gone - kept if digest)
