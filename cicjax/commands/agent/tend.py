"""The verbs of whoever tends an agent: status, versions, serve, rollback, admit, source, forget."""

from dataclasses import dataclass
from typing import Annotated

import tyro

from cicjax.commands.agent import shown
from cicjax.commands.agent.shown import OfHome


@dataclass(frozen=True, kw_only=True)
class Status(OfHome):
    """What serves, what waits, who may what.

    --json: one object.

    Example: cicjax agent status runs/mine
    """

    def run(self) -> None:
        with self.reading() as history:
            facts = history.status()
        self.say("\n".join(f"{name:10} {value}" for name, value in facts.items()), facts)


@dataclass(frozen=True, kw_only=True)
class Versions(OfHome):
    """All versions: which one serves, what each has learned, from whom, and what the gate said.

    --json: one array of version, digest, serving, state, parent, lessons, gate.

    Example: cicjax agent versions runs/mine
    """

    def run(self) -> None:
        with self.reading() as history:
            versions = [history.versions[number] for number in sorted(history.versions)]
            records = [history.record(version.number) for version in versions]
            lines = [shown.line(version, history) for version in versions]
        self.say("\n".join(lines), records)


@dataclass(frozen=True, kw_only=True)
class Serve(OfHome):
    """Let a version serve, and learn on from it; lessons that it has not learned are set aside.

    --json: one object, as `versions` has them; `rollback` too.

    Example: cicjax agent serve runs/mine 3
    """

    version: Annotated[tyro.conf.Positional[int], tyro.conf.arg(metavar="N")]
    """The version."""
    reason: str = ""
    """For the log."""
    confirm: bool = False
    """Make it the anchor that the gate compares with."""

    def run(self) -> None:
        with self.living() as agent:
            version = agent.serve(self.version, reason=self.reason, confirm=self.confirm)
            self.say(shown.line(version, agent.history), agent.history.record(version.number))


@dataclass(frozen=True, kw_only=True)
class Rollback(OfHome):
    """Let the version before the serving one serve.

    Example: cicjax agent rollback runs/mine
    """

    def run(self) -> None:
        with self.living() as agent:
            version = agent.rollback()
            self.say(shown.line(version, agent.history), agent.history.record(version.number))


@dataclass(frozen=True, kw_only=True)
class Admit(OfHome):
    """Let lessons that were set aside wait again.

    --json: one object of waiting_again, their numbers.

    Example: cicjax agent admit runs/mine 3 4
    """

    lessons: Annotated[tyro.conf.Positional[tuple[int, ...]], tyro.conf.arg(metavar="LESSON ...")]
    """Their numbers."""

    def run(self) -> None:
        with self.living() as agent:
            agent.admit(self.lessons)
        self.say(f"{len(self.lessons)} lessons wait again", {"waiting_again": list(self.lessons)})


@dataclass(frozen=True, kw_only=True)
class Source(OfHome):
    """Say what a source may: chat, judge, teach, admin.

    --json: one object of source, rights, vouches.

    Example: cicjax agent source runs/mine alice --rights chat judge
    """

    name: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="NAME")]
    """The source."""
    rights: Annotated[tuple[str, ...], tyro.conf.arg(metavar="RIGHT ...")]
    """chat asks, judge gives verdicts, teach gives lessons."""
    vouches: bool = False
    """What it repeats of the agent's words is learned too."""

    def run(self) -> None:
        with self.living() as agent:
            source = agent.declare(self.name, self.rights, vouches=self.vouches)
        rights = sorted(source.rights)
        facts = {"source": source.name, "rights": rights, "vouches": source.vouches}
        self.say(f"{source.name} may {', '.join(rights) or 'nothing'}", facts)


@dataclass(frozen=True, kw_only=True)
class Key(OfHome):
    """Make a key for `cicjax serve`, and say what its source may. It is printed once, and kept as a digest.

    --json: one object of source, rights, key.

    Example: cicjax agent key runs/mine alice --rights chat judge
    """

    name: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="NAME")]
    """The source that the key speaks for."""
    rights: Annotated[tuple[str, ...], tyro.conf.arg(metavar="RIGHT ...")]
    """chat asks, judge gives verdicts, teach gives lessons, admin rolls back and forgets."""
    vouches: bool = False
    """What it repeats of the agent's words is learned too."""

    def run(self) -> None:
        from cicjax.agent.keys import make_key

        with self.living() as agent:
            source = agent.declare(self.name, self.rights, vouches=self.vouches)
            key = make_key(self.home, source.name)
        self.say(key, {"source": source.name, "rights": sorted(source.rights), "key": key})


@dataclass(frozen=True, kw_only=True)
class Forget(OfHome):
    """Forget a source: back to before its first lesson, and the others' lessons since again, bit for bit as
    without it.

    --json: one object of source, serving, made (the versions that were made).

    Example: cicjax agent forget runs/mine mallory
    """

    source: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="SOURCE")]
    """The source."""
    erase: bool = False
    """Erase what it said, too; what it taught cannot be rebuilt from then on."""

    def run(self) -> None:
        with self.living() as agent:
            made = agent.forget(self.source, erase=self.erase)
            serving = agent.history.serving
        facts = {"source": self.source, "serving": serving, "made": [version.number for version in made]}
        self.say(f"{self.source} is forgotten; version {serving} serves", facts)
