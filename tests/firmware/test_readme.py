"""The commands of firmware/README.md are the ones that run."""
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
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
    station, console = [words for words in commands if words[1] == "iotserver.py"]
    assert "--console" in console
    run(console, tmp_path, None)
    lines = re.findall(r'^([A-Z_]+ = ".*")$', run(station, tmp_path, None), re.MULTILINE)
    (tmp_path / "config.py").write_text("\n".join(lines) + "\n")
    copy, = [words for words in commands if "--files" in words]
    with RawRepl(*interpreter.webassembly()) as board:
        said = run([*copy, "--delay", "0"], tmp_path, board.port)
    assert "1/11 config.py" in said
    assert "The board has all files" in said


def run(words, folder, port):
    words = [port if word == "/dev/ttyUSB0" else word for word in words]
    done = subprocess.run(words, cwd=folder, env=TOOLS, capture_output=True, text=True,
                          stdin=subprocess.DEVNULL, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "deprecated" not in (done.stdout + done.stderr).lower()
    return done.stdout


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
