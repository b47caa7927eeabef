"""Harbor's job folders: each trial's ATIF trajectory with the reward of its verifier.

```
job/trial/agent/trajectory*.json    what the agent did
job/trial/verifier/reward.txt       one number; or reward.json: {"reward": number}, names with numbers
job/trial/result.json               verifier_result.rewards, where the verifier's own files are not kept
```
The reward is the verdict. A trial without one (it broke off) has none; one without a trajectory is passed
over and named.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from cicjax.errors import BadInput
from cicjax.files import strict

TRAJECTORIES = "agent/trajectory*.json"
MARKS = ("agent", "verifier")


class Trial(NamedTuple):
    """One trajectory file with the name of its trial and its reward: a number, or numbers by name."""

    path: Path
    name: str
    reward: Any


def trials(folder: Path) -> list[Trial]:
    """The trials of a job, or of several, in the order of their names; none where the folder is no job."""
    return [trial for path in sorted(folder.rglob(TRAJECTORIES)) for trial in _trial(path)]


def without_trajectory(folder: Path) -> list[str]:
    """Trials whose agent kept no trajectory."""
    results = (path.parent for path in sorted(folder.rglob("result.json")))
    return [
        str(trial)
        for trial in results
        if all((trial / mark).is_dir() for mark in MARKS) and not any(trial.glob(TRAJECTORIES))
    ]


def _trial(path: Path) -> Iterator[Trial]:
    folder = path.parent.parent
    yield Trial(path, folder.name, _reward(folder))


def _reward(folder: Path) -> Any:
    """What the verifier gave. Raises BadInput where its file holds no number."""
    text, table, result = (
        folder / name for name in ("verifier/reward.txt", "verifier/reward.json", "result.json")
    )
    if text.is_file():
        try:
            return float(text.read_text(encoding="utf-8"))
        except ValueError:
            raise BadInput(f"{text}: holds no number") from None
    if table.is_file():
        return _single(_object(table))
    judged = _object(result).get("verifier_result") if result.is_file() else None
    return _single(judged.get("rewards")) if isinstance(judged, dict) else None


def _object(path: Path) -> dict[str, Any]:
    with strict.place(str(path)):
        return strict.mapping(strict.load(path.read_bytes()), "what it holds")


def _single(rewards: Any) -> Any:
    """The reward among named numbers: the one called so, or the only one."""
    if not isinstance(rewards, dict):
        return rewards
    return rewards.get("reward", next(iter(rewards.values())) if len(rewards) == 1 else rewards)
