"""Smoke and rain at home: sensors send as they do, and page, JSON and messages say it."""
import contextlib

import pytest
from harness import NOON, finish, settings
from house import House

import iotserver
from iotserver import DAY, HOUR, MINUTE

FULL = "But the air outside is full of smoke or dust: PM2.5 80 µg/m³."
STATIONS = ("inside", "inside"), ("outside", "outside"), ("garden pm", "outside")


@pytest.fixture
def house(tmp_path):
    """Makes houses with a sensor of dust, by default warm ones on a cool evening."""
    with contextlib.ExitStack() as stack:
        def make(*stations, dust=80, inside=26, outside=22, **flags):
            home = stack.enter_context(contextlib.closing(
                House(tmp_path / "iot.db", *(stations or STATIONS), **flags)))
            home.writer.label("garden pm", 4, "PM2.5 µg/m³")
            home.store("inside", range(-90, 1), inside)
            home.store("outside", range(-90, 1), outside)
            if dust is not None:
                home.store("garden pm", range(-60, 1), dust, field=4)
            return home
        yield make


def verdict(home):
    return home.get("/api/verdict").json["verdicts"][0]


def test_smoke_closes_the_windows(house):
    home = house()
    said = verdict(home)
    assert (said["state"], said["difference"], said["pm25"], said["rain"]) == (
        "close", 4, 80, None)
    assert said["text"] == f"Keep the windows closed: it is 4 °C cooler outside. {FULL}"
    assert said["since"] == NOON - 60 * MINUTE
    page = home.page()
    assert page.verdict.startswith("Keep the windows closed")
    assert f"It is 4 °C cooler outside. {FULL}" in page.source
    assert home.get("/verdict.txt").text == f"inside: {said['text']}\n"
    assert "PM2.5" in home.page().source.split('<ul class="tiles">')[1], "a tile"


def test_in_another_language(house):
    said = "Aber die Luft draußen ist voller Rauch oder Staub: PM2,5 80\N{NO-BREAK SPACE}µg/m³."
    assert said in house().get("/verdict.txt?language=de").text


def test_without_smoke_nothing_is_said(house):
    said = verdict(house(dust=12.34))
    assert (said["state"], said["pm25"], said["since"]) == ("open", 12.3, NOON - 90 * MINUTE)
    assert said["text"] == "Open the windows: it is 4 °C cooler outside."


@pytest.mark.parametrize(("flag", "state", "bad"), [
    ("off", "open", False), ("100", "open", True), ("80", "close", False), ("80.1", "open", True)])
def test_the_household_chooses_the_limit(house, flag, state, bad):
    said = verdict(house(smoke=flag))
    assert (said["state"], said["pm25"]) == (state, 80)
    assert ("sensitive" in said["text"]) == bad


@pytest.mark.parametrize("text", ["on", "nan", "inf", "55,5", "5 µg"])
def test_what_is_no_limit(text):
    with pytest.raises(iotserver.Usage, match="--smoke"):
        settings(smoke=text)


def test_the_station_of_dust_is_no_thermometer(house):
    """It is the first station outside, and is never the one that the room is compared with."""
    home = house(("garden pm", "outside"), *STATIONS[:2], dust=10)
    assert verdict(home)["outside"] == 22
    home.time += 3 * HOUR / 1000
    home.store("inside", range(-180, 1), 26)
    assert verdict(home)["text"] == "No answer: “outside” has been silent for 3 h."


@pytest.mark.parametrize(("stations", "words"), [
    (STATIONS[:1] + STATIONS[2:], "This needs a station with the role outside that sends a "
                                  "temperature."),
    (STATIONS[:1], "This needs a station with the role inside and one with the role outside."),
    (STATIONS[:2], "“outside” has sent no temperature yet.")])
def test_what_is_missing_is_named(tmp_path, stations, words):
    with contextlib.closing(House(tmp_path / "iot.db", *stations)) as home:
        home.store("inside", range(-90, 1), 26)
        if STATIONS[2] in stations:
            home.store("garden pm", range(-60, 1), 5, field=4)
        said = verdict(home)
        assert said["text"].lower().endswith(words.lower())
        assert words in home.page().source


def test_a_station_inside_without_a_thermometer_is_no_room(tmp_path):
    with contextlib.closing(House(tmp_path / "iot.db", *STATIONS[:2], ("dust", "inside"))) as home:
        for name, value in (("inside", 26), ("outside", 22)):
            home.store(name, range(-90, 1), value)
        home.store("dust", range(-90, 1), 99, field=4)
        home.writer.label("dust", 4, "PM2.5 µg/m³")
        home.server.board.expires = 0
        said = home.get("/api/verdict").json["verdicts"]
        assert [(one["station"], one["state"], one["pm25"]) for one in said] == [
            ("inside", "open", None)], "what is inside is no smoke outside"
        assert "dust" in home.page().source


def test_a_sensor_that_falls_silent_in_smoke(house):
    """Nobody reads a page at the very instant, so it changes by itself."""
    home = house()
    for later, state in ((5 * 60 + 58, "close"), (6 * 60, "open")):
        home.time = NOON / 1000 + later * 60
        home.store("inside", range(-90, 1), 26)
        home.store("outside", range(-90, 1), 22)
        said = verdict(home)
        assert (said["state"], said["pm25"]) == (state, None)
    assert said["since"] == NOON + 6 * HOUR
    assert "“garden pm” has been silent for 6 h: the air outside is not known." in (
        home.page().source)
    assert "not known" not in said["text"]


def test_only_the_field_is_silent(house):
    home = house(dust=10)
    home.store("garden pm", range(1, 90), 50, field=5)
    for minute in range(1, 90, 5):
        home.time = NOON / 1000 + 60 * minute
        for station, value in (("inside", 26), ("outside", 22), ("garden pm", 10)):
            server = home.server
            server.writer.add(server.writer.find(station), iotserver.Reading(
                5 if station == "garden pm" else 1, value, 0, None), round(home.time * 1000))
        server.turn.end()
    home.server.board.expires = 0
    assert "“PM2.5, garden pm” has been silent for 1 h: the air outside is not known." in (
        home.page().source)


def test_no_forecast_is_shown_in_smoke(house):
    home = house(inside=26, outside=30)
    forecast = iotserver.Forecast(
        "cooler", *(NOON + n * HOUR for n in (5, 4, 6)), 0.9, 60, (25.0,) * 48, (25.0,) * 48, NOON)
    series = [home.reader.series(id)[1] for id in (1, 2)]
    home.server.board.forecasts[tuple(series)] = forecast
    home.server.board.expires = 0
    assert verdict(home)["forecast"]["event"] == "cooler"
    for text in (home.page().source, home.get("/verdict.txt").text):
        assert "Cooler outside from" not in text
        assert ", expected" not in text
    home.server.settings.smoke = 100.0
    home.server.board.expires = 0
    assert "Cooler outside from" in home.page().source
    assert ", expected" in home.page().source


def test_rain(house):
    home = house(dust=None)
    home.writer.label("outside", 7, "rain mm/h")
    home.store("outside", [-3, -2, -1], [0, 1.5, 0], field=7)
    said = verdict(home)
    assert (said["state"], said["rain"], said["pm25"]) == ("open", 0, None)
    assert said["text"].endswith("cooler outside. It is raining: mind the windows.")
    home.time += 13 * 60
    assert "raining" not in verdict(home)["text"]
    assert verdict(home)["rain"] is None


def test_review_says_what_was_said(house):
    """A row an hour, in smoke and after it, as a server answers at that hour."""
    home = house(dust=None)
    start = NOON - DAY
    home.store("inside", range(-3 * 1440, 1), 26)
    home.store("outside", range(-3 * 1440, 1), 22)
    home.store("garden pm", range(-1440, -1000), 200, field=4)
    home.store("garden pm", range(-999, 1), 10, field=4)
    rows = [(now, room.verdict.state, room.verdict.since)
            for _, now, rooms, _ in iotserver.review_hours(home.reader, start, NOON + 1, 22.0)
            for room in rooms]
    assert {state for _, state, _ in rows} == {"open", "close"}
    for now, state, since in rows[::4]:
        places = finish(iotserver.read_places(home.reader, now, 22.0, {}, {}))
        assert (places[0].verdict.state, places[0].verdict.since) == (state, since)
    off = [room.verdict.state for _, _, rooms, _ in iotserver.review_hours(
        home.reader, start, NOON + 1, 22.0, float("inf")) for room in rooms]
    assert {*off} == {"open"}
