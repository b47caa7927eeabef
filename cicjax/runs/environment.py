"""What a run ran on and with: its environment.json.

The first process of a run writes what it finds; one that goes on later compares, says what is different and
records it below "resumed". Another number of cores, devices or hosts moves the last bits of a sum, and is
only said. Other versions, another kind of device and other settings of the numerics can change more, and need
the word of whoever runs the command. Results are a function of model, seed and settings; this file is none of
them.
"""

import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from cicjax.devices import hosts
from cicjax.errors import BadInput, Corrupted, printable, shorten
from cicjax.files.seal import read_json, write_json

FILE = "environment.json"
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "tokenizers")
# What needs a word when it changes; everything below such a name does too.
DECISIVE = ("versions", "machine", "device", "settings")
JAX_SETTINGS = (
    "jax_enable_x64",
    "jax_default_matmul_precision",
    "jax_disable_jit",
    "jax_default_prng_impl",
    "jax_threefry_partitionable",
)
# Flags of XLA that say how many devices a CPU plays, or what is written down of a program.
HARMLESS = re.compile(r"--xla_(force_host_platform_device_count|dump)\w*(=\S*)?")
VARIABLES = ("XLA_FLAGS", "LIBTPU_INIT_ARGS", "NVIDIA_TF32_OVERRIDE")
Record = dict[str, Any]


def describe() -> Record:
    """This process's record: commit, versions, cores, devices, hosts, and settings that change bits. Starts
    jax's backend."""
    import jax

    return {
        "commit": commit(),
        "versions": {"python": platform.python_version()} | dict(_versions()),
        "machine": platform.machine(),
        "cores": cores(),
        "device": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
        "hosts": jax.process_count(),
        "settings": {name: getattr(jax.config, name) for name in JAX_SETTINGS} | dict(_variables()),
    }


def settle(folder: Path, here: Mapping[str, Any] | None = None, *, allow_changes: bool = False) -> Record:
    """Write FOLDER/environment.json, or compare with it and record what changed; gives its contents.

    Raises BadInput where versions, the kind of device or a decisive setting changed, unless `allow_changes`;
    Corrupted for a file that no run wrote.
    """
    here = dict(here or describe())
    found: list[Record] = []
    hosts.once(lambda: found.append(_settled(folder / FILE, here, allow_changes=allow_changes)))
    return found[0] if found else here


def _settled(path: Path, here: Record, *, allow_changes: bool) -> Record:
    if not path.exists():
        write_json(path, here)
        return here
    record = read_json(path)
    changed = {name: pair for name, *pair in changes(_latest(record, path), here)}
    if not changed:
        return record
    what = "; ".join(
        f"{name} was {shorten(was)} and is {shorten(now)}" for name, (was, now) in changed.items()
    )
    decisive = [name for name in changed if name.split(".")[0] in DECISIVE]
    if decisive and not allow_changes:
        raise BadInput(
            f"{path}: {what}; results may differ from those of an unbroken run: go on where it was, "
            "or add --allow_other_environment"
        )
    told = f"{path}: goes on elsewhere, results may differ in their last bits: {what}"
    print(printable(told), file=sys.stderr)
    entry = {"at": datetime.now(UTC).isoformat(timespec="seconds"), "environment": here}
    record["resumed"] = [*record.get("resumed", []), entry]
    write_json(path, record)
    return record


def changes(there: Any, here: Any, *, name: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Dotted names under which two records differ, with both values; None where one has none. The commit is
    not compared: it says where the code came from, not what it does."""
    if isinstance(there, dict) and isinstance(here, dict):
        for key in sorted(there.keys() | here.keys()):
            if key != "commit":
                yield from changes(there.get(key), here.get(key), name=f"{name}.{key}" if name else key)
    elif there != here:
        yield name, there, here


def commit() -> str | None:
    """Of the checkout that this package runs from, with "-dirty" where a file of it was changed; None where
    it is installed without one."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, check=True, text=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _latest(record: Any, path: Path) -> Record:
    """The environment in which the run went on last."""
    try:
        last = record["resumed"][-1]["environment"] if "resumed" in record else record
        return {name: value for name, value in last.items() if name != "resumed"}
    except (TypeError, KeyError, IndexError, AttributeError):
        raise Corrupted(f"{path}: not the record of a run; restore it from a copy") from None


def _versions() -> Iterator[tuple[str, str]]:
    for name in PACKAGES:
        try:
            yield name, version(name)
        except PackageNotFoundError:
            continue


def cores() -> int:
    """Those that this process may use: how a sum is split over threads depends on their number."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _variables() -> Iterator[tuple[str, str]]:
    for name in VARIABLES:
        if said := " ".join(HARMLESS.sub("", os.environ.get(name, "")).split()):
            yield name, said
