"""Anyone's own transcripts as rows: cut to a length without parting a correction from its attempt."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, NamedTuple

from cicjax.errors import BadInput
from cicjax.provenance import Encoded, encode
from cicjax.provenance.protocol import Render
from cicjax.provenance.tokenizer import Tokenizer
from cicjax.provenance.transcript import Episode, Message

Overflow = Literal["refuse", "drop", "split"]


class Fitted(NamedTuple):
    """Rows no longer than asked for, and what became of the longer ones."""

    rows: list[tuple[Episode, Encoded]]
    dropped: int
    split: int


def fit(
    rows: Sequence[tuple[Episode, Encoded]],
    *,
    max_length: int | None,
    overflow: Overflow,
    render: Render,
    tokenizer: Tokenizer,
    path: object,
) -> Fitted:
    """Rows of at most `max_length` tokens. Raises BadInput for longer ones (`refuse`), or where an exchange
    alone is too long (`split`)."""
    long = [
        n
        for n, (_, encoded) in enumerate(rows)
        if max_length is not None and len(encoded.tokens) > max_length
    ]
    if not long or max_length is None:
        return Fitted(list(rows), 0, 0)
    if overflow == "refuse":
        longest = max(len(rows[n][1].tokens) for n in long)
        raise BadInput(
            f"{path}:{rows[long[0]][0].line}: {len(long)} of {len(rows)} rows are longer than "
            f"--max_length {max_length} (this one first; the longest has {longest}); "
            "raise it, or choose --overflow drop or split"
        )
    kept: list[tuple[Episode, Encoded]] = []
    for row in rows:
        if len(row[1].tokens) <= max_length:
            kept.append(row)
        elif overflow == "split":
            kept += _pieces(row[0], max_length, render=render, tokenizer=tokenizer, path=path)
    return Fitted(kept, len(long) if overflow == "drop" else 0, len(long) if overflow == "split" else 0)


def _pieces(
    episode: Episode, max_length: int, *, render: Render, tokenizer: Tokenizer, path: object
) -> list[tuple[Episode, Encoded]]:
    """An episode cut where a user speaks; what stands before the first of them opens every piece, as context
    from the second on."""
    head, exchanges = _exchanges(episode.messages)
    pieces: list[tuple[Episode, Encoded]] = []
    taken: list[Message] = []
    for number, exchange in enumerate(exchanges):
        longer = _piece(episode, head, [*taken, *exchange], len(pieces))
        encoded = encode(render(longer), tokenizer)
        if len(encoded.tokens) > max_length and taken:
            finished = _piece(episode, head, taken, len(pieces))
            pieces.append((finished, encode(render(finished), tokenizer)))
            taken = []
            encoded = encode(render(_piece(episode, head, exchange, len(pieces))), tokenizer)
        if len(encoded.tokens) > max_length:
            raise BadInput(
                f"{path}:{episode.line}: exchange {number + 1} alone has {len(encoded.tokens)} tokens, "
                f"--max_length is {max_length}; "
                "a split never parts a correction from its attempt: "
                "raise --max_length or choose --overflow drop"
            )
        taken = [*taken, *exchange]
    last = _piece(episode, head, taken, len(pieces))
    return [*pieces, (last, encode(render(last), tokenizer))]


def _piece(episode: Episode, head: Sequence[Message], messages: Sequence[Message], number: int) -> Episode:
    opening = head if number == 0 else [replace(message, context_only=True) for message in head]
    return replace(episode, id=f"{episode.id}/{number + 1}", messages=(*opening, *messages))


def _exchanges(messages: Sequence[Message]) -> tuple[list[Message], list[list[Message]]]:
    """What stands before the first user turn, and runs of messages that begin with a user turn after somebody
    else's."""
    head: list[Message] = []
    exchanges: list[list[Message]] = []
    previous = None
    for message in messages:
        if message.role == "user" and previous != "user":
            exchanges.append([])
        (exchanges[-1] if exchanges else head).append(message)
        previous = message.role
    return (head, exchanges) if exchanges else ([], [head])
