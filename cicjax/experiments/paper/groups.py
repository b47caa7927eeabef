"""GRPO's stage: group after group from the current policy, an update after every group that is not flat."""

from pathlib import Path
from typing import Any

import numpy as np

from cicjax.experiments.paper import evaluate
from cicjax.experiments.paper.rollouts import stream_row
from cicjax.experiments.paper.run import Run
from cicjax.files.whole import json_lines, read_json, read_jsonl, write_json, write_jsonl
from cicjax.logs.native import parse_episode
from cicjax.methods import grpo
from cicjax.model import cost, qwen2
from cicjax.objectives import policy_gradient
from cicjax.provenance import Encoded, encode, render
from cicjax.provenance.transcript import Episode
from cicjax.runs.metrics import MetricsLog, bar
from cicjax.sampling.sampler import Sampler
from cicjax.training import checkpoints, scoring, steps
from cicjax.training.batches import Row, fit_shape
from cicjax.training.finetune import metrics_of, resume_or_start, save, show_example
from cicjax.training.loop import count_nonfinite, one_update

NAME = "grpo"


def grpo_stage(run: Run, sft_adapter: qwen2.Tree) -> qwen2.Tree:
    """Train SFT-1 by equations (10)-(11). A flat group is an update without targets: it moves nothing and is
    counted.

    The update's index is the position: resumed from a checkpoint, later groups are drawn again, by the same
    policy with the same keys.
    """
    directory, record = run.folder / NAME, run.folder / NAME / "budget.json"
    if record.exists() and checkpoints.latest(directory) == read_json(record)["updates"]:
        return checkpoints.load_adapter(directory)[0]
    settings, policy = run.settings, run.settings.policy
    total = settings.counts.groups * policy.num_iterations
    state, done = resume_or_start(directory, steps.start_state(sft_adapter, settings.policy_optimization))
    log, shown, nonfinite = (
        MetricsLog(run.folder / "metrics.jsonl", stage=NAME, resume_after=done),
        done is not None,
        0,
    )
    with run.timed("train grpo"), log, bar("train grpo: groups") as report:
        for group in range(int(state.step) // policy.num_iterations, settings.counts.groups):
            report(group, settings.counts.groups)
            rows, facts = _group(run, state.adapter, sft_adapter, group)
            if rows and not shown:
                shown = True
                show_example(
                    run.tokenizer,
                    "grpo, its first live group",
                    [row.encoded for row in rows],
                    grpo.loss_weights,
                )
            state, nonfinite = _train_group(run, state, rows, facts, log=log, nonfinite=nonfinite)
            last = group + 1 == settings.counts.groups
            if last or (group + 1) * policy.num_iterations % run.save_steps < policy.num_iterations:
                save(run.trainer(settings.policy_optimization), directory, state, name=NAME, total=total)
        report(settings.counts.groups, settings.counts.groups)
    _join(run)
    write_json(record, _budget(run, state))
    return state.adapter


def _train_group(
    run: Run,
    state: steps.TrainState,
    rows: list[Row],
    facts: dict[str, Any],
    *,
    log: MetricsLog,
    nonfinite: int,
) -> tuple[steps.TrainState, int]:
    """A group's updates, each of them in the log; the new state, and how many updates in a row were not
    finite up to it.

    Raises Corrupted after several such in a row.
    """
    settings, policy = run.settings, run.settings.policy
    for iteration in range(policy.num_iterations):
        facts |= _clipped(run, state.adapter, rows) if iteration and rows else {}
        state, progress = one_update(
            state,
            rows,
            total=settings.counts.groups * policy.num_iterations,
            model=run.model,
            base=run.base,
            shape=fit_shape((len(row.loss_weights) for row in rows), rows=settings.lines_per_batch),
            optimization=settings.policy_optimization,
            loss=grpo.Loss(epsilon=policy.epsilon, beta=policy.beta),
        )
        nonfinite = count_nonfinite(progress, nonfinite)
        log.write(progress.update, metrics_of(progress) | facts)
    return state, nonfinite


def _group(
    run: Run, adapter: qwen2.Tree, sft_adapter: qwen2.Tree, group: int
) -> tuple[list[Row], dict[str, Any]]:
    """Draw, grade and score one group; its rows (none where it is flat) and what metrics.jsonl says of it."""
    problem = run.splits.agent[group]
    answers = evaluate.answer_chunk(
        [evaluate.plainly(problem)],
        sampler=Sampler(run.model, run.base, adapter),
        tokenizer=run.tokenizer,
        decoding=run.sampled,
        seed=run.settings.seed,
        stage=NAME,
        first_problem=group,
        samples=range(run.settings.policy.num_generations),
    )
    lines = [stream_row(NAME, problem, answer, False) for answer in answers]
    write_jsonl(_group_file(run, group), lines)
    encoded = [encode(render.plain(_episode(line).messages), run.tokenizer) for line in lines]
    rewards = [float(answer["solved"]) for answer in answers]
    facts = {
        "reward": float(np.mean(rewards)),
        "reward_std": float(np.std(rewards)),
        "frac_reward_zero_std": float(len(set(rewards)) == 1),
    }
    if facts["frac_reward_zero_std"]:
        return [], facts
    old, ref = (_scored(run, encoded, each) for each in (adapter, sft_adapter))
    drawn = [each.gamma == 1 for each in encoded]
    gap = np.concatenate(
        [np.abs(o[d] - np.asarray(a["logprobs"])) for o, d, a in zip(old, drawn, answers, strict=True)]
    )
    divergence = np.concatenate(
        [np.asarray(policy_gradient.kl(o[d], r[d])) for o, r, d in zip(old, ref, drawn, strict=True)]
    )
    facts |= {
        "kl": float(divergence.mean()),
        "logprob_gap_mean": float(gap.mean()),
        "logprob_gap_max": float(gap.max()),
    }
    return grpo.group_rows(encoded, rewards, old, ref), facts


def _clipped(run: Run, adapter: qwen2.Tree, rows: list[Row]) -> dict[str, float]:
    """Share of a group's tokens whose ratio the clip cuts: not from the first update, where every ratio is
    1."""
    logprobs, epsilon = _scored(run, [row.encoded for row in rows], adapter), run.settings.policy.epsilon
    cut = []
    for row, policy in zip(rows, logprobs, strict=True):
        here = row.loss_weights > 0
        ratio = np.exp(policy - row.extras["old_logprobs"])[here]
        gains = row.extras["advantages"][here] > 0
        cut.append(np.where(gains, ratio > 1 + epsilon, ratio < 1 - epsilon))
    return {"clip_ratio": float(np.concatenate(cut).mean())}


def _scored(run: Run, encoded: list[Encoded], adapter: qwen2.Tree) -> list[np.ndarray]:
    shape = fit_shape((len(each.tokens) for each in encoded), rows=run.settings.lines_per_batch)
    return scoring.token_logprobs(
        encoded, model=run.model, base=run.base, adapter=adapter, shape=shape, targets_only=True
    )


def _episode(line: dict[str, Any]) -> Episode:
    return parse_episode(json_lines([line]), where="a rollout")


def _group_file(run: Run, group: int) -> Path:
    return run.folder / NAME / "groups" / f"{group:05d}.jsonl"


def _join(run: Run) -> None:
    groups = range(run.settings.counts.groups)
    write_jsonl(
        run.folder / "rollouts" / f"{NAME}.jsonl",
        [row for group in groups for row in read_jsonl(_group_file(run, group))],
    )


def _budget(run: Run, state: steps.TrainState) -> dict[str, Any]:
    """What the run of groups spent. Three passes a live group: the old policy's and the reference's forward,
    the update's."""
    groups = [read_jsonl(_group_file(run, group)) for group in range(run.settings.counts.groups)]
    live = [group for group in groups if len({row["messages"][1]["solved"] for row in group}) > 1]
    rows = [row for group in live for row in group]
    supervised = sum(len(row["messages"][1]["tokens"]) for row in rows)
    ends = sum(row["messages"][1].get("truncated", False) for row in rows)
    processed = supervised + ends + sum(row["meta"]["prompt_tokens"] for row in rows)
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
        "learning_rate": run.settings.policy_optimization.learning_rate,
        "flop": training * iterations + scoring_flop,
        "groups": len(groups),
        "flat_groups": len(groups) - len(live),
    }


def summary(run: Run) -> dict[str, int]:
    """The numbers of section 2.3: groups, flat ones, and updates that moved something."""
    record = read_json(run.folder / NAME / "budget.json")
    moved = record["updates"] - record["empty_updates"] - record["nonfinite_updates"]
    return {"groups": record["groups"], "flat_groups": record["flat_groups"], "update_steps": moved}
