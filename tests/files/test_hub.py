"""One resolver: a folder where there is one, the hub for what can be nothing else."""

from pathlib import Path

import huggingface_hub
import pytest

from cicjax.errors import BadInput
from cicjax.files import hub

FILES = ("config.json", "model*.safetensors")


@pytest.fixture
def asked(monkeypatch, tmp_path) -> list[tuple[str, list[str]]]:
    """What the hub is asked for, in a folder of its own; it knows owner/model alone."""
    calls: list[tuple[str, list[str]]] = []

    def download(name: str, *, allow_patterns: list[str]) -> str:
        calls.append((name, allow_patterns))
        if name != "owner/model":
            raise ConnectionError("several\nlines")
        return str(tmp_path / "cache")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    monkeypatch.chdir(tmp_path)
    return calls


def resolve(name: str | Path) -> Path:
    return hub.resolve(name, FILES, wanted="config.json")


def test_a_hub_id_is_asked_for_the_files_and_nothing_else(asked, tmp_path):
    assert resolve("owner/model") == tmp_path / "cache"
    assert asked == [("owner/model", list(FILES))]


def test_what_is_here_is_never_asked_for(asked, tmp_path, monkeypatch):
    (tmp_path / "owner" / "model").mkdir(parents=True)
    (tmp_path / "owner" / "model" / "config.json").write_text("{}")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve("owner/model") == Path("owner/model")
    assert resolve("owner/model/config.json") == Path("owner/model")
    assert resolve("~/owner") == tmp_path / "owner"
    with pytest.raises(BadInput, match="owner/modell: no such folder; give a folder with config"):
        resolve("owner/modell")
    assert not asked


@pytest.mark.parametrize("name", ["", "model", "/a/b", "../a", "a/b/c", "a b/c", "a\0b", Path("owner/model")])
def test_what_is_no_hub_id_is_never_asked_for(asked, name):
    with pytest.raises(BadInput, match=r"no such folder; give a folder with config\.json, or a hub id"):
        resolve(name)
    assert not asked


def test_a_failure_of_the_hub_is_one_line(asked):
    with pytest.raises(
        BadInput, match=r"not to be had as a hub id \(ConnectionError\); pass a folder"
    ) as caught:
        resolve("owner/other")
    assert "\n" not in str(caught.value)
