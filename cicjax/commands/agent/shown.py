"""How the verbs of `cicjax agent` open a home, and what they print. What only reads takes no lock and needs
no model."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from cicjax.errors import BadInput, printable

if TYPE_CHECKING:
    from cicjax.agent.continual import Agent
    from cicjax.agent.events import Receipt
    from cicjax.agent.versions import History, Version


@dataclass(frozen=True, kw_only=True)
class OfHome:
    """What every verb of `cicjax agent` is told."""

    home: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="HOME")]
    """Folder of the agent."""
    json: bool = False
    """JSON for a program, in the place of text."""

    def say(self, text: str, facts: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> None:
        """Print the text, or the facts as JSON."""
        print(json.dumps(facts) if self.json else printable(text), flush=True)

    def tell(self, receipt: "Receipt") -> None:
        """Print what became of an observation."""
        facts = {"id": receipt.id, "lesson": receipt.lesson, "reason": receipt.reason}
        said = f"lesson {receipt.lesson}" if receipt.lesson is not None else "no lesson"
        self.say(said + (f": {receipt.reason}" if receipt.reason else ""), facts)

    @contextmanager
    def living(self) -> "Iterator[Agent]":
        """The agent, alone in its home."""
        from cicjax.agent.continual import Agent
        from cicjax.agent.home import Home

        Home.read(self.home)
        with Agent.open(self.home) as agent:
            yield agent

    @contextmanager
    def reading(self) -> "Iterator[History]":
        """What its log amounts to, beside whoever is at work there."""
        from cicjax.agent.store import Store
        from cicjax.agent.versions import History

        history = History()
        with Store(self.home, read_only=True, follow=history.apply):
            if not history.versions:
                raise BadInput(
                    f"{self.home}: the agent was not made whole; repeat `cicjax agent new {self.home}`"
                )
            yield history


def counted(lessons: int) -> str:
    """So many lessons, in words."""
    return "1 lesson" if lessons == 1 else f"{lessons} lessons"


def line(version: "Version", history: "History") -> str:
    """A version as `versions` prints it."""
    by = sorted({history.lessons[number].source for number in version.lessons})
    lessons = counted(len(version.lessons))
    what = "as it was made" if version.parent is None else f"{lessons} of {', '.join(by) or 'nobody'}"
    gate = version.numbers
    said = f", right {gate['right']} of {gate['problems']} ({gate['right_anchor']} before)" if gate else ""
    why = f": {version.reason}" if version.reason else ""
    mark = "*" if version.number == history.serving else " "
    return f"{mark} {version.number:3}  {version.digest[:12]}  {version.state:9} {what}{said}{why}"
