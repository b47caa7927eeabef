"""Section 1.1 exactly, and the prediction lemma of section 1.3, for finite sets in float64.

A latent program p produces symbols. A symbol the world wrote is conditioned on and moves the belief; a symbol
the agent wrote is an intervention: its mechanism P(a | p) is removed, so it moves nothing, while what follows
it still does.
"""

from typing import NamedTuple

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float, Int


def posterior(
    prior: Float[ArrayLike, " P"],
    likelihood: Float[ArrayLike, "P A"],
    symbols: Int[ArrayLike, " T"],
    gamma: Int[ArrayLike, " T"],
) -> Float[np.ndarray, "T+1 P"]:
    """Belief over programs before the first and after each symbol; a slot with gamma = 1 leaves it as it was.

        symbols           2    0    1
        gamma             0    1    0
        rows      prior   p2   p2   p21

    Raises ValueError on inputs that are no distributions and on evidence that no program left over can have
    written.
    """
    belief = _distribution("prior", prior, rank=1)
    likelihood = _distribution("likelihood", likelihood, rank=2)
    symbols, gamma = np.asarray(symbols), np.asarray(gamma)
    if likelihood.shape[0] != belief.shape[0]:
        raise ValueError(
            f"likelihood must have one row a program: {likelihood.shape[0]} rows, {belief.shape[0]} programs"
        )
    if symbols.ndim != 1 or symbols.shape != gamma.shape:
        raise ValueError(
            f"symbols and gamma must both have shape (T,), not {symbols.shape} and {gamma.shape}"
        )
    if not np.isin(gamma, (0, 1)).all():
        raise ValueError("gamma must be 0 (world) or 1 (agent)")
    beliefs = [belief]
    for slot, symbol in enumerate(symbols):
        evidence = likelihood[:, _index("symbols", symbol, size=likelihood.shape[1])]
        beliefs.append(
            beliefs[-1] if gamma[slot] else _normalise(beliefs[-1] * evidence, where=f"slot {slot}")
        )
    return np.stack(beliefs)


def predictive(
    posterior: Float[ArrayLike, " P"], likelihood: Float[ArrayLike, "P A"]
) -> Float[np.ndarray, " A"]:
    """Probability of the next symbol under a belief: sum over p of P(p) P(symbol | p). Raises ValueError as
    `posterior` does."""
    belief, likelihood = (
        _distribution("posterior", posterior, rank=1),
        _distribution("likelihood", likelihood, rank=2),
    )
    if likelihood.shape[0] != belief.shape[0]:
        raise ValueError(
            f"likelihood must have one row a program: {likelihood.shape[0]} rows, {belief.shape[0]} programs"
        )
    return belief @ likelihood


def after(
    prior: Float[ArrayLike, " P"],
    action_likelihood: Float[ArrayLike, "P A"],
    outcome_likelihood: Float[ArrayLike, "P A O"],
    action: int,
    outcome: int,
    intervened: bool = True,
) -> Float[np.ndarray, " P"]:
    """The two posteriors of section 1.1: P(p | do(a), o) when `intervened`, else P(p | a, o), which counts
    P(a | p) as evidence.

    Raises ValueError on inputs that are no distributions, indices out of range, or evidence of probability 0.
    """
    belief, actions, outcomes = _world(prior, action_likelihood, outcome_likelihood)
    action, outcome = (
        _index("action", action, size=actions.shape[1]),
        _index("outcome", outcome, size=outcomes.shape[2]),
    )
    acted = belief if intervened else belief * actions[:, action]
    return _normalise(acted * outcomes[:, action, outcome], where=f"action {action} with outcome {outcome}")


def outcome(
    prior: Float[ArrayLike, " P"],
    action_likelihood: Float[ArrayLike, "P A"],
    outcome_likelihood: Float[ArrayLike, "P A O"],
    action: int,
    intervened: bool = True,
) -> Float[np.ndarray, " O"]:
    """Probability of each outcome: P(o | do(a)) when `intervened`, where the belief is still the prior, else
    P(o | a).

    Raises ValueError as `after` does.
    """
    belief, actions, outcomes = _world(prior, action_likelihood, outcome_likelihood)
    action = _index("action", action, size=actions.shape[1])
    acted = belief if intervened else _normalise(belief * actions[:, action], where=f"action {action}")
    return acted @ outcomes[:, action]


class Lemma(NamedTuple):
    """Both sides of the prediction lemma: coarse_error = rich_error + gap, and the same comparison in
    nats."""

    coarse_error: float
    """E[(t4 - m0)^2]: squared error of the best predictor from the coarse information alone."""
    rich_error: float
    """E[(t4 - m1)^2]: the same with the extra variables."""
    gap: float
    """E[(m1 - m0)^2]: 0 exactly when the extra variables never move the conditional mean."""
    log_loss_gap: float
    """H(target | coarse) - H(target | coarse, extra) = I(target; extra | coarse) in nats: the lemma for
    log-loss."""


def prediction_lemma(
    joint: Float[ArrayLike, "coarse extra target"], values: Float[ArrayLike, " target"]
) -> Lemma:
    """Section 1.3 on a finite joint distribution of (coarse, extra, target); `values` are the numbers the
    targets stand for.

    The three errors are computed each from its own definition, so that their identity can be checked. Cells
    of probability
    0 are allowed. Raises ValueError unless `joint` is a distribution and `values` are finite, one a target.
    """
    joint, values = np.asarray(joint, np.float64), np.asarray(values, np.float64)
    if joint.ndim != 3 or values.shape != joint.shape[2:]:
        raise ValueError(
            "joint must be (coarse, extra, target) and values (target,), "
            f"not {joint.shape} and {values.shape}"
        )
    _distribution("joint", joint.reshape(-1), rank=1)
    if not np.isfinite(values).all():
        raise ValueError("values must be finite")
    coarse, rich = joint.sum(axis=1), joint
    coarse_target, rich_target = _conditional(coarse), _conditional(rich)
    coarse_mean, rich_mean = coarse_target @ values, rich_target @ values
    # A cell that never happens has probability 0 in every sum; 1 stands in for its ratio.
    ratio = np.where(joint > 0, rich_target, 1.0) / np.where(joint > 0, coarse_target[:, None, :], 1.0)
    return Lemma(
        coarse_error=float((coarse * np.square(values[None, :] - coarse_mean[:, None])).sum()),
        rich_error=float((rich * np.square(values[None, None, :] - rich_mean[:, :, None])).sum()),
        gap=float((rich.sum(axis=2) * np.square(rich_mean - coarse_mean[:, None])).sum()),
        log_loss_gap=float((joint * np.log(ratio)).sum()),
    )


def _conditional(joint: np.ndarray) -> np.ndarray:
    """P(last axis | the others); all zero where the condition has probability 0."""
    total = joint.sum(axis=-1, keepdims=True)
    return np.divide(joint, total, out=np.zeros_like(joint), where=total > 0)


def _world(
    prior: ArrayLike, action_likelihood: ArrayLike, outcome_likelihood: ArrayLike
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    belief = _distribution("prior", prior, rank=1)
    actions = _distribution("action_likelihood", action_likelihood, rank=2)
    outcomes = _distribution("outcome_likelihood", outcome_likelihood, rank=3)
    if actions.shape[0] != belief.shape[0] or outcomes.shape[:2] != actions.shape:
        raise ValueError(
            f"shapes must be (P,), (P, A), (P, A, O), not {belief.shape}, {actions.shape}, {outcomes.shape}"
        )
    return belief, actions, outcomes


def _distribution(name: str, array: ArrayLike, *, rank: int) -> np.ndarray:
    array = np.asarray(array, np.float64)
    if array.ndim != rank:
        raise ValueError(f"{name} must have {rank} axes, not shape {array.shape}")
    # Wide enough for distributions that were computed in float32.
    if not ((array >= 0).all() and np.allclose(array.sum(axis=-1), 1.0, rtol=0, atol=1e-5)):
        raise ValueError(f"{name} must hold probabilities that sum to 1 over its last axis")
    return array


def _index(name: str, value: int, *, size: int) -> int:
    if value != int(value) or not 0 <= value < size:
        raise ValueError(f"{name} must be integers from 0 to {size - 1}, not {value}")
    return int(value)


def _normalise(joint: np.ndarray, *, where: str) -> np.ndarray:
    total = joint.sum()
    if total == 0:
        raise ValueError(f"{where} has probability 0 under every program that is left")
    return joint / total
