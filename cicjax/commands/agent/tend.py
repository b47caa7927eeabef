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
        from cicjax.agent.retention import disk

        with self.reading() as history:
            facts = history.status() | disk(self.home)
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
    """chat asks, judge gives verdicts, teach gives lessons, admin rolls back and forgets."""
    vouches: bool = False
    """What it repeats of the agent's words is learned too."""

    def run(self) -> None:
        with self.living() as agent:
            source = agent.declare(self.name, self.rights, vouches=self.vouches)
        rights = sorted(source.rights)
        facts = {"source": source.name, "rights": rights, "vouches": source.vouches}
        self.say(f"{source.name} may {', '.join(rights) or 'nothing'}", facts)


@dataclass(frozen=True, kw_only=True)
class Prune(OfHome):
    """Decide which versions stay on disk, and remove the others: the newest, and of every lineage each so
    many-th step; always version 0, the one that serves, the gate's anchor, and what a rollback goes to.

    One that was removed is made again from the log when it is asked for.

    --json: one object of newest, every, removed, on_disk, disk_bytes, disk_free.

    Example: cicjax agent prune runs/mine --newest 4 --every 32
    """

    newest: int | None = None
    """So many versions, the newest; 0: all. Without it, as it was."""
    every: int | None = None
    """Each step of a lineage that this divides; 0: none. Without it, as it was."""
    dry_run: bool = False
    """Say what would be removed and remove nothing."""

    def run(self) -> None:
        from cicjax.agent.retention import Retention, disk, surplus

        asked = {name: getattr(self, name) for name in ("newest", "every") if getattr(self, name) is not None}
        if self.dry_run:
            with self.reading() as history:
                history.retention = {**history.retention, **asked}
                removed, policy = surplus(self.home / "versions", history), Retention(**history.retention)
        else:
            with self.living() as agent:
                policy = Retention(**{**agent.history.retention, **asked})
                removed = agent.retain(policy)
        facts = {"newest": policy.newest, "every": policy.every, "removed": removed, **disk(self.home)}
        gone = f"{'would remove' if self.dry_run else 'removed'} {len(removed)}"
        there = f"{len(facts['on_disk'])} on disk, {facts['disk_bytes'] / 1e6:.1f} MB in all"
        self.say(f"{gone} versions; {there}, {facts['disk_free'] / 1e9:.1f} GB free", facts)


@dataclass(frozen=True, kw_only=True)
class Key(Source):
    """Make a key for `cicjax serve`, and say what its source may. It is printed once, and kept as a digest.

    --json: one object of source, rights, key.

    Example: cicjax agent key runs/mine alice --rights chat judge
    """

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
