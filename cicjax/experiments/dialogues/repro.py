"""`cicjax repro --experiment dialogues`: flags -> settings -> stages -> results.json and a table."""

from collections.abc import Sequence
from typing import Any

from cicjax.devices import hosts
from cicjax.errors import printable
from cicjax.experiments.chats import OUTSIDE_IDENTITY, asked, config_of, policy_of, settle_arms
from cicjax.experiments.dialogues.run import Run, results
from cicjax.experiments.dialogues.settings import ARMS, settings_of
from cicjax.experiments.paper import repro as paper
from cicjax.experiments.paper.flags import Flags
from cicjax.files.seal import read_json, write_json
from cicjax.runs import environment
from cicjax.runs.folder import RunFolder


def replicates(flags: Flags, seeds: Sequence[int]) -> list[Flags]:
    """The experiment at each seed, in a folder seed-N inside the output folder. Raises BadInput for flags
    that cannot be."""
    return paper.replicates(flags, seeds, check=settings_of)


def reproduce(flags: Flags) -> dict[str, Any]:
    """Run or resume the experiment and give its results. Raises BadInput, Locked or Corrupted."""
    settings = settings_of(flags)
    flags, arms = asked(flags, ARMS)
    policy = policy_of(flags, settings)
    run = Run(
        folder=flags.output_dir, settings=settings, policy=policy, save_steps=flags.save_steps, arms=arms
    )
    config = config_of(flags, settings, policy.fingerprint)
    with RunFolder(flags.output_dir, config, outside_identity=OUTSIDE_IDENTITY):
        what = f"dialogues, scale {flags.scale}, seed {flags.seed}, in {flags.output_dir}"
        print(printable(what), flush=True)
        environment.settle(flags.output_dir, allow_changes=flags.allow_other_environment)
        settle_arms(flags, config)
        found = results(run)
        hosts.once(lambda: write_json(flags.output_dir / "results.json", found))
        return read_json(flags.output_dir / "results.json")


def print_table(found: dict[str, Any]) -> None:
    """The arms in a terminal."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"log p(true) - log p(false), seed {found['seed']}")
    for name in ("arm", "nats a token", "nats", "lie preferred", "after truth", "after falsehood"):
        table.add_column(name, justify="left" if name == "arm" else "right")
    for name, row in found["arms"].items():
        table.add_row(
            name,
            f"{row['margin_mean']:+.3f}",
            f"{row['margin_sum']:+.2f}",
            f"{row['lie_preferred']:.0%}",
            f"{row['after_truth']['margin_sum']:+.2f}",
            f"{row['after_falsehood']['margin_sum']:+.2f}",
        )
    Console(width=None if Console().is_terminal else 110).print(table)
