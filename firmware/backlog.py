"""Readings that wait: in RAM, over a reset in RTC memory, and under names that never repeat."""
import binascii
import os
import struct

import wifitools

BACKLOG = 120  # readings that wait in RAM: two hours of a thermometer, 1.8 KB
RESTART_S = 5  # from saving to the first turn after a reset, boot.py's grace included

BOOT_FILE = "boot.txt"
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


def next_boot(files=os, opened=open):
    """(salt, boot number), as no earlier start had them.

    The number is used only after it is safe in flash: a power cut leaves the old file whole.
    A missing or broken file begins a new salt, so a board whose flash was erased, and which
    counts from 1 again, cannot repeat old names.
    """
    salt, boot = read_boot(opened)
    try:
        with opened(BOOT_FILE + ".new", "w") as file:
            file.write("%s %d\n" % (hexadecimal(salt), boot))
        files.rename(BOOT_FILE + ".new", BOOT_FILE)
    except OSError as error:
        print("boot number not saved:", error)
        salt = os.urandom(4)  # for this start alone
    return salt, boot


def read_boot(opened):
    """The line end shows that the number was not cut short."""
    try:
        with opened(BOOT_FILE) as file:
            salt, boot = file.read(20).split(" ")
        if len(salt) == 8 and boot.endswith("\n") and int(boot) < 65535:
            return binascii.unhexlify(salt), int(boot) + 1
    except (OSError, ValueError):
        pass
    return os.urandom(4), 1


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


def restore(rtc, backlog, salt):
    """Take back what `save` left, as if measured that long before this start."""
    memory = rtc.memory()
    if len(memory) < HEADER_BYTES or (len(memory) - HEADER_BYTES) % RECORD_BYTES:
        return
    checksum, old_salt, saved = struct.unpack_from(HEADER, memory, 0)
    if checksum != fletcher(memory) or old_salt != salt:
        return
    for at in range(HEADER_BYTES, len(memory), RECORD_BYTES):
        when, value, boot, count, field = struct.unpack_from(RECORD, memory, at)
        backlog.append((when - saved - RESTART_S, value, boot, count, field))


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


def update_path(settings, salt, reading, now):
    when, value, boot, count, field = reading
    age = "/age=%d" % (now - when) if now > when else ""
    return "/update/API_key=%s/mac=%s/field=%d/data=%s%s/seq=%s-%d-%d" % (
        wifitools.quote(settings.key), wifitools.quote(settings.mac), field, decimal(value), age,
        hexadecimal(salt), boot, count)
