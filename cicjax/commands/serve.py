"""`cicjax serve`: an agent over HTTP, with a page."""

import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from cicjax.errors import BadInput, printable

if TYPE_CHECKING:
    from cicjax.agent.continual import Agent

HOME = Path("runs/agent")
RATE = 1e-3  # of an agent on the embedded base: one correction shows, and the gate is there
SEEDS = 64  # worked solutions that a new agent on the embedded base has, for replay


@dataclass(frozen=True, kw_only=True)
class Serve:
    """Serve an agent that learns while it answers: OpenAI's chat completions, feedback, and a page at /.

    Example: cicjax serve
    """

    home: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="HOME")] = HOME
    """Folder of the agent; made where there is none: on the embedded base, with the exercises of section 2.1
    as its teacher's hand."""
    model_name_or_path: Annotated[str | None, tyro.conf.arg(aliases=["--model"], metavar="DIR_OR_HUB_ID")] = (
        None
    )
    """Base of an agent that is made, or where that of a known one is."""
    host: str = "127.0.0.1"
    """Address to listen on; any but the loopback needs keys (`cicjax agent key`)."""
    port: int = 8000
    """0 is any that is free."""
    allowed_hosts: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...")] = ()
    """Names beside its address that the server answers to."""
    verifier: Annotated[str | None, tyro.conf.arg(metavar="MODULE:FUNCTION")] = None
    """A function of (messages, answer) that says True, False or None of every answer."""
    rows: int = 8
    """Answers drawn side by side."""
    max_length: int = 1024
    """Tokens of a conversation and its answer."""
    learn_share: float = 0.25
    """Share of the time that learning takes while somebody waits for an answer."""

    def run(self) -> None:
        _check_extra()
        from cicjax.agent.continual import Agent
        from cicjax.agent.home import Home
        from cicjax.agent.keys import read_keys
        from cicjax.agent.live import Live
        from cicjax.serve import auth, hand, run
        from cicjax.serve.app import build
        from cicjax.serve.service import Service

        self._check()
        verify = None if self.verifier is None else hand.verifier(self.verifier)
        keys = read_keys(self.home)
        auth.check_bind(self.host, keys, self.home)
        bound = run.listen(self.host, self.port)
        made = not Home.exists(self.home)
        if made:
            self._make()
        with ExitStack() as stack:
            teacher = _teacher(self.home, verify)
            agent = stack.enter_context(Agent.open(self.home, self.model_name_or_path, check=teacher.check))
            auth.check_operator(agent.history.excluded, keys, self.home)
            if made:
                _replay(agent)
            live = stack.enter_context(
                Live(agent, rows=self.rows, length=self.max_length, share=self.learn_share)
            )
            service = Service(agent=agent, live=live, home=self.home, keys=keys, hand=teacher)
            stack.callback(service.close)
            app = build(service, host=self.host, allowed_hosts=self.allowed_hosts)
            address = run.address_of(bound)
            run.run(app, service, bound, ready=lambda: _say(address, agent, keys))

    def _check(self) -> None:
        if not 0 <= self.port <= 65535:
            raise BadInput(f"--port is 0 to 65535, not {self.port}")
        if not 0 < self.learn_share <= 1:
            raise BadInput(f"--learn_share is more than 0 and at most 1, not {self.learn_share}")
        if not 1 <= self.rows <= 256:
            raise BadInput(f"--rows is 1 to 256, not {self.rows}")
        if self.max_length < 64:
            raise BadInput(f"--max_length is 64 or more, not {self.max_length}")

    def _make(self) -> None:
        from cicjax.agent.home import Home
        from cicjax.agent.settings import AgentSettings, GateSettings
        from cicjax.training.steps import Optimization

        embedded = self.model_name_or_path is None
        settings = AgentSettings(
            task="stem" if embedded else "",
            gate=GateSettings(problems=200 if embedded else 0),
            lessons_per_step=1 if embedded else 8,
            contexts="both",  # the page shows the attempt in its row, and that it is not learned
            optimization=Optimization(learning_rate=RATE if embedded else 2e-4, warmup_steps=0),
        )
        Home.make(self.home, model=self.model_name_or_path, settings=settings)
        print(printable(f"cicjax: made {self.home}"), file=sys.stderr, flush=True)


def _check_extra() -> None:
    try:
        import fastapi  # noqa: F401
        import prometheus_client  # noqa: F401
        import uvicorn  # noqa: F401
    except ModuleNotFoundError as error:
        raise BadInput(f"serving needs {error.name}: pip install 'cicjax[serve]'") from None


def _teacher(home: Path, verify: Any) -> Any:
    from cicjax.agent import gate
    from cicjax.agent.home import Home
    from cicjax.serve.hand import Hand

    identity = Home.read(home).identity
    settings = identity.settings
    if not settings.task:
        return Hand(verify=verify)
    task = identity.task()
    problems = gate.practice(task, settings.seed, settings.gate.problems)
    return Hand(task, problems=problems, verify=verify)


def _replay(agent: "Agent") -> None:
    """Give a new agent the task's worked solutions, some of which go along with every step."""
    from cicjax.agent import gate
    from cicjax.agent.trust import SEED
    from cicjax.provenance.transcript import Author, Episode, Message

    settings = agent.settings
    if settings.task:
        task = agent.home.identity.task()
        for problem in gate.solved(task, settings.seed, settings.gate.problems)[:SEEDS]:
            answer = Message(role="assistant", content=problem.solution, author=Author.TEACHER)
            episode = Episode(id=problem.id, messages=(*gate.asked(problem), answer))
            agent.demonstrate(episode, source=SEED, replay=True)


def _say(address: str, agent: "Agent", keys: Any) -> None:
    who = (
        f"{len(set(keys.values()))} sources with keys" if keys else "no keys: whoever reaches it is its owner"
    )
    print(f"cicjax: version {agent.history.serving} at {address} ({who})", flush=True)
