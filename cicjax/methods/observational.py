"""The observational stream agent, equation (13): whatever stands in the transcript is evidence, its own
attempts too.

    L(theta) = - sum over j of log p(y_hat_j | x_j) - sum over failed j of log p(y*_j | x_j, y_hat_j)

    tokens     Question: ...    y_hat    <eos>    Proposed solution:    y*       <eos>
    gamma      0 0 0 0 0 0 0    1 1 1    1        0 0 0                 0 0 0    0
    weight     0 0 0 0 0 0 0    1 1 1    1        0 0 0                 1 1 1    1

Deviations: (1) the mean over an update's targets, as in SFT; (2) the end of text after an attempt that was
cut at the length limit was written by nobody and is no target.
"""

import numpy as np
from jaxtyping import Float

from cicjax.provenance import Encoded, weights


def loss_weights(encoded: Encoded) -> Float[np.ndarray, "T"]:
    """Attempts and corrections alike."""
    return weights.observational(encoded.gamma, encoded.is_target)
