#!/usr/bin/env python
"""Every program of the paper and of `train`, compiled for a TPU or GPU that is not here.

    python scripts/compile_check.py --target v5e:2x2 --json FILE                    the embedded base
    python scripts/compile_check.py --target h100 --model_size 0.5b --json FILE     sizes of Qwen2.5-0.5B

Needs the extra aot-tpu (for h100 aot-cuda). Writes what the compiler says of each program and exits with 1 if
one does not fit a chip's memory. Arguments are abstract: no weights are read. See docs/accelerators.md.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from cicjax.devices import ahead
from cicjax.errors import BadInput


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--target", required=True, choices=sorted(ahead.TARGETS))
    parser.add_argument("--model_size", default="tiny", choices=("tiny", "0.5b"))
    parser.add_argument("--json", required=True, type=Path, metavar="FILE")
    parser.add_argument("--only", nargs="+", default=[""], metavar="TEXT", help="programs whose name has it")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="programs compiled at once")
    arguments = parser.parse_args()
    target = ahead.TARGETS[arguments.target]
    try:
        ahead.get_ready(target)
    except BadInput as error:
        print(f"compile_check: error: {error}", file=sys.stderr)
        return 2
    record = check(target, arguments.model_size, only=arguments.only, jobs=arguments.jobs)
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return 0 if all(program["fits"] for program in record["programs"]) else 1


def check(target: ahead.Target, model_size: str, *, only: Sequence[str], jobs: int) -> dict[str, Any]:
    """The record of one target and size, its programs lowered and compiled in parallel."""
    import jax
    from compile_programs import programs

    chosen = [
        each
        for each in programs(target, model_size, ahead.chips_of(target))
        if any(text in each.name for text in only)
    ]
    with ThreadPoolExecutor(jobs) as pool:
        found = list(pool.map(lambda each: compiled(each, target), chosen))
    return {
        "target": target.name,
        "model_size": model_size,
        "versions": {"jax": jax.__version__, "compiler": ahead.compiler_version(target)},
        "memory": int(target.memory),
        "clock": target.clock,
        "programs": found,
    }


def compiled(program: Any, target: ahead.Target) -> dict[str, Any]:
    """What the compiler says of one program."""
    from cicjax.devices.compiled import facts

    began = time.perf_counter()
    record: dict[str, Any] = {"name": program.name, "shape": program.shape, "chips": program.chips}
    try:
        done = program.lower().compile()
    except Exception as error:  # whatever the compiler has to say: most of all that memory does not suffice
        record |= {"fits": False, "reason": str(error).splitlines()[0][:300]}
    else:
        record |= facts(
            done,
            tpu=target.platform == "tpu",
            trips=program.trips,
            length=program.length,
            large=program.large,
        )
        record["fits"] = record["bytes"] <= target.memory
        if program.tokens and target.clock:
            seconds = record["estimated_cycles"] / target.clock
            record |= {"tokens": program.tokens, "tokens_per_second": round(program.tokens / seconds)}
    record["compile_seconds"] = round(time.perf_counter() - began, 1)
    print(line_of(record), flush=True)
    return record


def line_of(record: dict[str, Any]) -> str:
    """One program in one line."""
    name = f"{record['name']:<24}{record['shape']:<34}{record['chips']:>3} chips"
    if "bytes" not in record:
        return f"{name}  does not compile: {record['reason']}"
    cost = next(f"{record[key]:>14,} {key}" for key in ("estimated_cycles", "kernels") if key in record)
    rate = f"{record['tokens_per_second']:>10,} tokens/s" if "tokens_per_second" in record else ""
    size = f"{record['bytes'] / 2**30:8.3f} GiB{'' if record['fits'] else ' does not fit'}"
    return f"{name}{size}{cost}{rate}  ({record['compile_seconds']} s)"


if __name__ == "__main__":
    sys.exit(main())
