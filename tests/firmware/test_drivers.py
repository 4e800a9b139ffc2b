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
class Answers:  # an I2C device: a command that it does not know is not acknowledged
    def __init__(self, answers):
        self.answers, self.command = answers, None
    def writeto(self, address, data):
        if data not in self.answers:
            raise OSError(19)
        self.command = data
    def readfrom(self, address, count):
        return bytes(self.answers[self.command][:count])
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
    assert said.strip() == f"((1, {celsius}),)"


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
    said = script(BAROMETER + "(_, celsius), (_, hectopascals) = BMP280(bus).read()\n"
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


HUMID = BAROMETER + """
from BME280 import BME280
bus.registers.update({0xD0: b"\\x60", 0xA1: b"\\x4b", 0xE1: bytes.fromhex("6a01001534031e"),
                      0xF7: bytes.fromhex("655ac07eed006d60")})
"""


def test_a_bme280_is_no_bmp280_and_the_other_way_round(script):
    """Shops sell either as the other; each driver says what it misses."""
    said = script(HUMID + "print(failure(lambda: BMP280(bus)))\nbus.registers[0xD0] = b'\\x58'\n"
                  "print(failure(lambda: BME280(bus)))")
    assert said.splitlines() == ["OSError no BMP280 at 0x76", "OSError no BME280 at 0x76"]


def test_bme280_has_what_a_bmp280_has_and_humidity(script):
    said = script(HUMID + "for pair in BME280(bus).read(): print(*pair)\nprint(bus.written[-2:])")
    celsius, pressure, humidity, written = said.splitlines()
    assert celsius == "1 25.08"
    assert pressure.startswith("3 1006.53")
    assert 0 < float(humidity.split()[1]) < 100
    assert written == r"[(242, b'\x01'), (244, b'U')]"      # humidity's setting comes first


def test_bme280_calibration_shares_a_byte(script):
    """H4 is E4 and the low half of E5, H5 is E6 and the high half; both have a sign."""
    said = script("import BME280\nprint(BME280.calibration(75, bytes.fromhex('6a01001534031e')))\n"
                  "print(BME280.calibration(75, bytes.fromhex('7201fffffeffff')))")
    assert said.splitlines() == ["(75, 362, 0, 340, 51, 30)", "(75, 370, 255, -2, -1, -1)"]


CALIBRATIONS = [(75, 362, 0, 340, 51, 30), (75, 370, 0, 308, 50, 30), (0, 340, 10, 400, -20, -5)]


def exact_humidity(adc, fine, h):
    """The datasheet's formula in floating point (section 8.1)."""
    h1, h2, h3, h4, h5, h6 = h
    fine -= 76800.0
    value = (adc - (h4 * 64.0 + h5 / 16384.0 * fine)) * (
        h2 / 65536.0 * (1.0 + h6 / 67108864.0 * fine * (1.0 + h3 / 67108864.0 * fine)))
    return min(max(value * (1.0 - h1 * value / 524288.0), 0.0), 100.0)


@pytest.mark.parametrize("h", CALIBRATIONS)
def test_bme280_whole_numbers_agree_with_the_datasheets_floating_point(script, h):
    """From -40 to 85 C, from the lowest to the highest count."""
    points = [(adc, fine) for adc in range(0, 65536, 3277)
              for fine in range(-204800, 435201, 40000)]
    said = script(f"import BME280\nfor adc, fine in {points!r}:\n"
                  f"    print(BME280.percent_2_22(adc, fine, {h!r}))")
    found = [int(line) / 2**22 for line in said.splitlines()]
    wrong = [(point, value) for point, value in zip(points, found, strict=True)
             if abs(value - exact_humidity(*point, h)) > 0.02]
    assert wrong == []
    assert min(found) == 0
    assert max(found) == 100
    assert len(set(found)) > 90


@pytest.mark.parametrize("change", [
    "bus.registers[0xF7] = bytes.fromhex('655ac07eed008000')", "bus.registers[0xD0] = b'\\x58'",
    "bus.registers[0xF7] = bytes.fromhex('8000007eed006d60')", "bus.registers = None"])
def test_bme280_failure_is_an_oserror(script, change):
    """Humidity skipped, another chip, pressure skipped, no answer."""
    said = script(HUMID + f"sensor = BME280(bus)\n{change}\nprint(failure(sensor.read))")
    assert said.startswith("OSError")


@pytest.mark.parametrize("calibration", ["b'\\0' * 7", "b'\\xff' * 7"])
def test_bme280_without_calibration_is_no_sensor(script, calibration):
    said = script(HUMID + f"bus.registers[0xE1] = {calibration}\n"
                  "print(failure(lambda: BME280(bus)))")
    assert said.startswith("OSError BME280 has no calibration yet")


# -- checksums ------------------------------------------------------------------------------------

def crc(data):
    """CRC-8 with the polynomial x^8 + x^5 + x^4 + 1, as long division."""
    value = int.from_bytes(bytes([data[0] ^ 0xFF, *data[1:], 0]), "big")
    for bit in range(8 * len(data) - 1, -1, -1):
        if value >> bit + 8 & 1:
            value ^= 0x131 << bit
    return value


def checked(*words):
    return b"".join(word.to_bytes(2, "big") + bytes([crc(word.to_bytes(2, "big"))])
                    for word in words)


def test_checksum_of_sensirions_datasheets(script):
    """SHT3x-DIS 4.12 and SHT4x 4.4: of BE EF it is 92."""
    assert crc(b"\xbe\xef") == 0x92
    said = script("from crc8 import crc8\nprint(crc8(b'\\xbe\\xef'), crc8(bytes(range(200))))")
    assert said.split() == ["146", str(crc(bytes(range(200))))]


SHT = {"SHT3x": (b"\xf3\x2d", checked(0x8010), b"\x24\x00"),
       "SHT4x": (b"\x89", checked(1, 2), b"\xfd")}


def sht(name, answer):
    proof, proved, measure = SHT[name]
    return (BUS + f"from {name} import {name}\nbus = Answers({{{proof!r}: {proved!r}, "
            f"{measure!r}: {answer!r}}})\nsensor = {name}(bus)\n")


@pytest.mark.parametrize(("name", "celsius", "percent", "expected"), [
    ("SHT3x", 26214, 32768, (25.0, 50.0008)), ("SHT3x", 1873, 0, (-39.9985, 0)),
    ("SHT3x", 63661, 65535, (124.996, 100)), ("SHT4x", 26214, 32768, (25.0, 56.501)),
    ("SHT4x", 1873, 0, (-39.9985, 0)), ("SHT4x", 63661, 65535, (124.996, 100)),
    ("SHT4x", 20000, 3145, (8.4069, 0)), ("SHT4x", 20000, 3146, (8.4069, 0.0006))])
def test_sht_formulas(script, name, celsius, percent, expected):
    """-45 + 175 S / 65535; of an SHT3x 100 S / 65535 %, of an SHT4x -6 + 125 S / 65535."""
    said = script(sht(name, checked(celsius, percent)) + "for pair in sensor.read(): print(*pair)")
    first, second = (line.split() for line in said.splitlines())
    assert (first[0], second[0]) == ("1", "2")
    assert (float(first[1]), float(second[1])) == pytest.approx(expected, abs=0.0006)


@pytest.mark.parametrize("name", SHT)
@pytest.mark.parametrize("answer", [
    checked(26214, 32768)[:-1] + b"\0", b"\0" * 6, b"\xff" * 6, checked(0, 0),
    checked(65535, 65535), b"\x66\x67" + checked(26214, 32768)[2:]])
def test_sht_failure_is_an_oserror(script, name, answer):
    """A wrong checksum, a line held low or floating, -45 and 130 degrees, a wrong bit."""
    said = script(sht(name, answer) + "print(failure(sensor.read))")
    assert said.startswith("OSError")


def test_an_sht3x_and_an_sht4x_prove_themselves(script):
    """At the same address: neither answers the other's command."""
    for name, other in (("SHT3x", "SHT4x"), ("SHT4x", "SHT3x")):
        said = script(sht(name, checked(1, 2)) +
                      f"from {other} import {other}\nprint(failure(lambda: {other}(bus)))")
        assert "ENODEV" in said


def aht20(body):
    body = bytes.fromhex(body)
    return (BUS + "from AHT20 import AHT20\nmeasure = b'\\xac\\x33\\x00'\n"
            f"bus = Answers({{measure: {body + bytes([crc(body)])!r}}})\nbus.command = measure\n"
            "sensor = AHT20(bus)\n")


@pytest.mark.parametrize(("body", "expected"), [
    ("1c8000060000", (25.0, 50.0)), ("1c000000d47b", (-39.625, 0)),
    ("1cfffff00000", (-50, 100)), ("1cffff" "facccc", (85.0, 100))])
def test_aht20_formulas(script, body, expected):
    """Humidity S / 2^20 * 100 %, temperature S / 2^20 * 200 - 50; each has 20 bits."""
    said = script(aht20(body) + "try:\n    for pair in sensor.read(): print(*pair)\n"
                  "except OSError as error: print(error)")
    if not -40 <= expected[0] <= 85:
        assert said.startswith("AHT20 says -50")
        return
    first, second = (line.split() for line in said.splitlines())
    assert (float(first[1]), float(second[1])) == pytest.approx(expected, abs=0.001)


@pytest.mark.parametrize("change", [
    "b'\\0' * 7", "b'\\xff' * 7", "bus.answers[measure][:-1] + b'!'",
    "bytes.fromhex('98000000000000')"])
def test_aht20_failure_is_an_oserror(script, change):
    """A line held low or floating, a wrong checksum, for ever busy without one."""
    said = script(aht20("1c8000060000") + f"bus.answers[measure] = {change}\n"
                  "print(failure(sensor.read))")
    assert said.startswith("OSError")


def test_aht20_that_is_not_calibrated_is_initialized(script):
    said = script("import machine\nfrom bus import Bus\nfrom AHT20 import AHT20\nbus = Bus()\n"
                  "bus.i2c = machine.SoftI2C(machine.Pin(5), machine.Pin(4), 100000)\n"
                  "print(AHT20(bus).read())", sensor="AHT20")
    assert said.startswith("((1, 7.2")


def test_a_command_that_is_not_acknowledged_is_sent_again(script):
    """MicroPython returns the number of acknowledged bytes and raises nothing."""
    said = script("""
from bus import Bus
class Deaf:
    sent = []
    def writeto(self, address, data):
        self.sent.append(data)
        return len(data) - (len(self.sent) < 3)
bus = Bus()
bus.i2c = Deaf()
bus.writeto(0x38, b"ab")
bus.writeto_mem(0x76, 0xF4, b"U")
print(Deaf.sent)
""")
    assert said.strip() == r"[b'ab', b'ab', b'ab', b'\xf4U']"


# -- on a data pin --------------------------------------------------------------------------------

DHT = BUS + "import machine\nfrom DHT22 import DHT22\nsensor = DHT22(machine, 14)\n"


@pytest.mark.parametrize(("data", "expected"), [
    ((0x02, 0x8C, 0x01, 0x5F), "((1, 35.1), (2, 65.2))"),       # the datasheet's example
    ((0x02, 0x8C, 0x80, 0x65), "((1, -10.1), (2, 65.2))"),      # its example below zero
    ((0x02, 0x8C, 0xFF, 0x9B), "((1, -10.1), (2, 65.2))"),      # what copies send
    ((0x03, 0xE8, 0x03, 0x20), "((1, 80.0), (2, 100.0))"),
    ((0x00, 0x01, 0x81, 0x90), "((1, -40.0), (2, 0.1))")])
def test_dht22_vectors(script, data, expected):
    assert script(DHT + "print(sensor.read())", dht=data).strip() == expected


@pytest.mark.parametrize("data", [
    (0, 0, 0, 0), (0x02, 0x8C, 0x03, 0x21), (0x03, 0xE9, 0, 100), (0x02, 0x8C, 0x81, 0x91)])
def test_dht22_nonsense_is_an_oserror(script, data):
    """A line held low, too hot, too damp, too cold."""
    assert script(DHT + "print(failure(sensor.read))", dht=data).startswith("OSError DHT22 says")


def test_dht22_says_what_it_measures_now(script):
    """An answer is what was measured at the question before, perhaps an hour ago."""
    said = script(DHT + "import time\nprint(sensor.read())\ntime.sleep(3600)\n"
                  "print(sensor.read())")
    assert said.splitlines() == ["((1, 0.0), (2, 65.2))", "((1, 0.2), (2, 65.2))"]


@pytest.mark.parametrize("trouble", [{"sensor_fails": [[0, 100]]}, {"flips": 1}])
def test_dht22_failure_is_an_oserror(script, trouble):
    """No answer, a wrong checksum."""
    said = script(DHT + "print(failure(sensor.read))", **trouble)
    assert said.startswith("OSError DHT22")


WIRE = BUS + "import machine\nfrom DS18B20 import DS18B20\n"


@pytest.mark.parametrize(("word", "celsius"), [
    (0x07D0, 125.0), (0x0191, 25.0625), (0x00A2, 10.125), (0x0008, 0.5), (0x0000, 0.0),
    (0xFFF8, -0.5), (0xFF5E, -10.125), (0xFE6F, -25.0625), (0xFC90, -55.0)])
def test_ds18b20_table_of_the_datasheet(script, word, celsius):
    """Table 1, but for 85.0."""
    said = script(WIRE + "print(DS18B20(machine, 14).read())", word=word)
    assert said.strip() == f"[(1, {celsius})]"


@pytest.mark.parametrize("trouble", [
    {"word": 0x0550}, {"word": 0x07D1}, {"word": 0xFC8F}, {"flips": 1}, {"wire_low": [[0, 100]]}])
def test_ds18b20_failure_is_an_oserror(script, trouble):
    """85.0 at power-up, beyond 125 and -55, a wrong checksum, zeros with their right one."""
    said = script(WIRE + "sensor = DS18B20(machine, 14)\nprint(failure(sensor.read))", **trouble)
    assert said.splitlines()[-1] == "OSError no DS18B20 has a reading"


def test_ds18b20_that_is_not_there(script):
    said = script(WIRE + "print(failure(lambda: DS18B20(machine, 14)))", thermometers=0)
    assert said.strip() == "OSError no DS18B20 on GPIO14"


def test_seven_ds18b20s_have_the_fields_that_are_no_humidity_or_pressure(script):
    said = script(WIRE + "print([slot for slot, _ in DS18B20(machine, 14).read()])",
                  thermometers=8)
    assert said.strip() == "[1, 4, 5, 6, 7, 8, 9]"


def test_ds18b20s_are_ordered_by_address(script):
    """The fake's addresses fall as its numbers, and so its temperatures, rise."""
    said = script(WIRE + "print([c for _, c in DS18B20(machine, 14).read()])", thermometers=3)
    assert said.strip() == "[2.0, 1.0, 0.0]"


def test_a_ds18b20_keeps_its_field_when_another_is_missing_at_a_start(script):
    start = WIRE + "print(failure(lambda: DS18B20(machine, 14).read()))"
    assert script(start, thermometers=3).strip() == "[(1, 2.0), (4, 1.0), (5, 0.0)]"
    said = script(start, thermometers=3, dead={"1": [[0, 100]]})
    assert said.splitlines()[-1] == "[(1, 2.0), (5, 0.0)]"
    assert "DS18B20 number 2: no answer" in said
    assert script(start, thermometers=3).strip() == "[(1, 2.0), (4, 1.0), (5, 0.0)]"


ORDER = """
import order
files = {}
class File:
    def __init__(self, name): self.name = name
    def __enter__(self): return self
    def __exit__(self, *error): pass
    def read(self): return files[self.name]
    def write(self, text): files[self.name] = text
class Files:
    def rename(self, old, new): files[new] = files.pop(old)
def opened(name, mode="r"):
    if mode == "r" and name not in files: raise OSError(2)
    return File(name)
def start(*found): print(*[rom.decode() for rom in order.in_order(list(found), Files(), opened)])
"""


def test_order_of_thermometers(script):
    """By address at first; one that is exchanged hands its field on, one more comes last."""
    said = script(ORDER + "start(b'c', b'b', b'd')\nstart(b'd', b'c')\nstart(b'd', b'c', b'a')\n"
                  "start(b'd', b'c', b'a', b'B')\nfiles['ds18b20.txt'] = 'zz'\nstart(b'y', b'x')")
    assert said.splitlines() == ["b c d", "b c d", "a c d", "a c d B", "x y"]
