"""One short file per row of the paper's table. A method says which rows are trained on and what each position
weighs; it knows no task.

An arm is one record, in a file of its own or by `replace`, and its place in METHODS, the rows of the paper's
table, or in ARMS, the controls beside them.
"""

from cicjax.methods import base, grpo, interventional, observational, oracle, rest, sft
from cicjax.methods.arms import ARMS
from cicjax.methods.method import Method

__all__ = ["ARMS", "EVERY", "METHODS", "START", "UNTRAINED", "Method", "named"]

METHODS: tuple[Method, ...] = (
    base.METHOD,
    sft.METHOD,
    rest.METHOD,
    grpo.METHOD,
    oracle.METHOD,
    oracle.SHARED,
    observational.METHOD,
    interventional.METHOD,
)
# In the order of every table; a row of the paper's that is a control too stands once.
EVERY: tuple[Method, ...] = (*METHODS, *(arm for arm in ARMS if arm not in METHODS))
# What every second stage starts from and is compared with, and what that came from.
START, UNTRAINED = sft.METHOD.name, base.METHOD.name


def named(name: str) -> Method:
    """The method of this name; one that is not listed, as of another version's run, is called and drawn by
    its name alone."""
    for method in EVERY:
        if method.name == name:
            return method
    return Method(name=name, label=name.replace("_", " "))
