"""What does not fit, said before anything is compiled: rows beyond the model's last position, and work that
needs more memory than its kind of device has.

The bytes are estimates from shapes: what must be there at once, without the allocator's losses.
"""

from typing import Any, NamedTuple

import jax

from cicjax.devices.kind import memory_of
from cicjax.errors import BadInput, OutOfResources
from cicjax.model import cost, ops, qwen2
from cicjax.model.config import Tree

WIDE = 2  # arrays of (positions, vocabulary) in float32 that the head holds at once: scores and their exp


class Need(NamedTuple):
    """Bytes by what needs them."""

    base: int = 0
    adapter: int = 0
    activations: int = 0
    head: int = 0
    caches: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return sum(self)


def check_positions(model: qwen2.Model, row: str, tokens: int, *, new: int = 0) -> None:
    """Raise BadInput where a row, or a prompt with its `new` tokens, would pass the model's last position."""
    limit = model.config.max_position_embeddings
    if tokens + new > limit:
        sum_of = f"{tokens:,} tokens and {new:,} new ones pass" if new else f"{tokens:,} tokens pass"
        shorter = (
            "shorten the prompt or lower --max_new_tokens"
            if new
            else "cut it, as --max_length and --overflow do"
        )
        raise BadInput(f"{row}: {sum_of} the model's {limit:,} positions; {shorter}")


def training_need(model: qwen2.Model, base: Tree, adapter: Tree, *, lines: int, length: int) -> Need:
    """One micro-batch forward and backward, with the adapter's gradient, sums, moments and next values."""
    tokens, itemsize = lines * length, _itemsize(base)
    kept = cost.activation_bytes(model.config, tokens=tokens, itemsize=itemsize)
    if kept > model.kind.activations:
        kept = cost.activation_bytes(model.config, tokens=tokens, itemsize=itemsize, kept_layers=0)
    return Need(
        base=_held(model, base),
        adapter=6 * _bytes(adapter),
        activations=kept + 3 * _layer(model, tokens, itemsize),
        head=_head(model, model.kind.head_chunk) + 4 * 4 * tokens * model.config.hidden_size,
    )


def scoring_need(model: qwen2.Model, base: Tree, *, lines: int, length: int) -> Need:
    """One micro-batch forward."""
    tokens = lines * length
    return Need(
        base=_held(model, base),
        activations=3 * _layer(model, tokens, _itemsize(base)),
        head=_head(model, model.kind.head_chunk) + 3 * 4 * tokens * model.config.hidden_size,
    )


def sampling_need(
    model: qwen2.Model, base: Tree, *, prompts: int, length: int, rows: int, steps: int
) -> Need:
    """Prompts of `length` tokens run once, then `rows` that have room for `steps` more."""
    config, itemsize = model.config, _itemsize(base)
    slot = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * itemsize
    at_once = prompts * min(length, model.kind.prompt_chunk)
    return Need(
        base=_held(model, base),
        activations=3 * _layer(model, at_once, itemsize),
        head=_head(model, rows),
        # While rows are opened, prompts and rows are both there; while they are compacted, old and new ones.
        caches=slot * (rows * (length + steps) + max(prompts * length, rows * (length + steps) // 2)),
    )


def check_memory(model: qwen2.Model, need: Need, *, row: str, tokens: int, change: str) -> None:
    """Raise OutOfResources where this need is more than the kind of device has; `row` is the longest, of
    `tokens`, and `change` what to do about it."""
    have = memory_of(model.kind)
    if need.total > have:
        most = max(zip(need, need._fields, strict=True))[1]
        raise OutOfResources(
            f"{row}: {tokens:,} tokens need about {need.total / 1e9:.1f} GB of memory, most of it for "
            f"{most}, and this {model.kind.name} has {have / 1e9:.1f}; {change}"
        )


def _layer(model: qwen2.Model, tokens: int, itemsize: int) -> int:
    one = model.config.num_hidden_layers
    return cost.activation_bytes(model.config, tokens=tokens, itemsize=itemsize) // one


def _head(model: qwen2.Model, positions: int) -> int:
    return WIDE * 4 * positions * model.config.vocab_size


def _held(model: qwen2.Model, base: Tree) -> int:
    """The base, where the memory of the kind is that of an empty device; a host's is what is left beside
    it."""
    return 0 if model.kind.memory is None else _bytes(base)


def _itemsize(base: Tree) -> int:
    return ops.dtype_of(base["embed_tokens"]["embedding"]).itemsize


def _bytes(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
