"""`cicjax convert`: the transcripts of others as a native file, every turn with its author."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from cicjax.errors import BadInput, printable

if TYPE_CHECKING:
    from cicjax.provenance.transcript import Episode


@dataclass(frozen=True, kw_only=True)
class Convert:
    """Convert transcripts to the native format, which keeps who wrote each turn.

    agent = the model being trained; teacher = anyone else in the assistant's role. A log seldom says which of
    them wrote an assistant's turn, and then you do, with --assistant_author or --agent_models; nothing is
    guessed. A turn that the log marks as not to be trained on
    (weight 0, train false, a prompt, copied context) stays as context.

    Example: cicjax convert log.jsonl --from openai --assistant_author agent --corrections edited --output
    episodes.jsonl
    """

    file: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FILE")]
    """OpenAI messages, TRL, axolotl or ShareGPT as JSON Lines; an ATIF trajectory; or a native file."""
    output: Annotated[Path, tyro.conf.arg(metavar="OUT.jsonl")]
    """Native file to write: whole, or not at all."""
    format: Annotated[
        Literal["auto", "native", "openai", "trl", "axolotl", "atif"], tyro.conf.arg(name="from")
    ] = "auto"
    """Format of FILE; auto goes by the keys of its first object."""
    assistant_author: Literal["agent", "teacher"] | None = None
    """Who wrote the assistant's turns: all of them, or with --agent_models those whose model is not known."""
    agent_models: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...")] = ()
    """Models that are the agent: their turns are the agent's, those of any other model a teacher's."""
    corrections: Annotated[str | None, tyro.conf.arg(metavar="FIELD")] = None
    """Key that holds the edited text of an assistant's message: the turn stays, as the agent's, and the edit
    follows as a teacher's. What comes later in the log then stands after both, though it may answer one."""
    json: bool = False
    """The summary as one JSON object."""

    def run(self) -> None:
        from cicjax.files import whole
        from cicjax.logs import importers, native

        whole.refuse_same(self.file, self.output)
        if (
            self.corrections is not None
            and self.file.is_file()
            and not _mentions(self.file, self.corrections)
        ):
            raise BadInput(
                f"{self.file}: no message has the key {self.corrections!r} of --corrections; "
                "name the one with the edited texts"
            )
        name = importers.detect(self.file) if self.format == "auto" else self.format
        episodes = self._read(name)
        native.write_native(self.output, episodes)
        summary = {
            "file": str(self.file),
            "format": name,
            "output": str(self.output),
            **_counts(episodes, imported=name != "native"),
        }
        print(json.dumps(summary) if self.json else printable(_line(summary, self.agent_models)))

    def _read(self, name: str) -> "list[Episode]":
        from cicjax.logs import importers, native
        from cicjax.provenance.transcript import AUTHORS

        if name == "native":
            if self.assistant_author or self.agent_models:
                raise BadInput(
                    f"{self.file}: a native file says who wrote each turn; "
                    "leave out --assistant_author and --agent_models"
                )
            return native.read_native(self.file, corrections=self.corrections)
        attribution = importers.Attribution(
            AUTHORS[self.assistant_author] if self.assistant_author else None,
            frozenset(self.agent_models) or None,
        )
        read = {
            "openai": importers.read_openai,
            "trl": importers.read_trl,
            "axolotl": importers.read_axolotl,
            "atif": importers.read_atif,
        }[name]
        return read(self.file, attribution, corrections=self.corrections)


def _mentions(file: Path, key: str) -> bool:
    """Whether a file has the key somewhere, in UTF-8 or in the escapes that json.dumps writes."""
    content = file.read_bytes()
    return any(json.dumps(key, ensure_ascii=escaped).encode() in content for escaped in (True, False))


def _counts(episodes: "Sequence[Episode]", *, imported: bool) -> dict[str, Any]:
    from cicjax.provenance import Author

    messages = [message for episode in episodes for message in episode.messages]
    authors = Counter(message.author.label for message in messages)
    # The meta of a native file is anybody's; that of an imported one is ours.
    beside = [
        turn
        for episode in episodes
        if imported and episode.meta
        for turn in episode.meta.get("turns", {}).values()
    ]
    return {
        "episodes": len(episodes),
        "turns": len(messages),
        "authors": {author.label: authors[author.label] for author in Author},
        "context_only": sum(message.context_only for message in messages),
        "sampled": sum(message.tokens is not None for message in messages),
        "reasoning_set_aside": sum("reasoning" in turn for turn in beside),
    }


def _line(summary: dict[str, Any], agent_models: Sequence[str]) -> str:
    authors = ", ".join(
        f"{name} {count:,}"
        for name, count in summary["authors"].items()
        if count or name in ("agent", "teacher")
    )
    line = (
        f"{summary['output']}: {_counted(summary['episodes'], 'episode')} from {summary['format']}, "
        f"{_counted(summary['turns'], 'turn')} by {authors}; "
        f"{summary['context_only']:,} context only, {summary['sampled']:,} with sampled ids"
    )
    if summary["reasoning_set_aside"]:
        line += f"; the reasoning of {_counted(summary['reasoning_set_aside'], 'turn')} is in meta alone"
    if agent_models and not summary["authors"]["agent"]:
        line += "; no turn is by " + ", ".join(agent_models)
    return line


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
