"""SFT + ReST, equations (8)-(9): imitate the samples that the verifier passed, beside the teacher's rows.

    y_hat_jk ~ p_SFT( . | x_j), k = 1 ... K          D = {(x_j, y_hat_jk) : graded 1}
    L(theta) = - sum over D and replay of log p(y | x)

Here alone the agent's own words are targets by design: the verifier's choice of them is what the world says.
Deviations: (1) the mean over an update's targets, as in SFT. (2) "Clean" is not defined in the paper: here a
candidate that gives its answer after the marker, on one line, and ended by itself; of several different ones
in a group, the first.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from cicjax.provenance import Encoded, weights


def loss_weights(encoded: Encoded) -> Float[np.ndarray, "T"]:
    """Every token of a solution, whoever wrote it."""
    return weights.observational(encoded.gamma, encoded.is_target)


def select(group: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The candidate of a group to imitate, if one passes; `group` holds graded answers in the order of
    sampling."""
    return next((answer for answer in group if is_clean(answer)), None)


def is_clean(answer: Mapping[str, Any]) -> bool:
    """Passed by the verifier, with the marker, on one line, ended by its author."""
    one_line = "\n" not in answer["completion"].strip()
    return bool(answer["solved"] and answer["marker"] and one_line and answer["finish_reason"] == "stop")
