"""firmware/flash.py with the real esptool and the real ampy, against emulated boards."""
import ast
import fnmatch
import os
import pty
import runpy
import shutil
import signal
import subprocess
import sys
import time
import tomllib
import tty
import types
from pathlib import Path

import interpreter
import pytest
from esptool import targets
from rawrepl import CONFIG, RawRepl
from romloader import Esp32RomLoader, RomLoader, esp32_image, esp32_part, esp8266_image
from simulator import FIRMWARE
from tools import needs

program = types.SimpleNamespace(**runpy.run_path(str(FIRMWARE / "flash.py")))


def flash(*arguments):
    done = subprocess.run([sys.executable, FIRMWARE / "flash.py", *arguments], text=True,
                          capture_output=True, stdin=subprocess.DEVNULL, timeout=240, check=False)
    assert "flash.py\", line" not in done.stderr  # a traceback is no message
    return done


@pytest.fixture(params=["compressible", "incompressible"])
def image(request, tmp_path):
    filling = os.urandom(300_000) if request.param == "incompressible" else b"code" * 75_000
    path = tmp_path / "esp8266.bin"
    path.write_bytes(esp8266_image(filling))
    return path


@pytest.mark.slow
def test_image_is_written_and_verified(image):
    with RomLoader() as chip:
        chip.flash[-3:] = b"old"
        done = flash("--port", chip.port, "--image", image)
    assert done.returncode == 0, done.stdout + done.stderr
    written = image.read_bytes()
    assert chip.flash[4:len(written)] == written[4:]  # esptool sets flash size and mode before
    assert chip.flash[:2] == written[:2]
    assert chip.flash[-3:] == b"\xff" * 3
    assert chip.erased == 1
    assert "verify-flash" in done.stdout


@pytest.mark.parametrize("command", [["erase-flash"],
                                     ["write-flash", "--flash-size", "detect", "0", "IMAGE"]])
def test_plain_esptool_as_in_the_readme(tmp_path, command):
    path = tmp_path / "esp8266.bin"
    path.write_bytes(esp8266_image(b"code" * 1000))
    command = [str(path) if word == "IMAGE" else word for word in command]
    with RomLoader() as chip:
        done = subprocess.run(
            [sys.executable, "-m", "esptool", "--chip", "esp8266", "--port", chip.port, *command],
            capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "deprecated" not in (done.stdout + done.stderr).lower()
    assert chip.erased == (command == ["erase-flash"])
    assert (0x03 in chip.commands or 0x11 in chip.commands) == (command != ["erase-flash"])


def test_flash_that_keeps_nothing_is_noticed(tmp_path):
    path = tmp_path / "esp8266.bin"
    path.write_bytes(esp8266_image(b"code" * 1000))
    with RomLoader() as chip:
        chip.handlers = {**chip.handlers, 0x03: RomLoader.accept, 0x11: RomLoader.accept}
        done = flash("--port", chip.port, "--image", path)
    assert done.returncode == 1
    assert "esptool failed" in done.stderr


def test_a_module_of_the_current_folder_is_not_the_tool(tmp_path, monkeypatch):
    (tmp_path / "esp8266.bin").write_bytes(esp8266_image(b""))
    (tmp_path / "esptool.py").write_text("print('a module of this folder ran')")
    monkeypatch.chdir(tmp_path)
    done = flash("--port", os.devnull, "--image", "esp8266.bin")
    assert done.returncode == 1
    assert "of this folder ran" not in done.stdout
    assert "flash.py: esptool failed: " in done.stderr


def test_a_missing_tool_is_named_with_the_versions_of_pyproject(tmp_path):
    """-S: an interpreter that sees no installed package."""
    (tmp_path / "esp8266.bin").write_bytes(esp8266_image(b""))
    done = subprocess.run([sys.executable, "-S", FIRMWARE / "flash.py", "--port", "/dev/nowhere",
                           "--image", tmp_path / "esp8266.bin"],
                          capture_output=True, text=True, timeout=60, check=False)
    pyproject = tomllib.loads((FIRMWARE.parent / "pyproject.toml").read_text())
    tools = " ".join(pyproject["project"]["optional-dependencies"]["flash"])
    assert done.returncode == 1
    assert f"python3 -m pip install {tools}\n" in done.stderr


BAD_IMAGES = {
    "a web page": b"<!DOCTYPE html><html>Not found</html>",
    "nothing": b"",
    "one byte": b"\xe9",
    "elsewhere in memory": esp8266_image(b"", iram=0x40080000),
    "cut short": esp8266_image(b"")[:2000],
    "a wrong bit": esp8266_image(b"").replace(b"\x10\x11\x12", b"\x10\x13\x12", 1),
    "too large": esp8266_image(bytes(16 << 20)),
    "a chip without WiFi": esp32_image(b"code", chip=16, offset=0),
    "a boot loader with a wrong bit": esp32_image(b"code").replace(b"loader", b"leader", 1),
    "a boot loader whose digest is wrong": esp32_image(b"code")[:4]
    + b"\5" + esp32_image(b"code")[5:],
}
BAD_APPLICATIONS = {
    "cut short": esp32_image(b"code" * 1000)[:0xF800],
    "cut at the table": esp32_image(b"code")[:0x7000],
    "a wrong bit": esp32_image(b"code" * 1000)[:-100] + b"X" + esp32_image(b"code" * 1000)[-99:],
    "another chip's": esp32_image(b"code")[:0xF000] + esp32_part(5, b"code"),
    "only an update": esp32_part(0, b"code" * 1000),
}


@pytest.mark.parametrize("data", BAD_IMAGES.values(), ids=BAD_IMAGES)
def test_what_is_no_image_is_refused(tmp_path, data):
    """Before a byte goes to the board: there is no such port."""
    path = tmp_path / "image.bin"
    path.write_bytes(data)
    done = flash("--port", "/dev/nowhere", "--image", path)
    assert done.returncode == 1
    assert "is not an image for an ESP8266 or ESP32" in done.stderr
    assert "esptool" not in done.stdout


@pytest.mark.parametrize("data", BAD_APPLICATIONS.values(), ids=BAD_APPLICATIONS)
def test_an_esp32_image_without_its_application_is_refused(tmp_path, data):
    path = tmp_path / "image.bin"
    path.write_bytes(data)
    done = flash("--port", "/dev/nowhere", "--image", path)
    assert done.returncode == 1
    assert "is incomplete, or only an update" in done.stderr
    assert "esptool" not in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("filling", [b"code" * 75_000, None], ids=["small", "large"])
def test_an_esp32_image_is_written_where_its_rom_looks(tmp_path, filling):
    """esptool finds the chip; the image goes to 0x1000, byte for byte."""
    path = tmp_path / "esp32.bin"
    path.write_bytes(esp32_image(filling or os.urandom(300_000)))
    with Esp32RomLoader() as chip:
        chip.flash[-3:] = b"old"
        done = flash("--port", chip.port, "--image", path)
    assert done.returncode == 0, done.stdout + done.stderr
    written = path.read_bytes()
    assert chip.flash[0x1000:0x1000 + len(written)] == written
    assert chip.flash[:0x1000] == b"\xff" * 0x1000
    assert chip.flash[-3:] == b"\xff" * 3
    assert chip.erased == 1
    assert "esptool --chip esp32 " in done.stdout
    assert "verify-flash" in done.stdout


@pytest.mark.parametrize(("chip", "offset"), [
    (0, "0x1000"), (2, "0x1000"), (5, "0"), (9, "0"), (12, "0"), (13, "0"), (23, "0x2000")])
def test_images_of_the_esp32s_kin_go_where_their_roms_look(tmp_path, monkeypatch, chip, offset):
    """A stand-in for esptool tells what it was asked to do; the offsets are esptool's own."""
    path = tmp_path / "image.bin"
    number = int(offset, 16)
    path.write_bytes(esp32_image(b"code", chip, number))
    target = next(rom for rom in targets.CHIP_DEFS.values()
                  if getattr(rom, "IMAGE_CHIP_ID", None) == chip)
    assert number == target.BOOTLOADER_FLASH_OFFSET
    name = target.CHIP_NAME
    (tmp_path / "esptool.py").write_text(f"print('Connected to {name} on port:')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    done = flash("--port", os.devnull, "--image", path)
    option = name.lower().replace("-", "")
    assert done.returncode == 0, done.stderr
    assert (f"esptool --chip {option} --port /dev/null --baud 115200 write-flash {offset} {path}"
            in done.stdout)


@pytest.mark.parametrize(("board", "image", "words"), [
    (RomLoader, esp32_image(b"code"), "is for an ESP32, but the board has an ESP8266"),
    (Esp32RomLoader, esp8266_image(b"code"), "is for an ESP8266, but the board has an ESP32")])
def test_an_image_of_another_chip_erases_nothing(tmp_path, board, image, words):
    path = tmp_path / "image.bin"
    path.write_bytes(image)
    with board() as chip:
        done = flash("--port", chip.port, "--image", path)
        told = flash("--port", chip.port, "--chip", "esp32c3", "--image", path)
    assert (done.returncode, told.returncode) == (1, 1)
    assert words in done.stderr
    assert "but the board has an ESP32C3" in told.stderr
    assert chip.erased == 0


def test_a_chip_that_is_not_the_one_named_erases_nothing(tmp_path):
    """esptool itself compares what --chip says with what it finds."""
    path = tmp_path / "image.bin"
    path.write_bytes(esp32_image(b"code"))
    with RomLoader() as chip:
        done = flash("--port", chip.port, "--chip", "esp32", "--image", path)
    assert done.returncode == 1
    assert "This chip is ESP8266, not ESP32" in done.stderr
    assert chip.erased == 0


def test_missing_image_is_told(tmp_path):
    done = flash("--port", "/dev/nowhere", "--image", tmp_path / "none.bin")
    assert (done.returncode, "cannot read" in done.stderr) == (1, True)


@needs("node", "npm")
def test_files_are_copied_and_read_back(tmp_path):
    config = tmp_path / "station.py"
    config.write_text(CONFIG)
    with RawRepl(*interpreter.webassembly()) as board:
        done = flash("--port", board.port, "--files", "--config", config, "--delay", "0")
        assert done.returncode == 0, done.stdout + done.stderr
        assert b"machine.reset()" in board.heard
        listing = ampy(board, "ls", "-l")
        sizes = {path.name: path.stat().st_size for path in FIRMWARE.glob("*.py")}
        for name in ("flash.py", "config.example.py", "DHT22.py", "DS18B20.py", "order.py"):
            del sizes[name]     # the sensors on a data pin are not what SENSOR = "auto" finds
        for name, size in {**sizes, "config.py": len(CONFIG)}.items():
            assert f"/{name} - {size} bytes" in listing
        assert ampy(board, "get", "config.py").strip() == CONFIG.strip()
    assert "22/22 main.py" in done.stdout
    assert "DHT22" not in done.stdout


@pytest.mark.parametrize(("data", "words"), [
    (b"-----BEGIN CERTIFICATE-----", "is no certificate in DER. To make it one: openssl x509 -in"),
    (None, "cannot read")])
def test_an_authority_that_cannot_be_copied_is_told_before_copying(tmp_path, data, words):
    path = tmp_path / "station.py"
    path.write_text(CONFIG.replace("http:", "https:") + 'CA = "ca.der"\n')
    if data:
        (tmp_path / "ca.der").write_bytes(data)
    done = flash("--port", "/dev/nowhere", "--files", "--config", path)
    assert done.returncode == 1
    assert words in done.stderr
    assert "ampy" not in done.stdout


@needs("node", "npm")
@pytest.mark.slow
def test_the_authority_is_copied_too(tmp_path):
    path = tmp_path / "station.py"
    path.write_text(CONFIG.replace("http:", "https:") + 'CA = "ca.der"\nSENSOR = "DHT22"\n')
    (tmp_path / "ca.der").write_bytes(b"\x30\x82" + bytes(range(256)) * 4)
    with RawRepl(*interpreter.webassembly()) as board:
        done = flash("--port", board.port, "--files", "--config", path, "--delay", "0")
        assert done.returncode == 0, done.stdout + done.stderr
        listing = ampy(board, "ls", "-l")
    assert "/ca.der - 1026 bytes" in listing
    assert "/DHT22.py" in listing
    assert "BMP280" not in listing


@pytest.mark.parametrize(("name", "ignored"), [
    ("config.py", True), ("config-outside.py", True), ("password", True), ("esp32.bin", True),
    ("old.csv", True), ("ca.der", True), ("firmware/config.example.py", False),
    ("tests/data/falkensee_two_weeks.csv", False), ("firmware/flash.py", False)])
def test_what_a_household_makes_is_ignored_by_git(name, ignored):
    """The last line that fits decides, as in git."""
    verdict = False
    for line in (FIRMWARE.parent / ".gitignore").read_text().splitlines():
        pattern = line.lstrip("!")
        if fnmatch.fnmatch(name if "/" in pattern else Path(name).name, pattern):
            verdict = not line.startswith("!")
    assert verdict == ignored


def test_each_file_of_the_folder_is_copied_for_some_sensor():
    """And each sensor's drivers with what they import."""
    files = {sensor: program.board_files(sensor) for sensor in (None, "auto", *program.DRIVERS)}
    names = {path.name for path in FIRMWARE.glob("*.py")} - {"flash.py", "config.example.py"}
    assert set(files[None]) == names
    assert set(files["auto"]) == names - {"DHT22.py", "DS18B20.py", "order.py"}
    assert all(of_one[0] == "boot.py" and of_one[-1] == "main.py" for of_one in files.values())
    for sensor, of_one in files.items():
        wanted = {f"{node.module if isinstance(node, ast.ImportFrom) else node.names[0].name}.py"
                  for name in of_one for node in ast.walk(ast.parse((FIRMWARE / name).read_text()))
                  if isinstance(node, ast.Import | ast.ImportFrom)}
        assert wanted & names <= set(of_one), sensor


def ampy(board, *arguments):
    return subprocess.run([sys.executable, "-m", "ampy.cli", "--port", board.port, *arguments],
                          capture_output=True, text=True, timeout=60, check=True).stdout


def test_a_file_that_comes_back_changed_is_noticed(tmp_path, monkeypatch):
    """A stand-in for ampy that loses the last byte, found before the real one."""
    package = tmp_path / "ampy"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "cli.py").write_text(
        "import sys\nif 'get' in sys.argv:\n    open(sys.argv[-1], 'w').write('short')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    done = flash("--port", os.devnull, "--files")
    assert done.returncode == 1
    assert "boot.py came back from the board changed" in done.stderr


@pytest.mark.parametrize(("text", "message"), [
    (CONFIG.replace("SERVER", "OTHER"), "config.py has no SERVER"),
    (CONFIG.replace('"home"', '""'), "SSID is empty"),
    (CONFIG.replace("http://", ""), "SERVER must look like"),
    (CONFIG.replace("home", "the name of your WiFi"), 'SSID is still "the name of your WiFi"'),
    (CONFIG.replace("secret", "its password"), 'WIFI_PASSWORD is still "its password"'),
    (CONFIG + 'SENSOR = "DHT11"\n', "SENSOR must be one of"),
    (CONFIG + 'BOARD = "D1 mini"\nPIN = 10\n', "PIN must be D1 to D7"),
    ("API_KEY = \n", "invalid syntax"), (None, "cannot read")])
def test_config_mistakes_are_told_before_copying(tmp_path, text, message):
    path = tmp_path / "station.py"
    if text is not None:
        path.write_text(text)
    done = flash("--port", "/dev/nowhere", "--files", "--config", path)
    assert done.returncode == 1
    assert message in done.stderr
    assert "ampy" not in done.stdout


@pytest.mark.parametrize("what", [["--files"], ["--monitor"], ["--image"]])
def test_a_port_that_is_not_there_is_told_in_a_few_lines(what, tmp_path):
    if what == ["--image"]:
        (tmp_path / "esp8266.bin").write_bytes(esp8266_image(b"code" * 1000))
        what = ["--image", tmp_path / "esp8266.bin"]
    done = flash("--port", "/dev/nowhere", *what)
    assert done.returncode == 1
    assert done.stderr.startswith("flash.py: there is no port /dev/nowhere; ")
    assert len(done.stderr.splitlines()) <= 4
    assert "did not answer" not in done.stderr
    assert done.stdout == ""            # no tool was started


@needs("root", "setpriv", "/usr/bin/python3")
def test_a_port_that_one_may_not_use_is_told(public_folder):
    port = public_folder / "ttyUSB0"
    port.touch(0o660)
    for path in FIRMWARE.glob("*.py"):
        shutil.copy(path, public_folder)
    done = subprocess.run(
        ["setpriv", "--reuid=nobody", "--clear-groups", "/usr/bin/python3",
         public_folder / "flash.py", "--port", port, "--monitor"],
        capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "sudo usermod -aG dialout $USER" in done.stderr


def test_a_board_that_does_not_answer_is_told_without_a_traceback():
    """What is no serial port; the real ampy tries it."""
    done = flash("--port", os.devnull, "--files", "--delay", "0")
    assert done.returncode == 1
    first, second, *hints = done.stderr.splitlines()
    assert first.startswith("flash.py: ampy failed: ")
    assert second.startswith("The board did not answer.")
    assert 3 <= len(hints) <= 6
    assert "Traceback" not in done.stderr


def test_no_port_at_all():
    """A machine under test has no board on USB; with one, this would find it."""
    done = flash("--monitor")
    assert done.returncode == 1
    assert "no serial port on USB found" in done.stderr
    assert "many cables only charge" in done.stderr
    assert "did not answer" not in done.stderr


@pytest.mark.parametrize("arguments", [[], ["--port", "x"], ["--config", "c", "--monitor"],
                                       ["--files", "--no-such"]])
def test_wrong_usage(arguments):
    assert flash(*arguments).returncode == 2


def test_monitor_prints_until_ctrl_c():
    ours, theirs = pty.openpty()
    tty.setraw(theirs)
    process = subprocess.Popen(
        [sys.executable, FIRMWARE / "flash.py", "--port", os.ttyname(theirs), "--monitor"],
        stdout=subprocess.PIPE, text=True,      # a shell's background job would ignore Ctrl-C
        preexec_fn=lambda: signal.signal(  # noqa: PLW1509
            signal.SIGINT, signal.default_int_handler))
    try:
        assert "Listening" in process.stdout.readline()
        os.write(ours, b"field 1: 21.062, waiting: 1\r\n")
        assert "21.062" in process.stdout.readline()
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        os.close(ours)
        os.close(theirs)
