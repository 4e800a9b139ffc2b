"""What a station says: compared with a model that was written from the contract alone."""
import contextlib
import random

import hypothesis.strategies as some
import pytest
from harness import finish
from house import House
from hypothesis import example, given, settings

import iotserver as iot

MINUTE, NOON = 60_000, 1_532_952_000_000


class Model:
    """The rules in words, over the list of all readings; nothing is remembered but the list.

    Middle one of the last three readings of the last 20 minutes, both ends included. With fewer:
    the newest. It is doubted if it is off the last that counts by more than 3 degrees and by more
    than half a degree for each minute between them; then what was said before goes on. After a
    doubted one: within 3 degrees of it, both count; else it never counts.
    """

    def __init__(self, readings):
        self.readings = readings

    def after(self, count):
        """(what is said, what is shown, whether the newest is doubted) after so many readings."""
        says, counting, doubted = None, None, None
        for i in range(count):
            ms, value = self.readings[i]
            window = [v for t, v in self.readings[:i + 1] if ms - 20 * MINUTE <= t <= ms][-3:]
            if len(window) == 3:
                says, counting, doubted = sorted(window)[1], (ms, value), None
                continue
            confirmed = doubted is not None and abs(value - doubted) <= 3
            if counting is not None and not confirmed:
                off, minutes = abs(value - counting[1]), (ms - counting[0]) / MINUTE
                if off > 3 and off > 0.5 * minutes:
                    doubted = value
                    continue
            says, counting, doubted = value, (ms, value), None
        newest = self.readings[count - 1][1]
        shown = newest if abs(newest - says) <= 3 else says
        return says, shown, doubted is not None


PAUSES = some.sampled_from([1, 1, 1, 2, 5, 7, 10, 10, 19, 20, 21, 30, 60, 60, 61, 180])
VALUES = some.sampled_from(
    [20.0, 20.0, 20.2, 21.5, 22.9, 23.0, 23.1, 26.0, 29.0, 31.0, 31.5, 35.0])


def times(steps):
    ms, found = NOON, []
    for pause, value in steps:
        ms += pause * MINUTE
        found.append((ms, value))
    return found


@settings(max_examples=400, deadline=None)
@given(some.lists(some.tuples(PAUSES, VALUES), min_size=1, max_size=40).map(times))
@example(times([(60, 20), (60, 31), (1, 31), (60, 20)]))
def test_what_is_said_is_that_of_the_model(readings):
    model = Model(readings)
    for count, said in enumerate(iot.sayings(readings, iot.SILENT_AT_LEAST), 1):
        assert (said.value, said.shown, said.is_doubted) == model.after(count)


@settings(max_examples=100, deadline=None)
@given(some.lists(some.tuples(PAUSES, VALUES), min_size=2, max_size=40).map(times), some.data())
def test_it_goes_on_from_any_reading_as_if_it_had_heard_all(readings, data):
    cut = data.draw(some.integers(1, len(readings) - 1))
    whole = [*iot.sayings(readings, iot.SILENT_AT_LEAST)]
    assert [*iot.sayings(readings[cut:], iot.SILENT_AT_LEAST, whole[cut - 1])] == whole[cut:]


def random_series(mix, start, end):
    """A station that now sends each minute, now seldom, with values that jump now and then."""
    ms, value, found = start, 24.0, []
    while ms < end:
        pauses = mix.choice([(1, 1, 2), (5, 7, 10, 19, 20, 21), (30, 60, 61)])
        for _ in range(mix.randrange(1, 9)):
            ms += mix.choice(pauses) * MINUTE
            value += mix.choice([0, 0.2, -0.3, 1, -1])
            found.append((ms, round(mix.choice([value] * 8 + [value + 3.5, value + 8]), 1)))
    return [row for row in found if row[0] < end]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_live_restarted_and_reviewed_a_server_says_what_the_model_says(tmp_path, seed):
    """The number shown for outside, after each reading, and at each full hour of --review."""
    mix = random.Random(seed)
    start, end = NOON, NOON + 2 * iot.DAY
    outside = random_series(mix, start, end)
    model = Model(outside)
    house = House(tmp_path / "iot.db", ("inside", "inside"), ("outside", "outside"))

    def shown(now):
        house.time = now / 1000
        return finish(house.server.board.look())[0].verdict.outside

    try:
        inside = iter(range(start, end + 1, 10 * MINUTE))
        due = next(inside)
        for count, (ms, value) in enumerate(outside, 1):
            while due <= ms:
                house.writer.add_entry(house.writer.by_mac["mac-0"], due, {1: 22.0}, due)
                due = next(inside)
            house.writer.add_entry(house.writer.by_mac["mac-1"], ms, {1: value}, ms)
            house.server.turn.end()
            assert shown(ms) == model.after(count)[1], count
            finish(iot.keep_courses(house.server))
            if mix.random() < 0.1:
                house.close()
                house = House(tmp_path / "iot.db")
                assert shown(ms) == model.after(count)[1], count
    finally:
        house.close()
    compared = 0
    with contextlib.closing(iot.Reader(tmp_path / "iot.db")) as reader:
        reader.use_offsets()
        for _, now, rooms, _ in iot.review_hours(reader, start, end, 22.0):
            count = sum(ms <= now for ms, _ in outside)
            for room in rooms:
                if count and room.verdict.outside is not None:
                    assert room.verdict.outside == model.after(count)[1], now
                    compared += 1
    assert compared > 10


@pytest.mark.parametrize(("steps", "value", "doubted"), [
    ([(60, 31.5), (60, 28), (60, 24.4)], 24.4, False),      # an hourly station's evening
    ([(60, 20), (60, 29), (60, 20)], 20, False),            # 9 degrees in an hour: weather
    ([(60, 20), (10, 31)], 20, True),
    ([(60, 20), (10, 31), (30, 30)], 30, False),            # a second one: both count
    ([(60, 20), (10, 31), (30, 20.5)], 20.5, False),        # the doubted one never counts
    ([(60, 20), (10, 31), (30, 36)], 36, False),            # 16 degrees in 40 minutes
    ([(60, 85)], 85, False),                                # a first one has none before it
    ([(60, 20), (20, 31), (20, 20)], 20, False),
    ([(1, 20), (1, 20), (1, 31)], 20, False),               # one of three alone
    ([(1, 20), (1, 31), (1, 31)], 31, False),
])
def test_single_cases(steps, value, doubted):
    said = [*iot.sayings(times(steps), iot.SILENT_AT_LEAST)][-1]
    assert (said.value, said.is_doubted) == (value, doubted)
