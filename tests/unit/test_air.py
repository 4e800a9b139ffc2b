"""Smoke, dust and rain: what follows from the readings of sensors outside, and in which words."""
import itertools
import math
import statistics

import hypothesis.strategies as some
import pytest
from hypothesis import example, given

import iotserver as iot
from iotserver import DAY, HOUR, MINUTE, SMOKE, Sensor

NOON = 1_532_952_000_000
DUST = Sensor("garden pm", 0, 1, "PM2.5 µg/m³", "dust")
OTHER = Sensor("balcony", 0, 2, "PM2.5", "dust")
THIRD = Sensor("roof", 0, 3, "pm2.5 ug/m3", "dust")
GAUGE = Sensor("garden", 0, 4, "rain mm/h", "rain")
HOURLY = Sensor("garden", 0, 5, "hourly rain mm/h", "hourly rain")
DAMP = Sensor("garden", 0, 6, None, "humidity")


def each_minute(*values, every=1, end=0):
    """One reading in each `every` minutes, the last one `end` minutes before noon."""
    return [(NOON - (end + every * (len(values) - 1 - n)) * MINUTE, value)
            for n, value in enumerate(values)]


def air(limit=SMOKE, now=NOON, **found):
    sensors = {"dust": DUST, "other": OTHER, "third": THIRD, "rain": GAUGE, "hourly": HOURLY,
               "damp": DAMP}
    return iot.find_air({sensors[name]: readings for name, readings in found.items()}, limit, now)


# -- what a field is ------------------------------------------------------------------------------


@pytest.mark.parametrize(("label", "kind"), [
    ("PM2.5 µg/m³", "dust"), ("pm2.5 ug/m3", "dust"), ("PM2.5", "dust"), ("PM2.5 north", "dust"),
    ("PM2.5 µg/m³ of yesterday", "dust"), ("PM2.5 ppm", "other"), ("PM10 µg/m³", "other"),
    ("the PM2.5 µg/m³", "other"), ("rain mm/h", "rain"), ("Rainfall mm/h", "rain"),
    ("rain mm", "other"), ("Regen mm/h", "other"), ("hourly rain mm/h", "hourly rain"),
    (None, "other")])
def test_a_label_says_what_a_field_is(label, kind):
    assert iot.field_kind(4, label) == kind


# -- dust -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("values", "level"), [
    ([80], 80), ([10, 80], 80), ([80, 10], 10), ([10, 80, 90], 80), ([10, 999, 11], 11),
    ([10] * 20 + [999], 10), ([10] * 15 + [80] * 16, 80), ([10] * 16 + [80] * 15, 10),
    ([100, 10, 20, 30], 25)])
def test_the_median_of_half_an_hour_counts(values, level):
    found = air(dust=each_minute(*values))
    assert (found.dust, found.is_fresh) == (level, True)


@pytest.mark.parametrize(("levels", "level"), [
    ((10, 80), 80), ((80, 10), 80), ((10, 80, 20), 20), ((80, 10, 90), 80)])
def test_of_two_sensors_the_higher_counts_and_of_more_the_middle_one(levels, level):
    names = ("dust", "other", "third")
    assert air(**{name: each_minute(value) for name, value in zip(names, levels, strict=False)}
               ).dust == level


def test_a_silent_sensor_does_not_count_beside_one_that_is_heard():
    found = air(dust=each_minute(*[80] * 40, end=60), other=each_minute(*[10] * 90))
    assert (found.dust, found.is_smoke, found.missed) == (10, False, None)


@pytest.mark.parametrize(("humidity", "smoke"), [(89, True), (90, False)])
def test_in_fog_the_limits_are_doubled(humidity, smoke):
    found = air(dust=each_minute(*[75] * 40), damp=each_minute(*[humidity] * 40))
    assert (found.is_smoke, found.is_bad) == (smoke, True)
    thick = air(dust=each_minute(*[111] * 40), damp=each_minute(*[99] * 40))
    assert thick.is_smoke


@pytest.mark.parametrize(("limit", "value", "smoke", "bad"), [
    (SMOKE, 55.4, False, True), (SMOKE, 55.5, True, False), (SMOKE, 35.5, False, True),
    (SMOKE, 35.4, False, False), (math.inf, 900, False, False), (35.5, 35.5, True, False),
    (35.5, 35.4, False, False), (20, 30, True, False), (20, 19, False, False),
    (200, 150, False, True)])
def test_the_limit_is_that_of_the_household(limit, value, smoke, bad):
    found = air(limit, dust=each_minute(*[value] * 40))
    assert (found.is_smoke, found.is_bad and not found.is_smoke) == (smoke, bad)


@pytest.mark.parametrize(("clean", "smoke"), [(29, True), (30, True), (31, False), (60, False)])
def test_smoke_ends_after_half_an_hour_of_clean_air(clean, smoke):
    """The first `clean` minute is that in which the median falls."""
    readings = each_minute(*[80] * 60, *[10] * (15 + clean))
    found = air(dust=readings)
    assert found.is_smoke == smoke
    fell = NOON - (clean - 1) * MINUTE
    assert found.changed == (fell + 30 * MINUTE if not smoke else readings[0][0])


def test_a_rare_sensor_ends_smoke_between_two_readings():
    readings = each_minute(80, 80, 80, 80, 10, every=60, end=30)
    assert air(dust=readings, now=NOON - MINUTE).is_smoke
    assert air(dust=readings, now=NOON - MINUTE).until == NOON
    found = air(dust=readings)
    assert (found.is_smoke, found.changed, found.is_fresh) == (False, NOON, True)


@pytest.mark.parametrize(("hours", "smoke"), [(0.1, True), (1, True), (5.9, True), (6, False)])
def test_smoke_outlives_its_sensor_for_six_hours(hours, smoke):
    end = round(60 * hours)
    found = air(dust=each_minute(*[80] * 60, end=end))
    assert found.is_smoke == smoke
    assert found.missed == (None if smoke else (DUST, NOON - end * MINUTE))
    assert (found.dust, found.is_fresh) == (80, hours < 0.2)


def test_clean_air_before_a_silence_confirms_nothing_after_it():
    before, after = [80] * 60 + [10] * 20, [10] * 20
    readings = each_minute(*before, end=119) + each_minute(*after)
    assert air(dust=readings).is_smoke
    assert not air(dust=[*readings, (NOON + 11 * MINUTE, 10)], now=NOON + 11 * MINUTE).is_smoke


def test_a_sensor_that_fell_silent_in_clean_air_is_missed():
    found = air(dust=each_minute(*[10] * 60, end=11))
    assert found.missed == (DUST, NOON - 11 * MINUTE)
    assert air(dust=each_minute(*[10] * 60, end=10)).missed is None
    assert air(math.inf, dust=each_minute(*[10] * 60, end=11)).missed is None
    both = air(dust=each_minute(10, end=200), other=each_minute(10, end=100))
    assert both.missed[0] is OTHER


series = some.lists(some.tuples(
    some.sampled_from([1, 1, 1, 2, 5, 31, 60, 100]),
    some.sampled_from([0, 10, 35.5, 50, 55.5, 60, 110, 111, 112, 500])), max_size=40)


def spread(steps, start):
    readings = []
    for pause, value in steps:
        start += pause * MINUTE
        readings.append((start, value))
    return readings


def say_naively(sensors, humidities, limit, now):
    """Whether there is smoke, and since when: minute by minute, from the rules alone."""
    def say(readings, ms):
        recent = [(at, value) for at, value in readings if at <= ms]
        silence = [0]
        for (before, _), (at, _) in itertools.pairwise(recent):
            silence.append(iot.learn_silence(silence[-1], at - before))
        newest = recent[-1][0]
        values = [value for at, value in recent if at >= newest - 30 * MINUTE]
        return newest + max(silence[-1], 10 * MINUTE), (
            statistics.median(values) if len(values) > 2 else recent[-1][1])

    smoke, changed, clean, last, end = False, 0, None, 0, 0
    instants = {at for readings in sensors for at, _ in readings}
    for ms in range(min(instants), now + 1, MINUTE):
        clear = clean is not None and clean + 30 * MINUTE <= end
        due = clean + 30 * MINUTE if clear else max(last + 6 * HOUR, end + 1)
        if smoke and ms >= due:
            smoke, changed = False, due
        if ms in instants:
            said = [say(readings, ms) for readings in sensors if readings and readings[0][0] <= ms]
            fresh = sorted(value for until, value in said if until >= ms)
            damp = [value for at, value in humidities if ms - 30 * MINUTE <= at <= ms]
            fog = bool(damp) and statistics.median(damp) >= 90
            if ms > end:
                clean = None
            last, end = ms, max(until for until, value in said if until >= ms)
            if fresh[len(fresh) // 2] >= limit * (1 + fog):
                smoke, changed, clean = True, changed if smoke else ms, None
            elif clean is None:
                clean = ms
    return smoke, changed


@given(some.lists(series.filter(bool), min_size=1, max_size=4), some.lists(some.tuples(
    some.integers(0, 300), some.sampled_from([50, 89, 90, 100])), max_size=20),
    some.sampled_from([20, 55.5]), some.integers(0, 500))
@example([[(1, 60)]], [], 55.5, 360)
def test_smoke_is_that_of_a_model_written_from_the_rules(sensors, damp, limit, later):
    start = NOON - DAY
    read = [spread(steps, start) for steps in sensors]
    now = max(readings[-1][0] for readings in read) + later * MINUTE
    humidities = sorted((start + at * MINUTE, value) for at, value in damp)
    levels = [*iot.combine_dust(read)]
    smoke, changed, _ = iot.follow_smoke(levels, humidities, limit, now)
    assert (smoke, changed) == say_naively(read, humidities, limit, now)


@given(some.lists(series.filter(bool), min_size=1, max_size=3), some.booleans(),
       some.lists(some.integers(0, 600), min_size=2, max_size=2).map(sorted))
def test_nothing_changes_before_it_is_due(sensors, wet, minutes):
    """Between two instants without a reading the air is the same up to `until`."""
    read = [spread(steps, NOON) for steps in sensors]
    found = dict(zip((DUST, HOURLY if wet else GAUGE, OTHER), read, strict=False))
    last = max(readings[-1][0] for readings in read)
    first, second = (iot.find_air(found, SMOKE, last + later * MINUTE) for later in minutes)
    assert first.until > last + minutes[0] * MINUTE
    if last + minutes[1] * MINUTE < first.until:
        assert second == first
    if first.until < iot.LATEST_TIME:
        assert iot.find_air(found, SMOKE, first.until)._replace(until=0) != first._replace(until=0)


# -- rain -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("values", "end", "rain", "raining"), [
    ([0, 0.4], 0, 0.4, True), ([0.4] + [0] * 14, 0, 0, True), ([0.4] + [0] * 15, 0, 0, False),
    ([0, 0], 0, 0, False), ([0, 0.4], 9, 0.4, True), ([0, 0.4], 11, None, True),
    ([0, 0.4], 15, None, False)])
def test_it_rains_until_a_quarter_of_an_hour_without(values, end, rain, raining):
    found = air(rain=each_minute(*values, end=end))
    assert (found.rain, found.is_raining) == (rain, raining)


@pytest.mark.parametrize(("values", "raining"), [
    ([5], False), ([5] * 40, False), ([5, 5.2], True), ([5, 5.2] + [5.2] * 14, True),
    ([5, 5.2] + [5.2] * 15, False), ([5, 4, 3], False), ([5, 4, 4.2, 4], True)])
def test_the_sum_of_an_hour_has_to_rise(values, raining):
    found = air(hourly=each_minute(*values))
    assert (found.rain, found.is_raining) == (values[-1], raining)


def test_of_several_gauges_the_highest_counts():
    found = air(rain=each_minute(0, 0), hourly=each_minute(0, 3))
    assert (found.rain, found.is_raining) == (3, True)


# -- in words -------------------------------------------------------------------------------------


SMOKY = iot.Air(80.4, True, True, changed=5)
SENSITIVE = iot.Air(40, True, is_bad=True)
RAINY = iot.Air(rain=1.0, is_raining=True)
ALL = SENSITIVE._replace(is_raining=True)
TOO_DAMP = (14, 19)
FULL = "But the air outside is full of smoke or dust: PM2.5 80 µg/m³."
BUT = f"but{FULL[3:]} Keep the windows closed."


def judge(state, inside, outside, found, dews=(None, None), comfort=22.0):
    verdict = iot.Verdict(state, inside - outside, 3, 0, None, inside, outside, dew_points=dews)
    verdict = verdict._replace(reason=iot.find_reason(verdict, comfort))
    return iot.apply_air(verdict, found)


def say(*given, **more):
    return iot.say_answer(iot.Place(1, "x", "inside", 0, verdict=judge(*given, **more)), 0,
                          iot.ENGLISH)


@pytest.mark.parametrize(("given", "words"), [
    (("open", 26, 22, SMOKY), f"Keep the windows closed: it is 4 °C cooler outside. {FULL}"),
    (("open", 32, 28, SMOKY), f"Keep the windows closed: it is 4 °C cooler outside. {FULL} "
                              "It is hot inside, too: find a cooler place if you can."),
    (("open", 26, 26, SMOKY), f"Keep the windows closed: it is about as warm outside as inside. "
                              f"{FULL}"),
    (("open", 26, 26.3, SMOKY), "Keep the windows closed: it is 0.3 °C warmer outside."),
    (("close", 26, 25.7, SMOKY), f"Keep the windows closed: it is 0.3 °C cooler outside. {FULL}"),
    (("close", 33, 36, SMOKY), "Keep the windows closed: it is 3 °C warmer outside."),
    (("comfortable", 20, 15, SMOKY), f"Comfortable inside: {BUT}"),
    (("comfortable", 20, 30, SMOKY), f"Comfortable inside: {BUT}"),
    (("comfortable", 15, 9, SMOKY), f"Cold inside: {BUT}"),
    (("comfortable", 15, 20, SMOKY), f"Cold inside: {BUT}"),
    (("open", 26, 22, SMOKY._replace(is_raining=True), TOO_DAMP),
     f"Keep the windows closed: it is 4 °C cooler outside. {FULL}"),
    (("open", 26, 22, SENSITIVE), "Open the windows: it is 4 °C cooler outside. "
     "The air outside is bad for sensitive people: PM2.5 40 µg/m³."),
    (("open", 26, 22, RAINY), "Open the windows: it is 4 °C cooler outside. "
     "It is raining: mind the windows."),
    (("open", 26, 22, RAINY, TOO_DAMP), "Open the windows: it is 4 °C cooler outside. The air "
     "is more humid outside: dew point 19 °C outside, 14 °C inside. It is raining: mind the "
     "windows."),
    (("open", 26, 22, ALL, TOO_DAMP), "Open the windows: it is 4 °C cooler outside. The air "
     "outside is bad for sensitive people: PM2.5 40 µg/m³. The air is more humid outside: dew "
     "point 19 °C outside, 14 °C inside."),
    (("comfortable", 20, 15, ALL), "Comfortable inside: nothing to do. "
     "It is raining: mind the windows."),
    (("comfortable", 20, 21, RAINY), "Comfortable inside: but it is 1 °C warmer outside: keep the "
     "windows closed."),
    (("comfortable", 15, 9, RAINY), "Cold inside: it is 6 °C colder outside: keep the windows "
     "closed."),
    (("close", 26, 30, ALL, TOO_DAMP), "Keep the windows closed: it is 4 °C warmer outside.")])
def test_in_words(given, words):
    assert say(*given) == words


@given(some.sampled_from(["open", "close", "comfortable"]), some.floats(10, 40),
       some.floats(-10, 45), some.sampled_from([SMOKY, SENSITIVE, RAINY, ALL, iot.Air()]))
def test_what_is_said_fits_together(state, inside, outside, found):
    verdict = judge(state, inside, outside, found, TOO_DAMP)
    text = say(state, inside, outside, found, TOO_DAMP)
    assert len(verdict.caveats) <= 2
    if found is SMOKY:
        assert verdict.state != "open"
        assert "open" not in text.lower()
        assert iot.explain_verdict(verdict, "C")[0] == "close"
        assert text.lower().count("keep the windows closed") == 1
        assert "raining" not in text
        assert "humid" not in text
        assert iot.choose_kind(verdict) == "close"
    else:
        assert verdict.state == state
        assert "smoke" not in text
    assert verdict.since == (5 if found is SMOKY else 3)


def test_an_unknown_answer_stays_unknown_in_smoke():
    verdict = iot.apply_air(iot.Verdict("unknown", None, 3, None, "inside"), SMOKY)
    assert (verdict.state, verdict.since, verdict.caveats) == ("unknown", 3, [])
