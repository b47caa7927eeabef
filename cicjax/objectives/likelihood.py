"""One log-likelihood; the methods of the paper differ in its rows and in the weight of each position.

Weights come from `cicjax.provenance.weights`. Every per-token array has the length of the tokens, and entry t
speaks of tokens[t] as the target; nothing here knows why a position weighs what it weighs.

| equation                        | rows                            | weight of a position    | reduction    |
|---------------------------------|---------------------------------|-------------------------|--------------|
| (1) observational, section 1.2  | dialogue                        | is_target               | per_dialogue |
| (2) interventional, section 1.2 | the same dialogue               | is_target * (1 - gamma) | per_dialogue |
| (7) SFT                         | x, y*                           | is_target               | sum          |
| (8)-(9) ReST                    | x, chosen y_hat; replayed x, y* | is_target               | sum          |
| (10)-(11) GRPO, policy_gradient | groups of sampled x, y_hat      | is_target * gamma       | sum          |
| (12) SFT + oracle corrections   | failed x, y*; attempt left out  | is_target               | sum          |
| (13) observational stream       | x, y_hat, y* after a failure    | is_target               | sum          |
| (14) interventional stream      | the very same rows              | is_target * (1 - gamma) | sum          |

In (8)-(9) the chosen samples are targets although the agent wrote them: that is what distinguishes
imitation from (14). "sum" is `weighted_nll` of the weights as they are; "per_dialogue" is `weighted_nll` of
`per_dialogue(weights)`. Either way an update adds sums and weights over all its micro-batches and devices and
divides once.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from cicjax.objectives.shapes import at_least_float32, expect_rank, expect_same_shape


def token_logprobs(logits: Float[ArrayLike, "B T V"], tokens: Int[ArrayLike, "B T"]) -> Float[Array, "B T"]:
    """Log-probability in nats of each token given those before it: the one place where the shift happens.

        tokens      a     b     c
        scored by   -     logits[0]  logits[1]        logits[2] predicts what comes after c and scores nothing
        result      0.0   log p(b|a) log p(c|a,b)

    Entry 0 has no context: 0.0 (its weight must be 0, as must that of the first token of a packed segment).
    The softmax is taken in float32. An id outside the vocabulary, such as a label of -100, gives nan. For
    tests and tiny models: it holds
    (B, T, V) in memory. Raises ValueError on shapes that do not fit.
    """
    logits, tokens = jnp.asarray(logits), jnp.asarray(tokens)
    expect_rank("logits", logits, dims="B T V")
    if tokens.shape != logits.shape[:2] or tokens.shape[1] == 0:
        raise ValueError(
            f"tokens must have shape (B, T) = {logits.shape[:2]} of logits with T >= 1, not {tokens.shape}"
        )
    if not jnp.issubdtype(tokens.dtype, jnp.integer):
        raise ValueError(f"tokens must be integers, not {tokens.dtype}")
    predictions = jax.nn.log_softmax(
        logits[:, :-1].astype(jnp.promote_types(logits.dtype, jnp.float32)), axis=-1
    )
    # An index below 0 would count from the end of the vocabulary; one past the end is filled with nan.
    targets = jnp.where(tokens[:, 1:] < 0, logits.shape[-1], tokens[:, 1:])
    scored = jnp.take_along_axis(predictions, targets[:, :, None], axis=-1)[:, :, 0]
    return jnp.pad(scored, ((0, 0), (1, 0)))


def weighted_nll(
    logprobs: Float[ArrayLike, "B T"], loss_weights: Float[ArrayLike, "B T"]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Negative log-likelihood in nats as (sum, weight) = (-(logprobs * loss_weights).sum(),
    loss_weights.sum()).

    A position of weight 0 may hold anything, nan and -inf too: it adds exactly 0 to the sum and receives a
    gradient of exactly 0. Sums of parts add up to the sum of the whole, so the division belongs to whoever
    has all parts. Equations
    (7), (12)-(14) with the weights as they are, (1)-(2) with `per_dialogue` weights. Raises ValueError on
    unequal shapes.
    """
    logprobs, loss_weights = at_least_float32(logprobs), at_least_float32(loss_weights)
    expect_same_shape(logprobs=logprobs, loss_weights=loss_weights)
    # Hidden values are replaced before the product: inf * 0 is nan, and so would its gradient be.
    visible = jnp.where(loss_weights != 0, logprobs, 0)
    return -(visible * loss_weights).sum(), loss_weights.sum()


def per_dialogue(loss_weights: Float[ArrayLike, "*B T"]) -> Float[ArrayLike, "*B T"]:
    """Each row's weights divided by their own sum: the mean within a dialogue of equations (1)-(2). (T,) or
    (B, T).

    With these weights `weighted_nll` returns the sum of the dialogues' means and, as weight, the number of
    dialogues that have a target. A row without one stays all zero and so counts in neither. A row must hold
    one dialogue: normalise before packing. NumPy in, NumPy out. Raises ValueError on another rank.
    """
    if isinstance(loss_weights, np.ndarray):
        xp, loss_weights = np, loss_weights.astype(np.result_type(loss_weights.dtype, np.float32), copy=False)
    else:
        xp, loss_weights = jnp, at_least_float32(loss_weights)
    if loss_weights.ndim not in (1, 2):
        raise ValueError(f"loss_weights must have shape (T,) or (B, T), not {tuple(loss_weights.shape)}")
    totals = loss_weights.sum(axis=-1, keepdims=True)
    return loss_weights / xp.where(totals != 0, totals, xp.ones_like(totals))
