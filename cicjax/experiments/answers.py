"""A graded answer as it stands in a run: one line of evaluations/*.jsonl, and of `cicjax eval --json`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Self

from cicjax.errors import BadInput
from cicjax.experiments.checked import read_record

RESTORE = "restore the file from a copy"


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What was asked, what came, and the verdict on it.

    Args:
        id, skill: of the problem; `sample` counts the answers to it.
        prompt: the text that was continued, of `prompt_tokens` tokens.
        completion: the agent's own text; `tokens` as sampled, its stop token included, and their `logprobs`.
        finish_reason: "stop" where the agent ended it; otherwise it was cut.
        marker: whether it is given in the form that solutions have.
        facts: what the task's verifier says beyond solved and reason; they stand beside the other keys.
    """

    id: str
    sample: int
    skill: str
    prompt: str
    completion: str
    solved: bool
    reason: str
    finish_reason: str
    marker: bool
    prompt_tokens: int
    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if taken := [name for name in KEYS if name in self.facts]:
            raise BadInput(f"a verdict's fact is called {taken[0]!r}, as a key of every answer; rename it")

    @property
    def cut(self) -> bool:
        """Whether it ended at the length limit or at a stop string, and not by its author."""
        return self.finish_reason != "stop"

    def to_json(self) -> dict[str, Any]:
        """One line of a file."""
        record = {name: getattr(self, name) for name in KEYS}
        return record | {"tokens": list(self.tokens), "logprobs": list(self.logprobs)} | dict(self.facts)

    @classmethod
    def from_json(cls, record: Mapping[str, Any], *, where: object) -> Self:
        """The answer of a line, `where` it stands. Raises Corrupted where a key is missing or of another
        type."""
        known = read_record(cls, dict(record), where=where, remedy=RESTORE, skip="facts")
        facts = {name: value for name, value in record.items() if name not in KEYS}
        return replace(known, facts=facts)


KEYS = tuple(each.name for each in fields(Answer) if each.name != "facts")


def read_answers(rows: Sequence[Mapping[str, Any]], *, path: object) -> list[Answer]:
    """The answers of a file's rows."""
    return [Answer.from_json(row, where=f"{path}:{number}") for number, row in enumerate(rows, start=1)]
