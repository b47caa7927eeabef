"""The observational stream agent, equation (13): whatever stands in the transcript is evidence, its own
attempts too.

    L(theta) = - sum over j of log p(y_hat_j | x_j) - sum over failed j of log p(y*_j | x_j, y_hat_j)

    tokens     Question: ...    y_hat    <eos>    Proposed solution:    y*       <eos>
    gamma      0 0 0 0 0 0 0    1 1 1    1        0 0 0                 0 0 0    0
    weight     0 0 0 0 0 0 0    1 1 1    1        0 0 0                 1 1 1    1

Deviations: (1) the mean over an update's targets, as in SFT; (2) the end of text after an attempt that was
cut at the length limit was written by nobody and is no target.
"""

from cicjax.methods.method import Method, stream_rows
from cicjax.provenance import protocol

METHOD = Method(
    name="observational",
    label="Observational stream",
    equation="equation (13)",
    samples="stream",
    rows=stream_rows,
    weighting=protocol.weighting("observational"),
    colour="#d1601f",
    marker="D",
)
