"""`cicjax convert`: the transcripts of others as a native file, every turn with its author; and out again."""

import json
import re
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from cicjax.errors import BadInput, printable

if TYPE_CHECKING:
    from cicjax.logs.formats import Collected, Problem
    from cicjax.provenance.transcript import Episode

KINDS = 20  # of problems that are spelled out
# Keys under which people keep the text that somebody put in the assistant's place.
EDITS = re.compile(r"^message\..*(?:edit|correct|revis|rewrit|fixed)", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Convert:
    """Convert transcripts to the native format, which keeps who wrote each turn.

    agent = the model being trained; teacher = anyone else in the assistant's role. A log seldom says which of
    them wrote an assistant's turn, and then you do, with --assistant_author or --agent_models; nothing is
    guessed. A turn that the log marks as not to be trained on (weight 0, train false, a prompt, copied
    context) stays as context. Keys that a format does not know are kept in meta and named. docs/formats.md
    has a table of all formats.

    Example: cicjax convert logs/ --assistant_author agent --corrections edited --output episodes.jsonl
    """

    files: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="FILE ...")]
    """Files, folders with all below them, patterns, or - for standard input: JSON lines, a JSON array or one
    object, gzip too. A folder of Harbor's jobs is read trial by trial."""
    output: Annotated[str, tyro.conf.arg(metavar="OUT.jsonl")]
    """File to write, whole or not at all; - for standard output."""
    format: Annotated[
        Literal[
            "auto",
            "native",
            "atif",
            "inspect",
            "verifiers",
            "agents",
            "codex",
            "claude-code",
            "anthropic",
            "responses",
            "axolotl",
            "alpaca",
            "trl",
            "openai",
        ],
        tyro.conf.arg(name="from"),
    ] = "auto"
    """Format of the files; auto goes by the keys of each one's first object."""
    assistant_author: Literal["agent", "teacher"] | None = None
    """Who wrote the assistant's turns: all of them, or with --agent_models those whose model is not known."""
    agent_models: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...")] = ()
    """Models that are the agent: their turns are the agent's, those of any other model a teacher's."""
    corrections: Annotated[str | None, tyro.conf.arg(metavar="FIELD")] = None
    """Key that holds the edited text of an assistant's message: the turn stays, as the agent's, and the edit
    follows as a teacher's. What comes later in the log then stands after both, though it may answer one."""
    solved: Annotated[str | None, tyro.conf.arg(metavar="KEY")] = None
    """Key of a message or a record that holds a verdict or a reward, such as scores.match.value; by default
    what the format knows: a rollout's reward, the score of an Inspect sample, a Harbor trial's reward."""
    solved_at: Annotated[float, tyro.conf.arg(metavar="NUMBER")] = 1.0
    """The least reward that counts as solved."""
    on_error: Literal["stop", "skip"] = "stop"
    """What happens where records cannot be read: stop writes nothing, skip leaves them out. All of them are
    named."""
    to: Literal["native", "labels", "trl", "preference"] = "native"
    """What to write: native episodes; labels (input_ids, attention_mask, labels, as mask --labels); trl
    (prompt and completion, a row a teacher's turn); preference (an attempt as rejected, its correction as
    chosen)."""
    tokenizer: Annotated[str | None, tyro.conf.arg(metavar="DIR")] = None
    """With --to labels: folder with a tokenizer.json, or a hub id."""
    json: bool = False
    """The summary as one JSON object."""

    def run(self) -> None:
        from cicjax.files import sources, whole
        from cicjax.logs import formats

        if not self.files:
            raise BadInput("name what to convert: files, folders, patterns, or - for standard input")
        if (self.to == "labels") != (self.tokenizer is not None):
            raise BadInput("labels are a matter of tokens: --to labels and --tokenizer DIR belong together")
        names = [source.name for source in sources.expand(self.files)]
        for name in names:
            if self.output != sources.STDIN != name:
                whole.refuse_same(Path(name), Path(self.output))
        self._check_corrections(names)
        collected = formats.collect(self.files, self._reading(), format=self.format)
        self._complain(collected)
        self._check_verdicts(collected.episodes)
        rows = self._write(collected.episodes)
        summary = {
            "files": list(self.files),
            "formats": dict(collected.formats),
            "output": self.output,
            **_counts(collected.episodes),
            "rows": rows,
            "left_out": len(collected.problems),
            "passed_over": collected.passed_over,
        }
        text = json.dumps(summary) if self.json else printable(_line(summary, self))
        print(text, file=sys.stderr if self.output == sources.STDIN else sys.stdout)

    def _reading(self) -> Any:
        from cicjax.logs.attribution import Attribution, Reading
        from cicjax.provenance.transcript import AUTHORS

        return Reading(
            attribution=Attribution(
                AUTHORS[self.assistant_author] if self.assistant_author else None,
                frozenset(self.agent_models) or None,
            ),
            corrections=self.corrections,
            solved=self.solved,
            solved_at=self.solved_at,
        )

    def _check_corrections(self, names: Sequence[str]) -> None:
        from cicjax.files import sources
        from cicjax.logs import chats, native

        native.check_field(self.corrections, (*chats.MESSAGE_KEYS, *chats.ALIASES, "author"))
        if self.corrections is None or not all(Path(name).is_file() for name in names):
            return  # a pipe can be read once
        if not any(sources.mentions(name, self.corrections) for name in names):
            raise BadInput(
                f"{', '.join(self.files)}: no message has the key {self.corrections!r} of --corrections; "
                "name the one with the edited texts; without it, convert names the keys it left unread"
            )

    def _complain(self, collected: "Collected") -> None:
        """Say what could not be read. Raises BadInput where that ends the command."""
        problems = collected.problems
        if not problems:
            return
        lines = _rolled(problems)
        if self.on_error == "stop" or not collected.episodes:
            if len(lines) == 1:
                raise BadInput(lines[0])
            print(*map(printable, lines), sep="\n", file=sys.stderr)
            raise BadInput(
                f"{len(problems):,} records cannot be read and nothing was written"
                + ("; --on_error skip leaves them out" if collected.episodes else "")
            )
        print(*(printable(f"left out: {line}") for line in lines), sep="\n", file=sys.stderr)

    def _check_verdicts(self, episodes: "Sequence[Episode]") -> None:
        from cicjax.provenance import Author

        turns = [
            message for episode in episodes for message in episode.messages if message.author is Author.AGENT
        ]
        if self.solved is not None and turns and all(message.solved == -1 for message in turns):
            raise BadInput(
                f"{', '.join(self.files)}: no record and no message has a verdict at --solved {self.solved}; "
                "name its key, or those on the way to it with dots between"
            )

    def _write(self, episodes: "Sequence[Episode]") -> int:
        """Write the output. Returns how many rows it has; raises BadInput where it would have none."""
        from cicjax.files import whole
        from cicjax.logs import handover, native

        if self.to == "native":
            native.write_native(self.output, episodes)
            return len(episodes)
        rows: list[dict[str, Any]]
        if self.to == "labels":
            rows = list(self._labels(episodes))
        else:
            make = handover.trl if self.to == "trl" else handover.preference
            rows = [row for episode in episodes for row in make(episode)]
        if not rows:
            wanted = "a teacher's turn" if self.to == "trl" else "an attempt of the agent's with a correction"
            raise BadInput(f"{', '.join(self.files)}: no transcript has {wanted}; see --corrections FIELD")
        whole.write_lines(self.output, (json.dumps(row, ensure_ascii=False) for row in rows))
        return len(rows)

    def _labels(self, episodes: "Sequence[Episode]") -> Iterable[dict[str, Any]]:
        from cicjax.provenance import protocol, tokenizer
        from cicjax.views import boxes

        assert self.tokenizer is not None
        loaded = tokenizer.load(self.tokenizer)
        render = protocol.renderer("auto", ("teacher",), episodes, loaded)
        weigh = protocol.weighting("interventional")
        for _, encoded in protocol.encode_all(episodes, loaded, render=render, path=", ".join(self.files)):
            yield boxes.labels(encoded, weigh(encoded))


def _rolled(problems: "Sequence[Problem]") -> list[str]:
    """A line a kind of problem: the first of it, and how many more there are."""
    kinds: dict[str, list[Problem]] = {}
    for problem in problems:
        kinds.setdefault(re.sub(r"\d+", "#", problem.message), []).append(problem)
    lines = [
        " ".join(str(alike[0]).split()) + (f" (and {len(alike) - 1:,} more like it)" if alike[1:] else "")
        for alike in kinds.values()
    ]
    return lines if len(lines) <= KINDS else [*lines[:KINDS], f"and {len(lines) - KINDS:,} other kinds"]


def _counts(episodes: "Sequence[Episode]") -> dict[str, Any]:
    from cicjax.provenance import Author

    messages = [message for episode in episodes for message in episode.messages]
    authors = Counter(message.author.label for message in messages)
    verdicts = Counter(message.solved for message in messages if message.author is Author.AGENT)
    turns = [turn for episode in episodes for turn in _beside(episode)]
    foreign = Counter(key for episode in episodes for key in _listed(episode.meta, "foreign"))
    foreign.update(f"message.{key}" for turn in turns for key in _listed(turn, "foreign"))
    return {
        "episodes": len(episodes),
        "turns": len(messages),
        "authors": {author.label: authors[author.label] for author in Author},
        "context_only": sum(message.context_only for message in messages),
        "sampled": sum(message.tokens is not None for message in messages),
        "solved": verdicts[1],
        "unsolved": verdicts[0],
        "reasoning_set_aside": sum("reasoning" in turn for turn in turns),
        "kept_in_meta": dict(foreign.most_common()),
    }


def _beside(episode: "Episode") -> list[dict[str, Any]]:
    """What stood beside the turns, of an imported episode; the meta of a native one is anybody's."""
    turns = (episode.meta or {}).get("turns")
    return [turn for turn in turns.values() if isinstance(turn, dict)] if isinstance(turns, dict) else []


def _listed(notes: dict[str, Any] | None, key: str) -> Iterable[str]:
    found = (notes or {}).get(key)
    return found if isinstance(found, dict) else ()


def _line(summary: dict[str, Any], asked: Convert) -> str:
    authors = ", ".join(
        f"{name} {count:,}"
        for name, count in summary["authors"].items()
        if count or name in ("agent", "teacher")
    )
    parts = [
        f"{summary['output']}: {_counted(summary['episodes'], 'episode')} from "
        f"{', '.join(summary['formats'])}, {_counted(summary['turns'], 'turn')} by {authors}",
        f"{summary['context_only']:,} context only, {summary['sampled']:,} with sampled ids",
    ]
    if asked.to != "native":
        parts.append(f"written as {_counted(summary['rows'], 'row')} of {asked.to}")
    if summary["solved"] or summary["unsolved"]:
        parts.append(f"of the agent's, {summary['solved']:,} solved and {summary['unsolved']:,} not")
    if summary["reasoning_set_aside"]:
        parts.append(f"the reasoning of {_counted(summary['reasoning_set_aside'], 'turn')} is in meta alone")
    if summary["kept_in_meta"]:
        keys = ", ".join(f"{key} ({count:,})" for key, count in list(summary["kept_in_meta"].items())[:8])
        parts.append(f"kept in meta, unread: {keys}" + (", ..." if len(summary["kept_in_meta"]) > 8 else ""))
        if edits := [key for key in summary["kept_in_meta"] if EDITS.search(key)]:
            name = edits[0].removeprefix("message.")
            parts.append(f"if {name} is an edited text, --corrections {name} makes a teacher's turn of it")
    if summary["left_out"]:
        parts.append(f"{_counted(summary['left_out'], 'record')} left out")
    if summary["passed_over"]:
        parts.append(
            f"passed over: {', '.join(summary['passed_over'][:3])}"
            + ", ..." * bool(summary["passed_over"][3:])
        )
    if asked.agent_models and not summary["authors"]["agent"]:
        parts.append("no turn is by " + ", ".join(asked.agent_models))
    return "; ".join(parts)


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
