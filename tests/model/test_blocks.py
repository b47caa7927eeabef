"""Attention by blocks: the dense one's values and gradients, memory that grows with the length, and layers
that run twice where memory asks for it."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_policy import random_policy

from cicjax.devices import kind
from cicjax.model import head, layout, qwen2
from cicjax.model.attention import alone, attention, left_padded, packed
from cicjax.model.blocks import block_size

DENSE = replace(kind.ANY, dense_keys=1 << 20)


def operands(rng, *, batch, time, slots, heads, groups, size, dtype=np.float32):
    shapes = [(batch, time, heads * groups, size), (batch, heads, slots, size), (batch, heads, slots, size)]
    queries, keys, values = (rng.normal(size=shape).astype(np.float32) for shape in shapes)
    return queries, keys.astype(dtype), values.astype(dtype)


@partial(jax.jit, static_argnames=("device",))
def _value_and_gradients(operands, span, *, device):
    cotangent = jax.random.normal(jax.random.key(0), operands[0].shape)
    value, pull = jax.vjp(lambda *parts: attention(*parts, span, device), *operands)
    return value, pull(cotangent)


def both(operands, span, block):
    """(value, gradients) of the dense attention and of the one by blocks, under one random cotangent."""
    for device in (DENSE, replace(kind.ANY, dense_keys=0, block=block)):
        yield _value_and_gradients(operands, span, device=device)


def same(operands, span, block, *, atol):
    (value, gradients), (ours, our_gradients) = both(operands, span, block)
    np.testing.assert_allclose(ours, value, atol=atol)
    for one, other in zip(our_gradients, gradients, strict=True):
        assert one.dtype == other.dtype
        scale = max(float(np.abs(np.asarray(other, np.float32)).max()), 1.0)
        np.testing.assert_allclose(
            np.asarray(one, np.float32) / scale, np.asarray(other, np.float32) / scale, atol=atol
        )


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_blocks_equal_the_dense_attention_on_packed_rows(data):
    time = data.draw(st.sampled_from([65, 192, 300]))
    heads, groups = data.draw(st.sampled_from([(1, 4), (2, 3), (3, 1)]))
    cuts = st.sets(st.integers(1, time - 1), max_size=8)
    lines = [np.isin(np.arange(time), list(data.draw(cuts))).cumsum() for _ in range(2)]
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    parts = operands(rng, batch=2, time=time, slots=time, heads=heads, groups=groups, size=4)
    same(parts, packed(jnp.asarray(np.stack(lines))), 64, atol=1e-5)


@pytest.mark.parametrize("slot", [0, 70, 128])
def test_blocks_equal_the_dense_attention_on_a_chunk_of_prompts(slot):
    """Queries in the middle of a cache, of rows whose padding ends in it, before it and behind it."""
    parts = operands(np.random.default_rng(slot), batch=3, time=80, slots=256, heads=2, groups=2, size=8)
    span = left_padded(jnp.asarray([0, 75, 150]), slot + jnp.arange(80))
    (value, _), (ours, _) = both(parts, span, 64)
    real = np.asarray(span.last)[None] >= np.asarray(span.first)
    np.testing.assert_allclose(np.asarray(ours)[real], np.asarray(value)[real], atol=1e-5)
    assert np.isfinite(np.asarray(ours)).all()


def test_lines_of_one_row_need_no_segments():
    parts = operands(np.random.default_rng(1), batch=2, time=150, slots=150, heads=1, groups=2, size=8)
    assert alone(150).first is None
    same(parts, alone(150), 64, atol=1e-5)
    (value, _), _ = both(parts, packed(jnp.ones((2, 150), jnp.int32)), 64)
    np.testing.assert_array_equal(value, next(both(parts, alone(150), 64))[0])


def test_bf16_products_have_float32_sums():
    parts = operands(
        np.random.default_rng(2), batch=1, time=200, slots=200, heads=2, groups=2, size=16, dtype=jnp.bfloat16
    )
    same(parts, packed(jnp.ones((1, 200), jnp.int32)), 64, atol=2e-2)


@pytest.mark.parametrize(
    ("length", "block", "size"), [(100, 128, 100), (320, 128, 64), (8192, 512, 512), (650, 256, 256)]
)
def test_blocks_divide_a_line_where_they_can(length, block, size):
    assert block_size(length, block) == size


def temporaries(time, device, *, batch=1):
    """Bytes beside arguments and results of one layer's attention, forward and backward, bf16."""
    shapes = [(batch, time, 4, 64), (batch, 2, time, 64), (batch, 2, time, 64)]
    dtypes = [jnp.float32, jnp.bfloat16, jnp.bfloat16]
    parts = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in zip(shapes, dtypes, strict=True)]
    segments = jax.ShapeDtypeStruct((batch, time), jnp.int32)

    def total(queries, keys, values, segments):
        return (attention(queries, keys, values, packed(segments), device) ** 2).sum()

    program = jax.jit(jax.grad(total, argnums=(0, 1, 2))).lower(*parts, segments).compile()
    return program.memory_analysis().temp_size_in_bytes, program.as_text()


def test_memory_is_linear_in_the_length_to_8192():
    sizes = {time: temporaries(time, kind.CPU)[0] for time in (1024, 2048, 4096, 8192)}
    per_token = [size / time for time, size in sizes.items()]
    assert max(per_token) < 1.1 * min(per_token)
    assert sizes[8192] < 64 << 20
    assert temporaries(2048, DENSE)[0] > 4 * sizes[2048]  # the control


@pytest.mark.parametrize("device", [kind.CPU, kind.V5E], ids=["cpu", "v5e"])
def test_no_array_has_two_axes_of_the_length(device):
    assert "2048,2048" not in temporaries(2048, device)[1]
    assert "2048,2048" in temporaries(2048, DENSE)[1]  # the control


@pytest.mark.parametrize("device", [kind.ANY, kind.CPU], ids=["stacked", "apart"])
def test_layers_run_twice_where_activations_would_not_fit(tmp_path, device):
    model, base, adapter = random_policy(tmp_path, seed=3, num_hidden_layers=4)
    base = layout.prepare(base, device.training)
    tokens = jnp.arange(300).reshape(1, 300)

    def compiled(activations):
        static = model._replace(kind=replace(device, activations=activations))

        def loss(adapter):
            states = qwen2.hidden(static, base, adapter, tokens, tokens, jnp.ones_like(tokens))
            return (states**2).mean()

        program = jax.jit(jax.grad(loss)).lower(adapter).compile()
        return program.memory_analysis().temp_size_in_bytes, program(adapter)

    (kept, expected), (again, gradient) = compiled(1 << 40), compiled(0)
    assert again < 0.7 * kept
    for one, other in zip(*map(jax.tree.leaves, (gradient, expected)), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_products_of_float32_are_exact_and_those_of_bf16_are_not(tmp_path, dtype):
    model, base, adapter = random_policy(tmp_path, seed=3)
    base = jax.tree.map(lambda leaf: leaf.astype(dtype), base)
    tokens = jnp.arange(12)[None]

    def loss(adapter):
        states = qwen2.hidden(model, base, adapter, tokens, tokens, jnp.ones_like(tokens))
        used = jnp.int32(12)
        return head.logprobs(base, states, tokens, used, 4).sum() + head.next_scores(base, states[0]).sum()

    text = jax.jit(jax.grad(loss)).lower(adapter).as_text()
    products = [line for line in text.splitlines() if "dot_general" in line]
    exact = ["HIGHEST" in line for line in products]
    if dtype == jnp.float32:
        assert len(products) > 10 and all(exact)
    else:
        assert sum(exact) < len(exact) / 2
        assert not any("HIGHEST" in line for line in products if "bf16" in line)
