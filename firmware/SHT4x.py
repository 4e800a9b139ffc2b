"""The SHT40, SHT41 and SHT45 on I2C: temperature and humidity.

Datasheet: Sensirion, SHT4x, version 6 (sections 4.4 to 4.6). An SHT3x at the same address does
not answer a command of one byte.
"""
import time

from crc8 import words

SERIAL_NUMBER = b"\x89"
MEASURE = b"\xfd"  # high precision
MEASURE_MS = 9  # 8.3 at most
COLDEST, HOTTEST = -40, 125


class SHT4x:
    """One sensor. Every failure is an OSError: no answer, a wrong checksum, no sensible number."""

    def __init__(self, bus, address=0x44):
        self.bus, self.address = bus, address
        self.ask(SERIAL_NUMBER, 1)

    def read(self):
        """Pairs of field and value: degrees C, %. The line of humidity ends beyond 0 and 100."""
        celsius, percent = self.ask(MEASURE, MEASURE_MS)
        celsius, percent = celsius * 175 / 65535 - 45, percent * 125 / 65535 - 6
        if not COLDEST <= celsius <= HOTTEST:
            raise OSError("SHT4x says %s C" % celsius)
        return ((1, celsius), (2, min(max(percent, 0), 100)))

    def ask(self, command, milliseconds):
        self.bus.writeto(self.address, command)
        time.sleep_ms(milliseconds)
        return words(self.bus.readfrom(self.address, 6))
