"""The folder of an agent, and what it is made of.

HOME/config.json       base and settings; its digest is in the first event
HOME/log.db            everything that happened
HOME/versions/N/state  adapter, moments and counters after step N; metrics.jsonl beside
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from cicjax.agent import trust
from cicjax.agent.events import Draft
from cicjax.agent.learner import States
from cicjax.agent.retention import Retention
from cicjax.agent.settings import AgentSettings
from cicjax.agent.store import NAME, Store, Unmade
from cicjax.errors import BadInput, Corrupted, Locked
from cicjax.files.whole import file_digest, read_json, write_json
from cicjax.model.config import LoRAConfig
from cicjax.provenance.protocol import PLAIN, chat_format
from cicjax.provenance.transcript import Author
from cicjax.runs.folder import locked
from cicjax.tasks.named import EMBEDDED, named
from cicjax.tasks.task import Task
from cicjax.training.finetune import fresh_adapter
from cicjax.training.policy import LoadedPolicy, load_policy

CONFIG = "config.json"


@dataclass(frozen=True, kw_only=True)
class Identity:
    """config.json: where the base is, what it is, and the settings."""

    model: str | None
    base_fingerprint: str
    tokenizer_fingerprint: str
    settings: AgentSettings

    def record(self) -> dict[str, Any]:
        """As config.json has it."""
        return {
            "model_name_or_path": self.model,
            "base_fingerprint": self.base_fingerprint,
            "tokenizer_fingerprint": self.tokenizer_fingerprint,
            "settings": self.settings.record(),
        }

    def task(self) -> Task:
        """The task whose problems the gate asks, with the numbers of the base. Raises BadInput where the
        settings name none."""
        embedded = self.model is None or Path(self.model).name == "tiny"
        return named(self.settings.task, numbers=EMBEDDED if embedded else "paper")


@dataclass(frozen=True, kw_only=True)
class Home:
    """An agent's folder and its identity."""

    folder: Path
    identity: Identity

    @staticmethod
    def exists(folder: Path) -> bool:
        """Whether an agent lives here, one that was made whole."""
        if not (folder / CONFIG).exists() or not (folder / NAME).exists():
            return False
        try:
            with Store(folder, read_only=True) as store:
                return store.last is not None
        except Unmade:
            return False

    @classmethod
    def read(cls, folder: Path) -> Self:
        """The home in a folder. Raises BadInput where there is none, Corrupted where it is damaged."""
        path = folder / CONFIG
        if not path.exists() or not (folder / NAME).exists():
            raise BadInput(f"{folder}: no agent lives here; make one with `cicjax agent new {folder}`")
        record = read_json(path)
        try:
            identity = Identity(
                model=record["model_name_or_path"],
                base_fingerprint=record["base_fingerprint"],
                tokenizer_fingerprint=record["tokenizer_fingerprint"],
                settings=AgentSettings.of(record["settings"]),
            )
        except (KeyError, TypeError):
            raise Corrupted(f"{path}: not what was written; restore it from a copy") from None
        return cls(folder=folder, identity=identity)

    @classmethod
    def make(
        cls,
        folder: Path,
        *,
        model: str | None,
        settings: AgentSettings,
        adapter: Path | None = None,
        retention: Retention | None = None,
    ) -> Self:
        """A new home on a base, from a fresh adapter or from one that was trained.

        Raises BadInput where an agent lives there already, or for a base or adapter that cannot be used.
        """
        if cls.exists(folder):
            raise BadInput(f"{folder}: an agent lives here already; choose another folder")
        policy = load_policy(model, dtype=settings.dtype, adapter=adapter, lora=settings.lora, training=True)
        assert policy.model.lora is not None
        format = settings.format
        if format == "auto":
            # The embedded base has Qwen's control tokens and knows the plain protocol alone.
            embedded = PLAIN if model is None else None
            format = policy.protocol or embedded or chat_format(policy.tokenizer) or PLAIN
        settings = replace(settings, lora=policy.model.lora, format=format)
        where = str(Path(model).absolute()) if model is not None and Path(model).exists() else model
        identity = Identity(
            model=where,
            base_fingerprint=policy.fingerprint,
            tokenizer_fingerprint=policy.tokenizer.fingerprint,
            settings=settings,
        )
        with _held(folder, identity), Store(folder) as store:
            start = (
                fresh_adapter(policy.model, seed=settings.seed) if policy.adapter is None else policy.adapter
            )
            states = States(folder, policy, settings)
            facts = {"digest": states.begin(start), "config": file_digest(folder / CONFIG)}
            states.seal(0)
            store.append(
                Draft(kind="home", source=trust.OPERATOR, author=Author.SYSTEM, facts=facts),
                trust.declaration(trust.OPERATOR, trust.RIGHTS),
                trust.declaration(trust.SEED, ("teach",), vouches=True),
                (retention or Retention()).draft(),
            )
        return cls(folder=folder, identity=identity)

    def check(self, settings: AgentSettings) -> None:
        """Raise BadInput where the settings asked for are not those of the home."""
        own = self.identity.settings.record()
        asked = settings.record()
        asked["format"] = own["format"] if settings.format == "auto" else settings.format
        if self.identity.settings.lora != LoRAConfig():
            asked["lora"] = own["lora"] if settings.lora == LoRAConfig() else asked["lora"]
        differing = [name for name in own if own[name] != asked[name]]
        if differing:
            name = differing[0]
            raise BadInput(
                f"{self.folder}: {name} is {own[name]} there and {asked[name]} here; "
                "an agent keeps the settings it was made with"
            )

    def load_base(self, model: str | None = None) -> LoadedPolicy:
        """The base and tokenizer; `model` says where they are, if not where they were.

        Raises BadInput where they are others.
        """
        identity, settings = self.identity, self.identity.settings
        policy = load_policy(model or identity.model, dtype=settings.dtype, lora=settings.lora, training=True)
        for what, there, here in (
            ("base", identity.base_fingerprint, policy.fingerprint),
            ("tokenizer", identity.tokenizer_fingerprint, policy.tokenizer.fingerprint),
        ):
            if there != here:
                raise BadInput(
                    f"{policy.location}: its {what} is {here[:12]}, and the agent's is {there[:12]}; "
                    "give the folder that the agent was made with (--model)"
                )
        return policy


@contextmanager
def holding(folder: Path) -> Iterator[Home]:
    """The home in a folder, held alone. Raises Locked, with the holder's details, where another process has
    it."""
    home = Home.read(folder)
    with _held(folder, home.identity):
        yield home


@contextmanager
def _held(folder: Path, identity: Identity) -> Iterator[None]:
    try:
        with locked(folder):
            if not (folder / CONFIG).exists():
                write_json(folder / CONFIG, identity.record())
            yield
    except Locked as error:
        raise Locked(str(error).replace("or choose another --output_dir", "or only read it")) from None
