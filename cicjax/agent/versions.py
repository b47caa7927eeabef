"""What the log amounts to: versions and their lineage, the head, the version that serves, and what became of
every lesson. A fold over events; nothing here is state of its own.

A version is one learning step after its parent. The head is what the next step starts from. A lesson is
learned where it is in the lineage of the head; otherwise it waits, was set aside, or is forgotten.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from cicjax.agent import trust
from cicjax.agent.events import Event
from cicjax.agent.trust import Source
from cicjax.errors import BadInput

PLANNED, KEPT, SERVED, REJECTED, FORGOTTEN = "planned", "kept", "served", "rejected", "forgotten"


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """A numbered lesson: the event that it is, its source, and who had asked."""

    number: int
    seq: int
    source: str
    asked_by: str = ""


@dataclass(frozen=True, kw_only=True)
class Version:
    """A learning step and what it came to; version 0 is what the agent was made with. `depth` counts the
    steps of its lineage, `replay` holds the events that were replayed, `before` is what served when it was
    planned, `digest` is empty where nothing came of it, and `reason` says why it was rejected."""

    number: int
    parent: int | None
    depth: int
    lessons: tuple[int, ...] = ()
    replay: tuple[int, ...] = ()
    plan: int = 0
    before: int = 0
    state: str = PLANNED
    digest: str = ""
    numbers: Mapping[str, Any] = field(default_factory=dict)
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Course:
    """What has come of a version that a person chose, or of the one that the agent was made with: the
    versions that were planned since, those apart that were undone."""

    head: int
    serving: int
    versions: list[int] = field(default_factory=list)


class History:
    """The log, read so far. `apply` takes its events in order."""

    def __init__(self) -> None:
        self.sources: dict[str, Source] = {}
        self.versions: dict[int, Version] = {}
        self.lessons: dict[int, Lesson] = {}
        self.seeds: dict[int, str] = {}  # demonstrations to replay, and their sources
        self.head = self.serving = 0
        self.confirmed: list[int] = [0]
        self.aside: dict[int, str] = {}
        self.excluded: set[str] = set()
        self.retention: Mapping[str, int] = {}
        self.marks: set[int] = set()  # events that asked that all lessons before be learned
        self._by_seq: dict[int, Lesson] = {}
        self._rolled_back: set[int] = set()
        self._courses = [Course(head=0, serving=0)]
        self._declared: dict[str, list[tuple[int, Source]]] = {}
        self._attempts = self._judged = self._right = 0

    def apply(self, event: Event) -> None:
        """Take the next event."""
        if event.lesson is not None:
            asked_by = event.facts.get("asked_by", "")
            lesson = Lesson(number=event.lesson, seq=event.seq, source=event.source, asked_by=asked_by)
            self.lessons[event.lesson] = self._by_seq[event.seq] = lesson
        elif event.kind == "demonstration" and event.facts.get("replay"):
            self.seeds[event.seq] = event.source
        taken = getattr(self, f"_{event.kind}", None)
        if taken is not None:
            taken(event)

    def _home(self, event: Event) -> None:
        self.versions[0] = Version(number=0, parent=None, depth=0, state=SERVED, digest=event.facts["digest"])

    def _attempt(self, event: Event) -> None:
        self._attempts += 1

    def _verdict(self, event: Event) -> None:
        self._judged += 1
        self._right += event.solved

    def _source(self, event: Event) -> None:
        source = trust.declared(event.facts)
        self.sources[source.name] = source
        self._declared.setdefault(source.name, []).append((event.seq, source))

    def _learn(self, event: Event) -> None:
        self.marks.add(event.seq)

    def _plan(self, event: Event) -> None:
        facts, parent = event.facts, self.versions[event.facts["parent"]]
        version = Version(
            number=facts["version"],
            parent=parent.number,
            depth=parent.depth + 1,
            lessons=tuple(facts["lessons"]),
            replay=tuple(facts["replay"]),
            plan=event.seq,
            before=self.serving,
        )
        self.versions[version.number] = version
        self._courses[-1].versions.append(version.number)

    def _outcome(self, event: Event) -> None:
        facts = event.facts
        number, state = facts["version"], facts["state"]
        numbers = facts.get("gate", {})
        self.versions[number] = replace(
            self.versions[number],
            state=state,
            digest=facts["digest"],
            numbers=numbers,
            reason=event.reason or numbers.get("reason", ""),
        )
        self.head = number
        if state == SERVED:
            self.serving = number
        elif state == REJECTED:
            for lesson in self._since(self.serving):
                self.aside[lesson] = f"rejected with version {number}"
            for each in self.lineage(number):
                if each.number not in {kept.number for kept in self.lineage(self.serving)}:
                    self.versions[each.number] = replace(each, state=REJECTED)
            self.head = self.serving

    def _serve(self, event: Event) -> None:
        number = event.facts["version"]
        for lesson in self._since(number):
            self.aside[lesson] = f"rolled back to version {number}"
            self._rolled_back.add(lesson)
        self.head = self.serving = number
        self._courses.append(Course(head=number, serving=number))
        for lesson in self.learned():
            self.aside.pop(lesson, None)
        if event.facts["confirmed"]:
            self.confirmed.append(number)

    def _retention(self, event: Event) -> None:
        self.retention = event.facts

    def _since(self, number: int) -> set[int]:
        """Lessons in the lineage of the head and not in that of this version."""
        return set(self.learned()) - set(self.learned(number))

    def _admit(self, event: Event) -> None:
        for lesson in event.facts["lessons"]:
            self.aside.pop(lesson, None)
            self._rolled_back.discard(lesson)

    def _exclude(self, event: Event) -> None:
        source = event.facts["source"]
        self.excluded.add(source)
        fallen = self._without(source)
        # Where a person has gone back to a version without it, what was planned before is undone already.
        undone = list[int]()
        while not self._living(self._courses[-1].head):
            undone += self._courses.pop().versions
        course = self._courses[-1]
        first = next((n for n, number in enumerate(course.versions) if number in fallen), None)
        if first is not None:
            version = self.versions[course.versions[first]]
            assert version.parent is not None
            self.head, self.serving = version.parent, version.before
            undone += course.versions[first:]
            del course.versions[first:]
        elif not self._living(self.head):
            self.head, self.serving = course.head, course.serving
        else:
            return
        # As it was before; what was learned or rejected since waits.
        for number in undone:
            for lesson in set(self.versions[number].lessons) - self._rolled_back:
                self.aside.pop(lesson, None)
        for version in list(self.lineage(self.head)):
            if version.state == REJECTED:
                self.versions[version.number] = replace(version, state=KEPT)
            for lesson in version.lessons:
                self.aside.pop(lesson, None)

    def _without(self, source: str) -> set[int]:
        """Forget the versions that have learned from a source or come from one that has, and give them."""
        living = [version for number, version in self.versions.items() if self._living(number)]
        stained = {version.number for version in living if self._contains(version, source)}
        fallen = [each for each in living if any(v.number in stained for v in self.lineage(each.number))]
        for version in fallen:
            self.versions[version.number] = replace(version, state=FORGOTTEN)
        return {version.number for version in fallen}

    def _living(self, number: int) -> bool:
        return self.versions[number].state != FORGOTTEN

    def _contains(self, version: Version, source: str) -> bool:
        lessons = [self.lessons[number] for number in version.lessons]
        lessons += [self._by_seq[seq] for seq in version.replay if seq in self._by_seq]
        replayed = {self.seeds[seq] for seq in version.replay if seq in self.seeds}
        return source in replayed or any(source in (each.source, each.asked_by) for each in lessons)

    def lineage(self, number: int) -> Iterator[Version]:
        """A version and those that it came from, the newest first."""
        following: int | None = number
        while following is not None:
            version = self.versions[following]
            yield version
            following = version.parent

    def learned(self, number: int | None = None) -> list[int]:
        """Lessons of a version's lineage, the head's by default, in the order in which they were learned."""
        chain = list(self.lineage(self.head if number is None else number))
        return [lesson for version in reversed(chain) for lesson in version.lessons]

    def waiting(self) -> list[Lesson]:
        """Lessons that are to be learned, in order."""
        taken = set(self.learned()) | self.aside.keys()
        open_plan = self.open_plan()
        taken |= set(open_plan.lessons) if open_plan else set()
        return [
            lesson
            for lesson in self.lessons.values()
            if lesson.number not in taken and not self.forgotten(lesson)
        ]

    def open_plan(self) -> Version | None:
        """The step that was planned and has come to nothing yet."""
        newest = self.versions[max(self.versions)]
        return newest if newest.state == PLANNED else None

    @property
    def anchor(self) -> int:
        """The last version that a person confirmed, or the one that the agent was made with."""
        usable = (n for n in reversed(self.confirmed) if self.versions[n].state != FORGOTTEN)
        return next(usable, 0)

    def source_at(self, name: str, seq: int) -> Source:
        """A source as it was declared before event `seq`."""
        return [source for declared, source in self._declared[name] if declared < seq][-1]

    def record(self, number: int) -> dict[str, Any]:
        """A version as JSON: what it learned, of whom, and what the gate said."""
        version = self.version(number)
        return {
            "version": number,
            "digest": version.digest,
            "serving": number == self.serving,
            "state": version.state,
            "parent": version.parent,
            "lessons": [{"lesson": n, "source": self.lessons[n].source} for n in version.lessons],
            "gate": dict(version.numbers),
            "reason": version.reason,
        }

    def status(self) -> dict[str, Any]:
        """What an operator asks first, as JSON."""
        lessons = Counter(self.state_of(number).split()[0].rstrip(":") for number in self.lessons)
        return {
            "serving": self.serving,
            "head": self.head,
            "anchor": self.anchor,
            "versions": len(self.versions),
            "lessons": len(self.lessons),
            "waiting": len(self.waiting()),
            "learned": lessons["learned"],
            "set_aside": lessons["set"],
            "forgotten": lessons["forgotten"],
            "attempts": self._attempts,
            "judged": self._judged,
            "right": self._right,
            "sources": {
                name: sorted(source.rights) if name not in self.excluded else "forgotten"
                for name, source in self.sources.items()
            },
        }

    def version(self, number: int) -> Version:
        """The version of this number. Raises BadInput where there is none."""
        if number not in self.versions:
            raise BadInput(f"there is no version {number}; there are 0 to {max(self.versions)}")
        return self.versions[number]

    def forgotten(self, lesson: Lesson) -> bool:
        """Whether whoever gave the lesson, or asked for the answer that it corrects, is forgotten."""
        return not self.excluded.isdisjoint((lesson.source, lesson.asked_by))

    def state_of(self, lesson: int) -> str:
        """What became of a lesson, in a few words."""
        if self.forgotten(self.lessons[lesson]):
            return "forgotten"
        by = [v.number for v in self.lineage(self.head) if lesson in v.lessons]
        return (
            f"learned in version {by[0]}"
            if by
            else f"set aside: {self.aside[lesson]}"
            if (lesson in self.aside)
            else "waits"
        )


def window(
    waiting: Sequence[Lesson], marks: set[int], *, size: int, taught: Sequence[Lesson]
) -> list[Lesson]:
    """The lessons of the step that is due; none where none is.

    The same whether it is asked when the step falls due or later: the first `size` that wait, or those up to
    a mark, at most half of them of one source where several have taught by then (`taught`: all lessons).
    """
    if not waiting:
        return []
    first = list(waiting[:size])
    reached = [mark for mark in marks if first[0].seq <= mark and (len(first) < size or mark < first[-1].seq)]
    if reached:
        first = [lesson for lesson in first if lesson.seq <= min(reached)]
    elif len(first) < size:
        return []
    several = len({lesson.source for lesson in taught if lesson.seq <= first[-1].seq}) > 1
    share, counts, chosen = -(-len(first) // 2), Counter[str](), list[Lesson]()
    for lesson in first:
        counts[lesson.source] += 1
        if not several or counts[lesson.source] <= share:
            chosen.append(lesson)
    return chosen
