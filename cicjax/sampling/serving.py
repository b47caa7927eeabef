"""The compiled programs of the engine, one a purpose whatever is asked: a chunk of one row's prompt, one
token of every row, a row copied. `model.bank` has the fourth, a slot of the bank written.

Rows begin in slot 0 and each stands in a slot of its own; the caches of all of them are one array a layer.
Everything else about a row is an argument, a vector with an entry a row. A row that has nothing to say runs
along and is not read: what it writes lies in a slot that its next token overwrites.
"""

from collections import Counter
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt32

from cicjax.model import bank as banks
from cicjax.model import head, ops, qwen2
from cicjax.model.attention import alone, own_pace
from cicjax.model.config import Tree
from cicjax.sampling.decode import through
from cicjax.sampling.draw import drawn_from, most_probable, pick, uniforms

CHUNK = 64  # tokens of a prompt that go in at once
MOST_TOP = 20  # of the most probable tokens, with their log-probabilities

# How often each program was traced in this process: what a promise of no compilation is checked by.
traces: Counter[str] = Counter()

Caches = tuple[qwen2.Cache, ...]


class Inputs(NamedTuple):
    """What each row reads: its last token, the slot of its cache where that goes, its slot of the bank (-1:
    the bare base), its key, the number of the token to draw, and how it draws. With `with_top` somebody
    wants the most probable tokens too."""

    token: Int[Any, "R"]
    position: Int[Any, "R"]
    slot: Int[Any, "R"]
    keys: UInt32[Any, "R 2"]
    step: Int[Any, "R"]
    temperature: Float[Any, "R"]
    top_p: Float[Any, "R"]
    with_top: Any


class Drawn(NamedTuple):
    """A token of each row and its log-probability under the distribution it was drawn from; and the most
    probable tokens of that distribution, best first, -inf beyond its nucleus; zeros where nobody asked."""

    token: Int[Array, "R"]
    logprob: Float[Array, "R"]
    top: Int[Array, "R K"]
    top_logprobs: Float[Array, "R K"]


def no_inputs(rows: int) -> Inputs:
    """Rows that have nothing to say."""
    zeros = np.zeros(rows, np.int32)
    return Inputs(
        token=zeros,
        position=zeros.copy(),
        slot=zeros - 1,
        keys=np.zeros((rows, 2), np.uint32),
        step=zeros.copy(),
        temperature=np.zeros(rows, np.float32),
        top_p=np.ones(rows, np.float32),
        with_top=np.bool_(False),
    )


@partial(jax.jit, static_argnames=("model", "slots"), donate_argnames=("caches",))
def next_tokens(
    model: qwen2.Model, base: Tree, bank: Tree | None, caches: Caches, rows: Inputs, *, slots: int
) -> tuple[Caches, Drawn]:
    """Read each row's token and draw the next one."""
    traces["next_tokens"] += 1
    tokens, positions = rows.token[:, None], rows.position[:, None]
    route = None if bank is None else banks.route(rows.slot, slots)
    last, caches = through(model, base, bank, tokens, positions, own_pace(rows.position), caches, route)
    scores, greedy = drawn_from(head.next_scores(base, last), rows.temperature, rows.top_p)
    token, logprob = pick(scores, uniforms(rows.keys, rows.step), greedy)
    total = jnp.take_along_axis(scores, token[None], axis=0)[0] - logprob
    count = min(MOST_TOP, scores.shape[0])

    def top() -> tuple[Array, Array]:
        tokens, highest = most_probable(scores, count)
        return tokens, highest - total[:, None]

    def nothing() -> tuple[Array, Array]:
        shape = (len(rows.token), count)
        return jnp.zeros(shape, jnp.int32), jnp.zeros(shape, jnp.float32)

    return caches, Drawn(token, logprob, *jax.lax.cond(rows.with_top, top, nothing))


@partial(jax.jit, static_argnames=("model", "slots"), donate_argnames=("caches",))
def prefill_row(
    model: qwen2.Model,
    base: Tree,
    bank: Tree | None,
    caches: Caches,
    tokens: Int[Array, "C"],
    row: Int[Array, ""],
    start: Int[Array, ""],
    slot: Int[Array, ""],
    *,
    slots: int,
) -> Caches:
    """A chunk of one row's prompt, which begins in slot `start`, into its cache; `slot` is the bank's. What
    fills up the last chunk is overwritten before it is read."""
    traces["prefill_row"] += 1
    count, kind = tokens.shape[0], model.kind
    own = tuple(qwen2.Cache(*(ops.take_row(part, row, kind) for part in cache)) for cache in caches)
    span = alone(count)
    span = span._replace(last=span.last + start)
    route = None if bank is None else banks.route(slot[None], slots)
    _, filled = through(model, base, bank, tokens[None], span.last[None], span, own, route)

    def put(part: Array, new: Array) -> Array:
        chunk = jax.lax.dynamic_slice_in_dim(new, start, count, axis=2)
        return ops.put_row(part, chunk, row, start, kind)

    return jax.tree.map(put, caches, filled)


@partial(jax.jit, static_argnames=("model",), donate_argnames=("caches",))
def copy_row(model: qwen2.Model, caches: Caches, source: Int[Array, ""], row: Int[Array, ""]) -> Caches:
    """What one row holds, in another row too."""
    traces["copy_row"] += 1
    kind = model.kind
    return jax.tree.map(
        lambda part: ops.put_row(part, ops.take_row(part, source, kind), row, 0, kind), caches
    )
