"""`cicjax train`: a LoRA adapter from a transcript file."""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from cicjax.commands.together import FLAGS, Together
from cicjax.errors import BadInput, printable
from cicjax.model.config import PROJECTIONS, projections
from cicjax.runs.dashboards import Name

if TYPE_CHECKING:
    from cicjax.training.learner import Trainer
    from cicjax.training.own import Rows
    from cicjax.training.policy import LoadedPolicy

OUTSIDE_IDENTITY = (
    *("file", "eval_file", "model_name_or_path", "start_adapter", "output_dir", "save_steps"),
    *("save_total_limit", "report_to", "allow_other_environment"),
)


@dataclass(frozen=True, kw_only=True)
class Train(Together):
    """Train a LoRA adapter on a transcript file; the same command, repeated, resumes.

    agent = the model being trained; teacher = anyone else in the assistant's role. observational = train
    every assistant turn; interventional = train only what others wrote.

    Example: cicjax train log.jsonl --model Qwen2.5-0.5B --objective interventional --output_dir runs/mine
    """

    file: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FILE")]
    """Native transcript file (see `cicjax convert` for others)."""
    output_dir: Annotated[Path, tyro.conf.arg(metavar="RUN")]
    """Folder of the run: config.json, metrics.jsonl, adapter/, results.json."""
    model_name_or_path: Annotated[str | None, tyro.conf.arg(aliases=["--model"], metavar="DIR_OR_HUB_ID")] = (
        None
    )
    """A folder of a Qwen2, Qwen3 or Llama model, or a hub id; without one, the embedded base."""
    objective: Literal["interventional", "observational", "stream"] = "interventional"
    """stream lies between the two: --wrong and --correct say what the agent's judged turns weigh."""
    wrong: float = 0.0
    """With --objective stream: weight of the agent's turns that failed."""
    correct: float = 0.0
    """With --objective stream: weight of the agent's turns that passed."""
    targets: Annotated[tuple[str, ...], tyro.conf.arg(metavar="AUTHOR ...")] = ("teacher",)
    """Whose words are targets beside the agent's own: teacher is equation (14), world is equation (2) in
    full."""
    reduction: Literal["update", "dialogue"] = "update"
    """Mean over the targets of an update, or first within each dialogue, as equations (1) and (2) have
    it."""
    keep_echoes: bool = False
    """Train also on long repeats of the agent's words in what users, tools and the environment wrote."""
    format: Literal["auto", "plain", "chatml", "qwen3"] = "auto"
    """Protocol in which messages become tokens; auto is the one of --start_adapter or the one that the file
    says, else the tokenizer's chat protocol. The adapter keeps it."""
    start_adapter: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Adapter to start from: RUN/METHOD of an earlier run, or a peft folder. Its LoRA settings are taken
    over."""
    eval_file: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Held-out transcripts: negative log-likelihood by author, before and after."""
    eval_steps: int | None = None
    """With --eval_file: ask it before every so many updates too, into their lines of metrics.jsonl."""
    max_length: int | None = None
    """Longest row in tokens."""
    overflow: Literal["refuse", "drop", "split"] = "refuse"
    """What becomes of longer rows; a split cuts where a user speaks, else before the agent's next action,
    repeats the system's turn and the question as context, and never parts a correction from its attempt."""
    learning_rate: float | None = None
    """Peak rate of AdamW; by default 2e-4."""
    num_train_epochs: int = 1
    """Passes over the file, each in an order of its own."""
    max_steps: int | None = None
    """Updates, instead of epochs."""
    per_device_train_batch_size: int = 8
    """Rows of an update; they are packed into micro-batches of a few shapes whatever this is."""
    gradient_accumulation_steps: int = 1
    """Multiplies the rows of an update."""
    warmup_steps: int = 3
    """Updates over which the rate climbs; it then falls to a tenth, or stays."""
    warmup_ratio: float | None = None
    """The same as a share of all updates."""
    lr_scheduler_type: Literal["linear", "cosine", "constant"] = "linear"
    """How the rate falls after the warm-up, or that it stays."""
    weight_decay: float = 0.0
    """Of AdamW, on the adapter."""
    max_grad_norm: float = 1.0
    """Gradients are clipped to this norm."""
    lora_r: int = 16
    """Rank of the adapter."""
    lora_alpha: float = 32.0
    """The adapter's product is scaled by alpha / rank."""
    lora_dropout: float = 0.0
    """Share of its inputs that the adapter does not see in an update; which ones, --seed settles."""
    lora_target_modules: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...")] = PROJECTIONS
    """Projections that get an adapter; all-linear is all of them, the default."""
    seed: int = 0
    """The fresh adapter and the order of the rows follow from it."""
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    """Precision of the frozen base; adapters, gradients and moments are float32."""
    save_steps: int = 25
    """Updates between two checkpoints: the most that a kill can cost."""
    save_total_limit: int = 2
    """Checkpoints that are kept, the newest of them."""
    report_to: Annotated[tuple[Name, ...], tyro.conf.arg(metavar="NAME ...")] = ()
    """Pages that are told every update, as metrics.jsonl is: tensorboard, wandb; their libraries are yours to
    install."""
    allow_other_environment: bool = False
    """Go on though versions, the kind of device or settings of the numerics are not those the run began
    with."""
    config: Annotated[Path | None, tyro.conf.arg(metavar="FILE.yaml")] = None
    """Flags from a YAML or JSON file, below those of the command line; a run's config.json is one."""

    def run(self) -> None:
        from cicjax.devices import hosts
        from cicjax.files.seal import write_json
        from cicjax.provenance import protocol
        from cicjax.runs import dashboards, environment
        from cicjax.runs.folder import RunFolder
        from cicjax.training import own

        self._check()
        self.join()
        weighting = protocol.weighting(
            self.objective, wrong=self.wrong, correct=self.correct, keep_echoes=self.keep_echoes
        )
        policy = self._policy()
        rows = self._rows(policy, self.file)
        own.check_targets(rows, weighting, path=self.file)
        policy = replace(policy, protocol=rows[0][0].protocol)
        held_out = self._rows(policy, self.eval_file) if self.eval_file is not None else []
        own.check_held_out(rows, held_out, path=self.eval_file)
        trainer = self._trainer(policy, len(rows))
        needed = own.beforehand(trainer, rows, weighting, policy.adapter)
        print(f"protocol: {policy.protocol} ({len(rows)} rows); {needed}", flush=True)
        record = self._record(policy, rows)
        with RunFolder(self.output_dir, record, outside_identity=OUTSIDE_IDENTITY):
            environment.settle(self.output_dir, allow_changes=self.allow_other_environment)
            self._say_if_finished()
            with dashboards.opened(self.report_to, self.output_dir, config=record) as dashboard:
                results = own.train_rows(
                    replace(trainer, dashboard=dashboard),
                    rows,
                    weighting,
                    start=policy.adapter,
                    held_out=held_out,
                    reduction=self.reduction,
                )
            results = {"objective": self.objective, "targets": list(self.targets), **results}
            hosts.once(lambda: write_json(self.output_dir / "results.json", results))
        self._print(results)

    def _check(self) -> None:
        from cicjax.runs import checks, dashboards

        dashboards.check(self.report_to)
        checks.check_counts(
            self,
            "num_train_epochs",
            "max_steps",
            "per_device_train_batch_size",
            "gradient_accumulation_steps",
            "save_steps",
            "save_total_limit",
            "eval_steps",
            "lora_r",
        )
        if self.max_length is not None and self.max_length < 2:
            raise BadInput(f"--max_length is 2 or more, not {self.max_length}")
        checks.check_finite(
            self, "learning_rate", "lora_alpha", "weight_decay", "max_grad_norm", "wrong", "correct"
        )
        if not 0 <= self.lora_dropout < 1:
            raise BadInput(f"--lora_dropout is a share, from 0 to 1, not {self.lora_dropout}")
        if self.warmup_steps < 0:
            raise BadInput(f"--warmup_steps is 0 or more, not {self.warmup_steps}")
        if self.warmup_ratio is not None and not 0 <= self.warmup_ratio < 1:
            raise BadInput(f"--warmup_ratio is a share of the updates, from 0 to 1, not {self.warmup_ratio}")
        if self.eval_steps is not None and self.eval_file is None:
            raise BadInput("--eval_steps asks the transcripts of --eval_file; name that too")
        checks.check_seed(self.seed)
        checks.check_folder(self.output_dir)
        checks.check_names("projection", projections(self.lora_target_modules), PROJECTIONS)
        if (self.wrong or self.correct) and self.objective != "stream":
            raise BadInput("--wrong and --correct belong to --objective stream")

    def _policy(self) -> "LoadedPolicy":
        from cicjax.model.config import LoRAConfig
        from cicjax.training.policy import load_policy

        lora = LoRAConfig(
            rank=self.lora_r, alpha=self.lora_alpha, target_modules=projections(self.lora_target_modules)
        )
        return load_policy(
            self.model_name_or_path, dtype=self.dtype, adapter=self.start_adapter, lora=lora, training=True
        )

    def _rows(self, policy: "LoadedPolicy", path: Path) -> "Rows":
        from cicjax.training import own

        return own.read_rows(
            path,
            policy.tokenizer,
            format=self.format,
            adapter=policy.protocol,
            targets=self.targets,
            max_length=self.max_length,
            overflow=self.overflow,
        )

    def _updates(self, rows: int) -> int:
        per_epoch = -(-rows // (self.per_device_train_batch_size * self.gradient_accumulation_steps))
        return self.num_train_epochs * per_epoch if self.max_steps is None else self.max_steps

    def _trainer(self, policy: "LoadedPolicy", rows: int) -> "Trainer":
        from cicjax.training.own import trainer_of
        from cicjax.training.steps import Optimization

        share = self.warmup_ratio
        optimization = Optimization(
            warmup_steps=self.warmup_steps if share is None else math.ceil(share * self._updates(rows)),
            weight_decay=self.weight_decay,
            max_grad_norm=self.max_grad_norm,
            learning_rate=Optimization.learning_rate if self.learning_rate is None else self.learning_rate,
        )
        return trainer_of(
            policy,
            self.output_dir,
            seed=self.seed,
            optimization=optimization,
            rows_per_update=self.per_device_train_batch_size * self.gradient_accumulation_steps,
            num_train_epochs=self.num_train_epochs,
            max_steps=self.max_steps,
            save_steps=self.save_steps,
            save_total_limit=self.save_total_limit,
            eval_steps=self.eval_steps,
            schedule=self.lr_scheduler_type,
            protocol=policy.protocol,
            lora_dropout=self.lora_dropout,
        )

    def _record(self, policy: "LoadedPolicy", rows: "Rows") -> dict[str, Any]:
        """config.json: the flags, and what they resolve to."""
        import hashlib
        from dataclasses import asdict

        from cicjax.files import sources
        from cicjax.training import checkpoints

        flags = {
            key: getattr(self, key) for key in self.__dataclass_fields__ if key not in ("config", *FLAGS)
        }
        plain = {
            key: str(value) if isinstance(value, Path) else list(value) if isinstance(value, tuple) else value
            for key, value in flags.items()
        }
        order = hashlib.sha256("\n".join(episode.id for episode, _ in rows).encode()).hexdigest()
        assert policy.model.lora is not None
        resolved = {
            "model": policy.fingerprint,
            "tokenizer": policy.tokenizer.fingerprint,
            "protocol": policy.protocol,
            "start_adapter": checkpoints.fingerprint(policy.adapter) if policy.adapter is not None else None,
            "lora": asdict(policy.model.lora) | {"target_modules": list(policy.model.lora.target_modules)},
            "optimization": asdict(self._trainer(policy, len(rows)).optimization),
            "file": sources.digest(self.file),
            "rows": order,
        }
        return plain | {"resolved": resolved}

    def _say_if_finished(self) -> None:
        from cicjax.training.learner import finished_adapter
        from cicjax.training.own import NAME

        if (self.output_dir / "results.json").exists() and finished_adapter(self.output_dir / NAME):
            on = f"to train on, --start_adapter {self.output_dir / NAME} with another --output_dir"
            print(printable(f"{self.output_dir}: finished already; {on}"), flush=True)

    def _print(self, results: dict[str, Any]) -> None:
        budget = results["budget"]
        told = (
            f"{self.output_dir / 'adapter'}: {budget['updates']} updates over {budget['rows']} rows, "
            f"{budget['supervised_tokens']:,} supervised tokens of {budget['processed_tokens']:,} processed"
        )
        print(printable(told))
        before, after = results["held_out"]["before"], results["held_out"]["after"]
        for author in before:
            change = f"{before[author]['nll']:.4f} -> {after[author]['nll']:.4f}"
            print(f"held out, {author}: {change} nats a token over {before[author]['tokens']:,} tokens")
