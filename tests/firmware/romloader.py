"""An ESP8266 or ESP32 that waits for esptool on a pseudo-terminal: its ROM loader, then the stub.

What the emulation knows: SLIP frames, SYNC, registers, uploading a stub, and the stub's flash
commands on 4 MB of flash. Checksums are verified; an unknown command is answered with an error.
"""
import hashlib
import os
import select
import struct
import zlib
from typing import ClassVar

from serialport import SerialPort

FLASH_BYTES = 4 << 20
FLASH_CHIP = 0x1640EF  # a Winbond of 4 MB
INVALID = b"\x01\x05"


def esp8266_image(filling, iram=0x40100000):
    """Two segments where an ESP8266 has memory, their checksum, and code behind."""
    segments = [(iram, bytes(range(256)) * 8), (0x3FFE8000, b"\xc0\xdb data " * 64)]
    image, checksum = struct.pack("<BBBBI", 0xE9, len(segments), 0, 0, 0x40100004), 0xEF
    for address, data in segments:
        image += struct.pack("<II", address, len(data)) + data
        for byte in data:
            checksum ^= byte
    image += b"\0" * (15 - len(image) % 16) + bytes([checksum])
    return image + filling


def esp32_image(filling, chip=0, offset=0x1000):
    """Boot loader, table of partitions and application, as MicroPython's .bin has them."""
    parts = {0: esp32_part(chip, b"boot loader" * 300),
             0x8000 - offset: partition(1, 2, 0x9000, 0x6000, b"nvs")
             + partition(0, 0, 0x10000, 0x1F0000, b"factory"),
             0x10000 - offset: esp32_part(chip, filling)}
    image = bytearray(b"\xff" * max(at + len(data) for at, data in parts.items()))
    for at, data in parts.items():
        image[at:at + len(data)] = data
    return bytes(image)


def esp32_part(chip, filling):
    """One image with the longer header, its checksum, and the digest of all that."""
    filling += b"\0" * (-len(filling) % 4)
    image = struct.pack("<BBBBI", 0xE9, 1, 2, 0x20, 0x40080400)
    image += struct.pack("<BBBBHBHHIB", 0xEE, 0, 0, 0, chip, 0, 0, 0xFFFF, 0, 1)
    image += struct.pack("<II", 0x3FFB0000, len(filling)) + filling
    checksum = 0xEF
    for byte in filling:
        checksum ^= byte
    image += b"\0" * (15 - len(image) % 16) + bytes([checksum])
    return image + hashlib.sha256(image).digest()


def partition(kind, subtype, at, size, label):
    return struct.pack("<HBBII16sI", 0x50AA, kind, subtype, at, size, label, 0)


class RomLoader(SerialPort):
    """A chip for esptool; `flash` is what it wrote."""

    registers: ClassVar = {
        0x40001000: 0xFFF0C101, 0x60000014: 451,  # the chip, and a 26 MHz crystal
        0x3FF00050: 0x01020300, 0x3FF00054: 0x02000405, 0x3FF00058: 0xA000, 0x3FF0005C: 0}
    spi_command, spi_data = 0x60000200, 0x60000240
    status_bytes = 2  # the stub has two always

    def __init__(self):
        super().__init__()
        self.flash = bytearray(b"\xff" * FLASH_BYTES)
        self.stub = False
        self.erased = 0
        self.commands = []
        self.handlers = HANDLERS
        self.registers = dict(self.registers)
        self.at, self.inflate = 0, None

    def serve(self):
        buffer = b""
        while self.stop_read not in select.select([self.ours, self.stop_read], [], [])[0]:
            buffer += os.read(self.ours, 65536)
            *frames, buffer = buffer.split(b"\xc0")
            for frame in frames:
                self.hear(frame.replace(b"\xdb\xdc", b"\xc0").replace(b"\xdb\xdd", b"\xdb"))

    def hear(self, packet):
        if len(packet) < 8 or packet[0] != 0:
            return
        _, operation, size, checksum = struct.unpack_from("<BBHI", packet)
        data = packet[8:]
        self.commands.append(operation)
        handler = self.handlers.get(operation)
        if handler is None or len(data) != size:
            self.answer(operation, INVALID)
            return
        handler(self, operation, data, checksum)

    def answer(self, operation, status=b"\0\0", value=0):
        if not self.stub:
            status += b"\0" * (self.status_bytes - 2)
        self.send(struct.pack("<BBHI", 1, operation, len(status), value) + status)

    def send(self, frame):
        escaped = frame.replace(b"\xdb", b"\xdb\xdd").replace(b"\xc0", b"\xdb\xdc")
        os.write(self.ours, b"\xc0" + escaped + b"\xc0")

    def sync(self, operation, _data, _checksum):
        """A new connection resets the chip, so the ROM answers: eight times, value not zero."""
        self.stub = False
        for _ in range(8):
            self.answer(operation, value=0x20120707)

    def read_register(self, operation, data, _checksum):
        address, = struct.unpack("<I", data)
        self.answer(operation, value=self.registers.get(address, 0))

    def write_register(self, operation, data, _checksum):
        """A finished SPI command: the command register reads 0, the data hold the chip's id."""
        address, = struct.unpack_from("<I", data)
        if address == self.spi_command:
            self.registers[self.spi_data] = FLASH_CHIP
        self.answer(operation)

    def accept(self, operation, _data, _checksum):
        self.answer(operation)

    def memory_data(self, operation, data, checksum):
        self.answer(operation, status(data[16:], checksum))

    def memory_end(self, operation, _data, _checksum):
        self.answer(operation)
        self.stub = True
        self.send(b"OHAI")

    def begin(self, operation, data, _checksum):
        """Only the stub can inflate; sectors are erased as they are written."""
        size, _, _, self.at = struct.unpack_from("<IIII", data)
        self.flash[self.at:self.at + size] = b"\xff" * size
        self.inflate = zlib.decompressobj().decompress if operation == 0x10 else bytes
        self.answer(operation, b"\0\0" if self.stub else INVALID)

    def flash_data(self, operation, data, checksum):
        length, = struct.unpack_from("<I", data)
        block = data[16:16 + length]
        good = status(block, checksum)
        if good == b"\0\0":
            plain = self.inflate(block)
            self.flash[self.at:self.at + len(plain)] = plain
            self.at += len(plain)
        self.answer(operation, good)

    def md5(self, operation, data, _checksum):
        address, size = struct.unpack_from("<II", data)
        self.answer(operation, hashlib.md5(self.flash[address:address + size]).digest() + b"\0\0")

    def erase(self, operation, _data, _checksum):
        self.flash[:] = b"\xff" * FLASH_BYTES
        self.erased += 1
        self.answer(operation)


class Esp32RomLoader(RomLoader):
    """An ESP32-D0WD of revision 3, with a 40 MHz crystal: other registers, longer answers."""

    registers: ClassVar = {
        0x40001000: 0x00F01D83, 0x3FF5A00C: 0x8000, 0x3FF5A014: 0x100000, 0x3FF6607C: 0x80000000,
        0x3FF40014: 347, 0x3FF5A004: 0x01020304, 0x3FF5A008: 0x0506}
    spi_command, spi_data = 0x3FF42000, 0x3FF42080
    status_bytes = 4


def status(block, checksum):
    """A block whose checksum is wrong is refused, as by the chip."""
    state = 0xEF
    for byte in block:
        state ^= byte
    return b"\0\0" if state == checksum else b"\x01\x07"


HANDLERS = {  # by esptool's number of the command
    0x02: RomLoader.begin, 0x03: RomLoader.flash_data, 0x04: RomLoader.accept,
    0x05: RomLoader.accept, 0x06: RomLoader.memory_end, 0x07: RomLoader.memory_data,
    0x08: RomLoader.sync, 0x09: RomLoader.write_register, 0x0A: RomLoader.read_register,
    0x0B: RomLoader.accept, 0x0D: RomLoader.accept, 0x0F: RomLoader.accept,
    0x10: RomLoader.begin, 0x11: RomLoader.flash_data, 0x12: RomLoader.accept,
    0x13: RomLoader.md5, 0xD0: RomLoader.erase,
}
