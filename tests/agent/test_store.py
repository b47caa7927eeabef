"""The log: appended to and never changed, numbered without gaps, and a byte that changed anywhere is
named."""

import os
import random
import shutil
import sqlite3
import threading
from dataclasses import fields

import pytest
import tiny_qwen2

from cicjax.agent import whole
from cicjax.agent.continual import Agent
from cicjax.agent.events import Correction, Draft, Event, Verdict
from cicjax.agent.settings import AgentSettings
from cicjax.agent.store import DDL, NAME, Store
from cicjax.errors import BadInput, OutOfResources
from cicjax.model.config import LoRAConfig
from cicjax.provenance.transcript import Author


def draft(text, *, teaches=False):
    return Draft(
        kind="message",
        source="s",
        author=Author.USER,
        role="user",
        content={"text": text},
        teaches=teaches,
    )


def test_threads_append_without_a_gap_and_nothing_that_was_acknowledged_is_lost(tmp_path):
    acknowledged = []
    with Store(tmp_path) as store:

        def append(name):
            for number in range(40):
                (event,) = store.append(draft(f"{name} {number}", teaches=number % 2 == 0))
                acknowledged.append((event.seq, event.lesson))

        threads = [threading.Thread(target=append, args=(name,)) for name in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    with Store(tmp_path, read_only=True) as store:
        found = [(event.seq, event.lesson) for event in store.events()]
    assert sorted(acknowledged) == found and [seq for seq, _ in found] == list(range(1, 641))
    assert sorted(lesson for _, lesson in found if lesson) == list(range(1, 321))


def test_a_full_disk_commits_nothing_and_the_log_goes_on_once_there_is_room(tmp_path):
    with Store(tmp_path) as store:
        store.append(draft("one"))
        pages = store._connection.execute("PRAGMA page_count").fetchone()[0]
        store._connection.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(OutOfResources, match="free some space"):
            store.append(draft("x" * 100_000))
        store._connection.execute(f"PRAGMA max_page_count = {pages + 100}")
        (event,) = store.append(draft("x" * 100_000))
        assert event.seq == 2 and len(list(store.events())) == 2


def test_events_are_never_changed_and_a_group_is_there_whole_or_not_at_all(tmp_path):
    with Store(tmp_path) as store:
        store.append(draft("one"), draft("two"))
        for statement in ("UPDATE events SET reason = 'x'", "DELETE FROM events"):
            with pytest.raises(sqlite3.IntegrityError, match="append-only"):
                store._connection.execute(statement)

        def broken(store, before):
            raise BadInput("no")

        with pytest.raises(BadInput):
            store.append(draft("three"), broken)
        store.append(draft("four"))
        assert [store.content(event)["text"] for event in store.events()] == ["one", "two", "four"]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A home with everything in it: a correction, a version, a rejected source."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "toy").mkdir()
    tiny_qwen2.write(folder / "toy", seed=3)
    settings = small()
    with Agent.open(folder / "home", str(folder / "toy"), settings) as agent:
        for number, source in enumerate(["alice", "mallory", "alice"]):
            attempt = agent.act(f"What is {number}?")
            agent.observe(attempt.id, Verdict(False), source="judge")
            agent.observe(attempt.id, Correction(f"It is {number}, Ozymandias."), source=source)
            agent.learn()
        agent.rollback()
        agent.forget("mallory")
        agent.admit([number for number in agent.history.aside])
        agent.learn()
    return folder / "home"


def small():
    return AgentSettings(
        format="plain", lora=LoRAConfig(rank=2, alpha=4.0), max_new_tokens=4, updates_per_step=1
    )


def test_a_home_that_nobody_touched_is_whole(home):
    assert whole.verify(home) == []


@pytest.mark.parametrize("part", [NAME, "config.json", f"{NAME}.sha256", "versions"])
def test_a_flipped_byte_anywhere_is_named(home, tmp_path, part):
    files = (
        [home / part]
        if (home / part).is_file()
        else sorted(f for f in (home / part).rglob("*") if f.is_file())
    )
    rng, copy = random.Random(part), tmp_path / "copy"
    shutil.copytree(home, copy)
    for _ in range(60 if part == NAME else 25 if part == "versions" else 8):
        file = copy / files[rng.randrange(len(files))].relative_to(home)
        sound = file.read_bytes()
        if not sound:
            continue
        at, bit = rng.randrange(len(sound)), 1 << rng.randrange(8)
        file.write_bytes(sound[:at] + bytes([sound[at] ^ bit]) + sound[at + 1 :])
        findings = whole.verify(copy)
        name = NAME if part.startswith(NAME) else file.name
        assert any(name in line or file.parent.name in line for line in findings), (
            number,
            file,
            at,
            findings,
        )
        file.write_bytes(sound)
    assert whole.verify(copy) == []


def test_without_the_digest_of_a_closed_log_the_chain_names_the_event(home, tmp_path):
    """As after a kill, when no digest of the file is there."""
    copy = tmp_path / "copy"
    shutil.copytree(home, copy)
    (copy / f"{NAME}.sha256").unlink()
    sound = (copy / NAME).read_bytes()
    named = {b"Ozymandias": "correction", b'"vouches":false': "source", b'"replay":[': "plan"}
    for text, kind in named.items():
        at = sound.index(text) + 2
        (copy / NAME).write_bytes(sound[:at] + bytes([sound[at] ^ 1]) + sound[at + 1 :])
        findings = whole.verify(copy)
        assert any("event" in line and (kind in line or "cannot be read" in line) for line in findings), (
            findings
        )
    (copy / NAME).write_bytes(sound)
    assert whole.verify(copy) == []


def changed(value, column):
    """Another value that the column could have."""
    if column == "author":
        return value % 7 + 1
    if column == "solved":
        return -value if value else 1
    if column == "kind":
        return "reply" if value == "correction" else "correction"
    if isinstance(value, int | type(None)):
        return (value or 0) + 1000
    if isinstance(value, bytes):
        return value[:-1] + bytes([value[-1] ^ 1])
    if column == "facts":
        return '{"a":1}' if value == "{}" else value.replace('":', 'x":', 1)
    return value[:-1] + ("1" if value.endswith("0") else "0")


COLUMNS = [f"events.{each.name}" for each in fields(Event)] + ["contents.digest", "contents.body"]


@pytest.mark.parametrize("where", COLUMNS)
def test_another_value_in_any_column_is_named_without_the_files_digest(home, tmp_path, where):
    """Put there through SQLite itself, as whoever forges a log would: its pages are sound."""
    table, column = where.split(".")
    (tmp_path / NAME).write_bytes((home / NAME).read_bytes())
    (tmp_path / "config.json").write_bytes((home / "config.json").read_bytes())
    log = sqlite3.connect(tmp_path / NAME, isolation_level=None)
    log.execute("DROP TRIGGER fixed")
    key = "rowid" if table == "events" else "digest"
    rows = log.execute(f"SELECT {key}, {column} FROM {table}").fetchall()
    chosen = random.Random(where).sample(rows, 3)
    (trigger,) = [line for line in DDL.splitlines() if line.startswith("CREATE TRIGGER fixed")]
    for row, value in chosen:
        log.execute(f"UPDATE {table} SET {column} = ? WHERE {key} = ?", (changed(value, column), row))
        log.execute(trigger)
        findings = [line for line in whole.verify(tmp_path) if "versions" not in line]
        assert findings and all(NAME in line for line in findings[:1]), (where, value)
        if key == "rowid" and column != "seq":
            assert any(f"event {row} " in line or "cannot be read" in line for line in findings), findings
        log.execute("DROP TRIGGER fixed")
        back = row if column != "digest" or table == "events" else changed(value, column)
        back = changed(value, column) if column == "seq" else back
        log.execute(f"UPDATE {table} SET {column} = ? WHERE {key} = ?", (value, back))
    log.execute(trigger)
    assert [line for line in whole.verify(tmp_path) if "versions" not in line] == []
    log.close()


def test_events_that_are_missing_at_the_end_are_noticed_by_the_versions(home, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(home, copy)
    (copy / f"{NAME}.sha256").unlink()
    log = sqlite3.connect(copy / NAME, isolation_level=None)
    (last,) = log.execute("SELECT max(seq) FROM events WHERE kind = 'plan'").fetchone()
    log.execute("DROP TRIGGER kept")
    log.execute("DELETE FROM events WHERE seq >= ?", (last,))
    (trigger,) = [line for line in DDL.splitlines() if line.startswith("CREATE TRIGGER kept")]
    log.execute(trigger)
    log.close()
    assert any("of no step in the log" in line for line in whole.verify(copy))


def test_every_file_of_a_version_is_spoken_for(home, tmp_path):
    number = next(name for name in sorted(os.listdir(home / "versions")) if name != "0")
    with Store(home, read_only=True) as store:
        events = list(store.events())
    plan = next(e for e in events if e.kind == "plan" and str(e.facts["version"]) == number)
    outcome = next(e for e in events if e.kind == "outcome" and str(e.facts["version"]) == number)
    wanted = outcome.facts["digest"], plan.digest
    folder = tmp_path / number
    shutil.copytree(home / "versions" / number, folder)
    assert list(whole._version(folder, wanted, needed=True)) == []
    files = [file for file in sorted(folder.rglob("*")) if file.is_file() and file.stat().st_size]
    assert len(files) > 50
    for file in files:
        sound = file.read_bytes()
        at = random.Random(str(file)).randrange(len(sound))
        file.write_bytes(sound[:at] + bytes([sound[at] ^ 4]) + sound[at + 1 :])
        findings = list(whole._version(folder, wanted, needed=True))
        assert any(file.name in line for line in findings), (file, at, findings)
        file.write_bytes(sound)
        file.rename(tmp_path / "away")
        assert list(whole._version(folder, wanted, needed=True)), file
        (tmp_path / "away").rename(file)
    listing = folder / "files.json"
    sound = listing.read_bytes()
    for broken in (b"{ 'a': 1}", b"7", b""):  # whichever byte it is that flips
        listing.write_bytes(broken)
        (finding,) = whole._version(folder, wanted, needed=True)
        assert "files.json: not the JSON that was written" in finding
    listing.write_bytes(sound)
    other = "0" * 64
    for forged in ((other, plan.digest), (outcome.facts["digest"], other)):
        assert "not the version that the log has" in next(iter(whole._version(folder, forged, needed=True)))


def test_a_log_with_a_rollback_and_a_forgotten_source_gives_every_versions_digest(home, tmp_path):
    rebuilt = list(whole.rebuild(home, tmp_path / "again"))
    assert len(rebuilt) >= 5 and all(each.rebuilt == each.digest for each in rebuilt)
    assert len({each.digest for each in rebuilt}) >= 3
    assert whole.verify(tmp_path / "again") == []
    with Agent.open(tmp_path / "again") as agent, pytest.raises(BadInput, match="was forgotten"):
        agent.serve(next(v.number for v in agent.versions() if v.state == "forgotten"))
    with pytest.raises(BadInput, match="is not empty"):
        list(whole.rebuild(home, tmp_path))
