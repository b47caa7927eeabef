"""The two kinds of row of section 2.2, and the one permutation that all arms of a stream share."""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from cicjax.provenance.formats import Episode
from cicjax.provenance.transcript import Author, Message

T = TypeVar("T")


def question(text: str) -> Message:
    """x: a question, written by whoever asks."""
    return Message(role="user", author=Author.USER, content=text)


def teacher_solution(text: str) -> Message:
    """y*: a worked solution by the teacher, in the assistant's role."""
    return Message(role="assistant", author=Author.TEACHER, content=text)


def demonstration(id: str, *, question_text: str, solution: str, source: str = "sft") -> Episode:
    """(x, y*): a row of the SFT set."""
    return Episode(id=id, source=source, messages=(question(question_text), teacher_solution(solution)))


def attempted(id: str, *, question_text: str, attempt: Message, correction: str, source: str = "stream") -> Episode:
    """(x, y_hat) after a success, (x, y_hat, y*) after a failure: a row of the stream, equation (3)."""
    followed = () if attempt.solved == 1 else (teacher_solution(correction),)
    return Episode(id=id, source=source, messages=(question(question_text), attempt, *followed))


def updates_of(rows: Sequence[T], *, seed: int, rows_per_update: int) -> list[list[T]]:
    """One epoch: a permutation that depends on the seed and the number of rows alone, cut into updates. The last may be smaller.

    Arms that share their rows get the same transcript as row i of update j, whatever their weights.
    """
    order = np.random.default_rng(seed).permutation(len(rows))
    return [[rows[i] for i in order[first : first + rows_per_update]] for first in range(0, len(rows), rows_per_update)]
