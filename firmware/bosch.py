"""The arithmetic of Bosch's BMP280 and BME280, the datasheets' own, in whole numbers.

Whole numbers are exact, where the board's floats have 22 bits.
"""


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
        raise OSError("calibration divides by zero")
    value = (((1048576 - adc) << 31) - two) * 3125 // one
    one = (p[8] * (value >> 13) * (value >> 13)) >> 25
    two = (p[7] * value) >> 19
    return ((value + one + two) >> 8) + (p[6] << 4)
