"""The steps of training by identities: what an update adds up, what it must not touch, and what the compiled
program holds."""

import re
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_policy import random_policy

from cicjax.model import qwen2
from cicjax.objectives import likelihood
from cicjax.provenance import Encoded
from cicjax.provenance.protocol import weighting
from cicjax.training import scoring, steps
from cicjax.training.batches import Shape, make_row, pack
from cicjax.training.checkpoints import leaf_digests
from cicjax.training.finetune import weighted
from cicjax.training.loop import one_update

SHAPE = Shape(1, 64)
INTERVENTIONAL, OBSERVATIONAL = weighting("interventional"), weighting("observational")
SETTINGS = steps.Optimization(learning_rate=1e-2)


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return random_policy(tmp_path_factory.mktemp("policy"), seed=2)


def stream_row(seed, *, failed, corrected=None):
    """x (5), y_hat (6), and after a failure the prefix (2) and y* (5): random ids, end of text 0 inside."""
    rng = np.random.default_rng(seed)
    corrected = failed if corrected is None else corrected
    parts = [(5, 0, False), (6, 1, True)] + ([(2, 0, False), (5, 0, True)] if corrected else [])
    length = sum(size for size, _, _ in parts)
    tokens = rng.integers(1, 300, length).astype(np.int32)
    tokens[10] = tokens[-1] = 0
    gamma = np.concatenate([np.full(size, agent, np.int8) for size, agent, _ in parts])
    is_target = np.concatenate([np.full(size, target) for size, _, target in parts])
    solved = np.where(gamma == 1, 0 if failed else 1, -1).astype(np.int8)
    return Encoded(tokens, gamma, is_target, solved, np.where(gamma == 1, 1, 2).astype(np.int8))


def long_row(length):
    """A context with a single target at its end."""
    tokens = np.arange(length, dtype=np.int32) % 300
    is_target = np.arange(length) == length - 1
    gamma, solved, author = (np.full(length, code, np.int8) for code in (0, -1, 2))
    return make_row(Encoded(tokens, gamma, is_target, solved, author), OBSERVATIONAL)


def rows_of(encoded, weighting):
    return [make_row(each, weighting) for each in encoded]


def gradient_of(policy, rows, weighting=OBSERVATIONAL, shape=SHAPE):
    model, base, adapter = policy
    sums = steps.zero_sums(adapter)
    for batch in pack(rows, shape):
        sums = steps.accumulate(steps.Likelihood(weighting.rule), model, base, adapter, sums, batch)
    return sums


def arm(policy, encoded, weighting, shape=SHAPE):
    """The sums of these transcripts under one weighting."""
    return gradient_of(policy, rows_of(encoded, weighting), weighting, shape)


def assert_trees_close(ours, expected, **tolerance):
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, **tolerance)


STREAM = [stream_row(seed, failed=seed % 2 == 0) for seed in range(6)]


@pytest.mark.parametrize("weighting", [OBSERVATIONAL, INTERVENTIONAL])
def test_packed_gathered_sums_equal_the_plain_definition(policy, weighting):
    """Against full logits, row by row, with the contract of objectives.likelihood."""
    model, base, adapter = policy

    def plainly(adapter):
        total, weight = jnp.zeros(()), jnp.zeros(())
        for each in STREAM:
            tokens = jnp.asarray(each.tokens)[None]
            logprobs = likelihood.token_logprobs(qwen2.apply(model, base, adapter, tokens), tokens)
            loss, count = likelihood.weighted_nll(logprobs, weighting(each)[None])
            total, weight = total + loss, weight + count
        return total, weight

    (loss, weight), gradient = jax.value_and_grad(plainly, has_aux=True)(adapter)
    for shape in (Shape(1, 64), Shape(3, 32)):
        sums = arm(policy, STREAM, weighting, shape)
        np.testing.assert_allclose(sums.loss, loss, rtol=1e-5)
        assert float(sums.weight) == float(weight)
        assert_trees_close(sums.gradient, gradient, atol=2e-4, rtol=1e-4)


def test_no_gradient_at_logits_that_predict_the_agents_tokens_while_the_loss_responds_to_them(policy):
    model, base, adapter = policy
    each = STREAM[0]
    tokens, loss_weights = jnp.asarray(each.tokens)[None], INTERVENTIONAL(each)[None]
    logits = qwen2.apply(model, base, adapter, tokens)

    def loss(logits):
        return likelihood.weighted_nll(likelihood.token_logprobs(logits, tokens), loss_weights)[0]

    gradient = np.asarray(jax.grad(loss)(logits))[0]
    predicted = np.append(each.gamma[1:], 0)  # logits[t - 1] score tokens[t]
    assert (gradient[predicted == 1] == 0).all()
    assert np.abs(gradient[np.append(loss_weights[0, 1:], 0) == 1]).min(axis=0).any()
    other = each.tokens.copy()
    other[6] += 1
    changed = arm(policy, [each._replace(tokens=other)], INTERVENTIONAL)
    assert float(changed.loss) != float(arm(policy, [each], INTERVENTIONAL).loss)


def test_with_gamma_0_everywhere_the_streams_are_one(policy):
    world = [each._replace(gamma=np.zeros_like(each.gamma)) for each in STREAM]
    arms = [arm(policy, world, weighting) for weighting in (OBSERVATIONAL, INTERVENTIONAL)]
    assert_trees_close(arms[0], arms[1], rtol=0, atol=0)


def test_gamma_alone_decides_what_the_compiled_step_trains_on(policy):
    """gamma, is_target and solved are arguments of the program; no weight comes from the host."""
    model, base, adapter = policy
    (batch,) = pack(rows_of(STREAM[:2], OBSERVATIONAL), SHAPE)
    loss = steps.Likelihood(INTERVENTIONAL.rule)
    lowered = steps.accumulate.lower(loss, model, base, adapter, steps.zero_sums(adapter), batch)
    signature = re.search(r"@main\((.*?)\) ->", lowered.as_text(), re.DOTALL)
    shape = "x".join(map(str, batch.tokens.shape))
    kinds = re.findall(rf"tensor<{shape}x(\w+)>", signature.group(1))
    assert sorted(kinds) == ["i1", "i32", "i32", "i32", "i32", "i8", "i8"]

    def sums(gamma):
        return steps.accumulate(
            loss, model, base, adapter, steps.zero_sums(adapter), batch._replace(gamma=gamma)
        )

    here, all_world, all_agent = map(sums, (batch.gamma, 0 * batch.gamma, 0 * batch.gamma + 1))
    assert float(here.weight) == np.count_nonzero(batch.is_target & (batch.gamma == 0))
    assert float(all_world.weight) == np.count_nonzero(batch.is_target)
    assert float(here.loss) != float(all_world.loss)
    assert float(all_agent.loss) == float(all_agent.weight) == 0.0


def test_rows_that_are_skipped_change_no_gradient(policy):
    live = [each for each in STREAM if INTERVENTIONAL(each).any()]
    with_dead = arm(policy, STREAM, INTERVENTIONAL)
    assert len(live) < len(STREAM)
    assert_trees_close(with_dead, arm(policy, live, INTERVENTIONAL), rtol=0, atol=0)
    # Computed all the same, as weight 0 beside the live ones, they add exact zeros up to the order of sums.
    everything = gradient_of(policy, rows_of(STREAM, OBSERVATIONAL), INTERVENTIONAL)
    assert_trees_close(everything.gradient, with_dead.gradient, atol=1e-6)


def train(policy, updates, weighting, *, state=None, optimization=SETTINGS, shape=SHAPE):
    """(state, progress) after every update, on from `state` or from the start."""
    model, base, adapter = policy
    state = steps.start_state(adapter, optimization) if state is None else state
    for index in range(int(state.step), len(updates)):
        state, dispatched = one_update(
            state,
            updates[index],
            index=index,
            rate=steps.learning_rate_at(index, len(updates), optimization),
            model=model,
            base=base,
            shape=shape,
            optimization=optimization,
            loss=steps.Likelihood(weighting.rule),
        )
        yield state, dispatched.read(len(updates))


def train_all(policy, updates, weighting, **settings):
    history = list(train(policy, updates, weighting, **settings))
    return history[-1][0], [progress for _, progress in history]


def test_agent_ids_matter_in_live_rows_and_nowhere_else(policy):
    """The adapter is bit-identical when agent tokens of rows without targets change, and differs when those
    of a live row do."""

    def adapter_with(changed_failed):
        rows = []
        for each in STREAM:
            tokens = each.tokens.copy()
            if changed_failed is not None and (each.solved == 0).any() == changed_failed:
                tokens[(each.gamma == 1) & (tokens != 0)] += 1
            rows.append(make_row(each._replace(tokens=tokens), INTERVENTIONAL))
        return leaf_digests(train_all(policy, [rows[:3], rows[3:]], INTERVENTIONAL)[0].adapter)

    original = adapter_with(None)
    assert adapter_with(False) == original
    assert adapter_with(True) != original


def test_the_base_keeps_its_bytes_and_the_start_its_buffers(policy):
    _, base, adapter = policy
    before, start = leaf_digests(base), leaf_digests(adapter)
    # one after the other from one start
    for arm_ in (OBSERVATIONAL, INTERVENTIONAL):
        state, _ = train_all(policy, [rows_of(STREAM, arm_)] * 2, arm_)
        assert leaf_digests(state.adapter) != start
    assert leaf_digests(base) == before and leaf_digests(adapter) == start


def test_an_update_without_targets_moves_nothing_and_is_counted(policy):
    dead = rows_of([stream_row(9, failed=False)], INTERVENTIONAL)
    live = rows_of(STREAM, INTERVENTIONAL)
    decaying = replace(SETTINGS, weight_decay=0.1)
    state, history = train_all(policy, [live, dead, live], INTERVENTIONAL, optimization=decaying)
    assert [each.applied for each in history] == [True, False, True]
    assert int(state.empty_updates) == 1 and int(state.nonfinite_updates) == 0 and int(state.step) == 3
    states = train(policy, [live, dead], INTERVENTIONAL, optimization=decaying)
    moved = next(states)[0]
    before = leaf_digests((moved.adapter, moved.optimizer))
    still, progress = next(states)
    assert leaf_digests((still.adapter, still.optimizer)) == before and progress.live_rows == 0


def test_anything_non_finite_is_a_no_op_and_is_counted(policy):
    model, base, adapter = policy
    broken = {**base, "norm": {"scale": base["norm"]["scale"] * jnp.nan}}
    updates, before = [rows_of(STREAM, INTERVENTIONAL)] * 3, leaf_digests(adapter)
    for number, (state, progress) in enumerate(
        train((model, broken, adapter), updates, INTERVENTIONAL), start=1
    ):
        assert leaf_digests(state.adapter) == before and not progress.applied
        assert int(state.nonfinite_updates) == number


def test_the_division_is_over_the_whole_update(policy):
    """A weight sum taken per micro-batch would weigh a micro-batch with one target like one with twenty."""
    long, short = [stream_row(seed, failed=True) for seed in (20, 22)]
    last = np.arange(len(short.tokens)) == len(short.tokens) - 1
    rows = rows_of([long, short._replace(is_target=last)], INTERVENTIONAL)
    one_line, two_lines = Shape(1, 64), Shape(1, 20)
    assert len(pack(rows, one_line)) == 1 and len(pack(rows, two_lines)) == 2
    norms = []
    for shape in (one_line, two_lines):
        _, (progress,) = train_all(policy, [rows], INTERVENTIONAL, shape=shape)
        norms.append((progress.loss, progress.grad_norm))
    np.testing.assert_allclose(norms[0], norms[1], rtol=1e-4)


def test_dialogues_without_targets_do_not_count_as_zero_losses(policy):
    """Equations (1)-(2) average within a dialogue and then over the dialogues that have a target."""
    live, dead = stream_row(30, failed=True), stream_row(31, failed=False)

    def loss_of(encoded):
        rows = []
        for each in encoded:
            mean = likelihood.per_dialogue(INTERVENTIONAL(each))
            rows.append(make_row(each, INTERVENTIONAL, scale=np.full(len(mean), mean.max(), np.float32)))
        sums = gradient_of(policy, rows, INTERVENTIONAL)
        assert float(sums.weight) == pytest.approx(1.0)
        return float(sums.loss / sums.weight)

    assert loss_of([live, dead, dead]) == pytest.approx(loss_of([live]), rel=1e-6)


def test_resuming_a_state_gives_the_very_same_bits(policy):
    updates = [rows_of(STREAM[n : n + 2], OBSERVATIONAL) for n in (0, 2, 4, 1)]
    whole, _ = train_all(policy, updates, OBSERVATIONAL)
    first = train(policy, updates, OBSERVATIONAL)
    state, progress = [next(first), next(first)][-1]
    assert progress.update == 2
    *_, (state, progress) = train(policy, updates, OBSERVATIONAL, state=state)
    assert progress.update == 4
    assert leaf_digests(state._asdict()) == leaf_digests(whole._asdict())


def test_nothing_is_traced_again_after_the_first_update(policy):
    """One program serves every arm: the numbers of a rule are its arguments."""
    train_all(policy, [rows_of(STREAM, OBSERVATIONAL)], OBSERVATIONAL)
    before = steps.accumulate._cache_size(), steps.update._cache_size()
    for weighting_ in (OBSERVATIONAL, INTERVENTIONAL, weighting("stream", wrong=0.1, correct=0.3)):
        train_all(policy, [rows_of(STREAM[:n], weighting_) for n in (1, 3, 6)], weighting_)
    assert (steps.accumulate._cache_size(), steps.update._cache_size()) == before


def test_no_array_with_a_vocabulary_axis_exceeds_a_chunk_however_long_the_line(policy):
    model, base, adapter = policy
    vocabulary = model.config.vocab_size
    arrays, lines = [], []
    for length in (192, 384):
        rows = [*rows_of(STREAM, INTERVENTIONAL), long_row(length)]
        batch = pack(rows, Shape(2, length))[0]
        lines.append(batch.tokens.shape)
        lowered = steps.accumulate.lower(
            steps.Likelihood(), model, base, adapter, steps.zero_sums(adapter), batch
        )
        text = lowered.compile().as_text()
        found = {
            tuple(map(int, dims.split(",")))
            for dims in re.findall(r"\[([\d,]+)\]", text)
            if str(vocabulary) in dims.split(",")
        }
        embedding = base["embed_tokens"]["embedding"].size
        assert found and all(
            np.prod(dims) <= max(model.kind.head_chunk * vocabulary, embedding) for dims in found
        )
        arrays.append(found)
    assert lines == [(2, 192), (2, 384)]
    assert arrays[0] == arrays[1]  # unsupervised positions were added, and no vocabulary array grew


def test_scores_are_those_of_the_full_logits(policy):
    model, base, adapter = policy
    scored = scoring.token_logprobs(STREAM, model=model, base=base, adapter=adapter, shape=SHAPE)
    for each, logprobs in zip(STREAM, scored, strict=True):
        tokens = jnp.asarray(each.tokens)[None]
        np.testing.assert_allclose(
            logprobs,
            likelihood.token_logprobs(qwen2.apply(model, base, adapter, tokens), tokens)[0],
            atol=1e-4,
        )


def test_the_learning_rate_is_a_function_of_the_updates_index():
    settings = steps.Optimization(learning_rate=1.0, warmup_steps=2, min_learning_rate_ratio=0.1)
    rates = [steps.learning_rate_at(index, 7, settings) for index in range(7)]
    np.testing.assert_allclose(rates, [1 / 3, 2 / 3, 1.0, 0.775, 0.55, 0.325, 0.1])
    assert steps.learning_rate_at(0, 1, settings) == 1.0


def test_weights_of_the_stream_family_reach_the_loss(policy):
    def loss(wrong, correct):
        return float(arm(policy, STREAM, weighting("stream", wrong=wrong, correct=correct)).loss)

    observed = float(arm(policy, STREAM, OBSERVATIONAL).loss)
    assert loss(1.0, 1.0) == pytest.approx(observed)
    assert loss(0.5, 0.5) == pytest.approx((loss(0.0, 0.0) + observed) / 2, rel=1e-5)


@pytest.mark.parametrize("weighting", [OBSERVATIONAL, INTERVENTIONAL])
def test_by_dialogue_an_update_descends_the_mean_of_the_rows_means(policy, weighting):
    """Equations (1) and (2): a long dialogue counts no more than a short one."""
    encoded = [stream_row(n, failed=n == 0, corrected=n < 2) for n in range(3)]
    named = [(str(n), each) for n, each in enumerate(encoded)]
    rows = [row for _, row in weighted(named, weighting, reduction="dialogue")]
    sums = gradient_of(policy, rows, weighting)
    alone = [arm(policy, [each], weighting) for each in encoded]
    live = [each for each in alone if float(each.weight)]
    assert len(live) == (3 if weighting is OBSERVATIONAL else 2)
    assert float(sums.weight) == pytest.approx(len(live))
    mean = jax.tree.map(
        lambda *leaves: sum(leaf / each.weight for leaf, each in zip(leaves, live, strict=True)) / len(live),
        *(each.gradient for each in live),
    )
    ours = jax.tree.map(lambda leaf: leaf / sums.weight, sums.gradient)
    assert_trees_close(ours, mean, rtol=1e-4, atol=1e-6)
