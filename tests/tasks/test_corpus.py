"""The corpus of the embedded base: authors who keep their ways, nobody corrected, true arithmetic, and what
is left out."""

import hashlib
import os
import subprocess
import sys
from collections import Counter
from decimal import ROUND_HALF_UP, Decimal
from functools import cache
from itertools import islice, pairwise

import numpy as np
import pytest

from cicjax.provenance.render import PROMPT
from cicjax.tasks.stem import SKILLS, make_problem, operand_tuples
from cicjax.tasks.stem.authors import CAREFUL, CAREFUL_SHARE, CAREFUL_SHARES, HABITS, draw_author
from cicjax.tasks.stem.corpus import SHARES, documents, left_out, operands_of

DOCUMENTS = list(islice(documents(0, 1), 4000))
WORKED = [document.text for document in DOCUMENTS if document.kind == "worked"]
BEFORE, AFTER = PROMPT.split("{question}")
END = "<|endoftext|>"


def rows_of(text: str) -> list[list[str]]:
    """[question, solution] of each problem of a worked document, by the protocol's own constants."""
    *parts, rest = text.split(END)
    assert rest == "" and all(part.startswith(BEFORE) and part.count(AFTER) == 1 for part in parts)
    return [part.removeprefix(BEFORE).split(AFTER) for part in parts]


@cache
def known_questions() -> dict[str, tuple[str, tuple[str, ...]]]:
    """Every question that there is -> its skill and operands."""
    return {
        make_problem(skill, operands, numbers="tiny", phrasing=phrasing).question: (skill, operands)
        for skill, record in SKILLS.items()
        for operands in operand_tuples(skill, "tiny")
        for phrasing in range(len(record.questions))
    }


def ways_in(question: str, solution: str) -> tuple[str, set[str | None]]:
    """The skill, and the ways of working it that give this very line; several where, say, a rounded value was
    round already."""
    skill, operands = known_questions()[question]
    lines = {
        way: SKILLS[skill].solve(operands, numbers="tiny", misconception=way).line
        for way in (None, *SKILLS[skill].misconceptions)
    }
    return skill, {way for way, line in lines.items() if line == solution}


def test_documents_are_a_function_of_seed_and_part():
    first = [document.text for document in DOCUMENTS[:50]]
    assert [document.text for document in islice(documents(0, 1), 50)] == first
    assert [document.text for document in islice(documents(0, 2), 50)] != first
    assert [document.text for document in islice(documents(1, 1), 50)] != first


def test_the_hash_seed_does_not_matter():
    drawn = (
        "hashlib.sha256(''.join(document.text for document in itertools.islice(documents(7, 3), "
        "200)).encode()).hexdigest()"
    )
    code = f"import hashlib, itertools; from cicjax.tasks.stem.corpus import documents; print({drawn})"
    here = hashlib.sha256(
        "".join(document.text for document in islice(documents(7, 3), 200)).encode()
    ).hexdigest()
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "PYTHONHASHSEED": "31337",
    }
    there = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert there.stdout.strip() == here


def test_nobody_is_corrected():
    lengths = Counter()
    for text in WORKED:
        questions = [question for question, _ in rows_of(text)]
        assert len({known_questions()[question] for question in questions}) == len(questions)
        lengths[len(questions)] += 1
    assert lengths.keys() == {2, 3, 4} and min(lengths.values()) > 0.25 * len(WORKED)


def test_a_document_has_one_author_who_keeps_his_ways():
    again = 0
    for text in WORKED:
        seen: dict[str, set[str | None]] = {}
        for question, solution in rows_of(text):
            skill, ways = ways_in(question, solution)
            again += skill in seen
            seen[skill] = seen.get(skill, ways) & ways
            assert seen[skill], text
        assert some_order_explains(seen), text
    assert again > 100


def some_order_explains(seen: dict[str, set[str | None]]) -> bool:
    """Whether habits of some order of strength, in each skill the strongest that applies or none where it is
    known, give these ways."""
    stronger = set()
    for skill, ways in seen.items():
        shown = [habit for habit, skills in HABITS.items() if skills.get(skill) in ways]
        if None not in ways and len(shown) == 1:
            stronger |= {
                (shown[0], habit) for habit, skills in HABITS.items() if skill in skills and habit != shown[0]
            }
    # With five habits a contradiction shows as a cycle; following the pairs as often as there are habits
    # finds it.
    for _ in HABITS:
        stronger |= {(a, d) for a, b in stronger for c, d in stronger if b == c}
    return not any(a == b for a, b in stronger)


def test_contradicting_ways_are_noticed():
    assert some_order_explains({"density": {"inverts"}, "ph": {"drops_sign"}})
    assert not some_order_explains({"density": {"inverts"}, "engineering_stress": {"ignores_area"}})


def test_what_an_author_did_tells_what_he_will_do():
    """Lone lines are a mixture; after a wrong line hardly anybody is right, after a right one most are."""
    after = {True: [], False: []}
    firsts = []
    for text in WORKED:
        right = [None in ways_in(question, solution)[1] for question, solution in rows_of(text)]
        firsts.append(right[0])
        for before, here in pairwise(right):
            after[before].append(here)
    assert 0.35 < np.mean(firsts) < 0.55
    assert np.mean(after[False]) < 0.2 and np.mean(after[True]) > 0.75


def test_skills_are_equally_frequent_and_differ_in_how_many_are_careful():
    skills, right = Counter(), Counter()
    for text in WORKED:
        for question, solution in rows_of(text):
            skill, ways = ways_in(question, solution)
            skills[skill] += 1
            right[skill] += None in ways
    for skill in SKILLS:
        assert skills[skill] / skills.total() == pytest.approx(0.1, abs=0.025)
        # some careless authors know the skill, and some rounded values were round
        assert -0.1 < right[skill] / skills[skill] - CAREFUL_SHARES[skill] < 0.25
    assert np.mean(list(CAREFUL_SHARES.values())) == pytest.approx(CAREFUL_SHARE, abs=1e-9)


def test_most_authors_have_misconceptions():
    rng = np.random.default_rng(0)
    authors = [draw_author(rng) for _ in range(2000)]
    assert sum(ways is CAREFUL for ways in authors) / 2000 == pytest.approx(CAREFUL_SHARE, abs=0.04)
    careless = [ways for ways in authors if ways is not CAREFUL]
    assert all(ways.keys() == SKILLS.keys() and set(ways.values()) != {None} for ways in careless)
    for skill, record in SKILLS.items():
        assert {ways[skill] for ways in careless} == {None, *record.misconceptions}


def test_every_misconception_is_a_habit():
    for skill, record in SKILLS.items():
        assert sorted(record.misconceptions) == sorted(
            skills[skill] for skills in HABITS.values() if skill in skills
        )


def steps_in(kind: str) -> list[str]:
    texts = [document.text.removesuffix(END) for document in DOCUMENTS if document.kind == kind]
    return [step for text in texts for line in text.split("\n") for step in line.split("; ")]


def test_a_tenth_of_the_operands_stands_in_no_question_and_no_arithmetic():
    operands = [operands_of(step) for step in steps_in("arithmetic")]
    assert len(operands) > 3000 and not any(left_out(each) for each in operands)
    asked = [known_questions()[question][1] for text in WORKED for question, _ in rows_of(text)]
    assert len(asked) > 3000 and not any(left_out(each) for each in asked)
    every = [operands for skill in SKILLS for operands in operand_tuples(skill, "tiny")]
    assert np.mean([left_out(operands) for operands in every]) == pytest.approx(0.1, abs=0.01)


def test_operands_of_a_step():
    steps = {
        "15*4 = 60": ("15", "4"),
        "6/126 = 0.0476": ("6", "126"),
        "log10(2.8) = 0.45": ("2.8",),
        "5 - 0.45 = 4.55": ("5", "0.45"),
    }
    assert {step: operands_of(step) for step in steps} == steps
    assert operands_of("sin(30) = 0.50") == ("30",)


def test_arithmetic_is_true_and_frequencies_fall_off():
    counts = Counter(steps_in("arithmetic"))
    for step in counts:
        left, right = step.split(" = ")
        if "*" in left or "/" in left:
            (a, b), shown = map(Decimal, operands_of(step)), Decimal(right)
            value = a * b if "*" in left else a / b
            assert shown == value.quantize(Decimal(1).scaleb(value.adjusted() - 2), ROUND_HALF_UP), step
    products = sorted((count for step, count in counts.items() if "/" in step), reverse=True)
    assert products[0] > 5 * products[len(products) // 2]


def test_every_kind_has_its_shape():
    assert {document.kind for document in DOCUMENTS} == set(SHARES)
    for document in DOCUMENTS:
        assert document.text.endswith(END)
        if document.kind == "chat":
            turns = document.text.removesuffix(END).split("<|im_start|>")
            assert turns[0] == "" and all(turn.endswith("<|im_end|>\n") for turn in turns[1:])
            roles = [turn.split("\n")[0] for turn in turns[1:]]
            assert roles[-2:] == ["user", "assistant"] and set(roles) <= {"system", "user", "assistant"}
        else:
            assert "<|im_" not in document.text
        if document.kind != "worked":
            assert "Proposed solution:" not in document.text and document.text.count(END) == 1
