"""How right the agent has been while it was in use: by version and in all, with how many of its answers
anybody judged. A fold over the log, caught up when it is asked.

An answer counts where nobody had got one to its question before: what was corrected is no test. One that was
cut short is none. Of several verdicts on an answer the last counts. Who is judged is no random sample, so the
judged share stands beside.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from cicjax.agent.events import Event
from cicjax.statistics import wilson


@dataclass
class Tally:
    """Answers, those with a verdict, and those that were right."""

    answers: int = 0
    judged: int = 0
    right: int = 0

    def record(self) -> dict[str, Any]:
        """As JSON, with Wilson's 95 % interval; no accuracy where nobody judged."""
        low, high = wilson(self.right, self.judged) if self.judged else (None, None)
        return {
            "answers": self.answers,
            "judged": self.judged,
            "judged_share": self.judged / self.answers if self.answers else None,
            "right": self.right,
            "accuracy": self.right / self.judged if self.judged else None,
            "low": low,
            "high": high,
        }


@dataclass
class Curve:
    """The log so far. `apply` takes its events in order; those it has seen it passes over."""

    seq: int = 0
    _begun: dict[int, tuple[str, int]] = field(default_factory=dict)  # question and version of what has begun
    _first: dict[int, int] = field(default_factory=dict)  # beginnings of first answers -> version
    _turns: set[str] = field(default_factory=set)
    _counted: dict[int, int] = field(default_factory=dict)  # judged beginnings -> verdict
    _by: dict[int, Tally] = field(default_factory=dict)

    def apply(self, events: Iterable[Event]) -> None:
        """Take events."""
        for event in events:
            if event.seq > self.seq:
                self.seq = event.seq
                self._take(event)

    def _take(self, event: Event) -> None:
        if event.kind == "begin" and event.version is not None:
            self._begun[event.seq] = event.facts["turn"], event.version
        elif event.kind == "attempt" and event.parent is not None and event.finish != "cancelled":
            turn, version = self._begun[event.parent]
            if turn not in self._turns:
                self._turns.add(turn)
                self._first[event.parent] = version
                self._tally(event.parent).answers += 1
        elif event.kind == "verdict" and event.parent in self._first:
            tally, before = self._tally(event.parent), self._counted.get(event.parent)
            tally.judged += before is None
            tally.right += event.solved - (before or 0)
            self._counted[event.parent] = event.solved

    def _tally(self, begin: int) -> Tally:
        return self._by.setdefault(self._first[begin], Tally())

    def record(self) -> dict[str, Any]:
        """All of it, and version by version."""
        whole = Tally()
        for tally in self._by.values():
            whole.answers += tally.answers
            whole.judged += tally.judged
            whole.right += tally.right
        versions = [{"version": n} | self._by[n].record() for n in sorted(self._by)]
        return {"all": whole.record(), "versions": versions}
