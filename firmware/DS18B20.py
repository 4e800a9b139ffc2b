"""The DS18B20 on a data pin: one thermometer, or up to seven on one wire.

Datasheet: Maxim (Analog Devices), DS18B20, 19-7487 Rev 6. The timing is done by the image's own
module.
"""
import time

import onewire
from bus import forget, insist

FAMILY = 0x28
CONVERT, READ = 0x44, 0xBE
CONVERT_MS = 750  # at most, at the finest resolution
POWER_UP = 0x0550  # 85.0 C: what it says when it has not measured since it got power
COLDEST, HOTTEST = -55 * 16, 125 * 16
SCANS = 3  # noise can hide a sensor from a scan
SLOTS = (1, 4, 5, 6, 7, 8, 9)  # 2 and 3 are humidity and pressure


class DS18B20:
    """All on one wire. Every failure is an OSError: no answer, a wrong checksum, no number."""

    def __init__(self, machine, pin):
        self.wire = onewire.OneWire(machine.Pin(pin))
        found = set()
        for _ in range(SCANS):
            found.update(bytes(rom) for rom in self.wire.scan())
        found = [rom for rom in found if rom[0] == FAMILY and not self.wire.crc8(rom)]
        if not found:
            raise OSError("no DS18B20 on GPIO%d" % pin)
        self.roms = in_order(found)

    def read(self):
        """Pairs of field and value in degrees C. Those that fail are told and left out."""
        if not self.wire.reset():
            raise OSError("no DS18B20 answers")
        self.wire.writebyte(self.wire.SKIP_ROM)
        self.wire.writebyte(CONVERT)
        time.sleep_ms(CONVERT_MS)
        values = []
        for number, slot in enumerate(SLOTS[:len(self.roms)]):
            try:
                values.append((slot, insist(self.sixteenths, self.roms[number]) / 16))
            except OSError as error:
                print("DS18B20 number %d: %s" % (number + 1, error))
        if not values:
            raise OSError("no DS18B20 has a reading")
        return values

    def sixteenths(self, rom):
        """What one of them has measured. A wire held low reads as zeros, checksum and all."""
        data = bytearray(9)
        self.wire.select_rom(rom)
        self.wire.writebyte(READ)
        self.wire.readinto(data)
        if self.wire.crc8(data) or not any(data):
            raise OSError("no answer, or a wrong checksum")
        value = data[1] << 8 | data[0]
        value -= (value & 0x8000) << 1
        if value == POWER_UP or not COLDEST <= value <= HOTTEST:
            raise OSError("says %s C" % (value / 16))
        return value


def in_order(found):
    """The sensors in the order of their fields. What knows it is needed only now."""
    import order
    roms = order.in_order(found)
    forget("order")
    return roms
