"""The weightings of one log-likelihood: every method of the paper is one line here.

`gamma`, `is_target` and `solved` are aligned arrays of any one shape, NumPy or JAX (only operators and
`.astype` are used, so traced arrays work too and jax is not imported). Each function returns float32 of the
same shape and kind. The weight of a position is what its log-likelihood is multiplied by in equations (1),
(2) and (7)-(14).
"""

from typing import Any, NamedTuple

import numpy as np

Array = Any  # np.ndarray or jax.Array


def observational(gamma: Array, is_target: Array) -> Array:
    """Equations (1) and (13): whatever stands in a solution is evidence, whoever wrote it."""
    _, target = _floats(gamma, is_target)
    return target


def interventional(gamma: Array, is_target: Array) -> Array:
    """Equations (2) and (14): only what the world wrote is evidence."""
    agent, target = _floats(gamma, is_target)
    return target * (1 - agent)


def policy(gamma: Array, is_target: Array) -> Array:
    """Equations (10)-(11): only what the agent sampled, to be multiplied by ratio and advantage."""
    agent, target = _floats(gamma, is_target)
    return target * agent


def stream(gamma: Array, is_target: Array, solved: Array, wrong: float = 0.0, correct: float = 0.0) -> Array:
    """The family between the streams: the agent's failed turns weigh `wrong`, its solved ones `correct`, the
    world's 1.

    (0, 0) is interventional, (1, 1) observational, (0, 1) masks wrong attempts only. A turn of the agent
    without a verdict weighs min(wrong, correct), so that both named corners hold whatever was judged.
    """
    return between(wrong, correct)(gamma, is_target, solved)


class Rule(NamedTuple):
    """What a target weighs: the agent's failed, solved and unjudged turns, and what the world wrote.

    Called on aligned `gamma`, `is_target` and `solved`, NumPy or traced; gives float32 of their shape. A
    named tuple of numbers, so that a compiled step takes the four as arguments and one program serves every
    arm. Any other named tuple that can be called so is a rule too.
    """

    wrong: float
    correct: float
    unjudged: float
    world: float = 1.0

    def __call__(self, gamma: Array, is_target: Array, solved: Array) -> Array:
        agent, target = _floats(gamma, is_target)
        verdict = _array(solved)
        if verdict.shape != agent.shape:
            raise ValueError(
                f"solved has shape {verdict.shape} and gamma {agent.shape}: they are aligned, token by token"
            )
        passed, failed = (verdict == 1).astype(np.float32), (verdict == 0).astype(np.float32)
        action = self.correct * passed + self.wrong * failed + self.unjudged * (1 - passed - failed)
        return target * (self.world * (1 - agent) + agent * action)


def between(wrong: float, correct: float) -> Rule:
    """The rule of `stream` with these two weights."""
    return Rule(float(wrong), float(correct), float(min(wrong, correct)))


INTERVENTIONAL = between(0, 0)
OBSERVATIONAL = between(1, 1)
POLICY = Rule(1.0, 1.0, 1.0, world=0.0)


def _array(value: Array) -> Array:
    return value if hasattr(value, "astype") else np.asarray(value)


def _floats(gamma: Array, is_target: Array) -> tuple[Array, Array]:
    agent, target = _array(gamma), _array(is_target)
    if agent.shape != target.shape:
        raise ValueError(
            f"gamma has shape {agent.shape} and is_target {target.shape}: they are aligned, token by token"
        )
    return agent.astype(np.float32), target.astype(np.float32)
