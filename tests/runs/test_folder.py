"""One configuration, one writer, and chunks that are computed once however often a run is killed."""

import contextlib
import itertools
import json
import os
import shutil
import signal
import stat
import subprocess
import sys

import pytest

from cicjax.errors import BadInput, Corrupted, Locked
from cicjax.files import seal
from cicjax.runs.folder import RunFolder, read_part, write_in_chunks, write_part

CONFIG = {
    "seed": 0,
    "model": "tiny",
    "sft": {"learning_rate": 2e-4, "targets": ["q_proj", "v_proj"]},
    "device": "cpu",
}


def test_config_is_written_first_and_accepted_again(tmp_path):
    for _ in range(2):
        with RunFolder(tmp_path / "run", CONFIG) as folder:
            assert json.loads((folder.path / "config.json").read_text()) == CONFIG
    assert stat.S_IMODE((tmp_path / "run").stat().st_mode) == 0o700


def test_another_configuration_is_refused_in_one_line_with_names_and_both_values(tmp_path):
    with RunFolder(tmp_path, CONFIG):
        pass
    other = {
        "seed": 1,
        "sft": {"learning_rate": 1e-4, "targets": ("q_proj", "v_proj")},
        "device": "cpu",
        "beta": None,
    }
    with pytest.raises(BadInput) as caught, RunFolder(tmp_path, other):
        pass
    message = str(caught.value)
    assert message == (
        f"{tmp_path}/config.json: the folder holds another configuration, choose another --output_dir: "
        "beta is absent there and None here; "
        "model is 'tiny' there and absent here; seed is 0 there and 1 here; "
        "sft.learning_rate is 0.0002 there and 0.0001 here"
    )
    assert json.loads((tmp_path / "config.json").read_text()) == CONFIG
    with RunFolder(tmp_path, CONFIG):  # The refusal left no lock behind.
        pass


def test_names_outside_the_identity_may_differ(tmp_path):
    with RunFolder(tmp_path, CONFIG):
        pass
    with RunFolder(tmp_path, {**CONFIG, "device": "gpu", "sft": {}}, outside_identity={"device", "sft"}):
        pass
    with (
        pytest.raises(BadInput, match="seed"),
        RunFolder(tmp_path, {**CONFIG, "device": "gpu", "seed": 7}, outside_identity={"device"}),
    ):
        pass
    with (
        pytest.raises(BadInput, match="device_kind"),
        RunFolder(tmp_path, {**CONFIG, "device_kind": "x"}, outside_identity={"device"}),
    ):
        pass


def test_true_is_not_one(tmp_path):
    with RunFolder(tmp_path, {"replay": True}):
        pass
    with pytest.raises(BadInput, match="replay is True there and 1 here"), RunFolder(tmp_path, {"replay": 1}):
        pass
    with RunFolder(tmp_path / "floats", {"rate": 1}):
        pass
    with RunFolder(tmp_path / "floats", {"rate": 1.0}):
        pass


def test_a_damaged_config_is_no_other_configuration(tmp_path):
    with RunFolder(tmp_path, CONFIG):
        pass
    (tmp_path / "config.json").write_text('{"seed"')
    with pytest.raises(Corrupted, match=r"config\.json"), RunFolder(tmp_path, CONFIG):
        pass


def test_a_path_that_can_be_no_folder(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(BadInput, match="--output_dir"), RunFolder(path, CONFIG):
            pass


def test_second_holder_is_refused_and_told_who_holds(tmp_path):
    with (
        RunFolder(tmp_path, CONFIG),
        pytest.raises(Locked, match=rf"in use by process {os.getpid()} on \S+ since 20\S+; wait"),
    ):
        RunFolder(tmp_path, CONFIG).__enter__()
    with RunFolder(tmp_path, CONFIG):
        pass


def test_an_error_inside_frees_the_lock(tmp_path):
    with contextlib.suppress(RuntimeError), RunFolder(tmp_path, CONFIG):
        raise RuntimeError
    with RunFolder(tmp_path, CONFIG):
        pass


HOLDER = """
import sys, time
from cicjax.runs.folder import RunFolder
with RunFolder(sys.argv[1], {"seed": 0}):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_killed_holder_leaves_no_lock(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        with pytest.raises(Locked, match=f"process {holder.pid} on"), RunFolder(tmp_path, {"seed": 0}):
            pass
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    with RunFolder(tmp_path, {"seed": 0}):
        pass


def test_temporary_files_of_a_kill_are_removed_and_others_kept(tmp_path):
    with RunFolder(tmp_path, CONFIG):
        pass
    for name in ("rollouts", "sft/.saving-3", "sft/.removing-1", "sft/2"):
        (tmp_path / name).mkdir(parents=True)
    leftover, foreign = tmp_path / "rollouts" / ".stream.jsonl.ab12.cicjax-tmp", tmp_path / ".notes.tmp"
    leftover.touch(), foreign.touch()
    with RunFolder(tmp_path, CONFIG):
        assert not leftover.exists() and foreign.exists()
        assert [path.name for path in (tmp_path / "sft").iterdir()] == ["2"]


CHUNKS = [[0, 1], [2, 3, 4], [], [5]]


def square(index, chunk):
    return [{"chunk": index, "n": n, "square": n * n} for n in chunk]


EXPECTED = [
    {"chunk": c, "n": n, "square": n * n} for c, n in [(0, 0), (0, 1), (1, 2), (1, 3), (1, 4), (3, 5)]
]


def test_chunks_are_joined_in_order_and_the_parts_removed(tmp_path):
    path = tmp_path / "rollouts" / "rows.jsonl"
    assert write_in_chunks(path, CHUNKS, work=square) == EXPECTED
    assert [json.loads(line) for line in path.read_text().splitlines()] == EXPECTED
    assert [p.name for p in path.parent.iterdir()] == ["rows.jsonl"]


def test_a_finished_file_is_read_and_nothing_computed(tmp_path):
    write_in_chunks(tmp_path / "rows.jsonl", CHUNKS, work=square)
    assert write_in_chunks(tmp_path / "rows.jsonl", CHUNKS, work=None) == EXPECTED  # type: ignore[arg-type]


@pytest.mark.parametrize("failing", range(4))
def test_only_missing_chunks_are_computed_again(tmp_path, failing):
    path, computed = tmp_path / "rows.jsonl", []

    def work(index, chunk):
        if index == failing and failing not in computed[:-1]:
            computed.append(index)
            raise KeyboardInterrupt
        computed.append(index)
        return square(index, chunk)

    with pytest.raises(KeyboardInterrupt):
        write_in_chunks(path, CHUNKS, work=work)
    assert not path.exists() and len(list(tmp_path.glob("rows.jsonl.parts/*"))) == failing
    resumed = []
    assert (
        write_in_chunks(
            path, CHUNKS, work=lambda index, chunk: (resumed.append(index), square(index, chunk))[1]
        )
        == EXPECTED
    )
    assert resumed == list(range(failing, 4)) and not list(tmp_path.glob("*.parts"))


KILLED = """
import os, signal, sys
from pathlib import Path
from cicjax.runs.folder import write_in_chunks
real, calls = os.replace, 0
def replace(*args):
    global calls
    calls += 1
    if calls == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*args)
def work(i, chunk):
    return [{"chunk": i, "n": n, "square": n * n} for n in chunk]
os.replace = replace
write_in_chunks(Path(sys.argv[1]), [[0, 1], [2, 3, 4], [], [5]], work=work)
"""


@pytest.mark.parametrize("at", [1, 3, 5])
def test_killed_before_any_rename_then_resumed(tmp_path, at):
    """Renames 1-4 are the parts, 5 the joined file: after a kill at each, the resumed file is the same."""
    path = tmp_path / "rows.jsonl"
    ended = subprocess.run([sys.executable, "-c", KILLED, str(path), str(at)])
    assert ended.returncode == -signal.SIGKILL and not path.exists()
    assert write_in_chunks(path, CHUNKS, work=square) == EXPECTED
    reference = tmp_path / "once" / "rows.jsonl"
    write_in_chunks(reference, CHUNKS, work=square)
    assert path.read_bytes() == reference.read_bytes()


def enough(rows):
    return sum(row["n"] % 2 for row in rows) >= 2


def test_stop_ends_the_file_at_the_row_that_says_yes_and_computes_no_further_chunk(tmp_path):
    computed = []
    rows = write_in_chunks(
        tmp_path / "rows.jsonl", CHUNKS, work=lambda i, c: (computed.append(i), square(i, c))[1], stop=enough
    )
    assert [row["n"] for row in rows] == [0, 1, 2, 3] and computed == [0, 1]
    assert write_in_chunks(tmp_path / "rows.jsonl", CHUNKS, work=square, stop=enough) == rows


def test_stop_decides_the_same_after_a_resume(tmp_path):
    path, fresh = tmp_path / "rows.jsonl", itertools.count()

    def interrupted(index, chunk):
        if next(fresh) == 1:
            raise KeyboardInterrupt
        return square(index, chunk)

    with pytest.raises(KeyboardInterrupt):
        write_in_chunks(path, CHUNKS, work=interrupted, stop=enough)
    assert [row["n"] for row in write_in_chunks(path, CHUNKS, work=square, stop=enough)] == [0, 1, 2, 3]


def test_progress_counts_from_the_chunks_found_finished(tmp_path):
    path, seen = tmp_path / "rows.jsonl", []

    def interrupted(index, chunk):
        if index == 2:
            raise KeyboardInterrupt
        return square(index, chunk)

    with pytest.raises(KeyboardInterrupt):
        write_in_chunks(path, CHUNKS, work=interrupted, progress=lambda *done: seen.append(done))
    assert seen == [(0, 4), (1, 4), (2, 4)]
    seen.clear()
    write_in_chunks(path, CHUNKS, work=square, progress=lambda *done: seen.append(done))
    assert seen == [(2, 4), (3, 4), (4, 4)]


def test_every_flipped_byte_and_every_cut_of_a_part_is_noticed(tmp_path):
    path = tmp_path / "rows.jsonl"

    def work(index, chunk):
        if index == 1:
            raise KeyboardInterrupt
        return square(index, chunk)

    with pytest.raises(KeyboardInterrupt):
        write_in_chunks(path, CHUNKS, work=work)
    part = tmp_path / "rows.jsonl.parts" / "00000.jsonl"
    content = part.read_bytes()
    damaged = [content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :] for at in range(len(content))]
    for bad in damaged + [content[:at] for at in range(len(content))]:
        part.write_bytes(bad)
        with pytest.raises(Corrupted, match=r"00000\.jsonl: .* delete it and repeat the command"):
            write_in_chunks(path, CHUNKS, work=square)
    assert not path.exists()
    part.unlink()
    assert write_in_chunks(path, CHUNKS, work=square) == EXPECTED


def test_a_damaged_result_is_not_returned_and_a_lost_one_is_made_again_as_it_was(tmp_path, capsys):
    path = tmp_path / "rows.jsonl"
    with RunFolder(tmp_path, CONFIG):
        write_in_chunks(path, CHUNKS, work=square)
    content = path.read_bytes()
    path.write_bytes(b"".join(content.splitlines(keepends=True)[:-1]))
    with pytest.raises(Corrupted, match=r"rows\.jsonl: .* delete it and repeat"), RunFolder(tmp_path, CONFIG):
        pass
    path.unlink()
    with RunFolder(tmp_path, CONFIG):
        assert "rows.jsonl: missing, and is made again" in capsys.readouterr().err
        with pytest.raises(Corrupted, match="is not the same"):
            write_in_chunks(path, CHUNKS, work=lambda *_: [{"n": 1}])
    shutil.rmtree(f"{path}.parts")
    with RunFolder(tmp_path, CONFIG):
        assert write_in_chunks(path, CHUNKS, work=square) == EXPECTED
    assert path.read_bytes() == content


def test_a_part_of_another_run_or_place_is_noticed(tmp_path):
    """Parts of two runs over the same chunks differ in their run alone."""
    for name in ("one", "other"):
        with RunFolder(tmp_path / name, CONFIG):
            write_part(tmp_path / name / "rows.parts" / "0.jsonl", [{"n": 1}])
            write_part(tmp_path / name / "rows.parts" / "1.jsonl", [{"n": 1}])
    part = tmp_path / "one/rows.parts/0.jsonl"
    assert read_part(part) == [{"n": 1}]
    for other in (tmp_path / "other/rows.parts/0.jsonl", tmp_path / "one/rows.parts/1.jsonl"):
        shutil.copy(other, part)
        with pytest.raises(Corrupted, match=r"0\.jsonl: not the bytes that were written here; delete it"):
            read_part(part)


@pytest.mark.parametrize("held", ["metrics.jsonl", "sft", "seal.json"])
def test_a_run_without_its_configuration_takes_no_other(tmp_path, held):
    with RunFolder(tmp_path, CONFIG):
        (tmp_path / "log.txt").touch()  # anyone's
        if held == "sft":
            (tmp_path / held).mkdir()
        elif held != "seal.json":
            (tmp_path / held).touch()
    (tmp_path / "config.json").unlink()
    with pytest.raises(Corrupted, match=r"config\.json: missing"), RunFolder(tmp_path, CONFIG | {"seed": 1}):
        pass
    if held != "seal.json":
        (tmp_path / "seal.json").unlink()
        with pytest.raises(Corrupted, match=f"missing, and it holds {held}"), RunFolder(tmp_path, CONFIG):
            pass


@pytest.mark.parametrize("lost", ["seal.json", "config.json", "environment.json", "metrics.jsonl"])
def test_what_cannot_be_made_again_must_be_there(tmp_path, lost):
    with RunFolder(tmp_path, CONFIG):
        for name in ("environment.json", "metrics.jsonl"):
            seal.write_bytes(tmp_path / name, b"{}\n")
    (tmp_path / lost).unlink()
    with pytest.raises(Corrupted, match=f"{lost}: missing.*another folder"), RunFolder(tmp_path, CONFIG):
        pass


def test_a_deleted_lock_lets_a_second_writer_in_and_stops_the_first(tmp_path):
    with RunFolder(tmp_path, CONFIG):
        (tmp_path / "lock").unlink()
        code = (
            "import sys, json; from cicjax.runs.folder import RunFolder\n"
            "with RunFolder(sys.argv[1], json.loads(sys.argv[2])): pass"
        )
        subprocess.run([sys.executable, "-c", code, str(tmp_path), json.dumps(CONFIG)], check=True)
        with pytest.raises(Locked, match="another process has taken this folder"):
            seal.write_json(tmp_path / "results.json", {})
    assert not (tmp_path / "results.json").exists()
    with RunFolder(tmp_path, CONFIG):
        seal.write_json(tmp_path / "results.json", {})
