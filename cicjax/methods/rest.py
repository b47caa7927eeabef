"""SFT + ReST, equations (8)-(9): imitate the samples that the verifier passed, beside the teacher's rows.

    y_hat_jk ~ p_SFT( . | x_j), k = 1 ... K          D = {(x_j, y_hat_jk) : graded 1}
    L(theta) = - sum over D and replay of log p(y | x)

Here alone the agent's own words are targets by design: the verifier's choice of them is what the world says.
Deviations: (1) the mean over an update's targets, as in SFT. (2) "Clean" is not defined in the paper: here a
candidate that gives its answer after the marker, on one line, and ended by itself; of several different ones
in a group, the first.
"""

from collections.abc import Sequence

from cicjax.methods.method import Method, Rollouts
from cicjax.provenance import protocol
from cicjax.provenance.transcript import Episode


def select(group: Sequence[Episode]) -> Episode | None:
    """The candidate of a group to imitate, if one passes; `group` holds graded attempts in the order of
    sampling."""
    return next((candidate for candidate in group if is_clean(candidate)), None)


def is_clean(candidate: Episode) -> bool:
    """Passed by the verifier, with the marker, on one line, ended by its author."""
    attempt, facts = candidate.messages[1], candidate.meta or {}
    one_line = "\n" not in attempt.content.strip()
    return attempt.solved == 1 and bool(facts["marker"]) and one_line and not attempt.truncated


def pairs(rollouts: Rollouts) -> list[Episode]:
    """The rows of (9): at most one clean passing candidate a group, and the teacher's rows again."""
    chosen = [select(group) for group in rollouts.candidates()]
    return [candidate for candidate in chosen if candidate is not None] + list(rollouts.teacher())


METHOD = Method(
    name="rest",
    label="ReST",
    short="ReST",
    equation="equations (8)-(9)",
    meaning="trained on its own samples that the verifier passed, with SFT-1's rows again",
    samples="candidates",
    rows=pairs,
    # Every token of a solution, whoever wrote it.
    weighting=protocol.weighting("observational"),
    colour="#e0a100",
    marker="^",
)
