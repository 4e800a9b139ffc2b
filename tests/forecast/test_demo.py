"""The weather of --demo: believable enough that its forecast is worth looking at."""
import itertools
import statistics

import pytest
import yardstick

import iotserver as iot
from iotserver import DAY, HOUR, MINUTE

pytestmark = pytest.mark.slow

NOON = 1_532_952_000_000        # 2018-07-30T12:00:00Z in ms
AFTERNOON = 23                  # UTC; where the demonstration is, four o'clock


def live(days, midsummer=NOON, every=10 * MINUTE):
    house = iot.DemoHouse(midsummer - days * DAY, midsummer)
    return [(ms, *house.advance(ms)) for ms in range(midsummer - days * DAY, midsummer, every)]


def by_day(readings):
    days = {}
    for ms, _, outside in readings:
        days.setdefault(ms // DAY, []).append(outside)
    return list(days.values())[1:-1]


def test_the_weather_is_the_same_whenever_it_is_looked_at():
    assert live(30) == live(30)
    assert [iot.simulate_outside(ms, NOON) for ms, *_ in live(2)] == [
        iot.simulate_outside(ms, NOON) for ms, *_ in live(2)]


def test_there_are_cloudy_days_and_cool_spells():
    days = by_day(live(90))
    ranges = sorted(max(day) - min(day) for day in days)
    assert ranges[-5] > 1.5 * ranges[5]
    means = [statistics.mean(day) for day in days]
    assert statistics.stdev(means[-45:]) > 1
    lasting = statistics.correlation(means[-46:-1], means[-45:])
    assert 0.3 < lasting < 0.98                                 # a spell is more than a day


def test_it_is_no_sine_but_a_plausible_house():
    readings = live(365)
    steps = [abs(b - a) for (*_, a), (*_, b) in itertools.pairwise(readings)]
    assert 0.02 < statistics.median(steps) < 0.5
    assert max(steps) < 2
    assert all(18 < inside < 32 and -15 < outside < 40 for _, inside, outside in readings)
    warmer = {ms // DAY for ms, inside, outside in readings if outside > inside}
    assert 60 < len(warmer) < 200                               # in summer, not in winter


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
