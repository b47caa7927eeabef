"""kill -9 at any moment, as often as one likes: the same command ends with the same bits. And what the drill
stands on: each part of a saved state matters."""

import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import faults
import jax
import jax.numpy as jnp
import pytest
import test_stages
import tiny_qwen2
from forked import Calls

from cicjax.files import seal
from cicjax.model.config import LoRAConfig
from cicjax.runs.folder import RunFolder
from cicjax.training import checkpoints

SETTINGS = replace(
    test_stages.SETTINGS,
    methods=("sft", "rest", "grpo", "oracle", "observational", "interventional"),
    lora=LoRAConfig(rank=2, alpha=4.0, target_modules=("q_proj", "v_proj")),
)
BETWEEN = (0.2, 4.0)  # seconds of work to a kill: from the start of the backend to several updates


def experiment(folder: str, toy: str) -> None:
    test_stages.run_all(Path(folder), Path(toy), SETTINGS)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("kills")
    tiny_qwen2.write(root / "toy", seed=4, num_hidden_layers=1)
    return root


@pytest.fixture(scope="module")
def whole(root) -> Path:
    """The toy's experiment, six methods and more, that nobody killed."""
    test_stages.run_all(root / "whole", root / "toy", SETTINGS)
    return root


@pytest.mark.slow
@pytest.mark.parametrize("kills", [4, 600])
def test_killed_at_any_moment_an_experiment_ends_with_the_same_bits(whole, kills):
    """Each run is killed after so many seconds, again and again until it ends before that; then it is let go
    to its end by a command that nobody kills."""
    expected, kept = faults.state(whole / "whole"), faults.Kept(f"kills-{kills}")
    with Calls("test_kills", "cicjax.training.own") as call:

        def job(folder: Path, seconds: float) -> int:
            return call("test_kills:experiment", folder, whole / "toy", seconds=seconds).code

        while (killed := sum(kept.rows)) < kills:
            folder, of_this, rng = whole / f"run{len(kept.rows)}", 0, random.Random(len(kept.rows))
            while killed + of_this < kills and job(folder, rng.uniform(*BETWEEN)) == -signal.SIGKILL:
                of_this += 1
            assert job(folder, 900.0) == 0
            assert faults.state(folder) == expected, f"run {len(kept.rows)}"
            assert not list(seal.faults(folder)) and not [*folder.rglob(".*")]
            shutil.rmtree(folder)
            kept.add(of_this)
    print(f"{killed} kills over {len(kept.rows)} runs, all of them bit-equal")


@pytest.mark.slow
def test_each_part_of_a_saved_state_matters(root, tmp_path):
    """Training goes on from a state of which one part is as new: the adapter, the moments of AdamW, the
    count of updates. The result is another, or there is none: were it the same, the drill above could not
    fail."""
    folder = tmp_path / "run"
    saved = checkpoints.save

    def stop(directory, step, **rest):
        result = saved(directory, step, **rest)
        if Path(directory).name == "sft" and step == 2:
            raise KeyboardInterrupt
        return result

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(checkpoints, "save", stop)
        test_stages.run_all(folder, root / "toy", only_sft())
    tree, metadata = checkpoints.load(folder / "sft")
    parts = sorted({name.split("/")[0] for name in checkpoints.leaf_digests(tree)})
    assert {"adapter", "step"} < set(parts)
    ends = {
        part: end_of(folder, root / "toy", tmp_path / f"without {part}", part, tree, metadata)
        for part in [*parts, ""]
    }
    whole_end = ends.pop("")
    same = [part for part, end in ends.items() if end == whole_end]
    print(f"{len(parts)} parts: {', '.join(parts)}; with the same end: {', '.join(same) or 'none'}")
    assert whole_end is not None and not set(same) - {"empty_updates", "nonfinite_updates"}, same


def only_sft():
    return replace(SETTINGS, methods=("sft",))


def end_of(folder: Path, toy: Path, copy: Path, part: str, tree, metadata) -> object:
    """The adapter that training ends with where `part` of its newest state is zero; None where it does not
    end."""
    subprocess.run(["cp", "-r", str(folder), str(copy)], check=True)
    if part:
        blank = {**tree, part: jax.tree.map(jnp.zeros_like, tree[part])}
        with RunFolder(copy, only_sft().record()):
            checkpoints.save(copy / "sft", 2, tree=blank, metadata=metadata)
    try:
        test_stages.run_all(copy, toy, only_sft())
    except Exception:
        return None
    return checkpoints.leaf_digests(checkpoints.load_adapter(copy / "sft")[0])


def race(folder: Path, config: str) -> subprocess.Popen[str]:
    code = """
import json, sys, time
from cicjax.errors import Locked
from cicjax.files import seal
from cicjax.runs.folder import RunFolder
from pathlib import Path
try:
    with RunFolder(sys.argv[1], json.loads(sys.argv[2])) as folder:
        for n in range(30):
            seal.write_json(folder.path / "results.json", {"n": [n] * 500})
            time.sleep(0.01)
except Locked as error:
    print(error)
    sys.exit(3)
"""
    return subprocess.Popen(
        [sys.executable, "-c", code, str(folder), config],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("count", [2, 4])
def test_of_processes_on_one_folder_one_works_and_the_others_say_who(tmp_path, count):
    """Readers beside them see whole files throughout."""
    racers = [race(tmp_path / "run", '{"seed": 0}') for _ in range(count)]
    reads = 0
    while any(each.poll() is None for each in racers):
        if (tmp_path / "run" / "results.json").exists():
            assert len(set(seal.read_json(tmp_path / "run" / "results.json")["n"])) == 1
            reads += 1
        time.sleep(0.005)
    codes = [each.wait() for each in racers]
    said = [each.communicate() for each in racers]
    # One after another is fine too, where a process started late.
    assert set(codes) <= {0, 3} and codes.count(0) >= 1 and reads > 5
    assert all("in use by process" in out for (out, _), code in zip(said, codes, strict=True) if code == 3)
    assert not any(err for _, err in said) and not list(seal.faults(tmp_path / "run"))
