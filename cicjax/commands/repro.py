"""`cicjax repro`: the paper in one folder."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Literal

import tyro

from cicjax.methods import METHODS
from cicjax.model.config import PROJECTIONS


@dataclass(frozen=True)
class Repro:
    """Reproduce sections 2.1-2.5 of the paper in one folder; the same command, repeated, resumes.

    agent = the model being trained; teacher = anyone else in the assistant's role. observational = train
    every assistant turn; interventional = train only what others wrote.

    Example: cicjax repro --model Qwen2.5-0.5B --scale small --seed 0 --output_dir runs/small
    """

    output_dir: Annotated[Path, tyro.conf.arg(metavar="RUN")]
    """Folder of the run: config, metrics, rollouts, one adapter a method, evaluations, results.json."""
    model_name_or_path: Annotated[str | None, tyro.conf.arg(aliases=["--model"], metavar="DIR_OR_HUB_ID")] = (
        None
    )
    """A Qwen2 folder (config.json, safetensors, tokenizer.json) or a hub id; without one, the embedded
    base."""
    scale: Literal["paper", "small", "smoke"] = "paper"
    """paper: 400 wrong attempts; small: 100; smoke: a check that everything runs."""
    seed: int = 0
    """Problems, adapters, order and samples follow from it."""
    seeds: Annotated[tuple[int, ...], tyro.conf.arg(metavar="N ...")] = ()
    """Several seeds in the place of one, each in RUN/seed-N as `--seed N` leaves it, and a report of all in
    RUN."""
    methods: Annotated[tuple[str, ...], tyro.conf.arg(metavar="METHOD ...")] = METHODS
    """Rows of the table. oracle_shared is SFT+oracle on the stream's schedule, which answers whether the
    context helps."""
    split: Literal["test", "dev"] = "test"
    """Questions that methods are compared on; settings are chosen on dev alone."""
    num_test: int | None = None
    """Test questions, if not those of the scale."""
    num_sft: int | None = None
    """Teacher rows of SFT-1, if not those of the scale."""
    learning_rate: float | None = None
    """Peak rate of AdamW; GRPO takes a quarter of it. By default 2e-4."""
    lora_r: int = 16
    """Rank of the adapter."""
    lora_alpha: float = 32.0
    """The adapter's product is scaled by alpha / rank."""
    lora_target_modules: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...")] = PROJECTIONS
    """Projections that get an adapter."""
    num_generations: int = 8
    """Samples a group, K of equations (8) and (10): ReST and GRPO."""
    num_iterations: int = 1
    """GRPO's updates a group; above 1 the clip becomes live."""
    beta: float = 0.04
    """Weight of GRPO's KL to SFT-1."""
    epsilon: float = 0.2
    """GRPO's clipping range of the ratio."""
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    """Precision of the frozen base; adapters, gradients and moments are float32."""
    save_steps: int = 25
    """Updates between two checkpoints: the most that a kill can cost."""
    config: Annotated[Path | None, tyro.conf.arg(metavar="FILE.yaml")] = None
    """Flags from a YAML or JSON file, below those of the command line; a run's config.json is one."""

    def run(self) -> None:
        from cicjax import report
        from cicjax.assets import default_model_folder
        from cicjax.experiments.paper import repro

        flags = {
            field.name: getattr(self, field.name)
            for field in fields(self)
            if field.name not in ("config", "seeds")
        }
        embedded = self.model_name_or_path is None
        flags["model_name_or_path"] = str(default_model_folder()) if embedded else self.model_name_or_path
        options = repro.Options(**flags, embedded=embedded)
        runs = repro.replicates(options, self.seeds) if self.seeds else [options]
        for run in runs:
            repro.print_table(repro.reproduce(run))
            print(f"{report.write_report([run.output_dir])}: open it in a browser")
        if self.seeds:
            folders = [run.output_dir for run in runs]
            print(f"{report.write_report(folders, self.output_dir / 'report.html')}: all seeds")
