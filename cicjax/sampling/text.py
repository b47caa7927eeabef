"""The text of an answer while its tokens come: shown as soon as it is certain, and never taken back.

A token is certain when the characters it takes part in are whole and no stop string can begin in or before
it. What is certain is handed on in whole tokens, so that the text handed on is always that of the tokens
handed on.
"""

from collections.abc import Sequence

from cicjax.provenance.tokenizer import Tokenizer


class Text:
    """The tokens of one answer, pushed one by one. `stopped` says that a stop string has come: then nothing
    more is certain, and what was held back is no part of the answer."""

    def __init__(self, tokenizer: Tokenizer, stops: Sequence[str] = ()) -> None:
        self._spelling, self._stops = tokenizer.spelling(), tuple(stops)
        self._text, self._ends = "", list[int | None]()  # of the tokens that are held back
        self.stopped = False

    def push(self, token: int) -> tuple[int, str]:
        """Take the next token; how many of those held back are certain now, it included, and their text."""
        self._text += self._spelling.push(token)
        self._ends.append(None if self._spelling.pending else len(self._text))
        begins = [begin for begin in map(self._text.find, self._stops) if begin >= 0]
        self.stopped = bool(begins)
        return self._hand_on(min(begins) if begins else len(self._text) - self._undecided())

    def end(self) -> tuple[int, str]:
        """No token follows: what is held back is certain, and characters that are not whole are U+FFFD."""
        self._text += self._spelling.end()
        count, text = len(self._ends), self._text
        self._ends, self._text = [], ""
        return count, text

    def _undecided(self) -> int:
        """The length of the longest end of the text that a stop string begins with."""
        longest = min(max(map(len, self._stops), default=1) - 1, len(self._text))
        sizes = range(longest, 0, -1)
        return next((n for n in sizes if any(s.startswith(self._text[-n:]) for s in self._stops)), 0)

    def _hand_on(self, limit: int) -> tuple[int, str]:
        """The tokens that end at or before `limit`."""
        whole = [n for n, end in enumerate(self._ends, start=1) if end is not None and end <= limit]
        count = whole[-1] if whole else 0
        size = self._ends[count - 1] if count else 0
        assert size is not None
        text, self._text = self._text[:size], self._text[size:]
        self._ends = [None if end is None else end - size for end in self._ends[count:]]
        return count, text
