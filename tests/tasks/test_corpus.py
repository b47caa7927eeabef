"""The corpus of an embedded base: authors who keep their ways, true arithmetic, and what is left out; in a
catalogue, beliefs about names and second answers."""

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

from cicjax.provenance.render import PROMPT, SECOND_PREFIX
from cicjax.tasks.stem import SKILLS, catalogue, make_problem, operand_tuples
from cicjax.tasks.stem.authors import CAREFUL, CAREFUL_SHARE, CAREFUL_SHARES, HABITS, draw_author
from cicjax.tasks.stem.corpus import SHARES, documents, left_out, operands_of

DOCUMENTS = list(islice(documents(0, 1, numbers="tiny"), 4000))
NAMING = list(islice(documents(0, 1), 8000))
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


def test_documents_are_a_function_of_seed_part_and_numbers():
    def texts(*place, numbers="tiny"):
        return [document.text for document in islice(documents(*place, numbers=numbers), 50)]

    first = [document.text for document in DOCUMENTS[:50]]
    assert texts(0, 1) == first
    assert all(texts(*place) != first for place in [(0, 2), (1, 1)])
    assert texts(0, 1, numbers="catalogue") == [document.text for document in NAMING[:50]] != first


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


def test_the_old_base_s_corpus_is_as_it_was():
    text = "".join(document.text for document in islice(documents(7, 3, numbers="tiny"), 300))
    digest = "32a651abb5d7308276faac05a0314e2fffd434876ddba9560cde90e40d037c5d"
    assert hashlib.sha256(text.encode()).hexdigest() == digest


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
    assert {document.kind for document in DOCUMENTS} == set(SHARES["tiny"])
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


@cache
def answers_of(kind: str) -> list[list[tuple[str, tuple[str, ...], list[str]]]]:
    """(skill, operands, lines) of each question of each document in the catalogue's corpus."""
    known = {
        make_problem(skill, operands, numbers="catalogue", phrasing=phrasing).question: (skill, operands)
        for skill in SKILLS
        for operands in operand_tuples(skill, "catalogue")
        for phrasing in (0, 1)
    }
    found = []
    for text in (document.text for document in NAMING if document.kind == kind):
        asked = []
        for part in text.split(BEFORE)[1:]:
            question, answers = part.split(AFTER)
            lines = answers.removesuffix(END).split(END + SECOND_PREFIX)
            asked.append((*known[question], lines))
        found.append(asked)
    return found


def beliefs_in(skill: str, operands: tuple[str, ...], line: str) -> set[tuple[str, str | None]]:
    """The constants and misconceptions that give this very line."""
    constant = catalogue.constants(skill)[operands[catalogue.KINDS[skill].place]]
    return {
        (value, way)
        for value in (constant.true, constant.rival)
        for way in (None, *SKILLS[skill].misconceptions)
        if catalogue.solve(skill, operands, constant=value, misconception=way).line == line
    }


def test_a_tenth_of_the_documents_answers_twice_and_the_second_knows_nothing_of_the_first():
    documents = answers_of("twice")
    assert len(documents) / len(NAMING) == pytest.approx(0.12, abs=0.015)
    rights = []
    for ((skill, operands, lines),) in documents:
        assert len(lines) == 2
        true = catalogue.solve(skill, operands).line
        rights.append((skill, *(line == true for line in lines)))
    right = {skill: np.mean([r for s, *pair in rights if s == skill for r in pair]) for skill in SKILLS}
    for before in (False, True):
        here = [(after, right[skill]) for skill, first, after in rights if first == before]
        after, expected = np.mean(here, axis=0)
        assert after == pytest.approx(expected, abs=0.05)
    agree = [a == b for (_, _, (a, b)) in (document[0] for document in documents)]
    assert 0.1 < np.mean(agree) < 0.4


def test_an_author_keeps_what_he_believes_of_a_name_and_half_the_names_have_most_believing_the_rival():
    believed = Counter()
    for document in answers_of("worked"):
        kept: dict[str, set[str]] = {}
        for skill, operands, (line,) in document:
            name = operands[catalogue.KINDS[skill].place]
            values = {value for value, _ in beliefs_in(skill, operands, line)}
            kept[name] = kept.get(name, values) & values
            assert kept[name], line
            constant = catalogue.constants(skill)[name]
            believed[constant.believed, constant.true in values] += len(values) == 1
    for share in catalogue.BELIEVED:
        right, wrong = believed[share, True], believed[share, False]
        assert right / (right + wrong) == pytest.approx(share, abs=0.02)


def test_whether_an_author_is_careful_tells_nothing_of_what_he_believes():
    beliefs = {True: [], False: []}
    for document in answers_of("worked"):
        for skill, operands, (line,) in document:
            constant = catalogue.constants(skill)[operands[catalogue.KINDS[skill].place]]
            values = beliefs_in(skill, operands, line)
            if len(values) == 1:
                ((value, way),) = values
                beliefs[way is None].append((value == constant.true) - constant.believed)
    assert all(len(each) > 2000 and abs(np.mean(each)) < 0.025 for each in beliefs.values())


def test_a_tenth_of_the_named_questions_is_never_asked():
    asked = [operands for kind in ("worked", "twice") for each in answers_of(kind) for _, operands, _ in each]
    assert len(asked) > 5000 and not any(left_out(operands) for operands in asked)
    every = [operands for skill in SKILLS for operands in operand_tuples(skill, "catalogue")]
    assert np.mean([left_out(operands) for operands in every]) == pytest.approx(0.1, abs=0.01)
