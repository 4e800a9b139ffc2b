"""Real sockets; a time-out takes a moment of real time and its full length of virtual time."""
import usocket as real_socket
from world import world

SOCK_STREAM = real_socket.SOCK_STREAM
REFUSED, UNREACHABLE, TIMED_OUT = 111, 113, 110
REAL_TIMEOUT = (11, 110, 115)  # what Linux calls a time-out of a socket
TRIP_MS = 40


def getaddrinfo(host, port, family=0, kind=0):
    world.log("lookup", host)
    while world.within("dns_hangs"):
        world.advance(1000)
    if host == "iot.example":
        host = "127.0.0.1"
    return real_socket.getaddrinfo(host, port, family, kind)


class socket:
    def __init__(self):
        self.real = real_socket.socket()
        self.timeout = None
        world.sockets += 1

    def settimeout(self, seconds):
        self.timeout = seconds
        self.real.settimeout(world.get("real_timeout", 5))

    def connect(self, address):
        assert self.timeout is not None, "a socket without a time-out can hang for ever"
        world.log("request")
        if world.within("wifi_down"):
            raise OSError(UNREACHABLE)
        if world.within("refused"):
            raise OSError(REFUSED)
        if world.within("away"):
            self.hang()
        world.advance(TRIP_MS)
        self.guarded(self.real.connect, address)

    def write(self, data):
        return self.guarded(self.real.write, data)

    def readinto(self, buffer):
        count = self.guarded(self.real.readinto, buffer)
        if count is None:
            self.hang()
        world.advance(world.get("byte_ms", 0))
        return count

    def guarded(self, operation, argument):
        try:
            return operation(argument)
        except OSError as error:
            if error.args[0] in REAL_TIMEOUT:
                self.hang()
            raise

    def hang(self):
        world.advance(self.timeout * 1000)
        raise OSError(TIMED_OUT)

    def close(self):
        self.real.close()
        world.sockets -= 1
