"""An archive and a run of the same experiment as one: the archive's rows stay as they are, and the run's
others join them where the rows of both have the same counts and, up to rounding, the same likelihoods. So an
experiment goes on on another machine, which has the archive and not the run."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from cicjax.errors import BadInput
from cicjax.experiments.paper.records import Ledger, Results
from cicjax.files import strict

# Two processors add in another order: of likelihoods measured so far, by at most 4e-7 nats over many tokens
# and 1.2e-6 over the few where a correction leaves the attempt.
LIKELIHOODS = ("self_confirmation", "truth_gain", "kl_to_sft", "held_out_nats", "usable_information")
RELATIVE, ABSOLUTE = 1e-4, 1e-5
# What differs between two runs of one experiment, in flags and in settings.
ROWS = ("methods", "arms", "rates")


def check_alike(before: Results, results: Results, archive: Path) -> None:
    """Raise BadInput where an archive is of another experiment than a run, or a row of both differs."""
    decided = [
        (each.model, {name: v for name, v in each.settings.items() if name not in ("methods", "rates")})
        for each in (before, results)
    ]
    if decided[0] != decided[1]:
        raise BadInput(f"{archive}: holds results of another model or other settings; take another folder")
    for name in before.methods.keys() & results.methods.keys():
        one, other = asdict(before.methods[name]), asdict(results.methods[name])
        if not all(_near(one[k], other[k]) if k in LIKELIHOODS else one[k] == other[k] for k in one):
            raise BadInput(f"{archive}: its row {name} is not the run's; take another folder")
    if before.ledger and results.ledger:
        there, made = (dict(each.columns()) for each in (before.ledger, results.ledger))
        if any(made[name] != count for name, count in there.items() if name in made):
            raise BadInput(f"{archive}: its stream is not the run's; take another folder")


def _near(one: Any, other: Any) -> bool:
    """Whether two measurements in nats, or two mappings to such, are the same but for rounding."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_near(one[name], other[name]) for name in one)
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=RELATIVE, abs_tol=ABSOLUTE)
    return one == other


def with_rows(results: Results, before: Results) -> Results:
    """The rows of an earlier archive, then those of the results that it has not, with what only one of them
    tells."""
    both = {**before.methods, **results.methods}
    return replace(
        results,
        settings=_of_both(results.settings, before.settings),
        ledger=_joined(before.ledger, results.ledger),
        grpo=before.grpo or results.grpo,
        rest=before.rest or results.rest,
        methods={**both, **before.methods},
    )


def with_arms(config: dict[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration that asks for the rows of an earlier one too, at the earlier one's rates."""
    both = _of_both(config, before)
    if settings := before.get("resolved", {}).get("settings"):
        both["resolved"] = {**both["resolved"], "settings": _of_both(both["resolved"]["settings"], settings)}
    return both


def _of_both(now: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """Flags or settings with the rows of earlier ones before their own."""
    return {**now, **{name: _united(before[name], now.get(name)) for name in ROWS if name in before}}


def _united(before: Any, value: Any) -> Any:
    if isinstance(before, list) and isinstance(value, list):
        return list(dict.fromkeys([*before, *value]))
    if isinstance(before, Mapping) and isinstance(value, Mapping):
        return {**value, **before}
    return before if value is None else value


def _joined(before: Ledger | None, ledger: Ledger | None) -> Ledger | None:
    """One stream, with the positions of the arms of both."""
    if before is None or ledger is None:
        return before or ledger
    return replace(before, positions={**ledger.positions, **before.positions})


def with_answers(
    lines: dict[str, dict[str, Any]], before: Iterable[dict[str, Any]]
) -> dict[str, dict[str, Any]]:
    """The lines of all questions, with the answers of an earlier archive in the place of those to the same
    rows."""
    for line in before:
        lines.setdefault(line["id"], {**line, "answers": {}})["answers"].update(line["answers"])
    return lines


def of_other_stages(metrics: bytes, before: bytes) -> bytes:
    """The updates of stages that an earlier archive has none of."""
    stages = {strict.load(line)["stage"] for line in before.splitlines()}
    return b"".join(
        line for line in metrics.splitlines(keepends=True) if strict.load(line)["stage"] not in stages
    )
