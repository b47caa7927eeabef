"""Completions: the training graph's log-probabilities, one row whatever its batch, stopping, and few
programs."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
from toy_policy import random_policy

from cicjax.devices import kind
from cicjax.errors import Corrupted
from cicjax.model import layout, qwen2
from cicjax.objectives import likelihood
from cicjax.provenance import tokenizer as tokenizers
from cicjax.sampling import decode
from cicjax.sampling import sampler as sampling
from cicjax.sampling.draw import row_keys
from cicjax.sampling.sampler import Decoding, Sampler

PROMPTS = [[5, 6, 7], [9] * 40, [11, 12, 13, 14, 15, 16], [200]]


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("policy")
    model, base, adapter = random_policy(folder, seed=1)
    model = model._replace(kind=kind.CPU)
    return model, base, adapter, Sampler(model, base, adapter), tokenizers.load(folder)


def decoding(**changes):
    return Decoding(**({"max_new_tokens": 40, "temperature": 1.0, "stop_ids": (0, 1)} | changes))


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_logprobs_are_those_of_the_training_graph(policy, temperature):
    model, base, adapter, sampler, _ = policy
    completions = sampler.sample(
        PROMPTS, row_keys(0, "s", range(4), [0] * 4), decoding(temperature=temperature, stop_ids=())
    )
    for prompt, completion in zip(PROMPTS, completions, strict=True):
        tokens = jnp.asarray([[*prompt, *completion.tokens]])
        logits = qwen2.apply(model, base, adapter, tokens) / temperature
        expected = likelihood.token_logprobs(logits, tokens)[0, len(prompt) :]
        assert completion.finish_reason == "length" and len(completion.tokens) == 40
        np.testing.assert_allclose(completion.logprobs, expected, atol=1e-4)


def test_greedy_takes_the_most_probable_token(policy):
    model, base, adapter, sampler, _ = policy
    (completion,) = sampler.sample(
        PROMPTS[:1], row_keys(0, "g", [0], [0]), decoding(temperature=0.0, max_new_tokens=8, stop_ids=())
    )
    tokens = PROMPTS[0] + list(completion.tokens)
    logits = qwen2.apply(model, base, adapter, jnp.asarray([tokens]))[0, len(PROMPTS[0]) - 1 : -1]
    assert logits.argmax(axis=-1).tolist() == list(completion.tokens)


def test_a_row_does_not_notice_the_rows_beside_it(policy):
    *_, sampler, _ = policy
    problems, samples = [n for n in range(4) for _ in range(10)], list(range(10)) * 4
    keys = row_keys(3, "batch", problems, samples)
    together = sampler.sample(PROMPTS, keys, decoding(), prompt_of_row=problems)
    assert len(set(together)) > 30
    backwards = sampler.sample(PROMPTS, keys[::-1], decoding(), prompt_of_row=problems[::-1])
    assert backwards[::-1] == together
    few = [0, 13, 25, 39]
    smaller = sampler.sample(PROMPTS, keys[few], decoding(), prompt_of_row=[problems[row] for row in few])
    for row, completion in zip(few, smaller, strict=True):  # another bucket of rows may round another way
        assert completion.tokens == together[row].tokens
        np.testing.assert_allclose(completion.logprobs, together[row].logprobs, atol=1e-5)


def test_every_stop_id_ends_a_completion_and_belongs_to_it(policy):
    *_, sampler, _ = policy
    free = sampler.sample(PROMPTS, row_keys(0, "s", range(4), [0] * 4), decoding(stop_ids=()))
    stops = (free[0].tokens[3], free[1].tokens[37])
    for stopped, whole in zip(
        sampler.sample(PROMPTS, row_keys(0, "s", range(4), [0] * 4), decoding(stop_ids=stops)),
        free,
        strict=True,
    ):
        found = [n for n, token in enumerate(whole.tokens) if token in stops]
        assert stopped.tokens == whole.tokens[: found[0] + 1 if found else None]
        assert stopped.finish_reason == ("stop" if found else "length")
        assert len(stopped.logprobs) == len(stopped.tokens)


def test_a_stop_string_ends_a_completion_before_itself(policy):
    *_, sampler, tokenizer = policy
    (free,) = sampler.sample(PROMPTS[:1], row_keys(0, "s", [0], [0]), decoding(stop_ids=()))
    text = tokenizer.decode(free.tokens)
    stop = text[30:33]
    (cut,) = sampler.sample(
        PROMPTS[:1],
        row_keys(0, "s", [0], [0]),
        decoding(stop_ids=(), stop_strings=(stop,)),
        decode=tokenizer.decode,
    )
    assert cut.finish_reason == "stop_string"
    assert cut.tokens == free.tokens[: len(cut.tokens)] and stop not in tokenizer.decode(cut.tokens)
    assert stop in tokenizer.decode(free.tokens[: len(cut.tokens) + len(stop.encode()) + 1])


def test_a_stop_string_beyond_the_end_does_not_count():
    class Letters:
        def __call__(self, tokens):
            return "".join(chr(token) for token in tokens)

    tokens, logprobs = np.asarray([ord(c) for c in "ab#\nQ"]), np.zeros(5)
    stop = Decoding(max_new_tokens=5, temperature=0.0, stop_ids=(ord("#"),), stop_strings=("\nQ",))
    assert sampling.completed(tokens, logprobs, stop, Letters()).finish_reason == "stop"
    early = Decoding(max_new_tokens=5, temperature=0.0, stop_ids=(ord("Q"),), stop_strings=("b#",))
    assert sampling.completed(tokens, logprobs, early, Letters()) == (
        tuple(tokens[:1].tolist()),
        (0.0,),
        "stop_string",
    )


@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_log_probabilities_that_are_not_finite_are_no_completion(value):
    how = Decoding(max_new_tokens=2, temperature=0.0, stop_ids=())
    with pytest.raises(Corrupted, match="not finite"):
        sampling.completed(np.array([1, 2]), np.array([-0.5, value], np.float32), how, None)


def with_kind(policy, device):
    """A sampler of the same policy for another kind of device."""
    model, base, adapter, *_ = policy
    return Sampler(model._replace(kind=device), base, adapter)


def test_a_completion_does_not_notice_that_its_cache_grew(policy):
    *_, sampler, _ = policy
    keys = row_keys(0, "grow", range(4), [0] * 4)
    at_once = sampler.sample(PROMPTS, keys, decoding(max_new_tokens=64, stop_ids=()))
    grown = with_kind(policy, replace(kind.CPU, room=32)).sample(
        PROMPTS, keys, decoding(max_new_tokens=64, stop_ids=())
    )
    assert [each.tokens for each in grown] == [each.tokens for each in at_once]
    np.testing.assert_allclose(
        [each.logprobs for each in grown], [each.logprobs for each in at_once], atol=1e-5
    )


def test_no_program_is_compiled_twice(policy):
    *_, sampler, _ = policy
    sampler.sample(PROMPTS, row_keys(0, "warm", range(4), [0] * 4), decoding())
    programs = decode.prefill, decode.decode_step, decode.decode_loop
    before = [program._cache_size() for program in programs]
    assert before[0] and before[1] + before[2]
    sampler.sample(PROMPTS[::-1], row_keys(1, "again", range(4), [1] * 4), decoding())
    assert [program._cache_size() for program in programs] == before


@pytest.mark.parametrize("device", [kind.ANY, kind.GPU, kind.TPU, replace(kind.CPU, segment=7)])
def test_every_kind_of_device_draws_the_same(policy, device):
    """One program for all steps or one a step, other buckets, segments and layouts."""
    keys, other = row_keys(5, "loop", range(4), [0] * 4), with_kind(policy, device)
    for settings in (decoding(), decoding(temperature=0.0), decoding(max_new_tokens=5)):
        here, there = (each.sample(PROMPTS, keys, settings) for each in (policy[3], other))
        for one, same in zip(here, there, strict=True):
            assert (one.tokens, one.finish_reason) == (same.tokens, same.finish_reason)
            np.testing.assert_allclose(one.logprobs, same.logprobs, atol=1e-5)


def test_any_layout_of_the_base_may_be_sampled_from(policy):
    model, base, adapter, sampler, _ = policy
    keys = row_keys(6, "layout", range(4), [0] * 4)
    expected = sampler.sample(PROMPTS, keys, decoding())
    for wanted in (kind.CPU.training, kind.CPU.sampling, kind.GPU.training):
        other = Sampler(model, layout.prepare(base, wanted), adapter)
        assert other.sample(PROMPTS, keys, decoding()) == expected


def test_an_empty_prompt_is_refused(policy):
    with pytest.raises(ValueError, match="empty prompt"):
        policy[3].sample([[]], row_keys(0, "e", [0], [0]), decoding())
