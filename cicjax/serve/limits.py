"""What one request may take: bytes, and time to send and to read them. An ASGI layer around the whole app."""

import asyncio
from collections.abc import Mapping
from typing import Any

from starlette.datastructures import Headers

from cicjax.serve.auth import Origins
from cicjax.serve.errors import Problem

BODY = 1 << 20
FEEDBACK = 16 << 10
SMALL = ("/v1/feedback", "/v1/observations")
SEND_S = 20.0  # for a whole body, and for each part of an answer that is read


class Gate:
    """Lets a request in, or answers it: Host and Origin, the length of its body, how long it takes to send.

    `headers` go with every answer, `requests` counts them by route and status. A reader that takes nothing
    for SEND_S is cut off.
    """

    def __init__(self, app: Any, *, origins: Origins, headers: Mapping[str, str], requests: Any) -> None:
        self._app, self._origins, self._requests = app, origins, requests
        self._headers = [(name.lower().encode(), value.encode()) for name, value in headers.items()]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)

        async def said(message: Any) -> None:
            if message["type"] == "http.response.start":
                path = getattr(scope.get("route"), "path", "none")
                self._requests.labels(path, str(message["status"])).inc()
                message = message | {"headers": [*message.get("headers", ()), *self._headers]}
            await asyncio.wait_for(send(message), SEND_S)

        problem = self._origins.refusal(headers)
        body = None
        if problem is None:
            try:
                body = await _read(receive, headers, FEEDBACK if scope["path"] in SMALL else BODY)
            except Problem as error:
                problem = error
        if problem is not None:
            answer = problem.response()
            answer.headers["Connection"] = "close"
            await answer(scope, receive, said)
            return
        try:
            await self._app(scope, _replay(body or b"", receive), said)
        except TimeoutError:
            return  # nobody reads: the connection is closed by whoever runs us


def _replay(body: bytes, receive: Any) -> Any:
    """A `receive` that gives a body that was read, then what comes after it."""
    given = False

    async def again() -> Any:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


async def _read(receive: Any, headers: Headers, most: int) -> bytes:
    """The body of a request. Raises Problem 413 for one that is too long, 408 for one that does not come."""
    too_long = Problem(413, f"the body is longer than {most:,} bytes; send less", code="too_long")
    length = headers.get("content-length", "0")
    if length.isdigit() and int(length[:20]) > most:
        raise too_long
    parts, size = list[bytes](), 0
    try:
        async with asyncio.timeout(SEND_S):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise Problem(400, "the body was cut short")
                parts.append(message.get("body", b""))
                size += len(parts[-1])
                if size > most:
                    raise too_long
                if not message.get("more_body"):
                    return b"".join(parts)
    except TimeoutError:
        raise Problem(408, "the body did not come in time", code="timeout") from None
