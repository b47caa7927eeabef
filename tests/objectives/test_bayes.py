"""Section 1.1 against enumeration of whole histories, and the lemma of section 1.3 on random finite
joints."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cicjax.objectives import bayes

SEEDS = st.integers(0, 2**32 - 1)


def simplex(rng, *shape, zeros=0.0):
    """Random distributions over the last axis, with about a share of `zeros` cells of probability 0 and never
    all of them."""
    mass = rng.exponential(size=shape) * (rng.random(shape) >= zeros)
    mass[..., 0] += (mass.sum(axis=-1) == 0) * 1.0
    return mass / mass.sum(axis=-1, keepdims=True)


@given(SEEDS, st.integers(1, 4), st.integers(2, 4), st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_posterior_against_enumeration(seed, programs, alphabet, length):
    rng = np.random.default_rng(seed)
    prior, likelihood = simplex(rng, programs), simplex(rng, programs, alphabet)
    symbols, gamma = rng.integers(0, alphabet, length), rng.integers(0, 2, length)
    found = bayes.posterior(prior, likelihood, symbols, gamma)
    assert found.shape == (length + 1, programs) and found.dtype == np.float64
    for t in range(length + 1):
        evidence = [symbol for symbol, agent in zip(symbols[:t], gamma[:t], strict=True) if not agent]
        joint = prior * np.prod([likelihood[:, symbol] for symbol in evidence], axis=0)
        np.testing.assert_allclose(found[t], joint / joint.sum(), rtol=1e-12)


def test_an_action_moves_nothing_and_an_observation_does():
    """Two programs that write 0 with 0.9 and 0.1; the same symbols as actions and as observations."""
    likelihood = np.array([[0.9, 0.1], [0.1, 0.9]])
    as_actions = bayes.posterior([0.5, 0.5], likelihood, [0, 0], [1, 1])
    assert np.array_equal(as_actions, np.full((3, 2), 0.5))
    np.testing.assert_allclose(
        bayes.posterior([0.5, 0.5], likelihood, [0, 0], [0, 0]), [[0.5, 0.5], [0.9, 0.1], [81 / 82, 1 / 82]]
    )
    np.testing.assert_allclose(
        bayes.posterior([0.5, 0.5], likelihood, [0, 1], [1, 0]), [[0.5, 0.5], [0.5, 0.5], [0.1, 0.9]]
    )


def test_observing_oneself_is_self_confirmation():
    """Own symbols, taken as evidence, make the agent ever surer of what it happened to do; as actions they do
    not."""
    likelihood, symbols = np.array([[0.6, 0.4], [0.4, 0.6]]), np.zeros(50, int)
    deluded = bayes.posterior([0.5, 0.5], likelihood, symbols, np.zeros(50, int))[-1]
    assert deluded[0] > 0.999999
    assert bayes.predictive(deluded, likelihood)[0] == pytest.approx(0.6, abs=1e-6)
    assert bayes.predictive([0.5, 0.5], likelihood)[0] == 0.5


@given(SEEDS)
@settings(max_examples=30, deadline=None)
def test_predictive_is_the_mean_over_programs(seed):
    rng = np.random.default_rng(seed)
    belief, likelihood = simplex(rng, 3), simplex(rng, 3, 5)
    found = bayes.predictive(belief, likelihood)
    np.testing.assert_allclose(
        found, [sum(belief[p] * likelihood[p, a] for p in range(3)) for a in range(5)], rtol=1e-12
    )
    assert found.sum() == pytest.approx(1)


@given(SEEDS, st.booleans())
@settings(max_examples=60, deadline=None)
def test_after_and_outcome_against_enumeration_of_the_joint(seed, intervened):
    """Enumerate P(p, a, o), with the action's mechanism replaced by a point mass for do(a), and condition by
    counting cells."""
    rng = np.random.default_rng(seed)
    prior, actions, outcomes = simplex(rng, 3), simplex(rng, 3, 2), simplex(rng, 3, 2, 4)
    for imposed in range(2):
        joint = np.zeros((3, 2, 4))
        for p, a, o in itertools.product(range(3), range(2), range(4)):
            mechanism = float(a == imposed) if intervened else actions[p, a]
            joint[p, a, o] = prior[p] * mechanism * outcomes[p, a, o]
        given_action = joint[:, imposed] / joint[:, imposed].sum()
        np.testing.assert_allclose(
            bayes.outcome(prior, actions, outcomes, imposed, intervened), given_action.sum(axis=0), rtol=1e-12
        )
        for o in range(4):
            expected = joint[:, imposed, o] / joint[:, imposed, o].sum()
            np.testing.assert_allclose(
                bayes.after(prior, actions, outcomes, imposed, o, intervened), expected, rtol=1e-12
            )


BOXES_PRIOR = np.array([0.5, 0.5])
BOXES_EXPERT = np.eye(2)
BOXES_PRIZE = np.stack([[[0, 1], [1, 0]], [[1, 0], [0, 1]]]).astype(float)


def test_two_boxes_see_against_do():
    """The expert opens the box with the prize. Seeing it opened promises the prize; opening it oneself
    promises nothing."""
    for box in range(2):
        np.testing.assert_allclose(
            bayes.outcome(BOXES_PRIOR, BOXES_EXPERT, BOXES_PRIZE, box, intervened=False), [0, 1]
        )
        np.testing.assert_allclose(bayes.outcome(BOXES_PRIOR, BOXES_EXPERT, BOXES_PRIZE, box), [0.5, 0.5])
        # The outcome, once seen, tells where the prize is, whoever opened the box.
        expected = np.eye(2)[box]
        np.testing.assert_allclose(bayes.after(BOXES_PRIOR, BOXES_EXPERT, BOXES_PRIZE, box, 1), expected)
        np.testing.assert_allclose(bayes.after(BOXES_PRIOR, BOXES_EXPERT, BOXES_PRIZE, box, 0), 1 - expected)


def test_two_programs_see_and_do_differ_by_the_actions_likelihood():
    prior, actions = np.array([0.5, 0.5]), np.array([[0.8, 0.2], [0.2, 0.8]])
    outcomes = np.array([[[0.7, 0.3], [0.5, 0.5]], [[0.4, 0.6], [0.5, 0.5]]])
    np.testing.assert_allclose(bayes.after(prior, actions, outcomes, 0, 0), [7 / 11, 4 / 11])
    np.testing.assert_allclose(
        bayes.after(prior, actions, outcomes, 0, 0, intervened=False), [28 / 32, 4 / 32]
    )
    # Action 1 says nothing about the program through its outcome, and everything it says is said by having
    # been chosen.
    np.testing.assert_allclose(bayes.after(prior, actions, outcomes, 1, 0), prior)
    np.testing.assert_allclose(bayes.after(prior, actions, outcomes, 1, 0, intervened=False), [0.2, 0.8])


@given(SEEDS)
@settings(max_examples=30, deadline=None)
def test_do_and_see_agree_when_the_action_depends_on_no_program(seed):
    rng = np.random.default_rng(seed)
    prior, outcomes = simplex(rng, 3), simplex(rng, 3, 2, 4)
    actions = np.repeat(simplex(rng, 1, 2), 3, axis=0)
    np.testing.assert_allclose(
        bayes.outcome(prior, actions, outcomes, 0),
        bayes.outcome(prior, actions, outcomes, 0, False),
        rtol=1e-12,
    )
    np.testing.assert_allclose(
        bayes.after(prior, actions, outcomes, 0, 3),
        bayes.after(prior, actions, outcomes, 0, 3, False),
        rtol=1e-12,
    )


def entropy(mass):
    mass = mass[mass > 0]
    return -(mass * np.log(mass)).sum()


@given(SEEDS, st.integers(1, 4), st.integers(1, 4), st.integers(1, 4), st.sampled_from([0.0, 0.3, 0.8]))
@settings(max_examples=150, deadline=None)
def test_prediction_lemma_on_random_joints(seed, coarse, extra, target, zeros):
    rng = np.random.default_rng(seed)
    joint, values = (
        simplex(rng, coarse * extra * target, zeros=zeros).reshape(coarse, extra, target),
        rng.normal(size=target) * 10,
    )
    found = bayes.prediction_lemma(joint, values)
    assert found.coarse_error == pytest.approx(found.rich_error + found.gap, rel=1e-9, abs=1e-12)
    assert found.gap >= 0 and found.log_loss_gap >= -1e-12
    # H(Y | G) = H(Y, G) - H(G), and the gap is the mutual information of target and extra given coarse.
    conditional = [
        entropy(joint.sum(axis=1)) - entropy(joint.sum(axis=(1, 2))),
        entropy(joint) - entropy(joint.sum(axis=2)),
    ]
    assert found.log_loss_gap == pytest.approx(conditional[0] - conditional[1], abs=1e-9)
    information = (
        entropy(joint.sum(axis=2))
        + entropy(joint.sum(axis=1))
        - entropy(joint)
        - entropy(joint.sum(axis=(1, 2)))
    )
    assert found.log_loss_gap == pytest.approx(information, abs=1e-9)


@given(SEEDS)
@settings(max_examples=50, deadline=None)
def test_lemma_errors_against_enumeration(seed):
    rng = np.random.default_rng(seed)
    joint, values = simplex(rng, 12, zeros=0.3).reshape(2, 3, 2), rng.normal(size=2)
    coarse_error = rich_error = 0.0
    for c, e, y in itertools.product(range(2), range(3), range(2)):
        if joint[c, e, y] == 0:
            continue
        m0 = (joint[c] * values).sum() / joint[c].sum()
        m1 = (joint[c, e] * values).sum() / joint[c, e].sum()
        coarse_error += joint[c, e, y] * (values[y] - m0) ** 2
        rich_error += joint[c, e, y] * (values[y] - m1) ** 2
    found = bayes.prediction_lemma(joint, values)
    assert found[:2] == pytest.approx((coarse_error, rich_error), abs=1e-12)


def test_lemma_by_hand():
    """The extra variable tells the target: a fair coin with values 0 and 2 has error 1, all of it gained; so
    is log 2 in nats."""
    found = bayes.prediction_lemma(np.array([[[0.5, 0.0], [0.0, 0.5]]]), np.array([0.0, 2.0]))
    assert found == pytest.approx((1.0, 0.0, 1.0, np.log(2)))
    assert found._fields == ("coarse_error", "rich_error", "gap", "log_loss_gap")


@given(SEEDS)
@settings(max_examples=30, deadline=None)
def test_extra_variables_that_tell_nothing_gain_nothing(seed):
    """Target independent of extra given coarse, as when the oracle is a function of the question alone."""
    rng = np.random.default_rng(seed)
    joint = simplex(rng, 3)[:, None, None] * simplex(rng, 3, 4)[:, :, None] * simplex(rng, 3, 5)[:, None, :]
    found = bayes.prediction_lemma(joint, rng.normal(size=5))
    assert found.gap == pytest.approx(0, abs=1e-12) and found.log_loss_gap == pytest.approx(0, abs=1e-12)


def test_an_extra_variable_may_tell_the_spread_and_not_the_mean():
    """Squared error gains nothing where log-loss does: the gap speaks of the conditional mean alone."""
    joint = np.array([[[0.25, 0.0, 0.25], [0.0, 0.5, 0.0]]])
    found = bayes.prediction_lemma(joint, np.array([-1.0, 0.0, 1.0]))
    assert found.gap == 0 and found.log_loss_gap == pytest.approx(np.log(2))


HALF, PAIR = np.array([0.5, 0.5]), np.array([[0.9, 0.1], [0.1, 0.9]])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bayes.posterior([0.5, 0.6], PAIR, [0], [0]), "prior must hold probabilities"),
        (lambda: bayes.posterior([1.5, -0.5], PAIR, [0], [0]), "prior must hold probabilities"),
        (lambda: bayes.posterior([np.nan, 1.0], PAIR, [0], [0]), "prior must hold probabilities"),
        (lambda: bayes.posterior([1.0], PAIR, [0], [0]), "one row a program"),
        (lambda: bayes.posterior(HALF, PAIR, [2], [0]), "from 0 to 1"),
        (lambda: bayes.posterior(HALF, PAIR, [-1], [0]), "from 0 to 1"),
        (lambda: bayes.posterior(HALF, PAIR, [0], [2]), "gamma must be 0"),
        (lambda: bayes.posterior(HALF, PAIR, [0, 1], [0]), r"shape \(T,\)"),
        (lambda: bayes.posterior(HALF, [[1, 0], [1, 0]], [0, 1], [0, 0]), "slot 1 has probability 0"),
        (lambda: bayes.predictive([1.0], PAIR), "one row a program"),
        (lambda: bayes.after(HALF, PAIR, np.zeros((2, 2, 3)), 0, 0), "outcome_likelihood must hold"),
        (lambda: bayes.outcome(HALF, PAIR, np.full((2, 3, 2), 0.5), 0), r"\(P, A, O\)"),
        (
            lambda: bayes.outcome(HALF, [[1, 0], [1, 0]], np.full((2, 2, 2), 0.5), 1, intervened=False),
            "action 1 has probability 0",
        ),
        (lambda: bayes.prediction_lemma(np.full((1, 2, 2), 0.3), [0, 1]), "joint must hold probabilities"),
        (lambda: bayes.prediction_lemma(np.full((1, 2, 2), 0.25), [0, 1, 2]), r"\(coarse, extra, target\)"),
        (lambda: bayes.prediction_lemma(np.full((1, 2, 2), 0.25), [0, np.inf]), "finite"),
    ],
)
def test_refusals_say_what(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_an_action_nobody_takes_can_still_be_imposed():
    np.testing.assert_allclose(
        bayes.outcome(HALF, [[1, 0], [1, 0]], np.array([[[1, 0], [0, 1]], [[1, 0], [1, 0]]], float), 1),
        [0.5, 0.5],
    )
