"""The page of the experiment on boxes."""

from collections.abc import Sequence

from cicjax.report.drawing import Drawing
from cicjax.report.probed import Probed, curves, shared_arms, spread
from cicjax.views.html import Child, table, tag

TITLE = "Boxes: delusion where the truth is known"
WHAT = (
    "A prize is in one of two boxes. Experts' records are by somebody who knew in which, so a prize is "
    "likely "
    "where they looked; for an agent that does not know, it is as likely here as there. What does a "
    "model trained "
    "on the one or the other say of a prize before a box is opened?"
)
KEYS = ("stated", "error", "error_conditional", "prizes")


def draw(runs: Sequence[Probed]) -> list[Drawing]:
    """The stated probability of a prize by round, and its distance from the truth."""
    arms = shared_arms(runs)
    rounds = range(len(runs[0].arms[arms[0]]["stated"]))

    def series(key: str) -> dict[str, dict[float, list[float]]]:
        return {arm: {float(n + 1): [run.arms[arm][key][n] for run in runs] for n in rounds} for arm in arms}

    theory = {
        name: {float(n + 1): value for n, value in enumerate(line)}
        for name, line in runs[0].results["bayes"].items()
    }
    said = (
        "Mean stated P(prize) before the box is opened, over the histories of somebody who opens boxes "
        "by a coin."
    )
    off = "Mean distance of the stated P(prize) from P(prize | history, do(a)), by round."
    return [
        curves("boxes-stated", series("stated"), x="round", y="P(prize)", caption=said, exact=theory),
        curves("boxes-error", series("error"), x="round", y="distance from do(a)", caption=off),
    ]


def results(runs: Sequence[Probed]) -> tuple[str, str, list[Child]]:
    """The table of arms, the first round and the last."""
    head = [
        "arm",
        "stated, first",
        "stated, last",
        "off do(a), first",
        "off do(a), last",
        "off conditioning, last",
        "prizes, last",
    ]
    rows = []
    for name in shared_arms(runs):
        columns = (
            ("stated", 0),
            ("stated", -1),
            ("error", 0),
            ("error", -1),
            ("error_conditional", -1),
            ("prizes", -1),
        )
        rows.append([name, *(spread([run.arms[name][key][n] for run in runs]) for key, n in columns)])
    sentence = (
        "off: mean absolute distance of the stated P(prize) from P(prize | history, do(a)), or from what "
        "counting the "
        "actions as an expert's gives. prizes: the share of prizes when the model opens boxes by its own "
        "odds."
    )
    return "results", "Results", [tag("p", sentence), table(head, rows, caption="Beliefs by arm.")]
