"""config.json of Qwen2, Qwen3 and Llama: read with suspicion into a `Qwen2Config`, and written for every
version of transformers.

Tensors are left to `huggingface`.
"""

from typing import Any

import numpy as np

from cicjax.errors import shorten
from cicjax.model.config import FAMILIES, LLAMA, QWEN2, QWEN3, Family, Qwen2Config
from cicjax.model.storage import Fields

MOST_THETA = 1e12  # published models go to 1e7


def parse_config(fields: Fields) -> Qwen2Config:
    """The architecture that the fields of a config.json describe, in the spelling of transformers 4 or 5.

    Raises BadInput for any other than those of FAMILIES, and for sizes that do not fit together.
    """
    family = _family(fields)
    _refuse_unsupported(fields)
    hidden, heads = fields.count("hidden_size"), fields.count("num_attention_heads")
    key_value_heads = fields.count("num_key_value_heads", default=heads)
    # What transformers takes where config.json has none.
    head_dim = fields.count("head_dim", default=128 if family == QWEN3 else hidden // heads)
    parted = family != QWEN3 and fields.get("head_dim") is None
    if heads % key_value_heads or head_dim % 2 or (parted and hidden % heads):
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
        family=family,
    )


def _family(fields: Fields) -> Family:
    model_type, names = fields.get("model_type"), fields.get("architectures")
    for family in FAMILIES:
        if model_type == family.model_type and (
            names is None or (isinstance(names, list) and family.architecture in names)
        ):
            return family
    known = [family.architecture for family in FAMILIES]
    named = isinstance(names, list) and names and names[0] not in known
    raise fields.refusal(
        f"architecture {shorten(names[0] if named else model_type)} is not supported; give a model of "
        f"{', '.join(known[:-1])} or {known[-1]}"
    )


def _refuse_unsupported(fields: Fields) -> None:
    if fields.get("hidden_act", "silu") != "silu":
        raise fields.refusal(f"hidden_act {shorten(fields.get('hidden_act'))} is not supported; give silu")
    for name in ("attention_bias", "mlp_bias"):
        if fields.get(name, False) is not False:
            raise fields.refusal(f"{name} is not supported; give a model without it")
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
    family = config.family
    own = {} if family == QWEN2 else {"attention_bias": False}
    own |= {"mlp_bias": False} if family == LLAMA else {"use_sliding_window": False}
    return {
        "architectures": [family.architecture],
        "model_type": family.model_type,
        **config.sizes(),
        "hidden_act": "silu",
        "attention_dropout": 0.0,
        **own,
        "torch_dtype": dtype.name,
    }
