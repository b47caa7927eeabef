"""The paper as a graph of stages in one run folder.

Every stage leaves its result in the folder, whole, and is never done again; the same command goes on where
the last one stopped.

    splits -> sft -> evaluations/sft-direct
                  -> rollouts/stream     -> the stream's arms; without the attempts: the oracle's
                  -> rollouts/candidates -> ReST
                  -> GRPO, group by group
           each    -> evaluations -> results.json
"""

from collections.abc import Sequence
from typing import NamedTuple

from cicjax.devices import hosts
from cicjax.experiments.answers import Answer, read_answers
from cicjax.experiments.attempts import Asked, after_attempt, answer_chunk, plainly
from cicjax.experiments.paper import held_out, results
from cicjax.experiments.paper.confirmation import confirmation_stage
from cicjax.experiments.paper.groups import grpo_stage
from cicjax.experiments.paper.held_out import held_out_stage
from cicjax.experiments.paper.records import Results
from cicjax.experiments.paper.results import Answers
from cicjax.experiments.paper.rollouts import Rollouts, meta
from cicjax.experiments.paper.run import Run
from cicjax.files.seal import write_json
from cicjax.methods import START, Method, arm_rows, sft
from cicjax.model import qwen2
from cicjax.provenance import protocol
from cicjax.provenance.transcript import Episode
from cicjax.runs.folder import write_in_chunks
from cicjax.runs.metrics import ROWS_PER_CHUNK, bar
from cicjax.tasks.task import Problem
from cicjax.training import steps
from cicjax.training.finetune import fine_tune, fresh_adapter, weighted


def run_stages(run: Run) -> Results:
    """Everything that the chosen methods need, in order; gives the contents of results.json."""
    sft_adapter = sft_stage(run)
    made = Rollouts(run, sft_adapter)
    stream = made.stream() if any(method.samples == "stream" for method in run.methods) else []
    corrected = {meta(episode)["problem"] for episode in stream if arm_rows.failed(episode)}
    asked = Questions(run.questions, tuple(each for each in run.splits.agent if each.id in corrected))
    answers = {START: evaluation_stage(run, sft.METHOD, sft_adapter, asked)}
    asked = asked._replace(first=tuple(answers[START]["direct"]))
    logprobs = {START: confirmation_stage(run, START, sft_adapter, stream)} if stream else {}
    unseen = made.held_out()
    scores = {START: held_out_stage(run, sft.METHOD, sft_adapter, unseen)}
    for method in run.methods:
        if method.name == START:
            continue
        adapter = second_stage(run, method, sft_adapter, made)
        answers[method.name] = evaluation_stage(run, method, adapter, asked)
        if stream:
            logprobs[method.name] = confirmation_stage(run, method.name, adapter, stream)
        scores[method.name] = held_out_stage(run, method, adapter, unseen)
    probed = held_out.probes(run, unseen)
    measured = {name: held_out.summary(each, scores[START], probed) for name, each in scores.items()}
    collected = results.collect(
        run, made, answers=answers, stream=stream, logprobs=logprobs, held_out=measured
    )
    hosts.once(lambda: write_json(run.folder / "results.json", collected.to_json()))
    return collected


def second_stage(run: Run, method: Method, sft_adapter: qwen2.Tree, made: Rollouts) -> qwen2.Tree:
    """One method from SFT-1: its rows, its weighting, one epoch, or groups that it makes as it goes; for the
    bare base a fresh adapter, which adds nothing to it and lets it share the programs of all others."""
    if method.weighting is None:
        return fresh_adapter(run.model, seed=run.settings.seed)
    if method.rows is None:
        return grpo_stage(run, method, sft_adapter)
    return training_stage(run, method, made.rows_of(method), start=sft_adapter)


def sft_stage(run: Run) -> qwen2.Tree:
    """SFT-1: one epoch on the teacher's rows, from a fresh adapter. The start of every second stage."""
    fresh = fresh_adapter(run.model, seed=run.settings.seed)
    return training_stage(run, sft.METHOD, Rollouts(run).rows_of(sft.METHOD), start=fresh)


def training_stage(run: Run, method: Method, episodes: Sequence[Episode], *, start: qwen2.Tree) -> qwen2.Tree:
    """One epoch over rows under the method's weighting. Without any row, as where nothing failed and nothing
    was corrected, the adapter stays as it was."""
    weighting, targets = method.weighting, protocol.target_authors(method.evidence)
    assert weighting is not None
    rows = weighted([(episode.id, run.encode(episode, targets)) for episode in episodes], weighting)
    loss = steps.Likelihood(weighting.rule)
    with run.timed(f"train {method.name}"):
        return fine_tune(run.trainer(method), method.name, rows, loss=loss, start=start)


class Questions(NamedTuple):
    """What methods are asked: the questions they are compared on, those that the stream corrected, and
    SFT-1's answers to the former once they are there."""

    compared: tuple[Problem, ...]
    corrected: tuple[Problem, ...]
    first: tuple[Answer, ...] | None = None


def evaluation_stage(run: Run, method: Method, adapter: qwen2.Tree | None, asked: Questions) -> Answers:
    """A method's direct answers, its second ones after SFT-1's first, and its direct ones to the questions
    that were corrected; greedy."""
    name, plain = method.name, [plainly(problem) for problem in asked.compared]
    direct = answers_stage(run, name, "direct", adapter, plain)
    first = direct if asked.first is None else asked.first
    again = [
        after_attempt(problem, answer, told=method.told)
        for problem, answer in zip(asked.compared, first, strict=True)
    ]
    seen = [plainly(problem) for problem in asked.corrected]
    return {
        "direct": direct,
        "second": answers_stage(run, name, "second", adapter, again),
        "seen": answers_stage(run, name, "seen", adapter, seen) if seen else [],
    }


def answers_stage(
    run: Run, name: str, kind: str, adapter: qwen2.Tree | None, asked: list[Asked]
) -> list[Answer]:
    """One policy's answers under one protocol, direct or second, chunk by chunk, in
    evaluations/METHOD-KIND.jsonl."""
    path = run.folder / "evaluations" / f"{name}-{kind}.jsonl"
    chunks = [
        (first, asked[first : first + ROWS_PER_CHUNK]) for first in range(0, len(asked), ROWS_PER_CHUNK)
    ]
    sampler = run.sampler(adapter)

    def work(_: int, chunk: tuple[int, list[Asked]]) -> list[dict]:
        answers = answer_chunk(
            chunk[1],
            task=run.task,
            sampler=sampler(),
            tokenizer=run.tokenizer,
            decoding=run.greedy,
            seed=run.settings.seed,
            stage=f"evaluate {kind}",
            first_problem=chunk[0],
        )
        return [answer.to_json() for answer in answers]

    with run.timed(f"evaluate {name} {kind}"), bar(f"evaluate {name}, {kind}") as report:
        return read_answers(write_in_chunks(path, chunks, work=work, progress=report), path=path)
