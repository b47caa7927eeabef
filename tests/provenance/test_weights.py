"""Every weighting against its equation, position by position."""

import itertools

import numpy as np
import pytest

from cicjax.provenance import weights

# Every (gamma, is_target, solved) there is.
GRID = list(itertools.product((0, 1), (False, True), (-1, 0, 1)))
GAMMA = np.array([g for g, _, _ in GRID], np.int8)
IS_TARGET = np.array([t for _, t, _ in GRID], bool)
SOLVED = np.array([s for _, _, s in GRID], np.int8)


def test_named_weightings_as_literal_rows():
    #         world: no target x3, target x3 | agent: no target x3, target x3
    expected_observational = [0, 0, 0, 1, 1, 1, 0, 0, 0, 1, 1, 1]
    expected_interventional = [0, 0, 0, 1, 1, 1, 0, 0, 0, 0, 0, 0]
    expected_policy = [0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1]
    assert weights.observational(GAMMA, IS_TARGET).tolist() == expected_observational
    assert weights.interventional(GAMMA, IS_TARGET).tolist() == expected_interventional
    assert weights.policy(GAMMA, IS_TARGET).tolist() == expected_policy


@pytest.mark.parametrize("one", GRID)
def test_stream_corners_equal_the_named_functions_for_every_combination(one):
    gamma, is_target, solved = (np.array([value]) for value in one)
    assert weights.stream(gamma, is_target, solved) == weights.interventional(gamma, is_target)
    assert weights.stream(gamma, is_target, solved, 0.0, 0.0) == weights.interventional(gamma, is_target)
    assert weights.stream(gamma, is_target, solved, 1.0, 1.0) == weights.observational(gamma, is_target)


def test_stream_masks_wrong_attempts_only_at_zero_one():
    #                                                                    solved = -1, 0, 1
    assert weights.stream(GAMMA, IS_TARGET, SOLVED, wrong=0.0, correct=1.0).tolist() == [
        0,
        0,
        0,
        1,
        1,
        1,
        0,
        0,
        0,
        0,
        0,
        1,
    ]
    assert weights.stream(GAMMA, IS_TARGET, SOLVED, wrong=1.0, correct=0.0).tolist() == [
        0,
        0,
        0,
        1,
        1,
        1,
        0,
        0,
        0,
        0,
        1,
        0,
    ]


def test_stream_doses_and_takes_the_smaller_where_nobody_judged():
    dosed = weights.stream(GAMMA, IS_TARGET, SOLVED, wrong=0.3, correct=0.1)
    expected = np.array([0, 0, 0, 1, 1, 1, 0, 0, 0, 0.1, 0.3, 0.1], np.float32)
    np.testing.assert_array_equal(dosed, expected)


def test_the_two_streams_and_the_policy_add_up():
    whole = weights.interventional(GAMMA, IS_TARGET) + weights.policy(GAMMA, IS_TARGET)
    np.testing.assert_array_equal(whole, weights.observational(GAMMA, IS_TARGET))


def test_gamma_zero_everywhere_makes_the_streams_equal():
    nobody = np.zeros_like(GAMMA)
    np.testing.assert_array_equal(
        weights.interventional(nobody, IS_TARGET), weights.observational(nobody, IS_TARGET)
    )


@pytest.mark.parametrize("shape", [(12,), (3, 4), (2, 3, 2)])
def test_float32_of_the_same_shape(shape):
    gamma, is_target, solved = (a.reshape(shape) for a in (GAMMA, IS_TARGET, SOLVED))
    wrong = np.float64(0.1)  # a double, as a sweep would hand it over, must not widen the result
    for row in (
        weights.observational(gamma, is_target),
        weights.interventional(gamma, is_target),
        weights.policy(gamma, is_target),
        weights.stream(gamma, is_target, solved, wrong, 0.2),
    ):
        assert row.dtype == np.float32
        assert row.shape == shape


def test_lists_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="aligned"):
        weights.interventional([0, 1], [True])
    with pytest.raises(ValueError, match="aligned"):
        weights.stream([0, 1], [True, True], [-1])


def test_inputs_are_left_alone():
    before = GAMMA.copy(), IS_TARGET.copy()
    weights.observational(GAMMA, IS_TARGET)[:] = 7
    np.testing.assert_array_equal(GAMMA, before[0])
    np.testing.assert_array_equal(IS_TARGET, before[1])


def test_jax_arrays_give_the_same_inside_jit():
    jax = pytest.importorskip("jax")
    arrays = [jax.numpy.asarray(a) for a in (GAMMA, IS_TARGET, SOLVED)]
    traced = jax.jit(lambda *a: weights.stream(*a, wrong=0.3, correct=0.1))(*arrays)
    assert isinstance(traced, jax.Array)
    assert traced.dtype == np.float32
    np.testing.assert_array_equal(traced, weights.stream(GAMMA, IS_TARGET, SOLVED, 0.3, 0.1))
    assert isinstance(weights.interventional(*arrays[:2]), jax.Array)


def test_the_named_rules_are_the_corners():
    assert weights.INTERVENTIONAL == (0.0, 0.0, 0.0, 1.0)
    assert weights.OBSERVATIONAL == (1.0, 1.0, 1.0, 1.0)
    assert weights.POLICY == (1.0, 1.0, 1.0, 0.0)
