"""Faults in files, and what came of them: noticed, harmless, said, or silent. What the drills share."""

import hashlib
import json
import os
import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

from cicjax.errors import BadInput, CicjaxError, Corrupted
from cicjax.files import seal

KINDS = ("flip", "cut", "empty", "delete", "swap", "other run", "other seed")
# Rewritten by every command that holds the folder, or by none read again.
UNREAD = ("lock", "report.html")


class Fault(NamedTuple):
    """What is done to which file of a folder; `other` is the file whose bytes take its place."""

    kind: str
    name: str
    other: Path | None = None
    place: float = 0.0

    def apply(self, root: Path) -> bool:
        """Do it. False where it changes nothing."""
        path = root / self.name
        content = path.read_bytes()
        at = int(self.place * len(content))
        if self.kind == "delete":
            path.unlink()
            return True
        if self.kind == "swap":
            assert self.other is not None
            theirs = self.other.read_bytes()
            self.other.write_bytes(content)
            path.write_bytes(theirs)
            return theirs != content
        if self.kind == "flip":
            damaged = (
                content[:at] + bytes([content[at] ^ 1 << at % 8]) + content[at + 1 :] if content else b""
            )
        elif self.kind in ("cut", "empty"):
            damaged = content[:at] if self.kind == "cut" else b""
        else:
            assert self.other is not None
            damaged = self.other.read_bytes()
        path.write_bytes(damaged)
        return damaged != content


def files(root: Path) -> list[str]:
    """The files of a folder that a fault may strike, by relative path."""
    names = (path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
    return sorted(name for name in names if name not in UNREAD and not name.startswith("figures/"))


def kind_of(name: str) -> str:
    """What kind of file it is: names of methods, protocols and numbers left out."""
    parts = name.split("/")
    if parts[-1] == "digests.json" or "state" in parts or parts[-1].startswith("_"):
        return "step: " + ("digests" if parts[-1] == "digests.json" else "arrays and descriptions")
    if parts[0] in ("rollouts", "evaluations"):
        return parts[0] + (": parts" if any(part.endswith(".parts") for part in parts) else "")
    return parts[-1] if "groups" not in parts else "groups"


def draw(root: Path, count: int, *, seed: int, others: dict[str, Path]) -> Iterator[Fault]:
    """Faults spread evenly over kinds of file and kinds of fault; `others` are folders of the same names: of
    another run of the same experiment, of another seed."""
    rng = random.Random(seed)
    by_kind: dict[str, list[str]] = {}
    for name in files(root):
        by_kind.setdefault(kind_of(name), []).append(name)
    for number in range(count):
        of = sorted(by_kind)[number % len(by_kind)]
        name, kind = rng.choice(by_kind[of]), KINDS[(number // len(by_kind)) % len(KINDS)]
        other = None
        if kind == "swap":
            rest = [each for each in by_kind[of] if each != name]
            other = root / rng.choice(rest) if rest else None
        elif kind in others:
            # Of another run: a file of the same kind, of the same method or of another one.
            there = [each for each in files(others[kind]) if kind_of(each) == of]
            other = others[kind] / (
                name if name in there and rng.random() < 0.5 else rng.choice(there or [name])
            )
            if not other.exists():
                other = None
        if other is None and kind not in ("flip", "cut", "empty", "delete"):
            kind = rng.choice(("flip", "cut"))
        yield Fault(kind, name, other, rng.random())


class Snapshot:
    """A folder as it was: `restore` writes back what has another time, size or inode, and removes what came
    new."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._bytes = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
        self._facts = {path: _facts(path) for path in self._bytes}

    def restore(self) -> None:
        for path in [*self._root.rglob("*")]:
            if path.is_file() and path not in self._bytes:
                path.unlink()
        for path, content in self._bytes.items():
            if not path.exists() or _facts(path) != self._facts[path]:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
                self._facts[path] = _facts(path)


def _facts(path: Path) -> tuple[int, int, int]:
    facts = path.stat()
    return facts.st_mtime_ns, facts.st_size, facts.st_ino


class Kept:
    """What a drill has behind it, a line each in NAME.jsonl of the folder that CICJAX_DRILLS names, if any: a
    drill that is stopped goes on from there."""

    def __init__(self, name: str) -> None:
        folder = os.environ.get("CICJAX_DRILLS")
        self._path = Path(folder, f"{name}.jsonl") if folder else None
        there = self._path is not None and self._path.exists()
        self.rows: list[Any] = [json.loads(line) for line in self._path.open()] if there else []

    def add(self, row: Any) -> None:
        self.rows.append(row)
        if self._path is not None:
            self._path.parent.mkdir(exist_ok=True)
            with self._path.open("a") as file:
                print(json.dumps(row), file=file)


class Outcome(NamedTuple):
    """What became of a fault: noticed | harmless | said | silent, and the words."""

    what: str
    words: str


def outcome(read: Callable[[], object], expected: object, *names: str, by_name: bool = True) -> Outcome:
    """Of reading after a fault in the files of `names`: an error must be one line and, with `by_name`, name
    one of them or its step."""
    told = StringIO()
    try:
        with redirect_stderr(told), redirect_stdout(StringIO()):
            seen = read()
    except (Corrupted, BadInput) as error:
        words = str(error)
        assert "\n" not in words, words
        assert not by_name or any(named(name, words) for name in names), f"{names}: {words}"
        return Outcome("noticed", words)
    except CicjaxError as error:
        raise AssertionError(f"{names}: {type(error).__name__} {error}") from error
    if seen == expected:
        return Outcome("said" if told.getvalue() else "harmless", told.getvalue())
    return Outcome("silent", told.getvalue())


def strike(
    root: Path,
    faults: Iterator[Fault],
    judge: Callable[[int, Fault, Snapshot], Outcome],
    kept: Kept,
) -> list[tuple[Fault, Outcome]]:
    """Faults one after another, each in a folder that is as it was: what `judge` says of those that change
    anything."""
    snapshot, outcomes = Snapshot(root), []
    for number, fault in enumerate(faults):
        fact = [fault.kind, fault.name, fault.place]
        if number == len(kept.rows):
            try:
                came = judge(number, fault, snapshot) if fault.apply(root) else None
            finally:
                snapshot.restore()
            kept.add([fact, came])
        known, came = kept.rows[number]
        assert known == fact, "another drill's progress: empty the folder of CICJAX_DRILLS"
        if came is not None:
            outcomes.append((fault, Outcome(*came)))
    return outcomes


def state(folder: Path) -> dict[str, object]:
    """What has to be equal to the last bit: every file that the seal knows, but the steps by their leaves and
    nothing that holds times or the run's id."""
    digests: dict[str, object] = {}
    for name, entry in seal.read(folder)["files"].items():
        if "/digests.json" in name:
            digests[name] = entry["content"]
        elif name not in ("timings.json", "environment.json"):
            digests[name] = entry["sha256"]
    return digests


def named(name: str, words: str) -> bool:
    """Whether a line names the file, its step, or the seal that is to speak for it. By the seal of another
    run, whatever is looked at first is wrong."""
    if name == "seal.json":
        return True
    parts = name.split("/")
    steps = [part for part in parts if part.isdigit()]
    return parts[-1] in words or any(f"step {step}" in words for step in steps) or "seal.json" in words


def digest(value: object) -> str:
    """One digest of what a reader gave, for comparison."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def tally(outcomes: list[tuple[Fault, Outcome]]) -> str:
    """The figures, by kind of file."""
    table: dict[str, Counter[str]] = {}
    for fault, (what, _) in outcomes:
        table.setdefault(kind_of(fault.name), Counter())[what] += 1
    total = Counter(what for _, (what, _) in outcomes)
    lines = [f"{name}: {dict(sorted(counts.items()))}" for name, counts in sorted(table.items())]
    return "\n".join([f"{len(outcomes)} faults: {dict(sorted(total.items()))}", *lines])
