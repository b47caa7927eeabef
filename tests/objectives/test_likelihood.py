"""The shift, the weights and the two reductions, by hand-computed numbers and by gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cicjax.objectives.likelihood import per_dialogue, token_logprobs, weighted_nll
from cicjax.provenance import weights

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(2, 5, 7)).astype(np.float32)
TOKENS = RNG.integers(0, 7, size=(2, 5)).astype(np.int32)


def test_token_logprobs_by_hand():
    # Odds 1 : 2 : 1 after the first token, 3 : 1 : 4 after the second; the last logits predict what is not
    # there.
    logits = np.log(np.array([[[1.0, 2.0, 1.0], [3.0, 1.0, 4.0], [1.0, 1.0, 1.0]]]))
    found = token_logprobs(logits, np.array([[2, 1, 0]]))
    np.testing.assert_allclose(found, [[0.0, np.log(2 / 4), np.log(3 / 8)]], rtol=1e-6)


def test_entry_zero_has_no_context():
    assert np.array_equal(token_logprobs(LOGITS, TOKENS)[:, 0], np.zeros(2))


def test_first_content_token_is_scored():
    """A sequence of two tokens has one score, and it is the second token's: the first token after a prompt is
    never left out."""
    found = token_logprobs(LOGITS[:, :2], TOKENS[:, :2])
    expected = jax.nn.log_softmax(LOGITS[:, 0])[np.arange(2), TOKENS[:, 1]]
    assert found.shape == (2, 2)
    np.testing.assert_allclose(found[:, 1], expected, rtol=1e-6)
    assert (np.asarray(found[:, 1]) != 0).all()


@pytest.mark.parametrize("moved", range(5))
def test_logits_at_t_move_the_entry_after_t(moved):
    bumped = LOGITS.copy()
    bumped[:, moved, :3] += 1.0
    changed = np.asarray(token_logprobs(bumped, TOKENS) != token_logprobs(LOGITS, TOKENS)).any(axis=0)
    assert changed.tolist() == [entry == moved + 1 for entry in range(5)]


@pytest.mark.parametrize("entry", range(5))
def test_entry_t_has_its_gradient_in_the_logits_before_t(entry):
    gradient = jax.grad(lambda logits: token_logprobs(logits, TOKENS)[:, entry].sum())(jnp.asarray(LOGITS))
    touched = np.abs(gradient).sum(axis=(0, 2)) > 0
    assert touched.tolist() == [position == entry - 1 for position in range(5)]


def test_token_logprobs_are_normalised_in_float32():
    logits = jnp.asarray(LOGITS, jnp.bfloat16)
    found = token_logprobs(logits, TOKENS)
    assert found.dtype == jnp.float32
    total = sum(np.exp(token_logprobs(logits, np.full_like(TOKENS, token))[:, 1:]) for token in range(7))
    np.testing.assert_allclose(total, 1.0, rtol=1e-5)


def test_ids_outside_the_vocabulary_give_nan_and_can_be_hidden():
    # -1 must not mean the last entry of the vocabulary.
    tokens = np.array([[1, -100, 7, -1, 2]])
    found = token_logprobs(LOGITS[:1], tokens)
    assert np.isnan(found[0]).tolist() == [False, True, True, True, False]
    loss_weights = np.array([[0, 0, 0, 0, 1]])
    gradient = jax.grad(lambda logits: weighted_nll(token_logprobs(logits, tokens), loss_weights)[0])(
        jnp.asarray(LOGITS[:1])
    )
    assert np.isfinite(gradient).all() and (np.abs(gradient).sum(axis=(0, 2)) > 0).tolist() == [
        False,
        False,
        False,
        True,
        False,
    ]


@pytest.mark.parametrize("tokens", [np.zeros((2, 4), int), np.zeros((5,), int), np.zeros((2, 5))])
def test_token_logprobs_refuses(tokens):
    with pytest.raises(ValueError, match="tokens must"):
        token_logprobs(LOGITS, tokens)


def test_weighted_nll_by_hand():
    total, weight = weighted_nll(
        np.array([[0.0, -1.0, -2.0], [0.0, -4.0, -8.0]]), np.array([[0, 1, 0.5], [0, 1, 0]])
    )
    assert (float(total), float(weight)) == (1 + 1 + 4, 2.5)


@pytest.mark.parametrize("hidden", [np.nan, -np.inf, np.inf])
def test_weight_zero_hides_any_value_forwards_and_backwards(hidden):
    logprobs = jnp.array([[hidden, -1.0, hidden, -3.0]])
    loss_weights = jnp.array([[0.0, 1.0, 0.0, 2.0]])
    (total, weight), pull = jax.vjp(weighted_nll, logprobs, loss_weights)
    assert (float(total), float(weight)) == (7.0, 3.0)
    to_logprobs, to_weights = pull((jnp.float32(1), jnp.float32(0)))
    assert np.array_equal(to_logprobs, [[0.0, -1.0, 0.0, -2.0]]) and np.array_equal(
        to_weights, [[0.0, 1.0, 0.0, 3.0]]
    )


def test_a_weighed_nan_is_not_hidden():
    assert np.isnan(weighted_nll(np.array([[np.nan, -1.0]]), np.array([[1.0, 1.0]]))[0])


def test_rows_without_targets_give_no_loss_and_no_weight():
    total, weight = weighted_nll(np.full((2, 3), -5.0), np.zeros((2, 3), bool))
    assert (float(total), float(weight)) == (0.0, 0.0)


@given(st.integers(1, 5), st.integers(0, 2**31))
@settings(max_examples=20, deadline=None)
def test_micro_batches_add_up_to_the_update(cut, seed):
    """Sums over sums equal the whole however the rows are cut; a mean of micro-batch means does not."""
    rng = np.random.default_rng(seed)
    logprobs, loss_weights = -rng.random((6, 4)), rng.integers(0, 2, (6, 4)).astype(np.float32)
    loss_weights[0, 0] = 1
    whole = weighted_nll(logprobs, loss_weights)
    parts = [weighted_nll(logprobs[rows], loss_weights[rows]) for rows in (slice(0, cut), slice(cut, None))]
    np.testing.assert_allclose(sum(total for total, _ in parts), whole[0], rtol=1e-5)
    assert sum(weight for _, weight in parts) == whole[1]


def test_interventional_gradient_is_exactly_zero_on_the_agents_tokens_and_the_loss_still_depends_on_them():
    gamma = np.array([[0, 0, 1, 1, 0], [0, 1, 1, 0, 0]])
    loss_weights = weights.interventional(gamma, np.array([[0, 1, 1, 1, 1], [0, 1, 1, 1, 1]], bool))

    def loss(embedding, tokens):
        # A toy model whose prediction depends on everything before it.
        return weighted_nll(token_logprobs(jnp.cumsum(embedding[tokens], axis=1), tokens), loss_weights)[0]

    # The first target after an attempt is predicted from it, so that a changed attempt changes the loss.
    embedding, other = jnp.asarray(LOGITS[0, :1] + np.eye(7)[:, :7]), TOKENS.copy()
    other[gamma == 1] = (other[gamma == 1] + 1) % 7
    assert loss(embedding, TOKENS) != loss(embedding, other)
    gradient = jax.grad(lambda logits: weighted_nll(token_logprobs(logits, TOKENS), loss_weights)[0])(
        jnp.asarray(LOGITS)
    )
    predicts_agent = np.roll(gamma, -1, axis=1) == 1
    assert np.array_equal(np.asarray(gradient)[predicts_agent], np.zeros((4, 7)))
    assert (np.abs(gradient)[:, 3] > 0).any()


def test_weighted_nll_refuses_shapes_that_would_broadcast():
    with pytest.raises(ValueError, match=r"logprobs \(2, 3\), loss_weights \(1, 3\)"):
        weighted_nll(np.zeros((2, 3)), np.zeros((1, 3)))


def test_per_dialogue_is_the_mean_of_the_dialogues_means():
    """Equations (1)-(2) by hand: means 2 and 5, and a dialogue without a target that is no zero loss."""
    logprobs = np.array([[0, -1.0, -3.0], [0, -5.0, -9.0], [0, -7.0, -7.0]])
    is_target = np.array([[0, 1, 1], [0, 1, 0], [0, 0, 0]], bool)
    total, weight = weighted_nll(logprobs, per_dialogue(is_target))
    assert (float(total), float(weight)) == (2 + 5, 2)
    np.testing.assert_allclose(total / weight, 3.5)


def test_a_dialogue_without_targets_changes_nothing():
    logprobs, is_target = -np.arange(8.0).reshape(2, 4), np.array([[0, 1, 1, 0], [0, 0, 1, 1]], bool)
    empty = weighted_nll(
        np.vstack([logprobs, logprobs[:1]]), per_dialogue(np.vstack([is_target, np.zeros((1, 4), bool)]))
    )
    assert empty == weighted_nll(logprobs, per_dialogue(is_target))


@pytest.mark.parametrize("convert", [np.asarray, jnp.asarray])
def test_per_dialogue_rows(convert):
    rows = convert(np.array([[0, 1, 3], [0, 0, 0]], np.float32))
    expected = np.array([[0, 0.25, 0.75], [0, 0, 0]])
    assert np.array_equal(per_dialogue(rows), expected)
    assert np.array_equal(per_dialogue(rows[0]), expected[0]) and np.array_equal(
        per_dialogue(rows[1]), expected[1]
    )
    assert type(per_dialogue(rows)) is type(rows) and per_dialogue(rows).dtype == np.float32
    assert np.array_equal(jax.jit(per_dialogue)(rows), expected)


def test_per_dialogue_keeps_its_argument():
    rows = np.array([1.0, 3.0], np.float32)
    per_dialogue(rows)
    assert rows.tolist() == [1.0, 3.0]


def test_per_dialogue_refuses_batches_of_batches():
    with pytest.raises(ValueError, match=r"\(T,\) or \(B, T\)"):
        per_dialogue(np.zeros((2, 2, 2)))


def test_gamma_zero_everywhere_makes_the_streams_equal():
    logprobs, is_target = -RNG.random((3, 6)), RNG.integers(0, 2, (3, 6)).astype(bool)
    gamma = np.zeros((3, 6), np.int8)
    for reduce in (lambda w: w, per_dialogue):
        assert weighted_nll(logprobs, reduce(weights.observational(gamma, is_target))) == weighted_nll(
            logprobs, reduce(weights.interventional(gamma, is_target))
        )


def test_numpy_jax_and_jit_agree():
    loss_weights = RNG.random((2, 5)).astype(np.float32)
    eager = weighted_nll(token_logprobs(LOGITS, TOKENS), loss_weights)
    compiled = jax.jit(
        lambda logits, tokens, loss_weights: weighted_nll(token_logprobs(logits, tokens), loss_weights)
    )
    jitted = compiled(*map(jnp.asarray, (LOGITS, TOKENS, loss_weights)))
    np.testing.assert_allclose(eager, jitted, rtol=1e-6)
