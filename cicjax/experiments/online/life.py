"""One arm's life: it is asked, graded, corrected, and learns, eight questions at a time; and what is measured
on the way.

What it knew before it learned is its first answer to each question (prequential accuracy), and how probable
the teacher's answer was (nats a token).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cicjax.agent import replay
from cicjax.experiments.answers import Answer
from cicjax.experiments.attempts import Asked, after_attempt, answer_chunk, attempt_message, plainly
from cicjax.experiments.online.arms import Arm, corrected
from cicjax.experiments.online.settings import Settings
from cicjax.experiments.online.world import World
from cicjax.files.seal import write_json
from cicjax.methods.rows import attempted, demonstration, question
from cicjax.model import qwen2
from cicjax.provenance import encode, render
from cicjax.provenance.encode import Encoded
from cicjax.provenance.transcript import Episode, Message
from cicjax.sampling.sampler import Sampler
from cicjax.tasks.task import Problem, Task
from cicjax.training import scoring, steps
from cicjax.training.batches import Row, make_row, shape_for
from cicjax.training.learner import Learner, Trainer
from cicjax.training.own import trainer_of
from cicjax.training.policy import LoadedPolicy, decoding


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What all arms of a run share."""

    folder: Path
    settings: Settings
    policy: LoadedPolicy
    task: Task
    world: World
    adapters: dict[str, qwen2.Tree]

    def trainer(self, folder: Path) -> Trainer:
        """A training in a folder."""
        settings = self.settings
        return trainer_of(
            self.policy,
            folder,
            seed=settings.seed,
            optimization=settings.optimization,
            rows_per_update=settings.events_per_step,
        )

    def row(self, episode: Episode, arm: Arm) -> Row:
        """An exchange under an arm's weighting."""
        return make_row(self.encode(episode.messages), arm.weighting)

    def encode(self, messages: Sequence[Message]) -> Encoded:
        """Messages in the plain protocol."""
        return encode(render.plain(messages), self.policy.tokenizer)

    def ask(
        self,
        adapter: qwen2.Tree,
        asked: Sequence[Asked],
        stage: str,
        *,
        first: int = 0,
        temperature: float = 0.0,
    ) -> list[Answer]:
        """Graded answers of an adapter; whatever the arm, question number n draws the same numbers."""
        policy, limit = self.policy, self.settings.max_answer_tokens
        return answer_chunk(
            asked,
            task=self.task,
            sampler=Sampler(policy.model, policy.base, adapter),
            tokenizer=policy.tokenizer,
            decoding=decoding(policy.tokenizer, max_new_tokens=limit, temperature=temperature),
            seed=self.settings.seed,
            stage=stage,
            first_problem=first,
        )


class Life:
    """`Life(setting, arm).live(path)` leaves everything that was measured in a JSON file, and then the
    adapter: where the file is missing there is no adapter to go on from by mistake."""

    def __init__(self, setting: Setting, arm: Arm) -> None:
        self._setting, self._arm = setting, arm
        self._seeds = [
            demonstration(each.id, question_text=each.question, solution=each.solution)
            for each in setting.world.sft
        ]
        self._exchanges: list[Episode] = []
        self._events: list[dict[str, Any]] = []
        self._checks: list[dict[str, Any]] = []

    def live(self, path: Path) -> None:
        """Live from the first question to the last."""
        setting, arm = self._setting, self._arm
        folder = setting.folder / "arms" / arm.name
        size, stream = setting.settings.events_per_step, setting.world.stream
        with Learner(setting.trainer(folder), "adapter", start=setting.adapters[arm.start]) as learner:
            for step, first in enumerate(range(0, len(stream), size)):
                exchanges = self._exchange(learner.adapter, stream[first : first + size], first)
                if arm.updates:
                    self._learn(learner, exchanges, step)
                self._exchanges += exchanges
                if (step + 1) % setting.settings.counts.evaluate_every == 0:
                    self._check(learner.adapter, first + len(exchanges))
            if arm.refit:
                self._refit(learner)
            end = self._ended(learner.adapter)
            measured = {"arm": arm.name, "events": self._events, "checks": self._checks, "end": end}
            write_json(path, measured)
            learner.save(final=True)

    def _exchange(self, adapter: qwen2.Tree, problems: Sequence[Problem], first: int) -> list[Episode]:
        """Ask, grade and correct some questions."""
        setting = self._setting
        asked = [Asked(each, (*self._context(), question(each.question))) for each in problems]
        answers = setting.ask(adapter, asked, "online", first=first, temperature=1.0)
        nats = self._nats(adapter, problems)
        exchanges = []
        for problem, answer, (total, count) in zip(problems, answers, nats, strict=True):
            correction = setting.task.correct(problem, answer.completion)
            attempt = attempt_message(answer)
            exchanges.append(
                attempted(problem.id, question_text=problem.question, attempt=attempt, correction=correction)
            )
            self._events.append(
                {
                    "id": problem.id,
                    "skill": problem.skill,
                    "known": problem.skill in setting.world.known,
                    "solved": answer.solved,
                    "nats": total / count,
                    "tokens": len(answer.tokens),
                }
            )
        return exchanges

    def _context(self) -> tuple[Message, ...]:
        """The last corrections, for the arm that learns in its context."""
        last = corrected(self._exchanges)[-self._arm.in_context :] if self._arm.in_context else []
        return tuple(message for each in last for message in each.messages)

    def _nats(self, adapter: qwen2.Tree, problems: Sequence[Problem]) -> list[tuple[float, int]]:
        """(negative log-likelihood, tokens) of each teacher's answer before it is seen."""
        setting = self._setting
        rows = [
            setting.encode(demonstration(p.id, question_text=p.question, solution=p.solution).messages)
            for p in problems
        ]
        return self._scores(adapter, rows)

    def _scores(self, adapter: qwen2.Tree, rows: Sequence[Encoded]) -> list[tuple[float, int]]:
        policy = self._setting.policy
        shape = shape_for(policy.model.kind, [make_row(each, scoring.EVERYTHING) for each in rows])
        scores = scoring.token_logprobs(
            rows, model=policy.model, base=policy.base, adapter=adapter, shape=shape, targets_only=True
        )
        return [
            (float(-score.sum(dtype=np.float64)), int(each.is_target.sum()))
            for score, each in zip(scores, rows, strict=True)
        ]

    def _learn(self, learner: Learner, exchanges: Sequence[Episode], step: int) -> None:
        arm, settings = self._arm, self._setting.settings
        rows = arm.rows(exchanges) if arm.rows is not None else []
        if arm.replay:
            counts = settings.replay_seed, settings.replay_lessons
            seeds, past = list(range(len(self._seeds))), list(range(len(self._exchanges)))
            drawn = replay.draw(settings.seed, step, seeds, past, counts)
            split = min(counts[0], len(seeds))
            rows = [*rows, *(self._seeds[i] for i in drawn[:split])]
            if arm.rows is not None:
                rows += arm.rows([self._exchanges[i] for i in drawn[split:]])
        made = [self._setting.row(each, arm) for each in rows]
        model = self._setting.policy.model
        for _ in range(settings.updates_per_step if made else 0):
            rate = steps.learning_rate_at(learner.step, None, settings.second_stage)
            loss = steps.Likelihood(arm.weighting.rule)
            learner.update(made, rate=rate, shape=shape_for(model.kind, made, [made]), loss=loss)

    def _refit(self, learner: Learner) -> None:
        """One epoch over all corrections and the seed, eight rows an update."""
        settings = self._setting.settings
        rows = [self._setting.row(each, self._arm) for each in (*corrected(self._exchanges), *self._seeds)]
        order = np.random.default_rng(settings.seed).permutation(len(rows))
        shape = shape_for(self._setting.policy.model.kind, rows)
        for first in range(0, len(rows), settings.events_per_step):
            chosen = [rows[i] for i in order[first : first + settings.events_per_step]]
            rate = settings.second_stage.learning_rate
            learner.update(chosen, rate=rate, shape=shape, loss=steps.Likelihood(self._arm.weighting.rule))

    def _check(self, adapter: qwen2.Tree, events: int) -> None:
        """Greedy answers to the development problems."""
        setting = self._setting
        answers = setting.ask(adapter, [plainly(each) for each in setting.world.dev], "check")
        self._checks.append({"events": events, **self._solved(answers)})

    def _solved(self, answers: Sequence[Answer]) -> dict[str, Any]:
        known = [answer.skill in self._setting.world.known for answer in answers]
        return {
            "solved": sum(answer.solved for answer in answers),
            "solved_known": sum(a.solved for a, old in zip(answers, known, strict=True) if old),
            "questions": len(answers),
            "known": sum(known),
        }

    def _ended(self, adapter: qwen2.Tree) -> dict[str, Any]:
        """What it came to: direct answers, second answers, and how it sees its own failed attempts."""
        setting, dev = self._setting, self._setting.world.dev
        first = setting.ask(adapter, [plainly(each) for each in dev], "check")
        second = setting.ask(
            adapter, [after_attempt(p, a) for p, a in zip(dev, first, strict=True)], "second"
        )
        wrong = [each for each in self._exchanges if len(each.messages) == 3][:64]
        own = [setting.encode(each.messages[:2]) for each in wrong]
        truth = [setting.encode((each.messages[0], each.messages[2])) for each in wrong]
        return {
            **self._solved(first),
            "two_step": sum(b.solved for b in second),
            "corrected": len([each for each in self._exchanges if len(each.messages) == 3]),
            "own_nats": [total / count for total, count in self._scores(adapter, own)] if own else [],
            "truth_nats": [total / count for total, count in self._scores(adapter, truth)] if truth else [],
        }
