"""Self-confirmation and truth gain: what training did to the probability of SFT-1's mistakes, and of their corrections.

    self_confirmation = mean over failed j of [log p(y_hat_j | x_j) - log p_SFT-1(y_hat_j | x_j)] / |y_hat_j|
    truth_gain        = mean over failed j of [log p(y*_j | x_j)    - log p_SFT-1(y*_j | x_j)]    / |y*_j|

Both in nats a token, on the plain prompt: the paper in two numbers a method.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from cicjax.experiments.run import Run
from cicjax.methods import oracle
from cicjax.model import qwen2
from cicjax.provenance import encode, render
from cicjax.provenance.formats import Episode
from cicjax.runs.files import read_json, write_json
from cicjax.training import scoring
from cicjax.training.batches import fit_shape


def confirmation_stage(run: Run, method: str, adapter: qwen2.Tree | None, stream: Sequence[Episode]) -> dict[str, list[float]]:
    """Mean log-probability a token of every failed attempt and of its correction, in evaluations/METHOD-logprobs.json."""
    path = run.folder / "evaluations" / f"{method}-logprobs.json"
    if not path.exists():
        failed = [episode for episode in stream if episode.messages[1].solved == 0]
        rows = {
            "attempts": [Episode(id=episode.id, messages=episode.messages[:2]) for episode in failed],
            "corrections": oracle.corrections(failed),
        }
        with run.timed(f"score {method}"):
            values = {name: _means(run, adapter, episodes) for name, episodes in rows.items()}
        write_json(path, values)
    return read_json(path)


def _means(run: Run, adapter: qwen2.Tree | None, episodes: Sequence[Episode]) -> list[float]:
    """One number a row; equal rows, such as one question's correction after several attempts, are scored once."""
    distinct: dict[Any, int] = {}
    places = [distinct.setdefault(tuple((m.content, m.tokens) for m in episode.messages), len(distinct)) for episode in episodes]
    first = {place: episode for place, episode in zip(reversed(places), reversed(episodes), strict=True)}
    encoded = [encode(render.plain(first[place].messages), run.tokenizer) for place in range(len(distinct))]
    shape = fit_shape((len(each.tokens) for each in encoded), rows=run.settings.lines_per_batch)
    scores = scoring.token_logprobs(encoded, model=run.model, base=run.base, adapter=adapter, shape=shape, targets_only=True)
    means = [float(score[each.is_target].mean()) if each.is_target.any() else 0.0 for score, each in zip(scores, encoded, strict=True)]
    return [means[place] for place in places]


def summary(method: dict[str, list[float]], sft: dict[str, list[float]]) -> dict[str, float | None]:
    """The two differences to SFT-1; None where nothing failed."""
    names = {"self_confirmation": "attempts", "truth_gain": "corrections"}
    return {
        name: float(np.mean(np.subtract(method[column], sft[column]))) if sft[column] else None for name, column in names.items()
    }
