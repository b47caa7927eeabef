"""Differences between any two rows of the table, asked for beside the claims: over the seeds, and question by
question within each.

The claims were fixed before the runs and have a word for each outcome (`claims`); what is asked for
afterwards has none, only intervals.
"""

from collections.abc import Sequence
from typing import NamedTuple

from cicjax.errors import BadInput, shorten
from cicjax.report import tables
from cicjax.report.claims import Claim, Pair, pair_of
from cicjax.report.drawing import signed
from cicjax.report.runs import FinishedRun
from cicjax.statistics import sign_flip_p, t_interval
from cicjax.views.html import Child, Html, table, tag

# What of a row is compared, each a share of all questions.
MEASURES = {
    "direct": "solved",
    "natural": "natural_two_step",
    "second turn": "second_turn",
    "repaired": "repair_solved",
}
WITHOUT_WORDS = (
    "Asked for with --contrasts, and not among the claims that were fixed beforehand: intervals without a "
    "word for the outcome, and of many intervals of 95 % some will miss."
)


class Difference(NamedTuple):
    """One measure of one row minus another's over seeds, in shares of all questions; `p` is the exact
    sign-flip test's."""

    method: str
    other: str
    measure: str
    by_seed: tuple[float, ...]
    mean: float
    low: float
    high: float
    p: float


def chosen(words: Sequence[str], runs: Sequence[FinishedRun]) -> list[tuple[str, str]]:
    """FIRST:SECOND as two names of rows. Raises BadInput where a word is no such pair or a run lacks a
    row."""
    pairs = []
    for word in words:
        first, colon, second = word.partition(":")
        if not (first and colon and second) or first == second:
            raise BadInput(f"--contrasts {shorten(word)}: two different rows are needed, FIRST:SECOND")
        for name in (first, second):
            if run := next((run for run in runs if name not in run.methods), None):
                there = ", ".join(run.methods)
                raise BadInput(f"--contrasts {shorten(word)}: {run.folder} has no such row; it has {there}")
        pairs.append((first, second))
    return pairs


def over_seeds(runs: Sequence[FinishedRun], method: str, other: str) -> list[Difference]:
    """Every measure that all runs have of both rows."""
    differences = []
    for measure, count in MEASURES.items():
        rows = [(run.methods[method], run.methods[other]) for run in runs]
        if any(getattr(row, count) is None for pair in rows for row in pair):
            continue
        ds = tuple(getattr(a, count) / a.questions - getattr(b, count) / b.questions for a, b in rows)
        differences.append(Difference(method, other, measure, ds, *t_interval(ds), sign_flip_p(ds)))
    return differences


def within(run: FinishedRun, method: str, other: str) -> Pair | None:
    """Direct answers of one run, question by question; None where it has not kept those of both rows."""
    first, second = run.direct.get(method, {}), run.direct.get(other, {})
    if not first or first.keys() != second.keys():
        return None
    claim = Claim(f"seed {run.seed}", method, other)
    return pair_of(claim, list(first.values()), [second[each] for each in first])


def shown(runs: Sequence[FinishedRun], pairs: Sequence[tuple[str, str]]) -> list[Child]:
    """The part of the page; empty where nothing was asked for."""
    if not pairs:
        return []
    parts: list[Child] = [tag("h3", "Contrasts"), tag("p", WITHOUT_WORDS, class_="note")]
    if len(runs) > 1:
        parts.append(_table([each for pair in pairs for each in over_seeds(runs, *pair)], runs))
    inside = [each for pair in pairs for run in runs if (each := within(run, *pair)) is not None]
    return [*parts, tables.pairs_table(inside, head="seed")] if inside else parts


def _table(differences: Sequence[Difference], runs: Sequence[FinishedRun]) -> Html:
    rows = [
        [
            tables.difference_of(each.method, each.other),
            each.measure,
            tables.span_of(each.mean, each.low, each.high),
            tables.p_value(each.p),
            *(signed(100 * difference, 1) for difference in each.by_seed),
        ]
        for each in differences
    ]
    seeds = [f"seed {run.seed}" for run in runs]
    header = ["contrast", "measure", "points (95 % t)", "sign-flip p", *seeds]
    return table(header, rows, caption="Paired differences over seeds, in points of all questions.")
