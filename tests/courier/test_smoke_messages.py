"""What a household is told of smoke: one close, one open, and why."""
import pytest

import iotserver
from iotserver import HOUR, MINUTE

pytestmark = pytest.mark.slow

STATIONS = ("inside", "inside"), ("outside", "outside"), ("pm", "outside")


@pytest.fixture
def home(household):
    home = household(*STATIONS)
    home.house.writer.label("pm", 4, "PM2.5 µg/m³")
    return home


def test_an_episode_is_one_close_and_one_open(home, hook):
    home.play(30, inside=26, outside=22, pm={4: 10})
    for dust in (80, 30, 80, 58, 52, 80, 10, 70):       # it comes and goes, but never for long
        home.play(20, inside=26, outside=22, pm={4: dust})
    home.restart()
    home.play(90, inside=26, outside=22, pm={4: 10})
    assert hook.kinds == ["open", "close", "open"]
    assert hook.texts[1] == (
        "Keep the windows closed: it is 4 °C cooler outside (inside 26.0, outside 22.0). "
        "But the air outside is full of smoke or dust: PM2.5 80 µg/m³.")


def test_a_comfortable_room_is_told_to_close_if_it_was_told_to_open(home, hook):
    home.play(30, inside=26, outside=18, pm={4: 10})
    home.play(30, inside=21, outside=18, pm={4: 10})
    home.play(60, inside=21, outside=18, pm={4: 80})
    assert hook.kinds == ["open", "close"]
    assert hook.messages[1]["title"] == "Keep the windows closed"
    assert hook.texts[1].endswith(
        "But the air outside is full of smoke or dust: PM2.5 80 µg/m³. Keep the windows closed.") \
        or hook.texts[1].startswith("Comfortable inside: but the air outside is full of smoke")


def test_a_sensor_without_a_thermometer_is_never_called_silent(home, hook):
    home.play(10, inside=21, outside=18, pm={4: 10})
    home.house.server.monotonic = lambda: home.house.time
    home.house.time += 3 * HOUR / 1000
    home.play(5, inside=21, outside=18)
    assert not [text for text in hook.texts if "“pm”" in text]


def test_the_plan_names_the_smoke(home):
    room = iotserver.Place(1, "x", "inside", 0, verdict=iotserver.apply_air(
        iotserver.Verdict("close", -4.0, 0, 0, None, 26.0, 30.0, reason="close"),
        iotserver.Air(80.0, True, True)), forecast=iotserver.Forecast(
            "cooler", 5 * HOUR, 5 * HOUR, 5 * HOUR, 0.9, 60, (), ()))
    station = iotserver.Station(1, "x", "x")
    assert iotserver.say_message(station, "plan", "", room, MINUTE, iotserver.ENGLISH)[1] == (
        "Cooler outside from about 05:00. But the air outside is full of smoke or dust: PM2.5 80 "
        "µg/m³.")
