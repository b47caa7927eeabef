"""ATIF, the Agent Trajectory Interchange Format of Harbor (its RFC 0001, versions 1.0 to 1.8), as native
episodes.

```
step        source agent: message, tool_calls         observation.results[0]             [1]
message     assistant                                 tool, tied by its tool_call_id     tool
author      by model_name, else by the caller's word  tool                               tool
tokens      metrics.completion_token_ids
```
Ids are those of the agent's turns alone: another model's may be of another vocabulary. Copied context is
context only; so is a step that no model took part in (`llm_call_count` 0), written by the environment.
Without calls the results are the environment's in the user's role. Reasoning kept apart from the message goes
to `meta`, unless the ids hold it; so do keys that the format does not know, under `foreign`. Refused, since
the file does not say what was seen: media, results without text, results of system steps, steps missing or
replaced. Times, costs, notes and `extra` are left out.
"""

import contextlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from cicjax.errors import BadInput, shorten
from cicjax.files import strict
from cicjax.logs.attribution import Reading, Turn, episode, present, refuse_author, take_edited, text_of
from cicjax.logs.native import corrected, link, tool_call, tool_schemas
from cicjax.provenance.transcript import Author, Episode, Message, ToolCall, token_ids

VERSION = re.compile(r"ATIF-v1\.[0-8]")
ROOT_KEYS = (
    "schema_version agent steps session_id trajectory_id notes final_metrics "
    "continued_trajectory_ref extra subagent_trajectories"
).split()
AGENT_KEYS = "name version model_name tool_definitions extra".split()
STEP_KEYS = (
    "step_id source message timestamp observation is_copied_context llm_call_count extra "
    "model_name reasoning_effort reasoning_content tool_calls metrics"
).split()
METRICS_KEYS = (
    "prompt_tokens completion_tokens cached_tokens cost_usd prompt_token_ids "
    "completion_token_ids logprobs extra"
).split()
AGENT_ONLY = STEP_KEYS[-5:]


class _Steps(NamedTuple):
    """What the steps of one trajectory are read with."""

    reading: Reading
    model: str | None


def knows(record: dict[str, Any]) -> bool:
    """Whether a record is a trajectory."""
    return "schema_version" in record and "steps" in record


def episodes(record: dict[str, Any], line: int, reading: Reading, *, reward: Any = None) -> Iterator[Episode]:
    """The episodes of a trajectory, outermost first: embedded subagents follow as episodes of their own.
    `reward` is its verifier's, where it has one. Raises BadInput with the step."""
    waiting = [("", record)]
    for name, trajectory in waiting:  # grows as it goes, where recursion would be as deep as the file likes
        with strict.place(name) if name else contextlib.nullcontext():
            made, embedded = _trajectory(trajectory, line, reading, reading.verdict(record, reward))
        yield made
        waiting += [
            (f"{name}, subagent {n}" if name else f"subagent {n}", subagent)
            for n, subagent in enumerate(embedded, start=1)
        ]


def _trajectory(record: Any, line: int, reading: Reading, verdict: Any) -> tuple[Episode, list[Any]]:
    fields, foreign = _fields(record, ROOT_KEYS, "a trajectory", required=3)
    if not VERSION.fullmatch(strict.text(fields["schema_version"], "schema_version")):
        raise BadInput(
            f"schema_version {shorten(fields['schema_version'])} is not known; "
            "this reads ATIF-v1.0 to ATIF-v1.8"
        )
    agent, more = _fields(fields["agent"], AGENT_KEYS, "agent", required=2)
    named = {
        key: strict.text(fields[key], key)
        for key in ("trajectory_id", "session_id", "continued_trajectory_ref")
        if key in fields
    }
    described = {
        key: strict.text(agent[key], f"{key} of the agent")
        for key in ("name", "version", "model_name")
        if key in agent
    }
    made = episode(
        _turns(fields["steps"], _Steps(reading, described.get("model_name"))),
        id=named.get("trajectory_id") or named.get("session_id") or str(line),
        source="atif",
        line=line,
        tools=tool_schemas(agent.get("tool_definitions")),
        meta={"agent": described, **named, "foreign": foreign | ({"agent": more} if more else {})},
        verdict=verdict,
        solved_at=reading.solved_at,
    )
    return made, strict.listing(fields.get("subagent_trajectories", []), "subagent_trajectories")


def _turns(steps: Any, reading: _Steps) -> Iterator[Turn]:
    for n, record in enumerate(steps, start=1):
        with strict.place(f"step {n}"):
            step = dict(strict.mapping(record, "a step"))
            edited = take_edited(step, reading.reading.corrections)
            step, foreign = _fields(step, STEP_KEYS, "a step", required=3)
            if type(step["step_id"]) is not int or step["step_id"] != n:
                raise BadInput(
                    f"step_id is {shorten(step['step_id'])} where {n} is due: "
                    "a step is missing, or there is one too many"
                )
            first, *others = _step(step, edited, reading)
            yield replace(first, beside={**first.beside, "foreign": foreign}) if foreign else first
            yield from others


def _step(step: dict[str, Any], edited: str | None, reading: _Steps) -> Iterator[Turn]:
    source = step["source"]
    if source not in ("system", "user", "agent"):
        raise BadInput(f"unknown source {shorten(source)}; sources are system, user and agent")
    context_only = step.get("is_copied_context", False)
    if not isinstance(context_only, bool):
        raise BadInput(f"is_copied_context is true or false, not {shorten(context_only)}")
    calls = tuple(_call(call) for call in strict.listing(step.get("tool_calls", []), "tool_calls"))
    if source == "agent":
        message, beside = _agent_message(step, calls, context_only, edited is not None, reading)
    else:
        _check_seen(step, source)
        author = Author.SYSTEM if source == "system" else Author.USER
        message = Message(
            role=source, content=text_of(step["message"], "message"), author=author, context_only=context_only
        )
        beside = {}
    known_calls: set[str] = set()
    yield Turn(messages=corrected(link(message, known_calls), edited), beside=beside)
    if source == "agent":
        for result in _results(step):
            answer = _result_message(result, bool(calls), message.context_only)
            yield Turn(messages=(link(answer, known_calls),))


def _agent_message(
    step: dict[str, Any], calls: tuple[ToolCall, ...], context_only: bool, edited: bool, reading: _Steps
) -> tuple[Message, dict[str, str]]:
    content, model, inferences = (
        text_of(step["message"], "message"),
        step.get("model_name", reading.model),
        step.get("llm_call_count"),
    )
    if type(inferences) not in (int, type(None)):
        raise BadInput(f"llm_call_count is a number, not {shorten(inferences)}")
    beside = {"model": model, "reasoning": step.get("reasoning_content")}
    beside = {key: strict.text(value, key) for key, value in beside.items() if value is not None}
    if inferences == 0:
        if "metrics" in step or "reasoning" in beside or edited:
            raise BadInput(
                "llm_call_count is 0, so that no model wrote this step; "
                "yet it has metrics, reasoning or an edited text"
            )
        return Message(
            role="assistant", content=content, author=Author.ENVIRONMENT, context_only=True, tool_calls=calls
        ), {}
    author = reading.reading.attribution.author(beside.get("model"), edited=edited)
    metrics, _ = _fields(step.get("metrics", {}), METRICS_KEYS, "metrics", required=0)
    tokens, logprobs = _sampled(metrics, inferences) if author == Author.AGENT else (None, None)
    if tokens is not None:
        beside.pop("reasoning", None)
    message = Message(
        role="assistant",
        content=content,
        author=author,
        tokens=tokens,
        logprobs=logprobs,
        context_only=context_only,
        tool_calls=calls,
    )
    return message, beside


def _sampled(
    metrics: dict[str, Any], inferences: int | None
) -> tuple[tuple[int, ...] | None, tuple[float, ...] | None]:
    """Ids of the completion as they were sampled, and log-probabilities if there is one for each; None for
    both where there are no ids."""
    ids = strict.listing(metrics.get("completion_token_ids", []), "completion_token_ids")
    if not ids:
        return None, None
    if (inferences or 1) > 1:
        raise BadInput(
            f"completion_token_ids of {inferences} inferences in one step: "
            "nothing says where one ends and the next begins"
        )
    tokens = token_ids(ids)
    logprobs = strict.listing(metrics.get("logprobs", []), "logprobs")
    return tokens, tuple(logprobs) if len(logprobs) == len(tokens) else None


def _check_seen(step: dict[str, Any], source: str) -> None:
    """Raise BadInput where a step that is not the agent's leaves open what the agent saw after it."""
    for key in AGENT_ONLY:
        if key in step:
            raise BadInput(f"{key} belongs to steps of the agent, not to source {source}")
    management = strict.mapping(step.get("extra", {}), "extra").get("context_management")
    if (
        management is not None
        and strict.mapping(management, "context_management").get("boundary") != "append"
    ):
        raise BadInput(
            "the agent's context was replaced here, "
            "and what is before it was not seen after it; cut the trajectory in two"
        )
    if any("content" in result for result in _results(step)):
        raise BadInput(
            f"an observation at a step of source {source} cannot be carried: "
            "nothing says how the agent saw it"
        )


def _results(step: dict[str, Any]) -> list[dict[str, Any]]:
    observation = strict.mapping(step.get("observation", {}), "an observation")
    keys = ["source_call_id", "content", "subagent_trajectory_ref", "extra"]
    return [
        _fields(result, keys, "a result", required=0)[0]
        for result in strict.listing(observation.get("results", []), "results")
    ]


def _result_message(result: dict[str, Any], after_calls: bool, context_only: bool) -> Message:
    if "content" not in result and "subagent_trajectory_ref" in result:
        raise BadInput("a subagent's work without what it gave back: nothing says what the agent saw of it")
    call_id = result.get("source_call_id")
    return Message(
        role="tool" if after_calls or call_id is not None else "user",
        content=text_of(result.get("content", ""), "content of a result"),
        author=Author.TOOL if after_calls or call_id is not None else Author.ENVIRONMENT,
        context_only=context_only,
        tool_call_id=None if call_id is None else strict.text(call_id, "source_call_id"),
    )


def _call(record: Any) -> ToolCall:
    call, _ = _fields(
        record, ["tool_call_id", "function_name", "arguments", "extra"], "a tool call", required=3
    )
    return tool_call(call["function_name"], call["arguments"], call["tool_call_id"])


def _fields(
    record: Any, keys: Sequence[str], what: str, *, required: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """A JSON object without what says nothing: the keys that ATIF knows, and those that it does not. Raises
    BadInput without the first `required` of them."""
    fields = present(strict.mapping(record, what))
    refuse_author(fields)
    for key in keys[:required]:
        if key not in fields:
            raise BadInput(f"{what} needs the key {key!r}")
    known = {key: value for key, value in fields.items() if key in keys}
    return known, {key: value for key, value in fields.items() if key not in keys}
