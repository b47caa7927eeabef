"""An archive and a run of the same experiment as one: rows that only the archive has stay where all rows that
both have are the same. So an experiment goes on on another machine, which has the archive and not the run."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from cicjax.errors import BadInput
from cicjax.experiments.paper.records import Results
from cicjax.files import strict


def check_alike(before: Results, results: Results, archive: Path) -> None:
    """Raise BadInput where an archive is of another experiment than a run, or a row of both differs."""
    decided = [
        (each.model, {name: v for name, v in each.settings.items() if name not in ("methods", "rates")})
        for each in (before, results)
    ]
    if decided[0] != decided[1]:
        raise BadInput(f"{archive}: holds results of another model or other settings; take another folder")
    for name in before.methods.keys() & results.methods.keys():
        if before.methods[name] != results.methods[name]:
            raise BadInput(f"{archive}: its row {name} is not the run's; take another folder")


def with_rows(results: Results, before: Results, rows: list[str]) -> Results:
    """The results with these rows of an earlier archive, in its order, and what only those rows tell."""
    methods = {name: before.methods[name] for name in rows} | results.methods
    settings = dict(results.settings)
    for name, told in before.settings.items():
        if name == "methods":
            settings[name] = list(dict.fromkeys([*told, *settings[name]]))
        elif name == "rates":
            settings[name] = {**told, **settings[name]}
    return replace(
        results,
        settings=settings,
        ledger=results.ledger or before.ledger,
        grpo=results.grpo or before.grpo,
        rest=results.rest or before.rest,
        methods={name: methods[name] for name in {**before.methods, **results.methods}},
    )


def with_answers(
    lines: dict[str, dict[str, Any]], before: Iterable[dict[str, Any]], rows: list[str]
) -> dict[str, dict[str, Any]]:
    """The lines of all questions, with the answers of these rows from an earlier archive."""
    for line in before:
        told = {name: answers for name, answers in line["answers"].items() if name in rows}
        if told:
            whole = lines.setdefault(line["id"], {**line, "answers": {}})
            whole["answers"].update(told)
    return lines


def of_other_stages(before: bytes, metrics: bytes) -> bytes:
    """The updates of stages that a run has none of."""
    stages = {strict.load(line)["stage"] for line in metrics.splitlines()}
    return b"".join(
        line for line in before.splitlines(keepends=True) if strict.load(line)["stage"] not in stages
    )
