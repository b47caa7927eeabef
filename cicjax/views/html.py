"""A page of HTML from small pieces: everything that is not `Html` already is escaped, nothing comes from
outside the file.

`document` is every page's frame. The policy in its head forbids the browser to fetch anything, and to obey
any style or script but the page's own few lines, even should an escape be missing.
"""

import base64
import hashlib
import html
import re
from collections.abc import Iterable, Sequence

from cicjax.errors import printable
from cicjax.views import report_style, transcript_style

VOID = {"input", "meta"}
_ELEMENT = re.compile(r"<([A-Za-z][\w:-]*)([^<>]*)>")
_ATTRIBUTE = re.compile(r'\s+([\w:-]+)(?:="([^"]*)")?')


class Html(str):
    """Markup. What is no `Html` is text, and is escaped where it enters a tag."""

    __slots__ = ()


Child = str | int | None


def tag(name: str, /, *children: Child, **attributes: str | int | bool | None) -> Html:
    """An element. Attribute names lose a trailing underscore, inner ones become hyphens; None and False leave
    an attribute out. `style` is for what is computed, and becomes a rule of the page's style sheet."""
    written = "".join(
        f" {key.rstrip('_').replace('_', '-')}"
        + ("" if value is True else f'="{html.escape(printable(str(value)))}"')
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    return Html(f"<{name}{written}>" + ("" if name in VOID else f"{join(children)}</{name}>"))


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
    """The report's whole file; `sections` are (id, title, children), and the list of contents follows from
    them."""
    contents = tag("nav", *(tag("a", name, href=f"#{id}") for id, name, _ in sections), aria_label="contents")
    parts = [
        tag("header", header, contents),
        tag("main", *(section(id, name, *children) for id, name, children in sections)),
        tag("footer", footer),
    ]
    style = transcript_style.STYLE + report_style.STYLE
    return document(title, parts, style=style, script=report_style.SCRIPT) + "\n"


def document(title: str, body: Iterable[Html], *, style: str, script: str) -> str:
    """A whole file: `body` under a policy that lets nothing act but these bytes of style and script.

    Style attributes, which such a policy forbids, become classes with a rule each at the end of the style.
    Raises ValueError for a style attribute that would be more than declarations.
    """
    markup, rules = _without_style_attributes("\n".join(body))
    style += rules
    head = [
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy(style=style, script=script)),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", title),
        f"<style>{style}</style>",
    ]
    frame = ["<!DOCTYPE html>", '<html lang="en">', "<head>", *head, "</head>", "<body>"]
    return "\n".join([*frame, markup, f"<script>{script}</script>", "</body>", "</html>"])


def policy(*, style: str, script: str) -> str:
    """The Content-Security-Policy of a page that has one style sheet and one script and asks for nothing."""
    return (
        f"default-src 'none'; style-src {_source(style)}; script-src {_source(script)}; "
        "base-uri 'none'; form-action 'none'"
    )


# Of a page whose style, script and data come from the server that it comes from, and from nowhere else.
SERVED_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def _source(content: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


def _without_style_attributes(markup: str) -> tuple[str, str]:
    """The markup with a class in place of every style attribute, and the rules of these classes."""
    names: dict[str, str] = {}

    def element(match: re.Match[str]) -> str:
        # Read one after another: a value may well end in ` style=`.
        attributes = dict(_ATTRIBUTE.findall(match[2]))
        style = attributes.pop("style", None)
        if style is None:
            return match[0]
        name = names.setdefault(html.unescape(style), f"s{len(names)}")
        attributes["class"] = f"{attributes.get('class', '')} {name}".strip()
        written = "".join(f' {key}="{value}"' for key, value in attributes.items())
        return f"<{match[1]}{written}{'/' if match[2].endswith('/') else ''}>"

    markup = _ELEMENT.sub(element, markup)
    if unfit := [style for style in names if re.search(r"[{}<>@]", style)]:
        raise ValueError(f"a style attribute holds declarations alone, not {unfit[0]!r}")
    return markup, "".join(f".{name} {{ {style} }}\n" for style, name in names.items())
