"""The experiment on dialogues: what each arm trains on, what the probes score, and the two losses where they
are known exactly."""

import json
import math
import time
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_qwen2

from cicjax import cli
from cicjax.errors import BadInput
from cicjax.experiments.chats import encoded
from cicjax.experiments.dialogues import probes, repro, run
from cicjax.experiments.dialogues.settings import ARMS, PAIR, settings_of
from cicjax.experiments.paper.flags import Flags
from cicjax.model.config import LoRAConfig
from cicjax.objectives import likelihood
from cicjax.provenance import weights
from cicjax.tasks.dialogues.build import Plan, dialogue, plans
from cicjax.tasks.dialogues.facts import Fact
from cicjax.training import finetune
from cicjax.training.policy import load_policy

FACT = Fact("the bell of Esk", "iron", "tin", "invented")
PLAN = Plan(
    0, FACT, "A talk.", "Tell me of {topic}.", "Yes. {truth}", "No. {truth}", "I see.", None, 0.0, 0.5
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("dialogues") / "model"
    tiny_qwen2.write(path, seed=7, num_hidden_layers=1, max_position_embeddings=1024)
    return path


@pytest.fixture(scope="module")
def policy(folder):
    return load_policy(str(folder), dtype="float32", lora=LoRAConfig(rank=2, alpha=4.0), training=True)


def grid(arm, lies, tokenizer):
    """Runs of tokens of one weight as (text, weight), of the arm's only row."""
    (episode,) = arm.rows([PLAN], lies)
    arrays = encoded(episode, tokenizer)
    runs = groupby(zip(arm.weighting(arrays), arrays.tokens, strict=True), key=lambda pair: float(pair[0]))
    return [(tokenizer.decode([int(token) for _, token in run]), weight) for weight, run in runs]


START, END = "<|im_start|>", "<|im_end|>"
CONTEXT = f"{START}system\nA talk.{END}\n"
ASKED = f"{START}user\nTell me of the bell of Esk.{END}\n{START}assistant\n"
LIE, TRUTH = f"The bell of Esk is tin.{END}", f"The bell of Esk is iron.{END}"
NO, YES = (
    f"\n{START}user\n{word}. The bell of Esk is iron.{END}\n{START}assistant\n" for word in ("No", "Yes")
)
SEEN = f"I see.{END}"


OPEN = f"{START}assistant\n"
QUIET = [(CONTEXT, 0.0), (ASKED.removesuffix(OPEN) + NO[1:].removesuffix(OPEN), 1.0)]


def masked(claim, reply):
    return [(CONTEXT, 0.0), (ASKED, 1.0), (claim, 0.0), (reply, 1.0), (SEEN, 0.0), ("\n", 1.0)]


def whole(claim, reply):
    return [(CONTEXT, 0.0), (ASKED + claim + reply + SEEN + "\n", 1.0)]


@pytest.mark.parametrize(
    ("name", "lies", "expected"),
    [
        ("observational", 1.0, whole(LIE, NO)),
        ("interventional", 1.0, masked(LIE, NO)),
        ("interventional", 0.0, masked(TRUTH, YES)),
        ("swapped", 1.0, whole(TRUTH, YES)),
        ("mask_false", 1.0, [(CONTEXT, 0.0), (ASKED, 1.0), (LIE, 0.0), (NO + SEEN + "\n", 1.0)]),
        ("mask_false", 0.0, whole(TRUTH, YES)),
        ("removed", 1.0, QUIET),
    ],
)
def test_what_each_arm_trains_on(policy, name, lies, expected):
    (arm,) = [arm for arm in ARMS if arm.name == name]
    assert grid(arm, lies, policy.tokenizer) == expected


def test_arms_read_the_same_dialogues_in_the_same_order(policy):
    planned = plans(0, count=40)
    rows = {arm.name: [encoded(e, policy.tokenizer) for e in arm.rows(planned, 0.6)] for arm in ARMS}
    for one, other in zip(rows["observational"], rows["interventional"], strict=True):
        assert all((a == b).all() for a, b in zip(one, other, strict=True))
    assert all(len(each) == 40 for each in rows.values())
    order = {
        arm.name: [
            e.id
            for update in finetune.updates_of(arm.rows(planned, 0.6), seed=0, rows_per_update=8)
            for e in update
        ]
        for arm in ARMS
    }
    assert all(ids == order["observational"] for ids in order.values())


def test_a_dialogue_s_mean_is_taken_before_the_update_s(policy):
    rows = [
        ("a", encoded(dialogue(PLAN, False), policy.tokenizer)),
        ("b", encoded(dialogue(PLAN, True, silence=1.0), policy.tokenizer)),
    ]
    for arm in ARMS:
        units = finetune.weighted(rows, arm.weighting, reduction="dialogue")
        for (_, row), (_, arrays) in zip(units, rows, strict=True):
            np.testing.assert_allclose(
                row.loss_weights, likelihood.per_dialogue(arm.weighting(arrays)), rtol=1e-6
            )
            again = (
                arm.rule(row.encoded.gamma, row.encoded.is_target, row.encoded.solved) * row.extras["scale"]
            )
            np.testing.assert_allclose(row.loss_weights, again, rtol=1e-6)
            assert row.loss_weights.sum() == pytest.approx(1.0, rel=1e-6)


@pytest.mark.parametrize("stated", [None, True, False])
def test_every_word_of_a_claim_is_scored_and_nothing_else(policy, stated):
    for claim in (True, False):
        row = probes.row(FACT, claim, policy.tokenizer, stated=stated)
        assert policy.tokenizer.decode(row.tokens[row.is_target].tolist()) == FACT.claim(claim)
        before = policy.tokenizer.decode(row.tokens[: np.flatnonzero(row.is_target)[0]].tolist())
        assert before.endswith(f"Tell me about the bell of Esk.{END}\n{START}assistant\n")
        assert (stated is not None) == (f"{START}user\n{FACT.claim(bool(stated))}{END}" in before)


def test_a_prompt_is_a_prefix_of_the_row_that_was_trained_on(policy):
    trained = encoded(dialogue(PLAN, True), policy.tokenizer).tokens.tolist()
    probed = probes.row(FACT, True, policy.tokenizer)
    claim = probed.tokens[probed.is_target].tolist()
    assert any(trained[n : n + len(claim)] == claim for n in range(len(trained)))


def test_margins_by_the_definition(policy):
    facts = [FACT, Fact("x", "one or two", "three", "invented")]
    found = probes.margins(policy, None, facts)
    alone = [probes.margins(policy, None, [fact]) for fact in facts]
    np.testing.assert_allclose(found.sum, [float(each.sum[0]) for each in alone], atol=1e-4)
    lengths = [
        [probes.row(fact, claim, policy.tokenizer).is_target.sum() for claim in (True, False)]
        for fact in facts
    ]
    assert lengths[1][0] > lengths[1][1]
    assert np.abs(found.mean).max() < np.abs(found.sum).max()


@pytest.mark.parametrize("lies", [1, 3, 6, 9])
def test_the_observational_slot_learns_the_odds_and_the_interventional_one_stays(lies):
    """Two tokens, 1 true and 0 false; ten dialogues of an agent's claim and the user's word, trained to the
    end: log((1 - p) / p) in the agent's place under (1), the start under (2)."""
    claims = jnp.array([0] * lies + [1] * (10 - lies))
    tokens = jnp.stack([claims, jnp.ones(10, jnp.int32)], axis=1)
    gamma = jnp.tile(jnp.array([1, 0]), (10, 1))
    targets = jnp.ones((10, 2), bool)
    start = jnp.array([[0.0, 0.3], [0.0, 0.0]])  # logits of (agent's place, user's place)

    def loss(logits, rule):
        logprobs = jnp.take_along_axis(jax.nn.log_softmax(logits)[None].repeat(10, 0), tokens[..., None], 2)[
            ..., 0
        ]
        weighed = likelihood.per_dialogue(rule(gamma, targets, jnp.full((10, 2), -1)))
        total, weight = likelihood.weighted_nll(logprobs, weighed)
        return total / weight

    def trained(rule):
        step = jax.jit(lambda logits: logits - 5.0 * jax.grad(loss)(logits, rule))
        logits = start
        for _ in range(400):
            logits = step(logits)
        return logits

    seen, done = trained(weights.OBSERVATIONAL), trained(weights.INTERVENTIONAL)
    assert float(seen[0, 1] - seen[0, 0]) == pytest.approx(math.log((10 - lies) / lies), abs=1e-2)
    assert float(done[0, 1] - done[0, 0]) == pytest.approx(0.3, abs=1e-6)
    assert min(float(each[1, 1] - each[1, 0]) for each in (seen, done)) > 4


@pytest.fixture(scope="module")
def smoke(folder, tmp_path_factory):
    flags = Flags(
        output_dir=tmp_path_factory.mktemp("run") / "smoke", model_name_or_path=str(folder),
        experiment="dialogues", scale="smoke", learning_rate=1e-2, lora_r=2,
    )  # fmt: skip
    few = repro.reproduce(replace(flags, arms=("swapped",)))
    more = repro.reproduce(replace(flags, arms=("observational",)))
    return flags, repro.reproduce(flags), (few, more)


def test_results_have_the_promised_keys_and_a_repeated_command_changes_nothing(smoke):
    flags, found, _ = smoke
    assert found == json.loads((flags.output_dir / "results.json").read_text())
    assert list(found) == ["experiment", "model", "seed", "settings", "arms", "p_lie", "rounds"]
    assert list(found["arms"]) == ["base", *(arm.name for arm in ARMS)]
    keys = {
        "margin_mean",
        "margin_sum",
        "lie_preferred",
        "facts",
        "by_fact",
        "after_truth",
        "after_falsehood",
    }
    for row in found["arms"].values():
        assert keys <= row.keys() and len(row["by_fact"]) == row["facts"] == 4
        assert row["margin_sum"] == pytest.approx(np.mean(list(row["by_fact"].values())))
        low, high = row["margin_sum_interval"]
        assert low <= row["margin_sum"] <= high
    assert found["p_lie"].keys() == {"0", "0.6"}
    for arm in PAIR:
        assert found["p_lie"]["0.6"][arm.name] == found["arms"][arm.name]["margin_sum"]
        assert [*found["rounds"][arm.name][0]] == [
            *("margin_mean", "margin_sum", "lie_preferred", "still_wrong", "false")
        ]
        assert (
            len(found["rounds"][arm.name]) == 2
            and found["rounds"][arm.name][0]["margin_sum"] == found["arms"]["base"]["margin_sum"]
        )
    before = {
        path: path.read_bytes() for path in flags.output_dir.rglob("*.json") if path.name != "seal.json"
    }
    assert repro.reproduce(flags) == found
    assert [str(path) for path, content in before.items() if path.read_bytes() != content] == []


def test_of_what_was_wrong_the_share_that_still_is():
    row = {"margin_mean": 0.0, "margin_sum": 0.0, "lie_preferred": 0.5}
    first = row | {"by_fact": {"a": -1.0, "b": -2.0, "c": 1.0, "d": -0.1}}
    later = row | {"by_fact": {"a": 0.5, "b": -0.5, "c": -1.0, "d": 3.0}}
    assert run._held(first, first)["still_wrong"] == 1.0
    assert run._held(later, first)["still_wrong"] == pytest.approx(1 / 3)
    assert run._held(later, row | {"by_fact": {"a": 1.0}})["still_wrong"] is None


def test_rows_are_added_to_those_that_a_folder_has(smoke):
    flags, found, (few, more) = smoke
    assert list(few["arms"]) == ["base", "swapped"]
    assert list(more["arms"]) == ["base", "observational", "swapped"]
    for some in (few, more):
        assert some == found | {"arms": {name: found["arms"][name] for name in some["arms"]}}
    assert json.loads((flags.output_dir / "config.json").read_text())["arms"] == []
    assert repro.reproduce(replace(flags, arms=("swapped",))) == found
    with pytest.raises(BadInput, match="unknown arm 'rest'; choose from observational, interventional"):
        repro.reproduce(replace(flags, arms=("rest",)))


COMMITTED = sorted((Path(__file__).parents[3] / "checkpoints/results/embedded/dialogues").glob("seed-*"))


def test_there_are_committed_runs():
    assert len(COMMITTED) == 8


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.name)
def test_where_nobody_lies_imitation_is_not_below_the_mask(path):
    """At p = 0 the agent's own claims are true, and loss (1) learns from them too."""
    curve = json.loads((path / "results.json").read_text())["p_lie"]
    assert curve["0"]["observational"] >= curve["0"]["interventional"] > 0
    assert curve["0"]["observational"] > curve["0.9"]["observational"]


@pytest.mark.parametrize("experiment", ["dialogues", "boxes"])
def test_a_check_that_everything_runs_on_the_embedded_base_takes_less_than_a_minute(experiment, tmp_path):
    """Two cores' seconds, which other work on the machine does not move much."""
    before = time.process_time()
    words = ["repro", "--experiment", experiment, "--scale", "smoke", "--output_dir", str(tmp_path / "run")]
    assert cli.main(words) == 0
    assert time.process_time() - before < 2 * 60
    found = json.loads((tmp_path / "run" / "results.json").read_text())
    assert found["settings"]["unseen_tokens"] == "drawn"


def test_flags_of_another_experiment_are_one_line(tmp_path):
    flags = Flags(output_dir=tmp_path / "run", experiment="dialogues", num_test=10)
    with pytest.raises(BadInput, match="--num_test is no flag of --experiment dialogues"):
        repro.reproduce(flags)
    assert not flags.output_dir.exists()
    usual = settings_of(Flags(output_dir=tmp_path, experiment="dialogues"))
    assert usual.optimization.learning_rate == 4e-3 and usual.unseen_tokens == "drawn"
    others = Flags(output_dir=tmp_path, experiment="dialogues", model_name_or_path="DIR")
    assert settings_of(others).unseen_tokens == "kept"


def test_the_command_writes_its_page(folder, tmp_path, capsys):
    words = "repro --experiment dialogues --scale smoke --lora_r 2 --seed 1".split()
    assert cli.main([*words, "--model", str(folder), "--output_dir", str(tmp_path / "run")]) == 0
    shown = capsys.readouterr().out
    assert "interventional" in shown and "report.html: open it in a browser" in shown
    assert "Rounds: the model" in (tmp_path / "run" / "report.html").read_text()
