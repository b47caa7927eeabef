"""/v1/chat/completions and /v1/models, for whoever speaks OpenAI's protocol. The `id` of a completion is its
receipt: feedback on it goes by that."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

import anyio
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.concurrency import run_in_threadpool

from cicjax.agent.trust import Source
from cicjax.agent.versions import FORGOTTEN, PLANNED
from cicjax.errors import CicjaxError
from cicjax.sampling.request import Full
from cicjax.serve import errors
from cicjax.serve.auth import Chat
from cicjax.serve.errors import Problem
from cicjax.serve.reply import Reply, event
from cicjax.serve.service import MODEL, RECEIPT, Service
from cicjax.serve.wire import ChatRequest

router = APIRouter()
BUSY_S = 1


@router.get("/v1/models")
def models(request: Request, source: Chat) -> dict[str, Any]:
    """The agent as it serves, and every version that can still answer."""
    service: Service = request.app.state.service
    with service.agent.store.held():
        kept = [v for v in service.agent.versions() if v.state not in (PLANNED, FORGOTTEN)]
    names = [MODEL, *(f"{MODEL}@{version.number}" for version in reversed(kept))]
    created = int(service.started)
    data = [{"id": name, "object": "model", "created": created, "owned_by": "cicjax"} for name in names]
    return {"object": "list", "data": data}


@router.get("/v1/models/{model}")
def one_model(request: Request, model: str, source: Chat) -> dict[str, Any]:
    """One of them."""
    service: Service = request.app.state.service
    service.version_of(model)
    return {"id": model, "object": "model", "created": int(service.started), "owned_by": "cicjax"}


@router.post("/v1/chat/completions")
async def chat(request: Request, body: ChatRequest, source: Chat) -> Any:
    """Answer a conversation, whole or as it is drawn."""
    service: Service = request.app.state.service
    body.check()
    service.check_open()
    version = service.version_of(body.model)
    changed = asyncio.Event()
    replies = await run_in_threadpool(_ask, service, body, source, version, _waking(changed))
    answering = _answering(service, body, replies)
    if body.stream:
        return _Streamed(_stream(service, body, replies, changed), answering)
    async with answering:
        gone = asyncio.ensure_future(_gone(request))
        try:
            await _ended(service, replies, changed, gone)
        finally:
            gone.cancel()
    return JSONResponse(_whole(service, body, replies))


def _waking(changed: asyncio.Event) -> Callable[[], None]:
    """What the engine calls, in its thread, when there is something new."""
    loop = asyncio.get_running_loop()

    def wake() -> None:
        with suppress(RuntimeError):  # the loop has ended, and nobody waits any more
            loop.call_soon_threadsafe(changed.set)

    return wake


def _ask(
    service: Service, body: ChatRequest, source: Source, version: int | None, notify: Any
) -> list[Reply]:
    """Begin the answers, of one version all of them. Raises Problem 429 where there is no room."""
    replies = list[Reply]()
    messages = [message.record() for message in body.messages]
    try:
        for sample in range(body.n or 1):
            answer = service.live.ask(
                messages,
                tools=body.schemas,
                max_tokens=body.max_completion_tokens or body.max_tokens,
                temperature=1.0 if body.temperature is None else body.temperature,
                top_p=1.0 if body.top_p is None else body.top_p,
                seed=body.seed,
                stops=body.stops,
                version=replies[0].answer.version if replies else version,
                top_logprobs=body.top_logprobs or 0,
                source=source.name,
                sample=sample,
                notify=notify,
            )
            replies.append(Reply(answer, service.agent.policy.tokenizer, tools=bool(body.schemas)))
    except BaseException as error:
        for reply in replies:
            reply.answer.handle.cancel()
            service.live.finish(reply.answer)
        if isinstance(error, Full):
            raise Problem(429, "too many answers are waiting; ask again", code="busy", retry=BUSY_S) from None
        raise
    service.count(len(replies))
    return replies


@asynccontextmanager
async def _answering(service: Service, body: ChatRequest, replies: Sequence[Reply]) -> AsyncIterator[None]:
    """Answers under way: however they end, their rows are freed and what was delivered is in the log."""
    try:
        yield
    finally:
        for reply in replies:
            reply.answer.handle.cancel()
        with anyio.CancelScope(shield=True):
            for reply in replies:
                if not reply.finished:
                    await run_in_threadpool(_finish, service, body, reply)
        service.count(-len(replies))


def _finish(service: Service, body: ChatRequest, reply: Reply) -> None:
    reply.finished = True
    attempt = service.live.finish(reply.answer)
    service.metrics.tokens.labels("written").inc(len(attempt.tokens))
    service.judge(attempt, [message.record() for message in body.messages])


async def _ended(service: Service, replies: Sequence[Reply], changed: Any, gone: Any = None) -> None:
    """Wait for the ends of the answers, or for the end of the client or of the server's patience."""
    while True:
        for reply in replies:
            reply.take(service)
        if all(reply.ended for reply in replies):
            return
        if gone is not None and gone.done():
            raise Problem(499, "the client has left")
        if service.ending:
            for reply in replies:
                reply.answer.handle.cancel()
        await _next(changed)


async def _next(changed: Any) -> None:
    """Until something is new, or a moment has passed."""
    try:
        await asyncio.wait_for(changed.wait(), 0.5)
    except TimeoutError:
        return
    changed.clear()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


class _Streamed(StreamingResponse):
    """A stream of events inside `answering`, which is left however the stream ends, or if it never begins."""

    def __init__(self, chunks: AsyncIterator[str], answering: Any) -> None:
        super().__init__(chunks, media_type="text/event-stream", headers={"Cache-Control": "no-store"})
        self._answering = answering

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async with self._answering:
            await super().__call__(scope, receive, send)


async def _stream(
    service: Service, body: ChatRequest, replies: Sequence[Reply], changed: Any
) -> AsyncIterator[str]:
    """Chunks as OpenAI's clients read them; an answer is in the log before its last chunk."""
    chunk = partial(_chunk, service, body, replies)
    for index in range(len(replies)):
        yield chunk(index, {"role": "assistant", "content": ""})
    under_way = dict(enumerate(replies))
    try:
        while under_way:
            for index, reply in list(under_way.items()):
                for text, logprobs in reply.take(service):
                    if text or body.logprobs:
                        yield chunk(index, {"content": text}, logprobs=logprobs if body.logprobs else None)
                if service.ending:
                    reply.answer.handle.cancel()
                if reply.ended:
                    del under_way[index]
                    await run_in_threadpool(_finish, service, body, reply)
                    if rest := reply.rest():
                        yield chunk(index, rest)
                    yield chunk(index, {}, finish=reply.reason)
            if under_way:
                await _next(changed)
    except CicjaxError as error:  # too late for a status
        yield event(errors.of(error).record())
        return
    if body.stream_options is not None and body.stream_options.include_usage:
        head = _head(service, replies, "chat.completion.chunk")
        yield event(head | {"choices": [], "usage": _usage(replies)})
    yield "data: [DONE]\n\n"


def _chunk(
    service: Service,
    body: ChatRequest,
    replies: Sequence[Reply],
    index: int,
    delta: dict[str, Any],
    *,
    logprobs: list[Any] | None = None,
    finish: str | None = None,
) -> str:
    choice: dict[str, Any] = {"index": index, "delta": delta, "finish_reason": finish}
    choice["logprobs"] = None if logprobs is None else {"content": logprobs, "refusal": None}
    choice["receipt"] = RECEIPT + replies[index].answer.id
    record = _head(service, replies, "chat.completion.chunk") | {"choices": [choice]}
    if body.stream_options is not None and body.stream_options.include_usage:
        record["usage"] = None
    return event(record)


def _head(service: Service, replies: Sequence[Reply], kind: str) -> dict[str, Any]:
    first = replies[0].answer
    return {
        "id": RECEIPT + first.id,
        "object": kind,
        "created": int(replies[0].begun),
        "model": f"{MODEL}@{first.version}",
        "system_fingerprint": service.fingerprint(first.version),
    }


def _usage(replies: Sequence[Reply]) -> dict[str, int]:
    prompt, written = replies[0].prompt_tokens, sum(reply.count for reply in replies)
    return {"prompt_tokens": prompt, "completion_tokens": written, "total_tokens": prompt + written}


def _whole(service: Service, body: ChatRequest, replies: Sequence[Reply]) -> dict[str, Any]:
    choices = []
    for index, reply in enumerate(replies):
        message = {"role": "assistant", "refusal": None} | reply.message()
        logprobs = {"content": reply.logprobs, "refusal": None} if body.logprobs else None
        choices.append(
            {
                "index": index,
                "message": message,
                "logprobs": logprobs,
                "finish_reason": reply.reason,
                "receipt": RECEIPT + reply.answer.id,
            }
        )
    head = _head(service, replies, "chat.completion")
    return head | {"choices": choices, "usage": _usage(replies)}
