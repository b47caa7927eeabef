"""From logits to a token: one uniform number a row and step, whatever the batch, turned into a token by an
inverse CDF in two levels."""

import zlib
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, UInt32

BLOCK = 128


def row_keys(
    seed: int, stage: str, problems: Sequence[int], samples: Sequence[int]
) -> UInt32[np.ndarray, "B 2"]:
    """Key data of each row, folded from (seed, stage, problem, sample): a row draws the same numbers in
    whatever batch it sits."""
    root = jax.random.fold_in(jax.random.key(seed), zlib.crc32(stage.encode()))
    numbers = np.asarray(problems, np.uint32), np.asarray(samples, np.uint32)
    keys = jax.vmap(lambda problem, sample: jax.random.fold_in(jax.random.fold_in(root, problem), sample))(
        *numbers
    )
    return np.asarray(jax.random.key_data(keys))


def uniforms(keys: UInt32[Array, "B 2"], step: Int[Array, ""]) -> Float[Array, "B"]:
    """The number in [0, 1) of each row at `step`."""

    def one(data: UInt32[Array, "2"]) -> Float[Array, ""]:
        key: Key[Array, ""] = jax.random.wrap_key_data(data)
        return jax.random.uniform(jax.random.fold_in(key, step))

    return jax.vmap(one)(keys)


def choose(
    scores: Float[Array, "V B"], keys: UInt32[Array, "B 2"], step: Int[Array, ""], temperature: float
) -> tuple[Int[Array, "B"], Float[Array, "B"]]:
    """The next token of each row and its log-probability under the distribution it was drawn from.

    Temperature 0 is greedy (the first of equals), its log-probability that of temperature 1. `scores` is
    (V, B), as E @ states.T gives it: reductions over V are twice as fast this way on a CPU.
    """
    if temperature == 0:
        return pick(scores, None)
    return pick(scores / temperature, uniforms(keys, step))


def pick(
    scores: Float[Array, "V B"], uniform: Float[Array, "B"] | None
) -> tuple[Int[Array, "B"], Float[Array, "B"]]:
    """The token whose interval of the cumulative softmax holds `uniform`, never one of probability 0; without
    `uniform` the first of the most probable. And its log-probability.

    Two short searches in place of one over V, and no array of all probabilities.
    """
    # 1. Maximum and sum of exp(score - top) of each block of 128 entries.
    size, batch = scores.shape
    padded = jnp.pad(scores, ((0, -size % BLOCK), (0, 0)), constant_values=-jnp.inf)
    blocks = padded.reshape(-1, BLOCK, batch)
    block_tops = blocks.max(axis=1)
    top = block_tops.max(axis=0, keepdims=True)
    sums = jnp.exp(blocks - top[None]).sum(axis=1)
    total = sums.sum(axis=0)

    def entries(block: Int[Array, "B"]) -> Float[Array, "128 B"]:
        return jnp.take_along_axis(blocks, block[None, None], axis=0)[0]

    # 2. The block, then the entry inside it.
    if uniform is None:
        block = jnp.argmax(block_tops == top, axis=0)
        entry = jnp.argmax(entries(block), axis=0)
    else:
        # its last entry, not `total`: added in another order, that may be larger than all of these
        running = jnp.cumsum(sums, axis=0)
        block, remainder = _crossing(sums, running, uniform * running[-1])
        exp_scores = jnp.exp(entries(block) - top)
        entry, _ = _crossing(exp_scores, jnp.cumsum(exp_scores, axis=0), remainder)

    # 3. Its id and its log-probability.
    chosen = jnp.take_along_axis(entries(block), entry[None], axis=0)[0]
    return (block * BLOCK + entry).astype(jnp.int32), chosen - top[0] - jnp.log(total)


def _crossing(
    weights: Float[Array, "N B"], running: Float[Array, "N B"], threshold: Float[Array, "B"]
) -> tuple[Int[Array, "B"], Float[Array, "B"]]:
    """The first index of positive weight whose running sum exceeds the threshold, and what remains of the
    threshold there.

    Rounding may leave the threshold at or above the last sum; then it is the last index of positive weight.
    """
    positive = weights > 0
    last = weights.shape[0] - 1 - jnp.argmax(positive[::-1], axis=0)
    crossed = (running > threshold[None]) & positive
    index = jnp.where(crossed.any(axis=0), jnp.argmax(crossed, axis=0), last)
    before = jnp.take_along_axis(running - weights, index[None], axis=0)[0]
    return index, jnp.maximum(threshold - before, 0.0)
