"""Prompts -> completions with token ids, log-probabilities and finish reasons.

Decoding runs one segment of steps at most, or until every row has stopped. Between segments the host drops
finished rows and compacts the others into a smaller bucket where they fit one. A row's numbers come from its
own key: it does not notice the rows beside. How long a segment is and which buckets there are follows the
model's kind of device.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt32

from cicjax.model import layout, qwen2
from cicjax.model.config import Tree
from cicjax.sampling.decode import Program, Prompts, Rows, decode_rows, prefill, take_rows

Decode = Callable[[Sequence[int]], str]


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """How completions are drawn. Temperature 0 is greedy; `stop_ids` end a completion as its last token,
    `stop_strings` before it."""

    max_new_tokens: int
    temperature: float
    stop_ids: tuple[int, ...]
    stop_strings: tuple[str, ...] = ()


class Completion(NamedTuple):
    """Sampled ids, the log-probability of each, and why it ended: "stop" (a stop id, kept), "stop_string" or
    "length"."""

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish_reason: str


class Sampler:
    """A policy ready to sample: base and adapter merged once, in the layout that its kind of device wants for
    sampling. Make a new one when the adapter changes."""

    def __init__(self, model: qwen2.Model, base: Tree, adapter: Tree | None = None):
        self._model = model._replace(lora=None)
        self._base = layout.prepare(base, model.kind.sampling, adapter=adapter, lora=model.lora)

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        keys: UInt32[np.ndarray, "R 2"],
        decoding: Decoding,
        *,
        prompt_of_row: Sequence[int] | None = None,
        decode: Decode | None = None,
    ) -> list[Completion]:
        """One completion for each row; row r continues prompts[prompt_of_row[r]] (row r itself when not
        given) with the key keys[r].

        `decode` turns ids into text and is needed for stop strings alone. Raises ValueError for an empty
        prompt.
        """
        owner = np.arange(len(prompts)) if prompt_of_row is None else np.asarray(prompt_of_row)
        if any(len(prompt) == 0 for prompt in prompts):
            raise ValueError("an empty prompt: a completion needs at least one token to continue")
        completions: dict[int, Completion] = {}
        most = self._model.kind.row_buckets[-1]
        for first in range(0, len(owner), most):
            numbers = np.arange(first, min(first + most, len(owner)))
            used, local = np.unique(owner[numbers], return_inverse=True)
            rows = self._start([prompts[i] for i in used], local, np.asarray(keys)[numbers], decoding)
            completions |= self._finish(rows, numbers, decoding, decode)
        return [completions[number] for number in range(len(owner))]

    def _start(
        self, prompts: list[Sequence[int]], prompt_of_row: np.ndarray, keys: np.ndarray, decoding: Decoding
    ) -> Rows:
        """Rows with their first token drawn, padded to a bucket."""
        kind = self._model.kind
        length = bucket(max(map(len, prompts)), kind.prompt_bucket)
        count = bucket(len(prompts), kind.prompt_bucket) if len(prompts) > 1 else 1
        padded = Prompts(np.zeros((count, length), np.int32), np.full(count, length - 1, np.int32))
        for number, prompt in enumerate(prompts):
            padded.tokens[number, length - len(prompt) :] = prompt
            padded.start[number] = length - len(prompt)
        size = self._rows_for(len(prompt_of_row))
        steps = bucket(min(decoding.max_new_tokens, kind.room), kind.segment)
        return prefill(
            self._program(decoding),
            self._base,
            padded,
            _fill(prompt_of_row, size),
            _fill(keys, size),
            steps=steps,
        )

    def _finish(
        self, rows: Rows, numbers: np.ndarray, decoding: Decoding, decode: Decode | None
    ) -> Iterator[tuple[int, Completion]]:
        """(number, completion) of each row, as they end; numbers[i] is that of row i."""
        step, kind, most = 1, self._model.kind, decoding.max_new_tokens
        while len(numbers):
            # 1. The device draws to the end of a segment, or until no row is left.
            stop_at = min((step // kind.segment + 1) * kind.segment, most)
            rows, step = decode_rows(self._program(decoding), self._base, rows, step, stop_at)

            # 2. The host looks at the ids: which rows has a stop id, a stop string or the length ended?
            tokens, logprobs = np.asarray(rows.tokens), np.asarray(rows.logprobs)
            unfinished = []
            for position, number in enumerate(numbers):
                completion = completed(tokens[position, :step], logprobs[position, :step], decoding, decode)
                if completion.finish_reason != "length" or step >= most:
                    yield int(number), completion
                else:
                    unfinished.append(position)

            # 3. The others are compacted into the smallest bucket, with more room where the cache is full.
            room = tokens.shape[1]
            if unfinished and (len(unfinished) < len(numbers) or step >= room):
                more = bucket(most, kind.segment) - room if step >= room else 0
                index = _fill(np.asarray(unfinished), self._rows_for(len(unfinished)))
                rows = take_rows(rows, index, more=more)
            numbers = numbers[unfinished]

    def _program(self, decoding: Decoding) -> Program:
        return Program(self._model, decoding.temperature, decoding.stop_ids)

    def _rows_for(self, count: int) -> int:
        return next(size for size in self._model.kind.row_buckets if size >= count)


def completed(
    tokens: np.ndarray, logprobs: np.ndarray, decoding: Decoding, decode: Decode | None
) -> Completion:
    """The completion that these sampled ids amount to so far; "length" when nothing has ended it."""
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
