"""What a process sets for itself: a private folder of compiled programs, and memory that is reused instead of returned."""

import os
import stat
import subprocess
import sys

import pytest

from cicjax.runs import process


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


FAULTS = """
import resource, sys
import numpy as np
from cicjax.runs import process
if sys.argv[1] == "kept":
    process.keep_freed_memory()
for _ in range(3):
    np.ones(8_000_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    np.ones(8_000_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc")
def test_freed_memory_is_reused_without_fresh_pages():
    # Without huge pages, or they would hide the difference.
    environment = os.environ | {"NUMPY_MADVISE_HUGEPAGE": "0"}
    faults = {
        how: int(subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True, env=environment).stdout)
        for how in ("kept", "returned")
    }
    assert faults["returned"] > 10_000 and faults["kept"] < 1_000
