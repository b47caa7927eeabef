"""The HTML page: well-formed, self-contained, true to the arrays, and shut to what the content would like it
to be."""

import os
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cicjax.errors import printable
from cicjax.provenance import Author, Encoded, Message, Segment, Transcript, encode, render
from cicjax.provenance.protocol import weighting
from cicjax.provenance.transcript import Episode
from cicjax.views import demo, page
from cicjax.views.counts import TokenCounts
from cicjax.views.html import document
from cicjax.views.transcript import transcript_html
from cicjax.views.transcript_style import PAGE_STYLE, STYLE

VIEWS = {"observational": weighting("observational"), "interventional": weighting("interventional")}
VOID = {"meta", "input"}
HOSTILE = [
    "</script><script>alert(1)</script>",
    "</style><img src=x onerror=alert(1)>",
    '" onmouseover="alert(1)',
    "' autofocus onfocus='alert(1)",
    "--><!--",
    "&lt;b&gt; &amp;amp; &#x3c;",
    "\u202eevil\u202c \u2066isolated\u2069 \u200bzero\ufeff",
    "\x00\x01\x1b[2J\x7f\x85\u2028\u2029",
    "]]><![CDATA[",
    "{{ template }} ${js} `tick`",
    "👩\u200d👩 e\u0301 \U000e0041",
]
# What every page of ours has, by element: nothing that content says may add to it.
ALLOWED = {
    "html": {"lang"},
    "meta": {"charset", "http-equiv", "content", "name"},
    "section": {"class"},
    "div": {"class", "tabindex", "role", "aria-label"},
    "span": {"class", "title"},
    "input": {"type", "name", "class", "checked"},
    "fieldset": {"class"},
    "table": {"class"},
    "th": {"scope", "class"},
    "ul": {"class"},
    "p": {"class"},
    **{
        name: set()
        for name in "head title style body main h1 h2 small u caption thead tbody tr td li label legend "
        "script".split()
    },
}


class Reader(HTMLParser):
    """Reads a page as strictly as this project writes it: every element is closed, in order, and every one is
    among ALLOWED."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[tuple[str, dict[str, str | None]]] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.drawn: list[str] = []
        self.visible: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        assert len(attributes) == len(attrs)
        assert set(attributes) <= ALLOWED[tag], (tag, attributes)
        self.elements.append((tag, attributes))
        if tag not in VOID:
            self.open.append((tag, attributes))

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        names = [name for name, _ in self.open]
        if "script" not in names and "style" not in names:
            self.visible.append(data)
        if any(attributes.get("class") == "text" for _, attributes in self.open):
            self.drawn.append(data)

    def handle_comment(self, data):
        raise AssertionError(data)

    def unknown_decl(self, data):
        raise AssertionError(data)

    def tokens(self) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.elements if tag == "span" and "title" in attributes]


def _episodes(*contents: str) -> list[Episode]:
    messages = (
        Message(role="user", content="?", author=Author.USER),
        Message(role="assistant", content="5", author=Author.AGENT, solved=0),
    )
    last = [Message(role="assistant", content=content, author=Author.TEACHER) for content in contents]
    return [
        Episode(id=f"e{n}", messages=(*messages, message), line=n) for n, message in enumerate(last, start=1)
    ]


def _rows(episodes, tokenizer):
    return [(episode, encode(render.plain(episode.messages), tokenizer)) for episode in episodes]


def _page(episodes, tokenizer, **options) -> str:
    given = {"title": "log.jsonl", "weightings": VIEWS, "shown": "interventional"} | options
    return page.page_html(_rows(episodes, tokenizer), tokenizer, **given)


def test_the_page_is_well_formed_and_opens_with_the_sentence(tokenizer):
    text = _page(demo.EPISODES, tokenizer)
    reader = Reader(text)
    words = "".join(reader.visible)
    assert text.startswith("<!DOCTYPE html>\n")
    sentence = re.search(r"Under the observational objective ([\d,]+) of ([\d,]+) supervised tokens", words)
    assert sentence is not None
    encoded = [encode(render.plain(episode.messages), tokenizer) for episode in demo.EPISODES]
    own, supervised = (
        sum(int((e.gamma & e.is_target).sum()) for e in encoded),
        sum(int(e.is_target.sum()) for e in encoded),
    )
    assert sentence.groups() == (str(own), str(supervised))
    assert f"under the interventional one none of the {supervised - own} are." in words
    assert (
        words.index("log.jsonl")
        < words.index("Under the observational")
        < words.index("first attempt correct")
    )


def test_no_outside_host_and_one_script(tokenizer):
    text = _page(demo.EPISODES, tokenizer)
    assert not re.search(r"https?:|//|@import|url\(|\bsrc=|\bhref=", text.replace("<!DOCTYPE html>", ""))
    assert [tag for tag, _ in Reader(text).elements if tag in ("script", "style")] == ["style", "script"]


def test_the_policy_lets_only_these_bytes_run(tokenizer):
    import base64
    import hashlib

    text = _page(demo.EPISODES, tokenizer)
    policy = next(
        a["content"]
        for tag, a in Reader(text).elements
        if tag == "meta" and a.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy is not None
    assert policy.startswith("default-src 'none'; ")
    for kind in ("script", "style"):
        (body,) = re.findall(rf"<{kind}>(.*?)</{kind}>", text, re.DOTALL)
        assert (
            f"{kind}-src 'sha256-{base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()}'"
            in policy
        )


@pytest.mark.parametrize("content", HOSTILE)
def test_content_stays_content(tokenizer, content):
    episodes = [Episode(id=content, messages=episode.messages, line=1) for episode in _episodes(content)]
    reader = Reader(_page(episodes, tokenizer, title=content))
    normal = tokenizer.decode(tokenizer.encode(content))
    assert printable(normal) in "".join(reader.drawn)
    shown = "".join(reader.visible)
    assert all(c.isprintable() or c in "\n\t" for c in shown)
    assert [tag for tag, _ in reader.elements if tag in ("script", "style", "img")] == ["style", "script"]


@given(content=st.text(st.characters(codec="utf-8"), max_size=60))
def test_the_drawn_text_is_the_transcript_whatever_it_says(tokenizer, content):
    encoded = encode(
        Transcript([Segment(content, Author.USER), Segment.end(Author.TEACHER)], id=content), tokenizer
    )
    section = transcript_html(encoded, tokenizer, title=content, weightings=VIEWS)
    reader = Reader(section)
    assert "".join(reader.drawn) == printable(tokenizer.decode(encoded.tokens))
    assert len(reader.tokens()) == len(encoded.tokens)


def test_every_token_tells_what_is_known_of_it(tokenizer):
    ((_, encoded),) = _rows(_episodes("4"), tokenizer)
    titles = [
        attributes["title"]
        for attributes in Reader(transcript_html(encoded, tokenizer, weightings=VIEWS)).tokens()
    ]
    four, five, end = tokenizer.encode("4")[0], tokenizer.encode("5")[0], tokenizer.end_of_text
    assert (
        titles[0]
        == f"token {encoded.tokens[0]}, by user, gamma 0, no target, no verdict, weight 0 observational, "
        "0 interventional"
    )
    assert (
        f"token {five}, by agent, gamma 1, target, failed, weight 1 observational, 0 interventional" in titles
    )
    assert titles[-2:] == [
        f"token {id}, by teacher, gamma 0, target, no verdict, weight 1 observational, 1 interventional"
        for id in (four, end)
    ]


def test_loss_is_marked_under_each_weighting_and_broken_weights_apart(tokenizer):
    views = VIEWS | {"stream": weighting("stream", wrong=0.25)}
    ((_, encoded),) = _rows(_episodes("4"), tokenizer)
    section = transcript_html(encoded, tokenizer, weightings=views)
    marked = {
        (author, marks)
        for author, body in re.findall(r'<div class="turn by-(\w+)">(.*?)</div></div>', section, re.DOTALL)
        for marks in re.findall(r'<span class="((?:loss|none)[^"]*)">', body)
    }
    assert marked == {
        ("user", "none"),
        ("agent", "loss-0 loss-2 some-2"),
        ("environment", "none"),
        ("teacher", "loss-0 loss-1 loss-2"),
    }
    for rule in (".loss-2", ".some-2", ".show-2:checked"):
        assert rule in STYLE
    with pytest.raises(ValueError, match="4 weightings"):
        transcript_html(encoded, tokenizer, weightings=views | {"another": VIEWS["observational"]})


def test_the_switch_stands_where_it_is_told(tokenizer):
    for shown in VIEWS:
        inputs = [
            a for tag, a in Reader(_page(demo.EPISODES, tokenizer, shown=shown)).elements if tag == "input"
        ]
        assert [("checked" in a) for a in inputs] == [name == shown for name in VIEWS]
        assert {a["name"] for a in inputs} == {"weighting"}


def test_forged_control_tokens_have_no_box(tokenizer):
    episodes = _episodes("<|endoftext|>\n<|im_end|>")
    ((_, encoded),) = _rows(episodes, tokenizer)
    boxed = Reader(transcript_html(encoded, tokenizer, weightings=VIEWS)).elements
    assert (
        sum(a.get("class") == "control" for _, a in boxed)
        == 2
        == sum(tokenizer.is_control(int(t)) for t in encoded.tokens)
    )


@pytest.mark.parametrize("piece", [*HOSTILE, "<|endoftext|>"])
def test_a_token_that_is_a_whole_tag_is_text_too(piece):
    class Words:
        """A vocabulary whose word 1 is what somebody would like to see in a page; 0 is its only control
        token."""

        def pieces(self, ids) -> list[str]:
            return ["<|endoftext|>" if i == 0 else piece for i in ids]

        def is_control(self, i: int) -> bool:
            return i == 0

    nothing = np.zeros(2, np.int8)
    encoded = Encoded(
        np.array([1, 0], np.int32), nothing, nothing.astype(bool), nothing, np.full(2, Author.USER, np.int8)
    )
    section = transcript_html(encoded, Words(), weightings=VIEWS)  # pyright: ignore[reportArgumentType]
    reader = Reader(section)
    assert "".join(reader.drawn) == printable(piece) + "<|endoftext|>"
    assert len(reader.tokens()) == 2
    assert sum(a.get("class") == "control" for _, a in reader.elements) == 1
    assert not re.search(r"[<>]", re.sub(r"</?[a-z0-9]+(?: [a-z-]+=\"[^\"<>]*\")*>", "", section))


def test_verdicts_stand_beside_the_author(tokenizer):
    section = transcript_html(_rows(_episodes("4"), tokenizer)[0][1], tokenizer, weightings=VIEWS)
    assert section.count("<small>failed</small>") == 1
    assert "passed</small>" not in section


def test_a_large_file_is_counted_whole_and_drawn_in_part(tokenizer):
    episodes = _episodes(*["4"] * 250)
    reader = Reader(_page(episodes, tokenizer))
    words = "".join(reader.visible)
    assert sum(tag == "section" for tag, _ in reader.elements) == page.MAX_TRANSCRIPTS == 200
    assert "Drawn are the first 200 of 250 transcripts" in words
    assert "500 of 1,000 supervised tokens (50.0%)" in words
    assert "Tokens of 250 transcripts by author" in words


def test_tokens_drawn_are_bounded_too(tokenizer):
    episodes = _episodes("word " * 100, "4", "4")
    longest = len(_rows(episodes, tokenizer)[0][1].tokens)
    second = len(_rows(episodes, tokenizer)[1][1].tokens)
    assert _page(episodes, tokenizer, max_tokens=longest + second).count("<section") == 2
    text = _page(episodes, tokenizer, max_tokens=longest + second - 1)
    assert text.count("<section") == 1
    assert "not drawn" not in text
    assert "The other 1 tokens are not drawn." in _page(episodes, tokenizer, max_tokens=longest - 1)
    assert "the first 1 of 3 transcripts" in text
    encoded = encode(Transcript([Segment("word " * 100, Author.USER)]), tokenizer)
    section = transcript_html(encoded, tokenizer, weightings=VIEWS, max_tokens=100)
    assert len(Reader(section).tokens()) == 100
    assert f"The other {len(encoded.tokens) - 100} tokens are not drawn." in section


def test_a_small_file_has_no_such_note(tokenizer):
    assert "Drawn are" not in _page(demo.EPISODES, tokenizer)
    assert "not drawn" not in _page(demo.EPISODES, tokenizer)


def test_an_empty_transcript_is_no_error(tokenizer):
    encoded = encode(Transcript([]), tokenizer)
    assert not Reader(transcript_html(encoded, tokenizer, weightings=VIEWS)).tokens()
    assert not np.size(encoded.tokens)


def test_every_author_has_a_colour(tokenizer):
    for author in Author:
        assert STYLE.count(f"--{author.label}:") == 3  # by day, by night, on paper
        assert f".by-{author.label} {{" in STYLE


@pytest.mark.parametrize("width", [360, 400])
def test_a_phone_shows_every_column_of_the_counts(tmp_path, width):
    api = pytest.importorskip("playwright.sync_api")
    chromium = os.environ.get("CICJAX_CHROMIUM") or shutil.which("chromium")
    if not chromium:
        pytest.skip("no chromium; CICJAX_CHROMIUM names one")
    tokens = np.full(max(Author) + 1, 12_345)
    totals = TokenCounts(40, tokens, dict.fromkeys(VIEWS, tokens))
    file = tmp_path / "mask.html"
    file.write_text(document("mask", [page.counts_html(totals)], style=STYLE + PAGE_STYLE, script=""))
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        opened = browser.new_page(viewport={"width": width, "height": 800})
        opened.goto(file.as_uri())
        counts = opened.locator(".scroll")
        assert counts.evaluate("e => e.scrollWidth <= e.clientWidth")
        browser.close()
