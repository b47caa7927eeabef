"""Hostile transcript files in every format: one line with file:line, never a traceback; what is accepted can
be written and read again."""

import json
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cicjax.errors import BadInput
from cicjax.logs import formats, native
from cicjax.logs.attribution import Attribution
from cicjax.provenance import Author

AGENT, NOBODY = Attribution(assistant_author=Author.AGENT), Attribution()
READERS = ("native", "openai", "trl", "axolotl", "atif")


def _read(name: str, path: Path, **options):
    return formats.read(name, path, NOBODY if name == "native" else AGENT, **options)


def _complaint(name: str, path: Path) -> str:
    with pytest.raises(BadInput) as caught:
        _read(name, path)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 400 + len(str(path))
    return message


def write(path: Path, *records) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def _trajectory(*steps: dict, **root) -> dict:
    numbered = [{"step_id": n, "message": "m", **step} for n, step in enumerate(steps, start=1)]
    return {"schema_version": "ATIF-v1.7", "agent": {"name": "a", "version": "1"}, "steps": numbered, **root}


def _episode_of(name: str, content: str = "!", role: str = "assistant") -> dict:
    """A small valid record of a format; `content` is what the role says."""
    message = {"role": role, "content": content}
    return {
        "native": {"id": "1", "messages": [{**message, "author": "agent"}]},
        "openai": {"messages": [message]},
        "trl": {"prompt": "?", "completion": content} if role == "assistant" else {"messages": [message]},
        "axolotl": {"conversations": [{"from": role, "value": content}]},
        "atif": _trajectory({"source": {"assistant": "agent"}.get(role, role), "message": content}),
    }[name]


def _orphan(name: str) -> dict:
    answer = {"role": "tool", "content": "x", "tool_call_id": "lost"}
    if name == "atif":
        return _trajectory(
            {"source": "agent", "observation": {"results": [{"source_call_id": "lost", "content": "x"}]}}
        )
    if name == "axolotl":
        return {"conversations": [{"from": "tool", "value": "x", "tool_call_id": "lost"}]}
    return {"id": "1", "messages": [{**answer, "author": "tool"} if name == "native" else answer]}


HOSTILE = {
    "NUL": (lambda line, name: line.replace('"!"', '"\x00"'), "not JSON"),
    "lone surrogate": (lambda line, name: line.replace('"!"', '"\\ud800"'), "lone surrogate"),
    "ten megabytes": (lambda line, name: line[:-1] + "," * 10_000_000, "not JSON"),
    "ten megabytes of a role": (
        lambda line, name: json.dumps(_episode_of(name, role="x" * 10_000_000)),
        "unknown ",
    ),
    "nesting": (lambda line, name: '{"id":' * 100_000, "nested too deeply"),
    "nested in content": (lambda line, name: line.replace('"!"', "[" * 100_000), "nested too deeply"),
    "duplicate keys": (lambda line, name: line[:-1] + ', "id": "1", "id": "2"}', "the key 'id' stands twice"),
    "NaN": (lambda line, name: line[:-1] + ', "x": NaN}', "NaN is not JSON"),
    "ten thousand digits": (lambda line, name: line[:-1] + ', "x": ' + "9" * 10_000 + "}", "too many digits"),
    "unknown role": (lambda line, name: json.dumps(_episode_of(name, role="narrator")), "unknown "),
    "orphan result": (
        lambda line, name: json.dumps(_orphan(name)),
        "the result of tool call 'lost', which nobody before it made",
    ),
    "truncated": (lambda line, name: line[:-5], "not JSON"),
    "mark on a later line": (lambda line, name: "\ufeff" + line, "not JSON"),
    "a list": (lambda line, name: f"[{line}]", "is a JSON object"),
    "number": (lambda line, name: "1e999", "is a JSON object"),
}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("corruption", HOSTILE)
def test_a_hostile_last_line_is_one_line_with_its_place(tmp_path, name, corruption):
    corrupt, complaint = HOSTILE[corruption]
    line = json.dumps(_episode_of(name))
    file = tmp_path / "log.jsonl"
    file.write_text(f"{line}\n{corrupt(line, name)}", encoding="utf-8")
    message = _complaint(name, file)
    assert message.startswith(f"{file}:2: ")
    assert complaint in message


@pytest.mark.parametrize("name", READERS)
def test_marks_crlf_blank_lines_and_long_ones_are_read(tmp_path, name):
    records = [_episode_of(name, content) for content in ("a\x00b", "x" * 1_000_000)]
    plain = _read(name, write(tmp_path / "log.jsonl", *records))
    lines = [json.dumps(record).encode() for record in records]
    (tmp_path / "log.jsonl").write_bytes(b"\xef\xbb\xbf" + lines[0] + b"\r\n\r\n" + lines[1])
    assert [episode.messages for episode in _read(name, tmp_path / "log.jsonl")] == [
        episode.messages for episode in plain
    ]
    assert plain[0].messages[-1].content == "a\x00b"


@pytest.mark.parametrize("name", READERS)
def test_other_encodings_and_empty_files_are_refused(tmp_path, name):
    file = tmp_path / "log.jsonl"
    file.write_bytes(json.dumps(_episode_of(name)).encode("utf-16"))
    assert "log.jsonl:1: not UTF-8" in _complaint(name, file)
    file.write_bytes(b"\xef\xbb\xbf\r\n\n")
    assert "log.jsonl: holds no episode" in _complaint(name, file)
    assert "No such file" in _complaint(name, tmp_path / "missing")


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers(0, 3) | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["id", "text", "name", "content", "results"]), inner)
    ),
    max_leaves=4,
)


def mostly(valid: st.SearchStrategy) -> st.SearchStrategy:
    return st.integers(0, 15).flatmap(lambda n: JUNK if n == 5 else valid)


TEXTS = mostly(st.text(max_size=3))
ARGUMENTS = mostly(st.sampled_from(["{}", '{"a": [1.5]}', {}, {"a": None}]))
CALLS = st.lists(
    st.fixed_dictionaries(
        {"function": st.fixed_dictionaries({"name": TEXTS, "arguments": ARGUMENTS})}, optional={"id": TEXTS}
    ),
    max_size=2,
)
FACTS = {
    "name": TEXTS,
    "model": TEXTS,
    "tool_calls": mostly(CALLS),
    "tool_call_id": TEXTS,
    "reasoning_content": TEXTS,
    "edited": TEXTS,
}
RECORD_FACTS = {"id": TEXTS, "model": TEXTS, "metadata": JUNK, "tools": mostly(st.just([{}]))}


def _lists(role: str, content: str, **facts: st.SearchStrategy) -> st.SearchStrategy:
    roles = mostly(st.sampled_from(["assistant", "assistant", "user", "tool", "system"]))
    return mostly(
        st.lists(
            st.fixed_dictionaries({role: roles, content: TEXTS}, optional=FACTS | facts),
            min_size=1,
            max_size=3,
        )
    )


STEPS = st.lists(
    st.fixed_dictionaries(
        {"source": mostly(st.sampled_from(["user", "agent", "agent"])), "message": TEXTS},
        optional={
            "is_copied_context": mostly(st.booleans()),
            "llm_call_count": mostly(st.integers(0, 2)),
            "metrics": mostly(st.just({"completion_token_ids": [1], "logprobs": [-1]})),
            "observation": mostly(st.builds(lambda content: {"results": [{"content": content}]}, TEXTS)),
            "reasoning_content": TEXTS,
            "edited": TEXTS,
        },
    ),
    min_size=1,
    max_size=3,
)
NATIVE = st.lists(
    st.fixed_dictionaries(
        {
            "role": st.sampled_from(native.ROLES),
            "content": TEXTS,
            "author": mostly(st.sampled_from(["agent", "tool"])),
        },
        optional={
            "tokens": mostly(st.just([1])),
            "context_only": mostly(st.booleans()),
            "tool_call_id": TEXTS,
            "edited": TEXTS,
        },
    ),
    min_size=1,
    max_size=3,
)
TRAIN = {"train": mostly(st.booleans()), "weight": mostly(st.integers(0, 1))}
RECORDS = {
    "native": st.fixed_dictionaries(
        {"id": TEXTS, "messages": NATIVE}, optional={"meta": JUNK, "source": TEXTS}
    ),
    "openai": st.fixed_dictionaries(
        {"messages": _lists("role", "content", weight=TRAIN["weight"])}, optional=RECORD_FACTS
    ),
    "trl": st.fixed_dictionaries({"prompt": TEXTS, "completion": TEXTS}, optional=RECORD_FACTS)
    | st.fixed_dictionaries({"prompt": _lists("role", "content"), "completion": _lists("role", "content")}),
    "axolotl": st.fixed_dictionaries(
        {"conversations": _lists("from", "value", **TRAIN)}, optional=RECORD_FACTS | {"system": TEXTS}
    ),
    "atif": STEPS.map(lambda steps: _trajectory(*steps)),
}


@pytest.mark.parametrize("name", READERS)
@settings(max_examples=80)
@given(data=st.data())
def test_any_json_is_episodes_that_can_be_written_or_one_line(name, data):
    record = data.draw(JUNK | RECORDS[name])
    with tempfile.TemporaryDirectory() as folder:
        file = write(Path(folder) / "log.jsonl", record)
        try:
            episodes = _read(name, file, corrections="edited")
        except BadInput as error:
            assert "\n" not in str(error)
            return
        native.write_native(file, episodes)
        assert [replace(episode, line=0) for episode in native.read_native(file)] == [
            replace(episode, line=0) for episode in episodes
        ]
