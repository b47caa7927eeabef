"""Messages to segments: where each turn's text, prefix and end of text go, and who wrote them.

The plain protocol of sections 2.2 and 2.3. Training rows, sampling prompts and probes all come from `plain`,
so that a prompt is a prefix of its row, id for id. Conversations with tools and control tokens come from
`chat`, which this room hands on.
"""

from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet

from cicjax.errors import BadInput, shorten
from cicjax.provenance.chat import PROTOCOLS, QWEN3, QWEN25, TEACHER_ONLY, WORLD, Protocol, chat
from cicjax.provenance.transcript import Author, Message, Segment, Transcript

__all__ = [
    "PROMPT",
    "PROTOCOLS",
    "QWEN3",
    "QWEN25",
    "SECOND_PREFIX",
    "TEACHER_ONLY",
    "VERDICT_PREFIX",
    "WORLD",
    "Protocol",
    "chat",
    "plain",
]

# One segment, one encoding: Qwen's vocabulary has a token for the end of "?\n\n" that a cut inside would
# break.
PROMPT = "Question:\n{question}\n\nProposed solution:\n"
SECOND_PREFIX = "Proposed solution:\n"
VERDICT_PREFIX = "Verdict:\n"


def plain(
    messages: Sequence[Message],
    *,
    targets: AbstractSet[Author] = TEACHER_ONLY,
    open_turn: bool = False,
    id: str | None = None,
) -> Transcript:
    """Render `user` (a question), `assistant` (a solution) and `verifier` (a verdict) messages in the plain
    protocol.

    A solution that does not follow its question directly gets the prefix `Proposed solution:` of its own;
    with `open_turn` the transcript ends where the next solution begins, which is the prompt to sample it
    from. `targets` says whose words may carry loss: by default solutions with their ends, the agent's always
    among them; with the user, the verifier or the environment questions, verdicts or prefixes too. Raises
    BadInput for another role or order, naming the message.
    """
    return Transcript(_plain(messages, targets, open_turn), id)


def _plain(messages: Sequence[Message], targets: AbstractSet[Author], open_turn: bool) -> Iterator[Segment]:
    previous = None
    for n, message in enumerate(messages, start=1):
        _check_order(n, previous, message.role)
        if message.role == "user":
            yield Segment(
                PROMPT.replace("{question}", message.content),
                message.author,
                _learned(message, targets, message.author),
            )
        elif message.role == "verifier":
            yield Segment(VERDICT_PREFIX, Author.ENVIRONMENT, _learned(message, targets, Author.ENVIRONMENT))
            yield Segment(message.content + "\n", message.author, _learned(message, targets, message.author))
        else:
            yield from _prefix(previous, _learned(message, targets, Author.ENVIRONMENT))
            yield from _solution(message, targets)
        previous = message.role
    if open_turn:
        if previous is None:
            raise BadInput("a prompt needs a question: there are no messages")
        yield from _prefix(previous, Author.ENVIRONMENT in targets)


def _learned(message: Message, targets: AbstractSet[Author], *authors: Author) -> bool:
    return not message.context_only and not targets.isdisjoint(authors)


def _prefix(previous: str | None, is_target: bool) -> Iterator[Segment]:
    if previous != "user":
        yield Segment(SECOND_PREFIX, Author.ENVIRONMENT, is_target)


def _solution(message: Message, targets: AbstractSet[Author]) -> Iterator[Segment]:
    """A solution and its end of text, by whoever wrote it: who is not the agent is a teacher here, whatever
    else it is.

    Sampled ids hold the stop token that the author chose. A turn that was cut has an end that nobody chose
    and nobody may learn.
    """
    is_target = _learned(message, targets | {Author.AGENT}, message.author, Author.TEACHER)
    yield Segment(
        message.content if message.tokens is None else message.tokens,
        message.author,
        is_target,
        message.solved,
    )
    if message.truncated:
        yield Segment.end(Author.ENVIRONMENT, is_target=False, solved=message.solved)
    elif message.tokens is None:
        yield Segment.end(message.author, is_target, message.solved)


def _check_order(n: int, previous: str | None, role: str) -> None:
    if role not in ("user", "assistant", "verifier"):
        raise BadInput(
            f"message {n}: the plain protocol has no role {shorten(role)}, only user, assistant and verifier"
        )
    if role != "user" and previous is None:
        raise BadInput(
            f"message {n}: a row of the plain protocol begins with a question "
            f"(role user), not with role {role}"
        )
    if previous == "user" and role != "assistant":
        raise BadInput(
            f"message {n}: a question is followed by a solution (role assistant), not by role {role}"
        )
