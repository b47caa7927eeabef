"""The server as a process: bind, say where, answer, and end well when a signal asks for it.

From the signal on nothing new is taken; answers under way have DRAIN_S to end, then they are cut, as
`length`, and are in the log as far as they were delivered.
"""

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator
from typing import Any

import uvicorn

from cicjax import signals
from cicjax.errors import BadInput
from cicjax.serve.service import Service

DRAIN_S = 10.0
CUT_S = 2.0
CONNECTIONS = 512


class _Server(uvicorn.Server):
    """uvicorn without handlers of its own: `signals` has the process'."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def listen(host: str, port: int) -> socket.socket:
    """A socket bound to an address; port 0 is any that is free. Raises BadInput where it is taken or not
    ours."""
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, socket.SOCK_STREAM)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        raise BadInput(f"cannot listen on {host}, port {port}: {error.strerror}; choose another") from None
    return bound


def address_of(bound: socket.socket) -> str:
    """Where a bound socket is found."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def run(app: Any, service: Service, bound: socket.socket, *, ready: Callable[[], None]) -> None:
    """Answer until a signal asks the process to end. Raises signals.Stopped then."""
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        date_header=False,
        lifespan="off",
        limit_concurrency=CONNECTIONS,
        timeout_keep_alive=30,
        ws="none",
        h11_max_incomplete_event_size=64 << 10,
    )
    server = _Server(config)
    asyncio.run(_serve(server, service, bound, ready))
    signals.check()


async def _serve(server: Any, service: Service, bound: Any, ready: Callable[[], None]) -> None:
    serving = asyncio.ensure_future(server.serve(sockets=[bound]))
    while not server.started and not serving.done():
        await asyncio.sleep(0.02)
    ready()
    while not signals.received() and not serving.done():
        await asyncio.sleep(0.05)
    service.draining = True
    await _until(lambda: not service.open, DRAIN_S)
    service.ending = True
    await _until(lambda: not service.open, CUT_S)
    server.should_exit = True
    await _until(serving.done, CUT_S)
    server.force_exit = True
    await serving


async def _until(done: Callable[[], bool], seconds: float) -> None:
    until = asyncio.get_running_loop().time() + seconds
    while not done() and asyncio.get_running_loop().time() < until:
        await asyncio.sleep(0.05)
