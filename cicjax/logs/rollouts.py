"""Rollouts of verifiers and prime-rl as native episodes: `results.jsonl`, and traces as a graph of messages.

```
results   prompt (context) + completion, reward, trajectory[k].tokens of the k-th turn of the model
traces    traces[].nodes: a message and its parent; each path from a root to a leaf is an episode
author    by calls[].model, else by the caller's word; a node that no call sampled is the environment's
tokens    completion_ids                          token_ids where mask is true
```
The reward is the verdict; a rollout that an error ended has none.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from cicjax.errors import BadInput
from cicjax.files import strict
from cicjax.logs import chats
from cicjax.logs.attribution import Reading, present
from cicjax.logs.chats import Said
from cicjax.provenance.transcript import Author, Episode

RESULT_KEYS = (
    "example_id prompt completion answer task info reward error timing is_completed is_truncated "
    "stop_condition metrics tool_defs oai_tools tools trajectory token_usage model id"
).split()
KEPT = ("answer", "task", "info", "metrics", "stop_condition", "error")


def knows(record: dict[str, Any]) -> bool:
    """Whether a record is a result, a trace, or an episode of traces."""
    return (
        {"example_id", "prompt", "completion"} <= record.keys()
        or isinstance(record.get("traces"), list)
        or ("nodes" in record and "calls" in record)
    )


def episodes(record: dict[str, Any], line: int, reading: Reading) -> Iterator[Episode]:
    """The episodes of one record. Raises BadInput with the message."""
    if "traces" in record:
        traces = strict.listing(record["traces"], "traces")
        if not traces:
            raise BadInput("an episode without a trace: it broke off before the model was asked")
        for n, trace in enumerate(traces, start=1):
            with strict.place(f"trace {n}"):
                yield from _trace(strict.mapping(trace, "a trace"), line, reading)
    elif "nodes" in record:
        yield from _trace(record, line, reading)
    else:
        yield _result(present(record), line, reading)


def _result(fields: dict[str, Any], line: int, reading: Reading) -> Episode:
    tools = next((fields[key] for key in ("tool_defs", "oai_tools", "tools") if fields.get(key)), None)
    return chats.conversation(
        _turns(fields),
        reading,
        id=str(fields.get("id", fields.get("example_id", line))),
        source="verifiers",
        line=line,
        model=fields.get("model"),
        tools=chats.schemas(tools),
        meta={"rollout": {key: fields[key] for key in KEPT if key in fields}},
        foreign={k: value for k, value in fields.items() if k not in {*RESULT_KEYS, *reading.read_keys()}},
        verdict=reading.verdict(fields, None if "error" in fields else fields.get("reward")),
    )


def _turns(fields: dict[str, Any]) -> Iterator[Said]:
    for n, message in enumerate(_messages(fields.get("prompt"), "user"), start=1):
        yield Said(f"prompt, message {n}", _plain(message), context_only=True)
    completion = _messages(fields.get("completion"), "assistant")
    ids = _sampled(fields, [message for message in completion if message.get("role") == "assistant"])
    for n, message in enumerate(completion, start=1):
        sampled = ids.pop(0) if message.get("role") == "assistant" and ids else {}
        yield Said(f"completion, message {n}", _plain(message) | sampled)


def _messages(value: Any, role: str) -> list[dict[str, Any]]:
    if isinstance(value, str):
        return [{"role": role, "content": value}]
    return [strict.mapping(message, "a message") for message in strict.listing(value, "messages")]


def _plain(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message without what only its client needs: the signed form of its thoughts."""
    fields = {
        key: value for key, value in message.items() if key not in ("thinking_blocks", "provider_state")
    }
    # a text without a role of its own, of the completions interface
    return fields if fields.get("role") != "text" else fields | {"role": "user"}


def _sampled(fields: dict[str, Any], answers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Ids, log-probabilities and the reason to stop of each of the model's turns, where the trajectory has a
    step for each."""
    steps = [step for step in fields.get("trajectory") or [] if isinstance(step, dict)]
    if len(steps) != len(answers):
        cut = [{}] * (len(answers) - 1) + [{"finish_reason": "length"}] if fields.get("is_truncated") else []
        return cut
    return [_of_step(step) for step in steps]


def _of_step(step: dict[str, Any]) -> dict[str, Any]:
    tokens = step.get("tokens") or {}
    found: dict[str, Any] = {}
    if tokens.get("completion_ids"):
        found["token_ids"] = tokens["completion_ids"]
        found["logprobs"] = tokens.get("completion_logprobs") or []
    if step.get("is_truncated") or tokens.get("is_truncated"):
        found["finish_reason"] = "length"
    return found


def _trace(trace: dict[str, Any], line: int, reading: Reading) -> Iterator[Episode]:
    nodes = [strict.mapping(node, "a node") for node in strict.listing(trace.get("nodes"), "nodes")]
    calls = {call.get("node"): call for call in trace.get("calls") or [] if isinstance(call, dict)}
    paths = list(_paths(nodes))
    for n, path in enumerate(paths, start=1):
        id = str(trace.get("id", line))
        yield chats.conversation(
            (_of_node(nodes[k], k, calls.get(k) or {}) for k in path),
            reading,
            id=id if len(paths) == 1 else f"{id}-{n}",
            source="verifiers",
            line=line,
            tools=chats.schemas(trace.get("tools") or None),
            meta={"rollout": {key: trace.get(key) for key in ("task", "metrics", "stop_condition", "info")}},
            verdict=reading.verdict(trace, _reward(trace)),
        )


def _paths(nodes: list[dict[str, Any]]) -> Iterator[list[int]]:
    """The paths from a root to a leaf, in the order of their leaves."""
    parents = [node.get("parent") for node in nodes]
    if not all(
        parent is None or (type(parent) is int and 0 <= parent < n) for n, parent in enumerate(parents)
    ):
        raise BadInput("a node's parent stands before it; this graph is another")
    for leaf in sorted(set(range(len(nodes))) - set(parents)):
        path, node = [], leaf
        while node is not None:
            path.append(node)
            node = parents[node]
        yield path[::-1]


def _of_node(node: dict[str, Any], n: int, call: dict[str, Any]) -> Said:
    fields = _plain(strict.mapping(node.get("message"), "message"))
    if fields.get("role") != "assistant":
        return Said(f"node {n}", fields)
    if not node.get("sampled"):
        return Said(f"node {n}", fields, context_only=True, author=Author.ENVIRONMENT)
    mask = node.get("mask") or []
    ids = [id for id, sampled in zip(node.get("token_ids") or [], mask, strict=False) if sampled]
    found = {"model": call.get("model"), "finish_reason": call.get("finish_reason")}
    return Said(
        f"node {n}", fields | found | ({"token_ids": ids, "logprobs": node.get("logprobs")} if ids else {})
    )


def _reward(trace: dict[str, Any]) -> float | None:
    """The weighted sum of a trace's rewards; None where it failed or nothing was scored."""
    rewards = [reward for reward in (trace.get("rewards") or {}).values() if isinstance(reward, dict)]
    if not rewards or trace.get("errors") or trace.get("ok") is False:
        return None
    return sum(reward.get("score", 0.0) * reward.get("weight", 1.0) for reward in rewards)
