"""Hugging Face folders of Qwen2, Qwen3 and Llama: config.json and safetensors in, as one stacked tree of
arrays, and out again.

Every name, shape and dtype is checked before memory is taken; how files are read and folders appear is
`storage`'s business. What config.json means is left to `architecture`, tokenizers to `provenance.tokenizer`,
adapters to `peft`.
"""

import functools
import hashlib
import json
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from cicjax.errors import BadInput, shorten
from cicjax.files import hub
from cicjax.files.whole import file_digest
from cicjax.model.architecture import config_json, parse_config
from cicjax.model.config import QWEN2, LoRAConfig, Qwen2Config
from cicjax.model.lora import merge_adapter, projection_shapes
from cicjax.model.storage import (
    CARD,
    Fields,
    StoredTensor,
    all_finite,
    bytes_of,
    new_folder,
    open_tensors,
    read_json,
    reading,
    write_json,
    write_tensors,
)

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "special_tokens_map.json",
    "added_tokens.json",
    "generation_config.json",
)
SHARD = re.compile(r"[\w-][\w.-]*\.safetensors", re.ASCII)
MAX_INDEX_BYTES = 1 << 26
FLOATS = {"BF16": jnp.dtype(jnp.bfloat16), "F16": jnp.dtype(jnp.float16), "F32": jnp.dtype(jnp.float32)}


def resolve(path_or_hub_id: str | Path) -> Path:
    """The folder itself, or the local copy of a hub id's config, tokenizer and safetensors. Raises BadInput
    where neither is to be had."""
    files = (CONFIG, INDEX, CARD, "model*.safetensors", *TOKENIZER_FILES)
    return hub.resolve(path_or_hub_id, files, wanted=f"{CONFIG} and {WEIGHTS}")


def load_base(path_or_hub_id: str | Path, dtype: DTypeLike) -> tuple[Qwen2Config, dict[str, Any]]:
    """Configuration and base tree of a folder or hub id, as JAX arrays in bfloat16 or float32.

    Layers are stacked along a first axis and kernels are (in, out), the transposes of the file's; embeddings
    are (V, D), as in the file. Raises BadInput, in one line.
    """
    folder = resolve(path_or_hub_id)
    config = read_config(folder)
    return config, read_base(folder, config, dtype=dtype)


def read_config(folder: str | Path) -> Qwen2Config:
    """The architecture that config.json describes, in the spelling of transformers 4 or 5. Raises BadInput
    for an architecture that is none of those."""
    folder = Path(folder)
    path = folder / CONFIG
    if not path.is_file():
        what = "is no model: it has no " + CONFIG if folder.is_dir() else "no such folder"
        raise BadInput(f"{folder}: {what}; give a folder with {CONFIG} and {WEIGHTS}")
    return parse_config(Fields(path, read_json(path)))


class _Leaf(NamedTuple):
    """One array of the base tree and the tensors of the file it is made of: one, or one a layer."""

    path: tuple[str, ...]
    tensor: str
    shape: tuple[int, ...]

    @property
    def stacked(self) -> bool:
        return self.path[0] == "layers"

    @property
    def transposed(self) -> bool:
        return self.stacked and self.path[-1] == "kernel"

    def tensors(self, config: Qwen2Config) -> Iterator[str]:
        """Names in the file, first layer first."""
        return (self.tensor.format(layer) for layer in range(config.num_hidden_layers if self.stacked else 1))

    def turn(self, array: np.ndarray) -> np.ndarray:
        """From the file's layout to the tree's, and back."""
        return array.T if self.transposed else array


def _leaves(config: Qwen2Config) -> list[_Leaf]:
    d, v = config.hidden_size, config.vocab_size
    leaves = [_Leaf(("embed_tokens", "embedding"), "model.embed_tokens.weight", (v, d))]
    leaves.append(_Leaf(("norm", "scale"), "model.norm.weight", (d,)))
    if not config.tie_word_embeddings:
        leaves.append(_Leaf(("lm_head", "embedding"), "lm_head.weight", (v, d)))
    for norm in ("input_layernorm", "post_attention_layernorm"):
        leaves.append(_Leaf(("layers", norm, "scale"), f"model.layers.{{}}.{norm}.weight", (d,)))
    for norm in ("q_norm", "k_norm") if config.family.head_norms else ():
        path, name = ("layers", "self_attn", norm, "scale"), f"model.layers.{{}}.self_attn.{norm}.weight"
        leaves.append(_Leaf(path, name, (config.head_dim,)))
    for name, (module, inputs, outputs) in projection_shapes(config).items():
        prefix = f"model.layers.{{}}.{module}.{name}"
        leaves.append(_Leaf(("layers", module, name, "kernel"), f"{prefix}.weight", (inputs, outputs)))
        if config.family.qkv_bias and name in ("q_proj", "k_proj", "v_proj"):
            leaves.append(_Leaf(("layers", module, name, "bias"), f"{prefix}.bias", (outputs,)))
    return leaves


def read_base(folder: str | Path, config: Qwen2Config, *, dtype: DTypeLike) -> dict[str, Any]:
    """The base tree of a folder whose config is known, in bfloat16 or float32. Takes the memory of the model
    and its largest array besides.

    Raises BadInput for another dtype, and for weights that are absent, damaged, or not those that the config
    calls for.
    """
    target = jnp.dtype(dtype)
    if target not in (jnp.bfloat16, jnp.float32):
        raise BadInput(f"{folder}: a base is held in bfloat16 or float32, not in {target}")
    tree: dict[str, Any] = {}
    with ExitStack() as opened:
        tensors = open_tensors(weight_files(folder), opened)
        _check_tensors(Path(folder), config, tensors)
        for leaf in _leaves(config):
            _put(tree, leaf.path, jnp.asarray(_read_leaf(leaf, config, tensors, target)))
    return tree


def abstract_base(config: Qwen2Config, dtype: DTypeLike) -> dict[str, Any]:
    """The base tree that `load_base` gives for this config, its arrays as `jax.ShapeDtypeStruct`."""
    tree: dict[str, Any] = {}
    for leaf in _leaves(config):
        shape = (config.num_hidden_layers, *leaf.shape) if leaf.stacked else leaf.shape
        _put(tree, leaf.path, jax.ShapeDtypeStruct(shape, dtype))
    return tree


def _check_tensors(folder: Path, config: Qwen2Config, tensors: Mapping[str, StoredTensor]) -> None:
    expected: set[str] = set()
    for leaf in _leaves(config):
        for name in leaf.tensors(config):
            # One by one: a config that speaks of a billion layers ends at the first that is not there.
            if name not in tensors:
                raise BadInput(
                    f"{folder}: the weights have no tensor {name}, "
                    f"which {CONFIG} calls for; fetch the folder again"
                )
            stored, shape = tensors[name], leaf.shape[::-1] if leaf.transposed else leaf.shape
            if stored.shape() != shape:
                raise BadInput(
                    f"{stored.file}: {name} has shape {stored.shape()} where {CONFIG} means "
                    f"{shape}; fetch the folder again"
                )
            if stored.dtype() not in FLOATS:
                raise BadInput(
                    f"{stored.file}: {name} is stored as {stored.dtype()}; "
                    "give the model in bfloat16, float16 or float32"
                )
            expected.add(name)
    for name in sorted(tensors.keys() - expected):
        if not _ignorable(name, config, tensors):
            raise BadInput(
                f"{tensors[name].file}: tensor {shorten(name)} has no place in "
                f"{config.family.architecture}; give a model without it"
            )


def _ignorable(name: str, config: Qwen2Config, tensors: Mapping[str, StoredTensor]) -> bool:
    """A tied head that is stored a second time, provided that it is the same."""
    if name != "lm_head.weight" or not config.tie_word_embeddings:
        return False
    head, embedding = tensors[name], tensors["model.embed_tokens.weight"]
    same_kind = (head.shape(), head.dtype()) == (embedding.shape(), embedding.dtype())
    return same_kind and head.read().tobytes() == embedding.read().tobytes()


def _read_leaf(
    leaf: _Leaf, config: Qwen2Config, tensors: Mapping[str, StoredTensor], dtype: np.dtype
) -> np.ndarray:
    array = np.empty((config.num_hidden_layers if leaf.stacked else 1, *leaf.shape), dtype)
    for layer, name in enumerate(leaf.tensors(config)):
        array[layer] = leaf.turn(tensors[name].read())
        if not all_finite(array[layer]):
            raise BadInput(
                f"{tensors[name].file}: {name} holds numbers that are not finite in {dtype}; "
                "fetch the folder again, or give another model"
            )
    return array if leaf.stacked else array[0]


def _put(tree: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    for name in path[:-1]:
        tree = tree.setdefault(name, {})
    tree[path[-1]] = value


def weight_files(folder: str | Path) -> list[Path]:
    """The safetensors files of a folder: the single one, or the shards its index names. Raises BadInput where
    there are none."""
    folder = Path(folder)
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if (folder / INDEX).is_file():
        return _shards(folder)
    if any(folder.glob("*.bin")) or any(folder.glob("*.pt*")):
        raise BadInput(f"{folder}: only pickled weights, which are never loaded; convert them to {WEIGHTS}")
    raise BadInput(f"{folder}: no weights; give a folder with {WEIGHTS}, or with {INDEX} and its shards")


def _shards(folder: Path) -> list[Path]:
    index = folder / INDEX
    weight_map = read_json(index, limit=MAX_INDEX_BYTES).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise BadInput(f"{index}: no weight_map in it; fetch it again")
    shards: list[Path] = []
    for name in sorted({name if isinstance(name, str) else shorten(name) for name in weight_map.values()}):
        if not SHARD.fullmatch(name) or not _inside(folder / name, folder):
            raise BadInput(
                f"{index}: weight_map leads to {shorten(name)}, "
                "which is no safetensors file of this folder; fetch it again"
            )
        if not (folder / name).is_file():
            raise BadInput(f"{folder / name}: missing, and {INDEX} names it; fetch the folder again")
        shards.append(folder / name)
    return shards


def _inside(file: Path, folder: Path) -> bool:
    allowed = [folder.resolve()]
    if folder.parent.name == "snapshots":
        # The hub's cache keeps a snapshot as links into the blobs beside it.
        allowed.append((folder.parent.parent / "blobs").resolve())
    return file.resolve().parent in allowed


def fingerprint(base_folder: str | Path) -> str:
    """SHA-256 in hexadecimal over what config.json means and every byte of the weights. Digests of unchanged
    files are remembered.

    Raises BadInput where there is no such model.
    """
    folder = resolve(base_folder)
    config = read_config(folder)
    # What the digest of a Qwen2 is made of stays: adapters name their base by it.
    meant = config.sizes() | ({} if config.family == QWEN2 else {"model_type": config.family.model_type})
    digest = hashlib.sha256(json.dumps(meant, sort_keys=True).encode())
    for file in weight_files(folder):
        with reading(file):
            facts = file.stat()
            digest.update(_digest(file.resolve(), facts.st_mtime_ns, facts.st_size).encode())
    return digest.hexdigest()


@functools.lru_cache
def _digest(file: Path, mtime_ns: int, size: int) -> str:
    return file_digest(file)


def save_folder(
    folder: str | Path,
    config: Qwen2Config,
    *,
    base: Mapping[str, Any],
    files: Iterable[Path] = (),
    extra: Mapping[str, Any] | None = None,
    card: str | None = None,
) -> None:
    """Write `base` as a Hugging Face folder: config.json with the fields of `extra` besides,
    model.safetensors, copies of `files`, a card.

    The folder is there whole or not at all. Raises BadInput if there is anything of that name.
    """
    tensors, files = dict(_torch_tensors(config, base)), list(files)
    with new_folder(folder, need=bytes_of(tensors, files)) as beside:
        stored = {**config_json(config, dtype=tensors["model.norm.weight"].dtype), **(extra or {})}
        write_json(beside / CONFIG, stored)
        write_tensors(beside / WEIGHTS, tensors)
        for file in files:
            shutil.copyfile(file, beside / Path(file).name)
        if card is not None:
            (beside / CARD).write_text(card, encoding="utf-8")


def write_merged(
    folder: str | Path,
    base_folder: str | Path,
    *,
    adapter: Mapping[str, Any],
    lora: LoRAConfig,
    dtype: DTypeLike | None = None,
    card: str | None = None,
) -> None:
    """Write a base with W + (alpha / rank) A B in place of W: added in float32, then stored in `dtype`, by
    default the base's own.

    Configuration and tokenizer are the base's, and a tied head stays tied. Raises BadInput if there is
    anything of that name, and where a weight is too large for `dtype`.
    """
    source = resolve(base_folder)
    config = read_config(source)
    stored = stored_dtype(source, config)
    target = stored if dtype is None else jnp.dtype(dtype)
    # The merge widens bfloat16 by itself. Any other pair is held in float32, or it would be rounded twice.
    base = read_base(source, config, dtype=jnp.bfloat16 if stored == target == jnp.bfloat16 else jnp.float32)
    with jax.default_matmul_precision("highest"):
        merged = merge_adapter(base, dict(adapter), lora)
    merged = jax.tree.map(lambda leaf: _within(leaf, target, folder), merged)
    # The dtype is written anew, in one spelling; auto_map would name code.
    kept = {
        name: value
        for name, value in read_json(source / CONFIG).items()
        if name not in ("torch_dtype", "dtype", "auto_map")
    }
    save_folder(folder, config, base=merged, files=tokenizer_files(source), extra=kept, card=card)


def stored_dtype(folder: str | Path, config: Qwen2Config) -> np.dtype:
    """The dtype that holds every tensor of a folder unchanged: their own if they share one, else float32.
    BadInput as in `read_base`."""
    with ExitStack() as opened:
        tensors = open_tensors(weight_files(folder), opened)
        _check_tensors(Path(folder), config, tensors)
        dtypes = {tensor.dtype() for tensor in tensors.values()}
    return FLOATS[dtypes.pop() if len(dtypes) == 1 else "F32"]


def _within(leaf: jax.Array, dtype: np.dtype, folder: str | Path) -> np.ndarray:
    with np.errstate(over="ignore"):
        array = np.asarray(leaf).astype(dtype)
    if not np.isfinite(array).all():
        raise BadInput(f"{folder}: a merged weight is not finite in {dtype}; store it in float32")
    return array


def tokenizer_files(folder: str | Path) -> list[Path]:
    """The files of a folder that a tokenizer or a chat needs, for `save_folder`. Raises BadInput for a link
    that leads out of the folder: what it leads to would be published with the model."""
    files = [path for name in TOKENIZER_FILES if (path := Path(folder) / name).is_file()]
    for path in files:
        if not _inside(path, Path(folder)):
            raise BadInput(f"{path}: a link that leads out of its folder; put the file itself there")
    return files


def _torch_tensors(config: Qwen2Config, base: Mapping[str, Any]) -> Iterator[tuple[str, np.ndarray]]:
    for leaf in _leaves(config):
        value: Any = base
        for name in leaf.path:
            value = value[name]
        array = np.asarray(value)
        rows = array if leaf.stacked else array[None]
        if rows.shape != (config.num_hidden_layers if leaf.stacked else 1, *leaf.shape):
            raise ValueError(
                f"{'/'.join(leaf.path)} has shape {array.shape}, which is not what the configuration says"
            )
        for row, name in zip(rows, leaf.tensors(config), strict=True):
            yield name, np.ascontiguousarray(leaf.turn(row))
