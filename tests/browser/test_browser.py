"""The page in a real browser: Debian's Chromium against a real server.

Pictures of the states are left in tests/output/.
"""
import contextlib
import itertools
import json
import math
import os
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from zoneinfo import ZoneInfo

import pytest
from chromium import CLOSE, COMFORTABLE, FLAGS, OPEN, PHONE
from harness import CLOCK, INSIDE, OUTSIDE, SCRIPT, Live, environment, update_path, wait_for
from playwright.sync_api import expect, sync_playwright
from tools import ROOT, from_npm, need, needs

import iotserver

pytestmark = needs("chromium")
OUTPUT = ROOT / "tests" / "output"
HOSTILE = "<script>alert(1)</script>"
NO_CONNECTION = re.compile("no connection")


# -- the house ------------------------------------------------------------------------------------

class House(Live):
    """A real server whose clock the test can put forward, and stations that have sent before."""

    def __init__(self, folder, *flags, **options):
        super().__init__(folder, "--rate-limit", "0", *flags, command=(CLOCK, SCRIPT), **options)
        self.folder, self.address = folder, f"http://127.0.0.1:{self.port}/"
        self.expected = r"(.* this machine's clock was set .*\n)*"

    def send(self, station, *values, field=1, every=60, ago=0):
        """Readings one in so many seconds, of which the last one is now, or so many ago."""
        ages = range(ago + len(values) * every - every, ago - 1, -every)
        for i in range(0, len(values), 900):
            body = json.dumps({"mac": station.mac, "api_key": station.key, "readings": [
                {"field": field, "data": round(value, 2), "age": age} for value, age
                in list(zip(values, ages, strict=True))[i:i + 900]]}).encode()
            response = self.ask("POST", "/update", body)
            assert response.status == 200, response

    def send_both(self, inside, outside, count=40, ago=0):
        self.send(INSIDE, *[inside] * count, ago=ago)
        self.send(OUTSIDE, *[outside] * count, ago=ago)

    def put_forward(self, minutes):
        """The server's clock, not the browser's."""
        (self.folder / "next").write_text(str(minutes * 60))
        (self.folder / "next").replace(self.folder / "shift")       # which is read all the time


@pytest.fixture
def start(tmp_path):
    """Starts House servers in tmp_path: start("--units", "C"), start(port=8001)."""
    started = []

    def start(*flags, **options):
        started.append(House(tmp_path, *flags, **options))
        return started[-1]
    yield start
    with contextlib.ExitStack() as stack:
        for house in started:
            stack.callback(house.check_end)


@pytest.fixture
def house(database, start):
    """At 28 °C inside and 24 °C outside for 40 minutes. None of it is of now: two readings that
    come next have to agree, and stand behind all of these in whatever minute they are."""
    house = start()
    house.send_both(28, 24, ago=60)
    return house


def day_of_weather(house):
    """A summer's day and night with a gap, and what else stations send."""
    minutes = range(-1430, 1, 5)
    phase = [abs((m + 300) % 1440 / 720 - 1) for m in minutes]          # 1 = coolest
    house.send(OUTSIDE, *[29.5 - 12 * p for p in phase], every=300)
    house.send(INSIDE, *[27 - 3 * p for p in phase], every=300)
    house.send(OUTSIDE, *[45 + 40 * p for p in phase], field=2, every=300)
    house.send(OUTSIDE, *[1012 + 3 * p for p in phase], field=3, every=300)
    house.send(INSIDE, *[50 + 5 * p for p in phase], field=2, every=300)


def weeks_of_weather(house, hours=4, days=14):
    """Days of which each is a little different, up to a warm afternoon: in so many hours it gets
    cooler outside. What the server then expects, as soon as it does."""
    warmest = [(hours - 6) * 60 + day * 37 % 50 - 25 for day in range(days)]
    outside, inside = [], []
    for minute in range(-days * 1440, 1, 15):
        phase = math.cos((minute - warmest[minute // 1440]) / 1440 * math.tau)
        outside.append(25 + 7 * phase)
        inside.append(25 + 0.5 * math.cos((minute - hours * 60) / 1440 * math.tau))
    house.send(OUTSIDE, *outside, every=900)
    house.send(INSIDE, *inside, every=900)
    return wait_for(lambda: house.get("/api/verdict").json["verdicts"][0]["forecast"], 90)


# -- the browser ----------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def chromium():
    path = need("chromium")
    OUTPUT.mkdir(exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


class Watched:
    """A browser context that keeps what went wrong in it."""

    def __init__(self, context):
        self.context, self.problems, self.requests = context, [], []
        self.allowed = r"$^"            # a regular expression for problems that a test makes
        context.on("console", lambda message: message.type in {"error", "warning"} and
                   "blocked by Playwright" not in message.text and
                   self.problems.append(message.text))
        context.on("weberror", lambda error: self.problems.append(str(error.error)))
        context.on("request", lambda request: self.requests.append(request.url))
        context.on("dialog", lambda dialog: self.problems.append(dialog.message))

    def open(self, address, has_clock, is_live):
        """A page that notes what is announced; with a clock the test can put it forward."""
        page = self.context.new_page()
        page.add_init_script("""addEventListener('DOMContentLoaded', () => {
            window.announced = [];
            const region = document.querySelector('[aria-live]');
            if (region) new MutationObserver(() => announced.push(region.textContent))
                .observe(region, {childList: true, characterData: true, subtree: true}); });""")
        if has_clock:
            page.clock.install()
        page.goto(address)
        if is_live:
            page.evaluate("window.isKept = true")
        return page

    def check(self, address):
        strange = [p for p in self.problems if not re.search(self.allowed, p)]
        assert not strange, strange
        foreign = [url for url in self.requests if not url.startswith(address)]
        assert not foreign, foreign


@pytest.fixture
def visit(chromium):
    """Opens pages: visit(address, locale="en-GB"); at the end nothing may have gone wrong."""
    visits = []

    def visit(address, allowed=r"$^", has_clock=False, **options):
        options = {**PHONE, "locale": "en-US", "timezone_id": "America/Los_Angeles",
                   "service_workers": "block", **options}
        watched = Watched(chromium.new_context(**options))
        watched.allowed = allowed
        watched.context.set_default_timeout(10_000)
        visits.append((watched, address.split("?")[0]))
        return watched.open(address, has_clock, options.get("java_script_enabled", True))
    yield visit
    for watched, address in visits:
        watched.context.close()
        watched.check(address)


def picture(page, name, **options):
    page.screenshot(path=OUTPUT / f"{name}.png", full_page=True, **options)


def headline(page):
    return page.locator("h1").first


def stale(page):
    """Where the page says that it has no connection."""
    return page.locator(".stale")


def is_same_page(page):
    """It was not loaded again since it was opened."""
    return page.evaluate("window.isKept === true")


def read_out(page):
    return page.locator("output").first


def clock_minutes(text):
    """The first time of day in a text, like 8:22 PM."""
    hour, minute, half = re.search(r"(\d+):(\d\d)\s([AP])M", text).groups()
    return int(hour) % 12 * 60 + int(minute) + 720 * (half == "P")


# -- tests ----------------------------------------------------------------------------------------

def looks_of_the_window(page):
    """The drawing, which is as large as a thumb and stands right of the headline."""
    window, words = page.locator(".window"), headline(page).bounding_box()
    box = window.bounding_box()
    assert 44 <= box["width"] <= 49
    assert box["x"] >= words["x"] + words["width"]
    assert abs(box["y"] - words["y"]) < 20
    return window.locator("path").get_attribute("d")


@pytest.mark.parametrize(("inside", "outside", "reason"), [
    (27.9, 34.1, "It is 6.2 °C warmer outside."), (28.5, 25.1, "It is 3.4 °C cooler outside.")])
def test_numbers_and_reason_are_two_lines_on_a_phone(
        database, start, visit, inside, outside, reason):
    house = start()
    house.send_both(inside, outside)
    page = visit(house.address, locale="en-GB")
    expect(page.locator(".both")).to_have_text(f"{inside}° inside, {outside}° outside.")
    expect(page.locator(".reason")).to_have_text(reason)
    for part in (".both", ".reason"):
        assert page.locator(part).bounding_box()["height"] < 40


def test_each_verdict_and_the_change_without_reload(house, visit):
    page = visit(house.address)
    expect(headline(page)).to_have_text("Open the windows")
    expect(page.locator(".both")).to_have_text("82.4° inside, 75.2° outside.")
    expect(page.locator(".reason")).to_have_text("It is 7.2 °F cooler outside.")
    seen = [looks_of_the_window(page)]
    picture(page, "open")
    house.send(OUTSIDE, 31, 31)
    expect(headline(page)).to_have_text("Keep the windows closed")
    expect(page.locator(".reason")).to_have_text("It is 5.4 °F warmer outside.")
    expect(page).to_have_title("Keep the windows closed")
    seen.append(looks_of_the_window(page))
    assert seen[0] != seen[1], "without a color, too, open is not closed"
    picture(page, "close")
    house.put_forward(50)
    house.send_both(20.5, 15)
    expect(headline(page)).to_have_text("Comfortable inside")
    expect(page.locator(".reason")).to_have_text("Nothing to do.")
    assert page.locator(".window").count() == 0, "it says no more than the words"
    picture(page, "comfortable")
    house.put_forward(240)                  # the pause before has taught patience
    expect(headline(page)).to_have_text("No answer")
    expect(page.locator(".reason")).to_have_text(re.compile(
        r"“outside” has been silent for [34] h\."))
    assert page.locator(".state", has_text="silent").count() == 2
    picture(page, "unknown")
    assert is_same_page(page)


def test_new_verdict_is_announced_and_a_new_reading_is_not(house, visit):
    page = visit(house.address)
    expect(headline(page)).to_have_text(OPEN)
    for value in (23, 22.5):
        house.send(OUTSIDE, value)
        expect(page.locator(".big").nth(1)).to_contain_text(f"{value * 1.8 + 32:.1f}")
    assert page.evaluate("announced") == []
    house.send(OUTSIDE, 31, 31)
    expect(headline(page)).to_have_text(CLOSE)
    region = page.locator("[aria-live=polite]")
    expect(region).to_have_text(CLOSE)
    assert page.evaluate("announced.length") == 1
    house.send(OUTSIDE, 32)
    expect(page.locator(".big").nth(1)).to_contain_text("89.6")
    assert page.evaluate("announced.length") == 1


def test_values_of_an_open_page_age_by_themselves(house, visit):
    house.send(INSIDE, 28)
    page = visit(house.address, has_clock=True)
    expect(page.locator("time").first).to_have_text(re.compile(r"^\d+ s ago"))
    page.route(house.address, lambda route: None)   # from now on it gets no answer
    page.clock.fast_forward(3 * 60_000)
    expect(page.locator("time").first).to_have_text("3 min ago")


def test_a_server_that_hangs_leaves_no_verdict_that_looks_new(house, visit):
    """No connection is closed, nothing comes: as on a train. The page's clock goes on."""
    page = visit(house.address, has_clock=True)
    expect(headline(page)).to_have_text(OPEN)
    wait_for(lambda: page.evaluate("asked && !soon"), 10)     # it asks for all at first
    os.kill(house.process.pid, 19)
    try:
        page.clock.fast_forward(11 * 60_000)
        expect(stale(page)).to_have_text(NO_CONNECTION, timeout=3000)
        expect(page).to_have_title(NO_CONNECTION)
        expect(headline(page)).to_have_text(OPEN)
    finally:
        os.kill(house.process.pid, 18)


def test_an_expired_verdict_is_asked_for_with_patience(house, visit):
    """A page that is out of date does not ask again and again without a pause."""
    page = visit(house.address, has_clock=True)
    expect(headline(page)).to_have_text(OPEN)
    asked = []
    old = re.sub(r"data-expires=\"?\d+", "data-expires=1", house.get("/").text)
    page.route(house.address, lambda route: (asked.append(route.request.url), route.fulfill(
        status=200, content_type="text/html", body=old)))
    page.clock.fast_forward(11 * 60_000)
    page.wait_for_timeout(700)
    assert 1 <= len(asked) <= 3


def answer_color(page):
    return page.locator(".answer").evaluate("card => getComputedStyle(card).backgroundColor")


def test_offline_and_back(house, visit):
    page = visit(house.address, allowed="ERR_INTERNET_DISCONNECTED|ERR_FAILED|Failed to load")
    expect(headline(page)).to_have_text(OPEN)
    before = answer_color(page)
    page.context.set_offline(True)
    expect(stale(page)).to_have_text(NO_CONNECTION)
    assert re.fullmatch(r"As of \d+:\d\d\s[AP]M, no connection", stale(page).inner_text())
    said = stale(page).inner_text().lower().replace("am,", "AM,").replace("pm,", "PM,")
    expect(page).to_have_title(f"Open the windows ({said})")
    expect(headline(page)).to_have_text("Open the windows")     # it is as true as it was then
    assert answer_color(page) == before, "it is not that of no answer"
    dimmed = page.locator(".answer").evaluate("card => getComputedStyle(card).backgroundImage")
    assert "rgba(0, 0, 0" in dimmed
    picture(page, "offline")
    house.send(OUTSIDE, 31, 31)
    page.context.set_offline(False)
    expect(headline(page)).to_have_text(CLOSE)
    expect(stale(page)).to_be_empty()
    expect(page).to_have_title("Keep the windows closed")
    assert answer_color(page) != before
    assert page.locator(".answer").evaluate(
        "card => getComputedStyle(card).backgroundImage") == "none"
    assert is_same_page(page)


@pytest.fixture
def gateway():
    """A stand-in on a port of its own: what a proxy says while the server behind it is away."""
    processes = []

    def gateway(port):
        code = ("import http.server, socketserver\n"
                "class Bad(http.server.BaseHTTPRequestHandler):\n"
                "    def do_GET(self):\n"
                "        self.send_error(502)\n"
                "    def log_message(self, *args):\n"
                "        print('asked', self.path, flush=True)\n"
                "socketserver.TCPServer.allow_reuse_address = True\n"
                f"http.server.ThreadingHTTPServer(('127.0.0.1', {port}), Bad).serve_forever()")
        processes.append(subprocess.Popen([sys.executable, "-c", code], text=True,
                                          stdout=subprocess.PIPE, env=environment()))
        return processes[-1]
    yield gateway
    for process in processes:
        process.kill()
        process.wait()
        process.stdout.close()


def test_an_answer_that_was_lost_is_asked_for_again(house, visit):
    """Also when no reading comes for long that would have the page ask."""
    page = visit(house.address, has_clock=True, allowed="Failed to load|ERR_FAILED")
    wait_for(lambda: page.evaluate("asked && !soon"), 10)     # it asks for all at first
    page.route(house.address, lambda route: route.abort())
    house.send(INSIDE, 27.5)
    expect(stale(page)).to_have_text(NO_CONNECTION)
    page.wait_for_timeout(2000)             # the verdict follows its reading within a second
    page.unroute(house.address)
    page.clock.fast_forward(5500)
    expect(headline(page)).to_have_text(OPEN)
    expect(page.locator(".big").first).to_contain_text("81.5")


@pytest.mark.parametrize("is_behind_proxy", [False, True])
def test_server_restarts(house, start, visit, gateway, is_behind_proxy):
    """The page says so, and goes on by itself; a proxy's 502 in between does not end that."""
    page = visit(house.address, has_clock=True,
                 allowed="Failed to load|ERR_CONNECTION|EventSource|ERR_INCOMPLETE")
    expect(headline(page)).to_have_text(OPEN)
    house.stop()
    if is_behind_proxy:
        between = gateway(house.port)
        while "/events" not in between.stdout.readline():
            pass
        expect(stale(page)).to_have_text(NO_CONNECTION)
        between.kill()
        between.wait()
    expect(stale(page)).to_have_text(NO_CONNECTION)
    page.clock.fast_forward(11 * 60_000)     # asked for in vain, and said once
    page.wait_for_timeout(300)
    assert page.evaluate("announced.length") == 1
    again = start("--port", str(house.port))
    again.send(OUTSIDE, 31, 31)
    page.clock.fast_forward(5500)           # the pause of the script, not that of the browser
    expect(headline(page)).to_have_text(CLOSE, timeout=15_000)
    again.send(OUTSIDE, 32.5)
    expect(page.locator(".big").nth(1)).to_contain_text("90.5")
    assert is_same_page(page)


@pytest.mark.parametrize(("locale", "zone", "unit"), [
    ("en-US", "America/New_York", "F"), ("en-GB", "Europe/Berlin", "C")])
def test_units_and_times_of_the_phone(house, visit, locale, zone, unit):
    day_of_weather(house)
    page = visit(house.address, locale=locale, timezone_id=zone)
    expect(page.locator(".big").first).to_contain_text(f"°{unit}")
    now = datetime.now(ZoneInfo(zone))
    told = {cookie["name"]: cookie["value"] for cookie in page.context.cookies()}
    assert told["tz"] == zone
    assert int(told["offset"]) == now.utcoffset() // timedelta(minutes=1)
    form = r"%-I:%M\s%p" if unit == "F" else "%H:%M"      # on all of the page
    lately = re.compile("|".join(f"{now - timedelta(minutes=i):{form}}" for i in range(12)))
    text = page.locator("main").inner_text()
    assert bool(re.search(r"\d:\d\d\s[AP]M", text)) == (unit == "F")
    assert unit == "C" or not re.search(r"\d:\d\d(?!\s[AP]M)", text)
    expect(page.locator("details td").last).to_have_text(lately)
    page.locator("summary").first.click()
    page.locator(".stations summary").click()
    seen, button = page.locator("time").first, page.get_by_role("button", name="Exact times")
    expect(button).to_have_attribute("aria-pressed", "false")
    button.click()
    expect(button).to_have_attribute("aria-pressed", "true")
    expect(seen).to_have_text(re.compile(str(now.year)))
    assert bool(re.search("[AP]M", seen.inner_text())) == (unit == "F")
    button.press("Enter")       # back again, by keyboard
    expect(seen).to_have_text(re.compile("ago"))
    picture(page, f"locale-{locale}")
    expect(page.locator(".stations details")).to_have_attribute("open", "")
    house.send(INSIDE, 27.7)
    expect(page.locator(".big").first).to_contain_text("81.9" if unit == "F" else "27.7")
    # A new reading leaves it open.
    expect(page.locator(".stations details")).to_have_attribute("open", "")


def say_forecast(forecast, zone):
    at, start, end = (format(datetime.fromtimestamp(round(forecast[key] / 300_000) * 300, zone),
                             "%-I:%M %p") for key in ("at", "from", "to"))
    return f"Cooler outside from about {at} ({start} to {end})."


WINTER_TIME = datetime(2027, 10, 31, 1, tzinfo=UTC)    # when Berlin puts its clocks back


@pytest.mark.parametrize("is_that_night", [False, True])
def test_the_forecast_in_two_zones_and_where_the_clocks_are_put_back(
        database, tmp_path, start, visit, is_that_night):
    if is_that_night:
        shift = WINTER_TIME - timedelta(hours=4) - datetime.now(UTC)
        (tmp_path / "shift").write_text(str(shift.total_seconds()))
    house = start()
    forecast = weeks_of_weather(house)
    zones = [ZoneInfo(name) for name in ("Europe/Berlin", "America/Los_Angeles")]
    for zone in zones:
        page = visit(house.address, timezone_id=str(zone))
        line = page.locator(".answer summary")
        expect(line).to_have_text(say_forecast(forecast, zone))
        record = page.locator(".answer .record")
        expect(record).to_be_hidden()
        expect(page.locator(".zone")).to_have_count(0)
        line.click()
        expect(record).to_be_visible()
        expect(record).to_have_text(re.compile("10. On half of the last .* evenings, "))
        house.send(INSIDE, 25.1)                        # a new reading leaves it open
        expect(page.locator(".big").first).to_contain_text("77.2", timeout=20_000)  # if busy
        expect(record).to_be_visible()
        house.send(INSIDE, 25)
        page.locator("input").fill("1296")
        expect(read_out(page)).to_contain_text(
            re.compile(r"M inside, expected \d\d\.\d °F outside, expected \d\d\.\d °F$"))
        page.locator("input").fill("432")
        expect(read_out(page)).to_contain_text(
            re.compile(r"M inside \d\d\.\d °F outside \d\d\.\d °F$"))
    page = visit(house.address, java_script_enabled=False)
    expect(page.locator(".answer summary")).to_have_text(
        say_forecast(forecast, datetime.now().astimezone().tzinfo))
    expect(page.locator(".zone")).to_have_text(re.compile(r"^Times are in \S+\.$"))
    picture(page, "forecast-in-winter" if is_that_night else "forecast")
    ends = [datetime.fromtimestamp(forecast[key] / 1000, zones[0]) for key in ("from", "to")]
    assert (ends[0].utcoffset() != ends[1].utcoffset()) >= is_that_night


def test_without_javascript(house, visit):
    day_of_weather(house)
    page = visit(house.address, java_script_enabled=False)
    expect(headline(page)).to_have_text(re.compile("^(Open|Keep) the windows"))
    expect(page.locator("svg g[data-name=inside] .line")).to_be_visible()
    for useless in ("input", "output"):
        expect(page.locator(useless).first).to_be_hidden()
    page.get_by_role("link", name="7d").click()
    expect(page.locator("a[aria-current=true]")).to_have_text("7d")
    picture(page, "no-javascript")


def test_hostile_names(run, start, visit):
    run("--add-station", HOSTILE, "--mac", INSIDE.mac, "--role", "inside", "--key", INSIDE.key)
    run("--add-station", "' onclick='alert(2)' \"><img src=/x onerror=alert(3)>", "--mac",
        OUTSIDE.mac, "--role", "outside", "--key", OUTSIDE.key)
    house = start()
    house.send_both(28, 24)
    house.send(INSIDE, 40, 50, 60, field=2)
    run("--label", HOSTILE, "2", "<b onmouseover=alert(4)>bold")
    page = visit(house.address)
    expect(page.locator("h2").first).to_have_text(HOSTILE)
    expect(page.get_by_text("<b onmouseover=alert(4)>bold").first).to_be_visible()
    page.locator("input").focus()
    page.keyboard.press("ArrowLeft")
    expect(read_out(page)).to_contain_text(HOSTILE)
    assert page.locator("img").count() == 0
    house.put_forward(12)
    expect(page.locator(".reason")).to_have_text(re.compile("onclick"))
    picture(page, "hostile")                # its dialogs and errors would fail the visit


@pytest.mark.parametrize("width", [320, 390, 1280])
def test_no_sideways_scrolling(run, house, visit, width):
    run("--add-station", "W" * 40 + " and a long one", "--mac", "long",
        "--role", "inside")
    day_of_weather(house)
    page = visit(house.address, viewport={"width": width, "height": 800})
    for path in ("", "?range=1y"):
        page.goto(house.address + path)
        page.locator("details").evaluate_all("all => all.forEach(e => { e.open = true; })")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        wide = page.evaluate("""width => [...document.querySelectorAll('main *')].filter(e =>
            e.getBoundingClientRect().right > width + 1 &&
            !e.closest('svg')).map(e => e.outerHTML.slice(0, 80))""", width)
        assert not wide
        picture(page, f"width-{width}{'-year' if path else ''}")


@pytest.fixture(scope="session")
def axe():
    """The source of axe-core."""
    return (from_npm("axe", "axe-core@4") / "axe-core/axe.min.js").read_text()


@needs("npm")
@pytest.mark.parametrize("state", ["answer", "empty", "no station", "offline", "forecast"])
def test_axe_finds_nothing(template, start, visit, axe, tmp_path, state):
    if state != "no station":
        (tmp_path / "iot.db").write_bytes(template.read_bytes())
    house = start()
    if state in {"answer", "offline"}:
        day_of_weather(house)
    elif state == "forecast":
        weeks_of_weather(house)
    page = visit(house.address, bypass_csp=True, allowed="Failed to load|ERR")
    if state == "offline":
        page.context.set_offline(True)
        expect(stale(page)).to_have_text(NO_CONNECTION)
    elif state in {"answer", "forecast"}:
        page.locator("summary").first.click()
        page.locator("input").press("ArrowLeft")
    page.evaluate(axe)
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        picture(page, f"{state.replace(' ', '-')}-{scheme}")
        found = page.evaluate("axe.run().then(result => result.violations)")
        said = [(v["impact"], v["id"], v["nodes"][0]["html"][:120]) for v in found]
        assert not said, said


def test_values_by_keyboard_and_by_pointer(house, visit):
    day_of_weather(house)
    page = visit(house.address)
    expect(page.locator("details td").last).to_be_attached()
    slider = page.locator("input")
    page.locator("nav a").last.focus()
    page.keyboard.press("Tab")
    expect(slider).to_be_focused()
    page.keyboard.press("Home")
    page.keyboard.press("End")
    expect(read_out(page)).to_contain_text(re.compile(r"inside \d\d\.\d °F outside \d\d\.\d °F"))
    last = read_out(page).inner_text()
    for _ in range(30):
        page.keyboard.press("PageDown")
    first = read_out(page).inner_text()
    assert first != last
    assert slider.get_attribute("aria-valuetext").replace(", inside", " inside").replace(
        ", outside", " outside") == " ".join(first.split())
    assert slider.input_value() == "0"
    chart = page.locator("figure svg")
    seen = set()
    for part in (0.2, 0.5, 0.8):
        box = chart.bounding_box()
        page.mouse.move(box["x"] + box["width"] * part, box["y"] + box["height"] / 2)
        seen.add(read_out(page).inner_text())
    assert len(seen) == 3
    page.touchscreen.tap(box["x"] + box["width"] * 0.4, box["y"] + box["height"] / 2)
    assert read_out(page).inner_text() not in seen
    where = float(slider.input_value())
    house.send(OUTSIDE, 21)                 # a new reading leaves the reader where he was
    expect(page.locator(".big").nth(1)).to_contain_text("69.8")
    assert float(page.locator("input").input_value()) == pytest.approx(where, abs=2)
    expect(read_out(page)).not_to_be_empty()
    picture(page, "values")


def test_a_new_reading_leaves_the_chart_under_the_finger(house, visit):
    """What is touched or open stays the element that it was."""
    day_of_weather(house)
    page = visit(house.address)
    page.locator("figure summary").click()
    page.evaluate("""window.kept = ['figure svg', 'input', 'details', 'nav a', 'h1'].map(
        query => document.querySelector(query))""")
    box = page.locator("figure svg").bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.3, box["y"] + box["height"] / 2)
    page.mouse.down()
    seen = read_out(page).inner_text()
    for value in (21, 26):
        house.send(OUTSIDE, value)
        expect(page.locator(".big").nth(1)).to_contain_text(f"{value * 1.8 + 32:.1f}")
        assert page.evaluate("kept.every(element => element.isConnected)")
        passed = clock_minutes(read_out(page).inner_text()) - clock_minutes(seen)
        assert (passed + 1) % 1440 <= 2     # when a minute begins, the axis goes on with it
    box = page.locator("figure svg").bounding_box()      # a longer reason may have moved it
    page.mouse.move(box["x"] + box["width"] * 0.6, box["y"] + box["height"] / 2)
    assert read_out(page).inner_text() != seen
    assert page.evaluate("kept[2].open")


def test_value_read_is_the_value_sent(database, start, visit):
    """A gap is no reading, and the number under the pointer is the one that was sent there."""
    house = start()
    house.send(OUTSIDE, *[15 + i % 3 for i in range(10)], every=600)
    house.send(INSIDE, *([20.0] * 60), every=60)
    page = visit(house.address, locale="en-GB", timezone_id="UTC")
    expect(headline(page)).to_have_text(COMFORTABLE)
    slider = page.locator("input")
    slider.fill("144")
    expect(read_out(page)).to_contain_text("inside no reading outside no reading")
    slider.fill("1440")
    expect(read_out(page)).to_contain_text("inside 20.0 °C outside 15.0 °C")
    house.put_forward(9)
    house.send(OUTSIDE, 14)
    expect(page.locator(".big").nth(1)).to_contain_text("14.0")
    expect(read_out(page)).to_contain_text("outside 14.0 °C")


def test_range_switch_without_reload(house, visit):
    day_of_weather(house)
    page = visit(house.address)
    for name, days in (("7d", 7), ("30d", 30), ("1y", 365), ("24h", 1)):
        link = page.get_by_role("link", name=name)
        link.focus()
        page.keyboard.press("Enter")
        expect(page.locator("a[aria-current=true]")).to_have_text(name)
        expect(page.get_by_role("link", name=name)).to_be_focused()
        data = page.locator("figure svg").evaluate("chart => ({...chart.dataset})")
        assert int(data["end"]) - int(data["start"]) == days * 86_400_000
        assert page.url.endswith(f"range={name}")
    assert is_same_page(page)
    house.send(OUTSIDE, 26)                 # the chosen range stays
    page.get_by_role("link", name="30d").click()
    house.send(OUTSIDE, 22.5)
    expect(page.locator(".big").nth(1)).to_contain_text("72.5")
    expect(page.locator("a[aria-current=true]")).to_have_text("30d")


def test_many_readings_at_once_do_not_starve_the_page(house, visit):
    """A reading each 100 ms: the page follows while they come."""
    page = visit(house.address)
    expect(headline(page)).to_have_text(OPEN)
    seen = set()
    with contextlib.closing(house.client()) as client:
        for i in range(16):
            client.request("GET", update_path(OUTSIDE, 20 + i / 10))
            client.getresponse().read()
            page.wait_for_timeout(100)
            seen.add(page.locator(".big").nth(1).inner_text())
    assert len(seen) >= 3


def test_last_known_values_without_network(house, visit):
    """Opened anew while the server is away: the old values, marked as old."""
    page = visit(house.address, service_workers="allow",
                 allowed="Failed to load|ERR_CONNECTION|EventSource|ERR_|service")
    expect(headline(page)).to_have_text(OPEN)
    page.evaluate("navigator.serviceWorker.ready.then(() => 1)")
    house.send(OUTSIDE, 23.5)               # any later look goes through the worker
    expect(page.locator(".big").nth(1)).to_contain_text("74.3")
    page.wait_for_function("async () => { const kept = await caches.match('/');"
                           "return kept && (await kept.text()).includes('74.3'); }")
    house.stop()
    page.goto(house.address + "?range=7d")
    expect(stale(page)).to_have_text(NO_CONNECTION)
    expect(page.locator(".big").nth(1)).to_contain_text("74.3")
    expect(page.locator("time").first).to_have_text(re.compile("ago"))
    assert re.fullmatch(r"As of \d+:\d\d\s[AP]M, no connection", stale(page).inner_text())
    picture(page, "opened-offline")
    assert iotserver.WORKER


def test_a_private_page_is_kept_nowhere(database, tmp_path, start, visit):
    """What was kept before the server became private goes, too."""
    (tmp_path / "password").write_text(iotserver.hash_password("correct horse", bytes(16)))
    house = start("--private", "password")
    house.send_both(28, 24)
    page = visit(house.address, service_workers="allow",
                 http_credentials={"username": "", "password": "correct horse"})
    page.evaluate("""async () => {
        await navigator.serviceWorker.ready;
        await (await caches.open('page')).put('/', new Response('old'));
    }""")
    page.reload()                           # through the worker
    expect(headline(page)).to_have_text(OPEN)
    page.wait_for_function("async () => !await caches.match('/')")
    house.send(OUTSIDE, 23.5)
    expect(page.locator(".big").nth(1)).to_contain_text("74.3")
    assert page.evaluate("caches.match('/').then(kept => !kept)")


def test_a_late_answer_does_not_undo_offline(house, visit):
    """A look that was under way when the connection went says nothing any more."""
    page = visit(house.address, allowed="ERR_INTERNET_DISCONNECTED|ERR_FAILED|Failed to load")
    expect(headline(page)).to_have_text(OPEN)
    page.wait_for_timeout(500)              # the look that follows hello is over
    page.evaluate("""() => {
        const ask = window.fetch;
        window.fetch = async (...what) => {
            const answer = await ask(...what);
            await new Promise(resolve => { window.letGo = resolve; });
            return answer;
        };
    }""")
    house.send(OUTSIDE, 23)
    page.wait_for_function("() => window.letGo")
    page.evaluate("dispatchEvent(new Event('offline'))")
    expect(stale(page)).to_have_text(NO_CONNECTION)
    page.evaluate("letGo()")
    page.wait_for_timeout(200)
    expect(stale(page)).to_have_text(NO_CONNECTION)


# -- the page as a whole --------------------------------------------------------------------------

ROOMS = ("Nordseite", "outside"), ("Balkon", "outside"), ("Schlafzimmer oben", "inside"), (
    "Wohnzimmer", "inside"), ("Keller", "inside"), ("Küche", "inside")


def many_rooms(run, start):
    """Four rooms and two outside stations on a hot evening."""
    levels = 34.1, 34.4, 28.6, 25.7, 17.4, 27.2
    for i, (name, role) in enumerate(ROOMS):
        run("--add-station", name, "--mac", f"m{i}", "--role", role, "--key", f"key{i}")
    house = start()
    for i, level in enumerate(levels):
        station = SimpleNamespace(mac=f"m{i}", key=f"key{i}")
        house.send(station, *[level - abs(m % 48 - 24) / 8 for m in range(288)], every=300)
        house.send(station, *[50 + i] * 30, field=2, every=300)
    return house


@pytest.fixture(scope="session")
def validator():
    """html-validate's program."""
    return from_npm("html-validate", "html-validate@9") / ".bin/html-validate"


@needs("npm")
def test_html_validate_finds_nothing(run, start, validator, tmp_path):
    """Of its preset standard, on each kind of page."""
    house = start()
    pages = {"none": "/"}
    for name, path in pages.items():
        (tmp_path / f"{name}.html").write_text(house.get(path).text)
    house.stop()
    house = many_rooms(run, start)
    for name, path in {"rooms": "/", "year": "/?range=1y", "week": "/?range=7d"}.items():
        (tmp_path / f"{name}.html").write_text(house.get(path).text)
    (tmp_path / "error.html").write_text(house.get("/nothing", Accept="text/html").text)
    (tmp_path / ".htmlvalidate.json").write_text(
        '{"root": true, "extends": ["html-validate:standard"]}')
    done = subprocess.run([validator, *sorted(map(str, tmp_path.glob("*.html")))], cwd=tmp_path,
                          capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("locale", ["en-GB", "en-US"])
def test_four_rooms_and_the_beginning_of_the_chart_are_on_one_screen(run, start, visit, locale):
    house = many_rooms(run, start)
    page = visit(house.address, locale=locale)
    expect(headline(page)).to_have_text(re.compile("Schlafzimmer oben"))
    assert page.locator("figure svg").bounding_box()["y"] < 844, "not only the card"
    silent = page.locator(".silent")
    assert silent.count() == 0
    assert page.locator(".pill").all_inner_texts() == ["closed"] * 3
    colors = page.locator("h2[class^=hue]").evaluate_all(
        "all => all.map(e => getComputedStyle(e).color)")
    assert len(set(colors)) == 6
    picture(page, f"rooms-{locale}")


BROKEN = """() => {
  const broken = [], walk = document.createTreeWalker(document.querySelector('main'), 4);
  for (let node; (node = walk.nextNode());) {
    if (node.parentElement.closest('svg, code, .say, details:not([open]) > :not(summary)'))
      continue;
    for (const {0: word, index} of node.data.matchAll(/\\S+/g)) {
      const range = document.createRange();
      range.setStart(node, index);
      range.setEnd(node, index + word.length);
      const lines = new Set([...range.getClientRects()].map(box => Math.round(box.top)));
      if (lines.size > 1) broken.push(word);
    }
  }
  return broken;
}"""


@pytest.mark.parametrize(("width", "size"), [(390, "100%"), (390, "200%"), (320, "100%")])
def test_no_word_breaks_and_nothing_is_cut_off(run, start, visit, width, size):
    house = many_rooms(run, start)
    page = visit(house.address, viewport={"width": width, "height": 844})
    expect(page.locator(".pill").first).to_be_visible()
    before = page.locator(".record, .day").first.evaluate("e => getComputedStyle(e).fontSize")
    page.evaluate(f"document.documentElement.style.fontSize = '{size}'")
    after = page.locator(".record, .day").first.evaluate("e => getComputedStyle(e).fontSize")
    assert float(after[:-2]) == float(before[:-2]) * int(size[:-1]) / 100
    assert page.evaluate(BROKEN) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize(("width", "height"), [(1280, 800), (1920, 1080)])
def test_on_a_large_screen_all_is_seen_without_scrolling(house, visit, width, height):
    """A banner, below it the numbers left and the chart right."""
    day_of_weather(house)
    page = visit(house.address, viewport={"width": width, "height": height})
    boxes = {query: page.locator(query).first.bounding_box()
             for query in (".answer", ".rows", "figure", "figure svg")}
    assert boxes["figure"]["x"] > boxes[".rows"]["x"] + 390
    assert abs(boxes["figure"]["y"] - boxes[".rows"]["y"]) < 2
    assert boxes["figure svg"]["y"] + boxes["figure svg"]["height"] < height
    if height == 1080:
        assert boxes["figure"]["y"] + boxes["figure"]["height"] <= height


def test_on_paper_the_answer_is_black_and_no_control_is_printed(house, visit):
    day_of_weather(house)
    page = visit(house.address, color_scheme="dark")
    page.emulate_media(media="print")
    style = page.locator(".answer").evaluate(
        "e => [getComputedStyle(e).color, getComputedStyle(e).backgroundColor]")
    assert style == ["rgb(0, 0, 0)", "rgba(0, 0, 0, 0)"]
    for control in ("nav", "input", "output", "button"):
        expect(page.locator(control).first).to_be_hidden()


def test_a_silent_stations_number_is_dim_and_its_age_comes_first(house, visit):
    house.put_forward(120)
    page = visit(house.address)
    row = page.locator(".rows li").first
    expect(row).to_have_class("silent")
    assert re.match(r"\d h ago", row.locator("p").nth(1).inner_text())
    weight, = {row.locator("time").evaluate("e => getComputedStyle(e).fontWeight")}
    assert weight == "700"
    ink, dim = (page.locator(query).first.evaluate("e => getComputedStyle(e).color")
                for query in ("h2", ".silent .big"))
    assert ink != dim


def test_what_is_touched_is_as_high_as_a_finger_and_what_takes_focus_does_something(house, visit):
    day_of_weather(house)
    page = visit(house.address)
    page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true; })")
    heights = page.locator("nav a, summary, input, button").evaluate_all(
        "all => all.map(e => e.getBoundingClientRect().height)")
    assert len(heights) >= 7
    assert min(heights) >= 44
    stops = []
    while True:
        page.keyboard.press("Tab")
        stop = page.evaluate("document.activeElement.nodeName")
        if stop == "BODY":
            break
        stops.append(stop)
    assert stops == ["A"] * 4 + ["INPUT", "SUMMARY", "SUMMARY", "BUTTON"]


def luminance(color):
    parts = [int(part) / 255 for part in re.findall(r"\d+", color)[:3]]
    return sum(weight * (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4)
               for weight, p in zip((0.2126, 0.7152, 0.0722), parts, strict=True))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_cursor_is_seen_on_card_and_shade_with_a_dot_on_each_line(house, visit, scheme):
    day_of_weather(house)
    page = visit(house.address, color_scheme=scheme)
    expect(page.locator(".shade").first).to_be_attached()
    box = page.locator("figure svg").bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.6, box["y"] + box["height"] / 2)
    color = luminance(page.locator(".cursor").evaluate("e => getComputedStyle(e).stroke"))
    for query, style in (("figure", "backgroundColor"), (".shade", "fill")):
        ground = luminance(page.locator(query).first.evaluate(f"e => getComputedStyle(e).{style}"))
        assert (max(color, ground) + 0.05) / (min(color, ground) + 0.05) >= 3
    dots = page.locator(".dots").get_attribute("d")
    assert dots.count("M") == 2
    assert read_out(page).bounding_box()["y"] < box["y"], "not under the hand"


def test_text_of_the_axes_is_12_px_on_a_phone(house, visit):
    day_of_weather(house)
    page = visit(house.address)
    sizes = page.locator("figure svg text").evaluate_all(
        "all => all.map(e => parseFloat(getComputedStyle(e).fontSize) * e.getScreenCTM().a)")
    assert len(sizes) > 6
    assert min(sizes) >= 12


COVERED = """() => {
  const svg = document.querySelector('figure svg'), found = [];
  const words = [...svg.querySelectorAll('text')]
    .filter(t => getComputedStyle(t).display !== 'none')
    .map(t => [t.textContent, t.getBoundingClientRect()]);
  for (const path of svg.querySelectorAll('.line, .band, .present, .limit')) {
    const map = path.getScreenCTM(), length = path.getTotalLength();
    for (let i = 0; i <= 600; i++) {
      const spot = path.getPointAtLength(length * i / 600).matrixTransform(map);
      for (const [text, box] of words)
        if (spot.x > box.left && spot.x < box.right && spot.y > box.top + 2
            && spot.y < box.bottom - 2) found.push(text + ' lies on ' + path.classList);
    }
  }
  words.forEach(([one, a], i) => words.slice(i + 1).forEach(([other, b]) => {
    if (a.left < b.right && b.left < a.right && a.top + 3 < b.bottom && b.top + 3 < a.bottom)
      found.push(one + ' lies on ' + other); }));
  return [...new Set(found)];
}"""


@pytest.mark.parametrize("lines", [1, 2, 4, 8])
def test_no_word_lies_on_a_line_in_any_range(run, start, visit, lines):
    """At any width from 320 px on, with one line or eight, in the last day or the last year."""
    names = [(f"Wohnzimmer {i}", "outside" if i == 1 else "inside") for i in range(lines)]
    for i, (name, role) in enumerate(names):
        run("--add-station", name, "--mac", f"m{i}", "--role", role, "--key", f"key{i}")
    house = start()
    for i in range(lines):
        house.send(SimpleNamespace(mac=f"m{i}", key=f"key{i}"), *[
            22 + i + 6 * math.sin(m / 23 + i) for m in range(480)], every=3600)
    page = visit(house.address, locale="en-GB")
    for name in ("24h", "7d", "30d", "1y"):
        page.goto(f"{house.address}?range={name}")
        for width in (320, 360, 390, 768, 1280):
            page.set_viewport_size({"width": width, "height": 800})
            assert page.evaluate(COVERED) == [], (name, width)
            shown = page.locator("svg .end").first.is_visible() if lines <= 4 else False
            legend = page.locator(".key").first.is_visible()
            assert legend == (not shown), "either the margin or the legend names them"


def test_on_long_ranges_the_readout_says_what_a_day_was(house, visit):
    house.send(INSIDE, *[26, 27, 28] * 160, every=3600)
    house.send(OUTSIDE, *[18, 25, 34.1] * 160, every=3600)
    page = visit(house.address + "?range=30d", locale="en-GB", timezone_id="Europe/Berlin")
    slider = page.locator("input")
    slider.press("Home")
    slider.press("End")
    expect(read_out(page)).to_have_text(re.compile(
        r"^ ?\w{3} \d\d \w{3}: inside 2\d\.\d to 28\.0 °C so far "
        r"\w{3} \d\d \w{3}: outside [\d.]+ to 34\.1 °C so far$"))
    assert page.locator(".dots").get_attribute("d") == "", "an unfinished day has no mean"
    seen = []
    for _ in range(3):                          # one arrow key is one day
        slider.press("ArrowLeft")
        seen.append(read_out(page).inner_text())
        assert re.search(r"^\w{3} \d\d \w{3}: inside 26\.0 to 28\.0, mean 27\.0 °C", seen[-1])
        assert re.search(r": outside 18\.0 to 34\.1, mean 25\.7 °C$", seen[-1])
    days = [datetime.strptime(text[4:10] + " 2024", "%d %b %Y").timetuple().tm_yday
            for text in seen]
    assert {(a - b) % 366 for a, b in itertools.pairwise(days)} <= {1}
    assert page.locator(".newest").count() == 0


def test_one_arrow_key_is_one_point(house, visit):
    day_of_weather(house)
    page = visit(house.address)
    slider, spots = page.locator("input"), []
    slider.press("End")
    for _ in range(6):
        slider.press("ArrowLeft")
        spots.append(int(re.match(r"M(\d+)", page.locator(".dots").get_attribute("d"))[1]))
    steps = {a - b for a, b in itertools.pairwise(spots)}
    assert steps <= {6, 7}, "each of 230 points is six minutes and a quarter"


def test_one_reading_alone_is_seen(database, start, visit):
    house = start()
    house.send(INSIDE, 26)
    page = visit(house.address)
    dot = page.locator(".newest")
    expect(dot).to_have_count(1)
    style = dot.evaluate("""e => {
        const {strokeWidth, strokeLinecap} = getComputedStyle(e);
        return [strokeWidth, strokeLinecap]; }""")
    assert style == ["7px", "round"]
    assert int(re.match(r"m(\d+)", dot.get_attribute("d"))[1]) == pytest.approx(1440, abs=4)


def test_first_page_comes_alive_by_itself(run, start, visit):
    """Without a station; then one is added, and sends."""
    house = start()
    page = visit(house.address)
    expect(headline(page)).to_have_text("No station yet")
    run("--add-station", INSIDE.name, "--mac", INSIDE.mac, "--role", "inside", "--key", INSIDE.key)
    expect(headline(page)).to_have_text("No answer yet")
    house.send(INSIDE, 26)
    expect(page.locator(".big")).to_contain_text("78.8")
    expect(page).to_have_title("No answer yet")
    assert is_same_page(page)


def test_color_of_the_browser_is_that_of_the_answer(house, visit):
    page = visit(house.address)
    expect(headline(page)).to_have_text(OPEN)

    def check():
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
            card = page.locator(".answer").evaluate("e => getComputedStyle(e).backgroundColor")
            meta = page.locator(f"meta[media*={scheme}]").get_attribute("content")
            assert luminance(card) == luminance(str([*bytes.fromhex(meta[1:])]))
    check()
    house.send(OUTSIDE, 31, 31)
    expect(headline(page)).to_have_text(CLOSE)
    check()


def test_no_layout_shift(house, visit):
    """As it is drawn anew in the reader's zone, as readings come, and as a chart is touched."""
    day_of_weather(house)
    page = visit(house.address)
    page.evaluate("""window.shifts = [];
        new PerformanceObserver(list => shifts.push(...list.getEntries().map(e => e.value)))
            .observe({type: 'layout-shift', buffered: true});""")
    house.send(OUTSIDE, 21.5)
    expect(page.locator(".big").nth(1)).to_contain_text("70.7")
    box = page.locator("figure svg").bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.6, box["y"] + box["height"] / 2)
    expect(read_out(page)).not_to_be_empty()
    assert sum(page.evaluate("shifts")) < 0.01


def test_what_a_screen_reader_meets(house, visit):
    """First the answer, then until when, the numbers, the chart with its readout, the stations."""
    day_of_weather(house)
    page = visit(house.address)
    tree = page.locator("main").aria_snapshot()
    order = ['heading "Open the windows" [level=1]', "cooler outside",
             'heading "inside" [level=2]', "humidity", 'heading "outside" [level=2]',
             'navigation "Range of the chart"', "img", 'slider "Time on the chart"',
             "2 stations, all heard within"]
    places = [tree.index(words) for words in order]
    assert places == sorted(places)
