"""A page of HTML from small pieces: everything that is not `Html` already is escaped, nothing comes from
outside the file.

A policy in the page's head forbids the browser to fetch anything and to run any script but the page's own few
lines.
"""

import base64
import hashlib
import html
from collections.abc import Iterable, Sequence

from cicjax.errors import printable
from cicjax.views.report_style import SCRIPT, STYLE


class Html(str):
    """Markup. What is no `Html` is text, and is escaped where it enters a tag."""

    __slots__ = ()


Child = str | int | None


def tag(name: str, *children: Child, **attributes: str | int | bool | None) -> Html:
    """An element. Attribute names lose a trailing underscore, inner ones become hyphens; None and False leave
    an attribute out."""
    written = "".join(
        f" {key.rstrip('_').replace('_', '-')}"
        + ("" if value is True else f'="{html.escape(printable(str(value)))}"')
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    return Html(f"<{name}{written}>{join(children)}</{name}>")


def join(children: Iterable[Child], between: str = "") -> Html:
    """Children one after another, text escaped and made printable."""
    return Html(between.join(text(child) for child in children if child is not None))


def text(child: Child) -> str:
    """One child as markup."""
    return child if isinstance(child, Html) else html.escape(printable(str(child)), quote=False)


def table(
    header: Sequence[Child], rows: Iterable[Sequence[Child]], *, caption: str, kind: str | None = None
) -> Html:
    """A table that scrolls sideways where it is too wide. The first column heads the rows; a cell that is a
    <td> already stays so."""
    head = tag("tr", *(_whole("th", cell, scope="col") for cell in header))
    body = [
        tag("tr", tag("th", first, scope="row"), *(_whole("td", cell) for cell in rest))
        for first, *rest in rows
    ]
    whole = tag("table", tag("thead", head), tag("tbody", *body), class_=kind)
    scrolling = tag("div", whole, class_="wide", tabindex=0, role="region", aria_label=caption)
    return tag("div", tag("p", caption, class_="caption"), scrolling, class_="panel")


def bullets(items: Iterable[Child], kind: str | None = None) -> Html:
    """An unordered list; an item that is a whole <li> is taken as it is."""
    return tag("ul", *(_whole("li", item) for item in items), class_=kind)


def _whole(name: str, child: Child, **attributes: str) -> Html:
    return (
        child if isinstance(child, Html) and child.startswith(f"<{name}") else tag(name, child, **attributes)
    )


def folded(title: Child, *children: Child, opened: bool = False, kind: str | None = None) -> Html:
    """A part that opens at a touch; of kind "tables" also for the printer."""
    return tag("details", tag("summary", title), *children, open=opened, class_=kind)


def section(id: str, title: str, *children: Child) -> Html:
    """A part of the page that the list at its top leads to."""
    return tag("section", tag("h2", title), *children, id=id)


def page(
    title: str, *, header: Child, sections: Sequence[tuple[str, str, Sequence[Child]]], footer: Child
) -> str:
    """The whole file; `sections` are (id, title, children), and the list of contents follows from them."""
    contents = tag("nav", *(tag("a", name, href=f"#{id}") for id, name, _ in sections), aria_label="contents")
    body = [section(id, name, *children) for id, name, children in sections]
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; "
        "base-uri 'none'; form-action 'none'"
    )
    head = [
        '<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{html.escape(policy)}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="color-scheme" content="light dark">',
        tag("title", title),
        f"<style>{STYLE}</style>",
    ]
    parts = [
        tag("header", header, contents),
        tag("main", *body),
        tag("footer", footer),
        f"<script>{SCRIPT}</script>",
    ]
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en">',
            "<head>",
            *head,
            "</head>",
            "<body>",
            *parts,
            "</body>",
            "</html>",
            "",
        ]
    )
