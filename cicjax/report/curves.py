"""Lines of shares over x, with an interval at every mark."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import matplotlib

from cicjax.report.drawing import INK, STYLE, Drawing, canvas, svg_of
from cicjax.report.probed import COLOURS, MARKERS
from cicjax.statistics import t_interval, wilson


class Mark(NamedTuple):
    """A value at x, and the ends of its interval."""

    x: float
    value: float
    low: float
    high: float


def share(x: float, solved: int, questions: int) -> Mark:
    """A share of questions with Wilson's interval."""
    return Mark(x, solved / questions, *wilson(solved, questions))


def over_seeds(xs: Sequence[float], values: Sequence[float]) -> Mark:
    """The mean of several seeds with Student's interval."""
    mean, low, high = t_interval(values)
    return Mark(sum(xs) / len(xs), mean, low, high)


@matplotlib.rc_context(STYLE)
def lines(
    name: str,
    series: Mapping[str, Sequence[Mark]],
    *,
    x: str,
    y: str,
    caption: str,
    level: tuple[str, float] | None = None,
) -> Drawing:
    """A line a name, an upright bar an interval; lines are moved apart a little where they share x. `level`
    is a named horizontal line. Of an interval the part between 0 and 1 is drawn, and none without ends."""
    figure, axes = canvas(3.0)
    reach = max((mark.x for marks in series.values() for mark in marks), default=1.0)
    sentences = []
    for n, (label, marks) in enumerate(series.items()):
        colour, marker = COLOURS[n % len(COLOURS)], MARKERS[n % len(MARKERS)]
        xs = [mark.x + 0.006 * reach * (n - len(series) / 2) for mark in marks]
        axes.plot(
            xs, [m.value for m in marks], f"{marker}-", color=colour, mec=INK, mew=0.6, ms=5, label=label
        )
        for place, mark in zip(xs, marks, strict=True):
            ends = [min(max(end, 0.0), 1.0) for end in (mark.low, mark.high)]
            if abs(mark.low) != float("inf"):
                axes.plot([place, place], ends, color=colour, linewidth=0.9, alpha=0.7)
        sentences.append(f"{label}: {', '.join(f'{mark.x:g}: {mark.value:.2f}' for mark in marks)}")
    if level is not None:
        axes.axhline(level[1], color=INK, linewidth=0.8, linestyle=":", label=level[0])
    axes.set_ylim(0, 1.03)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    figure.legend(loc="outside upper left", ncols=3, frameon=False, fontsize=9.0)
    return Drawing(name, svg_of(figure), f"Lines over {x}. {'; '.join(sentences)}.", caption)
