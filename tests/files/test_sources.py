"""What files hold, record by record, however they are laid out; and what names stand for."""

import gzip
import hashlib
import io
import json
import zipfile
from pathlib import Path

import pytest

from cicjax.errors import BadInput
from cicjax.files import sources
from cicjax.files.sources import Source

TURN = {"role": "user", "content": "?"}


def _entries(path: Path, content: bytes) -> list[tuple[str, object]]:
    """The records with their places, a problem where there is one."""
    path.write_bytes(content)
    return [
        (entry.where.removeprefix(str(path)), entry.problem or entry.value) for entry in sources.entries(path)
    ]


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b'{"a": 1}', [(":1", {"a": 1})]),
        (b'\n\n{"a": 1}\n\n{"b": 2}', [(":3", {"a": 1}), (":5", {"b": 2})]),
        (b'\xef\xbb\xbf{"a": 1}\r\n{"b": 2}\r\n', [(":1", {"a": 1}), (":2", {"b": 2})]),
        (b'\n{\n"a":\n1}', [(":2", {"a": 1})]),
        (b'[{"a": 1}, {"b": 2}]', [("[1]", {"a": 1}), ("[2]", {"b": 2})]),
        (b'[\n{"a": 1}\n]', [("[1]", {"a": 1})]),
        (b'[\n{"a": 1},\n2\n]', [("[1]", {"a": 1}), ("[2]", "a record is a JSON object, not 2")]),
        (json.dumps([TURN, TURN]).encode(), [(":1", {"messages": [TURN, TURN]})]),
        (b"\n".join([json.dumps([TURN]).encode()] * 2), [(f":{n}", {"messages": [TURN]}) for n in (1, 2)]),
        (
            json.dumps([TURN, {"call_id": "1", "type": "x"}]).encode(),
            [(":1", {"input": [TURN, {"call_id": "1", "type": "x"}]})],
        ),
        (b"3\n", [(":1", "a record is a JSON object, not 3")]),
    ],
)
def test_layouts(tmp_path, content, found):
    assert _entries(tmp_path / "log", content) == found
    assert _entries(tmp_path / "log", gzip.compress(content)) == found


def test_a_broken_line_is_that_line_s_affair_wherever_it_stands(tmp_path):
    lines = [b'{"a": 1}', b'{"b": ', b'{"c": 3}']
    for order in ((0, 1, 2), (1, 0, 2), (0, 2, 1)):
        found = _entries(tmp_path / "log", b"\n".join(lines[n] for n in order))
        assert [where for where, _ in found] == [":1", ":2", ":3"]
        broken = [where for where, what in found if isinstance(what, str)]
        assert broken == [f":{order.index(1) + 1}"]
    (found,) = _entries(tmp_path / "log", b'{\n"a": 1,\n"b"\n}')
    assert found == (":4", "not JSON (Expecting ':' delimiter at column 1)")


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "holds no episode"),
        (b" \r\n", "holds no episode"),
        (b"[]", "holds no episode: the list is empty"),
        (b"PAR1....", "a Parquet table"),
        (b"SQLite format 3\x00", "a database"),
        (b"\x1f\x8bx", "a gzip file that is damaged"),
        (b"PK\x03\x04x", "an archive that is damaged"),
    ],
)
def test_files_that_hold_no_record(tmp_path, content, complaint):
    with pytest.raises(BadInput, match=complaint):
        _entries(tmp_path / "log", content)


def test_archives_hold_samples(tmp_path):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("header.json", "{}")
    with pytest.raises(BadInput, match="an archive without samples; unpack it and give the folder"):
        _entries(tmp_path / "log", packed.getvalue())
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("samples/b.json", '{"b": 2}')
        archive.writestr("samples/a.json", "{")
    (first, second) = _entries(tmp_path / "log", packed.getvalue())
    assert first[0] == "[samples/a.json]"
    assert str(first[1]).startswith("not JSON")
    assert second == ("[samples/b.json]", {"b": 2})


def test_names_stand_for_files_each_once(tmp_path, monkeypatch):
    for name in ("a.jsonl", "deep/b.json", "deep/c.txt", ".hidden/d.jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}")
    monkeypatch.chdir(tmp_path)
    assert sources.expand(["a.jsonl", "-"]) == [Source("a.jsonl", named=True), Source("-", named=True)]
    assert sources.expand(["."]) == [Source("a.jsonl", named=False), Source("deep/b.json", named=False)]
    assert sources.expand(["deep/*", "."]) == [
        Source("deep/b.json", named=True),
        Source("deep/c.txt", named=True),
        Source("a.jsonl", named=False),
    ]
    assert sources.expand(["nothing"]) == [Source("nothing", named=True)]
    with pytest.raises(BadInput, match="no file has such a name"):
        sources.expand(["*.log"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match="empty: holds no log"):
        sources.expand(["empty"])


def test_the_digest_of_one_file_and_of_several(tmp_path):
    (tmp_path / "a.jsonl").write_text("{}")
    alone = hashlib.sha256(b"{}").hexdigest()
    assert sources.digest(tmp_path / "a.jsonl") == sources.digest(tmp_path) == alone
    (tmp_path / "b.jsonl").write_text("{}")
    assert sources.digest(tmp_path) == hashlib.sha256(alone.encode() * 2).hexdigest()
    with pytest.raises(BadInput, match="write standard input to a file first"):
        sources.digest("-")
