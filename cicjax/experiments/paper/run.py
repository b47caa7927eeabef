"""What every stage of an experiment needs, and the clock that stages share."""

import time
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from cicjax.devices import hosts
from cicjax.errors import BadInput
from cicjax.experiments.paper.settings import Settings
from cicjax.files.seal import read_object, write_json
from cicjax.methods import EVERY, START, Method
from cicjax.model import qwen2
from cicjax.provenance import Encoded, encode, render
from cicjax.provenance.protocol import PLAIN
from cicjax.provenance.tokenizer import Tokenizer
from cicjax.provenance.transcript import Author, Episode
from cicjax.sampling.sampler import Decoding, Sampler
from cicjax.tasks.task import Problem, Splits, Task
from cicjax.training.learner import Trainer
from cicjax.training.policy import decoding, load_policy


@dataclass(frozen=True, kw_only=True)
class Run:
    """Where to write, what was decided, the methods in the order of the table, the frozen base, the task and
    its problems."""

    folder: Path
    settings: Settings
    methods: tuple[Method, ...]
    model: qwen2.Model
    base: qwen2.Tree
    base_fingerprint: str
    model_name: str
    tokenizer: Tokenizer
    task: Task
    splits: Splits[Problem]
    save_steps: int = 25

    @property
    def questions(self) -> tuple[Problem, ...]:
        """The problems that methods are compared on."""
        return self.splits.test if self.settings.split == "test" else self.splits.dev

    @property
    def sampled(self) -> Decoding:
        """How attempts, candidates and groups are drawn."""
        chosen = self.settings
        return decoding(
            self.tokenizer, max_new_tokens=chosen.max_attempt_tokens, temperature=chosen.attempt_temperature
        )

    @property
    def greedy(self) -> Decoding:
        """How questions are answered in an evaluation."""
        chosen = self.settings
        return decoding(
            self.tokenizer,
            max_new_tokens=chosen.max_answer_tokens,
            temperature=0.0,
            stop_strings=chosen.answer_stop_strings,
        )

    def sampler(self, adapter: qwen2.Tree | None) -> Callable[[], Sampler]:
        """Gives the policy's sampler, which is made at the first call: not where all answers are there
        already."""
        return cache(partial(Sampler, self.model, self.base, adapter))

    def trainer(self, method: Method) -> Trainer:
        """How a method is trained in this experiment, but for its rows and what they weigh."""
        second = method.name != START
        return Trainer(
            folder=self.folder,
            model=self.model,
            base=self.base,
            base_fingerprint=self.base_fingerprint,
            tokenizer=self.tokenizer,
            optimization=self.settings.optimization_of(method),
            seed=self.settings.seed,
            rows_per_update=self.settings.rows_per_update,
            num_train_epochs=self.settings.second_stage_epochs if second else 1,
            live_rows=second and self.settings.batches == "live_rows",
            save_steps=self.save_steps,
            protocol=PLAIN,
        )

    def encode(self, episode: Episode, targets: AbstractSet[Author] = render.TEACHER_ONLY) -> Encoded:
        """A row in the plain protocol; `targets` are those beside the agent whose words may bear loss."""
        return encode(render.plain(episode.messages, targets=targets, id=episode.id), self.tokenizer)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the seconds spent here to timings.json, over interruptions too."""
        started = time.perf_counter()
        try:
            yield
        finally:
            if hosts.first():
                path = self.folder / "timings.json"
                timings = read_object(path) if path.exists() else {}
                timings[stage] = round(timings.get(stage, 0.0) + time.perf_counter() - started, 3)
                write_json(path, timings)


def load_run(
    folder: Path,
    settings: Settings,
    *,
    model: str | None,
    task: Task,
    methods: Sequence[Method] = EVERY,
    save_steps: int = 25,
) -> Run:
    """Read base and tokenizer and draw the problems; touches nothing. `model` is a folder or hub id, None the
    embedded base. Raises BadInput for a model that cannot be used, or a task without enough problems."""
    policy = load_policy(model, dtype=settings.dtype, lora=settings.lora, training=True)
    return Run(
        folder=folder,
        settings=settings,
        methods=tuple(method for method in methods if method.name in settings.methods),
        model=policy.model,
        base=policy.base,
        base_fingerprint=policy.fingerprint,
        model_name=policy.location.resolve().name,
        tokenizer=policy.tokenizer,
        task=task,
        splits=draw_problems(task, settings),
        save_steps=save_steps,
    )


def draw_problems(task: Task, settings: Settings) -> Splits[Problem]:
    """The task's problems, as many as were asked for. Raises BadInput where it gives another number."""
    counts = settings.counts
    wanted = {
        "sft": counts.sft_rows,
        "agent": counts.agent_problems,
        "dev": counts.dev_problems,
        "test": counts.test_problems,
    }
    splits = task.splits(settings.seed, **wanted)
    for name, count in wanted.items():
        if (drawn := len(getattr(splits, name))) != count:
            raise BadInput(
                f"task {task.name}: its split {name} has {drawn} problems where {count} were asked for"
            )
    return splits
