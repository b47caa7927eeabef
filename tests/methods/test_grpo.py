"""GRPO on packed rows: with one update a group it is the plain policy gradient, flat groups are dropped, the
anchor is SFT-1."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_policy import random_policy

from cicjax.methods import grpo
from cicjax.model import qwen2
from cicjax.objectives import likelihood
from cicjax.provenance import Encoded
from cicjax.training import scoring, steps
from cicjax.training.batches import Shape, pack
from cicjax.training.checkpoints import leaf_digests
from cicjax.training.loop import one_update

SETTINGS = steps.Optimization(learning_rate=1e-2)
SHAPE = Shape(1, 48)


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return random_policy(tmp_path_factory.mktemp("policy"), seed=5)


def group_of(count=4):
    rng, group = np.random.default_rng(0), []
    for n in range(count):
        length = 9 + n
        tokens = rng.integers(1, 300, length).astype(np.int32)
        gamma = (np.arange(length) >= 5).astype(np.int8)
        group.append(
            Encoded(tokens, gamma, gamma == 1, np.where(gamma == 1, n % 2, -1).astype(np.int8), gamma)
        )
    return group


GROUP = group_of()
REWARDS = [1.0, 0.0, 0.0, 0.0]


def scored(policy, adapter):
    model, base, _ = policy
    return scoring.token_logprobs(
        GROUP, model=model, base=base, adapter=adapter, shape=SHAPE, targets_only=True
    )


def sums_of(policy, rows, loss):
    model, base, adapter = policy
    sums = steps.zero_sums(adapter)
    for batch in pack(rows, SHAPE):
        sums = steps.accumulate(loss, model, base, adapter, sums, batch)
    return sums


def plain_policy_gradient(policy):
    """- sum of A log p over the sampled tokens, from full logits."""
    model, base, adapter = policy
    advantages = (np.asarray(REWARDS) - 0.25) / np.sqrt(0.1875 + 1e-6)

    def loss(adapter):
        total = jnp.zeros(())
        for each, advantage in zip(GROUP, advantages, strict=True):
            tokens = jnp.asarray(each.tokens)[None]
            logprobs = likelihood.token_logprobs(qwen2.apply(model, base, adapter, tokens), tokens)
            total = total + advantage * likelihood.weighted_nll(logprobs, grpo.WEIGHTING(each)[None])[0]
        return total

    return jax.grad(loss)(adapter)


def test_with_one_update_a_group_the_ratio_is_1_and_the_gradient_that_of_the_policy(policy):
    own = scored(policy, policy[2])
    rows = grpo.group_rows(GROUP, REWARDS, own, own)
    sums = sums_of(policy, rows, grpo.Loss(epsilon=0.2, beta=0.0))
    assert float(sums.weight) == sum(each.gamma.sum() for each in GROUP)
    # With ratios of 1 the surrogate is - sum of A over the tokens.
    expected = -sum(row.extras["advantages"][0] * row.loss_weights.sum() for row in rows)
    assert float(sums.loss) == pytest.approx(expected, rel=1e-4)
    for ours, plain in zip(
        jax.tree.leaves(sums.gradient), jax.tree.leaves(plain_policy_gradient(policy)), strict=True
    ):
        np.testing.assert_allclose(ours, plain, atol=2e-4, rtol=1e-3)


def test_one_ratio_a_completion_has_the_same_gradient_at_1(policy):
    own = scored(policy, policy[2])
    rows = grpo.group_rows(GROUP, REWARDS, own, own)
    sums = sums_of(policy, rows, grpo.SequenceLoss(epsilon=0.2, beta=0.0))
    assert float(sums.weight) == sum(each.gamma.sum() for each in GROUP)
    assert float(sums.loss) == pytest.approx(-sum(row.extras["advantages"][0] for row in rows), abs=1e-4)
    for ours, plain in zip(
        jax.tree.leaves(sums.gradient), jax.tree.leaves(plain_policy_gradient(policy)), strict=True
    ):
        np.testing.assert_allclose(ours, plain, atol=2e-4, rtol=1e-3)


def test_the_ratio_of_a_packed_completion_is_its_own(policy):
    """Old log-probabilities moved by hand: every completion's term by the ratio of its whole, clipped; two of
    them lie on one line."""
    own = scored(policy, policy[2])
    by = (0.05, -0.01, 0.1, -0.2)
    old = [each - shift * (row.gamma == 1) for each, shift, row in zip(own, by, GROUP, strict=True)]
    rows = grpo.group_rows(GROUP, REWARDS, old, own)
    assert len(pack(rows, SHAPE)) < len(rows)
    expected = 0.0
    for row, shift in zip(rows, by, strict=True):
        ratio, advantage = np.exp(shift * row.loss_weights.sum()), row.extras["advantages"][0]
        expected -= min(ratio * advantage, np.clip(ratio, 0.8, 1.2) * advantage)
    assert float(sums_of(policy, rows, grpo.SequenceLoss(0.2, 0.0)).loss) == pytest.approx(expected, rel=1e-3)
    assert grpo.Constants(ratio="sequence").loss == grpo.SequenceLoss(0.2, 0.04)
    assert isinstance(grpo.Constants().loss, grpo.Loss)


def test_the_penalty_is_zero_at_the_reference_and_pulls_towards_it(policy):
    *_, adapter = policy
    own = scored(policy, adapter)
    at_reference = grpo.group_rows(GROUP, REWARDS, own, own)
    sums = [sums_of(policy, at_reference, grpo.Loss(epsilon=0.2, beta=beta)) for beta in (0.0, 5.0)]
    for without, anchored in zip(*(jax.tree.leaves(each.gradient) for each in sums), strict=True):
        np.testing.assert_allclose(without, anchored, atol=1e-4)
    away = scored(policy, jax.tree.map(jnp.zeros_like, adapter))
    rows = grpo.group_rows(GROUP, REWARDS, own, away)
    weak, strong = (
        float(sums_of(policy, rows, grpo.Loss(epsilon=0.2, beta=beta)).loss) for beta in (0.0, 1.0)
    )
    divergence = sum(
        float((np.exp(r - o) - (r - o) - 1)[each.gamma == 1].sum())
        for o, r, each in zip(own, away, GROUP, strict=True)
    )
    assert strong - weak == pytest.approx(divergence, rel=1e-3) and divergence > 0


def test_a_flat_group_changes_nothing(policy):
    model, base, adapter = policy
    own = scored(policy, adapter)
    for rewards in ([0.0] * 4, [1.0] * 4):
        rows = grpo.group_rows(GROUP, rewards, own, own)
        assert rows == []
        state, dispatched = one_update(
            steps.start_state(adapter, SETTINGS),
            rows,
            index=0,
            rate=1e-2,
            model=model,
            base=base,
            shape=SHAPE,
            optimization=SETTINGS,
            loss=grpo.Loss(epsilon=0.2, beta=0.04),
        )
        assert leaf_digests(state.adapter) == leaf_digests(adapter)
        assert int(state.empty_updates) == 1 and int(state.step) == 1 and not dispatched.read(5).applied


def test_an_update_makes_the_rewarded_completion_likelier(policy):
    model, base, adapter = policy
    own = scored(policy, adapter)
    rows = grpo.group_rows(GROUP, REWARDS, own, own)
    state, _ = one_update(
        steps.start_state(adapter, SETTINGS),
        rows,
        index=0,
        rate=1e-2,
        model=model,
        base=base,
        shape=SHAPE,
        optimization=SETTINGS,
        loss=grpo.Loss(epsilon=0.2, beta=0.04),
    )
    after = scored(policy, state.adapter)
    change = [float((a - o).sum()) for a, o in zip(after, own, strict=True)]
    assert change[0] > 0 and change[0] > max(change[1:])
