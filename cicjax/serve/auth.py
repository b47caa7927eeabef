"""Who asks, and from where: keys with the rights of their source, and which names and pages a request may
come by.

Without keys every request is the operator's; a server that others can reach has to have some. A page of
another origin may send nothing, and a name that somebody else's DNS leads here is not answered.
"""

import hmac
import ipaddress
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from fastapi import Depends, Request

from cicjax.agent.keys import digest_of
from cicjax.agent.trust import OPERATOR, Source
from cicjax.errors import BadInput
from cicjax.serve.errors import Problem


def source_of(header: str | None, keys: Mapping[str, str]) -> str:
    """The source that an Authorization header speaks for. Raises Problem 401 where it speaks for none."""
    if not keys:
        return OPERATOR
    scheme, _, key = (header or "").partition(" ")
    digest = digest_of(key.strip()) if scheme.lower() == "bearer" else ""
    found = [name for known, name in keys.items() if hmac.compare_digest(known, digest)]
    if not found:
        raise Problem(401, "no valid key: send `Authorization: Bearer KEY`", code="invalid_api_key")
    return found[0]


def scope(*rights: str) -> Any:
    """What an endpoint asks for: the source of a request, which must have one of these rights."""

    def checked(request: Request) -> Source:
        service = request.app.state.service
        source = service.agent.source(source_of(request.headers.get("authorization"), service.keys))
        if source.rights.isdisjoint(rights):
            raise Problem(403, f"{source.name} has no right to {' or '.join(rights)}", code="refused")
        return source

    return Depends(checked)


Chat = Annotated[Source, scope("chat")]
Judge = Annotated[Source, scope("judge")]
Speak = Annotated[Source, scope("judge", "teach")]
Admin = Annotated[Source, scope("admin")]


class Origins:
    """Which Host and Origin headers are answered: the loopback's own names where `host` is one; any address
    elsewhere, since no foreign name leads to an address as such; and the names that were given."""

    def __init__(self, host: str, names: tuple[str, ...] = ()) -> None:
        self._loopback, self._names = is_loopback(host), {name.lower() for name in (*names, host)}

    def refusal(self, headers: Mapping[str, str]) -> Problem | None:
        """Why a request may not come in; None where it may."""
        host = headers.get("host", "")
        if not self._known(_name_of(f"//{host}")):
            message = "this name is not answered; say --allowed_hosts NAME where it is yours"
            return Problem(403, message, code="host")
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
            return Problem(403, "pages of other origins are not answered", code="origin")
        if headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            return Problem(403, "pages of other sites are not answered", code="origin")
        return None

    def _known(self, name: str) -> bool:
        if name in self._names:
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return name == "localhost"
        return address.is_loopback or not self._loopback


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server bound to `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_operator(forgotten: Collection[str], keys: Mapping[str, str], home: Path) -> None:
    """Raise BadInput where nobody could do anything: without keys all are the operator, who was forgotten."""
    if not keys and OPERATOR in forgotten:
        raise BadInput(
            f"{home}: without keys everybody is {OPERATOR}, which was forgotten; make a key first: "
            f"cicjax agent key {home} NAME --rights chat judge teach admin"
        )


def check_bind(host: str, keys: Mapping[str, str], home: Path) -> None:
    """Raise BadInput where others could reach a server that asks for no key."""
    if not keys and not is_loopback(host):
        raise BadInput(
            f"--host {host} lets other machines in, and {home} has no keys; make one first: "
            f"cicjax agent key {home} NAME --rights chat judge"
        )


def _name_of(address: str) -> str:
    try:
        return (urlsplit(address).hostname or "").lower()
    except ValueError:
        return ""
