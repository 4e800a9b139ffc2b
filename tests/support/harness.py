"""The server under test: in this process without a socket, or as a real process."""
import asyncio
import base64
import contextlib
import http.client
import json
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import types
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import hypothesis
import pytest
from forks import Forks

import iotserver

SCRIPT = Path(iotserver.__file__).resolve()
INSIDE = SimpleNamespace(name="inside", mac="5c:cf:7f:3b:0d:e8", key="GTW89NF3")
OUTSIDE = SimpleNamespace(name="outside", mac="6c:rf:7f:2b:0e:g8", key="TGS894F")
STATIONS = (INSIDE, OUTSIDE)
NOON = 1_532_952_000_000        # 2018-07-30T12:00:00Z in ms
DAY = 86_400_000
PASSWORD = "open sesame 22 °C"
HANGS = 60                      # s after which something hangs, however busy the machine is
HEADER = "time,station,mac,field,value,entry"
CLOCK = Path(__file__).with_name("clock.py")
# Python code: a program started as systemd starts it, with the socket of that number.
ACTIVATE = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1")
os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
"""

hypothesis.settings.register_profile(
    "project", deadline=None, derandomize=os.environ.get("CI") == "true",
    suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("project")


# -- bytes of HTTP --------------------------------------------------------------------------------


class Response(NamedTuple):
    status: int
    headers: dict[str, str]     # names in lower case
    body: bytes

    @property
    def text(self):
        return self.body.decode()

    @property
    def json(self):
        return json.loads(self.body, parse_constant=lambda name: pytest.fail(f"{name} in JSON"))


def basic(password, name="household"):
    """The header Authorization of HTTP's basic scheme."""
    return "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()


def request(method, path, body=b"", version="1.1", **headers):
    """The bytes of one request; X_API_Key=... becomes the header X-API-Key."""
    if version == "1.1":
        headers.setdefault("Host", "localhost")
    if body:
        headers.setdefault("Content-Length", len(body))
    lines = [f"{method} {path} HTTP/{version}",
             *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def update_path(station, data, field=1, more=""):
    return f"/update/API_key={station.key}/mac={station.mac}/field={field}/data={data}{more}"


def bulk(station, *readings, **more):
    """The JSON body of a POST: each reading a dict or (field, data)."""
    return json.dumps({"mac": station.mac, "api_key": station.key, "readings": [
        r if isinstance(r, dict) else {"field": r[0], "data": r[1]} for r in readings],
        **more}).encode()


def parse_responses(raw, methods=()):
    """All responses in raw; methods of the requests matter for HEAD only."""
    responses = []
    while raw:
        head, blank, raw = raw.partition(b"\r\n\r\n")
        assert blank, f"not a whole head: {head!r}"
        line, *lines = head.decode("latin-1").split("\r\n")
        status = re.fullmatch(r"HTTP/1\.1 (\d{3}) [ -~]+", line)
        assert status, line
        headers = {name.lower(): value for name, value in (x.split(": ", 1) for x in lines)}
        if int(status[1]) == 100 or methods[len(responses):len(responses) + 1] == ["HEAD"]:
            body = b""
        elif "content-length" in headers:
            length = int(headers["content-length"])
            body, raw = raw[:length], raw[length:]
            assert len(body) == length, "the body was cut off"
        elif headers.get("transfer-encoding") == "chunked":
            body, raw = unchunk(raw)
        else:
            body, raw = raw, b""
        responses.append(Response(int(status[1]), headers, body))
    return responses


def unchunk(raw):
    """The body of a chunked answer, and what is behind it."""
    body = b""
    while True:
        size, newline, raw = raw.partition(b"\r\n")
        assert newline, "the last chunk is missing"
        length = int(size, 16)
        body, end, raw = body + raw[:length], raw[length:length + 2], raw[length + 2:]
        assert end == b"\r\n"
        if not length:
            return body, raw


def add_console(writer, name, mac, key, now):
    """Register a console, by the name and MAC of its station outside, as the command does."""
    outside, *others = iotserver.console_stations(name, mac)
    writer.add_station(*outside[:3], key, now, outside.labels, others)


def wait_for(condition, seconds=HANGS):
    """What condition() says, as soon as it is true."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, f"not within {seconds} s: {condition}"
        time.sleep(0.01)
    return found


finish = iotserver.finish       # the result of long work that has nobody to wait for


@types.coroutine
def let_go():
    yield


def stepwise(work):
    """Long work that rests at each of its pauses: next() takes it to the next one."""
    while True:
        before = iotserver.SHARE.set(let_go)
        try:
            work.send(None)
        except StopIteration as done:
            return done.value
        finally:
            iotserver.SHARE.reset(before)
        try:
            yield
        except GeneratorExit:
            work.close()
            raise


# -- a database ---------------------------------------------------------------------------------


def environment(**more):
    """Ours without what would reach into the server, and with every warning on stderr."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(
        ("IOTSERVER_", "LISTEN_", "NOTIFY_", "WATCHDOG_", "STATE_DIRECTORY", "PYTHONDEVMODE"))}
    return {**kept, "PYTHONWARNINGS": "default", **more}


@pytest.fixture(scope="session")
def template(tmp_path_factory):
    """A database with both stations, made by the command line."""
    path = tmp_path_factory.mktemp("template") / "iot.db"
    for s in STATIONS:
        subprocess.run([sys.executable, SCRIPT, "--db", path, "--add-station", s.name, "--mac",
                        s.mac, "--role", s.name, "--key", s.key], check=True, timeout=60,
                       stdout=subprocess.DEVNULL, env=environment())
    return path


def rows_of(path):
    """All readings: (time, station, mac, field, value, entry), in the order of an export."""
    with contextlib.closing(iotserver.Reader(path)) as reader:
        return [tuple(row) for station in reader.stations() for row in reader.rows(station)]


def problems_of(path):
    with contextlib.closing(iotserver.Reader(path)) as reader:
        return [text for found in reader.check(lambda fraction: None) for text in found]


# -- in this process ------------------------------------------------------------------------------


class Client:
    """What can be asked of a server, given ask(method, path, body, **headers) -> Response."""

    def get(self, path, **headers):
        return self.ask("GET", path, **headers)

    def update(self, station, data, field=1, more=""):
        """Store one reading; its entry number."""
        response = self.get(update_path(station, data, field, more))
        assert response.status == 200, response
        return int(response.body)


def settings(**flags):
    """What the command line means: settings(rate_limit=60)."""
    args = iotserver.build_parser({}).parse_args([
        f"--{name.replace('_', '-')}={value}" for name, value in flags.items()])
    iotserver.parse_settings(args)
    return args


class Loop(asyncio.SelectorEventLoop):
    """An event loop that runs until nothing is left to do at once."""

    def run(self):
        while self._ready:
            self.call_soon(self.stop)
            self.run_forever()

    def close(self):
        for task in asyncio.all_tasks(self):
            task.cancel()
        self.run()
        super().close()


class Wire:
    """What a connection uses of a transport: keeps what is written."""

    def __init__(self, peer):
        self.peer, self.sent, self.is_paused, self.is_closed = peer, b"", False, False

    def get_extra_info(self, name):
        return self.peer if name == "peername" else ("127.0.0.1", 80)

    def write(self, data):
        assert not self.is_closed
        self.sent += data

    def close(self):
        self.is_closed = True

    write_eof = abort = close

    def is_closing(self):
        return self.is_closed

    def pause_reading(self):
        self.is_paused = True

    def resume_reading(self):
        self.is_paused = False

    def get_write_buffer_size(self):
        return 0


class InProcess(Client):
    """A Server on a real file, with clocks that stand still; bytes in, bytes out."""

    def __init__(self, path, **flags):
        self.time = NOON / 1000
        self.peer = ("127.0.0.1", 9)    # "": the proxy, on a unix socket
        self.path = path
        self.writer = iotserver.Writer(path)
        self.reader = iotserver.Reader(path)
        self.server = iotserver.Server(settings(**{"rate_limit": 0, **flags}), self.writer,
                                       self.reader, lambda: self.time, lambda: self.time)
        self.server.loop = Loop()

    def connect(self):
        """A connection without a socket; what it sends is in connection.transport.sent."""
        connection = iotserver.Connection(self.server)
        connection.connection_made(Wire(self.peer))
        return connection

    def exchange(self, raw):
        """All bytes that a client sends to all bytes that it gets; updates are committed."""
        connection = self.connect()
        connection.data_received(raw)
        self.server.loop.run()
        while self.server.guard and (checks := self.server.guard.checks):
            self.server.loop.run_until_complete(asyncio.wait(checks.values()))
            self.server.loop.run()
        connection.connection_lost(None)
        return connection.transport.sent

    def ask(self, method, path, body=b"", **headers):
        """The one response to one request."""
        raw = self.exchange(request(method, path, body, **headers))
        response, = parse_responses(raw, [method])
        return response

    def tell_news(self):
        """As a server does each second."""
        self.server.turn.end()
        finish(iotserver.tell_news(self.server))

    def rows(self):
        """What is stored: lists of time, station, field, value and entry, as texts."""
        return [line.split(",") for line in self.get("/export.csv").text.splitlines()[1:]]

    def close(self):
        self.server.loop.close()
        self.reader.close()
        self.writer.close()


@pytest.fixture(scope="session")
def password_file(tmp_path_factory):
    """What --private takes; scrypt makes it once."""
    path = tmp_path_factory.mktemp("private") / "password"
    path.write_text(iotserver.hash_password(PASSWORD, os.urandom(16)))
    return path


@pytest.fixture
def in_process(template, tmp_path):
    """Makes InProcess servers with both stations: in_process(rate_limit=60)."""
    with contextlib.ExitStack() as stack:
        def make(name="iot.db", **settings):
            path = shutil.copy(template, tmp_path / name)
            return stack.enter_context(contextlib.closing(InProcess(path, **settings)))
        yield make


@pytest.fixture
def server(in_process):
    return in_process()


# -- as processes ---------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def forks():
    with contextlib.closing(Forks(SCRIPT, environment())) as forks:
        yield forks


@pytest.fixture
def run(forks, tmp_path):
    """Calls the command line in tmp_path, where iot.db is; checks its status and its stderr."""
    def run(*args, status=0, stdin="", stderr="", env=None):
        done = forks.run([*map(str, args)], tmp_path, environment(**env or {}), stdin)
        assert "Traceback" not in done.stderr, done
        if status is None:              # done before, or now
            assert done.returncode in {0, 1}, done
            return done.stdout
        assert done.returncode == status, done
        if status:
            assert stderr in done.stderr
            assert done.stderr
        else:
            assert done.stderr == stderr
        return done.stdout
    return run


@pytest.fixture
def database(template, tmp_path):
    """tmp_path/iot.db with both stations: what the command line uses there."""
    return Path(shutil.copy(template, tmp_path / "iot.db"))


class Dialer(Client):
    """A client with a new connection for each question; connect() makes it."""

    def talk(self, raw, half_close=False, methods=()):
        """Send raw on a new connection; all responses until the server closes it."""
        with self.connect() as channel:
            channel.sendall(raw)
            if half_close:
                channel.shutdown(socket.SHUT_WR)
            return parse_responses(receive(channel), list(methods))

    def ask(self, method, path, body=b"", **headers):
        response, = self.talk(request(method, path, body, Connection="close", **headers),
                              methods=[method])
        return response


class Live(Dialer):
    """A real server process in a folder, on iot.db there and a free port."""

    def __init__(self, folder, *flags, env=None, forks=None, command=(SCRIPT,), prefix=(),
                 **popen):
        self.db = folder / "iot.db"
        self.log = (folder / "stderr").open("w+")
        self.expected = ""              # a regular expression for the whole of stderr
        flags = ["--port", "0", *flags]
        env = environment(**env or {})
        self.process = forks.serve(flags, folder, env, self.log) if forks else subprocess.Popen(
            [*prefix, sys.executable, *command, *flags], cwd=folder, text=True, env=env,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=self.log, **popen)
        self.line = self.process.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:(\d+)/", self.line)
        self.port = int(found[1]) if found else None

    def connect(self, timeout=HANGS):
        return socket.create_connection(("127.0.0.1", self.port), timeout)

    def client(self):
        """A kept-alive connection; use with contextlib.closing."""
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=HANGS)

    def rows(self):
        return [line.split(",") for line in self.get("/export.csv").text.splitlines()[1:]]

    def kill(self):
        """As a power cut would: no time for anything."""
        self.process.kill()
        self.process.wait(HANGS)

    def stop(self):
        """SIGTERM; the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(HANGS)

    def check_end(self):
        """At the end of a test: it ends in time with status 0, and has said nothing."""
        try:
            if self.process.poll() is None:
                assert self.stop() == 0
            self.log.seek(0)
            said = self.log.read()
            assert re.fullmatch(self.expected, said), said
        finally:
            if self.process.poll() is None:
                self.kill()
            self.process.stdout.close()
            self.log.close()


def memory(live):
    """Bytes of the server's process that are in memory."""
    return int(Path(f"/proc/{live.process.pid}/statm").read_text().split()[1]) * (
        resource.getpagesize())


def descriptors(live):
    """How many files and sockets the server has open."""
    return len(list(Path(f"/proc/{live.process.pid}/fd").iterdir()))


def processor_seconds(live):
    """What the server has used so far: however busy the machine is, it is the same."""
    fields = Path(f"/proc/{live.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def receive(channel):
    """All that comes until the other side closes."""
    return b"".join(iter(lambda: channel.recv(65536), b""))


def read_until(channel, text, data=b""):
    """What comes up to and with text."""
    while text not in data:
        piece = channel.recv(65536)
        assert piece, f"closed before {text!r}: {data!r}"
        data += piece
    return data


@pytest.fixture
def serve(forks, tmp_path):
    """Starts real servers in tmp_path: serve("--rate-limit", "0"); each is checked at the end."""
    started = []

    def serve(*flags, **options):
        if options.keys() <= {"env"} and all(
                name.startswith("IOTSERVER_") for name in options.get("env", ())):
            options["forks"] = forks
        started.append(Live(tmp_path, *flags, **options))
        return started[-1]
    yield serve
    with contextlib.ExitStack() as stack:
        for server in started:
            stack.callback(server.check_end)


@pytest.fixture
def live(database, serve):
    """A real server with both stations and no rate limit."""
    return serve("--rate-limit", "0")


@pytest.fixture
def many_files():
    """As many sockets in this process as the system allows."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    yield before[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.fixture
def public_folder():
    """A folder that other users may enter, unlike pytest's."""
    folder = Path(tempfile.mkdtemp(prefix="iotserver-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)
