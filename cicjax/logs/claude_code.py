"""Session files of Claude Code (`~/.claude/projects/**/*.jsonl`) as native episodes; also what
`claude -p --output-format stream-json` prints.

A line is an event; those of type user and assistant hold Anthropic messages and name their parent. An episode
is the path to the last line below a root: a session, what follows a compaction, a subagent's side chain. What
was rewound is left out. Lines of one answer share an id, and are one turn. What the program put into the
user's role (`isMeta`, summaries of what was compacted) is the environment's; its own answers on errors of the
service nobody wrote. The system prompt and the schemas are not in these files.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cicjax.errors import BadInput
from cicjax.files import strict
from cicjax.logs import anthropic, chats
from cicjax.logs.attribution import Reading
from cicjax.logs.chats import Said
from cicjax.provenance.transcript import Author, Episode

SPEAKING = ("user", "assistant")
KINDS = frozenset(
    "user assistant system summary progress result attachment file-history-snapshot queue-operation".split()
)
SIGNS = frozenset({"sessionId", "session_id", "parentUuid", "leafUuid", "messageId", "uuid"})
SYNTHETIC = "<synthetic>"
Records = Sequence[tuple[int, dict[str, Any]]]


def knows(record: Mapping[str, Any]) -> bool:
    """Whether a record is a line of a session file."""
    return isinstance(record.get("type"), str) and not SIGNS.isdisjoint(record) and "messages" not in record


def session(records: Records, reading: Reading) -> Iterator[Episode]:
    """The episodes of a session. Raises BadInput with the line of the file."""
    paths = [path for path in _paths(records) if any(record["type"] == "assistant" for _, record in path)]
    if not paths:
        raise BadInput("a session in which the model said nothing")
    seen: dict[str, int] = {}
    for path in paths:
        first = path[0][1]
        id = str(first.get("agentId") or first.get("sessionId") or first.get("session_id") or path[0][0])
        seen[id] = seen.get(id, 0) + 1
        yield chats.conversation(
            _turns(path),
            reading,
            id=id if seen[id] == 1 else f"{id}-{seen[id]}",
            source="claude-code",
            line=path[0][0],
            meta={"session": {key: first.get(key) for key in ("sessionId", "version", "cwd", "gitBranch")}},
        )


def _paths(records: Records) -> Iterator[list[tuple[int, dict[str, Any]]]]:
    """The lines of each episode in the order of the file."""
    lines = {
        record["uuid"]: n for n, (_, record) in enumerate(records) if isinstance(record.get("uuid"), str)
    }
    if not any("parentUuid" in record for _, record in records):
        yield from _streams(records)
        return
    root_of: dict[int, int] = {}
    leaves: dict[int, int] = {}
    for n in sorted(lines.values()):  # a parent stands before its children
        parent = _parent(n, records, lines)
        root_of[n] = n if parent is None else root_of[parent]
        leaves[root_of[n]] = n
    for root, leaf in leaves.items():
        path = sorted(_upwards(leaf, root, records, lines))
        # The lines of one answer stand together, though results may come between them.
        firsts: dict[str, int] = {}
        for n in path:
            firsts.setdefault(_answer(records[n][1]) or "", n)
        path.sort(key=lambda n: firsts.get(_answer(records[n][1]) or "-", n))
        yield [records[n] for n in path if records[n][1].get("type") in SPEAKING]


def _parent(n: int, records: Records, lines: Mapping[str, int]) -> int | None:
    """The line before in the same chain; None at a root, where a side chain leaves, where a link is lost."""
    record = records[n][1]
    parent = lines.get(str(record.get("parentUuid")))
    if parent is None or parent >= n:
        return None
    aside, before = (bool(one.get("isSidechain")) for one in (record, records[parent][1]))
    return parent if aside == before else None


def _upwards(leaf: int, root: int, records: Records, lines: Mapping[str, int]) -> set[int]:
    """The lines from a leaf to its root, with those that stand beside them: answers and results of calls that
    were made at once."""
    path = {leaf}
    n: int | None = leaf
    while n is not None:
        path.add(n)
        n = _parent(n, records, lines)
    answers = {_answer(records[n][1]) for n in path} - {None}
    path |= {n for n in range(root, leaf) if _answer(records[n][1]) in answers}
    calls = {
        block.get("id") for n in path for block in _blocks(records[n][1]) if block.get("type") == "tool_use"
    }
    held = {block.get("tool_use_id") for n in path for block in _blocks(records[n][1])}
    for n in range(root, len(records)):
        results = {block.get("tool_use_id") for block in _blocks(records[n][1])} - {None}
        if results and results <= calls and not results & held:
            path.add(n)
            held |= results
    return path


def _answer(record: Mapping[str, Any]) -> str | None:
    """The id that the lines of one answer share."""
    message = record.get("message")
    return message.get("id") if record.get("type") == "assistant" and isinstance(message, dict) else None


def _blocks(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    message = record.get("message")
    content = message.get("content") if isinstance(message, dict) else None
    return [block for block in content if isinstance(block, dict)] if isinstance(content, list) else []


def _streams(records: Records) -> Iterator[list[tuple[int, dict[str, Any]]]]:
    """The lines of a printed session, which name no parents: the session's own, and each subagent's."""
    chains: dict[str, list[tuple[int, dict[str, Any]]]] = {}
    for line, record in records:
        if record.get("type") in SPEAKING:
            chains.setdefault(str(record.get("parent_tool_use_id") or ""), []).append((line, record))
    yield from chains.values()


def _turns(path: Sequence[tuple[int, dict[str, Any]]]) -> Iterator[Said]:
    waiting: tuple[int, dict[str, Any]] | None = None
    for line, record in path:
        place = f"line {line}"
        with strict.place(place):
            message = strict.mapping(record.get("message"), "message")
        if record.get("isApiErrorMessage") or message.get("model") == SYNTHETIC:
            continue
        if (
            record["type"] == "assistant"
            and waiting
            and message.get("id") == waiting[1].get("id") is not None
        ):
            blocks = [*_listed(waiting[1]), *_listed(message)]
            waiting = (waiting[0], {**waiting[1], **message, "content": blocks})
            continue
        if waiting:
            yield from _said(waiting[1], f"line {waiting[0]}")
        waiting = (line, message) if record["type"] == "assistant" else None
        if waiting is None:
            injected = record.get("isMeta") or record.get("isCompactSummary")
            for said in _said(message, place):
                is_result = said.fields.get("role") == "tool"
                yield said if is_result or not injected else said._replace(author=Author.ENVIRONMENT)
    if waiting:
        yield from _said(waiting[1], f"line {waiting[0]}")


def _listed(message: Mapping[str, Any]) -> list[Any]:
    content = message.get("content", [])
    return content if isinstance(content, list) else [{"type": "text", "text": content}]


def _said(message: dict[str, Any], place: str) -> Iterator[Said]:
    """A message's turns, without what the service wrote of its own."""
    kept = {key: message[key] for key in ("role", "content", "model", "stop_reason") if key in message}
    with strict.place(place):
        yield from anthropic.said_of(kept, place)
