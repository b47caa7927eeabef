"""Whether our rendering of a conversation is the tokenizer's own: `cicjax mask --check_template`.

Here alone a template that came as data is run, on request, and here alone transformers is imported: its
`apply_chat_template` renders in jinja2's sandbox, which reaches neither files nor modules. The tokenizer is
built from tokenizer.json and the template, so that nothing is fetched and no code of a folder is looked for.

What is compared is ids, since ids are trained on. Sampled ids are left out of both sides: they are kept as
they were sampled, whatever a template would make of their text.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cicjax.errors import BadInput, CicjaxError, shorten
from cicjax.files import strict
from cicjax.logs.native import is_object
from cicjax.provenance.chat import PROTOCOLS, Protocol, chat
from cicjax.provenance.encode import encode
from cicjax.provenance.tokenizer import FILE, Tokenizer
from cicjax.provenance.transcript import Episode, Message, ToolCall

CONFIG, TEMPLATE = "tokenizer_config.json", "chat_template.jinja"
AROUND = 8  # tokens shown of each side


class Differs(CicjaxError):
    """The template was compared with our rendering, and is another."""

    exit_code = 1


def exists(folder: Path) -> bool:
    """Whether the folder's tokenizer has a chat template."""
    return _template(folder, _config(folder)) is not None


def load(folder: Path, tokenizer: Tokenizer) -> Any:
    """The folder's tokenizer with its chat template, as transformers has it. Raises BadInput where the folder
    has no template."""
    config = _config(folder)
    template = _template(folder, config)
    if template is None:
        raise BadInput(
            f"{folder}: the tokenizer has no chat template, neither {TEMPLATE} nor a chat_template in "
            f"{CONFIG}; give the folder of a chat model"
        )
    # Else transformers says on import that torch is missing.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    from tokenizers import normalizers
    from transformers import PreTrainedTokenizerFast

    special = {
        name: _content(config.get(name)) for name in ("bos_token", "eos_token", "unk_token", "pad_token")
    }
    loaded = PreTrainedTokenizerFast(
        tokenizer_file=str(folder / FILE),
        chat_template=template,
        **{name: token for name, token in special.items() if token in tokenizer.controls},
    )
    if str(config.get("tokenizer_class", "")).startswith("Qwen2"):
        # as its class sets it in code, see provenance.tokenizer
        loaded.backend_tokenizer.normalizer = normalizers.NFC()
    return loaded


def compare(
    path: object, episodes: Sequence[Episode], tokenizer: Tokenizer, reference: Any, *, format: str
) -> None:
    """Raise Differs, with file:line of the first of them, where episodes of the file `path` have other ids in
    the chat protocol `format` than by the template of `reference`, which is `load`'s.

    Raises BadInput with file:line for what the protocol cannot hold.
    """
    protocol = PROTOCOLS[format]
    differing = 0
    first = ""
    for episode in episodes:
        with strict.place(f"{path}:{episode.line}"):
            difference = _difference(episode, tokenizer, reference, protocol)
        if difference is not None:
            first = first or f"{path}:{episode.line}: {difference}"
            differing += 1
    if differing:
        raise Differs(f"{first} ({differing} of {len(episodes)} transcripts differ from --format {format})")


def _difference(episode: Episode, tokenizer: Tokenizer, reference: Any, protocol: Protocol) -> str | None:
    """Where the template's ids part from ours, in words; None where they are equal."""
    messages = [replace(message, tokens=None, logprobs=None) for message in episode.messages]
    row = chat(messages, protocol=protocol, tools=episode.tools)
    ours = encode(row, tokenizer).tokens.tolist()
    try:
        theirs = reference.apply_chat_template(
            [_as_dict(message, protocol) for message in messages],
            tools=list(episode.tools) or None,
            tokenize=True,
            return_dict=False,
        )
    except ImportError as error:
        raise BadInput(f"transformers cannot render a template here: {shorten(str(error))}") from None
    except Exception as error:  # a template may raise what it likes, and jinja2 has kinds of its own
        return f"the tokenizer's chat template refuses this: {shorten(str(error))}"
    return None if ours == list(theirs) else _parting(ours, theirs, tokenizer)


def _config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    with strict.place(str(path)):
        return strict.mapping(strict.load(path.read_bytes()), "the file") if path.is_file() else {}


def _template(folder: Path, config: Mapping[str, Any]) -> Any:
    """The template's text, or texts by name where there are several; None where there is none."""
    path = folder / TEMPLATE
    try:
        if path.is_file():
            return path.read_text(encoding="utf-8") or None
    except (OSError, UnicodeDecodeError):
        raise BadInput(f"{path}: cannot be read as UTF-8 text") from None
    template = config.get("chat_template")
    if isinstance(template, list):
        named = [item if isinstance(item, dict) else {} for item in template]
        template = {str(item.get("name")): item.get("template") for item in named}
    texts = list(template.values()) if isinstance(template, dict) else [template or ""]
    if not all(isinstance(text, str) for text in texts):
        raise BadInput(f"{folder / CONFIG}: chat_template is a text, or a list of names with their texts")
    return template or None


def _content(token: Any) -> str | None:
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else None


def _as_dict(message: Message, protocol: Protocol) -> dict[str, Any]:
    """A message as templates take it. A verifier's goes by the role in whose turn the protocol puts it."""
    role = message.role if message.role != "verifier" else protocol.speakers[message.role]
    calls = [
        {
            "type": "function",
            "function": {"name": call.name, "arguments": _arguments(call)},
        }
        for call in message.tool_calls
    ]
    return {"role": role, "content": message.content} | ({"tool_calls": calls} if calls else {})


def _arguments(call: ToolCall) -> Any:
    if not is_object(call.arguments):
        raise BadInput(
            f"the arguments of the call of {shorten(call.name)} are no JSON object, "
            "and a chat template writes nothing else: leave this transcript out of the comparison"
        )
    return strict.load(call.arguments)


def _parting(ours: Sequence[int], theirs: Sequence[int], tokenizer: Tokenizer) -> str:
    pairs = zip(ours, theirs, strict=False)
    at = next((t for t, (mine, other) in enumerate(pairs) if mine != other), min(len(ours), len(theirs)))
    after = shorten(tokenizer.decode(ours[max(at - AROUND, 0) : at]))
    here, there = (shorten(tokenizer.decode(ids[at : at + AROUND])) for ids in (ours, theirs))
    what = f"after {after} the tokenizer's chat template has {there} where ours has {here}"
    if tokenizer.decode(ours) == tokenizer.decode(theirs):
        what += (
            ", the same text in other tokens: there words that name a control token become one, and a line "
            "break at the start of a turn joins the one before it"
        )
    return what
