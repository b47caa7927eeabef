"""An agent in use: what it says and what it learns are the same as if it did one after the other."""

import threading
from dataclasses import replace
from typing import NamedTuple

import pytest

from cicjax.agent import steps
from cicjax.agent.continual import Agent
from cicjax.agent.events import Correction, Verdict
from cicjax.agent.gate import Items
from cicjax.agent.live import Live
from cicjax.agent.settings import AgentSettings, GateSettings
from cicjax.agent.slices import Closed, Slices
from cicjax.agent.versions import FORGOTTEN, SERVED
from cicjax.agent.whole import rebuild, verify
from cicjax.errors import BadInput, Corrupted
from cicjax.model.config import LoRAConfig
from cicjax.sampling import serving
from cicjax.sampling.request import Full
from cicjax.tasks.task import Grade
from cicjax.training.steps import Optimization

SETTINGS = AgentSettings(
    format="plain",
    lora=LoRAConfig(rank=4, alpha=8.0),
    optimization=Optimization(learning_rate=1e-2, warmup_steps=0),
    lessons_per_step=2,
    updates_per_step=2,
    max_new_tokens=12,
)
WAIT = 120


@pytest.fixture
def make(toy, tmp_path):
    return lambda name="home", **changes: Agent.open(tmp_path / name, toy, replace(SETTINGS, **changes))


def live_on(agent, **changes):
    return Live(agent, **{"rows": 4, "length": 192} | changes)


def settled(live, *, left=0):
    """Wait until nothing is learned any more."""
    for _ in range(100 * WAIT):
        with live.agent.store.held():
            history = live.agent.history
            done = len(history.waiting()) <= left and history.open_plan() is None
        if live.failure or (done and live.doing == "idle"):
            break
        threading.Event().wait(0.01)
    assert live.failure is None and done


def ask(live, text, **how):
    answer = live.ask(text, **how)
    text = "".join(piece.text for piece in answer.handle)
    attempt = live.finish(answer)
    assert attempt.text == text and attempt.version == answer.version
    return attempt


def without_times(agent):
    gone = ("id", "at", "digest", "source", "body")
    return [{k: v for k, v in vars(event).items() if k not in gone} for event in agent.store.events()]


def test_its_answers_and_its_log_are_those_of_act(make):
    questions = [f"What is {n} + 1?" for n in range(6)]
    with make("apart") as agent:
        how = agent.decoding(temperature=1.0)
        apart = [agent.act(text, decoding=how) for text in questions]
        with make("live") as other, live_on(other) as live:
            for text, expected in zip(questions, apart, strict=True):
                attempt = ask(live, text, temperature=1.0)
                assert (attempt.tokens, attempt.text, attempt.finish) == (
                    expected.tokens,
                    expected.text,
                    expected.finish,
                )
        with make("live") as other:
            kinds = [event["kind"] for event in without_times(other)]
            assert kinds == [event["kind"] for event in without_times(agent)]


def test_it_answers_and_learns_at_once_and_nothing_is_lost_or_mixed(make, tmp_path):
    attempts, receipts, refused = [], [], []
    with make() as agent, live_on(agent) as live:
        before = dict(serving.traces)

        def client(name):
            for n in range(5):
                try:
                    attempt = ask(live, f"What is {n} times {name}?", temperature=1.0, seed=n)
                except Exception as error:
                    refused.append(error)
                    continue
                attempts.append(attempt)
                receipts.append(live.observe(attempt.id, Correction(f"It is {n} {name}."), source="bob"))

        clients = [threading.Thread(target=client, args=(name,)) for name in range(4)]
        for each in clients:
            each.start()
        for each in clients:
            each.join()
        live.learn()
        settled(live)
        assert not refused and dict(serving.traces) == before
        assert len(attempts) == 20 and sorted(each.lesson for each in receipts) == list(range(1, 21))
        assert agent.history.serving >= 10 and agent.status()["learned"] == 20
        stats = live.status()["engine"]
        assert stats["slices"] >= 20 and stats["rows_busy"] == stats["queue"] == 0
        versions = agent.versions()
    assert verify(tmp_path / "home") == []
    made = list(rebuild(tmp_path / "home", tmp_path / "again"))
    assert [each.rebuilt for each in made] == [each.digest for each in versions]
    with make() as agent:  # and what each answer said is what its version says, asked alone
        for attempt in attempts[::4]:
            begin = agent.store.by_id(attempt.id)
            again = agent.act(
                agent._lessons.turns.seen(begin)[0].content,
                decoding=agent.decoding(temperature=1.0),
                version=attempt.version,
                seed=begin.facts["seed"],
            )
            assert again.tokens == attempt.tokens


def test_the_first_step_compiles_nothing(make):
    with make(lessons_per_step=1) as agent, live_on(agent) as live:
        attempt, compiled = ask(live, "What is 1?"), live.engine.stats()["compiled"]
        for n in range(2):
            live.observe(attempt.id, Correction("It is 1. " * (1 + 12 * n)))
            settled(live)
        assert agent.history.serving == 2 and live.engine.stats()["compiled"] == compiled


def test_a_person_goes_back_and_forgets_while_it_learns(make):
    with make() as agent, live_on(agent) as live:
        for n in range(6):
            source = "mallory" if n in (1, 2) else "alice"
            attempt = ask(live, f"What is {n}?", source="alice")
            live.observe(attempt.id, Correction(f"It is {n}."), source=source)
        live.learn()
        settled(live)
        serving, parent = agent.history.serving, agent.versions()[-1].parent
        assert serving >= 3 and live.rollback().result(WAIT).number == parent
        assert ask(live, "What now?").version == parent
        live.pause()
        assert live.serve(serving).result(WAIT).number == serving and live.doing == "paused"
        assert live.rollback().result(WAIT).number == parent
        live.resume()
        assert live.forget("mallory").result(WAIT)
        assert all(agent.history.version(n).state != FORGOTTEN for n in live.engine.versions)
        assert ask(live, "And now?").version == agent.history.serving
        with pytest.raises(BadInput, match="forgotten"):
            live.ask("x", version=1)
        with pytest.raises(BadInput, match="no version 99"):
            live.serve(99).result(WAIT)


class Problem(NamedTuple):
    id: str
    question: str


class Odd:
    """A task of which an answer of an even number of characters is right."""

    def verify(self, problem, text):
        return Grade(len(text) % 2 == 0, "")

    def has_marker(self, text):
        return True


def a_gate(self):
    problems = tuple(Problem(str(n), f"Is {n} prime?") for n in range(self._settings.gate.problems))
    prompts = tuple(self._lessons.prompt(steps.gate.asked(each)) for each in problems)
    how = steps.decoding(self._policy.tokenizer, max_new_tokens=6, temperature=0.0)
    return Items(
        task=Odd(), problems=problems, prompts=prompts, tokenizer=self._policy.tokenizer, decoding=how
    )


def test_a_gate_is_answered_in_rows_that_nobody_wants(make, monkeypatch):
    monkeypatch.setattr(steps.Steps, "_read_items", a_gate)
    with make(task="stem", gate=GateSettings(problems=10)) as agent:
        with live_on(agent) as live:
            going = live.ask("Tell me", max_tokens=120, temperature=1.0)
            for n in range(4):
                live.observe(ask(live, f"What is {n}?").id, Correction(f"It is {n}."))
            for _ in going.handle:
                pass
            settled(live)
            assert live.finish(going).version == 0
            assert [each.state for each in agent.versions()][1:]
        items = agent.steps._items
        for number, outcomes in agent.steps._answers.items():
            assert items.ask(agent.steps._sampler(number)) == outcomes


def test_a_gate_that_no_row_can_hold_is_refused_at_once(make, monkeypatch):
    monkeypatch.setattr(steps.Steps, "_read_items", a_gate)
    with (
        make(task="stem", gate=GateSettings(problems=10)) as agent,
        pytest.raises(BadInput, match="a row holds 20"),
    ):
        live_on(agent, length=20)


def test_what_was_delivered_is_what_is_logged(make):
    with make() as agent, live_on(agent) as live:
        answer = live.ask("What is 1?", max_tokens=150, temperature=1.0)
        seen = next(iter(answer.handle))
        answer.handle.cancel()
        attempt = live.finish(answer)
        assert (attempt.tokens, attempt.text, attempt.finish) == (seen.ids, seen.text, "cancelled")
        (logged,) = agent.store.of_parent(attempt.seq)
        assert agent.store.content(logged)["tokens"] == list(seen.ids)
        unseen = live.ask("What is 2?")
        unseen.handle.cancel()
        assert live.finish(unseen).text == "" and agent.store.of_parent(unseen.begun.event.seq) == []


def test_nothing_is_begun_that_cannot_be_answered(make, monkeypatch):
    with make() as agent, live_on(agent) as live:
        last = agent.store.last.seq
        with pytest.raises(BadInput, match="a row holds 192"):
            live.ask("What is it? " * 100)
        with pytest.raises(BadInput, match="top_logprobs"):
            live.ask("What?", top_logprobs=99)
        monkeypatch.setattr("cicjax.sampling.engine.QUEUE", 0)
        with pytest.raises(Full, match="requests wait already"):
            live.ask("What?")
        assert agent.store.last.seq == last


def test_a_step_that_closing_cut_short_is_taken_again(make, tmp_path):
    with make("cut") as agent:
        with live_on(agent) as live:
            live.pause()
            for n in range(4):
                live.observe(ask(live, f"What is {n}?", seed=n).id, Correction(f"It is {n}."))
            assert live.doing == "paused" and agent.history.serving == 0
            given = live._slices
            live.resume()
            while agent.history.open_plan() is None:
                threading.Event().wait(0.001)
        assert not given._given
        agent.learn(due=True)
        digests = [each.digest for each in agent.versions()]
        assert [each.state for each in agent.versions()] == [SERVED] * 3
    assert verify(tmp_path / "cut") == []
    assert [each.rebuilt for each in rebuild(tmp_path / "cut", tmp_path / "again")] == digests


def test_serving_outlives_a_failure_of_learning(make, monkeypatch):
    def broken(*args, **how):
        raise Corrupted("the disk is gone")

    with make() as agent, live_on(agent) as live:
        with monkeypatch.context() as patched:
            patched.setattr(agent.steps, "_work", broken)
            for n in range(2):
                live.observe(ask(live, f"What is {n}?").id, Correction(f"It is {n}."))
            while live.failure is None:
                threading.Event().wait(0.01)
            assert live.doing == "failed" and "disk is gone" in str(live.failure)
            attempt = ask(live, "What is 3?")
            assert live.observe(attempt.id, Verdict(True)).lesson is None
        live.resume()
        while agent.history.serving == 0:
            threading.Event().wait(0.01)
        assert live.failure is None


def test_a_turn_that_takes_long_goes_on_beside_the_answers():
    woken, go, done = threading.Event(), threading.Event(), []
    slices = Slices(woken.set, limit=0.05)

    def learner():
        with slices.turn():
            go.wait(WAIT)
            done.append("long")
            slices.pause()
            done.append("short")

    thread = threading.Thread(target=learner)
    thread.start()
    woken.wait(WAIT)
    assert slices() and done == []  # given, and not waited for any longer
    assert not slices() and not slices()
    go.set()
    while not slices():
        pass
    thread.join()
    assert done == ["long", "short"] and not slices()


def test_turns_alternate_and_end():
    woken, done = threading.Event(), []
    slices = Slices(woken.set)

    def learner():
        try:
            with slices.turn():
                for n in range(3):
                    done.append(n)
                    slices.pause()
                with slices.elsewhere():
                    done.append("elsewhere")
            with slices.turn():
                done.append("again")
                slices.pause()
        except Closed:
            done.append("closed")

    assert not slices()
    thread = threading.Thread(target=learner)
    thread.start()
    for expected in (1, 2, 3):
        assert woken.wait(WAIT)
        while not slices():
            pass
        assert done[:expected] == list(range(expected)) and len(done) >= expected
    slices.hold(True)
    assert not slices()
    slices.hold(False)
    while not slices():
        pass
    while "again" not in done:
        slices()
    slices.close()
    thread.join()
    assert done[-1] == "closed" and not slices()
