"""The shape of a Qwen2 model: the fields of a Hugging Face config.json that the architecture needs, and no
others. And the type of the trees that hold a model's arrays."""

from dataclasses import dataclass
from typing import Any

Tree = dict[str, Any]  # nested dictionaries of arrays: a base or an adapter, or one layer of either


@dataclass(frozen=True, kw_only=True)
class Qwen2Config:
    """Sizes of a Qwen2 decoder.

    Letters in shape annotations: L layers, D model, N query and K key-value heads of H, F feed-forward, V
    vocabulary.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10_000.0
    tie_word_embeddings: bool = True
    max_position_embeddings: int = 32_768


PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
ALL_LINEAR = "all-linear"


def projections(names: tuple[str, ...]) -> tuple[str, ...]:
    """The projections that a command line names; `all-linear`, as peft has it, is all of them."""
    return PROJECTIONS if names == (ALL_LINEAR,) else names


@dataclass(frozen=True, kw_only=True)
class LoRAConfig:
    """A low-rank update W + (alpha / rank) A B on the named projections."""

    rank: int = 16
    alpha: float = 32.0
    target_modules: tuple[str, ...] = PROJECTIONS

    @property
    def scaling(self) -> float:
        """The factor alpha / rank on the product of the two low-rank matrices."""
        return self.alpha / self.rank
