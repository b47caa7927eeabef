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

from cicjax.model import head, ops, qwen2
from cicjax.model.attention import left_padded
from cicjax.model.config import Tree
from cicjax.sampling.draw import choose


class Program(NamedTuple):
    """What the programs are compiled for: a model without LoRA, and how it draws."""

    model: qwen2.Model
    temperature: float
    stop_ids: tuple[int, ...]


class Prompts(NamedTuple):
    """Left-padded prompts: row p begins in slot start[p] and ends in the last."""

    tokens: Int[Any, "P S"]
    start: Int[Any, "P"]


class Rows(NamedTuple):
    """The state of rows that decode together. Caches hold the prompt's slots and N more, of which `tokens`
    are the drawn ids; slots below `start` are left padding."""

    caches: tuple[qwen2.Cache, ...]
    start: Int[Array, "B"]
    keys: UInt32[Array, "B 2"]
    token: Int[Array, "B"]
    tokens: Int[Array, "B N"]
    logprobs: Float[Array, "B N"]
    done: Bool[Array, "B"]


@partial(jax.jit, static_argnames=("program", "steps"))
def prefill(
    program: Program,
    base: Tree,
    prompts: Prompts,
    prompt_of_row: Int[Array, "B"],
    keys: UInt32[Array, "B 2"],
    *,
    steps: int,
) -> Rows:
    """Run each prompt once, hand its keys and values to its rows with room for `steps` more, and draw every
    row's first token."""
    model, slots = program.model, jnp.arange(prompts.tokens.shape[1])
    table = ops.table_of(base["embed_tokens"]["embedding"])
    angles = qwen2.rotation(jnp.maximum(slots[None] - prompts.start[:, None], 0), model.config)
    span = left_padded(prompts.start, slots)
    room = ((0, 0), (0, 0), (0, steps), (0, 0))
    x, caches = ops.embed(table, prompts.tokens, model.kind), []
    for layer in base["layers"]:
        x, cache = qwen2.run_block(model, layer, None, x, angles, span)
        caches.append(
            jax.tree.map(lambda part: jnp.pad(part.astype(table.dtype)[prompt_of_row], room), cache)
        )
    last = ops.rms_norm(x[:, -1], base["norm"]["scale"], model.config.rms_norm_eps)
    scores = head.next_scores(base, last)[:, prompt_of_row]
    token, logprob = choose(scores, keys, jnp.int32(0), program.temperature)
    shape = (len(prompt_of_row), steps)
    return Rows(
        caches=tuple(caches),
        start=prompts.start[prompt_of_row],
        keys=keys,
        token=token,
        tokens=jnp.zeros(shape, jnp.int32).at[:, 0].set(token),
        logprobs=jnp.zeros(shape, jnp.float32).at[:, 0].set(logprob),
        done=jnp.isin(token, jnp.asarray(program.stop_ids)),
    )


def decode_rows(program: Program, base: Tree, rows: Rows, step: int, stop_at: int) -> tuple[Rows, int]:
    """Draw tokens `step` ... `stop_at` - 1 of every row, or fewer when all have stopped; gives the rows and
    the step reached. `rows` is donated.

    One program with the loop inside, or one a step, as the model's kind of device wants.
    """
    if program.model.kind.loops_on_device:
        rows, reached = decode_loop(program, base, rows, np.int32(step), np.int32(stop_at))
        return rows, int(reached)
    while step < stop_at and not np.asarray(rows.done).all():
        rows = decode_step(program, base, rows, np.int32(step))
        step += 1
    return rows, step


@partial(jax.jit, static_argnames=("program",), donate_argnames=("rows",))
def decode_step(program: Program, base: Tree, rows: Rows, step: Int[Array, ""]) -> Rows:
    """Draw token `step` of every row."""
    model, prompt_length = program.model, rows.caches[0].keys.shape[2] - rows.tokens.shape[1]
    slot = prompt_length + step - 1
    # Behind a barrier the angles are computed once, and not anew inside every fusion that reads them.
    angles = jax.lax.optimization_barrier(qwen2.rotation((slot - rows.start)[:, None], model.config))
    span = left_padded(rows.start, slot[None])
    x, caches = ops.embed(base["embed_tokens"]["embedding"], rows.token[:, None], model.kind), []
    for layer, cache in zip(base["layers"], rows.caches, strict=True):
        x, cache = qwen2.run_block(model, layer, None, x, angles, span, cache)
        caches.append(cache)
    last = ops.rms_norm(x[:, 0], base["norm"]["scale"], model.config.rms_norm_eps)
    token, logprob = choose(head.next_scores(base, last), rows.keys, step, program.temperature)
    return rows._replace(
        caches=tuple(caches),
        token=token,
        tokens=jax.lax.dynamic_update_slice_in_dim(rows.tokens, token[:, None], step, axis=1),
        logprobs=jax.lax.dynamic_update_slice_in_dim(rows.logprobs, logprob[:, None], step, axis=1),
        done=rows.done | jnp.isin(token, jnp.asarray(program.stop_ids)),
    )


@partial(jax.jit, static_argnames=("program",), donate_argnames=("rows",))
def decode_loop(
    program: Program, base: Tree, rows: Rows, step: Int[Array, ""], stop_at: Int[Array, ""]
) -> tuple[Rows, Int[Array, ""]]:
    """`decode_step` until `stop_at` or until every row has stopped, on the device."""

    def one_step(carry: tuple[Rows, Any]) -> tuple[Rows, Any]:
        rows, step = carry
        return decode_step(program, base, rows, step), step + 1

    def unfinished(carry: tuple[Rows, Any]) -> Bool[Array, ""]:
        rows, step = carry
        return (step < stop_at) & ~rows.done.all()

    return jax.lax.while_loop(unfinished, one_step, (rows, step))


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
