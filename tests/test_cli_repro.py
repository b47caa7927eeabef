"""`cicjax repro` as a user meets it: exit codes, one line for what is wrong, nothing left behind."""

import os
import subprocess
import sys
import time

import pytest
import tiny_qwen2

from cicjax import cli
from cicjax.commands.repro import Repro
from cicjax.experiments.paper.flags import Flags
from cicjax.experiments.paper.settings import settings_of
from cicjax.methods import METHODS
from cicjax.tasks import stem


def repro(*arguments, **environment):
    command = [sys.executable, "-m", "cicjax", "repro", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | environment, timeout=120)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def toy(tmp_path):
    tiny_qwen2.write(tmp_path / "toy", max_position_embeddings=2048)
    return tmp_path / "toy"


def refused(capsys, tmp_path, *arguments):
    """The one line of a refusal in this process, with exit code 2 and no run folder."""
    assert (
        cli.main(["repro", "--output_dir", str(tmp_path / "run"), "--scale", "smoke", *map(str, arguments)])
        == 2
    )
    output = capsys.readouterr()
    assert (
        output.err.count("\n") == 1
        and output.err.startswith("cicjax: error: ")
        and "Traceback" not in output.err
    )
    assert not (tmp_path / "run").exists()
    return output.err


def test_a_folder_that_is_no_model(capsys, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "config.json" in refused(capsys, tmp_path, "--model", tmp_path / "empty")


def test_a_truncated_file_of_weights(capsys, tmp_path, toy):
    weights = toy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert "model.safetensors" in refused(capsys, tmp_path, "--model", toy)


def test_an_architecture_that_is_not_supported(capsys, tmp_path, toy):
    config = (
        (toy / "config.json")
        .read_text()
        .replace("Qwen2ForCausalLM", "GemmaForCausalLM")
        .replace('"qwen2"', '"gemma"')
    )
    (toy / "config.json").write_text(config)
    assert "not supported" in refused(capsys, tmp_path, "--model", toy)


def test_an_unknown_method(capsys, tmp_path, toy):
    assert "unknown method 'dpo'" in refused(capsys, tmp_path, "--model", toy, "--methods", "dpo")


@pytest.mark.parametrize(
    ("task", "told"),
    [
        ("sums", "no such task"),
        ("no_such_module_here:TASK", "there is no module no_such_module_here"),
        ("json:TASK", "json has no attribute TASK"),
        ("json:dumps", "it has no settings, no splits, no verify"),
        ("cicjax.tasks.stem:Stem", "a class, not a task"),
    ],
)
def test_what_is_no_task(capsys, tmp_path, toy, task, told):
    assert told in refused(capsys, tmp_path, "--model", toy, "--task", task)


def test_the_dev_split_has_a_size_of_its_own(capsys, tmp_path, toy):
    assert "--num_test 8 is for --split test" in refused(
        capsys, tmp_path, "--model", toy, "--split", "dev", "--num_test", 8
    )
    # A run of the dev split records the scale's own number of test questions, and repeats through its
    # configuration.
    flags = Flags(model_name_or_path=str(toy), output_dir=tmp_path, scale="smoke", split="dev", num_test=32)
    assert settings_of(flags, stem.task(), METHODS).split == "dev"


def test_flags_from_a_file_stand_below_those_of_the_command_line(capsys, tmp_path, toy):
    (tmp_path / "flags.yaml").write_text("learning_rate: 1e-5\nmethods: [dpo]\nlora_r: 3\n")
    assert "'dpo'" in refused(capsys, tmp_path, "--model", toy, "--config", tmp_path / "flags.yaml")
    assert "'ppo'" in refused(
        capsys, tmp_path, "--model", toy, f"--config={tmp_path / 'flags.yaml'}", "--methods", "ppo"
    )
    assert (
        "no such file"
        in refused(capsys, tmp_path, "--model", toy, "--config", tmp_path / "none.yaml").lower()
    )
    (tmp_path / "list.yaml").write_text("- a\n")
    assert "holds no flags" in refused(capsys, tmp_path, "--model", toy, "--config", tmp_path / "list.yaml")


def test_values_from_yaml_are_cast_by_the_flags_type(tmp_path):
    """YAML 1.1 reads 1e-5 as a string; as a flag it is the number it looks like."""
    (tmp_path / "flags.yaml").write_text(
        "learning_rate: 1e-5\nlora_target_modules: [q_proj]\nresolved: {nested: 1}\n"
    )
    arguments = cli._with_config(["repro", "--config", str(tmp_path / "flags.yaml"), "--output_dir", "x"])
    command = cli.parse(arguments)
    assert isinstance(command, Repro)
    assert command.learning_rate == 1e-5 and command.lora_target_modules == ("q_proj",)


def test_a_run_its_repetition_another_configuration_and_a_lock(tmp_path, toy):
    """The smallest whole run through the command line; then the same folder again, in three ways."""
    run = tmp_path / "run"
    small = (
        "--model",
        toy,
        "--output_dir",
        run,
        "--scale",
        "smoke",
        "--num_sft",
        8,
        "--num_test",
        8,
        "--methods",
        "sft",
    )
    code, out, err = repro(*small)
    assert code == 0, err
    assert "sft: 8 rows" in out and "[LOSS]" in out and "Solved of 8" in out
    results = (run / "results.json").read_bytes()
    code, out, err = repro("--config", run / "config.json")
    assert code == 0 and (run / "results.json").read_bytes() == results, err
    code, _, err = repro(*small, "--seed", 5)
    assert code == 2 and err.count("\n") == 1 and "seed is 0 there and 5 here" in err
    program = (
        "from cicjax.runs import folder; import pathlib, sys, time; "
        "folder._take_lock(pathlib.Path(sys.argv[1])); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", program, str(run)])
    try:
        deadline = time.monotonic() + 30
        while str(holder.pid) not in (run / "lock").read_text() and time.monotonic() < deadline:
            time.sleep(0.1)
        code, _, err = repro(*small)
        assert code == 3 and err.count("\n") == 1 and f"process {holder.pid}" in err
    finally:
        holder.kill()
        holder.wait()


def test_several_seeds_are_the_runs_of_each_and_one_report(tmp_path, toy):
    shared = ["repro", "--model", str(toy), "--scale", "smoke", "--methods", "base", "sft"]
    assert cli.main([*shared, "--seeds", "1", "0", "1", "--output_dir", str(tmp_path / "all")]) == 0
    assert {path.name for path in (tmp_path / "all").iterdir()} == {
        "seed-0",
        "seed-1",
        "report.html",
        "report-figures",
    }
    assert cli.main([*shared, "--seed", "1", "--output_dir", str(tmp_path / "one")]) == 0
    for name in ("results.json", "evaluations/sft-direct.jsonl"):
        assert (tmp_path / "all" / "seed-1" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()
    assert "<summary>Seed 0</summary>" in (tmp_path / "all" / "report.html").read_text()


def test_seeds_are_refused_before_the_first_starts(capsys, tmp_path, toy):
    assert "--seed is from 0" in refused(capsys, tmp_path, "--model", toy, "--seeds", 0, -1)
    (tmp_path / "finished").mkdir()
    (tmp_path / "finished" / "config.json").write_text("{}")
    assert (
        cli.main(["repro", "--model", str(toy), "--output_dir", str(tmp_path / "finished"), "--seeds", "0"])
        == 2
    )
    assert "is a run already" in capsys.readouterr().err and len(list((tmp_path / "finished").iterdir())) == 1
