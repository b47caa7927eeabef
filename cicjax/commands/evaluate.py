"""`cicjax eval`: a model on a task, under its verifier."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from cicjax.commands.together import Together
from cicjax.errors import BadInput, printable, shorten, shown

if TYPE_CHECKING:
    from cicjax.experiments.answers import Answer
    from cicjax.experiments.paper.questions import Origin
    from cicjax.experiments.paper.settings import Settings
    from cicjax.tasks.task import Problem, Task
    from cicjax.training.policy import LoadedPolicy


@dataclass(frozen=True, kw_only=True)
class Eval(Together):
    """Ask a model a task's questions, greedily, and let the verifier grade the answers.

    An adapter that comes from a run of `cicjax repro` is asked that run's questions: none that it was trained
    on. It is asked in the protocol that it was trained in.

    Example: cicjax eval --model Qwen2.5-0.5B --adapter runs/small/interventional --task stem
    """

    model_name_or_path: Annotated[str | None, tyro.conf.arg(aliases=["--model"], metavar="DIR_OR_HUB_ID")] = (
        None
    )
    """A Qwen2, Qwen3 or Llama folder, or a hub id; without one, the embedded base and its numbers."""
    adapter: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """RUN/METHOD of an earlier run, or a peft folder."""
    questions_of: Annotated[Path | None, tyro.conf.arg(metavar="RUN")] = None
    """Ask what this run of `cicjax repro` asked; by default the run that the adapter comes from."""
    format: Literal["auto", "plain", "chatml", "qwen3"] = "auto"
    """Protocol of the questions; auto is the one that the adapter was trained in, else plain."""
    task: Annotated[str, tyro.conf.arg(metavar="stem|MODULE:ATTRIBUTE")] = "stem"
    """Problems and verifier: stem, section 2.1's, or an object of a Python module of your own, which is
    imported."""
    split: Literal["test", "dev"] = "test"
    """Which questions of the seed."""
    num_test: int | None = None
    """How many; by default as many as the adapter's run has, else 100 of test and 200 of dev."""
    seed: int | None = None
    """Decides the questions; by default the adapter's run's, else 0. Without a run: those of `cicjax repro`
    with 200 teacher rows."""
    max_new_tokens: int | None = None
    """Longest answer; by default the run's, else 256."""
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    """Precision of the base."""
    json: bool = False
    """One object an answer (question, completion, extracted value, verdict) and a last one with the
    summary."""

    def run(self) -> None:
        from cicjax.experiments.paper import evaluate, questions
        from cicjax.provenance import protocol
        from cicjax.training.policy import load_policy

        if self.questions_of is not None:
            origin = questions.named_run(self.questions_of, self.adapter)
        else:
            origin = questions.run_of(self.adapter) if self.adapter is not None else None
        settings, task = self._settings(origin)
        self.join()
        problems = self._problems(settings, task)
        policy = load_policy(self.model_name_or_path, dtype=self.dtype, adapter=self.adapter)
        unsaid = policy.protocol or (protocol.PLAIN if self.format == "auto" else None)
        name = protocol.decide(self.format, (), policy.tokenizer, adapter=unsaid)
        asked = self._asked(settings, origin, len(problems), protocol=name)
        if not self.json:
            _print_asked(asked)
        answers = []
        for answer in _answers(policy, settings, task, problems, protocol=name):
            answers.append(answer)
            if self.json:
                print(json.dumps(answer.to_json()), flush=True)
        summary = evaluate.direct_summary(answers)
        if self.json:
            print(json.dumps({"summary": summary, "asked": asked}))
        else:
            _print(summary)

    def _asked(
        self, settings: "Settings", origin: "Origin | None", questions: int, *, protocol: str
    ) -> dict[str, Any]:
        """Which questions these are."""
        return {
            "task": settings.task["name"],
            "split": self.split,
            "questions": questions,
            "seed": settings.seed,
            "teacher_rows": settings.counts.sft_rows,
            "questions_of": None if origin is None else str(origin.run),
            "protocol": protocol,
        }

    def _settings(self, origin: "Origin | None") -> "tuple[Settings, Task]":
        """What a run asked, or what the paper's counts ask, with these flags over it."""
        from cicjax.experiments.paper.settings import PAPER, Settings
        from cicjax.runs import checks
        from cicjax.tasks.named import EMBEDDED, named
        from cicjax.tasks.task import record_of

        checks.check_counts(self, "num_test", "max_new_tokens")
        run = None if origin is None else origin.settings
        if run is not None and self.seed not in (None, run.seed):
            raise BadInput(
                f"{self.adapter or self.questions_of}: its run has seed {run.seed}, and with --seed "
                f"{self.seed} it may know the answers; leave --seed out"
            )
        checks.check_seed(self.seed or 0)
        pool = EMBEDDED if self.model_name_or_path is None else "paper"
        task = named(self.task, numbers=pool if run is None else run.task.get("numbers", pool))
        if run is not None and run.task != record_of(task):
            raise BadInput(
                f"{self.adapter or self.questions_of}: its run asked {shorten(run.task)}, and --task "
                f"{self.task} is another task; name the run's"
            )
        settings = run or Settings(seed=self.seed or 0, methods=(), counts=PAPER, task=record_of(task))
        longest = self.max_new_tokens or settings.max_answer_tokens
        return replace(settings, max_answer_tokens=longest), task

    def _problems(self, settings: "Settings", task: "Task") -> "tuple[Problem, ...]":
        """The questions. The other splits keep the run's sizes, so that none of theirs is among them."""
        from cicjax.experiments.paper.run import draw_problems

        counts = settings.counts
        if self.split == "dev" and (self.num_test or 0) > counts.dev_problems:
            raise BadInput(
                f"--split dev has {counts.dev_problems} questions, --num_test asks for {self.num_test}; "
                "ask for fewer"
            )
        counts = replace(counts, test_problems=self.num_test or counts.test_problems)
        splits = draw_problems(task, replace(settings, counts=counts))
        return splits.test if self.split == "test" else splits.dev[: self.num_test]


def _answers(
    policy: "LoadedPolicy",
    settings: "Settings",
    task: "Task",
    problems: "Sequence[Problem]",
    *,
    protocol: str,
) -> "Iterator[Answer]":
    """The answers of the run's own evaluation, chunk by chunk."""
    from cicjax.devices import hosts
    from cicjax.experiments.answers import read_answers
    from cicjax.experiments.attempts import answer_chunk, plainly
    from cicjax.runs.metrics import in_chunks
    from cicjax.sampling.sampler import Sampler
    from cicjax.training.policy import decoding

    sampler = Sampler(policy.model, policy.base, policy.adapter)
    longest, stop_strings = settings.max_answer_tokens, settings.answer_stop_strings
    greedy = decoding(policy.tokenizer, max_new_tokens=longest, temperature=0.0, stop_strings=stop_strings)

    def answered(first: int, part: "Sequence[Problem]") -> list[dict[str, Any]]:
        answers = answer_chunk(
            [plainly(problem) for problem in part],
            task=task,
            sampler=sampler,
            tokenizer=policy.tokenizer,
            decoding=greedy,
            seed=settings.seed,
            stage="evaluate direct",
            first_problem=first,
            protocol=protocol,
        )
        return [answer.to_json() for answer in answers]

    for start, chunk in in_chunks(problems, "eval"):
        rows = hosts.share(chunk, lambda first, part, start=start: answered(start + first, part))
        yield from read_answers(rows, path="eval")


def _print_asked(asked: dict[str, Any]) -> None:
    drawn = f"split {asked['split']}, seed {asked['seed']}, beside {asked['teacher_rows']} teacher rows"
    whose = f", those of {asked['questions_of']}" if asked["questions_of"] else ""
    print(printable(f"questions: {asked['questions']} of {asked['task']} ({drawn}){whose}"))
    print(f"protocol: {asked['protocol']}")


def _print(summary: dict[str, Any]) -> None:
    low, high = 100 * summary["wilson_low"], 100 * summary["wilson_high"]
    print(f"solved {summary['solved']} of {summary['questions']} ({low:.1f}-{high:.1f} %, Wilson 95 %)")
    for skill, (solved, asked) in summary["by_skill"].items():
        print(f"  {shown(skill):<20} {solved:>4} of {asked}")
