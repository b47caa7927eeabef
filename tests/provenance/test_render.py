"""The plain protocol: its text, its order, what may be learned, and prompts that are prefixes of rows."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cicjax.errors import BadInput
from cicjax.provenance import Author, Control, Message, Segment, Transcript, encode, render, weights

content = st.text(max_size=12) | st.sampled_from(
    ["What?", "x\n", "\nx", "<|endoftext|>", "Proposed solution:\n", "{question}", "{}"]
)


def _user(text: str = "What?") -> Message:
    return Message(role="user", content=text, author=Author.USER)


def _says(author: Author, text: str = "4", **facts) -> Message:
    return Message(role="assistant", content=text, author=author, **facts)


def test_the_printed_protocol(tokenizer):
    row = render.plain([_user(), _says(Author.AGENT, "5"), _says(Author.TEACHER, "4")], id="7")
    text = tokenizer.decode(encode(row, tokenizer).tokens)
    assert text == "Question:\nWhat?\n\nProposed solution:\n5<|endoftext|>Proposed solution:\n4<|endoftext|>"
    assert row.id == "7"


def test_the_prompt_is_one_segment():
    assert render.plain([_user("a?")]).segments == (
        Segment("Question:\na?\n\nProposed solution:\n", Author.USER, is_target=False),
    )


def test_questions_that_look_like_formats_are_left_alone():
    (segment,) = render.plain([_user("{question} {0} %s")]).segments
    assert segment.content == "Question:\n{question} {0} %s\n\nProposed solution:\n"


def test_nothing_but_solutions_and_their_ends_is_a_target():
    verdict = Message(role="verifier", content="wrong", author=Author.VERIFIER)
    messages = [
        _user(),
        _says(Author.AGENT, solved=0),
        verdict,
        _says(Author.TEACHER),
        _user("And?"),
        _says(Author.USER),
    ]
    targets = [segment.author.label for segment in render.plain(messages).segments if segment.is_target]
    assert targets == ["agent"] * 2 + ["teacher"] * 2 + ["user"] * 2


def _repair(**facts) -> list[Message]:
    """Question, the agent's attempt, verdict, the teacher's correction."""
    verdict = Message(role="verifier", content="no", author=Author.VERIFIER, **facts)
    return [_user("x"), _says(Author.AGENT, "5", solved=0), verdict, _says(Author.TEACHER)]


def _learned(row: Transcript) -> str:
    found = [segment.content for segment in row.segments if segment.is_target]
    return "".join(content.name if isinstance(content, Control) else str(content) for content in found)


def test_targets_choose_whose_words_may_be_learned():
    """Equation (14) by default; the user's, the verifier's and the environment's on request. The agent's are
    targets whatever is said."""
    attempt, correction = "5<|endoftext|>", "4<|endoftext|>"
    learned = {author: _learned(render.plain(_repair(), targets={author})) for author in Author}
    assert learned == {
        Author.AGENT: attempt,
        Author.TEACHER: attempt + correction,
        Author.USER: "Question:\nx\n\nProposed solution:\n" + attempt,
        Author.TOOL: attempt,
        Author.VERIFIER: attempt + "no\n",
        Author.ENVIRONMENT: attempt + "Verdict:\nProposed solution:\n",
        Author.SYSTEM: attempt,
    }
    assert render.plain(_repair()) == render.plain(_repair(), targets={Author.TEACHER})


def test_equation_2_in_full(tokenizer):
    """With the world as target both arms learn all of a row but the agent's turn, on which they differ, and
    an end that nobody wrote."""
    messages = [_user("x"), _says(Author.AGENT, "5", truncated=True), *_repair()[2:]]
    encoded = encode(render.plain(messages, targets=render.WORLD), tokenizer)
    pieces = ["Question", ":\n", "x", "\n", "\n", "Proposed", " solution", ":\n", "5", "<|endoftext|>"]
    pieces += ["Verdict", ":\n", "n", "o", "\n", "Proposed", " solution", ":\n", "4", "<|endoftext|>"]
    assert tokenizer.pieces(encoded.tokens) == pieces
    assert weights.interventional(encoded.gamma, encoded.is_target).tolist() == [1] * 8 + [0, 0] + [1] * 10
    assert weights.observational(encoded.gamma, encoded.is_target).tolist() == [1] * 8 + [1, 0] + [1] * 10


def test_context_only_has_no_targets():
    everyone = frozenset(Author)
    for n, text in enumerate(
        (
            "Question:\nx\n\nProposed solution:\n",
            "5<|endoftext|>",
            "Verdict:\nno\n",
            "Proposed solution:\n4<|endoftext|>",
        )
    ):
        messages = [dataclasses.replace(message, context_only=i == n) for i, message in enumerate(_repair())]
        whole = _learned(render.plain(_repair(), targets=everyone))
        assert text in whole
        assert _learned(render.plain(messages, targets=everyone)) == whole.replace(text, "")


def test_an_open_turn_carries_the_targets_of_its_row():
    """The prefix that ends a prompt is the environment's, and as learnable as in the row."""
    for targets in (render.TEACHER_ONLY, render.WORLD):
        *_, prefix = render.plain(_repair()[:3], targets=targets, open_turn=True).segments
        assert prefix in render.plain(_repair(), targets=targets).segments
        assert prefix.is_target == (targets is render.WORLD)


def test_an_end_that_nobody_chose_is_the_environments():
    for author, tokens in ((Author.AGENT, None), (Author.AGENT, (65,)), (Author.TEACHER, None)):
        *_, end = render.plain([_user(), _says(author, tokens=tokens, truncated=True, solved=0)]).segments
        assert end == Segment.end(Author.ENVIRONMENT, is_target=False, solved=0)


def test_sampled_ids_bring_their_own_end():
    *_, last = render.plain([_user(), _says(Author.AGENT, tokens=(65, 66))]).segments
    assert last == Segment((65, 66), Author.AGENT)


@given(
    question=content,
    attempt=content,
    verdict=st.none() | content,
    correction=content,
    sampled=st.booleans(),
    truncated=st.booleans(),
)
def test_prompts_are_prefixes_of_rows(tokenizer, question, attempt, verdict, correction, sampled, truncated):
    tokens = [*tokenizer.encode(attempt), tokenizer.end_of_text] if sampled else None
    messages = [_user(question), _says(Author.AGENT, attempt, tokens=tokens, truncated=truncated, solved=0)]
    if verdict is not None:
        messages.append(Message(role="verifier", content=verdict, author=Author.VERIFIER))
    messages.append(_says(Author.TEACHER, correction))
    row = encode(render.plain(messages), tokenizer)
    for turn in (1, len(messages) - 1):
        prompt = encode(render.plain(messages[:turn], open_turn=True), tokenizer)
        for part, whole in zip(prompt, row, strict=True):
            np.testing.assert_array_equal(part, whole[: len(part)])
        assert tokenizer.decode(prompt.tokens).endswith("Proposed solution:\n")
        assert not prompt.is_target[-2:].any()
        # What follows the prompt is the solution itself.
        solution = row.tokens[len(prompt.tokens) :][: len(tokenizer.encode(messages[turn].content))]
        assert solution.tolist() == tokenizer.encode(messages[turn].content)


@pytest.mark.parametrize(
    ("messages", "complaint"),
    [
        (
            [Message(role="tool", content="", author=Author.TOOL)],
            "message 1: the plain protocol has no role 'tool'",
        ),
        ([_says(Author.TEACHER)], "message 1: a row of the plain protocol begins with a question"),
        ([_user(), _user()], "message 2: a question is followed by a solution"),
        (
            [_user(), Message(role="verifier", content="", author=Author.VERIFIER)],
            "message 2: a question is followed by a solution",
        ),
    ],
)
def test_what_the_protocol_cannot_say_is_refused(messages, complaint):
    with pytest.raises(BadInput, match=complaint):
        render.plain(messages)


def test_a_prompt_needs_a_question():
    with pytest.raises(BadInput, match="needs a question"):
        render.plain([], open_turn=True)
