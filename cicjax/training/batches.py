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

from cicjax.devices.kind import Kind
from cicjax.provenance.encode import Encoded
from cicjax.provenance.protocol import Weighting

SHORTEST = 192  # tokens of a line
FILLED = 512  # and up to so many are filled with short rows; on a CPU too they pay (docs/speed.md)


class Row(NamedTuple):
    """One transcript, its targets those of a weighting, with the weight of each position under it; `extras`
    are further aligned columns that a loss asks for."""

    encoded: Encoded
    loss_weights: Float32[np.ndarray, "T"]
    extras: Mapping[str, Float32[np.ndarray, "T"]] = MappingProxyType({})


Unit = Row | tuple[Row, ...]  # what must not be parted: a row, or rows that a loss compares with each other


class Shape(NamedTuple):
    """The largest micro-batch of a stage on one device: `rows` lines of `length` tokens. When `fixed` it is
    the only one, otherwise shorter lines are cut; with one row `alone` on a line there is nothing to be told
    apart."""

    rows: int
    length: int
    fixed: bool = False
    alone: bool = False

    def over(self, devices: int) -> "Shape":
        """The micro-batch that so many devices share: as many lines on each, one shape for all."""
        return self if devices == 1 else self._replace(rows=self.rows * devices, fixed=True)


class Batch(NamedTuple):
    """A micro-batch of facts; what a position weighs, the compiled step makes of them by the rule of its
    loss.

    `indices` lists, line by line, the positions that carry loss; `used` is how many of its columns any line
    needs. The first position of every line is no target, so that the padding of `indices` weighs nothing.
    """

    tokens: Int32[Any, "B T"]
    positions: Int32[Any, "B T"]
    segments: Int32[Any, "B T"] | None  # None: every line is one row
    gamma: Int8[Any, "B T"]
    is_target: Bool[Any, "B T"]
    solved: Int8[Any, "B T"]
    indices: Int32[Any, "B T"]
    used: Int32[Any, ""]
    extras: dict[str, Float32[Any, "B T"]]
    dropout: Any = None  # a `lora.Dropout`, of lines: what the adapter does not see, in training alone


class Place(NamedTuple):
    """Where a row lies: the number of its micro-batch, its line, and the column of `indices` from which on
    its supervised positions stand there."""

    batch: int
    line: int
    column: int


def make_row(encoded: Encoded, weighting: Weighting, **extras: Float32[np.ndarray, "T"]) -> Row:
    """A row under a weighting, times the column `scale` of `extras` where it is there.

    Raises ValueError where a column and the tokens differ in length.
    """
    for name, column in extras.items():
        if column.shape != encoded.tokens.shape:
            raise ValueError(f"{name} has {column.shape[0]} entries for {encoded.tokens.shape[0]} tokens")
    encoded = encoded._replace(is_target=weighting.targets(encoded))
    weights = weighting.rule(encoded.gamma, encoded.is_target, encoded.solved)
    return Row(encoded, np.asarray(weights * extras.get("scale", 1), np.float32), extras)


def rows_of(unit: Unit) -> tuple[Row, ...]:
    """The rows of a unit."""
    return (unit,) if isinstance(unit, Row) else unit


def length_of(unit: Unit) -> int:
    """How many tokens a unit has."""
    return sum(len(row.loss_weights) for row in rows_of(unit))


def fit_shape(lengths: Iterable[int], *, rows: int, smallest: int = FILLED) -> Shape:
    """The shape for rows of these lengths: room for `smallest` tokens a line, or for the longest row where it
    needs more."""
    return Shape(rows, max(smallest, line_length(max(lengths, default=1))))


def shape_for(
    kind: Kind,
    units: Sequence[Unit],
    updates: Sequence[Sequence[Unit]] = (),
    *,
    devices: int = 1,
    filled: int = FILLED,
) -> Shape:
    """The shape of a stage over `units` as this kind of device wants it: where an update is one program, one
    shape of as many lines as the fullest of the `updates` needs of each of the `devices`, or as the kind
    takes at most; elsewhere lines of at most `filled` tokens, or of the longest row."""
    lengths = [length_of(unit) for unit in units]
    if not kind.one_program:
        return fit_shape(lengths, rows=kind.lines_per_batch, smallest=filled)
    longest = fit_shape(lengths, rows=1).length
    length = -(-longest // 128) * 128
    single = all(isinstance(unit, Row) for unit in units)
    alone = kind.causal_kernel is not None and single and length > kind.dense_keys
    shape = Shape(max(1, min(kind.lines_per_batch, kind.tokens_per_batch // length)), length, True, alone)
    fullest = max((len(_lines(update, shape)) for update in updates), default=shape.rows)
    return shape._replace(rows=max(1, min(shape.rows, -(-fullest // devices))))


def line_length(tokens: int) -> int:
    """`tokens` rounded up to a multiple of 64 from `SHORTEST` on, beyond 512 of an eighth of the next power
    of two.

    Little padding, few programs: each length is one, and the 0.5B model's takes some ten seconds to compile
    on two cores.
    """
    step = max(64, 2 ** (tokens - 1).bit_length() // 8)
    return max(SHORTEST, -(-tokens // step) * step)


def lengths_up_to(longest: int) -> list[int]:
    """The lengths that lines are cut to, up to `longest`."""
    return sorted({line_length(tokens) for tokens in range(1, longest + 1)})


def pack(units: Sequence[Unit], shape: Shape) -> list[Batch]:
    """The micro-batches of one update: units with loss, longest first, each into the first line with room.

    The rows of a unit lie on one line, and so in one micro-batch. Raises ValueError for a unit longer than a
    line.
    """
    return pack_and_place(units, shape)[0]


def pack_and_place(units: Sequence[Unit], shape: Shape) -> tuple[list[Batch], list[Place | None]]:
    """The micro-batches, and where each row of the units lies, in their order: None for one without loss."""
    rows = [row for unit in units for row in rows_of(unit)]
    lines = _lines(units, shape)
    places: list[Place | None] = [None] * len(rows)
    for number, line in enumerate(lines):
        column = 0
        for row in line:
            places[row] = Place(number // shape.rows, number % shape.rows, column)
            column += int(np.count_nonzero(rows[row].loss_weights))
    filled = [[rows[row] for row in line] for line in lines]
    batches = [
        _batch(filled[first : first + shape.rows], shape) for first in range(0, len(lines), shape.rows)
    ]
    return batches, places


def _lines(units: Sequence[Unit], shape: Shape) -> list[list[int]]:
    """The numbers of the rows on each line."""
    numbers = iter(range(sum(len(rows_of(unit)) for unit in units)))
    numbered = [(unit, [next(numbers) for _ in rows_of(unit)]) for unit in units]
    live = [(length_of(unit), rows) for unit, rows in numbered if _has_loss(unit)]
    lines: list[list[int]] = []
    room: list[int] = []
    for size, rows in sorted(live, key=lambda sized: -sized[0]):
        if size > shape.length:
            raise ValueError(f"a row of {size} tokens does not fit a line of {shape.length}")
        free = () if shape.alone else enumerate(room)
        line = next((n for n, left in free if left >= size), len(lines))
        if line == len(lines):
            lines.append([])
            room.append(shape.length)
        lines[line] += rows
        room[line] -= size
    return lines


def _has_loss(unit: Unit) -> bool:
    return any(row.loss_weights.any() for row in rows_of(unit))


def _batch(lines: Sequence[Sequence[Row]], shape: Shape) -> Batch:
    longest = max(sum(len(row.loss_weights) for row in line) for line in lines)
    length = shape.length if shape.fixed else min(shape.length, line_length(longest))
    batch = _empty_batch((shape.rows, length), lines[0][0].extras, alone=shape.alone)
    used = 0
    for number, line in enumerate(lines):
        start, carrying = 0, []
        for segment, (encoded, weights, extras) in enumerate(line, start=1):
            here = np.s_[number, start : start + len(weights)]
            batch.tokens[here], batch.gamma[here], batch.is_target[here] = (
                encoded.tokens,
                encoded.gamma,
                encoded.is_target,
            )
            batch.solved[here] = encoded.solved
            if batch.segments is not None:
                batch.segments[here] = segment
            batch.positions[here] = np.arange(len(weights))
            for name, column in extras.items():
                batch.extras[name][here] = column
            carrying.append(start + np.flatnonzero(weights))
            start += len(weights)
        columns = np.concatenate(carrying)
        batch.indices[number, : len(columns)] = columns
        used = max(used, len(columns))
    return batch._replace(used=np.asarray(used, np.int32))


def stack(batches: Sequence[Batch]) -> Batch:
    """Micro-batches of one shape along a first axis, filled up to a power of two: few programs. Those that
    fill it are the last again, and are not run."""
    import jax  # not above: the command line's help reads this file, and must not wait for jax

    filled = [*batches, *[batches[-1]] * ((1 << (len(batches) - 1).bit_length()) - len(batches))]
    return jax.tree.map(lambda *leaves: np.stack(leaves), *filled)


def _empty_batch(size: tuple[int, int], extras: Iterable[str], *, alone: bool) -> Batch:
    return Batch(
        tokens=np.zeros(size, np.int32),
        positions=np.zeros(size, np.int32),
        segments=None if alone else np.zeros(size, np.int32),
        gamma=np.zeros(size, np.int8),
        is_target=np.zeros(size, np.bool_),
        solved=np.full(size, -1, np.int8),
        indices=np.zeros(size, np.int32),
        used=np.zeros((), np.int32),
        extras={name: np.zeros(size, np.float32) for name in extras},
    )
