"""A short life of an agent, the same however often it is killed: it goes on where it was cut."""

import os
import shutil
import signal
from pathlib import Path
from typing import NamedTuple

import jax

from cicjax.agent import steps
from cicjax.agent.continual import Agent
from cicjax.agent.events import Correction, Verdict
from cicjax.agent.gate import Items
from cicjax.agent.retention import Retention
from cicjax.agent.settings import AgentSettings, GateSettings
from cicjax.agent.store import Store
from cicjax.files import numbered
from cicjax.model.config import LoRAConfig
from cicjax.tasks.task import Grade
from cicjax.training import checkpoints
from cicjax.training import steps as training
from cicjax.training.steps import Optimization

SETTINGS = AgentSettings(
    format="plain",
    task="stem",
    lora=LoRAConfig(rank=4, alpha=8.0),
    optimization=Optimization(learning_rate=2e-2, warmup_steps=0),
    lessons_per_step=2,
    updates_per_step=2,
    max_new_tokens=6,
    gate=GateSettings(problems=8),
)
QUESTIONS = 12
# Before and after every commit of a life, in the middle of all that is no commit.
POINTS = {
    "begin written": "before its answer is in the log",
    "begin committed": "before a token is drawn",
    "attempt written": "when all is drawn and nothing kept",
    "attempt committed": "before anybody answers",
    "correction written": "before the feedback is in the log",
    "correction committed": "before the feedback is acknowledged",
    "plan committed": "before a step begins",
    "slice": "between two micro-batches",
    "state written": "before its rename",
    "state renamed": "before the gate",
    "gate": "while it asks",
    "outcome committed": "before anybody hears of it",
    "removing": "half way through what need not stay on disk",
    "serve committed": "when somebody has gone back",
}


class Problem(NamedTuple):
    id: str
    question: str
    solution: str = "yes"
    skill: str = "none"


class Any:
    """A task that asks for nothing."""

    def verify(self, problem, completion):
        return Grade(True, "")

    def has_marker(self, completion):
        return True


class Fickle(Items):
    """Problems that are answered, and whose outcomes are then a matter of the weights' digest, so that a
    third of the versions is rejected."""

    def ask(self, sampler):
        asked = super().ask(sampler)
        chance = int(checkpoints.fingerprint(sampler._adapter)[:8], 16) % 3
        right = [True] * len(asked.right)
        if chance == 0 and any(leaf.any() for leaf in jax.tree.leaves(sampler._adapter["layers"])):
            right[:4] = [False] * 4
        return asked._replace(right=tuple(right))


def fickle(self):
    problems = tuple(Problem(str(n), f"Is {n} prime?") for n in range(self._settings.gate.problems))
    prompts = tuple(self._lessons.prompt(steps.gate.asked(each)) for each in problems)
    tokenizer = self._policy.tokenizer
    how = steps.decoding(tokenizer, max_new_tokens=6, temperature=0.0)
    return Fickle(task=Any(), problems=problems, prompts=prompts, tokenizer=tokenizer, decoding=how)


def live(home, model, *, until=QUESTIONS):
    """Ask, judge, correct and learn; go back once; and once more, with what has been done already left
    alone."""
    steps.Steps._read_items = fickle
    with Agent.open(home, model, SETTINGS) as agent:
        agent.retain(Retention(newest=2, every=3))
        agent.learn(due=True)  # what a kill has left of a step
        for number in range(until):
            done = {event.idempotency for event in agent.store.events()}
            if f"key {number}" not in done:
                attempt = agent.act(f"What is {number} times 3?", seed=number, source="carol")
                agent.observe(attempt.id, Verdict(False), source="judge")
                said = Correction(f"It is {3 * number}.")
                agent.observe(
                    attempt.id, said, source="bob" if number % 3 else "alice", idempotency=str(number)
                )
            agent.learn(due=True)
            if number == 8 and not any(event.kind == "serve" for event in agent.store.events()):
                agent.rollback()
        agent.learn()


def kill_at(point, count):
    """Arrange for this process to be killed, without a word, at the `count`-th time."""
    left = [count]

    def at(name):
        left[0] -= name == point
        if name == point and not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)

    def wrap(owner, name, before=None, after=None):
        inner = getattr(owner, name)

        def outer(*args, **kwargs):
            if before:
                at(before(*args))
            result = inner(*args, **kwargs)
            for said in after(result, *args) if after else ():
                at(said)
            return result

        setattr(owner, name, outer)

    wrap(Store, "_insert", after=lambda result, *_: [f"{result.kind} written"])
    wrap(Store, "append", after=lambda result, *_: [f"{event.kind} committed" for event in result])
    wrap(training, "accumulate", before=lambda *_: "slice")
    wrap(numbered, "_make_durable", after=lambda *_: ["state written"])
    wrap(checkpoints, "save", after=lambda *_: ["state renamed"])
    wrap(shutil, "rmtree", before=lambda folder, *_: "removing" if "removing" in str(folder) else "")
    wrap(steps.Items, "ask", before=lambda *_: "gate")


def begin(home, model, point="", count=0):
    """Go on with a life, to be killed at the `count`-th time that it comes to a point."""
    if point:
        assert point in POINTS
        kill_at(point, count)
    live(Path(home), model)
