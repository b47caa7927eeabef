"""One answer on its way to a client: what of it may be said at once, and how OpenAI's protocol says it.

A call of a tool is known by its control token. From there on text is held back until the answer has ended:
then it is a call, or it was only text.
"""

import json
import time
from collections.abc import Sequence
from typing import Any

from cicjax.provenance.calls import calls_of
from cicjax.provenance.chat import CALL
from cicjax.provenance.tokenizer import Tokenizer

REASONS = {"stop": "stop", "stop_string": "stop", "length": "length", "cancelled": "length"}


class Reply:
    """An answer of the engine (`live.ask`), with what was taken of it so far."""

    def __init__(self, answer: Any, tokenizer: Tokenizer, *, tools: bool) -> None:
        self.answer, self._tokenizer = answer, tokenizer
        self._opens = tokenizer.controls.get(CALL[0].name) if tools else None
        self.begun, self._last = time.time(), time.monotonic()
        self.finished = False
        self.logprobs = list[dict[str, Any]]()
        self._ids, self._said, self._held = list[int](), "", ""

    @property
    def ended(self) -> bool:
        """Whether nothing more will come."""
        return self.answer.handle.ended

    @property
    def count(self) -> int:
        """Tokens taken."""
        return len(self._ids)

    @property
    def prompt_tokens(self) -> int:
        """Tokens that the answer continues."""
        return len(self.answer.begun.prompt)

    def take(self, service: Any) -> list[tuple[str, list[dict[str, Any]]]]:
        """What is new: texts that may be said, each with the log-probabilities of its tokens."""
        taken = []
        for piece in self.answer.handle.take():
            now = time.monotonic()
            figure = service.metrics.token_gap if self._ids else service.metrics.first_token
            figure.observe(now - self._last)
            self._last = now
            self._ids += piece.ids
            logprobs = self._scored(piece)
            self.logprobs += logprobs
            text = self._visible(piece)
            self._said += text
            taken.append((text, logprobs))
        return taken

    def _visible(self, piece: Any) -> str:
        if self._held:
            self._held += piece.text
            return ""
        if self._opens is not None and self._opens in piece.ids:
            before, name, after = piece.text.partition(CALL[0].name)
            self._held = name + after
            return before
        return piece.text

    def _scored(self, piece: Any) -> list[dict[str, Any]]:
        tops: Sequence[Any] = piece.top or [()] * len(piece.ids)
        texts = self._tokenizer.pieces(piece.ids)
        return [
            _scored(text, logprob) | {"top_logprobs": [_scored(self._one(i), p) for i, p in top]}
            for text, logprob, top in zip(texts, piece.logprobs, tops, strict=True)
        ]

    def _one(self, token: int) -> str:
        return self._tokenizer.decode([token])

    @property
    def calls(self) -> list[dict[str, Any]]:
        """The calls of an answer that has ended."""
        if self._opens is None:
            return []
        return [
            {
                "id": f"call_{self.answer.id}_{n}",
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for n, call in enumerate(calls_of(self._ids, self._tokenizer))
        ]

    @property
    def reason(self) -> str:
        """Why it ended, in OpenAI's words."""
        return "tool_calls" if self.calls else REASONS[self.answer.handle.finish_reason]

    def message(self) -> dict[str, Any]:
        """The whole of it."""
        calls = self.calls
        if not calls:
            return {"content": self._said + self._held}
        return {"content": self._said or None, "tool_calls": calls}

    def rest(self) -> dict[str, Any]:
        """What a stream says of what was held back, once the answer has ended."""
        if calls := self.calls:
            return {"tool_calls": [{"index": n} | call for n, call in enumerate(calls)]}
        return {"content": self._held} if self._held else {}


def _scored(text: str, logprob: float) -> dict[str, Any]:
    return {"token": text, "logprob": max(logprob, -9999.0), "bytes": list(text.encode())}


def event(record: dict[str, Any], name: str | None = None, id: int | None = None) -> str:
    """A server-sent event."""
    lines = [f"event: {name}"] if name else []
    lines += [f"id: {id}"] if id is not None else []
    return "\n".join([*lines, f"data: {json.dumps(record)}", "", ""])
