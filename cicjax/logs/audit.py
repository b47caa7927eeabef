"""What in a transcript file ruins a run: the findings of `cicjax mask --audit`, a line a code.

Codes are stable:

    unreadable          a line that is no episode of the format
    unknown-author      an assistant's turn of which the file does not say who wrote it
    unrenderable        an episode that the protocol cannot hold
    nothing-supervised  no token of the file is trained on
    all-supervised      every token is
    too-long            a row longer than --max_length
    truncated-target    a trained turn that was cut: its end was never written
    no-end              a trained turn whose end-of-text is not trained, so that nobody learns to stop
    empty-turn          a turn in which nothing is said
    duplicate           a question, or a whole row, that the test file has too
    duplicate-row       a row that stands in the file before: it is learned twice
    duplicate-id        an id that another transcript of the file has
    other-ids           sampled ids that say something else than the text beside them
    bad-arguments       a call whose arguments are no JSON object, kept as the text that was written
    echo                trained text of the world's that repeats what the agent wrote
    no-input            an agent's turn before anybody said anything
    gap                 an agent's turn right after another
    missing-result      a tool call whose result is not there though the agent went on
    orphan-result       a tool's result that nobody called for
    hidden-tools        tools called of which the episode does not tell
    elided              text that was cut out of what the agent saw
    image               something other than text that the agent saw
    reasoning-left-out  thoughts of the agent's that stand in meta alone, though its words followed from them

The last eight are signs of confounded actions, see `confounding`. Warnings may be harmless, errors are not;
both are findings.
"""

import itertools
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from cicjax.errors import BadInput, CicjaxError, shorten
from cicjax.files import sources
from cicjax.logs import confounding, native, sampled
from cicjax.logs.confounding import Signs
from cicjax.provenance.echo import echo_spans
from cicjax.provenance.encode import Encoded
from cicjax.provenance.protocol import Weighting
from cicjax.provenance.tokenizer import Tokenizer
from cicjax.provenance.transcript import AUTHORS, Author, Episode

WARNINGS = frozenset(
    "echo duplicate-row duplicate-id bad-arguments no-input gap missing-result hidden-tools elided image "
    "reasoning-left-out".split()
)
FIRST = 3  # places that a roll-up names


class Findings(CicjaxError):
    """The file was audited and something was found."""

    exit_code = 1


class Finding(NamedTuple):
    """One thing found: where, how bad, its code, and in words what it is and what to do. Line 0 is the file
    as a whole."""

    file: str
    line: int
    code: str
    message: str

    @property
    def severity(self) -> str:
        """`error` for what spoils what is learned, `warning` for what a person should look at."""
        return "warning" if self.code in WARNINGS else "error"

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.line else self.file
        return f"{where}: {self.severity}: {self.code}: {self.message}"

    def record(self) -> dict[str, Any]:
        """The finding for `--json`."""
        return {
            "file": self.file,
            "line": self.line,
            "severity": self.severity,
            "code": self.code,
            "message": self.message,
        }


def read(*paths: str | Path) -> tuple[list[Episode], list[Finding]]:
    """The episodes of native files that can be read, and a finding for every line that cannot; also of
    folders and of whatever else `sources.expand` takes. Raises BadInput for no file."""
    found = sources.expand(paths)
    episodes: list[Episode] = []
    findings: list[Finding] = []
    for source in found:
        for entry in sources.entries(source.name):
            try:
                if entry.problem:
                    raise BadInput(entry.problem)
                episode = native.episode_of_record(entry.value, entry.line)
            except BadInput as error:
                findings.append(Finding(source.name, entry.line, _unreadable(entry.value), str(error)))
            else:
                episodes.append(episode if len(found) == 1 else replace(episode, file=source.name))
    return episodes, findings


def encode_or_find(
    episodes: Iterable[Episode], path: str | Path, encode: Callable[[Episode], Encoded]
) -> tuple[list[tuple[Episode, Encoded]], list[Finding]]:
    """Each episode with its arrays, and a finding for every one that `encode` refuses with BadInput."""
    rows, findings = [], []
    for episode in episodes:
        try:
            rows.append((episode, encode(episode)))
        except BadInput as error:
            findings.append(Finding(episode.file or str(path), episode.line, "unrenderable", str(error)))
    return rows, findings


def audit(
    rows: Sequence[tuple[Episode, Encoded]],
    tokenizer: Tokenizer,
    *,
    path: str | Path,
    weigh: Weighting,
    max_length: int | None = None,
) -> list[Finding]:
    """Everything found in rows that are trained on with the weights of `weigh`, by line.

    `weigh` weighs echoes as it weighs everything else, since they are what is looked for.
    """
    of_the_file = list(_whole([encoded for _, encoded in rows], weigh))
    findings = [Finding(str(path), 0, code, message) for code, message in of_the_file]
    for episode, encoded in rows:
        weights = weigh(encoded)
        checks = (
            _length(encoded, max_length),
            _ends(episode, encoded, weights, tokenizer),
            _empty(episode),
            _arguments(episode),
            sampled.signs(episode, tokenizer),
            _echo(encoded, weights, tokenizer),
            confounding.signs(episode),
        )
        findings += [
            Finding(episode.file or str(path), episode.line, code, message)
            for code, message in itertools.chain(*checks)
        ]
    return [*findings, *_repeats(rows, path)]


def duplicates(
    rows: Sequence[tuple[Episode, Encoded]],
    test_rows: Sequence[tuple[Episode, Encoded]],
    *,
    path: str | Path,
    test_path: str | Path,
) -> list[Finding]:
    """Rows of training whose question, or whose tokens, stand in the test file too."""
    questions: dict[str, int] = {}
    tokens: dict[bytes, int] = {}
    for episode, encoded in test_rows:
        questions.setdefault(question(episode), episode.line)
        tokens.setdefault(encoded.tokens.tobytes(), episode.line)
    findings = []
    for episode, encoded in rows:
        asked = questions.get(question(episode)) if question(episode) else None
        line = tokens.get(encoded.tokens.tobytes()) if asked is None else asked
        if line is not None:
            what = "the same tokens stand" if asked is None else "the question is asked"
            message = f"{what} in {test_path}:{line} too; take it out of one of them"
            findings.append(Finding(str(path), episode.line, "duplicate", message))
    return findings


def question(episode: Episode) -> str:
    """What was asked before anybody answered, without regard to case, width and white space; empty where
    nothing was."""
    asked = itertools.takewhile(lambda message: message.role != "assistant", episode.messages)
    text = " ".join(message.content for message in asked if message.role == "user")
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def nothing_to_learn(rows: Iterable[Encoded]) -> str:
    """One line for rows in which no token is trained on: what they hold, and the three ways on."""
    held: Counter[Author] = Counter()
    for encoded in rows:
        held.update({Author(code): int(n) for code, n in enumerate(np.bincount(encoded.author)) if n})
    words = ", ".join(f"{held[author]:,} of {author.label}" for author in Author if held[author])
    return (
        f"nothing is trained on: the tokens are {words or 'none'}, "
        "and what the agent wrote is an action, not evidence. Three ways on: "
        "corrections (turns edited, accepted or demonstrated, with author teacher; "
        "`cicjax convert --corrections FIELD` makes them), "
        "replies that state the truth (--targets user), verdicts (passing samples of the model's own, "
        "as repair rows after a failure)"
    )


def roll_up(findings: Sequence[Finding]) -> list[str]:
    """A line a code and file: the finding itself where it is the only one, else how many there are, where the
    first of them stand and what the first one says."""
    groups: dict[tuple[str, str], list[Finding]] = {}
    for finding in findings:
        groups.setdefault((finding.file, finding.code), []).append(finding)
    return [_rolled(group) for group in groups.values()]


def _rolled(group: Sequence[Finding]) -> str:
    if len(group) == 1:
        return str(group[0])
    first, lines = group[0], list(dict.fromkeys(finding.line for finding in group))
    places = ", ".join(map(str, lines[:FIRST])) + (", ..." if len(lines) > FIRST else "")
    noun = f"{len(lines):,} transcripts, lines" if len(lines) > 1 else "one transcript, line"
    return (
        f"{first.file}: {first.severity}: {first.code}: {len(group):,} times in {noun} {places}; "
        f"the first: {first.message}"
    )


def summary(findings: Sequence[Finding], path: object) -> str:
    """How many findings there are, by code."""
    numbers = Counter(finding.code for finding in findings)
    noun = "finding" if len(findings) == 1 else "findings"
    return (
        f"{path}: {len(findings)} {noun} ("
        + ", ".join(f"{n} {code}" for code, n in numbers.most_common())
        + ")"
    )


def _whole(rows: Sequence[Encoded], weigh: Weighting) -> Signs:
    supervised = sum(int((weigh(encoded) > 0).sum()) for encoded in rows)
    if not supervised:
        yield "nothing-supervised", nothing_to_learn(rows)
    elif supervised >= sum(max(len(encoded.tokens) - 1, 0) for encoded in rows):
        yield (
            "all-supervised",
            "every token is trained on, questions and headers too; check roles, authors and --targets",
        )


def _length(encoded: Encoded, max_length: int | None) -> Signs:
    if max_length is not None and len(encoded.tokens) > max_length:
        yield (
            "too-long",
            f"{len(encoded.tokens):,} tokens are more than --max_length {max_length:,}: "
            "cut off, its last turn would lose its end; "
            "raise it, or choose --overflow drop or split in training",
        )


def _ends(
    episode: Episode, encoded: Encoded, weights: Float[np.ndarray, " T"], tokenizer: Tokenizer
) -> Signs:
    """Turns of the assistant's that are trained on and whose end, the first stop token from there on, is not
    their author's to learn."""
    (stops,) = np.nonzero(np.isin(encoded.tokens, sorted(tokenizer.stop_ids)))
    for author in (Author.AGENT, Author.TEACHER):
        (trained,) = np.nonzero((weights > 0) & (encoded.author == author))
        ends = np.append(stops, -1)[np.searchsorted(stops, trained)]
        if (ends < 0).any() or (encoded.author[ends] != author).any() or not weights[ends].all():
            yield from _endless(episode, author, tokenizer)


def _endless(episode: Episode, author: Author, tokenizer: Tokenizer) -> Signs:
    named = False
    for n, message in enumerate(episode.messages, start=1):
        if message.author != author or message.context_only:
            continue
        if message.truncated:
            named = True
            yield (
                "truncated-target",
                f"message {n} was cut, and is trained on by {author.label}; leave it out, or give all of it",
            )
        elif message.tokens is not None and not (message.tokens and message.tokens[-1] in tokenizer.stop_ids):
            named = True
            yield (
                "no-end",
                f"the sampled ids of message {n} do not end in a stop token; "
                "add the one sampled, or say that it is truncated",
            )
    if not named:
        yield (
            "no-end",
            f"a turn of {author.label} is trained on without its end; "
            "check that end-of-turn tokens are whole",
        )


def _empty(episode: Episode) -> Signs:
    for n, message in enumerate(episode.messages, start=1):
        # A tool that prints nothing is no rarity.
        if (
            message.role != "tool"
            and not message.tool_calls
            and not message.content.strip()
            and len(message.tokens or ()) < 2
        ):
            yield (
                "empty-turn",
                f"message {n}, of role {message.role}, says nothing; "
                "leave it out, or look where its text went",
            )


def _arguments(episode: Episode) -> Signs:
    for n, message in enumerate(episode.messages, start=1):
        for call in message.tool_calls:
            if not native.is_object(call.arguments):
                yield (
                    "bad-arguments",
                    f"the call of {shorten(call.name)} in message {n} has arguments that are no JSON object "
                    f"({shorten(call.arguments)}); kept as text, as a mistake of the agent's it may stay",
                )


def _repeats(rows: Sequence[tuple[Episode, Encoded]], path: str | Path) -> Iterator[Finding]:
    """Ids and rows that stood before, in this file or in another."""
    ids: dict[str, Episode] = {}
    seen: dict[bytes, Episode] = {}
    for episode, encoded in rows:
        file = episode.file or str(path)
        content = encoded.tokens.tobytes() + encoded.gamma.tobytes() + encoded.is_target.tobytes()
        if (first := ids.setdefault(episode.id, episode)) is not episode:
            message = f"the id {shorten(episode.id)} is that of {_place(first)} too; give each its own"
            yield Finding(file, episode.line, "duplicate-id", message)
        if (first := seen.setdefault(content, episode)) is not episode:
            message = f"the same row as {_place(first)}, so that it is learned twice; leave one of them out"
            yield Finding(file, episode.line, "duplicate-row", message)


def _place(episode: Episode) -> str:
    return f"{episode.file}:{episode.line}" if episode.file else f"line {episode.line}"


def _echo(encoded: Encoded, weights: Float[np.ndarray, " T"], tokenizer: Tokenizer) -> Signs:
    echoes = echo_spans(encoded, tokenizer) & (weights > 0)
    if not echoes.any():
        return
    start = int(np.argmax(echoes))
    authors = " and ".join(Author(code).label for code in np.unique(encoded.author[echoes]).tolist())
    text = shorten(tokenizer.decode(encoded.tokens[start : start + 30]))
    yield (
        "echo",
        f"{int(echoes.sum()):,} trained tokens by {authors} repeat the agent's words ({text} ...): "
        "world by role, action by wording; "
        "training leaves out repeats of 20 tokens and more unless --keep_echoes, shorten the others",
    )


def _unreadable(record: dict[str, Any]) -> str:
    """The code for a line that is no episode: what is wrong with it, where that is a thing with a code of its
    own."""
    try:
        messages = record["messages"]
        if any(m.get("role") == "assistant" and m.get("author") not in AUTHORS for m in messages):
            return "unknown-author"
        calls = {call.get("id") for m in messages for call in m.get("tool_calls") or []}
        if any(m.get("tool_call_id") not in calls | {None} for m in messages):
            return "orphan-result"
    except (TypeError, KeyError, AttributeError):
        pass
    return "unreadable"
