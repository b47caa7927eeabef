"""The rows of the methods: which messages, in which order, with which targets."""

import numpy as np
import pytest

from cicjax.methods import oracle, rest
from cicjax.methods.rows import attempted, demonstration
from cicjax.provenance import Author, Message
from cicjax.training.finetune import updates_of


def attempt(solved, text="2+2 = 5. Final answer: 5."):
    return Message(role="assistant", author=Author.AGENT, content=text, tokens=(1, 2, 0), solved=solved)


def authors(episode):
    return [message.author.label for message in episode.messages]


def test_a_failure_is_corrected_and_a_success_stands_alone():
    row = {"question_text": "What is 2+2?", "correction": "2+2 = 4. Final answer: 4."}
    assert authors(attempted("a", attempt=attempt(0), **row)) == ["user", "agent", "teacher"]
    assert authors(attempted("b", attempt=attempt(1), **row)) == ["user", "agent"]
    assert authors(demonstration("c", question_text="q", solution="s")) == ["user", "teacher"]


def test_the_oracle_sees_the_same_corrections_without_the_attempts():
    stream = [
        attempted(str(n), question_text=f"q{n}", attempt=attempt(n % 2), correction=f"y{n}") for n in range(4)
    ]
    assert [episode.id for episode in oracle.corrections(stream)] == ["0", "2"]
    assert all(authors(episode) == ["user", "teacher"] for episode in oracle.corrections(stream))
    assert [authors(oracle.without_attempt(episode)) for episode in stream] == [
        ["user", "teacher"],
        ["user"],
    ] * 2


def answer(**changes):
    return {
        "completion": "2+2 = 4. Final answer: 4.",
        "solved": True,
        "marker": True,
        "finish_reason": "stop",
    } | changes


def test_rest_takes_the_first_clean_pass_of_a_group():
    unclean = [
        answer(solved=False),
        answer(marker=False),
        answer(finish_reason="length"),
        answer(completion="2+2 = 4.\nFinal answer: 4."),
    ]
    assert rest.select(unclean) is None
    assert rest.select([]) is None
    first, second = answer(completion="A. Final answer: 4."), answer(completion="B. Final answer: 4.")
    assert rest.select([*unclean, first, second]) is first


@pytest.mark.parametrize("count", [0, 1, 8, 9, 25])
def test_an_epoch_is_a_permutation_of_the_seed_and_the_count_alone(count):
    updates = updates_of(list(range(count)), seed=3, rows_per_update=8)
    assert sorted(np.concatenate(updates).tolist() if updates else []) == list(range(count))
    assert [len(update) for update in updates[:-1]] == [8] * (len(updates) - 1)
    letters = updates_of([f"row {n}" for n in range(count)], seed=3, rows_per_update=8)
    assert letters == [[f"row {n}" for n in update] for update in updates]
    if count > 8:
        assert updates != updates_of(list(range(count)), seed=4, rows_per_update=8)
