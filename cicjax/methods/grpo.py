"""SFT + GRPO, equations (10)-(11): groups of samples, rewards relative to the group, a clipped step, an
anchor at SFT-1.

    (10)  A_jk = (r_jk - mean_j) / sqrt(var_j + 1e-6)
    (11)  L(theta) = - sum of min(rho A, clip(rho, 1 - epsilon, 1 + epsilon) A) + beta KL(p_theta || p_SFT)

    tokens     Question: ... Proposed solution:    y_hat    <eos>
    gamma      0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0    1 1 1    1
    weight     0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0    1 1 1    1      times ratio x advantage

Deviations: (1) one ratio a token instead of one a completion; with one update a group both are 1 and the
gradients agree. (2) The sum over all tokens of a group is divided by their number, once: longer completions
weigh more, as in (11) as printed. (3) KL by the estimator k3.
"""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from cicjax.model import qwen2
from cicjax.objectives import likelihood, policy_gradient
from cicjax.provenance import Encoded, weights
from cicjax.training import steps
from cicjax.training.batches import Batch, Row, make_row


@dataclass(frozen=True, kw_only=True)
class Policy:
    """The constants of (10)-(11)."""

    num_generations: int = 8
    epsilon: float = 0.2
    beta: float = 0.04
    num_iterations: int = 1


def loss_weights(encoded: Encoded) -> Float[np.ndarray, "T"]:
    """What the agent sampled, its own end of text included."""
    return weights.policy(encoded.gamma, encoded.is_target)


def group_rows(
    group: list[Encoded], rewards: list[float], old_logprobs: list[np.ndarray], ref_logprobs: list[np.ndarray]
) -> list[Row]:
    """The rows of one group with the columns of (11), or none where the group is flat: equal rewards prefer
    nothing."""
    advantages = np.asarray(policy_gradient.group_advantages(np.asarray([rewards], np.float32)))[0]
    if not advantages.any():
        return []
    return [
        make_row(
            each,
            loss_weights(each),
            advantages=np.full(len(each.tokens), advantage, np.float32),
            old_logprobs=old,
            ref_logprobs=ref,
        )
        for each, advantage, old, ref in zip(group, advantages, old_logprobs, ref_logprobs, strict=True)
    ]


@dataclass(frozen=True)
class Loss:
    """Equation (11) on packed rows as (sum, weight); hashable, so that a jitted step can close over its
    constants."""

    epsilon: float
    beta: float

    def __call__(
        self, model: qwen2.Model, base: qwen2.Tree, adapter: qwen2.Tree, batch: Batch
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        def gathered(column: Array) -> Float[Array, "N 1"]:
            return jnp.take_along_axis(column, batch.indices, axis=1).reshape(-1, 1)

        logprobs = steps.gathered_logprobs(model, base, adapter, batch).reshape(-1, 1)
        loss_weights, old, ref = (
            gathered(c)
            for c in (batch.loss_weights, batch.extras["old_logprobs"], batch.extras["ref_logprobs"])
        )
        advantages = gathered(batch.extras["advantages"])[:, 0]
        surrogate, weight = policy_gradient.clipped_surrogate(
            logprobs, old, advantages, loss_weights, self.epsilon
        )
        penalty, _ = likelihood.weighted_nll(-policy_gradient.kl(logprobs, ref), loss_weights)
        return surrogate + self.beta * penalty, weight
