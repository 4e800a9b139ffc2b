"""README.md followed from top to bottom by a new user: each block is pasted, in its order."""
import contextlib
import datetime
import json
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from receivers import Receiver
from tools import ROOT, needs

pytestmark = needs("curl")
README = (ROOT / "README.md").read_text(encoding="utf-8")
VARIES = (                      # what is another on each machine and in each run
    r"\d{4}-\d\d-\d\d(T[\d:.]+Z)?", r"\b\d{13}\b", r"(?<=://)[\d.]+")
SUDO = """#!/bin/sh
# plays root: what is installed goes below a folder, and a backup that is handed over is kept
case $1 in
    systemd/install.sh) DESTDIR=$MACHINE exec "$@" ;;
    iotserver-restore)
        [ -x "$MACHINE/usr/local/bin/$1" ] && [ "$2" = - ] && exec cat > restored.db ;;
esac
exit 1
"""
SSH = """#!/bin/sh
# plays another computer: a folder
[ "$1" = pi@raspberrypi.local ] || exit 1
shift
cd "$OTHER" && exec "$@"
"""
SCP = """#!/bin/sh
cp "$1" "$2" "$OTHER/${3#pi@raspberrypi.local:}"
"""


def plain(text):
    """Without what varies, and without white space: the page wraps long lines."""
    for pattern in VARIES:
        text = re.sub(pattern, "?", text)
    return "".join(text.split())


class Guide:
    """README.md, each of whose blocks is taken in its order, and a folder to type them in."""

    def __init__(self, folder, other):
        assert not re.search("^(    |```$)", re.sub(r"(?ms)^```\w+\n.*?^```$", "", README), re.M)
        self.parts = [(part.partition("\n")[0], kind, text)
                      for part in re.split(r"(?m)^#+ ", README)
                      for kind, text in re.findall(r"(?ms)^```(\w+)\n(.*?)^```$", part)]
        for name, text in (("sudo", SUDO), ("ssh", SSH), ("scp", SCP)):
            (folder / "bin").mkdir(exist_ok=True)
            (folder / "bin" / name).write_text(text)
            (folder / "bin" / name).chmod(0o755)
        for name in ("iotserver.py", "systemd"):
            (folder / name).symlink_to(ROOT / name)
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.port = listener.getsockname()[1]
        path = f"{folder / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}"
        noon = datetime.datetime.now(datetime.UTC).hour - 12     # so it is noon here
        self.environment = {**os.environ, "IOTSERVER_PORT": str(self.port), "PATH": path,
                            "MACHINE": str(folder / "machine"), "OTHER": str(other),
                            "HOME": str(other), "TZ": f"HERE{noon:+d}"}
        self.folder, self.server = folder, None

    def take(self, heading, kind="sh"):
        found, its_kind, text = self.parts.pop(0)
        assert (found, its_kind) == (heading, kind), text
        return text.replace(":8000", f":{self.port}")

    def paste(self, heading, stdin="", swap=("", "")):
        """What a block prints."""
        block = self.take(heading)
        return self.type(block.replace(*swap) if swap[0] else block, stdin)

    def type(self, command, stdin="", folder=None):
        """Run it in a shell that knows the variables of those before; what it prints."""
        variables = self.folder / "variables"
        done = subprocess.run(
            ["bash", "-aec", f"{command}\nenv -0 > '{variables}'"], cwd=folder or self.folder,
            env=self.environment, capture_output=True, text=True, input=stdin, check=False,
            timeout=60)
        assert done.returncode == 0, (command, done.stdout, done.stderr)
        self.environment = dict(line.split("=", 1) for line in
                                variables.read_text().split("\0") if "=" in line)
        return done.stdout.replace(f":{self.port}", ":8000")

    def fail(self, command):
        """What a command says that does not work."""
        done = subprocess.run(["bash", "-c", command], cwd=self.folder, env=self.environment,
                              capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 1, (command, done.stdout, done.stderr)
        return done.stderr

    def start(self, heading, last=None, folder=None):
        """Paste a block whose last line starts the server; what that prints first."""
        *before, line = (last or self.take(heading)).splitlines()
        if before:
            self.type("\n".join(before), folder=folder)
        self.server = subprocess.Popen(
            ["bash", "-c", f"exec {line.replace('0.0.0.0', '127.0.0.1')}"], text=True,
            cwd=folder or self.folder, env=self.environment, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT)
        return self.server.stdout.readline()

    def stop(self):
        """Ctrl-C."""
        if self.server:
            self.server.send_signal(2)
            self.server.communicate(timeout=30)
            self.server = None

    def page(self):
        text = self.type(f"curl -s http://127.0.0.1:{self.port}/")
        return " ".join(re.sub("(?s)<style.*?</style>|<.*?>", " ", text).split())

    def send(self, station, value, *ages):
        for age in ages:
            self.type(f'curl -sf -H "X-API-Key: ${station.upper()}" http://127.0.0.1:{self.port}'
                      f"/update/mac={MACS[station]}/field=1/data={value}/age={age}")


MACS = dict(re.findall(r"--add-station (\w+) --role \w+ --mac (\w+)", README))


def wait_for(condition):
    for _ in range(600):
        if condition():
            return
        time.sleep(0.1)
    pytest.fail("it did not come")


@pytest.fixture
def guide(tmp_path):
    folder, other = tmp_path / "iotserver", tmp_path / "other"
    folder.mkdir()
    other.mkdir()
    guide = Guide(folder, other)
    yield guide
    guide.stop()


def lie_side_by_side(guide):
    """An hour of two thermometers, one of which says 0.4 °C too much."""
    now = datetime.datetime.now(datetime.UTC)
    rows = [f"{now - datetime.timedelta(minutes=90 - minute):%Y-%m-%dT%H:%M:%SZ},{name},"
            f"{MACS[name]},1,{20 + extra + minute % 7 / 10:.1f},"
            for minute in range(60) for name, extra in (("inside", 0.4), ("outside", 0))]
    guide.type("python3 iotserver.py --import -",
               "time,station,mac,field,value,entry\n" + "\n".join(rows) + "\n")


def test_each_block_does_what_the_page_says(guide, tmp_path):     # noqa: PLR0915
    # Try it
    assert "serves" in guide.start("Try it")
    assert re.search("windows .* inside .* outside ", guide.page())
    guide.stop()
    screenless, = re.findall("`(python3 iotserver.py --demo .*?)`", README)
    assert " serves http://" in guide.start("", screenless)
    guide.stop()
    assert not list(guide.folder.glob("*.db"))
    # Quick start
    assert re.search(r"serves http://\S+/ from \S*iot\.db, 0 stations",
                     guide.start("Quick start"))
    said = guide.paste("Quick start")
    keys = re.findall("its API key, shown only now: (.*)", said)
    guide.environment |= dict(zip(("INSIDE", "OUTSIDE"), keys, strict=True))
    inside, outside = re.findall("(?m)^curl .*", said.replace(":8000", f":{guide.port}"))
    shown, wanted = re.search("change `(.*?)` to `(.*?)`", README).groups()
    assert shown in outside
    assert [guide.type(inside), guide.type(outside.replace(shown, wanted))] == ["1", "1"]
    verdict, = re.findall(r"says \*(Open.*?)\*", " ".join(README.split()))
    assert verdict.replace("windows. ", "windows ") in guide.page()
    told, = re.findall(r"It prints `(inside: .*?)`", " ".join(README.split()))
    assert guide.paste("Quick start").strip() == told
    example, = re.findall(r'`({"verdicts".*?)`', README, re.DOTALL)
    assert plain(guide.type(f"curl -s http://127.0.0.1:{guide.port}/api/verdict")) == plain(
        example.replace("\n", " "))
    # On a Raspberry Pi
    guide.paste("On a Raspberry Pi")
    assert (guide.folder / "restored.db").read_bytes().startswith(b"SQLite format 3\0")
    assert (guide.folder / "machine/etc/systemd/system/iotserver.service").exists()
    # Two thermometers that disagree
    lie_side_by_side(guide)
    said = guide.paste("Two thermometers that disagree")
    assert said == guide.take("Two thermometers that disagree", "text")
    guide.type(said.splitlines()[-1])
    assert "+0.00 °C" in guide.type("python3 iotserver.py --compare inside outside")
    guide.type("python3 iotserver.py --edit-station inside --offset 0")
    # Bought weather stations
    said = guide.paste("Bought weather stations")
    path = re.search(r"Ecowitt: +Path: +(\S+)", said)[1]
    assert guide.type(f"curl -sf http://127.0.0.1:{guide.port}{path} -d tempf=68 -d tempinf=70 "
                      "-d dateutc=now").strip() == "success"
    assert "garden inside" in guide.type("python3 iotserver.py --stations")
    # Messages
    guide.paste("Messages")
    topic = guide.environment["TOPIC"]
    assert re.fullmatch("windows-[0-9a-f]{16}", topic)
    with contextlib.closing(Receiver()) as phone:
        guide.paste("Messages", swap=("ntfys://ntfy.sh", f"ntfy://127.0.0.1:{phone.port}"))
        assert [request.json["topic"] for request in phone.requests] == [topic]
        guide.stop()
        guide.start("Messages")
        guide.send("outside", 33, 1500, 1440, 1380)
        guide.send("inside", 27, 180, 120, 60, 0)
        guide.send("outside", 20, 180, 120, 60, 0)
        wait_for(lambda: len(phone.messages) > 1)
        assert "Open the windows" in json.dumps(phone.messages[1])
        guide.stop()
    del guide.environment["IOTSERVER_NOTIFY"]
    # Keeping it running
    keep_it_running(guide, tmp_path / "other/iotserver")
    # HTTP
    guide.start("", "python3 iotserver.py")
    told, = re.findall('(?s)They answer .*?`({"stored".*?})`', README)
    guide.paste("HTTP", f"{keys[1]}\n")
    said = guide.paste("HTTP").split()
    assert said[0] == said[1]
    assert re.sub(r"\d+", "N", said[2]) == re.sub(r"\d+", "N", told)
    assert json.loads(said[2])["stored"] == 2
    assert guide.parts == []


def keep_it_running(guide, other):
    guide.start("", "python3 iotserver.py")
    table = README.split("\n## Keeping it running\n")[1].split("\n\n**Back up")[0]
    recipes = re.findall(r"(?m)^\| ([\w ]+) \| `(.*?)` \|", table)
    assert [name for name, _ in recipes] == ["prune", "correct", "have CSV"]
    for _, command in recipes:
        guide.type(command)
    assert "imported 0 readings; " in guide.type("python3 iotserver.py --import all.csv")
    assert " readings, " in guide.paste("Keeping it running")               # back up
    everything = guide.type("python3 iotserver.py --export -")
    guide.send("inside", 99, 0)
    guide.stop()
    assert guide.paste("Keeping it running").strip() == "ok"                # restore
    assert guide.type("python3 iotserver.py --export -") == everything
    guide.paste("Keeping it running")                                       # move
    assert {path.name for path in other.iterdir()} == {"iotserver.py", "backup.db"}
    assert "4 stations" in guide.start("Keeping it running", folder=other)
    assert guide.type("python3 iotserver.py --export -", folder=other) == everything
    guide.send("inside", 26, 0)
    guide.stop()
    password, serving = guide.take("Keeping it running").split(" &&\n")
    guide.type(password, "a long secret\n")
    guide.start("", serving)
    ask = f"curl -s -o page -w '%{{http_code}}' http://127.0.0.1:{guide.port}/"
    assert guide.type(ask) == "401"
    assert guide.type(f"{ask} -u ':a long secret'") == "200"      # the user name is empty
    guide.stop()


# -- troubleshooting ------------------------------------------------------------------------------


def table_of(heading):
    """Each row's symptom, and the commands that it says to type."""
    table = README.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    found = [line.split("|")[1:-1] for line in table.splitlines() if line.startswith("| ")]
    return [(cells[0], re.findall("`(python3 .*?)`", cells[2])) for cells in found[1:]]


def test_each_command_of_the_troubleshooting_mends_what_its_row_is_about(   # noqa: PLR0915
        guide, tmp_path):
    rows = table_of("Troubleshooting")
    typed = []

    def mend(symptom):
        """The commands of the row of this symptom."""
        row, = [row for row in rows if symptom in row[0]]
        typed.append(row)
        return row[1]

    assert "iotserver needs Python 3.11 or newer" in Path(ROOT / "iotserver.py").read_text()
    assert mend("`iotserver needs Python 3.11 or newer`") == []
    # two servers
    guide.start("", "python3 iotserver.py")
    symptom, = re.findall("`(iot.db is in use .*?)`", rows[1][0])
    assert symptom in guide.fail("python3 iotserver.py")
    assert mend(symptom) == []
    said = guide.fail("python3 iotserver.py --db other.db")
    assert f"{guide.port}: Address already in use; try --port {guide.port + 1}" in said
    command, = mend(f"{said.partition(' port ')[0][11:]} port 8000: Address already in use")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        free = listener.getsockname()[1]
    first, guide.server = guide.server, None
    other = tmp_path / "other"
    (other / "iotserver.py").symlink_to(ROOT / "iotserver.py")
    assert f":{free}/" in guide.start("", command.replace("8001", str(free)), folder=other)
    guide.stop()
    guide.server = first
    # a name of one's own domain
    ask = f"curl -s -H 'Host: pi.example.net:8000' http://127.0.0.1:{guide.port}/verdict.txt"
    said = guide.type(ask)
    assert "is not known to be a name of this server" in said
    link, = mend("`is not known to be a name of this server`")
    assert said.split()[-2:] == link.split()[-2:]       # it prints what the row has
    guide.stop()
    guide.start("", link)
    assert "No answer yet" in guide.type(ask)
    guide.stop()
    reached, = mend("the phone cannot open the page")
    assert " serves http://" in guide.start("", reached)
    # a wrong key, a role that is missing
    for name in ("inside", "outside"):
        guide.type(f"python3 iotserver.py --add-station {name} --mac {name} --role "
                   f"{name.replace('outside', 'none')}")
    update = f"curl -s http://127.0.0.1:{guide.port}/update/mac=outside/field=1/data=20/API_key="
    symptom = "wrong API key or unknown MAC"
    assert guide.type(f"{update}x").strip() == symptom
    stations, renew = mend(symptom)
    assert re.search("outside +- +outside", guide.type(stations))
    key = re.search("shown only now: (.*)", guide.type(renew))[1]
    assert guide.type(update + key).strip() == "1"
    look = f"curl -s http://127.0.0.1:{guide.port}/verdict.txt"
    assert "No answer yet" in guide.type(look)
    guide.type(*mend("`No answer yet`"))
    assert "No answer yet" not in guide.type(look)
    # messages
    command, = mend("no message arrives")
    with contextlib.closing(Receiver()) as phone:
        guide.environment["IOTSERVER_NOTIFY"] = f"ntfy://127.0.0.1:{phone.port}/topic"
        guide.type(command)
        assert len(phone.requests) == 1
    assert "1 of 1 destinations did not accept the message" in guide.fail(command)
    del guide.environment["IOTSERVER_NOTIFY"]
    # too many guesses, a full disk
    guide.type(f"for n in $(seq 100); do {update}$n; done")
    assert mend("too many wrong keys from your address") == []
    assert "too many wrong keys from your address" in guide.type(f"{update}y")
    assert guide.type(*mend("`the disk is full`")) == "ok\n"
    assert [row for row in rows if row[1] and row not in typed] == []
