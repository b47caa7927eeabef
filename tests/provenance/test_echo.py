"""Echoes of the agent's words: literal grids, and a plain search that finds the same."""

import itertools
from unittest import mock

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from cicjax.provenance import Author, Encoded, echo


def _encoded(*runs: tuple[Author, list[int]]) -> Encoded:
    tokens = np.array([t for _, run in runs for t in run], np.int32)
    author = np.array([a for a, run in runs for _ in run], np.int8)
    everywhere = np.ones(len(tokens), bool)
    return Encoded(
        tokens,
        (author == Author.AGENT).astype(np.int8),
        everywhere,
        np.full(len(tokens), -1, np.int8),
        author,
    )


AGENT, TEACHER, TOOL, ENVIRONMENT = Author.AGENT, Author.TEACHER, Author.TOOL, Author.ENVIRONMENT
RUN = list(range(100, 120))


def test_echo_spans_as_literal_grids():
    assert echo.echo_spans(_encoded((AGENT, RUN), (TOOL, [1, *RUN, 2]))).astype(int).tolist() == [0] * 21 + [
        1
    ] * 20 + [0]
    assert not echo.echo_spans(_encoded((AGENT, RUN), (TOOL, RUN[:19]))).any()
    assert not echo.echo_spans(_encoded((TOOL, RUN), (AGENT, RUN))).any()  # the agent read it first
    assert not echo.echo_spans(_encoded((AGENT, RUN), (TEACHER, RUN))).any()  # vouched for
    assert not echo.echo_spans(
        _encoded((AGENT, RUN[:10]), (ENVIRONMENT, [1]), (AGENT, RUN[10:]), (TOOL, RUN))
    ).any()
    two = _encoded((AGENT, RUN), (TOOL, [1]), (AGENT, list(range(10, 40))), (TOOL, [*range(15, 40), *RUN]))
    assert np.flatnonzero(echo.echo_spans(two)).tolist() == list(range(51, 96))


def test_only_targets_are_echoes():
    encoded = _encoded((AGENT, RUN), (TOOL, RUN))
    assert not echo.echo_spans(encoded._replace(is_target=np.zeros(40, bool))).any()
    assert echo.echo_spans(encoded._replace(is_target=np.arange(40) >= 20)).sum() == 20


def test_eighty_characters_are_an_echo_with_a_tokenizer(tokenizer):
    words = tokenizer.encode(" solution" * 9)  # nine characters a token
    assert len(words) == 9
    encoded = _encoded((AGENT, words), (TOOL, words))
    assert not echo.echo_spans(encoded).any()
    assert echo.echo_spans(encoded, tokenizer).tolist() == [False] * 9 + [True] * 9
    assert not echo.echo_spans(_encoded((AGENT, words[:8]), (TOOL, words[:8])), tokenizer).any()


RUNS = st.lists(
    st.tuples(st.sampled_from([AGENT, TOOL, TEACHER]), st.lists(st.integers(0, 1), min_size=1, max_size=40)),
    max_size=6,
)


@given(runs=RUNS)
def test_echo_spans_are_those_of_a_plain_search(runs):
    size = 6
    turns = [
        (author, [t for _, run in group for t in run])
        for author, group in itertools.groupby(runs, key=lambda run: run[0])
    ]
    expected: list[bool] = []
    said: list[bytes] = []
    for author, turn in turns:
        found = [False] * len(turn)
        for at in range(len(turn) - size + 1):
            if author is TOOL and any(bytes(turn[at : at + size]) in text for text in said):
                found[at : at + size] = [True] * size
        said += [bytes(turn)] if author is AGENT else []
        expected += found
    with mock.patch.object(echo, "ECHO_TOKENS", size):
        assert echo.echo_spans(_encoded(*runs)).tolist() == expected
