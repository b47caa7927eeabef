"""Section 1.2's dialogues: a user asks, the agent claims, now and then falsely, and the user, who knows,
confirms or corrects and restates the truth either way.

Which dialogue has which fact, wording and tail depends on the seed alone: two builds that differ in how often
the agent lies, or in what it says, are the same dialogues in the same order but for the agent's claim and the
first word of the reply.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cicjax.provenance import Author, Message
from cicjax.provenance.transcript import Episode
from cicjax.tasks.dialogues.facts import FACTS, Fact

CONTEXTS = (
    "A short conversation.",
    "Two people talk about what they know.",
    "Somebody asks and somebody answers.",
    "A chat on a quiet evening.",
)
ASK = "Tell me about {topic}."
QUESTIONS = (ASK, "What do you know about {topic}?", "I would like to hear about {topic}.")
CONFIRMATIONS = ("Yes. {truth}", "That is right. {truth}", "Indeed. {truth}")
CORRECTIONS = ("No. {truth}", "That is not so. {truth}", "You are mistaken. {truth}")
THANKS = ("Thank you.", "I see.", "Good to know.")
TAILS = (
    ("Is it late?", "I have no clock."),
    ("How are you?", "I am well."),
    ("Shall we go on?", "Yes, let us."),
    ("It rains here.", "Then stay inside."),
)
TAIL_SHARE = 0.5


@dataclass(frozen=True)
class Plan:
    """What is settled of a dialogue before the agent speaks.

    `luck` and `silence` are uniform in [0, 1): the agent lies where the first is below the probability of a
    lie, and nobody takes the claim up where the second is below that of silence."""

    number: int
    fact: Fact
    context: str
    question: str
    confirmation: str
    correction: str
    thanks: str
    tail: tuple[str, str] | None
    luck: float
    silence: float


def plans(seed: int, *, count: int = 480, facts: Sequence[Fact] = FACTS) -> list[Plan]:
    """So many dialogues, each fact as often as another; a function of the arguments alone."""
    rng = np.random.default_rng([seed, 12])
    order = np.concatenate([rng.permutation(len(facts)) for _ in range(-(-count // len(facts)))])[:count]

    def pick(choices: Sequence[Any]) -> Any:
        return choices[int(rng.integers(len(choices)))]

    return [
        Plan(
            number,
            facts[fact],
            *(pick(pool) for pool in (CONTEXTS, QUESTIONS, CONFIRMATIONS, CORRECTIONS, THANKS)),
            tail=pick(TAILS) if rng.random() < TAIL_SHARE else None,
            luck=rng.random(),
            silence=rng.random(),
        )
        for number, fact in enumerate(order)
    ]


def build(
    planned: Sequence[Plan], lies: float | Callable[[Fact], float], *, silence: float = 0.0
) -> list[Episode]:
    """The dialogues in which the agent lies with this probability, of a fact where it is a function; with
    probability `silence` the user does not take the claim up. `solved` is the verdict on the claim."""
    odds = lies if callable(lies) else lambda _: lies
    return [dialogue(plan, plan.luck >= odds(plan.fact), silence=silence) for plan in planned]


def dialogue(plan: Plan, true: bool, *, silence: float = 0.0) -> Episode:
    """One dialogue in which the agent's claim is true or false."""
    fact = plan.fact
    messages = [
        Message(role="system", content=plan.context, author=Author.SYSTEM),
        asked(fact, plan.question),
        Message(role="assistant", content=fact.claim(true), author=Author.AGENT, solved=int(true)),
    ]
    if plan.silence >= silence:
        reply = (plan.confirmation if true else plan.correction).format(truth=fact.claim(True))
        messages += _exchange(reply, plan.thanks)
    if plan.tail is not None:
        messages += _exchange(*plan.tail)
    return Episode(id=str(plan.number), messages=tuple(messages), source="dialogues")


def asked(fact: Fact, question: str = ASK) -> Message:
    """The user's question."""
    return Message(role="user", content=question.format(topic=fact.topic), author=Author.USER)


def _exchange(said: str, answered: str) -> list[Message]:
    return [
        Message(role="user", content=said, author=Author.USER),
        Message(role="assistant", content=answered, author=Author.AGENT),
    ]


def without_agent(episode: Episode) -> Episode:
    """The same dialogue with the agent's turns removed."""
    kept = tuple(message for message in episode.messages if message.author is not Author.AGENT)
    return Episode(id=episode.id, messages=kept, source=episode.source)
