"""The shape of a model of the Qwen2 family and its relatives: the fields of a Hugging Face config.json that
the decoder needs, and no others. And the type of the trees that hold a model's arrays."""

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

Tree = dict[str, Any]  # nested dictionaries of arrays: a base or an adapter, or one layer of either


class Family(NamedTuple):
    """What a decoder is called in config.json, and wherein it differs from its relatives: whether queries,
    keys and values have a bias, whether each head of queries and keys is normed before it is rotated."""

    architecture: str
    model_type: str
    qkv_bias: bool = False
    head_norms: bool = False


QWEN2 = Family("Qwen2ForCausalLM", "qwen2", qkv_bias=True)
QWEN3 = Family("Qwen3ForCausalLM", "qwen3", head_norms=True)
LLAMA = Family("LlamaForCausalLM", "llama")
FAMILIES = (QWEN2, QWEN3, LLAMA)


@dataclass(frozen=True, kw_only=True)
class Qwen2Config:
    """Sizes of a Qwen2 decoder, or of a relative.

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
    family: Family = QWEN2

    def sizes(self) -> dict[str, Any]:
        """The fields that every family has, by their names in config.json."""
        return {name: value for name, value in asdict(self).items() if name != "family"}


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
