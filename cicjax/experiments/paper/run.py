"""What every stage of an experiment needs, and the clock that stages share."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from cicjax.experiments.paper.settings import Settings
from cicjax.files.whole import read_json, write_json
from cicjax.model import qwen2
from cicjax.provenance.tokenizer import Tokenizer
from cicjax.sampling.sampler import Decoding, Sampler
from cicjax.tasks import stem
from cicjax.training.finetune import Trainer
from cicjax.training.policy import decoding, load_policy
from cicjax.training.steps import Optimization


@dataclass(frozen=True, kw_only=True)
class Run:
    """Where to write, what was decided, the frozen base and the problems."""

    folder: Path
    settings: Settings
    model: qwen2.Model
    base: qwen2.Tree
    base_fingerprint: str
    model_name: str
    tokenizer: Tokenizer
    splits: stem.Splits
    save_steps: int = 25

    @property
    def questions(self) -> tuple[stem.Problem, ...]:
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

    def trainer(self, optimization: Optimization) -> Trainer:
        """What all trainings of this experiment share."""
        return Trainer(
            folder=self.folder,
            model=self.model,
            base=self.base,
            base_fingerprint=self.base_fingerprint,
            tokenizer=self.tokenizer,
            optimization=optimization,
            seed=self.settings.seed,
            rows_per_update=self.settings.rows_per_update,
            lines_per_batch=self.settings.lines_per_batch,
            save_steps=self.save_steps,
        )

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the seconds spent here to timings.json, over interruptions too."""
        started = time.perf_counter()
        try:
            yield
        finally:
            path = self.folder / "timings.json"
            timings = read_json(path) if path.exists() else {}
            timings[stage] = round(timings.get(stage, 0.0) + time.perf_counter() - started, 3)
            write_json(path, timings)


def load_run(folder: Path, settings: Settings, *, model_folder: str, save_steps: int = 25) -> Run:
    """Read base and tokenizer and draw the problems; touches nothing. Raises BadInput for a model that cannot
    be used."""
    policy = load_policy(model_folder, dtype=settings.dtype, lora=settings.lora, training=True)
    counts = settings.counts
    return Run(
        folder=folder,
        settings=settings,
        model=policy.model,
        base=policy.base,
        base_fingerprint=policy.fingerprint,
        model_name=policy.location.resolve().name,
        tokenizer=policy.tokenizer,
        splits=stem.make_splits(
            seed=settings.seed,
            sft=counts.sft_rows,
            agent=counts.agent_problems,
            test=counts.test_problems,
            dev=counts.dev_problems,
            numbers=settings.numbers,
        ),
        save_steps=save_steps,
    )
