"""What an online run came to: arms by phase, and the contrasts that were fixed beforehand, over seeds."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cicjax.experiments.online.arms import CONTRASTS, named
from cicjax.experiments.online.world import PHASES
from cicjax.statistics import holm, sign_flip_p, t_interval, wilson

BLOCKS = 12
MEASURES = {
    "prequential": "first answers in the stream",
    "new": "first answers to skills that nobody had taught before",
    "retention": "known skills at the end, greedy",
    "direct": "all skills at the end, greedy",
    "two_step": "second answers at the end, greedy",
    "nats": "nats a token of the teacher's answers before they are seen, less is better",
}


def summary(life: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers of one arm at one seed."""
    events, end = life["events"], life["end"]
    solved = [event["solved"] for event in events]
    third = len(events) // 3
    phases = {
        phase: _share(solved[n * third : (n + 1) * third], events[n * third : (n + 1) * third])
        for n, phase in enumerate(PHASES)
    }
    new = [event["solved"] for event in events[third:] if not event["known"]]
    return {
        "prequential": float(np.mean(solved)),
        "new": float(np.mean(new)) if new else math.nan,
        "retention": end["solved_known"] / max(end["known"], 1),
        "direct": end["solved"] / end["questions"],
        "two_step": end["two_step"] / end["questions"],
        "nats": float(np.mean([event["nats"] for event in events])),
        "corrected": end["corrected"],
        "phases": phases,
        "curve": _curve(events),
        "checks": life["checks"],
    }


def _curve(events: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """First answers in a dozen blocks: how many events and corrections there had been by a block's end."""
    size, corrected, blocks = max(len(events) // BLOCKS, 1), 0, []
    for first in range(0, len(events), size):
        block = events[first : first + size]
        corrected += sum(not event["solved"] for event in block)
        solved = [event["solved"] for event in block]
        ends = {"events": first + len(block), "corrected": corrected}
        blocks.append(ends | _share(solved, block))
    return blocks


def _share(solved: Sequence[bool], events: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    low, high = wilson(sum(solved), len(solved))
    nats = float(np.mean([event["nats"] for event in events])) if events else math.nan
    return {"solved": sum(solved), "questions": len(solved), "low": low, "high": high, "nats": nats}


def contrasts(runs: Sequence[Mapping[str, Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """Every contrast on every measure, paired over the seeds of `runs`, with Holm's p within a measure and
    the word for it."""
    rows = []
    for measure in MEASURES:
        found = []
        for one, other in CONTRASTS:
            pairs = [(run[one][measure], run[other][measure]) for run in runs if one in run and other in run]
            if pairs:
                sign = -1 if measure == "nats" else 1
                differences = [sign * (a - b) for a, b in pairs]
                mean, low, high = t_interval(differences)
                found.append((one, other, mean, low, high, sign_flip_p(differences), len(pairs)))
        adjusted = holm([row[5] for row in found])
        rows += [
            {
                "measure": measure,
                "arm": one,
                "against": other,
                "gain": mean,
                "low": None if math.isinf(low) else low,
                "high": None if math.isinf(high) else high,
                "p": p,
                "seeds": seeds,
                "word": word(low, high, p),
            }
            for (one, other, mean, low, high, _, seeds), p in zip(found, adjusted, strict=True)
        ]
    return rows


def word(low: float, high: float, p: float) -> str:
    """ "holds" where the gain is above 0 by interval and adjusted p, "does not" where it is below."""
    if p < 0.05 and low > 0:
        return "holds"
    if p < 0.05 and high < 0:
        return "does not"
    return "undecided"


def table(arms: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A line an arm, for terminals."""
    lines = [f"{'arm':28} {'stream':>7} {'new':>7} {'kept':>7} {'end':>7} {'second':>7} {'nats':>7}"]
    for name, row in arms.items():
        shares = " ".join(
            f"{row[key]:7.1%}" for key in ("prequential", "new", "retention", "direct", "two_step")
        )
        lines.append(f"{named(name).label:28} {shares} {row['nats']:7.3f}")
    return lines
