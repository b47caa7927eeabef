"""One answer under way in an engine: what its row reads next, and what a new token makes certain."""

import time
from collections import deque
from dataclasses import dataclass, field

import numpy as np

from cicjax.errors import Corrupted
from cicjax.provenance.tokenizer import Tokenizer
from cicjax.sampling.request import Handle, Piece, Request
from cicjax.sampling.serving import CHUNK, Drawn, Inputs
from cicjax.sampling.text import Text


@dataclass(eq=False)
class Row:
    """`slot` is that of the bank, `place` the row's own once it has one; so much of the prompt is `filled`
    into the cache, so many tokens are `drawn`, and the newest of them are held back until they are
    certain."""

    handle: Handle
    tokenizer: Tokenizer
    slot: int
    key: np.ndarray
    asked: float = field(default_factory=time.monotonic)
    place: int = -1
    filled: int = 0
    drawn: int = 0
    token: int = 0
    told: float = 0.0

    def __post_init__(self) -> None:
        self._text = Text(self.tokenizer, self.request.stops)
        self._held = deque[tuple[int, float, tuple[tuple[int, float], ...]]]()

    @property
    def request(self) -> Request:
        """What was asked."""
        return self.handle.request

    @property
    def background(self) -> bool:
        """Whether it gives its row to whoever wants it."""
        return self.request.background

    @property
    def to_fill(self) -> int:
        """All of the prompt but its last token, which the first drawing step reads."""
        return len(self.request.prompt_ids) - 1

    @property
    def ready(self) -> bool:
        """Whether it may draw."""
        return self.filled >= self.to_fill

    def same_prompt(self, other: "Row") -> bool:
        """Whether its cache holds what the other's is to hold."""
        own, others = self.request, other.request
        return (self.slot, own.source, own.prompt_ids) == (other.slot, others.source, others.prompt_ids)

    def chunk(self) -> np.ndarray:
        """The next tokens of the prompt, filled up with zeros."""
        ids = self.request.prompt_ids[self.filled : min(self.filled + CHUNK, self.to_fill)]
        tokens = np.zeros(CHUNK, np.int32)
        tokens[: len(ids)] = ids
        return tokens

    def put_into(self, inputs: Inputs) -> None:
        """What it reads to draw its next token. While its prompt is still going in it reads nothing that
        counts, and writes where the next chunk goes."""
        n, request = self.place, self.request
        inputs.position[n] = self.filled
        if self.ready:
            inputs.token[n] = self.token if self.drawn else request.prompt_ids[-1]
            inputs.position[n] = self.to_fill + self.drawn
            inputs.slot[n], inputs.keys[n], inputs.step[n] = self.slot, self.key, self.drawn
            inputs.temperature[n], inputs.top_p[n] = request.temperature, request.top_p

    def take(self, drawn: Drawn, now: float) -> bool:
        """Its new token; what is certain now goes to whoever asked. Gives whether that was the last.

        Raises Corrupted for a log-probability that is not finite.
        """
        token, logprob = int(drawn.token[self.place]), float(drawn.logprob[self.place])
        if not np.isfinite(logprob):
            raise Corrupted("log-probabilities are not finite: the weights or the adapter are damaged")
        if not self.drawn:
            self.handle.seconds_to_first = now - self.asked
        self.token, self.drawn, self.told = token, self.drawn + 1, now
        self._held.append((token, logprob, _top(drawn, self.place, self.request.top_logprobs)))
        reason = self._ended()
        count, text = self._text.push(token)
        if self._text.stopped:
            reason = "stop_string"
        elif reason is not None:
            more, rest = self._text.end()
            count, text = count + more, text + rest
        self._hand_on(count, text, reason)
        return reason is not None

    def _ended(self) -> str | None:
        stop_ids = self.request.stop_ids
        if self.token in (self.tokenizer.stop_ids if stop_ids is None else stop_ids):
            return "stop"
        return "length" if self.drawn == self.request.max_tokens else None

    def _hand_on(self, count: int, text: str, reason: str | None) -> None:
        tokens = [self._held.popleft() for _ in range(count)]
        if tokens:
            ids, logprobs, top = zip(*tokens, strict=True)
            self.handle.put(Piece(text, ids, logprobs, top), reason)
        elif reason is not None:
            self.handle.put(None, reason)

    def restart(self) -> None:
        """As it was before it had a place."""
        self.place, self.filled, self.drawn, self.told = -1, 0, 0, 0.0
        self.__post_init__()
        self.handle.restart()


def _top(drawn: Drawn, place: int, count: int) -> tuple[tuple[int, float], ...]:
    """The most probable tokens that could have been drawn, with their log-probabilities."""
    tokens, logprobs = np.asarray(drawn.top[place, :count]), np.asarray(drawn.top_logprobs[place, :count])
    inside = np.isfinite(logprobs)  # beyond a nucleus nothing is drawn
    return tuple(zip(tokens[inside].tolist(), logprobs[inside].tolist(), strict=True))
