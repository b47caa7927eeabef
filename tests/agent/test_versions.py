"""What a log amounts to, without a model: lives at random, and a source that is forgotten in each."""

import hashlib
import random
from itertools import count

import pytest

from cicjax.agent.events import Event
from cicjax.agent.settings import AgentSettings, GateSettings
from cicjax.agent.steps import Steps
from cicjax.agent.versions import FORGOTTEN, KEPT, REJECTED, SERVED, History


class Life:
    """An agent's log, its planner, and versions that are digests of what they learned; a gate that rejects
    by chance, the same chance for the same version."""

    def __init__(self, *, every=1, rejects=4, size=3):
        self.history, self.names, self._seq = History(), {}, count(1)
        gate = GateSettings(problems=8, every=every)
        settings = AgentSettings(task="stem", lessons_per_step=size, gate=gate)
        self._steps = object.__new__(Steps)
        self._steps._history, self._steps._settings, self._steps._store = self.history, settings, self
        self._rejects = rejects
        self.log("home", digest="start")
        for name in ("seed", "alice", "bob", "mallory"):
            self.log("source", name=name, rights=[], vouches=False)

    def append(self, draft):
        self.log(draft.kind, **draft.facts)

    def log(self, kind, *, by="local", lesson=None, **facts):
        event = Event(
            seq=next(self._seq), id="", kind=kind, parent=None, role="", author=1, source=by, content=None,
            key="", version=None, finish="", solved=-1, lesson=lesson, reason="", facts=facts,
            idempotency=None, body="", at="",
        )  # fmt: skip
        self.history.apply(event)
        return event

    def teach(self, name, source):
        event = self.log("correction", by=source, lesson=len(self.history.lessons) + 1, asked_by="user")
        self.names[event.seq] = name

    def learn(self, *, due=True):
        if not due and self.history.waiting():
            self.log("learn")
        while (plan := self._steps._plan()) is not None:
            self.end(plan)

    def end(self, plan):
        history, gate = self.history, self._steps._settings.gate
        learned = [self.names[history.lessons[number].seq] for number in plan.lessons]
        replayed = [self.names[seq] for seq in plan.replay]
        digest = hashed(history.versions[plan.parent].digest, *learned, "replay", *replayed)
        state = KEPT
        if plan.depth % gate.every == 0:
            chance = int(hashed(digest, history.versions[history.serving].digest)[:8], 16)
            state = REJECTED if self._rejects and chance % self._rejects == 0 else SERVED
        self.log("outcome", version=plan.number, state=state, digest=digest)

    def told(self):
        """The head, the serving version, and what became of every lesson that is left."""
        history = self.history
        fates = {
            self.names[lesson.seq]: history.state_of(number).split()[0]
            for number, lesson in history.lessons.items()
            if not history.forgotten(lesson)
        }
        return history.versions[history.head].digest, history.versions[history.serving].digest, fates


def hashed(*parts):
    return hashlib.sha256("|".join(parts).encode()).hexdigest()


def lived(seed, *, without=(), forget=(), **settings):
    """A life of a seed, some sources left out of it or forgotten in the end."""
    rng, life = random.Random(seed), Life(**settings)
    for n in range(rng.randint(8, 30)):
        source, asks = rng.choice(["alice", "alice", "bob", "mallory"]), rng.random()
        if source not in without:
            life.teach(f"{source} {n}", source)
        if asks < 0.7:
            life.learn(due=asks < 0.5)
    for source in forget:
        life.log("exclude", source=source)
        life.learn()
    life.learn()
    return life


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("forget", [("mallory",), ("mallory", "bob"), ("bob", "mallory")])
def test_forgotten_a_source_leaves_the_versions_and_fates_of_a_life_without_it(forget, every):
    rejected = 0
    for seed in range(150):
        after = lived(seed, forget=forget, every=every)
        assert after.told() == lived(seed, without=forget, every=every).told(), seed
        rejected += any(version.state == REJECTED for version in after.history.versions.values())
    assert rejected > 20


def test_where_a_person_has_gone_back_that_stands():
    """Lessons 1-6 of alice, 7 of mallory, 8 of alice; back to version 5, and on from there."""
    life = Life(size=1, rejects=0)
    for n in range(1, 9):
        life.teach(str(n), "mallory" if n == 7 else "alice")
        life.learn()
    life.log("serve", version=5, confirmed=False)
    life.teach("9", "alice")
    life.learn()
    life.log("exclude", source="mallory")
    assert (life.history.head, life.history.serving, life.history.waiting()) == (9, 9, [])
    assert [life.history.versions[n].state for n in (6, 7, 8, 9)] == [SERVED, FORGOTTEN, FORGOTTEN, SERVED]
    assert life.history.state_of(6) == "set aside: rolled back to version 5"


def test_where_a_person_has_chosen_what_is_forgotten_now_the_choice_before_it_holds():
    life = Life(size=1, rejects=0)
    for n, source in enumerate(("alice", "mallory", "alice"), start=1):
        life.teach(str(n), source)
        life.learn()
    life.log("serve", version=1, confirmed=False)
    life.log("serve", version=3, confirmed=True)
    life.teach("4", "alice")
    life.learn()
    life.log("exclude", source="mallory")
    assert (life.history.head, life.history.serving, life.history.anchor) == (1, 1, 0)
    assert [lesson.number for lesson in life.history.waiting()] == [3, 4]


def test_nothing_points_at_what_is_forgotten():
    for seed in range(300):
        rng = random.Random(seed)
        life = Life(every=rng.randint(1, 2), rejects=rng.choice([0, 3]), size=2)
        for n in range(30):
            draw = rng.random()
            if draw < 0.7:
                life.teach(str(n), rng.choice(["alice", "bob", "mallory"]))
                life.learn(due=draw < 0.5)
            elif draw < 0.9:
                living = [v.number for v in life.history.versions.values() if v.state != FORGOTTEN]
                life.log("serve", version=rng.choice(living), confirmed=draw < 0.75)
            elif rng.random() < 0.3:
                life.log("exclude", source=rng.choice(["bob", "mallory"]))
            history = life.history
            pointed = {history.head, history.serving, history.anchor}
            assert FORGOTTEN not in {history.versions[number].state for number in pointed}, seed
            assert history.serving in {each.number for each in history.lineage(history.head)}
            learned = history.learned()
            assert len(set(learned)) == len(learned) and not history.aside.keys() & set(learned)
            assert not {lesson.number for lesson in history.waiting()} & {*learned, *history.aside}
