"""SFT, equation (7): the teacher's solutions, one epoch.

    L(theta) = - sum over (x, y*) of log p(y* | x)

    tokens     Question: ... Proposed solution:    n = 10.0/40.0 = ...    <eos>
    weight     0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0    1 1 1 1 1 1 1 1 1 1    1

Deviations: (1) an update descends the sum over its rows divided by their number of targets (a setting; AdamW
and clipping hide the scale).
"""

from cicjax.methods.method import Method
from cicjax.provenance import protocol
from cicjax.provenance.transcript import Author

METHOD = Method(
    name="sft",
    label="SFT-1",
    short="SFT-1",
    equation="equation (7)",
    meaning="the base after supervised training on the oracle's solutions; every other method starts from it",
    rows=lambda rollouts: rollouts.teacher(),
    # Every token of a solution, its end of text included: here the teacher wrote them all.
    weighting=protocol.weighting("observational"),
    speakers=(Author.TEACHER,),
    colour="#66707c",
    marker="s",
)
