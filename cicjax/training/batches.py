"""Rows of tokens -> micro-batches of a few shapes.

The rows of an update that carry loss are packed side by side, each a segment with positions of its own, and a
micro-batch is cut where its longest line ends, rounded up to one of a few lengths; rows without targets are
left out, since they would add exact zeros. Facts (`gamma`, `is_target`, `solved`) travel with the weights
that a method made of them. Lengths, never token ids, say what is padding: end-of-text and padding share an id
in Qwen2.5.
"""

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Int8, Int32

from cicjax.provenance.encode import Encoded

SHORTEST = 192  # tokens of a line


class Row(NamedTuple):
    """One transcript and the weight of each of its positions in a loss; `extras` are further aligned columns
    that a loss asks for."""

    encoded: Encoded
    loss_weights: Float32[np.ndarray, "T"]
    extras: Mapping[str, Float32[np.ndarray, "T"]] = MappingProxyType({})


class Shape(NamedTuple):
    """The largest micro-batch of a stage: `rows` lines of `length` tokens."""

    rows: int
    length: int


class Batch(NamedTuple):
    """A micro-batch. `indices` lists, line by line, the positions that carry loss; `used` is how many of its
    columns any line needs."""

    tokens: Int32[Any, "B T"]
    positions: Int32[Any, "B T"]
    segments: Int32[Any, "B T"]
    gamma: Int8[Any, "B T"]
    is_target: Bool[Any, "B T"]
    solved: Int8[Any, "B T"]
    loss_weights: Float32[Any, "B T"]
    indices: Int32[Any, "B T"]
    used: Int32[Any, ""]
    extras: dict[str, Float32[Any, "B T"]]


def make_row(
    encoded: Encoded, loss_weights: Float32[np.ndarray, "T"], **extras: Float32[np.ndarray, "T"]
) -> Row:
    """A row whose first token, which nothing predicts, weighs 0. Raises ValueError where weights and tokens
    differ in length."""
    if loss_weights.shape != encoded.tokens.shape:
        raise ValueError(f"{loss_weights.shape[0]} weights for {encoded.tokens.shape[0]} tokens")
    weights = np.array(loss_weights, np.float32)
    weights[:1] = 0.0
    return Row(encoded, weights, extras)


def fit_shape(lengths: Iterable[int], *, rows: int, smallest: int = 320) -> Shape:
    """The shape for rows of these lengths: room for `smallest` tokens a line, or for the longest row where it
    needs more."""
    return Shape(rows, max(smallest, line_length(max(lengths, default=1))))


def line_length(tokens: int) -> int:
    """`tokens` rounded up to a multiple of 64 from `SHORTEST` on, beyond 512 of an eighth of the next power
    of two.

    Little padding, few programs: each length is one, and the 0.5B model's takes some ten seconds to compile
    on two cores.
    """
    step = max(64, 2 ** (tokens - 1).bit_length() // 8)
    return max(SHORTEST, -(-tokens // step) * step)


def pack(rows: Sequence[Row], shape: Shape) -> list[Batch]:
    """The micro-batches of one update: rows with loss, longest first, each into the first line with room for
    it.

    Raises ValueError for a row longer than a line.
    """
    live = [row for row in rows if row.loss_weights.any()]
    lines: list[list[Row]] = []
    room: list[int] = []
    for row in sorted(live, key=lambda row: -len(row.loss_weights)):
        size = len(row.loss_weights)
        if size > shape.length:
            raise ValueError(f"a row of {size} tokens does not fit a line of {shape.length}")
        line = next((n for n, left in enumerate(room) if left >= size), None)
        if line is None:
            lines.append([])
            room.append(shape.length)
            line = len(lines) - 1
        lines[line].append(row)
        room[line] -= size
    return [_batch(lines[first : first + shape.rows], shape) for first in range(0, len(lines), shape.rows)]


def _batch(lines: Sequence[Sequence[Row]], shape: Shape) -> Batch:
    longest = max(sum(len(row.loss_weights) for row in line) for line in lines)
    size = (shape.rows, min(shape.length, line_length(longest)))
    batch = Batch(
        tokens=np.zeros(size, np.int32),
        positions=np.zeros(size, np.int32),
        segments=np.zeros(size, np.int32),
        gamma=np.zeros(size, np.int8),
        is_target=np.zeros(size, np.bool_),
        solved=np.full(size, -1, np.int8),
        loss_weights=np.zeros(size, np.float32),
        indices=np.zeros(size, np.int32),
        used=np.zeros((), np.int32),
        extras={name: np.zeros(size, np.float32) for name in lines[0][0].extras},
    )
    used = 0
    for number, line in enumerate(lines):
        start = 0
        for segment, (encoded, weights, extras) in enumerate(line, start=1):
            here = np.s_[number, start : start + len(weights)]
            batch.tokens[here], batch.gamma[here], batch.is_target[here] = (
                encoded.tokens,
                encoded.gamma,
                encoded.is_target,
            )
            batch.solved[here], batch.loss_weights[here] = encoded.solved, weights
            batch.positions[here], batch.segments[here] = np.arange(len(weights)), segment
            for name, column in extras.items():
                batch.extras[name][here] = column
            start += len(weights)
        (carrying,) = np.nonzero(batch.loss_weights[number])
        batch.indices[number, : len(carrying)] = carrying
        used = max(used, len(carrying))
    return batch._replace(used=np.asarray(used, np.int32))
