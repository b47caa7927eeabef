"""What every test runs under: a CPU unless told otherwise, and no silent broadcasting between ranks."""

import os
from pathlib import Path

# Read by jax when it is first imported, so that tests of rooms without jax stay free of it.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"

import pytest


@pytest.fixture(scope="session")
def qwen_folder() -> Path:
    """Folder of the real Qwen2.5 0.5B weights and tokenizer, named by CICJAX_QWEN; the test is skipped where it is not set."""
    folder = os.environ.get("CICJAX_QWEN")
    if not folder:
        pytest.skip("CICJAX_QWEN names no folder with real weights")
    return Path(folder)
