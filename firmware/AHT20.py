"""The AHT20 on I2C: temperature and humidity.

Datasheet: Aosong, AHT20, version 1.1 (sections 5.3, 5.4, 6.1 and 6.2).
"""
import time

from crc8 import crc8

INITIALIZE = b"\xbe\x08\x00"
MEASURE = b"\xac\x33\x00"
START_MS, INITIALIZE_MS, MEASURE_MS = 40, 10, 80
POLLS = 5
BUSY, CALIBRATED = 0x80, 0x08
COLDEST, HOTTEST = -40, 85


class AHT20:
    """One sensor. Every failure is an OSError: no answer, a wrong checksum, no sensible number."""

    def __init__(self, bus, address=0x38):
        self.bus, self.address = bus, address
        time.sleep_ms(START_MS)
        self.measure()

    def read(self):
        """Pairs of field and value: degrees C, %, both of 20 bits."""
        data = self.measure()
        percent = (data[1] << 16 | data[2] << 8 | data[3]) >> 4
        celsius = (data[3] & 0x0F) << 16 | data[4] << 8 | data[5]
        celsius = celsius * 200 / 1048576 - 50
        if not COLDEST <= celsius <= HOTTEST:
            raise OSError("AHT20 says %s C" % celsius)
        return ((1, celsius), (2, percent * 100 / 1048576))

    def measure(self):
        """A fresh measurement of seven bytes; the last is the checksum of the others."""
        if not self.bus.readfrom(self.address, 1)[0] & CALIBRATED:
            self.bus.writeto(self.address, INITIALIZE)
            time.sleep_ms(INITIALIZE_MS)
        self.bus.writeto(self.address, MEASURE)
        for _ in range(POLLS):
            time.sleep_ms(MEASURE_MS)
            data = self.bus.readfrom(self.address, 7)
            if crc8(data[:6]) != data[6]:
                raise OSError("AHT20: checksum is wrong")
            if not data[0] & BUSY:
                return data
        raise OSError("AHT20 never stops measuring")
