"""The boxes of section 2.2, records and labels."""

import numpy as np
import pytest

from cicjax.provenance import Author, Message, Segment, Transcript, encode, render, weights
from cicjax.views import boxes, demo


def _demo(tokenizer, n: int):
    return encode(render.plain(demo.EPISODES[n].messages), tokenizer)


def _boxes(encoded, tokenizer, weighting) -> list[str]:
    return boxes.boxes(encoded, tokenizer, weighting(encoded.gamma, encoded.is_target), width=300).split("\n")


QUESTION = (
    "10.0 g of solute (molar mass 40.0 g/mol) is dissolved to make 0.25 L of solution. What is the molarity?"
)
WRONG = "n = 10.0/40.0 = 0.250 mol; M = n/V = 0.250 M. Final answer: 0.250 M."
RIGHT = "n = 10.0/40.0 = 0.250 mol; M = n/V = 1.000 M. Final answer: 1.000 M."


def test_the_papers_box_of_a_wrong_attempt(tokenizer):
    encoded = _demo(tokenizer, 1)
    start = ["[MASK] Question:", f"[MASK] {QUESTION}", "[MASK] Proposed solution:"]
    prefix, right = "[MASK] Proposed solution:", [f"[LOSS] {RIGHT}", "[LOSS] <eos>"]
    assert _boxes(encoded, tokenizer, weights.interventional) == [
        *start,
        f"[MASK] {WRONG}",
        "[MASK] <eos>",
        prefix,
        *right,
    ]
    assert _boxes(encoded, tokenizer, weights.observational) == [
        *start,
        f"[LOSS] {WRONG}",
        "[LOSS] <eos>",
        prefix,
        *right,
    ]


def test_the_papers_box_of_a_correct_attempt(tokenizer):
    encoded = _demo(tokenizer, 0)
    labels = {
        w: [line[:6] for line in _boxes(encoded, tokenizer, w)]
        for w in (weights.interventional, weights.observational)
    }
    assert labels[weights.interventional] == ["[MASK]"] * 5
    assert labels[weights.observational] == ["[MASK]"] * 3 + ["[LOSS]"] * 2


def test_long_lines_go_on_indented(tokenizer):
    transcript = Transcript([Segment("word " * 30, Author.TEACHER)])
    box = boxes.boxes(transcript, tokenizer, np.ones(150, np.float32), width=40).split("\n")
    assert box[0].startswith("[LOSS] word")
    assert all(line.startswith("       word") for line in box[1:])
    assert max(map(len, box)) <= 40
    assert " ".join(box).split()[1:] == ["word"] * 30


def test_a_broken_weight_is_shown_in_figures(tokenizer):
    transcript = Transcript([Segment("ab", Author.AGENT), Segment.end(Author.AGENT)])
    assert (
        boxes.boxes(transcript, tokenizer, np.array([0.3, 0.3, 1.0], np.float32)) == "[0.30] ab\n[LOSS] <eos>"
    )


def test_text_cannot_pretend_to_be_a_control_token_or_move_the_cursor(tokenizer):
    forged = "<eos>\n<|im_end|>\n[LOSS] \x1b[2J\u202eevil\r\x00"
    box = boxes.boxes(
        Transcript([Segment(forged, Author.USER)]),
        tokenizer,
        np.zeros(len(tokenizer.encode(forged)), np.float32),
    )
    assert box == "[MASK] \\<eos>\n[MASK] \\<|im_end|>\n[MASK] [LOSS] \\x1b[2J\\u202eevil\\r\\x00"


def test_lines_end_where_author_or_weight_change(tokenizer):
    # Ids need no newline between them; the view still keeps the two apart.
    a, b = tokenizer.encode("a"), tokenizer.encode("b")
    transcript = Transcript(
        [Segment(a, Author.AGENT), Segment(b, Author.TEACHER), Segment(b, Author.TEACHER)]
    )
    shown = boxes.lines(transcript, tokenizer, np.array([0, 0, 1], np.float32))
    assert [(line.label, line.text, line.author) for line in shown] == [
        ("[MASK]", "a", Author.AGENT),
        ("[MASK]", "b", Author.TEACHER),
        ("[LOSS]", "b", Author.TEACHER),
    ]


@pytest.mark.parametrize("n", [0, 1])
def test_records_have_exactly_the_promised_keys_all_of_one_length(tokenizer, n):
    encoded = _demo(tokenizer, n)
    record = boxes.record("x", encoded, tokenizer, weights.interventional(encoded.gamma, encoded.is_target))
    assert list(record) == ["id", "tokens", "text", "gamma", "is_target", "weight", "author"]
    assert {len(value) for key, value in record.items() if key != "id"} == {len(encoded.tokens)}
    assert "".join(record["text"]) == tokenizer.decode(encoded.tokens)
    assert set(record["author"]) <= {"user", "agent", "environment", "teacher"}
    assert record["weight"] == [
        float(t and not g) for g, t in zip(record["gamma"], record["is_target"], strict=True)
    ]


def test_labels_as_a_literal_row(tokenizer):
    messages = [
        Message(role="user", content="?", author=Author.USER),
        Message(role="assistant", content="4", author=Author.TEACHER),
    ]
    encoded = encode(render.plain(messages), tokenizer)
    row = boxes.labels(encoded, weights.interventional(encoded.gamma, encoded.is_target))
    assert list(row) == ["input_ids", "attention_mask", "labels"]
    four, end = tokenizer.encode("4")[0], tokenizer.end_of_text
    assert row["input_ids"] == encoded.tokens.tolist()
    assert row["labels"] == [-100] * (len(encoded.tokens) - 2) + [four, end]
    assert row["attention_mask"] == [1] * len(encoded.tokens)


def test_colours_name_the_authors_present(tokenizer, capsys):
    encoded = _demo(tokenizer, 0)
    boxes.print_coloured(
        "A title", encoded, tokenizer, weights.observational(encoded.gamma, encoded.is_target)
    )
    shown = capsys.readouterr().out
    assert "A title" in shown
    assert "agent" in shown
    assert "teacher" not in shown
    assert shown.count("[LOSS]") == 2
