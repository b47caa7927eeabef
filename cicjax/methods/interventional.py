"""The interventional stream agent, equation (14): its own attempt is do(y_hat), in the context and out of the
loss.

    L(theta) = - sum over failed j of log p(y*_j | x_j, do(y_hat_j), v_j)

    tokens     Question: ...    y_hat    <eos>    Proposed solution:    y*       <eos>
    gamma      0 0 0 0 0 0 0    1 1 1    1        0 0 0                 0 0 0    0
    weight     0 0 0 0 0 0 0    0 0 0    0        0 0 0                 1 1 1    1

The rows, their order and the updates are those of the observational agent; a row that ended in success has no
target and adds nothing. Deviations: (1) the mean over an update's targets, as in SFT; (2) the verdict v is
the second prefix alone, as the paper prints it.
"""

from cicjax.methods.method import Method, stream_rows
from cicjax.provenance import protocol

METHOD = Method(
    name="interventional",
    label="Interventional stream",
    equation="equation (14)",
    samples="stream",
    rows=stream_rows,
    weighting=protocol.weighting("interventional"),
    colour="#0f9a70",
    marker="*",
)
