"""Adapters for whoever uses one: the newest checkpoint of a training, or a folder that peft saved, with the
base it belongs to."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.tree_util import keystr, tree_flatten_with_path

from cicjax.errors import BadInput, shorten
from cicjax.files import seal
from cicjax.model import peft, qwen2
from cicjax.model.config import PROJECTIONS, LoRAConfig, Qwen2Config
from cicjax.model.lora import init_adapter
from cicjax.model.storage import all_finite
from cicjax.provenance.protocol import NAMES, PLAIN
from cicjax.training import checkpoints

# What a peft folder says of itself beside what peft asks for.
PEFT_FACTS = ("method", "base_fingerprint", "tokenizer", "protocol")


def load_adapter(
    path: str | Path,
    config: Qwen2Config,
    *,
    base_fingerprint: str | None = None,
    base_name: str | Path = "the base given",
    tokenizer_fingerprint: str | None = None,
) -> tuple[qwen2.Tree, LoRAConfig, dict[str, Any]]:
    """(adapter, its settings, what is known of it) from a folder of checkpoints, the newest of them, or from
    a peft folder.

    Known are, where the folder says so, `method`, `step`, `total_updates`, `base_fingerprint`, `tokenizer`
    and `protocol`, the one that it was trained in. Raises BadInput for another folder, for an adapter that
    does not fit a base of this configuration and, naming both, for one that was trained on another base or
    with another tokenizer than those of the fingerprints given; Corrupted where a byte of a checkpoint has
    changed, and for a step that is not the one that its run sealed.
    """
    path = Path(path)
    adapter, lora, known = _read(path, config, base_fingerprint, base_name)
    own = known.get("tokenizer", tokenizer_fingerprint)
    if tokenizer_fingerprint is not None and own != tokenizer_fingerprint:
        raise BadInput(
            f"{path}: trained with the tokenizer {str(own)[:12]}, and that of {base_name} is "
            f"{tokenizer_fingerprint[:12]}; give the folder that it was trained with"
        )
    if known.get("protocol", PLAIN) not in NAMES:
        raise BadInput(
            f"{path}: trained in the protocol {shorten(known['protocol'])}, which this version does not have"
        )
    _check_shapes(adapter, config, lora, where=path)
    for name, leaf in _named(adapter):
        if not all_finite(np.asarray(leaf)):
            raise BadInput(f"{path}: {name} holds numbers that are not finite; train the adapter again")
    return adapter, lora, known


def run_config(path: str | Path) -> dict[str, Any]:
    """config.json of the run whose adapter this is; {} where there is none. Raises Corrupted where it is not
    as it was written, or the run has lost its seal."""
    run = Path(path).absolute().parent
    if (run / "environment.json").is_file():
        seal.require(run)
    return seal.read_object(run / "config.json")


def _read(
    path: Path, config: Qwen2Config, base_fingerprint: str | None, base_name: str | Path
) -> tuple[qwen2.Tree, LoRAConfig, dict[str, Any]]:
    if (path / peft.CONFIG).is_file():
        known = {name: value for name, value in peft.read_metadata(path).items() if name in PEFT_FACTS}
        _check_base(path, known, base_fingerprint, base_name)
        return *peft.read_peft(path, config), known
    step = checkpoints.latest(path)
    if step is None:
        raise BadInput(f"{path}: {_what_instead(path)}")
    adapter, metadata = checkpoints.load_adapter(path, step=step)
    _check_base(path, metadata, base_fingerprint, base_name)
    # The paper's rows were plain before its checkpoints said so.
    earlier = {"protocol": PLAIN} if "scale" in run_config(path) else {}
    return adapter, _settings(metadata.get("lora"), where=path), {**earlier, **metadata, "step": step}


def _what_instead(path: Path) -> str:
    if not path.is_dir():
        return (
            "no such folder; give one with a training's checkpoints, such as RUN/interventional, "
            "or one that peft saved"
        )
    inside = sorted(folder.name for folder in path.iterdir() if checkpoints.latest(folder) is not None)
    if inside:
        return (
            f"holds no adapter itself but {', '.join(inside)}; give one of these folders, "
            f"such as {path / inside[-1]}"
        )
    return (
        f"no adapter: neither a training's checkpoints nor {peft.CONFIG}; "
        "give a folder such as RUN/interventional"
    )


def _check_base(path: Path, known: dict[str, Any], fingerprint: str | None, name: str | Path) -> None:
    own = known.get("base_fingerprint", fingerprint)
    if fingerprint is None or own == fingerprint:
        return
    called = run_config(path).get("model_name_or_path")
    trained_on = f"{called} ({str(own)[:12]})" if isinstance(called, str) else str(own)[:12]
    raise BadInput(
        f"{path}: trained on the base {trained_on}, and {name} is {fingerprint[:12]}; "
        "give the base that it was trained on"
    )


def _settings(record: Any, *, where: Path) -> LoRAConfig:
    """The settings that a checkpoint carries as LoRAConfig."""
    try:
        lora = LoRAConfig(**{**record, "target_modules": tuple(record["target_modules"])})
    except (TypeError, KeyError):
        raise BadInput(
            f"{where}: the checkpoint does not say the adapter's rank, alpha and projections; train it again"
        ) from None
    if not set(lora.target_modules) <= set(PROJECTIONS):
        raise BadInput(
            f"{where}: the checkpoint names projections that Qwen2 does not have; train the adapter again"
        )
    return lora


def _check_shapes(adapter: qwen2.Tree, config: Qwen2Config, lora: LoRAConfig, *, where: Path) -> None:
    expected = _shapes(jax.eval_shape(lambda: init_adapter(config, lora, jax.random.key(0))))
    found = _shapes(adapter)
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            there, here = (shapes.get(name, "absent") for shapes in (found, expected))
            raise BadInput(
                f"{where}: {name} is {there} in the adapter and {here} for this base; "
                "give the base that it was trained on"
            )


def _shapes(tree: qwen2.Tree) -> dict[str, str]:
    return {name: f"{leaf.dtype} {leaf.shape}" for name, leaf in _named(tree)}


def _named(tree: qwen2.Tree) -> list[tuple[str, Any]]:
    leaves = tree_flatten_with_path(tree)[0]
    return [(keystr(path, simple=True, separator="/"), leaf) for path, leaf in leaves]
