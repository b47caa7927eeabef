"""The command line: verbs, `--config`, and errors for users, which end here in one line."""

import difflib
import errno
import io
import math
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Protocol, get_args, get_origin

import tyro

import cicjax
from cicjax import signals
from cicjax.commands import habits
from cicjax.commands.agent.verbs import Agent
from cicjax.commands.convert import Convert
from cicjax.commands.doctor import Doctor
from cicjax.commands.evaluate import Eval
from cicjax.commands.export import Export
from cicjax.commands.generate import Generate
from cicjax.commands.mask import Mask
from cicjax.commands.report import Report
from cicjax.commands.repro import Repro
from cicjax.commands.score import Score
from cicjax.commands.serve import Serve
from cicjax.commands.train import Train
from cicjax.commands.tune import Tune
from cicjax.devices import hosts
from cicjax.errors import BadInput, CicjaxError, OutOfResources, printable, shorten

INTERRUPTED = 130
# What XLA says: its allocators, and on a CPU also the kernels that allocate for themselves.
OUT_OF_MEMORY = ("resource_exhausted", "out of memory", "failed to allocate", "ynnpack operation failed")


class Verb(Protocol):
    """What a verb is to this file: a frozen dataclass of its options."""

    def run(self) -> None:
        """Do the work, with results on standard output. Raises CicjaxError, in one line, for what a person
        can mend."""


VERBS = {
    "repro": Repro,
    "tune": Tune,
    "report": Report,
    "mask": Mask,
    "convert": Convert,
    "train": Train,
    "score": Score,
    "generate": Generate,
    "eval": Eval,
    "export": Export,
    "doctor": Doctor,
    "serve": Serve,
    "agent": Agent,
}


def _with_config(arguments: Sequence[str]) -> list[str]:
    """The arguments with those of `--config FILE` put before them, so that they are parsed and cast like any
    other.

    What stands in no flag's place, such as a transcript file, comes from the file where the command line has
    none. Nested mappings, such as the resolved settings of a run's config.json, are no flags and are passed
    over.
    """
    verb, *rest = arguments or [""]
    kinds = {field.name: _kind(field.type) for field in fields(VERBS[verb])} if verb in VERBS else {}
    if verb in ("train", "repro"):
        habits.check(rest, _spellings(verb))
    path = _config_path(rest)
    if path is None or "config" not in kinds:
        return list(arguments)
    by_kind: dict[str, list[str]] = {"positional": [], "list": [], "switch": [], "value": []}
    for name, value in _read_config(path).items():
        if not isinstance(value, dict):
            _check_key(name, path, _spellings(verb))
        kind = kinds.get(name, "value")
        by_kind[kind] += _as_arguments(name, value, kind, path)
    positional = [] if _has_positional(rest, kinds) else by_kind["positional"]
    # A list takes all that follows it, so each is followed by a flag: at the end by --config, which is there
    # anyhow.
    return [
        verb,
        *positional,
        *by_kind["list"],
        *by_kind["switch"],
        *by_kind["value"],
        "--config",
        str(path),
        *rest,
    ]


def _spellings(verb: str) -> list[str]:
    """The verb's flags, by all their names."""
    names = []
    for field in fields(VERBS[verb]):
        marks = get_args(field.type)[1:] if get_origin(field.type) is Annotated else ()
        aliases = [name for mark in marks for name in getattr(mark, "aliases", None) or ()]
        names += [field.name, *(alias.removeprefix("--") for alias in aliases)]
    return names


def _check_key(name: str, path: Path, known: Sequence[str]) -> None:
    """Raise BadInput for a key of a configuration that is no flag, with the nearest that is."""
    if name in known:
        return
    if name in habits.HABITS:
        raise BadInput(f"{path}: {name}: {habits.HABITS[name]}")
    near = difflib.get_close_matches(name, known, 1)
    meant = f"; did you mean {near[0]}?" if near else "; its keys are the flags that --help lists"
    raise BadInput(f"{path}: unknown key {shorten(name)}{meant}")


def _kind(hint: Any) -> str:
    """Of a verb's field: "positional", "list" (all values up to the next flag), "switch" (none) or "value"
    (one)."""
    if get_origin(hint) is Annotated:
        hint, *marks = get_args(hint)
        if tyro.conf.Positional in marks:
            return "positional"
    return "switch" if hint is bool else "list" if get_origin(hint) is tuple else "value"


def _config_path(arguments: Sequence[str]) -> Path | None:
    for number, argument in enumerate(arguments):
        if argument.startswith("--config="):
            return Path(argument.removeprefix("--config="))
        if argument == "--config" and arguments[number + 1 :]:
            return Path(arguments[number + 1])
    return None


def _as_arguments(name: str, value: object, kind: str, path: Path) -> list[str]:
    """One line of a configuration as it would stand on the command line."""
    if value is None or isinstance(value, dict):
        return []
    if kind == "switch":
        if not isinstance(value, bool):
            raise BadInput(f"{path}: {name} is true or false, not {shorten(value)}")
        return [f"--{name}"] if value else []
    values = [str(item) for item in (value if isinstance(value, list) else [value])]
    return values if kind == "positional" else [f"--{name}", *values]


def _has_positional(arguments: Sequence[str], kinds: Mapping[str, str]) -> bool:
    """Whether any argument is neither a flag nor a flag's value."""
    values = 0.0  # that the last flag still takes
    for argument in arguments:
        if argument.startswith("--"):
            kind = kinds.get(argument[2:].replace("-", "_"), "value")
            values = 0 if "=" in argument else {"switch": 0, "list": math.inf}.get(kind, 1)
        elif not values:
            return True
        else:
            values -= 1
    return False


def _read_config(path: Path) -> dict[str, object]:
    import yaml

    try:
        text = path.read_text(encoding="utf-8")
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text)):
            raise BadInput(
                f"{path}: an alias (*) repeats a part, and few of them make gigabytes; write it out"
            )
        content = yaml.safe_load(text)
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError):
        raise BadInput(
            f"{path}: neither YAML nor JSON; write one flag a line, such as `learning_rate: 2e-4`"
        ) from None
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise BadInput(f"{path}: holds no flags; write one a line, such as `learning_rate: 2e-4`")
    return content


def parse(arguments: Sequence[str]) -> Verb:
    """The verb that these arguments name, with its options. Flag errors and --help end the process, as tyro
    prints them; where an argument does not print, with escapes."""
    if all(argument.isprintable() for argument in arguments):
        return _parse(arguments)
    told = io.StringIO()
    try:
        with redirect_stderr(told), redirect_stdout(told):
            return _parse(arguments)
    finally:
        sys.stderr.write(printable(told.getvalue()))


def _parse(arguments: Sequence[str]) -> Verb:
    return tyro.extras.subcommand_cli_from_dict(
        VERBS,
        prog="cicjax",
        description="Fine-tune on interaction transcripts: what the world wrote is evidence, "
        "what the agent wrote is an action.",
        args=arguments,
        use_underscores=True,
        config=(tyro.conf.FlagCreatePairsOff,),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Returns its exit code.

    0 ok, 1 findings of an audit, 2 bad input, 3 locked, 4 out of resources, 5 corrupted, 128 + n where signal
    n ended it.
    """
    if arguments is None:  # the process is ours
        signals.install()
    try:
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="backslashreplace")  # pyright: ignore[reportAttributeAccessIssue]
        _run(sys.argv[1:] if arguments is None else arguments)
        sys.stdout.flush()
        signals.check()
    except BrokenPipeError:
        # The reader has seen enough. Python would complain once more when it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except signals.Stopped as stopped:
        if stopped.kept:
            print(printable(f"cicjax: {stopped.name}: {stopped.kept}"), file=sys.stderr)
        return stopped.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED
    except CicjaxError as error:
        return _fail(str(error), error.exit_code)
    except MemoryError:
        return _fail("out of memory; use smaller batches or a smaller file", OutOfResources.exit_code)
    except RuntimeError as error:
        # jax.errors.JaxRuntimeError is one; its type is not named here, for that would import jax.
        if not any(text in str(error).lower() for text in OUT_OF_MEMORY):
            raise
        return _fail(
            f"out of memory ({str(error).splitlines()[0][:200]}); use smaller batches or shorter rows",
            OutOfResources.exit_code,
        )
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.ENOMEM)
        return _fail(str(error), OutOfResources.exit_code if full else BadInput.exit_code)
    return 0


def _run(arguments: Sequence[str]) -> None:
    if list(arguments) == ["--version"]:
        print(f"cicjax {cicjax.__version__}")
        return
    verb = parse(_with_config(arguments) if arguments else ["--help"])
    with hosts.losses():
        verb.run()


def _fail(message: str, code: int) -> int:
    print(printable("cicjax: error: " + " ".join(message.split())), file=sys.stderr)
    return code
