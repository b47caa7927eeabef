"""Packing: every fact stays with its token, rows without loss are left out, lengths decide what is
padding."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cicjax.provenance import Encoded
from cicjax.provenance.protocol import weighting
from cicjax.training.batches import (
    SHORTEST,
    Shape,
    fit_shape,
    line_length,
    make_row,
    pack,
    pack_and_place,
    rows_of,
)

INTERVENTIONAL, OBSERVATIONAL = weighting("interventional"), weighting("observational")


def weights_of(batch):
    return INTERVENTIONAL.rule(batch.gamma, batch.is_target, batch.solved)


def encoded(length, *, agent=0, first=1):
    """`length` tokens, a third context, the last `agent` of them the agent's. Token 0 (end of text, and
    padding) may be among them."""
    tokens = np.arange(first, first + length, dtype=np.int32) % 50
    gamma = np.zeros(length, np.int8)
    gamma[length - agent :] = 1
    return Encoded(tokens, gamma, np.arange(length) >= length // 3, np.full(length, 0, np.int8), gamma)


def row(length, *, agent=0, first=1):
    return make_row(encoded(length, agent=agent, first=first), INTERVENTIONAL)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=0, max_size=12), st.integers(1, 3))
def test_every_live_row_stands_once_and_whole(lengths, lines):
    rows = [row(length, first=7 * n) for n, length in enumerate(lengths)]
    batches = pack(rows, Shape(lines, 40))
    found = []
    for batch in batches:
        assert batch.tokens.shape == (lines, 40)
        for line in range(lines):
            for segment in range(1, int(batch.segments[line].max()) + 1):
                (here,) = np.nonzero(batch.segments[line] == segment)
                assert here.tolist() == list(range(here[0], here[-1] + 1))
                assert batch.positions[line, here].tolist() == list(range(len(here)))
                found.append(
                    (
                        batch.tokens[line, here].tolist(),
                        batch.gamma[line, here].tolist(),
                        weights_of(batch)[line, here].tolist(),
                    )
                )
            outside = batch.segments[line] == 0
            assert not batch.is_target[line, outside].any() and not batch.gamma[line, outside].any()
    live = [each for each in rows if each.loss_weights.any()]
    expected = [
        (each.encoded.tokens.tolist(), each.encoded.gamma.tolist(), each.loss_weights.tolist())
        for each in live
    ]
    assert sorted(found) == sorted(expected)


def test_indices_list_exactly_the_positions_with_weight():
    (batch,) = pack([row(12, agent=3), row(9)], Shape(2, 15))
    for line in range(2):
        (carrying,) = np.nonzero(weights_of(batch)[line])
        assert batch.indices[line, : len(carrying)].tolist() == carrying.tolist()
        assert len(carrying) <= batch.used
    assert batch.used == max(np.count_nonzero(line) for line in weights_of(batch))


def test_rows_without_targets_take_no_room():
    assert pack([row(12, agent=12)] * 5, Shape(1, 16)) == []
    assert len(pack([row(12, agent=12)] * 5 + [row(12)], Shape(1, 16))) == 1


def test_the_first_token_of_a_row_weighs_nothing():
    each = encoded(6)._replace(is_target=np.ones(6, bool))
    row = make_row(each, OBSERVATIONAL)
    assert row.loss_weights.tolist() == row.encoded.is_target.tolist() == [0, 1, 1, 1, 1, 1]


def test_a_row_that_does_not_fit_is_refused_and_shapes_come_in_steps():
    with pytest.raises(ValueError, match="41 tokens"):
        pack([row(41)], Shape(1, 40))
    with pytest.raises(ValueError, match="old_logprobs has 5 entries for 6 tokens"):
        make_row(encoded(6), OBSERVATIONAL, old_logprobs=np.ones(5, np.float32))
    assert fit_shape([10, 200], rows=2) == Shape(2, 512)
    assert fit_shape([513], rows=1) == Shape(1, 640)
    assert fit_shape([], rows=1) == Shape(1, 512)


def test_a_micro_batch_ends_where_its_longest_line_does_at_one_of_few_lengths():
    assert [batch.tokens.shape for batch in pack([row(150), row(100), row(60), row(70)], Shape(1, 320))] == [
        (1, 320),
        (1, 192),
    ]
    assert [batch.tokens.shape for batch in pack([row(70), row(300)], Shape(2, 320))] == [(2, 320)]
    assert pack([row(30)], Shape(1, 40))[0].tokens.shape == (1, 40)


@given(st.integers(1, 10_000))
def test_line_lengths_waste_little_and_are_few(tokens):
    assert tokens <= line_length(tokens) and (
        line_length(tokens) == SHORTEST or line_length(tokens) < max(tokens + 64, tokens * 1.25)
    )
    assert line_length(line_length(tokens)) == line_length(tokens)
    assert len({line_length(n) for n in range(1, tokens + 1)}) <= 6 + 4 * max(
        0, (tokens - 1).bit_length() - 9
    )


def test_rows_that_belong_together_share_a_line():
    pairs = [(row(20, first=n), row(9, first=n + 1)) for n in range(5)]
    units = [row(30), *pairs, row(12, agent=12), row(5)]
    batches, places = pack_and_place(units, Shape(2, 64))
    assert len(places) == 13 and places[11] is None
    assert all(place is not None for n, place in enumerate(places) if n != 11)
    for n in range(1, 11, 2):
        assert places[n][:2] == places[n + 1][:2]
    with pytest.raises(ValueError, match="29 tokens"):
        pack(pairs, Shape(1, 24))
    rows = [row for unit in units for row in rows_of(unit)]
    for each, place in zip(rows, places, strict=True):
        if place is not None:
            batch, count = batches[place.batch], np.count_nonzero(each.loss_weights)
            columns = batch.indices[place.line, place.column : place.column + count]
            assert batch.positions[place.line, columns].tolist() == np.flatnonzero(each.loss_weights).tolist()
            assert (
                batch.tokens[place.line, columns].tolist()
                == each.encoded.tokens[each.loss_weights > 0].tolist()
            )
