"""The page of the experiment on dialogues."""

import math
from collections.abc import Sequence

from cicjax.experiments.dialogues.settings import INTERVENTIONAL, PAIR
from cicjax.report.drawing import Drawing
from cicjax.report.probed import Probed, Record, curves, shared_arms, spread
from cicjax.statistics import bootstrap
from cicjax.views.html import Child, table, tag

ROUNDS = {
    "margin_sum": "margin, nats",
    "lie_preferred": "lie preferred",
    "still_wrong": "still wrong of what was",
}
MASKED = INTERVENTIONAL.name
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
    """The table of arms, means over seeds, and what parts the masked arm from each other one."""
    head = ["arm", "margin, nats", "nats a token", "lie preferred", "after the truth", "after the falsehood"]
    rows = [[name, *_row([run.arms[name] for run in runs])] for name in shared_arms(runs)]
    sentence = (
        f"{runs[0].arms[next(iter(runs[0].arms))]['facts']} facts, p of a lie "
        f"{runs[0].results['settings']['lie']:g}. After the truth, after the falsehood: the user has just "
        "stated the one or the other and asks; the margin, and the share of facts whose true claim is the "
        "likelier one."
    )
    parts: list[Child] = [tag("p", sentence), table(head, rows, caption="Margins by arm.")]
    if pairs := _paired(runs):
        said = (
            "Of each fact the mean over seeds of the difference between two margins; the interval is by "
            "resampling facts and says nothing of other seeds."
        )
        head = ["masked minus", "margin, nats", "95 % over facts"]
        parts += [tag("p", said), table(head, pairs, caption="Paired by fact.")]
    return "results", "Results", [*parts, *_curves(runs)]


def _curves(runs: Sequence[Probed]) -> list[Child]:
    """What the figures draw, in numbers; nothing where the scale has no curves."""
    parts: list[Child] = []
    if lies := list(runs[0].results["p_lie"]):
        rows = [
            [arm.name, *(spread([run.results["p_lie"][p][arm.name] for run in runs]) for p in lies)]
            for arm in PAIR
        ]
        parts.append(table(["margin, nats", *lies], rows, caption="By the probability of a lie."))
    if len(runs[0].results["rounds"][PAIR[0].name]) > 1:
        rows = [
            [f"{arm}, {what}", *map(spread, rounds.values())]
            for key, what in ROUNDS.items()
            if _told_by_all(runs, key)
            for arm, rounds in _rounds(runs, key).items()
        ]
        head = ["after round", *map(str, range(len(rows[0]) - 1))]
        parts.append(table(head, rows, caption="On the model's own claims."))
    return parts


def _told_by_all(runs: Sequence[Probed], key: str) -> bool:
    """Whether every round of every run has this number: where nothing was wrong, nothing can still be."""
    return all(
        each.get(key) is not None for run in runs for arm in PAIR for each in run.results["rounds"][arm.name]
    )


def _row(arms: Sequence[Record]) -> list[str]:
    """An arm of every seed; the interval is over seeds, of a single one over facts."""
    lies = sum(arm["lie_preferred"] for arm in arms) / len(arms)
    row = [_margin(arms, "margin_sum", 2), _margin(arms, "margin_mean", 3), f"{lies:.0%}"]
    for key in KEYS[-2:]:
        share = [arm[key]["true_preferred"] for arm in arms if "true_preferred" in arm[key]]
        told = f", {sum(share) / len(share):.0%}" if share else ""
        row.append(spread([arm[key]["margin_sum"] for arm in arms]) + told)
    return row


def _margin(arms: Sequence[Record], key: str, digits: int) -> str:
    told = spread([arm[key] for arm in arms], digits)
    if len(arms) > 1 or f"{key}_interval" not in arms[0]:
        return told
    low, high = arms[0][f"{key}_interval"]
    return f"{told} ({low:.{digits}f} to {high:.{digits}f}, over facts)"


def _paired(runs: Sequence[Probed]) -> list[list[str]]:
    """The masked arm minus each other one, by fact."""
    names = shared_arms(runs)
    if MASKED not in names:
        return []
    rows = []
    for name in names:
        if name == MASKED:
            continue
        facts = runs[0].arms[MASKED]["by_fact"]
        differences = [
            math.fsum(run.arms[MASKED]["by_fact"][fact] - run.arms[name]["by_fact"][fact] for run in runs)
            / len(runs)
            for fact in facts
        ]
        low, high = bootstrap(differences, seed=0)
        mean = math.fsum(differences) / len(differences)
        rows.append([name, f"{mean:+.2f}", f"{low:+.2f} to {high:+.2f}"])
    return rows
