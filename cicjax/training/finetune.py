"""One adapter trained on rows under one weighting: resumable, logged, with a budget. The paper's stages and
own transcripts alike."""

import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np

from cicjax.files.whole import read_json, write_json
from cicjax.model import cost, lora, qwen2
from cicjax.provenance import Author, Encoded
from cicjax.provenance.protocol import Weighting
from cicjax.provenance.tokenizer import Tokenizer
from cicjax.runs.metrics import MetricsLog, bar
from cicjax.training import checkpoints, steps
from cicjax.training.batches import Row, fit_shape, make_row
from cicjax.training.loop import Progress, train
from cicjax.views import boxes

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Trainer:
    """Everything about a training that is neither its rows nor what they weigh. `folder` is the run's; the
    seed settles the order."""

    folder: Path
    model: qwen2.Model
    base: qwen2.Tree
    base_fingerprint: str
    tokenizer: Tokenizer
    optimization: steps.Optimization
    seed: int
    rows_per_update: int = 8
    lines_per_batch: int = 1
    num_train_epochs: int = 1
    max_steps: int | None = None
    save_steps: int = 25


def fine_tune(
    trainer: Trainer,
    name: str,
    rows: Sequence[tuple[str, Encoded]],
    weighting: Weighting,
    *,
    start: qwen2.Tree,
) -> qwen2.Tree:
    """Train `start` on (id, arrays) rows and give the adapter, which FOLDER/NAME keeps; go on from its last
    checkpoint if there is one.

    Raises Corrupted after several non-finite updates in a row.
    """
    directory, record = trainer.folder / name, trainer.folder / name / "budget.json"
    if record.exists() and checkpoints.latest(directory) == read_json(record)["updates"]:
        return checkpoints.load_adapter(directory)[0]
    updates = _updates(trainer, directory, rows, weighting)
    shape = fit_shape((len(encoded.tokens) for _, encoded in rows), rows=trainer.lines_per_batch)
    state, done = resume_or_start(directory, steps.start_state(start, trainer.optimization))
    if done is None:
        show_example(trainer.tokenizer, name, [encoded for _, encoded in rows], weighting)
    log = MetricsLog(trainer.folder / "metrics.jsonl", stage=name, resume_after=done)
    with log, bar(f"train {name}") as report:
        report(int(state.step), len(updates))
        for state, progress in train(
            state,
            updates,
            model=trainer.model,
            base=trainer.base,
            shape=shape,
            optimization=trainer.optimization,
        ):
            log.write(progress.update, metrics_of(progress))
            report(progress.update, progress.total, f"loss {progress.loss:.3f}")
            if progress.update % trainer.save_steps == 0 or progress.update == progress.total:
                save(trainer, directory, state, name=name, total=progress.total)
    if not updates:
        save(trainer, directory, state, name=name, total=0)
    write_json(record, training_budget(trainer, state, [row for rows in updates for row in rows]))
    return state.adapter


def fresh_adapter(model: qwen2.Model, *, seed: int) -> qwen2.Tree:
    """The adapter that a run begins with where none is given: a function of the seed alone."""
    assert model.lora is not None
    return lora.init_adapter(
        model.config, model.lora, jax.random.fold_in(jax.random.key(seed), zlib.crc32(b"adapter"))
    )


def updates_of(rows: Sequence[T], *, seed: int, rows_per_update: int, epoch: int = 0) -> list[list[T]]:
    """One epoch: a permutation that depends on the seed and the number of rows alone, cut into updates. The
    last may be smaller.

    Arms that share their rows get the same transcript as row i of update j, whatever their weights.
    """
    order = np.random.default_rng([seed, epoch] if epoch else seed).permutation(len(rows))
    return [
        [rows[i] for i in order[first : first + rows_per_update]]
        for first in range(0, len(rows), rows_per_update)
    ]


def _updates(
    trainer: Trainer, directory: Path, rows: Sequence[tuple[str, Encoded]], weighting: Weighting
) -> list[list[Row]]:
    """The rows of each update, over all epochs; their order is written beside the checkpoints."""
    weighted = [(id, make_row(encoded, weighting(encoded))) for id, encoded in rows]
    updates: list[list[tuple[str, Row]]] = []
    per_epoch = -(-len(rows) // trainer.rows_per_update)
    epochs = (
        trainer.num_train_epochs if trainer.max_steps is None else -(-trainer.max_steps // max(per_epoch, 1))
    )
    for epoch in range(epochs):
        updates += updates_of(
            weighted, seed=trainer.seed, rows_per_update=trainer.rows_per_update, epoch=epoch
        )
    updates = updates[: trainer.max_steps]
    write_json(directory / "order.json", [[id for id, _ in update] for update in updates])
    return [[row for _, row in update] for update in updates]


def resume_or_start(directory: Path, start: steps.TrainState) -> tuple[steps.TrainState, int | None]:
    """The newest saved state and its step, or `start` and None. A damaged newest step is set aside, with a
    line that says so."""
    if checkpoints.latest(directory) is None:
        return start, None
    state = steps.TrainState(**checkpoints.load(directory, start._asdict(), fall_back=True)[0])
    return state, int(state.step)


def save(trainer: Trainer, directory: Path, state: steps.TrainState, *, name: str, total: int) -> None:
    """One atomic checkpoint: adapter, optimizer and counters, and what they belong to."""
    settings = trainer.model.lora
    assert settings is not None
    metadata = {
        "method": name,
        "total_updates": total,
        "base_fingerprint": trainer.base_fingerprint,
        "lora": asdict(settings) | {"target_modules": list(settings.target_modules)},
    }
    checkpoints.save(
        directory, int(state.step), tree=state._asdict(), metadata=metadata, final=int(state.step) == total
    )


def metrics_of(progress: Progress) -> dict[str, Any]:
    """One update as a line of metrics.jsonl."""
    return {
        "total": progress.total,
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


def training_budget(trainer: Trainer, state: steps.TrainState, rows: Iterable[Row]) -> dict[str, Any]:
    """What the updates spent; rows without targets are rows, but nobody processes them."""
    rows = list(rows)
    live = [row for row in rows if row.loss_weights.any()]
    processed = sum(len(row.loss_weights) for row in live)
    supervised = sum(int((row.loss_weights != 0).sum()) for row in live)
    assert trainer.model.lora is not None
    return {
        "updates": int(state.step),
        "empty_updates": int(state.empty_updates),
        "nonfinite_updates": int(state.nonfinite_updates),
        "rows": len(rows),
        "supervised_tokens": supervised,
        "processed_tokens": processed,
        "tokens_by_author": _by_author(rows, lambda row: np.ones(len(row.loss_weights), bool)),
        "supervised_by_author": _by_author(rows, lambda row: row.loss_weights != 0),
        "learning_rate": trainer.optimization.learning_rate,
        "flop": cost.training_flop(
            trainer.model.config, trainer.model.lora, tokens=processed, supervised=supervised
        ),
    }


def _by_author(rows: Iterable[Row], chosen: Callable[[Row], np.ndarray]) -> dict[str, int]:
    written = sum(
        (np.bincount(row.encoded.author[chosen(row)], minlength=max(Author) + 1) for row in rows),
        np.zeros(max(Author) + 1, int),
    )
    return {author.label: int(written[author]) for author in Author if written[author]}


def show_example(tokenizer: Tokenizer, name: str, encoded: Sequence[Encoded], weighting: Weighting) -> None:
    """One masked row, a failed one where there is one, and how much of the data carries loss: seen before
    anything is trained."""
    if not encoded:
        print(f"\n{name}: no rows", flush=True)
        return
    live = [each for each in encoded if weighting(each)[1:].any()] or encoded
    example = next((each for each in live if (each.solved == 0).any()), live[0])
    supervised = sum(int((weighting(each) > 0).sum()) for each in encoded)
    total = sum(len(each.tokens) for each in encoded)
    print(
        f"\n{name}: {len(encoded)} rows, {supervised:,} of {total:,} tokens supervised "
        f"({supervised / total:.1%}). One of them:"
    )
    print(boxes.boxes(example, tokenizer, weighting(example)), flush=True)
