"""What a task is: problems with worked solutions, a verifier, and corrections of failed attempts.

A task knows no method and no model. An experiment is handed one; `named` finds the one that a command line
asks for.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar


class Problem(Protocol):
    """A question with a worked solution. `id` is the same in every split and seed; `skill` groups problems in
    tables and splits."""

    @property
    def id(self) -> str: ...

    @property
    def question(self) -> str: ...

    @property
    def solution(self) -> str: ...

    @property
    def skill(self) -> str: ...


P = TypeVar("P", bound=Problem, covariant=True)


@dataclass(frozen=True)
class Splits(Generic[P]):
    """Equation (5) and a development split. No problem occurs twice, within a split or across them."""

    sft: tuple[P, ...]
    agent: tuple[P, ...]
    dev: tuple[P, ...]
    test: tuple[P, ...]


class Verdict(Protocol):
    """The grade of a completion: passed or not, why in a word or two, and whatever else the task's verifier
    says of it, as JSON values by name."""

    @property
    def solved(self) -> bool: ...

    @property
    def reason(self) -> str: ...

    @property
    def facts(self) -> Mapping[str, Any]: ...


@dataclass(frozen=True)
class Grade:
    """A verdict for tasks that need no kind of their own."""

    solved: bool
    reason: str
    facts: Mapping[str, Any] = field(default_factory=dict)


class Task(Protocol):
    """What an experiment asks of a task. All of it is a function of the arguments and of `settings`."""

    @property
    def name(self) -> str: ...

    def settings(self) -> Mapping[str, Any]:
        """Every value that decides the problems, as JSON; it goes into a run's identity."""
        ...

    def splits(self, seed: int, *, sft: int, agent: int, dev: int, test: int) -> Splits[Problem]:
        """Disjoint splits of these sizes. Raises BadInput where there are too few problems."""
        ...

    def verify(self, problem: Any, completion: str) -> Verdict:
        """The grade of any text, equation (6). Nothing is raised."""
        ...

    def correct(self, problem: Any, attempt: str) -> str:
        """What the oracle answers to a failed attempt, without an end of text."""
        ...

    def has_marker(self, completion: str) -> bool:
        """Whether the answer is given in the form that solutions have, right or wrong."""
        ...


def record_of(task: Task) -> dict[str, Any]:
    """The task as a run's identity has it: its name and its settings."""
    return {**task.settings(), "name": task.name}
