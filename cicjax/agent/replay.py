"""What goes with a learning step: a pure function of the seed, the step's depth and what there is to draw
from, whenever it is asked."""

from collections.abc import Sequence

import numpy as np


def draw(
    seed: int, depth: int, seeds: Sequence[int], learned: Sequence[int], counts: tuple[int, int]
) -> list[int]:
    """Events to replay with step number `depth` of a lineage: some of the seed's, some of the lessons that
    the lineage has learned. Each list in its own order; without repetition."""
    drawn: list[int] = []
    for stream, (pool, count) in enumerate(zip((seeds, learned), counts, strict=True)):
        rng = np.random.default_rng([seed, depth, stream])
        drawn += (
            [pool[i] for i in rng.choice(len(pool), min(count, len(pool)), replace=False)] if pool else []
        )
    return drawn
