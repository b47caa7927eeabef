"""The verbs of a conversation: new, say, teach, judge, learn."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from cicjax.commands.agent import shown
from cicjax.commands.agent.shown import OfHome


@dataclass(frozen=True, kw_only=True)
class New(OfHome):
    """Make an agent: a folder with a base, settings and an empty log.

    --json: one object, with the digest of version 0.

    Example: cicjax agent new runs/mine --model Qwen2.5-0.5B
    """

    model_name_or_path: Annotated[str | None, tyro.conf.arg(aliases=["--model"], metavar="DIR_OR_HUB_ID")] = (
        None
    )
    """A folder of a Qwen2, Qwen3 or Llama model, or a hub id; without one, the embedded base."""
    start_adapter: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Adapter of version 0: RUN/METHOD of an earlier run, or a peft folder."""
    replay: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Native transcripts of which some are replayed with every step."""
    format: Literal["auto", "plain", "chatml", "qwen3"] = "auto"
    """Protocol of conversations."""
    contexts: Literal["attempt", "none", "both"] = "none"
    """A correction is learned after the attempt that it corrects, as an answer of its own, or both."""
    lessons_per_step: int = 8
    """A step is due when so many lessons wait."""
    updates_per_step: int = 4
    """Updates of a step."""
    learning_rate: float = 2e-4
    """Rate of AdamW, constant."""
    max_new_tokens: int = 256
    """Longest answer where nobody asks for another, the gate's too."""
    task: str = ""
    """Task whose problems the gate asks: stem, or MODULE:ATTRIBUTE."""
    gate_problems: int = 0
    """Problems that a version must not answer worse before it serves; 0: every version serves."""
    gate_every: int = 1
    """Steps between two gates."""
    keep_newest: int = 16
    """So many versions stay on disk; 0: all. `cicjax agent prune` changes it."""
    keep_every: int = 16
    """Beside them each step of a lineage that this divides; 0: none."""
    seed: int = 0
    """Fresh adapter, replay and samples follow from it."""

    def run(self) -> None:
        """Make the folder with version 0."""
        from cicjax.agent import home
        from cicjax.agent.continual import Agent
        from cicjax.agent.retention import Retention
        from cicjax.agent.settings import AgentSettings, GateSettings
        from cicjax.agent.trust import SEED
        from cicjax.logs import native
        from cicjax.runs import checks
        from cicjax.training.steps import Optimization

        checks.check_seed(self.seed)
        checks.check_finite(self, "learning_rate")
        settings = AgentSettings(
            seed=self.seed,
            format=self.format,
            task=self.task,
            contexts=self.contexts,
            lessons_per_step=self.lessons_per_step,
            updates_per_step=self.updates_per_step,
            max_new_tokens=self.max_new_tokens,
            optimization=Optimization(learning_rate=self.learning_rate, warmup_steps=0),
            gate=GateSettings(problems=self.gate_problems, every=self.gate_every),
        )
        episodes = native.read_native(self.replay) if self.replay is not None else []
        home.Home.make(
            self.home,
            model=self.model_name_or_path,
            settings=settings,
            adapter=self.start_adapter,
            retention=Retention(newest=self.keep_newest, every=self.keep_every),
        )
        if episodes:
            with Agent.open(self.home) as agent:
                for episode in episodes:
                    agent.demonstrate(episode, source=SEED, replay=True)
        with self.reading() as history:
            facts = {"home": str(self.home), "version": 0, "digest": history.versions[0].digest}
        self.say(f"{self.home}: version 0; ask it with `cicjax agent say {self.home} TEXT`", facts)


@dataclass(frozen=True, kw_only=True)
class Say(OfHome):
    """Ask the agent; its answer is logged with a receipt, `id`, under which it can be corrected.

    --json: one object of id, version, text, finish_reason, tokens, logprobs.

    Example: cicjax agent say runs/mine "A 4 kg cart accelerates at 2 m/s^2. What force acts on it?"
    """

    text: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="TEXT")]
    """A question."""
    version: int | None = None
    """Another version than the one that serves."""
    temperature: float = 0.0
    """0 is greedy."""
    max_new_tokens: int | None = None
    """Longest answer, if not that of the settings."""
    seed: int | None = None
    """Samples follow from it; without one, from the place in the log."""
    source: str = "local"
    """Who asks."""

    def run(self) -> None:
        """Ask, and print the answer with its receipt."""
        with self.living() as agent:
            how = agent.decoding(temperature=self.temperature, max_new_tokens=self.max_new_tokens)
            attempt = agent.act(
                self.text, decoding=how, source=self.source, version=self.version, seed=self.seed
            )
        facts = {
            "id": attempt.id,
            "version": attempt.version,
            "text": attempt.text,
            "finish_reason": attempt.finish,
            "tokens": list(attempt.tokens),
            "logprobs": list(attempt.logprobs),
        }
        self.say(f"{attempt.text}\n(version {attempt.version}, id {attempt.id})", facts)


@dataclass(frozen=True, kw_only=True)
class Teach(OfHome):
    """Say what an answer should have been: a lesson, if the source may teach and it says something new.

    --json: one object of id, lesson (its number or null), reason.

    Example: cicjax agent teach runs/mine 5f0c2b71a9e84d33a1b2c3d4 "F = m a = 4 * 2 = 8. Final answer: 8 N"
    """

    id: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="ID")]
    """The receipt of the answer."""
    text: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="TEXT")]
    """The whole answer that it should have been."""
    source: str = "local"
    """Who corrects."""

    def run(self) -> None:
        """Keep a correction, and say which lesson it is."""
        from cicjax.agent.events import Correction

        with self.living() as agent:
            receipt = agent.observe(self.id, Correction(self.text), source=self.source)
        self.tell(receipt)


@dataclass(frozen=True, kw_only=True)
class Judge(OfHome):
    """Say whether an answer is right. It counts, and never makes a target.

    --json: one object of id, lesson (null), reason.

    Example: cicjax agent judge runs/mine 5f0c2b71a9e84d33a1b2c3d4 wrong
    """

    id: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="ID")]
    """The receipt of the answer."""
    verdict: tyro.conf.Positional[Literal["right", "wrong"]]
    """The verdict."""
    source: str = "local"
    """Who judges."""

    def run(self) -> None:
        """Keep a verdict."""
        from cicjax.agent.events import Verdict

        with self.living() as agent:
            receipt = agent.observe(self.id, Verdict(self.verdict == "right"), source=self.source)
        self.tell(receipt)


@dataclass(frozen=True, kw_only=True)
class Learn(OfHome):
    """Learn the lessons that wait: step by step, each a new version.

    --json: one object a version, a line each, as `versions` has them.

    Example: cicjax agent learn runs/mine
    """

    due: bool = False
    """Full steps alone."""

    def run(self) -> None:
        """Learn what waits, and say what became of it."""
        with self.living() as agent:
            made = 0
            for version in agent.learning(due=self.due):
                made += 1
                self.say(shown.line(version, agent.history), agent.history.record(version.number))
        if not made and not self.json:
            print("no lesson waits")
