"""The model against transformers, and its adapter, packing and causality by gradient."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_qwen2

from cicjax.assets import default_model_folder
from cicjax.model import huggingface, lora, qwen2
from cicjax.model.config import LoRAConfig

SMALL = {
    "tied": {},
    "untied, one key-value head": {"tie_word_embeddings": False, "num_key_value_heads": 1},
    "wide head, three layers": {"head_dim": 16, "num_hidden_layers": 3, "rope_theta": 1e6},
}


def random_model(tmp_path, rank=4, **sizes):
    """(model with LoRA, base, adapter whose B is not zero) of a random folder."""
    tiny_qwen2.write(tmp_path / "model", **sizes)
    config, base = huggingface.load_base(tmp_path / "model", jnp.float32)
    settings = LoRAConfig(rank=rank, alpha=8.0)
    adapter = lora.init_adapter(config, settings, jax.random.key(0))
    noisy = jax.tree.map(
        lambda leaf: leaf + 0.05 * jax.random.normal(jax.random.key(leaf.size), leaf.shape), adapter
    )
    return qwen2.Model(config, settings), base, noisy


@pytest.mark.parametrize("sizes", SMALL.values(), ids=SMALL)
@pytest.mark.parametrize("apart", [False, True], ids=["scan", "loop"])
def test_logits_equal_those_of_transformers(tmp_path, sizes, apart):
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    tiny_qwen2.write(tmp_path, seed=3, **sizes)
    config, base = huggingface.load_base(tmp_path, jnp.float32)
    tokens = np.random.default_rng(0).integers(0, config.vocab_size, (2, 21))
    peer = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    with torch.no_grad():
        expected = peer(torch.tensor(tokens)).logits.numpy()
    ours = qwen2.apply(qwen2.Model(config), qwen2.unstack(base) if apart else base, None, jnp.asarray(tokens))
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(ours, expected, atol=1e-3)


@pytest.mark.weights
def test_real_logits_and_greedy_text_equal_those_of_transformers(qwen_folder):
    _same_as_transformers(qwen_folder, numbers="paper")


def test_the_embedded_bases_logits_and_greedy_text_equal_those_of_transformers():
    _same_as_transformers(default_model_folder(), numbers="tiny")


def _same_as_transformers(folder, *, numbers):
    """Logits on a prompt, and 32 greedy tokens on each of 20."""
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    from cicjax.provenance import tokenizer as tokenizers
    from cicjax.sampling.draw import row_keys
    from cicjax.sampling.sampler import Decoding, Sampler
    from cicjax.tasks import stem

    tokenizer = tokenizers.load(folder)
    config, base = huggingface.load_base(folder, jnp.float32)
    base = qwen2.unstack(base)
    peer = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    problems = stem.make_splits(seed=5, sft=20, agent=10, test=10, dev=10, numbers=numbers).sft
    prompts = [
        tokenizer.encode(f"Question:\n{problem.question}\n\nProposed solution:\n") for problem in problems
    ]
    with jax.default_matmul_precision("highest"):
        ours = qwen2.apply(qwen2.Model(config), base, None, jnp.asarray([prompts[0]]))
        with torch.no_grad():
            expected = peer(torch.tensor([prompts[0]])).logits.numpy()
        assert np.abs(np.asarray(ours) - expected).max() < 1e-3
        decoding = Decoding(max_new_tokens=32, temperature=0.0, stop_ids=tuple(tokenizer.stop_ids))
        completions = Sampler(qwen2.Model(config), base).sample(
            prompts, row_keys(0, "parity", range(20), [0] * 20), decoding
        )
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    for prompt, completion in zip(prompts, completions, strict=True):
        assert theirs.decode(completion.tokens, skip_special_tokens=True) == tokenizer.decode(
            completion.tokens, skip_controls=True
        )
        _same_greedy_text(peer, torch, prompt, completion.tokens)


def _same_greedy_text(peer, torch, prompt, tokens):
    """Every token is the peer's argmax given the same prefix, or within 1e-4 of it."""
    with torch.no_grad():
        scores = peer(torch.tensor([prompt + list(tokens)])).logits[0, len(prompt) - 1 : -1]
    chosen = scores[torch.arange(len(tokens)), torch.tensor(tokens)]
    assert bool((scores.max(dim=-1).values - chosen < 1e-4).all())


def test_a_fresh_adapter_changes_nothing_and_a_trained_one_equals_its_merge(tmp_path):
    model, base, adapter = random_model(tmp_path)
    tokens = jnp.arange(30).reshape(2, 15)
    plain = qwen2.apply(qwen2.Model(model.config), base, None, tokens)
    fresh = lora.init_adapter(model.config, model.lora, jax.random.key(1))
    np.testing.assert_array_equal(qwen2.apply(model, base, fresh, tokens), plain)
    adapted = qwen2.apply(model, base, adapter, tokens)
    assert np.abs(adapted - plain).max() > 1e-2
    merged = lora.merge_adapter(base, adapter, model.lora)
    np.testing.assert_allclose(
        qwen2.apply(qwen2.Model(model.config), merged, None, tokens), adapted, atol=1e-4
    )


def test_only_targeted_projections_have_factors(tmp_path):
    model, base, _ = random_model(tmp_path)
    settings = dataclasses.replace(model.lora, target_modules=("q_proj", "down_proj"))
    adapter = lora.init_adapter(model.config, settings, jax.random.key(0))
    assert {name for module in adapter["layers"].values() for name in module} == {"q_proj", "down_proj"}
    logits = qwen2.apply(qwen2.Model(model.config, settings), base, adapter, jnp.ones((1, 4), jnp.int32))
    assert bool(jnp.isfinite(logits).all())


def test_no_position_depends_on_a_later_token(tmp_path):
    model, base, adapter = random_model(tmp_path)
    tokens = jnp.arange(9)[None]

    def score_at(embedding, t):
        return qwen2.apply(model, {**base, "embed_tokens": {"embedding": embedding}}, adapter, tokens)[
            0, t, 5
        ]

    for t in (0, 4, 8):
        gradient = jax.grad(score_at)(base["embed_tokens"]["embedding"], t)
        touched = np.abs(np.asarray(gradient)).max(axis=1)[np.asarray(tokens[0])] > 0
        touched[5] = t >= 5  # row 5 of a tied table is also the output whose score is read
        assert touched.tolist() == [position <= t for position in range(9)]


def test_packed_rows_equal_rows_alone(tmp_path):
    model, base, adapter = random_model(tmp_path)
    first, second = jnp.arange(5), jnp.arange(40, 47)
    packed = jnp.concatenate([first, second])[None]
    positions = jnp.concatenate([jnp.arange(5), jnp.arange(7)])[None]
    segments = jnp.asarray([[1] * 5 + [2] * 7])
    together = qwen2.apply(model, base, adapter, packed, positions, segments)[0]
    alone = [qwen2.apply(model, base, adapter, row[None])[0] for row in (first, second)]
    np.testing.assert_allclose(together, jnp.concatenate(alone), atol=1e-5)


def test_a_bf16_base_agrees_with_float32_and_gives_float32_gradients(tmp_path):
    model, base, adapter = random_model(tmp_path)
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), base)
    tokens = jnp.arange(12)[None]
    np.testing.assert_allclose(
        qwen2.apply(model, half, adapter, tokens), qwen2.apply(model, base, adapter, tokens), atol=0.2
    )

    def loss(adapter, base):
        return (qwen2.apply(model, base, adapter, tokens) ** 2).mean()

    gradients = [jax.grad(loss)(adapter, tree) for tree in (half, base)]
    assert {leaf.dtype for leaf in jax.tree.leaves(gradients[0])} == {jnp.dtype(jnp.float32)}
    for coarse, fine in zip(*map(jax.tree.leaves, gradients), strict=True):
        assert np.linalg.norm(coarse - fine) < 0.1 * np.linalg.norm(fine)


def test_layers_apart_give_the_gradients_of_stacked_ones(tmp_path):
    model, base, adapter = random_model(tmp_path)
    tokens = jnp.arange(12)[None]
    gradients = [
        jax.grad(lambda adapter, tree=tree: (qwen2.apply(model, tree, adapter, tokens) ** 2).mean())(adapter)
        for tree in (base, qwen2.unstack(base))
    ]
    assert jax.tree.structure(gradients[0]) == jax.tree.structure(gradients[1])
    for one, other in zip(*map(jax.tree.leaves, gradients), strict=True):
        assert np.abs(one).max() > 0
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def test_rms_norm_and_its_gradient_are_those_of_the_definition():
    x, scale, cotangent = (
        jax.random.normal(jax.random.key(number), shape)
        for number, shape in enumerate([(2, 5, 8), (8,), (2, 5, 8)])
    )

    def definition(x, scale):
        return x / jnp.sqrt(jnp.square(x).mean(axis=-1, keepdims=True) + 1e-6) * scale[None, None]

    ours, back = jax.vjp(lambda x, scale: qwen2.rms_norm(x, scale, 1e-6), x, scale)
    expected, expected_back = jax.vjp(definition, x, scale)
    np.testing.assert_allclose(ours, expected, atol=1e-5)
    for one, other in zip(back(cotangent), expected_back(cotangent), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("keep", [True, False])
def test_turned_kernels_give_the_same_values_and_gradients(tmp_path, keep):
    model, base, adapter = random_model(tmp_path)
    apart = qwen2.unstack(base)
    turned = {**apart, "layers": tuple(qwen2.turn_kernels(layer, keep=keep) for layer in apart["layers"])}
    assert ("kernel" in turned["layers"][0]["mlp"]["up_proj"]) == keep
    tokens = jnp.arange(12)[None]

    def loss(trees, model):
        return (qwen2.apply(model, *trees, tokens) ** 2).mean()

    for static, tree in ((model, adapter), (qwen2.Model(model.config), None)):
        np.testing.assert_allclose(
            qwen2.apply(static, turned, tree, tokens), qwen2.apply(static, apart, tree, tokens), atol=1e-5
        )
        (of_turned, ours), (of_apart, theirs) = (
            jax.grad(loss)((base, tree), static) for base in (turned, apart)
        )
        for one, other in zip(*map(jax.tree.leaves, (ours, theirs)), strict=True):
            np.testing.assert_allclose(one, other, atol=1e-5)
        for one, other in zip(of_turned["layers"], of_apart["layers"], strict=True):
            gradient, expected = one["mlp"]["down_proj"], other["mlp"]["down_proj"]["kernel"]
            np.testing.assert_allclose(
                gradient["kernel"] if keep else gradient["turned"].T, expected, atol=1e-5
            )


def test_both_ways_holds_every_kernel_and_the_head_with_their_transposes(tmp_path):
    _, base, _ = random_model(tmp_path)
    both = qwen2.both_ways(base)
    np.testing.assert_array_equal(both["unembedding"].T, qwen2.output_embedding(base))
    for layer in both["layers"]:
        for module, name in (("self_attn", "q_proj"), ("mlp", "down_proj")):
            np.testing.assert_array_equal(layer[module][name]["turned"].T, layer[module][name]["kernel"])


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_swiglu_is_silu_times_up_and_keeps_its_inputs_alone(dtype):
    gate, up, cotangent = (jax.random.normal(jax.random.key(n), (3, 40)).astype(dtype) for n in range(3))

    def plain(gate, up):
        gate, up = gate.astype(jnp.float32), up.astype(jnp.float32)
        return (gate / (1 + jnp.exp(-gate)) * up).astype(dtype)

    value, pull = jax.vjp(qwen2.swiglu, gate, up)
    expected, pull_plain = jax.vjp(plain, gate, up)
    accuracy = {jnp.float32: 1e-6, jnp.bfloat16: 2e-2}[dtype]
    np.testing.assert_allclose(
        value.astype(jnp.float32), expected.astype(jnp.float32), atol=accuracy, rtol=accuracy
    )
    for ours, theirs in zip(pull(cotangent), pull_plain(cotangent), strict=True):
        assert ours.dtype == dtype
        np.testing.assert_allclose(
            ours.astype(jnp.float32), theirs.astype(jnp.float32), atol=accuracy, rtol=accuracy
        )
    assert {(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(pull)} == {(gate.shape, jnp.dtype(dtype))}


def test_one_trace_serves_all_layers(tmp_path):
    model, base, adapter = random_model(tmp_path, num_hidden_layers=6)
    calls = []

    class Counting(qwen2.Model):
        def block(self, *trees):
            calls.append(trees)
            return super().block(*trees)

    counting = Counting(*model)
    qwen2.apply(counting, qwen2.unstack(base), adapter, jnp.arange(8)[None])
    assert len(calls) == 1
