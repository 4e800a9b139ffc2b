"""The drivers on a real MicroPython, against the register maps of the datasheets."""
import pytest
from tools import needs

pytestmark = needs("MicroPython")
BUS = """
class Bus:
    def __init__(self, registers):
        self.registers, self.written = registers, []
    def readfrom_mem(self, address, register, count):
        if self.registers is None:
            raise OSError(19)
        return bytes(self.registers.get(register, b"\\0" * count))
    def writeto_mem(self, address, register, data):
        self.written.append((register, data))
def failure(what):
    try:
        return what()
    except OSError as error:
        return "OSError %s" % error
"""
THERMOMETER = BUS + """
from MCP9808 import MCP9808
bus = Bus({5: b"\\0\\0", 6: b"\\0\\x54", 7: b"\\4\\0"})
"""
BAROMETER = BUS + """
from BMP280 import BMP280
bus = Bus({0xD0: b"\\x58", 0xF3: b"\\0", 0xF7: bytes.fromhex("655ac07eed00"),
           0x88: bytes.fromhex("706b436718fc"),
           0x8E: bytes.fromhex("7d8e43d6d00b270b8c00f9ff8c3cf8c67017")})
"""


@pytest.mark.parametrize(("word", "celsius"), [
    ("1ffc", -0.25), ("1fff", -0.0625), ("0000", 0.0), ("0001", 0.0625), ("0194", 25.25),
    ("c194", 25.25), ("fffc", -0.25), ("07d0", 125.0), ("1d80", -40.0), ("1e70", -25.0)])
def test_mcp9808_temperature(script, word, celsius):
    """13 bits of two's complement; the three upper bits are alert flags."""
    said = script(THERMOMETER + f"bus.registers[5] = bytes.fromhex('{word}')\n"
                  "print(MCP9808(bus).read())")
    assert said.strip() == f"({celsius},)"


@pytest.mark.parametrize("registers", [
    "None", "{}", "{5: b'\\xc1\\x94', 6: b'\\0\\x54', 7: b'\\5\\0'}",
    "{5: b'\\xc1\\x94', 6: b'\\xff\\xff', 7: b'\\4\\0'}",
    "{5: b'\\x0f\\xff', 6: b'\\0\\x54', 7: b'\\4\\0'}"])
def test_mcp9808_failure_is_an_oserror(script, registers):
    """No answer, a line held low, another chip, another maker, 255 degrees."""
    said = script(THERMOMETER + "sensor = MCP9808(bus)\n"
                  f"bus.registers = {registers}\nprint(failure(sensor.read))")
    assert said.startswith("OSError")


def test_mcp9808_is_woken_and_given_time(script):
    """In shutdown it repeats its last value; before the first conversion it says 0.0."""
    said = script(THERMOMETER + "import time\nbegin = time.ticks_ms()\nMCP9808(bus)\n"
                  "print(bus.written[0], time.ticks_diff(time.ticks_ms(), begin) >= 250)")
    assert said.strip() == r"(1, b'\x00\x00') True"


def test_bmp280_vector_of_the_datasheet(script):
    said = script(BAROMETER + "celsius, hectopascals = BMP280(bus).read()\n"
                  "print('%.2f %.2f' % (celsius, hectopascals * 100))")
    assert said.strip() == "25.08 100653.25"


def test_bmp280_measures_afresh_each_time(script):
    said = script(BAROMETER + "sensor = BMP280(bus)\nsensor.read()\nsensor.read()\n"
                  "print([data[0] & 3 for register, data in bus.written if register == 0xF4])")
    assert said.strip() == "[1, 1]"  # forced mode


@pytest.mark.parametrize("change", [
    "bus.registers = None", "bus.registers = {}", "bus.registers[0xD0] = b'\\x55'",
    "bus.registers[0xF7] = bytes.fromhex('8000007eed00')",
    "bus.registers[0xF7] = bytes.fromhex('655ac0800000')",
    "bus.registers[0xF7] = b'\\xff' * 6", "bus.registers[0xF7] = b'\\0' * 6",
    "bus.registers[0xF3] = b'\\x08'"])
def test_bmp280_failure_is_an_oserror(script, change):
    """No answer, zeros, another chip, pressure or temperature skipped, nonsense, for ever busy."""
    said = script(BAROMETER + f"sensor = BMP280(bus)\n{change}\nprint(failure(sensor.read))")
    assert said.startswith("OSError")


@pytest.mark.parametrize("calibration", ["b'\\0' * 6", "b'\\xff' * 6"])
def test_bmp280_without_calibration_is_no_sensor(script, calibration):
    said = script(BAROMETER + f"bus.registers[0x88] = {calibration}\n"
                  "print(failure(lambda: BMP280(bus)))")
    assert said.startswith("OSError")


def test_bme280_is_welcome(script):
    said = script(BAROMETER + "bus.registers[0xD0] = b'\\x60'\nprint(len(BMP280(bus).read()))")
    assert said.strip() == "2"
