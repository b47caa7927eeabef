"""The verbs of whoever tends an agent: status, versions, serve, rollback, admit, source, forget."""

import json
from dataclasses import dataclass
from typing import Annotated

import tyro

from cicjax.commands.agent import shown
from cicjax.commands.agent.shown import Home


@dataclass(frozen=True, kw_only=True)
class Status:
    """What serves, what waits, who may what.

    Example: cicjax agent status runs/mine
    """

    home: Home
    """Folder of the agent."""
    json: bool = False
    """One object."""

    def run(self) -> None:
        with shown.reading(self.home) as history:
            facts = history.status()
        shown.say("\n".join(f"{name:10} {value}" for name, value in facts.items()), facts, self.json)


@dataclass(frozen=True, kw_only=True)
class Versions:
    """All versions: which one serves, what each has learned, from whom, and what the gate said.

    Example: cicjax agent versions runs/mine
    """

    home: Home
    """Folder of the agent."""
    json: bool = False
    """One array."""

    def run(self) -> None:
        with shown.reading(self.home) as history:
            versions = [history.versions[number] for number in sorted(history.versions)]
            records = [shown.record(version, history) for version in versions]
            lines = [shown.line(version, history) for version in versions]
        print(json.dumps(records) if self.json else "\n".join(lines))


@dataclass(frozen=True, kw_only=True)
class Serve:
    """Let a version serve, and learn on from it; lessons that it has not learned are set aside.

    Example: cicjax agent serve runs/mine 3
    """

    home: Home
    """Folder of the agent."""
    version: Annotated[tyro.conf.Positional[int], tyro.conf.arg(metavar="N")]
    """The version."""
    reason: str = ""
    """For the log."""
    confirm: bool = False
    """Make it the anchor that the gate compares with."""
    json: bool = False
    """One object."""

    def run(self) -> None:
        with shown.living(self.home) as agent:
            version = agent.serve(self.version, reason=self.reason, confirm=self.confirm)
            shown.say(shown.line(version, agent.history), shown.record(version, agent.history), self.json)


@dataclass(frozen=True, kw_only=True)
class Rollback:
    """Let the version before the serving one serve.

    Example: cicjax agent rollback runs/mine
    """

    home: Home
    """Folder of the agent."""
    json: bool = False
    """One object."""

    def run(self) -> None:
        with shown.living(self.home) as agent:
            version = agent.rollback()
            shown.say(shown.line(version, agent.history), shown.record(version, agent.history), self.json)


@dataclass(frozen=True, kw_only=True)
class Admit:
    """Let lessons that were set aside wait again.

    Example: cicjax agent admit runs/mine 3 4
    """

    home: Home
    """Folder of the agent."""
    lessons: Annotated[tyro.conf.Positional[tuple[int, ...]], tyro.conf.arg(metavar="LESSON ...")]
    """Their numbers."""

    def run(self) -> None:
        with shown.living(self.home) as agent:
            agent.admit(self.lessons)
        print(f"{len(self.lessons)} lessons wait again")


@dataclass(frozen=True, kw_only=True)
class Source:
    """Say what a source may: chat, judge, teach, admin.

    Example: cicjax agent source runs/mine alice --rights chat judge
    """

    home: Home
    """Folder of the agent."""
    name: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="NAME")]
    """The source."""
    rights: Annotated[tuple[str, ...], tyro.conf.arg(metavar="RIGHT ...")]
    """chat asks, judge gives verdicts, teach gives lessons."""
    vouches: bool = False
    """What it repeats of the agent's words is learned too."""

    def run(self) -> None:
        with shown.living(self.home) as agent:
            source = agent.declare(self.name, self.rights, vouches=self.vouches)
        print(f"{source.name} may {', '.join(sorted(source.rights)) or 'nothing'}")


@dataclass(frozen=True, kw_only=True)
class Key:
    """Make a key for `cicjax serve`, and say what its source may. It is printed once, and kept as a digest.

    Example: cicjax agent key runs/mine alice --rights chat judge
    """

    home: Home
    """Folder of the agent."""
    name: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="NAME")]
    """The source that the key speaks for."""
    rights: Annotated[tuple[str, ...], tyro.conf.arg(metavar="RIGHT ...")]
    """chat asks, judge gives verdicts, teach gives lessons, admin rolls back and forgets."""
    vouches: bool = False
    """What it repeats of the agent's words is learned too."""

    def run(self) -> None:
        from cicjax.agent.keys import make_key

        with shown.living(self.home) as agent:
            source = agent.declare(self.name, self.rights, vouches=self.vouches)
            key = make_key(self.home, source.name)
        print(key)


@dataclass(frozen=True, kw_only=True)
class Forget:
    """Forget a source: back to before its first lesson, and the others' lessons since again, bit for bit as
    without it.

    Example: cicjax agent forget runs/mine mallory
    """

    home: Home
    """Folder of the agent."""
    source: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="SOURCE")]
    """The source."""
    erase: bool = False
    """Erase what it said, too; what it taught cannot be rebuilt from then on."""
    json: bool = False
    """One object: serving, and the versions that were made."""

    def run(self) -> None:
        with shown.living(self.home) as agent:
            made = agent.forget(self.source, erase=self.erase)
            serving = agent.history.serving
        facts = {"source": self.source, "serving": serving, "made": [version.number for version in made]}
        shown.say(f"{self.source} is forgotten; version {serving} serves", facts, self.json)
