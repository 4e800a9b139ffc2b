"""The forecast: never from the future, never absurd, quick at any history, and better than
yesterday's curves. How good it is on whole summers: yardstick.py."""
import cProfile
import itertools
import math
import pstats
import statistics
from pathlib import Path

import hypothesis.strategies as some
import pytest
import yardstick
from hypothesis import example, given, settings

import iotserver as iot
from iotserver import DAY, HORIZON, HOUR, MINUTE, QUARTER, Forecaster, Outcome

WEEKS = Path(__file__).parent.parent / "data" / "falkensee_two_weeks.csv"
NOON = 1_532_952_000_000        # 2018-07-30T12:00:00Z in ms
COMFORT = 22.0


@pytest.fixture(scope="module")
def house():
    return yardstick.read_house(WEEKS)


def feed(house, until, forecaster=None):
    forecaster = forecaster or Forecaster()
    for series, readings in ((forecaster.inside, house.inside),
                             (forecaster.outside, house.outside)):
        for ms, value in readings:
            if ms <= until:
                series.add(ms, value)
    return forecaster


def make_house(days, every=3 * MINUTE, swing=7.0, end=NOON + 4 * HOUR, gap=0.0):
    """Days of the same weather up to end, which is at four in the afternoon: warmer outside."""
    times = range(end - days * DAY, end + 1, every)
    outside = [(ms, 22 + swing * math.cos((ms - end) / DAY * math.tau)) for ms in times]
    inside = [(ms, 23 + gap + 0.7 * math.cos((ms - end) / DAY * math.tau - 1)) for ms in times]
    return yardstick.House("made up", inside, outside, {})


def say(forecast):
    return None if forecast is None else [getattr(forecast, name) for name in (
        "event", "at", "start", "end", "chance")]


# -- how good it is -------------------------------------------------------------------------------


def test_two_weeks_are_foretold_better_than_by_yesterdays_curves(house, capsys):
    found = list(yardstick.cases(iot, house, (16, 17, 18), "cooler"))
    _, pooled = yardstick.print_table({"two weeks": found}, (16, 17, 18))
    assert pooled["n"] > 25
    assert pooled["ratio_where_d"] < 0.8
    assert pooled["ratio_median"] < 0.8
    assert 0.7 <= pooled["coverage"] <= 0.95
    assert "ratio_where_d, pooled over 1 houses" in capsys.readouterr().out


def test_equal_days_are_foretold_to_the_quarter():
    house = make_house(10)
    said = feed(house, NOON + 4 * HOUR).ask(NOON + 4 * HOUR)
    tomorrow = make_house(1, MINUTE, end=NOON + 4 * HOUR + DAY)
    came = next(ms for (ms, a), (_, b) in zip(tomorrow.inside, tomorrow.outside, strict=True)
                if a > b)
    assert said.event == "cooler"
    assert abs(said.at - came) < QUARTER
    assert said.start - MINUTE <= came <= said.end + MINUTE
    assert said.chance > 0.8


def test_the_morning_of_equal_days_is_foretold_too():
    house = make_house(40)
    said = feed(house, NOON - 9 * HOUR).ask(NOON - 9 * HOUR)
    assert said.event == "warmer"
    assert say(said)[1:4] == sorted(say(said)[1:4])


def test_a_room_that_no_day_has_cooled_gets_no_answer_for_the_morning():
    house = make_house(10, gap=15.0)
    forecaster = feed(house, NOON)
    assert forecaster.ask(NOON) is None
    assert count_calls(forecaster, NOON) < 3000                 # nor is one looked for


def test_not_tonight_takes_thirty_days():
    """Outside never gets cooler than inside, and has not for as long as anybody knows."""
    def ask(days):
        return feed(make_house(days, gap=-12.0), NOON + 4 * HOUR).ask(NOON + 4 * HOUR)
    assert ask(20) is None
    said = ask(35)
    assert (said.at, said.end) == (None, None)
    assert said.chance < 0.3


# -- causality ------------------------------------------------------------------------------------


def answers(house, now, forecaster):
    feed(house, now, forecaster)
    return say(forecaster.ask(now))


def spoil(house, now):
    """The same up to now, and 1e9 from there on."""
    return house._replace(**{name: [(ms, value if ms <= now else 1e9)
                                    for ms, value in getattr(house, name)]
                             for name in ("inside", "outside")})


class Peeking(Forecaster):
    """What a copy would do that looks up the next hour."""

    def __init__(self, house):
        super().__init__()
        self.house = house

    def ask(self, now):
        feed(self.house, now + HOUR, self)
        return super().ask(now + HOUR)


def is_causal(house, make):
    hours = range(house.outside[0][0] // HOUR * HOUR + 6 * DAY, house.outside[-1][0] - DAY,
                  11 * HOUR)
    cut = [house._replace(inside=[r for r in house.inside if r[0] <= now],
                          outside=[r for r in house.outside if r[0] <= now]) for now in hours]
    asked = [[answers(variant, now, make(variant))
              for variant in (house, part, spoil(house, now))]
             for now, part in zip(hours, cut, strict=True)]
    assert sum(whole is not None for whole, *_ in asked) > len(asked) / 6
    return all(whole == part == spoiled for whole, part, spoiled in asked)


def test_what_is_said_depends_on_nothing_later(house):
    assert is_causal(house, lambda _: Forecaster())


def test_a_copy_that_peeks_is_found_out(house):
    assert not is_causal(house, Peeking)


def test_no_row_of_a_review_depends_on_its_start_or_on_what_comes_later(house):
    first = house.outside[0][0]
    middle, last = first + 7 * DAY, first + 10 * DAY
    whole = list(iot.review(house.inside, house.outside, first, last, COMFORT))
    assert [row.time for row in whole] == list(range(-(-first // HOUR) * HOUR, last, HOUR))
    later = list(iot.review(house.inside, house.outside, middle, last, COMFORT))
    assert later == whole[-len(later):]
    spoiled = spoil(house, middle)
    early = list(iot.review(spoiled.inside, spoiled.outside, first, middle + 1, COMFORT))
    assert early == whole[:len(early)]
    assert sum(row.forecast is not None for row in early) > 50


def test_a_review_says_what_was_said_at_the_time(house):
    """The server hears reading after reading, and asks more often than each full hour."""
    first, last = house.outside[0][0], house.outside[0][0] + 7 * DAY
    live, known = Forecaster(), {}
    readings = iter(sorted([(ms, 0, v) for ms, v in house.inside]
                           + [(ms, 1, v) for ms, v in house.outside]))
    reading = next(readings)
    for now in range(-(-first // HOUR) * HOUR, last, HOUR // 2):
        while reading[0] <= now:
            (live.inside, live.outside)[reading[1]].add(reading[0], reading[2])
            reading = next(readings)
        if now % HOUR == 0:
            live.learn(now)
        known[now] = live.ask(now)
    rows = list(iot.review(house.inside, house.outside, first, last, COMFORT))
    assert [row.forecast for row in rows] == [
        known[row.time] if row.verdict.state != "unknown" else None for row in rows]
    assert sum(row.forecast is not None for row in rows) > 40
    known = [row.outcome for row in rows if row.outcome and row.outcome.event == "cooler"]
    assert all(row.outcome.asked == row.time - DAY for row in rows if row.outcome)
    assert len(known) > 20
    assert statistics.mean(o.error for o in known) < statistics.mean(o.baseline for o in known)
    mornings = [row.forecast for row in rows if row.forecast and row.forecast.event == "warmer"]
    assert mornings
    assert all(said.end - said.start <= 3 * HOUR for said in mornings)
    for row in rows[60::9]:
        window = [[r for r in side if row.time - iot.VERDICT_WINDOW < r[0] <= row.time]
                  for side in (house.inside, house.outside)]
        verdict = iot.judge(*window, row.time, COMFORT)
        assert verdict[:2] == row.verdict[:2]


def test_an_unknown_state_has_no_forecast():
    house = make_house(5)
    silent = house._replace(outside=[r for r in house.outside if r[0] < NOON + 3 * HOUR])
    for chosen, is_said in ((house, True), (silent, False)):
        *_, row = iot.review(chosen.inside, chosen.outside, NOON, NOON + 4 * HOUR + 1, COMFORT)
        assert (row.forecast is not None) == is_said == (row.verdict.state != "unknown")


def test_a_verdict_that_lasts_does_not_depend_on_the_start():
    """A room that was comfortable once, and stays within the margin for days."""
    times = range(NOON - 6 * DAY, NOON, 10 * MINUTE)
    inside = [(ms, 21.0 if ms < NOON - 5 * DAY else COMFORT + 1) for ms in times]
    outside = [(ms, 18.0) for ms in times]
    whole = list(iot.review(inside, outside, NOON - 6 * DAY, NOON, COMFORT))
    assert list(iot.review(inside, outside, NOON - DAY, NOON, COMFORT)) == whole[-24:]


# -- never absurd ---------------------------------------------------------------------------------


VALUES = some.one_of(
    some.sampled_from([0.0, -0.0, 21.5, 22.0, 1e9, -127.0, 85.0]),
    some.floats(10, 35), some.floats(allow_nan=False, allow_infinity=False))
PAUSES = some.sampled_from([0, 5000, 3 * MINUTE, 30 * MINUTE, HOUR, 5 * HOUR, 13 * HOUR, 3 * DAY])


def add_up(steps):
    times = itertools.accumulate(pause for pause, _ in steps)
    return [(NOON + ms, value) for ms, (_, value) in zip(times, steps, strict=True)]


SERIES = some.lists(some.tuples(PAUSES, VALUES), max_size=40).map(add_up)
DAYS = some.lists(some.floats(15, 33), min_size=3, max_size=12)     # a temperature for each day


@settings(max_examples=60)
@given(SERIES, SERIES, some.integers(0, 80).map(lambda n: NOON + n * HOUR // 4))
@example([], [], NOON)
@example([(NOON, 22.0)], [], NOON)
@example([(NOON, 22.0)], [(NOON, 1e308)], NOON)
def test_odd_readings_raise_nothing(inside, outside, now):
    forecaster = feed(yardstick.House("", inside, outside, {}), now)
    said = forecaster.ask(now)
    assert said is None or 0 <= said.chance <= 1
    for hour in range(3):
        forecaster.learn(now + DAY + hour * HOUR)


@settings(max_examples=40)
@given(DAYS, DAYS, some.sampled_from([3 * MINUTE, 10 * MINUTE, HOUR]),
       some.sampled_from([0, HOUR, 3 * HOUR, 6 * HOUR, DAY]), some.integers(0, 95))
def test_interval_and_curves_are_in_order(warmth, walls, every, silent, quarter):
    """Days of chance, one station silent for a while; asked at any quarter of the last day."""
    now = NOON + quarter * QUARTER
    times = range(NOON - len(warmth) * DAY, now, every)
    outside = [(ms, warmth[(ms - NOON) // DAY % len(warmth)]
                + 6 * math.cos((ms - NOON) / DAY * math.tau)) for ms in times]
    inside = [(ms, walls[(ms - NOON) // DAY % len(walls)]) for ms in times if ms < now - silent]
    said = feed(yardstick.House("", inside, outside, {}), now).ask(now)
    if said is None:
        return
    assert 0 <= said.chance <= 1
    assert len(said.inside) == len(said.outside) == HORIZON // QUARTER + 3
    assert all(map(math.isfinite, said.inside + said.outside))
    points = [now, said.start, said.at, said.end, now + HORIZON]
    known = [point for point in points if point is not None]
    assert known == sorted(known)
    assert said.at is None or said.chance >= 0.5


@pytest.mark.parametrize(("silent", "hours", "is_said"), [
    ("outside", 3, True), ("outside", 5, False), ("inside", 11, True), ("inside", 13, False)])
def test_a_station_that_is_silent_for_long_ends_the_forecast(silent, hours, is_said):
    house = make_house(10)
    end = NOON + 4 * HOUR
    house = house._replace(**{silent: [r for r in getattr(house, silent)
                                       if r[0] <= end - hours * HOUR]})
    forecaster = feed(house, end)
    known = (forecaster.inside if silent == "inside" else forecaster.outside).until(end // QUARTER)
    assert math.isfinite(known[-1]) == is_said
    assert is_said or forecaster.ask(end) is None


def test_a_single_wrong_reading_changes_nothing():
    house = make_house(10)
    broken = house._replace(outside=[(ms, 85.0 if i % 500 == 250 else value)
                                     for i, (ms, value) in enumerate(house.outside)])
    now = NOON + 4 * HOUR
    right, wrong = (feed(h, now).ask(now) for h in (house, broken))
    assert abs(right.at - wrong.at) < MINUTE
    assert abs((right.end - right.start) - (wrong.end - wrong.start)) < 2 * QUARTER


def test_a_single_wrong_reading_is_not_believed_even_when_it_is_the_newest():
    series = iot.Quarters(4)
    for minute, value in enumerate((20.0, 20.1, 85.0, 20.2, 20.3, 20.4, -127.0)):
        series.add(NOON + (1 + minute) * MINUTE, value)
    assert series.until(NOON // QUARTER + 1)[-1] == 20.3
    series.add(NOON + 9 * MINUTE, 22.5)
    assert series.until(NOON // QUARTER + 1)[-1] == 22.5        # a quick change is


def test_what_was_known_then_can_be_asked_later():
    series = iot.Quarters(4)
    for quarter in range(100):
        series.add(NOON + quarter * QUARTER, quarter)
    assert series.until(NOON // QUARTER + 60)[-3:] == [58, 59, 60]
    assert len(series.until(NOON // QUARTER + 60)) == iot.KEPT
    assert math.isnan(series.until(NOON // QUARTER + 105)[-1])


def test_a_hole_becomes_a_line_once_its_end_is_known():
    series = iot.Quarters(4)
    series.add(0, 10.0)
    assert series.until(2)[-3:] == [10.0, 10.0, 10.0]       # until then the last value holds
    series.add(4 * QUARTER, 18.0)
    assert series.until(4)[-5:] == [10.0, 12.0, 14.0, 16.0, 18.0]
    series.add(10 * QUARTER, 0.0)
    assert all(map(math.isnan, series.until(10)[-6:-1]))


def test_of_each_quarter_only_the_last_three_readings_count(house):
    """So no more of them have to be read from a store, at whatever interval they come."""
    quarters = {}
    for ms, value in house.outside:
        quarters.setdefault(-(-ms // QUARTER), []).append((ms, value))
    whole, part = iot.Quarters(16), iot.Quarters(16)
    for readings in quarters.values():
        for reading in readings:
            whole.add(*reading)
        for reading in readings[-3:]:
            part.add(*reading)
    end = max(quarters)
    assert sum(map(len, quarters.values())) > 4 * len(quarters)
    assert whole.until(end)[-10 * 96:] == part.until(end)[-10 * 96:]


# -- learning -------------------------------------------------------------------------------------


def test_misses_widen_and_hits_narrow_the_interval_within_bounds():
    assert iot.learn_width([]) == iot.FIRST_WIDTH
    assert iot.learn_width([99.0] * 3) > iot.FIRST_WIDTH > iot.learn_width([0.1] * 3)
    assert iot.learn_width([99.0] * 100) == iot.MOST_WIDTH
    assert iot.learn_width([0.0] * 100) == iot.LEAST_WIDTH
    settled = [iot.learn_width([5 * (i % 5 == 0) for i in range(n)]) for n in (50, 55, 60)]
    assert max(settled) / min(settled) == pytest.approx(1)      # one in five missed: as it is


def test_what_came_is_measured_in_halves_of_the_interval():
    forecast = iot.Forecast("cooler", NOON + 120 * MINUTE, NOON + 60 * MINUTE,
                            NOON + 300 * MINUTE, 0.9, 9, (), ())

    def outcome(crossing, **changes):
        gaps, before = ([-1.0 if i < at else 1.0 for i in range(52)] for at in (crossing, 10))
        return iot.assess(forecast._replace(**changes), NOON, gaps, before)
    assert outcome(4.0) == Outcome(NOON, "cooler", pytest.approx(67.5 / 60),
                                     67.5 * MINUTE, 90 * MINUTE)
    assert outcome(20).score == pytest.approx((292.5 - 120) / 180)
    assert outcome(60).score == iot.NEVER                     # it has not come at all
    assert outcome(60, end=None).score == 0.0                   # which the interval allowed
    assert outcome(4.0, at=None) is None
    assert iot.assess(forecast, NOON, [math.nan] * 52, [math.nan] * 52) is None


def test_an_hour_learns_from_its_own_yesterday_and_forgets_after_two_months():
    forecaster = feed(make_house(10), NOON + 4 * HOUR)
    asked = NOON + 4 * HOUR
    assert forecaster.ask(asked)
    assert forecaster.learn(asked + DAY) is None                # nothing is known of that day
    forecaster = feed(make_house(11, end=asked + DAY), asked)
    forecaster.ask(asked)
    feed(make_house(11, end=asked + DAY), asked + DAY, forecaster)
    outcome = forecaster.learn(asked + DAY)
    assert outcome.asked == asked
    assert outcome.error < HOUR
    narrow = forecaster.ask(asked + DAY)
    for days in range(20):
        forecaster.outcomes.append(Outcome(asked - days * DAY, "cooler", 5.0, HOUR, HOUR))
    wide = forecaster.ask(asked + DAY)
    assert wide.end - wide.start > 1.5 * (narrow.end - narrow.start)
    assert wide.at == narrow.at
    assert len(forecaster.find_outcomes(asked + DAY, "cooler")) == 21
    assert forecaster.find_outcomes(asked + DAY + HOUR, "cooler") == []
    assert forecaster.find_outcomes(asked + 100 * DAY, "cooler") == []


# -- speed ----------------------------------------------------------------------------------------


def count_calls(forecaster, now):
    profile = cProfile.Profile()
    profile.runcall(forecaster.ask, now)
    return pstats.Stats(profile).total_calls


def test_a_question_costs_the_same_at_any_interval_and_after_any_history():
    now = NOON + 4 * HOUR
    usual = count_calls(feed(make_house(50), now), now)
    assert usual < 15_000
    quick = feed(make_house(48), now - 2 * DAY)
    assert count_calls(feed(make_house(2, 5000), now, quick), now) < 1.02 * usual
    assert count_calls(feed(make_house(400, 15 * MINUTE), now), now) < 1.02 * usual


def test_what_is_kept_is_bounded():
    series = iot.Quarters(16)
    for ms in range(NOON, NOON + 400 * DAY, HOUR):
        series.add(ms, 20.0)
    series.add(NOON + 9000 * DAY, 20.0)
    assert len(series.values) <= 3 * iot.KEPT


# -- its parts ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("gaps", "at"), [
    ([-1, -1, 1, 1, 1, 1, 1], 1.5),
    ([-1, 1, 1, 1, 1, 1, 1], 0.5),
    ([-3, 1, 1, 1, 1, 1, 1], 0.75),
    ([-1, 1, 1, 1, -1, 1, 1, 1, 1, 1], 4.5),        # a cloud
    ([-1, -1, -1, -1, -1, -1], math.inf),
    ([-1, -1, -1, 1, 1, 1], math.inf),              # nobody knows whether it lasts
])
def test_a_crossing_has_to_last(gaps, at):
    assert iot.find_crossing(gaps) == at


def test_solve_inverts():
    rows = iot.solve([[4.0, 1.0, 1.0, 0.0], [2.0, 3.0, 0.0, 1.0]])
    assert rows == [pytest.approx([0.3, -0.1]), pytest.approx([-0.2, 0.4])]
