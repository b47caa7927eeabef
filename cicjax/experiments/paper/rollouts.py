"""The transcripts that methods train on: teacher rows, the stream of attempts and corrections, ReST's
candidates, and every method's own rows.

All are native transcript files in RUN/rollouts, so that what the paper trains on can be read, shown and
trained on like anyone's own.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

from cicjax.devices import hosts
from cicjax.experiments.answers import Answer
from cicjax.experiments.attempts import answer_chunk, attempt_message, plainly
from cicjax.experiments.paper.run import Run
from cicjax.files.seal import read_jsonl, write_jsonl
from cicjax.logs.native import episode_of, record_of
from cicjax.methods import Method
from cicjax.methods.rows import attempted, demonstration, plain_row, question
from cicjax.model import qwen2
from cicjax.provenance.transcript import Episode
from cicjax.runs.folder import write_in_chunks
from cicjax.runs.metrics import bar
from cicjax.tasks.task import Problem, Task

PROBLEMS_PER_CHUNK = 16
ROUNDS = 4


class Rollouts:
    """What this run has for methods to train on, a `methods.method.Rollouts`. The frozen SFT-1 samples it:
    before that is trained there are only the teacher's rows.

    Raises Corrupted where a byte of a file has changed.
    """

    def __init__(self, run: Run, sft_adapter: qwen2.Tree | None = None) -> None:
        self._run, self._adapter = run, sft_adapter

    def teacher(self) -> list[Episode]:
        """The teacher's rows of equation (7)."""
        return [
            demonstration(problem.id, question_text=problem.question, solution=problem.solution)
            for problem in self._run.splits.sft
        ]

    def stream(self) -> list[Episode]:
        """Attempts at the agent problems until enough are wrong; a failure is followed by the oracle's
        correction."""
        return self._stream

    @cached_property
    def _stream(self) -> list[Episode]:
        return _stream(self._run, self._adapter)

    def held_out(self) -> list[Episode]:
        """One attempt at every development question, failures with their corrections: trained on by none."""
        run = self._run
        chunks = [(first, range(1)) for first in range(0, len(run.splits.dev), PROBLEMS_PER_CHUNK)]
        _sample(run, "held_out", self._adapter, chunks, task=run.task, problems=run.splits.dev)
        return read(run, "held_out")

    def candidates(self) -> list[list[Episode]]:
        """Groups of K candidates, equation (8): graded attempts, nobody corrected."""
        groups: dict[str, list[Episode]] = {}
        for episode in _candidates(self._run, self._adapter):
            groups.setdefault(meta(episode)["problem"], []).append(episode)
        return list(groups.values())

    def rows_of(self, method: Method) -> list[Episode]:
        """The rows of a method, which RUN/rollouts keeps in a file of its name; the stream as it is stays in
        the stream's file."""
        make = method.rows
        assert make is not None
        if method.takes_stream_whole:
            return self.stream()
        return _kept(self._run, method.name, lambda: make(self))

    def samples_of(self, method: Method) -> list[Episode]:
        """The agent's samples that a method learns from, as far as they were drawn."""
        if method.sample_file is None:
            return []
        if method.samples == "own":
            return read(self._run, method.sample_file)
        return self.stream() if method.samples == "stream" else [*chain(*self.candidates())]


def _kept(run: Run, name: str, make: Callable[[], Sequence[Episode]]) -> list[Episode]:
    """The episodes of RUN/rollouts/NAME.jsonl, made where they are not there yet."""
    path = _path(run, name)
    if not path.exists():
        records = [record_of(episode) for episode in make()]
        hosts.once(lambda: write_jsonl(path, records, once=True))
    return read(run, name)


def read(run: Run, name: str) -> list[Episode]:
    """The episodes of RUN/rollouts/NAME.jsonl. Raises Corrupted where a byte of them has changed."""
    path = _path(run, name)
    return [
        episode_of(record, where=f"{path}:{line}", line=line)
        for line, record in enumerate(read_jsonl(path), start=1)
    ]


def meta(episode: Episode) -> dict[str, Any]:
    """The facts beside a row."""
    return episode.meta or {}


def attempt_row(source: str, problem: Problem, answer: Answer, *, task: Task | None = None) -> Episode:
    """A graded attempt as a row, with the facts of its grading beside it; where it failed, followed by the
    correction of the `task` that is given."""
    attempt, id = attempt_message(answer), f"{problem.id}#{answer.sample}"
    facts = {
        "skill": answer.skill,
        **answer.facts,
        "reason": answer.reason,
        "finish_reason": answer.finish_reason,
        "marker": answer.marker,
        "prompt_tokens": answer.prompt_tokens,
        "problem": problem.id,
    }
    if task is None:
        return replace(plain_row(id, source, question(problem.question), attempt), meta=facts)
    row = attempted(
        id,
        question_text=problem.question,
        attempt=attempt,
        correction="" if answer.solved else task.correct(problem, answer.completion),
        source=source,
    )
    return replace(row, meta=facts)


def _stream(run: Run, adapter: qwen2.Tree | None) -> list[Episode]:
    """Problem after problem, several attempts each, and round after round over all of them should one pass
    not suffice. Ends after four rounds whatever was found."""
    per_problem, wanted = run.settings.attempts_per_problem, run.settings.counts.wrong_attempts
    chunks = [
        (first, range(turn * per_problem, (turn + 1) * per_problem))
        for turn in range(ROUNDS)
        for first in range(0, len(run.splits.agent), PROBLEMS_PER_CHUNK)
    ]

    def enough(rows: list[dict[str, Any]]) -> bool:
        return sum(row["messages"][1]["solved"] == 0 for row in rows) >= wanted

    _sample(run, "stream", adapter, chunks, task=run.task, stop=enough)
    episodes = read(run, "stream")
    wrong = sum(episode.messages[1].solved == 0 for episode in episodes)
    if wrong < wanted:
        print(f"stream: only {wrong} wrong attempts in {ROUNDS} rounds, not {wanted}; going on with those")
    return episodes


def _candidates(run: Run, adapter: qwen2.Tree | None) -> list[Episode]:
    groups, samples = run.settings.counts.groups, range(run.settings.policy.num_generations)
    chunks = [(first, samples) for first in range(0, groups, PROBLEMS_PER_CHUNK)]
    _sample(run, "candidates", adapter, chunks, problems=run.splits.agent[:groups])
    return read(run, "candidates")


def _sample(
    run: Run,
    name: str,
    adapter: qwen2.Tree | None,
    chunks: list[tuple[int, range]],
    *,
    task: Task | None = None,
    stop: Callable[[list[dict[str, Any]]], bool] | None = None,
    problems: Sequence[Problem] | None = None,
) -> None:
    """RUN/rollouts/NAME.jsonl, chunk by chunk: (first problem, numbers of the samples of each problem)."""
    assert adapter is not None
    sampler, problems = run.sampler(adapter), run.splits.agent if problems is None else problems

    def work(_: int, chunk: tuple[int, range]) -> list[dict[str, Any]]:
        first, samples = chunk
        batch = problems[first : first + PROBLEMS_PER_CHUNK]
        answers = answer_chunk(
            [plainly(problem) for problem in batch],
            task=run.task,
            sampler=sampler(),
            tokenizer=run.tokenizer,
            decoding=run.sampled,
            seed=run.settings.seed,
            stage=name,
            first_problem=first,
            samples=samples,
        )
        owners = [problem for problem in batch for _ in samples]
        return [
            record_of(attempt_row(name, problem, answer, task=task))
            for problem, answer in zip(owners, answers, strict=True)
        ]

    at_most = ", at most" if stop else ""
    with run.timed(name), bar(f"{name}: chunks of attempts{at_most}") as report:
        rows = write_in_chunks(_path(run, name), chunks, work=work, progress=report, stop=stop)
        report(len(chunks), len(chunks), f"{len(rows)} attempts")


def _path(run: Run, name: str) -> Path:
    return run.folder / "rollouts" / f"{name}.jsonl"
