"""The model against transformers, and its adapter, packing and causality by gradient."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_qwen2
from toy_policy import random_policy

from cicjax.assets import default_model_folder
from cicjax.devices import kind
from cicjax.model import huggingface, layout, lora, qwen2

SMALL = {
    "tied": {},
    "untied, one key-value head": {"tie_word_embeddings": False, "num_key_value_heads": 1},
    "wide head, three layers": {"head_dim": 16, "num_hidden_layers": 3, "rope_theta": 1e6},
}


def random_model(tmp_path, **sizes):
    """(model with LoRA, base, adapter whose B is not zero) of a random folder."""
    return random_policy(tmp_path / "model", seed=0, **sizes)


@pytest.mark.parametrize("sizes", SMALL.values(), ids=SMALL)
@pytest.mark.parametrize("wanted", [kind.GPU.training, kind.CPU.training, kind.CPU.sampling])
def test_logits_equal_those_of_transformers(tmp_path, sizes, wanted):
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    tiny_qwen2.write(tmp_path, seed=3, **sizes)
    config, base = huggingface.load_base(tmp_path, jnp.float32)
    tokens = np.random.default_rng(0).integers(0, config.vocab_size, (2, 21))
    peer = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    with torch.no_grad():
        expected = peer(torch.tensor(tokens)).logits.numpy()
    ours = qwen2.apply(qwen2.Model(config), layout.prepare(base, wanted), None, jnp.asarray(tokens))
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
    model, base = qwen2.Model(config, kind=kind.here()), layout.prepare(base, kind.here().sampling)
    peer = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    problems = stem.make_splits(seed=5, sft=20, agent=10, test=10, dev=10, numbers=numbers).sft
    prompts = [
        tokenizer.encode(f"Question:\n{problem.question}\n\nProposed solution:\n") for problem in problems
    ]
    with jax.default_matmul_precision("highest"):
        ours = qwen2.apply(model, base, None, jnp.asarray([prompts[0]]))
        with torch.no_grad():
            expected = peer(torch.tensor([prompts[0]])).logits.numpy()
        assert np.abs(np.asarray(ours) - expected).max() < 1e-3
        decoding = Decoding(max_new_tokens=32, temperature=0.0, stop_ids=tuple(tokenizer.stop_ids))
        completions = Sampler(model, base).sample(
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


def test_one_trace_serves_all_layers(tmp_path):
    model, base, adapter = random_model(tmp_path, num_hidden_layers=6)
    calls = []

    class Counting(qwen2.Model):
        def block(self, *trees):
            calls.append(trees)
            return super().block(*trees)

    counting = Counting(*model)
    for number, wanted in enumerate((kind.CPU.training, kind.CPU.sampling, kind.GPU.training), start=1):
        qwen2.apply(counting, layout.prepare(base, wanted), adapter, jnp.arange(8)[None])
        assert len(calls) == number
