"""The BMP280 thermometer and barometer on I2C; a BME280 answers as well, without humidity.

The arithmetic is the datasheet's, in whole numbers: exact, where the board's floats have 22 bits.
"""
import struct
import time

CHIP_ID, STATUS, CONTROL, CONFIG, DATA = 0xD0, 0xF3, 0xF4, 0xF5, 0xF7
CALIBRATION_T, CALIBRATION_P = 0x88, 0x8E
CHIPS = (0x58, 0x60)  # BMP280, BME280
MEASURE_ONCE = b"\x55"  # temperature x2, pressure x16, forced: the chip sleeps in between
MEASURING = 0x08
MEASURE_MS = 45  # 43.2 at most with these oversamplings
POLLS = 5
SKIPPED = 0x80000  # what the data registers hold when nothing was measured
COLDEST, HOTTEST = -4000, 8500  # hundredths of a degree C, from the datasheet
LOWEST, HIGHEST = 300 * 25600, 1100 * 25600  # 256ths of a Pa


class BMP280:
    """One sensor. Every failure is an OSError: no answer, another chip, no sensible number."""

    def __init__(self, i2c, address=0x76):
        self.i2c = i2c
        self.address = address
        self.identify()
        self.t = struct.unpack("<Hhh", self.registers(CALIBRATION_T, 6))
        self.p = struct.unpack("<Hhhhhhhhh", self.registers(CALIBRATION_P, 18))
        if self.t[0] in (0, 0xFFFF) or self.p[0] in (0, 0xFFFF):
            raise OSError("BMP280 has no calibration yet")
        i2c.writeto_mem(address, CONFIG, b"\x00")

    def identify(self):
        if self.registers(CHIP_ID, 1)[0] not in CHIPS:
            raise OSError("no BMP280 at 0x%02x" % self.address)

    def read(self):
        """(degrees C, hPa)"""
        self.identify()
        adc_p, adc_t = self.measure()
        fine = fine_temperature(adc_t, self.t)
        celsius, pressure = (fine * 5 + 128) >> 8, pascals_256(adc_p, fine, self.p)
        if not (COLDEST <= celsius <= HOTTEST and LOWEST <= pressure <= HIGHEST):
            raise OSError("BMP280 says %d C/100, %d Pa/256" % (celsius, pressure))
        return celsius / 100, pressure / 25600

    def measure(self):
        """Raw (pressure, temperature) of a fresh measurement: the last one may be hours old."""
        self.i2c.writeto_mem(self.address, CONTROL, MEASURE_ONCE)
        time.sleep_ms(MEASURE_MS)
        self.wait()
        high_p, low_p, high_t, low_t = struct.unpack(">HBHB", self.registers(DATA, 6))
        raw = (high_p << 4 | low_p >> 4, high_t << 4 | low_t >> 4)
        if SKIPPED in raw:
            raise OSError("BMP280 measured nothing")
        return raw

    def wait(self):
        for _ in range(POLLS):
            if not self.registers(STATUS, 1)[0] & MEASURING:
                return
            time.sleep_ms(MEASURE_MS)
        raise OSError("BMP280 never stops measuring")

    def registers(self, first, count):
        return self.i2c.readfrom_mem(self.address, first, count)


def fine_temperature(adc, t):
    """Temperature in the datasheet's fine unit, 1/5120 degree C."""
    one = (((adc >> 3) - (t[0] << 1)) * t[1]) >> 11
    two = (((((adc >> 4) - t[0]) * ((adc >> 4) - t[0])) >> 12) * t[2]) >> 14
    return one + two


def pascals_256(adc, fine, p):
    """Pressure in 256ths of a Pa; the steps and their order are the datasheet's (3.11.3)."""
    one = fine - 128000
    two = one * one * p[5] + ((one * p[4]) << 17) + (p[3] << 35)
    one = ((one * one * p[2]) >> 8) + ((one * p[1]) << 12)
    one = (((1 << 47) + one) * p[0]) >> 33
    if one == 0:
        raise OSError("BMP280 calibration divides by zero")
    value = (((1048576 - adc) << 31) - two) * 3125 // one
    one = (p[8] * (value >> 13) * (value >> 13)) >> 25
    two = (p[7] * value) >> 19
    return ((value + one + two) >> 8) + (p[6] << 4)
