"""`cicjax repro --experiment boxes`: flags -> settings -> arms -> results.json and a table."""

from collections.abc import Sequence
from typing import Any

from cicjax.devices import hosts
from cicjax.errors import printable
from cicjax.experiments import chats
from cicjax.experiments.boxes import beliefs
from cicjax.experiments.boxes.settings import ARMS, Arm, settings_of
from cicjax.experiments.chats import BASE, OUTSIDE_IDENTITY, config_of, policy_of
from cicjax.experiments.paper import repro as paper
from cicjax.experiments.paper.flags import Flags
from cicjax.files.seal import read_json, write_json
from cicjax.runs import environment
from cicjax.runs.folder import RunFolder
from cicjax.tasks.boxes import world


def replicates(flags: Flags, seeds: Sequence[int]) -> list[Flags]:
    """The experiment at each seed, in a folder seed-N inside the output folder. Raises BadInput for flags
    that cannot be."""
    return paper.replicates(flags, seeds, check=settings_of)


def reproduce(flags: Flags) -> dict[str, Any]:
    """Run or resume the experiment and give its results. Raises BadInput, Locked or Corrupted."""
    settings = settings_of(flags)
    flags, arms = chats.asked(flags, ARMS)
    policy = policy_of(flags, settings)
    run = chats.Run(folder=flags.output_dir, settings=settings, policy=policy, save_steps=flags.save_steps)
    config = config_of(flags, settings, policy.fingerprint)
    with RunFolder(flags.output_dir, config, outside_identity=OUTSIDE_IDENTITY):
        what = f"boxes, scale {flags.scale}, seed {flags.seed}, in {flags.output_dir}"
        print(printable(what), flush=True)
        environment.settle(flags.output_dir, allow_changes=flags.allow_other_environment)
        chats.settle_arms(flags, config)
        rows = {BASE: _row(run, None)}
        rows |= {arm.name: _row(run, arm) for arm in arms}
        found = {
            "experiment": "boxes",
            "model": policy.fingerprint,
            "seed": settings.seed,
            "settings": settings.record(),
            "arms": rows,
            "bayes": {"do": _exact(intervened=True), "conditional": _exact(intervened=False)},
        }
        hosts.once(lambda: write_json(flags.output_dir / "results.json", found))
        return read_json(flags.output_dir / "results.json")


def _row(run: chats.Run, arm: Arm | None) -> dict[str, Any]:
    """An arm's row of results.json, kept in probes/NAME.json."""
    path, settings = run.folder / "probes" / f"{arm.name if arm else BASE}.json", run.settings
    if not path.exists():
        adapter = None
        if arm is not None:
            rows = arm.rows(settings.seed, settings.rows)
            adapter = chats.train(run, arm, arm.name, rows, start=run.fresh(), epochs=settings.epochs)
        described = beliefs.described(beliefs.stated(run.policy, adapter))
        hosts.once(lambda: write_json(path, described))
    return read_json(path)


def _exact(*, intervened: bool) -> list[float]:
    """The mean P(prize) by round that section 1.1 states, as `beliefs.described` averages."""
    return [
        sum(
            beliefs.chance(history, None) / 2 * beliefs.truth(history, action, intervened=intervened)
            for history in world.histories(rounds)
            for action in (0, 1)
        )
        for rounds in range(world.ROUNDS)
    ]


def print_table(found: dict[str, Any]) -> None:
    """Round by round, in a terminal."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"P(prize) before the box is opened, seed {found['seed']}")
    names = ("arm", "stated, by round", "off do(a)", "off conditioning", "prizes by own acts")
    for name in names:
        table.add_column(name, justify="left" if name == "arm" else "right")
    for name, row in found["arms"].items():
        columns = (row[key] for key in ("stated", "error", "error_conditional", "prizes"))
        table.add_row(name, *(" ".join(f"{value:.2f}" for value in column) for column in columns))
    for name, row in found["bayes"].items():
        table.add_row(f"bayes, {name}", " ".join(f"{value:.2f}" for value in row), "", "", "")
    Console(width=None if Console().is_terminal else 110).print(table)
