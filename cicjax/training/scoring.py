"""Log-probabilities of given rows in the training graph, forward only."""

from collections.abc import Sequence
from functools import partial

import jax
import numpy as np
from jaxtyping import Array, Float, Float32

from cicjax.devices import mesh
from cicjax.errors import Corrupted
from cicjax.model import limits, qwen2
from cicjax.provenance import Author, weights
from cicjax.provenance.encode import Encoded
from cicjax.provenance.protocol import Weighting
from cicjax.training import steps
from cicjax.training.batches import Batch, Row, Shape, line_length, make_row, pack_and_place, shape_for

EVERYTHING = Weighting(weights.OBSERVATIONAL, keep_echoes=True)


@partial(jax.jit, static_argnums=(0,))
def _score(
    model: qwen2.Model, base: qwen2.Tree, adapter: qwen2.Tree | None, batch: Batch
) -> Float[Array, "B K"]:
    return steps.gathered_logprobs(model, base, adapter, batch)


def token_logprobs(
    encoded: Sequence[Encoded],
    *,
    model: qwen2.Model,
    base: qwen2.Tree,
    adapter: qwen2.Tree | None,
    shape: Shape,
    targets_only: bool = False,
) -> list[Float32[np.ndarray, "T"]]:
    """log p(tokens[t] | tokens[:t]) in nats for every position of every row; 0.0 for the first, which has no
    context.

    With `targets_only` positions that are no targets are left out of the head's work and come back as 0.0
    too. Raises BadInput for a row that passes the model's last position, OutOfResources where a micro-batch
    cannot fit the kind of device, Corrupted for values that are not finite.
    """
    check_fit(encoded, model=model, base=base, shape=shape)
    rows = [_to_be_scored(each, targets_only=targets_only) for each in encoded]
    scores = [np.zeros(len(row.loss_weights), np.float32) for row in rows]
    devices = mesh.own(base)
    batches, places = pack_and_place(rows, shape.over(devices.count))
    static = {"model": model if adapter is not None else model._replace(lora=None)}
    whole = devices.whole({"base": base, "adapter": adapter})
    logprobs = [
        np.asarray(
            devices.each(_score, static=static, whole=whole, rows={"batch": devices.rows(batch)}).run()
        )
        for batch in batches
    ]
    for row, score, place in zip(rows, scores, places, strict=True):
        if place is not None:
            (positions,) = np.nonzero(row.loss_weights)
            columns = np.s_[place.column : place.column + len(positions)]
            score[positions] = logprobs[place.batch][place.line, columns]
    if not all(np.isfinite(score).all() for score in scores):
        raise Corrupted(
            "log-probabilities are not finite: the weights or the adapter are damaged, or too large for this "
            "precision (--dtype float32)"
        )
    return scores


def check_fit(
    encoded: Sequence[Encoded],
    *,
    model: qwen2.Model,
    base: qwen2.Tree,
    shape: Shape,
    names: Sequence[str] | None = None,
) -> None:
    """Raise BadInput for a row that passes the model's last position, OutOfResources where a micro-batch
    cannot fit the kind of device; `names` are those of the rows."""
    lengths = [len(each.tokens) for each in encoded]
    names = [f"row {number}" for number in range(1, len(lengths) + 1)] if names is None else names
    for name, length in zip(names, lengths, strict=True):
        limits.check_positions(model, name, length)
    if lengths:
        longest = int(np.argmax(lengths))
        length = shape.length if shape.fixed else min(shape.length, line_length(lengths[longest]))
        limits.check_memory(
            model,
            limits.scoring_need(model, base, lines=shape.rows, length=length),
            row=names[longest],
            tokens=lengths[longest],
            change="score shorter rows or take a smaller base",
        )


def _to_be_scored(encoded: Encoded, *, targets_only: bool) -> Row:
    targets = encoded.is_target if targets_only else np.ones(len(encoded.tokens), np.bool_)
    return make_row(encoded._replace(is_target=targets), EVERYTHING)


def nll_by_author(
    rows: Sequence[Encoded], *, model: qwen2.Model, base: qwen2.Tree, adapter: qwen2.Tree | None
) -> dict[str, dict[str, float]]:
    """Mean negative log-likelihood, in nats a token, of what each author wrote, and over how many tokens;
    first tokens are left out."""
    shape = shape_for(model.kind, [_to_be_scored(each, targets_only=False) for each in rows])
    scores = token_logprobs(rows, model=model, base=base, adapter=adapter, shape=shape)
    found = {}
    for author in Author:
        parts = [score[1:][each.author[1:] == author] for score, each in zip(scores, rows, strict=True)]
        values = np.concatenate(parts) if parts else np.zeros(0)
        if len(values):
            found[author.label] = {"nll": float(-values.mean(dtype=np.float64)), "tokens": len(values)}
    return found
