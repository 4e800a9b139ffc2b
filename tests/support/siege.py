"""All attackers at once, and what a station, a visitor and the machine notice of them."""
import contextlib
import http.client
import itertools
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

from attackers import ATTACKS
from droplet import PHONE, STATION
from harness import INSIDE, bulk, environment, memory, request, update_path

ATTACKER = Path(__file__).with_name("attackers.py")
FLAGS = ("--rate-limit", "60")
HEALTHY = [SimpleNamespace(name=f"healthy {n}", mac=f"aa:{n}", key=f"HEALTHY{n}")
           for n in range(5)]       # of whom each sends once a second, as often as is allowed
PAUSES = {"station": 0.2, "visitor": 0.25}      # s from one question to the next
SLOWEST = {"station": 0.1, "visitor": 1.0}      # s for 99 % of the answers, or twice what it takes
                                                # in peace, if that is more
QUIET = 4                           # s of peace before
MOST_MEMORY = 100_000_000


class Watch:
    """Asks again and again, and notes the seconds that each answer took, until the block ends."""

    def __init__(self, ask, pause):
        self.ask, self.pause = ask, pause
        self.seconds, self.failures = [], []
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self.run)

    def run(self):
        while not self.ended.is_set():
            started = time.perf_counter()
            try:
                self.ask()
            except (OSError, AssertionError, http.client.HTTPException) as error:
                self.failures.append(repr(error)[:200])
            self.seconds.append(time.perf_counter() - started)
            self.ended.wait(max(0, self.pause - self.seconds[-1]))

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *error):
        self.ended.set()
        self.thread.join()

    def quantile(self, share):
        return sorted(self.seconds)[min(len(self.seconds) - 1, int(len(self.seconds) * share))]


def prepare(made):
    """The healthy stations, and entries enough for the largest feed."""
    for one in HEALTHY:
        subprocess.run([sys.executable, made.script, "--db", made.home / "iot.db", "--add-station",
                        one.name, "--mac", one.mac, "--key", one.key], check=True,
                       env=environment(), stdout=subprocess.DEVNULL)
    for _ in range(10):
        body = bulk(INSIDE, *[(1, n) for n in range(960)])
        with made.straight() as channel:
            channel.sendall(request("POST", "/update", body, Connection="close"))
            assert b" 200 " in channel.recv(100)


def station(made):
    """A connection, and what sends on it an update of the next of the healthy stations."""
    client = http.client.HTTPConnection("localhost", timeout=20)
    turns = itertools.cycle(HEALTHY)

    def update():
        if client.sock is None:
            client.sock = made.http(STATION).connect()
        try:
            client.request("GET", update_path(next(turns), 21.5))
            response = client.getresponse()
            assert (response.status, response.read().isdigit()) == (200, True), response.status
        except (OSError, http.client.HTTPException):
            client.close()
            raise
    return client, update


def visitor(made):
    """One page for somebody who comes for the first time."""
    def look():
        response = made.https(PHONE).get("/", Accept="text/html")
        assert (response.status, b"</main>" in response.body) == (200, True), response.status
    return look


def is_in_peace(made):
    started = time.monotonic()
    with contextlib.suppress(OSError):
        return made.https(PHONE).get("/healthz").status == 200 and time.monotonic() < started + 0.5
    return False


def proxy_memory(made):
    """Of all processes of nginx, in bytes."""
    number = made.nginx.pid
    children = Path(f"/proc/{number}/task/{number}/children").read_text().split()
    return sum(int(Path(f"/proc/{n}/statm").read_text().split()[1]) for n in (number, *children)
               ) * os.sysconf("SC_PAGE_SIZE")


def bytes_in(*paths):
    return sum(path.stat().st_size for path in paths if path.exists())


def besiege(made, seconds, names=None):
    """The figures of so many seconds under all attacks, or the named ones."""
    client, update = station(made)
    quiet = {"station": Watch(update, PAUSES["station"]),
             "visitor": Watch(visitor(made), PAUSES["visitor"])}
    with quiet["station"], quiet["visitor"]:
        time.sleep(QUIET)
    files = [made.folder / "iotserver.log"], [made.home / "iot.db", made.home / "iot.db-wal"]
    sizes, most, most_of_nginx = [bytes_in(*paths) for paths in files], 0, 0
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.closing(client))
        healthy = stack.enter_context(Watch(update, PAUSES["station"]))
        pages = stack.enter_context(Watch(visitor(made), PAUSES["visitor"]))
        # Their processors are elsewhere, in truth: so they get what is left of these.
        attacks = {attack.__name__: stack.enter_context(subprocess.Popen(
            ["nice", "-n", "19", sys.executable, ATTACKER, attack.__name__, str(made.ports[80]),
             str(made.ports[443]), str(seconds)], stdout=subprocess.PIPE, text=True))
            for attack in ATTACKS if not names or attack.__name__ in names}
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            most = max(most, memory(made.server))
            most_of_nginx = max(most_of_nginx, proxy_memory(made))
            time.sleep(0.1)
        said = {name: json.loads(process.communicate(timeout=60)[0] or "{}")
                for name, process in attacks.items()}
    ended = time.monotonic()
    while not is_in_peace(made):
        assert time.monotonic() - ended < 60, "a minute later it is still busy with the attacks"
    return {
        "attackers": said, "station": healthy, "visitor": pages, "quiet": quiet,
        "recovery": time.monotonic() - ended, "memory": most, "nginx memory": most_of_nginx,
        "log": (bytes_in(*files[0]) - sizes[0]) / seconds,
        "disk": (bytes_in(*files[1]) - sizes[1]) / seconds}


def table(figures):
    lines = [
        f"server's memory             {figures['memory'] / 1e6:8.0f} MB at most",
        f"nginx's memory              {figures['nginx memory'] / 1e6:8.0f} MB at most",
        f"nginx's log                 {figures['log'] / 1e3:8.1f} KB/s",
        f"database                    {figures['disk'] / 1e3:8.1f} KB/s",
        f"in peace again after        {figures['recovery']:8.1f} s"]
    for name in ("station", "visitor"):
        watch = figures[name]
        lines.append(f"{name:<28}{watch.quantile(0.5) * 1e3:8.0f} ms median,"
                     f" {watch.quantile(0.99) * 1e3:.0f} ms p99"
                     f" (in peace {figures['quiet'][name].quantile(0.99) * 1e3:.0f}),"
                     f" {max(watch.seconds) * 1e3:.0f} ms at most,"
                     f" {len(watch.failures)} of {len(watch.seconds)} failed")
    lines += [f"{name:<28}{json.dumps(said)}" for name, said in figures["attackers"].items()]
    return "\n".join(lines)


def late(figures, share=0.99, patience=1):
    """Who waited too long for this share of the answers, in words; patience is with a machine that
    is busy with others."""
    found = []
    for name, goal in SLOWEST.items():
        seconds = figures[name].quantile(share)
        most = patience * max(goal, 2 * figures["quiet"][name].quantile(share))
        if seconds >= most:
            found.append(f"the {name} waited for {seconds:.3f} s, more than {most:.3f} s")
    return found


def broken(figures):
    """What else was promised and not kept, in words."""
    found = [f"{name} was no attack" for name, said in figures["attackers"].items() if not said]
    found += [f"the {name} was refused: {error}" for name in ("station", "visitor")
              for error in figures[name].failures[:3]]
    if figures["memory"] >= MOST_MEMORY:
        found.append(f"the server took more than {MOST_MEMORY / 1e6:.0f} MB")
    return found
