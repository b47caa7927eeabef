"""The learner by what it leaves in its folder: checkpoints that resume bit for bit, metrics without gaps, a
stream without an end, pairs that stay together."""

from dataclasses import replace
from types import SimpleNamespace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_policy import random_policy

from cicjax.errors import Corrupted
from cicjax.provenance import Encoded, weights
from cicjax.provenance.protocol import weighting
from cicjax.runs.metrics import read_metrics
from cicjax.training import checkpoints, steps
from cicjax.training.batches import Shape, make_row
from cicjax.training.checkpoints import leaf_digests
from cicjax.training.learner import Learner, Trainer

SHAPE = Shape(1, 64)
TEACHER = weighting("interventional")
LOSS = steps.Likelihood(TEACHER.rule)


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return random_policy(tmp_path_factory.mktemp("policy"), seed=3)


@pytest.fixture
def trainer(policy, tmp_path):
    model, base, _ = policy
    return Trainer(
        folder=tmp_path,
        model=model,
        base=base,
        base_fingerprint="base",
        tokenizer=SimpleNamespace(fingerprint="of a tokenizer"),  # pyright: ignore[reportArgumentType]
        optimization=steps.Optimization(learning_rate=1e-2, warmup_steps=2),
        seed=0,
    )


def rows(seed, count=3):
    rng = np.random.default_rng(seed)
    return [make_row(transcript(rng, 8 + n), TEACHER) for n in range(count)]


def transcript(rng, length):
    tokens = rng.integers(1, 300, length).astype(np.int32)
    is_target, zeros = np.arange(length) >= 3, np.zeros(length, np.int8)
    return Encoded(tokens, zeros, is_target, zeros - 1, zeros + 2)


def learn(learner, count, *, total=None):
    while learner.step < count:
        rate = steps.learning_rate_at(learner.step, total, steps.Optimization(learning_rate=1e-2))
        learner.update(rows(learner.step), rate=rate, shape=SHAPE, loss=LOSS, facts={"seen": learner.step})


@pytest.mark.parametrize("lora_dropout", [0.0, 0.3])
def test_a_learner_resumes_bit_for_bit_and_no_update_is_told_twice(policy, trainer, tmp_path, lora_dropout):
    trainer = replace(trainer, lora_dropout=lora_dropout)
    with Learner(trainer, "whole", start=policy[2]) as whole:
        learn(whole, 6)
        whole.save({"cursor": 6})
    with Learner(trainer, "broken", start=policy[2]) as first:
        learn(first, 3)
        first.save({"cursor": 3})
        learn(first, 5)  # these two are lost, and made again
    with Learner(trainer, "broken", start=policy[2]) as second:
        assert second.resumed and second.step == 3 and second.cursor["cursor"] == 3
        learn(second, 6)
        second.save({"cursor": 6})
        assert leaf_digests(second.state._asdict()) == leaf_digests(whole.state._asdict())
    lines = {stage: read_metrics(tmp_path / "metrics.jsonl", stage=stage) for stage in ("whole", "broken")}
    assert [line["update"] for line in lines["broken"]] == [1, 2, 3, 4, 5, 6]
    apart = [{**line, "stage": ""} for line in lines["whole"]]
    assert apart == [{**line, "stage": ""} for line in lines["broken"]]
    assert "total" not in lines["whole"][0] and lines["whole"][2]["seen"] == 2


def test_metrics_are_read_when_the_next_update_is_on_its_way(policy, trainer, tmp_path):
    with Learner(trainer, "late", start=policy[2]) as learner:
        learn(learner, 1)
        assert learner.progress is None
        learn(learner, 2)
        assert learner.progress is not None and learner.progress.update == 1
    assert len(read_metrics(tmp_path / "metrics.jsonl", stage="late")) == 2


def test_a_stream_without_an_end_has_a_constant_rate_after_the_warm_up(trainer):
    rates = [steps.learning_rate_at(n, None, trainer.optimization) for n in (0, 1, 2, 3, 10_000)]
    np.testing.assert_allclose(rates, [1e-2 / 3, 2e-2 / 3, 1e-2, 1e-2, 1e-2])


def test_updates_that_are_not_finite_end_the_run_with_the_adapter_as_it_was(policy, trainer):
    _, base, adapter = policy
    broken = replace(trainer, base={**base, "norm": {"scale": base["norm"]["scale"] * jnp.nan}})
    with pytest.raises(Corrupted, match="5 updates in a row"), Learner(broken, "b", start=adapter) as learner:
        learn(learner, 9)
    assert learner.step == 6 and leaf_digests(learner.adapter) == leaf_digests(adapter)
    assert int(learner.state.nonfinite_updates) == 6


def test_a_checkpoint_is_never_written_past_the_fifth(policy, trainer):
    _, base, adapter = policy
    broken = replace(trainer, base={**base, "norm": {"scale": base["norm"]["scale"] * jnp.nan}})
    learner = Learner(broken, "b", start=adapter)
    learn(learner, 5)
    with pytest.raises(Corrupted):
        learner.save()
    assert checkpoints.latest(learner.directory) is None
    learner.close()


def test_a_resumed_learner_compiles_nothing_that_a_fresh_one_has(policy, trainer):
    """A run that is killed before they are made again would go on no further, however often it resumes."""
    with Learner(trainer, "one", start=policy[2]) as first:
        learn(first, 2)
        first.save()
    programs = steps.accumulate, steps.update, steps.zero_sums
    before = [program._cache_size() for program in programs]
    with Learner(trainer, "one", start=policy[2]) as second:
        learn(second, 4)
    finished = checkpoints.load_adapter(trainer.folder / "one")[0]
    with Learner(trainer, "other", start=finished) as third:
        learn(third, 2)
    assert [program._cache_size() for program in programs] == before


def test_bad_updates_in_a_row_are_counted_over_resumes(policy, trainer, capsys):
    _, base, adapter = policy
    broken = replace(trainer, base={**base, "norm": {"scale": base["norm"]["scale"] * jnp.nan}})
    for last in (2, 4):
        with Learner(broken, "b", start=adapter) as learner:
            learn(learner, last)
            learner.save()
    for _ in range(2):  # the same command, repeated, fails at the same update
        with Learner(broken, "b", start=adapter) as learner:
            assert learner.step == 4
            learn(learner, 5)
            with pytest.raises(Corrupted, match="5 updates in a row"):
                learner.save(final=True)
    # One that is well begins a new count; that some were skipped is said.
    with Learner(trainer, "b", start=adapter) as learner:
        learn(learner, 5)
        learner.save()
    assert checkpoints.load(learner.directory)[1]["nonfinite_in_a_row"] == 0
    with Learner(broken, "b", start=adapter) as learner:
        learn(learner, 9)
        learner.save(final=True)
    assert "8 of 9 updates were not finite and were skipped" in capsys.readouterr().err


def test_a_run_that_learned_nothing_has_no_final_step(policy, trainer):
    _, base, adapter = policy
    broken = replace(trainer, base={**base, "norm": {"scale": base["norm"]["scale"] * jnp.nan}})
    with Learner(broken, "b", start=adapter) as learner:
        learn(learner, 3)
        with pytest.raises(Corrupted, match=r"3 of 3 updates were not finite .* nothing was learned"):
            learner.save(final=True)
    assert checkpoints.latest(learner.directory) is None
    with Learner(broken, "none", start=adapter) as learner:
        learner.save(final=True)  # no row is no failure


class Preference(NamedTuple):
    """-log sigmoid of beta times the gain of the first row of each pair over the second, against a
    reference."""

    beta: float

    def __call__(self, model, base, adapter, batch):
        logprobs = steps.gathered_logprobs(model, base, adapter, batch)
        column = {name: steps.gathered(values, batch) for name, values in batch.extras.items()}
        live = steps.gathered_weights(weights.OBSERVATIONAL, batch) > 0
        gain = jnp.where(live, column["sign"] * (logprobs - column["ref_logprobs"]), 0.0)
        pairs = column["pair"].astype(jnp.int32).reshape(-1)
        margins = jax.ops.segment_sum(gain.reshape(-1), pairs, num_segments=pairs.size)
        there = jax.ops.segment_sum(live.reshape(-1).astype(jnp.float32), pairs, num_segments=pairs.size) > 0
        losses = jnp.where(there, jax.nn.softplus(-self.beta * margins), 0.0)
        return losses.sum(), there.sum().astype(jnp.float32)


def test_scores_that_are_not_finite_are_no_scores(policy, trainer):
    from cicjax.training import scoring

    model, base, adapter = policy
    broken = {**base, "norm": {"scale": base["norm"]["scale"] * jnp.nan}}
    rows = [transcript(np.random.default_rng(1), 12)]
    with pytest.raises(Corrupted, match="not finite"):
        scoring.token_logprobs(rows, model=model, base=broken, adapter=adapter, shape=SHAPE)


def test_a_loss_over_pairs_begins_at_ln_2(policy, trainer, tmp_path):
    from cicjax.training import scoring

    model, base, adapter = policy
    rng = np.random.default_rng(1)
    pairs = [(transcript(rng, 12), transcript(rng, 9)) for _ in range(3)]
    units = []
    for number, pair in enumerate(pairs):
        ref = scoring.token_logprobs(pair, model=model, base=base, adapter=adapter, shape=SHAPE)
        units.append(
            tuple(
                make_row(
                    each,
                    weighting("observational"),
                    ref_logprobs=ref[side],
                    sign=np.full(len(each.tokens), 1 - 2 * side, np.float32),
                    pair=np.full(len(each.tokens), number, np.float32),
                )
                for side, each in enumerate(pair)
            )
        )
    with Learner(trainer, "pairs", start=adapter) as learner:
        for _ in range(8):
            learner.update(units, rate=1e-2, shape=SHAPE, loss=Preference(0.5))
    losses = [line["loss"] for line in read_metrics(tmp_path / "metrics.jsonl", stage="pairs")]
    assert losses[0] == pytest.approx(np.log(2), abs=1e-5) and losses[-1] < 0.9 * losses[0]
