"""Damp air and cold rooms: what follows from dew points, and in which words."""
import hypothesis.strategies as some
import pytest
from hypothesis import given

import iotserver as iot


@pytest.mark.parametrize(("celsius", "humidity", "dew"), [
    (20, 50, 9.3), (25, 60, 16.7), (33.8, 38, 17.4), (0, 100, 0), (-10, 80, -12.8)])
def test_dew_points_are_those_of_tables(celsius, humidity, dew):
    assert iot.dew_point(celsius, humidity) == pytest.approx(dew, abs=0.1)


def say(state, inside, outside, dews=(None, None), comfort=22.0, unit="C"):
    verdict = iot.Verdict(state, inside - outside, 0, 0, None, inside, outside, dew_points=dews)
    verdict = iot.apply_air(verdict._replace(reason=iot.find_reason(verdict, comfort)), iot.Air())
    room = iot.Place(1, "x", "inside", 0, verdict=verdict)
    return iot.say_answer(room, 0, iot.Locale(unit=unit))


@pytest.mark.parametrize(("words", "given"), [
    ("Open the windows: it is 4 °C cooler outside. The air is more humid outside: dew point "
     "19 °C outside, 14 °C inside.", ("open", 26, 22, (14, 19))),
    ("Open the windows: it is 4 °C cooler outside.", ("open", 26, 22, (14, 16))),
    ("Open the windows: it is 4 °C cooler outside.", ("open", 26, 22, (None, 19))),
    ("Cold inside: keep the windows closed: the air outside is warm and damp, and its "
     "moisture would condense on cold walls.", ("comfortable", 16, 33.8, (10, 17.5))),
    ("Cold inside: keep the windows closed: the air outside is warm and damp, and its "
     "moisture would condense on cold walls.", ("comfortable", 16, 19, (10, 14.5))),
    ("Cold inside: keep the windows closed: it is 17 °C warmer outside, but moisture in that air "
     "would condense on cold walls.", ("comfortable", 16, 33)),
    ("Cold inside: keep the windows closed: it is 17 °C warmer outside.",
     ("comfortable", 16, 33, (5, 6))),
    ("Cold inside: it is 4 °C warmer outside: opening the windows warms the room.",
     ("comfortable", 16, 20, (5, 6))),
    ("Cold inside: it is 4 °C warmer outside: opening the windows warms the room.",
     ("comfortable", 16, 20)),
    ("Cold inside: it is 9 °C colder outside: keep the windows closed.",
     ("comfortable", 16, 7, (5, 6))),
    ("Comfortable inside: nothing to do.", ("comfortable", 21, 21, (5, 19))),
])
def test_in_words(words, given):
    assert say(*given) == words


def test_in_fahrenheit():
    assert "dew point 66 °F outside, 57 °F inside" in say("open", 26, 22, (14, 19), unit="F")


@given(some.floats(5, 17.9), some.floats(-10, 45), some.none() | some.floats(-10, 30))
def test_a_cold_room_is_never_warmed_with_hot_or_damp_air(inside, outside, dew):
    text = say("comfortable", inside, outside, (None, dew))
    if outside > 22 or (dew is not None and dew > inside - 2):
        assert "opening the windows warms" not in text
