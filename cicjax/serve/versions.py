"""What became of the lessons: versions, the curve, the state of things; and what only an administrator does:
learn, pause, roll back, forget."""

import asyncio
import shutil
import time
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.concurrency import run_in_threadpool

from cicjax.serve.auth import Admin, Chat
from cicjax.serve.errors import Problem
from cicjax.serve.reply import event
from cicjax.serve.service import Service
from cicjax.serve.wire import Choice, Forgetting, Pausing

router = APIRouter()
DISK = 64 << 20
SPEAKING = 15.0  # seconds of silence after which a stream of events says that it is there


@router.get("/v1/versions")
def versions(request: Request, source: Chat) -> dict[str, Any]:
    """Every version: lessons by source, what the gate said, whether it serves."""
    agent = request.app.state.service.agent
    with agent.store.held():
        data = [agent.history.record(version.number) for version in agent.versions()]
    return {"object": "list", "data": data}


@router.get("/v1/versions/{number}")
def one_version(request: Request, number: int, source: Chat) -> dict[str, Any]:
    """One of them."""
    return _version(request.app.state.service, number)


@router.post("/v1/versions/{number}/serve")
def serve(request: Request, number: int, source: Admin, body: Choice | None = None) -> dict[str, Any]:
    """Let a version serve; lessons that it has not learned are set aside."""
    service: Service = request.app.state.service
    body = body or Choice()
    _version(service, number)
    service.live.serve(number, reason=body.reason or f"by {source.name}", confirm=body.confirm).result()
    return _version(service, number)


@router.post("/v1/learn", status_code=202)
def learn(request: Request, source: Admin) -> dict[str, Any]:
    """Learn what waits now, in a smaller last step too."""
    service: Service = request.app.state.service
    with service.agent.store.held():
        waiting = len(service.agent.history.waiting())
    service.live.learn()
    return {"waiting": waiting, "doing": service.live.doing}


@router.post("/v1/learn/pause")
def pause(request: Request, source: Admin, body: Pausing | None = None) -> dict[str, Any]:
    """Stop learning after the slice at hand, or go on with it."""
    live = request.app.state.service.live
    (live.pause if body is None or body.paused else live.resume)()
    return {"doing": live.doing}


@router.post("/v1/sources/{name}/forget")
def forget(request: Request, name: str, source: Admin, body: Forgetting | None = None) -> dict[str, Any]:
    """Forget a source: the bits of a life without it."""
    service: Service = request.app.state.service
    if name not in service.agent.history.sources:
        raise Problem(404, "there is no source of this name", param="name", code="not_found")
    if name == source.name:
        message = "this would shut you out; another administrator may, or `cicjax agent forget` at rest"
        raise Problem(409, message, param="name", code="own_source")
    made = service.live.forget(name, erase=bool(body and body.erase)).result()
    return {"source": name, "serving": service.agent.history.serving, "made": [v.number for v in made]}


@router.get("/v1/curve")
def curve(request: Request, source: Chat) -> dict[str, Any]:
    """How right the serving version has been on new questions, of how many answers judged."""
    service: Service = request.app.state.service
    with service.agent.store.held():
        service.curve.apply(service.agent.store.events(after=service.curve.seq))
        return service.curve.record()


@router.get("/v1/problem")
def problem(request: Request, source: Chat, number: Annotated[int, Query(ge=0, lt=1 << 31)] = 0) -> Any:
    """A question of the task at hand."""
    found = request.app.state.service.hand.problem(number)
    if found is None:
        raise Problem(404, "no task is at hand; start with --task", code="not_found")
    return {"question": found.question}


@router.get("/v1/status")
def status(request: Request, source: Chat) -> dict[str, Any]:
    """What serves, what waits, who may what; what the engine does."""
    return _status(request.app.state.service) | {"you": {"name": source.name, "may": sorted(source.rights)}}


@router.get("/v1/events")
async def events(
    request: Request, source: Chat, after: Annotated[int | None, Query(ge=0, lt=1 << 62)] = None
) -> StreamingResponse:
    """What happens, as server-sent events: kinds and numbers, not what anybody said."""
    service: Service = request.app.state.service
    last = request.headers.get("last-event-id", "")
    if after is None and last.isascii() and last.isdigit():
        after = int(last[:18])
    stream = _events(service, after)
    return StreamingResponse(stream, media_type="text/event-stream", headers={"Cache-Control": "no-store"})


@router.get("/healthz")
def healthz() -> dict[str, str]:
    """The process is alive."""
    return {"status": "ok"}


@router.get("/readyz")
def readyz(request: Request) -> JSONResponse:
    """Whether a request would be answered, and what is wrong where not."""
    service: Service = request.app.state.service
    wrong = []
    if service.draining:
        wrong.append("ending")
    if service.live.doing == "failed":
        wrong.append("learning failed")
    if shutil.disk_usage(service.home).free < DISK:
        wrong.append("the disk is nearly full")
    return JSONResponse({"ready": not wrong, "wrong": wrong}, 503 if wrong else 200)


@router.get("/metrics")
def metrics(request: Request, source: Chat) -> Response:
    """Figures in Prometheus' format."""
    service: Service = request.app.state.service
    said = _status(service)
    figures = {name: value for name, value in said.items() if isinstance(value, int | float)}
    figures |= {f"engine_{n}": v for n, v in said["engine"].items() if isinstance(v, int | float)}
    states = [version["state"] for version in versions(request, source)["data"]]
    figures |= {"versions_rejected": states.count("rejected")}
    return Response(service.metrics.text(figures), media_type=service.metrics.content_type)


def _version(service: Service, number: int) -> dict[str, Any]:
    with service.agent.store.held():
        if number not in service.agent.history.versions:
            raise Problem(404, "there is no version of this number", param="number", code="not_found")
        return service.agent.history.record(number)


def _status(service: Service) -> dict[str, Any]:
    with service.agent.store.held():
        said = service.agent.status()
    failure = service.live.failure if service.live.doing == "failed" else None
    return said | {
        "doing": service.live.doing,
        "failure": None if failure is None else str(failure)[:300],
        "engine": service.live.engine.stats(),
        "open": service.open,
        "uptime": round(time.time() - service.started, 1),
        "task": service.hand.problem(0) is not None,
        "settings": {
            name: getattr(service.agent.settings, name)
            for name in ("format", "contexts", "lessons_per_step", "updates_per_step", "max_new_tokens")
        },
    }


async def _events(service: Service, after: int | None) -> AsyncIterator[str]:
    store = service.agent.store
    seq = after if after is not None else store.last.seq if store.last else 0
    doing, spoken = "", time.monotonic()
    while not service.draining:
        if service.live.doing != doing:
            doing = service.live.doing
            yield event({"doing": doing}, "doing")
        if store.last is not None and store.last.seq > seq:
            for each in await run_in_threadpool(lambda since: list(store.events(after=since)), seq):
                seq = each.seq
                said = {"kind": each.kind, "source": each.source, "version": each.version}
                said |= {"lesson": each.lesson, "reason": each.reason, "solved": each.solved}
                if each.kind in ("outcome", "plan", "serve"):
                    said["version"] = each.facts["version"]
                    said["state"] = each.facts.get("state")
                yield event(said, each.kind, seq)
                spoken = time.monotonic()
        elif time.monotonic() - spoken > SPEAKING:
            spoken = time.monotonic()
            yield ": still here\n\n"
        await asyncio.sleep(0.2)
