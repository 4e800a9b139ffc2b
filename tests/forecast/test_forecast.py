"""The forecast: never from the future, never absurd, quick at any history, and better than
yesterday's curves. How good it is on whole summers: yardstick.py."""
import cProfile
import itertools
import math
import pstats
from pathlib import Path

import hypothesis.strategies as some
import pytest
import yardstick
from hypothesis import example, given, settings

import iotserver as iot
from iotserver import DAY, HORIZON, HOUR, MINUTE, QUARTER, Forecaster, Outcome

pytestmark = pytest.mark.slow

WEEKS = Path(__file__).parent.parent / "data" / "falkensee_two_weeks.csv"
NOON = 1_532_952_000_000        # 2018-07-30T12:00:00Z in ms


@pytest.fixture(scope="module")
def house():
    return yardstick.read_house(WEEKS)


def feed(house, until, forecaster=None):
    """A forecaster that knows what a house has measured until then, and was asked nothing yet."""
    forecaster = forecaster or Forecaster()
    for _ in yardstick.foresee(iot, house, until + QUARTER, until, forecaster):
        pass
    return forecaster


def quarters(bridge, *values):
    """A series whose quarters have these readings: a number, a list of them, or None."""
    series = iot.Quarters(bridge)
    for value in values:
        series.add(value if isinstance(value, list) else [] if value is None else [value])
    return series.values


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


def test_the_first_evening_has_an_answer_without_any_day_before():
    """From the last night's lowest alone; within two hours, where days are a wave."""
    now = NOON + 4 * HOUR
    house = make_house(1)
    house = house._replace(outside=[r for r in house.outside if r[0] > now - 16 * HOUR])
    said = feed(house, now).ask(now)
    came = feed(make_house(10), now).ask(now).at
    assert (said.event, said.days) == ("cooler", 0)
    assert abs(said.at - came) < 2 * HOUR
    assert said.start < said.at - 30 * MINUTE
    assert said.at + 30 * MINUTE < said.end


def test_an_evening_that_may_not_come_says_when_if_it_does():
    """Of three evenings one stayed warm until long after midnight, or two; the rest were alike."""
    now = NOON + 4 * HOUR
    house = make_house(30)

    def ask(are_odd):
        return feed(house._replace(outside=[
            (ms, value + 15 * ((ms - now) // DAY % 3 in are_odd
                               and 3 * HOUR < (ms - now) % DAY < 18 * HOUR))
            for ms, value in house.outside]), now).ask(now)

    always, mostly = ask({}), ask({1})
    assert always.chance > 0.9
    assert 0.5 < mostly.chance < 0.85
    assert abs(mostly.at - always.at) < HOUR
    assert ask({1, 2}) is None, "it is not more likely than not"


def test_the_morning_of_equal_days_is_foretold_too():
    house = make_house(40)
    said = feed(house, NOON - 9 * HOUR).ask(NOON - 9 * HOUR)
    assert said.event == "warmer"
    assert said.start <= said.at <= said.end
    assert said.chance > 0.8


def test_a_room_that_no_day_has_cooled_gets_no_answer_for_the_morning():
    house = make_house(10, gap=15.0)
    forecaster = feed(house, NOON)
    assert forecaster.ask(NOON) is None
    assert count_calls(forecaster, NOON) < 3000                 # nor is one looked for


@pytest.mark.parametrize(("event", "hours", "chance", "is_said"), [
    ("warmer", 3, 0.8, True), ("warmer", 3, 0.7, False), ("warmer", 4, 0.9, False),
    ("cooler", 9, 0.3, True)])
def test_a_morning_is_said_when_it_is_likely_and_narrow(event, hours, chance, is_said):
    said = iot.Forecast(event, NOON + HOUR, NOON, NOON + hours * HOUR, chance, 9, (), ())
    assert iot.is_worth_saying(said) == is_said


def test_not_tonight_takes_thirty_days():
    """Outside never gets cooler than inside, and has not for as long as anybody knows."""
    def ask(days):
        return feed(make_house(days, gap=-12.0), NOON + 4 * HOUR).ask(NOON + 4 * HOUR)
    assert ask(20) is None
    said = ask(35)
    assert (said.at, said.end) == (None, None)
    assert said.chance < 0.3


# -- causality ------------------------------------------------------------------------------------


def spoil(house, now):
    """The same up to now, and 1e9 from there on."""
    return house._replace(**{name: [(ms, value if ms <= now else 1e9)
                                    for ms, value in getattr(house, name)]
                             for name in ("inside", "outside")})


def cut(house, now):
    return house._replace(**{name: [r for r in getattr(house, name) if r[0] <= now]
                             for name in ("inside", "outside")})


def is_causal(house, ask):
    hours = range(house.outside[0][0] // HOUR * HOUR + 6 * DAY, house.outside[-1][0] - DAY,
                  11 * HOUR)
    asked = [[say(ask(variant, now)) for variant in (house, cut(house, now), spoil(house, now))]
             for now in hours]
    assert sum(whole is not None for whole, *_ in asked) > len(asked) / 6
    return all(whole == part == spoiled for whole, part, spoiled in asked)


def test_what_is_said_depends_on_nothing_later(house):
    assert is_causal(house, lambda house, now: feed(house, now).ask(now))


def test_a_copy_that_peeks_is_found_out(house):
    """It knows the next quarter of an hour already."""
    assert not is_causal(house, lambda house, now: feed(house, now + QUARTER).ask(now))


def test_what_is_learned_depends_on_nothing_later(house):
    first = house.outside[0][0] // HOUR * HOUR
    whole = list(yardstick.foresee(iot, house, first, first + 6 * DAY))
    spoiled = list(yardstick.foresee(iot, spoil(house, first + 4 * DAY), first, first + 4 * DAY))
    assert spoiled == whole[:len(spoiled)]
    assert sum(outcome is not None for *_, outcome in spoiled) > 20


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


@pytest.mark.parametrize("wrong", [1001, -1e9, 2.0 ** 32, 1e300])
@pytest.mark.parametrize("side", ["inside", "outside"])
def test_what_is_no_weather_is_no_reading(side, wrong):
    whole = make_house(20)
    end = NOON + 4 * HOUR - 3 * DAY
    spoilt, holed = ([(ms, value) if not end - HOUR <= ms <= end else (ms, wrong)
                      for ms, value in getattr(whole, side)], [
        (ms, value) for ms, value in getattr(whole, side) if not end - HOUR <= ms <= end])
    said = [say(feed(whole._replace(**{side: readings}), NOON + 4 * HOUR).ask(NOON + 4 * HOUR))
            for readings in (spoilt, holed)]
    assert said[0]
    assert said[0] == said[1]


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
    assert (said.at is None) == (said.start is None) == (said.end is None) == (
        said.chance < iot.UNLIKELY)


@pytest.mark.parametrize(("silent", "hours", "is_said"), [
    ("outside", 3, True), ("outside", 5, False), ("inside", 11, True), ("inside", 13, False)])
def test_a_station_that_is_silent_for_long_ends_the_forecast(silent, hours, is_said):
    house = make_house(10)
    end = NOON + 4 * HOUR
    house = house._replace(**{silent: [r for r in getattr(house, silent)
                                       if r[0] <= end - hours * HOUR]})
    forecaster = feed(house, end)
    assert math.isfinite(getattr(forecaster, silent).values[-1]) == is_said
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
    assert quarters(4, [20.2, 20.4, -127.0])[-1] == 20.2
    assert quarters(4, [20.2, 85.0, 20.4])[-1] == 20.4
    assert quarters(4, [20.2, 20.4, 22.5])[-1] == 22.5          # a quick change is


def test_a_hole_becomes_a_line_once_its_end_is_known():
    assert quarters(4, 10.0, None, None)[-3:] == [10.0, 10.0, 10.0]
    assert quarters(4, 10.0, None, None, None, 18.0)[-5:] == [10.0, 12.0, 14.0, 16.0, 18.0]
    assert quarters(4, 10.0, None, None, None, None, 20.0, None)[-4:] == [16.0, 18.0, 20.0, 20.0]


def test_a_long_hole_is_not_bridged_and_what_was_before_the_first_reading_is_unknown():
    values = quarters(4, 10.0, *[None] * 5, 20.0)
    assert values[-7] == 10.0
    assert all(map(math.isnan, values[-6:-1]))
    assert values[-1] == 20.0
    assert all(map(math.isnan, values[:-7]))
    assert len(values) == iot.KEPT


# -- learning -------------------------------------------------------------------------------------


def test_misses_widen_and_hits_narrow_the_interval_within_bounds():
    assert iot.learn_width([]) == iot.FIRST_WIDTH
    assert iot.learn_width([99.0] * 3) > iot.FIRST_WIDTH > iot.learn_width([0.1] * 3)
    assert iot.learn_width([99.0] * 100) == iot.MOST_WIDTH
    assert iot.learn_width([0.0] * 100) == iot.LEAST_WIDTH
    assert iot.learn_width([math.inf, 0.1, math.inf]) == iot.learn_width([0.1])     # never came
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
    assert outcome(60) == Outcome(NOON, "cooler", math.inf,         # it never came
                                  600 * MINUTE, 720 * MINUTE - 9.5 * QUARTER)
    assert outcome(4.0, at=None) is None
    assert iot.assess(forecast, NOON, [math.nan] * 52, [math.nan] * 52) is None


def test_an_hour_learns_from_its_own_yesterday_and_forgets_after_two_months():
    asked = NOON + 4 * HOUR
    forecaster = feed(make_house(10), asked)
    assert forecaster.ask(asked)
    assert forecaster.learn(asked + DAY - HOUR) is None         # it is not over yet
    house = make_house(11, end=asked + DAY)
    forecaster = Forecaster()
    *_, (_, narrow, outcome) = yardstick.foresee(iot, house, asked, asked + DAY, forecaster)
    assert outcome.asked == asked
    assert outcome.error < HOUR
    assert narrow.past == (outcome,)
    for days in range(20):
        forecaster.outcomes.append(Outcome(asked - days * DAY, "cooler", 5.0, HOUR, HOUR))
    wide = forecaster.ask(asked + DAY)
    assert wide.end - wide.start > 1.5 * (narrow.end - narrow.start)
    assert wide.at == narrow.at
    assert len(wide.past) == 21
    assert forecaster.find_outcomes(asked + DAY + 12 * HOUR, "cooler") == []
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
    quick = make_house(2, 5000)
    quick = quick._replace(**{name: [r for r in getattr(make_house(50), name)
                                     if r[0] < now - 2 * DAY] + getattr(quick, name)
                              for name in ("inside", "outside")})
    assert count_calls(feed(quick, now), now) < 1.02 * usual
    assert count_calls(feed(make_house(400, 15 * MINUTE), now), now) < 1.02 * usual


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
