"""Errors in OpenAI's shape, which its clients read: {"error": {message, type, param, code}}."""

from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from cicjax.agent.store import Conflict
from cicjax.agent.trust import Refused
from cicjax.errors import BadInput, CicjaxError, printable, shorten

TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


class Problem(Exception):
    """What an answer of status 400 or more says. `param` names the field that is meant, `retry` the seconds
    after which it may go better."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code, self.retry = status, message, param, code, retry

    def record(self) -> dict[str, Any]:
        """The body."""
        kind = TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        said = {"message": printable(self.message), "type": kind, "param": self.param, "code": self.code}
        return {"error": said}

    def response(self) -> JSONResponse:
        """As it goes out."""
        headers = {} if self.retry is None else {"Retry-After": str(self.retry)}
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return JSONResponse(self.record(), self.status, headers)


def of(error: CicjaxError) -> Problem:
    """An error of the agent as one of HTTP."""
    if isinstance(error, Refused):
        return Problem(403, str(error), code="refused")
    if isinstance(error, Conflict):
        return Problem(409, str(error), code="idempotency_conflict")
    if isinstance(error, BadInput):
        return Problem(400, str(error))
    # A full disk, a damaged file: an answer that is not in the log must not be given.
    return Problem(503, str(error), code=type(error).__name__.lower(), retry=30)


def install(app: FastAPI) -> None:
    """Answer every error of an app in this shape."""

    async def problem(request: Request, error: Any) -> JSONResponse:
        return error.response()

    async def agents(request: Request, error: Any) -> JSONResponse:
        return of(error).response()

    async def invalid(request: Request, error: Any) -> JSONResponse:
        first = error.errors()[0]
        place = [str(part) for part in first["loc"] if part not in ("body", "query", "path", "header")]
        where = ".".join(place) or None
        given = "" if first.get("type") == "missing" else f", not {shorten(first.get('input'))}"
        message = f"{where or 'the body'}: {first['msg'][:200]}{given}"
        return Problem(400, message, param=where).response()

    async def plain(request: Request, error: Any) -> JSONResponse:
        problem = Problem(error.status_code, str(error.detail))
        answer = problem.response()
        answer.headers.update(error.headers or {})
        return answer

    app.add_exception_handler(Problem, problem)
    app.add_exception_handler(CicjaxError, agents)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, plain)
