"""Who wrote what, from text to arrays. Needs NumPy and `tokenizers` alone: no jax, no model."""

from cicjax.provenance import weights
from cicjax.provenance.encode import Encoded, encode
from cicjax.provenance.transcript import Author, Control, Message, Segment, ToolCall, Transcript

__all__ = [
    "Author",
    "Control",
    "Encoded",
    "Message",
    "Segment",
    "ToolCall",
    "Transcript",
    "encode",
    "weights",
]
