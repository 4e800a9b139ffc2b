"""The answer on the wall, on an old tablet: whole, live, dim at night, and when it is lost."""
import contextlib
import re
import subprocess
from datetime import datetime

import pytest
from chromium import FLAGS
from harness import INSIDE, OUTSIDE
from playwright.sync_api import expect, sync_playwright
from tools import from_npm, need, needs

import iotserver

pytestmark = [needs("chromium"), pytest.mark.wings("Languages")]
SIZES = [(1024, 600), (600, 1024), (800, 480), (1920, 1080)]
CUT_OFF = """() => [...document.querySelectorAll('main, main *')].filter(element => {
  const box = element.getBoundingClientRect();
  return box.right > innerWidth + 1 || box.bottom > innerHeight + 1 || box.left < -1;
}).map(element => element.outerHTML.slice(0, 80))"""
DAY, NIGHT = datetime(2027, 7, 14, 15), datetime(2027, 7, 14, 23)


@pytest.fixture(scope="module")
def chromium():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=need("chromium"), args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def wall(chromium):
    """Opens a server's wall: wall(live, (1024, 600), locale="de-DE"); nothing may go wrong."""
    problems = []
    with contextlib.ExitStack() as stack:
        def wall(server, size=SIZES[0], now=None, allowed=r"$^", **options):
            context = chromium.new_context(
                viewport=dict(zip(("width", "height"), size, strict=True)),
                service_workers="block", **{"locale": "en-GB", **options})
            stack.callback(context.close)
            page = context.new_page()
            page.on("console", lambda message: message.type in {"error", "warning"}
                    and not re.search(allowed, message.text) and problems.append(message.text))
            page.on("pageerror", lambda error: problems.append(str(error)))
            if now:
                page.clock.install(time=now)
            page.goto(f"http://127.0.0.1:{server.port}/wall")
            return page
        yield wall
    assert problems == []


def send(live, inside, outside):
    for station, value in ((INSIDE, inside), (OUTSIDE, outside)):
        live.update(station, value)


@needs("npm")
def test_its_html_is_valid_and_its_script_is_one_for_old_browsers(live, tmp_path):
    send(live, 27, 22)
    (tmp_path / "wall.html").write_text(live.get("/wall").text)
    (tmp_path / "wall.js").write_text(iotserver.WALL_SCRIPT)
    for program, *arguments in (
            (from_npm("html-validate", "html-validate@9") / ".bin/html-validate",
             "--preset", "standard", "wall.html"),
            (from_npm("acorn", "acorn@8") / ".bin/acorn", "--ecma2017", "--silent", "wall.js")):
        done = subprocess.run([program, *arguments], check=False, cwd=tmp_path,
                              capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("locale", ["en-GB", "en-US", "de-DE", "fr-FR", "es-ES", "it-IT"])
def test_nothing_is_cut_off_or_scrolls(live, wall, locale):
    send(live, 40, 44)
    for size in SIZES:
        page = wall(live, size, locale=locale)
        numbers = page.locator("b").all_inner_texts()
        assert len(numbers) == 2
        assert page.evaluate(CUT_OFF) == []
        assert page.evaluate("[document.documentElement.scrollHeight <= innerHeight, "
                             "document.querySelector('main').scrollHeight <= innerHeight]"
                             ) == [True, True]
    assert numbers == (["104.0°", "111.2°"] if locale == "en-US" else
                       ["40.0°", "44.0°"] if locale == "en-GB" else ["40,0°", "44,0°"])


def test_numbers_are_read_at_three_meters(live, wall):
    send(live, 27.9, 34.1)
    heights = [page.locator("b").first.evaluate("b => parseFloat(getComputedStyle(b).fontSize)")
               for page in (wall(live, (1024, 600)), wall(live, (600, 1024)))]
    assert heights == pytest.approx([0.15 * 1024, 0.30 * 600])


def test_it_is_live_and_in_the_color_of_the_answer(live, wall):
    send(live, 27, 22)
    page = wall(live)
    expect(page.locator("h1")).to_have_text("Open the windows")
    page.evaluate("window.isKept = true")
    drawn, color = (page.locator(".window path").get_attribute("d"), page.locator(
        "main").evaluate("main => getComputedStyle(main).backgroundColor"))
    for _ in range(3):
        live.update(OUTSIDE, 33)
    expect(page.locator("h1")).to_have_text("Keep the windows closed")
    expect(page.locator("b").last).to_have_text("33.0°")
    expect(page).to_have_title("Keep the windows closed")
    assert page.locator(".window path").get_attribute("d") != drawn
    assert page.locator("main").evaluate(
        "main => getComputedStyle(main).backgroundColor") != color
    assert page.evaluate("window.isKept")


def test_it_dims_at_night_but_for_five_minutes_after_a_change(live, wall):
    send(live, 27, 22)
    page = wall(live, now=DAY)
    page.clock.run_for(2000)
    expect(page.locator("body")).not_to_have_class("night")
    page = wall(live, now=NIGHT)
    page.clock.run_for(2000)
    expect(page.locator("body")).to_have_class("night")
    expect(page.locator("main")).to_have_css("opacity", "0.35")
    for _ in range(3):
        live.update(OUTSIDE, 33)
    page.clock.run_for(1000)
    expect(page.locator("h1")).to_have_text("Keep the windows closed")
    expect(page.locator("body")).not_to_have_class("night")
    page.clock.run_for(301_000)
    expect(page.locator("body")).to_have_class("night")


def test_without_a_connection_the_answer_stays_and_a_bar_says_since_when(live, wall):
    send(live, 27, 22)
    page = wall(live, now=DAY, allowed="ERR_|Failed to load", timezone_id="UTC")
    expect(page.locator("h1")).to_have_text("Open the windows")
    expect(page.locator(".lost")).to_be_hidden()
    live.stop()
    page.clock.run_for(5000)
    expect(page.locator(".lost")).to_have_text("No connection since 15:00")
    expect(page.locator("h1")).to_have_text("Open the windows")
    expect(page.locator("b").first).to_have_text("27.0°")


def test_without_a_script_it_loads_itself_each_minute(live, wall):
    send(live, 27, 22)
    page = wall(live, java_script_enabled=False)
    assert page.locator("meta[http-equiv=refresh]").get_attribute("content") == "60"
    assert page.locator("h1").inner_text() == "Open the windows"
