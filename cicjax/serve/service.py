"""What the endpoints share: the agent, the engine that answers for it, keys, figures, and whether the server
is on its way out."""

import sys
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cicjax.agent.continual import Agent
from cicjax.agent.events import Attempt, Event, Verdict
from cicjax.agent.learner import score
from cicjax.errors import BadInput, printable
from cicjax.serve.curve import Curve
from cicjax.serve.errors import Problem
from cicjax.serve.hand import Hand
from cicjax.serve.metrics import Metrics
from cicjax.training.batches import Row

RECEIPT = "chatcmpl-"
MODEL, VERIFIER = "cicjax", "verifier"


@dataclass(kw_only=True)
class Service:
    """One agent and who answers for it. `live` is the engine with the learner beside it (`agent.live`)."""

    agent: Agent
    live: Any
    home: Path
    keys: dict[str, str] = field(default_factory=dict)
    hand: Hand = field(default_factory=Hand)
    metrics: Metrics = field(default_factory=Metrics)
    curve: Curve = field(default_factory=Curve)
    draining: bool = False  # nothing new is taken
    ending: bool = False  # what is under way is cut
    open: int = 0  # answers under way
    started: float = field(default_factory=time.time)
    _counting: Any = field(default_factory=threading.Lock)
    _scoring: Any = field(default_factory=threading.Lock)
    _judging: Any = field(default_factory=lambda: ThreadPoolExecutor(1, thread_name_prefix="verifier"))

    def __post_init__(self) -> None:
        if VERIFIER not in self.agent.history.sources:
            self.agent.declare(VERIFIER, ["judge"])

    def check_open(self) -> None:
        """Raise Problem 503 where the server is ending."""
        if self.draining:
            raise Problem(503, "the server is ending; ask another, or again soon", code="draining", retry=5)

    def count(self, by: int) -> None:
        """Answers that begin or end."""
        with self._counting:
            self.open += by

    def version_of(self, model: str) -> int | None:
        """The version that a model's name asks for; None for the one that serves. Raises Problem 404."""
        name, at, number = model.partition("@")
        if name == MODEL and not at:
            return None
        known = self.agent.history.versions
        if name == MODEL and number.isascii() and number.isdigit() and int(number[:9]) in known:
            return int(number)
        message = f"no model of this name; there are {MODEL}, which serves, and {MODEL}@N for version N"
        raise Problem(404, message, param="model", code="model_not_found")

    def begin_of(self, receipt: str) -> Event:
        """The beginning of the answer that a receipt is of, as a client has it or bare. Raises Problem
        404."""
        try:
            event = self.agent.store.by_id(receipt.removeprefix(RECEIPT))
            if event.kind == "attempt" and event.parent is not None:
                event = self.agent.store.event(event.parent)
        except BadInput:
            event = None
        if event is None or event.kind != "begin":
            message = "no answer has this receipt; it is the `id` of a chat completion"
            raise Problem(404, message, param="id", code="not_found")
        return event

    def judge(self, attempt: Attempt, messages: Sequence[Mapping[str, str]]) -> None:
        """Let the verifier look at an answer, in a thread of its own; what goes wrong there is its own."""
        if attempt.finish != "cancelled":
            self._judging.submit(self._judge, attempt, messages)

    def _judge(self, attempt: Attempt, messages: Sequence[Mapping[str, str]]) -> None:
        try:
            solved = self.hand.judge(messages, attempt.text)
            if solved is not None:
                self.live.observe(attempt.id, Verdict(bool(solved)), source=VERIFIER)
        except Exception as error:
            said = f"the verifier failed on {attempt.id}: {type(error).__name__}: {error}"
            print(printable(f"cicjax: {' '.join(said.split())[:300]}"), file=sys.stderr, flush=True)

    def close(self) -> None:
        """Let the verifier end what it has begun."""
        self._judging.shutdown(cancel_futures=True)

    def fingerprint(self, version: int) -> str:
        """What answers are signed with: the version and the digest of its adapter."""
        return f"v{version}-{self.agent.history.version(version).digest[:12]}"

    def score(self, rows: Sequence[Row], number: int) -> list[Any] | None:
        """log p of each row's targets under a version; None where its state is not on disk."""
        agent = self.agent
        agent.history.version(number)
        if not agent.steps.states.here(number):
            return None
        with self._scoring:
            return score(agent.policy, agent.steps.states.adapter(number), rows)
