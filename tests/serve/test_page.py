"""The page in a browser: everything by keyboard, on a phone, without anything that axe complains of, and text
that stays text. Screenshots go to the folder that CICJAX_SCREENSHOTS names."""

import os
import re
import shutil
from pathlib import Path

import byte_tokenizer
import pytest
import tiny_qwen2
from stand_in import Planned, serving

from cicjax.agent.continual import Agent
from cicjax.agent.settings import AgentSettings
from cicjax.model.config import LoRAConfig
from cicjax.serve.hand import Hand
from cicjax.tasks.task import Grade
from cicjax.training.steps import Optimization

CHROMIUM = os.environ.get("CICJAX_CHROMIUM") or shutil.which("chromium") or ""
api = pytest.importorskip("playwright.sync_api")
axe = pytest.importorskip("axe_playwright_python.sync_playwright")
api.expect.set_options(timeout=150_000)  # the machine may be busy
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="no chromium; CICJAX_CHROMIUM names one")

QUESTION = "A 4.0 kg cart accelerates at 2.0 m/s^2. What net force acts on it?"
RIGHT = "F = m a = 4.0 * 2.0 = 8.0. Final answer: 8.0 N"
SCRIPT = '<img src=x onerror="document.title=`taken`"><script>document.title="taken"</script>'
OTHER = "<svg onload='document.title = 1'>"
SETTINGS = AgentSettings(
    format="plain",
    lora=LoRAConfig(rank=4, alpha=8.0),
    optimization=Optimization(learning_rate=2e-2, warmup_steps=0),
    lessons_per_step=1,
    updates_per_step=4,
    contexts="both",
    max_new_tokens=200,
)


class Cart:
    """One problem and its solution."""

    id = question = QUESTION
    solution, skill = RIGHT, "force"

    def verify(self, problem, answer):
        return Grade("8.0 N" in answer, "")


def plan(messages, version):
    if "script" in messages[-1]["content"]:
        return f"I say {SCRIPT}"
    return RIGHT if version else "F = m / a = 4.0 / 2.0 = 2.0 N. Final answer: 2.0 N"


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    toy = tmp_path_factory.mktemp("toy")
    tiny_qwen2.write(toy, seed=3)
    byte_tokenizer.write_tokenizer(toy)
    with Agent.open(tmp_path_factory.mktemp("home") / "home", str(toy), SETTINGS) as agent:
        hand = Hand(Cart(), problems=[Cart()])
        with serving(agent, agent.home.folder, Planned(agent, plan, gap=0.005), hand=hand) as (address, _):
            yield address


@pytest.fixture(scope="module")
def browser():
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser, address):
    """Gives the page, in a window of this size; it complains at the end of what the page complained of."""
    said, pages = [], []

    def opened(**how):
        page = browser.new_page(**how)
        page.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: said.append(request.url) if address not in request.url else None)
        page.goto(address)
        page.get_by_text(re.compile(r"version \d+ serves; ")).wait_for()
        pages.append(page)
        return page

    yield opened
    for page in pages:
        page.close()
    assert not said


def taken(page, name):
    folder = os.environ.get("CICJAX_SCREENSHOTS")
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)


def fit(page):
    """Nothing that axe finds, and nothing beside the window."""
    found = axe.Axe().run(page)
    assert not found.response["violations"], found.generate_report()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def tab_to(page, name, *, back=False):
    """Go by the Tab key to what is called `name`."""
    for _ in range(60):
        page.keyboard.press("Shift+Tab" if back else "Tab")
        focused = page.evaluate(
            "(document.activeElement.ariaLabel || document.activeElement.textContent || "
            "document.activeElement.id).trim()"
        )
        if focused == name:
            return
    raise AssertionError(f"no way to {name} by keyboard")


def lesson_from_elsewhere(page):
    """Another client asks and corrects, so that there is a version more."""
    asked = [{"role": "user", "content": QUESTION}]
    answered = page.request.post(page.url + "v1/chat/completions", data={"messages": asked}).json()
    told = page.request.post(page.url + "v1/feedback", data={"id": answered["id"], "correction": OTHER})
    assert told.ok, told.text()


def test_it_is_taught_by_keyboard_alone_and_shows_what_it_learned(open_page):
    page = open_page(viewport={"width": 1280, "height": 900})
    tab_to(page, "A question of the task")
    page.keyboard.press("Enter")
    api.expect(page.locator("#question")).to_have_value(QUESTION)
    api.expect(page.locator("#question")).to_be_focused()
    page.keyboard.press("Enter")
    exchange = page.locator(".exchange").first
    api.expect(exchange).to_have_attribute("aria-busy", "false")
    api.expect(exchange.locator(".said.by-agent").first).to_contain_text("2.0 N")
    api.expect(page.locator("#accuracy")).to_contain_text("0 of 1 judged answers")  # the task's verifier
    tab_to(page, "Wrong", back=True)
    page.keyboard.press("Enter")
    api.expect(exchange.get_by_label("What the answer should have been")).to_be_focused()
    tab_to(page, "The task's solution")
    page.keyboard.press("Enter")
    field = exchange.get_by_label("What the answer should have been")
    api.expect(field).to_have_value(RIGHT)
    api.expect(field).to_be_focused()
    taken(page, "teach")
    fit(page)
    tab_to(page, "Teach")
    exchange.locator(".receipt").evaluate(
        "e => { window.told = []; "
        "new MutationObserver(() => told.push(e.textContent)).observe(e, { childList: true }) }"
    )
    page.keyboard.press("Enter")
    api.expect(exchange.locator(".receipt")).to_have_text("lesson 1, learned with version 1")
    assert "lesson 1, being learned as version 1" in page.evaluate("told")
    words = exchange.locator(".words li")
    api.expect(words.first).to_contain_text("→")
    assert "−0.00" not in exchange.locator(".words").inner_text()
    assert "8.0" in exchange.locator(".words").inner_text() and words.and_(page.locator(".up")).count() > 5
    pair = exchange.locator(".pair .said")
    api.expect(pair.nth(0)).to_contain_text("2.0 N")
    api.expect(pair.nth(1)).to_contain_text("8.0 N")
    tab_to(page, "The rows as they were learned", back=True)
    page.keyboard.press("Enter")
    rows = exchange.locator(".transcript")
    api.expect(rows).to_have_count(2)
    learned = rows.last.locator(".by-teacher .loss-0")
    assert learned.inner_text().startswith(RIGHT) and not rows.last.locator(".by-user .loss-0").count()
    assert rows.first.locator(".by-agent").count() and not rows.first.locator(".by-agent .loss-0").count()
    style = "e => getComputedStyle(e).textDecorationLine"
    assert learned.evaluate(style) == "underline"
    taken(page, "learned")
    fit(page)
    page.locator("#question").focus()
    page.keyboard.type(QUESTION)
    page.keyboard.press("Enter")
    api.expect(page.locator(".exchange").last.locator(".said.by-agent")).to_contain_text("8.0 N")
    tab_to(page, "Serve version 0")
    lesson_from_elsewhere(page)
    api.expect(page.locator("#versions")).to_contain_text("version 2")
    api.expect(page.get_by_label("Serve version 0")).to_be_focused()
    page.keyboard.press("Enter")
    api.expect(page.locator("#versions [aria-current]")).to_contain_text("version 0")
    api.expect(page.locator("#status")).to_contain_text("version 0 serves")


def test_what_an_answer_says_stays_text(open_page):
    page = open_page()
    page.locator("#question").fill("a script, please")
    page.keyboard.press("Enter")
    said = page.locator(".exchange .said.by-agent")
    api.expect(said).to_have_text(f"I say {SCRIPT}")
    page.get_by_role("button", name="Write the answer").click()
    page.get_by_label("What the answer should have been").fill(OTHER)
    page.get_by_role("button", name="Teach").click()
    api.expect(page.locator(".words")).to_contain_text("onload")
    page.get_by_text("The rows as they were learned").click()
    api.expect(page.locator(".transcript").last).to_contain_text("onload")
    assert not page.locator("main img, main script, main svg").count()
    assert page.title() == "cicjax: an agent that learns"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone_by_day_and_by_night(open_page, scheme):
    page = open_page(viewport={"width": 360, "height": 740}, color_scheme=scheme)
    page.locator("#question").fill(QUESTION)
    page.keyboard.press("Enter")
    api.expect(page.locator(".exchange")).to_have_attribute("aria-busy", "false")
    page.get_by_role("button", name="Wrong").click()
    taken(page, f"phone-{scheme}")
    fit(page)
    sizes = page.evaluate(
        "[...document.querySelectorAll('button')].filter(each => each.checkVisibility())"
        ".map(each => each.getBoundingClientRect().height)"
    )  # in one call: between two the page may draw its versions anew
    assert len(sizes) > 4 and min(sizes) >= 24
