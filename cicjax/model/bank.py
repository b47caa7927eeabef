"""Several adapters beside one base: their low-rank factors next to each other, one slot each.

A bank is an adapter of S times the rank. Every row of a batch reads the one slot that its route names, or
none: x A of the other slots is set to 0 before it meets B (`lora.in_own_slot`). Rows of several versions so
decode in one program, and a new version is a write into a slot: nothing is compiled.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from cicjax.errors import BadInput, Corrupted
from cicjax.model import layout
from cicjax.model.config import LoRAConfig, Qwen2Config, Tree
from cicjax.model.lora import projection_shapes


def empty(config: Qwen2Config, lora: LoRAConfig, *, slots: int, dtype: Any) -> Tree:
    """A bank whose slots change nothing, in the dtype of the base that it stands beside, layers apart."""

    def layer() -> Tree:
        modules: dict[str, dict] = {}
        for name, (module, inputs, outputs) in projection_shapes(config).items():
            if name in lora.target_modules:
                lora_a = jnp.zeros((inputs, slots * lora.rank), dtype)
                lora_b = jnp.zeros((slots * lora.rank, outputs), dtype)
                modules.setdefault(module, {})[name] = {"lora_a": lora_a, "lora_b": lora_b}
        return modules

    return {"layers": tuple(layer() for _ in range(config.num_hidden_layers))}


def nothing(config: Qwen2Config, lora: LoRAConfig) -> Tree:
    """An adapter that changes nothing, layers stacked: what clears a slot."""
    layers: dict[str, dict] = {}
    for name, (module, inputs, outputs) in projection_shapes(config).items():
        if name in lora.target_modules:
            lora_a = np.zeros((config.num_hidden_layers, inputs, lora.rank), np.float32)
            lora_b = np.zeros((config.num_hidden_layers, lora.rank, outputs), np.float32)
            layers.setdefault(module, {})[name] = {"lora_a": lora_a, "lora_b": lora_b}
    return {"layers": layers}


@partial(jax.jit, donate_argnums=(0,))
def write(bank: Tree, adapter: Tree, slot: Int[Array, ""]) -> Tree:
    """The bank with an adapter, whose layers are stacked, in a slot; its factors rounded to the bank's dtype,
    once, as `layout.serving` does. The given bank is donated."""
    layers = layout.apart(adapter["layers"], len(bank["layers"]))

    def put(path: tuple[Any, ...], held: Array, factor: Array) -> Array:
        axis = 1 if path[-1].key == "lora_a" else 0
        return jax.lax.dynamic_update_slice_in_dim(
            held, factor.astype(held.dtype), slot * factor.shape[axis], axis=axis
        )

    return {"layers": jax.tree_util.tree_map_with_path(put, bank["layers"], layers)}


def route(slot: Int[Array, "B"], slots: int) -> Bool[Array, "B S"]:
    """The slot of each row as a row of switches; below 0 it is none."""
    return slot[:, None] == jnp.arange(slots)[None]


def fitting(config: Qwen2Config, lora: LoRAConfig, adapter: Tree) -> Tree:
    """An adapter as `write` takes it, its arrays the host's.

    Raises BadInput for one that a bank of these settings cannot hold, Corrupted for values that are not
    finite: 0 times those would not be 0 in the rows that read other slots.
    """
    wanted = {
        (module, name): ((inputs, lora.rank), (lora.rank, outputs))
        for name, (module, inputs, outputs) in projection_shapes(config).items()
        if name in lora.target_modules
    }
    found = {
        (module, name): (factors["lora_a"].shape[1:], factors["lora_b"].shape[1:])
        for module, names in adapter["layers"].items()
        for name, factors in names.items()
    }
    if wanted != found:
        raise BadInput("an adapter of another rank, or on other projections, than the bank is for")
    adapter = jax.tree.map(np.asarray, {"layers": adapter["layers"]})
    if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(adapter)):
        raise Corrupted("an adapter with values that are not finite cannot serve")
    return adapter
