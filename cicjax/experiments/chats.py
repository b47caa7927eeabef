"""What experiments on chats share: the flags that they know, the values that these stand for, config.json,
and how an arm is trained."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from cicjax.devices import hosts
from cicjax.errors import BadInput
from cicjax.experiments import unseen
from cicjax.experiments.paper.flags import Flags
from cicjax.files.seal import read_object, write_json
from cicjax.model import qwen2
from cicjax.model.config import PROJECTIONS, LoRAConfig
from cicjax.provenance import Encoded, encode, render, weights
from cicjax.provenance.protocol import Weighting
from cicjax.provenance.tokenizer import Tokenizer
from cicjax.provenance.transcript import Episode
from cicjax.runs import checks
from cicjax.training.finetune import fine_tune, fresh_adapter, weighted
from cicjax.training.own import trainer_of
from cicjax.training.policy import LoadedPolicy, load_policy, precision
from cicjax.training.steps import Likelihood, Optimization

# The embedded base was pretrained on other text than these chats and needs larger steps to hold facts. On the
# dialogues of development seed 1000 loss (2) ends at 0.78 nats a token with 2e-3, 0.37 with this and
# 0.35 with twice this.
EMBEDDED_RATE = 4e-3
USED = (
    "output_dir model_name_or_path experiment scale seed learning_rate lora_r lora_alpha "
    "lora_target_modules dtype save_steps allow_other_environment arms seeds config"
).split()
OUTSIDE_IDENTITY = ("model_name_or_path", "output_dir", "save_steps", "allow_other_environment", "arms")
BASE = "base"  # the row of the model as it comes


@dataclass(frozen=True, kw_only=True)
class Settings:
    """One experiment at one seed. Together with the model's fingerprint this decides every number in
    results.json."""

    seed: int
    dtype: Literal["bfloat16", "float32"]
    lora: LoRAConfig
    optimization: Optimization
    rows_per_update: int = 8
    reduction: Literal["update", "dialogue"] = "update"
    unseen_tokens: Literal["kept", "drawn"] = "kept"

    def record(self) -> dict[str, Any]:
        """Plain values, as they go into config.json and results.json."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Run:
    """Where to write, what was decided, and the model."""

    folder: Path
    settings: Any
    policy: LoadedPolicy
    save_steps: int = 25

    def fresh(self) -> qwen2.Tree:
        """The adapter that every arm begins with."""
        return fresh_adapter(self.policy.model, seed=self.settings.seed)


@dataclass(frozen=True)
class Arm:
    """What a position weighs. Echoes stay targets: that the user says a claim again is the very evidence."""

    name: str
    rule: weights.Rule

    @property
    def weighting(self) -> Weighting:
        return Weighting(self.rule, keep_echoes=True)


_Arm = TypeVar("_Arm", bound=Arm)


def values_of(flags: Flags) -> dict[str, Any]:
    """The fields of `Settings`. Raises BadInput for numbers that cannot be and for flags of another
    experiment."""
    for field in fields(Flags):
        if field.name not in USED and getattr(flags, field.name) != field.default:
            raise BadInput(
                f"--{field.name} is no flag of --experiment {flags.experiment}, which takes "
                f"{', '.join(name for name in USED if name not in ('seeds', 'config'))}"
            )
    checks.check_names("projection", flags.lora_target_modules, PROJECTIONS)
    checks.check_counts(flags, "lora_r", "save_steps")
    checks.check_finite(flags, "learning_rate", "lora_alpha")
    checks.check_seed(flags.seed)
    usual = EMBEDDED_RATE if flags.embedded else Optimization.learning_rate
    rate = usual if flags.learning_rate is None else flags.learning_rate
    targets = tuple(flags.lora_target_modules)
    return {
        "seed": flags.seed,
        "dtype": precision(flags.dtype, embedded=flags.embedded),
        "lora": LoRAConfig(rank=flags.lora_r, alpha=flags.lora_alpha, target_modules=targets),
        "optimization": replace(Optimization(), learning_rate=rate),
        "unseen_tokens": "drawn" if flags.embedded else "kept",
    }


def asked(flags: Flags, arms: Sequence[_Arm]) -> tuple[Flags, list[_Arm]]:
    """The arms that `--arms` names, in their own order, and the flags with them; all where it names none.
    Those that the folder was asked for before stay. Raises BadInput for a name that no arm has."""
    known, path = [arm.name for arm in arms], flags.output_dir / "config.json"
    checks.check_names("arm", flags.arms or known, known)
    told = read_object(path).get("arms") if path.is_file() else list(flags.arms)
    there = told if isinstance(told, list) else []
    every = not there or not flags.arms
    names = () if every else tuple(dict.fromkeys((*there, *flags.arms)))
    return replace(flags, arms=names), [arm for arm in arms if every or arm.name in names]


def settle_arms(flags: Flags, config: dict[str, Any]) -> None:
    """Write config.json again where more arms are asked for than it says."""
    path = flags.output_dir / "config.json"
    if read_object(path).get("arms") != config["arms"]:
        hosts.once(lambda: write_json(path, config))


def policy_of(flags: Flags, settings: Settings) -> LoadedPolicy:
    """The model that every arm begins with."""
    policy = load_policy(flags.model_name_or_path, dtype=settings.dtype, lora=settings.lora, training=True)
    return unseen.told_apart(policy) if settings.unseen_tokens == "drawn" else policy


def config_of(flags: Flags, settings: Settings, fingerprint: str) -> dict[str, Any]:
    """config.json: the flags that the experiment knows, and every value that they stand for."""
    plain = {
        name: str(value) if isinstance(value, Path) else list(value) if isinstance(value, tuple) else value
        for name, value in ((each.name, getattr(flags, each.name)) for each in fields(Flags))
        if name in USED
    }
    return plain | {"resolved": {"model": fingerprint, "settings": settings.record()}}


def encoded(episode: Episode, tokenizer: Tokenizer) -> Encoded:
    """A chat as every arm reads it: the context is context; users, headers and the agent are targets."""
    return encode(render.chat(episode.messages, targets=render.WORLD, id=episode.id), tokenizer)


def train(
    run: Run, arm: Arm, name: str, episodes: Sequence[Episode], *, start: qwen2.Tree, epochs: int
) -> qwen2.Tree:
    """FOLDER/NAME: an arm on these rows from `start`."""
    settings, policy = run.settings, run.policy
    trainer = trainer_of(
        policy,
        run.folder,
        seed=settings.seed,
        optimization=settings.optimization,
        rows_per_update=settings.rows_per_update,
        num_train_epochs=epochs,
        save_steps=run.save_steps,
    )
    rows = [(episode.id, encoded(episode, policy.tokenizer)) for episode in episodes]
    units = weighted(rows, arm.weighting, reduction=settings.reduction)
    return fine_tune(trainer, name, units, loss=Likelihood(arm.rule), start=start)
