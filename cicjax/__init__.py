"""Continual, interactive, causal agents: what the world wrote is evidence, what the agent wrote is an action.

    import cicjax

    row = cicjax.encode(cicjax.Transcript([...]), "checkpoints/tiny")

Nothing is imported before it is asked for: the words of provenance need neither jax nor a model.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cicjax import objectives, provenance, tasks
    from cicjax.provenance import Author, Message, Segment, ToolCall, Transcript, encode, weights

__version__ = "0.1.0"
__all__ = [
    "Author",
    "Message",
    "Segment",
    "ToolCall",
    "Transcript",
    "encode",
    "objectives",
    "provenance",
    "tasks",
    "weights",
]


def __getattr__(name: str) -> Any:
    if name in ("objectives", "provenance", "tasks"):
        return import_module(f"cicjax.{name}")
    if name in __all__:
        return getattr(import_module("cicjax.provenance"), name)
    raise AttributeError(f"module 'cicjax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
