"""The page in a real browser: `pytest -m browser`, with Chromium or the one that ERNIE5_BROWSER names."""

import os
import shutil
import wave

import pytest

pytest.importorskip("openai", reason="needs the extras serve and servetest")
pytest.importorskip("playwright", reason="needs the extra servetest")
from playwright.sync_api import Error, expect, sync_playwright

from ernie5.serving.settings import Access
from tests.serving.fake_engine import FakeEngine
from tests.serving.servers import eventually
from tests.vision_models import noise_picture

pytestmark = pytest.mark.browser
BROWSER = os.environ.get("ERNIE5_BROWSER") or shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def browser():
    if BROWSER is None:
        pytest.skip("needs Chromium (Debian: apt install chromium)")
    with sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        except Error as error:
            pytest.skip(f"{BROWSER} does not start: {error}")
        yield browser
        browser.close()


@pytest.fixture
def page(browser, serve):
    """The page of a server, which has to have told the browser nothing that it complains of."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    complaints = []
    page.on(
        "console", lambda message: complaints.append(message.text) if message.type in ("error", "warning") else None
    )
    page.on("pageerror", lambda error: complaints.append(str(error)))
    running = serve(FakeEngine(step_seconds=0.01))
    page.running = running
    page.goto(running.url)
    expect(page.locator("#model")).to_have_text("tiny")
    yield page
    page.close()
    assert complaints == []


def ask(page, text, kind=None):
    if kind:
        page.locator("#answer-kind").select_option(kind)
    page.locator("#question").fill(text)
    page.locator("#question").press("Enter")


def test_answer_streams_in_with_its_facts(page):
    ask(page, "hello there")
    answer = page.locator(".turn.assistant")
    expect(answer.locator(".words")).to_have_text("you said: hello there")
    expect(answer.locator(".facts")).to_contain_text("4 tokens")
    expect(page.locator("#experts-text")).to_contain_text("2 layers × 2 experts")
    expect(page.locator("#send")).to_be_visible()


def test_stop_ends_the_answer_in_the_engine(page):
    ask(page, "count")
    expect(page.locator(".turn.assistant .words")).to_contain_text("1 2 3")
    page.locator("#stop").click()
    expect(page.locator(".turn.assistant .facts")).to_have_text("stopped")
    eventually(lambda: page.running.engine.cancelled == [1])


def test_drawn_digit_is_sent_as_a_picture_of_the_models_size(page):
    page.locator("#draw").click()
    box = page.locator("#paper").bounding_box()
    page.mouse.move(box["x"] + 80, box["y"] + 60)
    page.mouse.down()
    page.mouse.move(box["x"] + 200, box["y"] + 60, steps=8)
    page.mouse.move(box["x"] + 120, box["y"] + 230, steps=8)
    page.mouse.up()
    page.locator("#take-drawing").click()
    expect(page.locator("#attached img")).to_have_count(1)
    ask(page, "What digit is this?")
    expect(page.locator(".turn.assistant .words")).to_have_text("you said: What digit is this?")
    picture, text = page.running.engine.requests[0].prompt
    assert page.locator(".turn.user img").evaluate("image => [image.naturalWidth, image.naturalHeight]") == [8, 8]


def test_files_are_attached_and_removed(page, tmp_path):
    path = tmp_path / "sound.wav"
    with wave.open(str(path), "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(1600)
        writer.writeframes(b"\1\2" * 800)
    page.locator("#file").set_input_files([path, noise_picture(tmp_path)])
    expect(page.locator("#attached li")).to_have_count(2)
    ask(page, "What is it?")
    expect(page.locator(".turn.assistant .words")).to_have_text("you said: What is it?")
    expect(page.locator(".turn.user audio")).to_have_count(1)
    expect(page.locator("#attached li")).to_have_count(0)
    assert len(page.running.engine.requests[0].prompt) == 3


def test_pictures_films_and_sounds_are_shown(page):
    ask(page, "seven", "image")
    expect(page.locator(".turn.assistant img")).to_have_count(1)
    assert page.locator(".turn.assistant img").evaluate("image => image.naturalWidth") == 8
    assert page.locator(".turn.assistant img").evaluate("image => image.width") == 160
    ask(page, "seven moves", "video")
    film = page.locator(".turn.assistant").nth(1)
    expect(film.locator("img")).to_have_count(1)
    film.get_by_role("button", name="Pause").click()
    expect(film.locator("canvas")).to_have_count(1)
    film.get_by_role("button", name="Play").click()
    expect(film.locator("img")).to_have_count(1)
    ask(page, "seven", "audio")
    player = page.locator(".turn.assistant audio")
    expect(player).to_have_count(1)
    page.wait_for_function("document.querySelector('.turn.assistant audio').duration > 0.05")


def test_what_the_server_refuses_is_told_in_its_words(page):
    ask(page, "fail now please")
    expect(page.get_by_role("alert")).to_contain_text("planted")
    expect(page.locator("#send")).to_be_visible()


def test_settings_go_with_the_question(page):
    page.locator("#show-settings").click()
    page.locator("#seed").fill("7")
    page.locator("#max_tokens").fill("2")
    page.locator("#temperature").fill("0.5")
    ask(page, "one two three")
    expect(page.locator(".turn.assistant .words")).to_have_text("you said:")
    (request,) = page.running.engine.requests
    assert (request.seed, request.config.max_new_tokens, request.config.temperature) == (7, 2, 0.5)


def test_key_is_asked_for_and_kept_for_the_tab(browser, serve):
    running = serve(access=Access(api_keys=("open sesame",)))
    page = browser.new_page()
    page.goto(running.url)
    expect(page.get_by_role("alert")).to_contain_text("API key")
    page.locator("#key").fill("open sesame")
    page.locator("#key").blur()
    expect(page.locator("#model")).to_have_text("tiny")
    page.reload()
    expect(page.locator("#model")).to_have_text("tiny")
    page.close()


def test_dark_colours_stay(page):
    page.locator("#theme").click()
    page.reload()
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")


def test_everything_has_a_name_and_the_keyboard_reaches_it(page):
    page.locator("#show-settings").click()
    nameless = page.evaluate(
        """() => [...document.querySelectorAll('button, input:not([type=file]), select, textarea')]
            .filter(e => e.offsetParent && !(e.ariaLabel || e.textContent.trim() || e.labels?.length))
            .map(e => e.id)"""
    )
    assert nameless == []
    reached = set()
    for _ in range(30):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id"))
    assert {"question", "send", "draw", "attach", "answer-kind", "theme", "temperature"} <= reached


def test_narrow_windows_do_not_scroll_sideways(page):
    page.set_viewport_size({"width": 360, "height": 740})
    ask(page, "hello there")
    expect(page.locator(".turn.assistant .facts")).to_contain_text("tokens")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
