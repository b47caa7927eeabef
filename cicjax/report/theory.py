"""Section 1.1 and the prediction lemma on small finite worlds, computed where the page is written."""

from collections.abc import Sequence
from functools import cache

import matplotlib
import numpy as np

from cicjax.objectives import bayes
from cicjax.report.drawing import (
    INK,
    PALE,
    RIGHT,
    STYLE,
    WRONG,
    Drawing,
    bar,
    canvas,
    legend,
    svg_of,
)
from cicjax.tasks.boxes import world
from cicjax.views.html import Child, table, tag

# An agent that knows nothing opens A twice, then B: nothing, a prize, nothing. (action, outcome)
HISTORY = ((0, 0), (0, 1), (1, 0))
# P(question), P(attempt | question), P(correction | question, attempt): a teacher swayed by the attempt.
QUESTIONS = np.array([0.6, 0.4])
ATTEMPTS = np.array([[0.7, 0.3], [0.4, 0.6]])
SWAYED = np.array([[[0.9, 0.1], [0.5, 0.5]], [[0.6, 0.4], [0.1, 0.9]]])
# The paper's oracle answers the question alone.
ORACLE = np.array([[[1.0, 0.0], [1.0, 0.0]], [[0.0, 1.0], [0.0, 1.0]]])
COMPUTED = "By cicjax.objectives.bayes on worlds small enough to enumerate; nothing here is trained or drawn."
EQUALITY = (
    "Why equality for the paper's oracle: its correction is a function of the question, so its distribution "
    "given question and attempt is its distribution given the question, and the gap is 0 in either unit. The "
    "lemma therefore cannot be why a stream with attempts would beat the same corrections without them; what "
    "can differ is what a bounded learner makes of the attempt, which is measured, not proved."
)
TEACHERS = {"swayed teacher": SWAYED, "the paper's oracle": ORACLE}


def beliefs(*, intervened: bool) -> list[float]:
    """P(the prize is in A) before the first slot of HISTORY and after each, actions and outcomes in turn."""
    belief = world.PRIOR
    found = [float(belief[0])]
    for action, outcome in HISTORY:
        belief = bayes.posterior(belief, world.KNOWS, np.array([action]), np.array([int(intervened)]))[-1]
        found.append(float(belief[0]))
        belief = bayes.posterior(belief, world.SHOWS[:, action], np.array([outcome]), np.array([0]))[-1]
        found.append(float(belief[0]))
    return found


def slots() -> list[str]:
    """What happens at each entry of `beliefs`."""
    words = [(world.BOXES[a].rstrip("."), world.OUTCOMES[o].rstrip(".").lower()) for a, o in HISTORY]
    return ["start", *(word for pair in words for word in pair)]


def joint(corrections: np.ndarray) -> np.ndarray:
    """P(question, attempt, correction)."""
    return QUESTIONS[:, None, None] * ATTEMPTS[:, :, None] * corrections


def entropies(corrections: np.ndarray) -> tuple[float, float]:
    """H(correction | question) and H(correction | question, attempt) in nats."""
    whole = joint(corrections)
    return _entropy(whole.sum(axis=1)), _entropy(whole)


def _entropy(whole: np.ndarray) -> float:
    """Of the last axis, given the others."""
    given = whole.sum(axis=-1, keepdims=True)
    ratio = np.divide(whole, given, out=np.ones_like(whole), where=whole > 0)
    return float(-(whole * np.log(ratio)).sum()) + 0.0


def errors() -> list[tuple[str, str, float, float]]:
    """(teacher, unit, error given question and attempt, what leaving out the attempt adds)."""
    found = []
    for name, corrections in TEACHERS.items():
        exact = bayes.prediction_lemma(joint(corrections), np.array([0.0, 1.0]))
        _, rich = entropies(corrections)
        found += [
            (name, "squared error", exact.rich_error, exact.gap),
            (name, "nats", rich, exact.log_loss_gap),
        ]
    return found


@matplotlib.rc_context(STYLE)
def posteriors() -> Drawing:
    """The two posteriors of section 1.1 along one history."""
    done, seen = beliefs(intervened=True), beliefs(intervened=False)
    figure, axes = canvas(2.7)
    places = range(len(done))
    axes.plot(places, done, "o-", color=RIGHT, mec=INK, mew=0.6, label="do: actions move nothing")
    axes.plot(
        places, seen, "s--", color=WRONG, mec=INK, mew=0.6, label="conditioning: actions count as evidence"
    )
    axes.set_xticks(list(places), slots(), rotation=25)
    axes.set_ylim(0, 1)
    axes.set_ylabel("P(the prize is in A)")
    figure.legend(loc="outside upper left", ncols=1, frameon=False, fontsize=9.5)
    steps = "; ".join(f"{what}: {a:.3f} and {b:.3f}" for what, a, b in zip(slots(), done, seen, strict=True))
    caption = (
        "The two posteriors of section 1.1. An agent that knows nothing opens boxes; whoever takes its "
        "choices "
        "for an expert's believes in a prize because it looked for one there."
    )
    return Drawing(
        "theory-posteriors", svg_of(figure), f"Belief under do and under conditioning. {steps}.", caption
    )


@matplotlib.rc_context(STYLE)
def lemma() -> Drawing:
    """The prediction lemma as bars that add up, in squared error and in nats."""
    figure, axes = canvas(2.6)
    names, sentences = [], []
    for y, (name, unit, left, gap) in enumerate(errors()):
        bar(axes, y, left, height=0.55, colour=PALE)
        bar(axes, y, gap, left=left, height=0.55, colour=WRONG, hatch="////")
        axes.text(
            left + gap + 0.01, y, f"{left:.3f} + {gap:.3f} = {left + gap:.3f}", va="center", fontsize=9.5
        )
        names.append(f"{name},\n{unit}")
        sentences.append(f"{name}, {unit}: {left:.3f} with the attempt, {gap:.3f} more without")
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.0)
    axes.set_xlabel("error of the best predictor of the correction")
    legend(
        figure,
        ("given question and attempt", PALE, ""),
        ("what leaving out the attempt costs", WRONG, "////"),
    )
    caption = (
        "The prediction lemma of section 1.3 on two finite worlds. Where the correction follows from the "
        "question alone, as the paper's oracle has it, the attempt can tell nothing: the lemma holds "
        "with equality."
    )
    return Drawing("theory-lemma", svg_of(figure), f"Bars that add up. {'; '.join(sentences)}.", caption)


@cache
def drawings() -> tuple[Drawing, ...]:
    """The figures of this part of the page."""
    return posteriors(), lemma()


def section(shown: Sequence[Child]) -> tuple[str, str, list[Child]]:
    """The part of the page, around its figures as they are shown."""
    steps = zip(slots(), beliefs(intervened=True), beliefs(intervened=False), strict=True)
    along = table(
        ["after", "P(in A), do", "P(in A), conditioning"],
        [[what, f"{done:.3f}", f"{seen:.3f}"] for what, done, seen in steps],
        caption="The posteriors in numbers.",
    )
    lines = [
        [teacher, unit, f"{rich:.3f}", f"{gap:.3f}", f"{rich + gap:.3f}"]
        for teacher, unit, rich, gap in errors()
    ]
    adds_up = table(
        ["teacher", "unit", "given question and attempt", "gap", "given the question"],
        lines,
        caption="The lemma in numbers.",
    )
    world_of = table(
        [
            "question",
            "its probability",
            "attempt",
            "given the question",
            "P(correction 1), swayed",
            "P(correction 1), oracle",
        ],
        _world(),
        caption="The lemma's finite world: two questions, two attempts, two corrections.",
    )
    parts = [tag("p", COMPUTED), tag("div", *shown, class_="figures"), along, adds_up, world_of]
    return "theory", "What the theory says", [*parts, tag("p", EQUALITY)]


def _world() -> list[list[str]]:
    """The finite world, a question and an attempt a row."""
    return [
        [
            str(q),
            f"{QUESTIONS[q]:g}",
            str(a),
            f"{ATTEMPTS[q, a]:g}",
            *(f"{teacher[q, a, 1]:g}" for teacher in TEACHERS.values()),
        ]
        for q in (0, 1)
        for a in (0, 1)
    ]
