"""results.json: the ledger of the stream, what every method solved and what it spent. A function of model,
seed and settings alone."""

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from cicjax.experiments.paper import confirmation, evaluate, groups, rollouts
from cicjax.experiments.paper.run import Run
from cicjax.files.whole import read_json
from cicjax.methods import interventional, observational, oracle
from cicjax.model import cost
from cicjax.provenance import Encoded, encode, render
from cicjax.provenance.transcript import Episode

Answers = list[dict[str, Any]]
SAMPLES = {"rest": "candidates", "grpo": "grpo"}
STREAM_METHODS = ("oracle", "oracle_shared", "observational", "interventional")


def collect(
    run: Run,
    *,
    answers: dict[str, dict[str, Answers]],
    first: Answers,
    stream: Sequence[Episode],
    logprobs: dict[str, dict[str, list[float]]],
) -> dict[str, Any]:
    """Everything that results.json promises; `first` are SFT-1's direct answers, `stream` is empty where no
    method needed it."""
    methods = {}
    for method, given in answers.items():
        methods[method] = evaluate.direct_summary(given["direct"]) | evaluate.second_summary(
            given["direct"], given["second"], first
        )
        methods[method] |= confirmation.summary(logprobs.get(method), logprobs.get("sft"))
        methods[method]["budget"] = _budget(run, method, stream)
    return {
        "model": run.base_fingerprint,
        "model_name": run.model_name,
        "seed": run.settings.seed,
        "settings": json.loads(json.dumps(run.settings.record())),
        "ledger": ledger(run, stream) if stream else {},
        "grpo": groups.summary(run) if "grpo" in answers else {},
        "rest": rest_summary(run) if "rest" in answers else {},
        "methods": methods,
    }


def rest_summary(run: Run) -> dict[str, int]:
    """The numbers of section 2.3: candidates, groups, selected samples, replayed rows and pairs."""
    pairs = rollouts.read(run, "rest")
    candidates = rollouts.read(run, "candidates")
    replay = sum(pair.source == "sft" for pair in pairs)
    return {
        "candidates": len(candidates),
        "groups": len({(episode.meta or {})["problem"] for episode in candidates}),
        "selected": len(pairs) - replay,
        "replay": replay,
        "pairs": len(pairs),
    }


def ledger(run: Run, episodes: Sequence[Episode]) -> dict[str, Any]:
    """Who wrote how many positions of the stream and which of them each arm supervises (section 2.3)."""
    encoded = [encode(render.plain(episode.messages, id=episode.id), run.tokenizer) for episode in episodes]
    wrong = [episode for episode in episodes if episode.messages[1].solved == 0]

    def positions(rule: Callable[[Encoded], np.ndarray]) -> int:
        return sum(int(np.count_nonzero(rule(each))) for each in encoded)

    corrections = [
        encode(render.plain(episode.messages), run.tokenizer) for episode in oracle.corrections(episodes)
    ]
    return {
        "stream_rows": len(episodes),
        "wrong_attempts": len(wrong),
        "first_attempts_correct": len(episodes) - len(wrong),
        "unique_corrected_questions": len({(episode.meta or {})["problem"] for episode in wrong}),
        "positions_total": sum(len(each.tokens) for each in encoded),
        "positions_observational": positions(observational.loss_weights),
        "positions_interventional": positions(interventional.loss_weights),
        "positions_attempts": positions(lambda each: each.is_target & (each.gamma == 1)),
        "positions_oracle": sum(int(np.count_nonzero(oracle.loss_weights(each))) for each in corrections),
    }


def _budget(run: Run, method: str, episodes: Sequence[Episode]) -> dict[str, Any]:
    """What a method spent beyond SFT-1, which all share; the stream's sampling counts for every method that
    uses it.

    Surplus samples of a stream's last chunk are not counted: a collector that stops in time would not draw
    them.
    """
    keys = (
        "updates",
        "empty_updates",
        "rows",
        "supervised_tokens",
        "processed_tokens",
        "learning_rate",
        "flop",
    )
    untrained: dict[str, Any] = dict.fromkeys(keys, 0) | {"learning_rate": None}
    record = read_json(run.folder / method / "budget.json") if method != "base" else untrained
    budget = {key: record[key] for key in keys}
    own = list(episodes) if method in STREAM_METHODS else []
    if method in SAMPLES:
        own = rollouts.read(run, SAMPLES[method])
    prompts = {(episode.meta or {})["problem"]: (episode.meta or {})["prompt_tokens"] for episode in own}
    sampled = sum(len(episode.messages[1].tokens or ()) for episode in own)
    budget["flop"] += cost.sampling_flop(
        run.model.config, prompt_tokens=sum(prompts.values()), sampled_tokens=sampled
    )
    return budget | {
        "sampled_tokens": sampled,
        "verifier_calls": len(own),
        "oracle_solutions": run.settings.counts.sft_rows
        if method == "sft"
        else sum(len(e.messages) == 3 for e in own),
    }
