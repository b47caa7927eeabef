"""rates.json: the second-stage rate of each method on each base, with everything that was tried.

    {FINGERPRINT OF THE BASE: {
        "name": ..., "seeds": [...], "questions": a rate, "settings": {...},
        "methods": {METHOD: {"rate": chosen, "edge": whether it is the last that was tried on its side,
                             "tried": {RATE: {"solved": ..., "nats": ...}}}}}}

`solved` counts development questions, plain prompt, over all seeds; `nats` is the mean negative
log-likelihood of the teacher's answers to them, a token. The rate with the most solved is chosen, of equals
the one with fewer nats. `cicjax tune` writes the file, `cicjax repro --rates` reads it.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cicjax.errors import BadInput
from cicjax.experiments.checked import require
from cicjax.files.whole import read_json, write_json

Tried = Mapping[float, Mapping[str, float]]


def best(tried: Tried) -> float:
    """The rate to choose: most solved, then fewest nats."""
    return max(tried, key=lambda rate: (tried[rate]["solved"], -tried[rate]["nats"]))


def beyond(tried: Tried) -> float | None:
    """The rate to try next where the best one is the lowest or the highest: one more step that way; None
    where it lies between others, or alone."""
    rates, chosen = sorted(tried), best(tried)
    if len(rates) < 2 or chosen not in (rates[0], rates[-1]):
        return None
    neighbour = rates[1] if chosen == rates[0] else rates[-2]
    return float(f"{chosen * chosen / neighbour:.6g}")


def entry(tried: Tried) -> dict[str, Any]:
    """What the file says of one method."""
    chosen = best(tried)
    told = {f"{rate:g}": dict(tried[rate]) for rate in sorted(tried)}
    return {"rate": chosen, "edge": chosen in (min(tried), max(tried)), "tried": told}


def add(path: Path, fingerprint: str, facts: Mapping[str, Any], methods: Mapping[str, Any]) -> None:
    """Write what was tuned on one base; other bases, and this one's other methods at the same settings,
    stay."""
    record = read_json(path) if path.exists() else {}
    there, facts = record.get(fingerprint, {}), json.loads(json.dumps(facts))  # as a file gives them back
    same = {name: there.get(name) for name in facts} == facts
    kept = there.get("methods", {}) if same else {}
    write_json(path, record | {fingerprint: {**facts, "methods": {**kept, **methods}}})


def chosen(path: Path, fingerprint: str, methods: Sequence[str], *, first: float) -> dict[str, float]:
    """The rates of those of these methods that were tuned on the base, from an SFT-1 at the rate `first`.
    Raises BadInput where the file is not there, or knows another base or another SFT-1 alone, Corrupted
    where it is damaged."""
    if not path.is_file():
        raise BadInput(f"{path}: no such file; `cicjax tune` writes one")
    record = read_json(path)
    if not isinstance(record, dict) or fingerprint not in record:
        raise BadInput(f"{path}: holds no rates for the base {fingerprint[:12]}; tune them, or leave --rates")
    base = require(record, fingerprint, dict, where=path, place="")
    if "settings" in base and (there := _first_of(base, path)) != first:
        raise BadInput(
            f"{path}: chosen from an SFT-1 at {there:g}, and here it is at {first:g}; give --learning_rate "
            f"{there:g}, or leave --rates"
        )
    tuned = require(base, "methods", dict, where=path, place=f"{fingerprint[:12]}.")
    return {
        name: float(require(tuned[name], "rate", float, where=path, place=f"methods.{name}."))
        for name in methods
        if name in tuned
    }


def _first_of(base: Mapping[str, Any], path: Path) -> float:
    """The rate of the SFT-1 that the methods were tuned from."""
    settings = require(base, "settings", dict, where=path, place="")
    optimization = require(settings, "optimization", dict, where=path, place="settings.")
    return float(require(optimization, "learning_rate", float, where=path, place="settings.optimization."))
