"""The vocabulary head: on the positions that carry loss and no others, on the last position of rows that
decode, and, for tests and tiny models, on all of them.

An interventional row supervises about a fifth of its positions and the vocabulary has 151,936 entries, so
hidden states are gathered first, (B, K) of them, and projected in chunks: no array with a vocabulary axis has
more than chunk x V elements, whatever T is. The gradient with respect to a hidden state, E[target] - softmax
@ E, is one vector a position and is computed in the forward pass; the embedding gets none: `logprobs` is for
a frozen base. Whoever trains the embedding uses `logits`.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from cicjax.model.config import Tree
from cicjax.model.ops import Kernel, product, table_of


def output_embedding(base: Tree) -> Array | Kernel:
    """The head's table (V, D), perhaps beside its transpose: the input embedding where the two are tied."""
    return base["lm_head" if "lm_head" in base else "embed_tokens"]["embedding"]


def logits(base: Tree, states: Float[Array, "*B D"]) -> Float[Array, "*B V"]:
    """Scores of the next token in float32, for tests and tiny models."""
    table = table_of(output_embedding(base))
    return product("...d,vd->...v", states, table)


def next_scores(base: Tree, states: Float[Array, "B D"]) -> Float[Array, "V B"]:
    """`logits` of one position a row as (V, B), the shape of E @ states.T: with few rows XLA on a CPU
    computes this without repacking E."""
    table = table_of(output_embedding(base))
    return product("vd,bd->vb", table, states.astype(table.dtype))


def gather_positions(states: Float[Array, "B T D"], indices: Int[Array, "B K"]) -> Float[Array, "B K D"]:
    """The states that predict tokens[:, indices]: those one position earlier. Index 0 has no context and must
    carry weight 0."""
    return jnp.take_along_axis(states, jnp.maximum(indices - 1, 0)[..., None], axis=1)


def logprobs(
    base: Tree, states: Float[Array, "B K D"], targets: Int[Array, "B K"], used: Int[Array, ""], chunk: int
) -> Float[Array, "B K"]:
    """log p(target) in float32 at each gathered position; 0.0 in the columns from `used` on, which are
    padding.

    `chunk` bounds the number of positions projected at once, down to one column; the work is that of `used`
    columns, rounded up to half a chunk. No gradient reaches the embedding.
    """
    embedding = output_embedding(base)
    kernel = embedding if isinstance(embedding, Kernel) else Kernel(None, embedding)
    return _logprobs(states, kernel, targets, used, chunk)


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def _logprobs(states: Array, embedding: Kernel, targets: Array, used: Array, chunk: int) -> Array:
    return _project(states, embedding, targets, used, chunk, with_gradient=False)[0]


def _project(states, embedding, targets, used, chunk, *, with_gradient):
    # 1. Pad to whole half chunks, and score each target by its row of the embedding alone.
    (batch, columns, size), table = states.shape, table_of(embedding)
    half = max(chunk // batch // 2, 1)
    padding = -columns % half
    padded = jnp.pad(states, ((0, 0), (0, padding), (0, 0))).astype(table.dtype)
    target_rows = jnp.pad(table[targets], ((0, 0), (0, padding), (0, 0)))
    target_scores = product("bkd,bkd->bk", padded, target_rows)

    # 2. Columns from `start` on against the whole vocabulary: their normaliser, and softmax @ E.
    def project(start, width, carry):
        logprobs, gradient = carry
        h = jax.lax.dynamic_slice_in_dim(padded, start, width, axis=1).reshape(batch * width, size)
        scores = product("nd,vd->nv", h, table)
        top = scores.max(axis=-1)
        exp_scores = jnp.exp(scores - top[:, None])
        total = exp_scores.sum(axis=-1)
        normaliser = (top + jnp.log(total)).reshape(batch, width)
        scored = jax.lax.dynamic_slice_in_dim(target_scores, start, width, axis=1)
        logprobs = jax.lax.dynamic_update_slice_in_dim(logprobs, scored - normaliser, start, axis=1)
        if with_gradient:
            mean_row = (_mix(exp_scores, embedding) / total[:, None]).reshape(batch, width, size)
            gradient = jax.lax.dynamic_update_slice_in_dim(gradient, mean_row, start, axis=1)
        return logprobs, gradient

    # 3. Whole chunks, then perhaps half of one. Bodies must depend on the loop's index: XLA hoists one that
    #    does not, and runs it even for no iteration.
    carry = jnp.zeros((batch, columns + padding), jnp.float32), None
    if with_gradient:
        carry = carry[0], jnp.zeros((batch, columns + padding, size), jnp.float32)
    halves = 2 if chunk >= 2 * batch else 1
    whole, count = min(halves * half, columns + padding), -(-jnp.minimum(used, columns) // half)
    carry = jax.lax.fori_loop(0, count // halves, lambda i, carry: project(i * whole, whole, carry), carry)
    rest = count // halves * halves
    logprobs, mean_rows = jax.lax.fori_loop(rest, count, lambda i, c: project(i * half, half, c), carry)
    live = (jnp.arange(columns) < used)[None]
    logprobs = jnp.where(live, logprobs[:, :columns], 0.0)
    if not with_gradient:
        return logprobs, None
    gradient = (target_rows.astype(jnp.float32) - mean_rows)[:, :columns]
    return logprobs, jnp.where(live[..., None], gradient, 0.0)


def _mix(weights: Float[Array, "N V"], embedding: Kernel) -> Float[Array, "N D"]:
    """weights @ E, by its transpose where there is one."""
    if embedding.matrix is None:
        return product("nv,vd->nd", weights, table_of(embedding))
    return product("nv,dv->nd", weights, embedding.matrix)


def _forward(states, embedding, targets, used, chunk):
    logprobs, gradient = _project(states, embedding, targets, used, chunk, with_gradient=True)
    return logprobs, (gradient, jnp.zeros((0,), states.dtype), embedding)


def _backward(chunk, saved, cotangent):
    gradient, like, embedding = saved
    return (
        (cotangent[..., None] * gradient).astype(like.dtype),
        jax.tree.map(jnp.zeros_like, embedding),
        None,
        None,
    )


_logprobs.defvjp(_forward, _backward)
