"""A transcript as HTML, token by token or line by line: the one way in which every page shows it.

`transcript_html` draws tokens, with a switch between weightings (`switch_html`) that is style alone, so that
a page reads without script and on paper. `lines_html` draws the lines of `boxes`. Both are turns of the same
mark-up, one a run of one author, for any page with the style sheet of `transcript_style`. Text is escaped,
and what does not print is spelled out, so that content stays content.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32

from cicjax.provenance.encode import Encoded
from cicjax.provenance.protocol import Weighting
from cicjax.provenance.tokenizer import Tokenizer
from cicjax.provenance.transcript import Author
from cicjax.views.boxes import MASK, Line
from cicjax.views.html import Child, Html, join, tag, text

MAX_TOKENS = 50_000  # A token takes some 200 bytes of a page, and a browser ten times that.
MAX_WEIGHTINGS = 3  # as many as the style sheet has rules for
VERDICTS = {0: "failed", 1: "passed"}
NEWLINE = tag("span", "\n", class_="newline")


class View(NamedTuple):
    """What is drawn of each token: its text, and its weight under each weighting by name."""

    pieces: list[str]
    weights: dict[str, Float32[np.ndarray, " T"]]


def transcript_html(
    encoded: Encoded,
    tokenizer: Tokenizer,
    *,
    weightings: Mapping[str, Weighting],
    title: str = "",
    place: str = "",
    max_tokens: int = MAX_TOKENS,
) -> Html:
    """One transcript as a `<section>` for a page with a `switch_html`; the page's script, if it has one,
    tells about the token under the pointer, the finger or the arrow keys.

    At most `max_tokens` of its tokens are drawn. Raises ValueError for more than three weightings.
    """
    if len(weightings) > MAX_WEIGHTINGS:
        raise ValueError(f"{len(weightings)} weightings: the style sheet has rules for {MAX_WEIGHTINGS}")
    view = View(
        tokenizer.pieces(encoded.tokens.tolist()),
        {name: weigh(encoded) for name, weigh in weightings.items()},
    )
    size = min(len(encoded.tokens), max_tokens)
    turns = [
        _turn_of_tokens(encoded, tokenizer, view, start, stop)
        for start, stop in _runs((encoded.author[:size], encoded.solved[:size]))
    ]
    label = f"Tokens of {title}; arrow keys go from one to the next"
    cut = f"The other {len(encoded.tokens) - size:,} tokens are not drawn."
    return tag(
        "section",
        tag("h2", title),
        tag("p", _facts(encoded, view, place), class_="facts"),
        tag("div", *turns, class_="tokens", tabindex=0, role="group", aria_label=label),
        tag("p", cut, class_="note") if size < len(encoded.tokens) else None,
        class_="transcript",
    )


def lines_html(lines: Sequence[Line]) -> Html:
    """The lines of `boxes.lines`, each behind its label; what bears loss is underlined, whatever a switch
    says."""
    turns = [
        _turn(author, [_labelled(line) for line in run])
        for author, run in itertools.groupby(lines, key=lambda line: line.author)
    ]
    return tag("div", *turns, class_="lines")


def switch_html(names: Sequence[str], *, shown: str) -> Html:
    """The switch between weightings, at `shown` first: radio buttons that the style sheet reads. One a
    page."""
    buttons = [
        tag(
            "label",
            tag("input", type="radio", name="weighting", class_=f"show-{n}", checked=name == shown),
            f" {name}",
        )
        for n, name in enumerate(names)
    ]
    return tag("fieldset", tag("legend", "Trained on under:"), join(buttons), class_="switch")


def legend_html(authors: Sequence[Author], *, controls: bool = True) -> Html:
    """What colours and marks mean; `controls` where tokens are drawn, whose control tokens are boxed."""
    items = [tag("li", tag("span", author.label, class_=f"by-{author.label}")) for author in authors]
    items.append(tag("li", tag("u", "underlined"), ": trained on"))
    if controls:
        items.append(tag("li", tag("span", "boxed", class_="control"), ": control token"))
    return tag("ul", *items, class_="legend")


def _turn(author: Author, body: Sequence[Child], *, who: Child = None) -> Html:
    """A run of one author's text, in its colour, with `who` beside it."""
    side = None if who is None else tag("div", who, class_="who")
    return tag("div", side, tag("div", *body, class_="text"), class_=f"turn by-{author.label}")


def _labelled(line: Line) -> Html:
    label, words = tag("span", line.label, class_="label"), tag("span", line.text, class_="words")
    return tag("div", label, words, class_="line" if line.label == MASK else "line loss")


def _facts(encoded: Encoded, view: View, place: str) -> Html:
    supervised = [
        tag("span", f", {np.count_nonzero(weights > 0):,} trained on", class_=f"view-{n}")
        for n, weights in enumerate(view.weights.values())
    ]
    return join([f"{place}: " if place else "", f"{len(encoded.tokens):,} tokens", *supervised])


def _turn_of_tokens(encoded: Encoded, tokenizer: Tokenizer, view: View, start: int, stop: int) -> Html:
    author, solved = Author(int(encoded.author[start])), int(encoded.solved[start])
    weights = list(view.weights.values())
    spans = [
        tag(
            "span",
            *(_token(encoded, tokenizer, view, t) for t in range(start + a, start + b)),
            class_=_loss([float(column[start + a]) for column in weights]),
        )
        for a, b in _runs(tuple(column[start:stop] for column in weights))
    ]
    verdict = tag("small", VERDICTS[solved]) if solved in VERDICTS else None
    return _turn(author, spans, who=join([author.label, verdict]))


def _loss(weights: Sequence[float]) -> str:
    names = [f"loss-{n}" + (f" some-{n}" if w != 1 else "") for n, w in enumerate(weights) if w > 0]
    return " ".join(names) or "none"


def _token(encoded: Encoded, tokenizer: Tokenizer, view: View, t: int) -> Html:
    piece = view.pieces[t]
    kind = "control" if tokenizer.is_control(int(encoded.tokens[t])) else None if piece else "part"
    words = Html(text(piece).replace("\n", NEWLINE))
    return tag("span", words, class_=kind, title=_title(encoded, view, t))


def _title(encoded: Encoded, view: View, t: int) -> str:
    solved = VERDICTS.get(int(encoded.solved[t]), "no verdict")
    weights = ", ".join(f"{weights[t]:g} {name}" for name, weights in view.weights.items())
    target = "target" if encoded.is_target[t] else "no target"
    author = Author(int(encoded.author[t])).label
    return (
        f"token {encoded.tokens[t]}, by {author}, gamma {encoded.gamma[t]}, "
        f"{target}, {solved}, weight {weights}"
    )


def _runs(columns: Sequence[Any]) -> list[tuple[int, int]]:
    """Spans over which all columns keep their values."""
    size = len(columns[0])
    changes = np.zeros(max(size - 1, 0), bool)
    for column in columns:
        changes |= column[1:] != column[:-1]
    edges = [0, *(np.flatnonzero(changes) + 1).tolist(), size]
    return [(start, stop) for start, stop in itertools.pairwise(edges) if start < stop]
