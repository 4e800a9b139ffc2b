#!/usr/bin/env python3
"""iotserver: a household's own ThingSpeak in one file. Python's standard library, nothing else.

Weather stations send readings by URL, SQLite keeps them, and a phone shows at a glance
what it is inside and outside and whether to open the windows.

Architecture
    One event loop, one thread, one connection that writes. asyncio owns the sockets. A strict
    subclass of http.server's handler turns the bytes of one request into one answer and needs
    no socket for that. All updates that arrive in one turn of the loop become one transaction
    (group commit), and no byte of an answer leaves before its readings are on the disk. Every
    question is asked on a second, read-only connection, so it sees only what is committed.
    No locks, because nothing is shared.

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

URLs
    GET  /update/API_key=K/mac=M/field=F/data=V[/age=S][/seq=T]    store one reading
    POST /update                                                   store many, as JSON
    GET  /  /events  /api/stations  /api/readings  /export.csv  /healthz

Usage
    python3 iotserver.py --demo        everything at once, with two simulated stations
    python3 iotserver.py --help        all the rest

Refused, to stay what it is
    a second thread, a second writing process, a dependency, a configuration file, user accounts,
    dashboards to assemble, plug-ins, and a reading acknowledged before it is on the disk
"""
# ------------------------------------------------------------------------------------------------
# 2. Imports, version, limits.        Law: a number that limits something has a name and a reason.
# ------------------------------------------------------------------------------------------------
import argparse
import asyncio
import collections
import contextlib
import csv
import errno
import functools
import hashlib
import heapq
import hmac
import html
import http.server
import io
import itertools
import json
import math
import os
import random
import re
import secrets
import signal
import socket
import sqlite3
import string
import sys
import tempfile
import time
import traceback
import urllib.parse
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from http import HTTPStatus
from pathlib import Path
from typing import Any, NamedTuple

__version__ = "1.0"

HOUR = 3_600_000                # ms; readings are summarized by UTC hours, which daylight saving
DAY = 24 * HOUR                 # never splits
LATEST_TIME = 4_102_444_800_000  # 2100-01-01: a later time is a wrong clock, not a reading

MAX_AGE = 2_592_000             # s, 30 days: more than a station can buffer
MAX_NUMBER = 32                 # characters of a number: any double fits in 24
MAX_NAME = 64                   # characters of a name: has to fit on a phone's line
MAX_BULK = 960                  # readings in one POST: what ThingSpeak takes, and 16 h of one a minute
RECEIPT_LIFE = 2 * MAX_AGE * 1000  # ms; twice the age at which a repeated reading is refused

MAX_LINE = 4096                 # bytes of a request line: the longest update URL is below 400
MAX_HEAD = 16_384               # bytes of request line and headers: a browser sends below 2,000
MAX_HEADERS = 64                # a browser behind a proxy sends below 30
MAX_BODY = 256 * 1024           # bytes; 960 readings take below 100 KiB
HEAD_SECONDS = 30               # a phone on a bad network needs a few
BODY_SECONDS = 60
IDLE_SECONDS = 120              # longer than nginx keeps an upstream connection idle (60)
LINGER_SECONDS = 2              # after an error the client gets this long to read the answer
STOP_SECONDS = 4                # SIGTERM to exit; systemd and users expect a stop within 5
IDLE_STOP_SECONDS = 1           # an idle kept-alive connection may have a request on its way
BACKLOG = 1024                  # connections the kernel holds while a turn is committed
MAX_CONNECTIONS = 8192          # each costs some 10 KB
MAX_UNSENT = 256 * 1024         # bytes; a listener that far behind is not reading

CHECKPOINT_PAGES = 1000         # 4 MB of log: SQLite's own figure
STEP_ROWS = 5000                # rows changed in one step of long work: some 20 ms in which updates wait
STEP_PAGES = 500                # pages given back in one step
PAGE_ROWS = 5000                # rows read at a time while streaming: no read transaction is held
MAX_SCAN = 20_000               # readings looked at for one chart; from there on, hours serve as well
MAX_POINTS = 10_000             # points in one answer of /api/readings
DEFAULT_POINTS = 1000           # more than a screen has columns for
CONTROL_LINE = 8 * 1024 * 1024  # bytes of one command on the control socket: a step of an import

# ------------------------------------------------------------------------------------------------
# 3. Settings.        Law: one table; flags, environment, --help and the README all follow from it.
# ------------------------------------------------------------------------------------------------


class Setting(NamedTuple):
    """One flag of the server; the environment variable IOTSERVER_NAME means the same."""
    name: str
    metavar: str | None         # None: a switch
    default: str
    parse: Callable[[str], Any]
    help: str

    @property
    def variable(self) -> str:
        return "IOTSERVER_" + self.name.upper().replace("-", "_")


class Temperature(NamedTuple):
    """A temperature as its user wrote it: `22C` or `72F`."""
    celsius: float
    unit: str


def parse_temperature(text: str) -> Temperature:
    """`22C` or `72F` to a Temperature; raises ValueError for anything else."""
    match = re.fullmatch(r"(-?\d{1,3}(?:\.\d{1,3})?)([CF])", text.strip(), re.ASCII)
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} is no temperature; write 22C or 72F")
    degrees, unit = float(match[1]), match[2]
    return Temperature(degrees if unit == "C" else (degrees - 32) / 1.8, unit)


def parse_port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) < 65536):
        raise argparse.ArgumentTypeError(f"{text!r} is no port; a port is a number up to 65535")
    return int(text)


def parse_count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number")
    return int(text)


def parse_units(text: str) -> str:
    if text not in {"auto", "C", "F"}:
        raise argparse.ArgumentTypeError(f"{text!r} is none of auto, C, F")
    return text


def parse_switch(text: str) -> bool:
    return text.lower() not in {"", "0", "no", "false"}


def default_database() -> str:
    """`$STATE_DIRECTORY/iot.db` under systemd, else `iot.db` in the current directory."""
    return str(Path(os.environ.get("STATE_DIRECTORY", "")) / "iot.db")


SETTINGS = (
    Setting("host", "ADDR", "127.0.0.1", str, "address to listen on"),
    Setting("port", "N", "8000", parse_port, "port to listen on; 0 takes any free one"),
    Setting("db", "FILE", "", lambda text: text or default_database(),
            "the database (default: $STATE_DIRECTORY/iot.db, else iot.db)"),
    Setting("rate-limit", "N", "60", parse_count,
            "updates per minute per MAC, bursts of N; 0 is no limit"),
    Setting("units", "auto|C|F", "auto", parse_units,
            "what the page shows; auto follows the browser's language"),
    Setting("comfort", "TEMP", "22C", parse_temperature,
            "22C or 72F: inside at or below it, nothing needs opening"),
    Setting("demo", None, "", parse_switch,
            "serve a throw-away database with two simulated stations and a year of history"),
)


class Action(NamedTuple):
    """A flag that does one thing and exits."""
    flag: str
    metavar: tuple[str, ...]    # empty: takes no value
    help: str

    @property
    def name(self) -> str:
        """Of its attribute in the parsed arguments."""
        return self.flag.replace("-", "_").replace("import", "import_")


ACTIONS = (
    Action("add-station", ("NAME",), "register a station; prints its key and its config.py lines"),
    Action("stations", (), "a table of the stations"),
    Action("new-key", ("NAME",), "a new key beside the old one until it is first used"),
    Action("remove-station", ("NAME",), "remove a station with all its readings"),
    Action("prune", ("AGE",), "delete raw readings older than 90d, 12h, ...; summaries stay"),
    Action("backup", ("FILE",), "a checked, restorable copy, while the server runs"),
    Action("export", ("FILE",), "all readings as CSV; - is standard output"),
    Action("import", ("FILE",), "our CSV, a ThingSpeak CSV, or an SQLite file with the older table"),
    Action("label", ("STATION", "FIELD", "TEXT"), "what a field is called on the page"),
    Action("check", (), "full integrity check of file and summaries"),
)

DETAILS = (                     # of the flags above: flag, metavar, choices, help
    ("mac", "MAC", None, "with --add-station: the station's MAC"),
    ("role", None, ("inside", "outside"), "with --add-station: where the station hangs"),
    ("key", "KEY", None, "with --add-station: the API key (default: made up)"),
    ("station", "NAME", None, "with --import of a ThingSpeak CSV: the station it belongs to"),
)


def build_parser(environ: dict[str, str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="iotserver.py", description="A household's own ThingSpeak. Without a flag: serve.",
        epilog="Each serving flag can come from the environment instead: IOTSERVER_PORT=8080.")
    serving = parser.add_argument_group("serving")
    for s in SETTINGS:
        value = environ.get(s.variable, s.default)
        how = ({"action": "store_true", "default": s.parse(value)} if s.metavar is None else
               {"metavar": s.metavar, "type": s.parse, "default": value})
        default = f" (default: {s.default})" if s.default else ""
        serving.add_argument(f"--{s.name}", help=s.help + default, **how)
    doing = parser.add_argument_group("doing one thing and exiting")
    one = doing.add_mutually_exclusive_group()
    for a in ACTIONS:
        how = ({"metavar": a.metavar, "nargs": len(a.metavar)} if a.metavar else
               {"action": "store_const", "const": []})
        one.add_argument(f"--{a.flag}", dest=a.name, help=a.help, **how)
    for flag, metavar, choices, text in DETAILS:
        doing.add_argument(f"--{flag}", metavar=metavar, choices=choices, help=text)
    doing.add_argument("--dry-run", action="store_true", help="with --prune: only count")
    parser.add_argument("--version", action="version", version=f"iotserver {__version__}")
    return parser


# ------------------------------------------------------------------------------------------------
# 4. Domain.        Law: pure functions; no clock, no file, no socket. Times are integers of ms UTC.
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
    readings: tuple[Reading, ...]


class Point(NamedTuple):
    """One place on a chart: a reading (then all three are the same), or the summary of many."""
    time: int
    mean: float
    minimum: float
    maximum: float


NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)
MAC = re.compile(r"[0-9A-Za-z:._-]{1,32}")
KEY = re.compile(r"[0-9A-Za-z._~-]{1,64}")      # what needs no escaping in a URL
DURATION = re.compile(r"(\d{1,6})([smhdw])", re.ASCII)
DURATION_UNITS = {"s": 1000, "m": 60_000, "h": HOUR, "d": DAY, "w": 7 * DAY}
PARTS = ("API_key", "mac", "field", "data", "age", "seq")
PART_NAMES = {name.lower(): name for name in PARTS}
READING_PARTS = frozenset({"field", "data", "age", "seq"})


def parse_number(text: str) -> float:
    """A finite decimal number; a whole one comes back as int. Raises ValueError.

    float() alone is too generous: it takes nan, inf, 1_0 and digits of other scripts.
    """
    if len(text) > MAX_NUMBER or not NUMBER.fullmatch(text):
        raise ValueError("not a decimal number")
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("too large")
    whole = number.is_integer() and abs(number) < 2 ** 53 and text.lstrip("+-").isdigit()
    return int(number) if whole else number


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
    number, seq = parts["field"], parts.get("seq")
    if len(number) != 1 or number not in "123456789":
        raise Refused(400, "field: a number from 1 to 9")
    try:
        value = parse_number(parts["data"])
    except ValueError as error:
        raise Refused(400, f"data: {error}; a finite decimal number is needed, like 72.3") from None
    if seq is not None and not (0 < len(seq) <= MAX_NUMBER and seq.isprintable()):
        raise Refused(400, "seq: 1 to 32 printable characters")
    return Reading(int(number), value, parse_age(parts.get("age", "0")), seq)


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

    header_key is the key from X-API-Key and serves when the path has none. Raises Refused.
    A message never repeats a value: it might be the key.
    """
    parts: dict[str, str] = {}
    for text in path[len("/update/"):].split("/"):
        name, equals, value = text.partition("=")
        name = name.lower()
        if not equals or name not in PART_NAMES:
            raise Refused(400, f"{ascii(name[:20]) if equals else 'path'}: unknown part; "
                               f"the parts are {', '.join(PARTS)}, each written name=value")
        if name in parts:
            raise Refused(400, f"{PART_NAMES[name]}: given twice")
        parts[name] = urllib.parse.unquote(value) if "%" in value else value
    if header_key is not None:
        parts.setdefault("api_key", header_key)
    for name in ("api_key", "mac"):
        if name not in parts:
            raise Refused(400, f"{PART_NAMES[name]}: missing")
    return Update(parse_mac(parts["mac"]), parts["api_key"], (parse_reading(parts),))


def no_constant(name: str):
    raise ValueError(f"{name} is no JSON number")


def parse_update_json(body: bytes, header_key: str | None = None) -> Update:
    """`{"mac":M,"api_key":K,"readings":[{"field":F,"data":V,"age":S,"seq":T},...]}` to an Update.

    Numbers go through the same grammar as those of the path. Raises Refused, naming the part.
    """
    try:
        document = json.loads(body, parse_constant=no_constant)
    except (ValueError, RecursionError) as error:
        raise Refused(400, f"body: not JSON: {str(error)[:80]}") from None
    if not isinstance(document, dict):
        raise Refused(400, "body: a JSON object is needed")
    if unknown := document.keys() - {"mac", "api_key", "readings"}:
        raise Refused(400, f"{min(unknown)[:20]!a}: unknown; known are mac, api_key, readings")
    key, readings = document.get("api_key", header_key), document.get("readings")
    if not isinstance(key, str):
        raise Refused(400, "api_key: missing")
    if not isinstance(document.get("mac"), str):
        raise Refused(400, "mac: missing")
    if not isinstance(readings, list) or not 0 < len(readings) <= MAX_BULK:
        raise Refused(400, f"readings: a list of 1 to {MAX_BULK} readings")
    return Update(parse_mac(document["mac"]), key,
                  tuple(parse_json_reading(i, r) for i, r in enumerate(readings)))


def parse_json_reading(index: int, reading: Any) -> Reading:
    where = f"readings[{index}]"
    if not isinstance(reading, dict):
        raise Refused(400, f"{where}: an object is needed")
    if unknown := reading.keys() - READING_PARTS:
        raise Refused(400, f"{where}.{min(unknown)[:20]!a}: unknown part")
    try:
        return parse_reading({name: str(value) for name, value in reading.items()
                              if value is not None})
    except Refused as refused:
        raise Refused(refused.status, f"{where}.{refused.message}") from None


def parse_duration(text: str) -> int:
    """`90d`, `12h`, `30m`, `45s`, `2w` to milliseconds. Raises ValueError."""
    match = DURATION.fullmatch(text)
    if not match:
        raise ValueError(f"{text!r} is no age; write a number and s, m, h, d or w, like 90d")
    return int(match[1]) * DURATION_UNITS[match[2]]


@functools.lru_cache(maxsize=64)
def midnight(date: str) -> int:
    """`2018-07-30` to the milliseconds at which that UTC day began."""
    return int(datetime.fromisoformat(date + "T00:00:00+00:00").timestamp()) * 1000


UTC_TIME = re.compile(r"\d{4}-\d\d-\d\dT([01]\d|2[0-3]):[0-5]\d:[0-5]\d\.\d{3}Z", re.ASCII)


def parse_time(text: str) -> int:
    """ISO 8601 to ms; without an offset it is UTC. Raises ValueError.

    Our own notation is taken apart by hand: 0.9 us instead of 2.3, which decides an import.
    """
    if UTC_TIME.fullmatch(text):
        return (midnight(text[:10]) + int(text[11:13]) * HOUR + int(text[14:16]) * 60_000
                + int(text[17:19]) * 1000 + int(text[20:23]))
    text = re.sub(r"Z$| UTC$", "+00:00", text.strip())      # 3.10 knows neither
    text = re.sub(r" ?([+-]\d\d):?(\d\d)$", r"\1:\2", text)  # ... nor -0400
    instant = datetime.fromisoformat(text)
    if instant.tzinfo is None:
        instant = instant.replace(tzinfo=timezone.utc)
    return round((instant - EPOCH) / timedelta(milliseconds=1))


EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


def parse_instant(name: str, text: str) -> int:
    """A query's start or end, ISO 8601 or seconds since 1970, to ms. Raises Refused."""
    try:
        ms = round(parse_number(text) * 1000) if NUMBER.fullmatch(text) else parse_time(text)
    except (ValueError, OverflowError):
        ms = -1
    if not 0 <= ms < LATEST_TIME:
        raise Refused(400, f"{name}: ISO 8601 like 2018-07-30T22:16:34Z, or seconds since 1970")
    return ms


@functools.lru_cache(maxsize=64)
def date_text(day: int) -> str:
    return (EPOCH + timedelta(days=day)).strftime("%Y-%m-%d")


def format_time(ms: int) -> str:
    """`2018-07-30T22:16:34.541Z`."""
    day, rest = divmod(ms, DAY)
    seconds, ms = divmod(rest, 1000)
    return (f"{date_text(day)}T{seconds // 3600:02d}:{seconds // 60 % 60:02d}"
            f":{seconds % 60:02d}.{ms:03d}Z")


def format_ago(ms: int) -> str:
    """A length of time in one unit, as people say it: `now`, `3 min`, `5 h`, `12 d`."""
    seconds = ms // 1000
    for length, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= length:
            return f"{seconds // length} {unit}"
    return f"{max(seconds, 0)} s"


def format_bytes(count: float) -> str:
    for unit in ("bytes", "KB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}" if unit != "bytes" else f"{count:.0f} bytes"
        count /= 1000
    return f"{count:.3g} GB"


def summarize(readings: Iterable[tuple[int, int, int, float]]) -> dict[tuple[int, int], list]:
    """(series, time, entry, value) rows to {(series, hour): [count, minimum, maximum, total]}."""
    hours: dict[tuple[int, int], list] = {}
    for series, ms, _, value in readings:
        if isinstance(value, str):      # text that a ThingSpeak client sent instead of a number
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
    return hours


def thin(samples: Iterable[tuple], origin: int, width: int) -> list[Point]:
    """(time, count, minimum, maximum, total) in order of time to a Point for each bucket.

    Buckets are width ms long and count from origin; an empty one leaves nothing.
    """
    points = []
    for bucket, group in itertools.groupby(samples, lambda s: (s[0] - origin) // width):
        _, counts, minima, maxima, totals = zip(*group, strict=True)
        points.append(Point(origin + bucket * width, math.fsum(totals) / sum(counts),
                            min(minima), max(maxima)))
    return points


def take_token(tokens: float, elapsed: float, per_minute: int) -> tuple[float, float]:
    """Token bucket of per_minute tokens: (tokens left, seconds to wait). A wait of 0 is a yes."""
    tokens = min(per_minute, tokens + elapsed * per_minute / 60)
    if tokens >= 1:
        return tokens - 1, 0.0
    return tokens, (1 - tokens) * 60 / per_minute


def parse_media(accept: str) -> str:
    """What an Accept header asks for: `html`, `json` or `text`."""
    if "text/html" in accept:
        return "html"
    return "json" if "application/json" in accept else "text"


# ------------------------------------------------------------------------------------------------
# 5. Store.        Law: all SQL is here. Writer is the only connection that writes or checkpoints;
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
""",)

WRITER_PRAGMAS = (
    "synchronous = FULL",           # NORMAL loses acknowledged readings in a power cut
    "wal_autocheckpoint = 0",       # SQLite hides a failed fsync of its own checkpoints; we do not
    "journal_size_limit = 4194304",  # what one large import left of the log goes back
    "foreign_keys = ON",
    "trusted_schema = OFF",
    "secure_delete = OFF",          # Debian's default would write every pruned page once more
    "temp_store = MEMORY",
)


class StoreError(Exception):
    """The database cannot be used, or a wish cannot be granted; the text says what to do."""


class Fatal(Exception):
    """The disk or the file failed in a way after which nothing may be promised: end the process."""


@dataclass(slots=True)
class Station:
    """A row of the table station, kept in memory by the Writer. key and next_key are SHA-256."""
    id: int
    name: str
    mac: str
    role: str | None
    key: bytes | None
    next_key: bytes | None
    created: int
    heard: int | None
    last_entry: int


STATION_COLUMNS = "id, name, mac, role, key, next_key, created, heard, last_entry"


class Latest(NamedTuple):
    """The newest reading of a series; time and value are None when there is none."""
    station: int
    field: int
    label: str | None
    time: int | None
    value: Any


class Row(NamedTuple):
    """A reading on its way out of or into a CSV file. entry is None where the source has none."""
    time: int
    station: str
    mac: str
    field: int
    value: Any
    entry: int | None


@dataclass(slots=True)
class Batch:
    """What one turn wants stored."""
    readings: list[tuple[int, int, int, Any]] = field(default_factory=list)
    receipts: dict[tuple[int, int, str], tuple[int, int]] = field(default_factory=dict)
    series: list[tuple[int, int, int]] = field(default_factory=list)
    stations: dict[int, Station] = field(default_factory=dict)
    promoted: set[int] = field(default_factory=set)     # stations that used their next key


class ImportCount(NamedTuple):
    """What became of the rows of an import."""
    stored: int = 0
    known: int = 0
    pruned: int = 0


def inspect_header(header: bytes) -> str | None:
    """What is wrong with a file that starts with these 100 bytes, or None. Opens nothing.

    Offsets: https://www.sqlite.org/fileformat.html#the_database_header
    """
    if not header:
        return None                     # not there yet, or never got its first commit
    if header[:16] != b"SQLite format 3\0":
        return "is no SQLite database"
    if int.from_bytes(header[68:72], "big") != APPLICATION_ID:
        return "is an SQLite database, but not one of iotserver (for an older table: --import FILE)"
    if (version := int.from_bytes(header[60:64], "big")) > len(MIGRATIONS):
        return (f"has layout {version}, and this iotserver {__version__} knows only "
                f"{len(MIGRATIONS)}; use the newer iotserver that wrote it")
    return None


def refuse_foreign(path: Path) -> None:
    """Raise StoreError for a file that is not ours, without touching it."""
    try:
        with path.open("rb") as file:
            problem = inspect_header(file.read(100))
    except FileNotFoundError:
        return
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}") from None
    if problem:
        raise StoreError(f"{path} {problem}; it was left as it is")


def connect(path: Path, mode: str) -> sqlite3.Connection:
    uri = f"{path.absolute().as_uri()}?mode={mode}"
    try:
        return sqlite3.connect(uri, uri=True, isolation_level=None, timeout=5)
    except sqlite3.Error as error:
        raise StoreError(f"{path}: {error}") from None


def take_lock(path: Path) -> sqlite3.Connection:
    """The right to write. Held by an open transaction on FILE.lock, it ends with the process.

    SQLite is our lock, too: that works alike on every system. Raises BlockingIOError when taken.
    """
    lock = connect(path.with_name(path.name + ".lock"), "rwc")
    try:
        lock.execute("PRAGMA busy_timeout = 0")
        lock.execute("BEGIN EXCLUSIVE")
    except sqlite3.OperationalError as error:
        lock.close()
        if "locked" in str(error):
            raise BlockingIOError from None
        raise StoreError(f"{path.parent} cannot be written: {error}") from None
    return lock


def is_fatal(error: sqlite3.Error) -> bool:
    """Whether a failed commit leaves it open what is on the disk.

    After a failed fsync the kernel may forget the pages and report success next time. A write that
    failed for want of space is harmless. Python 3.10 does not tell I/O errors apart: all are fatal.
    """
    name = getattr(error, "sqlite_errorname", "") or str(error)
    if name == "SQLITE_IOERR_WRITE":
        return False
    return name.startswith(("SQLITE_IOERR", "SQLITE_CORRUPT", "SQLITE_NOTADB", "disk I/O",
                            "database disk image is malformed", "file is not a database"))


def find_station(stations: Iterable[Station], name: str) -> Station:
    """A station by its name, else by its MAC. Raises StoreError."""
    stations = list(stations)
    for station in (*(s for s in stations if s.name == name),
                    *(s for s in stations if s.mac == name.lower())):
        return station
    known = ", ".join(repr(s.name) for s in stations) or "none yet"
    raise StoreError(f"there is no station {name!r}; known: {known}")


class Reader:
    """Every question asked of the file, on a connection that cannot write."""

    def __init__(self, path: Path):
        refuse_foreign(path)
        if not path.exists():
            raise StoreError(f"{path}: there is no such database; --db names another, "
                             "and --add-station makes one")
        self.path = path
        self.db = connect(path, "ro")

    def close(self) -> None:
        self.db.close()

    def look(self) -> None:
        """A real look at the file: it is still the one that was opened, and can be read."""
        opened = self.db.execute("SELECT count(*) FROM station").fetchone()
        if not (opened and self.path.exists()):
            raise StoreError(f"{self.path} is gone")

    def stations(self) -> list[Station]:
        return [Station(*row) for row in self.db.execute(
            f"SELECT {STATION_COLUMNS} FROM station ORDER BY id")]

    def entries(self) -> dict[int, int]:
        """{station: entries ever stored}."""
        return dict(self.db.execute("""
            SELECT id, last_entry - (SELECT total(last - first + 1) FROM gap WHERE station = id)
            FROM station""").fetchall())

    def latest(self) -> list[Latest]:
        return [Latest(*row) for row in self.db.execute("""
            SELECT s.station, s.field, s.label, r.time, r.value FROM series s
            LEFT JOIN reading r ON r.series = s.id AND (r.time, r.entry) = (
                SELECT time, entry FROM reading WHERE series = s.id
                ORDER BY time DESC, entry DESC LIMIT 1)
            ORDER BY s.station, s.field""")]

    def find_series(self, station: int, number: int) -> int | None:
        row = self.db.execute("SELECT id FROM series WHERE station = ? AND field = ?",
                              (station, number)).fetchone()
        return row and row[0]

    def span(self, series: int, start: int | None, end: int | None) -> tuple[int, int]:
        """The part of [start, end) in which the series has hours, widened to whole hours at will."""
        first, last = self.db.execute(
            "SELECT min(hour), max(hour) FROM hour WHERE series = ?", (series,)).fetchone()
        if first is None:
            return 0, 0
        lower, upper = first * HOUR, (last + 1) * HOUR
        return (lower if start is None else max(start, lower),
                upper if end is None else min(end, upper))

    def points(self, series: int, start: int | None, end: int | None,
               limit: int) -> list[tuple[int, float] | Point]:
        """Readings of [start, end) as (time, value), thinned to at most limit Points if more.

        Hours of which readings were pruned appear as their summaries. The cost is bounded by
        MAX_SCAN readings or the hours of the span, whatever the number of readings.
        """
        start, end = self.span(series, start, end)
        if start >= end:
            return []
        hours = self.hours(series, start, end)
        count = sum(hour[1] for hour in hours)
        width = -(-(end - start) // limit)
        if width >= HOUR or count > max(MAX_SCAN, limit):
            origin = start // HOUR * HOUR
            width = max(1, -(-(end - origin) // (limit * HOUR))) * HOUR
            return thin(((s[0] * HOUR, *s[1:5]) for s in hours), origin, width)
        samples = self.samples(series, start, end, hours)
        if len(samples) > limit:
            return thin(samples, start, width)
        return [(s[0], s[2]) if s[5] else Point(s[0], s[4] / s[1], s[2], s[3]) for s in samples]

    def hours(self, series: int, start: int, end: int) -> list[tuple]:
        """(hour, count, minimum, maximum, total, pruned) of all hours that touch [start, end)."""
        return self.db.execute("""
            SELECT hour, count, minimum, maximum, total, pruned FROM hour
            WHERE series = ? AND hour BETWEEN ? AND ? ORDER BY hour""",
            (series, start // HOUR, (end - 1) // HOUR)).fetchall()

    def samples(self, series: int, start: int, end: int, hours: list[tuple]) -> list[tuple]:
        """(time, count, minimum, maximum, total, is_reading) in order: readings where an hour
        has them all, else its summary."""
        pruned = {hour[0]: hour for hour in hours if hour[5]}
        readings = self.db.execute("""
            SELECT time, 1, value, value, value, 1 FROM reading
            WHERE series = ? AND time >= ? AND time < ? AND typeof(value) <> 'text'
            ORDER BY time, entry""", (series, start, end)).fetchall()
        if not pruned:
            return readings
        whole = [r for r in readings if r[0] // HOUR not in pruned]
        summaries = [(max(h * HOUR, start), *rest[:4], 0) for h, *rest in pruned.values()]
        return list(heapq.merge(summaries, whole, key=lambda sample: sample[0]))

    def rows(self, station: Station, fields: Iterable[int] | None = None,
             start: int = 0, end: int = LATEST_TIME) -> Iterator[Row]:
        """All readings of a station in order of time; pages by key, so it may take for ever."""
        streams = [self.series_rows(station, series, number, start, end)
                   for series, number in self.db.execute(
                       "SELECT id, field FROM series WHERE station = ? ORDER BY field",
                       (station.id,)).fetchall() if fields is None or number in fields]
        return heapq.merge(*streams, key=lambda row: (row.time, row.entry))

    def series_rows(self, station: Station, series: int, number: int,
                    start: int, end: int) -> Iterator[Row]:
        after = (start, -1)
        while page := self.db.execute("""
                SELECT time, entry, value FROM reading WHERE series = ?
                AND (time, entry) > (?, ?) AND time < ? ORDER BY time, entry LIMIT ?""",
                (series, *after, end, PAGE_ROWS)).fetchall():
            for ms, entry, value in page:
                yield Row(ms, station.name, station.mac, number, value, entry)
            after = page[-1][:2]

    def count_before(self, before: int) -> int:
        return self.db.execute("""
            SELECT total(n) FROM (SELECT (SELECT count(*) FROM reading
            WHERE series = s.id AND time < ?) AS n FROM series s)""", (before,)).fetchone()[0]

    def size(self) -> tuple[int, int]:
        """Readings in the file, and bytes it occupies with its log."""
        count, = self.db.execute("SELECT total(count - pruned) FROM hour").fetchone()
        files = (self.path, self.path.with_name(self.path.name + "-wal"))
        return int(count), sum(f.stat().st_size for f in files if f.exists())

    def copy(self, target: Path, progress: Callable[[float], None]) -> None:
        """A compact, consistent copy of the database at target, which must not exist."""
        pages, page_size = (self.db.execute(f"PRAGMA {what}").fetchone()[0]
                            for what in ("page_count", "page_size"))

        def tell():
            with contextlib.suppress(OSError):
                progress(target.stat().st_size / (pages * page_size + 1))
        self.db.set_progress_handler(tell, 1_000_000)
        self.db.execute("VACUUM INTO ?", (str(target),))
        self.db.set_progress_handler(None, 0)

    def check(self, progress: Callable[[float], None]) -> list[str]:
        """What is wrong with the file and its summaries; empty when all is well."""
        ticks = itertools.count(1)
        self.db.set_progress_handler(lambda: progress(1 - 1 / (1 + next(ticks) / 50)), 1_000_000)
        try:
            problems = [text for text, in self.db.execute("PRAGMA integrity_check") if text != "ok"]
            problems += [f"{table}: row without its {parent}" for table, _, parent, _ in
                         self.db.execute("PRAGMA foreign_key_check")]
            for series, in self.db.execute("SELECT id FROM series").fetchall():
                problems += self.check_series(series)
        except sqlite3.DatabaseError as error:
            problems = [str(error)]
        self.db.set_progress_handler(None, 0)
        return problems

    def check_series(self, series: int) -> list[str]:
        """Every summary of a series is compared with the readings that it summarizes."""
        raw = {hour: rest for hour, *rest in self.db.execute("""
            SELECT time / 3600000, count(*), min(value), max(value), total(value) FROM reading
            WHERE series = ? AND typeof(value) <> 'text' GROUP BY 1""", (series,))}
        problems = []
        for hour, count, low, high, total, pruned in self.hours(series, 0, LATEST_TIME):
            n, *figures = raw.pop(hour, (0, None, None, None))
            right = n + pruned == count and (pruned or (
                figures[:2] == [low, high]
                and math.isclose(figures[2], total, rel_tol=1e-9, abs_tol=1e-9 * count)))
            if not right:
                problems.append(f"series {series}, hour from {format_time(hour * HOUR)}: "
                                "the summary is not that of its readings")
        return problems + [f"series {series}, hour from {format_time(hour * HOUR)}: no summary"
                           for hour in raw]


class Writer:
    """The one connection that writes and checkpoints. Raises StoreError, BlockingIOError."""

    def __init__(self, path: Path):
        self.path = path
        refuse_foreign(path)
        self.lock = take_lock(path)
        refuse_foreign(path)            # once more: now nobody else can make it
        self.db = connect(path, "rwc")
        try:
            self._prepare()
        except sqlite3.Error as error:
            raise StoreError(f"{path}: {error}; restore a backup, or name another --db") from None
        self.batch = Batch()
        self.pages = CHECKPOINT_PAGES   # a log that an earlier process left is checkpointed soon
        self.opened = os.stat(path)
        self._load()

    def _prepare(self) -> None:
        self.db.execute("PRAGMA auto_vacuum = INCREMENTAL")  # works only before the first table
        version, = self.db.execute("PRAGMA user_version").fetchone()
        for number, script in enumerate(MIGRATIONS[version:], version + 1):
            self.db.executescript(f"""BEGIN IMMEDIATE; {script};
                PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {number};
                COMMIT;""")
        mode, = self.db.execute("PRAGMA journal_mode = WAL").fetchone()
        if mode != "wal":
            raise StoreError(f"{self.path}: this file system cannot hold a write-ahead log; "
                             "--db has to be on a local disk")
        for pragma in WRITER_PRAGMAS:
            self.db.execute(f"PRAGMA {pragma}")

    def _load(self) -> None:
        """Forget the open batch and take stations and series as the file has them."""
        self.batch = Batch()
        rows = self.db.execute(f"SELECT {STATION_COLUMNS} FROM station ORDER BY id").fetchall()
        self.stations = {row[0]: Station(*row) for row in rows}
        self.by_mac = {station.mac: station for station in self.stations.values()}
        self.series_places = {series: (station, number) for series, station, number in
                              self.db.execute("SELECT id, station, field FROM series").fetchall()}
        self.series = {place: series for series, place in self.series_places.items()}
        self.next_series = max(self.series_places, default=-1) + 1

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
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """One durable change, or none: after an error memory again says what the file says."""
        if self.batch.stations:
            raise RuntimeError("the open batch has to be committed first")
        try:
            self.db.execute("BEGIN IMMEDIATE")
            yield self.db
            self.db.execute("COMMIT")
        except BaseException:
            if self.db.in_transaction:
                self.db.execute("ROLLBACK")
            self._load()
            raise
        self.pages += 6                 # a small commit: a few tables and their inner pages
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

    # -- updates: add as many as the turn brings, then commit -------------------------------------

    def add(self, station: Station, reading: Reading, now: int) -> int:
        """Put a reading into the open batch; its entry number, to be told after commit only."""
        batch, number, seq = self.batch, reading.field, reading.seq
        station.heard = now
        batch.stations[station.id] = station
        if seq is not None:
            receipt = (station.id, number, seq)
            if (entry := self._find_receipt(receipt)) is not None:
                return entry
            batch.receipts[receipt] = (station.last_entry + 1, now)
        station.last_entry += 1
        batch.readings.append((self._series(batch, station.id, number), now - reading.age,
                               station.last_entry, reading.value))
        return station.last_entry

    def promote_key(self, station: Station) -> None:
        """The next key was used: with this batch it becomes the only one."""
        self.batch.promoted.add(station.id)

    def _find_receipt(self, receipt: tuple[int, int, str]) -> int | None:
        found = self.batch.receipts.get(receipt) or self.db.execute(
            "SELECT entry FROM receipt WHERE station = ? AND field = ? AND seq = ?",
            receipt).fetchone()
        return found and found[0]

    def _series(self, batch: Batch, station: int, number: int) -> int:
        """The id of a series; a new one is written with the batch."""
        if (series := self.series.get((station, number))) is None:
            series = self.series[station, number] = self.next_series
            self.series_places[series] = (station, number)
            self.next_series += 1
            batch.series.append((series, station, number))
        return series

    def commit(self) -> Batch:
        """Store the open batch durably and return it. Raises sqlite3.Error: none of it is kept."""
        batch, self.batch = self.batch, Batch()
        if batch.stations:
            with self.transaction():
                self._write(batch)
        return batch

    def _write(self, batch: Batch) -> None:
        self.db.executemany("INSERT INTO series (id, station, field) VALUES (?, ?, ?)",
                            batch.series)
        self.db.executemany("INSERT INTO reading VALUES (?, ?, ?, ?)", batch.readings)
        self.db.executemany("""
            INSERT INTO hour VALUES (?, ?, ?, ?, ?, ?, 0) ON CONFLICT (series, hour) DO UPDATE SET
            count = count + excluded.count, total = total + excluded.total,
            minimum = min(minimum, excluded.minimum), maximum = max(maximum, excluded.maximum)""",
            [(*place, *summary) for place, summary in summarize(batch.readings).items()])
        self.db.executemany("INSERT INTO receipt VALUES (?, ?, ?, ?, ?)", [
            (*receipt, *entry_time) for receipt, entry_time in batch.receipts.items()])
        self.db.executemany("UPDATE station SET heard = ?, last_entry = ? WHERE id = ?", [
            (s.heard, s.last_entry, s.id) for s in batch.stations.values()])
        for station in map(self.stations.__getitem__, batch.promoted):
            self.db.execute("UPDATE station SET key = next_key, next_key = NULL WHERE id = ?",
                            (station.id,))
            station.key, station.next_key = station.next_key, None
        self.pages += len(batch.readings) // 100    # so many readings at least share a page

    # -- commands: each is short, so that a server can carry them out between two updates ---------

    def add_station(self, name: str, mac: str, role: str | None, key: str | None,
                    now: int) -> None:
        """Register a station. key is the SHA-256 in hex, or None. Raises StoreError."""
        if mac in self.by_mac:
            raise StoreError(f"MAC {mac} already belongs to station {self.by_mac[mac].name!r}")
        if any(name == station.name for station in self.stations.values()):
            raise StoreError(f"there is a station {name!r} already; --new-key {name} gives it "
                             "a new key")
        self._refuse_used_key(key)
        with self.transaction() as db:
            db.execute("INSERT INTO station (name, mac, role, key, created) VALUES (?, ?, ?, ?, ?)",
                       (name, mac, role, key and bytes.fromhex(key), now))
        self._load()

    def _refuse_used_key(self, key: str | None) -> None:
        if key and any(bytes.fromhex(key) in (s.key, s.next_key) for s in self.stations.values()):
            raise StoreError("this key belongs to a station already; each has its own")

    def new_key(self, name: str, key: str) -> None:
        """Give a station a second key (SHA-256 in hex); the first one ends when it is used."""
        station = find_station(self.stations.values(), name)
        self._refuse_used_key(key)
        column = "next_key" if station.key else "key"
        with self.transaction() as db:
            db.execute(f"UPDATE station SET {column} = ? WHERE id = ?",
                       (bytes.fromhex(key), station.id))
        self._load()

    def label(self, name: str, number: int, text: str) -> None:
        """Name a field; an empty text takes the name away."""
        station, batch = find_station(self.stations.values(), name), Batch()
        with self.transaction() as db:
            series = self._series(batch, station.id, number)
            self._write(batch)
            db.execute("UPDATE series SET label = ? WHERE id = ?", (text or None, series))

    def remove_step(self, name: str) -> int:
        """Remove a piece of a station; the readings removed, -1 when nothing of it is left.

        Its keys go first, so that no update comes in between. Cut short, it can be called again.
        """
        station = find_station(self.stations.values(), name)
        series = [id for (owner, _), id in self.series.items() if owner == station.id]
        with self.transaction() as db:
            db.execute("UPDATE station SET key = NULL, next_key = NULL WHERE id = ?", (station.id,))
            station.key = station.next_key = None
            for id in series:
                if removed := self._delete_oldest(id, LATEST_TIME):
                    return removed
            db.executemany("DELETE FROM hour WHERE series = ?", [(id,) for id in series])
            for table in ("series", "note", "receipt", "gap"):
                db.execute(f"DELETE FROM {table} WHERE station = ?", (station.id,))
            db.execute("DELETE FROM station WHERE id = ?", (station.id,))
        self._load()
        return -1

    def prune_step(self, before: int) -> int:
        """Delete up to STEP_ROWS raw readings older than before; how many. 0: there are no more."""
        with self.transaction():
            for series in self.series.values():
                if deleted := self._delete_oldest(series, before):
                    return deleted
        return 0

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
        self.pages += STEP_ROWS // 50
        return self.db.execute("DELETE FROM reading WHERE series = ? AND (time, entry) < (?, ?)",
                               place).rowcount

    def shrink_step(self) -> int:
        """Give some free pages back to the file system; the bytes. 0: there are no more."""
        free, = self.db.execute("PRAGMA freelist_count").fetchone()
        if not free:
            self.checkpoint()           # only now does the file really become shorter
            return 0
        with self.transaction() as db:
            # One row a page: unless all are fetched, only the first page is freed.
            db.execute(f"PRAGMA incremental_vacuum({STEP_PAGES})").fetchall()
            left, = db.execute("PRAGMA freelist_count").fetchone()
            size, = db.execute("PRAGMA page_size").fetchone()
        self.pages += STEP_PAGES
        return (free - left) * size

    def forget_receipts(self, now: int) -> None:
        """Drop receipts that no repeated update can ask for any more."""
        with self.transaction() as db:
            db.execute("""
                DELETE FROM receipt WHERE (station, field, seq) IN (
                    SELECT station, field, seq FROM receipt WHERE time < ? LIMIT ?)""",
                (now - RECEIPT_LIFE, STEP_ROWS))

    # -- import -----------------------------------------------------------------------------------

    def import_rows(self, rows: list[list], now: int) -> ImportCount:
        """Store rows from elsewhere, each (time, station, mac, field, value, entry or None).

        Twice does not double: a reading is known by station, time and entry number, or, where that
        number was not free, by station, time and value. A reading of an hour that was pruned is
        left out, since the hour's summary may hold it already.
        """
        batch, stored, known, pruned = Batch(), 0, 0, 0
        place, fields, assigned = None, set(), 0
        is_pruned = functools.lru_cache(maxsize=None)(self._is_pruned)
        with self.transaction():
            for ms, name, mac, number, value, entry in rows:
                station = self.by_mac.get(mac) or self._adopt(name, mac, now)
                series = self._series(batch, station.id, number)
                if is_pruned(series, ms // HOUR):
                    pruned += 1
                    continue
                if place != (here := (station.id, ms, entry)) or number in fields:
                    if entry == station.last_entry + 1:     # the usual case: the next number
                        station.last_entry = assigned = entry
                    else:
                        self._write(batch)                  # what follows looks into the table
                        stored, batch = stored + len(batch.readings), Batch()
                        assigned = self._find_entry(station, series, ms, value, entry)
                    if assigned is None:
                        known, place = known + 1, None
                        continue
                    place, fields = here, set()
                fields.add(number)                          # else one more field of the same entry
                batch.stations[station.id] = station
                batch.readings.append((series, ms, assigned, value))
            self._write(batch)
        return ImportCount(stored + len(batch.readings), known, pruned)

    def _adopt(self, name: str, mac: str, now: int) -> Station:
        """A station for a MAC not yet known; it has no key until --new-key."""
        taken = {station.name for station in self.stations.values()}
        name = mac if not name or name in taken else name
        id, = self.db.execute("INSERT INTO station (name, mac, created) VALUES (?, ?, ?)"
                              " RETURNING id", (name, mac, now)).fetchone()
        station = Station(id, name, mac, None, None, None, now, None, 0)
        self.stations[id] = self.by_mac[mac] = station
        return station

    def _is_pruned(self, series: int, hour: int) -> bool:
        return bool(self.db.execute(
            "SELECT 1 FROM hour WHERE series = ? AND hour = ? AND pruned > 0",
            (series, hour)).fetchone())

    def _find_entry(self, station: Station, series: int, ms: int, value: Any,
                    entry: int | None) -> int | None:
        """The entry number for a reading that does not bring the next one; None if it is known."""
        if entry is not None and self._take_free(station, entry):
            return entry
        same = self.db.execute("SELECT entry, value FROM reading WHERE series = ? AND time = ?",
                               (series, ms)).fetchall()
        if any(entry == known for known, _ in same):
            return None
        if entry is not None and self.db.execute("""
                SELECT 1 FROM reading WHERE time = ? AND entry = ?
                AND series IN (SELECT id FROM series WHERE station = ?)""",
                (ms, entry, station.id)).fetchone():
            return entry                                    # another field of the same entry
        if any(value == known for _, known in same):
            return None
        station.last_entry += 1
        return station.last_entry

    def _take_free(self, station: Station, entry: int) -> bool:
        """Whether an entry number was free; from now on it is taken."""
        if entry > station.last_entry:
            gap, station.last_entry = (station.last_entry + 1, entry), entry
        else:
            gap = self.db.execute("""
                DELETE FROM gap WHERE station = ? AND last >= ? AND first = (
                    SELECT max(first) FROM gap WHERE station = ? AND first <= ?)
                RETURNING first, last""", (station.id, entry, station.id, entry)).fetchone()
        if gap is None:
            return False
        pieces = ((gap[0], entry - 1), (entry + 1, gap[1]))
        self.db.executemany("INSERT INTO gap VALUES (?, ?, ?)", [
            (station.id, first, last) for first, last in pieces if first <= last])
        return True


# ------------------------------------------------------------------------------------------------
# 6. Access.        Law: who may write, and how often. Nothing here says which of the two was wrong.
# ------------------------------------------------------------------------------------------------


def hash_key(key: str) -> bytes:
    """SHA-256 is enough here: a made-up key has 128 random bits, which no one can try out."""
    return hashlib.sha256(key.encode("utf-8", "replace")).digest()


NO_KEY = hash_key(secrets.token_hex())      # compared with when there is none: takes as long


def matches(digest: bytes, stored: bytes | None) -> bool:
    """Compare in constant time."""
    return hmac.compare_digest(digest, stored or NO_KEY) and stored is not None


class Access:
    """Decides on updates. Its memory is bounded by the number of stations."""

    def __init__(self, writer: Writer, per_minute: int, monotonic: Callable[[], float]):
        self.writer, self.per_minute, self.monotonic = writer, per_minute, monotonic
        self.buckets: dict[int, tuple[float, float]] = {}   # station: tokens, when counted

    def admit(self, update: Update) -> Station:
        """The station an update is from. Raises Refused: 403, or 429 when it comes too often."""
        station = self.writer.by_mac.get(update.mac)
        digest = hash_key(update.key)
        is_current = matches(digest, station and station.key)
        is_next = matches(digest, station and station.next_key)
        if not (is_current or is_next):
            raise Refused(403, "wrong API key or unknown MAC")
        if self.per_minute:
            self._take_token(station.id)
        if is_next:
            self.writer.promote_key(station)
        return station

    def _take_token(self, station: int) -> None:
        now = self.monotonic()
        tokens, counted = self.buckets.get(station, (self.per_minute, now))
        tokens, wait = take_token(tokens, now - counted, self.per_minute)
        self.buckets[station] = (tokens, now)
        if wait:
            raise Refused(429, f"too many updates: at most {self.per_minute} a minute; "
                               f"try again in {math.ceil(wait)} s", Retry_After=str(math.ceil(wait)))

# ------------------------------------------------------------------------------------------------
# 7. Pages.        Law: string.Template in, text out; whatever is not markup goes through escape().
# ------------------------------------------------------------------------------------------------

escape = html.escape

STYLE = """
:root{color-scheme:light dark;font:16px/1.5 system-ui,sans-serif}
body{margin:0 auto;max-width:44rem;padding:1rem}
table{border-collapse:collapse;width:100%}th,td{text-align:left;padding:.3rem .6rem .3rem 0}
b{font-size:1.6rem}code{overflow-wrap:anywhere}
"""

PAGE = string.Template("""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>$title</title>
<meta name="viewport" content="width=device-width,initial-scale=1"><style>$style</style></head>
<body><main><h1>$title</h1>
$body</main></body></html>
""")

STATION_ROW = string.Template(
    "<tr><th scope=row>$name</th><td><b>$value</b></td><td>$heard</td></tr>")

NO_STATION = string.Template("""<p>No station yet. This adds one, and prints its key:</p>
<p><code>python3 iotserver.py --db $db --add-station inside --role inside --mac MAC</code></p>""")


def render_page(title: str, body: str) -> bytes:
    """A whole page. title is text, body is markup."""
    return PAGE.substitute(title=escape(title), style=STYLE, body=body).encode()


def render_overview(stations: list[Station], latest: list[Latest], now: int, db: str) -> bytes:
    """The page: each station with its last temperature and when it was heard."""
    if not stations:
        return render_page("iotserver", NO_STATION.substitute(db=escape(db)))
    values = {series.station: series.value for series in reversed(latest)}
    rows = "".join(STATION_ROW.substitute(
        name=escape(station.name),
        value=escape(str(values.get(station.id) if values.get(station.id) is not None else "–")),
        heard=f"{format_ago(now - station.heard)} ago" if station.heard else "never heard",
    ) for station in stations)
    return render_page("iotserver", f"<table>{rows}</table>")


# ------------------------------------------------------------------------------------------------
# 8. Routes.        Law: one small function for each, (request, server) to Answer. None writes to a
#    socket, and only updates change the store.
# ------------------------------------------------------------------------------------------------

TEXT, JSON, HTML, CSV, EVENTS = (
    "text/plain; charset=utf-8", "application/json", "text/html; charset=utf-8",
    "text/csv; charset=utf-8", "text/event-stream")


class Answer(NamedTuple):
    """What a request is answered. An update's answer waits for the commit, and fails with it."""
    body: bytes
    kind: str = TEXT
    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    is_update: bool = False
    stream: Iterator[bytes] | None = None       # the rest of the body, made as it is sent
    listens: bool = False                       # from now on the connection gets events


def as_json(document: Any) -> bytes:
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()


def single(query: dict[str, list[str]], known: Iterable[str]) -> dict[str, str]:
    """A parsed query with each name at most once, and none that is not known. Raises Refused."""
    for name, values in query.items():
        if name not in known:
            raise Refused(400, f"{name[:20]!a}: unknown; known are {', '.join(known)}")
        if len(values) > 1:
            raise Refused(400, f"{name}: given twice")
    return {name: values[0] for name, values in query.items()}


def get_page(request, server) -> Answer:
    return Answer(render_overview(server.reader.stations(), server.reader.latest(), server.now(),
                                  str(server.writer.path)), HTML)


def get_update(request, server) -> Answer:
    update = parse_update_path(request.path, request.headers.get("x-api-key"))
    entry = server.writer.add(server.access.admit(update), update.readings[0], server.now())
    if parse_media(request.headers.get("accept", "")) == "html":
        body = render_page("Stored", f'<p>This reading is entry {entry}. <a href="/">Overview</a>')
        return Answer(body, HTML, is_update=True)
    return Answer(b"%d" % entry, is_update=True)


def post_update(request, server) -> Answer:
    update = parse_update_json(request.body, request.headers.get("x-api-key"))
    station, now = server.access.admit(update), server.now()
    before = station.last_entry
    entries = [server.writer.add(station, reading, now) for reading in update.readings]
    return Answer(as_json({"stored": station.last_entry - before, "entries": entries}), JSON,
                  is_update=True)


def get_events(request, server) -> Answer:
    return Answer(b": connected\n\n", EVENTS, listens=True, headers=(
        ("Cache-Control", "no-store"), ("X-Accel-Buffering", "no")))


def get_stations(request, server) -> Answer:
    latest = collections.defaultdict(list)
    for series in server.reader.latest():
        latest[series.station].append({"field": series.field, "label": series.label,
                                       "value": series.value, "time": series.time})
    return Answer(as_json([
        {"id": station.id, "name": station.name, "role": station.role, "heard": station.heard,
         "fields": latest[station.id]} for station in server.reader.stations()]), JSON)


def wanted_station(server, name: str) -> Station:
    """A station by id or name. Raises Refused 404."""
    for station in server.reader.stations():
        if name in (str(station.id), station.name):
            return station
    raise Refused(404, "station: there is none of this id or name")


def parse_range(query: dict[str, str]) -> tuple[int | None, int | None]:
    return tuple(parse_instant(name, query[name]) if name in query else None
                 for name in ("start", "end"))


def get_readings(request, server) -> Answer:
    query = single(request.query(), ("station", "field", "start", "end", "points"))
    if "station" not in query:
        raise Refused(400, "station: missing; an id or a name")
    number, limit = query.get("field", "1"), query.get("points", str(DEFAULT_POINTS))
    if number not in "123456789" or len(number) != 1:
        raise Refused(400, "field: a number from 1 to 9")
    if not (limit.isascii() and limit.isdigit() and 1 <= int(limit[:9]) <= MAX_POINTS):
        raise Refused(400, f"points: a number from 1 to {MAX_POINTS}")
    start, end = parse_range(query)
    station = wanted_station(server, query["station"])
    series = server.reader.find_series(station.id, int(number))
    points = [] if series is None else server.reader.points(series, start, end, int(limit))
    return Answer(as_json({"station": station.id, "field": int(number), "points": points}), JSON)


def get_export(request, server) -> Answer:
    query = single(request.query(), ("station", "field", "start", "end"))
    start, end = parse_range(query)
    stations = ([wanted_station(server, query["station"])] if "station" in query
                else server.reader.stations())
    fields = {int(query["field"])} if query.get("field", "") in tuple("123456789") else None
    if "field" in query and not fields:
        raise Refused(400, "field: a number from 1 to 9")
    rows = itertools.chain.from_iterable(
        server.reader.rows(station, fields, start or 0, end or LATEST_TIME) for station in stations)
    return Answer(b"", CSV, stream=csv_chunks(rows), headers=(
        ("Content-Disposition", 'attachment; filename="readings.csv"'),))


def csv_chunks(rows: Iterator[Row]) -> Iterator[bytes]:
    """Rows to CSV without the MACs, some hundred lines at a time."""
    yield b"time,station,field,value,entry\n"
    while chunk := list(itertools.islice(rows, 500)):
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(
            (format_time(r.time), r.station, r.field, r.value, r.entry) for r in chunk)
        yield text.getvalue().encode()


def get_healthz(request, server) -> Answer:
    try:
        server.reader.look()
    except (sqlite3.Error, StoreError) as error:
        raise Refused(503, f"the database cannot be read: {error}", Retry_After="10") from None
    if server.failure:
        raise server.failure
    return Answer(b"ok")


ROUTES = {
    "/": {"GET": get_page},
    "/update": {"POST": post_update},
    "/update/": {"GET": get_update},            # and everything below it
    "/events": {"GET": get_events},
    "/api/stations": {"GET": get_stations},
    "/api/readings": {"GET": get_readings},
    "/export.csv": {"GET": get_export},
    "/healthz": {"GET": get_healthz},
}


def find_route(method: str, path: str) -> Callable[..., Answer]:
    """The function that answers a method on a path without query. Raises Refused 404, 405."""
    methods = ROUTES.get("/update/" if path.startswith("/update/") else path)
    if methods is None:
        raise Refused(404, "there is nothing here; / is the page")
    if method == "HEAD" and "/update" not in path:
        method = "GET"
    if method not in methods:
        raise Refused(405, f"use {' or '.join(methods)} here", Allow=", ".join(methods))
    return methods[method]


# ------------------------------------------------------------------------------------------------
# 9. HTTP.        Law: bytes are understood in one way or refused; what is refused is not executed,
#    and no byte of an answer leaves before the turn's commit.
# ------------------------------------------------------------------------------------------------

TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"                        # RFC 9110, 5.6.2
REQUEST_LINE = re.compile(rb"(%s) ([!-~]+) (HTTP/[0-9]\.[0-9])" % TOKEN)
HEADER_LINE = re.compile(rb"(%s):[ \t]*([\t -~\x80-\xff]*?)[ \t]*" % TOKEN)
HOST = re.compile(r"[0-9A-Za-z.\-_~%!$&'()*+,;=:\[\]]*")
ONCE = frozenset({"host", "content-length", "content-type", "x-api-key", "expect", "x-real-ip"})


class Handler(http.server.BaseHTTPRequestHandler):
    """The bytes of one request to the bytes of one answer; no socket is needed.

    What the stock handler forgives, this one refuses: it would drop headers after a malformed one,
    read an unread body as the next request, and take megabytes of headers. One Handler serves one
    connection: parse_request(head), and, when the body is there, respond(body).
    """
    protocol_version = "HTTP/1.1"
    server_version = "iotserver"

    def setup(self) -> None:
        self.requestline = self.command = self.path = ""
        self.request_version = "HTTP/1.1"
        self.headers: dict[str, str] = {}
        self.body = b""
        self.close_connection = False

    def handle(self) -> None:
        """Nothing yet: requests come through parse_request."""

    finish = handle

    def version_string(self) -> str:
        return self.server_version

    def date_time_string(self, timestamp: float | None = None) -> str:
        return http_date(int(timestamp or time.time()))

    def log_request(self, code="-", size="-") -> None:
        """A request is no news; the path may hold a key."""

    # -- reading a request ------------------------------------------------------------------------

    def parse_request(self, head: bytes) -> int:
        """Take in request line and headers, with their empty line; the length of the body.

        Raises Refused, after which the connection cannot be used for another request.
        """
        self.setup()
        self.close_connection = True                        # until all is understood
        first, *lines = head[:-4].split(b"\r\n")
        self._parse_request_line(first)
        if len(lines) > MAX_HEADERS:
            raise Refused(431, f"more than {MAX_HEADERS} headers")
        for line in lines:
            self._parse_header(line)
        if self.request_version == "HTTP/1.1" and "host" not in self.headers:
            raise Refused(400, "Host: missing")
        if not HOST.fullmatch(self.headers.get("host", "")):
            raise Refused(400, "Host: malformed")
        length = self._body_length()
        options = self.headers.get("connection", "").lower().replace(" ", "").split(",")
        keeps = self.request_version == "HTTP/1.1" or "keep-alive" in options
        self.close_connection = "close" in options or not keeps
        return length

    def _parse_request_line(self, line: bytes) -> None:
        if len(line) > MAX_LINE:
            raise Refused(414, f"the request line is longer than {MAX_LINE} bytes")
        match = REQUEST_LINE.fullmatch(line)
        if not match:
            raise Refused(400, "request line: METHOD /path HTTP/1.1 is needed, in plain ASCII")
        self.command, target, self.request_version = (part.decode() for part in match.groups())
        if self.request_version not in {"HTTP/1.0", "HTTP/1.1"}:
            self.request_version = "HTTP/1.1"
            raise Refused(505, "HTTP/1.0 and HTTP/1.1 are spoken here")
        if not target.startswith("/"):
            target = self._parse_absolute(target)
        self.path, _, self.query_string = target.partition("?")

    def _parse_absolute(self, target: str) -> str:
        """http://host/path, as to a proxy: RFC 9112, 3.2.2 wants it understood."""
        match = re.fullmatch(r"https?://[^/?#]+(/.*)?", target)
        if not match:
            raise Refused(400, "request line: the path has to begin with /")
        return match[1] or "/"

    def _parse_header(self, line: bytes) -> None:
        match = HEADER_LINE.fullmatch(line)
        if not match:
            raise Refused(400, "header: each is one line, Name: value")
        name, value = match[1].decode().lower(), match[2].decode("latin-1")
        if name in self.headers:
            if name in ONCE:
                raise Refused(400, f"{name}: given twice")
            value = f"{self.headers[name]}, {value}"
        self.headers[name] = value

    def _body_length(self) -> int:
        if "transfer-encoding" in self.headers:
            raise Refused(501, "Transfer-Encoding: not supported; send Content-Length")
        length = self.headers.get("content-length", "0")
        if not (length.isascii() and length.isdigit()):
            raise Refused(400, "Content-Length: not a number")
        if len(length) > 9 or int(length) > MAX_BODY:
            raise Refused(413, f"the body is longer than {MAX_BODY} bytes")
        if int(length) and self.command in {"GET", "HEAD"}:
            raise Refused(400, f"Content-Length: a {self.command} has no body")
        if self.headers.get("expect", "100-continue").lower() != "100-continue":
            raise Refused(417, "Expect: only 100-continue is known")
        return int(length)

    @property
    def expects_continue(self) -> bool:
        return "expect" in self.headers and self.request_version == "HTTP/1.1"

    def query(self) -> dict[str, list[str]]:
        return urllib.parse.parse_qs(self.query_string, keep_blank_values=True)

    # -- answering it -----------------------------------------------------------------------------

    def respond(self, body: bytes) -> Answer:
        """Execute the request. Never raises, but for Fatal."""
        self.body = body
        try:
            return find_route(self.command, self.path)(self, self.server)
        except Refused as refused:
            return self.refuse(refused)
        except sqlite3.Error as error:
            return self.refuse(self.server.storage_failure(error))
        except Exception:
            log(f"a request failed: {traceback.format_exc()}")
            return self.refuse(Refused(500, "something went wrong here; it was logged"))

    def refuse(self, refused: Refused) -> Answer:
        """A refusal in the form that the client asked for."""
        media = parse_media(self.headers.get("accept", ""))
        if media == "text" and (self.path.startswith("/api/") or self.command == "POST"):
            media = "json"
        phrase = HTTPStatus(refused.status).phrase
        body, kind = {
            "text": lambda: (f"{refused.message}\n".encode(), TEXT),
            "json": lambda: (as_json({"status": refused.status, "error": refused.message}), JSON),
            "html": lambda: (render_page(phrase, f"<p>{escape(refused.message)}</p>"), HTML),
        }[media]()
        return Answer(body, kind, refused.status, refused.headers)

    def render(self, answer: Answer) -> bytes:
        """Head and body of an answer, to be sent in one write."""
        self.wfile = io.BytesIO()
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.kind)
        if answer.listens:
            self.close_connection = True
        elif answer.stream is None:
            self.send_header("Content-Length", str(len(answer.body)))
        elif self.request_version == "HTTP/1.1":
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.close_connection = True
        for name, value in answer.headers:
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        elif self.request_version == "HTTP/1.0":
            self.send_header("Connection", "keep-alive")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)
        return self.wfile.getvalue()


@functools.lru_cache(maxsize=2)
def http_date(second: int) -> str:
    return time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(second))


class Connection(asyncio.Protocol):
    """One client: cuts its bytes into requests, keeps their answers in order, minds the time."""

    def __init__(self, server: "Server"):
        self.server = server
        self.buffer = b""
        self.body_length: int | None = None     # of the request whose head has been read
        self.answers: list[tuple[bytes, Answer]] = []
        self.stream: Iterator[bytes] | None = None
        self.is_closing = self.is_full = self.was_answered = False
        self.deadline = math.inf

    def connection_made(self, transport: asyncio.Transport) -> None:
        self.transport = transport
        self.handler = Handler(None, transport.get_extra_info("peername"), self.server)
        self.set_deadline(IDLE_SECONDS)
        if not self.server.welcome(self):
            self.queue_refusal(Refused(503, "too many connections; try again", Retry_After="5"))

    def connection_lost(self, error: Exception | None) -> None:
        self.is_closing = True
        self.server.forget(self)

    def eof_received(self) -> bool:
        """A client that only closed its side still gets the answers that it is owed."""
        if not (self.answers or self.stream):
            return False
        self.handler.close_connection = self.is_closing = True
        return True

    # -- in ---------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        if not self.is_closing:
            self.buffer = self.buffer + data if self.buffer else data
            self.take_requests()

    def take_requests(self) -> None:
        """Execute all requests that are complete in the buffer."""
        while self.buffer and not (self.is_closing or self.stream):
            try:
                if self.body_length is None and not self.take_head():
                    return
                if len(self.buffer) < self.body_length:
                    return
            except Refused as refused:
                self.queue_refusal(refused)
                return
            body, self.buffer = self.buffer[:self.body_length], self.buffer[self.body_length:]
            self.body_length = None
            self.queue(self.handler.respond(body))

    def take_head(self) -> bool:
        """Read request line and headers off the buffer, once they are complete."""
        if self.buffer.startswith(b"\r\n"):     # RFC 9112, 2.2: an empty line before is no harm
            self.buffer = self.buffer[2:]
        end = self.buffer.find(b"\r\n\r\n")
        if end < 0 or end > MAX_HEAD:
            self.check_head_length()
            self.set_deadline(HEAD_SECONDS)
            return False
        head, self.buffer = self.buffer[:end + 4], self.buffer[end + 4:]
        self.body_length = self.handler.parse_request(head)
        if len(self.buffer) < self.body_length:
            self.set_deadline(BODY_SECONDS)
            if self.handler.expects_continue and not self.answers:
                self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        return True

    def check_head_length(self) -> None:
        line, newline, _ = self.buffer[:MAX_HEAD + 1].partition(b"\r\n")
        if not newline and len(line) > MAX_LINE:
            raise Refused(414, f"the request line is longer than {MAX_LINE} bytes")
        if len(self.buffer) > MAX_HEAD:
            raise Refused(431, f"the headers are longer than {MAX_HEAD} bytes")

    # -- out --------------------------------------------------------------------------------------

    def queue_refusal(self, refused: Refused) -> None:
        self.handler.close_connection = True
        self.queue(self.handler.refuse(refused))

    def queue(self, answer: Answer) -> None:
        """Put an answer behind those before it; it is sent when the turn ends."""
        if self.server.is_stopping:
            self.handler.close_connection = True
        self.answers.append((self.handler.render(answer), answer))
        self.is_closing = self.handler.close_connection
        if self.handler.command != "HEAD":
            self.stream = answer.stream
        if len(self.answers) == 1:
            self.server.answer_later(self)

    def flush(self, failure: Refused | None) -> None:
        """Send what is queued, in one write; failure is told instead of updates' answers."""
        data = b"".join([self.render_failure(failure) if failure and answer.is_update else data
                         for data, answer in self.answers])
        last = self.answers[-1][1]
        self.answers.clear()
        self.transport.write(data)
        self.was_answered = True
        if last.listens:
            self.server.listeners.add(self)
            self.deadline = math.inf
        elif self.stream:
            self.pump()
        else:
            self.rest(last.status)

    def render_failure(self, failure: Refused) -> bytes:
        self.handler.command = "GET"            # a HEAD may have come behind the update
        return self.handler.render(self.handler.refuse(failure))

    def rest(self, status: int = 200) -> None:
        """Nothing more to send: close, or wait for the next request."""
        if not self.is_closing:
            self.set_deadline(IDLE_SECONDS)
        elif status < 400:
            self.transport.close()
        else:
            # Closing with unread bytes would reset the connection, and the client might never see
            # the answer: so only our side is closed, and the rest is read into the void.
            self.set_deadline(LINGER_SECONDS)
            if self.transport.can_write_eof():
                self.transport.write_eof()

    def pump(self) -> None:
        """Send the next piece of a stream, one a turn, as fast as the client takes them."""
        if self.is_full or self.transport.is_closing():
            return
        is_chunked = self.handler.request_version == "HTTP/1.1"
        try:
            piece = next(self.stream, b"")
        except sqlite3.Error as error:
            log(f"an export was cut off: {error}")
            self.transport.abort()              # without its end the client knows
            return
        self.set_deadline(BODY_SECONDS)
        self.transport.write(b"%x\r\n%b\r\n" % (len(piece), piece) if is_chunked else piece)
        if piece:
            self.server.loop.call_soon(self.pump)
        else:
            self.stream = None
            self.rest()
            self.take_requests()

    def pause_writing(self) -> None:
        self.is_full = True
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        self.is_full = False
        self.transport.resume_reading()
        if self.stream:
            self.pump()

    # -- time -------------------------------------------------------------------------------------

    def set_deadline(self, seconds: float) -> None:
        self.deadline = self.server.monotonic() + seconds

    def may_close(self, waited: float) -> bool:
        """Whether a server that has been stopping for so long owes this connection no more."""
        if self.stream or self.answers or self.buffer or self.transport.is_closing():
            return False
        return self in self.server.listeners or (self.was_answered and waited > IDLE_STOP_SECONDS)

    def expire(self) -> None:
        """The deadline has passed."""
        if self.buffer and not (self.is_closing or self.stream or self.answers):
            self.queue_refusal(Refused(408, "the request took too long"))
        else:
            self.transport.abort() if self.is_full else self.transport.close()


class Control(asyncio.Protocol):
    """The control socket: one JSON line in, [method, arguments], one JSON line out.

    Each method is short, so that updates are served in between; a long work is many calls.
    """

    def __init__(self, server: "Server"):
        self.server, self.buffer = server, b""

    def connection_made(self, transport: asyncio.Transport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        *lines, self.buffer = (self.buffer + data).split(b"\n")
        for line in lines:
            self.transport.write(self.execute(line) + b"\n")
        if len(self.buffer) > CONTROL_LINE:
            self.transport.abort()

    def execute(self, line: bytes) -> bytes:
        method, arguments = json.loads(line)
        if method not in WRITER_METHODS:
            return as_json({"error": f"{method}: this server does not know it; is it older?"})
        self.server.end_turn()
        try:
            return as_json({"result": getattr(self.server.writer, method)(*arguments)})
        except StoreError as error:
            return as_json({"error": str(error)})
        except sqlite3.Error as error:
            return as_json({"error": self.server.storage_failure(error).message})


WRITER_METHODS = frozenset({"add_station", "new_key", "label", "remove_step", "prune_step",
                            "shrink_step", "import_rows"})


class Server:
    """What one process serves: the store, who may write to it, and all connections."""

    def __init__(self, settings: argparse.Namespace, writer: Writer, reader: Reader,
                 clock: Callable[[], float] = time.time,
                 monotonic: Callable[[], float] = time.monotonic):
        self.settings, self.writer, self.reader = settings, writer, reader
        self.clock, self.monotonic = clock, monotonic
        self.access = Access(writer, settings.rate_limit, monotonic)
        self.connections: set[Connection] = set()
        self.listeners: set[Connection] = set()
        self.turn: list[Connection] = []
        self.failure: Refused | None = None     # of the last commit
        self.is_stopping = False
        self.capacity = MAX_CONNECTIONS
        self.jobs = JOBS

    def now(self) -> int:
        return int(self.clock() * 1000)

    def welcome(self, connection: Connection) -> bool:
        """Whether there is room for one more connection."""
        self.connections.add(connection)
        return len(self.connections) <= self.capacity

    def forget(self, connection: Connection) -> None:
        self.connections.discard(connection)
        self.listeners.discard(connection)

    def answer_later(self, connection: Connection) -> None:
        """Flush this connection when the turn ends, together with all others of this turn."""
        if not self.turn:
            self.loop.call_soon(self.end_turn)
        self.turn.append(connection)

    def end_turn(self) -> None:
        """Commit what this turn brought; then, and only then, answer it."""
        turn, self.turn = self.turn, []
        failure, batch = None, self.writer.batch
        if batch.stations:
            try:
                self.writer.commit()
                self.failure = None
            except sqlite3.Error as error:
                failure = self.failure = self.storage_failure(error)
        for connection in turn:
            connection.flush(failure)
        if batch.readings and self.listeners and not failure:
            self.publish(b"".join(map(self.event, batch.readings)))

    def event(self, row: tuple[int, int, int, Any]) -> bytes:
        series, ms, entry, value = row
        station, number = self.writer.series_places[series]
        return b"event: reading\ndata: %b\n\n" % as_json(
            {"station": station, "field": number, "time": ms, "value": value, "entry": entry})

    def publish(self, data: bytes) -> None:
        """Send to all listeners; one that is far behind is dropped rather than queued for ever."""
        for connection in tuple(self.listeners):
            if connection.transport.get_write_buffer_size() > MAX_UNSENT:
                connection.transport.abort()
            else:
                connection.transport.write(data)

    def storage_failure(self, error: sqlite3.Error) -> Refused:
        """What to tell the clients of a failed commit; ends the process when nothing is sure."""
        if is_fatal(error):
            log(f"{self.writer.path}: {error}; ending, since nothing more can be promised. "
                "Check the disk, then --check the database or restore a backup")
            os._exit(os.EX_IOERR if hasattr(os, "EX_IOERR") else 74)
        is_full = getattr(error, "sqlite_errorname", str(error)) in {
            "SQLITE_FULL", "SQLITE_IOERR_WRITE", "database or disk is full"}
        if not self.failure:
            log(f"{self.writer.path}: {error}; updates are refused until that is over")
        return Refused(507 if is_full else 503,
                       "not stored: " + ("the disk is full" if is_full else str(error)),
                       Retry_After="60")


# ------------------------------------------------------------------------------------------------
# 10. Jobs.        Law: what happens on a clock; each is short, and none is needed for an answer.
# ------------------------------------------------------------------------------------------------


def log(message: str) -> None:
    """One line on stderr; whatever a client sent cannot forge a second one."""
    text = message.strip().encode("unicode_escape").decode()
    print(f"iotserver: {text[:2000]}", file=sys.stderr, flush=True)


def close_expired(server: Server) -> None:
    now = server.monotonic()
    for connection in [c for c in server.connections if c.deadline < now]:
        connection.expire()


def keep_listeners(server: Server) -> None:
    server.publish(b":\n\n")


def forget_receipts(server: Server) -> None:
    server.end_turn()
    server.writer.forget_receipts(server.now())


def watch_file(server: Server) -> None:
    """Readings stored in a file that was removed or replaced would be lost: then stop at once."""
    if not server.writer.is_in_place():
        log(f"{server.writer.path} was removed or replaced while it was open; ending")
        os._exit(1)


def notify(state: str) -> None:
    """Tell systemd; nothing happens without it. Protocol: sd_notify(3)."""
    if address := os.environ.get("NOTIFY_SOCKET"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
            channel.connect("\0" + address[1:] if address[0] == "@" else address)
            channel.send(state.encode())


def feed_watchdog(server: Server) -> None:
    """The one thread that stores is the one that says it is alive, after a look at the file."""
    server.reader.look()
    notify("WATCHDOG=1")


def watchdog_seconds() -> float:
    """Half the time after which systemd would restart us; for ever when it does not watch."""
    return int(os.environ.get("WATCHDOG_USEC", "0")) / 2e6 or math.inf


JOBS = ((1, close_expired), (15, keep_listeners), (10, watch_file), (60, forget_receipts),
        (watchdog_seconds(), feed_watchdog))


async def run_jobs(server: Server) -> None:
    """Do each job when it is due, for ever."""
    due = [server.monotonic() + period for period, _ in server.jobs]
    while True:
        await asyncio.sleep(1)
        now = server.monotonic()
        for i, (period, job) in enumerate(server.jobs):
            if now >= due[i]:
                due[i] = now + period
                try:
                    job(server)
                except sqlite3.Error as error:
                    server.storage_failure(error)


# ------------------------------------------------------------------------------------------------
# 11. Commands and main.        Law: data on stdout, everything else on stderr; 0 done, 1 could not,
#     2 wrong usage. A command that writes asks the running server, if there is one.
# ------------------------------------------------------------------------------------------------


class Progress:
    """A bar on stderr while it is a terminal; silence otherwise."""

    def __init__(self, label: str, stream=None):
        self.label, self.stream = label, stream or sys.stderr
        self.is_shown = self.stream.isatty()
        self.drawn = 0.0

    def __call__(self, fraction: float) -> None:
        now = time.monotonic()
        if self.is_shown and now - self.drawn > 0.1:
            self.drawn, filled = now, round(30 * min(max(fraction, 0), 1))
            self.stream.write(f"\r{self.label} [{'#' * filled:<30}] {min(fraction, 1):4.0%}")
            self.stream.flush()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *error) -> None:
        if self.drawn:
            self.stream.write("\r\x1b[K")
            self.stream.flush()


@contextlib.contextmanager
def inside(folder: Path) -> Iterator[None]:
    """In another current directory: a socket's path may have 100 bytes only, a database's more."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


class Remote:
    """The Writer of a running server, through its control socket: the same methods."""

    def __init__(self, path: Path):
        self.channel = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with inside(path.parent):
            self.channel.connect(path.name + ".sock")
        self.lines = self.channel.makefile("rb")

    def __getattr__(self, method: str) -> Callable[..., Any]:
        return functools.partial(self._call, method)

    def _call(self, method: str, *arguments: Any) -> Any:
        try:
            self.channel.sendall(as_json([method, arguments]) + b"\n")
            answer = json.loads(self.lines.readline() or b"{}")
        except OSError:
            answer = {}
        if "error" in answer or not answer:
            raise StoreError(answer.get("error", "the server ended meanwhile; what was done until "
                                                 "then stays done; call again"))
        return answer["result"]

    def close(self) -> None:
        self.lines.close()
        self.channel.close()


def open_writer(path: Path) -> "Writer | Remote":
    """The right to write: our own, or, while a server has it, the server's. Raises StoreError."""
    for attempt in range(20):                   # a server may just be starting or ending
        try:
            return Writer(path)
        except BlockingIOError:
            if hasattr(socket, "AF_UNIX"):
                with contextlib.suppress(OSError):
                    return Remote(path)
        time.sleep(0.1)
    raise StoreError(f"{path} is in use, and its user does not answer; try again, or stop it first")


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def require(condition: Any, message: str) -> None:
    """Wrong usage ends with exit status 2."""
    if not condition:
        raise argparse.ArgumentTypeError(message)


def add_station(args: argparse.Namespace, path: Path) -> None:
    name, = args.add_station
    require(args.mac, "--add-station needs --mac MAC; the station prints its own at start")
    require(MAC.fullmatch(args.mac), "--mac: 1 to 32 characters from 0-9 A-Z a-z : . _ -")
    require(0 < len(name) <= MAX_NAME and name.isprintable() and not name.isdigit(),
            f"a name has 1 to {MAX_NAME} characters and is no number, since numbers are ids")
    key = args.key or secrets.token_urlsafe(16)
    require(KEY.fullmatch(key), "--key: 1 to 64 characters from 0-9 A-Z a-z . _ ~ -")
    with contextlib.closing(open_writer(path)) as writer:
        writer.add_station(name, args.mac.lower(), args.role, hash_key(key).hex(), now_ms())
    print(f"station {name} is registered; its API key, shown only now: {key}\n")
    print_config(key, args)


def print_config(key: str, args: argparse.Namespace) -> None:
    print(f"""# config.py of the station
API_KEY = "{key}"
SSID = "the name of your WiFi"
WIFI_PASSWORD = "its password"
MAC_ADDRESS = "{args.mac}"
SERVER = "http://the-address-of-this-server:{args.port}"

# try it from here
curl http://127.0.0.1:{args.port}/update/API_key={key}/mac={args.mac}/field=1/data=22.0""")


def list_stations(args: argparse.Namespace, path: Path) -> None:
    with contextlib.closing(Reader(path)) as reader:
        entries = reader.entries()
        table = [("id", "name", "role", "MAC", "last heard", "entries")] + [
            (str(s.id), s.name, s.role or "-", s.mac,
             format_time(s.heard) if s.heard else "never", f"{entries[s.id]:.0f}")
            for s in reader.stations()]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        print("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip())


def new_key(args: argparse.Namespace, path: Path) -> None:
    name, = args.new_key
    key = args.key or secrets.token_urlsafe(16)
    require(KEY.fullmatch(key), "--key: 1 to 64 characters from 0-9 A-Z a-z . _ ~ -")
    with contextlib.closing(open_writer(path)) as writer:
        writer.new_key(name, hash_key(key).hex())
    print(f"the new API key of {name}, shown only now: {key}\n"
          "the one before works until this one is first used")


def remove_station(args: argparse.Namespace, path: Path) -> None:
    name, = args.remove_station
    total = 0
    with contextlib.closing(open_writer(path)) as writer:
        while (removed := writer.remove_step(name)) >= 0:
            total += removed
        freed = shrink(writer)
    print(f"removed {name} with {total} readings; {format_bytes(freed)} freed")


def shrink(writer: "Writer | Remote") -> int:
    """Give all free pages back to the file system; the bytes."""
    return sum(iter(writer.shrink_step, 0))


def prune(args: argparse.Namespace, path: Path) -> None:
    try:
        before = now_ms() - parse_duration(args.prune[0])
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    with contextlib.closing(Reader(path)) as reader:
        expected = int(reader.count_before(before))
    if args.dry_run:
        print(f"{expected} readings are older than {args.prune[0]}; nothing was deleted")
        return
    total = 0
    with contextlib.closing(open_writer(path)) as writer, Progress("pruning") as progress:
        while deleted := writer.prune_step(before):
            total += deleted
            progress(total / expected)
        freed = shrink(writer)
    print(f"deleted {total} readings older than {args.prune[0]}; {freed} bytes freed")


def sync(path: Path) -> None:
    """Make a file or, where the system can, a directory durable."""
    with contextlib.suppress(PermissionError):  # Windows opens no directory
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextlib.contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """A file to write that takes target's place when all went well, and vanishes otherwise."""
    partial = target.with_name(target.name + ".partial")
    partial.unlink(missing_ok=True)
    try:
        yield partial
        sync(partial)
        partial.replace(target)
        sync(target.parent)
    finally:
        partial.unlink(missing_ok=True)


def backup(args: argparse.Namespace, path: Path) -> None:
    target = Path(args.backup[0]).absolute()
    if target.exists() and path.exists() and target.samefile(path):
        raise StoreError(f"{target} is the database itself")
    with contextlib.closing(Reader(path)) as reader, replacing(target) as partial:
        with Progress("copying") as progress:
            reader.copy(partial, progress)
        with contextlib.closing(Reader(partial)) as copy, Progress("checking") as progress:
            problems, (count, size) = copy.check(progress), copy.size()
        if problems:
            raise StoreError("the copy is damaged, and so was not kept: " + problems[0])
    print(f"{target}: {count} readings, {format_bytes(size)}, checked")


def check(args: argparse.Namespace, path: Path) -> None:
    with contextlib.closing(Reader(path)) as reader, Progress("checking") as progress:
        problems = reader.check(progress)
    if problems:
        raise StoreError("\n".join(problems[:100]) + f"\n{path} is damaged; restore a backup")
    print("ok")


def label(args: argparse.Namespace, path: Path) -> None:
    name, number, text = args.label
    require(number in tuple("123456789"), "FIELD is a number from 1 to 9")
    require(len(text) <= MAX_NAME and text.isprintable(), f"at most {MAX_NAME} characters")
    with contextlib.closing(open_writer(path)) as writer:
        writer.label(name, int(number), text)


# -- export and import ----------------------------------------------------------------------------


def export(args: argparse.Namespace, path: Path) -> None:
    name, = args.export
    with contextlib.closing(Reader(path)) as reader:
        if name == "-":
            write_csv(reader, sys.stdout)
            return
        with replacing(Path(name).absolute()) as partial, \
                partial.open("w", encoding="utf-8", newline="") as file:
            write_csv(reader, file)


def write_csv(reader: Reader, file) -> None:
    total, done = reader.size()[0], 0
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(Row._fields)
    with Progress("exporting") as progress:
        for station in reader.stations():
            rows = reader.rows(station)
            while chunk := list(itertools.islice(rows, PAGE_ROWS)):
                writer.writerows([(format_time(r[0]), *r[1:]) for r in chunk])
                done += len(chunk)
                progress(done / total)


def parse_value(text: str) -> Any:
    """A number where it is one, else the text as it is."""
    try:
        return parse_number(text)
    except ValueError:
        return text


def checked(row: Row) -> Row:
    """The row itself; raises ValueError when it cannot be a reading."""
    if not 0 <= row.time < LATEST_TIME:
        raise ValueError("a time before 1970 or after 2099")
    if not 1 <= row.field <= 9:
        raise ValueError("field is a number from 1 to 9")
    if row.value is None or (isinstance(row.value, str) and not 0 < len(row.value) < 256):
        raise ValueError("value is a number, or a text of up to 255 characters")
    if row.entry is not None and not 0 < row.entry < 2 ** 53:
        raise ValueError("entry is a number from 1")
    return row


def read_own_csv(lines: Iterator[list[str]]) -> Iterator[Row]:
    for when, station, mac, number, value, entry in lines:
        yield checked(Row(parse_time(when), station, parse_mac(mac), int(number),
                          parse_value(value), int(entry) if entry else None))


def read_thingspeak_csv(lines: Iterator[list[str]], header: list[str],
                        station: Station | None) -> Iterator[Row]:
    """created_at,entry_id,field1,...: one line an entry, an empty cell where a field has none."""
    if station is None:
        raise ValueError("a ThingSpeak CSV needs --station NAME: whose readings these are")
    fields = [(i, int(name[5:])) for i, name in enumerate(header)
              if re.fullmatch("field[1-9]", name)]
    for line in lines:
        when, entry = parse_time(line[0]), int(line[1])
        for i, number in fields:
            if line[i]:
                yield checked(Row(when, station.name, station.mac, number, parse_value(line[i]),
                                  entry))


def read_csv(name: str, file: Iterable[str], station: Station | None) -> Iterator[Row]:
    """The rows of our CSV or of ThingSpeak's, told apart by the first line. Raises StoreError."""
    lines = csv.reader(file)
    header = next(lines, [])
    try:
        if header == list(Row._fields):
            yield from read_own_csv(lines)
        elif header[:2] == ["created_at", "entry_id"]:
            yield from read_thingspeak_csv(lines, header, station)
        else:
            raise ValueError("neither our CSV, nor ThingSpeak's, nor an SQLite file; our first "
                             f"line is {','.join(Row._fields)}")
    except (ValueError, IndexError, csv.Error, Refused) as error:
        raise StoreError(f"{name}, line {lines.line_num}: {error}. What came before may be stored; "
                         "importing again does not double it") from None


def read_older_table(path: Path) -> Iterator[Row]:
    """data(Id, API_key, date_time, mac, field, data); Id serves as entry number."""
    id = 0
    with contextlib.closing(connect(path, "ro")) as db:
        try:
            for id, when, mac, number, value in db.execute(
                    "SELECT Id, date_time, mac, field, data FROM data ORDER BY Id"):
                yield checked(Row(parse_time(when), "", parse_mac(mac), number, value, id))
        except (ValueError, TypeError, Refused, sqlite3.Error) as error:
            raise StoreError(f"{path}, behind Id {id}: {error}; the table data(Id, API_key, "
                             "date_time, mac, field, data) is expected") from None


def read_file(name: str, station: Station | None, progress: Progress) -> Iterator[Row]:
    """The rows of any file that --import takes; - is standard input. Raises StoreError."""
    if name == "-":
        yield from read_csv("standard input", sys.stdin, station)
        return
    with open(name, "rb") as file:
        if file.peek(16).startswith(b"SQLite format 3\0"):
            yield from read_older_table(Path(name))
            return
        size = os.fstat(file.fileno()).st_size or 1
        text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
        for number, row in enumerate(read_csv(name, text, station)):
            if number % STEP_ROWS == 0:
                progress(file.tell() / size)
            yield row


def import_file(args: argparse.Namespace, path: Path) -> None:
    total = ImportCount()
    with contextlib.closing(open_writer(path)) as writer, Progress("importing") as progress:
        station = None
        if args.station:
            with contextlib.closing(Reader(path)) as reader:
                station = find_station(reader.stations(), args.station)
        size = STEP_ROWS if isinstance(writer, Remote) else 10 * STEP_ROWS
        rows = read_file(args.import_[0], station, progress)
        while batch := list(itertools.islice(rows, size)):
            counts = writer.import_rows(batch, now_ms())
            total = ImportCount(*map(sum, zip(total, counts, strict=True)))
    print(f"imported {total.stored} readings; {total.known} were there already"
          + (f"; {total.pruned} belong to hours that were pruned, and were left out"
             if total.pruned else ""))


COMMANDS = {
    "add-station": add_station, "stations": list_stations, "new-key": new_key,
    "remove-station": remove_station, "prune": prune, "backup": backup, "export": export,
    "import": import_file, "label": label, "check": check,
}

# -- the demonstration ----------------------------------------------------------------------------

DEMO_STATIONS = (("inside", "5c:cf:7f:3b:0d:e8"), ("outside", "6c:rf:7f:2b:0e:g8"))


def simulate(role: str, ms: int, midsummer: int) -> float:
    """A plausible temperature in degrees Celsius: a year's and a day's wave, and some weather."""
    year = math.cos((ms - midsummer) / (365.25 * DAY) * math.tau)
    days = ms / DAY
    weather = sum(math.sin(days * math.tau / period + period) for period in (2.3, 5.1, 11.7))
    if role == "outside":
        day = math.cos((days - 22 / 24) * math.tau)         # warmest in the afternoon, UTC-7
        return round(12 + 10 * year + (4 + 3 * year) * day + 1.6 * weather, 1)
    day = math.cos((days - 26 / 24) * math.tau)             # the house follows hours later
    return round(21.5 + 3.5 * year + (0.7 + 0.5 * year) * day + 0.5 * weather, 1)


def fill_demo(writer: Writer, now: int) -> None:
    """Two stations and a year of their readings, one in 10 minutes. Now is midsummer."""
    for name, mac in DEMO_STATIONS:
        writer.add_station(name, mac, name, hash_key(secrets.token_hex()).hex(), now)
    for name, mac in DEMO_STATIONS:
        writer.import_rows([(ms, name, mac, 1, simulate(name, ms, now), None)
                            for ms in range(now - 365 * DAY, now, 600_000)], now)


def play_demo(server: Server) -> None:
    """The simulated stations send: through the same store as real ones."""
    now = server.now()
    for name, mac in DEMO_STATIONS:
        value = simulate(name, now, now) + random.choice((-0.1, 0, 0, 0.1))
        server.writer.add(server.writer.by_mac[mac], Reading(1, round(value, 1), 0, None), now)
    server.end_turn()


# -- serving --------------------------------------------------------------------------------------


def inherited_sockets() -> list[socket.socket]:
    """Listening sockets from systemd. Protocol: sd_listen_fds(3)."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return []
    return [socket.socket(fileno=3 + i) for i in range(int(os.environ.get("LISTEN_FDS", "0")))]


async def listen(server: Server) -> tuple[list[asyncio.AbstractServer], str]:
    """Open the listening sockets; they and what to call them."""
    def factory():
        return Connection(server)
    if inherited := inherited_sockets():
        return ([await server.loop.create_server(factory, sock=s, backlog=BACKLOG)
                 for s in inherited], "the sockets inherited")
    host, port = server.settings.host, server.settings.port
    try:
        listener = await server.loop.create_server(factory, host, port, backlog=BACKLOG)
    except OSError as error:
        hint = " (--port N takes another)" if error.errno == errno.EADDRINUSE else ""
        raise StoreError(f"cannot listen on {host} port {port}: {error.strerror}{hint}") from None
    port = listener.sockets[0].getsockname()[1]
    return [listener], f"http://{f'[{host}]' if ':' in host else host}:{port}/"


async def listen_control(server: Server) -> list[asyncio.AbstractServer]:
    """The control socket beside the database, for its owner only."""
    if not hasattr(socket, "AF_UNIX"):
        return []
    path = server.writer.path
    with inside(path.parent):
        name = Path(path.name + ".sock")
        name.unlink(missing_ok=True)            # we hold the lock: it is of a process that died
        channel = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        channel.bind(str(name))
        name.chmod(0o600)
    return [await server.loop.create_unix_server(lambda: Control(server), sock=channel)]


def raise_file_limit() -> int:
    """Take as many connections as the system allows; how many that is."""
    try:
        import resource  # noqa: PLC0415  (not on Windows)
    except ImportError:
        return 500                              # what select() can watch there
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_CONNECTIONS + 64               # ... and what else a process has open
    soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return soft - 64


def announce(server: Server, where: str) -> None:
    stations = len(server.writer.stations)
    print(f"iotserver {__version__} serves {where} from {server.writer.path}, "
          f"{stations} station{'s' * (stations != 1)}", flush=True)
    if not stations:
        print("no station yet; this adds one:\n  python3 iotserver.py"
              f" --db {server.writer.path} --add-station inside --role inside --mac MAC", flush=True)


async def serve(server: Server) -> None:
    """From the first socket to the last answer."""
    server.loop = asyncio.get_running_loop()
    server.capacity = min(MAX_CONNECTIONS, raise_file_limit())
    listeners, where = await listen(server)
    listeners += await listen_control(server)
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        catch_signal(server.loop, number, stopped.set)
    announce(server, where)
    notify("READY=1")
    jobs = asyncio.create_task(run_jobs(server))
    stop = asyncio.create_task(stopped.wait())
    await asyncio.wait((jobs, stop), return_when=asyncio.FIRST_COMPLETED)
    notify("STOPPING=1")
    await wind_down(server, listeners)
    jobs.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await jobs


def catch_signal(loop: asyncio.AbstractEventLoop, number: int, callback: Callable) -> None:
    try:
        loop.add_signal_handler(number, callback)
    except NotImplementedError:                 # Windows
        signal.signal(number, lambda *_: loop.call_soon_threadsafe(callback))


async def wind_down(server: Server, listeners: list[asyncio.AbstractServer]) -> None:
    """Accept no more, answer what is in flight, close what is idle; STOP_SECONDS at the most."""
    await asyncio.sleep(0.01)                   # what the kernel has accepted, we accept, too
    server.is_stopping = True
    for listener in listeners:
        listener.close()
    started = server.monotonic()
    while server.connections and (waited := server.monotonic() - started) < STOP_SECONDS:
        for connection in tuple(server.connections):
            if connection.may_close(waited):
                connection.transport.close()
        await asyncio.sleep(0.02)
    for connection in tuple(server.connections):
        connection.transport.abort()
    server.end_turn()


def run_server(args: argparse.Namespace, path: Path) -> None:
    with contextlib.ExitStack() as stack:
        if args.demo:
            path = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "demo.db"
        try:
            writer = stack.enter_context(contextlib.closing(Writer(path)))
        except BlockingIOError:
            raise StoreError(f"{path} is in use by another iotserver; stop that one first, or "
                             "name another --db") from None
        if args.demo:
            fill_demo(writer, now_ms())
        reader = stack.enter_context(contextlib.closing(Reader(path)))
        server = Server(args, writer, reader)
        if args.demo:
            server.jobs += ((5, play_demo),)
        asyncio.run(serve(server))
        if hasattr(socket, "AF_UNIX"):
            path.with_name(path.name + ".sock").unlink(missing_ok=True)


def main(argv: list[str] | None = None) -> int:
    """Do one thing and exit, or serve until SIGTERM. The exit status."""
    os.umask(0o077)                             # whatever we make holds a household's data
    parser = build_parser(os.environ)
    args = parser.parse_args(argv)
    path = Path(args.db).absolute()
    try:
        for action in ACTIONS:
            if getattr(args, action.name) is not None:
                COMMANDS[action.flag](args, path)
                break
        else:
            run_server(args, path)
        sys.stdout.flush()
    except argparse.ArgumentTypeError as error:
        parser.error(str(error))
    except BrokenPipeError:                     # the reader of our output has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (StoreError, sqlite3.Error, OSError) as error:
        print(f"iotserver: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def entry_point() -> None:
    sys.exit(main())


if __name__ == "__main__":
    entry_point()
