"""A request with its response as one record: what a proxy or a client library logs.

```
{"request": {"model": ..., "messages": [...], "tools": [...]}, "response": {"choices": [{"message": ...}]}}
```
Also with `body` around either, with the request's keys at the top, and with Anthropic's and the Responses
interface's answers. Of several choices each is a record of its own.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from cicjax.errors import BadInput
from cicjax.files import strict

REQUESTS = ("request", "kwargs", "input", "body")
RESPONSES = ("response", "output", "completion", "result")
ASKED = frozenset({"messages", "input", "prompt"})
ANSWERED = frozenset({"choices", "output", "content"})


def joined(record: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The records that an exchange is, one a choice; a record that is none comes back as it is. What is
    neither asked nor answered is kept under `request` and `response`. Raises BadInput for an answer whose
    request is missing."""
    asked, answered = parts(record)
    if answered is None:
        yield record
        return
    if asked is None:
        raise BadInput(
            "is a response alone: what the model answered is not here; log the request's messages beside it"
        )
    rest = {key: value for key, value in record.items() if value is not asked and value is not answered}
    rest = {
        key: value for key, value in rest.items() if key not in (*REQUESTS, *RESPONSES) and key not in asked
    }
    for message, leftover in _answers(answered):
        yield _record(asked, message, rest, leftover)


def parts(record: Mapping[str, Any]) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """The request and the response in a record, None for each that is not there."""
    answered = next(
        (found for key in RESPONSES if (found := _unwrapped(record.get(key), ANSWERED)) is not None), None
    )
    if answered is None and "choices" in record:
        answered = dict(record)
    if answered is None and "messages" in record:
        texts = [record[key] for key in RESPONSES if isinstance(record.get(key), str)]
        answered = {"content": texts[0]} if len(texts) == 1 else None
    if answered is None:
        return None, None
    asked = next(
        (found for key in REQUESTS if (found := _unwrapped(record.get(key), ASKED)) is not None), None
    )
    if asked is None and "messages" in record:
        asked = {key: value for key, value in record.items() if key not in (*RESPONSES, "choices")}
    return asked, answered


def _unwrapped(value: Any, keys: frozenset[str]) -> dict[str, Any] | None:
    for _ in range(2):
        if isinstance(value, dict) and keys & value.keys():
            return value
        value = value.get("body", value.get("json")) if isinstance(value, dict) else None
    return None


def _answers(answered: dict[str, Any]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """The messages that a response holds, and what stands beside them."""
    leftover = {key: value for key, value in answered.items() if key not in ANSWERED and key not in ASKED}
    if "choices" not in answered:
        keys = ("role", "content", "model", "stop_reason")
        yield {"role": "assistant"} | {key: answered[key] for key in keys if key in answered}, leftover
        return
    for n, choice in enumerate(strict.listing(answered["choices"], "choices"), start=1):
        with strict.place(f"choice {n}"):
            fields = strict.mapping(choice, "a choice")
            message = dict(strict.mapping(fields.get("message"), "message"))
            for key in ("finish_reason", "token_ids", "logprobs"):
                if fields.get(key) is not None:
                    message.setdefault(key, fields[key])
            if "model" in answered:
                message.setdefault("model", answered["model"])
        yield message, leftover


def _record(
    asked: dict[str, Any], message: dict[str, Any], rest: dict[str, Any], leftover: dict[str, Any]
) -> dict[str, Any]:
    kept = ("messages", "tools", "functions", "system", "model", "metadata", "parallel_tool_calls", "id")
    turns = strict.listing(asked.get("messages"), "messages")
    record = {key: asked[key] for key in kept if key in asked} | {"messages": [*turns, message]}
    settings = {key: value for key, value in asked.items() if key not in kept}
    id = rest.pop("id", None) or rest.pop("custom_id", None) or leftover.pop("id", None)
    notes = {"request": settings, "response": leftover}
    return (
        record
        | rest
        | ({} if id is None else {"id": id})
        | {key: value for key, value in notes.items() if value}
    )
