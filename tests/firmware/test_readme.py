"""The commands of firmware/README.md are the ones that run."""
import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tomllib
import types
import urllib.request
from pathlib import Path

import interpreter
import pytest
import simulator
from rawrepl import CONFIG, RawRepl
from romloader import Esp32RomLoader, RomLoader, esp32_image, esp8266_image
from simulator import FIRMWARE
from tools import needs

sys.path.append(str(FIRMWARE))
import settings

TOOLS = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
FLASH_LINES = {  # as test_flash runs them
    ("--port", "--image"), ("--port", "--files", "--config"), ("--port", "--monitor")}


@pytest.fixture(scope="module")
def commands():
    """Its command lines, as lists of words."""
    blocks = re.findall(r"^```sh\n(.*?)^```", (FIRMWARE / "README.md").read_text(), re.M | re.S)
    return [shlex.split(line) for block in blocks for line in block.splitlines()]


def test_flash_py_lines_are_tested_ones(commands):
    lines = {tuple(word for word in words if word.startswith("--"))
             for words in commands if words[1] == "firmware/flash.py"}
    assert lines == FLASH_LINES


def test_each_line_is_run_by_a_test(commands):
    """Here, or what makes a virtual environment: tests/run does that."""
    others = [words for words in commands if words[0] not in {"esptool", "ampy"}
              and words[1] not in {"firmware/flash.py", "iotserver.py"}]
    assert [" ".join(words) for words in others] == [
        "python3 -m venv .venv", ". .venv/bin/activate", "pip install .[flash]"]
    project = tomllib.loads((FIRMWARE.parent / "pyproject.toml").read_text())["project"]
    assert "flash" in project["optional-dependencies"]


@needs("node", "npm")
def test_what_registration_prints_is_a_config_that_is_copied(commands, tmp_path):
    """Step 3 on the server's computer, and step 4, with the lines as they are printed."""
    shutil.copy(FIRMWARE.parent / "iotserver.py", tmp_path)
    (tmp_path / "firmware").symlink_to(FIRMWARE)
    station, = [words for words in commands if "--role" in words]
    console, = [words for words in commands if "--console" in words]
    run(console, tmp_path, None)
    lines = re.findall(r'^([A-Z_]+ = ".*")$', run(station, tmp_path, None), re.MULTILINE)
    text = "\n".join(lines) + "\n"
    assert "the name of your WiFi" in text
    (tmp_path / "config.py").write_text(text.replace("the name of your WiFi", "home")
                                        .replace("its password", "secret"))
    copy, = [words for words in commands if "--files" in words]
    with RawRepl(*interpreter.webassembly()) as board:
        said = run([*copy, "--delay", "0"], tmp_path, board.port)
    assert "1/22 config.py" in said
    assert "The board has all files" in said


def run(words, folder, port):
    words = [port if word == "/dev/ttyUSB0" else word for word in words]
    done = subprocess.run(words, cwd=folder, env=TOOLS, capture_output=True, text=True,
                          stdin=subprocess.DEVNULL, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "deprecated" not in (done.stdout + done.stderr).lower()
    return done.stdout


@pytest.mark.parametrize(("name", "board", "image", "at"), [
    ("esp8266", RomLoader, esp8266_image(b"code" * 20_000), 0),
    ("esp32", Esp32RomLoader, esp32_image(b"code" * 20_000), 0x1000)])
def test_esptool_lines(commands, tmp_path, name, board, image, at):
    """Erase, write and verify, in that order, on one chip."""
    (tmp_path / f"{name}.bin").write_bytes(image)
    lines = [words for words in commands if words[:3] == ["esptool", "--chip", name]]
    assert [words[5] for words in lines] == ["erase-flash", "write-flash", "verify-flash"]
    with board() as chip:
        for words in lines:
            run(words, tmp_path, chip.port)
    assert chip.erased == 1
    assert chip.flash[at + 4:at + len(image)] == image[4:]


def test_label_lines(commands, tmp_path):
    """Further thermometers on one wire have fields 4 to 9."""
    shutil.copy(FIRMWARE.parent / "iotserver.py", tmp_path)
    run(next(words for words in commands if "--role" in words), tmp_path, None)
    lines = [words for words in commands if "--label" in words]
    assert [words[4] for words in lines] == list("456789")
    for words in lines:
        run(words, tmp_path, None)


def table(head):
    """The rows of the guide's table with this first cell, as lists of cells without backticks."""
    text = (FIRMWARE / "README.md").read_text()
    lines = text[text.index(f"| {head} |"):].split("\n\n", 1)[0].splitlines()[2:]
    return [[cell.strip().replace("`", "") for cell in line.split("|")[1:-1]] for line in lines]


def test_the_tables_of_sensors_and_boards_are_those_of_the_firmware():
    """Each sensor and board that config.py may name, with the pins that it then has."""
    assert {sensor_name(row) for row in table("sensor")} == {*settings.SENSORS} - {"auto"}
    pins = {row[6].split('"')[1]: tuple(gpio(cell) for cell in row[3:6]) for row in table("board")}
    assert pins == settings.BOARDS


def sensor_name(row):
    first = row[0].split(",")[0].split(" ")[0]
    return settings.sensor_of(types.SimpleNamespace(SENSOR=first))


def gpio(cell):
    return int(re.search(r"GPIO(\d+)", cell)[1])


FOLLOWERS = {     # sensor and board of a household; its image, where that goes, and its chip
    "D1 mini, DHT22": ("DHT22 (AM2302)", "D1 mini", "esp8266", RomLoader, (1, 2)),
    "ESP32, BME280": ("BME280", "ESP32", "esp32", Esp32RomLoader, (1, 2, 3))}


@pytest.mark.slow
@needs("node", "npm", "MicroPython")
@pytest.mark.parametrize("who", FOLLOWERS)
def test_the_guide_leads_to_numbers_on_the_page(commands, tmp_path, micropython, who):
    """Each step as it is printed, with the lines of step 1 for this sensor and board."""
    name, board, chip_name, loader, fields = FOLLOWERS[who]
    sensor, = [row for row in table("sensor") if row[0] == name]
    pins, = [row for row in table("board") if row[0] == board]
    (tmp_path / "firmware").symlink_to(FIRMWARE)
    shutil.copy(FIRMWARE.parent / "iotserver.py", tmp_path)
    image = {"esp8266": esp8266_image, "esp32": esp32_image}[chip_name](b"code" * 1000)
    (tmp_path / f"{chip_name}.bin").write_bytes(image)
    write, = [words for words in commands if f"{chip_name}.bin" in words and "--image" in words]
    with loader() as chip:
        assert f"{chip_name}.bin is on the board" in run(write, tmp_path, chip.port)
    server = simulator.Server(tmp_path)
    try:
        register, = [words for words in commands if "--role" in words]
        said = run(register, tmp_path, None)
        lines = re.findall(r'^([A-Z_]+ = ".*")$', said, re.MULTILINE)
        text = "\n".join([*lines, sensor[3], pins[6], ""])
        text = text.replace("the name of your WiFi", "home").replace("its password", "secret")
        (tmp_path / "config.py").write_text(text)
        copy, = [words for words in commands if "--files" in words]
        with RawRepl(*interpreter.webassembly()) as repl:
            assert "The board has all files" in run([*copy, "--delay", "0"], tmp_path, repl.port)
        config = {**runpy.run_path(str(tmp_path / "config.py")), "SERVER": server.url}
        station = simulator.Board(micropython, tmp_path / "flash", **{
            key: value for key, value in config.items() if key.isupper()})
        story = station.live(630, sensor=name.split(" ")[0], pin=gpio(pins[5]),
                             pins=[gpio(pins[3]), gpio(pins[4])], dht=[2, 0x8C, 1, 0x5F],
                             esp32=int(chip_name == "esp32"))
        with urllib.request.urlopen(f"{server.url}/api/stations", timeout=30) as answer:
            told, = json.load(answer)
        with urllib.request.urlopen(server.url, timeout=30) as answer:
            page = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", answer.read().decode()))
    finally:
        server.stop()
    values = {field["field"]: field["value"] for field in told["fields"]}
    assert set(values) == {*fields}
    for field, value in values.items():
        assert f"field {field}: {value:.3f}" in story.output
    assert re.search(rf"humidity {values[2]:.0f} ?%", page)
    assert f"{values[1]:.1f}" in page


@needs("node", "npm")
def test_ampy_lines(commands, tmp_path):
    (tmp_path / "config.py").write_text(CONFIG)
    with RawRepl(*interpreter.webassembly()) as board:
        for words in [words for words in commands if words[0] == "ampy"]:
            run(words, tmp_path, board.port)
        assert b"SERVER" not in board.heard  # read back as hexadecimal digits
        assert CONFIG.encode().hex()[-40:].encode() in board.heard
        assert b"machine.reset()" in board.heard
