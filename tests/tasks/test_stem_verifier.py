"""The verifier: literal cases of equation (6), and totality on whatever a model may write."""

import math
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cicjax.tasks import stem
from cicjax.tasks.stem import units


def problem(
    answer: float, unit: str | None, *, rel_tol: float = 0.02, abs_tol: float = 0.001
) -> stem.Problem:
    return stem.Problem("q", "y", answer, unit, rel_tol, abs_tol, "physics", "ohm_voltage")


@pytest.mark.parametrize(
    ("answer", "unit", "completion"),
    [
        # both attempts that the paper prints as correct; the first is off by exactly 2 %
        (12.5 / 98.0, "M", "n = 12.5/98.0 = 0.125 mol; M = n/V = 0.125 M. Final answer: 0.125 M."),
        (4.0, None, "pH = -log10([H+]) = -log10(1.0e-04) = 4.000. Final answer: 4.000."),
        # scientific notation, separators, signs
        (1500, "J", "Final answer: 1.5e3 J"),
        (1500, "J", "Final answer: 1.5E+03 J"),
        (1500, "J", "Final answer: 1.5 x 10^3 J"),
        (1500, "J", "Final answer: 1.5 \u00d7 10^3 J"),
        (1500, "J", "Final answer: 1.5 \u00d7 10\u00b3 J"),
        (1500, "J", "Final answer: 1.5*10^3 J."),
        (1500, "J", "Final answer: 1.5*10**3 J."),
        (1500, "J", "Final answer: $1.5 \\times 10^{3}$ J"),
        (1500, "J", "Final answer: 1,500 J"),
        (1234.5, "J", "Final answer: 1,234.5 J"),
        (1234567.0, "J", "Final answer: 1,234,567 J"),
        (1e-4, "M", "[H+] = 10^-4 M"),
        (1e-4, "M", "[H+] = 10\u207b\u2074 M"),
        (1.5e-4, "M", "Final answer: 1.5 x 10^\u22124 M"),
        (1.5e-4, "M", "Final answer: 1.5e\u22124 M"),
        (1500, "J", "Final answer: 1.5X10 ^ 3 J"),
        (0.5, "M", "Final answer: .5 M"),
        (-3.49, None, "Final answer: -3.49"),
        (-3.49, None, "Final answer: \u22123.49"),
        (-3.49, None, "pH = - 3.49"),
        (3.49, None, "Final answer: +3.49"),
        # which number
        (3.49, None, "pH = 4 - log10(3.2) = 4 - 0.51 = 3.49"),
        (3.49, None, "Final answer: pH = 3.49."),
        (3.49, None, "final answer is 3.49"),
        (3.0, "V", "**Final Answer:** **3.0** V"),
        (3.0, "V", "Final answer:\n\n3.0 V\nas 9 W is not asked"),
        (3.0, "V", "The voltage is \\boxed{3.0 \\, \\text{V}}."),
        (3.0, "V", "Final answer: 5 V. No. Final answer: 3 V."),
        (3.0, "V", "Final answer: 3 V. So the Final answer: as said."),
        (3.0, "V", "Final answer: 3 V (not 5 V)"),
        (0.128, "M", "Final answer: 12.5/98.0 = 0.128 M"),
        (0.128, "M", "It is 0.128 M (rounded to 3 decimal places)."),
        (3.0, "V", "1. Multiply.\n2. The voltage is 3 V.\n3. Done."),
        (3.0, "V", "1. Multiply.\n2. The voltage is 3 V.\n4. Done."),
        (3.0, "V", "The voltage is 3 V.\n12. Done."),
        (150.0, "V", "150. That is the voltage."),
        (15.0, "J", "Final answer: 5 \\times 3 = 15 J"),
        (3.0, "V", "Final answer: 3 V. Final answer: V\n5 A"),
        (-3.0, None, "-3"),
        (3.0, "V", "The voltage is 3 V, by Step 2"),
        # letters that are neither signs nor powers nor operators
        (1.5, "J", "Final answer: 1.5eX3"),
        (10.0, "V", "Final answer: 10X"),
        (3.0, "V", "Final answer: 3 Xs"),
        (0.5, "m", "Final answer: 0.5 m (2 digits)"),
        (
            3.0,
            "V",
            "Final answer: 3.0 V\n\nQuestion:\nA current of 7 A ...\n\nProposed solution:\nFinal answer: 7 V",
        ),
        (4.0, None, "4."),
        (3.0, "V", "FINAL ANSWER - 3 V"),
        # units
        (3.0, "V", "Final answer: 3.0"),
        (3.0, "V", "Final answer: 3.0V"),
        (3.0, "V", "Final answer: 3.0 Volts."),
        (3.0, "V", "Final answer: 3.0 bananas"),
        (3.0, "V", "Final answer: 3.0\nA and so on"),
        (3.0, "V", "Final answer: 3.0 V A resistor"),
        (4.0, None, "Final answer: 4.0 M"),
        (2.0, "A", "Final answer: 2.0 amps"),
        (2.0, "A", "Final answer: 2 amperes"),
        (2.0, "W", "Final answer: 2 J/s"),
        (2.0, "M", "Final answer: 2 mol/L"),
        (2.0, "M", "Final answer: 2 mol\u00b7L\u207b\u00b9"),
        (2.0, "M", "Final answer: 2 mol/dm^3"),
        (2.0, "M", "Final answer: 2 moles per liter"),
        (2.7, "g/cm^3", "Final answer: 2.7 g/cm^3."),
        (2.7, "g/cm^3", "Final answer: 2.7 g/cm3."),
        (2.7, "g/cm^3", "Final answer: 2.7 g/cm\u00b3"),
        (2.7, "g/cm^3", "Final answer: 2.7 g/mL"),
        (2.7, "g/cm^3", "Final answer: 2.7 grams per cubic centimeter"),
        (2.0, "J", "Final answer: 2 N m"),
        (2.0, "J", "Final answer: 2 kg m^2/s^2"),
        (2.0, "MPa", "Final answer: 2 N/mm^2"),
        (2.0, "MPa", "Final answer: 2 megapascals"),
        (0.25, "nm", "Final answer: 0.25 nanometers"),
    ],
)
def test_solved(answer, unit, completion):
    verdict = stem.verify(problem(answer, unit), completion)
    assert verdict.solved and verdict.reason == "solved", verdict


@pytest.mark.parametrize(
    ("answer", "unit", "completion", "reason"),
    [
        (1.0, "M", "n = 10.0/40.0 = 0.250 mol; M = n/V = 0.250 M. Final answer: 0.250 M.", "wrong value"),
        (3.0, "V", "Final answer: 3.0 A", "wrong unit"),
        (3.0, "V", "Final answer: 3.0 mV", "wrong unit"),
        (3.0, "J", "Final answer: 3.0 kJ", "wrong unit"),
        (3000.0, "J", "Final answer: 3.0 kJ", "wrong value"),
        (3.0, "J", "Final answer: 3.0 J/K", "wrong unit"),
        (3.0, "J", "Final answer: 3.0 J/(g K)", "wrong unit"),
        (3.0, "J", "Final answer: 3.0 J/widget", "wrong unit"),
        (0.5, "M", "Final answer: 0.5 mol", "wrong unit"),
        (0.5, "M", "Final answer: 0.5 m", "wrong unit"),
        (2.7, "g/cm^3", "Final answer: 2.7 kg/m^3", "wrong unit"),
        (0.25, "nm", "Final answer: 0.25 \u00c5", "wrong unit"),
        (3.0, "V", "Final answer: 3 V. No. Final answer: 5 V.", "wrong value"),
        (3.49, None, "Final answer: -3.49", "wrong value"),
        (3.0, "V", "Final answer: 3-4 V", "no number"),
        (10.0, "V", "Use log10 and H2 and x_3.", "no number"),
        (15.0, "V", "5*3", "no number"),
        (3.0, "V", "x - 3", "no number"),
        (3.0, "V", "x + 3", "no number"),
        (3.0, "V", "x * 3", "no number"),
        (3.0, "V", "Final answer: 3\u00b2", "no number"),
        (3.0, "V", "", "no number"),
        (3.0, "V", "nan", "no number"),
        (3.0, "V", "Final answer: inf", "no number"),
        (3.0, "V", "Final answer: 1e999 V", "not finite"),
        (3.0, "V", "Final answer: " + "9" * 5000, "not finite"),
        (3.0, "V", "Final answer: 3 x 10^" + "9" * 5000, "not finite"),
        (3.0, "V", "Final answer: \uff13", "no number"),
    ],
)
def test_not_solved(answer, unit, completion, reason):
    verdict = stem.verify(problem(answer, unit), completion)
    assert not verdict.solved and verdict.reason == reason, verdict


@pytest.mark.parametrize(
    ("rel_tol", "abs_tol", "inside", "outside"),
    [(0.02, 0.001, 51.0, 51.01), (0.0, 0.02, 50.02, 50.021), (0.01, 2.0, 48.0, 47.99)],
)
def test_the_larger_tolerance_counts_and_its_edge_belongs_to_it(rel_tol, abs_tol, inside, outside):
    at = problem(50.0, "V", rel_tol=rel_tol, abs_tol=abs_tol)
    assert stem.verify(at, f"Final answer: {inside} V").solved
    assert not stem.verify(at, f"Final answer: {outside} V").solved


def test_the_tolerance_of_a_negative_answer_is_positive():
    assert stem.verify(problem(-50.0, None), "Final answer: -50.5").solved
    assert not stem.verify(problem(-50.0, None), "Final answer: 50").solved


def test_the_unit_is_reported_as_stated():
    assert stem.verify(problem(3.0, "V"), "Final answer: 3 volts").facts == {"value": 3.0, "unit": "volts"}
    assert stem.verify(problem(3.0, "V"), "Final answer: 3 volts, I think").unit == "volts"
    assert stem.verify(problem(3.0, "V"), "Final answer: 3").unit is None


def test_an_answer_that_is_not_finite_is_never_solved():
    for answer in (math.inf, math.nan):
        assert not stem.verify(problem(answer, None), "Final answer: 1e999").solved
        assert not stem.verify(problem(answer, None), "Final answer: nan").solved
        assert not stem.verify(problem(answer, None), "Final answer: 3").solved


def test_the_marker_is_seen_in_the_completions_own_part_alone():
    assert stem.has_marker("so **Final Answer:** unknown")
    assert not stem.has_marker("3 V\nQuestion: x\nFinal answer: 3")


PIECES = st.sampled_from(
    [
        *r"- * ** ^ / x 10 e 3 1,234 0.5 . , ( ) } $ V mol/L g/cm^3 GWh ^9 pJ \times \text{".split(),
        *[
            "Final answer:",
            "final  answer is",
            "\nQuestion:",
            " ",
            "\n",
            " per ",
            "Step ",
            "square ",
            "9" * 400,
        ],
        *"\u2212\u00b3\u207b\u00c5\ud800",
    ]
)


@settings(max_examples=400, deadline=None)
@given(
    st.one_of(st.text(st.characters(exclude_categories=())), st.lists(PIECES).map("".join)),
    st.sampled_from(["V", "M", "g/cm^3", "MPa", None, "widget"]),
)
def test_total_on_every_string(completion, unit):
    verdict = stem.verify(problem(3.0, unit), completion)
    assert verdict.solved == (verdict.reason == "solved")
    assert verdict.value is None or math.isfinite(verdict.value)
    assert not verdict.solved or (verdict.value is not None and abs(verdict.value - 3.0) <= 0.06 * (1 + 1e-9))
    assert stem.has_marker(completion) in (True, False)


@settings(max_examples=200, deadline=None)
@given(
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from(["{!r}", "{:.17e}", "Final answer: {!r} V.", "V = {!r}", "it is {!r} V\n"]),
)
def test_a_printed_number_is_read_back(value, form):
    verdict = stem.verify(problem(value, "V", rel_tol=0.0, abs_tol=0.0), form.format(value))
    assert verdict.solved and verdict.value == value


@settings(max_examples=100, deadline=None)
@given(st.integers(-(10**12), 10**12))
def test_thousands_separators_are_read_back(value):
    assert stem.verify(problem(float(value), None), f"Final answer: {value:,}.").value == value


DENSE = [
    *"9 1,234 ,234 ( 1e 10^ * 1/ \u00b3 ^".split(),
    "final answer:",
    "final answer:\n",
    "final  ",
    " ",
    "\n",
    "- ",
    "x 10",
    "1 x ",
    "1 ",
    "Step 1 ",
    "\nQuestion",
]


@pytest.mark.parametrize("unit", DENSE)
def test_time_is_linear(unit):
    text = unit * (100_000 // len(unit))
    for completion in (text, "Final answer: " + text, text + " 3", "3 V" + text):
        start = time.perf_counter()
        stem.verify(problem(3.0, "V"), completion)
        assert time.perf_counter() - start < 10  # a tenth of that here; a quadratic scan needs an hour


def test_a_million_characters_and_lone_surrogates():
    assert stem.verify(
        problem(3.0, "V"), "\ud800" * 500_000 + " Final answer: 3 V " + "\udfff" * 500_000
    ).solved


def test_every_skills_unit_can_be_read():
    for skill in stem.SKILLS.values():
        if skill.unit:
            stated = units.read(skill.unit + ". Final answer")
            assert stated is not None and stated[0] == skill.unit and stated[1] is not None


@pytest.mark.parametrize(
    ("left", "right", "equal"),
    [
        ("V*A", "W", True),
        ("V/A", "\u03a9", True),
        ("kg/L", "g/cm^3", True),
        ("mmol/mL", "M", True),
        ("N/m^2", "Pa", True),
        ("C/s", "A", True),
        ("kWh", "J", False),
        ("cal", "J", False),
        ("mM", "M", False),
        ("MJ", "mJ", False),
        ("m", "M", False),
        ("mol", "M", False),
        ("nm", "N*m", False),
    ],
)
def test_units_are_equal_by_dimension_and_scale(left, right, equal):
    a, b = units.read(left), units.read(right)
    assert a and b and a[0] == left and a[1] and b[1]
    assert units.same(a[1], b[1]) is equal
