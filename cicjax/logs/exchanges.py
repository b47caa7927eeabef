"""A request with its response as one record: what a proxy or a client library logs.

```
{"request": {"model": ..., "messages": [...], "tools": [...]}, "response": {"choices": [{"message": ...}]}}
```
Also with `body` around either, with the request's keys at the top, and with Anthropic's and the Responses
interface's answers. Of several choices each is a record of its own.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from cicjax.errors import BadInput
from cicjax.files import strict

REQUESTS = ("request", "kwargs", "input", "body")
RESPONSES = ("response", "output", "completion", "result")
ASKED = frozenset({"messages", "input", "prompt"})
ANSWERED = frozenset({"choices", "output", "content"})
# What a request says of the conversation; its other keys are settings.
KEPT = ("messages", "tools", "functions", "system", "model", "metadata", "parallel_tool_calls", "id")


class Exchange(NamedTuple):
    """The request and the response in a record, None for each that is not there, and the record's other
    keys. The request of a flat record is the record itself."""

    asked: dict[str, Any] | None
    answered: dict[str, Any] | None
    rest: dict[str, Any]


def joined(record: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The records that an exchange is, one a choice; a record that is none comes back as it is. A request's
    settings and what a response says beside its answer are kept under `request` and `response`. Raises
    BadInput for an answer whose request is missing."""
    asked, answered, rest = parts(record)
    if answered is None:
        yield record
        return
    if asked is None:
        raise BadInput(
            "is a response alone: what the model answered is not here; log the request's messages beside it"
        )
    turns = strict.listing(asked.get("messages"), "messages")
    talk = {key: asked[key] for key in KEPT if key in asked}
    id = record.get("id") or record.get("custom_id") or answered.get("id")
    notes = {
        "request": {} if asked is record else {key: asked[key] for key in asked if key not in KEPT},
        "response": {} if answered is record else _beside(answered, id),
    }
    for message in _answers(answered):
        yield (
            {**rest, **{key: value for key, value in notes.items() if value}, **talk}
            | ({} if id is None else {"id": id})
            | {"messages": [*turns, message]}
        )


def _beside(answered: dict[str, Any], id: Any) -> dict[str, Any]:
    """What a response says beside its answer, and beside an id that is the record's already."""
    return {
        key: value
        for key, value in answered.items()
        if key not in ANSWERED | ASKED and not (key == "id" and value == id)
    }


def parts(record: dict[str, Any]) -> Exchange:
    """The request and the response in a record."""
    asked_at, asked = _found(record, REQUESTS, ASKED)
    answered_at, answered = _found(record, RESPONSES, ANSWERED)
    if answered is None and "choices" in record:
        answered_at, answered = "choices", record
    if answered is None and "messages" in record:
        texts = [key for key in RESPONSES if isinstance(record.get(key), str)]
        if len(texts) == 1:
            answered_at, answered = texts[0], {"content": record[texts[0]]}
    if asked is None and answered is not None and "messages" in record:
        asked = record
    used = {asked_at, answered_at, *(KEPT if asked is record else ("id",))}
    return Exchange(asked, answered, {key: value for key, value in record.items() if key not in used})


def _found(
    record: Mapping[str, Any], names: tuple[str, ...], keys: frozenset[str]
) -> tuple[str, dict[str, Any] | None]:
    """The first of these names under which such a thing stands, or its body does, and the thing."""
    for name in names:
        value = record.get(name)
        for _ in range(2):
            if isinstance(value, dict) and keys & value.keys():
                return name, value
            value = value.get("body", value.get("json")) if isinstance(value, dict) else None
    return "", None


def _answers(answered: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The messages that a response holds."""
    if "choices" not in answered:
        keys = ("role", "content", "model", "stop_reason")
        yield {"role": "assistant"} | {key: answered[key] for key in keys if key in answered}
        return
    for n, choice in enumerate(strict.listing(answered["choices"], "choices"), start=1):
        with strict.place(f"choice {n}"):
            fields = strict.mapping(choice, "a choice")
            message = dict(strict.mapping(fields.get("message"), "message"))
            for key in ("finish_reason", "token_ids", "logprobs"):
                if fields.get(key) is not None:
                    message.setdefault(key, fields[key])
            if answered.get("model") is not None:
                message.setdefault("model", answered["model"])
        yield message
