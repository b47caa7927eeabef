"""The log: one SQLite file, appended to by one writer, chained by digests.

Many threads may append at once; whoever comes first commits for all that wait, and each is answered after the
commit. Contents lie apart, by digest, and can be erased. Readers of a log in use open it read-only: SQLite
before 3.51.3 may lose commits where two connections write.
"""

import json
import secrets
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from cicjax.agent.events import KINDS, Draft, Event, body_of, canonical, chained, digest_of
from cicjax.errors import BadInput, Corrupted, OutOfResources
from cicjax.files.whole import file_digest, write_text

NAME = "log.db"
FORMAT = 2
GENESIS = "0" * 64


@dataclass(frozen=True)
class Known:
    """An event that is in the log already, in the place of a draft."""

    event: Event


# What an event says, some of it only known in the transaction: a function of the store and of the events that
# were appended before it in the same call.
Drafted = Draft | Callable[["Store", Sequence[Event]], Draft | Known]

DDL = f"""
CREATE TABLE contents(digest TEXT PRIMARY KEY CHECK(length(digest) = 64), body BLOB) STRICT, WITHOUT ROWID;
CREATE TABLE events(
  seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE,
  kind TEXT NOT NULL CHECK(kind IN ({", ".join(f"'{kind}'" for kind in KINDS)})),
  parent INTEGER REFERENCES events(seq), role TEXT NOT NULL,
  author INTEGER NOT NULL CHECK(author BETWEEN 1 AND 7), source TEXT NOT NULL,
  content TEXT REFERENCES contents(digest), key TEXT NOT NULL, version INTEGER, finish TEXT NOT NULL,
  solved INTEGER NOT NULL CHECK(solved IN (-1, 0, 1)), lesson INTEGER UNIQUE, reason TEXT NOT NULL,
  facts TEXT NOT NULL, idempotency TEXT, body TEXT NOT NULL, at TEXT NOT NULL,
  digest TEXT NOT NULL CHECK(length(digest) = 64), UNIQUE(source, idempotency)) STRICT;
CREATE INDEX of_parent ON events(parent);
CREATE INDEX of_key ON events(key) WHERE key <> '';
CREATE TRIGGER fixed BEFORE UPDATE ON events BEGIN SELECT RAISE(ABORT, 'append-only'); END;
CREATE TRIGGER kept BEFORE DELETE ON events BEGIN SELECT RAISE(ABORT, 'append-only'); END;
PRAGMA user_version = {FORMAT};
"""
COLUMNS = ", ".join(each.name for each in fields(Event))


class Unmade(BadInput):
    """A log that was begun and holds nothing: whoever made it was killed, or the disk was full."""


class Conflict(BadInput):
    """The same idempotency key came with another body."""


@dataclass(eq=False)
class _Waiting:
    drafts: Sequence[Drafted]
    events: tuple[Event, ...] = ()
    error: BaseException | None = None
    done: bool = False


class Store:
    """`with Store(folder) as store:` appends to FOLDER/log.db; with `read_only` it reads alone, beside a
    writer.

    `follow` is called with every event in order, those already there first. Raises BadInput where there is no
    log to read, Corrupted for a file that is no log.
    """

    def __init__(
        self, folder: Path, *, read_only: bool = False, follow: Callable[[Event], None] = lambda event: None
    ) -> None:
        self.path = folder / NAME
        self._read_only, self._follow = read_only, follow
        self._sealed = self.path.with_name(NAME + ".sha256")
        self._lock, self._queue = threading.RLock(), deque[_Waiting]()
        if read_only and not self.path.exists():
            raise BadInput(f"{folder}: no agent lives here; make one with `cicjax agent new {folder}`")
        if not read_only:
            # From here on the file changes; the chain alone speaks for it until it is closed.
            self._sealed.unlink(missing_ok=True)
        mode = "ro" if read_only else "rwc"
        with self._reading():
            address = f"{self.path.absolute().as_uri()}?mode={mode}"
            self._connection = sqlite3.connect(
                address, uri=True, isolation_level=None, check_same_thread=False
            )
            self._open()
            self.last = next(iter(self.events(last=True)), None)
            for event in self.events():
                follow(event)

    def _open(self) -> None:
        run = self._connection.execute
        run("PRAGMA foreign_keys = ON")
        if not self._read_only:
            run("PRAGMA journal_mode = WAL")
            run("PRAGMA synchronous = FULL")
        found = run("PRAGMA user_version").fetchone()[0]
        if found == 0 and not self._read_only:
            self._connection.executescript(f"BEGIN; {DDL} COMMIT;")
        elif found == 0:
            home = self.path.parent
            raise Unmade(f"{home}: the agent was not made whole; repeat `cicjax agent new {home}`")
        elif found != FORMAT:
            raise BadInput(f"{self.path}: a log of format {found}, and this version reads {FORMAT}")

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.DatabaseError as error:
            name = getattr(error, "sqlite_errorname", "")
            # A full disk is the one or the other.
            if name == "SQLITE_FULL" or name.startswith("SQLITE_IOERR"):
                told = f"{self.path}: the disk refuses ({error})"
                raise OutOfResources(f"{told}; free some space and repeat the command") from error
            raise Corrupted(f"{self.path}: cannot be read ({error}); restore it from a copy") from error

    def append(self, *drafts: Drafted) -> tuple[Event, ...]:
        """Commit drafts together and give their events once they are on disk.

        A draft whose idempotency key its source has used gives that event again and appends nothing. Raises
        Conflict where the body was another one, OutOfResources where the disk is full.
        """
        waiting = _Waiting(drafts)
        self._queue.append(waiting)
        with self._lock:
            if not waiting.done:
                self._commit([self._queue.popleft() for _ in range(len(self._queue))])
        if waiting.error is not None:
            raise waiting.error
        return waiting.events

    def _commit(self, group: Sequence[_Waiting]) -> None:
        before, fresh = self.last, list[Event]()
        try:
            with self._reading():
                self._connection.execute("BEGIN IMMEDIATE")
                for waiting in group:
                    self._one(waiting, fresh)
                self._connection.execute("COMMIT")
        except BaseException as error:
            self.last = before
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            for waiting in group:
                waiting.error, waiting.done = waiting.error or error, True
            return
        for waiting in group:
            waiting.done = True
        for event in fresh:
            self._follow(event)

    def _one(self, waiting: _Waiting, fresh: list[Event]) -> None:
        """Insert what one caller gave, or nothing of it where something is wrong with it."""
        run, before, made = self._connection.execute, self.last, list[Event]()
        run("SAVEPOINT one")
        try:
            for drafted in waiting.drafts:
                draft = drafted if isinstance(drafted, Draft) else drafted(self, made)
                if isinstance(draft, Known):
                    made.append(draft.event)
                else:
                    made.append(self._known(draft) or self._insert(draft))
            waiting.events = tuple(made)
            fresh += [event for event in made if before is None or event.seq > before.seq]
        except sqlite3.DatabaseError:
            raise
        except Exception as error:
            run("ROLLBACK TO one")
            self.last, waiting.error = before, error
        run("RELEASE one")

    def _known(self, draft: Draft) -> Event | None:
        if draft.idempotency is None:
            return None
        known = next(self._where("source = ? AND idempotency = ?", draft.source, draft.idempotency), None)
        if known is not None and known.body != body_of(draft):
            raise Conflict(
                f"the idempotency key {draft.idempotency!r} has come with another body; use a new one"
            )
        return known

    def _insert(self, draft: Draft) -> Event:
        run, content = self._connection.execute, None
        if draft.content is not None:
            content, body = digest_of(draft.content), canonical(draft.content)
            run("INSERT OR IGNORE INTO contents VALUES (?, ?)", (content, body))
            # What was erased and is said again is there again.
            run("UPDATE contents SET body = ? WHERE digest = ? AND body IS NULL", (body, content))
        lesson = None
        if draft.teaches:
            lesson = run("SELECT coalesce(max(lesson), 0) + 1 FROM events").fetchone()[0]
        event = Event(
            seq=1 if self.last is None else self.last.seq + 1,
            id=secrets.token_hex(12),
            content=content,
            lesson=lesson,
            body=body_of(draft),
            at=datetime.now(UTC).isoformat(timespec="milliseconds"),
            **{name: getattr(draft, name) for name in _SHARED},
        )
        event = replace(event, digest=chained(GENESIS if self.last is None else self.last.digest, event))
        run(f"INSERT INTO events({COLUMNS}) VALUES ({_PLACES})", _row(event))
        self.last = event
        return event

    @contextmanager
    def held(self) -> Iterator[None]:
        """Let nothing be appended meanwhile: for whoever reads what `follow` keeps, beside a writer."""
        with self._lock:
            yield

    def events(self, *, after: int = 0, last: bool = False) -> Iterator[Event]:
        """Events in order, those after number `after`; with `last` the newest alone."""
        yield from self._where(f"seq > ? ORDER BY seq {'DESC LIMIT 1' if last else ''}", after)

    def event(self, seq: int) -> Event:
        """The event of this number. Raises BadInput where there is none."""
        return self._found("seq = ?", seq)

    def by_id(self, id: str) -> Event:
        """The event of this receipt. Raises BadInput where there is none."""
        return self._found("id = ?", id)

    def by_key(self, key: str) -> list[Event]:
        """The events that are looked up by this key, in order."""
        return list(self._where("key = ? AND key <> '' ORDER BY seq", key))

    def of_parent(self, seq: int) -> list[Event]:
        """What was said to an event, in order."""
        return list(self._where("parent = ? ORDER BY seq", seq))

    def content(self, event: Event) -> Any:
        """What an event says; None where it says nothing, or was erased."""
        with self._lock:
            found = self._connection.execute(
                "SELECT body FROM contents WHERE digest = ?", (event.content,)
            ).fetchone()
        return None if found is None or found[0] is None else json.loads(found[0])

    def erase(self, digests: Sequence[str]) -> None:
        """Take the bodies of contents away, their digests stay; what SQLite freed is overwritten."""
        with self._lock, self._reading():
            self._connection.execute("PRAGMA secure_delete = ON")
            self._connection.executemany(
                "UPDATE contents SET body = NULL WHERE digest = ?", [(digest,) for digest in digests]
            )

    def copy_to(self, folder: Path) -> None:
        """A copy of the log in another folder, whole or not at all."""
        with self._lock, self._reading():
            other = sqlite3.connect(folder / NAME)
            self._connection.backup(other)
            other.close()

    def _found(self, condition: str, value: object) -> Event:
        found = next(self._where(condition, value), None)
        if found is None:
            raise BadInput(f"{self.path.parent}: no event {value!r} in the log; receipts are printed as `id`")
        return found

    def _where(self, condition: str, *values: object) -> Iterator[Event]:
        with self._lock:
            rows = self._connection.execute(
                f"SELECT {COLUMNS} FROM events WHERE {condition}", values
            ).fetchall()
        return map(_event, rows)

    def execute(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """Rows of a reading statement."""
        with self._lock, self._reading():
            return self._connection.execute(statement, values).fetchall()

    def close(self) -> None:
        """Close the log; the writer leaves its digest beside it."""
        with self._lock:
            if not self._read_only:
                with self._reading():
                    self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            self._connection.close()
            waiting = self.path.with_name(NAME + "-wal")
            if not self._read_only and not (waiting.exists() and waiting.stat().st_size):
                write_text(self._sealed, f"{file_digest(self.path)}  {NAME}\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


_SHARED = sorted({each.name for each in fields(Draft)} & {each.name for each in fields(Event)} - {"content"})
_PLACES = ", ".join("?" for _ in fields(Event))
_FACTS = [each.name for each in fields(Event)].index("facts")


def _row(event: Event) -> tuple[Any, ...]:
    values = [getattr(event, each.name) for each in fields(Event)]
    values[_FACTS] = canonical(event.facts).decode()
    return tuple(int(value) if isinstance(value, int) else value for value in values)


def _event(row: Sequence[Any]) -> Event:
    values = dict(zip((each.name for each in fields(Event)), row, strict=True))
    return Event(**values | {"facts": json.loads(values["facts"])})
