"""SFT + oracle corrections, equation (12): the corrections of the stream as ordinary rows, without the
attempt that they correct.

    L(theta) = - sum over failed j of log p(y*_j | x_j)

The targets are those of the interventional agent, token for token; what differs is the context.
Deviations: (1) the mean over an update's targets, as in SFT. (2) It exists twice: over its own rows alone, as
in the paper, and on the stream's schedule, where row i of update j is the stream's row i of update j with the
attempt taken out.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from cicjax.provenance import Encoded, weights
from cicjax.provenance.transcript import Episode


def loss_weights(encoded: Encoded) -> Float[np.ndarray, "T"]:
    """Every token of a correction, its end of text included."""
    return weights.observational(encoded.gamma, encoded.is_target)


def without_attempt(episode: Episode) -> Episode:
    """A row of the stream with its attempt taken out: (x, y*) after a failure, x alone after a success."""
    question, _, *correction = episode.messages
    return Episode(id=episode.id, source="oracle", messages=(question, *correction))


def corrections(stream: Sequence[Episode]) -> list[Episode]:
    """The rows of (12): failed ones only, in the order of the stream."""
    return [without_attempt(episode) for episode in stream if len(episode.messages) == 3]
