"""Session files of Codex (`~/.codex/sessions/**/rollout-*.jsonl`) as native episodes.

A line is an event: `session_meta`, `turn_context` (the model), `response_item` (an item of the Responses
interface), `compacted`; `event_msg` repeats what items say and is passed over. The oldest files have items
alone. Base instructions are the system turn; what the program itself puts into the user's role is the
environment's. Where the context was compacted a new episode begins, with what was kept as context.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cicjax.errors import BadInput
from cicjax.logs import chats, responses
from cicjax.logs.attribution import Reading
from cicjax.logs.chats import Said
from cicjax.provenance.transcript import Author, Episode

EVENTS = frozenset({"session_meta", "turn_context", "response_item", "event_msg", "compacted"})
# How texts begin that the program puts into the user's role.
WRAPPERS = ("<environment_context>", "<user_instructions>", "<turn_aborted>", "# AGENTS.md instructions")
Records = Sequence[tuple[int, dict[str, Any]]]


def knows(record: Mapping[str, Any]) -> bool:
    """Whether a record is the first line of a session file."""
    return (str(record.get("type")) in EVENTS and isinstance(record.get("payload"), dict)) or (
        {"id", "timestamp", "instructions"} <= record.keys() and "messages" not in record
    )


def session(records: Records, reading: Reading) -> Iterator[Episode]:
    """The episodes of a session: one, or as many as its compactions make. Raises BadInput with the item."""
    events = [(line, *_event(record)) for line, record in records]
    about = next((payload for _, kind, payload in events if kind == "session_meta"), {})
    model = next((payload.get("model") for _, kind, payload in events if kind == "turn_context"), None)
    parts = [part for part in _parts(events) if any(map(_is_spoken, part[1]))]
    if not parts:
        raise BadInput("a session in which the model said nothing")
    id = str(about.get("id", records[0][0]))
    for n, (line, items, kept) in enumerate(parts, start=1):
        yield chats.conversation(
            [*_system(about), *_turns(items, kept)],
            reading,
            id=id if len(parts) == 1 else f"{id}-{n}",
            source="codex",
            line=line,
            model=model,
            meta={"session": {key: about.get(key) for key in ("id", "cli_version", "originator", "cwd")}},
        )


def _event(record: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    payload = record.get("payload")
    if isinstance(payload, dict):
        return str(record.get("type")), payload
    if "type" in record:
        return "response_item", record
    return ("session_meta", record) if "timestamp" in record else ("state", record)


def _parts(events: Sequence[tuple[int, str, dict[str, Any]]]) -> Iterator[tuple[int, list[Any], int]]:
    """The items between compactions, with the line where they begin and how many of them were kept."""
    start, kept, items = events[0][0], 0, []
    for line, kind, payload in events:
        if kind == "response_item":
            items.append(payload)
        elif kind == "compacted":
            yield start, items, kept
            summary = {"role": "user", "content": payload.get("message", "")}
            items = list(payload.get("replacement_history") or [summary])
            start, kept = line, len(items)
    yield start, items, kept


def _is_spoken(item: Any) -> bool:
    return isinstance(item, dict) and (item.get("role") == "assistant" or "call_id" in item)


def _system(about: Mapping[str, Any]) -> Iterator[Said]:
    base = about.get("base_instructions")
    text = base.get("text") if isinstance(base, dict) else base
    if isinstance(text, str) and text:
        yield Said("base_instructions", {"role": "system", "content": text})


def _turns(items: Sequence[Any], kept: int) -> Iterator[Said]:
    for before, part in ((True, items[:kept]), (False, items[kept:])):
        for said in responses.turns(part):
            yield _attributed(said._replace(context_only=before))


def _attributed(said: Said) -> Said:
    content = said.fields.get("content")
    first = (
        content[0].get("text", "") if isinstance(content, list) and isinstance(content[0], dict) else content
    )
    if said.fields.get("role") == "user" and isinstance(first, str) and first.lstrip().startswith(WRAPPERS):
        return said._replace(author=Author.ENVIRONMENT)
    return said
