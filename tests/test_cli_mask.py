"""`cicjax mask` from the outside: output, exit codes, one line for every error."""

import io
import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from cicjax import assets, cli
from cicjax.commands import mask
from cicjax.errors import Corrupted, Locked, OutOfResources
from cicjax.logs import audit


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer of single bytes."""
    built = Tokenizer(
        models.BPE(
            vocab={char: i for i, char in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, merges=[]
        )
    )
    built.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    built.decoder = decoders.ByteLevel()
    built.add_special_tokens(["<|endoftext|>"])
    path = tmp_path_factory.mktemp("bytes")
    built.save(str(path / "tokenizer.json"))
    return path


@pytest.fixture
def log(tmp_path: Path) -> Path:
    messages = [
        {"role": "user", "author": "user", "content": "2+2?"},
        {"role": "assistant", "author": "agent", "content": "5", "solved": 0},
        {"role": "assistant", "author": "teacher", "content": "4"},
    ]
    file = tmp_path / "log.jsonl"
    file.write_text(
        "".join(
            json.dumps({"id": str(n), "source": "test", "messages": messages[: n + 1]}) + "\n" for n in (1, 2)
        )
    )
    return file


def _mask(*arguments: object) -> int:
    return cli.main(["mask", *map(str, arguments)])


def test_boxes_of_a_file(folder, log, capsys):
    assert _mask(log, "--tokenizer", folder, "--objective", "interventional") == 0
    out = capsys.readouterr().out
    assert out.split("\n\n")[1].split("\n") == [
        "Interventional: 2",
        "[MASK] Question:",
        "[MASK] 2+2?",
        "[MASK] Proposed solution:",
        "[MASK] 5",
        "[MASK] <eos>",
        "[MASK] Proposed solution:",
        "[LOSS] 4",
        "[LOSS] <eos>",
    ]
    assert out.endswith(
        "2 transcripts, 95 tokens, 2 of them supervised (2.1%)\n"
        "author       tokens  supervised\n"
        "agent             4           0\n"
        "teacher           2           2\n"
        "user             70           0\n"
        "environment      19           0\n"
        "all              95           2\n\n"
    )


def test_where_nothing_is_supervised_the_ways_on_follow(folder, log, capsys):
    log.write_text(log.read_text().splitlines()[0] + "\n")
    assert _mask(log, "--tokenizer", folder) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("nothing is trained on: the tokens are 2 of agent, 35 of user, and")
    assert _mask(log, "--tokenizer", folder, "--targets", "user") == 0
    assert "nothing is trained on" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "supervised"),
    [
        (["--objective", "stream", "--wrong", "0.5"], [0.5, 0.5, 1, 1]),
        (["--objective", "stream", "--correct", "1"], [1, 1]),
        (["--objective", "stream"], [1, 1]),
        (["--targets", "agent"], []),
    ],
)
def test_corners_and_targets(folder, log, capsys, arguments, supervised):
    assert _mask(log, "--tokenizer", folder, *arguments, "--json") == 0
    record = json.loads(capsys.readouterr().out.splitlines()[1])
    assert [weight for weight in record["weight"] if weight] == supervised


def test_the_world_is_all_but_agent_and_system(folder, log, capsys):
    assert _mask(log, "--tokenizer", folder, "--targets", "world", "--json") == 0
    record = json.loads(capsys.readouterr().out.splitlines()[1])
    assert record["weight"] == [
        float(n > 0 and author != "agent") for n, author in enumerate(record["author"])
    ]


@pytest.mark.parametrize(("objective", "supervised"), [("interventional", 2), ("observational", 4)])
def test_json_has_one_line_a_transcript(folder, log, capsys, objective, supervised):
    assert _mask(log, "--tokenizer", folder, "--objective", objective, "--json") == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [r["id"] for r in records] == ["1", "2"]
    assert [list(r) for r in records] == [
        ["id", "tokens", "text", "gamma", "is_target", "weight", "author"]
    ] * 2
    assert sum(records[1]["weight"]) == supervised
    assert records[1]["author"][-2:] == ["teacher", "teacher"]
    assert records[1]["is_target"][-2:] == [True, True]


def test_labels_for_other_trainers(folder, log, tmp_path, capsys):
    out = tmp_path / "labels.jsonl"
    assert _mask(log, "--tokenizer", folder, "--labels", out, "--json") == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    for row, record in zip(rows, records, strict=True):
        assert list(row) == ["input_ids", "attention_mask", "labels"]
        assert row["labels"] == [
            t if w else -100 for t, w in zip(record["tokens"], record["weight"], strict=True)
        ]
    assert [sum(label != -100 for label in row["labels"]) for row in rows] == [0, 2]


def test_labels_refuse_weights_that_they_cannot_hold(folder, log, tmp_path, capsys):
    labels, page = tmp_path / "labels.jsonl", tmp_path / "page.html"
    stream = ["--tokenizer", folder, "--objective", "stream", "--labels", labels, "--wrong"]
    assert _mask(log, *stream, "0.1", "--html", page) == 2
    out, err = capsys.readouterr()
    assert (out, err) == (
        "",
        "cicjax: error: labels know only the weights 0 and 1, not 0.1; use --json for weights\n",
    )
    assert list(tmp_path.iterdir()) == [log]
    assert _mask(log, *stream, "1") == 0
    assert labels.exists()


@pytest.mark.parametrize("flags", [("--labels",), ("--html",), ("--labels", "--html")])
def test_no_output_replaces_the_log_or_another_output(folder, log, tmp_path, capsys, flags):
    before = log.read_bytes()
    (tmp_path / "link").symlink_to(log)
    (tmp_path / "second").hardlink_to(log)
    for output in (tmp_path / "new",) if len(flags) == 2 else (log, tmp_path / "link", tmp_path / "second"):
        assert _mask(log, "--tokenizer", folder, *(word for flag in flags for word in (flag, output))) == 2
        out, err = capsys.readouterr()
        assert out == "" and err.count("\n") == 1 and f"{output}: is the same file as " in err
    assert log.read_bytes() == before and not (tmp_path / "new").exists()


def test_a_page_instead_of_boxes(folder, log, tmp_path, capsys):
    page = tmp_path / "out.html"
    assert _mask(log, "--tokenizer", folder, "--html", page) == 0
    out = capsys.readouterr().out
    assert "[MASK]" not in out
    assert "2 transcripts, 95 tokens, 2 of them supervised" in out
    text = page.read_text(encoding="utf-8")
    sentence = "Under the observational objective 4 of 6 supervised tokens (66.7%) are the agent's own words"
    assert sentence in text
    assert "<h1>log.jsonl</h1>" in text
    assert "line 2: " in text
    assert "stream" not in text
    assert (
        _mask(log, "--tokenizer", folder, "--objective", "stream", "--wrong", "0.5", "--html", page, "--json")
        == 0
    )
    assert len(capsys.readouterr().out.splitlines()) == 2
    assert "under the stream (wrong 0.5, correct 0) one 4 of 6 (66.7%) are" in page.read_text(
        encoding="utf-8"
    )


def test_an_audit_that_finds_nothing(folder, log, capsys):
    assert _mask(log, "--tokenizer", folder, "--audit", "--max_length", "60") == 0
    assert capsys.readouterr().out == f"{log}: 2 transcripts, nothing found\n"
    assert _mask(log, "--tokenizer", folder, "--audit", "--json") == 0
    assert capsys.readouterr().out == ""


def test_findings_are_lines_on_stdout_and_exit_code_1(folder, log, capsys):
    log.write_text(log.read_text() + "{}\n")
    audited = [log, "--tokenizer", folder, "--audit", "--max_length", "50", "--test", log]
    assert _mask(*audited, "--verbose") == 1
    captured = capsys.readouterr()
    places = [line.split(": ")[:3] for line in captured.out.splitlines()]
    assert [[place.removeprefix(str(log)), severity, code] for place, severity, code in places] == [
        [":1", "error", "duplicate"],
        [":2", "error", "too-long"],
        [":2", "error", "duplicate"],
        [":3", "error", "unreadable"],
        [":3", "error", "unreadable"],
    ]
    assert captured.err == f"cicjax: error: {log}: 5 findings (2 duplicate, 2 unreadable, 1 too-long)\n"
    assert _mask(*audited) == 1
    captured = capsys.readouterr()
    duplicate, long, unreadable = captured.out.splitlines()
    assert duplicate.startswith(
        f"{log}: error: duplicate: 2 times in 2 transcripts, lines 1, 2; the first: the question is asked in"
    )
    assert long.startswith(f"{log}:2: error: too-long: ")
    assert unreadable.startswith(f"{log}: error: unreadable: 2 times in one transcript, line 3; the first: ")
    assert captured.err == f"cicjax: error: {log}: 5 findings (2 duplicate, 2 unreadable, 1 too-long)\n"


def test_findings_as_json_lines(folder, log, capsys):
    assert _mask(log, "--tokenizer", folder, "--audit", "--max_length", "50", "--json") == 1
    (record,) = map(json.loads, capsys.readouterr().out.splitlines())
    assert list(record) == ["file", "line", "severity", "code", "message"]
    assert (record["file"], record["line"], record["code"]) == (str(log), 2, "too-long")


def test_an_audit_of_nothing_but_broken_lines(folder, log, capsys):
    log.write_text("{\n")
    assert _mask(log, "--tokenizer", folder, "--audit") == 1
    assert [line.split(": ")[2] for line in capsys.readouterr().out.splitlines()] == ["unreadable"]


def test_findings_stay_on_one_line_each(folder, tmp_path, capsys):
    messages = [
        {"role": "user", "author": "user", "content": "[truncated\u2028]"},
        {"role": "assistant", "author": "agent", "content": "4"},
    ]
    path = tmp_path / "log.jsonl"
    path.write_text(json.dumps({"id": "1", "messages": messages}))
    assert _mask(path, "--tokenizer", folder, "--audit", "--objective", "observational") == 1
    (line,) = capsys.readouterr().out.splitlines()
    assert "elided" in line


def test_the_codes_stand_in_the_help_and_in_the_module(capsys):
    with pytest.raises(SystemExit):
        _mask("--help")
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    codes = [line.split()[0] for line in str(audit.__doc__).splitlines() if line.startswith("    ")]
    assert len(codes) == 23
    assert ", ".join(codes) in shown


def test_folders_several_files_and_standard_input(folder, log, capsys, monkeypatch, tmp_path):
    def shown(*arguments: object) -> list[str]:
        assert _mask(*arguments, "--tokenizer", folder, "--json") == 0
        return [json.loads(line)["id"] for line in capsys.readouterr().out.splitlines()]

    logs = tmp_path / "logs"
    logs.mkdir()
    (logs / "a.jsonl").write_text(log.read_text().replace('"id": "', '"id": "a'))
    (logs / "b.json").write_text(json.dumps([json.loads(line) for line in log.open()]))
    assert (
        shown(logs)
        == shown(f"{logs}/*")
        == shown(logs / "a.jsonl", logs / "b.json")
        == ["a1", "a2", "1", "2"]
    )
    assert shown(logs, "--id", "2", "a1") == ["a1", "2"]
    assert shown(logs, "--limit", 3) == ["a1", "a2", "1"]
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(log.read_bytes())))
    assert shown("-") == ["1", "2"]


def test_an_audit_of_a_folder_says_which_file(folder, log, capsys, tmp_path):
    logs = tmp_path / "logs"
    logs.mkdir()
    for name in "ab":
        (logs / f"{name}.jsonl").write_text(log.read_text() + "{\n" * (name == "b"))
    assert _mask(logs, "--tokenizer", folder, "--audit", "--verbose") == 1
    lines = [line.split(": ") for line in capsys.readouterr().out.splitlines()]
    assert [(place, code) for place, _, code, *_ in lines] == [
        (f"{logs}/b.jsonl:1", "duplicate-id"),
        (f"{logs}/b.jsonl:1", "duplicate-row"),
        (f"{logs}/b.jsonl:2", "duplicate-id"),
        (f"{logs}/b.jsonl:2", "duplicate-row"),
        (f"{logs}/b.jsonl:3", "unreadable"),
    ]
    assert f"that of {logs}/a.jsonl:1 too" in lines[0][3]


def test_a_log_of_another_format_is_told_the_way(folder, log, capsys):
    log.write_text(json.dumps({"id": "1", "model": "m", "messages": [{"role": "user", "content": "?"}]}))
    assert _mask(log, "--tokenizer", folder) == 2
    err = capsys.readouterr().err
    assert "`cicjax convert FILE --assistant_author agent|teacher --output OUT.jsonl` makes episodes" in err
    assert err.count("\n") == 1


def test_demo_shows_both_rows_under_both_objectives(folder, capsys):
    assert _mask("--demo", "--tokenizer", folder) == 0
    out = capsys.readouterr().out
    assert out.count("Interventional: ") == out.count("Observational: ") == 2
    assert out.count("[LOSS]") == 2 + 2 * 3
    assert _mask("--demo", "--tokenizer", folder, "--json") == 0
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_demo_finds_the_embedded_base_in_the_package_then_in_the_repository(
    folder, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(assets, "__file__", str(tmp_path / "cicjax" / "assets.py"))
    assert _mask("--demo") == 2
    assert "no embedded base; name a folder" in capsys.readouterr().err
    for place in (tmp_path / "checkpoints" / "tiny", tmp_path / "cicjax" / "_tiny"):
        shutil.copytree(folder, place)
        assert assets.default_model_folder() == place
        assert _mask("--demo") == 0


def test_flags_have_underscores_and_help_an_example(capsys):
    with pytest.raises(SystemExit) as ended:
        _mask("--help")
    assert ended.value.code == 0
    out = capsys.readouterr().out
    assert "Example: cicjax mask" in out
    assert "--no" not in out


BAD = {
    "no file": ([], "name a transcript file"),
    "file and demo": (["LOG", "--demo"], "--demo shows its own rows"),
    "no tokenizer": (["LOG"], "--tokenizer DIR"),
    "no such tokenizer": (["LOG", "--tokenizer", "/missing"], "give a folder with tokenizer.json"),
    "no such file": (["/missing.jsonl", "--tokenizer", "FOLDER"], "/missing.jsonl: No such file"),
    "not a transcript": (["FOLDER/tokenizer.json", "--tokenizer", "FOLDER"], "an episode needs the key"),
    "labels into nowhere": (["LOG", "--tokenizer", "FOLDER", "--labels", "/missing/x"], "cannot be written"),
    "labels onto a device": (["LOG", "--tokenizer", "FOLDER", "--labels", os.devnull], "no ordinary file"),
    "a page into nowhere": (["LOG", "--tokenizer", "FOLDER", "--html", "/missing/x"], "cannot be written"),
    "corners of no stream": (
        ["LOG", "--tokenizer", "FOLDER", "--wrong", "1"],
        "belong to --objective stream",
    ),
    "a weight below nothing": (
        ["LOG", "--tokenizer", "FOLDER", "--objective", "stream", "--wrong", "-1"],
        "--wrong is a finite number",
    ),
    "no such author": (["LOG", "--tokenizer", "FOLDER", "--targets", "nobody"], "unknown author 'nobody'"),
    "a chat without its tokens": (
        ["LOG", "--tokenizer", "FOLDER", "--format", "chatml"],
        "no control token '<|im_start|>'",
    ),
    "audit and page": (["LOG", "--tokenizer", "FOLDER", "--audit", "--html", "x"], "--audit only looks"),
    "audit of the demo": (["--demo", "--audit"], "--audit only looks"),
    "test without audit": (["LOG", "--tokenizer", "FOLDER", "--test", "LOG"], "belong to --audit"),
    "verbose without audit": (["LOG", "--tokenizer", "FOLDER", "--verbose"], "belong to --audit"),
    "one of them in an audit": (
        ["LOG", "--tokenizer", "FOLDER", "--audit", "--limit", "1"],
        "--id and --limit choose what is shown",
    ),
    "an id that is not there": (
        ["LOG", "--tokenizer", "FOLDER", "--id", "1", "9"],
        "log.jsonl: no transcript has the id '9'",
    ),
    "a limit of none": (["LOG", "--tokenizer", "FOLDER", "--limit", "0"], "--limit"),
    "length without audit": (["LOG", "--tokenizer", "FOLDER", "--max_length", "9"], "belong to --audit"),
    "no length": (
        ["LOG", "--tokenizer", "FOLDER", "--audit", "--max_length", "0"],
        "--max_length is 1 or more",
    ),
    "audit of nothing": (
        ["/missing.jsonl", "--tokenizer", "FOLDER", "--audit"],
        "/missing.jsonl: No such file",
    ),
    "no such test": (
        ["LOG", "--tokenizer", "FOLDER", "--audit", "--test", "/missing.jsonl"],
        "/missing.jsonl: No such file",
    ),
}


@pytest.mark.parametrize(("arguments", "complaint"), BAD.values(), ids=BAD.keys())
def test_bad_input_is_exit_code_2_and_one_line(folder, log, capsys, arguments, complaint):
    assert _mask(*(a.replace("LOG", str(log)).replace("FOLDER", str(folder)) for a in arguments)) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("cicjax: error: ")
    assert complaint in captured.err


def test_a_row_that_the_protocol_refuses_has_its_place(folder, tmp_path, capsys):
    file = tmp_path / "log.jsonl"
    file.write_text('\n{"id": "a", "messages": [{"role": "tool", "author": "tool", "content": "x"}]}\n')
    labels = tmp_path / "labels.jsonl"
    assert _mask(file, "--tokenizer", folder, "--labels", labels) == 2
    assert f"{file}:2: message 1: the plain protocol has no role 'tool'" in capsys.readouterr().err
    assert not labels.exists()


@pytest.mark.parametrize("arguments", [["--objective", "both"], ["--unknown"], ["--format", "llama"]])
def test_bad_flags_are_exit_code_2(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        _mask(*arguments)
    assert ended.value.code == 2
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("raised", "code"),
    [
        (Locked("held"), 3),
        (OutOfResources("full"), 4),
        (MemoryError(), 4),
        (OSError(28, "No space left on device"), 4),
        (PermissionError(13, "Permission denied"), 2),
        (Corrupted("two\nlines"), 5),
        (KeyboardInterrupt(), 130),
    ],
)
def test_exit_codes(monkeypatch, capsys, raised, code):
    def fail(self) -> None:
        raise raised

    monkeypatch.setattr(mask.Mask, "run", fail)
    assert _mask() == code
    assert capsys.readouterr().err.count("\n") == (0 if code == 130 else 1)


def test_a_reader_that_leaves_is_no_error(folder, tmp_path):
    line = (
        json.dumps({"id": "1", "messages": [{"role": "user", "author": "user", "content": "x" * 1000}]})
        + "\n"
    )
    (tmp_path / "long.jsonl").write_text(line * 200)
    command = [
        sys.executable,
        "-m",
        "cicjax",
        "mask",
        str(tmp_path / "long.jsonl"),
        "--tokenizer",
        str(folder),
        "--json",
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.read(10)
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == b""
    assert process.wait() == 0


@pytest.mark.parametrize(
    "arguments", [["--help"], ["mask", "--help"], ["mask", "--demo", "--tokenizer", "FOLDER"]]
)
def test_help_and_mask_answer_within_two_seconds(folder, arguments):
    """Of a processor's time: on a busy machine the clock says what others do."""
    command = [sys.executable, "-m", "cicjax", *(a.replace("FOLDER", str(folder)) for a in arguments)]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, capture_output=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime < 2.0


def test_text_that_the_terminal_cannot_show_is_escaped(folder, tmp_path):
    (tmp_path / "a.jsonl").write_text(
        '{"id": "1", "messages": [{"role": "user", "author": "user", "content": "\u20ac"}]}', encoding="utf-8"
    )
    command = [sys.executable, "-m", "cicjax", "mask", str(tmp_path / "a.jsonl"), "--tokenizer", str(folder)]
    done = subprocess.run(
        command, capture_output=True, env={**os.environ, "PYTHONIOENCODING": "ascii"}, check=True
    )
    assert b"\\u20ac" in done.stdout
