"""What `test_mesh.py` asks of several devices, in a process of its own: their number is fixed when jax
starts. Prints one object a number of devices, numbers as differences to one device."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from toy_policy import random_policy

from cicjax.devices import compiled, kind, mesh
from cicjax.model import layout
from cicjax.provenance import Encoded, weights
from cicjax.provenance.protocol import Weighting
from cicjax.sampling.draw import row_keys
from cicjax.sampling.sampler import Decoding, Sampler
from cicjax.training import loop, scoring, steps
from cicjax.training.batches import Shape, make_row

# Rows end and caches grow on the way; all rows of a device in one bucket.
KIND = replace(kind.CPU, segment=8, room=16, row_buckets=(16, 64))
PROMPTS = [[5, 6, 7], [9] * 40, [11, 12, 13, 14, 15, 16], [200]]
SHAPE, OPTIMIZATION = Shape(1, 192), steps.Optimization()


def encoded(length: int) -> Encoded:
    rng = np.random.default_rng(length)
    gamma = (rng.random(length) < 0.5).astype(np.int8)
    facts = np.full(length, -1, np.int8), np.ones(length, np.int8)
    return Encoded(rng.integers(3, 300, length).astype(np.int32), gamma, np.ones(length, bool), *facts)


ROWS = [make_row(encoded(60 + 13 * n), Weighting(weights.INTERVENTIONAL)) for n in range(9)]


def trained(model: Any, base: Any, adapter: Any) -> tuple[list[list[float]], Any]:
    """[loss, gradient norm] of three updates, of nine, three and no rows with loss, and the adapter."""
    state, told = mesh.of(base).whole(steps.start_state(adapter, OPTIMIZATION)), []
    for index, rows in enumerate((ROWS, ROWS[:3], [])):
        before = state
        state, dispatched = loop.one_update(
            state,
            rows,
            index=index,
            rate=1e-3,
            model=model,
            base=base,
            shape=SHAPE,
            optimization=OPTIMIZATION,
            loss=steps.Likelihood(weights.INTERVENTIONAL),
        )
        assert not rows or all(leaf.is_deleted() for leaf in jax.tree.leaves(before))
        progress = dispatched.read(None)
        told.append([progress.loss, progress.grad_norm])
    return told, jax.tree.map(np.asarray, state.adapter)


def sampled(model: Any, base: Any, adapter: Any) -> list[Any]:
    """Twelve samples of each prompt, with stop ids and a stop string."""
    owner = [prompt for prompt in range(4) for _ in range(12)]
    how = Decoding(max_new_tokens=30, temperature=1.0, stop_ids=(0, 1, 2, 3), stop_strings=("7",))
    return Sampler(model, base, adapter).sample(
        PROMPTS,
        row_keys(3, "devices", owner, list(range(12)) * 4),
        how,
        prompt_of_row=owner,
        decode=lambda tokens: "".join("7" if token == 77 else "." for token in tokens),
    )


def texts(call: Any) -> dict[str, dict[str, int]]:
    """Collectives of every program that is called while `call` runs."""
    found = {}
    each = mesh.Devices.each

    def noticed(self: Any, program: Any, **how: Any) -> Any:
        made = each(self, program, **how)
        found[program.__name__] = compiled.collectives(made.lower().compile().as_text())
        return made

    mesh.Devices.each = noticed
    try:
        call()
    finally:
        mesh.Devices.each = each
    return found


def main() -> None:
    model, base, adapter = random_policy(Path(sys.argv[1]), seed=8)
    model = model._replace(kind=KIND)
    base = layout.prepare(base, KIND.training)
    first: Any = None
    for count in map(int, sys.argv[2:]):
        devices = mesh.row(tuple(jax.devices()[:count]))
        policy = model, devices.whole(base), adapter
        told, learned = trained(*policy)
        completions = sampled(*policy)
        scores = scoring.token_logprobs(
            [row.encoded for row in ROWS], model=model, base=policy[1], adapter=adapter, shape=SHAPE
        )
        logprobs = [np.asarray(each.logprobs) for each in completions]
        first = first or (told, learned, completions, scores, logprobs)
        looped = model._replace(kind=replace(KIND, loops_on_device=True)), *policy[1:]
        record = {
            "devices": mesh.of(policy[1]).count,
            "told": [told, first[0]],
            "adapter": distance(learned, first[1]),
            "moved": distance(learned, jax.tree.map(np.asarray, adapter)),
            "completions": [(one.tokens, one[2]) for one in completions]
            == [(one.tokens, one[2]) for one in first[2]],
            "reasons": sorted({one.finish_reason for one in completions}),
            "loops": [one.tokens for one in sampled(*looped)] == [one.tokens for one in first[2]],
            "logprobs": distance(logprobs, first[4]),
            "scores": distance(scores, first[3]),
            "collectives": texts(lambda policy=policy: trained(*policy))
            | texts(lambda policy=policy: sampled(*policy))
            | texts(lambda looped=looped: sampled(*looped)),
        }
        print(json.dumps(record), flush=True)


def distance(one: Any, other: Any) -> float:
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return max(float(np.abs(a - b).max(initial=0.0)) for a, b in pairs)


if __name__ == "__main__":
    main()
