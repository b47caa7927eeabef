"""An adapter served beside the base changes what training made of it, after one update as after ten; and rows
that each draw in their own way."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_policy import random_policy

from cicjax.devices import kind
from cicjax.errors import BadInput
from cicjax.model import huggingface, layout, lora, qwen2
from cicjax.model.config import LoRAConfig
from cicjax.provenance import Encoded, weights
from cicjax.provenance.protocol import Weighting
from cicjax.sampling import decode, draw
from cicjax.sampling.draw import row_keys
from cicjax.sampling.sampler import Decoding, Sampler
from cicjax.training import scoring, steps
from cicjax.training.batches import Shape, make_row
from cicjax.training.loop import one_update

PROMPTS = [[5, 6, 7], [9] * 40, [11, 12, 13, 14, 15, 16], [200]]
UPDATES = (1, 3, 10)


def encoded(tokens, first_target=1):
    length = len(tokens)
    is_target = np.arange(length) >= first_target
    facts = np.full(length, -1, np.int8), np.ones(length, np.int8)
    return Encoded(np.asarray(tokens, np.int32), np.zeros(length, np.int8), is_target, *facts)


def trained(model, base, updates, *, vocabulary):
    """Adapters after each number of updates at 2e-4, from a fresh one."""
    start = lora.init_adapter(model.config, model.lora, jax.random.key(0))
    optimization = steps.Optimization()
    state, rng = steps.start_state(start, optimization), np.random.default_rng(0)
    weighting = Weighting(weights.OBSERVATIONAL)
    found = {}
    for index in range(max(updates)):
        rows = [make_row(encoded(rng.integers(3, vocabulary, 60)), weighting) for _ in range(2)]
        state, _ = one_update(
            state,
            rows,
            index=index,
            rate=2e-4,
            model=model,
            base=layout.prepare(base, model.kind.training),
            shape=Shape(1, 192),
            optimization=optimization,
            loss=steps.Likelihood(weights.OBSERVATIONAL),
        )
        if index + 1 in updates:
            found[index + 1] = jax.tree.map(jnp.copy, state.adapter)
    return found


@pytest.fixture(scope="module", params=[jnp.bfloat16, jnp.float32], ids=["bfloat16", "float32"])
def policy(request, tmp_path_factory):
    model, base, _ = random_policy(tmp_path_factory.mktemp("served"), seed=6, hidden_size=64)
    model = model._replace(kind=kind.CPU)
    base = jax.tree.map(lambda leaf: leaf.astype(request.param), base)
    return model, base, trained(model, base, UPDATES, vocabulary=300)


def changes(model, base_layer, adapter_layer):
    """Of each projection: its output with the adapter minus without, on random inputs."""
    block, bare = (model.block(base_layer, each) for each in (adapter_layer, None))
    for name, (module, inputs, _) in lora.projection_shapes(model.config).items():
        x = jax.random.normal(jax.random.key(inputs), (64, inputs))
        yield name, *(getattr(getattr(each, module), name)(x) for each in (block, bare))


def distances(model, base, adapter, *, merged):
    """How far each projection's served change is from the training graph's, relative to that."""
    in_training = layout.prepare(base, model.kind.training)["layers"][0]
    factors = layout.apart(adapter["layers"], model.config.num_hidden_layers)[0]
    of_training = {name: a - b for name, a, b in changes(model, in_training, factors)}
    served = layout.prepare(base, model.kind.sampling)["layers"][0]
    dtype = base["norm"]["scale"].dtype
    beside = layout.serving(adapter, dtype)["layers"][0]
    of_serving = {name: a - b for name, a, b in changes(model, served, beside)}
    if merged:
        into = layout.prepare(base, model.kind.sampling, adapter=adapter, lora=model.lora)["layers"][0]
        with_it = {name: bare for name, _, bare in changes(model, into, beside)}
        without = {name: bare for name, _, bare in changes(model, served, beside)}
        of_serving = {name: with_it[name] - without[name] for name in with_it}
    return {
        name: float(jnp.linalg.norm(of_serving[name] - change) / jnp.linalg.norm(change))
        for name, change in of_training.items()
    }


@pytest.mark.parametrize("updates", UPDATES)
def test_what_is_served_changes_by_what_was_learned(policy, updates):
    model, base, adapters = policy
    found = distances(model, base, adapters[updates], merged=False)
    assert len(found) == 7 and max(found.values()) < 0.02
    control = distances(model, base, adapters[updates], merged=True)
    if base["norm"]["scale"].dtype == jnp.bfloat16:
        assert min(control.values()) > 0.02  # rounded into the base, it is not what was learned


def sampled_gaps(model, base, adapter, prompts, *, count, temperature=1.0):
    """|log p at sampling - log p in the training graph| of at least `count` sampled tokens."""
    sampler = Sampler(model, base, adapter)
    how = Decoding(max_new_tokens=32, temperature=temperature, stop_ids=())
    number = -(-count // 32)
    owner = [n % len(prompts) for n in range(number)]
    keys = row_keys(0, "gap", owner, list(range(number)))
    completions = sampler.sample(prompts, keys, how, prompt_of_row=owner)
    rows = [
        encoded([*prompts[n], *each.tokens], first_target=len(prompts[n]))
        for n, each in zip(owner, completions, strict=True)
    ]
    scores = scoring.token_logprobs(
        rows,
        model=model,
        base=layout.prepare(base, model.kind.training),
        adapter=adapter,
        shape=Shape(1, 320),
        targets_only=True,
    )
    pairs = zip(scores, rows, completions, strict=True)
    return np.concatenate([np.abs(s[-len(c.tokens) :] - np.asarray(c.logprobs)) for s, _, c in pairs])


def test_sampling_and_training_agree_on_a_thousand_tokens(policy):
    model, base, adapters = policy
    gaps = sampled_gaps(model, base, adapters[10], PROMPTS, count=1000)
    assert len(gaps) >= 1000
    if base["norm"]["scale"].dtype == jnp.float32:
        assert gaps.max() < 1e-4
    else:
        assert gaps.mean() < 2e-2


@pytest.mark.weights
@pytest.mark.slow
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32], ids=["bfloat16", "float32"])
def test_real_weights_serve_what_was_learned(qwen_folder, dtype):
    config, base = huggingface.load_base(qwen_folder, dtype)
    model = qwen2.Model(config, LoRAConfig(), kind.here())
    adapters = trained(model, base, UPDATES, vocabulary=50_000)
    for updates, adapter in adapters.items():
        found, control = (distances(model, base, adapter, merged=merged) for merged in (False, True))
        print(updates, dtype.__name__, max(found.values()), sorted(control.values()))
        assert max(found.values()) < 0.02
        assert dtype == jnp.float32 or min(control.values()) > 0.02
    prompts = [list(range(1000, 1040)), list(range(5000, 5017))]
    gaps = sampled_gaps(model, base, adapters[10], prompts, count=1000)
    print("gap", gaps.mean(), gaps.max())
    assert gaps.max() < 1e-4 if dtype == jnp.float32 else gaps.mean() < 2e-2


def test_a_greedy_and_a_sampled_row_do_not_notice_each_other(policy):
    model, base, adapters = policy
    sampler = Sampler(model, base, adapters[10])
    hows = [
        Decoding(max_new_tokens=24, temperature=0.0, stop_ids=()),
        Decoding(max_new_tokens=40, temperature=1.0, stop_ids=(7, 8)),
        Decoding(max_new_tokens=24, temperature=0.7, stop_ids=(), top_p=0.5),
        Decoding(max_new_tokens=7, temperature=1.3, stop_ids=()),
    ]
    keys = row_keys(1, "mixed", range(4), [0] * 4)
    together = sampler.sample(PROMPTS, keys, hows)
    for number, how in enumerate(hows):
        (alone,) = sampler.sample(PROMPTS[number : number + 1], keys[number : number + 1], how)
        assert together[number].tokens == alone.tokens
        assert together[number].finish_reason == alone.finish_reason
        np.testing.assert_allclose(together[number].logprobs, alone.logprobs, atol=5e-2)


def test_requests_and_adapters_compile_nothing(policy):
    model, base, adapters = policy
    keys = row_keys(1, "few", range(4), [0] * 4)

    def run(adapter, **changes):
        how = Decoding(**({"max_new_tokens": 20, "temperature": 1.0, "stop_ids": (0,)} | changes))
        Sampler(model, base, adapter).sample(PROMPTS, keys, how)

    run(adapters[1])
    programs = decode.prefill, decode.decode_step, decode.decode_loop
    before = [program._cache_size() for program in programs]
    for changed in ({"temperature": 0.3}, {"top_p": 0.9}, {"stop_ids": (1, 2)}, {"temperature": 0.0}):
        run(adapters[3], **changed)
    assert [program._cache_size() for program in programs] == before


def test_samplers_share_the_base(policy):
    model, base, adapters = policy
    model = model._replace(kind=kind.GPU)
    first, second = (Sampler(model, base, adapters[updates]) for updates in (1, 3))
    for one, other in zip(*(jax.tree.leaves(each._base) for each in (first, second)), strict=True):
        assert one is other
    merged = lora.merge_adapter(base, adapters[10], model.lora)  # the same embedding, other kernels
    third = Sampler(model, merged)
    assert third._base["layers"][0] is not first._base["layers"][0]


@pytest.mark.parametrize("device", [kind.CPU, kind.ANY], ids=["cpu", "any"])
def test_long_prompts_go_in_by_chunks(tmp_path, device):
    model, base, adapter = random_policy(tmp_path, seed=2)
    prompts = [list(np.random.default_rng(n).integers(3, 300, size)) for n, size in enumerate((200, 90, 5))]
    keys = row_keys(2, "long", range(3), [0] * 3)
    how = Decoding(max_new_tokens=10, temperature=1.0, stop_ids=())
    whole, chunked = (
        Sampler(model._replace(kind=replace(device, prompt_chunk=chunk)), base, adapter).sample(
            prompts, keys, how
        )
        for chunk in (1024, 64)
    )
    for one, other in zip(whole, chunked, strict=True):
        assert one.tokens == other.tokens
        np.testing.assert_allclose(one.logprobs, other.logprobs, atol=1e-4)


def test_a_prompt_that_would_pass_the_last_position_is_refused(tmp_path):
    model, base, _ = random_policy(tmp_path, seed=2)
    how = Decoding(max_new_tokens=13, temperature=1.0, stop_ids=())
    with pytest.raises(BadInput, match="prompt 2: 500 tokens and 13 new ones pass the model's 512 positions"):
        Sampler(model, base).sample([[5], [5] * 500], row_keys(0, "p", range(2), [0] * 2), how)


@pytest.mark.parametrize("top_p", [0.05, 0.5, 0.7, 0.95])
def test_the_nucleus_is_the_most_probable_tokens_with_so_much_probability(top_p):
    scores = jax.random.normal(jax.random.key(0), (500, 3)) * 3
    kept = np.asarray(scores >= draw.lowest_of_nucleus(scores, jnp.full(3, top_p))[None])
    probabilities = np.asarray(jax.nn.softmax(scores, axis=0))
    for column in range(3):
        order = np.argsort(-probabilities[:, column])
        count = int(np.searchsorted(np.cumsum(probabilities[order, column]), top_p * (1 - 1e-6))) + 1
        assert set(np.flatnonzero(kept[:, column])) == set(order[: min(count, 500)])
