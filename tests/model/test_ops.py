"""The operations by their definitions, values and gradients, in every form that a kernel has."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cicjax.devices import kind
from cicjax.model import ops
from cicjax.model.ops import Kernel

X, W, COTANGENT = (
    jax.random.normal(jax.random.key(number), shape)
    for number, shape in enumerate([(2, 5, 8), (8, 6), (2, 5, 6)])
)
KERNELS = {
    "plain": W,
    "matrix": Kernel(W, None),
    "transpose": Kernel(None, W.T),
    "both": Kernel(W, W.T),
}


@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)
def test_a_linear_map_and_its_gradients_are_those_of_the_product(kernel):
    y, back = jax.vjp(ops.linear, X, kernel)
    np.testing.assert_allclose(y, X @ W, atol=1e-5)
    dx, dw = back(COTANGENT)
    expected_dx, expected_dw = jax.vjp(jnp.matmul, X, W)[1](COTANGENT)
    np.testing.assert_allclose(dx, expected_dx, atol=1e-5)
    assert jax.tree.structure(dw) == jax.tree.structure(kernel)
    # One of the two forms gets the gradient, the other exact zeros.
    parts = ops.forms(dw)
    total = sum(
        part
        for part in (parts.matrix, None if parts.transpose is None else parts.transpose.T)
        if part is not None
    )
    np.testing.assert_allclose(total, expected_dw, atol=1e-5)


@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)
def test_operands_are_rounded_and_sums_are_not(kernel):
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), kernel)
    assert ops.dtype_of(half) == jnp.bfloat16
    y, back = jax.vjp(ops.linear, X, half)
    rounded = X.astype(jnp.bfloat16).astype(jnp.float32) @ W.astype(jnp.bfloat16).astype(jnp.float32)
    assert y.dtype == jnp.float32
    np.testing.assert_allclose(y, rounded, atol=1e-5)
    dx, dw = back(COTANGENT)
    assert dx.dtype == jnp.float32 and ops.dtype_of(dw) == jnp.bfloat16
    text = jax.jit(lambda c: back(c)[0]).lower(COTANGENT).as_text()
    products = [line for line in text.splitlines() if "dot_general" in line]
    assert products and all("bf16" in line.split(":")[-1].split("->")[0] for line in products)


def test_rms_norm_and_its_gradient_are_those_of_the_definition():
    x, scale, cotangent = (
        jax.random.normal(jax.random.key(number), shape)
        for number, shape in enumerate([(2, 5, 8), (8,), (2, 5, 8)])
    )

    def definition(x, scale):
        return x / jnp.sqrt(jnp.square(x).mean(axis=-1, keepdims=True) + 1e-6) * scale[None, None]

    ours, back = jax.vjp(lambda x, scale: ops.rms_norm(x, scale, 1e-6), x, scale)
    expected, expected_back = jax.vjp(definition, x, scale)
    np.testing.assert_allclose(ours, expected, atol=1e-5)
    for one, other in zip(back(cotangent), expected_back(cotangent), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_swiglu_is_silu_times_up_and_keeps_its_inputs_alone(dtype):
    gate, up, cotangent = (jax.random.normal(jax.random.key(n), (3, 40)).astype(dtype) for n in range(3))

    def plain(gate, up):
        gate, up = gate.astype(jnp.float32), up.astype(jnp.float32)
        return (gate / (1 + jnp.exp(-gate)) * up).astype(dtype)

    value, pull = jax.vjp(ops.swiglu, gate, up)
    expected, pull_plain = jax.vjp(plain, gate, up)
    accuracy = {jnp.float32: 1e-6, jnp.bfloat16: 2e-2}[dtype]
    np.testing.assert_allclose(
        value.astype(jnp.float32), expected.astype(jnp.float32), atol=accuracy, rtol=accuracy
    )
    for ours, theirs in zip(pull(cotangent), pull_plain(cotangent), strict=True):
        assert ours.dtype == dtype
        np.testing.assert_allclose(
            ours.astype(jnp.float32), theirs.astype(jnp.float32), atol=accuracy, rtol=accuracy
        )
    assert {(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(pull)} == {(gate.shape, jnp.dtype(dtype))}


@pytest.mark.parametrize("device", [kind.ANY, kind.CPU], ids=lambda device: device.name)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_rows_are_gathered_and_slots_written_unchanged(dtype, device):
    table = jax.random.normal(jax.random.key(0), (9, 4)).astype(dtype)
    tokens = jnp.asarray([[8, 0], [3, 3]])
    for embedding in (table, Kernel(None, table), Kernel(table.T, table)):
        rows = ops.embed(embedding, tokens, device)
        assert rows.dtype == jnp.float32
        np.testing.assert_array_equal(rows, table.astype(jnp.float32)[tokens])
    cache, new = jnp.ones((2, 1, 6, 4), dtype), jax.random.normal(jax.random.key(1), (2, 1, 2, 4))
    written = ops.write_slots(cache, new, 3, device)
    assert written.dtype == dtype
    np.testing.assert_array_equal(written, cache.at[:, :, 3:5].set(new.astype(dtype)))
