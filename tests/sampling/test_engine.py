"""The engine: what it draws is the sampler's and the training graph's, whoever else is answered."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_policy import random_policy

from cicjax.devices import kind
from cicjax.model import qwen2
from cicjax.objectives import likelihood
from cicjax.provenance import tokenizer as tokenizers
from cicjax.sampling.engine import Engine
from cicjax.sampling.request import BASE, Request

ROWS, LENGTH, SEED = 4, 192, 3
PROMPTS = [(5, 6, 7), tuple(range(9, 99)), (11, 12, 13, 14, 15, 16), (200,)]


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("policy")
    model, base, adapter = random_policy(folder, seed=1)
    return model._replace(kind=kind.CPU), base, adapter, tokenizers.load(folder)


def other_adapter(adapter):
    return jax.tree.map(lambda leaf: -leaf, adapter)


@pytest.fixture(scope="module")
def engine(policy):
    model, base, adapter, tokenizer = policy
    engine = Engine(model, base, tokenizer, rows=ROWS, slots=3, length=LENGTH, seed=SEED)
    engine.load(1, adapter)
    engine.load(2, other_adapter(adapter))
    engine.warm_up()
    return engine


def request(prompt=PROMPTS[0], **changes):
    given = {"max_tokens": 24, "temperature": 1.0, "stop_ids": (), "version": 1}
    return Request(prompt_ids=tuple(prompt), **given | changes)


def finish(engine, *handles):
    while engine.step():
        pass
    return [join(each) for each in handles]


def join(handle):
    pieces = handle.take()
    assert handle.ended and handle.completion.text == "".join(each.text for each in pieces)
    return handle.completion


def answers(engine, *requests):
    return finish(engine, *[engine.submit(each) for each in requests])


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_logprobs_are_those_of_the_training_graph(engine, policy, temperature):
    model, base, adapter, _ = policy
    adapters = {1: adapter, 2: other_adapter(adapter), BASE: None}
    asked = [
        request(prompt, temperature=temperature, version=version, seed=n)
        for n, (prompt, version) in enumerate(zip(PROMPTS, (1, 2, BASE, 1), strict=True))
    ]
    for each, answer in zip(asked, answers(engine, *asked), strict=True):
        tokens = jnp.asarray([[*each.prompt_ids, *answer.ids]])
        logits = qwen2.apply(model, base, adapters[each.version], tokens) / temperature
        expected = likelihood.token_logprobs(logits, tokens)[0, len(each.prompt_ids) :]
        assert answer.finish_reason == "length" and len(answer.ids) == 24
        np.testing.assert_allclose(answer.logprobs, expected, atol=1e-4)
