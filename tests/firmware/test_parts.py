"""The firmware's parts that need no network, on a real MicroPython."""
import urllib.parse

import pytest
from simulator import FIRMWARE
from tools import needs

pytestmark = needs("MicroPython")
BACKLOG = """
import backlog
import boots
class Rtc:
    data = b""
    def memory(self, data=None):
        if data is not None:
            self.data = bytes(data)
        return self.data
waiting, rtc, salt = backlog.Backlog(), Rtc(), b"salt"
def all(): return [waiting.get(i) for i in range(len(waiting))]
"""

FLASH = """
import os
import boots
class Cut(Exception): pass
class Flash:
    '''Files as littlefs keeps them; power fails at operation number `fails`.'''
    def __init__(self): self.files, self.fails = {}, -1
    def step(self):
        self.fails -= 1
        if self.fails == 0: raise Cut
    def open(self, name, mode="r"):
        self.step()
        if mode == "r" and name not in self.files: raise OSError(2)
        if mode == "w": self.files[name] = ""
        return File(self, name)
    def rename(self, old, new):
        self.step()
        self.files[new] = self.files.pop(old)
        self.step()
class File:
    def __init__(self, flash, name): self.flash, self.name = flash, name
    def __enter__(self): return self
    def __exit__(self, *error): pass
    def read(self, count): return self.flash.files[self.name][:count]
    def write(self, text):
        for letter in text:
            self.flash.step()
            self.flash.files[self.name] += letter
flash = Flash()
def start(): return boots.next_boot(flash, flash.open)
"""


def test_backlog_keeps_order_and_readings(script):
    said = script(BACKLOG + "for i in range(60): waiting.append((i, -i * 1000, 65535, i, 3))\n"
                  "waiting.remove(0); waiting.remove(58)\nprint(all() == "
                  "[(i, -i * 1000, 65535, i, 3) for i in range(1, 59)])")
    assert said.strip() == "True"


def test_thinning_keeps_both_fields_of_a_measurement(script):
    said = script(BACKLOG + "for i in range(90):\n"
                  "    for field in (1, 3): waiting.append((i, 0, 1, i, field))\n"
                  "print([r[3] for r in all() if r[4] == 1])\n"
                  "print([r[3] for r in all() if r[4] == 3])")
    first, second = said.splitlines()
    assert first == second
    assert first.startswith("[0, 4, ")


def test_thinning_ends_even_with_one_measurement(script):
    said = script(BACKLOG + "for i in range(500): waiting.append((0, i, 1, 1, 1))\n"
                  "print(len(waiting) <= backlog.BACKLOG, all()[-1][1])")
    assert said.strip() == "True 499"


def test_readings_come_back_from_rtc_memory(script):
    """Older by what had passed when they were saved, and by what a restart takes."""
    said = script(BACKLOG + "for i in range(50): waiting.append((i, i, 7, i, 1))\n"
                  "backlog.save(rtc, waiting, salt, 1000)\nwaiting.length = 0\n"
                  "boots.restore(rtc, waiting, salt)\n"
                  "print(len(rtc.data) <= 492, len(waiting), waiting.get(len(waiting) - 1))")
    assert said.strip() == f"True 32 ({49 - 1000 - 5}, 49, 7, 49, 1)"


@pytest.mark.parametrize("damage", ["rtc.data[:-1]", "rtc.data[:-15]", "b'\\0' * 492", "b'x'",
                                    "rtc.data[:40] + b'!' + rtc.data[41:]"])
def test_damaged_rtc_memory_is_left_alone(script, damage):
    said = script(BACKLOG + "for i in range(9): waiting.append((i, i, 7, i, 1))\n"
                  "backlog.save(rtc, waiting, salt, 1000)\nwaiting.length = 0\n"
                  f"rtc.data = {damage}\nboots.restore(rtc, waiting, salt)\n"
                  "print(len(waiting))")
    assert said.strip() == "0"


def test_rtc_memory_is_emptied_when_nothing_waits(script):
    said = script(BACKLOG + "waiting.append((1, 1, 1, 1, 1))\n"
                  "backlog.save(rtc, waiting, salt, 5)\nwaiting.remove(0)\n"
                  "backlog.save(rtc, waiting, salt, 5)\nboots.restore(rtc, waiting, salt)\n"
                  "print(len(waiting))")
    assert said.strip() == "0"


def test_boot_numbers_never_repeat_whenever_the_power_fails(script):
    said = script(FLASH + """
seen, cuts = [], 0
for fails in range(1, 60):
    flash.fails = fails
    try:
        seen.append(start())
    except Cut:
        cuts += 1
    flash.fails = -1
    seen.append(start())
print(cuts > 10, len(seen) == len(set(seen)), len(set(salt for salt, _ in seen)))
""")
    assert said.strip() == "True True 1"


@pytest.mark.parametrize("left", ["''", "'deadbeef 12'", "'deadbeef 1x\\n'", "'dead 1\\n'",
                                  "'deadbeef 65535\\n'", "'\\x00' * 20", "None"])
def test_broken_boot_file_begins_a_new_salt(script, left):
    """A number cut short (12 of 123) would come twice; so would 1 on an erased board."""
    said = script(FLASH + f"left = {left}\nif left is not None: flash.files['boot.txt'] = left\n"
                  "salt, boot = start()\nprint(salt == b'\\xde\\xad\\xbe\\xef', boot, len(salt))\n"
                  "print(start() == (salt, 2))")
    assert said.splitlines() == ["False 1 4", "True"]


def test_erased_boards_draw_different_salts(script):
    """Else a board that counts from 1 again would repeat its old names."""
    said = script(FLASH + "first = start()\nflash.files.clear()\nsecond = start()\n"
                  "print(first[0] != second[0], first[1], second[1])")
    assert said.strip() == "True 1 1"


def test_flash_that_cannot_be_written_gives_a_salt_of_its_own(script):
    said = script(FLASH + "salt, _ = start()\n"
                  "def full(*_): raise OSError(28)\nflash.rename = full\n"
                  "print(len({salt, start()[0], start()[0]}))")
    assert said.splitlines()[-1] == "3"


@pytest.mark.parametrize(("thousandths", "text"), [
    (-250, "-0.250"), (0, "0.000"), (21062, "21.062"), (1006533, "1006.533"), (-40000, "-40.000")])
def test_decimal(script, thousandths, text):
    assert script(f"import backlog\nprint(backlog.decimal({thousandths}))").strip() == text


def test_any_key_stays_one_part_of_the_path(script):
    key = "K3y+/ %?#&=ä"
    said = script(f"import settings\nprint(settings.quote({key!r}))").strip()
    assert urllib.parse.unquote(said) == key
    assert not set(said) & set("/ ?#&=")


@pytest.mark.parametrize(("url", "parts"), [
    ("http://192.0.2.7:8000", "False 192.0.2.7 8000"), ("https://iot.example/",
                                                        "True iot.example 443"),
    ("http://iot.example", "False iot.example 80"), ("HTTP://h:1/", "False h 1")])
def test_server_url(script, url, parts):
    said = script(f"import settings\ns = settings.server_of({url!r})\n"
                  "print(s.tls, s.host, s.port)")
    assert said.strip() == parts


@pytest.mark.parametrize("url", ["", "192.0.2.7:8000", "ftp://h", "http://", "http://h:x",
                                 "http://h:8000/iot", "https://h/x"])
def test_server_url_that_is_none(script, url):
    said = script(f"import settings\ntry: settings.server_of({url!r})\n"
                  "except ValueError as error: print(error)")
    assert "SERVER must look like http://192.0.2.7:8000" in said


@pytest.mark.parametrize(("change", "message"), [
    ("del config.SERVER", "config.py has no SERVER"), ("config.SSID = ''", "SSID is empty"),
    ("config.API_KEY = 5", "config.py has no API_KEY"),
    ("config.PERIOD = 1.5", "PERIOD must be a whole number from 5 to 86400"),
    ("config.FIELD = 10", "FIELD must be"),
    ("config.FIELD = 3", "FIELD 3 is where auto sends pressure"),
    ("config.FIELD = 2", "FIELD 2 is where auto sends humidity"),
    ("config.FIELD = 2; config.SENSOR = 'DHT22'", "FIELD 2 is where DHT22 sends humidity"),
    ("config.SENSOR = 'DHT11'", "SENSOR must be one of AHT20, BME280, BMP280, DHT22, DS18B20"),
    ("config.SENSOR = 5", "SENSOR must be one of AHT20"),
    ("config.BOARD = 'Uno'", "BOARD must be one of D1 mini, ESP32, ESP32-C3, ESP32-S2, ESP32-S3, "
     "Feather Huzzah, NodeMCU; or leave it out"),
    ("config.BOARD = 'D1 mini'; config.PIN = 9", "PIN must be D1 to D7, or GPIO 0, 2, 4, 5, 12"),
    ("config.BOARD = 'D1 mini'; config.PIN = 'D0'", "PIN must be D1 to D7"),
    ("config.BOARD = 'D1 mini'; config.PIN = 'D9'", "PIN must be D1 to D7"),
    ("config.BOARD = 'ESP32'; config.PIN = 'D5'", "PIN must be a GPIO number; for D1"),
    ("config.SDA = 49", "SDA must be a GPIO number"),
    ("config.CA = 'ca.der'", "CA is the name of a file, and needs a SERVER with https"),
    ("config.SERVER = 'https://h'; config.CA = 'a/ca.der'", "CA is the name of a file"),
    ("config.SERVER = 'https://h'; config.CA = 'ca.der'; config.BOARD = 'NodeMCU'",
     "CA needs an ESP32; an ESP8266 cannot check certificates")])
def test_config_mistakes_are_told(script, change, message):
    said = script(f"import config\n{change}\nimport settings\ntry: settings.load('')\n"
                  "except ValueError as error: print(error)")
    assert message in said


@pytest.mark.parametrize(("lines", "platform", "expected"), [
    ("", "esp8266", "auto 5 4 14"), ("", "esp32", "auto 22 21 4"), ("", "rp2", "auto 5 4 14"),
    ("config.BOARD = 'D1 mini'; config.SENSOR = 'DHT22'; config.PIN = 'D4'", "esp8266",
     "DHT22 5 4 2"),
    ("config.BOARD = 'NodeMCU'; config.SCL = 'D6'; config.SDA = 'D7'", "esp8266", "auto 12 13 14"),
    ("config.BOARD = 'ESP32-C3'; config.SENSOR = 'SHT31'", "esp32", "SHT3x 9 8 4"),
    ("config.SCL = 25; config.SDA = 26; config.PIN = 27; config.SENSOR = 'SHT45'", "esp32",
     "SHT4x 25 26 27"),
    ("config.FIELD = 3; config.SENSOR = 'MCP9808'", "esp32", "MCP9808 22 21 4")])
def test_pins_by_name_of_the_board(script, lines, platform, expected):
    said = script(f"import config\n{lines}\nimport settings\n"
                  f"c = settings.check(config, '', {platform!r})\n"
                  "print(c.sensor, c.scl, c.sda, c.pin)")
    assert said.strip() == expected


@pytest.mark.parametrize(("first", "fields"), [
    (1, [1, 2, 3, 4, 5, 6, 7, 8, 9]), (4, [4, 2, 3, 5, 6, 7, 8, 9, 10]),
    (6, [6, 2, 3, 4, 5, 7, 8, 9, 10]), (9, [9, 2, 3, 4, 5, 6, 7, 8, 10])])
def test_further_thermometers_have_the_fields_beside_the_first(script, first, fields):
    said = script(f"import run\nprint([run.field_of(kind, {first}) for kind in range(1, 10)])")
    assert said.strip() == str(fields)


def test_missing_config_is_told(script):
    said = script("sys.path.pop()\nimport settings\ntry: settings.load('')\n"
                  "except ValueError as error: print(error)")
    assert "no config.py on the board" in said


def test_example_config_has_all_names_and_wants_filling(script):
    example = (FIRMWARE / "config.example.py").read_text()
    said = script(f"import config\nexec({example!r}, config.__dict__)\nimport settings\n"
                  "try: settings.load('')\nexcept ValueError as error: print(error)")
    assert said.strip() == "config.py: API_KEY is empty"


ANSWERS = {
    b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n12": (200, 0, "12"),
    b"HTTP/1.1 200 OK\r\n\r\n12\n": (200, 0, "12"),
    b"HTTP/1.1 429 Slow\r\nretry-after:  30\r\nContent-Length: 5\r\n\r\nhello": (429, 30, "hello"),
    b"HTTP/1.1 503 X\r\nRetry-After: Fri, 31 Dec 1999 23:59:59 GMT\r\n\r\n": (503, 0, ""),
    b"HTTP/1.1 400 Bad\r\n\r\n\xff\x00\x1b[2J": (400, 0, "???[2J"),
    b"HTTP/1.1 400 Bad\r\n\r\n" + b"x" * 5000: (400, 0, "x" * 120 + "..."),
    b"HTTP/1.1 200 OK\r\n\r\n" + b"1" * 120 + b"<html>": (200, 0, "1" * 120 + "..."),
    b"HTTP/1.1 200 OK\r\n\r\n12\r\n<html>": (200, 0, "12  <html>"),
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n12": (200, 0, "12?"),
    b"SSH-2.0-OpenSSH\r\n": (0, 0, ""),
    b"": (0, 0, ""),
    b"HTTP/1.1 2": (0, 0, ""),
    b"HTTP/1.1 200 OK\r\nContent-Len": (0, 0, ""),
    b"HTTP/1.1 204 No\r\nContent-Length: 0\r\n\r\n": (204, 0, ""),
    b"HTTP/1.1 200 OK\r\nX: " + b"x" * 5000 + b"\r\nContent-Length: 2\r\n\r\n12": (200, 0, "12"),
    b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 1638 + b"\r\n12": (0, 0, ""),
}
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n"
ANSWERS.update({
    CHUNKED + b"\r\n57\r\n<html>Please log in</html>": (200, 0, "<html>Please log in</html>??"),
    CHUNKED + b"\r\n2\r\n12\r\n0\r\n\r\n": (200, 0, "12"),
    CHUNKED + b"\r\n1;x=y\r\n1\r\n01 \r\n2\r\n0\r\nTrailer: 34\r\n\r\n": (200, 0, "12"),
    CHUNKED + b"Content-Length: 2\r\n\r\n3\r\n123\r\n0\r\n\r\n": (200, 0, "123"),
    CHUNKED + b"\r\n12\r\n": (200, 0, "??"),
    CHUNKED + b"\r\n2\r\n12\r\n": (200, 0, "12?"),
    CHUNKED + b"\r\nlog in\r\n12": (200, 0, "?"),
    CHUNKED + b"\r\n": (200, 0, "?"),
    CHUNKED + b"\r\nFFFFF\r\n" + b"9" * 5000: (200, 0, "9" * 120 + "..."),
})


@pytest.mark.parametrize("answer", ANSWERS)
def test_answers_are_read_within_bounds(script, answer):
    """An endless answer is cut; what is printed is printable."""
    said = script(f"import wifitools\nprint(wifitools.read_answer(iter({answer!r})))")
    assert said.strip() == repr(ANSWERS[answer])
