"""An update as one program, and shapes by the kind of device."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from toy_policy import random_policy

from cicjax.devices import kind
from cicjax.model import layout
from cicjax.provenance import Encoded, weights
from cicjax.provenance.protocol import Weighting
from cicjax.training import batches, scoring, steps
from cicjax.training.batches import Shape, make_row, pack, shape_for
from cicjax.training.loop import one_update

WHOLE = replace(kind.ANY, one_program=True)


def encoded(length, seed=0):
    rng = np.random.default_rng([seed, length])
    facts = np.full(length, -1, np.int8), np.ones(length, np.int8)
    return Encoded(
        rng.integers(3, 300, length).astype(np.int32),
        np.zeros(length, np.int8),
        np.ones(length, bool),
        *facts,
    )


def row(length, seed=0):
    return make_row(encoded(length, seed), Weighting(weights.OBSERVATIONAL))


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return random_policy(tmp_path_factory.mktemp("policy"), seed=8)


def after(policy, device, updates, shape):
    """(state, metrics of each update) after these updates."""
    model, base, adapter = policy
    optimization = steps.Optimization()
    state, metrics = steps.start_state(adapter, optimization), []
    base = layout.prepare(base, device.training)
    for index, units in enumerate(updates):
        state, dispatched = one_update(
            state,
            units,
            index=index,
            rate=1e-3,
            model=model._replace(kind=device),
            base=base,
            shape=shape,
            optimization=optimization,
            loss=steps.Likelihood(weights.OBSERVATIONAL),
        )
        metrics.append(dispatched.read(None))
    return state, metrics


def test_one_program_does_what_one_a_micro_batch_does(policy):
    """With one, two and three micro-batches, and with none."""
    updates = [[row(100 + n, n) for n in range(count)] for count in (1, 2, 3, 0, 3)]
    (many, told), (whole, also) = (
        after(policy, device, updates, Shape(1, 192, fixed=device.one_program))
        for device in (kind.ANY, WHOLE)
    )
    for one, other in zip(*map(jax.tree.leaves, (many, whole)), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    for one, other in zip(told, also, strict=True):
        assert (one.applied, one.tokens_processed) == (other.applied, other.tokens_processed)
        np.testing.assert_allclose((one.loss, one.grad_norm), (other.loss, other.grad_norm), rtol=1e-5)
    assert [each.applied for each in told] == [True, True, True, False, True]


def test_a_stage_is_two_programs_at_most(policy):
    before = steps.whole_update._cache_size()
    updates = [[row(60 + 7 * n + index, n) for n in range(3)] for index in range(4)]
    shape = shape_for(WHOLE, [each for update in updates for each in update], updates)
    after(policy, WHOLE, updates, shape)
    assert steps.whole_update._cache_size() - before <= 2
    assert {batch.tokens.shape for update in updates for batch in pack(update, shape)} == {(1, 512)}


def test_shapes_by_the_table():
    eight = [row(150) for _ in range(8)]
    assert shape_for(kind.CPU, eight) == Shape(1, 512)
    assert shape_for(kind.CPU, eight, filled=320) == Shape(1, 320)
    assert shape_for(kind.V5E, eight, [eight]) == Shape(3, 512, fixed=True)
    assert shape_for(kind.V5E, eight) == Shape(8, 512, fixed=True)
    long = [row(3000)]
    assert shape_for(kind.V5E, long) == Shape(1, 3072, fixed=True)
    assert shape_for(kind.H100, long) == Shape(5, 3072, fixed=True, alone=True)
    assert shape_for(kind.H100, [tuple(long)]).alone is False


def test_rows_alone_on_their_lines_score_and_train_as_packed_ones(policy):
    model, base, adapter = policy
    model = model._replace(kind=replace(kind.ANY, dense_keys=64, block=64))
    rows = [encoded(length) for length in (150, 90, 30)]
    alone, packed = (
        scoring.token_logprobs(rows, model=model, base=base, adapter=adapter, shape=shape)
        for shape in (Shape(2, 192, fixed=True, alone=True), Shape(1, 320))
    )
    for one, other in zip(alone, packed, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)
    (batch, second) = pack([row(150), row(90), row(30)], Shape(2, 192, fixed=True, alone=True))
    assert batch.segments is None and batch.tokens.shape == second.tokens.shape == (2, 192)


def test_stacked_micro_batches_are_a_power_of_two():
    made = pack([row(150, n) for n in range(3)], Shape(1, 192, fixed=True))
    assert batches.stack(made).tokens.shape == (4, 1, 192)
    assert batches.stack(made[:1]).tokens.shape == (1, 1, 192)
