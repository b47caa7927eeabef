"""Counts by author, and the sentence and table made of them."""

from collections.abc import Sequence

import numpy as np
import pytest

from cicjax.provenance import Author, Encoded, encode, protocol, render
from cicjax.provenance.protocol import weighting
from cicjax.views import counts, demo

BOTH = {"observational": weighting("observational"), "interventional": weighting("interventional")}


@pytest.fixture
def rows(tokenizer) -> list[Encoded]:
    return [encode(render.plain(episode.messages), tokenizer) for episode in demo.EPISODES]


def _encoded(authors: Sequence[int], is_target: Sequence[int]) -> Encoded:
    author = np.array(authors, np.int8)
    gamma = (author == Author.AGENT).astype(np.int8)
    return Encoded(
        np.arange(len(authors), dtype=np.int32),
        gamma,
        np.array(is_target, bool),
        np.full(len(authors), -1, np.int8),
        author,
    )


def test_every_token_is_counted_once(rows):
    found = counts.count(rows, BOTH)
    assert found.transcripts == 2
    assert found.tokens.sum() == sum(len(encoded.tokens) for encoded in rows)
    for name, weigh in BOTH.items():
        assert found.total(name) == sum(int((weigh(encoded) > 0).sum()) for encoded in rows)
        assert (found.supervised[name] <= found.tokens).all()
    assert found.supervised["interventional"][Author.AGENT] == 0
    assert found.supervised["observational"][Author.AGENT] == found.tokens[Author.AGENT]


def test_an_author_as_a_literal_grid():
    agent, teacher, user = Author.AGENT, Author.TEACHER, Author.USER
    encoded = _encoded([user, user, agent, agent, agent, teacher], [0, 0, 1, 1, 1, 1])
    found = counts.count([encoded, encoded], BOTH)
    assert counts.table(found) == [
        ("author", "tokens", "supervised, observational", "supervised, interventional"),
        ("agent", "6", "6", "0"),
        ("teacher", "2", "2", "2"),
        ("user", "4", "0", "0"),
        ("all", "12", "8", "2"),
    ]
    assert counts.own_words(found) == (
        "Under the observational objective 6 of 8 supervised tokens (75.0%) are the agent's own words; "
        "under the interventional one none of the 2 are."
    )
    one = counts.count([encoded], {"interventional": BOTH["interventional"]})
    assert (
        counts.own_words(one)
        == "Under the interventional objective none of the 1 supervised tokens are the agent's own words."
    )
    assert counts.aligned(counts.table(one)).split("\n") == [
        "author   tokens  supervised",
        "agent         3           0",
        "teacher       1           1",
        "user          2           0",
        "all           6           1",
    ]


def test_a_small_weight_is_supervision(rows):
    found = counts.count(
        rows, {"stream": weighting("stream", wrong=0.125), "interventional": BOTH["interventional"]}
    )
    failed = sum(int(((e.gamma == 1) & (e.solved == 0)).sum()) for e in rows)
    assert failed > 0
    assert found.total("stream") == found.total("interventional") + failed


@pytest.mark.parametrize(
    ("is_target", "sentence"),
    [
        (
            [0, 0, 0],
            "Under the observational objective nothing is supervised; "
            "under the interventional one nothing is supervised.",
        ),
        (
            [0, 1, 0],
            "Under the observational objective 1 of 1 supervised tokens (100.0%) is the agent's own words; "
            "under the interventional one nothing is supervised.",
        ),
    ],
)
def test_the_sentence_where_nothing_is_supervised(is_target, sentence):
    encoded = _encoded([Author.USER, Author.AGENT, Author.TEACHER], is_target)
    assert counts.own_words(counts.count([encoded], BOTH)) == sentence


def test_no_rows_are_no_error():
    found = counts.count([], BOTH)
    assert counts.table(found)[1:] == [("all", "0", "0", "0")]
    assert "nothing is supervised" in counts.own_words(found)


def test_large_numbers_have_commas(tokenizer):
    encoded = _encoded([Author.USER] + [Author.TEACHER] * 2000, [0] + [1] * 2000)
    assert counts.table(counts.count([encoded], {"interventional": protocol.weighting("interventional")}))[
        1
    ] == (
        "teacher",
        "2,000",
        "2,000",
    )
