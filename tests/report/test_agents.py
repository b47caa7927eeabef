"""Pages of agents: of the online experiment, and of a home beside whoever is at work there."""

import json
import random
import re

import pytest

from cicjax.agent.events import Draft
from cicjax.agent.home import Identity
from cicjax.agent.settings import AgentSettings, GateSettings
from cicjax.agent.store import Store
from cicjax.agent.trust import declaration
from cicjax.errors import BadInput, Corrupted
from cicjax.experiments.online import arms, results
from cicjax.files.whole import write_json
from cicjax.provenance.transcript import Author
from cicjax.report import write_report
from cicjax.statistics import wilson

HOSTILE = "<script>alert(1)</script> & mallory"


def life(arm, rng):
    """An arm's life of 48 events, a third of them wrong, as a run leaves it."""
    kinds = {"skill": "s", "known": True, "nats": 0.25, "tokens": 9}
    events = [{"id": str(n), "solved": rng.random() < 0.66, **kinds, "known": n < 16} for n in range(48)]
    counts = {"solved": 8, "solved_known": 6, "questions": 20, "known": 10}
    end = {**counts, "two_step": 4, "corrected": sum(not event["solved"] for event in events)}
    return {"arm": arm, "events": events, "checks": [{"events": 48, **counts}], "end": end}


def run(folder, seed, names=tuple(arm.name for arm in arms.ARMS), **changes):
    rng = random.Random(seed)
    lives = [life(name, rng) for name in names]
    found = {each["arm"]: results.summary(each) for each in lives}
    record = {
        "experiment": "online",
        "model": "f" * 64,
        "seed": seed,
        "settings": {"seed": seed},
        "arms": found,
    }
    folder.mkdir()
    (folder / "results.json").write_text(json.dumps(record | changes))
    return folder, lives


def test_the_curve_counts_every_event_and_every_correction_once():
    lived = life("frozen", random.Random(3))
    curve = results.summary(lived)["curve"]
    right = sum(event["solved"] for event in lived["events"])
    assert [block["events"] for block in curve] == list(range(4, 49, 4))
    assert (sum(block["solved"] for block in curve), sum(block["questions"] for block in curve)) == (
        right,
        48,
    )
    assert curve[-1]["corrected"] == 48 - right == lived["end"]["corrected"]
    third = lived["events"][8:12]
    assert (curve[2]["low"], curve[2]["high"]) == wilson(sum(event["solved"] for event in third), 4)


def test_an_online_run_and_several_seeds_of_it(tmp_path):
    (one, lives), (other, _) = run(tmp_path / "0", 0), run(tmp_path / "1", 1)
    text = write_report([one]).read_text()
    assert all(f'id="{part}"' in text for part in ("results", "figures", "theory", "origin"))
    assert all(arm.label in text for arm in arms.ARMS) and "undecided" in text and "1 seed;" in text
    solved = sum(event["solved"] for event in lives[0]["events"][:16])
    assert f"{solved}/16 (" in text
    for name in ("online-events", "online-corrections", "online-checks"):
        assert "Replay only" in (one / "figures" / f"{name}.svg").read_text()
    both = write_report([one, other], tmp_path / "both.html").read_text()
    assert "2 seeds;" in both and "seed 0, 1" in both and write_report([one]).read_text() == text
    few, _ = run(tmp_path / "few", 2, ("frozen", "refit"))
    assert "Refit" in write_report([few]).read_text()
    with pytest.raises(BadInput, match="another experiment"):
        write_report([one, run(tmp_path / "other", 3, model="e" * 64)[0]], tmp_path / "no.html")
    damaged, _ = run(tmp_path / "damaged", 4, arms={"frozen": {"prequential": 1}})
    with pytest.raises(Corrupted, match="not what `cicjax repro` writes"):
        write_report([damaged])


def gate(right, serving, anchor, reason=""):
    p = {f"{what}_p_{than}": 0.5 for what in ("right", "formed") for than in ("serving", "anchor")}
    return {
        "problems": 200,
        "right": right,
        "right_serving": serving,
        "right_anchor": anchor,
        "reason": reason,
        **p,
    }


@pytest.fixture
def home(tmp_path):
    """A home as the log tells it: two sources, forty answers, three versions, the last one rejected."""
    folder = tmp_path / "home"
    folder.mkdir()
    settings = AgentSettings(task="stem", format="plain", gate=GateSettings(problems=200))
    identity = Identity(model=None, base_fingerprint="b", tokenizer_fingerprint="t", settings=settings)
    write_json(folder / "config.json", identity.record())

    def said(kind, source="agent", author=Author.SYSTEM, **more):
        return Draft(kind=kind, source=source, author=author, **more)

    def step(store, version, parent, lessons, state, numbers):
        plan = {"version": version, "parent": parent, "lessons": lessons, "replay": []}
        outcome = {"version": version, "state": state, "digest": f"{version}" * 64, "gate": numbers}
        store.append(said("plan", facts=plan))
        store.append(said("outcome", facts=outcome))

    with Store(folder) as store:
        store.append(said("home", facts={"digest": "0" * 64, "config": ""}))
        store.append(declaration("alice", ["teach"]), declaration(HOSTILE, ["chat", "judge"]))
        for n in range(40):
            (begun,) = store.append(said("begin", author=Author.AGENT, facts={"parts": [], "turn": str(n)}))
            store.append(said("attempt", author=Author.AGENT, parent=begun.seq, content={"text": "x"}))
            if n % 4:
                store.append(said("verdict", "alice", Author.VERIFIER, parent=begun.seq, solved=int(n >= 20)))
            teaches, reason = n % 2 == 0, "" if n % 2 == 0 else f"{HOSTILE}\u202e may not teach"
            source = "alice" if teaches else HOSTILE
            facts = {"turn": str(n), "asked_by": "alice"}
            store.append(
                said(
                    "correction",
                    source,
                    Author.TEACHER,
                    parent=begun.seq,
                    teaches=teaches,
                    reason=reason,
                    facts=facts,
                )
            )
        step(store, 1, 0, [1, 2], "served", gate(160, 150, 150))
        step(store, 2, 1, [3], "served", gate(170, 160, 150))
        step(
            store,
            3,
            2,
            [4],
            "rejected",
            gate(120, 170, 150, "30 of 200 answers fewer right than the anchor's"),
        )
    return folder


def test_a_home_with_its_curves_versions_and_sources(home, tmp_path):
    before = {file: file.read_bytes() for file in home.iterdir()}
    page = write_report([home], tmp_path / "page.html")
    text = page.read_text()
    assert {file: file.read_bytes() for file in before} == before
    assert (
        "version 2 of 4 serves" in text and "20 lessons: 3 learned, 16 wait, 1 set aside, 0 forgotten" in text
    )
    low, high = wilson(15, 30)
    assert f"40 answers, 30 of them judged, 15 right ({low:.0%} to {high:.0%})" in text
    rows = re.findall(r"<tr>(.*?)</tr>", text)
    rejected = next(row for row in rows if "fewer right than the anchor" in row)
    assert all(
        cell in rejected for cell in ("rejected", "1 of alice", "120/200", "170/200", "150/200", "0.5")
    )
    assert any("2 (serves)" in row for row in rows)
    assert "<script>alert" not in text and "\u202e" not in text and "may not teach" in text
    harmless = next(row for row in rows if ">4%<" in row)
    assert float(re.findall(r"([\d.]+)%</td>", harmless)[0]) <= 3.0
    for name in ("agent-answers", "agent-corrections", "agent-gate"):
        assert (tmp_path / "page-figures" / f"{name}.svg").is_file()
    assert write_report([home]) == home / "report.html"


def test_a_home_is_reported_alone_and_a_young_one_too(home, tmp_path):
    with pytest.raises(BadInput, match="report it alone"):
        write_report([home, home], tmp_path / "page.html")
    young = tmp_path / "young"
    young.mkdir()
    (young / "config.json").write_bytes((home / "config.json").read_bytes())
    with Store(young) as store:
        with pytest.raises(BadInput, match="was not made whole"):
            write_report([young])
        facts = {"digest": "0" * 64, "config": ""}
        store.append(Draft(kind="home", source="local", author=Author.SYSTEM, facts=facts))
        assert 'id="figures"' not in write_report([young]).read_text()
