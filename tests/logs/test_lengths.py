"""A long transcript in windows: none too long, nothing twice or out of order, no correction without its
attempt, and the question above everything."""

import pytest

from cicjax.errors import BadInput
from cicjax.logs import lengths
from cicjax.provenance import Author, Message, ToolCall, protocol
from cicjax.provenance.transcript import Episode

SYSTEM = Message(role="system", content="You are at a shell.", author=Author.SYSTEM)
TASK = Message(role="user", content="Mend the build. " * 6, author=Author.USER)


def acts(n, *, author=Author.AGENT):
    call = ToolCall(name="run", arguments=f'{{"command": "make step{n}"}}', id=f"c{n}")
    return Message(role="assistant", content=f"Step {n}.", author=author, tool_calls=(call,))


def result(n, size=20):
    return Message(role="tool", content=f"{n}: " + "ok " * size, author=Author.TOOL, tool_call_id=f"c{n}")


def corrects(n):
    return Message(role="assistant", content=f"Rather step {n} so.", author=Author.TEACHER)


TRAJECTORY = (SYSTEM, TASK, *(m for n in range(12) for m in (acts(n), result(n))))


def fit(tokenizer, *dialogues, max_length, overflow="split"):
    episodes = [Episode(id=f"e{n}", messages=tuple(m), line=n + 1) for n, m in enumerate(dialogues)]
    render = protocol.renderer("chatml", ("world",), episodes, tokenizer)
    rows = list(protocol.encode_all(episodes, tokenizer, render=render, path="log"))
    return lengths.fit(
        rows, max_length=max_length, overflow=overflow, render=render, tokenizer=tokenizer, path="log"
    )


def said(fitted):
    """What the windows say anew, in order."""
    return [m for episode, _ in fitted.rows for m in episode.messages if not m.context_only]


@pytest.mark.parametrize("max_length", [400, 600, 1000])
def test_a_trajectory_of_one_question_is_cut_at_its_steps(tokenizer, max_length):
    fitted = fit(tokenizer, TRAJECTORY, max_length=max_length)
    assert fitted.windows == len(fitted.rows) > 1 and (fitted.split, fitted.left_out) == (1, 0)
    assert said(fitted) == list(TRAJECTORY)
    for number, (episode, encoded) in enumerate(fitted.rows):
        assert len(encoded.tokens) <= max_length and episode.id == f"e0/{number + 1}"
        assert [m.content for m in episode.messages[:2]] == [SYSTEM.content, TASK.content]
        assert episode.messages[1].context_only is (number > 0)
        calls = {call.id for m in episode.messages for call in m.tool_calls}
        assert all(m.tool_call_id in calls for m in episode.messages if m.role == "tool")


def test_windows_hold_as_many_steps_as_there_is_room_for(tokenizer):
    few, many = (fit(tokenizer, TRAJECTORY, max_length=size) for size in (450, 900))
    assert len(few.rows) > 2 * len(many.rows) - 2
    longest = max(len(encoded.tokens) for _, encoded in many.rows)
    assert longest > 700


@pytest.mark.parametrize("max_length", [450, 600, 900])
def test_a_correction_stays_with_its_attempt(tokenizer, max_length):
    verdict = Message(role="verifier", content="It failed.", author=Author.VERIFIER)
    wrong = [(acts(n), result(n), verdict, corrects(n)) for n in range(8)]
    fitted = fit(tokenizer, (SYSTEM, TASK, *(m for step in wrong for m in step)), max_length=max_length)
    assert len(fitted.rows) > 1
    assert said(fitted)[2:] == [m for step in wrong for m in step]
    for episode, _ in fitted.rows:
        roles = [m.author for m in episode.messages if m.role == "assistant"]
        assert roles == [Author.AGENT, Author.TEACHER] * (len(roles) // 2)


def test_a_teacher_who_goes_on_alone_may_be_parted(tokenizer):
    alone = [m for n in range(12) for m in (acts(n, author=Author.TEACHER), result(n))]
    fitted = fit(tokenizer, (TASK, acts(20), result(20), *alone), max_length=500)
    assert len(fitted.rows) > 2 and fitted.left_out == 0
    first = [m.author for m in fitted.rows[0][0].messages if m.role == "assistant"]
    assert first[:2] == [Author.AGENT, Author.TEACHER]


def test_a_turn_that_is_too_long_by_itself_is_left_out_and_counted(tokenizer):
    messages = (SYSTEM, TASK, acts(0), result(0), acts(1), result(1, size=900), acts(2), result(2))
    fitted = fit(tokenizer, messages, max_length=500)
    assert fitted.left_out == 1
    assert said(fitted) == [m for m in messages if m is not messages[5]]


def test_a_question_that_fills_the_window_is_not_repeated(tokenizer):
    task = Message(role="user", content="Mend the build. " * 40, author=Author.USER)
    fitted = fit(tokenizer, (SYSTEM, task, *TRAJECTORY[2:]), max_length=700)
    assert said(fitted) == [SYSTEM, task, *TRAJECTORY[2:]]
    assert [[m.role for m in episode.messages[:2]] for episode, _ in fitted.rows[1:]] == [
        ["system", "assistant"]
    ] * (len(fitted.rows) - 1)


def test_whole_exchanges_stay_whole_where_they_fit(tokenizer):
    exchange = (TASK, acts(0), result(0), acts(1), result(1))
    fitted = fit(tokenizer, (SYSTEM, *exchange * 4), max_length=600)
    for episode, _ in fitted.rows:
        assert [m.role for m in episode.messages[1:]] == [m.role for m in exchange] * (
            (len(episode.messages) - 1) // 5
        )


@pytest.mark.parametrize(
    ("overflow", "said"),
    [
        ("drop", r"^log: all 2 rows are longer than --max_length 20 \(the longest has .*none is left"),
        ("split", r"^log: all 2 rows are longer than --max_length 20 .*never parts a correction"),
        ("refuse", r"^log:1: 2 of 2 rows are longer"),
    ],
)
def test_where_nothing_is_left_it_says_why(tokenizer, overflow, said):
    with pytest.raises(BadInput, match=said):
        fit(tokenizer, TRAJECTORY, TRAJECTORY, max_length=20, overflow=overflow)
