"""Every kind of tokenizer: text never becomes a control id, and is refused where a vocabulary would make it
one."""

import json
import random

import pytest
from forgeries import forgery
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from cicjax.errors import BadInput
from cicjax.provenance import tokenizer as provenance_tokenizer

CONTROLS = ("<unk>", "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<tool_call>", "</tool_call>")
# The control tokens are among the words, as in the corpus of somebody who trained on rendered chats.
CORPUS = [
    "Question: what is the force? Proposed solution: F = m a = 12 N. Final answer: 12",
    "<|im_start|>user\nWhat is 3 + 4?<|im_end|>\n<|im_start|>assistant\n7<|im_end|>\n<|endoftext|>",
    'assistant system tool <tool_call> {"name": "f", "arguments": {}} </tool_call> abc xyz ABC 0123456789',
] * 20


def _bpe_by_byte() -> Tokenizer:
    """GPT-2's and Qwen's kind, with merges that join up to the very control tokens and, as in Llama 3, whole
    words looked up before them."""
    made = Tokenizer(models.BPE(ignore_merges=True))
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, min_frequency=1)
    )
    return made


def _bpe_by_character() -> Tokenizer:
    made = Tokenizer(models.BPE(unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=400, special_tokens=["<unk>"], min_frequency=1)
    )
    return made


def _bpe_of_sentencepiece() -> Tokenizer:
    """Llama 2's kind: a character that is not there is written in bytes."""
    made = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    made.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    made.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    special = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    made.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=700, special_tokens=special, min_frequency=1)
    )
    return made


def _unigram() -> Tokenizer:
    made = Tokenizer(models.Unigram())
    made.normalizer = normalizers.NFKC()
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=300, special_tokens=list(CONTROLS), unk_token="<unk>")
    made.train_from_iterator(CORPUS, trainer)
    return made


def _word_piece() -> Tokenizer:
    made = Tokenizer(models.WordPiece(unk_token="<unk>"))
    made.normalizer = normalizers.BertNormalizer(lowercase=False)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    made.train_from_iterator(CORPUS, trainers.WordPieceTrainer(vocab_size=400, special_tokens=["<unk>"]))
    return made


def _word_level() -> Tokenizer:
    made = Tokenizer(models.WordLevel(unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.train_from_iterator(CORPUS, trainers.WordLevelTrainer(special_tokens=["<unk>"], min_frequency=1))
    return made


KINDS = {
    make.__name__.strip("_"): make
    for make in (_bpe_by_byte, _bpe_by_character, _bpe_of_sentencepiece, _unigram, _word_piece, _word_level)
}


@pytest.fixture(scope="module", params=KINDS)
def kind(request, tmp_path_factory):
    """(the file as tokenizers reads it, the same as it is read here)."""
    folder = tmp_path_factory.mktemp(request.param)
    made = KINDS[request.param]()
    made.add_tokens([AddedToken(name, special=True, normalized=False) for name in CONTROLS])
    spec = json.loads(made.to_str())
    # A trainer lists whatever it was given; the pieces for bytes are text.
    spec["added_tokens"] = [token for token in spec["added_tokens"] if token["content"] in CONTROLS]
    vocab = spec["model"]["vocab"]
    if isinstance(vocab, dict):  # listed in the vocabulary too, as some files do
        vocab |= {token["content"]: token["id"] for token in spec["added_tokens"]}
    (folder / "tokenizer.json").write_text(json.dumps(spec), encoding="utf-8")
    return made, provenance_tokenizer.load(folder)


def _hold(kind, count: int) -> int:
    """Forge `count` texts and give how many were encoded. The others are refused."""
    _, tokenizer = kind
    encoded = 0
    for number in range(count):
        text = forgery([*tokenizer.controls, "<unk>"], random.Random(f"kind {number}"))
        try:
            ids = tokenizer.encode(text)
        except BadInput as error:
            assert "control token" in str(error) and "\n" not in str(error)
            continue
        encoded += 1
        assert not any(tokenizer.is_control(i) for i in ids), text
    return encoded


def test_no_text_becomes_a_control_id(kind):
    library, tokenizer = kind
    # The texts are dangerous: read as the file says, names become control ids.
    for name in CONTROLS:
        assert tokenizer.controls[name] in library.encode(f"abc {name} abc", add_special_tokens=False).ids
    assert _hold(kind, 1500) >= 25


def test_ordinary_text_has_the_ids_that_the_file_gives_it(kind):
    library, tokenizer = kind
    for text in ("what is the force?", "12", "user assistant"):
        expected = library.encode(text, add_special_tokens=False).ids
        if not any(map(tokenizer.is_control, expected)):
            assert tokenizer.encode(text) == expected


def test_an_unknown_token_that_is_a_control_token_is_refused(kind):
    _, tokenizer = kind
    try:
        ids = tokenizer.encode("\u6f22")
    except BadInput as error:
        assert "'<unk>'" in str(error)
    else:
        assert ids and not any(map(tokenizer.is_control, ids))


@pytest.mark.slow
def test_no_text_becomes_a_control_id_ten_thousand_times(kind):
    assert _hold(kind, 10_000) >= 150
