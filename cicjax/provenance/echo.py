"""The echo: world-written text that repeats the agent's words. Tools print back what the agent wrote and
users quote it.

Role and author are the world's there, the words are the agent's; to learn them would be to take an action for
evidence after all.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Bool

from cicjax.provenance.encode import Encoded
from cicjax.provenance.tokenizer import Tokenizer
from cicjax.provenance.transcript import Author

ECHO_TOKENS = 20
ECHO_CHARACTERS = 80


def echo_spans(encoded: Encoded, tokenizer: Tokenizer | None = None) -> Bool[np.ndarray, " T"]:
    """Where a target that the world wrote repeats, for 20 tokens or more in a row, what the agent wrote
    earlier in the transcript.

    With a tokenizer, 80 characters suffice too. What a teacher repeats does not count: whoever corrects an
    attempt keeps what was right in it, and vouches for it. Linear in T: a suffix automaton of the agent's
    turns grows as the transcript is read.
    """
    worldly = encoded.is_target & (encoded.gamma == 0) & (encoded.author != Author.TEACHER)
    echoes = np.zeros(len(encoded.tokens), bool)
    if not worldly.any() or not encoded.gamma.any():
        return echoes
    lengths = _match_lengths(encoded, worldly)
    widths = np.zeros(len(echoes) + 1, np.int64)
    if tokenizer is not None:
        widths[1:] = np.cumsum([len(piece) for piece in tokenizer.pieces(encoded.tokens.tolist())])
    starts = np.arange(1, len(echoes) + 1) - lengths
    characters = widths[1:] - widths[starts]
    for t in np.flatnonzero((lengths >= ECHO_TOKENS) | (characters >= ECHO_CHARACTERS)):
        echoes[starts[t] : t + 1] = True
    return echoes


def copied(tokens: Sequence[int], sources: Iterable[Sequence[int]]) -> Bool[np.ndarray, " T"]:
    """Where `tokens` repeat, for 20 tokens or more in a row, one of the sources: what somebody's correction
    has taken over from the agent's attempts."""
    automaton, state, length = _Automaton(), 0, 0
    for source in sources:
        for token in (*source, -1):  # no token, so that no match goes across two of them
            automaton.append(token)
    repeats = np.zeros(len(tokens), bool)
    for t, token in enumerate(tokens):
        state, length = automaton.step(state, length, int(token))
        if length >= ECHO_TOKENS:
            repeats[t + 1 - length : t + 1] = True
    return repeats


def _match_lengths(encoded: Encoded, worldly: Bool[np.ndarray, " T"]) -> np.ndarray:
    """For each world-written target, how many tokens up to it stand in one agent's turn before it, in this
    order; 0 elsewhere."""
    automaton, state, length = _Automaton(), 0, 0
    lengths = np.zeros(len(worldly), np.int64)
    for t, (token, by_agent, sought) in enumerate(
        zip(encoded.tokens.tolist(), encoded.gamma.tolist(), worldly.tolist(), strict=True)
    ):
        if by_agent:
            automaton.append(token)
        elif t and encoded.gamma[t - 1]:
            automaton.append(-1)  # no token, so that no match goes across two turns
        if sought:
            state, length = automaton.step(state, length, token)
            lengths[t] = length
        else:
            state, length = 0, 0
    return lengths


class _Automaton:
    """The suffix automaton of a growing sequence: every run of tokens in it is a path from state 0."""

    def __init__(self) -> None:
        self.edges: list[dict[int, int]] = [{}]
        self.links = [-1]
        self.lengths = [0]
        self.last = 0

    def append(self, token: int) -> None:
        """Let the sequence end in `token`."""
        new = self._state({}, self.lengths[self.last] + 1, 0)
        state, self.last = self.last, new
        while state != -1 and token not in self.edges[state]:
            self.edges[state][token] = new
            state = self.links[state]
        if state == -1:
            return
        target = self.edges[state][token]
        if self.lengths[target] == self.lengths[state] + 1:
            self.links[new] = target
            return
        twin = self._state(dict(self.edges[target]), self.lengths[state] + 1, self.links[target])
        while state != -1 and self.edges[state].get(token) == target:
            self.edges[state][token] = twin
            state = self.links[state]
        self.links[target] = self.links[new] = twin

    def step(self, state: int, length: int, token: int) -> tuple[int, int]:
        """From the longest known suffix of some text, as state and length, to that of the text with `token`
        after it."""
        while state and token not in self.edges[state]:
            state = self.links[state]
            length = self.lengths[state]
        following = self.edges[state].get(token)
        return (0, 0) if following is None else (following, length + 1)

    def _state(self, edges: dict[int, int], length: int, link: int) -> int:
        self.edges.append(edges)
        self.lengths.append(length)
        self.links.append(link)
        return len(self.edges) - 1
