"""Finished run folders as the report reads them: everything checked on the way in, so that what is drawn and
written can rely on it."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import NoneType
from typing import Any

from cicjax.errors import BadInput, Corrupted
from cicjax.files.whole import read_json, read_jsonl
from cicjax.logs.native import read_native
from cicjax.provenance.transcript import Episode
from cicjax.runs.metrics import read_metrics

Row = dict[str, Any]
Answers = dict[str, dict[str, list[Row]]]

COUNTS = (
    "solved",
    "questions",
    "repair_solved",
    "repair_questions",
    "two_step_solved",
    "kept",
    "lost",
    "gained",
    "harmed",
    "truncated",
)
SHARES = ("accuracy", "wilson_low", "wilson_high", "marker_share")
SPENT = (
    "updates",
    "rows",
    "supervised_tokens",
    "processed_tokens",
    "sampled_tokens",
    "verifier_calls",
    "oracle_solutions",
    "flop",
)
POSITIONS = ("total", "observational", "interventional", "attempts", "oracle")
LEDGER = (
    "stream_rows",
    "wrong_attempts",
    "first_attempts_correct",
    "unique_corrected_questions",
    *(f"positions_{n}" for n in POSITIONS),
)
AGAIN = "repeat the run's command to make it again"
ANSWER = {
    "id": str,
    "skill": str,
    "prompt": str,
    "completion": str,
    "reason": str,
    "finish_reason": str,
    "solved": bool,
}


@dataclass(frozen=True, kw_only=True)
class FinishedRun:
    """One run: its results, and whatever else its folder holds. `answers` go by method, then protocol;
    `stream` may be empty."""

    folder: Path
    config: Row
    results: Row
    environment: Row
    timings: Row
    metrics: list[Row]
    stream: tuple[Episode, ...]
    answers: Answers

    @property
    def seed(self) -> int:
        return self.results["seed"]

    @property
    def methods(self) -> dict[str, Row]:
        return self.results["methods"]


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
    results = read_json(folder / "results.json")
    _check_results(folder / "results.json", results)
    return FinishedRun(
        folder=folder,
        config=_optional_object(folder / "config.json"),
        results=results,
        environment=_optional_object(folder / "environment.json"),
        timings=_optional_object(folder / "timings.json"),
        metrics=read_metrics(folder / "metrics.jsonl") if (folder / "metrics.jsonl").is_file() else [],
        stream=_stream(folder / "rollouts" / "stream.jsonl", results["ledger"]),
        answers=_answers(folder / "evaluations", results["methods"]),
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


def _difference(one: Row, other: Row) -> str:
    """The first thing in which two results are not one experiment at two seeds; empty where they are."""
    if one["model"] != other["model"]:
        return "the model"
    apart = ("seed", "methods")  # Rows that only some runs have are left out of the common table.
    names = sorted(name for name in one["settings"].keys() | other["settings"].keys() if name not in apart)
    different = [name for name in names if one["settings"].get(name) != other["settings"].get(name)]
    if different:
        return f"settings.{different[0]}"
    return "" if one["methods"].keys() & other["methods"].keys() else "every method"


def _check_results(path: Path, results: Any) -> None:
    """Every key that the report reads, by type. Raises Corrupted naming the first that is missing."""
    for name, kind in (
        ("model", str),
        ("seed", int),
        ("settings", dict),
        ("ledger", dict),
        ("methods", dict),
    ):
        _require(path, "", results, name, kind)
    for name in LEDGER if results["ledger"] else ():
        _require(path, "ledger.", results["ledger"], name, int)
    for method in ("rest", "grpo"):
        for name in results.get(method) or {}:
            _require(path, f"{method}.", results[method], name, int)
    if not results["methods"]:
        raise Corrupted(f"{path}: holds no method; {AGAIN}")
    for method, row in results["methods"].items():
        _check_method(path, f"methods.{_short(method)}.", row)


def _check_method(path: Path, place: str, row: Any) -> None:
    for name in COUNTS:
        _require(path, place, row, name, int)
    for name in SHARES:
        _require(path, place, row, name, float, int)
    gains = [
        _require(path, place, row, name, float, int, NoneType) for name in ("self_confirmation", "truth_gain")
    ]
    if not (
        0 <= row["solved"] <= row["questions"] > 0
        and 0 <= row["repair_solved"] <= row["repair_questions"] <= row["questions"]
    ):
        raise Corrupted(f"{path}: the counts of {place[:-1]} do not fit together; {AGAIN}")
    if (gains[0] is None) != (gains[1] is None):
        raise Corrupted(
            f"{path}: {place}self_confirmation is there without truth_gain or the other way round; {AGAIN}"
        )
    for skill, counted in _require(path, place, row, "by_skill", dict).items():
        if not (isinstance(counted, list) and len(counted) == 2 and all(type(n) is int for n in counted)):
            raise Corrupted(f"{path}: {place}by_skill.{_short(skill)} is not [solved, questions]; {AGAIN}")
    budget = _require(path, place, row, "budget", dict)
    for name in SPENT:
        _require(path, f"{place}budget.", budget, name, int, float)
    _require(path, f"{place}budget.", budget, "learning_rate", float, int, NoneType)


def _require(path: Path, place: str, holder: Any, name: str, *kinds: type) -> Any:
    value = holder.get(name) if isinstance(holder, dict) else None
    absent = not isinstance(holder, dict) or name not in holder
    if absent or not isinstance(value, kinds) or isinstance(value, bool):
        raise Corrupted(f"{path}: {place}{_short(name)} is missing or no {kinds[0].__name__}; {AGAIN}")
    return value


def _short(name: str) -> str:
    return ascii(name)[1:-1][:80]


def _optional_object(path: Path) -> Row:
    value = read_json(path) if path.is_file() else {}
    if not isinstance(value, dict):
        raise Corrupted(f"{path}: not a JSON object; restore it from a copy")
    return value


def _stream(path: Path, ledger: Row) -> tuple[Episode, ...]:
    """The stream's rows, by the digest beside them and by the ledger those that were trained on."""
    if not ledger or not path.is_file() or not path.stat().st_size:
        return ()
    read_jsonl(path)
    episodes = tuple(read_native(path))
    wrong = sum(len(episode.messages) > 1 and episode.messages[1].solved == 0 for episode in episodes)
    if (len(episodes), wrong) != (ledger["stream_rows"], ledger["wrong_attempts"]):
        there = f"{len(episodes)} rows, {wrong} of them wrong"
        said = f"{ledger['stream_rows']} rows, {ledger['wrong_attempts']} of them wrong"
        raise Corrupted(f"{path}: {there}, where results.json counts {said}; the two are of different runs")
    return episodes


def _answers(folder: Path, methods: dict[str, Row]) -> Answers:
    """The answers that are there. Raises Corrupted where their verdicts are not those that results.json
    counts."""
    answers: Answers = {}
    for method, row in methods.items():
        found = {
            protocol: _rows(folder / f"{Path(method).name}-{protocol}.jsonl")
            for protocol in ("direct", "second")
        }
        answers[method] = {protocol: rows for protocol, rows in found.items() if rows}
        direct = answers[method].get("direct")
        if direct and (solved := sum(each["solved"] for each in direct)) != row["solved"]:
            raise Corrupted(
                f"{folder / f'{method}-direct.jsonl'}: {solved} answers are right, "
                f"where results.json counts {row['solved']}; "
                "the two are of different runs"
            )
    return answers


def _rows(path: Path) -> list[Row]:
    if not path.is_file():
        return []
    rows = read_jsonl(path)
    for number, row in enumerate(rows, start=1):
        for name, kind in ANSWER.items():
            if not isinstance(row.get(name), kind):
                raise Corrupted(
                    f"{path}:{number}: {name} is missing or no {kind.__name__}; restore the file from a copy"
                )
    return rows


def command_of(config: Row) -> list[str]:
    """The command line that config.json stands for; empty where it holds no flags."""
    if "output_dir" not in config:
        return []
    words = ["cicjax", "repro"]
    for name, value in config.items():
        if value is None or isinstance(value, dict):
            continue
        words += [f"--{name}", *(str(item) for item in (value if isinstance(value, list) else [value]))]
    return words


def pooled(runs: Sequence[FinishedRun]) -> dict[str, Row]:
    """Rows of the table that all runs have, their counts added up and their shares averaged; for one run the
    rows themselves."""
    if len(runs) == 1:
        return runs[0].methods
    names = [name for name in runs[0].methods if all(name in run.methods for run in runs)]
    return {name: _pool([run.methods[name] for run in runs]) for name in names}


def _pool(rows: Sequence[Row]) -> Row:
    added = {name: sum(row[name] for row in rows) for name in COUNTS}
    mean = _mean_of(rows)
    skills = {skill: None for row in rows for skill in row["by_skill"]}
    by_skill = {
        skill: [sum(row["by_skill"].get(skill, [0, 0])[n] for row in rows) for n in (0, 1)]
        for skill in skills
    }
    budget = {name: sum(row["budget"][name] for row in rows) for name in SPENT}
    budget["learning_rate"] = rows[0]["budget"]["learning_rate"]
    return (
        added
        | {name: mean(name) for name in ("marker_share", "self_confirmation", "truth_gain")}
        | {"by_skill": by_skill, "budget": budget}
    )


def _mean_of(rows: Sequence[Row]) -> Callable[[str], float | None]:
    def mean(name: str) -> float | None:
        values = [row[name] for row in rows]
        return None if None in values else sum(values) / len(values)

    return mean


def pooled_ledger(runs: Sequence[FinishedRun]) -> dict[str, int]:
    """The ledgers added up; empty where a run had no stream."""
    ledgers = [run.results["ledger"] for run in runs]
    return {name: sum(ledger[name] for ledger in ledgers) for name in LEDGER} if all(ledgers) else {}


def settings_lines(settings: Row, prefix: str = "") -> list[tuple[str, str]]:
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
