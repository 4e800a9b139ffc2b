"""Which sensor is there, on a bus that a reset may have left in the middle of a byte."""
import time

from BMP280 import BMP280
from MCP9808 import MCP9808

SENSORS = (("MCP9808", MCP9808, 0x18), ("BMP280", BMP280, 0x76), ("BMP280", BMP280, 0x77))
TRIES, PAUSE_MS = 4, 10  # together longer than a cycle of mains hum
NOBODY = 19  # ENODEV: no device acknowledged the address


def free_bus(scl, sda):
    """Clock out the byte at which a reset caught the sensor, so that it lets go of the line."""
    for _ in range(9):
        if sda.value():
            break
        scl.value(0)
        time.sleep_ms(1)
        scl.value(1)
        time.sleep_ms(1)
    for pin, level in ((scl, 0), (sda, 0), (scl, 1), (sda, 1)):  # STOP
        pin.value(level)
        time.sleep_ms(1)


class Bus:
    """I2C that tries again: one operation spoilt by noise does not cost a measurement of eight."""

    def __init__(self, i2c):
        self.i2c = i2c

    def readfrom_mem(self, *what):
        return self.insist(self.i2c.readfrom_mem, what)

    def writeto_mem(self, *what):
        return self.insist(self.i2c.writeto_mem, what)

    def insist(self, operation, what):
        for _ in range(TRIES - 1):
            try:
                return operation(*what)
            except OSError:
                time.sleep_ms(PAUSE_MS)
        return operation(*what)


def find(i2c, wanted):
    """The first known sensor that answers as itself. OSError when there is none.

    Without pull-ups every address seems to answer, so each candidate has to prove itself.
    """
    for name, driver, address in SENSORS:
        if wanted in ("auto", name):
            try:
                return driver(i2c, address)
            except OSError as error:
                if error.args[0] != NOBODY:
                    print(error)
    raise OSError("no sensor found on I2C: check power, SCL on GPIO5, SDA on GPIO4")
