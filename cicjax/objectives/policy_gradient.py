"""GRPO, equations (10)-(11), token by token or with one ratio a completion.

The whole loss is `(surrogate_sum + beta * kl_sum) / weight` with one set of weights for both sums and one
division, where `kl_sum` sums `kl(...)` under the same weights. Equation (11) is printed with one ratio per
completion: `sequence_surrogate`; `clipped_surrogate` has one per token. With a single update per group every
ratio is 1 at the update and the gradients agree.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from cicjax.objectives.shapes import at_least_float32, expect_rank, expect_same_shape


def group_advantages(rewards: Float[ArrayLike, "P G"]) -> Float[Array, "P G"]:
    """Rewards standardised within each group of one problem, equation (10): population variance, 1e-6 inside
    the root.

    A flat group, where all rewards are equal, gives zeros exactly. Raises ValueError unless `rewards` is (P,
    G).
    """
    rewards = at_least_float32(rewards)
    expect_rank("rewards", rewards, dims="P G")
    deviations = rewards - rewards.mean(axis=1, keepdims=True)
    advantages = deviations / jnp.sqrt(jnp.square(deviations).mean(axis=1, keepdims=True) + 1e-6)
    # The mean of equal rewards may be off by a rounding, which the division by 1e-3 would turn into a
    # preference.
    flat = rewards.max(axis=1, keepdims=True) == rewards.min(axis=1, keepdims=True)
    return jnp.where(flat, 0.0, advantages)


def clipped_surrogate(
    policy_logprobs: Float[ArrayLike, "B T"],
    old_logprobs: Float[ArrayLike, "B T"],
    advantages: Float[ArrayLike, " B"],
    loss_weights: Float[ArrayLike, "B T"],
    epsilon: float,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """First term of (11), to be minimised, as (sum, weight): sum = -(min(rho A, clip(rho, 1-eps, 1+eps) A) *
    weights).sum().

    rho = exp(policy - old) for each token. No gradient through `old_logprobs` and `advantages`, and none
    where the clipped term is the smaller. Positions of weight 0 may hold anything. Raises ValueError on
    shapes that do not fit.
    """
    policy_logprobs, old_logprobs = at_least_float32(policy_logprobs), at_least_float32(old_logprobs)
    advantages, loss_weights = at_least_float32(advantages), at_least_float32(loss_weights)
    expect_rank("policy_logprobs", policy_logprobs, dims="B T")
    expect_same_shape(policy_logprobs=policy_logprobs, old_logprobs=old_logprobs, loss_weights=loss_weights)
    if advantages.shape != policy_logprobs.shape[:1]:
        raise ValueError(
            f"advantages must have shape (B,) = {policy_logprobs.shape[:1]}, "
            f"one a completion, not {advantages.shape}"
        )
    live = loss_weights != 0
    # Hidden values are replaced before exp and before the product, so that neither they nor their gradients
    # become nan.
    ratio = jnp.exp(jnp.where(live, policy_logprobs - jax.lax.stop_gradient(old_logprobs), 0.0))
    advantage = jnp.where(live, jax.lax.stop_gradient(advantages)[:, None], 0.0)
    gain = jnp.minimum(ratio * advantage, jnp.clip(ratio, 1 - epsilon, 1 + epsilon) * advantage)
    return -(gain * loss_weights).sum(), loss_weights.sum()


def sequence_surrogate(
    policy_logprobs: Float[ArrayLike, "B T"],
    old_logprobs: Float[ArrayLike, "B T"],
    advantages: Float[ArrayLike, "B T"],
    loss_weights: Float[ArrayLike, "B T"],
    completions: Int[ArrayLike, "B T"],
    epsilon: float,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """First term of (11) as printed, to be minimised, as (sum, weight): one ratio a completion, exp of the
    sum over its tokens of policy - old, and one term for each, not divided by its length.

    `completions` numbers the completion of each position, from 0 to B T - 1; its advantage stands at every
    one of its positions. The weight is that of all tokens, as for `clipped_surrogate`. Positions of weight 0
    may hold anything. Raises ValueError on shapes that do not fit.
    """
    policy_logprobs, old_logprobs = at_least_float32(policy_logprobs), at_least_float32(old_logprobs)
    advantages, loss_weights = at_least_float32(advantages), at_least_float32(loss_weights)
    expect_rank("policy_logprobs", policy_logprobs, dims="B T")
    expect_same_shape(
        policy_logprobs=policy_logprobs,
        old_logprobs=old_logprobs,
        advantages=advantages,
        loss_weights=loss_weights,
    )
    live = loss_weights != 0

    def total(values: Float[Array, "B T"]) -> Float[Array, " N"]:
        values, numbers = jnp.where(live, values, 0.0).ravel(), jnp.asarray(completions).ravel()
        return jax.ops.segment_sum(values, numbers, num_segments=values.size)

    ratio = jnp.exp(total(policy_logprobs - jax.lax.stop_gradient(old_logprobs)))
    tokens = total(jnp.ones_like(loss_weights))
    advantage = jax.lax.stop_gradient(total(advantages)) / jnp.maximum(tokens, 1)
    gain = jnp.minimum(ratio * advantage, jnp.clip(ratio, 1 - epsilon, 1 + epsilon) * advantage)
    return -gain.sum(), loss_weights.sum()


ESTIMATORS: dict[str, Callable[[Array], Array]] = {
    "k1": lambda difference: -difference,
    "k2": lambda difference: jnp.square(difference) / 2,
    "k3": lambda difference: jnp.expm1(difference) - difference,
}


def kl(
    policy_logprobs: Float[ArrayLike, "B T"], ref_logprobs: Float[ArrayLike, "B T"], estimator: str = "k3"
) -> Float[Array, "B T"]:
    """Estimate of KL(policy || reference) in nats at each sampled token, unweighted; with d = ref - policy,
    k3 = exp(d) - d - 1.

    Over tokens sampled from the policy, k1 = -d and k3 have the exact divergence as their mean, and k3 is
    never negative. As a loss, k1 pulls nowhere: its gradient has mean zero. k2 = d^2 / 2 has the gradient of
    KL(policy || reference), k3 that of KL(reference || policy). No gradient through `ref_logprobs`. Raises
    ValueError on an unknown estimator or unequal shapes.
    """
    if estimator not in ESTIMATORS:
        raise ValueError(f"estimator must be one of {', '.join(ESTIMATORS)}, not {estimator!r}")
    policy_logprobs, ref_logprobs = at_least_float32(policy_logprobs), at_least_float32(ref_logprobs)
    expect_same_shape(policy_logprobs=policy_logprobs, ref_logprobs=ref_logprobs)
    return ESTIMATORS[estimator](jax.lax.stop_gradient(ref_logprobs) - policy_logprobs)
