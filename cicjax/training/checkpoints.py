"""Checkpoints of small trees: adapters, optimizer state and counters, written through orbax and checked byte
for byte.

A step is a folder DIRECTORY/N that appears in one rename, complete or not at all. Beside what orbax writes it
holds digests.json, the SHA-256 of every file, which is checked before orbax reads a byte: array stores load
flipped bits without a word, and damaged ones with tracebacks from other threads. A SHA-256 of every leaf
travels in orbax's custom metadata and is checked afterwards: what came out is what went in. Arrays are stored
a leaf a folder, so that a damaged file names its leaf.
"""

import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import keystr, tree_flatten_with_path, tree_map_with_path

from cicjax.devices import hosts
from cicjax.errors import BadInput, Corrupted, printable
from cicjax.files import numbered, seal
from cicjax.files.numbered import MANIFEST
from cicjax.files.whole import REMEDY, array_digest, file_digest, private_folder

Tree = Any  # Nested dicts, lists, tuples and named tuples with arrays as leaves.
# A leaf is a folder with a description and one block of values; orbax writes some files besides.
_LEAF_BYTES, _STEP_BYTES = 12_288, 65_536


def save(
    directory: str | os.PathLike[str],
    step: int,
    *,
    tree: Tree,
    metadata: Mapping[str, Any],
    final: bool = False,
    keep: int = 2,
) -> Path:
    """Write `tree` as step `step`, replacing one of that number, and return its folder once it is on disk.

    Leaves are JAX or NumPy arrays or integers; `metadata` is JSON. Of the earlier steps the last `keep - 1`
    stay, and every one saved as `final`. What a kill in an earlier save left behind is removed. Inside a run
    the step is sealed, and a final one that was lost can only be made again as it was.

    Raises ValueError, naming the leaf, on one that is empty or cannot be held unchanged (float64, typed keys:
    store jax.random.key_data), and on metadata that are not plain JSON; OutOfResources, with path, need and
    what is free, where the disk is full or fails: the earlier steps are there then.
    """
    if step < 0:
        raise ValueError(f"step must not be negative, and is {step}")
    directory = Path(directory)
    hosts.once(lambda: numbered.sweep(private_folder(directory)))
    leaves = {name: _storable(name, leaf) for name, leaf in _named_leaves(tree).items()}
    tree = tree_map_with_path(lambda path, _: leaves[_name(path)], tree)
    envelope = {
        "metadata": _plain_json(metadata),
        "leaves": {name: _record(leaf) for name, leaf in leaves.items()},
    }
    need = _STEP_BYTES + sum(leaf.nbytes + _LEAF_BYTES for leaf in leaves.values())
    target, content = directory / str(step), _digest_of(envelope["leaves"])
    with numbered.filling(target, need=need) as unfinished:
        with _orbax() as ocp:  # on every host, or all would wait for ever
            ocp.save(unfinished.absolute(), tree, custom_metadata=envelope)
        hosts.once(lambda: numbered.finish(unfinished, target, final=final, content=content, keep=keep))
    return directory / str(step)


def latest(directory: str | os.PathLike[str]) -> int | None:
    """Number of the newest complete step, None where there is none; reads names only."""
    return max(numbered.numbers(Path(directory)), default=None)


def load(
    directory: str | os.PathLike[str],
    abstract_tree: Tree = None,
    *,
    step: int | None = None,
    fall_back: bool = False,
) -> tuple[Tree, dict[str, Any]]:
    """(tree, metadata) of a step, the newest by default, on the devices that `abstract_tree`'s shardings
    name, else on the first.

    `abstract_tree` has the structure, shapes and dtypes to be expected, as arrays or jax.ShapeDtypeStruct.
    Without it named tuples come back as dicts, tuples as lists and empty ones as None. Raises BadInput where
    there is no such step or it holds another tree, naming the leaf and both shapes; Corrupted, naming step
    and leaf, where a byte has changed. With `fall_back` a damaged newest step is set aside as N.damaged with
    a line on standard error, and the one before it is loaded.
    """
    directory = Path(directory)
    candidates = _candidates(directory, step)
    while True:
        chosen = candidates.pop()
        try:
            return _load_step(directory, chosen, abstract_tree)
        except Corrupted as error:
            if not (fall_back and candidates):
                raise
            told = f"{error}; set aside as {chosen}.damaged, going on from step {candidates[-1]}"
            print(printable(f"warning: {told}"), file=sys.stderr)
            hosts.once(partial(_set_aside, directory, chosen))


def load_adapter(
    directory: str | os.PathLike[str], *, step: int | None = None
) -> tuple[Tree, dict[str, Any]]:
    """(adapter, metadata) of a step, the newest by default: the subtree under "adapter" alone, whatever
    stands beside it.

    Raises as `load` does, and BadInput where the step holds no adapter.
    """
    directory = Path(directory)
    chosen = _candidates(directory, step).pop()
    if step is None and (newest := numbered.lost(directory)) is not None:
        raise Corrupted(f"{directory}: step {newest} is missing; {_LOST}")
    envelope = _verified_envelope(directory, chosen)
    records = {name: record for name, record in envelope["leaves"].items() if name.startswith("adapter/")}
    if not records:
        raise BadInput(f"{directory}: step {chosen} holds no adapter; give a folder that training wrote")
    abstract: dict[str, Any] = {}
    for name, record in records.items():
        *folders, last = name.split("/")
        branch = abstract
        for folder in folders:
            branch = branch.setdefault(folder, {})
        branch[last] = _expected(jax.ShapeDtypeStruct(tuple(record["shape"]), jnp.dtype(record["dtype"])))
    with _orbax() as ocp:
        tree = ocp.load((directory / str(chosen)).absolute(), abstract)
    _check_leaves(tree, records, where=f"{directory}: step {chosen}")
    return tree["adapter"], envelope["metadata"]


def recorded(directory: str | os.PathLike[str]) -> tuple[str, dict[str, Any]]:
    """(fingerprint, metadata) of the newest step's adapter as its records have them; reads no array. Raises
    BadInput where there is no step, Corrupted where a byte has changed."""
    directory = Path(directory)
    envelope = _verified_envelope(directory, _candidates(directory, None).pop())
    leaves, prefix = envelope["leaves"], "adapter/"
    adapter = {
        name.removeprefix(prefix): record["sha256"]
        for name, record in leaves.items()
        if name.startswith(prefix)
    }
    return _digest_of(adapter), envelope["metadata"]


def leaf_digests(tree: Tree) -> dict[str, str]:
    """SHA-256 of each leaf's dtype, shape and values, by its name such as
    "adapter/layers/mlp/up_proj/lora_a"."""
    return {name: array_digest(np.asarray(leaf)) for name, leaf in _named_leaves(tree).items()}


def fingerprint(tree: Tree) -> str:
    """One SHA-256 for a whole tree, names and values: equal for two trees exactly when all their leaves are
    bit-equal."""
    return _digest_of(leaf_digests(tree))


def _digest_of(value: Any) -> str:
    return sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _load_step(directory: Path, step: int, abstract_tree: Tree) -> tuple[Tree, dict[str, Any]]:
    envelope, where = _verified_envelope(directory, step), f"{directory}: step {step}"
    folder = (directory / str(step)).absolute()
    with _orbax() as ocp:
        expected = jax.tree.map(
            _expected, ocp.metadata(folder).metadata if abstract_tree is None else abstract_tree
        )
        _check_expectations(expected, envelope["leaves"], where=where)
        tree = ocp.load(folder, expected)
    _check_leaves(tree, envelope["leaves"], where=where)
    return tree, envelope["metadata"]


def _verified_envelope(directory: Path, step: int) -> dict[str, Any]:
    """Metadata and leaf records of a step all of whose files are as they were written. Raises Corrupted
    otherwise."""
    folder, where = directory / str(step), f"{directory}: step {step}"
    try:
        manifest = json.loads(seal.read_bytes(folder / MANIFEST))
        written, digests = int(manifest["step"]), dict(manifest["files"])
        if written != step or manifest.keys() != {"step", "final", "files"}:
            raise ValueError("it was written for another step")
    except (OSError, ValueError, KeyError, TypeError, Corrupted) as error:
        if isinstance(error, Corrupted) and not str(error).startswith(f"{folder / MANIFEST}: "):
            raise  # the run's seal is damaged, and the step is not to be deleted for it
        _check_seal_is_own(folder)
        said = str(error).removeprefix(f"{folder / MANIFEST}: ").removesuffix(f"; {REMEDY}")
        raise Corrupted(f"{where}: {MANIFEST} is damaged ({said}); {_REMEDY}") from error
    for name, digest in digests.items():
        path = folder / name
        if not path.is_file() or file_digest(path) != digest:
            raise Corrupted(
                f"{where}: {_describe(name)} is {'damaged' if path.is_file() else 'missing'}; {_REMEDY}"
            )
    return json.loads((folder / "_CHECKPOINT_METADATA").read_bytes())["custom_metadata"]


def _check_seal_is_own(folder: Path) -> None:
    """Raise Corrupted where config.json is not what the seal over this folder was written for either: then
    another run's seal lies there."""
    root = seal.root_of(folder)
    if root is not None and (root / "config.json").is_file():
        try:
            seal.read_bytes(root / "config.json")
        except Corrupted:
            raise Corrupted(f"{root / seal.NAME}: not the seal of this run's files; {seal.ANEW}") from None


_LOST = "restore that step's folder from a copy, or repeat the run's command to make it again"
_REMEDY = "restore that step's folder from a copy, or delete it to go on from an earlier one"


def _describe(name: str) -> str:
    """A file's name, and before it the leaf whose values it holds, where it is one:
    state/LEAF.WITH.DOTS/..."""
    parts = name.split("/")
    return (
        f"leaf {parts[1].replace('.', '/')} ({name})"
        if len(parts) > 2 and parts[1] != "array_metadatas"
        else name
    )


def _check_expectations(expected: Tree, records: Mapping[str, Any], *, where: str) -> None:
    """Raise BadInput unless the stored leaves have the names, shapes and dtypes asked for: orbax would cast
    dtypes silently."""
    asked = {name: (leaf.dtype.name, tuple(leaf.shape)) for name, leaf in _named_leaves(expected).items()}
    stored = {name: (record["dtype"], tuple(record["shape"])) for name, record in records.items()}
    differing = [name for name in {**stored, **asked} if stored.get(name) != asked.get(name)]
    if differing:
        name = differing[0]
        found, wanted = (
            "absent" if leaves.get(name) is None else "{} {}".format(*leaves[name])
            for leaves in (stored, asked)
        )
        more = f", and {len(differing) - 1} more leaves differ" if len(differing) > 1 else ""
        raise BadInput(
            f"{where}: {name} is {found} there and {wanted} here{more}; "
            "load it with the settings it was made with"
        )


def _check_leaves(tree: Tree, records: Mapping[str, Any], *, where: str) -> None:
    found = {name: _record(leaf) for name, leaf in _named_leaves(tree).items()}
    for name, record in records.items():
        if found.get(name) != record:
            raise Corrupted(f"{where}: leaf {name} is not what was saved; {_REMEDY}")


def _record(leaf: jax.Array) -> dict[str, Any]:
    return {"dtype": leaf.dtype.name, "shape": list(leaf.shape), "sha256": array_digest(np.asarray(leaf))}


def _expected(leaf: Any) -> jax.ShapeDtypeStruct:
    leaf = leaf if hasattr(leaf, "dtype") else jnp.asarray(leaf)
    # Without a sharding orbax would take the one of the machine that saved, which may not be here.
    sharding = getattr(leaf, "sharding", None) or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _storable(name: str, leaf: Any) -> jax.Array:
    """The leaf as a JAX array of the same values: orbax does not load NumPy leaves with an abstract tree, nor
    saves empty ones."""
    if getattr(leaf, "size", 1) == 0:
        raise ValueError(f"leaf {name} is empty, and empty arrays cannot be stored: leave it out")
    if isinstance(leaf, jax.Array) and not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return leaf
    if isinstance(leaf, int | np.ndarray | np.generic):
        array = np.asarray(leaf)
        converted = jnp.asarray(array)
        if converted.dtype == array.dtype or (
            array.dtype.kind in "iu" and np.array_equal(np.asarray(converted), array)
        ):
            return converted
    kind = getattr(leaf, "dtype", type(leaf).__name__)
    raise ValueError(
        f"leaf {name} ({kind}) cannot be stored unchanged: give float32, bfloat16, "
        "32-bit integers or key data"
    )


def _plain_json(metadata: Mapping[str, Any]) -> dict[str, Any]:
    plain = json.loads(json.dumps(metadata, allow_nan=False))
    if plain != metadata:
        raise ValueError("metadata must be plain JSON, with strings as keys and lists for tuples")
    return plain


def _named_leaves(tree: Tree) -> dict[str, Any]:
    named = [(_name(path), leaf) for path, leaf in tree_flatten_with_path(tree)[0]]
    if len(dict(named)) < len(named):
        raise ValueError("two leaves have one name: keys must not contain a slash")
    return dict(named)


def _name(path: Any) -> str:
    return keystr(path, simple=True, separator="/")


def _candidates(directory: Path, step: int | None) -> list[int]:
    """Steps to try, the last one first. Raises BadInput where there is none."""
    steps = numbered.numbers(directory)
    if not steps:
        raise BadInput(f"{directory}: no checkpoint here; give a folder that training wrote")
    if step is not None and step not in steps:
        raise BadInput(f"{directory}: no step {step} here; there are {', '.join(map(str, steps))}")
    return steps if step is None else [step]


def _set_aside(directory: Path, step: int) -> None:
    numbered.discard(directory / f"{step}.damaged")
    (directory / str(step)).rename(directory / f"{step}.damaged")


@contextmanager
def _orbax() -> Iterator[Any]:
    """The orbax module under this module's settings. Imported late: it costs a third of a second, and naming
    steps needs none of it."""
    import absl.logging
    from orbax.checkpoint import v1 as ocp

    context = ocp.Context()
    context.array.saving.use_ocdbt = False
    context.pytree.loading.partial_load = True
    verbosity = absl.logging.get_verbosity()
    # Orbax warns on every save and load of a layout with a leaf a folder.
    absl.logging.set_verbosity(absl.logging.ERROR)
    try:
        with context:
            yield ocp
    finally:
        absl.logging.set_verbosity(verbosity)
