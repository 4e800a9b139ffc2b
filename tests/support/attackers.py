"""Attackers from the internet, a process each: python attackers.py NAME HTTP HTTPS SECONDS

Each comes from an address of its own, some from several, and does what it does again and again. At
the end it says on standard output, as JSON, how often each status came back, or that none did.
"""
import collections
import contextlib
import itertools
import json
import random
import re
import resource
import select
import socket
import ssl
import string
import sys
import threading
import time
import zoneinfo

MACS = ("5c:cf:7f:3b:0d:e8", "6c:rf:7f:2b:0e:g8")       # which are no secret
LEAKED = "GTW89NF3"             # the key of one of them is known to one attacker


class Attacker:
    def __init__(self, number, ports, seconds):
        self.number, self.ports = number, ports
        self.end = time.monotonic() + seconds
        self.statuses = collections.Counter()

    def connect(self, port=80, household=0, buffer=None):
        channel = socket.socket()
        channel.settimeout(5)
        if buffer:
            channel.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        channel.bind((f"127.0.{100 + self.number}.{1 + household}", 0))
        channel.connect(("127.0.0.1", self.ports[port]))
        if port == 443:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            channel = context.wrap_socket(channel)
        return channel

    def is_over(self):
        return time.monotonic() > self.end

    def count(self, data):
        for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", data):
            self.statuses[status.decode()] += 1

    def ask_again_and_again(self, raws, port=80, household=0):
        """Ask on one connection, and on a new one when that is closed."""
        while not self.is_over():
            with contextlib.suppress(OSError), self.connect(port, household) as channel:
                while not self.is_over():
                    channel.sendall(next(raws))
                    data = channel.recv(1_000_000)
                    if not data:
                        break
                    self.count(data)

    def hold(self, raw, count, households, drip=b"", port=80, buffer=4096):
        """As many connections that have asked, and read nothing; for each that is closed a new
        one."""
        held, closed = {}, select.poll()
        while not self.is_over():
            for number in range(count - len(held)):
                if self.is_over():
                    return
                with contextlib.suppress(OSError):
                    channel = self.connect(port, number % households, buffer)
                    channel.settimeout(0.1)
                    held[channel.fileno()] = channel
                    closed.register(channel, select.POLLRDHUP)
                    self.statuses["held"] += 1
                    channel.sendall(raw)
            for fd, _ in closed.poll(500):
                closed.unregister(fd)
                held.pop(fd).close()
                self.statuses["closed"] += 1
            for channel in held.values() if drip else ():
                with contextlib.suppress(OSError):
                    channel.send(drip)

    def in_threads(self, *jobs):
        threads = [threading.Thread(target=job) for job in jobs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def get(path, **headers):
    lines = [f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items()]
    return f"GET {path} HTTP/1.1\r\nHost: h\r\n{''.join(lines)}\r\n".encode()


def post(path, body, length=None):
    return (f"POST {path} HTTP/1.1\r\nHost: h\r\nContent-Length: "
            f"{len(body) if length is None else length}\r\n\r\n").encode() + body


def endless(make):
    return (make(number) for number in itertools.count())


def slow_heads(me):
    """2,000 heads from eight addresses that come byte by byte, and never to their end."""
    me.hold(b"GET /update HTTP/1.1\r\nHost: h\r\nA: ", 2000, 8, drip=b"x", buffer=None)


def slow_bodies(me):
    """500 bodies from five addresses: half of 256 KB comes, the rest never."""
    me.hold(post("/update", b'{"mac":"' + b"x" * 100_000, 256_000), 500, 5, drip=b"x", buffer=None)


def wrong_keys(me):
    """Guesses, 200 in one go."""
    def guesses(number):
        return b"".join(get(f"/update/API_key=guess{number}x{n}/mac={MACS[n % 2]}/field=1/data=1")
                        for n in range(200))
    me.in_threads(*[lambda n=n: me.ask_again_and_again(endless(guesses), household=n)
                    for n in range(3)])


def huge_keys(me):
    """Keys of 256 KB, each a new one; and of 7 KB in a header and in the path."""
    def large(number):
        key = f"{number}".ljust(255_000, random.choice(string.ascii_letters))
        return random.choice([
            post("/update", json.dumps({"mac": MACS[0], "api_key": key, "readings": [
                {"field": 1, "data": 1}]}).encode()),
            post("/update", f"api_key={key}&field1=1".encode()),
            get("/update/mac=M/field=1/data=1", X_API_Key=key[:7000]),
            get(f"/update/API_key={key[:7000]}/mac={MACS[0]}/field=1/data=1")])
    me.in_threads(*[lambda n=n: me.ask_again_and_again(endless(large), household=n)
                    for n in range(3)])


def long_digits(me):
    """Numbers and times of 7 KB, and of 200 KB in a body."""
    digits, times, times_of_day = "1" * 7000 + "x", "T" * 7000, "2018-01-01T" + "1:" * 3000
    update = f"/update/API_key=no/mac={MACS[0]}/field=1"
    def long(number):
        return random.choice([
            get(f"{update}/data={digits}"), get(f"{update}/data=1/age={digits}"),
            get(f"/update?api_key=no&field1={digits}"),
            get(f"/update?api_key=no&field1=1&created_at={random.choice([times, times_of_day])}"),
            post("/update", json.dumps({"mac": MACS[0], "api_key": "no", "readings": [
                {"field": 1, "data": "1" * 200_000 + "x"}]}).encode()),
            get("/update", Connection="a" + " " * 6000 + "b")])

    def reads(number):
        name = random.choice(["start", "end", "results", "offset", "days", "timescale"])
        return get(f"/channels/1/feeds.json?{name}={random.choice([digits, times])}")
    me.in_threads(lambda: me.ask_again_and_again(endless(long)),
                  lambda: me.ask_again_and_again(endless(long), household=1),
                  lambda: me.ask_again_and_again(endless(reads), 443, 2))


def large_feeds(me):
    """60 at once of the largest feeds, in the most laborious form."""
    raw = get("/channels/1/feeds.xml?results=8000")
    me.in_threads(*[lambda: me.ask_again_and_again(itertools.repeat(raw), 443)] * 60)


def never_reads(me):
    """100 connections, 4,000 requests on each, and no answer is ever read."""
    me.hold(get("/update?api_key=no&field1=1") * 2000 + get("/healthz") * 2000, 100, 2)


def exports(me):
    """60 clients who ask for all readings, and take none of them."""
    me.hold(get("/export.csv"), 60, 20, port=443)


def bulks(me):
    """Bulks without a key, laborious to parse; and with one that leaked, of the longest texts."""
    texts = json.dumps({"write_api_key": LEAKED, "updates": [
        {"delta_t": 1, "field1": "x" * 255, "status": "y" * 255} for _ in range(400)]}).encode()

    def bulk(number):
        return random.choice([
            post("/channels/1/bulk_update.json", b'{"updates":[' + b"{}," * 1000 + b"{}]}"),
            post("/channels/1/bulk_update.csv", b"write_api_key=no&updates=" + b"|" * 250_000),
            post("/update", b"[" * 200_000), post("/channels/1/bulk_update.json", texts)])
    me.in_threads(*[lambda n=n: me.ask_again_and_again(endless(bulk), household=n)
                    for n in range(3)])


def new_pages(me):
    """Pages that nobody has asked for before, and charts with axes that no screen has."""
    zones = sorted(zoneinfo.available_timezones())

    def page(number):
        return random.choice([
            get("/", Cookie=f"tz={random.choice(zones)}"),
            get(f"/?range={random.choice(['24h', '7d', '30d', '1y'])}",
                Cookie=f"tz={random.choice(zones)}"),
            get("/channels/1/charts/1?yaxismin=-1e308&yaxismax=1e308")])
    me.in_threads(*[lambda n=n: me.ask_again_and_again(endless(page), 443, n % 4)
                    for n in range(20)])


ATTACKS = (slow_heads, slow_bodies, wrong_keys, huge_keys, long_digits, large_feeds, never_reads,
           exports, bulks, new_pages)


def main(name, http, https, seconds):
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    number, attack = next((n, a) for n, a in enumerate(ATTACKS) if a.__name__ == name)
    me = Attacker(number, {80: int(http), 443: int(https)}, float(seconds))
    attack(me)
    print(json.dumps(me.statuses))


if __name__ == "__main__":
    main(*sys.argv[1:])
