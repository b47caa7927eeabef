"""Every format that logs are read from, by name: how a record of it is known, and its reader.

`collect` reads what people have: files, folders, patterns, Harbor's jobs. Whatever keeps a record from being
read is a problem with its place; the other records are read all the same, and the caller decides.
"""

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from cicjax.errors import BadInput, shorten
from cicjax.files import sources
from cicjax.files.sources import Entry, Source
from cicjax.logs import (
    anthropic,
    atif,
    chats,
    claude_code,
    codex,
    harbor,
    inspect_logs,
    native,
    responses,
    rollouts,
)
from cicjax.logs.attribution import Attribution, Reading, judged
from cicjax.logs.verdicts import verdict
from cicjax.provenance.transcript import Episode

Record = dict[str, Any]


class Format(NamedTuple):
    """One format: its name, whether a record is of it, and its reader of a record, or of all the lines of a
    file that make one log together."""

    name: str
    knows: Callable[[Record], bool]
    read: Callable[[Record, int, Reading], Iterator[Episode]] | None = None
    session: Callable[[Sequence[tuple[int, Record]], Reading], Iterator[Episode]] | None = None


class Problem(NamedTuple):
    """What could not be read, and where."""

    where: str
    message: str

    def __str__(self) -> str:
        return f"{self.where}: {self.message}"


class Collected(NamedTuple):
    """What files gave: episodes, problems, files by format, and files of a folder that hold no log."""

    episodes: list[Episode]
    problems: list[Problem]
    formats: Counter[str]
    passed_over: list[str]


def _native(record: Record, line: int, reading: Reading) -> Iterator[Episode]:
    if reading.attribution != Attribution():
        raise BadInput(
            "a native file says who wrote each turn; leave out --assistant_author and --agent_models"
        )
    made = native.episode_of_record(record, line, reading.corrections)
    yield (
        made if reading.solved is None else judged(made, verdict(reading.verdict(record), reading.solved_at))
    )


def _is_native(record: Record) -> bool:
    messages = record.get("messages")
    return (
        isinstance(messages, list)
        and bool(messages)
        and all(isinstance(turn, dict) and "author" in turn for turn in messages)
    )


def _has_turns(key: str, marks: Sequence[str] = ()) -> Callable[[Record], bool]:
    def knows(record: Record) -> bool:
        turns = record.get(key)
        return isinstance(turns, list) and (
            not marks or any(isinstance(turn, dict) and mark in turn for turn in turns for mark in marks)
        )

    return knows


def _is_pair(record: Record) -> bool:
    return any(
        asked in record and answered in record for asked, answered in (("prompt", "completion"), *chats.PAIRS)
    )


# The first that knows a record reads it: the narrow ones come before the wide ones.
FORMATS = (
    Format("native", _is_native, _native),
    Format("atif", atif.knows, atif.episodes),
    Format("inspect", inspect_logs.knows, inspect_logs.episodes),
    Format("verifiers", rollouts.knows, rollouts.episodes),
    Format("agents", responses.is_span, session=responses.traces),
    Format("codex", codex.knows, session=codex.session),
    Format("claude-code", claude_code.knows, session=claude_code.session),
    Format("anthropic", anthropic.knows, anthropic.episodes),
    Format("responses", responses.knows, responses.episodes),
    Format(
        "axolotl",
        lambda record: (
            "conversations" in record or _has_turns("messages", ("from", "value", "train"))(record)
        ),
        partial(chats.episodes, source="axolotl"),
    ),
    Format("alpaca", lambda record: "instruction" in record, partial(chats.episodes, source="alpaca")),
    Format("trl", _is_pair, partial(chats.episodes, source="trl")),
    Format(
        "openai",
        lambda record: "messages" in record or "choices" in record or _is_exchange(record),
        partial(chats.episodes, source="openai"),
    ),
)
NAMES = tuple(format.name for format in FORMATS)


def _is_exchange(record: Record) -> bool:
    asked, answered, _ = chats.exchanges.parts(record)
    return asked is not None and answered is not None


# What is no transcript as it stands, by a sign of it, with the way out.
REFUSED: tuple[tuple[Callable[[Record], bool], str], ...] = (
    (
        lambda record: "chosen" in record and "rejected" in record,
        "a preference between two texts is no transcript: write the rejected one as the assistant's turn and "
        "the chosen one beside it, under a key for --corrections",
    ),
    (
        lambda record: (
            "lc" in record
            or record.get("type") in ("human", "ai")
            or _has_turns("messages", ("lc", "data"))(record)
        ),
        "LangChain's own objects: write them as OpenAI messages, "
        "langchain_core.messages.convert_to_openai_messages(messages)",
    ),
    (
        lambda record: "run_type" in record and "inputs" in record,
        "a LangSmith run: write its messages as OpenAI messages, "
        "langchain_core.messages.convert_to_openai_messages(messages)",
    ),
    (
        lambda record: bool(
            {"loss_mask", "model_input", "input_ids", "token_ids", "prompt_ids"} & record.keys()
        ),
        "ids with a finished mask: whoever wrote them has decided what is trained on; "
        "give the transcripts that they were made of",
    ),
    (
        lambda record: str(record.get("type", "")).startswith(("thread.", "turn.", "item.")),
        "events as `codex exec --json` prints them, without what the model saw; "
        "give the session's file, ~/.codex/sessions/**/rollout-*.jsonl",
    ),
    (
        lambda record: "resourceSpans" in record,
        "OpenTelemetry spans: export the messages of the model's calls as OpenAI messages",
    ),
    (
        lambda record: set(record) <= {"text", "id", "meta", "metadata", "source"} and "text" in record,
        "a bare text does not say who wrote which part of it; split it into messages with roles",
    ),
)


def detect(record: Record) -> Format:
    """The format of a record by its keys. Raises BadInput, with the way out, where that is none or not
    plain."""
    messages = record.get("messages")
    authored = (
        sum(isinstance(turn, dict) and "author" in turn for turn in messages)
        if isinstance(messages, list)
        else 0
    )
    if isinstance(messages, list) and 0 < authored < len(messages):
        raise BadInput(
            f"{authored} of {len(messages)} messages have an author; say which format it is with --from NAME"
        )
    for sign, way_out in REFUSED:
        if "messages" not in record and sign(record):
            raise BadInput(way_out)
    if REFUSED[1][0](record):
        raise BadInput(REFUSED[1][1])
    found = next((format for format in FORMATS if format.knows(record)), None)
    if found is None:
        keys = ", ".join(shorten(key) for key in list(record)[:6]) or "none"
        raise BadInput(
            f"is of no known format (its keys: {keys}); say which it is with --from NAME: " + ", ".join(NAMES)
        )
    return found


def collect(names: Sequence[str | Path], reading: Reading, *, format: str = "auto") -> Collected:
    """Everything that names stand for. Raises BadInput where a name stands for nothing."""
    collected = Collected([], [], Counter(), [])
    jobs = {name: harbor.trials(Path(name)) if Path(name).is_dir() else [] for name in names}
    found = sources.expand([name for name in names if not jobs[name]])
    for name, trials in jobs.items():
        for trial in trials:
            _read_trial(trial, reading, collected)
        if trials:
            collected.passed_over.extend(harbor.without_trajectory(Path(name)))
    for source in found:
        _read(source, reading, format, collected, several=len(found) > 1)
    if not collected.episodes and not collected.problems:
        raise BadInput(f"{', '.join(map(str, names))}: holds no log of a known format: " + ", ".join(NAMES))
    return collected._replace(episodes=_with_own_ids(collected.episodes))


def read(
    name: str, path: str | Path, attribution: Attribution, *, corrections: str | None = None
) -> list[Episode]:
    """The episodes of one file in the format `name`. Raises BadInput with file:line for its first problem."""
    collected = collect([path], Reading(attribution=attribution, corrections=corrections), format=name)
    if collected.problems:
        raise BadInput(str(collected.problems[0]))
    return collected.episodes


def _read(source: Source, reading: Reading, name: str, collected: Collected, *, several: bool) -> None:
    """One file's episodes and problems, into what is collected."""
    entries = sources.entries(source.name)
    head: list[Entry] = []  # up to the first that can be read
    try:
        while not head or head[-1].problem:
            head.append(next(entries))
    except StopIteration:
        pass
    except BadInput as error:
        if source.named:
            raise
        collected.passed_over.append(str(error))
        return
    first = head[-1]
    try:
        chosen = detect(first.value) if name == "auto" and not first.problem else _named(name)
    except BadInput as error:
        if source.named:
            collected.problems.append(Problem(first.where, str(error)))
        else:
            collected.passed_over.append(source.name)
        return
    collected.formats[chosen.name] += 1
    before = len(collected.episodes)
    _gather(chosen, itertools.chain(head, entries), reading, collected)
    if several:
        collected.episodes[before:] = [_placed(made, source.name) for made in collected.episodes[before:]]


def _named(name: str) -> Format:
    """The format of a name; for a file without a whole record any will do."""
    return next((format for format in FORMATS if format.name == name), FORMATS[-1])


def _gather(chosen: Format, entries: Iterable[Entry], reading: Reading, collected: Collected) -> None:
    if chosen.session is not None:
        entries = list(entries)
        records = [(entry.line, entry.value) for entry in entries if not entry.problem]
        where = entries[0].where.rpartition(":")[0] or entries[0].where
        _take(partial(chosen.session, records, reading), where, collected)
    for entry in entries:
        if entry.problem:
            collected.problems.append(Problem(entry.where, entry.problem))
        elif chosen.read is not None:
            _take(partial(chosen.read, entry.value, entry.line, reading), entry.where, collected)


def _read_trial(trial: harbor.Trial, reading: Reading, collected: Collected) -> None:
    collected.formats["harbor"] += 1
    for entry in sources.entries(trial.path):
        if entry.problem:
            collected.problems.append(Problem(entry.where, entry.problem))
            continue
        read = partial(atif.episodes, entry.value, entry.line, reading, reward=trial.reward)
        before = len(collected.episodes)
        _take(read, entry.where, collected)
        collected.episodes[before:] = [
            replace(
                made, id=trial.name, meta={**(made.meta or {}), "trial": trial.name}, file=str(trial.path)
            )
            for made in collected.episodes[before:]
        ]


def _take(read: Callable[[], Iterator[Episode]], where: str, collected: Collected) -> None:
    """Episodes of one record, all of them or none."""
    try:
        collected.episodes.extend(list(read()))
    except BadInput as error:
        collected.problems.append(Problem(where, str(error)))
    except (AttributeError, KeyError, TypeError, RecursionError) as error:
        # Formats nest deeply. Where one of another shape stands, this is said here, once for all readers.
        what = f"{type(error).__name__} {shorten(str(error))}"
        collected.problems.append(
            Problem(where, f"has not the shape of its format ({what}); see docs/formats.md")
        )


def _placed(episode: Episode, file: str) -> Episode:
    """An episode of one of several files; one that only a line numbers is called after its file too."""
    id = f"{Path(file).name.split('.')[0]}-{episode.id}" if episode.id == str(episode.line) else episode.id
    return replace(episode, id=id, file=file)


def _with_own_ids(episodes: Sequence[Episode]) -> list[Episode]:
    """Episodes with an id each: one that stood before gets a number."""
    taken = {episode.id for episode in episodes}
    seen: Counter[str] = Counter()
    made = []
    for episode in episodes:
        seen[episode.id] += 1
        id, n = episode.id, seen[episode.id]
        while n > 1 and id in taken:
            id, n = f"{episode.id}-{n}", n + 1
        taken.add(id)
        made.append(episode if id == episode.id else replace(episode, id=id))
    return made
