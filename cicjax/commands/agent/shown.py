"""How the verbs of `cicjax agent` open a home, and what they print. What only reads takes no lock and needs
no model."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from cicjax.errors import BadInput

if TYPE_CHECKING:
    from cicjax.agent.continual import Agent
    from cicjax.agent.events import Receipt
    from cicjax.agent.versions import History, Version

Home = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="HOME")]


def say(text: str, facts: Mapping[str, Any], as_json: bool) -> None:
    print(json.dumps(facts) if as_json else text, flush=True)


def tell(receipt: "Receipt", as_json: bool) -> None:
    facts = {"id": receipt.id, "lesson": receipt.lesson, "reason": receipt.reason}
    said = f"lesson {receipt.lesson}" if receipt.lesson is not None else "no lesson"
    say(said + (f": {receipt.reason}" if receipt.reason else ""), facts, as_json)


@contextmanager
def living(home: Path) -> "Iterator[Agent]":
    from cicjax.agent.continual import Agent
    from cicjax.agent.home import Home

    Home.read(home)
    with Agent.open(home) as agent:
        yield agent


@contextmanager
def reading(home: Path) -> "Iterator[History]":
    from cicjax.agent.store import Store
    from cicjax.agent.versions import History

    history = History()
    with Store(home, read_only=True, follow=history.apply):
        if not history.versions:
            raise BadInput(f"{home}: the agent was not made whole; repeat `cicjax agent new {home}`")
        yield history


def record(version: "Version", history: "History") -> dict[str, Any]:
    return history.record(version.number)


def line(version: "Version", history: "History") -> str:
    count = len(version.lessons)
    by = sorted({history.lessons[number].source for number in version.lessons})
    what = "as it was made" if version.parent is None else f"{count} lessons of {', '.join(by) or 'nobody'}"
    gate = version.numbers
    said = f", right {gate['right']} of {gate['problems']} ({gate['right_anchor']} before)" if gate else ""
    why = f": {gate['reason']}" if gate and gate["reason"] else ""
    mark = "*" if version.number == history.serving else " "
    return f"{mark} {version.number:3}  {version.digest[:12]}  {version.state:9} {what}{said}{why}"
