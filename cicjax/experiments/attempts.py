"""Questions to a policy and its graded answers: what experiments, evaluations and rollouts share."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cicjax.experiments.answers import Answer
from cicjax.methods.rows import question, verdict
from cicjax.provenance import Author, Message, encode
from cicjax.provenance.protocol import PLAIN, prompt
from cicjax.provenance.tokenizer import Tokenizer
from cicjax.sampling.draw import row_keys
from cicjax.sampling.sampler import Completion, Decoding, Sampler
from cicjax.tasks.task import Problem, Task


@dataclass(frozen=True)
class Asked:
    """A problem and the messages that the policy sees of it."""

    problem: Problem
    messages: tuple[Message, ...]


def plainly(problem: Problem) -> Asked:
    """The question alone."""
    return Asked(problem, (question(problem.question),))


def after_attempt(problem: Problem, answer: Answer, *, told: bool = False) -> Asked:
    """The question, and an earlier answer to it as it was sampled; with `told` the verdict on that too."""
    attempt = attempt_message(answer)
    said = (verdict(attempt.solved),) if told else ()
    return Asked(problem, (question(problem.question), attempt, *said))


def attempt_message(answer: Answer) -> Message:
    """A recorded answer as the agent's turn."""
    return Message(
        role="assistant",
        author=Author.AGENT,
        content=answer.completion,
        tokens=answer.tokens,
        logprobs=answer.logprobs,
        solved=int(answer.solved),
        truncated=answer.cut,
    )


def answer_chunk(
    asked: Sequence[Asked],
    *,
    task: Task,
    sampler: Sampler,
    tokenizer: Tokenizer,
    decoding: Decoding,
    seed: int,
    stage: str,
    first_problem: int,
    samples: range = range(1),
    protocol: str = PLAIN,
) -> list[Answer]:
    """Answers to every question, asked in `protocol`, `samples` of each, question after question, with the
    task's verdict on each."""
    prompts = [encode(prompt(each.messages, protocol=protocol), tokenizer).tokens.tolist() for each in asked]
    owner = np.repeat(np.arange(len(asked)), len(samples))
    keys = row_keys(seed, stage, (owner + first_problem).tolist(), list(samples) * len(asked))
    completions = sampler.sample(
        prompts, keys, decoding, prompt_of_row=owner.tolist(), decode=tokenizer.decode
    )
    return [
        _graded(task, asked[n].problem, prompts[n], sample, completion, tokenizer=tokenizer)
        for n, sample, completion in zip(owner.tolist(), list(samples) * len(asked), completions, strict=True)
    ]


def _graded(
    task: Task,
    problem: Problem,
    prompt: list[int],
    sample: int,
    completion: Completion,
    *,
    tokenizer: Tokenizer,
) -> Answer:
    text = tokenizer.decode(completion.tokens, skip_controls=True)
    verdict = task.verify(problem, text)
    return Answer(
        id=problem.id,
        sample=sample,
        skill=problem.skill,
        prompt=tokenizer.decode(prompt),
        completion=text,
        solved=bool(verdict.solved),
        reason=verdict.reason,
        finish_reason=completion.finish_reason,
        marker=bool(task.has_marker(text)),
        prompt_tokens=len(prompt),
        tokens=tuple(completion.tokens),
        logprobs=tuple(round(p, 6) for p in completion.logprobs),
        facts=dict(verdict.facts),
    )
