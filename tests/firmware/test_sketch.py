"""The guide's Arduino sketch, compiled for this computer, sends to the real server."""
import re
import subprocess

import pytest
from simulator import FIRMWARE, HERE
from tools import need, needs

pytestmark = needs("g++")
SHIM = HERE / "arduino"


@pytest.fixture
def sketch(tmp_path, iot):
    """Run the sketch against a URL for so many rounds; the milliseconds that it took come back."""
    text, = re.findall(r"^```cpp\n(.*?)^```", (FIRMWARE / "README.md").read_text(), re.M | re.S)
    assert 15 <= len(text.splitlines()) <= 50

    def run(url, rounds, *options):
        source = text.replace("http://192.0.2.7:8000", url).replace("KEY", iot.key)
        source = source.replace("mac=outside", f"mac={iot.mac}")
        (tmp_path / "sketch.cpp").write_text("#include <Arduino.h>\n" + source)
        subprocess.run([need("g++"), "-std=c++17", "-Wall", "-Wextra", "-Werror", *options,
                        f"-I{SHIM}", tmp_path / "sketch.cpp", SHIM / "main.cpp",
                        "-o", tmp_path / "sketch"], check=True, timeout=120)
        return int(subprocess.run([tmp_path / "sketch", str(rounds)], check=True, text=True,
                                  capture_output=True, timeout=120).stdout)
    return run


EXPECTED = [f"{value / 10:.3f}" for value in range(200, 220)]
PORTAL = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>"


@pytest.mark.parametrize("options", [[], ["-DESP32"]], ids=["ESP8266", "ESP32"])
def test_a_reading_each_minute_arrives(sketch, iot, options):
    took = sketch(iot.url, 20, *options)
    assert iot.values() == EXPECTED
    assert took == pytest.approx(20 * 60_000, abs=2000)


def test_what_is_sent_again_has_its_age_and_is_stored_once(sketch, iot, line):
    """A lost answer, an error, a captive portal: two tries of three fail."""
    troubles = ["swallow", b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n", None, PORTAL, b"",
                None]
    wire = line(lambda number, path: troubles[number % 6])
    sketch(wire.url, 20)
    assert iot.values() == EXPECTED
    assert len(wire.seen) == 60
    ages = [int(parts["age"]) for parts in wire.parts()]
    assert set(ages[0::3]) == {0}
    assert set(ages[1::3]) == {5}
    assert set(ages[2::3]) == {15}
    assert len({parts["seq"] for parts in wire.parts()}) == 20


def test_a_server_that_stays_away_costs_one_reading_at_a_time(sketch, iot, line):
    wire = line(lambda number, path: PORTAL if number < 7 else None)
    took = sketch(wire.url, 3)
    assert iot.values() == EXPECTED[1:3]
    assert took < 15 * 60_000


def test_another_start_repeats_no_name(sketch, iot):
    """Else its readings would be taken for those of the first."""
    sketch(iot.url, 2)
    sketch(iot.url, 2)
    assert iot.values() == EXPECTED[:2] * 2
