"""The models that agents of these tests are made on."""

import pytest
import tiny_qwen2


@pytest.fixture(scope="session")
def toy(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("toy")
    tiny_qwen2.write(folder, seed=3)
    return str(folder)


@pytest.fixture(scope="session")
def thin(tmp_path_factory) -> str:
    """Of one layer: what is asked of it is quick."""
    folder = tmp_path_factory.mktemp("thin")
    tiny_qwen2.write(folder, seed=3, num_hidden_layers=1)
    return str(folder)
