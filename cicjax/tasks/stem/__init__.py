"""Quantitative exercises of ten skills in three domains, with worked solutions and a numeric verifier
(section 2.1 of the paper).

`task` gives them as an experiment takes them. `make_splits` draws disjoint problems, `verify` grades a
completion (equation 6), `SKILLS` writes solutions: careful ones, and those of authors with a lasting
misconception.
"""

from cicjax.tasks.stem.exercises import Stem, task
from cicjax.tasks.stem.pools import operand_tuples
from cicjax.tasks.stem.problem import Problem
from cicjax.tasks.stem.skills import SKILLS, Skill, Work
from cicjax.tasks.stem.splits import make_problem, make_splits
from cicjax.tasks.stem.verifier import Verdict, has_marker, verify
from cicjax.tasks.task import Splits

__all__ = [
    "SKILLS",
    "Problem",
    "Skill",
    "Splits",
    "Stem",
    "Verdict",
    "Work",
    "has_marker",
    "make_problem",
    "make_splits",
    "operand_tuples",
    "task",
    "verify",
]
