"""The programs of the paper and of `train`, compiled for an H100 by its own compiler, with attention by
blocks: cuDNN's asks for its card while it is traced. Skipped without the extra aot-cuda."""

import pytest
from aot import ON_REQUEST, assert_no_dearer, assert_programs_are_sound, by_name, check, committed


@pytest.fixture(scope="module")
def h100(tmp_path_factory):
    """An update and decoding; the whole record is written on request."""
    return check("h100", "tiny", tmp_path_factory.mktemp("h100"), "--only", "update GRPO", "decode")


def test_every_program_fits_the_card(h100):
    assert_programs_are_sound(h100)
    assert len(h100["programs"]) == 3
    assert by_name(h100).keys() <= by_name(committed("h100", "tiny")).keys()


def test_no_program_launches_a_tenth_more_kernels_than_recorded(h100):
    assert_no_dearer(h100, committed("h100", "tiny"), cost="kernels")


@pytest.mark.aot
@ON_REQUEST
def test_programs_of_a_half_billion_parameters(tmp_path):
    record = check("h100", "0.5b", tmp_path)
    assert_programs_are_sound(record)
    assert_no_dearer(record, committed("h100", "0.5b"), cost="kernels")
