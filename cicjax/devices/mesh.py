"""Devices that share the rows of a program, each with the whole base: one device or many, one host or
several.

Where a base lies says who works on it: `everywhere` places it, `of` finds out. A program over several devices
is the program of one, run by each on its own rows (`jax.shard_map`): what they exchange, it says itself.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec, Sharding, SingleDeviceSharding

AXIS = "data"
Tree = Any
# Names of arguments and what is handed over.
Named = Mapping[str, Any]


@dataclass(frozen=True)
class Devices:
    """Devices in a row. With one, arrays stay where they are and programs are called as they are."""

    mesh: Mesh

    @property
    def count(self) -> int:
        """How many they are, those of other hosts too."""
        return self.mesh.size

    @property
    def axis(self) -> str | None:
        """The name under which programs add up over the devices; None where there is one."""
        return AXIS if self.count > 1 else None

    def whole(self, tree: Tree) -> Tree:
        """The tree's arrays, of which every device holds all. Hosts must give the same values."""
        return jax.tree.map(partial(_placed, sharding=self._sharding(PartitionSpec())), tree)

    def row_sharding(self) -> Sharding:
        """Where arrays of rows lie."""
        return self._sharding(PartitionSpec(AXIS))

    def rows(self, tree: Tree, *, axis: int = 0) -> Tree:
        """The tree's arrays, whose `axis` the devices share; those without it are whole on each. Hosts must
        give the same values, all rows of them."""
        return jax.tree.map(lambda leaf: _placed(leaf, sharding=self._sharding(_spec(leaf, axis=axis))), tree)

    def each(
        self,
        program: Callable[..., Any],
        *,
        static: Named,
        whole: Named,
        rows: Named,
        axis: int = 0,
        gives: Literal["rows", "whole"] = "rows",
        donate: Sequence[str] = (),
    ) -> "Call":
        """program(**static, **whole, **rows) by every device on its own part of `rows`, cut along `axis`.

        Of what it gives, `rows` are put together again; what is `whole` is the same on all. `donate` names
        arguments whose arrays the program takes over, as it does by itself on one device.
        """
        if self.count == 1:
            return Call(program, (), {**static, **whole, **rows})
        arguments = {**whole, **rows}
        kept = {name: value for name, value in arguments.items() if name not in donate}
        donated = {name: arguments[name] for name in donate}
        together = _on_each(program, self.mesh, tuple(static.items()), frozenset(rows), axis, gives)
        return Call(together, (kept, donated), {})

    def _sharding(self, spec: PartitionSpec) -> Sharding:
        if self.count == 1:
            return SingleDeviceSharding(self.mesh.devices.flat[0])
        return NamedSharding(self.mesh, spec)


class Call(NamedTuple):
    """A jitted program with its arguments, to be run or lowered."""

    program: Any
    positional: tuple[Any, ...]
    named: Named

    def run(self) -> Any:
        """What the program gives."""
        return self.program(*self.positional, **self.named)

    def lower(self) -> Any:
        """The program for arguments like these, which may be abstract."""
        return self.program.lower(*self.positional, **self.named)


@cache
def row(devices: tuple[Any, ...]) -> Devices:
    """These devices, in this order."""
    return Devices(Mesh(np.array(devices), (AXIS,), axis_types=(AxisType.Auto,)))


def everywhere() -> Devices:
    """All devices, those of other hosts too. Starts jax's backend."""
    return row(tuple(jax.devices()))


def of(tree: Tree) -> Devices:
    """The devices on which the tree's arrays lie."""
    leaf = next(leaf for leaf in jax.tree.leaves(tree) if hasattr(leaf, "sharding"))
    mesh = getattr(leaf.sharding, "mesh", None)
    if isinstance(mesh, Mesh):
        return Devices(mesh)
    return row(tuple(sorted(leaf.sharding.device_set, key=lambda device: device.id)))


def own(tree: Tree) -> Devices:
    """Those of `of(tree)` that are this host's."""
    devices = of(tree)
    here = tuple(each for each in devices.mesh.devices.flat if each.process_index == jax.process_index())
    return devices if len(here) == devices.count else row(here)


@cache
def _on_each(
    program: Callable[..., Any],
    mesh: Mesh,
    static: tuple[tuple[str, Any], ...],
    shared: frozenset[str],
    axis: int,
    gives: Literal["rows", "whole"],
) -> Any:
    """The jitted program of a mesh; the arrays of its second argument are donated."""

    def specs(arguments: Named) -> Named:
        return {
            name: jax.tree.map(partial(_spec, axis=axis), value) if name in shared else PartitionSpec()
            for name, value in arguments.items()
        }

    def part(kept: Named, donated: Named) -> Any:
        return program(**dict(static), **kept, **donated)

    def run(kept: Named, donated: Named) -> Any:
        out = PartitionSpec(AXIS) if gives == "rows" else PartitionSpec()
        return jax.shard_map(
            part, mesh=mesh, in_specs=(specs(kept), specs(donated)), out_specs=out, check_vma=False
        )(kept, donated)

    return jax.jit(run, donate_argnums=(1,))


def _spec(leaf: Any, *, axis: int) -> PartitionSpec:
    return PartitionSpec(*[None] * axis, AXIS) if np.ndim(leaf) > axis else PartitionSpec()


def _placed(leaf: Any, *, sharding: Sharding) -> Any:
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
    if isinstance(leaf, jax.Array):
        here = {piece.device: piece.data for piece in leaf.addressable_shards}
        wanted = [] if leaf.sharding == sharding else list(sharding.addressable_devices)
        if not wanted:
            # A checkpoint's arrays are bound to their device: for those that are not, jit would compile anew.
            return leaf if leaf.committed else jax.device_put(leaf, sharding)
        if leaf.is_fully_replicated and sharding.is_fully_replicated and here.keys() >= set(wanted):
            arrays = [here[device] for device in wanted]
            return jax.make_array_from_single_device_arrays(leaf.shape, sharding, arrays)
    if isinstance(sharding, SingleDeviceSharding):
        return leaf  # jit places it
    if sharding.is_fully_addressable:
        return jax.device_put(leaf, sharding)
    host = np.asarray(leaf)
    return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])
