"""Verdicts that a log carries: a reward, a score or a grade, as `solved` of the agent's turns.

The paper judges an attempt (section 2.1, equation 6); most logs judge a whole trajectory, and then every turn
of the agent's in it has that verdict. What the log said stays in `meta["reward"]`.
"""

import math
from collections.abc import Mapping
from typing import Any

from cicjax.errors import BadInput, shorten
from cicjax.provenance.transcript import NO_VERDICT

WORDS = {
    1: "c correct pass passed success succeeded solved resolved true yes",
    0: "i n p incorrect partial fail failed failure wrong unsolved unresolved error false no noanswer",
}
GRADES = {word: verdict for verdict, words in WORDS.items() for word in words.split()}


def verdict(value: Any, at: float) -> int:
    """1 where a value says solved, that is for a number: reaches `at`; 0 where it does not, -1 where it says
    nothing (null, nan). Raises BadInput for what is neither a number, a truth nor a grade."""
    if isinstance(value, str):
        word = value.strip().casefold()
        if word in GRADES:
            return GRADES[word]
        try:
            value = float(word) if word else None
        except ValueError:
            raise BadInput(
                f"the verdict {shorten(value)} is neither a number nor a grade such as pass"
            ) from None
    if value is None:
        return NO_VERDICT
    if isinstance(value, bool):
        return int(value)
    if not isinstance(value, int | float):
        raise BadInput(
            f"the verdict {shorten(value)} is no single number; name the one inside it, --solved KEY.INNER"
        )
    return NO_VERDICT if math.isnan(value) else int(value >= at)


def lookup(record: Mapping[str, Any], key: str) -> Any:
    """The value at a key, or at keys within one another: `scores.match.value`. None where there is none."""
    if key in record:
        return record[key]
    value: Any = record
    for part in key.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return None
        value = value[part]
    return value
