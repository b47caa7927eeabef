"""Writes small random folders of Qwen2 and its relatives as other programs do, without the package under
test: torch's layout, config.json, a tokenizer."""

import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import tokenizers
from safetensors.numpy import save_file
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

SIZES: dict[str, Any] = {
    "vocab_size": 320,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 512,
    "tie_word_embeddings": True,
}
CONTROLS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
# Qwen's way of cutting text before byte pairs are merged: contractions, words, single digits, punctuation
# with its line breaks, space.
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| "
    r"?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEXT = (
    "Question:\nA force of 12 N acts on 3 kg.\n\nProposed solution:\n",
    "a = F / m = 12 / 3 = 4\nFinal answer: 4 m/s^2\n",
)


def config_json(
    *, style: str = "old", dtype: str = "float32", rope_theta: float = 10_000.0, **sizes: Any
) -> dict[str, Any]:
    """config.json in the spelling of transformers 4 (old) or 5 (new); `sizes` replace those of SIZES, and
    may have a `model_type`."""
    spelled = {
        "torch_dtype": dtype,
        "rope_theta": rope_theta,
        "use_sliding_window": False,
        "sliding_window": 64,
        "max_window_layers": 1,
    }
    if style == "new":
        spelled = {
            "dtype": dtype,
            "rope_parameters": {"rope_theta": rope_theta, "rope_type": "default"},
            "sliding_window": None,
        }
        spelled["layer_types"] = ["full_attention"] * {**SIZES, **sizes}["num_hidden_layers"]
    model_type = sizes.get("model_type", "qwen2")
    return {
        "architectures": [f"{model_type.capitalize()}ForCausalLM"],
        "model_type": model_type,
        "hidden_act": "silu",
        **spelled,
        **SIZES,
        **({"head_dim": 8} if model_type == "qwen3" else {}),
        **sizes,
    }


def tensors(config: dict[str, Any], *, seed: int = 0, dtype: str = "float32") -> dict[str, np.ndarray]:
    """Random tensors under the names and in the (out, in) layout of torch."""
    rng, d, f = np.random.default_rng(seed), config["hidden_size"], config["intermediate_size"]
    size = config.get("head_dim", d // config["num_attention_heads"])
    queries, keys = config["num_attention_heads"] * size, config["num_key_value_heads"] * size
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (config["vocab_size"], d),
        "model.norm.weight": (d,),
    }
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (config["vocab_size"], d)
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        shapes |= {prefix + f"{norm}_layernorm.weight": (d,) for norm in ("input", "post_attention")}
        for name, outputs in (("q", queries), ("k", keys), ("v", keys)):
            shapes |= {prefix + f"self_attn.{name}_proj.weight": (outputs, d)}
            if config["model_type"] == "qwen2":
                shapes |= {prefix + f"self_attn.{name}_proj.bias": (outputs,)}
        if config["model_type"] == "qwen3":
            shapes |= {prefix + f"self_attn.{name}_norm.weight": (size,) for name in ("q", "k")}
        shapes |= {prefix + "self_attn.o_proj.weight": (d, queries), prefix + "mlp.down_proj.weight": (d, f)}
        shapes |= {prefix + f"mlp.{name}_proj.weight": (f, d) for name in ("gate", "up")}
    scale = {name: 1.0 if "norm" in name else 0.0 for name in shapes}
    return {
        n: (scale[n] + 0.1 * rng.standard_normal(shape)).astype(jnp.dtype(dtype))
        for n, shape in shapes.items()
    }


def write(
    folder: Path,
    *,
    seed: int = 0,
    shards: int = 1,
    style: str = "old",
    dtype: str = "float32",
    rope_theta: float = 10_000.0,
    **sizes: Any,
) -> dict[str, np.ndarray]:
    """A whole folder: config.json, one or several safetensors files, tokenizer.json. Returns the tensors it
    holds."""
    folder.mkdir(parents=True, exist_ok=True)
    config = config_json(style=style, dtype=dtype, rope_theta=rope_theta, **sizes)
    (folder / "config.json").write_text(json.dumps(config))
    stored = tensors(config, seed=seed, dtype=dtype)
    write_weights(folder, stored, shards=shards)
    write_tokenizer(folder)
    return stored


def write_weights(folder: Path, stored: dict[str, np.ndarray], *, shards: int = 1) -> None:
    """model.safetensors, or `shards` files with model.safetensors.index.json."""
    if shards == 1:
        save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
        return
    weight_map: dict[str, str] = {}
    for number in range(shards):
        file, part = (
            f"model-{number + 1:05}-of-{shards:05}.safetensors",
            dict(list(stored.items())[number::shards]),
        )
        save_file(part, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": weight_map})
    )


def write_tokenizer(folder: Path) -> None:
    """A byte-level BPE of at most 320 entries in the manner of Qwen2.5: single digits, NFC, control tokens
    added after the vocabulary."""
    bpe = tokenizers.Tokenizer(models.BPE())
    bpe.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(tokenizers.Regex(PATTERN), "isolated")
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    bpe.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bpe.train_from_iterator(
        TEXT, trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    )
    bpe.add_special_tokens([tokenizers.AddedToken(name, normalized=False) for name in CONTROLS])
    bpe.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "Qwen2Tokenizer",
        "eos_token": CONTROLS[0],
        "pad_token": CONTROLS[0],
        "model_max_length": 512,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
