"""Two boxes, one with a prize in it for all rounds. Records by an expert who knows where it is, and rounds
that an agent acts itself, knowing nothing.

The numbers leave every history possible: now and then the expert errs, and now and then a box deceives.
"""

from collections.abc import Iterable
from itertools import product

import numpy as np

from cicjax.provenance import Author, Message
from cicjax.provenance.transcript import Episode

ROUNDS = 3
BOXES = ("Box A.", "Box B.")
OUTCOMES = ("Nothing.", "A prize.")
PRIZE = 1
START = "Open a box."
# Programs p are the places of the prize: P(p), P(expert opens a | p), P(outcome | p, a).
PRIOR = np.array([0.5, 0.5])
KNOWS = np.array([[0.95, 0.05], [0.05, 0.95]])
SHOWS = np.array([[[0.1, 0.9], [0.9, 0.1]], [[0.9, 0.1], [0.1, 0.9]]])
IGNORANT = np.full((2, 2), 0.5)

History = tuple[tuple[int, int], ...]  # (action, outcome), round by round


def draw(rng: np.random.Generator, acts: np.ndarray) -> tuple[int, History]:
    """Where the prize is, and the rounds of somebody who opens boxes by `acts`, P(a | p)."""
    place = int(rng.random() < PRIOR[1])
    rounds = []
    for _ in range(ROUNDS):
        action = int(rng.random() < acts[place, 1])
        rounds.append((action, int(rng.random() < SHOWS[place, action, PRIZE])))
    return place, tuple(rounds)


def histories(rounds: int) -> list[History]:
    """Every history of so many rounds."""
    return list(product(product((0, 1), (0, 1)), repeat=rounds))


def messages(history: History, *, author: Author, context_only: bool = False) -> list[Message]:
    """The rounds in words, the actions by `author`; `context_only` takes the actions out of every loss."""
    said = [Message(role="user", content=START, author=Author.ENVIRONMENT)]
    for action, outcome in history:
        said += [opens(action, author=author, context_only=context_only), shows(outcome)]
    return said


def opens(action: int, *, author: Author, context_only: bool = False) -> Message:
    """The opening of a box."""
    return Message(role="assistant", content=BOXES[action], author=author, context_only=context_only)


def shows(outcome: int) -> Message:
    """What was in it."""
    return Message(role="user", content=OUTCOMES[outcome], author=Author.ENVIRONMENT)


def recorded(seed: int, count: int, *, masked: bool) -> list[Episode]:
    """The expert's records; his actions are a teacher's words, and evidence unless `masked`."""
    rng = np.random.default_rng([seed, 1])
    drawn = (draw(rng, KNOWS)[1] for _ in range(count))
    return _episodes(messages(each, author=Author.TEACHER, context_only=masked) for each in drawn)


def own(seed: int, count: int) -> list[Episode]:
    """Rounds of an agent that knows nothing and opens either box as often."""
    rng = np.random.default_rng([seed, 2])
    return _episodes(messages(draw(rng, IGNORANT)[1], author=Author.AGENT) for _ in range(count))


def taught(seed: int, count: int) -> list[Episode]:
    """The rounds of `own`, and before each action what the expert would have done there: he knows the
    place."""
    rng, teaching = np.random.default_rng([seed, 2]), np.random.default_rng([seed, 3])
    rows = []
    for _ in range(count):
        place, history = draw(rng, IGNORANT)
        rows.append(messages(history, author=Author.AGENT))
        for n in range(ROUNDS):
            advice = opens(int(teaching.random() < KNOWS[place, 1]), author=Author.TEACHER)
            before = messages(history[:n], author=Author.AGENT, context_only=True)
            rows.append([*map(_context, before), advice])
    return _episodes(rows)


def _context(message: Message) -> Message:
    return Message(role=message.role, content=message.content, author=message.author, context_only=True)


def _episodes(rows: Iterable[list[Message]]) -> list[Episode]:
    return [Episode(id=str(number), messages=tuple(said), source="boxes") for number, said in enumerate(rows)]
