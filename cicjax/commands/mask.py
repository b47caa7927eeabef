"""`cicjax mask`: who wrote each token of a transcript file, which of them are trained on, and what is wrong
with it."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from cicjax.errors import BadInput, printable, shorten, shown
from cicjax.runs import checks

if TYPE_CHECKING:
    from cicjax.logs.audit import Finding
    from cicjax.provenance import Encoded
    from cicjax.provenance.protocol import Weighting
    from cicjax.provenance.tokenizer import Tokenizer
    from cicjax.provenance.transcript import Episode

    Rows = Sequence[tuple[Episode, Encoded]]


@dataclass(frozen=True)
class Mask:
    """Show which tokens of a transcript file are trained on, and who wrote them.

    agent = the model being trained; teacher = anyone else in the assistant's role. observational = train
    every assistant turn; interventional = train only what others wrote.

    Example: cicjax mask rollouts.jsonl --tokenizer Qwen2.5-0.5B --objective interventional
    """

    files: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="FILE ...")] = ()
    """Native transcripts, one JSON object a line with an author beside every message: files, gzip too,
    folders, patterns, or - for standard input. Other logs go through `cicjax convert LOG --output - ... |
    cicjax mask -`."""
    tokenizer: Annotated[str | None, tyro.conf.arg(metavar="DIR")] = None
    """Folder with a tokenizer.json, or a hub id. Needs no weights. With --demo the embedded base's by
    default."""
    objective: Literal["interventional", "observational", "stream"] = "interventional"
    """Which loss the weights belong to; stream lies between the two, --wrong and --correct say where."""
    wrong: float | None = None
    """With --objective stream: weight of the agent's turns that failed, by default 0."""
    correct: float | None = None
    """With --objective stream: weight of the agent's turns that passed, by default 0."""
    targets: Annotated[tuple[str, ...], tyro.conf.arg(metavar="AUTHOR ...")] = ("teacher",)
    """Whose words are targets beside the agent's own: teacher is equation (14), world is equation (2) in
    full."""
    keep_echoes: bool = False
    """Train also on long repeats of the agent's words in what users, tools and the environment wrote."""
    format: Literal["auto", "plain", "chatml", "qwen3"] = "auto"
    """Protocol in which messages become tokens; auto is the one that the file says, else the tokenizer's chat
    protocol, and plain where it has none."""
    json: bool = False
    """One JSON object a transcript: id, tokens, text, gamma, is_target, weight, author. With --audit, one a
    finding."""
    labels: Annotated[Path | None, tyro.conf.arg(metavar="OUT.jsonl")] = None
    """Write input_ids, attention_mask and labels (-100 where nothing is learned), a row a transcript, for
    other trainers. Only for weights of 0 and 1."""
    html: Annotated[Path | None, tyro.conf.arg(metavar="OUT.html")] = None
    """Write one self-contained page with every token's author and weight; drawn are the first 200
    transcripts, or as many of them as make 50,000 tokens, counted all."""
    id: Annotated[tuple[str, ...], tyro.conf.arg(metavar="ID ...")] = ()
    """Only the transcripts with these ids."""
    limit: int | None = None
    """Only the first so many transcripts."""
    audit: bool = False
    """List instead what ruins runs, a line a code, and end with exit code 1 if there is anything. Codes:
    unreadable, unknown-author, unrenderable, nothing-supervised, all-supervised, too-long, truncated-target,
    no-end, empty-turn, duplicate, duplicate-row, duplicate-id, other-ids, bad-arguments, echo, no-input,
    gap, missing-result, orphan-result, hidden-tools, elided, image, reasoning-left-out."""
    verbose: bool = False
    """With --audit: every finding on a line of its own, file:line: severity: code: message."""
    test: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """With --audit: the transcripts held out for testing, which must ask other questions."""
    max_length: int | None = None
    """With --audit: the longest row in tokens that training takes."""
    check_template: bool = False
    """Compare instead our rendering of every transcript with the tokenizer's own chat template, id by id, and
    end with exit code 1 where they differ. --format auto is then the tokenizer's chat protocol. A template is
    a program that came with the folder; it runs in a sandbox, and nothing is fetched."""
    demo: bool = False
    """Show the two stream rows of the paper's section 2.2 under both objectives instead of a file."""

    def run(self) -> None:
        from cicjax.assets import default_model_folder
        from cicjax.files import sources, whole
        from cicjax.provenance import tokenizer

        self._check()
        named = [Path(source.name) for source in sources.expand(self.files) if source.name != sources.STDIN]
        for file in named or [None]:
            whole.refuse_same(file, self.labels, self.html)
        loaded = tokenizer.load(default_model_folder() if self.tokenizer is None else self.tokenizer)
        if self.check_template:
            self._check_template(loaded)
        elif self.audit:
            self._audit(loaded)
        else:
            self._show(loaded)

    def _check(self) -> None:
        if self.demo == bool(self.files):
            raise BadInput(
                "name a transcript file, or give --demo"
                if not self.demo
                else "--demo shows its own rows; leave the file out"
            )
        if self.tokenizer is None and not self.demo:
            raise BadInput(
                "a mask is a matter of tokens; say whose with --tokenizer DIR, a folder with a tokenizer.json"
                + _at_hand()
            )
        if self.objective != "stream" and (self.wrong, self.correct) != (None, None):
            raise BadInput("--wrong and --correct belong to --objective stream")
        checks.check_finite(self, "wrong", "correct")
        if self.audit and (self.labels or self.html or self.demo):
            raise BadInput("--audit only looks; leave --labels, --html and --demo to another command")
        if self.check_template and (self.audit or self.json or self.labels or self.html or self.demo):
            raise BadInput(
                "--check_template only compares; "
                "leave --audit, --json, --labels, --html and --demo to another command"
            )
        if not self.audit and (self.test or self.max_length is not None or self.verbose):
            raise BadInput("--test, --max_length and --verbose belong to --audit")
        if (self.id or self.limit is not None) and (self.audit or self.check_template):
            raise BadInput(
                "--id and --limit choose what is shown; --audit and --check_template go through all"
            )
        checks.check_counts(self, "max_length", "limit")

    def _show(self, tokenizer: "Tokenizer") -> None:
        from cicjax.files import whole
        from cicjax.logs import native
        from cicjax.provenance import protocol
        from cicjax.views import demo, page

        path = self._name()
        episodes = self._chosen(native.read_native(*self.files) if self.files else demo.EPISODES)
        render = protocol.renderer(self.format, self.targets, episodes, tokenizer)
        rows = list(protocol.encode_all(episodes, tokenizer, render=render, path=path))
        weigh = self._weighting(self.objective)
        if self.labels is not None:
            _write_labels(self.labels, rows, weigh)
        if self.html is not None:
            names = {"stream": f"stream (wrong {self.wrong or 0:g}, correct {self.correct or 0:g})"}
            views = {
                names.get(o, o): self._weighting(o)
                for o in dict.fromkeys(("observational", "interventional", self.objective))
            }
            shown = names.get(self.objective, self.objective)
            text = page.page_html(rows, tokenizer, title=Path(path).name, weightings=views, shown=shown)
            whole.write_lines(self.html, [text], private=False)
        if self.json:
            _print_records(rows, tokenizer, weigh)
            return
        for objective in ("interventional", "observational") if self.demo else (self.objective,):
            if self.html is None and self.labels is None:
                _print_boxes(rows, tokenizer, objective, self._weighting(objective))
            _print_counts(rows, objective, self._weighting(objective))
        for written in filter(None, (self.labels, self.html)):
            print(printable(f"{written} written"))

    def _check_template(self, tokenizer: "Tokenizer") -> None:
        from cicjax.files import hub
        from cicjax.logs import native, template
        from cicjax.provenance import protocol
        from cicjax.provenance import tokenizer as tokenizers

        assert self.tokenizer is not None
        name = protocol.chat_format(tokenizer) if self.format == "auto" else self.format
        if name is None or name == "plain":
            raise BadInput("the plain protocol has no chat template to compare with; choose --format chatml")
        folder = hub.resolve(self.tokenizer, tokenizers.FILES, wanted=tokenizers.FILE)
        reference = template.load(folder, tokenizer)
        episodes = native.read_native(*self.files)
        template.compare(self._name(), episodes, tokenizer, reference, format=name)
        number = _number(len(episodes))
        told = f"{self._name()}: {number}, --format {name} equals the tokenizer's chat template, id by id"
        print(printable(told))

    def _audit(self, tokenizer: "Tokenizer") -> None:
        from cicjax.logs import audit
        from cicjax.provenance import protocol

        path = self._name()
        weigh = protocol.weighting(
            self.objective, wrong=self.wrong or 0.0, correct=self.correct or 0.0, keep_echoes=True
        )
        rows, findings = self._readable(self.files, tokenizer)
        if rows:
            findings += audit.audit(rows, tokenizer, path=path, weigh=weigh, max_length=self.max_length)
        if self.test is not None:
            test_rows, unreadable = self._readable([str(self.test)], tokenizer)
            findings += [*unreadable, *audit.duplicates(rows, test_rows, path=path, test_path=self.test)]
        self._report(
            sorted(
                findings, key=lambda finding: (finding.file == str(self.test), finding.file, finding.line)
            ),
            len(rows),
        )

    def _readable(self, names: Sequence[str], tokenizer: "Tokenizer") -> "tuple[Rows, list[Finding]]":
        from cicjax.logs import audit
        from cicjax.provenance import encode, protocol

        episodes, findings = audit.read(*names)
        render = protocol.renderer(self.format, self.targets, episodes, tokenizer)
        rows, unrenderable = audit.encode_or_find(
            episodes, names[0], lambda episode: encode(render(episode), tokenizer)
        )
        return rows, [*findings, *unrenderable]

    def _report(self, findings: "Sequence[Finding]", episodes: int) -> None:
        from cicjax.logs import audit

        if self.json:
            lines = [json.dumps(finding.record()) for finding in findings]
        else:
            lines = map(str, findings) if self.verbose else audit.roll_up(findings)
        for line in lines:
            print(printable(" ".join(line.split())))
        if findings:
            sys.stdout.flush()
            raise audit.Findings(audit.summary(findings, self._name()))
        if not self.json:
            print(printable(f"{self._name()}: {_number(episodes)}, nothing found"))

    def _name(self) -> str:
        """What was read, in one word."""
        if len(self.files) != 1:
            return f"{len(self.files)} files" if self.files else "demo"
        return "standard input" if self.files[0] == "-" else self.files[0]

    def _chosen(self, episodes: "Sequence[Episode]") -> "Sequence[Episode]":
        missing = set(self.id) - {episode.id for episode in episodes}
        if missing:
            raise BadInput(f"{self._name()}: no transcript has the id {shorten(min(missing))}")
        return [episode for episode in episodes if not self.id or episode.id in self.id][: self.limit]

    def _weighting(self, objective: str) -> "Weighting":
        from cicjax.provenance import protocol

        corners = (
            {} if objective != "stream" else {"wrong": self.wrong or 0.0, "correct": self.correct or 0.0}
        )
        return protocol.weighting(objective, **corners, keep_echoes=self.keep_echoes)


def _at_hand() -> str:
    from cicjax.assets import default_model_folder

    try:
        return f" (the embedded base's: {default_model_folder()})"
    except BadInput:
        return ""


def _print_records(rows: "Rows", tokenizer: "Tokenizer", weigh: "Weighting") -> None:
    from cicjax.views import boxes

    for episode, encoded in rows:
        print(json.dumps(boxes.record(episode.id, encoded, tokenizer, weigh(encoded))))


def _write_labels(path: Path, rows: "Rows", weigh: "Weighting") -> None:
    from cicjax.files import whole
    from cicjax.views import boxes

    whole.write_lines(path, (json.dumps(boxes.labels(encoded, weigh(encoded))) for _, encoded in rows))


def _print_boxes(rows: "Rows", tokenizer: "Tokenizer", objective: str, weigh: "Weighting") -> None:
    from cicjax.views import boxes

    for episode, encoded in rows:
        title = shown(f"{objective.capitalize()}: {episode.id}")
        if sys.stdout.isatty():
            boxes.print_coloured(title, encoded, tokenizer, weigh(encoded))
        else:
            print(title, boxes.boxes(encoded, tokenizer, weigh(encoded)), sep="\n", end="\n\n")


def _print_counts(rows: "Rows", objective: str, weigh: "Weighting") -> None:
    """How many tokens there are and how many of them are supervised, in all and by author; where none is, the
    ways on."""
    from cicjax.logs import audit
    from cicjax.views import counts

    totals = counts.count((encoded for _, encoded in rows), {objective: weigh})
    total, supervised = int(totals.tokens.sum()), totals.total(objective)
    share = supervised / total if total else 0.0
    print(f"{_number(len(rows))}, {total:,} tokens, {supervised:,} of them supervised ({share:.1%})")
    print(counts.aligned(counts.table(totals)), end="\n\n")
    if not supervised:
        print(audit.nothing_to_learn([encoded for _, encoded in rows]))


def _number(transcripts: int) -> str:
    return f"{transcripts} transcript{'' if transcripts == 1 else 's'}"
