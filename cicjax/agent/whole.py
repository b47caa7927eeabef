"""A home against its log: every byte as it was written, and every version made again from what was said."""

import json
import shutil
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from cicjax.agent.continual import Agent
from cicjax.agent.events import Event, chained
from cicjax.agent.home import CONFIG, Home
from cicjax.agent.learner import FILES, STATE
from cicjax.agent.store import DDL, GENESIS, NAME, Store
from cicjax.agent.turns import Erased
from cicjax.agent.versions import History
from cicjax.errors import BadInput, Corrupted
from cicjax.files import numbered
from cicjax.files.whole import file_digest, private_folder, read_json
from cicjax.training import checkpoints
from cicjax.training.checkpoints import MANIFEST


def verify(folder: Path) -> list[str]:
    """What in a home is not as it was written, one line each; nothing where all is. It takes no lock, and
    reads beside a writer."""
    try:
        return list(_findings(folder))
    except Corrupted as error:
        return [str(error)]
    except (sqlite3.DatabaseError, ValueError, TypeError, KeyError) as error:
        return [f"{folder / NAME}: cannot be read ({error})"]


def _findings(folder: Path) -> Iterator[str]:
    sealed = folder / f"{NAME}.sha256"
    if sealed.exists() and sealed.read_bytes() != f"{file_digest(folder / NAME)}  {NAME}\n".encode():
        yield f"{folder / NAME}: not the bytes that were written"
    history, config, sound, plans = History(), "", True, {0: ""}
    with Store(folder, read_only=True) as store:
        yield from _damage(store)
        previous, expected = GENESIS, 1
        for event in _readable(store):
            if isinstance(event, str):
                yield event
                return
            if event.seq != expected or not _follows(previous, event):
                yield f"{store.path}: event {event.seq} ({event.kind}) is not what was written"
                sound = False
            previous, expected = event.digest, event.seq + 1
            if sound:
                history.apply(event)
            config = event.facts["config"] if sound and event.kind == "home" else config
            if sound and event.kind == "plan":
                plans[event.facts["version"]] = event.digest
    if sound and file_digest(folder / CONFIG) != config:
        yield f"{folder / CONFIG}: not the bytes that were written"
    for number in numbered.numbers(folder / "versions"):
        if sound and number not in history.versions:
            yield f"{folder / 'versions' / str(number)}: of no step in the log; events are missing at its end"
    for number, version in history.versions.items():
        if version.digest:
            needed = number in (0, history.head, history.serving)
            wanted = version.digest, plans[number]
            yield from _version(folder / "versions" / str(number), wanted, needed=needed)


def _follows(previous: str, event: Event) -> bool:
    """Whether an event is what was chained after another; one changed bit makes bytes of a text."""
    try:
        return chained(previous, event) == event.digest
    except TypeError:
        return False


def _damage(store: Store) -> Iterator[str]:
    """What SQLite itself finds, another schema, contents that are not those of their digests."""
    for (said,) in store.execute("PRAGMA integrity_check"):
        if said != "ok":
            yield f"{store.path}: {said}"
    made = sqlite3.connect(":memory:")
    made.executescript(DDL)
    wanted = "SELECT type, name, sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY name"
    if store.execute(wanted) != made.execute(wanted).fetchall():
        yield f"{store.path}: its tables are not those of this version"
    said = {
        digest: (seq, kind) for digest, seq, kind in store.execute("SELECT content, seq, kind FROM events")
    }
    erased = bool(store.execute("SELECT 1 FROM events WHERE kind = 'erase'"))
    for digest, body in store.execute("SELECT digest, body FROM contents"):
        whole = erased if body is None else isinstance(body, bytes) and sha256(body).hexdigest() == digest
        if not whole:
            seq, kind = said.get(digest, ("?", "unknown"))
            yield f"{store.path}: what event {seq} ({kind}) said is not what was written"


def _readable(store: Store) -> Iterator[Event | str]:
    last = 0
    try:
        for event in store.events():
            yield event
            last = event.seq
    except (ValueError, KeyError, TypeError) as error:
        yield f"{store.path}: event {last + 1} cannot be read ({error})"


def _version(folder: Path, wanted: tuple[str, str], *, needed: bool) -> Iterator[str]:
    """What of a version's files is not as it was written, or not the adapter and the plan of these digests;
    one that did not stay on disk is none."""
    if not (folder / FILES).exists():
        if needed or folder.exists():
            yield f"{folder}: not there as a whole; make it again with `cicjax agent rebuild`"
        return
    sound = True
    try:
        listed = dict(read_json(folder / FILES))
    except (Corrupted, TypeError, ValueError):
        yield f"{folder / FILES}: not the JSON that was written; make it again with `cicjax agent rebuild`"
        return
    for name, digest in listed.items():
        path = folder / name
        if not path.is_file() or file_digest(path) != digest:
            what = "not the bytes of which it says the digest" if path.is_file() else "missing"
            yield f"{folder / FILES} and {path}: {what}"
            sound = False
        elif path.name == MANIFEST:
            inside = json.loads(path.read_bytes())["files"]
            wrong = [n for n, d in inside.items() if not _is(path.parent / n, d)]
            yield from (f"{path.parent / each}: not the bytes that were written" for each in wrong)
            sound = sound and not wrong
    if sound:
        digest, metadata = checkpoints.recorded(folder / STATE)
        if (digest, metadata.get("plan")) != wanted:
            yield f"{folder}: whole, and not the version that the log has under this number"


def _is(path: Path, digest: str) -> bool:
    return path.is_file() and file_digest(path) == digest


@dataclass(frozen=True, kw_only=True)
class Rebuilt:
    """A version, made again: its digest in the log and the one it came to, None where what it learned was
    erased."""

    version: int
    digest: str
    rebuilt: str | None


def rebuild(folder: Path, into: Path, *, model: str | None = None) -> Iterator[Rebuilt]:
    """Make an agent again in another folder, from its log and version 0 alone; version by version. The same
    call goes on where the last one stopped.

    Raises BadInput where the folder holds anything else.
    """
    home = Home.read(folder)
    if into.exists() and any(into.iterdir()) and not _same_log(folder, into):
        raise BadInput(f"{into}: is not empty; choose another folder to rebuild in")
    if not (into / NAME).exists():
        private_folder(into)
        shutil.copy2(folder / CONFIG, into / CONFIG)
        shutil.copytree(folder / "versions" / "0", into / "versions" / "0", dirs_exist_ok=True)
        with Store(folder, read_only=True) as store:
            store.copy_to(into)
    with Agent.open(into, model or home.identity.model) as agent:
        for version in agent.versions():
            if version.digest:
                yield Rebuilt(
                    version=version.number, digest=version.digest, rebuilt=_again(agent, version.number)
                )
                agent.steps.prune(until=version.number)
        agent.steps.repair()


def _again(agent: Agent, number: int) -> str | None:
    try:
        return agent.steps.remade(number)
    except Erased:
        return None


def _same_log(folder: Path, into: Path) -> bool:
    """Whether `into` was begun from this log."""

    def first(path: Path) -> Any:
        with Store(path, read_only=True) as store:
            return next(iter(store.events())).digest

    try:
        return first(folder) == first(into)
    except (BadInput, StopIteration):
        return False
