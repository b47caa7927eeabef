"""The application: endpoints, the page, and what stands around every request."""

from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import Response

import cicjax
from cicjax.serve import chat, errors, feedback, versions
from cicjax.serve.auth import Origins
from cicjax.serve.limits import Gate
from cicjax.serve.service import Service
from cicjax.views.html import SERVED_HEADERS
from cicjax.views.transcript_style import STYLE

PAGE = Path(__file__).parent / "page"
KINDS = {"page.html": "text/html", "page.css": "text/css", "page.js": "text/javascript"}


def build(service: Service, *, host: str = "127.0.0.1", allowed_hosts: tuple[str, ...] = ()) -> Any:
    """The ASGI application of an agent; `host` is the address that it is bound to."""
    app = FastAPI(title="cicjax", version=cicjax.__version__, docs_url=None, redoc_url=None)
    app.state.service = service
    errors.install(app)
    for each in (chat, feedback, versions):
        app.include_router(each.router)
    _add_page(app)
    origins = Origins(host, allowed_hosts)
    return Gate(app, origins=origins, headers=SERVED_HEADERS, requests=service.metrics.requests)


def _add_page(app: FastAPI) -> None:
    """The page: one file each of HTML, style (after that of transcripts) and script."""
    for name, kind in KINDS.items():
        content = (PAGE / name).read_text(encoding="utf-8")
        before = STYLE if name == "page.css" else ""
        path = "/" if name == "page.html" else f"/{name}"
        app.add_route(path, _file(before + content, kind), include_in_schema=False)


def _file(content: str, kind: str) -> Any:
    async def file(request: Request) -> Response:
        return Response(content, media_type=kind, headers={"Cache-Control": "no-cache"})

    return file
