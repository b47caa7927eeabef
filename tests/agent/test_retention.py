"""Which versions stay on disk: never fewer than what serving, going back and the gate need, and what was
removed comes back bit for bit."""

import random
import shutil
import threading

import jax
import numpy as np
import pytest

from cicjax.agent import whole
from cicjax.agent.continual import Agent
from cicjax.agent.events import Correction, Event
from cicjax.agent.retention import Retention, size, wanted
from cicjax.agent.settings import AgentSettings
from cicjax.agent.versions import FORGOTTEN, History
from cicjax.errors import BadInput, Corrupted
from cicjax.files import numbered
from cicjax.model.config import LoRAConfig
from cicjax.training.steps import Optimization

SETTINGS = AgentSettings(
    format="plain",
    lora=LoRAConfig(rank=2, alpha=4.0),
    optimization=Optimization(learning_rate=1e-2, warmup_steps=0),
    lessons_per_step=1,
    updates_per_step=1,
    max_new_tokens=4,
)
ALL, FEW = Retention(newest=0, every=0), Retention(newest=1, every=3)


def lived(home, thin, retention, *, lessons=8):
    agent = Agent.open(home, thin, SETTINGS)
    agent.retain(retention)
    for number in range(lessons):
        attempt = agent.act(f"What is {number} + 1?", seed=number)
        source = "mallory" if number == lessons - 2 else "alice"
        agent.observe(attempt.id, Correction(f"It is {number + 1}."), source=source)
        agent.learn()
    return agent


def there(agent):
    return numbered.numbers(agent.home.folder / "versions")


def states(agent):
    return [jax.tree.map(np.asarray, agent.steps._state(each.number)) for each in agent.versions()]


def test_what_was_removed_comes_back_bit_for_bit(thin, tmp_path):
    with lived(tmp_path / "all", thin, ALL) as full, lived(tmp_path / "few", thin, FEW) as few:
        assert there(full) == list(range(9)) and there(few) == [0, 3, 6, 7, 8]
        assert few.status()["on_disk"] == [0, 3, 6, 7, 8]
        assert 0 < few.status()["disk_bytes"] < full.status()["disk_bytes"]
        assert whole.verify(few.home.folder) == []
        jax.tree.map(np.testing.assert_array_equal, states(few), states(full))
        assert there(few) == list(range(9)) and few.retain(FEW) == [1, 2, 4, 5]
        for each in (full, few):
            each.serve(5)
            attempt = each.act("What is 9 + 1?", version=2, seed=9)
            each.observe(attempt.id, Correction("It is 10."), source="alice")
            assert [version.parent for version in each.learn()] == [5]
            each.forget("mallory")  # versions 7 and 8
        assert there(few) == [0, 3, 5, 6, 9]
        digests = [[version.digest for version in each.versions()] for each in (full, few)]
        assert digests[0] == digests[1] and few.history.serving == 9
        assert [version.state for version in few.versions()].count(FORGOTTEN) == 2


def test_a_home_that_was_pruned_is_rebuilt_and_pruned_again(thin, tmp_path):
    with lived(tmp_path / "home", thin, FEW) as agent:
        kept = there(agent)
    most = 0
    for each in whole.rebuild(tmp_path / "home", tmp_path / "again"):
        assert each.rebuilt == each.digest
        most = max(most, len(numbered.numbers(tmp_path / "again" / "versions")))
    assert most <= len(kept) + 1 and whole.verify(tmp_path / "again") == []
    assert numbered.numbers(tmp_path / "again" / "versions") == kept


def test_a_removal_that_was_cut_short_is_finished_and_another_machines_bits_are_refused(
    thin, tmp_path, monkeypatch
):
    home = tmp_path / "home"
    with lived(home, thin, FEW, lessons=5) as agent:
        assert there(agent) == [0, 3, 4, 5]
    (home / "versions" / "4").rename(home / "versions" / ".removing-4")
    (home / "versions" / ".removing-4" / "files.json").unlink()
    assert whole.verify(home) == []
    with Agent.open(home) as agent:
        assert not (home / "versions" / ".removing-4").exists()
        honest = agent.steps.rows
        monkeypatch.setattr(agent.steps, "rows", lambda version: honest(agent.history.versions[1]))
        with pytest.raises(Corrupted, match=r"versions/4: made again it comes out otherwise.* 0, 3, 5"):
            agent.act("Why?", version=4)
        assert there(agent) == [0, 3, 5] and agent.act("Why?").version == 5
    with pytest.raises(BadInput, match="--newest is 0 or more"):
        Retention(newest=-1)


def test_what_a_home_takes_is_said_while_versions_come_and_go(tmp_path):
    (tmp_path / "stays").write_bytes(b"12345")
    over = threading.Event()

    def saving():
        while not over.is_set():
            (tmp_path / "a" / "b" / "c").mkdir(parents=True)
            (tmp_path / "a" / "b" / "d").write_bytes(b"")
            shutil.rmtree(tmp_path / "a")

    thread = threading.Thread(target=saving)
    thread.start()
    try:
        assert {size(tmp_path) for _ in range(2000)} == {5}
    finally:
        over.set()
        thread.join()


def test_whatever_happens_what_is_needed_stays():
    for seed in range(60):
        rng, history, log = random.Random(seed), History(), Log()
        retention = Retention(newest=rng.randint(1, 3), every=rng.randint(0, 4))
        for _ in range(50):
            history.apply(log.next(rng, history))
            history.retention = vars(retention)
            stay = wanted(history)
            serving = history.versions[history.serving]
            needed = {0, history.head, history.serving, history.anchor, serving.parent or 0}
            needed |= {history.open_plan().number} if history.open_plan() else set()
            living = {n for n, version in history.versions.items() if version.state != FORGOTTEN}
            assert needed <= stay <= living, (seed, needed, stay)
            for number in living if retention.every else ():
                far = next(n for n, each in enumerate(history.lineage(number)) if each.number in stay)
                assert far < retention.every


class Log:
    """Events of a life at random, as an agent would log them."""

    def __init__(self):
        self.seq = self.lessons = 0

    def next(self, rng, history):
        if not history.versions:
            return self.event("home", digest="0")
        if "alice" not in history.sources:
            return self.event("source", name="alice", rights=[], vouches=False)
        if "mallory" not in history.sources:
            return self.event("source", name="mallory", rights=[], vouches=False)
        if (planned := history.open_plan()) is not None:
            state = rng.choice(["served", "served", "kept", "rejected"])
            return self.event("outcome", version=planned.number, state=state, digest=str(planned.number))
        waiting = history.waiting()
        if waiting and rng.random() < 0.6:
            lessons = [each.number for each in waiting[:2]]
            version, parent = max(history.versions) + 1, history.head
            return self.event("plan", version=version, parent=parent, lessons=lessons, replay=[])
        draw = rng.random()
        living = [n for n, version in history.versions.items() if version.state not in (FORGOTTEN, "planned")]
        if draw < 0.1:
            return self.event("serve", version=rng.choice(living), confirmed=rng.random() < 0.5)
        if draw < 0.13 and not history.excluded:
            return self.event("exclude", source="mallory")
        self.lessons += 1
        source = rng.choice(["alice", "alice", "mallory"])
        return self.event("correction", lesson=self.lessons, source=source, asked_by="alice")

    def event(self, kind, *, lesson=None, source="local", **facts):
        self.seq += 1
        facts = {"source": source, **facts} if kind == "exclude" else facts
        return Event(
            seq=self.seq, id=str(self.seq), kind=kind, parent=None, role="", author=1, source=source,
            content=None, key="", version=None, finish="", solved=-1, lesson=lesson, reason="", facts=facts,
            idempotency=None, body="", at="",
        )  # fmt: skip
