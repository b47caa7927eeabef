"""What every verb that takes transcripts agrees on: in which protocol they are rendered, whose words are
targets, what a token weighs.

The protocol is decided once: an adapter keeps the one that it was trained in, and whoever uses it asks here
with that.
"""

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
from cicjax.provenance.transcript import AUTHORS, Author, Episode, Message, Transcript

PLAIN = "plain"
NAMES = (PLAIN, *render.PROTOCOLS)
FORMATS = ("auto", *NAMES)
OBJECTIVES = {"interventional": weights.INTERVENTIONAL, "observational": weights.OBSERVATIONAL}

Render = Callable[[Episode], Transcript]


def decide(
    format: str,
    episodes: Sequence[Episode],
    tokenizer: Tokenizer,
    *,
    adapter: str | None = None,
    path: object = "the file",
) -> str:
    """The one protocol of all `episodes`, a name of NAMES.

    That is `format`, one of FORMATS, unless it is `auto`; else the one that the adapter in use was trained
    in, `adapter`; else the one that the file at `path` says; else the chat protocol whose control tokens the
    tokenizer has, and plain where it has none. Raises BadInput where two of them say different things: one
    file has one protocol, and an adapter is used in the one that it knows.
    """
    if format not in FORMATS:
        raise BadInput(f"unknown format {shorten(format)}; formats are {', '.join(FORMATS)}")
    if format != "auto":
        if adapter not in (None, format):
            raise BadInput(f"the adapter was trained in the protocol {adapter}; leave --format {format} out")
        return format
    said = _said(episodes, path)
    if adapter is not None and said not in (None, adapter):
        raise BadInput(
            f"{path}: says that its protocol is {said}, and the adapter was trained in {adapter}; "
            f"say --format {adapter} to use it all the same"
        )
    return adapter or said or chat_format(tokenizer) or PLAIN


def renderer(
    format: str,
    targets: Iterable[str],
    episodes: Sequence[Episode],
    tokenizer: Tokenizer,
    *,
    open_turn: bool = False,
) -> Render:
    """How to render each of `episodes` in the protocol that `decide` gives; with `open_turn` up to where the
    next answer begins.

    Raises BadInput for another format or an unknown author; what it returns does for an episode that the
    protocol cannot hold.
    """
    name = decide(format, episodes, tokenizer)
    authors = target_authors(targets)

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

    return plain if name == PLAIN else chat


def prompt(messages: Sequence[Message], *, protocol: str = PLAIN) -> Transcript:
    """The prompt to sample the answer to `messages` from. Raises BadInput where the protocol cannot hold
    them."""
    if protocol == PLAIN:
        return render.plain(messages, open_turn=True)
    return render.chat(messages, protocol=render.PROTOCOLS[protocol], open_turn=True)


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


def _said(episodes: Sequence[Episode], path: object) -> str | None:
    """The protocol that a file says, in each of its episodes or in none."""
    said = episodes[0].protocol if episodes else None
    for episode in episodes:
        if episode.protocol != said:
            here, there = (f"says {name}" if name else "says none" for name in (episode.protocol, said))
            raise BadInput(
                f"{path}:{episode.line}: {here} as its protocol where line {episodes[0].line} {there}; one "
                "file has one protocol: part them, or say --format for all"
            )
    return said


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


def _check_plain(episode: Episode) -> None:
    # The plain protocol has words for neither, and to leave them out would hide from the reader what the
    # agent did and saw.
    for n, message in enumerate(episode.messages, start=1):
        if message.tool_calls:
            raise BadInput(f"message {n}: the plain protocol has no tool calls; choose --format chatml")
    if episode.tools:
        raise BadInput("the plain protocol cannot say which tools there are; choose --format chatml")
