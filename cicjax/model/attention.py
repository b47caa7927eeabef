"""Softmax attention over keys and values in slots, grouped queries, and which slots a query sees.

What a query sees is an interval of slots, two vectors and no mask of (T, S). Which implementation runs is the
kind of device's choice by shape; all mean the same.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from cicjax.devices.kind import ANY, Kind
from cicjax.model.blocks import attention_by_blocks
from cicjax.model.ops import product


class Span(NamedTuple):
    """The slots that a query sees: first <= slot <= last. `last` is the query's own slot, the same in every
    row, or where each decodes at its own pace a row's own; `first` is None where all rows begin in slot 0 and
    nothing is packed beside them."""

    first: Int[Array, "B T"] | None
    last: Int[Array, "T"] | Int[Array, "B T"]


def packed(segments: Int[Array, "B T"]) -> Span:
    """Rows packed side by side: a token sees its own segment, up to itself. Equal numbers next to each other
    are one segment."""
    slots = jnp.arange(segments.shape[1])
    begins = jnp.pad(segments[:, 1:] != segments[:, :-1], ((0, 0), (1, 0)))
    return Span(jax.lax.cummax(jnp.where(begins, slots[None], 0), axis=1), slots)


def alone(time: int) -> Span:
    """Lines of one row each: a token sees all before it."""
    return Span(None, jnp.arange(time))


def left_padded(start: Int[Array, "B"], slots: Int[Array, "T"]) -> Span:
    """Rows that end together: the queries at `slots` see what is there from their row's `start` on."""
    return Span(jnp.broadcast_to(start[:, None], (start.shape[0], slots.shape[0])), slots)


def own_pace(slot: Int[Array, "B"]) -> Span:
    """Rows that begin in slot 0 and stand in slots of their own, one query each."""
    return Span(None, slot[:, None])


def attention(
    queries: Float[Array, "B T N H"],
    keys: Float[Array, "B K S H"],
    values: Float[Array, "B K S H"],
    span: Span,
    kind: Kind = ANY,
) -> Float[Array, "B T N H"]:
    """Softmax attention in float32, products in the dtype of the keys; N / K query heads share one key-value
    head. A query at least sees itself, or its own slot where that is padding."""
    batch, time, n, size = queries.shape
    heads, slots = keys.shape[1:3]
    whole = span.first is None and time == slots > kind.dense_keys
    if whole and kind.causal_kernel is not None and keys.dtype == jnp.bfloat16:
        return _causal_kernel(queries, keys, values, kind.causal_kernel)
    first = jnp.zeros((batch, time), jnp.int32) if span.first is None else span.first
    grouped = (queries * size**-0.5).reshape(batch, time, heads, n // heads, size).transpose(0, 2, 3, 1, 4)
    if time == 1 or slots <= kind.dense_keys:
        mixed = _dense(grouped, keys, values, first, span.last)
    else:
        # A query before the first slot of its row is padding; it may see itself.
        first = jnp.minimum(first, span.last[None])
        mixed: Array = attention_by_blocks(grouped, keys, values, first, span.last, kind.block)
    return mixed.transpose(0, 3, 1, 2, 4).reshape(batch, time, n, size)


def _dense(
    grouped: Float[Array, "B K G T H"],
    keys: Float[Array, "B K S H"],
    values: Float[Array, "B K S H"],
    first: Int[Array, "B T"],
    last: Int[Array, "T"] | Int[Array, "B T"],
) -> Float[Array, "B K G T H"]:
    """By the definition. The queries of a group lie behind each other, so that each key-value head is one
    product, and the sum of the softmax divides the mixed values instead of the weights: a third of the passes
    over arrays of (T, S)."""
    batch, heads, groups, time, size = grouped.shape
    scores = product("bkth,bksh->bkts", grouped.reshape(batch, heads, -1, size), keys)
    scores = scores.reshape(batch, heads, groups, time, -1)
    attention_mask = _seen(first, last, keys.shape[2])
    scores = jnp.where(attention_mask[:, None, None], scores, jnp.finfo(jnp.float32).min)
    weights = jnp.exp(scores - jax.lax.stop_gradient(scores.max(axis=-1, keepdims=True)))
    mixed = product("bkts,bksh->bkth", weights.reshape(batch, heads, groups * time, -1), values)
    return mixed.reshape(grouped.shape) / weights.sum(axis=-1, keepdims=True)


def _seen(first: Int[Array, "B T"], last: Int[Array, "*B T"], size: int) -> Bool[Array, "B T S"]:
    slots, last = jnp.arange(size)[None, None], last if last.ndim == 2 else last[None]
    return (slots >= first[:, :, None]) & (slots <= last[:, :, None])


def _causal_kernel(
    queries: Float[Array, "B T N H"],
    keys: Float[Array, "B K T H"],
    values: Float[Array, "B K T H"],
    name: Literal["cudnn"],
) -> Float[Array, "B T N H"]:
    """One fused kernel of a library. It takes bf16 alone, and wants its device when it is traced."""
    keys, values = keys.swapaxes(1, 2), values.swapaxes(1, 2)
    mixed = jax.nn.dot_product_attention(
        queries.astype(jnp.bfloat16), keys, values, is_causal=True, implementation=name
    )
    return mixed.astype(jnp.float32)
