r"""Segments to aligned arrays. Tokens and what is known of them are appended by one call; nothing is
recovered later.

```
segments   "Question:\n...solution:\n"  sampled ids  end    "Proposed solution:\n"  "n = ..."   end
author     user                         agent ..     agent  environment             teacher ..  teacher
gamma      0 0 0 0 0                    1 1 1 1      1      0 0 0                   0 0 0 0     0
is_target  0 0 0 0 0                    1 1 1 1      1      0 0 0                   1 1 1 1     1
```
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int8, Int32

from cicjax.errors import BadInput, shorten
from cicjax.provenance import tokenizer as tokenizers
from cicjax.provenance.transcript import Author, Control, Segment, Transcript


class Encoded(NamedTuple):
    """Aligned arrays of one transcript, each (T,). Entry t speaks of tokens[t] as the thing predicted."""

    tokens: Int32[np.ndarray, " T"]
    gamma: Int8[np.ndarray, " T"]
    is_target: Bool[np.ndarray, " T"]
    solved: Int8[np.ndarray, " T"]
    author: Int8[np.ndarray, " T"]


def encode(transcript: Transcript, tokenizer: Any) -> Encoded:
    """A transcript as arrays. `tokenizer` is `provenance.tokenizer.load(...)` or a Hugging Face fast
    tokenizer.

    Each text segment is encoded alone. Between two texts a boundary must stand after a newline, since
    elsewhere the ids would depend on where the cut was made; if the next text then begins with white space,
    the boundary wins over any merge across it. Beside control tokens and ids any boundary stands: those are
    what they are. Raises BadInput, naming the segment, for a boundary elsewhere, an id outside the
    vocabulary, a stop token before the end of sampled ids, or a control token that the vocabulary lacks.
    """
    tokenizer = tokenizers.load(tokenizer)
    rows = _Rows()
    previous = ""
    for n, segment in enumerate(transcript.segments, start=1):
        content = segment.content
        if content == "":
            continue
        if isinstance(content, str) and previous and not previous.endswith("\n"):
            raise BadInput(
                f"{_place(transcript, n)} begins in the middle of a line ({shorten(previous[-12:])} "
                f"+ {shorten(content[:12])}): "
                "end the segment before it with a newline, or make them one"
            )
        rows.append(_ids(segment, tokenizer, transcript, n), segment)
        previous = content if isinstance(content, str) else ""
    return rows.arrays()


class _Rows:
    """The tokens, and what is known of them a segment at a time. `append` is the only way in, so they cannot
    come apart."""

    def __init__(self) -> None:
        self._tokens: list[int] = []
        self._lengths: list[int] = []
        self._facts: list[tuple[int, ...]] = []

    def append(self, ids: Sequence[int], segment: Segment) -> None:
        self._tokens.extend(ids)
        self._lengths.append(len(ids))
        self._facts.append(
            (segment.author == Author.AGENT, segment.is_target, segment.solved, segment.author)
        )

    def arrays(self) -> Encoded:
        facts = np.array(self._facts, np.int8).reshape(-1, 4).T
        gamma, is_target, solved, author = np.repeat(facts, np.array(self._lengths, np.intp), axis=1)
        return Encoded(np.array(self._tokens, np.int32), gamma, is_target.astype(np.bool_), solved, author)


def _ids(segment: Segment, tokenizer: tokenizers.Tokenizer, transcript: Transcript, n: int) -> Sequence[int]:
    content = segment.content
    try:
        if isinstance(content, str):
            return tokenizer.encode(content)
        if isinstance(content, Control):
            return [tokenizer.control(content.name)]
    except BadInput as error:
        raise BadInput(f"{_place(transcript, n)}: {error}") from None
    if content and max(content) >= tokenizer.vocab_size:
        raise BadInput(
            f"{_place(transcript, n)}: token id {max(content)} is outside the "
            f"vocabulary of {tokenizer.vocab_size}"
        )
    if not tokenizer.stop_ids.isdisjoint(content[:-1]):
        raise BadInput(
            f"{_place(transcript, n)}: sampled ids go on after a stop token; a turn ends with its first one, "
            "so cut them there"
        )
    return content


def _place(transcript: Transcript, n: int) -> str:
    return f"segment {n}" if transcript.id is None else f"transcript {shorten(transcript.id)}, segment {n}"
