"""The page of an agent's home: how its answers were judged, over answers and over corrections, every version
with the gate's numbers, and who taught what. Read beside whoever is at work there; needs no model."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from cicjax.agent import gate
from cicjax.agent.events import Event
from cicjax.agent.home import Home
from cicjax.agent.retention import disk
from cicjax.agent.store import NAME, Store
from cicjax.agent.versions import History, Version
from cicjax.errors import BadInput
from cicjax.report import accounts, sections
from cicjax.report.curves import Mark, lines, share
from cicjax.report.drawing import Drawing
from cicjax.report.runs import settings_lines
from cicjax.statistics import wilson
from cicjax.views.html import Child, Html, bullets, join, page, table, tag

TITLE = "An agent that goes on learning"
BLOCKS, SMALLEST = 12, 5
TRIALS = 400  # of each cell of the gate's table


@dataclass(frozen=True)
class Living:
    """A home: its identity, its log, and what that amounts to. `events` are those that the page counts."""

    folder: Path
    home: Home
    history: History
    events: list[Event] = field(repr=False)

    @cached_property
    def judged(self) -> list[tuple[int, int, int]]:
        """(number of the answer, lessons before it, right) of every answer that was judged, in order; the
        last verdict counts."""
        verdicts = {event.parent: event.solved for event in self.events if event.kind == "verdict"}
        answers, lessons, rows = 0, 0, []
        for event in self.events:
            lessons += event.lesson is not None
            answers += event.kind == "begin"
            if event.kind == "begin" and event.seq in verdicts:
                rows.append((answers, lessons, verdicts[event.seq]))
        return rows


def is_home(folder: Path) -> bool:
    """Whether an agent lives in the folder."""
    return (folder / NAME).is_file()


def read_home(folder: Path) -> Living:
    """The home in a folder. Raises BadInput where none is, Corrupted where it cannot be read."""
    home, history = Home.read(folder), History()
    with Store(folder, read_only=True, follow=history.apply) as store:
        events = [event for event in store.events() if event.kind != "message"]
    if not history.versions:
        raise BadInput(f"{folder}: the agent was not made whole; repeat `cicjax agent new {folder}`")
    return Living(folder, home, history, events)


def draw(living: Living) -> list[Drawing]:
    """Answers that were judged, over answers and over corrections; the gate's problems, over versions."""
    drawings, judged = [], living.judged
    size = max(len(judged) // BLOCKS, SMALLEST)
    blocks = [judged[first : first + size] for first in range(0, len(judged), size)]
    for name, place, x in (("answers", 0, "answers"), ("corrections", 1, "lessons before the answer")):
        marks = [share(block[-1][place], sum(row[2] for row in block), len(block)) for block in blocks]
        caption = f"Answers that were judged right, by block of {size}, with Wilson's interval."
        if marks:
            series = {"judged right": marks}
            drawings.append(lines(f"agent-{name}", series, x=x, y="right", caption=caption))
    gated = [version for version in _versions(living) if version.numbers]
    if gated:
        drawings.append(_gated(gated))
    return drawings


def _gated(versions: Sequence[Version]) -> Drawing:
    rows = {state: [_mark(each) for each in versions if each.state == state] for state in _states(versions)}
    first = versions[0].numbers
    level = "anchor of the first", first["right_anchor"] / first["problems"]
    caption = (
        "Greedy answers to the gate's problems, by version and what became of it, with Wilson's interval."
    )
    return lines("agent-gate", rows, x="version", y="right", caption=caption, level=level)


def _mark(version: Version) -> Mark:
    return share(version.number, version.numbers["right"], version.numbers["problems"])


def _states(versions: Sequence[Version]) -> list[str]:
    return list(dict.fromkeys(version.state for version in versions))


def _versions(living: Living) -> list[Version]:
    return [living.history.versions[number] for number in sorted(living.history.versions)]


def render(living: Living, drawings: Sequence[Drawing]) -> str:
    """The whole page as text."""
    identity, status = living.home.identity, living.history.status()
    judged, right = len(living.judged), sum(row[2] for row in living.judged)
    low, high = wilson(right, judged)
    facts = [
        f"weights: {Path(identity.model).name if identity.model else 'the embedded base'}",
        f"version {status['serving']} of {status['versions']} serves, the anchor is {status['anchor']}",
        f"{status['lessons']} lessons: {status['learned']} learned, {status['waiting']} wait, "
        f"{status['set_aside']} set aside, {status['forgotten']} forgotten",
        f"{status['attempts']} answers, {judged} of them judged, {right} right"
        + (f" ({low:.0%} to {high:.0%})" if judged else ""),
    ]
    told = "Whoever is judged chooses what is seen: the share of answers that were judged stands beside it."
    parts: list[sections.Section] = [
        ("versions", "Versions", [_table_of_versions(living)]),
        ("sources", "Sources", [_table_of_sources(living), *_refused(living)]),
    ]
    if drawings:
        parts.insert(0, sections.drawings(drawings))
    if living.home.identity.settings.gate.problems:
        parts.append(("gate", "The gate's error rates", [_rates(living)]))
    place = disk(living.folder)
    there = f"{len(place['on_disk'])} versions on disk, {place['disk_bytes'] / 1e6:.1f} MB in all."
    settings = accounts.named_values(
        dict(settings_lines(identity.settings.record())),
        head=("setting", ""),
        caption="From config.json: what its weights depend on, beside its base and its log.",
        kind="text",
    )
    parts.append(("origin", "What it is", [tag("p", there), settings]))
    header = join([tag("h1", TITLE), bullets(facts, "facts"), tag("p", told)])
    return page(
        TITLE, header=header, sections=parts, footer=tag("p", "Intervals are 95 %, Wilson's.", class_="soft")
    )


def _table_of_versions(living: Living) -> Html:
    history = living.history
    rows = []
    for version in _versions(living):
        by = Counter(history.lessons[number].source for number in version.lessons)
        mark = " (serves)" if version.number == history.serving else ""
        rows.append(
            [
                f"{version.number}{mark}",
                "–" if version.parent is None else version.parent,
                version.state,
                ", ".join(f"{count} of {source}" for source, count in by.items()) or "–",
                *_gate_numbers(version.numbers),
                version.reason or "–",
                version.digest[:12],
            ]
        )
    head = ["version", "parent", "state", "lessons", "right", "serving", "anchor", "p", "why not", "digest"]
    caption = (
        "The gate: right answers of the version, of the one that served and of the anchor; the smaller p."
    )
    return table(head, rows, caption=caption)


def _gate_numbers(numbers: Mapping[str, Any]) -> list[Child]:
    if not numbers:
        return ["–"] * 4
    asked = numbers["problems"]
    shares = [f"{numbers[key]}/{asked}" for key in ("right", "right_serving", "right_anchor")]
    p = min(numbers[f"{what}_p_{than}"] for what in ("right", "formed") for than in ("serving", "anchor"))
    return [*shares, f"{p:.2g}"]


def _table_of_sources(living: Living) -> Html:
    history = living.history
    lessons = list(history.lessons.values())
    rows = []
    for name, source in history.sources.items():
        own = [lesson for lesson in lessons if lesson.source == name]
        fates = Counter(history.state_of(lesson.number).split()[0] for lesson in own)
        rejected = {
            version.number
            for version in history.versions.values()
            if version.state == "rejected" and {lesson.number for lesson in own} & set(version.lessons)
        }
        rights = "forgotten" if name in history.excluded else ", ".join(sorted(source.rights))
        counts = [fates[key] for key in ("learned", "waits", "set", "forgotten")]
        rows.append([name, rights, len(own), *counts, len(rejected)])
    head = ["source", "may", "lessons", "learned", "wait", "set aside", "forgotten", "versions rejected"]
    caption = "Who taught, what became of it, and how many versions with lessons of it the gate rejected."
    return table(head, rows, caption=caption)


def _refused(living: Living) -> list[Child]:
    """What was said and is no lesson, by reason."""
    said = ("correction", "reply", "demonstration", "observation", "verdict")
    reasons = Counter(
        event.reason
        for event in living.events
        if event.kind in said and event.lesson is None and event.reason
    )
    if not reasons:
        return []
    return [table(["reason", "times"], reasons.most_common(), caption="What was said and is no lesson.")]


def _rates(living: Living) -> Html:
    """How often the rule rejects a version, simulated with the home's own settings."""
    settings = living.home.identity.settings.gate
    losses = (0.0, 0.02, 0.05, 0.10)
    rows = [
        [
            f"{changed:.0%}",
            *(
                f"{gate.rejected_share(settings, gate.Chance(changed, lost), trials=TRIALS):.1%}"
                for lost in losses
            ),
        ]
        for changed in (0.04, 0.10)
    ]
    head = ["answers changed by chance", "harmless", *(f"−{lost * 100:.0f} points" for lost in losses[1:])]
    caption = f"Share of versions rejected on {settings.problems} problems, {TRIALS} simulated."
    return table(head, rows, caption=caption)
