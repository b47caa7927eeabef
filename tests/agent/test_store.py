"""The log: appended to and never changed, numbered without gaps, and a byte that changed anywhere is
named."""

import random
import shutil
import sqlite3
import threading

import pytest
import tiny_qwen2

from cicjax.agent import whole
from cicjax.agent.continual import Agent
from cicjax.agent.events import Correction, Draft, Verdict
from cicjax.agent.settings import AgentSettings
from cicjax.agent.store import NAME, Store
from cicjax.errors import BadInput
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


def test_a_log_with_a_rollback_and_a_forgotten_source_gives_every_versions_digest(home, tmp_path):
    rebuilt = list(whole.rebuild(home, tmp_path / "again"))
    assert len(rebuilt) >= 5 and all(each.rebuilt == each.digest for each in rebuilt)
    assert len({each.digest for each in rebuilt}) >= 3
    assert whole.verify(tmp_path / "again") == []
    with Agent.open(tmp_path / "again") as agent, pytest.raises(BadInput, match="was forgotten"):
        agent.serve(next(v.number for v in agent.versions() if v.state == "forgotten"))
    with pytest.raises(BadInput, match="is not empty"):
        list(whole.rebuild(home, tmp_path))
