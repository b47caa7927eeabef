"""Everything that differs between kinds of device, in one table.

A `Kind` travels in `qwen2.Model`, the static argument of every compiled program. No program asks which device
runs it, so one for a TPU can be lowered where there is none. It changes speed and memory, not what is
computed, and is no part of a run's identity.
"""

import os
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
    one_program: bool  # an update is one program over micro-batches of one shape, not one program each
    low_rank_together: bool  # x A of all projections of one input is one product
    dense_keys: int  # up to so many keys attention makes the whole array of weights
    block: int  # beyond them, the most queries and keys that meet at once
    causal_kernel: Literal["cudnn"] | None  # beyond them, for lines of one row each
    memory: int | None  # bytes of the device; None: those of the host
    activations: int  # bytes that a micro-batch may keep for its backward pass before layers run twice
    lines_per_batch: int  # packed lines of a micro-batch at most
    tokens_per_batch: int  # tokens of a micro-batch, beyond its first line
    head_chunk: int  # positions that meet the vocabulary at once
    prompt_bucket: int  # prompts are padded to a multiple of this, in number and in tokens
    prompt_chunk: int  # tokens of a prompt that go through the model at once
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
    one_program=False,
    low_rank_together=False,
    dense_keys=1024,
    block=512,
    causal_kernel=None,
    memory=None,
    activations=4 << 30,
    lines_per_batch=1,
    tokens_per_batch=1,
    head_chunk=128,
    prompt_bucket=16,
    prompt_chunk=2048,
    row_buckets=(16, 32, 64, 128, 256),
    segment=16,
    room=64,
)

# XLA on a CPU repacks an operand of a product that does not lie as its loop reads it, converts a whole bf16
# array to float32 where a loop slices, gathers or writes a part of it, and hoists the repacked kernels of
# all layers out of a while loop, into copies that it then multiplies at half the speed. A small
# micro-batch fills two cores, and small blocks of attention stay in their caches.
CPU = replace(
    ANY,
    name="cpu",
    training=Layout("apart", "both"),
    sampling=Layout("apart", "transpose"),
    bf16_by_bits=True,
    loops_on_device=False,
    dense_keys=384,
    block=128,
)

# Launches and compilations cost more than padding: an update of eight rows is one micro-batch, and decoding
# has few shapes. The embedding (272 MB at 0.5B) is read once a chunk of the head. A loop over blocks would be
# thousands of small kernels. A rank of 16 alone leaves most of a matrix unit idle; on a CPU the copies in and
# out of one product cost more than three products, in time and in compilation.
GPU = replace(
    ANY,
    name="gpu",
    one_program=True,
    low_rank_together=True,
    causal_kernel="cudnn",
    memory=15 << 30,
    activations=8 << 30,
    lines_per_batch=8,
    tokens_per_batch=4096,
    head_chunk=2048,
    prompt_bucket=64,
    row_buckets=(32, 256),
    segment=64,
    room=256,
)
H100 = replace(
    GPU, name="h100", memory=79 << 30, activations=48 << 30, lines_per_batch=32, tokens_per_batch=16_384
)

# The compiler turns the loop over blocks into one program; the arrays of weights would not fit.
TPU = replace(GPU, name="tpu", causal_kernel=None, dense_keys=128, memory=int(15.75 * 2**30))
V5E = replace(TPU, name="v5e")
V6E = replace(
    TPU, name="v6e", memory=31 << 30, activations=20 << 30, lines_per_batch=16, tokens_per_batch=8192
)

# By the beginning of jax's name for the device.
NAMES = {"TPU v5 lite": V5E, "TPU v5e": V5E, "TPU v6": V6E, "NVIDIA H100": H100, "NVIDIA H200": H100}


def here() -> Kind:
    """The kind of this process's devices; `ANY` where it is none in the table. Starts jax's backend.

    For tests alone CICJAX_KIND names another: an accelerator's programs can be counted on a CPU.
    """
    import jax

    if forced := os.environ.get("CICJAX_KIND"):
        return {kind.name: kind for kind in (CPU, GPU, H100, TPU, V5E, V6E)}[forced]
    device = jax.devices()[0]
    for name, kind in NAMES.items():
        if device.device_kind.startswith(name):
            return kind
    return {kind.name: kind for kind in (CPU, GPU, TPU)}.get(jax.default_backend(), ANY)


def memory_of(kind: Kind) -> int:
    """Bytes of memory that programs of this kind can have: the device's, or what the host has to give now."""
    if kind.memory is not None:
        return kind.memory
    try:
        with open("/proc/meminfo") as lines:
            fields = dict(line.split(":", 1) for line in lines)
        return int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
