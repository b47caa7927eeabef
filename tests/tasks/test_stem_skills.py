"""The oracle's lines are true and solve their problems; the wrong authors' lines are true and do not."""

import collections
import itertools
import math
import os
import re
from decimal import Decimal
from pathlib import Path

import pytest

from cicjax.errors import BadInput
from cicjax.tasks import stem

BOTH = pytest.mark.parametrize("numbers", ["paper", "tiny"])
EVERY_SKILL = pytest.mark.parametrize("skill", list(stem.SKILLS))

# operands, question, solution: worked by hand, in the words and the rounding of the paper's examples
WORKED = {
    "ohm_voltage": (
        ("2.5", "48"),
        "A current of 2.5 A flows through a resistor of 48 ohm. What is the voltage?",
        "V = I*R = 2.5*48 = 120.0 V. Final answer: 120.0 V.",
    ),
    "ohm_current": (
        ("9.0", "4.0"),
        "A voltage of 9.0 V is applied to a resistor of 4.0 ohm. What is the current?",
        "I = V/R = 9.0/4.0 = 2.250 A. Final answer: 2.250 A.",
    ),
    "electric_power": (
        ("12", "1.5"),
        "A device draws a current of 1.5 A at a voltage of 12 V. What is the electric power?",
        "P = V*I = 12*1.5 = 18.00 W. Final answer: 18.00 W.",
    ),
    "density": (
        ("54.0", "20.0"),
        "A sample has a mass of 54.0 g and a volume of 20.0 cm^3. What is the density?",
        "rho = m/V = 54.0/20.0 = 2.700 g/cm^3. Final answer: 2.700 g/cm^3.",
    ),
    "specific_heat": (
        ("50.0", "0.39", "20.0"),
        "50.0 g of a substance (specific heat 0.39 J/(g K)) is heated by 20.0 K. What is the heat absorbed?",
        "m*c = 50.0*0.39 = 19.50; q = m*c*dT = 19.50*20.0 = 390.0 J. Final answer: 390.0 J.",
    ),
    "molarity": (
        ("12.5", "98.0", "1.0"),
        "12.5 g of solute (molar mass 98.0 g/mol) is dissolved to make 1.0 L of solution. "
        "What is the molarity?",
        "n = 12.5/98.0 = 0.128 mol; M = n/V = 0.128/1.0 = 0.128 M. Final answer: 0.128 M.",
    ),
    "ph": (
        ("2.00e-04",),
        "A strong acid solution has [H+] = 2.00e-04 M. What is the pH?",
        "pH = 4 - log10(2.00) = 4 - 0.301 = 3.699. Final answer: 3.699.",
    ),
    "kinetic_energy": (
        ("3.0", "4"),
        "A body of mass 3.0 kg moves at 4 m/s. What is the kinetic energy?",
        "v^2 = 4*4 = 16.00; E = 0.5*3.0*16.00 = 1.500*16.00 = 24.00 J. Final answer: 24.00 J.",
    ),
    "engineering_stress": (
        ("1500", "12.5"),
        "A force of 1500 N acts on a cross section of 12.5 mm^2. What is the engineering stress in MPa?",
        "sigma = F/A = 1500/12.5 = 120.0 MPa. Final answer: 120.0 MPa.",
    ),
    "bragg": (
        ("0.250", "30"),
        "X-rays show first-order Bragg diffraction at theta = 30 degrees from planes of spacing 0.250 nm. "
        "What is the wavelength?",
        "sin(30) = 0.500; lambda = 2*0.250*0.500 = 0.500*0.500 = 0.250 nm. Final answer: 0.250 nm.",
    ),
}

# the least share of operand tuples for which a wrong way misses the tolerance; rounding to one figure
# sometimes does no harm
FAILS = {
    "ohm_voltage": {"divides": 0.99},
    "ohm_current": {"multiplies": 0.99, "inverts": 0.99},
    "electric_power": {"divides": 0.99},
    "density": {"inverts": 0.99, "ignores_volume": 0.99},
    "specific_heat": {"ignores_temperature": 0.99, "rounds_intermediate": 0.6},
    "molarity": {"ignores_volume": 0.9, "rounds_intermediate": 0.7},
    "ph": {"drops_sign": 0.99, "ignores_mantissa": 0.95},
    "kinetic_energy": {"forgets_half": 0.99, "forgets_square": 0.99, "rounds_intermediate": 0.5},
    "engineering_stress": {"inverts": 0.99, "ignores_area": 0.99},
    "bragg": {"forgets_two": 0.99, "rounds_intermediate": 0.15},
}

PART = re.compile(r"(?P<expression>(?:[-0-9.*/]|log10\([0-9.]+\)|sin\([0-9.]+\)| - )+)(?: [A-Za-z/^0-9]+)?")
FUNCTIONS = {"log10": math.log10, "sin": lambda degrees: math.sin(math.radians(degrees))}


def broken_steps(line: str) -> tuple[int, list[str]]:
    """How many equalities of numbers a line states, and those that rounding does not excuse. Evaluates the
    text itself."""
    stated, broken = 0, []
    for clause in re.split(r"; |\. Final answer: ", line.removesuffix(".")):
        parts = [PART.fullmatch(part) for part in clause.split(" = ")]
        for left, right in itertools.pairwise(parts):
            if left and right:
                stated += 1
                shown = right["expression"]
                # results and function values are rounded to their last decimal; expressions are rewritten
                # exactly
                rounds = re.fullmatch(r"-?[0-9.]+", shown) or "(" in left["expression"]
                slack = 0.5 * 10.0 ** -len(shown.rpartition(" ")[2].partition(".")[2]) if rounds else 0.0
                if abs(eval(left["expression"], FUNCTIONS) - eval(shown, FUNCTIONS)) > slack + 1e-9:
                    broken.append(clause)
    return stated, broken


def sample(skill: str, numbers: str) -> tuple[tuple[str, ...], ...]:
    return stem.operand_tuples(skill, numbers)[::3]


def test_three_domains_and_ten_skills():
    domains = collections.Counter(skill.domain for skill in stem.SKILLS.values())
    assert (
        set(domains) == {"physics", "chemistry", "materials"}
        and min(domains.values()) >= 3
        and len(stem.SKILLS) == 10
    )


@EVERY_SKILL
def test_question_and_solution_as_worked_by_hand(skill):
    operands, question, solution = WORKED[skill]
    problem = stem.make_problem(skill, operands)
    assert (problem.question, problem.solution) == (question, solution)
    assert problem.operands == operands
    assert operands in stem.operand_tuples(skill)


@pytest.mark.parametrize(
    ("skill", "operands", "solution"),
    [
        ("kinetic_energy", ("8", "6"), "v^2 = 6*6 = 36; E = 0.5*8*36 = 4*36 = 144 J. Final answer: 144 J."),
        ("ph", ("3.2e-04",), "pH = 4 - log10(3.2) = 4 - 0.51 = 3.49. Final answer: 3.49."),
        (
            "bragg",
            ("0.15", "20"),
            "sin(20) = 0.34; lambda = 2*0.15*0.34 = 0.3*0.34 = 0.102 nm. Final answer: 0.102 nm.",
        ),
        (
            "molarity",
            ("48", "40", "0.5"),
            "n = 48/40 = 1.2 mol; M = n/V = 1.2/0.5 = 2.4 M. Final answer: 2.4 M.",
        ),
    ],
)
def test_tiny_solutions_as_worked_by_hand(skill, operands, solution):
    assert stem.SKILLS[skill].solve(operands, numbers="tiny").line == solution
    assert operands in stem.operand_tuples(skill, "tiny")


def test_a_wrong_author_writes_what_the_papers_failed_attempt_writes():
    work = stem.SKILLS["molarity"].solve(("10.0", "40.0", "0.25"), misconception="ignores_volume")
    assert work.line == "n = 10.0/40.0 = 0.250 mol; M = n/V = 0.250 M. Final answer: 0.250 M."


def test_answers_keep_full_precision():
    assert stem.make_problem("molarity", ("12.5", "98.0", "0.25")).answer == pytest.approx(
        12.5 / 98.0 / 0.25, rel=1e-15
    )
    assert stem.make_problem("bragg", ("0.250", "20")).answer == pytest.approx(
        0.5 * math.sin(math.pi / 9), rel=1e-15
    )
    assert stem.make_problem("ph", ("1.00e-04",)).answer == pytest.approx(4.0, abs=1e-15)


def test_every_phrasing_shows_every_operand_once():
    for skill, record in stem.SKILLS.items():
        operands = WORKED[skill][0]
        assert len(record.questions) >= 2
        for question in record.questions:
            assert sorted(re.findall(r"\{(\d)\}", question)) == [str(i) for i in range(len(operands))]


@EVERY_SKILL
@BOTH
def test_pools_are_large_and_no_two_tuples_are_equal_numbers(skill, numbers):
    tuples = stem.operand_tuples(skill, numbers)
    assert len(tuples) >= {"paper": 1500, "tiny": 400}[numbers]
    assert len({tuple(map(Decimal, operands)) for operands in tuples}) == len(tuples)


@EVERY_SKILL
@BOTH
def test_every_step_of_the_oracle_is_true(skill, numbers):
    for operands in sample(skill, numbers):
        work = stem.SKILLS[skill].solve(operands, numbers=numbers)
        stated, broken = broken_steps(work.line)
        assert stated >= 1 and not broken, work.line
        assert all(broken_steps(step) == (1, []) for step in work.steps), work.steps
        assert all(step.rpartition(" = ")[2] in work.line for step in work.steps)


def test_a_false_step_is_noticed():
    assert broken_steps("V = I*R = 2.5*48 = 121.0 V. Final answer: 121.0 V.")[1]
    assert broken_steps("pH = 4 - log10(2.00) = 4 - 0.311 = 3.689. Final answer: 3.689.")[1]
    assert broken_steps(
        "sin(30) = 0.501; lambda = 2*0.250*0.501 = 0.500*0.501 = 0.250 nm. Final answer: 0.250 nm."
    )[1]


@EVERY_SKILL
@BOTH
def test_wrong_authors_err_in_procedure_not_in_arithmetic(skill, numbers):
    for name in stem.SKILLS[skill].misconceptions:
        if name != "rounds_intermediate":
            for operands in sample(skill, numbers):
                work = stem.SKILLS[skill].solve(operands, numbers=numbers, misconception=name)
                assert not broken_steps(work.line)[1], work.line


@EVERY_SKILL
@BOTH
def test_misconceptions_fail_their_share(skill, numbers):
    tuples = sample(skill, numbers)
    assert set(FAILS[skill]) == set(stem.SKILLS[skill].misconceptions)
    assert FAILS[skill][stem.SKILLS[skill].misconceptions[0]] >= 0.9
    for name, least in FAILS[skill].items():
        failed = 0
        for operands in tuples:
            work = stem.SKILLS[skill].solve(operands, numbers=numbers, misconception=name)
            verdict = stem.verify(stem.make_problem(skill, operands, numbers=numbers), work.line)
            assert verdict.value == pytest.approx(work.answer)
            failed += not verdict.solved
        assert failed >= least * len(tuples), (name, failed / len(tuples))


@EVERY_SKILL
def test_tiny_numbers_have_three_digits_in_every_authors_line_and_are_not_rounded_in_the_oracles(skill):
    record = stem.SKILLS[skill]
    for operands in sample(skill, "tiny"):
        assert record.solve(operands, numbers="tiny").exact
        for name in (None, *record.misconceptions):
            line = record.solve(operands, numbers="tiny", misconception=name).line
            for number in re.findall(
                r"[0-9]*\.?[0-9]+", line.replace("log10", "").replace("^2", "").replace("^3", "")
            ):
                assert len(number.replace(".", "").lstrip("0")) <= 3 and float(number) < 1000, line


def test_inexact_steps_are_marked():
    assert not stem.SKILLS["ohm_current"].solve(("10", "3"), numbers="tiny").exact
    assert stem.SKILLS["ohm_current"].solve(("12", "3"), numbers="tiny").exact


def test_unknown_names_are_bad_input():
    with pytest.raises(BadInput, match="forgets_half"):
        stem.SKILLS["kinetic_energy"].solve(("8", "6"), misconception="forgets")
    with pytest.raises(BadInput, match="molarity"):
        stem.operand_tuples("alchemy")
    with pytest.raises(BadInput, match="tiny"):
        stem.operand_tuples("ph", "huge")


@pytest.mark.weights
@pytest.mark.skipif("CICJAX_QWEN" not in os.environ, reason="CICJAX_QWEN: a Qwen2.5 folder")
def test_solutions_have_about_as_many_tokens_as_the_papers():
    tokenizer = pytest.importorskip("tokenizers").Tokenizer.from_file(
        str(Path(os.environ["CICJAX_QWEN"]) / "tokenizer.json")
    )
    lengths = [
        len(tokenizer.encode(problem.solution, add_special_tokens=False).ids) + 1
        for problem in stem.make_splits(seed=1).agent
    ]
    assert 40 <= sum(lengths) / len(lengths) <= 48  # 17,924 / 400 = 44.8, the end-of-text included
    assert max(lengths) <= 96  # the sampling budget of an attempt


@pytest.mark.parametrize(
    ("skill", "operands", "wrong", "line"),
    [
        (
            "molarity",
            ("12.5", "98.0", "1.0"),
            None,
            "n = 12.5/98.0 = 0.128 mol; M = n/V = 0.128 M. Final answer: 0.128 M.",
        ),
        (
            "molarity",
            ("10.0", "40.0", "0.25"),
            "ignores_volume",
            "n = 10.0/40.0 = 0.250 mol; M = n/V = 0.250 M. Final answer: 0.250 M.",
        ),
        (
            "molarity",
            ("10.0", "40.0", "0.25"),
            None,
            "n = 10.0/40.0 = 0.250 mol; M = n/V = 1.000 M. Final answer: 1.000 M.",
        ),
        ("ph", ("1.0e-04",), None, "pH = -log10([H+]) = -log10(1.0e-04) = 4.000. Final answer: 4.000."),
    ],
)
def test_the_printed_variant_leaves_out_what_the_papers_lines_do(skill, operands, wrong, line):
    work = stem.SKILLS[skill].solve(operands, numbers="printed", misconception=wrong)
    assert work.line == line
    assert work.answer == stem.SKILLS[skill].solve(operands, numbers="paper", misconception=wrong).answer


def test_the_printed_variant_has_problems_enough_and_one_decimal_in_a_ph():
    splits = stem.make_splits(seed=0, test=500, numbers="printed")
    ph = [problem for problem in splits.test if problem.skill == "ph"]
    assert len(splits.test) == 500 and all(len(problem.operands[0]) == len("1.0e-04") for problem in ph)
    assert all(stem.verify(problem, problem.solution).solved for problem in splits.test)
