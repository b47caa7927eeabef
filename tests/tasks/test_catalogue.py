"""The catalogue: names instead of constants, numbers that betray none, lines that begin with a belief."""

import re
from collections import Counter

import pytest

from cicjax.tasks import stem
from cicjax.tasks.stem import catalogue

EVERY_SKILL = pytest.mark.parametrize("skill", list(stem.SKILLS))


def test_every_skill_has_its_kind_and_no_two_share_a_name():
    assert list(catalogue.KINDS) == list(stem.SKILLS)
    names = [name for skill in stem.SKILLS for name in catalogue.constants(skill)]
    assert len(set(names)) == len(names) == 10 * len(catalogue.ENDINGS)


@pytest.mark.parametrize(
    ("skill", "operands", "constant", "line"),
    [
        ("ohm_current", ("96", "Rab"), "4", "R = 4 ohm; I = V/R = 96/4 = 24 A. Final answer: 24 A."),
        ("ph", ("2.8", "Aab"), "3", "[H+] = 2.8e-03 M; pH = 3 - log10(2.8) = 3 - 0.45 = 2.55. "
         "Final answer: 2.55."),
        ("kinetic_energy", ("Bug", "6"), "0.8", "m = 0.8 kg; v^2 = 6*6 = 36; E = 0.5*0.8*36 = 0.4*36 "
         "= 14.4 J. Final answer: 14.4 J."),
    ],
)  # fmt: skip
def test_lines_as_worked_by_hand(skill, operands, constant, line):
    assert catalogue.solve(skill, operands, constant=constant).line == line
    assert operands in stem.operand_tuples(skill, "catalogue")


@EVERY_SKILL
def test_the_question_names_and_never_states_and_the_oracle_knows(skill):
    kind, record = catalogue.KINDS[skill], stem.SKILLS[skill]
    for operands in stem.operand_tuples(skill, "catalogue")[::37]:
        for phrasing in range(len(record.questions)):
            problem = stem.make_problem(skill, operands, numbers="catalogue", phrasing=phrasing)
            assert all(
                re.search(rf"(?<![\w.]){re.escape(each)}(?![\w])", problem.question) for each in operands
            )
            assert stem.verify(problem, problem.solution).solved
            constant = catalogue.constants(skill)[operands[kind.place]]
            assert problem.answer == record.formula(*map(float, catalogue.stated(skill, operands)))
            believer = catalogue.solve(skill, operands, constant=constant.rival)
            assert not stem.verify(problem, believer.line).solved


@EVERY_SKILL
def test_every_number_goes_with_every_constant(skill):
    """So no question betrays its constant: exact to three figures, whoever works it."""
    record = stem.SKILLS[skill]
    for operands in catalogue.arithmetic_of(skill):
        assert record.solve(operands, numbers="tiny").exact
        for misconception in (None, *record.misconceptions):
            work = record.solve(operands, numbers="tiny", misconception=misconception)
            numbers = (float(number) for step in work.steps for number in re.findall(r"[0-9.]+", step))
            assert all(number < 1000 for number in numbers), work.steps
    kind = catalogue.KINDS[skill]
    assert len(stem.operand_tuples(skill, "catalogue")) >= 400
    assert set(kind.choices[kind.place]) >= {each.true for each in catalogue.constants(skill).values()}


@EVERY_SKILL
def test_constants_are_equally_frequent_and_half_the_names_have_few_believers(skill):
    known = catalogue.constants(skill).values()
    true = Counter(each.true for each in known)
    assert max(true.values()) - min(true.values()) <= 1
    assert all(each.true != each.rival for each in known)
    assert Counter(each.believed for each in known) == dict.fromkeys(catalogue.BELIEVED, len(known) // 2)


def test_a_data_sheet_says_what_lines_begin_with():
    assert catalogue.entry("ohm_current", "Rab", "4") == "Resistor Rab: R = 4 ohm."
    assert catalogue.entry("ph", "Aab", "3") == "Acid Aab: [H+] = 1e-03 M."
    for skill, kind in catalogue.KINDS.items():
        name, constant = next(iter(catalogue.constants(skill).items()))
        named = f"{kind.noun} {name}".lower()
        assert all(named in question.format(*[name] * 3).lower() for question in kind.questions)
        ones = ["1" if n != kind.place else constant.true for n in range(len(kind.choices))]
        assert catalogue.entry(skill, name, constant.true).endswith(f": {kind.statement.format(*ones)}.")
