"""results.json: the ledger of the stream, what every method solved and what it spent. A function of model,
seed and settings alone; `records` lists what it holds."""

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np

from cicjax.experiments.answers import Answer
from cicjax.experiments.paper import confirmation, evaluate, groups, rollouts
from cicjax.experiments.paper.records import Budget, Ledger, MethodResult, Results
from cicjax.experiments.paper.rollouts import Rollouts, meta
from cicjax.experiments.paper.run import Run
from cicjax.files.seal import read_json
from cicjax.methods import START, Method, grpo, interventional, observational, oracle, rest
from cicjax.model import cost
from cicjax.provenance import Encoded, protocol, weights
from cicjax.provenance.protocol import Weighting
from cicjax.provenance.transcript import Episode
from cicjax.training.learner import BUDGET

Answers = dict[str, list[Answer]]  # direct, second and seen
UNTRAINED = {
    "updates": 0,
    "empty_updates": 0,
    "rows": 0,
    "supervised_tokens": 0,
    "processed_tokens": 0,
    "learning_rate": None,
    "flop": 0,
}


def collect(
    run: Run,
    made: Rollouts,
    *,
    answers: Mapping[str, Answers],
    stream: Sequence[Episode],
    logprobs: dict[str, dict[str, list[float]]],
    held_out: Mapping[str, Mapping[str, Any]],
) -> Results:
    """Everything that results.json promises; `stream` is empty where no method needed it, `held_out` has each
    method's measures on the development questions."""
    methods, first = {}, answers[START]["direct"]
    for method in run.methods:
        direct, second = answers[method.name]["direct"], answers[method.name]["second"]
        summary: dict[str, Any] = evaluate.direct_summary(direct)
        summary |= evaluate.second_summary(direct, second, first)
        summary |= evaluate.seen_summary(answers[method.name]["seen"])
        summary |= confirmation.summary(logprobs.get(method.name), logprobs.get(START))
        budget = _budget(run, method, made.samples_of(method))
        methods[method.name] = MethodResult(**summary, budget=budget, **held_out[method.name])
    return Results(
        model=run.base_fingerprint,
        model_name=run.model_name,
        seed=run.settings.seed,
        settings=json.loads(json.dumps(run.settings.record())),
        ledger=ledger(run, stream) if stream else None,
        grpo=groups.summary(run) if grpo.METHOD.name in methods else {},
        rest=rest_summary(run, made) if rest.METHOD.name in methods else {},
        methods=methods,
    )


def rest_summary(run: Run, made: Rollouts) -> dict[str, int]:
    """The numbers of section 2.3: candidates, groups, selected samples, replayed rows and pairs."""
    pairs, candidates = rollouts.read(run, rest.METHOD.name), made.samples_of(rest.METHOD)
    replay = sum(pair.source == START for pair in pairs)
    return {
        "candidates": len(candidates),
        "groups": len({meta(episode)["problem"] for episode in candidates}),
        "selected": len(pairs) - replay,
        "replay": replay,
        "pairs": len(pairs),
    }


def ledger(run: Run, stream: Sequence[Episode]) -> Ledger:
    """Who wrote how many positions of the stream and which of them each arm supervises (section 2.3)."""
    wrong = [episode for episode in stream if episode.messages[1].solved == 0]

    @cache
    def encoded(evidence: tuple[str, ...]) -> list[Encoded]:
        return [run.encode(episode, protocol.target_authors(evidence)) for episode in stream]

    def positions(method: Method) -> int:
        return _bearing(encoded(method.evidence), method.weighting)

    attempts_alone = Weighting(weights.POLICY)
    counts = {
        "total": sum(len(each.tokens) for each in encoded(oracle.METHOD.evidence)),
        "observational": positions(observational.METHOD),
        "interventional": positions(interventional.METHOD),
        "attempts": _bearing(encoded(observational.METHOD.evidence), attempts_alone),
        "oracle": _bearing(map(run.encode, oracle.corrections(stream)), oracle.METHOD.weighting),
    }
    arms = [method for method in run.methods if method.takes_stream_whole and method.name not in counts]
    return Ledger(
        stream_rows=len(stream),
        wrong_attempts=len(wrong),
        first_attempts_correct=len(stream) - len(wrong),
        unique_corrected_questions=len({meta(episode)["problem"] for episode in wrong}),
        positions=counts | {method.name: positions(method) for method in arms},
    )


def _bearing(rows: Iterable[Encoded], weighting: Weighting | None) -> int:
    """How many positions of the rows weigh anything."""
    assert weighting is not None
    return sum(int(np.count_nonzero(weighting(row))) for row in rows)


def _budget(run: Run, method: Method, samples: Sequence[Episode]) -> Budget:
    """What a method spent beyond SFT-1, which all share; the stream's sampling counts for every method that
    uses it.

    Surplus samples of a stream's last chunk are not counted: a collector that stops in time would not draw
    them.
    """
    record: Mapping[str, Any] = UNTRAINED
    if method.weighting is not None:
        record = read_json(run.folder / method.name / BUDGET)
    prompts = {meta(episode)["problem"]: meta(episode)["prompt_tokens"] for episode in samples}
    sampled = sum(len(episode.messages[1].tokens or ()) for episode in samples)
    bought = [episode for episode in samples if len(episode.messages) == 3 and method.learns_corrections]
    spent = {key: record[key] for key in UNTRAINED}
    spent["flop"] += cost.sampling_flop(
        run.model.config, prompt_tokens=sum(prompts.values()), sampled_tokens=sampled
    )
    return Budget(
        **spent,
        sampled_tokens=sampled,
        verifier_calls=len(samples),
        oracle_solutions=run.settings.counts.sft_rows if method.name == START else len(bought),
        distinct_solutions=run.settings.counts.sft_rows
        if method.name == START
        else len({meta(episode)["problem"] for episode in bought}),
    )
