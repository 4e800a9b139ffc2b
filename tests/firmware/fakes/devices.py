"""Sensors on I2C as their datasheets have them. Each measurement differs from the one before."""
import binascii
import struct

from world import noise, world

NO_DEVICE = 19
BMP280_REGISTERS = (  # the calibration of the datasheet's example, from 0x88
    "706b436718fc" "7d8e43d6d00b270b8c00f9ff8c3cf8c67017")
BME280_HUMIDITY = "6a01001534031e"  # from 0xE1; H1 is 0x4B


def taken():
    """The number of this measurement; the log has it, too."""
    number = world.state.get("taken", 0)
    world.state["taken"] = number + 1
    world.log("sampled", number)
    return number


def crc8(data):
    """Bit by bit, as the polynomial is written: x^8 + x^5 + x^4 + 1."""
    register = 0xFF
    for octet in data:
        for bit in range(7, -1, -1):
            top = (register >> 7) ^ (octet >> bit & 1)
            register = (register << 1 & 0xFF) ^ (0x31 if top else 0)
    return register


def checked(*words):
    return b"".join(struct.pack(">HB", word, crc8(struct.pack(">H", word))) for word in words)


class Registers:
    """What answers a register's number with bytes."""

    def __init__(self, answer):
        self.answer = answer

    def write(self, data):
        self.register = data[0] if data else None

    def read(self, count):
        return self.answer(self.register, count)


class Commands:
    """What answers a command with bytes; another one, or none, is not acknowledged."""

    def __init__(self, answers):
        self.answers, self.command = answers, None

    def write(self, data):
        if data and bytes(data) not in self.answers:
            self.command = None
            raise OSError(NO_DEVICE)
        self.command = bytes(data)

    def read(self, count):
        if not self.command:
            raise OSError(NO_DEVICE)
        return self.answers[self.command]()[:count]


class Aht20:
    """Not calibrated at first; busy when asked too soon."""

    def __init__(self):
        self.calibrated, self.ready, self.answer = 0, 0, b"\x18"

    def write(self, data):
        if data[:1] == b"\xbe":
            self.calibrated = 8
        if data[:1] == b"\xac" and self.calibrated:
            number = taken()
            humidity, celsius = 500000 + number, 300000 + number * 16
            body = struct.pack(">BIB", 0x18, humidity << 12 | celsius >> 8, celsius & 0xFF)
            self.answer, self.ready = body + bytes([crc8(body)]), world.now + 80

    def read(self, count):
        if count == 1:
            return bytes([0x10 | self.calibrated])
        if world.now < self.ready:
            busy = bytes([0x98]) + b"\0" * 5
            return busy + bytes([crc8(busy)])
        return self.answer


def sht3x():
    return Commands({b"\xf3\x2d": lambda: checked(0x8010),
                     b"\x24\x00": lambda: checked(24000 + taken(), 32768)})


def sht4x():
    return Commands({b"\x89": lambda: checked(0x1234, 0x5678),
                     b"\xfd": lambda: checked(24000 + taken(), 32768)})


def mcp9808(register, count):
    """A temperature that never comes twice within a day: -20 C, and 1/16 C more each time."""
    if register != 5:
        return struct.pack(">H", {6: 0x0054, 7: 0x0400}[register])
    number = world.state.get("taken", 0)
    world.state["taken"] = number + 1
    sixteenths = -320 + number % 2300
    world.log("measured", sixteenths)
    return struct.pack(">H", sixteenths & 0x1FFF | 0xC000)  # alert flags are not ours


def bmp280(register, count):
    if register == 0xF7:
        return b"\x65\x5a\xc0\x7e\xed\x00"
    if register == 0xD0:
        return b"\x58"
    return (binascii.unhexlify(BMP280_REGISTERS) + b"\x00" * 256)[register - 0x88:][:count]


def bme280(register, count):
    if register == 0xF7:
        high = (450000 + 64 * taken()) >> 4
        return struct.pack(">HBHBH", 0x655A, 0xC0, high, 0, 28000)
    if register == 0xD0:
        return b"\x60"
    if register == 0xA1:
        return b"\x4b"
    if register == 0xE1:
        return binascii.unhexlify(BME280_HUMIDITY)
    return bmp280(register, count)


DEVICES = {"MCP9808": (0x18, lambda: Registers(mcp9808)), "SHT4x": (0x44, sht4x),
           "SHT3x": (0x44, sht3x), "SHT3x at 0x45": (0x45, sht3x), "AHT20": (0x38, Aht20),
           "BME280": (0x76, lambda: Registers(bme280)),
           "BMP280": (0x76, lambda: Registers(bmp280)),
           "BMP280 at 0x77": (0x77, lambda: Registers(bmp280))}


def on_the_bus():
    when, other = world.get("exchanged", (1e9, ""))
    names = (other if world.now >= when * 1000 else world.get("sensor", "MCP9808")).split("+")
    return {DEVICES[name][0]: (name, DEVICES[name][1]()) for name in names if name in DEVICES}


def disturbed(data):
    """On a bad wire one bit of an answer may be another."""
    if not noise("flips"):
        return data
    return bytes([data[0] ^ 0x10]) + data[1:]
