"""One adapter trained on rows under one weighting: resumable, logged, with a budget. The paper's stages and
own transcripts alike."""

import zlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import jax
import numpy as np
from jaxtyping import Float32

from cicjax.devices import hosts, mesh
from cicjax.devices.process import GENERATOR
from cicjax.files.seal import write_json
from cicjax.model import cost, limits, lora, qwen2
from cicjax.objectives import likelihood
from cicjax.provenance import Author, Encoded
from cicjax.provenance.protocol import Weighting
from cicjax.provenance.tokenizer import Tokenizer
from cicjax.runs.metrics import bar
from cicjax.training import batches, steps
from cicjax.training.batches import Row, Shape, Unit, length_of, make_row, rows_of
from cicjax.training.learner import BUDGET, Learner, Trainer, finished_adapter
from cicjax.views import boxes

T = TypeVar("T")
Reduction = Literal["update", "dialogue"]


def fine_tune(
    trainer: Trainer,
    name: str,
    rows: Sequence[tuple[str, Unit]],
    *,
    loss: steps.Loss,
    start: qwen2.Tree,
    watch: Callable[[qwen2.Tree], dict[str, float]] | None = None,
) -> qwen2.Tree:
    """Train `start` on (id, unit) rows and give the adapter, which FOLDER/NAME keeps; go on from its last
    checkpoint if there is one. What `watch` says of the adapter before every `eval_steps`th update goes into
    that update's line of metrics.jsonl.

    `weighted` makes rows of one weighting, whose loss is `steps.Likelihood(weighting.rule)`; a unit of
    several rows is for a loss that compares them. Raises Corrupted after several non-finite updates in a row.
    """
    directory = trainer.folder / name
    if trainer.live_rows:
        rows = [(id, unit) for id, unit in rows if any(row.loss_weights.any() for row in rows_of(unit))]
    updates = _ordered(trainer, directory, rows)
    finished = finished_adapter(directory)
    if finished is not None:
        return finished
    total, optimization = len(updates), trainer.optimization
    shape = shape_for(trainer.model, trainer.base, [unit for _, unit in rows], updates)
    check_fit(trainer.model, trainer.base, start, rows, shape)
    with bar(f"train {name}") as report, Learner(trainer, name, start=start, total=total) as learner:
        if not learner.resumed:
            show_example(trainer.tokenizer, name, [unit for _, unit in rows])
        report(learner.step, total)
        while learner.step < total:
            rate = steps.learning_rate_at(learner.step, total, optimization, schedule=trainer.schedule)
            asked = trainer.eval_steps and learner.step % trainer.eval_steps == 0
            facts = watch(learner.adapter) if watch and asked else {}
            learner.update(updates[learner.step], rate=rate, shape=shape, loss=loss, facts=facts)
            if learner.step % trainer.save_steps == 0 or learner.step == total:
                learner.save(final=learner.step == total)
            hosts.check()
            report(learner.step, total, f"loss {learner.progress.loss:.3f}" if learner.progress else "")
        if not updates:
            learner.save(final=True)
        budget = training_budget(trainer, learner.state, [unit for units in updates for unit in units])
    hosts.once(lambda: write_json(directory / BUDGET, budget))
    return learner.adapter


def weighted(
    examples: Sequence[tuple[str, Encoded]], weighting: Weighting, *, reduction: Reduction = "update"
) -> list[tuple[str, Row]]:
    """(id, row) of every (id, arrays) under one weighting.

    An update's loss is the mean over its targets, or with `reduction="dialogue"` the mean over its rows of
    the mean within each: equations (1) and (2).
    """
    if reduction == "update":
        return [(id, make_row(encoded, weighting)) for id, encoded in examples]
    return [(id, make_row(encoded, weighting, scale=_within(encoded, weighting))) for id, encoded in examples]


def _within(encoded: Encoded, weighting: Weighting) -> Float32[np.ndarray, "T"]:
    """What makes the weights of a row those of its mean: the compiled step applies the rule, then this."""
    weights = weighting(encoded)
    return np.divide(
        likelihood.per_dialogue(weights), weights, out=np.zeros_like(weights), where=weights != 0
    )


def shape_for(
    model: qwen2.Model, base: qwen2.Tree, units: Sequence[Unit], updates: Sequence[Sequence[Unit]] = ()
) -> Shape:
    """The largest micro-batch of a stage over these units on each device of the base, as the model's kind
    wants it; `updates` say how many of them are trained together."""
    return batches.shape_for(model.kind, units, updates, devices=mesh.of(base).count)


def check_fit(
    model: qwen2.Model,
    base: qwen2.Tree,
    adapter: qwen2.Tree,
    rows: Sequence[tuple[str, Unit]],
    shape: Shape,
) -> str:
    """How long the longest row is and about what it needs, for a person. Raises BadInput for a row that
    passes the model's last position, OutOfResources where a micro-batch of this shape cannot fit the kind of
    device."""
    longest, tokens = "no row", 0
    for id, unit in rows:
        for row in rows_of(unit):
            limits.check_positions(model, f"row {id}", len(row.loss_weights))
        if length_of(unit) > tokens:
            longest, tokens = f"row {id}", length_of(unit)
    need = limits.training_need(model, base, adapter, lines=shape.rows, length=shape.length)
    change = "shorten it (--max_length, --overflow) or take a smaller base"
    limits.check_memory(model, need, row=longest, tokens=tokens, change=change)
    return f"longest row {tokens:,} tokens, about {(need.total - need.base) / 1e9:.2g} GB beside the base"


def fresh_adapter(model: qwen2.Model, *, seed: int) -> qwen2.Tree:
    """The adapter that a run begins with where none is given: a function of the seed alone."""
    assert model.lora is not None
    key = jax.random.fold_in(jax.random.key(seed, impl=GENERATOR), zlib.crc32(b"adapter"))
    return lora.init_adapter(model.config, model.lora, key)


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


def beforehand(trainer: Trainer, rows: Sequence[tuple[str, Unit]], start: qwen2.Tree | None) -> str:
    """How long the longest row is and about what training will need, before anything is written; `start` is
    None for a fresh adapter. Raises what `check_fit` does."""
    adapter = start if start is not None else jax.eval_shape(lambda: fresh_adapter(trainer.model, seed=0))
    updates = [[unit for _, unit in update] for update in _updates(trainer, rows)]
    shape = shape_for(trainer.model, trainer.base, [unit for _, unit in rows], updates)
    return check_fit(trainer.model, trainer.base, adapter, rows, shape)


def _ordered(trainer: Trainer, directory: Path, rows: Sequence[tuple[str, Unit]]) -> list[list[Unit]]:
    """The units of each update; their order is written beside the checkpoints."""
    order = _updates(trainer, rows)
    names = [[id for id, _ in update] for update in order]
    hosts.once(lambda: write_json(directory / "order.json", names))
    return [[unit for _, unit in update] for update in order]


def _updates(trainer: Trainer, rows: Sequence[tuple[str, Unit]]) -> list[list[tuple[str, Unit]]]:
    """The rows of each update, over all epochs."""
    updates: list[list[tuple[str, Unit]]] = []
    per_epoch = -(-len(rows) // trainer.rows_per_update)
    epochs = (
        trainer.num_train_epochs if trainer.max_steps is None else -(-trainer.max_steps // max(per_epoch, 1))
    )
    for epoch in range(epochs):
        updates += updates_of(rows, seed=trainer.seed, rows_per_update=trainer.rows_per_update, epoch=epoch)
    return updates[: trainer.max_steps]


def training_budget(trainer: Trainer, state: steps.TrainState, units: Iterable[Unit]) -> dict[str, Any]:
    """What the updates spent; rows without targets are rows, but nobody processes them."""
    rows = [row for unit in units for row in rows_of(unit)]
    live = [row for row in rows if row.loss_weights.any()]
    processed = sum(len(row.loss_weights) for row in live)
    supervised = sum(int((row.loss_weights != 0).sum()) for row in live)
    lora = trainer.model.lora
    assert lora is not None
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
        "flop": cost.training_flop(trainer.model.config, lora, tokens=processed, supervised=supervised),
    }


def _by_author(rows: Iterable[Row], chosen: Callable[[Row], np.ndarray]) -> dict[str, int]:
    """Labels of the authors with the number of chosen tokens that each wrote."""
    size = max(Author) + 1
    counts = np.zeros(size, int)
    for row in rows:
        counts += np.bincount(row.encoded.author[chosen(row)], minlength=size)
    return {author.label: int(counts[author]) for author in Author if counts[author]}


def show_example(tokenizer: Tokenizer, name: str, units: Sequence[Unit]) -> None:
    """One masked row, a failed one where there is one, and how much of the data carries loss: seen before
    anything is trained."""
    rows = [row for unit in units for row in rows_of(unit)]
    if not rows:
        print(f"\n{name}: no rows", flush=True)
        return
    live = [row for row in rows if row.loss_weights.any()] or rows
    example = next((row for row in live if (row.encoded.solved == 0).any()), live[0])
    supervised = sum(int((row.loss_weights > 0).sum()) for row in rows)
    total = sum(len(row.loss_weights) for row in rows)
    print(
        f"\n{name}: {len(rows)} rows, {supervised:,} of {total:,} tokens supervised "
        f"({supervised / total:.1%}). One of them:"
    )
    print(boxes.boxes(example.encoded, tokenizer, example.loss_weights), flush=True)
