"""A transcript with its weights, for people and for programs: the [MASK]/[LOSS] boxes of section 2.2, records
and labels."""

import re
import textwrap
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from cicjax.errors import BadInput, printable
from cicjax.provenance.encode import Encoded, encode
from cicjax.provenance.tokenizer import Tokenizer
from cicjax.provenance.transcript import Author, Transcript

IGNORED = -100
EOS = "<eos>"
LOSS, MASK = "[LOSS]", "[MASK]"
COLOURS = {
    Author.AGENT: "magenta",
    Author.TEACHER: "green",
    Author.USER: "cyan",
    Author.TOOL: "yellow",
    Author.VERIFIER: "blue",
    Author.ENVIRONMENT: "bright_black",
    Author.SYSTEM: "white",
}


class Line(NamedTuple):
    """One line of a box: its label, what stands there and who wrote it."""

    label: str
    text: str
    author: Author


def boxes(
    subject: Transcript | Encoded,
    tokenizer: Tokenizer,
    loss_weights: Float[np.ndarray, " T"],
    *,
    width: int = 92,
) -> str:
    """The view of section 2.2: `[LOSS]` where a line is trained on, `[MASK]` where not, a broken weight in
    figures (`[0.30]`).

    A line ends at a newline, at a control token and where author or weight change. Blank lines are left out,
    as the paper does; long ones go on indented. Text that looks like a control token is shown behind a
    backslash, unprintable characters as escapes.
    """
    drawn = lines(subject, tokenizer, loss_weights)
    return "\n".join(part for line in drawn for part in wrapped(line, width=width))


def lines(
    subject: Transcript | Encoded, tokenizer: Tokenizer, loss_weights: Float[np.ndarray, " T"]
) -> list[Line]:
    """The lines of `boxes` before they are cut to a width."""
    encoded = encode(subject, tokenizer) if isinstance(subject, Transcript) else subject
    names = re.compile(
        "|".join(re.escape(name) for name in sorted([EOS, *tokenizer.controls], key=len, reverse=True))
    )
    drawn = []
    for start, stop in _runs(encoded, tokenizer, loss_weights):
        label, author = _label(float(loss_weights[start])), Author(int(encoded.author[start]))
        ids = encoded.tokens[start:stop].tolist()
        if tokenizer.is_control(ids[0]):
            drawn.append(
                Line(label, EOS if ids[0] == tokenizer.end_of_text else tokenizer.decode(ids), author)
            )
            continue
        for text in tokenizer.decode(ids).split("\n"):
            if text.strip():
                drawn.append(Line(label, names.sub(r"\\\g<0>", printable(text)), author))
    return drawn


def wrapped(line: Line, *, width: int) -> list[str]:
    """A line with its label, cut to `width` columns, continuations indented below the text."""
    room = max(width - len(line.label) - 1, 20)
    parts = textwrap.wrap(line.text, room, break_on_hyphens=False) or [""]
    return [f"{line.label} {parts[0]}", *(" " * (len(line.label) + 1) + part for part in parts[1:])]


def print_coloured(
    title: str, subject: Transcript | Encoded, tokenizer: Tokenizer, loss_weights: Float[np.ndarray, " T"]
) -> None:
    """The box on a terminal: coloured by author, what is trained on underlined, a legend of the authors
    present."""
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=True)
    drawn = lines(subject, tokenizer, loss_weights)
    legend = [
        (f" {author.label} ", COLOURS[author])
        for author in Author
        if any(line.author == author for line in drawn)
    ]
    console.print(Text(title, style="bold"), Text.assemble(*legend))
    for line in drawn:
        underline = "" if line.label == MASK else " underline"
        for part in wrapped(line, width=console.width):
            body = part[len(line.label) + 1 :]
            console.print(
                Text.assemble(part[: len(line.label) + 1], (body, COLOURS[line.author] + underline))
            )
    console.print()


def record(
    id: str | None, encoded: Encoded, tokenizer: Tokenizer, loss_weights: Float[np.ndarray, " T"]
) -> dict[str, Any]:
    """One transcript for `--json`: plain lists of length T, authors by name, the texts joining to the
    whole."""
    return {
        "id": id,
        "tokens": encoded.tokens.tolist(),
        "text": tokenizer.pieces(encoded.tokens.tolist()),
        "gamma": encoded.gamma.tolist(),
        "is_target": encoded.is_target.tolist(),
        "weight": loss_weights.tolist(),
        "author": [Author(code).label for code in encoded.author.tolist()],
    }


def labels(encoded: Encoded, loss_weights: Float[np.ndarray, " T"]) -> dict[str, list[int]]:
    """One row for other trainers: labels are the tokens themselves, -100 where the weight is 0; the shift is
    the trainer's.

    Raises BadInput for a weight that is neither 0 nor 1.
    """
    broken = loss_weights[~np.isin(loss_weights, (0, 1))]
    if broken.size:
        raise BadInput(f"labels know only the weights 0 and 1, not {broken[0]:g}; use --json for weights")
    return {
        "input_ids": encoded.tokens.tolist(),
        "attention_mask": [1] * len(encoded.tokens),
        "labels": np.where(loss_weights > 0, encoded.tokens, IGNORED).tolist(),
    }


def _runs(
    encoded: Encoded, tokenizer: Tokenizer, loss_weights: Float[np.ndarray, " T"]
) -> Iterator[tuple[int, int]]:
    start = 0
    for t in range(1, len(encoded.tokens) + 1):
        if t == len(encoded.tokens) or _differ(encoded, tokenizer, loss_weights, t):
            yield start, t
            start = t


def _differ(encoded: Encoded, tokenizer: Tokenizer, loss_weights: Float[np.ndarray, " T"], t: int) -> bool:
    if loss_weights[t] != loss_weights[t - 1] or encoded.author[t] != encoded.author[t - 1]:
        return True
    return tokenizer.is_control(int(encoded.tokens[t])) or tokenizer.is_control(int(encoded.tokens[t - 1]))


def _label(weight: float) -> str:
    if weight in (0.0, 1.0):
        return LOSS if weight else MASK
    return f"[{weight:.2f}]"
