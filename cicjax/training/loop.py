"""The loop: updates in, states out. It knows no method; rows, weights and the loss are handed to it.

Which rows form update j is settled by the caller before training starts, so the position in the data is the
update's index and a run resumes from a state alone.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from cicjax.errors import Corrupted
from cicjax.model import qwen2
from cicjax.training import steps
from cicjax.training.batches import Row, Shape, pack

MAX_NONFINITE = 5


@dataclass(frozen=True, kw_only=True)
class Progress:
    """One finished update, as it goes into metrics.jsonl."""

    update: int
    total: int
    loss: float
    grad_norm: float
    learning_rate: float
    applied: bool
    rows: int
    live_rows: int
    tokens_supervised: int
    tokens_total: int
    tokens_processed: int


def train(
    state: steps.TrainState,
    updates: Sequence[Sequence[Row]],
    *,
    model: qwen2.Model,
    base: qwen2.Tree,
    shape: Shape,
    optimization: steps.Optimization,
) -> Iterator[tuple[steps.TrainState, Progress]]:
    """Run the updates from `state.step` on, yielding the state after each. The state yielded before is
    donated: keep only the newest.

    Raises Corrupted after several non-finite updates in a row; each of them left adapter and optimizer as
    they were.
    """
    in_a_row = 0
    for index in range(int(state.step), len(updates)):
        state, progress = one_update(
            state,
            updates[index],
            total=len(updates),
            model=model,
            base=base,
            shape=shape,
            optimization=optimization,
        )
        in_a_row = count_nonfinite(progress, in_a_row)
        yield state, progress


def count_nonfinite(progress: Progress, in_a_row: int) -> int:
    """How many updates in a row, this one included, were not finite. Raises Corrupted when they are too many
    to be chance."""
    in_a_row = in_a_row + 1 if progress.live_rows and not progress.applied else 0
    if in_a_row >= MAX_NONFINITE:
        raise Corrupted(
            f"{in_a_row} updates in a row were not finite (update {progress.update} of {progress.total}: "
            f"loss {progress.loss}, "
            f"gradient norm {progress.grad_norm}): lower the learning rate; "
            "the adapter is as it was before them"
        )
    return in_a_row


def one_update(
    state: steps.TrainState,
    rows: Sequence[Row],
    *,
    total: int,
    model: qwen2.Model,
    base: qwen2.Tree,
    shape: Shape,
    optimization: steps.Optimization,
    loss: steps.Loss = steps.likelihood_loss,
) -> tuple[steps.TrainState, Progress]:
    """Update number `state.step` of `total`: sums over the micro-batches of `rows`, one division, one step.
    The given state is donated."""
    index, batches, sums = int(state.step), pack(rows, shape), steps.zero_sums(state.adapter)
    for batch in batches:
        sums = steps.accumulate(loss, model, base, state.adapter, sums, batch)
    rate = steps.learning_rate_at(index, total, optimization)
    state, metrics = steps.update(optimization, state, sums, np.float32(rate))
    return state, _progress(index, total, rows, metrics, rate)


def _progress(
    index: int, total: int, rows: Sequence[Row], metrics: steps.UpdateMetrics, rate: float
) -> Progress:
    live = [row for row in rows if row.loss_weights.any()]
    return Progress(
        update=index + 1,
        total=total,
        loss=float(metrics.loss),
        grad_norm=float(metrics.grad_norm),
        learning_rate=rate,
        applied=bool(metrics.applied),
        rows=len(rows),
        live_rows=len(live),
        tokens_supervised=sum(int((row.loss_weights != 0).sum()) for row in live),
        tokens_total=sum(len(row.loss_weights) for row in rows),
        tokens_processed=sum(len(row.loss_weights) for row in live),
    )
