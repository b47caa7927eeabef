"""The page of the online experiment: what its arms answered, over events and over corrections, and the
contrasts that were fixed beforehand."""

from collections.abc import Mapping, Sequence
from typing import Any

from cicjax.experiments.online import arms as named_arms
from cicjax.experiments.online import results as measured
from cicjax.report.curves import Mark, lines, over_seeds, share
from cicjax.report.drawing import Drawing, signed
from cicjax.report.probed import Probed, spread
from cicjax.statistics import wilson
from cicjax.views.html import Child, bullets, table, tag

TITLE = "An agent that learns while it answers"
WHAT = (
    "An agent is taught half of the skills, then asked a stream of questions, each once: known skills, new "
    "ones, all. What is wrong is corrected, and it learns eight questions at a time. A first answer is given "
    "before its question is learned from. All arms share questions, their order, samples and replay; replay "
    "only is what any other has to be compared with."
)
COLUMNS = dict(zip(("stream", "new skills", "kept", "end", "second", "nats"), measured.MEASURES, strict=True))
KEYS = (*measured.MEASURES, "phases", "curve", "checks", "corrected")
# Those that the contrasts speak of, and the floor; the tables have all.
DRAWN = ("frozen", *dict.fromkeys(name for pair in named_arms.CONTRASTS for name in pair))


def draw(runs: Sequence[Probed]) -> list[Drawing]:
    """First answers over events and over corrections, and greedy answers on the way."""
    of = "Shares of one run with Wilson's interval." if len(runs) == 1 else "Means of seeds with Student's."
    drawn = {label(name): name for name in runs[0].arms if name in DRAWN}

    def series(key: str, x: str) -> dict[str, list[Mark]]:
        return {shown: _marks(runs, name, key, x) for shown, name in drawn.items()}

    first = f"First answers, by block of the stream. {of}"
    return [
        lines("online-events", series("curve", "events"), x="events", y="right", caption=first),
        lines(
            "online-corrections",
            series("curve", "corrected"),
            x="corrections",
            y="right",
            caption=f"The same blocks by how many corrections there were by then. {of}",
        ),
        lines(
            "online-checks",
            series("checks", "events"),
            x="events",
            y="right",
            caption=f"Greedy answers to fixed problems of all skills, on the way. {of}",
        ),
    ]


def _marks(runs: Sequence[Probed], name: str, key: str, x: str) -> list[Mark]:
    rows = [run.arms[name][key] for run in runs]
    marks = []
    for blocks in zip(*rows, strict=True):
        xs = [block[x] for block in blocks]
        if len(runs) == 1:
            marks.append(share(xs[0], blocks[0]["solved"], blocks[0]["questions"]))
        else:
            marks.append(over_seeds(xs, [block["solved"] / block["questions"] for block in blocks]))
    return marks


def label(name: str) -> str:
    """An arm as pages call it."""
    return named_arms.named(name).label


def results(runs: Sequence[Probed]) -> tuple[str, str, list[Child]]:
    """The contrasts in words, every arm's measures, first answers by phase, and what the arms are."""
    children: list[Child] = [_contrasts(runs), _measures(runs), _phases(runs)]
    meanings = (f"{label(name)}: {named_arms.named(name).meaning}" for name in runs[0].arms)
    return "results", "Results", [*children, tag("p", "The arms:"), bullets(meanings)]


def _contrasts(runs: Sequence[Probed]) -> Child:
    found = measured.contrasts([run.arms for run in runs])
    short = {key: name for name, key in COLUMNS.items()}
    rows = [
        [
            f"{label(row['arm'])} − {label(row['against'])}",
            short[row["measure"]],
            signed(row["gain"], 3),
            "–" if row["low"] is None else f"{signed(row['low'], 3)} to {signed(row['high'], 3)}",
            f"{row['p']:.3f}",
            row["word"],
        ]
        for row in found
    ]
    seeds = "1 seed" if len(runs) == 1 else f"{len(runs)} seeds"
    meant = "; ".join(f"{name}: {measured.MEASURES[key]}" for key, name in short.items())
    caption = (
        f"Fixed beforehand, paired over {seeds}; p by sign flips, Holm's within a measure. A gain is what "
        f"the first arm is better by. {meant}."
    )
    return table(["contrast", "measure", "gain", "interval", "p", "word"], rows, caption=caption)


def _measures(runs: Sequence[Probed]) -> Child:
    columns = COLUMNS | {"corrections": "corrected"}
    digits = {"nats": 3, "corrected": 0}
    rows = [
        [
            label(name),
            *(spread([run.arms[name][key] for run in runs], digits.get(key, 2)) for key in columns.values()),
        ]
        for name in runs[0].arms
    ]
    return table(["arm", *columns], rows, caption="Every arm, by the same measures.")


def _phases(runs: Sequence[Probed]) -> Child:
    phases = list(runs[0].arms[next(iter(runs[0].arms))]["phases"])
    rows = [[label(name), *(_phase(runs, name, phase) for phase in phases)] for name in runs[0].arms]
    caption = "First answers by phase of the stream, counts of all seeds with Wilson's interval."
    return table(["arm", *phases], rows, caption=caption)


def _phase(runs: Sequence[Probed], name: str, phase: str) -> str:
    counts: Sequence[Mapping[str, Any]] = [run.arms[name]["phases"][phase] for run in runs]
    solved, questions = (sum(each[key] for each in counts) for key in ("solved", "questions"))
    low, high = wilson(solved, questions)
    return f"{solved}/{questions} ({low:.0%} to {high:.0%})"
