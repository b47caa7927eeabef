"""config.json of the Qwen2 architecture: read with suspicion into a `Qwen2Config`, and written for every
version of transformers.

Tensors are left to `huggingface`.
"""

from dataclasses import asdict
from typing import Any

import numpy as np

from cicjax.errors import shorten
from cicjax.model.config import Qwen2Config
from cicjax.model.storage import Fields

ARCHITECTURE = "Qwen2ForCausalLM"
MOST_THETA = 1e12  # published models go to 1e7


def parse_config(fields: Fields) -> Qwen2Config:
    """The architecture that the fields of a config.json describe, in the spelling of transformers 4 or 5.

    Raises BadInput for any other than Qwen2, and for sizes that do not fit together.
    """
    _refuse_unsupported(fields)
    hidden, heads = fields.count("hidden_size"), fields.count("num_attention_heads")
    key_value_heads = fields.count("num_key_value_heads", default=heads)
    head_dim = fields.count("head_dim", default=hidden // heads)
    if heads % key_value_heads or head_dim % 2 or (fields.get("head_dim") is None and hidden % heads):
        raise fields.refusal(
            f"{heads} query heads, {key_value_heads} key-value heads and a hidden size of "
            f"{hidden} do not fit together"
        )
    tied = fields.get("tie_word_embeddings", False)
    if not isinstance(tied, bool):
        raise fields.refusal("tie_word_embeddings must be true or false")
    return Qwen2Config(
        vocab_size=fields.count("vocab_size"),
        hidden_size=hidden,
        intermediate_size=fields.count("intermediate_size"),
        num_hidden_layers=fields.count("num_hidden_layers"),
        num_attention_heads=heads,
        num_key_value_heads=key_value_heads,
        head_dim=head_dim,
        rms_norm_eps=fields.positive("rms_norm_eps", default=1e-6, most=1.0),
        rope_theta=_rope_theta(fields),
        tie_word_embeddings=tied,
        max_position_embeddings=fields.count("max_position_embeddings", default=32_768),
    )


def _refuse_unsupported(fields: Fields) -> None:
    model_type, names = fields.get("model_type"), fields.get("architectures", [ARCHITECTURE])
    if model_type != "qwen2" or not isinstance(names, list) or ARCHITECTURE not in names:
        found = shorten(
            names[0] if isinstance(names, list) and names and names[0] != ARCHITECTURE else model_type
        )
        raise fields.refusal(f"architecture {found} is not supported; give a model of {ARCHITECTURE}")
    if fields.get("hidden_act", "silu") != "silu":
        raise fields.refusal(
            f"hidden_act {shorten(fields.get('hidden_act'))} is not supported; Qwen2 has silu"
        )
    if fields.get("quantization_config") is not None:
        raise fields.refusal("quantized weights are not supported; give the model in bfloat16 or float32")
    # transformers 5 writes the kind of every layer, transformers 4 one switch.
    kinds = fields.get(
        "layer_types", ["sliding_attention" if fields.get("use_sliding_window") else "full_attention"]
    )
    if not isinstance(kinds, list) or any(kind != "full_attention" for kind in kinds):
        raise fields.refusal(
            "sliding-window attention is not supported; give a model with use_sliding_window false"
        )


def _rope_theta(fields: Fields) -> float:
    theta = fields.positive("rope_theta", default=10_000.0, most=MOST_THETA)
    for name in ("rope_scaling", "rope_parameters"):
        rope = fields.get(name, {})
        plain = isinstance(rope, dict) and rope.get("rope_type", rope.get("type", "default")) == "default"
        if not plain or any(
            rope[key] is not None for key in rope.keys() - {"rope_type", "type", "rope_theta"}
        ):
            raise fields.refusal(f"{name} is not supported; give a model with the default rotary positions")
        theta = Fields(fields.path, rope).positive("rope_theta", default=theta, most=MOST_THETA)
    return theta


def config_json(config: Qwen2Config, *, dtype: np.dtype) -> dict[str, Any]:
    """The fields of config.json for a model whose tensors are stored in `dtype`."""
    # The older spelling of dtype and rope_theta is the one that every version of transformers reads.
    return {
        "architectures": [ARCHITECTURE],
        "model_type": "qwen2",
        **asdict(config),
        "hidden_act": "silu",
        "attention_dropout": 0.0,
        "use_sliding_window": False,
        "torch_dtype": dtype.name,
    }
