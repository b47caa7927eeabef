"""What all figures share: one look a method, the style, text as text, and SVG that goes as well into a file
as into a page."""

import io
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator

from cicjax import methods
from cicjax.errors import printable
from cicjax.methods import Method
from cicjax.statistics import wilson

# Two colours that stand for "whatever the page has": `embedded` replaces them.
INK, PAPER = "#1b1f24", "#fffffe"
GREY, PALE = "#8a929b", "#a9b1ba"
RIGHT, WRONG = "#7fae9b", "#b5473c"
WIDTH = 5.4  # inches: 520 pixels on a page, and still legible on a phone
STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "cicjax",
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Helvetica", "Arial"],
    "font.size": 10.5,
    "axes.titlesize": 10.5,
    "axes.labelsize": 10,
    "xtick.labelsize": 10,
    "ytick.labelsize": 10.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "figure.facecolor": PAPER,
    "axes.facecolor": PAPER,
    "hatch.linewidth": 0.7,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
}


class Drawing(NamedTuple):
    """A figure: the stem of its file, its SVG, what it shows in words with the numbers, and the caption below
    it."""

    name: str
    svg: str
    alt: str
    caption: str


def look(method: str) -> Method:
    """The method's record, with its label, colour and marker; a row that has none is called by its name."""
    return methods.named(method)


def signed(value: float, digits: int) -> str:
    """A difference with its sign, a real minus where it is negative; what rounds to nothing has no sign."""
    written = f"{value:+.{digits}f}".replace("-", "−")
    return written if written.strip("+−0.") else written[1:]


def embedded(drawing: Drawing) -> str:
    """The drawing's SVG for the inside of a page: ids of its own, ink and paper those of the page."""
    svg = re.sub(
        r"\s*<defs>\s*<style.*?</style>\s*</defs>",
        "",
        drawing.svg[drawing.svg.index("<svg") :],
        flags=re.DOTALL,
    )
    svg = re.sub(r'\s+xmlns(:xlink)?="[^"]*"', "", svg)
    svg = re.sub(r'(\bid="|url\(#|xlink:href="#)', rf"\g<1>{drawing.name}-", svg).replace(
        "xlink:href", "href"
    )
    svg = re.sub(r'(<svg\b[^>]*?) width="[^"]*" height="[^"]*"', r"\1", svg, count=1)
    return svg.replace(INK, "currentColor").replace(PAPER, "var(--paper)").strip()


def canvas(height: float) -> tuple[Figure, Axes]:
    """A figure of one panel, `height` inches high."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.subplots()


def svg_of(figure: Figure) -> str:
    """The figure as a standalone SVG file, without date or maker. What does not print in a name is spelled
    out: XML has no place for it."""
    FigureCanvasSVG(figure)
    written = io.StringIO()
    figure.savefig(written, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    return printable(written.getvalue())


def bar(
    axes: Axes,
    y: float,
    width: float,
    *,
    colour: str,
    left: float = 0.0,
    height: float = 0.8,
    hatch: str = "",
) -> None:
    """One piece of a horizontal bar; paper-coloured ones are drawn by their edge alone."""
    edge = GREY if colour == PAPER else INK
    alpha = 0.8 if hatch and colour not in (PALE, WRONG) else 1.0
    axes.barh(
        y,
        width,
        left=left,
        height=height,
        color=colour,
        edgecolor=edge,
        linewidth=0.7,
        hatch=hatch,
        alpha=alpha,
    )


def measured(
    axes: Axes,
    y: float,
    solved: int,
    questions: int,
    *,
    height: float,
    colour: str,
    hatch: str = "",
    bold: bool = False,
) -> None:
    """A bar of a share with Wilson's interval and its count; nothing where nothing was asked."""
    if not questions:
        return
    share, (low, high) = solved / questions, wilson(solved, questions)
    bar(axes, y, share, colour=colour, height=height, hatch=hatch)
    axes.plot([low, high], [y, y], color=INK, linewidth=1.2 if bold else 0.8, solid_capstyle="butt")
    text = f"{solved}" if bold and questions == 100 else f"{solved}/{questions}"
    beside(
        axes,
        max(high, share),
        y,
        text,
        fontsize=10.5 if bold else 8.5,
        fontweight="bold" if bold else "normal",
    )


def point(axes: Axes, x: float, y: float, method: str, *, label: str | None = None) -> None:
    """A method's marker."""
    drawn = look(method)
    size = 13 if drawn.marker == "*" else 8
    axes.plot(
        x,
        y,
        drawn.marker,
        color=drawn.colour,
        mec=INK,
        mew=0.7,
        markersize=size,
        clip_on=False,
        zorder=3,
        label=label,
    )


def seeds(axes: Axes, xs: Sequence[float], ys: Sequence[float], method: str) -> None:
    """A method's single seeds, small."""
    axes.plot(xs, ys, "o", color=look(method).colour, markersize=4, alpha=0.65, mew=0)


def beside(axes: Axes, x: float, y: float, text: str, **font: Any) -> None:
    """Text a little to the right of a point; blanks before it would not survive in SVG."""
    axes.annotate(
        text, (x, y), xytext=(4, 0), textcoords="offset points", va="center", **{"fontsize": 9.5, **font}
    )


def method_rows(axes: Axes, names: Sequence[str]) -> None:
    """Methods down the left side, the first at the top."""
    axes.set_yticks(range(len(names)), [_broken(look(name).label) for name in names])
    axes.tick_params(axis="y", length=0)
    axes.invert_yaxis()


def _broken(label: str) -> str:
    head, _, tail = label.rpartition(", " if "," in label else " ")
    return f"{head}\n{tail}" if head and len(label) > 12 else label


def shares(axes: Axes, label: str) -> None:
    """An axis from none to all questions, with room for the counts."""
    axes.set_xlim(0, 1.12)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1.0], ["0 %", "25", "50", "75", "100 %"])
    axes.set_xlabel(label)


def counts(axes: Axes, longest: int, *, room: float) -> None:
    """An axis of counts with `room` times the longest bar; no tick in the room itself, where its label could
    be cut off."""
    axes.set_xlim(0, room * longest)
    axes.set_xticks(
        [tick for tick in MaxNLocator(4, integer=True).tick_values(0, longest) if tick <= longest]
    )
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))


def legend(figure: Figure, *entries: tuple[str, str, str]) -> None:
    """(label, colour, hatch) of the pieces, in one line above the panel."""
    patches = [
        Patch(facecolor=colour, edgecolor=INK, linewidth=0.6, hatch=hatch, label=label)
        for label, colour, hatch in entries
    ]
    shape = {"frameon": False, "fontsize": 9.5, "handlelength": 1.6, "columnspacing": 1.2}
    figure.legend(handles=patches, loc="outside upper left", ncols=len(entries), **shape)
