"""How a base lies in memory: layers stacked or apart, kernels as matrices, as transposes, or as both.

`prepare` gives a base the layout that a kind of device wants; `run_layers` goes through the layers of
either. The function that a base means is the same in every layout.
"""

from collections.abc import Callable
from functools import partial
from operator import itemgetter
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from cicjax.devices.kind import Layout
from cicjax.model.config import LoRAConfig, Tree
from cicjax.model.lora import merge_kernel
from cicjax.model.ops import Kernel, forms, table_of

Layers = Tree | tuple[Tree, ...]  # stacked along a first axis, or apart


def prepare(
    base: Tree, wanted: Layout, *, adapter: Tree | None = None, lora: LoRAConfig | None = None
) -> Tree:
    """The base in the `wanted` layout, from any other; with `adapter` and its settings also merged into it.

    Arrays that lie right already are shared with the given tree, which stays as it is. The others are merged
    and transposed one by one, a layer at a time where layers are apart. Raises ValueError for an adapter
    without its LoRA settings.
    """
    if adapter is not None and lora is None:
        raise ValueError("an adapter can only be merged by its LoRA settings, and there are none")
    layers: Layers = base["layers"]
    factors = None if adapter is None else adapter["layers"]
    count = number_of(layers)
    if wanted.layers == "apart":
        each = zip(apart(layers, count), apart(factors, count), strict=True)
        layers = tuple(_ready(layer, pair or {}, lora, wanted.kernels) for layer, pair in each)
    else:
        layers = _ready(stacked(layers), factors or {}, lora, wanted.kernels)
    return _with_head({**base, "layers": layers}, wanted)


def serving(adapter: Tree, dtype: Any) -> Tree:
    """An adapter as sampling reads it beside a base of `dtype`: its factors rounded once, as every product
    would, and its layers apart."""
    layers = adapter["layers"]
    return {"layers": layers if isinstance(layers, tuple) else _rounded_apart(layers, dtype=dtype)}


@partial(jax.jit, static_argnames=("dtype",))
def _rounded_apart(layers: Tree, *, dtype: Any) -> tuple[Tree, ...]:
    return apart(jax.tree.map(lambda leaf: leaf.astype(dtype), layers), number_of(layers))


def number_of(layers: Layers) -> int:
    """How many layers there are."""
    return len(layers) if isinstance(layers, tuple) else jax.tree.leaves(layers)[0].shape[0]


def stacked(layers: Layers) -> Tree:
    """The layers along a first axis of every leaf."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *layers) if isinstance(layers, tuple) else layers


def apart(layers: Layers | None, count: int) -> tuple[Any, ...]:
    """The layers one by one; None `count` times where there are none. The gradients of stacked layers come
    back stacked."""
    return layers if isinstance(layers, tuple) else _sliced(layers, count)


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _sliced(layers: Tree | None, count: int) -> tuple[Any, ...]:
    return tuple(jax.tree.map(lambda leaf, number=number: leaf[number], layers) for number in range(count))


# Autodiff alone would pad the gradient of each layer to `count` layers and add them all up.
_sliced.defvjp(
    lambda layers, count: (_sliced(layers, count), None),
    lambda count, _, cotangents: (jax.tree.map(lambda *leaves: jnp.stack(leaves), *cotangents),),
)


def run_layers(
    layer: Callable[..., Array],
    x: Array,
    base_layers: Layers,
    adapter_layers: Tree | None,
    *rest: Any,
    each: Any = None,
    twice: bool = False,
) -> Array:
    """x through layer(x, base layer, adapter layer, its own, *rest) for all of them: one scan over stacked
    layers, whose body returns x alone, or a loop over layers that are apart. What is a layer's own lies along
    the first axis of the leaves of `each`. `twice` keeps nothing of a layer but its x, and runs it once more
    in the backward pass; `each` and `rest` then have no gradient."""
    if isinstance(base_layers, tuple):
        layer = _rematerialised(layer) if twice else layer
        adapters = apart(adapter_layers, len(base_layers))
        for number, pair in enumerate(zip(base_layers, adapters, strict=True)):
            x = layer(x, *pair, jax.tree.map(itemgetter(number), each), *rest)
        return x
    layer = jax.checkpoint(layer) if twice else layer
    layers = (base_layers, adapter_layers, each)
    return jax.lax.scan(lambda x, of_layer: (layer(x, *of_layer, *rest), None), x, layers)[0]


def _rematerialised(layer: Callable[..., Array]) -> Callable[..., Array]:
    """`jax.checkpoint` where layers are no loop: XLA on a CPU takes its barriers away, finds the same
    operations in both passes and keeps what it was to forget. It cannot look into a branch that it cannot
    decide."""

    @jax.custom_vjp
    def run(x: Array, base_layer: Tree, adapter_layer: Tree | None, *rest: Any) -> Array:
        return layer(x, base_layer, adapter_layer, *rest)

    def forward(*inputs: Any) -> tuple[Array, tuple]:
        return layer(*inputs), inputs

    def backward(inputs: tuple, cotangent: Array) -> tuple:
        learned, rest = inputs[:3], inputs[3:]

        def again() -> tuple:
            return jax.vjp(lambda *learned: layer(*learned, *rest), *learned)[1](cotangent)

        def nothing() -> tuple:
            return jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.nan), learned)

        first = learned[0].ravel()[0]  # unequal to itself where it is NaN, as the gradient would be
        gradients = jax.lax.cond(first == first, again, nothing)
        return (*gradients, *(None for _ in rest))

    run.defvjp(forward, backward)
    return run


def _ready(tree: Tree, factors: Tree, lora: LoRAConfig | None, kernels: str) -> Tree:
    """One layer, or all of them stacked, with the adapter merged and the kernels in one form."""
    ready = {}
    for name, part in tree.items():
        if isinstance(part, dict):
            part = _ready(part, factors.get(name, {}), lora, kernels)
        elif name == "kernel":
            part = _merged(part, factors, lora=lora, kernels=kernels) if factors else _in_form(part, kernels)
        ready[name] = part
    return ready


@partial(jax.jit, static_argnames=("lora", "kernels"))
def _merged(kernel: Array | Kernel, factors: Tree, *, lora: LoRAConfig, kernels: str) -> Array | Kernel:
    return _in_form(merge_kernel(kernel, factors, lora), kernels)


def _in_form(kernel: Array | Kernel, wanted: str) -> Array | Kernel:
    matrix, transpose = forms(kernel)
    if matrix is None and wanted != "transpose":
        assert transpose is not None
        matrix = transpose.swapaxes(-1, -2)
    if transpose is None and wanted != "matrix":
        assert matrix is not None
        transpose = matrix.swapaxes(-1, -2)
    if wanted == "both":
        return Kernel(matrix, transpose)
    if wanted == "transpose":
        return Kernel(None, transpose)
    assert matrix is not None
    return matrix


def _with_head(base: Tree, wanted: Layout) -> Tree:
    """The vocabulary head's table, tied or not, beside its transpose where both forms are wanted. The table
    itself always stays: tokens are looked up in it."""
    module = "lm_head" if "lm_head" in base else "embed_tokens"
    embedding = base[module]["embedding"]
    if wanted.kernels != "both":
        embedding = table_of(embedding)
    elif not isinstance(embedding, Kernel):
        embedding = Kernel(embedding.T, embedding)
    return {**base, module: {**base[module], "embedding": embedding}}
