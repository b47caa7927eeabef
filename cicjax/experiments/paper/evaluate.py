"""Three protocols on the same questions (section 2.4, and 2.5 for repair).

direct    the plain prompt; the headline.
repair    the prompt, SFT-1's failed attempt and the second prefix, on the questions that SFT-1 got wrong.
two-step  SFT-1 right, or else repaired.

A second answer is also asked for where SFT-1 was right: `harmed` counts how often it turns out wrong.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cicjax.methods.rows import question
from cicjax.provenance import Author, Message, encode, render
from cicjax.provenance.tokenizer import Tokenizer
from cicjax.sampling.draw import row_keys
from cicjax.sampling.sampler import Completion, Decoding, Sampler
from cicjax.statistics import wilson
from cicjax.tasks import stem


@dataclass(frozen=True)
class Asked:
    """A problem and the messages that the policy sees of it."""

    problem: stem.Problem
    messages: tuple[Message, ...]


def plainly(problem: stem.Problem) -> Asked:
    """The question alone."""
    return Asked(problem, (question(problem.question),))


def after_attempt(problem: stem.Problem, answer: dict[str, Any]) -> Asked:
    """The question, and an earlier answer to it as it was sampled."""
    return Asked(problem, (question(problem.question), attempt_message(answer)))


def attempt_message(answer: dict[str, Any]) -> Message:
    """A recorded answer as the agent's turn."""
    return Message(
        role="assistant",
        author=Author.AGENT,
        content=answer["completion"],
        tokens=tuple(answer["tokens"]),
        logprobs=tuple(answer["logprobs"]),
        solved=int(answer["solved"]),
        truncated=answer["finish_reason"] != "stop",
    )


def answer_chunk(
    asked: Sequence[Asked],
    *,
    sampler: Sampler,
    tokenizer: Tokenizer,
    decoding: Decoding,
    seed: int,
    stage: str,
    first_problem: int,
    samples: range = range(1),
) -> list[dict[str, Any]]:
    """Answers to every question, `samples` of each, question after question, with the verdict on each. One
    record an answer."""
    prompts = [
        encode(render.plain(each.messages, open_turn=True), tokenizer).tokens.tolist() for each in asked
    ]
    owner = np.repeat(np.arange(len(asked)), len(samples))
    keys = row_keys(seed, stage, (owner + first_problem).tolist(), list(samples) * len(asked))
    completions = sampler.sample(
        prompts, keys, decoding, prompt_of_row=owner.tolist(), decode=tokenizer.decode
    )
    return [
        _record(asked[n], prompts[n], sample, completion, tokenizer)
        for n, sample, completion in zip(owner.tolist(), list(samples) * len(asked), completions, strict=True)
    ]


def _record(
    asked: Asked, prompt: list[int], sample: int, completion: Completion, tokenizer: Tokenizer
) -> dict[str, Any]:
    text = tokenizer.decode(completion.tokens, skip_controls=True)
    verdict = stem.verify(asked.problem, text)
    return {
        "id": asked.problem.id,
        "sample": sample,
        "skill": asked.problem.skill,
        "prompt": tokenizer.decode(prompt),
        "completion": text,
        "value": verdict.value,
        "unit": verdict.unit,
        "solved": verdict.solved,
        "reason": verdict.reason,
        "finish_reason": completion.finish_reason,
        "marker": stem.has_marker(text),
        "prompt_tokens": len(prompt),
        "tokens": list(completion.tokens),
        "logprobs": [round(p, 6) for p in completion.logprobs],
    }


def direct_summary(direct: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The headline: solved of how many, with Wilson's 95 % interval and by skill."""
    solved = sum(row["solved"] for row in direct)
    low, high = wilson(solved, len(direct))
    skills: dict[str, list[int]] = {}
    for row in direct:
        counted = skills.setdefault(row["skill"], [0, 0])
        counted[0] += row["solved"]
        counted[1] += 1
    return {
        "solved": solved,
        "questions": len(direct),
        "accuracy": solved / len(direct),
        "wilson_low": low,
        "wilson_high": high,
        "by_skill": {skill: skills[skill] for skill in sorted(skills)},
        "marker_share": sum(row["marker"] for row in direct) / len(direct),
        "truncated": sum(row["finish_reason"] != "stop" for row in direct),
    }


def second_summary(
    direct: Sequence[dict[str, Any]], second: Sequence[dict[str, Any]], first: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """A method against SFT-1 on the same questions: its own direct answers, and its second answers to SFT-1's
    `first` attempts."""

    def count(rule: Callable[[bool, bool, bool], bool]) -> int:
        return sum(
            rule(f["solved"], d["solved"], s["solved"]) for f, d, s in zip(first, direct, second, strict=True)
        )

    right = count(lambda f, d, s: f)
    repaired = count(lambda f, d, s: not f and s)
    return {
        "repair_solved": repaired,
        "repair_questions": len(first) - right,
        "two_step_solved": right + repaired,
        "kept": count(lambda f, d, s: f and d),
        "lost": count(lambda f, d, s: f and not d),
        "gained": count(lambda f, d, s: not f and d),
        "harmed": count(lambda f, d, s: f and not s),
    }
