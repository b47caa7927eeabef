"""Several adapters beside one base: their low-rank factors next to each other, one slot each.

A bank is an adapter of S times the rank. Every row of a batch reads the one slot that its route names, or
none: x A of the other slots is set to 0 before it meets B (`lora.in_own_slot`). Rows of several versions so
decode in one program, and a new version is a write into a slot: nothing is compiled.
"""

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from cicjax.errors import BadInput, Corrupted
from cicjax.model import layout
from cicjax.model.config import LoRAConfig, Qwen2Config, Tree
from cicjax.model.lora import init_adapter


def empty(config: Qwen2Config, lora: LoRAConfig, *, slots: int, dtype: Any) -> Tree:
    """A bank whose slots change nothing, in the dtype of the base that it stands beside, layers apart."""
    whole = jax.tree.map(
        partial(jnp.asarray, dtype=dtype), nothing(config, replace(lora, rank=slots * lora.rank))
    )
    return {"layers": layout.apart(whole["layers"], config.num_hidden_layers)}


def nothing(config: Qwen2Config, lora: LoRAConfig) -> Tree:
    """An adapter that changes nothing, layers stacked: what clears a slot."""
    shapes = jax.eval_shape(partial(init_adapter, config, lora), jax.random.key(0))
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)


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
    if jax.tree.map(np.shape, {"layers": adapter["layers"]}) != jax.tree.map(np.shape, nothing(config, lora)):
        raise BadInput("an adapter of another rank, or on other projections, than the bank is for")
    adapter = jax.tree.map(np.asarray, {"layers": adapter["layers"]})
    if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(adapter)):
        raise Corrupted("an adapter with values that are not finite cannot serve")
    return adapter
