"""The board's hardware: a reset, RTC memory that outlives it, timers, and sensors on I2C."""
import binascii

from devices import disturbed, on_the_bus
from world import Reset, noise, world

RTC_BYTES = 492
NO_DEVICE = 19

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
        if which == -1 and world.get("esp32"):
            raise ValueError("invalid Timer number")
        assert which == (0 if world.get("esp32") else -1)

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
        if self.number == world.get("pins", (5, 4))[0] and level and not self.level and held[4]:
            held[4] -= 1
        self.level = level
        return None


class SoftI2C:
    def __init__(self, scl, sda, freq):
        assert (scl.number, sda.number) == tuple(world.get("pins", (5, 4)))
        assert freq == 100000
        self.devices = on_the_bus()

    def device(self, address):
        if world.within("bug"):
            raise ValueError("something that nobody thought of")
        if held[4] or world.within("sensor_fails") or noise("i2c_fails"):
            raise OSError(NO_DEVICE)
        if address not in self.devices:
            if world.get("no_pull_ups"):  # then a line that floats answers for everybody
                return Floating()
            raise OSError(NO_DEVICE)
        name, device = self.devices[address]
        dead = world.get("dead", {}).get(name, ())
        if any(start * 1000 <= world.now < end * 1000 for start, end in dead):
            raise OSError(NO_DEVICE)
        return device

    def writeto(self, address, data):
        """The number of bytes that were acknowledged; fewer is no error, as on the board."""
        device = self.device(address)
        if data and noise("nacks"):
            return len(data) - 1
        device.write(data)
        return len(data)

    def readfrom(self, address, count):
        return disturbed(self.device(address).read(count))

    def readfrom_mem(self, address, register, count):
        device = self.device(address)
        device.write(bytes([register]))
        return device.read(count)


class Floating:
    def write(self, data):
        pass

    def read(self, count):
        return b"\xff" * count
