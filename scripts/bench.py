#!/usr/bin/env python
"""How fast each stage is, how far from the device's limit, and how it compares with PyTorch + peft and
transformers on the same work.

    python scripts/bench.py --model DIR --adapter RUN/sft            everything that can be measured here
    python scripts/bench.py --model DIR --stages train --pairs 1     a first look

Work is a fixed sample: 64 stream rows with attempts and corrections for training, their prompts for sampling
and for greedy answers (with
--adapter as the policy, so that completions end as they do in a run). Peers do the same work in a process of
their own, in alternating pairs, where torch is installed. The floor counts useful operations alone, from the
configuration and the real number of tokens
(`cicjax.model.cost`); "of the limit" is floor / (seconds x product rate), the best rate of jax's own product
before and after the stages.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bench_peers import Peer, Work

from cicjax.devices import process

if __name__ == "__main__":
    process.prepare()  # before jax is imported, as the command line does
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # peers and children share the GPU

import jax
import jax.numpy as jnp
import numpy as np

from cicjax.devices import kind
from cicjax.methods.rows import attempted
from cicjax.model import cost, huggingface
from cicjax.model.config import LoRAConfig
from cicjax.provenance import Author, Encoded, Message, encode, render
from cicjax.provenance.protocol import weighting
from cicjax.sampling.draw import row_keys
from cicjax.sampling.sampler import Decoding, Sampler
from cicjax.tasks import stem
from cicjax.training import steps
from cicjax.training.batches import Row, make_row
from cicjax.training.finetune import fresh_adapter, shape_for
from cicjax.training.loop import Dispatched, one_update
from cicjax.training.policy import LoadedPolicy, load_policy

WEIGHTINGS = {name: weighting(name) for name in ("interventional", "observational")}
DTYPES = {"bfloat16": jnp.bfloat16, "float32": jnp.float32}
ROWS_PER_UPDATE = 8
NEW_TOKENS = 96

Timed = Callable[[], tuple[float, Any]]


def sample_rows(policy: LoadedPolicy, count: int) -> list[Encoded]:
    """Stream rows at the paper's mix: 51 % wrong attempts with their corrections, 49 % right ones alone;
    lines as long as the oracle's."""
    rng = np.random.default_rng(0)
    problems = stem.make_splits(seed=0, sft=10, agent=count, test=10, dev=10).agent
    rows = []
    for problem in problems:
        wrong = rng.random() < 0.51
        attempt = Message(
            role="assistant", author=Author.AGENT, content=problem.solution, solved=int(not wrong)
        )
        episode = attempted(
            problem.id, question_text=problem.question, attempt=attempt, correction=problem.solution
        )
        rows.append(encode(render.plain(episode.messages), policy.tokenizer))
    return rows


def updates_of(rows: Sequence[Encoded], objective: str) -> list[list[Row]]:
    """The rows with the objective's weights, eight to an update."""
    weighted = [make_row(row, WEIGHTINGS[objective]) for row in rows]
    return [weighted[first : first + ROWS_PER_UPDATE] for first in range(0, len(weighted), ROWS_PER_UPDATE)]


def product_rows() -> tuple[int, int, int]:
    """Rows that a product needs to show a device's rate: those of a step on a CPU; on an accelerator that
    takes microseconds, so more."""
    return (256, 512, 1024) if kind.here() is kind.CPU else (4096, 8192, 16384)


def product_rate(dtype: Any, *, inputs: int = 896, outputs: int = 4864, seconds: float = 1.0) -> float:
    """Operations a second of the product that training is made of, operands in `dtype`, sums in float32: the
    ceiling of this run.

    The best over three numbers of rows, there and back.
    """

    @jax.jit
    def products(x, w):
        def body(_, x):
            y = jnp.einsum("ti,io->to", x, w, preferred_element_type=jnp.float32).astype(dtype)
            return jnp.einsum("to,io->ti", y, w, preferred_element_type=jnp.float32).astype(dtype) * dtype(
                1e-4
            )

        return jax.lax.fori_loop(0, 10, body, x)

    best = 0.0
    for rows in product_rows():
        x, w = (jnp.ones(shape, dtype) for shape in ((rows, inputs), (inputs, outputs)))
        jax.block_until_ready(products(x, w))
        until = time.perf_counter() + seconds
        while time.perf_counter() < until:
            started = time.perf_counter()
            jax.block_until_ready(products(x, w))
            best = max(best, 10 * 4 * rows * inputs * outputs / (time.perf_counter() - started))
    return best


def timed(job: Callable[[], Any]) -> Timed:
    """The job with its seconds."""

    def run() -> tuple[float, Any]:
        started = time.perf_counter()
        result = job()
        return time.perf_counter() - started, result

    return run


def our_training(policy: LoadedPolicy, rows: Sequence[Encoded], objective: str) -> Timed:
    """An epoch over the rows; gives the last loss."""
    updates, optimization = updates_of(rows, objective), steps.Optimization()
    shape = shape_for(policy.model, policy.base, [row for update in updates for row in update])
    loss = steps.Likelihood(WEIGHTINGS[objective].rule)
    start = fresh_adapter(policy.model, seed=0)

    def epoch() -> float:
        state = steps.start_state(start, optimization)
        before: Dispatched | None = None
        for index, update in enumerate(updates):
            state, dispatched = one_update(
                state,
                update,
                index=index,
                rate=steps.learning_rate_at(index, len(updates), optimization),
                model=policy.model,
                base=policy.base,
                shape=shape,
                optimization=optimization,
                loss=loss,
            )
            if before is not None:  # metrics are read one update late, as a training reads them
                before.read(len(updates))
            before = dispatched
        return before.read(len(updates)).loss if before else 0.0

    return timed(epoch)


def our_sampling(policy: LoadedPolicy, prompts: Sequence[list[int]], temperature: float) -> Timed:
    """One completion a prompt; gives the number of sampled tokens."""
    sampler = Sampler(policy.model, policy.base, policy.adapter)
    decoding = Decoding(
        max_new_tokens=NEW_TOKENS, temperature=temperature, stop_ids=tuple(sorted(policy.tokenizer.stop_ids))
    )
    keys = row_keys(0, "bench", list(range(len(prompts))), [0] * len(prompts))
    return timed(
        lambda: sum(len(completion.tokens) for completion in sampler.sample(prompts, keys, decoding))
    )


def peer_training(
    policy: LoadedPolicy, rows: Sequence[Encoded], objective: str, dtype: str, *, filtered: bool
) -> Work:
    """The same epoch for peft; rows without labels taken out when `filtered`."""
    updates = [
        [row for row in update if row.loss_weights.any() or not filtered]
        for update in updates_of(rows, objective)
    ]
    labelled = [
        [(row.encoded.tokens, np.where(row.loss_weights > 0, row.encoded.tokens, -100)) for row in update]
        for update in updates
    ]
    lora = policy.model.lora
    assert lora is not None
    settings = {"r": lora.rank, "lora_alpha": lora.alpha, "target_modules": list(lora.target_modules)}
    return Work(str(policy.location), dtype, "train", {"updates": labelled, "lora": settings})


def peer_sampling(
    policy: LoadedPolicy, folder: Path, prompts: Sequence[list[int]], dtype: str, temperature: float
) -> Work:
    """The same prompts for transformers, from a folder with the adapter merged."""
    stops = sorted(policy.tokenizer.stop_ids)
    arguments = {
        "prompts": list(prompts),
        "stop_ids": stops,
        "temperature": temperature,
        "max_new_tokens": NEW_TOKENS,
    }
    return Work(str(folder), dtype, "sample", arguments)


def alternate(ours: Timed, work: Work | None, *, pairs: int) -> tuple[list[float], list[float], Any, Any]:
    """Seconds of each, in alternating pairs after one run of each that is not counted, and what they gave."""
    with Peer(work) if work is not None else nullcontext() as peer:
        (_, found), theirs = ours(), peer()[1] if peer else None
        mine, others = [], []
        for _ in range(pairs):
            mine.append(ours()[0])
            if peer:
                others.append(peer()[0])
    return mine, others, found, theirs


def measure_training(
    policy: LoadedPolicy, rows: Sequence[Encoded], options: argparse.Namespace
) -> list[dict[str, Any]]:
    """Rows a second of each objective, beside peft with and without rows that carry no label."""
    found = []
    for objective, weigh in WEIGHTINGS.items():
        live = [row for row in rows if weigh(row).any()]
        supervised = sum(int((weigh(row) > 0).sum()) for row in live)
        assert policy.model.lora is not None
        flop = cost.training_flop(
            policy.model.config,
            policy.model.lora,
            tokens=sum(len(r.tokens) for r in live),
            supervised=supervised,
        )
        ours = our_training(policy, rows, objective)
        for filtered in (False, True) if options.peers and objective == "interventional" else (False,):
            work = (
                peer_training(policy, rows, objective, options.dtype, filtered=filtered)
                if options.peers
                else None
            )
            mine, others, _, _ = alternate(ours, work, pairs=options.pairs)
            name = f"{objective}, peft without empty rows" if filtered else objective
            found.append(_record(name, mine, others, work=len(rows), unit="rows", flop=flop))
    return found


def measure_mask(
    policy: LoadedPolicy, rows: Sequence[Encoded], options: argparse.Namespace
) -> dict[str, Any]:
    """What an interventional epoch takes of an observational one: alternating pairs of the two, after one run
    of each."""
    epochs = {objective: our_training(policy, rows, objective) for objective in WEIGHTINGS}
    runs = [{objective: epoch()[0] for objective, epoch in epochs.items()} for _ in range(options.pairs + 1)][
        1:
    ]
    medians = {objective: statistics.median(run[objective] for run in runs) for objective in epochs}
    return {"runs": runs, "ratio": medians["interventional"] / medians["observational"]}


def measure_sampling(
    policy: LoadedPolicy, rows: Sequence[Encoded], options: argparse.Namespace
) -> list[dict[str, Any]]:
    """Tokens a second of sampling and of greedy answers, beside transformers `generate`."""
    prompts = [row.tokens[: int(np.argmax(row.gamma))].tolist() for row in rows]
    found = []
    with ExitStack() as opened:
        folder = _merged_folder(policy, opened) if options.peers else policy.location
        for name, temperature in (("sampling", 1.0), ("greedy answers", 0.0)):
            work = (
                peer_sampling(policy, folder, prompts, options.dtype, temperature) if options.peers else None
            )
            mine, others, tokens, theirs = alternate(
                our_sampling(policy, prompts, temperature), work, pairs=options.pairs
            )
            flop = cost.sampling_flop(
                policy.model.config, prompt_tokens=sum(map(len, prompts)), sampled_tokens=tokens
            )
            record = _record(name, mine, others, work=tokens, unit="tokens", flop=flop)
            if others:  # the two draw different numbers, so their lengths differ: compare tokens a second
                record |= {
                    "peer_work": theirs,
                    "ratio": (tokens / record["seconds"]) / (theirs / record["peer_seconds"]),
                }
            found.append(record)
    return found


def _merged_folder(policy: LoadedPolicy, opened: ExitStack) -> Path:
    if policy.adapter is None or policy.model.lora is None:
        return policy.location
    folder = Path(opened.enter_context(tempfile.TemporaryDirectory())) / "merged"
    huggingface.write_merged(folder, policy.location, adapter=policy.adapter, lora=policy.model.lora)
    return folder


def _record(
    stage: str, mine: list[float], others: list[float], *, work: int, unit: str, flop: int
) -> dict[str, Any]:
    seconds = statistics.median(mine)
    record: dict[str, Any] = {
        "stage": stage,
        "seconds": seconds,
        "runs": mine,
        "work": work,
        "unit": unit,
        "flop": flop,
    }
    record |= {"per_second": work / seconds}
    if others:
        peer = statistics.median(others)
        record |= {"peer_seconds": peer, "peer_runs": others, "ratio": peer / seconds}
    return record


def measure_compilation(options: argparse.Namespace) -> dict[str, Any]:
    """Cold and warm: the same two rounds of both objectives and of sampling in a new process, first with no
    kept program, then with all."""
    command = [
        sys.executable,
        __file__,
        "--model",
        options.model,
        "--dtype",
        options.dtype,
        "--stages",
        "rounds",
    ]
    if options.adapter:
        command += ["--adapter", str(options.adapter)]
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {
            "JAX_COMPILATION_CACHE_DIR": folder,
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
        for name in ("cold", "warm"):
            done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
            found[name] = json.loads(done.stdout.splitlines()[-1])
    return found


def rounds(policy: LoadedPolicy) -> dict[str, float]:
    """Two rounds of both objectives and of sampling: seconds of tracing and compiling, programs not found,
    and what the second traced."""
    seconds: defaultdict[str, float] = defaultdict(float)
    events: Counter[str] = Counter()

    def took(event: str, duration_secs: float, **_: Any) -> None:
        seconds[event] += duration_secs

    def happened(event: str, **_: Any) -> None:
        events[event] += 1

    jax.monitoring.register_event_duration_secs_listener(took)
    jax.monitoring.register_event_listener(happened)
    traced = "/jax/core/compile/jaxpr_trace_duration"
    rows = sample_rows(policy, 64)
    prompts = [row.tokens[: int(np.argmax(row.gamma))].tolist() for row in rows]
    jobs = [our_training(policy, rows, objective) for objective in WEIGHTINGS] + [
        our_sampling(policy, prompts, 1.0)
    ]
    found: dict[str, float] = {}
    for name in ("first", "second"):
        before = seconds[traced]
        for job in jobs:
            job()
        found[f"traced_in_{name}_round_s"] = seconds[traced] - before
    found["compile_s"] = sum(
        value for name, value in seconds.items() if name.startswith("/jax/core/compile/")
    )
    found["compiled"] = events["/jax/compilation_cache/cache_misses"]
    found["found_compiled"] = events["/jax/compilation_cache/cache_hits"]
    return found


def print_table(report: dict[str, Any]) -> None:
    """The records as a table."""
    print(
        f"\n{report['device']}, {report['cores']} cores, {report['dtype']}; "
        f"peak memory {report['peak_gb']:.1f} GB"
    )
    torch_rate = f", torch's {report['torch_ceiling'] / 1e9:,.0f}" if "torch_ceiling" in report else ""
    print(
        f"product rate {report['ceiling'] / 1e9:,.0f} GFLOP/s (after: "
        f"{report['ceiling_after'] / 1e9:,.0f}){torch_rate}"
    )
    if report["stages"]:
        print(f"{'stage':<44}{'seconds':>9}{'per second':>16}{'of the limit':>14}{'times the peer':>16}")
    for record in report["stages"]:
        speed, ratio = (
            f"{record['per_second']:,.1f} {record['unit']}",
            f"{record['ratio']:.2f}" if "ratio" in record else "-",
        )
        print(
            f"{record['stage']:<44}{record['seconds']:>9.2f}{speed:>16}{record['of_the_limit']:>13.0%} "
            f"{ratio:>16}"
        )
    if "mask" in report:
        print(f"an interventional epoch takes {report['mask']['ratio']:.2f} of an observational one")
    for name, found in report.get("compilation", {}).items():
        print(
            f"{name}: {found['compile_s']:.1f} s of tracing and compiling, "
            f"{found['compiled']} programs compiled, "
            f"{found['found_compiled']} found compiled; the second round traced for "
            f"{found['traced_in_second_round_s']:.2f} s"
        )


def main() -> int:
    """Measure, print, and write the records."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="a Qwen2 folder or a hub id")
    parser.add_argument(
        "--adapter",
        type=Path,
        help="the policy that samples: RUN/METHOD or a peft folder; without one, the base",
    )
    parser.add_argument(
        "--stages",
        nargs="+",
        choices=("train", "sample", "compile", "rounds"),
        default=["train", "sample", "compile"],
    )
    parser.add_argument("--rows", type=int, default=64, help="stream rows, and prompts")
    parser.add_argument("--pairs", type=int, default=5, help="timed runs of each; medians count")
    parser.add_argument("--dtype", choices=tuple(DTYPES), default="bfloat16")
    parser.add_argument("--no_peers", action="store_true", help="leave PyTorch out")
    parser.add_argument("--json", type=Path, help="also write the records here")
    options = parser.parse_args()
    options.peers = not options.no_peers and _has_peers()
    policy = load_policy(
        options.model, dtype=options.dtype, adapter=options.adapter, lora=LoRAConfig(), training=True
    )
    if options.stages == ["rounds"]:
        print(json.dumps(rounds(policy)))
        return 0
    report = measure(policy, options)
    _write(report, options.json)
    if "compile" in options.stages:
        report["compilation"] = measure_compilation(options)
        _write(report, options.json)
    print_table(report)
    return 0


def measure(policy: LoadedPolicy, options: argparse.Namespace) -> dict[str, Any]:
    """All records of the stages asked for."""
    dtype = DTYPES[options.dtype]
    ceiling = product_rate(dtype)
    report: dict[str, Any] = {
        "device": jax.devices()[0].device_kind,
        "cores": os.cpu_count(),
        "dtype": options.dtype,
        "ceiling": ceiling,
    }
    if options.peers:
        arguments = {
            "shape": (product_rows()[1], 896, 4864),
            "times": 5 if kind.here() is kind.CPU else 50,
        }
        with Peer(Work(str(policy.location), options.dtype, "multiply", arguments)) as peer:
            report["torch_ceiling"] = peer()[1]
    rows = sample_rows(policy, options.rows)
    report["stages"] = []
    if "train" in options.stages:
        report["stages"] += measure_training(policy, rows, options)
        report["mask"] = measure_mask(policy, rows, options)
    if "sample" in options.stages:
        report["stages"] += measure_sampling(policy, rows, options)
    report["peak_gb"] = peak_memory() / 1e9
    report["ceiling_after"] = product_rate(dtype)
    for record in report["stages"]:
        record["of_the_limit"] = record["flop"] / (record["seconds"] * max(ceiling, report["ceiling_after"]))
    return report


def peak_memory() -> int:
    """Bytes: of the device on an accelerator, of this process on a CPU."""
    if kind.here() is kind.CPU:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0)


def _write(report: dict[str, Any], path: Path | None) -> None:
    if path is not None:
        path.write_text(json.dumps(report, indent=1) + "\n")


def _has_peers() -> bool:
    missing = [name for name in ("torch", "peft") if find_spec(name) is None]
    if missing:
        print(f"no {' and no '.join(missing)} here: peers are left out", file=sys.stderr)
    return not missing


if __name__ == "__main__":
    sys.exit(main())
