"""Log-probabilities of given rows in the training graph, forward only."""

from collections.abc import Sequence
from functools import partial

import jax
import numpy as np
from jaxtyping import Array, Float, Float32

from cicjax.model import qwen2
from cicjax.provenance import Author
from cicjax.provenance.encode import Encoded
from cicjax.training import steps
from cicjax.training.batches import Batch, Shape, fit_shape, make_row, pack


@partial(jax.jit, static_argnums=(0,))
def _score(
    model: qwen2.Model, base: qwen2.Tree, adapter: qwen2.Tree | None, batch: Batch
) -> Float[Array, "B K"]:
    return steps.gathered_logprobs(model, base, adapter, batch)


def token_logprobs(
    rows: Sequence[Encoded],
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
    too.
    """
    scores = [np.zeros(len(encoded.tokens), np.float32) for encoded in rows]
    packed = [
        make_row(
            encoded,
            (encoded.is_target if targets_only else np.ones(len(encoded.tokens))).astype(np.float32),
            row=np.full(len(encoded.tokens), number, np.float32),
        )
        for number, encoded in enumerate(rows)
    ]
    for batch in pack(packed, shape):
        logprobs = np.asarray(_score(model, base, adapter, batch))
        for line, column in zip(*np.nonzero(batch.loss_weights), strict=True):
            place = int(
                np.searchsorted(batch.indices[line, : np.count_nonzero(batch.loss_weights[line])], column)
            )
            scores[int(batch.extras["row"][line, column])][batch.positions[line, column]] = logprobs[
                line, place
            ]
    return scores


def nll_by_author(
    rows: Sequence[Encoded], *, model: qwen2.Model, base: qwen2.Tree, adapter: qwen2.Tree | None
) -> dict[str, dict[str, float]]:
    """Mean negative log-likelihood, in nats a token, of what each author wrote, and over how many tokens;
    first tokens are left out."""
    scores = token_logprobs(
        rows,
        model=model,
        base=base,
        adapter=adapter,
        shape=fit_shape((len(each.tokens) for each in rows), rows=1),
    )
    found = {}
    for author in Author:
        parts = [score[1:][each.author[1:] == author] for score, each in zip(scores, rows, strict=True)]
        values = np.concatenate(parts) if parts else np.zeros(0)
        if len(values):
            found[author.label] = {"nll": float(-values.mean(dtype=np.float64)), "tokens": len(values)}
    return found
