"""Jitted steps: sums over micro-batches, then one division, one clip, one AdamW update of the adapter.

The base is an argument and is never donated; the train state and the running sums are. The learning rate is
handed in, a function of the update's index, so that arms with different numbers of live updates stay in step.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from cicjax.model import head, qwen2
from cicjax.objectives import likelihood
from cicjax.provenance import weights
from cicjax.training.batches import Batch

SumAndWeight = tuple[Float[Array, ""], Float[Array, ""]]
# A named tuple of its constants that can be called: jit takes the constants as arguments, the class as
# static.
Loss = Callable[[qwen2.Model, qwen2.Tree, qwen2.Tree, Batch], SumAndWeight]
Schedule = Literal["linear", "cosine", "constant"]


@dataclass(frozen=True, kw_only=True)
class Optimization:
    """AdamW on the adapter. `mean` divides the summed loss of an update by its summed weight; without it the
    sum itself is descended."""

    learning_rate: float = 2e-4
    min_learning_rate_ratio: float = 0.1
    warmup_steps: int = 3
    weight_decay: float = 0.0
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_epsilon: float = 1e-8
    max_grad_norm: float = 1.0
    mean: bool = True


class TrainState(NamedTuple):
    """What training changes. `step` counts updates begun, whether or not they moved anything; the counters
    say why some did not."""

    adapter: qwen2.Tree
    optimizer: Any
    step: Int[Array, ""]
    empty_updates: Int[Array, ""]
    nonfinite_updates: Int[Array, ""]


class Sums(NamedTuple):
    """Gradient, loss and weight added over micro-batches and devices."""

    gradient: qwen2.Tree
    loss: Float[Array, ""]
    weight: Float[Array, ""]


class UpdateMetrics(NamedTuple):
    """What one update did: mean loss a unit of weight, the gradient's norm before clipping, and whether the
    adapter moved."""

    loss: Float[Array, ""]
    grad_norm: Float[Array, ""]
    weight: Float[Array, ""]
    applied: Array


class Likelihood(NamedTuple):
    """Weighted negative log-likelihood: equations (1), (2), (7), (9), (12)-(14) by their rule of weights.

    Called with (model, base, adapter, batch); gives (sum, weight). The weights are made here, on the device,
    of the batch's gamma, is_target and solved.
    """

    rule: Any = weights.OBSERVATIONAL

    def __call__(
        self, model: qwen2.Model, base: qwen2.Tree, adapter: qwen2.Tree, batch: Batch
    ) -> SumAndWeight:
        logprobs = gathered_logprobs(model, base, adapter, batch)
        return likelihood.weighted_nll(logprobs, gathered_weights(self.rule, batch))


def gathered_weights(rule: Any, batch: Batch) -> Float[Array, "B K"]:
    """What the positions at `batch.indices` weigh under a rule, times the batch's column `scale` where it has
    one; 0.0 in padding columns."""
    loss_weights = rule(batch.gamma, batch.is_target, batch.solved)
    if "scale" in batch.extras:
        loss_weights = loss_weights * batch.extras["scale"]
    return gathered(loss_weights, batch)


def gathered(column: Float[Array, "B T"], batch: Batch) -> Float[Array, "B K"]:
    """A column's entries at `batch.indices`."""
    return jnp.take_along_axis(column, batch.indices, axis=1)


def gathered_logprobs(
    model: qwen2.Model, base: qwen2.Tree, adapter: qwen2.Tree | None, batch: Batch
) -> Float[Array, "B K"]:
    """log p of the tokens at `batch.indices`, each given the tokens before it in its own segment; 0.0 in
    padding columns."""
    states = qwen2.hidden(model, base, adapter, batch.tokens, batch.positions, batch.segments, batch.dropout)
    targets = jnp.take_along_axis(batch.tokens, batch.indices, axis=1)
    states = head.gather_positions(states, batch.indices)
    return head.logprobs(base, states, targets, batch.used, model.kind.head_chunk)


def start_state(adapter: qwen2.Tree, optimization: Optimization) -> TrainState:
    """A state at update 0 on a copy of `adapter`: steps donate their state, and one SFT-1 starts every second
    stage."""
    own = jax.tree.map(jnp.copy, adapter)
    counters = (jnp.zeros((), jnp.int32) for _ in range(3))
    return TrainState(own, _transform(optimization).init(own), *counters)


@partial(jax.jit, keep_unused=True)
def zero_sums(adapter: qwen2.Tree) -> Sums:
    """Empty sums for an adapter of this shape, committed to its device where that is: otherwise the first
    micro-batch of an update would be another program than the ones after it."""
    return Sums(jax.tree.map(jnp.zeros_like, adapter), jnp.zeros(()), jnp.zeros(()))


@partial(jax.jit, static_argnums=(1,), donate_argnums=(4,))
def accumulate(
    loss: Loss, model: qwen2.Model, base: qwen2.Tree, adapter: qwen2.Tree, sums: Sums, batch: Batch
) -> Sums:
    """Add one micro-batch's loss, weight and gradient."""

    def total(adapter: qwen2.Tree) -> tuple[Float[Array, ""], Float[Array, ""]]:
        return loss(model, base, adapter, batch)

    (value, weight), gradient = jax.value_and_grad(total, has_aux=True)(adapter)
    return Sums(jax.tree.map(jnp.add, sums.gradient, gradient), sums.loss + value, sums.weight + weight)


@partial(jax.jit, static_argnums=(0,), donate_argnums=(1,))
def update(
    optimization: Optimization, state: TrainState, sums: Sums, learning_rate: Float[Array, ""]
) -> tuple[TrainState, UpdateMetrics]:
    """Divide once, clip, step. Without any weight, or with anything non-finite, adapter and optimizer stay as
    they are; it is counted."""
    empty = sums.weight == 0
    divisor = jnp.where(empty, 1.0, sums.weight) if optimization.mean else 1.0
    gradient = jax.tree.map(lambda g: g / divisor, sums.gradient)
    norm = optax.tree.norm(gradient)
    direction, optimizer = _transform(optimization).update(gradient, state.optimizer, state.adapter)
    adapter = jax.tree.map(lambda p, d: p - learning_rate * d, state.adapter, direction)
    finite = jnp.isfinite(sums.loss) & jnp.isfinite(norm) & jnp.isfinite(optax.tree.norm(adapter))
    applied = finite & ~empty
    adapter, optimizer = jax.tree.map(
        lambda new, old: jnp.where(applied, new, old), (adapter, optimizer), (state.adapter, state.optimizer)
    )
    metrics = UpdateMetrics(sums.loss / jnp.where(empty, 1.0, sums.weight), norm, sums.weight, applied)
    counters = (state.step + 1, state.empty_updates + empty, state.nonfinite_updates + (~finite & ~empty))
    return TrainState(adapter, optimizer, *counters), metrics


def without_rows(state: TrainState) -> tuple[TrainState, UpdateMetrics]:
    """What `update` gives where there is nothing to add up."""
    zero = jnp.zeros(())
    state = state._replace(step=state.step + 1, empty_updates=state.empty_updates + 1)
    return state, UpdateMetrics(zero, zero, zero, jnp.zeros((), jnp.bool_))


@partial(jax.jit, static_argnames=("optimization", "model", "axis"), donate_argnames=("state",))
def whole_update(
    optimization: Optimization,
    loss: Loss,
    model: qwen2.Model,
    base: qwen2.Tree,
    state: TrainState,
    batches: Batch,
    count: Int[Array, ""],
    learning_rate: Float[Array, ""],
    *,
    axis: str | None = None,
) -> tuple[TrainState, UpdateMetrics]:
    """`accumulate` over the first `count` of stacked micro-batches, then `update`, as one program.

    Where devices share the lines, each has the sums of its own; they are added up once, over `axis`.
    """

    def add(number: Any, sums: Sums) -> Sums:
        batch = jax.tree.map(lambda leaf: leaf[number], batches)
        return accumulate(loss, model, base, state.adapter, sums, batch)

    sums = zero_sums(state.adapter)
    alone = batches.used.shape[0] == 1
    sums = add(0, sums) if alone else jax.lax.fori_loop(0, count, add, sums)
    sums = sums if axis is None else jax.lax.psum(sums, axis)
    return update(optimization, state, sums, learning_rate)


def learning_rate_at(
    index: int, total: int | None, optimization: Optimization, *, schedule: Schedule = "linear"
) -> float:
    """The rate of update `index` of `total`: a linear climb over the warm-up, then a line or a half cosine
    down to the stated share of the peak; with the schedule `constant`, and in a stream that has no end
    (`total` None), the peak itself."""
    warmup = optimization.warmup_steps if total is None else min(optimization.warmup_steps, max(total - 1, 0))
    if index < warmup:
        return optimization.learning_rate * (index + 1) / (warmup + 1)
    if total is None or schedule == "constant":
        return optimization.learning_rate
    progress = (index - warmup) / max(total - 1 - warmup, 1)
    if schedule == "cosine":
        progress = (1 - math.cos(math.pi * progress)) / 2
    return optimization.learning_rate * (1 - (1 - optimization.min_learning_rate_ratio) * progress)


def _transform(optimization: Optimization) -> optax.GradientTransformation:
    return optax.chain(
        optax.clip_by_global_norm(optimization.max_grad_norm),
        optax.scale_by_adam(
            b1=optimization.adam_beta1, b2=optimization.adam_beta2, eps=optimization.adam_epsilon
        ),
        optax.add_decayed_weights(optimization.weight_decay),
    )
