"""Dropout of an adapter's inputs: what it is, what settles it, and that it is of training alone."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_policy import random_policy

from cicjax.devices import kind
from cicjax.model import layout, qwen2
from cicjax.model.lora import Dropout
from cicjax.provenance import Encoded
from cicjax.provenance.protocol import weighting
from cicjax.training import steps
from cicjax.training.batches import Shape, make_row, pack
from cicjax.training.loop import with_dropout

KEYS = np.arange(4, dtype=np.uint32).reshape(2, 2)


def dropout(share):
    return Dropout(np.full(2, share, np.float32), KEYS)


def test_a_share_of_the_entries_is_left_out_and_the_mean_is_kept():
    x = jnp.ones((2, 50, 40))
    seen = np.asarray(dropout(0.25)(x))
    assert set(np.unique(seen)) == {0, np.float32(1 / 0.75)}
    assert abs((seen == 0).mean() - 0.25) < 0.03
    assert (seen[0] != seen[1]).any()
    np.testing.assert_array_equal(seen, dropout(0.25)(x))
    assert (seen != np.asarray(dropout(0.25).of(1)(x))).any()
    assert dropout(0.5)(x.astype(jnp.bfloat16)).dtype == jnp.bfloat16


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return random_policy(tmp_path_factory.mktemp("small"), seed=5)


TOKENS = jnp.arange(24).reshape(2, 12)


def gradient(small, device, share, *, activations=None):
    model, base, adapter = small
    model = model._replace(kind=device if activations is None else replace(device, activations=activations))
    base, positions = layout.prepare(base, device.training), jnp.broadcast_to(jnp.arange(12), (2, 12))

    @jax.jit
    def loss(adapter, dropout):
        return (qwen2.hidden(model, base, adapter, TOKENS, positions, None, dropout) ** 2).mean()

    return jax.grad(loss)(adapter, None if share is None else dropout(share))


def assert_close(one, other):
    for a, b in zip(*map(jax.tree.leaves, (one, other)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5, rtol=1e-3)


def test_every_layout_leaves_out_the_same_and_layers_that_run_twice_too(small):
    expected = gradient(small, kind.ANY, 0.5)
    for device, activations in ((kind.ANY, 0), (kind.CPU, None), (kind.CPU, 0)):
        assert_close(gradient(small, device, 0.5, activations=activations), expected)
    plain = gradient(small, kind.ANY, None)
    assert_close(gradient(small, kind.ANY, 0.0), plain)
    with pytest.raises(AssertionError):
        assert_close(plain, expected)


def test_the_bare_base_sees_everything(small):
    model, base, adapter = small
    positions = jnp.broadcast_to(jnp.arange(12), (2, 12))
    idle = jax.tree.map_with_path(lambda path, x: x * ("lora_b" not in str(path)), adapter)
    for factors in (None, idle):
        plain, dropped = (
            qwen2.hidden(model, base, factors, TOKENS, positions, None, each) for each in (None, dropout(0.5))
        )
        np.testing.assert_array_equal(plain, dropped)


@pytest.fixture(scope="module")
def batches():
    tokens, zeros = np.arange(1, 41, dtype=np.int32), np.zeros(40, np.int8)
    row = make_row(Encoded(tokens, zeros, zeros == 0, zeros - 1, zeros + 2), weighting("interventional"))
    return pack([row] * 3, Shape(1, 64))


def test_an_update_leaves_out_by_seed_and_number(batches):
    first, again, later, other = (
        with_dropout(batches, 0.1, seed=seed, index=index) for seed, index in ((0, 0), (0, 0), (0, 1), (1, 0))
    )
    keys = [[batch.dropout.keys.tolist() for batch in each] for each in (first, again, later, other)]
    assert keys[0] == keys[1] and len({str(key) for each in keys for key in each}) == 3 * len(batches)
    assert all(batch.dropout is None for batch in batches)


def test_without_dropout_the_program_draws_nothing(small, batches):
    model, base, adapter = small
    loss, batch = steps.Likelihood(), batches[0]

    def program(batch):
        return steps.accumulate.lower(loss, model, base, adapter, steps.zero_sums(adapter), batch).as_text()

    assert "threefry" not in program(batch)
    assert "threefry" in program(with_dropout([batch], 0.1, seed=0, index=0)[0])
