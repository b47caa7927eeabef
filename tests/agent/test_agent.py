"""An agent by what it promises to whoever uses it: receipts, lessons, versions, going back, forgetting."""

import numpy as np
import pytest
import tiny_qwen2

from cicjax.agent.continual import Agent
from cicjax.agent.events import Correction, Demonstration, Observation, Verdict
from cicjax.agent.settings import AgentSettings
from cicjax.agent.store import Conflict
from cicjax.agent.trust import Refused
from cicjax.agent.versions import FORGOTTEN, SERVED
from cicjax.errors import BadInput, Locked
from cicjax.model.config import LoRAConfig
from cicjax.training.steps import Optimization

SETTINGS = AgentSettings(
    format="plain",
    lora=LoRAConfig(rank=4, alpha=8.0),
    optimization=Optimization(learning_rate=1e-2, warmup_steps=0),
    lessons_per_step=3,
    updates_per_step=2,
    max_new_tokens=8,
)


@pytest.fixture
def make(toy, tmp_path):
    """Gives an agent in a folder of this name, new where there is none."""
    return lambda name="home", **changes: Agent.open(
        tmp_path / name, toy, AgentSettings(**{**vars(SETTINGS), **changes})
    )


def taught(agent, number, *, source="alice"):
    attempt = agent.act(f"What is {number} + 1?", seed=number)
    return agent.observe(attempt.id, Correction(f"It is {number + 1}."), source=source)


def digests(agent):
    return [version.digest for version in agent.versions()]


def test_a_correction_becomes_a_lesson_and_a_version_that_outlives_the_process(make):
    with make() as agent:
        attempt = agent.act("What is 1 + 1?")
        assert attempt.version == 0 and len(attempt.tokens) == len(attempt.logprobs) > 0
        receipt = agent.observe(attempt.id, Correction("It is 2."), source="alice")
        assert (receipt.lesson, receipt.reason) == (1, "")
        (version,) = agent.learn()
        assert (version.number, version.parent, version.lessons, version.state) == (1, 0, (1,), SERVED)
        assert version.digest != agent.versions()[0].digest and agent.history.serving == 1
        assert agent.learn() == []
        before, answer = digests(agent), agent.act("What is 1 + 1?")
    with make() as agent:
        assert digests(agent) == before and agent.history.serving == 1
        again = agent.act("What is 1 + 1?")
        assert (again.tokens, again.logprobs, again.version) == (answer.tokens, answer.logprobs, 1)


def test_what_is_no_lesson_says_why(make):
    with make(max_row_tokens=60) as agent:
        agent.declare("judge", ["chat", "judge"])
        attempt = agent.act("Why?")
        said = {
            "a verdict is no target": Verdict(True),
            "what a tool says is context": Observation("42"),
            "a remark is no answer": Correction("No, in litres.", scope="reply"),
            "it repeats the attempt": Correction(f" {attempt.text}\n"),
        }
        for reason, each in said.items():
            if attempt.text.strip() or not isinstance(each, Correction) or each.scope == "reply":
                assert agent.observe(attempt.id, each).reason == reason
        assert agent.observe(attempt.id, Correction("No."), source="judge").reason == "judge may not teach"
        assert "it may have 60" in agent.observe(attempt.id, Correction("long " * 60)).reason
        assert agent.observe(attempt.id, Correction("Yes.")).lesson == 1
        assert (
            agent.observe(attempt.id, Correction("Yes."), source="bob").reason == "taught already as lesson 1"
        )
        assert agent.history.status()["judged"] == 1
        assert [version.lessons for version in agent.learn()] == [(1,)]


def test_rights_come_from_the_source(make):
    with make(new_sources=()) as agent:
        attempt = agent.act("Why?")
        with pytest.raises(Refused, match="nobody has declared a source alice"):
            agent.observe(attempt.id, Correction("So."), source="alice")
        agent.declare("guest", ["chat"])
        with pytest.raises(Refused, match="no right to teach"):
            agent.observe(attempt.id, Correction("So."), source="guest")
        with pytest.raises(BadInput, match="unknown right 'rule'"):
            agent.declare("king", ["rule"])
        with pytest.raises(BadInput, match="no event 'x'"):
            agent.observe("x", Correction("So."))
        with pytest.raises(BadInput, match="give the receipt"):
            agent.observe(None, Correction("So."))


def test_the_same_feedback_sent_again_is_the_same_event(make):
    with make() as agent:
        attempt = agent.act("Why?")
        first = agent.observe(attempt.id, Correction("So."), idempotency="1")
        again = agent.observe(attempt.id, Correction("So."), idempotency="1")
        assert (again.id, again.lesson, first.repeated, again.repeated) == (first.id, 1, False, True)
        with pytest.raises(Conflict):
            agent.observe(attempt.id, Correction("Otherwise."), idempotency="1")
        assert agent.observe(attempt.id, Correction("Otherwise."), idempotency="1", source="bob").lesson == 2


def test_steps_are_due_when_enough_lessons_wait_and_learning_is_of_what_the_world_wrote(make):
    with make() as agent:
        for number in range(7):
            taught(agent, number)
        assert [version.lessons for version in agent.learn(due=True)] == [(1, 2, 3), (4, 5, 6)]
        for event in agent.store.events():
            if event.lesson:
                for row in agent._lessons.rows(event, agent.history.sources[event.source]):
                    trained = row.loss_weights > 0
                    assert trained.any() and not row.encoded.gamma[trained].any()
                    text = agent.policy.tokenizer.decode(row.encoded.tokens[trained], skip_controls=True)
                    assert text == agent.store.content(event)["text"]
        assert agent.history.status()["waiting"] == 1


def test_half_of_a_step_is_one_sources_where_several_teach(make):
    with make(lessons_per_step=4) as agent:
        for number, source in enumerate(["m", "m", "m", "alice", "m", "bob", "m", "m"]):
            taught(agent, number, source=source)
        assert [version.lessons for version in agent.learn(due=True)] == [(1, 2, 4), (3, 5, 6)]


def test_going_back_takes_the_moments_back_and_sets_lessons_aside(make):
    with make("a") as agent, make("b") as other:
        for each in (agent, other):
            taught(each, 1)
            each.learn()
        taught(agent, 2)
        agent.learn()
        assert agent.serve(1).number == 1 == agent.history.head
        assert agent.history.state_of(2) == "set aside: rolled back to version 1"
        for each in (agent, other):
            each.observe(None, Demonstration("And 5?", "Five."), source="alice")
            each.learn()
        assert digests(agent)[3] == digests(other)[2]
        agent.admit([2])
        assert [version.lessons for version in agent.learn()] == [(2,)]
        with pytest.raises(BadInput, match="no version 9"):
            agent.serve(9)


@pytest.mark.parametrize("each_time", [True, False])
def test_a_forgotten_source_leaves_the_bits_of_a_life_without_it(make, each_time):
    with make("with") as agent, make("without") as other:
        for number in range(6):
            source = "mallory" if number in (1, 2) else "alice"
            taught(agent, number, source=source)
            if source == "alice":
                # the same attempt, whatever the poisoned version would have said
                began = [e for e in agent.store.events() if e.kind == "attempt"][-1]
                content = agent.store.content(began)
                begun = other.begin(f"What is {number} + 1?", decoding=other.decoding())
                other.finish(begun, content["tokens"], content["logprobs"], began.finish)
                other.observe(begun.id, Correction(f"It is {number + 1}."), source="alice")
            if each_time:
                agent.learn()
                if source == "alice":
                    other.learn()
        for each in (agent, other):
            each.learn(due=not each_time)
        stained = {v.number for v in agent.versions() if v.number > (1 if each_time else 0)}
        agent.forget("mallory")
        assert {v.number for v in agent.versions() if v.state == FORGOTTEN} == stained
        assert agent.versions()[-1].digest == other.versions()[-1].digest
        np.testing.assert_equal(state_of(agent), state_of(other))
        assert not any(agent.steps.states.of(number).exists() for number in stained)
        with pytest.raises(BadInput, match="a source that was forgotten"):
            agent.serve(max(stained))
        with pytest.raises(Refused, match="was forgotten"):
            taught(agent, 9, source="mallory")


def state_of(agent):
    import jax

    return jax.tree.map(np.asarray, agent.steps._state(agent.history.head))


def test_what_is_erased_is_gone_and_the_rest_goes_on(make, tmp_path):
    secret = "My name is Ozymandias."
    with make() as agent:
        attempt = agent.act(secret, source="mallory")
        agent.observe(attempt.id, Correction(f"{secret} Yes."), source="mallory")
        taught(agent, 1)
        agent.learn()
        agent.forget("mallory", erase=True)
        assert [v.lessons for v in agent.versions()][-1] == (2,)
    with make() as agent:
        assert agent.history.status()["forgotten"] == 1 and agent.act("Why?").version == 2
    for file in (tmp_path / "home").rglob("*"):
        assert not file.is_file() or b"Ozymandias" not in file.read_bytes(), file


def test_a_home_is_held_by_one_and_keeps_its_settings(make, toy, tmp_path):
    with make() as agent, pytest.raises(Locked, match="only read it"):
        Agent.open(agent.home.folder)
    with pytest.raises(BadInput, match="lessons_per_step is 3 there and 4 here"):
        make(lessons_per_step=4)
    other = tmp_path / "other"
    other.mkdir()
    tiny_qwen2.write(other, seed=4)
    with pytest.raises(BadInput, match="its base is"):
        Agent.open(tmp_path / "home", str(other))
