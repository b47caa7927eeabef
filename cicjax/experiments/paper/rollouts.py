"""The transcripts that methods train on: teacher rows, the stream of attempts and corrections, ReST's pairs,
the oracle's rows.

All are native transcript files in RUN/rollouts, so that what the paper trains on can be read, shown and
trained on like anyone's own.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cicjax.experiments.paper import evaluate
from cicjax.experiments.paper.run import Run
from cicjax.files.whole import read_jsonl, write_jsonl
from cicjax.logs.native import format_episode, read_native
from cicjax.methods import oracle, rest
from cicjax.methods.rows import attempted, demonstration, question
from cicjax.model import qwen2
from cicjax.provenance.transcript import Episode
from cicjax.runs.folder import write_in_chunks
from cicjax.runs.metrics import bar
from cicjax.tasks import stem

PROBLEMS_PER_CHUNK = 16
ROUNDS = 4


def sft_rows(run: Run) -> Path:
    """The teacher's rows of equation (7)."""
    return _once(run, "sft", lambda: teacher_episodes(run.splits.sft))


def teacher_episodes(problems: Sequence[stem.Problem]) -> list[Episode]:
    """(x, y*) for every problem."""
    return [
        demonstration(problem.id, question_text=problem.question, solution=problem.solution)
        for problem in problems
    ]


def stream(run: Run, sft_adapter: qwen2.Tree) -> Path:
    """The frozen SFT-1 attempts the agent problems until enough attempts are wrong; failures are followed by
    the oracle's correction.

    Problem after problem, several attempts each, and round after round over all of them should one pass not
    suffice. Ends after four rounds whatever was found.
    """
    per_problem = run.settings.attempts_per_problem
    chunks = [
        (first, range(turn * per_problem, (turn + 1) * per_problem))
        for turn in range(ROUNDS)
        for first in range(0, len(run.splits.agent), PROBLEMS_PER_CHUNK)
    ]

    def enough(rows: list[dict[str, Any]]) -> bool:
        return sum(row["messages"][1]["solved"] == 0 for row in rows) >= run.settings.counts.wrong_attempts

    path = _sampled(run, "stream", sft_adapter, chunks, correction=True, stop=enough)
    found = sum(episode.messages[1].solved == 0 for episode in read_native(path))
    if found < run.settings.counts.wrong_attempts:
        print(
            f"stream: only {found} wrong attempts in {ROUNDS} rounds, "
            f"not {run.settings.counts.wrong_attempts}; going on with those"
        )
    return path


def candidates(run: Run, sft_adapter: qwen2.Tree) -> Path:
    """Groups of K candidates from SFT-1, equation (8): graded attempts, nobody corrected."""
    groups = run.settings.counts.groups
    chunks = [
        (first, range(run.settings.policy.num_generations)) for first in range(0, groups, PROBLEMS_PER_CHUNK)
    ]
    return _sampled(run, "candidates", sft_adapter, chunks, correction=False, last_problem=groups)


def rest_pairs(run: Run, sft_adapter: qwen2.Tree) -> Path:
    """Equation (9): at most one clean passing candidate a group, and the teacher's rows again."""

    def pairs() -> list[Episode]:
        groups: dict[str, list[Episode]] = {}
        for episode in read_native(candidates(run, sft_adapter)):
            groups.setdefault(_meta(episode)["problem"], []).append(episode)
        chosen = [rest.select([_graded(episode) for episode in group]) for group in groups.values()]
        return [each["episode"] for each in chosen if each is not None] + teacher_episodes(run.splits.sft)

    return _once(run, "rest", pairs)


def oracle_rows(run: Run, stream_file: Path) -> Path:
    """The stream's corrections alone, equation (12)."""
    return _once(run, "oracle", lambda: oracle.corrections(read_native(stream_file)))


def oracle_shared_rows(run: Run, stream_file: Path) -> Path:
    """Every row of the stream with its attempt taken out, in the stream's order."""
    return _once(
        run,
        "oracle_shared",
        lambda: [oracle.without_attempt(episode) for episode in read_native(stream_file)],
    )


def read(run: Run, name: str) -> list[Episode]:
    """The episodes of RUN/rollouts/NAME.jsonl. Raises Corrupted where a byte of them has changed."""
    path = _path(run, name)
    read_jsonl(path)
    return read_native(path)


def _path(run: Run, name: str) -> Path:
    return run.folder / "rollouts" / f"{name}.jsonl"


def _once(run: Run, name: str, make: Callable[[], list[Episode]]) -> Path:
    path = _path(run, name)
    if path.exists():
        read_jsonl(path)  # its digest is checked: a changed byte would be trained on without a word
    else:
        write_jsonl(path, [json.loads(format_episode(episode)) for episode in make()])
    return path


def _sampled(
    run: Run,
    name: str,
    adapter: qwen2.Tree,
    chunks: list[tuple[int, range]],
    *,
    correction: bool,
    stop: Callable[[list[dict[str, Any]]], bool] | None = None,
    last_problem: int | None = None,
) -> Path:
    path = _path(run, name)
    sampler = run.sampler(adapter)

    def work(_: int, chunk: tuple[int, range]) -> list[dict[str, Any]]:
        first, samples = chunk
        batch = run.splits.agent[:last_problem][first : first + PROBLEMS_PER_CHUNK]
        answers = evaluate.answer_chunk(
            [evaluate.plainly(problem) for problem in batch],
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
            stream_row(name, problem, answer, correction)
            for problem, answer in zip(owners, answers, strict=True)
        ]

    at_most = ", at most" if stop else ""
    with run.timed(name), bar(f"{name}: chunks of attempts{at_most}") as report:
        rows = write_in_chunks(path, chunks, work=work, progress=report, stop=stop)
        report(len(chunks), len(chunks), f"{len(rows)} attempts")
    return path


def stream_row(
    source: str, problem: stem.Problem, answer: dict[str, Any], correction: bool
) -> dict[str, Any]:
    """A graded attempt as a line of a native file, with the facts of its grading beside it."""
    attempt, id = evaluate.attempt_message(answer), f"{problem.id}#{answer['sample']}"
    if correction:
        episode = attempted(
            id, question_text=problem.question, attempt=attempt, correction=problem.solution, source=source
        )
    else:
        episode = Episode(id=id, source=source, messages=(question(problem.question), attempt))
    facts = {
        key: answer[key]
        for key in ("skill", "value", "unit", "reason", "finish_reason", "marker", "prompt_tokens")
    }
    return json.loads(format_episode(episode)) | {"meta": facts | {"problem": problem.id}}


def _graded(episode: Episode) -> dict[str, Any]:
    attempt = episode.messages[1]
    return _meta(episode) | {"completion": attempt.content, "solved": attempt.solved == 1, "episode": episode}


def _meta(episode: Episode) -> dict[str, Any]:
    return episode.meta or {}
