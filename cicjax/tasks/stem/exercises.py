"""The exercises as a task: section 2.1 in the form that an experiment takes."""

from dataclasses import dataclass
from typing import Literal

from cicjax.tasks.stem import verifier
from cicjax.tasks.stem.problem import Problem
from cicjax.tasks.stem.splits import make_splits
from cicjax.tasks.stem.verifier import Verdict
from cicjax.tasks.task import Splits

Numbers = Literal["paper", "printed", "tiny", "catalogue"]


@dataclass(frozen=True)
class Stem:
    """A `Task` over one pool of operands: the paper's, the same with lines as the paper prints them, or one
    of those for embedded bases."""

    numbers: Numbers = "paper"
    name: str = "stem"

    def settings(self) -> dict[str, str]:
        """The pool: with seed and counts it decides the problems."""
        return {"numbers": self.numbers}

    def splits(self, seed: int, *, sft: int, agent: int, dev: int, test: int) -> Splits[Problem]:
        """Equation (5), see `make_splits`."""
        return make_splits(seed=seed, sft=sft, agent=agent, dev=dev, test=test, numbers=self.numbers)

    def verify(self, problem: Problem, completion: str) -> Verdict:
        """Equation (6)."""
        return verifier.verify(problem, completion)

    def correct(self, problem: Problem, attempt: str) -> str:
        """The oracle's solution, whatever was wrong with the attempt."""
        return problem.solution

    def has_marker(self, completion: str) -> bool:
        """Whether it says `Final answer:`."""
        return verifier.has_marker(completion)


def task(numbers: Numbers = "paper") -> Stem:
    """The task over a pool of operands."""
    return Stem(numbers)
