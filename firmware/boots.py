"""What a start takes over from the one before: names that never repeat, and waiting readings."""
import binascii
import os
import struct

import backlog

RESTART_S = 5  # from saving to the first turn after a reset, boot.py's grace included
BOOT_FILE = "boot.txt"


def begin(rtc, waiting):
    """(salt, boot number) of this start; what waited before it is back in the backlog."""
    salt, boot = next_boot()
    restore(rtc, waiting, salt)
    return salt, boot


def next_boot(files=os, opened=open):
    """(salt, boot number), as no earlier start had them.

    The number is used only after it is safe in flash: a power cut leaves the old file whole.
    A missing or broken file begins a new salt, so a board whose flash was erased, and which
    counts from 1 again, cannot repeat old names.
    """
    salt, boot = read_boot(opened)
    try:
        with opened(BOOT_FILE + ".new", "w") as file:
            file.write("%s %d\n" % (backlog.hexadecimal(salt), boot))
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


def restore(rtc, waiting, salt):
    """Take back what `save` left, as if measured that long before this start."""
    memory = rtc.memory()
    records = len(memory) - backlog.HEADER_BYTES
    if records < 0 or records % backlog.RECORD_BYTES:
        return
    checksum, old_salt, saved = struct.unpack_from(backlog.HEADER, memory, 0)
    if checksum != backlog.fletcher(memory) or old_salt != salt:
        return
    for at in range(backlog.HEADER_BYTES, len(memory), backlog.RECORD_BYTES):
        when, value, boot, count, field = struct.unpack_from(backlog.RECORD, memory, at)
        waiting.append((when - saved - RESTART_S, value, boot, count, field))
