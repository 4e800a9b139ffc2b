"""The BME280 on I2C: what a BMP280 measures, and humidity.

Datasheet: Bosch, BST-BME280-DS002 (sections 4.2.2, 4.2.3 and 9.1), in whole numbers.
"""
import struct

from BMP280 import BMP280
from micropython import const

_CALIBRATION_H1 = const(0xA1)
_CALIBRATION_H2 = const(0xE1)
_HUMIDITY_CONTROL = const(0xF2)
_SKIPPED = const(0x8000)  # what the data registers hold when no humidity was measured
_HIGHEST = const(100 << 22)  # 100 % in the datasheet's unit


class BME280(BMP280):
    NAME, CHIP, DATA_BYTES = "BME280", 0x60, 8
    MEASURE_MS = 47  # 46.1 at most with these oversamplings

    def __init__(self, bus, address=0x76):
        super().__init__(bus, address)
        self.h = calibration(self.registers(_CALIBRATION_H1, 1)[0],
                             self.registers(_CALIBRATION_H2, 7))

    def measure(self):
        """The chip takes over this setting only with the command that follows."""
        self.i2c.writeto_mem(self.address, _HUMIDITY_CONTROL, b"\x01")
        return super().measure()

    def values(self, data):
        """The fine temperature, and pairs of field and value: degrees C, hPa, %."""
        adc, = struct.unpack_from(">H", data, 6)
        if adc == _SKIPPED:
            raise OSError("BME280 measured no humidity")
        fine, pairs = super().values(data)
        return fine, pairs + ((2, percent_2_22(adc, fine, self.h) / (1 << 22)),)


def calibration(h1, data):
    """H1 to H6: H4 and H5 share the halves of a byte, and are signed in 12 bits."""
    h2, h3, high4, shared, high5, h6 = struct.unpack("<hBbBbb", data)
    if h2 in (0, -1):
        raise OSError("BME280 has no calibration yet")
    return h1, h2, h3, high4 << 4 | shared & 0x0F, high5 << 4 | shared >> 4, h6


def percent_2_22(adc, fine, h):
    """Humidity in % times 2 to the 22nd; the steps and their order are the datasheet's."""
    h1, h2, h3, h4, h5, h6 = h
    fine -= 76800
    raw = ((adc << 14) - (h4 << 20) - h5 * fine + 16384) >> 15
    slope = (((fine * h6) >> 10) * (((fine * h3) >> 11) + 32768) >> 10) + 2097152
    value = raw * ((slope * h2 + 8192) >> 14)
    value -= ((((value >> 15) * (value >> 15)) >> 7) * h1) >> 4
    return min(max(value, 0), _HIGHEST)
