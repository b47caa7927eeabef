"""What a pass over the model costs at least, in floating-point operations. Padding, rematerialisation and
dead rows are no useful work."""

from cicjax.model.config import LoRAConfig, Qwen2Config
from cicjax.model.lora import projection_shapes


def body_flop(config: Qwen2Config) -> int:
    """One token forward through all projections, attention products left out (they are below 2 % at the
    lengths of this project)."""
    return (
        2
        * config.num_hidden_layers
        * sum(inputs * outputs for _, inputs, outputs in projection_shapes(config).values())
    )


def head_flop(config: Qwen2Config) -> int:
    """One position forward through the vocabulary head."""
    return 2 * config.vocab_size * config.hidden_size


def lora_flop(config: Qwen2Config, lora: LoRAConfig) -> int:
    """One token forward through the adapter."""
    shapes = {name: shape for name, shape in projection_shapes(config).items() if name in lora.target_modules}
    return (
        2
        * config.num_hidden_layers
        * lora.rank
        * sum(inputs + outputs for _, inputs, outputs in shapes.values())
    )


def training_flop(config: Qwen2Config, lora: LoRAConfig, *, tokens: int, supervised: int) -> int:
    """Forward and backward of `tokens` positions, `supervised` of them with loss: no weight gradient of the
    base, no head elsewhere."""
    return tokens * (2 * body_flop(config) + 3 * lora_flop(config, lora)) + supervised * 2 * head_flop(config)


def sampling_flop(config: Qwen2Config, *, prompt_tokens: int, sampled_tokens: int) -> int:
    """Prefill of the prompts, each once, and one pass with head for every sampled token."""
    return prompt_tokens * body_flop(config) + sampled_tokens * (body_flop(config) + head_flop(config))


def activation_bytes(
    config: Qwen2Config, *, tokens: int, itemsize: int, kept_layers: int | None = None
) -> int:
    """What a forward pass over `tokens` positions keeps for its backward pass, attention by blocks: of
    `kept_layers` (all of them by default) every operand of a product in the base's dtype of `itemsize` bytes
    and every input of a norm in float32, of the others their input alone."""
    d, f = config.hidden_size, config.intermediate_size
    queries, keys = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
    norms = 4 * d + (queries + keys if config.family.head_norms else 0)
    layer = 4 * norms + itemsize * (2 * d + 3 * queries + 2 * keys + 3 * f)
    kept = config.num_hidden_layers if kept_layers is None else kept_layers
    return tokens * (kept * layer + (config.num_hidden_layers - kept) * 4 * d)
