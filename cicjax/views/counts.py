"""How many tokens each author wrote, how many of them are trained on, and the sentence and table that say
so."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64

from cicjax.provenance.encode import Encoded
from cicjax.provenance.protocol import Weighting
from cicjax.provenance.transcript import Author


class TokenCounts(NamedTuple):
    """Tokens of a file by author's code; `supervised` has those of positive weight, one array a weighting, by
    its name."""

    transcripts: int
    tokens: Int64[np.ndarray, " authors"]
    supervised: dict[str, Int64[np.ndarray, " authors"]]

    def total(self, name: str) -> int:
        """How many tokens are supervised under the weighting `name`."""
        return int(self.supervised[name].sum())


def count(rows: Iterable[Encoded], weightings: Mapping[str, Weighting]) -> TokenCounts:
    """The counts of all rows under each weighting."""
    transcripts, size = 0, max(Author) + 1
    tokens = np.zeros(size, np.int64)
    supervised = {name: np.zeros(size, np.int64) for name in weightings}
    for encoded in rows:
        transcripts += 1
        tokens += np.bincount(encoded.author, minlength=size)
        for name, weigh in weightings.items():
            supervised[name] += np.bincount(encoded.author[weigh(encoded) > 0], minlength=size)
    return TokenCounts(transcripts, tokens, supervised)


def own_words(counts: TokenCounts) -> str:
    """One sentence: how many of the supervised tokens are the agent's own words, under each weighting."""
    first, *others = (
        _clause(name, counts, full=number == 0) for number, name in enumerate(counts.supervised)
    )
    return first[0].upper() + "; ".join([first, *others])[1:] + "."


def _clause(name: str, counts: TokenCounts, *, full: bool) -> str:
    total, own = counts.total(name), int(counts.supervised[name][Author.AGENT])
    what, whose = ("supervised tokens ", " the agent's own words") if full else ("", "")
    place = f"under the {name} {'objective' if full else 'one'}"
    if not total:
        return f"{place} nothing is supervised"
    if not own:
        return f"{place} none of the {total:,} {what}are{whose}"
    return f"{place} {own:,} of {total:,} {what}({own / total:.1%}) {'is' if own == 1 else 'are'}{whose}"


def table(counts: TokenCounts) -> list[tuple[str, ...]]:
    """Rows of text: a head, one row an author who wrote something, and all."""
    head = (
        "author",
        "tokens",
        *(
            (f"supervised, {name}" for name in counts.supervised)
            if len(counts.supervised) > 1
            else ("supervised",)
        ),
    )
    columns = [counts.tokens, *counts.supervised.values()]
    body = [
        (author.label, *(f"{column[author]:,}" for column in columns))
        for author in Author
        if counts.tokens[author]
    ]
    return [head, *body, ("all", *(f"{column.sum():,}" for column in columns))]


def aligned(rows: Iterable[tuple[str, ...]]) -> str:
    """A table for a terminal: names to the left, numbers to the right."""
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            [
                row[0].ljust(widths[0]),
                *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)),
            ]
        )
        for row in rows
    )
