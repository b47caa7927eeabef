"""Signs of confounded actions: a log that leaves out what the actor saw makes its actions evidence again,
mask or no mask.

What was hidden cannot be seen, only that something is missing. Each sign is a code of `audit`'s and what it
means in words.
"""

import re
from collections.abc import Iterator, Mapping, Sequence

from cicjax.errors import shorten
from cicjax.provenance.transcript import Author, Episode, Message

Signs = Iterator[tuple[str, str]]  # code and message

_CUT = r"(?:truncated|elided|omitted|redacted|snip|snipped|clipped|cut off)"
_WHAT = r"(?:output|content|text|response|result|history|rest|remainder|log)"
_UNITS = r"(?:lines?|characters?|chars|bytes|tokens|items|messages|turns|rows|entries)"
ELIDED = re.compile(
    rf"[\[<][^\[\]<>\n]{{0,40}}\b{_CUT}\b[^\[\]<>\n]{{0,40}}[\]>]"
    rf"|\((?:(?:the )?{_WHAT} (?:was |is )?)?{_CUT}\)"
    rf"|\b\d[\d,]* (?:more |other )?{_UNITS} (?:were |was |are |is )?(?:truncated|omitted|elided)\b"
    rf"|(?:\.\.\.|…) ?[\[(]?\+?\d[\d,]* (?:more |other ){_UNITS}"
    r"|\[ ?(?:\.\.\.|…) ?\]|^(?:\.{3,}|…)[ \t]*$",
    re.IGNORECASE | re.MULTILINE,
)
IMAGE = re.compile(
    r"<\|(?:vision_start|image_pad|video_pad|audio_pad)\|>|<(?:image|image_url|screenshot)>"
    r"|\[(?:an? |the )?(?:image|screenshot|photo|picture|audio|video|attachment|file attached)"
    r"(?:[ :#][^\]\n]{0,60})?\]"
    r"|\bdata:(?:image|audio|video)/",
    re.IGNORECASE,
)


def signs(episode: Episode) -> Signs:
    """Every sign in an episode that the agent saw what is not here, as code and message."""
    yield from _unseen(episode)
    yield from _unsaid(episode)
    yield from _tools(episode)


def _unseen(episode: Episode) -> Signs:
    """Signs that the agent saw something that is not here."""
    agents = [n for n, message in enumerate(episode.messages) if message.author is Author.AGENT]
    if not agents:
        return
    if not any(
        message.role in ("user", "tool") and message.content.strip()
        for message in episode.messages[: agents[0]]
    ):
        yield (
            "no-input",
            f"message {agents[0] + 1} is the agent's, and nobody asked it anything; "
            "put before it what it answered",
        )
    for n in agents:
        if (
            n
            and (before := episode.messages[n - 1]).author is Author.AGENT
            and before.role == "assistant"
            and not before.tool_calls
        ):
            yield (
                "gap",
                f"messages {n} and {n + 1} are both the agent's; put between them what it saw, "
                "or join them if there was nothing",
            )
    for pattern, code, advice in (
        (ELIDED, "elided", "put the whole text back, or drop the agent's turns after it"),
        (
            IMAGE,
            "image",
            "the model is given text alone, so what follows from it has another cause; drop such episodes",
        ),
    ):
        for n, message in enumerate(episode.messages[: agents[-1]], start=1):
            if message.author is not Author.AGENT and (marker := pattern.search(message.content)):
                yield (
                    code,
                    f"message {n} holds {shorten(marker.group().strip())} where the agent saw more; {advice}",
                )


def _unsaid(episode: Episode) -> Signs:
    """Thoughts that importers set aside in `meta["turns"]`: the reader of the row does not have them."""
    turns = (episode.meta or {}).get("turns")
    thoughts = [
        n
        for n, message in enumerate(episode.messages, start=1)
        if message.author is Author.AGENT
        and isinstance(turns, dict)
        and isinstance(beside := turns.get(str(n)), dict)
        and beside.get("reasoning")
    ]
    if thoughts:
        yield (
            "reasoning-left-out",
            f"the thoughts of {len(thoughts)} of the agent's turns, message {thoughts[0]} first, are in meta "
            "alone: what it wrote, and a correction of it, follow from words that are not in the row; "
            "put them into the content if the model writes them there",
        )


def _tools(episode: Episode) -> Signs:
    calls: dict[str, int] = {}
    unanswered: list[tuple[int, str | None]] = []
    for n, message in enumerate(episode.messages, start=1):
        if message.role == "assistant":
            yield from _unanswered(unanswered)
            unanswered = [(n, call.id) for call in message.tool_calls]
            calls |= {call.id: n for call in message.tool_calls if call.id is not None}
        elif message.role == "tool":
            yield from _orphan(episode.messages, n, message, calls)
            if _answers_all(episode.messages, n):
                unanswered = []
            # A result without an id answers the first call that waits.
            of = next(
                (pair for pair in unanswered if message.tool_call_id in (None, pair[1]) or pair[1] is None),
                None,
            )
            if of is not None:
                unanswered.remove(of)
    called = [
        n
        for n, message in enumerate(episode.messages, start=1)
        if message.author is Author.AGENT and message.tool_calls
    ]
    if called and not episode.tools and not any(message.role == "system" for message in episode.messages):
        yield (
            "hidden-tools",
            f"message {called[0]} calls a tool, "
            "but neither `tools` nor a system turn told the agent of any; add what it was told",
        )


def _answers_all(messages: Sequence[Message], n: int) -> bool:
    """Whether message n, a result without an id, is the one result of all the calls before it: a terminal's
    screen after several keystrokes is written so."""
    alone = messages[n - 2].role != "tool" and all(m.role != "tool" for m in messages[n : n + 1])
    return n > 1 and alone and messages[n - 1].tool_call_id is None


def _unanswered(calls: Sequence[tuple[int, str | None]]) -> Signs:
    for n, id in calls:
        name = "" if id is None else f" {shorten(id)}"
        yield (
            "missing-result",
            f"the call{name} in message {n} has no result though the assistant went on; put the result back",
        )


def _orphan(messages: Sequence[Message], n: int, message: Message, calls: Mapping[str, int]) -> Signs:
    if message.tool_call_id is not None and message.tool_call_id not in calls:
        yield (
            "orphan-result",
            f"message {n} answers the call {shorten(message.tool_call_id)}, "
            "which nobody made; put the call back",
        )
    elif not any(before.role == "assistant" for before in messages[: n - 1]):
        yield (
            "orphan-result",
            f"message {n} is a tool's result before anybody called a tool; put back what came before it",
        )
