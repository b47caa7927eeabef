"""A byte-level tokenizer small enough to read: 256 bytes, a few words, control tokens after them."""

import json
from pathlib import Path

import pytest
from hypothesis import settings
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from cicjax.provenance import tokenizer as provenance_tokenizer

# The first example loads a tokenizer, and the machine may be busy: time says nothing about these tests.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

CONTROLS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<tool_call>", "</tool_call>")
WORDS = ("Question", ":\n", "?\n\n", "Proposed", " solution", "Verdict")
# Line breaks join punctuation before them, as in Qwen's vocabulary: "?\n\n" is one token.
PATTERN = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def write_tokenizer(folder: Path, *, normalizer: bool = True) -> Path:
    """Write the tokenizer's folder and return it."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {char: i for i, char in enumerate(alphabet)}
    merges = []
    for word in WORDS:
        ((chars, _),) = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(
            word
        )
        for end in range(2, len(chars) + 1):
            if chars[:end] not in vocab:
                vocab[chars[:end]] = len(vocab)
                merges.append((chars[: end - 1], chars[end - 1]))
    built = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    if normalizer:
        built.normalizer = normalizers.NFC()
    built.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    built.decoder = decoders.ByteLevel()
    built.add_special_tokens(list(CONTROLS[:3]))
    built.add_tokens(list(CONTROLS[3:]))
    folder.mkdir(parents=True, exist_ok=True)
    built.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "Qwen2Tokenizer", "eos_token": "<|im_end|>"})
    )
    return folder


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="session")
def bare_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same tokenizer.json without its normaliser."""
    return write_tokenizer(tmp_path_factory.mktemp("bare"), normalizer=False)


@pytest.fixture(scope="session")
def tokenizer(folder: Path) -> provenance_tokenizer.Tokenizer:
    return provenance_tokenizer.load(folder)


@pytest.fixture(scope="session")
def qwen(qwen_folder: Path) -> provenance_tokenizer.Tokenizer:
    return provenance_tokenizer.load(qwen_folder)
