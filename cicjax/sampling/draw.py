"""From logits to a token: one uniform number a row and step, whatever the batch, turned into a token by an
inverse CDF in two levels."""

import zlib
from collections.abc import Sequence

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


def uniforms(keys: UInt32[Array, "B 2"], step: Int[Array, ""] | Int[Array, "B"]) -> Float[Array, "B"]:
    """The number in [0, 1) of each row at `step`, one for all or each its own."""

    def one(data: UInt32[Array, "2"], step: Int[Array, ""]) -> Float[Array, ""]:
        key: Key[Array, ""] = jax.random.wrap_key_data(data, impl=GENERATOR)
        return jax.random.uniform(jax.random.fold_in(key, step))

    return jax.vmap(one, in_axes=(0, 0 if jnp.ndim(step) else None))(keys, step)


def choose(
    scores: Float[Array, "V B"],
    keys: UInt32[Array, "B 2"],
    step: Int[Array, ""] | Int[Array, "B"],
    temperature: Float[Array, "B"] | float,
    top_p: Float[Array, "B"] | float = 1.0,
) -> tuple[Int[Array, "B"], Float[Array, "B"]]:
    """The next token of each row and its log-probability under the distribution it was drawn from.

    Temperature 0 is greedy (the first of equals), its log-probability that of temperature 1. `top_p` below 1
    draws from the most probable tokens that hold so much of the probability, ties included. `scores` is
    (V, B), as E @ states.T gives it: reductions over V are twice as fast this way on a CPU.
    """
    scores, greedy = drawn_from(scores, temperature, top_p)
    return pick(scores, uniforms(keys, step), greedy)


def drawn_from(
    scores: Float[Array, "V B"], temperature: Float[Array, "B"] | float, top_p: Float[Array, "B"] | float
) -> tuple[Float[Array, "V B"], Bool[Array, "B"]]:
    """The scores of the distribution that each row draws from, and which rows are greedy."""
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
    return jnp.where(scaled >= lowest[None], scaled, -jnp.inf), greedy


def most_probable(scores: Float[Array, "V B"], count: int) -> tuple[Int[Array, "B K"], Float[Array, "B K"]]:
    """The `count` highest scores of each row, best first, and their tokens. They are in the `count` blocks
    with the highest tops: two short sorts in place of one over V."""
    size, batch = scores.shape
    padded = jnp.pad(scores, ((0, -size % BLOCK), (0, 0)), constant_values=-jnp.inf)
    blocks = padded.reshape(-1, BLOCK, batch)
    _, best = jax.lax.top_k(blocks.max(axis=1).T, min(count, blocks.shape[0]))
    inside = best[:, :, None] * BLOCK + jnp.arange(BLOCK)[None, None]
    tokens = inside.reshape(batch, -1)
    entries = jnp.take_along_axis(padded.T, tokens, axis=1)
    highest, places = jax.lax.top_k(entries, count)
    return jnp.take_along_axis(tokens, places, axis=1).astype(jnp.int32), highest


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
    size, batch = scores.shape
    drawn = jnp.full(batch, uniform is not None) if greedy is None else ~greedy
    uniform = jnp.zeros(batch) if uniform is None else uniform

    # 1. Maximum and sum of exp(score - top) of each block of 128 entries. The barrier keeps the total a sum
    # of these sums: XLA would add up all of V once more.
    padded = jnp.pad(scores, ((0, -size % BLOCK), (0, 0)), constant_values=-jnp.inf)
    blocks = padded.reshape(-1, BLOCK, batch)
    block_tops = blocks.max(axis=1)
    top = block_tops.max(axis=0, keepdims=True)
    sums = jax.lax.optimization_barrier(jnp.exp(blocks - top[None]).sum(axis=1))

    # 2. The block of each row: where the running sum of its weights crosses, or the first with the maximum.
    # The threshold is of the last running sum: the total, added in another order, may be larger than all.
    running = jnp.cumsum(sums, axis=0)
    crossing, remainder = _crossing(sums, running, uniform * running[-1])
    block = jnp.where(drawn, crossing, jnp.argmax(block_tops == top, axis=0))

    # 3. The entry inside it, by the same rule.
    inside = (block * BLOCK)[None] + jnp.arange(BLOCK)[:, None], jnp.arange(batch)[None]
    entries = padded.at[inside].get(mode="promise_in_bounds")
    weights = jnp.exp(entries - top)
    crossing, _ = _crossing(weights, jnp.cumsum(weights, axis=0), remainder)
    entry = jnp.where(drawn, crossing, jnp.argmax(entries, axis=0))

    # 4. Its id and its log-probability.
    chosen = jnp.take_along_axis(entries, entry[None], axis=0)[0]
    return (block * BLOCK + entry).astype(jnp.int32), chosen - top[0] - jnp.log(sums.sum(axis=0))


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
