"""The page's words in a real Chromium: each is in the table, and has room in every language."""
import contextlib
import itertools
import re
import time

import pytest
from brackets import CODE, outside
from chromium import FLAGS, PHONE
from harness import CLOCK, SCRIPT, Live, wait_for
from house import House
from playwright.sync_api import sync_playwright
from tools import ROOT, need, needs

import iotserver

pytestmark = [needs("chromium"), pytest.mark.wings("Languages", "Consoles", "Wall")]
BRACKETS = ROOT / "tests" / "support" / "brackets.py"
EVENING = 1_815_497_220.0       # 14 July 2027, 18:47 in Berlin
DAYS = 12                       # of history: enough for a forecast
LANGUAGES = ("de", "fr", "es", "it")

# Everything that a reader sees or hears: texts, attributes, what the style adds.
WORDS = """() => {
  const said = [document.title];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const text = walker.currentNode.data.trim();
    if (text && !walker.currentNode.parentElement.closest('script, style, code, svg'))
      said.push(text);
  }
  for (const chart of document.querySelectorAll('svg'))     // where a sentence may take two lines
    said.push([...chart.querySelectorAll('text')].map(part => part.textContent).join(' '));
  for (const element of document.querySelectorAll('*')) {
    for (const name of ['aria-label', 'aria-valuetext', 'title', 'alt', 'placeholder'])
      if (element.getAttribute(name)) said.push(element.getAttribute(name));
    for (const where of ['::before', '::after']) {
      const content = getComputedStyle(element, where).content;
      if (/^"/.test(content)) said.push(content.slice(1, -1));
    }
  }
  return said;
}"""
# Texts that stand out of their card or of the screen, or of a control of their own.
CUT_OFF = """() => {
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode, parent = node.parentElement;
    if (!node.data.trim() || parent.closest('svg, script, style, .say')) continue;
    const range = document.createRange();
    range.selectNodeContents(node);
    const box = parent.closest('a, button, .pill, section, figure, main').getBoundingClientRect();
    const left = Math.max(box.left, 0) - 1, right = Math.min(box.right, innerWidth) + 1;
    for (const part of range.getClientRects())
      if (part.right > right || part.left < left)
        found.push(`${node.data.trim()}: ${part.left} to ${part.right}`);
  }
  return found;
}"""


# -- houses ---------------------------------------------------------------------------------------

def wave(minute, mean, swing):
    """A day that is coolest at six and warmest at half past five, in Berlin."""
    hour = (minute / 60 + 18.8) % 24
    return mean + (minute // 1440 % 3) * 0.3 + swing * (1 - abs(hour - 17.5) % 24 / 6)


def fill(house, *stations):
    minutes = [*range(-DAYS * 1440, -1440, 30), *range(-1440, 1, 10)]
    for name, mean, swing in stations:
        house.store(name, minutes, [round(wave(m, mean, swing), 1) for m in minutes])


def fill_two(house):
    fill(house, ("inside", 26.5, 0.6), ("outside", 26.6, 6.5))
    for name, humidity in (("inside", 48), ("outside", 44)):
        house.store(name, range(-1440, 1, 10), humidity, 2)
    house.store("outside", range(-1440, 1, 30), 1013.2, 3)


def fill_rooms(house):
    fill(house, ("Nord", 24, 6), ("Küche", 27, 0.5), ("Keller", 16, 0.2), ("Bad", 21, 0.3))
    house.store("Dach", range(-2000, -180, 10), 29)
    house.store("Nord", [0.01], 85)


def fill_console(house):
    fill(house, ("garden outside", 24, 5), ("garden inside", 25, 1))
    for field in range(2, 10):
        house.store("garden outside", range(-700, 1, 10), 20 + field, field)
    for field, label in enumerate(iotserver.CONSOLE_LABELS, 1):
        house.writer.label("garden outside", field, label)
    house.writer.label("garden outside", 9, "")
    house.store("garden inside", [-300], 7, 4)


def fill_damp(house):
    fill(house, ("inside", 26, 0), ("outside", 22, 0))
    for name, humidity in (("inside", 40), ("outside", 95)):
        house.store(name, range(-100, 1, 10), humidity, 2)


TWO = (("inside", "inside"), ("outside", "outside"))
HOUSES = {                      # stations, what fills them
    "two": (TWO, fill_two),
    "rooms": ((("Nord", "outside"), ("Küche", "inside"), ("Keller", "inside"), ("Bad", "inside"),
               ("Dach", "inside")), fill_rooms),
    "console": ((("garden outside", "outside"), ("garden inside", "inside")), fill_console),
    "damp": (TWO, fill_damp),
    "new": (TWO, lambda house: house.store("inside", [-0.2], 26.4)),
    "roles": ((("garden", None),), lambda house: house.store("garden", [-5000], 26.4)),
    "none": ((), lambda house: None)}
NAMES = {name for stations, _ in HOUSES.values() for name, _ in stations}
CUT_NAMES = {name[:cut] + "…" for name in NAMES for cut in range(5, len(name))}


@pytest.fixture
def serving(tmp_path):
    """Starts a real server with a house on that evening: serving("two"); its Live."""
    with contextlib.ExitStack() as stack:
        def serving(name, *flags):
            stations, fill_it = HOUSES[name]
            with contextlib.closing(House(tmp_path / "iot.db", *stations)) as house:
                house.time = EVENING
                fill_it(house)
            (tmp_path / "shift").write_text(str(EVENING - time.time() + 5))
            server = Live(tmp_path, *flags, command=(CLOCK, BRACKETS, SCRIPT))
            stack.callback(server.log.close)
            stack.callback(server.process.stdout.close)
            stack.callback(server.kill)
            if name in {"two", "rooms", "console"}:
                wait_for(lambda: any(verdict["forecast"] for verdict in
                                     server.get("/api/verdict").json["verdicts"]), 90)
            return server
        yield serving


@pytest.fixture(scope="module")
def chromium():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=need("chromium"), args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium):
    """Opens a page: visit(server, "/path", language); it was drawn in the reader's zone."""
    with contextlib.ExitStack() as stack:
        def visit(server, path="/", language=CODE, **options):
            context = chromium.new_context(**{
                **PHONE, "locale": language, "timezone_id": "Europe/Berlin",
                "service_workers": "block", **options})
            stack.callback(context.close)
            page = context.new_page()
            page.goto(f"http://127.0.0.1:{server.port}{path}")
            page.wait_for_timeout(900)
            return page
        yield visit


# -- what is said ---------------------------------------------------------------------------------

UNITS = {"°C", "°F", "hPa", "m/s", "mm/h", "W/m²", "µg/m³", "UTC", "CEST", "GMT+2", "E+07"}


def words_outside(page):
    """Words of a page that no sentence has, but names and units."""
    found = set()
    for text in page.evaluate(WORDS):
        rest = outside(text)
        for known in sorted(NAMES | CUT_NAMES | UNITS, key=len, reverse=True):
            rest = rest.replace(known, " ")
        if re.search(r"[^\W\d_]", rest):
            found.add(f"{rest.strip()}  in  {text}")
    return found


def points_outside(page):
    """Numbers with a point instead of the language's sign."""
    return {text for text in page.evaluate(WORDS) if re.search(r"\d\.\d", text)}


@pytest.mark.parametrize("house", HOUSES)
def test_each_word_of_the_page_is_in_the_table(serving, visit, house):
    """Also what unfolds, what a finger on the chart reads out, exact times, and a lost server."""
    server = serving(house)
    for path in ("/wall", "/", "/?range=7d", "/?range=30d")[:4 if house == "two" else 2]:
        page = visit(server, path)
        assert "⟦" in page.title()
        for summary in page.locator("summary").all():
            summary.click()
        found, points = words_outside(page), points_outside(page)
        if page.locator("figure svg").count():
            box = page.locator("figure svg").first.bounding_box()
            page.mouse.click(box["x"] + box["width"] * 0.45, box["y"] + box["height"] / 2)
            found |= words_outside(page)
            points |= points_outside(page)
        for button in page.locator("button").all():
            button.click()
            found |= words_outside(page)
        assert (found, points) == (set(), set())
    server.kill()
    page.locator("main.lost").wait_for(timeout=30_000)
    assert words_outside(page) == set()


@pytest.mark.parametrize("path", [
    "/nothing", "/?range=2h", "/update", "/data/report/",
    "/update/API_key=k/mac=m/field=1/data=x"])
def test_each_word_of_an_error_is_in_the_table(serving, visit, path):
    assert words_outside(visit(serving("none"), path)) == set()


# -- room for it ----------------------------------------------------------------------------------

@pytest.mark.parametrize("house", ["two", "rooms", "console"])
def test_there_is_room_for_it_on_a_phone(serving, visit, house):
    """At 320 px nothing is cut off or scrolls sideways; at 390 px a reason takes three lines."""
    server = serving(house)
    for language, width in itertools.product(LANGUAGES, (320, 390)):
        page = visit(server, language=language, viewport={"width": width, "height": 844})
        for summary in page.locator("summary").all():
            summary.click()
        assert page.evaluate("document.documentElement.lang") == language
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate(CUT_OFF) == [], (language, width)
        lines = page.locator(".reason").evaluate(
            "part => part.getBoundingClientRect().height / parseFloat("
            "getComputedStyle(part).lineHeight)")
        assert width < 390 or round(lines) <= 3, language
        page.context.close()
