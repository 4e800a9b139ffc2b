"""The DHT22 (AM2302) on a data pin: temperature and humidity.

Datasheet: Aosong, AM2302. The timing is done by the image's own module.
"""
import time

import dht

PAUSE_MS = 2000  # the least from one reading to the next
COLDEST, HOTTEST, DAMPEST = -400, 800, 1000  # tenths


class DHT22:
    """One sensor. Every failure is an OSError: no answer, a wrong checksum, no sensible number."""

    def __init__(self, machine, pin):
        self.wire = dht.DHT22(machine.Pin(pin))

    def read(self):
        """Pairs of field and value: degrees C, %.

        A DHT22 answers with what it measured when it was asked before, so it is asked twice.
        """
        try:
            self.measure()
        except OSError:
            pass  # it has measured all the same
        time.sleep_ms(PAUSE_MS)
        high, low, cold, rest, _ = self.measure()
        humidity, celsius = high << 8 | low, tenths(cold << 8 | rest)
        if not (COLDEST <= celsius <= HOTTEST and 0 < humidity <= DAMPEST):
            raise OSError("DHT22 says %d C/10, %d %%/10" % (celsius, humidity))
        return ((1, celsius / 10), (2, humidity / 10))

    def measure(self):
        """Its five bytes. The image's module raises a plain Exception for a wrong checksum."""
        try:
            self.wire.measure()
        except OSError:
            raise OSError("DHT22 does not answer")
        except Exception as error:
            raise OSError("DHT22: %s" % error)
        return self.wire.buf


def tenths(word):
    """A sign and 15 bits; some copies send two's complement, which reads as below -1638 C."""
    if word & 0x8000 and word & 0x4000:
        return word - 0x10000
    return -(word & 0x7FFF) if word & 0x8000 else word
