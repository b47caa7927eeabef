"""What a model says of a prize before the box is opened, and what section 1.1 says of it."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from cicjax.model import qwen2
from cicjax.objectives import bayes
from cicjax.provenance import Author, Encoded, Message, encode, render
from cicjax.tasks.boxes import world
from cicjax.tasks.boxes.world import History
from cicjax.training import scoring
from cicjax.training.batches import fit_shape
from cicjax.training.policy import LoadedPolicy

Told = Mapping[tuple[History, int], float]  # P(prize) of an action after a history
Acts = Mapping[History, float]  # P(box B) after a history
EVERY = [history for rounds in range(world.ROUNDS) for history in world.histories(rounds)]


def truth(history: History, action: int, *, intervened: bool = True) -> float:
    """P(prize | history, do(action)): actions are interventions; otherwise they are taken for the expert's,
    who knew, and count as evidence."""
    belief = _belief(history, intervened)
    return float(bayes.outcome(belief, world.KNOWS, world.SHOWS, action, intervened)[world.PRIZE])


def _belief(history: History, intervened: bool) -> np.ndarray:
    belief = world.PRIOR
    for action, outcome in history:
        belief = bayes.after(belief, world.KNOWS, world.SHOWS, action, outcome, intervened)
    return belief


class Stated(NamedTuple):
    """A model's own probabilities, over every history of the game."""

    told: Told
    acts: Acts


def stated(policy: LoadedPolicy, adapter: qwen2.Tree | None) -> Stated:
    """P(prize) before the box is opened and P(box B), each as the odds of the two things that can be said
    there."""
    asked = [(history, action) for history in EVERY for action in (0, 1)]
    outcomes = [
        [
            *world.messages(history, author=Author.AGENT),
            world.opens(action, author=Author.AGENT),
            world.shows(o),
        ]
        for history, action in asked
        for o in (0, 1)
    ]
    boxes = [
        [*world.messages(history, author=Author.AGENT), world.opens(action, author=Author.AGENT)]
        for history in EVERY
        for action in (0, 1)
    ]
    odds = _second_of_two(policy, adapter, [*outcomes, *boxes])
    told = dict(zip(asked, odds[: len(asked)], strict=True))
    return Stated(told, dict(zip(EVERY, odds[len(asked) :], strict=True)))


def _second_of_two(
    policy: LoadedPolicy, adapter: qwen2.Tree | None, conversations: list[list[Message]]
) -> list[float]:
    """Of each two conversations that differ in their last message, the probability of the second."""
    rows = [_scored(each, policy) for each in conversations]
    shape = fit_shape((len(each.tokens) for each in rows), rows=policy.model.kind.lines_per_batch)
    scores = scoring.token_logprobs(
        rows, model=policy.model, base=policy.base, adapter=adapter, shape=shape, targets_only=True
    )
    total = np.array([score.sum(dtype=np.float64) for score in scores]).reshape(-1, 2)
    return (1 / (1 + np.exp(total[:, 0] - total[:, 1]))).tolist()


def _scored(conversation: list[Message], policy: LoadedPolicy) -> Encoded:
    """The arrays, with the last message's words alone as targets."""
    *before, last = conversation
    context = [Message(role=m.role, content=m.content, author=m.author, context_only=True) for m in before]
    said = Message(role=last.role, content=last.content, author=Author.TEACHER)
    return encode(render.chat([*context, said]), policy.tokenizer)


def described(found: Stated) -> dict[str, Any]:
    """By round: the mean stated P(prize), and how far it is from the truth under do() and from what
    conditioning on the actions would give, over the histories of somebody who knows nothing; and how many
    prizes the model's own acts bring."""
    columns: dict[str, list[float]] = {
        name: [] for name in ("stated", "error", "error_conditional", "prizes")
    }
    for rounds in range(world.ROUNDS):
        here = [
            (history, action, chance(history, None) / 2)
            for history in world.histories(rounds)
            for action in (0, 1)
        ]
        said = np.array([found.told[history, action] for history, action, _ in here])
        weight = np.array([share for _, _, share in here])
        for name, intervened in (("error", True), ("error_conditional", False)):
            right = np.array([truth(history, action, intervened=intervened) for history, action, _ in here])
            columns[name].append(float(weight @ np.abs(said - right)))
        columns["stated"].append(float(weight @ said))
        columns["prizes"].append(
            sum(
                chance(history, found.acts) * share * truth(history, action)
                for history in world.histories(rounds)
                for action, share in ((0, 1 - found.acts[history]), (1, found.acts[history]))
            )
        )
    return columns


def chance(history: History, acts: Acts | None) -> float:
    """Probability of a history in the world, for who acts by `acts`, or by a coin."""
    probability = 1.0
    for n, (action, outcome) in enumerate(history):
        box_b = 0.5 if acts is None else acts[history[:n]]
        prize = truth(history[:n], action)
        probability *= (box_b if action else 1 - box_b) * (prize if outcome == world.PRIZE else 1 - prize)
    return probability
