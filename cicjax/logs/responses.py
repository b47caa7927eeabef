"""OpenAI's Responses interface and traces of its Agents SDK as native episodes.

```
item    message      reasoning   function_call           function_call_output    a hosted tool's call
turn    its role's   meta        of the turn it is in    tool, tied by call_id   a call without a result
```
What the model gave out between two inputs is one turn. `instructions` are a first system turn. A hosted tool
(search, computer, code) ran at the service and what came of it is not in the log: its call stays, so that the
audit can say so. Refused is what continues turns that only the service has (`previous_response_id`).
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cicjax.errors import BadInput, shorten
from cicjax.files import strict
from cicjax.logs import chats, exchanges
from cicjax.logs.attribution import Reading, present, text_of
from cicjax.logs.chats import Said
from cicjax.provenance.transcript import Episode

CALLS = ("function_call", "custom_tool_call", "local_shell_call")
OUTPUTS = (
    "function_call_output",
    "custom_tool_call_output",
    "local_shell_call_output",
    "mcp_tool_call_output",
)
SPOKEN = ("reasoning", *CALLS)
# Items of the service's or the client's that nobody said.
UNSAID = (
    "item_reference",
    "mcp_list_tools",
    "mcp_approval_request",
    "mcp_approval_response",
    "ghost_snapshot",
)
KNOWN = (
    "id",
    "input",
    "output",
    "instructions",
    "tools",
    "model",
    "metadata",
    "previous_response_id",
    "messages",
)


def knows(record: dict[str, Any]) -> bool:
    """Whether a record is an exchange with this interface: items in its input or its output."""
    asked, answered, _ = exchanges.parts(record)
    lists = [(asked or record).get("input"), (answered or record).get("output")]
    return any(_is_items(items) for items in lists) or record.get("object") == "response"


def _is_items(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(item, dict) and ("type" in item or "role" in item) for item in value)
    )


def episodes(record: dict[str, Any], line: int, reading: Reading) -> Iterator[Episode]:
    """The episode of one exchange. Raises BadInput with the item."""
    asked, answered, _ = exchanges.parts(record)
    fields = present({**record, **(asked or {}), **(answered or {})})
    if "previous_response_id" in fields or "conversation" in fields:
        raise BadInput(
            "continues a response whose turns the service keeps; log the whole input, "
            "or put the items of the earlier responses before it"
        )
    if "input" not in fields:
        raise BadInput("is a response alone: what the model answered is not here; log its input beside it")
    kept = {*KNOWN, *exchanges.REQUESTS, *exchanges.RESPONSES, *reading.read_keys()}
    id = record.get("id") or fields.get("id", line)
    yield chats.conversation(
        _exchange(fields),
        reading,
        id=str(id),
        source="responses",
        line=line,
        model=fields.get("model"),
        tools=schemas(fields.get("tools")),
        meta={"metadata": fields.get("metadata")},
        foreign={key: value for key, value in fields.items() if key not in kept},
        verdict=reading.verdict(record),
    )


def _exchange(fields: Mapping[str, Any]) -> Iterator[Said]:
    if isinstance(fields.get("instructions"), str):
        yield Said("instructions", {"role": "system", "content": fields["instructions"]})
    asked = fields["input"]
    items = [{"role": "user", "content": asked}] if isinstance(asked, str) else strict.listing(asked, "input")
    yield from turns([*items, *strict.listing(fields.get("output", []), "output")])


def schemas(value: Any) -> list[dict[str, Any]] | None:
    """Schemas of the functions among an interface's tools; hosted ones have none."""
    tools = [tool for tool in value or [] if isinstance(tool, dict) and "name" in tool]
    return chats.schemas(tools) or None


def turns(items: Sequence[Any]) -> Iterator[Said]:
    """Items as turns of chats. Raises BadInput, naming the item, for one that is not known."""
    turn: _Turn | None = None
    for n, item in enumerate(items, start=1):
        place = f"item {n}"
        with strict.place(place):
            fields = present(strict.mapping(item, "an item"))
            kind = str(fields.get("type", "message" if "role" in fields else None))
            spoken = kind in SPOKEN or kind.endswith("_call") or _is_answer(kind, fields)
            heard = None if spoken or kind in UNSAID else _heard(kind, fields)
        if turn is not None and (heard is not None or (turn.calls and kind == "message")):
            yield from turn.said()
            turn = None
        if heard is not None:
            yield Said(place, heard)
        elif spoken:
            turn = turn or _Turn(place)
            with strict.place(place):
                turn.take(kind, fields)
            if (result := _result_within(kind, fields)) is not None:
                yield from turn.said()
                turn = None
                yield Said(place, result)
    if turn is not None:
        yield from turn.said()


def _is_answer(kind: str, fields: Mapping[str, Any]) -> bool:
    return kind == "message" and fields.get("role") == "assistant"


def _heard(kind: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """What the model was given, as a chat's message."""
    if kind == "message":
        return {key: fields[key] for key in ("role", "content") if key in fields}
    if kind in OUTPUTS:
        return {"role": "tool", "tool_call_id": fields.get("call_id"), "content": _output(fields)}
    if kind in ("compaction", "compaction_summary"):
        raise BadInput(
            "the context was replaced here by a summary that the service alone can read; "
            "cut the log in two, or leave it out (--on_error skip)"
        )
    raise BadInput(f"an item of type {shorten(kind)} is not known; leave out this record (--on_error skip)")


def _output(fields: Mapping[str, Any]) -> Any:
    output = fields.get("output", fields.get("result", ""))
    if isinstance(output, dict) and "type" not in output:
        return output["content"] if isinstance(output.get("content"), str | list) else json.dumps(output)
    return output


def _result_within(kind: str, fields: Mapping[str, Any]) -> dict[str, Any] | None:
    """The result of a hosted tool whose item holds it."""
    if kind == "mcp_call" and ("output" in fields or "error" in fields):
        content = fields.get("output", fields.get("error"))
    elif kind == "code_interpreter_call" and "outputs" in fields:
        content = "\n".join(str(output.get("logs", output.get("url", ""))) for output in fields["outputs"])
    else:
        return None
    return {"role": "tool", "content": content if isinstance(content, str) else json.dumps(content)} | _tied(
        fields
    )


def _tied(fields: Mapping[str, Any]) -> dict[str, Any]:
    id = fields.get("call_id", fields.get("id"))
    return {} if id is None else {"tool_call_id": id}


class _Turn:
    """What the model gives out between two inputs."""

    def __init__(self, place: str) -> None:
        self.place = place
        self.content: list[Any] = []
        self.thoughts: list[str] = []
        self.calls: list[dict[str, Any]] = []

    def take(self, kind: str, fields: Mapping[str, Any]) -> None:
        """Add an item of the model's."""
        if kind == "message":
            content = fields.get("content", [])
            self.content += content if isinstance(content, list) else [{"type": "text", "text": content}]
        elif kind == "reasoning":
            parts = fields.get("content") or fields.get("summary") or []
            self.thoughts += [text_of(parts, "reasoning")] if parts else []
        else:
            self.calls.append(_call(kind, fields))

    def said(self) -> Iterator[Said]:
        """The turn, unless nothing was said that the log shows."""
        thought = "\n".join(self.thoughts)
        if self.content or self.calls or thought:
            yield Said(
                self.place,
                {
                    "role": "assistant",
                    "content": self.content or "",
                    "tool_calls": self.calls,
                    "reasoning_content": thought or None,
                },
            )


def _call(kind: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    arguments = next(
        (fields[key] for key in ("arguments", "input", "action", "code", "queries") if key in fields), {}
    )
    if not isinstance(arguments, str | dict):
        arguments = {"input": arguments}
    if kind == "code_interpreter_call":
        arguments = {"code": arguments}
    id = fields.get("call_id", fields.get("id"))
    return {"id": id, "name": fields.get("name", kind.removesuffix("_call")), "arguments": arguments}


def is_span(record: Mapping[str, Any]) -> bool:
    """Whether a record is a line of a trace of the Agents SDK."""
    return record.get("object") in ("trace", "trace.span")


def traces(records: Sequence[tuple[int, dict[str, Any]]], reading: Reading) -> Iterator[Episode]:
    """The conversations in the spans of traces: that of each call of a model, without those that a later one
    goes on with. Raises BadInput where the spans hold no words."""
    spans: dict[str, list[tuple[int, dict[str, Any]]]] = {}
    for line, record in records:
        data = record.get("span_data")
        if isinstance(data, dict) and data.get("type") in ("generation", "response"):
            spans.setdefault(str(record.get("trace_id")), []).append((line, data))
    if not spans:
        raise BadInput("a trace without a span of a model's call: no word was said")
    for trace, calls in spans.items():
        talks = _longest([(line, data, _talk(line, data)) for line, data in calls])
        for n, (line, data, talk) in enumerate(talks, start=1):
            response = data.get("response") or {}
            yield chats.conversation(
                talk,
                reading,
                id=trace if len(talks) == 1 else f"{trace}-{n}",
                source="agents",
                line=line,
                model=data.get("model") or response.get("model"),
                tools=schemas(response.get("tools")),
            )


def _talk(line: int, data: Mapping[str, Any]) -> list[Said]:
    with strict.place(f"line {line}"):
        if data["type"] == "response":
            if not isinstance(data.get("response"), dict) or data.get("input") is None:
                raise BadInput(
                    "a response span without its words, as the SDK's own exporter writes it; write `input` "
                    "and `response` of its span_data too, with a processor of your own"
                )
            return list(_exchange({**data["response"], "input": data["input"]}))
        both = [*(data.get("input") or []), *(data.get("output") or [])]
        if not both:
            raise BadInput("a generation span without its words: trace_include_sensitive_data was off")
        return [
            Said(f"message {n}", strict.mapping(turn, "a message")) for n, turn in enumerate(both, start=1)
        ]


def _longest(
    talks: list[tuple[int, dict[str, Any], list[Said]]],
) -> list[tuple[int, dict[str, Any], list[Said]]]:
    keys = [[_gist(said) for said in talk] for _, _, talk in talks]
    return [
        talk
        for n, talk in enumerate(talks)
        if not any(later[: len(keys[n])] == keys[n] for later in keys[n + 1 :])
    ]


def _gist(said: Said) -> str:
    """What two spellings of one turn share."""
    fields = said.fields
    content = fields.get("content") or ""
    if isinstance(content, list):
        content = "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return json.dumps([fields.get("role"), content, len(fields.get("tool_calls") or [])])
