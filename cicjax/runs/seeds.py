"""Which numbers may be seeds."""

from cicjax.errors import BadInput

LIMIT = 2**32


def check_seed(seed: int) -> None:
    """Raise BadInput unless 0 <= seed < 2**32: a larger one is cut to its last 32 bits by jax, and equals
    another seed."""
    if not 0 <= seed < LIMIT:
        raise BadInput(f"--seed is from 0 to {LIMIT - 1}, not {seed}")
