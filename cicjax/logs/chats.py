"""Chat logs as native episodes: OpenAI messages, TRL's and axolotl's data sets, ShareGPT, alpaca.

These formats keep roles, not authors. A system's, user's or tool's turn is that author's; who wrote an
assistant's turn the caller says (see `attribution`). What says "do not train" (`weight` 0, `train` false,
TRL's `prompt`) makes a turn context only. Keys that these formats do not know are kept in `meta`, under
`foreign`; what the agent saw and text cannot hold, such as an image, is refused. Other formats translate
their turns to these, as `Said`.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from cicjax.errors import BadInput, shorten
from cicjax.files import strict
from cicjax.logs import exchanges, verdicts
from cicjax.logs.attribution import (
    WORLD,
    Reading,
    Turn,
    episode,
    present,
    refuse_author,
    take_edited,
    text_of,
)
from cicjax.logs.native import corrected, link, tool_call, tool_schemas
from cicjax.provenance.transcript import Author, Episode, Message, ToolCall, token_ids

MESSAGE_KEYS = (
    "role content name model tool_calls tool_call_id reasoning_content reasoning thinking refusal weight "
    "train function_call finish_reason token_ids logprobs"
).split()
# As ShareGPT and LLaMA-Factory spell them.
ALIASES = {"from": "role", "value": "content"}
ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "function_call": "assistant",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
}
SHAPES = ("messages", "conversations", "prompt", "instruction")
RECORD_KEYS = ("id", "model", "tools", "functions", "metadata", "parallel_tool_calls", "system", "completion")
ALPACA_KEYS = ("input", "output", "history")
# A question and its answer by other names than TRL's.
PAIRS = (("prompt", "response"), ("question", "answer"), ("input", "output"))
# The agent saw these, or the reader needs them; text cannot hold them.
NO_PLACE = {
    "audio": "sound has no place in a transcript of text",
    "image": "images have no place in a transcript of text",
    "images": "images have no place in a transcript of text",
    "videos": "films have no place in a transcript of text",
    "train_detail": "a native turn is trained on whole or not at all",
}


class Said(NamedTuple):
    """A turn as chat formats spell it: its place in errors, its keys, whether it is context only, and its
    author where the format itself knows that somebody of the world wrote it."""

    place: str
    fields: Mapping[str, Any]
    context_only: bool = False
    author: Author | None = None


def episodes(record: dict[str, Any], line: int, reading: Reading, *, source: str) -> Iterator[Episode]:
    """The episodes of one record, several where a request has several answers. Raises BadInput with the
    message."""
    for n, one in enumerate(exchanges.joined(record), start=1):
        made = _paired(present(one))
        refuse_author(made)
        _refuse(made)
        shape = _shape(made)
        known = {*RECORD_KEYS, shape, *(ALPACA_KEYS if shape == "instruction" else ())}
        yield conversation(
            _turns(made, shape),
            reading,
            id=_id(made.get("id"), line, n),
            source=source,
            line=line,
            model=made.get("model"),
            tools=_tools(made),
            meta={key: made.get(key) for key in ("metadata", "parallel_tool_calls")},
            foreign={key: value for key, value in made.items() if key not in known | reading.read_keys()},
            verdict=reading.verdict(made),
        )


def conversation(
    turns: Iterable[Said],
    reading: Reading,
    *,
    id: str,
    source: str,
    line: int,
    model: Any = None,
    tools: Any = None,
    meta: Mapping[str, Any] | None = None,
    foreign: Mapping[str, Any] | None = None,
    verdict: Any = None,
) -> Episode:
    """Turns of any format that spells them as chats do, as an Episode. A record's `model` speaks for its
    assistant's turns that name none. Raises BadInput with the turn's place."""
    record_model = None if model is None else strict.text(model, "model")
    known_calls: set[str] = set()
    made = []
    for said in turns:
        with strict.place(said.place):
            made.append(_turn(said, reading, record_model, known_calls))
    return episode(
        made,
        id=id,
        source=source,
        line=line,
        tools=tool_schemas(tools),
        meta={**(meta or {}), "foreign": foreign},
        verdict=verdict,
        solved_at=reading.solved_at,
    )


def _paired(record: dict[str, Any]) -> dict[str, Any]:
    for asked, answered in PAIRS:
        if not {"messages", "completion", "instruction"} & record.keys() and all(
            isinstance(record.get(key), str) for key in (asked, answered)
        ):
            names = {asked: "prompt", answered: "completion"}
            return {names.get(key, key): value for key, value in record.items()}
    return record


def _refuse(record: Mapping[str, Any]) -> None:
    for key, reason in NO_PLACE.items():
        if key in record:
            raise BadInput(f"{key!r} cannot be carried: {reason}; leave out this record (--on_error skip)")


def _id(value: Any, line: int, answer: int) -> str:
    id = str(line) if value is None else str(value) if type(value) is int else strict.text(value, "id")
    return id if answer == 1 else f"{id}-{answer}"


def _shape(record: Mapping[str, Any]) -> str:
    shapes = [key for key in SHAPES if key in record]
    if len(shapes) != 1 or ("prompt" in record) != ("completion" in record):
        raise BadInput("a record has either messages (or conversations), or a prompt with its completion")
    if shapes == ["instruction"] and "output" not in record:
        raise BadInput("an instruction has an output beside it")
    return shapes[0]


def _turns(record: dict[str, Any], shape: str) -> Iterator[Said]:
    """The turns of a record in any of the four shapes."""
    if shape == "instruction":
        yield from _alpaca(record)
        return
    parts = [(key, record[key]) for key in (shape, "completion") if key in record]
    if shape == "prompt" and all(isinstance(value, str) for _, value in parts):
        parts = [
            (key, [{"role": role, "content": value}])
            for (key, value), role in zip(parts, ("user", "assistant"), strict=True)
        ]
    if "system" in record:
        yield Said("system", {"role": "system", "content": record["system"]})
    for key, messages in parts:
        for n, message in enumerate(strict.listing(messages, key), start=1):
            if n == 1 and "system" in record and _is_system(message):
                raise BadInput("has a system prompt beside the messages and another among them")
            place = f"message {n}" if len(parts) == 1 else f"{key}, message {n}"
            with strict.place(place):
                fields = strict.mapping(message, "a message")
            yield Said(place, fields, key == "prompt")


def _is_system(message: Any) -> bool:
    return isinstance(message, dict) and "system" in (message.get("role"), message.get("from"))


def _alpaca(record: dict[str, Any]) -> Iterator[Said]:
    if "system" in record:
        yield Said("system", {"role": "system", "content": record["system"]})
    for n, pair in enumerate(strict.listing(record.get("history", []), "history"), start=1):
        for role, content in zip(
            ("user", "assistant"), strict.listing(pair, "a pair of history"), strict=False
        ):
            yield Said(f"history {n}", {"role": role, "content": content})
    asked = [strict.text(record[key], key) for key in ("instruction", "input") if record.get(key)]
    yield Said("instruction", {"role": "user", "content": "\n".join(asked)})
    yield Said("output", {"role": "assistant", "content": record["output"]})


def _turn(said: Said, reading: Reading, record_model: str | None, known_calls: set[str]) -> Turn:
    fields = present(said.fields)
    edited = take_edited(fields, reading.corrections)
    solved = None if reading.solved is None else fields.pop(reading.solved, None)
    fields = _renamed(fields)
    refuse_author(fields)
    _refuse(fields)
    if not fields.keys() >= {"role"}:
        raise BadInput("has no role")
    role = ROLES.get(strict.text(fields["role"], "role"))
    if role is None:
        raise BadInput(f"unknown role {shorten(fields['role'])}; roles are " + ", ".join(ROLES))
    calls, written = _calls(fields, role)
    beside = _beside(fields, record_model if role == "assistant" else None)
    author = said.author or WORLD.get(role)
    if author is None:
        author = reading.attribution.author(beside.get("model"), edited=edited is not None)
    tokens, logprobs = _sampled(fields) if author is Author.AGENT else (None, None)
    if tokens is not None:  # what was thought is among them
        beside.pop("reasoning", None)
    message = Message(
        role=role,
        content="" if written else _content(fields, role, calls),
        author=author,
        tokens=tokens,
        logprobs=logprobs,
        solved=verdicts.verdict(solved, reading.solved_at),
        truncated=role == "assistant" and fields.get("finish_reason") == "length",
        context_only=said.context_only or _untrained(fields),
        tool_calls=calls,
        tool_call_id=None
        if "tool_call_id" not in fields
        else strict.text(fields["tool_call_id"], "tool_call_id"),
    )
    foreign = {key: value for key, value in fields.items() if key not in MESSAGE_KEYS}
    return Turn(
        messages=corrected(link(message, known_calls), edited),
        beside=beside | ({"foreign": foreign} if foreign else {}),
    )


def schemas(value: Any) -> list[dict[str, Any]] | None:
    """Function schemas as chat templates take them, also from the JSON text in which tables keep them and
    from the flat spellings of other interfaces."""
    if isinstance(value, str):
        with strict.place("the text of tools"):
            value = strict.load(strict.text(value, "tools"))
    if value is None:
        return None
    return [_schema(strict.mapping(tool, "a tool")) for tool in strict.listing(value, "tools")]


def _schema(tool: dict[str, Any]) -> dict[str, Any]:
    parameters = next((tool[key] for key in ("parameters", "input_schema") if key in tool), None)
    if "function" in tool or "name" not in tool or parameters is None:
        return tool
    kept = {key: tool[key] for key in ("name", "description") if tool.get(key) is not None}
    return {"type": "function", "function": kept | {"parameters": parameters}}


def _tools(record: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    if "functions" in record and "tools" in record:
        raise BadInput("has both 'functions' and 'tools', which mean the same")
    return schemas(record.get("functions", record.get("tools")))


def _renamed(fields: dict[str, Any]) -> dict[str, Any]:
    for alias, key in ALIASES.items():
        if alias in fields and key in fields:
            raise BadInput(f"has both {alias!r} and {key!r}, which mean the same")
    return {ALIASES.get(key, key): value for key, value in fields.items()}


def _calls(fields: dict[str, Any], role: str) -> tuple[tuple[ToolCall, ...], bool]:
    """The calls of a turn, and whether its content is one of them: ShareGPT writes a call as a turn."""
    calls = [call_of(call) for call in strict.listing(fields.get("tool_calls", []), "tool_calls")]
    if "function_call" in fields:
        calls.append(call_of(fields["function_call"]))
    if calls and role != "assistant":
        raise BadInput(f"tool_calls belong to the role assistant, not to {shorten(role)}")
    if fields["role"] != "function_call" or calls:
        return tuple(calls), False
    try:
        value = strict.load(strict.text(fields.get("content"), "content"))
        return tuple(call_of(call) for call in (value if isinstance(value, list) else [value])), True
    except BadInput:
        return (), False  # a call in words of its own stays what was written


def call_of(record: Any) -> ToolCall:
    """A call in any of the spellings of chat logs: the function within it or beside its id, or its JSON
    text."""
    if isinstance(record, str):
        record = strict.load(strict.text(record, "a tool call"))
    call = present(strict.mapping(record, "a tool call"))
    function = call.get("function", call.get("custom", call))
    function = present(strict.mapping(function, "the function of a tool call"))
    arguments = next((function[key] for key in ("arguments", "input", "args") if key in function), None)
    if "name" not in function or arguments is None:
        raise BadInput("a tool call has a function with a name and arguments")
    id = call.get("id", call.get("tool_call_id"))
    return tool_call(function["name"], arguments, id)


def _content(fields: dict[str, Any], role: str, calls: tuple[ToolCall, ...]) -> str:
    content = None if "content" not in fields else text_of(fields["content"])
    refusal = None if "refusal" not in fields else strict.text(fields["refusal"], "refusal")
    if refusal is not None and (content or role != "assistant"):
        raise BadInput("a refusal is what an assistant wrote instead of content; here there are both")
    silent = role == "tool" or (role == "assistant" and (calls or _reasoning(fields)))
    if content is None and refusal is None and not silent:
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
    notes |= {"reasoning": _reasoning(fields)}
    return {key: strict.text(value, key) for key, value in notes.items() if value is not None}


def _reasoning(fields: dict[str, Any]) -> str | None:
    said = {key: fields[key] for key in ("reasoning_content", "reasoning", "thinking") if fields.get(key)}
    if len(set(map(str, said.values()))) > 1:
        raise BadInput(f"has both {' and '.join(map(repr, said))}, which mean the same, with two texts")
    return next((strict.text(text, key) for key, text in said.items()), None)


def _sampled(fields: dict[str, Any]) -> tuple[tuple[int, ...] | None, tuple[float, ...] | None]:
    """Sampled ids where the log has them, and log-probabilities where there is one for each."""
    if "token_ids" not in fields:
        return None, None
    tokens = token_ids(strict.listing(fields["token_ids"], "token_ids"))
    logprobs = fields.get("logprobs", [])
    if isinstance(logprobs, dict):
        logprobs = [entry.get("logprob") for entry in logprobs.get("content") or []]
    return tokens, tuple(logprobs) if len(logprobs) == len(tokens) else None
