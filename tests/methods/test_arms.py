"""The arms: which rows each makes of one stream, and what its positions weigh."""

from dataclasses import replace

import pytest

from cicjax.methods import ARMS, EVERY, METHODS, named, oracle
from cicjax.methods.rows import attempted, demonstration
from cicjax.provenance import Author, Message, encode, protocol, render


def attempt(text, solved):
    return Message(role="assistant", author=Author.AGENT, content=text, tokens=None, solved=solved)


class Made:
    """A stream of two skills: question 1 fails twice and passes once, 2 and 3 fail once; two teacher rows."""

    def __init__(self):
        rows = [(1, "x", 0), (1, "x", 1), (1, "x", 0), (2, "x", 0), (3, "y", 0), (3, "y", 1), (4, "y", 1)]
        self.rows = []
        for n, (problem, skill, solved) in enumerate(rows):
            row = attempted(
                f"{problem}#{n}",
                question_text=f"q{problem}",
                attempt=attempt(f"try {n}", solved),
                correction=f"y{problem}",
            )
            meta = {"problem": problem, "skill": skill}
            self.rows.append(replace(row, meta=meta))

    def teacher(self):
        return [demonstration(f"t{n}", question_text=f"u{n}", solution=f"s{n}") for n in range(2)]

    def stream(self):
        return self.rows

    def candidates(self):
        return []


MADE = Made()


def rows(name):
    return [tuple(message.content for message in row.messages) for row in named(name).rows(MADE)]


def ids(name):
    return [row.id for row in named(name).rows(MADE)]


STREAM = [
    ("q1", "try 0", "y1"),
    ("q1", "try 1"),
    ("q1", "try 2", "y1"),
    ("q2", "try 3", "y2"),
    ("q3", "try 4", "y3"),
    ("q3", "try 5"),
    ("q4", "try 6"),
]


@pytest.mark.parametrize(
    "name", ["mask_wrong", "mask_correct", "dose_0.03", "dose_0.1", "dose_0.3", "every_world"]
)
def test_arms_of_weights_alone_eat_the_stream_itself(name):
    assert named(name).takes_stream_whole and rows(name) == STREAM


def test_the_teachers_rows_again():
    assert rows("replay_only") == [("u0", "s0"), ("u1", "s1")]
    assert rows("sft2") == [("u0", "s0"), ("u1", "s1")] * 3 + [("u0", "s0")]
    assert len(set(ids("sft2"))) == len(STREAM)
    assert rows("interventional_replay") == [*STREAM, ("u0", "s0"), ("u1", "s1")]


def test_shuffled_attempts_are_anothers_of_the_same_skill_where_there_is_one():
    assert rows("shuffled") == [
        ("q1", "try 3", "y1"),
        ("q1", "try 1"),
        ("q1", "try 3", "y1"),
        ("q2", "try 0", "y2"),
        ("q3", "try 0", "y3"),  # no other question of its skill failed
        ("q3", "try 5"),
        ("q4", "try 6"),
    ]


@pytest.mark.parametrize("name", ["verdict_context", "verdict_context_observational", "verdict_evidence"])
def test_the_verdict_is_told_after_every_attempt(name):
    told = rows(name)
    assert named(name).told and not named("interventional").told
    assert told[:2] == [("q1", "try 0", "wrong", "y1"), ("q1", "try 1", "right")]
    assert [(row[0], row[1], *row[3:]) for row in told] == STREAM


def test_a_passing_sample_takes_the_oracles_place():
    assert rows("no_oracle") == [
        ("q1", "try 0", "try 1"),
        ("q1", "try 1"),
        ("q1", "try 2", "try 1"),
        ("q2", "try 3"),
        ("q3", "try 4", "try 5"),
        ("q3", "try 5"),
        ("q4", "try 6"),
    ]


def test_one_attempt_a_question_and_as_many_corrections():
    row = {1: ("q1", "try 0", "y1"), 2: ("q2", "try 3", "y2"), 3: ("q3", "try 4", "y3")}
    assert rows("deduplicated") == [row[1], row[2], row[3], row[1]]


# What weighs: the pieces of the first row (failed, corrected) and of the second (right), in order.
WEIGHED = {
    "mask_wrong": ({"y1": 1}, {"try 1": 1}),
    "mask_correct": ({"try 0": 1, "y1": 1}, {}),
    "dose_0.1": ({"try 0": 0.1, "y1": 1}, {"try 1": 0.1}),
    "shuffled": ({"y1": 1}, {}),
    "verdict_context": ({"y1": 1}, {}),
    "verdict_context_observational": ({"try 0": 1, "y1": 1}, {"try 1": 1}),
    "verdict_evidence": ({"wrong\n": 1, "y1": 1}, {"right\n": 1}),
    "every_world": ({"Proposed solution:\n": 1, "y1": 1}, {}),
    "no_oracle": ({"try 1": 1}, {}),
    "interventional_replay": ({"y1": 1}, {}),
    "oracle_shared": ({"y1": 1}, {}),
    "deduplicated": ({"y1": 1}, None),
    "sft2": ({"s0": 1}, {"s1": 1}),
    "replay_only": ({"s0": 1}, {"s1": 1}),
}


@pytest.mark.parametrize("name", WEIGHED)
def test_what_a_piece_of_a_row_weighs(name):
    arm = named(name)
    for row, expected in zip(arm.rows(MADE), WEIGHED[name], strict=False):
        if expected is None:
            continue
        targets = protocol.target_authors(arm.evidence)
        segments = render.plain(row.messages, targets=targets).segments
        weights = arm.weighting(encode(render.plain(row.messages, targets=targets), "checkpoints/tiny"))
        found, start = {}, 0
        for segment in segments:
            alone = encode(render.Transcript([segment]), "checkpoints/tiny")
            piece = weights[start : (start := start + len(alone.tokens))]
            if isinstance(segment.content, str) and (piece != 0).any():
                assert len(set(piece.tolist())) == 1 or start == len(piece)
                found[segment.content] = pytest.approx(float(piece[-1]))
        found.pop(next((text for text in found if text.startswith("Question:")), None), None)
        assert found == expected


def test_every_name_is_there_and_told_apart():
    names = [arm.name for arm in ARMS]
    assert sorted(names) == sorted(WEIGHED | {"dose_0.03": 0, "dose_0.3": 0})
    for part in ("name", "label", "heading", "colour"):
        assert len({getattr(method, part) for method in EVERY}) == len(EVERY), part
    assert EVERY[: len(METHODS)] == METHODS and oracle.SHARED in ARMS
    assert len(EVERY) == len(METHODS) + len(ARMS) - 1
