"""What a method is compared by, on a grid of all outcomes."""

from itertools import product

from cicjax.experiments.paper import evaluate

# SFT-1's first answer, the method's direct answer, its second answer: every combination, number n of them n +
# 1 times.
GRID = [outcome for n, outcome in enumerate(product((False, True), repeat=3)) for _ in range(n + 1)]


def answers(column):
    return [{"solved": outcome[column]} for outcome in GRID]


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
    }


def test_the_headline_by_skill():
    rows = [
        {"solved": solved, "skill": skill, "marker": marker, "finish_reason": reason}
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
