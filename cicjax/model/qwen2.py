"""Qwen2.5 as a function of two trees: a frozen base and a trainable adapter (Qwen2 technical report,
arXiv:2407.10671); and its relatives, Qwen3 with normed heads and Llama, both without biases.

The modules below are flax nnx; `graph` splits an abstract one once, and from then on everything is plain
dictionaries of arrays that are merged back inside the trace. One `Block` serves training and decoding. Norms,
softmax and the residual stream are float32; products, and the wide activations of the MLP between them, have
the dtype of the base. How arrays lie in memory is left to `layout` and `ops`.
"""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from cicjax.devices.kind import ANY, Kind
from cicjax.model import cost, head, layout, ops
from cicjax.model.attention import Span, alone, attention, packed
from cicjax.model.config import LoRAConfig, Qwen2Config, Tree
from cicjax.model.lora import Dropout, LoRALinear, LoRAParam, down_together, projection_shapes


class RMSNorm(nnx.Module):
    """x / rms(x) * scale, in float32."""

    def __init__(self, size: int, *, eps: float, dtype: Any):
        self.scale = nnx.Param(jnp.ones((size,), dtype))
        self.eps = eps

    def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
        return ops.rms_norm(x, self.scale[...], self.eps)


class Rotation(NamedTuple):
    """Cosines and sines of the rotary embedding at each position, (B, T, H)."""

    cos: Float[Array, "B T H"]
    sin: Float[Array, "B T H"]


def rotation(positions: Int[Array, "B T"], config: Qwen2Config) -> Rotation:
    """Angles position * theta^(-2i/H), repeated for the two halves of a head as Qwen2 lays them out."""
    half = config.head_dim // 2
    frequencies = config.rope_theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angles = positions[..., None].astype(jnp.float32) * ops.on_last_axis(
        jnp.concatenate([frequencies, frequencies]), positions.ndim + 1
    )
    return Rotation(jnp.cos(angles), jnp.sin(angles))


def rotate(x: Float[Array, "B T K H"], angles: Rotation) -> Float[Array, "B T K H"]:
    """Rotary position embedding of every head."""
    first, second = jnp.split(x, 2, axis=-1)
    quarter_turn = jnp.concatenate([-second, first], axis=-1)
    return x * angles.cos[:, :, None, :] + quarter_turn * angles.sin[:, :, None, :]


class Cache(NamedTuple):
    """Keys and values of one layer in the dtype of the base, each (B, K, S, H): slots beside each other, as
    attention reads them."""

    keys: Float[Array, "B K S H"]
    values: Float[Array, "B K S H"]


Route = Bool[Array, "B S"] | None


class Attention(nnx.Module):
    """Grouped-query causal attention with rotary positions, in Qwen3 of normed queries and keys. `route`,
    here and below, is the slot of a bank of adapters that each row reads, None where the adapter is one;
    `dropout` is training's."""

    def __init__(self, config: Qwen2Config, lora: LoRAConfig | None, dtype: Any):
        self.config = config
        self.q_proj = _projection("q_proj", config, lora, dtype)
        self.k_proj = _projection("k_proj", config, lora, dtype)
        self.v_proj = _projection("v_proj", config, lora, dtype)
        self.o_proj = _projection("o_proj", config, lora, dtype)
        self.q_norm, self.k_norm = (_head_norm(config, dtype) for _ in range(2))

    def __call__(
        self,
        x: Float[Array, "B T D"],
        angles: Rotation,
        span: Span,
        kind: Kind,
        cache: Cache | None,
        route: Route = None,
        dropout: Dropout | None = None,
    ) -> tuple[Float[Array, "B T D"], Cache]:
        heads = (*x.shape[:2], -1, self.config.head_dim)
        low = down_together(x, (self.q_proj, self.k_proj, self.v_proj), kind, dropout and dropout.of(0))
        queries = rotate(self.q_norm(self.q_proj(x, low[0], route).reshape(heads)), angles)
        keys = rotate(self.k_norm(self.k_proj(x, low[1], route).reshape(heads)), angles).swapaxes(1, 2)
        values = self.v_proj(x, low[2], route).reshape(heads).swapaxes(1, 2)
        keys, values = keys.astype(self.k_proj.dtype), values.astype(self.v_proj.dtype)
        if cache is not None:
            slot = span.last[..., 0]
            keys = ops.write_slots(cache.keys, keys, slot, kind)
            values = ops.write_slots(cache.values, values, slot, kind)
        mixed = attention(queries, keys, values, span, kind).reshape(*x.shape[:2], -1)
        (low_mixed,) = down_together(mixed, (self.o_proj,), kind, dropout and dropout.of(1))
        return self.o_proj(mixed, low_mixed, route), Cache(keys, values)


class MLP(nnx.Module):
    """down(silu(gate(x)) * up(x))."""

    def __init__(self, config: Qwen2Config, lora: LoRAConfig | None, dtype: Any):
        self.gate_proj = _projection("gate_proj", config, lora, dtype)
        self.up_proj = _projection("up_proj", config, lora, dtype)
        self.down_proj = _projection("down_proj", config, lora, dtype)

    def __call__(
        self, x: Float[Array, "B T D"], kind: Kind, route: Route = None, dropout: Dropout | None = None
    ) -> Float[Array, "B T D"]:
        dtype = self.gate_proj.dtype
        low = down_together(x, (self.gate_proj, self.up_proj), kind, dropout and dropout.of(2))
        gate, up = self.gate_proj(x, low[0], route), self.up_proj(x, low[1], route)
        wide = ops.swiglu(gate.astype(dtype), up.astype(dtype))
        (low_wide,) = down_together(wide, (self.down_proj,), kind, dropout and dropout.of(3))
        return self.down_proj(wide, low_wide, route)


class Block(nnx.Module):
    """One decoder layer: x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, config: Qwen2Config, lora: LoRAConfig | None, dtype: Any):
        self.input_layernorm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps, dtype=dtype)
        self.self_attn = Attention(config, lora, dtype)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps, dtype=dtype)
        self.mlp = MLP(config, lora, dtype)

    def __call__(
        self,
        x: Float[Array, "B T D"],
        angles: Rotation,
        span: Span,
        kind: Kind,
        cache: Cache | None = None,
        route: Route = None,
        dropout: Dropout | None = None,
    ) -> tuple[Float[Array, "B T D"], Cache]:
        mixed, cache = self.self_attn(self.input_layernorm(x), angles, span, kind, cache, route, dropout)
        x = x + mixed
        return x + self.mlp(self.post_attention_layernorm(x), kind, route, dropout), cache


def _projection(name: str, config: Qwen2Config, lora: LoRAConfig | None, dtype: Any) -> LoRALinear:
    _, inputs, outputs = projection_shapes(config)[name]
    targeted = lora is not None and name in lora.target_modules
    return LoRALinear(
        inputs,
        outputs,
        use_bias=config.family.qkv_bias and name in ("q_proj", "k_proj", "v_proj"),
        rank=lora.rank if lora and targeted else None,
        scaling=lora.scaling if lora and targeted else 0.0,
        dtype=dtype,
    )


def _head_norm(config: Qwen2Config, dtype: Any) -> Callable[[Array], Array]:
    """The norm over each head's own entries, where the family has one; else nothing is done."""
    if not config.family.head_norms:
        return _as_it_is
    return RMSNorm(config.head_dim, eps=config.rms_norm_eps, dtype=dtype)


def _as_it_is(x: Array) -> Array:
    return x


@lru_cache
def graph(config: Qwen2Config, lora: LoRAConfig | None) -> nnx.GraphDef[Block]:
    """The static half of a Block: what `nnx.merge` needs beside an adapter tree and a base tree of one
    layer."""
    abstract = nnx.eval_shape(lambda: Block(config, lora, jnp.float32))
    return nnx.split(abstract, LoRAParam, nnx.Param)[0]


class Model(NamedTuple):
    """The static half of a policy: architecture, LoRA settings when an adapter is in play, and the kind of
    device that its programs are for. Hashable: the static argument of every jitted program."""

    config: Qwen2Config
    lora: LoRAConfig | None = None
    kind: Kind = ANY

    def block(self, base_layer: Tree, adapter_layer: Tree | None) -> Block:
        """One layer's module over its two trees; without an adapter's, whatever the LoRA settings, the bare
        base."""
        lora = self.lora if adapter_layer is not None else None
        return nnx.merge(graph(self.config, lora), adapter_layer or {}, base_layer)


@partial(jax.jit, static_argnums=0)
def run_block(
    model: Model,
    base_layer: Tree,
    adapter_layer: Tree | None,
    x: Float[Array, "B T D"],
    angles: Rotation,
    span: Span,
    cache: Cache | None = None,
    route: Route = None,
    dropout: Dropout | None = None,
) -> tuple[Float[Array, "B T D"], Cache]:
    """One layer on x, which with a `cache` also holds what earlier slots left there. Gives the layer's keys
    and values besides. Jitted, so that a loop over layers traces it once."""
    return model.block(base_layer, adapter_layer)(x, angles, span, model.kind, cache, route, dropout)


def hidden(
    model: Model,
    base: Tree,
    adapter: Tree | None,
    tokens: Int[Array, "B T"],
    positions: Int[Array, "B T"],
    segments: Int[Array, "B T"] | None,
    dropout: Dropout | None = None,
) -> Float[Array, "B T D"]:
    """Last hidden states, final norm included. Tokens attend to earlier tokens of their own segment; equal
    numbers next to each other are one segment, and without `segments` a line is one. In training `dropout`
    keeps a share of its inputs from the adapter, others in every layer.

    Where its activations would take more than the kind of device has for them, the backward pass runs every
    layer once more.
    """
    embedding = base["embed_tokens"]["embedding"]
    x, angles = ops.embed(embedding, tokens, model.kind), rotation(positions, model.config)
    span = alone(tokens.shape[1]) if segments is None else packed(segments)

    def layer(x: Array, base_layer: Tree, adapter_layer: Tree, own: Any, angles: Any, span: Any) -> Array:
        return run_block(model, base_layer, adapter_layer, x, angles, span, dropout=own)[0]

    kept = cost.activation_bytes(model.config, tokens=tokens.size, itemsize=ops.dtype_of(embedding).itemsize)
    adapters, twice = None if adapter is None else adapter["layers"], kept > model.kind.activations
    each = dropout and jax.vmap(dropout.of)(jnp.arange(model.config.num_hidden_layers))
    x = layout.run_layers(layer, x, base["layers"], adapters, angles, span, each=each, twice=twice)
    return ops.rms_norm(x, base["norm"]["scale"], model.config.rms_norm_eps)


def apply(
    model: Model,
    base: Tree,
    adapter: Tree | None,
    tokens: Int[Array, "B T"],
    positions: Int[Array, "B T"] | None = None,
    segments: Int[Array, "B T"] | None = None,
) -> Float[Array, "B T V"]:
    """All logits of a batch: logits[:, t - 1] scores tokens[:, t]. For tests and tiny models: training
    projects supervised positions."""
    if positions is None:
        positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    if segments is None:
        segments = jnp.zeros_like(tokens)
    return head.logits(base, hidden(model, base, adapter, tokens, positions, segments))
