"""Everything that differs between kinds of device, in one table.

A `Kind` travels in `qwen2.Model`, the static argument of every compiled program. No program asks which device
runs it, so one for a TPU can be lowered where there is none. It changes speed and memory, not what is
computed, and is no part of a run's identity.
"""

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple


class Layout(NamedTuple):
    """How a base lies in memory: layers stacked for `jax.lax.scan` or apart for a Python loop, and which
    forms of its kernels are stored: W (inputs, outputs), its transpose (outputs, inputs), or both."""

    layers: Literal["stacked", "apart"]
    kernels: Literal["matrix", "transpose", "both"]


@dataclass(frozen=True, kw_only=True)
class Kind:
    """What one kind of device wants. Hashable: a compiled program is one for its kind."""

    name: str
    training: Layout
    sampling: Layout
    bf16_by_bits: bool  # bf16 rows are gathered and written as uint16
    loops_on_device: bool  # decoding steps run in one `jax.lax.while_loop`, not one program a step
    lines_per_batch: int  # packed lines of a micro-batch
    head_chunk: int  # positions that meet the vocabulary at once
    prompt_bucket: int  # prompts are padded to a multiple of this, in number and in tokens
    row_buckets: tuple[int, ...]  # numbers of rows that decode together, ascending
    segment: int  # decoding steps between two looks of the host at the text
    room: int  # steps that a fresh cache has room for; the few rows that need more get it later


# No tricks. What a model gets where nobody names a kind.
ANY = Kind(
    name="any",
    training=Layout("stacked", "matrix"),
    sampling=Layout("apart", "matrix"),
    bf16_by_bits=False,
    loops_on_device=True,
    lines_per_batch=1,
    head_chunk=128,
    prompt_bucket=16,
    row_buckets=(16, 32, 64, 128, 256),
    segment=16,
    room=64,
)

# XLA on a CPU repacks an operand of a product that does not lie as its loop reads it, converts a whole bf16
# array to float32 where a loop slices, gathers or writes a part of it, and hoists the repacked kernels of
# all layers out of a while loop, into copies that it then multiplies at half the speed. A small
# micro-batch fills two cores.
CPU = Kind(
    name="cpu",
    training=Layout("apart", "both"),
    sampling=Layout("apart", "transpose"),
    bf16_by_bits=True,
    loops_on_device=False,
    lines_per_batch=1,
    head_chunk=128,
    prompt_bucket=16,
    row_buckets=(16, 32, 64, 128, 256),
    segment=16,
    room=64,
)

# Launches and compilations cost more than padding: an update of eight rows is one micro-batch, and decoding
# has few shapes. The embedding (272 MB at 0.5B) is read once a chunk of the head.
GPU = Kind(
    name="gpu",
    training=Layout("stacked", "matrix"),
    sampling=Layout("apart", "matrix"),
    bf16_by_bits=False,
    loops_on_device=True,
    lines_per_batch=8,
    head_chunk=2048,
    prompt_bucket=64,
    row_buckets=(32, 256),
    segment=64,
    room=128,
)

TPU = replace(GPU, name="tpu")


def here() -> Kind:
    """The kind of this process's devices; `ANY` where it is none of the three. Starts jax's backend."""
    import jax

    kinds = {kind.name: kind for kind in (CPU, GPU, TPU)}
    return kinds.get(jax.default_backend(), ANY)
