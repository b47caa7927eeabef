"""Figures for Prometheus. What the engine and the log count themselves is read when somebody asks."""

from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)


class Metrics:
    """One server's figures, in a registry of its own."""

    content_type = CONTENT_TYPE_PLAIN_0_0_4

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()

        def counter(name: str, what: str, *labels: str) -> Counter:
            return Counter(f"cicjax_{name}", what, labels, registry=registry)

        def seconds(name: str, what: str) -> Histogram:
            return Histogram(f"cicjax_{name}_seconds", what, buckets=SECONDS, registry=registry)

        self.requests = counter("requests", "Requests by route and status", "route", "status")
        self.tokens = counter("tokens", "Tokens written", "kind")
        self.feedback = counter("feedback", "Feedback by what became of it", "what")
        self.first_token = seconds("first_token", "From a request to its first token")
        self.token_gap = seconds("token_gap", "From one piece of an answer to the next")
        self.commit = seconds("commit", "Feedback until it is on disk")
        self._gauges: dict[str, Gauge] = {}

    def text(self, figures: dict[str, Any]) -> bytes:
        """All figures in Prometheus' format; `figures` are numbers by name as they are now."""
        for name, value in figures.items():
            if isinstance(value, int | float):
                if name not in self._gauges:
                    gauge = Gauge(f"cicjax_{name}", name.replace("_", " "), registry=self._registry)
                    self._gauges[name] = gauge
                self._gauges[name].set(value)
        return generate_latest(self._registry)
