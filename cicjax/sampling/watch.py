"""What an engine took, for whoever watches it: seconds to first tokens and between tokens, by what went on
beside; slices of learning; programs that this process compiled, for whatever."""

from collections import Counter, deque
from functools import cache
from typing import Any

import jax
import numpy as np

KEPT = 4096  # of the newest measurements of a kind
BESIDE = ("nothing", "learning", "gate")
COMPILED = "/jax/core/compile/backend_compile_duration"


class Watch:
    """Measurements of one engine. Written by its thread, read by any."""

    def __init__(self) -> None:
        _events()
        self._seconds = {
            (what, beside): deque[float](maxlen=KEPT)
            for what in ("first_token", "token_gap")
            for beside in BESIDE
        }
        self._tokens = 0
        self._slices, self._learned = 0, 0.0
        self._longest = {"learning": 0.0, "gate": 0.0}
        self._beside = "nothing"

    def token(self, seconds: float, *, first: bool) -> None:
        """A token came `seconds` after the one before, the first one after it was asked for."""
        self._tokens, beside = self._tokens + 1, self._beside
        self._seconds["first_token" if first else "token_gap", beside].append(seconds)

    def slice(self, seconds: float, *, gate: bool) -> None:
        """A slice of learning, or with `gate` a part of a prompt of a gate's."""
        self._slices, self._learned = self._slices + 1, self._learned + seconds
        self._beside = "gate" if gate else "learning"
        self._longest[self._beside] = max(self._longest[self._beside], seconds)

    def round(self, *, gate: bool) -> None:
        """A round begins to draw; the next one has nothing of its slices. With `gate` it answers for a gate,
        too."""
        if gate and self._beside == "nothing":
            self._beside = "gate"

    def told(self) -> None:
        """All tokens of a round have been told of."""
        self._beside = "nothing"

    def record(self) -> dict[str, Any]:
        """As JSON."""
        record: dict[str, Any] = {"first_token": {}, "token_gap": {}}
        for (what, beside), seconds in self._seconds.items():
            record[what][beside] = percentiles(list(seconds))
        return record | {
            "tokens": self._tokens,
            "slices": self._slices,
            "longest_slice": self._longest["learning"],
            "longest_gate_slice": self._longest["gate"],
            "learning_seconds": self._learned,
            "compiled": _events()[COMPILED],
        }


@cache
def _events() -> Counter[str]:
    """How often what jax tells of has happened in this process, from the first call on."""
    counted = Counter[str]()
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, duration_secs, **kwargs: counted.update([event])
    )
    return counted


def percentiles(seconds: list[float]) -> dict[str, float]:
    """How many, and where the middle and the end are."""
    if not seconds:
        return {"count": 0}
    p50, p95, p99, most = np.percentile(seconds, (50, 95, 99, 100)).tolist()
    return {"count": len(seconds), "p50": p50, "p95": p95, "p99": p99, "max": most}
