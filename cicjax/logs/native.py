"""Transcript files. The native format: JSON Lines, one episode a line, `author` beside every message.

```
{"id": "7", "source": "stem", "messages": [
  {"role": "user", "author": "user", "content": "What is the molarity?"},
  {"role": "assistant", "author": "agent", "content": "4 M", "tokens": [19, 386, 151643],
   "logprobs": [-0.1, -0.2, -0.1], "solved": 0}]}
```

Beside these a message may have `truncated`, `context_only`, `tool_calls` (each with name, arguments and
perhaps an id) and `tool_call_id`, an episode `meta` and `tools`. Nothing is guessed: a message without an
author, an unknown key, a duplicate one, a value of another type, a tool's result for a call that nobody made
are errors with file:line. Other formats are read by `formats`.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from cicjax.errors import BadInput, shorten
from cicjax.files import sources, strict
from cicjax.files.whole import write_lines
from cicjax.provenance.protocol import NAMES
from cicjax.provenance.transcript import AUTHORS, Author, Episode, Message, ToolCall

ROLES = ("system", "user", "assistant", "tool", "verifier")
EPISODE_KEYS = ("id", "messages", "source", "meta", "tools", "protocol")
REQUIRED = ("role", "content", "author")
OPTIONAL = ("tokens", "logprobs", "solved", "truncated", "context_only", "tool_calls", "tool_call_id")
# keys by which logs of other formats are known
FOREIGN = frozenset(
    "conversations prompt completion steps input output choices traces nodes samples payload "
    "sessionId".split()
)


def read_native(*paths: str | Path, corrections: str | None = None) -> list[Episode]:
    """All episodes of native files, or of what `sources.expand` takes for them: a folder, a pattern, `-`.
    Raises BadInput with file:line for anything that is not exactly the format.

    A byte-order mark before the first line, CRLF line ends, blank lines, gzip and a JSON array are accepted.
    `corrections` names
    a further key: an assistant's message that has it becomes two turns, see `corrected`.
    """
    check_field(corrections, (*REQUIRED, *OPTIONAL))
    found = sources.expand(paths)
    episodes = []
    for source in found:
        for entry in sources.entries(source.name):
            with strict.place(entry.where):
                if entry.problem:
                    raise BadInput(entry.problem)
                episode = episode_of_record(entry.value, entry.line, corrections)
            episodes.append(episode if len(found) == 1 else replace(episode, file=source.name))
    return episodes


def episode_of_record(record: dict[str, Any], line: int, corrections: str | None = None) -> Episode:
    """The Episode of a record. Raises BadInput, for a log of another format with the way out."""
    if is_foreign(record):
        raise BadInput(
            "is no episode: nothing says who wrote which turn; "
            "`cicjax convert FILE --assistant_author agent|teacher --output OUT.jsonl` makes episodes of it"
        )
    return _episode(record, line, corrections)


def is_foreign(record: dict[str, Any]) -> bool:
    """Whether a record is of another format, by its keys."""
    messages = record.get("messages")
    if isinstance(messages, list) and messages and all(isinstance(turn, dict) for turn in messages):
        return not any("author" in turn for turn in messages)
    return messages is None and not FOREIGN.isdisjoint(record)


def parse_episode(text: str | bytes, *, where: str, line: int = 0) -> Episode:
    """One line as an Episode. Raises BadInput, `where` first."""
    with strict.place(where):
        record = strict.mapping(strict.load(text), "an episode")
    return episode_of(record, where=where, line=line)


def format_episode(episode: Episode) -> str:
    """An Episode as one line, without its newline: the inverse of `parse_episode`."""
    return json.dumps(record_of(episode), ensure_ascii=False, allow_nan=False)


def episode_of(record: dict[str, Any], *, where: str, line: int = 0) -> Episode:
    """The Episode of a line that has been read already. Raises BadInput, `where` first."""
    with strict.place(where):
        return _episode(record, line, None)


def record_of(episode: Episode) -> dict[str, Any]:
    """An Episode as the object that its line holds: the inverse of `episode_of`. Keys that say nothing are
    left out."""
    record: dict[str, Any] = {
        "id": episode.id,
        "source": episode.source,
        "messages": [_message_record(m) for m in episode.messages],
    }
    if episode.meta is not None:
        record["meta"] = episode.meta
    if episode.tools:
        record["tools"] = list(episode.tools)
    if episode.protocol is not None:
        record["protocol"] = episode.protocol
    return record


def write_native(path: str | Path, episodes: Iterable[Episode]) -> None:
    """Write a native file: whole, or not at all."""
    write_lines(path, (format_episode(episode) for episode in episodes))


def is_object(arguments: str) -> bool:
    """Whether the arguments of a call are the strict JSON text of an object."""
    try:
        strict.dumps(strict.mapping(strict.load(arguments), "what the text says"), "the text")
    except BadInput:
        return False
    return True


def tool_call(name: Any, arguments: Any, id: Any) -> ToolCall:
    """A call as a file has it. `arguments` is an object or a text, which stays as it was written: a model
    that calls with broken JSON has made the very mistake that a correction is about.

    Raises BadInput for other types.
    """
    if isinstance(arguments, str):
        strict.text(arguments, "arguments of a tool call")
    elif isinstance(arguments, dict):
        arguments = strict.dumps(arguments, "arguments of a tool call")
    else:
        raise BadInput(f"arguments of a tool call are a JSON object or its text, not {shorten(arguments)}")
    return ToolCall(
        name=strict.text(name, "name of a tool call"),
        arguments=arguments,
        id=None if id is None else strict.text(id, "id of a tool call"),
    )


def tool_schemas(value: Any) -> tuple[dict[str, Any], ...]:
    """The function schemas of an episode. Raises BadInput for anything but a list of objects."""
    tools = (
        ()
        if value is None
        else tuple(strict.mapping(tool, "a tool") for tool in strict.listing(value, "tools"))
    )
    strict.dumps(tools, "tools")
    return tools


def link(message: Message, known_calls: set[str]) -> Message:
    """The message, its calls added to those known. Raises BadInput for the result of a call that is not among
    them."""
    if message.tool_call_id is not None:
        if message.role != "tool":
            raise BadInput(f"tool_call_id belongs to the role tool, not to {shorten(message.role)}")
        if message.tool_call_id not in known_calls:
            raise BadInput(
                f"the result of tool call {shorten(message.tool_call_id)}, which nobody before it made; "
                "put the call back, or leave the result out"
            )
    known_calls.update(call.id for call in message.tool_calls if call.id is not None)
    return message


def corrected(message: Message, edited: str | None) -> tuple[Message, ...]:
    """The agent's turn and, where somebody edited it, the edited text after it as a teacher's turn in the
    assistant's role.

    An edit that changes nothing is none. Raises BadInput where the turn is not the agent's, or calls tools: a
    log of both texts does not say which of them the calls and their results belong to.
    """
    if edited is None:
        return (message,)
    if message.role != "assistant" or message.author != Author.AGENT:
        raise BadInput(
            "an edited turn is the agent's own, in the role assistant; "
            f"this one is by {message.author.label} as {message.role}"
        )
    if edited == message.content:
        return (message,)
    if message.tool_calls:
        raise BadInput(
            "an edited turn that calls tools: nothing says which of the two texts the calls belong to; "
            "leave the edit out, or end the transcript before it"
        )
    return message, Message(
        role="assistant", content=edited, author=Author.TEACHER, context_only=message.context_only
    )


def check_field(corrections: str | None, taken: Iterable[str]) -> None:
    """Raise BadInput for a name of corrections that the format uses for something else."""
    if corrections is not None and corrections in taken:
        raise BadInput(
            f"--corrections {corrections}: that is a key of the format itself; "
            "name the one that holds edited texts"
        )


def _episode(record: dict[str, Any], line: int, corrections: str | None) -> Episode:
    strict.keys(record, required=EPISODE_KEYS[:2], optional=EPISODE_KEYS[2:], what="an episode")
    if not isinstance(record["messages"], list) or not record["messages"]:
        raise BadInput("messages is a list with at least one message")
    return Episode(
        id=strict.text(record["id"], "id"),
        source=strict.text(record.get("source", ""), "source"),
        messages=tuple(_messages(record["messages"], corrections)),
        meta=_meta(record.get("meta")),
        tools=tool_schemas(record.get("tools")),
        protocol=_protocol(record.get("protocol")),
        line=line,
    )


def _messages(records: list[Any], corrections: str | None) -> Iterator[Message]:
    known_calls: set[str] = set()
    for n, record in enumerate(records, start=1):
        with strict.place(f"message {n}"):
            edited = None
            if corrections is not None and isinstance(record, dict) and corrections in record:
                record = dict(record)
                if (edited := record.pop(corrections)) is not None:
                    edited = strict.text(edited, corrections)
            yield from corrected(link(_message(record), known_calls), edited)


def _message(record: Any) -> Message:
    strict.mapping(record, "a message")
    if "author" not in record:
        raise BadInput("has no author; say who wrote it: " + ", ".join(AUTHORS))
    strict.keys(record, required=REQUIRED, optional=OPTIONAL, what="a message")
    role, author = strict.text(record["role"], "role"), strict.text(record["author"], "author")
    if role not in ROLES:
        raise BadInput(f"unknown role {shorten(role)}; roles are " + ", ".join(ROLES))
    if author not in AUTHORS:
        raise BadInput(f"unknown author {shorten(author)}; authors are " + ", ".join(AUTHORS))
    fields = {key: record[key] for key in OPTIONAL if record.get(key) is not None}
    for key in ("tokens", "logprobs"):
        strict.listing(fields.get(key, []), key)
    if "tool_call_id" in fields:
        strict.text(fields["tool_call_id"], "tool_call_id")
    fields["tool_calls"] = tuple(
        _call(call) for call in strict.listing(fields.get("tool_calls", []), "tool_calls")
    )
    return Message(
        role=role, content=strict.text(record["content"], "content"), author=AUTHORS[author], **fields
    )


def _call(record: Any) -> ToolCall:
    strict.keys(
        strict.mapping(record, "a tool call"),
        required=("name", "arguments"),
        optional=("id",),
        what="a tool call",
    )
    return tool_call(record["name"], record["arguments"], record.get("id"))


def _message_record(message: Message) -> dict[str, Any]:
    record: dict[str, Any] = {
        "role": message.role,
        "author": message.author.label,
        "content": message.content,
    }
    if message.tokens is not None:
        record["tokens"] = list(message.tokens)
    if message.logprobs is not None:
        record["logprobs"] = list(message.logprobs)
    if message.solved != -1:
        record["solved"] = message.solved
    record.update({key: True for key in ("truncated", "context_only") if getattr(message, key)})
    if message.tool_calls:
        record["tool_calls"] = [_call_record(call) for call in message.tool_calls]
    if message.tool_call_id is not None:
        record["tool_call_id"] = message.tool_call_id
    return record


def _call_record(call: ToolCall) -> dict[str, Any]:
    return {"name": call.name, "arguments": call.arguments} | ({} if call.id is None else {"id": call.id})


def _protocol(value: Any) -> str | None:
    if value is not None and value not in NAMES:
        raise BadInput(f"unknown protocol {shorten(value)}; protocols are {', '.join(NAMES)}")
    return value


def _meta(value: Any) -> dict[str, Any] | None:
    if value is not None:
        strict.dumps(strict.mapping(value, "meta"), "meta")
    return value
