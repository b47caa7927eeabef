"""Drawing: the distribution, the corners, and numbers that belong to a row and not to its batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cicjax.sampling import draw


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from([0.0, 0.25, 1.0, 2.0, 8.0]), min_size=1, max_size=300), st.floats(0, 0.9999))
def test_the_index_is_where_the_running_sum_crosses(weights, uniform):
    array = np.asarray(weights, np.float32)
    if array.sum() == 0:
        array[0] = 1.0
    index = int(draw.pick(jnp.log(array[:, None]), jnp.asarray([uniform], jnp.float32))[0][0])
    assert array[index] > 0
    threshold = np.float32(uniform) * array.sum()
    before, after = array[:index].sum(), array[: index + 1].sum()
    assert before <= threshold * (1 + 1e-5) and threshold <= after * (1 + 1e-5)


def test_an_index_of_weight_zero_is_never_drawn():
    scores = jnp.full((1000, 4), -jnp.inf).at[700].set(0.0).at[701].set(-69.0)
    tokens = draw.pick(scores, jnp.asarray([0.0, 0.5, 0.999999, 1.0]))[0].tolist()
    assert tokens[:3] == [700] * 3 and tokens[3] in (700, 701)


def test_frequencies_and_logprobs_are_those_of_the_softmax():
    scores = jnp.asarray([0.0, 1.0, 2.0, -jnp.inf])
    count = 4000
    keys = draw.row_keys(0, "frequencies", range(count), [0] * count)
    for temperature in (1.0, 0.5):
        tokens, logprobs = draw.choose(
            jnp.tile(scores[:, None], count), jnp.asarray(keys), jnp.int32(3), temperature
        )
        expected = np.asarray(jax.nn.softmax(scores / temperature))
        shares = np.bincount(tokens, minlength=4) / count
        assert np.abs(shares - expected).max() < 4 * 0.5 / np.sqrt(count)
        np.testing.assert_allclose(np.exp(logprobs), expected[np.asarray(tokens)], rtol=1e-5)


def test_greedy_takes_the_top_and_reports_temperature_one():
    scores = jnp.asarray([0.0, 3.0, 3.0, 1.0])
    tokens, logprobs = draw.choose(scores[:, None], jnp.zeros((1, 2), jnp.uint32), jnp.int32(0), 0.0)
    assert tokens.tolist() == [1]
    np.testing.assert_allclose(logprobs[0], jax.nn.log_softmax(scores)[1], rtol=1e-6)


def test_a_rows_numbers_depend_on_seed_stage_problem_sample_and_step_alone():
    alone = draw.row_keys(7, "stream", [3], [5])
    among = draw.row_keys(7, "stream", [9, 3, 3], [5, 4, 5])
    np.testing.assert_array_equal(alone[0], among[2])
    facts = ((8, "stream", [3], [5]), (7, "grpo", [3], [5]), (7, "stream", [4], [5]), (7, "stream", [3], [6]))
    others = [draw.row_keys(*each) for each in facts]
    numbers = {
        float(draw.uniforms(jnp.asarray(keys), jnp.int32(step))[0])
        for keys in [alone, *others]
        for step in (0, 1)
    }
    assert len(numbers) == 10


@pytest.mark.parametrize("size", [1, 127, 128, 129, 151_936])
def test_any_vocabulary_size(size):
    tokens, logprobs = draw.pick(jnp.zeros((size, 1)), jnp.asarray([0.999999]))
    assert int(0.99 * size) - 1 <= int(tokens[0]) < size
    np.testing.assert_allclose(logprobs, -np.log(size), rtol=1e-5, atol=1e-6)
    assert draw.pick(jnp.zeros((size, 1)), None)[0].tolist() == [0]


def test_the_largest_uniform_number_does_not_fall_through_to_the_tail():
    """However the sums of the blocks round, a last block of next to no weight is not drawn in the place of
    the one before."""
    scores = jax.random.normal(jax.random.key(9), (200 * 128 + 128, 64)) * 3
    scores = scores.at[-128:].set(-60.0)
    tokens, _ = draw.pick(scores, jnp.full(64, 1 - 2.0**-23))
    assert (tokens < 200 * 128).all()
