"""Which numbers and names may be flags: one line of refusal for each kind, whatever the command."""

import math
import re
from collections.abc import Sequence
from pathlib import Path

from cicjax.errors import BadInput

LIMIT = 2**32


def check_seed(seed: int) -> None:
    """Raise BadInput unless 0 <= seed < 2**32: a larger one is cut to its last 32 bits by jax, and equals
    another seed."""
    if not 0 <= seed < LIMIT:
        raise BadInput(f"--seed is from 0 to {LIMIT - 1}, not {seed}")


def check_counts(flags: object, *names: str) -> None:
    """Raise BadInput for the first of these flags that is below 1; None says that a default applies."""
    for name in names:
        value = getattr(flags, name)
        if value is not None and value < 1:
            raise BadInput(f"--{name} is 1 or more, not {value}")


def check_finite(flags: object, *names: str) -> None:
    """Raise BadInput for the first of these flags that is negative, infinite or no number; None passes."""
    for name in names:
        value = getattr(flags, name)
        if value is not None and not 0 <= value < math.inf:
            raise BadInput(f"--{name} is a finite number from 0 on, not {value}")


def check_folder(path: Path) -> None:
    """Raise BadInput for a run folder in a bucket, such as gs://NAME/RUN."""
    scheme = re.match(r"[a-z0-9]+(?=:/)", str(path))
    if scheme:
        raise BadInput(
            f"--output_dir {path}: {scheme[0]}:// has neither the locks nor the renames that a run "
            "needs; name a folder on a file system, with several hosts on one that all of them share"
        )


def check_names(kind: str, given: Sequence[str], known: Sequence[str]) -> None:
    """Raise BadInput for a name that is not among the known ones, and where none is given."""
    unknown = [name for name in given if name not in known]
    if unknown or not given:
        what = f"unknown {kind} {unknown[0]!r}" if unknown else f"no {kind} is named"
        raise BadInput(f"{what}; choose from {', '.join(known)}")
