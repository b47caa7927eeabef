"""Literal grids: who wrote which token, and which may carry loss."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cicjax.errors import BadInput
from cicjax.provenance import Author, Control, Message, Segment, Transcript, encode, render, weights

ASK = Message(role="user", content="2+2?", author=Author.USER)
PROMPT = ["Question", ":\n", "2", "+", "2", "?\n\n", "Proposed", " solution", ":\n"]
END = "<|endoftext|>"


def _row(text: str) -> list[int]:
    return [int(c) for c in text.replace(" ", "")]


def _attempt(tokenizer, *pieces: str, **facts) -> Message:
    """What a sampler hands over: ids, the sampled stop id among them."""
    ids = [tokenizer.controls[p] if p in tokenizer.controls else tokenizer.encode(p)[0] for p in pieces]
    content = "".join(p for p in pieces if p not in tokenizer.controls)
    return Message(role="assistant", content=content, author=Author.AGENT, tokens=tuple(ids), **facts)


def _correction(text: str) -> Message:
    return Message(role="assistant", content=text, author=Author.TEACHER)


def _check(encoded, tokenizer, *, pieces, gamma, is_target, solved):
    assert tokenizer.pieces(encoded.tokens) == pieces
    assert encoded.gamma.tolist() == _row(gamma)
    assert encoded.is_target.tolist() == [bool(t) for t in _row(is_target)]
    assert encoded.solved.tolist() == solved


def test_grid_correct_attempt(tokenizer):
    encoded = encode(render.plain([ASK, _attempt(tokenizer, "4", END, solved=1)]), tokenizer)
    _check(
        encoded, tokenizer,
        pieces=[*PROMPT, "4", END],
        gamma="    000000000 1 1",
        is_target="000000000 1 1",
        solved=[-1] * 9 + [1, 1],
    )  # fmt: skip
    assert encoded.author.tolist() == [Author.USER] * 9 + [Author.AGENT] * 2


def test_grid_wrong_attempt_and_correction(tokenizer):
    encoded = encode(
        render.plain([ASK, _attempt(tokenizer, "5", END, solved=0), _correction("4")]), tokenizer
    )
    _check(
        encoded, tokenizer,
        pieces=[*PROMPT, "5", END, "Proposed", " solution", ":\n", "4", END],
        gamma="    000000000 11 000 00",
        is_target="000000000 11 000 11",
        solved=[-1] * 9 + [0, 0] + [-1] * 5,
    )  # fmt: skip
    assert (
        encoded.author.tolist()
        == [Author.USER] * 9 + [Author.AGENT] * 2 + [Author.ENVIRONMENT] * 3 + [Author.TEACHER] * 2
    )
    assert weights.interventional(encoded.gamma, encoded.is_target).tolist() == _row("000000000 00 000 11")
    assert weights.observational(encoded.gamma, encoded.is_target).tolist() == _row("000000000 11 000 11")


def test_grid_truncated_attempt(tokenizer):
    encoded = encode(
        render.plain([ASK, _attempt(tokenizer, "5", "+", solved=0, truncated=True), _correction("4")]),
        tokenizer,
    )
    _check(
        encoded, tokenizer,
        pieces=[*PROMPT, "5", "+", END, "Proposed", " solution", ":\n", "4", END],
        gamma="    000000000 110 000 00",
        is_target="000000000 110 000 11",
        solved=[-1] * 9 + [0, 0, 0] + [-1] * 5,
    )  # fmt: skip
    assert encoded.author[11] == Author.ENVIRONMENT


def test_grid_attempt_that_sampled_the_other_stop_token(tokenizer):
    encoded = encode(
        render.plain([ASK, _attempt(tokenizer, "5", "<|im_end|>", solved=0), _correction("4")]), tokenizer
    )
    _check(
        encoded, tokenizer,
        pieces=[*PROMPT, "5", "<|im_end|>", "Proposed", " solution", ":\n", "4", END],
        gamma="    000000000 11 000 00",
        is_target="000000000 11 000 11",
        solved=[-1] * 9 + [0, 0] + [-1] * 5,
    )  # fmt: skip


def test_grid_attempt_kept_as_text(tokenizer):
    attempt = Message(role="assistant", content="4", author=Author.AGENT, solved=1)
    encoded = encode(render.plain([ASK, attempt]), tokenizer)
    _check(
        encoded, tokenizer,
        pieces=[*PROMPT, "4", END],
        gamma="    000000000 1 1",
        is_target="000000000 1 1",
        solved=[-1] * 9 + [1, 1],
    )  # fmt: skip


def test_grid_teacher_row_and_verdict(tokenizer):
    verdict = Message(role="verifier", content="no", author=Author.VERIFIER)
    encoded = encode(
        render.plain([ASK, _attempt(tokenizer, "5", END, solved=0), verdict, _correction("4")]), tokenizer
    )
    _check(
        encoded, tokenizer,
        pieces=[*PROMPT, "5", END, "Verdict", ":\n", "n", "o", "\n",
                "Proposed", " solution", ":\n", "4", END],
        gamma="    000000000 11 00 000 000 00",
        is_target="000000000 11 00 000 000 11",
        solved=[-1] * 9 + [0, 0] + [-1] * 10,
    )  # fmt: skip
    assert encoded.author[11:16].tolist() == [Author.ENVIRONMENT] * 2 + [Author.VERIFIER] * 3


@pytest.mark.weights
def test_grid_with_qwen(qwen):
    attempt = Message(role="assistant", content="5", author=Author.AGENT, tokens=(20, 151645), solved=0)
    encoded = encode(render.plain([ASK, attempt, _correction("4")]), qwen)
    _check(
        encoded, qwen,
        pieces=["Question", ":\n", "2", "+", "2", "?\n\n", "Prop", "osed", " solution", ":\n",
                "5", "<|im_end|>", "Prop", "osed", " solution", ":\n", "4", END],
        gamma="    0000000000 11 0000 00",
        is_target="0000000000 11 0000 11",
        solved=[-1] * 10 + [0, 0] + [-1] * 6,
    )  # fmt: skip
    assert encoded.tokens[[11, 17]].tolist() == [151645, 151643]


def test_dtypes_and_lengths(tokenizer):
    for segments in ([], [Segment("", Author.USER)], [Segment("ab", Author.USER), Segment.end(Author.USER)]):
        encoded = encode(Transcript(segments), tokenizer)
        assert [a.dtype for a in encoded] == [np.int32, np.int8, np.bool_, np.int8, np.int8]
        assert len({a.shape for a in encoded}) == 1
        assert encoded._fields == ("tokens", "gamma", "is_target", "solved", "author")


@pytest.mark.parametrize("author", Author)
def test_gamma_is_the_author_and_nothing_else(tokenizer, author):
    encoded = encode(Transcript([Segment("ab", author, False, 1), Segment.end(author)]), tokenizer)
    assert set(encoded.gamma.tolist()) == {int(author is Author.AGENT)}
    assert encoded.is_target.tolist() == [False, False, True]


def test_the_same_string_is_an_action_or_evidence_by_author_alone(tokenizer):
    by_author = [
        Message(role="assistant", content="4", author=author) for author in (Author.AGENT, Author.TEACHER)
    ]
    rows = [encode(render.plain([ASK, message]), tokenizer) for message in by_author]
    np.testing.assert_array_equal(rows[0].tokens, rows[1].tokens)
    np.testing.assert_array_equal(rows[0].is_target, rows[1].is_target)
    assert rows[0].gamma.sum() == 2
    assert rows[1].gamma.sum() == 0


def test_sampled_ids_are_never_tokenised_again(tokenizer):
    # "4" + "4" as a sampler may have drawn it, and a broken UTF-8 byte that no text could give back.
    ids = [tokenizer.encode("4")[0], tokenizer.encode("\u20ac")[0], tokenizer.end_of_text]
    encoded = encode(
        render.plain([ASK, Message(role="assistant", content="anything", author=Author.AGENT, tokens=ids)]),
        tokenizer,
    )
    assert encoded.tokens[-3:].tolist() == ids


def test_a_boundary_inside_a_line_is_refused(tokenizer):
    transcript = Transcript(
        [Segment("Proposed solution:", Author.USER), Segment("\n4", Author.AGENT)], id="7"
    )
    with pytest.raises(BadInput, match=r"transcript '7', segment 2 begins in the middle of a line"):
        encode(transcript, tokenizer)
    split_by_nothing = Transcript(
        [Segment("a", Author.USER), Segment("", Author.USER), Segment("b", Author.AGENT)]
    )
    with pytest.raises(BadInput, match="segment 3 begins in the middle"):
        encode(split_by_nothing, tokenizer)


@pytest.mark.parametrize("between", [Control("<|im_start|>"), [65, 66]])
def test_control_tokens_and_ids_make_boundaries(tokenizer, between):
    segments = [Segment("a", Author.USER), Segment(between, Author.AGENT), Segment("b", Author.USER)]
    encoded = encode(Transcript(segments), tokenizer)
    assert tokenizer.pieces(encoded.tokens)[0] == "a"
    assert tokenizer.pieces(encoded.tokens)[-1] == "b"


@given(before=st.text(max_size=8), after=st.text(min_size=1, max_size=8))
def test_after_a_newline_two_segments_are_as_one(tokenizer, before, after):
    if after[0].isspace():
        after = "x" + after
    whole = encode(Transcript([Segment(before + "\n" + after, Author.USER)]), tokenizer)
    parts = encode(Transcript([Segment(before + "\n", Author.USER), Segment(after, Author.AGENT)]), tokenizer)
    np.testing.assert_array_equal(parts.tokens, whole.tokens)


@pytest.mark.weights
@given(before=st.text(max_size=8), after=st.text(min_size=1, max_size=8))
def test_after_a_newline_two_segments_are_as_one_with_qwen(qwen, before, after):
    test_after_a_newline_two_segments_are_as_one.hypothesis.inner_test(qwen, before, after)


def test_before_white_space_the_boundary_wins(tokenizer):
    whole = encode(Transcript([Segment(":\n\n4", Author.USER)]), tokenizer)
    parts = encode(Transcript([Segment(":\n", Author.USER), Segment("\n4", Author.AGENT)]), tokenizer)
    assert tokenizer.pieces(parts.tokens) == [":\n", "\n", "4"]
    assert tokenizer.decode(parts.tokens) == tokenizer.decode(whole.tokens)
    assert parts.gamma.tolist() == [0, 1, 1]


def test_sampled_ids_end_with_their_first_stop_token(tokenizer):
    for stop in sorted(tokenizer.stop_ids):
        whole = encode(Transcript([Segment((65, stop), Author.AGENT)]), tokenizer)
        assert whole.tokens.tolist() == [65, stop]
        for ids in ((stop, 65), (65, stop, 65), (stop, stop)):
            with pytest.raises(BadInput, match=r"^segment 1: sampled ids go on after a stop token"):
                encode(Transcript([Segment(ids, Author.AGENT)]), tokenizer)
    with pytest.raises(BadInput, match=r"^transcript 'mine', segment 1: sampled ids go on"):
        encode(Transcript([Segment((tokenizer.end_of_text, 65), Author.AGENT)], "mine"), tokenizer)


def test_the_first_id_outside_the_vocabulary_is_refused(tokenizer):
    last = tokenizer.vocab_size - 1
    assert encode(Transcript([Segment((last,), Author.AGENT)]), tokenizer).tokens.tolist() == [last]
    with pytest.raises(BadInput, match=f"token id {last + 1} is outside"):
        encode(Transcript([Segment((last + 1,), Author.AGENT)]), tokenizer)


def test_ids_outside_the_vocabulary_and_unknown_controls_are_named(tokenizer):
    with pytest.raises(BadInput, match="segment 2: token id 99999 is outside the vocabulary of"):
        encode(Transcript([Segment("a", Author.USER), Segment([1, 99999], Author.AGENT)]), tokenizer)
    with pytest.raises(BadInput, match=r"segment 1: .*no control token '<think>'"):
        encode(Transcript([Segment(Control("<think>"), Author.AGENT)]), tokenizer)
    with pytest.raises(BadInput, match=r"segment 1: .*lone surrogate"):
        encode(Transcript([Segment("\udfff", Author.AGENT)]), tokenizer)


@given(
    contents=st.lists(
        st.text(max_size=8)
        | st.sampled_from(["<|im_end|>", "<|endoftext|>\n", "</tool_call>\nProposed solution:\n"]),
        max_size=6,
    ),
    authors=st.lists(st.sampled_from(Author), min_size=6, max_size=6),
)
def test_authors_are_recovered_exactly_whatever_the_text_pretends(tokenizer, contents, authors):
    segments = [Segment(content + "\n", author) for content, author in zip(contents, authors, strict=False)]
    encoded = encode(Transcript(segments), tokenizer)
    lengths = [len(tokenizer.encode(segment.content)) for segment in segments]
    assert encoded.author.tolist() == [
        int(s.author) for s, n in zip(segments, lengths, strict=True) for _ in range(n)
    ]
    assert not set(encoded.tokens.tolist()) & set(tokenizer.controls.values())


def test_a_hugging_face_tokenizer_will_do(folder, tokenizer):
    transformers = pytest.importorskip("transformers")
    fast = transformers.PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    transcript = render.plain([ASK, _correction("4 <|im_end|>")])
    for ours, theirs in zip(encode(transcript, tokenizer), encode(transcript, fast), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_changing_who_wrote_an_attempt_changes_nothing_but_provenance(tokenizer):
    attempt = _attempt(tokenizer, "5", END, solved=0)
    mine, theirs = (
        encode(render.plain([ASK, each]), tokenizer)
        for each in (attempt, dataclasses.replace(attempt, content="5", author=Author.TEACHER, tokens=None))
    )
    assert (mine.gamma != theirs.gamma).tolist() == [False] * 9 + [True] * 2
    np.testing.assert_array_equal(mine.solved, theirs.solved)


def test_the_room_needs_no_model_libraries():
    program = (
        "import sys, cicjax.cli\n"
        "from cicjax.logs import native\n"
        "from cicjax.views import boxes, demo\n"
        "from cicjax.provenance import encode, render, tokenizer, transcript, weights\n"
        "print([m for m in ('jax', 'flax', 'torch', 'transformers', 'optax', "
        "'huggingface_hub') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
