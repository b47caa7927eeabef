"""One road to ids: content never becomes a control token, and the file's own quirks do not leak in."""

import json
import unicodedata
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import normalizers

from cicjax.errors import BadInput
from cicjax.provenance import tokenizer as provenance_tokenizer

NAMES = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<tool_call>", "</tool_call>")


def _variants(name: str) -> st.SearchStrategy[str]:
    fullwidth = name.replace("<", "\uff1c").replace(">", "\uff1e")
    return st.sampled_from(
        [
            name,
            name.upper(),
            name[:3] + "\u200b" + name[3:],
            fullwidth,
            name + name,
            f" {name}",
            f"{name}\n",
            name + "\u0301",
        ]
    )


forged_text = st.lists(
    st.one_of(st.text(max_size=6), st.sampled_from(NAMES).flatmap(_variants)), max_size=6
).map("".join)


@given(text=forged_text)
@example(text="".join(NAMES))
def test_text_never_becomes_a_control_token_and_comes_back(tokenizer, text):
    ids = tokenizer.encode(text)
    assert not set(ids) & set(tokenizer.controls.values())
    assert tokenizer.decode(ids) == normalizers.NFC().normalize_str(text)


@pytest.mark.weights
@given(text=forged_text)
@example(text="".join(NAMES))
def test_text_never_becomes_a_control_token_with_qwen(qwen, text):
    ids = qwen.encode(text)
    assert len(qwen.controls) == 22
    assert not set(ids) & set(qwen.controls.values())
    assert qwen.decode(ids) == normalizers.NFC().normalize_str(text)


def test_a_model_that_looks_up_whole_words_finds_no_control_token(folder, tmp_path):
    spec = json.loads((folder / "tokenizer.json").read_text())
    spec["model"]["ignore_merges"] = True
    spec["model"]["vocab"] |= {token["content"]: token["id"] for token in spec["added_tokens"]}
    spec["pre_tokenizer"] = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "use_regex": False,
        "trim_offsets": True,
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(spec))
    loaded = provenance_tokenizer.load(tmp_path)
    assert len(loaded.encode("<|im_end|>")) == len("<|im_end|>")


def test_truncation_and_padding_of_the_file_are_off(folder, tmp_path):
    spec = json.loads((folder / "tokenizer.json").read_text())
    spec["truncation"] = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    spec["padding"] = {
        "strategy": {"Fixed": 64}, "direction": "Right", "pad_to_multiple_of": None,
        "pad_id": 0, "pad_type_id": 0, "pad_token": "!",
    }  # fmt: skip
    (tmp_path / "tokenizer.json").write_text(json.dumps(spec))
    assert len(provenance_tokenizer.load(tmp_path).encode("0123456789")) == 10


def test_control_tokens_by_name(tokenizer):
    assert [tokenizer.control(name) for name in NAMES] == list(tokenizer.controls.values())
    assert tokenizer.end_of_text == tokenizer.control("<|endoftext|>")
    assert tokenizer.stop_ids == {tokenizer.control("<|endoftext|>"), tokenizer.control("<|im_end|>")}
    with pytest.raises(BadInput, match="no control token '<think>'"):
        tokenizer.control("<think>")


def test_end_of_text_is_not_what_a_chat_config_calls_eos(folder, tokenizer):
    assert json.loads((folder / "tokenizer_config.json").read_text())["eos_token"] == "<|im_end|>"
    assert tokenizer.decode([tokenizer.end_of_text]) == "<|endoftext|>"


def test_end_of_text_under_another_name_is_asked_of_the_config(folder, tmp_path):
    spec = (folder / "tokenizer.json").read_text().replace("<|endoftext|>", "</s>")
    (tmp_path / "tokenizer.json").write_text(spec)
    with pytest.raises(BadInput, match="no end-of-text token"):
        provenance_tokenizer.load(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": {"content": "</s>"}}))
    (tmp_path / "tokenizer.json").write_text(spec + " ")
    loaded = provenance_tokenizer.load(tmp_path)
    assert loaded.control("<|endoftext|>") == loaded.end_of_text == loaded.controls["</s>"]


@given(text=st.text(max_size=12), cut=st.integers(0, 40))
def test_pieces_join_to_the_text_even_where_characters_are_cut(tokenizer, text, cut):
    ids = [*tokenizer.encode(text)[:cut], tokenizer.end_of_text, *tokenizer.encode(text)[cut:]]
    pieces = tokenizer.pieces(ids)
    assert len(pieces) == len(ids)
    assert "".join(pieces) == tokenizer.decode(ids)


def test_pieces_put_a_character_at_its_last_token(tokenizer):
    ids = tokenizer.encode("a\u20acb")
    assert tokenizer.pieces(ids) == ["a", "", "", "\u20ac", "b"]
    # Cut inside the character, then a control token: the loss shows, and stays on its side.
    assert tokenizer.pieces([*ids[:3], tokenizer.end_of_text, *ids[3:]]) == [
        "a",
        "",
        "\ufffd",
        "<|endoftext|>",
        "\ufffd",
        "b",
    ]
    assert tokenizer.decode([*ids, tokenizer.end_of_text], skip_controls=True) == "a\u20acb"


def test_nfc_is_set_where_qwens_class_says_so_and_the_file_does_not(folder, bare_folder):
    decomposed = "e\u0301"
    assert json.loads((bare_folder / "tokenizer.json").read_text())["normalizer"] is None
    bare, whole = provenance_tokenizer.load(bare_folder), provenance_tokenizer.load(folder)
    assert (
        bare.encode(decomposed)
        == whole.encode(decomposed)
        == whole.encode(unicodedata.normalize("NFC", decomposed))
    )


def test_another_class_keeps_the_file_as_it_is(bare_folder, tmp_path):
    (tmp_path / "tokenizer.json").write_bytes((bare_folder / "tokenizer.json").read_bytes())
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"})
    )
    loaded = provenance_tokenizer.load(tmp_path)
    assert loaded.decode(loaded.encode("e\u0301")) == "e\u0301"


def test_loaded_once_and_again_when_the_file_changes(folder, tmp_path):
    file = tmp_path / "tokenizer.json"
    file.write_bytes((folder / "tokenizer.json").read_bytes())
    first = provenance_tokenizer.load(tmp_path)
    assert provenance_tokenizer.load(str(tmp_path)) is first
    assert provenance_tokenizer.load(file) is first
    assert provenance_tokenizer.load(first) is first
    file.write_bytes(file.read_bytes() + b"\n")
    assert provenance_tokenizer.load(tmp_path).fingerprint != first.fingerprint


def test_vocabulary_counts_the_rows_of_the_model(folder, tokenizer, tmp_path):
    assert tokenizer.vocab_size == max(tokenizer.controls.values()) + 1
    (tmp_path / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes())
    (tmp_path / "config.json").write_text(json.dumps({"vocab_size": 512}))
    loaded = provenance_tokenizer.load(tmp_path)
    assert loaded.vocab_size == 512
    assert loaded.decode([511]) == ""


def test_lone_surrogates_are_refused(tokenizer):
    with pytest.raises(BadInput, match="lone surrogate"):
        tokenizer.encode("a\ud800")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b'{"added_tokens": 3, "model": {}}',
        b'{"model": {"type": "BPE"}}',
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"model": null}',
    ],
)
def test_a_bad_file_is_named_in_one_line(tmp_path, content):
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(BadInput, match=r"tokenizer\.json: (not|.* not \[\]|JSON nested)") as caught:
        provenance_tokenizer.load(tmp_path)
    assert "\n" not in str(caught.value)


def test_what_is_no_tokenizer_is_refused(tmp_path):
    with pytest.raises(BadInput, match=r"no tokenizer\.json here"):
        provenance_tokenizer.load(tmp_path)
    with pytest.raises(BadInput, match=r"no such folder; give a folder with tokenizer\.json"):
        provenance_tokenizer.load(tmp_path / "missing")
    with pytest.raises(BadInput, match="a dict is no tokenizer"):
        provenance_tokenizer.load({})


def test_a_hub_id_is_asked_of_the_hub_and_its_absence_is_one_line(folder, tmp_path, monkeypatch):
    hub = pytest.importorskip("huggingface_hub")
    monkeypatch.chdir(tmp_path)
    asked = []

    def download(repository: str, *, allow_patterns: list[str]) -> str:
        asked.append((repository, *allow_patterns))
        if repository != "someone/tiny":
            raise OSError("no network")
        return str(folder)

    monkeypatch.setattr(hub, "snapshot_download", download)
    assert provenance_tokenizer.load("someone/tiny") is provenance_tokenizer.load(folder)
    assert asked == [
        ("someone/tiny", "tokenizer.json", "tokenizer_config.json", "config.json", "chat_template.jinja")
    ]
    with pytest.raises(BadInput, match="someone/else: no such folder"):
        provenance_tokenizer.load("someone/else")
    asked.clear()
    (tmp_path / "someone").mkdir()
    # the parent is here: a mistyped folder, not a hub id
    with pytest.raises(BadInput, match="someone/tiny: no such folder"):
        provenance_tokenizer.load("someone/tiny")
    assert not asked


def test_a_hugging_face_object_gives_the_ids_of_its_folder(folder, tokenizer):
    transformers = pytest.importorskip("transformers")
    fast = transformers.PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    loaded = provenance_tokenizer.load(fast)
    text = "Question:\nWhat? <|im_end|>\n\nProposed solution:\n"
    assert loaded.encode(text) == tokenizer.encode(text)
    assert loaded.controls == tokenizer.controls
    assert provenance_tokenizer.load(fast) is loaded
    fast.add_tokens(["<think>"])
    assert provenance_tokenizer.load(fast).control("<think>") == tokenizer.vocab_size


@pytest.mark.weights
def test_ids_equal_those_of_transformers_for_ordinary_text(qwen, qwen_folder: Path):
    transformers = pytest.importorskip("transformers")
    reference = transformers.AutoTokenizer.from_pretrained(str(qwen_folder))
    for text in (
        "Question:\nWhat?\n\nProposed solution:\n",
        "n = 12.5/98.0 = 0.125 mol",
        "caf\u00e9 cafe\u0301 \u2126 \U0001f9d1\u200d\U0001f680",
        " \n\n  x\r\n",
    ):
        assert qwen.encode(text) == reference.encode(text, add_special_tokens=False)
        assert provenance_tokenizer.load(reference).encode(text) == qwen.encode(text)
    assert (qwen.end_of_text, qwen.stop_ids) == (151643, {151643, 151645})
