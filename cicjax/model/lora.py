"""LoRA by hand: the adapter's variables, and a linear map that adds the low-rank product to a frozen kernel.

The variable type is disjoint from `nnx.Param`, so that one split of a module gives the frozen base and the trainable adapter.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key

from cicjax.model.config import LoRAConfig, Qwen2Config


class LoRAParam(nnx.Variable):
    """A trainable low-rank factor."""


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def linear(x: Float[Array, "*B I"], kernel: Float[Array, "I O"], dtype: Any) -> Float[Array, "*B O"]:
    """x @ kernel with both operands rounded to `dtype` and float32 sums; so are its two backward products.

    Autodiff alone would hand the backward products a float32 cotangent, which a bf16 matrix unit cannot use.
    """
    return jnp.einsum("...i,io->...o", x.astype(dtype), kernel.astype(dtype), preferred_element_type=jnp.float32)


def _linear_forward(x, kernel, dtype):
    return linear(x, kernel, dtype), (x.astype(dtype), kernel, jnp.zeros((0,), x.dtype))


def _linear_backward(dtype, saved, cotangent):
    x, kernel, like = saved
    cotangent = cotangent.astype(dtype)
    dx = jnp.einsum("...o,io->...i", cotangent, kernel.astype(dtype), preferred_element_type=jnp.float32)
    dkernel = jnp.einsum("...i,...o->io", x, cotangent, preferred_element_type=jnp.float32)
    return dx.astype(like.dtype), dkernel.astype(kernel.dtype)


linear.defvjp(_linear_forward, _linear_backward)


def linear_by_rows(x: Float[Array, "*B I"], kernel: Float[Array, "O I"], dtype: Any) -> Float[Array, "*B O"]:
    """The same from a kernel that lies output by output, forward only. With few rows a CPU reads such a kernel as it lies, while an
    (I, O) one is repacked at every product: two to three times the time at 16 to 128 rows."""
    y = jnp.einsum("oi,...i->o...", kernel.astype(dtype), x.astype(dtype), preferred_element_type=jnp.float32)
    return jnp.moveaxis(y, 0, -1)


def on_last_axis(vector: Float[Array, "D"], rank: int) -> Float[Array, "..."]:
    """A vector with leading axes of 1, so that no rank is promoted silently."""
    return vector.reshape((1,) * (rank - 1) + vector.shape)


class LoRALinear(nnx.Module):
    """y = x W + b, plus (alpha / rank) (x A) B where the adapter targets this projection. Products run in W's dtype, sums in float32.

    `by_rows` says that the kernel is stored transposed, (outputs, inputs), for decoding.
    """

    def __init__(self, inputs: int, outputs: int, *, use_bias: bool, rank: int | None, scaling: float, dtype: Any, by_rows: bool = False):
        self.kernel = nnx.Param(jnp.zeros((outputs, inputs) if by_rows else (inputs, outputs), dtype))
        self.bias = nnx.Param(jnp.zeros((outputs,), dtype)) if use_bias else None
        self.lora_a = LoRAParam(jnp.zeros((inputs, rank))) if rank else None
        self.lora_b = LoRAParam(jnp.zeros((rank, outputs))) if rank else None
        self.scaling = scaling
        self.by_rows = by_rows

    def __call__(self, x: Float[Array, "*B I"]) -> Float[Array, "*B O"]:
        kernel = self.kernel[...]
        y: Any = linear_by_rows(x, kernel, kernel.dtype) if self.by_rows else linear(x, kernel, kernel.dtype)
        if self.bias is not None:
            y = y + on_last_axis(self.bias[...].astype(y.dtype), y.ndim)
        if self.lora_a is not None and self.lora_b is not None:
            low: Any = linear(x, self.lora_a[...], kernel.dtype)
            update: Any = linear(self.scaling * low, self.lora_b[...], kernel.dtype)
            y = y + update
        return y


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


def init_adapter(config: Qwen2Config, lora: LoRAConfig, key: Key[Array, ""]) -> dict:
    """A fresh adapter in float32: A Kaiming-uniform (bound sqrt(1 / inputs), as for a linear layer), B zero: it changes nothing yet."""
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


def merge_adapter(base: dict, adapter: dict, lora: LoRAConfig) -> dict:
    """The base with W + (alpha / rank) A B in place of W, computed in float32, stored in W's dtype. The given tree stays as it is."""
    layers = {name: dict(module) for name, module in base["layers"].items()}
    for module, projections in adapter["layers"].items():
        for name, factors in projections.items():
            kernel = layers[module][name]["kernel"]
            update = lora.scaling * jnp.einsum("lir,lro->lio", factors["lora_a"], factors["lora_b"])
            layers[module][name] = {**layers[module][name], "kernel": (kernel.astype(jnp.float32) + update).astype(kernel.dtype)}
    return {**base, "layers": layers}
