"""The SHT30, SHT31 and SHT35 on I2C: temperature and humidity.

Datasheet: Sensirion, SHT3x-DIS, version 7 (sections 4.3, 4.11 to 4.13).
"""
import time

from crc8 import words

STATUS = b"\xf3\x2d"
MEASURE = b"\x24\x00"  # once, high repeatability, without stretching the clock
MEASURE_MS = 16  # 15.5 at most
COLDEST, HOTTEST = -40, 125


class SHT3x:
    """One sensor. Every failure is an OSError: no answer, a wrong checksum, no sensible number."""

    def __init__(self, bus, address=0x44):
        self.bus, self.address = bus, address
        self.ask(STATUS, 1, 3)

    def read(self):
        """Pairs of field and value: degrees C, %."""
        celsius, percent = self.ask(MEASURE, MEASURE_MS, 6)
        celsius = celsius * 175 / 65535 - 45
        if not COLDEST <= celsius <= HOTTEST:
            raise OSError("SHT3x says %s C" % celsius)
        return ((1, celsius), (2, percent * 100 / 65535))

    def ask(self, command, milliseconds, count):
        self.bus.writeto(self.address, command)
        time.sleep_ms(milliseconds)
        return words(self.bus.readfrom(self.address, count))
