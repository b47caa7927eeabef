"""Log-probabilities of given rows in the training graph, forward only."""

from collections.abc import Sequence
from functools import partial

import jax
import numpy as np
from jaxtyping import Array, Float, Float32

from cicjax.model import qwen2
from cicjax.provenance.encode import Encoded
from cicjax.training import steps
from cicjax.training.batches import Batch, Shape, make_row, pack


@partial(jax.jit, static_argnums=(0,))
def _score(model: qwen2.Model, base: qwen2.Tree, adapter: qwen2.Tree | None, batch: Batch) -> Float[Array, "B K"]:
    return steps.gathered_logprobs(model, base, adapter, batch)


def token_logprobs(
    rows: Sequence[Encoded], *, model: qwen2.Model, base: qwen2.Tree, adapter: qwen2.Tree | None, shape: Shape
) -> list[Float32[np.ndarray, "T"]]:
    """log p(tokens[t] | tokens[:t]) in nats for every position of every row; 0.0 for the first, which has no context."""
    scores = []
    for encoded in rows:
        (batch,) = pack([make_row(encoded, np.ones(len(encoded.tokens), np.float32))], shape)
        logprobs = np.asarray(_score(model, base, adapter, batch))[0, : len(encoded.tokens) - 1]
        scores.append(np.concatenate([np.zeros(1, np.float32), logprobs]))
    return scores
