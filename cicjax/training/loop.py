"""One update: rows in, state out. It knows no method; rows and the loss are handed to it.

Which rows form update j is settled by the caller before training starts, so the position in the data is the
update's index and a run resumes from a state alone.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import numpy as np

from cicjax.devices import mesh
from cicjax.model import qwen2
from cicjax.model.lora import Dropout
from cicjax.training import steps
from cicjax.training.batches import Batch, Shape, Unit, pack, rows_of, stack


@dataclass(frozen=True, kw_only=True)
class Progress:
    """One finished update, as it goes into metrics.jsonl. `total` is None in a stream that has no end."""

    update: int
    total: int | None
    loss: float
    grad_norm: float
    learning_rate: float
    applied: bool
    rows: int
    live_rows: int
    tokens_supervised: int
    tokens_total: int
    tokens_processed: int


class Dispatched(NamedTuple):
    """An update that was handed to the device: what it will report there, and what is known here already."""

    number: int
    units: Sequence[Unit]
    rate: float
    metrics: steps.UpdateMetrics

    def read(self, total: int | None) -> Progress:
        """Wait for the update and tell of it."""
        rows = [row for unit in self.units for row in rows_of(unit)]
        live = [row for row in rows if row.loss_weights.any()]
        return Progress(
            update=self.number + 1,
            total=total,
            loss=float(self.metrics.loss),
            grad_norm=float(self.metrics.grad_norm),
            learning_rate=self.rate,
            applied=bool(self.metrics.applied),
            rows=len(rows),
            live_rows=len(live),
            tokens_supervised=sum(int((row.loss_weights != 0).sum()) for row in live),
            tokens_total=sum(len(row.loss_weights) for row in rows),
            tokens_processed=sum(len(row.loss_weights) for row in live),
        )


def one_update(
    state: steps.TrainState,
    units: Sequence[Unit],
    *,
    index: int,
    rate: float,
    model: qwen2.Model,
    base: qwen2.Tree,
    shape: Shape,
    optimization: steps.Optimization,
    loss: steps.Loss,
    dropout: float = 0.0,
    seed: int = 0,
    pause: Callable[[], None] | None = None,
) -> tuple[steps.TrainState, Dispatched]:
    """Update number `index`, from 0 on, at this learning rate: sums over the micro-batches of `units`, one
    division, one step; all one program where the kind of device wants that, for which `shape` must be fixed,
    and where the base lies on several devices, which share the lines. Between micro-batches `pause` is
    called, where they are no one program. Returns before they have finished. The given state is donated,
    where there are rows."""
    devices = mesh.of(base)
    batches = with_dropout(pack(units, shape.over(devices.count)), dropout, seed=seed, index=index)
    if not batches:
        state, metrics = steps.without_rows(state)
    elif model.kind.one_program or devices.count > 1:
        whole = {"loss": loss, "base": base, "state": state, "learning_rate": np.float32(rate)}
        state, metrics = devices.each(
            steps.whole_update,
            static={"optimization": optimization, "model": model, "axis": devices.axis},
            whole={**whole, "count": np.int32(len(batches))},
            rows={"batches": devices.rows(stack(batches), axis=1)},
            axis=1,
            gives="whole",
            donate=("state",),
        ).run()
    else:
        sums = steps.zero_sums(state.adapter)
        for batch in batches:
            sums = steps.accumulate(loss, model, base, state.adapter, sums, batch)
            if pause is not None:
                jax.block_until_ready(sums)
                pause()
        state, metrics = steps.update(optimization, state, sums, np.float32(rate))
    return state, Dispatched(index, units, rate, metrics)


def with_dropout(batches: Sequence[Batch], share: float, *, seed: int, index: int) -> list[Batch]:
    """The micro-batches of update `index`, each line with a key of its own for the share of its inputs that
    the adapter does not see; as they are where the share is 0."""
    if not share:
        return list(batches)
    draw = np.random.default_rng([seed, index]).integers
    lines = batches[0].tokens.shape[0] if batches else 0
    return [
        batch._replace(
            dropout=Dropout(np.full(lines, share, np.float32), draw(2**32, size=(lines, 2), dtype=np.uint32))
        )
        for batch in batches
    ]
