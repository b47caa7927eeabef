"""LoRA by hand: the adapter's variables, and a linear map that adds the low-rank product to a frozen kernel.

The variable type is disjoint from `nnx.Param`, so that one split of a module gives the frozen base and the
trainable adapter.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key

from cicjax.model.config import LoRAConfig, Qwen2Config

Layouts = tuple[str, ...]


class LoRAParam(nnx.Variable):
    """A trainable low-rank factor."""


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def linear(
    x: Float[Array, "*B I"],
    kernel: Float[Array, "I O"] | None,
    turned: Float[Array, "O I"] | None,
    dtype: Any,
) -> Float[Array, "*B O"]:
    """x @ kernel with both operands rounded to `dtype` and float32 sums; so are its two backward products.

    Autodiff alone would hand the backward products a float32 cotangent, which a bf16 matrix unit cannot use.
    `turned` is the transposed kernel, beside it or in its place: a CPU multiplies along rows as they lie and
    repacks what lies across, in up to twice the time, so the forward product takes `turned` where there is
    one and the backward product `kernel`. The gradient goes to one of the two.
    """
    x = x.astype(dtype)
    if turned is not None:
        return jnp.einsum("...i,oi->...o", x, turned.astype(dtype), preferred_element_type=jnp.float32)
    assert kernel is not None
    return jnp.einsum("...i,io->...o", x, kernel.astype(dtype), preferred_element_type=jnp.float32)


def _linear_forward(x, kernel, turned, dtype):
    return linear(x, kernel, turned, dtype), (x.astype(dtype), kernel, turned, jnp.zeros((0,), x.dtype))


def _linear_backward(dtype, saved, cotangent):
    x, kernel, turned, like = saved
    cotangent = cotangent.astype(dtype)
    spec, weight = ("...o,oi->...i", turned) if kernel is None else ("...o,io->...i", kernel)
    dx = jnp.einsum(spec, cotangent, weight.astype(dtype), preferred_element_type=jnp.float32).astype(
        like.dtype
    )
    if kernel is None:
        return dx, None, _outer(cotangent, x).astype(weight.dtype)
    return dx, _outer(x, cotangent).astype(weight.dtype), None if turned is None else jnp.zeros_like(turned)


def _outer(x: Float[Array, "*B I"], y: Float[Array, "*B O"]) -> Float[Array, "I O"]:
    return jnp.einsum("...i,...o->io", x, y, preferred_element_type=jnp.float32)


linear.defvjp(_linear_forward, _linear_backward)


def on_last_axis(vector: Float[Array, "D"], rank: int) -> Float[Array, "..."]:
    """A vector with leading axes of 1, so that no rank is promoted silently."""
    return vector.reshape((1,) * (rank - 1) + vector.shape)


class LoRALinear(nnx.Module):
    """y = x W + b, plus (alpha / rank) (x A) B where the adapter targets this projection. Products run in W's
    dtype, sums in float32.

    `layouts` names what holds W: "kernel" (inputs, outputs), "turned" (outputs, inputs), or both beside each
    other.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        use_bias: bool,
        rank: int | None,
        scaling: float,
        dtype: Any,
        layouts: Layouts = ("kernel",),
    ):
        self.kernel = nnx.Param(jnp.zeros((inputs, outputs), dtype)) if "kernel" in layouts else None
        self.turned = nnx.Param(jnp.zeros((outputs, inputs), dtype)) if "turned" in layouts else None
        self.bias = nnx.Param(jnp.zeros((outputs,), dtype)) if use_bias else None
        self.lora_a = LoRAParam(jnp.zeros((inputs, rank))) if rank else None
        self.lora_b = LoRAParam(jnp.zeros((rank, outputs))) if rank else None
        self.scaling = scaling

    def __call__(self, x: Float[Array, "*B I"]) -> Float[Array, "*B O"]:
        kernel, turned = (None if weight is None else weight[...] for weight in (self.kernel, self.turned))
        y: Any = linear(x, kernel, turned, self.dtype)
        if self.bias is not None:
            y = y + on_last_axis(self.bias[...].astype(y.dtype), y.ndim)
        if self.lora_a is not None and self.lora_b is not None:
            low: Any = linear(x, self.lora_a[...], None, self.dtype)
            update: Any = linear(self.scaling * low, self.lora_b[...], None, self.dtype)
            y = y + update
        return y

    @property
    def dtype(self) -> Any:
        """The dtype of W, in which products run."""
        weight = self.turned if self.kernel is None else self.kernel
        assert weight is not None
        return weight[...].dtype


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


def merge_adapter(base: dict, adapter: dict, lora: LoRAConfig) -> dict:
    """The base with W + (alpha / rank) A B in place of W, computed in float32, stored in W's dtype; W's
    transposes are left out.

    The given tree stays as it is.
    """
    layers = {name: dict(module) for name, module in base["layers"].items()}
    for module, projections in adapter["layers"].items():
        for name, factors in projections.items():
            rest = {key: leaf for key, leaf in layers[module][name].items() if key != "turned"}
            update = lora.scaling * jnp.einsum("lir,lro->lio", factors["lora_a"], factors["lora_b"])
            layers[module][name] = {
                **rest,
                "kernel": (rest["kernel"].astype(jnp.float32) + update).astype(rest["kernel"].dtype),
            }
    return {**base, "layers": layers}
