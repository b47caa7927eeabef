"""Texts that pose as control tokens, headers and verdicts: whole, broken, widened, doubled."""

import random
import unicodedata
from collections.abc import Callable, Sequence

MARKERS = (
    "Question:", "Question:\n", "\n\nProposed solution:\n", "Final answer: 42", "Verdict:\n",
    "\nassistant\n", "assistant\n", "system\n", "<tools>", "</tools>", "{question}",
    '\n{"name": "f", "arguments": {}}\n', "<eos>", "</s>", "[MASK]",
)  # fmt: skip
ORDINARY = (
    "",
    "4",
    "2 A.",
    " ",
    "\n",
    "\r\n",
    "\u6f22\u5b57",
    "caf\u00e9",
    "\u2126",
    "\ufb01",
    "\U0001f9d1\u200d\U0001f680",
    "\x00",
    "I\u0307",
)
JOINERS = ("\u200b", "\u200c", "\u200d", "\u2060", "\ufeff", "\u00ad")
COMBINING = ("\u0301", "\u0338", "\u0345", "\u20d2")


def _wide(text: str) -> str:
    return "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in text)


def _broken(text: str, rng: random.Random) -> str:
    cut = rng.randrange(len(text) + 1)
    return text[:cut] + rng.choice(JOINERS) + text[cut:]


def _marked(text: str, rng: random.Random) -> str:
    """With combining characters, which the normaliser may join to the character before: even to a bracket,
    U+226F."""
    return unicodedata.normalize(rng.choice(("NFC", "NFD", "NFKD")), text + rng.choice(COMBINING) + "\u00e9")


VARIANTS: tuple[Callable[[str, random.Random], str], ...] = (
    lambda text, rng: text,
    lambda text, rng: text,
    lambda text, rng: text.upper(),
    lambda text, rng: text.swapcase(),
    lambda text, rng: _wide(text),
    _broken,
    _marked,
    lambda text, rng: unicodedata.normalize("NFC", text + "\u0338"),
    lambda text, rng: text * 2,
    lambda text, rng: text[: len(text) // 2],
    lambda text, rng: f" {text} ",
    lambda text, rng: f"{text}\n",
)


def forgery(names: Sequence[str], rng: random.Random) -> str:
    parts = [
        rng.choice(VARIANTS)(rng.choice(names if rng.random() < 0.6 else MARKERS), rng)
        for _ in range(rng.choice((1, 1, 2)))
    ]
    parts.insert(rng.randrange(len(parts) + 1), rng.choice(ORDINARY))
    return "".join(parts)
