"""One learning step: from a plan in the log to a version on disk.

The plan names every row before any work is done; the work is a function of the plan and of its parent's
state; the state appears in one rename, with the plan's digest in it. So a step that a kill cut short is done
again, bit for bit, and one that was saved is recognised.
"""

import shutil
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from cicjax import signals
from cicjax.agent.lessons import WEIGHTING
from cicjax.agent.settings import AgentSettings
from cicjax.agent.versions import Version
from cicjax.errors import OutOfResources
from cicjax.files.whole import file_digest, private_folder, write_json
from cicjax.model import qwen2
from cicjax.provenance.encode import Encoded
from cicjax.training import checkpoints, steps
from cicjax.training.batches import Row, Shape, lengths_up_to, make_row, shape_for
from cicjax.training.finetune import check_fit
from cicjax.training.learner import Diverged, Learner, Trainer
from cicjax.training.own import trainer_of
from cicjax.training.policy import LoadedPolicy
from cicjax.training.scoring import token_logprobs

STATE, FILES = "state", "files.json"
LESSON_LINE = 320  # tokens that lines of lessons are filled to: an agent in use answers between two of them
LOSS = steps.Likelihood(WEIGHTING.rule)
Pause = Callable[[], None]


@dataclass(frozen=True)
class States:
    """The states of an agent's versions, HOME/versions/N/state: adapter, moments and counters."""

    folder: Path
    policy: LoadedPolicy
    settings: AgentSettings

    @property
    def all(self) -> Path:
        """The folder of all versions."""
        return self.folder / "versions"

    def of(self, number: int) -> Path:
        """The folder of a version."""
        return self.all / str(number)

    def here(self, number: int) -> bool:
        """Whether the state of this version is on disk, sealed."""
        return (self.of(number) / FILES).exists() and self._saved(number)

    def _saved(self, number: int) -> bool:
        return checkpoints.latest(self.of(number) / STATE) is not None

    def begin(self, adapter: qwen2.Tree) -> str:
        """Save version 0 and give its digest."""
        with Learner(self._trainer(0), STATE, start=adapter) as learner:
            if not learner.resumed:
                learner.save({"plan": ""}, final=True)
            return checkpoints.fingerprint(learner.adapter)

    def load(self, number: int) -> steps.TrainState:
        """The state of a version. Raises Corrupted where a byte has changed."""
        tree, _ = checkpoints.load(self.of(number) / STATE, self._like()._asdict())
        return steps.TrainState(**tree)

    def adapter(self, number: int) -> qwen2.Tree:
        """The adapter of a version."""
        return checkpoints.load_adapter(self.of(number) / STATE)[0]

    def seal(self, number: int) -> None:
        """Leave the SHA-256 of the files that speak for all of a version's, for `verify`."""
        folder = self.of(number)
        state = folder / STATE / str(checkpoints.latest(folder / STATE)) / checkpoints.MANIFEST
        files = state, folder / "metrics.jsonl"
        digests = {file.relative_to(folder).as_posix(): file_digest(file) for file in files}
        write_json(folder / FILES, digests)

    def step(
        self,
        version: Version,
        plan: str,
        start: steps.TrainState,
        rows: Sequence[Row],
        pause: Pause | None = None,
    ) -> steps.TrainState:
        """Take the step of a plan of this digest, or read what it came to before. `pause` is called between
        micro-batches. Raises Diverged where no update was finite."""
        trainer, settings = self._trainer(version.number), self.settings
        self._discard_other(version.number, plan)
        with Learner(trainer, STATE, start=start) as learner:
            if learner.resumed:
                return learner.state
            model, shape = trainer.model, _shape(trainer.model, rows)
            names = [(f"lesson row {n}", row) for n, row in enumerate(rows, start=1)]
            check_fit(model, trainer.base, start.adapter, names, shape)
            for _ in range(settings.updates_per_step):
                rate = steps.learning_rate_at(learner.step, None, settings.optimization)
                learner.update(rows, rate=rate, shape=shape, loss=LOSS, pause=pause)
                signals.check()  # half a step has no plan in its state, and is taken again
            learner.flush()
            skipped = int(learner.state.nonfinite_updates) - int(start.nonfinite_updates)
            if skipped == settings.updates_per_step:
                raise Diverged(f"{self.of(version.number)}: none of its {skipped} updates was finite")
            learner.save({"plan": plan}, final=True)
            return learner.state

    def warm_up(self) -> None:
        """Take a step, and score its rows, where nobody looks: on rows that say nothing, one of each length
        that lines are cut to, up to LESSON_LINE. The first step then compiles nothing, nor does a page that
        shows it. What does not fit this machine is said when a lesson needs it."""
        longest = min(LESSON_LINE, self.policy.model.config.max_position_embeddings)
        rows = [_blank(length) for length in lengths_up_to(longest) if length <= longest]
        settings = replace(self.settings, updates_per_step=1)
        with suppress(OutOfResources), tempfile.TemporaryDirectory(prefix="cicjax-") as folder:
            apart = replace(self, folder=Path(folder), settings=settings)
            state = apart.step(Version(number=1, parent=0, depth=1), "", self.load(0), rows)
            apart.seal(1)
            checkpoints.fingerprint(state.adapter)
            score(self.policy, state.adapter, rows)

    def _discard_other(self, number: int, plan: str) -> None:
        """Remove the state of a step of another plan, which a log that was restored from a copy may meet."""
        folder = self.of(number)
        if self._saved(number) and checkpoints.load_adapter(folder / STATE)[1].get("plan") != plan:
            shutil.rmtree(folder)

    def _trainer(self, number: int) -> Trainer:
        return trainer_of(
            self.policy,
            private_folder(self.of(number)),
            seed=self.settings.seed,
            optimization=self.settings.optimization,
            protocol=self.settings.format,
        )

    def _like(self) -> Any:
        return steps.start_state(self.adapter(0), self.settings.optimization)


def _shape(model: qwen2.Model, rows: Sequence[Row]) -> Shape:
    return shape_for(model.kind, rows, [rows], filled=LESSON_LINE)


def _blank(length: int) -> Row:
    """A row of so many tokens, of which the last is a target."""
    zeros = np.zeros(length, np.int8)
    last = np.arange(length) == length - 1
    return make_row(Encoded(zeros.astype(np.int32), zeros, last, zeros - 1, zeros + 1), WEIGHTING)


def score(policy: LoadedPolicy, adapter: qwen2.Tree, rows: Sequence[Row]) -> list[Any]:
    """log p of each row's targets, the line cut as for learning."""
    return token_logprobs(
        [row.encoded for row in rows],
        model=policy.model,
        base=policy.base,
        adapter=adapter,
        shape=_shape(policy.model, rows),
        targets_only=True,
    )
