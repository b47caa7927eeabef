"""Records refuse what they cannot mean."""

import dataclasses

import numpy as np
import pytest

from cicjax.errors import BadInput
from cicjax.provenance import Author, Control, Message, Segment, Transcript


def test_authors_fit_int8_and_padding_is_nobody():
    codes = [int(author) for author in Author]
    assert len(set(codes)) == 7
    assert min(codes) > 0
    assert max(codes) < 128


def test_segment_arguments_are_positional_in_the_promised_order():
    segment = Segment("text", Author.TEACHER, False, 1)
    assert (segment.content, segment.author, segment.is_target, segment.solved) == (
        "text",
        Author.TEACHER,
        False,
        1,
    )
    assert Segment("text", Author.TEACHER) == Segment(
        "text", author=Author.TEACHER, is_target=True, solved=-1
    )


def test_end_is_written_by_whom_it_is_said_to_be():
    assert Segment.end(Author.AGENT) == Segment(Control("<|endoftext|>"), Author.AGENT, True)
    assert Segment.end(Author.ENVIRONMENT, False).is_target is False


@pytest.mark.parametrize(
    "ids", [[1, 2], (1, 2), np.array([1, 2], np.int32), [np.int64(1), np.int32(2)], iter([1, 2])]
)
def test_ids_come_as_any_integers(ids):
    assert Segment(ids, Author.AGENT).content == (1, 2)


@pytest.mark.parametrize(
    "ids", [[1.0], [True], ["1"], [-1], [2**31], [None], np.array([1.5]), b"12", 7, {"a": 1}]
)
def test_what_is_no_id_is_refused(ids):
    with pytest.raises(BadInput, match="token id"):
        Segment(ids, Author.AGENT)


def test_records_are_immutable():
    message = Message(role="user", content="", author=Author.USER)
    for record, field in ((Segment("a", Author.USER), "author"), (Transcript([]), "id"), (message, "author")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(record, field, Author.AGENT)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"author": "agent"}, "is no author"),
        ({"author": 1}, "is no author"),
        ({"content": None}, "strings"),
        ({"solved": 2}, "verdict"),
        ({"solved": 1.0}, "verdict"),
        ({"truncated": 1}, "truncated"),
        ({"logprobs": [-1.0]}, "1 logprobs for no tokens"),
        ({"tokens": [1, 2], "logprobs": [-1.0]}, "1 logprobs for 2 tokens"),
        ({"tokens": [1], "logprobs": [float("nan")]}, "not a log-probability"),
        ({"tokens": [1], "logprobs": [float("-inf")]}, "not a log-probability"),
    ],
)
def test_message_refuses_contradictions(changes, complaint):
    fields = {"role": "assistant", "content": "x", "author": Author.AGENT, **changes}
    with pytest.raises(BadInput, match=complaint):
        Message(**fields)
