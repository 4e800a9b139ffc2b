"""The BMP280 on I2C: temperature and pressure. BME280.py adds humidity.

Datasheet: Bosch, BST-BMP280-DS001 (sections 3.8, 3.11.3 and 4.3).
"""
import struct
import time

from bosch import fine_temperature, pascals_256
from micropython import const

# const() of a name that begins with _ takes no memory.
_CHIP_ID = const(0xD0)
_STATUS = const(0xF3)
_CONTROL = const(0xF4)
_CONFIG = const(0xF5)
_DATA = const(0xF7)
_CALIBRATION_T = const(0x88)
_CALIBRATION_P = const(0x8E)
_MEASURING = const(0x08)
_SKIPPED = const(0x80000)  # what the data registers hold when nothing was measured
_POLLS = const(5)
_COLDEST = const(-4000)  # hundredths of a degree C, from the datasheet
_HOTTEST = const(8500)
_LOWEST = const(300 * 25600)  # 256ths of a Pa
_HIGHEST = const(1100 * 25600)
MEASURE_ONCE = b"\x55"  # temperature x2, pressure x16, forced: the chip sleeps in between


class BMP280:
    """One sensor. Every failure is an OSError: no answer, another chip, no sensible number."""

    NAME, CHIP, DATA_BYTES = "BMP280", 0x58, 6
    MEASURE_MS = 45  # 43.2 at most with these oversamplings

    def __init__(self, i2c, address=0x76):
        self.i2c = i2c
        self.address = address
        self.identify()
        self.t = struct.unpack("<Hhh", self.registers(_CALIBRATION_T, 6))
        self.p = struct.unpack("<Hhhhhhhhh", self.registers(_CALIBRATION_P, 18))
        if self.t[0] in (0, 0xFFFF) or self.p[0] in (0, 0xFFFF):
            raise OSError("%s has no calibration yet" % self.NAME)
        i2c.writeto_mem(address, _CONFIG, b"\x00")

    def identify(self):
        if self.registers(_CHIP_ID, 1)[0] != self.CHIP:
            raise OSError("no %s at 0x%02x" % (self.NAME, self.address))

    def read(self):
        """Pairs of field and value: degrees C, hPa, and of a BME280 %."""
        self.identify()
        return self.values(self.measure())[1]

    def measure(self):
        """The data registers of a fresh measurement: the last one may be hours old."""
        self.i2c.writeto_mem(self.address, _CONTROL, MEASURE_ONCE)
        time.sleep_ms(self.MEASURE_MS)
        self.wait()
        return self.registers(_DATA, self.DATA_BYTES)

    def values(self, data):
        """The fine temperature, and the pairs of `read`."""
        high_p, low_p, high_t, low_t = struct.unpack_from(">HBHB", data)
        adc_p, adc_t = high_p << 4 | low_p >> 4, high_t << 4 | low_t >> 4
        if _SKIPPED in (adc_p, adc_t):
            raise OSError("%s measured nothing" % self.NAME)
        fine = fine_temperature(adc_t, self.t)
        celsius, pressure = (fine * 5 + 128) >> 8, pascals_256(adc_p, fine, self.p)
        if not (_COLDEST <= celsius <= _HOTTEST and _LOWEST <= pressure <= _HIGHEST):
            raise OSError("%s says %d C/100, %d Pa/256" % (self.NAME, celsius, pressure))
        return fine, ((1, celsius / 100), (3, pressure / 25600))

    def wait(self):
        for _ in range(_POLLS):
            if not self.registers(_STATUS, 1)[0] & _MEASURING:
                return
            time.sleep_ms(self.MEASURE_MS)
        raise OSError("%s never stops measuring" % self.NAME)

    def registers(self, first, count):
        return self.i2c.readfrom_mem(self.address, first, count)
