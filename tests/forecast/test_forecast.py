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
from iotserver import DAY, HORIZON, HOUR, MINUTE, QUARTER, Outcome

pytestmark = pytest.mark.slow

WEEKS = Path(__file__).parent.parent / "data" / "falkensee_two_weeks.csv"
NOON = 1_532_952_000_000        # 2018-07-30T12:00:00Z in ms


@pytest.fixture(scope="module")
def house():
    return yardstick.read_house(WEEKS)


def ask(house, now):
    """What is said of a house, from what it has measured until then."""
    *_, (_, said, _) = yardstick.foresee(iot, house, now, now)
    return said


def feed(house, until):
    """The quarters of an hour of outside and inside that a house has measured until then."""
    sides = yardstick.by_quarter(house.outside), yardstick.by_quarter(house.inside)
    series = iot.Quarters(iot.OUTSIDE_HOLE), iot.Quarters(iot.INSIDE_HOLE)
    for now in range(until - 46 * DAY, until + 1, QUARTER):
        for quarters, side in zip(series, sides, strict=True):
            quarters.add(side.get(now, [])[-3:])
    return [quarters.values for quarters in series]


def quarters(bridge, *values):
    """A series whose quarters have these readings: a number, a list of them, or None."""
    series = iot.Quarters(bridge)
    for number, value in enumerate(values):
        some = value if isinstance(value, list) else [] if value is None else [value]
        series.add([(NOON + number * QUARTER + i * MINUTE, v) for i, v in enumerate(some)])
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
    assert pooled["n"] >= 17
    assert pooled["ratio_mean"] < 0.8
    assert pooled["ratio_where_d"] < 0.9
    assert pooled["ratio_median"] < 1
    assert 0.6 <= pooled["coverage"] <= 0.95
    assert "ratio_where_d, pooled over 1 houses" in capsys.readouterr().out


def test_equal_days_are_foretold_to_the_quarter():
    house = make_house(10)
    said = ask(house, NOON + 4 * HOUR)
    tomorrow = make_house(1, MINUTE, end=NOON + 4 * HOUR + DAY)
    came = next(ms for (ms, a), (_, b) in zip(tomorrow.inside, tomorrow.outside, strict=True)
                if a > b)
    assert said.event == "cooler"
    assert abs(said.at - came) < QUARTER
    assert said.start - MINUTE <= came <= said.end + MINUTE
    assert said.chance > 0.8


@pytest.mark.parametrize(("days", "is_said"), [(4.9, False), (5.3, True)])
def test_below_five_usable_days_nothing_is_said(days, is_said):
    house, now = make_house(10), NOON + 4 * HOUR
    for silent in ("outside", "inside"):
        short = house._replace(**{silent: [r for r in getattr(house, silent)
                                           if r[0] > now - days * DAY]})
        assert (ask(short, now) is not None) == is_said


def test_days_in_the_middle_that_are_missing_are_no_history():
    house, now = make_house(10), NOON + 4 * HOUR
    holed = house._replace(outside=[r for r in house.outside
                                    if not now - 7 * DAY < r[0] < now - DAY])
    assert ask(house, now).days == 10
    assert ask(holed, now) is None


def test_an_evening_that_may_not_come_says_when_if_it_does():
    """Of three evenings one stayed warm until long after midnight, or two; the rest were alike."""
    now = NOON + 4 * HOUR
    house = make_house(30)

    def ask_with(are_odd):
        return ask(house._replace(outside=[
            (ms, value + 15 * ((ms - now) // DAY % 3 in are_odd
                               and 3 * HOUR < (ms - now) % DAY < 18 * HOUR))
            for ms, value in house.outside]), now)

    always, mostly = ask_with({}), ask_with({1})
    assert always.chance > 0.9
    assert 0.5 < mostly.chance < 0.85
    assert abs(mostly.at - always.at) < HOUR
    assert ask_with({1, 2}) is None, "it is not more likely than not"


def test_the_morning_of_equal_days_is_foretold_too():
    house = make_house(40)
    said = ask(house, NOON - 9 * HOUR)
    assert said.event == "warmer"
    assert said.start <= said.at <= said.end
    assert said.chance > 0.8


def test_a_room_that_no_day_has_cooled_gets_no_answer_for_the_morning():
    house = make_house(10, gap=15.0)
    assert ask(house, NOON) is None


@pytest.mark.parametrize(("event", "hours", "chance", "is_said"), [
    ("warmer", 3, 0.8, True), ("warmer", 3, 0.7, False), ("warmer", 4, 0.9, False),
    ("cooler", 9, 0.3, True)])
def test_a_morning_is_said_when_it_is_likely_and_narrow(event, hours, chance, is_said):
    said = iot.Forecast(event, NOON + HOUR, NOON, NOON + hours * HOUR, chance, 9, (), ())
    assert iot.is_worth_saying(said) == is_said


def test_not_tonight_takes_thirty_days():
    """Outside never gets cooler than inside, and has not for as long as anybody knows."""
    assert ask(make_house(20, gap=-12.0), NOON + 4 * HOUR) is None
    said = ask(make_house(35, gap=-12.0), NOON + 4 * HOUR)
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


def is_causal(house, ask=ask):
    hours = range(house.outside[0][0] // HOUR * HOUR + 6 * DAY, house.outside[-1][0] - DAY,
                  11 * HOUR)
    asked = [[say(ask(variant, now)) for variant in (house, cut(house, now), spoil(house, now))]
             for now in hours]
    assert sum(whole is not None for whole, *_ in asked) > len(asked) / 6
    return all(whole == part == spoiled for whole, part, spoiled in asked)


def test_what_is_said_depends_on_nothing_later(house):
    assert is_causal(house)


def test_a_copy_that_peeks_is_found_out(house):
    """It knows the next quarter of an hour already."""
    assert not is_causal(house, lambda house, now: ask(house, now + QUARTER))


def test_what_became_of_it_depends_on_nothing_later(house):
    first = house.outside[0][0] // HOUR * HOUR
    whole = list(yardstick.foresee(iot, house, first, first + 11 * DAY))
    spoiled = list(yardstick.foresee(iot, spoil(house, first + 9 * DAY), first, first + 9 * DAY))
    assert spoiled == whole[:len(spoiled)]
    assert sum(outcome is not None for *_, outcome in spoiled) > 20


def test_an_answer_does_not_depend_on_where_the_questions_begin(house):
    first = house.outside[0][0] // HOUR * HOUR
    end = first + 11 * DAY
    whole = [said for _, said, _ in yardstick.foresee(iot, house, first, end)]
    late = [said for _, said, _ in yardstick.foresee(iot, house, end - 4 * DAY, end)]
    assert late[-96:] == whole[-96:]
    assert sum(said is not None for said in late) > 20


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
    said = ask(yardstick.House("", inside, outside, {}), now)
    assert said is None or 0 <= said.chance <= 1


HOLES = some.lists(some.tuples(
    some.sampled_from(["inside", "outside"]), some.integers(0, 21 * 24),
    some.sampled_from([3, 4, 5, 7, 11, 12, 13, 24, 40, 72])), max_size=12)


@settings(max_examples=25, deadline=None)
@given(HOLES, some.integers(0, 95), some.sampled_from([20 * MINUTE, HOUR]))
@example([("outside", 17 * 24 + 2, 7)], 0, 20 * MINUTE)     # one evening, while it crosses
def test_holes_over_weeks_raise_nothing_and_end_no_forecast(holes, quarter, every):
    """Hours and whole days in which a station was silent; asked live, and each hour in review."""
    end = NOON + quarter * QUARTER
    house = make_house(21, every)
    begin = NOON - 17 * DAY
    for side, hours, lasts in holes:
        house = house._replace(**{side: [r for r in getattr(house, side) if not begin
                                         <= r[0] - hours * HOUR < begin + lasts * HOUR]})
    live = list(yardstick.foresee(iot, house, end - iot.RECORD_DAYS * DAY, end, DAY))
    reviewed = {now: said for now, said, _ in yardstick.foresee(
        iot, house, end - 4 * DAY, end)}
    assert live[-1][1] == reviewed[end]
    last = max(begin + (hours + lasts) * HOUR for _, hours, lasts in holes) if holes else begin
    if end - last > 7 * DAY:
        assert ask(house, NOON + 4 * HOUR), "it has come back"


@pytest.mark.parametrize("wrong", [1001, -1e9, 2.0 ** 32, 1e300])
@pytest.mark.parametrize("side", ["inside", "outside"])
def test_what_is_no_weather_is_no_reading(side, wrong):
    whole = make_house(20)
    end = NOON + 4 * HOUR - 3 * DAY
    spoilt, holed = ([(ms, value) if not end - HOUR <= ms <= end else (ms, wrong)
                      for ms, value in getattr(whole, side)], [
        (ms, value) for ms, value in getattr(whole, side) if not end - HOUR <= ms <= end])
    said = [say(ask(whole._replace(**{side: readings}), NOON + 4 * HOUR))
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
    said = ask(yardstick.House("", inside, outside, {}), now)
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
    outside, inside = feed(house, end)
    assert math.isfinite(outside[-1] + inside[-1]) == is_said
    assert is_said or ask(house, end) is None


def test_a_single_wrong_reading_changes_nothing():
    house = make_house(10)
    broken = house._replace(outside=[(ms, 85.0 if i % 500 == 250 else value)
                                     for i, (ms, value) in enumerate(house.outside)])
    now = NOON + 4 * HOUR
    right, wrong = (ask(h, now) for h in (house, broken))
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


# -- how good it was ------------------------------------------------------------------------------


def test_what_came_is_as_far_off_as_it_was():
    def outcome(crossing, before=10, **changes):
        outside = [float("nan")] * iot.KEPT
        for i in range(52):
            outside[i - 97], outside[i - 193] = (1.0 if i < at else -1.0
                                                 for at in (crossing, before))
        said = iot.Forecast("cooler", NOON + 120 * MINUTE, NOON + 60 * MINUTE,
                            NOON + 300 * MINUTE, 0.9, 9, (), (), NOON)._replace(**changes)
        return iot.assess(said, [0.0] * iot.KEPT, outside)
    assert outcome(4) == Outcome("cooler", 67.5 * MINUTE, 90 * MINUTE, 67.5 / 60)
    assert outcome(60) == Outcome(
        "cooler", 600 * MINUTE, 720 * MINUTE - 9.5 * QUARTER, 600 / 180)
    assert outcome(4, at=None) is None
    assert outcome(4, 60) == Outcome(
        "cooler", 67.5 * MINUTE, 720 * MINUTE - 3.5 * QUARTER, 67.5 / 60)


def test_an_interval_is_as_wide_as_would_have_held_the_past_evenings():
    said = iot.Forecast("cooler", NOON + 2 * HOUR, NOON + HOUR, NOON + 5 * HOUR, 0.9, 9, (), (),
                        NOON)

    def width(*scores, event="cooler"):
        found = iot.widen(said, [None, *(Outcome(event, 0, 0, score) for score in scores)])
        assert [outcome.score for outcome in found.past] == [*scores] * (event == "cooler")
        return (found.at - found.start) / HOUR, (found.end - found.at) / HOUR

    assert width() == width(1.5, 1.5, event="warmer") == pytest.approx((0.9, 2.7))
    assert width(*[1.5] * 30) == pytest.approx((1.5, 4.5))
    assert width(*[0.5] * 30) == pytest.approx((0.5, 1.5), abs=0.01)
    assert width(*[0.5] * 24, *[1.8] * 6) == pytest.approx((0.9, 2.7), abs=0.3)
    assert width(*[9] * 30) == (2, 10)      # it is not in the past, nor beyond the horizon


def test_a_morning_has_a_wider_interval_because_only_narrow_ones_are_said():
    """Of evenings and mornings that were equally far off."""
    scores = [*[0.5] * 26, *[1.0] * 7]

    def half(event):
        said = iot.Forecast(event, NOON + 2 * HOUR, NOON + HOUR, NOON + 3 * HOUR, 0.9, 9, (), (),
                            NOON)
        found = iot.widen(said, [Outcome(event, 0, 0, score) for score in scores])
        return (found.end - found.at) / HOUR
    assert half("cooler") == pytest.approx(0.9)
    assert half("warmer") == pytest.approx(1.15)


@pytest.mark.parametrize(("ago", "is_known"), [(50, False), (100, True), (150, False)])
def test_a_night_that_nobody_knows_has_no_outcome(ago, is_known):
    """Nor has the one after it, of which the difference to yesterday's curve is told."""
    said = iot.Forecast("cooler", NOON + HOUR, NOON, NOON + 2 * HOUR, 0.9, 9, (), (), NOON)
    outside = [-1.0] * iot.KEPT
    assert iot.assess(said, [0.0] * iot.KEPT, outside)
    outside[-ago] = math.nan
    assert (iot.assess(said, [0.0] * iot.KEPT, outside) is not None) == is_known


def test_each_day_tells_what_became_of_the_day_before():
    now = NOON + 4 * HOUR
    rows = list(yardstick.foresee(iot, make_house(20), now - 10 * DAY, now, DAY))
    outcomes = [outcome for *_, outcome in rows if outcome]
    assert len(outcomes) == 11
    assert all(outcome.event == "cooler" and outcome.error < HOUR for outcome in outcomes)


# -- speed ----------------------------------------------------------------------------------------


def count_calls(house, now):
    quarters = feed(house, now)
    profile = cProfile.Profile()
    assert profile.runcall(iot.foretell, *quarters, now)
    return pstats.Stats(profile).total_calls


def test_a_question_costs_the_same_at_any_interval_and_after_any_history():
    now = NOON + 4 * HOUR
    usual = count_calls(make_house(50), now)
    assert usual < 15_000
    quick = make_house(2, 5000)
    quick = quick._replace(**{name: [r for r in getattr(make_house(50), name)
                                     if r[0] < now - 2 * DAY] + getattr(quick, name)
                              for name in ("inside", "outside")})
    assert count_calls(quick, now) < 1.02 * usual
    assert count_calls(make_house(400, 15 * MINUTE), now) < 1.02 * usual


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
