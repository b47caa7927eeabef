"""`cicjax tune`: second-stage rates on development questions."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from cicjax.commands.together import Together
from cicjax.errors import printable
from cicjax.experiments.paper.flags import Flags
from cicjax.methods import METHODS

_SECOND = tuple(method.name for method in METHODS if method.name not in ("base", "sft"))


@dataclass(frozen=True, kw_only=True)
class Tune(Together):
    """Try every method at every rate on the development questions of seeds of their own, and write the best
    rates to a file that `cicjax repro --rates` reads; the same command, repeated, resumes.

    The rate with the most solved is chosen, of equals the one with fewer nats of the teacher's answers; a
    best rate at the edge of the grid adds one more.

    Example: cicjax tune --output_dir runs/grid --rates rates.json --arms sft2 mask_wrong
    """

    output_dir: Annotated[Path, tyro.conf.arg(metavar="RUN")]
    """Folder of the grid; a seed's SFT-1 and stream are made once, adapters are thrown away when they have
    answered."""
    rates: Annotated[Path, tyro.conf.arg(metavar="RATES.json")]
    """The file to write: other bases in it, and this one's other methods, stay."""
    model_name_or_path: Annotated[str | None, tyro.conf.arg(aliases=["--model"], metavar="DIR_OR_HUB_ID")] = (
        None
    )
    """A folder of a Qwen2, Qwen3 or Llama model, or a hub id; without one, the embedded base."""
    scale: Literal["paper", "small", "smoke"] = "paper"
    """As in `cicjax repro`."""
    task: Annotated[str, tyro.conf.arg(metavar="stem|MODULE:ATTRIBUTE")] = "stem"
    """As in `cicjax repro`."""
    methods: Annotated[tuple[str, ...], tyro.conf.arg(metavar="METHOD ...")] = _SECOND
    """Methods to tune; SFT-1 keeps its rate."""
    arms: Annotated[tuple[str, ...], tyro.conf.arg(metavar="ARM ...")] = ()
    """Controls to tune beside them, by the names that `cicjax repro --help` lists."""
    learning_rates: Annotated[tuple[float, ...] | None, tyro.conf.arg(metavar="RATE ...")] = None
    """The grid, GRPO a quarter of each. By default 2e-4 4e-4 8e-4 1.6e-3 3.2e-3 on the embedded base, 5e-5
    2e-4 8e-4 on others."""
    seeds: Annotated[tuple[int, ...], tyro.conf.arg(metavar="N ...")] = (1000, 1001, 1002)
    """Development seeds: no other run should have them."""
    learning_rate: float | None = None
    """Peak rate of SFT-1. By default 2e-4."""
    second_stage_epochs: int = 1
    """As in `cicjax repro`."""
    batches: Literal["rows", "live_rows"] = "rows"
    """As in `cicjax repro`."""
    attempts_per_problem: int = 8
    """As in `cicjax repro`."""
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    """As in `cicjax repro`."""
    save_steps: int = 25
    """As in `cicjax repro`."""
    allow_other_environment: bool = False
    """As in `cicjax repro`."""
    config: Annotated[Path | None, tyro.conf.arg(metavar="FILE.yaml")] = None
    """Flags from a YAML or JSON file, below those of the command line."""

    def run(self) -> None:
        from cicjax.experiments.paper import tuning

        self.join()
        shared = (
            *("output_dir", "model_name_or_path", "scale", "task", "methods", "arms", "learning_rate"),
            *("second_stage_epochs", "batches", "attempts_per_problem", "dtype", "save_steps"),
            "allow_other_environment",
        )
        flags = Flags(**{name: getattr(self, name) for name in shared}, split="dev")
        default = tuning.EMBEDDED_RATES if flags.embedded else tuning.RATES
        rates = default if self.learning_rates is None else self.learning_rates
        grid = tuning.Grid(flags=flags, seeds=tuple(dict.fromkeys(self.seeds)), rates=rates)
        for name, entry in tuning.tune(grid, self.rates).items():
            tried = ", ".join(f"{rate} {told['solved']}" for rate, told in entry["tried"].items())
            print(f"{name}: {entry['rate']:g}{' (at the edge)' if entry['edge'] else ''}; solved: {tried}")
        print(printable(f"{self.rates}: written"))
