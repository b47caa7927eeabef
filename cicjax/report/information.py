"""The lemma of section 1.3 on the stream, as a figure: what a method gains from the attempt that a correction
corrects."""

from collections.abc import Mapping, Sequence

import matplotlib
from matplotlib.ticker import MaxNLocator

from cicjax.experiments.paper.records import MethodResult
from cicjax.report.drawing import (
    GREY,
    INK,
    STYLE,
    Drawing,
    bar,
    canvas,
    legend,
    look,
    method_rows,
    seeds,
    signed,
    svg_of,
)


@matplotlib.rc_context(STYLE)
def usable_information(methods: Mapping[str, MethodResult], points: Mapping[str, Sequence[float]]) -> Drawing:
    """What its own attempt is worth to a correction over another's, by position: at the token where the
    correction leaves the attempt, of several seeds each one's in `points`, and at all others; the line is the
    interval of the mean over all."""
    worth = {name: row.usable_information for name, row in methods.items() if row.usable_information}
    figure, axes = canvas(1.1 + 0.52 * len(worth))
    axes.axvline(0, color=GREY, linewidth=0.7)
    sentences = []
    for y, (method, told) in enumerate(worth.items()):
        leaves, elsewhere = told.get("where_it_leaves"), told.get("elsewhere")
        bar(axes, y - 0.22, leaves or 0.0, colour=look(method).colour, height=0.34)
        if len(points.get(method, ())) > 1:
            seeds(axes, points[method], [y - 0.22] * len(points[method]), method)
        bar(axes, y + 0.14, elsewhere or 0.0, colour=look(method).colour, height=0.24, hatch="////")
        axes.plot([told["low"], told["high"]], [y + 0.36] * 2, color=INK, linewidth=1.4)
        places = f"{_nats(leaves)} where it leaves the attempt, {_nats(elsewhere)} elsewhere"
        interval = f"{signed(told['low'], 4)} to {signed(told['high'], 4)}"
        sentences.append(f"{look(method).label}: {places}, {_nats(told['nats'])} over all ({interval})")
    method_rows(axes, list(worth))
    axes.set_ylim(len(worth) - 0.4, -0.6)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.set_xlabel("nats a token gained from the own attempt over another's")
    legend(figure, ("where it leaves the attempt", GREY, ""), ("elsewhere", GREY, "////"))
    caption = (
        "Usable information: how much likelier a correction is after the attempt that it corrects than after "
        "another question's of the same skill, on development questions. The line below the bars is the 95 % "
        "interval of the mean over all tokens; small dots are seeds. The oracle is a function of a question: "
        "to whoever knows it an attempt is worth nothing."
    )
    return Drawing(
        "usable-information", svg_of(figure), f"Bars of nats a token. {'; '.join(sentences)}.", caption
    )


def _nats(value: float | None) -> str:
    return "nothing" if value is None else signed(value, 4)
