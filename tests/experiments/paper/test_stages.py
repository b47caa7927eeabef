"""The graph of stages on a random toy: the ledger's identities, resuming after a kill, and runs where nothing
or everything is solved."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import tiny_qwen2

from cicjax import cli
from cicjax.errors import BadInput, Corrupted, Locked
from cicjax.experiments.paper import repro, stages
from cicjax.experiments.paper.flags import Flags
from cicjax.experiments.paper.run import load_run
from cicjax.experiments.paper.settings import Counts, Settings
from cicjax.methods import EVERY, METHODS, grpo, rest
from cicjax.model.config import LoRAConfig
from cicjax.runs.folder import RunFolder
from cicjax.tasks import stem
from cicjax.tasks.task import record_of
from cicjax.training.checkpoints import leaf_digests, load_adapter
from cicjax.training.steps import Optimization

NAMES = tuple(method.name for method in METHODS)
SETTINGS = Settings(
    seed=3,
    methods=NAMES,
    counts=Counts(
        sft_rows=12, agent_problems=10, dev_problems=10, test_problems=20, wrong_attempts=12, groups=4
    ),
    task=record_of(stem.task("tiny")),
    dtype="float32",
    lora=LoRAConfig(rank=2, alpha=4.0),
    attempts_per_problem=2,
    rows_per_update=4,
    policy=grpo.Constants(num_generations=3),
    max_attempt_tokens=12,
    max_answer_tokens=12,
)


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toy") / "model"
    tiny_qwen2.write(folder, seed=4, num_hidden_layers=1)
    return folder


@dataclasses.dataclass(frozen=True)
class Scripted(stem.Stem):
    """Verdicts that have nothing to do with the answer but are a function of it: half of a toy's babble
    passes, half fails; or, if asked, all of it does the one."""

    always: bool | None = None

    def verify(self, problem, completion):
        passes = zlib.crc32((problem.id + completion).encode()) % 2 == 0
        return stem.Verdict(passes if self.always is None else self.always, 1.0, None, "scripted")


def first_pass(rollouts):
    """ReST's rows from babble, which no marker and no end of text makes clean."""
    groups = rollouts.candidates()
    passed = [next((each for each in group if each.messages[1].solved == 1), None) for group in groups]
    return [each for each in passed if each is not None] + rollouts.teacher()


def with_rows(method):
    return dataclasses.replace(rest.METHOD, rows=first_pass) if method is rest.METHOD else method


def run_all(
    folder: Path, toy: Path, settings: Settings = SETTINGS, *, always: bool | None = None, methods=METHODS
) -> dict:
    with RunFolder(folder, settings.record(), outside_identity=("methods",)):
        run = load_run(
            folder,
            settings,
            model=str(toy),
            task=Scripted("tiny", always=always),
            methods=[with_rows(method) for method in methods],
            save_steps=1,
        )
        before = leaf_digests(run.base)
        results = stages.run_stages(run)
        assert leaf_digests(run.base) == before  # no method touches the base
        return results.to_json()


@pytest.fixture(scope="module")
def finished(toy, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "whole"
    return folder, run_all(folder, toy)


def test_the_ledgers_identities_hold(finished):
    _, results = finished
    ledger = results["ledger"]
    assert (
        ledger["positions_observational"] == ledger["positions_attempts"] + ledger["positions_interventional"]
    )
    assert ledger["positions_interventional"] == ledger["positions_oracle"] > 0
    assert ledger["stream_rows"] == ledger["wrong_attempts"] + ledger["first_attempts_correct"]
    assert (
        ledger["wrong_attempts"] == 12
        and 6 <= ledger["unique_corrected_questions"] <= 10
        and ledger["first_attempts_correct"] > 4
    )
    assert ledger["positions_total"] > ledger["positions_observational"]


def test_protocols_add_up(finished):
    folder, results = finished
    assert tuple(results["methods"]) == NAMES
    sft = results["methods"]["sft"]
    for name, row in results["methods"].items():
        assert row["questions"] == 20 == sum(asked for _, asked in row["by_skill"].values())
        assert (
            row["solved"]
            == sum(solved for solved, _ in row["by_skill"].values())
            == row["kept"] + row["gained"]
        )
        assert row["kept"] + row["lost"] == sft["solved"] == row["questions"] - row["repair_questions"]
        assert 0 < row["solved"] < 20 and row["harmed"] <= sft["solved"]
        assert row["two_step_solved"] == sft["solved"] + row["repair_solved"]
        assert row["natural_two_step"] == sft["solved"] + row["gained"]
        assert row["second_turn"] == row["repair_solved"] + sft["solved"] - row["harmed"]
        assert row["kl_to_sft"] == 0 if name == "sft" else row["kl_to_sft"] > 0
        assert set(row["held_out_nats"]) == {"direct", "repair", "placebo"}
        assert row["seen_questions"] == results["ledger"]["unique_corrected_questions"] >= row["seen_solved"]
        assert row["wilson_low"] <= row["accuracy"] <= row["wilson_high"]
        for protocol in ("direct", "second"):
            lines = (folder / "evaluations" / f"{name}-{protocol}.jsonl").read_text().splitlines()
            assert (
                len(lines) == 20
                and {"prompt", "completion", "value", "solved", "reason"} <= json.loads(lines[0]).keys()
            )


def test_the_arms_eat_one_order_of_the_same_rows(finished):
    """Row i of update j is the same transcript in all; arms differ in their weights, the oracle's on this
    schedule in its context."""
    folder, _ = finished
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    arms = ("observational", "interventional", "oracle_shared")
    seen = {
        arm: [
            (line["update"], line["rows"], line["tokens/supervised"])
            for line in lines
            if line["stage"] == arm
        ]
        for arm in arms
    }
    assert seen["oracle_shared"] == seen["interventional"] != []
    assert all(
        some[2] >= few[2] for some, few in zip(seen["observational"], seen["interventional"], strict=True)
    )
    orders = {arm: json.loads((folder / arm / "order.json").read_text()) for arm in seen}
    assert orders["observational"] == orders["interventional"] == orders["oracle_shared"]
    assert sorted(id for update in orders["observational"] for id in update) == sorted(
        json.loads(line)["id"] for line in (folder / "rollouts" / "stream.jsonl").read_text().splitlines()
    )


@pytest.mark.parametrize("objective", ["interventional", "observational"])
def test_own_transcripts_and_the_paper_are_one_path(finished, toy, tmp_path, objective):
    """`cicjax train` on the stream's file, from SFT-1, gives the arm's adapter bit for bit."""
    folder, _ = finished
    same = (
        "--seed",
        3,
        "--per_device_train_batch_size",
        4,
        "--dtype",
        "float32",
        "--model",
        toy,
        "--output_dir",
        tmp_path / "own",
    )
    arguments = (
        "train",
        folder / "rollouts" / "stream.jsonl",
        "--objective",
        objective,
        "--start_adapter",
        folder / "sft",
        *same,
    )
    assert cli.main([str(argument) for argument in arguments]) == 0
    assert leaf_digests(load_adapter(tmp_path / "own" / "adapter")[0]) == leaf_digests(
        load_adapter(folder / objective)[0]
    )


def test_what_every_second_stage_reports(finished):
    _, results = finished
    methods = results["methods"]
    budgets = {name: row["budget"] for name, row in methods.items()}
    assert results["grpo"]["groups"] == 4 == results["grpo"]["flat_groups"] + results["grpo"]["update_steps"]
    assert results["grpo"]["update_steps"] > 0 and budgets["grpo"]["supervised_tokens"] > 0
    selected = results["rest"]["selected"]
    assert 0 < selected <= 4
    assert results["rest"] == {
        "candidates": 12,
        "groups": 4,
        "selected": selected,
        "replay": 12,
        "pairs": selected + 12,
    }
    assert methods["sft"]["self_confirmation"] == methods["sft"]["truth_gain"] == 0.0
    assert methods["observational"]["self_confirmation"] > methods["interventional"]["self_confirmation"]
    ledger = results["ledger"]
    assert budgets["observational"]["supervised_tokens"] == ledger["positions_observational"]
    for name in ("interventional", "oracle", "oracle_shared"):
        assert budgets[name]["supervised_tokens"] == ledger["positions_interventional"]
    assert budgets["rest"]["verifier_calls"] == budgets["grpo"]["verifier_calls"] == 12
    assert (
        budgets["base"]["updates"] == budgets["base"]["flop"] == 0
        and budgets["base"]["learning_rate"] is None
    )
    assert [budgets[name]["oracle_solutions"] for name in ("sft", "interventional", "grpo")] == [12, 12, 0]
    distinct = [budgets[name]["distinct_solutions"] for name in ("sft", "interventional", "grpo")]
    assert distinct == [12, ledger["unique_corrected_questions"], 0]


def test_grpo_is_anchored_at_sft_1_and_samples_what_it_trains_on(finished):
    folder, results = finished
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    live = [line for line in lines if line["stage"] == "grpo" and line["applied"]]
    assert len(live) == results["grpo"]["update_steps"] >= 2
    assert live[0]["kl"] == 0 < live[-1]["kl"]  # the policy starts at its reference and moves away from it
    assert all(line["logprob_gap_max"] < 1e-4 for line in live)


@pytest.mark.parametrize("ratio", ["token", "sequence"])
def test_with_several_updates_a_group_the_clip_is_live_and_counted(toy, tmp_path, ratio):
    policy = grpo.Constants(num_generations=3, num_iterations=3, epsilon=1e-4, ratio=ratio)
    settings = dataclasses.replace(
        SETTINGS, methods=("grpo",), policy=policy, policy_optimization=Optimization(learning_rate=1e-2)
    )
    results = run_all(tmp_path / "run", toy, settings)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    live = [line for line in lines if line["stage"] == "grpo" and line["applied"]]
    assert len(live) == results["grpo"]["update_steps"] == 3 * (4 - results["grpo"]["flat_groups"]) > 0
    shares = [line.get("clip_ratio") for line in live]
    assert set(shares[::3]) == {None}  # every ratio of a group's first update is 1
    assert all(0 < share <= 1 for n, share in enumerate(shares) if n % 3)


def test_self_confirmation_starts_from_the_probabilities_that_the_attempts_were_sampled_with(finished):
    folder, _ = finished
    rows = [json.loads(line) for line in (folder / "rollouts" / "stream.jsonl").read_text().splitlines()]
    sampled = [np.mean(row["messages"][1]["logprobs"]) for row in rows if row["messages"][1]["solved"] == 0]
    scored = [
        json.loads(line)["mean"]
        for line in (folder / "evaluations" / "sft-logprobs-attempts.jsonl").read_text().splitlines()
    ]
    assert len(set(np.round(sampled, 3))) > 6
    np.testing.assert_allclose(scored, sampled, atol=1e-4)


def test_a_finished_folder_is_read_and_a_deleted_one_comes_out_the_same(finished, toy, tmp_path):
    folder, results = finished
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.jsonl")}
    assert run_all(folder, toy) == results
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.jsonl")} == before
    assert run_all(tmp_path / "again", toy) == results
    for name in ("sft", "observational", "interventional"):
        assert leaf_digests(load_adapter(tmp_path / "again" / name)[0]) == leaf_digests(
            load_adapter(folder / name)[0]
        )


def test_every_arm_is_one_more_row_and_moves_no_other(finished, toy, tmp_path):
    """In a copy of a finished run, all arms at once: what is there is not done again."""
    folder, results = finished
    shutil.copytree(folder, tmp_path / "more")
    there = {path: path.stat().st_mtime_ns for path in (tmp_path / "more").rglob("*-direct.jsonl")}
    names = tuple(method.name for method in EVERY)
    more = run_all(tmp_path / "more", toy, dataclasses.replace(SETTINGS, methods=names), methods=EVERY)
    assert tuple(more["methods"]) == names
    assert {name: more["methods"][name] for name in NAMES} == results["methods"]
    assert {path: path.stat().st_mtime_ns for path in there} == there
    budgets = {name: row["budget"] for name, row in more["methods"].items()}
    for name in ("mask_wrong", "mask_correct", "dose_0.1", "shuffled", "verdict_context", "sft2"):
        assert budgets[name]["updates"] == budgets["interventional"]["updates"], name
    assert budgets["shuffled"]["supervised_tokens"] == budgets["interventional"]["supervised_tokens"]
    attempts = more["ledger"]["positions_attempts"]
    masked = [
        more["ledger"][f"positions_{name}"] for name in ("mask_wrong", "mask_correct", "interventional")
    ]
    assert masked[0] + masked[1] - 2 * masked[2] == attempts
    assert more["ledger"]["positions_every_world"] > masked[2]
    assert budgets["no_oracle"]["oracle_solutions"] == budgets["sft2"]["oracle_solutions"] == 0


def test_updates_of_live_rows_leave_out_the_others(finished, toy, tmp_path):
    """The interventional arm then has the batches of the paper's oracle, row for row."""
    _, results = finished
    settings = dataclasses.replace(SETTINGS, methods=("interventional", "oracle"), batches="live_rows")
    live = run_all(tmp_path / "live", toy, settings)["methods"]
    assert live["interventional"]["budget"]["updates"] == live["oracle"]["budget"]["updates"] == 3
    assert live["oracle"] == results["methods"]["oracle"]
    orders = [
        json.loads((tmp_path / "live" / arm / "order.json").read_text())
        for arm in ("interventional", "oracle")
    ]
    assert orders[0] == orders[1]


def test_second_stages_have_rates_and_epochs_of_their_own(finished, toy, tmp_path):
    _, results = finished
    settings = dataclasses.replace(
        SETTINGS,
        methods=("sft", "grpo", "observational", "interventional"),
        second_stage=Optimization(learning_rate=1e-3),
        second_stage_epochs=2,
        rates={"observational": 3e-3},
    )
    rows = run_all(tmp_path / "tuned", toy, settings)["methods"]
    rates = {name: row["budget"]["learning_rate"] for name, row in rows.items()}
    assert rates == {"sft": 2e-4, "grpo": 5e-5, "observational": 3e-3, "interventional": 1e-3}
    assert rows["sft"] == results["methods"]["sft"]
    twice = results["methods"]["interventional"]["budget"]
    assert rows["interventional"]["budget"]["updates"] == 2 * twice["updates"]
    assert rows["interventional"]["budget"]["supervised_tokens"] == 2 * twice["supervised_tokens"]


KILLED = """
import os, sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from cicjax.training import checkpoints
from test_stages import SETTINGS, run_all
save, saves = checkpoints.save, []
def save_and_die(directory, step, **rest):
    save(directory, step, **rest)
    saves.append(step)
    if directory.name == {stage!r}:
        os._exit(9)
checkpoints.save = save_and_die
run_all(Path({folder!r}), Path({toy!r}))
"""


@pytest.mark.parametrize("stage", ["sft", "interventional", "grpo"])
def test_a_killed_run_resumes_to_the_same_bits(finished, toy, tmp_path, stage):
    folder, results = finished
    tests = str(Path(__file__).parent)
    program = KILLED.format(tests=tests, stage=stage, folder=str(tmp_path / "killed"), toy=str(toy))
    helpers = str(Path(tests).parents[1] / "model")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([helpers, os.environ.get("PYTHONPATH", "")])}
    assert (
        subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, cwd=Path(tests).parents[1]
        ).returncode
        == 9
    )
    assert (tmp_path / "killed" / stage / "1").is_dir() and not (
        tmp_path / "killed" / "results.json"
    ).exists()
    assert run_all(tmp_path / "killed", toy) == results
    assert leaf_digests(load_adapter(tmp_path / "killed" / stage)[0]) == leaf_digests(
        load_adapter(folder / stage)[0]
    )


@pytest.mark.parametrize("solved", [False, True])
def test_it_ends_well_when_nothing_or_everything_is_solved(toy, tmp_path, solved):
    results = run_all(tmp_path / "run", toy, always=solved)
    ledger = results["ledger"]
    assert ledger["wrong_attempts"] == (0 if solved else 12)
    assert results["grpo"] == {"groups": 4, "flat_groups": 4, "update_steps": 0}
    assert (ledger["positions_interventional"] == 0) == solved
    budget = results["methods"]["interventional"]["budget"]
    assert budget["supervised_tokens"] == ledger["positions_interventional"] and budget["updates"] > 0
    start, *unmoved = (
        ("sft", "grpo", "interventional", "oracle", "oracle_shared") if solved else ("sft", "grpo")
    )
    for name in unmoved:  # no evidence, no learning
        assert leaf_digests(load_adapter(tmp_path / "run" / name)[0]) == leaf_digests(
            load_adapter(tmp_path / "run" / start)[0]
        )


def test_an_earlier_step_never_passes_for_the_trained_adapter(finished, toy, tmp_path):
    """Whoever deletes a stage's last step gets it trained again from the one before, not evaluated as it is;
    and files that can be made again are."""
    folder, results = finished
    shutil.copytree(folder, tmp_path / "copy")
    last = max(int(path.name) for path in (tmp_path / "copy" / "sft").iterdir() if path.name.isdigit())
    shutil.rmtree(tmp_path / "copy" / "sft" / str(last))
    for name in (
        "rollouts/candidates.jsonl",
        "rollouts/grpo.jsonl",
        "evaluations/sft-direct.jsonl",
        "rest/budget.json",
    ):
        (tmp_path / "copy" / name).unlink()  # as an earlier error may have advised
    assert run_all(tmp_path / "copy", toy) == results
    assert leaf_digests(load_adapter(tmp_path / "copy" / "sft")[0]) == leaf_digests(
        load_adapter(folder / "sft")[0]
    )


def test_a_changed_byte_in_a_transcript_is_noticed(finished, toy, tmp_path):
    folder, _ = finished
    for name in ("sft", "stream", "oracle", "candidates", "rest", "grpo"):
        copy = tmp_path / name
        shutil.copytree(folder, copy)
        path = copy / "rollouts" / f"{name}.jsonl"
        path.write_bytes(path.read_bytes().replace(b"a", b"b", 1))
        with pytest.raises(Corrupted, match="not the bytes that were written"):
            run_all(copy, toy)


def flags(toy: Path, folder: Path, **changes) -> Flags:
    return Flags(**({"model_name_or_path": str(toy), "output_dir": folder, "scale": "smoke"} | changes))


def test_bad_requests_are_one_line(toy, finished, tmp_path):
    with pytest.raises(BadInput, match="unknown method 'dpo'"):
        repro.reproduce(flags(toy, tmp_path / "a", methods=("dpo",)))
    with pytest.raises(BadInput, match="no such folder"):
        repro.reproduce(flags(tmp_path / "nowhere", tmp_path / "a"))
    for wrong in (
        {"num_test": 0},
        {"methods": ()},
        {"learning_rate": float("nan")},
        {"epsilon": -0.1},
        {"lora_target_modules": ()},
    ):
        with pytest.raises(BadInput, match=r"1 or more|is named|from 0 on"):
            repro.reproduce(flags(toy, tmp_path / "a", **wrong))
    assert not (tmp_path / "a").exists()
    folder, _ = finished
    with pytest.raises(BadInput, match="another configuration"):
        repro.reproduce(flags(toy, folder))
    with RunFolder(tmp_path / "b", {}), pytest.raises(Locked, match=f"process {os.getpid()}"):
        repro.reproduce(flags(toy, tmp_path / "b"))
