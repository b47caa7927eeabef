"""Compiling for a device that is not here: the real compilers of TPUs and NVIDIA GPUs run without one.

A `Target` is one slice or one card; `get_ready` finds its compiler, before jax is imported, and `chips_of`
gives the devices among which abstract arguments lie. What the compiled text tells is read by `compiled`.
Times are the TPU compiler's own count of cycles: a guide, not a clock.
"""

import importlib.util
import os
import sys
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cicjax.devices import kind
from cicjax.devices.kind import Kind
from cicjax.errors import BadInput

if TYPE_CHECKING:
    from cicjax.devices.mesh import Devices

GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class Target:
    """One slice of TPU chips or one GPU: its name for XLA, its kind, and of one chip the bytes of memory and,
    where the compiler counts cycles, how many a second has. `alone` says whether programs of one chip are
    compiled too: another slice of such chips may have done so."""

    name: str
    platform: Literal["tpu", "cuda"]
    topology: str
    kind: Kind
    memory: float
    clock: float | None
    alone: bool = True


def _slice(topology: str, kind: Kind, memory: float, clock: float, *, alone: bool = True) -> Target:
    return Target(
        name=topology,
        platform="tpu",
        topology=topology,
        kind=kind,
        memory=memory * GIB,
        clock=clock,
        alone=alone,
    )


# The memory that XLA gives programs. cuDNN's attention asks for its card while it is traced, so that the
# H100's programs have attention by blocks instead.
TARGETS = {
    target.name: target
    for target in (
        _slice("v5e:2x2", kind.V5E, 15.75, 1.5e9),
        _slice("v5e:4x4", kind.V5E, 15.75, 1.5e9, alone=False),
        _slice("v6e:2x2", kind.V6E, 31.25, 1.75e9),
        Target(
            name="h100",
            platform="cuda",
            topology="1x1x1",
            kind=replace(kind.H100, causal_kernel=None),
            memory=79 * GIB,
            clock=None,
        ),
    )
}

# Where scripts/setup.sh puts compilers: outside of what an ordinary run imports, whose jax would start them
# on a machine without their device, with warnings.
COMPILERS = Path(sys.prefix) / "compilers"

# libtpu asks Google's metadata server what it runs on, and locks the machine's chips, unless told.
TPU_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}

# An H100 SXM as XLA's compiler asks for it (openxla/xla, gpu_device_info): limits of a block and of a core
# from NVIDIA's tables, memory and versions from a real one.
H100_FACTS: dict[str, Any] = {
    "threads_per_block_limit": 1024,
    "threads_per_warp": 32,
    "shared_memory_per_block": 48 * 1024,
    "shared_memory_per_core": 228 * 1024,
    "shared_memory_per_block_optin": 227 * 1024,
    "threads_per_core_limit": 2048,
    "core_count": 132,
    "fpus_per_core": 128,
    "block_dim_limit_x": 2**31 - 1,
    "block_dim_limit_y": 65_535,
    "block_dim_limit_z": 65_535,
    "thread_dim_limit_x": 1024,
    "thread_dim_limit_y": 1024,
    "thread_dim_limit_z": 64,
    "registers_per_core_limit": 65_536,
    "registers_per_block_limit": 65_536,
    "memory_bandwidth": 3_352_320_000_000,
    "l2_cache_size": 50 * 2**20,
    "clock_rate_ghz": 1.98,
    "device_memory_size": 84_942_979_072,
    "device_address_bits": 64,
    "device_vendor": "NVIDIA Corporation",
    "name": "NVIDIA H100 80GB HBM3",
    "driver_version": "12.8.0",
    "runtime_version": "12.8.0",
    "compile_time_toolkit_version": "12.8.0",
    "dnn_version": "9.10.0",
}


def get_ready(target: Target) -> None:
    """Find the target's compiler and set what it reads from the environment, before jax is imported.

    Raises BadInput where the compiler is not installed.
    """
    if COMPILERS.is_dir() and str(COMPILERS) not in sys.path:
        sys.path.append(str(COMPILERS))
    os.environ["JAX_PLATFORMS"] = "cpu"
    if target.platform == "tpu":
        _need(target, "libtpu", extra="aot-tpu")
        os.environ.update(TPU_ENVIRONMENT)
        return
    _need(target, "jax_cuda12_plugin", extra="aot-cuda")
    folder = _need(target, "nvidia.cuda_nvcc", extra="aot-cuda")
    # Autotuning would run kernels on the card.
    flags = f"--xla_gpu_autotune_level=0 --xla_gpu_cuda_data_dir={folder}"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip()


def _need(target: Target, module: str, *, extra: str) -> Path:
    """The folder of an installed package."""
    try:
        spec = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        spec = None
    if spec is None or not spec.submodule_search_locations:
        raise BadInput(
            f"{target.name}: its compiler ({module}) is not installed; "
            f"CICJAX_EXTRAS=test,{extra} scripts/test.sh or pip install 'cicjax[{extra}]' brings it"
        )
    return Path(next(iter(spec.submodule_search_locations)))


def chips_of(target: Target) -> "Devices":
    """All chips of the target, which exist for the compiler alone; after `get_ready`."""
    from jax.experimental import topologies

    from cicjax.devices import mesh

    if target.platform == "tpu":
        found = topologies.get_topology_desc(target.topology, platform="tpu")
    else:
        found = topologies.get_topology_desc(
            platform="cuda", target_config=gpu_facts(), topology=target.topology
        )
    return mesh.row(tuple(found.devices))


def compiler_version(target: Target) -> str:
    """Name and version of the package with the target's compiler."""
    package = "libtpu" if target.platform == "tpu" else "jax-cuda12-plugin"
    return f"{package} {version(package)}"


def gpu_facts() -> str:
    """The H100 in the text form of XLA's GpuTargetConfigProto."""

    def line(name: str, value: Any) -> str:
        return f'  {name}: "{value}"' if isinstance(value, str) else f"  {name}: {value}"

    facts = [line(name, value) for name, value in H100_FACTS.items()]
    major, minor, patch = H100_FACTS["dnn_version"].split(".")
    return "\n".join(
        [
            "gpu_device_info {",
            *facts,
            "  cuda_compute_capability { major: 9 }",
            "}",
            'platform_name: "CUDA"',
            f"dnn_version_info {{ major: {major} minor: {minor} patch: {patch} }}",
            f'device_description_str: "{H100_FACTS["name"]}"',
        ]
    )
