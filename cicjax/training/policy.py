"""A policy as a verb needs it: base, tokenizer and, where there is one, an adapter, read and checked against
each other."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import jax.numpy as jnp

from cicjax import signals
from cicjax.assets import default_model_folder
from cicjax.devices import kind, mesh
from cicjax.model import huggingface, layout, qwen2
from cicjax.model.config import LoRAConfig
from cicjax.provenance import tokenizer
from cicjax.provenance.tokenizer import Tokenizer
from cicjax.sampling.sampler import Decoding
from cicjax.training.adapters import load_adapter

Dtype = Literal["auto", "bfloat16", "float32"]


@dataclass(frozen=True, kw_only=True)
class LoadedPolicy:
    """Static half, frozen base and adapter (None for the bare base), with the tokenizer that belongs to
    them, and the protocol that the adapter was trained in, where that is known."""

    location: Path
    model: qwen2.Model
    base: qwen2.Tree
    adapter: qwen2.Tree | None
    tokenizer: Tokenizer
    fingerprint: str
    protocol: str | None = None


def precision(dtype: Dtype, *, embedded: bool) -> Literal["bfloat16", "float32"]:
    """What `auto` means: float32 for the embedded base, which is small, bfloat16 for all others."""
    return dtype if dtype != "auto" else "float32" if embedded else "bfloat16"


def decoding(
    tokenizer: Tokenizer,
    *,
    max_new_tokens: int,
    temperature: float,
    top_p: float = 1.0,
    stop_strings: tuple[str, ...] = (),
) -> Decoding:
    """How completions are drawn from a policy of this tokenizer, whose stop ids end them."""
    stop_ids = tuple(sorted(tokenizer.stop_ids))
    return Decoding(
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        stop_ids=stop_ids,
        stop_strings=stop_strings,
    )


def load_policy(
    name: str | None,
    *,
    dtype: Dtype = "auto",
    adapter: Path | None = None,
    lora: LoRAConfig | None = None,
    training: bool = False,
) -> LoadedPolicy:
    """Read a model folder or hub id (None: the embedded base) and an adapter over it, whose LoRA settings
    then replace `lora`.

    The base is in the layout that this machine's kind of device wants, with `training` for training and
    scoring, otherwise for sampling; every device, of all hosts, has it whole.

    Raises BadInput for a model or adapter that cannot be used, or that do not belong together; Corrupted for
    damaged bytes.
    """
    location = huggingface.resolve(name if name is not None else str(default_model_folder()))
    stored = {"bfloat16": jnp.bfloat16, "float32": jnp.float32}[precision(dtype, embedded=name is None)]
    config, base = huggingface.load_base(location, stored)
    fingerprint, texts = huggingface.fingerprint(location), tokenizer.load(location)
    tree, known = None, {}
    if adapter is not None:
        tree, lora, known = load_adapter(
            adapter,
            config,
            base_fingerprint=fingerprint,
            base_name=location,
            tokenizer_fingerprint=texts.fingerprint,
        )
    signals.check()
    device = kind.here()
    return LoadedPolicy(
        location=location,
        model=qwen2.Model(config, lora, device),
        base=mesh.everywhere().whole(layout.prepare(base, device.training if training else device.sampling)),
        adapter=tree,
        tokenizer=texts,
        fingerprint=fingerprint,
        protocol=known.get("protocol"),
    )
