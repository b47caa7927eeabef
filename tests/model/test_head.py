"""The gathered head has the contract of `likelihood.token_logprobs`, values and gradients, and stays within
its chunk."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cicjax.model import head
from cicjax.objectives import likelihood

KEY = jax.random.key(0)
STATES = jax.random.normal(KEY, (2, 11, 8))
EMBEDDING = jax.random.normal(jax.random.fold_in(KEY, 1), (50, 8))
TOKENS = jax.random.randint(jax.random.fold_in(KEY, 2), (2, 11), 0, 50)
INDICES = jnp.asarray([[1, 4, 10, 0], [2, 3, 9, 0]])


def gathered(states, *, used=3, chunk=4, embedding=EMBEDDING, unembedding=None):
    targets = jnp.take_along_axis(TOKENS, INDICES, axis=1)
    return head.target_logprobs(
        head.gather_positions(states, INDICES), embedding, targets, jnp.int32(used), chunk, unembedding
    )


def full(states):
    logprobs = likelihood.token_logprobs(states @ EMBEDDING.T, TOKENS)
    return jnp.take_along_axis(logprobs, INDICES, axis=1).at[:, 3].set(0.0)


@pytest.mark.parametrize("unembedding", [None, EMBEDDING.T])
@pytest.mark.parametrize("chunk", [1, 2, 4, 6, 128])
def test_values_and_gradients_equal_the_full_head(chunk, unembedding):
    np.testing.assert_allclose(
        gathered(STATES, chunk=chunk, unembedding=unembedding), full(STATES), atol=1e-5
    )
    weights = jnp.asarray([[1.0, -2.0, 0.5, 7.0], [0.0, 3.0, 1.0, 7.0]])
    ours = jax.grad(lambda states: (gathered(states, chunk=chunk, unembedding=unembedding) * weights).sum())(
        STATES
    )
    np.testing.assert_allclose(
        ours, jax.grad(lambda states: (full(states) * weights).sum())(STATES), atol=1e-5
    )


@pytest.mark.parametrize("used", range(5))
@pytest.mark.parametrize("chunk", [1, 2, 3, 4, 8])
def test_any_number_of_used_columns_is_projected_and_the_rest_is_zero(used, chunk):
    live = jnp.arange(4)[None] < used
    indices = jnp.asarray([[1, 4, 10, 5], [2, 3, 9, 6]])
    targets = jnp.take_along_axis(TOKENS, indices, axis=1)

    def ours(states):
        return head.target_logprobs(
            head.gather_positions(states, indices), EMBEDDING, targets, jnp.int32(used), chunk
        )

    def plain(states):
        logprobs = likelihood.token_logprobs(states @ EMBEDDING.T, TOKENS)
        return jnp.where(live, jnp.take_along_axis(logprobs, indices, axis=1), 0.0)

    np.testing.assert_allclose(ours(STATES), plain(STATES), atol=1e-5)
    (mine, theirs) = (jax.grad(lambda states, f=f: (f(states) ** 2).sum())(STATES) for f in (ours, plain))
    np.testing.assert_allclose(mine, theirs, atol=1e-4)


def test_columns_beyond_those_used_are_zero_in_value_and_gradient():
    values = gathered(STATES, used=1)
    assert (values[:, 1:] == 0).all() and (values[:, 0] != 0).all()
    gradient = jax.grad(lambda states: gathered(states, used=1).sum())(STATES)
    # the states before positions 1 and 2
    assert sorted(set(np.nonzero(np.asarray(gradient))[1].tolist())) == [0, 1]


def test_it_is_for_a_frozen_head_only():
    gradient = jax.grad(lambda embedding: gathered(STATES, embedding=embedding).sum())(EMBEDDING)
    assert not gradient.any()
