"""The hand of a teacher: a task that has problems to ask and knows their solutions, and a verifier of one's
own. Both judge answers by themselves; a solution is only offered, a person gives it."""

import inspect
from collections.abc import Callable, Mapping, Sequence

from cicjax.errors import BadInput, shorten
from cicjax.tasks.named import imported
from cicjax.tasks.task import Problem, Task

Verify = Callable[[Sequence[Mapping[str, str]], str], bool | None]


class Hand:
    """Problems by their question. Without a task it knows none."""

    def __init__(
        self, task: Task | None = None, *, problems: Sequence[Problem] = (), verify: Verify | None = None
    ) -> None:
        self._task, self._problems, self._verify = task, problems, verify
        self._by_question = {problem.question: problem for problem in self._problems}

    def problem(self, number: int) -> Problem | None:
        """A problem to ask; after the last one the first again."""
        return self._problems[number % len(self._problems)] if self._problems else None

    def solution(self, question: str) -> str | None:
        """What the task answers to a question of its own."""
        problem = self._by_question.get(question)
        return None if problem is None else problem.solution

    def check(self, questions: Sequence[str], answer: str) -> bool:
        """Whether an answer may be taught: what the task knows to be wrong may not."""
        problem = self._by_question.get(questions[-1]) if questions else None
        return problem is None or self._task is None or bool(self._task.verify(problem, answer).solved)

    def judge(self, messages: Sequence[Mapping[str, str]], answer: str) -> bool | None:
        """Whether an answer is right; None where nobody here can tell."""
        if self._verify is not None:
            return self._verify(messages, answer)
        problem = self._by_question.get(messages[-1]["content"]) if messages else None
        if problem is None or self._task is None:
            return None
        return bool(self._task.verify(problem, answer).solved)


def verifier(name: str) -> Verify:
    """The function that `--verifier MODULE:FUNCTION` names: it is given the messages and the answer, and
    returns True, False, or None where it cannot tell. Raises BadInput where there is none."""
    module, colon, attribute = name.partition(":")
    if not (module and colon and attribute):
        raise BadInput(f"--verifier {shorten(name)}: name a function as MODULE:FUNCTION")
    found = imported(f"--verifier {shorten(name)}", module, attribute)
    try:
        inspect.signature(found).bind([], "")
    except (TypeError, ValueError):
        raise BadInput(f"--verifier {shorten(name)}: not a function of (messages, answer)") from None
    return found
