"""Inspect's evaluation logs as native episodes, a sample each: `.json` whole, or `.eval` archives.

A sample's messages are its history at the end. Its score is the verdict where there is one scorer; with
several, `--solved scores.NAME.value` says which. A sample that an error ended has none. Attachments are put
back; reasoning goes to `meta`; the schemas are those of the first call of the model.
"""

from collections.abc import Iterator
from typing import Any

from cicjax.errors import BadInput
from cicjax.files import strict
from cicjax.logs import chats
from cicjax.logs.attribution import Reading, present
from cicjax.logs.chats import Said
from cicjax.provenance.transcript import Episode

LINK = "attachment://"
KEPT = ("target", "epoch", "metadata", "scores", "error", "limit")
# a message's keys that say nothing about what was said
NOTES = ("id", "source", "internal", "metadata", "function", "error", "tool_error", "view")


def knows(record: dict[str, Any]) -> bool:
    """Whether a record is a whole log, or a sample of one."""
    return ("eval" in record and ("samples" in record or "plan" in record)) or (
        "epoch" in record and "messages" in record and ("target" in record or "scores" in record)
    )


def episodes(record: dict[str, Any], line: int, reading: Reading) -> Iterator[Episode]:
    """The episodes of a log, or of a sample. Raises BadInput with the sample and the message."""
    if "messages" in record:
        yield _episode(record, line, None, reading)
        return
    samples = strict.listing(record.get("samples") or [], "samples")
    if not samples:
        raise BadInput("holds no sample; write the log with its samples, `inspect eval --log-samples`")
    model = strict.mapping(record["eval"], "eval").get("model")
    for n, sample in enumerate(samples, start=1):
        with strict.place(f"sample {n}"):
            yield _episode(strict.mapping(sample, "a sample"), line, model, reading)


def _episode(sample: dict[str, Any], line: int, model: Any, reading: Reading) -> Episode:
    fields = present(_attached(sample, sample.get("attachments") or {}))
    epoch = fields.get("epoch", 1)
    return chats.conversation(
        _turns(fields),
        reading,
        id=f"{fields.get('id', line)}" + (f"-{epoch}" if epoch != 1 else ""),
        source="inspect",
        line=line,
        model=(fields.get("output") or {}).get("model") or model,
        tools=chats.schemas(_tools(fields.get("events") or [])),
        meta={"sample": {key: fields[key] for key in KEPT if key in fields}},
        verdict=reading.verdict(fields, None if "error" in fields else _score(fields.get("scores"))),
    )


def _score(scores: Any) -> Any:
    if not isinstance(scores, dict) or len(scores) != 1:
        return None
    score = next(iter(scores.values()))
    value = score.get("value") if isinstance(score, dict) else score
    return None if isinstance(value, dict | list) else value


def _turns(sample: dict[str, Any]) -> Iterator[Said]:
    for n, message in enumerate(strict.listing(sample.get("messages"), "messages"), start=1):
        with strict.place(f"message {n}"):
            fields = present(strict.mapping(message, "a message"))
            failed = fields.get("error") or {}
            said = {key: value for key, value in fields.items() if key not in NOTES}
            if said.get("role") != "tool":
                said.pop("tool_call_id", None)  # of a user's turn: the calls whose pictures it shows
            elif isinstance(failed, dict) and failed.get("message") and not said.get("content"):
                said["content"] = failed["message"]
            said |= _content(said.get("content", ""))
            if "tool_calls" in said:
                said["tool_calls"] = [
                    _call(call) for call in strict.listing(said["tool_calls"], "tool_calls")
                ]
        yield Said(f"message {n}", said)


def _content(content: Any) -> dict[str, Any]:
    if not isinstance(content, list):
        return {"content": content}
    thoughts = [part for part in content if isinstance(part, dict) and part.get("type") == "reasoning"]
    texts = [part for part in content if part not in thoughts]
    thought = "\n".join(
        str(part.get("summary") if part.get("redacted") else part.get("reasoning")) for part in thoughts
    )
    return {"content": texts or ""} | ({"reasoning_content": thought} if thought else {})


def _call(call: Any) -> dict[str, Any]:
    fields = strict.mapping(call, "a tool call")
    name = fields.get("function")
    if isinstance(name, dict):
        return fields
    return {"id": fields.get("id"), "name": name, "arguments": fields.get("arguments")}


def _tools(events: Any) -> list[Any] | None:
    calls = [event for event in events if isinstance(event, dict) and event.get("event") == "model"]
    return calls[0].get("tools") if calls else None


def _attached(value: Any, attachments: dict[str, Any]) -> Any:
    """A value with its attachments in the places that name them. Raises BadInput where one is missing."""
    if not attachments:
        return value
    if isinstance(value, str) and value.startswith(LINK):
        name = value.removeprefix(LINK)
        if name not in attachments:
            raise BadInput("a text stands in an attachment that is not in the log")
        return attachments[name]
    if isinstance(value, dict):
        return {key: _attached(inner, attachments) for key, inner in value.items() if key != "attachments"}
    if isinstance(value, list):
        return [_attached(inner, attachments) for inner in value]
    return value
