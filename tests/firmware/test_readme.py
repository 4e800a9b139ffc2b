"""The commands of firmware/README.md are the ones that run."""
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import interpreter
import pytest
from rawrepl import CONFIG, RawRepl
from romloader import RomLoader, esp8266_image
from simulator import FIRMWARE
from tools import needs

TOOLS = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
FLASH_LINES = {  # as test_flash runs them
    ("--port", "--image"), ("--port", "--files", "--config"), ("--port", "--monitor")}


@pytest.fixture(scope="module")
def commands():
    """Its indented command lines, as lists of words."""
    text = (FIRMWARE / "README.md").read_text()
    lines = re.findall(r"^    ((?:esptool|ampy|python3) .*)$", text, re.MULTILINE)
    return [shlex.split(line) for line in lines]


def test_flash_py_lines_are_tested_ones(commands):
    lines = {tuple(word for word in words if word.startswith("--"))
             for words in commands if words[1] == "firmware/flash.py"}
    assert lines == FLASH_LINES


def run(words, folder, port):
    words = [port if word == "/dev/ttyUSB0" else word for word in words]
    done = subprocess.run(words, cwd=folder, env=TOOLS, capture_output=True, text=True,
                          stdin=subprocess.DEVNULL, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "deprecated" not in (done.stdout + done.stderr).lower()


def test_esptool_lines(commands, tmp_path):
    """Erase, write and verify, in that order, on one chip."""
    image = esp8266_image(b"code" * 20_000)
    (tmp_path / "esp8266.bin").write_bytes(image)
    with RomLoader() as chip:
        for words in [words for words in commands if words[0] == "esptool"]:
            run(words, tmp_path, chip.port)
    assert chip.erased == 1
    assert chip.flash[4:len(image)] == image[4:]


@needs("node", "npm")
def test_ampy_lines(commands, tmp_path):
    (tmp_path / "config.py").write_text(CONFIG)
    with RawRepl(*interpreter.webassembly()) as board:
        for words in [words for words in commands if words[0] == "ampy"]:
            run(words, tmp_path, board.port)
        assert b"SERVER" not in board.heard  # read back as hexadecimal digits
        assert CONFIG.encode().hex()[-40:].encode() in board.heard
        assert b"machine.reset()" in board.heard
