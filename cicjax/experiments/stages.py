"""The paper as a graph of stages in one run folder: SFT-1, the stream, its arms, the evaluations, the results.

Every stage leaves its result in the folder, whole, and is never done again; the same command goes on where the last one stopped.

    splits -> sft -> evaluations/sft-direct
                  -> rollouts/stream -> observational, interventional -> evaluations -> results.json
"""

import json
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from cicjax.experiments import evaluate
from cicjax.experiments.settings import Settings
from cicjax.methods import interventional, observational, sft
from cicjax.methods.rows import attempted, demonstration, updates_of
from cicjax.model import cost, huggingface, lora, qwen2
from cicjax.provenance import Encoded, encode, render, tokenizer, viewer
from cicjax.provenance.formats import Episode, format_episode, read_native, write_native
from cicjax.provenance.tokenizer import Tokenizer
from cicjax.runs.files import read_json, write_json
from cicjax.runs.folder import write_in_chunks
from cicjax.runs.metrics import MetricsLog, bar
from cicjax.sampling.sampler import Decoding, Sampler
from cicjax.tasks import stem
from cicjax.training import checkpoints, steps
from cicjax.training.batches import Row, fit_shape, make_row
from cicjax.training.loop import Progress, train

PROBLEMS_PER_CHUNK = 16
Weighting = Callable[[Encoded], Float[np.ndarray, "T"]]


@dataclass(frozen=True, kw_only=True)
class Run:
    """What every stage needs: where to write, what was decided, the frozen base and the problems."""

    folder: Path
    settings: Settings
    model: qwen2.Model
    base: qwen2.Tree
    base_fingerprint: str
    tokenizer: Tokenizer
    splits: stem.Splits
    save_steps: int = 25

    @property
    def questions(self) -> tuple[stem.Problem, ...]:
        """The problems that methods are compared on."""
        return self.splits.test if self.settings.split == "test" else self.splits.dev

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


def sft_episodes(problems: Sequence[stem.Problem]) -> list[Episode]:
    """The teacher rows of equation (7)."""
    return [demonstration(problem.id, question_text=problem.question, solution=problem.solution) for problem in problems]


def sft_stage(run: Run) -> qwen2.Tree:
    """SFT-1: one epoch on the teacher's rows, from a fresh adapter. The start of every second stage."""
    path = run.folder / "rollouts" / "sft.jsonl"
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        write_native(path, sft_episodes(run.splits.sft))
    key = jax.random.fold_in(jax.random.key(run.settings.seed), zlib.crc32(b"adapter"))
    return training_stage(run, "sft", path, sft.loss_weights, start=lora.init_adapter(run.model.config, run.settings.lora, key))


def stream_stage(run: Run, sft_adapter: qwen2.Tree) -> Path:
    """The frozen SFT-1 attempts the agent problems until enough attempts are wrong; failures are followed by the oracle's correction.

    Problem after problem, several attempts each, and round after round over all of them should one pass not suffice. Ends after four rounds
    whatever was found.
    """
    path = run.folder / "rollouts" / "stream.jsonl"
    if path.exists():
        return path
    settings, problems = run.settings, run.splits.agent
    chunks = [
        (first, range(turn * settings.attempts_per_problem, (turn + 1) * settings.attempts_per_problem))
        for turn in range(4)
        for first in range(0, len(problems), PROBLEMS_PER_CHUNK)
    ]
    sampler = Sampler(run.model, run.base, sft_adapter)
    decoding = Decoding(
        max_new_tokens=settings.max_attempt_tokens,
        temperature=settings.attempt_temperature,
        stop_ids=tuple(sorted(run.tokenizer.stop_ids)),
    )

    def work(_: int, chunk: tuple[int, range]) -> list[dict[str, Any]]:
        first, samples = chunk
        batch = problems[first : first + PROBLEMS_PER_CHUNK]
        answers = evaluate.answer_chunk(
            [evaluate.plainly(problem) for problem in batch],
            sampler=sampler,
            tokenizer=run.tokenizer,
            decoding=decoding,
            seed=settings.seed,
            stage="stream",
            first_problem=first,
            samples=samples,
        )
        owners = [problem for problem in batch for _ in samples]
        return [_stream_row(problem, answer) for problem, answer in zip(owners, answers, strict=True)]

    def enough(rows: list[dict[str, Any]]) -> bool:
        return sum(row["messages"][1]["solved"] == 0 for row in rows) >= settings.counts.wrong_attempts

    with run.timed("stream"), bar("stream: chunks of attempts") as report:
        write_in_chunks(path, chunks, work=work, progress=report, stop=enough)
    return path


def _stream_row(problem: stem.Problem, answer: dict[str, Any]) -> dict[str, Any]:
    episode = attempted(
        f"{problem.id}#{answer['sample']}",
        question_text=problem.question,
        attempt=evaluate.attempt_message(answer),
        correction=problem.solution,
    )
    facts = {key: answer[key] for key in ("skill", "value", "unit", "reason", "finish_reason", "prompt_tokens")}
    return json.loads(format_episode(episode)) | {"meta": facts | {"problem": problem.id}}


def training_stage(run: Run, name: str, transcripts: Path, weighting: Weighting, *, start: qwen2.Tree) -> qwen2.Tree:
    """One epoch over a transcript file under one weighting; resumes from its last checkpoint. Gives the trained adapter."""
    directory, record = run.folder / name, run.folder / name / "budget.json"
    if record.exists():
        return checkpoints.load_adapter(directory)[0]
    episodes = read_native(transcripts)
    encoded = [encode(render.plain(episode.messages, id=episode.id), run.tokenizer) for episode in episodes]
    rows = [make_row(each, weighting(each)) for each in encoded]
    updates = updates_of(rows, seed=run.settings.seed, rows_per_update=run.settings.rows_per_update)
    order = updates_of([e.id for e in episodes], seed=run.settings.seed, rows_per_update=run.settings.rows_per_update)
    write_json(directory / "order.json", order)
    shape = fit_shape((len(each.tokens) for each in encoded), rows=run.settings.lines_per_batch)
    state = steps.start_state(start, run.settings.optimization)
    metadata = {
        "method": name,
        "total_updates": len(updates),
        "base_fingerprint": run.base_fingerprint,
        "lora": asdict(run.settings.lora) | {"target_modules": list(run.settings.lora.target_modules)},
    }
    done = checkpoints.latest(directory)
    if done is None:
        _show_example(run, name, encoded, weighting)
    else:
        state = steps.TrainState(**checkpoints.load(directory, state._asdict(), step=done)[0])
    log = MetricsLog(run.folder / "metrics.jsonl", stage=name, resume_after=done)
    with run.timed(f"train {name}"), log, bar(f"train {name}") as report:
        report(int(state.step), len(updates))
        for state, progress in train(
            state, updates, model=run.model, base=run.base, shape=shape, optimization=run.settings.optimization
        ):
            log.write(progress.update, _metrics(progress))
            report(progress.update, progress.total, f"loss {progress.loss:.3f}")
            if progress.update % run.save_steps == 0 or progress.update == progress.total:
                checkpoints.save(directory, progress.update, tree=state._asdict(), metadata=metadata)
    write_json(record, _training_budget(run, state, rows))
    return state.adapter


def _metrics(progress: Progress) -> dict[str, Any]:
    return {
        "total": progress.total,
        "loss": progress.loss,
        "grad_norm": progress.grad_norm,
        "learning_rate": progress.learning_rate,
        "applied": progress.applied,
        "rows": progress.rows,
        "live_rows": progress.live_rows,
        "tokens/supervised": progress.tokens_supervised,
        "tokens/total": progress.tokens_total,
        "num_tokens": progress.tokens_processed,
    }


def _show_example(run: Run, name: str, encoded: Sequence[Encoded], weighting: Weighting) -> None:
    """One masked row, a failed one where there is one, and how much of the data carries loss: seen before anything is trained."""
    example = next((each for each in encoded if (each.solved == 0).any()), encoded[0])
    supervised = sum(int((weighting(each) > 0).sum()) for each in encoded)
    total = sum(len(each.tokens) for each in encoded)
    print(f"\n{name}: {len(encoded)} rows, {supervised:,} of {total:,} tokens supervised ({supervised / total:.1%}). One of them:")
    print(viewer.boxes(example, run.tokenizer, weighting(example)), flush=True)


def _training_budget(run: Run, state: steps.TrainState, rows: Sequence[Row]) -> dict[str, Any]:
    live = [row for row in rows if row.loss_weights.any()]
    processed = sum(len(row.loss_weights) for row in live)
    supervised = sum(int((row.loss_weights != 0).sum()) for row in live)
    return {
        "updates": int(state.step),
        "empty_updates": int(state.empty_updates),
        "nonfinite_updates": int(state.nonfinite_updates),
        "rows": len(rows),
        "supervised_tokens": supervised,
        "processed_tokens": processed,
        "learning_rate": run.settings.optimization.learning_rate,
        "flop": cost.training_flop(run.model.config, run.settings.lora, tokens=processed, supervised=supervised),
    }


Answers = list[dict[str, Any]]


def evaluation_stage(run: Run, method: str, adapter: qwen2.Tree | None, first: Answers | None) -> dict[str, Answers]:
    """A method's direct answers and, given SFT-1's `first` answers, its second ones; greedy."""
    direct = _answers(run, method, "direct", adapter, [evaluate.plainly(problem) for problem in run.questions])
    first = direct if first is None else first
    asked = [evaluate.after_attempt(problem, answer) for problem, answer in zip(run.questions, first, strict=True)]
    return {"direct": direct, "second": _answers(run, method, "second", adapter, asked)}


def _answers(run: Run, method: str, protocol: str, adapter: qwen2.Tree | None, asked: list[evaluate.Asked]) -> list[dict[str, Any]]:
    path = run.folder / "evaluations" / f"{method}-{protocol}.jsonl"
    size = evaluate.ROWS_PER_CHUNK
    chunks = [(first, asked[first : first + size]) for first in range(0, len(asked), size)]
    samplers: list[Sampler] = []  # made when a chunk is missing, not when all is there already
    decoding = Decoding(
        max_new_tokens=run.settings.max_answer_tokens,
        temperature=0.0,
        stop_ids=tuple(sorted(run.tokenizer.stop_ids)),
        stop_strings=run.settings.answer_stop_strings,
    )

    def work(_: int, chunk: tuple[int, list[evaluate.Asked]]) -> list[dict[str, Any]]:
        if not samplers:
            samplers.append(Sampler(run.model, run.base, adapter))
        return evaluate.answer_chunk(
            chunk[1],
            sampler=samplers[0],
            tokenizer=run.tokenizer,
            decoding=decoding,
            seed=run.settings.seed,
            stage=f"evaluate {protocol}",
            first_problem=chunk[0],
        )

    with run.timed(f"evaluate {method} {protocol}"), bar(f"evaluate {method}, {protocol}") as report:
        return write_in_chunks(path, chunks, work=work, progress=report)


ARMS: dict[str, Weighting] = {"observational": observational.loss_weights, "interventional": interventional.loss_weights}


def run_stages(run: Run) -> dict[str, Any]:
    """Everything that the chosen methods need, in order; gives the contents of results.json."""
    methods = run.settings.methods
    sft_adapter = sft_stage(run)
    answers = {"sft": evaluation_stage(run, "sft", sft_adapter, None)}
    first = answers["sft"]["direct"]
    if "base" in methods:
        answers["base"] = evaluation_stage(run, "base", None, first)
    arms = [method for method in methods if method in ARMS]
    transcripts = stream_stage(run, sft_adapter) if arms else None
    for method in arms:
        assert transcripts is not None
        adapter = training_stage(run, method, transcripts, ARMS[method], start=sft_adapter)
        answers[method] = evaluation_stage(run, method, adapter, first)
    results = collect_results(run, {method: answers[method] for method in methods}, first, transcripts)
    write_json(run.folder / "results.json", results)
    return results


def collect_results(run: Run, answers: dict[str, Any], first: list[dict[str, Any]], transcripts: Path | None) -> dict[str, Any]:
    """results.json: a function of model, seed and settings alone."""
    episodes = read_native(transcripts) if transcripts is not None else []
    methods = {}
    for method, given in answers.items():
        methods[method] = evaluate.direct_summary(given["direct"]) | evaluate.second_summary(given["direct"], given["second"], first)
        methods[method]["budget"] = _budget(run, method, episodes)
    return {
        "model": run.base_fingerprint,
        "seed": run.settings.seed,
        "settings": json.loads(json.dumps(run.settings.record())),
        "ledger": ledger(run, episodes) if episodes else {},
        "methods": methods,
    }


def ledger(run: Run, episodes: Sequence[Episode]) -> dict[str, Any]:
    """Who wrote how many positions of the stream and which of them each arm supervises (section 2.3)."""
    encoded = [encode(render.plain(episode.messages, id=episode.id), run.tokenizer) for episode in episodes]
    wrong = [episode for episode in episodes if episode.messages[1].solved == 0]

    def positions(rule: Callable[[Encoded], np.ndarray]) -> int:
        return sum(int(np.count_nonzero(rule(each))) for each in encoded)

    oracle = [demonstration(e.id, question_text=e.messages[0].content, solution=e.messages[2].content) for e in wrong]
    return {
        "stream_rows": len(episodes),
        "wrong_attempts": len(wrong),
        "unique_corrected_questions": len({(episode.meta or {})["problem"] for episode in wrong}),
        "positions_total": sum(len(each.tokens) for each in encoded),
        "positions_observational": positions(observational.loss_weights),
        "positions_interventional": positions(interventional.loss_weights),
        "positions_attempts": positions(lambda each: each.is_target & (each.gamma == 1)),
        "positions_oracle": sum(int(encode(render.plain(e.messages), run.tokenizer).is_target.sum()) for e in oracle),
        "first_attempts_correct": len(episodes) - len(wrong),
    }


def _budget(run: Run, method: str, episodes: Sequence[Episode]) -> dict[str, Any]:
    """What a method spent beyond SFT-1, which all share; the stream's sampling counts for every arm that uses it."""
    keys = ("updates", "rows", "supervised_tokens", "processed_tokens", "learning_rate", "flop")
    record = read_json(run.folder / method / "budget.json") if method != "base" else {"learning_rate": None}
    budget = {key: record.get(key, 0) for key in keys}
    uses_stream = method in ARMS
    attempts = [episode.messages[1].tokens or () for episode in episodes] if uses_stream else []
    prompts = {(episode.meta or {})["problem"]: (episode.meta or {})["prompt_tokens"] for episode in episodes} if uses_stream else {}
    sampled = sum(map(len, attempts))
    budget["flop"] += cost.sampling_flop(run.model.config, prompt_tokens=sum(prompts.values()), sampled_tokens=sampled)
    oracle = sum(len(episode.messages) == 3 for episode in episodes) if uses_stream else 0
    return budget | {
        "sampled_tokens": sampled,
        "verifier_calls": len(attempts),
        "oracle_solutions": run.settings.counts.sft_rows if method == "sft" else oracle,
    }


def load_run(folder: Path, settings: Settings, *, model_folder: str, save_steps: int = 25) -> Run:
    """Read base and tokenizer and draw the problems; touches nothing. Raises BadInput for a model that cannot be used."""
    dtype = {"bfloat16": jnp.bfloat16, "float32": jnp.float32}[settings.dtype]
    location = huggingface.resolve(model_folder)
    config, base = huggingface.load_base(location, dtype)
    counts = settings.counts
    return Run(
        folder=folder,
        settings=settings,
        model=qwen2.Model(config, settings.lora),
        base=qwen2.unstack(base) if jax.default_backend() == "cpu" else base,
        base_fingerprint=huggingface.fingerprint(location),
        tokenizer=tokenizer.load(location),
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
