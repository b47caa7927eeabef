"""From logits to a token: one uniform number a row and step, whatever the batch, turned into a token by an
inverse CDF in two levels."""

import zlib
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, UInt32

from cicjax.devices.process import GENERATOR

BLOCK = 128


def row_keys(
    seed: int, stage: str, problems: Sequence[int], samples: Sequence[int]
) -> UInt32[np.ndarray, "B 2"]:
    """Key data of each row, folded from (seed, stage, problem, sample): a row draws the same numbers in
    whatever batch it sits."""
    root = jax.random.fold_in(jax.random.key(seed, impl=GENERATOR), zlib.crc32(stage.encode()))
    numbers = np.asarray(problems, np.uint32), np.asarray(samples, np.uint32)
    keys = jax.vmap(lambda problem, sample: jax.random.fold_in(jax.random.fold_in(root, problem), sample))(
        *numbers
    )
    return np.asarray(jax.random.key_data(keys))


def uniforms(keys: UInt32[Array, "B 2"], step: Int[Array, ""]) -> Float[Array, "B"]:
    """The number in [0, 1) of each row at `step`."""

    def one(data: UInt32[Array, "2"]) -> Float[Array, ""]:
        key: Key[Array, ""] = jax.random.wrap_key_data(data, impl=GENERATOR)
        return jax.random.uniform(jax.random.fold_in(key, step))

    return jax.vmap(one)(keys)


def choose(
    scores: Float[Array, "V B"],
    keys: UInt32[Array, "B 2"],
    step: Int[Array, ""],
    temperature: Float[Array, "B"] | float,
    top_p: Float[Array, "B"] | float = 1.0,
) -> tuple[Int[Array, "B"], Float[Array, "B"]]:
    """The next token of each row and its log-probability under the distribution it was drawn from.

    Temperature 0 is greedy (the first of equals), its log-probability that of temperature 1. `top_p` below 1
    draws from the most probable tokens that hold so much of the probability, ties included. `scores` is
    (V, B), as E @ states.T gives it: reductions over V are twice as fast this way on a CPU.
    """
    temperature, top_p = (
        jnp.broadcast_to(jnp.asarray(each, jnp.float32), scores.shape[1:]) for each in (temperature, top_p)
    )
    greedy = temperature == 0
    scaled = scores / jnp.where(greedy, 1.0, temperature)[None]
    narrow = (top_p < 1) & ~greedy
    # One number a row leaves the branch, and no array of (V, B) is copied.
    lowest = jax.lax.cond(
        narrow.any(),
        lambda: jnp.where(narrow, lowest_of_nucleus(scaled, top_p), -jnp.inf),
        lambda: jnp.full(narrow.shape, -jnp.inf),
    )
    return pick(jnp.where(scaled >= lowest[None], scaled, -jnp.inf), uniforms(keys, step), greedy)


def lowest_of_nucleus(scores: Float[Array, "V B"], top_p: Float[Array, "B"]) -> Float[Array, "B"]:
    """The highest score such that the tokens from it on hold `top_p` of the probability.

    Found bit by bit among the weights, in the order of floats as integers: no sort of the vocabulary.
    """
    weights = jnp.exp(scores - scores.max(axis=0, keepdims=True))
    wanted = top_p * weights.sum(axis=0)
    bits = jax.lax.bitcast_convert_type(weights, jnp.uint32)  # of floats from 0 on, in their order

    def narrow(n: Int[Array, ""], threshold: UInt32[Array, "B"]) -> UInt32[Array, "B"]:
        higher = threshold | (jnp.uint32(1) << (30 - n).astype(jnp.uint32))
        mass = jnp.where(bits >= higher[None], weights, 0).sum(axis=0)
        return jnp.where(mass >= wanted, higher, threshold)

    threshold = jax.lax.fori_loop(0, 31, narrow, jnp.zeros(scores.shape[1:], jnp.uint32))
    return jnp.where(bits >= threshold[None], scores, jnp.inf).min(axis=0)


def pick(
    scores: Float[Array, "V B"], uniform: Float[Array, "B"] | None, greedy: Bool[Array, "B"] | None = None
) -> tuple[Int[Array, "B"], Float[Array, "B"]]:
    """The token whose interval of the cumulative softmax holds `uniform`, never one of probability 0; without
    `uniform`, and in rows that are `greedy`, the first of the most probable. And its log-probability.

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
    block = jnp.argmax(block_tops == top, axis=0)
    entry = jnp.argmax(entries(block), axis=0)
    if uniform is not None:
        drawn = _drawn(sums, entries, top, uniform)
        kept = jnp.zeros(batch, bool) if greedy is None else greedy
        block, entry = (jnp.where(kept, *both) for both in zip((block, entry), drawn, strict=True))

    # 3. Its id and its log-probability.
    chosen = jnp.take_along_axis(entries(block), entry[None], axis=0)[0]
    return (block * BLOCK + entry).astype(jnp.int32), chosen - top[0] - jnp.log(total)


def _drawn(
    sums: Float[Array, "N B"],
    entries: Callable[[Int[Array, "B"]], Float[Array, "128 B"]],
    top: Float[Array, "1 B"],
    uniform: Float[Array, "B"],
) -> tuple[Int[Array, "B"], Int[Array, "B"]]:
    """(block, entry inside it) where the running sum of the weights crosses."""
    # its last entry, not the total: added in another order, that may be larger than all of these
    running = jnp.cumsum(sums, axis=0)
    block, remainder = _crossing(sums, running, uniform * running[-1])
    exp_scores = jnp.exp(entries(block) - top)
    return block, _crossing(exp_scores, jnp.cumsum(exp_scores, axis=0), remainder)[0]


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
