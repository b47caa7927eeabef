"""Transcripts with their weights as one HTML file that asks nobody for anything: no host, no font, no other
file.

How one of them is drawn is `transcript`'s business; here are the sentence, the counts and the switch above
them.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from cicjax.provenance.encode import Encoded
from cicjax.provenance.protocol import Weighting
from cicjax.provenance.tokenizer import Tokenizer
from cicjax.provenance.transcript import Author, Episode
from cicjax.views import counts
from cicjax.views.counts import TokenCounts
from cicjax.views.html import Html, document, tag
from cicjax.views.transcript import MAX_TOKENS, legend_html, switch_html, transcript_html
from cicjax.views.transcript_style import PAGE_STYLE, SCRIPT, STYLE

MAX_TRANSCRIPTS = 200


def page_html(
    rows: Sequence[tuple[Episode, Encoded]],
    tokenizer: Tokenizer,
    *,
    title: str,
    weightings: Mapping[str, Weighting],
    shown: str,
    max_transcripts: int = MAX_TRANSCRIPTS,
    max_tokens: int = MAX_TOKENS,
) -> str:
    """The whole page. Counts cover all rows; drawn are the first `max_transcripts`, and no more than about
    `max_tokens` tokens of them.

    `weightings` are at most three, by the names on the switch; `shown` is the one it stands on at first.
    `title` is the file's name.
    """
    totals = counts.count((encoded for _, encoded in rows), weightings)
    drawn = _drawn(rows, max_transcripts, max_tokens)
    sections = [
        transcript_html(
            encoded,
            tokenizer,
            weightings=weightings,
            title=episode.id,
            place=_place(episode),
            max_tokens=max_tokens,
        )
        for episode, encoded in rows[:drawn]
    ]
    body = tag("main", *_opening(title, totals, weightings, shown, drawn), *sections)
    return document(f"{title}: who wrote what", [body], style=STYLE + PAGE_STYLE, script=SCRIPT)


def counts_html(totals: TokenCounts) -> Html:
    """The table of tokens by author."""
    head, *body = counts.table(totals)
    rows = [
        tag(
            "tr",
            tag("th", name, scope="row", class_=f"by-{name}"),
            *(tag("td", cell) for cell in cells),
        )
        for name, *cells in body
    ]
    noun = "transcript" if totals.transcripts == 1 else "transcripts"
    table = tag(
        "table",
        tag("caption", f"Tokens of {totals.transcripts:,} {noun} by author"),
        tag("thead", tag("tr", *(tag("th", cell, scope="col") for cell in head))),
        tag("tbody", *rows),
        class_="counts",
    )
    return tag("div", table, class_="scroll")


def _place(episode: Episode) -> str:
    file = f"{Path(episode.file).name}, " if episode.file else ""
    return f"{file}line {episode.line}" if episode.line else ""


def _drawn(rows: Sequence[tuple[Episode, Encoded]], max_transcripts: int, max_tokens: int) -> int:
    """How many of the first rows are drawn: at least one."""
    totals = itertools.accumulate(len(encoded.tokens) for _, encoded in rows[:max_transcripts])
    return max(sum(total <= max_tokens for total in totals), min(1, len(rows)))


def _opening(
    title: str, totals: TokenCounts, weightings: Mapping[str, Weighting], shown: str, drawn: int
) -> Iterator[Html]:
    yield tag("h1", title)
    yield tag("p", counts.own_words(totals), class_="lead")
    yield counts_html(totals)
    if drawn < totals.transcripts:
        of = f"the first {drawn:,} of {totals.transcripts:,} transcripts"
        yield tag("p", f"Drawn are {of}; the sentence and the table above count all of them.", class_="note")
    yield legend_html([author for author in Author if totals.tokens[author]])
    yield tag("div", switch_html(list(weightings), shown=shown), class_="bar")
