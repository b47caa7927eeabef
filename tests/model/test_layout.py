"""Layouts: from any to any other, arrays shared where they lie right, and one function in all of them."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_policy import random_policy

from cicjax.devices.kind import Layout
from cicjax.model import head, layout, lora, qwen2
from cicjax.model.ops import Kernel

LAYOUTS = [Layout(*each) for each in itertools.product(("stacked", "apart"), ("matrix", "transpose", "both"))]
name = "-".join
TOKENS = jnp.arange(12)[None]


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return random_policy(tmp_path_factory.mktemp("policy"), seed=3)


def same(one, other):
    """Equal trees, array by array and bit by bit."""
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for left, right in zip(*map(jax.tree.leaves, (one, other)), strict=True):
        np.testing.assert_array_equal(left, right)


def kernels(base):
    """Every kernel of the first layer."""
    layers = base["layers"]
    first = layers[0] if isinstance(layers, tuple) else jax.tree.map(lambda leaf: leaf[0], layers)
    return [first[module][each]["kernel"] for module, each in (("self_attn", "q_proj"), ("mlp", "down_proj"))]


@pytest.mark.parametrize("wanted", LAYOUTS, ids=name)
def test_a_base_lies_as_it_was_asked_to(policy, wanted):
    _, base, _ = policy
    prepared = layout.prepare(base, wanted)
    assert isinstance(prepared["layers"], tuple) == (wanted.layers == "apart")
    assert layout.number_of(prepared["layers"]) == 2
    for kernel, matrix in zip(kernels(prepared), kernels(base), strict=True):
        if wanted.kernels == "matrix":
            np.testing.assert_array_equal(kernel, matrix)
            continue
        assert isinstance(kernel, Kernel) and kernel.transpose is not None
        np.testing.assert_array_equal(kernel.transpose, matrix.T)
        assert (kernel.matrix is None) == (wanted.kernels == "transpose")
        if kernel.matrix is not None:
            np.testing.assert_array_equal(kernel.matrix, matrix)


@pytest.mark.parametrize("wanted", LAYOUTS, ids=name)
@pytest.mark.parametrize("tied", [True, False])
def test_the_heads_table_stays_and_is_joined_by_its_transpose_where_both_are_wanted(policy, wanted, tied):
    _, base, _ = policy
    if not tied:
        base = {**base, "lm_head": {"embedding": base["embed_tokens"]["embedding"] + 1}}
    table, embedding = (head.output_embedding(each) for each in (base, layout.prepare(base, wanted)))
    if wanted.kernels != "both":
        assert embedding is table
        return
    assert isinstance(embedding, Kernel) and embedding.transpose is table
    np.testing.assert_array_equal(embedding.matrix, table.T)


@pytest.mark.parametrize("first", LAYOUTS, ids=name)
def test_any_layout_becomes_any_other_and_itself_without_a_copy(policy, first):
    _, base, _ = policy
    prepared = layout.prepare(base, first)
    again = layout.prepare(prepared, first)
    assert all(one is other for one, other in zip(*map(jax.tree.leaves, (prepared, again)), strict=True))
    for wanted in LAYOUTS:
        same(layout.prepare(prepared, wanted), layout.prepare(base, wanted))


@pytest.mark.parametrize("wanted", LAYOUTS, ids=name)
def test_a_merge_is_the_same_in_and_from_every_layout(policy, wanted):
    model, base, adapter = policy
    merged = lora.merge_adapter(base, adapter, model.lora)
    for first in LAYOUTS:
        prepared = layout.prepare(layout.prepare(base, first), wanted, adapter=adapter, lora=model.lora)
        expected = layout.prepare(merged, wanted)
        assert jax.tree.structure(prepared) == jax.tree.structure(expected)
        for one, other in zip(*map(jax.tree.leaves, (prepared, expected)), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("wanted", LAYOUTS, ids=name)
def test_every_layout_gives_the_same_logits_and_the_same_gradients(policy, wanted):
    model, base, adapter = policy
    prepared = layout.prepare(base, wanted)

    @jax.jit
    def loss(adapter, base):
        logits = qwen2.apply(model, base, adapter, TOKENS)
        return (logits**2).mean(), logits

    np.testing.assert_allclose(loss(None, prepared)[1], loss(None, base)[1], atol=1e-5)
    gradient = jax.jit(jax.grad(loss, has_aux=True))
    (ours, logits), (theirs, expected) = (gradient(adapter, each) for each in (prepared, base))
    np.testing.assert_allclose(logits, expected, atol=1e-5)
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for one, other in zip(*map(jax.tree.leaves, (ours, theirs)), strict=True):
        assert np.abs(other).max() > 0
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def test_gradients_of_plain_layers_that_were_taken_apart_come_back_stacked(policy):
    """As pretraining uses them."""
    model, base, _ = policy

    def loss(layers, taken):
        return (qwen2.apply(model, {**base, "layers": taken(layers)}, None, TOKENS) ** 2).mean()

    whole, parts = (
        jax.jit(jax.grad(loss), static_argnums=1)(base["layers"], taken)
        for taken in (lambda layers: layers, lambda layers: layout.apart(layers, 2))
    )
    assert jax.tree.structure(whole) == jax.tree.structure(parts)
    for one, other in zip(*map(jax.tree.leaves, (whole, parts)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def test_an_adapter_without_settings_is_refused(policy):
    _, base, adapter = policy
    with pytest.raises(ValueError, match="LoRA settings"):
        layout.prepare(base, LAYOUTS[0], adapter=adapter)
