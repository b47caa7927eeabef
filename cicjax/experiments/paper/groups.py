"""GRPO's stage: group after group from the current policy, an update after every group that is not flat."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cicjax.devices import hosts
from cicjax.errors import Corrupted
from cicjax.experiments.answers import Answer, read_answers
from cicjax.experiments.attempts import answer_chunk, plainly
from cicjax.experiments.paper.rollouts import attempt_row, meta
from cicjax.experiments.paper.run import Run
from cicjax.files.seal import read_json, write_json, write_jsonl
from cicjax.logs.native import episode_of, record_of
from cicjax.methods import Method, grpo
from cicjax.model import cost, qwen2
from cicjax.objectives import policy_gradient
from cicjax.provenance import Encoded
from cicjax.provenance.transcript import Episode
from cicjax.runs.folder import read_part, write_part
from cicjax.runs.metrics import bar
from cicjax.sampling.sampler import Sampler
from cicjax.training import scoring, steps
from cicjax.training.batches import Row, fit_shape
from cicjax.training.finetune import shape_for, show_example
from cicjax.training.learner import BUDGET, Learner, finished_adapter


def grpo_stage(run: Run, method: Method, sft_adapter: qwen2.Tree) -> qwen2.Tree:
    """Train SFT-1 by equations (10)-(11). A flat group is an update without targets: it moves nothing and is
    counted.

    The update's index is the position: resumed from a checkpoint, later groups are drawn again, by the same
    policy with the same keys.
    """
    name, groups = method.name, run.settings.counts.groups
    finished = finished_adapter(run.folder / name)
    if finished is not None and _joined_file(run, name).exists():
        return finished
    iterations = run.settings.policy.num_iterations
    trainer, total = run.trainer(method), groups * iterations
    learner = Learner(trainer, name, start=sft_adapter, total=total)
    with run.timed(f"train {name}"), bar(f"train {name}: groups") as report, learner:
        shown = learner.resumed
        for group in range(learner.step // iterations, groups):
            report(group, groups)
            rows, facts = _group(run, name, group, adapter=learner.adapter, sft_adapter=sft_adapter)
            if rows and not shown:
                shown = True
                show_example(run.tokenizer, f"{name}, its first live group", rows)
            _train_group(run, learner, rows, facts, optimization=trainer.optimization, total=total)
            last = group + 1 == groups
            if last or (group + 1) * iterations % run.save_steps < iterations:
                learner.save(final=last)
            hosts.check()
        report(groups, groups)
    _join(run, name)
    budget = _budget(run, method, learner.state)
    hosts.once(lambda: write_json(run.folder / name / BUDGET, budget))
    return learner.adapter


def _train_group(
    run: Run,
    learner: Learner,
    rows: Sequence[Row],
    facts: dict[str, Any],
    *,
    optimization: steps.Optimization,
    total: int,
) -> None:
    """A group's updates, each of them in the log. Raises Corrupted after several in a row that are not
    finite."""
    constants = run.settings.policy
    for iteration in range(constants.num_iterations):
        again = _clipped(run, learner.adapter, rows) if iteration and rows else {}
        rate = steps.learning_rate_at(learner.step, total, optimization)
        shape = shape_for(run.model, run.base, rows)
        learner.update(rows, rate=rate, shape=shape, loss=constants.loss, facts=facts | again)


def _group(
    run: Run, name: str, group: int, *, adapter: qwen2.Tree, sft_adapter: qwen2.Tree
) -> tuple[list[Row], dict[str, Any]]:
    """Draw, grade and score one group; its rows (none where it is flat) and what metrics.jsonl says of it."""
    problem, answers = run.splits.agent[group], _answers(run, name, group, adapter)
    episodes = [attempt_row(name, problem, answer) for answer in answers]
    records = [record_of(episode) for episode in episodes]
    hosts.once(lambda: write_part(_group_file(run, name, group), records))
    encoded = [run.encode(episode) for episode in episodes]
    rewards = [float(answer.solved) for answer in answers]
    facts = {
        "reward": float(np.mean(rewards)),
        "reward_std": float(np.std(rewards)),
        "frac_reward_zero_std": float(len(set(rewards)) == 1),
    }
    if facts["frac_reward_zero_std"]:
        return [], facts
    old, ref = (_scored(run, encoded, each) for each in (adapter, sft_adapter))
    sampled = [np.asarray(answer.logprobs) for answer in answers]
    return grpo.group_rows(encoded, rewards, old, ref), facts | _distances(encoded, sampled, old, ref)


def _answers(run: Run, name: str, group: int, adapter: qwen2.Tree) -> list[Answer]:
    """The group's samples, which the hosts share."""
    sampler = Sampler(run.model, run.base, adapter)

    def drawn(_: int, samples: Sequence[int]) -> list[dict[str, Any]]:
        answers = answer_chunk(
            [plainly(run.splits.agent[group])],
            task=run.task,
            sampler=sampler,
            tokenizer=run.tokenizer,
            decoding=run.sampled,
            seed=run.settings.seed,
            stage=name,
            first_problem=group,
            samples=range(samples[0], samples[-1] + 1),
        )
        return [answer.to_json() for answer in answers]

    rows = hosts.share(range(run.settings.policy.num_generations), drawn)
    return read_answers(rows, path=_group_file(run, name, group))


def _distances(
    encoded: Sequence[Encoded],
    sampled: Sequence[np.ndarray],
    old_logprobs: Sequence[np.ndarray],
    ref_logprobs: Sequence[np.ndarray],
) -> dict[str, float]:
    """Over the sampled tokens: mean KL to SFT-1, and how far scoring is from the log-probabilities of
    sampling."""
    drawn = [each.gamma == 1 for each in encoded]
    old = np.concatenate([each[here] for each, here in zip(old_logprobs, drawn, strict=True)])
    ref = np.concatenate([each[here] for each, here in zip(ref_logprobs, drawn, strict=True)])
    gap = np.abs(old - np.concatenate(list(sampled)))
    divergence = np.asarray(policy_gradient.kl(old, ref))
    return {
        "kl": float(divergence.mean()),
        "logprob_gap_mean": float(gap.mean()),
        "logprob_gap_max": float(gap.max()),
    }


def _clipped(run: Run, adapter: qwen2.Tree, rows: Sequence[Row]) -> dict[str, float]:
    """Share of a group's ratios that the clip cuts: not from the first update, where every one is 1."""
    epsilon, whole = run.settings.policy.epsilon, run.settings.policy.ratio == "sequence"
    cut = []
    for row, policy_logprobs in zip(rows, _scored(run, [row.encoded for row in rows], adapter), strict=True):
        here = row.loss_weights > 0
        moved = (policy_logprobs - row.extras["old_logprobs"])[here]
        ratio = np.exp(moved.sum(keepdims=True) if whole else moved)
        gains = row.extras["advantages"][here][: len(ratio)] > 0
        cut.append(np.where(gains, ratio > 1 + epsilon, ratio < 1 - epsilon))
    return {"clip_ratio": float(np.concatenate(cut).mean())}


def _scored(run: Run, encoded: list[Encoded], adapter: qwen2.Tree) -> list[np.ndarray]:
    shape = fit_shape((len(each.tokens) for each in encoded), rows=run.model.kind.lines_per_batch)
    return scoring.token_logprobs(
        encoded, model=run.model, base=run.base, adapter=adapter, shape=shape, targets_only=True
    )


def _group_file(run: Run, name: str, group: int) -> Path:
    return run.folder / name / "groups" / f"{group:05d}.jsonl"


def _joined_file(run: Run, name: str) -> Path:
    return run.folder / "rollouts" / f"{name}.jsonl"


def _join(run: Run, name: str) -> None:
    """Every group in one file of RUN/rollouts."""
    groups = range(run.settings.counts.groups)
    rows = [row for group in groups for row in _rows_of_group(run, name, group)]
    hosts.once(lambda: write_jsonl(_joined_file(run, name), rows, once=True))


def _budget(run: Run, method: Method, state: steps.TrainState) -> dict[str, Any]:
    """What the run of groups spent. Three passes a live group: the old policy's and the reference's forward,
    the update's."""
    groups = [_read_group(run, method.name, group) for group in range(run.settings.counts.groups)]
    live = [group for group in groups if len({row.messages[1].solved for row in group}) > 1]
    rows = [row for group in live for row in group]
    supervised = sum(len(row.messages[1].tokens or ()) for row in rows)
    ends = sum(row.messages[1].truncated for row in rows)
    processed = supervised + ends + sum(meta(row)["prompt_tokens"] for row in rows)
    config, iterations = run.model.config, run.settings.policy.num_iterations
    scoring_flop = 2 * (processed * cost.body_flop(config) + supervised * cost.head_flop(config))
    training = cost.training_flop(config, run.settings.lora, tokens=processed, supervised=supervised)
    return {
        "updates": int(state.step),
        "empty_updates": int(state.empty_updates),
        "nonfinite_updates": int(state.nonfinite_updates),
        "rows": sum(map(len, groups)) * iterations,
        "supervised_tokens": supervised * iterations,
        "processed_tokens": processed * iterations,
        "learning_rate": run.settings.optimization_of(method).learning_rate,
        "flop": training * iterations + scoring_flop,
        "groups": len(groups),
        "flat_groups": len(groups) - len(live),
    }


def _read_group(run: Run, name: str, group: int) -> list[Episode]:
    where = str(_group_file(run, name, group))
    return [episode_of(record, where=where) for record in _rows_of_group(run, name, group)]


def _rows_of_group(run: Run, name: str, group: int) -> list[dict[str, Any]]:
    """Raises Corrupted where the group is lost or damaged: the policy that drew it is gone."""
    path = _group_file(run, name, group)
    try:
        return read_part(path)
    except (FileNotFoundError, Corrupted):
        raise Corrupted(
            f"{path}: lost, or not what was written here; restore it from a copy, or delete "
            f"{run.folder / name} and repeat the command to train {name} again"
        ) from None


def summary(run: Run) -> dict[str, int]:
    """The numbers of section 2.3: groups, flat ones, and updates that moved something."""
    record = read_json(run.folder / grpo.METHOD.name / BUDGET)
    moved = record["updates"] - record["empty_updates"] - record["nonfinite_updates"]
    return {"groups": record["groups"], "flat_groups": record["flat_groups"], "update_steps": moved}
