"""Killed at any moment, an agent loses no lesson and learns none twice: what it comes to is, bit for bit,
what it would have come to."""

import json
import multiprocessing
import os
import random
import signal
import sys
from collections import Counter
from pathlib import Path

import jax
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import life

from cicjax.agent import whole
from cicjax.agent.continual import Agent
from cicjax.agent.learner import LOSS
from cicjax.agent.steps import Steps
from cicjax.agent.versions import FORGOTTEN, REJECTED, SERVED
from cicjax.training import checkpoints
from cicjax.training.batches import shape_for
from cicjax.training.learner import Learner

# Processes of their own, forked from one that has imported what they need and done nothing with it.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["cicjax.agent.whole", "cicjax.tasks.stem"])
KILLS = {"KILL_SEED": 0, "KILLS": 200}


@pytest.fixture(scope="module", autouse=True)
def own_gate_alone_here():
    """A life puts a gate of its own in the place of the agent's."""
    before = Steps._read_items
    yield
    Steps._read_items = before


@pytest.fixture(scope="module")
def quiet(toy, tmp_path_factory):
    """A life that nobody cut short."""
    home = tmp_path_factory.mktemp("quiet") / "home"
    life.live(home, toy)
    return told(home)


def told(home):
    """What an agent came to: every version with what it learned, and the state that it goes on from."""
    with Agent.open(home) as agent:
        versions = [(v.number, v.parent, v.lessons, v.state, v.digest) for v in agent.versions()]
        fates = {number: agent.history.state_of(number) for number in agent.history.lessons}
        state = jax.tree.map(np.asarray, agent.steps._state(agent.history.head))
        return {"versions": versions, "fates": fates, "serving": agent.history.serving}, state


def went_on(home, toy, *point, seconds=300.0):
    """Whether a process that goes on with a life was killed, at a point or after so many seconds; it comes to
    its end otherwise."""
    process = FORKS.Process(target=life.begin, args=(str(home), toy, *point))
    process.start()
    process.join(seconds)
    if process.exitcode is None:
        process.kill()
        process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


def check(home, quiet):
    facts, state = told(home)
    assert facts == quiet[0]
    jax.tree.map(np.testing.assert_array_equal, state, quiet[1])
    assert whole.verify(home) == []


def test_the_life_has_all_that_can_go_wrong_in_it(quiet):
    facts, _ = quiet
    assert len(facts["fates"]) == life.QUESTIONS
    assert {"learned", "set"} == {fate.split()[0] for fate in facts["fates"].values()}
    assert REJECTED in {version[3] for version in facts["versions"]}
    assert any("rolled back" in fate for fate in facts["fates"].values())


def test_killed_at_every_named_point_it_comes_to_the_same(quiet, toy, tmp_path):
    home = tmp_path / "home"
    for number, point in enumerate(life.POINTS):
        assert went_on(home, toy, point, 1 if "serve" in point else 1 + number % 2), point
    assert not went_on(home, toy)
    check(home, quiet)


@pytest.mark.slow
def test_killed_two_hundred_times_it_comes_to_the_same(quiet, toy, tmp_path):
    """Half of the times at a named point, half at any moment."""
    seed, wanted = (int(os.environ.get(f"CICJAX_{name}", default)) for name, default in KILLS.items())
    rng, kills, lives = random.Random(seed), Counter[str](), 0
    while kills.total() < wanted:
        home = tmp_path / str(lives)
        while True:
            point = (rng.choice(list(life.POINTS)), rng.randint(1, 4)) if rng.random() < 0.5 else ()
            if not went_on(home, toy, *point, seconds=300.0 if point else rng.uniform(0.0, 8.0)):
                break
            kills[point[0] if point else "any moment"] += 1
        check(home, quiet)
        lives += 1
        print(json.dumps({"kills": kills.total(), "lives": lives, **kills}), flush=True)


def test_what_was_rejected_rolled_back_and_forgotten_is_made_again_from_the_log(quiet, toy, tmp_path):
    """Every version of a life with all that, each with the digest that the log has for it, from version 0."""
    home = tmp_path / "home"
    life.live(home, toy)
    with Agent.open(home) as agent:
        for number in range(6):
            attempt = agent.act(f"What is {number} times 7?", seed=number)
            source = "mallory" if number in (1, 2) else "alice"
            agent.observe(attempt.id, life.Correction(f"It is {7 * number}."), source=source)
            agent.learn(due=True)
        agent.forget("mallory")
        states = Counter(version.state for version in agent.versions())
        serving = agent.history.serving
    assert min(states[REJECTED], states[FORGOTTEN], states[SERVED]) >= 2 and states.total() >= 12, states
    rebuilt = list(whole.rebuild(home, tmp_path / "again"))
    assert [each.version for each in rebuilt] == list(range(states.total()))
    assert all(each.rebuilt == each.digest for each in rebuilt), rebuilt
    assert len({each.digest for each in rebuilt}) >= 6
    assert told(home)[0] == told(tmp_path / "again")[0] and serving == told(home)[0]["serving"]
    jax.tree.map(np.testing.assert_array_equal, told(home)[1], told(tmp_path / "again")[1])
    assert whole.verify(tmp_path / "again") == []


def test_a_cursor_beside_the_checkpoint_learns_a_lesson_twice(toy, tmp_path):
    """The control: the same learner, its place in the lessons kept in a file of its own, killed between the
    two."""
    with Agent.open(tmp_path / "home", toy, life.SETTINGS) as agent:
        states = agent.steps.states
        rows = []
        for number in range(3):
            attempt = agent.act(f"What is {number} times 3?", seed=number)
            receipt = agent.observe(attempt.id, life.Correction(f"It is {3 * number}."))
            event = agent.store.event(receipt.seq)
            rows.append(agent._lessons.rows(event, agent.history.sources["local"]))

        def learn(name, *, killed_at=None):
            cursor = tmp_path / f"{name}.json"
            while True:
                done = json.loads(cursor.read_text()) if cursor.exists() else 0
                if done == len(rows):
                    return told_by(name)
                trainer = states._trainer(0)
                with Learner(trainer, name, start=states.adapter(0)) as learner:
                    shape = shape_for(trainer.model.kind, rows[done])
                    learner.update(rows[done], rate=1e-2, shape=shape, loss=LOSS)
                    learner.save()
                if killed_at != done:
                    cursor.write_text(json.dumps(done + 1))
                killed_at = None if killed_at == done else killed_at

        def told_by(name):
            with Learner(states._trainer(0), name, start=states.adapter(0)) as learner:
                return learner.step, checkpoints.fingerprint(learner.adapter)

        whole_life, cut = learn("whole"), learn("cut", killed_at=1)
        assert (whole_life[0], cut[0]) == (3, 4) and whole_life[1] != cut[1]
