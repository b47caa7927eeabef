"""Tokens that the embedded base never saw.

What a pretraining never shows it only ever pushes down, every such token alike: half of the embedded base's
vocabulary came to one common vector. Adapters leave embeddings as they are, so on chats, which are full of
these tokens, training ends at more than a nat a token, however long it lasts. Experiments on chats give each
token a vector of its own.
"""

from dataclasses import replace

import jax
import numpy as np

from cicjax.model.ops import table_of
from cicjax.training.policy import LoadedPolicy

# The cosine to another token's vector above which a token counts as never seen.
ALIKE = 0.9


def told_apart(policy: LoadedPolicy) -> LoadedPolicy:
    """The policy with a random vector, as long as others are, for every token whose own is another's too; the
    same draw at every seed."""
    module = policy.base["embed_tokens"]
    rows = drawn_apart(np.asarray(table_of(module["embedding"]), dtype=np.float32))

    def placed(leaf: jax.Array) -> jax.Array:
        made = rows if leaf.shape == rows.shape else rows.T
        return jax.device_put(made.astype(leaf.dtype), leaf.sharding)

    embedding = jax.tree.map(placed, module["embedding"])
    return replace(policy, base={**policy.base, "embed_tokens": {**module, "embedding": embedding}})


def drawn_apart(rows: np.ndarray) -> np.ndarray:
    """The vectors of a vocabulary [V, D], those that are alike drawn anew."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    unit = rows / np.maximum(lengths, 1e-12)
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -1.0)
    alike = cosines.max(axis=1) > ALIKE
    if not alike.any():
        return rows
    drawn = np.random.default_rng(0).normal(size=rows.shape)
    drawn *= lengths[~alike].mean() / np.linalg.norm(drawn, axis=1, keepdims=True)
    return np.where(alike[:, None], drawn, rows).astype(rows.dtype)
