"""The operations that a decoder is made of, with the backward passes and the memory accesses that are fast.

Arithmetic alone: which layout a kernel has is `layout`'s choice, and what is a layer is `qwen2`'s.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from cicjax.devices.kind import Kind


class Kernel(NamedTuple):
    """One frozen weight W as it lies in memory: as `matrix`, as its `transpose`, or as both beside each
    other. Stands in a tree where a plain W (inputs, outputs) may stand."""

    matrix: Float[Array, "I O"] | None
    transpose: Float[Array, "O I"] | None


def dtype_of(kernel: Array | Kernel) -> Any:
    """The dtype of W, whatever its layout."""
    return jax.tree.leaves(kernel)[0].dtype


def forms(kernel: Array | Kernel) -> Kernel:
    """The kernel as a `Kernel`; a plain array is a matrix."""
    return kernel if isinstance(kernel, Kernel) else Kernel(kernel, None)


def matrix_of(kernel: Array | Kernel) -> Float[Array, "*L I O"]:
    """W itself, stacked or not, transposed back where only its transpose is stored."""
    matrix, transpose = forms(kernel)
    if matrix is None:
        assert transpose is not None
        return transpose.swapaxes(-1, -2)
    return matrix


def linear(x: Float[Array, "*B I"], kernel: Array | Kernel, dtype: Any = None) -> Float[Array, "*B O"]:
    """x W with both operands rounded to `dtype` (W's own by default) and float32 sums; so are its two
    backward products.

    The forward product takes the transpose where there is one and the backward product the matrix: both then
    read W along contiguous rows. Only one of the two gets W's gradient, which a plain W always gets.
    """
    return _linear(x, kernel, dtype_of(kernel) if dtype is None else dtype)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _linear(x: Array, kernel: Array | Kernel, dtype: Any) -> Array:
    x, (matrix, transpose) = x.astype(dtype), forms(kernel)
    if transpose is not None:
        return product("...i,oi->...o", x, transpose.astype(dtype))
    assert matrix is not None
    return product("...i,io->...o", x, matrix.astype(dtype))


def _linear_forward(x, kernel, dtype):
    return _linear(x, kernel, dtype), (x.astype(dtype), kernel, jnp.zeros((0,), x.dtype))


def _linear_backward(dtype, saved, cotangent):
    # Autodiff alone would give the products a float32 cotangent, which a bf16 matrix unit cannot use.
    x, kernel, like = saved
    cotangent, (matrix, transpose) = cotangent.astype(dtype), forms(kernel)
    if matrix is None:
        assert transpose is not None
        dx = product("...o,oi->...i", cotangent, transpose.astype(dtype))
        dw = Kernel(None, product("...o,...i->oi", cotangent, x).astype(transpose.dtype))
    else:
        dx = product("...o,io->...i", cotangent, matrix.astype(dtype))
        dw = product("...i,...o->io", x, cotangent).astype(matrix.dtype)
        if isinstance(kernel, Kernel):
            dw = Kernel(dw, None if transpose is None else jnp.zeros_like(transpose))
    return dx.astype(like.dtype), dw


_linear.defvjp(_linear_forward, _linear_backward)


def product(spec: str, x: Array, y: Array) -> Array:
    """An einsum in the dtype of `y`, to which `x` is rounded, with float32 sums. Where that is float32 the
    operands stay so: matrix units of TPUs and GPUs would otherwise round them."""
    exact = jax.lax.Precision.HIGHEST if y.dtype == jnp.float32 else None
    return jnp.einsum(spec, x.astype(y.dtype), y, precision=exact, preferred_element_type=jnp.float32)


def on_last_axis(vector: Float[Array, "D"], rank: int) -> Float[Array, "..."]:
    """A vector with leading axes of 1, so that no rank is promoted silently."""
    return vector.reshape((1,) * (rank - 1) + vector.shape)


def rms_norm(x: Float[Array, "*B D"], scale: Float[Array, "D"], eps: float) -> Float[Array, "*B D"]:
    """x / rms(x) * scale in float32."""
    x = x.astype(jnp.float32)
    inverse = jax.lax.rsqrt(jnp.mean(x * x, axis=-1) + eps)
    # The division as a product of axes, so that the sum over x * cotangent in its backward pass is a product
    # too: XLA on a CPU would take that sum entry by entry, in seven times the time.
    normalised = jnp.einsum("...d,...->...d", x, inverse, precision=jax.lax.Precision.HIGHEST)
    return normalised * on_last_axis(scale.astype(jnp.float32), x.ndim)


@jax.custom_vjp
def swiglu(gate: Float[Array, "*B F"], up: Float[Array, "*B F"]) -> Float[Array, "*B F"]:
    """silu(gate) * up, computed in float32. Its two inputs, in the dtype of the base, are all that the
    backward pass keeps of the widest arrays of the model; autodiff alone would keep float32 sums and their
    parts, four times as many bytes."""
    return _swiglu(gate, up).astype(gate.dtype)


def _swiglu(gate: Float[Array, "*B F"], up: Float[Array, "*B F"]) -> Float[Array, "*B F"]:
    return jax.nn.silu(gate.astype(jnp.float32)) * up.astype(jnp.float32)


def _swiglu_backward(saved: tuple, cotangent: Float[Array, "*B F"]) -> tuple:
    return jax.vjp(_swiglu, *saved)[1](cotangent.astype(jnp.float32))


swiglu.defvjp(lambda gate, up: (swiglu(gate, up), (gate, up)), _swiglu_backward)


def embed(embedding: Array | Kernel, tokens: Int[Array, "B T"], kind: Kind) -> Float[Array, "B T D"]:
    """Rows of the table (V, D) in float32. Gathered by their bits, they have no gradient: whoever trains a
    bf16 table takes a kind without `bf16_by_bits`."""
    table = table_of(embedding)
    if not (kind.bf16_by_bits and table.dtype == jnp.bfloat16):
        return table[tokens].astype(jnp.float32)
    return _from_bits(_to_bits(table)[tokens]).astype(jnp.float32)


def table_of(embedding: Array | Kernel) -> Float[Array, "V D"]:
    """The rows of an embedding. As a map from D to V it is a `Kernel` whose transpose is the table; plain, it
    is the table itself."""
    table = embedding.transpose if isinstance(embedding, Kernel) else embedding
    assert table is not None
    return table


def write_slots(
    cache: Float[Array, "B K S H"], new: Float[Array, "B K T H"], slot: Any, kind: Kind
) -> Float[Array, "B K S H"]:
    """The cache with `new`, rounded to its dtype, in the slots from `slot` on: one number, or one a row."""
    if jnp.ndim(slot) == 0:
        put = partial(jax.lax.dynamic_update_slice_in_dim, start_index=slot, axis=2)
        return _moved(put, kind, cache, new)
    # As one scatter: XLA on a CPU copies the cache for a slice, written in a loop over rows or for all.
    rows = jax.vmap(partial(jax.lax.dynamic_update_slice_in_dim, axis=1))
    return _moved(lambda cache, new: rows(cache, new, slot), kind, cache, new)


def take_row(cache: Float[Array, "B K S H"], row: Any, kind: Kind) -> Float[Array, "1 K S H"]:
    """One row of a cache."""
    return _moved(lambda cache: jax.lax.dynamic_slice_in_dim(cache, row, 1, axis=0), kind, cache)


def put_row(
    cache: Float[Array, "B K S H"], new: Float[Array, "1 K T H"], row: Any, slot: Any, kind: Kind
) -> Float[Array, "B K S H"]:
    """The cache with `new` in the slots of one row from `slot` on."""
    at = (row, 0, slot, 0)
    return _moved(lambda cache, new: jax.lax.dynamic_update_slice(cache, new, at), kind, cache, new)


def _moved(move: Callable[..., Array], kind: Kind, cache: Array, *new: Array) -> Array:
    """What `move`, which computes nothing, gives of a cache and of what goes into it, rounded to its dtype:
    on bits where the kind of device moves bf16 so."""
    arrays = [cache, *(each.astype(cache.dtype) for each in new)]
    if kind.bf16_by_bits and cache.dtype == jnp.bfloat16:
        return _from_bits(move(*map(_to_bits, arrays)))
    return move(*arrays)


def _to_bits(x: Array) -> Array:
    return jax.lax.bitcast_convert_type(x, jnp.uint16)


def _from_bits(bits: Array) -> Array:
    return jax.lax.bitcast_convert_type(bits, jnp.bfloat16)
