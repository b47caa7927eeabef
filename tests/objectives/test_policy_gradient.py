"""Equations (10)-(11) by hand-computed numbers, by gradients, and against the exact divergence on a tiny
vocabulary."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cicjax.objectives.policy_gradient import clipped_surrogate, group_advantages, kl

ONE = np.ones((1, 1))


def test_advantages_by_hand():
    """Three of eight pass: mean 3/8, population variance 15/64, and 1e-6 inside the root."""
    found = group_advantages(np.array([[1, 1, 1, 0, 0, 0, 0, 0]]))
    scale = np.sqrt(15 / 64 + 1e-6)
    np.testing.assert_allclose(found, [[0.625 / scale] * 3 + [-0.375 / scale] * 5], rtol=1e-6)


def test_advantages_use_the_population_deviation():
    found = np.asarray(group_advantages(np.array([[1.0, 0.0]])))
    np.testing.assert_allclose(found, [[1.0, -1.0]], rtol=1e-5)


def test_small_constant_stands_inside_the_root():
    # Rewards 0 and 2e-3: the deviation 1e-3 has the variance 1e-6, so the root is sqrt(2e-6). Outside it
    # would be near 1e-3.
    np.testing.assert_allclose(
        group_advantages(np.array([[2e-3, 0.0]])), [[np.sqrt(0.5), -np.sqrt(0.5)]], rtol=1e-4
    )


@pytest.mark.parametrize("reward", [0.0, 1.0, 0.1, 1e6])
def test_flat_group_gives_exact_zeros(reward):
    rewards = np.array([[reward] * 7, [0, 1, 0, 1, 0, 1, 1]])
    found = group_advantages(rewards)
    assert np.array_equal(found[0], np.zeros(7)) and (np.asarray(found[1]) != 0).all()


def test_groups_do_not_see_each_other():
    rewards = np.array([[0, 1, 1], [5, 5, 9.0]])
    together = group_advantages(rewards)
    np.testing.assert_array_equal(
        together, np.vstack([group_advantages(rewards[:1]), group_advantages(rewards[1:])])
    )
    np.testing.assert_allclose(together.sum(axis=1), 0, atol=1e-5)


def test_advantages_refuse_a_flat_list():
    with pytest.raises(ValueError, match=r"\(P, G\)"):
        group_advantages(np.zeros(8))


def test_surrogate_by_hand():
    # Ratios 2, 0.5, 1.1 and 1 with advantage 1 in row 0 and -1 in row 1, clipped to 0.8 .. 1.2.
    ratio = np.array([[2.0, 0.5, 1.1, 1.0], [2.0, 0.5, 1.1, 1.0]])
    total, weight = clipped_surrogate(
        np.log(ratio), np.zeros((2, 4)), np.array([1.0, -1.0]), np.ones((2, 4)), 0.2
    )
    np.testing.assert_allclose(total, -((1.2 + 0.5 + 1.1 + 1.0) + (-2.0 - 0.8 - 1.1 - 1.0)), rtol=1e-6)
    assert float(weight) == 8


@pytest.mark.parametrize(
    ("ratio", "advantage", "clipped"),
    [
        (2.0, 1.0, True),
        (0.5, 1.0, False),
        (2.0, -1.0, False),
        (0.5, -1.0, True),
        (1.1, 1.0, False),
        (0.9, -1.0, False),
        (1.0, 3.0, False),
    ],
)
def test_gradient_is_zero_exactly_where_clipped(ratio, advantage, clipped):
    gradient = jax.grad(
        lambda policy: clipped_surrogate(policy, 0 * ONE, np.array([advantage]), ONE, 0.2)[0]
    )(jnp.log(ratio) * ONE)
    np.testing.assert_allclose(gradient, [[0.0 if clipped else -ratio * advantage]], rtol=1e-6)
    assert (float(gradient[0, 0]) == 0.0) is clipped


def test_at_ratio_one_the_gradient_is_the_policy_gradient():
    logprobs, advantages, loss_weights = (
        -np.random.default_rng(1).random((3, 4)),
        np.array([1.0, -2.0, 0.5]),
        np.arange(12.0).reshape(3, 4),
    )
    gradient = jax.grad(lambda policy: clipped_surrogate(policy, logprobs, advantages, loss_weights, 0.2)[0])(
        jnp.asarray(logprobs)
    )
    np.testing.assert_allclose(gradient, -advantages[:, None] * loss_weights, rtol=1e-6)


def test_no_gradient_through_old_policy_and_advantages():
    policy, old, advantages = jnp.zeros((2, 3)), jnp.full((2, 3), 0.05), jnp.array([1.0, -1.0])
    gradients = jax.grad(
        lambda *args: clipped_surrogate(policy, *args, jnp.ones((2, 3)), 0.2)[0], argnums=(0, 1)
    )
    to_old, to_advantages = gradients(old, advantages)
    assert not np.asarray(to_old).any() and not np.asarray(to_advantages).any()


@pytest.mark.parametrize("hidden", [np.nan, np.inf, -np.inf, 1e4])
def test_weight_zero_hides_any_value_forwards_and_backwards(hidden):
    policy, old = (
        jnp.array([[hidden, -1.0, hidden], [hidden, hidden, hidden]]),
        jnp.array([[hidden, -1.0, -2.0], [-1.0, hidden, 0.0]]),
    )
    loss_weights, advantages = jnp.array([[0, 1, 0], [0, 0, 0]]), jnp.array([2.0, np.nan])
    (total, weight), pull = jax.vjp(
        lambda policy: clipped_surrogate(policy, old, advantages, loss_weights, 0.2), policy
    )
    assert (float(total), float(weight)) == (-2.0, 1.0)
    assert np.array_equal(pull((jnp.float32(1), jnp.float32(0)))[0], [[0, -2, 0], [0, 0, 0]])


@pytest.mark.parametrize("advantages", [np.zeros((2, 1)), np.zeros(3), np.zeros((1,))])
def test_surrogate_refuses_advantages_that_are_not_one_a_completion(advantages):
    with pytest.raises(ValueError, match="one a completion"):
        clipped_surrogate(np.zeros((2, 3)), np.zeros((2, 3)), advantages, np.zeros((2, 3)), 0.2)


POLICY_LOGITS = jnp.array([0.3, -1.2, 0.8, 0.1])
REFERENCE = jax.nn.log_softmax(jnp.array([-0.5, 0.4, 0.2, 1.0]))


def exact_kl(logits, *, reverse=False):
    policy = jax.nn.log_softmax(logits)
    first, second = (REFERENCE, policy) if reverse else (policy, REFERENCE)
    return (jnp.exp(first) * (first - second)).sum()


def expected_estimate(logits, estimator):
    """Mean of the estimate over all tokens of the vocabulary, drawn from the policy."""
    policy = jax.nn.log_softmax(logits)
    return (jnp.exp(policy)[None] * kl(policy[None], REFERENCE[None], estimator)).sum()


def expected_gradient(estimator):
    """Mean over sampled tokens of the gradient of the estimate as a loss: the sampling itself is not
    differentiated."""
    share = jax.lax.stop_gradient(jax.nn.softmax(POLICY_LOGITS))
    return jax.grad(
        lambda logits: (share[None] * kl(jax.nn.log_softmax(logits)[None], REFERENCE[None], estimator)).sum()
    )(POLICY_LOGITS)


@pytest.mark.parametrize("estimator", ["k1", "k3"])
def test_estimators_have_the_exact_divergence_as_their_mean(estimator):
    np.testing.assert_allclose(
        expected_estimate(POLICY_LOGITS, estimator), exact_kl(POLICY_LOGITS), rtol=1e-5
    )


def test_k1_as_a_loss_pulls_nowhere():
    np.testing.assert_allclose(expected_gradient("k1"), np.zeros(4), atol=1e-7)
    assert np.abs(jax.grad(exact_kl)(POLICY_LOGITS)).max() > 0.1


def test_k2_as_a_loss_has_the_gradient_of_the_divergence():
    np.testing.assert_allclose(expected_gradient("k2"), jax.grad(exact_kl)(POLICY_LOGITS), atol=1e-6)


def test_k3_as_a_loss_has_the_gradient_of_the_reverse_divergence():
    np.testing.assert_allclose(
        expected_gradient("k3"),
        jax.grad(lambda logits: exact_kl(logits, reverse=True))(POLICY_LOGITS),
        atol=1e-6,
    )
    assert np.abs(expected_gradient("k3")).max() > 0.1


def test_k3_by_hand_and_by_default():
    policy, ref = np.array([[-1.0, -2.0]]), np.array([[-1.5, -1.0]])
    expected = [[np.exp(-0.5) + 0.5 - 1, np.exp(1.0) - 1.0 - 1]]
    np.testing.assert_allclose(kl(policy, ref), expected, rtol=1e-5)
    np.testing.assert_array_equal(kl(policy, ref), kl(policy, ref, estimator="k3"))


def test_k3_is_never_negative_and_zero_only_for_equal_policies():
    ref = -np.random.default_rng(2).random((4, 50))
    policy = ref + np.linspace(-1e-3, 1e-3, 50)
    found = np.asarray(kl(policy, ref))
    assert (found > 0).all() and np.array_equal(kl(ref, ref), np.zeros((4, 50)))


def test_no_gradient_through_the_reference():
    assert not np.asarray(jax.grad(lambda ref: kl(jnp.zeros((1, 3)), ref).sum())(jnp.ones((1, 3)))).any()


def test_kl_refuses_an_unknown_estimator():
    with pytest.raises(ValueError, match="k1, k2, k3"):
        kl(ONE, ONE, "k4")


def test_jit_agrees():
    rng = np.random.default_rng(3)
    policy, old, advantages, loss_weights = (
        -rng.random((3, 4)),
        -rng.random((3, 4)),
        rng.normal(size=3),
        rng.random((3, 4)),
    )
    jitted = jax.jit(clipped_surrogate, static_argnums=4)(
        *map(jnp.asarray, (policy, old, advantages, loss_weights)), 0.2
    )
    np.testing.assert_allclose(
        clipped_surrogate(policy, old, advantages, loss_weights, 0.2), jitted, rtol=1e-6
    )
    np.testing.assert_allclose(jax.jit(kl)(policy, old), kl(policy, old), rtol=1e-6)
