"""One learning step: from a plan in the log to a version on disk.

The plan names every row before any work is done; the work is a function of the plan and of its parent's
state; the state appears in one rename, with the plan's digest in it. So a step that a kill cut short is done
again, bit for bit, and one that was saved is recognised.
"""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cicjax import signals
from cicjax.agent.lessons import WEIGHTING
from cicjax.agent.settings import AgentSettings
from cicjax.agent.versions import Version
from cicjax.files.whole import file_digest, private_folder, write_json
from cicjax.model import qwen2
from cicjax.training import checkpoints, steps
from cicjax.training.batches import Row, shape_for
from cicjax.training.finetune import check_fit
from cicjax.training.learner import Diverged, Learner, Trainer
from cicjax.training.own import trainer_of
from cicjax.training.policy import LoadedPolicy

STATE, FILES = "state", "files.json"
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
            model, shape = trainer.model, shape_for(trainer.model.kind, rows, [rows])
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
