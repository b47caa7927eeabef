"""Attention by blocks of keys: the softmax over what a query sees, with no array of (T, S).

The forward pass holds of every query the maximum, the sum and the mix of the keys so far; the backward pass
gets the result and the logarithm of the sum, and makes the weights of a block anew (FlashAttention,
arXiv:2205.14135, 2307.08691). Blocks that no query of theirs sees, those of other segments among them, are
left out of the loops.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from cicjax.model.ops import product

NOTHING = -1e30  # a score beside which any other leaves no weight


class Parts(NamedTuple):
    """The operands, padded to whole blocks: `size` queries and `width` keys meet at once."""

    queries: Float[Array, "B K G T H"]
    keys: Float[Array, "B K S H"]
    values: Float[Array, "B K S H"]
    first: Int[Array, "B T"]
    last: Int[Array, "T"]
    size: int
    width: int

    def scores(self, i: Any, j: Any) -> Float[Array, "B K G Q W"]:
        """Query block i by key block j, what is not seen at NOTHING."""
        queries = _at(self.queries, i, self.size, 3)
        found = product("bkth,bksh->bkts", _flat(queries), _at(self.keys, j, self.width, 2))
        slots = j * self.width + jnp.arange(self.width)
        first, last = _at(self.first, i, self.size, 1), _at(self.last, i, self.size, 0)
        seen = (slots[None, None] >= first[:, :, None]) & (slots[None] <= last[:, None])[None]
        return jnp.where(seen[:, None, None], found.reshape(*queries.shape[:4], -1), NOTHING)

    def key_range(self) -> tuple[Int[Array, "I"], Int[Array, "I"]]:
        """Query block i meets key blocks low[i] ... high[i] - 1; both ascend, as first and last slots do."""
        low = self.first.reshape(self.first.shape[0], -1, self.size).min(axis=(0, 2)) // self.width
        return low, self.last.reshape(-1, self.size).max(axis=1) // self.width + 1

    def query_range(self) -> tuple[Int[Array, "J"], Int[Array, "J"]]:
        """Key block j meets query blocks low[j] ... high[j] - 1."""
        low, high = self.key_range()
        blocks = jnp.arange(self.keys.shape[2] // self.width)[:, None]
        return (high[None] <= blocks).sum(axis=1), (low[None] <= blocks).sum(axis=1)


@partial(jax.custom_vjp, nondiff_argnums=(5,))
def attention_by_blocks(
    queries: Float[Array, "B K G T H"],
    keys: Float[Array, "B K S H"],
    values: Float[Array, "B K S H"],
    first: Int[Array, "B T"],
    last: Int[Array, "T"],
    block: int,
) -> Float[Array, "B K G T H"]:
    """Softmax attention of scaled queries, in groups that share a key-value head, over the slots `first` ...
    `last` of each, both ascending in T; every query sees one at least. Products in the dtype of the keys,
    sums in float32, blocks of at most `block` tokens."""
    return _forward(queries, keys, values, first, last, block)[0]


def _forward(queries, keys, values, first, last, block) -> Any:
    parts = _parts(queries, keys, values, first, last, block)
    shape = parts.queries.shape
    low, high = parts.key_range()

    def row(i: Any, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        def meet(j: Any, running: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            top, total, mixed = running
            scores = parts.scores(i, j)
            higher = jnp.maximum(top, scores.max(axis=-1))
            weights, shrink = jnp.exp(scores - higher[..., None]), jnp.exp(top - higher)
            new = product("bkts,bksh->bkth", _flat(weights), _at(parts.values, j, parts.width, 2))
            mixed = mixed * shrink[..., None] + new.reshape(mixed.shape)
            return higher, total * shrink + weights.sum(axis=-1), mixed

        zeros = jnp.zeros((*shape[:3], parts.size, shape[4]), jnp.float32)
        empty = zeros[..., 0] + NOTHING, zeros[..., 0], zeros
        top, total, mixed = _loop(low[i], high[i], meet, empty, blocks=parts.keys.shape[2] // parts.width)
        return (
            _put(carry[0], mixed / total[..., None], i, parts.size, 3),
            _put(carry[1], top + jnp.log(total), i, parts.size, 3),
        )

    zeros = jnp.zeros(shape, jnp.float32)
    count = shape[3] // parts.size
    mixed, logs = _loop(0, count, row, (zeros, zeros[..., 0]), blocks=count)
    like = jnp.zeros((keys.shape[2], 0), queries.dtype)  # a shape and a dtype, and no bytes
    return mixed[:, :, :, : queries.shape[3]], (parts[:5], mixed.astype(keys.dtype), logs, like)


def _backward(block, saved, cotangent) -> Any:
    (queries, keys, values, first, last), mixed, logs, like = saved
    time, slots = cotangent.shape[3], like.shape[0]
    size, width = block_size(time, block), block_size(slots, block)
    parts = Parts(queries, keys, values, first, last, size, width)
    dtype, shape = parts.keys.dtype, parts.queries.shape
    pull = jnp.pad(cotangent, ((0, 0),) * 3 + ((0, shape[3] - time), (0, 0)))
    delta = (pull * mixed.astype(jnp.float32)).sum(axis=-1)
    pull = pull.astype(dtype)
    low, high = parts.query_range()
    rows, columns = shape[3] // parts.size, parts.keys.shape[2] // parts.width

    def column(j: Any, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        keys, values = (_at(part, j, parts.width, 2) for part in (parts.keys, parts.values))

        def meet(i: Any, sums: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            dq, dk, dv = sums
            queries, here = (_at(part, i, parts.size, 3) for part in (parts.queries, pull))
            weights = jnp.exp(parts.scores(i, j) - _at(logs, i, parts.size, 3)[..., None])
            dw = product("bkth,bksh->bkts", _flat(here), values).reshape(weights.shape)
            ds = _flat((weights * (dw - _at(delta, i, parts.size, 3)[..., None])).astype(dtype))
            dv = dv + product("bkts,bkth->bksh", _flat(weights.astype(dtype)), _flat(here))
            dk = dk + product("bkts,bkth->bksh", ds, _flat(queries))
            new = product("bkts,bksh->bkth", ds, keys).reshape(queries.shape)
            return _put(dq, _at(dq, i, parts.size, 3) + new, i, parts.size, 3), dk, dv

        zeros = jnp.zeros(keys.shape, jnp.float32)
        dq, dk, dv = _loop(low[j], high[j], meet, (carry[0], zeros, zeros), blocks=rows)
        return dq, _put(carry[1], dk, j, parts.width, 2), _put(carry[2], dv, j, parts.width, 2)

    zeros = tuple(jnp.zeros(part.shape, jnp.float32) for part in parts[:3])
    dq, dk, dv = _loop(0, columns, column, zeros, blocks=columns)
    return (
        dq[:, :, :, :time].astype(like.dtype),
        dk[:, :, :slots].astype(dtype),
        dv[:, :, :slots].astype(dtype),
        None,
        None,
    )


attention_by_blocks.defvjp(_forward, _backward)


def block_size(length: int, block: int) -> int:
    """The size of the blocks of at most `block` that `length` is cut into: all of it, or the largest multiple
    of 64 that divides it, or else one that leaves little padding."""
    if length <= block:
        return length
    whole = [size for size in range(block // 64 * 64, 0, -64) if length % size == 0]
    return whole[0] if whole else -(-length // -(-length // block) // 64) * 64


def _parts(queries, keys, values, first, last, block) -> Parts:
    """Whole blocks. Keys that fill one are seen by nobody, queries that do see what the last one sees."""
    size, width = block_size(queries.shape[3], block), block_size(keys.shape[2], block)
    time, slots = -queries.shape[3] % size, -keys.shape[2] % width
    keys, values = (jnp.pad(part, ((0, 0), (0, 0), (0, slots), (0, 0))) for part in (keys, values))
    queries = jnp.pad(queries.astype(keys.dtype), ((0, 0),) * 3 + ((0, time), (0, 0)))
    first = jnp.pad(first, ((0, 0), (0, time)), mode="edge")
    return Parts(queries, keys, values, first, jnp.pad(last, (0, time), mode="edge"), size, width)


def _loop(first: Any, last: Any, body: Callable[[Any, Any], Any], carry: Any, *, blocks: int) -> Any:
    """`body` over first ... last - 1, of `blocks` in all: no loop where there is but one."""
    return body(0, carry) if blocks == 1 else jax.lax.fori_loop(first, last, body, carry)


def _at(array: Array, number: Any, size: int, axis: int) -> Array:
    return jax.lax.dynamic_slice_in_dim(array, number * size, size, axis)


def _put(array: Array, block: Array, number: Any, size: int, axis: int) -> Array:
    return jax.lax.dynamic_update_slice_in_dim(array, block, number * size, axis)


def _flat(block: Float[Array, "B K G Q X"]) -> Float[Array, "B K G*Q X"]:
    """The queries of a group behind each other, so that each key-value head is one product."""
    return block.reshape(*block.shape[:2], -1, block.shape[4])
