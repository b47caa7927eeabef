"""Quantitative exercises of ten skills in three domains, with worked solutions and a numeric verifier
(section 2.1 of the paper).

`make_splits` draws disjoint problems, `verify` grades a completion (equation 6), `SKILLS` writes solutions:
careful ones, and those of authors with a lasting misconception.
"""

from cicjax.tasks.stem.pools import operand_tuples
from cicjax.tasks.stem.problem import Problem, Splits
from cicjax.tasks.stem.skills import SKILLS, Skill, Work
from cicjax.tasks.stem.splits import make_problem, make_splits
from cicjax.tasks.stem.verifier import Verdict, has_marker, verify

__all__ = [
    "SKILLS",
    "Problem",
    "Skill",
    "Splits",
    "Verdict",
    "Work",
    "has_marker",
    "make_problem",
    "make_splits",
    "operand_tuples",
    "verify",
]
