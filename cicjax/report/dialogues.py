"""The page of the experiment on dialogues."""

import math
from collections.abc import Sequence

from cicjax.experiments.dialogues.settings import PAIR
from cicjax.report.drawing import Drawing
from cicjax.report.probed import Probed, curves, shared_arms, spread
from cicjax.views.html import Child, table, tag

TITLE = "The agent that lies"
WHAT = (
    "A user asks, the agent claims, falsely with probability p, and the user, who knows, confirms or "
    "corrects "
    "and restates the truth. Loss (1) learns everybody's words, loss (2) all but the agent's. The margin is "
    "log p(true claim) − log p(false claim) in the agent's place, in nats, after “Tell me about ...”."
)
KEYS = ("margin_mean", "margin_sum", "lie_preferred", "facts", "by_fact", "after_truth", "after_falsehood")


def draw(runs: Sequence[Probed]) -> list[Drawing]:
    """The margin against the probability of a lie, and over rounds on the model's own claims."""
    drawings = []
    if lies := list(runs[0].results["p_lie"]):
        series = {
            arm.name: {float(p): [run.results["p_lie"][p][arm.name] for run in runs] for p in lies}
            for arm in PAIR
        }
        inner = [step / 100 for step in range(8, 95, 2)]
        caption = (
            "Margin in nats by the probability of a lie. An agent's place that imitates follows log((1 − "
            "p) / p), "
            "dotted, and crosses 0 at one half; one that only listens should be flat."
        )
        exact = {"log((1 − p) / p)": {p: math.log((1 - p) / p) for p in inner}}
        drawings.append(
            curves("dialogues-margin", series, x="p of a lie", y="margin, nats", caption=caption, exact=exact)
        )
    if len(runs[0].results["rounds"][PAIR[0].name]) > 1:
        taken_up = runs[0].results["rounds"]["corrected"]
        caption = (
            "Rounds: the model's own claims, drawn by its own odds of the true and the false one, taken up "
            f"by the user with probability {taken_up:g}, and trained on again."
        )
        false = "The same rounds: the share of facts whose false claim is the likelier one."
        margin = curves(
            "dialogues-rounds", _rounds(runs, "margin_sum"), x="round", y="margin, nats", caption=caption
        )
        lies = curves(
            "dialogues-lies", _rounds(runs, "lie_preferred"), x="round", y="lie preferred", caption=false
        )
        drawings += [margin, lies]
    return drawings


def _rounds(runs: Sequence[Probed], key: str) -> dict[str, dict[float, list[float]]]:
    """A number of every round, by arm: of all seeds."""
    rounds = [run.results["rounds"] for run in runs]
    return {
        arm.name: {
            float(n): [each[arm.name][n][key] for each in rounds] for n in range(len(rounds[0][arm.name]))
        }
        for arm in PAIR
    }


def results(runs: Sequence[Probed]) -> tuple[str, str, list[Child]]:
    """The table of arms, means over seeds."""
    head = ["arm", "margin, nats", "nats a token", "lie preferred", "after the truth", "after the falsehood"]
    rows = []
    for name in shared_arms(runs):
        arms = [run.arms[name] for run in runs]
        shares = sum(arm["lie_preferred"] for arm in arms) / len(arms)
        after = [spread([arm[key]["margin_sum"] for arm in arms]) for key in KEYS[-2:]]
        rows.append(
            [
                name,
                spread([arm["margin_sum"] for arm in arms]),
                spread([arm["margin_mean"] for arm in arms], 3),
                f"{shares:.0%}",
                *after,
            ]
        )
    sentence = (
        f"{runs[0].arms[next(iter(runs[0].arms))]['facts']} facts, p of a lie "
        f"{runs[0].results['settings']['lie']:g}; "
        "after the truth, after the falsehood: the user has just stated the one or the other."
    )
    return "results", "Results", [tag("p", sentence), table(head, rows, caption="Margins by arm.")]
