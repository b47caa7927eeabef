"""The one road from text to ids and back, on the `tokenizers` package and a folder's tokenizer.json.

Content is encoded by the file with its `added_tokens` emptied and their names taken out of the model's own
vocabulary, so that `<|im_end|>` inside somebody's text stays text; control tokens enter by name alone. Every
encoding is looked through for control ids all the same: where a vocabulary knows a character only as its
unknown token, and that is a control token, the text is refused.

Two repairs make the ids equal to those that transformers gives for the same content: truncation and padding
of the file are switched off, and the NFC normaliser, which Qwen2's tokenizer class adds in code, is set where
the file lacks it.
"""

import codecs
import functools
import hashlib
import json
import weakref
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import tokenizers

from cicjax.errors import BadInput, shorten
from cicjax.files import hub, strict
from cicjax.provenance.transcript import END_OF_TEXT

END_OF_TURN = "<|im_end|>"
FILE = "tokenizer.json"
NO_TEXT = "\ufdd0\ufdd1"  # noncharacters: Unicode gives them to nobody's text
# Some 60 bytes of memory a character where all of it is one word; no row holds as many tokens.
LONGEST_TEXT = 1 << 22
# What is read here, and the template that `logs.template` compares with.
FILES = (FILE, "tokenizer_config.json", "config.json", "chat_template.jinja")


class Tokenizer:
    """Content encoder, decoder and control ids of one tokenizer.json. Made by `load`; holds no state but a
    cache of token bytes."""

    def __init__(
        self,
        spec: dict[str, Any],
        *,
        fingerprint: str,
        config: Mapping[str, Any] | None = None,
        rows: int = 0,
    ) -> None:
        """`spec` is the parsed tokenizer.json, `config` tokenizer_config.json, `rows` those of the model's
        embedding where known."""
        config = config or {}
        self.fingerprint = fingerprint
        self.controls: dict[str, int] = {
            token["content"]: int(token["id"]) for token in spec.get("added_tokens") or []
        }
        self._names = {i: name for name, i in self.controls.items()}
        self._special = {
            int(token["id"]) for token in spec.get("added_tokens") or [] if token.get("special", True)
        }
        self._content = _content_encoder(
            spec, self.controls, nfc=str(config.get("tokenizer_class", "")).startswith("Qwen2")
        )
        self.end_of_text = self._end_of_text(config)
        self.stop_ids = frozenset(
            {self.end_of_text} | {self.controls[name] for name in (END_OF_TURN,) if name in self.controls}
        )
        largest = _largest_id(spec["model"]["vocab"], self.controls)
        if rows and largest >= rows:
            raise BadInput(
                f"has ids up to {largest}, and config.json beside it says vocab_size {rows}: "
                "they do not belong together; fetch the folder again"
            )
        # A model may have more rows than its tokenizer has ids (Qwen2.5: 151,936 against 151,665), and a
        # sampled id may be any of them.
        self.vocab_size = rows or largest + 1
        self._bytes_of_char = _byte_alphabet() if _is_byte_level(spec.get("decoder")) else None
        self._bytes: dict[int, bytes] = {}

    def encode(self, text: str) -> list[int]:
        """Ids of `text` as content: no control token, nothing put before or after. Raises BadInput for text
        that is not Unicode, too long to be one row's, or not to be written without a control token."""
        if len(text) > LONGEST_TEXT:
            raise BadInput(f"a text of {len(text):,} characters is longer than {LONGEST_TEXT:,}; part it")
        try:
            ids = self._content.encode(text, add_special_tokens=False).ids
        except (UnicodeEncodeError, TypeError):
            raise BadInput(f"text with a lone surrogate is not Unicode: {shorten(text)}") from None
        if not self._names.keys().isdisjoint(ids):
            name = next(self._names[i] for i in ids if i in self._names)
            raise BadInput(
                f"the vocabulary writes a part of this text as its control token {shorten(name)}, which no "
                f"text may become: {shorten(text)}; leave that part out, or choose another tokenizer"
            )
        return ids

    def decode(self, ids: Iterable[int], *, skip_controls: bool = False) -> str:
        """Text of `ids`; control tokens appear by name. With `skip_controls` those that the file calls
        special, such as ends of turns, are left out; `<tool_call>` is none of them. Broken UTF-8 becomes
        U+FFFD."""
        ids = [int(i) for i in ids]
        kept = [i for i in ids if i not in self._special] if skip_controls else ids
        return "".join(self.pieces(kept))

    def pieces(self, ids: Iterable[int]) -> list[str]:
        """Text of each id, so that the pieces join to the whole: a character of several tokens stands at the
        last of them."""
        pieces: list[str] = []
        utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        for i in ids:
            name = self._names.get(int(i))
            if name is None:
                pieces.append(utf8.decode(self._token_bytes(int(i))))
                continue
            if pieces:
                pieces[-1] += utf8.decode(b"", final=True)
            pieces.append(name)
        if pieces:
            pieces[-1] += utf8.decode(b"", final=True)
        return pieces

    def spelling(self) -> "Spelling":
        """`decode` with `skip_controls`, id by id as they come."""
        return Spelling(self)

    def bytes_of(self, i: int) -> bytes | str:
        """What an id stands for: bytes of text; a control token's name; nothing where `skip_controls` leaves
        it out."""
        if i in self._special:
            return b""
        return self._names.get(i) or self._token_bytes(i)

    def control(self, name: str) -> int:
        """Id of a control token. `<|endoftext|>` names the end of text whatever this vocabulary calls it.
        Raises BadInput if absent."""
        if name == END_OF_TEXT:
            return self.end_of_text
        if name not in self.controls:
            raise BadInput(
                f"the tokenizer has no control token {shorten(name)}: choose one that has, or another format"
            )
        return self.controls[name]

    def is_control(self, i: int) -> bool:
        """Whether this id is a control token's."""
        return i in self._names

    def _end_of_text(self, config: Mapping[str, Any]) -> int:
        # Chat models name their end of turn as eos, so the config is asked only where the usual name is
        # missing.
        eos = config.get("eos_token")
        name = eos.get("content") if isinstance(eos, dict) else eos
        for candidate in (END_OF_TEXT, name):
            if isinstance(candidate, str) and candidate in self.controls:
                return self.controls[candidate]
        raise BadInput(
            "the tokenizer has no end-of-text token: "
            f"{FILE} lists no added token {END_OF_TEXT} and names no eos_token"
        )

    def _token_bytes(self, i: int) -> bytes:
        if i not in self._bytes:
            self._bytes[i] = self._read_token(i)
        return self._bytes[i]

    def _read_token(self, i: int) -> bytes:
        token = self._content.id_to_token(i)
        if token is None:
            return b""
        if self._bytes_of_char is None:
            return self._content.decode([i]).encode()
        if all(char in self._bytes_of_char for char in token):
            return bytes(self._bytes_of_char[char] for char in token)
        return token.encode()


class Spelling:
    """The text of ids, pushed one by one; `pending` says that the last of them ended inside a character."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, i: int) -> str:
        """The text that one more id brings."""
        stands_for = self._tokenizer.bytes_of(i)
        if isinstance(stands_for, bytes):
            return self._utf8.decode(stands_for)
        return self._utf8.decode(b"", final=True) + stands_for

    def end(self) -> str:
        """The text of what is left."""
        return self._utf8.decode(b"", final=True)

    @property
    def pending(self) -> bool:
        """Whether a character is not whole yet."""
        return bool(self._utf8.getstate()[0])


def load(source: Any) -> Tokenizer:
    """The tokenizer of a folder with a tokenizer.json, of a hub id, or of a Hugging Face fast tokenizer
    object.

    Loaded once per process and file. Raises BadInput, in one line, for anything that is none of these.
    """
    if isinstance(source, Tokenizer):
        return source
    if isinstance(source, (str, Path)):
        return _from_folder(hub.resolve(source, FILES, wanted=FILE))
    return _from_object(source)


def _from_folder(folder: Path) -> Tokenizer:
    file = folder / FILE
    try:
        facts = file.stat()
    except OSError:
        raise BadInput(f"{folder}: no {FILE} here; give a folder that holds one, or a hub id") from None
    return _cached(file.resolve(), facts.st_mtime_ns, facts.st_size)


@functools.lru_cache(maxsize=8)
def _cached(file: Path, mtime_ns: int, size: int) -> Tokenizer:
    folder = file.parent
    rows = _json(folder / "config.json").get("vocab_size", 0)
    content = _bytes(file)
    config = _json(folder / "tokenizer_config.json")
    return _build(
        _parse(content, file),
        where=str(file),
        fingerprint=_fingerprint(content, config),
        config=config,
        rows=rows if type(rows) is int else 0,
    )


# A Hugging Face object is kept with its length, which changes when tokens are added to it.
_objects: "weakref.WeakKeyDictionary[Any, tuple[int, Tokenizer]]" = weakref.WeakKeyDictionary()


def _from_object(source: Any) -> Tokenizer:
    backend = getattr(source, "backend_tokenizer", None)
    if backend is None or not hasattr(backend, "to_str"):
        raise BadInput(
            f"a {type(source).__name__} is no tokenizer: give a folder, or a Hugging Face fast tokenizer"
        )
    length, loaded = _objects.get(source, (-1, None))
    if loaded is None or length != len(source):
        content = backend.to_str().encode()
        config = {"tokenizer_class": type(source).__name__, "eos_token": getattr(source, "eos_token", None)}
        fingerprint = _fingerprint(content, config)
        loaded = _build(
            _parse(content, "the tokenizer object"),
            where="the tokenizer object",
            fingerprint=fingerprint,
            config=config,
        )
        _objects[source] = (len(source), loaded)
    return loaded


def _fingerprint(content: bytes, config: Mapping[str, Any]) -> str:
    """SHA-256 of tokenizer.json and of what is read of tokenizer_config.json."""
    eos, qwen2 = config.get("eos_token"), str(config.get("tokenizer_class", "")).startswith("Qwen2")
    return hashlib.sha256(content + json.dumps([eos, qwen2], sort_keys=True).encode()).hexdigest()


def _build(
    spec: dict[str, Any], *, where: str, fingerprint: str, config: Mapping[str, Any], rows: int = 0
) -> Tokenizer:
    try:
        return Tokenizer(spec, fingerprint=fingerprint, config=config, rows=rows)
    except BadInput as error:
        raise BadInput(f"{where}: {error}") from None
    except Exception as error:  # the Rust side raises bare Exception, malformed records KeyError and the like
        raise BadInput(f"{where}: not a tokenizer ({shorten(str(error))})") from None


def _largest_id(vocab: Any, controls: Mapping[str, int]) -> int:
    own = max(vocab.values(), default=-1) if isinstance(vocab, dict) else len(vocab) - 1
    return max([own, *controls.values()])


def _content_encoder(spec: dict[str, Any], controls: Mapping[str, int], *, nfc: bool) -> tokenizers.Tokenizer:
    model = _without(controls, spec["model"])
    content = {**spec, "model": model, "added_tokens": [], "truncation": None, "padding": None}
    if nfc and content.get("normalizer") is None:
        content["normalizer"] = {"type": "NFC"}
    return tokenizers.Tokenizer.from_str(json.dumps(content))


def _without(controls: Mapping[str, int], model: dict[str, Any]) -> dict[str, Any]:
    """The model without the control tokens that some files list in the vocabulary too, where a text's words
    or pieces would still find them; its unknown token stays."""
    vocab = model["vocab"]
    if isinstance(vocab, list):
        # Unigram: an id is a place in the list, so the piece stays and gets a name that text does not have.
        named = [
            (f"{NO_TEXT}{i}" if piece in controls else piece, *rest) for i, (piece, *rest) in enumerate(vocab)
        ]
        return {**model, "vocab": named}
    kept = {word: i for word, i in vocab.items() if word not in controls or word == model.get("unk_token")}
    cut = {**model, "vocab": kept}
    if "merges" in model:
        cut["merges"] = [merge for merge in model["merges"] if controls.keys().isdisjoint(_joined(merge))]
    return cut


def _joined(merge: str | list[str]) -> tuple[str, ...]:
    """The two parts of a merge, and what they become."""
    left, right = merge.split(" ", 1) if isinstance(merge, str) else merge
    return left, right, left + right


def _is_byte_level(decoder: Any) -> bool:
    if not isinstance(decoder, dict):
        return False
    return decoder.get("type") == "ByteLevel" or any(
        _is_byte_level(part) for part in decoder.get("decoders", [])
    )


def _byte_alphabet() -> dict[str, int]:
    # Byte-level vocabularies write a byte as itself where it prints and as the next free character from
    # U+0100 on where it does not.
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(hidden)}


def _bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise BadInput(f"{file}: {error.strerror}") from None


def _json(file: Path) -> dict[str, Any]:
    return _parse(_bytes(file), file) if file.is_file() else {}


def _parse(content: bytes, where: object) -> dict[str, Any]:
    with strict.place(str(where)):
        return strict.mapping(strict.load(content), "the file")
