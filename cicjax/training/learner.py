"""An adapter that learns in a folder: open or resume, update, save, close.

The one place for checkpoints, metrics.jsonl and the counting of updates that were not finite. Whoever uses it
decides which rows an update has, its learning rate and when to save; there need be no last update. An
update's metrics are read when the next one has been handed to the device.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import jax
import jax.numpy as jnp

from cicjax.devices import mesh
from cicjax.errors import Corrupted, printable, shorten
from cicjax.files.seal import read_json
from cicjax.model import qwen2
from cicjax.provenance.tokenizer import Tokenizer
from cicjax.runs.dashboards import Dashboard
from cicjax.runs.metrics import MetricsLog
from cicjax.signals import Stopped
from cicjax.training import checkpoints, steps
from cicjax.training.batches import Shape, Unit
from cicjax.training.loop import Dispatched, Progress, one_update

MAX_NONFINITE = 5
IN_A_ROW = "nonfinite_in_a_row"
BUDGET = "budget.json"


@dataclass(frozen=True, kw_only=True)
class Trainer:
    """Everything about a training that is neither its rows nor what they weigh. `folder` is the run's; the
    seed settles the order of rows; with `live_rows` rows without loss are left out before updates are cut.
    `protocol` is the one that the rows are rendered in, where they are. `lora_dropout` is the share of its
    inputs that the adapter does not see in an update; `dashboard` is told what metrics.jsonl is told.
    `eval_steps` is how often whoever watches is asked, None for never."""

    folder: Path
    model: qwen2.Model
    base: qwen2.Tree
    base_fingerprint: str
    tokenizer: Tokenizer
    optimization: steps.Optimization
    seed: int
    rows_per_update: int = 8
    num_train_epochs: int = 1
    max_steps: int | None = None
    live_rows: bool = False
    save_steps: int = 25
    save_total_limit: int = 2
    eval_steps: int | None = None
    schedule: steps.Schedule = "linear"
    protocol: str | None = None
    lora_dropout: float = 0.0
    dashboard: Dashboard | None = None


def finished_adapter(directory: Path) -> qwen2.Tree | None:
    """The adapter of a training that has ended here: its budget stands beside its last step."""
    record = directory / BUDGET
    if not record.exists() or checkpoints.latest(directory) != read_json(record)["updates"]:
        return None
    try:
        return checkpoints.load_adapter(directory)[0]
    except Corrupted:
        return None  # who goes on training says so, and makes the step again


class Diverged(Corrupted):
    """Updates were not finite, and nothing was learned."""


class Learner:
    """`with Learner(trainer, name, start=adapter) as learner:` trains FOLDER/NAME on from its newest
    checkpoint, or from a copy of `start` where there is none: an adapter, or a state with its moments. Where
    the block ends by `signals.Stopped`, the updates since the last checkpoint are saved.

    `step` counts the updates begun, `resumed` says whether a checkpoint was there and `cursor` what was saved
    with it; `progress` is the newest update whose metrics were read. Raises Corrupted where the checkpoint is
    damaged and no earlier one is left.
    """

    def __init__(
        self, trainer: Trainer, name: str, *, start: qwen2.Tree | steps.TrainState, total: int | None = None
    ) -> None:
        self.directory = trainer.folder / name
        self.progress: Progress | None = None
        self._trainer, self._name, self._total = trainer, name, total
        self._pending: tuple[Dispatched, Mapping[str, Any]] | None = None
        self._nonfinite_in_a_row = 0
        state = _begun(start, trainer.optimization)
        self.state, self.cursor = mesh.of(trainer.base).whole(state), {}
        self.resumed = checkpoints.latest(self.directory) is not None
        if self.resumed:
            # A damaged newest step is set aside, with a line that says so.
            tree, self.cursor = checkpoints.load(self.directory, self.state._asdict(), fall_back=True)
            self.state = steps.TrainState(**tree)
            self._check_own(self.cursor)
            self._nonfinite_in_a_row = int(self.cursor.get(IN_A_ROW, 0))
        self.step = int(self.state.step)
        self._saved = self.step
        self._log = MetricsLog(
            trainer.folder / "metrics.jsonl", stage=name, resume_after=self.step if self.resumed else None
        )

    @property
    def adapter(self) -> qwen2.Tree:
        """The adapter after the last update. The next update donates it: copy what is to be kept."""
        return self.state.adapter

    def update(
        self,
        units: Sequence[Unit],
        *,
        rate: float,
        shape: Shape,
        loss: steps.Loss,
        facts: Mapping[str, Any] | None = None,
        pause: Callable[[], None] | None = None,
    ) -> None:
        """Hand one update to the device; `facts` go into its line of metrics.jsonl, `pause` is called between
        micro-batches, for whoever shares the device.

        Raises Corrupted after several updates in a row that were not finite; each of them left adapter and
        optimizer as they were.
        """
        before, trainer = self._pending, self._trainer
        self.state, dispatched = one_update(
            self.state,
            units,
            index=self.step,
            rate=rate,
            model=trainer.model,
            base=trainer.base,
            shape=shape,
            optimization=trainer.optimization,
            loss=loss,
            dropout=trainer.lora_dropout,
            seed=trainer.seed,
            pause=pause,
        )
        self.step += 1
        self._pending = (dispatched, facts or {})
        if before is not None:
            self._record(*before)

    def save(self, cursor: Mapping[str, Any] | None = None, *, final: bool = False) -> None:
        """One atomic checkpoint: adapter, optimizer and counters, what they belong to, and the reader's place
        in its data where the step alone does not say it. A final one is never retired.

        Raises Corrupted after several updates in a row that were not finite, and for a final one where not a
        single update could be applied.
        """
        self.flush()
        if final:
            self._check_applied()
        self._log.seal()
        metadata = self._identity() | {IN_A_ROW: self._nonfinite_in_a_row} | dict(cursor or {})
        tree, keep = self.state._asdict(), self._trainer.save_total_limit
        checkpoints.save(self.directory, self.step, tree=tree, metadata=metadata, keep=keep, final=final)
        self._saved = self.step

    def _identity(self) -> dict[str, Any]:
        """What a checkpoint belongs to."""
        trainer, lora = self._trainer, self._trainer.model.lora
        assert lora is not None
        return {
            "method": self._name,
            "total_updates": self._total,
            "base_fingerprint": trainer.base_fingerprint,
            "tokenizer": trainer.tokenizer.fingerprint,
            "lora": asdict(lora) | {"target_modules": list(lora.target_modules)},
            **({} if trainer.protocol is None else {"protocol": trainer.protocol}),
        }

    def _check_own(self, metadata: Mapping[str, Any]) -> None:
        for name, here in self._identity().items():
            if metadata.get(name) != here:
                raise Corrupted(
                    f"{self.directory}: step {int(self.state.step)} is of another training ({name} is "
                    f"{shorten(metadata.get(name))} there and {shorten(here)} here); delete that step's "
                    "folder and repeat the command"
                )

    def flush(self) -> None:
        """Wait for the last update and write its metrics."""
        pending, self._pending = self._pending, None
        if pending is not None:
            self._record(*pending)

    def _record(self, dispatched: Dispatched, facts: Mapping[str, Any]) -> None:
        self.progress = progress = dispatched.read(self._total)
        values = metrics_of(progress) | dict(facts)
        self._log.write(progress.update, values)
        if self._trainer.dashboard is not None:
            self._trainer.dashboard(progress.update, values)
        if progress.live_rows:  # an update without targets says nothing either way
            self._nonfinite_in_a_row = 0 if progress.applied else self._nonfinite_in_a_row + 1
        if self._nonfinite_in_a_row >= MAX_NONFINITE:
            raise Diverged(
                f"{self._nonfinite_in_a_row} updates in a row were not finite (update {progress.update}"
                f"{self._of_total()}: loss {progress.loss}, gradient norm {progress.grad_norm}): "
                "lower the learning rate; the adapter is as it was before them"
            )

    def _check_applied(self) -> None:
        """Say how many updates were skipped. Raises Corrupted where those were all that had anything to
        learn from."""
        skipped = int(self.state.nonfinite_updates)
        if not skipped:
            return
        what = f"{self.directory}: {skipped} of {self.step} updates were not finite and were skipped"
        if self.step == skipped + int(self.state.empty_updates):
            raise Diverged(f"{what}, so that nothing was learned: lower the learning rate")
        print(printable(f"warning: {what}"), file=sys.stderr)

    def _of_total(self) -> str:
        return "" if self._total is None else f" of {self._total}"

    def close(self) -> None:
        """Write what is still to be told and close the log."""
        try:
            self.flush()
        finally:
            self._log.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if isinstance(error, Stopped):
                self._save_on_the_way_out(error)
            elif error is None:
                self.flush()
        finally:
            self._log.close()

    def _save_on_the_way_out(self, stopped: Stopped) -> None:
        """Whoever let the signal stop the work did so between two updates."""
        if self.step > self._saved:
            self.save()
        stopped.kept = (
            f"{self.directory}: saved at update {self.step}{self._of_total()}; the same command resumes"
        )


def _begun(start: qwen2.Tree | steps.TrainState, optimization: steps.Optimization) -> steps.TrainState:
    """A state of its own to go on from: updates donate it."""
    if isinstance(start, steps.TrainState):
        return jax.tree.map(jnp.copy, start)
    return steps.start_state(start, optimization)


def metrics_of(progress: Progress) -> dict[str, Any]:
    """One update as a line of metrics.jsonl."""
    total = {} if progress.total is None else {"total": progress.total}
    return total | {
        "loss": progress.loss,
        "grad_norm": progress.grad_norm,
        "learning_rate": progress.learning_rate,
        "applied": progress.applied,
        "rows": progress.rows,
        "live_rows": progress.live_rows,
        "tokens/supervised": progress.tokens_supervised,
        "tokens/total": progress.tokens_total,
        "num_tokens": progress.tokens_processed,
    }
