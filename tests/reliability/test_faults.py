"""Damage to any file of a run, or of a model folder that a run has recorded, is noticed by whatever reads it,
or makes no difference: nothing is silent."""

import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import faults
import jax
import numpy as np
import pytest
import test_stages
import tiny_qwen2
from faults import Fault, Kept, Outcome, Snapshot

from cicjax import cli
from cicjax.errors import Corrupted
from cicjax.experiments.paper.settings import Settings
from cicjax.files import seal
from cicjax.logs.native import format_episode
from cicjax.methods.card import model_card
from cicjax.model import huggingface
from cicjax.model.config import LoRAConfig
from cicjax.report import runs
from cicjax.runs.folder import RunFolder, read_part
from cicjax.training import checkpoints
from cicjax.training.adapters import load_adapter, run_config
from cicjax.training.policy import load_policy

SEEDS = {"run": 3, "other seed": 4}
METHODS = ("sft", "rest", "grpo", "interventional")
LORA = LoRAConfig(rank=2, alpha=4.0, target_modules=("q_proj", "v_proj"))  # few leaves, quickly read
ROWS = [
    {
        "id": f"row {n}",
        "messages": [
            {"role": "user", "author": "user", "content": f"A force of {n} N acts on 3 kg."},
            {"role": "assistant", "author": "agent", "content": f"a = {n}", "solved": 0},
            {"role": "assistant", "author": "teacher", "content": f"a = F / m = {n} / 3"},
        ],
    }
    for n in range(12)
]
Outcomes = list[tuple[Fault, Outcome]]


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """A toy model, and trainings on a few lines: whole, again, and of another seed."""
    root = tmp_path_factory.mktemp("world")
    tiny_qwen2.write(root / "toy", seed=4, num_hidden_layers=1)
    (root / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    for name, seed in {"trained": 0, "trained again": 0, "trained otherwise": 1}.items():
        assert train(root, name, "--seed", seed) == 0
    shutil.copy(root / "trained/config.json", root / "trained.config")
    return root


@pytest.fixture(scope="module")
def experiments(world) -> Path:
    """The toy's experiment at two seeds, and one more left half way."""
    for name, seed in SEEDS.items():
        test_stages.run_all(world / name, world / "toy", settings(seed))
    half_way(world)
    return world


def settings(seed: int) -> Settings:
    return replace(test_stages.SETTINGS, seed=seed, methods=METHODS, lora=LORA)


def half_way(root: Path) -> None:
    """An experiment whose GRPO was stopped between two groups, and whose stream is in parts again."""
    save = checkpoints.save

    def stop(directory, step, **rest):
        result = save(directory, step, **rest)
        if Path(directory).name == "grpo" and step == 3:
            raise KeyboardInterrupt
        return result

    checkpoints.save = stop
    try:
        with pytest.raises(KeyboardInterrupt):
            test_stages.run_all(root / "half", root / "toy", settings(3))
    finally:
        checkpoints.save = save


def train(root: Path, name: str, *more: object) -> int:
    arguments = ["train", root / "log.jsonl", "--model", root / "toy", "--output_dir", root / name]
    arguments += ["--lora_r", 2, "--lora_target_modules", *LORA.target_modules]
    arguments += ["--per_device_train_batch_size", 4, "--save_steps", 2, "--max_steps", 5]
    return cli.main([str(argument) for argument in (*arguments, *more)])


def of_experiment(root: Path, seed: int, changed: str):
    """What report, cards and adapters take from a finished experiment. Of its adapters those are read in
    whose folder a file changed."""
    with RunFolder(root, settings(seed).record()):
        pass
    run = runs.read_run(root)
    said = [run.config, run.results.to_json(), run.environment, run.timings, run.metrics]
    said += [[format_episode(episode) for episode in run.stream]]
    said += [[answer.to_json() for answer in given] for by in run.answers.values() for given in by.values()]
    said += [seal.read_jsonl(root / "rollouts" / name) for name in sorted(seal.listed(root / "rollouts"))]
    method = changed.split("/")[0]
    if (root / method / "budget.json").exists() or method in test_stages.NAMES:
        said += of_adapter(root / method)
    return faults.digest(said)


def of_adapter(folder: Path) -> list[object]:
    """An adapter, its settings and its card."""
    toy = folder.parent.parent / "toy"
    adapter, lora, known = load_adapter(folder, huggingface.read_config(toy))
    said: list[object] = [
        checkpoints.leaf_digests(adapter),
        model_card(folder, known=known, lora=lora, base_name="toy", name=folder.name),
    ]
    return [
        *said,
        run_config(folder),
        seal.read_json(folder / "order.json") if "grpo" not in folder.name else None,
    ]


def of_half(root: Path, changed: str):
    """What the command that goes on reads of an unfinished experiment: finished stages, parts, groups, the
    newest state with its optimizer."""
    with RunFolder(root, settings(3).record()):
        pass
    said: list[object] = [seal.read_jsonl(path) for path in sorted(root.glob("[re]*s/*.jsonl"))]
    for name in sorted(seal.listed(root / "rollouts")) + sorted(seal.listed(root / "evaluations")):
        folder = "rollouts" if name in seal.listed(root / "rollouts") else "evaluations"
        said.append(seal.read_bytes(root / folder / name).decode())
    said += [group_rows(root / f"grpo/groups/{group:05d}.jsonl") for group in range(3)]
    method = changed.split("/")[0]
    if method in test_stages.NAMES and (root / method).is_dir():
        if checkpoints.latest(root / method) is None or checkpoints.numbered.lost(root / method):
            raise Corrupted(f"{changed}: lost")  # the learner says so and makes it again
        tree, metadata = checkpoints.load(root / method)
        said += [checkpoints.leaf_digests(tree), metadata]
    return faults.digest(said)


def group_rows(path: Path) -> list[dict[str, object]]:
    """A group of GRPO's; a lost one its stage takes for a damaged one."""
    try:
        return read_part(path)
    except FileNotFoundError:
        raise Corrupted(f"{path}: lost") from None


def of_training(root: Path, changed: str):
    """What `cicjax train`, `export` and a person with the metrics take from a training."""
    config = json.loads((root.parent / "trained.config").read_text())
    with RunFolder(root, config):
        pass
    said = [
        *of_adapter(root / "adapter"),
        seal.read_json(root / "results.json"),
        seal.read_json(root / "environment.json"),
    ]
    said.append(seal.read_bytes(root / "metrics.jsonl").decode())
    return faults.digest(said)


def of_model(toy: Path, adapter: Path):
    """What generate, score, eval and export take from a model folder, with an adapter over it."""
    policy = load_policy(str(toy), dtype="float32", adapter=adapter)
    texts = ["x = 3 N, so λ", "Question:\n", "<|endoftext|> é 漢"]
    said = [jax.tree.map(np.shape, policy.base), [policy.tokenizer.encode(text) for text in texts]]
    said += [policy.tokenizer.decode(range(policy.tokenizer.vocab_size)), sorted(policy.tokenizer.stop_ids)]
    return faults.digest([*said, policy.fingerprint, policy.tokenizer.fingerprint, policy.model.config])


def strike(
    root: Path, read, count: int, *, seed: int, others: dict[str, Path], by_name: bool = True
) -> Outcomes:
    """Faults one after another, and what `read` makes of each."""
    expected = {}

    def judge(_: int, fault: Fault, snapshot: Snapshot) -> Outcome:
        area = fault.name.split("/")[0]
        if area not in expected:
            snapshot.restore()
            expected[area] = read(fault.name)
            snapshot.restore()
            fault.apply(root)
        names = [fault.name]
        if fault.kind == "swap" and fault.other is not None:
            names.append(fault.other.relative_to(root).as_posix())
        return faults.outcome(partial(read, fault.name), expected[area], *names, by_name=by_name)

    drawn = faults.draw(root, count, seed=seed, others=others)
    return faults.strike(root, drawn, judge, Kept(f"{root.name}-{count}"))


def judged(outcomes: Outcomes, *, least: int) -> None:
    print(faults.tally(outcomes))
    silent = [fault for fault, (what, _) in outcomes if what == "silent"]
    assert not silent, silent[:5]
    assert sum(what == "noticed" for _, (what, _) in outcomes) >= least


COUNTS = [pytest.param(1, id="some"), pytest.param(34, id="many", marks=pytest.mark.slow)]


@pytest.mark.parametrize("times", COUNTS)
def test_faults_in_a_finished_experiment(experiments, times):
    others = {"other seed": experiments / "other seed"}
    outcomes = strike(
        experiments / "run",
        lambda name: of_experiment(experiments / "run", 3, name),
        70 * times,
        seed=1,
        others=others,
    )
    judged(outcomes, least=40 * times)


@pytest.mark.parametrize("times", COUNTS)
def test_faults_in_an_unfinished_experiment(experiments, times):
    others = {"other seed": experiments / "other seed"}
    outcomes = strike(
        experiments / "half",
        lambda name: of_half(experiments / "half", name),
        40 * times,
        seed=2,
        others=others,
    )
    judged(outcomes, least=20 * times)


@pytest.mark.parametrize("times", COUNTS)
def test_faults_in_a_training(world, times):
    others = {"other run": world / "trained again", "other seed": world / "trained otherwise"}
    outcomes = strike(
        world / "trained",
        lambda name: of_training(world / "trained", name),
        45 * times,
        seed=3,
        others=others,
    )
    judged(outcomes, least=25 * times)


@pytest.mark.parametrize("times", COUNTS)
def test_faults_in_a_model_folder_that_a_run_has_recorded(world, times):
    """There is no one file to blame: the refusal names the folder or a file of it."""
    tiny_qwen2.write(world / "other", seed=9, num_hidden_layers=1)
    read = lambda _: of_model(world / "toy", world / "trained/adapter")  # noqa: E731
    outcomes = strike(
        world / "toy", read, 30 * times, seed=4, others={"other seed": world / "other"}, by_name=False
    )
    judged(outcomes, least=12 * times)
