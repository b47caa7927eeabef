"""The report's tables of what came out: methods, skills, claims, seeds. Numbers are results.json's own;
`accounts` has the other tables."""

from collections.abc import Mapping, Sequence

from cicjax.experiments.paper.records import MethodResult
from cicjax.methods import START
from cicjax.report import claims
from cicjax.report import paper as numbers
from cicjax.report.claims import Outcome, Pair
from cicjax.report.drawing import look, signed
from cicjax.report.runs import FinishedRun
from cicjax.statistics import paired_interval, t_interval, wilson
from cicjax.views.html import Child, Html, join, table, tag

Methods = Mapping[str, MethodResult]

CONTRAST = tag("th", "contrast", scope="col", class_="words")
PROTOCOLS = (
    *("repair", "two-step", "natural", "second turn"),
    *("kept", "lost", "gained", "harmed", "with marker", "cut"),
)


def name_of(method: str) -> Html:
    """The method's label with its colour."""
    return tag(
        "span",
        tag("span", class_="chip", style=f"background:{look(method).colour}"),
        look(method).label,
        class_="name",
    )


def percent(share: float, digits: int = 1) -> str:
    """A share in per cent."""
    return f"{100 * share:.{digits}f} %"


def methods_table(methods: Methods, *, paper: bool) -> Html:
    """One row a method: the three protocols, the change against SFT-1, format and truncation; the paper's
    solved beside ours if asked."""
    questions = max(row.questions for row in methods.values())
    header = [
        "method",
        f"direct, of {questions}",
        "95 % Wilson",
        *(["paper, of 100"] if paper else []),
        *PROTOCOLS,
    ]
    rows = [
        [
            name_of(method),
            tag("b", row.solved),
            join([f"{100 * row.wilson_low:.1f}–{percent(row.wilson_high)}", _strip(method, row)]),
            *([numbers.SOLVED.get(method, "–")] if paper else []),
            *_protocol_cells(row),
        ]
        for method, row in methods.items()
    ]
    return table(header, rows, caption="Every method on the same questions, from the same SFT-1.")


def _strip(method: str, row: MethodResult) -> Html:
    """A small picture of the interval, from 0 to all questions."""
    low, high, colour = 100 * row.wilson_low, 100 * row.wilson_high, look(method).colour
    interval = tag("i", style=f"left:{low:.1f}%;width:{high - low:.1f}%;background:{colour}")
    return tag(
        "span",
        interval,
        tag("b", style=f"left:{100 * row.accuracy:.1f}%;background:{colour}"),
        class_="strip",
        aria_hidden="true",
    )


def paper_table() -> Html:
    """The paper's own numbers, with Wilson's intervals made from its counts."""
    rows = []
    for method, solved in numbers.SOLVED.items():
        low, high = wilson(solved, numbers.QUESTIONS)
        repair = (
            f"{numbers.REPAIRED[method]}/{numbers.FAILED}" if method in numbers.REPAIRED else "not stated"
        )
        rows.append([name_of(method), solved, f"{100 * low:.1f}–{percent(high)}", repair])
    return table(
        ["method", "solved, of 100", "95 % Wilson", "repair"],
        rows,
        caption="The paper's table: Qwen2.5-0.5B, one run.",
    )


def confirmation_table(methods: Methods) -> Html:
    """Self-confirmation and truth gain in nats a token."""
    gains = [(method, row.gains) for method, row in methods.items() if row.gains is not None]
    rows = [[name_of(method), signed(mistakes, 4), signed(truths, 4)] for method, (mistakes, truths) in gains]
    return table(
        ["method", "self-confirmation", "truth gain"],
        rows,
        caption="Against SFT-1, nats a token, on the stream's failed attempts.",
    )


def held_out_table(methods: Methods) -> Html:
    """KL to SFT-1, nats of corrections that nobody was trained on, and what an attempt is worth to them."""
    rows: list[list[Child]] = []
    for method, row in methods.items():
        nats, worth = row.held_out_nats or {}, row.usable_information or {}
        rows.append(
            [
                name_of(method),
                f"{row.seen_solved}/{row.seen_questions}" if row.seen_questions else "–",
                "–" if row.kl_to_sft is None else f"{row.kl_to_sft:.4f}",
                *(_number(nats.get(kind)) for kind in ("direct", "repair", "placebo")),
                _number(worth.get("nats"), sign=True),
                f"{_number(worth.get('low'), sign=True)} to {_number(worth.get('high'), sign=True)}",
                *(_number(worth.get(place), sign=True) for place in ("where_it_leaves", "elsewhere")),
            ]
        )
    contexts = ("question alone", "its attempt", "another's attempt")
    usable = ("usable information", "95 %", "where it leaves the attempt", "elsewhere")
    return table(
        ["method", "corrected questions", "KL to SFT-1", *contexts, *usable],
        rows,
        caption="Solved of the questions that the stream corrected, asked plainly: here alone a question was "
        "trained on. Then, on the development questions, nats a token: the distance to SFT-1 over its own "
        "attempts; the oracle's corrections of failed ones in three contexts; what the right attempt is "
        "worth over another's.",
    )


def _number(value: float | None, *, sign: bool = False) -> str:
    return "–" if value is None else signed(value, 3) if sign else f"{value:.3f}"


def skills_table(methods: Methods) -> Html:
    """Solved by skill, with the difference to SFT-1 beside it."""
    skills = sorted({skill for row in methods.values() for skill in row.by_skill})
    start = methods[START].by_skill if START in methods else {}
    rows: list[list[Child]] = []
    for skill in skills:
        asked = max(row.by_skill.get(skill, [0, 0])[1] for row in methods.values())
        cells = [
            _skill_cell(row.by_skill.get(skill), None if method == START else start.get(skill))
            for method, row in methods.items()
        ]
        rows.append([skill.replace("_", " "), asked, *cells])
    caption = (
        "Solved by skill, direct protocol, with the difference to SFT-1. Of few questions a skill, "
        "a difference of one or two is noise."
    )
    return table(["skill", "asked", *(look(method).heading for method in methods)], rows, caption=caption)


def _skill_cell(counted: Sequence[int] | None, start: Sequence[int] | None) -> Html:
    if counted is None:
        return tag("td", "–")
    difference = counted[0] - start[0] if start is not None else 0
    shown = f"{counted[0]} ({signed(difference, 0)})" if difference else f"{counted[0]}"
    return tag("td", shown, class_="up" if difference > 0 else "down" if difference < 0 else None)


def pairs_table(pairs: Sequence[Pair], *, head: str = "claim") -> Html:
    """The claims' contrasts within one seed, question by question; `head` says what their texts are."""
    rows = [
        [
            pair.claim.text,
            _contrast(pair.claim),
            span_of(*paired_interval(pair.gained, pair.lost, pair.questions)),
            pair.gained,
            pair.lost,
            p_value(pair.p),
        ]
        for pair in pairs
    ]
    header = [head, CONTRAST, "points (95 %)", "only the first", "only the second", "McNemar p"]
    return table(
        header,
        rows,
        caption="On the same questions, direct protocol. Within one seed: descriptive, whatever p says.",
    )


def claims_table(outcomes: Sequence[Outcome]) -> Html:
    """The claims over the seeds, with the word for each."""
    header = [
        "claim",
        CONTRAST,
        "mean, points",
        "95 % t-interval",
        "holds above",
        "sign-flip p",
        "Holm",
        "outcome",
        "seeds needed",
    ]
    rows = [
        [
            each.claim.text,
            _contrast(each.claim),
            signed(100 * each.mean, 1),
            f"{signed(100 * each.low, 1)} to {signed(100 * each.high, 1)}",
            f"{100 * each.claim.bound:.0f}".replace("-", "−"),
            p_value(each.p),
            "–" if each.adjusted_p is None else p_value(each.adjusted_p),
            _word(each),
            ""
            if each.word != "undecided"
            else "not to be said"
            if each.needed is None
            else f"{each.needed:,}",
        ]
        for each in outcomes
    ]
    return table(
        header,
        rows,
        caption="Paired differences in direct accuracy over seeds; Holm's p for the confirmatory claims.",
    )


def _word(outcome: Outcome) -> Html:
    kind = {"holds": "holds", "does not hold": "fails", "undecided": "open"}[outcome.word]
    descriptive = " descriptive" if outcome.descriptive else ""
    said = f"{outcome.word}{' (descriptive)' if outcome.descriptive else ''}"
    return tag("span", said, class_=f"word {kind}{descriptive}")


def _contrast(claim: claims.Claim) -> Html:
    return tag("td", contrast(claim), class_="words")


def contrast(claim: claims.Claim) -> str:
    """The rows that a claim compares, by their short names."""
    return claim.contrast or difference_of(claim.method, claim.other)


def difference_of(method: str, other: str) -> str:
    """Two rows as what is subtracted from what, by their short names."""
    return f"{look(method).heading} − {look(other).heading}"


def span_of(difference: float, low: float, high: float) -> str:
    """A difference of shares with its interval, in points."""
    return f"{signed(100 * difference, 1)} ({signed(100 * low, 1)} to {signed(100 * high, 1)})"


def p_value(p: float) -> str:
    """A p as the tables show it."""
    return f"{p:.3f}" if p >= 0.001 else f"{p:.1e}"


def seeds_table(runs: Sequence[FinishedRun], names: Sequence[str]) -> Html:
    """Direct accuracy: the mean over seeds, its paired difference to SFT-1 with the t-interval, and every
    seed's own value."""
    start = [run.methods[START].accuracy for run in runs] if START in names else None
    rows: list[list[Child]] = []
    for name in names:
        values = [run.methods[name].accuracy for run in runs]
        if start is None or name == START:
            difference = "–"
        else:
            difference = span_of(*t_interval([v - first for v, first in zip(values, start, strict=True)]))
        rows.append(
            [
                name_of(name),
                tag("b", percent(sum(values) / len(values))),
                difference,
                *(percent(value) for value in values),
            ]
        )
    header = ["method", "mean", "minus SFT-1, points (95 % t)", *(f"seed {run.seed}" for run in runs)]
    questions = ", ".join(sorted({f"{row.questions:,}" for run in runs for row in run.methods.values()}))
    return table(header, rows, caption=f"Direct accuracy over {len(runs)} seeds, {questions} questions each.")


def protocols_table(methods: Methods, seeds: int) -> Html:
    """All protocols, counts added up over the seeds."""
    rows = [
        [name_of(method), f"{row.solved}/{row.questions}", *_protocol_cells(row)]
        for method, row in methods.items()
    ]
    return table(
        ["method", "direct", *PROTOCOLS], rows, caption=f"All protocols, counts of {seeds} seeds added up."
    )


def _protocol_cells(row: MethodResult) -> list[Child]:
    return [
        f"{row.repair_solved}/{row.repair_questions}",
        row.two_step_solved,
        row.natural_two_step,
        row.second_turn,
        row.kept,
        row.lost,
        row.gained,
        f"{row.harmed}/{row.right_first}",
        percent(row.marker_share, 0),
        row.truncated,
    ]
