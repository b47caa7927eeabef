"""SFT, equation (7): the teacher's solutions, one epoch.

    L(theta) = - sum over (x, y*) of log p(y* | x)

    tokens     Question: ... Proposed solution:    n = 10.0/40.0 = ...    <eos>
    weight     0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0    1 1 1 1 1 1 1 1 1 1    1

Deviations: (1) an update descends the sum over its rows divided by their number of targets (a setting; AdamW
and clipping hide the scale).
"""

import numpy as np
from jaxtyping import Float

from cicjax.provenance import Encoded, weights


def loss_weights(encoded: Encoded) -> Float[np.ndarray, "T"]:
    """Every token of a solution, its end of text included: here the teacher wrote them all."""
    return weights.observational(encoded.gamma, encoded.is_target)
