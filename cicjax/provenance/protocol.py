"""What every verb that takes transcripts agrees on: in which protocol they are rendered, whose words are
targets, what a token weighs."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32

from cicjax.errors import BadInput, shorten
from cicjax.provenance import render, weights
from cicjax.provenance.echo import echo_spans
from cicjax.provenance.encode import Encoded, encode
from cicjax.provenance.tokenizer import Tokenizer
from cicjax.provenance.transcript import AUTHORS, Author, Episode, Transcript

FORMATS = ("auto", "plain", *render.PROTOCOLS)
OBJECTIVES = {"interventional": weights.INTERVENTIONAL, "observational": weights.OBSERVATIONAL}

Render = Callable[[Episode], Transcript]


def renderer(
    format: str,
    targets: Iterable[str],
    episodes: Sequence[Episode],
    tokenizer: Tokenizer,
    *,
    open_turn: bool = False,
) -> Render:
    """How to render each of `episodes`, all of them in one protocol; with `open_turn` up to where the next
    answer begins.

    `format` is one of FORMATS: `auto` is plain where the plain protocol can hold every episode, and else the
    chat protocol whose control tokens the tokenizer has. Raises BadInput for another format or an unknown
    author; what it returns does for an episode that the protocol cannot hold.
    """
    if format not in FORMATS:
        raise BadInput(f"unknown format {shorten(format)}; formats are {', '.join(FORMATS)}")
    authors = target_authors(targets)
    name = _fitting(episodes, tokenizer) if format == "auto" else format

    def plain(episode: Episode) -> Transcript:
        _check_plain(episode)
        return render.plain(episode.messages, targets=authors, open_turn=open_turn, id=episode.id)

    def chat(episode: Episode) -> Transcript:
        protocol = render.PROTOCOLS[name]
        return render.chat(
            episode.messages,
            protocol=protocol,
            tools=episode.tools,
            targets=authors,
            open_turn=open_turn,
            id=episode.id,
        )

    return plain if name == "plain" else chat


def target_authors(names: Iterable[str]) -> frozenset[Author]:
    """Authors by name, as `--targets` takes them; `world` stands for all but the agent and the system. Raises
    BadInput for others."""
    authors: set[Author] = set()
    for name in names:
        if name != "world" and name not in AUTHORS:
            raise BadInput(
                f"unknown author {shorten(name)} among the targets; choose from world, {', '.join(AUTHORS)}"
            )
        authors |= render.WORLD if name == "world" else {AUTHORS[name]}
    return frozenset(authors)


def chat_format(tokenizer: Tokenizer) -> str | None:
    """The chat protocol that fits a tokenizer by its control tokens; None where none does."""
    chats = [name for name, protocol in render.PROTOCOLS.items() if protocol.begin.name in tokenizer.controls]
    # Qwen3 knows thoughts as control tokens, and its protocol writes them; other vocabularies have no word
    # for them.
    whole = (name for name in reversed(chats) if _has_controls(render.PROTOCOLS[name], tokenizer))
    return next(whole, chats[0] if chats else None)


def encode_all(
    episodes: Iterable[Episode], tokenizer: Tokenizer, *, render: Render, path: object
) -> Iterator[tuple[Episode, Encoded]]:
    """Each episode with its arrays. Raises BadInput with file:line where one cannot be rendered or
    encoded."""
    for episode in episodes:
        try:
            yield episode, encode(render(episode), tokenizer)
        except BadInput as error:
            raise BadInput(f"{path}:{episode.line}: {error}") from None


@dataclass(frozen=True)
class Weighting:
    """What each position of a transcript weighs in a loss: a rule on its targets.

    The first position is no target, since nothing predicts it, and neither is the world's echo of the agent's
    words unless `keep_echoes`. Training packs the same targets, and its compiled step applies the same rule.
    """

    rule: Any
    keep_echoes: bool = False

    def targets(self, encoded: Encoded) -> Bool[np.ndarray, " T"]:
        """The positions that the rule is asked about."""
        targets = encoded.is_target.copy() if self.keep_echoes else encoded.is_target & ~echo_spans(encoded)
        targets[:1] = False
        return targets

    def __call__(self, encoded: Encoded) -> Float32[np.ndarray, " T"]:
        """Weights in float32."""
        return np.asarray(self.rule(encoded.gamma, self.targets(encoded), encoded.solved), np.float32)


def weighting(
    objective: str, *, wrong: float = 0.0, correct: float = 0.0, keep_echoes: bool = False
) -> Weighting:
    """The weighting of an objective: `interventional`, `observational`, or `stream` with these two corners.

    Raises BadInput for another name, and for corners beside a name that settles them.
    """
    if objective == "stream":
        return Weighting(weights.between(wrong, correct), keep_echoes)
    if objective not in OBJECTIVES:
        raise BadInput(
            f"unknown objective {shorten(objective)}; objectives are {', '.join(OBJECTIVES)}, stream"
        )
    if wrong or correct:
        raise BadInput(f"wrong and correct belong to the objective stream, not to {objective}")
    return Weighting(OBJECTIVES[objective], keep_echoes)


def _fitting(episodes: Sequence[Episode], tokenizer: Tokenizer) -> str:
    name = chat_format(tokenizer)
    return "plain" if name is None or all(map(_fits_plain, episodes)) else name


def _has_controls(protocol: render.Protocol, tokenizer: Tokenizer) -> bool:
    pieces = (
        protocol.begin,
        protocol.end,
        *protocol.call,
        *protocol.result_open,
        *protocol.result_close,
        *protocol.unthinking,
    )
    return all(isinstance(piece, str) or piece.name in tokenizer.controls for piece in pieces)


def _fits_plain(episode: Episode) -> bool:
    try:
        _check_plain(episode)
        render.plain(episode.messages)
    except BadInput:
        return False
    return True


def _check_plain(episode: Episode) -> None:
    # The plain protocol has words for neither, and to leave them out would hide from the reader what the
    # agent did and saw.
    for n, message in enumerate(episode.messages, start=1):
        if message.tool_calls:
            raise BadInput(f"message {n}: the plain protocol has no tool calls; choose --format chatml")
    if episode.tools:
        raise BadInput("the plain protocol cannot say which tools there are; choose --format chatml")
