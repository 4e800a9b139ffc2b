"""The page and its events, without a browser: what the bytes say with JavaScript off."""
import base64
import contextlib
import hashlib
import json
import math
import re
import select
import socket
import time
import xml.etree.ElementTree as ET

import pytest
from harness import (
    CLOCK,
    INSIDE,
    NOON,
    OUTSIDE,
    SCRIPT,
    bulk,
    memory,
    read_until,
    receive,
    request,
)
from house import HALF_HOUR, Page
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
    assert page.verdict == "Open the windows: it is 4 °C cooler outside."
    assert [text for _, text in page.all("p", class_="big")] == ["28.0 °C", "24.0 °C"]
    assert re.findall(r"(steady|rising|falling) · (\d+ \w+) ago", page.text) == [
        ("steady", "0 s")] * 2
    assert [a["href"] for a, _ in page.all("a")][:4] == [
        f"/?range={name}" for name in ("24h", "7d", "30d", "1y")]
    assert [text for a, text in page.all("a") if a.get("aria-current") == "true"] == ["24h"]
    charts = page.all("svg", role="img")
    assert len(charts) == 3
    for chart, words in zip(charts, ("inside: from 28.0 to 28.0 °C, last 28.0 °C, outside: from "
                                     "24.0", "55.5", "1013.2"), strict=True):
        assert words in chart[0]["aria-label"]
    drawn = {a["data-name"]: a["d"] for a, _ in page.all("path") if "data-name" in a}
    assert {"inside", "outside"} <= drawn.keys()
    assert all(re.match(r"M[\d.]+ [\d.]+L", d) for d in drawn.values())
    assert len(page.all("rect", class_="shade")) == 1
    rows = [text for _, text in page.all("tr") if text.startswith(("inside", "outside"))]
    assert rows == ["inside ok 0 s ago 1 min 31", "outside ok 0 s ago 1 min 93"]
    assert "History since Mon 30 Jul 2018; " in page.text
    assert re.search(r"the file weighs [\d.]+ [KM]B", page.text)
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
        chart = page.all("svg")[0][0]
        starts[name] = int(chart["data-end"]) - int(chart["data-start"])
        assert starts[name] == length
        assert [text for a, text in page.all("a") if "aria-current" in a] == [name]
    for bad in ("/?range=2d", "/?range=", "/?range=24h&range=7d"):
        assert home.get(bad).status == 400
    assert home.get("/?fbclid=1").status == 200, "what others append to a link does no harm"


def test_gap_is_a_gap_and_thinned_lines_have_a_band(house):
    house = house(("inside", "inside"), ("outside", "outside"))
    minutes = [m for m in range(-1440, 1) if not -800 < m < -600]
    house.store("inside", minutes, [25 + m % 7 for m in minutes])
    house.store("outside", [-20, -10, 0], 20)
    paths = {a["data-name"]: a["d"] for a, _ in house.page().all("path") if "data-name" in a}
    bands = [a["d"] for a, _ in house.page().all("path", class_="band")]
    assert paths["inside"].count("M") == 2
    assert paths["outside"].count("M") == 1
    assert bands[0].count("Z") == 2
    assert bands[1] == ""


def test_several_inside_stations_get_their_answers(house):
    house = house(("attic", "inside"), ("outside", "outside"), ("cellar", "inside"),
                  ("fridge", None))
    for name, value in {"attic": 31, "outside": 26, "cellar": 19, "fridge": 5}.items():
        house.store(name, HALF_HOUR, value)
    page = house.page()
    card = page.one("section", class_="verdict")
    assert "Open the windows: it is 5 °C cooler outside." in card
    assert re.search(r"cellar\W+Comfortable inside:", card)
    assert "attic" in card, "which room is the first answer for?"
    assert "fridge" not in card
    assert "fridge" in page.text
    assert "open comfortable" in page.source


@pytest.mark.parametrize(("stations", "sends", "verdict", "helps"), [
    ([], {}, "No station yet", "--add-station inside --role inside"),
    ([("inside", "inside"), ("outside", "outside")], {},
     'No answer: "outside" has sent no temperature yet.', "never"),
    ([("inside", "inside"), ("outside", "outside")], {"inside": 25},
     'No answer: "outside" has sent no temperature yet.', "25.0 °C"),
    ([("inside", "inside"), ("outside", "outside")], {"outside": 25},
     'No answer: "inside" has sent no temperature yet.', "25.0 °C"),
    ([("inside", "inside")], {"inside": 25}, "No answer yet", "role outside"),
    ([("outside", "outside")], {"outside": 25}, "No answer yet", "role inside"),
    ([("garden", None)], {"garden": 25}, "No answer yet", "garden: temperature"),
    ([("a", "outside"), ("b", "outside")], {"a": 25, "b": 24}, "No answer yet", "role inside"),
])
def test_each_state_has_its_own_help(house, stations, sends, verdict, helps):
    house = house(*stations)
    for name, value in sends.items():
        house.store(name, HALF_HOUR, value)
    page = house.page()
    assert page.verdict.startswith(verdict)
    assert helps in page.text
    for attributes, _ in page.all("svg"):
        assert attributes["aria-label"], "a picture without words"


def test_silence_and_its_end(home):
    home.time += 14 * 60
    assert home.page().verdict == 'No answer: "outside" has been silent for 14 min.'
    home.store("outside", [0], 24)
    assert home.page().verdict == 'No answer: "inside" has been silent for 14 min.'
    assert [text.split()[1] for _, text in home.page().all("tr")][-2:] == ["silent", "ok"]
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
        house.server.board.is_stale = True
    assert len(verdicts) == 1


@pytest.mark.parametrize(("flag", "language", "unit"), [
    ("auto", "en-US,en;q=0.9", "F"), ("auto", "de-DE,de;q=0.9", "C"), ("auto", "", "C"),
    ("C", "en-US", "C"), ("F", "de-DE", "F")])
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
    assert page.all("svg")[0][0]["data-unit"] == f"°{unit}"
    response = house.get("/")
    assert {"accept-language", "cookie"} <= set(response.headers["vary"].lower().split(", "))


@pytest.mark.parametrize(("cookie", "times"), [
    ("", "Mon 30 Jul, 11:30"), ("tz=Europe/Berlin", "Mon 30 Jul, 13:30"),
    ("a=b; tz=America/Los_Angeles", "Mon 30 Jul, 04:30"), ("tz=Asia/Kathmandu", ", 17:15"),
    ("tz=Nowhere/Else", ", 11:30"), ("tz=Europe", ", 11:30"), ("tz=../../etc/passwd", ", 11:30"),
    ('tz="><script>', ", 11:30")])
def test_times_in_the_zone_of_the_cookie(home, cookie, times):
    page = home.page(Cookie=cookie)
    assert times in page.one("details")
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
                    "rect", "path", "text", "g", "input", "output", "figcaption", "span",
                    "details", "summary", "table", "thead", "tbody", "tr", "th", "td", "script"}
    page = check_policy(house.get("/"))
    assert [text for _, text in page.all("h2")][:2] == [name, f"{name}2"]
    assert {name, f"{name}2"} <= {a.get("data-name") for a, _ in page.all("path")}
    assert name in page.all("svg")[0][0]["aria-label"]
    assert f"{name}: {name}" in [text for _, text in page.all("h2")]
    assert len(page.all("script")) == len(page.all("main")) == len(page.all("style")) == 1
    house.time += 14 * 60
    assert f'"{name}2" has been silent' in house.page().verdict
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
    assert max(sizes.values()) <= 60_000, sizes


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
        return [place.verdict for place in house.server.board.places()]
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
            self.hello = int(self.next("hello")[1])
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
        """(id, data) of the next event of this kind; others before it are passed over."""
        found = self.take(rb"(?:^|\n)(?:id: ([^\n]*)\n)?event: %b\ndata: ([^\n]*)\n\n"
                          % kind.encode())
        return (found[1] or b"").decode(), json.loads(found[2])

    def until(self, value):
        """{id: value} of the readings up to one with this value."""
        seen = {}
        while value not in seen.values():
            number, event = self.next("reading")
            assert number not in seen
            seen[number] = event["value"]
        return seen


def test_events_greet_and_tell_each_reading(live):
    with Listener(live) as listener:
        assert b" 200 " in listener.head.splitlines()[0]
        assert b"Content-Type: text/event-stream" in listener.head
        assert b"X-Accel-Buffering: no" in listener.head
        assert abs(listener.hello / 1000 - time.time()) < 5
        entry = live.update(INSIDE, 21.5)
        event = listener.next("reading")[1]
        assert abs(event.pop("time") / 1000 - time.time()) < 5
        assert event == {"station": 1, "field": 1, "value": 21.5, "entry": entry}
        live.update(OUTSIDE, 18, more="/age=3")
        assert listener.next("reading")[1]["station"] == 2


def test_verdict_event_when_it_changes_and_only_then(live):
    for station, value in ((INSIDE, 28), (OUTSIDE, 30)):
        response = live.ask("POST", "/update", bulk(station, *(
            {"field": 1, "data": value, "age": 60 * i} for i in range(40, -1, -1))))
        assert response.json["stored"] == 41
    with Listener(live) as listener:
        live.update(OUTSIDE, 31)
        live.ask("POST", "/update", bulk(OUTSIDE, *(
            {"field": 1, "data": 24, "age": age} for age in (60, 0))))     # two that agree
        while "open" not in {v["state"] for v in listener.next("verdict")[1]}:
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
        listener.channel.settimeout(5)
        for _ in range(2):
            listener.take(rb"(^|\n):[^\n]*\n\n")
        assert 0.6 < time.monotonic() - started < 4


def test_resume_without_a_hole(live):
    with Listener(live) as listener:
        for value in range(10, 16):
            live.update(INSIDE, value)
        events = listener.until(15)
    assert [*events.values()] == [*range(10, 16)]
    for i, (number, value) in enumerate(events.items()):
        with Listener(live, Last_Event_ID=number) as listener:
            live.update(INSIDE, 100 + i)
            later = [*listener.until(100 + i).values()]
            assert later == [*range(value + 1, 16), *range(100, 101 + i)], number


UNKNOWN_IDS = ["x", "0.1", "{run}.999", "{run}.-1", "{run}.", "{run}", "{run}.\xb2", "{run}.1e3",
               "." * 2000]


def test_unknown_id_is_answered_by_a_reset(live):
    with Listener(live) as listener:
        live.update(INSIDE, 10)
        run = listener.next("reading")[0].split(".")[0]
    for i, number in enumerate(UNKNOWN_IDS):
        with Listener(live, Last_Event_ID=number.format(run=run)) as listener:
            listener.next("reset")
            live.update(INSIDE, 11 + i)
            assert listener.until(11 + i)


def test_reset_when_more_was_missed_than_is_kept(live):
    with Listener(live) as listener:
        live.update(INSIDE, 1)
        number = listener.next("reading")[0]
    for _ in range(2):
        response = live.ask("POST", "/update", bulk(INSIDE, *((1, i) for i in range(600))))
        assert response.json["stored"] == 600
    with Listener(live, Last_Event_ID=number) as listener:
        assert listener.next("reset")


def test_events_of_a_server_that_stops_end(live):
    with Listener(live) as listener:
        assert live.stop() == 0
        receive(listener.channel)


def test_a_thousand_listeners(live, many_files):
    if many_files < 2500:
        skip(f"only {many_files} files may be open here")
    live.update(INSIDE, 20)
    with Listener(live):
        before = memory(live)
    with contextlib.ExitStack() as stack:
        channels = {}
        for _ in range(1000):
            channel = stack.enter_context(live.connect())
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
    many = bulk(INSIDE, *((1, i) for i in range(960)))
    with deaf, contextlib.closing(live.client()) as client:
        for _ in range(60):
            client.request("POST", "/update", many, {"Content-Type": "application/json"})
            assert client.getresponse().read().startswith(b'{"stored":960')
        assert memory(live) - before < 20_000_000
        deaf.settimeout(5)
        size = 0
        with contextlib.suppress(ConnectionResetError):
            while piece := deaf.recv(1 << 20):
                size += len(piece)
        assert size < 60 * 960 * 100
    with Listener(live) as listener:
        live.update(INSIDE, 77)
        assert listener.until(77)
