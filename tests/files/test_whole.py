"""Whole or not at all, for the owner alone, and no changed byte unnoticed."""

import errno
import json
import os
import stat

import ml_dtypes
import numpy as np
import pytest

from cicjax.errors import BadInput, Corrupted, OutOfResources
from cicjax.files import seal, whole

ROWS = [{"id": 0, "text": "λ = 2d sin θ\u2028"}, {"id": 1, "text": "", "values": [1.5, None, True]}]


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def full_disk(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_files_and_folders_are_private_whatever_the_umask(tmp_path):
    before = os.umask(0)
    try:
        whole.write_json(tmp_path / "a" / "b" / "c.json", {})
    finally:
        os.umask(before)
    assert [mode(tmp_path / "a"), mode(tmp_path / "a" / "b"), mode(tmp_path / "a" / "b" / "c.json")] == [
        0o700,
        0o700,
        0o600,
    ]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "results.json"
    whole.write_json(path, {"solved": 63})
    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OutOfResources, match=r"results\.json: no space"):
        whole.write_json(path, {"solved": 85})
    assert whole.read_json(path) == {"solved": 63} and list(tmp_path.iterdir()) == [path]


def test_the_new_content_is_on_disk_before_it_takes_the_name(tmp_path, monkeypatch):
    order = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(
            os, name, lambda *args, real=real, name=name: (order.append(name), real(*args))[1]
        )
    whole.write_text(tmp_path / "a.txt", "x")
    assert order == ["fsync", "replace", "fsync"]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {"loss": -float("inf")}])
def test_json_refuses_what_is_no_json(tmp_path, value):
    with pytest.raises(ValueError, match="JSON"):
        whole.write_json(tmp_path / "a.json", value)
    assert not list(tmp_path.iterdir())


def test_json_takes_numpy_and_any_text(tmp_path):
    value = {"count": np.int64(3), "ids": np.arange(2), "half": "\ud800", "λ": 1.5}
    whole.write_json(tmp_path / "a.json", value)
    assert whole.read_json(tmp_path / "a.json") == {"count": 3, "ids": [0, 1], "half": "\ud800", "λ": 1.5}
    whole.write_json(tmp_path / "b.json", {"λ": 1})
    assert "λ" in (tmp_path / "b.json").read_text()


def test_damaged_json_names_the_file(tmp_path):
    (tmp_path / "a.json").write_text('{"solved": 6')
    with pytest.raises(Corrupted, match=r"a\.json: not the JSON"):
        whole.read_json(tmp_path / "a.json")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"id": 0}\n{"id": \n{"id": 2}\n', "line 2 is damaged"),
        (b'{"id": 0}\n{"id": 1}', "line 2 is cut short"),
        (b'{"id": 0}\n{"i', "line 2 is damaged"),
        (b'{"id": 0}\n\n', "line 2 is damaged"),
        (b'{"id": 0}\n[1]\n', "line 2 is no JSON object"),
        (b'{"id": "\xff"}\n', "line 1 is damaged"),
    ],
)
def test_damage_names_the_line(tmp_path, content, message):
    with pytest.raises(ValueError, match=message):
        whole.parse_json_lines(content)
    (tmp_path / "rows.jsonl").write_bytes(content)
    with pytest.raises(Corrupted, match=rf"rows\.jsonl: {message}"):
        seal.read_jsonl(tmp_path / "rows.jsonl")


def test_array_digest_tells_bits_dtype_and_shape_apart():
    base = np.arange(6, dtype=np.float32)
    flipped = base.copy()
    flipped.view(np.uint32)[3] ^= 1
    others = [
        flipped,
        base.reshape(2, 3),
        base.reshape(3, 2),
        base.astype(np.float64),
        base.view(np.int32),
        base[:5],
        -0.0 * base,
    ]
    digests = [whole.array_digest(array) for array in [base, *others]]
    assert len(set(digests)) == len(digests)


@pytest.mark.parametrize("dtype", [np.bool_, np.int32, np.float32, ml_dtypes.bfloat16])
def test_array_digest_is_of_the_values_not_of_their_layout(dtype):
    array = np.arange(12).reshape(3, 4).astype(dtype)
    assert (
        whole.array_digest(array)
        == whole.array_digest(np.asfortranarray(array))
        == whole.array_digest(array.copy()[:, :])
    )
    assert whole.array_digest(array.T) != whole.array_digest(array)
    assert len(whole.array_digest(array[0, 0])) == len(whole.array_digest(array[:0])) == 64


def test_rows_are_one_line_each(tmp_path):
    assert whole.json_lines(ROWS).count("\n") == 2
    assert [json.loads(line) for line in whole.json_lines(ROWS).split("\n")[:-1]] == ROWS


def test_lines_go_where_a_link_leads_with_the_modes_that_they_should_have(tmp_path):
    (tmp_path / "link.txt").symlink_to(tmp_path / "there.txt")
    before = os.umask(0o027)
    try:
        whole.write_lines(tmp_path / "link.txt", ["a page"], private=False)
        whole.write_lines(tmp_path / "mine.txt", ["a transcript"])
        whole.write_lines(tmp_path / "link.txt", iter(["é", "b"]))  # as it was made
    finally:
        os.umask(before)
    assert (tmp_path / "there.txt").read_bytes() == "é\nb\n".encode()
    assert mode(tmp_path / "there.txt") == 0o640 and (tmp_path / "link.txt").is_symlink()
    assert mode(tmp_path / "mine.txt") == 0o600


def test_a_file_system_without_permissions_is_no_failure(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "chmod", refuse)
    whole.write_lines(tmp_path / "out.txt", ["a"])
    whole.write_lines(tmp_path / "out.txt", ["b"])
    assert (tmp_path / "out.txt").read_text() == "b\n"


def test_lines_end_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "out.jsonl"
    whole.write_lines(path, ["old"])

    def lines():
        yield "new"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        whole.write_lines(path, lines())
    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OutOfResources, match=r"out\.jsonl: no space"):
        whole.write_lines(path, ["new"])
    assert path.read_text() == "old\n" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["absent/out.jsonl", "file/out.jsonl", "folder"])
def test_lines_that_have_no_place_are_refused_in_one_line(tmp_path, name):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    with pytest.raises(BadInput, match=rf"{name}: (cannot be written|is no ordinary file)"):
        whole.write_lines(tmp_path / name, ["x"])
