"""The verbs that keep a log whole and hand it on: verify, rebuild, export, import."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from cicjax.commands.agent.shown import OfHome, counted
from cicjax.errors import Corrupted

if TYPE_CHECKING:
    from cicjax.agent.store import Store


@dataclass(frozen=True, kw_only=True)
class Verify(OfHome):
    """Check that every byte is as it was written: the log's chain, what was said, states, settings.

    --json: one object of ok and findings, a list of lines.

    Example: cicjax agent verify runs/mine
    """

    def run(self) -> None:
        """Name the first byte that is not as it was written, or say that all are."""
        from cicjax.agent import whole
        from cicjax.agent.home import Home

        Home.read(self.home)
        findings = whole.verify(self.home)
        if self.json or not findings:
            facts = {"ok": not findings, "findings": findings}
            self.say(f"{self.home}: every byte is as it was written", facts)
        if findings:
            more = f"; and {len(findings) - 1} more (--json lists them)" if len(findings) > 1 else ""
            raise Corrupted(f"{findings[0]}{more}; restore it from a copy")


@dataclass(frozen=True, kw_only=True)
class Rebuild(OfHome):
    """Make every version again in another folder, from the log and version 0 alone, and compare.

    --json: one array of version, digest, rebuilt (null where what it learned was erased), same.

    Example: cicjax agent rebuild runs/mine --into runs/again
    """

    into: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """Folder of the new one, which is made."""
    model_name_or_path: Annotated[str | None, tyro.conf.arg(aliases=["--model"], metavar="DIR_OR_HUB_ID")] = (
        None
    )
    """Where the base is, if not where it was."""

    def run(self) -> None:
        """Make the versions again and say which came to the same digest."""
        from cicjax.agent import whole

        records = []
        for each in whole.rebuild(self.home, self.into, model=self.model_name_or_path):
            same = each.rebuilt == each.digest
            what = "erased" if each.rebuilt is None else "the same" if same else f"now {each.rebuilt[:12]}"
            records.append(
                {"version": each.version, "digest": each.digest, "rebuilt": each.rebuilt, "same": same}
            )
            if not self.json:
                print(f"version {each.version}: {each.digest[:12]}, {what}", flush=True)
        if self.json:
            self.say("", records)
        differing = [record["version"] for record in records if record["rebuilt"] and not record["same"]]
        if differing:
            raise Corrupted(
                f"{self.into}: version {differing[0]} came out otherwise; the same bits take the same "
                "libraries, kind of device and number of cores"
            )


@dataclass(frozen=True, kw_only=True)
class Export(OfHome):
    """Write what was taught as native transcripts, for `cicjax mask`, `train` and `agent import`.

    --json: one array in the place of lines; with --output one object of output and lines.

    Example: cicjax agent export runs/mine --output lessons.jsonl
    """

    output: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """File to write; without one, standard output."""
    events: bool = False
    """The whole log instead, an event a line with what it says."""

    def run(self) -> None:
        """Write the lessons, or the whole log."""
        from cicjax.agent.store import Store
        from cicjax.files.whole import write_lines

        with Store(self.home, read_only=True) as store:
            records = list((_events if self.events else _transcripts)(store))
        lines = [json.dumps(record) for record in records]
        if self.output is None:
            self.say("\n".join(lines), records)
        else:
            write_lines(self.output, lines)
            facts = {"output": str(self.output), "lines": len(lines)}
            self.say(f"{self.output}: {len(lines)} lines", facts)


@dataclass(frozen=True, kw_only=True)
class Import(OfHome):
    """Give transcripts as lessons, under a source that you name; `cicjax convert` makes them of other logs.

    Authors are those of the file: an agent's turn is context, a teacher's is learned.

    --json: one object of source, lessons (their numbers), none (how many were no lesson), reason.

    Example: cicjax agent import runs/mine lessons.jsonl --source alice
    """

    file: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FILE")]
    """Native transcripts."""
    source: str
    """Who answers for them."""

    def run(self) -> None:
        """Take the transcripts of a file as lessons."""
        from cicjax.logs import native

        episodes = native.read_native(self.file)
        with self.living() as agent:
            receipts = [agent.demonstrate(episode, source=self.source) for episode in episodes]
        lessons = [receipt.lesson for receipt in receipts if receipt.lesson is not None]
        none = len(receipts) - len(lessons)
        why = next((receipt.reason for receipt in receipts if receipt.lesson is None), "")
        text = f"{counted(len(lessons))} of {self.source}" + (f", {none} no lesson ({why})" if none else "")
        self.say(text, {"source": self.source, "lessons": lessons, "none": none, "reason": why})


def _events(store: "Store") -> Iterator[dict[str, Any]]:
    from dataclasses import asdict

    for event in store.events():
        yield asdict(event) | {"said": store.content(event)}


def _transcripts(store: "Store") -> Iterator[dict[str, Any]]:
    from cicjax.agent.turns import Erased, Turns
    from cicjax.logs import native

    turns = Turns(store)
    for event in store.events():
        if event.lesson is not None:
            try:
                yield native.record_of(turns.transcript(event))
            except Erased:
                continue
