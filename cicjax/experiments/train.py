"""The training stage: one epoch over a transcript file under one weighting, resumable, with its budget."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from cicjax.experiments.run import Run
from cicjax.methods.rows import updates_of
from cicjax.model import cost, qwen2
from cicjax.provenance import Encoded, encode, render, viewer
from cicjax.provenance.formats import Episode, read_native
from cicjax.runs.files import read_json, write_json
from cicjax.runs.metrics import MetricsLog, bar
from cicjax.training import checkpoints, steps
from cicjax.training.batches import Row, fit_shape, make_row
from cicjax.training.loop import Progress, train

Weighting = Callable[[Encoded], Float[np.ndarray, "T"]]


def training_stage(run: Run, name: str, transcripts: Path, weighting: Weighting, *, start: qwen2.Tree) -> qwen2.Tree:
    """Train `start` on a transcript file; go on from its last checkpoint if there is one. Gives the trained adapter."""
    directory, record = run.folder / name, run.folder / name / "budget.json"
    if record.exists() and checkpoints.latest(directory) == read_json(record)["updates"]:
        return checkpoints.load_adapter(directory)[0]
    # Where nothing failed there are no corrections: an empty file, no updates, and SFT-1 as it was.
    episodes = read_native(transcripts) if transcripts.stat().st_size else []
    encoded, updates = _updates(run, directory, episodes, weighting)
    shape = fit_shape((len(each.tokens) for each in encoded), rows=run.settings.lines_per_batch)
    state, done = resume_or_start(directory, steps.start_state(start, run.settings.optimization))
    if done is None:
        show_example(run, name, encoded, weighting)
    log = MetricsLog(run.folder / "metrics.jsonl", stage=name, resume_after=done)
    with run.timed(f"train {name}"), log, bar(f"train {name}") as report:
        report(int(state.step), len(updates))
        for state, progress in train(
            state, updates, model=run.model, base=run.base, shape=shape, optimization=run.settings.optimization
        ):
            log.write(progress.update, metrics_of(progress))
            report(progress.update, progress.total, f"loss {progress.loss:.3f}")
            if progress.update % run.save_steps == 0 or progress.update == progress.total:
                save(run, directory, state, name=name, total=progress.total)
    if not updates:
        save(run, directory, state, name=name, total=0)
    write_json(record, training_budget(run, state, [row for rows in updates for row in rows]))
    return state.adapter


def _updates(run: Run, directory: Path, episodes: list[Episode], weighting: Weighting) -> tuple[list[Encoded], list[list[Row]]]:
    """Every transcript encoded, and the rows of each update; their order is written beside the checkpoints."""
    encoded = [encode(render.plain(episode.messages, id=episode.id), run.tokenizer) for episode in episodes]
    rows = [(episode.id, make_row(each, weighting(each))) for episode, each in zip(episodes, encoded, strict=True)]
    updates = updates_of(rows, seed=run.settings.seed, rows_per_update=run.settings.rows_per_update)
    write_json(directory / "order.json", [[id for id, _ in update] for update in updates])
    return encoded, [[row for _, row in update] for update in updates]


def resume_or_start(directory: Path, start: steps.TrainState) -> tuple[steps.TrainState, int | None]:
    """The newest saved state and its step, or `start` and None. A damaged newest step is set aside, with a line that says so."""
    if checkpoints.latest(directory) is None:
        return start, None
    state = steps.TrainState(**checkpoints.load(directory, start._asdict(), fall_back=True)[0])
    return state, int(state.step)


def save(run: Run, directory: Path, state: steps.TrainState, *, name: str, total: int) -> None:
    """One atomic checkpoint: adapter, optimizer and counters, and what they belong to."""
    metadata = {
        "method": name,
        "total_updates": total,
        "base_fingerprint": run.base_fingerprint,
        "lora": asdict(run.settings.lora) | {"target_modules": list(run.settings.lora.target_modules)},
    }
    checkpoints.save(directory, int(state.step), tree=state._asdict(), metadata=metadata, final=int(state.step) == total)


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


def training_budget(run: Run, state: steps.TrainState, rows: Sequence[Row]) -> dict[str, Any]:
    """What the updates spent; rows without targets are rows, but nobody processes them."""
    live = [row for row in rows if row.loss_weights.any()]
    processed = sum(len(row.loss_weights) for row in live)
    supervised = sum(int((row.loss_weights != 0).sum()) for row in live)
    return {
        "updates": int(state.step),
        "empty_updates": int(state.empty_updates),
        "nonfinite_updates": int(state.nonfinite_updates),
        "rows": len(rows),
        "supervised_tokens": supervised,
        "processed_tokens": processed,
        "learning_rate": run.settings.optimization.learning_rate,
        "flop": cost.training_flop(run.model.config, run.settings.lora, tokens=processed, supervised=supervised),
    }


def show_example(run: Run, name: str, encoded: Sequence[Encoded], weighting: Weighting) -> None:
    """One masked row, a failed one where there is one, and how much of the data carries loss: seen before anything is trained."""
    if not encoded:
        print(f"\n{name}: no rows", flush=True)
        return
    example = next((each for each in encoded if (each.solved == 0).any()), encoded[0])
    supervised = sum(int((weighting(each) > 0).sum()) for each in encoded)
    total = sum(len(each.tokens) for each in encoded)
    print(f"\n{name}: {len(encoded)} rows, {supervised:,} of {total:,} tokens supervised ({supervised / total:.1%}). One of them:")
    print(viewer.boxes(example, run.tokenizer, weighting(example)), flush=True)
