"""Transcripts to browse: rows of the stream as each arm is trained on them, and the methods' answers to the
same questions.

Where the run's tokenizer is still there, rows are shown line by line as they were encoded. Where it is not,
they are shown from their messages, and what bears loss follows from who wrote a turn.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

from cicjax import methods
from cicjax.assets import default_model_folder
from cicjax.errors import BadInput
from cicjax.experiments.answers import Answer
from cicjax.methods import Method
from cicjax.provenance import encode, protocol, render
from cicjax.provenance import tokenizer as tokenizers
from cicjax.provenance.tokenizer import Tokenizer
from cicjax.provenance.transcript import Author, Episode
from cicjax.report.drawing import look
from cicjax.report.runs import FinishedRun
from cicjax.views import boxes
from cicjax.views.boxes import LOSS, MASK, Line
from cicjax.views.html import Child, Html, folded, join, table, tag
from cicjax.views.transcript import legend_html, lines_html

SHOWN_RIGHT, SHOWN_CORRECTED, SHOWN_QUESTIONS = 2, 4, 12
MOST_SQUARES = 200


def stream_rows(run: FinishedRun) -> list[Child]:
    """A handful of rows, right ones and corrected ones of different skills, each as every arm of the stream
    sees it."""
    chosen, arms = choose_rows(run.stream), arms_of(run)
    tokenizer = tokenizer_of(run, chosen)
    how = (
        "Shown line by line, as the run's tokenizer encoded them."
        if tokenizer
        else "The run's tokenizer is not here any more: shown from the messages."
    )
    legend = legend_html([Author.USER, Author.AGENT, Author.ENVIRONMENT, Author.TEACHER], controls=False)
    parts: list[Child] = [
        tag(
            "p",
            "What the arms of the stream see of the same rows. The colour says who wrote a line; an "
            "underlined line bears loss. ",
            how,
        ),
        legend,
    ]
    for n, episode in enumerate(chosen):
        views = [
            tag("div", tag("h3", look(arm).label), lines_html(lines))
            for arm, lines in arm_views(episode, tokenizer, arms).items()
        ]
        verdict = "right at the first attempt" if episode.messages[1].solved == 1 else "wrong, then corrected"
        title = join(
            [f"{_skill(episode)}: {verdict} ", tag("span", episode.messages[0].content, class_="soft")]
        )
        parts.append(folded(title, tag("div", *views, class_="views"), opened=n < 2))
    return parts


def choose_rows(stream: Sequence[Episode]) -> list[Episode]:
    """The first right row and the first corrected ones, one a skill as far as they reach; right ones and
    corrected ones in turn."""
    right = _one_a_skill(e for e in stream if len(e.messages) == 2)[:SHOWN_RIGHT]
    corrected = _one_a_skill(e for e in stream if len(e.messages) == 3)[:SHOWN_CORRECTED]
    return [*corrected[:1], *right[:1], *corrected[1:], *right[1:]]


def _one_a_skill(episodes: Iterator[Episode]) -> list[Episode]:
    first: dict[str, Episode] = {}
    for episode in episodes:
        first.setdefault(_skill(episode), episode)
    return list(first.values())


def _skill(episode: Episode) -> str:
    return str((episode.meta or {}).get("skill", "row")).replace("_", " ")


def tokenizer_of(run: FinishedRun, rows: Sequence[Episode]) -> Tokenizer | None:
    """The tokenizer of the run's model folder; None where it is gone, or is not the one that the rows were
    made with."""
    if not rows or "model_name_or_path" not in run.config:
        return None
    named = run.config["model_name_or_path"]
    try:
        # A hub id is left alone: nobody expects a report to go out to the network.
        folder = default_model_folder() if named is None else Path(str(named)).expanduser()
        if not folder.is_dir():
            return None
        tokenizer = tokenizers.load(folder)
        return tokenizer if all(_made_with(tokenizer, episode) for episode in rows) else None
    except BadInput:
        return None


def _made_with(tokenizer: Tokenizer, episode: Episode) -> bool:
    """Whether the tokenizer gives the row's prompt its length and reads the sampled ids as the text beside
    them."""
    attempt = episode.messages[1]
    prompt = encode(render.plain(episode.messages[:1], open_turn=True), tokenizer).tokens
    same_length = len(prompt) == (episode.meta or {}).get("prompt_tokens")
    return same_length and tokenizer.decode(attempt.tokens or (), skip_controls=True) == attempt.content


def arms_of(run: FinishedRun) -> list[Method]:
    """The arms of the run that take the stream as it is; where it has none, those that there are."""
    arms = [look(name) for name in run.methods if look(name).takes_stream_whole]
    return arms or [method for method in methods.METHODS if method.takes_stream_whole]


def arm_views(episode: Episode, tokenizer: Tokenizer | None, arms: Sequence[Method]) -> dict[str, list[Line]]:
    """The row's lines as each arm sees them."""
    if tokenizer is None:
        return {arm.name: list(_lines_of_messages(episode, arm)) for arm in arms}
    views = {}
    for arm in arms:
        assert arm.weighting is not None
        transcript = render.plain(
            episode.messages, targets=protocol.target_authors(arm.evidence), id=episode.id
        )
        encoded = encode(transcript, tokenizer)
        views[arm.name] = boxes.lines(encoded, tokenizer, arm.weighting(encoded))
    return views


def _lines_of_messages(episode: Episode, arm: Method) -> Iterator[Line]:
    """Lines without a tokenizer, segment by segment of the same renderer: a target bears loss where the arm
    gives its author's words in that turn a weight."""
    messages = [replace(message, tokens=None, logprobs=None) for message in episode.messages]
    for segment in render.plain(messages, targets=protocol.target_authors(arm.evidence)).segments:
        bears_loss = segment.is_target and arm.turn_weight(segment.author, solved=segment.solved) > 0
        content = segment.content if isinstance(segment.content, str) else boxes.EOS
        for line in content.split("\n"):
            if line.strip():
                yield Line(LOSS if bears_loss else MASK, line, segment.author)


def answers(run: FinishedRun) -> list[Child]:
    """Every method's answers to the same questions beside each other; first the questions on which the
    methods are most divided."""
    direct, second = _by_id(run, "direct"), _by_id(run, "second")
    parts: list[Child] = []
    for n, id in enumerate(choose_questions(list(direct.values()))):
        asked = [rows[id] for rows in direct.values()]
        cards = [_answer(method, rows[id], second.get(method, {}).get(id)) for method, rows in direct.items()]
        right = (
            f"{asked[0].skill.replace('_', ' ')}: {sum(row.solved for row in asked)} of "
            f"{len(asked)} methods right "
        )
        title = join([right, tag("span", _question(asked[0].prompt), class_="soft")])
        prompt = tag("pre", asked[0].prompt, class_="prompt")
        parts.append(folded(title, prompt, tag("div", *cards, class_="answers"), opened=n < 1))
    return parts


def _question(prompt: str) -> str:
    head, _, tail = render.PROMPT.partition("{question}")
    return prompt.removeprefix(head).removesuffix(tail)


def _by_id(run: FinishedRun, protocol: str) -> dict[str, dict[str, Answer]]:
    return {
        method: {row.id: row for row in protocols[protocol]}
        for method, protocols in run.answers.items()
        if protocol in protocols
    }


def choose_questions(direct: Sequence[dict[str, Answer]]) -> list[str]:
    """Ids that all methods answered: skill after skill in turn, in each those first on which the methods are
    most divided."""
    asked: dict[str, list[tuple[float, int, str]]] = {}
    common = [id for id in direct[0] if all(id in rows for rows in direct)] if direct else []
    for place, id in enumerate(common):
        right = sum(rows[id].solved for rows in direct)
        asked.setdefault(direct[0][id].skill, []).append((abs(right - len(direct) / 2), place, id))
    ranked = [
        (turn, *divided_place_id)
        for ones in asked.values()
        for turn, divided_place_id in enumerate(sorted(ones))
    ]
    return [id for _, _, _, id in sorted(ranked)[:SHOWN_QUESTIONS]]


def _answer(method: str, direct: Answer, second: Answer | None) -> Html:
    parts: list[Child] = [
        tag("b", look(method).label),
        " ",
        _verdict(direct),
        tag("pre", direct.completion),
    ]
    if second is not None:
        parts += [
            tag("span", "after SFT-1's attempt", class_="soft"),
            " ",
            _verdict(second),
            tag("pre", second.completion),
        ]
    return tag("div", *parts, class_="answer", style=f"border-top:3px solid {look(method).colour}")


def _verdict(answer: Answer) -> Html:
    cut = ", cut" if answer.cut else ""
    return tag(
        "span",
        f"✓ right{cut}" if answer.solved else f"✗ {answer.reason}{cut}",
        class_="right" if answer.solved else "wrong",
    )


def outcome_map(run: FinishedRun) -> Html | None:
    """Every question and every method: a filled square where it was solved. None where answers are missing,
    or too many to look at."""
    direct = _by_id(run, "direct")
    if not direct or len({frozenset(rows) for rows in direct.values()}) > 1:
        return None
    solved = {id: sum(rows[id].solved for rows in direct.values()) for id in next(iter(direct.values()))}
    if len(solved) > MOST_SQUARES:
        return None
    skill_of = {id: row.skill for id, row in next(iter(direct.values())).items()}
    order = sorted(solved, key=lambda id: (skill_of[id], -solved[id], id))
    starts = {id for before, id in pairwise(order) if skill_of[before] != skill_of[id]}
    rows = []
    for method, rows_by_id in direct.items():
        squares = [
            tag(
                "i",
                class_=f"{'on' if rows_by_id[id].solved else 'off'}{' gap' if id in starts else ''}",
                title=f"{skill_of[id]} {id}",
            )
            for id in order
        ]
        rows.append(
            [
                look(method).label,
                tag("td", tag("div", *squares, class_="squares", style=f"--c:{look(method).colour}")),
            ]
        )
    counts = Counter(skill_of[id] for id in order)
    labels = [
        tag("span", skill.replace("_", " "), class_="gap" if n else None, style=f"--n:{count}")
        for n, (skill, count) in enumerate(counts.items())
    ]
    heading = tag("th", f"{len(order)} questions", tag("div", *labels, class_="squares skills"), scope="col")
    caption = "One square a question, filled where the direct answer is right; a gap between skills."
    return table(["method", heading], rows, caption=caption, kind="map")
