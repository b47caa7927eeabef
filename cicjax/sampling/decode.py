"""The compiled programs of sampling: prompts into rows, rows a token further, rows compacted.

Prompts are left-padded, so that every row writes the same cache slot; a prompt is prefilled once for all its
samples.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt32

from cicjax.devices.mesh import Devices
from cicjax.model import head, ops, qwen2
from cicjax.model.attention import Span, left_padded
from cicjax.model.config import Tree
from cicjax.sampling.draw import choose


class Prompts(NamedTuple):
    """Left-padded prompts: row p begins in slot start[p] and ends in the last."""

    tokens: Int[Any, "P S"]
    start: Int[Any, "P"]


class Draws(NamedTuple):
    """How each row draws: its key, its temperature (0 is greedy), the share of the probability that it draws
    from, and the ids that end it, filled up with -1."""

    keys: UInt32[Any, "B 2"]
    temperature: Float[Any, "B"]
    top_p: Float[Any, "B"]
    stop_ids: Int[Any, "B N"]


class Rows(NamedTuple):
    """The state of rows that decode together. Caches hold the prompt's slots and N more, of which `tokens`
    are the drawn ids; slots below `start` are left padding."""

    caches: tuple[qwen2.Cache, ...]
    start: Int[Array, "B"]
    draws: Draws
    token: Int[Array, "B"]
    tokens: Int[Array, "B N"]
    logprobs: Float[Array, "B N"]
    done: Bool[Array, "B"]


@partial(jax.jit, static_argnames=("model", "steps"))
def prefill(
    model: qwen2.Model,
    base: Tree,
    adapter: Tree | None,
    prompts: Prompts,
    prompt_of_row: Int[Array, "B"],
    draws: Draws,
    *,
    steps: int,
) -> Rows:
    """Run each prompt once, hand its keys and values to its rows with room for `steps` more, and draw every
    row's first token."""
    slots = jnp.arange(prompts.tokens.shape[1])
    last, caches = _left_padded(model, base, adapter, prompts.tokens, prompts.start, slots, None)
    return _open(model, base, last, caches, prompts.start, prompt_of_row, draws, steps)


def empty_caches(model: qwen2.Model, base: Tree, prompts: Prompts) -> tuple[qwen2.Cache, ...]:
    """Caches with room for these prompts, for `prefill_chunk`."""
    return caches_of(model, base, *prompts.tokens.shape)


def caches_of(model: qwen2.Model, base: Tree, count: int, slots: int) -> tuple[qwen2.Cache, ...]:
    """Empty caches of so many rows."""
    config, dtype = model.config, ops.table_of(base["embed_tokens"]["embedding"]).dtype
    shape = (count, config.num_key_value_heads, slots, config.head_dim)
    return tuple(
        qwen2.Cache(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype)) for _ in range(config.num_hidden_layers)
    )


@partial(jax.jit, static_argnames=("model",), donate_argnames=("caches",))
def prefill_chunk(
    model: qwen2.Model,
    base: Tree,
    adapter: Tree | None,
    caches: tuple[qwen2.Cache, ...],
    tokens: Int[Array, "P C"],
    start: Int[Array, "P"],
    slot: Int[Array, ""],
) -> tuple[Float[Array, "P D"], tuple[qwen2.Cache, ...]]:
    """The prompts' tokens from `slot` on, into their caches; also the states of the last of them."""
    return _left_padded(model, base, adapter, tokens, start, slot + jnp.arange(tokens.shape[1]), caches)


@partial(jax.jit, static_argnames=("model", "steps"))
def open_rows(
    model: qwen2.Model,
    base: Tree,
    last: Float[Array, "P D"],
    caches: tuple[qwen2.Cache, ...],
    start: Int[Array, "P"],
    prompt_of_row: Int[Array, "B"],
    draws: Draws,
    *,
    steps: int,
) -> Rows:
    """What `prefill` gives, for prompts that went in chunk by chunk."""
    return _open(model, base, last, caches, start, prompt_of_row, draws, steps)


def _left_padded(model, base, adapter, tokens, start, slots, caches) -> tuple[Array, tuple[qwen2.Cache, ...]]:
    positions = jnp.maximum(slots[None] - start[:, None], 0)
    return through(model, base, adapter, tokens, positions, left_padded(start, slots), caches)


def through(
    model: qwen2.Model,
    base: Tree,
    adapter: Tree | None,
    tokens: Int[Array, "B T"],
    positions: Int[Array, "B T"],
    span: Span,
    caches: tuple[qwen2.Cache, ...] | None,
    route: qwen2.Route = None,
) -> tuple[Float[Array, "B D"], tuple[qwen2.Cache, ...]]:
    """The normed states of the last of `tokens`, and the caches with them in it; the tokens alone where there
    are none. With a `route` the adapter is a bank's."""
    # Behind a barrier the angles are computed once, and not anew inside every fusion that reads them.
    angles = jax.lax.optimization_barrier(qwen2.rotation(positions, model.config))
    x, filled = ops.embed(base["embed_tokens"]["embedding"], tokens, model.kind), []
    count = len(base["layers"])
    adapters = (None,) * count if adapter is None else adapter["layers"]
    for layer, factors, cache in zip(base["layers"], adapters, caches or (None,) * count, strict=True):
        x, cache = qwen2.run_block(model, layer, factors, x, angles, span, cache, route)
        filled.append(cache)
    return ops.rms_norm(x[:, -1], base["norm"]["scale"], model.config.rms_norm_eps), tuple(filled)


def _open(model, base, last, caches, start, prompt_of_row, draws, steps) -> Rows:
    room = ((0, 0), (0, 0), (0, steps), (0, 0))
    scores = head.next_scores(base, last)[:, prompt_of_row]
    token, logprob = choose(scores, draws.keys, jnp.int32(0), draws.temperature, draws.top_p)
    shape = (len(prompt_of_row), steps)
    return Rows(
        caches=jax.tree.map(lambda part: jnp.pad(part[prompt_of_row], room), caches),
        start=start[prompt_of_row],
        draws=draws,
        token=token,
        tokens=jnp.zeros(shape, jnp.int32).at[:, 0].set(token),
        logprobs=jnp.zeros(shape, jnp.float32).at[:, 0].set(logprob),
        done=_stops(token, draws),
    )


def _stops(token: Int[Array, "B"], draws: Draws) -> Bool[Array, "B"]:
    return (token[:, None] == draws.stop_ids).any(axis=1)


def decode_rows(
    devices: Devices, model: qwen2.Model, whole: dict[str, Tree], rows: Rows, step: int, stop_at: int
) -> tuple[Rows, int]:
    """Draw tokens `step` ... `stop_at` - 1 of every row, or fewer when all have stopped; gives the rows and
    the step reached. `whole` has base and adapter; `rows` is donated.

    One program with the loop inside, or one a step, as the model's kind of device wants; several devices do
    so side by side.
    """

    def draw(program: Any, **limits: Any) -> Any:
        static, own = {"model": model}, {"rows": rows}
        return devices.each(
            program, static=static, whole={**whole, **limits}, rows=own, donate=("rows",)
        ).run()

    if model.kind.loops_on_device:
        rows, reached = draw(decode_loop, step=np.int32(step), stop_at=np.int32(stop_at))
        return rows, int(np.max(reached))
    while step < stop_at and not np.asarray(rows.done).all():
        rows = draw(decode_step, step=np.int32(step))
        step += 1
    return rows, step


@partial(jax.jit, static_argnames=("model",), donate_argnames=("rows",))
def decode_step(
    model: qwen2.Model, base: Tree, adapter: Tree | None, rows: Rows, step: Int[Array, ""]
) -> Rows:
    """Draw token `step` of every row."""
    slot = rows.caches[0].keys.shape[2] - rows.tokens.shape[1] + step - 1
    tokens, start = rows.token[:, None], rows.start
    last, caches = _left_padded(model, base, adapter, tokens, start, slot[None], rows.caches)
    draws = rows.draws
    token, logprob = choose(head.next_scores(base, last), draws.keys, step, draws.temperature, draws.top_p)
    return rows._replace(
        caches=caches,
        token=token,
        tokens=jax.lax.dynamic_update_slice_in_dim(rows.tokens, token[:, None], step, axis=1),
        logprobs=jax.lax.dynamic_update_slice_in_dim(rows.logprobs, logprob[:, None], step, axis=1),
        done=rows.done | _stops(token, draws),
    )


@partial(jax.jit, static_argnames=("model",), donate_argnames=("rows",))
def decode_loop(
    model: qwen2.Model,
    base: Tree,
    adapter: Tree | None,
    rows: Rows,
    step: Int[Array, ""],
    stop_at: Int[Array, ""],
) -> tuple[Rows, Int[Array, "1"]]:
    """`decode_step` until `stop_at` or until every row has stopped, on the device, and the step reached."""

    def one_step(carry: tuple[Rows, Any]) -> tuple[Rows, Any]:
        rows, step = carry
        return decode_step(model, base, adapter, rows, step), step + 1

    def unfinished(carry: tuple[Rows, Any]) -> Bool[Array, ""]:
        rows, step = carry
        return (step < stop_at) & ~rows.done.all()

    rows, step = jax.lax.while_loop(unfinished, one_step, (rows, step))
    return rows, step[None]


@partial(jax.jit, static_argnames=("more",))
def take_rows(rows: Rows, index: Int[Array, "B"], *, more: int) -> Rows:
    """The rows at `index`, with room for `more` steps."""
    kept = jax.tree.map(lambda leaf: leaf[index], rows)
    wider = ((0, 0), (0, more))
    return kept._replace(
        caches=jax.tree.map(lambda part: jnp.pad(part, ((0, 0), (0, 0), *wider[1:], (0, 0))), kept.caches),
        tokens=jnp.pad(kept.tokens, wider),
        logprobs=jnp.pad(kept.logprobs, wider),
    )
