"""An answer as JSON: what was asked, what it was, what was said of it; and the row that it became, token by
token and as the mark-up of every page here."""

from collections.abc import Sequence
from typing import Any

from cicjax.agent.events import Event
from cicjax.agent.lessons import WEIGHTING
from cicjax.agent.turns import Erased
from cicjax.provenance.transcript import Author
from cicjax.serve.service import RECEIPT, Service
from cicjax.training.batches import Row
from cicjax.views.transcript import transcript_html

VERDICTS = {1: "right", 0: "wrong"}
SHOWN_TOKENS = 4000


def brief(service: Service, begin: Event, attempt: Event | None) -> dict[str, Any]:
    """What was asked and answered; `text` is null where an answer never ended or was erased."""
    turns = service.agent.turns
    try:
        messages = [{"role": each.role, "content": each.content} for each in turns.seen(begin)]
        text = None if attempt is None else turns.content(attempt)["text"]
    except Erased:
        messages, text = [], None
    return {
        "id": RECEIPT + begin.id,
        "version": begin.version,
        "source": begin.source,
        "at": begin.at,
        "messages": messages,
        "text": text,
        "finish_reason": None if attempt is None else attempt.finish,
        "verdict": VERDICTS.get(turns.verdict_on(begin)),
    }


def whole(service: Service, begin: Event, before: int | None, after: int | None) -> dict[str, Any]:
    """All of it. Raises BadInput for a version that there is none of."""
    agent = service.agent
    attempt = agent.turns.attempt_of(begin)
    record = brief(service, begin, attempt)
    said = [event for event in agent.store.of_parent(begin.seq) if event.kind != "attempt"]
    record["feedback"] = [_said(service, event) for event in said]
    question = record["messages"][-1]["content"] if record["messages"] else ""
    record["solution"] = service.hand.solution(question)
    lesson = next((event for event in reversed(said) if event.lesson is not None), None)
    rows = agent.rows_about(begin, lesson) if record["text"] is not None else []
    if lesson is not None and before is None and after is None:
        before, after = _versions(service, lesson)
    record["before"], record["after"] = before, after
    columns = [None if n is None else service.score(rows, n) for n in (before, after)]
    record["rows"] = [_row(service, row, n, columns) for n, row in enumerate(rows)]
    return record


def _said(service: Service, event: Event) -> dict[str, Any]:
    content = service.agent.store.content(event)
    history = service.agent.history
    return {
        "id": event.id,
        "kind": event.kind,
        "source": event.source,
        "text": None if content is None else content.get("text"),
        "verdict": VERDICTS.get(event.solved) if event.kind == "verdict" else None,
        "lesson": event.lesson,
        "reason": event.reason,
        "state": None if event.lesson is None else history.state_of(event.lesson),
    }


def _versions(service: Service, lesson: Event) -> tuple[int | None, int | None]:
    """The versions before and after a lesson was learned; the serving one where it waits."""
    history = service.agent.history
    with service.agent.store.held():
        took = [v for v in history.versions.values() if lesson.lesson in v.lessons and v.digest]
    if not took:
        return history.serving, None
    return took[-1].parent, took[-1].number


def _row(service: Service, row: Row, n: int, columns: Sequence[Any]) -> dict[str, Any]:
    encoded, tokenizer = row.encoded, service.agent.policy.tokenizer
    before, after = (None if column is None else column[n] for column in columns)
    tokens = [
        {
            "text": text,
            "author": Author(int(encoded.author[t])).label,
            "gamma": int(encoded.gamma[t]),
            "weight": float(row.loss_weights[t]),
            "before": _value(before, row, t),
            "after": _value(after, row, t),
        }
        for t, text in enumerate(tokenizer.pieces(encoded.tokens.tolist())[:SHOWN_TOKENS])
    ]
    html = transcript_html(
        encoded, tokenizer, weightings={"interventional": WEIGHTING}, max_tokens=SHOWN_TOKENS
    )
    return {"tokens": tokens, "html": html}


def _value(column: Any, row: Row, t: int) -> float | None:
    return None if column is None or not row.loss_weights[t] else round(float(column[t]), 5)
