"""The board's hardware: a reset, RTC memory that outlives it, timers, and sensors on I2C."""
import binascii
import struct

from world import Reset, world

RTC_BYTES = 492
NO_DEVICE = 19
BMP280_REGISTERS = (  # the calibration of the datasheet's example, from 0x88
    "706b436718fc" "7d8e43d6d00b270b8c00f9ff8c3cf8c67017")


held = {4: world.get("sda_held", 0)}  # clocks until the sensor lets go of the data line


def reset():
    world.log("reset")
    raise Reset


class RTC:
    def memory(self, data=None):
        if data is None:
            return binascii.unhexlify(world.state.get("rtc", ""))
        if len(data) > RTC_BYTES:
            raise ValueError("buffer too long")
        world.state["rtc"] = str(binascii.hexlify(data), "utf-8") if data else ""
        return None


class Timer:
    ONE_SHOT, PERIODIC = 0, 1

    def __init__(self, which):
        assert which == -1

    def init(self, period, mode, callback):
        assert mode == self.PERIODIC
        self.period, self.callback, self.due = period, callback, world.now + period
        world.timers.append(self)

    def fire(self, now):
        if now >= self.due:
            self.due += self.period
            self.callback(self)

    def deinit(self):
        world.log("timer off")
        world.timers.remove(self)


class Pin:
    OPEN_DRAIN = 2

    def __init__(self, number, mode=None, value=1):
        self.number, self.level = number, value

    def value(self, level=None):
        if level is None:
            return 0 if held.get(self.number) else self.level
        if self.number == 5 and level and not self.level and held[4]:
            held[4] -= 1
        self.level = level
        return None


class I2C:
    def __init__(self, scl, sda, freq):
        assert (scl.number, sda.number, freq) == (5, 4, 100000)
        self.devices = {"MCP9808": {0x18: mcp9808}, "BMP280": {0x76: bmp280}}[
            world.get("sensor", "MCP9808")]

    def device(self, address):
        if world.within("bug"):
            raise ValueError("something that nobody thought of")
        if held[4] or world.within("sensor_fails") or noise():
            raise OSError(NO_DEVICE)
        if address not in self.devices:
            if world.get("no_pull_ups"):  # then a line that floats answers for everybody
                return floating
            raise OSError(NO_DEVICE)
        return self.devices[address]

    def readfrom_mem(self, address, register, count):
        return self.device(address)(register, count)

    def writeto_mem(self, address, register, data):
        self.device(address)


def noise():
    """Whether this operation is one of those that fail: at random one of `i2c_fails`."""
    if not world.get("i2c_fails"):
        return False
    draw = (world.state.get("noise", 1) * 48271) % 2147483647
    world.state["noise"] = draw
    return draw % world.get("i2c_fails") == 0


def floating(register, count):
    return b"\xff" * count


def mcp9808(register, count):
    """A temperature that never comes twice within a day: -20 C, and 1/16 C more each time."""
    if register != 5:
        return struct.pack(">H", {6: 0x0054, 7: 0x0400}[register])
    taken = world.state.get("taken", 0)
    world.state["taken"] = taken + 1
    sixteenths = -320 + taken % 2300
    world.log("measured", sixteenths)
    return struct.pack(">H", sixteenths & 0x1FFF | 0xC000)  # alert flags are not ours


def bmp280(register, count):
    if register == 0xF7:
        return b"\x65\x5a\xc0\x7e\xed\x00"
    if register == 0xD0:
        return b"\x58"
    return (binascii.unhexlify(BMP280_REGISTERS) + b"\x00" * 256)[register - 0x88:][:count]
