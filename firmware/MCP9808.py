"""The MCP9808 thermometer on I2C: -40 to 125 degrees C in steps of 1/16."""
import struct
import time

AMBIENT, MAKER, DEVICE, CONFIG, RESOLUTION = 0x05, 0x06, 0x07, 0x01, 0x08
MICROCHIP = 0x0054
MCP9808_ID = 0x04  # in the high byte; the low byte is the revision
CONVERSION_MS = 260  # at the finest resolution; before the first one is over the chip says 0.0
COLDEST, HOTTEST = -40, 125  # what the datasheet promises; outside is a broken wire


class MCP9808:
    """One sensor. Every failure is an OSError: no answer, another chip, no sensible number."""

    def __init__(self, i2c, address=0x18):
        self.i2c = i2c
        self.address = address
        self.identify()
        i2c.writeto_mem(address, CONFIG, b"\x00\x00")  # awake, whatever ran before us chose
        i2c.writeto_mem(address, RESOLUTION, b"\x03")
        time.sleep_ms(CONVERSION_MS)

    def identify(self):
        """A data line held low answers every address with zeros, so each read asks first."""
        if self.word(MAKER) != MICROCHIP or self.word(DEVICE) >> 8 != MCP9808_ID:
            raise OSError("no MCP9808 at 0x%02x" % self.address)

    def read(self):
        """Pairs of field and value: degrees C."""
        self.identify()
        celsius = signed(self.word(AMBIENT)) / 16
        if not COLDEST <= celsius <= HOTTEST:
            raise OSError("MCP9808 says %s C" % celsius)
        return ((1, celsius),)

    def word(self, register):
        return struct.unpack(">H", self.i2c.readfrom_mem(self.address, register, 2))[0]


def signed(word):
    """Sixteenths of a degree: 13 bits, two's complement, below three alert flags."""
    word &= 0x1FFF
    return word - 0x2000 if word & 0x1000 else word
