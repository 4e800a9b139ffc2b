"""The network for a station: join WiFi, know one's MAC, ask one server one thing.

Every wait here has an end, and every socket is closed before a function returns.
"""
import binascii
import socket
import time

JOIN_MS = 45000  # an access point may take 15 s, DHCP as long again
POLL_MS = 250
SOCKET_S = 20  # for each socket operation; bears an access point that goes away for 15 s
REQUEST_MS = 45000  # for all of a request, since a server may send a byte now and then
HEAD_MAX = 8192  # bytes of an answer's head; proxies add headers of several thousand
LINE_MAX = 120  # bytes of a line or body that are kept
MISSING = 63  # '?' in the place of bytes that never came: part of a number is no number
REQUEST = "GET %s HTTP/1.0\r\nHost: %s:%d\r\nConnection: close\r\n\r\n"
TIMED_OUT = 110  # errno, as the board numbers it


def getmac(wlan):
    """The board's own address: '5c:cf:7f:01:02:03'."""
    return str(binascii.hexlify(wlan.config("mac"), ":"), "utf-8")


def connect(wlan, ssid, password):
    """One try to join a network: True when there is an address, False after 46 s at most.

    A failed try is broken off: the SDK can stay in 'connecting' for ever.
    """
    wlan.active(True)
    try:
        wlan.connect(ssid, password)
    except OSError as error:
        print("WiFi:", error)  # the SDK was busy; the next try begins afresh
    end = time.ticks_add(time.ticks_ms(), JOIN_MS)
    while time.ticks_diff(end, time.ticks_ms()) > 0:
        if wlan.isconnected():
            return True
        time.sleep_ms(POLL_MS)
    leave(wlan)
    time.sleep_ms(1000)  # the SDK ignores a connect that follows at once
    return False


def leave(wlan):
    """Break off whatever the WiFi is doing; the SDK makes an error of it when that is nothing."""
    try:
        wlan.disconnect()
    except OSError:
        pass


class Server:
    """Where readings go. `authority` is the file with the certificate that vouches for it."""

    def __init__(self, tls, host, port, authority):
        self.tls, self.host, self.port, self.authority = tls, host, port, authority
        self.address = None

    def resolve(self):
        """Socket address, asked for once: a lookup can block for long, and names seldom move."""
        if self.address is None:
            kind = socket.SOCK_STREAM
            self.address = socket.getaddrinfo(self.host, self.port, 0, kind)[0][-1]
        return self.address


def get(server, path):
    """(status, seconds to wait, the server's words) of one GET.

    Status 0 is an answer that is not HTTP. OSError: no answer.
    """
    deadline = time.ticks_add(time.ticks_ms(), REQUEST_MS)
    address = server.resolve()
    stream = socket.socket()
    try:
        stream.settimeout(SOCKET_S)
        stream.connect(address)
        if server.tls:
            import secure  # costs heap, so only where it is used
            stream = secure.encrypted(stream, server)
        stream.write((REQUEST % (path, server.host, server.port)).encode())
        return read_answer(octets(stream, deadline))
    finally:
        stream.close()


def octets(stream, deadline):
    """The bytes of an answer one by one. OSError when the whole takes too long."""
    one = bytearray(1)
    while True:
        count = stream.readinto(one)
        if count == 0:
            return
        if count is None or time.ticks_diff(deadline, time.ticks_ms()) < 0:
            raise OSError(TIMED_OUT)
        yield one[0]


def portion(source, count):
    """So many bytes of the source, and not a byte more is read; MISSING if it ends before."""
    if count > 0:
        for octet in source:
            yield octet
            count -= 1
            if not count:
                return
        yield MISSING


def chunks(source):
    """The body of a chunked answer. A size that is none ends it as MISSING."""
    while True:
        size = size_of(read_line(source))
        if size is None:
            yield MISSING
        if not size:
            return
        for octet in portion(source, size):
            yield octet
        read_line(source)


def read_line(source):
    """One line as printable ASCII, only its first LINE_MAX bytes; None if it never ends."""
    line = bytearray()
    for octet in source:
        if octet == 10:
            return str(line, "utf-8")
        if octet != 13 and len(line) < LINE_MAX:
            line.append(printable(octet))
    return None


def read_body(source):
    """A body as printable ASCII. A longer one ends in '...', so its beginning is no number."""
    words = bytearray()
    for octet in source:
        if len(words) == LINE_MAX:
            return str(words, "utf-8") + "..."
        words.append(32 if octet in (10, 13) else printable(octet))
    return str(words, "utf-8").strip()


def printable(octet):
    return octet if 32 <= octet < 127 else 63


def read_answer(source):
    head = portion(source, HEAD_MAX)
    status = status_of(read_line(head) or "")
    wait, body = 0, source
    line = read_line(head) if status else None
    while line:
        name, value = (line.lower() + ":").split(":", 1)
        number = number_of(value)
        if name == "retry-after":
            wait = number or 0
        elif name == "transfer-encoding" and "chunked" in value:
            body = chunks(source)
        elif name == "content-length" and number is not None and body is source:
            body = portion(source, number)
        line = read_line(head)
    if line is None:
        return 0, wait, ""
    return status, wait, read_body(body)


def status_of(line):
    code = line[8:12]
    if line.startswith("HTTP/1.") and len(code) == 4 and code[0] == " " and code[1:].isdigit():
        return int(code)
    return 0


def number_of(text):
    """The whole number of a header, None when it is none: Retry-After may also be a date."""
    text = text.strip(" :")
    return int(text) if text.isdigit() and len(text) < 10 else None


def size_of(line):
    """The size of a chunk in bytes, None when the line has none."""
    try:
        return int(line.split(";")[0].strip(), 16)
    except (AttributeError, ValueError):  # no line, or no number
        return None
