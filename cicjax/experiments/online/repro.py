"""`cicjax repro --experiment online`: SFT-1 on half of the skills, then every arm's life; resumed arm by
arm."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cicjax import signals
from cicjax.experiments.online import arms, results
from cicjax.experiments.online.life import Life, Setting
from cicjax.experiments.online.settings import SCALES, Settings
from cicjax.experiments.online.world import make_world
from cicjax.files.seal import read_json, write_json
from cicjax.methods.rows import demonstration
from cicjax.runs import checks, environment
from cicjax.runs.folder import RunFolder
from cicjax.runs.metrics import bar
from cicjax.tasks.named import EMBEDDED, named
from cicjax.tasks.task import record_of
from cicjax.training.finetune import fine_tune, fresh_adapter, weighted
from cicjax.training.policy import LoadedPolicy, load_policy, precision
from cicjax.training.steps import Likelihood, Optimization

DEMONSTRATIONS = arms.CORRECTIONS
# Which arms there are is among the settings, in an order of its own.
OUTSIDE_IDENTITY = ("model_name_or_path", "output_dir", "allow_other_environment", "arms")


@dataclass(frozen=True, kw_only=True)
class Online:
    """What a user decides."""

    output_dir: Path
    model_name_or_path: str | None
    scale: str
    seed: int
    task: str
    arms: tuple[str, ...]
    learning_rate: float | None
    second_stage_learning_rate: float | None = None
    dtype: Any
    allow_other_environment: bool = False


def reproduce(asked: Online) -> dict[str, Any]:
    """Run or resume one seed and give results.json. Raises BadInput, Locked or Corrupted."""
    known = [arm.name for arm in arms.ARMS]
    checks.check_names("arm", asked.arms or known, known)
    checks.check_finite(asked, "learning_rate", "second_stage_learning_rate")
    checks.check_seed(asked.seed)
    embedded = asked.model_name_or_path is None
    task = named(asked.task, numbers=EMBEDDED if embedded else "paper")
    rate = Optimization().learning_rate if asked.learning_rate is None else asked.learning_rate
    second = rate if asked.second_stage_learning_rate is None else asked.second_stage_learning_rate
    settings = Settings(
        seed=asked.seed,
        counts=SCALES[asked.scale],
        task=record_of(task),
        dtype=precision(asked.dtype, embedded=embedded),
        arms=tuple(name for name in known if name in (asked.arms or known)),
        optimization=Optimization(learning_rate=rate, warmup_steps=0),
        second_stage=Optimization(learning_rate=second, warmup_steps=0),
    )
    world = make_world(task, asked.seed, settings.counts)
    policy = load_policy(asked.model_name_or_path, dtype=asked.dtype, lora=settings.lora, training=True)
    decided = {"model": policy.fingerprint, "settings": settings.record()}
    with RunFolder(asked.output_dir, config_of(asked, decided), outside_identity=OUTSIDE_IDENTITY):
        environment.settle(asked.output_dir, allow_changes=asked.allow_other_environment)
        setting = Setting(
            folder=asked.output_dir, settings=settings, policy=policy, task=task, world=world, adapters={}
        )
        begin(setting, policy)
        lives = live(setting)
        found = {life["arm"]: results.summary(life) for life in lives}
        record = {
            "experiment": "online",
            **decided,
            "seed": asked.seed,
            "known": list(world.known),
            "arms": found,
            "contrasts": results.contrasts([found]),
        }
        write_json(asked.output_dir / "results.json", record)
    return record


def config_of(asked: Online, decided: dict[str, Any]) -> dict[str, Any]:
    """config.json: the flags, and what they stand for."""
    flags = asdict(asked) | {"output_dir": str(asked.output_dir), "arms": list(asked.arms)}
    return {"experiment": "online", **flags, "resolved": decided}


def begin(setting: Setting, policy: LoadedPolicy) -> None:
    """SFT-1 on the seed's rows, and the adapter that it came from."""
    fresh = fresh_adapter(policy.model, seed=setting.settings.seed)
    rows = [
        (
            each.id,
            setting.encode(
                demonstration(each.id, question_text=each.question, solution=each.solution).messages
            ),
        )
        for each in setting.world.sft
    ]
    trainer = setting.trainer(setting.folder)
    loss = Likelihood(DEMONSTRATIONS.weighting.rule)
    sft = fine_tune(trainer, "sft", weighted(rows, DEMONSTRATIONS.weighting), loss=loss, start=fresh)
    setting.adapters.update(sft=sft, fresh=fresh)


def live(setting: Setting) -> list[dict[str, Any]]:
    """Every arm's life, each in arms/NAME.json when it is over."""
    lives, names = [], setting.settings.arms
    with bar("online") as report:
        for number, name in enumerate(names):
            report(number, len(names), name)
            path = setting.folder / "arms" / f"{name}.json"
            if not path.exists():
                Life(setting, arms.named(name)).live(path)
                signals.check()
            lives.append(read_json(path))
        report(len(names), len(names))
    return lives


def over_seeds(runs: Sequence[dict[str, Any]], folder: Path) -> list[dict[str, Any]]:
    """The contrasts over several seeds, in FOLDER/contrasts.json too."""
    found = results.contrasts([run["arms"] for run in runs])
    write_json(folder / "contrasts.json", {"seeds": [run["seed"] for run in runs], "contrasts": found})
    return found


def print_results(record: dict[str, Any]) -> None:
    """The arms of one seed, in a terminal."""
    print(f"seed {record['seed']}")
    print("\n".join(results.table(record["arms"])))


def print_contrasts(found: Sequence[dict[str, Any]]) -> None:
    """The contrasts in words."""
    for row in found:
        interval = "" if row["low"] is None else f" ({row['low']:+.3f} to {row['high']:+.3f})"
        what = results.MEASURES[row["measure"]]
        print(f"{row['arm']} - {row['against']}, {what}: {row['gain']:+.3f}{interval}, {row['word']}")
