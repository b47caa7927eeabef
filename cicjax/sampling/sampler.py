"""Prompts -> completions with token ids, log-probabilities and finish reasons.

Decoding runs one segment of steps at most, or until every row has stopped. Between segments the host drops
finished rows and compacts the others into a smaller bucket where they fit one. A row's numbers come from its
own key: it does not notice the rows beside. How long a segment is and which buckets there are follows the
model's kind of device. The devices of this host that have the base share the rows, neighbours together, so
that a prompt's samples are on one device or two.
"""

import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import UInt32

from cicjax import signals
from cicjax.devices import mesh
from cicjax.devices.kind import Layout
from cicjax.errors import Corrupted
from cicjax.model import layout, limits, ops, qwen2
from cicjax.model.config import Tree
from cicjax.sampling.decode import (
    Draws,
    Prompts,
    Rows,
    decode_rows,
    empty_caches,
    open_rows,
    prefill,
    prefill_chunk,
    take_rows,
)

Decode = Callable[[Sequence[int]], str]


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """How completions are drawn. Temperature 0 is greedy, `top_p` the share of the probability that is drawn
    from; `stop_ids` end a completion as its last token, `stop_strings` before it."""

    max_new_tokens: int
    temperature: float
    stop_ids: tuple[int, ...]
    stop_strings: tuple[str, ...] = ()
    top_p: float = 1.0


class Completion(NamedTuple):
    """Sampled ids, the log-probability of each, and why it ended: "stop" (a stop id, kept), "stop_string" or
    "length"."""

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish_reason: str


class Sampler:
    """A policy ready to sample: the base in the layout that its kind of device wants for sampling, which
    samplers over one base share, and the adapter beside it, never merged: rounded into a bf16 base, one
    update would be mostly noise. Make a new one when the adapter changes; that compiles nothing."""

    def __init__(self, model: qwen2.Model, base: Tree, adapter: Tree | None = None):
        self._model = model if adapter is not None else model._replace(lora=None)
        self._devices = mesh.own(base)
        base = _SHARED.prepare(base, model.kind.sampling)
        dtype = ops.table_of(base["embed_tokens"]["embedding"]).dtype
        self._base = base
        self._adapter = None if adapter is None else layout.serving(self._devices.whole(adapter), dtype)

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        keys: UInt32[np.ndarray, "R 2"],
        decoding: Decoding | Sequence[Decoding],
        *,
        prompt_of_row: Sequence[int] | None = None,
        decode: Decode | None = None,
    ) -> list[Completion]:
        """One completion for each row; row r continues prompts[prompt_of_row[r]] (row r itself when not
        given) with the key keys[r], drawn by `decoding`, which may be one for each row.

        `decode` turns ids into text and is needed for stop strings alone. Raises ValueError for an empty
        prompt, BadInput for a row that would pass the model's last position, OutOfResources where the rows
        cannot fit the kind of device.
        """
        owner = np.arange(len(prompts)) if prompt_of_row is None else np.asarray(prompt_of_row)
        hows = [decoding] * len(owner) if isinstance(decoding, Decoding) else list(decoding)
        self.check_fit(prompts, hows, prompt_of_row=owner.tolist())
        completions: dict[int, Completion] = {}
        count = self._devices.count
        most = count * self._model.kind.row_buckets[-1]
        for first in range(0, len(owner), most):
            numbers = np.arange(first, min(first + most, len(owner)))
            parts = np.array_split(numbers, count)
            rows = self._start(prompts, owner, np.asarray(keys), hows, parts)
            completions |= self._finish(rows, parts, hows, decode)
        return [completions[number] for number in range(len(owner))]

    def check_fit(
        self,
        prompts: Sequence[Sequence[int]],
        decoding: Decoding | Sequence[Decoding],
        *,
        prompt_of_row: Sequence[int] | None = None,
        names: Sequence[str] | None = None,
    ) -> None:
        """What `sample` refuses, said beforehand; `names` are those of the prompts."""
        owner = range(len(prompts)) if prompt_of_row is None else prompt_of_row
        hows = [decoding] * len(owner) if isinstance(decoding, Decoding) else decoding
        names = [f"prompt {n + 1}" for n in range(len(prompts))] if names is None else names
        if any(len(prompt) == 0 for prompt in prompts):
            raise ValueError("an empty prompt: a completion needs at least one token to continue")
        if not owner:
            return
        for number, how in zip(owner, hows, strict=True):
            new = how.max_new_tokens
            limits.check_positions(self._model, names[number], len(prompts[number]), new=new)
        longest = max(owner, key=lambda number: len(prompts[number]))
        tokens, new = len(prompts[longest]), max(how.max_new_tokens for how in hows)
        each = -(-len(owner) // self._devices.count)
        rows = self._rows_for(min(each, self._model.kind.row_buckets[-1]))
        count = min(len(prompts), rows)
        steps = max(new, self._model.kind.room) if self._model.kind.loops_on_device else new
        need = limits.sampling_need(
            self._model, self._base, prompts=count, length=tokens, rows=rows, steps=steps
        )
        change = "shorten it, lower --max_new_tokens or take fewer prompts at once"
        limits.check_memory(self._model, need, row=names[longest], tokens=tokens + new, change=change)

    def _start(
        self,
        prompts: Sequence[Sequence[int]],
        owner: np.ndarray,
        keys: np.ndarray,
        hows: Sequence[Decoding],
        parts: Sequence[np.ndarray],
    ) -> Rows:
        """Rows with their first token drawn: of each device the numbers of its part, padded to a bucket."""
        kind, size = self._model.kind, self._rows_for(max(map(len, parts)))
        seats = [_fill(part if len(part) else parts[0][:1], size) for part in parts]
        used, local = zip(*(np.unique(owner[each], return_inverse=True) for each in seats), strict=True)
        numbers = np.concatenate(seats)
        draws = _draws(keys[numbers], [hows[number] for number in numbers])
        most = max(hows[number].max_new_tokens for number in numbers)
        # Where programs are dear to compile, caches of one size.
        steps = kind.room if kind.loops_on_device else bucket(min(most, kind.room), kind.segment)
        padded = self._padded([[prompts[i] for i in each] for each in used])
        places = {"prompt_of_row": np.concatenate(local), "draws": draws}
        if padded.tokens.shape[1] <= kind.prompt_chunk:
            return self._each(prefill, {"prompts": padded, **places}, steps=steps)
        last, caches = None, self._each(empty_caches, {"prompts": padded}, adapter=False)
        for slot in range(0, padded.tokens.shape[1], kind.prompt_chunk):
            tokens = padded.tokens[:, slot : slot + kind.prompt_chunk]
            here = {"caches": caches, "tokens": tokens, "start": padded.start}
            last, caches = self._each(prefill_chunk, here, slot=np.int32(slot))
        filled = {"last": last, "caches": caches, "start": padded.start, **places}
        return self._each(open_rows, filled, adapter=False, steps=steps)

    def _each(
        self,
        program: Callable[..., Any],
        rows: dict[str, Any],
        *,
        adapter: bool = True,
        steps: int | None = None,
        slot: Any = None,
    ) -> Any:
        """What a program of the model gives on these arrays of rows."""
        whole = {"base": self._base} | ({"adapter": self._adapter} if adapter else {})
        return self._devices.each(
            program,
            static={"model": self._model} | ({} if steps is None else {"steps": steps}),
            whole=whole if slot is None else {**whole, "slot": slot},
            rows=self._devices.rows(rows),
            donate=("caches",) if program is prefill_chunk else (),
        ).run()

    def _padded(self, groups: list[list[Sequence[int]]]) -> Prompts:
        """Each device's prompts to a bucket, in tokens and in number; long ones to whole chunks."""
        kind, longest = self._model.kind, max(len(prompt) for group in groups for prompt in group)
        length = bucket(longest, kind.prompt_bucket if longest <= kind.prompt_chunk else kind.prompt_chunk)
        most = max(map(len, groups))
        count = bucket(most, kind.prompt_bucket) if most > 1 else 1
        size = count * len(groups)
        padded = Prompts(np.zeros((size, length), np.int32), np.full(size, length - 1, np.int32))
        for device, group in enumerate(groups):
            for number, prompt in enumerate(group, start=device * count):
                padded.tokens[number, length - len(prompt) :] = prompt
                padded.start[number] = length - len(prompt)
        return padded

    def _finish(
        self, rows: Rows, parts: Sequence[np.ndarray], hows: Sequence[Decoding], decode: Decode | None
    ) -> Iterator[tuple[int, Completion]]:
        """(number, completion) of each row, as they end; parts[d][i] is the number of row i of device d."""
        step, kind, devices = 1, self._model.kind, self._devices
        seated = [list(enumerate(part.tolist())) for part in parts]
        while any(seated):
            # 0. Nothing of these rows is kept yet, and nothing of others is lost.
            signals.check()

            # 1. The devices draw to the end of a segment, or until no row is left.
            most = max(hows[number].max_new_tokens for part in seated for _, number in part)
            stop_at = min((step // kind.segment + 1) * kind.segment, most)
            whole = {"base": self._base, "adapter": self._adapter}
            rows, step = decode_rows(devices, self._model, whole, rows, step, stop_at)

            # 2. The host looks at the ids: which rows has a stop id, a stop string or the length ended?
            tokens, logprobs = np.asarray(rows.tokens), np.asarray(rows.logprobs)
            size, room = len(tokens) // devices.count, tokens.shape[1]
            left: list[list[tuple[int, int]]] = [[] for _ in seated]
            for device, part in enumerate(seated):
                for seat, number in part:
                    how, row = hows[number], device * size + seat
                    own = min(step, how.max_new_tokens)
                    completion = completed(tokens[row, :own], logprobs[row, :own], how, decode)
                    if completion.finish_reason != "length" or own == how.max_new_tokens:
                        yield number, completion
                    else:
                        left[device].append((seat, number))

            # 3. The others keep their seats, or move where fewer will do or the cache is full.
            more = bucket(most, kind.segment) - room if step >= room else 0
            rows, seated = self._seated(rows, left, size, more)

    def _seated(
        self, rows: Rows, left: list[list[tuple[int, int]]], size: int, more: int
    ) -> tuple[Rows, list[list[tuple[int, int]]]]:
        """The rows that are `left`, each a seat and its number, of `size` seats a device: in the smallest
        bucket, with room for so many steps more."""
        fits = self._rows_for(max(map(len, left)) or 1)
        if not any(left):
            return rows, left
        if fits == size and not more:
            done = np.ones((len(left), size), np.bool_)
            for device, part in enumerate(left):
                done[device, [seat for seat, _ in part]] = False
            return rows._replace(done=self._devices.rows(done.reshape(-1))), left
        seats = [_fill(np.asarray([seat for seat, _ in part] or [0]), fits) for part in left]
        places = {"rows": rows, "index": self._devices.rows(np.concatenate(seats))}
        rows = self._devices.each(take_rows, static={"more": more}, whole={}, rows=places).run()
        return rows, [list(enumerate(number for _, number in part)) for part in left]

    def _rows_for(self, count: int) -> int:
        return next(size for size in self._model.kind.row_buckets if size >= count)


class _LastPrepared:
    """The newest base in its layout for sampling on this host's devices, as long as whoever gave it keeps
    it."""

    def __init__(self) -> None:
        self._given: list[weakref.ref] = []
        self._wanted: Layout | None = None
        self._prepared: Tree | None = None

    def prepare(self, base: Tree, wanted: Layout) -> Tree:
        """`layout.prepare` on them, once for all that give the same arrays one after another."""
        leaves = jax.tree.leaves(base)
        same = len(leaves) == len(self._given) and all(
            ref() is leaf for ref, leaf in zip(self._given, leaves, strict=True)
        )
        if self._prepared is not None and same and wanted == self._wanted:
            return self._prepared
        self._given, self._prepared = [], None  # what was there goes before the next is made
        prepared = layout.prepare(mesh.own(base).whole(base), wanted)
        if not {id(leaf) for leaf in jax.tree.leaves(prepared)} <= {id(leaf) for leaf in leaves}:
            self._given = [weakref.ref(leaf, self._forget) for leaf in leaves]
            self._prepared, self._wanted = prepared, wanted
        return prepared

    def _forget(self, gone: weakref.ref) -> None:
        if any(gone is ref for ref in self._given):
            self._given, self._prepared = [], None


_SHARED = _LastPrepared()


def _draws(keys: np.ndarray, hows: Sequence[Decoding]) -> Draws:
    """How the rows draw, as arrays; the number of stop ids is rounded up to a multiple of 4."""
    stops = np.full((len(hows), bucket(max(len(how.stop_ids) for how in hows) or 1, 4)), -1, np.int32)
    for row, how in zip(stops, hows, strict=True):
        row[: len(how.stop_ids)] = how.stop_ids
    return Draws(
        keys,
        np.asarray([how.temperature for how in hows], np.float32),
        np.asarray([how.top_p for how in hows], np.float32),
        stops,
    )


def completed(
    tokens: np.ndarray, logprobs: np.ndarray, decoding: Decoding, decode: Decode | None
) -> Completion:
    """The completion that these sampled ids amount to so far; "length" when nothing has ended it. Raises
    Corrupted for log-probabilities that are not finite."""
    if not np.isfinite(logprobs).all():
        raise Corrupted(
            "log-probabilities of sampled tokens are not finite: the weights or the adapter are damaged, or "
            "too large for this precision (--dtype float32)"
        )
    stops = np.flatnonzero(np.isin(tokens, decoding.stop_ids))
    end, reason = (int(stops[0]) + 1, "stop") if len(stops) else (len(tokens), "length")
    if decoding.stop_strings and decode is not None:
        content = tokens[: end - 1 if reason == "stop" else end].tolist()
        cut = _before_stop_string(content, decoding.stop_strings, decode)
        if cut is not None:
            end, reason = cut, "stop_string"
    return Completion(tuple(int(t) for t in tokens[:end]), tuple(float(p) for p in logprobs[:end]), reason)


def _before_stop_string(tokens: list[int], stop_strings: Sequence[str], decode: Decode) -> int | None:
    """How many leading tokens lie wholly before the first stop string; None where there is none."""
    text = decode(tokens)
    begins = [begin for begin in map(text.find, stop_strings) if begin >= 0]
    if not begins:
        return None
    limit, low, high = min(begins), 0, len(tokens)
    while low < high:  # the text of a prefix only grows with its length
        middle = (low + high + 1) // 2
        low, high = (middle, high) if len(decode(tokens[:middle])) <= limit else (low, middle - 1)
    return low


def bucket(size: int, multiple: int) -> int:
    """`size` rounded up to a multiple: few shapes, few programs."""
    return -(-size // multiple) * multiple


def _fill(values: np.ndarray, size: int) -> np.ndarray:
    """Repeat the last entry up to `size`: rows that fill a bucket do the work of a real one and are never
    read."""
    return np.concatenate([values, np.repeat(values[-1:], size - len(values), axis=0)])
