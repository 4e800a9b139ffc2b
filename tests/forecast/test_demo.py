"""The weather of --demo: believable enough that its forecast is worth looking at."""
import collections
import contextlib
import itertools
import statistics
import time
from datetime import datetime
from zoneinfo import ZoneInfo

import pytest
import yardstick
from harness import finish
from house import House

import iotserver as iot
from iotserver import DAY, HOUR, MINUTE

NOON = 1_532_952_000_000        # 2018-07-30T12:00:00Z in ms
AFTERNOON = 16                  # o'clock, on a machine in UTC


def measure(days, now=NOON, every=10 * MINUTE):
    """What the three stations measure in the last days of the year."""
    house = iot.DemoHouse(now - 365 * DAY)
    house.at = now - days * DAY
    return [(ms, *house.advance(ms)) for ms in range(house.at, now, every)]


def live(days, now=NOON, every=10 * MINUTE):
    """(ms, °C inside, °C outside)"""
    return [(ms, inside[1], outside[1])
            for ms, inside, outside, _ in measure(days, now, every)]


def by_day(readings):
    days = {}
    for ms, _, outside in readings:
        days.setdefault(ms // DAY, []).append(outside)
    return list(days.values())[1:-1]


def test_the_weather_is_the_same_whenever_it_is_looked_at():
    assert live(30) == live(30)
    assert [iot.simulate_outside(ms, HOUR) for ms, *_ in live(2)] == [
        iot.simulate_outside(ms, HOUR) for ms, *_ in live(2)]


def test_there_are_cloudy_days_and_cool_spells():
    days = by_day(live(90))
    ranges = sorted(max(day) - min(day) for day in days)
    assert ranges[-5] > 1.15 * ranges[5]
    means = [statistics.mean(day) for day in days[-30:]]
    assert statistics.stdev(means) > 0.4
    lasting = statistics.correlation(means[:-1], means[1:])
    assert 0.3 < lasting < 0.98                                 # a spell is more than a day


def test_it_is_no_sine_but_a_plausible_house():
    readings = live(365)
    steps = [abs(b - a) for (*_, a), (*_, b) in itertools.pairwise(readings)]
    assert 0.02 < statistics.median(steps) < 0.5
    assert max(steps) < 2
    assert all(19 < inside < 32 and -5 < outside < 40 for _, inside, outside in readings)


def test_the_year_has_seasons_before_its_heat_wave():
    means = [statistics.mean(day) for day in by_day(live(365))]
    assert statistics.mean(means[-13:]) > 24
    assert statistics.mean(means[170:200]) < 12
    assert statistics.mean(means[:10]) > 22


def test_it_has_a_second_room_humidity_pressure_and_some_rain():
    readings = measure(90)
    for _, inside, outside, bedroom in readings:
        for room in (inside, bedroom):
            assert room.keys() == {1, 2}
            assert 20 < room[2] < 75
        assert 15 < outside[2] <= 97
        assert 990 < outside[3] < 1040
        assert 0 <= outside[4] < 10
    wet = sum(outside[4] > 0 for _, _, outside, _ in readings) / len(readings)
    assert 0.005 < wet < 0.15
    assert statistics.mean(inside[1] - bedroom[1] for _, inside, _, bedroom in readings) > 0.3


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/Los_Angeles", "Asia/Kathmandu"])
@pytest.mark.parametrize("month", ["2026-01", "2026-07", "2026-11"])
def test_it_lives_in_the_machines_zone_in_a_heat_wave_of_any_season(monkeypatch, zone, month):
    """Coolest before sunrise, hottest in the afternoon, warmer inside than anybody wants it."""
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        now = round(datetime.fromisoformat(f"{month}-20T12:00:00+00:00").timestamp() * 1000)
        readings = live(14, now)
    finally:
        monkeypatch.undo()
        time.tzset()
    hours = {}
    for ms, inside, outside in readings:
        local = datetime.fromtimestamp(ms / 1000, ZoneInfo(zone))
        hours.setdefault(local.hour, []).append(outside)
        assert inside > 22 + iot.COMFORT_MARGIN
    means = {hour: statistics.mean(values) for hour, values in hours.items()}
    assert min(means, key=means.get) in {4, 5, 6}
    assert max(means, key=means.get) in {13, 14, 15, 16}
    assert means[5] < 21
    assert means[15] > 31


@pytest.mark.slow
def test_it_says_so_from_its_first_page_on(serve):
    text = serve("--demo").get("/").text
    assert iot.SENTENCES["demo"] in text
    for shown in ("bedroom", "pressure", "rain", "humidity"):
        assert shown in text.lower()


@pytest.mark.slow
def test_at_every_hour_the_answer_is_open_or_closed_with_a_forecast(tmp_path):
    path = tmp_path / "demo.db"
    with contextlib.closing(iot.Writer(path)) as writer:
        house = iot.fill_demo(writer, NOON - DAY)
        writer.load()
    states = collections.Counter()
    with contextlib.closing(House(path)) as server:
        for hour in range(24):
            server.time = (NOON - DAY + hour * HOUR) / 1000
            for _ in range(8):                          # half an hour, up to a quarter
                server.time += 225
                house.send(server.server)
            finish(server.server.outlook.renew())
            server.server.board.expires = 0
            verdict, other = server.get("/api/verdict").json["verdicts"]
            states[verdict["state"]] += 1
            assert verdict["forecast"], hour
            assert {verdict["station"], other["station"]} == {"inside", "bedroom"}
    assert states.keys() == {"open", "close"}
    assert min(states.values()) >= 5


@pytest.mark.slow
@pytest.mark.untraced
def test_its_evenings_can_be_foretold_but_not_to_the_minute():
    readings = live(75, every=10 * MINUTE)
    inside, outside = ([(ms, values[i]) for ms, *values in readings] for i in (0, 1))
    house = yardstick.House("demo", inside, outside, {})
    errors, theirs = [], []
    for now, said, _ in yardstick.foresee(iot, house, NOON - 40 * DAY, NOON - DAY):
        if now % DAY == AFTERNOON * HOUR and said and said.event == "cooler":
            truth = yardstick.find_truth(house, now, 1)
            errors.append(abs((said.at - now) / MINUTE - truth))
            theirs.append(yardstick.error(yardstick.baseline(house, now, 1), truth))
    assert len(errors) > 20
    assert 3 < statistics.median(errors) < 45
    assert statistics.mean(errors) < statistics.mean(theirs)
