"""`cicjax agent VERB`: all verbs as one command."""

import functools
import operator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from cicjax.commands.agent import keep, talk, tend

VERBS = {
    "new": talk.New,
    "say": talk.Say,
    "teach": talk.Teach,
    "judge": talk.Judge,
    "learn": talk.Learn,
    "status": tend.Status,
    "versions": tend.Versions,
    "serve": tend.Serve,
    "rollback": tend.Rollback,
    "admit": tend.Admit,
    "source": tend.Source,
    "prune": tend.Prune,
    "key": tend.Key,
    "forget": tend.Forget,
    "rebuild": keep.Rebuild,
    "verify": keep.Verify,
    "export": keep.Export,
    "import": keep.Import,
}
if TYPE_CHECKING:
    Verb = Any
else:
    Verb = functools.reduce(
        operator.or_, [Annotated[verb, tyro.conf.subcommand(name)] for name, verb in VERBS.items()]
    )


@dataclass(frozen=True)
class Agent:
    """An agent that goes on learning: ask it, correct it, let it learn, take it back.

    Example: cicjax agent new runs/mine
    """

    verb: tyro.conf.OmitSubcommandPrefixes[Verb]

    def run(self) -> None:
        self.verb.run()
