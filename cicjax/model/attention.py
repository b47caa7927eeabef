"""Softmax attention over keys and values in slots, grouped queries, and which slots a query sees.

What a query sees is an interval of slots, two vectors. The dense (T, S) mask is made inside `attention`, so
that an implementation by blocks can take its place without one.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


class Span(NamedTuple):
    """The slots that a query sees: first <= slot <= last. `last` is the query's own slot, the same in every
    row."""

    first: Int[Array, "B T"]
    last: Int[Array, "T"]


def packed(segments: Int[Array, "B T"]) -> Span:
    """Rows packed side by side: a token sees its own segment, up to itself. Equal numbers next to each other
    are one segment."""
    slots = jnp.arange(segments.shape[1])
    begins = jnp.pad(segments[:, 1:] != segments[:, :-1], ((0, 0), (1, 0)))
    return Span(jax.lax.cummax(jnp.where(begins, slots[None], 0), axis=1), slots)


def left_padded(start: Int[Array, "B"], slots: Int[Array, "T"]) -> Span:
    """Rows that end together: the queries at `slots` see what is there from their row's `start` on."""
    return Span(jnp.broadcast_to(start[:, None], (start.shape[0], slots.shape[0])), slots)


def attention(
    queries: Float[Array, "B T N H"],
    keys: Float[Array, "B K S H"],
    values: Float[Array, "B K S H"],
    span: Span,
) -> Float[Array, "B T N H"]:
    """Softmax attention in float32, products in the dtype of the keys; N / K query heads share one key-value
    head.

    The queries of a group lie behind each other, so that each key-value head is one product, and the sum of
    the softmax divides the mixed values instead of the weights: a third of the passes over arrays of (T, S).
    """
    batch, time, n, size = queries.shape
    heads = keys.shape[1]
    grouped = (queries * size**-0.5).reshape(batch, time, heads, n // heads, size).transpose(0, 2, 3, 1, 4)
    scores = _product("bkth,bksh->bkts", grouped.reshape(batch, heads, -1, size), keys)
    scores = scores.reshape(batch, heads, n // heads, time, -1)
    attention_mask = _dense(span, keys.shape[2])
    scores = jnp.where(attention_mask[:, None, None], scores, jnp.finfo(jnp.float32).min)
    weights = jnp.exp(scores - jax.lax.stop_gradient(scores.max(axis=-1, keepdims=True)))
    mixed = _product("bkts,bksh->bkth", weights.reshape(batch, heads, n // heads * time, -1), values)
    mixed = mixed.reshape(grouped.shape) / weights.sum(axis=-1, keepdims=True)
    return mixed.transpose(0, 3, 1, 2, 4).reshape(batch, time, n, size)


def _dense(span: Span, size: int) -> Bool[Array, "B T S"]:
    slots = jnp.arange(size)
    return (slots[None, None] >= span.first[:, :, None]) & (slots[None] <= span.last[:, None])[None]


def _product(spec: str, x: Array, y: Array) -> Array:
    return jnp.einsum(spec, x.astype(y.dtype), y, preferred_element_type=jnp.float32)
