"""The image's module for a DHT22: an answer is what was measured at the question before."""
from devices import taken
from world import noise, world

TIMED_OUT = 110


class DHT22:
    def __init__(self, pin):
        assert pin.number == world.get("pin", 14)
        self.buf = bytearray(5)
        self.asked = -10000

    def measure(self):
        """Within two seconds of the last question it does not answer."""
        if world.within("sensor_fails") or noise("i2c_fails") or world.now - self.asked < 1990:
            self.asked = world.now
            raise OSError(TIMED_OUT)
        self.asked = world.now
        self.buf[:4] = bytes(world.get("dht", world.state.get("dht", [0, 0, 0, 0])))
        self.buf[4] = sum(self.buf[:4]) & 0xFF
        number = taken()
        world.state["dht"] = [0x02, 0x8C, (number % 800) >> 8, number % 800 & 0xFF]
        if noise("flips"):
            self.buf[3] ^= 0x10
        if sum(self.buf[:4]) & 0xFF != self.buf[4]:
            raise Exception("checksum error")
