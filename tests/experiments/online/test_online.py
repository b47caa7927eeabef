"""The online experiment: its stream, what its arms learn, and a life that is resumed arm by arm."""

import json
from collections import Counter

import pytest

from cicjax.cli import main
from cicjax.experiments.online import arms, results, world
from cicjax.methods.rows import attempted
from cicjax.provenance.transcript import Author, Message
from cicjax.tasks import stem


def test_every_question_comes_once_and_new_skills_in_the_second_third():
    made = world.make_world(stem.task("tiny"), 1, world.SCALES["small"])
    ids = [problem.id for problem in (*made.sft, *made.stream, *made.dev)]
    assert len(set(ids)) == len(ids) and [len(phase) for phase in made.phases] == [64, 64, 64]
    assert {p.skill for p in (*made.sft, *made.phases[0])} == set(made.known)
    assert not set(made.known) & {p.skill for p in made.phases[1]}
    mixed = Counter(p.skill in made.known for p in made.phases[2])
    assert len(made.known) == 5 and min(mixed.values()) > 10
    assert made == world.make_world(stem.task("tiny"), 1, world.SCALES["small"])


def exchange(number, solved):
    attempt = Message(role="assistant", content=f"try {number}", author=Author.AGENT, solved=int(solved))
    return attempted(str(number), question_text=f"q{number}", attempt=attempt, correction=f"right {number}")


def test_what_an_arm_learns_of_a_success_and_two_failures():
    given = [exchange(0, True), exchange(1, False), exchange(2, False)]
    learned = {
        arm.name: [[message.content for message in each.messages] for each in arm.rows(given)]
        for arm in arms.ARMS
        if arm.rows is not None
    }
    own = [["q1", "try 1", "right 1"], ["q2", "try 2", "right 2"]]
    alone = [["q1", "right 1"], ["q2", "right 2"]]
    assert learned["interventional"] == learned["no_replay"] == learned["one_stream"] == own
    assert learned["corrections"] == alone and learned["both"] == own + alone
    assert learned["shuffled"] == [["q1", "try 2", "right 1"], ["q2", "try 1", "right 2"]]
    assert learned["observational"] == [["q0", "try 0"], *own] and "replay_only" not in learned


def test_a_contrast_needs_an_interval_and_holms_p_to_hold():
    runs = [
        {
            name: {
                measure: 0.5 + 0.1 * (name == "interventional") + 0.001 * seed for measure in results.MEASURES
            }
            for name in ("interventional", "replay_only", "observational", "corrections", "shuffled")
        }
        for seed in range(8)
    ]
    words = {(row["measure"], row["against"]): row["word"] for row in results.contrasts(runs)}
    assert words["prequential", "replay_only"] == "holds" and words["nats", "replay_only"] == "does not"
    assert {row["word"] for row in results.contrasts(runs[:1])} == {"undecided"}


@pytest.mark.slow
def test_a_run_is_resumed_arm_by_arm(tmp_path, capsys):
    run = tmp_path / "run"
    few = ["frozen", "replay_only", "interventional"]
    command = [
        "repro",
        "--experiment",
        "online",
        "--scale",
        "smoke",
        "--output_dir",
        str(run),
        "--arms",
        *few,
    ]
    assert main(command) == 0
    whole, kept = (run / "results.json").read_bytes(), (run / "arms" / "frozen.json").stat().st_mtime_ns
    (run / "results.json").unlink()
    assert main(command) == 0
    assert (run / "results.json").read_bytes() == whole
    assert (run / "arms" / "frozen.json").stat().st_mtime_ns == kept
    found = json.loads(whole)["arms"]
    assert set(found) == set(few) and found["frozen"]["phases"]["new"]["questions"] == 16
    assert "Replay only" in capsys.readouterr().out
