"""What a method does to text that it was not trained on: SFT-1's attempts at the development questions, and
the oracle's corrections of those that failed.

    kl_to_sft      KL(SFT-1 || method) a token, over SFT-1's own samples (estimator k3)
    held_out_nats  -log p(y* | context) a token of the correction: after the question alone ("direct"), after
                   SFT-1's failed attempt ("repair"), after another question's of the same skill ("placebo")
    usable_information   what the attempt is worth to the method: nats of the placebo minus nats of repair, a
                   token, with a bootstrap over questions; at the first token at which y* leaves y_hat, and
                   over all others

Nothing here is fitted, so nothing needs to be crossed: no question of the development split is trained on.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from cicjax.experiments.paper.run import Run
from cicjax.methods import Method, arm_rows, oracle
from cicjax.methods.rows import without_loss
from cicjax.model import qwen2
from cicjax.objectives import policy_gradient
from cicjax.provenance.transcript import Episode
from cicjax.runs.folder import write_in_chunks
from cicjax.runs.metrics import bar
from cicjax.training import scoring
from cicjax.training.batches import fit_shape

ROWS_PER_CHUNK, RESAMPLES = 64, 2000
Scores = dict[str, list[np.ndarray]]  # by kind of row: log-probabilities of its targets


class Probes(NamedTuple):
    """The rows to be scored, by kind: every attempt; of the failed ones, in the same order, the correction in
    its three contexts. `questions` are those of the failed ones, `leaves` says at which of its tokens a
    correction leaves its attempt."""

    rows: dict[str, list[Episode]]
    questions: list[str]
    leaves: list[int]


def probes(run: Run, attempts: Sequence[Episode], *, told: bool = False) -> Probes:
    """The rows that follow from SFT-1's attempts at the development questions; with `told` the verdict stands
    after an attempt, as in the method's own rows."""
    failed = [episode for episode in attempts if arm_rows.failed(episode)]
    strangers = arm_rows.others_attempts(failed)
    placebo = [arm_rows.with_attempt(row, other) for row, other in zip(failed, strangers, strict=True)]
    judged = arm_rows.told if told else lambda episode: episode
    rows = {
        "attempt": [Episode(id=row.id, messages=row.messages[:2]) for row in attempts],
        "direct": oracle.corrections(failed),
        "repair": [judged(without_loss(row)) for row in failed],
        "placebo": [judged(without_loss(row)) for row in placebo],
    }
    questions = [str((row.meta or {}).get("problem", row.id)) for row in failed]
    return Probes(rows, questions, [_leaves(run, row) for row in failed])


def _leaves(run: Run, episode: Episode) -> int:
    """The number of tokens that a correction has in common with its attempt, from the start."""
    encoded = run.encode(without_loss(episode))
    correction, attempt = encoded.tokens[encoded.is_target], np.asarray(episode.messages[1].tokens or ())
    shorter = min(len(correction), len(attempt))
    apart = np.nonzero(correction[:shorter] != attempt[:shorter])[0]
    return int(apart[0]) if len(apart) else shorter


def held_out_stage(
    run: Run, method: Method, adapter: qwen2.Tree | None, attempts: Sequence[Episode]
) -> Scores:
    """Log-probabilities of the targets of every row, in evaluations/METHOD-held-out.jsonl."""
    rows = probes(run, attempts, told=method.told).rows
    flat = [episode for episodes in rows.values() for episode in episodes]
    scores = iter(scored(run, adapter, flat, name=f"{method.name}-held-out"))
    return {kind: [next(scores) for _ in episodes] for kind, episodes in rows.items()}


def scored(
    run: Run, adapter: qwen2.Tree | None, episodes: Sequence[Episode], *, name: str
) -> list[np.ndarray]:
    """Log-probabilities of each row's targets, kept in evaluations/NAME.jsonl."""
    encoded = [run.encode(episode) for episode in episodes]
    shape = fit_shape((len(each.tokens) for each in encoded), rows=run.model.kind.lines_per_batch)

    def work(_: int, numbers: Sequence[int]) -> list[dict[str, Any]]:
        chunk = [encoded[n] for n in numbers]
        scores = scoring.token_logprobs(
            chunk, model=run.model, base=run.base, adapter=adapter, shape=shape, targets_only=True
        )
        return [
            {"id": episodes[n].id, "logprobs": np.round(score[each.is_target], 5).tolist()}
            for n, score, each in zip(numbers, scores, chunk, strict=True)
        ]

    numbers = range(len(episodes))
    chunks = [numbers[start : start + ROWS_PER_CHUNK] for start in numbers[::ROWS_PER_CHUNK]]
    with run.timed(f"score {name}"), bar(f"score {name}") as report:
        path = run.folder / "evaluations" / f"{name}.jsonl"
        lines = write_in_chunks(path, chunks, work=work, progress=report)
    return [np.asarray(line["logprobs"], np.float64) for line in lines]


def summary(scores: Scores, start: Scores, probes: Probes) -> dict[str, Any]:
    """The three measures of a method, from its scores and SFT-1's; None where nothing failed."""
    ours, first = (np.concatenate([np.zeros(0), *each["attempt"]]) for each in (scores, start))
    kinds = ("direct", "repair", "placebo") if scores["repair"] else ()
    return {
        "kl_to_sft": float(np.asarray(policy_gradient.kl(first, ours)).mean()) if len(first) else None,
        "held_out_nats": {kind: nats(scores[kind]) for kind in kinds} or None,
        "usable_information": _information(scores, probes) if kinds else None,
    }


def nats(rows: Sequence[np.ndarray]) -> float:
    """Mean negative log-likelihood a token."""
    return float(-np.concatenate(rows).mean())


def _information(scores: Scores, probes: Probes) -> dict[str, float | None]:
    """Nats a token that the method gains from a question's own attempt over another's."""
    gains = [repair - placebo for repair, placebo in zip(scores["repair"], scores["placebo"], strict=True)]
    there = [gain[at : at + 1] for gain, at in zip(gains, probes.leaves, strict=True)]
    elsewhere = [np.delete(gain, np.s_[at : at + 1]) for gain, at in zip(gains, probes.leaves, strict=True)]
    low, high = _bootstrap(gains, probes.questions)
    return {
        "nats": float(np.concatenate(gains).mean()),
        "low": low,
        "high": high,
        "where_it_leaves": _mean(there),
        "elsewhere": _mean(elsewhere),
    }


def _mean(parts: Sequence[np.ndarray]) -> float | None:
    values = np.concatenate(parts)
    return float(values.mean()) if len(values) else None


def _bootstrap(gains: Sequence[np.ndarray], questions: Sequence[str]) -> tuple[float, float]:
    """95 % of the mean a token over questions drawn with replacement, each with all its rows."""
    names = sorted(set(questions))
    place = {name: n for n, name in enumerate(names)}
    sums, tokens = np.zeros(len(names)), np.zeros(len(names))
    for gain, question in zip(gains, questions, strict=True):
        sums[place[question]] += gain.sum()
        tokens[place[question]] += len(gain)
    drawn = np.random.default_rng(0).integers(len(names), size=(RESAMPLES, len(names)))
    low, high = np.quantile(sums[drawn].sum(axis=1) / tokens[drawn].sum(axis=1), (0.025, 0.975))
    return float(low), float(high)
