"""The report section by section: what is said, and which tables, figures and transcripts stand below it."""

import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path

from cicjax.experiments.paper.records import MethodResult
from cicjax.report import accounts, claims, contrasts, tables, transcripts
from cicjax.report import paper as numbers
from cicjax.report.drawing import Drawing, embedded, look, signed
from cicjax.report.runs import FinishedRun, command_of, pooled, settings_lines
from cicjax.views.html import Child, Html, bullets, folded, join, tag

Section = tuple[str, str, Sequence[Child]]

TITLE = "Continual, interactive, causal agents"
WHAT = (
    "A language model learns from a stream of its own attempts, a verifier's judgements and an oracle's "
    "corrections. The paper's rule: "
    "what the world wrote is evidence, what the agent wrote is an action; "
    "so keep the agent's own attempts in the context and out of "
    "the loss. This page shows one experiment with that rule: methods that start from the same SFT-1 and "
    "turn the same verifier into "
    "training data in different ways."
)
PROTOCOLS = (
    "Direct: the plain prompt, our headline. Repair: the prompt with SFT-1's failed attempt, "
    "on the questions that it failed. Two-step: "
    "SFT-1 right, or else repaired. Kept, lost, gained: direct answers against SFT-1's. Harmed: "
    "given SFT-1's correct attempt, the "
    "second answer is wrong. With marker: answers that state “Final answer:”, "
    "so that learning the format and learning the answer can "
    "be told apart. Cut: answers ended by the length limit or a stop string."
)
WORDS = {
    "direct": "the answer to the plain prompt",
    "repair": "right on a question that SFT-1 failed, when shown that failed attempt",
    "two-step": "SFT-1 right at once, or else repaired",
    "kept": "right by SFT-1 and still right by the method's direct answer",
    "lost": "right by SFT-1, wrong by the method's direct answer",
    "gained": "wrong by SFT-1, right by the method's direct answer",
    "natural": "SFT-1 right at once, or else the method's direct answer: its natural second try",
    "second turn": "right after seeing SFT-1's attempt, right or wrong, with no word on which it was",
    "KL": "how far a method's probabilities have moved from SFT-1's on SFT-1's own answers",
    "usable information": "how much likelier the correction is after the attempt that it corrects than "
    "after another question's",
    "harmed": "SFT-1 was right, and the answer after seeing that right attempt is wrong",
    "fingerprint": "a digest of the weights: equal fingerprints, equal weights",
    "nats": "unit of log-probability to base e; +0.7 is about twice as likely",
    "replicate": "a run of the whole experiment with another seed, everything drawn anew",
    "competitive": "within 5 points, or better",
}
CHOICES = (
    "Where the paper is silent something had to be chosen. Attempts, "
    "candidates and GRPO samples are drawn at the temperature below; "
    "evaluation is greedy. The loss of an update is the sum of weighted token losses over the sum of "
    "weights. The stream arms eat one permutation of the rows, made from the seed."
)
NEVER_ANSWERED = (
    "The methods here hardly ever answer after a second “Proposed solution:”, "
    "so repair, two-step and harmed say nothing about them"
)
MOST_REPAIRED, LEAST_HARMED = 0.02, 0.9
FOOTER = (
    "Intervals are 95 %: Wilson's for shares of questions, Student's for means over seeds. "
    "Each run's results.json holds every number "
    "and is a function of model, seed and settings; environment and seconds are not part of it."
)


def header(runs: Sequence[FinishedRun]) -> Html:
    """What this is, of which weights, and the outcome in a few sentences."""
    run, settings = runs[0], runs[0].results.settings
    counts = settings.get("counts", {})
    facts = [
        f"weights: {weights_name(run)}",
        f"fingerprint {run.results.model[:12]}",
        f"scale: {run.config.get('scale', 'not recorded')}",
        f"seed {', '.join(str(each.seed) for each in runs)}",
        f"{counts.get('sft_rows', '?')} SFT rows, {counts.get('wrong_attempts', '?')} wrong attempts "
        "asked for",
        f"split: {settings.get('split', '?')}",
    ]
    return join(
        [
            tag("h1", TITLE),
            tag("p", "The experiment of de Freitas and Ortega (2026), section 2, run again.", class_="soft"),
            bullets(facts, "facts"),
            tag("p", WHAT),
            tag("div", tag("b", "In short"), bullets(summary(runs)), class_="lead"),
        ]
    )


def footer() -> Html:
    """What the intervals are, and what results.json is."""
    return tag("p", FOOTER, class_="soft")


def weights_name(run: FinishedRun) -> str:
    """The weights as the user named them: a hub id, or the name of a folder."""
    named = run.config.get("model_name_or_path", run.results.model_name)
    if named is None:
        return "the embedded base"
    return Path(str(named)).name if str(named).startswith(("/", ".", "~")) else str(named)


def of_paper(run: FinishedRun) -> bool:
    """Whether the weights go by the name of the paper's, Qwen2.5-0.5B itself and no relative of it."""
    return Path(weights_name(run)).name.lower() == numbers.BASE


def summary(runs: Sequence[FinishedRun]) -> list[Child]:
    """What came out, in sentences that claim no more than the numbers do."""
    methods = pooled(runs)
    total = max(row.questions for row in methods.values())
    solved = "; ".join(f"{look(name).label} {row.solved:,}" for name, row in methods.items())
    sentences: list[Child] = [f"Solved of {total:,}, plain prompt: {solved}."]
    if claims.MASK.method in methods and claims.MASK.other in methods:
        sentences += _two_arms(methods[claims.MASK.method], methods[claims.MASK.other])
    if second := unanswered(runs):
        sentences.append(second)
    if len(runs) > 1 and (outcomes := _outcomes(runs)):
        sentences.append(f"Over {len(runs)} seeds: {'; '.join(map(_told, outcomes))}.")
    if len(runs) < claims.ENOUGH:
        who = "One seed decides" if len(runs) == 1 else f"{len(runs)} seeds decide"
        sentences.append(
            f"{who} nothing: a claim needs {claims.ENOUGH} replicates. "
            "Until then this page describes what happened here, and no more."
        )
    return sentences


def _told(outcome: claims.Outcome) -> str:
    """A claim and its word; of an undecided one, how many seeds would decide it."""
    decided = f", which about {outcome.needed:,} seeds would decide" if outcome.needed else ""
    remark = f" ({outcome.remark})" if outcome.remark else ""
    return f"“{outcome.claim.text}” {outcome.word}{remark}{decided}"


def unanswered(runs: Sequence[FinishedRun]) -> str | None:
    """Why the second answers say nothing, where no method gives any: hardly a failure repaired and nearly all
    right answers harmed."""
    for row in pooled(runs).values():
        failed, right = row.repair_questions, row.right_first
        if not right or row.repair_solved > MOST_REPAIRED * failed or row.harmed < LEAST_HARMED * right:
            return None
    return f"{NEVER_ANSWERED}."


def _two_arms(interventional: MethodResult, observational: MethodResult) -> list[Child]:
    failed, right = interventional.repair_questions, interventional.right_first
    sentences: list[Child] = [
        "Given SFT-1's failed attempts, the interventional stream repairs "
        f"{interventional.repair_solved:,} of {failed:,} and the "
        f"observational one {observational.repair_solved:,}; given its correct attempts, "
        f"they spoil {interventional.harmed:,} and "
        f"{observational.harmed:,} of {right:,}."
    ]
    gains = [arm.gains for arm in (interventional, observational) if arm.gains is not None]
    if len(gains) == 2:
        mistakes, truths = ([signed(pair[n], 3) for pair in gains] for n in (0, 1))
        sentences.append(
            "On the rows of the stream, which both were trained on, the log-probability of SFT-1's own "
            f"mistakes moved by {mistakes[0]} nats a token under the interventional loss and by "
            f"{mistakes[1]} under the observational one; that of their corrections by {truths[0]} and "
            f"{truths[1]}. What methods that saw no attempt do to it stands in the table below."
        )
    return sentences


def results(runs: Sequence[FinishedRun], pairs: Sequence[tuple[str, str]] = ()) -> Section:
    """The table, the claims, the skills, the contrasts asked for; the paper's numbers where they belong."""
    parts = _one_seed(runs[0]) if len(runs) == 1 else _several_seeds(runs)
    parts += contrasts.shown(runs, pairs)
    return "results", "Results", [*parts, *_paper(runs[0], beside=len(runs) == 1)]


def words(names: Iterable[str]) -> dict[str, str]:
    """What the page's words mean: its methods by their short names, and the words that are always the
    same."""
    known = [look(name) for name in names]
    return {method.heading: method.described for method in known} | WORDS


def glossary(names: Iterable[str]) -> Html:
    """The words of the tables, one line each."""
    lines = [tag("div", tag("dt", word), tag("dd", meaning)) for word, meaning in words(names).items()]
    return folded("What the words mean", tag("dl", *lines, class_="words"), kind="tables glossary")


def _one_seed(run: FinishedRun) -> list[Child]:
    parts: list[Child] = [
        tables.methods_table(run.methods, paper=of_paper(run)),
        tag("p", PROTOCOLS, class_="note"),
        glossary(run.methods),
    ]
    same_questions = len({tuple(right) for right in run.direct.values()}) == 1
    if same_questions and (
        pairs := claims.pairs({name: list(right.values()) for name, right in run.direct.items()})
    ):
        parts += [tag("h3", "The paper's claims on this seed"), tables.pairs_table(pairs)]
    if (squares := transcripts.outcome_map(run)) is not None:
        parts += [tag("h3", "Question by question"), squares]
    return [*parts, tag("h3", "By skill"), tables.skills_table(run.methods)]


def _several_seeds(runs: Sequence[FinishedRun]) -> list[Child]:
    methods = pooled(runs)
    parts: list[Child] = [tables.seeds_table(runs, list(methods)), glossary(methods)]
    if left_out := sorted({name for run in runs for name in run.methods} - set(methods)):
        parts.append(
            tag("p", f"Left out, since not every seed has them: {', '.join(left_out)}.", class_="note")
        )
    parts.append(tag("h3", "The paper's claims"))
    if outcomes := _outcomes(runs):
        parts += [tag("p", _how_decided(len(runs))), tables.claims_table(outcomes)]
        remarks = [f"{each.claim.text}: {each.remark}" for each in outcomes if each.remark]
        parts += [tag("p", "; ".join(remarks) + ".", class_="note")] if remarks else []
    if missing := [claim for claim in claims.CLAIMS if claim not in claims.possible(methods)]:
        named = "; ".join(f"{claim.text} ({tables.contrast(claim)})" for claim in missing)
        parts.append(tag("p", f"Not to be judged here, for want of a row: {named}.", class_="note"))
    parts += [
        tag("h3", "All protocols"),
        tables.protocols_table(methods, len(runs)),
        tag("p", PROTOCOLS, class_="note"),
    ]
    return [*parts, tag("h3", "By skill"), tables.skills_table(methods)]


def _outcomes(runs: Sequence[FinishedRun]) -> list[claims.Outcome]:
    return claims.outcomes([{name: row.accuracy for name, row in run.methods.items()} for run in runs])


def _how_decided(seeds: int) -> str:
    rule = (
        "A claim holds if the t-interval of its mean paired difference lies above the bound, "
        "does not hold if it lies below, and is "
        f"undecided otherwise; of the {claims.PLANNED} confirmatory ones Holm's p must be below "
        f"{claims.LEVEL} too."
    )
    if seeds >= claims.ENOUGH:
        return rule
    return (
        f"{rule} These are {seeds} replicates, not the {claims.ENOUGH} fixed beforehand: "
        "the words are descriptive, by the interval alone."
    )


def _paper(run: FinishedRun, *, beside: bool) -> list[Child]:
    """The paper's numbers: a sentence where they stand beside ours, else tables of their own with what
    differs."""
    if of_paper(run) and beside:
        sentence = (
            "The paper's numbers stand beside ours because the weights go by the name of its base, "
            f"{weights_name(run)}."
        )
        return [tag("p", f"{sentence} {_what_differs(run)}", class_="note")]
    sentence = f"The paper's base is Qwen2.5-0.5B, one run; the weights here are {weights_name(run)}."
    title = "The paper's own tables"
    if not of_paper(run):
        sentence += " Other weights can confirm or refute a pattern, never a number: its tables stand apart."
        title += ", on other weights"
    papers = [tables.paper_table()]
    if not of_paper(run):
        papers += [accounts.ledgers_table([], paper=True), accounts.facts_table([], paper=True)]
    return [
        folded(
            title,
            tag("p", f"{sentence} {_what_differs(run)}"),
            *papers,
            opened=not of_paper(run),
            kind="tables paper",
        )
    ]


def _what_differs(run: FinishedRun) -> str:
    ours = run.results.settings.get("counts", {})
    other = [
        f"{name.replace('_', ' ')} {ours[name]} for {count}"
        for name, count in numbers.COUNTS.items()
        if ours.get(name, count) != count
    ]
    counts = f"The counts differ: {', '.join(other)}." if other else "The counts are the paper's."
    return (
        f"{counts} The problems come from a generator of the paper's kind, "
        "and what the paper does not state was chosen (see below)."
    )


def drawings(drawn: Sequence[Drawing]) -> Section:
    """Every figure with its caption, and with its numbers for those who cannot see it."""
    return "figures", "Figures", [tag("div", *figures_of(drawn), class_="figures")]


def figures_of(drawn: Sequence[Drawing]) -> list[Child]:
    """Figures as the page shows them."""
    return [
        tag(
            "figure",
            tag("div", Html(embedded(drawing)), role="img", aria_label=drawing.alt),
            tag("figcaption", drawing.caption),
        )
        for drawing in drawn
    ]


def browsing(runs: Sequence[FinishedRun]) -> list[Section]:
    """Transcripts and answers; of several seeds those of the first."""
    run, second, several = runs[0], unanswered(runs), len(runs) > 1
    of_which = [tag("p", f"From seed {run.seed}.", class_="note")] if several else []
    sections: list[Section] = []
    if run.stream:
        sections.append(("stream", "Rows of the stream", [*of_which, *transcripts.stream_rows(run)]))
    if answers := transcripts.answers(run):
        sentence = (
            "Greedy answers of every method to the same questions, of each skill the most disputed; "
            "below each the answer after SFT-1's "
            "attempt. Right is what the verifier calls so: within the problem's tolerance, equation (6)."
        )
        why = [] if second is None else [tag("p", second, class_="note")]
        sections.append(("answers", "Answers side by side", [*of_which, tag("p", sentence), *why, *answers]))
    return sections


def budgets(runs: Sequence[FinishedRun]) -> Section:
    """What each method spent, the ledger, and the numbers of section 2.3."""
    methods, paper = pooled(runs), of_paper(runs[0])
    parts: list[Child] = (
        [tag("p", f"Counts of {len(runs)} seeds added up.", class_="note")] if len(runs) > 1 else []
    )
    parts.append(accounts.budget_table(methods, runs[0].results.settings.get("rates", {})))
    if any(run.results.ledger is not None for run in runs):
        parts += [tag("h3", "The stream's ledger"), accounts.ledgers_table(runs, paper=paper)]
    beside: list[Child] = []
    if any(facts for run in runs for facts in run.results.facts.values()):
        beside.append(accounts.facts_table(runs, paper=paper))
    if any(row.gains is not None for row in methods.values()):
        beside.append(tables.confirmation_table(methods))
    if any(row.kl_to_sft is not None for row in methods.values()):
        parts += [
            tag("h3", "On corrected questions, and on text that nobody was trained on"),
            tables.held_out_table(methods),
        ]
    return "budgets", "Budgets and ledger", [*parts, tag("div", *beside, class_="columns")]


def choices(run: FinishedRun) -> Section:
    """What was chosen where the paper is silent."""
    every = folded("Every setting", accounts.settings_table(run.results.settings), kind="tables")
    return "choices", "What was chosen", [tag("p", CHOICES), every]


def origins(runs: Sequence[FinishedRun]) -> Section:
    """Where the numbers come from, run by run."""
    if len(runs) == 1:
        return "origin", "How it was made", _origin(runs[0])
    return (
        "origin",
        "How it was made",
        [folded(f"Seed {run.seed}", *_origin(run), kind="tables") for run in runs],
    )


def _origin(run: FinishedRun) -> list[Child]:
    parts: list[Child] = []
    if words := command_of(run.config):
        parts.append(tag("pre", " ".join(shlex.quote(word) for word in words), class_="command"))
    identity = {
        "seed": run.seed,
        "model": run.results.model,
        "model name": weights_name(run),
        "folder": run.folder.resolve().name,
    }
    identity |= dict(settings_lines(run.environment))
    made = accounts.named_values(
        identity, head=("environment", ""), caption="What made these numbers.", kind="text"
    )
    beside = [made]
    if spent := {
        name: float(seconds) for name, seconds in run.timings.items() if isinstance(seconds, int | float)
    }:
        beside.append(accounts.seconds_table(spent))
    return [*parts, tag("div", *beside, class_="columns uneven" if len(beside) > 1 else None)]
