"""Engines that readings are forwarded to: real ones, as processes, and what they hold."""
import collections
import contextlib
import csv
import io
import json
import signal
import socket
import subprocess
import urllib.parse
import urllib.request

from harness import wait_for
from tools import need

INFLUXDB = """
reporting-disabled = true
bind-address = "127.0.0.1:{rpc}"
[meta]
  dir = "{folder}/meta"
[data]
  dir = "{folder}/data"
  wal-dir = "{folder}/wal"
  query-log-enabled = false
[http]
  bind-address = "127.0.0.1:{port}"
  log-enabled = false
  max-body-size = {most}
[monitor]
  store-enabled = false
"""


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as channel:
        return channel.getsockname()[1]


def get(url, data=None):
    with urllib.request.urlopen(url, data, timeout=20) as answer:
        return answer.read().decode()


class Engine:
    """A process that can be killed and started again on its folder and port."""

    def __init__(self, folder, port=None):
        folder.mkdir(exist_ok=True)
        self.folder, self.port, self.process = folder, port or free_port(), None
        self.start()

    @property
    def base(self):
        return f"http://127.0.0.1:{self.port}"

    def start(self):
        with (self.folder / "log").open("a") as log:
            self.process = subprocess.Popen(self.command(), stdout=log, stderr=log,
                                            stdin=subprocess.DEVNULL)
        wait_for(self.is_ready, 40)
        return self

    def is_ready(self):
        assert self.process.poll() is None, (self.folder / "log").read_text()[-2000:]
        with contextlib.suppress(OSError):
            get(self.base + self.health)
            return True
        return False

    def stop(self, number=signal.SIGKILL):
        self.process.send_signal(number)
        self.process.wait(30)

    def close(self):
        if self.process.poll() is None:
            self.stop()


class InfluxDB(Engine):
    """Version 1, with the database iot."""
    health = "/ping"

    def __init__(self, folder, port=None, most=25_000_000):
        self.most = most
        super().__init__(folder, port)

    def command(self):
        file = self.folder / "influxdb.conf"
        file.write_text(INFLUXDB.format(folder=self.folder, port=self.port, rpc=free_port(),
                                        most=self.most))
        return [need("influxd"), "-config", file]

    def query(self, text):
        return json.loads(get(f"{self.base}/query?" + urllib.parse.urlencode(
            {"db": "iot", "epoch": "ms", "q": text}), b""))["results"][0].get("series", [])

    def create(self):
        self.query("CREATE DATABASE iot")
        return self

    @property
    def url(self):
        return f"{self.base}/write?db=iot"

    def points(self):
        """{(station, field): {ms: value}}."""
        found = collections.defaultdict(dict)
        for series in self.query('SELECT value FROM iotserver GROUP BY station, "field"'):
            tags = series["tags"]
            found[tags["station"], int(tags["field"])] |= dict(series["values"])
        return dict(found)


class VictoriaMetrics(Engine):
    """A single node."""
    health = "/health"

    def __init__(self, folder, port=None, retention="100y"):
        self.retention = retention
        super().__init__(folder, port)

    def command(self):
        return [need("victoria-metrics"), f"-storageDataPath={self.folder}/data",
                f"-httpListenAddr=127.0.0.1:{self.port}", f"-retentionPeriod={self.retention}",
                "-dedup.minScrapeInterval=1ms", "-memory.allowedPercent=10"]

    @property
    def url(self):
        return f"{self.base}/write?db=iot"

    def points(self):
        found = collections.defaultdict(dict)
        text = get(f"{self.base}/api/v1/export?" + urllib.parse.urlencode(
            {"match[]": '{__name__="iotserver_value"}', "start": 0, "end": 4e9}))
        for row in map(json.loads, text.splitlines()):
            metric = row["metric"]
            found[metric["station"], int(metric["field"])] |= dict(
                zip(row["timestamps"], row["values"], strict=True))
        return dict(found)


class Agent(Engine):
    """vmagent in front of some nodes: each gets all."""
    health = "/health"

    def __init__(self, folder, *nodes):
        self.nodes = nodes
        super().__init__(folder)

    def command(self):
        return [need("vmagent"), f"-httpListenAddr=127.0.0.1:{self.port}",
                f"-remoteWrite.tmpDataPath={self.folder}/queue",
                "-remoteWrite.flushInterval=100ms",
                *(f"-remoteWrite.url={node.base}/api/v1/write" for node in self.nodes)]

    @property
    def url(self):
        return f"{self.base}/write?db=iot"


def exported(text, to_time):
    """{(station, field): {ms: value}} of what --export says: the numbers."""
    found = collections.defaultdict(dict)
    for row in csv.DictReader(io.StringIO(text)):
        with contextlib.suppress(ValueError):
            found[row["station"], int(row["field"])][to_time(row["time"])] = float(row["value"])
    return dict(found)
