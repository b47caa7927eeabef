"""The report of small runs written by code: what it shows is what the folder says, whatever strange text
stands in it."""

import base64
import hashlib
import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_qwen2

from cicjax.errors import BadInput, Corrupted
from cicjax.experiments.answers import Answer
from cicjax.experiments.paper.evaluate import direct_summary, second_summary
from cicjax.experiments.paper.records import Results
from cicjax.files import seal
from cicjax.files.seal import write_json, write_jsonl
from cicjax.logs.native import format_episode
from cicjax.methods.rows import attempted, question
from cicjax.provenance import Author, Message, encode, render, weights
from cicjax.provenance import tokenizer as tokenizers
from cicjax.report import (
    accounts,
    claims,
    document,
    drawing,
    figures,
    information,
    paper,
    runs,
    sections,
    transcripts,
)
from cicjax.statistics import t_interval
from cicjax.tasks import stem

METHODS = ("base", "sft", "rest", "grpo", "oracle", "oracle_shared", "observational", "interventional")
SHARE = dict(zip(METHODS, (0.3, 0.5, 0.6, 0.55, 0.6, 0.6, 0.5, 0.75), strict=True))
HOSTILE = (
    "</script></pre><script>alert(1)</script><img src=x onerror=alert(2)>\x00\x1b[31m\u202e\ud800 & "
    '"quoted" <eos>'
)
WORTH = {"nats": 0.004, "low": -0.003, "high": 0.011, "where_it_leaves": 0.41, "elsewhere": -0.002}
VOID = {"meta", "br", "img", "link", "input", "hr"}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tiny_qwen2.write_tokenizer(folder)
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory, model):
    """A whole run; tests that write into it copy it first."""
    folder = tmp_path_factory.mktemp("runs") / "seed0"
    write_run(folder, model=model)
    return folder


@pytest.fixture
def copy(run, tmp_path):
    return Path(shutil.copytree(run, tmp_path / "run"))


def write_run(
    folder: Path, *, model: Path, seed: int = 0, methods=METHODS, questions: int = 20, text: str = "V = 1 V."
) -> None:
    """A run folder as `cicjax repro` leaves it, of made-up verdicts: everything the report reads, consistent
    in itself."""
    folder.mkdir(parents=True)
    seal.begin(folder)
    rng, loaded = np.random.default_rng(seed), tokenizers.load(model)
    problems = stem.make_splits(seed=seed, sft=1, agent=12, test=questions, dev=1, numbers="tiny")
    answers = {name: _answers(problems.test, rng, share=SHARE[name], text=text) for name in methods}
    first = answers["sft"]
    second = {name: _answers(problems.test, rng, share=0.4, text=text) for name in methods}
    stream = [
        _stream_row(problem, sample, rng, loaded, text) for problem in problems.agent for sample in range(3)
    ]
    ledger = _ledger(stream, loaded)
    rows = {}
    for number, name in enumerate(methods):
        rows[name] = direct_summary(answers[name]) | second_summary(answers[name], second[name], first)
        rows[name] |= {
            "self_confirmation": 0.1 * number - 0.1,
            "truth_gain": 0.05 * number - 0.05,
            "budget": _budget(name, ledger),
        }
        for protocol, given in (("direct", answers[name]), ("second", second[name])):
            lines = [answer.to_json() for answer in given]
            write_jsonl(folder / "evaluations" / f"{name}-{protocol}.jsonl", lines)
    write_jsonl(
        folder / "rollouts" / "stream.jsonl",
        [json.loads(format_episode(episode)) | {"meta": meta} for episode, meta in stream],
    )
    facts = {
        "grpo": {"groups": 4, "flat_groups": 1, "update_steps": 3},
        "rest": {"candidates": 32, "groups": 4, "selected": 3},
    }
    settings = {
        "seed": seed,
        "methods": list(methods),
        "counts": {"wrong_attempts": 9, "groups": 4},
        "optimization": {"learning_rate": 1e-3},
    }
    results = {
        "model": "ab" * 32,
        "model_name": "toy",
        "seed": seed,
        "settings": settings,
        "ledger": ledger,
        **facts,
        "methods": rows,
    }
    config = {
        "model_name_or_path": str(model),
        "output_dir": str(folder),
        "scale": "smoke",
        "seed": seed,
        "methods": list(methods),
    }
    write_json(folder / "results.json", results)
    write_json(folder / "config.json", config | {"learning_rate": None, "resolved": {"model": "ab" * 32}})
    write_json(folder / "environment.json", {"python": "3.11", "device": "cpu"})
    write_json(folder / "timings.json", {"train sft": 12.5, "stream": 3.25})
    write_jsonl(folder / "metrics.jsonl", [line for name in methods[1:] for line in _metrics(name, rng)])
    seal.take(folder)
    seal.release(folder)


def reseal(folder: Path) -> None:
    """As if its files were all that the run ever wrote."""
    seal.begin(folder)
    for path in sorted(folder.rglob("*.json*")):
        if path.name != seal.NAME:
            seal.write_bytes(path, path.read_bytes())
    seal.take(folder)
    seal.release(folder)


def _answers(problems, rng, *, share: float, text: str) -> list[Answer]:
    return [
        Answer(
            id=problem.id,
            sample=0,
            skill=problem.skill,
            prompt=render.PROMPT.replace("{question}", problem.question),
            completion=f"{text} Final answer: {n}",
            solved=bool(rng.random() < share),
            reason="wrong value",
            finish_reason="stop" if n % 7 else "length",
            marker=True,
            prompt_tokens=9,
            tokens=(1, 0),
            logprobs=(-0.5, -0.5),
        )
        for n, problem in enumerate(problems)
    ]


def _stream_row(problem, sample: int, rng, loaded, text: str):
    said = text.replace("\ud800", "")  # A transcript file holds Unicode; only answers may carry half a pair.
    ids = (*loaded.encode(said), loaded.end_of_text)
    solved = int(rng.random() < 0.5)
    attempt = Message(
        role="assistant",
        author=Author.AGENT,
        content=said,
        tokens=ids,
        logprobs=(-0.5,) * len(ids),
        solved=solved,
    )
    prompt = encode(render.plain([question(problem.question)], open_turn=True), loaded).tokens
    meta = {"skill": problem.skill, "problem": problem.id, "prompt_tokens": len(prompt)}
    return attempted(
        f"{problem.id}#{sample}", question_text=problem.question, attempt=attempt, correction=problem.solution
    ), meta


def _ledger(stream, loaded) -> dict[str, int]:
    encoded = [encode(render.plain(episode.messages), loaded) for episode, _ in stream]
    wrong = [meta["problem"] for episode, meta in stream if episode.messages[1].solved == 0]

    def positions(weighting) -> int:
        return sum(int(weighting(each.gamma, each.is_target).sum()) for each in encoded)

    corrections = positions(weights.interventional)
    return {
        "stream_rows": len(stream),
        "wrong_attempts": len(wrong),
        "first_attempts_correct": len(stream) - len(wrong),
        "unique_corrected_questions": len(set(wrong)),
        "positions_total": sum(len(each.tokens) for each in encoded),
        "positions_observational": positions(weights.observational),
        "positions_interventional": corrections,
        "positions_attempts": positions(weights.policy),
        "positions_oracle": corrections,
    }


def _budget(name: str, ledger: dict[str, int]) -> dict[str, Any]:
    supervised = ledger.get(f"positions_{'oracle' if name.startswith('oracle') else name}", 7)
    spent = {
        "updates": 5,
        "empty_updates": 0,
        "rows": 36,
        "supervised_tokens": supervised,
        "processed_tokens": supervised + 321,
        "sampled_tokens": 400,
    }
    rest = {"verifier_calls": 36, "oracle_solutions": ledger["wrong_attempts"], "flop": 123456789}
    return spent | rest | {"learning_rate": None if name == "base" else 1e-3}


def _metrics(name: str, rng) -> list[dict[str, Any]]:
    rows = []
    for update in range(1, 13):
        row = {"stage": name, "update": update, "loss": float(rng.random()), "applied": update != 5}
        rows.append(row | ({"reward": 0.5} if name == "grpo" else {}))
    return rows


class Outline(HTMLParser):
    """What a browser would build: tags with their attributes, text by the tag that holds it, and whether
    everything closes in order."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(content)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        self.texts.append((self.open[-1] if self.open else "", data))

    @property
    def text(self) -> str:
        return " ".join(data for tag, data in self.texts if tag not in ("style", "script"))


def written(folder: Path) -> tuple[str, Outline]:
    """The page as the folder then holds it, figures and all."""
    content = document.write_report([folder]).read_text()
    return content, Outline(content)


def page_of(*folders: Path) -> tuple[str, Outline]:
    """The page without its figures, which take most of the time."""
    content = document.render_page(runs.read_runs(list(folders)), [])
    return content, Outline(content)


def table_after(content: str, caption: str) -> list[list[str]]:
    """Cells of the table under this caption, tags taken out."""
    start = content.index(caption, content.index("<main>"))
    body = content[content.index("<table", start) : content.index("</table>", start)]
    rows = re.findall(r"<tr>(.*?)</tr>", body, flags=re.DOTALL)
    return [
        [
            re.sub(r"<[^>]+>", "", cell)
            for cell in re.findall(r"<t[hd]\b[^>]*>(.*?)</t[hd]>", row, flags=re.DOTALL)
        ]
        for row in rows
    ]


def results_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "results.json").read_text())


def records_of(folder: Path) -> Results:
    return Results.from_json(results_of(folder), where=folder)


def change(folder: Path, **changes: Any) -> None:
    """Write results.json again with other values, by dotted name; `__` stands for the dot."""
    results = results_of(folder)
    for name, value in changes.items():
        holder, *path = results, *name.split("__")
        for part in path[:-1]:
            holder = holder[part]
        if value is None:
            del holder[path[-1]]
        else:
            holder[path[-1]] = value
    write_json(folder / "results.json", results)


def test_every_method_has_its_row_with_the_numbers_and_intervals_of_results_json(copy):
    content, _ = page_of(copy)
    header, *rows = table_after(content, "Every method on the same questions")
    assert [row[0] for row in rows] == [drawing.look(name).label for name in METHODS]
    for row, (name, method) in zip(rows, results_of(copy)["methods"].items(), strict=True):
        shown = dict(zip(header, row, strict=True))
        assert shown["direct, of 20"] == str(method["solved"]), name
        assert shown["95 % Wilson"] == f"{100 * method['wilson_low']:.1f}–{100 * method['wilson_high']:.1f} %"
        assert shown["repair"] == f"{method['repair_solved']}/{method['repair_questions']}"
        assert [shown[key] for key in ("two-step", "kept", "lost", "gained", "cut")] == [
            str(method[key]) for key in ("two_step_solved", "kept", "lost", "gained", "truncated")
        ]
        assert shown["harmed"] == f"{method['harmed']}/{20 - method['repair_questions']}"
    budgets = table_after(content, "The methods do not buy the same information")
    assert [row[3] for row in budgets[1:]] == [
        f"{m['budget']['supervised_tokens']:,}" for m in results_of(copy)["methods"].values()
    ]


def test_figure_2_adds_up_to_the_ledger(run):
    results = records_of(run)
    assert results.ledger is not None
    ledger, bars = results.ledger, figures.position_bars(results.ledger, results.methods)
    for arm in ("observational", "interventional"):
        corrections, attempts, context = bars[arm]
        assert (
            corrections + attempts == ledger.positions[arm]
            and corrections + attempts + context == ledger.positions["total"]
        )
    assert bars["observational"][1] == ledger.positions["attempts"] and bars["interventional"][1] == 0
    assert bars["oracle"][0] == ledger.positions["oracle"] == bars["interventional"][0]
    drawn = figures.positions(ledger, results.methods)
    for corrections, attempts, context in bars.values():
        assert f"{corrections + attempts:,} of {corrections + attempts + context:,}" in drawn.svg
        assert f"{context:,} context only" in drawn.alt


def test_figure_3_counts_every_attempt_of_the_stream(run):
    read = runs.read_run(run)
    drawn = figures.composition(document._attempts(read))
    counted = [tuple(map(int, pair)) for pair in re.findall(r"(\d+) wrong, (\d+) right", drawn.svg)]
    ledger = read.results.ledger
    assert ledger is not None
    assert (sum(w for w, _ in counted), sum(r for _, r in counted)) == (
        ledger.wrong_attempts,
        ledger.first_attempts_correct,
    )
    assert f"on {ledger.unique_corrected_questions} of 12 questions" in drawn.caption


def test_figures_4_and_5_say_what_was_solved(run):
    methods = records_of(run).methods
    solved, matched = figures.protocols(methods), figures.stream_matched(methods)
    for name, row in methods.items():
        assert (
            f"{drawing.look(name).label}: direct {row.solved} of 20, two-step {row.two_step_solved}"
            in solved.alt
        )
        assert (
            f">{row.solved}/20<" in solved.svg
            and f">{row.repair_solved}/{row.repair_questions}<" in solved.svg
        )
    arms = ["oracle", "oracle_shared", "observational", "interventional"]
    assert figures.stream_arms(methods) == arms
    for name in arms:
        row = methods[name]
        assert row.two_step_solved == row.right_first + row.repair_solved
        assert (
            f"repaired {row.repair_solved} of {row.repair_questions}, two-step {row.two_step_solved}"
            in matched.alt
        )
    assert "ReST" not in matched.alt


def test_the_base_is_told_and_not_drawn_where_it_would_hide_the_others(run):
    methods = records_of(run).methods
    near = figures.self_confirmation(methods, {})
    methods["base"] = replace(methods["base"], self_confirmation=-9.0, truth_gain=-8.0)
    far = figures.self_confirmation(methods, {})
    assert "Base lies outside, at (−9.00, −8.00)" in far.caption and ">Base (" not in far.svg
    assert "outside" not in near.caption and ">Base (" in near.svg


def test_usable_information_is_drawn_by_position_with_its_interval_and_its_seeds(run):
    methods = records_of(run).methods
    methods["interventional"] = replace(methods["interventional"], usable_information=WORTH)
    never_left = WORTH | {"where_it_leaves": None}
    methods["sft"] = replace(methods["sft"], usable_information=never_left)
    drawn = information.usable_information(methods, {"interventional": [0.1, 0.3]})
    told = (
        "+0.4100 where it leaves the attempt, −0.0020 elsewhere, +0.0040 over all (−0.0030 to +0.0110)",
        "SFT-1: nothing where it leaves the attempt",
    )
    assert all(sentence in drawn.alt for sentence in told) and "ReST" not in drawn.alt
    assert (
        drawn.svg.count("<use") == information.usable_information(methods, {}).svg.count("<use") + 2
    )  # its seeds


def test_usable_information_has_its_figure_where_a_run_measured_it(copy):
    written(copy)
    assert not (copy / "figures" / "usable-information.svg").exists()
    change(copy, methods__interventional__usable_information=WORTH)
    written(copy)
    assert (copy / "figures" / "usable-information.svg").exists()


def test_hostile_text_stays_text(tmp_path, model):
    write_run(tmp_path / "run", model=model, text=HOSTILE)
    change(tmp_path / "run", model_name="<b>bold</b>", settings__numbers="</table><script>alert(3)</script>")
    write_json(tmp_path / "run" / "environment.json", {"<i>python</i>": "<u>3</u>"})
    content, outline = written(tmp_path / "run")
    assert (
        len(re.findall(r"<script\b", content)) == 1
        and "<img" not in content
        and "onerror=" not in re.sub(r"&lt;img[^&]*&gt;", "", content)
    )
    assert not any(name.startswith("on") for _, attributes in outline.tags for name in attributes)
    assert (
        HOSTILE.split("\x00")[0] in outline.text and "\\u202e" in outline.text and "\\x1b[31m" in outline.text
    )
    assert not re.search(r"[\x00-\x08\x0b-\x1f\u202e\ud800-\udfff]", content)
    assert (
        "<b>bold" not in content and "<i>python" not in content and "</table><script>alert(3)" not in content
    )


def test_hostile_names_stay_inside_their_attributes(copy):
    bad = '"><img src=x onerror=alert(1)>'
    for path in (copy / "evaluations").glob("*.jsonl"):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        write_jsonl(path, [row | {"id": row["id"] + bad, "skill": row["skill"] + bad} for row in rows])
    change(copy, **{f"methods__{bad}": results_of(copy)["methods"]["sft"]})
    content, outline = written(copy)
    assert "<img" not in content and any(bad in (a.get("title") or "") for _, a in outline.tags)
    assert any(bad in (a["aria-label"] or "") for _, a in outline.tags if a.get("role") == "img")


def test_the_page_is_whole_and_needs_nothing_else(copy):
    content, outline = written(copy)
    assert content.startswith("<!DOCTYPE html>")
    for tag, attributes in outline.tags:
        for name in ("src", "href", "xlink:href", "action", "data", "poster"):
            assert (attributes.get(name) or "#").startswith("#"), (tag, attributes)
        assert tag not in ("link", "iframe", "object", "embed", "img", "form")
    assert "://" not in content and "@import" not in content and "url(" not in re.sub(r"url\(#", "", content)
    ids = [attributes["id"] for _, attributes in outline.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    anchors = {attributes["href"] for tag, attributes in outline.tags if tag == "a"}
    assert anchors == {
        f"#{id}"
        for id in ("results", "figures", "theory", "stream", "answers", "budgets", "choices", "origin")
    }
    assert all(anchor[1:] in ids for anchor in anchors)
    used = {reference for reference in re.findall(r'(?:url\(|href=")#([\w-]+)', content)}
    assert used <= set(ids)


def test_the_policy_allows_the_pages_script_and_no_other(copy):
    content, outline = page_of(copy)
    (policy,) = [
        a["content"] or ""
        for tag, a in outline.tags
        if tag == "meta" and a.get("http-equiv") == "Content-Security-Policy"
    ]
    (script,) = re.findall(r"<script>(.*?)</script>", content, flags=re.DOTALL)
    assert (
        f"script-src 'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}';"
        in policy
    )
    assert "default-src 'none'" in policy


def test_every_figure_has_words_for_those_who_cannot_see_it_and_a_file(copy):
    content, outline = written(copy)
    described = [a["aria-label"] or "" for tag, a in outline.tags if a.get("role") == "img"]
    names = [
        "figure2-positions",
        "figure3-composition",
        "figure4-solved",
        "figure5-stream-matched",
        "self-confirmation",
        "learning-curves",
        "theory-lemma",
        "theory-posteriors",
    ]
    assert sorted(path.name for path in (copy / "figures").iterdir()) == sorted(
        f"{name}.svg" for name in names
    )
    assert len(described) == len(names) == content.count("<figure>") and all(
        len(words) > 40 for words in described
    )
    for path in (copy / "figures").iterdir():
        svg = path.read_text()
        assert "<text" in svg and "<dc:date" not in svg and svg.startswith("<?xml")
        Outline(svg.split("?>", 1)[1])


def test_the_same_run_gives_the_same_bytes(copy):
    def files() -> dict[str, bytes]:
        document.write_report([copy])
        return {
            path.name: path.read_bytes() for path in [copy / "report.html", *(copy / "figures").iterdir()]
        }

    assert files() == files()


def test_the_papers_numbers_stand_beside_ours_only_on_its_weights(copy):
    def named(name: str) -> str:
        config = json.loads((copy / "config.json").read_text())
        write_json(copy / "config.json", config | {"model_name_or_path": name})
        return page_of(copy)[0]

    for same in ("Qwen/Qwen2.5-0.5B", "/somewhere/Qwen2.5-0.5B", "qwen2.5-0.5b"):
        content = named(same)
        rows = table_after(content, "Every method on the same questions")
        assert rows[0][3] == "paper, of 100" and [row[3] for row in rows[1:]] == [
            "42",
            "63",
            "84",
            "75",
            "81",
            "–",
            "61",
            "85",
        ]
        assert "The paper's own table" not in content and "wrong attempts 9 for 400" in content
        assert table_after(content, "Who wrote how many positions")[-1][0] == "the paper"
    for other in (
        "Qwen/Qwen2.5-Coder-0.5B",
        "Qwen/Qwen2.5-0.5B-Instruct",
        "/models/qwen",
        "Qwen/Qwen2.5-1.5B",
    ):
        content = named(other)
        assert "paper" not in " ".join(table_after(content, "Every method on the same questions")[0])
        rows = table_after(content, "The paper's table: Qwen2.5-0.5B, one run.")
        assert (
            rows[-1] == ["Interventional stream", "85", "76.7–90.7 %", "22/37"]
            and "never a number" in content
        )
        start = content.index('<details open class="tables paper"')
        apart = content[start : content.index("</details>", start)]
        for number in ("81,131", "76.7–90.7", ">the paper<"):
            assert number in apart and number not in content.replace(apart, "")


def unanswered(folder: Path, **changes: Any) -> None:
    """Second answers as where no method gives any: nothing repaired, every right answer harmed; `changes` to
    the row of ReST."""
    results = results_of(folder)
    for row in results["methods"].values():
        row |= {"repair_solved": 0, "harmed": row["questions"] - row["repair_questions"]}
    results["methods"]["rest"] |= changes
    write_json(folder / "results.json", results)


def test_where_no_method_answers_again_the_page_says_why(copy):
    assert sections.NEVER_ANSWERED not in page_of(copy)[0]
    unanswered(copy)
    content, _ = page_of(copy)
    assert content.count(f"{sections.NEVER_ANSWERED}.") == 2
    places = [
        content.index("In short"),
        *(found.start() for found in re.finditer(sections.NEVER_ANSWERED, content)),
    ]
    assert (
        places[0]
        < places[1]
        < content.index("<main>")
        < content.index('id="answers"')
        < places[2]
        < content.index('class="answers"')
    )
    for changes in ({"repair_solved": 1}, {"harmed": 0}):  # One method that does answer is enough.
        unanswered(copy, **changes)
        assert sections.NEVER_ANSWERED not in page_of(copy)[0]


def test_the_words_are_explained_once_beside_the_results(copy, tmp_path):
    content, outline = page_of(copy)
    assert content.count("What the words mean") == 1 and content.index("What the words mean") < content.index(
        'id="figures"'
    )
    assert [text for tag, text in outline.texts if tag == "dt"] == list(sections.words(METHODS))
    other = Path(shutil.copytree(copy, tmp_path / "other"))
    change(other, seed=9)
    assert page_of(copy, other)[0].count("What the words mean") == 1


def test_numbered_figures_come_first_and_no_tick_stands_in_the_room_for_the_counts(run):
    names = [each.name for each in document.draw([runs.read_run(run)])]
    numbered = ["figure2-positions", "figure3-composition", "figure4-solved", "figure5-stream-matched"]
    assert names == [*numbered, "self-confirmation", "learning-curves"]
    _, axes = drawing.canvas(2.0)
    for longest in (1, 7, 120, 84_507):
        drawing.counts(axes, longest, room=1.5)
        assert len(axes.get_xticks()) > 1 and max(axes.get_xticks()) <= longest < axes.get_xlim()[1]


def test_seconds_have_a_row_a_method():
    spent = {
        "stream": 9.0,
        "train sft": 1.5,
        "evaluate sft direct": 2.0,
        "score sft-logprobs-attempts": 3.0,
        "score sft-logprobs-corrections": 4.0,
    }
    rows = table_after(
        f"<main>{accounts.seconds_table(spent)}", "Seconds by stage, over interruptions too: 20 in all"
    )
    assert rows == [
        ["stage", "train", "direct", "scoring", "other"],
        ["SFT-1", "1.5", "2.0", "7.0", ""],
        ["stream", "", "", "", "9.0"],
    ]


def test_skills_show_the_difference_to_sft_1(copy):
    methods = results_of(copy)["methods"]
    header, *rows = table_after(page_of(copy)[0], "Solved by skill")
    assert len(rows) == 10
    for row in rows:
        skill = row[0].replace(" ", "_")
        for label, cell in zip(header[2:], row[2:], strict=True):
            name = next(name for name in METHODS if drawing.look(name).heading == label)
            solved, start = methods[name]["by_skill"][skill][0], methods["sft"]["by_skill"][skill][0]
            assert cell == (
                f"{solved} ({drawing.signed(solved - start, 0)})" if solved != start else str(solved)
            )


def test_stream_rows_are_shown_as_they_are_trained_on(run):
    read = runs.read_run(run)
    chosen = transcripts.choose_rows(read.stream)
    assert {len(episode.messages) for episode in chosen} == {2, 3}
    tokenizer = transcripts.tokenizer_of(read, chosen)
    assert tokenizer is not None
    wrong = next(episode for episode in chosen if len(episode.messages) == 3)
    arms = transcripts.arms_of(read)
    assert [arm.name for arm in arms] == ["observational", "interventional"]
    views = transcripts.arm_views(wrong, tokenizer, arms)
    assert [line.label for line in views["interventional"]] == ["[MASK]"] * 6 + ["[LOSS]"] * 2
    assert [line.label for line in views["observational"]] == ["[MASK]"] * 3 + ["[LOSS]"] * 2 + ["[MASK]"] + [
        "[LOSS]"
    ] * 2
    # By roles the same, where no content looks like a control token.
    assert transcripts.arm_views(wrong, None, arms) == views


def test_without_its_tokenizer_rows_are_shown_from_their_messages(copy, tmp_path):
    config = json.loads((copy / "config.json").read_text())
    content, _ = page_of(copy)
    assert (
        "Shown line by line, as the run's tokenizer encoded them" in content
        and "not here any more" not in content
    )
    other = tmp_path / "other"
    other.mkdir()
    tiny_qwen2.write_tokenizer(other)
    spec = json.loads((other / "tokenizer.json").read_text())
    spec["model"]["merges"] = []
    (other / "tokenizer.json").write_text(json.dumps(spec))
    for folder in (tmp_path / "gone", other):  # Another tokenizer in its place is as good as none.
        write_json(copy / "config.json", config | {"model_name_or_path": str(folder)})
        content, outline = page_of(copy)
        assert "not here any more" in content
        assert ("span", "[LOSS]") in outline.texts and ("span", "[MASK]") in outline.texts


def test_answers_are_beside_each_other(copy):
    read = runs.read_run(copy)
    content, outline = page_of(copy)
    direct = [{row.id: row for row in read.answers[name]["direct"]} for name in METHODS]
    chosen = transcripts.choose_questions(direct)
    assert len(chosen) == len(set(chosen)) == transcripts.SHOWN_QUESTIONS
    assert len({direct[0][id].skill for id in chosen[:10]}) == 10
    right = sum(answers[chosen[0]].solved for answers in direct)
    assert f"{right} of {len(METHODS)} methods right" in outline.text
    same_skill = [id for id, row in direct[0].items() if row.skill == direct[0][chosen[0]].skill]
    assert abs(right - 4) == min(abs(sum(rows[id].solved for rows in direct) - 4) for id in same_skill)
    assert content.count('class="answer ') == len(chosen) * len(METHODS)
    squares = [
        a for tag, a in outline.tags if tag == "i" and (a.get("class") or "").startswith(("on", "off"))
    ]
    assert len(squares) == 20 * len(METHODS)
    assert sum((a["class"] or "").startswith("on") for a in squares) == sum(
        row.solved for row in read.methods.values()
    )


def test_the_command_the_settings_and_the_seconds(copy):
    _, outline = page_of(copy)
    model = json.loads((copy / "config.json").read_text())["model_name_or_path"]
    assert f"cicjax repro --model_name_or_path {model} --output_dir" in outline.text
    assert f"--seed 0 --methods {' '.join(METHODS)}" in outline.text and "resolved" not in outline.text
    assert "optimization.learning_rate" in outline.text and "peak rate of AdamW" in outline.text
    assert "15.75" not in outline.text and "16 in all" in outline.text and "12.5" in outline.text


@pytest.mark.parametrize(
    "missing", ["rollouts", "evaluations", "metrics.jsonl", "environment.json", "timings.json", "config.json"]
)
def test_a_lost_piece_is_missed_and_one_that_never_was_leaves_its_section_out(copy, missing):
    target = copy / missing
    shutil.rmtree(target) if target.is_dir() else target.unlink()
    with pytest.raises(Corrupted, match=f"{missing}.*missing; restore it from a copy, or"):
        document.write_report([copy])
    reseal(copy)
    content, outline = written(copy) if missing in ("rollouts", "metrics.jsonl") else page_of(copy)
    assert "Every method on the same questions" in content
    ids = {attributes.get("id") for _, attributes in outline.tags}
    assert ("stream" in ids) == (missing != "rollouts") and ("answers" in ids) == (missing != "evaluations")


def test_the_smallest_run_there_can_be(tmp_path, model):
    write_run(tmp_path / "run", model=model, methods=("sft",))
    for name in ("rollouts", "evaluations"):
        shutil.rmtree(tmp_path / "run" / name)
    reseal(tmp_path / "run")
    change(tmp_path / "run", ledger={}, grpo={}, rest={}, methods__sft__self_confirmation=1.0)
    results = results_of(tmp_path / "run")
    results["methods"]["sft"] |= {"self_confirmation": None, "truth_gain": None}
    write_json(tmp_path / "run" / "results.json", results)
    content, _ = written(tmp_path / "run")
    assert [row[0] for row in table_after(content, "Every method on the same questions")] == [
        "method",
        "SFT-1",
    ]


def test_a_row_that_the_paper_does_not_have_is_shown_by_its_name(copy):
    results = results_of(copy)
    change(copy, **{"methods__mask_$wrong$_only": results["methods"]["sft"]})
    content, _ = written(copy)
    assert table_after(content, "Every method on the same questions")[-1][0] == "mask $wrong$ only"


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"methods__sft__solved": None}, "methods.sft.solved is missing or no int"),
        ({"methods__sft__solved": "57"}, "methods.sft.solved is missing or no int"),
        ({"methods__sft__solved": 21}, "counts of methods.sft do not fit together"),
        ({"methods__sft__by_skill": {"bragg": 3}}, "by_skill.bragg is not"),
        ({"methods__sft__budget__flop": None}, "methods.sft.budget.flop is missing"),
        ({"methods__sft__truth_gain": "x"}, "truth_gain"),
        ({"methods": {}}, "holds no method"),
        ({"ledger__positions_total": None}, "ledger.positions_total"),
        ({"ledger__wrong_attempts": 1}, "the two are of different runs"),
        ({"methods__rest__solved": 1}, "the two are of different runs"),
        ({"seed": True}, "seed is missing or no int"),
        ({"grpo": {"groups": "many"}}, "grpo.groups"),
    ],
)
def test_results_that_are_not_what_a_run_writes(copy, changes, what):
    change(copy, **changes)
    with pytest.raises(Corrupted, match=re.escape(what)) as refusal:
        document.write_report([copy])
    assert "\n" not in str(refusal.value) and str(copy) in str(refusal.value)
    assert not (copy / "report.html").exists() and not (copy / "figures").exists()


def test_damaged_files(copy):
    for name in (
        "results.json",
        "environment.json",
        "metrics.jsonl",
        "rollouts/stream.jsonl",
        "evaluations/sft-direct.jsonl",
    ):
        original = (copy / name).read_bytes()
        (copy / name).write_bytes(original.replace(b"0", b"1", 1)[:-9] + b"\n")
        with pytest.raises(Corrupted, match=re.escape(name)):
            document.write_report([copy])
        (copy / name).write_bytes(original)
    rows = [json.loads(line) for line in (copy / "evaluations/sft-direct.jsonl").read_text().splitlines()]
    del rows[3]["completion"]
    write_jsonl(copy / "evaluations/sft-direct.jsonl", rows)
    with pytest.raises(Corrupted, match=r"sft-direct.jsonl:4: completion is missing"):
        document.write_report([copy])


def test_folders_that_hold_no_finished_run(copy, tmp_path):
    with pytest.raises(BadInput, match="no such folder"):
        document.write_report([tmp_path / "nowhere"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match="no run is here"):
        document.write_report([tmp_path / "empty"])
    (copy / "results.json").unlink()
    with pytest.raises(BadInput, match="not finished"):
        document.write_report([copy])
    with pytest.raises(BadInput, match="no run is named"):
        document.write_report([])


@pytest.fixture(scope="module")
def seeds(tmp_path_factory, model):
    folder = tmp_path_factory.mktemp("seeds")
    for seed in range(8):
        write_run(folder / f"seed{seed}", model=model, seed=seed)
    return [folder / f"seed{seed}" for seed in range(8)]


def test_several_seeds_make_one_report(seeds, tmp_path):
    output = tmp_path / "all.html"
    assert document.write_report(seeds[:3], output) == output
    content = output.read_text()
    Outline(content)
    results = [results_of(seed) for seed in seeds[:3]]
    header, *rows = table_after(content, "Direct accuracy over 3 seeds")
    assert header[-3:] == ["seed 0", "seed 1", "seed 2"]
    for name, row in zip(METHODS, rows, strict=True):
        values = [each["methods"][name]["accuracy"] for each in results]
        assert row[1] == f"{100 * sum(values) / 3:.1f} %" and row[3:] == [
            f"{100 * value:.1f} %" for value in values
        ]
        mean, low, high = t_interval(
            [v - each["methods"]["sft"]["accuracy"] for v, each in zip(values, results, strict=True)]
        )
        signed = [drawing.signed(100 * number, 1) for number in (mean, low, high)]
        assert row[2] == ("–" if name == "sft" else f"{signed[0]} ({signed[1]} to {signed[2]})")
    added = table_after(content, "All protocols, counts of 3 seeds added up")
    assert added[1][1] == f"{sum(each['methods']['base']['solved'] for each in results)}/60"
    names = {
        "differences",
        "figure2-positions",
        "figure3-composition",
        "figure4-solved",
        "figure5-stream-matched",
        "self-confirmation",
        "theory-lemma",
        "theory-posteriors",
    }
    assert {path.stem for path in (tmp_path / "all-figures").iterdir()} == names
    assert (
        content.count("Counts of 3 seeds added up") == 5
        and content.count("intervals speak of questions, not of seeds") == 1
    )
    assert (
        all(f"<summary>Seed {seed}</summary>" in content for seed in range(3)) and "From seed 0." in content
    )


def test_contrasts_asked_for_stand_on_the_page_over_seeds_and_within(seeds, tmp_path):
    output = tmp_path / "page.html"
    document.write_report(seeds[:3], output, contrasts=["rest:grpo"])
    content = output.read_text()
    Outline(content)
    header, *rows = table_after(content, "Paired differences over seeds, in points of all questions")
    assert header[-3:] == ["seed 0", "seed 1", "seed 2"]
    solved = [results_of(seed)["methods"] for seed in seeds[:3]]
    apart = [(each["rest"]["solved"] - each["grpo"]["solved"]) / 20 for each in solved]
    assert rows[0][1] == "direct" and rows[0][4:] == [drawing.signed(100 * each, 1) for each in apart]
    assert rows[0][2].startswith(f"{drawing.signed(100 * t_interval(apart)[0], 1)} (")
    inside = table_after(content, "On the same questions, direct protocol")[1:]
    assert [row[0] for row in inside] == header[-3:]
    assert [int(row[3]) - int(row[4]) for row in inside] == [round(20 * each) for each in apart]
    document.write_report(seeds[:3], output)
    assert "Paired differences over seeds" not in output.read_text()


def test_few_seeds_are_descriptive_and_eight_are_not(seeds):
    (few, _), (enough, _) = page_of(*seeds[:3]), page_of(*seeds)
    rows = table_after(few, "Paired differences in direct accuracy")[1:]
    assert (
        all(row[7].endswith(" (descriptive)") for row in rows)
        and "the words are descriptive" in few
        and "3 seeds decide nothing" in few
    )
    rows = table_after(enough, "Paired differences in direct accuracy")[1:]
    assert {row[7] for row in rows} <= {
        "holds",
        "does not hold",
        "undecided",
    } and "descriptive" not in enough.split("</style>")[1]
    accuracies = [
        {name: row["accuracy"] for name, row in results_of(seed)["methods"].items()} for seed in seeds
    ]
    assert [row[7] for row in rows] == [outcome.word for outcome in claims.outcomes(accuracies)]
    assert "better than simply training more" in enough.split("for want of a row")[1]


def test_runs_that_are_not_one_experiment(seeds, copy, tmp_path):
    for before, after in pairwise([seeds[1], seeds[0], seeds[2]]):
        with pytest.raises(BadInput, match="say where with --output"):
            document.write_report([before, after])
    with pytest.raises(BadInput, match="seed 0 is in"):
        document.write_report([seeds[0], copy], tmp_path / "x.html")
    change(copy, seed=9, settings__optimization__learning_rate=2e-3)
    with pytest.raises(BadInput, match=r"another experiment than .*settings.optimization differs"):
        document.write_report([seeds[0], copy], tmp_path / "x.html")
    change(copy, settings__optimization__learning_rate=1e-3, model="cd" * 32)
    with pytest.raises(BadInput, match="the model differs"):
        document.write_report([seeds[0], copy], tmp_path / "x.html")
    assert not list(tmp_path.glob("x*"))


def test_the_mean_of_seeds_has_no_single_number_of_the_paper_beside_it(seeds, copy, tmp_path):
    write_json(copy / "config.json", {"model_name_or_path": "Qwen/Qwen2.5-0.5B"})
    change(copy, seed=9)
    content, _ = page_of(copy)
    assert "stand beside ours" in content
    other = Path(shutil.copytree(seeds[1], tmp_path / "other"))
    write_json(other / "config.json", {"model_name_or_path": "Qwen/Qwen2.5-0.5B"})
    content, _ = page_of(other, copy)
    assert "stand beside ours" not in content and "<summary>The paper's own tables</summary>" in content


def test_rows_that_not_every_seed_has_are_left_out(seeds, copy):
    change(copy, seed=9, methods__rest=None)
    content, _ = page_of(seeds[0], copy)
    assert "Left out, since not every seed has them: rest." in content
    assert "ReST" not in [row[0] for row in table_after(content, "Direct accuracy over 2 seeds")]


def test_a_place_for_the_page(run, tmp_path):
    with pytest.raises(BadInput, match="no place for a file"):
        document.write_report([run], tmp_path)
    with pytest.raises(BadInput, match="no place for a file"):
        document.write_report([run], tmp_path / "none" / "page.html")
    assert document.write_report([run], tmp_path / "page.html") == tmp_path / "page.html"
    assert (tmp_path / "page-figures" / "figure4-solved.svg").is_file() and not (run / "figures").exists()


def test_signs():
    assert [drawing.signed(value, 1) for value in (-0.04, 0.0, 0.26, -12.0)] == [
        "0.0",
        "0.0",
        "+0.3",
        "−12.0",
    ]


def test_weights_have_the_name_that_the_user_gave(run):
    read = runs.read_run(run)
    names = {"Qwen/Qwen2.5-0.5B": "Qwen/Qwen2.5-0.5B", "/a/b": "b", "./b/": "b", None: "the embedded base"}
    for given, shown in names.items():
        read.config["model_name_or_path"] = given
        assert sections.weights_name(read) == shown
    assert set(paper.SOLVED) == set(METHODS) - {"oracle_shared"}
