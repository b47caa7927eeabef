"""`cicjax export` as a user meets it: a run's adapter out in both forms, its card, and one line for what is
wrong."""

import json
import os
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_qwen2
import yaml
from safetensors.numpy import load_file

from cicjax import cli
from cicjax.commands.export import Export
from cicjax.files import whole
from cicjax.files.whole import write_json
from cicjax.model import huggingface, lora, peft, qwen2
from cicjax.model.config import LoRAConfig
from cicjax.training import checkpoints

SETTINGS = LoRAConfig(rank=4, alpha=8.0)


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setitem(cli.VERBS, "export", Export)


@pytest.fixture
def run(tmp_path):
    """A run of two methods over a random base: `sft` finished with its files beside it, `grpo` half way."""
    tiny_qwen2.write(tmp_path / "base", dtype="bfloat16")
    config, fingerprint = (
        huggingface.read_config(tmp_path / "base"),
        huggingface.fingerprint(tmp_path / "base"),
    )
    fresh = lora.init_adapter(config, SETTINGS, jax.random.key(0))
    adapter = jax.tree.map(
        lambda leaf: leaf + 0.1 * jax.random.normal(jax.random.key(leaf.size), leaf.shape), fresh
    )
    settings = {"rank": 4, "alpha": 8.0, "target_modules": list(SETTINGS.target_modules)}
    for method, step in (("interventional", 7), ("grpo", 5), ("untrained", 7)):
        tree = {"adapter": fresh if method == "untrained" else adapter, "step": jnp.int32(step)}
        metadata = {"method": method, "total_updates": 7, "base_fingerprint": fingerprint, "lora": settings}
        checkpoints.save(tmp_path / "run" / method, step, tree=tree, metadata=metadata)
    budget = {
        "updates": 7,
        "empty_updates": 2,
        "rows": 50,
        "supervised_tokens": 1234,
        "processed_tokens": 5678,
        "learning_rate": 2e-4,
    }
    write_json(tmp_path / "run/interventional/budget.json", budget | {"flop": 10**12})
    write_json(
        tmp_path / "run/config.json",
        {"model_name_or_path": str(tmp_path / "base"), "scale": "small", "seed": 3, "split": "test"},
    )
    row = {
        "solved": 44,
        "questions": 100,
        "wilson_low": 0.347,
        "wilson_high": 0.538,
        "repair_solved": 9,
        "repair_questions": 43,
    }
    ledger = {"positions_total": 900, "positions_attempts": 400, "positions_interventional": 300}
    results = {
        "model": fingerprint,
        "seed": 3,
        "ledger": ledger,
        "methods": {"sft": row | {"solved": 57}, "interventional": row},
    }
    write_json(tmp_path / "run/results.json", results)
    return tmp_path / "run"


def export(*arguments):
    return cli.main(["export", *map(str, arguments)])


def refused(capsys, *arguments, code=2):
    """The one line of a refusal, with nothing written beside the input."""
    before = sorted(os.listdir(arguments[0].parent))
    assert export(*arguments) == code
    output = capsys.readouterr()
    assert output.err.count("\n") == 1 and output.err.startswith("cicjax: error: ")
    assert sorted(os.listdir(arguments[0].parent)) == before
    return output.err


def test_peft_and_back(tmp_path, run, capsys):
    out = tmp_path / "new" / "out"
    assert export(run / "interventional", "--output_dir", out) == 0
    assert capsys.readouterr().out.startswith(f"{out}: ")
    config = huggingface.read_config(tmp_path / "base")
    adapter, settings = peft.read_peft(out, config)
    saved = checkpoints.load_adapter(run / "interventional")[0]
    assert settings == SETTINGS
    assert all(
        np.array_equal(a, b) for a, b in zip(jax.tree.leaves(adapter), jax.tree.leaves(saved), strict=True)
    )
    assert json.loads((out / "adapter_config.json").read_text())["base_model_name_or_path"] == str(
        tmp_path / "base"
    )
    assert peft.read_metadata(out)["base_fingerprint"] == huggingface.fingerprint(tmp_path / "base")
    assert (
        export(
            out,
            "--model",
            tmp_path / "base",
            "--output_dir",
            tmp_path / "twice",
            "--base_name",
            "owner/base-0.5B",
        )
        == 0
    )
    first, second = (
        (folder / "adapter_model.safetensors").read_bytes() for folder in (out, tmp_path / "twice")
    )
    assert first == second
    assert (
        json.loads((tmp_path / "twice" / "adapter_config.json").read_text())["base_model_name_or_path"]
        == "owner/base-0.5B"
    )
    assert 'base_model: "owner/base-0.5B"' in (tmp_path / "twice" / "README.md").read_text()


@pytest.mark.parametrize(("asked", "stored"), [("auto", "bfloat16"), ("float32", "float32")])
def test_merged(tmp_path, run, asked, stored):
    out = tmp_path / "out"
    assert export(run / "interventional", "--format", "merged", "--dtype", asked, "--output_dir", out) == 0
    merged = load_file(out / "model.safetensors")
    assert {tensor.dtype.name for tensor in merged.values()} == {stored} and "lm_head.weight" not in merged
    assert (out / "tokenizer.json").read_bytes() == (tmp_path / "base" / "tokenizer.json").read_bytes()
    card = (out / "README.md").read_text()
    assert f"merged in float32, then {stored}" in card and "library_name: transformers" in card
    config, base = huggingface.load_base(tmp_path / "base", jnp.float32)
    adapter = checkpoints.load_adapter(run / "interventional")[0]
    tokens = jnp.arange(20)[None]
    expected = np.asarray(qwen2.apply(qwen2.Model(config, SETTINGS), base, adapter, tokens))
    again, whole = huggingface.load_base(out, jnp.float32)
    found = np.asarray(qwen2.apply(qwen2.Model(again), whole, None, tokens))
    bare = np.asarray(qwen2.apply(qwen2.Model(config), base, None, tokens))
    tolerance = 1e-4 if stored == "float32" else 0.1
    assert np.abs(found - expected).max() < tolerance < np.abs(found - bare).max()


def test_the_card_has_the_facts_and_no_others(tmp_path, run):
    assert export(run / "interventional", "--output_dir", tmp_path / "out") == 0
    card = (tmp_path / "out" / "README.md").read_text()
    for fact in (
        "`base`",
        huggingface.fingerprint(tmp_path / "base"),
        "rank 4, alpha 8, on q_proj",
        "equation (14)",
        "targets: teacher",
        "seed: 3",
        "updates: 7, 2 of them without a target",
        "rows: 50",
        "supervised tokens: 1,234",
        "processed tokens, of rows that carry loss: 5,678",
        "peak learning rate: 0.0002",
        "floating-point operations: 1.00e+12",
        "agent 400, teacher 300, questions and prefixes 200",
        "| interventional | 44 of 100 | 34.7 to 53.8 % | 9 of 43 |",
        "| sft | 57 of 100 |",
        "100 questions of the `test` split, greedy; seed 3.",
        "Proposed solution:",
    ):
        assert fact in card, fact
    assert "base_model:" not in card and "unknown" not in card.lower() and "None" not in card
    assert export(run / "grpo", "--output_dir", tmp_path / "half") == 0
    half = (tmp_path / "half" / "README.md").read_text()
    assert "updates: 5 of 7: the training had not ended" in half
    assert "## Results" not in half and "rows:" not in half and "of 100" not in half


@pytest.mark.parametrize(
    ("said", "asked", "licence"),
    [
        ("---\nlicense: mit\ntags: [x]\n---\n# A base\n", (), "mit"),
        ("---\nlicense: mit\n---\n", ("--license", "cc-by-4.0"), "cc-by-4.0"),
        ("# A base\nlicense: mit\n", (), None),
        ("---\nlicense: |\n  [a](b)\n---\n", (), None),
        (None, (), None),
    ],
)
def test_the_licence_is_that_of_the_base_or_as_asked(tmp_path, run, said, asked, licence):
    if said is not None:
        (tmp_path / "base/README.md").write_text(said)
    assert export(run / "interventional", *asked, "--output_dir", tmp_path / "out") == 0
    front = yaml.safe_load((tmp_path / "out/README.md").read_text().split("---")[1])
    assert front.get("license") == licence and front["library_name"] == "peft"


@pytest.mark.parametrize("form", ["peft", "merged"])
@pytest.mark.parametrize(("protocol", "has_template"), [("chatml", True), ("chatml", False), ("plain", True)])
def test_the_usage_that_the_card_shows_runs(tmp_path, run, form, protocol, has_template):
    """In a Python of its own, as a reader would paste it; a base without a chat template is not asked for
    it."""
    for library in ("torch", "peft"):
        pytest.importorskip(library)
    if protocol == "chatml":
        tree, known = checkpoints.load_adapter(run / "interventional")
        checkpoints.save(
            tmp_path / "chat/adapter", 7, tree={"adapter": tree}, metadata=known | {"protocol": protocol}
        )
    adapter = tmp_path / "chat/adapter" if protocol == "chatml" else run / "interventional"
    template = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    if has_template:
        (tmp_path / "base/chat_template.jinja").write_text(template + "<|im_start|>assistant\n")
    out = ("--format", form, "--output_dir", tmp_path / "out")
    assert export(adapter, "--model", tmp_path / "base", *out) == 0
    card = (tmp_path / "out/README.md").read_text()
    code = card.split("```python\n")[1].split("```")[0]
    assert ("apply_chat_template" in code) is (protocol == "chatml" and has_template)
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0 and ran.stdout.strip(), ran.stderr


def test_facts_of_another_state_or_base_are_left_out(tmp_path, run):
    budget = json.loads((run / "interventional/budget.json").read_text())
    write_json(run / "interventional/budget.json", budget | {"updates": 6})
    assert export(run / "interventional", "--output_dir", tmp_path / "stale") == 0
    stale = (tmp_path / "stale" / "README.md").read_text()
    assert "updates: 7\n" in stale and "1,234" not in stale and "## Results" not in stale
    write_json(run / "interventional/budget.json", budget)
    write_json(run / "results.json", json.loads((run / "results.json").read_text()) | {"model": "0" * 64})
    assert export(run / "interventional", "--output_dir", tmp_path / "foreign") == 0
    foreign = (tmp_path / "foreign" / "README.md").read_text()
    assert "1,234" in foreign and "## Results" not in foreign


def test_the_card_of_a_training_on_own_transcripts(tmp_path, run):
    flags = {
        "objective": "stream",
        "wrong": 0.0,
        "correct": 1.0,
        "targets": ["teacher", "user"],
        "file": "logs/mine`\n.jsonl",
        "seed": 5,
    }
    config = {
        "model_name_or_path": str(tmp_path / "base"),
        "format": "chatml",
        "start_adapter": "runs/a/sft",
        "resolved": {"file": "ff" * 32},
    }
    write_json(run / "config.json", flags | config)
    budget = json.loads((run / "interventional/budget.json").read_text())
    counted = {"tokens_by_author": {"agent": 4000, "teacher": 30}, "supervised_by_author": {"teacher": 30}}
    write_json(run / "interventional/budget.json", budget | counted)
    held_out = {
        "before": {"teacher": {"nll": 2.5, "tokens": 70}},
        "after": {"teacher": {"nll": 1.25, "tokens": 70}},
    }
    write_json(run / "results.json", {"objective": "stream", "held_out": held_out})
    assert export(run / "interventional", "--output_dir", tmp_path / "out") == 0
    card = (tmp_path / "out" / "README.md").read_text()
    for fact in (
        "targets: `agent`, `teacher`, `user`",
        "transcripts: `mine' .jsonl`, SHA-256 `ffff",
        "started from: `runs/a/sft`",
        "seed: 5",
        "tokens by author: `agent` 4,000, `teacher` 30",
        "supervised tokens by author: `teacher` 30",
        "| `teacher` | 70 | 2.5000 | 1.2500 |",
    ):
        assert fact in card, fact
    assert "equation" not in card and "Proposed solution" not in card


@pytest.mark.parametrize("name", ["results.json", "config.json", "interventional/budget.json"])
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b'{"methods": 3, "held_out": 4, "ledger": 5, "updates": 7, "rows": "x", "targets": 2}',
        b"\xff",
    ],
)
def test_a_strange_file_beside_the_adapter_costs_its_facts_alone(tmp_path, run, name, content):
    (run / name).write_bytes(content)
    assert export(run / "interventional", "--model", tmp_path / "base", "--output_dir", tmp_path / "out") == 0
    assert "rank 4" in (tmp_path / "out" / "README.md").read_text()


def test_refusals(tmp_path, run, capsys):
    out = ("--output_dir", tmp_path / "out")
    tiny_qwen2.write(tmp_path / "other", seed=5, dtype="bfloat16")
    line = refused(capsys, run / "interventional", "--model", tmp_path / "other", *out)
    assert str(tmp_path / "base") in line and str(tmp_path / "other") in line
    assert (
        huggingface.fingerprint(tmp_path / "base")[:12] in line
        and huggingface.fingerprint(tmp_path / "other")[:12] in line
    )
    assert "grpo, interventional" in refused(capsys, run, "--model", tmp_path / "base", *out)
    assert "no such folder" in refused(capsys, run / "absent", *out)
    assert "no such folder" in refused(capsys, run / "interventional", "--model", tmp_path / "absent", *out)
    assert "--dtype is for" in refused(capsys, run / "interventional", "--dtype", "bfloat16", *out)
    for form in ("peft", "merged"):
        assert "changes nothing" in refused(capsys, run / "untrained", "--format", form, *out)
        assert "exists already" in refused(
            capsys, run / "interventional", "--format", form, "--output_dir", run
        )
    (run / "config.json").unlink()
    assert "--model" in refused(capsys, run / "interventional", *out)
    (run / "interventional" / "7" / "digests.json").write_text("{}")
    refused(capsys, run / "interventional", "--model", tmp_path / "base", *out, code=5)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("format", ["peft", "merged"])
def test_what_the_disk_lacks_is_said_before_anything_is_written(run, tmp_path, monkeypatch, capsys, format):
    adapter = run / "interventional"
    arguments = ["export", str(adapter), "--format", format, "--output_dir", str(tmp_path / "out" / "new")]
    monkeypatch.setattr(whole, "_free", lambda path: 1000)
    assert cli.main(arguments) == 4
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "out/new: no space" in said and "1,000 bytes free" in said
    need = int(re.search(r"([\d,]+) bytes needed", said)[1].replace(",", ""))
    assert not list((tmp_path / "out").iterdir())
    monkeypatch.undo()
    cli.main(arguments)
    written = sum(path.stat().st_size for path in (tmp_path / "out" / "new").iterdir())
    assert written <= need < written + 100_000
