"""The report's figures as SVG, in the manner of the paper's: numbers in, text out; equal numbers give equal
bytes.

Methods keep one colour and one marker everywhere; what matters is also said by length, hatching or a label,
so that the figures can be read without colour.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from cicjax.experiments.paper.records import Ledger, MethodResult
from cicjax.methods import START, UNTRAINED
from cicjax.provenance.transcript import Author
from cicjax.report.drawing import (
    GREY,
    INK,
    PALE,
    PAPER,
    RIGHT,
    STYLE,
    WIDTH,
    WRONG,
    Drawing,
    bar,
    beside,
    canvas,
    counts,
    legend,
    look,
    measured,
    method_rows,
    point,
    seeds,
    shares,
    signed,
    svg_of,
)
from cicjax.statistics import t_interval

Methods = Mapping[str, MethodResult]
MOST_QUESTIONS = 400  # More bars than this cannot be told apart.


@matplotlib.rc_context(STYLE)
def positions(ledger: Ledger, methods: Methods) -> Drawing:
    """Figure 2: loss-bearing and context-only positions of each arm that eats the stream."""
    bars = position_bars(ledger, methods)
    figure, axes = canvas(1.2 + 0.46 * len(bars))
    sentences = []
    for y, (method, (corrections, attempts, context)) in enumerate(bars.items()):
        loss, total = corrections + attempts, corrections + attempts + context
        bar(axes, y, corrections, colour=look(method).colour)
        bar(axes, y, attempts, left=corrections, colour=look(method).colour, hatch="////")
        bar(axes, y, context, left=loss, colour=PAPER)
        beside(axes, total, y, f"{loss:,} of {total:,}")
        whose = f"{corrections:,} corrections, {attempts:,} attempts"
        sentences.append(f"{look(method).label}: {loss:,} loss-bearing ({whose}), {context:,} context only")
    method_rows(axes, list(bars))
    counts(axes, max(map(sum, bars.values())), room=1.42)
    axes.set_xlabel("token positions")
    legend(
        figure,
        ("loss: corrections", GREY, ""),
        ("loss: own attempts", GREY, "////"),
        ("context only", PAPER, ""),
    )
    # Such a row has no correction: only a schedule that is the stream's has any.
    empty = [name for name in bars if not look(name).takes_stream_whole and _skips(methods[name], ledger)]
    skipped = "".join(
        f" {look(name).label}: rows without targets are skipped and not counted here, "
        "though the log of its training counts them."
        for name in empty
    )
    caption = (
        "Figure 2. Loss-bearing and context-only positions. The interventional stream and SFT+oracle learn "
        "from the same correction "
        "tokens; only the stream keeps the attempt in the context. The observational stream also learns "
        "from the attempts."
        f"{skipped}"
    )
    return Drawing(
        "figure2-positions", svg_of(figure), f"Bars of token positions. {'; '.join(sentences)}.", caption
    )


def stream_arms(methods: Methods) -> list[str]:
    """The methods that learn from the stream's samples, in the order of the table."""
    return [name for name in methods if look(name).samples == "stream"]


def _skips(row: MethodResult, ledger: Ledger) -> bool:
    return row.budget.rows > ledger.wrong_attempts


def _corrections_or_attempts(method: str) -> bool:
    """Whether loss falls on the stream's corrections and attempts alone, and counts tell the two apart."""
    arm = look(method)
    whole = arm.takes_stream_whole and arm.evidence == (Author.TEACHER.label,)
    return whole or arm.speakers == (Author.TEACHER,)


def position_bars(ledger: Ledger, methods: Methods) -> dict[str, tuple[int, int, int]]:
    """Figure 2's bars: (corrections, attempts, context only). The first two bear loss; for the stream arms
    all add up to the ledger. Arms with other rows or other targets are left to the table of budgets."""
    corrections, total = ledger.positions["interventional"], ledger.positions["total"]
    bars = {}
    for method in filter(_corrections_or_attempts, stream_arms(methods)):
        if look(method).takes_stream_whole and method in ledger.positions:
            loss = ledger.positions[method]
            bars[method] = (corrections, loss - corrections, total - loss)
        else:
            # Its own rows are no part of the ledger; they are read whole or, without a target, not at all.
            budget = methods[method].budget
            context = budget.processed_tokens - budget.supervised_tokens
            bars[method] = (budget.supervised_tokens, 0, context)
    return bars


@matplotlib.rc_context(STYLE)
def composition(attempts: Sequence[tuple[str, str, bool]]) -> Drawing:
    """Figure 3: (skill, question, right) of every first attempt of the stream, by skill and by question."""
    skills = dict(
        sorted(_right_and_wrong((skill.replace("_", " "), right) for skill, _, right in attempts).items())
    )
    questions = _right_and_wrong((question, right) for _, question, right in attempts)
    shown = len(questions) <= MOST_QUESTIONS
    figure = Figure(figsize=(WIDTH, 0.9 + 0.27 * len(skills) + 1.9 * shown), layout="constrained")
    ratios = [0.27 * len(skills) + 0.5, 1.7] if shown else [1]
    panels = figure.subplots(len(ratios), 1, height_ratios=ratios, squeeze=False)[:, 0]
    for y, (right, wrong) in enumerate(skills.values()):
        bar(panels[0], y, wrong, colour=WRONG, hatch="////")
        bar(panels[0], y, right, left=wrong, colour=RIGHT)
        beside(panels[0], right + wrong, y, f"{wrong} wrong, {right} right")
    panels[0].set_yticks(range(len(skills)), list(skills))
    panels[0].invert_yaxis()
    counts(panels[0], max(map(sum, skills.values())), room=1.5)
    panels[0].set_xlabel("first attempts, by skill")
    if shown:
        _by_question(panels[1], questions)
    legend(figure, ("wrong, then corrected", WRONG, "////"), ("right at the first attempt", RIGHT, ""))
    wrong = sum(w for _, w in questions.values())
    fell = f"on {sum(w > 0 for _, w in questions.values())} of {len(questions)} questions"
    sentences = "; ".join(f"{skill}: {w} wrong, {r} right" for skill, (r, w) in skills.items())
    caption = (
        f"Figure 3. What the stream is made of: {len(attempts):,} first attempts of SFT-1, "
        f"{wrong:,} of them wrong, {fell}. "
        "Each wrong one is followed by the oracle's correction."
    )
    alt = f"Bars of first attempts by skill. {sentences}. {wrong} wrong attempts fall {fell}."
    return Drawing("figure3-composition", svg_of(figure), alt, caption)


def _by_question(axes: Axes, questions: Mapping[str, tuple[int, int]]) -> None:
    ranked = sorted(questions.values(), key=lambda right_wrong: (-right_wrong[1], right_wrong[0]))
    wrong, few = [w for _, w in ranked], len(ranked) <= 60
    shape: Any = {"width": 0.85, "edgecolor": INK, "linewidth": 0.4} if few else {"width": 1.0}
    axes.bar(range(len(ranked)), wrong, color=WRONG, hatch="////" if few else "", **shape)
    axes.bar(range(len(ranked)), [r for r, _ in ranked], bottom=wrong, color=RIGHT, **shape)
    axes.set_xlabel(f"{len(ranked)} questions, those with most mistakes first")
    axes.set_ylabel("attempts")
    axes.set_xticks([])
    axes.set_xlim(-0.8, len(ranked) - 0.2)
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))


def _right_and_wrong(pairs: Iterable[tuple[str, bool]]) -> dict[str, tuple[int, int]]:
    counted = Counter(pairs)
    return {name: (counted[name, True], counted[name, False]) for name, _ in counted}


@matplotlib.rc_context(STYLE)
def protocols(methods: Methods) -> Drawing:
    """Figure 4: solved under the three protocols, each with Wilson's 95 % interval."""
    figure, axes = canvas(1.05 + 0.62 * len(methods))
    sentences = []
    for y, (method, row) in enumerate(methods.items()):
        colour, questions, failed = look(method).colour, row.questions, row.repair_questions
        measured(axes, y - 0.2, row.solved, questions, height=0.36, colour=colour, bold=True)
        measured(axes, y + 0.12, row.two_step_solved, questions, height=0.2, colour=colour, hatch="||||")
        measured(axes, y + 0.34, row.repair_solved, failed, height=0.2, colour=PAPER)
        solved = f"direct {row.solved} of {questions}, two-step {row.two_step_solved}"
        sentences.append(f"{look(method).label}: {solved}, repair {row.repair_solved} of {failed}")
    method_rows(axes, list(methods))
    shares(axes, "solved")
    legend(
        figure, ("direct", GREY, ""), ("two-step", GREY, "||||"), ("repair, of SFT-1's failures", PAPER, "")
    )
    caption = (
        "Figure 4. Questions solved by training method, with Wilson's 95 % intervals. Direct: "
        "the plain prompt. Repair: given SFT-1's "
        "failed attempt, of those that it failed. Two-step: SFT-1 right, or else repaired."
    )
    return Drawing(
        "figure4-solved", svg_of(figure), f"Bars of questions solved. {'; '.join(sentences)}.", caption
    )


@matplotlib.rc_context(STYLE)
def stream_matched(methods: Methods) -> Drawing:
    """Figure 5: SFT-1's right answers, those repaired after its failures, and the rest, for the arms that
    share one stream."""
    rows = {method: methods[method] for method in stream_arms(methods)}
    figure, axes = canvas(1.1 + 0.62 * len(rows))
    sentences = []
    for y, (method, row) in enumerate(rows.items()):
        questions, repaired, failed = row.questions, row.repair_solved, row.repair_questions
        right, two_step = questions - failed, questions - failed + repaired
        bar(axes, y, right / questions, height=0.5, colour=PALE, hatch="\\\\\\\\")
        bar(axes, y, repaired / questions, left=right / questions, height=0.5, colour=look(method).colour)
        bar(axes, y, (questions - two_step) / questions, left=two_step / questions, height=0.5, colour=PAPER)
        share = f" ({repaired / failed:.0%})" if failed else ""
        axes.text(
            0,
            y - 0.38,
            f"repaired {repaired} of {failed}{share}: {two_step} of {questions}",
            va="center",
            fontsize=9.5,
        )
        point(axes, row.solved / questions, y, method)
        sentences.append(
            f"{look(method).label}: repaired {repaired} of {failed}, two-step {two_step}, "
            f"direct {row.solved} of {questions}"
        )
    method_rows(axes, list(rows))
    axes.set_ylim(len(rows) - 0.6, -0.62)
    shares(axes, "of all questions")
    legend(figure, ("SFT-1 right", PALE, "\\\\\\\\"), ("repaired", GREY, ""), ("still wrong", PAPER, ""))
    caption = (
        "Figure 5. Stream-matched comparison: every arm is given the same first attempts of the frozen "
        "SFT-1, and repairs what it can "
        "of those that failed. The marker is the arm's own direct answer to the plain prompt."
    )
    alt = f"Stacked bars of the stream-matched comparison. {'; '.join(sentences)}."
    return Drawing("figure5-stream-matched", svg_of(figure), alt, caption)


@matplotlib.rc_context(STYLE)
def self_confirmation(methods: Methods, points: Mapping[str, Sequence[tuple[float, float]]]) -> Drawing:
    """Self-confirmation against truth gain, one point a method; of several seeds `points` are drawn small
    beside their mean."""
    places = {name: row.gains for name, row in methods.items() if row.gains is not None}
    inside, outside = _apart(places)
    figure, axes = canvas(3.1 + 0.2 * len(inside))
    axes.axhline(0, color=GREY, linewidth=0.7)
    axes.axvline(0, color=GREY, linewidth=0.7)
    for method, (x, y) in inside.items():
        if len(points.get(method, ())) > 1:
            seeds(axes, [x for x, _ in points[method]], [y for _, y in points[method]], method)
        point(axes, x, y, method, label=f"{look(method).label} ({signed(x, 3)}, {signed(y, 3)})")
    axes.margins(0.12)
    axes.set_xlabel("self-confirmation: SFT-1's mistakes, nats a token")
    axes.set_ylabel("truth gain: corrections, nats a token")
    figure.legend(loc="outside lower center", ncols=1, frameon=False, fontsize=9.5)
    sentences = [
        f"{look(name).label}: self-confirmation {signed(x, 3)}, truth gain {signed(y, 3)}"
        for name, (x, y) in places.items()
    ]
    beyond = "".join(
        f" {look(name).label} lies outside, at ({signed(x, 2)}, {signed(y, 2)})."
        for name, (x, y) in outside.items()
    )
    caption = (
        "Self-confirmation against truth gain: how much more likely than under SFT-1 its own wrong "
        "attempts became (to the right), and "
        "their corrections (up), on the plain prompt. SFT-1 is the origin; "
        f"the paper asks for up without right.{beyond}"
    )
    return Drawing(
        "self-confirmation", svg_of(figure), f"Points of nats a token. {'; '.join(sentences)}.", caption
    )


def _apart(
    places: Mapping[str, tuple[float, float]],
) -> tuple[dict[str, tuple[float, float]], dict[str, tuple[float, float]]]:
    """The points to draw, and the untrained base where it lies so far off that it would hide the differences
    between the others."""

    def reach(name: str) -> float:
        return max(map(abs, places[name]))

    others = max((reach(name) for name in places if name != UNTRAINED), default=math.inf)
    outside = {
        name: place for name, place in places.items() if name == UNTRAINED and reach(name) > 2 * others > 0
    }
    return {name: place for name, place in places.items() if name not in outside}, outside


@matplotlib.rc_context(STYLE)
def learning_curves(metrics: Sequence[Mapping[str, Any]]) -> Drawing:
    """One small panel a stage: the loss of each update, for GRPO the mean reward of each group, with a moving
    average."""
    stages = list(dict.fromkeys(row["stage"] for row in metrics))
    lines = -(-len(stages) // 2)
    figure = Figure(figsize=(WIDTH, 0.4 + 1.35 * lines), layout="constrained")
    panels = figure.subplots(lines, 2, squeeze=False).ravel()
    sentences = [
        _curve(axes, stage, [row for row in metrics if row["stage"] == stage])
        for axes, stage in zip(panels, stages, strict=False)
    ]
    for axes in panels[len(stages) :]:
        axes.set_axis_off()
    figure.supxlabel("update", fontsize=9)
    caption = (
        "Learning curves by update: thin as measured, thick a moving average. "
        "Updates without any target move nothing and are left out."
    )
    return Drawing("learning-curves", svg_of(figure), f"Learning curves. {'; '.join(sentences)}.", caption)


def _curve(axes: Axes, stage: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """Draw one stage; gives it in words."""
    what = "reward" if any("reward" in row for row in rows) else "loss"
    counted = [
        row
        for row in rows
        if isinstance(row.get(what), int | float) and (what == "reward" or row.get("applied", True))
    ]
    axes.set_title(f"{look(stage).label}: {what}", fontsize=9.5, loc="left")
    axes.tick_params(labelsize=8.5)
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(3))
    if not counted:
        return f"{look(stage).label}: no update with a {what}"
    updates, values = [row["update"] for row in counted], [float(row[what]) for row in counted]
    axes.plot(updates, values, color=look(stage).colour, linewidth=0.8, alpha=0.55)
    axes.plot(updates, _moving_average(values), color=look(stage).colour, linewidth=1.8)
    axes.set_ylim(min(0.0, *values), 1.0 if what == "reward" else 1.08 * max(0.0, *values) or 1.0)
    return f"{look(stage).label}: {what} from {values[0]:.3f} to {values[-1]:.3f} in {len(rows)} updates"


def _moving_average(values: Sequence[float]) -> list[float]:
    reach = max(len(values) // 16, 1)
    windows = [values[max(n - reach, 0) : n + reach + 1] for n in range(len(values))]
    return [math.fsum(window) / len(window) for window in windows]


@matplotlib.rc_context(STYLE)
def differences(accuracies: Mapping[str, Sequence[float]]) -> Drawing:
    """Over several seeds: each method's direct accuracy minus SFT-1's, seed by seed, with the t-interval of
    the mean."""
    start = accuracies[START]
    rows = {
        name: [a - s for a, s in zip(values, start, strict=True)]
        for name, values in accuracies.items()
        if name != START
    }
    figure, axes = canvas(0.9 + 0.44 * len(rows))
    axes.axvline(0, color=GREY, linewidth=0.8)
    sentences = []
    for y, (method, values) in enumerate(rows.items()):
        mean, low, high = t_interval(values)
        axes.plot([low, high], [y, y], color=INK, linewidth=1.2, solid_capstyle="butt")
        seeds(axes, values, [y + 0.24] * len(values), method)
        point(axes, mean, y, method)
        interval = f"{signed(100 * low, 1)} to {signed(100 * high, 1)}"
        sentences.append(f"{look(method).label}: {signed(100 * mean, 1)} points, interval {interval}")
    method_rows(axes, list(rows))
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: signed(100 * x, 0)))
    axes.set_xlabel("direct accuracy minus SFT-1's, points")
    caption = (
        f"Differences to SFT-1 in direct accuracy, paired by seed: the mean of {len(start)} seeds with its "
        "95 % t-interval; "
        "the small dots are the seeds."
    )
    return Drawing(
        "differences",
        svg_of(figure),
        f"Differences to SFT-1 over {len(start)} seeds. {'; '.join(sentences)}.",
        caption,
    )
