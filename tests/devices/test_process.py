"""What a process sets for itself: a private folder of compiled programs, and memory in large pages."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from cicjax.devices import process


@pytest.fixture
def environment(monkeypatch, tmp_path):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.delenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "cicjax" / "compiled"


def test_programs_are_kept_in_a_folder_of_the_user_alone(environment):
    process.keep_compiled_programs()
    assert os.environ["JAX_COMPILATION_CACHE_DIR"] == str(environment)
    assert os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] == "0"
    assert stat.S_IMODE(environment.stat().st_mode) & 0o077 == 0


def test_a_folder_that_others_may_write_is_not_read(environment):
    environment.mkdir(parents=True)
    environment.chmod(0o777)
    process.keep_compiled_programs()
    assert "JAX_COMPILATION_CACHE_DIR" not in os.environ


def test_no_folder_no_cache_no_error(environment, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    process.keep_compiled_programs()
    assert "JAX_COMPILATION_CACHE_DIR" not in os.environ


def test_the_environments_own_folder_stands(environment, monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "elsewhere")
    process.keep_compiled_programs()
    assert os.environ["JAX_COMPILATION_CACHE_DIR"] == "elsewhere" and not environment.exists()


@pytest.mark.parametrize(
    ("present", "expected"),
    [
        (None, "glibc.malloc.hugetlb=1"),
        ("glibc.malloc.check=0", "glibc.malloc.check=0:glibc.malloc.hugetlb=1"),
        ("glibc.malloc.hugetlb=0", None),
    ],
)
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc")
def test_large_pages_are_asked_for_unless_the_environment_decides(monkeypatch, present, expected):
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    if present is not None:
        monkeypatch.setenv("GLIBC_TUNABLES", present)
    assert process.large_pages() == expected


PROGRAM = """
import os, resource, sys
before = os.getpid()
from cicjax.devices import process
process.prepare()
import numpy as np
for _ in range(3):
    np.ones(8_000_000)
start = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    np.ones(8_000_000)
faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - start
print(os.environ.get("GLIBC_TUNABLES"), sys.argv[1:], faults)
"""
PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc")
def test_the_process_starts_once_more_with_its_arguments_and_with_large_pages(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    plain = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"} | {
        "NUMPY_MADVISE_HUGEPAGE": "0"
    }

    def run(**environment):
        command = [sys.executable, str(program), "--flag", "a b"]
        return subprocess.run(
            command, capture_output=True, text=True, check=True, env=plain | environment
        ).stdout.split("\n")[0]

    ours, theirs = run(), run(GLIBC_TUNABLES="glibc.malloc.hugetlb=0")
    assert ours.startswith("glibc.malloc.hugetlb=1 ['--flag', 'a b'] ")
    assert theirs.startswith("glibc.malloc.hugetlb=0 ['--flag', 'a b'] ")
    if PAGES.exists() and "[madvise]" in PAGES.read_text():
        assert int(ours.split()[-1]) < 0.2 * int(theirs.split()[-1])
