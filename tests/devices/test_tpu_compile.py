"""The programs of the paper and of `train`, compiled for TPUs by their own compiler.

The embedded base's are compiled where the extra aot-tpu is; those of 0.5B on request (CICJAX_AOT=1), and
their record is read.
"""

import json

import pytest
from aot import (
    ON_REQUEST,
    RECORDS,
    assert_no_dearer,
    assert_programs_are_sound,
    by_name,
    check,
    committed,
)


@pytest.fixture(scope="module")
def v5e(tmp_path_factory):
    return check("v5e:2x2", "tiny", tmp_path_factory.mktemp("v5e"))


@pytest.fixture(scope="module")
def v6e(tmp_path_factory):
    return check("v6e:2x2", "tiny", tmp_path_factory.mktemp("v6e"), "--only", "update likelihood", "decode")


def test_every_program_fits_a_v5e_chip(v5e):
    assert_programs_are_sound(v5e)
    assert by_name(v5e).keys() == by_name(committed("v5e:2x2", "tiny")).keys()


def test_every_program_fits_a_v6e_chip(v6e):
    assert_programs_are_sound(v6e)


def test_chips_exchange_gradients_and_nothing_else(v5e):
    shared = {each["name"]: each["collectives"] for each in v5e["programs"] if each["chips"] > 1}
    assert shared["decode"] == {}
    # One sum over the chips at the end of an update, of as many operations as the compiler makes of it.
    assert shared["update likelihood"].keys() == {"all-reduce"}


def test_no_program_is_a_tenth_dearer_than_recorded(v5e):
    assert_no_dearer(v5e, committed("v5e:2x2", "tiny"), cost="estimated_cycles")


def test_no_program_is_a_tenth_dearer_than_recorded_on_a_v6e(v6e):
    assert_no_dearer(v6e, committed("v6e:2x2", "tiny"), cost="estimated_cycles")


def test_the_guard_sees_a_dearer_program(v5e):
    cheaper = {
        **v5e,
        "programs": [each | {"estimated_cycles": each["estimated_cycles"] / 1.2} for each in v5e["programs"]],
    }
    with pytest.raises(AssertionError):
        assert_no_dearer(v5e, cheaper, cost="estimated_cycles")


@pytest.mark.parametrize("file", sorted(RECORDS.glob("*-0.5b.json")), ids=lambda file: file.stem)
def test_the_record_of_a_half_billion_parameters(file):
    """Every program fits, and what a row of 32,768 tokens takes is linear in its length."""
    record = json.loads(file.read_text(encoding="utf-8"))
    assert_programs_are_sound(record)
    programs = by_name(record)
    if ("update likelihood", "1 x 8192") in programs:
        held = [programs["update likelihood", f"1 x {n}"]["temporary_bytes"] for n in (8192, 32_768)]
        assert held[1] < 4.4 * held[0]


@pytest.mark.aot
@ON_REQUEST
@pytest.mark.parametrize("target", ["v5e:2x2", "v5e:4x4", "v6e:2x2"])
def test_programs_of_a_half_billion_parameters(target, tmp_path):
    record = check(target, "0.5b", tmp_path)
    assert_programs_are_sound(record)
    assert_no_dearer(record, committed(target, "0.5b"), cost="estimated_cycles")
