"""The gathered head has the contract of `likelihood.token_logprobs`, values and gradients, and stays within
its chunk."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cicjax.model import head
from cicjax.model.ops import Kernel
from cicjax.objectives import likelihood

KEY = jax.random.key(0)
STATES = jax.random.normal(KEY, (2, 11, 8))
EMBEDDING = jax.random.normal(jax.random.fold_in(KEY, 1), (50, 8))
TOKENS = jax.random.randint(jax.random.fold_in(KEY, 2), (2, 11), 0, 50)
INDICES = jnp.asarray([[1, 4, 10, 0], [2, 3, 9, 0]])


TABLE = {"embed_tokens": {"embedding": EMBEDDING}}
BOTH = {"embed_tokens": {"embedding": Kernel(EMBEDDING.T, EMBEDDING)}}
UNTIED = {"embed_tokens": {"embedding": EMBEDDING * jnp.nan}, "lm_head": {"embedding": EMBEDDING}}


def gathered(states, *, base=TABLE, indices=INDICES, used=3, chunk=4):
    targets = jnp.take_along_axis(TOKENS, indices, axis=1)
    return head.logprobs(base, head.gather_positions(states, indices), targets, jnp.int32(used), chunk)


def full(states):
    logprobs = likelihood.token_logprobs(states @ EMBEDDING.T, TOKENS)
    return jnp.take_along_axis(logprobs, INDICES, axis=1).at[:, 3].set(0.0)


@pytest.mark.parametrize("base", [TABLE, BOTH, UNTIED], ids=["table", "both", "untied"])
@pytest.mark.parametrize("chunk", [1, 2, 4, 6, 128])
def test_values_and_gradients_equal_the_full_head(chunk, base):
    np.testing.assert_allclose(gathered(STATES, chunk=chunk, base=base), full(STATES), atol=1e-5)
    weights = jnp.asarray([[1.0, -2.0, 0.5, 7.0], [0.0, 3.0, 1.0, 7.0]])
    ours = jax.grad(lambda states: (gathered(states, chunk=chunk, base=base) * weights).sum())(STATES)
    np.testing.assert_allclose(
        ours, jax.grad(lambda states: (full(states) * weights).sum())(STATES), atol=1e-5
    )


@pytest.mark.parametrize("used", range(5))
@pytest.mark.parametrize("chunk", [1, 2, 3, 4, 8])
def test_any_number_of_used_columns_is_projected_and_the_rest_is_zero(used, chunk):
    live = jnp.arange(4)[None] < used
    indices = jnp.asarray([[1, 4, 10, 5], [2, 3, 9, 6]])

    def ours(states):
        return gathered(states, indices=indices, used=used, chunk=chunk)

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


@pytest.mark.parametrize("base", [TABLE, BOTH], ids=["table", "both"])
def test_it_is_for_a_frozen_head_only(base):
    gradient = jax.grad(lambda base: gathered(STATES, base=base).sum())(base)
    assert not any(leaf.any() for leaf in jax.tree.leaves(gradient))


def test_scores_of_the_next_token_are_those_of_all_logits():
    for base in (TABLE, BOTH, UNTIED):
        np.testing.assert_allclose(head.logits(base, STATES), STATES @ EMBEDDING.T, atol=1e-5)
        np.testing.assert_allclose(
            head.next_scores(base, STATES[:, 3]), EMBEDDING @ STATES[:, 3].T, atol=1e-5
        )
