"""What every test runs under: a CPU unless told otherwise, no silent broadcasting between ranks, programs
compiled once a session."""

import atexit
import gc
import os
import shutil
import tempfile
from pathlib import Path

# Read by jax when it is first imported, so that tests of rooms without jax stay free of it.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"
# One process need not compile again what another has: neither the workers of `pytest -n`, which are started
# after this and inherit the folder, nor the runs that tests start, kill and resume. Who made it removes it.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="cicjax-tests-")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"
    # Only a cache of limited size is locked, and without a lock one process may read what another half wrote.
    os.environ["JAX_COMPILATION_CACHE_MAX_SIZE"] = str(8 << 30)
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)

import pytest

# Every compiled program takes some sixty mappings of memory, and Linux gives a process 65,530.
MAPPINGS = 35_000


@pytest.fixture(scope="module", autouse=True)
def few_mappings():
    """Let compiled programs go after a file that leaves many behind; the next read them from the cache."""
    yield
    try:
        with open("/proc/self/maps", "rb") as lines:
            count = sum(1 for _ in lines)
    except OSError:
        return
    if count > MAPPINGS:
        import jax

        jax.clear_caches()
        gc.collect()


@pytest.fixture(scope="session")
def qwen_folder() -> Path:
    """Folder of the real Qwen2.5 0.5B weights and tokenizer, named by CICJAX_QWEN; the test is skipped where
    it is not set."""
    folder = os.environ.get("CICJAX_QWEN")
    if not folder:
        pytest.skip("CICJAX_QWEN names no folder with real weights")
    return Path(folder)
