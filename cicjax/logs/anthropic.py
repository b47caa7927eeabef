"""Anthropic messages as native episodes: requests with or without their response.

```
block     text        tool_use                   tool_result                      thinking
message   content     tool_calls, input as JSON  tool, tied by its tool_use_id    meta (reasoning)
```
`system` is a first turn; schemas keep their `input_schema` as parameters. A user's message with results in it
becomes several native ones, in its order. Refused are images, documents and results of tools that ran at the
service, which the log does not show.
"""

from collections.abc import Iterator
from typing import Any

from cicjax.errors import BadInput, shorten
from cicjax.files import strict
from cicjax.logs import chats, exchanges
from cicjax.logs.attribution import Reading, present, text_of
from cicjax.logs.chats import Said
from cicjax.provenance.transcript import Episode

BLOCKS = frozenset({"tool_use", "tool_result", "thinking", "redacted_thinking", "server_tool_use"})
KNOWN = ("id", "messages", "system", "tools", "model", "metadata")


def knows(record: dict[str, Any]) -> bool:
    """Whether a record is of this format: by blocks of its own, its schemas, or its answer's stop reason."""
    asked, answered, _ = exchanges.parts(record)
    request = asked or record
    messages = request.get("messages")
    turns = [turn for turn in messages if isinstance(turn, dict)] if isinstance(messages, list) else []
    blocks = [block for turn in [*turns, answered or {}] for block in _blocks(turn.get("content"))]
    tools = request.get("tools") if isinstance(request.get("tools"), list) else []
    return bool(turns) and (
        any(str(block.get("type")) in BLOCKS for block in blocks)
        or any(isinstance(tool, dict) and "input_schema" in tool for tool in tools or [])
        or "stop_reason" in (answered or {})
        or "anthropic_version" in request
    )


def episodes(record: dict[str, Any], line: int, reading: Reading) -> Iterator[Episode]:
    """The episode of one record. Raises BadInput with the message."""
    for one in exchanges.joined(record):
        made = present(one)
        id = made.get("id", line)
        yield chats.conversation(
            _turns(made),
            reading,
            id=str(id) if type(id) is int else strict.text(id, "id"),
            source="anthropic",
            line=line,
            model=made.get("model"),
            tools=chats.schemas(made.get("tools")),
            meta={"metadata": made.get("metadata")},
            foreign={key: value for key, value in made.items() if key not in {*KNOWN, *reading.read_keys()}},
            verdict=reading.verdict(made),
        )


def _turns(record: dict[str, Any]) -> Iterator[Said]:
    if "system" in record:
        yield Said("system", {"role": "system", "content": record["system"]})
    for n, message in enumerate(strict.listing(record.get("messages"), "messages"), start=1):
        place = f"message {n}"
        with strict.place(place):
            said = list(said_of(strict.mapping(message, "a message"), place))
        yield from said


def said_of(message: dict[str, Any], place: str) -> Iterator[Said]:
    """One of Anthropic's messages as turns of chats: an assistant's is one, a user's as many as it has
    results and texts between them. Raises BadInput for what text cannot hold."""
    fields = present(message)
    blocks = _blocks(fields.pop("content", ""))
    if fields.get("role") == "assistant":
        yield Said(place, _assistant(fields, blocks))
        return
    texts: list[dict[str, Any]] = []
    for block in blocks:
        if block.get("type") != "tool_result":
            texts.append(block)
            continue
        if texts:
            yield Said(place, {**fields, "content": texts})
            texts = []
        yield Said(place, _result(block))
    if texts or not blocks:
        yield Said(place, {**fields, "content": texts or ""})


def _blocks(content: Any) -> list[dict[str, Any]]:
    if isinstance(content, str):
        return [{"type": "text", "text": content}] if content else []
    return [block for block in content if isinstance(block, dict)] if isinstance(content, list) else []


def _assistant(fields: dict[str, Any], blocks: list[dict[str, Any]]) -> dict[str, Any]:
    calls = [
        {"id": block.get("id"), "name": block.get("name"), "arguments": block.get("input")}
        for block in blocks
        if block.get("type") == "tool_use"
    ]
    thoughts = [str(block.get("thinking", "")) for block in blocks if block.get("type") == "thinking"]
    hidden = sum(block.get("type") == "redacted_thinking" for block in blocks)
    texts = [block for block in blocks if str(block.get("type")) not in BLOCKS]
    hosted = [block for block in blocks if block.get("type") in ("server_tool_use", "tool_result")]
    if hosted:
        raise BadInput(
            f"a block of type {shorten(hosted[0]['type'])}: a tool that ran at the service, and what the "
            "agent saw of it is not in the log as text; leave out this record (--on_error skip)"
        )
    thought = "\n".join(filter(None, [*thoughts, "[redacted]" * hidden]))
    stop = fields.pop("stop_reason", None)
    cut = {"finish_reason": "length"} if stop in ("max_tokens", "model_context_window_exceeded") else {}
    said = {**fields, **cut, "content": texts, "tool_calls": calls, "reasoning_content": thought or None}
    return said if texts or calls or thought else {**said, "content": ""}


def _result(block: dict[str, Any]) -> dict[str, Any]:
    fields = present(block)
    content = text_of(fields.get("content", ""), "content of a tool_result")
    failed = {"is_error": True} if fields.get("is_error") else {}
    return {"role": "tool", "tool_call_id": fields.get("tool_use_id"), "content": content, **failed}
