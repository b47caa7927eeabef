"""Sampled ids beside the text that stands for them. People read, and verifiers grade, the text; the model is
trained on the ids."""

import re
import unicodedata
from collections.abc import Iterator

from cicjax.errors import shorten
from cicjax.provenance.tokenizer import Tokenizer
from cicjax.provenance.transcript import Episode, Message

THOUGHTS = re.compile("<think>.*?</think>", re.DOTALL)
CALL = re.compile("<tool_call>.*?(?:</tool_call>|$)", re.DOTALL)


def signs(episode: Episode, tokenizer: Tokenizer) -> Iterator[tuple[str, str]]:
    """A finding for each turn whose ids say something else than its text and its calls."""
    for n, message in enumerate(episode.messages, start=1):
        if message.tokens is not None and (said := _differing(message, tokenizer)) is not None:
            yield (
                "other-ids",
                f"the sampled ids of message {n} say {shorten(said)}, and its text is "
                f"{shorten(message.content)}; take the ids out, or look where the text was changed",
            )


def _differing(message: Message, tokenizer: Tokenizer) -> str | None:
    """The text of a turn's ids without the stop token that ends them, where it is not what the turn says."""
    ids = message.tokens or ()
    said = tokenizer.decode(ids[:-1] if ids and ids[-1] in tokenizer.stop_ids else ids)
    rest, calls = CALL.subn("", THOUGHTS.sub("", said)) if message.tool_calls else (said, 0)
    texts = {_plain(rest), _plain(THOUGHTS.sub("", said))}
    return None if _plain(message.content) in texts and calls == len(message.tool_calls) else said


def _plain(text: str) -> str:
    return unicodedata.normalize("NFC", text).strip()
