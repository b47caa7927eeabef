"""SFT + oracle corrections, equation (12): the corrections of the stream as ordinary rows, without the
attempt that they correct.

    L(theta) = - sum over failed j of log p(y*_j | x_j)

The targets are those of the interventional agent, token for token; what differs is the context.
Deviations: (1) the mean over an update's targets, as in SFT. (2) It exists twice: over its own rows alone, as
in the paper, and on the stream's schedule, where row i of update j is the stream's row i of update j with the
attempt taken out.
"""

from collections.abc import Sequence
from dataclasses import replace

from cicjax.methods.method import Method, Rollouts
from cicjax.methods.rows import plain_row
from cicjax.provenance import protocol
from cicjax.provenance.transcript import Author, Episode


def without_attempt(episode: Episode) -> Episode:
    """A row of the stream with its attempt taken out: (x, y*) after a failure, x alone after a success."""
    question, _, *correction = episode.messages
    return plain_row(episode.id, "oracle", question, *correction)


def corrections(stream: Sequence[Episode]) -> list[Episode]:
    """The rows of (12): failed ones only, in the order of the stream."""
    return [without_attempt(episode) for episode in stream if len(episode.messages) == 3]


def _shared_rows(rollouts: Rollouts) -> list[Episode]:
    return [without_attempt(episode) for episode in rollouts.stream()]


METHOD = Method(
    name="oracle",
    label="SFT+oracle",
    equation="equation (12)",
    meaning="trained on the corrections alone, without the attempts that they correct",
    samples="stream",
    rows=lambda rollouts: corrections(rollouts.stream()),
    # Every token of a correction, its end of text included.
    weighting=protocol.weighting("observational"),
    speakers=(Author.TEACHER,),
    colour="#56b0e0",
    marker="P",
)
SHARED = replace(
    METHOD,
    name="oracle_shared",
    label="SFT+oracle, shared schedule",
    short="oracle, shared",
    meaning="trained on the corrections alone, on the rows and in the order of the stream",
    rows=_shared_rows,
    colour="#1f6fb2",
    marker="X",
)
