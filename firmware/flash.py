#!/usr/bin/env python3
"""Put MicroPython and the station's files on an ESP8266 or ESP32 board, and listen to it.

    python3 firmware/flash.py --port /dev/ttyUSB0 --image esp8266.bin
    python3 firmware/flash.py --port /dev/ttyUSB0 --files --config config.py
    python3 firmware/flash.py --port /dev/ttyUSB0 --monitor

Runs on the computer, not on the board. The work is done by esptool and ampy, whose command
lines are printed as they are run; when they are missing, it prints how to install them.
It never asks anything. Exit status: 0 done, 1 could not, 2 wrong usage, 130 Ctrl-C.
"""
import argparse
import functools
import hashlib
import importlib.util
import operator
import os
import re
import runpy
import shlex
import struct
import subprocess
import sys
import tempfile
import types
from pathlib import Path

HERE = Path(__file__).resolve().parent
# main.py comes last: until it is there, a half-copied station does not start.
FIRST_FILES = ("boot.py", "settings.py", "wifitools.py", "secure.py", "hardware.py", "bus.py",
               "backlog.py", "boots.py", "sender.py", "sensors.py")
LAST_FILES = ("start.py", "run.py", "main.py")
DRIVERS = {  # what SENSOR needs; "auto" is all that an I2C bus may have
    "MCP9808": ("MCP9808.py",), "SHT3x": ("crc8.py", "SHT3x.py"), "SHT4x": ("crc8.py", "SHT4x.py"),
    "AHT20": ("crc8.py", "AHT20.py"), "BMP280": ("bosch.py", "BMP280.py", "BME280.py"),
    "BME280": ("bosch.py", "BMP280.py", "BME280.py"), "DHT22": ("DHT22.py",),
    "DS18B20": ("order.py", "DS18B20.py")}
ON_PIN = ("DHT22", "DS18B20")

IMAGE_MAGIC, CHECKSUM_SEED, MOST_SEGMENTS = 0xE9, 0xEF, 16
IMAGE_MOST = 16 << 20  # bytes; the largest flash that boards come with
RAM = ((0x3FFE8000, 0x40000000), (0x40100000, 0x40108000))  # where an ESP8266 image loads to
ESP8266_HEADER, ESP32_HEADER, DIGEST = 8, 24, 32  # bytes
PARTITIONS, PARTITION_MAGIC = 0x8000, b"\xaa\x50"
CHIPS = {  # of the ESP32 family with WiFi, by the number in their images: name, where images go
    0: ("ESP32", 0x1000), 2: ("ESP32-S2", 0x1000), 5: ("ESP32-C3", 0), 9: ("ESP32-S3", 0),
    12: ("ESP32-C2", 0), 13: ("ESP32-C6", 0), 23: ("ESP32-C5", 0x2000)}
NAMES = ("ESP8266", *(name for name, _ in CHIPS.values()))

PLACEHOLDERS = ("the name of your WiFi", "its password")  # as --add-station prints them

# The versions that the tests ran, the same as in pyproject.toml. No shell needs quotes here.
TOOLS = ("esptool~=5.0", "adafruit-ampy==1.1.0")
ESPTOOL_S, AMPY_S = 600, 120  # ampy has no time-out of its own and waits for ever

NO_PORT = """\
no serial port on USB found. What helps:
  - a USB cable with data lines; many cables only charge
  - the driver of the board's USB chip (CP210x on a Feather Huzzah, CH340 on many others)
  - --port, if the port is not on USB"""
NO_ANSWER = """\
The board did not answer. What helps, the most frequent first:
  - nothing else that uses the port: close monitors and terminals
  - another port, if there are several
  - a lower speed: --baud 115200, or --baud 57600
  - for --image: hold the boot button (GPIO0 to ground), press reset, let go, try again
  - for --files: press reset and start at once, so that Ctrl-C comes while boot.py waits"""


class Problem(Exception):
    """What went wrong, and what to do about it."""


def main(argv=None):
    options = parse(argv)
    try:
        port = options.port or only_port()
        if options.image:
            flash_image(port, options)
        if options.files:
            copy_files(port, options)
        if options.monitor:
            monitor(port)
    except Problem as problem:
        print(f"flash.py: {problem}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def parse(argv):
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", 1)[0])
    parser.add_argument("--port", help="serial port; needed only if there are several")
    parser.add_argument("--chip", default="auto", type=str.lower,
                        choices=["auto", *(chip_option(name) for name in NAMES)],
                        help="the board's chip (default: esptool finds it)")
    parser.add_argument("--baud", type=int, default=115200, help="speed of writing the image")
    parser.add_argument("--image", type=Path, metavar="FILE",
                        help="erase the flash, then write and verify this MicroPython image")
    parser.add_argument("--files", action="store_true",
                        help="copy the station's files, compare them, and reset the board")
    parser.add_argument("--config", type=Path, metavar="FILE",
                        help="with --files: also copy FILE to the board, as config.py")
    parser.add_argument("--delay", type=float, default=1, metavar="SECONDS",
                        help="wait after opening the port, which resets some boards (default 1)")
    parser.add_argument("--monitor", action="store_true", help="print what the station prints")
    options = parser.parse_args(argv)
    if not (options.image or options.files or options.monitor):
        parser.error("say what to do: --image FILE, --files or --monitor")
    if options.config and not options.files:
        parser.error("--config needs --files")
    return options


def need(*modules):
    for module in modules:
        if importlib.util.find_spec(module) is None:
            raise Problem(f"{module} is not installed. In a virtual environment, type: "
                          f"python3 -m pip install {' '.join(TOOLS)}")


def usb_ports():
    need("serial")
    from serial.tools import list_ports
    return [port.device for port in list_ports.comports() if port.vid is not None]


def only_port():
    """The serial port, if there is exactly one on USB."""
    ports = usb_ports()
    if not ports:
        raise Problem(NO_PORT)
    if len(ports) > 1:
        raise Problem(f"there are several ports; choose one with --port: {' '.join(ports)}")
    print(f"Port: {ports[0]}")
    return ports[0]


def check_port(port):
    """Say what is wrong with a port while it can be said in one line."""
    if os.name == "posix" and not os.path.exists(port):
        ports = usb_ports()
        raise Problem(f"there is no port {port}; " + (
            f"on USB there is --port {' or '.join(ports)}" if ports else NO_PORT))
    if os.name == "posix" and not os.access(port, os.R_OK | os.W_OK):
        raise Problem(f"you may not use {port}. To be allowed to, type this and log in again: "
                      "sudo usermod -aG dialout $USER")


def say_program(port):
    return f"python3 {shlex.quote(sys.argv[0])} --port {port}"


def run_tool(arguments, limit, quiet=False):
    """Run one of the tools, shown as typed; return what a quiet one prints.

    Problem when it fails or takes too long.
    """
    print(f"+ {shlex.join(arguments)}", flush=True)
    module = {"esptool": "esptool", "ampy": "ampy.cli"}[arguments[0]]
    try:        # -P: a module of that name in the current folder is not taken for the tool
        return subprocess.run(
            [sys.executable, "-P", "-m", module, *arguments[1:]], check=True, timeout=limit,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE if quiet else None,
            stderr=subprocess.PIPE, text=True).stdout
    except subprocess.TimeoutExpired:
        raise Problem(f"{arguments[0]} got no further in {limit} s.\n{NO_ANSWER}") from None
    except subprocess.CalledProcessError as error:
        raise Problem(f"{arguments[0]} failed: {last_words(error.stderr)}\n{NO_ANSWER}") from None


def last_words(text):
    """What a tool says of its failure; of a traceback only what the last line says."""
    if "Traceback" in text:
        return text.strip().splitlines()[-1].rpartition("Error: ")[2]
    return text.strip()


# ---------------------------------------------------------------- the image

def flash_image(port, options):
    """The image's chip and the board's are compared before anything is erased."""
    need("esptool")
    name, offset = image_of(read(options.image), options.image)
    check_port(port)
    esptool = ["esptool", "--chip", options.chip, "--port", port, "--baud", str(options.baud)]
    board = find_chip(esptool) if options.chip == "auto" else options.chip.upper()
    if chip_option(board) != chip_option(name):
        raise Problem(f"{options.image} is for an {name}, but the board has an {board}; nothing "
                      f"was erased. Download the .bin for {board}")
    esptool[2] = chip_option(name)
    image = [hex(offset) if offset else "0", str(options.image)]
    if name == "ESP8266":
        image = ["--flash-size", "detect", *image]
    run_tool([*esptool, "erase-flash"], ESPTOOL_S)
    run_tool([*esptool, "write-flash", *image], ESPTOOL_S)
    run_tool([*esptool, "verify-flash", *image], ESPTOOL_S)
    print(f"{options.image} is on the board. Next:\n"
          f"{say_program(port)} --files --config config.py")


def chip_option(name):
    """'esp32c3' of 'ESP32-C3', as esptool's --chip has it."""
    return name.lower().replace("-", "")


def find_chip(esptool):
    """The name of the chip that esptool finds on the port."""
    said = run_tool([*esptool, "chip-id"], ESPTOOL_S, quiet=True)
    found = re.search(r"^Connected to (\S+) on ", said, re.MULTILINE)
    if not found:
        raise Problem("esptool does not say which chip the board has; name it with --chip")
    print(f"Chip: {found[1]}")
    return found[1]


def image_of(data, path):
    """(chip, where it goes) of an image. Refuses half downloads, web pages, updates of others."""
    if len(data) <= IMAGE_MOST:
        if good_segments(data, ESP8266_HEADER, RAM):
            return "ESP8266", 0
        chip = CHIPS.get(chip_number(data, 0))
        if chip and good_image(data, 0):
            check_application(data, path, *chip)
            return chip
    raise Problem(f"{path} is not an image for an ESP8266 or ESP32, or it is incomplete; "
                  "download the .bin again")


def check_application(data, path, name, offset):
    """Behind the boot loader there is a table, and in it the application, which is most of it."""
    at = PARTITIONS - offset
    while data[at:at + 2] == PARTITION_MAGIC:
        kind, begin = data[at + 2], int.from_bytes(data[at + 4:at + 8], "little") - offset
        if kind == 0 and CHIPS.get(chip_number(data, begin), ("",))[0] == name:
            if good_image(data, begin):
                return
            break
        at += 32
    raise Problem(f"{path} is incomplete, or only an update for a board that has MicroPython; "
                  f"download the .bin for {name} again")


def chip_number(data, at):
    return int.from_bytes(data[at + 12:at + 14], "little") if len(data) > at + 14 else None


def good_image(data, at):
    """Whether an ESP32's image begins there whole, with its checksum and its digest, if any."""
    end = good_segments(data[at:], ESP32_HEADER)
    if end and data[at + 23] == 1:
        return hashlib.sha256(data[at:at + end]).digest() == data[at + end:at + end + DIGEST]
    return bool(end)


def good_segments(data, header, ram=((0, 1 << 32),)):
    """Bytes of an image with its checksum, if that is right and it loads to RAM; else 0."""
    if len(data) < header or data[0] != IMAGE_MAGIC or not 0 < data[1] <= MOST_SEGMENTS:
        return 0
    at, checksum = header, CHECKSUM_SEED
    for _ in range(data[1]):
        if at + 8 > len(data):
            return 0
        address, size = struct.unpack_from("<II", data, at)
        if not any(low <= address and address + size <= high for low, high in ram):
            return 0
        checksum = functools.reduce(operator.xor, data[at + 8:at + 8 + size], checksum)
        at += 8 + size
    end = at | 15  # the checksum is the last byte of a 16-byte line
    return end + 1 if end < len(data) and data[end] == checksum else 0


def read(path):
    try:
        return path.read_bytes()
    except OSError as error:
        raise Problem(f"cannot read {path}: {error.strerror}") from None


# ---------------------------------------------------------------- the files

def copy_files(port, options):
    need("ampy", "serial")
    sources = []
    sensor = None
    if options.config:
        checked = check_config(options.config)
        sources, sensor = [(options.config, "config.py")], checked.sensor
        if checked.server.authority:
            sources.append(authority(options.config.parent / checked.server.authority))
    sources += [(HERE / name, name) for name in board_files(sensor)]
    check_port(port)
    ampy = ["ampy", "--port", port, "--delay", str(options.delay)]
    for number, (path, name) in enumerate(sources, 1):
        print(f"{number}/{len(sources)} {name}, {len(read(path))} bytes")
        copy(ampy, path, name)
    run_tool([*ampy, "reset", "--hard"], AMPY_S)
    print("The board has all files, each read back and compared, and it starts. Next:\n"
          f"{say_program(port)} --monitor")


def copy(ampy, path, name):
    """Put one file on the board and read it back: ampy itself does not look."""
    run_tool([*ampy, "put", str(path), name], AMPY_S)
    with tempfile.TemporaryDirectory() as folder:
        back = Path(folder, name)
        run_tool([*ampy, "get", name, str(back)], AMPY_S)
        if read(back) != read(path):
            raise Problem(f"{name} came back from the board changed; its flash may be full "
                          "or failing. Write the image again, then the files.")


def board_files(sensor):
    """The files that a board with this SENSOR needs; None: all."""
    wanted = {None: DRIVERS, "auto": [name for name in DRIVERS if name not in ON_PIN]}
    drivers = [file for name in wanted.get(sensor, [sensor]) for file in DRIVERS[name]]
    return (*FIRST_FILES, *dict.fromkeys(drivers), *LAST_FILES)


def check_config(path):
    """The same look at config.py as the station itself takes; return the settings."""
    read(path)
    sys.path.insert(0, str(HERE))
    import settings
    try:
        config = types.SimpleNamespace(**runpy.run_path(str(path)))
        checked = settings.check(config, "")
    except (ValueError, SyntaxError, NameError) as error:
        raise Problem(f"{path}: {error}") from None
    for name, value in vars(config).items():
        if name.isupper() and value in PLACEHOLDERS:
            raise Problem(f'{path}: {name} is still "{value}": write your own there')
    return checked


def authority(path):
    """The file of CA, beside config.py, as a source to copy."""
    if not read(path).startswith(b"\x30\x82"):
        raise Problem(f"{path} is no certificate in DER. To make it one: openssl x509 "
                      f"-in {shlex.quote(str(path))} -outform DER -out {path.stem}.der")
    return path, path.name


# ---------------------------------------------------------------- listening

def monitor(port):
    """Print what the station prints until Ctrl-C, which is how this is meant to end."""
    check_port(port)
    need("serial")
    import serial
    line = serial.Serial(baudrate=115200, timeout=1)
    line.port, line.dtr, line.rts = port, False, False  # else some boards are held in reset
    try:
        with line:
            print(f"Listening to {port}; Ctrl-C stops.", flush=True)
            while True:
                text = line.read(line.in_waiting or 1).decode("utf-8", "replace")
                print(text, end="", flush=True)
    except serial.SerialException as error:
        raise Problem(f"{error}\n{NO_ANSWER}") from None
    except KeyboardInterrupt:
        print()


if __name__ == "__main__":
    sys.exit(main())
