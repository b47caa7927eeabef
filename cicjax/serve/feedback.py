"""What the world says of answers: feedback, observations, and the queue of answers for whoever judges or
teaches by program. Every POST is answered after it is on disk, and may be sent again under its key."""

import asyncio
import time
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool

from cicjax.agent.events import Correction, Demonstration, Event, Observation, Receipt, Verdict
from cicjax.agent.store import Conflict
from cicjax.agent.trust import Source
from cicjax.serve import shown
from cicjax.serve.auth import Judge, Speak
from cicjax.serve.errors import Problem
from cicjax.serve.service import Service
from cicjax.serve.wire import LONGEST_ID, Feedback, Observed

router = APIRouter()
Key = Annotated[str | None, Header(alias="Idempotency-Key", min_length=1, max_length=LONGEST_ID)]


@router.post("/v1/feedback", status_code=201)
def feedback(request: Request, body: Feedback, source: Speak, key: Key = None) -> JSONResponse:
    """A verdict on an answer, or what it should have been, or both."""
    service: Service = request.app.state.service
    if body.verdict is None and body.correction is None:
        raise Problem(400, "give a verdict, a correction, or both", param="verdict")
    begin = service.begin_of(body.id)
    both = body.verdict is not None and body.correction is not None
    _check_key(service, source, key, both=both)
    receipts = []
    if body.verdict is not None:
        # Where both come, the key stands for the correction, and the verdict goes before under one beside it.
        beside = f"{key} verdict" if both and key is not None else key
        receipts.append(_observe(service, begin, Verdict(body.verdict == "right"), source, beside))
    if body.correction is not None:
        receipts.append(_observe(service, begin, Correction(body.correction, body.scope), source, key))
    return _told(receipts[-1])


@router.post("/v1/observations", status_code=201)
def observations(request: Request, body: Observed, source: Speak, key: Key = None) -> JSONResponse:
    """What a tool or the environment says of an answer (id, text), or a demonstration (messages, answer)."""
    service: Service = request.app.state.service
    if body.messages is not None and body.answer is not None and body.id is None and body.text is None:
        said = Demonstration([message.record() for message in body.messages], body.answer)
        return _told(_observe(service, None, said, source, key))
    if body.id is None or body.text is None or body.messages is not None or body.answer is not None:
        message = "give id and text, or messages and answer"
        raise Problem(400, message, param="id" if body.messages is None else "answer")
    return _told(_observe(service, service.begin_of(body.id), Observation(body.text), source, key))


@router.get("/v1/attempts")
async def attempts(
    request: Request,
    source: Judge,
    judged: bool | None = None,
    after: Annotated[int, Query(ge=0, lt=1 << 62)] = 0,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    wait: Annotated[float, Query(ge=0, le=60)] = 0.0,
) -> dict[str, Any]:
    """Answers after event `after`, oldest first; with `wait` the request stays open for so many seconds until
    there is one."""
    service: Service = request.app.state.service
    until = time.monotonic() + wait
    while True:
        found, last = await run_in_threadpool(_queue, service, judged, after, limit)
        if found or time.monotonic() >= until or service.draining:
            return {"object": "list", "data": found, "after": last}
        await asyncio.sleep(0.25)


@router.get("/v1/attempts/{id}")
def one_attempt(
    request: Request,
    source: Judge,
    id: str,
    before: Annotated[int | None, Query(ge=0, lt=1 << 31)] = None,
    after: Annotated[int | None, Query(ge=0, lt=1 << 31)] = None,
) -> dict[str, Any]:
    """An answer with all that was said of it, and the row it became, token by token: author, gamma, weight,
    and log-probability under two versions, by default before and after its lesson was learned."""
    service: Service = request.app.state.service
    return shown.whole(service, service.begin_of(id), before, after)


def _observe(service: Service, begin: Event | None, said: Any, source: Source, key: str | None) -> Receipt:
    with service.metrics.commit.time():
        about = None if begin is None else begin.id
        receipt = service.live.observe(about, said, source=source.name, idempotency=key)
    what = "repeated" if receipt.repeated else "lesson" if receipt.lesson is not None else "no lesson"
    service.metrics.feedback.labels(what).inc()
    return receipt


def _told(receipt: Receipt) -> JSONResponse:
    said = {"id": receipt.id, "event": receipt.seq, "lesson": receipt.lesson, "reason": receipt.reason}
    return JSONResponse(said, 200 if receipt.repeated else 201)


def _check_key(service: Service, source: Source, key: str | None, *, both: bool) -> None:
    """Raise Conflict where a key that was used for a correction alone comes with a verdict too, or the other
    way round; other differences the log itself sees."""
    if key is None:
        return
    names = f"key {key}", f"key {key} verdict"
    statement = "SELECT idempotency FROM events WHERE source = ? AND idempotency IN (?, ?)"
    known = {row[0] for row in service.agent.store.execute(statement, source.name, *names)}
    if names[0] in known and (names[1] in known) is not both:
        raise Conflict(f"the idempotency key {key!r} has come with another body; use a new one")


def _queue(service: Service, judged: bool | None, after: int, limit: int) -> tuple[list[dict[str, Any]], int]:
    """Attempts, and the number of the last event that was looked at."""
    store, found, last = service.agent.store, list[dict[str, Any]](), after
    statement = "SELECT seq FROM events WHERE kind = 'attempt' AND seq > ? ORDER BY seq LIMIT 1000"
    for (seq,) in store.execute(statement, after):
        last, attempt = seq, store.event(seq)
        assert attempt.parent is not None
        begin = store.event(attempt.parent)
        if judged is None or judged is (service.agent.turns.verdict_on(begin) >= 0):
            found.append(shown.brief(service, begin, attempt) | {"seq": seq})
        if len(found) == limit:
            break
    return found, last
