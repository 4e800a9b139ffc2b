"""What start and sensors share: the I2C bus, patience with noise, and to forget a module.

The bus is freed from a sensor that a reset caught in mid-byte.
"""
import gc
import sys
import time

TRIES, PAUSE_MS = 4, 10  # together longer than a cycle of mains hum


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


def insist(operation, *what):
    """Try again: one operation spoilt by noise does not cost a measurement of eight."""
    for _ in range(TRIES - 1):
        try:
            return operation(*what)
        except OSError:
            time.sleep_ms(PAUSE_MS)
    return operation(*what)


class Bus:
    """I2C that tries again."""

    i2c = None

    def readfrom(self, *what):
        return insist(self.i2c.readfrom, *what)

    def writeto(self, address, data):
        insist(self.write, address, data)

    def readfrom_mem(self, *what):
        return insist(self.i2c.readfrom_mem, *what)

    def writeto_mem(self, address, register, data):
        insist(self.write, address, bytes([register]) + data)

    def write(self, address, data):
        """MicroPython calls it no error when a byte is not acknowledged; the chip missed it."""
        if self.i2c.writeto(address, data) != len(data):
            raise OSError("not acknowledged by 0x%02x" % address)


def forget(name):
    """Its names are cleared, too: a stale pointer on the stack can keep a module alive."""
    module = sys.modules.pop(name, None)
    if module:
        module.__dict__.clear()
    gc.collect()
