"""An adapter's model card: what its checkpoint and its run say of it. Facts only; what nobody wrote down is
left out."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import cicjax
from cicjax import assets, methods
from cicjax.files.hub import HUB_ID
from cicjax.files.seal import read_object
from cicjax.model.config import LoRAConfig
from cicjax.model.storage import CARD
from cicjax.provenance import render
from cicjax.training.adapters import run_config

# What lies between the streams is an objective of `cicjax train`, and no row of the paper's table.
BETWEEN = (
    "between the interventional and the observational stream: the agent's judged turns by their own weights"
)
T = TypeVar("T")
Facts = Iterator[tuple[str, str]]
FRONT, LICENCE = (
    re.compile(r"---\s*\n(.*?)\n---", re.S),
    re.compile(r"^license:\s*\"?([\w.-]+)\"?\s*$", re.M | re.A),
)


def model_card(
    folder: str | Path,
    *,
    known: Mapping[str, Any],
    lora: LoRAConfig,
    base_name: str,
    name: str,
    licence: str | None = None,
    merged_dtype: str | None = None,
    has_template: bool = True,
) -> str:
    """README.md for the adapter in `folder`, which is published under `name`; `known` is what `load_adapter`
    says of it, `licence` an SPDX id as hubs write it, `merged_dtype` how it is stored if merged,
    `has_template` whether the base's tokenizer has a chat template for the usage to call."""
    run = _run(Path(folder), known)
    facts = list(_base_and_adapter(run, base_name, lora, merged_dtype))
    for known_facts in (_training(run), _budget(run), _authors(run)):
        facts += _if_known(known_facts)
    lines = [
        *_front_matter(base_name, "merged" if merged_dtype else "peft", licence),
        f"# {_title(run, base_name, merged_dtype)}",
        "",
    ]
    lines += [f"- {name}: {value}" for name, value in facts]
    lines += _usage(run, name=name, base_name=None if merged_dtype else base_name, has_template=has_template)
    lines += [*_if_known(_accuracies(run)), *_if_known(_held_out(run)), *_prompt(run)]
    return "\n".join(lines) + "\n"


def licence_of(base_folder: Path) -> str | None:
    """The licence that a base's own card says in its first lines; that of the package for what ships with
    it."""
    if base_folder.resolve() == assets.default_model_folder().resolve():
        return "apache-2.0"
    try:
        with (base_folder / CARD).open(encoding="utf-8") as file:
            front = FRONT.match(file.read(1 << 16))
    except (OSError, UnicodeDecodeError):
        return None
    said = LICENCE.search(front[1]) if front else None
    return said[1] if said else None


class _Run(NamedTuple):
    """What the checkpoint and the files beside it say; {} for each file that is not there or speaks of
    another state of the adapter."""

    known: Mapping[str, Any]
    config: dict[str, Any]
    budget: dict[str, Any]
    results: dict[str, Any]

    @property
    def method(self) -> str:
        return str(self.known.get("method", ""))

    @property
    def paper(self) -> bool:
        """Whether this is a method of `cicjax repro` rather than a training on anyone's transcripts."""
        return "scale" in self.config

    @property
    def protocol(self) -> str | None:
        """What prompts are rendered in, where it is known."""
        return "plain" if self.paper else self.known.get("protocol")

    @property
    def objective(self) -> str:
        return self.method if self.paper else str(self.config.get("objective", ""))


def _run(folder: Path, known: Mapping[str, Any]) -> _Run:
    if "step" not in known:  # a peft folder: it may lie beside anything
        return _Run(known, {}, {}, {})
    budget = read_object(folder / "budget.json")
    if budget.get("updates") != known["step"]:
        return _Run(known, run_config(folder), {}, {})
    results, base = read_object(folder.absolute().parent / "results.json"), known.get("base_fingerprint")
    return _Run(known, run_config(folder), budget, results if results.get("model", base) == base else {})


def _if_known(facts: Iterator[T]) -> list[T]:
    """All of these facts, or none where a record lacks one of them, as one that another version wrote may."""
    try:
        return list(facts)
    except (KeyError, TypeError, ValueError, AttributeError):
        return []


def _front_matter(base_name: str, form: Literal["peft", "merged"], licence: str | None) -> list[str]:
    """What a hub reads; JSON strings are YAML strings."""
    lines = ["---", *([] if licence is None else [f"license: {json.dumps(licence)}"])]
    if HUB_ID.fullmatch(base_name) and not Path(base_name).exists():
        lines += [
            f"base_model: {json.dumps(base_name)}",
            f"base_model_relation: {'adapter' if form == 'peft' else 'finetune'}",
        ]
    lines += [
        f"library_name: {'peft' if form == 'peft' else 'transformers'}",
        "pipeline_tag: text-generation",
    ]
    return [*lines, "tags:", *(f"- {tag}" for tag in ("cicjax", "lora")), "---", ""]


def _title(run: _Run, base_name: str, merged_dtype: str | None) -> str:
    name, method = _code(Path(base_name).name or base_name), run.objective or run.method
    what = f"LoRA adapter {_code(method)}" if method else "LoRA adapter"
    return f"{name} with the {what} merged in" if merged_dtype else f"{what} for {name}"


def _base_and_adapter(run: _Run, base_name: str, lora: LoRAConfig, merged_dtype: str | None) -> Facts:
    yield "base", _code(base_name)
    if "base_fingerprint" in run.known:
        yield "SHA-256 of the base's configuration and weights", _code(run.known["base_fingerprint"])
    yield "adapter", f"LoRA of rank {lora.rank}, alpha {lora.alpha:g}, on {', '.join(lora.target_modules)}"
    yield "stored", f"merged in float32, then {merged_dtype}" if merged_dtype else "float32"
    yield "written by", f"cicjax {cicjax.__version__}"


def _training(run: _Run) -> Facts:
    config, objective = run.config, run.objective
    if objective:
        yield "objective", _objective(objective)
    targets = ", ".join(methods.named(objective).targets) if run.paper else _targets(config)
    if targets:
        yield "targets", targets
    if run.protocol is not None:
        yield "protocol", _code(run.protocol)
    if "file" in config:
        yield (
            "transcripts",
            f"{_code(Path(config['file']).name)}, SHA-256 {_code(config['resolved']['file'])}",
        )
    if config.get("start_adapter"):
        yield "started from", _code(config["start_adapter"])
    elif run.paper and objective != methods.START:
        yield "started from", "SFT-1, the same run's adapter `sft`"
    if "seed" in config:
        yield "seed", str(config["seed"])


def _objective(name: str) -> str:
    """What was trained, in words, for a row of the table and for what `cicjax train` calls so."""
    method = methods.named(name)
    if method.weighting is None:
        return BETWEEN if name == "stream" else _code(name)
    return f"{method.label}, {method.equation}: {method.described}"


def _targets(config: Mapping[str, Any]) -> str:
    """Whose words carried loss, as the flags of `cicjax train` say."""
    objective, judged = config.get("objective"), config.get("wrong") or config.get("correct")
    own = ["agent"] if objective == "observational" or (objective == "stream" and judged) else []
    return ", ".join(map(_code, [*own, *config.get("targets", [])]))


def _budget(run: _Run) -> Facts:
    step, total, budget = run.known.get("step"), run.known.get("total_updates"), run.budget
    if step is not None:
        unfinished = (
            f" of {total:,}: the training had not ended" if isinstance(total, int) and total != step else ""
        )
        empty = (
            f", {budget['empty_updates']:,} of them without a target" if budget.get("empty_updates") else ""
        )
        yield "updates", f"{step:,}{unfinished}{empty}"
    processed = "processed tokens, of rows that carry loss"
    for key, name in (
        ("rows", "rows"),
        ("supervised_tokens", "supervised tokens"),
        ("processed_tokens", processed),
    ):
        if isinstance(budget.get(key), int):
            yield name, f"{budget[key]:,}"
    if isinstance(budget.get("learning_rate"), float):
        yield "peak learning rate", f"{budget['learning_rate']:g}"
    if isinstance(budget.get("flop"), int):
        yield "floating-point operations", f"{budget['flop']:.2e}"


def _authors(run: _Run) -> Facts:
    """Tokens by author: as the training counted them, or as the ledger of the stream has them."""
    for key, name in (
        ("tokens_by_author", "tokens by author"),
        ("supervised_by_author", "supervised tokens by author"),
    ):
        counts = run.budget.get(key)
        if isinstance(counts, dict):
            yield name, ", ".join(f"{_code(author)} {count:,}" for author, count in counts.items())
    ledger = run.results.get("ledger")
    if (
        run.paper
        and methods.named(run.method).takes_stream_whole
        and isinstance(ledger, dict)
        and "positions_total" in ledger
    ):
        agent, teacher = ledger["positions_attempts"], ledger["positions_interventional"]
        others = ledger["positions_total"] - agent - teacher
        yield (
            "tokens of the stream by author",
            f"agent {agent:,}, teacher {teacher:,}, questions and prefixes {others:,}",
        )


def _accuracies(run: _Run) -> Iterator[str]:
    """The method's line of the paper's table, with those of the bare base and of SFT-1 where the run has
    them."""
    rows = run.results.get("methods", {})
    if run.method not in rows:
        return
    questions, split = rows[run.method]["questions"], run.config["split"]
    yield from [
        "",
        "## Results",
        "",
        f"{questions} questions of the {_code(split)} split, greedy; seed {run.results['seed']}.",
        "",
    ]
    yield from [
        "| method | solved | 95 % (Wilson) | solved where SFT-1 failed, after its attempt |",
        "|---|---|---|---|",
    ]
    for name in dict.fromkeys((methods.UNTRAINED, methods.START, run.method)):
        if name in rows:
            row = rows[name]
            interval = f"{100 * row['wilson_low']:.1f} to {100 * row['wilson_high']:.1f} %"
            repaired = f"{row['repair_solved']} of {row['repair_questions']}"
            yield f"| {name} | {row['solved']} of {row['questions']} | {interval} | {repaired} |"


def _held_out(run: _Run) -> Iterator[str]:
    held_out = run.results.get("held_out", {})
    if not held_out.get("after"):
        return
    yield from [
        "",
        "## Held-out negative log-likelihood, in nats a token",
        "",
        "| author | tokens | before | after |",
        "|---|---|---|---|",
    ]
    for author, before in held_out["before"].items():
        after = held_out["after"][author]
        nats = f"{before['nll']:.4f} | {after['nll']:.4f}"
        yield f"| {_code(author)} | {before['tokens']:,} | {nats} |"


def _usage(run: _Run, *, name: str, base_name: str | None, has_template: bool) -> Iterator[str]:
    """A completion in Python, by transformers and for an adapter beside its base by peft."""
    kind = "AutoModelForCausalLM" if base_name is None else "AutoPeftModelForCausalLM"
    needed = {"transformers": ["AutoTokenizer"]}
    needed.setdefault("transformers" if base_name is None else "peft", []).append(kind)
    yield from ["", "## Usage", "", "```python"]
    yield from (
        f"from {library} import {', '.join(sorted(names))}" for library, names in sorted(needed.items())
    )
    yield ""
    yield f"model = {kind}.from_pretrained({json.dumps(name)})"
    yield f"tokenizer = AutoTokenizer.from_pretrained({json.dumps(base_name or name)})"
    if run.protocol == "plain" or not has_template:
        question = "What is 2+2?"
        chat = f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
        text = render.PROMPT.format(question=question) if run.protocol == "plain" else chat
        yield f'prompt = tokenizer({json.dumps(text)}, return_tensors="pt")'
    else:
        yield 'messages = [{"role": "user", "content": "What is 2+2?"}]'
        yield "prompt = tokenizer.apply_chat_template("
        yield '    messages, add_generation_prompt=True, return_dict=True, return_tensors="pt"'
        yield ")"
    yield 'completion = model.generate(**prompt, max_new_tokens=256)[0, prompt["input_ids"].shape[1] :]'
    yield from ["print(tokenizer.decode(completion, skip_special_tokens=True))", "```"]


def _prompt(run: _Run) -> Iterator[str]:
    if run.protocol == "plain":
        yield from [
            "",
            "## Prompt",
            "",
            "Trained on the plain protocol; a solution ends with the end-of-text token.",
            "",
        ]
        yield from ["```", *render.PROMPT.splitlines(), "```"]


def _code(text: Any) -> str:
    """A name from a file or a flag as Markdown code on one line."""
    return "`" + " ".join(str(text).replace("`", "'").split())[:200] + "`"
