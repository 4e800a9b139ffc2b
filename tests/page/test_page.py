"""The page and its events, without a browser: what the bytes say with JavaScript off."""
import base64
import contextlib
import gzip
import hashlib
import json
import math
import pathlib
import re
import select
import socket
import statistics
import struct
import time
import xml.etree.ElementTree as ET
import zlib
from datetime import datetime
from zoneinfo import ZoneInfo

import pytest
from harness import (
    CLOCK,
    INSIDE,
    NOON,
    OUTSIDE,
    SCRIPT,
    bulk,
    finish,
    memory,
    read_until,
    receive,
    request,
)
from house import HALF_HOUR, Page, corners_of
from tools import skip

import iotserver as iot
from iotserver import DAY, MINUTE

HOSTILE = ["<script>alert(1)</script>", "\"'><img src=x onerror=alert(1)>", "a & b &lt; c",
           "' onclick='alert(1)", "$name ${body} $$", "</svg></main>", "&quot;", "ü 🌡️ \u202e"]


# -- what it says ---------------------------------------------------------------------------------

def test_complete_without_javascript(home):
    for field, value in ((2, 55.5), (3, 1013.2)):
        home.store("outside", HALF_HOUR, value, field)
    page = home.page()
    assert page.one("h1") == "Open the windows"
    assert page.one("p", class_="reason") == "It is 4 °C cooler outside."
    assert [text for _, text in page.all("p", class_="big")] == ["28.0 °C", "24.0 °C"]
    assert [text for _, text in page.all("li")][1] == (
        "outside humidity 56% 24.0 °C steady · 0 s ago "
        "Today: low 24.0 at 11:30, high 24.0 at 11:30")
    assert re.findall(r"(steady|rising|falling) · (\d+ \w+) ago", page.text) == [
        ("steady", "0 s")] * 2
    assert [a["href"] for a, _ in page.all("a")][:4] == [
        f"/?range={name}" for name in ("24h", "7d", "30d", "1y")]
    assert [text for a, text in page.all("a") if a.get("aria-current") == "true"] == ["24h"]
    charts = page.all("svg", role="img")
    assert len(charts) == 2
    for chart, words in zip(charts, ("inside: from 28.0 to 28.0 °C, last 28.0 °C, outside: from "
                                     "24.0", "Last 24 hours: 1013.2 to 1013.2 hPa"), strict=True):
        assert words in chart[0]["aria-label"]
    assert "pressure 1013 hPa" in page.text
    drawn = page.paths()
    assert {"inside", "outside"} <= drawn.keys()
    assert all(len(corners_of(d)[0]) > 20 for d in drawn.values())
    assert len(page.all("rect", class_="shade")) == 1
    rows = [text for _, text in page.all("li") if " ok " in text]
    assert rows == ["inside ok 0 s ago · every 1 min", "outside ok 0 s ago · every 1 min"]
    assert "History since Mon 30 Jul 2018 inside" in page.text, "without an operator's words"
    assert page.one("title") == "Open the windows"


@pytest.mark.parametrize(("change", "word"), [(0.04, "rising"), (-0.04, "falling"), (0, "steady")])
def test_trend(house, change, word):
    house = house(("inside", "inside"))
    house.store("inside", HALF_HOUR, [28 + change * i for i in range(31)])
    assert f"{word} · 0 s ago" in house.page().text


def test_ranges(home):
    home.store("inside", range(-60 * 24 * 20, -60, 60), 21)
    starts = {}
    for name, length in {"24h": DAY, "7d": 7 * DAY, "30d": 30 * DAY, "1y": 365 * DAY}.items():
        page = home.page(f"/?range={name}")
        chart = page.all("svg", role="img")[0][0]
        starts[name] = int(chart["data-end"]) - int(chart["data-start"])
        assert starts[name] == length
        assert [text for a, text in page.all("a") if a.get("aria-current") == "true"] == [name]
    for bad in ("/?range=2d", "/?range=", "/?range=24h&range=7d"):
        assert home.get(bad).status == 400
    assert home.get("/?fbclid=1").status == 200, "what others append to a link does no harm"


def test_gap_is_a_gap_and_thinned_lines_have_a_band(house):
    house = house(("inside", "inside"), ("outside", "outside"))
    minutes = [m for m in range(-1440, 1) if not -800 < m < -600]
    house.store("inside", minutes, [25 + m % 7 for m in minutes])
    house.store("outside", [-20, -10, 0], 20)
    paths, bands = house.page().paths(), house.page().paths("band")
    assert paths["inside"].count("m") == 2
    assert paths["outside"].count("m") == 1
    assert bands["inside"].count("m") == 2
    assert bands.keys() == {"inside"}


def test_several_inside_stations_get_their_answers(house):
    house = house(("attic", "inside"), ("outside", "outside"), ("cellar", "inside"),
                  ("fridge", None))
    for name, value in {"attic": 31, "outside": 26, "cellar": 19, "fridge": 5}.items():
        house.store(name, HALF_HOUR, value)
    page = house.page()
    card = page.one("section", class_="answer")
    assert card == "attic Open the windows 31.0° inside, 26.0° outside. It is 5 °C cooler outside."
    numbers = page.one("section", class_="rows")
    assert re.search("^attic 31.0 °C .* outside 26.0 °C .* cellar closed 19.0 °C", numbers)
    assert "fridge temperature 5.0 °C" in page.text, "what takes part in nothing comes last"
    assert "open comfortable" in page.source


@pytest.mark.parametrize(("stations", "sends", "verdict", "helps"), [
    ([], {}, "No station yet", "--add-station inside --role inside"),
    ([("inside", "inside"), ("outside", "outside")], {},
     'No answer: “outside” has sent no temperature yet.', "never"),
    ([("inside", "inside"), ("outside", "outside")], {"inside": 25},
     'No answer: “outside” has sent no temperature yet.', "25.0 °C"),
    ([("inside", "inside"), ("outside", "outside")], {"outside": 25},
     'No answer: “inside” has sent no temperature yet.', "25.0 °C"),
    ([("inside", "inside")], {"inside": 25}, "No answer yet", "role outside"),
    ([("outside", "outside")], {"outside": 25}, "No answer yet", "role inside"),
    ([("garden", None)], {"garden": 25}, "No answer yet", "garden temperature 25.0 °C"),
    ([("a", "outside"), ("b", "outside")], {"a": 25, "b": 24}, "No answer yet", "role inside"),
])
def test_each_state_has_its_own_help(house, stations, sends, verdict, helps):
    house = house(*stations)
    for name, value in sends.items():
        house.store(name, HALF_HOUR, value)
    page = house.page()
    assert page.verdict.startswith(verdict)
    assert helps in page.text
    for attributes, _ in page.all("svg", role="img"):
        assert attributes["aria-label"], "a picture without words"


def test_silence_and_its_end(home):
    home.time += 14 * 60
    assert home.page().verdict == 'No answer: “outside” has been silent for 14 min.'
    home.store("outside", [0], 24)
    assert home.page().verdict == 'No answer: “inside” has been silent for 14 min.'
    assert [text.split()[1] for _, text in home.page().all("li")][-2:] == ["silent", "ok"]
    home.store("inside", [0], 28)
    assert home.page().verdict.startswith("Open the windows:")


def test_no_old_verdict_within_the_minute(home):
    """A page kept in memory ends with its verdict, even where nobody listens."""
    home.time += 9 * 60 + 59
    assert home.page().verdict.startswith("Open the windows:")
    home.time += 2
    assert home.page().verdict.startswith("No answer:")
    home.time = NOON / 1000 + 60
    home.store("inside", [0.5], 28)         # half a minute ahead of our clock
    home.store("outside", [0.5], 24)
    home.time += 10 * 60 + 10
    assert home.page().verdict.startswith("Open the windows:")
    home.time += 40
    assert home.page().verdict.startswith("No answer:")


def test_two_outside_stations_do_not_take_turns(house):
    """One on the sunny side, one in the shade, each sends every minute: one verdict."""
    house = house(("inside", "inside"), ("shade", "outside"), ("sun", "outside"))
    house.store("inside", range(-60, 10), 28)
    house.store("shade", range(-60, 10), 24)
    house.store("sun", [m + 0.5 for m in range(-60, 10)], 33)
    verdicts = set()
    for _ in range(6):
        house.time += 30
        verdicts.add(house.page().verdict)
        house.server.board.expires = 0
    assert len(verdicts) == 1


@pytest.mark.parametrize(("flag", "language", "unit"), [
    ("auto", "en-US,en;q=0.9", "F"), ("auto", "nl-NL,nl;q=0.9", "C"), ("auto", "", "C"),
    ("C", "en-US", "C"), ("F", "nl-NL", "F")])
def test_units_by_flag_and_language(house, flag, language, unit):
    house = house(("inside", "inside"), ("outside", "outside"), units=flag)
    house.store("inside", HALF_HOUR, 28)
    house.store("outside", HALF_HOUR, 24)
    page = house.page(Accept_Language=language)
    assert page.verdict == {"C": "Open the windows: it is 4 °C cooler outside.",
                            "F": "Open the windows: it is 7.2 °F cooler outside."}[unit]
    assert [text for _, text in page.all("p", class_="big")] == {
        "C": ["28.0 °C", "24.0 °C"], "F": ["82.4 °F", "75.2 °F"]}[unit]
    assert {"C": "°F", "F": "°C"}[unit] not in page.text
    assert page.all("svg", role="img")[0][0]["data-unit"] == f"°{unit}"
    response = house.get("/")
    assert {"accept-language", "cookie"} <= set(response.headers["vary"].lower().split(", "))


@pytest.mark.parametrize(("cookie", "times"), [
    ("", "Mon 30 Jul, 11:30"), ("tz=Europe/Berlin", "Mon 30 Jul, 13:30"),
    ("a=b; tz=America/Los_Angeles", "Mon 30 Jul, 04:30"), ("tz=Asia/Kathmandu", ", 17:15"),
    ("tz=Nowhere/Else", ", 11:30"), ("tz=Europe", ", 11:30"), ("tz=../../etc/passwd", ", 11:30"),
    ('tz="><script>', ", 11:30")])
def test_times_in_the_zone_of_the_cookie(home, cookie, times):
    page = home.page(Cookie=cookie)
    assert times in page.all("details")[0][1]
    assert page.all("script")[0][0] == {}


# -- safety ---------------------------------------------------------------------------------------

def check_policy(response):
    """Nothing runs but what the policy's hashes name, and nothing is loaded from elsewhere."""
    policy = dict(part.strip().split(" ", 1)
                  for part in response.headers["content-security-policy"].split(";"))
    page = Page(response.text)
    assert "unsafe" not in str(policy)
    assert policy["default-src"] == "'none'"
    for tag in ("style", "script"):
        for text in re.findall(f"<{tag}>(.*?)</{tag}>", response.text, re.DOTALL):
            digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
            assert f"'sha256-{digest}'" in policy[f"{tag}-src"]
    assert policy.keys() >= {"base-uri", "form-action", "frame-ancestors"}
    for tag, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on") or name == "style"], tag
        for name in ("href", "src", "action", "srcset", "data"):
            assert re.match(r"/(?!/)|$", attributes.get(name, "")), attributes
    assert "//" not in re.sub(r"<script>.*?</script>", "", response.text, flags=re.DOTALL)
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["referrer-policy"] in {"no-referrer", "same-origin"}
    return page


def test_policy_of_every_page(home, house, server):
    check_policy(home.get("/"))
    check_policy(house(file="empty.db").get("/"))
    path = f"/update/API_key={INSIDE.key}/mac={INSIDE.mac}/field=1/data=20"
    check_policy(server.get(path, Accept="text/html"))
    for refused in (home.get("/nothing", Accept="text/html"),
                    home.get("/update/data=x", Accept="text/html")):
        assert refused.status in {400, 404}
        check_policy(refused)


def test_only_its_own_addresses_in_all_that_it_loads():
    loaded = iot.STYLE + iot.SCRIPT + iot.WORKER + iot.ICON + iot.MANIFEST
    assert set(re.findall(r"\w*:?//[^\s'\"]+", loaded)) <= {"http://www.w3.org/2000/svg"}
    assert "@import" not in loaded
    assert "url(" not in loaded


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_and_labels_are_only_text(house, name):
    house = house((name, "inside"), (f"{name}2", "outside"), (f"{name}3", None))
    for i, station in enumerate((name, f"{name}2", f"{name}3")):
        house.store(station, HALF_HOUR, 28 - i)
        house.store(station, HALF_HOUR, 50 + i, field=2)
        house.writer.label(station, 2, name)
    calm = house_tags(house.page(), name)
    assert calm <= {"html", "head", "meta", "title", "link", "style", "body", "main", "section",
                    "h1", "h2", "b", "p", "small", "div", "time", "figure", "nav", "a", "svg",
                    "rect", "path", "text", "g", "input", "output", "figcaption", "span", "ul",
                    "li", "button", "details", "summary", "table", "thead", "tbody", "tr", "th",
                    "td", "script"}
    page = check_policy(house.get("/"))
    assert [text for _, text in page.all("h2")][:2] == [name, f"{name}2"]
    assert {name, f"{name}2"} <= page.paths().keys()
    assert name in page.all("svg", role="img")[0][0]["aria-label"]
    assert [text for _, text in page.all("span", class_="second") if text == name.strip()]
    assert len(page.all("script")) == len(page.all("main")) == len(page.all("style")) == 1
    house.time += 14 * 60
    assert f'“{name}2” has been silent' in house.page().verdict
    assert house.get("/api/stations").json[0]["name"] == name


def house_tags(page, name):
    assert name in page.text
    return {tag for tag, _ in page.tags}


@pytest.mark.slow
def test_size_with_much_of_everything(house):
    """Eight stations with nine fields each and a noisy year, in every range."""
    roles = ["inside"] * 3 + ["outside"] * 2 + [None] * 3
    stations = [(f"{'&' * 12} station number {i}", role) for i, role in enumerate(roles)]
    house = house(*stations, units="F")
    minutes = [*range(-365 * 1440, -1500, 180), *range(-1500, 1, 4)]
    for i, (name, role) in enumerate(stations):
        for field in range(1, 10 if role is None else 4):
            house.store(name, minutes, [round(20 + i + field + 15 * math.sin(m * 0.7 + i), 2)
                                        for m in minutes], field)
    more = sum(len(house.get(path).body)
               for path in ("/icon.svg", "/manifest.webmanifest", "/worker.js"))
    sizes = {name: len(house.get(f"/?range={name}").body) + more for name in iot.RANGES}
    assert sizes.pop("1y") <= 90_000, "five lines of 365 days, each with three values"
    assert max(sizes.values()) <= 60_000, sizes
    assert len(house.get("/?range=1y", Accept_Encoding="gzip").body) <= 30_000


def test_etag(home):
    first = home.get("/")
    tag = first.headers["etag"]
    for given in (tag, f'W/{tag}', f'"x", {tag}'):
        again = home.get("/", If_None_Match=given)
        assert (again.status, again.body, again.headers["etag"]) == (304, b"", tag)
        assert "content-security-policy" in again.headers
    assert home.get("/", If_None_Match='"other"').status == 200
    others = [home.get("/", Accept_Language="en-US"), home.get("/?range=7d")]
    assert len({tag, *(other.headers["etag"] for other in others)}) == 3
    home.time += 20                         # of the same minute
    assert home.get("/", If_None_Match=tag).status == 304
    home.store("inside", [0], 29)
    assert home.get("/", If_None_Match=tag).status == 200


def test_reading_over_http_changes_the_page(server):
    for inside in (25, 26):
        server.update(INSIDE, inside)
        server.update(OUTSIDE, 20)
        assert f"{inside}.0 °C" in Page(server.get("/").text).text


def test_manifest_icon_and_worker(home):
    page = home.page()
    links = {a["rel"]: a["href"] for a, _ in page.all("link")}
    manifest = home.get(links["manifest"])
    assert manifest.headers["content-type"] == "application/manifest+json"
    assert manifest.json["start_url"] == "/"
    assert manifest.json["display"] == "standalone"
    assert re.fullmatch("#[0-9a-f]{6}", manifest.json["theme_color"])
    for address, kind in [(links["icon"], "image/svg+xml"), ("/worker.js", "text/javascript"),
                          *((icon["src"], icon["type"]) for icon in manifest.json["icons"])]:
        response = home.get(address)
        assert response.status == 200
        assert response.headers["content-type"].split(";")[0] == kind
        assert response.headers["x-content-type-options"] == "nosniff"
    assert ET.fromstring(home.get(links["icon"]).text).tag == "{http://www.w3.org/2000/svg}svg"
    assert [a["content"] for a, _ in page.all("meta") if a.get("name") == "theme-color"]


def test_the_same_verdict_after_a_restart(house):
    before = house(("inside", "inside"), ("outside", "outside"))
    before.store("inside", range(-60, 1), 28)
    before.store("outside", range(-60, 1), [24] * 40 + [29.5] * 21)

    def verdicts(house):
        return [place.verdict for place in finish(house.server.board.look())]
    seen = verdicts(before)
    before.close()
    assert verdicts(house()) == seen
    assert [verdict and (verdict.state, verdict.since) for verdict in seen] == [
        ("close", NOON - 19 * MINUTE), None]


def test_page_cost_does_not_grow_with_the_readings(house):
    """A minute's readings for 30 days are looked at no more than an hour's would be."""
    times = {}
    for every in (60, 4):
        one = house(("inside", "inside"), ("outside", "outside"), file=f"{every}.db")
        for name in ("inside", "outside"):
            one.store(name, range(-30 * 1440, 1, every), 25)
        steps = []
        one.get("/")            # the first look replays ten days
        one.reader.db.set_progress_handler(lambda steps=steps: steps.append(1) and None, 1000)
        one.get("/?range=1y")
        one.reader.db.set_progress_handler(None, 0)
        times[every] = len(steps)
    assert times[4] < 4 * times[60] + 100, times


# -- events ---------------------------------------------------------------------------------------

class Listener:
    """A connection on which events come."""

    def __init__(self, live, **headers):
        with contextlib.ExitStack() as stack:
            self.channel, self.data = stack.enter_context(live.connect()), b""
            self.channel.sendall(request("GET", "/events", **headers))
            self.head = self.take(rb".*?\r\n\r\n")[0]
            self.hello = int(self.next("hello"))
            stack.pop_all()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.channel.close()

    def take(self, pattern):
        """What matches, and is then gone with all before it."""
        while not (found := re.search(pattern, self.data, re.DOTALL)):
            piece = self.channel.recv(65536)
            assert piece, f"closed before {pattern}: {self.data!r}"
            self.data += piece
        self.data = self.data[found.end():]
        return found

    def next(self, kind):
        """The data of the next event of this kind; others before it are passed over."""
        return json.loads(self.take(rb"(?:^|\n)event: %b\ndata: ([^\n]*)\n\n"
                                    % kind.encode())[1])

    def until(self, value):
        """The values of the readings up to this one."""
        seen = []
        while value not in seen:
            seen.append(self.next("reading")["value"])
        return seen


def test_events_greet_and_tell_each_reading(live):
    with Listener(live) as listener:
        assert b" 200 " in listener.head.splitlines()[0]
        assert b"Content-Type: text/event-stream" in listener.head
        assert b"X-Accel-Buffering: no" in listener.head
        assert abs(listener.hello / 1000 - time.time()) < 5
        entry = live.update(INSIDE, 21.5)
        event = listener.next("reading")
        assert abs(event.pop("time") / 1000 - time.time()) < 5
        assert event == {"station": 1, "field": 1, "value": 21.5, "entry": entry}
        live.update(OUTSIDE, 18, more="/age=3")
        assert listener.next("reading")["station"] == 2


def test_a_large_bulk_is_one_reset_and_a_small_one_its_readings(live):
    with Listener(live) as listener:
        for count in (iot.MAX_TOLD, iot.MAX_TOLD + 1):
            live.ask("POST", "/update", bulk(INSIDE, *((1, i) for i in range(count))))
        assert [listener.next("reading")["value"] for _ in range(iot.MAX_TOLD)] == [
            *range(iot.MAX_TOLD)]
        assert listener.next("reset") == {}
        live.update(INSIDE, 21)
        assert listener.next("reading")["value"] == 21


def test_verdict_event_when_it_changes_and_only_then(live):
    for station, value in ((INSIDE, 28), (OUTSIDE, 30)):
        response = live.ask("POST", "/update", bulk(station, *(
            {"field": 1, "data": value, "age": 60 * i} for i in range(40, -1, -1))))
        assert response.json["stored"] == 41
    with Listener(live) as listener:
        live.update(OUTSIDE, 31)
        live.ask("POST", "/update", bulk(OUTSIDE, *(
            {"field": 1, "data": 24, "age": age} for age in (60, 0))))     # two that agree
        while "open" not in {v["state"] for v in listener.next("verdict")}:
            pass
        for value in (31, 25):
            live.update(OUTSIDE, value)
        listener.channel.settimeout(1.6)
        with pytest.raises(TimeoutError):
            listener.next("verdict")


def test_comment_when_nothing_happens(database, serve):
    """Twenty times as fast: 15 s are over in one."""
    live = serve("--rate-limit", "0", command=(CLOCK, SCRIPT), env={"CLOCK_SPEED": "20"})
    with Listener(live) as listener:
        started = time.monotonic()
        for _ in range(2):
            listener.take(rb"(^|\n):[^\n]*\n\n")
        assert 0.6 < time.monotonic() - started < 15


@pytest.mark.parametrize("number", ["1", "x", "0.1", "." * 2000])
def test_who_comes_back_is_told_to_ask_for_everything_again(live, number):
    """Nothing is replayed, however much was missed."""
    with Listener(live) as listener:
        live.update(INSIDE, 10)
        listener.until(10)
    live.update(INSIDE, 11)
    with Listener(live, Last_Event_ID=number) as listener:
        listener.next("reset")
        live.update(INSIDE, 12)
        assert listener.until(12) == [12]


def test_a_head_of_the_events_renders_nothing(server):
    server.exchange(request("GET", "/events"))
    for n in range(100):
        server.update(INSIDE, n)
    raw = server.exchange(request("HEAD", "/events", Last_Event_ID="1"))
    assert raw.startswith(b"HTTP/1.1 200 ")
    assert raw.endswith(b"\r\n\r\n")
    assert b"event:" not in raw
    assert server.ask("HEAD", "/events").status == 200, "and the connection goes on"


def listen(server, address):
    """Listen from an address through the proxy; the connection and the status."""
    server.peer = ""
    connection = server.connect()
    connection.data_received(request("GET", "/events", X_Real_IP=address))
    return connection, connection.transport.sent.split()[1]


def test_four_networks_do_not_take_all_listeners(server):
    taken = {network: [listen(server, f"2001:db8:0:{network}::{n:x}")
                       for n in range(iot.MAX_NETWORK_LISTENERS)] for network in range(4)}
    assert {status for own in taken.values() for _, status in own} == {b"200"}
    assert len(server.server.connections.listeners) == iot.MAX_LISTENERS
    assert server.exchange(request("HEAD", "/events", X_Real_IP="2001:db8:0:9::1")
                           ).startswith(b"HTTP/1.1 200 ")
    lost = [c for own in taken.values() for c, _ in own if c.transport.is_closing()]
    assert not lost, "HEAD disconnects no listener"
    assert listen(server, "2001:db8:0:9::1")[1] == b"200"
    lost = [c for own in taken.values() for c, _ in own if c.transport.is_closing()]
    assert len(lost) == 1, "one of the networks that have most has lost one"
    assert listen(server, "2001:db8:0:1::ffff")[1] == b"503", "and gets none in return"


def test_one_network_does_not_take_all_listeners(server):
    taken = [listen(server, f"2001:db8::{n:x}") for n in range(iot.MAX_NETWORK_LISTENERS)]
    assert {status for _, status in taken} == {b"200"}
    assert listen(server, "2001:db8::ffff")[1] == b"503"
    assert listen(server, "2001:db8:0:1::1")[1] == b"200"
    taken[0][0].connection_lost(None)
    assert listen(server, "2001:db8::ffff")[1] == b"200"


def test_events_of_a_server_that_stops_end(live):
    with Listener(live) as listener:
        assert live.stop() == 0
        receive(listener.channel)


@pytest.mark.quiet
def test_a_thousand_listeners(live, many_files):
    if many_files < 2500:
        skip(f"only {many_files} files may be open here")
    live.update(INSIDE, 20)
    with Listener(live):
        before = memory(live)
    with contextlib.ExitStack() as stack:
        channels = {}
        for n in range(1000):
            channel = stack.enter_context(socket.create_connection(
                ("127.0.0.1", live.port), 10, (f"127.0.0.{n % 8 + 1}", 0)))
            channel.sendall(request("GET", "/events"))
            channels[channel.fileno()] = channel
        for channel in channels.values():
            read_until(channel, b"event: hello\n")
            channel.setblocking(False)
        wait = select.epoll()
        stack.callback(wait.close)
        for number in channels:
            wait.register(number, select.EPOLLIN)
        for value in (123.5, 124.5):        # the second when all have said hello for sure
            missing = dict.fromkeys(channels, b"")
            started = time.monotonic()
            live.update(INSIDE, value)
            while missing and time.monotonic() - started < 5:
                for number, _ in wait.poll(1):
                    if number in missing:
                        missing[number] += channels[number].recv(65536)
                        if str(value).encode() in missing[number]:
                            del missing[number]
            seconds = time.monotonic() - started
            assert not missing
        assert seconds < 0.5
        assert memory(live) - before <= 40_000_000


@pytest.mark.slow
def test_a_deaf_listener_is_dropped(live):
    """It never reads: after what fits in the kernel and the limit it is cut off, others go on."""
    deaf = socket.socket()
    deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    deaf.connect(("127.0.0.1", live.port))
    deaf.sendall(request("GET", "/events"))
    before = memory(live)
    many = bulk(INSIDE, *((1, i) for i in range(iot.MAX_TOLD)))
    with deaf, contextlib.closing(live.client()) as client:
        for _ in range(600):
            client.request("POST", "/update", many, {"Content-Type": "application/json"})
            assert client.getresponse().read().startswith(b'{"stored":100')
        assert memory(live) - before < 20_000_000
        deaf.settimeout(30)
        size = 0
        with contextlib.suppress(ConnectionResetError):
            while piece := deaf.recv(1 << 20):
                size += len(piece)
        assert size < 600 * 100 * 100
    with Listener(live) as listener:
        live.update(INSIDE, 77)
        assert listener.until(77)


# -- the page as a whole --------------------------------------------------------------------------

def test_a_template_escapes_whatever_is_not_markup():
    greet = iot.Template("<b>$name</b>$more")
    made = greet(name="<i>", more=[greet(name=1, more=""), "&"])
    assert made == "<b>&lt;i&gt;</b><b>1</b>&amp;"
    assert isinstance(made, iot.Markup)
    assert greet.substitute({"name": '"'}, more="") == greet.safe_substitute(
        name='"', more="") == "<b>&quot;</b>"
    assert not isinstance(made + "x", iot.Markup), "what is added to it is text again"


def test_all_markup_is_made_by_templates():
    """Nothing else is called markup but a sheet of style and a script."""
    source = pathlib.Path(iot.__file__).read_text(encoding="utf-8")
    assert set(re.findall(r"Markup\((\w+)\)", source)) == {
        "str", "style", "SCRIPT", "WALL_SCRIPT"}
    assert "string.Template(" not in source


@pytest.mark.parametrize(("cookie", "language", "seen", "axis"), [
    ("tz=Europe/Berlin; clock=12", "nl-NL", "Today: low 28.0 at 1:30 PM", "6 PM"),
    ("tz=Europe/Berlin; clock=24", "en-US", "Today: low 82.4 at 13:30", "18:00"),
    ("tz=Europe/Berlin", "en-US", "Today: low 82.4 at 1:30 PM", "6 PM"),
    ("tz=Europe/Berlin", "en-GB", "Today: low 28.0 at 13:30", "18:00"),
    ("clock=13; tz=Europe/Berlin", "", "Today: low 28.0 at 13:30", "18:00")])
def test_times_are_in_the_readers_format_without_javascript(home, cookie, language, seen, axis):
    """As the script has told in a cookie; on the first visit as the reader's region has it."""
    page = home.page(Cookie=cookie, Accept_Language=language)
    assert seen in page.text
    assert axis in [text for _, text in page.all("text")]
    is_half_day = "PM" in seen
    assert bool(re.search(r"\d:\d\d [AP]M", page.text)) == is_half_day
    titles = [a["title"] for a, _ in page.all("time")]
    assert len(titles) == 4
    assert all(("\N{NO-BREAK SPACE}PM " in title) == is_half_day for title in titles)


def test_pages_and_json_are_compressed_for_who_accepts_it(home):
    for minute in range(-1400, -40, 8):
        home.store("outside", [minute], 24 + minute % 7, field=2)
    plain, packed = home.get("/"), home.get("/", Accept_Encoding="deflate, gzip;q=1.0")
    assert gzip.decompress(packed.body) == plain.body
    assert packed.headers["content-encoding"] == "gzip"
    assert "content-encoding" not in plain.headers
    assert "accept-encoding" in plain.headers["vary"].lower() == packed.headers["vary"].lower()
    tag = packed.headers["etag"]
    assert tag != plain.headers["etag"], "other bytes, another tag"
    again = home.get("/", Accept_Encoding="gzip", If_None_Match=tag)
    assert (again.status, again.body) == (304, b"")
    assert home.get("/", Accept_Encoding="gzip", If_None_Match=plain.headers["etag"]).status == 200
    for given in ("gzip;q=0", "br", "gzip; q=0.0, br"):
        assert "content-encoding" not in home.get("/", Accept_Encoding=given).headers
    path = "/api/readings?station=outside&field=2"
    plain, packed = home.get(path), home.get(path, Accept_Encoding="gzip")
    assert len(packed.body) < len(plain.body) / 2
    assert json.loads(gzip.decompress(packed.body)) == plain.json
    assert plain.headers["vary"] == packed.headers["vary"] == "Accept-Encoding"
    assert "content-encoding" not in home.get("/api/verdict", Accept_Encoding="gzip").headers


def test_a_page_is_compressed_once(home, monkeypatch):
    packed = []
    monkeypatch.setattr(iot.gzip, "compress", lambda body, *_, **__: packed.append(body) or b"x")
    for _ in range(3):
        assert home.get("/", Accept_Encoding="gzip").body == b"x"
    assert len(packed) == 1


def test_a_page_of_two_stations_is_20_kb_on_the_wire(house):
    """A noisy day of five fields, and the night to come."""
    house = house(("inside", "inside"), ("outside", "outside"))
    minutes = range(-1440, 1, 4)
    for name in ("inside", "outside"):
        for field in range(1, 6):
            house.store(name, minutes, [round(24 + field + 6 * math.sin(m * 0.7), 2)
                                        for m in minutes], field)
    sizes = {name: len(house.get(f"/?range={name}", Accept_Encoding="gzip").body)
             for name in iot.RANGES}
    assert max(sizes.values()) <= 20_000, sizes


def test_style_and_script_stay_small():
    assert len((iot.STYLE + iot.SCRIPT).splitlines()) <= 330
    sizes = re.findall(r"font-size: ([^;}]+)", iot.STYLE)
    assert [size for size in sizes if not re.search(r"rem|em|var\(--", size)] == []


def pixels(image):
    """The rows of a PNG of ours, as colors."""
    assert image[:8] == b"\x89PNG\r\n\x1a\n"
    chunks, at = {}, 8
    while at < len(image):
        length, kind = struct.unpack_from(">I4s", image, at)
        chunks[kind] = image[at + 8:at + 8 + length]
        assert struct.unpack_from(">I", image, at + 8 + length)[0] == zlib.crc32(
            image[at + 4:at + 8 + length])
        at += 12 + length
    assert [*chunks] == [b"IHDR", b"PLTE", b"IDAT", b"IEND"]
    width, height = struct.unpack_from(">II", chunks[b"IHDR"])
    rows = zlib.decompress(chunks[b"IDAT"])
    assert len(rows) == height * (width + 1)
    palette = [chunks[b"PLTE"][i:i + 3].hex() for i in range(0, 768, 3)]
    return [[palette[pixel] for pixel in rows[y * (width + 1) + 1:(y + 1) * (width + 1)]]
            for y in range(height)]


def test_icons_show_a_window_with_the_sun_in_it(home):
    for path, size in iot.ICON_SIZES.items():
        response = home.get(path)
        assert response.status == 200
        image = response.body
        if path.endswith(".ico"):
            assert response.headers["content-type"] == "image/x-icon"
            assert struct.unpack_from("<HHH", image) == (0, 1, 1)
            length, offset = struct.unpack_from("<II", image, 14)
            image = image[offset:]
            assert len(image) == length
        else:
            assert response.headers["content-type"] == "image/png"
        rows = pixels(image)
        assert len(rows) == len(rows[0]) == size
        at = {name: rows[int(y * size / 64)][int(x * size / 64)] for name, x, y in (
            ("corner", 1, 1), ("sun", 32, 31), ("frame", 32, 16.5), ("pane", 28, 22))}
        assert at == {"corner": "0b5d8f", "sun": "ffb27d", "frame": "ffffff", "pane": "0b5d8f"}
        assert at["corner"] in iot.ICON
    page = home.page()
    links = {a["rel"]: a["href"] for a, _ in page.all("link")}
    assert links["apple-touch-icon"] == "/apple-touch-icon.png"
    manifest = home.get(links["manifest"]).json
    assert manifest["name"] == manifest["short_name"] == "Open windows?"
    assert {icon["sizes"] for icon in manifest["icons"]} == {"any", "192x192", "512x512"}
    assert [icon["sizes"] for icon in manifest["icons"]
            if "maskable" in icon.get("purpose", "")] == ["512x512"]


def test_what_may_be_cut_off_an_icon_is_background():
    """A phone keeps at least the circle of 80 % of its width."""
    assert all(math.hypot(x - 32, y - 32) <= 0.4 * 64 for _, shape in iot.SHAPES for x, y in shape)


@pytest.mark.parametrize(("path", "status", "step"), [
    ("/nothing", 404, "typing error"), ("/update/data=x", 400, "--add-station"),
    (f"/update/API_key=wrong/mac={INSIDE.mac}/field=1/data=20", 403, "--new-key"),
    ("/?range=2d", 400, "Compare the address")])
def test_an_error_says_what_to_do_next_and_leads_to_the_page(server, path, status, step):
    response = server.get(path, Accept="text/html")
    assert response.status == status
    page = check_policy(response)
    assert step in page.text
    (link, text), = page.all("a")
    assert (link["href"], text) == ("/", "Open the page")


# -- every field ----------------------------------------------------------------------------------

def console(house, **more):
    """A bought station with the twelve fields that it has, and a room more."""
    house = house(("garden outside", "outside"), ("garden inside", "inside"), ("garden ch1", None),
                  **more)
    values = {"garden outside": (30.9, 54, 1012.5, 3.2, 5.1, 225, 1.4, 612.3, 5),
              "garden inside": (25.6, 48, 1001.7), "garden ch1": (21.5, 60)}
    for name, numbers in values.items():
        for field, value in enumerate(numbers, 1):
            house.store(name, HALF_HOUR, value, field)
            house.writer.label(name, field, iot.CONSOLE_LABELS[field - 1])
    house.server.board.expires = 0
    return house


def test_each_field_of_a_console_is_on_the_page_with_its_unit(house):
    page = console(house).page()
    rows = [text for _, text in page.all("li")]
    assert rows[0].startswith("garden inside humidity 48% 25.6 °C")
    assert rows[1].startswith("garden outside humidity 54% 30.9 °C")
    tiles = [text for a, text in page.all("ul", class_="tiles")]
    assert tiles == [
        "pressure 1012 hPa wind 3.2 m/s gusts 5.1 m/s wind from SW 225° rain 1.4 mm/h "
        "sun 612 W/m² UV index 5", "pressure 1002 hPa", "temperature 21.5 °C humidity 60%"]
    kinds = [a["class"] for a, _ in page.all("path") if a.get("class") in {
        "line", "bars", "spots"}][len(page.paths()):]
    assert kinds == ["line"] * 3 + ["spots", "bars"] + ["line"] * 5
    american = console(house, units="F", file="us.db").page()
    assert "temperature 70.7 °F" in american.text
    assert "°C" not in american.text
    assert "pressure 29.90 inHg wind 7.2 mph gusts 11.4 mph" in american.text
    assert "rain 0.06 in/h" in american.text


@pytest.mark.parametrize(("degrees", "word"), [
    (0, "N 0°"), (11, "N 11°"), (12, "NNE 12°"), (90, "E 90°"), (348, "NNW 348°"),
    (349, "N 349°"), (360, "N 0°"), (-90, "W 270°"), (1e17, "")])
def test_a_wind_direction_has_a_compass_word(house, degrees, word):
    house = house(("garden", None))
    house.writer.label("garden", 6, "wind from °")
    house.store("garden", [0], degrees, 6)
    assert f"wind from {word}" in house.page().text


def test_a_value_that_is_text_or_old_or_beyond_the_tiles_is_not_dropped(house):
    names = [(f"s{i}", None) for i in range(8)]
    house = house(*names)
    for i, (name, _) in enumerate(names):
        for field in range(1, 10):
            house.store(name, [-90], 100 * i + 10 * field, field)
    page = house.page()
    assert len(page.all("div")) == iot.MAX_TILES
    for i in range(8):
        for field in range(4, 10):
            assert f" {100 * i + 10 * field}" in page.text
    assert all("1 h ago" in text for _, text in page.all("ul", class_="tiles"))


def test_what_takes_part_in_no_answer_comes_last(house):
    house = house(("fridge", None), ("sun", "outside"), ("attic", "inside"), ("shade", "outside"))
    house.store("sun", range(-900, -800), 40)           # silent: it does not count
    for name, value in (("fridge", 5), ("attic", 28), ("shade", 24)):
        house.store(name, HALF_HOUR, value)
    page = house.page()
    names = [text for _, text in page.all("h2")]
    assert names == ["attic", "shade", "sun", "fridge", "Stations"]


@pytest.mark.parametrize(("before", "words"), [
    (28, "as warm as yesterday"), (27.6, "as warm as yesterday"), (28.4, "as warm as yesterday"),
    (27.5, "0.5 °C warmer than a day ago"), (30, "2 °C cooler than a day ago")])
def test_a_small_difference_to_a_day_ago_is_none(house, before, words):
    house = house(("inside", "inside"))
    house.store("inside", [-1440], before)
    house.store("inside", HALF_HOUR, 28)
    assert words in house.page().text


# -- the chart ------------------------------------------------------------------------------------

def test_the_comfort_limit_is_a_labelled_line(house):
    house = house(("inside", "inside"), ("outside", "outside"), comfort="24C")
    house.store("inside", HALF_HOUR, 28)
    house.store("outside", HALF_HOUR, 29)
    page = house.page()
    (line, _), = page.all("path", class_="limit")
    chart = page.all("svg", role="img")[0][0]
    low, high = (float(chart[f"data-{k}"]) for k in ("low", "high"))
    top, height = iot.TOP, iot.TALL
    assert low <= 24, "it is in the picture, even where no line goes"
    y = float(re.search(r" ([\d.]+)H", line["d"])[1])
    assert y == pytest.approx(top + (high - 24) / (high - low) * height, abs=0.1)
    words = [(float(a["x"]), text) for a, text in page.all("text", class_="words")]
    assert [text for _, text in words] == ["comfort", "24 °C"]
    assert all(x > iot.WIDTH - iot.RIGHT for x, _ in words), "in the margin"


@pytest.mark.parametrize(("span", "days"), [("30d", 30), ("1y", 365)])
@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/Los_Angeles"])
def test_on_long_charts_a_point_is_a_day_of_the_readers(house, span, days, zone):
    """Each full day has its lowest, highest and mean; the present one has no mean and no dot."""
    house = house(("inside", "inside"), ("outside", "outside"))
    minutes, now = range(-days * 1440 - 2880, 1, 60), house.time
    when = [datetime.fromtimestamp(now + 60 * m - 1, ZoneInfo(zone)) for m in minutes]
    values = [20 + t.toordinal() % 5 + t.hour / 10 for t in when]
    house.store("inside", [m - 1 / 60 for m in minutes], values)
    page = house.page(f"/?range={span}", Cookie=f"tz={zone}")
    chart = page.all("svg", role="img")[0][0]
    band, = corners_of(page.paths("band")["inside"])
    line, = corners_of(page.paths()["inside"])
    count = len(band) // 2
    assert len(line) == count - 1 >= days - 1
    assert page.paths("newest") == {}
    high = float(chart["data-high"])
    for (x, y), (left, top), (right, bottom) in zip(line, band, band[::-1], strict=False):
        assert x == left == right
        ms = int(chart["data-start"]) + x / iot.STEPS * (
            int(chart["data-end"]) - int(chart["data-start"]))
        day = datetime.fromtimestamp(ms / 1000, ZoneInfo(zone)).date()
        readings = [v for v, t in zip(values, when, strict=True) if t.date() == day]
        assert high - bottom / iot.GRAIN == pytest.approx(min(readings), abs=.006)
        assert high - top / iot.GRAIN == pytest.approx(max(readings), abs=.006)
        assert high - y / iot.GRAIN == pytest.approx(statistics.mean(readings), abs=.006)
    assert "daily low to high" in page.text
    assert "so far" in chart["aria-label"]


def test_days_have_their_names_in_their_middle(home):
    home.store("inside", range(-7 * 1440, -40, 60), 25)
    page = home.page("/?range=7d", Cookie="tz=Europe/Berlin")
    per_day = iot.INNER / 7
    names = {text: float(a["x"]) for a, text in page.all("text", class_="mark")
             if re.fullmatch("[A-Z][a-z]{2}", text)}
    assert len(names) >= 6
    midnight = iot.LEFT + iot.INNER - 14 / 24 * per_day
    assert names["Sun"] == pytest.approx(midnight - per_day / 2, abs=0.3)   # now is a Monday


def test_a_week_in_a_sentence_on_seven_days_only(home):
    home.store("inside", range(-7 * 1440, -40, 60), 27.9)
    home.store("outside", range(-7 * 1440, -40, 60), [
        34.3 if m // 60 % 24 < 12 else 20 for m in range(-7 * 1440, -40, 60)])
    said = "Cooler outside for 84 h this week; hottest 34.3 °C outside, 28.0 °C inside."
    assert said in home.page("/?range=7d").text
    for name in ("24h", "30d", "1y"):
        assert "this week" not in home.page(f"/?range={name}").text
