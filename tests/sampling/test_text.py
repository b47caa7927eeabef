"""Streamed text: at every cut a beginning of the whole, in whole characters, never into a stop string."""

import itertools

import pytest
import tiny_qwen2
from hypothesis import given, settings
from hypothesis import strategies as st

from cicjax.provenance import tokenizer as tokenizers
from cicjax.sampling.text import Text


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    tiny_qwen2.write_tokenizer(folder)
    return tokenizers.load(folder)


def bytes_as_tokens(tokenizer, text):
    """One id a byte, so that every character of several bytes is cut everywhere."""
    single = {tokenizer.bytes_of(i): i for i in range(256) if len(tokenizer.bytes_of(i)) == 1}
    return [single[bytes([byte])] for byte in text.encode()]


def streamed(tokenizer, ids, stops=()):
    """(pieces of (ids, text), whether a stop string ended it)."""
    text, left, pieces = Text(tokenizer, stops), [], []
    for i in ids:
        left.append(i)
        count, new = text.push(i)
        if count:
            pieces.append((tuple(left[:count]), new))
            left = left[count:]
        if text.stopped:
            return pieces, True
    count, new = text.end()
    assert count == len(left)
    return [*pieces, (tuple(left), new)] if left else pieces, False


def whole(tokenizer, ids, stops):
    """What the answer is, by trying: the tokens up to the first with which a stop string is there, cut back
    to the longest beginning whose text, in whole characters, is before it."""
    for size in range(len(ids) + 1):
        text = tokenizer.decode(ids[:size], skip_controls=True)
        begins = [text.find(stop) for stop in stops if stop in text]
        if begins:
            before = text[: min(begins)]
            fits = [
                n
                for n in range(size)
                if spelled_whole(tokenizer, ids[:n])
                and before.startswith(tokenizer.decode(ids[:n], skip_controls=True))
            ]
            return list(ids[: max(fits)]), True
    return list(ids), False


def spelled_whole(tokenizer, ids):
    spelling = tokenizer.spelling()
    for i in ids:
        spelling.push(i)
    return not spelling.pending


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_pieces_join_to_the_whole_at_every_cut(tokenizer, data):
    ids = data.draw(
        st.one_of(
            st.lists(st.integers(0, 302), max_size=30),
            st.text(max_size=8).map(lambda text: bytes_as_tokens(tokenizer, text)),
        )
    )
    shown = tokenizer.decode(ids, skip_controls=True)
    cuts = st.tuples(st.integers(0, max(len(shown) - 1, 0)), st.integers(1, 4))
    stops = [shown[a : a + n] for a, n in data.draw(st.lists(cuts, max_size=2)) if shown[a : a + n]]
    stops += data.draw(st.lists(st.text("aé€\n", min_size=1, max_size=3), max_size=2))
    stops = [stop for stop in stops if "\ufffd" not in stop]  # which also stands for what is not whole yet
    pieces, stopped = streamed(tokenizer, ids, stops)
    expected, should_stop = whole(tokenizer, ids, stops)
    assert ([i for part, _ in pieces for i in part], stopped) == (expected, should_stop)
    for size in range(len(pieces) + 1):
        given_ids = [i for part, _ in pieces[:size] for i in part]
        assert "".join(text for _, text in pieces[:size]) == tokenizer.decode(given_ids, skip_controls=True)
    said = "".join(text for _, text in pieces)
    assert not any(stop in said for stop in stops) or not stopped


def test_characters_of_several_tokens_come_whole(tokenizer):
    ids = bytes_as_tokens(tokenizer, "é€😀a")
    pieces, _ = streamed(tokenizer, ids)
    assert [text for _, text in pieces] == ["é", "€", "😀", "a"]
    cut, _ = streamed(tokenizer, ids[:-2])
    assert [text for _, text in cut] == ["é", "€", "�"]


def test_what_may_begin_a_stop_string_is_held_back(tokenizer):
    ids = bytes_as_tokens(tokenizer, "ab\nQx\nQuestion:")
    text = Text(tokenizer, ("\nQuestion:",))
    pushed = [text.push(i)[1] for i in ids]
    assert pushed == ["a", "b", "", "", "\nQx", *[""] * 10]
    assert text.stopped
    shorter = Text(tokenizer, ("\nQuestion:",))
    assert [shorter.push(i)[1] for i in ids[:8]][-1] == "" and shorter.end() == (3, "\nQu")


@pytest.mark.parametrize("stops", [("b", "abc"), ("abc", "b")])
def test_the_stop_string_that_is_whole_first_ends_it(tokenizer, stops):
    pieces, stopped = streamed(tokenizer, bytes_as_tokens(tokenizer, "xabc"), stops)
    assert stopped and [text for _, text in pieces] == ["x", "a"][: len(pieces)]


def test_control_tokens_are_left_out_and_end_no_character(tokenizer):
    turn, (first, second) = tokenizer.control("<|im_end|>"), bytes_as_tokens(tokenizer, "é")
    for ids in itertools.permutations((first, second, turn)):
        pieces, _ = streamed(tokenizer, ids)
        assert "".join(text for _, text in pieces) == tokenizer.decode(ids, skip_controls=True)
