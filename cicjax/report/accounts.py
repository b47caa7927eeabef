"""The report's tables of what was spent, counted and chosen: budgets, the ledger, settings, seconds. Numbers
are the run folder's own."""

from collections.abc import Mapping, Sequence
from typing import Any

from cicjax.experiments.paper.records import POSITIONS
from cicjax.methods import START
from cicjax.report import paper as numbers
from cicjax.report.drawing import look
from cicjax.report.runs import FinishedRun, settings_lines
from cicjax.report.tables import Methods, name_of
from cicjax.views.html import Html, table

LEDGER_HEADINGS = {
    "stream_rows": "rows",
    "wrong_attempts": "wrong",
    "first_attempts_correct": "right",
    "unique_corrected_questions": "questions corrected",
}
SECONDS = ("train", "direct", "second", "scoring", "other")

# What a setting means, where its name alone does not say it.
MEANINGS = {
    "counts.wrong_attempts": "wrong first attempts collected; the paper 400",
    "counts.groups": "groups of ReST and GRPO; the paper 50",
    "numbers": "pool of operands in the questions",
    "task.name": "problems and verifier, with whatever else decides them",
    "split": "questions that methods are compared on",
    "dtype": "precision of the frozen base; adapters are float32",
    "lora.target_modules": "projections with an adapter; dropout 0, A Kaiming-uniform, B zero",
    "optimization.learning_rate": "peak rate of AdamW for SFT-1",
    "second_stage.learning_rate": "peak rate of second stages that have none of their own among the rates",
    "second_stage_epochs": "epochs of every second stage but GRPO",
    "batches": "what an update has eight of: rows, or rows that bear loss",
    "rates": "second-stage rates tuned on development questions",
    "optimization.min_learning_rate_ratio": "the decay ends here, as a share of the peak",
    "optimization.warmup_steps": "updates of warm-up",
    "optimization.mean": "the loss of an update: sum of weighted losses over sum of weights",
    "policy.num_generations": "samples a group, K of equations (8) and (10)",
    "policy.epsilon": "clipping range of GRPO's ratio",
    "policy.beta": "weight of GRPO's KL to SFT-1, estimator k3",
    "policy.num_iterations": "GRPO's updates a group",
    "policy.ratio": "GRPO's ratio: one a token, or one a completion",
    "policy_optimization.learning_rate": "peak rate of GRPO, where it has none among the rates",
    "unseen_tokens": "tokens the embedded base never saw: a drawn vector each, or kept as they are",
    "rows_per_update": "effective batch",
    "attempts_per_problem": "attempts of the stream on a problem before the next one",
    "max_attempt_tokens": "longest attempt, candidate or GRPO sample",
    "attempt_temperature": "of attempts, candidates and GRPO samples; no top-k, no top-p",
    "max_answer_tokens": "longest answer in the greedy evaluation",
    "answer_stop_strings": "an answer ends here too, and then counts as cut",
}


def budget_table(methods: Methods, tuned: Mapping[str, float]) -> Html:
    """What each method spent beyond SFT-1; the stream's sampling counts for every method that uses it. Rates
    that are not among the `tuned` ones say so."""
    header = [
        "method",
        "updates",
        "rows",
        "supervised tokens",
        "processed tokens",
        "sampled tokens",
        "verifier calls",
        "oracle solutions",
        "distinct",
    ]
    names = (
        "updates",
        "rows",
        "supervised_tokens",
        "processed_tokens",
        "sampled_tokens",
        "verifier_calls",
        "oracle_solutions",
        "distinct_solutions",
    )
    rows = [
        [
            name_of(method),
            *(f"{getattr(row.budget, name):,}" for name in names),
            _rate(method, row.budget.learning_rate, tuned),
            f"{row.budget.flop:.2e}",
        ]
        for method, row in methods.items()
    ]
    caption = (
        "The methods do not buy the same information. SFT-1's own row is spent by all the others before "
        "they start. The processed tokens "
        "are without those of rows without targets, which are skipped."
    )
    return table([*header, "learning rate", "FLOP"], rows, caption=caption)


def _rate(method: str, rate: float | None, tuned: Mapping[str, float]) -> str:
    if rate is None:
        return "–"
    return f"{rate:g}" if method in tuned or method == START else f"{rate:g}, untuned"


def ledgers_table(runs: Sequence[FinishedRun], *, paper: bool) -> Html:
    """The stream in numbers, one row a run, the paper's below them if asked."""
    ledgers = {f"seed {run.seed}": run.results.ledger for run in runs if run.results.ledger is not None}
    if paper:
        ledgers["the paper"] = numbers.LEDGER
    counts = {name: dict(ledger.columns()) for name, ledger in ledgers.items()}
    columns = dict.fromkeys(column for each in counts.values() for column in each)
    rows = [[name, *(_counted(each.get(column)) for column in columns)] for name, each in counts.items()]
    caption = (
        "Who wrote how many positions: observational = attempts + interventional, "
        "interventional = oracle, to the token."
    )
    return table(["stream", *map(_heading, columns)], rows, caption=caption)


def _counted(count: int | None) -> str:
    return "–" if count is None else f"{count:,}"


def _heading(column: str) -> str:
    """A ledger's key as the head of a column."""
    arm = column.removeprefix(POSITIONS)
    return LEDGER_HEADINGS.get(column, column) if arm == column else f"positions: {arm.replace('_', ' ')}"


def facts_table(runs: Sequence[FinishedRun], *, paper: bool) -> Html:
    """ReST's and GRPO's numbers of section 2.3, a column a run, the paper's beside them if asked."""
    columns: dict[str, Mapping[str, Mapping[str, int]]] = {
        f"seed {run.seed}": run.results.facts for run in runs
    }
    if paper:
        columns["the paper"] = numbers.FACTS
    names = dict.fromkeys(
        (method, name) for facts in columns.values() for method in facts for name in facts[method]
    )
    rows = [
        [
            f"{look(method).label}: {name.replace('_', ' ')}",
            *(facts[method].get(name, "–") for facts in columns.values()),
        ]
        for method, name in names
    ]
    return table(["", *columns], rows, caption="ReST and GRPO in the numbers of section 2.3.")


def settings_table(settings: Mapping[str, Any]) -> Html:
    """Every value that the results depend on, with what it means where its name does not say it."""
    rows = [[name, value, MEANINGS.get(name, "")] for name, value in settings_lines(dict(settings))]
    return table(
        ["setting", "value", ""],
        rows,
        caption="From results.json. The paper does not state most of these.",
        kind="text",
    )


def seconds_table(spent: Mapping[str, float]) -> Html:
    """timings.json, one row a method; stages that belong to no method have rows of their own."""
    rows: dict[str, dict[str, float]] = {}
    for stage, seconds in spent.items():
        method, column = _stage(stage)
        row = rows.setdefault(method, {})
        row[column] = row.get(column, 0.0) + seconds
    header = [name for name in SECONDS if any(name in row for row in rows.values())]
    last = sorted(rows.items(), key=lambda method_row: "other" in method_row[1])
    cells = [
        [method, *(f"{row[name]:,.1f}" if name in row else "" for name in header)] for method, row in last
    ]
    caption = (
        f"Seconds by stage, over interruptions too: {sum(spent.values()):,.0f} in all. Direct, second: "
        "greedy answers; scoring: "
        "log-probabilities."
    )
    return table(["stage", *header], cells, caption=caption)


def _stage(name: str) -> tuple[str, str]:
    """Row and column of a stage such as "train sft", "evaluate sft direct" or "score
    sft-logprobs-attempts"."""
    match name.split():
        case ["train", method]:
            return look(method).label, "train"
        case ["evaluate", method, "direct" | "second" as protocol]:
            return look(method).label, protocol
        case ["score", scored] if scored.endswith("-held-out"):
            return look(scored.removesuffix("-held-out")).label, "scoring"
        case ["score", scored] if "-logprobs-" in scored:
            return look(scored.partition("-logprobs-")[0]).label, "scoring"
        case _:
            return name, "other"


def named_values(
    values: Mapping[str, Any], *, head: tuple[str, str], caption: str, kind: str | None = None
) -> Html:
    """Names and values, such as environment.json."""
    rows = [
        [name, f"{value:,.1f}" if isinstance(value, float) else str(value)] for name, value in values.items()
    ]
    return table(list(head), rows, caption=caption, kind=kind)
