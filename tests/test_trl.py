"""The labels file in somebody else's trainer: TRL's SFTTrainer, as it comes, minimises what `cicjax score`
counts."""

import json
import math
from pathlib import Path

import pytest
import tiny_qwen2

from cicjax import cli

pytest.importorskip("torch")
pytest.importorskip("trl", exc_type=ImportError)

QUESTION = {"role": "user", "author": "user", "content": "A force of 12 N acts on 3 kg."}
ATTEMPT = {"role": "assistant", "author": "agent", "content": "a = F / m = 12 / 3 = 5"}
CORRECTION = {"role": "assistant", "author": "teacher", "content": "a = F / m = 12 / 3 = 4"}
# Of unequal length, so that a batch has padding; the last has no correction, and TRL leaves it out where
# nothing in it is a label.
DIALOGUES = (
    [QUESTION, ATTEMPT, CORRECTION],
    [QUESTION, CORRECTION],
    [QUESTION, ATTEMPT, {**CORRECTION, "content": "4 m/s^2\n"}, QUESTION, ATTEMPT, CORRECTION],
    [QUESTION, ATTEMPT],
)


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    tiny_qwen2.write(tmp_path / "toy", seed=4)
    return tmp_path / "toy"


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "log.jsonl"
    path.write_text(
        "".join(
            json.dumps({"id": str(n), "messages": messages}) + "\n" for n, messages in enumerate(DIALOGUES)
        )
    )
    return path


def losses_in_trl(rows: Path, toy: Path, folder: Path, *, kind: str = "SFT") -> list[float]:
    """The losses of two updates on the whole file, in nats a label, by TRL's trainer of this kind."""
    import torch
    import trl
    from datasets import load_dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(toy, dtype=torch.float32)
    settings = getattr(trl, f"{kind}Config")(
        output_dir=str(folder / "out"),
        max_steps=2,
        per_device_train_batch_size=len(DIALOGUES),
        learning_rate=1e-2,
        bf16=False,
        use_cpu=True,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    read = load_dataset("json", data_files=str(rows), split="train", cache_dir=str(folder / "cache"))
    trainer = getattr(trl, f"{kind}Trainer")(
        model, args=settings, train_dataset=read, processing_class=AutoTokenizer.from_pretrained(toy)
    )
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.mark.parametrize(
    ("to", "kind", "expected"), [("trl", "SFT", None), ("preference", "DPO", math.log(2))]
)
def test_rows_that_convert_writes_are_what_trls_trainers_take(toy, log, tmp_path, capsys, to, kind, expected):
    """Completions as they are; pairs, whose first loss is that of a model which prefers neither."""
    (toy / "chat_template.jinja").write_text(TEMPLATE)
    rows = tmp_path / "rows.jsonl"
    assert cli.main(["convert", str(log), "--to", to, "--output", str(rows)]) == 0
    assert len(rows.read_text().splitlines()) == {"trl": 4, "preference": 3}[to]
    first, second = losses_in_trl(rows, toy, tmp_path, kind=kind)
    assert second < first - 0.001 and (expected is None or first == pytest.approx(expected, abs=1e-4))
    capsys.readouterr()


@pytest.mark.parametrize(
    ("form", "objective", "learned"),
    [("plain", "interventional", ("teacher",)), ("chatml", "observational", ("agent", "teacher"))],
)
def test_trls_first_loss_is_the_quotient_of_the_scores(toy, log, tmp_path, capsys, form, objective, learned):
    labels = tmp_path / "labels.jsonl"
    where = ["--tokenizer", str(toy), "--format", form]
    assert cli.main(["mask", str(log), *where, "--objective", objective, "--labels", str(labels)]) == 0
    capsys.readouterr()
    assert cli.main(["score", str(log), "--model", str(toy), "--format", form, "--json"]) == 0
    scores = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    nats = -sum(score["sum_by_author"].get(author, 0.0) for score in scores for author in learned)
    tokens = sum(score["author"].count(author) for score in scores for author in learned)
    first, second = losses_in_trl(labels, toy, tmp_path)
    assert first == pytest.approx(nats / tokens, abs=1e-4)
    assert second < first - 0.01
