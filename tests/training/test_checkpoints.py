"""Bit for bit or not at all: what is loaded is what was saved, whatever happened to the files in between."""

import json
import shutil
import signal
import stat
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cicjax.errors import BadInput, Corrupted
from cicjax.runs.folder import RunFolder
from cicjax.training import checkpoints

METADATA = {
    "rank": 4,
    "alpha": 8.0,
    "target_modules": ["q_proj"],
    "base": "ab12",
    "note": "λ \u2028",
    "big": 2**60,
    "none": None,
}


def make_tree(seed, *, rank=4):
    rng = np.random.default_rng(seed)
    normal = lambda *shape: jnp.asarray(rng.normal(size=shape).astype(np.float32))  # noqa: E731
    adapter = {
        "layers": {
            "self_attn": {"q_proj": {"lora_a": normal(2, 6, rank), "lora_b": normal(2, rank, 6)}},
            "mlp": {"up_proj": {"lora_a": normal(2, 6, rank).astype(jnp.bfloat16)}},
        }
    }
    moments = optax.ScaleByAdamState(
        count=jnp.int32(seed), mu=jax.tree.map(lambda leaf: normal(*leaf.shape), adapter), nu=adapter
    )
    optimizer = (optax.EmptyState(), (moments,))
    return {
        "adapter": adapter,
        "optimizer": optimizer,
        "step": jnp.int32(seed),
        "key": jnp.uint32([seed, 2**32 - 1]),
    }


def assert_bit_equal(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    assert checkpoints.leaf_digests(found) == checkpoints.leaf_digests(expected)


def test_round_trip_is_bit_exact_and_keeps_structure(tmp_path):
    tree = make_tree(3)
    tree["adapter"]["layers"]["self_attn"]["q_proj"]["lora_b"] = (
        jnp.zeros((2, 4, 6)).at[0, 0, :3].set(jnp.array([jnp.nan, -0.0, jnp.inf]))
    )
    folder = checkpoints.save(tmp_path / "sft", 7, tree=tree, metadata=METADATA)
    assert folder == tmp_path / "sft" / "7" and checkpoints.latest(tmp_path / "sft") == 7
    for abstract in (tree, jax.eval_shape(lambda: tree)):
        found, metadata = checkpoints.load(tmp_path / "sft", abstract)
        assert_bit_equal(found, tree)
        assert metadata == METADATA and all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(found))


def test_without_an_abstract_tree_the_leaves_keep_their_names(tmp_path):
    tree = make_tree(3)
    checkpoints.save(tmp_path, 0, tree=tree, metadata={})
    found, _ = checkpoints.load(tmp_path)
    assert checkpoints.leaf_digests(found) == checkpoints.leaf_digests(tree)
    assert_bit_equal(found["adapter"], tree["adapter"])
    assert isinstance(found["optimizer"], list)


def test_load_adapter_needs_no_optimizer(tmp_path):
    for step in (1, 2):
        checkpoints.save(tmp_path, step, tree=make_tree(step), metadata={"update": step})
    for step, given in ((2, None), (1, 1)):
        adapter, metadata = checkpoints.load_adapter(tmp_path, step=given)
        assert_bit_equal(adapter, make_tree(step)["adapter"])
        assert metadata == {"update": step}


def test_load_adapter_where_there_is_none(tmp_path):
    checkpoints.save(tmp_path, 1, tree={"adapted": jnp.ones(2)}, metadata={})
    with pytest.raises(BadInput, match="holds no adapter"):
        checkpoints.load_adapter(tmp_path)


def test_numpy_leaves_and_integers_become_jax_arrays(tmp_path):
    tree = {"a": np.arange(3), "b": np.float32(0.1), "c": 5, "d": [np.array([True])]}
    checkpoints.save(tmp_path, 1, tree=tree, metadata={})
    for abstract in (None, tree | {"a": np.zeros(3, np.int32)}):
        found, _ = checkpoints.load(tmp_path, abstract)
        assert [(leaf.dtype.name, leaf.shape) for leaf in jax.tree.leaves(found)] == [
            ("int32", (3,)),
            ("float32", ()),
            ("int32", ()),
            ("bool", (1,)),
        ]
        assert found["a"].tolist() == [0, 1, 2] and int(found["c"]) == 5 and found["b"] == np.float32(0.1)


@pytest.mark.parametrize(
    "leaf", [np.ones(2), np.int64(2**40), 2**31, 0.5, "text", jax.random.key(0), jnp.zeros((2, 0))]
)
def test_leaves_that_would_change_are_refused_by_name(tmp_path, leaf):
    with pytest.raises((ValueError, OverflowError), match="leaf state/0"):
        checkpoints.save(tmp_path, 1, tree={"state": [leaf]}, metadata={})
    assert checkpoints.latest(tmp_path) is None


@pytest.mark.parametrize("metadata", [{"loss": float("nan")}, {1: "a"}, {"targets": ("q", "v")}])
def test_metadata_that_would_change_are_refused(tmp_path, metadata):
    with pytest.raises(ValueError, match="JSON"):
        checkpoints.save(tmp_path, 1, tree={"a": jnp.ones(1)}, metadata=metadata)


def test_saving_a_step_again_replaces_it(tmp_path):
    checkpoints.save(tmp_path, 5, tree=make_tree(1), metadata={"try": 1})
    checkpoints.save(tmp_path, 5, tree=make_tree(2), metadata={"try": 2})
    found, metadata = checkpoints.load(tmp_path, make_tree(0))
    assert_bit_equal(found, make_tree(2))
    assert metadata == {"try": 2} and [path.name for path in tmp_path.iterdir()] == ["5"]


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_last_two_and_final_steps_are_kept(tmp_path):
    tree = {"adapter": jnp.ones(2)}
    for step in (1, 2, 3, 4):
        checkpoints.save(tmp_path, step, tree=tree, metadata={}, final=step == 2)
    assert names(tmp_path) == ["2", "3", "4"]
    checkpoints.save(tmp_path, 10, tree=tree, metadata={}, keep=1)
    assert names(tmp_path) == ["10", "2"] and checkpoints.latest(tmp_path) == 10
    # A step below the others, as after going back: it stays, being the newest work.
    checkpoints.save(tmp_path, 1, tree=tree, metadata={}, keep=1)
    assert names(tmp_path) == ["1", "10", "2"]


def test_checkpoints_are_private(tmp_path):
    folder = checkpoints.save(tmp_path / "sft", 1, tree=make_tree(1), metadata={})
    modes = {stat.S_IMODE(path.stat().st_mode) for path in [tmp_path / "sft", folder, *folder.rglob("*")]}
    assert modes == {0o700, 0o600}


@pytest.mark.parametrize("call", [checkpoints.load, checkpoints.load_adapter])
def test_nothing_to_load(tmp_path, call):
    (tmp_path / "7.damaged").mkdir()
    for folder in (tmp_path, tmp_path / "absent"):
        assert checkpoints.latest(folder) is None
        with pytest.raises(BadInput, match="no checkpoint here"):
            call(folder)
    checkpoints.save(tmp_path, 3, tree={"adapter": {"a": jnp.ones(2)}}, metadata={})
    with pytest.raises(BadInput, match="no step 4 here; there are 3"):
        call(tmp_path, step=4)
    assert not (tmp_path / "absent").exists()


def test_another_rank_is_named_with_both_shapes(tmp_path):
    checkpoints.save(tmp_path, 3, tree=make_tree(3)["adapter"], metadata={})
    with pytest.raises(BadInput) as caught:
        checkpoints.load(tmp_path, make_tree(3, rank=8)["adapter"])
    assert str(caught.value).startswith(
        f"{tmp_path}: step 3: layers/mlp/up_proj/lora_a is bfloat16 (2, 6, 4) there and bfloat16 (2, 6, "
        "8) here, and 2 more leaves differ;"
    )


def test_another_dtype_or_structure_is_refused_where_orbax_would_cast(tmp_path):
    checkpoints.save(tmp_path, 3, tree={"a": jnp.ones(2)}, metadata={})
    with pytest.raises(BadInput, match=r"a is float32 \(2,\) there and float16 \(2,\) here;"):
        checkpoints.load(tmp_path, {"a": jnp.ones(2, jnp.float16)})
    with pytest.raises(BadInput, match=r"b is absent there and float32 \(2,\) here;"):
        checkpoints.load(tmp_path, {"a": jnp.ones(2), "b": jnp.ones(2)})
    with pytest.raises(BadInput, match=r"a is float32 \(2,\) there and absent here, and 1 more"):
        checkpoints.load(tmp_path, {"c": jnp.ones(2)})


def test_a_flipped_bit_in_any_file_is_noticed(tmp_path, capfd):
    """One bit at eight places of every file: never a different tree, and one line rather than another
    library's tracebacks."""
    tree, rng = make_tree(3), np.random.default_rng(0)
    folder = checkpoints.save(tmp_path, 3, tree=tree, metadata=METADATA)
    files = [path for path in folder.rglob("*") if path.is_file() and path.stat().st_size]
    assert len(files) > 10 and {"_CHECKPOINT_METADATA", "_METADATA", "digests.json", "zarr.json"} <= {
        path.name for path in files
    }
    for path in files:
        content = path.read_bytes()
        for at in rng.integers(0, len(content), 8):
            damaged = bytearray(content)
            damaged[at] ^= 1 << rng.integers(8)
            path.write_bytes(damaged)
            for call in (
                lambda: checkpoints.load(tmp_path, tree),
                lambda: checkpoints.load_adapter(tmp_path),
            ):
                with pytest.raises(Corrupted, match="step 3: ") as caught:
                    call()
                assert "\n" not in str(caught.value)
        path.write_bytes(content)
    assert_bit_equal(checkpoints.load(tmp_path, tree)[0], tree)
    assert capfd.readouterr().err == ""


def values_file(folder, leaf):
    (found,) = [
        path for path in (folder / "state" / leaf).rglob("*") if path.is_file() and path.name != "zarr.json"
    ]
    return found


def test_damage_names_the_step_and_the_leaf(tmp_path):
    folder = checkpoints.save(tmp_path, 3, tree=make_tree(3), metadata={})
    path = values_file(folder, "adapter.layers.mlp.up_proj.lora_a")
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    with pytest.raises(
        Corrupted, match=r"step 3: leaf adapter/layers/mlp/up_proj/lora_a \(state/.*\) is damaged; restore"
    ):
        checkpoints.load(tmp_path)
    path.unlink()
    with pytest.raises(Corrupted, match=r"leaf adapter/layers/mlp/up_proj/lora_a \(.*\) is missing"):
        checkpoints.load_adapter(tmp_path)


def test_leaf_digests_notice_what_the_file_digests_do_not(tmp_path):
    """Values that changed together with the digest of their file, as when another tree's file was copied
    in."""
    tree = {"adapter": {"a": jnp.arange(64.0), "b": jnp.arange(64.0)[::-1]}}
    folder = checkpoints.save(tmp_path, 3, tree=tree, metadata={})
    shutil.copy(values_file(folder, "adapter.a"), values_file(folder, "adapter.b"))
    manifest = json.loads((folder / "digests.json").read_text())
    for name in manifest["files"]:
        manifest["files"][name] = checkpoints.file_digest(folder / name)
    (folder / "digests.json").write_text(json.dumps(manifest))
    for call in (
        lambda: checkpoints.load(tmp_path, tree),
        lambda: checkpoints.load(tmp_path),
        lambda: checkpoints.load_adapter(tmp_path),
    ):
        with pytest.raises(Corrupted, match="step 3: leaf adapter/b is not what was saved"):
            call()


def test_a_step_under_another_number_is_refused(tmp_path):
    checkpoints.save(tmp_path, 3, tree={"a": jnp.ones(1)}, metadata={}).rename(tmp_path / "4")
    with pytest.raises(Corrupted, match=r"step 4: digests\.json is damaged .*another step"):
        checkpoints.load(tmp_path)


def test_fall_back_only_where_it_is_allowed_and_aloud(tmp_path, capsys):
    for step in (1, 2):
        checkpoints.save(tmp_path, step, tree=make_tree(step), metadata={"update": step})
    (tmp_path / "2" / "state" / "_METADATA").write_text("{}")
    with pytest.raises(Corrupted, match="step 2"):
        checkpoints.load(tmp_path, make_tree(0))
    with pytest.raises(Corrupted, match="step 2"):
        checkpoints.load(tmp_path, make_tree(0), step=2, fall_back=True)
    found, metadata = checkpoints.load(tmp_path, make_tree(0), fall_back=True)
    assert_bit_equal(found, make_tree(1))
    error = capsys.readouterr().err
    assert (
        metadata == {"update": 1}
        and error.startswith("warning: ")
        and error.count("\n") == 1
        and "going on from step 1" in error
    )
    assert names(tmp_path) == ["1", "2.damaged"] and checkpoints.latest(tmp_path) == 1
    checkpoints.save(tmp_path, 2, tree=make_tree(2), metadata={"update": 2})
    assert_bit_equal(checkpoints.load(tmp_path, make_tree(0))[0], make_tree(2))
    (tmp_path / "1" / "digests.json").write_text("{}")
    (tmp_path / "2" / "digests.json").write_text("{}")
    with pytest.raises(Corrupted, match="step 1"):
        checkpoints.load(tmp_path, make_tree(0), fall_back=True)


# Counts what the interpreter does to files during one save, then kills itself at a share of that in the next.
KILLED = """
import os, signal, sys
import jax.numpy as jnp
from cicjax.training import checkpoints
count, at = 0, None
def hook(event, args):
    global count
    if event in ("open", "os.rename", "os.mkdir", "os.chmod", "shutil.rmtree", "os.remove"):
        count += 1
        if count == at:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(hook)
for step in (1, 2, 3):
    if step == 3:
        at = int(count * float(sys.argv[2]))
    count = 0
    tree = {"adapter": {"a": jnp.full((50,), step)}}
    checkpoints.save(sys.argv[1], step, tree=tree, metadata={"update": step}, keep=1)
"""


@pytest.mark.parametrize("share", [0.05, 0.4, 0.8, 1.0])
def test_killed_in_the_middle_of_a_save(tmp_path, share):
    """Wherever the kill falls, the newest step is a whole one, and the next save leaves nothing behind."""
    ended = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), str(share)])
    assert ended.returncode == -signal.SIGKILL
    newest = checkpoints.latest(tmp_path)
    adapter, metadata = checkpoints.load_adapter(tmp_path)
    assert newest in (2, 3) and metadata == {"update": newest} and adapter["a"].tolist() == [newest] * 50
    assert len(names(tmp_path)) > 1
    checkpoints.save(tmp_path, 3, tree={"adapter": {"a": jnp.zeros(1)}}, metadata={}, keep=1)
    assert names(tmp_path) == ["3"]


def test_fingerprint_is_of_names_and_bits():
    tree = make_tree(1)["adapter"]
    assert checkpoints.fingerprint(tree) == checkpoints.fingerprint(jax.tree.map(np.asarray, tree))
    flipped = jax.tree.map(np.array, tree)
    flipped["layers"]["mlp"]["up_proj"]["lora_a"].view(np.uint16)[0, 0, 0] ^= 1
    renamed = {"layer": tree["layers"]}
    assert len({checkpoints.fingerprint(each) for each in (tree, flipped, renamed)}) == 3


def test_a_slash_in_a_key_must_not_merge_two_leaves(tmp_path):
    with pytest.raises(ValueError, match="slash"):
        checkpoints.save(tmp_path, 1, tree={"a/b": jnp.ones(1), "a": {"b": jnp.ones(1)}}, metadata={})


def test_naming_steps_does_not_import_orbax():
    code = (
        "import sys; from cicjax.training import checkpoints; checkpoints.latest('.'); "
        "assert 'orbax' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("damage", [lambda text: text[:-20], lambda text: text.replace('"', "", 1)])
def test_a_step_is_not_to_be_deleted_for_a_damaged_seal(tmp_path, damage):
    with RunFolder(tmp_path, {"seed": 0}):
        checkpoints.save(tmp_path / "sft", 1, tree=make_tree(1), metadata=METADATA)
    seal = tmp_path / "seal.json"
    seal.write_text(damage(seal.read_text()))
    with pytest.raises(Corrupted, match=r"seal\.json: not the seal") as caught:
        checkpoints.load_adapter(tmp_path / "sft")
    assert "delete" not in str(caught.value) and "restore it from a copy" in str(caught.value)


def test_a_step_is_not_to_be_deleted_for_the_seal_of_another_run(tmp_path):
    for seed in (0, 1):
        with RunFolder(tmp_path / str(seed), {"seed": seed}):
            checkpoints.save(tmp_path / str(seed) / "sft", 1, tree=make_tree(seed), metadata=METADATA)
    shutil.copy(tmp_path / "1" / "seal.json", tmp_path / "0" / "seal.json")
    with pytest.raises(Corrupted, match=r"0/seal\.json: not the seal of this run's files") as caught:
        checkpoints.load_adapter(tmp_path / "0" / "sft")
    assert "delete" not in str(caught.value)
