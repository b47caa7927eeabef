"""Prompts as people keep them: native messages, or OpenAI's with neither authors nor ids.

Nothing of a prompt is trained on, so that an author may be missing here: the role stands for it, and an
assistant's turn is the agent's.
"""

from collections.abc import Mapping
from typing import Any

from cicjax.logs import native
from cicjax.provenance.transcript import Author, Episode

AUTHORS = {
    "system": Author.SYSTEM,
    "developer": Author.SYSTEM,
    "user": Author.USER,
    "assistant": Author.AGENT,
    "tool": Author.TOOL,
    "verifier": Author.VERIFIER,
}


def episode_of(record: Mapping[str, Any], *, where: str, line: int = 0) -> Episode:
    """The messages of a prompt, with the tools and the protocol beside them; other keys are nobody's business
    here. Raises BadInput, `where` first."""
    known = {key: record[key] for key in ("tools", "protocol") if key in record}
    messages = record["messages"]
    if isinstance(messages, list):
        messages = [_authored(message) if isinstance(message, dict) else message for message in messages]
    return native.episode_of({"id": str(line), "messages": messages, **known}, where=where, line=line)


def _authored(message: dict[str, Any]) -> dict[str, Any]:
    role = message.get("role")
    if "author" in message or not isinstance(role, str) or role not in AUTHORS:
        return message
    said = {key: value for key, value in message.items() if value not in (None, [])}
    calls = said.get("tool_calls")
    if isinstance(calls, list):
        said["tool_calls"] = [_call(call) for call in calls]
        said.setdefault("content", "")
    return said | {"role": "system" if role == "developer" else role, "author": AUTHORS[role].label}


def _call(call: Any) -> Any:
    """OpenAI's call of a function as a native one."""
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict):
        return call
    return function | ({"id": call["id"]} if "id" in call else {})
