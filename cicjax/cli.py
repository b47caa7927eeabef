"""The command line: one frozen dataclass a verb, its docstring the help, its `run` the work.

Every verb imports what it needs inside `run`, so that `cicjax --help` needs no jax. Errors for users end here, in one line.
"""

import errno
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from cicjax.errors import BadInput, CicjaxError, OutOfResources
from cicjax.model.config import PROJECTIONS

if TYPE_CHECKING:
    import numpy as np

    from cicjax.provenance import Encoded
    from cicjax.provenance.formats import Episode
    from cicjax.provenance.tokenizer import Tokenizer

    Rows = Sequence[tuple[Episode, Encoded]]

INTERRUPTED = 130
METHODS = ("base", "sft", "rest", "grpo", "oracle", "oracle_shared", "observational", "interventional")


@dataclass(frozen=True)
class Mask:
    """Show which tokens of a transcript file are trained on, and who wrote them.

    agent = the model being trained; teacher = anyone else in the assistant's role. observational = train every assistant turn;
    interventional = train only what others wrote.

    Example: cicjax mask rollouts.jsonl --tokenizer Qwen2.5-0.5B --objective interventional
    """

    file: Annotated[tyro.conf.Positional[Path | None], tyro.conf.arg(metavar="FILE")] = None
    """Native transcript file: one JSON object a line, with an author beside every message."""
    tokenizer: Annotated[str | None, tyro.conf.arg(metavar="DIR")] = None
    """Folder with a tokenizer.json, or a hub id. Needs no weights. With --demo the embedded base's by default."""
    objective: Literal["interventional", "observational"] = "interventional"
    """Which loss the weights belong to."""
    format: Literal["plain"] = "plain"
    """Protocol in which messages become tokens."""
    json: bool = False
    """One JSON object a transcript: id, tokens, text, gamma, is_target, weight, author."""
    labels: Annotated[Path | None, tyro.conf.arg(metavar="OUT.jsonl")] = None
    """Also write input_ids, attention_mask and labels (-100 where nothing is learned), a row a transcript, for other trainers."""
    demo: bool = False
    """Show the two stream rows of the paper's section 2.2 under both objectives instead of a file."""

    def run(self) -> None:
        from cicjax.assets import default_model_folder
        from cicjax.provenance import demo, formats, render, tokenizer

        if self.demo == (self.file is not None):
            raise BadInput("name one transcript file, or give --demo" if not self.demo else "--demo shows its own rows; leave the file out")
        if self.tokenizer is None and not self.demo:
            raise BadInput("a mask is a matter of tokens; say whose with --tokenizer DIR")
        loaded = tokenizer.load(default_model_folder() if self.tokenizer is None else self.tokenizer)
        path = self.file or Path("demo")
        episodes = demo.EPISODES if self.file is None else formats.read_native(self.file)
        rows = list(formats.encode_episodes(episodes, loaded, render=render.plain, path=path))
        if self.labels is not None:
            _write_labels(self.labels, rows, self.objective)
        if self.json:
            _print_records(rows, loaded, self.objective)
        else:
            for objective in ("interventional", "observational") if self.demo else (self.objective,):
                _print_boxes(rows, loaded, objective)


def _print_records(rows: "Rows", tokenizer: "Tokenizer", objective: str) -> None:
    from cicjax.provenance import viewer

    for episode, encoded in rows:
        print(json.dumps(viewer.record(episode.id, encoded, tokenizer, _loss_weights(encoded, objective))))


def _write_labels(path: Path, rows: "Rows", objective: str) -> None:
    from cicjax.provenance import formats, viewer

    formats.write_lines(path, (json.dumps(viewer.labels(encoded, _loss_weights(encoded, objective))) for _, encoded in rows))


def _print_boxes(rows: "Rows", tokenizer: "Tokenizer", objective: str) -> None:
    for episode, encoded in rows:
        _print_box(f"{objective.capitalize()}: {episode.id}", encoded, tokenizer, objective)
    total = sum(len(encoded.tokens) for _, encoded in rows)
    supervised = sum(int((_loss_weights(encoded, objective) > 0).sum()) for _, encoded in rows)
    share = supervised / total if total else 0.0
    noun = "transcript" if len(rows) == 1 else "transcripts"
    print(f"{len(rows)} {noun}, {total:,} tokens, {supervised:,} of them supervised ({share:.1%})")


def _print_box(title: str, encoded: "Encoded", tokenizer: "Tokenizer", objective: str) -> None:
    from cicjax.provenance import viewer

    loss_weights = _loss_weights(encoded, objective)
    if sys.stdout.isatty():
        viewer.print_coloured(title, encoded, tokenizer, loss_weights)
    else:
        print(title, viewer.boxes(encoded, tokenizer, loss_weights), sep="\n", end="\n\n")


def _loss_weights(encoded: "Encoded", objective: str) -> "np.ndarray":
    from cicjax.provenance import weights

    weighting = {"interventional": weights.interventional, "observational": weights.observational}[objective]
    return weighting(encoded.gamma, encoded.is_target)


@dataclass(frozen=True)
class Repro:
    """Reproduce sections 2.1-2.5 of the paper in one folder; the same command, repeated, resumes.

    agent = the model being trained; teacher = anyone else in the assistant's role. observational = train every assistant turn;
    interventional = train only what others wrote.

    Example: cicjax repro --model Qwen2.5-0.5B --scale small --seed 0 --output_dir runs/small
    """

    output_dir: Annotated[Path, tyro.conf.arg(metavar="RUN")]
    """Folder of the run: config, metrics, rollouts, one adapter a method, evaluations, results.json."""
    model_name_or_path: Annotated[str | None, tyro.conf.arg(aliases=["--model"], metavar="DIR_OR_HUB_ID")] = None
    """A Qwen2 folder (config.json, safetensors, tokenizer.json) or a hub id; without one, the embedded base."""
    scale: Literal["paper", "small", "smoke"] = "paper"
    """paper: 400 wrong attempts; small: 100; smoke: a check that everything runs."""
    seed: int = 0
    """Problems, adapters, order and samples follow from it."""
    methods: Annotated[tuple[str, ...], tyro.conf.arg(metavar="METHOD ...")] = METHODS
    """Rows of the table. oracle_shared is SFT+oracle on the stream's schedule, which answers whether the context helps."""
    split: Literal["test", "dev"] = "test"
    """Questions that methods are compared on; settings are chosen on dev alone."""
    num_test: int | None = None
    """Test questions, if not those of the scale."""
    num_sft: int | None = None
    """Teacher rows of SFT-1, if not those of the scale."""
    learning_rate: float | None = None
    """Peak rate of AdamW; GRPO takes a quarter of it. By default 2e-4 on real weights and the embedded base's own on it."""
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
        from cicjax.assets import default_model_folder
        from cicjax.experiments import repro

        options = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "config"}
        embedded = self.model_name_or_path is None
        options["model_name_or_path"] = str(default_model_folder()) if embedded else self.model_name_or_path
        repro.print_table(repro.reproduce(repro.Options(**options, embedded=embedded)))


VERBS = {"mask": Mask, "repro": Repro}


def _with_config(arguments: Sequence[str]) -> list[str]:
    """The arguments with those of `--config FILE` put before them, as flags, so that they are parsed and cast like any other.

    Nested mappings, such as the resolved settings of a run's config.json, are no flags and are passed over.
    """
    arguments = list(arguments)
    name = next((n for n, argument in enumerate(arguments) if argument == "--config" or argument.startswith("--config=")), None)
    if name is None or (arguments[name] == "--config" and name + 1 == len(arguments)):
        return arguments
    path = Path(arguments[name].removeprefix("--config=") if arguments[name] != "--config" else arguments[name + 1])
    flags: list[str] = []
    for key, value in _read_config(path).items():
        if value is None or isinstance(value, dict):
            continue
        flags += [f"--{key}", *(str(item) for item in (value if isinstance(value, list) else [value]))]
    return [*arguments[:1], *flags, *arguments[1:]]


def _read_config(path: Path) -> dict[str, object]:
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError):
        raise BadInput(f"{path}: neither YAML nor JSON; write one flag a line, such as `learning_rate: 2e-4`") from None
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise BadInput(f"{path}: holds no flags; write one a line, such as `learning_rate: 2e-4`")
    return content


def parse(arguments: Sequence[str]) -> Mask | Repro:
    """The verb that these arguments name, with its options. Flag errors and --help end the process, as tyro prints them."""
    return tyro.extras.subcommand_cli_from_dict(
        VERBS,
        prog="cicjax",
        description="Fine-tune on interaction transcripts: what the world wrote is evidence, what the agent wrote is an action.",
        args=arguments,
        use_underscores=True,
        config=(tyro.conf.FlagCreatePairsOff,),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit code: 0 ok, 2 bad input, 3 locked, 4 out of resources, 5 corrupted, 130 interrupted."""
    try:
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="backslashreplace")  # pyright: ignore[reportAttributeAccessIssue]
        parse(_with_config(sys.argv[1:] if arguments is None else arguments)).run()
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader has seen enough. Python would complain once more when it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        return INTERRUPTED
    except CicjaxError as error:
        return _fail(str(error), error.exit_code)
    except MemoryError:
        return _fail("out of memory; use smaller batches or a smaller file", OutOfResources.exit_code)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.ENOMEM)
        return _fail(str(error), OutOfResources.exit_code if full else BadInput.exit_code)
    return 0


def _fail(message: str, code: int) -> int:
    print("cicjax: error: " + " ".join(message.split()), file=sys.stderr)
    return code
