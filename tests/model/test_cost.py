"""Counts of operations against parameters, and against the figures known for Qwen2.5-0.5B."""

from cicjax.model import cost
from cicjax.model.config import LoRAConfig, Qwen2Config

QWEN = Qwen2Config(
    vocab_size=151_936,
    hidden_size=896,
    intermediate_size=4864,
    num_hidden_layers=24,
    num_attention_heads=14,
    num_key_value_heads=2,
    head_dim=64,
)


def test_counts_of_the_half_billion_model():
    kernels = 24 * (896 * 896 * 2 + 896 * 128 * 2 + 3 * 896 * 4864)
    assert cost.body_flop(QWEN) == 2 * kernels and round(cost.body_flop(QWEN) / 1e6) == 716
    assert round(cost.head_flop(QWEN) / 1e6) == 272
    lora = LoRAConfig(rank=16)
    assert round(cost.training_flop(QWEN, lora, tokens=1, supervised=0) / 1e6) == 1484
    assert round(cost.training_flop(QWEN, lora, tokens=1, supervised=1) / 1e6) == 2029
    assert cost.training_flop(QWEN, lora, tokens=0, supervised=0) == 0
    assert cost.lora_flop(QWEN, LoRAConfig(rank=16, target_modules=("q_proj",))) == 2 * 24 * 16 * (896 + 896)
    assert cost.sampling_flop(QWEN, prompt_tokens=2, sampled_tokens=3) == 5 * cost.body_flop(
        QWEN
    ) + 3 * cost.head_flop(QWEN)
