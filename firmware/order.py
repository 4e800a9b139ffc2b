"""Which of several DS18B20s is which: the order of their fields, kept in a file."""
import binascii
import os

FILE = "ds18b20.txt"


def in_order(found, files=os, opened=open):
    """The sensors in the order of their fields, which stays over a start without one of them.

    At first that of their addresses. Of those that come later, the first takes the place of one
    that is missing, as when a sensor is exchanged.
    """
    known = read_file(opened)
    new = sorted(rom for rom in found if rom not in known)
    for rom in new:
        missing = [old for old in known if old not in found]
        if missing:
            known[known.index(missing[0])] = rom
        else:
            known.append(rom)
    if new:
        write_file(known, files, opened)
    return known


def read_file(opened):
    try:
        with opened(FILE) as file:
            return [binascii.unhexlify(line) for line in file.read().split()]
    except (OSError, ValueError):
        return []


def write_file(known, files, opened):
    try:
        with opened(FILE + ".new", "w") as file:
            file.write("".join(name(rom) + "\n" for rom in known))
        files.rename(FILE + ".new", FILE)
    except OSError as error:
        print("order of sensors not saved:", error)


def name(rom):
    return str(binascii.hexlify(rom), "utf-8")
