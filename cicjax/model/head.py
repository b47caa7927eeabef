"""The vocabulary head on the positions that carry loss, and on no others.

An interventional row supervises about a fifth of its positions and the vocabulary has 151,936 entries, so
hidden states are gathered first, (B, K) of them, and projected in chunks: no array with a vocabulary axis has
more than chunk x V elements, whatever T is. The gradient with respect to a hidden state, E[target] - softmax
@ E, is one vector a position and is computed in the forward pass; the embedding gets none: this head is for a
frozen base. Whoever trains the embedding uses `qwen2.logits`.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

CHUNK = 128  # chosen on a CPU; an accelerator may want a larger one, for the embedding is read once a chunk


def gather_positions(states: Float[Array, "B T D"], indices: Int[Array, "B K"]) -> Float[Array, "B K D"]:
    """The states that predict tokens[:, indices]: those one position earlier. Index 0 has no context and must
    carry weight 0."""
    return jnp.take_along_axis(states, jnp.maximum(indices - 1, 0)[..., None], axis=1)


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def target_logprobs(
    hidden_states: Float[Array, "B K D"],
    embedding: Float[Array, "V D"],
    targets: Int[Array, "B K"],
    used: Int[Array, ""],
    chunk: int = CHUNK,
    unembedding: Float[Array, "D V"] | None = None,
) -> Float[Array, "B K"]:
    """log p(target) in float32 at each gathered position; 0.0 in the columns from `used` on, which are
    padding.

    `chunk` bounds the number of positions projected at once, down to one column; the work is that of `used`
    columns, rounded up to half a chunk. `unembedding` is the embedding's transpose, which a CPU wants for the
    gradient. No gradient reaches either.
    """
    return _project(hidden_states, embedding, targets, used, chunk, unembedding, with_gradient=False)[0]


def _project(hidden_states, embedding, targets, used, chunk, unembedding, *, with_gradient):
    batch, columns, size = hidden_states.shape
    narrow = max(chunk // batch // 2, 1)
    padding = -columns % narrow
    states = jnp.pad(hidden_states, ((0, 0), (0, padding), (0, 0))).astype(embedding.dtype)
    target_rows = jnp.pad(embedding[targets], ((0, 0), (0, padding), (0, 0)))
    target_scores = jnp.einsum("bkd,bkd->bk", states, target_rows, preferred_element_type=jnp.float32)

    def project(start, width, carry):
        logprobs, gradient = carry
        h = jax.lax.dynamic_slice_in_dim(states, start, width, axis=1).reshape(batch * width, size)
        scores = jnp.einsum("nd,vd->nv", h, embedding, preferred_element_type=jnp.float32)
        top = scores.max(axis=-1)
        odds = jnp.exp(scores - top[:, None])
        total = odds.sum(axis=-1)
        normaliser = top + jnp.log(total)
        own = jax.lax.dynamic_slice_in_dim(target_scores, start, width, axis=1) - normaliser.reshape(
            batch, width
        )
        logprobs = jax.lax.dynamic_update_slice_in_dim(logprobs, own, start, axis=1)
        if with_gradient:
            spec, rows = ("nv,vd->nd", embedding) if unembedding is None else ("nv,dv->nd", unembedding)
            mixed = jnp.einsum(spec, odds.astype(embedding.dtype), rows, preferred_element_type=jnp.float32)
            mean_row = (mixed / total[:, None]).reshape(batch, width, size)
            gradient = jax.lax.dynamic_update_slice_in_dim(gradient, mean_row, start, axis=1)
        return logprobs, gradient

    zeros = jnp.zeros((batch, columns + padding), jnp.float32)
    gradient = jnp.zeros((batch, columns + padding, size), jnp.float32) if with_gradient else None
    # Whole chunks, then perhaps half of one. Each body uses its loop's number: XLA lifts what does not out of
    # the loop and always runs it.
    halves = 2 if chunk >= 2 * batch else 1
    wide, count = min(halves * narrow, columns + padding), -(-jnp.minimum(used, columns) // narrow)
    carry = jax.lax.fori_loop(
        0, count // halves, lambda whole, carry: project(whole * wide, wide, carry), (zeros, gradient)
    )
    logprobs, gradient = jax.lax.fori_loop(
        count // halves * halves, count, lambda half, carry: project(half * narrow, narrow, carry), carry
    )
    live = (jnp.arange(columns) < used)[None]
    logprobs = jnp.where(live, logprobs[:, :columns], 0.0)
    if with_gradient:
        gradient = jnp.where(live[..., None], (target_rows.astype(jnp.float32) - gradient)[:, :columns], 0.0)
    return logprobs, gradient


def _forward(hidden_states, embedding, targets, used, chunk, unembedding):
    logprobs, gradient = _project(
        hidden_states, embedding, targets, used, chunk, unembedding, with_gradient=True
    )
    return logprobs, (gradient, jnp.zeros((0,), hidden_states.dtype), (embedding, unembedding))


def _backward(chunk, saved, cotangent):
    gradient, like, frozen = saved
    of_embedding, of_unembedding = jax.tree.map(jnp.zeros_like, frozen)
    return (cotangent[..., None] * gradient).astype(like.dtype), of_embedding, None, None, of_unembedding


target_logprobs.defvjp(_forward, _backward)
