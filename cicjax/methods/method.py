"""What a method is: which rows it is trained on, what each position weighs, and how it is named and drawn.

One record says it all; stages, ledger, tables, figures, report and model card follow from the records in
`methods.METHODS` and `methods.ARMS`. An arm beside the paper's is one more record, often one line:

    replace(interventional.METHOD, name="mask_wrong", label="Wrong attempts masked",
            weighting=protocol.weighting("stream", correct=1.0))
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from cicjax.provenance.protocol import Weighting
from cicjax.provenance.transcript import Author, Episode


class Rollouts(Protocol):
    """What an experiment has for methods to train on. Every call gives the same rows, and makes them at the
    first."""

    def teacher(self) -> Sequence[Episode]:
        """(x, y*) of the SFT set."""
        ...

    def stream(self) -> Sequence[Episode]:
        """(x, y_hat) after a success, (x, y_hat, y*) after a failure, equation (3)."""
        ...

    def candidates(self) -> Sequence[Sequence[Episode]]:
        """Groups of K graded attempts (x, y_hat), a group a question; `meta` has the verdict's facts."""
        ...


@dataclass(frozen=True, kw_only=True)
class Method:
    """A row of the paper's table.

    Args:
        name: in `--methods`, in results.json, and of its folder in a run.
        label, short: in tables and figures, in full and in a heading; `short` follows from the name if empty.
        equation: where the paper states it.
        meaning: what it is, in a line; if empty, what its weighting makes of the stream.
        samples: whose samples of the agent it learns from: the stream's, ReST's candidates, or groups of its
            own, drawn as it learns. None where the agent samples nothing.
        rows: its rows out of an experiment's rollouts; None where it makes groups as it goes, or has none.
        weighting: what each position of its rows weighs; None for what is not trained.
        evidence: whose words, beside the agent's, are targets, as `cicjax train --targets` has it.
        speakers: who speaks as the assistant in its rows.
        told: whether its rows tell the verdict after an attempt; its second answers are then asked for so.
        colour, marker: how it is drawn.
    """

    name: str
    label: str
    short: str = ""
    equation: str = ""
    meaning: str = ""
    samples: Literal["stream", "candidates", "own"] | None = None
    rows: Callable[[Rollouts], Sequence[Episode]] | None = None
    weighting: Weighting | None = None
    evidence: tuple[str, ...] = (Author.TEACHER.label,)
    speakers: tuple[Author, ...] = (Author.AGENT, Author.TEACHER)
    told: bool = False
    colour: str = "#7b5ea7"
    marker: str = "h"

    @property
    def heading(self) -> str:
        """The short name."""
        return self.short or self.name.replace("_", " ")

    @property
    def sample_file(self) -> str | None:
        """The stem of the file in RUN/rollouts with the samples that it learns from."""
        return self.name if self.samples == "own" else self.samples

    @property
    def takes_stream_whole(self) -> bool:
        """Whether its rows are those of the stream, as they are: such arms differ in their weights alone."""
        return self.rows is stream_rows

    @property
    def learns_corrections(self) -> bool:
        """Whether the oracle's corrections of its samples are what it learns."""
        return Author.TEACHER in self.speakers

    @property
    def targets(self) -> tuple[str, ...]:
        """Who wrote what it is trained to say, by name."""
        weights = {
            author: max(self.turn_weight(author, solved=solved) for solved in (0, 1))
            for author in self.speakers
        }
        return tuple(author.label for author, weight in weights.items() if weight)

    @property
    def described(self) -> str:
        """What it is, in a line."""
        return self.meaning or self._weights_in_words()

    def turn_weight(self, author: Author, *, solved: int) -> float:
        """What a target by this author weighs in a turn with this verdict."""
        if self.weighting is None:
            return 0.0
        gamma, verdict = np.array([author == Author.AGENT], np.int8), np.array([solved], np.int8)
        return float(self.weighting.rule(gamma, np.ones(1, np.bool_), verdict)[0])

    def _weights_in_words(self) -> str:
        failed, passed = (self.turn_weight(Author.AGENT, solved=solved) for solved in (0, 1))
        if failed == passed == 0:
            return "the stream, with the agent's own attempts in the context and out of the loss"
        if failed == passed == 1:
            return "the stream, with loss on every answer in it, the agent's own attempts too"
        return (
            f"the stream, where a correction weighs 1, a failed attempt {failed:g} and a right one {passed:g}"
        )


def stream_rows(rollouts: Rollouts) -> Sequence[Episode]:
    """The stream as it is."""
    return rollouts.stream()
