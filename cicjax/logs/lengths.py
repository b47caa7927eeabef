"""Anyone's own transcripts as rows: cut to a length without parting a correction from its attempt.

An episode is cut where a user speaks; an exchange that is too long by itself, where the agent acts again; a
step that still is, before the results of its calls. What is too long even then is left out and counted. Every
window begins with the system's turn and, where that takes no more than half of it, with the question; both
are context from the second window on.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from cicjax.errors import BadInput
from cicjax.provenance import Author, Encoded, encode
from cicjax.provenance.protocol import Render
from cicjax.provenance.tokenizer import Tokenizer
from cicjax.provenance.transcript import Episode, Message

Overflow = Literal["refuse", "drop", "split"]
Messages = tuple[Message, ...]
Row = tuple[Episode, Encoded]


class Fitted(NamedTuple):
    """Rows no longer than asked for, and what became of the longer ones: how many were dropped, how many were
    split, into how many windows, and how many turns fitted into none."""

    rows: list[Row]
    dropped: int = 0
    split: int = 0
    windows: int = 0
    left_out: int = 0


def fit(
    rows: Sequence[Row],
    *,
    max_length: int | None,
    overflow: Overflow,
    render: Render,
    tokenizer: Tokenizer,
    path: object,
) -> Fitted:
    """Rows of at most `max_length` tokens. Raises BadInput for longer ones (`refuse`), and where nothing is
    left."""
    lengths = [len(encoded.tokens) for _, encoded in rows]
    long = [n for n, length in enumerate(lengths) if max_length is not None and length > max_length]
    if not long or max_length is None:
        return Fitted(list(rows))
    if overflow == "refuse":
        raise BadInput(
            f"{path}:{rows[long[0]][0].line}: {len(long)} of {len(rows)} rows are longer than "
            f"--max_length {max_length} (this one first; the longest has {max(lengths)}); "
            "raise it, or choose --overflow drop or split"
        )
    cut = _Cut(max_length, render, tokenizer)
    kept: list[Row] = []
    for row, length in zip(rows, lengths, strict=True):
        if length <= max_length:
            kept.append(row)
        elif overflow == "split":
            kept += cut.windows(row[0])
    if not kept:
        raise BadInput(_nothing_left(len(rows), max(lengths), max_length, overflow, path))
    if overflow == "drop":
        return Fitted(kept, dropped=len(long))
    windows = len(kept) - (len(rows) - len(long))
    return Fitted(kept, split=len(long), windows=windows, left_out=cut.left_out)


def _nothing_left(rows: int, longest: int, max_length: int, overflow: Overflow, path: object) -> str:
    what = f"{path}: all {rows} rows are longer than --max_length {max_length} (the longest has {longest})"
    if overflow == "drop":
        return f"{what}, so none is left to train on; raise it, or choose --overflow split"
    return (
        f"{what}, and so is each of their turns, as a split never parts a correction from its attempt; raise "
        "--max_length"
    )


class _Part(NamedTuple):
    """Messages that stay together, and the question that they stand under."""

    question: Messages
    messages: Messages


@dataclass
class _Cut:
    """Cuts episodes, and counts the turns that fit into no window."""

    max_length: int
    render: Render
    tokenizer: Tokenizer
    left_out: int = 0

    def windows(self, episode: Episode) -> list[Row]:
        """As many parts in each window as there is room for."""
        head, exchanges = _exchanges(episode.messages)
        windows: list[Row] = []
        taken: list[_Part] = []
        for part in self._parts(episode, head, exchanges):
            if taken and self._row(episode, head, [*taken, part], len(windows)) is None:
                windows += self._whole(episode, head, taken, len(windows))
                taken = []
            taken.append(part)
        return windows + self._whole(episode, head, taken, len(windows))

    def _whole(self, episode: Episode, head: Messages, parts: list[_Part], number: int) -> list[Row]:
        row = self._row(episode, head, parts, number) if parts else None
        return [] if row is None else [row]

    def _parts(self, episode: Episode, head: Messages, exchanges: Sequence[Messages]) -> Iterator[_Part]:
        """Exchanges, or what must be cut of them, each of which fits into a window of its own."""
        for exchange in exchanges:
            if self._fits(episode, head, whole := _Part((), exchange)):
                yield whole
                continue
            question, steps = _steps(exchange)
            context = question if 2 * self._length(episode, (*head, *question)) <= self.max_length else ()
            for messages in filter(None, (question, *steps)):
                step = _Part(() if messages is question else context, messages)
                finer = [step] if self._fits(episode, head, step) else _before_results(step)
                for part in finer:
                    if self._fits(episode, head, part):
                        yield part
                    else:
                        self.left_out += len(part.messages)

    def _fits(self, episode: Episode, head: Messages, part: _Part) -> bool:
        return self._row(episode, head, [part], 1) is not None

    def _row(self, episode: Episode, head: Messages, parts: Sequence[_Part], number: int) -> Row | None:
        """The window of these parts as a row; None where it is too long."""
        said = tuple(message for part in parts for message in part.messages)
        opening = head if number == 0 else _context(head)
        window = replace(
            episode,
            id=f"{episode.id}/{number + 1}",
            messages=(*opening, *_context(parts[0].question), *said),
        )
        encoded = encode(self.render(window), self.tokenizer)
        return (window, encoded) if len(encoded.tokens) <= self.max_length else None

    def _length(self, episode: Episode, messages: Messages) -> int:
        return len(encode(self.render(replace(episode, messages=messages)), self.tokenizer).tokens)


def _context(messages: Messages) -> Messages:
    return tuple(replace(message, context_only=True) for message in messages)


def _exchanges(messages: Messages) -> tuple[Messages, list[Messages]]:
    """What stands before the first user turn, and runs of messages that begin with a user turn after somebody
    else's."""
    starts = [
        n
        for n, message in enumerate(messages)
        if message.role == "user" and (n == 0 or messages[n - 1].role != "user")
    ]
    return (messages[: starts[0]], _runs(messages, starts)) if starts else ((), [messages])


def _steps(exchange: Messages) -> tuple[Messages, list[Messages]]:
    """The question of an exchange, and its steps. A step begins where an assistant acts, unless that is a
    teacher after the agent, whose correction it is, or right after another teacher."""
    starts: list[int] = []
    acted = None
    for n, message in enumerate(exchange):
        if message.role != "assistant":
            continue
        adjacent = exchange[n - 1].role == "assistant" if n else False
        belongs = message.author is not Author.AGENT and (acted is Author.AGENT or adjacent)
        if not starts or not belongs:
            starts.append(n)
        acted = message.author
    return (exchange[: starts[0]], _runs(exchange, starts)) if starts else (exchange, [])


def _before_results(step: _Part) -> list[_Part]:
    """A step cut before each of the turns that follow its last assistant's."""
    last = max((n for n, m in enumerate(step.messages) if m.role == "assistant"), default=-1)
    starts = [0, *range(last + 1, len(step.messages))] if last >= 0 else range(len(step.messages))
    return [_Part(step.question, run) for run in _runs(step.messages, starts)]


def _runs(messages: Messages, starts: Sequence[int]) -> list[Messages]:
    ends = [*starts[1:], len(messages)]
    return [messages[start:end] for start, end in zip(starts, ends, strict=True)]
