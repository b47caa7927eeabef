"""Messages to segments: where each turn's text, prefix and end of text go, and who wrote them.

The plain protocol of sections 2.2 and 2.3. Training rows, sampling prompts and probes all come from `plain`, so that a prompt is a prefix
of its row, id for id.
"""

from collections.abc import Iterator, Sequence

from cicjax.errors import BadInput
from cicjax.provenance.transcript import Author, Message, Segment, Transcript, shorten

# One segment, one encoding: Qwen's vocabulary has a token for the end of "?\n\n" that a cut inside would break.
PROMPT = "Question:\n{question}\n\nProposed solution:\n"
SECOND_PREFIX = "Proposed solution:\n"
VERDICT_PREFIX = "Verdict:\n"


def plain(messages: Sequence[Message], *, open_turn: bool = False, id: str | None = None) -> Transcript:
    """Render `user` (a question), `assistant` (a solution) and `verifier` (a verdict) messages in the plain protocol.

    A solution that does not follow its question directly gets the prefix `Proposed solution:` of its own; with `open_turn` the transcript
    ends where the next solution begins, which is the prompt to sample it from. Solutions with their ends are targets, nothing
    else is. Raises BadInput for another role or order, naming the message.
    """
    return Transcript(_plain(messages, open_turn), id)


def _plain(messages: Sequence[Message], open_turn: bool) -> Iterator[Segment]:
    previous = None
    for n, message in enumerate(messages, start=1):
        _check_order(n, previous, message.role)
        if message.role == "user":
            yield Segment(PROMPT.replace("{question}", message.content), message.author, is_target=False)
        elif message.role == "verifier":
            yield Segment(VERDICT_PREFIX, Author.ENVIRONMENT, is_target=False)
            yield Segment(message.content + "\n", message.author, is_target=False)
        else:
            yield from _prefix(previous)
            yield from solution(message)
        previous = message.role
    if open_turn:
        if previous is None:
            raise BadInput("a prompt needs a question: there are no messages")
        yield from _prefix(previous)


def _prefix(previous: str | None) -> Iterator[Segment]:
    if previous != "user":
        yield Segment(SECOND_PREFIX, Author.ENVIRONMENT, is_target=False)


def solution(message: Message) -> Iterator[Segment]:
    """A solution and its end of text, by whoever wrote it.

    Sampled ids hold the stop token that the author chose. A turn that was cut has an end that nobody chose and nobody may learn.
    """
    if message.tokens is not None:
        yield Segment(message.tokens, message.author, solved=message.solved)
    else:
        yield Segment(message.content, message.author, solved=message.solved)
    if message.truncated:
        yield Segment.end(Author.ENVIRONMENT, is_target=False, solved=message.solved)
    elif message.tokens is None:
        yield Segment.end(message.author, solved=message.solved)


def _check_order(n: int, previous: str | None, role: str) -> None:
    if role not in ("user", "assistant", "verifier"):
        raise BadInput(f"message {n}: the plain protocol has no role {shorten(role)}, only user, assistant and verifier")
    if role != "user" and previous is None:
        raise BadInput(f"message {n}: a row of the plain protocol begins with a question (role user), not with role {role}")
    if previous == "user" and role != "assistant":
        raise BadInput(f"message {n}: a question is followed by a solution (role assistant), not by role {role}")
