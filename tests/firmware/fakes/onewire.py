"""The image's module for a wire of DS18B20s, with the devices behind it."""
import struct

from devices import taken
from world import noise, world

POWER_UP = 0x0550


def crc8(data):
    register = 0
    for octet in data:
        for bit in range(8):
            low = (register ^ octet >> bit) & 1
            register = register >> 1 ^ (0x8C if low else 0)
    return register


class Device:
    def __init__(self, number):
        body = b"\x28" + struct.pack("<I", 1000 - number) + b"\0\0"
        self.rom, self.number = bytearray(body + bytes([crc8(body)])), number
        self.word = POWER_UP

    def alive(self):
        dead = world.get("dead", {}).get(str(self.number), ())
        return not any(start * 1000 <= world.now < end * 1000 for start, end in dead)

    def scratchpad(self):
        body = struct.pack("<HBBBBBB", self.word & 0xFFFF, 0x4B, 0x46, 0x7F, 0xFF, 0x0C, 0x10)
        return body + bytes([crc8(body)])


class OneWire:
    SEARCH_ROM, MATCH_ROM, SKIP_ROM = 0xF0, 0x55, 0xCC

    def __init__(self, pin):
        assert pin.number == world.get("pin", 14)
        self.devices = [Device(number) for number in range(world.get("thermometers", 1))]
        self.selected, self.converts = None, False

    def there(self):
        if world.within("sensor_fails"):
            return []
        return [device for device in self.devices if device.alive()]

    def reset(self, required=False):
        return bool(self.there()) and not noise("i2c_fails")

    def scan(self):
        return [device.rom for device in self.there() if not noise("i2c_fails")]

    def select_rom(self, rom):
        self.selected = [device for device in self.there() if device.rom == rom]

    def writebyte(self, value):
        if value == 0x44:
            number = taken()
            for device in self.there():
                device.word = world.get("word", number % 1000 + 16 * device.number)

    def readinto(self, buffer):
        data = self.selected[0].scratchpad() if self.selected else b"\xff" * len(buffer)
        if world.within("wire_low"):
            data = b"\0" * len(buffer)
        buffer[:] = data
        if noise("flips"):
            buffer[0] ^= 0x10

    def crc8(self, data):
        return crc8(data)
