"""What is asked of an engine, and the answer as it comes."""

import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from cicjax.errors import BadInput, CicjaxError
from cicjax.sampling.serving import MOST_TOP

BASE = None  # the version of the bare base
SEEDS = 1 << 32


class Full(CicjaxError):
    """There is no room now; there will be when an answer has ended."""

    exit_code = 4


@dataclass(frozen=True, kw_only=True)
class Request:
    """One answer: to these ids, of at most so many tokens. Temperature 0 is greedy, `top_p` the share of the
    probability that is drawn from; `stop_ids` end it as its last token (None: the tokenizer's own), `stops`
    before it.

    `seed` and `sample`, the number of one of several answers, say what is drawn, whoever else is answered.
    Equal prompts go in once inside one `source`. `background` work takes rows that nobody wants and gives
    them back to whoever does; its prompts go in by the share of learning.
    """

    prompt_ids: tuple[int, ...]
    max_tokens: int
    temperature: float
    top_p: float = 1.0
    seed: int = 0
    sample: int = 0
    stops: tuple[str, ...] = ()
    stop_ids: tuple[int, ...] | None = None
    version: int | None = BASE
    top_logprobs: int = 0
    source: str = ""
    background: bool = False

    def check(self, *, length: int, vocab_size: int) -> None:
        """Raise BadInput for what a row of so many tokens, or the draw, cannot do."""
        prompt, new = len(self.prompt_ids), self.max_tokens
        if not prompt:
            raise BadInput("an empty prompt: an answer needs at least one token to continue")
        if not all(0 <= each < vocab_size for each in self.prompt_ids):
            raise BadInput(f"the prompt has ids outside the vocabulary of {vocab_size:,}")
        if new < 1 or prompt + new > length:
            raise BadInput(
                f"{prompt:,} tokens and {new:,} new ones: a row holds {length:,}, of which one at least is "
                "new; shorten the prompt or lower max_tokens"
            )
        if not 0 <= self.temperature < float("inf") or not 0 < self.top_p <= 1:
            raise BadInput("temperature is 0 or more, top_p more than 0 and at most 1")
        if not 0 <= self.seed < SEEDS or not 0 <= self.sample < SEEDS:
            raise BadInput(f"seed and sample are 0 to {SEEDS - 1}")
        if not 0 <= self.top_logprobs <= MOST_TOP:
            raise BadInput(f"top_logprobs is 0 to {MOST_TOP}")
        if not all(self.stops):
            raise BadInput("an empty stop string would end every answer before it begins")


class Piece(NamedTuple):
    """Whole tokens of an answer with their text, which no later token changes. `top` has, for each token, the
    most probable ones with their log-probabilities, best first; nothing where nobody asked."""

    text: str
    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    top: tuple[tuple[tuple[int, float], ...], ...]


class Answer(NamedTuple):
    """All pieces, joined, and why the last one was: "stop" (a stop id, kept), "stop_string", "length" or
    "cancelled"."""

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    text: str
    finish_reason: str


class Handle:
    """An answer under way: iterate over it for its pieces, which waits for each, or `take` what is there.

    `finish_reason` is None until all pieces have been handed out. `notify` is called, in the engine's thread,
    whenever there is something new; one that raises is not called again, and the answer goes on. Where the
    engine died, what it died of is raised here.
    """

    def __init__(self, request: Request, notify: Callable[[], None] | None = None) -> None:
        self.request = request
        self.seconds_to_first: float | None = None
        self._notify = notify
        self._changed = threading.Condition()
        self._waiting, self._given = deque[Piece](), list[Piece]()
        self._reason: str | None = None
        self._error: BaseException | None = None

    def __iter__(self) -> Iterator[Piece]:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._reason or self._error)
                piece = self._next()
            if piece is None:
                return
            yield piece

    def take(self) -> list[Piece]:
        """The pieces that are there, without waiting."""
        with self._changed:
            return list(iter(self._next, None))

    def _next(self) -> Piece | None:
        if self._waiting:
            piece = self._waiting.popleft()
            self._given.append(piece)
            return piece
        if self._error is not None:
            raise self._error
        return None

    def cancel(self) -> None:
        """End it here: what was not handed out is no part of it. Its row is free within a token."""
        with self._changed:
            if self._reason is None or self._waiting:
                self._reason = "cancelled"
                self._waiting.clear()
            self._changed.notify_all()

    @property
    def ended(self) -> bool:
        """Whether all pieces there will be have been handed out."""
        with self._changed:
            return self._reason is not None and not self._waiting

    @property
    def finish_reason(self) -> str | None:
        """Why it ended; None where it has not."""
        return self._reason if self.ended else None

    @property
    def completion(self) -> Answer:
        """What was handed out, in one."""
        with self._changed:
            reason = self._reason if self._reason and not self._waiting else "cancelled"
            return Answer(
                ids=tuple(each for piece in self._given for each in piece.ids),
                logprobs=tuple(each for piece in self._given for each in piece.logprobs),
                text="".join(piece.text for piece in self._given),
                finish_reason=reason,
            )

    @property
    def unwanted(self) -> bool:
        """Whether it was cancelled; for the engine."""
        return self._reason is not None

    def put(self, piece: Piece | None, reason: str | None = None) -> None:
        """A piece, and the end where there is a reason; for the engine."""
        with self._changed:
            if self._reason is None:
                if piece is not None:
                    self._waiting.append(piece)
                self._reason = reason
            self._changed.notify_all()
        self._tell()

    def restart(self) -> None:
        """Forget what was put: it will be once more; for the engine."""
        with self._changed:
            self._waiting.clear()
            self._given.clear()

    def fail(self, error: BaseException) -> None:
        """End it by an error; for the engine."""
        with self._changed:
            self._error = self._error or error
            self._changed.notify_all()
        self._tell()

    def _tell(self) -> None:
        try:
            if self._notify is not None:
                self._notify()
        except Exception:  # one client's fault must not end the others' answers
            self._notify = None
