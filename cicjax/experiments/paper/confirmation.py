"""Self-confirmation and truth gain: what training did to the probability of SFT-1's mistakes, and of their
corrections.

    self_confirmation = mean over failed j of [log p(y_hat_j | x_j) - log p_SFT-1(y_hat_j | x_j)] / |y_hat_j|
    truth_gain        = mean over failed j of [log p(y*_j | x_j)    - log p_SFT-1(y*_j | x_j)]    / |y*_j|

Both in nats a token, on the plain prompt: the paper in two numbers a method.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from cicjax.experiments.paper.run import Run
from cicjax.methods import oracle
from cicjax.model import qwen2
from cicjax.provenance import Encoded
from cicjax.provenance.transcript import Episode
from cicjax.runs.folder import write_in_chunks
from cicjax.runs.metrics import bar
from cicjax.training import scoring
from cicjax.training.batches import fit_shape

ROWS_PER_CHUNK = 64


def confirmation_stage(
    run: Run, name: str, adapter: qwen2.Tree | None, stream: Sequence[Episode]
) -> dict[str, list[float]]:
    """Mean log-probability a token of every failed attempt and of its correction, in
    evaluations/METHOD-logprobs-*.jsonl."""
    failed = [episode for episode in stream if episode.messages[1].solved == 0]
    rows = {
        "attempts": [Episode(id=episode.id, messages=episode.messages[:2]) for episode in failed],
        "corrections": oracle.corrections(failed),
    }
    return {
        column: _means(run, adapter, episodes, name=f"{name}-logprobs-{column}")
        for column, episodes in rows.items()
    }


def _means(run: Run, adapter: qwen2.Tree | None, episodes: Sequence[Episode], *, name: str) -> list[float]:
    """One number a row; equal rows, such as one question's correction after several attempts, are scored
    once."""
    distinct: dict[Any, int] = {}
    places = [
        distinct.setdefault(tuple((m.content, m.tokens) for m in episode.messages), len(distinct))
        for episode in episodes
    ]
    first = {place: episode for place, episode in zip(reversed(places), reversed(episodes), strict=True)}
    encoded = [run.encode(first[place]) for place in range(len(distinct))]
    shape = fit_shape((len(each.tokens) for each in encoded), rows=run.model.kind.lines_per_batch)

    def work(_: int, chunk: list[Encoded]) -> list[dict[str, float]]:
        scores = scoring.token_logprobs(
            chunk, model=run.model, base=run.base, adapter=adapter, shape=shape, targets_only=True
        )
        return [
            {"mean": float(s[each.is_target].mean()) if each.is_target.any() else 0.0}
            for s, each in zip(scores, chunk, strict=True)
        ]

    chunks = [encoded[start : start + ROWS_PER_CHUNK] for start in range(0, len(encoded), ROWS_PER_CHUNK)]
    with run.timed(f"score {name}"), bar(f"score {name}") as report:
        means = write_in_chunks(
            run.folder / "evaluations" / f"{name}.jsonl", chunks, work=work, progress=report
        )
    return [means[place]["mean"] for place in places]


def summary(
    method: dict[str, list[float]] | None, sft: dict[str, list[float]] | None
) -> dict[str, float | None]:
    """The two differences to SFT-1; None where there was no stream or nothing in it failed."""

    def difference(column: str) -> float | None:
        if not method or not sft or not sft[column]:
            return None
        return float(np.mean(np.subtract(method[column], sft[column])))

    return {"self_confirmation": difference("attempts"), "truth_gain": difference("corrections")}
