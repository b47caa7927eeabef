"""What a method is compared by, on a grid of all outcomes."""

from itertools import product

import pytest

from cicjax.errors import BadInput, Corrupted
from cicjax.experiments.answers import Answer, read_answers
from cicjax.experiments.paper import evaluate

# SFT-1's first answer, the method's direct answer, its second answer: every combination, number n of them n +
# 1 times.
GRID = [outcome for n, outcome in enumerate(product((False, True), repeat=3)) for _ in range(n + 1)]


def answer(**changes):
    given = {
        "id": "sum:1,2",
        "sample": 0,
        "skill": "sum",
        "prompt": "1+2?",
        "completion": "3",
        "solved": True,
        "reason": "solved",
        "finish_reason": "stop",
        "marker": True,
        "prompt_tokens": 4,
        "tokens": (7, 0),
        "logprobs": (-0.5, -0.25),
    }
    return Answer(**(given | changes))


def answers(column):
    return [answer(solved=outcome[column]) for outcome in GRID]


def test_counts_against_sft_1():
    #  first direct second: 000 x1, 001 x2, 010 x3, 011 x4, 100 x5, 101 x6, 110 x7, 111 x8
    assert evaluate.second_summary(answers(1), answers(2), answers(0)) == {
        "repair_solved": 2 + 4,
        "repair_questions": 1 + 2 + 3 + 4,
        "two_step_solved": (5 + 6 + 7 + 8) + (2 + 4),
        "kept": 7 + 8,
        "lost": 5 + 6,
        "gained": 3 + 4,
        "harmed": 5 + 7,
        "natural_two_step": (5 + 6 + 7 + 8) + (3 + 4),
        "second_turn": 2 + 4 + 6 + 8,
    }


def test_the_headline_by_skill():
    rows = [
        answer(solved=solved, skill=skill, marker=marker, finish_reason=reason)
        for solved, skill, marker, reason in (
            (True, "b", True, "stop"),
            (False, "a", True, "length"),
            (True, "a", False, "stop_string"),
            (False, "b", False, "stop"),
        )
    ]
    summary = evaluate.direct_summary(rows)
    assert (summary["solved"], summary["questions"], summary["accuracy"]) == (2, 4, 0.5)
    assert summary["by_skill"] == {"a": [1, 2], "b": [1, 2]}
    assert (summary["marker_share"], summary["truncated"]) == (0.5, 2)


def test_an_answer_and_its_line_are_one_thing():
    """The verifier's own facts stand beside the other keys, and come back as they were."""
    given = answer(facts={"value": 3.0, "unit": None})
    line = given.to_json()
    assert line["value"] == 3.0 and line["unit"] is None and "facts" not in line
    assert read_answers([line], path="x.jsonl") == [given]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"completion": 3}, "x.jsonl:2: completion is missing or no str"),
        ({"solved": 1}, "x.jsonl:2: solved is missing or no bool"),
        ({"sample": True}, "x.jsonl:2: sample is missing or no int"),
        ({"tokens": "7"}, "x.jsonl:2: tokens is missing or no list"),
    ],
)
def test_a_line_that_is_no_answer_is_named(changes, told):
    line = answer().to_json()
    with pytest.raises(Corrupted, match=told):
        read_answers([line, line | changes], path="x.jsonl")
    del line["reason"]
    with pytest.raises(Corrupted, match="reason is missing"):
        read_answers([line], path="x.jsonl")


def test_a_fact_takes_no_key_that_every_answer_has():
    with pytest.raises(BadInput, match="'reason'"):
        answer(facts={"reason": "too long"})
