"""What the objectives ask of their arguments: shapes that fit, so that broadcasting hides no mistake, and
float32 or better."""

from typing import Any

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike


def expect_rank(name: str, array: Any, *, dims: str) -> None:
    """Raise ValueError unless `array` has one axis for each name in `dims`, such as "B T"."""
    if array.ndim != len(dims.split()):
        raise ValueError(f"{name} must have shape ({', '.join(dims.split())}), not {tuple(array.shape)}")


def expect_same_shape(**arrays: Any) -> None:
    """Raise ValueError unless all arrays, given by name, have one shape."""
    if len({tuple(array.shape) for array in arrays.values()}) > 1:
        found = ", ".join(f"{name} {tuple(array.shape)}" for name, array in arrays.items())
        raise ValueError(f"shapes must be equal: {found}")


def at_least_float32(array: ArrayLike) -> Array:
    """The array on the JAX side, in float32 unless it is wider: sums over many tokens need more than bfloat16
    holds."""
    array = jnp.asarray(array)
    return array.astype(jnp.promote_types(array.dtype, jnp.float32))
