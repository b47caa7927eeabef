"""Prompts -> completions with token ids, log-probabilities and finish reasons.

Prompts are left-padded to a bucket, so that every row writes the same cache slot; a prompt is prefilled once
for all its samples. Decoding runs `SEGMENT` steps at most, or until every row has stopped: on an accelerator
one program with a `lax.while_loop` inside, on a CPU a program that is called for each step. Between segments
the host drops finished rows, into a smaller bucket where they fit one. A row's numbers come from its own key:
it does not notice the rows beside.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt32

from cicjax.model import qwen2
from cicjax.model.lora import merge_adapter
from cicjax.sampling.draw import choose

SEGMENT = 16
ROOM = 64  # steps that the cache has room for at first; the few rows that need more get it later
ROWS = (16, 32, 64, 128, 256)


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


class Rows(NamedTuple):
    """The state of rows that decode together. Slots below `start` are left padding."""

    caches: tuple[qwen2.Cache, ...]
    start: Int[Array, "B"]
    keys: UInt32[Array, "B 2"]
    token: Int[Array, "B"]
    tokens: Int[Array, "B N"]
    logprobs: Float[Array, "B N"]
    done: Bool[Array, "B"]


class Sampler:
    """A policy ready to sample: base and adapter merged once, layers taken apart and, on a CPU, kernels
    turned to the layout that small products want. Make a new one when the adapter changes."""

    def __init__(self, model: qwen2.Model, base: qwen2.Tree, adapter: qwen2.Tree | None = None):
        self._model, base = qwen2.Model(model.config), qwen2.unstack(base)
        adapters = [
            qwen2.layer_of(adapter["layers"], number) if adapter else None
            for number in range(len(base["layers"]))
        ]
        layers = (_ready(model, *layer) for layer in zip(base["layers"], adapters, strict=True))
        self._base = {**base, "layers": tuple(layers)}

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        keys: UInt32[np.ndarray, "R 2"],
        decoding: Decoding,
        *,
        prompt_of_row: Sequence[int] | None = None,
        decode: Callable[[Sequence[int]], str] | None = None,
    ) -> list[Completion]:
        """One completion for each row; row r continues prompts[prompt_of_row[r]] (row r itself when not
        given) with the key keys[r].

        `decode` turns ids into text and is needed for stop strings alone. Raises ValueError for an empty
        prompt.
        """
        owner = np.arange(len(prompts)) if prompt_of_row is None else np.asarray(prompt_of_row)
        if any(len(prompt) == 0 for prompt in prompts):
            raise ValueError("an empty prompt: a completion needs at least one token to continue")
        results: dict[int, Completion] = {}
        for first in range(0, len(owner), ROWS[-1]):
            rows = np.arange(first, min(first + ROWS[-1], len(owner)))
            used, local = np.unique(owner[rows], return_inverse=True)
            batch = self._start([prompts[i] for i in used], local, np.asarray(keys)[rows], decoding)
            self._finish(batch, rows, decoding, decode, results)
        return [results[row] for row in range(len(owner))]

    def _start(
        self, prompts: list[Sequence[int]], owner: np.ndarray, keys: np.ndarray, decoding: Decoding
    ) -> tuple[Rows, int]:
        length = bucket(max(map(len, prompts)), 16)
        count = bucket(len(prompts), 16) if len(prompts) > 1 else 1
        tokens = np.zeros((count, length), np.int32)
        start = np.full(count, length - 1, np.int32)
        for number, prompt in enumerate(prompts):
            tokens[number, length - len(prompt) :] = prompt
            start[number] = length - len(prompt)
        size = next(rows for rows in ROWS if rows >= len(owner))
        owner, keys = _fill(owner, size), _fill(keys, size)
        steps = bucket(min(decoding.max_new_tokens, ROOM), SEGMENT)
        return prefill(
            self._model,
            self._base,
            tokens,
            start,
            owner,
            keys,
            steps,
            decoding.temperature,
            decoding.stop_ids,
        ), length

    def _finish(
        self,
        batch: tuple[Rows, int],
        rows: np.ndarray,
        decoding: Decoding,
        decode: Any,
        results: dict[int, Completion],
    ) -> None:
        state, length = batch
        step = 1
        while True:
            room = state.tokens.shape[1]
            stop_at = min((step // SEGMENT + 1) * SEGMENT, decoding.max_new_tokens)
            state, step = decode_rows(
                self._model, self._base, state, step, stop_at, length, decoding.temperature, decoding.stop_ids
            )
            tokens, logprobs = np.asarray(state.tokens), np.asarray(state.logprobs)
            alive = []
            for position, row in enumerate(rows):
                completion = completed(tokens[position, :step], logprobs[position, :step], decoding, decode)
                if completion.finish_reason != "length" or step >= decoding.max_new_tokens:
                    results[int(row)] = completion
                else:
                    alive.append(position)
            if not alive:
                return
            if len(alive) < len(rows) or step >= room:
                size = next(size for size in ROWS if size >= len(alive))
                more = bucket(decoding.max_new_tokens, SEGMENT) - room if step >= room else 0
                state = take_rows(state, _fill(np.asarray(alive), size), more)
                rows = rows[alive]


def completed(
    tokens: np.ndarray,
    logprobs: np.ndarray,
    decoding: Decoding,
    decode: Callable[[Sequence[int]], str] | None,
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


def _before_stop_string(
    tokens: list[int], stop_strings: Sequence[str], decode: Callable[[Sequence[int]], str]
) -> int | None:
    """How many leading tokens lie wholly before the first stop string; None where there is none."""
    text = decode(tokens)
    found = [text.find(stop) for stop in stop_strings]
    if max(found) < 0:
        return None
    limit = min(position for position in found if position >= 0)
    low, high = 0, len(tokens)
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


@partial(jax.jit, static_argnums=0)
def _ready(model: qwen2.Model, layer: qwen2.Tree, adapter: qwen2.Tree | None) -> qwen2.Tree:
    """One layer with its adapter folded in and its kernels turned. Layer by layer, so that no second copy of
    all is ever held."""
    if adapter is not None and model.lora is not None:
        base, own = jax.tree.map(lambda leaf: leaf[None], ({"layers": layer}, {"layers": adapter}))
        layer = jax.tree.map(lambda leaf: leaf[0], merge_adapter(base, own, model.lora)["layers"])
    return qwen2.turn_kernels(layer, keep=False) if jax.default_backend() == "cpu" else layer


@partial(jax.jit, static_argnums=0)
def _one_layer(
    model: qwen2.Model, layer: qwen2.Tree, *inputs: Any
) -> tuple[Float[Array, "B T D"], qwen2.Cache]:
    """One block on (x, angles, attention mask) and, in decoding, (cache, slot). Jitted, so that a loop over
    layers traces it once."""
    return model.block(layer, None)(*inputs)


@partial(jax.jit, static_argnums=(0, 6, 7, 8))
def prefill(
    model: qwen2.Model,
    base: qwen2.Tree,
    tokens: Int[Array, "P S"],
    start: Int[Array, "P"],
    owner: Int[Array, "B"],
    keys: UInt32[Array, "B 2"],
    steps: int,
    temperature: float,
    stop_ids: tuple[int, ...],
) -> Rows:
    """Run each prompt once, hand its keys and values to its rows with room for `steps` more, and draw every
    row's first token."""
    length, dtype = tokens.shape[1], base["embed_tokens"]["embedding"].dtype
    slots = jnp.arange(length)
    angles = qwen2.rotation(jnp.maximum(slots[None] - start[:, None], 0), model.config)
    attention_mask = (slots[:, None] >= slots[None, :])[None] & (slots[None, None, :] >= start[:, None, None])
    x = qwen2.embed(base, tokens)
    caches = []
    for layer in base["layers"]:
        x, cache = _one_layer(model, layer, x, angles, attention_mask)
        caches.append(
            jax.tree.map(
                lambda part: jnp.pad(part.astype(dtype)[owner], ((0, 0), (0, 0), (0, steps), (0, 0))), cache
            )
        )
    last = qwen2.rms_norm(x[:, -1], base["norm"]["scale"], model.config.rms_norm_eps)
    token, logprob = choose(qwen2.next_scores(base, last)[:, owner], keys, jnp.int32(0), temperature)
    shape = (len(owner), steps)
    return Rows(
        caches=tuple(caches),
        start=start[owner],
        keys=keys,
        token=token,
        tokens=jnp.zeros(shape, jnp.int32).at[:, 0].set(token),
        logprobs=jnp.zeros(shape, jnp.float32).at[:, 0].set(logprob),
        done=jnp.isin(token, jnp.asarray(stop_ids)),
    )


def decode_rows(
    model: qwen2.Model,
    base: qwen2.Tree,
    rows: Rows,
    step: int,
    stop_at: int,
    prompt_length: int,
    temperature: float,
    stop_ids: tuple[int, ...],
) -> tuple[Rows, int]:
    """Draw tokens `step` ... `stop_at` - 1 of every row, or fewer when all have stopped; gives the rows and
    the step reached.

    One program with the loop inside; on a CPU one program a step, because XLA there lifts the transposes of
    all kernels out of a loop and then multiplies by those copies, at half the speed.
    """
    if jax.default_backend() != "cpu":
        rows, reached = _decode_loop(
            model,
            base,
            rows,
            np.int32(step),
            np.int32(stop_at),
            np.int32(prompt_length),
            temperature,
            stop_ids,
        )
        return rows, int(reached)
    while step < stop_at and not np.asarray(rows.done).all():
        rows = _decode_step(model, base, rows, np.int32(step), np.int32(prompt_length), temperature, stop_ids)
        step += 1
    return rows, step


@partial(jax.jit, static_argnums=(0, 5, 6), donate_argnums=(2,))
def _decode_step(
    model: qwen2.Model,
    base: qwen2.Tree,
    rows: Rows,
    step: Int[Array, ""],
    prompt_length: Int[Array, ""],
    temperature: float,
    stop_ids: tuple[int, ...],
) -> Rows:
    """Draw token `step` of every row."""
    slots, slot = jnp.arange(rows.caches[0].keys.shape[2]), prompt_length + step - 1
    angles = jax.lax.optimization_barrier(qwen2.rotation((slot - rows.start)[:, None], model.config))
    attention_mask = ((slots[None] <= slot) & (slots[None] >= rows.start[:, None]))[:, None]
    x = qwen2.embed(base, rows.token[:, None])
    caches = []
    for layer, cache in zip(base["layers"], rows.caches, strict=True):
        x, cache = _one_layer(model, layer, x, angles, attention_mask, cache, slot)
        caches.append(cache)
    last = qwen2.rms_norm(x[:, 0], base["norm"]["scale"], model.config.rms_norm_eps)
    token, logprob = choose(qwen2.next_scores(base, last), rows.keys, step, temperature)
    return rows._replace(
        caches=tuple(caches),
        token=token,
        tokens=jax.lax.dynamic_update_slice_in_dim(rows.tokens, token[:, None], step, axis=1),
        logprobs=jax.lax.dynamic_update_slice_in_dim(rows.logprobs, logprob[:, None], step, axis=1),
        done=rows.done | jnp.isin(token, jnp.asarray(stop_ids)),
    )


@partial(jax.jit, static_argnums=(0, 6, 7), donate_argnums=(2,))
def _decode_loop(
    model: qwen2.Model,
    base: qwen2.Tree,
    rows: Rows,
    step: Int[Array, ""],
    stop_at: Int[Array, ""],
    prompt_length: Int[Array, ""],
    temperature: float,
    stop_ids: tuple[int, ...],
) -> tuple[Rows, Int[Array, ""]]:
    """`_decode_step` until `stop_at` or until every row has stopped, on the device."""

    def one_step(carry: tuple[Rows, Any]) -> tuple[Rows, Any]:
        rows, step = carry
        return _decode_step(model, base, rows, step, prompt_length, temperature, stop_ids), step + 1

    def unfinished(carry: tuple[Rows, Any]) -> Bool[Array, ""]:
        rows, step = carry
        return (step < stop_at) & ~rows.done.all()

    return jax.lax.while_loop(unfinished, one_step, (rows, step))


@partial(jax.jit, static_argnums=(2,))
def take_rows(rows: Rows, index: Int[Array, "B"], more: int) -> Rows:
    """The rows at `index`, with room for `more` steps."""
    kept = jax.tree.map(lambda leaf: leaf[index], rows)
    wider = ((0, 0), (0, more))
    return kept._replace(
        caches=jax.tree.map(lambda part: jnp.pad(part, ((0, 0), (0, 0), (0, more), (0, 0))), kept.caches),
        tokens=jnp.pad(kept.tokens, wider),
        logprobs=jnp.pad(kept.logprobs, wider),
    )
