"""The recipes of firmware/README.md: what the page tells people to type into a device is what the
request is made of here, in the form in which that device sends it."""
import re
import shlex
import subprocess

from harness import OUTSIDE, parse_responses, rows_of
from tools import ROOT, need, needs

import iotserver

PAGE = (ROOT / "firmware/README.md").read_text(encoding="utf-8")
SECTION = PAGE.split("\n## Bought stations and other devices\n")[1].split("\n## ")[0]
RECIPES = dict(re.findall(r"(?ms)^- \*\*(.+?)\*\*(.*?)(?=^- \*\*|\Z)", SECTION))
AGENTS = {                      # header lines that each sends, between Host and the empty line
    "airRohr": "User-Agent: NRZ-2024-135/15431234/abc\r\nX-Sensor: esp8266-15431234\r\n"
               "Content-Type: application/json\r\nConnection: close\r\n",
    "Ruuvi Gateway": "User-Agent: ESP32 HTTP Client/1.0\r\nContent-Type: application/json\r\n",
    "Shelly H&T": "User-Agent: Shelly/20230913-112531 (SHHT-1)\r\nConnection: close\r\n",
    "Shelly": "User-Agent: shelly\r\nContent-Length: 0\r\n",
    "Tasmota": "User-Agent: Tasmota/14.3.0 (ESP8266-2.7.8)\r\nConnection: close\r\n"
               "Accept-Encoding: identity;q=1,chunked;q=0.1,*;q=0\r\n",
    "ESPEasy": "User-Agent: ESP Easy/20240822/Aug 22 2024 12:00:00\r\nConnection: close\r\n"
               "Accept-Encoding: identity;q=1,chunked;q=0.1,*;q=0\r\n",
    "ESPHome": "User-Agent: ESPHome/2026.1.0 (https://esphome.io)\r\n",
    "Home Assistant": "User-Agent: HomeAssistant/2026.1 aiohttp/3.11 Python/3.13\r\n"
                      "Accept: */*\r\nAccept-Encoding: gzip, deflate, br\r\n",
}


def recipe(device):
    """The codes of a recipe, each with the key in its place."""
    text = RECIPES[device]
    block = [line.strip() for line in text.splitlines() if line.startswith("      ")]
    return [code.replace("KEY", OUTSIDE.key) for code in re.findall(r"`([^`]+)`", text) + block]


def path_of(code):
    """What stands behind host and port in the address of a code."""
    return re.search(r"192\.0\.2\.7:8000\]? ?(/[^\s\"]*)", code)[1]


def send(server, device, path, body=""):
    """The answer to a device's request, and the newest values by field."""
    method = f"POST {path} HTTP/1.1\r\nContent-Length: {len(body)}" if body else (
        f"GET {path} HTTP/1.1")
    raw = f"{method}\r\nHost: 192.0.2.7:8000\r\n{AGENTS[device]}\r\n{body}".encode()
    response, = parse_responses(server.exchange(raw))
    return response.status, {row[3]: row[4] for row in rows_of(server.path)}


def test_the_page_has_a_recipe_for_each():
    assert {name.split(",")[0] for name in RECIPES} == {*AGENTS, "curl"}


def test_airrohr(server):
    host, path, port = (code for code in recipe("airRohr") if code not in {"outside"})
    assert f"{host}:{port}" == "192.0.2.7:8000"
    body = '{"sensordatavalues":[{"value_type":"SDS_P2","value":"17.60"}]}'
    assert send(server, "airRohr", path, body) == (200, {4: 17.6})


def test_ruuvi_gateway(server):
    body = ('{"data":{"tags":{"CB:B8:33:4C:88:4F":{"data":'
            '"0201061BFF99040512FC5394C37C0004FFFC040CAC364200CDCBB8334C884F"}}}}')
    path = path_of(recipe("Ruuvi Gateway")[0])
    assert send(server, "Ruuvi Gateway", path, body) == (200, {1: 24.3, 2: 53.49, 3: 1000.44})


def test_shelly_of_the_first_generation(server):
    path = path_of(recipe("Shelly H&T")[0])
    assert send(server, "Shelly H&T", f"{path}?hum=45&temp=22.5&id=shellyht-1234AB") == (
        200, {1: 22.5, 2: 45})
    assert send(server, "Shelly H&T", f"{path}?hum=1000&temp=999&id=shellyht-1234AB")[0] == 400
    assert len(rows_of(server.path)) == 2


def test_shelly_of_the_second_generation(server):
    warm, damp = (path_of(code) for code in recipe("Shelly") if "http" in code)
    assert send(server, "Shelly", warm.replace("${ev.tC}", "22.5")) == (200, {1: 22.5})
    assert send(server, "Shelly", damp.replace("${ev.rh}", "45.2")) == (200, {1: 22.5, 2: 45.2})
    assert send(server, "Shelly", warm.replace("${ev.tC}", "null"))[0] == 400
    own = f"/update/API_key={OUTSIDE.key}/mac={OUTSIDE.mac}/field=1/data="
    assert send(server, "Shelly", own + "null")[0] == 400
    assert len(rows_of(server.path)) == 2


def test_tasmota_with_and_without_webquery(server):
    rules = [code for code in recipe("Tasmota") if "http" in code or "WebSend" in code]
    for value, rule in zip(("21.5", "-3"), rules, strict=True):
        assert rule.startswith("Rule1 ON Tele-BME280#Temperature DO Web")
        path = path_of(rule).replace("%value%", value)
        assert send(server, "Tasmota", path)[0] == 200
    assert [row[4] for row in rows_of(server.path)] == [21.5, -3]


def test_espeasy(server):
    publish = next(code for code in recipe("ESPEasy") if code.startswith("data/report"))
    for name, value in (("temp", "21.53"), ("hum", "48.20"), ("press", "1013.25")):
        path = "/" + publish.replace("%valname%", name).replace("%value%", value)
        assert send(server, "ESPEasy", path)[0] == 200
    assert send(server, "ESPEasy", path)[1] == {1: 21.53, 2: 48.2, 3: 1013.25}


def test_esphome(server):
    code, = (code for code in recipe("ESPHome") if "url:" in code)
    assert send(server, "ESPHome", path_of(code) + "21.530001") == (200, {1: 21.530001})
    assert send(server, "ESPHome", path_of(code) + "nan")[0] == 400     # before its first value


def test_home_assistant(server):
    code, = (code for code in recipe("Home Assistant") if "url:" in code)
    path = re.search(r'"http://192\.0\.2\.7:8000(.*)"', code)[1]
    filled = re.sub(r"\{\{.*?\}\}", "21.5", path)
    assert send(server, "Home Assistant", filled) == (200, {1: 21.5})
    assert send(server, "Home Assistant", filled.replace("21.5", "unavailable"))[0] == 400


@needs("curl")
def test_curl(live):
    commands = [code for code in recipe("curl") if code.startswith("curl ")]
    assert len(commands) == 2
    for command in commands:
        words = shlex.split(command.replace("192.0.2.7:8000", f"127.0.0.1:{live.port}"))
        done = subprocess.run([need("curl"), "--silent", "--noproxy", "*", *words[1:]],
                              capture_output=True, text=True, timeout=30, check=True)
        assert done.stdout == "success"
    assert [row[3:5] for row in rows_of(live.db)] == [(1, 21.5), (2, 48), (1, 21.5), (2, 48)]


def test_the_page_says_of_weewx_what_it_is_tested_with():
    client = (ROOT / "tests/console/clients/with_weewx.py").read_text()
    block = re.findall(r"^        +(\w+) = ", SECTION, re.MULTILINE)
    assert {"enable", "station", "password", "server_url", "post_indoor_observations"} == {*block}
    assert [name for name in block if f'"{name}"' not in client] == []


def test_names_of_the_table_are_those_of_the_program():
    cells = [line.split("|")[1] for line in SECTION.splitlines() if line.startswith("| `")]
    told = set(re.findall("`([^`]+)`", " ".join(cells)))
    for first, last in (("temp1f", "temp8f"), ("humidity1", "humidity8"), ("field1", "field9"),
                        ("pm25_ch1", "pm25_ch4")):
        assert {first, last} <= told
        told |= {re.sub("1(?=f?$)", str(n), first) for n in range(1, int(last.strip("f")[-1]) + 1)}
    assert told == set(iotserver.UPLOADS)
