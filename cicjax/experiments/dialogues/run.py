"""The experiment on dialogues, stage by stage: arms at one probability of a lie, the curve over it, rounds on
the model's own claims. Every stage is done once; the same command goes on where the last one stopped."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import numpy as np

from cicjax.devices import hosts
from cicjax.experiments import chats
from cicjax.experiments.chats import BASE
from cicjax.experiments.dialogues import probes
from cicjax.experiments.dialogues.settings import PAIR, Arm
from cicjax.files.seal import read_json, write_json
from cicjax.model import qwen2
from cicjax.statistics import bootstrap
from cicjax.tasks.dialogues.build import build, plans
from cicjax.tasks.dialogues.facts import FACTS, Fact


@dataclass(frozen=True, kw_only=True)
class Run(chats.Run):
    """Also the arms that were asked for, and the facts."""

    arms: Sequence[Arm]

    @property
    def facts(self) -> tuple[Fact, ...]:
        """As many as the scale has, of both kinds."""
        count = self.settings.counts.facts
        return FACTS if count is None else FACTS[:: len(FACTS) // count][:count]


def results(run: Run) -> dict[str, Any]:
    """Everything that the scale asks for; the contents of results.json."""
    settings, counts = run.settings, run.settings.counts
    arms = {BASE: summary(run, BASE, None)}
    arms |= {
        arm.name: summary(run, arm.name, lambda arm=arm: trained(run, arm, settings.lie)) for arm in run.arms
    }
    curve: dict[str, dict[str, float]] = {
        f"{p:g}": {
            arm.name: summary(
                run,
                arm.name if p == settings.lie else f"{arm.name}-{p:g}",
                lambda arm=arm, p=p: trained(run, arm, p),
            )["margin_sum"]
            for arm in PAIR
        }
        for p in counts.p_lie
    }
    rounds = {"corrected": settings.corrected} | {arm.name: own_rounds(run, arm) for arm in PAIR}
    record = {"experiment": "dialogues", "model": run.policy.fingerprint, "seed": settings.seed}
    return record | {"settings": settings.record(), "arms": arms, "p_lie": curve, "rounds": rounds}


def trained(run: Run, arm: Arm, lies: float) -> qwen2.Tree:
    """The adapter of an arm at this probability of a lie."""
    counts = run.settings.counts
    planned = plans(run.settings.seed, count=counts.dialogues, facts=run.facts)
    rows = arm.rows(planned, lies)
    return chats.train(run, arm, f"{arm.name}-{lies:g}", rows, start=run.fresh(), epochs=counts.epochs)


def summary(run: Run, name: str, adapter: Callable[[], qwen2.Tree] | None) -> dict[str, Any]:
    """An arm's row of results.json, kept in probes/NAME.json; `adapter` is asked where that is missing."""
    path = run.folder / "probes" / f"{name}.json"
    if not path.exists():
        tree, facts = None if adapter is None else adapter(), run.facts
        found = {what: probes.margins(run.policy, tree, facts, stated=s) for what, s in probes.BEFORE.items()}
        record = described(found, facts, seed=run.settings.seed)
        hosts.once(lambda: write_json(path, record))
    return read_json(path)


def described(found: dict[str, probes.Margins], facts: Sequence[Fact], *, seed: int) -> dict[str, Any]:
    """Means over facts with intervals by resampling facts, and every fact."""
    mean, total = found["margin"]
    invented = np.array([fact.kind == "invented" for fact in facts])
    return {
        "margin_mean": float(mean.mean()),
        "margin_sum": float(total.mean()),
        "margin_mean_interval": list(bootstrap(mean.tolist(), seed=seed)),
        "margin_sum_interval": list(bootstrap(total.tolist(), seed=seed)),
        "margin_sum_invented": float(total[invented].mean()) if invented.any() else None,
        "lie_preferred": float((total < 0).mean()),
        "facts": len(facts),
        "by_fact": {fact.topic: float(value) for fact, value in zip(facts, total, strict=True)},
        **{
            what: {
                "margin_sum": float(found[what].sum.mean()),
                "true_preferred": float((found[what].sum > 0).mean()),
            }
            for what in ("after_truth", "after_falsehood")
        },
    }


def own_rounds(run: Run, arm: Arm) -> list[dict[str, float | None]]:
    """The model's own claims, drawn by its own odds of the true and the false one, taken up by the user now
    and then, and trained on: what it holds before the first round and after each."""
    settings, adapter = run.settings, run.fresh()
    counts, rows, false = settings.counts, [summary(run, BASE, None)], []
    for number in range(1, counts.rounds + 1):
        name = f"{arm.name}-round-{number}"
        planned = plans(settings.seed + 1000 * number, count=counts.dialogues, facts=run.facts)
        lies = {topic: 1 / (1 + np.exp(margin)) for topic, margin in rows[-1]["by_fact"].items()}
        spoken = build(planned, lambda fact, lies=lies: lies[fact.topic], silence=1 - settings.corrected)
        false.append(float(np.mean([each.messages[2].solved == 0 for each in spoken])))
        adapter = chats.train(run, arm, name, spoken, start=adapter, epochs=counts.epochs)
        rows.append(summary(run, name, lambda adapter=adapter: adapter))
    said = [{"false": share} for share in false]
    return [_held(row, rows[0]) | more for row, more in zip_longest(rows, said, fillvalue={})]


def _held(row: Mapping[str, Any], first: Mapping[str, Any]) -> dict[str, float | None]:
    """A round's margins, and of the facts that were wrong before the first round the share that is still;
    None where none was."""
    wrong = [topic for topic, margin in first["by_fact"].items() if margin < 0]
    still = float(np.mean([row["by_fact"][topic] < 0 for topic in wrong])) if wrong else None
    return {key: row[key] for key in ("margin_mean", "margin_sum", "lie_preferred")} | {"still_wrong": still}
