"""Adapters in the layout of the library peft, which vLLM and llama.cpp read too: out of the adapter's tree,
and back bit for bit.

    adapter_config.json        r, lora_alpha, target_modules and what else decides the product
    adapter_model.safetensors  base_model.model.model.layers.N.self_attn.q_proj.lora_A.weight (r, in),
    ...lora_B.weight (out, r), float32
    cicjax.json                the base's fingerprint and the method, which other readers pass over

Readers elsewhere pass over a name that fits nothing and leave every B at zero: an adapter that loads and does
nothing. So a tensor too many, one too few, one of another shape and a setting that would change the product
are errors here, never warnings.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from cicjax.errors import BadInput, shorten
from cicjax.model.config import PROJECTIONS, LoRAConfig, Qwen2Config
from cicjax.model.lora import projection_shapes
from cicjax.model.storage import (
    CARD,
    Fields,
    StoredTensor,
    bytes_of,
    new_folder,
    open_tensors,
    read_json,
    write_json,
    write_tensors,
)

CONFIG, WEIGHTS, RECORD = "adapter_config.json", "adapter_model.safetensors", "cicjax.json"
PREFIX = "base_model.model.model.layers."
FACTORS = {"lora_a": "lora_A", "lora_b": "lora_B"}
# Settings that say where the adapter comes from or how it was trained; whatever else holds a value may change
# the product.
HARMLESS = {
    "auto_mapping",
    "base_model_name_or_path",
    "ensure_weight_tying",
    "eva_config",
    "inference_mode",
    "layers_pattern",
    "lora_alpha",
    "lora_dropout",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "r",
    "revision",
    "target_modules",
}
# The other ways to begin change the base, so that the adapter alone is not the update.
INITIALISATIONS = (True, False, "gaussian", "eva", "orthogonal")


def write_peft(
    folder: str | Path,
    adapter: Mapping[str, Any],
    lora: LoRAConfig,
    *,
    base_model_name_or_path: str,
    card: str,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write an adapter as a peft folder with a model card; `metadata` goes into a file that other readers
    pass over.

    The folder is there whole or not at all. Raises BadInput if there is anything of that name, and for an
    adapter that does nothing; ValueError where the tree does not have the projections and the rank that
    `lora` says.
    """
    tensors = dict(_tensors(adapter, lora))
    if does_nothing(adapter) or not lora.alpha:
        raise BadInput(
            f"{folder}: the adapter changes nothing (every product A B is zero: "
            "it was never trained); give a trained one"
        )
    with new_folder(folder, need=bytes_of(tensors)) as beside:
        write_json(beside / CONFIG, _config_json(lora, base_model_name_or_path=base_model_name_or_path))
        write_tensors(beside / WEIGHTS, tensors)
        (beside / CARD).write_text(card, encoding="utf-8")
        if metadata:
            write_json(beside / RECORD, metadata)


def read_peft(folder: str | Path, config: Qwen2Config) -> tuple[dict[str, Any], LoRAConfig]:
    """(adapter, its settings) of a peft folder for a base of this configuration, in float32.

    rsLoRA's factor alpha / sqrt(r) is expressed by an alpha of alpha * sqrt(r). Raises BadInput, in one line,
    for anything that would load as less than the whole adapter, that the tree cannot express, or that does
    nothing.
    """
    folder = Path(folder)
    lora = _read_lora(folder, config)
    with ExitStack() as opened:
        tensors = open_tensors([weights_file(folder)], opened)
        _check_tensors(folder, config, lora, tensors)
        adapter: dict[str, dict] = {}
        for factor in _factors(config, lora):
            stacked = np.stack([_read(tensors[name]) for name in factor.tensors(config)])
            adapter.setdefault(factor.module, {}).setdefault(factor.projection, {})[factor.name] = (
                jnp.asarray(stacked)
            )
    tree = {"layers": adapter}
    if does_nothing(tree):
        raise BadInput(
            f"{folder / WEIGHTS}: every lora_B is zero, so the adapter changes nothing; "
            "save it again after training"
        )
    return tree, lora


def read_metadata(folder: str | Path) -> dict[str, str]:
    """The metadata that `write_peft` left in a folder; {} for one that another program wrote."""
    path = Path(folder) / RECORD
    found = read_json(path) if path.is_file() else {}
    return {name: value for name, value in found.items() if isinstance(value, str)}


def does_nothing(adapter: Mapping[str, Any]) -> bool:
    """True where one factor of every product A B is zero."""
    pairs = [pair for module in adapter["layers"].values() for pair in module.values()]
    return not any((_live(pair["lora_a"]) & _live(pair["lora_b"])).any() for pair in pairs)


def _live(stacked: Float[Array, "L I O"]) -> Bool[np.ndarray, "L"]:
    return np.count_nonzero(np.asarray(stacked), axis=(1, 2)) > 0


def weights_file(folder: str | Path) -> Path:
    """The safetensors file of a peft folder. Raises BadInput where there is none."""
    folder = Path(folder)
    if (folder / WEIGHTS).is_file():
        return folder / WEIGHTS
    if any(folder.glob("adapter_model.*")):
        raise BadInput(
            f"{folder}: only pickled weights, which are never loaded; save the adapter as {WEIGHTS}"
        )
    raise BadInput(f"{folder}: no {WEIGHTS} in it; give a folder that peft saved")


class _Factor(NamedTuple):
    """One array of the adapter's tree; the file holds its layers apart, each transposed."""

    module: str
    projection: str
    name: str
    shape: tuple[int, int]

    def tensors(self, config: Qwen2Config) -> Iterator[str]:
        """Names in the file, first layer first."""
        return (self.tensor(layer) for layer in range(config.num_hidden_layers))

    def tensor(self, layer: int) -> str:
        return f"{PREFIX}{layer}.{self.module}.{self.projection}.{FACTORS[self.name]}.weight"


def _factors(config: Qwen2Config, lora: LoRAConfig) -> Iterator[_Factor]:
    for projection, (module, inputs, outputs) in projection_shapes(config).items():
        if projection in lora.target_modules:
            yield _Factor(module, projection, "lora_a", (inputs, lora.rank))
            yield _Factor(module, projection, "lora_b", (lora.rank, outputs))


def _tensors(adapter: Mapping[str, Any], lora: LoRAConfig) -> Iterator[tuple[str, np.ndarray]]:
    named = [
        (module, name, pair)
        for module, projections in adapter["layers"].items()
        for name, pair in projections.items()
    ]
    if sorted(name for _, name, _ in named) != sorted(lora.target_modules):
        raise ValueError(f"the adapter's projections are not {', '.join(lora.target_modules)}")
    for module, projection, pair in named:
        a, b = np.asarray(pair["lora_a"]), np.asarray(pair["lora_b"])
        if (
            a.dtype != np.float32
            or b.dtype != np.float32
            or (a.shape[2], b.shape[1]) != (lora.rank, lora.rank)
        ):
            raise ValueError(
                f"{projection} has {a.dtype} {a.shape} and {b.dtype} {b.shape}, "
                f"which are no float32 factors of rank {lora.rank}"
            )
        for name, array in (("lora_a", a), ("lora_b", b)):
            factor = _Factor(module, projection, name, array.shape[1:])
            yield from (
                (factor.tensor(layer), np.ascontiguousarray(matrix.T)) for layer, matrix in enumerate(array)
            )


def _config_json(lora: LoRAConfig, *, base_model_name_or_path: str) -> dict[str, Any]:
    # Only long-standing fields: an older peft refuses names that it does not know.
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model_name_or_path,
        "revision": None,
        "inference_mode": True,
        "r": lora.rank,
        # An integer elsewhere; a fraction is written as it is and works too.
        "lora_alpha": int(lora.alpha) if lora.alpha == int(lora.alpha) else lora.alpha,
        "lora_dropout": 0.0,
        "target_modules": list(lora.target_modules),
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "modules_to_save": None,
        "layers_to_transform": None,
        "layers_pattern": None,
        "rank_pattern": {},
        "alpha_pattern": {},
        "use_rslora": False,
        "use_dora": False,
    }


def _read_lora(folder: Path, config: Qwen2Config) -> LoRAConfig:
    path = folder / CONFIG
    if not path.is_file():
        raise BadInput(
            f"{folder}: {'no ' + CONFIG + ' in it' if folder.is_dir() else 'no such folder'}; "
            "give a folder that peft saved"
        )
    fields = Fields(path, read_json(path))
    _refuse_unsupported(fields)
    rank, alpha = fields.count("r"), fields.positive("lora_alpha")
    if fields.get("use_rslora", False):
        alpha *= rank**0.5
    return LoRAConfig(rank=rank, alpha=alpha, target_modules=_targets(fields, config))


def _refuse_unsupported(fields: Fields) -> None:
    if fields.get("peft_type") != "LORA":
        raise fields.refusal(
            f"peft_type {shorten(fields.get('peft_type'))} is not supported; give an adapter of type LORA"
        )
    if fields.get("task_type", "CAUSAL_LM") != "CAUSAL_LM":
        raise fields.refusal(
            f"task_type {shorten(fields.get('task_type'))} is not supported; give an adapter for CAUSAL_LM"
        )
    if fields.get("bias", "none") != "none":
        raise fields.refusal(
            f"bias {shorten(fields.get('bias'))} is not supported; give an adapter with bias none"
        )
    if not isinstance(fields.get("use_rslora", False), bool):
        raise fields.refusal("use_rslora must be true or false")
    begun = fields.get("init_lora_weights", True)
    if begun not in INITIALISATIONS:
        raise fields.refusal(
            f"init_lora_weights {shorten(begun)} changes the base too, "
            "which is not supported; convert it to a plain LoRA"
        )
    known = HARMLESS | {"peft_type", "task_type", "bias", "use_rslora", "init_lora_weights"}
    for name, value in fields.values.items():
        if value and name not in known:
            raise fields.refusal(
                f"{shorten(name)} is {shorten(value)}, which is not supported; "
                "give a plain LoRA of one rank and one alpha"
            )


def _targets(fields: Fields, config: Qwen2Config) -> tuple[str, ...]:
    """Projections that the adapter says it holds: all linear maps, or a list of names, with their module's,
    or layer by layer."""
    given = fields.get("target_modules")
    if given == "all-linear":
        return PROJECTIONS
    if not isinstance(given, list) or not given:
        raise fields.refusal(
            f"target_modules is {shorten(given)}; "
            f"it must be a list of projections such as {', '.join(PROJECTIONS)}"
        )
    short, whole = {}, {}
    for projection, (module, _, _) in projection_shapes(config).items():
        short |= {projection: projection, f"{module}.{projection}": projection}
        whole |= {
            f"model.layers.{layer}.{module}.{projection}": projection
            for layer in range(config.num_hidden_layers)
        }
    spelled = short | whole
    for name in given:
        if not isinstance(name, str) or name not in spelled:
            raise fields.refusal(
                f"target_modules has {shorten(name)}, which is not supported; "
                f"choose from {', '.join(PROJECTIONS)}"
            )
    layer_by_layer = {whole[name] for name in given if name in whole} - {
        short[name] for name in given if name in short
    }
    for name, projection in whole.items():
        if projection in layer_by_layer and name not in given:
            raise fields.refusal(
                f"target_modules leaves out {name}; "
                "a projection is adapted in every layer of this base or in none"
            )
    return tuple(dict.fromkeys(spelled[name] for name in given))


def _check_tensors(
    folder: Path, config: Qwen2Config, lora: LoRAConfig, tensors: Mapping[str, StoredTensor]
) -> None:
    """Every tensor that the settings call for is there in its shape, and no other."""
    path = folder / WEIGHTS
    for name in sorted(tensors):
        if not name.startswith(PREFIX):
            raise BadInput(
                f"{path}: {shorten(name)} does not begin with {PREFIX}, "
                "so it would load as nothing; save the adapter with peft"
            )
    expected: set[str] = set()
    for factor in _factors(config, lora):
        for name in factor.tensors(config):
            if name not in tensors:
                raise BadInput(
                    f"{path}: no {name}, which {CONFIG} calls for on this base; "
                    "save the whole adapter, or give its own base"
                )
            stored, shape = tensors[name], factor.shape[::-1]
            if stored.shape() != shape:
                raise BadInput(
                    f"{path}: {name} has shape {stored.shape()}, "
                    f"not {shape} as r and the base mean; give the adapter's own base"
                )
            if stored.dtype() not in ("F32", "F16", "BF16"):
                raise BadInput(
                    f"{path}: {name} is stored as {shorten(stored.dtype())}; "
                    "save the adapter in float32, float16 or bfloat16"
                )
            expected.add(name)
    for name in sorted(tensors.keys() - expected):
        raise BadInput(
            f"{path}: {shorten(name)} has no place in a LoRA of {', '.join(lora.target_modules)} on "
            "this base; give its own base"
        )


def _read(stored: StoredTensor) -> Float[np.ndarray, "..."]:
    matrix = stored.read().astype(np.float32).T
    if not np.isfinite(matrix).all():
        raise BadInput(
            f"{stored.file}: {stored.name} holds a value that is not finite; "
            "the adapter is broken, give another"
        )
    return matrix
