"""Episodes for other trainers, without who wrote what: the rows say it by what they ask to be learned.

TRL's prompt and completion: a row for each turn that a teacher wrote, after all that came before it; its
completion alone is trained on there, as equation (14) trains it here. Preferences: an attempt of the agent's
and the correction right after it, as rejected and chosen.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from cicjax.files import strict
from cicjax.logs.native import is_object
from cicjax.provenance.transcript import Author, Episode, Message, ToolCall

# What other trainers' templates have no role for is said in the user's.
ROLES = {"verifier": "user"}


def trl(episode: Episode) -> Iterator[dict[str, Any]]:
    """The rows of an episode that TRL's SFTTrainer takes, each with a prompt and a completion."""
    for n, message in enumerate(episode.messages):
        if _is_taught(message):
            yield _row(episode, n, {"completion": [_plain(message)]})


def preference(episode: Episode) -> Iterator[dict[str, Any]]:
    """The rows of an episode that DPO's kin take: prompt, chosen and rejected."""
    for n, (attempt, correction) in enumerate(zip(episode.messages, episode.messages[1:], strict=False)):
        if attempt.role == "assistant" and attempt.author is Author.AGENT and _is_taught(correction):
            yield _row(episode, n, {"chosen": [_plain(correction)], "rejected": [_plain(attempt)]})


def _is_taught(message: Message) -> bool:
    return message.role == "assistant" and message.author is Author.TEACHER and not message.context_only


def _row(episode: Episode, n: int, answers: dict[str, Any]) -> dict[str, Any]:
    prompt = [_plain(message) for message in episode.messages[:n]]
    return {"prompt": prompt, **answers} | ({"tools": list(episode.tools)} if episode.tools else {})


def _plain(message: Message) -> dict[str, Any]:
    plain: dict[str, Any] = {"role": ROLES.get(message.role, message.role), "content": message.content}
    if message.tool_calls:
        plain["tool_calls"] = [_call(call) for call in message.tool_calls]
    return plain if message.tool_call_id is None else plain | {"tool_call_id": message.tool_call_id}


def _call(call: ToolCall) -> dict[str, Any]:
    arguments: Sequence[Any] | Any = call.arguments
    if is_object(call.arguments):
        arguments = strict.load(call.arguments)
    function = {"name": call.name, "arguments": arguments}
    return {"type": "function", "function": function} | ({} if call.id is None else {"id": call.id})
