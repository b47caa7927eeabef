"""Finished run folders as the report reads them: everything checked on the way in, so that what is drawn and
written can rely on it."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import Any

from cicjax.errors import BadInput, Corrupted
from cicjax.experiments.answers import Answer, read_answers
from cicjax.experiments.paper.archive import ANSWERS, verdicts
from cicjax.experiments.paper.records import Budget, Ledger, MethodResult, Results
from cicjax.files import seal
from cicjax.files.seal import read_json, read_jsonl
from cicjax.logs.native import read_native
from cicjax.provenance.transcript import Episode
from cicjax.runs.metrics import read_metrics
from cicjax.statistics import t_interval, wilson

Record = dict[str, Any]
Answers = dict[str, dict[str, list[Answer]]]


@dataclass(frozen=True, kw_only=True)
class FinishedRun:
    """One run: its results, and whatever else its folder holds. `answers` go by method, then protocol;
    `direct` are the verdicts on direct answers by method and question, which an archive has too; `stream` may
    be empty."""

    folder: Path
    config: Record
    results: Results
    environment: Record
    timings: Record
    metrics: list[Record]
    stream: tuple[Episode, ...]
    answers: Answers
    direct: dict[str, dict[str, bool]]

    @property
    def seed(self) -> int:
        return self.results.seed

    @property
    def methods(self) -> dict[str, MethodResult]:
        return self.results.methods


def read_run(folder: Path) -> FinishedRun:
    """A finished run. Raises BadInput for a folder that holds none, Corrupted for files that are not what a
    run writes."""
    if not folder.is_dir():
        raise BadInput(f"{folder}: no such folder; name the --output_dir of a finished `cicjax repro`")
    if not (folder / "results.json").is_file():
        known = (folder / "config.json").is_file()
        what = (
            "the run is not finished (no results.json); repeat its command"
            if known
            else "no run is here (neither results.json nor config.json)"
        )
        raise BadInput(f"{folder}: {what}")
    # An archive is kept whole by whoever keeps it, and its counts can be made again from it.
    if not (folder / ANSWERS).is_file():
        seal.require(folder)
    path = folder / "results.json"
    results = Results.from_json(read_json(path), where=path)
    answers = _answers(folder / "evaluations", results.methods)
    return FinishedRun(
        folder=folder,
        config=_optional_object(folder / "config.json"),
        results=results,
        environment=_optional_object(folder / "environment.json"),
        timings=_optional_object(folder / "timings.json"),
        metrics=if_there(read_metrics, folder / "metrics.jsonl"),
        stream=_stream(folder / "rollouts" / "stream.jsonl", results.ledger),
        answers=answers,
        direct=verdicts(folder) if (folder / ANSWERS).is_file() else _right(answers),
    )


def read_runs(folders: Sequence[Path]) -> list[FinishedRun]:
    """Runs of one experiment, in order of their seeds. Raises BadInput where they are not one, or a seed is
    there twice."""
    if not folders:
        raise BadInput("no run is named; give the --output_dir of a finished `cicjax repro`")
    runs = sorted((read_run(Path(folder)) for folder in folders), key=lambda run: run.seed)
    for before, run in pairwise(runs):
        difference = _difference(before.results, run.results)
        if difference:
            raise BadInput(
                f"{run.folder}: another experiment than {before.folder} ({difference} differs); "
                "report them one by one"
            )
        if before.seed == run.seed:
            raise BadInput(f"{run.folder}: seed {run.seed} is in {before.folder} too; name each seed once")
    return runs


def _difference(one: Results, other: Results) -> str:
    """The first thing in which two results are not one experiment at two seeds; empty where they are."""
    if one.model != other.model:
        return "the model"
    # Rows that only some runs have are left out of the common table; those in it have one rate.
    apart = ("seed", "methods", "rates")
    names = sorted(name for name in one.settings.keys() | other.settings.keys() if name not in apart)
    different = [name for name in names if one.settings.get(name) != other.settings.get(name)]
    if different:
        return f"settings.{different[0]}"
    common = one.methods.keys() & other.methods.keys()
    rates = [each.settings.get("rates", {}) for each in (one, other)]
    moved = sorted(name for name in common if rates[0].get(name) != rates[1].get(name))
    if moved:
        return f"settings.rates.{moved[0]}"
    return "" if common else "every method"


def _optional_object(path: Path) -> Record:
    value = if_there(read_json, path) or {}
    if not isinstance(value, dict):
        raise Corrupted(f"{path}: not a JSON object; restore it from a copy")
    return value


def _stream(path: Path, ledger: Ledger | None) -> tuple[Episode, ...]:
    """The stream's rows, by their seal and by the ledger those that were trained on."""
    if ledger is None or not if_there(read_jsonl, path):
        return ()
    episodes = tuple(read_native(path))
    wrong = sum(len(episode.messages) > 1 and episode.messages[1].solved == 0 for episode in episodes)
    if (len(episodes), wrong) != (ledger.stream_rows, ledger.wrong_attempts):
        there = f"{len(episodes)} rows, {wrong} of them wrong"
        counted = f"{ledger.stream_rows} rows, {ledger.wrong_attempts} of them wrong"
        raise Corrupted(
            f"{path}: {there}, where results.json counts {counted}; the two are of different runs"
        )
    return episodes


def _answers(folder: Path, methods: dict[str, MethodResult]) -> Answers:
    """The answers that are there. Raises Corrupted where their verdicts are not those that results.json
    counts."""
    answers: Answers = {}
    for method, row in methods.items():
        by_protocol = {
            protocol: _rows(folder / f"{Path(method).name}-{protocol}.jsonl")
            for protocol in ("direct", "second")
        }
        answers[method] = {protocol: rows for protocol, rows in by_protocol.items() if rows}
        direct = answers[method].get("direct")
        if direct and (solved := sum(each.solved for each in direct)) != row.solved:
            raise Corrupted(
                f"{folder / f'{method}-direct.jsonl'}: {solved} answers are right, "
                f"where results.json counts {row.solved}; "
                "the two are of different runs"
            )
    return answers


def _right(answers: Answers) -> dict[str, dict[str, bool]]:
    return {
        method: {row.id: row.solved for row in protocols["direct"]}
        for method, protocols in answers.items()
        if "direct" in protocols
    }


def _rows(path: Path) -> list[Answer]:
    return read_answers(if_there(read_jsonl, path), path=path)


def if_there(read: Callable[[Path], Any], path: Path) -> Any:
    """What a file of the run holds, [] where it never had one. Raises Corrupted where it is lost."""
    try:
        return read(path)
    except FileNotFoundError:
        return []


def command_of(config: Record) -> list[str]:
    """The command line that config.json stands for; empty where it holds no flags."""
    if "output_dir" not in config:
        return []
    words = ["cicjax", "repro"]
    for name, value in config.items():
        if value is None or value is False or value == [] or isinstance(value, dict):
            continue
        values = value if isinstance(value, list) else [] if value is True else [value]
        words += [f"--{name}", *map(str, values)]
    return words


def pooled(runs: Sequence[FinishedRun]) -> dict[str, MethodResult]:
    """Rows of the table that all runs have, their counts added up and their shares averaged; for one run the
    rows themselves."""
    if len(runs) == 1:
        return runs[0].methods
    names = [name for name in runs[0].methods if all(name in run.methods for run in runs)]
    return {name: _pool([run.methods[name] for run in runs]) for name in names}


def _pool(rows: Sequence[MethodResult]) -> MethodResult:
    """One row for several seeds. Its interval is that of the questions added up, and so speaks of these
    seeds."""
    added: dict[str, Any] = _added(rows, *(each.name for each in fields(MethodResult) if each.type is int))
    skills = dict.fromkeys(skill for row in rows for skill in row.by_skill)
    by_skill = {
        skill: [sum(row.by_skill.get(skill, [0, 0])[n] for row in rows) for n in (0, 1)] for skill in skills
    }
    budgets = [row.budget for row in rows]
    spent = _added(budgets, *(each.name for each in fields(Budget) if each.name != "learning_rate"))
    means = {
        name: _mean([getattr(row, name) for row in rows])
        for name in ("accuracy", "marker_share", "self_confirmation", "truth_gain", "kl_to_sft")
    }
    means |= {
        name: _mean_by_key([getattr(row, name) for row in rows])
        for name in ("held_out_nats", "usable_information")
    }
    low, high = wilson(added["solved"], added["questions"])
    budget = Budget(**spent, learning_rate=rows[0].budget.learning_rate)
    return MethodResult(**added, **means, wilson_low=low, wilson_high=high, by_skill=by_skill, budget=budget)


def _added(records: Sequence[object], *names: str) -> dict[str, Any]:
    return {name: sum(getattr(record, name) for record in records) for name in names}


def _mean(values: Sequence[float | None]) -> Any:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if len(known) == len(values) else None


def _mean_by_key(records: Sequence[dict[str, float] | None]) -> dict[str, Any] | None:
    """The mean of every number that all have; of one with an interval, `low` and `high` are those over the
    seeds."""
    known = [record for record in records if record]
    if len(known) < len(records):
        return None
    means = {key: _mean([record.get(key) for record in known]) for key in known[0]}
    if "low" in means:
        _, means["low"], means["high"] = t_interval([record["nats"] for record in known])
    return means


def pooled_ledger(runs: Sequence[FinishedRun]) -> Ledger | None:
    """The ledgers added up, with the columns that all have; None where a run had no stream."""
    ledgers = [run.results.ledger for run in runs]
    known = [ledger for ledger in ledgers if ledger is not None]
    if len(known) < len(ledgers):
        return None
    counts = _added(known, *(each.name for each in fields(Ledger) if each.name != "positions"))
    names = [name for name in known[0].positions if all(name in ledger.positions for ledger in known)]
    return Ledger(
        **counts, positions={name: sum(ledger.positions[name] for ledger in known) for name in names}
    )


def settings_lines(settings: Record, prefix: str = "") -> list[tuple[str, str]]:
    """Settings as (dotted name, value) lines, numbers as they are written and lists in one line."""
    lines = []
    for name, value in settings.items():
        if isinstance(value, dict):
            lines += settings_lines(value, f"{prefix}{name}.")
        elif isinstance(value, list):
            lines.append(
                (
                    prefix + name,
                    ", ".join(item if isinstance(item, str) else json.dumps(item) for item in value),
                )
            )
        else:
            lines.append((prefix + name, value if isinstance(value, str) else json.dumps(value)))
    return lines
