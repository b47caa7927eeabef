"""A finished run small enough to be committed, with every answer that its counts were made from.

    results.json, config.json, environment.json, timings.json     as the run has them, without its places
    answers.jsonl.xz     a line a question: {"id", "skill", "answers": {METHOD: {PROTOCOL: [...]}}}
    metrics.jsonl.xz     the updates of every method

An answer is [solved, has the marker, was cut, text]. The same run gives the same bytes. `recount` makes the
counts of results.json again, by the verifier, from the texts alone. `cicjax report` reads the folder as it
does a run's. Rows that a folder holds already stay as they are (`joined`).

`keep` is for runs of the other experiments, whose results.json has everything by fact, by round or by
question; an online run's lives go along.
"""

import json
import lzma
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cicjax.errors import BadInput, Corrupted
from cicjax.experiments.answers import Answer, read_answers
from cicjax.experiments.paper import evaluate, joined
from cicjax.experiments.paper.records import Results
from cicjax.experiments.paper.run import draw_problems
from cicjax.experiments.paper.settings import asked_in
from cicjax.files import seal, strict
from cicjax.files.seal import read_json, read_jsonl, read_object, write_bytes, write_json
from cicjax.files.whole import json_lines
from cicjax.methods import START
from cicjax.tasks.task import Task

PLAIN = ("results.json", "config.json", "environment.json", "timings.json")
ANSWERS, METRICS, LIVES = "answers.jsonl.xz", "metrics.jsonl.xz", "lives.jsonl.xz"
PROTOCOLS = ("direct", "second", "seen")
# Where a run lay says nothing about it, and is nobody's business.
PLACES = ("output_dir", "model_name_or_path", "rates", "config")


def write(run: Path, archive: Path) -> None:
    """Keep a finished run in a folder of its own. Raises BadInput where it is not finished or the folder has
    other results, Corrupted where a byte of it has changed."""
    results, before = _results(run), _results(archive) if (archive / "results.json").is_file() else None
    lines, earlier = _by_question(run, results), dict[str, Any]()
    if before is not None:
        joined.check_alike(before, results, archive)
        lines = joined.with_answers(lines, _unpacked(archive / ANSWERS))
        earlier = _plain_of(archive)
        results = joined.with_rows(results, before)
    write_bytes(archive / ANSWERS, _packed(lines.values()))
    _write_plain(run, archive, earlier)
    write_json(archive / "results.json", results.to_json())


def _results(folder: Path) -> Results:
    path = _finished(folder)
    return Results.from_json(read_json(path), where=path)


def _finished(folder: Path) -> Path:
    """A run's results.json."""
    path = folder / "results.json"
    if not path.is_file():
        raise BadInput(f"{folder}: no results.json; finish the run first")
    return path


def keep(run: Path, archive: Path) -> None:
    """Keep a finished run of another experiment. Raises as `write` does."""
    results = read_object(_finished(run))
    if lives := sorted((run / "arms").glob("*.json")):
        write_bytes(archive / LIVES, _packed(read_object(path) for path in lives))
    _write_plain(run, archive, {})
    write_json(archive / "results.json", results)


def _plain_of(archive: Path) -> dict[str, Any]:
    """What an archive tells beside its results: flags, times, updates, and what made them."""
    found = {
        name: read_object(archive / name) if (archive / name).is_file() else {}
        for name in ("config.json", "environment.json", "timings.json")
    }
    return {**found, METRICS: lzma.decompress((archive / METRICS).read_bytes())}


def _write_plain(run: Path, archive: Path, earlier: Mapping[str, Any]) -> None:
    """Everything but results and answers; `earlier` is what the folder told of rows that stay."""
    metrics = seal.read_bytes(run / "metrics.jsonl") if (run / "metrics.jsonl").is_file() else b""
    before = earlier.get(METRICS, b"")
    write_bytes(archive / METRICS, _compressed(before + joined.of_other_stages(metrics, before)))
    config = joined.with_arms(read_object(run / "config.json"), earlier.get("config.json", {}))
    for name in PLACES:
        if isinstance(config.get(name), str):
            config[name] = Path(config[name]).name
    write_json(archive / "config.json", config)
    if (run / "timings.json").is_file():
        write_json(
            archive / "timings.json", {**read_object(run / "timings.json"), **earlier.get("timings.json", {})}
        )
    if (run / "environment.json").is_file():
        now, then = read_object(run / "environment.json"), dict(earlier.get("environment.json", {}))
        others = [each for each in [*then.pop("earlier", []), then] if each and each != now]
        write_json(archive / "environment.json", {**now, **({"earlier": others} if others else {})})


def _by_question(run: Path, results: Results) -> dict[str, dict[str, Any]]:
    """The answers of all methods beside each other: what is alike compresses."""
    lines: dict[str, dict[str, Any]] = {}
    for method in results.methods:
        for protocol in PROTOCOLS:
            path = run / "evaluations" / f"{method}-{protocol}.jsonl"
            for answer in read_answers(read_jsonl(path), path=path) if path.is_file() else ():
                line = lines.setdefault(answer.id, {"id": answer.id, "skill": answer.skill, "answers": {}})
                told = [int(answer.solved), int(answer.marker), int(answer.cut), answer.completion]
                line["answers"].setdefault(method, {})[protocol] = told
    return lines


def recount(archive: Path, task: Task) -> list[str]:
    """What in results.json the archived texts do not bear out, a line each: verdicts made again by the task's
    verifier, and the counts that follow from them. Raises Corrupted where the archive cannot be read."""
    path = archive / "results.json"
    results, lines = Results.from_json(read_json(path), where=path), _unpacked(archive / ANSWERS)
    settings = asked_in(read_object(archive / "config.json"), where=archive)
    if settings is None:
        raise BadInput(f"{archive}: its config.json is not that of a run of `cicjax repro`")
    splits = draw_problems(task, settings)
    problems = {problem.id: problem for problem in (*splits.agent, *splits.dev, *splits.test)}
    answers: dict[str, dict[str, list[Answer]]] = {
        method: {protocol: [] for protocol in PROTOCOLS} for method in results.methods
    }
    for line in lines:
        for method, told in line["answers"].items():
            for protocol, (_, _, cut, text) in told.items():
                answer = _judged(task, problems[line["id"]], text, cut=bool(cut))
                answers[method][protocol].append(answer)
    return [
        f"{method}: {name} is {row[name]} and counts {count}"
        for method, row in ((name, asdict(row)) for name, row in results.methods.items())
        for name, count in _counts(answers[method], answers[START]["direct"]).items()
        if row[name] != count
    ]


def verdicts(archive: Path) -> dict[str, dict[str, bool]]:
    """By method and question, whether the archived direct answer is right. Raises Corrupted where the archive
    cannot be read."""
    right: dict[str, dict[str, bool]] = {}
    for line in _unpacked(archive / ANSWERS):
        for method, told in line["answers"].items():
            if "direct" in told:
                right.setdefault(method, {})[line["id"]] = bool(told["direct"][0])
    return right


def _judged(task: Task, problem: Any, text: str, *, cut: bool) -> Answer:
    verdict = task.verify(problem, text)
    return Answer(
        id=problem.id,
        sample=0,
        skill=problem.skill,
        prompt="",
        completion=text,
        solved=bool(verdict.solved),
        reason=verdict.reason,
        finish_reason="length" if cut else "stop",
        marker=bool(task.has_marker(text)),
        prompt_tokens=0,
        tokens=(),
        logprobs=(),
    )


def _counts(answers: Mapping[str, list[Answer]], first: list[Answer]) -> dict[str, Any]:
    counts = evaluate.direct_summary(answers["direct"])
    counts |= evaluate.second_summary(answers["direct"], answers["second"], first)
    return counts | evaluate.seen_summary(answers["seen"])


def _packed(lines: Iterable[Mapping[str, Any]]) -> bytes:
    return _compressed(json_lines(lines).encode())


def _compressed(content: bytes) -> bytes:
    return lzma.compress(content, preset=9)


def _unpacked(path: Path) -> list[dict[str, Any]]:
    try:
        return [strict.load(line) for line in lzma.decompress(path.read_bytes()).splitlines()]
    except (OSError, EOFError, lzma.LZMAError, BadInput, json.JSONDecodeError) as error:
        raise Corrupted(f"{path}: not the answers of a run ({error}); restore it from a copy") from None
