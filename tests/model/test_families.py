"""Qwen2's relatives: read, run, trained, sampled and written as transformers and peft do, on random sizes."""

import hashlib
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_qwen2
from safetensors.numpy import load_file
from toy_policy import random_policy

from cicjax import cli
from cicjax.devices import kind
from cicjax.errors import BadInput
from cicjax.model import huggingface, layout, lora, peft, qwen2
from cicjax.model.config import FAMILIES, QWEN2
from cicjax.sampling.draw import row_keys
from cicjax.sampling.sampler import Decoding, Sampler

RELATIVES = [family.model_type for family in FAMILIES if family != QWEN2]
every = pytest.mark.parametrize("model_type", RELATIVES)


def random_sizes(model_type, seed):
    """Sizes of a model that nothing but chance has chosen."""
    rng = np.random.default_rng([seed, len(model_type)])
    shared, groups, size = (int(rng.integers(*between)) for between in ((1, 3), (1, 4), (2, 9)))
    head_dim, heads = 2 * size, shared * groups
    own = {"head_dim": head_dim} if model_type == "qwen3" or seed % 2 else {}
    return {
        "model_type": model_type,
        "num_attention_heads": heads,
        "num_key_value_heads": shared,
        "hidden_size": heads * head_dim + (8 if own else 0),
        "intermediate_size": int(rng.integers(16, 64)),
        "num_hidden_layers": int(rng.integers(1, 4)),
        "tie_word_embeddings": bool(rng.integers(2)),
        "rms_norm_eps": float(rng.choice([1e-6, 1e-5])),
        **own,
    }


@every
@pytest.mark.parametrize("style", ["old", "new"])
@pytest.mark.parametrize("tied", [True, False])
def test_a_folder_in_and_out(tmp_path, model_type, style, tied):
    asked = {"model_type": model_type, "tie_word_embeddings": tied, "head_dim": 8}
    stored = tiny_qwen2.write(tmp_path / "in", style=style, rope_theta=5e5, **asked)
    config, base = huggingface.load_base(tmp_path / "in", "float32")
    assert not any("bias" in name for name in stored)
    assert any("q_norm" in name for name in stored) is config.family.head_norms
    huggingface.save_folder(tmp_path / "out", config, base=base)
    written = load_file(tmp_path / "out/model.safetensors")
    assert written.keys() == stored.keys()
    assert all(np.array_equal(written[name], tensor) for name, tensor in stored.items())
    assert huggingface.read_config(tmp_path / "out") == config
    described = json.loads((tmp_path / "out/config.json").read_text())
    assert described["model_type"] == model_type and "family" not in described


def edit_config(folder, **values):
    config = json.loads((folder / "config.json").read_text()) | values
    left = {key: value for key, value in config.items() if value is not ...}
    (folder / "config.json").write_text(json.dumps(left))


def test_relatives_of_the_same_sizes_have_digests_of_their_own(tmp_path):
    digests = set()
    for model_type in ("qwen2", *RELATIVES):
        tiny_qwen2.write(tmp_path / model_type, model_type=model_type)
        digests.add(huggingface.fingerprint(tmp_path / model_type))
    assert len(digests) == 3
    # That of a Qwen2 is made of these: adapters name their base by it, so nothing may join them.
    names = "head_dim hidden_size intermediate_size max_position_embeddings num_attention_heads "
    names += "num_hidden_layers num_key_value_heads rms_norm_eps rope_theta tie_word_embeddings vocab_size"
    config = huggingface.read_config(tmp_path / "qwen2")
    assert sorted(config.sizes()) == names.split()
    digest = hashlib.sha256(json.dumps(config.sizes(), sort_keys=True).encode())
    weights = (tmp_path / "qwen2/model.safetensors").read_bytes()
    digest.update(hashlib.sha256(weights).hexdigest().encode())
    assert huggingface.fingerprint(tmp_path / "qwen2") == digest.hexdigest()


@every
@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"attention_bias": True}, ["attention_bias", "without it"]),
        ({"mlp_bias": True}, ["mlp_bias"]),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, ["rope_scaling", "default rotary"]),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, ["rope_parameters"]),
        ({"architectures": ["Qwen2ForCausalLM"]}, ["not supported; give a model of Qwen2ForCausalLM"]),
        ({"quantization_config": {"bits": 4}}, ["quantized"]),
    ],
)
def test_what_is_not_supported_is_one_line(tmp_path, model_type, values, words):
    tiny_qwen2.write(tmp_path, model_type=model_type)
    edit_config(tmp_path, **values)
    with pytest.raises(BadInput) as caught:
        huggingface.load_base(tmp_path, "float32")
    told = str(caught.value)
    assert "\n" not in told and all(word in told for word in ("config.json", *words)), told


@every
def test_greedy_samples_are_those_of_the_logits(tmp_path, model_type):
    """Prompts and steps through the caches, as the whole row has it."""
    model, base, adapter = random_policy(tmp_path, seed=2, model_type=model_type, num_hidden_layers=1)
    model = model._replace(kind=kind.CPU)
    decoding = Decoding(max_new_tokens=5, temperature=0.0, stop_ids=())
    prompts = [[5, 6, 7], [8, 9, 10, 11]]
    sampler = Sampler(model, layout.prepare(base, kind.CPU.sampling), adapter)
    for prompt, done in zip(
        prompts, sampler.sample(prompts, row_keys(0, "x", [0, 1], [0, 0]), decoding), strict=True
    ):
        row = jnp.asarray([prompt + list(done.tokens)])
        logprobs = jax.nn.log_softmax(qwen2.apply(model, base, adapter, row)[0])
        chosen = logprobs[len(prompt) - 1 : -1]
        np.testing.assert_allclose(done.logprobs, chosen.max(axis=-1), atol=1e-4)
        assert chosen.argmax(axis=-1).tolist() == list(done.tokens)


@every
def test_trains_and_exports_from_the_command_line(tmp_path, model_type, capsys):
    tiny_qwen2.write(tmp_path / "base", model_type=model_type, num_hidden_layers=1)
    turns = [{"role": "user", "author": "user", "content": "12 N"}]
    turns += [{"role": "assistant", "author": "teacher", "content": "4"}]
    (tmp_path / "log.jsonl").write_text(json.dumps({"id": "1", "messages": turns}))
    model = ("--model", str(tmp_path / "base"))
    run = (
        "--output_dir",
        str(tmp_path / "run"),
        "--max_steps",
        "2",
        "--lora_r",
        "2",
        "--learning_rate",
        "0.01",
    )
    assert cli.main(["train", str(tmp_path / "log.jsonl"), *model, *run]) == 0
    for form in ("peft", "merged"):
        out = ("--format", form, "--output_dir", str(tmp_path / form))
        assert cli.main(["export", str(tmp_path / "run/adapter"), *model, *out]) == 0
    config, base = huggingface.load_base(tmp_path / "base", "float32")
    merged = huggingface.load_base(tmp_path / "merged", "float32")
    adapter, settings = peft.read_peft(tmp_path / "peft", config)
    assert merged[0] == config
    expected = lora.merge_adapter(base, adapter, settings)
    for ours, theirs in zip(*map(jax.tree.leaves, (expected, merged[1])), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)
    capsys.readouterr()


@every
@pytest.mark.parametrize("seed", range(4))
def test_transformers_and_peft_compute_the_same_on_random_sizes(tmp_path, model_type, seed):
    """The base, the adapter in peft, and the merged folder."""
    torch, library = pytest.importorskip("torch"), pytest.importorskip("peft")
    import transformers

    sizes = random_sizes(model_type, seed)
    model, base, adapter = random_policy(tmp_path / "base", seed=seed, **sizes)
    tokens = np.random.default_rng(seed).integers(0, 320, (2, 21))
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32).eval()

    def logits(peer):
        with torch.no_grad():
            return peer(torch.tensor(tokens)).logits.numpy()

    bare = qwen2.apply(qwen2.Model(model.config), base, None, jnp.asarray(tokens))
    np.testing.assert_allclose(logits(theirs), bare, atol=1e-3)
    ours = qwen2.apply(model, base, adapter, jnp.asarray(tokens))
    assert np.abs(ours - bare).max() > 1e-2
    peft.write_peft(tmp_path / "peft", adapter, model.lora, base_model_name_or_path="base", card="")
    peer = library.PeftModel.from_pretrained(theirs, str(tmp_path / "peft")).eval()
    np.testing.assert_allclose(logits(peer), ours, atol=1e-3)
    huggingface.write_merged(tmp_path / "merged", tmp_path / "base", adapter=adapter, lora=model.lora)
    whole, report = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "merged", output_loading_info=True
    )
    assert not any(report.values()), report
    assert type(whole).__name__ == model.config.family.architecture
    np.testing.assert_allclose(logits(whole.eval()), ours, atol=1e-3)


@every
def test_reads_the_configuration_that_transformers_writes(tmp_path, model_type):
    """Sizes that are left out are those of transformers."""
    pytest.importorskip("torch")
    import transformers

    theirs = transformers.AutoConfig.for_model(model_type, **{**tiny_qwen2.SIZES, "hidden_size": 64})
    transformers.AutoModelForCausalLM.from_config(theirs).save_pretrained(tmp_path)
    ours = huggingface.load_base(tmp_path, "float32")[0]
    for name in ("head_dim", "rms_norm_eps", "tie_word_embeddings", "max_position_embeddings"):
        assert getattr(ours, name) == getattr(theirs, name)
    edit_config(tmp_path, head_dim=...)
    again = transformers.AutoConfig.from_pretrained(tmp_path)
    assert huggingface.read_config(tmp_path).head_dim == again.head_dim
