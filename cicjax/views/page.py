"""Transcripts with their weights as one HTML file that asks nobody for anything: no host, no font, no other
file.

`STYLE`, `SCRIPT`, `switch_html` and `transcript_html` are the parts, for other pages to use; `page_html` puts
them together. The switch between objectives is style alone, so the page reads without script and on paper;
the script adds a line that tells about the token under the pointer, the finger or the arrow keys. Text is
escaped, and what does not print is spelled out, so that content stays content.
"""

import base64
import hashlib
import html
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32

from cicjax.errors import printable
from cicjax.provenance.encode import Encoded
from cicjax.provenance.protocol import Weighting
from cicjax.provenance.tokenizer import Tokenizer
from cicjax.provenance.transcript import Author, Episode
from cicjax.views import counts
from cicjax.views.counts import Counts
from cicjax.views.style import PAGE_STYLE, SCRIPT, STYLE

MAX_TRANSCRIPTS = 200
MAX_TOKENS = 50_000  # A token takes some 200 bytes of a page, and a browser ten times that.
MAX_WEIGHTINGS = 3  # as many as STYLE has rules for
VERDICTS = {0: "failed", 1: "passed"}


class View(NamedTuple):
    """What `transcript_html` needs of each token: its text, and its weight under each weighting by name."""

    pieces: list[str]
    weights: dict[str, Float32[np.ndarray, " T"]]


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
    return "\n".join([_head(title), *_opening(title, totals, weightings, shown, drawn), *sections, _foot()])


def transcript_html(
    encoded: Encoded,
    tokenizer: Tokenizer,
    *,
    weightings: Mapping[str, Weighting],
    title: str = "",
    place: str = "",
    max_tokens: int = MAX_TOKENS,
) -> str:
    """One transcript as a `<section>`, one row a run of one author; for any page with STYLE, a `switch_html`
    and, if it likes, SCRIPT.

    At most `max_tokens` of its tokens are drawn. Raises ValueError for more than three weightings.
    """
    if len(weightings) > MAX_WEIGHTINGS:
        raise ValueError(f"{len(weightings)} weightings: the page has styles for {MAX_WEIGHTINGS}")
    view = View(
        tokenizer.pieces(encoded.tokens.tolist()),
        {name: weigh(encoded) for name, weigh in weightings.items()},
    )
    size = min(len(encoded.tokens), max_tokens)
    cut = (
        f'<p class="note">The other {len(encoded.tokens) - size:,} tokens are not drawn.</p>'
        if size < len(encoded.tokens)
        else ""
    )
    turns = "\n".join(
        _turn(encoded, tokenizer, view, start, stop)
        for start, stop in _runs((encoded.author[:size], encoded.solved[:size]))
    )
    label = html.escape(f"Tokens of {printable(title)}; arrow keys go from one to the next")
    return (
        f'<section class="transcript">\n<h2>{text_html(title)}</h2>\n<p '
        f'class="facts">{_facts(encoded, view, place)}</p>\n'
        '<div class="tokens" tabindex="0" role="group" '
        f'aria-label="{label}">\n{turns}\n</div>{cut}\n</section>'
    )


def switch_html(names: Sequence[str], *, shown: str) -> str:
    """The switch between weightings, at `shown` first: radio buttons that STYLE reads. One a page."""
    buttons = " ".join(
        '<label><input type="radio" name="weighting" '
        f'class="show-{n}"{" checked" if name == shown else ""}> {text_html(name)}</label>'
        for n, name in enumerate(names)
    )
    return f'<fieldset class="switch"><legend>Trained on under:</legend> {buttons}</fieldset>'


def counts_html(totals: Counts) -> str:
    """The table of tokens by author."""
    head, *body = counts.table(totals)
    columns = "".join(f'<th scope="col">{text_html(cell)}</th>' for cell in head)
    lines = "\n".join(
        '<tr><th scope="row" '
        f'class="by-{name}">{name}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>'
        for name, *cells in body
    )
    noun = "transcript" if totals.transcripts == 1 else "transcripts"
    caption = f"Tokens of {totals.transcripts:,} {noun} by author"
    return (
        '<div class="scroll"><table '
        f'class="counts"><caption>{caption}</caption>\n<thead><tr>{columns}</tr></thead>\n'
        f"<tbody>\n{lines}\n</tbody></table></div>"
    )


def legend_html(authors: Sequence[Author]) -> str:
    """What colours and marks mean."""
    items = [f'<li><span class="by-{author.label}">{author.label}</span></li>' for author in authors]
    marks = [
        "<li><u>underlined</u>: trained on</li>",
        '<li><span class="control">boxed</span>: control token</li>',
    ]
    return f'<ul class="legend">{"".join([*items, *marks])}</ul>'


def text_html(text: str) -> str:
    """Text for any place in a page, attributes in double quotes included."""
    return html.escape(printable(text), quote=True)


def _place(episode: Episode) -> str:
    return f"line {episode.line}" if episode.line else ""


def _drawn(rows: Sequence[tuple[Episode, Encoded]], max_transcripts: int, max_tokens: int) -> int:
    """How many of the first rows are drawn: at least one."""
    totals = itertools.accumulate(len(encoded.tokens) for _, encoded in rows[:max_transcripts])
    return max(sum(total <= max_tokens for total in totals), min(1, len(rows)))


def _head(title: str) -> str:
    # With this policy nothing but these very bytes of script can run, and nothing can be fetched, even should
    # an escape be missing.
    digests = [
        base64.b64encode(hashlib.sha256(part.encode()).digest()).decode()
        for part in (STYLE + PAGE_STYLE, SCRIPT)
    ]
    policy = (
        f"default-src 'none'; base-uri 'none'; form-action 'none'; style-src 'sha256-{digests[0]}'; "
        f"script-src 'sha256-{digests[1]}'"
    )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{text_html(title)}: who wrote "
        f"what</title>\n<style>{STYLE}{PAGE_STYLE}</style>\n</head>\n<body>\n<main>"
    )


def _opening(
    title: str, totals: Counts, weightings: Mapping[str, Weighting], shown: str, drawn: int
) -> Iterator[str]:
    yield f"<h1>{text_html(title)}</h1>"
    yield f'<p class="lead">{text_html(counts.own_words(totals))}</p>'
    yield counts_html(totals)
    if drawn < totals.transcripts:
        of = f"the first {drawn:,} of {totals.transcripts:,} transcripts"
        yield f'<p class="note">Drawn are {of}; the sentence and the table above count all of them.</p>'
    authors = [author for author in Author if totals.tokens[author]]
    yield f'{legend_html(authors)}\n<div class="bar">{switch_html(list(weightings), shown=shown)}</div>'


def _foot() -> str:
    return f"</main>\n<script>{SCRIPT}</script>\n</body>\n</html>"


def _facts(encoded: Encoded, view: View, place: str) -> str:
    supervised = "".join(
        f'<span class="view-{n}">, {np.count_nonzero(weights > 0):,} trained on</span>'
        for n, weights in enumerate(view.weights.values())
    )
    return f"{text_html(place)}{': ' if place else ''}{len(encoded.tokens):,} tokens{supervised}"


def _turn(encoded: Encoded, tokenizer: Tokenizer, view: View, start: int, stop: int) -> str:
    author, solved = Author(int(encoded.author[start])), int(encoded.solved[start])
    verdict = f"<small>{VERDICTS[solved]}</small>" if solved in VERDICTS else ""
    weights = list(view.weights.values())
    runs = _runs(tuple(column[start:stop] for column in weights))
    text = "".join(
        f'<span class="{_loss([float(w[start + a]) for w in weights])}">'
        + "".join(_token(encoded, tokenizer, view, t) for t in range(start + a, start + b))
        + "</span>"
        for a, b in runs
    )
    return (
        f'<div class="turn by-{author.label}"><div class="who">{author.label}{verdict}</div><div '
        f'class="text">{text}</div></div>'
    )


def _loss(weights: Sequence[float]) -> str:
    names = [f"loss-{n}" + (f" some-{n}" if w != 1 else "") for n, w in enumerate(weights) if w > 0]
    return " ".join(names) or "none"


def _token(encoded: Encoded, tokenizer: Tokenizer, view: View, t: int) -> str:
    token, piece = int(encoded.tokens[t]), view.pieces[t]
    kind = ' class="control"' if tokenizer.is_control(token) else ' class="part"' if not piece else ""
    shown = html.escape(printable(piece)).replace("\n", '<span class="newline">\n</span>')
    return f'<span{kind} title="{_title(encoded, view, t)}">{shown}</span>'


def _title(encoded: Encoded, view: View, t: int) -> str:
    solved = VERDICTS.get(int(encoded.solved[t]), "no verdict")
    weights = ", ".join(f"{weights[t]:g} {html.escape(name)}" for name, weights in view.weights.items())
    target = "target" if encoded.is_target[t] else "no target"
    author = Author(int(encoded.author[t])).label
    return (
        f"token {encoded.tokens[t]}, by {author}, gamma {encoded.gamma[t]}, {target}, {solved}, "
        f"weight {weights}"
    )


def _runs(columns: Sequence[Any]) -> list[tuple[int, int]]:
    """Spans over which all columns keep their values."""
    size = len(columns[0])
    changes = np.zeros(max(size - 1, 0), bool)
    for column in columns:
        changes |= column[1:] != column[:-1]
    edges = [0, *(np.flatnonzero(changes) + 1).tolist(), size]
    return [(start, stop) for start, stop in itertools.pairwise(edges) if start < stop]
