"""The rows of the methods: which messages, in which order, with which targets."""

from dataclasses import replace

import numpy as np
import pytest

from cicjax.methods import METHODS, interventional, named, oracle, rest
from cicjax.methods.rows import attempted, demonstration, question
from cicjax.provenance import Author, Message, protocol
from cicjax.provenance.transcript import Episode
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


def candidate(text="2+2 = 4. Final answer: 4.", *, solved=1, marker=True, truncated=False):
    turn = Message(
        role="assistant",
        author=Author.AGENT,
        content=text,
        tokens=(1, 2, 0),
        solved=solved,
        truncated=truncated,
    )
    return Episode(id="a", messages=(question("2+2?"), turn), meta={"marker": marker})


def test_rest_takes_the_first_clean_pass_of_a_group():
    unclean = [
        candidate(solved=0),
        candidate(marker=False),
        candidate(truncated=True),
        candidate("2+2 = 4.\nFinal answer: 4."),
    ]
    assert rest.select(unclean) is None
    assert rest.select([]) is None
    first, second = candidate("A. Final answer: 4."), candidate("B. Final answer: 4.")
    assert rest.select([*unclean, first, second]) is first


class Made:
    """Rollouts by hand: two teacher rows, a stream of a failure and a success, two groups of candidates."""

    def __init__(self):
        row = {"question_text": "What is 2+2?", "correction": "2+2 = 4. Final answer: 4."}
        self.rows = [attempted(str(n), attempt=attempt(n), **row) for n in range(2)]
        self.groups = [[candidate(solved=0), candidate()], [candidate(solved=0)]]

    def teacher(self):
        return [demonstration(f"t{n}", question_text="q", solution="s") for n in range(2)]

    def stream(self):
        return self.rows

    def candidates(self):
        return self.groups


def test_every_method_says_where_its_rows_come_from():
    made = Made()
    rows = {method.name: method.rows(made) for method in METHODS if method.rows is not None}
    assert rows["observational"] is rows["interventional"] is made.rows
    assert [episode.id for episode in rows["oracle"]] == ["0"]
    assert [episode.id for episode in rows["oracle_shared"]] == ["0", "1"]
    assert [episode.id for episode in rows["rest"]] == ["a", "t0", "t1"]
    assert rows["sft"] == made.teacher()
    assert METHODS[0].rows is METHODS[0].weighting is None


def test_who_is_imitated_follows_from_the_weighting():
    targets = {method.name: ", ".join(method.targets) for method in METHODS}
    assert targets == {
        "base": "",
        "sft": "teacher",
        "rest": "agent, teacher",
        "grpo": "agent",
        "oracle": "teacher",
        "oracle_shared": "teacher",
        "observational": "agent, teacher",
        "interventional": "teacher",
    }


def test_an_arm_is_one_line_and_describes_itself():
    weighting = protocol.weighting("stream", wrong=0.1, correct=0.3)
    arm = replace(interventional.METHOD, name="dose_0.1", label="Dose 0.1", weighting=weighting)
    assert arm.takes_stream_whole and arm.targets == ("agent", "teacher")
    assert arm.heading == "dose 0.1"
    assert "a failed attempt 0.1 and a right one 0.3" in arm.described


def test_names_colours_and_markers_tell_methods_apart():
    for part in ("name", "label", "heading", "colour", "marker"):
        assert len({getattr(method, part) for method in METHODS}) == len(METHODS), part
    assert named("mask_$wrong$_only").label == "mask $wrong$ only"
    assert all(named(method.name) is method for method in METHODS)


@pytest.mark.parametrize("count", [0, 1, 8, 9, 25])
def test_an_epoch_is_a_permutation_of_the_seed_and_the_count_alone(count):
    updates = updates_of(list(range(count)), seed=3, rows_per_update=8)
    assert sorted(np.concatenate(updates).tolist() if updates else []) == list(range(count))
    assert [len(update) for update in updates[:-1]] == [8] * (len(updates) - 1)
    letters = updates_of([f"row {n}" for n in range(count)], seed=3, rows_per_update=8)
    assert letters == [[f"row {n}" for n in update] for update in updates]
    if count > 8:
        assert updates != updates_of(list(range(count)), seed=4, rows_per_update=8)
