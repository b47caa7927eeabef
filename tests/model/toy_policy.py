"""A small random policy for tests that need a model and not what it says."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import tiny_qwen2

from cicjax.model import huggingface, lora, qwen2
from cicjax.model.config import LoRAConfig


def random_policy(folder: Path, *, seed: int, **sizes: Any) -> tuple[qwen2.Model, qwen2.Tree, qwen2.Tree]:
    """(model, base, adapter) of a random folder in float32; the adapter's B is not zero, so that it
    counts."""
    tiny_qwen2.write(folder, seed=seed, **sizes)
    config, base = huggingface.load_base(folder, jnp.float32)
    settings = LoRAConfig(rank=4, alpha=8.0)
    fresh = lora.init_adapter(config, settings, jax.random.key(0))
    adapter = jax.tree.map(
        lambda leaf: leaf + 0.1 * jax.random.normal(jax.random.key(leaf.size), leaf.shape), fresh
    )
    return qwen2.Model(config, settings), base, adapter
