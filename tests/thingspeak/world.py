"""A real server on which each test has a station of its own, and the bytes that it answers."""
import contextlib
import json
import re
import shlex
import socket
import subprocess
import sys
import urllib.parse
from types import SimpleNamespace

from harness import SCRIPT, Live, environment, read_until, receive

import iotserver

PASSWORD = "open sesame 22"
FLAGS = {"private": ("--rate-limit", "0", "--private", "password"),
         "limited": ("--rate-limit", "2")}
WRONG = "WRONGWRONGWRONG0"


class World(Live):
    """A real server on which each test has a station of its own."""

    def __init__(self, folder, *flags):
        self.folder, self.count = folder, 0
        if "--private" in flags:
            self.command("--set-password password", stdin=PASSWORD + "\n")
        super().__init__(folder, *flags)

    def command(self, text, stdin=""):
        """What a command line prints."""
        return subprocess.run([sys.executable, SCRIPT, *shlex.split(text)], cwd=self.folder,
                              input=stdin, text=True, check=True, capture_output=True, timeout=60,
                              env=environment()).stdout

    def station(self):
        self.count += 1
        name, mac, key = f"c{self.count}", f"mac-{self.count}", f"WRITEKEY{self.count:08}"
        with contextlib.closing(iotserver.open_writer(self.db)) as writer:
            writer.add_station(name, mac, None, iotserver.hash_key(key).hex(),
                               iotserver.now_ms())
        with contextlib.closing(iotserver.Reader(self.db)) as reader:
            id, = [s.id for s in reader.stations() if s.name == name]
        return SimpleNamespace(name=name, mac=mac, key=key, id=id)

    def read_key(self, station):
        said = self.command(f"--read-key {station.name}")
        return re.search(r"shown only now: (\S+)", said)[1]

    def write(self, station, method="POST", path="/update", **values):
        """One entry; the response."""
        form = urllib.parse.urlencode({"api_key": station.key, **values})
        if method == "GET":
            return self.get(f"{path}?{form}")
        return self.ask("POST", path, form.encode())

    def bulk(self, station, updates, key=None):
        body = json.dumps({"write_api_key": key or station.key, "updates": updates}).encode()
        return self.ask("POST", f"/channels/{station.id}/bulk_update.json", body,
                        Content_Type="application/json")

    def read(self, station, path="feeds.json", **params):
        query = urllib.parse.urlencode(params)
        return self.get(f"/channels/{station.id}/{path}?{query}")

    def feeds(self, station, path="feeds.json", **params):
        response = self.read(station, path, **params)
        assert response.status == 200, response
        return response.json["feeds"]


def exchange_bytes(world, raw, has_head=True):
    """The lines of the answer's head, and its body with whatever comes behind it."""
    with world.connect(20) as channel:
        channel.sendall(raw)
        if not has_head:
            return [], receive(channel)
        head, _, body = read_until(channel, b"\r\n\r\n").partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        length, = [int(line[16:]) for line in lines if line.startswith("Content-Length: ")]
        while len(body) < length:
            body += channel.recv(65536)
        with contextlib.suppress(OSError):          # closed by the server before we could
            channel.shutdown(socket.SHUT_WR)
            body += receive(channel)
        return lines, body
