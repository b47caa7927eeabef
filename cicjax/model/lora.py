"""LoRA by hand: the adapter's variables, and a linear map that adds the low-rank product to a frozen kernel.

The variable type is disjoint from `nnx.Param`, so that one split of a module gives the frozen base and the
trainable adapter.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Key, UInt32

from cicjax.devices.kind import Kind
from cicjax.devices.process import GENERATOR
from cicjax.model.config import LoRAConfig, Qwen2Config, Tree
from cicjax.model.ops import Kernel, dtype_of, linear, matrix_of, on_last_axis, product


class LoRAParam(nnx.Variable):
    """A trainable low-rank factor."""


class LoRALinear(nnx.Module):
    """y = x W + b, plus (alpha / rank) (x A) B where the adapter targets this projection. Products run in W's
    dtype, sums in float32. W is a plain array (inputs, outputs) or an `ops.Kernel`."""

    def __init__(
        self, inputs: int, outputs: int, *, use_bias: bool, rank: int | None, scaling: float, dtype: Any
    ):
        self.kernel = nnx.Param(jnp.zeros((inputs, outputs), dtype))
        self.bias = nnx.Param(jnp.zeros((outputs,), dtype)) if use_bias else None
        self.lora_a = LoRAParam(jnp.zeros((inputs, rank))) if rank else None
        self.lora_b = LoRAParam(jnp.zeros((rank, outputs))) if rank else None
        self.scaling = scaling

    def __call__(
        self,
        x: Float[Array, "*B I"],
        low: Float[Array, "*B R"] | None = None,
        route: Bool[Array, "B S"] | None = None,
    ) -> Float[Array, "*B O"]:
        """`low` is x A where it is there already. With a `route` A and B are a bank's, and each row takes
        part in its own slot alone."""
        y = linear(x, self.kernel.get_value())
        if self.bias is not None:
            y = y + on_last_axis(self.bias[...].astype(y.dtype), y.ndim)
        if self.lora_a is not None and self.lora_b is not None:
            low = linear(x, self.lora_a[...], self.dtype) if low is None else low
            low = low if route is None else in_own_slot(low, route)
            y = y + linear(self.scaling * low, self.lora_b[...], self.dtype)
        return y

    @property
    def dtype(self) -> Any:
        """The dtype of W, in which products run."""
        return dtype_of(self.kernel.get_value())


class Dropout(NamedTuple):
    """What of its inputs an adapter does not see in training: in each line a share of the entries, drawn by
    the line's key; what is left is divided by 1 - share. The base sees all of them."""

    share: Float[Any, "B"]
    keys: UInt32[Any, "B 2"]

    def of(self, number: Any) -> "Dropout":
        """The dropout of one of several places: other entries, the same share."""
        return self._replace(
            keys=jax.vmap(lambda key: _data(jax.random.fold_in(_key(key), number)))(self.keys)
        )

    def __call__(self, x: Float[Array, "B T I"]) -> Float[Array, "B T I"]:
        def line(share: Array, key: Array, x: Array) -> Array:
            seen = jax.random.bernoulli(_key(key), 1 - share, x.shape)
            return jnp.where(seen, x / (1 - share), 0.0).astype(x.dtype)

        return jax.vmap(line)(self.share, self.keys, x)


_key, _data = partial(jax.random.wrap_key_data, impl=GENERATOR), jax.random.key_data


def down_together(
    x: Float[Array, "B T I"], projections: Sequence[LoRALinear], kind: Kind, dropout: Dropout | None = None
) -> list[Float[Array, "B T R"] | None]:
    """x A of each projection of one input, as one product where the kind of device wants that, and of what
    `dropout` leaves of x. None for those that no adapter targets, and where each projection is to make its
    own."""
    factors = [each.lora_a[...] if each.lora_a is not None else None for each in projections]
    present = [factor for factor in factors if factor is not None]
    together = dropout is not None or (len(present) > 1 and kind.low_rank_together)
    if not present or not together:
        return [None] * len(projections)
    x = x if dropout is None else dropout(x)
    low = linear(x, jnp.concatenate(present, axis=-1), projections[0].dtype)
    parts = iter(jnp.split(low, np.cumsum([factor.shape[-1] for factor in present])[:-1], axis=-1))
    return [None if factor is None else next(parts) for factor in factors]


def in_own_slot(low: Float[Array, "B T S*R"], route: Bool[Array, "B S"]) -> Float[Array, "B T S*R"]:
    """x A of all slots of a bank, 0 but in the slot that the row reads: the product with B then adds nothing
    of any other. A row that reads none has the bare base."""
    parts = low.reshape(*low.shape[:-1], route.shape[1], -1)
    return jnp.where(route[:, None, :, None], parts, 0.0).reshape(low.shape)


def projection_shapes(config: Qwen2Config) -> dict[str, tuple[str, int, int]]:
    """Projection name -> (module it belongs to, inputs, outputs)."""
    d, f = config.hidden_size, config.intermediate_size
    queries, keys = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
    return {
        "q_proj": ("self_attn", d, queries),
        "k_proj": ("self_attn", d, keys),
        "v_proj": ("self_attn", d, keys),
        "o_proj": ("self_attn", queries, d),
        "gate_proj": ("mlp", d, f),
        "up_proj": ("mlp", d, f),
        "down_proj": ("mlp", f, d),
    }


def init_adapter(config: Qwen2Config, lora: LoRAConfig, key: Key[Array, ""]) -> Tree:
    """A fresh adapter in float32: A Kaiming-uniform (bound sqrt(1 / inputs), as for a linear layer), B zero:
    it changes nothing yet."""
    layers: dict[str, dict] = {}
    for number, (name, (module, inputs, outputs)) in enumerate(projection_shapes(config).items()):
        if name not in lora.target_modules:
            continue
        bound = inputs**-0.5
        shape = (config.num_hidden_layers, inputs, lora.rank)
        lora_a = jax.random.uniform(jax.random.fold_in(key, number), shape, jnp.float32, -bound, bound)
        lora_b = jnp.zeros((config.num_hidden_layers, lora.rank, outputs), jnp.float32)
        layers.setdefault(module, {})[name] = {"lora_a": lora_a, "lora_b": lora_b}
    return {"layers": layers}


def merge_adapter(base: Tree, adapter: Tree, lora: LoRAConfig) -> Tree:
    """The base with W + (alpha / rank) A B, a plain matrix, in place of W; layers of both are stacked. The
    given tree stays as it is."""
    layers = {name: dict(module) for name, module in base["layers"].items()}
    for module, projections in adapter["layers"].items():
        for name, factors in projections.items():
            kernel = merge_kernel(layers[module][name]["kernel"], factors, lora)
            layers[module][name] = {**layers[module][name], "kernel": kernel}
    return {**base, "layers": layers}


def merge_kernel(kernel: Array | Kernel, factors: Tree, lora: LoRAConfig) -> Float[Array, "*L I O"]:
    """W + (alpha / rank) A B of one projection, in one layer or stacked; computed in float32, rounded to W's
    dtype."""
    matrix = matrix_of(kernel)
    update = lora.scaling * product("...ir,...ro->...io", factors["lora_a"], factors["lora_b"])
    return (matrix.astype(jnp.float32) + update).astype(matrix.dtype)
