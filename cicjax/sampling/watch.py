"""What an engine took, for whoever watches it: seconds to first tokens and between tokens, idle and beside
learning; slices."""

from collections import deque
from typing import Any

import numpy as np

KEPT = 4096  # of the newest measurements of a kind


class Watch:
    """Measurements of one engine. Written by its thread, read by any."""

    def __init__(self) -> None:
        self._seconds = {
            (what, beside): deque[float](maxlen=KEPT)
            for what in ("first_token", "token_gap")
            for beside in ("idle", "learning")
        }
        self._tokens = 0
        self._slices, self._longest, self._learned = 0, 0.0, 0.0
        self._since_slice = False

    def token(self, seconds: float, *, first: bool) -> None:
        """A token came `seconds` after the one before, the first one after it was asked for."""
        self._tokens += 1
        beside = "learning" if self._since_slice else "idle"
        self._seconds["first_token" if first else "token_gap", beside].append(seconds)

    def slice(self, seconds: float) -> None:
        """A slice of learning."""
        self._slices, self._learned = self._slices + 1, self._learned + seconds
        self._longest, self._since_slice = max(self._longest, seconds), True

    def round(self) -> None:
        """All tokens of a round have been told of."""
        self._since_slice = False

    def record(self) -> dict[str, Any]:
        """As JSON."""
        record: dict[str, Any] = {"first_token": {}, "token_gap": {}}
        for (what, beside), seconds in self._seconds.items():
            record[what][beside] = percentiles(list(seconds))
        return record | {
            "tokens": self._tokens,
            "slices": self._slices,
            "longest_slice": self._longest,
            "learning_seconds": self._learned,
        }


def percentiles(seconds: list[float]) -> dict[str, float]:
    """How many, and where the middle and the end are."""
    if not seconds:
        return {"count": 0}
    p50, p95, p99, most = np.percentile(seconds, (50, 95, 99, 100)).tolist()
    return {"count": len(seconds), "p50": p50, "p95": p95, "p99": p99, "max": most}
