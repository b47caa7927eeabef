"""The tool calls of a sampled turn, found by its control tokens and never by its text: what somebody wrote as
`<tool_call>` in letters calls nothing."""

from collections.abc import Iterator, Sequence
from typing import Any

from cicjax.errors import BadInput
from cicjax.files import strict
from cicjax.provenance.chat import CALL
from cicjax.provenance.tokenizer import Tokenizer
from cicjax.provenance.transcript import ToolCall


def calls_of(tokens: Sequence[int], tokenizer: Tokenizer) -> tuple[ToolCall, ...]:
    """The calls that a turn of these ids makes, in their order: objects of a name and arguments between the
    two control tokens. What is none, or never ends, stays text and is left out."""
    found = (_call(tokenizer.decode(inside)) for inside in _between(tokens, tokenizer))
    return tuple(call for call in found if call is not None)


def _between(tokens: Sequence[int], tokenizer: Tokenizer) -> Iterator[Sequence[int]]:
    opens, closes = (tokenizer.controls.get(control.name) for control in CALL)
    begin = None
    for n, token in enumerate(tokens):
        if token == opens:
            begin = n + 1
        elif token == closes and begin is not None:
            yield tokens[begin:n]
            begin = None


def _call(text: str) -> ToolCall | None:
    try:
        said: dict[str, Any] = strict.mapping(strict.load(text), "a call")
        strict.keys(said, required=("name", "arguments"), optional=(), what="a call")
        arguments = strict.dumps(strict.mapping(said["arguments"], "arguments"), "arguments")
        return ToolCall(name=strict.text(said["name"], "name"), arguments=arguments)
    except BadInput:
        return None
