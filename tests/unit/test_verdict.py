"""The verdict: cases, properties, and weeks of real weather; and what the page computes besides.

By hand, a whole file reading by reading:
    python tests/unit/test_verdict.py FILE [every Nth reading]
"""
import bisect
import csv
import itertools
import statistics
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple
from zoneinfo import ZoneInfo

import hypothesis.strategies as some
import pytest
from hypothesis import assume, example, given
from verdicts import go_on, judge

import iotserver as iot
from iotserver import (
    CLOSE_MARGIN,
    COMFORT_MARGIN,
    CONFIRM,
    DAY,
    DWELL,
    HOUR,
    MINUTE,
    OPEN_MARGIN,
    URGENT_MARGIN,
    Point,
    Verdict,
)

WEEKS = Path(__file__).parent.parent / "data" / "falkensee_two_weeks.csv"
NOON = 1_532_952_000_000        # 2018-07-30T12:00:00Z in ms
COMFORT = 22.0
BERLIN = ZoneInfo("Europe/Berlin")
MINUTES_OF = {"confirm": CONFIRM // MINUTE, "dwell": DWELL // MINUTE}


def judge_plateaus(*plateaus, silent_for=0):
    """The verdict after plateaus of (minutes, inside, inside minus outside), one reading each."""
    steps = [step[1:] for step in plateaus for _ in range(step[0])]
    times = [NOON + i * MINUTE for i in range(len(steps))]
    inside = [(ms, t) for ms, (t, _) in zip(times, steps, strict=True)]
    outside = [(ms, t - difference) for ms, (t, difference) in zip(times, steps, strict=True)]
    return judge(inside, outside, times[-1] + silent_for, COMFORT)


# -- a table of cases -----------------------------------------------------------------------------

HOT, LONG = COMFORT + 6, 45
SMALL = min(OPEN_MARGIN, CLOSE_MARGIN) / 2
C, D = MINUTES_OF["confirm"], MINUTES_OF["dwell"]


@pytest.mark.parametrize(("state", "plateaus"), [
    ("open", [(1, HOT, 3)]),                                # at once from the first readings
    ("open", [(1, HOT, 0.1)]),
    ("close", [(1, HOT, -0.1)]),
    ("close", [(1, HOT, 0)]),                               # nothing to gain
    ("comfortable", [(1, COMFORT, 9)]),
    ("comfortable", [(1, COMFORT - 5, -9)]),
    ("open", [(1, COMFORT + 0.1, 9)]),
    ("open", [(LONG, HOT, 3), (1, HOT, -9)]),               # one reading alone changes nothing
    ("close", [(LONG, HOT, 3), (2, HOT, -CLOSE_MARGIN)]),   # two of a clear difference: at once
    ("open", [(LONG, HOT, -3), (2, HOT, OPEN_MARGIN)]),
    ("open", [(LONG, HOT, 3), (C, HOT, -SMALL)]),           # a small one: once it has lasted
    ("close", [(LONG, HOT, 3), (C + 1, HOT, -SMALL)]),
    ("close", [(LONG, HOT, -3), (C, HOT, SMALL)]),
    ("open", [(LONG, HOT, -3), (C + 1, HOT, SMALL)]),
    ("open", [(LONG, HOT, 3), (C - 1, HOT, -SMALL), (2, HOT, SMALL), (C - 1, HOT, -SMALL)]),
    ("close", [(LONG, HOT, 3), (C - 1, HOT, -SMALL), (2, HOT, 0)]),     # equal: as before
    ("open", [(LONG, HOT, 3), (LONG, HOT, 0)]),
    ("open", [(LONG, HOT, -3), (D, HOT, 3), (0, HOT, -3)]),             # dwell: not back at once
    ("open", [(LONG, HOT, -2), (2, HOT, 2), (D - 1, HOT, -2)]),
    ("close", [(LONG, HOT, -2), (2, HOT, 2), (D, HOT, -2)]),
    ("close", [(LONG, HOT, -2), (2, HOT, 2), (2, HOT, -URGENT_MARGIN)]),    # this does not wait
    ("comfortable", [(LONG, HOT, 3), (2, COMFORT, 3)]),
    ("comfortable", [(LONG, COMFORT, 3), (LONG, COMFORT + COMFORT_MARGIN, 3)]),
    ("open", [(LONG, COMFORT, 3), (2, COMFORT + COMFORT_MARGIN + 0.1, 3)]),
    ("close", [(LONG, COMFORT, -3), (2, COMFORT + COMFORT_MARGIN + 0.1, -3)]),
    ("open", [(LONG, HOT, 3), (LONG, COMFORT + 0.1, 3)]),   # its margin counts once it was cool
])
def test_verdict_after_plateaus(state, plateaus):
    verdict = judge_plateaus(*plateaus)
    assert verdict.state == state
    last = [p for p in plateaus if p[0]][-1]
    if last[0] > 1 or len(plateaus) == 1:       # a single reading is not believed
        assert verdict.difference == pytest.approx(last[2])
        assert (verdict.inside, verdict.outside) == pytest.approx((last[1], last[1] - last[2]))
    assert verdict.silent is None


@pytest.mark.parametrize(("silent_for", "is_known"), [
    (0, True), (10 * MINUTE, True), (10 * MINUTE + 1, False), (DAY, False)])
def test_silence_of_a_station_that_sends_each_minute(silent_for, is_known):
    verdict = judge_plateaus((LONG, HOT, 3), silent_for=silent_for)
    assert verdict.state == ("open" if is_known else "unknown")
    assert is_known == (verdict.expires is not None)


@pytest.mark.parametrize(("every", "limit"), [(1, 10), (4, 12), (10, 30), (0.5, 10), (30, 90)])
@pytest.mark.parametrize("which", ["inside", "outside"])
def test_silence_is_three_usual_intervals_but_ten_minutes_at_least(every, limit, which):
    slow = [(NOON - round(i * every * MINUTE), 28.0) for i in range(30)][::-1]
    quick = [(NOON + i * MINUTE, 24.0) for i in range(-90, 100)]
    readings = {"inside": (slow, quick), "outside": (quick, slow)}[which]

    def at(now):
        return judge(*([r for r in side if r[0] <= now] for side in readings), now, COMFORT)
    last = NOON + limit * MINUTE
    assert at(NOON).expires == min(last, NOON + 10 * MINUTE)
    assert at(last).state == ("open" if which == "inside" else "close")
    assert at(last + 1)[:5] == ("unknown", None, NOON, None, which)


@pytest.mark.parametrize(("inside", "outside", "silent"), [
    ([], [], "outside"), ([(NOON, 28.0)], [], "outside"), ([], [(NOON, 28.0)], "inside")])
def test_no_reading_is_unknown_since_never(inside, outside, silent):
    assert judge(inside, outside, NOON, COMFORT)[:5] == ("unknown", None, None, None, silent)


def test_what_was_before_a_silence_confirms_nothing():
    """Ten minutes of a small difference, an hour of nothing, and one more such reading."""
    steps = [(i, 3 if i < LONG else -SMALL) for i in (*range(LONG + 10), LONG + 70)]
    inside = [(NOON + i * MINUTE, HOT) for i, _ in steps]
    outside = [(NOON + i * MINUTE, HOT - difference) for i, difference in steps]
    assert judge(inside, outside, inside[-1][0], COMFORT).state == "open"


# -- properties -----------------------------------------------------------------------------------

def add_up(steps):
    """(minutes since the one before, value) to readings."""
    times = itertools.accumulate(minutes for minutes, _ in steps)
    return [(NOON + minutes * MINUTE, value) for minutes, (_, value)
            in zip(times, steps, strict=True)]


def series(values, longest_pause):
    pause = some.sampled_from([1, 1, 1, 2, 3, longest_pause])
    return some.lists(some.tuples(pause, values), min_size=1, max_size=60).map(add_up)


INSIDE_VALUES = some.sampled_from([21.9, 22.0, 22.1, 24.4, 24.6, 25.0, 25.1])
OUTSIDE_VALUES = some.sampled_from([18.0, 22.0, 24.0, 24.4, 24.8, 25.2, 25.6, 26.0, 33.0])
STEADY = some.tuples(series(INSIDE_VALUES, 4), series(OUTSIDE_VALUES, 4))
ANY = some.tuples(series(INSIDE_VALUES, 90), series(OUTSIDE_VALUES, 90))


def replay(inside, outside):
    """(time, verdict) as they were seen when each reading had just come."""
    for now in sorted({ms for ms, _ in inside + outside}):
        yield now, judge(*([r for r in side if r[0] <= now] for side in (inside, outside)),
                             now, COMFORT)


def changes(seen):
    """[time, state] of each known state that differs from the known one before."""
    known = [(now, verdict.state) for now, verdict in seen if verdict.state != "unknown"]
    return [b for a, b in itertools.pairwise([(0, None), *known]) if a[1] != b[1]]


@given(ANY)
def test_two_changes_within_the_dwell_are_urgent(readings):
    """What two of three readings say differs by 3 degrees and more: that does not wait."""
    found = changes(replay(*readings))
    for (before, _), (after, _) in itertools.pairwise(found[1:]):
        inside, outside = ([*iot.sayings([r for r in side if r[0] <= after],
                                         iot.SILENT_AT_LEAST)][-1].value for side in readings)
        assert after - before >= DWELL or abs(inside - outside) >= iot.URGENT_MARGIN


@given(STEADY)
def test_since_stays_while_the_state_stays(readings):
    for (_, a), (now, b) in itertools.pairwise(replay(*readings)):
        if "unknown" not in {a.state, b.state}:
            assert b.since == (a.since if a.state == b.state else now)


@given(ANY, some.sampled_from([-9.0, -0.6, -0.2, 0.0, 0.2, 1.2]),
       some.sampled_from([0.0, 0.2, 0.5, 1.0, 9.0]))
def test_monotone_in_the_difference(readings, first, more):
    """The cooler the last reading from outside, the rather open; never the other way round. But
    one that is too far off to be believed says nothing."""
    inside, outside = readings
    now = max(inside[-1][0], outside[-1][0])
    base = inside[-1][1]
    for difference in (first, first + more):
        ends = [*outside, (now, base - difference)]
        assume(not [*iot.sayings(ends, iot.SILENT_AT_LEAST)][-1].is_doubted)
    ranks = [["close", "unknown", "comfortable", "open"].index(judge(
        inside, [*outside, (now, base - difference)], now, COMFORT).state)
        for difference in (first, first + more)]
    assert ranks == sorted(ranks)


@given(ANY, some.integers(0, 400))
def test_unknown_dominates(readings, later):
    """Unknown exactly when one of the stations has been silent for too long."""
    now = max(side[-1][0] for side in readings) + later * MINUTE // 4
    limits = [side[-1][0] + iot.silence_limit([ms for ms, _ in side]) for side in readings]
    verdict = judge(*readings, now, COMFORT)
    assert (verdict.state == "unknown") == (now > min(limits))
    assert verdict.state == "unknown" or verdict.expires == min(limits)
    assert judge([], readings[1], now, COMFORT).state == "unknown"


@given(ANY, some.integers(1, 100))
def test_the_same_after_replay_and_only_unknown_comes_with_time(readings, later):
    now = max(side[-1][0] for side in readings)
    verdict = judge(*readings, now, COMFORT)
    assert judge(*map(list, readings), now, COMFORT) == verdict
    aged = judge(*readings, now + later * MINUTE // 10, COMFORT)
    assert aged == verdict or aged.state == "unknown"


@given(STEADY)
@example(([(NOON, 28.0)], [(NOON, 28.0)]))
def test_an_unknown_past_makes_no_difference_to_a_clear_present(readings):
    """An hour of one clear state is that state, whatever was before."""
    inside, outside = ([*side, *((side[-1][0] + i * MINUTE, t) for i in range(1, 91))]
                       for side, t in zip(readings, (30.0, 20.0), strict=True))
    assert judge(inside, outside, min(inside[-1][0], outside[-1][0]), COMFORT).state == "open"


# -- real weather ---------------------------------------------------------------------------------

class Weather(NamedTuple):
    """Readings of a house as measured."""
    inside: list
    outside: list

    def part(self, start, end):
        """The readings of [start, end)."""
        return [side[bisect.bisect_left(side, (start,)):bisect.bisect_left(side, (end,))]
                for side in self]


def read_weather(path):
    with open(path, newline="") as file:
        rows = [(int(datetime.fromisoformat(row["time"]).timestamp() * 1000), row)
                for row in csv.DictReader(file)]
    return Weather(*([(ms, float(row[column])) for ms, row in rows if row[column]]
                     for column in ("inside_c", "outside_c")))


def judge_weather(weather):
    """(time, verdict) at every reading: each continues the one before, as in a server."""
    course = iot.START
    for now in sorted({ms for side in weather for ms, _ in side}):
        verdict, course = go_on(*weather.part(now - 4 * HOUR, now + 1), now, COMFORT, course)
        yield now, verdict


def judge_without_margins(weather, comfort):
    """(time, verdict) by the last two temperatures alone."""
    last = [None, None]
    for ms, i, value in sorted((ms, i, value) for i, side in enumerate(weather)
                               for ms, value in side):
        last[i] = value
        if i and None not in last:
            state = ("comfortable" if last[0] <= comfort else
                     "open" if last[0] > last[1] else "close")
            yield ms, Verdict(state, None, ms, None, None)


def exact_changes(judged):
    """(time, state) of the changes, to the reading: a verdict says since when it holds."""
    found, before, state = [], 0, None
    for now, verdict in judged:
        if verdict.state not in {"unknown", state}:
            found.append((verdict.since if verdict.since > before else now, verdict.state))
            state = verdict.state
        before = now
    return found


def lasting_crossings(weather, at_least):
    """(time, sign) of each crossing after which inside minus outside keeps its sign so long."""
    outside = dict(weather.outside)
    differences = [(ms, t - outside[ms]) for ms, t in weather.inside if ms in outside]
    start, sign = None, 0
    for (before, _), (ms, difference) in itertools.pairwise([(0, 0), *differences]):
        new = (difference > 0) - (difference < 0) or sign
        if new != sign or ms - before > 3 * 3 * MINUTE:
            start, sign = (ms if ms - before <= 3 * 3 * MINUTE else None), new
        if start and ms - start >= at_least:
            yield start, sign
            start = None


def late_crossings(weather, found, within):
    """The lasting crossings that got neither their answer nor a comfortable one in time."""
    times = [ms for ms, _ in found]
    late = []
    for ms, sign in lasting_crossings(weather, 45 * MINUTE):
        last = bisect.bisect_right(times, ms + within)
        first = max(bisect.bisect_right(times, ms) - 1, 0)
        if not {"open" if sign > 0 else "close", "comfortable"} & {
                state for _, state in found[first:last]}:
            late.append((iot.format_time(ms), sign))
    return late


def per_day(weather, found):
    """How many changes each local day had; those without any count too."""
    def day(ms):
        return datetime.fromtimestamp(ms / 1000, BERLIN).date()
    days = [day(ms) for ms, _ in found[1:]]
    first, last = day(weather.inside[0][0]), day(weather.inside[-1][0])
    return [days.count(first + timedelta(i)) for i in range((last - first).days + 1)]


def figures(counts):
    return (round(statistics.mean(counts), 2),
            sorted(counts)[-(-len(counts) * 95 // 100) - 1], max(counts))


@pytest.fixture(scope="module")
def weather():
    return read_weather(WEEKS)


@pytest.mark.untraced
def test_two_weeks_of_real_weather(weather):
    found = exact_changes(judge_weather(weather))
    mean, most, _ = figures(per_day(weather, found))
    assert mean <= 2.3                      # of the warmest weeks; 1.5 in the whole file
    assert most <= 4
    assert len(list(lasting_crossings(weather, 45 * MINUTE))) >= 25
    assert not late_crossings(weather, found, 20 * MINUTE)
    assert {state for _, state in found} == {"open", "close", "comfortable"}


def test_without_margins_the_same_weeks_are_restless(weather):
    """What the margins are for; and that late crossings would be found."""
    naive = exact_changes(judge_without_margins(weather, -99))
    assert figures(per_day(weather, naive))[0] > 3.5
    assert not late_crossings(weather, naive, 20 * MINUTE)
    assert late_crossings(weather, naive[:len(naive) // 2], 20 * MINUTE)


def main(path):
    weather = read_weather(path)
    for name, judged in (
            ("by sign alone", judge_without_margins(weather, -99)),
            ("with the limit of comfort, no margins", judge_without_margins(weather, COMFORT)),
            ("as served", judge_weather(weather))):
        found = exact_changes(judged)
        counts = per_day(weather, found)
        late = late_crossings(weather, found, 20 * MINUTE)
        print("{}: changes a day: mean {}, 95 % of days at most {}, at most {};".format(
            name, *figures(counts)), f"days {len(counts)}, late crossings {len(late)} of "
              f"{len(list(lasting_crossings(weather, 45 * MINUTE)))} {late[:9]}")
        distances = [b[0] - a[0] for a, b in itertools.pairwise(found)]
        print(f"  {len(found)} changes, the closest two {min(distances) / MINUTE:g} min apart")


# -- what the page computes besides ---------------------------------------------------------------

@pytest.mark.parametrize(("minutes", "interval", "limit"), [
    ([], 1, 10), ([7], 1, 10), ([0, 10], 10, 30), ([0, 0, 0, 20], 20, 40), ([0, 2, 3, 4], 1, 10),
    ([0, 1, 2, 3, 33], 1, 40), ([0, 1, 2, 3, 33, *range(34, 90)], 1, 10), ([0, 30, 60], 30, 90),
    ([*range(0, 600, 30), *range(600, 690)], 1, 10), ([0, 600, 601, 602], 1, 38)])
def test_usual_interval_and_silence_limit(minutes, interval, limit):
    times = [NOON + minute * MINUTE for minute in minutes]
    assert iot.usual_interval(times) == interval * MINUTE
    assert iot.silence_limit(times) == limit * MINUTE


@pytest.mark.parametrize(("word", "readings"), [
    ("", []), ("", [(0, 20)]), ("", [(-5, 20), (0, 25)]), ("steady", [(-20, 20), (0, 20.2)]),
    ("rising", [(-29, 20), (-10, 19), (0, 20.4)]), ("falling", [(-29, 20.0), (0, 19.5)]),
    ("steady", [(-90, 10), (-25, 20), (0, 20)]), ("", [(-120, 10), (-60, 20)])])
def test_trend_of_the_last_half_hour(word, readings):
    assert iot.say_trend([(NOON + minute * MINUTE, t) for minute, t in readings], NOON,
                         iot.ENGLISH) == word


def points(*values, start=NOON, width=MINUTE):
    """A Point in each minute; none where the value is None."""
    return [Point(start + i * width, v, v, v) for i, v in enumerate(values) if v is not None]


@pytest.mark.parametrize(("inside", "outside", "spans"), [
    ([], [], []), ([5] * 4, [], []), ([5] * 4, [6] * 4, []), ([5] * 4, [5] * 4, []),
    ([5] * 4, [4] * 4, [(0, 3)]), ([5] * 4, [6, 4, 4, 6], [(1, 3)]),
    ([5] * 6, [4, 6, 4, 4, 6, 4], [(0, 1), (2, 4)]),
    ([5] * 30, [4, 4, *[None] * 26, 4, 4], [(0, 11), (28, 29)]),     # a gap belongs to none
])
def test_cooler_spans(inside, outside, spans):
    end = NOON + max(0, len(inside) - 1) * MINUTE
    assert iot.cooler_spans(points(*inside), points(*outside), end) == [
        (NOON + a * MINUTE, NOON + b * MINUTE) for a, b in spans]


@given(some.lists(some.sampled_from([20.0, 25.0, None]), max_size=60),
       some.lists(some.sampled_from([18.0, 22.0, None]), max_size=60))
def test_cooler_spans_are_apart_and_in_order(inside, outside):
    spans = iot.cooler_spans(points(*inside), points(*outside), NOON + HOUR)
    flat = [ms for span in spans for ms in span]
    assert flat == sorted(flat)
    assert all(start < end for start, end in spans)
    assert all(a[1] < b[0] for a, b in itertools.pairwise(spans))


def ticks(first, zone, length):
    start = datetime.fromisoformat(first).replace(tzinfo=zone)
    begin = int(start.timestamp() * 1000)
    return begin, iot.time_ticks(begin, begin + length, iot.Locale(zone=zone))[0]


@pytest.mark.parametrize(("first", "hours"), [
    ("2018-03-25T00:00", 23), ("2018-10-28T00:00", 25), ("2018-07-30T00:00", 24)])
def test_time_ticks_on_days_of_23_24_and_25_hours(first, hours):
    """Marks stand at the local hours that they name, and days begin at midnight."""
    begin, marks = ticks(first, BERLIN, DAY)
    assert [(datetime.fromtimestamp(ms / 1000, BERLIN).strftime("%H:%M"), text)
            for ms, text in marks][:3] == [(text, text) for text in ("06:00", "12:00", "18:00")]
    assert marks[0][0] - begin == (hours - 18) * HOUR
    begin, marks = ticks(first, BERLIN, 7 * DAY)
    assert marks[0][0] - begin == hours * HOUR
    assert {b[0] - a[0] for a, b in itertools.pairwise(marks)} == {DAY}
    assert marks[0][1] == {23: "Mon", 25: "Mon", 24: "Tue"}[hours]


@pytest.mark.parametrize(("length", "count"), [(DAY, 3), (7 * DAY, 6), (30 * DAY, 4),
                                               (365 * DAY, 5), (HOUR, 3), (3 * HOUR, 5),
                                               (12 * HOUR, 5)])
@pytest.mark.parametrize("zone", [UTC, BERLIN, ZoneInfo("Asia/Kathmandu")], ids=str)
def test_time_ticks_are_few_and_inside(zone, length, count):
    begin, marks = ticks("2018-07-30T00:00", zone, length)
    assert count <= len(marks) <= 13
    assert all(begin < ms < begin + length for ms, _ in marks)
    assert all(a < b for a, b in itertools.pairwise(marks))


@pytest.mark.parametrize(("values", "lengths"), [
    ([], []), ([1], [1]), ([1, 2, 3], [3]), ([1, 2, *[None] * 9, 3, 4], [4]),
    ([1, 2, *[None] * 10, 3, 4], [2, 2]),
    ([1, *[None] * 10, *[1] * 7, *[None] * 10, 1], [1, 7, 1]),
])
def test_segments_end_at_gaps(values, lengths):
    pieces = list(iot.segments(points(*values)))
    assert [len(piece) for piece in pieces] == lengths
    assert [p for piece in pieces for p in piece] == points(*values)


@pytest.mark.parametrize(("unit", "setting", "languages"), [
    ("F", "F", "de-DE"), ("C", "C", "en-US"), ("F", "auto", "en-US,en;q=0.9"), ("C", "auto", ""),
    ("C", "auto", "de-DE,de;q=0.9,en-US;q=0.8"), ("C", "auto", "en-GB,en-US;q=0.5"),
    ("C", "auto", "en"), ("C", "auto", "*"), ("F", "auto", " en-us "), ("F", "auto", "es-PR"),
    ("F", "auto", "zh-Hans-US"), ("C", "auto", "-;;,,=\xff"), ("C", "auto", "de-CH-1996")])
def test_choose_unit(unit, setting, languages):
    assert iot.choose_unit(setting, languages) == unit


@pytest.mark.parametrize(("zone", "cookie"), [
    ("None", ""), ("Europe/Berlin", "tz=Europe/Berlin"), ("America/Los_Angeles", "a=b; tz="
     "America/Los_Angeles; c=d"), ("None", "tz=Nowhere/Else"), ("None", "tz=../../etc/passwd"),
    ("None", "xtz=Europe/Berlin"), ("None", "tz=/etc/localtime"), ("None", "tz=" + "a" * 65),
    ("None", "tz="), ("None", "tz=%00"), ("None", "tz=Europe"), ("None", "offset=x"),
    ("UTC", "tz=UTC"), ("UTC", "offset=0"), ("UTC+02:00", "tz=Nowhere/Else; offset=120"),
    ("America/Argentina/Buenos_Aires", "tz=America/Argentina/Buenos_Aires"),
    ("Etc/GMT+5", "tz=Etc/GMT+5")])
def test_choose_zone(zone, cookie):
    """None is the machine's, until the page's script has told the reader's."""
    assert str(iot.choose_zone(cookie)) == zone


def state(name, difference=None, silent=None):
    since = NOON - 14 * MINUTE if difference is not None or silent else None
    return Verdict(name, difference, since, None, silent)


def room(verdict):
    """A room with this verdict; what is silent is called x."""
    place = iot.Place(1, "x", "inside", 0, heard=verdict.since, verdict=verdict)
    return place._replace(outside=place._replace(role="outside"))


@pytest.mark.parametrize(("text", "verdict", "unit"), [
    ("Open the windows: it is 4.1 °F cooler outside.", state("open", 4.1 / 1.8), "F"),
    ("Open the windows: it is 2.3 °C cooler outside.", state("open", 2.3), "C"),
    ("Keep the windows closed: it is 6 °F warmer outside.", state("close", -6 / 1.8), "F"),
    ("Comfortable inside: nothing to do.", state("comfortable", 3), "C"),
    ('No answer: “x” has been silent for 14 min.', state("unknown", silent="outside"), "C"),
    ('No answer: “x” has sent no temperature yet.', Verdict("unknown", None, None, None,
                                                            "inside"), "C"),
])
def test_say_verdict(text, verdict, unit):
    assert iot.say_answer(room(verdict), NOON, iot.Locale(unit=unit)) == text


@given(some.sampled_from(["open", "close"]), some.floats(-20, 20), some.sampled_from("CF"))
def test_no_sentence_contradicts_itself(name, difference, unit):
    """In the dwell the sign may have turned already: it is not given as the reason then."""
    text = iot.say_answer(room(state(name, difference)), NOON, iot.Locale(unit=unit))
    assert not (name == "open" and difference < 0 and "warmer outside." in text), text
    assert not (name == "close" and difference > 0 and "cooler outside." in text), text
    assert "-" not in text
    assert " 0 °" not in text, text


@given(some.floats(1e-3, 1e6), some.integers(2, 9))
@example(10, 5)
def test_nice_step_divides_into_few_round_parts(span, count):
    step = iot.nice_step(span, count)
    assert span / step <= count * 1.002
    assert span / step >= count / 2.6
    assert f"{step:e}".split("e")[0] in {"1.000000", "2.000000", "5.000000"}


if __name__ == "__main__":
    main(*sys.argv[1:])
