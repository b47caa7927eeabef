"""SFT + GRPO, equations (10)-(11): groups of samples, rewards relative to the group, a clipped step, an
anchor at SFT-1.

    (10)  A_jk = (r_jk - mean_j) / sqrt(var_j + 1e-6)
    (11)  L(theta) = - sum of min(rho A, clip(rho, 1 - epsilon, 1 + epsilon) A) + beta KL(p_theta || p_SFT)

    tokens     Question: ... Proposed solution:    y_hat    <eos>
    gamma      0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0    1 1 1    1
    weight     0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0    1 1 1    1      times ratio x advantage

Deviations: (1) by default one ratio a token instead of one a completion (`ratio`); with one update a group
both are 1 and the gradients agree. (2) The sum over all tokens of a group is divided by their number, once:
longer completions weigh more, as in (11) as printed. (3) KL by the estimator k3.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from cicjax.methods.method import Method
from cicjax.provenance import Encoded, weights
from cicjax.provenance.protocol import Weighting
from cicjax.provenance.transcript import Author
from cicjax.training.batches import Batch, Row, make_row

# The command line lists the methods, and does so without jax: what needs it is imported where it is used.
if TYPE_CHECKING:
    from jaxtyping import Array, Float

    from cicjax.model.qwen2 import Model, Tree

# What the agent sampled, its own end of text included.
WEIGHTING = Weighting(weights.POLICY)
METHOD = Method(
    name="grpo",
    label="GRPO",
    short="GRPO",
    equation="equations (10)-(11)",
    meaning="trained by reward: of a group of its own samples the right ones become likelier, "
    "the wrong ones less",
    samples="own",
    weighting=WEIGHTING,
    speakers=(Author.AGENT,),
    colour="#c26c9d",
    marker="v",
)


@dataclass(frozen=True, kw_only=True)
class Constants:
    """The constants of (10)-(11)."""

    num_generations: int = 8
    epsilon: float = 0.2
    beta: float = 0.04
    num_iterations: int = 1
    ratio: Literal["token", "sequence"] = "token"

    @property
    def loss(self) -> "Loss | SequenceLoss":
        """Equation (11) with one ratio a token, or a completion."""
        return (Loss if self.ratio == "token" else SequenceLoss)(self.epsilon, self.beta)


def group_rows(
    group: list[Encoded], rewards: list[float], old_logprobs: list[np.ndarray], ref_logprobs: list[np.ndarray]
) -> list[Row]:
    """The rows of one group with the columns of (11), or none where the group is flat: equal rewards prefer
    nothing."""
    from cicjax.objectives import policy_gradient

    advantages = np.asarray(policy_gradient.group_advantages(np.asarray([rewards], np.float32)))[0]
    if not advantages.any():
        return []
    return [
        make_row(
            each,
            WEIGHTING,
            advantages=np.full(len(each.tokens), advantage, np.float32),
            old_logprobs=old,
            ref_logprobs=ref,
        )
        for each, advantage, old, ref in zip(group, advantages, old_logprobs, ref_logprobs, strict=True)
    ]


class Loss(NamedTuple):
    """Equation (11) on packed rows as (sum, weight), one ratio a token; a compiled step takes the two
    constants as arguments."""

    epsilon: float
    beta: float

    def __call__(
        self, model: "Model", base: "Tree", adapter: "Tree", batch: Batch
    ) -> "tuple[Float[Array, ''], Float[Array, '']]":
        from cicjax.objectives import policy_gradient

        def surrogate(
            logprobs: "Float[Array, 'B K']", loss_weights: "Float[Array, 'B K']", columns: Any
        ) -> Any:
            logprobs, old, loss_weights = (
                each.reshape(-1, 1) for each in (logprobs, columns["old_logprobs"], loss_weights)
            )
            advantages = columns["advantages"].reshape(-1)
            return policy_gradient.clipped_surrogate(logprobs, old, advantages, loss_weights, self.epsilon)

        return _anchored(surrogate, self.beta, model, base, adapter, batch)


class SequenceLoss(NamedTuple):
    """Equation (11) as printed, one ratio a completion; a segment of a line is one."""

    epsilon: float
    beta: float

    def __call__(
        self, model: "Model", base: "Tree", adapter: "Tree", batch: Batch
    ) -> "tuple[Float[Array, ''], Float[Array, '']]":
        from cicjax.objectives import policy_gradient
        from cicjax.training import steps

        def surrogate(
            logprobs: "Float[Array, 'B K']", loss_weights: "Float[Array, 'B K']", columns: Any
        ) -> Any:
            lines, width = logprobs.shape
            segments = batch.tokens * 0 + 1 if batch.segments is None else batch.segments
            first = np.arange(lines)[:, None] * width
            completions = first + steps.gathered(segments, batch).clip(1) - 1
            return policy_gradient.sequence_surrogate(
                logprobs,
                columns["old_logprobs"],
                columns["advantages"],
                loss_weights,
                completions,
                self.epsilon,
            )

        return _anchored(surrogate, self.beta, model, base, adapter, batch)


def _anchored(
    surrogate: Callable[..., Any], beta: float, model: "Model", base: "Tree", adapter: "Tree", batch: Batch
) -> "tuple[Float[Array, ''], Float[Array, '']]":
    """The surrogate of a micro-batch and its distance to the reference, under the same weights."""
    from cicjax.objectives import likelihood, policy_gradient
    from cicjax.training import steps

    columns = {name: steps.gathered(column, batch) for name, column in batch.extras.items()}
    logprobs = steps.gathered_logprobs(model, base, adapter, batch)
    loss_weights = steps.gathered_weights(WEIGHTING.rule, batch)
    gain, weight = surrogate(logprobs, loss_weights, columns)
    divergence = policy_gradient.kl(logprobs, columns["ref_logprobs"])
    penalty, _ = likelihood.weighted_nll(-divergence, loss_weights)
    return gain + beta * penalty, weight
