#!/usr/bin/env python3
"""iotserver: a household's own ThingSpeak in one file. Python's standard library, nothing else.

Weather stations send readings by URL, SQLite keeps them, and a phone shows at a glance
what it is inside and outside and whether to open the windows, and when.

MIT License, see LICENSE. This file is all of the server: it may be copied anywhere. Its tests,
the firmware of the stations and the guide are in the repository that it comes from: iotserver.

Architecture
    One event loop, one thread, one connection that writes. asyncio owns the sockets. The bytes of
    a request become a Request, a route makes an Answer of it, and that becomes bytes: values and
    pure functions. All updates that arrive in one turn of the loop become one transaction (group
    commit), and no byte of their answers leaves before they are on the disk. Every question is
    asked on a second, read-only connection, so it sees only what is committed. What takes long is
    done in steps, and turns come in between. No locks, because nothing is shared.

Vocabulary
    station   a device, known by its MAC; has a name, perhaps a role (inside, outside), a key
    field     1 to 9: one stream of numbers of a station (1 temperature in degrees Celsius)
    series    one field of one station, as the database knows it
    reading   one number of one series at one instant (milliseconds since 1970, UTC)
    entry     what one update stored: a number that counts up from 1 for each station
    receipt   remembers the seq of a reading, so that a repeated update is stored once
    hour      the summary of one series in one UTC hour; stays when readings are pruned
    turn      one round of the event loop; its updates are one transaction
    verdict   open, close, comfortable or unknown, with the reason
    forecast  when outside gets cooler or warmer than inside, with an interval
    outcome   what became of a forecast
    courier   the process that carries messages; the server itself never connects to anything

    parse makes a value of text and raises, find looks up and may find None, read asks a file or
    the database, take removes and hands over, say makes words of a value, render makes markup or
    bytes, admit and refuse decide, is and has are true or false.

URLs
    GET  /update/API_key=K/mac=M/field=F/data=V[/age=S][/seq=T]    store one reading
    POST /update                                                   store many, as JSON
    GET  /  /verdict.txt  /events  /export.csv  /metrics  /healthz
    GET  /api/stations  /api/readings  /api/verdict
    GET, POST  /update?api_key=K&field1=V...  /channels/ID/...     as ThingSpeak.com has them
    GET, POST  /weatherstation/...  /data/report/KEY               as bought stations send

Usage
    python3 iotserver.py --demo        everything at once, with two simulated stations
    python3 iotserver.py --help        all the rest

Refused, to stay what it is
    a second thread in the server, a second writing process, a dependency, a configuration file,
    user accounts, dashboards to assemble, plug-ins, and a reading acknowledged before it is on the
    disk
"""
# ------------------------------------------------------------------------------------------------
# 2. Imports, version, limits
#    Law: a number that limits something has a name and a reason.
# ------------------------------------------------------------------------------------------------
import argparse
import asyncio
import base64
import bisect
import collections
import contextlib
import csv
import dataclasses
import email.utils
import errno
import functools
import gc
import getpass
import gzip
import hashlib
import heapq
import hmac
import html
import http.server
import io
import ipaddress
import itertools
import json
import math
import operator
import os
import random
import re
import secrets
import shlex
import shutil
import signal
import smtplib
import socket
import sqlite3
import ssl
import statistics
import string
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import urllib.parse
import urllib.request
import zoneinfo
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta, timezone, tzinfo
from datetime import time as Clock
from email.message import EmailMessage
from http import HTTPStatus
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO, NamedTuple, NoReturn, TextIO, TypeAlias, cast

__version__ = "2.0"

MINUTE = 60_000                 # ms
HOUR = 60 * MINUTE              # ms; readings are summarized by UTC hours, which daylight saving
DAY = 24 * HOUR                 # never splits
LATEST_TIME = 4_102_444_800_000  # 2100-01-01: a later time is a wrong clock, not a reading
EARLIEST_TIME = 978_307_200_000  # 2001-01-01: clocks that nobody has set begin before

LARGEST = 1.7e308               # a sum stops here, since infinity minus infinity is no number
MAX_AGE = 2_592_000             # s, 30 days: more than a station can buffer
MAX_NUMBER = 32                 # characters of a number: any double fits in 24
MAX_TIME = 48                   # characters of a time: ISO 8601 with an offset has 32
MAX_SEQ = 32                    # characters; boot number and counter of a station fit in 20
MAX_NAME = 64                   # characters of a name: has to fit on a phone's line
MAX_MAC = 32                    # characters of a MAC
MAX_CONSOLE = 28                # of a console's: `-ch1` has to fit behind it
MAX_BULK = 960                  # readings in one POST: what ThingSpeak takes; 16 h of one a minute
RECEIPTS = 1000                 # newest entries of a station whose seq is known: a bulk at least
RECEIPT_STATIONS = 1000         # whose receipts are known in memory, with 16 KB for each

MAX_LINE = 8190                 # bytes of a request line: RFC 9112, 3 asks for 8,000 at least
MAX_HEAD = 16_384               # bytes of request line and headers: a browser sends below 2,000
MAX_HEADERS = 64                # a browser behind a proxy sends below 30
MAX_BODY = 256 * 1024           # bytes; 960 readings take below 100 KiB
PATIENCE = {                    # s that a connection may spend in a state
    "idle": 120,                # longer than nginx keeps an upstream connection idle (60)
    "head": 30,                 # a phone on a bad network needs a few
    "body": 60,
    "wait": math.inf,           # for the commit, and ours to end
    "work": math.inf,
    "stream": 60,               # since the client took the piece before
    "listen": math.inf,
    "linger": 2,                # after an error, to read the answer
}
STOP_SECONDS = 4                # SIGTERM to exit; systemd and users expect a stop within 5
ANSWER_SECONDS = 30             # for a server to answer a command, of which each step is short
LOCK_SECONDS = 10               # to wait for a command that writes: prune takes some seconds
COURIER_SECONDS = 3             # SIGTERM to exit of the courier, which goes before the server does
RESTART_SECONDS = 10            # between two starts of a courier that does not stay
TRY_SECONDS = 10                # for a destination to answer
PAUSES = (10, 300)              # s after a failed try: the first, doubled each time, and the last
MAX_WORDS = 300                 # characters of an answer that are shown
FORWARD_ROWS = 5000             # readings in one piece for an engine: as its makers advise
FORWARD_SECONDS = 0.5           # between two looks for readings that are to be forwarded
FORWARD_MEMORY = 7 * DAY        # for which it is remembered what an engine lacks
GZIP_BYTES = 1000               # a longer body is compressed
LOOK_SECONDS = 30               # for it to show what it took: VictoriaMetrics needs 5 to 10
SETTLE_SECONDS = 30             # between two notes of what an engine has
CRASH_SECONDS = 10              # of which it may lose what it has: VictoriaMetrics the last 5
SAMPLES = 20                    # readings that an engine is asked for
# An idle kept-alive connection may have a request on its way. systemd/nginx.conf drops its idle
# ones after 300 ms: as long as this is longer, no restart costs a request.
IDLE_STOP_SECONDS = 1
MAX_EVENTS = 1000               # kept for listeners that come back
MAX_PAGES = 64                  # variants of the page kept: ranges, units, time zones
MAX_TURN = 1024                 # connections answered together
CLOCK_STEP = 5                  # seconds by which a clock is set, not corrected bit by bit
TURN_SECONDS = 0.01             # that a turn is open for more of them
BACKLOG = 1024                  # connections the kernel holds while a turn is committed
MAX_ACCEPTS = 16                # of them at once: accepting all of them takes half a second
MAX_PIPELINED = 16              # requests of one connection in a turn: then others have theirs
MAX_CONNECTIONS = 8192          # each costs some 10 KB
MAX_LISTENERS = 1024            # each is written to at every event: all of them take 10 ms
MAX_BUFFER = MAX_HEAD + MAX_BODY + 65_536   # bytes; beyond, no more is read from a connection
MAX_UNFINISHED = 16_000_000     # bytes of requests that are not complete, of all connections
MAX_REMEMBERED = 2048           # bytes of a head that is remembered; a browser sends below that
MAX_HEADS = 512                 # of them: 3 MB
MAX_KNOWN = 4096                # updates remembered: two forms of 2,000 stations, 8 MB at most
MAX_UNSENT = 64 * 1024          # bytes; a listener that far behind is not reading

MAX_FIELDS = 9                  # of a station
READINGS_PER_UPDATE = 10        # of the rate limit: an update of all fields, and one more
MIN_BURST = 10_000              # readings at once: a bulk of 960 entries with all fields
TEXT_UNIT = 30                  # bytes of a text that count as one reading: what one takes on disk
MAX_SECRET = 128                # characters of a key or password: ours have 22
MAX_GUESSES = 100               # wrong keys from one address in GUESS_WINDOW: a station that has a
GUESS_WINDOW = 900              # wrong one makes 15, and always learns why
MAX_SITE_GUESSES = 1000         # from an IPv6 site of 65,536 networks
MAX_ADDRESSES = 10_000          # whose guesses are counted: some 2 MB
MAX_ADDRESS = 64                # characters; of IPv6 with a zone
MAX_CREDENTIALS = 1024          # bytes of an Authorization header that is looked at
MAX_LANGUAGE = 64               # characters of Accept-Language: the first language counts
MAX_COOKIES = 2000              # characters of cookies that are looked at; ours take 100
MIN_PASSWORD = 8                # characters; what NIST SP 800-63B asks for at least
SCRYPT = {"n": 2 ** 14, "r": 8, "p": 1}     # 16 MB and some 50 ms for each guess at the file
# s between two such, as the thread that stores does them, too: for those who have not guessed
# wrong, and for all others together.
SCRYPT_PAUSES = {False: 0.25, True: 1.0}
LOW_SPACE = 64_000_000          # bytes left on the disk beside twice the database: room for a
NO_SPACE = 16_000_000           # backup and the log. Below: no texts, no bulks; then nothing.

CHECKPOINT_PAGES = 1000         # 4 MB of log: SQLite's own figure
STEP_ROWS = 5000                # rows changed in one step of long work: updates wait some 20 ms
STEP_PAGES = 500                # pages given back in one step
PAGE_ROWS = 500                 # rows read at a time while streaming: no read transaction is held
MAX_STREAMS_PER_ADDRESS = 4
MAX_STREAMS = 32                # exports at a time; each holds so many rows for each field
MAX_WORKS = 1024                # addresses whose requests take several turns
MAX_WORKS_PER_ADDRESS = 64      # a household's phones that ask at once
MAX_ROTATION = 8                # of those addresses at a time: each may have some MB in hand
STEP_SECONDS = 0.005            # that a long job takes, and then leaves to others
STEP_ENTRIES = 500              # entries looked at in one step of such a request: some 5 ms
STEP_STATIONS = 200             # likewise stations, with all of their fields
STEP_PLACES = 50                # and those with a role, of which few have sent
MAX_SCAN = 20_000               # readings looked at for one chart; beyond, hours serve as well
MAX_FORECASTS = 16              # rooms: each takes some 0.1 s in a quarter of an hour
MAX_POINTS = 10_000             # points in one answer of /api/readings
DEFAULT_POINTS = 1000           # more than a screen has columns for
EXIT_STORAGE = 74               # EX_IOERR of sysexits.h: disk or file failed
CONTROL_LINE = 8 * 1024 * 1024  # bytes of one command on the control socket: a step of an import


def log(message: str) -> None:
    """One line on stderr; whatever a client sent cannot forge a second one."""
    text = ascii(message.strip())[1:-1]
    print(f"iotserver: {text[:2000]}", file=sys.stderr, flush=True)


def end_at_once(message: str) -> NoReturn:
    """Neither answer nor close: closing would checkpoint what may be damaged."""
    log(message)
    os._exit(EXIT_STORAGE)


# ------------------------------------------------------------------------------------------------
# 3. Settings
#    Law: one table; flags, environment, --help and the README all follow from it.
# ------------------------------------------------------------------------------------------------


class Setting(NamedTuple):
    """A flag of the server, for which the variable IOTSERVER_NAME serves too, or of a command."""
    name: str
    metavar: str | None         # None: a switch
    default: str | None         # None: of a command, and not given
    parse: Callable[[str], object]
    help: str

    @property
    def variable(self) -> str:
        return "IOTSERVER_" + self.name.upper().replace("-", "_")


class Usage(Exception):
    """The command line asks for what cannot be: exit status 2."""


def require(condition: object, message: str) -> None:
    if not condition:
        raise Usage(message)


def parse_temperature(text: str) -> float:
    """`22C` or `72F` to degrees Celsius."""
    if not (match := re.fullmatch(r"(-?\d{1,3}(?:\.\d{1,3})?)([CF])", text, re.ASCII)):
        raise Usage(f"{text!r} is no temperature; write 22C or 72F")
    return float(match[1]) if match[2] == "C" else (float(match[1]) - 32) / 1.8


def parse_count(text: str) -> int:
    require(re.fullmatch("[0-9]{1,9}", text), f"{text!r}: a whole number is needed")
    return int(text)


def parse_port(text: str) -> int:
    require(parse_count(text) < 65536, f"{text}: a number up to 65535")
    return int(text)


def one_of(*words: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        require(text in words, f"{text!r}: one of {', '.join(words)} is needed")
        return text
    return parse


def as_text(parse: Callable[[str], object]) -> Callable[[str], str]:
    """For what is only handed on, as it was written: whether it is empty or can be parsed."""
    def check(text: str) -> str:
        if text:
            parse(text)
        return text
    return check


def parse_switch(text: str) -> bool:
    return text.lower() not in {"", "0", "no", "false"}


def parse_database(text: str) -> str:
    return text or str(Path(os.environ.get("STATE_DIRECTORY", "")) / "iot.db")


def parse_clocks(text: str, count: int) -> tuple[Clock, ...]:
    """`22:00-07:00 Europe/Berlin`, or one time; no zone: this machine's. None of an empty text."""
    require(len(text) <= 64, "too long")
    times, _, name = text.partition(" ")
    try:
        zone = zoneinfo.ZoneInfo(name) if name else None
    except (KeyError, ValueError, OSError):
        raise Usage(f"{name!r}: no time zone of that name is known here") from None
    clocks = [re.fullmatch(r"([01]?\d|2[0-3]):([0-5]\d)", part, re.ASCII)
              for part in times.split("-") if text]
    found = tuple(Clock(int(match[1]), int(match[2]), tzinfo=zone) for match in clocks if match)
    require(not text or (len(found) == len(clocks) == len({*found}) == count),
            f"{text!r}; write " + "-".join(["22:00", "07:00"][:count]) + ", and perhaps a zone")
    return found


class Destination(NamedTuple):
    """Where messages go. A URL holds secrets: people are shown the name, and the id is kept."""
    url: urllib.parse.SplitResult
    kind: str
    is_secure: bool
    host: str                   # with the port, if there is one
    name: str
    id: str
    login: tuple[str, str]      # user and password
    options: dict[str, str]


REST = {                        # what may stand behind the host, in words and as a pattern
    "ntfy": ("/TOPIC or /TOPIC?alive=45m", r"/[-\w]{1,64}/?(\?alive=[1-9]\d{0,2}[mh])?"),
    "json": ("a path", r"([/?].*)?"),
    "mailto": ("/?from=A&to=B", r"/?\?(from|to)=[^&@]+(@|%40)[^&]+&(?!\1)(from|to)=[^&]+")}


def parse_destination(text: str, kinds: Mapping[str, tuple[str, str]] = REST) -> Destination:
    """A URL of --notify. What is wrong is said without the URL."""
    try:
        url = urllib.parse.urlsplit(text)
        kind = url.scheme.removesuffix("s")
        rest, pattern = kinds[kind]
        require(url.hostname and url.port != 0 and text.isascii(), f"{kind}: a host is needed")
    except (ValueError, KeyError):
        raise Usage("each URL begins with ntfy, ntfys, json, jsons, mailto or mailtos and ://HOST;"
                    " in names and passwords write %XX for : / ? # @ and blanks") from None
    name, host = f"{url.scheme}://{url.hostname}", url.netloc.rpartition("@")[2]
    behind = url._replace(scheme="", netloc="").geturl()
    require(re.fullmatch(pattern, behind, re.ASCII), f"{name}: behind the host comes {rest}")
    user, password = (urllib.parse.unquote(part or "") for part in (url.username, url.password))
    return Destination(url, kind, url.scheme != kind, host, name, hashlib.blake2b(
        f"{url.scheme} {host} {behind}".encode(), digest_size=8).hexdigest(), (user, password),
        dict(urllib.parse.parse_qsl(url.query.replace("+", "%2B"))))    # of an address: no blank


def parse_notify(text: str) -> list[Destination]:
    return [parse_destination(url) for url in text.split()]


def parse_engine(text: str) -> Destination:
    """The URL of --forward. What is wrong is said without the URL."""
    try:
        require(re.fullmatch("[!-~]+", text), "")
        to = parse_destination(text, {"http": ("anything", ".*")})
    except Usage:
        raise Usage("http[s]://[USER:PASSWORD@|TOKEN@]HOST[:PORT]/PATH?QUERY is needed") from None
    address = f"{to.url.scheme} {to.host} {to.url.path} {to.url.query}"
    return to._replace(id=hashlib.sha256(address.encode()).hexdigest())     # databases know it so


SETTINGS = (
    Setting("host", "ADDR", "127.0.0.1", str, "address to listen on"),
    Setting("port", "N", "8000", parse_port, "port to listen on; 0 takes any free one"),
    Setting("db", "FILE", "", parse_database,
            "the database (default: $STATE_DIRECTORY/iot.db, else iot.db)"),
    Setting("rate-limit", "N", "60", parse_count,
            "updates per minute per MAC, bursts of N; 0 is no limit"),
    Setting("units", "auto|C|F", "auto", one_of("auto", "C", "F"),
            "what the page shows; auto follows the browser's language"),
    Setting("comfort", "TEMP", "22C", parse_temperature,
            "22C or 72F: inside at or below it, nothing needs opening"),
    Setting("private", "FILE", "", str,
            "ask for the password of this file, which --set-password makes, on every page but "
            "updates"),
    Setting("notify", "URLS", "", as_text(parse_notify),
            "where messages go: ntfys://HOST/TOPIC, jsons://HOST/PATH, mailtos://USER:PASSWORD@"
            "HOST/?from=A&to=B, with blanks in between; better in the environment than here, "
            "where every user of the machine can read it"),
    Setting("notify-plan", "HH:MM[ ZONE]", "", as_text(lambda text: parse_clocks(text, 1)),
            "once a day at this time, when it is hot: when it will be cooler outside"),
    Setting("quiet", "HH:MM-HH:MM[ ZONE]", "", as_text(lambda text: parse_clocks(text, 2)),
            "no messages in these hours; the zone is this machine's, or of a name like "
            "America/New_York"),
    Setting("forward", "URL", "", as_text(parse_engine),
            "where all readings go, in InfluxDB's line protocol: http[s]://[USER:PASSWORD@|TOKEN@]"
            "HOST[:PORT]/write?db=iot; better in the environment, too"),
    Setting("link", "URL", "", str,
            "this server's own address, as people type it, for messages: also needed where a "
            "private address has a public name"),
    Setting("demo", None, "", parse_switch,
            "serve a throw-away database with two simulated stations and a year of history"),
)


# ------------------------------------------------------------------------------------------------
# 4. Domain
#    Law: pure functions; no clock, no file, no socket. Times are integers of ms UTC.
# ------------------------------------------------------------------------------------------------


class Refused(Exception):
    """A request that is not granted: an HTTP status, and for the user what is wrong."""

    def __init__(self, status: int, message: str, **headers: str):
        super().__init__(message)
        self.status, self.message = status, message
        self.headers = tuple((name.replace("_", "-"), value) for name, value in headers.items())


class Reading(NamedTuple):
    """One number as a station sends it. age in ms, seq the station's own name for it or None."""
    field: int
    value: float
    age: int
    seq: str | None


class Update(NamedTuple):
    """What one request wants stored, and who it says it is. mac is in lower case."""
    mac: str
    key: str
    reading: Reading


Value: TypeAlias = int | float | str    # a text is what a ThingSpeak client sent for a number
Sample: TypeAlias = tuple[int, float]   # when, and the number
Headers = tuple[tuple[str, str], ...]


class Summary(NamedTuple):
    """Some numbers of one series, from time on for width ms. Of a single one the width is 0."""
    time: int
    width: int
    size: int                   # so many numbers, of which some are in the table no more
    minimum: float
    maximum: float
    total: float
    pruned: int = 0

    @property
    def point(self) -> "Point":
        return Point(self.time, self.total / self.size, self.minimum, self.maximum, self.width)


class Point(NamedTuple):
    """One place on a chart: a reading (then all three are the same), or width ms of them."""
    time: int
    mean: float
    minimum: float
    maximum: float
    width: int = 0


# Here and below: no two neighbors in a pattern match the same, so that no text is slow to match.
NUMBER = re.compile(r"[+-]?(?:\d{1,15}|(\d+(?:\.\d*)?|\.\d+)([eE][+-]?\d+)?)", re.ASCII)
MAC = re.compile(rf"[0-9A-Za-z:._-]{{1,{MAX_MAC}}}")
KEY = re.compile(r"[0-9A-Za-z._~-]{1,64}")      # what needs no escaping in a URL
DURATION_UNITS = {"s": 1000, "m": 60_000, "h": HOUR, "d": DAY, "w": 7 * DAY}
PARTS = ("API_key", "mac", "field", "data", "age", "seq")
PART_NAMES = {name.lower(): name for name in PARTS}


# Stations repeat themselves: MACs and most values were parsed a moment ago. What takes text of any
# length refuses what is too long first, so that no memory of it grows; 4096 are two forms of some
# 2,000 stations.
remember = functools.lru_cache(maxsize=4096)


@remember
def parse_number(text: str) -> float:
    """A finite decimal number; up to 15 digits alone come back as int. Raises ValueError.
    float() alone is too generous: it takes nan, inf, 1_0 and digits of other scripts."""
    if len(text) <= MAX_NUMBER and (match := NUMBER.fullmatch(text)):
        if match[1] is None:
            return int(text)
        if math.isfinite(number := float(text)):
            return number
    raise ValueError("not a finite decimal number")


def parse_value(text: str) -> Value:
    """A number where it is one, else the text as it is. Raises ValueError."""
    try:
        return parse_number(text)
    except ValueError:
        if not 0 < len(text) < 256:
            raise ValueError("value: a number, or a text of up to 255 characters") from None
        return text


@remember
def parse_mac(text: str) -> str:
    """A MAC is an opaque word: users have registered 6c:rf:7f:2b:0e:g8, which is no legal one."""
    if not MAC.fullmatch(text):
        raise Refused(400, "mac: 1 to 32 characters from 0-9 A-Z a-z : . _ -")
    return text.lower()


def parse_reading(parts: dict[str, str]) -> Reading:
    """Field, data, age and seq as text to a Reading. Raises Refused, naming the part."""
    for name in ("field", "data"):
        if name not in parts:
            raise Refused(400, f"{name}: missing")
    seq = parts.get("seq")
    try:
        value = parse_number(parts["data"])
    except ValueError as error:
        raise Refused(400, f"data: {error}, like 72.3, of at most {MAX_NUMBER} characters"
                      ) from None
    if seq is not None and not (0 < len(seq) <= MAX_SEQ and seq.isprintable()):
        raise Refused(400, f"seq: 1 to {MAX_SEQ} printable characters")
    age = parse_age(parts["age"]) if "age" in parts else 0
    return Reading(parse_field(parts["field"]), value, age, seq)


@remember
def parse_field(text: str) -> int:
    if len(text) != 1 or text not in "123456789":
        raise Refused(400, "field: a number from 1 to 9")
    return int(text)


def parse_age(text: str) -> int:
    """Seconds as text to whole milliseconds."""
    try:
        seconds = parse_number(text)
    except ValueError:
        seconds = -1
    if not 0 <= seconds <= MAX_AGE:
        raise Refused(400, f"age: seconds from 0 to {MAX_AGE}")
    return round(seconds * 1000)


def parse_update_path(path: str, header_key: str | None = None) -> Update:
    """`/update/API_key=K/mac=M/field=F/data=V`, parts in any order, percent-encoded at will.
    header_key is that of X-API-Key, for a path that has none. Raises Refused."""
    parts: dict[str, str] = {}
    for text in path[len("/update/"):].split("/"):
        written, equals, value = text.partition("=")
        name = written.lower()
        if not equals or name not in PART_NAMES:        # no value is repeated: it might be the key
            raise Refused(400, f"{ascii(written[:20]) if equals else 'path'}: unknown part; "
                               f"the parts are {', '.join(PARTS)}, each written name=value")
        if name in parts:
            raise Refused(400, f"{PART_NAMES[name]}: given twice")
        parts[name] = urllib.parse.unquote(value)
    if header_key is not None:
        parts.setdefault("api_key", header_key)
    for name in ("api_key", "mac"):
        if name not in parts:
            raise Refused(400, f"{PART_NAMES[name]}: missing")
    return Update(parse_mac(parts["mac"]), parts["api_key"], parse_reading(parts))


def load_json(body: bytes) -> Any:
    """A JSON document; NaN and Infinity become texts. Raises Refused."""
    try:
        return json.loads(body, parse_constant=str)
    except (ValueError, RecursionError) as error:
        raise Refused(400, f"body: not JSON: {str(error)[:80]}") from None


def parse_update_json(document: Any, header_key: str | None = None) -> tuple[str, str, list[Any]]:
    """`{"mac":M,"api_key":K,"readings":[{"field":F,"data":V,"age":S,"seq":T},...]}` to MAC, key
    and what parse_json_reading takes. Raises Refused, naming the part."""
    document = take_parts("body", document, ("mac", "api_key", "readings"))
    key, mac = document.get("api_key", header_key), document.get("mac")
    readings = document.get("readings")
    if not isinstance(key, str):
        raise Refused(400, "api_key: missing")
    if not isinstance(mac, str):
        raise Refused(400, "mac: missing")
    if not isinstance(readings, list) or not 0 < len(readings) <= MAX_BULK:
        raise Refused(400, f"readings: a list of 1 to {MAX_BULK} readings")
    return parse_mac(mac), key, readings


def take_parts(where: str, document: Any, known: Iterable[str]) -> dict[str, Any]:
    """A JSON object without its nulls. Raises Refused unless it is one, with known parts only."""
    if not isinstance(document, dict):
        raise Refused(400, f"{where}: a JSON object is needed")
    if unknown := document.keys() - known:
        raise Refused(400, f"{where}: {min(unknown)[:20]!a} is unknown; known: {', '.join(known)}")
    return {name: value for name, value in document.items() if value is not None}


def parse_json_reading(where: str, reading: Any) -> Reading:
    """One of these readings; numbers go through the same grammar as those of the path."""
    parts = take_parts(where, reading, ("field", "data", "age", "seq"))
    if not isinstance(parts.get("seq", ""), str):
        raise Refused(400, f"{where}.seq: a text is needed")
    try:
        return parse_reading({name: str(value) for name, value in parts.items()})
    except Refused as refused:
        raise Refused(refused.status, f"{where}.{refused.message}") from None


def parse_duration(text: str) -> int:
    """`90d`, `12h`, `30m`, `45s`, `2w` to milliseconds. Raises Usage."""
    if not (match := re.fullmatch(r"(\d{1,6})([smhdw])", text, re.ASCII)):
        raise Usage(f"{text!r} is no age; write a number and s, m, h, d or w, like 90d")
    return int(match[1]) * DURATION_UNITS[match[2]]


EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
MILLISECOND = timedelta(milliseconds=1)


def parse_time(text: str, zone: tzinfo = timezone.utc) -> int:
    """ISO 8601 to ms; without an offset it is in zone. Raises ValueError."""
    if len(text) > MAX_TIME:
        raise ValueError("not a time: too long")
    if len(text) == 24 and text[-1] == "Z":                     # our own notation
        instant = datetime.fromisoformat(text[:-1] + "+00:00")
    else:
        text = re.sub(r"(Z| UTC)$", "+00:00", text.strip())     # Python 3.10 knows neither
        text = re.sub(r"(T.*) (\d\d:\d\d)$", r"\1+\2", text)     # a query's + became a space
        text = re.sub(r"(:\d\d) ?([+-]\d\d)$", r"\1\2:00", text)
        instant = datetime.fromisoformat(re.sub(r" ?([+-]\d\d):?(\d\d)$", r"\1:\2", text))
    instant = instant if instant.tzinfo else instant.replace(tzinfo=zone)
    if not 0 <= (ms := (instant - EPOCH) // MILLISECOND) < LATEST_TIME:
        raise ValueError(f"{text}: before 1970 or after 2099")
    return ms


def parse_moment(text: str, zone: tzinfo = timezone.utc) -> int:
    """ISO 8601 or seconds since 1970 to ms. Raises ValueError, OverflowError."""
    try:
        seconds = parse_number(text)
    except ValueError:
        return parse_time(text, zone)
    if not 0 <= (ms := round(seconds * 1000)) < LATEST_TIME:
        raise ValueError(f"{text}: before 1970 or after 2099")
    return ms


def parse_instant(name: str, text: str) -> int:
    """A query's start or end to ms. Raises Refused."""
    try:
        return parse_moment(text)
    except (ValueError, OverflowError):
        raise Refused(400, f"{name}: ISO 8601 like 2018-07-30T22:16:34Z, or seconds since 1970"
                      ) from None


# -- consoles -------------------------------------------------------------------------------------

ROOMS = range(1, 9)
# The place (the console's own station, which is outside, `in`, or a room), the field and our unit;
# the names in uploads (Weather Underground's, Ecowitt's), in weewx's archive, in Ecowitt's CSV.
SENSORS = (
    ("", 1, "°c", "tempf", "outTemp", "outdoor temperature"),
    ("", 2, "%", "humidity", "outHumidity", "outdoor humidity"),
    ("", 3, "hpa", "baromrelin baromin", "barometer", "rel pressure"),
    ("", 4, "m/s", "windspeedmph", "windSpeed", "wind"),
    ("", 5, "m/s", "windgustmph", "windGust", "gust"),
    ("", 6, "°", "winddir", "windDir", "wind direction"),
    ("", 7, "mm", "rainratein rainin", "rainRate", "hourly rain"),
    ("", 8, "w/m2", "solarradiation", "radiation", "solar rad"),
    ("", 9, "index", "uv", "UV", "uv-index"),
    ("in", 1, "°c", "tempinf indoortempf", "inTemp", "indoor temperature"),
    ("in", 2, "%", "humidityin indoorhumidity", "inHumidity", "indoor humidity"),
    ("in", 3, "hpa", "baromabsin", "pressure", "abs pressure"),
    *((f"ch{n}", 1, "°c", f"temp{n}f", f"extraTemp{n}", f"ch{n} temperature") for n in ROOMS),
    *((f"ch{n}", 2, "%", f"humidity{n}", f"extraHumid{n}", f"ch{n} humidity") for n in ROOMS))
CONSOLE_LABELS = ("temperature °C", "humidity %", "pressure hPa", "wind m/s", "gusts m/s",
                  "wind from °", "rain mm/h", "sun W/m²", "UV index")
# Systems of units by weewx's numbers: what they have in place of ours. Uploads are in number 1.
SYSTEMS = {1: {"°c": "°f", "hpa": "inhg", "m/s": "mph", "mm": "in"},
           16: {"m/s": "km/h", "mm": "cm"}, 17: {}}
UNITS = {                       # to take off, to multiply with, decimals that are left
    **dict.fromkeys(("", "°c", "%", "hpa", "m/s", "°", "deg", "mm", "w/m2", "index"), (0, 1, 12)),
    "°f": (32, 1 / 1.8, 2), "inhg": (0, 33.8639, 1), "mmhg": (0, 1.33322, 1), "cm": (0, 10, 2),
    "mph": (0, 0.44704, 2), "km/h": (0, 1 / 3.6, 2), "knots": (0, 0.514444, 2), "in": (0, 25.4, 2)}
# Numbers that say that there is no such sensor; 999 and 1000 a Shelly's without its probe.
NO_SENSOR = frozenset({-9999, -999.9, -999})
ABSENT = {"": frozenset[float]()} | {unit: NO_SENSOR | {999, 1000} for unit in ("°c", "°f", "%")}
Column: TypeAlias = tuple[str, int, str]    # place, field, unit
UPLOADS: dict[str, Column] = {
    name: (place, field, SYSTEMS[1].get(unit, unit))
    for place, field, unit, names, *_ in SENSORS for name in names.split()} | {
    f"field{n}": ("", n, "") for n in range(1, MAX_FIELDS + 1)} | {
    "temp": ("", 1, "°c"), "hum": ("", 2, "%"), "press": ("", 3, "hpa")}


def parse_measure(name: str, text: str, unit: str) -> float | None:
    """A number in a unit to one in ours; None: there is no such sensor. Raises Refused."""
    if (text := text.strip()) in {"", "-", "--", "--.-", "null"}:
        return None
    try:
        number, (origin, factor, decimals) = parse_number(text), UNITS[unit]
        if math.isinf(value := (number - origin) * factor):
            raise ValueError("not a finite decimal number")
    except ValueError as error:
        raise Refused(400, f"{name}: {error}") from None
    return None if number in ABSENT.get(unit, NO_SENSOR) else round(value, decimals)


def parse_report(form: Mapping[str, str]) -> dict[str, dict[int, float]]:
    """What a console or sensor sends, names in lower case, as numbers by place and field. Raises
    Refused."""
    report: dict[str, dict[int, float]] = {}
    for name, (place, field, unit) in UPLOADS.items():
        if name in form and (value := parse_measure(name, form[name], unit)) is not None:
            report.setdefault(place, {}).setdefault(field, value)
    return report


def parse_clock(text: str) -> datetime:
    """`2016-5-10 2:34:15` or `2024/05/10 02:34`, as consoles write it. Raises ValueError."""
    text = text[:MAX_TIME].replace("/", "-") + ":00" * (text.count(":") == 1)
    return datetime.strptime(text, "%Y-%m-%d %H:%M:%S")


def parse_dateutc(text: str, now: int) -> int:
    """When a console has measured: what it says if that can be, else now."""
    with contextlib.suppress(ValueError):
        ms = (parse_clock(text).replace(tzinfo=timezone.utc) - EPOCH) // MILLISECOND
        if now - MAX_AGE * 1000 <= ms <= now + MINUTE:
            return ms
    return now


def name_part(name: str, mac: str, place: str) -> tuple[str, str]:
    """Name and MAC of the station for a place of a console, from those of the one outside."""
    if not place:
        return name, mac
    title = {"in": "inside"}.get(place, place)
    return f"{name.removesuffix(' outside')} {title}", f"{mac}-{place}"


def format_time(ms: int) -> str:
    """`2018-07-30T22:16:34.541Z`."""
    return (EPOCH + ms * MILLISECOND).isoformat("T", "milliseconds").removesuffix("+00:00") + "Z"


def format_ago(ms: int) -> str:
    """A length of time in one unit, as people say it: `9 s`, `3 min`, `5 h`, `12 d`."""
    seconds = ms // 1000
    for length, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= length:
            return f"{seconds // length} {unit}"
    return f"{max(seconds, 0)} s"


def format_bytes(count: float) -> str:
    for unit in ("bytes", "KB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"


def summarize(readings: Iterable[tuple[int, int, int, Value]]
              ) -> dict[tuple[int, int], list[float]]:
    """(series, time, entry, value) rows to {(series, hour): [count, minimum, maximum, total]}."""
    hours: dict[tuple[int, int], list[float]] = {}
    for series, ms, _, value in readings:
        if isinstance(value, str):
            continue
        if (summary := hours.get(place := (series, ms // HOUR))) is None:
            hours[place] = [1, value, value, value]
        else:
            summary[0] += 1
            if value < summary[1]:
                summary[1] = value
            elif value > summary[2]:
                summary[2] = value
            summary[3] += value
    for summary in hours.values():
        summary[3] = max(-LARGEST, min(LARGEST, summary[3]))
    return hours


def thin(samples: Iterable[Summary], origin: int, width: int) -> list[Point]:
    """Summaries in order of time to a Point for each bucket that is not empty.
    Buckets are width ms long and count from origin."""
    points = []
    for bucket, group in itertools.groupby(samples, lambda s: (s.time - origin) // width):
        held = list(group)
        count = sum(s.size for s in held)
        points.append(Point(origin + bucket * width, sum(s.total / count for s in held),
                            min(s.minimum for s in held), max(s.maximum for s in held), width))
    return points


Bucket = tuple[float, float]    # tokens, and when they were counted (s)


def take_tokens(bucket: Bucket | None, now: float, per_minute: float, burst: float,
                cost: float = 1) -> tuple[Bucket, float]:
    """Take tokens out of a bucket that fills up to burst: (the bucket then, seconds to wait).
    A wait of 0 is a yes. What costs more than fits into a bucket takes a full one."""
    tokens, counted = bucket or (burst, now)
    tokens, cost = min(burst, tokens + (now - counted) * per_minute / 60), min(cost, burst)
    if tokens >= cost:
        return (tokens - cost, now), 0.0
    return (tokens, now), (cost - tokens) * 60 / per_minute


# -- the verdict ----------------------------------------------------------------------------------

OPEN_MARGIN = 1.0               # °C cooler outside: opening is worth it at once
CLOSE_MARGIN = 0.5              # °C warmer outside: closing is urgent sooner
CONFIRM = 15 * MINUTE           # a smaller difference counts once it has lasted so long
DWELL = 15 * MINUTE             # no two changes within; a human has to walk to the window
URGENT_MARGIN = 3.0             # °C; such a difference does not wait for the dwell
# Comfortable until so much above the limit: measured on a house from April to October, a band of
# 1.5 makes 1.9 changes a day, 2.5 makes 1.4.
COMFORT_MARGIN = 2.5
SILENT_AT_LEAST = 10 * MINUTE   # with a station that sends less often from now on, 20 min are lost
SILENT_INTERVALS = 3            # a station that misses so many of its usual intervals is silent
SILENT_GROWTH = 4               # by which a single pause can raise the limit: it may be an outage
VERDICT_WINDOW = 40 * HOUR      # of readings is replayed: a day, a night and half a day
RECENT_WINDOW = 4 * HOUR        # of readings is looked at when a verdict goes on from one before
TREND_TIME = 30 * MINUTE
TREND_STEADY = 0.25             # °C in TREND_TIME; sensors waver by 0.1


def usual_interval(times: Iterable[int]) -> int:
    """The median distance in ms of the readings at these times; a minute where there is none."""
    return statistics.median_high(
        [b - a for a, b in itertools.pairwise(times) if b > a] or [MINUTE])


def learn_silence(limit: int, pause: int, least: int = SILENT_AT_LEAST) -> int:
    """How long a station may be quiet before it counts as silent, after one more of its pauses.
    Long pauses count at once, and what they taught is forgotten as fast as time goes by: readings
    in bursts or batches, with a long pause now and then, are no silence."""
    return max(least, min(SILENT_INTERVALS * pause, SILENT_GROWTH * limit), limit - max(pause, 0))


def silence_limit(times: Iterable[int], learned: int = SILENT_AT_LEAST) -> int:
    """The limit of a station with readings at these times, in order."""
    limit = learned
    for before, after in itertools.pairwise(times):
        limit = learn_silence(limit, after - before, learned)
    return limit


class Tail(NamedTuple):
    """What is left of the readings of a station: enough to go on with the next one."""
    time: int = 0               # of the newest one
    limit: int = 0              # how long it may be quiet then
    last: tuple[float, ...] = ()    # its last three values

    @property
    def end(self) -> int:
        """The instant behind which it counts as silent."""
        return self.time + self.limit

    def add(self, ms: int, value: float, learned: int) -> "Tail":
        pause = ms - self.time if self.last else 0
        return Tail(ms, learn_silence(self.limit or learned, pause, learned),
                    (*self.last[-2:], value))


SILENCE = Tail()


class Course(NamedTuple):
    """What a verdict remembers from reading to reading."""
    at: int = 0                 # of the last reading that was taken in
    state: str = ""             # none yet
    since: int = 0
    wanted: str = ""            # what the readings say, which becomes the state in time
    wanted_since: int = 0


START = Course()


class Verdict(NamedTuple):
    """The answer for one inside station. What readings say by themselves may wait in wanted."""
    state: str                  # open, close, comfortable, unknown
    difference: float | None    # inside minus outside, °C
    since: int | None           # when this state began; of silence: the last reading
    expires: int | None         # from then on it is unknown, unless readings come
    silent: str | None          # for unknown: inside or outside
    inside: float | None = None
    outside: float | None = None
    course: Course = START


def believe(values: Sequence[float]) -> float:
    """What most of a station's last three readings say: two have to agree."""
    return sorted(values)[1] if len(values) == 3 else values[0]


def wish(temperatures: Sequence[float], state: str, before: str, comfort: float) -> str:
    """What inside and outside alone would have us say, given the state and the wish before."""
    inside, outside = temperatures
    if inside <= comfort + (COMFORT_MARGIN if state == "comfortable" else 0):
        return "comfortable"
    if inside == outside:
        return before if before in {"open", "close"} else "close"
    return "open" if inside > outside else "close"


def advance(course: Course, ms: int, newest: Sequence[float], believed: Sequence[float],
            comfort: float) -> Course:
    """One instant further, with two temperatures each. A change needs a clear difference or
    CONFIRM of a small one, and DWELL since the last change unless it is urgent."""
    _, state, since, before, wanted_since = course
    wanted = wish(newest, state, before, comfort)
    if wanted != before:
        wanted_since = ms
    difference = believed[0] - believed[1]
    is_clear = (wanted == "comfortable"
                or difference >= OPEN_MARGIN or difference <= -CLOSE_MARGIN)
    is_urgent = wanted != "comfortable" and abs(difference) >= URGENT_MARGIN
    agreed = wish(believed, state, wanted, comfort)
    if not state or (agreed == wanted != state and (is_urgent or (
            ms - since >= DWELL and (is_clear or ms - wanted_since >= CONFIRM)))):
        state, since = agreed, ms
    return Course(ms, state, since, wanted, wanted_since)


def judge(inside: Sequence[Sample], outside: Sequence[Sample], now: int, comfort: float,
          course: Course = START, learned: Sequence[int] = (SILENT_AT_LEAST, SILENT_AT_LEAST),
          before: Sequence[Tail] = (SILENCE, SILENCE)) -> Verdict:
    """The verdict at now, from readings in order of time, and what was before them. course is
    that of the verdict before; without it all readings are replayed. learned are the limits of
    silence that the pauses between updates have taught, of inside and outside."""
    if course.at > now:
        course = START                  # the clock was wrong before
    tails = [*before]
    merged = heapq.merge(((ms, 0, v) for ms, v in inside), ((ms, 1, v) for ms, v in outside))
    for ms, instant in itertools.groupby(merged, operator.itemgetter(0)):
        is_new = not course.state or ms > course.at
        for _, side, value in instant:
            if tails[side].last and ms > tails[side].end and is_new:
                course = course._replace(wanted="")     # seen before a silence: confirms nothing
            tails[side] = tails[side].add(ms, value, learned[side])
        if not is_new or not all(tail.last for tail in tails):
            continue
        if any(ms > tail.end for tail in tails):
            course = course._replace(wanted="")
        else:
            course = advance(course, ms, [tail.last[-1] for tail in tails],
                             [believe(tail.last) for tail in tails], comfort)
    for tail, silent in ((tails[1], "outside"), (tails[0], "inside")):
        if not tail.last or now > tail.end:
            return Verdict("unknown", None, tail.time or None, None, silent, course=course)
    warm, cool = (last[-1] if abs(last[-1] - believe(last)) < URGENT_MARGIN
                  else believe(last) for _, _, last in tails)   # what is said, but for a wild one
    return Verdict(course.state, warm - cool, course.since, min(tail.end for tail in tails), None,
                   warm, cool, course)


# -- messages -------------------------------------------------------------------------------------

MESSAGE_AGE = HOUR              # a later one is no help: the air outside is another by then
SILENCE_TOLD = HOUR             # a battery is to be changed; the page says so after ten minutes
TOPICS = ("verdict", "silence", "plan")     # of which a station has one state each to be told
ONLY_AFTER = {"close": "open", "back": "silent"}     # said only to those who were told the other


def last_at(clock: Clock, now: int) -> int:
    """When that clock last showed its time."""
    wall = datetime.combine(datetime.fromtimestamp(now / 1000, clock.tzinfo), clock)
    today, before = (int(day.timestamp()) * 1000 for day in (wall, wall - timedelta(days=1)))
    return today if today <= now else before


def awake_since(quiet: Sequence[Clock], now: int) -> int | None:
    """When the quiet hours ended; 0 where there are none, None while they last."""
    began, ended = (last_at(clock, now) for clock in quiet) if quiet else (0, 0)
    return ended if ended >= began else None


def choose_kind(verdict: Verdict, is_cold: bool) -> str:
    """What there is to do, in a word: open, close, or nothing."""
    is_warmer = verdict.difference is not None and verdict.difference < -CLOSE_MARGIN
    if verdict.state == "comfortable" and is_warmer and not is_cold:
        return "close"
    return verdict.state if verdict.state in {"open", "close"} else ""


def is_worth_a_plan(room: Mapping[str, Any], comfort: float) -> bool:
    """Whether it is hot in a room, or outside, and known when it gets cooler."""
    forecast = room.get("forecast")
    return bool(forecast and forecast["event"] == "cooler" and forecast["at"]
                and max(room["inside"], room["outside"]) > comfort)


def is_timely(since: int, now: int, awake: int | None) -> bool:
    """Whether what is true since then may still be told, or again after quiet hours."""
    return awake is not None and now - max(since, awake) < MESSAGE_AGE


def is_news(state: str, told: str) -> bool:
    """Whether a state is to be told to whom that was told last."""
    return state not in {"", told} and told == ONLY_AFTER.get(state, told)


# -- the forecast ---------------------------------------------------------------------------------
#
# Every past day is one possible tonight: how both temperatures moved from this time of day on, as
# they would have moved had that day been like today, which a regression tells. Each such night
# crosses at some time or never: the share of those that do is the chance, quantiles of their times
# are the answer, and how good answers have been sets the width of its interval. Days are whole
# days of UTC, which no change of clocks moves.

QUARTER = 15 * MINUTE
QUARTERS = DAY // QUARTER       # of a day
HORIZON = 12 * HOUR             # behind which nothing is said
HOLD = 3                        # quarters more that a crossing has to last: a cloud is none
LEADS = [quarters / 4 for quarters in range(1, HORIZON // QUARTER + HOLD + 1)]    # hours ahead
PAST_DAYS = 45                  # as good as 60, and a quarter quicker
LOOK_BACK = 12 * HOUR // QUARTER    # for the lowest of the last night
KEPT = PAST_DAYS * QUARTERS + LOOK_BACK + 1     # quarters that a question looks at
INSIDE_HOLE = 12 * HOUR // QUARTER  # is bridged: many stations are silent while nothing moves
OUTSIDE_HOLE = 4 * HOUR // QUARTER
GLITCH = 3.0                    # °C from the median of three readings: no weather does that
NO_WEATHER = 1000.0             # °C: a sensor's error, which would swallow what slopes are left
MEMORY = 12                     # days, behind which a day counts for a third
RIDGE = 10.0                    # days: so much speaks for the slopes below before any day is seen
OUTSIDE_SLOPES = (-0.16, -0.18, 0.0)    # °C per hour of the lead and unit of each trait:
INSIDE_SLOPES = (-0.015, 0.0, 0.01)     # on other houses they were such
SLOPE_HOURS = 8                 # until when they grow with the lead
UNSEEN = 0.2                    # the weight in days of a night nobody saw, which goes down in a
UNSEEN_HOURS = 9                # half wave to the last night's lowest: for the first days
OFF = 1.5                       # °C after an hour: so far off the mean, on either side, one night
                                # is made up that weighs a day; keeps a short history honest
TAIL = 0.1                      # of the nights lie before the interval, and as many behind it
LEARNED_DAYS = 60               # of earlier answers that set the width of the next one
FIRST_WIDTH, LEAST_WIDTH, MOST_WIDTH = 1.2, 0.4, 3.0
LEARNING_RATE = 0.15
WIDEST_MORNING, LIKELY = 3 * HOUR, 0.8      # no history knows the clouds: of use, or nothing
OUT_OF_REACH = 2.0              # °C above all that outside was lately: so warm it does not get
UNLIKELY, SURE_DAYS = 0.3, 30   # "not tonight" takes so small a chance and so many days
FEWEST_DAYS = 5                 # of history; with fewer programs get an answer, people none


class Outcome(NamedTuple):
    """What became of the forecast of a full hour."""
    asked: int
    event: str
    score: float                # how far off, in halves of the interval; inf: it never came
    error: int                  # ms from the median to the truth
    baseline: int               # the same, had yesterday's curves been shifted to today's values


class Forecast(NamedTuple):
    """When outside gets cooler or warmer than inside, if it does within HORIZON: the median and
    the 80 % interval, which are None unless that is more likely than not; and the chance of it.
    The curves are what is expected, a value for each quarter of an hour from the next on."""
    event: str                  # cooler, warmer
    at: int | None
    start: int | None
    end: int | None
    chance: float
    days: int                   # of history that it rests on
    inside: tuple[float, ...]
    outside: tuple[float, ...]
    asked: int = 0
    past: tuple[Outcome, ...] = ()      # of this hour's forecasts, the newest last


class Quarters:
    """A series as a number for each quarter of an hour, the newest reading of each. A hole
    becomes a straight line as soon as its end is known, and until then the last value holds; one
    longer than the bridge is nan."""

    def __init__(self, bridge: int):
        self.bridge, self.silent = bridge, KEPT     # quarters since the last number
        self.values = [math.nan] * KEPT

    def add(self, readings: Sequence[float]) -> None:
        """One more quarter: its last three readings, as far as there are any."""
        del self.values[0]
        if readings := [value for value in readings if abs(value) < NO_WEATHER]:
            middle = statistics.median(readings)
            value = middle if abs(readings[-1] - middle) > GLITCH else readings[-1]
            if self.silent <= self.bridge:
                rise = (value - self.values[-1]) / (self.silent + 1)
                for i in range(-self.silent, 0):
                    self.values[i] += rise * (i + self.silent + 1)
            self.silent = 0
        else:
            self.silent += 1
            value = self.values[-1]
            if self.silent > self.bridge:
                value = math.nan
                self.values[-self.bridge:] = [math.nan] * self.bridge
        self.values.append(value)


def dot(a: Iterable[float], b: Iterable[float]) -> float:
    return sum(map(operator.mul, a, b), 0.0)


def solve(rows: list[list[float]]) -> list[list[float]]:
    """Gauss and Jordan: what stands right of a square matrix, times its inverse.
    Without pivoting: weights and the ridge on the diagonal keep it from zero."""
    for i in range(len(rows)):
        pivot = [value / rows[i][i] for value in rows[i]]
        rows = [pivot if j == i else [a - row[i] * b for a, b in zip(row, pivot, strict=True)]
                for j, row in enumerate(rows)]
    return [row[len(rows):] for row in rows]


def adjust(moves: Sequence[list[float]], traits: Sequence[list[float]], weights: Sequence[float],
           prior: Sequence[float]) -> Iterator[tuple[float, list[float]]]:
    """For each lead: the mean of the days' moves, and these, as if each day had been like today.
    Ridge regression (Hoerl and Kennard 1970) of the moves on the traits, of which today's are
    zero, shrunk to the prior."""
    columns = [[1.0] * len(weights), *zip(*traits, strict=True)]
    weighted = [[*map(operator.mul, weights, column)] for column in columns]
    slopes = solve([[dot(row, column) + RIDGE * (i == j > 0) for j, column in enumerate(columns)]
                    + row for i, row in enumerate(weighted)])
    expected = [dot(prior, trait) for trait in traits]
    for hours, column in zip(LEADS, zip(*moves, strict=True), strict=True):
        grown = min(hours, SLOPE_HOURS)
        rest = [move - grown * slope for move, slope in zip(column, expected, strict=True)]
        mean, a, b, c = (dot(row, rest) for row in slopes)
        yield mean, [value - a * x - b * y - c * z
                     for value, (x, y, z) in zip(rest, traits, strict=True)]


def traits_at(outside: list[float], inside: list[float], i: int) -> list[float]:
    """What tells one day from another at quarter i, in units that matter alike: of outside, how
    far above the last night's lowest, how warm, how long ago; of inside, its move in three hours,
    how warm, how much warmer outside."""
    lowest = min(value for value in outside[i - LOOK_BACK:i + 1:4] if not math.isnan(value))
    moved = inside[i] - inside[i - 12]
    return [(outside[i] - lowest) / 8, outside[i] / 6, i / (12 * QUARTERS),
            0.0 if math.isnan(moved) else moved / 0.3, inside[i] / 2, outside[i] - inside[i]]


def past_days(outside: list[float], inside: list[float]
              ) -> Iterator[tuple[float, list[float], list[float], list[float]]]:
    """Of each past day that is known for 12 h from this time of day on, and of the unseen one: its
    weight, its moves since then for each lead, and in what it differed from today."""
    now = len(outside) - 1
    today = traits_at(outside, inside, now)
    for age in range(1, PAST_DAYS + 1):
        i = now - age * QUARTERS
        fall, rise = ([value - values[i] for value in values[i + 1:i + 1 + len(LEADS)]]
                      for values in (outside, inside))
        if math.isfinite(sum(fall) + sum(rise)):
            yield math.exp(-age / MEMORY), fall, rise, [
                *map(operator.sub, traits_at(outside, inside, i), today)]
    swing = 8 * today[0]
    waves = (math.cos(math.pi * min(hours / UNSEEN_HOURS, 1)) for hours in LEADS)
    yield UNSEEN, [swing * (wave - 1) / 2 for wave in waves], [0.0] * len(LEADS), [0.0] * 6


def find_crossing(gaps: Sequence[float]) -> float:
    """When gaps, below zero at first, rises above it and stays there for HOLD more; else inf."""
    for i in range(1, len(gaps) - HOLD):
        if gaps[i] > 0 and min(gaps[i:i + 1 + HOLD]) > 0:
            return i - gaps[i] / (gaps[i] - min(gaps[i - 1], 0.0))
    return math.inf


def quantile(weighted: Sequence[tuple[float, float]], share: float) -> float:
    """Of (value, weight) in order of value."""
    left = share * sum(weight for _, weight in weighted)
    return next((value for value, weight in weighted if (left := left - weight) <= 0),
                weighted[-1][0])


def foretell(outside: list[float], inside: list[float], now: int) -> Forecast | None:
    """From the quarters up to now; nothing that was learned is in it yet."""
    gap = inside[-1] - outside[-1]
    if not gap or not math.isfinite(gap):
        return None
    if inside[-1] - max(t for t in outside[::-4] if not math.isnan(t)) > OUT_OF_REACH:
        return None
    weights, falls, rises, traits = zip(*past_days(outside, inside), strict=True)
    air = adjust(falls, [trait[:3] for trait in traits], weights, OUTSIDE_SLOPES)
    room = adjust(rises, [trait[3:] for trait in traits], weights, INSIDE_SLOPES)
    sign = 1 if gap < 0 else -1
    warm, cool, gaps = [], [], []
    for hours, (rise, _), (fall, alike) in zip(LEADS, room, air, strict=True):
        warm.append(inside[-1] + rise)
        cool.append(outside[-1] + fall)
        off = OFF * math.sqrt(hours)
        gaps.append([sign * (gap + rise - move) for move in (*alike, fall - off, fall + off)])
    times = (find_crossing((sign * gap, *night)) for night in zip(*gaps, strict=True))
    weights = (*weights, 1.0, 1.0)
    nights = sorted((time, weight) for time, weight in zip(times, weights, strict=True)
                    if time <= HORIZON // QUARTER)
    chance = math.fsum(weight for _, weight in nights) / math.fsum(weights)
    start, at, end = (None if chance <= 0.5
                      else now + round(quantile(nights, share) * QUARTER)
                      for share in (TAIL, 0.5, 1 - TAIL))
    return Forecast("cooler" if sign > 0 else "warmer", at, start, end, chance, len(falls) - 1,
                    (*warm,), (*cool,))


def learn_width(scores: Iterable[float]) -> float:
    """The factor on the interval: adaptive conformal inference (Gibbs and Candes 2021)."""
    width = FIRST_WIDTH
    for score in filter(math.isfinite, scores):
        width *= math.exp(LEARNING_RATE * ((score > width) - 2 * TAIL))
        width = min(MOST_WIDTH, max(LEAST_WIDTH, width))
    return width


def is_worth_saying(forecast: Forecast) -> bool:
    """An evening's if it has a time; "not tonight" if sure; a morning's if it is of use."""
    if forecast.start is None or forecast.end is None:
        return (forecast.event == "cooler" and forecast.chance < UNLIKELY
                and forecast.days >= SURE_DAYS)
    return forecast.event == "cooler" or (
        forecast.chance >= LIKELY and forecast.end - forecast.start <= WIDEST_MORNING)


def assess(forecast: Forecast, asked: int, gaps: Sequence[float], before: Sequence[float]
           ) -> Outcome | None:
    """What became of a forecast, before it was widened. gaps are how the quarters from asked on
    have been, above zero where what it foretold was true; before, those of the day before. What
    never came is as far off as HORIZON, and teaches nothing of when it comes."""
    if forecast.at is None or forecast.start is None or forecast.end is None or not math.isfinite(
            sum(gaps)):
        return None
    crossing = find_crossing(gaps) * QUARTER
    came, shifted = (asked + round(min(passed, HORIZON)) for passed in (
        crossing, find_crossing([gap - before[0] + gaps[0] for gap in before]) * QUARTER))
    error = abs(came - forecast.at)
    half = forecast.at - forecast.start if came < forecast.at else forecast.end - forecast.at
    score = error / max(half, MINUTE) if crossing <= HORIZON else math.inf
    return Outcome(asked, forecast.event, score, error, abs(came - shifted))


class Forecaster:
    """A room and its outside: their quarters, what was said at full hours and what became of it.
    It learns for each hour of the day by itself, from what is a day old and no older than
    LEARNED_DAYS. So its answers follow from the readings alone, fed as they come or all at once.
    """

    def __init__(self, outcomes: Iterable[Outcome] = ()):
        self.inside, self.outside = Quarters(INSIDE_HOLE), Quarters(OUTSIDE_HOLE)
        self.asked: dict[int, tuple[int, Forecast]] = {}        # by hour of the day
        self.outcomes = collections.deque(outcomes, DAY // HOUR * LEARNED_DAYS)

    def find_outcomes(self, now: int, event: str) -> list[Outcome]:
        """Of earlier days at this hour, in order of time."""
        return [outcome for outcome in self.outcomes
                if (now - outcome.asked) % DAY < HOUR and outcome.event == event
                and now - outcome.asked <= LEARNED_DAYS * DAY]

    def learn(self, now: int) -> Outcome | None:
        """What became of yesterday's forecast of this full hour; to be called before ask."""
        asked, forecast = self.asked.pop(now % DAY, (0, None))
        if forecast is None or asked != now - DAY:
            return None
        sign = 1 if forecast.event == "cooler" else -1
        gaps = [sign * (inside - outside) for inside, outside in zip(
            *(series.values[-1 - 2 * QUARTERS:] for series in (self.inside, self.outside)),
            strict=True)]
        night = len(LEADS) + 1
        outcome = assess(forecast, asked, gaps[QUARTERS:QUARTERS + night], gaps[:night])
        if outcome:
            self.outcomes.append(outcome)
        return outcome

    def ask(self, now: int) -> Forecast | None:
        """At the end of the quarter that was fed last."""
        forecast = foretell(self.outside.values, self.inside.values, now)
        if forecast is None:
            return None
        if now % HOUR == 0:
            self.asked[now % DAY] = now, forecast
        past = self.find_outcomes(now, forecast.event)
        width = learn_width(outcome.score for outcome in past)
        at, start, end = forecast.at, forecast.start, forecast.end
        if at is not None and start is not None and end is not None:
            start = max(now, round(at - width * (at - start)))
            end = min(now + HORIZON, round(at + width * (end - at)))
        forecast = forecast._replace(start=start, end=end, asked=now, past=(*past,))
        return forecast if is_worth_saying(forecast) else None


def foresee(forecaster: Forecaster, read: Callable[[int], Iterable[Sequence[float]]], start: int,
            end: int) -> Iterator[tuple[int, Forecast | None, Outcome | None]]:
    """From start to end, both full quarters of an hour: what is said at each full hour and at the
    end, and what has become of what was said a day before, an hour in a step. read gives the last
    three readings of inside and of outside in the quarter up to a time, from as long before the
    start as an answer looks back."""
    for now in range(start - (PAST_DAYS + 1) * DAY, end + 1, QUARTER):
        for quarters, readings in zip((forecaster.inside, forecaster.outside), read(now),
                                      strict=True):
            quarters.add(readings)
        is_full = now % HOUR == 0
        outcome = forecaster.learn(now) if is_full and now >= start else None
        if is_full or now == end:
            yield now, forecaster.ask(now) if now >= start else None, outcome


# ------------------------------------------------------------------------------------------------
# 5. Store
#    Law: all SQL is here. Writer is the only connection that writes or checkpoints;
#    Reader opens mode=ro and asks. No read transaction outlives the call that opened it.
# ------------------------------------------------------------------------------------------------
APPLICATION_ID = 0x696F7473     # "iots": how a file tells that it is ours

# A new version appends one text; user_version counts how many a file has seen.
MIGRATIONS = ("""
    CREATE TABLE station (
        id         INTEGER PRIMARY KEY AUTOINCREMENT,   -- never used again: devices know it
        name       TEXT NOT NULL UNIQUE,
        mac        TEXT NOT NULL UNIQUE,                -- lower case
        role       TEXT CHECK (role IN ('inside', 'outside')),
        key        BLOB UNIQUE,                         -- SHA-256 of the API key
        next_key   BLOB UNIQUE,                         -- its successor, until first used
        read_key   BLOB,                                -- SHA-256; reads when we are private
        created    INTEGER NOT NULL,
        heard      INTEGER,                             -- when its last update arrived
        last_entry INTEGER NOT NULL DEFAULT 0
    ) STRICT;
    CREATE TABLE gap (                  -- entry numbers below last_entry that an import left free
        station INTEGER NOT NULL REFERENCES station,
        first   INTEGER NOT NULL,
        last    INTEGER NOT NULL,
        PRIMARY KEY (station, first)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE series (
        id      INTEGER PRIMARY KEY,    -- from 0: SQLite keeps 0 and 1 in no bytes at all
        station INTEGER NOT NULL REFERENCES station,
        field   INTEGER NOT NULL CHECK (field BETWEEN 1 AND 9),
        label   TEXT,
        UNIQUE (station, field)
    ) STRICT;
    CREATE TABLE reading (              -- clustered: a series lies together, in order of time
        series INTEGER NOT NULL,
        time   INTEGER NOT NULL,
        entry  INTEGER NOT NULL,
        value  ANY NOT NULL,            -- a number, or the text a ThingSpeak client sent instead
        PRIMARY KEY (series, time, entry)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE note (                 -- what an entry carries besides numbers
        station   INTEGER NOT NULL REFERENCES station,
        entry     INTEGER NOT NULL,
        time      INTEGER NOT NULL,
        status    TEXT,
        latitude  ANY,
        longitude ANY,
        elevation ANY,
        PRIMARY KEY (station, entry)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX note_time ON note (station, time);
    CREATE TABLE hour (                 -- count = readings still in the table + pruned
        series  INTEGER NOT NULL,
        hour    INTEGER NOT NULL,       -- time / 3600000
        count   INTEGER NOT NULL,
        minimum REAL NOT NULL,
        maximum REAL NOT NULL,
        total   REAL NOT NULL,
        pruned  INTEGER NOT NULL DEFAULT 0,
        PRIMARY KEY (series, hour)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE receipt (              -- seq of a stored reading, to answer its repetition
        station INTEGER NOT NULL REFERENCES station,
        field   INTEGER NOT NULL,
        seq     TEXT NOT NULL,
        entry   INTEGER NOT NULL,
        time    INTEGER NOT NULL,       -- when it arrived
        PRIMARY KEY (station, field, seq)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX receipt_time ON receipt (time);
""", f"""
    ALTER TABLE station ADD COLUMN silence INTEGER NOT NULL DEFAULT {SILENT_AT_LEAST};
    ALTER TABLE series RENAME TO old_series;
    CREATE TABLE series (
        id      INTEGER PRIMARY KEY AUTOINCREMENT,      -- never used again: listeners know it
        station INTEGER NOT NULL REFERENCES station,
        field   INTEGER NOT NULL CHECK (field BETWEEN 1 AND 9),
        label   TEXT,
        UNIQUE (station, field)
    ) STRICT;
    INSERT INTO series SELECT * FROM old_series;
    DROP TABLE old_series;
    ALTER TABLE receipt RENAME TO old_receipt;
    CREATE TABLE receipt (              -- of the newest entries with a seq: hash of field and seq
        station INTEGER NOT NULL REFERENCES station,
        entry   INTEGER NOT NULL,       -- in this order, so that new ones lie together
        hash    BLOB NOT NULL,
        PRIMARY KEY (station, entry)
    ) STRICT, WITHOUT ROWID;
    INSERT INTO receipt SELECT r.station, r.entry, hash_seq(r.field, r.seq) FROM old_receipt r
        JOIN station s ON s.id = r.station WHERE r.entry > s.last_entry - {RECEIPTS};
    DROP TABLE old_receipt;
    ALTER TABLE station ADD COLUMN console INTEGER REFERENCES station;  -- whose key writes here
    CREATE TABLE told (                 -- of messages: what is true, and who was told what last
        destination TEXT NOT NULL,      -- a hash of its URL; '' is what is true
        station     INTEGER NOT NULL REFERENCES station,
        topic       TEXT NOT NULL,      -- verdict, silence, plan
        state       TEXT NOT NULL,      -- open, close; silent, back; a day; '' is nothing
        time        INTEGER NOT NULL,   -- since then it is true; then it was told
        PRIMARY KEY (destination, station, topic)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE outcome (              -- of the forecasts of full hours; empty: worked out anew
        inside   INTEGER NOT NULL,      -- series
        outside  INTEGER NOT NULL,
        asked    INTEGER NOT NULL,
        event    TEXT NOT NULL,
        score    REAL NOT NULL,
        error    INTEGER NOT NULL,
        baseline INTEGER NOT NULL,
        PRIMARY KEY (inside, outside, asked)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE forward (              -- who gets all readings: a hash of the engine's address
        target TEXT PRIMARY KEY,
        asked  INTEGER NOT NULL         -- when it was last asked for what is next, about
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE unsent (               -- from where on the engine lacks readings of a series
        series INTEGER PRIMARY KEY,
        time   INTEGER NOT NULL,
        entry  INTEGER NOT NULL
    ) STRICT;
""")

WRITER_PRAGMAS = (
    "synchronous = FULL",           # NORMAL loses acknowledged readings in a power cut
    "wal_autocheckpoint = 0",       # SQLite hides a failed fsync of its own checkpoints; we do not
    "journal_size_limit = 4194304",  # what one large import left of the log goes back
    "foreign_keys = ON",
    "trusted_schema = OFF",
    "secure_delete = OFF",          # Debian's default would write every pruned page once more
    "temp_store = MEMORY",
    "fullfsync = ON",               # macOS: past the cache of the disk, too
    "checkpoint_fullfsync = ON",
)


class StoreError(Exception):
    """The database cannot be used, or a wish cannot be granted; the text says what to do."""


@dataclasses.dataclass(slots=True)
class Station:
    """A row of the table station, column by column. Keys are their SHA-256."""
    id: int
    name: str
    mac: str
    role: str | None = None
    key: bytes | None = None
    next_key: bytes | None = None
    read_key: bytes | None = None
    created: int = 0
    heard: int | None = None
    last_entry: int = 0
    silence: int = SILENT_AT_LEAST      # ms that it may be quiet, as its pauses have taught
    console: int | None = None  # the station whose key writes here, too: a console's outside


def hash_seq(field: int, seq: str) -> bytes:
    """Eight bytes for what a station calls a reading: of 1,000 names no two will ever meet."""
    return hashlib.blake2b(f"{field} {seq}".encode(), digest_size=8).digest()


@dataclasses.dataclass(slots=True)
class Seqs:
    """Which hashes the file may have of a station. Two of 131,072 bits for each: so at most 1 in
    1,000 is a mistake, which costs a question. With one it was 1 in 80, and 5 % of an update."""
    bits: bytearray = dataclasses.field(default_factory=lambda: bytearray(1 << 14))
    count: int = 0

    def add(self, seq: bytes) -> None:
        self.bits[seq[0] << 6 | seq[1] >> 2] |= 1 << (seq[2] & 7)
        self.bits[seq[3] << 6 | seq[4] >> 2] |= 1 << (seq[5] & 7)
        self.count += 1

    def __contains__(self, seq: bytes) -> bool:
        return (self.bits[seq[0] << 6 | seq[1] >> 2] >> (seq[2] & 7)
                & self.bits[seq[3] << 6 | seq[4] >> 2] >> (seq[5] & 7) & 1 == 1)


class Latest(NamedTuple):
    """The newest reading of a series; time and value are None when there is none."""
    series: int
    station: int
    field: int
    label: str | None
    time: int | None
    value: Any


class Note(NamedTuple):
    """What an entry carries besides numbers; all None: it carries nothing at all."""
    status: str | None = None
    latitude: Any = None
    longitude: Any = None
    elevation: Any = None


class Entry(NamedTuple):
    """What one update stored. number is None for a summary of many."""
    time: int
    number: int | None
    values: dict[int, Any]      # by field
    note: Note = Note()


class Piece(NamedTuple):
    """Readings of a series on their way to an engine: (time, value) pairs. Texts stay here."""
    series: int
    behind: tuple[int, int]     # time and entry from where to go on
    station: str
    role: str | None
    field: int
    label: str | None
    points: list[tuple[int, float]]


class Row(NamedTuple):
    """A reading on its way out of or into a CSV file. entry is None where the source has none."""
    time: int
    station: str
    mac: str
    field: int
    value: Any
    entry: int | None


@dataclasses.dataclass(slots=True)
class Batch:
    """What one turn wants stored."""
    readings: list[tuple[int, int, int, Value]] = dataclasses.field(default_factory=list)
    notes: list[tuple[Any, ...]] = dataclasses.field(default_factory=list)
    receipts: dict[tuple[int, bytes], int] = dataclasses.field(default_factory=dict)
    series: list[tuple[int, int, int]] = dataclasses.field(default_factory=list)
    stations: dict[int, Station] = dataclasses.field(default_factory=dict)
    promoted: set[int] = dataclasses.field(default_factory=set)     # whose next key was used
    parts: list[Station] = dataclasses.field(default_factory=list)  # new ones of consoles
    now: int = 0                # when its updates arrived; 0: they are none
    entries: int = 0            # that it stores, and those that were repeated
    repeated: int = 0


def refuse_foreign(path: Path) -> None:
    """Raise StoreError for a file that is not ours, by its first 100 bytes; SQLite opens nothing.
    Offsets: https://www.sqlite.org/fileformat.html#the_database_header"""
    try:
        with path.open("rb") as file:
            header = file.read(100)
    except FileNotFoundError:
        return
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}") from None
    version = int.from_bytes(header[60:64], "big")
    if not header:
        return                          # never got its first commit
    if header[:16] != b"SQLite format 3\0":
        problem = "is no SQLite database"
    elif len(header) == 100 and not any(header[40:44] + header[68:72]):
        return                          # never had a table: our first start was cut off
    elif int.from_bytes(header[68:72], "big") != APPLICATION_ID:
        problem = "is an SQLite database, but not of iotserver; an older table goes to --import"
    elif version > len(MIGRATIONS):
        problem = (f"has layout {version}, and this iotserver {__version__} knows only "
                   f"{len(MIGRATIONS)}; use the newer iotserver that wrote it")
    else:
        return
    raise StoreError(f"{path} {problem}; it was left as it is")


def beside(path: Path, suffix: str) -> Path:
    """A file that goes with another: its log, its lock, its socket."""
    return path.with_name(path.name + suffix)


SOCKETS = (".sock", ".courier")         # beside a database that a server has open
COMPANIONS = ("-wal", "-shm", "-journal", ".lock", *SOCKETS)    # files that go with a database


def require_database(path: Path) -> None:
    refuse_foreign(path)
    if not path.exists():
        raise StoreError(f"{path}: there is no such database; --db names another, "
                         "and --add-station makes one")


def connect(path: Path, mode: str) -> sqlite3.Connection:
    uri = f"{path.absolute().as_uri()}?mode={mode}"
    try:
        return sqlite3.connect(uri, uri=True, isolation_level=None, timeout=5)
    except sqlite3.Error as error:
        raise StoreError(f"{path}: {error}") from None


def take_lock(path: Path) -> sqlite3.Connection:
    """The right to write: an open transaction on FILE.lock, which ends with the process. SQLite is
    our lock, too: that works alike on every system. Raises BlockingIOError when taken."""
    if not path.parent.is_dir():
        raise StoreError(f"{path.parent}: there is no such folder")
    file = beside(path, ".lock")
    lock = connect(file, "rwc")
    try:
        lock.execute("PRAGMA busy_timeout = 0")
        lock.execute("PRAGMA journal_mode = OFF")   # nothing is ever written, so leave no journal
        lock.execute("BEGIN EXCLUSIVE")
        if hasattr(os, "geteuid") and os.geteuid() == 0:    # else the owner is locked out
            owner = (path if path.exists() else path.parent).stat()
            os.lchown(file, owner.st_uid, owner.st_gid)
    except sqlite3.OperationalError as error:
        lock.close()
        if "locked" in str(error):
            raise BlockingIOError from None
        raise StoreError(f"{path.parent} cannot be written: {error}") from None
    return lock


def is_fatal(error: sqlite3.Error) -> bool:
    """Whether a failed commit leaves it open what is on the disk. After a failed fsync the kernel
    may forget the pages and report success next time; a write that failed for want of space is
    harmless. Python 3.10 does not tell I/O errors apart."""
    name = getattr(error, "sqlite_errorname", "") or str(error)
    if name == "SQLITE_IOERR_WRITE":
        return False
    return name.startswith(("SQLITE_IOERR", "SQLITE_CORRUPT", "SQLITE_NOTADB", "disk I/O",
                            "database disk image is malformed", "file is not a database"))


def ask(db: sqlite3.Connection, question: str,
        values: Sequence[Any] | Mapping[str, Any] = ()) -> Any:
    """The first column of the first row of an answer, or None."""
    row = db.execute(question, values).fetchone()
    return row and row[0]


def read_readings(db: sqlite3.Connection, series: int, start: tuple[int, int] = (0, 0),
                  end: tuple[int, int] = (LATEST_TIME, 0), limit: int = -1, order: str = "ASC"
                  ) -> list[tuple[int, int, Any]]:
    """(time, entry, value) from start to before end, both a time and an entry number."""
    return db.execute(f"""
        SELECT time, entry, value FROM reading WHERE series = ? AND (time, entry) >= (?, ?)
        AND (time, entry) < (?, ?) ORDER BY time {order}, entry {order} LIMIT ?""",
        (series, *start, *end, limit)).fetchall()


def find_station(stations: Iterable[Station], name: str) -> Station:
    """A station by its name, else by its MAC. Raises StoreError."""
    stations = list(stations)
    for station in (*(s for s in stations if s.name == name),
                    *(s for s in stations if s.mac == name.lower())):
        return station
    known = ", ".join(repr(s.name) for s in stations) or "none yet"
    raise StoreError(f"there is no station {name!r}; known: {known}")


LABEL = """INSERT INTO series (station, field, label) VALUES (?, ?, ?)
           ON CONFLICT (station, field) DO UPDATE SET label = excluded.label"""

# Readings to delete, by :series, :start, :stop (of a step), :end, :below and :above. Of an hour of
# which readings were pruned only the sum is known: it goes as a whole or stays.
WHOLE = """(:below IS NULL AND :above IS NULL
            AND hour.hour * 3600000 >= :start AND (hour.hour + 1) * 3600000 <= :end)"""
WANTED = f"""series = :series AND time >= :start AND time < :stop
    AND (typeof(value) = 'text' OR (:below IS NULL AND :above IS NULL)
         OR value < :below OR value > :above)
    AND NOT EXISTS (SELECT 1 FROM hour WHERE hour.series = reading.series
                    AND hour.hour = time / 3600000 AND hour.pruned > 0 AND NOT {WHOLE})"""


class Reader:
    """Every question asked of the file, on a connection that cannot write."""

    def __init__(self, path: Path):
        require_database(path)
        self.path = path
        self.db = connect(path, "ro")
        try:
            layout = ask(self.db, "PRAGMA user_version")
        except sqlite3.DatabaseError as error:
            self.close()
            raise StoreError(f"{path}: {error}; it is damaged; restore a backup") from None
        if 0 < layout < len(MIGRATIONS):
            self.close()
            raise StoreError(f"{path} has layout {layout}, of an older iotserver; starting the "
                             f"server of this version ({__version__}) once brings it up to date")

    def close(self) -> None:
        self.db.close()

    def look(self) -> None:
        """A real look at the file: it is still the one that was opened, and can be read."""
        ask(self.db, "SELECT count(*) FROM station")
        if not self.path.exists():
            raise StoreError(f"{self.path} is gone")

    def stations(self, which: str = "ORDER BY id", *values: Any) -> list[Station]:
        """All stations, or those of the end of a SELECT."""
        return [Station(*row) for row in self.db.execute(f"SELECT * FROM station {which}", values)]

    def count_stations(self) -> int:
        return int(ask(self.db, "SELECT count(*) FROM station"))

    def entries(self, stations: Iterable[int]) -> dict[int, int]:
        """{station: entries ever stored} of these."""
        return dict(self.db.execute("""
            SELECT id, last_entry - (SELECT coalesce(sum(last - first + 1), 0) FROM gap
                                     WHERE station = id)
            FROM station WHERE id IN (SELECT value FROM json_each(?))""",
            (json.dumps([*stations]),)).fetchall())

    def latest(self, stations: Iterable[int], now: int = LATEST_TIME) -> list[Latest]:
        """The newest reading up to now of each series of these stations."""
        return [Latest(*row) for row in self.db.execute("""
            SELECT s.id, s.station, s.field, s.label, r.time, r.value
            FROM json_each(?) one JOIN series s ON s.station = one.value
            LEFT JOIN reading r ON r.series = s.id AND (r.time, r.entry) = (
                SELECT time, entry FROM reading WHERE series = s.id AND time <= ?
                ORDER BY time DESC, entry DESC LIMIT 1)
            ORDER BY one.key, s.field""", (json.dumps([*stations]), now))]

    def last_time(self, series: int, now: int) -> int | None:
        """When the newest reading up to now was; where that was pruned, its hour."""
        last: int | None = ask(self.db, """
            SELECT coalesce((SELECT max(time) FROM reading WHERE series = ?1 AND time <= ?2),
                            (SELECT max(hour) FROM hour WHERE series = ?1 AND hour <= ?2 / ?3)
                            * ?3)""", (series, now, HOUR))
        return last

    def series(self, station: int, fields: Iterable[int] = range(1, 10)) -> dict[int, int]:
        """{field: its series}, of these fields."""
        return {field: series for series, field in self.db.execute(
            "SELECT id, field FROM series WHERE station = ? ORDER BY field", (station,))
            if field in fields}

    def span(self, series: int, start: int | None, end: int) -> tuple[int, int]:
        """The part of [start, end) in which the series has hours. Without a start it begins within
        reason, if there is anything: a clock that was never set leaves readings of 1970."""
        first, likely, last = self.db.execute("""
            SELECT (SELECT min(hour) FROM hour WHERE series = ?1),
                   (SELECT min(hour) FROM hour WHERE series = ?1 AND hour >= ?2),
                   (SELECT max(hour) FROM hour WHERE series = ?1)""",
            (series, EARLIEST_TIME // HOUR)).fetchone()
        if first is None:
            return 0, 0
        if start is None and likely is not None:
            first = likely
        return max(start or 0, first * HOUR), min(end, (last + 1) * HOUR)

    def recent(self, series: int, start: int, end: int) -> list[Sample]:
        """The numbers of [start, end), of each minute the last, looked for from minute to minute:
        as many, and as quick, at any interval."""
        return self.db.execute("""
            WITH RECURSIVE last (time) AS (
                SELECT ?3 + 60000 UNION ALL SELECT (
                    SELECT r.time FROM reading r WHERE series = ?1 AND r.time >= ?2
                    AND r.time < min(?3, last.time / 60000 * 60000) AND typeof(value) <> 'text'
                    ORDER BY r.time DESC LIMIT 1)
                FROM last WHERE time NOT NULL)
            SELECT time, (SELECT value FROM reading r WHERE series = ?1 AND r.time = last.time
                          AND typeof(value) <> 'text' ORDER BY entry DESC LIMIT 1)
            FROM last WHERE time < ?3 ORDER BY time""", (series, start, end)).fetchall()

    def quarters(self, series: Iterable[int], end: int) -> list[list[float]]:
        """Of each series the last three numbers of the quarter of an hour up to end, in order: as
        quick at any interval. Where an hour was pruned, it has its mean at its end."""
        return [[value for _, _, value in reversed(self.db.execute("""
            SELECT * FROM (
                SELECT time, entry, value FROM reading WHERE series = ?1 AND time > ?2 - ?3
                AND time <= ?2 AND typeof(value) <> 'text' ORDER BY time DESC, entry DESC LIMIT 3)
            UNION ALL SELECT ?2, 0, total / count FROM hour
            WHERE series = ?1 AND hour = ?2 / 3600000 - 1 AND ?2 % 3600000 = 0
            AND pruned = count""", (one, end, QUARTER)).fetchall())] for one in series]

    def extremes(self, series: int, start: int, end: int) -> list[Sample]:
        """The lowest and the highest number of [start, end), each with its time; none: empty. It
        is in one of three hours, by their summaries: two of them may be in the span in part."""
        return [row for extreme, best in (("min", "minimum"), ("max", "maximum DESC"))
                for row in self.db.execute(f"""
            SELECT time, {extreme}(value) FROM (
                SELECT hour AS h FROM hour WHERE series = ?1 AND pruned < count
                AND hour BETWEEN ?2 / {HOUR} AND (?3 - 1) / {HOUR} ORDER BY {best} LIMIT 3)
            CROSS JOIN reading WHERE series = ?1 AND time >= max(?2, h * {HOUR})
            AND time < min(?3, (h + 1) * {HOUR}) AND typeof(value) <> 'text'""",
            (series, start, end)) if row[0] is not None]

    def outcomes(self, inside: int, outside: int, start: int, end: int) -> list[Outcome]:
        """What became of the forecasts asked from start to end, for a room's series."""
        return list(map(Outcome._make, self.db.execute("""
            SELECT asked, event, score, error, baseline FROM outcome
            WHERE inside = ? AND outside = ? AND asked BETWEEN ? AND ? ORDER BY asked""",
            (inside, outside, start, end))))

    def recent_times(self, series: int, now: int) -> list[int]:
        """When the last twenty readings up to now were, in order."""
        newest = read_readings(self.db, series, end=(now + 1, 0), limit=20, order="DESC")
        return [ms for ms, _, _ in reversed(newest)]

    def first_hour(self) -> Generator[None, None, int | None]:
        """When the history begins that is within reason; in steps."""
        hours, last = [], ask(self.db, "SELECT max(id) FROM series")
        for id in range(0, 0 if last is None else last + 1, STEP_ENTRIES):
            yield
            hours.append(ask(self.db, """
                SELECT min((SELECT min(hour) FROM hour WHERE series = id AND hour >= ?))
                FROM series WHERE id >= ? AND id < ?""",
                (EARLIEST_TIME // HOUR, id, id + STEP_ENTRIES)))
        return min((hour * HOUR for hour in hours if hour is not None), default=None)

    def weights(self) -> tuple[int, int]:
        """Bytes that the database and its log occupy."""
        log = beside(self.path, "-wal")
        return self.path.stat().st_size, log.stat().st_size if log.exists() else 0

    def points(self, series: int, start: int | None, end: int, limit: int) -> list[Point]:
        """Readings of [start, end), thinned to at most limit Points if more. Hours of which
        readings were pruned appear as their summaries. The cost is bounded by MAX_SCAN readings
        or the hours of the span, whatever the number of readings."""
        start, end = self.span(series, start, end)
        if start >= end:
            return []
        hours = self.hours(series, start, end)
        count = sum(hour.size for hour in hours)
        width = -(-(end - start) // limit)
        if count > limit and (width >= HOUR or count > MAX_SCAN):
            origin = start // HOUR * HOUR
            width = -(-(end - origin) // (limit * HOUR)) * HOUR
            points = thin(hours, origin, width)
            return [points[0]._replace(time=max(start, points[0].time)), *points[1:]]
        if count > limit:
            samples = self.samples(series, start, end, hours, width)
            if sum(1 if sample.pruned else sample.size for sample in samples) > limit:
                return thin(samples, start, width)
        return [sample.point for sample in self.samples(series, start, end, hours)]

    def hours(self, series: int, start: int, end: int) -> list[Summary]:
        """Of all hours that touch [start, end)."""
        return list(map(Summary._make, self.db.execute("""
            SELECT hour * 3600000, 3600000, count, minimum, maximum, total, pruned FROM hour
            WHERE series = ? AND hour BETWEEN ? AND ? ORDER BY hour""",
            (series, start // HOUR, (end - 1) // HOUR))))

    def samples(self, series: int, start: int, end: int, hours: list[Summary],
                width: int = 0) -> list[Summary]:
        """In order of time: readings where an hour has them all, else its summary. With a width
        those of as many ms are one: SQLite adds up 10,000 readings in a fifth of our time."""
        pruned = {hour.time: hour for hour in hours if hour.pruned}
        readings = map(Summary._make, self.db.execute(f"""
            SELECT min(time), 0, count(*), min(value), max(value),
                max({-LARGEST!r}, min({LARGEST!r}, total(value))), 0 FROM (
                SELECT time, entry, value FROM reading WHERE series = ? AND time >= ? AND time < ?
                ORDER BY time DESC, entry DESC LIMIT ?)         -- of texts nobody keeps count
            WHERE typeof(value) <> 'text'
            GROUP BY time / {HOUR}, (time - ?) / ?, entry * ? ORDER BY time, entry""",
            (series, start, end, MAX_SCAN, start, width or 1, not width)))
        whole = [r for r in readings if r.time // HOUR * HOUR not in pruned]
        summaries = [hour._replace(time=max(hour.time, start)) for hour in pruned.values()]
        return sorted(summaries + whole, key=operator.attrgetter("time"))

    def rows(self, station: Station, fields: Iterable[int] = range(1, 10),
             start: int = 0, end: int = LATEST_TIME) -> Iterator[Row]:
        """All readings of a station in order of time; pages by key, so it may take for ever."""
        streams = [self.series_rows(station, series, field, start, end)
                   for field, series in self.series(station.id, fields).items()]
        return heapq.merge(*streams, key=lambda row: (row.time, row.entry))

    def series_rows(self, station: Station, series: int, field: int,
                    start: int, end: int) -> Iterator[Row]:
        place = (start, 0)
        while page := read_readings(self.db, series, place, (end, 0), PAGE_ROWS):
            for ms, entry, value in page:
                yield Row(ms, station.name, station.mac, field, value, entry)
            place = page[-1][0], page[-1][1] + 1

    def feed(self, station: int, before: tuple[int, int], limit: int,
             fields: Iterable[int] = range(1, 10), start: int = 0) -> list[Entry]:
        """The newest entries from start to before (a time and a number), in order of time: at
        most limit of those that have one of these fields, or a note."""
        values: dict[tuple[int, int], dict[int, Any]] = collections.defaultdict(dict)
        for field, series in self.series(station, fields).items():
            for ms, entry, value in read_readings(
                    self.db, series, (start, 0), before, limit, "DESC"):
                values[ms, entry][field] = value
        notes = {(ms, entry): Note(*note) for ms, entry, *note in self.db.execute("""
            SELECT time, entry, status, latitude, longitude, elevation FROM note
            WHERE station = ? AND time >= ? AND (time, entry) < (?, ?)
            ORDER BY time DESC, entry DESC LIMIT ?""", (station, start, *before, limit))}
        newest = heapq.nlargest(limit, values.keys() | notes.keys())
        return [Entry(ms, number, values.get((ms, number), {}), notes.get((ms, number), Note()))
                for ms, number in reversed(newest)]

    def last_entry(self, station: int, field: int, now: int) -> Entry | None:
        """The newest entry up to now that has a value of this field."""
        for ms, number, _ in read_readings(self.db, self.series(station).get(field, -1),
                                           end=(now + 1, 0), limit=1, order="DESC"):
            return self.feed(station, (ms, number + 1), 1)[0]
        return None

    def find_entry(self, station: int, number: int) -> Entry | None:
        """An entry by its number. No index holds them; but they grow with time, but for what came
        late, so the place is found by halving, and MAX_SCAN readings around it are looked at."""
        ms = ask(self.db, "SELECT time FROM note WHERE station = ? AND entry = ?",
                 (station, number))
        for series in self.series(station).values():
            if ms is not None:
                break
            times = range(*self.span(series, None, LATEST_TIME))
            place = times.start + bisect.bisect_left(times, number, key=lambda start: max(
                (entry for _, entry, _ in read_readings(self.db, series, (start, 0), limit=1)),
                default=number))
            ms = ask(self.db, """
                SELECT time FROM (SELECT * FROM (
                    SELECT time, entry FROM reading WHERE series = ?1 AND time >= ?2
                    ORDER BY time LIMIT ?3) UNION ALL SELECT * FROM (
                    SELECT time, entry FROM reading WHERE series = ?1 AND time < ?2
                    ORDER BY time DESC LIMIT ?3)) WHERE entry = ?4""",
                (series, place, MAX_SCAN // 2, number))
        return None if ms is None else self.feed(station, (ms, number + 1), 1)[0]

    def count(self, before: int = LATEST_TIME) -> int:
        """Readings in the table, or those before an instant."""
        return int(ask(self.db, """
            SELECT total((SELECT count(*) FROM reading WHERE series = id AND time < ?))
            FROM series""", (before,)))

    def count_unsent(self, before: int) -> int:
        """Those of them that have yet to be forwarded."""
        return int(ask(self.db, """
            SELECT total((SELECT count(*) FROM reading r WHERE r.series = u.series
                          AND (r.time, r.entry) >= (u.time, u.entry) AND r.time < ?
                          AND typeof(value) <> 'text')) FROM unsent u""", (before,)))

    def count_wanted(self, series: int, wanted: dict[str, Any]) -> tuple[int, int]:
        """How many readings delete_step would take, and how many pruned hours stay as they are."""
        wanted = {**wanted, "series": series, "stop": wanted["end"]}
        return ask(self.db, f"SELECT count(*) FROM reading WHERE {WANTED}", wanted), ask(
            self.db, f"""
            SELECT count(*) FROM hour WHERE series = :series AND hour >= :start / 3600000
            AND hour * 3600000 < :end AND pruned > 0 AND NOT {WHOLE}
            AND ((:below IS NULL AND :above IS NULL) OR minimum < :below OR maximum > :above)""",
            wanted)

    def copy(self, target: Path, progress: Callable[[float], None]) -> None:
        """A compact, consistent copy of the database at target, which must not exist."""
        def tell() -> None:
            with contextlib.suppress(OSError):
                progress(target.stat().st_size / (sum(self.weights()) + 1))
        self.db.set_progress_handler(tell, 1_000_000)
        self.db.execute("VACUUM INTO ?", (str(target),))
        self.db.set_progress_handler(None, 0)

    def check(self, progress: Callable[[float], None]) -> tuple[list[str], list[str]]:
        """What is damaged, and which summaries are wrong; both empty when all is well."""
        ticks = itertools.count(1)
        self.db.set_progress_handler(lambda: progress(1 - 1 / (1 + next(ticks) / 50)), 1_000_000)
        damage: list[str] = []
        mistakes: list[str] = []
        try:
            found = self.db.execute("PRAGMA integrity_check").fetchall()
            damage += [text for text, in found if text != "ok"]
            damage += [f"{table}: row without its {parent}" for table, _, parent, _ in
                       self.db.execute("PRAGMA foreign_key_check")]
            for series, in self.db.execute("SELECT id FROM series").fetchall():
                self.db.execute("BEGIN")        # readings and summaries of one instant
                mistakes += check_series(self, series)
                self.db.execute("COMMIT")
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
            damage.append(str(error) or "the file cannot be read")      # Python 3.10 says nothing
        self.db.set_progress_handler(None, 0)
        return damage, mistakes


def check_series(reader: Reader, series: int) -> list[str]:
    """Every summary of a series is compared with the readings that it summarizes."""
    raw = {hour: rest for hour, *rest in reader.db.execute("""
        SELECT time / 3600000 * 3600000, count(*), min(value), max(value), total(value)
        FROM reading WHERE series = ? AND typeof(value) <> 'text' GROUP BY 1""", (series,))}
    problems = []
    for hour in reader.hours(series, 0, LATEST_TIME):
        count, low, high, total = raw.pop(hour.time, (0, None, None, None))
        is_right = count + hour.pruned == hour.size and (hour.pruned or (
            (low, high) == (hour.minimum, hour.maximum)
            and math.isclose(max(-LARGEST, min(LARGEST, total)), hour.total,
                             abs_tol=1e-9 * count * max(1, abs(low), abs(high)))))
        if not is_right:
            problems.append(f"series {series}, hour from {format_time(hour.time)}: "
                            "the summary is not that of its readings")
    return problems + [f"series {series}, hour from {format_time(ms)}: no summary"
                       for ms in raw]


def count_from(db: sqlite3.Connection, places: Mapping[int, tuple[int, int]]
               ) -> Generator[None, None, int]:
    """How many numbers series have from a place on, in steps."""
    total = 0
    for series, place in tuple(places.items()):
        total += ask(db, """
            SELECT (SELECT count(*) FROM reading WHERE series = ?1 AND typeof(value) <> 'text'
                    AND (time, entry) >= (?2, ?3) AND time < (?4 + 1) * 3600000)
                + (SELECT total(count - pruned) FROM hour WHERE series = ?1 AND hour > ?4)""",
            (series, *place, place[0] // HOUR))
        yield
    return int(total)


ALL_UNSENT = """INSERT OR REPLACE INTO unsent SELECT id, coalesce(
    (SELECT min(hour) FROM hour WHERE series = id), 0) * 3600000, 0 FROM series"""


class Outbox:
    """From where on an engine lacks readings of each series: the file knows, and comes a little
    after it. While an engine is away, that is no row more."""

    def __init__(self, database: "Database"):
        self.database, self.db = database, database.db
        found: tuple[str | None, int] = (
            self.db.execute("SELECT * FROM forward").fetchone() or (None, 0))
        self.engine, self.asked = found         # None: nothing is forwarded
        self.unsent: dict[int, tuple[int, int]] = {         # by series, as the file has it
            series: (ms, entry) for series, ms, entry in self.db.execute("SELECT * FROM unsent")}
        self.pending = dict(self.unsent)        # the same, as it is
        self.sending: dict[int, tuple[int, int]] = {}   # to where it is on its way
        self.ticket = secrets.randbits(32)      # of what is on its way
        self.reached: dict[int, tuple[int, int]] = {}   # to where the engine has it, and to where
        self.settled: dict[int, tuple[int, int]] = {}   # it had it when that was last settled
        self.settles = 0.0                      # when that is next

    def mark(self, readings: Iterable[tuple[int, int, int, Value]]) -> None:
        """What is being stored is to be forwarded; within a transaction."""
        first: dict[int, int] = {}
        for series, ms, _, _ in readings:
            if ms < first.get(series, LATEST_TIME):
                first[series] = ms
        marks = []
        for series, ms in first.items():
            place = (ms, 0)
            if place < self.unsent.get(series, (LATEST_TIME, 0)):
                self.unsent[series] = place
                marks.append((series, *place))
            self.pending[series] = min(place, self.pending.get(series, place))
            for had in (self.sending, self.reached, self.settled):  # a late one moves them back
                if place < had.get(series, (0, 0)):
                    had[series] = place
        self.db.executemany("INSERT OR REPLACE INTO unsent VALUES (?, ?, ?)", marks)

    def serve(self, engine: str | None, now: int) -> None:
        """An engine asks, or None: nobody does just now. What one lacks is remembered for a while;
        one that asks for the first time, or again after long, lacks all there is."""
        is_known = (self.engine is not None and engine in {None, self.engine}
                    and now - self.asked < FORWARD_MEMORY)
        if engine == self.engine is None or (is_known and (
                engine is None or now - self.asked < HOUR)):
            return
        with self.database.transaction() as db:
            db.execute("DELETE FROM forward")
            if not is_known:
                db.execute("DELETE FROM unsent")
            if engine:
                db.execute("INSERT INTO forward VALUES (?, ?)", (engine, now))
            if engine and not is_known:
                db.execute(ALL_UNSENT)
        self.asked = now
        if not is_known:
            self.database.load()

    def begin_again(self) -> None:
        """The engine gets all there is, from the first hour of each series on."""
        with self.database.transaction() as db:
            db.execute(ALL_UNSENT)
        self.database.load()

    def take(self, reader: sqlite3.Connection) -> list[Piece]:
        """What is to be sent next, the oldest first, but so many pieces that this is soon done."""
        places = heapq.nsmallest(STEP_ENTRIES, self.pending.items(), key=operator.itemgetter(1))
        pieces, limit = [], FORWARD_ROWS
        for series, place in places:
            rows = read_readings(reader, series, place, limit=limit) if limit else []
            limit -= len(rows)
            behind = (rows[-1][0], rows[-1][1] + 1) if rows else place
            for names in reader.execute("""
                    SELECT name, role, field, label FROM series JOIN station
                    ON station.id = station WHERE series.id = ?""", (series,)).fetchall():
                pieces.append(Piece._make((series, behind, *names, [
                    (ms, value) for ms, _, value in rows if not isinstance(value, str)])))
        self.sending = {piece.series: piece.behind for piece in pieces}
        self.ticket += 1
        return pieces

    def forwarded(self, ticket: int) -> None:
        """The engine has what was taken last; what came late meanwhile is still to be sent."""
        if ticket != self.ticket:
            return
        for series, place in self.sending.items():
            self.reached[series] = place
            if read_readings(self.db, series, place, limit=1):
                self.pending[series] = place
            else:
                self.pending.pop(series, None)
        self.sending = {}

    def settle(self) -> None:
        """Note in the file what the engine has had since the last time but one: it may lose what
        came in the seconds before a crash."""
        with self.database.transaction(places=len(self.settled)) as db:
            for series, place in self.settled.items():
                if read_readings(db, series, place, limit=1):
                    self.unsent[series] = place
                    db.execute("UPDATE unsent SET time = ?, entry = ? WHERE series = ?",
                               (*place, series))
                else:
                    self.unsent.pop(series, None)
                    db.execute("DELETE FROM unsent WHERE series = ?", (series,))
        self.settled, self.reached = self.reached, {}

    def look_back(self, monotonic: float) -> None:
        """The engine was away: it gets again what is not settled, but for what it had long ago."""
        if monotonic >= self.settles - SETTLE_SECONDS + CRASH_SECONDS:
            self.settle()
        self.pending = dict(self.unsent)
        self.sending, self.reached, self.settled = {}, {}, {}


class ImportStep:
    """Some rows from elsewhere, within a transaction of the Writer: what is new becomes a batch.
    Twice does not double. A reading is known by its series, time and entry number, or else by its
    series, time and value; of equal ones so many are known as the table has. An hour of which
    readings were pruned takes no more, since its summary may hold them already."""

    def __init__(self, writer: "Writer", now: int):
        self.writer, self.db, self.now, self.batch = writer, writer.db, now, Batch()
        self.known = self.pruned = 0

    def add(self, rows: Iterable[Sequence[Any]]) -> None:
        """Rows in order of time."""
        by_mac, ids, instant = self.writer.by_mac, self.writer.series, -1
        look = functools.lru_cache(maxsize=None)(self._look)
        for ms, name, mac, field, value, entry in rows:
            if ms != instant:
                instant = ms
                # By series, {entry: value}; no value once a row was found to be that reading.
                readings: dict[int, dict[int | None, Value | None]] = {}
                # By station and the number there: the number here, which its fields share.
                numbers: dict[tuple[int, int | None], int] = {}
            if (station := by_mac.get(mac)) is None:
                station = self.writer.adopt(name, mac, self.now)
                self.db.execute("INSERT INTO station (id, name, mac, created) VALUES (?, ?, ?, ?)",
                                (station.id, station.name, mac, self.now))
            if (series := ids.get((station.id, field))) is None:
                series = self.writer.new_series(self.batch, station.id, field)
            if (there := readings.get(series)) is None:
                has_readings, has_pruned = look(series, ms // HOUR)
                if has_pruned:
                    self.pruned += 1
                    continue
                there = readings[series] = {number: value for _, number, value in read_readings(
                    self.db, series, (ms, 0), (ms + 1, 0))} if has_readings else {}
            if there:
                same = entry if entry in there else next(
                    (known for known in there if there[known] == value), None)
                if same is not None:
                    there[same] = None
                    self.known += 1
                    continue
            number = numbers.get((station.id, entry))
            if number is None or number in there:
                number = numbers[station.id, entry] = self._choose(station, ms, entry)
                self.batch.stations[station.id] = station
            there[number] = None
            self.batch.readings.append((series, ms, number, value))

    def _look(self, series: int, hour: int) -> tuple[int, int]:
        """Whether an hour has readings in the table, and whether some of it were pruned."""
        row: tuple[int, int] = self.db.execute("""
            SELECT EXISTS (SELECT 1 FROM reading WHERE series = ?1 AND time >= ?2 * 3600000
                           AND time < (?2 + 1) * 3600000),
                   EXISTS (SELECT 1 FROM hour WHERE series = ?1 AND hour = ?2 AND pruned > 0)""",
            (series, hour)).fetchone()
        return row

    def _choose(self, station: Station, ms: int, entry: int | None) -> int:
        """The entry number for a new reading: its own if that is free, else the next."""
        following, gap = station.last_entry + 1, None
        if entry is None or entry == following:             # as nearly always
            station.last_entry = following
            return following
        if 0 < entry < following:
            gap = self.db.execute("""
                DELETE FROM gap WHERE station = ? AND last >= ? AND first = (
                    SELECT max(first) FROM gap WHERE station = ? AND first <= ?)
                RETURNING first, last""", (station.id, entry, station.id, entry)).fetchone()
            if not gap and ask(self.db, """
                    SELECT 1 FROM reading WHERE time = ? AND entry = ?
                    AND series IN (SELECT id FROM series WHERE station = ?)""",
                    (ms, entry, station.id)):
                return entry                                # another field of the same entry
        number = entry if gap else max(entry, following)
        if gap or number > following:
            first, last = gap or (following, number)
            self.db.executemany("INSERT INTO gap VALUES (?, ?, ?)", [
                (station.id, *left) for left in ((first, number - 1), (number + 1, last))
                if left[0] <= left[1]])
        station.last_entry = max(station.last_entry, number)
        return number


class Database:
    """The file as the one process that writes has it: lock, layout, transactions, log; and what
    stations send: as many updates are added as the turn brings, then all are committed."""

    def __init__(self, path: Path):
        """Raises StoreError, BlockingIOError."""
        self.path = path
        self.pages = CHECKPOINT_PAGES   # a log that an earlier process left is checkpointed soon
        refuse_foreign(path)
        with contextlib.ExitStack() as stack:
            self.lock = stack.enter_context(contextlib.closing(take_lock(path)))
            refuse_foreign(path)        # once more: now nobody else can make it
            self.db = stack.enter_context(contextlib.closing(connect(path, "rwc")))
            try:
                self._prepare()
                self.load()
            except (sqlite3.Error, UnicodeDecodeError) as error:
                advice = ("make room on the disk" if "full" in str(error)
                          else "restore a backup, or name another --db")
                raise StoreError(f"{path}: {error}; {advice}") from None
            self.opened = os.stat(path)
            stack.pop_all()             # all is well: they stay open

    def _prepare(self) -> None:
        version = ask(self.db, "PRAGMA user_version")
        if not version:     # else a start writes nothing, so that a full disk cannot prevent it
            self.db.execute("PRAGMA auto_vacuum = INCREMENTAL")  # only before the first table
        self.db.create_function("hash_seq", 2, hash_seq)
        for number, script in enumerate(MIGRATIONS[version:], version + 1):
            self.db.executescript(f"""BEGIN IMMEDIATE; {script};
                PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {number};
                COMMIT;""")
        if ask(self.db, "PRAGMA journal_mode = WAL") != "wal":
            raise StoreError(f"{self.path}: this file system cannot hold a write-ahead log; "
                             "--db has to be on a local disk")
        for pragma in WRITER_PRAGMAS:
            self.db.execute(f"PRAGMA {pragma}")

    def load(self) -> None:
        """Take stations and series as the file has them; nothing is on its way to it."""
        self.batch = Batch()
        self.known_seqs: dict[int, Seqs] = {}   # of the stations that sent last
        self.stations = {
            row[0]: Station(*row) for row in self.db.execute("SELECT * FROM station ORDER BY id")}
        self.by_mac = {station.mac: station for station in self.stations.values()}
        self.index_keys()
        self.series_places: dict[int, tuple[int, int]] = {
            series: (station, field) for series, station, field in
            self.db.execute("SELECT id, station, field FROM series").fetchall()}
        self.series = {place: series for series, place in self.series_places.items()}
        last: dict[str, int] = dict(self.db.execute("SELECT * FROM sqlite_sequence").fetchall())
        self.next_series = last.get("series", -1) + 1
        self.next_station = last.get("station", 0) + 1
        self.outbox = Outbox(self)
        self.told: dict[str, dict[tuple[int, str], tuple[str, int]]] = (
            collections.defaultdict(dict))
        for destination, station, topic, *told in self.db.execute("SELECT * FROM told"):
            self.told[destination][station, topic] = cast(tuple[str, int], tuple(told))

    def index_keys(self) -> None:
        self.by_key = {key: station for station in self.stations.values()
                       for key in (station.key, station.next_key) if key}

    def is_in_place(self) -> bool:
        """Whether the file under our path still is the one that we write to."""
        try:
            return os.path.samestat(os.stat(self.path), self.opened)
        except OSError:
            return False

    def close(self) -> None:
        self.db.close()                 # checkpoints and removes the log
        self.lock.close()

    @contextlib.contextmanager
    def transaction(self, places: int = 3) -> Iterator[sqlite3.Connection]:
        """One durable change, or none: after an error memory again says what the file says.
        places are where rows that do not lie together change: each costs the log a page or two."""
        before = self.db.total_changes
        try:
            self.db.execute("BEGIN IMMEDIATE")
            yield self.db
            self.db.execute("COMMIT")
        except BaseException:
            if self.db.in_transaction:
                self.db.execute("ROLLBACK")
            self.load()
            raise
        self.pages += 2 * places + (self.db.total_changes - before) // 50
        if self.pages >= CHECKPOINT_PAGES:
            self.checkpoint()

    def checkpoint(self) -> None:
        """Move the log into the database. A full disk only postpones it; other errors do not."""
        self.pages = 0
        try:
            self.db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        except sqlite3.Error as error:
            if is_fatal(error):
                raise

    def add(self, station: Station, reading: Reading, now: int) -> int:
        """Put a reading into the open batch; its entry number, to be told after commit only."""
        if reading.seq is not None:
            seq = hash_seq(reading.field, reading.seq)
            if (entry := self.find_receipt(station.id, seq)) is not None:
                self.batch.stations[station.id], self.batch.now = station, now
                self.batch.repeated += 1
                return entry
            self.batch.receipts[station.id, seq] = station.last_entry + 1
        ms = max(0, min(now - reading.age, LATEST_TIME - 1))    # wherever the clock is, it is kept
        return self.add_entry(station, ms, {reading.field: reading.value}, now)

    def find_receipt(self, station: int, seq: bytes) -> int | None:
        """The entry of the reading that came with this hash before. Nearly all are new: the file
        is asked only for a hash that it may have."""
        entry = self.batch.receipts.get((station, seq))
        if entry is None and seq in self.find_seqs(station):
            entry = ask(self.db, "SELECT entry FROM receipt WHERE station = ? AND hash = ?",
                        (station, seq))
        return entry

    def find_seqs(self, station: int) -> Seqs:
        """The hashes that the file may have of a station."""
        if (known := self.known_seqs.get(station)) is None:
            if len(self.known_seqs) >= RECEIPT_STATIONS:
                self.known_seqs.clear()
            known = self.known_seqs[station] = Seqs()
            for hash, in self.db.execute("SELECT hash FROM receipt WHERE station = ?", (station,)):
                known.add(hash)
        return known

    def add_entry(self, station: Station, ms: int, values: Mapping[int, Value], now: int,
                  note: Note | None = None) -> int:
        """Put an entry of values by field into the open batch; its number."""
        batch = self.batch
        batch.stations[station.id], batch.now = station, now
        station.last_entry += 1
        batch.entries += 1
        for field, value in values.items():
            if (series := self.series.get((station.id, field))) is None:
                series = self.new_series(batch, station.id, field)
            batch.readings.append((series, ms, station.last_entry, value))
        if note:
            batch.notes.append((station.id, station.last_entry, ms, *note))
        return station.last_entry

    def new_series(self, batch: Batch, station: int, field: int) -> int:
        """The id of a series that will be written with the batch."""
        series = self.series[station, field] = self.next_series
        self.series_places[series] = (station, field)
        self.next_series += 1
        batch.series.append((series, station, field))
        return series

    def adopt(self, name: str, mac: str, now: int) -> Station:
        """A station for a MAC not yet known, in memory alone; it has no key until --new-key."""
        taken = {"", *(station.name for station in self.stations.values())}
        names = itertools.chain((name, mac), (f"{mac} {n}" for n in itertools.count(2)))
        station = Station(self.next_station, next(n for n in names if n not in taken), mac,
                          created=now)
        self.stations[station.id] = self.by_mac[mac] = station
        self.next_station += 1
        return station

    def find_part(self, console: Station, place: str, now: int) -> Station | None:
        """The station for a place of a console; a new one comes with the batch. None: its name
        or MAC is that of a station which was registered otherwise."""
        if not place:
            return console
        name, mac = name_part(console.name, console.mac, place)
        part = self.by_mac.get(mac)
        if part is None:
            if len(mac) > MAX_MAC or {name, mac} <= {s.name for s in self.stations.values()}:
                return None
            part = self.adopt(name, mac, now)
        if part.console != console.id:
            if part.key or part.console:
                return None
            part.console = console.id           # an import may have left it, without a key
            self.batch.parts.append(part)
        return part

    def commit(self) -> Batch:
        """Store the open batch durably and return it. Raises sqlite3.Error: none of it is kept."""
        batch, self.batch = self.batch, Batch()
        if batch.stations:
            with self.transaction(places=3 + len({r[0] for r in batch.readings})):
                self._write(batch)
        return batch

    def _write(self, batch: Batch) -> None:
        for part in batch.parts:
            self.db.execute("""
                INSERT INTO station (id, name, mac, created, console) VALUES (?, ?, ?, ?, ?)
                ON CONFLICT (id) DO UPDATE SET console = excluded.console""",
                (part.id, part.name, part.mac, part.created, part.console))
        self.db.executemany("INSERT INTO series (id, station, field) VALUES (?, ?, ?)",
                            batch.series)
        self.db.executemany("INSERT INTO reading VALUES (?, ?, ?, ?)", batch.readings)
        if self.outbox.engine:
            self.outbox.mark(batch.readings)
        self.db.executemany("""
            INSERT INTO hour VALUES (?, ?, ?, ?, ?, ?, 0) ON CONFLICT (series, hour) DO UPDATE SET
            count = count + excluded.count,
            total = max(-1.7e308, min(1.7e308, total + excluded.total)),    -- never infinite
            minimum = min(minimum, excluded.minimum), maximum = max(maximum, excluded.maximum)""",
            [(*place, *summary) for place, summary in summarize(batch.readings).items()])
        self.db.executemany("INSERT INTO note VALUES (?, ?, ?, ?, ?, ?, ?)", batch.notes)
        receipts = [(station, entry, seq) for (station, seq), entry in batch.receipts.items()]
        self.db.executemany("INSERT INTO receipt VALUES (?, ?, ?)", receipts)
        for sender, seq in batch.receipts:
            self.find_seqs(sender).add(seq)
            if self.known_seqs[sender].count > 2 * RECEIPTS:
                self.db.execute("DELETE FROM receipt WHERE station = ? AND entry <= ?",
                                (sender, self.stations[sender].last_entry - RECEIPTS))
                del self.known_seqs[sender]
        for station in batch.stations.values():
            if batch.now and station.heard:
                station.silence = learn_silence(station.silence, batch.now - station.heard)
            station.heard = batch.now or station.heard
        self.db.executemany(
            "UPDATE station SET heard = ?, last_entry = ?, silence = ? WHERE id = ?", [
                (s.heard, s.last_entry, s.silence, s.id) for s in batch.stations.values()])
        for station in map(self.stations.__getitem__, batch.promoted):
            self.db.execute("UPDATE station SET key = next_key, next_key = NULL WHERE id = ?",
                            (station.id,))
            station.key, station.next_key = station.next_key, None
        if batch.promoted:
            self.index_keys()


class Writer(Database):
    """All that changes the file: updates, and commands, each so short that a server can carry it
    out between two updates."""

    def tell(self, destination: str, rows: Iterable[tuple[int, str, str, int]]) -> None:
        """Note who was told what, and when; without destination what is true, since when."""
        with self.transaction() as db:
            for station, topic, state, ms in rows:
                if station in self.stations:
                    db.execute("INSERT OR REPLACE INTO told VALUES (?, ?, ?, ?, ?)",
                               (destination, station, topic, state, ms))
                    self.told[destination][station, topic] = state, ms

    def keep_outcomes(self, inside: int, outside: int, outcomes: Iterable[Outcome], start: int
                      ) -> None:
        """Add what became of forecasts of a room; what is older than start goes."""
        with self.transaction() as db:
            db.executemany("REPLACE INTO outcome VALUES (?, ?, ?, ?, ?, ?, ?)",
                           [(inside, outside, *outcome) for outcome in outcomes])
            db.execute("DELETE FROM outcome WHERE asked < ?", (start,))

    def find(self, name: str) -> Station:
        return find_station(self.stations.values(), name)

    def add_station(self, name: str, mac: str, role: str | None, key: str | None,
                    now: int) -> None:
        """Register a station, or complete one that an import has left without a key. key is the
        SHA-256 in hex, or None."""
        with self.transaction():
            self._register(name, mac, role, key, now)
        self.load()

    def add_console(self, name: str, mac: str, key: str, now: int) -> None:
        """Register a console, by the name and MAC of its station outside, and that inside."""
        with self.transaction():
            id = self._register(name, mac, "outside", key, now)
            inside = self._register(*name_part(name, mac, "in"), "inside", None, now)
            self.db.execute("UPDATE station SET console = ? WHERE id = ?", (id, inside))
            self.db.executemany(LABEL, [
                (station, field, label) for station, count in ((id, MAX_FIELDS), (inside, 3))
                for field, label in enumerate(CONSOLE_LABELS[:count], 1)])
        self.load()

    def _register(self, name: str, mac: str, role: str | None, key: str | None, now: int) -> int:
        imported = self.by_mac.get(mac)
        if imported and (imported.key or imported.console):
            raise StoreError(f"MAC {mac} already belongs to station {imported.name!r}")
        if any(name == s.name and s is not imported for s in self.stations.values()):
            raise StoreError(f"there is a station {name!r} already; --new-key {name} gives it "
                             "a new key")
        self._refuse_used_key(key)
        return int(ask(self.db, """
            INSERT INTO station (name, mac, role, key, created) VALUES (?, ?, ?, ?, ?)
            ON CONFLICT (mac) DO UPDATE SET name = excluded.name, role = excluded.role,
            key = excluded.key RETURNING id""",
            (name, mac, role, key and bytes.fromhex(key), now)))

    def _refuse_used_key(self, key: str | None) -> None:
        if key and bytes.fromhex(key) in self.by_key:
            raise StoreError("this key belongs to a station already; each has its own")

    def edit_station(self, name: str, new_name: str | None, mac: str | None,
                     role: str | None) -> None:
        """Change what is not None of a station; the role `none` takes its role away."""
        station = self.find(name)
        if len(mac or "") > MAX_CONSOLE and any(
                part.console == station.id for part in self.stations.values()):
            raise StoreError(f"a console's MAC has at most {MAX_CONSOLE} characters")
        try:
            with self.transaction() as db:
                db.execute("UPDATE station SET name = ?, role = ? WHERE id = ?", (
                    new_name or station.name, {None: station.role, "none": None}.get(role, role),
                    station.id))
                # The MACs of its rooms, where it is a console's, begin with its own.
                db.execute("""
                    UPDATE station SET mac = ?1 || substr(mac, ?2)
                    WHERE id = ?3 OR console = ?3 AND substr(mac, 1, ?2) = ?4 || '-'""", (
                    mac or station.mac, len(station.mac) + 1, station.id, station.mac))
        except sqlite3.IntegrityError:
            raise StoreError("another station has this name or MAC already") from None
        self.load()

    def new_key(self, name: str, key: str, at_once: bool = False) -> bool:
        """Give a station a second key (SHA-256 in hex); the first one ends when it is used, or at
        once. Whether there is a first one still."""
        keeps_first = self.find(name).key is not None and not at_once
        if at_once:
            self._set_key(name, "next_key", None)
        self._set_key(name, "next_key" if keeps_first else "key", key)
        return keeps_first

    def set_read_key(self, name: str, key: str) -> None:
        """Give a station a key (SHA-256 in hex) that only reads; the one before ends."""
        self._set_key(name, "read_key", key)

    def _set_key(self, name: str, column: str, key: str | None) -> None:
        station = self.find(name)
        self._refuse_used_key(key)
        with self.transaction() as db:
            db.execute(f"UPDATE station SET {column} = ? WHERE id = ?",
                       (key and bytes.fromhex(key), station.id))
        self.load()

    def label(self, name: str, field: int, text: str) -> None:
        """Name a field; an empty text takes the name away."""
        station = self.find(name)
        with self.transaction() as db:
            db.execute(LABEL, (station.id, field, text or None))
        self.load()

    def remove_step(self, name: str) -> int:
        """Remove a piece of a station; the readings removed, -1 when nothing of it is left. Its
        keys go first, so that no update comes in between. Cut short, it can be called again."""
        station = self.find(name)
        series = [id for (owner, _), id in self.series.items() if owner == station.id]
        with self.transaction() as db:
            db.execute("UPDATE station SET key = NULL, next_key = NULL, read_key = NULL "
                       "WHERE id = ?", (station.id,))
            station.key = station.next_key = None
            self.index_keys()
            for id in series:
                if removed := self._delete_oldest(id, LATEST_TIME):
                    return removed
            for table in ("hour", "unsent"):
                db.executemany(f"DELETE FROM {table} WHERE series = ?", [(id,) for id in series])
            for table in ("series", "note", "receipt", "gap", "told"):
                db.execute(f"DELETE FROM {table} WHERE station = ?", (station.id,))
            db.execute("UPDATE station SET console = NULL WHERE console = ?", (station.id,))
            db.execute("DELETE FROM station WHERE id = ?", (station.id,))
            db.execute("DELETE FROM outcome")
        self.load()
        return -1

    def prune_step(self, before: int) -> int:
        """Delete up to STEP_ROWS raw readings older than before; how many. 0: no more."""
        series = ask(self.db, """
            SELECT id FROM series WHERE EXISTS (
                SELECT 1 FROM reading WHERE series = id AND time < ?) LIMIT 1""", (before,))
        if series is None:
            return 0
        with self.transaction():
            return self._delete_oldest(series, before)

    def _delete_oldest(self, series: int, before: int) -> int:
        bound = self.db.execute("""
            SELECT time, entry FROM reading WHERE series = ? AND time < ?
            ORDER BY time, entry LIMIT 1 OFFSET ?""", (series, before, STEP_ROWS)).fetchone()
        place = (series, *(bound or (before, -1)))
        self.db.execute("""
            UPDATE hour SET pruned = pruned + gone.n FROM (
                SELECT time / 3600000 AS hour, count(*) AS n FROM reading
                WHERE series = ? AND (time, entry) < (?, ?) AND typeof(value) <> 'text'
                GROUP BY 1) AS gone
            WHERE hour.series = ? AND hour.hour = gone.hour""", (*place, series))
        return self.db.execute("DELETE FROM reading WHERE series = ? AND (time, entry) < (?, ?)",
                               place).rowcount

    def delete_step(self, name: str, field: int, wanted: dict[str, Any]) -> tuple[int, int]:
        """Delete up to some STEP_ROWS readings that are wanted: how many went, and the time from
        which to go on. The summaries of their hours follow."""
        wanted = {**wanted, "series": self.series.get((self.find(name).id, field), -1)}
        stop = wanted["stop"] = min(wanted["end"], ask(self.db, f"""
            SELECT (time / 3600000 + 1) * 3600000 FROM reading
            WHERE series = :series AND time >= :start AND time < :end
            ORDER BY time LIMIT 1 OFFSET {STEP_ROWS}""", wanted) or wanted["end"])
        with self.transaction() as db:
            gone = db.execute(f"DELETE FROM reading WHERE {WANTED}", wanted).rowcount
            db.execute(f"""
                DELETE FROM hour WHERE series = :series AND (pruned = 0 OR {WHOLE})
                AND hour >= :start / 3600000 AND hour * 3600000 < :stop""", wanted)
            db.execute("""
                INSERT INTO hour SELECT series, time / 3600000, count(*), min(value), max(value),
                    max(-1.7e308, min(1.7e308, total(value))), 0 FROM reading
                WHERE series = :series AND typeof(value) <> 'text'
                AND time >= :start / 3600000 * 3600000
                AND time < (:stop + 3599999) / 3600000 * 3600000
                GROUP BY 2 ON CONFLICT DO NOTHING""", wanted)
            db.execute("DELETE FROM outcome")
        return gone, stop

    def prune_notes_step(self, before: int) -> int:
        """Delete up to STEP_ROWS notes older than before; how many. 0: no more."""
        with self.transaction() as db:
            return db.execute("""
                DELETE FROM note WHERE (station, entry) IN (
                    SELECT station, entry FROM note WHERE time < ? LIMIT ?)""",
                (before, STEP_ROWS)).rowcount

    def shrink_step(self) -> int:
        """Give some free pages back to the file system; the bytes. 0: there are no more."""
        free = ask(self.db, "PRAGMA freelist_count")
        if not free:
            self.checkpoint()           # only now does the file really become shorter
            return 0
        with self.transaction(places=STEP_PAGES) as db:
            # One row a page: unless all are fetched, only the first page is freed.
            db.execute(f"PRAGMA incremental_vacuum({STEP_PAGES})").fetchall()
            free -= ask(db, "PRAGMA freelist_count")
        return int(free * ask(self.db, "PRAGMA page_size"))

    def import_rows(self, rows: Iterable[Sequence[Any]], now: int) -> tuple[int, int, int]:
        """Store Rows from elsewhere, those of one instant in one call: how many were stored, how
        many were known, how many are of pruned hours."""
        with self.transaction():
            step = ImportStep(self, now)
            step.add(sorted(rows, key=operator.itemgetter(0)))
            self._write(step.batch)
            self.db.execute("DELETE FROM outcome")
        return len(step.batch.readings), step.known, step.pruned


# ------------------------------------------------------------------------------------------------
# 6. Access
#    Law: who may write and read, and how often. Nothing here says which of two was wrong,
#    and all memory is bounded.
# ------------------------------------------------------------------------------------------------


@remember
def hash_key(key: str) -> bytes:
    """SHA-256 is enough here: a made-up key has 128 random bits, which no one can try out.
    Keys are remembered: what is longer than MAX_SECRET has to be cut to one character more."""
    return hashlib.sha256(key.encode("utf-8", "replace")).digest()


NO_KEY = secrets.token_bytes(32)            # compared with when there is none: takes as long


def matches(digest: bytes, stored: bytes | None) -> bool:
    """Compare in constant time."""
    return hmac.compare_digest(digest, stored or NO_KEY) and stored is not None


def hash_password(password: str, salt: bytes) -> str:
    """The content of a password file: salt and scrypt of the password (RFC 7914), in hex."""
    digest = hashlib.scrypt(password.encode("utf-8", "replace"), salt=salt, **SCRYPT)
    return f"scrypt {salt.hex()} {digest.hex()}\n"


def read_password(name: str) -> str:
    """A file that --set-password made. Raises StoreError."""
    try:
        text = Path(name).read_text(encoding="ascii")
    except (OSError, ValueError) as error:
        raise StoreError(f"--private {name}: {getattr(error, 'strerror', error)}; "
                         f"--set-password {name} makes it") from None
    if not re.fullmatch(r"scrypt [0-9a-f]{32} [0-9a-f]{128}\n", text):
        raise StoreError(f"--private {name}: this is no password file; --set-password makes one")
    return text


PROOF = "iotserver"             # the cookie that shows who knew the password


def find_cookie(headers: Mapping[str, str], name: str) -> str:
    """The value of a cookie, empty where there is none."""
    pairs = (part.strip().partition("=") for part in
             headers.get("cookie", "")[:MAX_COOKIES].split(";"))
    return next((value for found, _, value in pairs if found == name), "")


def parse_basic(authorization: str) -> str | None:
    """The password of `Basic base64(name:password)`, RFC 7617; None where there is none."""
    scheme, _, credentials = authorization.partition(" ")
    if scheme.lower() != "basic" or len(credentials) > MAX_CREDENTIALS:
        return None
    try:
        return base64.b64decode(credentials.strip(), validate=True).decode().partition(":")[2]
    except ValueError:
        return None


@remember
def networks(address: str) -> tuple[str, ...]:
    """Whose guesses are counted together: an address; of IPv6 the /64 of a user, and the /48
    that a provider gives to one. All who tell none are one."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return ("",)
    if ip.version == 4 or ip.ipv4_mapped:
        return (str(getattr(ip, "ipv4_mapped", None) or ip),)
    return tuple(str(ipaddress.ip_network((int(ip), bits), strict=False)) for bits in (64, 48))


class TooOften(Refused):
    """The key was right, but the station has used up its rate; in wait seconds it has not."""

    def __init__(self, wait: float, message: str):
        seconds = str(math.ceil(wait))
        super().__init__(429, f"{message}; try again in {seconds} s", Retry_After=seconds)


class Guesses:
    """Wrong keys and passwords, counted by network in windows of time. Who has had his guesses
    gets no answer about a secret any more, right or wrong, but about those that were right from
    there before: so stations and people behind that address go on."""

    def __init__(self, monotonic: Callable[[], float]):
        self.monotonic = monotonic
        self.counts: dict[str, tuple[int, float]] = {}      # network: guesses, until when
        self.throttled: dict[str, float] = {}               # network: until when
        self.right: dict[tuple[str, bytes], None] = {}      # address and secret

    def refuse(self, address: str, digest: bytes) -> None:
        """Raise Refused 429 unless this secret may be looked at."""
        if not self.throttled or (address, digest) in self.right:
            return
        until = max(self.throttled.get(place, 0.0) for place in networks(address[:MAX_ADDRESS]))
        if (wait := math.ceil(until - self.monotonic())) > 0:
            raise Refused(429, f"too many wrong keys from your address; try again in {wait} s",
                          Retry_After=str(wait))

    def accept(self, address: str, digest: bytes) -> None:
        """This secret is right from there; the oldest such pair makes room."""
        self.right[address[:MAX_ADDRESS], digest] = None
        if len(self.right) > MAX_ADDRESSES:
            del self.right[next(iter(self.right))]

    def add(self, address: str) -> None:
        """One more wrong one. Those that are throttled make room for their like alone."""
        now = self.monotonic()
        for place, limit in zip(networks(address[:MAX_ADDRESS]), (MAX_GUESSES, MAX_SITE_GUESSES),
                                strict=False):
            count, until = self.counts.pop(place, (0, 0.0))
            self.counts[place] = count, until = (
                (count + 1, until) if now < until else (1, now + GUESS_WINDOW))
            if count >= limit:
                self.throttled[place] = until
        if len(self.counts) > MAX_ADDRESSES:
            del self.counts[next(iter(self.counts))]
        if len(self.throttled) > MAX_ADDRESSES:
            del self.throttled[next(iter(self.throttled))]


class Access:
    """Decides on updates, and on who may look when the server is private."""

    def __init__(self, writer: Writer, per_minute: int, monotonic: Callable[[], float],
                 password: str | None = None):
        self.writer, self.per_minute, self.monotonic = writer, per_minute, monotonic
        self.requests: dict[bytes, Bucket] = {}     # by key
        self.readings: dict[bytes, Bucket] = {}     # likewise
        self.guesses = Guesses(monotonic)
        self.password = password                # the content of its file; None: all is public
        self.proven: bytes | None = None        # SHA-256 of the password, once it was given
        self.slots = {True: 0.0, False: 0.0}    # when scrypt may run again; True: has guessed
        self.space = 2                          # 1: the disk has little room left, 0: none

    def admit(self, mac: str | None, key: str, address: str) -> Station:
        """The station an update is from: the one with this MAC, or else with this key.
        Raises Refused: 403, 429 after many of them, 507; TooOften."""
        digest, writer = hash_key(key[:MAX_SECRET + 1]), self.writer
        if self.guesses.throttled:
            self.guesses.refuse(address, digest)
        station = writer.by_key.get(digest) if mac is None else writer.by_mac.get(mac)
        holder = station                                # of the key: a console's, for its rooms
        if station and station.console and not station.key:
            holder = writer.stations[station.console]
        stored = (holder and holder.key) or NO_KEY      # compared with always: takes as long
        is_current = hmac.compare_digest(digest, stored) and stored is not NO_KEY
        if not (station and holder) or not (is_current or matches(digest, holder.next_key)):
            self.guesses.add(address)
            raise Refused(403, "wrong API key or unknown MAC")
        if (address, digest) not in self.guesses.right:
            self.guesses.accept(address, digest)
        if not self.space:
            raise Refused(507, "not stored: the disk is nearly full", Retry_After="600")
        if self.per_minute:
            self.requests[digest], wait = take_tokens(
                self.requests.get(digest), self.monotonic(), self.per_minute, self.per_minute)
            if wait:
                raise TooOften(wait, f"too many updates: at most {self.per_minute} a minute")
        if not is_current:
            writer.batch.promoted.add(holder.id)
        return station

    def charge(self, key: str, values: Iterable[Any]) -> None:
        """Take tokens for many readings, or for long ones: texts. Raises TooOften, Refused."""
        cost = sum(1 + len(value) // TEXT_UNIT if isinstance(value, str) else 1
                   for value in values)
        if self.space < 2 and cost > MAX_FIELDS:
            raise Refused(507, "not stored: the disk is nearly full; single numbers are taken",
                          Retry_After="600")
        if self.per_minute:
            rate = READINGS_PER_UPDATE * self.per_minute
            digest = hash_key(key[:MAX_SECRET + 1])
            self.readings[digest], wait = take_tokens(
                self.readings.get(digest), self.monotonic(), rate, max(rate, MIN_BURST), cost)
            if wait:
                raise TooOften(wait, f"too many readings: at most {rate} a minute")

    def admit_key(self, stations: Iterable[Station], key: str, address: str) -> bool:
        """Whether a key may read one of these: one that writes for it, or its read key."""
        if not key:
            return False
        digest = hash_key(key[:MAX_SECRET + 1])
        self.guesses.refuse(address, digest)
        found = [matches(digest, stored) for station in stations    # all of them: takes as long
                 for stored in (station.key, station.next_key, station.read_key)]
        if not any(found):
            self.guesses.add(address)
            return False
        self.guesses.accept(address, digest)
        return True

    def admit_reader(self, headers: Mapping[str, str], address: str) -> None:
        """Let those in who know the password, under any user name. Raises Refused 401, 403, 429.
        A browser that has been let in shows it by its cookie, also after a restart."""
        if self.password is None:
            return
        if headers.get("sec-fetch-site") == "cross-site" \
                and headers.get("sec-fetch-mode") != "navigate":
            raise Refused(403, "this server is private: other sites cannot read it")
        if hmac.compare_digest(find_cookie(headers, PROOF).encode(), self.proof().encode()):
            return
        password = parse_basic(headers.get("authorization", ""))
        if password is not None and self.is_password(password, address):
            return
        raise Refused(401, "this server is private: it asks for its password",
                      WWW_Authenticate='Basic realm="iotserver", charset="UTF-8"')

    def proof(self) -> str:
        """What only this server can tell to who knew the password; it ends with the password."""
        return hmac.digest((self.password or "").encode(), b"iotserver reader", "sha256").hex()

    def is_password(self, password: str, address: str) -> bool:
        """scrypt tells the first time; from then on the right one is known."""
        digest = hash_key(password[:MAX_SECRET + 1])
        self.guesses.refuse(address, digest)
        if matches(digest, self.proven):
            self.guesses.accept(address, digest)
            return True
        if self.proven is None and self.password and len(password) <= MAX_SECRET:
            now, has_guessed = self.monotonic(), any(
                place in self.guesses.counts for place in networks(address[:MAX_ADDRESS]))
            if now < self.slots[has_guessed]:
                raise Refused(503, "busy; try again", Retry_After="1")
            self.slots[has_guessed] = now + SCRYPT_PAUSES[has_guessed]
            salt = bytes.fromhex(self.password.split()[1])
            if hmac.compare_digest(hash_password(password, salt), self.password):
                self.proven = digest
                self.guesses.accept(address, digest)
                return True
        self.guesses.add(address)
        return False


# ------------------------------------------------------------------------------------------------
# 7. Assets
#    Law: no Python: what a browser gets as it stands. The page is drawn by the server alone;
#    the script asks for it again and renews what has changed.
# ------------------------------------------------------------------------------------------------

STYLE = """
:root {
  color-scheme: light dark; --ink: #18212b; --dim: #55606c; --paper: #f4f6f8; --card: #fff;
  --line: #d5dbe1; --cool: #cfe6f7; --in: #b4430a; --in-2: #8b1e6b; --in-3: #7a5a00;
  --out: #0b63a5; --out-2: #00695c; --out-3: #4a3fb5;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ink: #e8edf2; --dim: #a3afbb; --paper: #11161b; --card: #1b2229;
    --line: #39434d; --cool: #1d3f59; --in: #ff9d66; --in-2: #f08fd0; --in-3: #e2c044;
    --out: #6fbdf5; --out-2: #5fd0bd; --out-3: #b0a8ff;
  }
}
* { box-sizing: border-box; min-width: 0; margin: 0 }
body { background: var(--paper); color: var(--ink); font: 16px/1.45 system-ui, sans-serif }
main { max-width: 46rem; margin: auto; padding: .75rem; overflow-wrap: anywhere }
main, .now, .smalls { display: grid; gap: .75rem }
section, figure { padding: 1rem; border-radius: 1rem; background: var(--card) }
h1 { font-size: 1.6rem; line-height: 1.25; font-weight: 500 }
h1 b { display: block; font-size: 2.1rem }
h1 small { font-size: 1rem }
h2 { font-size: 1rem; font-weight: 600 }
p { margin-top: .25rem }
.verdict { color: #fff; padding: 1.25rem }
.open { background: #0b5d8f }
.close { background: #a33a08 }
.comfortable { background: #24693a }
.cold { background: #57407c }
.unknown { background: #4c5661 }
.now { grid-template-columns: repeat(auto-fit, minmax(8.5rem, 1fr)) }
.big { font-size: min(2.9rem, 12.5vw); line-height: 1.1; font-weight: 300; white-space: nowrap }
.big small { font-size: 1.2rem }
figcaption { line-height: 1.9; text-underline-offset: .3rem }
figcaption span { display: inline-block; margin-right: .75rem; text-decoration-thickness: 3px }
figcaption :is(.inside, .outside) { text-decoration-line: underline }
.dim, .other, time, figcaption, td { color: var(--dim) }
.inside { color: var(--in) }
.outside { color: var(--out) }
.second { --in: var(--in-2); --out: var(--out-2); text-decoration-style: dashed }
.third { --in: var(--in-3); --out: var(--out-3); text-decoration-style: dotted }
nav { display: flex; gap: .5rem; margin-bottom: .75rem }
nav a { flex: 1; padding: .5rem 0; border: 1px solid var(--line); border-radius: .6rem }
nav a { text-align: center; color: inherit; text-decoration: none }
nav a[aria-current] { background: var(--ink); color: var(--card) }
svg { display: block; width: 100%; height: auto; touch-action: pan-y; overflow: visible }
svg * { pointer-events: none; stroke-linejoin: round }
svg text { font-size: 11px; fill: var(--dim) }
path { fill: none; stroke: currentColor; stroke-width: 1.6; vector-effect: non-scaling-stroke }
g.outside path { stroke-width: 2.6 }
figcaption .outside { text-decoration-thickness: 5px }
g.second path { stroke-dasharray: 6 3 }
g.third path { stroke-dasharray: 2 3 }
g.expected path { stroke-dasharray: 5 4 }
.interval { fill: var(--dim); fill-opacity: .18; stroke: var(--dim); stroke-dasharray: 1 3 }
span.interval { border: 1px dotted; padding: 0 .5rem; border-radius: .2rem }
.day { margin: 0; font-size: .85rem; color: var(--dim) }
.verdict details { margin-top: .5rem }
.verdict summary { font-size: 1.1rem; cursor: pointer }
path.band { fill: currentColor; stroke: none; opacity: .18 }
.grid { stroke: var(--line); stroke-width: 1 }
.shade { fill: var(--cool) }
.swatch { white-space: nowrap; background: var(--cool); padding: 0 .5rem; border-radius: .2rem }
input { width: 100%; accent-color: var(--dim); margin-top: .5rem }
output { display: block; min-height: 1.5rem }
output:empty::before { content: "Touch the chart to read values"; color: var(--dim) }
table { border-collapse: collapse; width: 100%; font-size: .85rem }
th, td { text-align: left; padding: .4rem .5rem .4rem 0; vertical-align: top }
tbody :is(th, td) { border-top: 1px solid var(--line) }
tbody th { min-width: 5rem }
.scroll { overflow-x: auto }
.scroll :is(td, thead th) { white-space: nowrap }
.smalls:empty { display: none }
time { cursor: pointer }
.say { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%) }
@media (scripting: none) { input, output { display: none } }
@media (min-width: 40rem) {
  svg text { font-size: 7px }
  .smalls { grid-template-columns: 1fr 1fr }
  .smalls svg text { font-size: 13px }
}
"""

SCRIPT = """
const find = query => document.querySelector(query);
let skew = 0, isLost = false, isExact = false, asked = 0, latest = 0, soon;
const now = () => Date.now() + skew;
const local = (ms, style) => new Date(ms).toLocaleString([], style);
function ago(ms) {
  const s = Math.max(0, Math.floor((now() - ms) / 1000));
  for (const [length, unit] of [[86400, 'd'], [3600, 'h'], [60, 'min']])
    if (s >= length) return Math.floor(s / length) + ' ' + unit + ' ago';
  return s + ' s ago';
}
function tellTimes() {
  for (const time of document.querySelectorAll('time')) {
    const ms = Date.parse(time.dateTime);
    time.textContent = isExact ? local(ms, {dateStyle: 'medium', timeStyle: 'medium'}) : ago(ms);
  }
}
function tick() {
  tellTimes();
  if (Date.now() - asked < 5000) return;
  const isOld = now() >= +find('main').dataset.expires;
  if (isOld) lose('the stations are silent, or this page has no connection.');
  if (isOld || isLost) refresh();
}
function lose(why = 'this page has no connection.') {
  const card = find('.verdict');
  if (isLost || !card) return;
  isLost = true;
  card.className = 'verdict unknown';
  card.innerHTML = '<h1><b>No answer:</b> ' + why + ' What it shows is from ' + local(
    +find('main').dataset.now, {weekday: 'short', hour: 'numeric', minute: '2-digit'}) + '.</h1>';
  find('.say').textContent = card.textContent;
}
async function refresh() {
  const mine = ++latest;                // an answer that comes late must not undo a newer one
  asked = Date.now();
  try {
    const answer = await fetch(location.href,
      {headers: {Accept: 'text/html'}, signal: AbortSignal.timeout(8000)});
    if (!answer.ok || answer.headers.has('x-offline')) throw 0;
    const next = new DOMParser().parseFromString(await answer.text(), 'text/html');
    if (mine !== latest) return;
    const main = find('main'), newer = next.querySelector('main');
    if (isLost || main.dataset.state !== newer.dataset.state)
      find('.say').textContent = newer.querySelector('h1').textContent;
    isLost = false;
    renew(main, newer);
    document.title = next.title;
    tellTimes();
    if (find('output:not(:empty)')) show();
  } catch { if (mine === latest) lose(); }
}
// Each element stays the one it is: a chart under a finger, what has the focus, an open fold.
function renew(old, next) {
  if (old.nodeName !== next.nodeName) return old.replaceWith(next);
  if (old.nodeName === 'OUTPUT') return;
  if (old.nodeType === Node.TEXT_NODE) { old.data = next.data; return; }
  for (const {name} of [...old.attributes])
    if (name !== 'open' && !next.hasAttribute(name)) old.removeAttribute(name);
  for (const {name, value} of next.attributes) old.setAttribute(name, value);
  const olds = [...old.childNodes], nexts = [...next.childNodes];
  nexts.forEach((node, i) => olds[i] ? renew(olds[i], node) : old.append(node));
  olds.slice(nexts.length).forEach(node => node.remove());
}
function show() {
  const slider = find('input'), chart = slider.closest('figure').querySelector('svg');
  const d = chart.dataset, part = slider.value / slider.max;
  const x = +d.left + part * d.width, ms = +d.start + part * (d.end - d.start);
  const said = [local(ms,
    {weekday: 'short', day: 'numeric', month: 'short', hour: 'numeric', minute: '2-digit'})];
  for (const line of chart.querySelectorAll('path[data-name]')) {
    let best = null;
    for (const [, px, py] of line.getAttribute('d').matchAll(/([\\d.]+) ([\\d.]+)/g))
      if (!best || Math.abs(px - x) <= Math.abs(best[0] - x)) best = [px, py];
    const value = best && d.high - (best[1] - d.top) / d.height * (d.high - d.low);
    const isNear = best && Math.abs(best[0] - x) < 6;
    if (isNear || (ms <= now() && !line.closest('.expected')))
      said.push(line.dataset.name + (isNear ? ` ${value.toFixed(1)} ${d.unit}` : ' no reading'));
  }
  chart.querySelector('.cursor').setAttribute('d', 'M' + x + ' ' + d.top + 'v' + d.height);
  slider.setAttribute('aria-valuetext', said.join(', '));
  find('output').textContent = said.join(' \\u00b7 ');
}
document.addEventListener('input', show);
function point(event) {
  const chart = event.target.closest?.('svg[data-left]');
  if (!chart) return;
  const box = chart.getBoundingClientRect(), d = chart.dataset, slider = find('input');
  const x = (event.clientX - box.left) / box.width * chart.viewBox.baseVal.width;
  slider.value = (x - d.left) / d.width * slider.max;
  show();
}
for (const kind of ['pointermove', 'pointerdown']) document.addEventListener(kind, point);
document.addEventListener('click', event => {
  const link = event.target.closest('nav a');
  if (link) {
    event.preventDefault();
    history.replaceState(null, '', link.href);
    refresh();
  } else if (event.target.closest('time')) {
    isExact = !isExact;
    tellTimes();
  }
});
const refreshSoon = () => { soon ||= setTimeout(() => { soon = 0; refresh(); }, 250); };
function listen() {
  const events = new EventSource('/events');
  events.addEventListener('hello', event => { skew = event.data - Date.now(); });
  for (const kind of ['hello', 'reading', 'verdict', 'reset'])
    events.addEventListener(kind, refreshSoon);
  events.onerror = () => {
    refresh();
    if (events.readyState === EventSource.CLOSED) setTimeout(listen, 5000);
  };
}
listen();
addEventListener('offline', () => { latest++; lose(); });
addEventListener('online', refresh);
document.addEventListener('visibilitychange', () => document.hidden || refresh());
setInterval(tick, 1000);
for (const told of ['tz=' + Intl.DateTimeFormat().resolvedOptions().timeZone,
                    'offset=' + -new Date().getTimezoneOffset()])
  document.cookie = told + ';path=/;max-age=31536000;samesite=lax';
if (navigator.serviceWorker) navigator.serviceWorker.register('/worker.js');
"""

WORKER = """
async function keep(answer) {
  if (/no-store/.test(answer.headers.get('Cache-Control'))) await caches.delete('page');
  else if (answer.ok) await (await caches.open('page')).put('/', answer);
}
addEventListener('install', event => event.waitUntil(
  fetch('/').then(keep).catch(() => 0).then(() => skipWaiting())));
addEventListener('activate', event => event.waitUntil(clients.claim()));
addEventListener('fetch', event => {
  if (new URL(event.request.url).pathname !== '/') return;
  event.respondWith(fetch(event.request).then(answer => {
    event.waitUntil(keep(answer.clone()));
    return answer;
  }).catch(() => caches.match('/').then(last => last && new Response(last.body, {headers: {
    'Content-Type': 'text/html', 'X-Offline': '1', 'Content-Security-Policy':
      last.headers.get('Content-Security-Policy')}}) || Response.error())));
});
"""

ICON = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 64 64"><rect width="64" height="64"
 rx="14" fill="#0b5d8f"/><path d="M14 14h36v36H14zM32 14v36M14 32h36" fill="none" stroke="#fff"
 stroke-width="4"/><path d="M32 32h18v18H32z" fill="#ffb27d"/></svg>"""

MANIFEST = """{"name": "iotserver", "short_name": "Windows?", "start_url": "/",
 "display": "standalone", "background_color": "#f4f6f8", "theme_color": "#0b5d8f",
 "icons": [{"src": "/icon.svg", "sizes": "any", "type": "image/svg+xml"}]}"""

# ------------------------------------------------------------------------------------------------
# 8. Pages
#    Law: whatever is not markup goes through escape(); the store is asked for what is shown.
# ------------------------------------------------------------------------------------------------

escape = html.escape
LABELS = {1: "temperature °C", 2: "humidity %", 3: "pressure hPa"}   # or what --label says
HEADLINES = {"open": "Open the windows:", "close": "Keep the windows closed:",
             "unknown": "No answer:", "comfortable": "Comfortable inside:", "cold": "Cold inside:"}
TURNED = "outside has become {} %s; if that lasts, this answer changes."
EVEN = "inside and outside are about even."
REASONS = (     # the answer, from how many °C cooler outside, why; the first that fits is said
    ("open", 0.05, "it is {} cooler outside."),
    ("open", -0.05, EVEN),
    ("open", -math.inf, TURNED % "warmer"),
    ("close", 0.05, TURNED % "cooler"),
    ("close", -0.05, EVEN),
    ("close", -math.inf, "it is {} warmer outside."),
    ("comfortable", -CLOSE_MARGIN, "nothing to do."),
    ("comfortable", -math.inf, "but it is {} warmer outside: keep the windows closed."),
    ("cold", 0.05, "it is {} colder outside: keep the windows closed."),
    ("cold", -OPEN_MARGIN, "it is hardly warmer outside: keep the windows closed."),
    ("cold", -math.inf, "it is {} warmer outside: opening the windows warms the room."))
NO_ROOM = ("No answer yet:",
           "it takes a station with the role inside and one with the role outside.")
URGENCY = ("open", "close", "unknown", "comfortable")   # the room that comes first on the page
COLD_MARGIN = 4.0               # °C below the comfort limit: 22 - 4 is the least that WHO advises
COOLER = "Cooler outside from about {} ({} to {}{})."
FORECAST_STEP = 5 * MINUTE      # to which a forecast is told: it knows no minutes
LEAST_TOLD, MOST_TOLD = 5, 20   # days that tell how good forecasts are
RANGES = {"24h": DAY, "7d": 7 * DAY, "30d": 30 * DAY, "1y": 365 * DAY}
FAHRENHEIT_REGIONS = frozenset({
    "US", "AS", "BS", "BZ", "FM", "GU", "KY", "LR", "MH", "MM", "MP", "PR", "PW", "VI"})
CHART_POINTS, SMALL_POINTS = 480, 60    # of all lines, of a small one: a page has 60 KB
SMALL_CHARTS = 6
LOOK_AGAIN = 15 * MINUTE        # a reading of the future counts so much too late at most
STROKES = ("first", "second", "third")  # of lines: each has its color and its dashes
MAX_ROOMS, MAX_OUTSIDES = 8, 4          # shown as numbers, lines and answers
MAX_ROWS, MAX_FOLDED = 20, 80           # of the table of stations
STALE = 30 * DAY                # a station without a role, silent for so long, is folded away
ZONE = re.compile(r"[A-Za-z0-9_+\-/]{1,64}")

PAGE = string.Template("""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>$title</title>
<meta name="viewport" content="width=device-width,initial-scale=1">
<meta name="theme-color" content="#0b5d8f"><link rel="icon" href="/icon.svg">
<link rel="manifest" href="/manifest.webmanifest"><style>$style</style></head>
<body><main$attributes>
$body</main>$script</body></html>
""")
NO_STATION = string.Template("""<section><h1>No station yet</h1><p>This adds one, and prints
its key and the lines for its config.py; the MAC is what your station prints at start:</p>
<p><code>python3 iotserver.py --db $db --add-station inside --role inside --mac 5c:cf:7f:3b:0d:e8
</code></p><p>Then one more with <code>outside</code>. Or look around first:
<code>python3 iotserver.py --demo</code></p></section>""")


def page_headers(style: str, framing: str = "; frame-ancestors 'none'") -> Headers:
    """What a browser may do for a page with this style, and who may embed it."""
    css, code = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
                 for text in (style, SCRIPT))
    policy = (f"default-src 'none'; style-src 'sha256-{css}'; script-src 'sha256-{code}'; "
              "img-src 'self'; connect-src 'self'; manifest-src 'self'; worker-src 'self'; "
              f"base-uri 'none'; form-action 'none'{framing}")
    return ("Content-Security-Policy", policy), ("Referrer-Policy", "no-referrer")


PAGE_HEADERS = page_headers(STYLE)


class View(NamedTuple):
    """How one reader wants to see the page."""
    unit: str                   # C or F
    zone: tzinfo
    range: str                  # a key of RANGES


def in_unit(celsius: float, unit: str) -> float:
    return celsius if unit == "C" else celsius * 1.8 + 32


class Line(NamedTuple):
    """A series on a chart."""
    name: str
    css: str
    points: list[Point]


class Place(NamedTuple):
    """An inside or outside station; of an inside one also the answer, and against which other."""
    name: str
    role: str
    rank: int                           # among those of its role, from 0
    series: int | None                  # of its temperature
    readings: list[Sample]              # of that, in the verdict's window
    heard: int | None                   # when it sent one last, perhaps before that window
    verdict: Verdict | None = None
    outside: "Place | None" = None
    is_cold: bool = False
    silence: int = SILENT_AT_LEAST      # ms that its pauses allow it to be quiet
    forecast: Forecast | None = None
    tail: Tail = SILENCE                # of the readings that verdicts have taken in, but the last
    fresh: Sequence[Sample] = ()        # the others

    def settle(self, now: int) -> "Place":
        """The same when verdicts have taken in all: the last one, of this minute, may change."""
        if len(self.fresh) < 2:
            return self
        tail = functools.reduce(lambda tail, r: tail.add(*r, self.silence), self.fresh[:-1],
                                self.tail)
        recent = bisect.bisect_left(self.readings, (now - RECENT_WINDOW - self.silence,))
        return self._replace(tail=tail, fresh=self.fresh[-1:], readings=self.readings[recent:])

    @property
    def css(self) -> str:
        return f"{self.role} {STROKES[self.rank % len(STROKES)]}"


@remember
def choose_unit(setting: str, languages: str) -> str:
    """C or F: what the setting says; on auto, what the first language's region is used to."""
    if setting != "auto":
        return setting
    region = re.match(r"\s*[a-z]+(?:-[a-z]{4})?-([a-z]{2})\b", languages, re.IGNORECASE)
    return "F" if region and region[1].upper() in FAHRENHEIT_REGIONS else "C"


@remember
def choose_zone(cookie: str) -> tzinfo:
    """The time zone that the page's script has left in cookies: its name, else its offset."""
    told = dict(re.findall(r"(?:^|;\s*)(tz|offset)=([^;\s]+)", cookie))
    zone, offset = find_zone(told.get("tz", "")), told.get("offset", "0")
    has_offset = zone is timezone.utc and re.fullmatch("-?[0-9]{1,3}", offset)
    return timezone(timedelta(minutes=int(offset))) if has_offset else zone


def find_zone(name: str) -> tzinfo:
    """A time zone by its IANA name, like America/Los_Angeles; UTC when there is none such."""
    try:
        return zoneinfo.ZoneInfo(name) if ZONE.fullmatch(name) else timezone.utc
    except (KeyError, ValueError, OSError):     # unknown, or no time zones on this system
        return timezone.utc


# -- in words -------------------------------------------------------------------------------------

def say_number(value: float) -> str:
    return f"{value:.1f}" if abs(value) < 1e5 else f"{value:.1e}"


def say_time(ms: int, zone: tzinfo | None, form: str) -> str:
    """Of no zone: the machine's."""
    return datetime.fromtimestamp(ms / 1000, timezone.utc).astimezone(zone).strftime(form)


def say_degrees(difference: float, units: str) -> str:
    """A difference of temperatures: `4.1 °F`; of units CF `2.3 °C / 4.1 °F`."""
    degrees = ((abs(difference) * (1 if unit == "C" else 1.8), unit) for unit in units)
    return " / ".join(f"{say_number(value).removesuffix('.0')} °{unit}" for value, unit in degrees)


def say_verdict(room: Place, now: int, unit: str) -> tuple[str, str]:
    """The answer for a room as a sentence in two parts, headline and reason."""
    verdict = room.verdict
    if verdict is None or verdict.difference is None:
        silent = room if verdict and verdict.silent == "inside" else room.outside
        if silent is None:
            return NO_ROOM
        return HEADLINES["unknown"], (
            f'"{silent.name}" has been silent for {format_ago(now - silent.heard)}.'
            if silent.heard is not None else f'"{silent.name}" has sent no temperature yet.')
    answer = "cold" if room.is_cold and verdict.state == "comfortable" else verdict.state
    reason = next(reason for state, least, reason in REASONS
                  if state == answer and verdict.difference >= least)
    return HEADLINES[answer], reason.format(say_degrees(verdict.difference, unit))


def rank_rooms(places: list[Place]) -> list[tuple[Place, Verdict]]:
    """The inside stations with their verdicts, the most urgent first."""
    rooms = [(place, place.verdict) for place in places if place.verdict]
    return sorted(rooms, key=lambda room: URGENCY.index(room[1].state))


def find_expiry(places: list[Place]) -> int:
    """When a verdict turns unknown, unless readings come."""
    return min((verdict.expires for _, verdict in rank_rooms(places) if verdict.expires),
               default=LATEST_TIME)


def say_times(at: int, start: int, end: int, now: int, zone: tzinfo | None) -> list[str]:
    """Of a forecast; what should have come already is expected now."""
    return [say_time(round(ms / FORECAST_STEP) * FORECAST_STEP, zone, "%H:%M")
            for ms in (max(at, now), start, max(end, now))]


def say_forecast(room: Place, now: int, zone: tzinfo | None) -> str:
    """When it gets cooler or warmer outside; in a zone that nobody has told, this is named."""
    forecast = room.forecast
    if forecast is None or room.is_cold or forecast.days < FEWEST_DAYS:
        return ""
    if forecast.at is None or forecast.start is None or forecast.end is None:
        return "Hardly cooler outside within the next 12 hours."
    at, start, end = say_times(forecast.at, forecast.start, forecast.end, now, zone)
    named = say_time(now, zone, " %Z") if zone in {None, timezone.utc} else ""
    if forecast.event == "warmer":
        return (f"Warmer outside some time between {start} and {end}{named}, "
                f"with a chance of {forecast.chance:.0%}.")
    return COOLER.format(at, start, end, named)


def say_record(forecast: Forecast) -> str:
    """How good such forecasts have been."""
    days = {"cooler": "evenings", "warmer": "mornings"}[forecast.event]
    errors = [outcome.error for outcome in forecast.past[-MOST_TOLD:]]
    if len(errors) < LEAST_TOLD:
        return f"Too few {days} have passed to tell how good that is."
    middle = "" if forecast.event == "cooler" else " of the middle"
    return (f"The last {len(errors)} {days}: half of them within "
            f"{round(statistics.median(errors) / MINUTE)} minutes{middle}.")


def say_rooms(places: list[Place], now: int, unit: str, zone: tzinfo | None = None) -> str:
    """The answers in words, a line a room."""
    rooms = [" ".join((f"{room.name}:", *say_verdict(room, now, unit),
                       say_forecast(room, now, zone))).strip() + "\n"
             for room, _ in rank_rooms(places)]
    return "".join(rooms) or f"{' '.join(NO_ROOM)}\n"


def verdict_document(places: list[Place], now: int, units: str = "C"
                     ) -> dict[str, list[dict[str, Any]]]:
    """The answers for programs: °C and ms, whatever people are shown; units are for the text."""
    return {"verdicts": [{
        "station": room.name, "state": verdict.state, "since": verdict.since,
        "inside": verdict.inside, "outside": verdict.outside,
        "difference": verdict.difference and round(verdict.difference, 2),
        "text": " ".join(say_verdict(room, now, units)),
        "forecast": room.forecast and {
            "event": room.forecast.event, "at": room.forecast.at, "from": room.forecast.start,
            "to": room.forecast.end, "chance": round(room.forecast.chance, 2)},
    } for room, verdict in rank_rooms(places)]}


def say_message(station: Station, topic: str, state: str, room: Mapping[str, Any], now: int,
                zone: tzinfo | None, units: str) -> tuple[str, str]:
    """Title and text of a message."""
    name = f'"{station.name}"'
    if state == "back":
        return f"{name} is heard again", f"{name} is heard again."
    if state == "silent":
        ago = format_ago(now - (station.heard or now))
        return f"{name} is silent", f"{name} has been silent for {ago}."
    if topic == "plan":
        at, start, end = map(room["forecast"].get, ("at", "from", "to"))
        return "When it gets cooler", COOLER.format(*say_times(at, start, end, now, zone), "")
    inside, outside = (" / ".join(say_number(in_unit(room[side], unit)) for unit in units)
                       for side in ("inside", "outside"))
    said = room["text"].removesuffix(".")
    return HEADLINES[state].rstrip(":"), f"{said} (inside {inside}, outside {outside})."


def say_trend(readings: list[tuple[int, float]], now: int) -> str:
    """rising, falling or steady over the last half hour; empty where there is too little."""
    recent = [r for r in readings if r[0] > now - TREND_TIME]
    if len(recent) < 2 or recent[-1][0] - recent[0][0] < TREND_TIME // 3:
        return ""
    change = recent[-1][1] - recent[0][1]
    return "steady" if abs(change) < TREND_STEADY else "rising" if change > 0 else "falling"


# -- charts ---------------------------------------------------------------------------------------

# In a chart's own units; the script reads them off the picture.
WIDTH, HEIGHT, SMALL_HEIGHT = 360, 190, 110
LEFT, RIGHT, TOP, BOTTOM = 30, 8, 8, 18     # margins
LARGEST_DRAWN = 1e12            # marks beyond would be all alike: a float has 16 digits
BESIDE = 6                      # points on each side that tell how far apart points are there
FAR_OFF = 1000                  # times the spread: what is so far off is no weather, and not drawn
TICKS = (                       # for charts of up to so many hours: hours between marks, text
    (1, 1 / 4, "%H:%M"), (3, 1 / 2, "%H:%M"), (12, 2, "%H:%M"), (48, 6, "%H:%M"),
    (192, 24, "%a"), (1440, 168, "%d %b"), (math.inf, 1488, "%b"))


class Chart(NamedTuple):
    """Lines over time. The axis of values reaches as far as bounds, if the lines do not."""
    lines: list[Line]
    unit: str
    start: int
    end: int
    zone: tzinfo
    height: int = HEIGHT
    shaded: Iterable[tuple[int, int]] = ()
    interval: tuple[int, int] | None = None     # in which lines are expected to cross
    bounds: Sequence[float] = ()

    def x(self, ms: int) -> float:
        part = (ms - self.start) / (self.end - self.start)
        return round(LEFT + part * (WIDTH - LEFT - RIGHT), 1)

    def y(self, value: float) -> float:
        low, *_, high = self.bounds
        return round(TOP + (high - value) / (high - low) * (self.height - TOP - BOTTOM), 1)

    def path(self, corners: Iterable[tuple[int, float]]) -> str:
        return "M" + "L".join(f"{self.x(ms):g} {self.y(value):g}" for ms, value in corners)


def nice_step(span: float, count: int) -> float:
    """A step of 1, 2 or 5 times a power of ten that divides a span into at most count parts."""
    power: float = 10.0 ** math.floor(math.log10(span / count))
    return next(power * m for m in (1, 2, 5, 10) if power * m * count >= span * 0.999)


def value_ticks(values: list[float], count: int) -> list[float]:
    """Round marks of an axis that reaches over all values, some count of them."""
    values = [max(-LARGEST_DRAWN, min(LARGEST_DRAWN, v)) for v in values] or [0, 1]
    low, high = min(values), max(values)
    step = nice_step(max(high - low, 1), count)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [i * step for i in range(first, max(last, first + 1) + 1)]


def time_ticks(start: int, end: int, zone: tzinfo) -> list[tuple[int, str]]:
    """Marks of the time axis, in local time: days of 23 and 25 hours are drawn as they are."""
    hours, form = next((step, form) for longest, step, form in TICKS
                       if end - start <= longest * HOUR)
    tick = datetime.fromtimestamp(start / 1000, zone).replace(
        hour=0, minute=0, second=0, microsecond=0)
    ticks = []
    while (ms := round(tick.timestamp() * 1000)) < end:
        if ms > start:
            ticks.append((ms, tick.strftime(form)))
        tick += timedelta(hours=hours)          # of the wall clock
        if form == "%b":
            tick = tick.replace(day=1)
    return ticks


def segments(points: list[Point]) -> Iterator[list[Point]]:
    """Points between gaps: how far apart two may be is what is usual before or behind them."""
    first, times = 0, [point.time for point in points]
    for i, (before, point) in enumerate(itertools.pairwise(points), 1):
        distance = point.time - before.time - (before.width + point.width) // 2
        if distance > SILENT_AT_LEAST and distance > max(
                silence_limit(times[max(first, i - BESIDE):i]),
                silence_limit(times[i:i + BESIDE])):
            yield points[first:i]
            first = i
    if points:
        yield points[first:]


def cooler_spans(inside: list[Point], outside: list[Point], end: int) -> list[tuple[int, int]]:
    """The times [from, until) before end in which outside was cooler; a gap belongs to none."""
    changes = [(end, 0, math.nan)]              # when, of which side, its value from then on
    for side, points in enumerate((inside, outside)):
        for piece in segments(points):
            silent = piece[-1].time + silence_limit([p.time for p in piece[-20:]])
            changes += [*((p.time, side, p.mean) for p in piece), (silent, side, math.nan)]
    values = [math.nan, math.nan]               # nan is neither cooler nor warmer
    spans: list[tuple[int, int]] = []
    for (start, side, value), (until, *_) in itertools.pairwise(
            sorted(changes, key=operator.itemgetter(0))):
        values[side] = value
        if values[1] < values[0] and start < until <= end:
            is_next = spans and spans[-1][1] == start
            spans.append((spans.pop()[0] if is_next else start, until))
    return spans


def leave_out(points: list[Point]) -> list[Point]:
    """What is drawn: not what lies so far off that all the rest would be one flat line."""
    points = [p for p in points if max(p.maximum, -p.minimum) <= LARGEST_DRAWN]
    if not points:
        return []
    means = sorted(p.mean for p in points)
    middle, tail = means[len(means) // 2], min(len(means) // 20 + 1, (len(means) - 1) // 2)
    limit = FAR_OFF * max(1, abs(middle), means[-1 - tail] - means[tail])
    return [p for p in points if middle - limit <= p.minimum and p.maximum <= middle + limit]


def render_curve(line: Line, chart: Chart) -> str:
    """A line with a band between minimum and maximum where it is thinned."""
    band = curve = ""
    for piece in segments(line.points):
        curve += chart.path((p.time, p.mean) for p in piece) + "h.1" * (len(piece) == 1)
        if any(p.minimum < p.maximum for p in piece):
            band += chart.path([*((p.time, p.maximum) for p in piece),
                                *((p.time, p.minimum) for p in reversed(piece))]) + "Z"
    return (f'<g class="{line.css}"><path class=band d="{band}"/>'
            f'<path data-name="{escape(line.name)}" d="{curve}"/></g>')


def draw_chart(chart: Chart) -> str:
    lines = [line._replace(points=[p for p in line.points if chart.start <= p.time <= chart.end])
             for line in chart.lines]
    kept = [line._replace(points=leave_out(line.points)) for line in lines]
    far = {p for line in lines for p in line.points} - {p for line in kept for p in line.points}
    values = [v for line in kept for p in line.points for v in (p.minimum, p.maximum)]
    marks = value_ticks([*chart.bounds, *values], 3 if chart.height == SMALL_HEIGHT else 5)
    chart, height = chart._replace(bounds=marks), chart.height - TOP - BOTTOM
    spans = [("shade", span) for span in chart.shaded]
    spans += [("interval", chart.interval)] if chart.interval else []
    shapes = [f"<rect class={css} x={chart.x(a):g} y={TOP} width={chart.x(b) - chart.x(a):.1f} "
              f"height={height} />" for css, (a, b) in spans]
    shapes += [f'<path class=grid d="M{LEFT} {chart.y(mark):g}H{WIDTH - RIGHT}"/>'
               f"<text x={LEFT - 4} y={chart.y(mark) + 4:g} text-anchor=end>{mark:g}</text>"
               for mark in marks]
    shapes += [f"<text x={chart.x(ms):g} y={chart.height - 4} text-anchor=middle>{text}</text>"
               for ms, text in time_ticks(chart.start, chart.end, chart.zone)]
    shapes += [render_curve(line, chart) for line in kept]
    said = ", ".join(                           # for those who cannot see it
        f"{line.name}: from {min(p.minimum for p in line.points):.1f} to "
        f"{max(p.maximum for p in line.points):.1f} {chart.unit}, "
        f"last {line.points[-1].mean:.1f} {chart.unit}" if line.points
        else f"{line.name}: no readings" for line in kept) or "no readings yet"
    if far:
        farthest = max(max(p.maximum, -p.minimum) for p in far)
        note = f"{len(far)} not drawn: as far off as {farthest:.2g}"
        shapes.append(f"<text x={WIDTH - RIGHT} y={TOP + 10} text-anchor=end>{note}</text>")
        said += f"; {note}"
    return (f'<svg viewBox="0 0 {WIDTH} {chart.height}" role=img aria-label="{escape(said)}"\n'
            f" data-left={LEFT} data-width={WIDTH - LEFT - RIGHT} data-top={TOP}"
            f" data-height={height} data-low={marks[0]} data-high={marks[-1]}\n"
            f' data-start={chart.start} data-end={chart.end} data-unit="{escape(chart.unit)}">'
            f'{"".join(shapes)}<path class="grid cursor"/></svg>')


def render_chart(chart: Chart) -> str:
    """A chart as SVG; one that cannot be drawn takes no page with it."""
    try:
        return draw_chart(chart)
    except (ArithmeticError, ValueError) as error:
        log(f"a chart could not be drawn: {error!r}")
        return "<p>This chart could not be drawn.</p>"


# -- the page, out of the store -------------------------------------------------------------------

def end_steps(steps: Generator[None, None, list[Place]]) -> list[Place]:
    """What comes of them, where nobody waits meanwhile."""
    while True:
        try:
            next(steps)
        except StopIteration as done:
            return cast(list[Place], done.value)


def find_places(reader: Reader, now: int, comfort: float, before: Iterable[Place],
                touched: set[int] | None = None, stations: Iterable[Station] | None = None
                ) -> Generator[None, None, list[Place]]:
    """Inside and outside stations, and of each room the verdict, which goes on from before; in
    steps. Only places whose series were touched are read again, or all: None."""
    known = {(place.name, place.role): place for place in before}
    ranks: collections.Counter[str | None] = collections.Counter()
    places: dict[int, Place] = {}
    outside: Place | None = None
    settled: Place | None = None
    is_heard = False
    given = [station for station in stations or reader.stations() if station.role]
    for station in sorted(given, key=lambda station: station.role == "inside"):
        old = known.get((station.name, str(station.role)))
        place = renew_place(reader, station, ranks[station.role], now, old, touched)
        ranks[station.role] += 1
        if place is not old or len(places) % STEP_PLACES == 0:
            yield
        if place.role == "inside":
            if place is not old or place.outside is not settled or (
                    place.verdict and now > (place.verdict.expires or LATEST_TIME)):
                place = answer_room(place, outside, now, comfort)._replace(outside=settled)
        # The outside station that counts is the first that is not silent. Not the one that sent
        # last: the verdict would turn with each reading.
        elif not is_heard:
            times = [ms for ms, _ in place.readings]
            is_heard = bool(times) and now <= times[-1] + silence_limit(times, place.silence)
            if is_heard or not outside:
                outside, settled = place, place.settle(now)
        places[station.id] = settled if settled and place is outside else place.settle(now)
    return [places[station.id] for station in given]


def renew_place(reader: Reader, station: Station, rank: int, now: int, before: Place | None,
                touched: set[int] | None) -> Place:
    """A station with a role as it is now: as before, unless its series was touched."""
    if before and before.series is not None and not (touched is None or before.series in touched):
        return before
    window = min(VERDICT_WINDOW, RECENT_WINDOW + station.silence) if before else VERDICT_WINDOW
    series = reader.series(station.id).get(1)
    readings = [] if series is None else reader.recent(series, now - window, now + 1)
    last = (readings[-1][0] if readings else
            None if series is None else reader.last_time(series, now))
    place = before or Place(station.name, str(station.role), rank, series, [], None)
    count = bisect.bisect_left(readings, (place.tail.time + 1,))
    if place.tail.time > now or place.readings[:-1][-count:] != readings[:count]:
        # The clock was set back, or one was late, or is gone.
        place, count = place._replace(tail=SILENCE), 0
    return place._replace(rank=rank, series=series, readings=readings, heard=last,
                          silence=station.silence, fresh=readings[count:])


def answer_room(room: Place, outside: Place | None, now: int, comfort: float) -> Place:
    """An inside station with its verdict."""
    course = room.verdict.course if room.verdict else START
    sides = [room, outside or room._replace(tail=SILENCE, fresh=())]
    begin = max(side.tail.time for side in sides)
    if any(course.at < ms <= begin for side in sides for ms, _ in side.fresh):  # late, and counts
        sides = [side._replace(tail=SILENCE, fresh=side.readings) for side in sides]
    verdict = judge(sides[0].fresh, sides[1].fresh, now, comfort, course,
                    [side.silence for side in sides], [side.tail for side in sides])
    silent = room if verdict.silent == "inside" else outside
    if verdict.since is None and silent:        # for longer than the window reaches back
        verdict = verdict._replace(since=silent.heard)
    is_cold = verdict.inside is not None and verdict.inside < comfort - COLD_MARGIN
    return room._replace(verdict=verdict, is_cold=is_cold)


def fresh_forecast(room: Place, known: Mapping[tuple[int, int], Forecast | None], now: int
                  ) -> Forecast | None:
    """What is known by inside and outside series, while it is new and not yet come true."""
    if not room.verdict or room.verdict.difference is None or not room.outside:
        return None
    forecast = known.get((room.series or 0, room.outside.series or 0))
    event = "cooler" if room.verdict.difference < 0 else "warmer"
    is_new = forecast and 0 <= now - forecast.asked < 2 * QUARTER and forecast.event == event
    return forecast if is_new else None


def choose_places(places: list[Place]) -> list[Place]:
    """Those that a page has room for: the most urgent rooms and the outside that they look at."""
    rooms = [room for room, _ in rank_rooms(places)][:MAX_ROOMS]
    outsides = [*(room.outside for room in rooms[:1]), *(p for p in places if p.role == "outside")]
    shown = {place.name for place in (*rooms, *outsides[:MAX_OUTSIDES]) if place}
    return [place for place in places if place.name in shown]


def read_points(reader: Reader, series: int, view: View, now: int, count: int,
                unit: str = "C") -> list[Point]:
    """A line of a chart; what was thinned stands in the middle of its bucket."""
    start = now - RANGES[view.range]
    return [Point(max(start, min(now, p.time + p.width // 2)), in_unit(p.mean, unit),
                  in_unit(p.minimum, unit), in_unit(p.maximum, unit), p.width)
            for p in reader.points(series, start, now + 1, count)]


def render_ago(ms: int, view: View, now: int) -> str:
    exact = say_time(ms, view.zone, "%a %d %b %Y %H:%M:%S %Z")
    return (f'<time datetime="{format_time(ms)}" title="{escape(exact)}" tabindex=0>'
            f"{format_ago(now - ms)} ago</time>")


def continue_chart(chart: Chart, room: Place, unit: str) -> Chart:
    """The chart goes on as it is expected for this room, where there is a forecast."""
    forecast = room.forecast
    if forecast is None or room.outside is None or forecast.days < FEWEST_DAYS:
        return chart
    curves = {room.name: forecast.inside, room.outside.name: forecast.outside}
    expected = [Line(f"{line.name}, expected", f"{line.css} expected", line.points[-1:] + [
        Point(ms, value, value, value) for ms, value in zip(
            itertools.count(forecast.asked + QUARTER, QUARTER),
            (in_unit(celsius, unit) for celsius in curves[line.name])) if ms > chart.end])
        for line in chart.lines if line.name in curves]
    return chart._replace(
        lines=chart.lines + expected, end=forecast.asked + HORIZON,
        interval=(forecast.start, forecast.end) if forecast.start and forecast.end else None)


def render_figure(places: list[Place], lines: list[Line], view: View, now: int) -> str:
    """The chart of temperatures, its ranges, and what can be read off it in words."""
    links = "".join(f'<a href="/?range={name}"{" aria-current=true" * (name == view.range)}>'
                    f"{name}</a>" for name in RANGES)
    nav = f'<figure><nav aria-label="Range of the chart">{links}</nav>'
    points = {line.name: line.points for line in lines}
    if not any(points.values()):
        return f"{nav}<p>The chart begins with the first reading.</p>\n</figure>\n"
    length = RANGES[view.range]
    # Of the room that the headline is about. A year's points hold days and nights together.
    spans = [span for room, _ in rank_rooms(places)[:1] if room.outside and length <= 30 * DAY
             for span in cooler_spans(points.get(room.name, []),
                                      points.get(room.outside.name, []), now)]
    chart = Chart(lines, f"°{view.unit}", now - length, now, view.zone, shaded=spans)
    for room, _ in rank_rooms(places)[:1] if view.range == "24h" else []:
        chart = continue_chart(chart, room, view.unit)
    names = "".join(f'<span class="{line.css}">{escape(line.name)}</span> ' for line in lines)
    names += "<span class=swatch>cooler outside</span> " * bool(spans)
    names += "<span class=interval>dashed: expected</span>" * bool(chart.interval)
    rows = "".join("<tr>" + "".join(f"<td>{say_time(ms, view.zone, '%a %d %b, %H:%M')}</td>"
                                    for ms in span) + "</tr>"
                   for span in spans[-20:] if length <= 7 * DAY)
    table = ("<details><summary>When it was cooler outside</summary><table><thead>\n"
             f"<tr><th>from</th><th>until</th></tr></thead>{rows}</table></details>")
    value = 1000 * length // (chart.end - chart.start)
    return (f"{nav}{render_chart(chart)}<input type=range max=1000 value={value} "
            'aria-label="Time on the chart">\n'
            f"<output></output><figcaption>{names}</figcaption>\n{rows and table}</figure>\n")


def render_now(reader: Reader, place: Place, view: View, now: int) -> str:
    """One temperature, large; its day's lowest and highest, and the difference to a day ago."""
    value, unit, trend, heard, day = "–", "", "", place.heard, ""
    if place.readings and place.series is not None:
        heard, celsius = place.readings[-1]
        value, unit = say_number(in_unit(celsius, view.unit)), f"°{view.unit}"
        trend = say_trend(place.readings, now)
        midnight = datetime.fromtimestamp(heard / 1000, view.zone).replace(
            hour=0, minute=0, second=0, microsecond=0)
        found = reader.extremes(place.series, round(midnight.timestamp() * 1000), heard + 1)
        for word, (ms, extreme) in zip(("Low", "High"), found, strict=False):
            day += (f"<p class=day>{word} {say_number(in_unit(extreme, view.unit))} "
                    f"at {say_time(ms, view.zone, '%H:%M')}</p>")
        for _, before in reader.recent(place.series, heard - DAY - HOUR, heard - DAY + 1)[-1:]:
            word = "warmer" if celsius >= before else "cooler"
            day += (f"<p class=day>{say_degrees(celsius - before, view.unit)} {word} "
                    "than a day ago</p>")
    ago = render_ago(heard, view, now) if heard else "no reading yet"
    return (f'<section><h2 class="{place.css}">{escape(place.name)}</h2><p class=big>{value}'
            f"<small> {unit}\n</small></p><p>{trend and f'{trend} · '}{ago}</p>{day}</section>\n")


def render_verdicts(places: list[Place], view: View, now: int) -> tuple[str, str, str]:
    """The card on top, its headline as text, and the states of the verdicts on it."""
    rooms = rank_rooms(places)
    said = [(room.name, verdict.state, *say_verdict(room, now, view.unit),
             say_forecast(room, now, view.zone))
            for room, verdict in rooms[:MAX_ROOMS]] or [("", "unknown", *NO_ROOM, "")]
    (name, state, headline, reason, when), *others = said
    room = f"<small>{escape(name)}</small> " if others else ""
    more = "".join(f"<details><summary>{when}</summary><p class=record>"
                   f"{say_record(place.forecast)} The times between are meant to hold on 8 days "
                   "of 10.</p></details>"
                   for place, _ in rooms[:1] if when and place.forecast)
    more += "".join(f"<p>{escape(room)} – {head} {escape(why)} {when}</p>"
                    for room, _, head, why, when in others)
    if len(rooms) > MAX_ROOMS:
        more += f"<p>And {len(rooms) - MAX_ROOMS} more rooms, less urgent.</p>"
    css = "cold" if headline == HEADLINES["cold"] else state
    return (f"<section class='verdict {css}'><h1>{room}<b>{headline}</b> {escape(reason)}</h1>"
            f"{more}</section>\n",
            headline.rstrip(":"), " ".join(state for _, state, *_ in said))


def render_others(reader: Reader, others: list[tuple[Station, Latest]], places: list[Place],
                  view: View, now: int) -> Generator[None, None, str]:
    """Small charts: humidity, pressure, and whatever has no role."""
    styles, charts = {place.name: place.css for place in places}, ""
    for station, series in others[:SMALL_CHARTS]:
        yield
        label = series.label or LABELS.get(series.field) or f"field {series.field}"
        line = Line(f"{station.name}: {label}", styles.get(station.name, "other"),
                    read_points(reader, series.series, view, now, SMALL_POINTS))
        if line.points:
            chart = render_chart(Chart([line], "", now - RANGES[view.range], now, view.zone,
                                       SMALL_HEIGHT))
            charts += f'<figure class="{line.css}"><h2>{escape(line.name)}</h2>{chart}</figure>'
    return charts


def render_stations(reader: Reader, stations: list[Station], view: View, now: int
                    ) -> Generator[None, None, tuple[str, list[tuple[Station, Latest]]]]:
    """The table of stations, those long silent folded away, and what else all others send."""
    entries, since = reader.entries(s.id for s in stations), (yield from reader.first_hour())
    rows: tuple[list[str], list[str]] = ([], [])
    others: list[tuple[Station, Latest]] = []
    for station in stations:
        if not len(rows[0]) % MAX_ROWS:
            yield
        fields = reader.latest([station.id], now)
        newest = max(fields, key=lambda series: series.time or 0, default=None)
        times = reader.recent_times(newest.series, now) if newest else []
        last = reader.last_time(newest.series, now) if newest else None
        heard = max(ms for ms in (0, station.heard or 0, last or 0) if ms <= now)
        is_silent = now - heard > silence_limit(times, station.silence)
        is_stale = not station.role and now - (heard or station.created) > STALE
        rows[is_stale].append(
            f"<tr><th scope=row>{escape(station.name)}</th> "
            f"<td>{'new' if not heard else 'silent' if is_silent else 'ok'}</td> "
            f"<td>{render_ago(heard, view, now) if heard else 'never'}</td> "
            f"<td>{format_ago(usual_interval(times)) if len(times) > 1 else '–'}</td> "
            f"<td>{entries[station.id]:,}</td></tr>\n")
        others += [(station, series) for series in fields
                   if not (is_stale or (station.role and series.field == 1))]
    shown, folded = rows[0][:MAX_ROWS], rows[0][MAX_ROWS:] + rows[1]
    count = reader.count_stations() - len(shown)
    more = f"<p>And {count - len(folded)} more, in /api/stations.</p>" * (count > len(folded))
    details = (f"<details><summary>{count} more</summary><table>{''.join(folded)}</table>{more}"
               "</details>") * (count > 0)
    history = f"History since {say_time(since, view.zone, '%a %d %b %Y')}; " if since else ""
    return ("<section class=scroll tabindex=0 aria-label=Stations>\n<h2>Stations</h2><table>"
            "<thead><tr><th>name<th>state<th>last heard<th>every<th>entries</tr></thead>\n"
            f"{''.join(shown)}</table>{details}<p class=dim>{history}"
            f"the file weighs {format_bytes(sum(reader.weights()))}.</p></section>\n"), others


def render_page(title: str, body: str, attributes: str = "", script: str = "",
                style: str = STYLE) -> bytes:
    """A whole page. title is text, the rest is markup."""
    return PAGE.substitute(title=escape(title), style=style, body=body, attributes=attributes,
                           script=script).encode()


def render_message(title: str, text: str) -> bytes:
    """A page that says one thing. title is text, text is markup."""
    return render_page(title, f"<section><h1>{escape(title)}</h1><p>{text}</p></section>")


def render_overview(reader: Reader, places: list[Place], view: View, now: int,
                    notes: Iterable[str] = ()) -> Generator[None, None, bytes]:
    """The page that answers: open the windows? In steps."""
    stations = reader.stations("ORDER BY role IS NULL, coalesce(heard, created) DESC LIMIT ?",
                               MAX_ROWS + MAX_FOLDED)
    if not stations:
        return render_page("No station yet", NO_STATION.substitute(db=escape(str(reader.path))))
    shown, lines = choose_places(places), []
    for place in shown:
        yield
        lines += [Line(place.name, place.css, read_points(
            reader, place.series, view, now, CHART_POINTS // max(len(shown), 2), view.unit))
            ] if place.series is not None else []
    yield
    card, headline, states = render_verdicts(places, view, now)
    card += "".join(f"<section><p>{escape(note)}</p></section>\n" for note in notes)
    figures = "".join(render_now(reader, place, view, now) for place in shown)
    figure = render_figure(places, lines, view, now)
    table, others = yield from render_stations(reader, stations, view, now)
    smalls = yield from render_others(reader, others, places, view, now)
    return render_page(
        headline,
        f"{card}<div class=now>{figures}</div>\n"
        f"{figure}<div class=smalls>{smalls}</div>\n{table}",
        f' data-now={now} data-state="{states}" data-expires={find_expiry(places)}',
        f"<p class=say aria-live=polite></p><script>{SCRIPT}</script>")


# ------------------------------------------------------------------------------------------------
# 9. Routes
#    Law: one small function for each, (request, server) to Answer. None writes to a
#    socket, and only updates change the store.
# ------------------------------------------------------------------------------------------------

TEXT, JSON, HTML, CSV, EVENTS = (
    "text/plain; charset=utf-8", "application/json", "text/html; charset=utf-8",
    "text/csv; charset=utf-8", "text/event-stream")
ANY_ORIGIN: Headers = (("Access-Control-Allow-Origin", "*"),)   # scripts of other sites may read


class Request(NamedTuple):
    """What a client asks. Names are those of http.server's handler, as far as it has them."""
    command: str = "GET"
    path: str = "/"                             # without the query
    query: str = ""                             # as it was sent
    request_version: str = "HTTP/1.1"
    headers: Mapping[str, str] = MappingProxyType({})   # names in lower case
    address: str = ""                           # of who asks
    peer: str | None = ""                       # of the other side; None: the proxy
    close_connection: bool = True               # after the answer
    length: int = 0                             # of the body, bytes
    head: bytes = b""                           # as it was sent
    fault: Refused | None = None                # why it could not be understood
    body: bytes = b""
    is_lan: bool = False                        # came to a private address
    update: Update | None = None                # what path says, if that has been parsed already


class Answer(NamedTuple):
    """What a request is answered. An update's answer waits for the commit, and fails with it."""
    body: bytes
    kind: str = TEXT
    status: int = 200
    headers: Headers = ()
    is_update: bool = False
    stream: Iterator[bytes] | None = None       # the rest of the body, made as it is sent
    listens: bool = False                       # from now on the connection gets events


# A route that takes longer than some 1 ms returns a generator, which yields before each step and
# returns the Answer: updates come in between.
Work = Generator[None, None, Answer]


def as_json(document: Any) -> bytes:
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()


def as_csv(rows: Iterable[Iterable[Any]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()


QUERY: dict[str, Callable[[str], Any]] = {      # what is more than a text
    "field": parse_field, "start": functools.partial(parse_instant, "start"),
    "end": functools.partial(parse_instant, "end")}


def parse_query(request: Request, *known: str) -> dict[str, Any]:
    """The query, each name at most once and none that is not known. Raises Refused."""
    query = urllib.parse.parse_qs(request.query, keep_blank_values=True) if request.query else {}
    for name, values in query.items():
        if name not in known:
            raise Refused(400, f"{name[:20]!a}: unknown; known are {', '.join(known)}")
        if len(values) > 1:
            raise Refused(400, f"{name}: given twice")
    return {name: QUERY.get(name, str)(values[0]) for name, values in query.items()}


def get_page(request: Request, server: "Server") -> Answer | Work:
    """The page, from memory while nothing has changed; 304 to who has it already."""
    names = urllib.parse.parse_qs(request.query, keep_blank_values=True) if request.query else {}
    span, *more = names.get("range", ["24h"])   # other names are left to who put them there
    if more or span not in RANGES:
        raise Refused(400, f"range: one of {', '.join(RANGES)}")
    language = request.headers.get("accept-language", "")[:MAX_LANGUAGE]
    view = View(choose_unit(server.settings.units, language),
                choose_zone(request.headers.get("cookie", "")[:MAX_COOKIES]), span)
    page = server.board.find_page(view)
    return answer_page(request, server, page) if page else make_page(request, server, view)


def make_page(request: Request, server: "Server", view: View) -> Work:
    return answer_page(request, server, (yield from server.board.make_page(view)))


def answer_page(request: Request, server: "Server", page: Answer) -> Answer:
    if server.access.password:
        secure = "; Secure" if request.peer is None else ""     # the proxy speaks TLS
        page = page._replace(headers=(*page.headers, (
            "Set-Cookie", f"{PROOF}={server.access.proof()}; Max-Age=31536000; Path=/; "
            f"HttpOnly; SameSite=Strict{secure}")))
    has_it = dict(page.headers)["ETag"] in request.headers.get("if-none-match", "")
    return page._replace(body=b"", status=304) if has_it else page


def always(answer: Answer) -> Callable[[Request, "Server"], Answer]:
    """The route to an answer that is the same each time."""
    return lambda request, server: answer


def get_update(request: Request, server: "Server") -> Answer:
    """Store the reading that the path tells; the answer is the number of its entry."""
    update = request.update or parse_update_path(request.path, request.headers.get("x-api-key"))
    station = server.access.admit(update.mac, update.key, request.address)
    entry = server.writer.add(station, update.reading, server.now())
    if not request.update:
        server.known.learn(request, update)
    if "text/html" in request.headers.get("accept", ""):
        return Answer(render_message("Stored", f'This reading is entry {entry}. '
                                     '<a href="/">Overview</a>'), HTML,
                      headers=PAGE_HEADERS, is_update=True)
    return Answer(b"%d" % entry, is_update=True)


def store_bulk(request: Request, server: "Server", document: Any) -> Answer:
    """Store all readings of a JSON document, or none of them."""
    mac, key, items = parse_update_json(document, request.headers.get("x-api-key"))
    station = server.access.admit(mac, key, request.address)
    readings = [parse_json_reading(f"readings[{i}]", item) for i, item in enumerate(items)]
    server.access.charge(key, readings)
    now, before = server.now(), station.last_entry
    entries = [server.writer.add(station, reading, now) for reading in readings]
    return Answer(as_json({"stored": station.last_entry - before, "entries": entries}), JSON,
                  is_update=True)


def get_events(request: Request, server: "Server") -> Answer:
    """Readings and verdicts as they come; first of all what the listener has missed."""
    if server.events.is_full():
        raise Refused(503, "too many listeners; try again", Retry_After="5")
    return Answer(server.events.greet(request.headers.get("last-event-id"), server.now(),
                                      server.board.verdicts()),
                  EVENTS, listens=request.command == "GET",
                  headers=(("Cache-Control", "no-store"), ("X-Accel-Buffering", "no")))


def get_stations(request: Request, server: "Server") -> Work:
    pieces, last = [], 0
    while stations := server.reader.stations("WHERE id > ? ORDER BY id LIMIT ?", last,
                                             STEP_STATIONS):
        latest = collections.defaultdict(list)
        for series in server.reader.latest([s.id for s in stations], server.now()):
            latest[series.station].append({"field": series.field, "label": series.label,
                                           "value": series.value, "time": series.time})
        pieces.append(as_json([
            {"id": station.id, "name": station.name, "role": station.role,
             "heard": station.heard, "fields": latest[station.id]} for station in stations])[1:-1])
        last = stations[-1].id
        yield
    return Answer(b"[%b]" % b",".join(pieces), JSON, headers=ANY_ORIGIN)


def get_verdict(request: Request, server: "Server") -> Work:
    """The answers for widgets and scripts, as JSON or in words, a line a room.
    As a widget cannot log in, a key of a station opens them on a private server."""
    query = parse_query(request, "key")
    key = request.headers.get("x-api-key", query.get("key", ""))
    stations = server.writer.stations.values()
    if server.access.password and not server.access.admit_key(stations, key, request.address):
        server.access.admit_reader(request.headers, request.address)
    yield from server.board.look()
    places, now = server.board.current, server.now()
    if request.path.startswith("/api/"):
        return Answer(as_json(verdict_document(places, now)), JSON, headers=ANY_ORIGIN)
    unit = choose_unit(server.settings.units,
                       request.headers.get("accept-language", "")[:MAX_LANGUAGE])
    zone = choose_zone(request.headers.get("cookie", "")[:MAX_COOKIES])
    return Answer(say_rooms(places, now, unit, None if zone is timezone.utc else zone).encode(),
                  TEXT, headers=ANY_ORIGIN)


def parse_station(server: "Server", name: str) -> Station:
    """A station by id or name. Raises Refused 404."""
    for station in server.reader.stations():
        if name in (str(station.id), station.name):
            return station
    raise Refused(404, "station: there is none of this id or name")


def get_readings(request: Request, server: "Server") -> Work:
    query = parse_query(request, "station", "field", "start", "end", "points")
    if "station" not in query:
        raise Refused(400, "station: missing; an id or a name")
    field, limit = query.get("field", 1), query.get("points", str(DEFAULT_POINTS))
    if not (re.fullmatch("[0-9]{1,9}", limit) and 1 <= int(limit) <= MAX_POINTS):
        raise Refused(400, f"points: a number from 1 to {MAX_POINTS}")
    yield
    station = parse_station(server, query["station"])
    series = server.reader.series(station.id).get(field)
    end = min(query.get("end", LATEST_TIME), server.now() + 1)
    points = [] if series is None else server.reader.points(
        series, query.get("start"), end, int(limit))
    return Answer(as_json({"station": station.id, "field": field, "points": [
        [p.time, *(float(f"{value:.12g}") for value in p[1:4])] if p.width else p[:2]
        for p in points]}), JSON, headers=ANY_ORIGIN)


def get_export(request: Request, server: "Server") -> Answer:
    query = parse_query(request, "station", "field", "start", "end")
    streams = [c.request.address for c in server.connections if c.stream and c.request]
    if len(streams) >= MAX_STREAMS or streams.count(request.address) >= MAX_STREAMS_PER_ADDRESS:
        raise Refused(503, "too many exports at a time; try again", Retry_After="5")
    stations = ([parse_station(server, query["station"])] if "station" in query
                else server.reader.stations())
    fields = {query["field"]} if "field" in query else range(1, 10)
    rows = itertools.chain.from_iterable(server.reader.rows(
        station, fields, query.get("start", 0), query.get("end", LATEST_TIME))
        for station in stations)
    return Answer(b"", CSV, stream=csv_chunks(rows), headers=(
        ("Content-Disposition", 'attachment; filename="readings.csv"'),))


def csv_chunks(rows: Iterator[Row]) -> Iterator[bytes]:
    """Rows to CSV without the MACs, PAGE_ROWS at a time."""
    yield b"time,station,field,value,entry\n"
    while chunk := list(itertools.islice(rows, PAGE_ROWS)):
        yield as_csv((format_time(r.time), r.station, r.field, r.value, r.entry) for r in chunk)


def get_healthz(request: Request, server: "Server") -> Answer:
    try:
        server.reader.look()
    except (sqlite3.Error, StoreError) as error:
        log(f"the database cannot be read: {error}")        # which may name a path
        raise Refused(503, "the database cannot be read", Retry_After="10") from None
    if server.turn.failure:
        raise Refused(503, server.turn.failure.message, Retry_After="10")
    return Answer(b"ok")


# -- metrics --------------------------------------------------------------------------------------

UPDATE_ROOTS = ("/update", "/weatherstation/", "/data/report/")    # a refusal there is counted
COMMIT_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, math.inf)
Samples = Iterable[tuple[dict[str, str], float]]        # labels, value


def sample_commits(turn: "Turn") -> Samples:
    """A histogram: its buckets hold what took no longer. A label without a name is a suffix."""
    for limit, count in zip(COMMIT_SECONDS, itertools.accumulate(turn.commits), strict=True):
        yield {"": "_bucket", "le": "+Inf" if limit == math.inf else str(limit)}, count
    yield {"": "_sum"}, turn.seconds
    yield {"": "_count"}, sum(turn.commits)


def sample_readings(server: "Server") -> Samples:
    ids, stations = [*server.writer.stations], server.writer.stations
    for first in range(0, len(ids), STEP_STATIONS):
        for series in server.reader.latest(ids[first:first + STEP_STATIONS], server.now()):
            station = stations.get(series.station)
            if station and isinstance(series.value, (int, float)):  # neither a text nor none yet
                yield {"station": station.name, "role": station.role or "",
                       "field": str(series.field),
                       "label": series.label or LABELS.get(series.field, "")}, series.value


def sample_metrics(server: "Server", lag: int) -> Iterator[tuple[str, str, str, Samples]]:
    """Each family: name, kind, help, samples."""
    turn, (size, log) = server.turn, server.reader.weights()
    free = shutil.disk_usage(server.writer.path.parent).free
    yield ("updates_total", "counter", "Entries of updates by what became of them; refused: "
           "requests", [({"result": result}, n) for result, n in turn.updates.items()])
    yield "readings_total", "counter", "Readings that updates stored", [({}, turn.readings)]
    yield "commits_total", "counter", "Transactions of updates", [({}, sum(turn.commits))]
    yield ("commit_seconds", "histogram", "How long they took, up to the disk",
           sample_commits(turn))
    yield "connections", "gauge", "Open connections", [({}, len(server.connections))]
    yield ("listeners", "gauge", "Those of them that wait for events",
           [({}, len(server.events.listeners))])
    yield "database_bytes", "gauge", "Size of the database file", [({}, size)]
    yield "log_bytes", "gauge", "Size of its write-ahead log", [({}, log)]
    yield "disk_free_bytes", "gauge", "Room left on its disk", [({}, free)]
    yield "reading", "gauge", "Newest value of a field", sample_readings(server)
    yield ("heard_timestamp_seconds", "gauge", "When a station's last update arrived",
           (({"station": station.name}, station.heard / 1000)
            for station in tuple(server.writer.stations.values()) if station.heard))
    yield ("verdict", "gauge", "1 for the state that holds, 0 for the others",
           (({"station": room.name, "state": state}, verdict.state == state)
            for room, verdict in rank_rooms(server.board.current) for state in URGENCY))
    yield ("messages_total", "counter", "Messages by what became of them",
           [({"result": result}, server.post.counts[result]) for result in ("sent", "failed")])
    yield "forward_lag_readings", "gauge", "Readings that an engine has yet to get", [({}, lag)]
    yield ("build_info", "gauge", "Always 1; the versions are its labels",
           [({"version": __version__, "python": sys.version.split()[0],
              "sqlite": sqlite3.sqlite_version}, 1)])


ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})


def get_metrics(request: Request, server: "Server") -> Work:
    """What Prometheus asks for, family by family, some lines a step."""
    yield from server.board.look()
    lag = yield from count_from(server.reader.db, server.writer.outbox.pending)
    lines: list[str] = []
    for name, kind, text, samples in sample_metrics(server, lag):
        yield
        lines.append(f"# HELP iotserver_{name} {text}\n# TYPE iotserver_{name} {kind}\n")
        for number, (labels, value) in enumerate(samples, 1):
            suffix = labels.pop("", "")
            told = ",".join(f'{label}="{text.translate(ESCAPES)}"'
                            for label, text in labels.items())
            lines.append(f"iotserver_{name}{suffix}{told and f'{{{told}}}'} {value:.15g}\n")
            if number % STEP_ENTRIES == 0:
                yield
    return Answer("".join(lines).encode(), "text/plain; version=0.0.4; charset=utf-8")


# -- ThingSpeak -----------------------------------------------------------------------------------
#
# What the clients of ThingSpeak.com send is understood and answered as there, and so are their
# mistakes, on these paths alone. Sources: recordings of the service (2019), the tests of its
# maker's Arduino library (2.1.1), its open-source server (2015) and the code of its clients.
# Where none of them tells, the comment says so.

THINGSPEAK_FIELDS = range(1, 9)
MAX_TEXT = 255                  # bytes of a value or status, as there
MAX_RESULTS = 8000              # entries in one answer; a larger wish is cut down, as there
DEFAULT_RESULTS = 100           # when the request does not say from when
EARLIEST_CREATED = 946_684_800_000  # 2000-01-01: before it lies the clock of a board just started
MIN_CHART_UPDATE = 15           # s between two looks of an embedded chart, as there
MAX_ENTRY = 16_384              # bytes of a body with one entry: 9 texts, all escaped, take 7,000
MAX_BULK_LINE = 128             # bytes of a line of bulk_update.csv, in the mean
MAX_PARAMS = 200                # parts of a form; an entry has below 20
SCALES = {"daily": DAY} | {str(minutes): minutes * MINUTE
                           for minutes in (10, 15, 20, 30, 60, 240, 720, 1440)}
CORS = (
    ("Access-Control-Allow-Origin", "*"),
    ("Access-Control-Allow-Methods", "GET, POST, PUT, OPTIONS, DELETE, PATCH"),
    ("Access-Control-Allow-Headers", "origin, content-type, X-Requested-With"),
    ("Access-Control-Max-Age", "1800"))
NOTES = {"location": ["latitude", "longitude", "elevation"], "status": ["status"]}
UPDATE_PATHS = ("/update", *(f"/update.{suffix}" for suffix in ("json", "xml", "txt", "text")))
KINDS = {"json": "application/json; charset=utf-8", "xml": "application/xml; charset=utf-8",
         "csv": CSV}
ERRORS = {400: ("error_bad_request", "Bad Request"),
          401: ("error_auth_required", "Authorization Required"),
          404: ("error_resource_not_found", "Not Found"),
          405: ("error_method_invalid", "Method Not Allowed"),
          413: ("error_request_too_large", "Request Too Large"),
          429: ("error_too_many_requests", "Too Many Requests")}

# -- what devices get wrong -----------------------------------------------------------------------

HEAD_END = re.compile(rb"\n\r?\n")
WRONG_VERSION = re.compile(rb" http| \S*/ ?\d\.\d", re.IGNORECASE)
QUOTED = [b"%%%02X" % n if n > 127 or n in b" #\\" else b"%c" % n for n in range(256)]


def repair_head(data: bytes) -> tuple[bytes, int, bool] | None:
    """The head of a request for ThingSpeak's paths as it should have been; None: not complete.
    With its length in data, and whether the answer has to go without a head (HTTP/0.9). The strict
    parser reads the result, so whatever else is wrong stays wrong."""
    if (end := data.find(b"\n", 1)) < 0:
        return None
    method, _, words = (part.strip() for part in data[:end].partition(b" "))
    target, space, version = words.rpartition(b" ")
    is_bare = not (space and version.startswith(b"HTTP/"))
    if is_bare and method == b"GET" and not WRONG_VERSION.search(words):
        target, version, rest, length = words, b"HTTP/1.0", b"\r\n", end + 1
    elif match := HEAD_END.search(data, end):
        length, is_bare = match.end(), False
        rest = re.sub(rb"\r?\n", b"\r\n", data[end + 1:length])
    else:
        return None
    target = b"".join(map(QUOTED.__getitem__, target.strip()))
    return b"%b %b %b\r\n%b" % (method, target, version, rest), length, is_bare


def parse_form(text: str) -> dict[str, str]:
    """`field1=2&status=a+b` to a dict, of whatever a device can send.
    A percent sign that escapes nothing stays; ends of lines are stripped. A bare first word is
    the key, as in the sketch that everybody copied; it counts when no other is told."""
    def unquote(text: str) -> str:
        # What is longer than any value is decoded once it is known who sends it.
        return text if len(text) > MAX_ENTRY else urllib.parse.unquote_plus(text).strip("\r\n")
    pairs = [pair.partition("=") for pair in text.split("&", MAX_PARAMS)[:MAX_PARAMS]]
    form = {unquote(name).strip(): unquote(value) for name, equals, value in pairs if equals}
    first, equals, _ = pairs[0]
    return form if equals or not first.strip() else {"apikey": unquote(first).strip()} | form


def parse_params(request: Request, document: Any = None) -> dict[str, Any]:
    """Query and body merged; the body wins. All values but those of nested JSON are texts.
    document is the body, where it has been parsed already. Raises Refused."""
    params: dict[str, Any] = parse_form(request.query)
    if document is None and request.body.lstrip()[:1] != b"{":
        return params | parse_form(request.body.decode("utf-8", "replace"))
    document = document or load_json(request.body)
    if len(document) > MAX_PARAMS:
        raise Refused(400, f"body: at most {MAX_PARAMS} names")
    return params | {name: value if isinstance(value, (str, list, dict)) else json.dumps(value)
                     for name, value in document.items() if value is not None}


def find_key(request: Request, params: dict[str, Any]) -> str:
    """The key: from a header with THINGSPEAKAPIKEY anywhere in its name, else a parameter."""
    headers = [value for name, value in request.headers.items()
               if "thingspeakapikey" in name or name == "x-api-key"]
    named = [params.get(name) for name in ("key", "api_key", "apikey", "write_api_key")]
    return str(next((key for key in headers + named if key), "")).strip()


def find_param(params: Mapping[str, Any], name: str, default: Any,
               parse: Callable[[str], Any] = parse_number) -> Any:
    """A parameter as parse understands it; what it does not is ignored, as there."""
    try:
        return parse(str(params[name]).strip())
    except (KeyError, ValueError, OverflowError):
        return default


def parse_zone(params: Mapping[str, Any]) -> tzinfo:
    """timezone=, an IANA name, beats offset=, whole hours; UTC for what is neither."""
    if "timezone" in params:
        return find_zone(str(params["timezone"]))
    hours = find_param(params, "offset", 0)
    return timezone(timedelta(hours=int(hours))) if abs(hours) < 24 else timezone.utc


# -- writing --------------------------------------------------------------------------------------

def find_text(params: Mapping[str, Any], *names: str) -> str | None:
    """The first of these parameters that is there; None for an empty one. Raises Refused."""
    value = next((params[name] for name in names if params.get(name) is not None), None)
    if value is None:
        return None
    if isinstance(value, (list, dict)):
        raise Refused(400, f"{names[0]}: a number or a text is needed")
    text = value if isinstance(value, str) else json.dumps(value)
    data = text.strip().encode("utf-8", "replace")      # JSON can hold halves of characters
    if len(data) > MAX_TEXT:
        raise Refused(400, f"{names[0]}: longer than {MAX_TEXT} bytes")
    return data.replace(b"\0", b"").decode() or None


def parse_draft(params: Mapping[str, Any], ms: int) -> Entry:
    """field1 or 1, lat, long, elevation, status to an unnumbered entry. Raises Refused."""
    def value(*names: str) -> Any:
        text = find_text(params, *names)
        return text and parse_value(text)
    values = {n: found for n in THINGSPEAK_FIELDS
              if (found := value(f"field{n}", str(n))) is not None}
    return Entry(ms, None, values, Note(
        find_text(params, "status"), value("latitude", "lat"), value("longitude", "long"),
        value("elevation")))


def store_drafts(server: "Server", station: Station, key: str, drafts: Iterable[Entry],
                 now: int) -> None:
    """Store all or none, as one update. Raises Refused."""
    # Without a value, only its note says that there is such an entry.
    rows = [(draft, draft.note if draft.note != Note() or not draft.values else None)
            for draft in drafts]
    server.access.charge(key, (value for draft, note in rows
                               for value in (*draft.values.values(), *(note or ()))))
    for draft, note in rows:
        server.writer.add_entry(station, draft.time, draft.values, now, note)


def parse_created(text: str, zone: tzinfo, now: int) -> int:
    """created_at, ISO 8601 or seconds since 1970, to ms. Raises ValueError.
    Also for the future: a clock that runs ahead by days would hide all that comes after."""
    ms = parse_moment(text, zone)
    if not EARLIEST_CREATED <= ms <= now + DAY:
        raise ValueError("created_at: of a clock that is wrong")
    return ms


def write_entry(request: Request, server: "Server", document: Any = None) -> Answer:
    """GET or POST /update: the entry's number; 0 with 400 for a wrong key, with 200 if too soon.
    A clash of created_at is not established there; here both entries are kept."""
    suffix, now = request.path.partition(".")[2], server.now()
    try:
        if request.length > MAX_ENTRY:
            raise Refused(413, f"body: one entry has at most {MAX_ENTRY} bytes")
        params = {name: request.address if value == "IP_ADDRESS" else value
                  for name, value in parse_params(request, document).items()}
        draft = parse_draft(params, find_param(
            params, "created_at", now, lambda text: parse_created(text, parse_zone(params), now)))
        key = find_key(request, params)
        station = server.access.admit(None, key, request.address)
        store_drafts(server, station, key, [draft], now)
    except Refused as refused:
        status = (200 if isinstance(refused, TooOften) else
                  refused.status if refused.status in {429, 507} else 400)
        return answer_there(b"0", suffix, status, refused.headers)
    answer = render_document("feed", {
        "channel_id": station.id,
        **{f"field{n}": say_value(draft.values.get(n)) for n in THINGSPEAK_FIELDS},
        "created_at": say_stamp(draft.time, timezone.utc), "entry_id": station.last_entry,
        **{name: say_value(part) for name, part in draft.note._asdict().items()},
    }, suffix) if suffix in {"json", "xml"} else answer_there(b"%d" % station.last_entry, suffix)
    return answer._replace(is_update=True)


def post_update(request: Request, server: "Server") -> Answer:
    """POST /update is ours when its JSON looks like ours, or when there is no sign of a form."""
    if request.body.lstrip()[:1] in (b"{", b"["):
        document = load_json(request.body)
        is_ours = not isinstance(document, dict) or {"mac", "readings"} & document.keys()
        return (store_bulk if is_ours else write_entry)(request, server, document)
    if request.query or b"=" in request.body or find_key(request, {}) or not request.body:
        return write_entry(request, server)
    return store_bulk(request, server, load_json(request.body))


def parse_bulk_csv(params: Mapping[str, Any]) -> list[dict[str, str]]:
    """JSON's updates from `updates=TIME,f1,...,f8,lat,long,elevation,status|TIME,...`."""
    columns = ["delta_t" if params.get("time_format") == "relative" else "created_at",
               *(f"field{n}" for n in THINGSPEAK_FIELDS), *NOTES["location"], "status"]
    text = str(params.get("updates", ""))
    if len(text) > MAX_BULK * MAX_BULK_LINE or text.count("|") > 2 * MAX_BULK:
        raise Refused(413, f"updates: at most {MAX_BULK}")
    text = urllib.parse.unquote_plus(text) if len(text) > MAX_ENTRY else text
    # The last one, a status, may have commas.
    lines = [line.split(",", len(columns) - 1) for line in text.split("|") if line.strip(", ")]
    return [{name: value.strip() for name, value in zip(columns, line, strict=False)}
            for line in lines]


def parse_bulk_times(updates: list[dict[str, Any]], zone: tzinfo, now: int) -> list[int]:
    """When each entry was; the last delta_t (s since the one before) ends now. Raises Refused.
    What it ends at there is not established. What is not a time is refused, other than in /update:
    a whole history would be put at this instant."""
    with contextlib.suppress(ValueError, OverflowError):
        deltas = [round(parse_number(str(u.get("delta_t") or 0).strip()) * 1000) for u in updates]
        starts = list(itertools.accumulate(deltas))
        times = [parse_created(str(u["created_at"]).strip(), zone, now) if u.get("created_at")
                 else now - starts[-1] + start for u, start in zip(updates, starts, strict=True)]
        if 0 <= min(times) <= max(times) < LATEST_TIME:
            return times
    raise Refused(400, "created_at or delta_t: not a time")


def write_bulk(request: Request, server: "Server") -> Answer:
    """What is posted below /channels/: all updates or none, as one."""
    try:
        match = re.fullmatch(r"/channels/([^/]+)/bulk_update\.(json|csv)", request.path)
        if not match:
            raise Refused(405, "administration is done on the command line")
        now, params = server.now(), parse_params(request)
        key = find_key(request, params)
        station = server.access.admit(None, key, request.address)
        if str(station.id) != match[1]:
            raise Refused(403, "this key writes to another channel")
        updates = parse_bulk_csv(params) if match[2] == "csv" else params.get("updates")
        if not (isinstance(updates, list) and updates
                and all(isinstance(update, dict) for update in updates)):
            raise Refused(400, "updates: a list of them is needed")
        if len(updates) > MAX_BULK:
            raise Refused(413, f"updates: at most {MAX_BULK}")
        times = parse_bulk_times(updates, parse_zone(params), now)
        store_drafts(server, station, key, [*map(parse_draft, updates, times)], now)
        return answer_there(b'{"success":true}', "json", 202)._replace(is_update=True)
    except Refused as refused:
        no_key = Refused(401, "Please provide proper authentication details.")
        return render_error(no_key if refused.status == 403 else refused, "json")


# -- reading: what is wanted ----------------------------------------------------------------------

class Wanted(NamedTuple):
    """What the parameters of a read say."""
    start: int
    end: int
    results: int
    zone: tzinfo
    decimals: int | None
    minimum: float
    maximum: float
    summary: tuple[str, int] | None     # what to make of each bucket, and its length in ms
    notes: list[str]                    # what to tell of an entry's Note


def parse_wanted(params: Mapping[str, Any], now: int) -> Wanted:
    """What is unknown, or cannot be understood, is ignored."""
    zone = parse_zone(params)
    moment = functools.partial(parse_time, zone=zone)
    length = find_param(params, "days", 0) * DAY or find_param(params, "minutes", 0) * MINUTE
    start = find_param(params, "start", 0, moment)
    if length > 0 and "start" not in params:
        start = max(0, now - round(min(length, now)))
    is_bounded = length > 0 or {"start", "end"} & params.keys()
    results = find_param(params, "results", MAX_RESULTS if is_bounded else DEFAULT_RESULTS)
    decimals = find_param(params, "round", None)
    return Wanted(
        start, min(now, find_param(params, "end", now, moment)) + 1,
        max(0, min(int(results), MAX_RESULTS)), zone,
        None if decimals is None else max(0, min(int(decimals), 15)),
        find_param(params, "min", -math.inf), find_param(params, "max", math.inf),
        next(((name, SCALES[scale]) for name in SUMMARIES
              if (scale := str(params.get(name)).strip()) in SCALES), None),
        [name for flag, names in NOTES.items() if str(params.get(flag)).lower() == "true"
         for name in names])


class Read(NamedTuple):
    """A read below /channels/N: of what, and how it is told."""
    reader: Reader
    now: int
    station: Station
    labels: dict[int, str]      # of each field that there is
    fields: list[int]           # that are wanted
    path: dict[str, str]        # what the path says: field, entry
    params: dict[str, Any]
    wanted: Wanted              # what params say
    suffix: str


COMMA_NUMBER = re.compile(r"-?\d{1,15},\d{1,15}", re.ASCII)
SUMMARIES: dict[str, Callable[[list[Any]], Any]] = {
    "timescale": operator.itemgetter(0),
    "sum": lambda values: float(sum(values)),
    "average": lambda values: sum(values) / len(values),
    "median": lambda values: float(statistics.median(values)),
}


def to_number(value: Value | None) -> float | None:
    """A value to reckon with; a text may be one with a decimal comma, others are none."""
    if isinstance(value, str):
        return float(value.replace(",", ".")) if COMMA_NUMBER.fullmatch(value) else None
    return value


def summarize_entries(entries: list[Entry], fields: Iterable[int], summary: tuple[str, int]
                      ) -> list[Entry]:
    """One entry for each bucket from the first to the last; empty ones have no values.
    What an entry lacks is left out of averages; there it counts as 0, which halves the mean of
    stations that send one field at a time."""
    name, width = summary

    def summarize(group: list[Entry]) -> dict[int, Any]:
        if name == "timescale":                 # the bucket's first entry, as it is
            return group[0].values
        held = {n: [number for entry in group
                    if (number := to_number(entry.values.get(n))) is not None] for n in fields}
        return {n: SUMMARIES[name](numbers) for n, numbers in held.items() if numbers}
    buckets = {bucket: summarize(list(group)) for bucket, group in itertools.groupby(
        entries, lambda entry: entry.time // width)}
    last = max(buckets, default=0)
    first = max(min(buckets, default=1), last - MAX_RESULTS + 1)
    return [Entry(bucket * width, None, buckets.get(bucket, {}))
            for bucket in range(first, last + 1)]


def find_entries(read: Read, fields: Iterable[int], results: int
                 ) -> Generator[None, None, list[Entry]]:
    """The newest entries in the time that is wanted, as they were stored."""
    entries: list[Entry] = []
    before = (read.wanted.end, 0)
    while (left := results - len(entries)) > 0:
        limit = min(left, STEP_ENTRIES)
        page = read.reader.feed(read.station.id, before, limit, fields, read.wanted.start)
        entries[:0] = page
        if len(page) < limit:
            break
        before = page[0].time, page[0].number or 0
        yield
    return entries


def select_entries(read: Read) -> Generator[None, None, list[Entry]]:
    """What a feed shows: entries or summaries of them."""
    wanted = read.wanted
    entries = yield from find_entries(read, THINGSPEAK_FIELDS, wanted.results)
    if wanted.summary:
        entries = summarize_entries(entries, read.fields, wanted.summary)
    return [entry for entry in entries if all(
        wanted.minimum <= value <= wanted.maximum for n in read.fields
        if (value := to_number(entry.values.get(n))) is not None)]


# -- reading: how it is told ----------------------------------------------------------------------

def say_stamp(ms: int, zone: tzinfo) -> str:
    """`2014-02-25T14:13:01-05:00`, or with Z in UTC."""
    return datetime.fromtimestamp(ms // 1000, zone).isoformat().replace("+00:00", "Z")


def say_value(value: Any, decimals: int | None = None) -> str | None:
    """Values are texts there. Rounded, all numbers have so many decimals, and keep their comma."""
    if decimals is not None and (number := to_number(value)) is not None:
        text = f"{number:.{decimals}f}"
        return text.replace(".", ",") if isinstance(value, str) else text
    return None if value is None else str(value)


def entry_row(read: Read, entry: Entry) -> dict[str, Any]:
    """An entry as the recordings have it: names and their order matter."""
    wanted = read.wanted
    row: dict[str, Any] = {"created_at": say_stamp(entry.time, wanted.zone)}
    if entry.number is not None:
        row["entry_id"] = entry.number
    row |= {f"field{n}": say_value(entry.values.get(n), wanted.decimals) for n in read.fields}
    row |= {name: say_value(getattr(entry.note, name)) for name in wanted.notes}
    return row | {"id": None} if read.suffix == "xml" else row


NOT_IN_XML = re.compile("[\0-\x08\x0b-\x1f\ud800-\udfff\ufffe\uffff]")   # nor escaped
XML_TYPES = {"id": "integer", "at": "dateTime",     # by the last word of a name
             "latitude": "decimal", "longitude": "decimal", "elevation": "decimal"}


def as_xml(root: str, document: Any) -> bytes:
    return b'<?xml version="1.0" encoding="UTF-8"?>' + xml_element(root, document).encode()


def xml_element(name: str, value: Any) -> str:
    """A dict becomes an element of elements, a list one of items named in the singular."""
    name = name.replace("_", "-")
    kind = XML_TYPES.get(name.rpartition("-")[2], "")
    kind = kind and f' type="{kind}"'
    if value is None:
        return f'<{name}{kind} nil="true"/>'
    if isinstance(value, dict):
        return f"<{name}>{''.join(itertools.starmap(xml_element, value.items()))}</{name}>"
    if isinstance(value, list):
        items = "".join(xml_element(name.removesuffix("s"), item) for item in value)
        return f'<{name} type="array">{items}</{name}>'
    text = NOT_IN_XML.sub("", str(value))
    return f"<{name}{kind}>{escape(text)}</{name}>"


def answer_there(body: bytes, suffix: str, status: int = 200, headers: Headers = ()) -> Answer:
    """An answer as ThingSpeak gives it: a page of any site may read it."""
    return Answer(body, KINDS.get(suffix, TEXT), status, CORS + headers)


NOTHING = answer_there(b"-1", "json")   # as recorded; of an empty channel it is not established


def render_document(root: str, document: dict[str, Any], suffix: str) -> Answer:
    """A document in the format that is wanted; .txt and no suffix give JSON."""
    if suffix == "csv":
        return answer_there(as_csv([document, document.values()]), "csv")
    if suffix == "xml":
        return answer_there(as_xml(root, document), "xml")
    return answer_there(as_json(document), "json")


def render_error(refused: Refused, suffix: str) -> Answer:
    """An error in the format that was asked for; of a private channel as recorded."""
    if "WWW-Authenticate" in dict(refused.headers):
        return NOTHING._replace(status=400)
    code, message = ERRORS.get(refused.status, ERRORS[400])
    answer = render_document("hash", {
        "status": str(refused.status),
        "error": {"error_code": code, "message": message, "details": refused.message},
    }, suffix) if suffix in {"json", "xml"} else answer_there(code.encode(), "txt")
    return answer._replace(status=refused.status, headers=CORS + refused.headers)


def render_rows(read: Read, channel: dict[str, Any], entries: list[Entry]) -> Work:
    """A channel and its entries. CSV has times like `2021-02-18 21:46:23 UTC`, or with -0500."""
    rows = []
    for entry in entries:
        row = entry_row(read, entry)
        if read.suffix == "csv":
            stamp = row["created_at"].replace("T", " ").replace("Z", " UTC")
            row["created_at"] = re.sub(r"([+-]\d\d):(\d\d)$", r" \1\2", stamp)
            rows.append(as_csv([row.values()]))
        elif read.suffix == "xml":
            rows.append(xml_element("feed", row).encode())
        else:
            rows.append(as_json(row))
        if len(rows) % STEP_ENTRIES == 0:
            yield
    if read.suffix == "csv":
        names = entry_row(read, Entry(0, None if read.wanted.summary else 0, {}))
        return answer_there(b"".join([as_csv([names]), *rows]), "csv")
    if read.suffix == "xml":
        start = as_xml("channel", channel).removesuffix(b"</channel>")
        return answer_there(b'%b<feeds type="array">%b</feeds></channel>' % (
            start, b"".join(rows)), "xml")
    return answer_there(b'{"channel":%b,"feeds":[%b]}' % (as_json(channel), b",".join(rows)),
                        "json")


# -- reading: the routes --------------------------------------------------------------------------

def get_feed(read: Read) -> Work:
    entries = yield from select_entries(read)
    station, zone = read.station, read.wanted.zone
    return (yield from render_rows(read, {
        "id": station.id, "name": station.name,
        **({"metadata": None} if str(read.params.get("metadata")).lower() == "true" else {}),
        **{f"field{n}": label for n, label in read.labels.items()},
        "created_at": say_stamp(station.created, zone),
        "updated_at": say_stamp(station.heard or station.created, zone),
        "last_entry_id": station.last_entry or None}, entries))


def find_entry(read: Read) -> Entry | None:
    """The entry of a number, or the last one, or the last that has a field. Raises Refused."""
    if number := read.path.get("entry"):
        if found := read.reader.find_entry(read.station.id, int(number)):
            return found
        raise Refused(404, "there is no such entry")
    if "field" in read.path:
        return read.reader.last_entry(read.station.id, read.fields[0], read.now)
    return next(iter(read.reader.feed(read.station.id, (read.now + 1, 0), 1, THINGSPEAK_FIELDS)),
                None)


def get_entry(read: Read) -> Answer:
    entry = find_entry(read)
    if entry is None:
        return NOTHING
    if "field" in read.path and read.suffix not in KINDS:
        value = say_value(entry.values[read.fields[0]], read.wanted.decimals)
        text = f"{read.params.get('prepend', '')}{value}{read.params.get('append', '')}"
        return answer_there(text.encode(), "txt")
    return render_document("feed", entry_row(read, entry), read.suffix)


def get_age(read: Read) -> Answer:
    """Seconds since the last entry. What .txt, .xml and .csv looked like is not established."""
    last = find_entry(read)
    if last is None:
        return NOTHING
    age = str(max(0, read.now - last.time) // 1000)
    if read.suffix not in KINDS:
        return answer_there(age.encode(), "txt")
    return render_document("feed", {"last_data_age": age, "last_data_age_units": "s"}, read.suffix)


def get_status(read: Read) -> Work:
    """The entries that have a status text, of the last day unless told otherwise."""
    is_last = "last" in read.path
    wanted = parse_wanted(({} if is_last else {"days": "1"}) | read.params, read.now)
    read = read._replace(fields=[], wanted=wanted._replace(summary=None, notes=NOTES["status"]))
    found = yield from find_entries(read, (), MAX_RESULTS)
    entries = [entry for entry in found if entry.note.status is not None]
    if not is_last:
        entries = entries[max(0, len(entries) - wanted.results):]
        return (yield from render_rows(read, {"name": read.station.name}, entries))
    return (render_document("feed", entry_row(read, entries[-1]), read.suffix) if entries
            else NOTHING)


def list_channel(station: Station, zone: tzinfo) -> dict[str, Any]:
    """A channel in a list; what we do not keep is there, but empty."""
    return {"id": station.id, "name": station.name, "description": None, "metadata": None,
            "latitude": None, "longitude": None, "created_at": say_stamp(station.created, zone),
            "elevation": None, "last_entry_id": station.last_entry or None, "ranking": 0,
            "username": "", "tags": []}


def get_channel(read: Read) -> Answer:
    return render_document("channel", list_channel(read.station, read.wanted.zone), read.suffix)


CHART_STYLE = string.Template(
    ":root{color-scheme:light;--ink:#18212b;--dim:#55606c;--line:#d5dbe1;--card:$background;"
    "--paper:$background}main{padding:0}figure{padding:.5rem;border-radius:0}.line{color:$color}"
    "h1{font-size:1rem;text-align:center}"
    "figcaption{display:flex;justify-content:space-between;font-size:.8rem}")


def shape_line(points: list[Point], shape: str, base: float) -> list[Point]:
    """The corners of a line of columns (also bar), or of steps; of any other the points."""
    if shape in {"column", "bar"}:
        return [Point(p.time, value, value, value)
                for p in points for value in (base, p.mean, base)]
    if shape == "step":
        return points[:1] + [Point(after.time, value, value, value)
                             for before, after in itertools.pairwise(points)
                             for value in (before.mean, after.mean)]
    return points


def get_chart(read: Read) -> Work:
    """A page to embed, with the chart that the server draws for its own."""
    def color(name: str, default: str) -> str:
        match = re.fullmatch("#?([0-9A-Fa-f]{6}|[0-9A-Fa-f]{3})", params.get(name, ""))
        return f"#{match[1]}" if match else default
    params, now, field = read.params, read.now, read.fields[0]
    entries = yield from select_entries(read)
    samples = [Summary(entry.time, 0, 1, value, value, value) for entry in entries
               if (value := to_number(entry.values.get(field))) is not None]
    start, end = (samples[0].time, samples[-1].time + 1) if samples else (now - DAY, now)
    points = (thin(samples, start, -(-(end - start) // CHART_POINTS))
              if len(samples) > CHART_POINTS else [s.point for s in samples])
    bounds = [bound for name in ("yaxismin", "yaxismax")
              if (bound := find_param(params, name, None)) is not None]
    base = min([*bounds, *(point.minimum for point in points)], default=0)
    label = params.get("yaxis") or read.labels.get(field, str(field))
    title = params.get("title") or read.station.name
    line = Line(label, "line", shape_line(points, params.get("type", ""), base))
    chart = render_chart(Chart([line], "", start, end, read.wanted.zone, bounds=bounds))
    style = STYLE + CHART_STYLE.substitute(background=color("bgcolor", "#ffffff"),
                                           color=color("color", "#d62020"))
    every = max(MIN_CHART_UPDATE, int(find_param(params, "update", MIN_CHART_UPDATE)))
    refresh = (("Refresh", str(every)),) if params.get("dynamic") == "true" else ()
    return Answer(render_page(
        title, f"<figure><h1>{escape(title)}</h1>{chart}<figcaption><span>{escape(label)}</span>"
        f"<span>{escape(params.get('xaxis', ''))}</span></figcaption></figure>", style=style),
        HTML, headers=(*CORS, *page_headers(style, framing=""), *refresh))


def get_public(server: "Server", params: dict[str, Any], suffix: str) -> Answer:
    """All channels, when all can look."""
    stations = [] if server.access.password else server.reader.stations()
    return render_document("response", {
        "pagination": {"current_page": 1, "per_page": len(stations),
                       "total_entries": len(stations)},
        "channels": [list_channel(station, parse_zone(params)) for station in stations]}, suffix)


FEED = r"/(?:feeds?|fields?/(?:field)?(?P<field>[1-8]))"  # a client's own example says field1
READS: dict[str, Callable[[Read], Answer | Work]] = {
    "": get_channel,
    FEED: get_feed,
    FEED + "/last": get_entry,
    r"/feeds?/(?:entry/)?(?P<entry>\d{1,18})": get_entry,
    FEED + "/last_data_age": get_age,
    r"/status(?:es)?(?:/(?P<last>last))?": get_status,
    "/charts/(?P<field>[1-8])": get_chart}


def read_channel(request: Request, server: "Server", params: dict[str, Any], path: str,
                 suffix: str) -> Work:
    """One read below /channels/. Raises Refused."""
    if path == "public":
        return get_public(server, params, suffix)
    id, slash, rest = path.partition("/")
    reader, access, now = server.reader, server.access, server.now()
    station = next((s for s in reader.stations() if str(s.id) == id), None)
    key = find_key(request, params)
    if access.password and not access.admit_key([station] if station else [], key,
                                                request.address):
        if "callback" in params:        # a script of another site, with the browser's password
            raise Refused(403, "callback: on a private server it needs a key")
        access.admit_reader(request.headers, request.address)
    if station is None:
        raise Refused(404, "there is no such channel")
    for pattern, route in READS.items():
        if match := re.fullmatch(pattern, slash + rest):
            told = {name: text for name, text in match.groupdict().items() if text}
            labels = {series.field: series.label or str(series.field)
                      for series in reader.latest([station.id])
                      if series.field in THINGSPEAK_FIELDS}
            fields = [int(told["field"])] if "field" in told else list(labels)
            answer = route(Read(reader, now, station, labels, fields, told, params,
                                parse_wanted(params, now), suffix))
            return answer if isinstance(answer, Answer) else (yield from answer)
    raise Refused(404, "there is nothing here")


CHANNEL_PATH = re.compile(r"^/channels/(.*?)(?:\.(json|xml|csv|txt|text))?$")
CALLBACK = re.compile(r"[A-Za-z_$][\w.$]{0,63}", re.ASCII)


def get_channels(request: Request, server: "Server") -> Work:
    """What is read below /channels/, in the format that the path ends in."""
    (path, suffix), = CHANNEL_PATH.findall(request.path)
    yield
    try:
        params = parse_params(request)
        answer = yield from read_channel(request, server, params, path, suffix)
        callback = params.get("callback")
        if callback is None or answer.kind != KINDS["json"]:
            return answer
        if not CALLBACK.fullmatch(callback):
            raise Refused(400, "callback: not a name")
        return answer._replace(body=b"%b(%b)" % (callback.encode(), answer.body),
                               kind="application/javascript; charset=utf-8")
    except Refused as refused:
        return render_error(refused, suffix)


# -- consoles and sensors -------------------------------------------------------------------------
#
# Weather Underground's protocol and Ecowitt's. A gateway sends nothing twice: so all that can be
# understood is taken.

REPORT = re.compile(r"/weatherstation/updateweatherstation\.php(.*)|/data/report/?([^/&]*)/?(.*)")
PURPOSE = Answer(render_message("For weather stations", "Bought weather stations send here what "
                                "they measure; <code>--add-station NAME --mac ID --console</code> "
                                'says what to type into their app. <a href="/">Overview</a>'),
                 HTML, headers=PAGE_HEADERS)


def take_report(request: Request, server: "Server") -> Answer:
    """Store all that a console says, or nothing: an entry of each station that it concerns."""
    if not (match := REPORT.fullmatch(request.path)):
        raise Refused(404, "there is nothing here; / is the page")
    glued, key, rest = match.groups()           # to a path of which the `?` was forgotten
    form = {name.lower(): value for text in (
        glued or rest or "", request.query.lstrip("?"), request.body.decode("utf-8", "replace"))
        for name, value in parse_form(text).items()}
    if not form and "text/html" in request.headers.get("accept", ""):
        return PURPOSE
    mac = parse_mac(form.get("id", "")) if key is None else None
    key = key or form.get("password") or request.headers.get("x-api-key", "")
    console, now = server.access.admit(mac, key, request.address), server.now()
    ms = parse_dateutc(form.get("dateutc", ""), now)
    found = [(part, values) for place, values in parse_report(form).items()
             if (part := server.writer.find_part(console, place, now))]
    if not found:
        raise Refused(400, "no reading in it; known are tempf, humidity, temp, hum, field1, ...")
    for part, values in found:
        server.writer.add_entry(part, ms, values, now)
    return Answer(b"success", is_update=True)


NO_METHOD = always(render_error(Refused(405, "this is done on the command line",
                                        Allow="GET, POST, OPTIONS"), "json"))
NO_ACCOUNT = always(render_error(Refused(404, "there are no accounts and no apps here"), "json"))
PREFLIGHT = always(Answer(b"", headers=CORS))


# -- the table ------------------------------------------------------------------------------------

class Route(NamedTuple):
    """Who answers. A path that ends in / stands for everything below it."""
    method: str
    path: str
    answer: Callable[[Request, "Server"], Answer | Work]
    is_open: bool = False       # needs no password: it asks for a key, or tells nothing
    is_loose: bool = False      # its clients make mistakes: repair_head comes before the parser
    is_safe: bool = True        # changes nothing, so HEAD may ask, too


ThingSpeak = functools.partial(Route, is_open=True, is_loose=True)
ROUTES = (
    Route("GET", "/", get_page),
    Route("GET", "/events", get_events),
    Route("GET", "/api/stations", get_stations),
    Route("GET", "/api/readings", get_readings),
    Route("GET", "/api/verdict", get_verdict, is_open=True),
    Route("GET", "/verdict.txt", get_verdict, is_open=True),
    Route("GET", "/export.csv", get_export),
    Route("GET", "/metrics", get_metrics),
    *(Route("GET", path, always(Answer(
        asset.encode(), kind, headers=(("Cache-Control", "max-age=86400"),))), is_open=True)
      for path, asset, kind in (
          ("/worker.js", WORKER, "text/javascript"), ("/icon.svg", ICON, "image/svg+xml"),
          ("/manifest.webmanifest", MANIFEST, "application/manifest+json"))),
    Route("GET", "/healthz", get_healthz, is_open=True),
    Route("GET", "/update/", get_update, is_open=True, is_safe=False),
    *(ThingSpeak("GET", path, write_entry, is_safe=False) for path in UPDATE_PATHS),
    ThingSpeak("POST", "/update", post_update),
    *(ThingSpeak("POST", path, write_entry) for path in UPDATE_PATHS[1:]),
    ThingSpeak("GET", "/channels/", get_channels),
    ThingSpeak("POST", "/channels/", write_bulk),
    *(ThingSpeak(method, "/channels/", NO_METHOD) for method in ("PUT", "DELETE")),
    *(ThingSpeak("OPTIONS", path, PREFLIGHT) for path in (*UPDATE_PATHS, "/channels/")),
    *(ThingSpeak(method, path, take_report, is_safe=False) for method in ("GET", "POST")
      for path in ("/weatherstation/", "/data/")),
    *(Route(method, path, NO_ACCOUNT, is_open=True) for method in ("GET", "POST")
      for path in ("/channels.json", "/users/", "/talkbacks/", "/apps/")),
)
METHODS: dict[str, dict[str, Route]] = collections.defaultdict(dict)    # by path and method
for route in ROUTES:
    METHODS[route.path][route.method] = route
    if route.method == "GET" and route.is_safe:
        METHODS[route.path]["HEAD"] = route
UPDATE = METHODS["/update/"]["GET"]


def find_route(command: str, path: str) -> Route:
    """Who answers a method on a path. Raises Refused 404, 405."""
    methods = METHODS.get(path) or METHODS.get(path[:path.find("/", 1) + 1])
    if methods is None:
        raise Refused(404, "there is nothing here; / is the page")
    if command not in methods:
        known = [method for method in methods if method != "HEAD"]
        raise Refused(405, f"use {' or '.join(known)} here", Allow=", ".join(methods))
    return methods[command]


# ------------------------------------------------------------------------------------------------
# 10. HTTP
#     Law: bytes are understood in one way or refused; what is refused is not executed,
#     and no byte of an update's answer leaves before the commit.
#     bytes -> Request -> (route) -> Answer -> bytes: pure functions, and a Connection that calls
#     them. What takes part in a server has an object of its own: Turn, Steps, Events, Board.
# ------------------------------------------------------------------------------------------------

STOCK = http.server.BaseHTTPRequestHandler      # its names and tables; its parser forgives a lot
TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"                        # RFC 9110, 5.6.2
# No two neighbors that match the same: no input makes these slow.
REQUEST_LINE = re.compile(rb"(%s) ([!\"$-\[\]-~]+) HTTP/([0-9]\.[0-9])" % TOKEN)
HEADER = re.compile(rb"(%s):([\t -~\x80-\xff]*)\r\n" % TOKEN)
HEADERS = re.compile(rb"(?:%s)*\r\n" % HEADER.pattern.replace(b"(", b"(?:"))
ABSOLUTE = re.compile(r"(?i:https?)://[^/?]+/?(.*)")
HOST = re.compile(r"[0-9A-Za-z.\-_~%!$&'()*+,;=:\[\]]*")
BODY_HEADERS = frozenset({"transfer-encoding", "content-length", "expect"})
ONCE = frozenset({"host", "content-length", "content-type", "x-api-key", "expect", "x-real-ip"})
LOOSE = re.compile(rb"\n?[A-Z]{3,7} +(?:http://[^/? \r\n]*)?(?:%s)" % b"|".join(
    re.escape(path.encode()) + (b"" if path.endswith("/") else rb"[? \r\n]")
    for path in sorted({route.path for route in ROUTES if route.is_loose})))
VALUES = re.compile(r"([0-9.eE+-]{1,32})(?:/age=([0-9.]{1,32}))?(?:/seq=([0-9A-Za-z._:-]{1,32}))?",
                    re.ASCII)


# -- bytes to a Request ---------------------------------------------------------------------------


def parse_line(line: bytes) -> tuple[str, str, str, str]:
    """A request line to command, path, query and version. Raises Refused."""
    match = REQUEST_LINE.fullmatch(line)
    if not match:
        raise Refused(400, "request line: METHOD /path HTTP/1.1 is needed, in plain ASCII")
    command, target, version = (word.decode() for word in match.groups())
    if len(line) > MAX_LINE:
        raise Refused(414, f"the request line is longer than {MAX_LINE} bytes")
    if version not in {"1.0", "1.1"}:
        raise Refused(505, "HTTP/1.0 and HTTP/1.1 are spoken here")
    if target[0] != "/":                # as to a proxy: RFC 9112, 3.2.2 wants it understood
        absolute = ABSOLUTE.fullmatch(target)
        if not absolute:
            raise Refused(400, "request line: the path has to begin with /")
        target = "/" + absolute[1]
    path, _, query = target.partition("?")
    return command, path, query, f"HTTP/{version}"


def parse_headers(block: bytes) -> dict[str, str]:
    """Header lines with the empty line to {name in lower case: value}. Raises Refused."""
    if not HEADERS.fullmatch(block):
        raise Refused(400, "header: each is one line, Name: value")
    pairs = HEADER.findall(block)
    if len(pairs) > MAX_HEADERS:
        raise Refused(431, f"more than {MAX_HEADERS} headers")
    headers: dict[str, str] = {}
    for raw_name, raw_value in pairs:
        name, value = raw_name.decode().lower(), raw_value.strip(b" \t").decode("latin-1")
        if name in headers and name in ONCE:
            raise Refused(400, f"{name}: given twice")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    if not HOST.fullmatch(headers.get("host", "")):
        raise Refused(400, "Host: malformed")
    return headers


def measure_body(command: str, version: str, headers: Mapping[str, str]) -> int:
    """The length of the body in bytes. Raises Refused."""
    if not BODY_HEADERS & headers.keys():
        return 0
    if (coding := headers.get("transfer-encoding")) is not None:
        is_clear = (coding.lower() == "chunked" and version == "HTTP/1.1"
                    and "content-length" not in headers)
        raise Refused(411 if is_clear else 400,
                      "Transfer-Encoding: not supported; send Content-Length")
    length = headers.get("content-length", "0")
    if not (length.isascii() and length.isdigit()):
        raise Refused(400, "Content-Length: not a number")
    if len(length) > 9 or int(length) > MAX_BODY:
        raise Refused(413, f"the body is longer than {MAX_BODY} bytes")
    if int(length) and command in {"GET", "HEAD"}:
        raise Refused(400, f"Content-Length: a {command} has no body")
    if headers.get("expect", "100-continue").lower() != "100-continue":
        raise Refused(417, "Expect: only 100-continue is known")
    return int(length)


def parse_head(head: bytes, peer: str | None, is_bare: bool = False) -> Request:
    """Request line, headers and empty line to a Request without its body. Never raises: what is
    refused comes back with its fault. peer is the address of the other side, None for the proxy.
    is_bare: there was no version, so the answer has no head."""
    line, _, block = head.partition(b"\r\n")
    command, path, query, version = "GET", "/", "", "HTTP/1.1"
    headers: Mapping[str, str] = {}
    length, closes, fault = 0, True, None
    try:
        command, path, query, version = parse_line(line)
        headers = parse_headers(block)
        if version == "HTTP/1.1" and "host" not in headers:
            raise Refused(400, "Host: missing")
        length = measure_body(command, version, headers)
        options = [word.strip() for word in headers.get("connection", "").lower().split(",")]
        closes = "close" in options or (
            version == "HTTP/1.0" and "keep-alive" not in options) or (
            # What follows may be meant as a body: it must not be read as a request.
            command == "POST" and "content-length" not in headers)
    except Refused as refused:
        fault = refused.with_traceback(None)    # it may be remembered, and what it holds with it
    # The proxy's word for an address counts, since only it connects to a unix socket.
    address = headers.get("x-real-ip", "") if peer is None else peer
    return Request(command, path, query, "HTTP/0.9" if is_bare else version, headers, address,
                   peer, closes, length, head, fault)


# A browser or a script sends the same head each time.
remember_head = functools.lru_cache(MAX_HEADS)(parse_head)


def cut_head(data: bytes, is_first: bool) -> tuple[bytes, int, bool] | None:
    """The head that data begins with, its length there, and whether it lacks a version. None while
    it is not complete. Raises Refused as soon as it cannot become one."""
    if LOOSE.match(data):
        found = repair_head(data[:MAX_HEAD + 1])
        if found and found[2] and not is_first:     # its answer could be taken for another's
            raise Refused(400, "request line: without a version it can only be the first one")
    else:
        end = data.find(b"\r\n\r\n") + 4
        found = (data[:end], end, False) if end > 3 else None
        stop = data.find(b"\n", 1, MAX_LINE + 2)        # what begins with one may yet be loose
        if stop > 0 and not found:
            parse_line(data[:stop - 1] if data[stop - 1] == 13 else data[:stop + 1])
    if found and found[1] <= MAX_HEAD:
        return found
    if b"\n" not in data[:MAX_LINE + 2] and len(data) > MAX_LINE:
        raise Refused(414, f"the request line is longer than {MAX_LINE} bytes")
    if len(data) > MAX_HEAD:
        raise Refused(431, f"the headers are longer than {MAX_HEAD} bytes")
    return None


class Known:
    """Updates seen before: one that differs by its values alone has only these parsed again. A
    station sends the same bytes each time, but for value, age and seq: 1.3 times the rate. Only
    what was admitted enters, and each time the key is asked again."""

    def __init__(self) -> None:
        self.table: dict[tuple[str | None, bytes, bytes], tuple[Request, Update]] = {}

    def find(self, peer: str | None, data: bytes) -> Request | None:
        """The request that data is, if it is known; the strict parser would say the same."""
        before, _, rest = data.partition(b"/data=")
        values, _, behind = rest.partition(b" ")
        if not (known := self.table.get((peer, before, behind))):
            return None
        if not (match := VALUES.fullmatch(values.decode("latin-1"))):
            return None
        request, (mac, key, reading) = known
        value, age, seq = match.groups()
        try:
            reading = Reading(reading.field, parse_number(value), parse_age(age) if age else 0,
                              seq)
        except (ValueError, Refused):
            return None                         # the strict parser says what is wrong with it
        return Request._make((*request[:-1], Update(mac, key, reading)))

    def learn(self, request: Request, update: Update) -> None:
        """Keep what stands around the values of an update that was admitted."""
        before, _, rest = request.head.partition(b"/data=")
        values, _, behind = rest.partition(b" ")
        if len(request.head) > MAX_REMEMBERED or not VALUES.fullmatch(values.decode("latin-1")):
            return
        self.table[request.peer, before, behind] = request._replace(head=b""), update
        if len(self.table) > MAX_KNOWN:
            del self.table[next(iter(self.table))]


# -- an Answer to bytes ---------------------------------------------------------------------------


def render_refusal(request: Request, refused: Refused) -> Answer:
    """A refusal in the form that the client asked for."""
    accept, phrase = request.headers.get("accept", ""), STOCK.responses[refused.status][0]
    if REPORT.match(request.path):              # in Weather Underground's words
        text = "INVALIDPASSWORDID: " * (refused.status == 403) + refused.message
        return Answer(f"{text}\n".encode(), TEXT, refused.status, refused.headers)
    if "text/html" in accept:
        return Answer(render_message(phrase, escape(refused.message)), HTML, refused.status,
                      refused.headers + PAGE_HEADERS)
    if "application/json" in accept or request.path.startswith("/api/") \
            or request.command == "POST":
        return Answer(as_json({"status": refused.status, "error": refused.message}), JSON,
                      refused.status, refused.headers)
    return Answer(f"{refused.message}\n".encode(), TEXT, refused.status, refused.headers)


@functools.lru_cache(256)
def render_head(status: int, kind: str, framing: str, headers: Headers, connection: str,
                second: int) -> bytes:
    """Status line and headers; most answers of a second have the same: 1.05 times the rate."""
    lines = [f"HTTP/1.1 {status} {STOCK.responses[status][0]}", "Server: iotserver",
             f"Date: {email.utils.formatdate(second, usegmt=True)}"]
    if status != HTTPStatus.NOT_MODIFIED:       # which has no body to describe
        lines += [f"Content-Type: {kind}", "X-Content-Type-Options: nosniff"]
        lines += [framing] * bool(framing)
    site = "cross-origin" if ("Access-Control-Allow-Origin", "*") in headers else "same-origin"
    lines.append(f"Cross-Origin-Resource-Policy: {site}")
    lines += [f"{name}: {value}" for name, value in headers]
    return "\r\n".join([*lines, connection, "\r\n"] if connection else [*lines, "\r\n"]).encode()


def render(request: Request, answer: Answer, closes: bool, second: int) -> bytes:
    """Head and body of an answer, to be sent in one write. second is the time since 1970, UTC."""
    version = request.request_version
    if version == "HTTP/0.9":
        return answer.body
    if answer.listens or (answer.stream and version == "HTTP/1.0"):
        framing = ""                            # the body ends where the connection does
    elif answer.stream:
        framing = "Transfer-Encoding: chunked"
    else:
        framing = f"Content-Length: {len(answer.body)}"
    connection = ("Connection: close" if closes else
                  "Connection: keep-alive" if version == "HTTP/1.0" else "")
    head = render_head(answer.status, answer.kind, framing, answer.headers, connection, second)
    return head if request.command == "HEAD" else head + answer.body


def chunked(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """A body of unknown length: RFC 9112, 7.1."""
    for piece in pieces:
        yield b"%x\r\n%b\r\n" % (len(piece), piece)
    yield b"0\r\n\r\n"


LOCAL = re.compile(r"[^.]*|.*\.(?:local|lan|home|internal|home\.arpa)|[\d.]+|\[[\da-f:]+\]")


@functools.lru_cache(64)
def is_lan(address: str) -> bool:
    """Whether an address is private; the machine's own is not meant, as proxies use it."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    return ip.is_private and not ip.is_loopback


def refuse_rebinding(host: str, link: str) -> None:
    """Raise Refused where a page of the internet has its own name point at a private address. Its
    script could read everything here. Nobody else calls such an address by such a name."""
    name = host if host.endswith("]") else host.rpartition(":")[0] or host
    if not LOCAL.fullmatch(name.lower()) and name.lower() != urllib.parse.urlsplit(link).hostname:
        raise Refused(403, "this address is private, and that name is not known to be its own; "
                           "use the address, or tell the name with --link")


def respond(request: Request, server: "Server", work: Work | None = None) -> Answer | Work:
    """The answer to a request, or the work that it takes; given that, one step of it is done.
    Never raises: whatever goes wrong is an answer."""
    try:
        if work:
            next(work)
            return work
        if request.fault:
            return render_refusal(request, request.fault)
        route = UPDATE if request.update else find_route(request.command, request.path)
        if request.is_lan and route.is_safe:
            refuse_rebinding(request.headers.get("host", ""), server.settings.link)
        if server.access.password and not route.is_open:
            server.access.admit_reader(request.headers, request.address)
        answer = route.answer(request, server)
        if not isinstance(answer, Answer) and server.steps.is_full(request.address):
            raise Refused(503, "too many large requests at a time; try again", Retry_After="5")
        return answer
    except StopIteration as done:
        return cast(Answer, done.value)
    except Refused as refused:
        return render_refusal(request, refused)
    except sqlite3.Error as error:
        return render_refusal(request, server.turn.fail(error))
    except Exception:
        log(f"a request failed: {traceback.format_exc()}")
        return render_refusal(request, Refused(500, "something went wrong here; it was logged"))


# -- connections ----------------------------------------------------------------------------------

READY = frozenset({"idle", "head", "body"})     # nothing of a request is here, a part of its head,
AFTER = READY | {"wait", "work", "stream", "listen", "linger"}  # all but its body
FOLLOWS = {                     # what may follow what; a connection begins idle
    "idle": AFTER, "head": AFTER, "body": AFTER, "wait": AFTER,
    "work": READY | {"wait", "stream", "linger"},
    "stream": {"stream", "idle", "wait", "linger"},
    "listen": frozenset[str](), "linger": frozenset[str](),     # only the end follows
}


class Connection(asyncio.Protocol):
    """One client: cuts its bytes into requests, keeps their answers in order, minds the time."""

    def __init__(self, server: "Server"):
        self.server = server
        self.buffer = bytearray()
        self.state, self.deadline = "idle", math.inf
        self.request: Request | None = None     # in hand: its body is missing, or it takes time
        self.work: Work | None = None           # on the request in hand
        self.stream: Iterator[bytes] | None = None      # the rest of the last answer
        self.answers: list[tuple[Request, Answer]] = []     # in the order of their requests
        self.answered = 0                       # requests
        self.is_full = self.is_at_end = self.is_closing = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        # A peer that is gone already has no name; that must not make it look like the proxy.
        name = transport.get_extra_info("peername")
        self.peer: str | None = None if name == "" else name[0] if name else ""
        own = transport.get_extra_info("sockname")
        self.is_lan = bool(own) and self.peer is not None and is_lan(own[0])
        self.enter("idle")
        if not self.server.welcome(self):
            self.refuse(Refused(503, "too many connections; try again", Retry_After="5"))

    def connection_lost(self, error: Exception | None) -> None:
        self.is_closing = True
        self.server.forget(self)

    def eof_received(self) -> bool:
        """A client that only closed its side still gets the answers that it is owed."""
        self.is_at_end = True
        return self.state in {"wait", "work", "stream"}

    def enter(self, state: str) -> None:
        """Be in another state."""
        if state not in FOLLOWS[self.state]:
            raise RuntimeError(f"a connection goes from {self.state} to {state}")
        self.state, self.deadline = state, self.server.monotonic() + PATIENCE[state]
        if state in {"work", "stream"} or not self.transport.is_reading():
            self.mind_reading()

    def mind_reading(self) -> None:
        """Pause or resume reading: on only while what comes can be made use of."""
        wanted = (self.state not in {"work", "stream"} and not self.is_full
                  and len(self.buffer) <= MAX_BUFFER)
        if wanted != self.transport.is_reading() and not self.transport.is_closing():
            (self.transport.resume_reading if wanted else self.transport.pause_reading)()

    # -- in ---------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        if self.is_closing:
            return
        self.buffer += data
        if self.state in READY:
            self.take_requests()
        elif len(self.buffer) > MAX_BUFFER:
            self.mind_reading()

    def take_requests(self) -> None:
        """Execute the requests that are complete in the buffer, MAX_PIPELINED of them at a time.
        Answers go out together: at once, or, where one of them is an update's, when the turn
        ends."""
        is_update = False
        while (self.buffer and not (self.is_closing or self.is_full or self.work or self.stream)
               and len(self.answers) < MAX_PIPELINED and (request := self.take_request())):
            answer = respond(request, self.server)
            if isinstance(answer, Answer):
                self.queue(request, answer)
                is_update |= answer.is_update
            else:
                self.request, self.work = request, answer
        if self.work:
            self.enter("work")
            self.server.steps.add(self)
        elif is_update:
            self.enter("wait")
        if is_update:
            self.server.turn.add(self)
        elif self.answers:
            self.flush(int(self.server.clock()))
        elif self.is_at_end and not self.work:
            self.transport.close()
        elif not self.work:
            state = "body" if self.request else "head" if self.buffer else "idle"
            if state != self.state:             # the time counts from the first byte
                self.enter(state)

    def take_request(self) -> Request | None:
        """The next request off the buffer, None while it is not complete."""
        if not self.request:
            if len(self.buffer) <= MAX_REMEMBERED and (
                    known := self.server.known.find(self.peer, bytes(self.buffer))):
                self.buffer.clear()
                return known
            while self.buffer.startswith(b"\r\n"):  # RFC 9112, 2.2: an empty line is no harm
                del self.buffer[:2]
            try:
                cut = cut_head(bytes(self.buffer[:MAX_HEAD + 1]), self.answered == 0)
            except Refused as refused:
                return Request(fault=refused)
            if not cut:
                return None
            head, length, is_bare = cut
            parse = remember_head if length <= MAX_REMEMBERED else parse_head
            self.request = parse(head, self.peer, is_bare)
            del self.buffer[:length]
            if self.is_lan:
                self.request = self.request._replace(is_lan=True)
            if self.request.length > MAX_HEAD and not self.server.has_memory():
                busy = Refused(503, "too many large requests at a time", Retry_After="5")
                self.request = self.request._replace(close_connection=True, length=0, fault=busy)
        request = self.request
        if len(self.buffer) < request.length:
            if "expect" in request.headers and request.request_version == "HTTP/1.1" \
                    and not self.answers and self.state != "body":
                self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            return None
        self.request = None
        if not request.length:
            return request
        body = bytes(self.buffer[:request.length])
        del self.buffer[:request.length]
        return request._replace(body=body)

    # -- out --------------------------------------------------------------------------------------

    def queue(self, request: Request, answer: Answer) -> None:
        """Put an answer behind those before it."""
        self.answers.append((request, answer))
        self.answered += 1
        if not answer.is_update and request.path.startswith(UPDATE_ROOTS) \
                and request.command != "OPTIONS":
            # ThingSpeak's clients are told 200 when they come too soon.
            result = "limited" if answer.status in {200, 429} else "refused"
            self.server.turn.updates[result] += 1
        if answer.stream and request.command != "HEAD":
            self.stream = (chunked(answer.stream) if request.request_version == "HTTP/1.1"
                           else answer.stream)
            self.request = request
        self.is_closing = (request.close_connection or self.server.is_stopping or answer.listens
                           or self.stream is answer.stream is not None)     # ends as the body does

    def refuse(self, refused: Refused) -> None:
        """Answer what is no request, and close."""
        self.queue(Request(), render_refusal(Request(), refused))
        self.flush(int(self.server.clock()))

    def flush(self, second: int, failure: Refused | None = None) -> None:
        """Send what is queued, in one write; failure is told instead of updates' answers."""
        last = len(self.answers) - 1
        data = b"".join([render(
            request, render_refusal(request, failure) if failure and answer.is_update else answer,
            self.is_closing and number == last, second)
            for number, (request, answer) in enumerate(self.answers)])
        listens = self.answers[last][1].listens
        self.answers.clear()
        self.transport.write(data)
        if self.work:
            return
        if listens:
            self.enter("listen")
            self.server.events.listeners.add(self)
        elif self.stream:
            self.enter("stream")
            if not self.is_full:
                self.server.steps.add(self)
        elif self.buffer or self.is_closing or self.is_at_end:
            self.rest()
        else:
            self.enter("idle")

    def rest(self) -> None:
        """Nothing more to send: close, go on with what has come, or wait for the next request."""
        if self.is_at_end and (self.is_closing or not self.buffer):
            self.transport.close()
        elif not self.is_closing:
            self.enter("wait" if self.buffer else "idle")
            if self.buffer:
                self.server.loop.call_soon(self.take_requests)
        elif not self.server.may_linger():
            self.transport.close()
        else:
            self.buffer.clear()
            # RFC 9112, 9.6: closing with unread bytes would reset the connection, and the client
            # might never see the answer: so only our side is closed, and the rest is dropped.
            self.enter("linger")
            with contextlib.suppress(OSError):  # the client is gone already
                self.transport.write_eof()

    def step(self) -> bool:
        """One step of the request in hand, or of its stream; whether there is more to do now."""
        if self.transport.is_closing():
            return False
        if self.stream:
            return self.send_piece(self.stream)
        if not (self.request and self.work):
            return False
        request, answer = self.request, respond(self.request, self.server, self.work)
        if not isinstance(answer, Answer):
            return True
        self.request = self.work = None
        self.queue(request, answer)
        self.flush(int(self.server.clock()))
        return False

    def send_piece(self, stream: Iterator[bytes]) -> bool:
        """The next piece of a stream, as fast as the client takes them."""
        try:
            piece = next(stream, None)
        except sqlite3.Error as error:
            log(f"an export was cut off: {error}")
            self.transport.abort()              # without its end the client knows
            return False
        if piece is None:
            self.stream = self.request = None
            self.rest()
            return False
        self.enter("stream")
        self.transport.write(piece)
        return not self.is_full

    def pause_writing(self) -> None:
        """The client does not take what it asked for: then it may not ask for more."""
        self.is_full = True
        self.mind_reading()

    def resume_writing(self) -> None:
        self.is_full = False
        self.mind_reading()
        if self.stream:
            self.server.steps.add(self)
        elif self.buffer and self.state in READY:
            self.take_requests()

    # -- time -------------------------------------------------------------------------------------

    def may_close(self, waited: float) -> bool:
        """Whether a server that has been stopping for so long owes this connection no more."""
        return self.state == "listen" or (
            self.state == "idle" and self.answered > 0 and waited > IDLE_STOP_SECONDS)

    def expire(self) -> None:
        """The deadline has passed."""
        if self.is_full:
            self.transport.abort()
        elif self.state in {"head", "body"}:
            self.refuse(Refused(408, "the request took too long"))
        else:
            self.transport.close()


# -- what takes part in a server ------------------------------------------------------------------


class Turn:
    """Group commit: the updates of one turn of the loop are one transaction, answered after it. A
    commit costs as much as ten updates: so those that are already here are taken in first. With 64
    busy clients that makes one commit of 64 instead of two of 32: 1.2 times the rate."""

    def __init__(self, server: "Server"):
        self.server = server
        self.connections: list[Connection] = []
        self.ends = 0.0                         # at the latest
        self.failure: Refused | None = None     # of the last commit
        # Since the start, for /metrics:
        self.updates = {"stored": 0, "repeated": 0, "refused": 0, "limited": 0}
        self.readings = 0
        self.commits = [0] * len(COMMIT_SECONDS)    # by how long they took
        self.seconds = 0.0                          # that all of them took

    def add(self, connection: Connection) -> None:
        """Flush this connection when the turn ends."""
        if not self.connections:
            self.ends = self.server.monotonic() + TURN_SECONDS
            # After two rounds of the loop: in the first one, what has come is read.
            self.server.loop.call_soon(self.server.loop.call_soon, self.end, 1)
        self.connections.append(connection)

    def end(self, seen: int = 0) -> None:
        """Commit what this turn brought; then, and only then, answer it. After seen connections
        there may be more to come, and if there are, they are waited for."""
        if 0 < seen < len(self.connections) < MAX_TURN and self.server.monotonic() < self.ends:
            self.server.loop.call_soon(self.end, len(self.connections))
            return
        connections, self.connections = self.connections, []
        failure, batch, began = None, self.server.writer.batch, self.server.monotonic()
        if batch.stations:
            try:
                self.server.writer.commit()
                self.failure = None
            except sqlite3.Error as error:
                failure = self.failure = self.fail(error)
            except Exception:           # whatever it was, nobody is told that it was stored
                log(f"a commit failed: {traceback.format_exc()}")
                failure = Refused(500, "not stored: something went wrong here; it was logged")
        second, seconds = int(self.server.clock()), self.server.monotonic() - began
        for connection in connections:
            if not connection.transport.is_closing():
                connection.flush(second, failure)
        if failure:
            self.updates["refused"] += batch.entries
        elif batch.stations:
            self.updates["stored"] += batch.entries
            self.updates["repeated"] += batch.repeated
            self.readings += len(batch.readings)
            self.commits[bisect.bisect_left(COMMIT_SECONDS, seconds)] += 1
            self.seconds += seconds
        if batch.readings and not failure:
            self.server.board.touched.update([reading[0] for reading in batch.readings])
            self.server.events.is_reset |= bool(batch.parts)
            if self.server.events.is_used:
                self.server.events.tell("reading", batch.readings)

    def fail(self, error: sqlite3.Error) -> Refused:
        """What to tell the clients of a failed commit; ends the process when nothing is sure."""
        path = self.server.writer.path
        if is_fatal(error):
            end_at_once(f"{path}: {error}; ending, since nothing more can be promised. Check the "
                        "disk, then --check the database or restore a backup")
        is_full = getattr(error, "sqlite_errorname", str(error)) in {
            "SQLITE_FULL", "SQLITE_IOERR_WRITE", "database or disk is full"}
        if not self.failure:
            log(f"{path}: {error}; updates are refused until that is over")
        return Refused(507 if is_full else 503,
                       "not stored: " + ("the disk is full" if is_full else str(error)),
                       Retry_After="60")


class Steps:
    """What takes long, a step at a time; updates, and other addresses, have their turns between. A
    few addresses are served in rotation, each with its first request, and with each round one
    piece of one stream."""

    def __init__(self, server: "Server"):
        self.server = server
        self.waiting: dict[str, collections.deque[Connection]] = {}     # requests by address
        self.rotation: collections.deque[str] = collections.deque()     # of some addresses
        self.others: collections.deque[str] = collections.deque()       # the rest, in order
        self.streams: collections.deque[Connection] = collections.deque()
        self.is_running = False

    def add(self, connection: Connection) -> None:
        if not (connection.work and connection.request):
            self.streams.append(connection)
        elif queue := self.waiting.get(connection.request.address):
            queue.append(connection)
        else:
            self.waiting[connection.request.address] = collections.deque([connection])
            self.others.append(connection.request.address)
        if not self.is_running:
            self.is_running = True
            self.server.loop.call_soon(self.step)

    def is_full(self, address: str) -> bool:
        return (len(self.waiting.get(address, ())) >= MAX_WORKS_PER_ADDRESS
                or len(self.waiting) >= MAX_WORKS)

    def step(self) -> None:
        self.server.turn.end()          # whose answer is ready does not wait for this step
        while self.others and len(self.rotation) < MAX_ROTATION:
            self.rotation.append(self.others.popleft())
        if self.rotation:
            address = self.rotation.popleft()
            queue = self.waiting[address]
            if not queue[0].step():
                queue.popleft()
            if queue:
                self.rotation.append(address)
            else:
                del self.waiting[address]
        if self.streams and (stream := self.streams.popleft()).step():
            self.streams.append(stream)
        self.is_running = bool(self.waiting or self.streams)
        if self.is_running:
            self.server.loop.call_soon(self.step)


class Events:
    """Who listens, and what was told: server-sent events, as the HTML standard has them."""

    def __init__(self, writer: Writer):
        self.writer = writer
        self.process = secrets.token_hex(4)     # tells the events of this process from others'
        self.listeners: set[Connection] = set()
        self.told: collections.deque[tuple[str, Any]] = collections.deque(maxlen=MAX_EVENTS)
        self.last = 0                           # number of the newest one
        self.is_reset = False                   # a command has changed stations or history
        self.is_used = False                    # somebody has listened: till then none is missed

    def is_full(self) -> bool:
        return len(self.listeners) >= MAX_LISTENERS

    def tell(self, name: str, items: list[Any]) -> None:
        """Events for all listeners, in one write each; kept for those that come back."""
        events = [(name, item) for item in items]
        self.told.extend(events)
        self.last += len(events)
        if self.listeners:                      # with none, they are not even put into words
            self.publish(self.render(events))

    def render(self, events: list[tuple[str, Any]]) -> bytes:
        """The newest events as bytes. Their ids let a listener go on where it was cut off."""
        first = self.last - len(events) + 1
        return b"".join(b"id: %b.%d\nevent: %b\ndata: %b\n\n" % (
            self.process.encode(), number, name.encode(),
            as_json(self.describe(item) if name == "reading" else item))
            for number, (name, item) in enumerate(events, first))

    def describe(self, row: tuple[int, int, int, Any]) -> dict[str, Any]:
        series, ms, entry, value = row
        station, field = self.writer.series_places.get(series, (None, None))  # None: removed
        return {"station": station, "field": field, "time": ms, "value": value, "entry": entry}

    def greet(self, last_id: str | None, now: int, verdicts: list[dict[str, Any]]) -> bytes:
        """What a listener gets at first: the time here, the verdicts, and what it missed."""
        self.is_used = True
        data = b": connected\n\nevent: hello\ndata: %d\n\n" % now
        if verdicts:
            data += b"event: verdict\ndata: %b\n\n" % as_json(verdicts)
        return data + self.since(last_id)

    def since(self, last_id: str | None) -> bytes:
        """What a listener missed; `reset` when that is not known any more: ask for all again."""
        if last_id is None:
            return b""
        process, _, number = last_id.partition(".")
        is_ours = process == self.process and re.fullmatch("[0-9]{1,15}", number)
        missed = self.last - int(number) if is_ours else -1
        if 0 <= missed <= len(self.told):
            return self.render(list(self.told)[len(self.told) - missed:])
        return RESET

    def publish(self, data: bytes) -> None:
        """Send to all listeners; one that is far behind is dropped rather than queued for ever."""
        for connection in tuple(self.listeners):
            if connection.transport.get_write_buffer_size() > MAX_UNSENT:
                connection.transport.abort()
            else:
                connection.transport.write(data)


RESET = b"event: reset\ndata: {}\n\n"


class Board:
    """The newest verdicts, and the pages made from them: worked out when someone asks. They last
    until a reading, a command or the next minute makes them old, or a silence does."""

    def __init__(self, reader: Reader, settings: argparse.Namespace, now: Callable[[], int]):
        self.reader, self.settings, self.now = reader, settings, now
        self.is_stale = True                    # all is to be read again: there was a command
        self.touched: set[int] = set()          # series that have had readings since
        self.looking: Generator[None, None, list[Place]] | None = None      # the look in hand
        self.begun = self.ended = 0             # looks
        self.expires = 0                        # then a verdict turns unknown
        self.read_again = 0                     # then all is read again
        self.pages_expire = 0
        self.current: list[Place] = []
        self.forecasts: dict[tuple[int, int], Forecast | None] = {}     # by series
        self.pages: dict[View, Answer] = {}
        self.told: list[tuple[str, str]] = []   # stations and states, as listeners know them
        self.notes: dict[str, str] = {}         # what else the page has to say

    def look(self) -> Generator[None, None, None]:
        """See to it that current is of now; in steps. One look is taken at a time, and whoever
        waits for it goes on with it."""
        is_behind = self.is_stale or self.touched or self.now() >= self.expires
        needed = self.begun + bool(is_behind)
        while self.ended < needed:
            if self.looking is None:
                self.looking = self.begin()
            try:
                next(self.looking)
            except StopIteration as done:
                self.looking, self.ended = None, self.begun
                self.current = [self.with_forecast(place) for place in done.value]
                self.expires = min(find_expiry(self.current), self.read_again)
                self.pages.clear()
            except BaseException:
                self.looking, self.ended, self.is_stale = None, self.begun, True
                raise
            yield

    def with_forecast(self, place: Place) -> Place:
        """The very same where none is new: what has been looked at is known by that."""
        forecast = fresh_forecast(place, self.forecasts, self.now())
        return place if forecast is place.forecast else place._replace(forecast=forecast)

    def begin(self) -> Generator[None, None, list[Place]]:
        """A look at what is new, or at all there is."""
        now, touched = self.now(), None if self.is_stale else self.touched
        if touched is None or now >= self.read_again:       # what was of the future may be here
            touched, self.read_again = None, now // LOOK_AGAIN * LOOK_AGAIN + LOOK_AGAIN
        self.begun, self.is_stale, self.touched = self.begun + 1, False, set()
        return find_places(self.reader, now, self.settings.comfort, self.current, touched)

    def places(self) -> list[Place]:
        """Inside and outside stations with their verdicts, of now."""
        for _ in self.look():
            pass
        return self.current

    def find_page(self, view: View) -> Answer | None:
        """The page as view wants it, if it was made since the last reading and minute."""
        if (self.looking or self.is_stale or self.touched
                or self.now() >= min(self.expires, self.pages_expire)):
            return None
        return self.pages.get(view)

    def make_page(self, view: View) -> Generator[None, None, Answer]:
        """The page as view wants it, in steps; the oldest one makes room for it."""
        yield from self.look()
        if page := self.find_page(view):
            return page
        places, now = self.current, self.now()
        if now >= self.pages_expire:
            self.pages.clear()
            self.pages_expire = now // MINUTE * MINUTE + MINUTE
        body = yield from render_overview(self.reader, places, view, now, self.notes.values())
        tag = f'"{hashlib.sha256(body).hexdigest()[:16]}"'
        page = Answer(body, HTML, headers=(
            *PAGE_HEADERS, ("ETag", tag), ("Vary", "Accept-Language, Cookie"),
            ("Cache-Control", "no-store" if self.settings.private else "no-cache")))
        if self.current is places:              # nothing came in between
            if len(self.pages) >= MAX_PAGES:
                del self.pages[next(iter(self.pages))]
            self.pages[view] = page
        return page

    def verdicts(self) -> list[dict[str, Any]]:
        """The verdicts of the last look, as listeners get them."""
        found = [(place.name, place.verdict) for place in self.current if place.verdict]
        return [{"station": name, "state": verdict.state, "since": verdict.since,
                 "difference": verdict.difference and round(verdict.difference, 2),
                 } for name, verdict in found]

    def news(self) -> list[dict[str, Any]]:
        """The verdicts of the last look, when the state of one has changed since they were asked
        for here."""
        verdicts = self.verdicts()
        states = [(verdict["station"], verdict["state"]) for verdict in verdicts]
        is_new, self.told = states != self.told, states
        return verdicts if is_new else []


class Outlook:
    """What is expected for each room, worked out at each quarter of an hour, in steps. All of it
    is read anew each time: so it knows what was late, imported or deleted."""

    def __init__(self, server: "Server"):
        self.server = server
        self.at = 0                             # the quarter for which it was worked out
        self.forecasters: dict[tuple[int, int], Forecaster] = {}    # by series, as Board has it

    def renew(self) -> Iterator[None]:
        """What is due, the most urgent room first, but not while a command is at work."""
        quarter, before = self.server.now() // QUARTER * QUARTER, self.at
        if quarter == before or any(type(c) is Control for c in self.server.controls):
            return                              # a courier is always there, and changes nothing
        known, self.forecasters = self.forecasters if 0 < before < quarter else {}, {}
        self.at = quarter
        yield from self.server.board.look()
        for room, _ in rank_rooms(self.server.board.current)[:MAX_FORECASTS]:
            if room.series is not None and room.outside and room.outside.series is not None:
                pair = room.series, room.outside.series
                yield from self.work_out(pair, known.get(pair), before + QUARTER, quarter)

    def work_out(self, pair: tuple[int, int], known: Forecaster | None, start: int, now: int
                 ) -> Iterator[None]:
        """From start on with what was known; else from the newest outcome, or what can be."""
        reader, oldest = self.server.reader, now - LEARNED_DAYS * DAY
        forecaster = Forecaster(
            known.outcomes if known else reader.outcomes(*pair, oldest, now))
        if known:
            forecaster.asked = known.asked
        else:
            start = forecaster.outcomes[-1].asked + HOUR if forecaster.outcomes else oldest
        latest, outcomes = None, []
        for _, forecast, outcome in foresee(forecaster, functools.partial(reader.quarters, pair),
                                            max(start, oldest), now):
            latest = forecast
            outcomes += [outcome] if outcome else []
            yield
            if self.at != now:
                return                          # history has changed meanwhile: all begins anew
        self.forecasters[pair] = forecaster
        self.server.board.forecasts[pair] = latest
        self.server.board.touched.add(pair[0])
        self.server.turn.end()                  # a failure must not lose what it has not stored
        if outcomes:
            self.server.writer.keep_outcomes(*pair, outcomes, oldest)


class Control(asyncio.Protocol):
    """The control socket: one JSON line in, [method, arguments], one JSON line out. Each method is
    short, so that updates are served in between; a long work is many calls."""

    def __init__(self, server: "Server"):
        self.server, self.buffer = server, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.server.controls.add(self)

    def connection_lost(self, error: Exception | None) -> None:
        self.server.controls.discard(self)

    def data_received(self, data: bytes) -> None:
        *lines, self.buffer = (self.buffer + data).split(b"\n")
        for line in lines:
            self.transport.write(self.execute(line) + b"\n")
        if len(self.buffer) > CONTROL_LINE:
            self.transport.abort()

    def execute(self, line: bytes) -> bytes:
        method, arguments = json.loads(line)
        if (call := self.find(method)) is None:
            return as_json({"error": f"{method}: this server does not know it; is it older?"})
        self.server.turn.end()
        try:
            return as_json({"result": call(*arguments)})
        except StoreError as error:
            return as_json({"error": str(error)})
        except sqlite3.Error as error:
            return as_json({"error": self.server.turn.fail(error).message})

    def find(self, method: str) -> Callable[..., Any] | None:
        """What a line may ask for."""
        if method == "address":
            return lambda: self.server.where
        if method not in WRITER_METHODS:
            return None
        self.server.board.is_stale = self.server.events.is_reset = True
        self.server.outlook.at = 0
        return cast(Callable[..., Any], getattr(self.server.writer, method))


WRITER_METHODS = frozenset({
    "add_station", "add_console", "edit_station", "new_key", "set_read_key", "label",
    "remove_step", "prune_step", "prune_notes_step", "delete_step", "shrink_step", "import_rows"})


class Counter(Control):
    """The courier's socket: the same lines, but only of what a courier has to ask and to say."""

    def find(self, method: str) -> Callable[..., Any] | None:
        known = COURIER_METHODS.get(method)
        return known and functools.partial(known, self.server)


Told = tuple[int, str, str]     # of a station a topic and its state: see the table told


class Post:
    """What the courier is to carry: worked out when it asks. Without one, nothing is. For each
    station it is kept what is true, and for each destination what it was told last: so what is
    tried again is true by then, and what is true no more is never sent."""

    def __init__(self, server: "Server"):
        self.server = server
        self.units = server.settings.units.replace("auto", "CF")
        self.child: subprocess.Popen[bytes] | None = None       # a courier of our own
        self.heard: dict[int, tuple[int, float]] = {}           # by station; on our own clock
        self.failing: dict[str, tuple[str, float, str]] = {}    # by id: name, since when, why
        self.counts: collections.Counter[str] = collections.Counter()   # sent and failed ones

    def collect(self, destinations: list[str], quiet: str, plan: str) -> dict[str, list[Any]]:
        """What each destination is to be told, after a look at what is true by now."""
        now, told, stations = self.server.now(), self.server.writer.told, [
            station for station in self.server.writer.stations.values() if station.role]
        awake = awake_since(parse_clocks(quiet, 2), now)
        clock = next(iter(parse_clocks(plan, 1)), None)
        places = self.server.board.places()
        rooms = {room["station"]: room for room in verdict_document(
            places, now, self.units)["verdicts"]}
        if changes := [row for row in self.look(stations, places, rooms, clock, now)
                       if row[2] != told[""].get(row[:2], ("", 0))[0]]:
            self.server.writer.tell("", changes)
        self.report(destinations)
        timely = [(station, topic, *true) for station in stations for topic in TOPICS
                  if (clock or topic != "plan") and (true := told[""].get((station.id, topic)))
                  and is_timely(true[1], now, awake)]
        zone = clock.tzinfo if clock else None
        return {id: [self.compose(station, topic, state, since, rooms, zone)
                     for station, topic, state, since in timely
                     if is_news(state, told[id].get((station.id, topic), ("", 0))[0])]
                for id in destinations}

    def look(self, stations: list[Station], places: list[Place], rooms: dict[str, Any],
             clock: Clock | None, now: int) -> Iterator[tuple[int, str, str, int]]:
        """What is true of each station, and since when: rows of the table told."""
        by_name = {place.name: place for place in places}
        for station in stations:
            kind, since, place = "", now, by_name[station.name]
            if verdict := place.verdict:
                kind = choose_kind(verdict, place.is_cold)
                since = verdict.since if kind == verdict.state and verdict.since else now
            yield station.id, "verdict", kind, since
            yield from self.listen(station, station.heard or 0, now)
            if clock:
                at = last_at(clock, now)
                day = datetime.fromtimestamp(at / 1000, clock.tzinfo).date().isoformat()
                is_worth = (place.forecast and place.forecast.days >= FEWEST_DAYS
                            and is_worth_a_plan(rooms[station.name], self.server.settings.comfort))
                yield station.id, "plan", day if is_worth else "", at

    def listen(self, station: Station, heard: int, now: int
               ) -> Iterator[tuple[int, str, str, int]]:
        """Whether a station is silent, by the time that this server itself was there."""
        state, since = self.server.writer.told[""].get((station.id, "silence"), ("", 0))
        before, clock = self.heard.get(station.id, (heard, self.server.monotonic()))
        self.heard[station.id] = heard, clock if heard == before else self.server.monotonic()
        quiet = (self.server.monotonic() - self.heard[station.id][1]) * 1000
        if state == "silent" and (heard != before or heard > since):
            yield station.id, "silence", "back", heard
        elif heard and quiet >= max(SILENCE_TOLD, station.silence):
            yield station.id, "silence", "silent", now

    def compose(self, station: Station, topic: str, state: str, since: int,
                rooms: dict[str, Any], zone: tzinfo | None) -> dict[str, Any]:
        """A message, as it is true now; of several rooms with the name."""
        room = rooms.get(station.name, {})
        which = f"{station.name}: " * (topic != "silence" and len(rooms) > 1)
        title, text = say_message(station, topic, state, room, self.server.now(), zone, self.units)
        line = f"{topic}-{station.created}-{station.id}"    # several may be of one instant
        return {"told": (station.id, topic, state), "line": line, "id": f"{line}-{state}-{since}",
                "kind": "plan" if topic == "plan" else state, "station": station.name,
                "title": which + title, "message": which + text, "time": format_time(since),
                **{part: room.get(part) for part in ("state", "difference", "inside", "outside")}}

    def note(self, id: str, name: str, told: list[Told], failure: str) -> None:
        """What became of a try: what that destination knows by now, and why the rest failed."""
        self.counts["sent"] += len(told)
        self.counts["failed"] += bool(failure)
        if told:
            self.server.writer.tell(id, [(*row, self.server.now()) for row in told])
        since = self.failing.pop(id, (name, self.server.monotonic(), ""))[1]
        if failure:
            self.failing[id] = name, since, failure

    def report(self, destinations: list[str]) -> None:
        """Say of a destination that it has failed for an hour, on the page and once in the log."""
        notes = {id: f"Messages to {name} have failed for an hour: {why}."
                 for id, (name, since, why) in self.failing.items()
                 if id in destinations and self.server.monotonic() - since >= MESSAGE_AGE / 1000}
        for id in notes.keys() - self.server.board.notes.keys():
            log(notes[id])
        if notes != self.server.board.notes:
            self.server.board.notes = notes
            self.server.board.pages.clear()


def take_unsent(server: "Server", engine: str) -> tuple[int, bool, list[Piece]]:
    """What an engine is to get next, a number for that, and whether it is all there is."""
    server.writer.outbox.serve(engine, server.now())
    outbox = server.writer.outbox
    if server.monotonic() >= outbox.settles:
        outbox.settles = server.monotonic() + SETTLE_SECONDS
        outbox.settle()
    pieces = outbox.take(server.reader.db)
    return outbox.ticket, len(pieces) < STEP_ENTRIES and sum(
        len(piece.points) for piece in pieces) < FORWARD_ROWS, pieces


COURIER_METHODS: dict[str, Callable[..., Any]] = {      # of the server, and what the line says
    "take_unsent": take_unsent,
    "forwarded": lambda server, ticket: server.writer.outbox.forwarded(ticket),
    "begin_again": lambda server: server.writer.outbox.begin_again(),
    "look_back": lambda server: server.writer.outbox.look_back(server.monotonic()),
    "collect": lambda server, *wishes: server.post.collect(*wishes),
    "note": lambda server, *outcome: server.post.note(*outcome),
}


class Server:
    """What one process serves: the store, who may write to it, and all connections."""

    def __init__(self, settings: argparse.Namespace, writer: Writer, reader: Reader,
                 clock: Callable[[], float] = time.time,
                 monotonic: Callable[[], float] = time.monotonic):
        self.settings, self.writer, self.reader = settings, writer, reader
        self.clock, self.monotonic = clock, monotonic
        self.access = Access(writer, settings.rate_limit, monotonic,
                             read_password(settings.private) if settings.private else None)
        self.known, self.turn, self.steps = Known(), Turn(self), Steps(self)
        self.board, self.events = Board(reader, settings, self.now), Events(writer)
        self.outlook = Outlook(self)
        self.connections: set[Connection] = set()
        self.room = MAX_CONNECTIONS
        self.controls: set[Control] = set()
        self.post = Post(self)
        self.where = ""                         # its address, for people
        self.loop: asyncio.AbstractEventLoop    # set as it starts
        self.is_stopping = False
        self.reported = ("", 0.0)               # the last error of the loop, until when

    def now(self) -> int:
        return int(self.clock() * 1000)

    def report(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """An error that asyncio caught; out of files it would tell a thousand times a second."""
        error, now = context.get("exception"), self.monotonic()
        if self.is_stopping and isinstance(error, ValueError):
            return                      # it tries a listener again that is closed by now
        text = f"{context['message']}: {error}"
        if error and not isinstance(error, OSError):
            text = "".join(traceback.format_exception(error))
        if text != self.reported[0] or now > self.reported[1]:
            self.reported = (text, now + 60)
            log(text)

    def welcome(self, connection: Connection) -> bool:
        """Whether there is room for one more connection."""
        self.connections.add(connection)
        return len(self.connections) <= self.room

    def may_linger(self) -> bool:
        """Those that were refused have some room, too."""
        return len(self.connections) <= self.room + self.room // 4

    def has_memory(self) -> bool:
        """Whether the bodies that are on their way leave room for one more."""
        return sum(connection.request.length for connection in self.connections
                   if connection.request) <= MAX_UNFINISHED

    def forget(self, connection: Connection) -> None:
        self.connections.discard(connection)
        self.events.listeners.discard(connection)


# ------------------------------------------------------------------------------------------------
# 11. Jobs
#    Law: what happens on a clock; each is short, and none is needed for an answer. The courier
#    is a process of its own: it may block, and has no hand on the database.
# ------------------------------------------------------------------------------------------------


def close_expired(server: Server) -> None:
    """Those whose time is over; and where too much has begun, those that hold most of it."""
    now = server.monotonic()
    for connection in [c for c in server.connections if c.deadline < now]:
        connection.expire()
    held = sorted(server.connections, key=lambda c: len(c.buffer))
    total = sum(len(connection.buffer) for connection in held)
    while total > 2 * MAX_UNFINISHED:
        largest = held.pop()
        total -= len(largest.buffer)
        largest.transport.abort()


def watch_space(server: Server) -> None:
    """Refuse readings while there is still room for the log and for a backup."""
    disk, weight = shutil.disk_usage(server.writer.path.parent), sum(server.reader.weights())
    low = min(LOW_SPACE + 2 * weight, disk.total // 8)
    none = min(NO_SPACE, disk.total // 32)
    space = 2 if disk.free > low else 1 if disk.free > none else 0
    if space != server.access.space:
        log(f"{server.writer.path}: {format_bytes(disk.free)} are left on the disk; "
            + ("no reading is taken", "no texts and no bulks are taken", "all is taken")[space])
    server.access.space = space


def tell_news(server: Server) -> Iterator[None]:
    """Publish what has changed through a reading, through silence, or through a command."""
    yield from server.board.look()
    server.turn.end()                           # nothing comes between an answer and its flush
    if server.events.is_reset:
        server.events.is_reset = False
        server.events.publish(RESET)
    if verdicts := server.board.news():
        server.events.tell("verdict", [verdicts])


def watch_file(server: Server) -> None:
    """Readings stored in a file that was removed or replaced would be lost: then stop at once."""
    if not server.writer.is_in_place():
        end_at_once(f"{server.writer.path} was removed or replaced while it was open; ending")


class ClockWatch:
    """Says it once when the clock was set: what was stored before may be of another time."""

    def __init__(self) -> None:
        self.lead = time.time() - time.monotonic()

    def look(self, server: Server) -> None:
        before, self.lead = self.lead, server.clock() - server.monotonic()
        if abs(self.lead - before) > CLOCK_STEP:
            log(f"the clock of this machine was set by {self.lead - before:+.0f} s, or it has "
                "slept; readings before that keep their times")
            server.board.is_stale, server.board.pages_expire = True, 0  # of what was now


def notify(state: str) -> None:
    """Tell systemd; nothing happens without it. Protocol: sd_notify(3)."""
    if address := os.environ.get("NOTIFY_SOCKET"):
        with (socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel,
              contextlib.suppress(OSError)):    # nobody listens there any more
            channel.connect("\0" + address[1:] if address[0] == "@" else address)
            channel.send(state.encode())


def feed_watchdog(server: Server) -> None:
    """The one thread that stores is the one that says it is alive, after a look at the file."""
    server.reader.look()
    notify("WATCHDOG=1")


def keep_courier(server: Server) -> None:
    """Start the courier, if there is something to carry; start it again when it has ended. What
    it has to know goes by its environment: a list of processes shows command lines to all."""
    child, settings = server.post.child, server.settings
    is_wanted = any(getattr(settings, setting) for setting in ERRANDS)
    if not is_wanted or server.is_stopping or (child and child.poll() is None):
        return
    if child:
        log(f"the courier ended with status {child.returncode}; it is started again")
    told = {s.variable: getattr(settings, s.name.replace("-", "_")) for s in SETTINGS
            if s.name in {"notify", "notify-plan", "quiet", "link", "forward"}}
    server.post.child = subprocess.Popen(
        [sys.executable, *("-I",) * sys.flags.isolated, __file__, "--courier",
         "--db", str(server.writer.path)],
        env={**os.environ, **told, PARENT: str(os.getpid())},
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


async def end_courier(server: Server) -> None:
    """Let the courier say what it has done; then it has to go."""
    if child := server.post.child:
        child.terminate()
        deadline = server.monotonic() + STOP_SECONDS
        while child.poll() is None and server.monotonic() < deadline:
            await asyncio.sleep(0.02)
        child.kill()
        child.wait()


Job = Callable[[Server], Iterator[None] | None]     # what is longer than STEP_SECONDS: in steps
JOBS: tuple[tuple[float, Job], ...] = (            # every so many s
    (1, close_expired), (1, tell_news), (1, lambda server: server.outlook.renew()),
    (1, ClockWatch().look), (10, watch_file), (10, watch_space), (RESTART_SECONDS, keep_courier),
    (15, lambda server: server.events.publish(b":\n\n")),      # as a sign of life
    (600, lambda server: server.writer.outbox.serve(None, server.now())),
    # half the time after which systemd would restart us; never when it does not watch
    (int(os.environ.get("WATCHDOG_USEC", "0")) / 2e6 or math.inf, feed_watchdog))


async def run_job(server: Server, period: float, job: Job) -> None:
    while True:
        await asyncio.sleep(period)
        began = server.monotonic()
        try:
            for _ in job(server) or ():
                if server.monotonic() - began > STEP_SECONDS:
                    await asyncio.sleep(STEP_SECONDS)
                    began = server.monotonic()
        except sqlite3.Error as error:
            server.turn.fail(error)
        except Exception:                       # updates go on, whatever else is broken
            log(f"{job.__name__} failed: {traceback.format_exc()}")


# -- the courier ----------------------------------------------------------------------------------

PARENT = "IOTSERVER_PARENT"     # the process id of the server whose child a courier is


@contextlib.contextmanager
def working_in(folder: Path) -> Iterator[None]:
    """In another current directory: a socket's path may have 100 bytes only, a database's more."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


class Remote:
    """The Writer of a running server, through its control socket: the same methods. Or what a
    courier may ask, through the socket that is for it."""

    def __init__(self, path: Path, suffix: str = ".sock"):
        self.path = path
        self.channel = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.channel.settimeout(ANSWER_SECONDS)
        try:
            with working_in(path.parent):
                self.channel.connect(path.name + suffix)
        except OSError:
            self.channel.close()
            raise
        self.lines = self.channel.makefile("rb")

    def __getattr__(self, method: str) -> Callable[..., Any]:
        return functools.partial(self._call, method)

    def _call(self, method: str, *arguments: Any) -> Any:
        try:
            self.channel.sendall(as_json([method, arguments]) + b"\n")
            answer = json.loads(self.lines.readline() or b"{}")
        except TimeoutError:
            raise StoreError(f"the server on {self.path} does not answer; is it stopped?"
                             ) from None
        except (OSError, ValueError):           # or half a line: it was killed meanwhile
            answer = {}
        if "error" in answer or not answer:
            raise StoreError(answer.get("error", "the server ended meanwhile; what was done until "
                                                 "then stays done; call again"))
        return answer["result"]

    def close(self) -> None:
        self.lines.close()
        self.channel.close()


def now_ms() -> int:
    return time.time_ns() // 1_000_000


class NoRedirect(urllib.request.HTTPRedirectHandler):
    """A message goes to nobody but the one that was named."""

    def redirect_request(self, *_: Any) -> None:
        return None


class Undelivered(Exception):
    """Why a destination did not take a message, its own words, and after how many s to ask it."""

    def __init__(self, reason: str, words: str = "", pause: float = 0):
        super().__init__(reason)
        self.words, self.pause = words, pause


def make_opener() -> urllib.request.OpenerDirector:
    """What asks others: by way of the environment's proxy, and only if their certificate holds."""
    secure = urllib.request.HTTPSHandler(context=ssl.create_default_context())
    return urllib.request.build_opener(NoRedirect, secure)


def make_request(to: Destination, path: str, body: bytes | None, headers: dict[str, str]
                 ) -> urllib.request.Request:
    """With the login: tk_... is a token of ntfy's, a user alone is one of an engine's."""
    user, password = to.login
    request = urllib.request.Request(
        f"http{'s' * to.is_secure}://{to.host}{path}", body,
        {"User-Agent": f"iotserver/{__version__}", **headers})
    if to.kind == "ntfy" and user.startswith("tk_"):
        request.add_header("Authorization", f"Bearer {user}")
    elif to.kind == "http" and user and not password:
        request.add_header("Authorization", f"Token {user}")
    elif user or password:
        pair = base64.b64encode(f"{user}:{password}".encode()).decode()
        request.add_header("Authorization", f"Basic {pair}")
    return request


def post_json(to: Destination, path: str, document: dict[str, Any]) -> str:
    """The answer's status and text."""
    request = make_request(to, path, as_json(document), {"Content-Type": "application/json"})
    with make_opener().open(request, timeout=TRY_SECONDS) as answer:
        return f"{answer.status} {answer.read1(MAX_WORDS).decode(errors='replace')}"


def send_ntfy(to: Destination, message: dict[str, Any]) -> str:
    """https://docs.ntfy.sh/publish/. As JSON: a header could not hold a degree sign."""
    document = {
        "topic": to.url.path.strip("/"), "title": message["title"], "message": message["message"],
        "priority": 4 if message["kind"] in {"silent", "alive"} else 3,
        "sequence_id": message["line"], "click": message["link"], "delay": message.get("delay")}
    return post_json(to, "/", {name: value for name, value in document.items() if value})


def send_json(to: Destination, message: dict[str, Any]) -> str:
    """Slack looks at text, Discord at content, Apprise's server at body."""
    shown = {name: value for name, value in message.items() if name not in {"told", "line"}}
    text = message["message"]
    return post_json(to, urllib.parse.urlunsplit(("", "", to.url.path or "/", to.url.query, "")),
                     {**shown, "text": text, "content": text[:2000], "body": text})


def send_mail(to: Destination, message: dict[str, Any]) -> str:
    """RFC 3834 asks for Auto-Submitted, so that nobody's absence answers us."""
    mail = EmailMessage()
    for name, value in (("Subject", message["title"]), ("From", to.options["from"]),
                        ("To", to.options["to"]), ("Date", email.utils.formatdate()),
                        ("Message-ID", f"<{message['id']}@iotserver>"),
                        ("Auto-Submitted", "auto-generated")):
        mail[name] = value
    mail.set_content("\n\n".join(filter(None, (message["message"], message["link"]))))
    host, context = to.url.hostname or "", ssl.create_default_context()
    port = to.url.port or (587 if to.is_secure else 25)
    how: dict[str, Any] = {"timeout": TRY_SECONDS, "local_hostname": socket.gethostname()}
    channel = (smtplib.SMTP_SSL(host, port, context=context, **how) if to.is_secure and port == 465
               else smtplib.SMTP(host, port, **how))
    with contextlib.closing(channel):
        if to.is_secure and port != 465:
            channel.starttls(context=context)
        if any(to.login):
            channel.login(*to.login)
        refused = channel.send_message(mail)
    return f"250 taken{', but not for ' * bool(refused)}{', '.join(refused)}"


SENDERS: dict[str, Callable[[Destination, dict[str, Any]], str]] = {
    "ntfy": send_ntfy, "json": send_json, "mailto": send_mail}


def hide(to: Destination, text: str) -> str:
    """What others say, without what is secret: an error may repeat what it was given."""
    behind = (to.url.path.strip("/"), to.url.query, *to.options.values())   # an engine's is none
    for part in (*to.url.netloc.rpartition("@")[0].split(":"), *to.login,
                 *(behind if to.kind != "http" else ())):
        text = text.replace(part, "***") if len(part) > 3 else text
    return " ".join(text.split())[:MAX_WORDS]


def send(to: Destination, message: dict[str, Any]) -> str:
    """The other side's words. Raises Undelivered, in which no secret stands."""
    try:
        return hide(to, SENDERS[to.kind](to, message))
    except urllib.error.HTTPError as error:
        words = ""
        with error, contextlib.suppress(Exception):     # it may be cut off
            words = error.read1(MAX_WORDS).decode(errors="replace")
        raise Undelivered(f"it answers {error.code}", hide(to, words),
                          parse_pause(error.headers.get("Retry-After", ""))) from None
    except Exception as error:          # whatever it does, the others are served
        said = error.reason if isinstance(error, urllib.error.URLError) else error
        raise Undelivered(hide(to, str(said) or type(error).__name__)) from None


def parse_pause(text: str) -> float:
    """Retry-After, RFC 9110, 10.2.3: seconds, or a date. 0 of anything else."""
    seconds = 0.0
    if re.fullmatch("[0-9]{1,9}", text):
        seconds = int(text)
    else:
        with contextlib.suppress(TypeError, ValueError, OverflowError):
            seconds = email.utils.parsedate_to_datetime(text).timestamp() - time.time()
    return min(max(seconds, 0), MESSAGE_AGE / 1000)


TOO_LATE = f"no whole answer within {TRY_SECONDS} s"


class Carrier:
    """One destination: one try at a time, in a thread of its own, and growing pauses."""

    def __init__(self, to: Destination):
        self.to = to
        self.thread: threading.Thread | None = None
        self.told: list[Told] = []      # by this try
        self.failure: Undelivered | None = None
        self.words = ""
        self.pause, self.next_try = PAUSES[0], 0.0
        self.late = self.renewed = -math.inf    # when a try has lasted long; and for the alive one

    def start(self, messages: list[dict[str, Any]]) -> None:
        self.told, self.failure, self.late = [], None, time.monotonic() + TRY_SECONDS + 1
        self.thread = threading.Thread(target=self.deliver, args=(messages,), daemon=True)
        self.thread.start()

    def deliver(self, messages: list[dict[str, Any]]) -> None:
        for told, message in gather(self.to.kind, messages):
            try:
                self.words = send(self.to, message)
                self.told += told
                self.renewed = time.monotonic() if message["kind"] == "alive" else self.renewed
            except Undelivered as error:
                self.failure = error
                return

    def finish(self, server: Remote) -> bool:
        """Whether a new try may begin; the server is told what became of the one before."""
        now, failed = time.monotonic(), self.failure
        if self.thread and self.thread.is_alive() and now > self.late:
            self.late = math.inf
            server.note(self.to.id, self.to.name, [], TOO_LATE)
        elif self.thread and not self.thread.is_alive():
            server.note(self.to.id, self.to.name, self.told, str(failed or ""))
            if failed and self.pause == PAUSES[0]:
                log(f"courier: {self.to.name}: {failed}; this is tried again")
            self.next_try = now + max(self.pause, failed.pause) if failed else now
            self.pause = min(2 * self.pause, PAUSES[1]) if failed else PAUSES[0]
            self.thread = None
        return not self.thread and now >= self.next_try


def gather(kind: str, messages: list[dict[str, Any]]
           ) -> Iterator[tuple[list[Told], dict[str, Any]]]:
    """Messages as they go out: of several rooms that change at once one names them all. Not with
    ntfy, where each room has a line on the phone that changes in place."""
    what = "id" if kind == "ntfy" else "kind"

    def key(message: dict[str, Any]) -> tuple[bool, str]:
        return message["kind"] == "alive", message[what]    # last: some servers refuse it

    for _, group in itertools.groupby(sorted(messages, key=key), key):
        all_of_them = list(group)
        yield ([message["told"] for message in all_of_them if message["told"]],
               {**all_of_them[0], **{
                   part: "; ".join(message[part] or "" for message in all_of_them) or None
                   for part in ("title", "message", "station")}})


class Messenger:
    """Carries messages to where --notify says."""

    def __init__(self, settings: argparse.Namespace):
        self.settings = settings
        self.carriers = [Carrier(to) for to in parse_notify(settings.notify)]

    def step(self, server: Remote) -> float:
        """Do a piece; the seconds until the next."""
        ready = [carrier for carrier in self.carriers if carrier.finish(server)]
        wanted = server.collect([carrier.to.id for carrier in self.carriers], self.settings.quiet,
                                self.settings.notify_plan)
        for carrier in ready:
            if messages := [*wanted[carrier.to.id], *self.keep_alive(carrier)]:
                carrier.start([{**message, "link": self.settings.link or None}
                               for message in messages])
        return 1

    def keep_alive(self, carrier: Carrier) -> Iterator[dict[str, Any]]:
        """A message that ntfy sends later, unless it is put off: if it comes, the house is cut
        off, or the machine is. It does not come in quiet hours either."""
        is_asked = carrier.to.kind == "ntfy"        # in a URL of others' it is theirs
        delay = parse_duration(carrier.to.options.get("alive", "0s")) if is_asked else 0
        if delay and time.monotonic() >= carrier.renewed + delay / 3000:
            then, quiet = now_ms() + delay, parse_clocks(self.settings.quiet, 2)
            if awake_since(quiet, then) is None:
                delay += last_at(quiet[1], then + DAY) - then
            house = "alive-" + hash_key(f"{socket.gethostname()} {self.settings.db}").hex()[:16]
            yield {"kind": "alive", "id": house, "line": house, "told": None, "station": None,
                   "title": "No word from iotserver", "delay": f"{delay // 1000}s",
                   "message": f"Nothing was heard from it for {format_ago(delay)}: the house, its "
                              "line or the machine may be cut off."}

    def finish(self, server: Remote) -> None:
        """What is on its way gets there, if it does so soon."""
        deadline = time.monotonic() + COURIER_SECONDS
        for carrier in self.carriers:
            if carrier.thread:
                carrier.thread.join(max(0, deadline - time.monotonic()))
                carrier.finish(server)


# -- forwarding -----------------------------------------------------------------------------------

TAG = str.maketrans({"\\": "/", ",": r"\,", "=": r"\=", " ": r"\ "})    # engines lose a backslash


def render_lines(series: int, behind: Any, station: str, role: str | None, field: int,
                 label: str | None, points: Iterable[tuple[int, float]]) -> list[str]:
    """A Piece in InfluxDB's line protocol. Always floats: a column keeps its first type."""
    tags = (("station", station), ("field", str(field)), ("label", label), ("role", role))
    head = ",".join(("iotserver", *(f"{tag}={text.translate(TAG)}" for tag, text in tags if text)))
    return [f"{head} value={float(value)!r} {ms}\n" for ms, value in points]


class Unreachable(Undelivered):
    """No answer at all: it may have crashed, and lost what it had last."""


Sent = tuple[str, int, int, list[float]]    # station, field, time, all values of that time


class Forwarder:
    """Carries all readings to the engine of --forward, and asks whether they are there."""

    def __init__(self, settings: argparse.Namespace):
        self.to = parse_engine(settings.forward)
        self.opener = make_opener()
        self.pause, self.said = float(PAUSES[0]), ""
        self.is_new = True              # nothing was looked for there yet
        self.samples: list[Sent] | None = []    # None: it has all history

    def step(self, server: Remote) -> float:
        """Do a piece; the seconds until the next."""
        ticket, is_last, pieces = server.take_unsent(self.to.id)
        try:
            if lines := [line for piece in pieces for line in render_lines(*piece)]:
                self.post(lines)
            self.verify(server, list(itertools.starmap(Piece, pieces)), is_last)
        except Undelivered as error:
            self.say(": ".join(filter(None, (str(error), error.words))) + "; readings wait")
            if isinstance(error, Unreachable):
                server.look_back()
            pause, self.pause = max(self.pause, error.pause), min(2 * self.pause, PAUSES[1])
            return pause
        if pieces:
            server.forwarded(ticket)
            self.say("it takes readings")
        self.pause = PAUSES[0]
        return FORWARD_SECONDS if is_last else 0

    def say(self, text: str) -> None:
        if text != self.said:
            log(f"courier: {self.to.name}: {text}")
        self.said = text

    def post(self, lines: list[str]) -> None:
        """Raises Undelivered unless all are there, or refused for good."""
        query = "&".join(filter(None, (self.to.url.query, "precision=ms")))
        status, words, pause = self.ask(
            f"{self.to.url.path or '/'}?{query}", "".join(lines).encode())
        is_partial = status == 400 and "partial write" in words     # the rest of them is there
        is_refused = status == 400 and "unable to parse" in words   # and of all of them: nothing
        if 200 <= status < 300:
            return
        if not is_partial and (is_refused or status == 413) and len(lines) > 1:
            self.post(lines[:len(lines) // 2])
            self.post(lines[len(lines) // 2:])
        elif is_partial or is_refused:
            log(f"courier: {self.to.name} refuses readings for good: {hide(self.to, words)}")
        else:
            raise Undelivered(f"it answers {status}", hide(self.to, words), pause)

    def ask(self, path: str, body: bytes | None = None) -> tuple[int, str, float]:
        """Status, words, and the pause that is asked for. Raises Unreachable, also when it is too
        busy to say what it has."""
        headers = {}
        if body and len(body) > GZIP_BYTES:
            body, headers["Content-Encoding"] = gzip.compress(body, 1), "gzip"
        request = make_request(self.to, path, body, headers)
        try:
            try:
                answer = self.opener.open(request, timeout=TRY_SECONDS)
            except urllib.error.HTTPError as error:
                answer = error
            with answer:
                words = answer.read(CONTROL_LINE).decode(errors="replace").strip()
        except Exception as error:              # whatever it does, it is tried again
            raise Unreachable(f"no answer: {getattr(error, 'reason', error)}") from None
        status, pause = answer.status, parse_pause(answer.headers.get("Retry-After", ""))
        if body is None and status in {429, 503}:
            raise Unreachable(f"asked for what it has, it answers {status}",
                              hide(self.to, words), pause)
        return status, words, pause

    def verify(self, server: Remote, pieces: list[Piece], is_last: bool) -> None:
        """Look for some of the first readings, and for some of all history: an engine may say
        that it took what it dropped. Raises Undelivered."""
        if self.samples is None:
            return
        sent = [(piece.station, piece.field, ms, [value for at, value in piece.points if at == ms])
                for piece in pieces if piece.points
                for ms in (piece.points[0][0], random.choice(piece.points)[0])]
        if sent and self.is_new:
            self.look_for([min(sent, key=operator.itemgetter(2)), sent[-1]])
            self.is_new = False
        self.samples += random.sample(sent, min(len(sent), 2))
        while len(self.samples) > SAMPLES:
            del self.samples[random.randrange(SAMPLES)]
        if is_last and self.samples:
            try:
                self.look_for(self.samples)
            except Unreachable:                 # which says nothing about what it has
                raise
            except Undelivered:
                self.samples = []
                server.begin_again()
                raise
            self.samples = None

    def look_for(self, samples: Iterable[Sent]) -> None:
        """Raises Undelivered unless they are there, or nobody can say."""
        for station, field, ms, values in samples:
            deadline = time.monotonic() + LOOK_SECONDS
            while (found := self.find(station.replace("\\", "/"), field, ms)) is not None \
                    and not any(itertools.starmap(
                        math.isclose, itertools.product(values, found))):
                if time.monotonic() > deadline:
                    raise Undelivered(
                        f"it took the reading of {format_time(ms)}, but does not have it. Does it "
                        "keep what is so old? VictoriaMetrics: -retentionPeriod=100y; InfluxDB: "
                        "the retention policy of the database")
                time.sleep(0.2)
            if found is None and self.is_new:
                log(f"courier: {self.to.name} cannot be asked: what it keeps is not verified")
            if found is None:
                break

    def find(self, station: str, field: int, ms: int) -> list[float] | None:
        """The values that it has at an instant. None: this one cannot be asked."""
        base = re.sub("(/api/v2)?/write/?$", "", self.to.url.path)
        name, quoted = json.dumps(station, ensure_ascii=False), station.replace("'", "\\'")
        options = dict(urllib.parse.parse_qsl(self.to.url.query))
        status, words, _ = self.ask(f"{base}/api/v1/export?" + urllib.parse.urlencode({
            "match[]": f'{{__name__="iotserver_value",station={name},field="{field}"}}',
            "start": (ms - 1) / 1000, "end": (ms + 1) / 1000}))
        with contextlib.suppress(ValueError, LookupError, TypeError, AttributeError):
            if status == 200:                   # VictoriaMetrics: one JSON a line
                return [value for row in map(json.loads, words.splitlines())
                        for at, value in zip(row["timestamps"], row["values"], strict=True)
                        if at == ms]
            _, words, _ = self.ask(f"{base}/query?" + urllib.parse.urlencode({
                "db": options.get("db", options.get("bucket")), "epoch": "ms",
                "q": f"SELECT value FROM iotserver WHERE station = '{quoted}' "
                     f"""AND "field" = '{field}' AND time = {ms}ms"""}))
            result = json.loads(words)["results"][0]
            if "statement_id" in result:        # InfluxDB; others answer to this, but with nothing
                return [row[1] for series in result.get("series", ()) for row in series["values"]]
        return None


# What a courier does again and again if the setting is given, each in a thread of its own with a
# line to the server of its own: one that blocks delays no other. What it asks the server and tells
# it is in COURIER_METHODS, what it has to know in keep_courier.
ERRANDS: dict[str, type[Messenger] | type[Forwarder]] = {
    "notify": Messenger, "forward": Forwarder}


def run_errand(errand: Messenger | Forwarder, path: Path, stopped: threading.Event) -> None:
    """Until the courier is stopped; a server that is away is waited for."""
    failures = 0
    while not stopped.wait(min(failures, 1)):
        try:
            with contextlib.closing(Remote(path, ".courier")) as server:
                pause = 0.0
                while not stopped.wait(pause):
                    pause, failures = errand.step(server), 0
                if isinstance(errand, Messenger):
                    errand.finish(server)
        except (OSError, StoreError) as error:
            failures += 1
            if failures == 3:           # the first ones are a restart, or the end of our parent
                log(f"courier: {path}: {error}; waiting for the server")


def try_message(args: argparse.Namespace, path: Path) -> None:
    """Tell each destination something, all at once, and say what each says to that."""
    require(args.notify, "--try-message needs --notify URLS")
    carriers = [Carrier(to) for to in parse_notify(args.notify)]
    message = dict.fromkeys(("station", "state", "difference", "inside", "outside", "told"))
    for carrier in carriers:
        carrier.start([{**message, "kind": "test", "title": "iotserver", "line": "test",
                        "id": f"test-{now_ms()}", "message": "This is a test: messages arrive.",
                        "time": format_time(now_ms()), "link": args.link or None}])
    deadline, failed = time.monotonic() + TRY_SECONDS + 1, 0
    for carrier in carriers:
        cast(threading.Thread, carrier.thread).join(max(0, deadline - time.monotonic()))
        words, failure = carrier.words, carrier.failure or Undelivered(TOO_LATE)
        failed += not words
        print(f"{carrier.to.name}: " + (
            words or " ".join(filter(None, ("failed:", str(failure), failure.words)))))
    if failed:
        raise StoreError(f"{failed} of {len(carriers)} destinations did not take it")


def run_courier(args: argparse.Namespace, path: Path) -> None:
    """Carry messages until SIGTERM; a server's child also until its server is no more."""
    errands = [errand(args) for setting, errand in ERRANDS.items() if getattr(args, setting)]
    require(errands, "--courier needs --notify URLS or --forward URL")
    stopped, parent = threading.Event(), int(os.environ.get(PARENT, "0"))
    if parent:                              # what comes in goes before what is carried on; alone,
        os.nice(10)                         # the unit says so, and its filter forbids it here
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    with working_in(path.parent):           # so that no thread changes what is the others', too
        threads = [threading.Thread(target=run_errand, args=(errand, path, stopped), daemon=True)
                   for errand in errands]
        for thread in threads:
            thread.start()
        while (parent in {0, os.getppid()} and all(thread.is_alive() for thread in threads)
               and not stopped.wait(1)):
            pass
        stopped.set()
        deadline = time.monotonic() + COURIER_SECONDS
        for thread in threads:
            thread.join(max(0, deadline - time.monotonic()))


# ------------------------------------------------------------------------------------------------
# 12. Commands and main
#    Law: data on stdout, everything else on stderr; 0 done, 1 could not,
#     2 wrong usage. A command that writes asks the running server, if there is one.
# ------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def progress_bar(label: str) -> Iterator[Callable[[float], None]]:
    """A bar on stderr while it is a terminal; silence otherwise."""
    drawn = 0.0

    def draw(fraction: float) -> None:
        nonlocal drawn
        if sys.stderr.isatty() and (now := time.monotonic()) - drawn > 0.1:
            drawn, bar = now, "#" * round(30 * min(max(fraction, 0), 1))
            print(f"\r{label} [{bar:<30}] {min(fraction, 1):4.0%}", end="", file=sys.stderr,
                  flush=True)
    try:
        yield draw
    finally:
        if drawn:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def open_writer(path: Path, may_create: bool = False) -> "Writer | Remote":
    """The right to write: our own, or, while a server has it, the server's. Raises StoreError."""
    if not may_create:
        require_database(path)
    deadline = time.monotonic() + LOCK_SECONDS
    while time.monotonic() < deadline:
        try:
            return Writer(path)
        except BlockingIOError:             # by a server, or by a command like this one
            if hasattr(socket, "AF_UNIX"):
                with contextlib.suppress(OSError):
                    return Remote(path)
        time.sleep(0.1)
    raise StoreError(f"{path} is in use by a command, or by a server that does not answer; "
                     "try again, or stop it")


def parse_key(text: str) -> str:
    """An API key; `-`, and it is on standard input."""
    key = sys.stdin.readline().strip() if text == "-" else text
    require(KEY.fullmatch(key), "1 to 64 characters from 0-9 A-Z a-z . _ ~ -")
    return key


def parse_name(text: str) -> str:
    require(0 < len(text) <= MAX_NAME and text.isprintable() and not text.isdigit(),
            f"a name has 1 to {MAX_NAME} characters and is no number, since numbers are ids")
    return text


def lan_address() -> str:
    """The address under which others reach this computer. Nothing is sent to find it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as channel:
        try:
            channel.connect(("192.0.2.1", 9))   # RFC 5737: a network that is nobody's
            return str(channel.getsockname()[0])
        except OSError:
            return "127.0.0.1"


def add_station(args: argparse.Namespace, path: Path, name: str) -> None:
    require(args.mac, "--add-station needs --mac MAC; the station prints its own at start")
    require(not args.console or not args.role, "--console is both outside and inside")
    require(not args.console or len(args.mac) <= MAX_CONSOLE,
            f"--mac: a console's has at most {MAX_CONSOLE} characters")
    name, key = parse_name(name + " outside" * bool(args.console)), (
        args.key or secrets.token_urlsafe(16))
    with contextlib.closing(open_writer(path, may_create=True)) as writer:
        if args.console:
            writer.add_console(name, args.mac.lower(), hash_key(key).hex(), now_ms())
        else:
            writer.add_station(name, args.mac.lower(), None if args.role == "none" else args.role,
                               hash_key(key).hex(), now_ms())
        running = isinstance(writer, Remote) and re.search("//(.+):(.+)/$", writer.address())
    near, number = running.groups() if running else ("127.0.0.1", args.port)
    host, port = lan_address(), f":{number}".removesuffix(":80")
    if args.console:
        print(f"""stations {name} and {name_part(name, "", "in")[0]} are registered; \
their API key, shown only now: {key}

# into the app of the console, where it says Customized or Custom Server
Server IP / Hostname:  {host}
Port:                  {port[1:] or 80}   # with --host 0.0.0.0 it answers there; behind nginx: 80
Upload Interval:       60
# and as Protocol Type Same As, of these three the first that it has
Ecowitt:       Path:         /data/report/{key}
AMBWeather:    Path:         /data/report/{key}?
Wunderground:  Path:         /weatherstation/updateweatherstation.php?
               Station ID:   {args.mac}
               Station Key:  {key}""")
        return
    print(f"""station {name} is registered; its API key, shown only now: {key}

# config.py of the station
API_KEY = "{key}"
SSID = "the name of your WiFi"
WIFI_PASSWORD = "its password"
MAC_ADDRESS = "{args.mac}"
SERVER = "http://{host}{port}"   # with --host 0.0.0.0, or nginx, it answers there

# try it from here, with a field that nothing else uses
curl -H "X-API-Key: {key}" http://{near}{port}/update/mac={args.mac}/field=9/data=1
# and take that away again
python3 iotserver.py --db {shlex.quote(str(args.db))} --delete-readings {shlex.quote(name)} \\
    --field 9 --start {format_time(now_ms())[:10]} --end 2099-12-31""")


def edit_station(args: argparse.Namespace, path: Path, name: str) -> None:
    require(args.name or args.mac or args.role, "--edit-station needs --name, --mac or --role")
    with contextlib.closing(open_writer(path)) as writer:
        writer.edit_station(name, args.name, args.mac and args.mac.lower(), args.role)


def list_stations(args: argparse.Namespace, path: Path) -> None:
    with contextlib.closing(Reader(path)) as reader:
        entries = reader.entries(s.id for s in reader.stations())
        table = [("id", "name", "role", "MAC", "last heard", "entries")] + [
            (str(s.id), s.name, s.role or "-", s.mac,
             format_time(s.heard) if s.heard else "never", str(entries[s.id]))
            for s in reader.stations()]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        print("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip())


def new_key(args: argparse.Namespace, path: Path, name: str) -> None:
    key = args.key or secrets.token_urlsafe(16)
    with contextlib.closing(open_writer(path)) as writer:
        has_old = writer.new_key(name, hash_key(key).hex(), bool(args.now))
    print(f"the new API key of {name}, shown only now: {key}"
          + "\nthe one before works until this one is first used" * has_old)


def read_key(args: argparse.Namespace, path: Path, name: str) -> None:
    key = args.key or secrets.token_urlsafe(16)
    with contextlib.closing(open_writer(path)) as writer:
        writer.set_read_key(name, hash_key(key).hex())
    print(f"the read key of {name}, shown only now: {key}\nit reads this station's ThingSpeak "
          "feeds on a private server, and replaces an earlier one")


def remove_station(args: argparse.Namespace, path: Path, name: str) -> None:
    total = 0
    with contextlib.closing(open_writer(path)) as writer:
        while (removed := writer.remove_step(name)) >= 0:
            total += removed
        freed = sum(iter(writer.shrink_step, 0))    # bytes; the file system has them back
    print(f"removed {name}; readings: {total}; {format_bytes(freed)} freed")


def prune(args: argparse.Namespace, path: Path, age: str) -> None:
    before = now_ms() - parse_duration(age)
    with contextlib.closing(Reader(path)) as reader:
        expected, unsent = reader.count(before), reader.count_unsent(before)
    lost = f"; {unsent} of them had not been forwarded" * bool(unsent)
    if args.dry_run:
        print(f"{expected} readings are older than {age}; nothing was deleted{lost}")
        return
    total = 0
    with contextlib.closing(open_writer(path)) as writer, progress_bar("pruning") as progress:
        while deleted := writer.prune_step(before):
            total += deleted
            progress(total / max(expected, 1))
        sum(iter(functools.partial(writer.prune_notes_step, before), 0))
        freed = sum(iter(writer.shrink_step, 0))
    print(f"deleted {total} readings older than {age}; {freed} bytes freed{lost}")


def delete_readings(args: argparse.Namespace, path: Path, name: str) -> None:
    require(args.start is not None and args.end is not None,
            "--delete-readings needs --start T and --end T")
    fields = [args.field] if args.field else range(1, MAX_FIELDS + 1)
    wanted = {part: getattr(args, part) for part in ("start", "end", "below", "above")}
    total = kept = 0
    with contextlib.closing(Reader(path)) as reader:
        station = find_station(reader.stations(), name)
        for series in reader.series(station.id, fields).values():
            count, left = reader.count_wanted(series, wanted)
            total, kept = total + count, kept + left
    if not args.dry_run:
        total = 0
        with contextlib.closing(open_writer(path)) as writer:
            for field in fields:
                at = args.start
                while at < args.end:
                    gone, at = writer.delete_step(name, field, {**wanted, "start": at})
                    total += gone
    print(f"{total} readings would go; nothing was deleted" if args.dry_run else
          f"deleted {total} readings")
    if kept:
        print(f"iotserver: {kept} hours stay as they are: some of their readings were pruned, and "
              "what is left can only go as a whole hour, without --below and --above",
              file=sys.stderr)


def sync(path: Path) -> None:
    """Make a file or, where the system can, a directory durable."""
    flags = os.O_RDONLY if path.is_dir() else os.O_RDWR     # else Windows does not sync
    with contextlib.suppress(PermissionError):              # nor does it open a directory
        handle = os.open(path, flags)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def find_kind(path: Path) -> str | None:
    """`database`, `backup` if no server has used it yet, or `log`: what a file is of ours by its
    content."""
    header = b""
    with contextlib.suppress(OSError):
        if path.is_file():
            with path.open("rb") as file:
                header = file.read(100)
    if int.from_bytes(header[68:72], "big") == APPLICATION_ID:
        return "database" if header[18] == 2 else "backup"      # 2: it has had a log
    return "log" if header[:3] == b"\x37\x7f\x06" else None


def refuse_ours(target: Path, database: Path, may_be_backup: bool) -> None:
    """Raise StoreError for a file to write that is a database of ours or belongs to one, by
    whatever name or link; one that no server has used may be an older backup."""
    ours = [beside(database, suffix) for suffix in ("", *COMPANIONS)]
    owners = [target.with_name(target.name.removesuffix(suffix)) for suffix in COMPANIONS
              if target.name.endswith(suffix)]
    if (target.resolve() in [path.resolve() for path in ours]
            or (target.exists() and any(p.exists() and p.samefile(target) for p in ours))
            or any(map(find_kind, owners))
            or find_kind(target) not in ({None, "backup"} if may_be_backup else {None})):
        raise StoreError(f"{target} is a database or belongs to one; it was left as it is")


@contextlib.contextmanager
def replacing(target: Path, database: Path, is_backup: bool = False) -> Iterator[Path]:
    """A file to write that takes target's place when all went well, and vanishes otherwise.
    What is no regular file is never replaced: a device or a pipe is written to."""
    refuse_ours(target, database, is_backup)
    if target.exists() and not target.is_file() and not target.is_dir() and not is_backup:
        yield target
        return
    if target.is_symlink() or (target.exists() and not target.is_file()):
        raise StoreError(f"{target} is no regular file; name another")
    partial = beside(target, ".partial")
    refuse_ours(partial, database, True)        # but not what a killed backup has left
    try:
        lock = take_lock(partial)
    except BlockingIOError:
        raise StoreError(f"another command is writing {target}") from None
    try:
        partial.unlink(missing_ok=True)         # of a command that was killed
        yield partial
        sync(partial)
        partial.replace(target)
        sync(target.parent)
    except OSError as error:
        raise StoreError(f"{target}: {error.strerror}") from None
    finally:
        partial.unlink(missing_ok=True)
        beside(partial, ".lock").unlink(missing_ok=True)
        lock.close()


def backup(args: argparse.Namespace, path: Path, name: str) -> None:
    target = Path(name).absolute()
    with replacing(target, path, True) as partial, contextlib.closing(Reader(path)) as reader:
        with progress_bar("copying") as progress:
            try:
                reader.copy(partial, progress)
            except sqlite3.Error as error:      # either of the two may be to blame
                raise StoreError(f"copying {path} to {target}: {error}") from None
        with contextlib.closing(Reader(partial)) as copy, progress_bar("checking") as progress:
            damage, mistakes = copy.check(progress)
            count, size = copy.count(), sum(copy.weights())
        if damage:
            raise StoreError("the copy is damaged, and so was not kept: " + damage[0])
    if mistakes:
        print(f"iotserver: warning, here and in the copy: {mistakes[0]}", file=sys.stderr)
    print(f"{target}: {count} readings, {format_bytes(size)}, checked")


def check(args: argparse.Namespace, path: Path) -> None:
    with contextlib.closing(Reader(path)) as reader, progress_bar("checking") as progress:
        problems = [text for found in reader.check(progress) for text in found]
    if problems:
        raise StoreError("\n".join(problems[:100]) + f"\n{path} is damaged; restore a backup")
    print("ok")


def set_password(args: argparse.Namespace, path: Path, name: str) -> None:
    target = Path(name).absolute()
    if sys.stdin.isatty():
        password = getpass.getpass("new password: ")
        require(password == getpass.getpass("once more: "), "the two differ; nothing was changed")
    else:
        password = sys.stdin.readline().rstrip("\r\n")
    require(len(password) >= MIN_PASSWORD, f"a password has at least {MIN_PASSWORD} characters")
    with replacing(target, path) as partial:
        partial.write_text(hash_password(password, secrets.token_bytes(16)), encoding="ascii")
    print(f"{target} holds the new password; (re)start the server with --private {target}")


def label(args: argparse.Namespace, path: Path, name: str, field: str, text: str) -> None:
    require(field in tuple("123456789"), "FIELD is a number from 1 to 9")
    require(len(text) <= MAX_NAME and text.isprintable(), f"at most {MAX_NAME} characters")
    with contextlib.closing(open_writer(path)) as writer:
        writer.label(name, int(field), text)


# -- export and import ----------------------------------------------------------------------------


def set_output(errors: str, encoding: str | None = None) -> None:
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding=encoding, errors=errors)


@contextlib.contextmanager
def writing(name: str, path: Path) -> Iterator[TextIO]:
    """Standard output for -, else a file that is there once all went well."""
    if name == "-":
        set_output("strict", "utf-8")           # this is data, those are words
        yield sys.stdout
        return
    with (replacing(Path(name).absolute(), path) as partial,
          partial.open("w", encoding="utf-8", newline="") as file):
        yield file


def export(args: argparse.Namespace, path: Path, name: str) -> None:
    with (writing(name, path) as file, contextlib.closing(Reader(path)) as reader,
          progress_bar("exporting") as progress):
        total, done = reader.count(), 0
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(Row._fields)
        for station in reader.stations():
            rows = reader.rows(station)
            while chunk := list(itertools.islice(rows, PAGE_ROWS)):
                writer.writerows([(format_time(r[0]), *r[1:]) for r in chunk])
                done += len(chunk)
                progress(done / max(total, 1))


def parse_entry(text: str) -> int | None:
    if text and not 0 < int(text) < 2 ** 53:
        raise ValueError("entry: a number from 1")
    return int(text) if text else None


def read_csv(file: BinaryIO, name: str, station: Station | None) -> Iterator[Row]:
    """Our CSV or ThingSpeak's, told apart by the first line."""
    text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
    lines = csv.reader(text)
    try:
        header = next(lines, [])
        if header == list(Row._fields):
            for when, owner, mac, field, value, entry in filter(None, lines):
                yield Row(parse_time(when), owner, parse_mac(mac), parse_field(field),
                          parse_value(value), parse_entry(entry))
        elif header[:1] == ["Time"]:
            columns = find_columns(header)
            for cells in filter(None, lines):           # in this machine's time zone
                yield from console_rows(int(parse_clock(cells[0]).timestamp()) * 1000, columns,
                                        cells, station)
        elif header[:2] == ["created_at", "entry_id"]:
            for cells in filter(None, lines):
                if len(cells) < len(header):
                    raise ValueError(f"{len(header)} cells are expected")
                yield from thingspeak_rows(dict(zip(header, cells, strict=False)), station)
        else:
            raise ValueError("neither our CSV, nor ThingSpeak's or Ecowitt's, nor an SQLite file; "
                             f"our first line is {','.join(Row._fields)}")
    except (ValueError, OverflowError, csv.Error, Refused) as error:
        raise StoreError(f"{name}, line {lines.line_num}: {error}. What came before may be "
                         "stored; importing again does not double it") from None
    finally:
        text.detach()                   # the file is not ours to close


def read_json(file: BinaryIO, name: str, station: Station | None) -> Iterator[Row]:
    """A feeds.json of ThingSpeak's."""
    feed = None
    try:
        for feed in json.load(file)["feeds"]:
            yield from thingspeak_rows(feed, station)
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise StoreError(f"{name}: a feeds.json of ThingSpeak is expected; {error}"
                         + (f", in {str(feed)[:80]}" if feed else "")) from None


def thingspeak_rows(feed: Mapping[str, object], station: Station | None) -> Iterator[Row]:
    """The readings of one entry, by ThingSpeak's names; an empty cell where a field has none."""
    if station is None:
        raise Usage("what comes from ThingSpeak needs --station NAME: whose readings these are")
    when, entry = parse_time(str(feed["created_at"])), parse_entry(str(feed["entry_id"]))
    for field in range(1, 10):
        value = feed.get(f"field{field}")
        if value is not None and (text := str(value).strip()):
            yield Row(when, station.name, station.mac, field, parse_value(text), entry)


def find_columns(header: list[str]) -> list[Column | None]:
    """Those of Ecowitt's CSV, like `Indoor Temperature(℃)`, as far as we know them. Raises
    ValueError."""
    known = {heading: (place, field, unit) for place, field, unit, _, _, heading in SENSORS}
    columns: list[Column | None] = []
    for text in header:
        heading, _, written = text.replace("℃", "°C").replace("℉", "°F").lower().partition("(")
        place, field, unit = known.get(heading.strip(), ("", 0, ""))
        unit = written.rstrip(")") or unit
        if field and unit not in UNITS:
            raise ValueError(f"{text}: this unit is not known here")
        columns.append((place, field, unit) if field else None)
    return columns


def console_rows(ms: int, columns: Iterable[Column | None], cells: Iterable[object],
                 station: Station | None) -> Iterator[Row]:
    """What a console has measured at an instant, inside and outside. Raises ValueError."""
    if not 0 <= ms < LATEST_TIME:
        raise ValueError("before 1970 or after 2099")
    if station is None:
        raise Usage("what comes from a console needs --station NAME: whose readings these are")
    for column, cell in zip(columns, cells, strict=True):
        if column and cell is not None:
            place, field, unit = column
            name, mac = name_part(station.name, station.mac, place)
            if (value := parse_measure(f"{name}, field {field}", str(cell), unit)) is not None:
                yield Row(ms, name, mac, field, value, None)


def read_archive(db: sqlite3.Connection, station: Station | None) -> Iterator[Row]:
    """weewx's table; each row tells its system of units. Raises ValueError."""
    there = {name for _, name, *_ in db.execute("PRAGMA table_info(archive)")}
    sensors = [sensor for sensor in SENSORS if sensor[4] in there]
    for seconds, system, *cells in db.execute(
            f"SELECT dateTime, usUnits, {', '.join(sensor[4] for sensor in sensors)} FROM archive "
            "ORDER BY dateTime"):
        if (units := SYSTEMS.get(system)) is None:
            raise ValueError(f"usUnits {system} is none of {', '.join(map(str, SYSTEMS))}")
        yield from console_rows(int(seconds) * 1000, [
            (place, field, units.get(unit, unit)) for place, field, unit, *_ in sensors],
            cells, station)


def read_sqlite(file: BinaryIO, name: str, station: Station | None) -> Iterator[Row]:
    """weewx's archive, or data(Id, API_key, date_time, mac, field, data), where Id serves as
    entry number."""
    id, path = 0, Path(name)
    with contextlib.ExitStack() as stack:
        if not path.is_file():          # a pipe: SQLite cannot go back and forth in it
            path = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "older.db"
            with path.open("wb") as copy:
                shutil.copyfileobj(file, copy)
        db = stack.enter_context(contextlib.closing(connect(path, "ro")))
        try:
            if ask(db, "SELECT 1 FROM sqlite_master WHERE name = 'archive'"):
                yield from read_archive(db, station)
                return
            for id, when, mac, field, value in db.execute(
                    "SELECT Id, date_time, mac, field, data FROM data ORDER BY Id"):
                yield Row(parse_time(when), "", parse_mac(mac), parse_field(str(field)),
                          parse_value(str(value)), id)
        except (ValueError, TypeError, Refused, sqlite3.Error) as error:
            raise StoreError(f"{name}, behind Id {id}: {error}; the table data(Id, API_key, "
                             "date_time, mac, field, data) is expected, or weewx's archive"
                             ) from None


def import_steps(rows: Iterable[Row], size: int) -> Iterator[list[Row]]:
    """Pieces of some size. Rows of one instant stay together: equal ones have to be counted."""
    step: list[Row] = []
    for row in rows:
        if len(step) >= size and row[0] != step[-1][0]:
            yield step
            step = []
        step.append(row)
    yield step


def import_file(args: argparse.Namespace, path: Path, name: str) -> None:
    stored = known = pruned = texts = 0
    station = None
    if args.station:
        with contextlib.closing(Reader(path)) as reader:
            stations = {station.name: station for station in reader.stations()}
            outside = f"{args.station} outside"             # a console's
            station = find_station(stations.values(), outside if outside in stations
                                   and args.station not in stations else args.station)
    with (open(0 if name == "-" else name, "rb", closefd=name != "-") as file,
          contextlib.closing(open_writer(path, may_create=True)) as writer,
          progress_bar("importing") as progress):
        length = os.fstat(file.fileno()).st_size        # of a pipe it is 0
        start = file.peek(16)
        read = (read_sqlite if start.startswith(b"SQLite format 3\0") else
                read_json if start.lstrip(b"\xef\xbb\xbf \r\n\t").startswith(b"{") else read_csv)
        size = STEP_ROWS if isinstance(writer, Remote) else 10 * STEP_ROWS
        gc.disable()                    # the search for cycles takes 13 %, and finds none
        for step in import_steps(read(file, name, station), size):
            counts = writer.import_rows(step, now_ms())
            stored, known, pruned = map(sum, zip(counts, (stored, known, pruned), strict=True))
            texts += [type(row.value) for row in step].count(str)
            progress(file.tell() / length if length else 0)
        gc.enable()
    print(f"imported {stored} readings; {known} were there already"
          + (f"; {pruned} belong to hours that were pruned, and were left out" if pruned else "")
          + (f"; {texts} of them are texts, no numbers" if texts else ""))


# -- the review -----------------------------------------------------------------------------------

REVIEW = ("time", "inside", "state", "difference", "event", "at", "from", "to", "chance")
REVIEW_DAYS = 90


def review_hours(reader: Reader, start: int, end: int, comfort: float
                 ) -> Iterator[tuple[float, int, list[Place], list[Outcome]]]:
    """For each full hour how much is done, the hour, the rooms as they would have been told, and
    what has become of forecasts; before the start there are none. What adapts is replayed over a
    fixed span, the verdict from a midnight of UTC on: no row depends on the start. What a
    station's pauses have taught is known of today only: left out."""
    stations = [dataclasses.replace(s, silence=SILENT_AT_LEAST) for s in reader.stations()]
    inside, outside = ([reader.series(s.id).get(1, -1) for s in stations if s.role == role]
                       for role in ("inside", "outside"))
    midnight = start // DAY * DAY
    learns = midnight - (LEARNED_DAYS + 2) * DAY
    hours = range(learns - (PAST_DAYS + 1) * DAY, end, HOUR)
    told = {pair: foresee(Forecaster(), functools.partial(reader.quarters, pair), learns,
                          hours[-1]) for pair in itertools.product(inside, outside)}
    places: list[Place] = []
    for now in hours:
        said = {pair: next(rows)[1:] for pair, rows in told.items()}
        if now >= midnight:
            places = end_steps(find_places(reader, now, comfort, places if now % DAY else (),
                                           stations=stations))
        known = {pair: forecast for pair, (forecast, _) in said.items()}
        yield (now - hours[0]) / (end - hours[0]), now, [
            room._replace(forecast=fresh_forecast(room, known, now))
            for room in places if room.verdict and now >= start], [
            outcome for _, outcome in said.values() if outcome and now >= start]


def review_row(now: int, room: Place) -> list[Any]:
    """As the columns of REVIEW have it."""
    verdict, forecast = cast(Verdict, room.verdict), room.forecast
    row = [format_time(now), room.name, verdict.state,
           verdict.difference and round(verdict.difference, 2)]
    if forecast is None:
        return row + [None] * 5
    times = (forecast.at, forecast.start, forecast.end)
    return [*row, forecast.event, *(ms and format_time(ms) for ms in times),
            round(forecast.chance, 2)]


def review(args: argparse.Namespace, path: Path, name: str) -> None:
    end = now_ms() if args.end is None else args.end
    start = end - REVIEW_DAYS * DAY if args.start is None else args.start
    require(start < end, "--start has to be before --end")
    states: dict[str, list[str]] = collections.defaultdict(list)
    evenings: list[Outcome] = []
    with (writing(name, path) as file, contextlib.closing(Reader(path)) as reader,
          progress_bar("reviewing") as progress):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(REVIEW)
        for done, now, rooms, outcomes in review_hours(reader, start, end, args.comfort):
            rows = [review_row(now, room) for room in rooms]
            writer.writerows(rows)
            for _, room_name, state, *_ in rows:
                states[room_name].append(state)
            evenings += [outcome for outcome in outcomes if outcome.event == "cooler"]
            progress(done)
    for room_name, said in states.items():
        changes = sum(map(operator.ne, said, said[1:]))
        hours = ", ".join(f"{state} {count}" for state, count in
                          collections.Counter(said).most_common())
        print(f"{room_name}: {changes / len(said) * 24:.1f} changes a day; hours: {hours}",
              file=sys.stderr)
    if evenings:
        ours, theirs = (statistics.median(errors) / MINUTE for errors in zip(
            *((outcome.error, outcome.baseline) for outcome in evenings), strict=True))
        print(f"cooler outside, {len(evenings)} forecasts: half of them within {ours:.0f} minutes;"
              f" by yesterday's curve, shifted: {theirs:.0f}", file=sys.stderr)


# -- the demonstration ----------------------------------------------------------------------------

DEMO_STATIONS = (("inside", "5c:cf:7f:3b:0d:e8"), ("outside", "6c:rf:7f:2b:0e:g8"))
DEMO_SUNRISE = 13 * HOUR        # UTC: at six where the clock says UTC-7
DEMO_DAYLIGHT = 14.0            # hours


def wander(ms: int, period: int) -> float:
    """From -1 to 1: a new value after each period, smooth between; always the same at a time."""
    i, rest = divmod(ms, period)
    before, after = (math.sin(12.9898 * (j + period / HOUR)) * 43_758.5453 % 2 - 1
                     for j in (i, i + 1))
    return before + (after - before) * (1 - math.cos(math.pi * rest / period)) / 2


def simulate_outside(ms: int, midsummer: int) -> tuple[float, float]:
    """(°C, how strong the sun is, from 0 to 1): seasons, warm and cool spells, cloudy days, and
    days that warm like a sine and cool like an exponential (Parton and Logan 1981)."""
    year = math.cos((ms - midsummer) / (365.25 * DAY) * math.tau)
    clouds = min(1.0, max(0.0, 0.4 + 0.8 * wander(ms, 31 * HOUR)))
    hour = (ms - DEMO_SUNRISE) % DAY / HOUR
    day, night = min(hour, DEMO_DAYLIGHT), max(0, hour - DEMO_DAYLIGHT) / (24 - DEMO_DAYLIGHT)
    shape = math.sin(math.pi * day / (DEMO_DAYLIGHT + 3.7)) * (
        math.exp(-2.2 * night) - night * math.exp(-2.2))
    sun = (1 - 0.8 * clouds) * max(0.0, math.sin(math.pi * day / DEMO_DAYLIGHT))
    spells = 3.5 * wander(ms, 6 * DAY) + 1.5 * wander(ms, 41 * HOUR)
    noise = (0.1 + 0.7 * sun) * wander(ms, 47 * MINUTE) + 0.15 * wander(ms, 13 * MINUTE)
    return 12.5 + 9 * year + spells + noise + (6 + 5 * year) * (1 - 0.6 * clouds) * (
        shape - 0.35), sun


class DemoHouse:
    """A room that follows the weather: its walls, the sun, windows that are open when it cools."""

    def __init__(self, start: int, midsummer: int):
        self.at, self.midsummer, self.inside = start, midsummer, 21.0

    def advance(self, now: int) -> tuple[float, float]:
        """What the two stations measure then, in the order of DEMO_STATIONS."""
        outside, sun = simulate_outside(now, self.midsummer)
        is_open = self.inside > 22.5 and outside < self.inside - 0.5 and sun < 0.1
        share = 1 - math.exp((self.at - now) / ((8 if is_open else 40) * HOUR))
        self.inside = max(20.5, self.inside + (outside + 1.5 + 12 * sun - self.inside) * share)
        self.at = now
        return round(self.inside + 0.1 * wander(now, 7 * MINUTE), 1), round(outside, 1)

    def send(self, server: Server) -> None:
        """The simulated stations send: through the same store as real ones."""
        now = server.now()
        for (_, mac), value in zip(DEMO_STATIONS, self.advance(now), strict=True):
            server.writer.add(server.writer.by_mac[mac], Reading(1, value, 0, None), now)
        server.turn.end()


def fill_demo(writer: Writer, now: int) -> DemoHouse:
    """Two stations and a year of their readings. Now is midsummer."""
    house = DemoHouse(now - 365 * DAY, now)
    for name, mac in DEMO_STATIONS:
        writer.add_station(name, mac, name, hash_key(secrets.token_hex()).hex(), now)
    writer.import_rows(((ms, name, mac, 1, value, None)
                        for ms in range(house.at, now, 10 * MINUTE) for (name, mac), value
                        in zip(DEMO_STATIONS, house.advance(ms), strict=True)), now)
    return house


# -- serving --------------------------------------------------------------------------------------


async def listen(server: Server) -> tuple[list[asyncio.Server], str]:
    """Open the listening sockets, or take those of systemd, by sd_listen_fds(3); they and what to
    call them. Raises StoreError."""
    create = functools.partial(server.loop.create_server, lambda: Connection(server),
                               backlog=MAX_ACCEPTS)
    host, port = server.settings.host, server.settings.port
    is_given = os.environ.get("LISTEN_PID") == str(os.getpid())
    if count := int(os.environ.get("LISTEN_FDS", "0")) if is_given else 0:
        listeners = [await create(sock=socket.socket(fileno=3 + i)) for i in range(count)]
        where = "the sockets inherited"
    else:
        try:
            listeners = [await create(host, port)]
        except OSError as error:
            hint = "; --port N takes another" if error.errno == errno.EADDRINUSE else ""
            reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error
            raise StoreError(f"cannot listen on {host} port {port}: {reason}{hint}") from None
        port = listeners[0].sockets[0].getsockname()[1]
        host = lan_address() if host in {"0.0.0.0", "::"} else f"[{host}]" if ":" in host else host
        where = f"http://{host}:{port}/"
    for channel in (channel for listener in listeners for channel in listener.sockets):
        with channel.dup() as real:     # for asyncio both numbers are one
            real.listen(BACKLOG)
    return listeners, where


async def listen_control(server: Server, suffix: str, protocol: type[Control], mode: int
                         ) -> list[asyncio.Server]:
    """A socket beside the database, for commands or for the courier."""
    if not hasattr(socket, "AF_UNIX"):
        return []
    path = server.writer.path
    with working_in(path.parent):
        name = Path(path.name + suffix)
        name.unlink(missing_ok=True)            # we hold the lock: it is of a process that died
        channel = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        channel.bind(str(name))
        name.chmod(mode)
    return [await server.loop.create_unix_server(lambda: protocol(server), sock=channel)]


def raise_file_limit() -> int:
    """Have as many files open as we need, if the system allows it; how many it allows."""
    try:
        import resource  # noqa: PLC0415  (not on Windows)
    except ImportError:
        return 500                              # what select() can watch there
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * MAX_CONNECTIONS
    soft = max(soft, wanted if hard == resource.RLIM_INFINITY else min(wanted, hard))
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return soft


def announce(server: Server) -> None:
    stations = len(server.writer.stations)
    print(f"iotserver {__version__} serves {server.where} from {server.writer.path}, "
          f"{stations} station{'s' * (stations != 1)}", flush=True)
    if not stations:
        print("no station yet; this adds one, with the MAC that your station prints at start:\n"
              f"  python3 iotserver.py --db {server.writer.path} --add-station inside "
              "--role inside --mac 5c:cf:7f:3b:0d:e8", flush=True)


async def serve(server: Server, jobs: Iterable[tuple[float, Job]]) -> None:
    """From the first socket to the last answer."""
    server.loop = asyncio.get_running_loop()
    server.loop.set_exception_handler(server.report)
    # The rest is for those that are refused, and for what is no connection.
    server.room = min(MAX_CONNECTIONS, raise_file_limit() // 2)
    listeners, server.where = await listen(server)
    controls = await listen_control(server, ".sock", Control, 0o600)
    is_shared = server.writer.path.parent.stat().st_mode & 0o011 == 0o010   # with a group only
    counters = await listen_control(server, ".courier", Counter, 0o660 if is_shared else 0o600)
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        catch_signal(server.loop, number, stopped.set)
    announce(server)
    with contextlib.suppress(OSError):          # it is tried again
        keep_courier(server)
    notify("READY=1")
    works = [asyncio.create_task(run_job(server, *job)) for job in jobs]
    stop = asyncio.create_task(stopped.wait())
    await asyncio.wait((*works, stop), return_when=asyncio.FIRST_COMPLETED)
    notify("STOPPING=1")
    hang_up(server, controls, Control)
    await asyncio.gather(wind_down(server, listeners), end_courier(server))
    hang_up(server, counters, Counter)
    for work in works:
        work.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await work


def hang_up(server: Server, listeners: list[asyncio.Server], protocol: type[Control]) -> None:
    for listener in listeners:
        listener.close()
    for control in [c for c in server.controls if type(c) is protocol]:
        control.transport.close()


def catch_signal(loop: asyncio.AbstractEventLoop, number: int,
                 callback: Callable[[], object]) -> None:
    try:
        loop.add_signal_handler(number, callback)
    except NotImplementedError:                 # Windows
        signal.signal(number, lambda *_: loop.call_soon_threadsafe(callback))


async def wind_down(server: Server, listeners: list[asyncio.Server]) -> None:
    """Accept no more, answer what is in flight, close what is idle; STOP_SECONDS at the most."""
    server.is_stopping = True
    for listener in listeners:
        accepted: list[socket.socket] = []      # by the kernel: closing would reset them
        for channel in listener.sockets:
            with contextlib.suppress(OSError), channel.dup() as real:   # no more, or no files left
                while True:
                    accepted.append(real.accept()[0])
        listener.close()
        for channel in accepted:
            await server.loop.connect_accepted_socket(lambda: Connection(server), channel)
    started = server.monotonic()
    while server.connections and (waited := server.monotonic() - started) < STOP_SECONDS:
        for connection in tuple(server.connections):
            if connection.may_close(waited):
                connection.transport.close()
        await asyncio.sleep(0.02)
    for connection in tuple(server.connections):
        connection.transport.abort()
    server.turn.end()


def run_server(args: argparse.Namespace, path: Path) -> None:
    with contextlib.ExitStack() as stack:
        if args.demo:
            path = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "demo.db"
        writer = stack.enter_context(contextlib.closing(open_writer(path, may_create=True)))
        if isinstance(writer, Remote):
            raise StoreError(f"{path} is in use by another iotserver; stop that one first, or "
                             "name another --db")
        jobs = JOBS
        if args.demo:
            jobs += (5, fill_demo(writer, now_ms()).send),
        reader = stack.enter_context(contextlib.closing(Reader(path)))
        server = Server(args, writer, reader)
        asyncio.run(serve(server, jobs))
        if hasattr(socket, "AF_UNIX"):
            for suffix in SOCKETS:
                beside(path, suffix).unlink(missing_ok=True)


# -- the command line -----------------------------------------------------------------------------


class Command(NamedTuple):
    """A flag that does one thing and exits: run(args, path, the flag's values)."""
    flag: str
    metavar: tuple[str, ...]    # empty: takes no value
    run: Callable[..., None]
    help: str
    options: tuple[str, ...] = ()   # flags of OPTIONS that go with it


COMMANDS = (
    Command("add-station", ("NAME",), add_station,
            "register a station; prints its key and its config.py lines",
            ("mac", "role", "console", "key")),
    Command("edit-station", ("NAME",), edit_station,
            "change its name, MAC or role; id, keys and readings stay", ("name", "mac", "role")),
    Command("stations", (), list_stations, "a table of the stations"),
    Command("new-key", ("NAME",), new_key,
            "a new key beside the old one until it is first used", ("key", "now")),
    Command("read-key", ("NAME",), read_key,
            "a key that reads a station's ThingSpeak feeds when --private", ("key",)),
    Command("remove-station", ("NAME",), remove_station,
            "remove a station with all its readings"),
    Command("delete-readings", ("NAME",), delete_readings, "delete raw readings of a time; the "
            "summaries follow", ("start", "end", "field", "below", "above", "dry-run")),
    Command("prune", ("AGE",), prune,
            "delete raw readings older than 90d, 12h, ...; summaries stay", ("dry-run",)),
    Command("backup", ("FILE",), backup, "a checked, restorable copy, while the server runs"),
    Command("export", ("FILE",), export, "all readings as CSV; - is standard output"),
    Command("import", ("FILE",), import_file, "our CSV, ThingSpeak's CSV or feeds.json, "
            "Ecowitt's CSV, weewx's archive, or an SQLite file of the older kind", ("station",)),
    Command("review", ("FILE",), review, "what verdict and forecast would have said hour by hour, "
            "with this --comfort, as CSV; - is standard output", ("start", "end")),
    Command("label", ("STATION", "FIELD", "TEXT"), label, "what a field is called on the page"),
    Command("set-password", ("FILE",), set_password, "choose the password of --private; asks for "
            "it, or reads it from standard input"),
    Command("courier", (), run_courier, "run the courier alone, until it is stopped: for systemd"),
    Command("try-message", (), try_message, "send a test message to each --notify destination; "
            "says what each answers"),
    Command("check", (), check, "full integrity check of file and summaries"),
)
OPTIONS = (
    Setting("mac", "MAC", None, lambda text: parse_mac(text) and text, "the station's MAC"),
    Setting("role", "inside|outside|none", None, one_of("inside", "outside", "none"),
            "where the station hangs"),
    Setting("console", None, None, parse_switch, "it is a bought one, outside and inside"),
    Setting("name", "NEW", None, parse_name, "its new name"),
    Setting("key", "KEY", None, parse_key,
            "the API key (default: made up); - reads it from standard input"),
    Setting("now", None, None, parse_switch, "the old key ends at once"),
    Setting("station", "NAME", None, str, "whose readings a file of others' holds"),
    Setting("start", "T", None, functools.partial(parse_instant, "start"),
            "from then on, ISO 8601 or seconds since 1970"),
    Setting("end", "T", None, functools.partial(parse_instant, "end"), "until before then"),
    Setting("field", "N", None, parse_field, "only of this field"),
    Setting("below", "V", None, parse_number, "only those below"),
    Setting("above", "V", None, parse_number, "only those above"),
    Setting("dry-run", None, None, parse_switch, "only count"),
)


def takers(option: str) -> str:
    """The flags with which an option goes, in words."""
    return " or ".join(f"--{c.flag}" for c in COMMANDS if option in c.options)


def add_flag(group: "argparse._ArgumentGroup", s: Setting, text: str, given: str | None) -> None:
    how: dict[str, Any] = ({"metavar": s.metavar} if s.metavar else
                           {"action": "store_const", "const": "1"})
    group.add_argument(f"--{s.name}", default=given, help=text, **how)


def build_parser(environ: Mapping[str, str]) -> argparse.ArgumentParser:
    """The command line; values stay text until parse_settings."""
    parser = argparse.ArgumentParser(
        prog="iotserver.py", description="A household's own ThingSpeak. Without a flag: serve.",
        epilog="A serving flag can come from the environment instead: IOTSERVER_PORT=8080.")
    serving = parser.add_argument_group("serving")
    for s in SETTINGS:
        text = s.help + (f" (default: {s.default})" if s.default else "")
        add_flag(serving, s, text, environ.get(s.variable, s.default))
    doing = parser.add_argument_group("doing one thing and exiting")
    one = doing.add_mutually_exclusive_group()
    for c in COMMANDS:
        how: dict[str, Any] = ({"metavar": c.metavar, "nargs": len(c.metavar)} if c.metavar else
                               {"action": "store_const", "const": []})
        one.add_argument(f"--{c.flag}", dest=c.flag, help=c.help, **how)
    for s in OPTIONS:
        add_flag(doing, s, f"with {takers(s.name)}: {s.help}", None)
    parser.add_argument("--version", action="version", version=f"iotserver {__version__}")
    return parser


def parse_settings(args: argparse.Namespace, settings: Iterable[Setting] = SETTINGS) -> None:
    """Flags from text to what they mean. Raises Usage."""
    for s in settings:
        name = s.name.replace("-", "_")
        try:
            if (text := getattr(args, name)) is not None:
                setattr(args, name, s.parse(text))
        except (Usage, ValueError) as error:
            also = "" if s.default is None else f" (or {s.variable})"
            raise Usage(f"--{s.name}{also}: {error}") from None
        except Refused as refused:              # it names the part, which is the flag
            raise Usage(f"--{refused.message}") from None


def find_command(args: argparse.Namespace) -> Command | None:
    """The command that was asked for, if any. Raises Usage for options that go with others."""
    found = next((c for c in COMMANDS if getattr(args, c.flag) is not None), None)
    for option in (s.name for s in OPTIONS):
        require(getattr(args, option.replace("-", "_")) is None
                or (found and option in found.options), f"--{option} goes with {takers(option)}")
    parse_settings(args, OPTIONS)
    return found


def main(argv: list[str] | None = None) -> int:
    """Do one thing and exit, or serve until SIGTERM. The exit status."""
    os.umask(0o077)                             # whatever we make holds a household's data
    set_output("backslashreplace")              # a name is no reason to fail
    parser = build_parser(os.environ)
    args = parser.parse_args(argv)
    try:
        parse_settings(args)
        if sqlite3.sqlite_version_info < (3, 37):
            raise StoreError(f"Python brings SQLite {sqlite3.sqlite_version} here; strict tables "
                             "need SQLite 3.37 or newer")
        path = Path(args.db).absolute()
        if command := find_command(args):
            command.run(args, path, *getattr(args, command.flag))
        else:
            run_server(args, path)
        sys.stdout.flush()
        return 0
    except Usage as error:
        print(f"iotserver: {error} (--help tells more)", file=sys.stderr)
        return 2
    except BrokenPipeError:                     # the reader of our output has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (OSError, StoreError, sqlite3.Error) as error:
        where = (f"{error.filename or ''}: {error.strerror}" if isinstance(error, OSError) else
                 error if isinstance(error, StoreError) else f"{path}: {error}")
        print(f"iotserver: {where}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
