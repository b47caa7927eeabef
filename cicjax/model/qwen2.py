"""Qwen2.5 as a function of two trees: a frozen base and a trainable adapter.

The modules below are flax nnx; `graph` splits an abstract one once, and from then on everything is plain
dictionaries of arrays that are merged back inside the trace. One `Block` serves training and decoding, layers
stacked under `jax.lax.scan` or, on a CPU, apart in a Python loop. Norms, softmax and the residual stream are
float32; products, and the wide activations of the MLP between them, have the dtype of the base.
"""

from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from cicjax.model.config import LoRAConfig, Qwen2Config
from cicjax.model.lora import Layouts, LoRALinear, LoRAParam, on_last_axis, projection_shapes

Tree = dict[str, Any]


class RMSNorm(nnx.Module):
    """x / rms(x) * scale, in float32."""

    def __init__(self, size: int, *, eps: float, dtype: Any):
        self.scale = nnx.Param(jnp.ones((size,), dtype))
        self.eps = eps

    def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
        return rms_norm(x, self.scale[...], self.eps)


def rms_norm(x: Float[Array, "*B D"], scale: Float[Array, "D"], eps: float) -> Float[Array, "*B D"]:
    """Root-mean-square normalisation in float32.

    The division is written as a product of axes because its backward pass is then one too: the sum over x *
    cotangent, which XLA on a CPU would otherwise take entry by entry, in seven times the time.
    """
    x = x.astype(jnp.float32)
    inverse = jax.lax.rsqrt(jnp.mean(x * x, axis=-1) + eps)
    normalised = jnp.einsum("...d,...->...d", x, inverse, precision=jax.lax.Precision.HIGHEST)
    return normalised * on_last_axis(scale.astype(jnp.float32), x.ndim)


class Rotation(NamedTuple):
    """Cosines and sines of the rotary embedding at each position, (B, T, H)."""

    cos: Float[Array, "B T H"]
    sin: Float[Array, "B T H"]


def rotation(positions: Int[Array, "B T"], config: Qwen2Config) -> Rotation:
    """Angles position * theta^(-2i/H), repeated for the two halves of a head as Qwen2 lays them out."""
    half = config.head_dim // 2
    frequencies = config.rope_theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angles = positions[..., None].astype(jnp.float32) * on_last_axis(
        jnp.concatenate([frequencies, frequencies]), positions.ndim + 1
    )
    return Rotation(jnp.cos(angles), jnp.sin(angles))


def rotate(x: Float[Array, "B T K H"], angles: Rotation) -> Float[Array, "B T K H"]:
    """Rotary position embedding of every head."""
    first, second = jnp.split(x, 2, axis=-1)
    turned = jnp.concatenate([-second, first], axis=-1)
    return x * angles.cos[:, :, None, :] + turned * angles.sin[:, :, None, :]


class Cache(NamedTuple):
    """Keys and values of one layer in the dtype of the base, each (B, K, S, H): slots beside each other, as
    attention reads them."""

    keys: Float[Array, "B K S H"]
    values: Float[Array, "B K S H"]


class Attention(nnx.Module):
    """Grouped-query causal attention with rotary positions."""

    def __init__(self, config: Qwen2Config, lora: LoRAConfig | None, dtype: Any, layouts: Layouts):
        self.config = config
        self.q_proj = _projection("q_proj", config, lora, dtype, layouts)
        self.k_proj = _projection("k_proj", config, lora, dtype, layouts)
        self.v_proj = _projection("v_proj", config, lora, dtype, layouts)
        self.o_proj = _projection("o_proj", config, lora, dtype, layouts)

    def __call__(
        self,
        x: Float[Array, "B T D"],
        angles: Rotation,
        attention_mask: Bool[Array, "B T S"],
        cache: Cache | None,
        slot: Any,
    ) -> tuple[Float[Array, "B T D"], Cache]:
        heads = (*x.shape[:2], -1, self.config.head_dim)
        queries = rotate(self.q_proj(x).reshape(heads), angles)
        keys = rotate(self.k_proj(x).reshape(heads), angles).swapaxes(1, 2)
        values = self.v_proj(x).reshape(heads).swapaxes(1, 2)
        if cache is not None:
            keys, values = _written(cache.keys, keys, slot), _written(cache.values, values, slot)
        mixed = attend(queries, keys, values, attention_mask)
        return self.o_proj(mixed.reshape(*x.shape[:2], -1)), Cache(keys, values)


def _written(
    cache: Float[Array, "B K S H"], new: Float[Array, "B K T H"], slot: Any
) -> Float[Array, "B K S H"]:
    """The cache with `new` at `slot`. bf16 is written by its bits: XLA on a CPU would convert the whole cache
    there and back."""
    if cache.dtype != jnp.bfloat16:
        return jax.lax.dynamic_update_slice_in_dim(cache, new.astype(cache.dtype), slot, axis=2)
    bits, new_bits = (
        jax.lax.bitcast_convert_type(part, jnp.uint16) for part in (cache, new.astype(jnp.bfloat16))
    )
    return jax.lax.bitcast_convert_type(
        jax.lax.dynamic_update_slice_in_dim(bits, new_bits, slot, axis=2), jnp.bfloat16
    )


def attend(
    queries: Float[Array, "B T N H"],
    keys: Float[Array, "B K S H"],
    values: Float[Array, "B K S H"],
    attention_mask: Bool[Array, "B T S"],
) -> Float[Array, "B T N H"]:
    """Softmax attention in float32, products in the dtype of the keys; N / K query heads share one key-value
    head.

    The queries of a group lie behind each other, so that each key-value head is one product, and the sum of
    the softmax divides the mixed values instead of the weights: a third of the passes over arrays of (T, S).
    """
    batch, time, n, size = queries.shape
    heads = keys.shape[1]
    grouped = (queries * size**-0.5).reshape(batch, time, heads, n // heads, size).transpose(0, 2, 3, 1, 4)
    scores = _product("bkth,bksh->bkts", grouped.reshape(batch, heads, -1, size), keys)
    scores = scores.reshape(batch, heads, n // heads, time, -1)
    scores = jnp.where(attention_mask[:, None, None], scores, jnp.finfo(jnp.float32).min)
    weights = jnp.exp(scores - jax.lax.stop_gradient(scores.max(axis=-1, keepdims=True)))
    mixed = _product("bkts,bksh->bkth", weights.reshape(batch, heads, n // heads * time, -1), values).reshape(
        grouped.shape
    )
    mixed = mixed / weights.sum(axis=-1, keepdims=True)
    return mixed.transpose(0, 3, 1, 2, 4).reshape(batch, time, n, size)


def _product(spec: str, x: Array, y: Array) -> Array:
    return jnp.einsum(spec, x.astype(y.dtype), y, preferred_element_type=jnp.float32)


class MLP(nnx.Module):
    """down(silu(gate(x)) * up(x))."""

    def __init__(self, config: Qwen2Config, lora: LoRAConfig | None, dtype: Any, layouts: Layouts):
        self.gate_proj = _projection("gate_proj", config, lora, dtype, layouts)
        self.up_proj = _projection("up_proj", config, lora, dtype, layouts)
        self.down_proj = _projection("down_proj", config, lora, dtype, layouts)

    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        dtype = self.gate_proj.dtype
        return self.down_proj(swiglu(self.gate_proj(x).astype(dtype), self.up_proj(x).astype(dtype)))


@jax.custom_vjp
def swiglu(gate: Float[Array, "*B F"], up: Float[Array, "*B F"]) -> Float[Array, "*B F"]:
    """silu(gate) * up, computed in float32. Its two inputs, in the dtype of the base, are all that the
    backward pass keeps of the widest arrays of the model; autodiff alone would keep float32 sums and their
    parts, four times as many bytes."""
    return _swiglu(gate, up).astype(gate.dtype)


def _swiglu(gate: Float[Array, "*B F"], up: Float[Array, "*B F"]) -> Float[Array, "*B F"]:
    return jax.nn.silu(gate.astype(jnp.float32)) * up.astype(jnp.float32)


def _swiglu_backward(saved: tuple, cotangent: Float[Array, "*B F"]) -> tuple:
    return jax.vjp(_swiglu, *saved)[1](cotangent.astype(jnp.float32))


swiglu.defvjp(lambda gate, up: (swiglu(gate, up), (gate, up)), _swiglu_backward)


class Block(nnx.Module):
    """One decoder layer: x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, config: Qwen2Config, lora: LoRAConfig | None, dtype: Any, layouts: Layouts):
        self.input_layernorm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps, dtype=dtype)
        self.self_attn = Attention(config, lora, dtype, layouts)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps, dtype=dtype)
        self.mlp = MLP(config, lora, dtype, layouts)

    def __call__(
        self,
        x: Float[Array, "B T D"],
        angles: Rotation,
        attention_mask: Bool[Array, "B T S"],
        cache: Cache | None = None,
        slot: Any = 0,
    ) -> tuple[Float[Array, "B T D"], Cache]:
        mixed, cache = self.self_attn(self.input_layernorm(x), angles, attention_mask, cache, slot)
        x = x + mixed
        return x + self.mlp(self.post_attention_layernorm(x)), cache


def _projection(
    name: str, config: Qwen2Config, lora: LoRAConfig | None, dtype: Any, layouts: Layouts
) -> LoRALinear:
    _, inputs, outputs = projection_shapes(config)[name]
    targeted = lora is not None and name in lora.target_modules
    return LoRALinear(
        inputs,
        outputs,
        use_bias=name in ("q_proj", "k_proj", "v_proj"),
        rank=lora.rank if lora and targeted else None,
        scaling=lora.scaling if lora and targeted else 0.0,
        dtype=dtype,
        layouts=layouts,
    )


@lru_cache
def graph(config: Qwen2Config, lora: LoRAConfig | None, layouts: Layouts) -> nnx.GraphDef[Block]:
    """The static half of a Block: what `nnx.merge` needs beside an adapter tree and a base tree of one
    layer."""
    abstract = nnx.eval_shape(lambda: Block(config, lora, jnp.float32, layouts))
    return nnx.split(abstract, LoRAParam, nnx.Param)[0]


class Model(NamedTuple):
    """The static half of a policy: architecture and, when an adapter is in play, its LoRA settings. Hashable,
    so jit can close over it."""

    config: Qwen2Config
    lora: LoRAConfig | None = None

    def block(self, base_layer: Tree, adapter_layer: Tree | None) -> Block:
        """One layer's module over its two trees."""
        layouts = tuple(sorted(base_layer["mlp"]["down_proj"]))
        return nnx.merge(graph(self.config, self.lora, layouts), adapter_layer or {}, base_layer)


def hidden(
    model: Model,
    base: Tree,
    adapter: Tree | None,
    tokens: Int[Array, "B T"],
    positions: Int[Array, "B T"],
    segments: Int[Array, "B T"],
) -> Float[Array, "B T D"]:
    """Last hidden states, final norm included. Tokens attend to earlier tokens of their own segment.

    Stacked layers run as one scan whose body returns x alone; layers taken apart by `unstack` run as a Python
    loop, which a CPU prefers.
    """
    x = embed(base, tokens)
    angles = rotation(positions, model.config)
    attention_mask = causal_mask(segments)

    def body(x, layer):
        return _one_layer(model, *layer, x, angles, attention_mask), None

    adapter_layers = adapter["layers"] if adapter is not None else None
    if isinstance(base["layers"], tuple):
        for layer in zip(base["layers"], _apart(adapter_layers, len(base["layers"])), strict=True):
            x, _ = body(x, layer)
    else:
        x, _ = jax.lax.scan(body, x, (base["layers"], adapter_layers))
    return rms_norm(x, base["norm"]["scale"], model.config.rms_norm_eps)


@partial(jax.jit, static_argnums=0)
def _one_layer(
    model: Model,
    base_layer: Tree,
    adapter_layer: Tree | None,
    x: Array,
    angles: Rotation,
    attention_mask: Array,
) -> Array:
    """One block. Jitted, so that a loop over layers traces it once."""
    return model.block(base_layer, adapter_layer)(x, angles, attention_mask)[0]


def layer_of(layers: Tree | None, number: int) -> Tree | None:
    """Layer `number` of a stacked tree."""
    return jax.tree.map(lambda leaf: leaf[number], layers)


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _apart(layers: Tree | None, count: int) -> tuple[Tree | None, ...]:
    """The layers of a stacked tree one by one. Backwards their gradients are stacked; autodiff alone would
    pad each to `count` layers and add them all up."""
    return tuple(layer_of(layers, number) for number in range(count))


_apart.defvjp(
    lambda layers, count: (_apart(layers, count), None),
    lambda count, _, cotangents: (jax.tree.map(lambda *leaves: jnp.stack(leaves), *cotangents),),
)


def unstack(base: Tree) -> Tree:
    """The same base with its layers as a tuple of trees. Done once: on a CPU a loop body that slices a bf16
    array copies it whole."""
    if isinstance(base["layers"], tuple):
        return base
    count = jax.tree.leaves(base["layers"])[0].shape[0]
    return {**base, "layers": tuple(layer_of(base["layers"], number) for number in range(count))}


def both_ways(base: Tree) -> Tree:
    """The base unstacked, with every kernel and the vocabulary head beside their transposes. For training on
    a CPU, which multiplies along rows as they lie: the forward product wants one, the backward product the
    other. Twice the memory."""
    base = unstack(base)
    return {
        **base,
        "layers": tuple(map(turn_kernels, base["layers"])),
        "unembedding": output_embedding(base).T,
    }


def turn_kernels(tree: Tree, *, keep: bool = True) -> Tree:
    """One layer with `turned` kernels, (outputs, inputs), beside its kernels or, without `keep`, in their
    place."""
    if "kernel" not in tree:
        return {
            name: turn_kernels(part, keep=keep) if isinstance(part, dict) else part
            for name, part in tree.items()
        }
    rest = {name: leaf for name, leaf in tree.items() if keep or name != "kernel"}
    return {**rest, "turned": tree["turned"] if "turned" in tree else tree["kernel"].T}


def embed(base: Tree, tokens: Int[Array, "B T"]) -> Float[Array, "B T D"]:
    """Input embeddings in float32. bf16 rows are gathered by their bits: in a loop, XLA on a CPU would
    convert the whole table first."""
    table = base["embed_tokens"]["embedding"]
    if table.dtype != jnp.bfloat16:
        return table[tokens].astype(jnp.float32)
    bits = jax.lax.bitcast_convert_type(table, jnp.uint16)[tokens]
    return jax.lax.bitcast_convert_type(bits, jnp.bfloat16).astype(jnp.float32)


def causal_mask(segments: Int[Array, "B T"]) -> Bool[Array, "B T T"]:
    """True where a query may see a key: not later than itself and in the same packed segment."""
    time = jnp.arange(segments.shape[1])
    return (time[:, None] >= time[None, :])[None] & (segments[:, :, None] == segments[:, None, :])


def output_embedding(base: Tree) -> Float[Array, "V D"]:
    """The matrix of the vocabulary head: the input embedding itself where the two are tied."""
    return base["lm_head"]["kernel"] if "lm_head" in base else base["embed_tokens"]["embedding"]


def logits(base: Tree, hidden_states: Float[Array, "*B D"]) -> Float[Array, "*B V"]:
    """Scores of the next token in float32, for tests and tiny models."""
    embedding = output_embedding(base)
    return jnp.einsum(
        "...d,vd->...v", hidden_states.astype(embedding.dtype), embedding, preferred_element_type=jnp.float32
    )


def next_scores(base: Tree, hidden_states: Float[Array, "B D"]) -> Float[Array, "V B"]:
    """`logits` of one position a row, entry by entry: a CPU multiplies the embedding as it lies with few
    rows."""
    embedding = output_embedding(base)
    return jnp.einsum(
        "vd,bd->vb", embedding, hidden_states.astype(embedding.dtype), preferred_element_type=jnp.float32
    )


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
    return logits(base, hidden(model, base, adapter, tokens, positions, segments))
