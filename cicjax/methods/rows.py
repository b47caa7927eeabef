"""The two kinds of row of section 2.2, and the turns that they are made of."""

from dataclasses import replace

from cicjax.provenance.protocol import PLAIN
from cicjax.provenance.transcript import Author, Episode, Message


def question(text: str) -> Message:
    """x: a question, written by whoever asks."""
    return Message(role="user", author=Author.USER, content=text)


def teacher_solution(text: str) -> Message:
    """y*: a worked solution by the teacher, in the assistant's role."""
    return Message(role="assistant", author=Author.TEACHER, content=text)


def plain_row(id: str, source: str, *messages: Message) -> Episode:
    """A row of the paper, which says that it is in the plain protocol."""
    return Episode(id=id, source=source, messages=messages, protocol=PLAIN)


def demonstration(id: str, *, question_text: str, solution: str, source: str = "sft") -> Episode:
    """(x, y*): a row of the SFT set."""
    return plain_row(id, source, question(question_text), teacher_solution(solution))


def verdict(solved: int) -> Message:
    """v: what the verifier says of an attempt."""
    return Message(role="verifier", author=Author.VERIFIER, content="right" if solved == 1 else "wrong")


def attempted(
    id: str, *, question_text: str, attempt: Message, correction: str, source: str = "stream"
) -> Episode:
    """(x, y_hat) after a success, (x, y_hat, y*) after a failure: a row of the stream, equation (3)."""
    followed = () if attempt.solved == 1 else (teacher_solution(correction),)
    return plain_row(id, source, question(question_text), attempt, *followed)


def without_loss(episode: Episode) -> Episode:
    """A row whose attempt is context alone, whatever a method would make of it."""
    question, attempt, *rest = episode.messages
    return replace(episode, messages=(question, replace(attempt, context_only=True), *rest))
