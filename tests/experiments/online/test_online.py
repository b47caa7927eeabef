"""The online experiment: its stream, what its arms learn, and a life that is resumed arm by arm."""

import json
import lzma
import random
import subprocess
import sys
from collections import Counter

import pytest

from cicjax.cli import main
from cicjax.errors import BadInput
from cicjax.experiments.online import arms, results, world
from cicjax.experiments.paper import archive
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


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """A run of some arms at the smallest scale."""
    run = tmp_path_factory.mktemp("smoke") / "run"
    assert main(command(run, *FEW)) == 0
    return run


FEW = ("frozen", "replay_only", "interventional", "in_context")


def command(run, *names):
    few = ["--arms", *names] if names else []
    return ["repro", "--experiment", "online", "--scale", "smoke", "--output_dir", str(run), *few]


def test_a_smoke_run_and_its_page(smoke):
    found = json.loads((smoke / "results.json").read_text())
    assert tuple(found["arms"]) == FEW
    for row in found["arms"].values():
        asked = [row["phases"][phase]["questions"] for phase in world.PHASES]
        assert asked == [8, 8, 8] and row["curve"][-1]["events"] == 24
        assert 0 <= row["prequential"] <= 1 and row["nats"] > 0
    frozen, replay = found["arms"]["frozen"], found["arms"]["replay_only"]
    assert (
        frozen["phases"]["known"]["solved"] == replay["phases"]["known"]["solved"]
    )  # nothing is learned yet
    assert frozen["corrected"] == frozen["curve"][-1]["corrected"]
    page = (smoke / "report.html").read_text()
    assert "Replay only" in page and (smoke / "figures" / "online-corrections.svg").is_file()
    assert "weights: the embedded base" in page
    assert f"--seed 0 --task stem --arms {' '.join(FEW)}" in page


def test_a_run_is_kept_without_its_adapters_and_has_the_same_page(smoke, tmp_path):
    kept = tmp_path / "kept"
    archive.keep(smoke, kept)
    assert (kept / "results.json").read_bytes() == (smoke / "results.json").read_bytes()
    lives = [json.loads(line) for line in lzma.decompress((kept / archive.LIVES).read_bytes()).splitlines()]
    assert sorted(life["arm"] for life in lives) == sorted(FEW)
    assert sum(path.stat().st_size for path in kept.iterdir()) < 40_000
    assert main(["report", str(kept)]) == 0 and "Replay only" in (kept / "report.html").read_text()
    (kept / "config.json").unlink()
    assert main(["report", str(kept)]) == 0 and "weights:" not in (kept / "report.html").read_text()
    with pytest.raises(BadInput, match="finish the run first"):
        archive.keep(tmp_path, kept)


def test_at_a_second_rate_of_zero_an_arm_lives_as_the_frozen_one(tmp_path):
    assert main([*command(tmp_path, "frozen", "interventional"), "--second_stage_learning_rate", "0"]) == 0
    frozen, other = json.loads((tmp_path / "results.json").read_text())["arms"].values()
    assert other["phases"] == frozen["phases"] and other["curve"] == frozen["curve"]


@pytest.mark.slow
def test_killed_at_any_moment_a_run_comes_to_the_same_bytes(tmp_path, capfd):
    few, rng = ("frozen", "replay_only", "refit"), random.Random(0)
    whole, cut, kills = tmp_path / "whole", tmp_path / "cut", 0
    assert main(command(whole, *few)) == 0
    while True:
        with subprocess.Popen([sys.executable, "-m", "cicjax", *command(cut, *few)]) as process:
            try:
                # At least a second more than the last time, or none would ever end an arm.
                process.wait(timeout=rng.uniform(2.0, 8.0 + kills))
                break
            except subprocess.TimeoutExpired:
                process.kill()
        kills += 1
    assert process.returncode == 0 and kills >= 3, kills
    assert (cut / "results.json").read_bytes() == (whole / "results.json").read_bytes()
    for name in few:
        one, other = (folder / "arms" / f"{name}.json" for folder in (cut, whole))
        assert one.read_bytes() == other.read_bytes()
    print(json.dumps({"kills": kills}))
