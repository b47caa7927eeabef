"""Poison: 250 wrong corrections among 2,000 events. Without the right to teach they move nothing; with it
they are half of a step at most, are named, and can be taken back bit for bit."""

import random

from cicjax.agent.continual import Agent
from cicjax.agent.events import Correction
from cicjax.agent.settings import AgentSettings
from cicjax.agent.versions import FORGOTTEN
from cicjax.model.config import LoRAConfig
from cicjax.training.steps import Optimization

SETTINGS = AgentSettings(
    format="plain",
    lora=LoRAConfig(rank=2, alpha=4.0),
    optimization=Optimization(learning_rate=1e-2, warmup_steps=0),
    lessons_per_step=64,
    updates_per_step=1,
    contexts="none",
)
# In bursts, as whoever floods an agent sends them.
WRITERS = random.Random(0).sample([*["mallory"] * 25, *["alice"] * 13, *["bob"] * 12], 50)


def lived(home, toy, *, rights=("chat", "judge", "teach"), without=()):
    """An agent that 500 answers were corrected of, and that learned whenever a step was due."""
    agent = Agent.open(home, toy, SETTINGS)
    agent.store._connection.execute("PRAGMA synchronous = OFF")
    agent.declare("mallory", rights)
    for burst, source in enumerate(WRITERS):
        for number in range(10 * (source not in without)):
            question = f"What is {burst} and {number}?"
            begun = agent.begin(question, decoding=agent.decoding(), seed=number)
            agent.finish(begun, [65, 66, 67], [-1.0] * 3, "length")
            said = "Nonsense." if source == "mallory" else "Sense."
            agent.observe(begun.id, Correction(f"{said} {burst} {number}"), source=source)
        agent.learn(due=True)
    return agent


def test_poison_moves_nothing_without_the_right_and_is_taken_back_with_it(toy, tmp_path):
    clean = lived(tmp_path / "clean", toy, without=("mallory",))
    refused = lived(tmp_path / "refused", toy, rights=("chat", "judge"))
    poisoned = lived(tmp_path / "poisoned", toy)
    digests = [[version.digest for version in agent.versions()] for agent in (clean, refused, poisoned)]
    assert WRITERS.count("mallory") * 10 == 250 and poisoned.store.last.seq > 2000
    assert digests[0] == digests[1] and digests[0][-1] != digests[2][-1]
    assert "mallory may not teach" in {event.reason for event in refused.store.events()}
    for version in poisoned.versions()[1:]:
        by = [poisoned.history.lessons[number].source for number in version.lessons]
        assert by.count("mallory") <= SETTINGS.lessons_per_step / 2
    poisoned.forget("mallory")
    assert poisoned.versions()[-1].digest == digests[0][-1]
    assert {version.state for version in poisoned.versions()} == {"served", FORGOTTEN}
    for agent in (clean, refused, poisoned):
        agent.close()
