"""Which versions stay on disk.

A version is a function of version 0 and the log. One that was removed is made again, bit for bit, from the
nearest of its lineage that is there: removing costs time, and nothing else.

Always there: version 0, the head, the version that serves, the anchor, and what a rollback goes to.
"""

import os
import shutil
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cicjax.agent.events import Draft
from cicjax.agent.trust import OPERATOR
from cicjax.agent.versions import FORGOTTEN, History
from cicjax.errors import BadInput
from cicjax.files import numbered
from cicjax.provenance.transcript import Author


@dataclass(frozen=True, kw_only=True)
class Retention:
    """`newest` versions stay, and of every lineage each `every`-th step, so that none is more than so many
    steps from one that is there. `newest` 0: all stay; `every` 0: no such steps."""

    newest: int = 16
    every: int = 16

    def __post_init__(self) -> None:
        for name in ("newest", "every"):
            if getattr(self, name) < 0:
                raise BadInput(f"--{name} is 0 or more, not {getattr(self, name)}")

    def draft(self) -> Draft:
        """The event that decides it."""
        return Draft(kind="retention", source=OPERATOR, author=Author.SYSTEM, facts=asdict(self))


def wanted(history: History) -> set[int]:
    """The versions that stay."""
    retention = Retention(**history.retention)
    living = [number for number, version in history.versions.items() if version.state != FORGOTTEN]
    if not retention.newest:
        return set(living)
    stay = {0, history.head, history.serving, history.anchor, *sorted(living)[-retention.newest :]}
    before = history.versions[history.serving].parent
    stay |= set() if before is None else {before}
    if retention.every:
        stay |= {number for number in living if history.versions[number].depth % retention.every == 0}
    return stay


def surplus(folder: Path, history: History, *, until: int | None = None) -> list[int]:
    """The versions that are in HOME/versions and need not stay; with `until` but those that a version after
    that one comes from."""
    stay = wanted(history)
    if until is not None:
        stay |= {each.parent for each in history.versions.values() if each.parent and each.number > until}
    return [number for number in numbered.numbers(folder) if number in history.versions.keys() - stay]


def size(folder: Path) -> int:
    """Bytes of the files below a folder."""
    total = 0
    for where, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):  # a version is being saved, or removed
                total += os.stat(os.path.join(where, name)).st_size
    return total


def disk(home: Path) -> dict[str, Any]:
    """What a home takes, as JSON: the versions that are there, bytes, and bytes that are free."""
    return {
        "on_disk": numbered.numbers(home / "versions"),
        "disk_bytes": size(home),
        "disk_free": shutil.disk_usage(home).free,
    }
