"""Readings that wait: in RAM, and over a reset in RTC memory, from where `boots` takes them."""
import binascii
import struct

BACKLOG = 120  # readings that wait in RAM: two hours of a thermometer, 1.8 KB
RTC_BYTES = 492
HEADER, RECORD = "<H4si", "<iiHIB"
HEADER_BYTES, RECORD_BYTES = struct.calcsize(HEADER), struct.calcsize(RECORD)
RTC_RECORDS = (RTC_BYTES - HEADER_BYTES) // RECORD_BYTES

# The two large pieces of memory, taken at import: later the heap may have no such gap.
BLOCK = bytearray(BACKLOG * RECORD_BYTES)
RTC_IMAGE = bytearray(RTC_BYTES)


class Backlog:
    """Readings that wait, oldest first, in one block of memory that never grows.

    When it is full, every second measurement of the older half goes. So a long outage keeps
    its first reading and all of its length, the more coarsely the longer ago.
    A reading is (when, value, boot, count, field): seconds of this start's clock, thousandths
    (1/1000 C or hPa still fits the board's floats exactly), and its name.
    """

    def __init__(self):
        self.block = BLOCK
        self.length = 0

    def __len__(self):
        return self.length

    def get(self, index):
        return struct.unpack_from(RECORD, self.block, index * RECORD_BYTES)

    def put(self, index, reading):
        struct.pack_into(RECORD, self.block, index * RECORD_BYTES, *reading)

    def append(self, reading):
        if self.length == BACKLOG:
            self.thin()
        self.put(self.length, reading)
        self.length += 1

    def remove(self, index):
        self.length -= 1
        for i in range(index, self.length):
            self.put(i, self.get(i + 1))

    def thin(self):
        """All fields of one measurement stay or go together; at least one reading goes."""
        half, kept, stays, last = self.length // 2, 0, False, None
        for i in range(self.length):
            reading = self.get(i)
            if i >= half:
                stays = True
            elif reading[2:4] != last:
                stays, last = not stays, reading[2:4]
            if stays:
                self.put(kept, reading)
                kept += 1
        self.length = min(kept, self.length - 1)


def hexadecimal(data):
    return str(binascii.hexlify(data), "utf-8")


def save(rtc, backlog, salt, now):
    """Lay the newest readings into RTC memory, which a reset leaves alone."""
    first = max(len(backlog) - RTC_RECORDS, 0)
    image = memoryview(RTC_IMAGE)
    struct.pack_into(HEADER, image, 0, 0, salt, now)
    used = HEADER_BYTES if len(backlog) else 0
    for i in range(first, len(backlog)):
        struct.pack_into(RECORD, image, used, *backlog.get(i))
        used += RECORD_BYTES
    struct.pack_into("<H", image, 0, fletcher(image[:used]))
    rtc.memory(image[:used])


def fletcher(memory):
    """Fletcher's 16-bit checksum of all but its own two bytes."""
    low = high = 1
    for i in range(2, len(memory)):
        low = (low + memory[i]) % 255
        high = (high + low) % 255
    return high << 8 | low


def decimal(thousandths):
    """'-0.250' of -250, by whole numbers: the board prints six digits of a float."""
    sign = "-" if thousandths < 0 else ""
    return "%s%d.%03d" % (sign, abs(thousandths) // 1000, abs(thousandths) % 1000)


def update_path(path, salt, reading, now):
    when, value, boot, count, field = reading
    age = "/age=%d" % (now - when) if now > when else ""
    return "%s/field=%d/data=%s%s/seq=%s-%d-%d" % (
        path, field, decimal(value), age, hexadecimal(salt), boot, count)
