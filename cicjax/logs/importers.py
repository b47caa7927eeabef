"""Chat logs of others as native episodes: OpenAI messages, TRL's and axolotl's data sets, ShareGPT; ATIF is
read in `atif`.

These formats keep roles, not authors. A system's, user's or tool's turn is that author's; who wrote an
assistant's turn the caller says (see `attribution`). What says "do not train" (`weight` 0, `train` false,
TRL's `prompt`) makes a turn context only. Whatever else has a meaning that a native transcript cannot hold is
refused; a turn's model, name and separate reasoning go to `meta`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cicjax.errors import BadInput, shorten
from cicjax.files import strict
from cicjax.logs.atif import read_atif
from cicjax.logs.attribution import (
    WORLD,
    Attribution,
    Turn,
    episode,
    present,
    refuse_author,
    take_edited,
    text_of,
)
from cicjax.logs.native import check_field, corrected, link, tool_call, tool_schemas
from cicjax.provenance.transcript import Episode, Message, ToolCall

__all__ = ["Attribution", "detect", "read_atif", "read_axolotl", "read_openai", "read_trl"]

RECORD_KEYS = ("id", "model", "tools", "metadata")
MESSAGE_KEYS = ("role", "content", "name", "model", "tool_calls", "tool_call_id", "reasoning_content")
ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant", "tool": "tool"}
SHAREGPT_ROLES = ROLES | {"human": "user", "gpt": "assistant", "function": "tool"}
SIGNS = {
    "messages": ("messages",),
    "trl": ("prompt", "completion"),
    "axolotl": ("conversations",),
    "atif": ("schema_version", "steps"),
}
# Each has a meaning for training or for what was seen, so that passing over it would falsify the transcript.
NO_PLACE = {
    "audio": "sound has no place in a transcript of text",
    "images": "images have no place in a transcript of text",
    "function_call": "an older spelling of tool_calls",
    "functions": "an older spelling of tools",
    "train_detail": "a native turn is trained on whole or not at all",
    "chosen": "a preference between two texts is no transcript",
    "rejected": "a preference between two texts is no transcript",
    "text": "a bare text does not say who wrote which part of it",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Dialect:
    """How one format spells records and messages, beside the keys that all share."""

    name: str
    record_keys: tuple[str, ...]
    message_keys: tuple[str, ...]
    roles: Mapping[str, str]
    aliases: Mapping[str, str] = field(default_factory=dict)


OPENAI = _Dialect(
    name="openai",
    record_keys=("messages", "parallel_tool_calls"),
    message_keys=("weight", "refusal"),
    roles=ROLES,
)
TRL = _Dialect(
    name="trl", record_keys=("messages", "prompt", "completion"), message_keys=("thinking",), roles=ROLES
)
AXOLOTL = _Dialect(
    name="axolotl",
    record_keys=("messages", "conversations", "system"),
    message_keys=("train", "weight"),
    roles=SHAREGPT_ROLES,
    aliases={"from": "role", "value": "content"},
)


def read_openai(
    path: str | Path, attribution: Attribution, *, corrections: str | None = None
) -> list[Episode]:
    """Episodes of OpenAI chat messages, as for fine-tuning: {"messages": [...], "tools": [...]} a line.
    Raises BadInput with file:line.

    A `developer` is a system. Text parts of one message are put together with nothing between them. A
    record's `model` speaks for its assistant turns that name none.
    """
    return _read(path, _Reading(dialect=OPENAI, attribution=attribution, corrections=corrections))


def read_trl(path: str | Path, attribution: Attribution, *, corrections: str | None = None) -> list[Episode]:
    """Episodes of TRL's `messages`, or `prompt` (context only) and `completion`, strings or lists of
    messages. Raises BadInput.

    Of strings the prompt is a user's turn and the completion an assistant's.
    """
    return _read(path, _Reading(dialect=TRL, attribution=attribution, corrections=corrections))


def read_axolotl(
    path: str | Path, attribution: Attribution, *, corrections: str | None = None
) -> list[Episode]:
    """Episodes of axolotl's `messages` or ShareGPT's `conversations`, roles under `role` or `from`, texts
    under `content` or `value`.

    A record's `system` is a first turn. Raises BadInput with file:line.
    """
    return _read(path, _Reading(dialect=AXOLOTL, attribution=attribution, corrections=corrections))


def detect(path: str | Path) -> str:
    """The format of a file by the keys of its first object: native, openai, trl, axolotl or atif. Raises
    BadInput where that is not plain.

    `messages` without authors mean the same in three formats and are called openai, unless a key of axolotl's
    stands in them.
    """
    line, record = next(strict.records(path, what="an episode", whole=True))
    with strict.place(f"{path}:{line}"):
        matches = [name for name, signs in SIGNS.items() if any(sign in record for sign in signs)]
        if len(matches) != 1:
            raise BadInput(
                ("looks like " + " and like ".join(matches) if matches else "is of no known format")
                + "; say which it is with --from NAME"
            )
        return _kind_of_messages(record["messages"]) if matches == ["messages"] else matches[0]


def _kind_of_messages(messages: Any) -> str:
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise BadInput("messages is no list of objects; say which format it is with --from NAME")
    authored = sum("author" in message for message in messages)
    if 0 < authored < len(messages):
        raise BadInput(
            f"{authored} of {len(messages)} messages have an author; say which format it is with --from NAME"
        )
    if authored:
        return "native"
    return (
        "axolotl"
        if any(key in message for message in messages for key in ("from", "value", "train"))
        else "openai"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reading:
    """What one file is read with."""

    dialect: _Dialect
    attribution: Attribution
    corrections: str | None


def _read(path: str | Path, reading: _Reading) -> list[Episode]:
    dialect = reading.dialect
    check_field(reading.corrections, (*MESSAGE_KEYS, *dialect.message_keys, *dialect.aliases, "author"))
    episodes = []
    for line, record in strict.records(path, what="a record"):
        with strict.place(f"{path}:{line}"):
            episodes.append(_episode(present(record), line, reading))
    return episodes


def _episode(record: dict[str, Any], line: int, reading: _Reading) -> Episode:
    _check_keys(record, (*reading.dialect.record_keys, *RECORD_KEYS), "a record")
    model = None if "model" not in record else strict.text(record["model"], "model")
    known_calls: set[str] = set()
    turns = []
    for name, message, context_only in _messages(record):
        with strict.place(name):
            turns.append(
                _turn(message, reading, model=model, context_only=context_only, known_calls=known_calls)
            )
    if not turns:
        raise BadInput("holds no message")
    number = record.get("id", line)
    return episode(
        turns,
        id=str(number) if type(number) is int else strict.text(number, "id"),
        source=reading.dialect.name,
        line=line,
        tools=_tools(record.get("tools")),
        meta={key: record.get(key) for key in ("metadata", "parallel_tool_calls")},
    )


def _messages(record: dict[str, Any]) -> Iterator[tuple[str, Any, bool]]:
    """The messages of a record in any of the three formats, each with its name in errors and whether it is
    context only."""
    shapes = [key for key in ("messages", "conversations", "prompt") if key in record]
    if len(shapes) != 1 or ("prompt" in record) != ("completion" in record):
        raise BadInput("a record has either messages (or conversations), or a prompt with its completion")
    parts = [(key, record[key]) for key in (*shapes, "completion") if key in record]
    if shapes == ["prompt"] and all(isinstance(value, str) for _, value in parts):
        parts = [
            (key, [{"role": role, "content": value}])
            for (key, value), role in zip(parts, ("user", "assistant"), strict=True)
        ]
    if "system" in record:
        yield "system", {"role": "system", "content": record["system"]}, False
    for key, messages in parts:
        for n, message in enumerate(strict.listing(messages, key), start=1):
            if (
                n == 1
                and "system" in record
                and isinstance(message, dict)
                and "system" in (message.get("role"), message.get("from"))
            ):
                raise BadInput("has a system prompt beside the messages and another among them")
            yield f"message {n}" if len(parts) == 1 else f"{key}, message {n}", message, key == "prompt"


def _turn(
    record: Any, reading: _Reading, *, model: str | None, context_only: bool, known_calls: set[str]
) -> Turn:
    dialect = reading.dialect
    fields = present(strict.mapping(record, "a message"))
    edited = take_edited(fields, reading.corrections)
    fields = _renamed(fields, dialect.aliases)
    _check_keys(fields, (*MESSAGE_KEYS, *dialect.message_keys), "a message")
    role = dialect.roles.get(strict.text(fields.get("role"), "role"))
    if role is None:
        raise BadInput(
            f"unknown role {shorten(fields['role'])}; {dialect.name} has " + ", ".join(dialect.roles)
        )
    beside = _beside(fields, model if role == "assistant" else None)
    message = Message(
        role=role,
        content=_content(fields, role),
        author=WORLD[role]
        if role in WORLD
        else reading.attribution.author(beside.get("model"), edited=edited is not None),
        context_only=context_only or _untrained(fields),
        tool_calls=tuple(_call(call) for call in strict.listing(fields.get("tool_calls", []), "tool_calls")),
        tool_call_id=None
        if "tool_call_id" not in fields
        else strict.text(fields["tool_call_id"], "tool_call_id"),
    )
    return Turn(messages=corrected(link(message, known_calls), edited), beside=beside)


def _check_keys(record: dict[str, Any], allowed: tuple[str, ...], what: str) -> None:
    refuse_author(record)
    for key, reason in NO_PLACE.items():
        if key in record:
            raise BadInput(f"{key!r} cannot be carried: {reason}")
    try:
        strict.keys(record, required=(), optional=allowed, what=what)
    except BadInput as error:
        raise BadInput(
            f"{error}; remove it, or keep it under the record's metadata if it is a note that nobody saw"
        ) from None


def _renamed(fields: dict[str, Any], aliases: Mapping[str, str]) -> dict[str, Any]:
    for alias, key in aliases.items():
        if alias in fields and key in fields:
            raise BadInput(f"has both {alias!r} and {key!r}, which mean the same")
    return {aliases.get(key, key): value for key, value in fields.items()}


def _content(fields: dict[str, Any], role: str) -> str:
    content = None if "content" not in fields else text_of(fields["content"])
    refusal = None if "refusal" not in fields else strict.text(fields["refusal"], "refusal")
    if refusal is not None and (content or role != "assistant"):
        raise BadInput("a refusal is what an assistant wrote instead of content; here there are both")
    if content is None and refusal is None and not (role == "assistant" and fields.get("tool_calls")):
        raise BadInput("has no content")
    return content or refusal or ""


def _untrained(fields: dict[str, Any]) -> bool:
    weight, train = fields.get("weight", 1), fields.get("train", True)
    if type(weight) not in (int, float) or weight not in (0, 1):
        raise BadInput(f"weight is 0 or 1, not {shorten(weight)}")
    if not isinstance(train, bool):
        raise BadInput(f"train is true or false, not {shorten(train)}")
    return weight == 0 or not train


def _beside(fields: dict[str, Any], record_model: str | None) -> dict[str, str]:
    notes = {"model": record_model} | {key: fields[key] for key in ("model", "name") if key in fields}
    reasoning = [fields[key] for key in ("reasoning_content", "thinking") if key in fields]
    if len(reasoning) == 2:
        raise BadInput("has both 'reasoning_content' and 'thinking', which mean the same")
    notes |= {"reasoning": reasoning[0]} if reasoning else {}
    return {key: strict.text(value, key) for key, value in notes.items() if value is not None}


def _call(record: Any) -> ToolCall:
    call = present(strict.mapping(record, "a tool call"))
    if call.get("type", "function") != "function":
        raise BadInput(
            f"a tool call of type {shorten(call['type'])} cannot be carried: its input is no JSON object"
        )
    strict.keys(call, required=("function",), optional=("id", "type", "index"), what="a tool call")
    function = present(strict.mapping(call["function"], "the function of a tool call"))
    strict.keys(function, required=("name", "arguments"), optional=(), what="the function of a tool call")
    return tool_call(function["name"], function["arguments"], call.get("id"))


def _tools(value: Any) -> tuple[dict[str, Any], ...]:
    """Schemas, also as the JSON text in which tables keep them."""
    if isinstance(value, str):
        with strict.place("the text of tools"):
            value = strict.load(strict.text(value, "tools"))
    return tool_schemas(value)
