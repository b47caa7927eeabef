"""The frame of every page: one policy without exceptions, and style that no attribute carries."""

import base64
import hashlib
import html
import re

import pytest

from cicjax.provenance import Author
from cicjax.views.boxes import LOSS, MASK, Line
from cicjax.views.html import Html, document, page, tag
from cicjax.views.transcript import lines_html


def policy_of(content: str) -> str:
    (policy,) = re.findall(r'<meta http-equiv="Content-Security-Policy" content="([^"]*)">', content)
    return html.unescape(policy)


def body_of(content: str, kind: str) -> str:
    (body,) = re.findall(rf"<{kind}>(.*?)</{kind}>", content, flags=re.DOTALL)
    return body


def test_the_policy_names_the_very_bytes_of_style_and_script():
    part = tag("p", "x", style="width:3%")
    pages = (
        document("t", [part], style="p { margin: 0 }\n", script="let a;"),
        page("t", header="h", sections=[("one", "One", [part])], footer="f"),
    )
    for content in pages:
        policy = policy_of(content)
        for kind in ("style", "script"):
            digest = base64.b64encode(hashlib.sha256(body_of(content, kind).encode()).digest()).decode()
            assert f"{kind}-src 'sha256-{digest}';" in policy
        assert policy.startswith("default-src 'none';") and "unsafe" not in content
        assert not re.search(r"<[^>]* style=", content)


def test_a_style_attribute_becomes_a_class_with_a_rule_at_the_end():
    parts = [
        tag("i", style="width:3%", class_="on"),
        tag("b", style="width:3%"),
        tag("p", style='font: 8px "A b", serif'),
        Html('<path d="M 0 0" style="fill: none"/>'),
    ]
    content = document("t", parts, style="i { width: 1px }\n", script="")
    assert (
        '<i class="on s0"></i>\n<b class="s0"></b>\n<p class="s1"></p>\n<path d="M 0 0" class="s2"/>'
        in content
    )
    assert body_of(content, "style") == (
        'i { width: 1px }\n.s0 { width:3% }\n.s1 { font: 8px "A b", serif }\n.s2 { fill: none }\n'
    )


@pytest.mark.parametrize("words", ["a style=", ' style="color:red"', "<b style='x'>", "<i style=x>", "x > y"])
def test_words_that_look_like_style_stay_words(words):
    content = document("t", [tag("p", words, title=words, style="width:3%", class_="c")], style="", script="")
    assert f'<p title="{html.escape(words)}" class="c s0">{html.escape(words, quote=False)}</p>' in content
    assert body_of(content, "style") == ".s0 { width:3% }\n"


@pytest.mark.parametrize("style", ["} body { display: none", "a</style><script>", "@import x"])
def test_a_style_attribute_is_declarations_alone(style):
    with pytest.raises(ValueError, match="declarations alone"):
        document("t", [tag("p", style=style)], style="", script="")


def test_lines_are_turns_of_one_author_behind_their_labels():
    lines = [
        Line(MASK, "a <b>", Author.USER),
        Line(LOSS, "c", Author.TEACHER),
        Line(LOSS, "<eos>", Author.TEACHER),
    ]
    loss = '<div class="line loss"><span class="label">[LOSS]</span><span class="words">{}</span></div>'
    assert lines_html(lines) == (
        '<div class="lines"><div class="turn by-user"><div class="text"><div class="line">'
        '<span class="label">[MASK]</span><span class="words">a &lt;b&gt;</span></div></div></div>'
        f'<div class="turn by-teacher"><div class="text">{loss.format("c")}{loss.format("&lt;eos&gt;")}'
        "</div></div></div>"
    )
