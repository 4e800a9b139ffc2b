"""Silence and single bad readings: a verdict is always one of four, whatever stations do."""
import bisect
import csv
import functools
import itertools
import random
from datetime import datetime
from pathlib import Path

import hypothesis.strategies as some
import pytest
from hypothesis import given, settings
from verdicts import go_on, judge

import iotserver as iot
from iotserver import DAY, DWELL, HOUR, MINUTE

NOON = 1_532_952_000_000        # 2018-07-30T12:00:00Z in ms
COMFORT = 22.0
STATES = {"open", "close", "comfortable", "unknown"}
INTERVALS = [5, 10, 60, 600, 1800, 3600, 7 * 3600, 12 * 3600, 86_400]      # s


def every(seconds, start, end, value=25.0):
    """A reading each so many seconds of [start, end)."""
    return [(ms, value) for ms in range(start, end, seconds * 1000)]


def watch(inside, outside, start, end, step=MINUTE, learned=(iot.SILENT_AT_LEAST,) * 2):
    """(time, verdict) as a server says it at every step, each continuing the one before."""
    course = iot.START
    for now in range(start, end, step):
        parts = [[r for r in side if now - iot.REPLAY_WINDOW < r[0] <= now]
                 for side in (inside, outside)]
        verdict, course = go_on(*parts, now, COMFORT, course, learned)
        yield now, verdict


@settings(max_examples=60)
@given(some.sampled_from(INTERVALS[3:]), some.sampled_from(INTERVALS[3:]),
       some.integers(0, DAY), some.integers(0, DAY), some.integers(0, 3 * DAY),
       some.integers(1, 60 * HOUR), some.lists(some.integers(0, 100 * HOUR), max_size=20))
def test_always_one_of_four_whatever_the_intervals(a, b, first, second, stop, pause, moments):
    """From the first minute on, with an offset and a pause of up to 60 hours."""
    inside = every(a, NOON + first, NOON + 100 * HOUR, 28.0)
    outside = [r for r in every(b, NOON + second, NOON + 100 * HOUR)
               if not stop <= r[0] - NOON < stop + pause]
    for now in (NOON + ms for ms in sorted({first, second, stop, stop + pause, *moments})):
        parts = [[r for r in side if now - iot.REPLAY_WINDOW < r[0] <= now]
                 for side in (inside, outside)]
        verdict = judge(*parts, now, COMFORT)
        assert verdict.state in STATES
        assert (verdict.state == "unknown") == (verdict.silent is not None)
        ends = [side[-1][0] + iot.silence_limit([ms for ms, _ in side]) if side else 0
                for side in parts]
        assert (verdict.state == "unknown") == (now > min(ends))


@pytest.mark.parametrize("seconds", INTERVALS)
def test_always_one_of_four_from_the_first_minute_on(seconds):
    """Both stations with one interval, half of it apart: as after an installation.

    Of what is sent less often than each 8 hours, 40 hours hold too little to learn from.
    """
    length = min(40 * seconds * 1000, 5 * DAY)
    inside = every(seconds, NOON, NOON + length, 28.0)
    outside = every(seconds, NOON + seconds * 500, NOON + length)
    step = max(seconds * 1000 // 4, 1000)
    learned = [1000 * seconds * 3] * 2 if seconds > 8 * 3600 else [iot.SILENT_AT_LEAST] * 2
    states = [v.state for _, v in watch(inside, outside, NOON, NOON + length, step, learned)]
    assert set(states) <= {"open", "unknown"}
    assert "open" in states


@pytest.mark.parametrize("now", [0, MINUTE, HOUR])
def test_one_of_four_by_a_clock_that_was_never_set(now):
    for sides in (([], []), ([(0, 25.0)], []), ([], [(0, 25.0)]), ([(now, 25.0)], [(now, 20.0)])):
        assert judge(*sides, now, COMFORT).state == ("open" if all(sides) else "unknown")


# -- intervals between arrivals -------------------------------------------------------------------

def learn(arrivals):
    """The limit that a station has after updates at these times."""
    return functools.reduce(iot.learn_silence, (b - a for a, b in itertools.pairwise(arrivals)),
                            iot.SILENT_AT_LEAST)


def no_answer(arrivals, readings, start, end):
    """How many minutes of [start, end) the inside station counts as silent."""
    outside, silent = every(60, NOON - DAY, NOON + 4 * DAY, 20.0), 0
    for now in range(start, end, MINUTE):
        came = [ms for ms in arrivals if ms <= now]
        known = [(ms, 25.0) for arrived, ms in readings if arrived <= now and ms > now - DAY / 2]
        verdict = judge(sorted(known), [r for r in outside if now - HOUR < r[0] <= now], now,
                            COMFORT, learned=(learn(came), iot.SILENT_AT_LEAST))
        silent += verdict.silent == "inside"
    return silent


@pytest.mark.untraced
def test_batches_are_no_silence():
    """Six readings once an hour, each ten minutes older than the next one."""
    arrivals = [NOON + i * HOUR for i in range(24)]
    readings = [(ms, ms - i * 10 * MINUTE) for ms in arrivals for i in range(6)]
    assert no_answer(arrivals, readings, NOON + 3 * HOUR, NOON + 24 * HOUR) == 0


@pytest.mark.untraced
@pytest.mark.parametrize("minutes", [10, 20, 50])
def test_bursts_are_no_silence(minutes):
    """Three updates within two seconds, each so many minutes."""
    arrivals = [NOON + i * minutes * MINUTE + j * 1000 for i in range(20) for j in range(3)]
    readings = [(ms, ms) for ms in arrivals]
    assert no_answer(arrivals, readings, arrivals[9], arrivals[-1]) == 0


@pytest.mark.untraced
def test_changed_period_costs_twenty_minutes_of_no_answer():
    times = [NOON + i * MINUTE for i in range(300)]
    times += [times[-1] + i * 30 * MINUTE for i in range(1, 20)]
    assert no_answer(times, [(ms, ms) for ms in times], NOON + HOUR, times[-1]) <= 20


def test_a_limit_that_an_outage_taught_is_forgotten():
    times = [NOON + i * MINUTE for i in range(100)]
    times += [times[-1] + 3 * DAY + i * MINUTE for i in range(100)]
    assert learn(times[:101]) > iot.SILENT_AT_LEAST
    assert learn(times) == iot.SILENT_AT_LEAST


@given(some.lists(some.integers(-HOUR, 3 * DAY), max_size=50))
def test_the_limit_is_bounded_by_what_was_seen(pauses):
    limit = functools.reduce(iot.learn_silence, pauses, iot.SILENT_AT_LEAST)
    assert limit >= iot.SILENT_AT_LEAST
    assert limit <= max([iot.SILENT_AT_LEAST, *(3 * p for p in pauses)])


# -- one bad reading ------------------------------------------------------------------------------

def test_what_is_said_is_what_the_newest_readings_say():
    """The figure stands beside the two temperatures: it has to be their difference."""
    inside = [(NOON + i * MINUTE, 26 + i / 10) for i in range(30)]
    outside = [(NOON + i * MINUTE, 24 - i / 10) for i in range(30)]
    for count in (1, 2, 3, 30):
        verdict = judge(inside[:count], outside[:count], NOON + count * MINUTE, 22)
        assert verdict.difference == pytest.approx(inside[count - 1][1] - outside[count - 1][1])
        assert (verdict.inside, verdict.outside) == (inside[count - 1][1], outside[count - 1][1])


SPIKES = [0.0, -127.0, 85.0, 1e9, 23.0, -3.4e38]


@pytest.mark.parametrize("spike", SPIKES)
@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("inside", [24.0, 28.0, 20.0])
@pytest.mark.parametrize("outside", [18.0, 31.0])
def test_one_bad_reading_changes_no_answer(spike, side, inside, outside):
    sides = [every(60, NOON, NOON + 2 * HOUR, inside), every(60, NOON, NOON + 2 * HOUR, outside)]
    spiked = [list(s) for s in sides]
    spiked[side][70] = (spiked[side][70][0], spike)
    for now in range(NOON + 70 * MINUTE, NOON + 75 * MINUTE, MINUTE):
        good, bad = (next(v for _, v in watch(*s, now, now + 1)) for s in (sides, spiked))
        assert (good.state, good.since) == (bad.state, bad.since)
        if abs(spike - (inside, outside)[side]) > iot.DOUBT_MARGIN:
            assert bad.difference == pytest.approx(good.difference)
    good, bad = ([v.state for _, v in watch(*s, NOON + HOUR, NOON + 2 * HOUR)]
                 for s in (sides, spiked))
    assert good == bad


# -- the window -----------------------------------------------------------------------------------

@pytest.mark.parametrize("seed", range(3))
def test_no_two_changes_within_the_dwell_whatever_the_window_does(seed, monkeypatch):
    """Inside wavers around the limit of comfort: where the window begins, decided everything."""
    monkeypatch.setattr(iot, "REPLAY_WINDOW", 2 * HOUR)
    mix = random.Random(seed)
    inside = [(NOON + i * MINUTE, COMFORT + mix.choice([-0.1, 0.1, 0.3, 2.0, 2.6]))
              for i in range(8 * 60)]
    outside = [(ms, COMFORT + mix.choice([-0.3, -0.2, 0.2, 2.9])) for ms, _ in inside]
    states = [(now, v.state) for now, v in watch(inside, outside, NOON, NOON + 8 * HOUR)]
    changes = [now for (_, a), (now, b) in itertools.pairwise(states) if a != b]
    assert all(later - sooner >= DWELL for sooner, later in itertools.pairwise(changes))


@pytest.mark.untraced
def test_a_verdict_goes_on_after_a_silence_where_it_was():
    """Comfortable at 24 since it was cool: that stays so, whatever the new window begins with."""
    later = every(60, NOON + 50 * HOUR, NOON + 51 * HOUR, 24)
    inside = [(NOON, 21.9), (NOON + MINUTE, 21.9), *later]
    outside = every(60, NOON, NOON + 51 * HOUR, 18.0)
    states = [v.state for _, v in watch(inside, outside, NOON, NOON + 51 * HOUR, 10 * MINUTE)]
    assert [state for state, _ in itertools.groupby(states)] == [
        "comfortable", "unknown", "comfortable"]


# -- real weather ---------------------------------------------------------------------------------

@pytest.mark.untraced
@pytest.mark.parametrize("noise", [0, 1.5])
def test_a_week_of_real_weather_minute_by_minute(noise):
    """As a server says it: nothing but the four, and no two changes within the dwell, also with
    sensors that waver; but for a difference of URGENT_MARGIN, which there is with these only."""
    mix = random.Random(1)
    with (Path(__file__).parents[1] / "data/falkensee_two_weeks.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    sides = ([], [])
    for row in rows:
        ms = int(datetime.fromisoformat(row["time"]).timestamp() * 1000)
        for side, column in zip(sides, ("inside_c", "outside_c"), strict=True):
            if row[column] and (not side or ms - sides[0][0][0] < 7 * DAY):
                side.append((ms, float(row[column]) + mix.uniform(-noise, noise)))
    start = sides[0][0][0]
    course, seen = iot.START, []
    for now in range(start, start + 7 * DAY, MINUTE):
        parts = [side[bisect.bisect(side, (now - 4 * HOUR,)):bisect.bisect(side, (now + 1,))]
                 for side in sides]
        verdict, course = go_on(*parts, now, COMFORT, course)
        seen.append((now, verdict.state, verdict.difference))
    assert {state for _, state, _ in seen} <= STATES
    known = [row for row in seen if row[1] != "unknown"]
    changes = [(now, abs(difference) >= iot.URGENT_MARGIN and noise > 0)
               for (_, a, _), (now, b, difference) in itertools.pairwise(known) if a != b]
    assert 5 <= len(changes) <= (60 if noise else 28)
    assert all(later - sooner >= DWELL or is_urgent
               for (sooner, _), (later, is_urgent) in itertools.pairwise(changes))
