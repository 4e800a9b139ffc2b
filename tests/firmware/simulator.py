"""Starts boards, servers and a bad line between them; tells what happened."""
import contextlib
import csv
import io
import itertools
import json
import re
import socketserver
import ssl
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import NamedTuple

from tools import ROOT

HERE = Path(__file__).resolve().parent
FIRMWARE = ROOT / "firmware"
HEAP = "82k"  # fakes and all. 54 KB are left: as many words as 27 KB on the board, which has 34
MAC, KEY = "5c:cf:7f:01:02:03", "K3yK3yK3yK3y"
RESETS = 12  # of one scenario; more is a board that only resets


class Event(NamedTuple):
    at: float  # seconds of virtual time
    kind: str
    what: str


class Story:
    """What a board did: its events, what it printed, how each start ended."""

    def __init__(self, folder, output, ends):
        self.output, self.ends = output, ends
        lines = (folder / "events.txt").read_text().splitlines()
        self.events = [Event(int(at) / 1000, kind, what)
                       for at, kind, what in (line.split(" ", 2) for line in lines)]
        self.taken = {f"{int(event.what) / 16:.3f}": event.at for event in self.all("measured")}

    def all(self, kind):
        return [event for event in self.events if event.kind == kind]

    def measured(self):
        """What the thermometer said, in order; no value comes twice."""
        return list(self.taken)

    def busiest(self, kind, seconds=60):
        """The most events of a kind in any such stretch of time."""
        times = [event.at for event in self.all(kind)]
        return max((sum(start <= at < start + seconds for at in times) for start in times),
                   default=0)


class Board:
    """One board: its flash is a folder, and outlives resets as RTC memory does."""

    def __init__(self, micropython, folder, **config):
        self.micropython, self.folder = micropython, folder
        folder.mkdir()
        (folder / "state.json").write_text('{"now": 0}')
        config = {"API_KEY": KEY, "SSID": "home", "WIFI_PASSWORD": "secret", "MAC_ADDRESS": "",
                  **config}
        lines = (f"{name} = {value!r}\n" for name, value in config.items() if value is not None)
        (folder / "config.py").write_text("".join(lines))

    def live(self, end, resets=RESETS, **scenario):
        """Let it run to that second of virtual time, through at most so many resets."""
        (self.folder / "scenario.json").write_text(json.dumps({"end": end, **scenario}))
        outputs, ends = [], []
        while not ends or (ends[-1] == "reset" and len(ends) <= resets):
            outputs.append(self.start())
            ends.append(outputs[-1].rsplit("over: ", 1)[-1].strip())
        return Story(self.folder, "".join(outputs), ends)

    def start(self):
        done = subprocess.run(
            [*self.micropython, "-X", f"heapsize={HEAP}", HERE / "board.py", HERE / "fakes",
             FIRMWARE], cwd=self.folder, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


class Server:
    """The real server on a port of its own, without a limit: virtual time is in a hurry."""

    def __init__(self, folder):
        self.db = folder / "iot.db"
        self.process = subprocess.Popen(
            [sys.executable, ROOT / "iotserver.py", "--port", "0", "--db", self.db,
             "--rate-limit", "0"], stdout=subprocess.PIPE, text=True, stderr=subprocess.DEVNULL)
        self.url = re.search(r"http://[\d.:]+", self.process.stdout.readline()).group()
        self.stations = itertools.count(1)

    def add_station(self):
        number = next(self.stations)
        garden = Garden(self.url, f"garden{number}", f"{MAC[:-2]}{number:02x}", f"{KEY}{number}")
        subprocess.run([sys.executable, ROOT / "iotserver.py", "--db", self.db, "--add-station",
                        garden.name, "--mac", garden.mac, "--key", garden.key], check=True,
                       capture_output=True, timeout=60)
        return garden

    def stop(self):
        self.process.terminate()
        self.process.wait(30)
        self.process.stdout.close()


class Garden(NamedTuple):
    """One station as the server knows it."""

    url: str
    name: str
    mac: str
    key: str

    def readings(self, field="1"):
        """Rows of the export as dictionaries, in the order in which they came."""
        address = f"{self.url}/export.csv?station={self.name}&field={field}"
        with urllib.request.urlopen(address, timeout=30) as answer:
            rows = list(csv.DictReader(io.StringIO(answer.read().decode())))
        return sorted(rows, key=lambda row: int(row["entry"]))

    def values(self, field="1"):
        return [f"{float(row['value']):.3f}" for row in self.readings(field)]


class Line(socketserver.ThreadingTCPServer):
    """A proxy that spoils requests as a plan says: plan(number, path) -> None or an action.

    An action is bytes to answer with, "hang", or "swallow": the server hears, nobody answers.
    """

    daemon_threads = True
    request_queue_size = 32

    def __init__(self, upstream, plan, certificate=None):
        super().__init__(("127.0.0.1", 0), Request)
        self.plan, self.certificate = plan, certificate
        host = urllib.parse.urlsplit(upstream)
        self.upstream = (host.hostname, host.port)
        self.seen = []  # (path, real time, action)
        scheme = "https" if certificate else "http"
        self.url = f"{scheme}://127.0.0.1:{self.server_address[1]}"
        self.thread = threading.Thread(target=self.serve_forever, args=(0.05,))
        self.thread.start()

    def get_request(self):
        connection, address = super().get_request()
        if self.certificate:
            connection = board_tls(self.certificate).wrap_socket(connection, server_side=True)
        return connection, address

    def handle_error(self, request, client_address):
        """A client that goes away in the middle is what these tests are about."""

    def stop(self):
        self.shutdown()
        self.thread.join()
        self.server_close()

    def parts(self):
        """The parts of each request's path, decoded."""
        return [dict(urllib.parse.unquote(part).split("=", 1) for part in path.split("/")[2:])
                for path, _, _ in self.seen]


class Request(socketserver.StreamRequestHandler):
    timeout = 10

    def handle(self):
        head = b"".join(iter(self.rfile.readline, b"\r\n")) + b"\r\n"
        path = head.split()[1].decode()
        action = self.server.plan(len(self.server.seen), path)
        self.server.seen.append((path, time.time(), action))
        if action is None or action == "swallow":
            answer = self.forward(head)
            action = answer if action is None else b""
        if action == "hang":
            self.rfile.read()  # until the station gives up
        else:
            self.wfile.write(action)

    def forward(self, head):
        with contextlib.closing(socketserver.socket.create_connection(
                self.server.upstream, timeout=30)) as upstream:
            upstream.sendall(head)
            return b"".join(iter(lambda: upstream.recv(4096), b""))


def board_tls(certificate):
    """A server's side of the one kind of TLS that the board speaks."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("AES128-SHA256")
    context.load_cert_chain(certificate)
    return context


def script(board, text, **scenario):
    (board.folder / "scenario.json").write_text(json.dumps({"end": 1e6, **scenario}))
    path = f"import sys; sys.path[:] = [{str(HERE / 'fakes')!r}, {str(FIRMWARE)!r}, '.']\n"
    done = subprocess.run([*board.micropython, "-c", path + text], cwd=board.folder,
                          capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
