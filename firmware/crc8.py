"""The checksum of Sensirion's and Aosong's sensors: CRC-8, polynomial 0x31, begun at 0xFF."""


def crc8(data):
    crc = 0xFF
    for octet in data:
        crc ^= octet
        for _ in range(8):
            crc = crc << 1 ^ 0x131 if crc & 0x80 else crc << 1
    return crc


def words(data):
    """The 16-bit words of an answer in which each has its checksum behind it."""
    found = []
    for at in range(0, len(data), 3):
        if crc8(data[at:at + 2]) != data[at + 2]:
            raise OSError("checksum is wrong")
        found.append(data[at] << 8 | data[at + 1])
    return found
