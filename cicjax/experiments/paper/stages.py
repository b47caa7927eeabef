"""The paper as a graph of stages in one run folder.

Every stage leaves its result in the folder, whole, and is never done again; the same command goes on where
the last one stopped.

    splits -> sft -> evaluations/sft-direct
                  -> rollouts/stream     -> observational, interventional
                                         -> without the attempts: oracle, oracle_shared
                  -> rollouts/candidates -> rest
                  -> grpo
           each    -> evaluations -> results.json
"""

from pathlib import Path
from typing import Any

from cicjax.experiments.paper import evaluate, results, rollouts
from cicjax.experiments.paper.confirmation import confirmation_stage
from cicjax.experiments.paper.groups import grpo_stage
from cicjax.experiments.paper.results import Answers
from cicjax.experiments.paper.run import Run
from cicjax.files.whole import write_json
from cicjax.logs.native import read_native
from cicjax.methods import interventional, observational, oracle, rest, sft
from cicjax.model import qwen2
from cicjax.provenance import encode, render
from cicjax.provenance.protocol import Weighting
from cicjax.runs.folder import write_in_chunks
from cicjax.runs.metrics import ROWS_PER_CHUNK, bar
from cicjax.training.finetune import fine_tune, fresh_adapter

WEIGHTINGS: dict[str, Weighting] = {
    "rest": rest.loss_weights,
    "oracle": oracle.loss_weights,
    "oracle_shared": oracle.loss_weights,
    "observational": observational.loss_weights,
    "interventional": interventional.loss_weights,
}
ORACLE_ROWS = {"oracle": rollouts.oracle_rows, "oracle_shared": rollouts.oracle_shared_rows}


def run_stages(run: Run) -> dict[str, Any]:
    """Everything that the chosen methods need, in order; gives the contents of results.json."""
    methods = run.settings.methods
    sft_adapter = sft_stage(run)
    answers = {"sft": evaluation_stage(run, "sft", sft_adapter, None)}
    first = answers["sft"]["direct"]
    stream = rollouts.stream(run, sft_adapter) if set(methods) & set(results.STREAM_METHODS) else None
    episodes = read_native(stream) if stream is not None else []
    logprobs = {"sft": confirmation_stage(run, "sft", sft_adapter, episodes)} if episodes else {}
    for method in methods:
        if method == "sft":
            continue
        adapter = None if method == "base" else second_stage(run, method, sft_adapter, stream)
        answers[method] = evaluation_stage(run, method, adapter, first)
        if episodes:
            logprobs[method] = confirmation_stage(run, method, adapter, episodes)
    chosen = {method: answers[method] for method in methods}
    collected = results.collect(run, answers=chosen, first=first, stream=episodes, logprobs=logprobs)
    write_json(run.folder / "results.json", collected)
    return collected


def second_stage(run: Run, method: str, sft_adapter: qwen2.Tree, stream: Path | None) -> qwen2.Tree:
    """One method from SFT-1: its rows, its weighting, one epoch; GRPO makes its rows as it goes."""
    if method == "grpo":
        return grpo_stage(run, sft_adapter)
    if method == "rest":
        rows = rollouts.rest_pairs(run, sft_adapter)
    else:
        assert stream is not None
        rows = ORACLE_ROWS[method](run, stream) if method in ORACLE_ROWS else stream
    return training_stage(run, method, rows, WEIGHTINGS[method], start=sft_adapter)


def sft_stage(run: Run) -> qwen2.Tree:
    """SFT-1: one epoch on the teacher's rows, from a fresh adapter. The start of every second stage."""
    fresh = fresh_adapter(run.model, seed=run.settings.seed)
    return training_stage(run, "sft", rollouts.sft_rows(run), sft.loss_weights, start=fresh)


def training_stage(
    run: Run, name: str, transcripts: Path, weighting: Weighting, *, start: qwen2.Tree
) -> qwen2.Tree:
    """One epoch over a transcript file under one weighting."""
    # Where nothing failed there are no corrections: an empty file, no updates, and SFT-1 as it was.
    episodes = read_native(transcripts) if transcripts.stat().st_size else []
    rows = [
        (episode.id, encode(render.plain(episode.messages, id=episode.id), run.tokenizer))
        for episode in episodes
    ]
    with run.timed(f"train {name}"):
        return fine_tune(run.trainer(run.settings.optimization), name, rows, weighting, start=start)


def evaluation_stage(
    run: Run, method: str, adapter: qwen2.Tree | None, first: Answers | None
) -> dict[str, Answers]:
    """A method's direct answers and, given SFT-1's `first` answers, its second ones; greedy."""
    direct = answers_stage(
        run, method, "direct", adapter, [evaluate.plainly(problem) for problem in run.questions]
    )
    first = direct if first is None else first
    asked = [
        evaluate.after_attempt(problem, answer) for problem, answer in zip(run.questions, first, strict=True)
    ]
    return {"direct": direct, "second": answers_stage(run, method, "second", adapter, asked)}


def answers_stage(
    run: Run, method: str, protocol: str, adapter: qwen2.Tree | None, asked: list[evaluate.Asked]
) -> Answers:
    """One policy's answers under one protocol, chunk by chunk, in evaluations/METHOD-PROTOCOL.jsonl."""
    path = run.folder / "evaluations" / f"{method}-{protocol}.jsonl"
    chunks = [
        (first, asked[first : first + ROWS_PER_CHUNK]) for first in range(0, len(asked), ROWS_PER_CHUNK)
    ]
    sampler = run.sampler(adapter)

    def work(_: int, chunk: tuple[int, list[evaluate.Asked]]) -> Answers:
        return evaluate.answer_chunk(
            chunk[1],
            sampler=sampler(),
            tokenizer=run.tokenizer,
            decoding=run.greedy,
            seed=run.settings.seed,
            stage=f"evaluate {protocol}",
            first_problem=chunk[0],
        )

    with run.timed(f"evaluate {method} {protocol}"), bar(f"evaluate {method}, {protocol}") as report:
        return write_in_chunks(path, chunks, work=work, progress=report)
