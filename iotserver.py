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
    a coroutine that pauses often, and turns come in between.

Follow a reading
    data_received, take_request, respond    the bytes become a Request, and that has one route
    get_update, admit                       the path is parsed, and the key is right
    add, add_entry                          the reading waits in the open batch of this turn
    end, commit, _write, summarize          the batch is on the disk, and so is its hour
    flush, render                           only now the answer leaves: the number of the entry
    tell_news, look, read_place             within a second: its station is read again
    add, follow, advance, judge             what it says now, the course of the room, its verdict
    news, tell, publish                     listeners are told
    get_page, make_page, render_answer      a phone asks, and the answer is put into words
    collect, choose_kind, compose           the courier asks, and there is a message to send

Rooms, each of which uses only names above it
     1. Words         settings, commands, the log, limits, text and time
     2. Readings      from URLs, forms and JSON to numbers; what is possible, what an hour sums up
     3. File          the layout of the database, its lock, what may be written over
     4. Questions     Reader: stations, readings, summaries, rows
     5. Changes       Writer: the updates of a turn, the steps of commands and of imports
     6. Access        keys, rates, guesses
     7. Forecast      when it gets cooler or warmer, and how sure that is
     8. Verdict       the rules: margins, pauses, doubted readings, limits of humid air
     9. Sentences     every sentence that people read, by its key; how a value is said
    10. HTTP          bytes to requests, answers to bytes
    11. Looks         colors, style, script, icons, the frame of each page
    12. Charts        lines over time as SVG
    13. Page          the answer, cards and tiles, and what is kept of pages
    14. Dispatch      which route answers, and who may ask
    15. Connections   clients, deadlines, fair shares
    16. Server        turns, events, jobs, commands, start and stop
    17. Routes        our own: updates, pages, JSON, exports
    18. Courier       the process that connects to others
Wings, which nothing above them names: each can be deleted
    19. ThingSpeak    its clients' requests and its answers
    20. Consoles      bought stations: Weather Underground's and Ecowitt's uploads
    21. Messages      to phones, webhooks and mail: when, to whom, at which pauses
    22. Forwarding    all readings to an engine
    23. Import        files of others
    24. Private page  a password
    25. Metrics       for Prometheus
    26. Review        what would have been said
    27. Demo          a simulated house
    28. Wall          the answer for a tablet on the wall
    29. Languages     the page, messages and errors in other languages
Roof
    30. Commands      the command line, main

Vocabulary
    station   a device, known by its MAC; has a name, perhaps a role (inside, outside), a key
    field     1 to 9: one stream of numbers of a station (1 temperature in degrees Celsius)
    series    one field of one station, as the database knows it
    reading   one number of one series at one instant (milliseconds since 1970, UTC)
    entry     what one update stored: a number that counts up from 1 for each station
    receipt   remembers the seq of a reading, so that a repeated update is stored once
    hour      the summary of one series in one UTC hour; stays when readings are pruned
    turn      one round of the event loop; its updates are one transaction
    place     an inside or outside station as it is now; a room is an inside one with its verdict
    offset    degrees Celsius that are added to a thermometer wherever it is shown or judged
    doubted   a reading of a rare station that differs too much to be believed before a second one
    verdict   open, close, comfortable or unknown, with the reason
    course    what a verdict goes on from; it is in the file, so that a restart changes no answer
    forecast  when outside gets cooler or warmer than inside, with an interval
    outcome   how far off a forecast was
    courier   the process that carries messages; the server itself never connects to anything
    wing      a section that enters itself into tables (SETTINGS, COMMANDS, OPTIONS, JOBS, ERRANDS,
              FAMILIES, PROTOCOLS, ON_WRITE, ON_SERVER, ON_STOP, and enter for routes);
              part_of makes and finds its own object of a server or a Writer

    parse makes a value of text or raises, find looks up and may return None, read asks a file or
    the database, take removes and returns, say makes words of a value, render makes markup or
    bytes, admit and refuse let in or raise, is and has are true or false.

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
# 1. Words
#    Law: words, numbers and settings; nothing here knows what the server is for.
# ------------------------------------------------------------------------------------------------
import sys

# Python 3.8 to 3.10 can parse this file and run so far; an older one shows the next line instead.
if (python := sys.version_info) < (3, 11):      # iotserver needs Python 3.11 or newer
    sys.exit(f"iotserver needs Python 3.11 or newer; this is Python {python[0]}.{python[1]}")

import argparse
import asyncio
import base64
import bisect
import collections
import contextlib
import contextvars
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
import http.client
import http.server
import inspect
import io
import ipaddress
import itertools
import json
import math
import operator
import os
import re
import resource
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
import struct
import subprocess
import tempfile
import threading
import time
import traceback
import urllib.parse
import urllib.request
import zlib
import zoneinfo
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Container,
    Coroutine,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from datetime import time as Clock
from email.message import EmailMessage
from http import HTTPStatus
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any, BinaryIO, NamedTuple, NoReturn, TextIO, TypeAlias, TypeVar, cast

__version__ = "2.1"

MINUTE = 60_000                 # ms
HOUR = 60 * MINUTE              # ms; summaries are of UTC hours, which no change of clocks splits
DAY = 24 * HOUR
LATEST_TIME = 4_102_444_800_000  # 2100-01-01: a later time comes from a wrong clock
EARLIEST_TIME = 978_307_200_000  # 2001-01-01: clocks that were never set show an earlier time
LARGEST = 1.7e308               # sums are limited to this, because JSON has no infinity
MAX_NUMBER = 32                 # characters of a number: any double fits in 24
MAX_TIME = 48                   # characters of a time: ISO 8601 with an offset takes 32

MAX_FIELDS = 9                  # of a station
STOP_SECONDS = 4                # SIGTERM to exit; systemd and users expect a stop within 5
STEP_ROWS = 5000                # rows that a step of long work changes: about 20 ms
STEP_ENTRIES = 200              # entries that a step of a request reads: about 5 ms
STEP_STATIONS = 200             # stations with all of their fields, likewise
STEP_SECONDS = 0.005            # after this, a step of long work ends, because updates wait for it
EXIT_STORAGE = 74               # EX_IOERR of sysexits.h: disk or file failed
COMMAND_SECONDS = 30            # between two steps of a command; after that it counts as stopped


# -- output ---------------------------------------------------------------------------------------

def log(message: str) -> None:
    """Write one line to stderr. Text that a client has sent cannot make a second one."""
    text = ascii(message.strip())[1:-1]
    with contextlib.suppress(OSError):          # the server runs on if the log's disk is full
        print(f"iotserver: {text[:2000]}", file=sys.stderr, flush=True)


def end_at_once(message: str) -> NoReturn:
    """Exit and leave the database open: closing would checkpoint what may be damaged."""
    log(message)
    os._exit(EXIT_STORAGE)


# -- long work -----------------------------------------------------------------------------------
#
# Work that takes more than a few milliseconds is a coroutine that often calls pause(). A step is
# the time between two pauses that wait; in the server it is one round of the event loop.

async def go_on() -> None:
    """A pause that does not wait, for a command, beside which nothing else runs."""


T = TypeVar("T")
OWN = ""                        # the network of the server's own jobs
SHARE: contextvars.ContextVar[Callable[[], Awaitable[None]]] = contextvars.ContextVar(
    "SHARE", default=go_on)     # how the current work pauses


async def pause() -> None:
    """Let other work go on if the current step has lasted long enough."""
    await SHARE.get()()


def finish(work: Coroutine[Any, Any, T]) -> T:
    """Do long work without an event loop; its result."""
    try:
        work.send(None)
    except StopIteration as done:
        return cast(T, done.value)
    raise RuntimeError("work without an event loop has waited")


class Usage(Exception):
    """The command line is wrong: exit status 2."""


def require(condition: object, message: str) -> None:
    if not condition:
        raise Usage(message)


def open_missing() -> None:
    """Open the standard streams that the caller has closed, because otherwise a file of ours gets
    the number of one. Input is then empty, output fails, and errors are lost."""
    for name, mode in (("stdin", "r"), ("stdout", "r"), ("stderr", "w")):
        if getattr(sys, name) is None:
            handle = os.open(os.devnull, os.O_RDWR)     # gets the lowest free number
            setattr(sys, name, os.fdopen(handle, mode, closefd=False))


def finish_output() -> None:
    """Flush standard output. Raises OSError."""
    try:
        sys.stdout.flush()
    except OSError:                 # at exit Python would flush again and print a traceback
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise


def set_output(errors: str, encoding: str | None = None) -> None:
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding=encoding, errors=errors)


@contextlib.contextmanager
def progress_bar(label: str) -> Iterator[Callable[[float], None]]:
    """Draws a bar on stderr if that is a terminal."""
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


# -- numbers and times as text -------------------------------------------------------------------

# Stations repeat themselves: their MACs and most of their values were parsed a moment ago. A
# function that is remembered refuses long text first, so its memory stays small. 4,096 entries are
# two forms for each of 2,000 stations.
remember = functools.lru_cache(maxsize=4096)

# In all patterns, neighbors never match the same text, so no text is slow to match.
NUMBER = re.compile(r"[+-]?(?:\d{1,15}|(\d+(?:\.\d*)?|\.\d+)([eE][+-]?\d+)?)", re.ASCII)


@remember
def parse_number(text: str) -> float:
    """A finite decimal number; one of only digits, up to 15, is an int. Raises ValueError.
    float() alone also accepts nan, inf, 1_0 and digits of other scripts."""
    if len(text) <= MAX_NUMBER and (match := NUMBER.fullmatch(text)):
        if match[1] is None:
            return int(text)
        if math.isfinite(number := float(text)):
            return number
    raise ValueError("not a finite decimal number")


EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MILLISECOND = timedelta(milliseconds=1)


def parse_time(text: str, zone: tzinfo = UTC) -> int:
    """ISO 8601 to ms. A time without an offset is in `zone`. Raises ValueError."""
    if len(text) > MAX_TIME:
        raise ValueError("too long for a time")
    if len(text) != 24 or text[-1] != "Z":                      # not what format_time writes
        text = re.sub(r"(Z| UTC)$", "+00:00", text.strip())
        text = re.sub(r"(T.*) (\d\d:\d\d)$", r"\1+\2", text)     # a query's + became a space
        text = re.sub(r"(:.*) ([+-]\d\d(:?\d\d)?)$", r"\1\2", text)
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text!r} is no time: write it like 2018-07-30T22:16:34Z") from None
    instant = instant if instant.tzinfo else instant.replace(tzinfo=zone)
    if not 0 <= (ms := (instant - EPOCH) // MILLISECOND) < LATEST_TIME:
        raise ValueError(f"{text}: before 1970 or after 2099")
    return ms


def parse_moment(text: str, zone: tzinfo = UTC, earliest: int = 0) -> int:
    """ISO 8601, or seconds since 1970, to ms. Raises ValueError, OverflowError."""
    try:
        seconds = parse_number(text)
    except ValueError:
        return parse_time(text, zone)
    if not earliest <= (ms := round(seconds * 1000)) < LATEST_TIME:
        raise ValueError(f"{text}: too early or after 2099")
    return ms


DURATION_UNITS = {"s": 1000, "m": 60_000, "h": HOUR, "d": DAY, "w": 7 * DAY}


def parse_duration(text: str) -> int:
    """`90d`, `12h`, `30m`, `45s`, `2w` to milliseconds. Raises Usage."""
    if not (match := re.fullmatch(r"(\d{1,6})([smhdw])", text, re.ASCII)):
        raise Usage(f"{text!r} is not an age: write a number and s, m, h, d or w, like 90d")
    return int(match[1]) * DURATION_UNITS[match[2]]


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def format_time(ms: int) -> str:
    """`2018-07-30T22:16:34.541Z`."""
    return (EPOCH + ms * MILLISECOND).isoformat("T", "milliseconds").removesuffix("+00:00") + "Z"


def format_bytes(count: float) -> str:
    for unit in ("bytes", "KB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"


def bound(number: float) -> float:
    """The nearest finite number, because JSON has no infinity."""
    return max(-LARGEST, min(LARGEST, number))


ZONE = re.compile(r"[A-Za-z0-9_+\-/]{1,64}")


def find_zone(name: str) -> tzinfo:
    """A time zone by its IANA name, like America/Los_Angeles; UTC if there is none."""
    try:
        return zoneinfo.ZoneInfo(name) if ZONE.fullmatch(name) else UTC
    except (KeyError, ValueError, OSError):     # unknown, or no time zones on this system
        return UTC


# -- settings and commands -----------------------------------------------------------------------

class Setting(NamedTuple):
    """A flag of the server, which the variable IOTSERVER_NAME can set too, or of a command."""
    name: str
    metavar: str | None         # None: a switch
    default: str | None         # None: a command's option
    parse: Callable[[str], object]
    help: str
    is_carried: bool = False    # the courier gets it, too

    @property
    def variable(self) -> str:
        return "IOTSERVER_" + self.name.upper().replace("-", "_")


WARMEST_BARE = 45               # °C; a higher number needs a unit, as it may be one of °F


def parse_temperature(text: str) -> float:
    """`22C`, `22` or `72F` to degrees Celsius."""
    match = re.fullmatch(r"(-?\d{1,3}(?:\.\d{1,3})?)([CF]?)", text, re.ASCII)
    if not match or (not match[2] and float(match[1]) > WARMEST_BARE):
        raise Usage(f"{text!r} is not a room temperature: write it like 22C or 72F")
    return (float(match[1]) - 32) / 1.8 if match[2] == "F" else float(match[1])


def parse_count(text: str) -> int:
    require(re.fullmatch("[0-9]{1,9}", text), f"{text!r} is not a whole number")
    return int(text)


def parse_port(text: str) -> int:
    require(parse_count(text) < 65536, f"{text} is not a port: ports go up to 65535")
    return int(text)


def one_of(*words: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        require(text in words, f"{text!r} is not one of {', '.join(words)}")
        return text
    return parse


def as_text(parse: Callable[[str], object]) -> Callable[[str], str]:
    """A parser that returns the text as it is, if `parse` accepts it or if it is empty."""
    def check(text: str) -> str:
        if text:
            parse(text)
        return text
    return check


def parse_switch(text: str) -> bool:
    return text.lower() not in {"", "0", "no", "false"}


def parse_database(text: str) -> str:
    return text or str(Path(os.environ.get("STATE_DIRECTORY", "")) / "iot.db")


SETTINGS = [
    Setting("host", "ADDR", "127.0.0.1", str, "address to listen on; 0.0.0.0 means all"),
    Setting("port", "N", "8000", parse_port, "port to listen on; 0 takes any free one"),
    Setting("db", "FILE", "", parse_database,
            "the database (default: $STATE_DIRECTORY/iot.db, else iot.db)"),
    Setting("rate-limit", "N", "60", parse_count,
            "updates per minute of one station; 0: no limit"),
    Setting("units", "auto|C|F", "auto", one_of("auto", "C", "F"),
            "°C or °F on the page; auto follows the browser's language"),
    Setting("comfort", "TEMP", "22C", parse_temperature,
            "the warmest comfortable temperature inside, like 22C or 72F"),
    Setting("smoke", "N|off", "55.5",
            lambda text: math.inf if text == "off" else parse_number(text),
            "µg/m³ of PM2.5 outside from which windows stay closed"),
    Setting("link", "URL", "", str,
            "this server's own address, as people type it: for links in messages. Also needed "
            "behind your own proxy, and for a name of your own domain", is_carried=True),
]


class Command(NamedTuple):
    """A flag that makes the program do one thing and exit: run(args, path, *values)."""
    flag: str
    metavar: tuple[str, ...]    # empty: takes no value
    run: Callable[..., None]
    help: str
    options: tuple[str, ...] = ()   # names in OPTIONS that it accepts


COMMANDS: list[Command] = []    # the sections below fill these tables
OPTIONS: list[Setting] = []


def part_of(owner: Any, kind: Callable[[Any], T]) -> T:
    """The object of class `kind` that belongs to a server or a Writer. It is made at the first
    call, so that no section above a wing has to name the wing's class."""
    if kind not in owner.parts:
        owner.parts[kind] = kind(owner)
    return cast(T, owner.parts[kind])


# ------------------------------------------------------------------------------------------------
# 2. Readings
#    Law: pure functions from text to values, without clock, file or socket. Times are ms in
#    UTC.
# ------------------------------------------------------------------------------------------------
MAX_AGE = 2_592_000             # seconds, 30 days; a station buffers less
MAX_SEQ = 32                    # characters of a seq; a boot number and a counter take 20
MAX_NAME = 64                   # characters of a name, which fit on a line of a phone
MAX_MAC = 32                    # characters of a MAC; a real one has 17, users' own words more
MAX_BULK = 960                  # readings in one POST, as in ThingSpeak; 16 h with one a minute
MAX_POINTS = 10_000             # points in one answer of /api/readings; a screen shows fewer


class Refused(Exception):
    """A refused request: the HTTP status, and a message that tells the user what is wrong."""

    def __init__(self, status: int, message: str, **headers: str):
        super().__init__(message)
        self.status, self.message = status, message
        self.headers = tuple((name.replace("_", "-"), value) for name, value in headers.items())


class Reading(NamedTuple):
    """One number as a station sends it. age is in ms; seq is the station's own name for it."""
    field: int
    value: float
    age: int
    seq: str | None


Value: TypeAlias = int | float | str    # ThingSpeak's clients may send a text instead of a number
Headers: TypeAlias = tuple[tuple[str, str], ...]
Sample: TypeAlias = tuple[int, float]   # the time and the number


class Summary(NamedTuple):
    """The numbers of one series in width ms from time on. A single number has the width 0. The
    last three describe the counted numbers only; if none counts, they mean nothing."""
    time: int
    width: int
    size: int                   # how many numbers there were, including pruned ones
    pruned: int
    counted: int                # all of them but impossible temperatures
    minimum: float
    maximum: float
    total: float

    @property
    def point(self) -> "Point":
        return Point(self.time, self.total / self.counted, self.minimum, self.maximum, self.width)


class Point(NamedTuple):
    """A point of a chart: one reading, whose mean, minimum and maximum are equal, or the readings
    of width ms."""
    time: int
    mean: float
    minimum: float
    maximum: float
    width: int = 0


# -- from text -----------------------------------------------------------------------------------

MAC = re.compile(rf"[0-9A-Za-z:._-]{{1,{MAX_MAC}}}")
KEY = re.compile(r"[0-9A-Za-z._~-]{1,64}")      # characters that a URL takes unescaped
NO_JOINERS = str.maketrans("", "", "\u200c\u200d")     # Persian and emoji use these joiners
PARTS = ("API_key", "mac", "field", "data", "age", "seq")
PART_NAMES = {name.lower(): name for name in PARTS}


def is_value(text: str) -> bool:
    """Whether a text is short enough to be a value, and not empty."""
    return 0 < len(text) < 256


def parse_value(text: str) -> Value:
    """A text as a number if it is one, else the text itself. Raises ValueError."""
    try:
        return parse_number(text)
    except ValueError:
        if not is_value(text):
            raise ValueError("value: a number, or a text of up to 255 characters") from None
        return text


def is_label(text: str) -> bool:
    """Whether a text has at most MAX_NAME characters, none of them for control or direction."""
    return len(text) <= MAX_NAME and text.translate(NO_JOINERS).isprintable()


def is_name(text: str) -> bool:
    """Whether a station may have this name. A number may not be one, because ids are numbers."""
    return is_label(text) and (
        seen := text.translate(NO_JOINERS).strip()) != "" and not seen.isdigit()


@remember
def parse_mac(text: str) -> str:
    """A MAC in lower case. It may be any word, as users have registered 6c:rf:7f:2b:0e:g8."""
    if not MAC.fullmatch(text):
        raise Refused(400, "mac: 1 to 32 characters from 0-9 A-Z a-z : . _ -")
    return text.lower()


@remember
def parse_field(text: str) -> int:
    if len(text) != 1 or text not in "123456789":
        raise Refused(400, "field: a number from 1 to 9")
    return int(text)


def parse_age(text: str) -> int:
    """An age in seconds as whole milliseconds. Raises Refused."""
    try:
        seconds = parse_number(text)
    except ValueError:
        seconds = -1
    if not 0 <= seconds <= MAX_AGE:
        raise Refused(400, f"age: seconds from 0 to {MAX_AGE}")
    return round(seconds * 1000)


def parse_reading(parts: Mapping[str, str]) -> Reading:
    """A Reading from the texts of field, data, age and seq. Raises Refused, naming the part."""
    if "field" not in parts or "data" not in parts:
        raise Refused(400, f"{'data' if 'field' in parts else 'field'}: missing")
    seq = parts.get("seq")
    try:
        value = parse_number(parts["data"])
    except ValueError:
        raise Refused(400, f"data: a decimal number like 72.3, of at most {MAX_NUMBER} characters"
                      ) from None
    if seq is not None and not (0 < len(seq) <= MAX_SEQ and seq.isprintable()):
        raise Refused(400, f"seq: 1 to {MAX_SEQ} printable characters")
    age = parse_age(parts["age"]) if "age" in parts else 0
    return Reading(parse_field(parts["field"]), value, age, seq)


def split_update_path(path: str) -> dict[str, str]:
    """The decoded parts of `/update/API_key=K/mac=M/field=F/data=V`, in any order, by their names
    in lower case. Raises Refused."""
    parts: dict[str, str] = {}
    for text in path[len("/update/"):].split("/"):
        written, equals, value = text.partition("=")
        name = written.lower()
        if not equals or name not in PART_NAMES:    # the message has no value: it may be the key
            raise Refused(400, f"{ascii(written[:20]) if equals else 'path'}: unknown part; "
                               f"the parts are {', '.join(PARTS)}, each written name=value")
        if name in parts:
            raise Refused(400, f"{PART_NAMES[name]}: given twice")
        parts[name] = urllib.parse.unquote(value)
    return parts


def parse_update(parts: Mapping[str, str], header_key: str | None = None
                 ) -> tuple[str, str, Reading]:
    """MAC, key and reading from the parts of an update path. header_key, of X-API-Key, serves for
    a path without a key. Raises Refused, naming the part."""
    key = parts.get("api_key", header_key)
    if key is None or "mac" not in parts:
        raise Refused(400, f"{'API_key' if key is None else 'mac'}: missing")
    return parse_mac(parts["mac"]), key, parse_reading(parts)


# Lists and objects in a JSON body, with the brackets in its texts: a bulk has 962. So many take
# 3 ms to parse; as many as fit into MAX_BODY take 40 ms.
MAX_BRACKETS = 20_000


def load_json(body: bytes) -> Any:
    """A parsed JSON document, in which NaN and Infinity are texts. Raises Refused."""
    if body.count(b"[") + body.count(b"{") > MAX_BRACKETS:
        raise Refused(400, f"body: more than {MAX_BRACKETS} lists and objects")
    try:
        return json.loads(body, parse_constant=str)
    except (ValueError, RecursionError) as error:
        raise Refused(400, f"body: not JSON: {str(error)[:80]}") from None


def parse_parts(where: str, document: Any, known: Iterable[str]) -> dict[str, Any]:
    """A JSON object without its nulls. Raises Refused for other documents and unknown parts."""
    if not isinstance(document, dict):
        raise Refused(400, f"{where}: a JSON object is needed")
    if unknown := document.keys() - known:
        raise Refused(400, f"{where}: {min(unknown)[:20]!a} is unknown; known: {', '.join(known)}")
    return {name: value for name, value in document.items() if value is not None}


def parse_update_json(document: Any, header_key: str | None = None) -> tuple[str, str, list[Any]]:
    """MAC, key and unparsed readings from
    `{"mac":M,"api_key":K,"readings":[{"field":F,"data":V,"age":S,"seq":T},...]}`. Raises Refused,
    naming the part."""
    document = parse_parts("body", document, ("mac", "api_key", "readings"))
    key, mac = document.get("api_key", header_key), document.get("mac")
    readings = document.get("readings")
    if not isinstance(key, str):
        raise Refused(400, "api_key: missing")
    if not isinstance(mac, str):
        raise Refused(400, "mac: missing")
    if not isinstance(readings, list) or not 0 < len(readings) <= MAX_BULK:
        raise Refused(400, f"readings: a list of 1 to {MAX_BULK} readings")
    return parse_mac(mac), key, readings


def parse_json_reading(where: str, reading: Any) -> Reading:
    """One of these readings. Numbers have the same grammar as in the path. Raises Refused."""
    parts = parse_parts(where, reading, ("field", "data", "age", "seq"))
    if not isinstance(parts.get("seq", ""), str):
        raise Refused(400, f"{where}.seq: a text is needed")
    try:
        return parse_reading({name: str(value) for name, value in parts.items()})
    except Refused as refused:
        raise Refused(refused.status, f"{where}.{refused.message}") from None


def parse_instant(name: str, text: str) -> int:
    """The ms of a start or end. Four or eight digits are the beginning of a year or a day, so a
    smaller number of seconds is a mistyped date, which might delete everything. Raises Refused."""
    try:
        if re.fullmatch(r"\d{4}|\d{8}", text, re.ASCII):
            return parse_time(f"{text}0101"[:8])
        return parse_moment(text, earliest=EARLIEST_TIME)
    except (ValueError, OverflowError):
        raise Refused(400, f"{name}: {text[:MAX_TIME]!a} is no time. Write 2018, 2018-07-30, "
                      "2018-07-30T22:16:34Z, or seconds since 1970, from 978307200 (2001) on"
                      ) from None


# The largest entry number that an import keeps. It leaves room to count on: JavaScript's exact
# integers end at 9 times as much.
LARGEST_ENTRY = 10 ** 15


def parse_entry(text: str) -> int | None:
    """An entry number of an import; None if the reading needs one of ours. Raises ValueError."""
    if not text:
        return None
    if (entry := int(text)) < 1:
        raise ValueError("entry: a number from 1")
    return entry if entry <= LARGEST_ENTRY else None


def parse_name(text: str) -> str:
    require(is_name(text),
            f"a name has 1 to {MAX_NAME} printable characters, and is not only a number")
    return text


# -- what a field is -----------------------------------------------------------------------------

LABELS = {1: "temperature °C", 2: "humidity %", 3: "pressure hPa"}   # unless --label was used
UNITS_SHOWN = frozenset({           # the last word of a label is one of these, or no unit
    "%", "°", "°C", "°F", "hPa", "kPa", "mbar", "m/s", "km/h", "mph", "mm", "mm/h", "cm", "W/m²",
    "lux", "lx", "ppm", "ppb", "µg/m³", "ug/m3", "V", "mV", "mA", "W", "kWh", "dB", "dBm"})
HUMIDITY_WORDS = ("humed", "umid", "feucht")    # in humidity, humidité, umidità, humedad, Feuchte
POSSIBLE = -60.0, 60.0          # °C as sent; sensors report 85 when they start, -127 when missing
POSSIBLE_AIR = 0.0, 1000.0      # µg/m³ of dust, mm/h of rain
POSSIBLE_HUMIDITY = 1.0, 100.0  # %
ANY_NUMBER = -math.inf, math.inf


def split_label(field: int, label: str | None) -> tuple[str, str]:
    """A field's name and unit, like `wind` and `m/s`. A label without a known unit is the name."""
    label = label or LABELS.get(field) or f"field {field}"
    name, _, unit = label.rpartition(" ")
    return (name, unit) if unit in UNITS_SHOWN else (label, "")


@remember
def field_kind(field: int, label: str | None) -> str:
    """What a field is for verdict and page alike: temperature, humidity, dust, rain, hourly rain
    (the sum of the last hour) or other."""
    name, unit = split_label(field, label)
    if name.lower().startswith("pm2.5") and unit in {"", "µg/m³", "ug/m3"}:
        return "dust"
    if "rain" in name.lower() and unit == "mm/h":
        return "hourly rain" if "hourly" in name.lower() else "rain"
    if field == 1 and unit in {"", "°C"}:
        return "temperature"
    is_humidity = unit == "%" and any(word in name.lower() for word in HUMIDITY_WORDS)
    return "humidity" if field == 2 and is_humidity else "other"


# -- summaries -----------------------------------------------------------------------------------

Hours: TypeAlias = dict[tuple[int, int], list[float]]   # by series and hour


def summarize(readings: Iterable[tuple[int, int, int, Value]], thermometers: Container[int]
              ) -> tuple[Hours, Hours]:
    """(series, time, entry, value) rows as {(series, hour): [count, minimum, maximum, total]}, and
    the impossible temperatures among them likewise. thermometers are series."""
    found: tuple[Hours, Hours] = {}, {}
    low, high = POSSIBLE
    for series, ms, _, value in readings:
        if isinstance(value, str):
            continue
        hours = found[not low <= value <= high and series in thermometers]
        if (summary := hours.get(key := (series, ms // HOUR))) is None:
            hours[key] = [1, value, value, value]
        else:
            summary[0] += 1
            if value < summary[1]:
                summary[1] = value
            elif value > summary[2]:
                summary[2] = value
            summary[3] += value
    for summary in itertools.chain(found[0].values(), found[1].values()):
        summary[3] = max(-LARGEST, min(LARGEST, summary[3]))
    return found


async def thin(samples: Iterable[Summary], edges: Sequence[int]) -> list[Point]:
    """A Point for each bucket that is not empty, from summaries in order of time. A bucket ends at
    the edge where the next one begins."""
    points = []
    for after, group in itertools.groupby(samples, lambda s: bisect.bisect_right(edges, s.time)):
        await pause()
        if not (held := [sample for sample in group if sample.counted]):
            continue
        count, start = sum(s.counted for s in held), edges[after - 1]
        points.append(Point(start, sum(s.total / count for s in held),
                            min(s.minimum for s in held), max(s.maximum for s in held),
                            edges[min(after, len(edges) - 1)] - start))
    return points


# -- intervals between readings ------------------------------------------------------------------

SILENT_AT_LEAST = 10 * MINUTE   # ms; shortest silence limit: ten readings of one a minute
SILENT_INTERVALS = 3            # usual intervals without a reading that make a station silent
SILENT_GROWTH = 4               # most that one pause multiplies the limit, as it may be an outage


def usual_interval(times: Iterable[int]) -> int:
    """The median interval in ms between these times; a minute if there is none."""
    return statistics.median_high(
        [b - a for a, b in itertools.pairwise(times) if b > a] or [MINUTE])


def learn_silence(limit: int, gap: int, least: int = SILENT_AT_LEAST) -> int:
    """The silence limit of a station in ms after one more gap between its readings. A long gap
    raises the limit at once, and the limit falls by the time that passes, so a station that sends
    in bursts or batches does not count as silent. A new station has a limit below
    SILENT_AT_LEAST while no pause is known: it is about the time for which it has sent."""
    if limit < SILENT_AT_LEAST:
        return max(limit + gap, SILENT_INTERVALS * gap, 0)
    return max(least, min(SILENT_INTERVALS * gap, SILENT_GROWTH * limit), limit - max(gap, 0))


def silence_limit(times: Iterable[int], learned: int = SILENT_AT_LEAST) -> int:
    """The silence limit of a station with readings at these times, which are in order."""
    limit = learned
    for before, after in itertools.pairwise(times):
        limit = learn_silence(limit, after - before, learned)
    return limit


# -- what a thermometer says ---------------------------------------------------------------------

SAYING_TIME = 20 * MINUTE       # the span of the three readings whose middle one is said
DOUBT_MARGIN = 3.0              # °C by which a rare station's reading may differ from the last
DOUBT_RATE = 0.5                # °C per minute: the fastest change of air, a thunderstorm's front


class Said(NamedTuple):
    """What a station says after its readings so far, and all that the next reading needs."""
    time: int = 0               # when its newest reading was
    limit: int = 0              # ms that it may be quiet after that
    last: tuple[Sample, ...] = ()   # its last three readings
    value: float = math.nan     # what it says, in °C
    counted: Sample | None = None   # the newest reading that is not doubted
    is_doubted: bool = False    # whether the newest reading waits for a second one

    @property
    def end(self) -> int:
        """The instant after which the station counts as silent."""
        return self.time + self.limit

    @property
    def shown(self) -> float:
        """The one number that people see: the newest reading, or, where that is far off, what
        the station says."""
        newest = self.last[-1][1] if self.last else math.nan
        return newest if abs(newest - self.value) <= DOUBT_MARGIN else self.value

    def add(self, ms: int, value: float, learned: int) -> "Said":
        """The same after one more reading. A station with three readings in SAYING_TIME says
        the middle one. One with fewer says its newest reading, unless that is doubted."""
        pause = ms - self.time if self.last else 0
        last = (*self.last[-2:], (ms, value))
        recent = sorted(celsius for at, celsius in last if ms - at <= SAYING_TIME)
        is_doubted = len(recent) < 3 and self.doubts(ms, value)
        return Said(ms, learn_silence(self.limit or learned, pause, learned), last,
                    recent[1] if len(recent) == 3 else self.value if is_doubted else value,
                    self.counted if is_doubted else (ms, value), is_doubted)

    def doubts(self, ms: int, value: float) -> bool:
        """Whether a rare reading differs too much from the last one that counts to be believed
        alone. A second reading close to a doubted one confirms it."""
        if self.counted is None or (
                self.is_doubted and abs(value - self.last[-1][1]) <= DOUBT_MARGIN):
            return False
        before, counted = self.counted
        return abs(value - counted) > max(DOUBT_MARGIN, DOUBT_RATE * (ms - before) / MINUTE)


UNHEARD = Said()


def sayings(readings: Iterable[Sample], learned: int, said: Said = UNHEARD) -> Iterator[Said]:
    """What a station says after each of its readings, which are in order of time. learned is the
    silence limit, in ms, that the file has for it."""
    for ms, value in readings:
        yield (said := said.add(ms, value, learned))


def find_extremes(samples: Sequence[Sample]) -> list[Sample]:
    """The lowest and the highest sample; empty if there is none."""
    return [choose(samples, key=operator.itemgetter(1)) for choose in (min, max) if samples]


def believe(said: Iterable[Said]) -> list[Sample]:
    """The readings after which a station said this, without those that were doubted and that the
    next one did not confirm."""
    found: list[Sample] = []
    doubted: Sample | None = None
    for one in said:
        ms, value = one.last[-1]
        if doubted and abs(value - doubted[1]) <= DOUBT_MARGIN:
            found.append(doubted)
        doubted = (ms, value) if one.is_doubted else None
        if not doubted:
            found.append((ms, value))
    return found


# ------------------------------------------------------------------------------------------------
# 3. File
#    Law: one process writes, and nothing of ours is ever overwritten.
# ------------------------------------------------------------------------------------------------
RECEIPTS = 1000                 # newest entries whose seqs are kept: a whole bulk can be repeated
LOCK_SECONDS = 10               # wait for a command that writes; a prune takes seconds
APPLICATION_ID = 0x696F7473     # "iots": how a file tells that it is ours

# The summary of an hour from its readings. Those that do not fit count only if none fits.
SUMMARY = """
    count(*), coalesce(min(value) FILTER (WHERE {fit}), min(value)),
    coalesce(max(value) FILTER (WHERE {fit}), max(value)),
    max(-1.7e308, min(1.7e308, iif(count(*) FILTER (WHERE {fit}),
        total(value) FILTER (WHERE {fit}), total(value)))),     -- never infinite
    0, count(*) FILTER (WHERE NOT {fit})"""
FIT = f"(value BETWEEN {POSSIBLE[0]} AND {POSSIBLE[1]})"    # of a thermometer's values
# Add a summary to an hour's: of readings that fit, or of impossible ones.
ADD_HOUR = """
    INSERT INTO hour VALUES (?, ?, ?, ?, ?, ?, 0, 0) ON CONFLICT DO UPDATE SET
    count = count + excluded.count,
    total = max(-1.7e308, min(1.7e308, total * (odd < count) + excluded.total)),
    minimum = min(iif(odd < count, minimum, excluded.minimum), excluded.minimum),
    maximum = max(iif(odd < count, maximum, excluded.maximum), excluded.maximum)"""
ADD_ODD_HOUR = """
    INSERT INTO hour VALUES (?1, ?2, ?3, ?4, ?5, ?6, 0, ?3) ON CONFLICT DO UPDATE SET
    count = count + excluded.count, odd = odd + excluded.odd,
    total = iif(odd < count, total, max(-1.7e308, min(1.7e308, total + excluded.total))),
    minimum = iif(odd < count, minimum, min(minimum, excluded.minimum)),
    maximum = iif(odd < count, maximum, max(maximum, excluded.maximum))"""

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
    CREATE TABLE series (id, station, field, label);            -- the next text makes it anew
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
    CREATE TABLE receipt (station, field, seq, entry);          -- likewise
""", f"""
    ALTER TABLE station ADD COLUMN silence INTEGER NOT NULL DEFAULT {SILENT_AT_LEAST};
    ALTER TABLE series RENAME TO old_series;
    CREATE TABLE series (
        -- From 0, since SQLite keeps 0 and 1 in no bytes at all; never used again, since listeners
        -- know it.
        id      INTEGER PRIMARY KEY AUTOINCREMENT,
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
    CREATE TABLE forward (              -- who gets all readings: a hash of the engine's address
        target TEXT PRIMARY KEY,
        asked  INTEGER NOT NULL         -- when it was last asked for what is next, about
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE unsent (               -- from where on the engine lacks readings of a series
        series INTEGER PRIMARY KEY,
        time   INTEGER NOT NULL,
        entry  INTEGER NOT NULL
    ) STRICT;
""", """
    DROP TABLE IF EXISTS outcome;       -- an older second text made it
    ALTER TABLE station ADD COLUMN offset REAL NOT NULL DEFAULT 0;      -- °C; of field 1
    CREATE TABLE course (               -- what the verdict of a room goes on from after a restart
        station      INTEGER PRIMARY KEY REFERENCES station,    -- the inside one
        at           INTEGER NOT NULL,
        state        TEXT NOT NULL,
        since        INTEGER NOT NULL,
        wanted       TEXT NOT NULL,
        wanted_since INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE admitted (             -- from where which key was right, the newest ones
        id   INTEGER PRIMARY KEY,       -- in the order in which they came
        pair BLOB NOT NULL UNIQUE       -- a hash of the address and the key's hash
    ) STRICT;
""", f"""
    -- Impossible temperatures among count. Minimum, maximum and total leave them out, unless all
    -- are impossible.
    ALTER TABLE hour ADD COLUMN odd INTEGER NOT NULL DEFAULT 0;
    REPLACE INTO hour SELECT reading.series, hour.hour, {SUMMARY.format(fit=FIT)}
    FROM hour JOIN reading ON reading.series = hour.series AND typeof(value) <> 'text'
        AND time >= hour.hour * 3600000 AND time < (hour.hour + 1) * 3600000
    WHERE pruned = 0 AND (minimum < {POSSIBLE[0]} OR maximum > {POSSIBLE[1]}) AND hour.series IN (
        SELECT id FROM series WHERE field_kind(field, label) = 'temperature') GROUP BY 1, 2;
""")

BUSY_MS = 250                   # ms to wait for another program's transaction
WRITER_PRAGMAS = (
    "synchronous = FULL",           # NORMAL loses acknowledged readings in a power cut
    "wal_autocheckpoint = 0",       # SQLite hides a failed fsync of its own checkpoints; we do not
    "journal_size_limit = 4194304",  # what one large import left of the log goes back
    f"busy_timeout = {BUSY_MS}",
    "foreign_keys = ON",
    "trusted_schema = OFF",
    "secure_delete = OFF",          # Debian's default would write every pruned page once more
    "temp_store = MEMORY",
    "fullfsync = ON",               # macOS: past the cache of the disk, too
    "checkpoint_fullfsync = ON",
)


class StoreError(Exception):
    """The database cannot be used, or a wish cannot be granted; the text says what to do."""


def refuse_foreign(path: Path) -> None:
    """Raise StoreError for a file that is not ours. Only its first 100 bytes are read, without
    SQLite. Call this only before the process connects to the file: closing a descriptor of it
    drops all of the process's locks, and the next program that opens the file then deletes the
    log (sqlite.org/howtocorrupt.html, 2.2).
    Offsets: https://www.sqlite.org/fileformat.html#the_database_header"""
    try:
        with path.open("rb") as file:
            header, names = file.read(100), os.fstat(file.fileno()).st_nlink
    except FileNotFoundError:
        return
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}") from None
    version = int.from_bytes(header[60:64], "big")
    if names > 1:
        raise StoreError(f"{path} has {names} names (hard links), but lock and log have one only; "
                         f"`find / -xdev -samefile {shlex.quote(str(path))}` lists them: keep "
                         "one, and make the others symbolic links to it")
    if not header:
        return                          # the first start was cut off
    if header[:16] != b"SQLite format 3\0":
        problem = "is not an SQLite database"
    elif len(header) == 100 and not any(header[40:44] + header[68:72]):
        return                          # never had a table: our first start was cut off
    elif int.from_bytes(header[68:72], "big") != APPLICATION_ID:
        problem = "is an SQLite database, but not iotserver's; --import FILE reads an older table"
    elif version > len(MIGRATIONS):
        problem = (f"has layout {version}, but this iotserver {__version__} knows only "
                   f"{len(MIGRATIONS)}; use the newer version that wrote it")
    else:
        return
    raise StoreError(f"{path} {problem}; the file was not changed")


def beside(path: Path, suffix: str) -> Path:
    """A file that goes with another: its log, its lock, its socket."""
    return path.with_name(path.name + suffix)


def sync(path: Path) -> None:
    """Make a file or a directory durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


SOCKETS = (".sock", ".courier")         # beside a database that a server has open
COMPANIONS = ("-wal", "-shm", "-journal", ".lock", *SOCKETS)    # files that go with a database


def require_database(path: Path) -> None:
    refuse_foreign(path)
    if not path.exists():
        raise StoreError(f"there is no database {path}; name another one with --db, or "
                         "make one with --add-station")


def connect(path: Path, mode: str) -> sqlite3.Connection:
    uri = f"{path.absolute().as_uri()}?mode={mode}"
    try:
        db = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=5)
    except sqlite3.Error as error:
        raise StoreError(f"{path}: {error}; {advise(error)}") from None
    db.create_function("field_kind", 2, field_kind, deterministic=True)
    return db


def acquire_lock(path: Path) -> sqlite3.Connection:
    """The right to write: an open transaction on FILE.lock, which ends with the process. SQLite's
    locks work alike on every system. Raises BlockingIOError if another process has it."""
    if not path.parent.is_dir():
        raise StoreError(f"there is no folder {path.parent}; make it first, or name another")
    file = beside(path, ".lock")
    lock = connect(file, "rwc")
    try:
        lock.execute("PRAGMA busy_timeout = 0")
        lock.execute("PRAGMA journal_mode = OFF")   # nothing is ever written, so leave no journal
        lock.execute("BEGIN EXCLUSIVE")
        if os.geteuid() == 0:               # else the database's owner could not open it
            owner = (path if path.exists() else path.parent).stat()
            os.lchown(file, owner.st_uid, owner.st_gid)
    except sqlite3.OperationalError as error:
        lock.close()
        if "locked" in str(error):
            raise BlockingIOError from None
        raise StoreError(f"cannot write to {path.parent}: {error}") from None
    return lock


def is_fatal(error: sqlite3.Error) -> bool:
    """Whether it is uncertain after this error what is on the disk. After a failed fsync the
    kernel may forget the pages, then report success. A write to a full disk is harmless."""
    name = getattr(error, "sqlite_errorname", "")       # Python's own errors have none
    return name != "SQLITE_IOERR_WRITE" and name.startswith(
        ("SQLITE_IOERR", "SQLITE_CORRUPT", "SQLITE_NOTADB"))


ADVICE = {                      # by the beginnings of SQLite's names for its errors
    ("SQLITE_FULL",): "make room on the disk",
    ("SQLITE_CORRUPT", "SQLITE_NOTADB"): "the file is damaged: restore a backup",
    ("SQLITE_BUSY", "SQLITE_LOCKED"): "another program has it locked; end that program",
    ("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM"):
        "the file or its folder cannot be written; check the medium and the permissions"}


def advise(error: Exception) -> str:
    """What to do about a database that cannot be used."""
    name = getattr(error, "sqlite_errorname", "")
    return next((advice for starts, advice in ADVICE.items() if name.startswith(starts)),
                "restore a backup, or name another --db")


def ask(db: sqlite3.Connection, question: str,
        values: Sequence[Any] | Mapping[str, Any] = ()) -> Any:
    """The first column of the first row of an answer, or None."""
    row = db.execute(question, values).fetchone()
    return row and row[0]


# -- files to write -------------------------------------------------------------------------------

def read_kind(path: Path) -> str | None:
    """What a file of ours is, by its content: `database`, `backup` (no server has used it yet) or
    `log`. None if it is not ours."""
    header = b""
    with contextlib.suppress(OSError):
        if path.is_file():
            with path.open("rb") as file:
                header = file.read(100)
    if int.from_bytes(header[68:72], "big") == APPLICATION_ID:
        return "database" if header[18] == 2 else "backup"      # 2: in WAL mode
    return "log" if header[:3] == b"\x37\x7f\x06" else None


def refuse_ours(target: Path, database: Path, may_be_backup: bool) -> None:
    """Raise StoreError if a file to write is a database of ours or belongs to one, by any name or
    link. With may_be_backup, an older backup may be replaced."""
    ours = [beside(database, suffix) for suffix in ("", *COMPANIONS)]
    owners = [target.with_name(target.name.removesuffix(suffix)) for suffix in COMPANIONS
              if target.name.endswith(suffix)]
    if (target.resolve() in [path.resolve() for path in ours]
            or (target.exists() and any(p.exists() and p.samefile(target) for p in ours))
            or any(map(read_kind, owners))
            or read_kind(target) not in ({None, "backup"} if may_be_backup else {None})):
        raise StoreError(f"{target} is a database or belongs to one; name another file")


@contextlib.contextmanager
def naming(name: str | Path) -> Iterator[None]:
    """An error of the system becomes a StoreError that says which file it is about."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise StoreError(f"{error.filename or name}: {error.strerror or error}") from None


@contextlib.contextmanager
def replacing(target: Path, database: Path, is_backup: bool = False) -> Iterator[Path]:
    """A file to write, which replaces target if all went well and is removed otherwise. A device
    or a pipe is not replaced but written to."""
    refuse_ours(target, database, is_backup)
    if target.exists() and not target.is_file() and not target.is_dir() and not is_backup:
        yield target
        return
    if target.is_symlink() or (target.exists() and not target.is_file()):
        raise StoreError(f"{target} is not a regular file; name another one")
    partial = beside(target, ".partial")
    refuse_ours(partial, database, True)        # what a killed backup left may go
    try:
        lock = acquire_lock(partial)
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


@contextlib.contextmanager
def writing(name: str, path: Path) -> Iterator[TextIO]:
    """Standard output for `-`, else a file that appears once all of it is written."""
    if name == "-":
        set_output("strict", "utf-8")           # data is UTF-8 everywhere
        yield sys.stdout
        return
    with replacing(Path(name).absolute(), path) as partial, \
            partial.open("w", encoding="utf-8", newline="") as file:
        yield file


# ------------------------------------------------------------------------------------------------
# 4. Questions
#    Law: Reader opens mode=ro and asks; no read transaction outlives the call that opened it.
# ------------------------------------------------------------------------------------------------
PAGE_ROWS = 500                 # rows read at a time while streaming; no read transaction is held
STEP_READINGS = 2000            # readings that one step of a question reads: about 2 ms
STEP_HOURS = 2000               # hourly summaries that one step reads: about 2 ms
MAX_SENSORS = 8                 # sensors of the air outside that are asked: 10 ms each
MAX_SCAN = 20_000               # readings read for one chart; with more, it shows hourly summaries

QUARTER = 15 * MINUTE           # the step of forecasts


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
    silence: int = SILENT_AT_LEAST      # see learn_silence; less while no pause is known
    console: int | None = None  # the station whose key also writes here: a console's outside
    offset: float = 0           # °C that are added to field 1 wherever it is shown


class Latest(NamedTuple):
    """The newest reading of a series; time and value are None if it has no readings."""
    series: int
    station: int
    field: int
    label: str | None
    time: int | None
    value: Any

    @property
    def kind(self) -> str:
        """Temperature, humidity or other."""
        return field_kind(self.field, self.label)

    @property
    def name_and_unit(self) -> tuple[str, str]:
        return split_label(self.field, self.label)


class Sensor(NamedTuple):
    """A field of a station outside."""
    name: str                   # of its station
    heard: int | None           # when that was heard last, by any field
    series: int
    label: str | None
    kind: str                   # see field_kind


class Note(NamedTuple):
    """What an entry carries besides numbers. All are None if it carries nothing else."""
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


class Row(NamedTuple):
    """A reading on its way out of or into a CSV file. entry is None where the source has none."""
    time: int
    station: str
    mac: str
    field: int
    value: Any
    entry: int | None


class Remarks:
    """What an import says at its end: what it left out, and which local times it read."""

    def __init__(self) -> None:
        self.left_out: collections.Counter[str] = collections.Counter()     # by reason
        self.where: Callable[[], str] = str         # names the row that is being read
        self.odd = ""                               # the reason for cells, with the first row
        self.clocks: list[float] = []               # the earliest and latest, as Unix times
        self.labels: dict[int, str] = {}            # by field: what the source calls it

    def skip(self, cell: object) -> None:
        """Count a cell that is no reading."""
        self.odd = self.odd or ("of the cells, which are no readings; the first is in "
                                f"{self.where()}: {str(cell)[:40]!r}")
        self.left_out[self.odd] += 1


Rows = Iterator[Row]
# What --import reads. A kind of CSV has a test of its first line and a function that reads its
# other lines; a table of SQLite has its name; any other kind of file begins with certain bytes.
CSV_KINDS: list[tuple[
    Callable[[list[str]], bool],
    Callable[[list[str], Iterator[list[str]], Station | None, Remarks], Rows]]] = []
TABLE_KINDS: dict[str, Callable[[sqlite3.Connection, Station | None, Remarks], Rows]] = {}
FILE_KINDS: dict[bytes, Callable[[BinaryIO, str, Station | None, Remarks], Rows]] = {}


def read_readings(db: sqlite3.Connection, series: int, start: tuple[int, int] = (0, 0),
                  end: tuple[int, int] = (LATEST_TIME, 0), limit: int = -1, order: str = "ASC",
                  table: str = "main.reading") -> list[tuple[int, int, Any]]:
    """(time, entry, value) from start to before end, both a time and an entry number. Values are
    as they were sent, unless table is a view of Reader.use_offsets."""
    return db.execute(f"""
        SELECT time, entry, value FROM {table} WHERE series = ? AND (time, entry) >= (?, ?)
        AND (time, entry) < (?, ?) ORDER BY time {order}, entry {order} LIMIT ?""",
        (series, *start, *end, limit)).fetchall()


def find_station(stations: Iterable[Station], name: str) -> Station:
    """A station by its name or its id. Raises StoreError."""
    stations = list(stations)
    if found := ([s for s in stations if s.name == name]
                 or [s for s in stations if str(s.id) == name]):
        return found[0]
    known = ", ".join(repr(s.name) for s in stations) or "none yet"
    raise StoreError(f"there is no station {name!r}; known stations: {known}. To register it: "
                     f"--add-station {shlex.quote(name)} --mac MAC, which is any word")

# Readings to delete, by :series, :start, :stop (of a step), :end, :below and :above. Of an hour
# with pruned readings only the summary is left, so it is deleted as a whole or not at all.
WHOLE = """(:below IS NULL AND :above IS NULL
            AND hour.hour * 3600000 >= :start AND (hour.hour + 1) * 3600000 <= :end)"""
WANTED = f"""series = :series AND time >= :start AND time < :stop
    AND ((:below IS NULL AND :above IS NULL)
         OR (typeof(value) <> 'text' AND (value < :below OR value > :above)))
    AND NOT EXISTS (SELECT 1 FROM hour WHERE hour.series = reading.series
                    AND hour.hour = time / 3600000 AND hour.pruned > 0 AND NOT {WHOLE})"""


def cut_span(start: int, end: int, hours: Iterable[Summary]) -> list[int]:
    """Instants that cut the span from start to end into steps of about STEP_READINGS readings, as
    estimated from the summaries of its hours."""
    cuts, count = [start], 0
    for hour in hours:
        count += hour.size - hour.pruned
        if parts := count // STEP_READINGS:
            cuts += [cut for i in range(1, parts + 1)
                     if start < (cut := hour.time + HOUR * i // parts) < end]
            count = 0
    return [*cuts, end]


def shift(celsius: float, offset: float) -> float:
    """A temperature with its station's offset, as Reader.use_offsets shows it."""
    return round(celsius + offset, 6) if offset else celsius


COUNTED = "(count - odd * (odd < count))"    # readings that an hour's summary is of
# Columns of the views that hide two tables; {0} is the offset of a series. Sums are rounded, so
# that 23.1 - 0.8 is 22.3.
OFFSET_VIEWS = {
    "reading": "series, time, entry, "
               "iif({0} = 0 OR typeof(value) = 'text', value, round(value + {0}, 6)) AS value",
    "hour": "series, hour, count, round(minimum + {0}, 6) AS minimum, "
            "round(maximum + {0}, 6) AS maximum, "
            f"total + {{0}} * {COUNTED} AS total, pruned, odd"}


# Columns of a Summary from rows of which those that fit count.
SUMS = """sum({0}), {1}, total({2}) FILTER (WHERE {3}), min({4}) FILTER (WHERE {3}),
    max({5}) FILTER (WHERE {3}), max(-1.7e308, min(1.7e308, total({6}) FILTER (WHERE {3})))"""
READ_HOURS = f"""SELECT min(hour) * {HOUR}, {HOUR}, {SUMS.format(
    "count", "sum(pruned)", COUNTED, "minimum >= ?6 AND maximum <= ?7", "minimum", "maximum",
    "total")}
    FROM hour WHERE series = ?1 AND hour BETWEEN ?2 AND ?3 GROUP BY (hour - ?4) / ?5 ORDER BY 1"""
READ_SAMPLES = f"""SELECT min(time), 0, {SUMS.format(
    "1", "0", "1", "value BETWEEN ?6 AND ?7", "value", "value", "value")}
    FROM (SELECT time, entry, value FROM reading WHERE series = ?1 AND time >= ?2 AND time < ?3
          ORDER BY time DESC, entry DESC LIMIT {MAX_SCAN})
    WHERE typeof(value) <> 'text'       -- texts have no count
    GROUP BY time / {HOUR}, (time - ?4) / ?5, entry * ?8 ORDER BY time, entry"""


class Reader:
    """Every question asked of the file, on a connection that cannot write."""

    def __init__(self, path: Path):
        self.path = path
        self.offsets: dict[int, float] = {}     # °C, by series; see use_offsets
        self.limits: dict[int, tuple[float, float]] = {}    # see possible
        self.db = connect(path, "ro")
        try:
            layout = ask(self.db, "PRAGMA user_version")
        except sqlite3.DatabaseError as error:
            self.close()
            raise StoreError(f"{path}: {error}; {advise(error)}") from None
        if 0 < layout < len(MIGRATIONS):
            self.close()
            raise StoreError(f"{path} has layout {layout}, of an older iotserver; start the "
                             f"server of this version ({__version__}) once, which updates it")

    def close(self) -> None:
        self.db.close()

    def use_offsets(self) -> None:
        """Show temperatures with the offsets of their stations from now on. On this connection
        views hide the tables, which are still there as main.reading and main.hour."""
        offsets = dict(self.db.execute("""
            SELECT series.id, offset FROM series JOIN station ON station.id = series.station
            WHERE field = 1 AND offset <> 0""").fetchall())
        self.limits.clear()
        if offsets == self.offsets:
            return
        self.offsets = offsets
        cases = " ".join(f"WHEN {series} THEN {offset!r}" for series, offset in offsets.items())
        for table, columns in OFFSET_VIEWS.items():
            self.db.execute(f"DROP VIEW IF EXISTS temp.{table}")
            if offsets:
                shown = columns.format(f"(CASE series {cases} ELSE 0 END)")
                self.db.execute(f"CREATE TEMP VIEW {table} AS SELECT {shown} FROM main.{table}")

    def look(self) -> None:
        """Check that the file can be read and has not been removed. Raises StoreError."""
        self.count_stations()
        if not self.path.exists():
            raise StoreError(f"{self.path} is gone")

    def stations(self, which: str = "ORDER BY id", *values: Any) -> list[Station]:
        """All stations, or those that `which`, the end of a SELECT, chooses."""
        return [Station(*row) for row in self.db.execute(f"SELECT * FROM station {which}", values)]

    def count_stations(self) -> int:
        return int(ask(self.db, "SELECT count(*) FROM station"))

    def entries(self, stations: Iterable[int]) -> dict[int, int]:
        """{station: number of entries ever stored} for these stations."""
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
        """The time of the newest reading up to now, or of its hour if it was pruned."""
        return cast("int | None", ask(self.db, """
            SELECT coalesce((SELECT max(time) FROM reading WHERE series = ?1 AND time <= ?2),
                ?3 * (SELECT max(hour) FROM hour WHERE series = ?1 AND hour <= ?2 / ?3))""",
            (series, now, HOUR)))

    def series(self, station: int, fields: Iterable[int] = range(1, 10)) -> dict[int, int]:
        """{field: its series}, of these fields."""
        return {field: series for series, field in self.db.execute(
            "SELECT id, field FROM series WHERE station = ? ORDER BY field", (station,))
            if field in fields}

    def span(self, series: int, start: int | None, end: int) -> tuple[int, int]:
        """The part of [start, end) in which the series has hours. Without a start it begins after
        EARLIEST_TIME if it can, because a clock that was never set leaves readings of 1970."""
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

    def recent(self, series: int | None, start: int, end: int,
               limits: tuple[float, float] = POSSIBLE) -> list[Sample]:
        """The last possible value, of a temperature unless other limits are given, of each minute
        of [start, end). The query jumps from minute to minute, so its cost does not grow with the
        readings in a minute."""
        return self.db.execute("""
            WITH RECURSIVE last (time) AS (
                SELECT ?3 + 60000 UNION ALL SELECT (
                    SELECT r.time FROM main.reading r WHERE series = ?1 AND r.time >= ?2
                    AND r.time < min(?3, last.time / 60000 * 60000) AND value BETWEEN ?4 AND ?5
                    ORDER BY r.time DESC LIMIT 1)
                FROM last WHERE time NOT NULL)
            SELECT time, (
                SELECT round(value + ?6, 6) FROM main.reading r WHERE series = ?1
                AND r.time = last.time AND value BETWEEN ?4 AND ?5 ORDER BY entry DESC LIMIT 1)
            FROM last WHERE time < ?3 ORDER BY time""",
            (series, start, end, *limits, self.offsets.get(series or 0, 0))).fetchall()

    def thermometer(self, station: int) -> int | None:
        """The series of a station's temperature; None if field 1 is something else, or new."""
        return cast("int | None", ask(self.db, """
            SELECT id FROM series WHERE station = ? AND field = 1
            AND field_kind(field, label) = 'temperature'""", (station,)))

    def possible(self, series: int) -> tuple[float, float]:
        """The limits of a series as it is shown: of a thermometer, POSSIBLE with its offset."""
        if series not in self.limits:
            kind = ask(self.db, "SELECT field_kind(field, label) FROM series WHERE id = ?",
                       (series,))
            low, high = POSSIBLE if kind == "temperature" else ANY_NUMBER
            offset = self.offsets.get(series, 0)
            self.limits[series] = shift(low, offset), shift(high, offset)
        return self.limits[series]

    def is_odd(self, newest: Latest) -> bool:
        """Whether a thermometer's newest reading is impossible or a text: no sign of life."""
        if newest.kind != "temperature" or newest.value is None:
            return False
        low, high = self.possible(newest.series)
        return isinstance(newest.value, str) or not low <= newest.value <= high

    def quarters(self, series: Iterable[int], end: int) -> list[list[Sample]]:
        """For each series the last three possible temperatures of the quarter of an hour up to
        end, in order. The mean of a pruned hour counts as a reading at its end."""
        return [self.db.execute(f"""
            SELECT time, value FROM (
                SELECT time, entry, value FROM reading WHERE series = ?1 AND time > ?2 - ?3
                AND time <= ?2 AND value BETWEEN ?4 AND ?5
                ORDER BY time DESC, entry DESC LIMIT 3)
            UNION ALL SELECT ?2, total / {COUNTED} FROM hour
            WHERE series = ?1 AND hour = ?2 / 3600000 - 1 AND ?2 % 3600000 = 0
            AND pruned = count AND minimum >= ?4 AND maximum <= ?5""",
            (one, end, QUARTER, *self.possible(one))).fetchall()[::-1] for one in series]

    async def extremes(self, series: int, start: int, end: int) -> list[Sample]:
        """The lowest and the highest possible temperature of [start, end) with their times; empty
        if there is none."""
        found: list[Sample] = []
        for part in itertools.pairwise(cut_span(start, end, await self.hours(series, start, end))):
            for extreme in ("min", "max"):
                found += self.db.execute(f"""
                    SELECT time, {extreme}(value) FROM reading WHERE series = ? AND time >= ?
                    AND time < ? AND value BETWEEN ? AND ? HAVING count(*)""",
                    (series, *part, *self.possible(series)))
            await pause()
        return find_extremes(found)

    def recent_times(self, series: int, now: int) -> list[int]:
        """The times of the last twenty readings up to now, in order."""
        newest = read_readings(self.db, series, end=(now + 1, 0), limit=20, order="DESC")
        return [ms for ms, _, _ in reversed(newest)]

    async def first_hour(self) -> int | None:
        """The time of the first hour after EARLIEST_TIME in any series; None if there is none."""
        hours, last = [], ask(self.db, "SELECT max(id) FROM series")
        for id in range(0, 0 if last is None else last + 1, STEP_ENTRIES):
            await pause()
            hours.append(ask(self.db, """SELECT min((SELECT min(hour) FROM hour WHERE series = id
                AND hour >= ?)) FROM series WHERE id BETWEEN ? AND ?""",
                (EARLIEST_TIME // HOUR, id, id + STEP_ENTRIES - 1)))
        return min((hour * HOUR for hour in hours if hour is not None), default=None)

    def weights(self) -> tuple[int, int]:
        """Bytes that the database and its log occupy."""
        log = beside(self.path, "-wal")
        return self.path.stat().st_size, log.stat().st_size if log.exists() else 0

    async def points(self, series: int, start: int | None, end: int, limit: int, *,
                     as_sent: bool = False) -> list[Point]:
        """Readings of [start, end), thinned to at most limit Points if more. Hours of which
        readings were pruned appear as their summaries. Impossible temperatures are left out, but
        as_sent keeps those that are not thinned. The cost is bounded by MAX_SCAN readings or the
        hours of the span, whatever the number of readings."""
        start, end = self.span(series, start, end)
        origin, width = start // HOUR * HOUR, -(-(end - start) // limit)
        many = -(-(end - origin) // (limit * HOUR))         # hours in one point
        hours = await self.hours(series, start, end, many)
        count = sum(hour.size for hour in hours)
        if count > limit and (width >= HOUR or count > MAX_SCAN):
            return [point._replace(time=max(start, point.time))
                    for point in await thin(hours, range(origin, end + many * HOUR, many * HOUR))]
        if count > limit:
            samples = await self.samples(series, start, end, width)
            if sum(1 if sample.pruned else sample.size for sample in samples) > limit:
                return await thin(samples, range(start, end + width, width))
        limits = ANY_NUMBER if as_sent else self.possible(series)
        return [sample.point for sample in await self.samples(series, start, end, limits=limits)
                if sample.counted]

    async def hours(self, series: int, start: int, end: int, many: int = 1) -> list[Summary]:
        """The summaries of all hours that touch [start, end), or of groups of `many` hours. Hours
        with an impossible minimum or maximum do not count."""
        hours, first, last = list[Summary](), start // HOUR, (end - 1) // HOUR
        for begin in range(first, last + 1, STEP_HOURS):
            hours += map(Summary._make, self.db.execute(READ_HOURS, (
                series, begin, min(last, begin + STEP_HOURS - 1), first, many,
                *self.possible(series))))
            await pause()
        return hours

    async def samples(self, series: int, start: int, end: int, width: int = 0,
                      limits: tuple[float, float] | None = None) -> list[Summary]:
        """The readings of hours that still have all of them, and the summaries of other hours, in
        order of time. With a width, SQLite sums up the readings of every width ms, which takes a
        fifth of the time that Python needs. Readings beyond the limits do not count."""
        hours = await self.hours(series, start, end)
        pruned = {hour.time: hour for hour in hours if hour.pruned}
        found = [hour._replace(time=max(hour.time, start))
                 for hour in pruned.values() if hour.counted]
        for begin, stop in itertools.pairwise(cut_span(start, end, hours)):
            found += [Summary._make(row) for row in self.db.execute(READ_SAMPLES, (
                series, begin, stop, start, width or 1, *(limits or self.possible(series)),
                not width)) if row[0] // HOUR * HOUR not in pruned]
            await pause()
        return sorted(found, key=operator.attrgetter("time"))

    def rows(self, station: Station, fields: Iterable[int] = range(1, 10),
             start: int = 0, end: int = LATEST_TIME) -> Iterator[Row]:
        """All readings of a station in order of time, read page by page as they are taken."""
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

    def count(self, before: int = LATEST_TIME, station: int | None = None) -> int:
        """Readings in the table, or those before an instant, or those of one station."""
        return int(ask(self.db, """SELECT total((SELECT count(*) FROM reading WHERE series = id
            AND time < ?)) FROM series WHERE station = ifnull(?, station)""", (before, station)))

    def count_unsent(self, before: int) -> int:
        """The number of readings before an instant that have yet to be forwarded."""
        return int(ask(self.db, """
            SELECT total((SELECT count(*) FROM reading r WHERE r.series = u.series AND r.time < ?
                          AND (r.time, r.entry) >= (u.time, u.entry) AND typeof(value) <> 'text'))
            FROM unsent u WHERE EXISTS (SELECT 1 FROM forward)""", (before,)))

    def count_wanted(self, series: int, wanted: dict[str, Any]) -> tuple[int, Value, Value, int]:
        """How many readings delete_step would take, the lowest value and the highest number of
        them, and how many pruned hours stay as they are."""
        return cast(tuple[int, Value, Value, int], self.db.execute(f"""
            SELECT count(*), min(value), max(iif(typeof(value) = 'text', NULL, value)), (
                SELECT count(*) FROM hour WHERE series = :series AND hour >= :start / 3600000
                AND hour * 3600000 < :end AND pruned > 0 AND NOT {WHOLE}
                AND ((:below IS NULL AND :above IS NULL) OR odd > 0
                     OR minimum < :below OR maximum > :above))
            FROM reading WHERE {WANTED}""", {**wanted, "series": series, "stop": wanted["end"]}
            ).fetchone())

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
        damage, mistakes = list[str](), list[str]()
        try:
            found = self.db.execute("PRAGMA integrity_check").fetchall()
            damage += [text for text, in found if text != "ok"]
            damage += [f"{table}: row without its {parent}" for table, _, parent, _ in
                       self.db.execute("PRAGMA foreign_key_check")]
            mistakes += check_owners(self)
            for series, in self.db.execute("SELECT id FROM series").fetchall():
                self.db.execute("BEGIN")        # readings and summaries of one instant
                mistakes += check_series(self, series)
                self.db.execute("COMMIT")
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
            damage.append(str(error))
        self.db.set_progress_handler(None, 0)
        return damage, mistakes


def check_owners(reader: Reader) -> list[str]:
    """The problems of readings and summaries that are of no station's series."""
    return [f"table {table} has rows of series {series}, which no station has"
            for table in ("reading", "hour") for series, in reader.db.execute(
                f"SELECT DISTINCT series FROM {table} "
                "WHERE series NOT IN (SELECT id FROM series)")]


def last_possible(db: sqlite3.Connection, series: int, now: int) -> int | None:
    """When the newest possible temperature up to now was; its hour if it was pruned."""
    last: int | None = ask(db, """
        SELECT coalesce((SELECT max(time) FROM main.reading WHERE reading.series = hour.series
                         AND time BETWEEN hour * 3600000 AND min(?2, hour * 3600000 + 3599999)
                         AND value BETWEEN ?3 AND ?4), hour * 3600000) AS last
        FROM main.hour WHERE series = ?1 AND hour <= ?2 / 3600000
        AND odd < count AND minimum <= ?4 AND maximum >= ?3 ORDER BY hour DESC LIMIT 1""",
                           (series, now, *POSSIBLE))
    return last


def next_time(db: sqlite3.Connection, series: int, now: int) -> int:
    """When the first reading after now is, whose clock is ahead; LATEST_TIME if there is none."""
    found = read_readings(db, series, (now + 1, 0), limit=1)
    return found[0][0] if found else LATEST_TIME


def read_odd(db: sqlite3.Connection, series: int, now: int) -> float | None:
    """The newest value of a series up to now if it is an impossible temperature."""
    low, high = POSSIBLE
    newest = read_readings(db, series, end=(now + 1, 0), limit=1, order="DESC")
    return next((value for _, _, value in newest
                 if not (isinstance(value, str) or low <= value <= high)), None)


def read_humidity(db: sqlite3.Connection, station: int, now: int) -> Sample | None:
    """The newest humidity up to now."""
    row: Sample | None = db.execute("""
        SELECT time, value FROM series JOIN main.reading ON reading.series = series.id
        WHERE station = ? AND field = 2 AND time <= ? AND typeof(value) <> 'text'
        AND field_kind(field, label) = 'humidity'
        ORDER BY time DESC, entry DESC LIMIT 1""", (station, now)).fetchone()
    return row


def read_sensors(db: sqlite3.Connection, *kinds: str) -> list[Sensor]:
    """Up to MAX_SENSORS fields of stations outside that are of these kinds."""
    return [Sensor(*row) for row in db.execute("""
        SELECT name, heard, series.id, label, field_kind(field, label) AS kind
        FROM series JOIN station ON station.id = series.station
        WHERE role = 'outside' AND (field = 2 OR label LIKE 'pm2.5%' OR label LIKE '%rain%')
        AND kind IN (SELECT value FROM json_each(?)) ORDER BY series.id LIMIT ?""",
        (json.dumps(kinds), MAX_SENSORS))]


def is_thermometer(reader: Reader, station: Station) -> bool:
    """Whether a station has sent a temperature, or nothing yet."""
    return not station.last_entry or bool(ask(
        reader.db, "SELECT EXISTS (SELECT 1 FROM main.hour WHERE series = ?)",
        (reader.thermometer(station.id),)))


def read_courses(db: sqlite3.Connection) -> list[tuple[int, int, str, int, str, int]]:
    """For each room the id of its inside station and what its verdict goes on from."""
    return db.execute("SELECT * FROM course").fetchall()


def read_admitted(db: sqlite3.Connection) -> list[bytes]:
    """The pairs of address and key that were right, the oldest first."""
    return [pair for pair, in db.execute("SELECT pair FROM admitted ORDER BY id")]


def is_summary(stored: Sequence[Any], real: Sequence[Any]) -> bool:
    """Whether count, minimum, maximum, total, pruned and odd of an hour are those of its readings.
    Of an hour with pruned readings only the count can be compared."""
    (count, low, high, total, pruned, odd), (size, *ends, true_total, _, true_odd) = stored, real
    most = count * max(abs(low), abs(high))
    return count == size + pruned and (pruned > 0 or (
        [low, high, odd] == [*ends, true_odd] and (most > LARGEST or math.isclose(  # was bounded
            total, true_total, abs_tol=1e-9 * max(count, most)))))


def check_series(reader: Reader, series: int) -> list[str]:
    """The problems of a series' summaries. Each has to be that of the possible temperatures among
    its readings or, as other fields and older versions have it, that of all readings."""
    raw = {hour: (rest[:6], rest[6:]) for hour, *rest in reader.db.execute(f"""
        SELECT time / 3600000, {SUMMARY.format(fit="TRUE")}, {SUMMARY.format(fit=FIT)}
        FROM reading WHERE series = ? AND typeof(value) <> 'text' GROUP BY 1""", (series,))}
    nothing = [[0, None, None, 0, 0, 0]] * 2
    problems = [f"series {series}, hour from {format_time(hour * HOUR)}: "
                "the summary is not that of its readings"
                for hour, *stored in reader.db.execute("""
                    SELECT hour, count, minimum, maximum, total, pruned, odd FROM main.hour
                    WHERE series = ? ORDER BY hour""", (series,))
                if not any(is_summary(stored, real) for real in raw.pop(hour, nothing))]
    return problems + [f"series {series}, hour from {format_time(hour * HOUR)}: no summary"
                       for hour in raw]


async def count_from(db: sqlite3.Connection, places: Mapping[int, tuple[int, int]]) -> int:
    """How many numbers these series have from their places on."""
    total = 0
    for series, place in tuple(places.items()):
        total += ask(db, """
            SELECT (SELECT count(*) FROM reading WHERE series = ?1 AND typeof(value) <> 'text'
                    AND (time, entry) >= (?2, ?3) AND time < (?4 + 1) * 3600000)
                + (SELECT total(count - pruned) FROM hour WHERE series = ?1 AND hour > ?4)""",
            (series, *place, place[0] // HOUR))
        await pause()
    return int(total)


# ------------------------------------------------------------------------------------------------
# 5. Changes
#    Law: Writer is the only connection that writes or checkpoints, through one transaction().
# ------------------------------------------------------------------------------------------------
MAX_ADMITTED = 10_000           # pairs of address and key that are kept; 50 bytes each
RECEIPT_STATIONS = 1000         # stations with a filter of their seqs in memory: 16 KB each

CHECKPOINT_PAGES = 1000         # 4 MB of log: SQLite's own figure
STEP_PAGES = 500                # pages given back in one step


def refuse_taken(stations: Iterable[Station], key: str | None, name: str = "", mac: str = ""
                 ) -> None:
    """Raise StoreError when a station has this MAC, name or key (SHA-256 in hex) already. One that
    an import has left without a key may be registered under its MAC."""
    stations = list(stations)
    imported = next((s for s in stations if s.mac == mac), None)
    if imported and (imported.key or imported.console):
        raise StoreError(f"MAC {mac} already belongs to station {imported.name!r}; "
                         f"--new-key {shlex.quote(imported.name)} gives it a new key")
    if any(name == s.name and s is not imported for s in stations):
        raise StoreError(f"there is a station {name!r} already; --new-key {shlex.quote(name)} "
                         "gives it a new key")
    if key and any(bytes.fromhex(key) in (s.key, s.next_key) for s in stations):
        raise StoreError("another station has this key already; choose another one")


class Newcomer(NamedTuple):
    """A station to register."""
    name: str
    mac: str
    role: str | None
    labels: Iterable[str] = ()  # of fields 1, 2, ...


# By option of --add-station: the stations that it registers together, of which the first one's key
# writes for all, and what says how to go on. Without an option it is one plain station.
STATION_KINDS: dict[str, Callable[
    [argparse.Namespace, str], tuple[list[Newcomer], Callable[..., str]]]] = {}


def hash_seq(field: int, seq: str) -> bytes:
    """Eight bytes for a seq of a field. Among 1,000 of them no collision is to be expected."""
    return hashlib.blake2b(f"{field} {seq}".encode(), digest_size=8).digest()


@dataclasses.dataclass(slots=True)
class Seqs:
    """A Bloom filter of the hashes in a station's receipts. A hash sets 2 of 131,072 bits. With
    2,000 receipts about 1 new hash in 1,000 seems known, which costs a question to the file."""
    bits: bytearray = dataclasses.field(default_factory=lambda: bytearray(1 << 14))
    count: int = 0

    def add(self, seq: bytes) -> None:
        self.bits[seq[0] << 6 | seq[1] >> 2] |= 1 << (seq[2] & 7)
        self.bits[seq[3] << 6 | seq[4] >> 2] |= 1 << (seq[5] & 7)
        self.count += 1

    def __contains__(self, seq: bytes) -> bool:
        return (self.bits[seq[0] << 6 | seq[1] >> 2] >> (seq[2] & 7)
                & self.bits[seq[3] << 6 | seq[4] >> 2] >> (seq[5] & 7) & 1 == 1)


@dataclasses.dataclass(slots=True)
class Batch:
    """What one turn wants stored."""
    readings: list[tuple[int, int, int, Value]] = dataclasses.field(default_factory=list)
    notes: list[tuple[Any, ...]] = dataclasses.field(default_factory=list)
    receipts: dict[tuple[int, bytes], int] = dataclasses.field(default_factory=dict)
    found: dict[tuple[int, bytes], int] = dataclasses.field(default_factory=dict)   # by add_all
    series: list[tuple[int, int, int]] = dataclasses.field(default_factory=list)
    labels: list[tuple[str, int, int, str | None]] = dataclasses.field(default_factory=list)
    stations: dict[int, Station] = dataclasses.field(default_factory=dict)
    promoted: set[int] = dataclasses.field(default_factory=set)     # next key was used
    admitted: list[bytes] = dataclasses.field(default_factory=list)     # see Access.admit
    parts: list[Station] = dataclasses.field(default_factory=list)  # rooms of consoles
    now: int = 0                # when its updates arrived; 0 in an import
    entries: int = 0            # entries to store
    repeated: int = 0           # readings that were stored before


LABEL = """INSERT INTO series (station, field, label) VALUES (?, ?, ?)
           ON CONFLICT (station, field) DO UPDATE SET label = excluded.label"""


def open_reader(path: Path) -> Reader:
    """A Reader for a command, whose process has no other connection to the file."""
    require_database(path)
    return Reader(path)


class ImportStep:
    """A step of an import, within a transaction of the Writer: new readings become a batch, known
    ones are counted. A reading is known by its series, time and entry number, or else by its
    series, time and value; if the table already has n equal readings, the first n equal rows are
    skipped. An hour with pruned readings takes no more, since its summary may include them."""

    def __init__(self, writer: "Writer", now: int):
        self.writer, self.db, self.now, self.batch = writer, writer.db, now, Batch()
        self.known = self.pruned = 0

    def add(self, rows: Iterable[Sequence[Any]]) -> None:
        """Rows in order of time."""
        by_mac, ids, instant = self.writer.by_mac, self.writer.series, -1
        describe = functools.lru_cache(maxsize=None)(self._describe_hour)
        for ms, name, mac, field, value, entry in rows:
            if ms != instant:
                instant = ms
                # By series, {entry: value}; the value is None once a row was matched with it.
                readings: dict[int, dict[int | None, Value | None]] = {}
                # By station and number in the file: our number, which all fields share.
                numbers: dict[tuple[int, int | None], int] = {}
            if (station := by_mac.get(mac)) is None:
                station = self.writer.adopt(name, mac, self.now)
                self.db.execute("INSERT INTO station (id, name, mac, created) VALUES (?, ?, ?, ?)",
                                (station.id, station.name, mac, self.now))
            if (series := ids.get((station.id, field))) is None:
                series = self.writer.new_series(self.batch, station.id, field)
            if (there := readings.get(series)) is None:
                has_readings, has_pruned = describe(series, ms // HOUR)
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

    def _describe_hour(self, series: int, hour: int) -> tuple[int, int]:
        """Whether an hour has readings in the table, and whether any of it were pruned."""
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


ON_WRITE: list[Callable[["Database", Batch], None]] = []    # within the transaction of a batch
# Small tables whose rows go with a station, by the column that names it or its series.
OWNED = dict.fromkeys(("series", "receipt", "gap", "course"), "station")


class Database:
    """The file as the one process that writes has it: lock, layout, transactions and log. Updates
    are added to an open batch, which commit() stores at the end of the turn."""

    def __init__(self, path: Path):
        """Raises StoreError, BlockingIOError."""
        self.path, self.waits = path, BUSY_MS   # ms, for another program's transaction
        self.pages = CHECKPOINT_PAGES   # a log that an earlier process left is checkpointed soon
        self.end_turn: Callable[[], object] = self.commit       # a server also answers it
        self.changed: Callable[[], object] = lambda: None       # stations or history changed
        refuse_foreign(path)
        with contextlib.ExitStack() as stack:
            stack.enter_context(contextlib.closing(acquire_lock(path)))
            refuse_foreign(path)        # again: now nobody else can make it
            self.db = stack.enter_context(contextlib.closing(connect(path, "rwc")))
            try:
                self._prepare()
                self.load()
            except (sqlite3.Error, UnicodeDecodeError) as error:
                raise StoreError(f"{path}: {error}; {advise(error)}") from None
            self.opened = {      # our file, its log, its index
                suffix: os.stat(beside(path, suffix)) for suffix in ("", "-wal", "-shm")}
            # It can be read when it is removed. Closing it drops no lock: SQLite has none on it.
            self.log = stack.enter_context(beside(path, "-wal").open("rb"))
            self.held = stack.pop_all()         # all is well: they stay open

    def _prepare(self) -> None:
        version = ask(self.db, "PRAGMA user_version")
        if not version:     # else a start writes nothing, so a full disk does not prevent it
            self.db.execute("PRAGMA auto_vacuum = INCREMENTAL")  # only before the first table
        self.db.create_function("hash_seq", 2, hash_seq)
        for number, script in enumerate(MIGRATIONS[version:], version + 1):
            self.db.executescript(f"""BEGIN IMMEDIATE; {script};
                PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {number};
                COMMIT;""")
        if ask(self.db, "PRAGMA journal_mode = WAL") != "wal":
            raise StoreError(f"{self.path}: this file system cannot hold a write-ahead log; "
                             "put the database on a local disk")
        for pragma in WRITER_PRAGMAS:
            self.db.execute(f"PRAGMA {pragma}")

    def load(self) -> None:
        """Read stations and series from the file. Call this only in or after a transaction, which
        has ended the open turn. The batch is emptied, because what refused updates left in it is
        about stations and keys as they were before."""
        self.batch = Batch()            # what this turn brought, not yet stored
        self.known_seqs: dict[int, Seqs] = {}   # filters of stations that sent last
        self.stations = {
            row[0]: Station(*row) for row in self.db.execute("SELECT * FROM station ORDER BY id")}
        self.by_mac = {station.mac: station for station in self.stations.values()}
        self.index_keys()
        rows = self.db.execute("SELECT id, station, field, label FROM series").fetchall()
        self.series_places: dict[int, tuple[int, int]] = {
            series: (station, field) for series, station, field, _ in rows}
        self.thermometers = {
            series for series, _, *field in rows if field_kind(*field) == "temperature"}
        self.series = {place: series for series, place in self.series_places.items()}
        last: dict[str, int] = dict(self.db.execute("SELECT * FROM sqlite_sequence").fetchall())
        self.next_series = last.get("series", -1) + 1
        self.next_station = last.get("station", 0) + 1
        self.parts: dict[Any, Any] = {}         # see part_of

    def index_keys(self) -> None:
        self.by_key = {key: station for station in self.stations.values()
                       for key in (station.key, station.next_key) if key}

    def is_in_place(self, *suffixes: str) -> bool:
        """Whether the files under our path, or those with these suffixes, are still ours."""
        try:
            return all(os.path.samestat(os.stat(beside(self.path, suffix)), self.opened[suffix])
                       for suffix in suffixes or self.opened)
        except OSError:
            return False

    def save_log(self) -> None:
        """Somebody has removed or replaced a file that we have open. Move what the log holds into
        the database, wherever that is now. A log that was removed is put back as well: another
        program may keep some of it from being moved, and read on when the next server starts. A
        log whose database was replaced is removed, or renamed where some of it could not be moved:
        SQLite would write it into the new one."""
        is_left = 1
        with contextlib.suppress(sqlite3.Error):        # what is put back has all of it
            self.db.execute("PRAGMA busy_timeout = 1000")   # for programs that read a moment
            is_left, = self.db.execute("PRAGMA wal_checkpoint(FULL)").fetchone()[:1]
        wal, partial = beside(self.path, "-wal"), beside(self.path, "-wal.partial")
        if not self.is_in_place(""):
            if is_left and self.is_in_place("-wal"):
                saved = beside(self.path, ".saved")
                wal.replace(beside(saved, "-wal"))
                log(f"another program still reads the file that was {self.path}, so some of its "
                    f"readings are only in {saved}-wal; rename that file to {saved} to join them")
            for suffix in filter(self.is_in_place, ("-wal", "-shm")):
                beside(self.path, suffix).unlink()
        elif not self.is_in_place("-wal"):
            with partial.open("wb") as file:
                self.log.seek(0)
                shutil.copyfileobj(self.log, file)
            sync(partial)
            partial.replace(wal)
            sync(self.path.parent)

    def close(self) -> None:
        if not self.is_in_place():
            self.save_log()
        self.opened = {}
        self.held.close()               # SQLite checkpoints and removes the log

    @contextlib.contextmanager
    def transaction(self, places: int = 3) -> Iterator[sqlite3.Connection]:
        """The only way to change the file: all of a change becomes durable, or none of it. After
        an error, memory is read from the file again. The open turn is ended first, so it is
        neither lost nor mixed with this change. places estimates how many separate parts of the
        file change: each costs the log a page or two."""
        if self.batch.stations:
            self.end_turn()
        before = self.db.total_changes
        try:
            self.db.execute("BEGIN IMMEDIATE")
            yield self.db
            self.db.execute("COMMIT")
        except BaseException:
            if self.db.in_transaction:
                self.db.execute("ROLLBACK")
            else:                       # another program's goes on, and all clients would wait
                self.waits, = self.db.execute("PRAGMA busy_timeout = 0").fetchone()
            self.load()
            raise
        if not self.waits:
            self.waits, = self.db.execute(f"PRAGMA busy_timeout = {BUSY_MS}").fetchone()
        self.pages += 2 * places + (self.db.total_changes - before) // 50
        if self.pages >= CHECKPOINT_PAGES:
            self.checkpoint()

    @contextlib.contextmanager
    def change(self) -> Iterator[sqlite3.Connection]:
        """A transaction that changes stations. Memory and what depends on it are renewed."""
        with self.transaction() as db:
            yield db
        self.load()
        self.changed()

    def checkpoint(self) -> None:
        """Move the log into the database. A full disk only postpones it; other errors do not."""
        self.pages = 0
        try:
            self.db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        except sqlite3.Error as error:
            if is_fatal(error):
                raise

    def add(self, station: Station, reading: Reading, now: int) -> int:
        """Put a reading into the open batch. Its entry number may be answered after the commit."""
        if reading.seq is not None:
            seq = hash_seq(reading.field, reading.seq)
            if (entry := self.find_receipt(station.id, seq)) is not None:
                self.batch.stations[station.id], self.batch.now = station, now
                self.batch.repeated += 1
                return entry
            self.batch.receipts[station.id, seq] = station.last_entry + 1
        ms = max(0, min(now - reading.age, LATEST_TIME - 1))    # kept even if the clock is wrong
        return self.add_entry(station, ms, {reading.field: reading.value}, now)

    def find_receipt(self, station: int, seq: bytes) -> int | None:
        """The entry of the reading that came with this hash before; None if it is new. Nearly all
        are new, so the file is asked only for a hash that it may have."""
        batch, key = self.batch, (station, seq)
        entry = batch.receipts.get(key, batch.found.get(key))
        if entry is None and seq in self.read_seqs(station):
            entry = ask(self.db, "SELECT entry FROM receipt WHERE station = ? AND hash = ?",
                        (station, seq))
        return entry

    def read_seqs(self, station: int) -> Seqs:
        """The filter of the hashes that the file has of a station."""
        if (known := self.known_seqs.get(station)) is None:
            if len(self.known_seqs) >= RECEIPT_STATIONS:
                self.known_seqs.clear()
            known = self.known_seqs[station] = Seqs()
            for hash, in self.db.execute("SELECT hash FROM receipt WHERE station = ?", (station,)):
                known.add(hash)
        return known

    def add_entry(self, station: Station, ms: int, values: Mapping[int, Value], now: int,
                  note: Note | None = None) -> int:
        """Put an entry of values by field into the open batch. Returns its number."""
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
        if field == 1:
            self.thermometers.add(series)
        self.next_series += 1
        batch.series.append((series, station, field))
        return series

    def adopt(self, name: str, mac: str, now: int) -> Station:
        """A new station for an unknown MAC, in memory only. It has no key until --new-key."""
        taken = {station.name for station in self.stations.values()}
        names = itertools.chain((name, mac), (f"{mac} {n}" for n in itertools.count(2)))
        free = next(name for name in names if is_name(name) and name not in taken)
        station = Station(self.next_station, free, mac, created=now)
        self.stations[station.id] = self.by_mac[mac] = station
        self.next_station += 1
        return station

    def holder(self, station: Station) -> Station:
        """The station whose key writes for this one: its own, or that of its console."""
        return self.stations[station.console] if station.console and not station.key else station

    def adopt_part(self, owner: Station, name: str, mac: str, now: int) -> Station | None:
        """The station with this MAC, for which the owner's key writes. A new one is stored with
        the batch. None if name or MAC belong to a station that was registered separately."""
        part = self.by_mac.get(mac)
        if part is None:
            if len(mac) > MAX_MAC or {name, mac} <= {s.name for s in self.stations.values()}:
                return None
            part = self.adopt(name, mac, now)
        if part.console != owner.id:
            if part.key or part.console:
                return None
            part.console = owner.id             # an import may have left it, without a key
            self.batch.parts.append(part)
        return part

    def commit(self) -> Batch:
        """Store the open batch durably and return it. Raises sqlite3.Error if none is stored."""
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
        if batch.labels:                # an empty executemany costs each turn 0.5 us
            self.db.executemany("UPDATE series SET label = ? WHERE station = ? AND field = ? "
                                "AND label IS ?", batch.labels)
        self.db.executemany("INSERT INTO reading VALUES (?, ?, ?, ?)", batch.readings)
        for follow_up in ON_WRITE:
            follow_up(self, batch)
        hours, odd = summarize(batch.readings, self.thermometers)
        self.db.executemany(ADD_HOUR, [(*place, *summary) for place, summary in hours.items()])
        if odd:
            self.db.executemany(ADD_ODD_HOUR, [
                (*place, *summary) for place, summary in odd.items()])
        self.db.executemany("INSERT INTO note VALUES (?, ?, ?, ?, ?, ?, ?)", batch.notes)
        self.db.executemany("INSERT INTO receipt VALUES (?, ?, ?)", [
            (station, entry, seq) for (station, seq), entry in batch.receipts.items()])
        for sender, seq in batch.receipts:
            self.read_seqs(sender).add(seq)
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
        if batch.admitted:
            self.db.executemany("INSERT OR IGNORE INTO admitted (pair) VALUES (?)",
                                [(pair,) for pair in batch.admitted])
            self.db.execute("DELETE FROM admitted WHERE id <= (SELECT max(id) FROM admitted) - ?",
                            (MAX_ADMITTED,))


class Writer(Database):
    """Everything that changes the file: updates, and the steps of commands, each so short that a
    server can carry it out between two updates."""

    def keep_courses(self, courses: Mapping[int, Sequence[Any]]) -> None:
        """Store what verdicts go on from, by the id of the inside station."""
        with self.transaction() as db:
            db.executemany("REPLACE INTO course VALUES (?, ?, ?, ?, ?, ?)", [
                (station, *course) for station, course in courses.items()
                if station in self.stations])

    def find(self, name: str) -> Station:
        return find_station(self.stations.values(), name)

    def add_station(self, name: str, mac: str, role: str | None, key: str | None, now: int,
                    labels: Iterable[str] = (), parts: Iterable[Newcomer] = ()) -> None:
        """Register a station, or complete one that an import has left without a key. key is the
        SHA-256 in hex, or None; it also writes for the parts. labels are of fields 1, 2, ..."""
        with self.change() as db:
            first = None
            for part in (Newcomer(name, mac, role, labels), *itertools.starmap(Newcomer, parts)):
                id = self._register(*part[:3], None if first else key, now)
                db.execute("UPDATE station SET console = ? WHERE id = ?", (first, id))
                db.executemany(LABEL, [
                    (id, field, text) for field, text in enumerate(part.labels, 1)])
                first = first or id

    def _register(self, name: str, mac: str, role: str | None, key: str | None, now: int) -> int:
        refuse_taken(self.stations.values(), key, name, mac)
        return int(ask(self.db, """
            INSERT INTO station (name, mac, role, key, created, silence) VALUES (?, ?, ?, ?, ?, 0)
            ON CONFLICT (mac) DO UPDATE SET name = excluded.name, role = excluded.role,
            key = excluded.key, silence = 0 RETURNING id""",
            (name, mac, role, key and bytes.fromhex(key), now)))

    def edit_station(self, name: str, new_name: str | None, mac: str | None,
                     role: str | None, offset: float | None = None) -> None:
        """Change what is not None of a station; the role `none` takes its role away. offset: °C
        to add to its thermometer."""
        try:
            with self.change() as db:
                station = self.find(name)
                room = MAX_MAC - max((len(part.mac) - len(station.mac) for part in
                                      self.stations.values() if part.console == station.id),
                                     default=0)
                if len(mac or "") > room:
                    raise StoreError(f"a MAC of {station.name!r} has at most {room} characters, "
                                     "because the MACs of its rooms begin with it")
                db.execute("UPDATE station SET name = ?, role = ?, offset = ? WHERE id = ?", (
                    new_name or station.name, {None: station.role, "none": None}.get(role, role),
                    station.offset if offset is None else offset, station.id))
                # If it is a console's, the MACs of its rooms begin with its own.
                db.execute("""
                    UPDATE station SET mac = ?1 || substr(mac, ?2)
                    WHERE id = ?3 OR console = ?3 AND substr(mac, 1, ?2) = ?4 || '-'""", (
                    mac or station.mac, len(station.mac) + 1, station.id, station.mac))
        except sqlite3.IntegrityError:
            raise StoreError("this name or MAC is taken already; see --stations") from None

    def new_key(self, name: str, key: str, at_once: bool = False) -> bool:
        """Give a station, and those that its key writes for, a second key (SHA-256 in hex). The
        first one ends when that is used, or at once. Returns whether the first one works."""
        keeps_first = self.holder(self.find(name)).key is not None and not at_once
        if at_once:
            self._set_key(name, "next_key", None)
        self._set_key(name, "next_key" if keeps_first else "key", key)
        return keeps_first

    def set_read_key(self, name: str, key: str) -> None:
        """Give a station a key (SHA-256 in hex) that only reads; an earlier one ends."""
        self._set_key(name, "read_key", key)

    def _set_key(self, name: str, column: str, key: str | None) -> None:
        with self.change() as db:
            refuse_taken(self.stations.values(), key)
            station = self.find(name)
            holder = station if column == "read_key" else self.holder(station)
            db.execute(f"UPDATE station SET {column} = ? WHERE id = ?",
                       (key and bytes.fromhex(key), holder.id))

    def label(self, name: str, field: int, text: str) -> None:
        """Name a field; an empty text takes the name away."""
        with self.change() as db:
            db.execute(LABEL, (self.find(name).id, field, text or None))

    def remove_step(self, name: str) -> int:
        """Remove up to STEP_ROWS readings, hours or notes of a station, and at last the station.
        Returns how many readings, or -1 when nothing of it is left. Its keys go first, so that no
        update comes in between. After a crash it can be called again."""
        with self.change() as db:
            station = self.find(name)
            series = [id for (owner, _), id in self.series.items() if owner == station.id]
            db.execute("UPDATE station SET key = NULL, next_key = NULL, read_key = NULL "
                       "WHERE id = ?", (station.id,))
            for id in series:
                if removed := self._delete_oldest(id, LATEST_TIME):
                    return removed
            for table, owner, key, ids in (("hour", "series", "hour", series),
                                           ("note", "station", "entry", [station.id])):
                for id in ids:
                    if db.execute(f"""
                            DELETE FROM {table} WHERE {owner} = ?1 AND {key} IN (
                                SELECT {key} FROM {table} WHERE {owner} = ?1 LIMIT ?2)""",
                            (id, STEP_ROWS)).rowcount:
                        return 0
            for table, owner in OWNED.items():
                db.executemany(f"DELETE FROM {table} WHERE {owner} = ?", [
                    (id,) for id in (series if owner == "series" else [station.id])])
            db.execute("UPDATE station SET console = NULL WHERE console = ?", (station.id,))
            db.execute("DELETE FROM station WHERE id = ?", (station.id,))
        return -1

    def prune_step(self, before: int) -> int:
        """Delete up to STEP_ROWS raw readings older than before; how many. 0: no more."""
        series = ask(self.db, """
            SELECT id FROM series WHERE EXISTS (
                SELECT 1 FROM reading WHERE series = id AND time < ?) LIMIT 1""", (before,))
        if series is None:
            return 0
        with self.transaction():
            deleted = self._delete_oldest(series, before)
        self.changed()
        return deleted

    def _delete_oldest(self, series: int, before: int) -> int:
        stop = self.db.execute("""
            SELECT time, entry FROM reading WHERE series = ? AND time < ?
            ORDER BY time, entry LIMIT 1 OFFSET ?""", (series, before, STEP_ROWS)).fetchone()
        place = (series, *(stop or (before, -1)))
        self.db.execute("""
            UPDATE hour SET pruned = pruned + gone.n FROM (
                SELECT time / 3600000 AS hour, count(*) AS n FROM reading
                WHERE series = ? AND (time, entry) < (?, ?) AND typeof(value) <> 'text'
                GROUP BY 1) AS gone
            WHERE hour.series = ? AND hour.hour = gone.hour""", (*place, series))
        return self.db.execute("DELETE FROM reading WHERE series = ? AND (time, entry) < (?, ?)",
                               place).rowcount

    def delete_step(self, name: str, field: int, wanted: dict[str, Any]) -> tuple[int, int]:
        """Delete about STEP_ROWS readings that are wanted. Returns how many, and the time to go on
        from. The summaries of all hours are made again from the readings that are there."""
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
            fit = FIT if wanted["series"] in self.thermometers else "TRUE"
            db.execute(f"""
                INSERT INTO hour SELECT series, time / 3600000, {SUMMARY.format(fit=fit)}
                FROM reading
                WHERE series = :series AND typeof(value) <> 'text'
                AND time >= :start / 3600000 * 3600000
                AND time < (:stop + 3599999) / 3600000 * 3600000
                GROUP BY 2 ON CONFLICT DO NOTHING""", wanted)
        self.changed()
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
            # It returns a row for each page, and frees a page only when its row is fetched.
            db.execute(f"PRAGMA incremental_vacuum({STEP_PAGES})").fetchall()
            free -= ask(db, "PRAGMA freelist_count")
        return int(free * ask(self.db, "PRAGMA page_size"))

    def add_all(self, station: Station, readings: list[Reading], now: int) -> list[int]:
        """Add many readings. If several may be repeated, the receipts are read all at once."""
        may_have, id = self.read_seqs(station.id), station.id
        seqs = {seq for reading in readings if reading.seq is not None
                and (seq := hash_seq(reading.field, reading.seq)) in may_have}
        if len(seqs) > 1:
            self.batch.found.update(((id, hash), entry) for hash, entry in self.db.execute(
                "SELECT hash, entry FROM receipt WHERE station = ?", (id,)) if hash in seqs)
        return [self.add(station, reading, now) for reading in readings]

    def import_rows(self, rows: Iterable[Sequence[Any]], now: int) -> tuple[int, int, int]:
        """Store rows from elsewhere; all rows of one instant come in one call. Returns how many
        were stored, how many were known, and how many are of pruned hours."""
        with self.transaction():
            step = ImportStep(self, now)
            step.add(sorted(rows, key=operator.itemgetter(0)))
            self._write(step.batch)
        self.changed()
        return len(step.batch.readings), step.known, step.pruned


# ------------------------------------------------------------------------------------------------
# 6. Access
#    Law: it decides who may write and read, and how often. No answer says which of two was
#    wrong, and all memory is bounded.
# ------------------------------------------------------------------------------------------------
READINGS_PER_UPDATE = 10        # readings that the rate limit allows for each update: 9 fields, +1
MIN_BURST = 10_000              # readings at once, at least: a bulk of 960 entries with all fields
TEXT_UNIT = 30                  # characters of a text that take as much disk as one reading
MAX_SECRET = 128                # characters of a key or password: ours have 22
GUESS_WINDOW = 900              # seconds for which wrong keys are counted
# Wrong keys from one address in a window. A misconfigured station sends about 15, so it stays
# below the limit and keeps getting the real reason.
MAX_GUESSES = 100
MAX_SITE_GUESSES = 1000         # wrong keys from an IPv6 site of 65,536 networks
MAX_ADDRESSES = MAX_ADMITTED    # networks whose guesses are counted: about 2 MB
MAX_ADDRESS = 64                # characters of an address: IPv6 with a zone fits

Bucket = tuple[float, float]    # tokens, and when they were counted (s)


def take_tokens(bucket: Bucket | None, now: float, per_minute: float, burst: float,
                cost: float = 1) -> tuple[Bucket, float]:
    """Take tokens from a bucket that refills up to burst. Returns the bucket and the seconds to
    wait, of which 0 means granted. A cost above burst takes a full bucket."""
    tokens, counted = bucket or (burst, now)
    tokens, cost = min(burst, tokens + (now - counted) * per_minute / 60), min(cost, burst)
    if tokens >= cost:
        return (tokens - cost, now), 0.0
    return (tokens, now), (cost - tokens) * 60 / per_minute


@remember
def hash_key(key: str) -> bytes:
    """SHA-256 is enough here: a made-up key has 128 random bits, which no one can try out. Hashes
    are cached, so callers cut a key to MAX_SECRET + 1 characters to bound the memory."""
    return hashlib.sha256(key.encode("utf-8", "replace")).digest()


NO_KEY = secrets.token_bytes(32)            # compared with when there is no key; takes as long


def matches(digest: bytes, stored: bytes | None) -> bool:
    """Compare in constant time."""
    return hmac.compare_digest(digest, stored or NO_KEY) and stored is not None


@remember
def hash_pair(address: str, digest: bytes) -> bytes:
    """An address of at most MAX_ADDRESS characters, and the hash of a key that was right there."""
    return hashlib.sha256(address.encode("utf-8", "replace") + digest).digest()[:16]


@remember
def networks(address: str) -> tuple[str, ...]:
    """The networks for which an address's guesses are counted: an IPv4 address by itself; the /64
    of a user and the /48 of a site for IPv6. Clients without an address are one network."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return ("",)
    if ip.version == 4 or ip.ipv4_mapped:
        return (str(getattr(ip, "ipv4_mapped", None) or ip),)
    return tuple(str(ipaddress.ip_network((int(ip), bits), strict=False)) for bits in (64, 48))


class TooOften(Refused):
    """The key was right, but the station has used up its rate for the next wait seconds."""

    def __init__(self, wait: float, message: str):
        seconds = str(math.ceil(wait))
        super().__init__(429, f"{message}; try again in {seconds} s", Retry_After=seconds)


class Guesses:
    """Wrong keys and passwords, counted by network in windows of time. A network that has used up
    its guesses gets no answer about a secret, right or wrong, unless that was right from the same
    address before: so stations and people behind the address go on."""

    def __init__(self, monotonic: Callable[[], float]):
        self.monotonic = monotonic
        self.counts: dict[str, tuple[int, float]] = {}      # network: guesses, until when
        self.throttled: dict[str, float] = {}               # network: until when
        self.right: dict[bytes, None] = {}      # hashes of address and secret

    def refuse(self, address: str, digest: bytes) -> None:
        """Raise Refused 429 unless this secret may be checked."""
        if not self.throttled or self.is_right(address, digest):
            return
        until = max(self.throttled.get(place, 0.0) for place in networks(address[:MAX_ADDRESS]))
        if (wait := math.ceil(until - self.monotonic())) > 0:
            raise Refused(429, f"too many wrong keys from your address; try again in {wait} s",
                          Retry_After=str(wait))

    def is_right(self, address: str, digest: bytes) -> bool:
        """Whether this secret was right from this address before."""
        return hash_pair(address[:MAX_ADDRESS], digest) in self.right

    def accept(self, address: str, digest: bytes) -> None:
        """Remember that this secret was right from this address. The oldest pair is evicted."""
        self.right[hash_pair(address[:MAX_ADDRESS], digest)] = None
        if len(self.right) > MAX_ADDRESSES:
            del self.right[next(iter(self.right))]

    def add(self, address: str) -> None:
        """Count a wrong secret. Only other throttled networks evict a throttled network."""
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
    """Decides which updates are admitted, and which keys may read."""

    def __init__(self, writer: Writer, per_minute: int, monotonic: Callable[[], float]):
        self.writer, self.per_minute, self.monotonic = writer, per_minute, monotonic
        self.requests: dict[bytes, Bucket] = {}     # by key
        self.readings: dict[bytes, Bucket] = {}     # likewise
        self.guesses = Guesses(monotonic)
        self.guesses.right.update(dict.fromkeys(read_admitted(writer.db)))
        self.space = 2                          # on the disk: 2 is enough, 1 is little, 0 is none

    def admit(self, mac: str | None, key: str, address: str) -> Station:
        """The station an update is from: the one with this MAC, or else with this key.
        Raises Refused: 403, 429 after many of them, 507; TooOften."""
        digest, writer = hash_key(key[:MAX_SECRET + 1]), self.writer
        if self.guesses.throttled:
            self.guesses.refuse(address, digest)
        station = writer.by_key.get(digest) if mac is None else writer.by_mac.get(mac)
        holder = writer.holder(station) if station and station.console else station
        stored = (holder and holder.key) or NO_KEY      # always compared; takes as long
        is_current = hmac.compare_digest(digest, stored) and stored is not NO_KEY
        if not (station and holder) or not (is_current or matches(digest, holder.next_key)):
            self.guesses.add(address)
            raise Refused(403, "wrong API key or unknown MAC")
        if (pair := hash_pair(address[:MAX_ADDRESS], digest)) not in self.guesses.right:
            self.guesses.accept(address, digest)
            writer.batch.admitted.append(pair)      # so a restart does not forget it
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

    def admit_any(self, keys: Iterable[str], address: str) -> None:
        """Raise Refused 403 or 429 unless one of these keys is a station's. This is only a
        first check: admit() follows."""
        digests = [hash_key(key[:MAX_SECRET + 1]) for key in keys]
        if not any(self.guesses.is_right(address, digest) for digest in digests):
            self.guesses.refuse(address, b"")
        if self.writer.by_key.keys().isdisjoint(digests):
            self.guesses.add(address)
            raise Refused(403, "wrong API key or unknown MAC")

    def charge(self, key: str, values: Iterable[Any]) -> None:
        """Take tokens for many readings, or for long texts. Raises TooOften, Refused."""
        if self.space == 2 and not self.per_minute:
            return
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
        found = [matches(digest, stored) for station in stations    # all; takes as long
                 for stored in (station.key, station.next_key, station.read_key)]
        if not any(found):
            self.guesses.add(address)
            return False
        self.guesses.accept(address, digest)
        return True


# ------------------------------------------------------------------------------------------------
# 7. Forecast
#    Law: pure functions of readings; nothing is stored.
# ------------------------------------------------------------------------------------------------
# Each past day is one scenario for tonight. A scenario is how both temperatures moved after this
# time of day, corrected by a regression for how that day differed from today. The share of the
# scenarios in which the two temperatures cross is the chance, and quantiles of the times of
# crossing are the forecast and its interval. The interval's width follows from how far off the
# forecasts of the last days would have been. Days are days of UTC, so changes to and from summer
# time move nothing.

QUARTERS = DAY // QUARTER       # quarters of an hour in a day
HORIZON = 12 * HOUR             # ms; a forecast covers one night, so no later crossing counts
HOLD = 3                        # quarters that a crossing has to last, so that a cloud is not one
LEADS = [quarters / 4 for quarters in range(1, HORIZON // QUARTER + HOLD + 1)]    # hours ahead
PAST_DAYS = 45                  # scenarios at most; 60 are no better and take a third longer
LOOK_BACK = 12 * HOUR // QUARTER    # quarters that are searched for the last night's minimum
KEPT = PAST_DAYS * QUARTERS + LOOK_BACK + 1     # quarters of a series that a forecast reads
# Longest holes in quarters that are bridged. Many stations inside send only when a value changes.
INSIDE_HOLE = 12 * HOUR // QUARTER
OUTSIDE_HOLE = 4 * HOUR // QUARTER
GLITCH = 3.0                    # °C off the median of three readings, more than weather changes
NO_WEATHER = 1000.0             # °C; a larger number is an error, and would spoil the regression
MEMORY = 12                     # days in which the weight of a day falls to 1/e
RIDGE = 10.0                    # days of evidence that the prior slopes below are worth
OUTSIDE_SLOPES = (-0.16, -0.18, 0.0)    # °C per hour of lead and unit of each trait of outside
# Two artificial scenarios, this many °C above and below the mean after an hour, weigh a day each.
# They keep the interval of a short history wide.
OFF = 1.5
TAIL = 0.1                      # share of the scenarios on each side of the 80 % interval
# Scores of three imaginary evenings, which count until enough real ones have passed: artificial
# scenarios make an interval a little too wide.
FIRST_SCORES = (0.9, 0.9, 0.9)
# Only mornings with a narrow interval are said, and some are narrow by chance: with the evenings'
# share of 0.8, what was said held 63 to 69 %. So a morning's share is larger, and a factor widens.
MORNING = 1 - TAIL, 1.15
WIDEST_MORNING, LIKELY = 3 * HOUR, 0.8      # a morning depends on clouds; a vaguer one is not said
UNLIKELY, SURE_DAYS = 0.3, 30   # "not tonight" needs a chance below this and this many days
FEWEST_DAYS = 5                 # days of history without which there is no forecast
RECORD_DAYS = 30                # last days whose outcomes set the width and are the page's record
REPLAY_DAYS = PAST_DAYS + RECORD_DAYS + 1       # days of readings before the first forecast


class Outcome(NamedTuple):
    """How far off a forecast was."""
    event: str
    error: int                  # ms between the median and the true time
    baseline: int               # the same for yesterday's curves, shifted to today's values
    score: float                # the error in halves of the interval, before widen() changed it


class Forecast(NamedTuple):
    """When outside gets cooler or warmer than inside within HORIZON. at is the median, start and
    end are the 80 % interval; all three are None unless the event is more likely than not. The
    curves have the expected value for each quarter of an hour, beginning with the next one."""
    event: str                  # cooler, warmer
    at: int | None
    start: int | None
    end: int | None
    chance: float
    days: int                   # past days that the forecast rests on
    inside: tuple[float, ...]
    outside: tuple[float, ...]
    asked: int = 0              # when the forecast was made
    past: tuple[Outcome, ...] = ()      # outcomes at this time of day, the newest last


class Quarters:
    """A series with one number for each quarter of an hour, its newest reading. In a hole the last
    value holds until the hole ends; then a straight line takes its place. A hole that is longer
    than the bridge is nan."""

    def __init__(self, bridge: int):
        self.bridge, self.silent = bridge, KEPT     # silent: quarters since the last number
        self.said = UNHEARD
        self.values = [math.nan] * KEPT

    def believe(self, samples: Sequence[Sample]) -> list[float]:
        """A quarter's readings without doubted ones; three are not rare enough for doubts."""
        before, readings = self.said, [sample for sample in samples if abs(sample[1]) < NO_WEATHER]
        if len(readings) == 3:
            self.said = UNHEARD._replace(time=readings[2][0], last=tuple(readings),
                                         counted=readings[2])
            return [value for _, value in readings]
        said = [*sayings(readings, SILENT_AT_LEAST, before)]
        self.said = [before, *said][-1]
        return [one.last[-1][1] for one in said if not one.is_doubted]

    def add(self, samples: Sequence[Sample]) -> None:
        """Append a quarter, given its last readings, at most three."""
        del self.values[0]
        if readings := self.believe(samples):
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
    """Gauss-Jordan elimination: the columns right of a square matrix, times its inverse. Weights
    and the ridge keep the diagonal from zero, so no pivoting is needed."""
    for i in range(len(rows)):
        pivot = [value / rows[i][i] for value in rows[i]]
        rows = [pivot if j == i else [a - row[i] * b for a, b in zip(row, pivot, strict=True)]
                for j, row in enumerate(rows)]
    return [row[len(rows):] for row in rows]


def adjust(moves: Sequence[list[float]], traits: Sequence[list[float]], weights: Sequence[float],
           prior: Sequence[float] = (0.0, 0.0, 0.0)) -> Iterator[tuple[float, list[float]]]:
    """For each lead the mean of the days' moves and the moves themselves, both corrected to days
    like today. The correction is a ridge regression (Hoerl and Kennard 1970) of the moves on the
    traits, in which today is zero, shrunk towards the prior slopes."""
    columns = [[1.0] * len(weights), *zip(*traits, strict=True)]
    weighted = [[*map(operator.mul, weights, column)] for column in columns]
    slopes = solve([[dot(row, column) + RIDGE * (i == j > 0) for j, column in enumerate(columns)]
                    + row for i, row in enumerate(weighted)])
    expected = [dot(prior, trait) for trait in traits]
    for hours, column in zip(LEADS, zip(*moves, strict=True), strict=True):
        rest = [move - hours * slope for move, slope in zip(column, expected, strict=True)]
        mean, a, b, c = (dot(row, rest) for row in slopes)
        yield mean, [value - a * x - b * y - c * z
                     for value, (x, y, z) in zip(rest, traits, strict=True)]


def traits_at(outside: list[float], inside: list[float], i: int) -> list[float]:
    """What distinguishes days at quarter i, in units of about equal weight. Of outside: degrees
    above the last night's minimum, temperature, age. Of inside: change in three hours,
    temperature, how much warmer outside is."""
    lowest = min(value for value in outside[i - LOOK_BACK:i + 1:4] if not math.isnan(value))
    moved = inside[i] - inside[i - 12]
    return [(outside[i] - lowest) / 8, outside[i] / 6, i / (12 * QUARTERS),
            0.0 if math.isnan(moved) else moved / 0.3, inside[i] / 2, outside[i] - inside[i]]


def past_days(outside: list[float], inside: list[float]
              ) -> Iterator[tuple[float, list[float], list[float], list[float]]]:
    """For each past day with data for all leads after this time of day: its weight, its moves
    outside and inside for each lead, and its traits minus today's."""
    now = len(outside) - 1
    today = traits_at(outside, inside, now)
    for age in range(1, PAST_DAYS + 1):
        i = now - age * QUARTERS
        fall, rise = ([value - values[i] for value in values[i + 1:i + 1 + len(LEADS)]]
                      for values in (outside, inside))
        if math.isfinite(sum(fall) + sum(rise)):
            yield math.exp(-age / MEMORY), fall, rise, [
                *map(operator.sub, traits_at(outside, inside, i), today)]


def find_crossing(gaps: Sequence[float]) -> float:
    """The quarter, counted from 0, at which gaps rises above zero and stays there for HOLD more
    quarters; inf if it never does. gaps begins below zero."""
    for i in range(1, len(gaps) - HOLD):
        if gaps[i] > 0 and min(gaps[i:i + 1 + HOLD]) > 0:
            return i - gaps[i] / (gaps[i] - min(gaps[i - 1], 0.0))
    return math.inf


def quantile(weighted: Sequence[tuple[float, float]], share: float) -> float:
    """The quantile of (value, weight) pairs that are in order of value."""
    left = share * sum(weight for _, weight in weighted)
    return next((value for value, weight in weighted if (left := left - weight) <= 0),
                weighted[-1][0])


def is_worth_saying(forecast: Forecast) -> bool:
    """Whether a forecast helps: one with a time in the evening, "not tonight" if that is sure, and
    one with a narrow interval and a high chance in the morning."""
    if forecast.start is None or forecast.end is None:
        return (forecast.event == "cooler" and forecast.chance < UNLIKELY
                and forecast.days >= SURE_DAYS)
    return forecast.event == "cooler" or (
        forecast.chance >= LIKELY and forecast.end - forecast.start <= WIDEST_MORNING)


def foretell(outside: list[float], inside: list[float], now: int) -> Forecast | None:
    """The forecast from the quarters up to now, with the interval of the scenarios; None without
    enough history."""
    gap = inside[-1] - outside[-1]
    days = list(past_days(outside, inside)) if gap and math.isfinite(gap) else []
    if len(days) < FEWEST_DAYS:
        return None
    weights, falls, rises, traits = zip(*days, strict=True)
    air = adjust(falls, [trait[:3] for trait in traits], weights, OUTSIDE_SLOPES)
    room = adjust(rises, [trait[3:] for trait in traits], weights)
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
    start = at = end = None
    if chance > 0.5:
        early, middle, late = (quantile(nights, share) for share in (TAIL, 0.5, 1 - TAIL))
        start, at, end = (now + round(time * QUARTER) for time in (early, middle, late))
    return Forecast("cooler" if sign > 0 else "warmer", at, start, end, chance, len(days),
                    (*warm,), (*cool,), now)


def widen(forecast: Forecast, outcomes: Iterable[Outcome | None]) -> Forecast | None:
    """A forecast with the outcomes of those before it, and with an interval as wide as would have
    held the truth in 80 % of them (split conformal prediction); None if that helps nobody."""
    past = [outcome for outcome in outcomes if outcome and outcome.event == forecast.event]
    scores = sorted((*FIRST_SCORES, *(outcome.score for outcome in past)))
    share, factor = (1 - 2 * TAIL, 1.0) if forecast.event == "cooler" else MORNING
    width = factor * quantile([(score, 1.0) for score in scores], share)
    at, start, end = forecast.at, forecast.start, forecast.end
    if at is not None and start is not None and end is not None:
        start = max(at - round(width * (at - start)), forecast.asked)
        end = min(at + round(width * (end - at)), forecast.asked + HORIZON)
    forecast = forecast._replace(start=start, end=end, past=(*past,))
    return forecast if is_worth_saying(forecast) else None


def assess(forecast: Forecast, inside: list[float], outside: list[float]) -> Outcome | None:
    """The outcome of a forecast, from the quarters up to a day after it; None if the forecast had
    no time, or if readings of that night or the one before are missing. An event that never came
    counts as one at HORIZON."""
    sign = 1 if forecast.event == "cooler" else -1
    night = slice(-1 - QUARTERS, len(LEADS) - QUARTERS)
    before = slice(night.start - QUARTERS, night.stop - QUARTERS)
    gaps, shifted = ([sign * (a - b) for a, b in zip(inside[span], outside[span], strict=True)]
                     for span in (night, before))
    shifted = [gap - shifted[0] + gaps[0] for gap in shifted]
    at, start, end = forecast.at, forecast.start, forecast.end
    if at is None or start is None or end is None or not math.isfinite(sum(gaps) + sum(shifted)):
        return None
    came, guess = (forecast.asked + round(min(find_crossing(series) * QUARTER, HORIZON))
                   for series in (gaps, shifted))
    half = max(at - start if came < at else end - at, MINUTE)
    return Outcome(forecast.event, abs(came - at), abs(came - guess), abs(came - at) / half)


def foresee(read: Callable[[int], Iterable[Sequence[Sample]]], start: int, end: int, step: int
            ) -> Iterator[tuple[int, Forecast | None, Outcome | None]]:
    """Replay forecasts: for each hour up to the end yield its time, the forecast and the outcome
    of the forecast made a day before. The forecasts are complete from start on, one in each step
    of whole hours; the REPLAY_DAYS before it fill the series and their record. read(time) returns
    the last three readings of inside and of outside in the quarter of an hour up to that time."""
    inside, outside = Quarters(INSIDE_HOLE), Quarters(OUTSIDE_HOLE)
    made: dict[int, Forecast | None] = {}
    past: dict[int, collections.deque[Outcome | None]] = collections.defaultdict(
        lambda: collections.deque(maxlen=RECORD_DAYS))              # by time of day
    for now in range(start - REPLAY_DAYS * DAY, end + 1, QUARTER):
        for quarters, readings in zip((inside, outside), read(now), strict=True):
            quarters.add(readings)
        forecast = outcome = None
        if now >= start - RECORD_DAYS * DAY and (end - now) % step == 0:
            if yesterdays := made.pop(now - DAY, None):
                outcome = assess(yesterdays, inside.values, outside.values)
            past[now % DAY].append(outcome)
            new = foretell(outside.values, inside.values, now)
            forecast = new and widen(new, past[now % DAY])
            made[now] = new if forecast else None
        if (end - now) % HOUR == 0:
            yield (now, forecast, outcome) if now >= start else (now, None, None)


# ------------------------------------------------------------------------------------------------
# 8. Verdict
#    Law: pure rules and their words; only the functions under *rooms* ask the store.
# ------------------------------------------------------------------------------------------------
OPEN_MARGIN = 1.0               # °C cooler outside at which "open" is worth saying at once
CLOSE_MARGIN = 0.5              # °C warmer outside; less than to open, since closing is urgent
CONFIRM = 15 * MINUTE           # how long a smaller difference has to last before it counts
DWELL = 15 * MINUTE             # least time between two changes: somebody walks to the window
URGENT_MARGIN = 3.0             # °C of difference that do not wait for the dwell
# °C above the limit up to which a comfortable room stays comfortable. Measured on a house from
# April to October, 1.5 gives 1.9 changes a day and 2.5 gives 1.4.
COMFORT_MARGIN = 2.5
SETTLE_TIME = 5 * MINUTE        # age at which a reading is folded for good: few come later
RECENT_WINDOW = 4 * HOUR        # how much is read before a course: for silence, and for the trend
REPLAY_WINDOW = 10 * DAY        # how much is replayed for a room without a course
COLD_MARGIN = 4.0               # °C below the comfort limit: the WHO advises 18 °C at least
DEW_MARGIN = 2.0                # °C between dew points, or to a wall, which is colder than the air
SENSITIVE = 35.5                # µg/m³ of PM2.5: EPA 2024, "unhealthy for sensitive groups"
SMOKE = 55.5                    # likewise "unhealthy"
FOG = 90.0                      # % of humidity from which cheap sensors count droplets as dust
HOT = 32.0                      # °C inside from which closed windows are a danger, too
DUST_TIME = 30 * MINUTE         # the span of readings whose median counts, and of clean air
SMOKE_TIME = 6 * HOUR           # how long smoke outlives a sensor that falls silent in it
RAIN_TIME = 15 * MINUTE         # how long it rains after the last sign of it
TREND_TIME = 30 * MINUTE
TREND_STEADY = 0.25             # °C in TREND_TIME: sensors waver by 0.1


class Course(NamedTuple):
    """What a verdict remembers from reading to reading."""
    at: int = -1                # the newest instant that is included
    state: str = ""             # empty before the first
    since: int = 0              # when the state began
    wanted: str = ""            # the state that the readings ask for, which may have to wait
    wanted_since: int = 0


START = Course()


class Air(NamedTuple):
    """The air outside, as its sensors know it."""
    dust: float | None = None   # µg/m³ of PM2.5 that were known last
    is_fresh: bool = False      # whether that still holds
    is_smoke: bool = False
    is_bad: bool = False        # for sensitive people
    changed: int = 0            # when smoke began or ended last
    missed: tuple[Sensor, int] | None = None    # for want of which it is not known; when it sent
    rain: float | None = None   # mm/h; None unless it is fresh
    is_raining: bool = False
    until: int = LATEST_TIME    # when this changes unless readings come


class Verdict(NamedTuple):
    """The answer for one inside station."""
    state: str                  # open, close, comfortable, unknown
    difference: float | None    # inside minus outside, °C
    since: int | None           # when this state began; for unknown, the last reading
    expires: int | None         # when it turns unknown unless readings come
    silent: str | None          # for unknown: inside or outside
    inside: float | None = None     # °C, as people see it
    outside: float | None = None
    believed: float | None = None       # the difference of what both stations say, in °C
    dew_points: tuple[float | None, float | None] = (None, None)    # °C inside, outside
    reason: str = ""            # a name in REASONS
    air: Air = Air()
    caveats: Sequence[str] = ()     # keys of CAVEATS

    @property
    def is_cold(self) -> bool:
        """Whether the verdict is about a room that is too cold."""
        return self.reason in {"cold", "damp", "wet", "hot", "cold_smoke"}


def dew_point(celsius: float, humidity: float) -> float:
    """°C, by Magnus' formula with the constants of WMO-No. 8, from °C and % of relative humidity.

    >>> round(dew_point(20, 50), 1)
    9.3
    """
    gamma = math.log(humidity / 100) + 17.62 * celsius / (243.12 + celsius)
    return 243.12 * gamma / (17.62 - gamma)


def find_reason(verdict: Verdict, comfort: float) -> str:
    """The name in REASONS of what explains a verdict: its state, except for cold rooms. Warm air
    would wet the walls of a cold room, which is how mold begins."""
    inside, outside, (_, dew_outside) = verdict.inside, verdict.outside, verdict.dew_points
    if (verdict.state != "comfortable" or inside is None or outside is None
            or inside >= comfort - COLD_MARGIN):
        return verdict.state
    if outside - inside < OPEN_MARGIN:
        return "cold"
    if dew_outside is not None and dew_outside > inside - DEW_MARGIN:
        return "damp"
    return "cold" if outside <= comfort else "wet" if dew_outside is None else "hot"


def wish(temperatures: Sequence[float], state: str, before: str, comfort: float) -> str:
    """The state that the temperatures inside and outside ask for by themselves, given the state
    that holds and the one that was wanted before."""
    inside, outside = temperatures
    if inside <= comfort + (COMFORT_MARGIN if state == "comfortable" else 0):
        return "comfortable"
    if inside == outside:
        return before if before in {"open", "close"} else "close"
    return "open" if inside > outside else "close"


def advance(course: Course, ms: int, said: Sequence[Said], comfort: float) -> Course:
    """The course one instant further. The state changes after a clear difference, or after a
    small one that has lasted for CONFIRM; and DWELL after the last change, unless it is urgent."""
    _, state, since, before, wanted_since = course
    newest = [side.value if side.is_doubted else side.last[-1][1] for side in said]
    values = [side.value for side in said]
    wanted = wish(newest, state, before, comfort)
    if wanted != before:
        wanted_since = ms
    difference = values[0] - values[1]
    is_clear = (wanted == "comfortable"
                or difference >= OPEN_MARGIN or difference <= -CLOSE_MARGIN)
    is_urgent = wanted != "comfortable" and abs(difference) >= URGENT_MARGIN
    agreed = wish(values, state, wanted, comfort)
    if not state or (agreed == wanted != state and (is_urgent or (
            ms - since >= DWELL and (is_clear or ms - wanted_since >= CONFIRM)))):
        state, since = agreed, ms
    return Course(ms, state, since, wanted, wanted_since)


def follow(course: Course, inside: Iterable[Said], outside: Iterable[Said], comfort: float
           ) -> Iterator[Course]:
    """The course after each instant at which one of the two stations said something, in order of
    time. The course includes what was said up to course.at: that only tells where both stand."""
    said = [UNHEARD, UNHEARD]
    merged = heapq.merge(((s.time, 0, s) for s in inside), ((s.time, 1, s) for s in outside),
                         key=operator.itemgetter(0, 1))
    for ms, instant in itertools.groupby(merged, operator.itemgetter(0)):
        was_silent = any(side.last and ms > side.end for side in said)
        for _, side, now_said in instant:
            said[side] = now_said
        if ms <= course.at:
            continue
        if was_silent:
            course = course._replace(wanted="")     # what was before a silence confirms nothing
        if all(side.last and ms <= side.end for side in said):
            course = advance(course, ms, said, comfort)
        else:
            course = course._replace(at=ms)
        yield course


def judge(course: Course, inside: Said, outside: Said, now: int) -> Verdict:
    """The verdict at now, from its course up to now and what both stations said last."""
    for said, silent in ((outside, "outside"), (inside, "inside")):
        if not said.last or now > said.end:
            return Verdict("unknown", None, said.time or None, None, silent)
    return Verdict(course.state, inside.shown - outside.shown, course.since,
                   min(inside.end, outside.end), None, inside.shown, outside.shown,
                   inside.value - outside.value)


# -- air -----------------------------------------------------------------------------------------

Level: TypeAlias = tuple[int, float, int]   # when, µg/m³ of dust, the last instant of freshness
Found: TypeAlias = Mapping[Sensor, Sequence[Sample]]    # what the sensors outside sent


def combine_dust(sensors: Iterable[Sequence[Sample]]) -> Iterator[Level]:
    """What sensors of dust say together: of two the higher, of more the middle one. Each says the
    median of DUST_TIME, or with fewer than three readings in it its newest."""
    recent: dict[int, list[Sample]] = {}
    newest, limits = dict[int, Level](), collections.Counter[int]()
    merged = heapq.merge(*([(ms, number, value) for ms, value in readings]
                           for number, readings in enumerate(sensors)))
    for ms, instant in itertools.groupby(merged, operator.itemgetter(0)):
        for _, one, value in instant:
            past = recent.get(one, [])
            limits[one] = learn_silence(limits[one], ms - past[-1][0] if past else 0)
            recent[one] = [*(old for old in past if old[0] >= ms - DUST_TIME), (ms, value)]
            newest[one] = ms, value if len(recent[one]) < 3 else statistics.median(
                value for _, value in recent[one]), ms + max(limits[one], SILENT_AT_LEAST)
        fresh = [level for level in newest.values() if level[2] >= ms]
        yield (ms, statistics.median_high(value for _, value, _ in fresh),
               max(end for _, _, end in fresh))


def is_foggy(humidities: Sequence[Sample], ms: int) -> bool:
    """Whether it was foggy in the DUST_TIME up to then. humidities are in order of time."""
    recent = humidities[bisect.bisect_left(humidities, (ms - DUST_TIME, 0)):
                        bisect.bisect_right(humidities, (ms, math.inf))]
    return bool(recent) and statistics.median(value for _, value in recent) >= FOG


def follow_smoke(dust: Sequence[Level], humidities: Sequence[Sample], limit: float, now: int
                 ) -> tuple[bool, int, int]:
    """Whether there is smoke at now, when that began or ended, and when smoke will end unless
    readings come."""
    is_smoke, changed, clean, over, end = False, 0, 0, 0, 0
    for (ms, value, fresh), following in zip(dust, [*(ms for ms, *_ in dust[1:]), now],
                                             strict=True):
        if value >= limit and value >= limit * (1 + is_foggy(humidities, ms)):
            is_smoke, changed, clean = True, changed if is_smoke else ms, 0
        elif not clean or ms > end:             # what was before a silence confirms nothing
            clean = ms
        end, over = fresh, max(ms + SMOKE_TIME, fresh + 1)
        if clean and clean + DUST_TIME <= end:
            over = clean + DUST_TIME
        if is_smoke and following >= over:
            is_smoke, changed = False, over
    return is_smoke, changed, over


def find_dust(found: Found, limit: float, now: int) -> Air:
    """The air outside at now, but for rain. limit: µg/m³ that are smoke; infinite turns it off."""
    sensors = [sensor for sensor in found if sensor.kind == "dust"]
    if not (dust := [*combine_dust(found[sensor] for sensor in sensors)]):
        return Air()
    humidities = sorted(one for sensor in found if sensor.kind == "humidity"
                        for one in found[sensor])
    is_smoke, changed, over = follow_smoke(dust, humidities, limit, now)
    (ms, value, end), last = dust[-1], max(sensors, key=lambda sensor: found[sensor][-1])
    is_bad = SENSITIVE < limit < math.inf and value >= SENSITIVE * (1 + is_foggy(humidities, ms))
    return Air(value, now <= end, is_smoke, is_bad and now <= end, changed,
               None if now <= end or is_smoke or limit == math.inf else (last, found[last][-1][0]),
               until=min(at for at in (over if is_smoke else 0, end + 1, LATEST_TIME) if at > now))


def find_air(found: Found, limit: float, now: int) -> Air:
    """The air outside at now, from what its sensors sent in the last 24 hours. It rains for
    RAIN_TIME after each reading above 0, or where that is the sum of an hour, above the last."""
    air = find_dust(found, limit, now)
    for sensor, readings in found.items():
        if "rain" in sensor.kind:
            (ms, value), is_sum = readings[-1], sensor.kind == "hourly rain"
            wet = max((at + RAIN_TIME for (_, before), (at, one) in itertools.pairwise(
                [(0, math.inf), *readings]) if one > (before if is_sum else 0)), default=0)
            end = ms + silence_limit(at for at, _ in readings)
            air = air._replace(rain=max(value, air.rain or 0) if now <= end else air.rain,
                               is_raining=air.is_raining or now < wet, until=min(
                                   at for at in (air.until, wet, end + 1) if at > now))
    return air


def is_more_humid(inside: float | None, outside: float | None) -> bool:
    """Whether a dew point outside is clearly above that inside."""
    return inside is not None and outside is not None and outside > inside + DEW_MARGIN


# What speaks against opening although it is cooler outside: the key of the sentence, and whether
# it is said of a verdict. The first two that apply are said.
CAVEATS: tuple[tuple[str, Callable[[Verdict], bool]], ...] = (
    ("smoke", lambda v: v.reason == "smoke"),
    ("keep_closed", lambda v: v.reason in {"comfortable_smoke", "cold_smoke"}),
    ("hot_inside", lambda v: "smoke" in v.reason and (v.inside or 0) >= HOT),
    ("sensitive", lambda v: v.state == "open" and v.air.is_bad),
    ("humid", lambda v: v.state == "open" and is_more_humid(*v.dew_points)),
    ("rain", lambda v: v.air.is_raining and (
        v.state == "open" or (v.reason == "comfortable" and (v.difference or 0) > 0))))


def apply_air(verdict: Verdict, air: Air) -> Verdict:
    """The verdict of a room, which knows temperatures only, when its windows open to this air."""
    state, reason, since = verdict.state, verdict.reason, verdict.since
    if verdict.inside is not None and verdict.outside is not None:
        since = max(since or 0, air.changed)
        if air.is_smoke and state == "comfortable":
            reason = "cold_smoke" if verdict.is_cold else "comfortable_smoke"
        elif air.is_smoke:
            is_cooler = round(verdict.outside, 1) <= round(verdict.inside, 1)
            state, reason = "close", "smoke" if is_cooler else "close"
    verdict = verdict._replace(air=air, state=state, reason=reason, since=since)
    return verdict._replace(caveats=[key for key, test in CAVEATS if test(verdict)][:2])


# -- rooms ---------------------------------------------------------------------------------------

HUES = 8                        # colors of lines


class Place(NamedTuple):
    """An inside or outside station as it is now. An inside one is a room, with its verdict."""
    id: int
    name: str
    role: str
    rank: int                           # among those of its role, from 0
    series: int | None = None           # of its temperature
    silence: int = 0                    # ms that it may be quiet, as the file has it
    start: int = 0                      # when the readings begin that were read
    keep: int = 0                       # when what it said begins that was kept
    readings: Sequence[Sample] = ()     # those of RECENT_WINDOW that count
    said: Sequence[Said] = ()           # after each reading that a course may go on with
    heard: int | None = None            # when its last possible temperature was, however long ago
    odd: float | None = None            # its newest reading in °C, if that is impossible
    due: int = LATEST_TIME              # when its next reading is, of a clock that is ahead
    humidity: Sample | None = None      # its newest one, in %
    settled: Course = START             # of a room: its course SETTLE_TIME ago
    outside: "Place | None" = None      # the station that it is compared with
    verdict: Verdict | None = None
    forecast: Forecast | None = None

    @property
    def told_forecast(self) -> Forecast | None:
        """What people are told: nothing that they would open for while there is smoke."""
        return None if self.verdict and self.verdict.air.is_smoke else self.forecast

    @property
    def last(self) -> Said:
        return self.said[-1] if self.said else UNHEARD

    @property
    def humid_until(self) -> int:
        """The last instant at which its humidity is as fresh as a temperature has to be."""
        return self.humidity[0] + self.last.limit if self.humidity else 0

    @property
    def css(self) -> str:
        """Rooms have hues from 1 up, outside stations 0 and from the last one down."""
        hue = 1 + self.rank if self.role == "inside" else -self.rank
        return f"hue{hue % HUES}"


Forecasts: TypeAlias = Mapping[tuple[int, int], Forecast | None]    # by series, inside and outside


async def read_places(reader: Reader, now: int, comfort: float, courses: Mapping[int, Course],
                      forecasts: Forecasts, stations: Iterable[Station] | None = None,
                      known: Mapping[int, Place] = MappingProxyType({}), smoke: float = SMOKE
                      ) -> list[Place]:
    """The inside and outside stations, with the verdict of each room, which goes on from its
    course. A known place is read again only if another part of its past is needed: so memory
    never differs from what a restart reads. smoke: µg/m³ of dust that close the windows."""
    wanted = [station for station in stations or reader.stations() if station.role]
    given = []
    for station in wanted:
        if station.id in known or is_thermometer(reader, station):
            given.append(station)
        await pause()
    begins = {station.id: find_course(courses, station.id, now) for station in given
              if station.role == "inside"}
    since = min((course.at for course in begins.values()), default=now // QUARTER * QUARTER)
    stored = min((course.at for course in begins.values() if course is not START), default=now)
    places: list[Place] = []
    ranks: collections.Counter[str | None] = collections.Counter()
    for station in given:
        begin = begins[station.id].at if station.id in begins else since
        places.append(await read_place(reader, station, ranks[station.role], begin,
                                       max(begin, stored), now, known.get(station.id)))
        ranks[station.role] += 1
        await pause()
    # The outside station that counts is the first one that is not silent. If it were the one that
    # sent last, verdicts would turn with each reading.
    outsides = [place for place in places if place.role == "outside"]
    # If all are silent, it is the one that was heard last.
    outside = next((place for place in outsides if now <= place.last.end), max(
        outsides, key=lambda place: place.heard or 0, default=None))
    air = await read_air(reader, smoke, now)
    for number, place in enumerate(places):
        if place.role == "inside":
            room = (place if place.verdict and place.outside is outside
                    and place.verdict.air == air else
                    await answer_room(reader, place, begins[place.id], outside, air, now, comfort))
            if outside is None and room.verdict and any(one.role == "outside" for one in wanted):
                room = room._replace(verdict=room.verdict._replace(reason="no_thermometer"))
            forecast = fresh_forecast(room, forecasts, now)
            places[number] = (room if forecast is room.forecast else
                              room._replace(forecast=forecast))
        await pause()
    return places


async def read_air(reader: Reader, smoke: float, now: int) -> Air:
    """The air outside at now."""
    start, found = now // QUARTER * QUARTER - DAY, dict[Sensor, Sequence[Sample]]()
    for sensor in read_sensors(reader.db, "dust", "rain", "hourly rain"):
        found[sensor] = reader.recent(sensor.series, start, now + 1, POSSIBLE_AIR)
        await pause()
    if any(value >= min(SENSITIVE, smoke) for readings in found.values() for _, value in readings):
        for sensor in read_sensors(reader.db, "humidity"):
            found[sensor] = reader.recent(sensor.series, start, now + 1, POSSIBLE_HUMIDITY)
            await pause()
    return find_air({sensor: readings for sensor, readings in found.items() if readings},
                    smoke, now)


def find_course(courses: Mapping[int, Course], station: int, now: int) -> Course:
    """The course of a room; one of the future is not believed, since the clock was set back."""
    course = courses.get(station, START)
    return course if course.at <= now else START


def read_days(reader: Reader, place: Place, now: int) -> Iterator[Sample]:
    """The readings of a place from its start on, of a day at a time: those of ten take 10 MB."""
    for day in range(place.start, now + 1, DAY):
        yield from reader.recent(place.series or 0, day, min(day + DAY, now + 1))


async def read_place(reader: Reader, station: Station, rank: int, since: int, keep: int, now: int,
                     known: Place | None) -> Place:
    """A station with a role as it is now, with what it said from keep on. Where reading starts
    depends only on since, on the station and on the quarter of an hour."""
    start = max(now // QUARTER * QUARTER - REPLAY_WINDOW, since - RECENT_WINDOW - station.silence)
    start -= start % MINUTE
    if known and known.start == start and known.keep <= keep:
        return known
    series = reader.thermometer(station.id)
    place = Place(station.id, station.name, str(station.role), rank, series,
                  max(SILENT_AT_LEAST, station.silence), start, keep)
    if series is None:
        return place
    said: list[Said] = []
    for number, latest in enumerate(sayings(read_days(reader, place, now), place.silence)):
        if latest.time <= min(keep, now - RECENT_WINDOW):
            said.clear()
        said.append(latest)
        if number % STEP_ENTRIES == 0:
            await pause()
    recent = bisect.bisect_left(said, now - RECENT_WINDOW, key=operator.attrgetter("time"))
    first = max(bisect.bisect_right(said, keep, key=operator.attrgetter("time")) - 1, 0)
    heard = said[-1].time if said else last_possible(reader.db, series, now)
    return place._replace(
        readings=believe(said[recent:]), said=said[first:], heard=heard,
        odd=read_odd(reader.db, series, now), due=next_time(reader.db, series, now),
        humidity=read_humidity(reader.db, station.id, now))


async def answer_room(reader: Reader, room: Place, begin: Course, outside: Place | None, air: Air,
                      now: int, comfort: float) -> Place:
    """A room with its verdict, which goes on from the course that it begins with."""
    course = settled = begin
    inside, others = (
        sayings(read_days(reader, side, now), side.silence) if begin is START else side.said
        for side in (room, outside or room._replace(series=None, said=())))
    steps = follow(course, inside, others, comfort)
    for number, course in enumerate(steps):
        if course.at <= now - SETTLE_TIME:
            settled = course
        if number % STEP_ENTRIES == 0:
            await pause()
    verdict = judge(course, room.last, outside.last if outside else UNHEARD, now)
    silent = room if verdict.silent == "inside" else outside
    if verdict.since is None and silent:        # it has been silent for longer than was read
        verdict = verdict._replace(since=silent.heard)
    verdict = verdict._replace(dew_points=(
        find_dew_point(room, verdict.inside, now),
        find_dew_point(outside or room, verdict.outside, now)))
    return room._replace(outside=outside, settled=settled, verdict=apply_air(
        verdict._replace(reason=find_reason(verdict, comfort)), air))


def find_dew_point(place: Place, celsius: float | None, now: int) -> float | None:
    """The dew point in °C at a place, if its humidity is fresh and possible."""
    if celsius is None or place.humidity is None or now > place.humid_until:
        return None
    _, humidity = place.humidity
    return dew_point(celsius, humidity) if 1 <= humidity <= 100 else None


def fresh_forecast(room: Place, forecasts: Forecasts, now: int) -> Forecast | None:
    """The forecast for a room, while it is new and has not come true."""
    if not room.verdict or room.verdict.difference is None or not room.outside:
        return None
    forecast = forecasts.get((room.series or 0, room.outside.series or 0))
    event = "cooler" if room.verdict.difference < 0 else "warmer"
    is_new = forecast and 0 <= now - forecast.asked < 2 * QUARTER and forecast.event == event
    return forecast if is_new else None
URGENCY = ("open", "close", "unknown", "comfortable")   # the order of rooms on the page


def rank_rooms(places: list[Place]) -> list[tuple[Place, Verdict]]:
    """The inside stations with their verdicts, the most urgent first."""
    rooms = [(place, place.verdict) for place in places if place.verdict]
    return sorted(rooms, key=lambda room: URGENCY.index(room[1].state))


def find_expiry(places: list[Place]) -> int:
    """When the first verdict turns unknown, unless readings come."""
    return min((place.verdict.expires for place in places
                if place.verdict and place.verdict.expires), default=LATEST_TIME)


# ------------------------------------------------------------------------------------------------
# 9. Sentences
#    Law: a state becomes words here, and nowhere else; nothing here asks the store. A sentence is
#    whole: a row of SENTENCES with named holes, never put together from pieces of others. A new
#    one is a row here and one in each language of the wing Languages; a test compares the rows.
# ------------------------------------------------------------------------------------------------
# What people read, by its key; locale.say(key, hole=...) says it.
SENTENCES = {
    "headline_open": "Open the windows", "headline_close": "Keep the windows closed",
    "headline_comfortable": "Comfortable inside", "headline_cold": "Cold inside",
    "headline_unknown": "No answer", "headline_none": "No answer yet",
    "pill_open": "open", "pill_close": "closed", "pill_comfortable": "comfortable",
    "pill_cold": "cold", "pill_unknown": "no answer",
    # An answer in one text. {clause} is {reason} with a small letter; neither has its full stop.
    "answer": "{headline}: {clause}.", "in_room": "{room}: {text}",
    "answer_with_numbers": "{headline}: {clause} (inside {inside}, outside {outside}).",
    "cooler": "It is {d} cooler outside.", "warmer": "It is {d} warmer outside.",
    "even": "It is about as warm outside as inside.", "nothing_to_do": "Nothing to do.",
    "turned_warmer": "It is now {d} warmer outside; if that lasts, this answer will change.",
    "turned_cooler": "It is now {d} cooler outside; if that lasts, this answer will change.",
    "warmer_close": "But it is {d} warmer outside: keep the windows closed.",
    "cold_colder": "It is {d} colder outside: keep the windows closed.",
    "cold_even": "It is hardly warmer outside: keep the windows closed.",
    "cold_warmer": "It is {d} warmer outside: opening the windows warms the room.",
    "cold_damp": "Keep the windows closed: the air outside is warm and damp, and its "
                 "moisture would condense on cold walls.",
    "cold_wet": "Keep the windows closed: it is {d} warmer outside, but moisture in that air "
                "would condense on cold walls.",
    "cold_hot": "Keep the windows closed: it is {d} warmer outside.",
    "smoke": "But the air outside is full of smoke or dust: PM2.5 {pm} µg/m³.",
    "keep_closed": "Keep the windows closed.",
    "hot_inside": "It is hot inside, too: find a cooler place if you can.",
    "sensitive": "The air outside is bad for sensitive people: PM2.5 {pm} µg/m³.",
    "rain": "It is raining: mind the windows.",
    "air_unknown": "“{name}” has been silent for {ago}: the air outside is not known.",
    "field_of": "{label}, {name}",
    "humid": "The air is more humid outside: dew point {outside} outside, {inside} inside.",
    "station_silent": "“{name}” has been silent for {ago}.",
    "no_temperature": "“{name}” has sent no temperature yet.",
    "needs_thermometer": "This needs a station with the role outside that sends a temperature.",
    "needs_roles": "This needs a station with the role inside and one with the role outside.",
    "cooler_range": "Cooler outside from about {at} ({start} to {end}).",
    "cooler_at": "Cooler outside from about {at}.", "row_cooler": "cooler from {at}",
    "cooler_soon": "Cooler outside any moment, probably by {end}.",
    "warmer_at": "Warmer outside from about {at}.",
    "warmer_soon": "Warmer outside any moment, probably by {end}.",
    "open_until": "Leave them open until about {at}.",
    "between": "Between {start} and {end}.",
    "between_chance": "Between {start} and {end}, with a chance of {chance}.",
    "brackets": "The range in brackets should be right on 8 days out of 10.",
    "not_sure": "When that changes is not sure yet.",
    "times_in": "Times are in {zone}.",
    "both": "{inside} inside, {outside} outside.",
    "no_cooler": "It will probably stay warmer outside for 12 hours.",
    "no_warmer": "It will probably stay cooler outside for 12 hours.",
    "row_warmer": "warmer from {at}", "row_open": "open until {at}",
    "too_few": "Too few days have passed to say how accurate this is.",
    "record_cooler": "On half of the last {count} evenings, the forecast was at most {minutes} "
                     "minutes off.",
    "record_warmer": "On half of the last {count} mornings, the middle of the range was at most "
                     "{minutes} minutes off.",
    "doubted": "{value} came last; waiting for a second reading.",
    "impossible": "{value} came last, which is impossible.",
    "fahrenheit": "{value} came last, which is impossible; a station sends °C, not °F.",
    "chart_begins": "The chart begins with the first reading.",
    "no_chart": "No chart yet: give a station a role with --edit-station NAME --role {role}.",
    "rising": "rising", "falling": "falling", "steady": "steady",
    # Messages.
    "title_silent": "“{name}” is silent", "title_back": "“{name}” reports again",
    "text_back": "“{name}” reports again.", "title_plan": "When it gets cooler",
    "since": "It has been so since {at}.", "no_word": "No word from iotserver",
    "cut_off": "It has not reported for {ago}: the power, internet or computer may be down.",
    "test": "This is a test: messages arrive.",
    "messages_failed": "Messages to {name} have failed for an hour: {why}.",
    "engine_dropped": "{name} was sent the reading of {at}, but does not have it. Does it keep "
                      "such old ones? VictoriaMetrics: -retentionPeriod=100y; InfluxDB: the "
                      "retention policy of the database.",
    # Pages with a title, a sentence and what to do next. An error has the first two in English.
    "stored": "Stored / This reading is entry {entry}. / It is on the page already.",
    "purpose": "For weather stations / Bought weather stations send here what they measure. / "
               "--add-station NAME --mac ID --console says what to type into their app.",
    "error_400": "Compare the address with the one that --add-station printed.",
    "error_401": "Load the page again and type the household's password; any user name will do.",
    "error_403": "Compare MAC and key with the station's config.py, or give it a new key with "
                 "--new-key.",
    "error_404": "Check the address for typing errors.", "error_405": "Open the page instead.",
    "error_429": "Wait 15 minutes, then try again.", "error_503": "Try again in a minute.",
    "error_507": "Free some space on the server's disk.", "error": "Go back to the page.",
    "open_page": "Open the page",
    "no_station": "No station yet / Add one with the MAC that your station prints when it "
                  "starts, or with any word that it will send as its MAC. This command prints "
                  "its key and the lines for its config.py: / Then add another one with the "
                  "role outside. Or look around first: / This page updates itself as soon as a "
                  "station is there.",
    "ago": "{ago} ago", "reading": "{name} {value}", "no_reading": "{name} no reading",
    "offline": "as of {clock}, no connection", "offline_day": "as of %a, {clock}, no connection",
    "touch": "Touch the chart to read values", "point_at": "Point at the chart to read values",
    # The chart, tiles and stations.
    "now": "now", "comfort": "comfort {value}", "cooler_outside": "cooler outside",
    "expected": "expected", "likely_change": "likely change", "ranges": "24h / 7d / 30d / 1y",
    "expected_line": "{name}, expected", "line_empty": "{name}: no readings",
    "line_said": "{name}: from {low} to {high}, last {last}", "no_lines": "no readings yet",
    "not_drawn": "{count} not drawn: as far off as {value}",
    "odd_not_drawn": "impossible readings not drawn",
    "spark": "Last 24 hours: {low} to {high}", "chart_failed": "This chart could not be drawn.",
    "chart_range": "Range of the chart", "chart_time": "Time on the chart",
    "cooler_times": "When it was cooler outside / from / until",
    "today": "Today: low {low} at {low_at}, high {high} at {high_at}",
    "as_yesterday": "as warm as yesterday", "warmer_than_yesterday": "{d} warmer than a day ago",
    "cooler_than_yesterday": "{d} cooler than a day ago", "no_reading_yet": "no reading yet",
    "one_heard": "1 station, heard within {ago}",
    "all_heard": "{n} stations, all heard within {ago}",
    "stations": "Stations", "exact_times": "Exact times", "never": "never", "every": "every {ago}",
    "state_ok": "ok", "state_silent": "silent", "state_new": "new", "folded": "{n} more",
    "history": "History since {day}", "no_history": "No history yet",
    "beyond": "And {n} more, in /api/stations.",
    "more_rooms": "And 1 more room, less urgent. / And {n} more rooms, less urgent.",
    "week": "Cooler outside for {hours} h this week; hottest {outside} outside, {inside} inside.",
    "daily_range": "daily low to high",
    "day_range": "{day}: {name} {low} to {high}, mean {mean}",
    "day_so_far": "{day}: {name} {low} to {high} so far",
    # Signs and units, and words of dates in the forms of strftime.
    "quantity": "{number} {unit}", "percent": "{number}%", "point": ".",
    "compass": "N NNE NE ENE E ESE SE SSE S SSW SW WSW W WNW NW NNW", "field": "field {n}",
    "labels": "temperature / humidity / pressure / wind / gusts / wind from / rain / "
              "hourly rain / sun / UV index",
    "seconds": "{n} s", "minutes": "{n} min", "hours": "{n} h", "days": "{n} d",
    "day": "%d %b", "date": "%a %d %b %Y", "weekday": "%a %d %b",
    "date_clock": "%a %d %b, {clock}", "moment": "%d %b %Y, {clock}",
    "exact": "%a %d %b %Y {clock} %Z", "weekdays": "Mon Tue Wed Thu Fri Sat Sun",
    "months": "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec"}
LANGUAGES: dict[str, Mapping[str, str]] = {"en": SENTENCES}     # by their codes in BCP 47
SETTINGS.append(Setting(
    "language", "auto|en", "auto", one_of("auto", "en"), "of the page, messages and errors for "
    "people; auto: the page follows the browser, messages are in English", is_carried=True))
REASONS = (     # reason, least °C that it is cooler outside, answer, key; the first row counts
    ("open", 0.05, "open", "cooler"), ("open", -0.05, "open", "even"),
    ("open", -math.inf, "open", "turned_warmer"),
    ("close", 0.05, "close", "turned_cooler"), ("close", -0.05, "close", "even"),
    ("close", -math.inf, "close", "warmer"),
    ("comfortable", -CLOSE_MARGIN, "comfortable", "nothing_to_do"),
    ("comfortable", -math.inf, "close", "warmer_close"),
    ("cold", 0.05, "close", "cold_colder"), ("cold", -OPEN_MARGIN, "close", "cold_even"),
    ("cold", -math.inf, "cold", "cold_warmer"), ("damp", -math.inf, "close", "cold_damp"),
    ("wet", -math.inf, "close", "cold_wet"), ("hot", -math.inf, "close", "cold_hot"),
    ("smoke", 0.05, "close", "cooler"), ("smoke", -math.inf, "close", "even"),
    ("comfortable_smoke", -math.inf, "close", "smoke"),
    ("cold_smoke", -math.inf, "close", "smoke"),
    ("no_thermometer", -math.inf, "unknown", "needs_thermometer"),
    ("unknown", -math.inf, "unknown", "needs_roles"))
HOTTEST_FAHRENHEIT = 130.0      # °F that weather has; what looks like them is no °C
POWER_ON = 85.0                 # °C that a DS18B20 says before it has measured
NEAR = 30 * MINUTE              # how far from this time yesterday a reading may be
SURE = 0.95                     # a chance above this is not said: nobody is sure
SAME = 0.5                      # °C of difference below which two days count as equally warm
FORECAST_STEP = 5 * MINUTE      # times of a forecast are rounded to this: it is no better
LEAST_TOLD, MOST_TOLD = 5, 20   # past forecasts that are counted for how accurate they are
AGES = ((86_400, "days"), (3600, "hours"), (60, "minutes"), (1, "seconds"))    # s, key


class Locale(NamedTuple):
    """How one reader, or one household, is spoken to."""
    language: str = "en"        # a key of LANGUAGES
    unit: str = "C"             # C or F; in messages also CF for both
    zone: tzinfo | None = UTC   # None: the machine's
    clock: str = "%H:%M"        # how strftime writes a time of day

    def say(self, key: str, /, **holes: object) -> str:
        """The sentence with this key, its holes filled."""
        return self.read(key).format_map(holes)

    def read(self, key: str) -> str:
        """The sentence with this key as it is in the table."""
        return LANGUAGES[self.language].get(key) or SENTENCES[key]

    def say_number(self, value: float, *, is_short: bool = False) -> str:
        """A number with one decimal; a short one without a last .0."""
        text = f"{round(value, 1) + 0.0:.1f}" if abs(value) < 1e5 else f"{value:.1e}"
        return self.say_digits(text.removesuffix(".0") if is_short else text)

    def say_digits(self, text: str) -> str:
        """A number as text, with the language's decimal sign."""
        return text.replace(".", self.say("point"))

    def say_quantity(self, number: str, unit: str) -> str:
        """A number with its unit. Without a number, the space that belongs to it is kept."""
        key = "percent" if unit == "%" else "quantity"
        return self.say(key, number=number, unit=unit) if unit else number

    def say_time(self, ms: int, form: str = "") -> str:
        """An instant in words: the time of day, or in a form of strftime or with such a key."""
        instant = datetime.fromtimestamp(ms / 1000, UTC).astimezone(self.zone)
        form = self.say(form, clock=self.clock) if form in SENTENCES else form or self.clock
        for sign, words, i in (("%a", "weekdays", instant.weekday()),
                               ("%b", "months", instant.month - 1)):
            form = form.replace(sign, self.say(words).split()[i])
        return instant.strftime(form)

    def say_ago(self, ms: int) -> str:
        """A duration in one unit, as people say it: `9 s`, `3 min`, `5 h`, `12 d`."""
        seconds = max(ms // 1000, 0)
        length, key = next((age for age in AGES if seconds >= age[0]), AGES[-1])
        return self.say(key, n=seconds // length)

    def say_count(self, key: str, n: int) -> str:
        """One of two sentences: the first is for a single one."""
        return self.say(key, n=n).split(" / ")[n != 1]


ENGLISH = Locale()              # for programs


def in_unit(celsius: float, unit: str) -> float:
    return celsius if unit == "C" else celsius * 1.8 + 32


FAHRENHEIT_REGIONS = frozenset({
    "US", "AS", "BS", "BZ", "FM", "GU", "KY", "LR", "MH", "MM", "MP", "PR", "PW", "VI"})
HALF_DAY_REGIONS = FAHRENHEIT_REGIONS | {"AU", "CA", "IN", "NZ", "PH"}   # the clock has 12 hours


def region_of(languages: str) -> str:
    """The region of the first language of Accept-Language, in capitals: US of en-us,en."""
    region = re.match(r"\s*[a-z]+(?:-[a-z]{4})?-([a-z]{2})\b", languages, re.IGNORECASE)
    return region[1].upper() if region else ""


def choose_language(setting: str, languages: str) -> str:
    """A key of LANGUAGES: the setting, or if that is auto, the one in Accept-Language with the
    highest q, the first of several; else English."""
    wishes = re.findall(r"(?:^|,)\s*([a-z]{2,3})\b[^,;]*(?:;\s*q=([01](?:\.\d{0,3})?))?",
                        languages.lower())
    known = [(float(q or 1), code) for code, q in wishes if code in LANGUAGES]
    best, code = max([*known, (0.0, "en")], key=operator.itemgetter(0))
    return setting if setting != "auto" else code if best else "en"


def choose_unit(setting: str, languages: str) -> str:
    """C or F: the setting, or if that is auto, the unit of the first language's region."""
    if setting != "auto":
        return setting
    return "F" if region_of(languages) in FAHRENHEIT_REGIONS else "C"


def choose_clock(cookie: str, languages: str) -> str:
    """How strftime writes a time of day: by the cookie of the page's script, else by region."""
    told = re.search(r"(?:^|;\s*)clock=(12|24)(?:;|$)", cookie)
    is_half_day = told[1] == "12" if told else region_of(languages) in HALF_DAY_REGIONS
    return "%-I:%M\N{NO-BREAK SPACE}%p" if is_half_day else "%H:%M"


def choose_zone(cookie: str) -> tzinfo | None:
    """The time zone in the cookies of the page's script: by its name, else by its offset. None,
    the machine's, on the first visit."""
    told = dict(re.findall(r"(?:^|;\s*)(tz|offset)=([^;\s]+)", cookie))
    if (zone := find_zone(told.get("tz", ""))) is not UTC:
        return zone
    has_offset = re.fullmatch("-?[0-9]{1,3}", told.get("offset", ""))
    return timezone(timedelta(minutes=int(told["offset"]))) if has_offset else None


@functools.lru_cache(256)       # readers; a cookie of MAX_COOKIES makes 2 KB of one
def find_locale(language: str, units: str, accepted: str, cookie: str) -> Locale:
    """How a reader is spoken to: by two settings, Accept-Language and the page's cookies."""
    return Locale(choose_language(language, accepted), choose_unit(units, accepted),
                  choose_zone(cookie), choose_clock(cookie, accepted))


def say_sentence(text: str) -> str:
    """A text with a capital letter and a full stop."""
    return text[:1].upper() + text[1:] + "." * (text[-1:] not in {".", "!", "?"})


def say_label(name: str, locale: Locale) -> str:
    """The name of a field, in the language if it is one of ours."""
    if match := re.fullmatch("field ([1-9])", name):
        return locale.say("field", n=match[1])
    ours, theirs = SENTENCES["labels"].split(" / "), locale.say("labels").split(" / ")
    return theirs[ours.index(name)] if name in ours else name


def say_degrees(difference: float, locale: Locale) -> str:
    """A difference of temperatures, like `4.1 °F`, or with units CF `2.3 °C / 4.1 °F`."""
    degrees = ((abs(difference) * (1 if unit == "C" else 1.8), unit) for unit in locale.unit)
    return " / ".join(locale.say_quantity(locale.say_number(value, is_short=True), f"°{unit}")
                      for value, unit in degrees)


def say_whole(celsius: float, locale: Locale) -> str:
    """A temperature without decimals, like `66 °F`, or with units CF `19 °C / 66 °F`."""
    return " / ".join(locale.say_quantity(f"{in_unit(celsius, unit):.0f}", f"°{unit}")
                      for unit in locale.unit)


def shown_difference(verdict: Verdict, unit: str) -> float:
    """Inside minus outside in °C, from the two rounded numbers that a reader of this unit sees.
    The difference of the exact numbers could contradict those by 0.1."""
    if verdict.inside is None or verdict.outside is None:
        return verdict.difference or 0.0
    inside, outside = (round(in_unit(celsius, unit), 1)
                       for celsius in (verdict.inside, verdict.outside))
    return round((inside - outside) / (1 if unit == "C" else 1.8), 6)


def explain_verdict(verdict: Verdict, unit: str) -> tuple[str, str]:
    """The answer and the key of its reason, from the first row of REASONS that applies."""
    why = verdict.reason or verdict.state
    difference = shown_difference(verdict, unit[0])
    return next((answer, key) for name, least, answer, key in REASONS
                if name == why and difference >= least)


def say_verdict(room: Place | None, now: int, locale: Locale) -> tuple[str, str, list[str]]:
    """The answer for a room: headline, reason, and what else speaks for or against it."""
    verdict = room.verdict if room else None
    if room is None or verdict is None or verdict.difference is None:
        silent = room if verdict and verdict.silent == "inside" else room and room.outside
        if silent is None:
            missing = explain_verdict(verdict, "C")[1] if verdict else "needs_roles"
            return locale.say("headline_none"), locale.say(missing), []
        key = "no_temperature" if silent.heard is None else "station_silent"
        return locale.say("headline_unknown"), locale.say(
            key, name=silent.name, ago=locale.say_ago(now - (silent.heard or now))), []
    headline = locale.say(f"headline_{'cold' if verdict.is_cold else verdict.state}")
    reason = locale.say(explain_verdict(verdict, locale.unit)[1], d=" / ".join(
        say_degrees(shown_difference(verdict, unit), locale._replace(unit=unit))
        for unit in locale.unit), **describe_air(verdict, locale))
    return headline, reason, [
        locale.say(key, **describe_air(verdict, locale)) for key in verdict.caveats]


def describe_air(verdict: Verdict, locale: Locale) -> dict[str, str]:
    """What fills the holes of the sentences about air."""
    return {"pm": f"{verdict.air.dust or 0:.0f}", **{
        side: say_whole(dew, locale) for side, dew in zip(
            ("inside", "outside"), verdict.dew_points, strict=True) if dew is not None}}


def say_missed(verdict: Verdict | None, now: int, locale: Locale) -> list[str]:
    """That the air outside is not known, because a sensor of dust is silent; for the page."""
    if verdict is None or verdict.air.missed is None:
        return []
    sensor, ms = verdict.air.missed
    name = sensor.name if (sensor.heard or 0) < ms + SILENT_AT_LEAST else locale.say(
        "field_of", label=split_label(0, sensor.label)[0], name=sensor.name)
    return [locale.say("air_unknown", name=name, ago=locale.say_ago(now - ms))]


def say_answer(room: Place | None, now: int, locale: Locale, key: str = "answer",
               **holes: str) -> str:
    """The answer for a room in one text, for programs and messages."""
    headline, reason, caveats = say_verdict(room, now, locale)
    reason = reason.removesuffix(".")
    return " ".join((locale.say(key, headline=headline, reason=reason,
                                clause=reason[:1].lower() + reason[1:], **holes), *caveats))


def say_times(forecast: Forecast, now: int, locale: Locale) -> list[str]:
    """The times of a forecast in words: the median, the start and the end of its interval. An
    event that is overdue is expected now."""
    at, start, end = cast(tuple[int, int, int], forecast[1:4])
    return [locale.say_time(round(ms / FORECAST_STEP) * FORECAST_STEP)
            for ms in (max(at, now), start, max(end, now))]


def say_cooler(times: Sequence[str], locale: Locale) -> list[str]:
    """The forecast of an evening, with its interval unless that is a single time, and how far the
    interval may be trusted."""
    at, start, end = times
    if start == at == end:
        return [locale.say("cooler_at", at=at)]
    return [locale.say("cooler_range", at=at, start=start, end=end), locale.say("brackets")]


def say_forecast(room: Place, now: int, locale: Locale) -> list[str]:
    """When it gets cooler or warmer outside: a sentence, and others that explain it."""
    forecast = room.told_forecast
    if forecast is None or (room.verdict and room.verdict.is_cold):
        return []
    if forecast.at is None:
        return [locale.say(f"no_{forecast.event}")]
    times = at, start, end = say_times(forecast, now, locale)
    if forecast.at - now < FORECAST_STEP:
        last = -(-max(forecast.end or 0, now + 1) // FORECAST_STEP) * FORECAST_STEP
        return [locale.say(f"{forecast.event}_soon", end=locale.say_time(last))]
    if forecast.event == "cooler":
        return say_cooler(times, locale)
    is_open = room.verdict and room.verdict.state == "open"
    chance = locale.say("percent", number=f"{forecast.chance * 100:.0f}")
    return [locale.say("open_until" if is_open else "warmer_at", at=at),
            locale.say("between" if forecast.chance > SURE else "between_chance",
                       start=start, end=end, chance=chance)]


def say_change(room: Place, now: int, locale: Locale, form: str = "row") -> str:
    """When the answer for a room changes, in few words: its forecast without the interval."""
    forecast = room.told_forecast
    if forecast is None or forecast.at is None or (room.verdict and room.verdict.is_cold):
        return ""
    is_open = room.verdict and room.verdict.state == "open" and forecast.event == "warmer"
    return locale.say(f"{form}_{'open' if is_open else forecast.event}",
                      at=say_times(forecast, now, locale)[0])


def say_record(forecast: Forecast, locale: Locale) -> str:
    """How accurate such forecasts have been."""
    errors = [outcome.error for outcome in forecast.past[-MOST_TOLD:]]
    if len(errors) < LEAST_TOLD:
        return locale.say("too_few")
    off = max(statistics.median(errors), FORECAST_STEP)     # no forecast is told more exactly
    return locale.say(f"record_{forecast.event}", count=len(errors), minutes=round(off / MINUTE))


def say_rooms(places: list[Place], now: int, locale: Locale) -> Iterator[str]:
    """The answers in words, a line for each room. The zone is named if it is not the reader's."""
    zone = locale.say("times_in", zone=locale.say_time(now, "%Z"))
    for room, _ in rank_rooms(places):
        said = [say_answer(room, now, locale), *say_forecast(room, now, locale)[:1]]
        named = [zone] if said[1:] and locale.zone in {None, UTC} else []
        yield locale.say("in_room", room=room.name, text=" ".join((*said, *named))) + "\n"


def describe_rooms(places: list[Place], now: int, locale: Locale = ENGLISH
                   ) -> Iterator[dict[str, Any]]:
    """The answers for programs, in °C and ms. The locale only applies to the text."""
    return ({
        "station": room.name, "state": verdict.state, "since": verdict.since,
        "inside": verdict.inside, "outside": verdict.outside,
        "difference": verdict.difference and round(verdict.difference, 2),
        **{f"{side}_dew_point": dew and round(dew, 1) for side, dew in zip(
            ("inside", "outside"), verdict.dew_points, strict=True)},
        "pm25": round(verdict.air.dust or 0, 1) if verdict.air.is_fresh else None,
        "rain": verdict.air.rain,
        "text": say_answer(room, now, locale),
        "forecast": room.forecast and {
            "event": room.forecast.event, "at": room.forecast.at, "from": room.forecast.start,
            "to": room.forecast.end, "chance": round(room.forecast.chance, 2)},
    } for room, verdict in rank_rooms(places))


def say_waiting(place: Place, locale: Locale) -> Iterator[str]:
    """Why the number that people see is not the newest reading of a place."""
    said = place.last
    doubted = said.last[-1][1] if said.last and said.last[-1][1] != said.shown else None
    is_fahrenheit = (place.odd is not None and place.odd != POWER_ON
                     and POSSIBLE[1] < place.odd <= HOTTEST_FAHRENHEIT)
    odd = ("fahrenheit", "C") if is_fahrenheit else ("impossible", locale.unit)
    for key, unit, celsius in (("doubted", locale.unit, doubted), (*odd, place.odd)):
        if celsius is not None:
            number = locale.say_number(in_unit(celsius, unit))
            yield locale.say(key, value=locale.say_quantity(number, f"°{unit}"))


def say_trend(readings: Sequence[Sample], now: int, locale: Locale) -> str:
    """rising, falling or steady over the last half hour; empty if there are too few readings."""
    recent = [r for r in readings if r[0] > now - TREND_TIME]
    if len(recent) < 2 or recent[-1][0] - recent[0][0] < TREND_TIME // 3:
        return ""
    change = recent[-1][1] - recent[0][1]
    return locale.say("steady" if abs(change) < TREND_STEADY else
                      "rising" if change > 0 else "falling")


# ------------------------------------------------------------------------------------------------
# 10. HTTP
#    Law: bytes are understood in one way or refused. Pure functions, no socket.
# ------------------------------------------------------------------------------------------------
MAX_LINE = 8190                 # bytes of a request line: RFC 9112, 3 asks for 8,000 at least
MAX_HEAD = 16_384               # bytes of request line and headers; a browser sends 2,000 at most
MAX_HEADERS = 64                # a browser behind a proxy sends less than 30
MAX_BODY = 256 * 1024           # bytes; 960 readings take less than 100 KiB
MAX_STRANGE_BODY = 2048         # bytes of a body that anybody may send; a longer one needs a key
MAX_REMEMBERED = 2048           # bytes of a remembered head; a browser sends less
MAX_HEADS = 8_000_000           # bytes of remembered heads: 2 of 2 KB for each of 2,000 stations
PACKED_FROM = 1000              # bytes; a shorter body fits in one packet as it is
PACKED_TO = 1_000_000           # bytes, which take 12 ms to compress

TEXT, JSON, HTML, CSV, EVENTS = (
    "text/plain; charset=utf-8", "application/json", "text/html; charset=utf-8",
    "text/csv; charset=utf-8", "text/event-stream")
ANY_ORIGIN: Headers = (("Access-Control-Allow-Origin", "*"),)   # scripts of other sites may read
NO_STORE = ("Cache-Control", "no-store")


class Request(NamedTuple):
    """A client's request. Fields are named as in http.server's handler, if it has them."""
    command: str = "GET"
    path: str = "/"                             # without the query
    query: str = ""                             # as it was sent
    request_version: str = "HTTP/1.1"
    headers: Mapping[str, str] = MappingProxyType({})   # names in lower case
    address: str = ""                           # of the client
    peer: str | None = ""                       # address of the connection; None: the proxy
    close_connection: bool = True               # after the answer
    length: int = 0                             # of the body, bytes
    fault: Refused | None = None                # why it is refused
    body: bytes = b""
    is_lan: bool = False                        # sent to a private address of this machine
    form: Mapping[str, str] | None = None       # the query, if it is split already
    update: tuple[str, str, Reading] | None = None      # the path, if it is parsed already

    @property
    def network(self) -> str:
        """The client's network. Networks take turns with long requests."""
        return networks(self.address)[0]


class Answer(NamedTuple):
    """The answer to a request. An update's answer waits for the commit, and fails with it."""
    body: bytes
    kind: str = TEXT
    status: int = 200
    headers: Headers = ()
    is_update: bool = False
    stream: AsyncIterator[bytes] | None = None  # the rest of the body, made while it is sent
    listens: bool = False                       # the connection gets events after this answer


# -- what devices get wrong ----------------------------------------------------------------------

HEAD_END = re.compile(rb"\n\r?\n")
WRONG_VERSION = re.compile(rb" http| \S*/ ?\d\.\d", re.IGNORECASE)
QUOTED = [b"%%%02X" % n if n > 127 or n in b" #\\" else b"%c" % n for n in range(256)]


def repair_head(data: bytes) -> tuple[bytes, int, bool] | None:
    """Correct the head of a request for ThingSpeak's paths. Returns it, its length in data, and
    whether its answer has no head (HTTP/0.9); None while it is incomplete. The strict parser reads
    the result, so it still refuses all other mistakes."""
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


# -- bytes to a Request --------------------------------------------------------------------------

TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"                        # RFC 9110, 5.6.2
REQUEST_LINE = re.compile(rb"(%s) ([!\"$-\[\]-~]+) HTTP/([0-9]\.[0-9])" % TOKEN)
HEADER = re.compile(rb"(%s):([\t -~\x80-\xff]*)\r\n" % TOKEN)
HEADERS = re.compile(rb"(?:%s)*\r\n" % HEADER.pattern.replace(b"(", b"(?:"))
# The beginning of a path as a proxy gets it, which RFC 9112, 3.2.2 demands to be understood.
ABSOLUTE = re.compile("^https?://[^/?]+/?", re.IGNORECASE)
LOOPBACK = re.compile(r"(?:::ffff:)?127\.[\d.]+|::1")
HOST = re.compile(r"[0-9A-Za-z.\-_~%!$&'()*+,;=:\[\]]*")
BODY_HEADERS = frozenset({"transfer-encoding", "content-length", "expect"})
ONCE = frozenset({"host", "content-length", "content-type", "x-api-key", "expect", "x-real-ip"})
LOOSE: list[re.Pattern[bytes]] = []      # request lines of clients that make mistakes
# The values that are cut out of a request line: those of an update path that change each time, and
# all of a query. They contain no delimiter, so no value changes what the others mean. In a path
# they are at most as long as a seq.
CHANGING = frozenset({"data", "age", "seq"})
PATH_VALUE = re.compile(rf"(/(?:data|age|seq)=)([^&/=?#% \\\x00-\x1f\x7f-\xff]{{1,{MAX_SEQ}}})")
QUERY_VALUE = re.compile(r"(=)([^&/=?# \\\x00-\x1f\x7f-\xff]*)")
QUERIES: list[str] = []         # beginnings of request lines whose query is a form
# A line in which NUL replaces these values, if each of them is everything after its `=`.
PLAIN_LINE = re.compile(
    r"GET (?:/update(?:/\w+=(?:\0|[^\0/?&=]*))+|[^\0?&=%]+\?\w+=\0(?:&\w+=\0)*) HTTP/1\.[01]",
    re.ASCII)
Origin: TypeAlias = tuple[str | None, bool]     # a request's peer and is_lan
NO_UPDATE = "", "", Reading(0, 0, 0, None)


class Handler(http.server.BaseHTTPRequestHandler):
    """http.server's handler, with bytes instead of a socket. It parses heads that the functions
    below have checked, because by itself it accepts wrong ones, and it writes the heads of
    answers. Its own `100 Continue` is dropped: Connection sends that while it waits for a body."""
    command, path, headers = "GET", "/", http.client.HTTPMessage()
    protocol_version = request_version = "HTTP/1.1"

    def __init__(self, line: bytes = b"") -> None:      # the inherited one serves a socket
        self.raw_requestline, self.rfile, self.wfile = line, io.BytesIO(), io.BytesIO()

    def send_error(self, code: int, message: str | None = None, explain: str | None = None
                   ) -> None:
        raise Refused(code, message or self.responses[code][0])


def check_line(line: bytes) -> None:
    """Raise Refused unless this request line has only one meaning."""
    match = REQUEST_LINE.fullmatch(line)
    if not match:
        raise Refused(400, "request line: METHOD /path HTTP/1.1 is needed, in plain ASCII")
    if len(line) > MAX_LINE:
        raise Refused(414, f"the request line is longer than {MAX_LINE} bytes")
    if match[3] not in {b"1.0", b"1.1"}:
        raise Refused(505, "unknown HTTP version; use HTTP/1.1")
    if not re.match(rb"/(?!/)", match[2]) and not ABSOLUTE.match(match[2].decode()):
        raise Refused(400, "request line: the path has to begin with one /")


def check_headers(block: bytes) -> None:
    """Raise Refused unless these are header lines and an empty line."""
    if not HEADERS.fullmatch(block):
        raise Refused(400, "header: malformed; each is one line, Name: value")
    if block.count(b"\n") > MAX_HEADERS + 1:
        raise Refused(431, f"more than {MAX_HEADERS} headers")


def merge_headers(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Headers by their names in lower case. Values of the same name are joined: RFC 9110, 5.3."""
    headers: dict[str, str] = {}
    for given, padded in pairs:
        name, value = given.lower(), padded.strip(" \t")
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
    if headers.get("content-encoding", "identity").lower() != "identity":
        raise Refused(415, "Content-Encoding: not supported; send the body as it is")
    if headers.get("expect", "100-continue").lower() != "100-continue":
        raise Refused(417, "Expect: only 100-continue is known")
    return int(length)


def parse_head(head: bytes, peer: str | None, is_lan: bool = False, is_bare: bool = False
               ) -> Request:
    """Request line, headers and empty line to a Request without its body. Instead of raising
    Refused, it sets fault. peer is the address of the connection, None for the proxy. is_bare: the
    request had no version, so the answer gets no head."""
    line, _, block = head.partition(b"\r\n")
    handler, headers, length, closes, fault = Handler(line), dict[str, str](), 0, True, None
    try:
        check_line(line)
        try:
            check_headers(block)
            handler.rfile = io.BytesIO(block)
        finally:                                # render_refusal needs the path
            handler.parse_request()
        headers = merge_headers(handler.headers.items())
        if handler.request_version == "HTTP/1.1" and "host" not in headers:
            raise Refused(400, "Host: missing")
        length = measure_body(handler.command, handler.request_version, headers)
        options = [word.strip() for word in headers.get("connection", "").lower().split(",")]
        closes = handler.close_connection or "close" in options or (
            # The next bytes may be meant as a body, so they must not be read as a request.
            handler.command == "POST" and "content-length" not in headers)
    except Refused as refused:
        fault = refused.with_traceback(None)    # if remembered, it keeps no frames in memory
    path, _, query = ABSOLUTE.sub("/", handler.path).partition("?")
    return Request(handler.command, path, query,
                   "HTTP/0.9" if is_bare else handler.request_version, headers,
                   find_address(headers, peer), peer, closes, length, fault, is_lan=is_lan)


def find_address(headers: Mapping[str, str], peer: str | None) -> str:
    """The client's address: as a proxy on this machine says it, else the connection's."""
    if headers.get("sec-fetch-site") == "cross-site" \
            and headers.get("sec-fetch-dest") != "document":
        return ""       # these guesses are another site's, so they are not its visitor's
    if peer is not None and not LOOPBACK.fullmatch(peer):
        return peer
    forwarded = headers.get("x-forwarded-for", peer or "").rpartition(",")[2].strip()
    return headers.get("x-real-ip", forwarded)


def cut_head(data: bytes, is_first: bool) -> tuple[bytes, int, bool] | None:
    """The head at the beginning of data, its length there, and whether it lacks a version. None
    while it is incomplete. Raises Refused as soon as it cannot become a head."""
    if any(pattern.match(data) for pattern in LOOSE):
        found = repair_head(data[:MAX_HEAD + 1])
        if found and found[2] and not is_first:     # its answer could be taken for another one
            raise Refused(400, "request line: without a version it can only be the first one")
    else:
        end = data.find(b"\r\n\r\n") + 4
        found = (data[:end], end, False) if end > 3 else None
        stop = data.find(b"\n", 1, MAX_LINE + 2)        # after a line feed it may yet be loose
        if stop > 0 and not found:
            check_line(data[:stop - 1] if data[stop - 1] == 13 else data[:stop + 1])
    if found and found[1] <= MAX_HEAD:
        return found
    if b"\n" not in data[:MAX_LINE + 2] and len(data) > MAX_LINE:
        raise Refused(414, f"the request line is longer than {MAX_LINE} bytes")
    if len(data) > MAX_HEAD:
        raise Refused(431, f"the headers are longer than {MAX_HEAD} bytes")
    return None


class Known(NamedTuple):
    """A head that was parsed before."""
    request: tuple[Any, ...]            # a Request; without form and update if values are cut out
    names: list[str]                    # of the values
    update: tuple[str, str, Reading]    # of a path
    pick: Callable[[tuple[Any, ...]], tuple[Any, ...]]  # (*values, None) to data, age and seq
    size: int                           # bytes of memory, estimated


def read_head(data: bytes, origin: Origin, is_first: bool) -> tuple[Request, int] | None:
    """The request whose head is at the beginning of data, and the head's length. None while the
    head is incomplete. Raises Refused as soon as it cannot become one."""
    if not (cut := cut_head(data, is_first)):
        return None
    head, length, is_bare = cut
    return parse_head(head, *origin, is_bare), length


class Heads:
    """Remembers parsed heads. A client sends the same bytes each time, except for the values of an
    update. These are cut out of the request line, and only they are parsed again, as strictly as
    before. This doubles the rate of updates in a query."""

    def __init__(self) -> None:
        self.known: dict[tuple[Any, ...], Known] = {}
        self.size = 0                           # bytes of all of them

    def read(self, head: bytes | bytearray, origin: Origin, is_first: bool
             ) -> tuple[Request, int] | None:
        """The same as read_head. The data has an empty line at its end and nowhere else."""
        line, _, block = head.decode("latin-1").partition("\r\n")
        pieces = (PATH_VALUE.split(line) if (is_path := line.startswith("GET /update/")) else
                  QUERY_VALUE.split(line) if line.startswith((*QUERIES,)) else [line])
        values = pieces[2::3]
        del pieces[2::3]
        if known := self.known.get(key := (origin, block, *pieces)):
            if not values:
                return cast(Request, known.request), len(head)
            if not is_path:
                if "%" in line or "+" in line:
                    values = [*map(unquote_value, values)]
                form = dict(zip(known.names, values, strict=True))
                return tuple.__new__(Request, (*known.request, form, None)), len(head)
            mac, api_key, reading = known.update
            data, age, seq = known.pick((*values, None))
            try:
                reading = tuple.__new__(Reading, (
                    reading.field, parse_number(data), parse_age(age) if age else 0, seq))
                return tuple.__new__(Request, (
                    *known.request, None, (mac, api_key, reading))), len(head)
            except (ValueError, Refused):
                pass                            # the route refuses it with the reason
        found = read_head(bytes(head), origin, is_first)
        if found and found[1] == len(head) and not known:
            self.learn(key, pieces, bool(values), found[0])
        return found

    def learn(self, key: tuple[Any, ...], pieces: list[str], has_values: bool, request: Request
              ) -> None:
        """Remember a request by its head; pieces are its line without the values. Only if each
        value is everything between a name and a delimiter can it be cut out."""
        names, update = list[str](), NO_UPDATE
        if has_values:
            line = "\0".join(["".join(pieces[n:n + 2]) for n in range(0, len(pieces), 2)])
            names = re.findall(r"(\w+)=\0", line)
            if request.fault or not PLAIN_LINE.fullmatch(line) or len(names) > MAX_PARAMS:
                return
            if not request.query:
                try:
                    parts = split_update_path(request.path)
                    update = parse_update(parts, request.headers.get("x-api-key"))
                except Refused:                 # the route refuses it with the reason
                    return
                if {*names} != CHANGING & parts.keys():
                    return
                request = request._replace(path="/update/")
        size = 1500 + 3 * sum(map(len, key[1:])) + 150 * (len(request.headers) + len(names))
        self.known[key] = Known(request._replace(query="")[:-2] if has_values else request,
                                names, update, operator.itemgetter(*(
                                    names.index(name) if name in names else -1
                                    for name in ("data", "age", "seq"))), size)
        self.size += size
        while self.size > MAX_HEADS:            # forget the oldest
            self.size -= self.known.pop(next(iter(self.known))).size


# -- an Answer to bytes --------------------------------------------------------------------------

@functools.lru_cache(256)
def render_head(status: int, kind: str, framing: tuple[str, Any] | None, headers: Headers,
                connection: str, second: int) -> bytes:
    """Status line and headers. As most are alike, remembering them gives 1.05 times the rate."""
    handler = Handler()
    handler.send_response_only(status)
    lines = [("Server", "iotserver"), ("Date", handler.date_time_string(second))]
    if status != HTTPStatus.NOT_MODIFIED:       # which has no body to describe
        lines += [("Content-Type", kind), ("X-Content-Type-Options", "nosniff")]
        lines += [framing] if framing else []
    lines += [("Cross-Origin-Resource-Policy",
               "cross-origin" if ANY_ORIGIN[0] in headers else "same-origin"), *headers]
    lines += [("Connection", connection)] if connection else []
    for line in lines:
        handler.send_header(*line)
    handler.end_headers()
    return cast(io.BytesIO, handler.wfile).getvalue()


def render(request: Request, answer: Answer, closes: bool, second: int) -> bytes:
    """Head and body of an answer, for one write. second: the time since 1970, UTC."""
    version = request.request_version
    if version == "HTTP/0.9":
        return answer.body
    framing: tuple[str, Any] | None
    if answer.listens or (answer.stream and version == "HTTP/1.0"):
        framing = None                          # the connection's end is the body's
    elif answer.stream:
        framing = "Transfer-Encoding", "chunked"
    else:
        framing = "Content-Length", len(answer.body)
    connection = "close" if closes else "keep-alive" if version == "HTTP/1.0" else ""
    head = render_head(answer.status, answer.kind, framing, answer.headers, connection, second)
    return head if request.command == "HEAD" else head + answer.body


MAX_ENCODING = 64               # characters of Accept-Encoding that are read


@remember
def accepts_gzip(given: str) -> bool:
    """Whether Accept-Encoding allows gzip; q=0 forbids it."""
    return "gzip" in given and not re.search(r"gzip *; *q=0(?:\.0*)? *(?:,|$)", given)


def pack(answer: Answer, level: int = 6) -> Answer:
    """The same answer, compressed. It gets its own ETag, because its bytes differ."""
    headers = tuple((name, value[:-1] + '-gz"' if name == "ETag" else value)
                    for name, value in answer.headers)
    return answer._replace(body=gzip.compress(answer.body, level, mtime=0),
                           headers=(*headers, ("Content-Encoding", "gzip")))


def pack_json(request: Request, answer: Answer) -> Answer:
    """Compress JSON if the client accepts it and the size makes it worthwhile."""
    if not (answer.kind.startswith("application/json")
            and PACKED_FROM <= len(answer.body) <= PACKED_TO):
        return answer
    answer = answer._replace(headers=(*answer.headers, ("Vary", "Accept-Encoding")))
    given = request.headers.get("accept-encoding", "")[:MAX_ENCODING]
    return pack(answer, 1) if accepts_gzip(given) else answer


# -- bodies --------------------------------------------------------------------------------------

MAX_ENTRY = 16_384              # bytes of a body with one entry; 9 texts, all escaped, take 7,000
MAX_PARAMS = 200                # parts of a form; an entry has less than 20


def as_json(document: Any) -> bytes:
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()


def as_csv(rows: Iterable[Iterable[Any]]) -> bytes:
    """Rows to CSV, in lines that end with a line feed. The writer's line ends are CR LF, because
    before Python 3.13 it only quotes a text that contains a character of its own line end."""
    lines: list[str] = []
    csv.writer(SimpleNamespace(write=lines.append), lineterminator="\r\n").writerows(rows)
    return "".join([line[:-2] + "\n" for line in lines]).encode()


QUERY: dict[str, Callable[[str], Any]] = {      # parsers; other parameters stay texts
    "field": parse_field, "start": functools.partial(parse_instant, "start"),
    "end": functools.partial(parse_instant, "end")}


def parse_query(request: Request, *known: str) -> dict[str, Any]:
    """The query's parameters. Raises Refused for unknown and for repeated names."""
    query = urllib.parse.parse_qs(request.query, keep_blank_values=True) if request.query else {}
    for name, values in query.items():
        if name not in known:
            raise Refused(400, f"{name[:20]!a}: unknown; known: {', '.join(known)}")
        if len(values) > 1:
            raise Refused(400, f"{name}: given twice")
    return {name: QUERY.get(name, str)(values[0]) for name, values in query.items()}


def is_json(request: Request) -> bool:
    """Whether the body is JSON, or says that it is. A device need not name its type."""
    return request.body != b"" and (
        request.headers.get("content-type", "").lower().startswith("application/json")
        or decode_body(request.body[:100]).lstrip()[:1] in {"{", "["})


def decode_body(body: bytes) -> str:
    """A body as text, without a byte order mark. Never raises, whatever a device sends."""
    return body.decode(json.detect_encoding(body), "replace")


def parse_form(text: str) -> dict[str, str]:
    """`field1=2&status=a+b` to a dict. Never raises, whatever a device sends. A percent sign that
    escapes nothing stays, and line ends are stripped. A first word without `=` is the key, as in a
    sketch that many have copied, unless the form names another key."""
    pairs = [pair.partition("=") for pair in text.split("&", MAX_PARAMS)[:MAX_PARAMS]]
    form = {unquote_value(name).strip(): unquote_value(value)
            for name, equals, value in pairs if equals}
    first, equals, _ = pairs[0]
    return form if equals or not first.strip() else {"apikey": unquote_value(first).strip()} | form


def parse_body(request: Request) -> dict[str, Any]:
    """The names and values of a JSON object or of a form. Raises Refused."""
    if not is_json(request):
        return {**parse_form(decode_body(request.body))} if request.body else {}
    document = load_json(request.body)
    if not isinstance(document, dict) or len(document) > MAX_PARAMS:
        raise Refused(400, f"body: a JSON object of at most {MAX_PARAMS} names is needed")
    return document


def unquote_value(text: str) -> str:
    """A value of a form. One longer than any entry stays encoded until a key is checked."""
    return text if len(text) > MAX_ENTRY else unquote_text(text).strip("\r\n")


def unquote_text(text: str) -> str:
    """Decode text of a form. If escapes and letters alternate, unquote_plus is 7 times slower."""
    return (urllib.parse.unquote_to_bytes(text.replace("+", " ")).decode("utf-8", "replace")
            if "%" in text else text.replace("+", " "))


def split_query(request: Request) -> Mapping[str, str]:
    """The query as a form."""
    return request.form or parse_form(request.query.lstrip("?"))


# ------------------------------------------------------------------------------------------------
# 11. Looks
#    Law: markup comes out of a Template, which escapes whatever else is put into it.
# ------------------------------------------------------------------------------------------------
class Markup(str):
    """Text that is markup already. Only templates make it."""
    __slots__ = ()


def mark_up(value: object) -> Markup:
    """A value as markup: a list is joined, and all other text is escaped."""
    if isinstance(value, Markup):
        return value
    if isinstance(value, list):
        return Markup("".join(map(mark_up, value)))
    return Markup(html.escape(str(value)))


class Template(string.Template):
    """Markup with placeholders. It escapes all values but Markup, so no caller can forget it."""

    def substitute(self, mapping: Mapping[str, object] = MappingProxyType({}), /,
                   **values: object) -> Markup:
        return Markup(super().substitute(
            {name: mark_up(value) for name, value in (*mapping.items(), *values.items())}))

    safe_substitute = substitute
    __call__ = substitute


# -- what a browser gets as it stands ------------------------------------------------------------

STYLE = """
/* Colors: ink and dim are text, card and paper behind it; one an answer; eight hues of lines. */
:root {
  color-scheme: light dark;
  --ink: #18212b; --dim: #55606c; --paper: #eff2f5; --card: #fff; --line: #d5dbe1; --cool: #d8eaf8;
  --open: #0b5d8f; --close: #a33a08; --comfortable: #24693a; --cold: #57407c; --unknown: #4c5661;
  --hue0: #0b63a5; --hue1: #b4430a; --hue2: #8b1e8b; --hue3: #6b6400; --hue4: #4a3fc4;
  --hue5: #c2185b; --hue6: #1b7a2f; --hue7: #007180;
  /* Sizes of text, gaps and corners; --touch is the least height of what a finger touches. */
  --small: .8125rem; --lead: 1.25rem; --number: 2.6rem; --row: 1.75rem;
  --headline: clamp(1.3rem, 9vw, 2.6rem);
  --gap: .5rem; --pad: 1rem; --round: 1.1rem; --touch: 2.75rem;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ink: #e8edf2; --dim: #a3afbb; --paper: #0d1115; --card: #1a2128; --line: #39434d;
    --cool: #1b3a52; --open: #0a5480; --close: #93380d; --comfortable: #215e35; --cold: #4f3b70;
    --unknown: #434c56; --hue0: #6fbdf5; --hue1: #ff9d66; --hue2: #f08fd0; --hue3: #e2c044;
    --hue4: #b0a8ff; --hue5: #ff8fa3; --hue6: #7fd88b; --hue7: #5fd0d0;
  }
}
* { box-sizing: border-box; min-width: 0; margin: 0; padding: 0 }
body { background: var(--paper); color: var(--ink); font: 1rem/1.45 system-ui, sans-serif }
main { max-width: 46rem; margin: auto; padding: var(--gap); display: grid; gap: var(--gap) }
main { overflow-wrap: break-word; font-variant-numeric: tabular-nums }
h1 { font-size: var(--headline); line-height: 1.1; letter-spacing: -.02em }
h1, .reason { text-wrap: balance } h2 { font-size: 1rem; font-weight: 600 }
ul, summary { list-style: none }
:is(h1, p) + p { margin-top: .5rem }
:is(.rows, .stations, .tiles) p, .second { color: var(--dim); font-size: var(--small); margin: 0 }
code { overflow-wrap: anywhere; background: var(--paper) }
small { font-size: 1rem; color: var(--dim) }
.hue0 { color: var(--hue0) } .hue1 { color: var(--hue1) } .hue2 { color: var(--hue2) }
.hue3 { color: var(--hue3) } .hue4 { color: var(--hue4) } .hue5 { color: var(--hue5) }
.hue6 { color: var(--hue6) } .hue7 { color: var(--hue7) }
/* Cards: the answer, rows of numbers, the chart, tiles, stations. */
section, figure { padding: var(--pad); border-radius: var(--round); background: var(--card) }
.answer, .pill { color: #fff; border: 1px solid transparent }       /* seen in forced colors */
.answer { padding: 1.25rem 1.25rem .9rem; display: grid; grid-template-columns: 1fr auto }
.answer > * { grid-column: 1 / -1 } .answer > h1 { grid-column: 1 }
.answer .window { grid-area: 1 / 2; width: min(3rem, 12.5vw); margin: .3rem 0 0 .75rem }
.window path { fill: #fff3 } .answer .room { margin-bottom: .25rem; font-size: min(1rem, 6vw) }
.both { font-weight: 600; margin-top: .35rem } .answer :is(.both, .reason) { font-size: 1.125rem }
.unsure { font-size: var(--small); margin-top: .5rem }
.zone { color: var(--dim); font-size: var(--small); padding: 0 var(--pad) }
.answer small { display: block; color: inherit; letter-spacing: 0 } .answer .reason { margin: 0 }
.answer summary { font-size: var(--lead); font-weight: 600; line-height: 1.3; color: inherit }
.answer details { border-top: 1px solid #fff5; margin-top: .75rem }
.stale { font-weight: 600; padding-block: .25rem }
.stale:empty { display: none }
.pill:not(.open) { background: none; color: inherit } .pill.close { border-color: var(--close) }
.pill.cold { border-color: var(--cold) } .pill.comfortable { border-color: var(--comfortable) }
.pill.unknown { border-color: var(--unknown) } [aria-pressed=true] { outline: 2px solid }
.silent .big { color: var(--dim) } .silent time { font-weight: 700; color: var(--ink) }
.lost :is(.answer, .pill.open) { background-image: linear-gradient(#0006, #0006) }
.lost :is(.answer, .rows) :is(h1, h2, .big, .pill, summary, .both) { font-weight: 400 }
.lost .rows :is(h2, .big) { color: var(--dim) }
.open { background: var(--open) } .close { background: var(--close) }
.comfortable { background: var(--comfortable) } .cold { background: var(--cold) }
.unknown { background: var(--unknown) }
.pill { padding: .05rem .6rem; border-radius: 1rem; font-weight: 600; font-size: var(--small) }
.rows { padding-block: .25rem }
.rows li { display: flex; flex-wrap: wrap; align-items: baseline; gap: 0 .6rem; padding: .5rem 0 }
.rows li + li { border-top: 1px solid var(--line) } .rows .pill { align-self: center }
.rows h2 { flex-grow: 1 } .rows li > p { flex-basis: 100% }
.rows .big { flex-basis: auto; margin-left: auto; line-height: 1.15; white-space: nowrap }
.rows .big { font-size: var(--number); color: var(--ink) }
.many .big { font-size: var(--row) } .many li { padding: .3rem 0 }
.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(8.5rem, 1fr)) }
.tiles { gap: var(--gap) 1.25rem; margin-top: .25rem }
.tiles b { display: block; font-weight: 400; font-size: 1.4rem; line-height: 1.25 }
.tiles svg { height: 1.75rem; margin-top: .25rem }
.stations li { padding-block: .4rem; border-top: 1px solid var(--line) }
b.state { font-weight: 400; color: var(--dim); margin-left: .3rem }
/* Controls: ranges, details, the slider, buttons. */
nav { display: flex; padding: .2rem; background: var(--paper); border-radius: .8rem }
nav a { flex: 1; line-height: var(--touch); text-align: center; text-decoration: none }
nav a { border-radius: .65rem; color: inherit }
nav [aria-current=true] { background: var(--card); font-weight: 600 }
nav [aria-current=true] { box-shadow: 0 1px 3px #0003; outline: 1px solid var(--line) }
a:focus-visible, summary:focus-visible { outline: 3px solid currentColor; outline-offset: 2px }
summary { display: flex; align-items: center; min-height: var(--touch); padding-block: .4rem }
summary::-webkit-details-marker { display: none }
summary::after { content: "\\203a"; padding-left: .5rem; font-size: 1.4em; line-height: .7 }
details[open] > summary::after { transform: rotate(90deg) translateX(.2rem) }
input { width: 100%; height: var(--touch); accent-color: var(--dim); display: block }
button, .button { display: inline-block; min-height: var(--touch); margin-top: var(--gap) }
button, .button { padding: .6rem 1rem; border: 0; border-radius: .8rem; font: inherit }
button, .button { background: var(--paper); color: inherit; text-decoration: none }
output { display: block; min-height: 2.9rem; padding-top: .5rem; font-size: .9rem }
output:empty::before { content: attr(data-touch); color: var(--dim) }
output span, output b { display: inline-block; margin-right: .5rem } output b { font-weight: 600 }
.few output span { display: block }
/* Charts. Text sizes are in units of the drawing, which a phone shows at nearly 1 : 1. */
svg { display: block; width: 100%; height: auto; touch-action: pan-y; overflow: visible }
svg * { pointer-events: none; stroke-linejoin: round; stroke-linecap: round }
svg text { font-size: min(.84rem, 14px); fill: var(--dim) }
svg .end { fill: currentColor; font-weight: 600; letter-spacing: -.02em }
svg .level { dominant-baseline: central }
path { fill: none; stroke: currentColor; stroke-width: 2; vector-effect: non-scaling-stroke }
.expected path { stroke-dasharray: 5 6 }
.newest { stroke-width: 7 }
path.band { fill: currentColor; opacity: .2 }
figure { overflow: hidden } figure input { width: 74.5%; margin-left: 7.2% }
.bars { stroke-width: 3; stroke-linecap: butt } .spots { stroke-width: 2.5 }
.grid { stroke: var(--line); stroke-width: 1 }
.limit { stroke: var(--dim); stroke-dasharray: 1 4; stroke-width: 1.5 }
.present, .cursor { stroke: var(--dim); stroke-width: 1 }
.cursor { stroke: var(--ink) } .dots { stroke: var(--ink); stroke-width: 9 }
.shade { fill: var(--cool) } .interval { fill: var(--line) }
.swatch { display: inline-block; margin-right: .5rem; padding: 0 .5rem; border-radius: .3rem }
.swatch { background: var(--cool); font-size: .875rem }
.dashed { background: none; border: 1px dashed } .change { background: var(--line) }
.daily { background: var(--line) } .few .key { display: none }
.key { padding: 0; background: none; font-weight: 600 } .key.comfort { color: var(--dim) }
.many .key.comfort { display: none }
.key::before { content: ""; display: inline-block; width: 1rem; margin-right: .3rem }
.key::before { border-top: 3px solid; vertical-align: middle }
.key.comfort::before { border-top-style: dotted }
table { border-collapse: collapse; font-size: var(--small) }
th, td { text-align: left; padding: .3rem 1.25rem .3rem 0 }
.say { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%) }
@media (scripting: none) { input, output, button { display: none } }
@media (max-width: 22.49rem) {  /* no room for the margin: the drawing goes on behind the edge */
  figure svg { width: 120% } figure input { width: 89%; margin-left: 8.6% }
  svg :is(.end, .words) { display: none } figure .key.key { display: inline-block }
}
@media (hover: hover) { output:empty::before { content: attr(data-point) } }
@media (min-width: 46rem) {
  figure svg text { font-size: min(.45rem, 10px) }
  .rows ul { display: grid; grid-template-columns: 1fr 1fr; column-gap: 2rem }
  .rows li:nth-child(2) { border-top: 0 }
}
@media (min-width: 70rem) {     /* a banner; below it numbers left, chart right */
  main { max-width: 90rem; grid-template: auto / 25rem 1fr; gap: 0 var(--gap) }
  main { grid-template-rows: repeat(39, auto) 1fr } main > * { margin-bottom: var(--gap) }
  main > :first-child { grid-column: 1 / -1 } main > figure { grid-area: 2 / 2 / 41; margin: 0 }
  .answer { grid-template-columns: auto 1fr minmax(20rem, 28rem) }
  .answer > * { grid-column: 1 / 3 } .answer .window { justify-self: start }
  .answer :is(details, .unsure) { grid-area: 1 / 3 / span 3; align-self: center; margin: 0 }
  .answer details { border: 0; border-left: 1px solid #fff5; padding-left: 1.5rem }
  .rows ul { display: block } .rows li:nth-child(2) { border-top: 1px solid var(--line) }
  figure svg text { font-size: min(.34rem, 8px) }
}
@media (prefers-reduced-motion: no-preference) { .answer { transition: background-color .6s } }
@media print {
  :root { --ink: #000; --dim: #333; --paper: #fff; --card: #fff; --line: #bbb; --cool: #ddd }
  .answer, .pill.open { color: #000; background: none; border: 2px solid; transition: none }
  nav, input, output, button, summary::after { display: none }
}
@media (forced-colors: active) {
  section, figure, button, nav a, .swatch { border: 1px solid }
  .swatch, figure svg { forced-color-adjust: none } .swatch { color: var(--ink) }
  figure svg { background: var(--card) }
}
"""

SCRIPT = """
const find = query => document.querySelector(query);
let skew = 0, isLost = false, isExact = false, asked = 0, latest = 0, soon;
const now = () => Date.now() + skew;
const zone = Intl.DateTimeFormat([], {hour: 'numeric'}).resolvedOptions();
const clock = zone.hour12 ? 12 : 24;
// The sentences that the script says, as the server has them.
const words = JSON.parse(find('main').dataset.words);
const say = (key, holes) => words[key].replace(/{(\\w+)}/g, (_, name) => holes[name]);
const number = value => value.toFixed(1).replace('.', words.point);
function stamp(ms, key, seconds) {
  const date = new Date(ms), day = date.getDate(), parts = {
    a: words.weekdays.split(' ')[(date.getDay() + 6) % 7], d: String(day).padStart(2, '0'),
    b: words.months.split(' ')[date.getMonth()], '-d': day, Y: date.getFullYear()};
  const time = date.toLocaleTimeString(clock === 12 ? 'en-US' : 'en-GB',
    {hour: 'numeric', minute: '2-digit', second: seconds}).replaceAll('\\u202f', '\\u00a0');
  return say(key, {clock: time}).replace(/%(-?\\w)/g, (_, sign) => parts[sign]);
}
function ago(ms) {
  const s = Math.max(0, Math.floor((now() - ms) / 1000));
  const [length, key] = [[86400, 'days'], [3600, 'hours'], [60, 'minutes'], [1, 'seconds']]
    .find(([length]) => s >= length) || [1, 'seconds'];
  return say('ago', {ago: say(key, {n: Math.floor(s / length)})});
}
function tellTimes() {
  find('button')?.setAttribute('aria-pressed', isExact);
  for (const time of document.querySelectorAll('time')) {
    const ms = Date.parse(time.dateTime);
    time.textContent = isExact ? stamp(ms, 'moment', '2-digit') : ago(ms);
  }
}
function tick() {
  tellTimes();
  if (Date.now() - asked < 5000) return;
  const isOld = now() >= +find('main').dataset.expires;
  if (isOld) lose();
  if (isOld || isLost) refresh();
}
// Without a connection the answer stays, dimmed, with the time at which it was true.
function lose() {
  if (isLost) return;
  isLost = true;
  const then = +find('main').dataset.now, isToday = now() - then < 43200000;
  const told = stamp(then, isToday ? 'offline' : 'offline_day');
  find('.stale').textContent = told[0].toUpperCase() + told.slice(1);
  find('main').classList.add('lost');
  document.title += ` (${told})`;
  find('.say').textContent = told;
}
async function refresh() {
  const mine = ++latest;                // a late response must not replace a newer one
  asked = Date.now();
  try {
    const answer = await fetch(location.href,
      {headers: {Accept: 'text/html'}, signal: AbortSignal.timeout(8000)});
    if (!answer.ok || answer.headers.has('x-offline')) throw 0;
    const next = new DOMParser().parseFromString(await answer.text(), 'text/html');
    if (mine !== latest) return;
    const main = find('main'), newer = next.querySelector('main');
    if (isLost || main.dataset.state !== newer.dataset.state)
      find('.say').textContent = [...newer.querySelectorAll('h1, .reason')]
        .map(part => part.textContent).join('. ');
    isLost = false;
    renew(main, newer);
    document.title = next.title;
    document.querySelectorAll('meta[media]').forEach((meta, i) => {
      meta.content = next.querySelectorAll('meta[media]')[i].content;
    });
    tellTimes();
    if (find('output:not(:empty)')) show();
  } catch { if (mine === latest) lose(); }
}
// Elements are changed in place: so focus, open details and a touch on the chart are kept.
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
// The points of a path: steps of time, and hundredths below the highest mark.
function points(path) {
  let x = 0, y = 0;
  return [...(path?.getAttribute('d') || '').matchAll(/(-?\\d+) ?(-?\\d+)/g)].map(
    ([, dx, dy]) => [x += +dx, y += +dy]);
}
const nearest = (all, x) => all.reduce((best, one) =>
  best && Math.abs(best[0] - x) < Math.abs(one[0] - x) ? best : one, null);
function show() {
  const slider = find('input'), chart = find('svg[data-start]'), d = chart.dataset;
  const reach = d.day ? slider.step * .6 : 26, groups = [...chart.querySelectorAll('g')];
  const near = (all, x) => [nearest(all, x)].filter(p => p && Math.abs(p[0] - x) <= reach)[0];
  const lines = groups.map(group => points(group.querySelector(d.day ? '.band' : '.line')));
  const x = (near(lines.flat(), +slider.value) || [+slider.value])[0];
  const ms = +d.start + x / 1440 * (d.end - d.start), isFew = groups.length <= 4;
  const said = [[d.day ? stamp(ms, 'weekday') : stamp(ms, 'date_clock'), '']], short = [''];
  let dots = '';
  groups.forEach((group, i) => {
    const {name} = group.dataset, css = group.classList[0], point = near(lines[i], x);
    if (!point && (ms > now() || group.classList.contains('expected'))) return;
    const mean = d.day && ms >= d.day ? null : near(points(group.querySelector('.line')), x);
    const value = y => number(d.high - y / 100), unit = y => say('quantity',
      {number: value(y), unit: d.unit});
    if (mean) dots += `M${mean[0]} ${mean[1]}h0`;
    if (!point) said.push([say('no_reading', {name}), css]), short.push('–');
    else if (!d.day) {
      said.push([say('reading', {name, value: unit(point[1])}), css]);
      short.push(value(point[1]));
    } else {
      const [high, low] = lines[i].filter(p => p[0] === point[0]).map(p => p[1]);
      said.push([say(mean ? 'day_range' : 'day_so_far', {day: said[0][0], name, low: value(low),
        high: mean ? value(high) : unit(high), mean: mean && unit(mean[1])}), css]);
      short.push(value(low) + '–' + value(high));
    }
  });
  chart.querySelector('.cursor').setAttribute('d', `M${x} 0V${(d.high - d.low) * 100}`);
  chart.querySelector('.dots').setAttribute('d', dots);
  slider.setAttribute('aria-valuetext', said.map(([text]) => text).join(', '));
  // Names do not fit beside the values of many lines; the legend has them in the same colors.
  const isShort = said.length > (d.day ? 3 : isFew ? 5 : 1) && said.length > 3;
  find('output').replaceChildren(...said.flatMap(([text, css], i) => {
    const part = document.createElement(i ? 'b' : 'span');
    part.textContent = i && isShort ? short[i] : text;
    part.className = css;
    return i ? [' ', part] : d.day && !isShort ? [] : [part];
  }));
}
document.addEventListener('input', show);
function point(event) {
  const chart = event.target.closest?.('svg[data-start]'), slider = find('input');
  if (!chart || !slider) return;
  const box = chart.getBoundingClientRect(), d = chart.dataset;
  const x = (event.clientX - box.left) / box.width * chart.viewBox.baseVal.width;
  slider.value = (x - d.left) / d.inner * 1440;
  show();
}
for (const kind of ['pointermove', 'pointerdown']) document.addEventListener(kind, point);
document.addEventListener('click', event => {
  const link = event.target.closest('nav a');
  if (link) {
    event.preventDefault();
    history.replaceState(null, '', link.href);
    refresh();
  } else if (event.target.closest('button')) {
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
// From the second visit on, the server uses the time zone and the clock in these cookies.
for (const told of ['tz=' + zone.timeZone, 'offset=' + -new Date().getTimezoneOffset(),
                    'clock=' + clock]) {
  if (!document.cookie.includes(told)) refreshSoon();
  document.cookie = told + ';path=/;max-age=31536000;samesite=lax';
}
listen();
addEventListener('offline', () => { latest++; lose(); });
addEventListener('online', refresh);
document.addEventListener('visibilitychange', () => document.hidden || refresh());
setInterval(tick, 1000);
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

MANIFEST = """{"name": "Open windows?", "short_name": "Open windows?", "start_url": "/", "id": "/",
 "display": "standalone", "background_color": "#eff2f5", "theme_color": "#0b5d8f", "icons": [
 {"src": "/icon.svg", "sizes": "any", "type": "image/svg+xml"},
 {"src": "/icon-192.png", "sizes": "192x192", "type": "image/png"},
 {"src": "/icon-512.png", "sizes": "512x512", "type": "image/png", "purpose": "any maskable"}]}"""

PAGE = Template("""<!doctype html>
<html lang="$language"><head><meta charset="utf-8"><title>$title</title>
<meta name="viewport" content="width=device-width,initial-scale=1">
$themes<link rel="icon" href="/icon.svg"><link rel="apple-touch-icon" href="/apple-touch-icon.png">
<link rel="manifest" href="/manifest.webmanifest"><style>$style</style></head>
<body>$main$script</body></html>
""")
THEME = Template('<meta name="theme-color" media="(prefers-color-scheme: $scheme)" '
                 'content="$color">\n')
ANSWER_COLORS = {               # in light, in dark
    state: re.findall(f"--{state}: (#[0-9a-f]+)", STYLE)
    for state in ("open", "close", "comfortable", "cold", "unknown")}
MESSAGE = Template("""<main><section><h1>$title</h1><p>$text</p>
$technical<p>$step</p><a class="button" href="/">$link</a></section></main>""")
TECHNICAL = Template('<p><code lang="en">$text</code></p>\n')
MAX_LANGUAGE = 100              # characters of Accept-Language that are read; browsers send less
MAX_COOKIES = 2000              # characters of cookies that are read; ours take 100


def page_headers(style: str, framing: str = "; frame-ancestors 'none'", script: str = SCRIPT
                 ) -> Headers:
    """The headers of a page with this style: what it may load, and who may embed it."""
    css, code = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
                 for text in (style, script))
    policy = (f"default-src 'none'; style-src 'sha256-{css}'; script-src 'sha256-{code}'; "
              "img-src 'self'; connect-src 'self'; manifest-src 'self'; worker-src 'self'; "
              f"base-uri 'none'; form-action 'none'{framing}")
    return ("Content-Security-Policy", policy), ("Referrer-Policy", "no-referrer")


PAGE_HEADERS = page_headers(STYLE)


def choose_locale(request: Request, settings: argparse.Namespace) -> Locale:
    """How the person behind a browser's request is spoken to."""
    return find_locale(settings.language, settings.units,
                       request.headers.get("accept-language", "")[:MAX_LANGUAGE],
                       request.headers.get("cookie", "")[:MAX_COOKIES])


def render_page(title: str, main: Markup, language: str = "en", script: Markup | str = "",
                style: str = STYLE, state: str = "open", head: Markup | str = "") -> bytes:
    """A whole page, in the colors of an answer, with what else its head has."""
    themes = [THEME(scheme=scheme, color=color)
              for scheme, color in zip(("light", "dark"), ANSWER_COLORS[state], strict=True)]
    return PAGE(language=language, title=title, themes=[*themes, head], style=Markup(style),
                main=main, script=script).encode()


def render_message(locale: Locale, key: str, phrase: str = "", technical: str = "",
                   **holes: object) -> Answer:
    """A page with a title, a sentence and what to do next. Where the language has only the last
    of them, they are the phrase and the technical text, which are in English."""
    *head, step = locale.say(key, **holes).split(" / ")
    title, text = head or (phrase, technical)
    note = TECHNICAL(text=technical) if text != technical else ""
    return Answer(render_page(title, MESSAGE(title=title, text=text, technical=note, step=step,
                                             link=locale.say("open_page")), locale.language),
                  HTML, headers=(*PAGE_HEADERS, ("Content-Language", locale.language),
                                 ("Vary", "Accept, Accept-Language, Cookie")))


# -- icons ----------------------------------------------------------------------------------------

# An open window with the sun behind it, on a grid of 64 by 64, inside the circle that a phone may
# cut out: the frame, whose hole begins with its sixth corner, two casements, and the sun. No two
# shapes overlap.
SHAPES: tuple[tuple[str, list[tuple[float, float]]], ...] = (
    ("#ffffff", [(23, 15), (41, 15), (41, 48), (23, 48), (23, 15),
                 (25.5, 18), (25.5, 45), (38.5, 45), (38.5, 18), (25.5, 18)]),
    ("#ffffff", [(23, 15), (15, 18), (15, 50), (23, 48), (23, 45), (18, 46), (18, 20), (23, 18)]),
    ("#ffffff", [(41, 15), (49, 18), (49, 50), (41, 48), (41, 45), (46, 46), (46, 20), (41, 18)]),
    ("#ffb27d", [(round(32 + 5 * math.cos(i * math.tau / 24), 2),
                  round(31.5 + 5 * math.sin(i * math.tau / 24), 2)) for i in range(24)]))
ICON_BACKGROUND = "#0b5d8f"
ICON = (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 64 64"><rect width="64" height="64"'
        f' rx="14" fill="{ICON_BACKGROUND}"/>' + "".join(
            f'<path fill="{color}" d="M{"L".join(f"{x:g} {y:g}" for x, y in corners)}Z"/>'
            for color, corners in SHAPES) + "</svg>")
# A pixel's number in the palette is 16 times the fifteenths of it that the sun covers, plus the
# fifteenths that the window covers. They are measured on three lines in each row of pixels, in
# fifths of a pixel, so that edges look smooth.
FINE, FIFTHS = 3, 5
PALETTE = bytes(
    round(min(255, base + (white - base) * (i % 16) / 15 + (sun - base) * (i // 16) / 15))
    for i in range(256) for base, white, sun in zip(
        *(bytes.fromhex(color[1:]) for color in (ICON_BACKGROUND, "#ffffff", "#ffb27d")),
        strict=True))


def draw_pixels(size: int, row: int) -> bytes:
    """A row of pixels of the icon. Each edge of a shape changes all pixels to its right."""
    steps = [0] * (size + 2)
    for color, corners in SHAPES:
        unit = 1 if color == "#ffffff" else 16
        for line in range(FINE):
            y = (row + (line + 0.5) / FINE) * 64 / size
            edges = sorted(x0 + (y - y0) / (y1 - y0) * (x1 - x0) for (x0, y0), (x1, y1)
                           in itertools.pairwise([*corners, corners[0]]) if (y0 <= y) != (y1 <= y))
            for i, x in enumerate(edges):
                pixel, part = divmod(round(x * size / 64 * FIFTHS), FIFTHS)
                sign = -unit if i % 2 else unit
                steps[pixel] += sign * (FIFTHS - part)
                steps[pixel + 1] += sign * part
    return bytes(itertools.accumulate(steps[:size]))


async def draw_icon(size: int) -> bytes:
    """The icon as PNG. Each row of pixels begins with the number of its filter, 0 for none."""
    def chunk(kind: bytes, data: bytes) -> bytes:
        return (struct.pack(">I", len(data)) + kind + data
                + struct.pack(">I", zlib.crc32(kind + data)))
    rows = b""
    for row in range(size):
        rows += b"\0" + draw_pixels(size, row)
        if row % 32 == 0:
            await pause()
    head = struct.pack(">IIBBBBB", size, size, 8, 3, 0, 0, 0)
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"PLTE", PALETTE)
            + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))


# ------------------------------------------------------------------------------------------------
# 12. Charts
#    Law: numbers to SVG: pure functions of points, without store or clock.
# ------------------------------------------------------------------------------------------------
LARGEST_DRAWN = 1e12            # beyond, the marks of an axis would look alike


class Line(NamedTuple):
    """A series on a chart."""
    name: str
    css: str
    points: list[Point]
    has_odd: bool = False       # whether impossible readings were left out


# -- charts --------------------------------------------------------------------------------------

# Sizes are in the units of the drawing; the script reads them from its attributes.
WIDTH, HEIGHT = 360, 200
LEFT, RIGHT, TOP, BOTTOM = 26, 66, 18, 22   # margins; names stand in the right one
INNER, TALL = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
# Points of lines are whole steps: of the axis of time, and of a hundredth of a degree.
STEPS, GRAIN = 1440, 100
LINE_HEIGHT = 15                # between two rows of text in the margin
MAX_NAMED, MAX_END = 4, 10      # lines that have their names there, and characters of a name
LETTER_WIDTH = 8                # of the marks of the axis of time, at most
BESIDE = 6                      # points on each side of a gap whose distances are compared with it
FAR_OFF = 1000                  # multiple of the spread beyond which a value is not drawn
# For charts of up to so many hours: the hours between two marks, the text of a mark, and how many
# ms behind the mark it stands: in the middle of its day or month.
TICKS = (
    (1, 1 / 4, "", 0), (3, 1 / 2, "", 0), (12, 2, "hour", 0), (48, 6, "hour", 0),
    (192, 24, "%a", DAY // 2), (1440, 168, "day", 0), (math.inf, 1488, "%b", 15 * DAY))

CHART = Template("""<svg viewBox="0 0 $width $height" role="img" aria-label="$said"
 data-left="$left" data-inner="$inner" data-low="$least" data-high="$most" data-start="$start"
 data-end="$end" data-unit="$unit" data-day="$day">$shapes<path class="cursor" transform="$scale"
 d="M0 0"/><path class="dots" transform="$scale" d="M0 0"/></svg>""")
BOX = Template('<rect class="$css" x="$x" y="$y" width="$width" height="$height"/>')
STROKE = Template('<path class="$css" d="$d"/>')
TEXT_AT = Template('<text class="$css" x="$x" y="$y" text-anchor="$anchor">$text</text>')
CURVE = Template('<g class="$css" data-name="$name" transform="$scale">$shapes</g>\n')
NOTE = Template('<p class="second">$text</p>')
NO_CHART = Template("<p>$text</p>")


class Chart(NamedTuple):
    """Lines over time. The axis of values includes the bounds."""
    lines: list[Line]
    unit: str
    start: int
    end: int
    locale: Locale
    shaded: Iterable[tuple[int, int]] = ()
    interval: tuple[int, int] | None = None     # in which the lines are expected to cross
    bounds: Sequence[float] = ()
    present: int | None = None                  # where the expected part begins, if there is one
    comfort: float | None = None                # the comfort limit
    today: int | None = None        # of a chart with a point a day: when the unfinished day began

    def x(self, ms: int) -> float:
        part = (ms - self.start) / (self.end - self.start)
        return round(LEFT + part * INNER, 1)

    def y(self, value: float) -> float:
        low, *_, high = self.bounds
        return round(TOP + (high - value) / (high - low) * TALL, 1)

    def say_name(self, line: Line) -> str:
        """A line's name, also of its expected part."""
        is_expected = line.css.endswith(" expected")
        return self.locale.say("expected_line", name=line.name) if is_expected else line.name

    @property
    def scale(self) -> str:
        """From the steps of a line's points to the drawing."""
        low, *_, high = self.bounds
        return (f"translate({LEFT} {TOP})"
                f"scale({INNER / STEPS:.6g} {TALL / GRAIN / (high - low):.6g})")

    def path(self, *pieces: Iterable[tuple[int, float]]) -> str:
        """Each point in steps from the one before it: the shortest that SVG knows. The script
        reads values off it, which are hundredths below the highest mark."""
        d, x, y = "", 0, 0
        for piece in pieces:
            numbers = []
            for ms, value in piece:
                step = round((ms - self.start) * STEPS / (self.end - self.start))
                drop = round((self.bounds[-1] - value) * GRAIN)
                numbers += [step - x, drop - y]
                x, y = step, drop
            d += "m" + " ".join(map(str, numbers)).replace(" -", "-") + "h0" * (len(numbers) == 2)
        return d


def nice_step(span: float, count: int) -> float:
    """A step of 1, 2 or 5 times a power of ten that divides a span into at most count parts."""
    power: float = 10.0 ** math.floor(math.log10(span / count))
    return next(power * m for m in (1, 2, 5, 10) if power * m * count >= span * 0.999)


def value_ticks(values: list[float], count: int) -> list[float]:
    """About count round numbers that span all values: the marks of an axis."""
    values = [max(-LARGEST_DRAWN, min(LARGEST_DRAWN, v)) for v in values] or [0, 1]
    low, high = min(values), max(values)
    step = nice_step(max(high - low, 1), count)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [i * step for i in range(first, max(last, first + 1) + 1)]


def find_midnight(ms: int, zone: tzinfo | None) -> int:
    """When the day of an instant began in a time zone."""
    return round(datetime.fromtimestamp(ms / 1000, zone).replace(
        hour=0, minute=0, second=0, microsecond=0).timestamp() * 1000)


def time_ticks(start: int, end: int, locale: Locale) -> tuple[list[tuple[int, str]], int]:
    """The marks of the time axis and their texts, by the wall clock: a day may have 23 hours. And
    how many ms behind its mark a text stands."""
    hours, form, behind = next(row[1:] for row in TICKS if end - start <= row[0] * HOUR)
    if form == "hour":
        form = locale.clock.replace(":%M", "") if "%p" in locale.clock else locale.clock
    tick = datetime.fromtimestamp(find_midnight(start, locale.zone) / 1000, locale.zone)
    ticks = []
    while (ms := round(tick.timestamp() * 1000)) < end:
        if ms > start:
            ticks.append((ms, locale.say_time(ms, form)))
        tick += timedelta(hours=hours)
        if form == "%b":
            tick = tick.replace(day=1)
    return ticks, behind


def segments(points: list[Point]) -> Iterator[list[Point]]:
    """The parts of a line between its gaps. A gap is longer than is usual on both sides of it."""
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
    """The times [from, until) before end in which outside was cooler, without gaps of a line."""
    changes = [(end, 0, math.nan)]              # when, which side, its value from then on
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
    """Points without those so far off that all others would be drawn as one flat line."""
    points = [p for p in points if max(p.maximum, -p.minimum) <= LARGEST_DRAWN]
    if not points:
        return []
    means = sorted(p.mean for p in points)
    middle, tail = means[len(means) // 2], min(len(means) // 20 + 1, (len(means) - 1) // 2)
    limit = FAR_OFF * max(1, abs(middle), means[-1 - tail] - means[tail])
    return [p for p in points if middle - limit <= p.minimum and p.maximum <= middle + limit]


def render_curve(line: Line, chart: Chart) -> Markup:
    """A line, with a band from minimum to maximum where it is thinned, and a dot at its end. Of a
    day that is not over there is the band only: its mean would mislead."""
    pieces = [*segments(line.points)]
    bands = [[*((p.time, p.maximum) for p in piece),
              *((p.time, p.minimum) for p in reversed(piece))] for piece in pieces
             if "expected" not in line.css and (
                 chart.today is not None or any(p.minimum < p.maximum for p in piece))]
    curves = [[(p.time, p.mean) for p in piece if chart.today is None or p.time < chart.today]
              for piece in pieces]
    paths = [("band", chart.path(*bands)), ("line", chart.path(*filter(None, curves)))]
    if line.points and chart.today is None and "expected" not in line.css:
        paths.append(("newest", chart.path([(line.points[-1].time, line.points[-1].mean)])))
    return CURVE(css=line.css, name=chart.say_name(line), scale=chart.scale,
                 shapes=[STROKE(css=css, d=d) for css, d in paths if d])


def render_axes(chart: Chart) -> list[Markup]:
    """Grid, marks, the comfort limit, and the line between what was and what is expected."""
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    shapes = [shape for mark in chart.bounds for shape in (
        STROKE(css="grid", d=f"M{LEFT} {chart.y(mark):g}H{right}"),
        TEXT_AT(css="level", x=LEFT - 5, y=f"{chart.y(mark):g}", anchor="end",
                text=chart.locale.say_digits(f"{mark:g}")))]
    ticks, behind = time_ticks(chart.start, chart.end, chart.locale)
    free = 0.0                                  # marks that would touch are left out
    for ms, text in ticks:
        if behind:
            shapes.append(STROKE(css="grid", d=f"M{chart.x(ms):g} {TOP}V{bottom}"))
        x, half = chart.x(ms + behind), LETTER_WIDTH * len(text) / 2
        if ms + behind < chart.end and x - half >= free:
            free = x + half + 2
            shapes.append(TEXT_AT(css="mark", x=f"{x:g}", y=HEIGHT - 4, anchor="middle",
                                  text=text))
    if chart.comfort is not None:
        shapes.append(STROKE(css="limit", d=f"M{LEFT} {chart.y(chart.comfort):g}H{right}"))
    if chart.present is not None:
        x = chart.x(chart.present)
        shapes += [STROKE(css="present", d=f"M{x:g} {TOP}V{bottom}"),
                   TEXT_AT(css="mark", x=f"{x:g}", y=TOP - 5, anchor="middle",
                           text=chart.locale.say("now"))]
    return shapes


def render_margin(chart: Chart, lines: list[Line]) -> list[Markup]:
    """The names of the lines right of their ends, and that of the comfort limit, one below the
    other. Beside more lines than MAX_NAMED they would say nothing: the legend names them."""
    ends = {line.css.split()[0]: chart.y(line.points[-1].mean) for line in lines if line.points}
    labels = [(ends[line.css], f"end {line.css}", [
        line.name if len(line.name) <= MAX_END else line.name[:MAX_END - 1] + "…"])
        for line in lines if line.css in ends and len(ends) <= MAX_NAMED]
    if chart.comfort is not None:
        labels.append((chart.y(chart.comfort), "words", say_comfort(chart).split(" ", 1)))
    texts, free = [], float(TOP - 4)
    left = LINE_HEIGHT * sum(len(rows) for *_, rows in labels)
    for y, css, rows in sorted(labels):
        free = min(max(y - LINE_HEIGHT * len(rows) / 2, free), HEIGHT - BOTTOM + 6 - left)
        for row in rows:
            texts.append(TEXT_AT(css=css, x=WIDTH - RIGHT + 5, y=f"{free + 11:g}", anchor="start",
                                 text=row))
            free, left = free + LINE_HEIGHT, left - LINE_HEIGHT
    return texts


def say_comfort(chart: Chart) -> str:
    limit = chart.locale.say_number(round(chart.comfort or 0, 1), is_short=True)
    return chart.locale.say("comfort", value=chart.locale.say_quantity(limit, chart.unit))


def describe_lines(chart: Chart, lines: list[Line]) -> str:
    """The chart in words, for screen readers."""
    locale, said = chart.locale, []
    for line in lines:
        name, *values = chart.say_name(line), *(p.mean for p in line.points[-1:])
        holes = {"day": locale.say_time(line.points[-1].time, "weekday")} if values else {}
        newest = line.points[-1:] if chart.today is not None else line.points
        values += [m for p in newest for m in (p.minimum, p.maximum)]
        key = "line_said" if chart.today is None else (
            "day_so_far" if values and line.points[-1].time >= chart.today else "day_range")
        said.append(locale.say("line_empty", name=name) if not values else locale.say(
            key, name=name, low=locale.say_number(min(values)), **holes, **{
                hole: locale.say_quantity(locale.say_number(value), chart.unit)
                for hole, value in (("high", max(values)), ("last", values[0]),
                                    ("mean", values[0]))}))
    return ", ".join(said) or locale.say("no_lines")


def draw_chart(chart: Chart) -> Markup:
    lines = [line._replace(points=[p for p in line.points if chart.start <= p.time <= chart.end])
             for line in chart.lines]
    kept = [line._replace(points=leave_out(line.points))
            for line in lines]
    far = {p for line in lines for p in line.points} - {p for line in kept for p in line.points}
    values = [v for line in kept for p in line.points for v in (p.minimum, p.maximum)]
    values += [chart.comfort] if chart.comfort is not None else []
    chart = chart._replace(bounds=value_ticks([*chart.bounds, *values], 5))
    height = TALL
    strip = height if chart.end - chart.start <= 2 * DAY else 5     # on long charts at the bottom
    shapes = [BOX(css=css, x=f"{chart.x(a):g}", y=TOP + height - high,
                  width=f"{chart.x(b) - chart.x(a):.1f}", height=high)
              for css, high, spans in (("shade", strip, chart.shaded),
                                       ("interval", height, filter(None, [chart.interval])))
              for a, b in spans]
    shapes += render_axes(chart) + [render_curve(line, chart) for line in kept]
    shapes += render_margin(chart, kept)
    said, note = describe_lines(chart, kept), ""
    if far or any(line.has_odd for line in lines):
        farthest = max((max(p.maximum, -p.minimum) for p in far), default=0)
        note = chart.locale.say("not_drawn" if far else "odd_not_drawn", count=len(far),
                                value=chart.locale.say_digits(f"{farthest:.3g}"))
        said += f"; {note}"
    drawn = CHART(width=WIDTH, height=HEIGHT, said=said, left=LEFT, inner=INNER,
                 least=chart.bounds[0], most=chart.bounds[-1], start=chart.start, end=chart.end,
                 unit=chart.unit, day=chart.today or "", scale=chart.scale, shapes=shapes)
    return mark_up([drawn, NOTE(text=note)] if note else [drawn])


def render_chart(chart: Chart) -> Markup:
    """A chart as SVG. If it cannot be drawn, the page says so and is served all the same."""
    try:
        return draw_chart(chart)
    except (ArithmeticError, ValueError) as error:
        log(f"a chart could not be drawn: {error!r}")
        return NO_CHART(text=chart.locale.say("chart_failed"))


SPARK = Template('<svg viewBox="0 0 240 60" preserveAspectRatio="none" role="img" '
                 'aria-label="$said"><path class="$css" d="$d"/></svg>')


def render_spark(points: list[Point], unit: str, now: int, locale: Locale) -> Markup | str:
    """A tile's last 24 hours: rain as bars, a direction as dots, anything else as a line."""
    if not (points := leave_out(points)):
        return ""
    is_rain, low = unit in {"mm", "mm/h"}, min(p.minimum for p in points)
    low, high = 0.0 if is_rain else low, max(p.maximum for p in points)
    span = max(high - low, 1)                   # so that noise looks like noise
    base = low - (span - high + low) * (not is_rain) / 2

    def place(ms: int, value: float) -> str:
        return f"{240 - (now - ms) * 240 / DAY:.0f} {55 - (value - base) / span * 50:.0f}"
    if is_rain:
        css, d = "bars", "".join(f"M{place(p.time, p.maximum)}V60" for p in points if p.maximum)
    elif unit == "°":
        css, d = "spots", "".join(f"M{place(p.time, p.mean)}h0" for p in points)
    else:
        css, d = "line", "".join("M" + "L".join(place(p.time, p.mean) for p in piece) + "h0"
                                 for piece in segments(points))
    return SPARK(css=css, d=d, said=locale.say(
        "spark", low=locale.say_number(low),
        high=locale.say_quantity(locale.say_number(high), unit)))


# ------------------------------------------------------------------------------------------------
# 13. Page
#    Law: the store is asked only for what is shown; a page is made once for all who see the
#    same.
# ------------------------------------------------------------------------------------------------
MAX_PAGES = 64                  # pages kept: one for each range, unit, language, zone and clock


RANGES = {"24h": DAY, "7d": 7 * DAY, "30d": 30 * DAY, "1y": 365 * DAY}
DAILY = {"30d", "1y"}           # ranges in which a point is a day
# Points of all lines of the chart together, and of one tile, so that a page stays below 60 KB.
CHART_POINTS, SPARK_POINTS = 460, 36
MAX_TILES = 30                  # tiles on a page; further values are listed with their station
FEW_PLACES = 3                  # up to which each has its low and high
MAX_ROOMS, MAX_OUTSIDES = 8, 4          # rooms and outside stations with a number and a line
MAX_ROWS, MAX_FOLDED = 20, 80           # stations in the list, and further ones folded away
MAX_WELL = 50                   # stations that are folded to one line when all are well
STALE = 30 * DAY                # silence after which a station without a role is folded away

MAIN = Template('<main data-now="$now" data-state="$states" data-expires="$expires" '
                'data-words="$words">\n$body</main>')
SCRIPT_WORDS = (                # keys of sentences that the script says
    "ago", "seconds", "minutes", "hours", "days", "offline", "offline_day", "reading",
    "no_reading", "day_range", "day_so_far", "weekday", "date_clock", "moment", "weekdays",
    "months", "quantity", "point")
LIVE = Template('<p class="say" aria-live="polite"></p><script>$script</script>')
NO_STATION = Template("""<section><h1>$title</h1><p>$first</p>
<p><code>python3 iotserver.py --db $db --add-station inside --role inside --mac 5c:cf:7f:3b:0d:e8
</code></p><p>$then <code>python3 iotserver.py --demo</code></p><p>$last</p><p class="stale"></p>
</section>""")


class View(NamedTuple):
    """How one reader wants to see the page."""
    locale: Locale
    range: str                  # a key of RANGES
    is_packed: bool = False     # compressed


def choose_answer(verdict: Verdict, locale: Locale) -> tuple[str, str]:
    """A room's answer in a word or two, and its color."""
    answer, _ = explain_verdict(verdict, locale.unit)
    return locale.say(f"pill_{answer}"), "cold" if verdict.is_cold else answer


AMERICAN = {                    # with °F: the unit, its size, and digits behind the point
    "m/s": ("mph", 2.23694, 1), "mm": ("in", 1 / 25.4, 2), "mm/h": ("in/h", 1 / 25.4, 2),
    "hPa": ("inHg", 0.02953, 2)}


def say_field(series: Latest, locale: Locale) -> tuple[str, str]:
    """A field's newest value as people read it, and its unit with the space before it. The value
    of a direction is a point of the compass, and its unit the degrees."""
    (name, unit), value = series.name_and_unit, series.value
    if not isinstance(value, (int, float)):     # a ThingSpeak client's text, or nothing
        return str(value)[:40], ""
    if unit == "°C":
        return (locale.say_number(in_unit(value, locale.unit)),
                locale.say_quantity("", f"°{locale.unit}"))
    if unit == "°" and re.search("wind|direction", name):
        points = locale.say("compass").split()
        return points[round(value % 360 / 22.5) % 16], f" {value % 360:.0f}°"
    if locale.unit == "F" and unit in AMERICAN:
        there, factor, digits = AMERICAN[unit]
        return (locale.say_digits(f"{value * factor:.{digits}f}"),
                locale.say_quantity("", there))
    is_whole = unit == "%" or 100 <= abs(value) < 1e5
    return (f"{value:.0f}" if is_whole else locale.say_number(value, is_short=True),
            locale.say_quantity("", unit))


# -- the page, out of the store ------------------------------------------------------------------

def choose_places(places: list[Place]) -> list[Place]:
    """The places that a page has room for: the most urgent rooms, the station outside that they
    are compared with, and others."""
    rooms = [room for room, _ in rank_rooms(places)][:MAX_ROOMS]
    outsides = [*(room.outside for room in rooms[:1]), *(p for p in places if p.role == "outside")]
    shown = {place.name for place in (*rooms, *outsides[:MAX_OUTSIDES]) if place}
    return [place for place in places if place.name in shown]


def day_edges(start: int, end: int, zone: tzinfo | None) -> list[int]:
    """The midnights from the day of start to the one after end. A day may have 23 hours."""
    edges = [find_midnight(start, zone)]
    while edges[-1] <= end:
        edges.append(find_midnight(edges[-1] + 36 * HOUR, zone))
    return edges


async def read_line(reader: Reader, place: Place, view: View, now: int, count: int) -> Line:
    """A line of the chart. On 30 days and a year each point is a day, at its noon."""
    start, series = now - RANGES[view.range], cast(int, place.series)
    if view.range in DAILY:
        edges = day_edges(start, now, view.locale.zone)
        hours = await reader.hours(series, edges[0], now + 1)
        points = await thin(hours, edges)
    else:
        hours = await reader.hours(series, start, now + 1)
        points = await reader.points(series, start, now + 1, count)
    unit = view.locale.unit
    return Line(place.name, place.css, [
        Point(max(start, min(now, p.time + p.width // 2)), in_unit(p.mean, unit),
              in_unit(p.minimum, unit), in_unit(p.maximum, unit), p.width) for p in points],
        any(hour.counted < hour.size for hour in hours))


TIME = Template('<time datetime="$iso" title="$exact">$ago</time>')


def render_ago(ms: int, locale: Locale, now: int) -> Markup:
    """How long ago an instant is."""
    return TIME(iso=format_time(ms), ago=locale.say("ago", ago=locale.say_ago(now - ms)),
                exact=locale.say_time(ms, "exact"))


def continue_chart(chart: Chart, room: Place, unit: str) -> Chart:
    """The chart with the expected lines of a room, if there is a forecast for it."""
    forecast = room.told_forecast
    if forecast is None or room.outside is None:
        return chart
    curves = {room.name: forecast.inside, room.outside.name: forecast.outside}
    expected = [Line(line.name, f"{line.css} expected", line.points[-1:] + [
        Point(ms, value, value, value) for ms, value in zip(
            itertools.count(forecast.asked + QUARTER, QUARTER),
            (in_unit(celsius, unit) for celsius in curves[line.name])) if ms > chart.end])
        for line in chart.lines if line.name in curves]
    return chart._replace(
        lines=chart.lines + expected, end=forecast.asked + HORIZON, present=chart.end,
        interval=(forecast.start, forecast.end) if forecast.start and forecast.end else None)


LINK = Template('<a href="/?range=$name" aria-current="$current">$text</a>')
FIGURE = Template('<figure class="$css"><nav aria-label="$range">$links</nav>\n$chart'
                  "</figure>\n")
NO_LINES = Template('<p>$text</p>\n')
READOUT = Template('<output data-touch="$touch" data-point="$point"></output>\n$chart<input '
                   'type="range" max="$last" step="$step" min="$first" value="$value" '
                   'aria-label="$label">\n<figcaption>$swatches$week$spans</figcaption>\n')
SWATCH = Template('<span class="swatch $css">$text</span>')
SPANS = Template("<details><summary>$title</summary><table><thead>\n<tr><th>$start</th>"
                 "<th>$end</th></tr></thead><tbody>$rows</tbody></table></details>")
SPAN = Template("<tr><td>$start</td><td>$end</td></tr>\n")


def render_figure(places: list[Place], lines: list[Line], view: View, now: int, comfort: float
                  ) -> Markup:
    """The chart of temperatures, its ranges, and what can be read off it in words."""
    rooms, say = rank_rooms(places), view.locale.say
    figure = functools.partial(FIGURE, css="many" if len(lines) > MAX_NAMED else "few", links=[
        LINK(name=name, text=text, current=str(name == view.range).lower())
        for name, text in zip(RANGES, say("ranges").split(" / "), strict=True)],
        range=say("chart_range"))
    points = {line.name: line.points for line in lines}
    if not any(points.values()):
        roles = {place.role for place in places}
        missing = next((role for role in ("outside", "inside") if role not in roles), "")
        return figure(chart=NO_LINES(text=say(
            "no_chart" if missing else "chart_begins", role=missing)))
    length = RANGES[view.range]
    # For the room of the headline. The points of longer ranges hold days and nights together.
    spans = [span for room, _ in rooms[:1] if room.outside and length <= 7 * DAY
             for span in cooler_spans(points.get(room.name, []),
                                      points.get(room.outside.name, []), now)]
    unit = view.locale.unit
    chart = Chart(lines, f"°{unit}", now - length, now, view.locale, shaded=spans,
                  comfort=in_unit(comfort, unit) if rooms else None,
                  today=find_midnight(now, view.locale.zone) if view.range in DAILY else None)
    for room, _ in rooms[:1] if view.range == "24h" else []:
        chart = continue_chart(chart, room, unit)
    rows = [SPAN(**{name: view.locale.say_time(ms, "date_clock")
                    for name, ms in (("start", a), ("end", b))})
            for a, b in spans[-20:]]
    title, start, end = say("cooler_times").split(" / ")
    first, last, step = find_steps(chart)
    return figure(chart=READOUT(
        touch=say("touch"), point=say("point_at"), label=say("chart_time"),
        chart=render_chart(chart), value=STEPS * length // (chart.end - chart.start),
        first=f"{first:.4g}", step=f"{step:.4g}", last=f"{last:.5g}",
        swatches=render_legend(chart, lines),
        week=NOTE(text=say_week(chart, rooms[0][0], spans))
        if spans and view.range == "7d" else "",
        spans=SPANS(title=title, start=start, end=end, rows=rows) if rows else ""))


def say_week(chart: Chart, room: Place, spans: list[tuple[int, int]]) -> str:
    """How long it was cooler outside, and how hot it was. Nobody knows what the windows did."""
    hottest = {line.name: max((p.maximum for p in line.points), default=math.nan)
               for line in chart.lines}
    inside, outside = (
        chart.locale.say_quantity(chart.locale.say_number(hottest[place.name]), chart.unit)
        for place in (room, cast(Place, room.outside)))
    return chart.locale.say("week", hours=round(sum(b - a for a, b in spans) / HOUR),
                            inside=inside, outside=outside)


def find_steps(chart: Chart) -> tuple[float, float, float]:
    """First and last position of the slider, and the distance between two, which is that of the
    points of a line: one arrow key is one point."""
    distance = min((usual_interval([p.time for p in line.points]) for line in chart.lines
                    if len(line.points) > 1), default=MINUTE)
    scale = STEPS / (chart.end - chart.start)
    if chart.today is None:
        return 0, STEPS, max(distance * scale, 1)
    # The noon of the present day may be still to come.
    return ((chart.today + DAY // 2 - chart.start) % DAY * scale, STEPS + DAY * scale / 2,
            DAY * scale)


def render_legend(chart: Chart, lines: list[Line]) -> list[Markup]:
    """What shades and dashes mean, and the names of the lines for where no margin has them."""
    say = chart.locale.say
    rows = [("cooler", say("cooler_outside"), chart.shaded),
            ("dashed", say("expected"), chart.present),
            ("change", say("likely_change"), chart.interval),
            ("daily", say("daily_range"), chart.today is not None),
            *((f"key {line.css}", line.name, True) for line in lines),
            ("key comfort", say_comfort(chart), chart.comfort is not None)]
    return [SWATCH(css=css, text=text) for css, text, is_there in rows if is_there]


ROWS = Template('<section class="rows$css"><ul>$rows</ul></section>\n')
ROW = Template('<li class="$state"><h2 class="$css">$name</h2> $pill$humidity<p class="big">$value'
               '<small>$unit</small></p>\n<p>$status</p>$day$note</li>\n')
PILL = Template('<b class="pill $css">$answer</b> ')
HUMIDITY = Template('<span class="second"><span class="say">$name </span>$value</span>')
LINE_BELOW = Template('<p class="$css">$text</p>')


async def say_day(reader: Reader, place: Place, locale: Locale, heard: int, now: int) -> str:
    """The lowest and the highest temperature of the present day."""
    series, start = cast(int, place.series), find_midnight(now, locale.zone)
    found = await reader.extremes(series, start, heard + 1)
    if any(len(reader.recent(series, ms - SAYING_TIME, ms + 1)) < 3 for ms, _ in found):
        found = find_extremes(read_believed(reader, place, start, heard + 1))   # may be doubted
    if not found:
        return ""
    (low_at, low), (high_at, high) = found[0], found[-1]
    return locale.say("today", low_at=locale.say_time(low_at), high_at=locale.say_time(high_at),
                      **{key: locale.say_number(in_unit(value, locale.unit))
                         for key, value in (("low", low), ("high", high))})


def read_believed(reader: Reader, place: Place, start: int, end: int) -> list[Sample]:
    """The readings of a place that count in [start, end), one a minute."""
    before = reader.recent(place.series, start - HOUR, end)
    return [sample for sample in believe(sayings(before, place.silence)) if sample[0] >= start]


def say_yesterday(reader: Reader, place: Place, locale: Locale) -> str:
    """How a temperature differs from that of a day ago; empty where that is not known."""
    heard, celsius = place.last.time, place.last.shown
    then = heard - DAY
    near = read_believed(reader, place, then - NEAR, then + NEAR + 1)
    for _, before in sorted(near, key=lambda sample: abs(sample[0] - then))[:1]:
        if abs(celsius - before) < SAME:
            return locale.say("as_yesterday")
        return locale.say("warmer_than_yesterday" if celsius >= before else
                          "cooler_than_yesterday", d=say_degrees(celsius - before, locale))
    return ""


def join_parts(parts: Iterable[Markup | str]) -> list[Markup | str]:
    """The parts of a line that are not empty, with dots between them."""
    return [part for said in parts if said for part in (" · ", said)][1:]


async def render_place(reader: Reader, place: Place, fields: list[Latest], locale: Locale,
                       now: int, is_row: bool, has_day: bool) -> Markup:
    """A temperature in large digits with humidity, and the day's lowest and highest. A room's row
    also has its answer, and when that changes. Of a silent station the time comes first."""
    value, unit, status, heard, day = "–", "", [], place.heard, ""
    if place.said:
        heard, celsius = place.last.time, place.last.shown
        value = locale.say_number(in_unit(celsius, locale.unit))
        unit = locale.say_quantity("", f"°{locale.unit}")
        status = [say_trend(place.readings, now, locale)]
        day = await say_day(reader, place, locale, heard, now) if has_day else ""
    change = say_change(place, now, locale) if is_row else ""
    if change or place.said:                    # on a narrow phone both would not fit into a line
        status = [change] if change else [*status, say_yesterday(reader, place, locale)]
    ago = render_ago(heard, locale, now) if heard else locale.say("no_reading_yet")
    is_silent = now > place.last.end
    status = [ago, *status] if is_silent else [*status, ago]
    humidity = [HUMIDITY(name=say_label("humidity", locale), value=locale.say_quantity(
                    f"{series.value:.0f}", "%")) for series in fields
                if series.kind == "humidity" and isinstance(series.value, (int, float))]
    note = " ".join(say_waiting(place, locale))
    if is_row and place.verdict and place.verdict.difference is None:
        note = f"{say_verdict(place, now, locale)[1]} {note}".strip()
    # On a narrow phone a row has no room for humidity beside its answer and its number.
    status[1:1] = humidity * is_row
    pill = [PILL(answer=answer, css=css) for answer, css in (
        [choose_answer(place.verdict, locale)] if is_row and place.verdict else [])]
    return ROW(
        css=place.css, state="silent" if is_silent else "heard", name=place.name, value=value,
        unit=unit, pill=pill,
        humidity=[] if is_row else humidity, status=join_parts(status),
        day=LINE_BELOW(css="day", text=day) if day else "",
        note=LINE_BELOW(css="note", text=note) if note else "")


ANSWER = Template('<section class="answer $css"><h1>$room$headline</h1>$window\n$both'
                  '<p class="reason">$reason</p>$until<p class="stale"></p></section>\n')
ROOM = Template('<small class="room">$name</small> ')
WINDOW = Template('<svg class="window" viewBox="0 0 24 24" aria-hidden="true">'
                  '<path d="$d"/></svg>')
WINDOWS = {"close": "M3 2H21V22H3ZM12 2V22M9.5 10.5v3M14.5 10.5v3",
           "open": "M7 2H17M7 20H17M7 2L1 5V23L7 20ZM17 2L23 5V23L17 20Z"}
UNTIL = Template('<details><summary>$when</summary><p class="record">$record</p></details>')
Notice: TypeAlias = tuple[str, dict[str, str]]     # a key of SENTENCES, and its holes
NOTICE = Template("<section><p>$text</p></section>\n")


def dress_answer(verdict: Verdict | None, locale: Locale) -> tuple[str, str | Markup]:
    """The color of an answer, and the window that is drawn beside it."""
    if verdict is None:
        return "unknown", ""
    _, css = choose_answer(verdict, locale)
    drawn = WINDOWS.get(explain_verdict(verdict, locale.unit)[0])
    return css if verdict.is_cold else verdict.state, WINDOW(d=drawn) if drawn else ""


def say_numbers(verdict: Verdict | None, locale: Locale) -> list[str]:
    """The numbers inside and outside, if both are known."""
    if verdict is None or verdict.inside is None or verdict.outside is None:
        return []
    return [f"{locale.say_number(in_unit(celsius, locale.unit))}°"
            for celsius in (verdict.inside, verdict.outside)]


def render_answer(places: list[Place], locale: Locale, now: int, since: int | None
                  ) -> tuple[Markup, str, str]:
    """The card at the top, its headline as text, and its color. since: when history begins."""
    rooms = rank_rooms(places)
    room, verdict = rooms[0] if rooms else (None, None)
    headline, reason, caveats = say_verdict(room, now, locale)
    css, window = dress_answer(verdict, locale)
    numbers = dict(zip(("inside", "outside"), say_numbers(verdict, locale), strict=False))
    both = LINE_BELOW(css="both", text=locale.say("both", **numbers)) if numbers else ""
    card = ANSWER(
        css=css, headline=headline, window=window, both=both,
        reason=" ".join((reason, *caveats, *say_missed(verdict, now, locale))),
        until=render_until(room, now, locale, since) if room else "",
        room=ROOM(name=room.name) if room and rooms[1:] else "")
    return card, headline, css


def render_until(room: Place, now: int, locale: Locale, since: int | None) -> Markup:
    """When the answer for a room changes: what is said at once, and what unfolds."""
    verdict = cast(Verdict, room.verdict)
    if said := say_forecast(room, now, locale):
        record = say_record(cast(Forecast, room.forecast), locale)
        return UNTIL(when=said[0], record=" ".join((*said[1:], record)))
    has_days = since is not None and now - since >= FEWEST_DAYS * DAY
    if room.forecast or verdict.difference is None or verdict.is_cold or not has_days:
        return mark_up("")
    return LINE_BELOW(css="unsure", text=locale.say("not_sure"))


async def render_numbers(reader: Reader, shown: list[Place], latest: Mapping[str, list[Latest]],
                         locale: Locale, now: int) -> Markup | str:
    """The numbers of the headline, a row for each other room with its answer, and outside stations
    that the first is not compared with. Of many, only the first two have their low and high."""
    rooms = [room for room, _ in rank_rooms(shown)]
    first = [place for room in rooms[:1] for place in (room, room.outside) if place]
    names = {place.name for place in (*first, *rooms)}
    rows = [await render_place(
        reader, place, latest.get(place.name, []), locale, now, place in rooms[1:],
        len(shown) <= FEW_PLACES or number < 2) for number, place in enumerate(
            [*first, *rooms[1:], *(place for place in shown if place.name not in names)])]
    return ROWS(css=" many" if len(shown) > FEW_PLACES else "", rows=rows) if rows else ""


TILES = Template('<section><h2 class="$css">$name</h2><ul class="tiles">$tiles</ul></section>\n')
TILE = Template('<li><span class="second">$name</span> <b>$value<small>$unit</small></b>$ago'
                '<div class="$css">$spark</div></li>\n')
Fields: TypeAlias = list[tuple[Station, list[Latest]]]


async def render_tiles(reader: Reader, fields: Fields, places: list[Place], locale: Locale,
                       now: int) -> list[Markup]:
    """A tile for each value, those of inside and outside stations first."""
    styles, cards = {place.name: place.css for place in places}, []
    for station, series in sorted(fields, key=lambda one: one[0].name not in styles):
        tiles, css = [], styles.get(station.name, "other")
        for one in series:
            await pause()
            (name, unit), (value, shown) = one.name_and_unit, say_field(one, locale)
            points = await reader.points(one.series, now - DAY, now + 1, SPARK_POINTS)
            is_old = one.time is not None and now - one.time > HOUR
            tiles.append(TILE(
                name=say_label(name, locale), value=value, unit=shown, css=css,
                spark=render_spark(points, unit, now, locale),
                ago=LINE_BELOW(css="old", text=render_ago(one.time or 0, locale, now))
                if is_old else ""))
        cards.append(TILES(css=css, name=station.name, tiles=tiles))
    return cards


STATIONS = Template('<section class="stations">\n<h2>$title</h2><p>$history</p>'
                    '<ul>$rows</ul>$more<button type="button">$exact</button></section>\n')
STATION = Template('<li>$name<b class="state"> $state</b><p>$heard</p>$values</li>\n')
FOLDED = Template("<details><summary>$title</summary><ul>$rows</ul>$beyond</details>")
WELL = Template('<section class="stations"><details><summary>$title</summary><p>$history</p>\n'
                '<ul>$rows</ul><button type="button">$exact</button></details></section>\n')


def last_sign(reader: Reader, station: Station, fields: list[Latest], now: int) -> int:
    """When a station last sent anything but impossible temperatures; 0 if it never has."""
    newest = max(fields, key=lambda series: series.time or 0, default=None)
    if newest and reader.is_odd(newest):        # that it arrived is no sign of life
        signs = [last_possible(reader.db, one.series, now) if reader.is_odd(one) else one.time
                 for one in fields]
    else:
        signs = [station.heard,
                 newest and (newest.time or reader.last_time(newest.series, now))]
    return max(ms for ms in (0, *signs) if ms is not None and ms <= now)


def render_station(reader: Reader, station: Station, place: Place | None, fields: list[Latest],
                   rest: list[Latest], locale: Locale, now: int) -> tuple[Markup, int | None]:
    """A station in the list, with its values that have no row or tile; and how many ms ago it was
    heard, if it is well. An inside or outside one is heard while its temperatures are."""
    newest = max(fields, key=lambda series: series.time or 0, default=None)
    times = reader.recent_times(newest.series, now) if newest else []
    if place and place.heard is not None:
        heard, is_silent = place.heard, now > place.last.end
    else:
        heard = last_sign(reader, station, fields, now)
        is_silent = now - heard > silence_limit(times, max(SILENT_AT_LEAST, station.silence))
    values = ", ".join(f"{say_label(series.name_and_unit[0], locale)} "
                       f"{''.join(say_field(series, locale))}" for series in rest)
    every = usual_interval(times) if len(times) > 1 else 0
    return STATION(
        name=station.name, state=locale.say(
            "state_new" if not heard else "state_silent" if is_silent else "state_ok"),
        heard=join_parts([
            render_ago(heard, locale, now) if heard else locale.say("never"),
            locale.say("every", ago=locale.say_ago(every)) if every >= 1000 else ""]),
        values=LINE_BELOW(css="values", text=values) if values else ""
        ), None if is_silent or not heard else now - heard


async def render_stations(reader: Reader, stations: list[Station], places: list[Place],
                          latest: Mapping[str, list[Latest]], told: set[int], locale: Locale,
                          now: int, since: int | None) -> Markup:
    """The list of stations, folded to a line if all are well; those silent for long are folded
    away. The series in told have a row or a tile of their own."""
    by_id = {place.id: place for place in places}
    rows: tuple[list[Markup], list[Markup]] = ([], [])
    ages: list[int | None] = []
    for number, station in enumerate(stations):
        if number % MAX_ROWS == 0:
            await pause()
        fields = latest[station.name]
        rest = [one for one in fields if one.series not in told and one.time is not None]
        row, age = render_station(
            reader, station, by_id.get(station.id), fields, rest, locale, now)
        rows[is_stale(station, fields, now)].append(row)
        ages.append(age)
    said = {"exact": locale.say("exact_times"), "history":
            locale.say("history", day=locale.say_time(since, "date")) if since else
            locale.say("no_history")}
    shown, folded = rows[0][:MAX_ROWS], rows[0][MAX_ROWS:] + rows[1]
    count = reader.count_stations() - len(shown)
    if count == len(folded) and len(ages) <= MAX_WELL and None not in ages:
        return WELL(said, rows=shown + folded, title=say_all_heard(
            len(ages), max(cast(list[int], ages)), locale))
    beyond = [LINE_BELOW(css="beyond", text=locale.say("beyond", n=count - len(folded)))
              ] if count > len(folded) else []
    return STATIONS(said, rows=shown, title=locale.say("stations"), more=FOLDED(
        title=locale.say("folded", n=count), rows=folded, beyond=beyond) if count else "")


def say_all_heard(count: int, age: int, locale: Locale) -> str:
    """That all of so many stations are well, if the last one was heard age ms ago."""
    unit = MINUTE if age <= HOUR else HOUR
    ago = locale.say_ago(max(-(-age // unit), 1) * unit)        # rounded up: it says `within`
    return locale.say("all_heard" if count > 1 else "one_heard", n=count, ago=ago)


def is_stale(station: Station, fields: list[Latest], now: int) -> bool:
    """Whether a station without a role has been silent for long."""
    heard = max(0, station.heard or 0, *(one.time or 0 for one in fields))
    return not station.role and now - (heard or station.created) > STALE


def choose_tiles(stations: list[Station], latest: Mapping[str, list[Latest]], shown: list[Place],
                 now: int) -> tuple[set[int], Fields]:
    """The series that have a row or a tile, and the fields with a tile, by station."""
    names, told, count = {place.name for place in shown}, set(), 0
    fields: Fields = []
    for station in stations:
        sent = [one for one in latest[station.name] if one.time is not None]
        own = {one.series for one in sent
               if station.name in names and one.kind in {"temperature", "humidity"}}
        room = 0 if is_stale(station, sent, now) else MAX_TILES - count
        tiles = [one for one in sent if one.series not in own][:room]
        count += len(tiles)
        told |= own | {one.series for one in tiles}
        fields += [(station, tiles)] if tiles else []
    return told, fields


async def read_latest(reader: Reader, stations: list[Station], now: int
                      ) -> dict[str, list[Latest]]:
    """The newest reading of each field, by the station's name."""
    latest: dict[str, list[Latest]] = {station.name: [] for station in stations}
    names = {station.id: station.name for station in stations}
    for first in range(0, len(stations), MAX_ROWS):
        await pause()
        for one in reader.latest([s.id for s in stations[first:first + MAX_ROWS]], now):
            latest[names[one.station]].append(one)
    return latest


async def render_overview(reader: Reader, places: list[Place], view: View, now: int,
                          comfort: float, notes: Iterable[Notice] = ()) -> bytes:
    """The page that answers whether to open the windows."""
    stations = reader.stations("ORDER BY role IS NULL, coalesce(heard, created) DESC LIMIT ?",
                               MAX_ROWS + MAX_FOLDED)
    live = LIVE(script=Markup(SCRIPT))
    words = as_json({key: view.locale.read(key) for key in SCRIPT_WORDS}).decode()
    if not stations:
        title, first, then, last = view.locale.say("no_station").split(" / ")
        card = NO_STATION(title=title, first=first, then=then, last=last, db=str(reader.path))
        return render_page(title, MAIN(
            now=now, states="none", expires=LATEST_TIME, body=card, words=words),
            view.locale.language, live, state="unknown")
    rooms, shown, lines = rank_rooms(places), choose_places(places), []
    for place in shown:
        await pause()
        lines += [await read_line(reader, place, view, now, CHART_POINTS // max(len(shown), 2))
                  ] if place.series is not None else []
    latest = await read_latest(reader, stations, now)
    since = await reader.first_hour()
    answer, headline, state = render_answer(places, view.locale, now, since)
    told, fields = choose_tiles(stations, latest, shown, now)
    more = len(rooms) - MAX_ROOMS
    body = [answer, [NOTICE(text=view.locale.say(key, **holes)) for key, holes in notes],
            await render_numbers(reader, shown, latest, view.locale, now),
            [NOTICE(text=view.locale.say_count("more_rooms", more))] if more > 0 else [],
            render_figure(places, lines, view, now, comfort),
            await render_tiles(reader, fields, shown, view.locale, now),
            await render_stations(reader, stations, places, latest, told, view.locale, now, since),
            [LINE_BELOW(css="zone", text=view.locale.say(
                "times_in", zone=view.locale.say_time(now, "%Z")))] if not view.locale.zone
            else []]
    states = " ".join(verdict.state for _, verdict in rooms[:MAX_ROOMS])
    return render_page(headline, MAIN(now=now, states=states or "unknown", body=body,
                                      expires=find_expiry(places), words=words),
                       view.locale.language, live, state=state)


# -- what is kept of it --------------------------------------------------------------------------

class Board:
    """The newest verdicts, and the pages made from them when a client asks. A reading, a command
    or a silence makes both outdated; a new minute makes pages outdated."""

    def __init__(self, reader: Reader, settings: argparse.Namespace, now: Callable[[], int]):
        self.reader, self.settings, self.now = reader, settings, now
        self.touched: set[int] = set()          # stations that have sent since the last look
        self.looked = 0                         # when it last looked
        self.expires = 0                        # when all is read again; 0 after a command
        self.due = LATEST_TIME                  # when the next reading of the future is one of now
        self.looking = asyncio.Lock()           # held while a look is taken
        self.current: list[Place] = []
        self.courses: dict[int, Course] = {}    # as the file has them, by station
        self.forecasts: dict[tuple[int, int], Forecast | None] = {}     # by series
        self.pages: dict[tuple[View, int], Answer] = {}     # by view and minute
        self.told: list[tuple[str, str]] = []   # stations and states, as listeners know them
        self.cache_control = "no-cache"
        self.notes: dict[str, Notice] = {}      # further sentences on the page, by topic

    async def look(self) -> list[Place]:
        """The places as they are now. One caller looks at a time; one that had to wait looks
        again, at what has come meanwhile."""
        async with self.looking:
            if self.is_old(self.now()):
                await self.renew()
        return self.current

    def has_expired(self, now: int) -> bool:
        """Whether all is to be read again. When the clock was set back, what was read may be of
        the future."""
        return not self.looked <= now < self.expires

    def is_old(self, now: int) -> bool:
        return bool(self.touched) or now >= self.due or self.has_expired(now)

    async def renew(self) -> None:
        """Read the places that were touched, or all of them: after a command, when a verdict turns
        unknown, when a humidity is no longer fresh, and each quarter of an hour."""
        now, known = self.now(), dict[int, Place]()
        if not self.has_expired(now):
            known = {place.id: place for place in self.current
                     if place.id not in self.touched and now < place.due}
        else:
            self.courses = {row[0]: Course(*row[1:]) for row in read_courses(self.reader.db)}
        self.looked = now
        self.expires, self.touched = LATEST_TIME, set()     # a command may come meanwhile
        try:
            self.current = await read_places(self.reader, now, self.settings.comfort, self.courses,
                                             self.forecasts, known=known,
                                             smoke=self.settings.smoke)
        except BaseException:                   # also when the client is gone that has asked
            self.expires = 0
            raise
        self.expires = min(self.expires, find_expiry(self.current),
                           now // QUARTER * QUARTER + QUARTER, *(
            place.humid_until + 1 for place in self.current if place.humid_until >= now),
            *(place.verdict.air.until for place in self.current if place.verdict))
        self.due = min((place.due for place in self.current), default=LATEST_TIME)
        self.pages.clear()

    def settle(self) -> dict[int, Course]:
        """The courses that are a quarter of an hour ahead of the file, by station. Verdicts go on
        from them, as they would after a restart."""
        now = self.now()
        courses = {room.id: room.settled for room in self.current if room.verdict
                   and room.settled.at - find_course(self.courses, room.id, now).at >= QUARTER}
        self.courses |= courses
        self.touched |= courses.keys()
        return courses

    def find_page(self, view: View) -> Answer | None:
        """The page for a view, if it was made after the last reading and in this minute."""
        now = self.now()
        is_old = self.looking.locked() or self.is_old(now)
        return None if is_old else self.pages.get((view, now // MINUTE))

    async def make_page(self, view: View) -> Answer:
        """The page for a view. If too many are kept, the oldest is dropped."""
        places, now = await self.look(), self.now()
        if page := self.find_page(view):
            return page
        if view.is_packed:
            page = pack(await self.make_page(view._replace(is_packed=False)))
        else:
            page = await self.render(places, view, now)
        if self.current is places:              # nothing came in between
            if len(self.pages) >= MAX_PAGES:
                del self.pages[next(iter(self.pages))]
            self.pages[view, now // MINUTE] = page
        return page

    def note(self, topic: str, key: str, **holes: str) -> None:
        """Show a sentence on the page, and write it to the log once. An empty key ends that."""
        if (key and (key, holes)) != self.notes.get(topic, ""):
            self.notes.pop(topic, None)
            if key:
                self.notes[topic] = key, holes
                log(ENGLISH.say(key, **holes))
            self.pages.clear()

    async def render(self, places: list[Place], view: View, now: int) -> Answer:
        """A page as an answer."""
        body = await render_overview(self.reader, places, view, now, self.settings.comfort,
                                     self.notes.values())
        tag = f'"{hashlib.sha256(body).hexdigest()[:16]}"'
        return Answer(body, HTML, headers=(
            *PAGE_HEADERS, ("ETag", tag), ("Content-Language", view.locale.language),
            ("Vary", "Accept-Encoding, Accept-Language, Cookie"),
            ("Cache-Control", self.cache_control)))

    def verdicts(self) -> list[dict[str, Any]]:
        """The verdicts of the last look, as listeners get them."""
        found = [(place.name, place.verdict) for place in self.current if place.verdict]
        return [{"station": name, "state": verdict.state, "since": verdict.since,
                 "difference": verdict.difference and round(verdict.difference, 2),
                 } for name, verdict in found]

    def news(self) -> list[dict[str, Any]]:
        """The verdicts of the last look if a state has changed since the last call, else none."""
        states = [(room.name, room.verdict.state) for room in self.current if room.verdict]
        is_new, self.told = states != self.told, states
        return self.verdicts() if is_new else []


# ------------------------------------------------------------------------------------------------
# 14. Dispatch
#    Law: each request has one route or a refusal; no key, no work.
# ------------------------------------------------------------------------------------------------
MAX_WAITING = 64                # long requests of a network; a household's phones may ask at once

Work = Coroutine[Any, Any, Answer]      # a route that takes longer than some 1 ms is a coroutine
Check = asyncio.Future[Refused | None]  # of a password; None admits the client


# -- who answers ---------------------------------------------------------------------------------

class Route(NamedTuple):
    """What answers a request. A path that ends in / matches everything below it."""
    method: str
    path: str
    answer: Callable[[Request, "Server"], Answer | Work]
    is_open: bool = False       # needs no password: it asks for a key, or shows nothing private
    is_loose: bool = False      # repair_head corrects its clients' mistakes before parsing
    is_safe: bool = True        # changes nothing, so HEAD is allowed, too


ROUTES: list[Route] = []        # the sections below fill it
METHODS: dict[str, dict[str, Route]] = collections.defaultdict(dict)    # by path and method


def enter(*routes: Route) -> None:
    """Add routes to the table; a later one takes the place of an earlier one."""
    mine = {(route.method, route.path) for route in routes}
    ROUTES[:] = [*(r for r in ROUTES if (r.method, r.path) not in mine), *routes]
    for route in routes:
        METHODS[route.path][route.method] = route
        if route.method == "GET" and route.is_safe:
            METHODS[route.path]["HEAD"] = route
    if paths := sorted({route.path for route in routes if route.is_loose}):
        LOOSE.append(re.compile(rb"\n?[A-Z]{3,7} +(?:http://[^/? \r\n]*)?(?:%s)" % b"|".join(
            re.escape(path.encode()) + (b"" if path.endswith("/") else rb"[? \r\n]")
            for path in paths)))
        QUERIES.extend(f"GET {path}" if path.endswith("/") else f"GET {path}?" for path in paths)


Loose = functools.partial(Route, is_open=True, is_loose=True)


def find_route(command: str, path: str) -> Route:
    """The route for a method and a path. Raises Refused 404, 405."""
    methods = METHODS.get(path) or METHODS.get(path[:path.find("/", 1) + 1])
    if methods is None:
        raise Refused(404, "there is nothing at this address; the page is at /")
    if command not in methods:
        known = [method for method in methods if method != "HEAD"]
        raise Refused(405, f"use {' or '.join(known)} here", Allow=", ".join(methods))
    return methods[command]


REFUSALS: dict[str, Callable[[Refused], str]] = {}      # by path prefix: the form its devices read


def render_refusal(request: Request, refused: Refused, settings: argparse.Namespace) -> Answer:
    """A refusal in the form that the client asked for."""
    accept = request.headers.get("accept", "")
    for path, say in REFUSALS.items():
        if request.path.startswith(path):
            return Answer(f"{say(refused)}\n".encode(), TEXT, refused.status, refused.headers)
    if "text/html" in accept:
        key = f"error_{refused.status}" if f"error_{refused.status}" in SENTENCES else "error"
        page = render_message(
            choose_locale(request, settings), key, Handler.responses[refused.status][0],
            say_sentence(refused.message))
        return page._replace(status=refused.status, headers=refused.headers + page.headers)
    if "application/json" in accept or request.path.startswith("/api/") \
            or request.command == "POST":
        return Answer(as_json({"status": refused.status, "error": refused.message}), JSON,
                      refused.status, refused.headers)
    return Answer(f"{refused.message}\n".encode(), TEXT, refused.status, refused.headers)


LOCAL = re.compile(          # a public site cannot have these names; addresses
    r"[^.]*|.*\.(?:local|lan|home|internal|home\.arpa|fritz\.box|localdomain)"
    r"|[\d.]+|\[[\da-f:]+\]")
OTHER_NAMES: list[str] = []     # of services that this server replaces
RESOLVER = Path("/etc/resolv.conf")


@functools.lru_cache(64)
def is_lan(address: str) -> bool:
    """Whether an address is private, like that of a home network or of the machine itself."""
    found = ipaddress.ip_address(address.partition("%")[0])
    return not (getattr(found, "ipv4_mapped", None) or found).is_global     # 100.64.0.0/10: a VPN


def search_endings() -> tuple[str, ...]:
    """The domains of this machine's own network, from resolv.conf(5). The file is read each time,
    because the machine may join another network while the server runs."""
    text = ""
    with contextlib.suppress(OSError):
        text = RESOLVER.read_text(errors="replace")
    domains = " ".join(re.findall(r"^(?:search|domain)[ \t]+(.*)", text, re.M)).lower().split()
    return tuple(f".{domain.strip('.')}" for domain in domains if domain != ".")


def refuse_rebinding(host: str, link: str) -> None:
    """Raise Refused if a public site's name points at this private address (DNS rebinding). The
    site's script could read everything here. No other client uses such a name."""
    name = (host if host.endswith("]") else host.rpartition(":")[0] or host).lower()
    if not (LOCAL.fullmatch(name) or name in OTHER_NAMES
            or name == urllib.parse.urlsplit(link).hostname or name.endswith(search_endings())):
        raise Refused(403, f"{name} is not known to be a name of this server; if it is, start the "
                           f"server with --link http://{host}")


KEY_IN_BODY = re.compile(
    rb'(?:^|[&?/{,\s])"?(?:(?:write_)?api_?key|key|password)"?\s{0,9}[=:]\s{0,9}'
    rb'"?([^"&,}\s]{1,128})',
    re.IGNORECASE)


def refuse_stranger(request: Request, server: "Server") -> None:
    """Raise Refused if a long body comes without a valid key, before it is decoded. The key may be
    in the headers, path or query. In the body it is looked for at both ends. Only the first and
    the last one count, because texts between them may look like keys."""
    body = request.body
    if len(body) <= MAX_STRANGE_BODY:
        return
    keys = [value for name, value in request.headers.items() if "key" in name]
    keys += request.path.split("/")[-2:]
    ends = body[:MAX_STRANGE_BODY // 2] + b"&" + body[-MAX_STRANGE_BODY // 2:]
    for text in (request.query.encode(), ends.replace(b"\0", b"")):    # NUL: in UTF-16
        found = KEY_IN_BODY.findall(text)
        keys += [unquote_text(key.decode("latin-1")) for key in found[:1] + found[-1:]]
    server.access.admit_any(keys, request.address)


BUSY = Refused(503, "too many large requests at once; try again", Retry_After="5")


def respond(request: Request, server: "Server") -> Answer | Work:
    """The answer to a request, or the work that makes it. An exception becomes an answer."""
    try:
        if request.fault:
            return render_refusal(request, request.fault, server.settings)
        route = METHODS.get(request.path, {}).get(request.command) or find_route(
            request.command, request.path)
        if request.is_lan and route.is_safe and request.command != "POST":     # POST needs a key
            refuse_rebinding(request.headers.get("host", ""), server.settings.link)
        check = server.guard.admit(request) if server.guard and not route.is_open else None
        answer = (answer_after(check, route, request, server) if check
                  else route.answer(request, server))
        if not isinstance(answer, Answer) and 0 < request.length <= MAX_ENTRY:
            answer = finish(answer)     # short, and its client may soon have gone
        if not isinstance(answer, Answer) and \
                server.shares.counts[request.network] >= MAX_WAITING:
            answer.close()
            return render_refusal(request, BUSY, server.settings)
        return answer
    except Exception as error:
        return explain(error, request, server)


async def answer_after(check: Check, route: Route, request: Request, server: "Server") -> Answer:
    """The answer of a route once a check has admitted the client. Raises Refused."""
    await pass_check(check)
    answer = route.answer(request, server)
    return answer if isinstance(answer, Answer) else await answer


async def pass_check(check: Check | None) -> None:
    """Wait for a check, which goes on when its client has gone. Raises Refused."""
    if check and (refused := await asyncio.shield(check)):
        raise refused


def explain(error: Exception, request: Request, server: "Server") -> Answer:
    """The answer to a request that has failed."""
    if isinstance(error, Refused):
        return render_refusal(request, error, server.settings)
    if isinstance(error, sqlite3.Error):
        return render_refusal(request, server.turn.fail(error), server.settings)
    log(f"a request failed: {''.join(traceback.format_exception(error))}")
    return render_refusal(
        request, Refused(500, "internal error; the log has the details"), server.settings)


# ------------------------------------------------------------------------------------------------
# 15. Connections
#    Law: each client has one state, one deadline and a bounded share of memory and time.
# ------------------------------------------------------------------------------------------------
PATIENCE = {                    # seconds that a connection may stay in each state
    "idle": 120,                # longer than nginx keeps an upstream connection idle (60)
    "head": 30,                 # a phone on a bad network needs several seconds
    "body": 60,
    "wait": math.inf,           # this server ends it: it commits, then answers
    "queue": math.inf,          # other requests are worked on first
    "work": math.inf,
    "stream": 60,               # starts again with each piece that the client takes
    "listen": 120,              # starts again whenever the client has taken all events
    "linger": 2,                # after the last answer, so that the client can read it
    "close": 120,               # the same while a part of it is unsent
}
MAX_PIPELINED = 16              # requests of one connection in a turn; then others are served
MAX_CONNECTIONS = 8192          # each takes about 10 KB of memory
MAX_LISTENERS = 1024            # each event is written to every one, which takes 10 ms
MAX_NETWORK_LISTENERS = 256     # of one network; a household needs a few
MAX_BUFFER = MAX_HEAD + MAX_BODY + 65_536   # bytes; a connection that has sent more is not read
MAX_UNFINISHED = 16_000_000     # bytes of incomplete requests, of all connections
MAX_UNREAD = 64_000_000         # bytes of answers that clients have not read, of all connections
MAX_UNSENT = 64 * 1024          # bytes; a listener that is further behind does not read
MAX_COMPARED = 64               # clients of a network; one of its oldest ones gives way
MAX_NETWORK_STREAMS = 4         # exports of one network at a time
MAX_STREAMS = 32                # exports at a time; each keeps PAGE_ROWS rows in memory
MAX_IN_HAND = 4                 # long requests in progress; each may take several MB
# A request may be on its way on an idle connection. systemd/nginx.conf has nginx close idle ones
# after 300 ms. As this server waits longer, a restart loses no request.
IDLE_STOP_SECONDS = 1
UPDATE_ROOTS = ["/update"]      # paths below which a refusal is counted as one of an update


# -- long work, in turn --------------------------------------------------------------------------

class Shares:
    """Shares the event loop's time between long requests. Each round of the loop does one step, so
    that updates are served in between. Networks take steps in turn. Each network has one request
    in hand at a time, and MAX_IN_HAND networks have one, which bounds their memory."""

    def __init__(self, before_step: Callable[[], object]):
        self.before_step = before_step          # commits first, so that no update waits for a step
        self.counts = collections.Counter[str]()            # requests of each network
        self.locks: dict[str, asyncio.Lock] = {}            # held by a network's request in hand
        self.seats = asyncio.Semaphore(MAX_IN_HAND)         # for networks with a request in hand
        self.waiting: dict[str, collections.deque[asyncio.Future[None]]] = {}   # for a step
        self.ends = 0.0                         # when the step in hand has lasted long enough

    @contextlib.asynccontextmanager
    async def hold(self, network: str) -> AsyncIterator[None]:
        """Wait until this request may begin. It counts as in progress until the block ends."""
        self.counts[network] += 1
        lock = self.locks.setdefault(network, asyncio.Lock())
        try:
            async with lock, self.seats:
                yield
        finally:
            self.counts[network] -= 1
            if not self.counts[network]:
                del self.counts[network], self.locks[network]

    async def join(self, network: str) -> None:
        """Count the steps of the calling task as those of a network from now on."""
        SHARE.set(functools.partial(self.rest, network))
        await self.next_step(network)

    async def rest(self, network: str) -> None:
        if time.monotonic() >= self.ends:
            await self.next_step(network)

    async def next_step(self, network: str) -> None:
        """Wait until it is the turn of this network."""
        loop = asyncio.get_running_loop()
        if not self.waiting:
            loop.call_soon(self.begin_step)
        future = loop.create_future()
        self.waiting.setdefault(network, collections.deque()).append(future)
        await future
        self.ends = time.monotonic() + STEP_SECONDS

    def begin_step(self) -> None:
        """Let the next network take a step, then put it behind the others."""
        network = next(iter(self.waiting))
        futures = self.waiting.pop(network)
        future = futures.popleft()
        if futures:
            self.waiting[network] = futures
        if self.waiting:
            asyncio.get_running_loop().call_soon(self.begin_step)
        try:
            self.before_step()
        finally:
            if not future.done():               # it is done if its client has gone
                future.set_result(None)


# -- connections ---------------------------------------------------------------------------------

READY = frozenset({"idle", "head", "body"})     # waits for a request, or for its head or body


class Connection(asyncio.Protocol):
    """One client's connection: cuts bytes into requests, orders the answers, keeps deadlines."""

    def __init__(self, server: "Server"):
        self.server = server
        self.buffer = bytearray()
        self.state, self.deadline = "idle", math.inf
        self.request: Request | None = None     # in hand: its body or its answer is not complete
        self.task: asyncio.Task[None] | None = None     # answers the request, or sends its stream
        self.stream: AsyncIterator[bytes] | None = None     # the rest of the last answer
        self.drained: asyncio.Future[None] | None = None    # set while the client does not read
        self.answers: list[tuple[Request, Answer]] = []     # in the order of their requests
        self.answered = 0                       # requests
        self.is_full = self.is_paused = self.is_at_end = self.is_closing = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        # A peer that has gone has no name. It must not be taken for the proxy, whose name is "".
        name = transport.get_extra_info("peername")
        self.peer: str | None = None if name == "" else name[0] if name else ""
        own = transport.get_extra_info("sockname")
        is_local = bool(own) and self.peer is not None and is_lan(own[0])
        self.origin: Origin = (self.peer, is_local)
        self.network = networks(self.peer or "")[0]     # "" for the proxy
        self.enter("idle")
        if not self.server.connections.let_in(self):
            self.refuse(Refused(503, "too many connections; try again", Retry_After="5"))

    def connection_lost(self, error: Exception | None) -> None:
        self.is_closing = True
        self.server.connections.forget(self)
        self.buffer.clear()
        if self.task:
            self.task.cancel()
            self.task = None            # a reference cycle would wait for the garbage collector

    def eof_received(self) -> bool:
        """A client that has closed its side still gets its answers. It may have disconnected, so
        its queued long request is answered 503."""
        self.is_at_end = True
        if self.state == "queue" and self.task and self.request:
            self.task.cancel()
            self.queue(self.request, render_refusal(
                self.request, BUSY, self.server.settings))
            self.request = self.task = None
            if len(self.answers) == 1:          # with more, they are sent when the turn ends
                self.flush(int(self.server.clock()))
        if self.state not in {"wait", "queue", "work", "stream"}:
            self.close()
        return True                             # else asyncio closes it, without a deadline

    def enter(self, state: str) -> None:
        """Change the state and start its deadline."""
        self.state, self.deadline = state, self.server.monotonic() + PATIENCE[state]
        if self.is_paused:
            self.mind_reading()

    def mind_reading(self) -> None:
        """Pause or resume reading. During long work a little is still read, because only reading
        shows that the client has gone."""
        is_paused = self.is_full or len(self.buffer) > (MAX_HEAD if self.task else MAX_BUFFER)
        if is_paused != self.is_paused and not self.transport.is_closing():
            self.is_paused = is_paused
            (self.transport.pause_reading if is_paused else self.transport.resume_reading)()

    # -- in ---------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        if self.is_closing:
            return
        self.buffer += data
        if self.state in READY:
            self.take_requests()
        elif len(self.buffer) > MAX_HEAD:
            self.mind_reading()
        if self.buffer:
            self.server.connections.count_unfinished(len(data))

    def take_requests(self) -> None:
        """Execute the complete requests in the buffer, at most MAX_PIPELINED at a time. Their
        answers go out together: when the turn ends if one is an update's, otherwise at once."""
        is_update = False
        while (self.buffer and not (self.is_closing or self.is_full or self.task or self.stream)
               and len(self.answers) < MAX_PIPELINED and (request := self.take_request())):
            answer = respond(request, self.server)
            if isinstance(answer, Answer):
                self.queue(request, answer)
                is_update |= answer.is_update
            else:
                self.begin(request, answer)
        if is_update and not self.task:
            self.enter("wait")
        if is_update:
            self.server.turn.add(self)
        elif self.answers:
            self.flush(int(self.server.clock()))
        elif self.is_at_end and not self.task:
            self.close()
        elif not self.task:
            state = "body" if self.request else "head" if self.buffer else "idle"
            if state != self.state:             # the deadline counts from the state's first byte
                self.enter(state)

    def take_request(self) -> Request | None:
        """Take the next request off the buffer; None while it is incomplete."""
        request, buffer = self.request, self.buffer
        if not request:
            while buffer.startswith(b"\r\n"):   # RFC 9112, 2.2: ignore empty lines
                del buffer[:2]
            end = buffer.find(b"\r\n\r\n", 0, MAX_REMEMBERED) + 4
            try:
                found = (self.server.heads.read(buffer[:end], self.origin, self.answered == 0)
                         if end > 3 else
                         read_head(bytes(buffer[:MAX_HEAD + 1]), self.origin, self.answered == 0))
            except Refused as refused:
                return Request(fault=refused)
            if not found:
                return None
            request, length = found
            del buffer[:length]
        if not request.length:
            self.request = None
            return request
        if len(buffer) < request.length:
            if request.length > MAX_HEAD and not self.request:
                bodies = self.server.connections.bodies
                if not bodies.make_room(request.network, request.length):
                    return request._replace(fault=BUSY, close_connection=True)
                bodies.add(self, request.network, request.length)
            self.request = request
            if "expect" in request.headers and request.request_version == "HTTP/1.1" \
                    and not self.answers and self.state != "body":
                self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            return None
        if request.length > MAX_HEAD:
            self.server.connections.bodies.remove(self)
        self.request = None
        body = bytes(buffer[:request.length])
        del buffer[:request.length]
        return request._replace(body=body)

    # -- out --------------------------------------------------------------------------------------

    def queue(self, request: Request, answer: Answer) -> None:
        """Put an answer behind the earlier ones. No cache may keep a private server's answers."""
        if self.server.guard and not answer.is_update \
                and "Cache-Control" not in dict(answer.headers):
            answer = answer._replace(headers=(*answer.headers, NO_STORE))
        self.answers.append((request, answer))
        self.answered += 1
        if not answer.is_update and request.path.startswith(tuple(UPDATE_ROOTS)) \
                and request.command != "OPTIONS":
            # ThingSpeak's protocol answers 200 to updates that come too soon.
            result = "limited" if answer.status in {200, 429} else "refused"
            self.server.turn.updates[result] += 1
        if answer.stream and request.command != "HEAD":
            self.stream, self.request = answer.stream, request
            self.server.connections.streams.add(self, request.network)
        self.is_closing = (request.close_connection or self.server.is_stopping or answer.listens
                           or (self.stream is not None and request.request_version != "HTTP/1.1"))

    def refuse(self, refused: Refused) -> None:
        """Answer with a refusal that belongs to no request, and close."""
        self.queue(Request(), render_refusal(Request(), refused, self.server.settings))
        self.flush(int(self.server.clock()))

    def flush(self, second: int, failure: Refused | None = None) -> None:
        """Send the queued answers in one write. A failure replaces the answers of updates."""
        data, left = b"", len(self.answers)
        for request, answer in self.answers:
            left -= 1
            data += render(
                request, render_refusal(request, failure, self.server.settings)
                if failure and answer.is_update else answer, self.is_closing and not left, second)
        self.answers.clear()
        self.transport.write(data)
        if self.transport.get_write_buffer_size():
            self.server.connections.count_unread(len(data))
        if self.task:
            return
        if answer.listens:
            self.enter("listen")
            self.server.connections.listeners.add(self, request.network)
        elif self.stream:
            self.enter("stream")
            self.task = self.server.loop.create_task(self.send(self.stream))
        elif self.buffer or self.is_closing or self.is_at_end:
            self.rest()
        else:
            self.enter("idle")

    def rest(self) -> None:
        """All is answered: close, go on with the buffer, or wait for the next request."""
        if self.is_at_end and (self.is_closing or not self.buffer):
            self.close()
        elif not self.is_closing:
            self.enter("wait" if self.buffer else "idle")
            if self.buffer:
                self.server.loop.call_soon(self.take_requests)
        elif not self.server.connections.may_linger():
            self.close()
        else:
            self.buffer.clear()
            # RFC 9112, 9.6: closing with unread bytes resets the connection, and the client may
            # never see the answer. So only this side is closed, and further bytes are dropped.
            self.enter("close" if self.transport.get_write_buffer_size() else "linger")
            with contextlib.suppress(OSError):  # the client has gone
                self.transport.write_eof()

    def close(self) -> None:
        """Close as soon as all is sent, but not later than the deadline."""
        if self.state != "close":
            self.enter("close")
        self.transport.close()

    def drop(self) -> None:
        """Disconnect at once."""
        self.server.connections.forget(self)
        self.transport.abort()

    def begin(self, request: Request, work: Work) -> None:
        """Start the work on a request that takes several steps."""
        self.enter("queue")
        self.request, self.task = request, self.server.loop.create_task(self.work(request, work))
        self.task.add_done_callback(lambda _: work.close())     # it may not have begun

    async def work(self, request: Request, work: Work) -> None:
        """Do the work when it is its turn, and send the answer."""
        try:
            async with self.server.shares.hold(request.network):
                self.enter("work")
                await self.server.shares.join(request.network)
                answer = pack_json(request, await work)
        except Exception as error:
            answer = explain(error, request, self.server)
        self.request = self.task = None
        self.queue(request, answer)
        if answer.is_update:
            self.enter("wait")
            self.server.turn.add(self)
        else:
            self.flush(int(self.server.clock()))

    async def send(self, stream: AsyncIterator[bytes]) -> None:
        """Send the rest of an answer, as fast as the client takes it."""
        request = cast(Request, self.request)
        is_chunked = request.request_version == "HTTP/1.1"      # RFC 9112, 7.1
        try:
            await self.server.shares.join(request.network)
            async for piece in stream:
                self.enter("stream")
                self.transport.write(b"%x\r\n%b\r\n" % (len(piece), piece) if is_chunked
                                     else piece)
                if self.is_full:
                    self.server.connections.count_unread(len(piece))
                    self.drained = self.server.loop.create_future()
                    await self.drained
                await self.server.shares.next_step(request.network)
        except Exception as error:
            log(f"an export was cut off: {error!r}")
            self.transport.abort()              # the missing end tells the client
            return
        if is_chunked:
            self.transport.write(b"0\r\n\r\n")
        self.stream = self.request = self.task = self.drained = None
        self.server.connections.streams.remove(self)
        self.rest()

    def pause_writing(self) -> None:
        """Stop reading from a client that does not read its answers."""
        self.is_full = True
        self.mind_reading()

    def resume_writing(self) -> None:
        self.is_full = False
        self.mind_reading()
        if self.drained:
            if not self.drained.done():
                self.drained.set_result(None)
        elif self.buffer and self.state in READY:
            self.take_requests()

    # -- time -------------------------------------------------------------------------------------

    def may_close(self, waited: float) -> bool:
        """Whether a server that has been stopping for `waited` seconds may close this now."""
        return self.state == "listen" or (
            self.state == "idle" and self.answered > 0 and waited > IDLE_STOP_SECONDS)

    def expire(self) -> None:
        """End the connection, because its deadline has passed."""
        if self.state == "close" or self.transport.get_write_buffer_size():
            self.drop()
        elif self.state in {"head", "body"}:
            self.refuse(Refused(408, "the request took too long"))
        else:
            self.close()


class Crowd(dict[Connection, tuple[str, int]]):
    """Clients that share something limited, with their networks and what each one uses of it."""

    def __init__(self, room: int):
        self.room, self.used = room, 0
        self.shares = collections.Counter[str]()            # what each network uses
        self.members: dict[str, dict[Connection, None]] = {}    # of each network, the oldest first

    def add(self, client: Connection, network: str, size: int = 1) -> None:
        self[client] = network, size
        self.members.setdefault(network, {})[client] = None
        self.shares[network] += size
        self.used += size

    def remove(self, client: Connection) -> None:
        """Remove a client if it is one of these."""
        if client in self:
            network, size = self.pop(client)
            self.used -= size
            self.shares[network] -= size
            del self.members[network][client]
            if not self.members[network]:
                del self.members[network], self.shares[network]

    def make_room(self, network: str, size: int = 1) -> bool:
        """Disconnect clients of the network that uses most until there is room for a newcomer.
        False if the newcomer's network would then use as much. This prevents both lockout and
        churn. The client whose deadline is next goes first."""
        while self.used + size > self.room:
            greedy = max(self.shares, key=self.shares.__getitem__)      # 0.3 ms if all differ
            if self.shares[greedy] <= self.shares[network] + size:
                return False
            oldest = itertools.islice(self.members[greedy], MAX_COMPARED)
            min(oldest, key=lambda client: client.deadline).drop()
        return True


class Clients(Crowd):
    """All connections, those that share more, and the memory that they use together."""

    def __init__(self) -> None:
        super().__init__(MAX_CONNECTIONS)
        self.bodies = Crowd(MAX_UNFINISHED)         # that send a large body; its bytes
        self.streams = Crowd(MAX_STREAMS)           # that get an export
        self.listeners = Crowd(MAX_LISTENERS)       # that get events
        self.unread = 0                         # bytes of answers not yet taken, at most
        self.unfinished = 0                     # bytes of requests not yet complete, at most

    def let_in(self, client: Connection) -> bool:
        """Add a connection. False if there are too many; it is then added to be refused."""
        has_room = self.make_room(client.network)
        self.add(client, client.network, int(has_room))
        return has_room

    def forget(self, client: Connection) -> None:
        for crowd in (self, self.bodies, self.streams, self.listeners):
            crowd.remove(client)

    def may_linger(self) -> bool:
        """Whether a refused connection may stay to read its answer: a quarter more than room."""
        return len(self) <= self.room + self.room // 4

    def may_stream(self, network: str) -> bool:
        """Whether a network may have one more export."""
        return self.streams.shares[network] < MAX_NETWORK_STREAMS \
            and self.streams.make_room(network)

    def may_listen(self, network: str) -> bool:
        """Whether a network may have one more listener."""
        return self.listeners.shares[network] < MAX_NETWORK_LISTENERS \
            and self.listeners.make_room(network)

    def count_unread(self, size: int) -> None:
        """Note that a client did not take these bytes at once. The exact sum is taken only when
        this estimate is too high, and is then reduced further, so that this is rare."""
        self.unread += size
        if self.unread > MAX_UNREAD:
            self.unread = self.bound(lambda client: client.transport.get_write_buffer_size(),
                                     MAX_UNREAD * 3 // 4)

    def count_unfinished(self, size: int) -> None:
        """Note that these bytes came in for incomplete requests; see count_unread."""
        self.unfinished += size
        if self.unfinished > 2 * MAX_UNFINISHED:
            self.unfinished = self.bound(lambda client: len(client.buffer), MAX_UNFINISHED)

    def bound(self, weigh: Callable[[Connection], int], most: int) -> int:
        """Disconnect the largest until their total is at most `most` bytes; return it."""
        held = sorted(self, key=weigh)
        total = sum(map(weigh, held))
        while total > most:
            total -= weigh(held[-1])
            held.pop().drop()
        return total


# ------------------------------------------------------------------------------------------------
# 16. Server
#    Law: no byte of an update's answer leaves before the commit, and no step is long.
# ------------------------------------------------------------------------------------------------
MAX_TURN = 1024                 # connections whose updates share a commit
CLOCK_STEP = 5                  # seconds; a clock that moves less was corrected, not set
MAX_TOLD = 100                  # readings that listeners are told one by one: 10 KB for each
TURN_SECONDS = 0.01             # a turn waits this long at most for more updates
BACKLOG = 1024                  # connections that the kernel holds while a turn is committed
MAX_ACCEPTS = 16                # connections accepted at once; accepting all takes half a second
LOW_SPACE = 64_000_000          # bytes free beside twice the database; below, no texts or bulks
NO_SPACE = 16_000_000           # bytes free; with less, all readings are refused
MAX_FORECASTS = 16              # rooms; each takes about 0.3 s in a quarter of an hour
CONTROL_LINE = 8 * 1024 * 1024  # bytes of one command on the control socket: a step of an import
ANSWER_SECONDS = 30             # for a server to answer a command, whose steps are short


# -- what takes part in a server -----------------------------------------------------------------

COMMIT_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, math.inf)


class Turn:
    """Group commit: the updates of one turn are one transaction, and are answered after it. A
    commit costs as much as ten updates, so it waits for updates that are already here. With 64
    busy clients one commit of 64 instead of two of 32 gives 1.2 times the rate."""

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
            # It ends after two rounds of the loop, because the first one reads what has come.
            self.server.loop.call_soon(self.server.loop.call_soon, self.end, 1)
        self.connections.append(connection)

    def end(self, seen: int = 0) -> None:
        """Commit this turn's updates, and answer them only after that. If more than the `seen`
        connections have joined, wait one more pass, for TURN_SECONDS at most."""
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
            except Exception:           # no client may be told that its reading was stored
                log(f"a commit failed: {traceback.format_exc()}")
                failure = Refused(500, "not stored: internal error; the log has the details")
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
        if not failure:
            self.server.board.touched |= batch.stations.keys()      # a repeated update counts, too
            self.server.events.is_reset |= bool(batch.parts)
            if any(field == 1 and self.server.writer.stations[station].offset
                   for _, station, field in batch.series):
                self.server.reader.use_offsets()
            if len(batch.readings) > MAX_TOLD:
                self.server.events.is_reset = True
            elif batch.readings and self.server.events.listeners:
                self.server.events.tell("reading", batch.readings)

    @contextlib.contextmanager
    def survive(self, what: str) -> Iterator[None]:
        """Log any failure of the block, and go on."""
        try:
            yield
        except sqlite3.Error as error:
            self.fail(error)
        except Exception:
            log(f"{what} failed: {traceback.format_exc()}")

    def fail(self, error: sqlite3.Error) -> Refused:
        """The refusal for a failed commit. Ends the process if earlier commits may be lost."""
        path = self.server.writer.path
        if is_fatal(error):
            end_at_once(f"{path}: {error}; the server ends, because its last writes may be lost. "
                        "Check the disk, then run --check, or restore a backup")
        name = getattr(error, "sqlite_errorname", str(error))
        is_full = name in {"SQLITE_FULL", "SQLITE_IOERR_WRITE", "database or disk is full"}
        if not self.failure:
            log(f"{path}: {error}; updates are refused until this is over")
        return Refused(507 if is_full else 503,
                       "not stored: " + ("the disk is full" if is_full else str(error)),
                       Retry_After="5" if name.startswith("SQLITE_BUSY") else "60")


class Events:
    """Sends server-sent events (HTML standard) to listeners. No events are kept: a client that
    reconnects is told to load everything again."""

    def __init__(self, writer: Writer, clients: Clients):
        self.writer, self.clients, self.listeners = writer, clients, clients.listeners
        self.is_reset = False                   # a command has changed stations or history

    def tell(self, name: str, items: list[Any]) -> None:
        """Send events to all listeners, in one write to each."""
        self.publish(b"".join(b"event: %b\ndata: %b\n\n" % (
            name.encode(), as_json(self.describe(item) if name == "reading" else item))
            for item in items))

    def describe(self, row: tuple[int, int, int, Any]) -> dict[str, Any]:
        series, ms, entry, value = row
        station, field = self.writer.series_places.get(series, (None, None))  # None: removed
        if field == 1 and station and not isinstance(value, str):
            value = shift(value, self.writer.stations[station].offset)
        return {"station": station, "field": field, "time": ms, "value": value, "entry": entry}

    def greet(self, is_back: bool, now: int, verdicts: list[dict[str, Any]]) -> bytes:
        """The first events of a listener: the server's time and the verdicts. Because of the id, a
        browser that reconnects sends Last-Event-ID."""
        data = b": connected\n\nid: 1\nevent: hello\ndata: %d\n\n" % now
        if verdicts:
            data += b"event: verdict\ndata: %b\n\n" % as_json(verdicts)
        return data + RESET * is_back

    def publish(self, data: bytes) -> None:
        """Send to all listeners, but disconnect one that is far behind."""
        for connection in tuple(self.listeners):
            if (unsent := connection.transport.get_write_buffer_size()) > MAX_UNSENT:
                connection.drop()
                continue
            connection.transport.write(data)
            if unsent:
                self.clients.count_unread(len(data))
            else:
                connection.enter("listen")


RESET = b"event: reset\ndata: {}\n\n"


class Outlook:
    """Computes each room's forecast every quarter of an hour. It reads all readings each time, so
    it includes late, imported and deleted ones, and no failure lasts."""

    def __init__(self, server: "Server"):
        self.server = server
        self.at = 0                             # the quarter of the last forecasts

    async def renew(self) -> None:
        """Compute the forecasts that are due, the most urgent room first, after any command."""
        quarter = self.server.now() // QUARTER * QUARTER
        if quarter == self.at or any(control.is_at_work() for control in self.server.controls):
            return
        self.at = quarter
        for room, _ in rank_rooms(await self.server.board.look())[:MAX_FORECASTS]:
            if room.series is not None and room.outside and room.outside.series is not None:
                with self.server.turn.survive(f"the forecast of {room.name}"):
                    await self.work_out((room.series, room.outside.series), quarter)
                    self.server.board.touched.add(room.id)

    async def work_out(self, pair: tuple[int, int], now: int) -> None:
        """The forecast for a pair of series, and how good it has been at this time of day."""
        forecast = None
        for _, said, _ in foresee(functools.partial(self.server.reader.quarters, pair),
                                  now, now, DAY):
            forecast = said
            await pause()
            if self.at != now:
                return                          # history has changed; renew starts again
        self.server.board.forecasts[pair] = forecast


# -- commands ask it -----------------------------------------------------------------------------

@contextlib.contextmanager
def working_in(folder: Path) -> Iterator[None]:
    """Change the current directory: a socket's path may have 100 bytes, a database's more."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


class Control(asyncio.Protocol):
    """The control socket: a JSON line [method, arguments] is answered by a JSON line. Methods are
    short, so that updates are served in between; long work is many calls."""

    suffix = ".sock"                # of the socket's name, which begins with the database's
    is_for_group = False            # whether other users of the folder's group may connect

    def __init__(self, server: "Server"):
        self.server, self.buffer = server, b""
        self.lines: collections.deque[bytes] = collections.deque()      # to be executed
        self.heard = server.monotonic()         # when the last line came

    def is_at_work(self) -> bool:
        """Whether a command has asked recently. A suspended command may never go on, so nothing
        waits for it longer than COMMAND_SECONDS."""
        return self.server.monotonic() - self.heard < COMMAND_SECONDS

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.server.controls.add(self)

    def connection_lost(self, error: Exception | None) -> None:
        self.server.controls.discard(self)

    def data_received(self, data: bytes) -> None:
        *lines, self.buffer = (self.buffer + data).split(b"\n")
        is_idle = not self.lines
        self.lines.extend(lines)
        if self.lines and is_idle:
            self.server.loop.create_task(self.answer())
        if len(self.buffer) > CONTROL_LINE:
            self.transport.abort()

    async def answer(self) -> None:
        """Execute the lines that have come, one after the other."""
        try:
            await self.server.shares.join(OWN)
            while self.lines:
                self.transport.write(await self.execute(self.lines[0]) + b"\n")
                self.lines.popleft()
        except Exception:
            log(f"a command failed: {traceback.format_exc()}")
            self.transport.abort()

    async def execute(self, line: bytes) -> bytes:
        self.heard = self.server.monotonic()
        method, arguments = json.loads(line)
        if (call := self.find_method(method)) is None:
            return as_json({"error": f"{method}: this server does not know it; is it older?"})
        self.server.turn.end()          # so the method sees all updates in the file
        try:
            result = call(*arguments)
            return as_json({"result": await result if inspect.isawaitable(result) else result})
        except StoreError as error:
            return as_json({"error": str(error)})
        except sqlite3.Error as error:
            return as_json({"error": self.server.turn.fail(error).message})

    def find_method(self, method: str) -> Callable[..., Any] | None:
        """The method of this name; None if a line may not call it."""
        if method == "address":
            return lambda: self.server.settings.link or self.server.where
        if method not in WRITER_METHODS:
            return None
        return cast(Callable[..., Any], getattr(self.server.writer, method))


WRITER_METHODS = frozenset({
    "add_station", "edit_station", "new_key", "set_read_key", "label",
    "remove_step", "prune_step", "prune_notes_step", "delete_step", "shrink_step", "import_rows"})


PROTOCOLS: list[type[Control]] = [Control]      # whose sockets stand beside a database


class Remote:
    """Calls the methods of a running server's Writer through its control socket, or a courier's
    methods through the courier's socket."""

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
            raise StoreError(f"the server on {self.path} does not answer; restart it"
                             ) from None
        except (OSError, ValueError):           # half a line: the server was killed
            answer = {}
        if "error" in answer or not answer:
            raise StoreError(answer.get("error", "the server ended before this was done; run "
                                                 "the command again"))
        return answer["result"]

    def close(self) -> None:
        self.lines.close()
        self.channel.close()


# -- the whole -----------------------------------------------------------------------------------

ON_SERVER: list[Callable[["Server"], None]] = []        # called when it is made
ON_STOP: list[Callable[["Server"], Awaitable[None]]] = []       # awaited as it stops
# Each may return a database that replaces that of --db until the stack is closed.
STAND_INS: list[Callable[[argparse.Namespace, contextlib.ExitStack], Path | None]] = []


Samples = Iterable[tuple[dict[str, str], float]]        # labels, value
Family = tuple[str, str, str, Samples]                  # of /metrics: name, kind, help, samples
FAMILIES: list[Callable[["Server"], Awaitable[list[Family]]]] = []      # added by wings


class Server:
    """What one process serves: the store, who may write to it, and all connections."""

    def __init__(self, settings: argparse.Namespace, writer: Writer, reader: Reader,
                 clock: Callable[[], float] = time.time,
                 monotonic: Callable[[], float] = time.monotonic):
        self.settings, self.writer, self.reader = settings, writer, reader
        self.clock, self.monotonic = clock, monotonic
        self.access = Access(writer, settings.rate_limit, monotonic)
        # Of a private server: admit(request) raises Refused unless the client may read, and
        # page_headers(request) gives the headers by which it is recognized the next time.
        self.guard: Any = None
        self.heads, self.turn = Heads(), Turn(self)
        self.shares = Shares(self.turn.end)
        writer.end_turn, writer.changed = self.turn.end, self.changed
        reader.use_offsets()
        self.connections = Clients()
        self.board = Board(reader, settings, self.now)
        self.events = Events(writer, self.connections)
        self.outlook = Outlook(self)
        self.controls: set[Control] = set()
        self.parts: dict[Any, Any] = {}         # see part_of
        for begin in ON_SERVER:
            begin(self)
        self.where = ""                         # its address, for people
        self.loop: asyncio.AbstractEventLoop    # set as it starts
        self.is_stopping = False
        self.reported = ("", 0.0)               # the loop's last error, and the end of its minute

    def now(self) -> int:
        return int(self.clock() * 1000)

    def changed(self) -> None:
        """Discard what was computed from stations and history, because they have changed."""
        self.reader.use_offsets()
        self.events.is_reset = True
        self.board.expires = self.outlook.at = 0

    def report(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Log an error that asyncio caught, once a minute: out of files it has 1,000 a second."""
        error, now = context.get("exception"), self.monotonic()
        if self.is_stopping and isinstance(error, ValueError):
            return                      # asyncio retries a listener that is closed
        text = f"{context['message']}: {error}"
        if error and not isinstance(error, OSError):
            text = "".join(traceback.format_exception(error))
        if text != self.reported[0] or now > self.reported[1]:
            self.reported = (text, now + 60)
            log(text)


# -- jobs ----------------------------------------------------------------------------------------

def close_expired(server: Server) -> None:
    """Close connections whose deadline has passed."""
    now = server.monotonic()
    for connection in [c for c in server.connections if c.deadline < now]:
        connection.expire()


def watch_space(server: Server) -> None:
    """Refuse readings early enough to leave disk space for the log and a backup."""
    disk, weight = shutil.disk_usage(server.writer.path.parent), sum(server.reader.weights())
    low = min(LOW_SPACE + 2 * weight, disk.total // 8)
    none = min(NO_SPACE, disk.total // 32)
    space = 2 if disk.free > low else 1 if disk.free > none else 0
    if space != server.access.space:
        log(f"{server.writer.path}: {format_bytes(disk.free)} are left on the disk; "
            + ("readings are refused", "texts and bulks are refused", "all is accepted")[space])
    server.access.space = space


async def tell_news(server: Server) -> None:
    """Publish verdicts that a reading, silence or a command has changed."""
    await server.board.look()
    server.turn.end()               # first, because new listeners must get hello before any event
    if server.events.is_reset:
        server.events.is_reset = False
        server.events.publish(RESET)
    if verdicts := server.board.news():
        server.events.tell("verdict", [verdicts])


def watch_file(server: Server) -> None:
    """Save the log and end if the file was removed or replaced: readings would be lost."""
    if not server.writer.is_in_place():
        server.turn.end()
        server.writer.save_log()
        end_at_once(f"{server.writer.path}, its -wal or its -shm was removed or replaced while it "
                    "was open; the server ends. What it acknowledged is in the file that was open")


class ClockWatch:
    """Logs once that the clock was set, because earlier readings keep their times."""

    def __init__(self) -> None:
        self.lead = time.time() - time.monotonic()

    def check(self, server: Server) -> None:
        before, self.lead = self.lead, server.clock() - server.monotonic()
        if abs(self.lead - before) > CLOCK_STEP:
            log(f"this machine's clock was set by {self.lead - before:+.0f} s, or it was "
                "asleep; earlier readings keep their times")
            server.board.expires = 0


def read_number(variable: str) -> int:
    """A number that systemd has put in the environment; 0 if there is none."""
    text = os.environ.get(variable, "")
    return int(text) if re.fullmatch("[0-9]{1,18}", text) else 0


def notify(state: str) -> None:
    """Tell systemd a state, if systemd has started the server. Protocol: sd_notify(3)."""
    if address := os.environ.get("NOTIFY_SOCKET"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel, \
                contextlib.suppress(OSError):   # systemd no longer listens
            channel.connect("\0" + address[1:] if address[0] == "@" else address)
            channel.send(state.encode())


def feed_watchdog(server: Server) -> None:
    """Tell systemd that the thread that stores is alive and can read the file."""
    server.reader.look()
    notify("WATCHDOG=1")


async def keep_courses(server: Server) -> None:
    """Store what the verdicts remember, so that a restart continues from it."""
    await server.board.look()
    if courses := server.board.settle():
        server.writer.keep_courses(courses)


Job = Callable[[Server], Awaitable[None] | None]
JOBS: list[tuple[float, Job]] = [                  # with their periods in seconds
    (60, keep_courses),
    (1, close_expired), (1, tell_news), (1, lambda server: server.outlook.renew()),
    (1, ClockWatch().check), (1, watch_file), (10, watch_space),
    (15, lambda server: server.events.publish(b":\n\n")),      # so that no proxy closes it as idle
    # half the time after which systemd restarts the server; never if it does not watch
    (read_number("WATCHDOG_USEC") / 2e6 or math.inf, feed_watchdog)]


async def run_job(server: Server, period: float, job: Job) -> None:
    """Run a job a second after the start, and then once in each period of seconds."""
    await server.shares.join(OWN)
    for wait in itertools.chain([min(1, period)], itertools.repeat(period)):
        await asyncio.sleep(wait)
        with server.turn.survive(job.__name__):
            if work := job(server):
                await work


# -- serving -------------------------------------------------------------------------------------

def lan_address() -> str:
    """The address under which others reach this computer. Nothing is sent to find it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as channel:
        try:
            channel.connect(("192.0.2.1", 9))   # RFC 5737: an address that nobody has
            return str(channel.getsockname()[0])
        except OSError:
            return "127.0.0.1"


def say_program(db: str | Path) -> str:
    """The command that runs this program on a database. install.sh sets IOTSERVER_PROGRAM to the
    command that it has installed."""
    own, script = os.environ.get("IOTSERVER_PROGRAM"), sys.argv[0]
    usual = parse_database(os.environ.get("IOTSERVER_DB", "")) if own else "iot.db"
    python = f"python3 {shlex.quote(script)}" if script.endswith(".py") else Path(script).name
    is_usual = Path(db).absolute() == Path(usual).absolute()
    return (own or python) + ("" if is_usual else f" --db {shlex.quote(str(db))}")


async def listen(server: Server) -> tuple[list[asyncio.Server], str]:
    """Open the listening sockets, or take those of systemd (sd_listen_fds(3)). Returns them and
    their address for people. Raises StoreError."""
    create = functools.partial(server.loop.create_server, lambda: Connection(server),
                               backlog=MAX_ACCEPTS)
    host, port = server.settings.host, server.settings.port
    is_given = os.environ.get("LISTEN_PID") == str(os.getpid())
    if count := read_number("LISTEN_FDS") if is_given else 0:
        listeners = [await create(sock=socket.socket(fileno=3 + i)) for i in range(count)]
        where = "the sockets inherited"
    else:
        try:
            listeners = [await create(host, port)]
        except OSError as error:
            other = {errno.EADDRINUSE: f"--port {port + 1}", errno.EACCES: "--port 8000",
                     errno.EADDRNOTAVAIL: "--host 0.0.0.0"}.get(error.errno or 0)
            hint = f"; try {other}" if other else ""
            reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error
            raise StoreError(f"cannot listen on {host} port {port}: {reason}{hint}") from None
        port = listeners[0].sockets[0].getsockname()[1]
        host = lan_address() if host in {"0.0.0.0", "::"} else f"[{host}]" if ":" in host else host
        where = f"http://{host}:{port}/"
    for channel in (channel for listener in listeners for channel in listener.sockets):
        with channel.dup() as real:     # asyncio would set its own, smaller backlog for both
            real.listen(BACKLOG)
    return listeners, where


async def listen_control(server: Server, protocol: type[Control]) -> asyncio.Server:
    """A socket beside the database, for commands or for the courier."""
    path = server.writer.path
    is_shared = path.parent.stat().st_mode & 0o011 == 0o010     # only with a group
    with working_in(path.parent):
        name = Path(path.name + protocol.suffix)
        name.unlink(missing_ok=True)            # its owner has died, as this process has the lock
        channel = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        channel.bind(str(name))
        name.chmod(0o660 if is_shared and protocol.is_for_group else 0o600)
    return await server.loop.create_unix_server(lambda: protocol(server), sock=channel)


def raise_file_limit() -> int:
    """Raise the limit of open files to two for each connection, if allowed; return the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * MAX_CONNECTIONS
    soft = max(soft, wanted if hard == resource.RLIM_INFINITY else min(wanted, hard))
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return soft


def announce(server: Server) -> None:
    """Print the server's address. The server also runs when nothing can be printed."""
    stations = len(server.writer.stations)
    with contextlib.suppress(OSError):
        print(f"iotserver {__version__} serves {server.where} from {server.writer.path}, "
              f"{stations} station{'s' * (stations != 1)}")
        if not stations:
            print(f"no station yet; to register one: {say_program(server.writer.path)} "
                  "--add-station inside --role inside --mac inside")
        finish_output()


async def serve(server: Server) -> None:
    """Serve until a signal comes and the last answer is sent."""
    server.loop = asyncio.get_running_loop()
    server.loop.set_exception_handler(server.report)
    # Half of the files remain for refused connections, the database and other sockets.
    server.connections.room = min(MAX_CONNECTIONS, raise_file_limit() // 2)
    listeners, server.where = await listen(server)
    controls = [(protocol, await listen_control(server, protocol)) for protocol in PROTOCOLS]
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        server.loop.add_signal_handler(number, stopped.set)
    announce(server)
    notify("READY=1")
    works = [asyncio.create_task(run_job(server, *job)) for job in JOBS]
    stop = asyncio.create_task(stopped.wait())
    await asyncio.wait((*works, stop), return_when=asyncio.FIRST_COMPLETED)
    notify("STOPPING=1")
    hang_up(server, *controls[0])
    await asyncio.gather(wind_down(server, listeners), *(end(server) for end in ON_STOP))
    for control in controls[1:]:
        hang_up(server, *control)
    for work in works:
        work.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await work


def hang_up(server: Server, protocol: type[Control], listener: asyncio.Server) -> None:
    listener.close()
    for control in [c for c in server.controls if type(c) is protocol]:
        control.transport.close()


async def wind_down(server: Server, listeners: list[asyncio.Server]) -> None:
    """Accept no more, finish answers, close idle connections; within STOP_SECONDS."""
    server.is_stopping = True
    for listener in listeners:
        accepted: list[socket.socket] = []      # by the kernel; closing resets them
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
                connection.close()
        await asyncio.sleep(0.02)
    for connection in tuple(server.connections):
        connection.transport.abort()
    server.turn.end()


def open_writer(path: Path, may_create: bool = False) -> "Writer | Remote":
    """A Writer of the file, or, while a server has the lock, a Remote. Raises StoreError."""
    if not may_create:
        require_database(path)
    deadline = time.monotonic() + LOCK_SECONDS
    while time.monotonic() < deadline:
        try:
            return Writer(path)
        except BlockingIOError:             # a server or another command has the lock
            with contextlib.suppress(OSError):
                return Remote(path)
        time.sleep(0.1)
    raise StoreError(f"{path} is in use by a command, or by a server that does not answer; "
                     "try again, or stop that server")


def run_server(args: argparse.Namespace, path: Path) -> None:
    with contextlib.ExitStack() as stack:
        for stand_in in STAND_INS:
            path = stand_in(args, stack) or path
        writer = stack.enter_context(contextlib.closing(open_writer(path, may_create=True)))
        if isinstance(writer, Remote):
            raise StoreError(f"{path} is in use by another iotserver; stop that one first, or "
                             "name another --db")
        reader = stack.enter_context(contextlib.closing(Reader(path)))
        server = Server(args, writer, reader)
        asyncio.run(serve(server))
        for suffix in SOCKETS:
            beside(path, suffix).unlink(missing_ok=True)


# ------------------------------------------------------------------------------------------------
# 17. Routes
#    Law: one small function for each; none writes to a socket, and only updates change the
#    store.
# ------------------------------------------------------------------------------------------------
DEFAULT_POINTS = 1000           # more than a screen has columns


def get_page(request: Request, server: Server) -> Answer | Work:
    """The page, from memory while nothing has changed; 304 if the client has it."""
    names = urllib.parse.parse_qs(request.query, keep_blank_values=True) if request.query else {}
    span, *more = names.get("range", ["24h"])   # other names in the query are ignored
    if more or span not in RANGES:
        raise Refused(400, f"range: one of {', '.join(RANGES)}")
    view = View(choose_locale(request, server.settings), span,
                accepts_gzip(request.headers.get("accept-encoding", "")[:MAX_ENCODING]))
    page = server.board.find_page(view)
    return answer_page(request, server, page) if page else make_page(request, server, view)


async def make_page(request: Request, server: Server, view: View) -> Answer:
    return answer_page(request, server, await server.board.make_page(view))


def answer_page(request: Request, server: Server, page: Answer) -> Answer:
    if server.guard:
        page = page._replace(headers=page.headers + server.guard.page_headers(request))
    has_it = dict(page.headers)["ETag"] in request.headers.get("if-none-match", "")
    return page._replace(body=b"", status=304) if has_it else page


def always(answer: Answer) -> Callable[[Request, Server], Answer]:
    """A route whose answer is always the same."""
    return lambda request, server: answer


def get_update(request: Request, server: Server) -> Answer:
    """Store the reading in the path; the answer is its entry number."""
    mac, key, reading = request.update or parse_update(
        split_update_path(request.path), request.headers.get("x-api-key"))
    station = server.access.admit(mac, key, request.address)
    entry = server.writer.add(station, reading, server.now())
    if "text/html" in request.headers.get("accept", ""):
        return render_message(choose_locale(request, server.settings), "stored",
                              entry=entry)._replace(is_update=True)
    return Answer(b"%d" % entry, TEXT, 200, (), True)       # keyword arguments take 0.1 us more


def store_bulk(request: Request, server: Server, document: Any) -> Answer:
    """Store all readings of a JSON document, or none of them."""
    mac, key, items = parse_update_json(document, request.headers.get("x-api-key"))
    station = server.access.admit(mac, key, request.address)
    readings = [parse_json_reading(f"readings[{i}]", item) for i, item in enumerate(items)]
    server.access.charge(key, readings)
    now, before = server.now(), station.last_entry
    entries = server.writer.add_all(station, readings, now)
    return Answer(as_json({"stored": station.last_entry - before, "entries": entries}), JSON,
                  is_update=True)


def post_readings(request: Request, server: Server) -> Answer:
    """Answer POST /update with store_bulk."""
    refuse_stranger(request, server)
    return store_bulk(request, server, load_json(request.body))


def get_events(request: Request, server: Server) -> Answer:
    """Readings and verdicts as they come."""
    answer = Answer(b"", EVENTS, headers=(NO_STORE, ("X-Accel-Buffering", "no")))
    if request.command == "HEAD":
        return answer
    if not server.connections.may_listen(request.network):
        raise Refused(503, "too many listeners; try again", Retry_After="5")
    return answer._replace(listens=True, body=server.events.greet(
        "last-event-id" in request.headers, server.now(), server.board.verdicts()))


async def in_steps(items: Iterable[T]) -> AsyncIterator[list[T]]:
    """Many items, STEP_ENTRIES of them in each step."""
    rest = iter(items)
    while chunk := list(itertools.islice(rest, STEP_ENTRIES)):
        yield chunk
        await pause()


async def render_array(items: Iterable[Any]) -> bytes:
    """A JSON array of many items."""
    return b"[%b]" % b",".join([as_json(chunk)[1:-1] async for chunk in in_steps(items)])


async def get_stations(request: Request, server: Server) -> Answer:
    pieces, last = [], 0
    while stations := server.reader.stations("WHERE id > ? ORDER BY id LIMIT ?", last,
                                             STEP_STATIONS):
        now, latest = server.now(), collections.defaultdict(list)
        for series in server.reader.latest([s.id for s in stations], now):
            latest[series.station].append(series)
        pieces.append(as_json([
            {"id": station.id, "name": station.name, "role": station.role,
             "heard": last_sign(server.reader, station, latest[station.id], now) or None,
             "fields": [{"field": series.field, "label": series.label, "value": series.value,
                         "time": series.time} for series in latest[station.id]]}
            for station in stations])[1:-1])
        last = stations[-1].id
        await pause()
    return Answer(b"[%b]" % b",".join(pieces), JSON, headers=ANY_ORIGIN)


async def get_verdict(request: Request, server: Server) -> Answer:
    """The verdicts for widgets and scripts, as JSON, or as text with a line for each room. On a
    private server a station's key suffices, because a widget cannot log in."""
    query = parse_query(request, "key", "language")
    key = request.headers.get("x-api-key", query.get("key", ""))
    stations = server.writer.stations.values()
    if server.guard and not server.access.admit_key(stations, key, request.address):
        await pass_check(server.guard.admit(request))
    if (language := query.get("language", "en")) not in LANGUAGES:
        raise Refused(400, f"language: one of {', '.join(LANGUAGES)}")
    places, now = await server.board.look(), server.now()
    if request.path.startswith("/api/"):
        verdicts = await render_array(describe_rooms(places, now, Locale(language)))
        return Answer(b'{"verdicts":%b}' % verdicts, JSON, headers=ANY_ORIGIN)
    locale = choose_locale(request, server.settings)._replace(language=language)
    locale = locale._replace(clock="%H:%M")
    lines = say_rooms(places, now, locale)
    text = "".join([line async for chunk in in_steps(lines) for line in chunk])
    text = text or say_answer(None, now, locale) + "\n"
    return Answer(text.encode(), TEXT, headers=ANY_ORIGIN)


def parse_station(server: Server, name: str) -> Station:
    """A station by id or name. Raises Refused 404."""
    try:
        return find_station(server.reader.stations("WHERE ?1 IN (CAST(id AS TEXT), name)", name),
                            name)
    except StoreError:
        raise Refused(404, "station: there is none with this id or name") from None


async def get_readings(request: Request, server: Server) -> Answer:
    query = parse_query(request, "station", "field", "start", "end", "points")
    if "station" not in query:
        raise Refused(400, "station: missing; give an id or a name")
    field, limit = query.get("field", 1), query.get("points", str(DEFAULT_POINTS))
    if not (re.fullmatch("[0-9]{1,9}", limit) and 1 <= int(limit) <= MAX_POINTS):
        raise Refused(400, f"points: a number from 1 to {MAX_POINTS}")
    station = parse_station(server, query["station"])
    series = server.reader.series(station.id).get(field)
    end = min(query.get("end", LATEST_TIME), server.now() + 1)
    points = [] if series is None else await server.reader.points(
        series, query.get("start"), end, int(limit), as_sent=True)
    found = await render_array(
        [p.time, *(float(f"{value:.12g}") for value in p[1:4])] if p.width else p[:2]
        for p in points)
    return Answer(b'{"station":%d,"field":%d,"points":%b}' % (station.id, field, found), JSON,
                  headers=ANY_ORIGIN)


def get_export(request: Request, server: Server) -> Answer:
    query = parse_query(request, "station", "field", "start", "end")
    stations = ([parse_station(server, query["station"])] if "station" in query
                else server.reader.stations())
    fields = {query["field"]} if "field" in query else range(1, 10)
    if not server.connections.may_stream(request.network):
        raise Refused(503, "too many exports at once; try again", Retry_After="5")
    rows = (server.reader.rows(station, fields, query.get("start", 0),
                               query.get("end", LATEST_TIME)) for station in stations)
    return Answer(b"", CSV, stream=csv_chunks(rows), headers=(
        ("Content-Disposition", 'attachment; filename="readings.csv"'),))


async def csv_chunks(stations: Iterable[Iterator[Row]]) -> AsyncIterator[bytes]:
    """CSV of each station's rows without the MACs, at most PAGE_ROWS at a time."""
    yield b"time,station,field,value,entry\n"
    for rows in stations:
        await pause()
        while chunk := list(itertools.islice(rows, PAGE_ROWS)):
            yield as_csv((format_time(r.time), r.station, r.field, r.value, r.entry)
                         for r in chunk)


KEPT_A_DAY: Headers = (("Cache-Control", "max-age=86400"),)
ICON_SIZES = {"/apple-touch-icon.png": 180, "/icon-192.png": 192, "/icon-512.png": 512,
              "/favicon.ico": 32}
drawn_icons: dict[int, bytes] = {}              # by size, drawn at the first request


async def get_icon(size: int, request: Request, server: Server) -> Answer:
    """The icon as PNG. favicon.ico is a PNG inside the older ICO format."""
    if size not in drawn_icons:
        drawn_icons[size] = await draw_icon(size)
    image, kind = drawn_icons[size], "image/png"
    if request.path.endswith(".ico"):
        kind = "image/x-icon"
        frame = struct.pack("<HHHBBBBHHII", 0, 1, 1, size, size, 0, 0, 1, 8, len(image), 22)
        image = frame + image
    return Answer(image, kind, headers=KEPT_A_DAY)


def get_healthz(request: Request, server: Server) -> Answer:
    try:
        server.reader.look()
    except (sqlite3.Error, StoreError) as error:
        log(f"the database cannot be read: {error}")        # it may name a path
        raise Refused(503, "the database cannot be read", Retry_After="10") from None
    if server.turn.failure:
        raise Refused(503, server.turn.failure.message, Retry_After="10")
    return Answer(b"ok")


enter(
    Route("GET", "/", get_page),
    Route("GET", "/events", get_events),
    Route("GET", "/api/stations", get_stations),
    Route("GET", "/api/readings", get_readings),
    Route("GET", "/api/verdict", get_verdict, is_open=True),
    Route("GET", "/verdict.txt", get_verdict, is_open=True),
    Route("GET", "/export.csv", get_export),
    *(Route("GET", path, always(Answer(asset.encode(), kind, headers=KEPT_A_DAY)), is_open=True)
      for path, asset, kind in (
          ("/worker.js", WORKER, "text/javascript"), ("/icon.svg", ICON, "image/svg+xml"),
          ("/manifest.webmanifest", MANIFEST, "application/manifest+json"))),
    *(Route("GET", path, functools.partial(get_icon, size), is_open=True)
      for path, size in ICON_SIZES.items()),
    Route("GET", "/healthz", get_healthz, is_open=True),
    Route("GET", "/update/", get_update, is_open=True, is_safe=False),
    Route("POST", "/update", post_readings, is_open=True))


# ------------------------------------------------------------------------------------------------
# 18. Courier
#    Law: the courier is a process of its own; it may block, and never opens the database.
# ------------------------------------------------------------------------------------------------
COURIER_SECONDS = 3             # from SIGTERM to exit; the courier ends before the server does
RESTART_SECONDS = 10            # between two starts of a courier that has ended by itself
TRY_SECONDS = 10                # for one try, from connecting to the end of the answer
PAUSES = (10, 300)              # seconds after a failed try: at first, then doubled up to the last
MAX_PAUSE = 3600                # seconds of Retry-After that we honor; a message lives no longer
MAX_WORDS = 300                 # characters of a destination's answer that are shown
MAX_ANSWER = 4096               # bytes of a destination's answer that are read
FOR_GOOD = {400, 413, 422}      # statuses that refuse what was sent, and would refuse it again


class Destination(NamedTuple):
    """Where messages go. The URL holds secrets: people see the name, and the file has the id."""
    url: urllib.parse.SplitResult
    kind: str
    is_secure: bool
    host: str                   # with the port, if there is one
    name: str
    id: str
    login: tuple[str, str]      # user and password
    options: dict[str, str]


MAX_ALIVE = 3 * DAY             # ntfy's limit for messages that it sends later
REST = {                        # what may follow the host, in words and as a pattern
    "ntfy": ("/TOPIC or /TOPIC?alive=45m, at most 72h",
             r"/[-\w]{1,64}/?(\?alive=[1-9]\d{0,2}[mh])?"),
    "json": ("a path", r"([/?].*)?"),
    "mailto": ("/?from=A&to=B", r"/?\?(from|to)=[^&@]+(@|%40)[^&]+&(?!\1)(from|to)=[^&]+")}


def say_meant(text: str) -> str:
    """Advice on a URL that --notify does not know. It repeats no secret of the URL."""
    if topic := re.fullmatch(r"http(s?://[^/@\s]+/[-\w]{1,64})/?", text):
        return f"for a topic of ntfy write ntfy{topic[1]}"
    if text.startswith(("http://", "https://")):
        return "to post JSON write json:// in place of http://, jsons:// in place of https://"
    return ("each URL begins with ntfy, ntfys, json, jsons, mailto or mailtos and ://HOST; in "
            "names and passwords write %XX for : / ? # @ and blanks")


def parse_destination(text: str, kinds: Mapping[str, tuple[str, str]] = REST) -> Destination:
    """A URL of --notify. Raises Usage, whose text does not repeat the URL."""
    try:
        url = urllib.parse.urlsplit(text)
        kind = url.scheme.removesuffix("s")
        rest, pattern = kinds[kind]
        require(url.hostname and url.port != 0 and text.isascii(), f"{kind}: the host is missing")
    except (ValueError, KeyError):
        raise Usage(say_meant(text)) from None
    name, host = f"{url.scheme}://{url.hostname}", url.netloc.rpartition("@")[2]
    behind = url._replace(scheme="", netloc="").geturl()
    options = dict(urllib.parse.parse_qsl(url.query.replace("+", "%2B")))   # a plus is no blank
    is_right = re.fullmatch(pattern, behind, re.ASCII) and (
        kind != "ntfy" or parse_duration(options.get("alive", "0s")) <= MAX_ALIVE)
    require(is_right, f"{name}: write {rest} after the host")
    user, password = (urllib.parse.unquote(part or "") for part in (url.username, url.password))
    who = f" {user}" * (user != "" and not user.startswith("tk_"))     # a token may be renewed
    id = hashlib.blake2b(f"{url.scheme} {host} {behind}{who}".encode(), digest_size=8).hexdigest()
    return Destination(url, kind, url.scheme != kind, host, name, id, (user, password), options)


PARENT = "IOTSERVER_PARENT"     # the process id of the server whose child a courier is


class CourierSocket(Control):
    """The server's socket for couriers: the control protocol, with COURIER_METHODS alone."""
    suffix = ".courier"
    is_for_group = True

    def is_at_work(self) -> bool:
        """Never, because a courier stays connected and changes nothing."""
        return False

    def find_method(self, method: str) -> Callable[..., Any] | None:
        known = COURIER_METHODS.get(method)
        return known and functools.partial(known, self.server)


# Each errand of a courier runs in a thread with a connection to the server of its own, so one that
# blocks delays no other. Its step(server) calls methods in COURIER_METHODS and returns the seconds
# until the next step.
ERRANDS: dict[str, Callable[[argparse.Namespace], Sequence[Any]]] = {}      # made by setting
COURIER_METHODS: dict[str, Callable[..., Any]] = {}     # each is called with the server first


def keep_courier(server: Server) -> None:
    """Start the courier if an errand is set, and start it again when it has ended. Its settings go
    into its environment, because every user of the machine can read command lines."""
    settings, child = server.settings, server.parts.get("courier")
    is_wanted = any(getattr(settings, setting) for setting in ERRANDS)
    if not is_wanted or server.is_stopping or (child and child.poll() is None):
        return
    if child:
        log(f"the courier ended with status {child.returncode}; restarting it")
    told = {s.variable: getattr(settings, s.name.replace("-", "_")) for s in SETTINGS
            if s.is_carried}
    server.parts["courier"] = subprocess.Popen(
        [sys.executable, *("-I",) * sys.flags.isolated, __file__, "--courier",
         "--db", str(server.writer.path)],
        env={**os.environ, **told, PARENT: str(os.getpid())},
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


JOBS.append((RESTART_SECONDS, keep_courier))
PROTOCOLS.append(CourierSocket)


async def end_courier(server: Server) -> None:
    """Give the courier time to report what it has sent, then end it."""
    if child := server.parts.get("courier"):
        child.terminate()
        deadline = server.monotonic() + STOP_SECONDS
        while child.poll() is None and server.monotonic() < deadline:
            await asyncio.sleep(0.02)
        child.kill()
        child.wait()


ON_STOP.append(end_courier)


TOO_LATE = f"no complete answer within {TRY_SECONDS} s"


class Undelivered(Exception):
    """Why a destination did not take what was sent, its own words without our secrets, the pause
    in seconds that it asks for, and whether it refuses what was sent for good."""

    def __init__(self, reason: str, words: str = "", pause: float = 0, is_final: bool = False):
        super().__init__(reason)
        self.words, self.pause, self.is_final = words, pause, is_final

    @classmethod
    def by(cls, to: Destination, status: int, words: str, pause: float) -> "Undelivered":
        """What an answer means that is not a yes."""
        return cls(f"it answers {status}", hide(to, words), pause, status in FOR_GOOD)


@functools.cache
def tls() -> ssl.SSLContext:
    """The one TLS context. It holds all root certificates: a megabyte, and 20 ms to read."""
    return ssl.create_default_context()


@contextlib.contextmanager
def in_time(line: http.client.HTTPConnection | smtplib.SMTP) -> Iterator[None]:
    """Cut a connection after TRY_SECONDS. Its own timeout limits each read alone, so a server that
    sends a byte now and then would hold it for ever."""
    over = threading.Event()

    def cut() -> None:
        pause = float(TRY_SECONDS)
        while not over.wait(pause):
            with contextlib.suppress(OSError, TypeError):   # no socket yet, or no longer
                socket.socket.shutdown(cast(socket.socket, line.sock), socket.SHUT_RDWR)
            pause = 1                           # the next address of its name may still answer

    threading.Thread(target=cut, daemon=True).start()
    try:
        yield
    finally:
        over.set()


def authorize(to: Destination) -> str:
    """The Authorization header. tk_... is ntfy's token, a user without password an engine's."""
    user, password = to.login
    if to.kind == "ntfy" and user.startswith("tk_"):
        return f"Bearer {user}"
    if to.kind == "http" and user and not password:
        return f"Token {user}"
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def make_request(to: Destination, path: str, body: bytes | None, headers: Headers
                 ) -> urllib.request.Request:
    request = urllib.request.Request(
        f"http{'s' * to.is_secure}://{to.host}{path}", body,
        {"User-Agent": f"iotserver/{__version__}", **dict(headers)})
    if any(to.login):
        request.add_header("Authorization", authorize(to))
    if choose_proxy := getattr(urllib.request.ProxyHandler(), f"{request.type}_open", None):
        choose_proxy(request)                   # this changes the request's host
    return request


class Channel:
    """A kept HTTP connection, through the environment's proxy. No redirect is followed, so only
    the configured host gets what is sent."""

    def __init__(self, to: Destination):
        self.to = to
        self.line: http.client.HTTPConnection | None = None

    def open(self, request: urllib.request.Request) -> http.client.HTTPConnection:
        host, proof = request.host, request.headers.get("Proxy-authorization", "")
        if not self.to.is_secure:
            return http.client.HTTPConnection(host, timeout=TRY_SECONDS)
        line = http.client.HTTPSConnection(host, timeout=TRY_SECONDS, context=tls())
        if host != self.to.host:
            line.set_tunnel(self.to.host, headers={"Proxy-Authorization": proof} if proof else {})
        return line

    def close(self) -> None:
        if self.line:
            self.line.close()
        self.line = None

    def __del__(self) -> None:
        self.close()                            # with its errand, when the courier ends

    def is_cut(self) -> bool:
        """Whether the other end has closed the connection since the last answer."""
        sock = self.line.sock if self.line else None
        if sock is None:
            return False                        # we closed it, or it was never open
        try:
            sock.settimeout(0)
            sock.recv(1)                        # the end, or TLS's notice of it
        except (BlockingIOError, ssl.SSLWantReadError):
            sock.settimeout(TRY_SECONDS)
            return False
        except OSError:
            pass
        return True

    def ask(self, path: str, body: bytes | None = None, headers: Headers = (),
            limit: int = CONTROL_LINE) -> tuple[int, str, float]:
        """Status and text of the answer, and the pause in seconds that it asks for. A text that
        stalls or is cut off changes nothing. Raises Undelivered if there is no status."""
        began, words = time.monotonic(), b""
        try:
            request = make_request(self.to, path, body, headers)
            self.line = self.line or self.open(request)
            if self.to.is_secure:
                request.headers.pop("Proxy-authorization", None)    # only the proxy gets it
            with in_time(self.line):
                self.line.request(request.get_method(), request.selector, body, request.headers)
                answer = self.line.getresponse()
                with contextlib.suppress(Exception):
                    words = answer.read(limit)
        except Exception as error:              # any failure is tried again
            reason = str(error) or type(error).__name__
        else:
            if not answer.isclosed():           # what is unread would begin the next answer
                self.close()
            return (answer.status, words.decode(errors="replace").strip(),
                    parse_pause(answer.headers.get("Retry-After", "")))
        self.close()        # outside of `except`, whose error would keep the connection in memory
        is_late = time.monotonic() >= began + TRY_SECONDS
        raise Undelivered(TOO_LATE if is_late else hide(self.to, f"no answer: {reason}"))


def hide(to: Destination, text: str) -> str:
    """A destination's text without our secrets, since errors may repeat all or the beginning of
    what was sent. The path of a webhook is secret, that of an engine and its databases are not."""
    given = [part.partition("=") for part in to.url.query.split("&")]
    known = {"db", "bucket"} if to.kind == "http" else set()
    values = [value for name, _, value in given if name not in known]
    plain = {*map(urllib.parse.unquote, values), *map(urllib.parse.unquote_plus, values)}
    behind = [*values, *plain, *map(urllib.parse.quote_plus, plain)]
    if to.kind != "http":
        behind += (to.url.path.strip("/"), to.url.query,
                   *(part for part in to.url.path.split("/") if len(part) > 8))
    text = " ".join(text.split())
    for part in (authorize(to).split()[1], *to.url.netloc.rpartition("@")[0].split(":"),
                 *to.login, *behind):
        for length in range(len(part), 3, -1):
            if length >= min(8, len(part)):
                text = text.replace(part[:length], "***")
            elif text.endswith(part[:length]):
                text = text[:-length] + "***"
    return text[:MAX_WORDS]


def parse_pause(text: str) -> float:
    """The seconds of Retry-After (RFC 9110, 10.2.3), a number or a date; 0 for any other text."""
    seconds = 0.0
    if re.fullmatch("[0-9]{1,9}", text):
        seconds = int(text)
    else:
        with contextlib.suppress(TypeError, ValueError, OverflowError):
            seconds = email.utils.parsedate_to_datetime(text).timestamp() - time.time()
    return min(max(seconds, 0), MAX_PAUSE)


def run_errand(errand: Any, path: Path, stopped: threading.Event, is_first: bool) -> None:
    """Do the steps of an errand until the courier is stopped. While the server is away, wait; the
    first errand says so for all."""
    failures = 0
    while not stopped.wait(min(failures, 1)):
        try:
            with contextlib.closing(Remote(path, ".courier")) as server:
                pause = 0.0
                while not stopped.wait(pause):
                    pause, failures = errand.step(server), 0
        except (OSError, StoreError) as error:
            failures += 1
            if failures == 3 and is_first:      # fewer may be a restart or our parent's end
                log(f"courier: {path}: {error}; waiting for the server")


def run_courier(args: argparse.Namespace, path: Path) -> None:
    """Run all errands until SIGTERM. A server's child also ends when its server has ended."""
    errands = [errand for setting, make in ERRANDS.items() if getattr(args, setting)
               for errand in make(args)]
    require(errands, "--courier needs --notify URLS or --forward URL")
    stopped, parent = threading.Event(), int(os.environ.get(PARENT, "0"))
    if parent:          # a server's work comes first; in a unit, systemd sets this and forbids it
        os.nice(10)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    with working_in(path.parent):           # all threads share the working directory
        threads = [threading.Thread(
            target=run_errand, args=(errand, path, stopped, not number), daemon=True)
            for number, errand in enumerate(errands)]
        for thread in threads:
            thread.start()
        while (parent in {0, os.getppid()} and all(thread.is_alive() for thread in threads)
               and not stopped.wait(1)):
            pass
        stopped.set()
        deadline = time.monotonic() + COURIER_SECONDS
        for thread in threads:
            thread.join(max(0, deadline - time.monotonic()))


COMMANDS.append(Command(
    "courier", (), run_courier, "run only the courier, which sends messages and readings"))


# ------------------------------------------------------------------------------------------------
# 19. ThingSpeak
#    Law: these paths, and no others, answer its clients as ThingSpeak.com does, mistakes
#    included.
# ------------------------------------------------------------------------------------------------
#
# "There" means ThingSpeak.com. The sources are recordings of the service (2019), the tests of its
# maker's Arduino library (2.1.1), its open-source server (2015) and the code of its clients. A
# comment says so where none of them settles the behavior.

THINGSPEAK_FIELDS = range(1, 9)
MAX_TEXT = 255                  # bytes of one value or status, the limit there
MAX_RESULTS = 8000              # entries in one answer, the limit there; larger requests get this
MAX_CHANNELS = 100              # channels on one page of the list, the page size there
DEFAULT_RESULTS = 100           # entries in an answer to a request without a time, as there
EARLIEST_CREATED = 946_684_800_000  # ms, 2000-01-01: a board without a set clock reports less
MIN_CHART_UPDATE = 15           # seconds between two reloads of an embedded chart, as there
MAX_BULK_LINE = 128             # bytes of an average line of bulk_update.csv; 13 numbers take 100
SCALES = {"daily": DAY} | {str(n): n * MINUTE for n in (10, 15, 20, 30, 60, 240, 720, 1440)}
CORS = (
    ("Access-Control-Allow-Origin", "*"),
    ("Access-Control-Allow-Methods", "GET, POST, PUT, OPTIONS, DELETE, PATCH"),
    ("Access-Control-Allow-Headers", "origin, content-type, X-Requested-With"),
    ("Access-Control-Max-Age", "1800"))
NOTES = {"location": ["latitude", "longitude", "elevation"], "status": ["status"]}
OTHER_NAMES += ["api.thingspeak.com", "thingspeak.com"]     # its library always sends this Host
FIELD_NAMES = {f"field{n}": n for n in THINGSPEAK_FIELDS}
SHORT_NAMES = {"lat": "latitude", "long": "longitude"} | {
    str(n): name for name, n in FIELD_NAMES.items()}
NOTE_NAMES = frozenset(itertools.chain(*NOTES.values()))
KEY_NAMES = ("key", "api_key", "apikey", "write_api_key")
KNOWN_NAMES = {                 # without apikey: parse_form takes unreadable texts for one
    "key", "api_key", "write_api_key", "created_at", "updates", *NOTE_NAMES, *FIELD_NAMES,
    *SHORT_NAMES}
NO_NOTE = Note()
UPDATE_PATHS = ("/update", *(f"/update.{suffix}" for suffix in ("json", "xml", "txt", "text")))
KINDS = dict.fromkeys(("", "json"), "application/json; charset=utf-8") | {
    "xml": "application/xml; charset=utf-8", "csv": CSV}        # by the suffix of a read
ERRORS = {400: ("error_bad_request", "Bad Request"),
          401: ("error_auth_required", "Authorization Required"),
          404: ("error_resource_not_found", "Not Found"),
          405: ("error_method_invalid", "Method Not Allowed"),
          413: ("error_request_too_large", "Request Too Large"),
          429: ("error_too_many_requests", "Too Many Requests")}


def parse_params(request: Request, document: Any = None) -> dict[str, Any]:
    """The query and the body, or its document, as one dict; the body wins. Raises Refused, also
    for a POST without a known name: it could not be read, and its reading would be lost."""
    query, body = split_query(request), parse_body(request) if document is None else document
    if request.command == "POST" and KNOWN_NAMES.isdisjoint(
            body.keys() if request.body else query.keys() - KEY_NAMES):
        raise Refused(400, "body: none of its names is known; they are like field1")
    return {**query} | {name: value for name, value in body.items() if value is not None}


def find_key(request: Request, params: Mapping[str, Any]) -> str:
    """The key, from a header whose name contains THINGSPEAKAPIKEY, else from a parameter."""
    for name, value in request.headers.items():
        if value and ("thingspeakapikey" in name or name == "x-api-key"):
            return value
    return str(next(filter(None, map(params.get, KEY_NAMES)), "")).strip()


def find_param(params: Mapping[str, Any], name: str, default: Any,
               parse: Callable[[str], Any] = parse_number) -> Any:
    """A parsed parameter. An unreadable one counts as missing, as there."""
    if name not in params:
        return default
    try:
        return parse(str(params[name]).strip())
    except (ValueError, OverflowError):
        return default


def parse_zone(params: Mapping[str, Any]) -> tzinfo:
    """The zone of timezone= (an IANA name), else of offset= (whole hours), else UTC."""
    if "timezone" in params:
        return find_zone(str(params["timezone"]))
    hours = find_param(params, "offset", 0)
    return timezone(timedelta(hours=int(hours))) if abs(hours) < 24 else UTC


def find_text(params: Mapping[str, Any], name: str) -> str | None:
    """A parameter as text; None if it is missing or empty. Raises Refused."""
    if (value := params.get(name)) is None:
        return None
    if isinstance(value, (list, dict)):
        raise Refused(400, f"{name}: a number or a text is needed")
    text = value if isinstance(value, str) else json.dumps(value)
    data = text.strip().encode("utf-8", "replace")      # JSON may contain lone surrogates
    if len(data) > MAX_TEXT:
        raise Refused(400, f"{name}: longer than {MAX_TEXT} bytes")
    return data.replace(b"\0", b"").decode() or None


def parse_draft(params: Mapping[str, Any], ms: int) -> Entry:
    """The parameters field1 and so on, latitude, longitude, elevation and status, also by their
    short names, as an entry without a number. Raises Refused."""
    def value(name: str) -> Any:
        return (text := find_text(params, name)) and parse_value(text)
    if short := SHORT_NAMES.keys() & params.keys():
        params = {**{SHORT_NAMES[name]: params[name] for name in short}, **params}
    values = {n: found for name, n in FIELD_NAMES.items()
              if name in params and (found := value(name)) is not None}
    note = NO_NOTE if params.keys().isdisjoint(NOTE_NAMES) else Note(
        find_text(params, "status"), *map(value, NOTES["location"]))
    return Entry(ms, None, values, note)


def store_drafts(server: Server, station: Station, key: str, drafts: Iterable[Entry],
                 now: int) -> None:
    """Store all drafts or none, as one update. Raises Refused."""
    # An entry without a value gets a note, even an empty one, because nothing else records it.
    rows = [(draft, draft.note if draft.note != NO_NOTE or not draft.values else None)
            for draft in drafts]
    server.access.charge(key, (value for draft, note in rows
                               for value in (*draft.values.values(), *(note or ()))))
    for draft, note in rows:
        server.writer.add_entry(station, draft.time, draft.values, now, note)


def parse_created(text: str, zone: tzinfo, now: int) -> int:
    """The ms of created_at, which is ISO 8601 or seconds since 1970. Raises ValueError, also for
    a time more than a day ahead: that entry would stay the newest until then."""
    ms = parse_moment(text, zone)
    if not EARLIEST_CREATED <= ms <= now + DAY:
        raise ValueError("created_at: the clock is wrong")
    return ms


def write_entry(request: Request, server: Server, document: Any = None) -> Answer:
    """Answer GET or POST /update with the entry's number. The answer is 0 with status 400 for a
    wrong key, and 0 with status 200 for an update that comes too soon. The sources do not say
    what happens there to two entries of one created_at; both are kept here."""
    suffix, now = request.path.partition(".")[2] or "txt", server.now()
    try:
        if request.length > MAX_ENTRY:
            raise Refused(413, f"body: one entry has at most {MAX_ENTRY} bytes")
        refuse_stranger(request, server)
        params = parse_params(request, document)
        if "IP_ADDRESS" in params.values():
            params = {name: request.address if value == "IP_ADDRESS" else value
                      for name, value in params.items()}
        draft = parse_draft(params, find_param(
            params, "created_at", now, lambda text: parse_created(text, parse_zone(params), now)))
        key = find_key(request, params)
        station = server.access.admit(None, key, request.address)
        store_drafts(server, station, key, [draft], now)
    except Refused as refused:
        status = (200 if isinstance(refused, TooOften) else
                  refused.status if refused.status in {429, 507} else 400)
        return answer_there(b"0", suffix, status, refused.headers)
    body = render_document("feed", {
        "channel_id": station.id,
        **{f"field{n}": say_value(draft.values.get(n)) for n in THINGSPEAK_FIELDS},
        "created_at": say_stamp(draft.time, UTC), "entry_id": station.last_entry,
        **{name: say_value(part) for name, part in draft.note._asdict().items()},
    }, suffix).body if suffix in {"json", "xml"} else b"%d" % station.last_entry
    return Answer(body, KINDS.get(suffix, TEXT), headers=CORS, is_update=True)


def post_update(request: Request, server: Server) -> Answer:
    """Answer POST /update: JSON with our names is a bulk update, all else is ThingSpeak's."""
    if not is_json(request):
        return write_entry(request, server)
    refuse_stranger(request, server)
    document = parse_body(request)
    is_ours = {"mac", "readings"} & document.keys()
    return (store_bulk if is_ours else write_entry)(request, server, document)


def parse_bulk_csv(params: Mapping[str, Any]) -> list[dict[str, str]]:
    """`updates=TIME,f1,...,f8,lat,long,elevation,status|TIME,...` as the list that JSON has."""
    columns = ["delta_t" if params.get("time_format") == "relative" else "created_at",
               *(f"field{n}" for n in THINGSPEAK_FIELDS), *NOTES["location"], "status"]
    text = str(params.get("updates", ""))
    if len(text) > MAX_BULK * MAX_BULK_LINE or text.count("|") > 2 * MAX_BULK:
        raise Refused(413, f"updates: at most {MAX_BULK}")
    text = unquote_text(text) if len(text) > MAX_ENTRY else text
    # The last column, the status, may contain commas.
    return [dict(zip(columns, line.split(",", len(columns) - 1), strict=False))
            for line in text.split("|") if line.strip(", ")]


def parse_bulk_times(updates: list[dict[str, Any]], zone: tzinfo, now: int) -> list[int]:
    """The time of each entry in ms. A delta_t counts seconds since the entry before, and the last
    entry is of now; the sources do not say what the last one is of there. Raises Refused for an
    unreadable time, unlike /update, because a whole history would be stored at this instant."""
    with contextlib.suppress(ValueError, OverflowError):
        created, deltas = ([str(update.get(name) or "").strip() for update in updates]
                           for name in ("created_at", "delta_t"))
        starts = [*itertools.accumulate(round(parse_number(d or "0") * 1000) for d in deltas)]
        times = [parse_created(text, zone, now) if text else now - starts[-1] + start
                 for text, start in zip(created, starts, strict=True)]
        if 0 <= min(times) <= max(times) <= now + DAY:
            return times
    raise Refused(400, "created_at or delta_t: not a time")


async def write_bulk(request: Request, server: Server) -> Answer:
    """Answer a POST below /channels/: it stores all updates or none."""
    try:
        if not (match := re.fullmatch(r"/channels/([^/]+)/bulk_update\.(json|csv)", request.path)):
            raise Refused(405, "administration is done on the command line")
        refuse_stranger(request, server)
        now, params = server.now(), parse_params(request)
        server.access.admit_any([key := find_key(request, params)], request.address)
        await pause()
        updates = parse_bulk_csv(params) if match[2] == "csv" else params.get("updates")
        if not (updates and isinstance(updates, list) and {*map(type, updates)} == {dict}):
            raise Refused(400, "updates: a list of them is needed")
        if len(updates) > MAX_BULK:
            raise Refused(413, f"updates: at most {MAX_BULK}")
        times = parse_bulk_times(updates, parse_zone(params), now)
        drafts = [parse_draft(*pair) async for pairs in in_steps(zip(updates, times, strict=True))
                  for pair in pairs]
        station = server.access.admit(None, key, request.address)   # it may have changed meanwhile
        if str(station.id) != match[1]:
            raise Refused(403, "this key writes to another channel")
        store_drafts(server, station, key, drafts, now)
        return answer_there(b'{"success":true}', "json", 202)._replace(is_update=True)
    except Refused as refused:
        no_key = Refused(401, "Please provide proper authentication details.")
        return render_error(no_key if refused.status == 403 else refused, "json")


def parse_wanted(params: Mapping[str, str], now: int) -> dict[str, Any]:
    """The parameters of a read, from start to notes. Unknown and unreadable ones are ignored."""
    zone = parse_zone(params)
    moment = functools.partial(parse_time, zone=zone)
    length = find_param(params, "days", 0) * DAY or find_param(params, "minutes", 0) * MINUTE
    since = now - round(min(length, now)) if length > 0 else 0
    is_bounded = length > 0 or {"start", "end"} & params.keys()
    results = find_param(params, "results", MAX_RESULTS if is_bounded else DEFAULT_RESULTS)
    return {
        "start": find_param(params, "start", since, moment),
        "end": min(now, find_param(params, "end", now, moment)) + 1,
        "results": max(0, min(int(results), MAX_RESULTS)), "zone": zone,
        "decimals": find_param(params, "round", None,
                               lambda text: max(0, min(int(parse_number(text)), 15))),
        "minimum": find_param(params, "min", -math.inf),
        "maximum": find_param(params, "max", math.inf),
        "summary": next(((name, SCALES[scale]) for name in SUMMARIES
                         if (scale := params.get(name, "").strip()) in SCALES), None),
        "notes": [name for flag, names in NOTES.items() if params.get(flag, "").lower() == "true"
                  for name in names]}


class Read(NamedTuple):
    """A read below /channels/N: what the path and the parameters ask for."""
    server: Server
    station: Station
    labels: dict[int, str]      # the label of each field that the station has
    fields: list[int]           # the fields that the answer shows
    path: dict[str, str]        # the path's named parts: field, entry, last
    params: Mapping[str, str]
    suffix: str                 # json, xml, csv, or empty for .txt and none
    start: int
    end: int                    # the first ms that is not wanted any more
    results: int
    zone: tzinfo
    decimals: int | None
    minimum: float
    maximum: float
    summary: tuple[str, int] | None     # a name of SUMMARIES and the length of a bucket in ms
    notes: list[str]                    # the names of Note that the answer shows


COMMA_NUMBER = re.compile(r"-?\d{1,15},\d{1,15}", re.ASCII)
SUMMARIES: dict[str, Callable[[list[Any]], Any]] = {
    "timescale": operator.itemgetter(0),
    "sum": lambda values: float(sum(values)),
    "average": lambda values: sum(values) / len(values),
    "median": lambda values: float(statistics.median(values))}


def to_number(value: Value | None) -> float | None:
    """The number of a value; of a text only if it is a number with a decimal comma."""
    return value if not isinstance(value, str) else (
        float(value.replace(",", ".")) if COMMA_NUMBER.fullmatch(value) else None)


async def summarize_entries(entries: list[Entry], fields: list[int], name: str, width: int
                            ) -> AsyncIterator[Entry]:
    """One entry for each bucket from the last to the first; an empty bucket has no values.
    Averages leave out missing values. There they count as 0, which halves the mean of a station
    that sends one field at a time."""
    buckets = {bucket: list(group) for bucket, group in itertools.groupby(
        entries, lambda entry: entry.time // width)}
    last = max(buckets, default=0)
    first = max(min(buckets, default=1), last - MAX_RESULTS + 1)
    for bucket in range(last, first - 1, -1):
        held = buckets.get(bucket, [])
        values = dict(held[0].values) if held and name == "timescale" else {}
        for n in fields if name != "timescale" else ():
            await pause()
            numbers = [number for entry in held
                       if (number := to_number(entry.values.get(n))) is not None]
            if numbers:
                values[n] = bound(SUMMARIES[name](numbers))
        await pause()
        yield Entry(bucket * width, None, values)


def read_feed(reader: Reader, station: int, before: tuple[int, int], limit: int,
              fields: Iterable[int] = range(1, 10), start: int = 0) -> list[Entry]:
    """The newest entries from start up to, but not including, before (a time and a number), in
    order of time: at most limit entries that have one of these fields or a note."""
    values: dict[tuple[int, int], dict[int, Any]] = collections.defaultdict(dict)
    for field, series in reader.series(station, fields).items():
        for ms, entry, value in read_readings(
                reader.db, series, (start, 0), before, limit, "DESC", "reading"):
            values[ms, entry][field] = value
    notes = {(ms, entry): Note(*note) for ms, entry, *note in reader.db.execute("""
        SELECT time, entry, status, latitude, longitude, elevation FROM note
        WHERE station = ? AND time >= ? AND (time, entry) < (?, ?)
        ORDER BY time DESC, entry DESC LIMIT ?""", (station, start, *before, limit))}
    newest = heapq.nlargest(limit, values.keys() | notes.keys())
    return [Entry(ms, number, values.get((ms, number), {}), notes.get((ms, number), Note()))
            for ms, number in reversed(newest)]


async def read_entry(reader: Reader, station: int, number: int) -> Entry | None:
    """The entry of this number. Entry numbers have no index, and imported ones need not grow with
    time, so MAX_SCAN readings are searched in each step, from the newest on."""
    ms = ask(reader.db, "SELECT time FROM note WHERE station = ? AND entry = ?", (station, number))
    for series in reader.series(station).values():
        place: tuple[int, int] | None = (LATEST_TIME, 0)
        while ms is None and place:
            start = reader.db.execute("""
                SELECT time, entry FROM main.reading WHERE series = ? AND (time, entry) < (?, ?)
                ORDER BY time DESC, entry DESC LIMIT 1 OFFSET ?""",
                (series, *place, MAX_SCAN)).fetchone()
            ms = ask(reader.db, """
                SELECT time FROM main.reading WHERE series = ? AND (time, entry) < (?, ?)
                AND (time, entry) >= (?, ?) AND entry = ?""",
                (series, *place, *(start or (0, 0)), number))
            place = start
            await pause()
    return None if ms is None else read_feed(reader, station, (ms, number + 1), 1)[0]


async def read_entries(read: Read, fields: Iterable[int], results: int) -> AsyncIterator[Entry]:
    """The entries of the wanted time, the newest first."""
    before = (read.end, 0)
    while results > 0:
        limit = min(results, STEP_ENTRIES)
        page = read_feed(read.server.reader, read.station.id, before, limit, fields, read.start)
        for entry in reversed(page):
            yield entry
        if len(page) < limit:
            break
        results, before = results - limit, (page[0].time, page[0].number or 0)
        await pause()


async def select_entries(read: Read) -> AsyncIterator[Entry]:
    """The entries of a feed, or their summaries, within minimum and maximum, the newest first."""
    entries = read_entries(read, THINGSPEAK_FIELDS, read.results)
    if read.summary:
        entries = summarize_entries([entry async for entry in entries][::-1], read.fields,
                                    *read.summary)
    async for entry in entries:
        if all(read.minimum <= value <= read.maximum for n in read.fields
               if (value := to_number(entry.values.get(n))) is not None):
            yield entry


def say_stamp(ms: int, zone: tzinfo, is_csv: bool = False) -> str:
    """`2014-02-25T14:13:01-05:00` or with Z; in CSV `2021-02-18 21:46:23 -0500` or with UTC."""
    at = datetime.fromtimestamp(ms // 1000, zone)
    return (f"{at:%Y-%m-%d %H:%M:%S %z}".replace("+0000", "UTC") if is_csv else
            at.isoformat().replace("+00:00", "Z"))


def say_value(value: Any, decimals: int | None = None) -> str | None:
    """A value as text. Rounding leaves texts as they are, but for numbers with a decimal comma."""
    if decimals is not None and (number := to_number(value)) is not None:
        text = f"{number:.{decimals}f}"
        return text.replace(".", ",") if isinstance(value, str) else text
    return None if value is None else str(value)


def entry_row(read: Read, entry: Entry, is_csv: bool = False) -> dict[str, Any]:
    """An entry with the names of the recordings in their order, which clients depend on."""
    return {"created_at": say_stamp(entry.time, read.zone, is_csv),
            **({} if entry.number is None else {"entry_id": entry.number}),
            **{f"field{n}": say_value(entry.values.get(n), read.decimals) for n in read.fields},
            **{name: say_value(getattr(entry.note, name)) for name in read.notes},
            **({"id": None} if read.suffix == "xml" else {})}


# XML 1.0 has no way to write these characters, escaped or not.
NOT_IN_XML = re.compile("[\0-\x08\x0b-\x1f\ud800-\udfff\ufffe\uffff]")
XML_TYPES = {"id": "integer", "at": "dateTime",     # the key is the last word of an element's name
             "latitude": "decimal", "longitude": "decimal", "elevation": "decimal"}


def xml_element(name: str, value: Any) -> str:
    """A dict becomes an element of elements, a list an element of items with a singular name."""
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
    return f"<{name}{kind}>{html.escape(text)}</{name}>"


def answer_there(body: bytes, suffix: str, status: int = 200, headers: Headers = ()) -> Answer:
    """An answer as ThingSpeak gives it, which pages of all origins may read."""
    return Answer(body, KINDS.get(suffix, TEXT), status, CORS + headers)


NOTHING = answer_there(b"-1", "json")   # recorded; the sources do not say it of an empty channel


def render_rows(name: str, rows: list[dict[str, Any]], suffix: str) -> bytes:
    """Documents, or entries of a feed, in the format of a suffix."""
    if suffix == "csv":
        return as_csv([row.values() for row in rows])
    if suffix == "xml":
        return "".join([xml_element(name, row) for row in rows]).encode()
    return as_json(rows)[1:-1]


def render_document(root: str, document: dict[str, Any], suffix: str) -> Answer:
    start = {"csv": as_csv([document]),
             "xml": b'<?xml version="1.0" encoding="UTF-8"?>'}.get(suffix, b"")
    return answer_there(start + render_rows(root, [document], suffix), suffix)


def render_error(refused: Refused, suffix: str) -> Answer:
    """An error in the format of the suffix. The answer of a private channel is as recorded."""
    if "WWW-Authenticate" in dict(refused.headers):
        return NOTHING._replace(status=400)
    code, message = ERRORS.get(refused.status, ERRORS[400])
    answer = render_document("hash", {
        "status": str(refused.status),
        "error": {"error_code": code, "message": message, "details": refused.message}
    }, suffix) if suffix in {"json", "xml"} else answer_there(code.encode(), "txt")
    return answer._replace(status=refused.status, headers=CORS + refused.headers)


async def render_pages(read: Read, entries: AsyncIterator[Entry]) -> list[bytes]:
    """The entries of a feed in pages, the newest page first, which take less memory."""
    pages, rows = [], list[dict[str, Any]]()
    async for entry in entries:
        rows.append(entry_row(read, entry, read.suffix == "csv"))
        if len(rows) == STEP_ENTRIES:
            pages.append(render_rows("feed", rows[::-1], read.suffix))
            rows = []
    return [*pages, render_rows("feed", rows[::-1], read.suffix)] if rows else pages


async def render_feed(read: Read, channel: dict[str, Any], entries: AsyncIterator[Entry]
                      ) -> Answer:
    """A channel and the entries of its feed."""
    pages = await render_pages(read, entries)
    comma, end = {"xml": (b"", b"</feeds></channel>"), "csv": (b"", b"")}.get(
        read.suffix, (b",", b"]}"))
    if read.suffix == "csv":
        empty = as_csv([entry_row(read, Entry(0, None if read.summary else 0, {}))])
    else:
        document = channel if read.suffix == "xml" else {"channel": channel}
        empty = render_document("channel", document | {"feeds": []}, read.suffix).body
    body = io.BytesIO()
    body.write(empty.removesuffix(end))
    while pages:                    # each is freed once it is copied: all may take 100 MB
        body.write(pages.pop() + comma * bool(pages))
        await pause()
    body.write(end)
    return answer_there(body.getvalue(), read.suffix)


async def get_feed(read: Read) -> Answer:
    station, zone = read.station, read.zone
    return await render_feed(read, {
        "id": station.id, "name": station.name,
        **({"metadata": None} if read.params.get("metadata", "").lower() == "true" else {}),
        **{f"field{n}": label for n, label in read.labels.items()},
        "created_at": say_stamp(station.created, zone),
        "updated_at": say_stamp(station.heard or station.created, zone),
        "last_entry_id": station.last_entry or None}, select_entries(read))


async def select_entry(read: Read) -> Entry | None:
    """The entry of the path's number, else the last one, with the path's field. Raises Refused."""
    reader, station, end = read.server.reader, read.station.id, (read.server.now() + 1, 0)
    if number := read.path.get("entry"):
        if found := await read_entry(reader, station, int(number)):
            return found
        raise Refused(404, "there is no such entry")
    if "field" in read.path:
        series = reader.series(station).get(read.fields[0], -1)
        last = read_readings(reader.db, series, end=end, limit=1, order="DESC")
        end = (last[0][0], last[0][1] + 1) if last else (0, 0)
    return next(iter(read_feed(reader, station, end, 1, THINGSPEAK_FIELDS)), None)


async def get_entry(read: Read) -> Answer:
    if not (entry := await select_entry(read)):
        return NOTHING
    if "field" in read.path and not read.suffix:
        value = say_value(entry.values[read.fields[0]], read.decimals)
        text = f"{read.params.get('prepend', '')}{value}{read.params.get('append', '')}"
        return answer_there(text.encode(), "txt")
    return render_document("feed", entry_row(read, entry), read.suffix)


async def get_age(read: Read) -> Answer:
    """Seconds since the last entry. The sources do not show .txt, .xml and .csv of it."""
    if not (entry := await select_entry(read)):
        return NOTHING
    age = str(max(0, read.server.now() - entry.time) // 1000)
    if not read.suffix:
        return answer_there(age.encode(), "txt")
    return render_document("feed", {"last_data_age": age, "last_data_age_units": "s"}, read.suffix)


async def read_statuses(read: Read) -> AsyncIterator[Entry]:
    """The entries that have a status text, the newest first."""
    found = 0
    async for entry in read_entries(read, (), MAX_RESULTS):
        if entry.note.status is not None and found < read.results:
            found += 1
            yield entry


async def get_status(read: Read) -> Answer:
    """The status texts, of the last day if no time is given."""
    is_last = "last" in read.path
    wanted = parse_wanted(({} if is_last else {"days": "1"}) | dict(read.params),
                          read.server.now())
    read = read._replace(**wanted | {"fields": [], "summary": None, "notes": NOTES["status"]})
    if not is_last:
        return await render_feed(read, {"name": read.station.name}, read_statuses(read))
    found = [entry async for entry in read_statuses(read._replace(results=1))]
    return render_document("feed", entry_row(read, found[0]), read.suffix) if found else NOTHING


def list_channel(station: Station, zone: tzinfo) -> dict[str, Any]:
    """A channel as lists show it; what we do not store is present but empty."""
    return {"id": station.id, "name": station.name, "description": None, "metadata": None,
            "latitude": None, "longitude": None, "created_at": say_stamp(station.created, zone),
            "elevation": None, "last_entry_id": station.last_entry or None, "ranking": 0,
            "username": "", "tags": []}


async def get_channel(read: Read) -> Answer:
    return render_document("channel", list_channel(read.station, read.zone), read.suffix)


CHART_STYLE = Template(
    ":root{color-scheme:light;--ink:#18212b;--dim:#55606c;--line:#d5dbe1;--card:$background;"
    "--paper:$background}main{padding:0}figure{padding:.5rem;border-radius:0}.line{color:$color}"
    "h1{font-size:1rem;text-align:center}"
    "figcaption{display:flex;justify-content:space-between;font-size:.8rem}")
EMBEDDED = Template("<main><figure><h1>$title</h1>$chart<figcaption><span>$label</span>"
                    "<span>$below</span></figcaption></figure></main>")


def shape_line(points: list[Point], shape: str, base: float) -> list[Point]:
    """The corners of a line of columns (column, bar) or of steps; for other shapes the points."""
    if shape in {"column", "bar"}:
        return [Point(p.time, value, value, value)
                for p in points for value in (base, p.mean, base)]
    if shape == "step":
        return points[:1] + [Point(after.time, value, value, value)
                             for before, after in itertools.pairwise(points)
                             for value in (before.mean, after.mean)]
    return points


async def get_chart(read: Read) -> Answer:
    """A page to embed, with a chart like those of the server's own page."""
    def color(name: str, default: str) -> str:
        match = re.fullmatch("#?([0-9A-Fa-f]{6}|[0-9A-Fa-f]{3})", params.get(name, ""))
        return f"#{match[1]}" if match else default

    params, now, field = read.params, read.server.now(), read.fields[0]
    samples = [Summary(entry.time, 0, 1, 0, 1, value, value, value)
               async for entry in select_entries(read)
               if (value := to_number(entry.values.get(field))) is not None][::-1]
    start, end = (samples[0].time, samples[-1].time + 1) if samples else (now - DAY, now)
    points = (await thin(samples, range(start, 2 * end, -(-(end - start) // CHART_POINTS)))
              if len(samples) > CHART_POINTS else [s.point for s in samples])
    await pause()
    bounds = [bound for name in ("yaxismin", "yaxismax")
              if (bound := find_param(params, name, None)) is not None]
    base = min([*bounds, *(point.minimum for point in points)], default=0)
    label = params.get("yaxis") or read.labels.get(field, str(field))
    title = params.get("title") or read.station.name
    line = Line(label, "line", shape_line(points, params.get("type", ""), base))
    chart = render_chart(Chart([line], "", start, end, ENGLISH._replace(zone=read.zone),
                               bounds=bounds))
    style = STYLE + CHART_STYLE(background=color("bgcolor", "#ffffff"),
                                color=color("color", "#d62020"))
    every = max(MIN_CHART_UPDATE, int(find_param(params, "update", MIN_CHART_UPDATE)))
    refresh = (("Refresh", str(every)),) if params.get("dynamic") == "true" else ()
    return Answer(render_page(title, EMBEDDED(
        title=title, chart=chart, label=label, below=params.get("xaxis", "")), style=style),
        HTML, headers=(*CORS, *page_headers(style, framing=""), *refresh))


def get_public(server: Server, params: Mapping[str, str], suffix: str) -> Answer:
    """One page of the list of all channels; of a private server it is empty."""
    page = max(1, min(int(find_param(params, "page", 1)), LARGEST_ENTRY))
    total = 0 if server.guard else server.reader.count_stations()
    stations = server.reader.stations("ORDER BY id LIMIT ? OFFSET ?", min(total, MAX_CHANNELS),
                                      (page - 1) * MAX_CHANNELS)
    return render_document("response", {
        "pagination": {"current_page": page, "per_page": min(total, MAX_CHANNELS),
                       "total_entries": total},
        "channels": [list_channel(station, parse_zone(params)) for station in stations]}, suffix)


# The feed of a channel or of one field. A client's own example has fields/field1.
FEED = r"/(?:feeds?|fields?/(?:field)?(?P<field>[1-8]))"
READS: dict[str, Callable[[Read], Work]] = {
    "": get_channel,
    FEED: get_feed,
    FEED + "/last": get_entry,
    r"/feeds?/(?:entry/)?(?P<entry>\d{1,18})": get_entry,
    FEED + "/last_data_age": get_age,
    r"/status(?:es)?(?:/(?P<last>last))?": get_status,
    "/charts/(?P<field>[1-8])": get_chart}


async def read_channel(request: Request, server: Server, params: Mapping[str, str], path: str,
                       suffix: str) -> Answer:
    """Answer one read below /channels/. Raises Refused."""
    if path == "public":
        return get_public(server, params, suffix)
    id, slash, rest = path.partition("/")
    found = server.reader.stations("WHERE CAST(id AS TEXT) = ?", id)
    key = find_key(request, params)
    if server.guard and not server.access.admit_key(found, key, request.address):
        if "callback" in params:    # the browser would add its password for another site's script
            raise Refused(403, "callback: on a private server it needs a key")
        await pass_check(server.guard.admit(request))
    if not found:
        raise Refused(404, "there is no such channel")
    for pattern, route in READS.items():
        if match := re.fullmatch(pattern, slash + rest):
            parts = {name: text for name, text in match.groupdict().items() if text}
            labels = {series.field: series.label or str(series.field)
                      for series in server.reader.latest([found[0].id])
                      if series.field in THINGSPEAK_FIELDS}
            fields = [int(parts["field"])] if "field" in parts else list(labels)
            return await route(Read(server, found[0], labels, fields, parts, params, suffix,
                                    **parse_wanted(params, server.now())))
    raise Refused(404, "there is nothing here")


CHANNEL_PATH = re.compile(r"^/channels/(.*?)(?:\.(?:(json|xml|csv)|te?xt))?$")
CALLBACK = re.compile(r"[A-Za-z_$][\w.$]{0,63}", re.ASCII)


async def get_channels(request: Request, server: Server) -> Answer:
    """Answer a read below /channels/, also as a script that calls the function callback=."""
    (path, suffix), = CHANNEL_PATH.findall(request.path)
    try:
        params = split_query(request)
        answer = await read_channel(request, server, params, path, suffix)
        callback = params.get("callback")
        if callback is None or answer.kind != KINDS["json"]:
            return answer
        if not CALLBACK.fullmatch(callback):
            raise Refused(400, "callback: not a name")
        return answer._replace(body=b"%b(%b)" % (callback.encode(), answer.body),
                               kind="application/javascript; charset=utf-8")
    except Refused as refused:
        return render_error(refused, suffix)


NO_METHOD = always(render_error(Refused(405, "this is done on the command line",
                                        Allow="GET, POST, OPTIONS"), "json"))
NO_ACCOUNT = always(render_error(Refused(404, "there are no accounts and no apps here"), "json"))
PREFLIGHT = always(Answer(b"", headers=CORS))


enter(
    *(Loose("GET", path, write_entry, is_safe=False) for path in UPDATE_PATHS),
    Loose("POST", "/update", post_update),
    *(Loose("POST", path, write_entry) for path in UPDATE_PATHS[1:]),
    Loose("GET", "/channels/", get_channels),
    Loose("POST", "/channels/", write_bulk),
    *(Loose(method, "/channels/", NO_METHOD) for method in ("PUT", "DELETE")),
    *(Loose("OPTIONS", path, PREFLIGHT) for path in (*UPDATE_PATHS, "/channels/")),
    *(Route(method, path, NO_ACCOUNT, is_open=True) for method in ("GET", "POST")
      for path in ("/channels.json", "/users/", "/talkbacks/", "/apps/")))


# ------------------------------------------------------------------------------------------------
# 20. Consoles
#    Law: a console never repeats a report, so every value that can be read is stored.
# ------------------------------------------------------------------------------------------------
MAX_CONSOLE = 27                # characters of a console's MAC; `-884f` makes MAX_MAC of them

ROOMS = range(1, 9)
# Columns: the slot ("" is the console's own station, outside; the others are its parts), the
# field, our unit; the names in uploads, in weewx's archive and in Ecowitt's CSV.
SENSORS = (
    ("", 1, "°c", "tempf", "outTemp", "outdoor temperature"),
    ("", 2, "%", "humidity", "outHumidity", "outdoor humidity"),
    ("", 3, "hpa", "baromrelin baromin", "barometer", "rel pressure"),
    ("", 4, "m/s", "windspeedmph", "windSpeed", "wind"),
    ("", 5, "m/s", "windgustmph", "windGust", "gust"),
    ("", 6, "°", "winddir", "windDir", "wind direction"),
    ("", 7, "mm", "rainratein rainin rrain_piezo", "rainRate", "hourly rain"),
    ("", 8, "w/m2", "solarradiation", "radiation", "solar rad"),
    ("", 9, "index", "uv", "UV", "uv-index"),
    ("in", 1, "°c", "tempinf indoortempf", "inTemp", "indoor temperature"),
    ("in", 2, "%", "humidityin indoorhumidity", "inHumidity", "indoor humidity"),
    ("in", 3, "hpa", "baromabsin", "pressure", "abs pressure"),
    *((f"ch{n}", 1, "°c", f"temp{n}f", f"extraTemp{n}", f"ch{n} temperature") for n in ROOMS),
    *((f"ch{n}", 2, "%", f"humidity{n}", f"extraHumid{n}", f"ch{n} humidity") for n in ROOMS))
# Sensors of air: the slot, the field, our unit, the name in uploads. The same sensor may hang
# outside or inside, which its upload does not say.
AIR_SENSORS = (
    *((f"pm{n}", 4, "µg/m³", f"pm25_ch{n}") for n in range(1, 5)),
    ("co2", 1, "°f", "tf_co2"), ("co2", 2, "%", "humi_co2"), ("co2", 4, "µg/m³", "pm25_co2"),
    ("co2", 5, "µg/m³", "pm10_co2"), ("co2", 6, "ppm", "co2"))
AIR_LABELS = {4: ("PM2.5 µg/m³", None), 5: ("PM10 µg/m³", None), 6: ("CO2 ppm", None)}
CONSOLE_LABELS = ("temperature °C", "humidity %", "pressure hPa", "wind m/s", "gusts m/s",
                  "wind from °", "rain mm/h", "sun W/m²", "UV index")
HOURLY = {7: ("hourly rain mm/h", CONSOLE_LABELS[6])}
# Systems of units by weewx's number: which unit each has instead of ours. Uploads use number 1.
SYSTEMS = {1: {"°c": "°f", "hpa": "inhg", "m/s": "mph", "mm": "in"},
           16: {"m/s": "km/h", "mm": "cm"}, 17: {}}
UNITS = {                       # our number is (number - first) * second, rounded to the third
    **dict.fromkeys(("", "°c", "%", "hpa", "m/s", "°", "deg", "mm", "w/m2", "index", "µg/m³",
                     "ppm"), (0, 1, 12)), "pa": (0, 0.01, 2),
    "°f": (32, 1 / 1.8, 2), "inhg": (0, 33.8639, 1), "mmhg": (0, 1.33322, 1), "cm": (0, 10, 2),
    "mph": (0, 0.44704, 2), "km/h": (0, 1 / 3.6, 2), "knots": (0, 0.514444, 2), "in": (0, 25.4, 2)}
# These numbers mean that a sensor is missing. A Shelly without its probe sends 999 or 1000.
NO_SENSOR = frozenset({-9999, -999.9, -999})
ABSENT = {"": frozenset[float]()} | {unit: NO_SENSOR | {999, 1000} for unit in ("°c", "°f", "%")}
Column: TypeAlias = tuple[str, int, str]    # slot, field, unit
UPLOADS: dict[str, Column] = {
    name: (slot, field, SYSTEMS[1].get(unit, unit))
    for slot, field, unit, names, *_ in SENSORS for name in names.split()} | {
    f"field{n}": ("", n, "") for n in range(1, MAX_FIELDS + 1)} | {
    name: (slot, field, unit) for slot, field, unit, name in AIR_SENSORS} | {
    "temp": ("", 1, "°c"), "hum": ("", 2, "%"), "press": ("", 3, "hpa")}
# What sensor.community's airRohr calls its values, in lower case: P2 is PM2.5, P1 is PM10. Its
# sensors for weather have a prefix or none.
AIRROHR: dict[str, Column] = {
    f"{sensor}_{name}".lstrip("_"): ("", field, unit) for sensors, names in (
        ("sds pms hpm sps30 npm ips", (("p2", 4, "µg/m³"), ("p1", 5, "µg/m³"))),
        ("bme280 bmp280 bmp sht3x htu21d dht ds18b20 scd30 _", (
            ("temperature", 1, "°c"), ("humidity", 2, "%"), ("pressure", 3, "pa"))))
    for sensor in sensors.split() for name, field, unit in names}
# A RuuviTag's advertisement in data format 5: temperature, humidity and pressure in hexadecimal.
RUUVI_TAG = re.compile("FF990405" + "([0-9A-F]{4})" * 3, re.IGNORECASE)


def parse_measure(name: str, text: str, unit: str) -> float | None:
    """A number in some unit as one in our unit; None if the sensor is missing. Raises Refused."""
    if (text := text.strip()) in {"", "-", "--", "--.-", "null"}:
        return None
    try:
        number, (origin, factor, decimals) = parse_number(text), UNITS[unit]
        if math.isinf(value := (number - origin) * factor):
            raise ValueError("not a finite decimal number")
    except ValueError as error:
        raise Refused(400, f"{name}: {error}") from None
    return None if number in ABSENT.get(unit, NO_SENSOR) else round(value, decimals)


def parse_report(form: Mapping[str, str], known: Mapping[str, Column] = UPLOADS
                 ) -> dict[str, dict[int, float]]:
    """A report, with names in lower case, as numbers by slot and field. A value that cannot be
    read is left out. Raises Refused if no other is there."""
    report: dict[str, dict[int, float]] = {}
    unread: list[Refused] = []
    for name, (slot, field, unit) in known.items():
        try:
            if name in form and (value := parse_measure(name, form[name], unit)) is not None:
                report.setdefault(slot, {}).setdefault(field, value)
        except Refused as refused:
            unread.append(refused)
    if unread and not report:
        raise unread[0]
    return report


def parse_airrohr(body: Mapping[str, Any]) -> dict[str, dict[int, float]]:
    """An airRohr's report as numbers by slot and field. Raises Refused."""
    values = body.get("sensordatavalues")
    return parse_report({
        str(one.get("value_type")).lower(): str(one.get("value"))
        for one in (values if isinstance(values, list) else ()) if isinstance(one, dict)}, AIRROHR)


def parse_tags(body: Mapping[str, Any], now: int) -> list[tuple[str, dict[int, float], int]]:
    """For each tag that a Ruuvi Gateway has heard, its slot, its numbers by field, and when."""
    data = body.get("data")
    tags = data.get("tags") if isinstance(data, dict) else None
    return [(slot, found, parse_dateutc(str(tag.get("timestamp")), now))
            for mac, tag in (tags.items() if isinstance(tags, dict) else ())
            if isinstance(tag, dict) and (found := parse_tag(str(tag.get("data"))))
            and re.fullmatch("[0-9A-F]{4}", slot := mac.replace(":", "")[-4:].upper())]


def parse_tag(advertisement: str) -> dict[int, float]:
    """The temperature in °C, humidity in % and pressure in hPa of a RuuviTag, by field."""
    if not (match := RUUVI_TAG.search(advertisement)):
        return {}
    celsius, humidity, pressure = (int(text, 16) for text in match.groups())
    return {field: round(value, 4) for field, is_there, value in (
        (1, celsius != 0x8000, ((celsius ^ 0x8000) - 0x8000) * 0.005),
        (2, humidity != 0xFFFF, humidity * 0.0025),
        (3, pressure != 0xFFFF, (pressure + 50_000) * 0.01)) if is_there}


def parse_clock(text: str) -> datetime:
    """`2016-5-10 2:34:15` or `2024/05/10 02:34`, as consoles write it. Raises ValueError."""
    text = text[:MAX_TIME].replace("/", "-") + ":00" * (text.count(":") == 1)
    return datetime.strptime(text, "%Y-%m-%d %H:%M:%S")


def parse_dateutc(text: str, now: int) -> int:
    """When a console measured: the time that it sends if that is plausible, else now. A gateway
    sends seconds since 1970."""
    with contextlib.suppress(ValueError):
        ms = (int(text[:MAX_TIME]) * 1000 if text.isdecimal() else
              (parse_clock(text).replace(tzinfo=UTC) - EPOCH) // MILLISECOND)
        if now - MAX_AGE * 1000 <= ms <= now + MINUTE:
            return ms
    return now


def name_part(name: str, mac: str, slot: str) -> tuple[str, str]:
    """Name and MAC of the station in a slot of a console, given those of its station outside."""
    if not slot:
        return name, mac
    title = {"in": "inside"}.get(slot, slot)
    return f"{name.removesuffix(' outside')} {title}", f"{mac}-{slot.lower()}"


def console_stations(name: str, mac: str) -> list[Newcomer]:
    """A console's stations, outside and inside."""
    return [Newcomer(name, mac, "outside", CONSOLE_LABELS),
            Newcomer(*name_part(name, mac, "in"), "inside", CONSOLE_LABELS[:3])]


# Weather Underground's path with what a console appends to it, or Ecowitt's path with the key.
REPORT = re.compile(r"/weatherstation/updateweatherstation\.php(.*)|/data/report/?([^/&]*)/?(.*)")


WRITTEN_UNITS = str.maketrans({"℃": "°c", "℉": "°f", "º": "°", "²": "2"})


def find_columns(header: list[str], remarks: Remarks) -> list[Column | None]:
    """The columns of Ecowitt's CSV, with headings like `Indoor Temperature(℃)`. One whose heading
    or unit is unknown is None and left out."""
    known = {heading: (slot, field, unit) for slot, field, unit, _, _, heading in SENSORS}
    columns: list[Column | None] = [None]       # for the time
    unknown = []
    for text in header[1:]:
        heading, _, written = text.lower().translate(WRITTEN_UNITS).partition("(")
        slot, field, unit = known.get(heading.strip(), ("", 0, ""))
        unit = written.rstrip(")") or unit
        columns.append((slot, field, unit) if field and unit in UNITS else None)
        if field and unit not in UNITS:
            remarks.left_out[f"column whose unit is not known here: {text}"] += 1
        elif not field:
            unknown.append(text)
    if unknown:
        remarks.left_out[f"of the columns, not known here: {', '.join(unknown)}"] = len(unknown)
    return columns


def console_rows(ms: int, columns: Iterable[Column | None], cells: Iterable[object],
                 station: Station | None, remarks: Remarks) -> Iterator[Row]:
    """The readings of a console at one instant, inside and outside. Raises ValueError."""
    if not 0 <= ms < LATEST_TIME:
        raise ValueError("before 1970 or after 2099")
    if station is None:
        raise Usage("what comes from a console needs --station NAME: whose readings these are")
    for column, cell in zip(columns, cells, strict=True):
        if column and cell is not None:
            slot, field, unit = column
            name, mac = name_part(station.name, station.mac, slot)
            try:
                if (value := parse_measure(name, str(cell), unit)) is not None:
                    yield Row(ms, name, mac, field, value, None)
            except Refused:
                remarks.skip(cell)


def read_archive(db: sqlite3.Connection, station: Station | None, remarks: Remarks
                 ) -> Iterator[Row]:
    """The rows of weewx's table, of which each has its own system of units. Raises ValueError."""
    present = {name for _, name, *_ in db.execute("PRAGMA table_info(archive)")}
    sensors = {name: (slot, field, unit) for slot, field, unit, _, name, _ in SENSORS
               if name in present}
    remarks.where = lambda: f"dateTime {seconds}"
    for seconds, system, *cells in db.execute(
            f"SELECT dateTime, usUnits, {', '.join(sensors)} FROM archive ORDER BY dateTime"):
        if (units := SYSTEMS.get(system)) is None:
            raise ValueError(f"usUnits {system} is none of {', '.join(map(str, SYSTEMS))}")
        yield from console_rows(int(seconds) * 1000, [
            (slot, field, units.get(unit, unit)) for slot, field, unit in sensors.values()],
            cells, station, remarks)


def read_ecowitt(header: list[str], lines: Iterator[list[str]], station: Station | None,
                 remarks: Remarks) -> Iterator[Row]:
    """Ecowitt's CSV, whose times are in this machine's zone. Raises ValueError."""
    columns, last = find_columns(header, remarks), 0.0
    for cells in lines:
        clock = parse_clock(cells[0])
        if clock.timestamp() < last:            # the hour that comes twice as summer time ends
            clock = clock.replace(fold=1)
        last = clock.timestamp()
        clocks = [last, *remarks.clocks]
        remarks.clocks = [min(clocks), max(clocks)]
        yield from console_rows(int(last) * 1000, columns, cells, station, remarks)


def say_console(args: argparse.Namespace, name: str, key: str, server: str, near: str,
                start: str) -> str:
    url = urllib.parse.urlsplit(server)
    return f"""stations {name} and {name_part(name, "", "in")[0]} are registered; \
their API key, shown only now: {key}

# in the app of the console, where it says Customized or Custom Server
Server IP / Hostname:  {url.hostname}
Port:                  {url.port or 80}
Upload Interval:       60
# as Protocol Type Same As, the first of these three that it has
Ecowitt:       Path:         /data/report/{key}
AMBWeather:    Path:         /data/report/{key}?
Wunderground:  Path:         /weatherstation/updateweatherstation.php?
               Station ID:   {args.mac}
               Station Key:  {key}
{start}""".strip()


def console_kind(args: argparse.Namespace, name: str
                 ) -> tuple[list[Newcomer], Callable[..., str]]:
    """A console: a station outside, whose key writes for one inside. Raises Usage."""
    require(not args.role, "--console needs no --role: a console is both inside and outside")
    require(len(args.mac) <= MAX_CONSOLE,
            f"--mac: at most {MAX_CONSOLE} characters with --console")
    return console_stations(f"{name} outside", args.mac.lower()), say_console


def say_refusal(refused: Refused) -> str:
    """The text of a refusal. Consoles know Weather Underground's word for a wrong key."""
    return "INVALIDPASSWORDID: " * (refused.status == 403) + refused.message


def store_report(request: Request, server: Server) -> Answer:
    """Store a console's report, all of it or nothing, as one entry of each station in it."""
    if not (match := REPORT.fullmatch(request.path)):
        raise Refused(404, "there is nothing at this address; the page is at /")
    if request.length > MAX_ENTRY:
        raise Refused(413, f"body: a report has at most {MAX_ENTRY} bytes")
    refuse_stranger(request, server)
    glued, key, rest = match.groups()           # some consoles leave out the `?` before the form
    body = parse_body(request)
    form = {name.lower(): str(value) for pairs in (
        parse_form(glued or rest or ""), split_query(request), body)
        for name, value in pairs.items()}
    if not form and "text/html" in request.headers.get("accept", ""):
        return render_message(choose_locale(request, server.settings), "purpose")
    mac = parse_mac(form.get("id", "")) if key is None else None
    key = key or form.get("password") or request.headers.get("x-api-key", "")
    console, now = server.access.admit(mac, key, request.address), server.now()
    writer, ms = server.writer, parse_dateutc(form.get("dateutc", ""), now)
    report = parse_tags(body, now) or [
        (slot, values, ms) for slot, values in (
            parse_airrohr(body) or parse_report(form)).items()]
    found = [(part, values, ms) for slot, values, ms in report
             if (part := writer.adopt_part(
                 console, *name_part(console.name, console.mac, slot), now) if slot
                 else console)]
    if not found:
        raise Refused(400, "no reading in it; known: tempf, humidity, temp, hum, field1, ...")
    # Weather Underground's rainin is the sum of an hour, rainratein of Ecowitt's is a rate.
    hourly = HOURLY if "rainin" in form and "rainratein" not in form else {}
    for part, values, ms in found:
        writer.add_entry(part, ms, values, now)
        labels = AIR_LABELS if part is not console or "sensordatavalues" in body else hourly
        writer.batch.labels += [(text, part.id, field, before)
                                for field, (text, before) in labels.items() if field in values]
    return Answer(b"success", is_update=True)


enter(
    *(Loose(method, path, store_report, is_safe=False) for method in ("GET", "POST")
      for path in ("/weatherstation/", "/data/")))
UPDATE_ROOTS += ["/weatherstation/", "/data/report/"]
STATION_KINDS["console"] = console_kind
CSV_KINDS.append((lambda header: header[:1] == ["Time"], read_ecowitt))
TABLE_KINDS["archive"] = read_archive
OPTIONS.append(Setting("console", None, None, parse_switch,
                       "register a bought weather station, which measures outside and inside"))
REFUSALS |= dict.fromkeys(
    ("/weatherstation/updateweatherstation.php", "/data/report"), say_refusal)


# ------------------------------------------------------------------------------------------------
# 21. Messages
#    Law: a message is true when it is sent, and each destination is told by itself.
# ------------------------------------------------------------------------------------------------
def parse_clocks(text: str, count: int) -> tuple[Clock, ...]:
    """`22:00-07:00 Europe/Berlin` or one time; the default zone is the machine's. Raises Usage."""
    require(len(text) <= 64, "too long")
    times, _, name = text.partition(" ")
    try:
        zone = zoneinfo.ZoneInfo(name) if name else None
    except (KeyError, ValueError, OSError):
        raise Usage(f"{name!r} is no time zone; write one like Europe/Berlin") from None
    clocks = [re.fullmatch(r"([01]?\d|2[0-3]):([0-5]\d)", part, re.ASCII)
              for part in times.split("-") if text]
    found = tuple(Clock(int(match[1]), int(match[2]), tzinfo=zone) for match in clocks if match)
    require(not text or (len(found) == len(clocks) == len({*found}) == count),
            f"{text!r}: write " + "-".join(["22:00", "07:00"][:count]) + ", or add a zone")
    return found


def parse_notify(text: str) -> list[Destination]:
    return [*{to.id: to for to in map(parse_destination, text.split())}.values()]


MESSAGE_AGE = HOUR              # an older message is dropped: the air has changed since
SILENCE_TOLD = HOUR             # silence before a message; the page shows it after ten minutes
LATE = 15 * MINUTE              # a change that we see later than this is told with its time
MAX_REFUSED = 3                 # tries of a message that a destination refuses for good
MAX_DESTINATIONS = 32           # destinations for which the file keeps what they were told
# A station has one state for each of these. A state that was told is not told again before another
# one was: a kind without an opposite needs a date as its state, as the plan has.
TOPICS = ("verdict", "silence", "plan")
ONLY_AFTER = {"close": "open", "back": "silent"}     # told only if the other was told last


def last_at(clock: Clock, now: int) -> int:
    """When that time of day last was, in ms."""
    wall = datetime.combine(datetime.fromtimestamp(now / 1000, clock.tzinfo), clock)
    today, before = (int(day.timestamp()) * 1000 for day in (wall, wall - timedelta(days=1)))
    return today if today <= now else before


def awake_since(quiet: Sequence[Clock], now: int) -> int | None:
    """When the quiet hours last ended; 0 if there are none, None while they last."""
    began, ended = (last_at(clock, now) for clock in quiet) if quiet else (0, 0)
    return ended if ended >= began else None


def choose_kind(verdict: Verdict) -> str:
    """What the verdict asks people to do: open, close, or nothing (an empty text)."""
    is_warmer = verdict.believed is not None and verdict.believed < -CLOSE_MARGIN
    if verdict.state == "comfortable" and (
            verdict.air.is_smoke or (is_warmer and not verdict.is_cold)):
        return "close"
    return verdict.state if verdict.state in {"open", "close"} else ""


def is_worth_a_plan(room: Mapping[str, Any], comfort: float) -> bool:
    """Whether it is hot inside or outside, and the forecast says when it gets cooler."""
    forecast = room.get("forecast")
    return bool(forecast and forecast["event"] == "cooler" and forecast["at"]
                and max(room["inside"], room["outside"]) > comfort)


def is_timely(since: int, now: int, awake: int | None) -> bool:
    """Whether what has been true since then may still be told. Quiet hours do not count."""
    return awake is not None and now - max(since, awake) < MESSAGE_AGE


def is_news(state: str, told: str) -> bool:
    """Whether to tell a state to a destination that was told another one last."""
    return state not in {"", told} and told == ONLY_AFTER.get(state, told)


def choose_household(settings: argparse.Namespace) -> Locale:
    """How messages are worded. Those in English have both units, unless one is set."""
    language = settings.language.replace("auto", "en")
    return Locale(language, settings.units.replace("auto", "CF" if language == "en" else "C"),
                  None)


def say_message(station: Station, topic: str, state: str, room: Place, now: int, locale: Locale
                ) -> tuple[str, str]:
    """Title and text of a message."""
    name = station.name
    if state == "back":
        return locale.say("title_back", name=name), locale.say("text_back", name=name)
    if state == "silent":
        ago = locale.say_ago(now - (room.heard or now))
        return (locale.say("title_silent", name=name),
                locale.say("station_silent", name=name, ago=ago))
    verdict = cast(Verdict, room.verdict)
    if topic == "plan":
        times = say_times(cast(Forecast, room.forecast), now, locale)
        smoke = [locale.say("smoke", **describe_air(verdict, locale))] * verdict.air.is_smoke
        return locale.say("title_plan"), " ".join((say_cooler(times, locale)[0], *smoke))
    inside, outside = (" / ".join(locale.say_number(in_unit(celsius, unit))
                                  for unit in locale.unit)
                       for celsius in (verdict.inside, verdict.outside) if celsius is not None)
    return locale.say(f"headline_{state}"), say_answer(
        room, now, locale, "answer_with_numbers", inside=inside, outside=outside)


Told = tuple[int, str, str]     # station, topic, state: as in the table told


def read_told(db: sqlite3.Connection, destination: str) -> dict[tuple[int, str], tuple[str, int]]:
    """By station and topic the state that a destination was told last, and when. Of the empty
    destination: what is true, and since when."""
    return {(station, topic): (state, ms) for station, topic, state, ms in db.execute(
        "SELECT station, topic, state, time FROM told WHERE destination = ?", (destination,))}


class Post:
    """The messages for the courier, made when it asks. They follow from two states: what is true
    now and what each destination was told last. So a repeated try sends what is true by then, and
    what is no longer true is never sent."""

    def __init__(self, server: Server):
        self.server = server
        self.locale = choose_household(server.settings)
        self.heard: dict[int, tuple[int, float]] = {}   # by station; when, and monotonic seconds
        self.failing: dict[str, tuple[str, float, str]] = {}    # by id: name, since when, why
        self.counts: collections.Counter[str] = collections.Counter()   # messages by outcome

    async def collect(self, id: str, destinations: list[str], quiet: str, plan: str
                      ) -> list[dict[str, Any]]:
        """The messages for one of the courier's destinations, from what is true now."""
        self.admit(id)
        places = await self.server.board.look()
        by_name = {place.name: place for place in places}
        now, db, stations = self.server.now(), self.server.writer.db, [
            station for station in self.server.writer.stations.values() if station.name in by_name]
        awake = awake_since(parse_clocks(quiet, 2), now)
        clock = next(iter(parse_clocks(plan, 1)), None)
        rooms = {room["station"]: room for room in describe_rooms(places, now, self.locale)}
        true = read_told(db, "")
        if changes := [row for row in self.look(stations, true, by_name, rooms, clock, now)
                       if row[2] != true.get(row[:2], ("", 0))[0]]:
            self.tell("", changes)
        self.report({id}, destinations)
        true, told = read_told(db, ""), read_told(db, id)
        timely = [(station, topic, *one) for station in stations for topic in TOPICS
                  if (clock or topic != "plan") and (one := true.get((station.id, topic)))
                  and is_timely(one[1], now, awake)]
        zone = clock.tzinfo if clock else None
        return [self.compose(station, topic, state, since, rooms, by_name[station.name], zone)
                for station, topic, state, since in timely
                if is_news(state, told.get((station.id, topic), ("", 0))[0])]

    def tell(self, destination: str, rows: Iterable[tuple[int, str, str, int]]) -> None:
        """Store (station, topic, state, when) as told to a destination, and forget those that were
        told nothing for longest."""
        writer = self.server.writer
        with writer.transaction() as db:
            db.executemany("INSERT OR REPLACE INTO told VALUES (?, ?, ?, ?, ?)", [
                (destination, *row) for row in rows if row[0] in writer.stations])
            db.execute("""
                DELETE FROM told WHERE destination IN (
                    SELECT destination FROM told WHERE destination <> '' GROUP BY 1
                    ORDER BY max(time) DESC LIMIT -1 OFFSET ?)""", (MAX_DESTINATIONS,))

    def look(self, stations: list[Station], true: Mapping[tuple[int, str], tuple[str, int]],
             by_name: Mapping[str, Place], rooms: dict[str, Any], clock: Clock | None, now: int
             ) -> Iterator[tuple[int, str, str, int]]:
        """Rows (station, topic, state, since when) of what is true now. A change that comes late
        counts from when it came."""
        for station in stations:
            place = by_name[station.name]
            kind = choose_kind(place.verdict) if place.verdict else ""
            yield station.id, "verdict", kind, now
            yield from self.listen(station, true, place.heard or 0, now)
            if clock:
                at = last_at(clock, now)
                day = datetime.fromtimestamp(at / 1000, clock.tzinfo).date().isoformat()
                is_worth = place.forecast and is_worth_a_plan(
                    rooms[station.name], self.server.settings.comfort)
                yield station.id, "plan", day if is_worth else "", at

    def listen(self, station: Station, true: Mapping[tuple[int, str], tuple[str, int]],
               heard: int, now: int) -> Iterator[tuple[int, str, str, int]]:
        """Whether a station is silent. Time in which this server did not run does not count."""
        state, since = true.get((station.id, "silence"), ("", 0))
        before, clock = self.heard.get(station.id, (heard, self.server.monotonic()))
        self.heard[station.id] = heard, clock if heard == before else self.server.monotonic()
        quiet = (self.server.monotonic() - self.heard[station.id][1]) * 1000
        if state == "silent" and heard > min(before, since):
            yield station.id, "silence", "back", now
        elif heard and quiet >= max(SILENCE_TOLD, station.silence):
            yield station.id, "silence", "silent", now

    def compose(self, station: Station, topic: str, state: str, since: int,
                rooms: dict[str, Any], place: Place, zone: tzinfo | None) -> dict[str, Any]:
        """A message about what is true now. It names the room if there are several."""
        room = rooms.get(station.name, {})
        is_current = topic == "verdict" and state == room.get("state")
        changed = min(since, (is_current and room["since"]) or since)
        title, text = say_message(station, topic, state, place, self.server.now(),
                                  self.locale._replace(zone=zone))
        if since - changed > LATE:
            is_today = changed >= find_midnight(self.server.now(), zone)
            text += " " + self.locale.say("since", at=self.locale.say_time(
                changed, "" if is_today else "date_clock"))
        if topic != "silence" and len(rooms) > 1:
            title, text = (self.locale.say("in_room", room=station.name, text=said)
                           for said in (title, text))
        line = f"{topic}-{station.created}-{station.id}"    # stations of one instant
        return {"told": (station.id, topic, state), "line": line, "id": f"{line}-{state}-{since}",
                "kind": "plan" if topic == "plan" else state, "station": station.name,
                "title": title, "message": text, "time": format_time(changed),
                **{part: room.get(part) for part in ("state", "difference", "inside", "outside")}}

    def admit(self, id: str) -> None:
        """Make room for what is kept of a destination. Raises StoreError if the server's own
        --notify does not have it."""
        ours = {to.id for to in parse_notify(self.server.settings.notify)}
        if not (id in ours if ours else re.fullmatch("[0-9a-f]{16}", id)):
            raise StoreError("this server has no such destination")
        if len(self.failing) >= MAX_DESTINATIONS and id not in self.failing:
            del self.failing[next(iter(self.failing))]

    def note(self, id: str, name: str, told: list[Told], failure: str) -> None:
        """Note the outcome of a try: what the destination was told, and why the rest failed."""
        self.admit(id)
        self.counts["sent"] += len(told)
        self.counts["failed"] += bool(failure)
        if told:
            self.tell(id, [(*row, self.server.now()) for row in told])
        since = self.failing.pop(id, (name, self.server.monotonic(), ""))[1]
        if failure:
            self.failing[id] = name[:MAX_WORDS], since, failure[:MAX_WORDS]

    def report(self, ids: set[str], destinations: list[str]) -> None:
        """Name the destinations that have failed for an hour on the page, and once in the log."""
        for id in ids | {*self.failing}:
            name, since, why = self.failing.get(id, ("", math.inf, ""))
            is_old = self.server.monotonic() - since >= MESSAGE_AGE / 1000
            self.server.board.note(id, "messages_failed" * (is_old and id in destinations),
                                   name=name, why=why)


def post_json(to: Destination, path: str, document: dict[str, Any]) -> str:
    """POST a document, and return the answer's status and text. Raises Undelivered."""
    with contextlib.closing(Channel(to)) as channel:
        status, words, pause = channel.ask(path, as_json(document),
                                           (("Content-Type", "application/json"),), MAX_ANSWER)
    if not 200 <= status < 300:
        raise Undelivered.by(to, status, words, pause)
    return f"{status} {words}"


def send_ntfy(to: Destination, message: dict[str, Any]) -> str:
    """See https://docs.ntfy.sh/publish/. It is JSON because headers cannot hold a degree sign."""
    document = {
        "topic": to.url.path.strip("/"), "title": message["title"], "message": message["message"],
        "priority": 4 if message["kind"] in {"silent", "alive"} else 3,
        "sequence_id": message["line"], "click": message["link"], "delay": message.get("delay")}
    return post_json(to, "/", {name: value for name, value in document.items() if value})


def send_json(to: Destination, message: dict[str, Any]) -> str:
    """Slack reads the message in `text`, Discord in `content`, and Apprise's server in `body`."""
    shown = {name: value for name, value in message.items() if name not in {"told", "line"}}
    text = message["message"]
    return post_json(to, urllib.parse.urlunsplit(("", "", to.url.path or "/", to.url.query, "")),
                     {**shown, "text": text, "content": text[:2000], "body": text})


def log_in(channel: smtplib.SMTP, user: str, password: str) -> None:
    """Log in with UTF-8 as in RFC 4616, since smtplib can only send ASCII."""
    if (user + password).isascii():
        channel.login(user, password)
        return
    channel.ehlo_or_helo_if_needed()
    proof = base64.b64encode(f"\0{user}\0{password}".encode()).decode()
    code, words = channel.docmd("AUTH", f"PLAIN {proof}")
    if code != 235:
        raise smtplib.SMTPAuthenticationError(code, words)


def send_mail(to: Destination, message: dict[str, Any]) -> str:
    """The header Auto-Submitted (RFC 3834) keeps automatic replies from answering us."""
    mail = EmailMessage()
    for name, value in (("Subject", message["title"]), ("From", to.options["from"]),
                        ("To", to.options["to"]), ("Date", email.utils.formatdate()),
                        ("Message-ID", f"<{message['id']}@iotserver>"),
                        ("Auto-Submitted", "auto-generated")):
        mail[name] = value
    mail.set_content("\n\n".join(filter(None, (message["message"], message["link"]))))
    host = to.url.hostname or ""
    port = to.url.port or (587 if to.is_secure else 25)
    how: dict[str, Any] = {"timeout": TRY_SECONDS, "local_hostname": socket.gethostname()}
    channel = (smtplib.SMTP_SSL(context=tls(), **how) if to.is_secure and port == 465
               else smtplib.SMTP(**how))
    cast(Any, channel)._host = host     # TLS compares the certificate with it
    with contextlib.closing(channel), in_time(channel):
        code, words = channel.connect(host, port)
        if code != 220:
            raise smtplib.SMTPConnectError(code, words)
        if to.is_secure and port != 465:
            channel.starttls(context=tls())
        if any(to.login):
            log_in(channel, *to.login)
        refused = channel.send_message(mail)
    return f"250 taken{', but not for ' * bool(refused)}{', '.join(refused)}"


SENDERS: dict[str, Callable[[Destination, dict[str, Any]], str]] = {
    "ntfy": send_ntfy, "json": send_json, "mailto": send_mail}


def send(to: Destination, message: dict[str, Any]) -> str:
    """Send a message, and return the destination's words. Raises Undelivered without secrets."""
    try:
        return hide(to, SENDERS[to.kind](to, message))
    except Undelivered as error:
        failure = error.with_traceback(None)
    except Exception as error:          # no failure of one destination may end the courier
        is_final = isinstance(error, smtplib.SMTPDataError) and error.smtp_code >= 500
        failure = Undelivered(hide(to, str(error) or type(error).__name__), is_final=is_final)
    try:
        raise failure   # outside of `except`, whose error would keep the connection in memory
    finally:
        del failure     # it holds this frame, which would hold it


def gather(kind: str, messages: list[dict[str, Any]], alone: Container[str]
           ) -> Iterator[tuple[list[dict[str, Any]], dict[str, Any]]]:
    """Join messages of one kind, so that one names all rooms that change at once. With ntfy each
    room keeps its own, which replaces the one before on the phone; so do those of the ids alone,
    since one of them may be why all were refused."""
    def key(message: dict[str, Any]) -> str:
        return cast(str, message[
            "id" if kind == "ntfy" or message["id"] in alone else "kind"])

    for _, group in itertools.groupby(sorted(messages, key=key), key):
        joined = list(group)
        yield joined, {**joined[0], **{
            part: "; ".join(message[part] or "" for message in joined) or None
            for part in ("title", "message", "station")}}


class Messenger:
    """The errand that carries messages to one destination of --notify. After a failed try all of
    them wait, with growing pauses; one that is refused for good keeps no other back."""

    def __init__(self, settings: argparse.Namespace, to: Destination):
        self.settings, self.to, self.locale = settings, to, choose_household(settings)
        self.destinations = [other.id for other in parse_notify(settings.notify)]
        self.outcome: tuple[list[Told], str] | None = None      # of a try, until it is noted
        self.refused: dict[str, tuple[int, float]] = {}     # by id: tries, and when to try again
        self.alive = ""                 # why it last refused the message of alive=
        self.pause, self.next_try = PAUSES[0], 0.0
        self.renews = 0.0               # when to put off the message of alive= again

    def step(self, server: Remote) -> float:
        """Do one step, and return the seconds until the next."""
        self.note(server)
        wanted = server.collect(self.to.id, self.destinations, self.settings.quiet,
                                self.settings.notify_plan)
        self.refused = {message["id"]: self.refused[message["id"]] for message in wanted
                        if message["id"] in self.refused}
        if (now := time.monotonic()) >= self.next_try:
            self.deliver(server, [message for message in wanted
                                  if self.refused.get(message["id"], (0, 0))[1] <= now])
        return 1

    def note(self, server: Remote) -> None:
        """Tell the server the outcome of a try: what was delivered, or why nothing was."""
        if self.outcome:
            server.note(self.to.id, self.to.name, *self.outcome)
            self.outcome = None

    def deliver(self, server: Remote, messages: list[dict[str, Any]]) -> None:
        """Send messages, up to the first failure, and last the one of alive=."""
        for joined, message in gather(self.to.kind, messages, self.refused):
            try:
                self.send(message)
                self.outcome = [part["told"] for part in joined], self.alive
            except Undelivered as error:
                self.outcome = [], str(error)
                if not error.is_final:
                    self.wait(error)
                    self.note(server)
                    return
                self.refuse(joined, error)
            self.note(server)
        self.pause = PAUSES[0]
        self.keep_alive(server)

    def send(self, message: dict[str, Any]) -> None:
        send(self.to, {**message, "link": self.settings.link or None})

    def wait(self, failure: Undelivered) -> None:
        """Keep back all messages after a failed try."""
        if self.pause == PAUSES[0]:
            log(f"courier: {self.to.name}: {failure}; this is tried again")
        self.next_try = time.monotonic() + max(self.pause, failure.pause)
        self.pause = min(2 * self.pause, PAUSES[1])

    def refuse(self, messages: list[dict[str, Any]], failure: Undelivered) -> None:
        """Try refused messages again later, each alone, and drop them after MAX_REFUSED tries."""
        for message in messages:
            tries = self.refused.get(message["id"], (0, 0))[0] + 1
            again = time.monotonic() + max(PAUSES[0] * tries, failure.pause)
            if tries == MAX_REFUSED:
                again = math.inf
                words = f" {failure.words}" * bool(failure.words)
                log(f"courier: {self.to.name}: {failure}{words}; dropped: {message['message']}")
            self.refused[message["id"]] = tries, again

    def keep_alive(self, server: Remote) -> None:
        """Put off again the message that ntfy shall send later. If it comes, the house or the
        machine is cut off. It does not come in quiet hours; if it is refused, nothing waits."""
        is_asked = self.to.kind == "ntfy"           # other kinds may use alive= for themselves
        delay = parse_duration(self.to.options.get("alive", "0s")) if is_asked else 0
        if not delay or time.monotonic() < self.renews:
            return
        self.renews = time.monotonic() + delay / 3000
        then, quiet = now_ms() + delay, parse_clocks(self.settings.quiet, 2)
        if awake_since(quiet, then) is None:
            delay += last_at(quiet[1], then + DAY) - then
        house = "alive-" + hash_key(f"{socket.gethostname()} {self.settings.db}").hex()[:16]
        try:
            self.send({"kind": "alive", "id": house, "line": house, "station": None,
                       "title": self.locale.say("no_word"),
                       "delay": f"{min(delay, MAX_ALIVE) // 1000}s",
                       "message": self.locale.say("cut_off", ago=self.locale.say_ago(delay))})
            self.alive = ""
        except Undelivered as error:            # some servers of ntfy refuse it for ever
            self.renews = time.monotonic() + PAUSES[1]
            self.alive = f"alive=: {error}"
        self.outcome = [], self.alive
        self.note(server)


def try_message(args: argparse.Namespace, path: Path) -> None:
    """Send a test message to all destinations at once, and print what each answers."""
    require(args.notify, "--try-message needs --notify URLS")
    message = {**dict.fromkeys(("station", "state", "difference", "inside", "outside", "told")),
               "kind": "test", "title": "iotserver", "line": "test", "id": f"test-{now_ms()}",
               "message": choose_household(args).say("test"), "time": format_time(now_ms()),
               "link": args.link or None}
    destinations = parse_notify(args.notify)
    answers: dict[int, str | Undelivered] = {}

    def attempt(number: int) -> None:
        try:
            answers[number] = send(destinations[number], message)
        except Undelivered as error:
            answers[number] = error

    threads = [threading.Thread(target=attempt, args=(number,), daemon=True)
               for number in range(len(destinations))]
    for thread in threads:
        thread.start()
    deadline, failed = time.monotonic() + TRY_SECONDS + 1, 0
    for number, to in enumerate(destinations):
        threads[number].join(max(0, deadline - time.monotonic()))
        answer = answers.get(number, Undelivered(TOO_LATE))
        if isinstance(answer, Undelivered):
            failed += 1
            answer = " ".join(filter(None, ("failed:", str(answer), answer.words)))
        print(f"{to.name}: {answer}")
    if failed:
        raise StoreError(f"{failed} of {len(threads)} destinations did not accept the message")


async def sample_messages(server: Server) -> list[Family]:
    counts = part_of(server, Post).counts
    return [("messages_total", "counter", "Messages by what became of them",
             [({"result": result}, counts[result]) for result in ("sent", "failed")])]


SETTINGS += [
    Setting("notify", "URLS", "", as_text(parse_notify),
            "where messages go, separated by blanks: ntfys://HOST/TOPIC, jsons://HOST/PATH or "
            "mailtos://USER:PASSWORD@HOST/?from=A&to=B. Use IOTSERVER_NOTIFY if another user of "
            "this machine could read the command line", is_carried=True),
    Setting("notify-plan", "HH:MM[ ZONE]", "", as_text(lambda text: parse_clocks(text, 1)),
            "on hot days, a message at this time that says when it will be cooler outside",
            is_carried=True),
    Setting("quiet", "HH:MM-HH:MM[ ZONE]", "", as_text(lambda text: parse_clocks(text, 2)),
            "send no messages in these hours, in this machine's time zone or in one like "
            "America/New_York", is_carried=True)]
ERRANDS["notify"] = lambda settings: [
    Messenger(settings, to) for to in parse_notify(settings.notify)]
OWNED["told"] = "station"
FAMILIES.append(sample_messages)
COURIER_METHODS |= {
    "collect": lambda server, *wishes: part_of(server, Post).collect(*wishes),
    "note": lambda server, *outcome: part_of(server, Post).note(*outcome)}
COMMANDS.append(Command(
    "try-message", (), try_message, "send a test message; prints what each destination answers"))


# ------------------------------------------------------------------------------------------------
# 22. Forwarding
#    Law: positions in memory run ahead of the saved ones; after a failure, sending resumes from
#    the saved ones.
# ------------------------------------------------------------------------------------------------
FORWARD_ROWS = 5000             # readings in one post to an engine, as its makers advise
FORWARD_SERIES = 200            # series in one post; each costs the server 20 us in two queries
FORWARD_SECONDS = 0.5           # between two requests for readings to forward
FORWARD_MEMORY = 7 * DAY        # how long we remember what an engine lacks that no longer asks
FORWARD_AHEAD = HOUR            # a reading further in the future waits until it is due
CHECK_SECONDS = 20               # until a query shows what was sent; VictoriaMetrics needs 5 to 10
SETTLE_SECONDS = 10             # until it is on the engine's disk; VictoriaMetrics needs 5
PROOF_SECONDS = 2               # between two answers that prove that the engine has not crashed
PROBES = 20                     # lines tried alone, where an engine has refused all lines so far


def parse_engine(text: str) -> Destination:
    """The URL of --forward. Raises Usage, whose text does not repeat the URL."""
    try:
        require(re.fullmatch("[!-~]+", text), "")
        to = parse_destination(text, {"http": ("anything", ".*")})
    except Usage:
        raise Usage("write http[s]://[USER:PASSWORD@|TOKEN@]HOST[:PORT]/PATH?QUERY") from None
    address = f"{to.url.scheme} {to.host} {to.url.path} {to.url.query}"
    return to._replace(id=hashlib.sha256(address.encode()).hexdigest())     # databases know it so


Position: TypeAlias = tuple[int, int]       # in a series: a time and an entry number


# Readings of one series for an engine: station, role, field, label, and (time, value) pairs
# without texts.
Piece: TypeAlias = tuple[str, str | None, int, str | None, list[tuple[int, float]]]


class Outbox:
    """The positions in each series from which an engine lacks readings. Memory runs ahead of the
    file, which follows once the engine must have written the readings to its disk. Any failure
    begins a new session from the file's positions, so all that the engine may have lost is sent
    again. An engine that is away costs at most one row for each series."""

    def __init__(self, database: Database):
        self.database, self.db = database, database.db
        found: tuple[str | None, int] = (
            self.db.execute("SELECT * FROM forward").fetchone() or (None, 0))
        self.engine, self.asked = found         # None: nothing is forwarded
        self.unsent: dict[int, Position] = {    # by series, as in the file
            series: (ms, entry) for series, ms, entry in self.db.execute("SELECT * FROM unsent")}
        self.pending: dict[int, Position] = {}
        self.begin("")

    def begin(self, session: str) -> None:
        """Begin a session from the positions in the file. The series that the last one took come
        last now, so that one whose lines are all refused does not keep the others waiting."""
        self.session = session
        self.pending = {                        # by series: the first reading to take next
            series: self.unsent[series] for series in dict.fromkeys((*self.pending, *self.unsent))
            if series in self.unsent}
        # When readings were taken, in monotonic seconds, and by series the position behind them.
        self.taken: collections.deque[tuple[float, dict[int, Position]]] = collections.deque()

    def mark(self, batch: Batch) -> None:
        """Mark what is being stored as unsent if there is an engine. The caller has begun a
        transaction."""
        if self.engine is None:
            return
        if batch.now - self.asked >= FORWARD_MEMORY:
            self.forget()
            return
        first: dict[int, int] = {}
        for series, ms, _, _ in batch.readings:
            if ms < first.get(series, LATEST_TIME):
                first[series] = ms
        marks = []
        for series, ms in first.items():
            position = (ms, 0)
            if position < self.unsent.get(series, (LATEST_TIME, 0)):
                self.unsent[series] = position
                marks.append((series, *position))
            self.pending[series] = min(position, self.pending.get(series, position))
            for _, behind in self.taken:        # a late reading lies before a position already
                if position < behind.get(series, (0, 0)):       # sent: move that position back
                    behind[series] = position
        self.db.executemany("INSERT OR REPLACE INTO unsent VALUES (?, ?, ?)", marks)

    def forget(self) -> None:
        """Forward nothing from now on. The caller has begun a transaction."""
        self.db.execute("DELETE FROM forward")
        self.db.execute("DELETE FROM unsent")
        self.engine, self.unsent = None, {}
        self.begin("")

    def serve(self, engine: str, now: int) -> bool:
        """Whether all that an engine lacks is marked. An engine that asks for the first time, or
        after FORWARD_MEMORY, lacks everything; each call marks some more series."""
        if engine == self.engine and now - self.asked < FORWARD_MEMORY:
            if now - self.asked >= HOUR:
                with self.database.transaction() as db:
                    db.execute("UPDATE forward SET asked = ?", (now,))
                self.asked = now
            return True
        if self.engine:
            with self.database.transaction():
                self.forget()
        unknown = list(itertools.islice((
            series for series in self.database.series_places if series not in self.unsent),
            FORWARD_SERIES))
        is_known = len(unknown) < FORWARD_SERIES
        with self.database.transaction() as db:
            db.executemany("REPLACE INTO unsent VALUES (?, 0, 0)", [(id,) for id in unknown])
            if is_known:
                db.execute("INSERT INTO forward VALUES (?, ?)", (engine, now))
        self.unsent |= dict.fromkeys(unknown, (0, 0))
        if is_known:
            self.engine, self.asked = engine, now
        return is_known

    def take(self, reader: sqlite3.Connection, until: int, monotonic: float) -> list[Piece]:
        """The readings to send next, up to an instant. The series take turns."""
        if not self.taken or monotonic >= self.taken[-1][0] + PROOF_SECONDS:
            self.taken.append((monotonic, {}))
        pieces, limit = [], FORWARD_ROWS
        for series, position in list(itertools.islice(self.due(until), FORWARD_SERIES)):
            rows = read_readings(reader, series, position, limit=limit + 1)
            ready = [row for row in rows[:limit] if row[0] < until]
            del self.pending[series]            # so that the rest of it becomes the last in turn
            if len(rows) > len(ready):
                self.pending[series] = rows[len(ready)][:2]
            self.taken[-1][1][series] = (ready[-1][0], ready[-1][1] + 1) if ready else position
            for names in reader.execute("""
                    SELECT name, role, field, label FROM series JOIN station
                    ON station.id = station WHERE series.id = ?""", (series,)).fetchall():
                pieces.append((*names, [
                    (ms, value) for ms, _, value in ready if not isinstance(value, str)]))
            limit -= len(ready)
            if not limit:
                break
        return pieces

    def due(self, until: int) -> Iterator[tuple[int, Position]]:
        """The series with readings to take before an instant, and where these begin."""
        return ((series, position) for series, position in self.pending.items()
                if position[0] < until)

    def settle(self, monotonic: float) -> None:
        """Store some positions behind what was taken long ago, if nothing has failed since."""
        while self.taken and not self.taken[0][1]:
            self.taken.popleft()
        if not self.taken or monotonic < self.taken[0][0] + SETTLE_SECONDS + PROOF_SECONDS:
            return
        behind = self.taken[0][1]
        count = min(len(behind), FORWARD_SERIES)
        with self.database.transaction(places=count) as db:     # may first store late readings
            for series, position in [behind.popitem() for _ in range(count)]:
                if read_readings(db, series, position, limit=1):
                    self.unsent[series] = position
                    db.execute("REPLACE INTO unsent VALUES (?, ?, ?)", (series, *position))
                else:
                    self.unsent.pop(series, None)
                    db.execute("DELETE FROM unsent WHERE series = ?", (series,))


def take_unsent(server: Server, engine: str, session: str) -> tuple[list[Piece], bool, bool]:
    """What an engine gets next, whether there is more, and whether all before is settled. By
    asking again, a session confirms that the engine has taken all that it was given."""
    ours = server.settings.forward
    if ours and engine != parse_engine(ours).id:
        raise StoreError("this server forwards to another engine")
    if not part_of(server.writer, Outbox).serve(engine, server.now()):
        return [], True, True
    outbox, until = part_of(server.writer, Outbox), server.now() + FORWARD_AHEAD
    if session != outbox.session:
        outbox.begin(session)
    outbox.settle(server.monotonic())
    is_settled = not outbox.taken
    pieces = outbox.take(server.reader.db, until, server.monotonic())
    return pieces, any(outbox.due(until)), is_settled


TAG = str.maketrans({"\\": "/", ",": r"\,", "=": r"\=", " ": r"\ "})    # engines lose a backslash


def render_lines(station: str, role: str | None, field: int, label: str | None,
                 points: Iterable[tuple[int, float]]) -> list[str]:
    """A Piece in InfluxDB's line protocol. All values are floats, as a column keeps its type."""
    tags = (("station", station), ("field", str(field)), ("label", label), ("role", role))
    head = ",".join(("iotserver", *(f"{tag}={text.translate(TAG)}" for tag, text in tags if text)))
    return [f"{head} value={float(value)!r} {ms}\n" for ms, value in points]


class Forwarder:
    """The errand that carries all readings to the engine of --forward. Any failure ends a session;
    the next one gets again all that the engine may have lost."""

    def __init__(self, settings: argparse.Namespace):
        self.to = parse_engine(settings.forward)
        self.query = "&".join([*(part for part in self.to.url.query.split("&")
                                 if part and not part.startswith("precision=")), "precision=ms"])
        self.channel = Channel(self.to)
        self.session = secrets.token_hex(8)
        self.accepted = ""              # a line that the engine has taken in this session
        self.pause, self.said = float(PAUSES[0]), ""
        self.answered = 0.0             # when the engine last answered
        self.oldest: tuple[int, str, int] | None = None     # time, station, field
        self.check_at = math.inf        # when to ask the engine for it

    def step(self, server: Remote) -> float:
        """Do one step, and return the seconds until the next."""
        session, self.session = self.session, secrets.token_hex(8)     # kept if all goes well
        pieces, has_more, is_settled = server.take_unsent(self.to.id, session)
        try:
            self.prove(is_settled, bool(pieces))
            if lines := [line for piece in pieces for line in render_lines(*piece)]:
                refused = self.post(lines)
                self.say("it takes readings" if not refused else
                         f"it refuses some readings, which are skipped: {refused[0].words}")
                self.remember_oldest(pieces)
            self.check_oldest(server)
        except Undelivered as error:
            self.accepted = ""
            self.channel.close()
            server.give_back()
            self.say(": ".join(filter(None, (str(error), error.words))) + "; readings wait")
            pause, self.pause = max(self.pause, error.pause), min(2 * self.pause, PAUSES[1])
            return pause
        self.session, self.pause = session, PAUSES[0]
        return 0 if has_more else FORWARD_SECONDS

    def say(self, text: str) -> None:
        if text != self.said:
            log(f"courier: {self.to.name}: {text}")
        self.said = text

    def prove(self, is_settled: bool, is_asked: bool) -> None:
        """Raise Undelivered if the engine may have crashed before all was on its disk. A crash
        ends the kept connection, which is kept busy until all is settled."""
        if self.channel.is_cut():
            self.channel.close()
            if not is_settled:
                raise Undelivered("it has closed the connection")
        if not (is_settled or is_asked) and time.monotonic() >= self.answered + PROOF_SECONDS:
            answer = self.ask(self.base() + "/ping")
            if answer[0] in {502, 503, 504}:
                raise Undelivered.by(self.to, *answer)

    def base(self) -> str:
        return re.sub("(/api/v2)?/write/?$", "", self.to.url.path)

    def ask(self, path: str, body: bytes | None = None, headers: Headers = ()
            ) -> tuple[int, str, float]:
        answer = self.channel.ask(path, body, headers)
        self.answered = time.monotonic()
        return answer

    def post(self, lines: list[str]) -> list[Undelivered]:
        """Send lines, and return why the engine refuses some of them for good. These are skipped,
        but only while it takes others; else it is not set up yet. Raises Undelivered."""
        refusal = self.try_lines(lines)
        if not refusal:
            return []
        if "partial write" in refusal.words:        # InfluxDB has stored the other lines
            return [refusal]
        if len(lines) == 1:
            if self.accepted and not self.try_lines([self.accepted]):
                return [refusal]
            raise refusal
        if not self.accepted:
            probes = secrets.SystemRandom().sample(lines, min(PROBES, len(lines)))
            if all(self.try_lines([line]) for line in probes):
                raise refusal
        half = len(lines) // 2
        return self.post(lines[:half]) + self.post(lines[half:])

    def try_lines(self, lines: list[str]) -> Undelivered | None:
        """Send lines in one request; None if they are taken, else why they are refused for good.
        Raises Undelivered if they are to be sent again."""
        body, headers = "".join(lines).encode(), Headers()
        if len(body) >= PACKED_FROM:
            body, headers = gzip.compress(body, 1), (("Content-Encoding", "gzip"),)
        answer = self.ask(f"{self.to.url.path or '/'}?{self.query}", body, headers)
        if 200 <= answer[0] < 300:
            self.accepted = lines[-1]
            return None
        failure = Undelivered.by(self.to, *answer)
        if not failure.is_final:
            raise failure
        return failure

    def remember_oldest(self, pieces: Iterable[Piece]) -> None:
        """Remember the oldest reading that was ever sent, to ask for it a little later."""
        for station, _, field, _, points in pieces:
            if points and (not self.oldest or points[0][0] < self.oldest[0]):
                self.oldest = points[0][0], station, field
                self.check_at = time.monotonic() + CHECK_SECONDS

    def check_oldest(self, server: Remote) -> None:
        """Ask the engine once for the oldest reading, since it may have dropped it silently."""
        if not self.oldest or time.monotonic() < self.check_at:
            return
        self.check_at = time.monotonic() + PAUSES[1]    # if it is too busy to answer
        is_there = self.has(*self.oldest)
        self.check_at = math.inf
        if is_there is None:
            log(f"courier: {self.to.name} cannot be asked whether it keeps what it accepts")
        server.warn("engine_dropped" * (is_there is False), self.to.name,
                    format_time(self.oldest[0]))

    def has(self, ms: int, station: str, field: int) -> bool | None:
        """Whether the engine has a reading; None if it cannot be asked. Raises Undelivered."""
        station = station.replace("\\", "/")    # as render_lines has sent it
        name, quoted = json.dumps(station, ensure_ascii=False), station.replace("'", "\\'")
        words = self.question("/api/v1/export", {       # VictoriaMetrics: one JSON a line
            "match[]": f'{{__name__="iotserver_value",station={name},field="{field}"}}',
            "start": (ms - 1) / 1000, "end": (ms + 1) / 1000})
        with contextlib.suppress(ValueError, LookupError, TypeError, AttributeError):
            if words is not None:
                return any(ms in json.loads(row)["timestamps"] for row in words.splitlines())
            bucket = self.to.options.get("bucket")      # InfluxDB 2 has it in place of a database
            words = self.question("/query", ({"db": bucket} if bucket else {}) | {
                "epoch": "ms",
                "q": f"SELECT value FROM iotserver WHERE station = '{quoted}' "
                     f"""AND "field" = '{field}' AND time = {ms}ms"""})
            result = json.loads(words or "")["results"][0]
            if "statement_id" in result:        # only InfluxDB has it
                return "series" in result
        return None

    def question(self, path: str, query: Mapping[str, Any]) -> str | None:
        """The answer to a question, which has the parameters of --forward too; None if the engine
        knows no such question. Raises Undelivered if it is too busy."""
        answer = self.ask(f"{self.base()}{path}?{self.query}&{urllib.parse.urlencode(query)}")
        if answer[0] in {429, 503}:
            raise Undelivered.by(self.to, *answer)
        return answer[1] if answer[0] == HTTPStatus.OK else None


async def sample_lag(server: Server) -> list[Family]:
    lag = await count_from(server.reader.db, part_of(server.writer, Outbox).pending)
    return [("forward_lag_readings", "gauge", "Readings that an engine has yet to get",
             [({}, lag)])]


SETTINGS.append(Setting(
    "forward", "URL", "", as_text(parse_engine), "a database to which all readings are copied in "
    "InfluxDB's line protocol, like http://HOST:8428/write?db=iot. Use IOTSERVER_FORWARD if it "
    "contains a password", is_carried=True))
ERRANDS["forward"] = lambda settings: [Forwarder(settings)]
ON_WRITE.append(lambda database, batch: part_of(database, Outbox).mark(batch))
OWNED["unsent"] = "series"
FAMILIES.append(sample_lag)
COURIER_METHODS |= {
    "take_unsent": take_unsent,
    "give_back": lambda server: part_of(server.writer, Outbox).begin(""),
    "warn": lambda server, key, name, at: server.board.note("forward", key, name=name, at=at)}


# ------------------------------------------------------------------------------------------------
# 23. Import
#    Law: files of others become rows; a row that is no reading is counted and left out.
# ------------------------------------------------------------------------------------------------
NO_READING = "rows without a reading: NULL, or a blob"


def read_json(file: BinaryIO, name: str, station: Station | None, remarks: Remarks
              ) -> Iterator[Row]:
    """The rows of a feeds.json of ThingSpeak."""
    feed = None
    remarks.where = lambda: f"entry {cast(Any, feed)['entry_id']}"
    try:
        document = json.load(file)
        names = {field: str((document.get("channel") or {}).get(f"field{field}") or "").strip()
                 for field in range(1, MAX_FIELDS + 1)}
        remarks.labels = {field: name for field, name in names.items() if name and is_label(name)}
        for feed in document["feeds"]:
            yield from thingspeak_rows(feed, station, remarks)
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise StoreError(f"{name}: this is not a feeds.json of ThingSpeak: {error}"
                         + (f", in {str(feed)[:80]}" if feed else "")) from None


def thingspeak_rows(feed: Mapping[str, object], station: Station | None, remarks: Remarks
                    ) -> Iterator[Row]:
    """The readings of an entry with ThingSpeak's names. An empty cell is no reading."""
    if station is None:
        raise Usage("a file of ThingSpeak needs --station NAME: the station it belongs to")
    when, entry = parse_time(str(feed["created_at"])), parse_entry(str(feed["entry_id"]))
    for field in range(1, 10):
        value = feed.get(f"field{field}")
        text = "" if value is None else str(value).strip()
        if text := text.encode("utf-8", "replace").decode():    # JSON may contain lone surrogates
            if is_value(text):
                yield Row(when, station.name, station.mac, field, parse_value(text), entry)
            else:
                remarks.skip(text)


def read_table(db: sqlite3.Connection, station: Station | None, remarks: Remarks
               ) -> Iterator[Row]:
    """The rows of the older table data(Id, API_key, date_time, mac, field, data), with Id as entry
    number. Raises ValueError."""
    remarks.where = lambda: f"Id {id}"
    for id, *cells in db.execute("SELECT Id, date_time, mac, field, data FROM data ORDER BY Id"):
        if any(cell is None or isinstance(cell, bytes) for cell in cells):
            remarks.left_out[NO_READING] += 1
            continue
        when, mac, field, value = map(str, cells)
        if not is_value(value):
            remarks.skip(value)
            continue
        number = id if isinstance(id, int) and 0 < id <= LARGEST_ENTRY else None
        try:
            row = Row(parse_time(when), "", parse_mac(mac), parse_field(field),
                      parse_value(value), number)
        except (ValueError, Refused) as error:
            raise ValueError(f"Id {id}: {error}") from None
        yield row


def read_feeds_csv(header: list[str], lines: Iterator[list[str]], station: Station | None,
                   remarks: Remarks) -> Iterator[Row]:
    """ThingSpeak's CSV export. Raises ValueError."""
    for cells in lines:
        yield from thingspeak_rows(dict(zip(header, cells, strict=True)), station, remarks)


CSV_KINDS.append((lambda header: header[:2] == ["created_at", "entry_id"], read_feeds_csv))
FILE_KINDS[b"{"] = read_json
TABLE_KINDS["data"] = read_table


# ------------------------------------------------------------------------------------------------
# 24. Private page
#    Law: without the password a private server shows nothing but what is open to all.
# ------------------------------------------------------------------------------------------------
MAX_CREDENTIALS = 1024          # bytes of an Authorization header; longer ones are not decoded
MIN_PASSWORD = 8                # characters, the least that NIST SP 800-63B allows
SCRYPT = {"n": 2 ** 14, "r": 8, "p": 1}     # each check takes 16 MB and about 50 ms
# Minimum seconds between scrypt checks, which take a third of a processor with these pauses: for
# addresses without a wrong guess, and for those with one. Each kind has one check at a time.
SCRYPT_PAUSES = {False: 0.25, True: 1.0}
CHECK_SECONDS = 10              # for a process that checks a password; it takes about 0.1 s
# Its program: salt and password on standard input, because every user can read command lines.
SCRYPT_PROGRAM = f"""import hashlib, signal, sys
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
data = sys.stdin.buffer.read()
print(hashlib.scrypt(data[16:], salt=data[:16], **{SCRYPT}).hex())"""


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
        raise StoreError(f"--private {name}: not a password file; --set-password makes one")
    return text


PROOF = "iotserver"             # the cookie of browsers that have given the password


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


async def hash_aside(password: str, salt: bytes) -> str:
    """hash_password in a process of its own, because scrypt would block the event loop. Without a
    digest if that process fails. It ends by itself, even if this one is killed."""
    answered, loop = asyncio.Event(), asyncio.get_running_loop()
    with contextlib.suppress(OSError, TimeoutError), subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", SCRYPT_PROGRAM], bufsize=0, start_new_session=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        pipe, output = cast(io.FileIO, process.stdin), cast(io.FileIO, process.stdout)
        loop.add_reader(output, answered.set)
        try:        # the pipe holds both, and the answer is one line, written at once
            pipe.write(salt + password.encode("utf-8", "replace"))
            pipe.close()
            await asyncio.wait_for(answered.wait(), CHECK_SECONDS)
            return f"scrypt {salt.hex()} {output.read(200).decode()}"
        finally:
            loop.remove_reader(output)
            process.kill()
    return ""


class Password:
    """The guard of a private server: it admits clients that know the password of a file."""

    def __init__(self, content: str, server: Server):
        self.content, self.server, self.access = content, server, server.access
        self.proven: bytes | None = None        # SHA-256 of the password, once it was given
        self.slots = {True: 0.0, False: 0.0}    # when scrypt may run again; keys: a wrong guess
        self.checks: dict[bytes, Check] = {}    # in progress, by the password's SHA-256

    def admit(self, request: Request) -> Check | None:
        """Admit a client that sends the password, with any user name, or the cookie of an earlier
        admission, which outlives a restart. Raises Refused 401, 403, 429, 503."""
        headers = request.headers
        if headers.get("sec-fetch-site") == "cross-site" \
                and headers.get("sec-fetch-mode") != "navigate":
            raise Refused(403, "this server is private: other sites cannot read it")
        if hmac.compare_digest(find_cookie(headers, PROOF).encode(), self.proof().encode()):
            return None
        password = parse_basic(headers.get("authorization", ""))
        if password is None:
            raise self.refusal()
        digest = hash_key(password[:MAX_SECRET + 1])
        self.access.guesses.refuse(request.address, digest)
        if matches(digest, self.proven):
            self.access.guesses.accept(request.address, digest)
            return None
        if self.proven is None and len(password) <= MAX_SECRET:
            return self.checks.get(digest) or self.begin_check(password, digest, request.address)
        self.access.guesses.add(request.address)
        raise self.refusal()

    def refusal(self) -> Refused:
        return Refused(401, "this server is private: log in with its password",
                       WWW_Authenticate='Basic realm="iotserver", charset="UTF-8"')

    def proof(self) -> str:
        """The cookie's value, which follows from the password file: a new password ends it."""
        return hmac.digest(self.content.encode(), b"iotserver reader", "sha256").hex()

    def begin_check(self, password: str, digest: bytes, address: str) -> Check:
        """Check a password by scrypt, whether or not its client stays. Raises Refused 503."""
        has_guessed = any(place in self.access.guesses.counts
                          for place in networks(address[:MAX_ADDRESS]))
        if self.access.monotonic() < self.slots[has_guessed]:
            raise Refused(503, "busy; try again", Retry_After="1")
        self.slots[has_guessed] = math.inf
        check = self.server.loop.create_task(self.check(password, digest, address))
        self.checks[digest] = check

        def end(_: Check) -> None:
            del self.checks[digest]
            self.slots[has_guessed] = self.access.monotonic() + SCRYPT_PAUSES[has_guessed]

        check.add_done_callback(end)
        return check

    async def check(self, password: str, digest: bytes, address: str) -> Refused | None:
        found = await hash_aside(password, bytes.fromhex(self.content.split()[1]))
        if not found.endswith("\n"):
            return Refused(503, "busy; try again", Retry_After="1")
        if hmac.compare_digest(found, self.content):
            self.proven = digest
            self.access.guesses.accept(address, digest)
            return None
        self.access.guesses.add(address)
        return self.refusal()

    def page_headers(self, request: Request) -> Headers:
        """The cookie, which comes with each page."""
        secure = "; Secure" if request.peer is None else ""     # the proxy speaks TLS
        return (("Set-Cookie", f"{PROOF}={self.proof()}; Max-Age=31536000; Path=/; HttpOnly; "
                 f"SameSite=Strict{secure}"),)


def keep_private(server: Server) -> None:
    if server.settings.private:
        server.guard = Password(read_password(server.settings.private), server)
        server.board.cache_control = "no-store"


def set_password(args: argparse.Namespace, path: Path, name: str) -> None:
    target = Path(name).absolute()
    if sys.stdin.isatty():
        password = getpass.getpass("new password: ")
        require(password == getpass.getpass("once more: "), "they differ; nothing was changed")
    else:
        password = sys.stdin.readline().rstrip("\r\n")
    require(len(password) >= MIN_PASSWORD, f"a password needs {MIN_PASSWORD} characters or more")
    with replacing(target, path) as partial:
        partial.write_text(hash_password(password, secrets.token_bytes(16)), encoding="ascii")
    print(f"{target} holds the new password; (re)start the server with --private {target}")


SETTINGS.append(Setting(
    "private", "FILE", "", str, "ask for a password on everything but updates; FILE is made by "
    "--set-password"))
ON_SERVER.append(keep_private)
COMMANDS.append(Command(
    "set-password", ("FILE",), set_password, "write the password file of --private; asks for the "
    "password, or reads it from standard input"))


# ------------------------------------------------------------------------------------------------
# 25. Metrics
#    Law: metrics only read, and contain no MAC and no key.
# ------------------------------------------------------------------------------------------------
def sample_commits(turn: "Turn") -> Samples:
    """A histogram: each bucket counts the commits up to its limit. The value of the label without
    a name is a suffix of the metric's name."""
    for limit, count in zip(COMMIT_SECONDS, itertools.accumulate(turn.commits), strict=True):
        yield {"": "_bucket", "le": "+Inf" if limit == math.inf else str(limit)}, count
    yield {"": "_sum"}, turn.seconds
    yield {"": "_count"}, sum(turn.commits)


def sample_readings(server: Server) -> Samples:
    ids, stations = [*server.writer.stations], server.writer.stations
    for first in range(0, len(ids), STEP_STATIONS):
        for series in server.reader.latest(ids[first:first + STEP_STATIONS], server.now()):
            station = stations.get(series.station)
            if station and isinstance(series.value, (int, float)):  # no text, and not empty
                yield {"station": station.name, "role": station.role or "",
                       "field": str(series.field),
                       "label": series.label or LABELS.get(series.field, "")}, series.value


def sample_metrics(server: Server) -> Iterator[Family]:
    """The families of metrics of the house, without those of the wings."""
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
    yield ("build_info", "gauge", "Always 1; the versions are its labels",
           [({"version": __version__, "python": sys.version.split()[0],
              "sqlite": sqlite3.sqlite_version}, 1)])


ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})


async def get_metrics(request: Request, server: Server) -> Answer:
    """Answer a scrape of Prometheus."""
    await server.board.look()
    lines: list[str] = []
    families = [family for tell in FAMILIES for family in await tell(server)]
    for name, kind, text, samples in (*sample_metrics(server), *families):
        lines.append(f"# HELP iotserver_{name} {text}\n# TYPE iotserver_{name} {kind}\n")
        for labels, value in samples:
            await pause()
            suffix = labels.pop("", "")
            pairs = ",".join(f'{label}="{text.translate(ESCAPES)}"'
                             for label, text in labels.items())
            lines.append(f"iotserver_{name}{suffix}{pairs and f'{{{pairs}}}'} {value:.15g}\n")
    return Answer("".join(lines).encode(), "text/plain; version=0.0.4; charset=utf-8")


enter(Route("GET", "/metrics", get_metrics))


# ------------------------------------------------------------------------------------------------
# 26. Review
#    Law: each row depends only on readings up to its hour.
# ------------------------------------------------------------------------------------------------
REVIEW = ("time", "inside", "state", "difference", "event", "at", "from", "to", "chance")
REVIEW_DAYS = 90                # days before the end where no start is given: a season


def review_hours(reader: Reader, start: int, end: int, comfort: float, smoke: float = SMOKE
                 ) -> Iterator[tuple[float, int, list[Place], list[Outcome]]]:
    """Replay verdicts and forecasts. For each full hour yield the share of the work that is done,
    the hour, its rooms and the outcomes of forecasts; rooms and outcomes are empty before the
    start. The replay begins at a midnight of UTC, so that no row depends on the start. Silence
    limits are the shortest ones, because the file only has today's."""
    stations = [dataclasses.replace(s, silence=SILENT_AT_LEAST) for s in reader.stations()]
    inside, outside = ([series for s in stations if s.role == role
                        and (series := reader.thermometer(s.id)) is not None]
                       for role in ("inside", "outside"))
    midnight = start // DAY * DAY
    hours = range(midnight - REPLAY_DAYS * DAY, end, HOUR)
    replays = {pair: foresee(functools.partial(reader.quarters, pair), midnight, hours[-1], HOUR)
               for pair in itertools.product(inside, outside)}
    places: list[Place] = []
    for now in hours:
        said = {pair: next(rows)[1:] for pair, rows in replays.items()}
        if now >= midnight:
            known = {pair: forecast for pair, (forecast, _) in said.items()}
            courses = {place.id: place.settled for place in places}
            places = finish(read_places(
                reader, now, comfort, courses, known, stations, smoke=smoke))
        yield (now - hours[0]) / (end - hours[0]), now, [
            room for room in places if room.verdict and now >= start], [
            outcome for _, outcome in said.values() if outcome and now >= start]


def review_row(now: int, room: Place) -> list[Any]:
    """A row with the columns of REVIEW."""
    verdict, forecast = cast(Verdict, room.verdict), room.forecast
    row = [format_time(now), room.name, verdict.state,
           verdict.difference and round(verdict.difference, 2)]
    if forecast is None:
        return row + [None] * 5
    times = (forecast.at, forecast.start, forecast.end)
    return [*row, forecast.event, *(ms and format_time(ms) for ms in times),
            round(forecast.chance, 2)]


def review(args: argparse.Namespace, path: Path, name: str) -> None:
    end = now_ms() if args.end is None else min(args.end, now_ms())
    start = end - REVIEW_DAYS * DAY if args.start is None else args.start
    require(start < end, "--start has to be before --end, and not in the future")
    states: dict[str, list[str]] = collections.defaultdict(list)
    evenings: list[Outcome] = []
    with writing(name, path) as file, contextlib.closing(open_reader(path)) as reader, \
            progress_bar("reviewing") as progress:
        reader.use_offsets()
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(REVIEW)
        for done, now, rooms, outcomes in review_hours(
                reader, start, end, args.comfort, args.smoke):
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


COMMANDS.append(Command(
    "review", ("FILE",), review, "write as CSV what verdict and forecast would have said each "
    "hour of the last 90 days; - is standard output", ("start", "end")))


# ------------------------------------------------------------------------------------------------
# 27. Demo
#    Law: the house is simulated and never touches a real database.
# ------------------------------------------------------------------------------------------------
DEMO_STATIONS = (                # name, MAC, role
    ("inside", "5c:cf:7f:3b:0d:e8", "inside"), ("outside", "6c:rf:7f:2b:0e:g8", "outside"),
    ("bedroom", "5c:cf:7f:21:a4:07", "inside"))
DEMO_SUNRISE = 5.5              # hours after midnight here, as in Central Europe in July
DEMO_DAYLIGHT = 14.0            # hours from sunrise to sunset
DEMO_HEAT = 14 * DAY            # of heat wave, before which the year had its seasons
DEMO_WINTER = 18.0              # °C by which half a year ago was colder
SENTENCES["demo"] = "This is a demo: a simulated house in a heat wave, whatever the season."


def wander(ms: int, period: int) -> float:
    """A number from -1 to 1 that moves smoothly to another random one in each period."""
    i, rest = divmod(ms, period)
    before, after = (math.sin(12.9898 * (j + period / HOUR)) * 43_758.5453 % 2 - 1
                     for j in (i, i + 1))
    return before + (after - before) * (1 - math.cos(math.pi * rest / period)) / 2


def simulate_clouds(ms: int) -> float:
    """How much of the sky they cover, from 0 to 1."""
    return min(1.0, max(0.0, 0.3 + 0.6 * wander(ms, 31 * HOUR)))


def simulate_outside(ms: int, offset: int) -> tuple[float, float]:
    """Degrees Celsius, and the sun's strength from 0 to 1, in a zone offset ms ahead of UTC. Days
    differ in heat and clouds. The temperature rises like a sine and falls like an exponential
    (Parton and Logan 1981)."""
    clouds = simulate_clouds(ms)
    hour = (ms + offset - DEMO_SUNRISE * HOUR) % DAY / HOUR
    day, night = min(hour, DEMO_DAYLIGHT), max(0, hour - DEMO_DAYLIGHT) / (24 - DEMO_DAYLIGHT)
    shape = math.sin(math.pi * day / (DEMO_DAYLIGHT + 3.7)) * (
        math.exp(-2.2 * night) - night * math.exp(-2.2))
    sun = (1 - 0.8 * clouds) * max(0.0, math.sin(math.pi * day / DEMO_DAYLIGHT))
    spells = 1.2 * wander(ms, 6 * DAY) + 0.8 * wander(ms, 41 * HOUR)
    noise = (0.1 + 0.4 * sun) * wander(ms, 47 * MINUTE) + 0.15 * wander(ms, 13 * MINUTE)
    return 20 + spells + noise + 15 * (1 - 0.2 * clouds) * shape, sun


def simulate_humidity(celsius: float, dew: float) -> float:
    """% at a temperature, from the dew point in °C: Magnus' formula, as in dew_point."""
    damp, wet = (17.62 * value / (243.12 + value) for value in (dew, celsius))
    return round(min(97.0, 100 * math.exp(damp - wet)), 1)


class DemoHouse:
    """Two rooms that follow the weather and the sun; their windows open when that cools them. It
    begins a year before the heat wave's last day."""

    def __init__(self, start: int):
        self.at, self.summer = start, start + 365 * DAY
        self.rooms = [26.0, 25.0]

    def advance(self, now: int) -> tuple[dict[int, float], ...]:
        """Move on to now, and return what the stations measure by field, in the order of
        DEMO_STATIONS."""
        local = datetime.fromtimestamp(now / 1000).astimezone().utcoffset() or timedelta()
        outside, sun = simulate_outside(now, local // MILLISECOND)
        past = max(0, self.summer - now - DEMO_HEAT) / (365 * DAY - DEMO_HEAT)
        cold = DEMO_WINTER * (1 - math.cos(math.tau * past)) / 2
        outside -= cold
        for i, (glass, least) in enumerate(((3, 24.8), (1.5, 24.0))):
            inside = self.rooms[i]
            is_open = inside > least + 0.2 and outside < inside - 0.5 and sun < 0.1
            share = 1 - math.exp((self.at - now) / ((20 if is_open else 60) * HOUR))
            self.rooms[i] = max(least - cold / 4, inside + (
                outside - 0.2 + glass * sun - inside) * share)      # heated in winter
        self.at = now
        dew = min(outside - 0.5, 13 - 0.8 * cold + 2 * wander(now, 3 * DAY))
        rain = 12 * max(0, simulate_clouds(now) - 0.7) * max(0, wander(now, 2 * HOUR))
        first, second = ({1: round(inside + 0.1 * wander(now, 7 * MINUTE), 1),
                          2: simulate_humidity(inside, max(dew, 4) + 1)} for inside in self.rooms)
        return first, {1: round(outside, 1), 2: simulate_humidity(outside, dew),
                       3: round(1015 + 8 * wander(now, 53 * HOUR), 1), 4: round(rain, 1)}, second

    def send(self, server: Server) -> None:
        """Store a reading of each simulated station, in the way of real ones."""
        now = server.now()
        for (_, mac, _), values in zip(DEMO_STATIONS, self.advance(now), strict=True):
            server.writer.add_entry(server.writer.by_mac[mac], now, values, now)
        server.turn.end()


def fill_demo(writer: Writer, now: int) -> DemoHouse:
    """Register the stations and store a year of temperatures, with all the rest of the last
    days."""
    house = DemoHouse(now - 365 * DAY)
    for name, mac, role in DEMO_STATIONS:
        writer.add_station(name, mac, role, hash_key(secrets.token_hex()).hex(), now)
    writer.label("outside", 4, "rain mm/h")
    writer.import_rows(((ms, name, mac, field, value, None)
                        for ms in range(house.at, now, 10 * MINUTE) for (name, mac, _), values
                        in zip(DEMO_STATIONS, house.advance(ms), strict=True)
                        for field, value in values.items()
                        if field == 1 or ms > now - DEMO_HEAT), now)
    return house


def make_demo(args: argparse.Namespace, stack: contextlib.ExitStack) -> Path | None:
    """Make the demo database and the job that keeps feeding it; return its path."""
    if not args.demo:
        return None
    path = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "demo.db"
    with contextlib.closing(Writer(path)) as writer:
        JOBS.append((5, fill_demo(writer, now_ms()).send))
    ON_SERVER.append(lambda server: server.board.notes.update(demo=("demo", {})))
    return path


SETTINGS.append(Setting(
    "demo", None, "", parse_switch,
    "serve a temporary database with a simulated house and a year of its history"))
STAND_INS.append(make_demo)


# ------------------------------------------------------------------------------------------------
# 28. Wall
#    Law: the answer and two numbers for a tablet on the wall, readable at 3 m, and nothing else.
# ------------------------------------------------------------------------------------------------
SENTENCES |= {
    "wall_cooler": "Cooler from {at}", "wall_warmer": "Warmer from {at}",
    "wall_open": "Open until {at}", "wall_lost": "No connection since {at}",
    "wall_inside": "inside", "wall_outside": "outside"}

WALL_COLORS = tuple("".join(f".{state} {{ background: {colors[i]} }} "
                            for state, colors in ANSWER_COLORS.items()) for i in range(2))
# Sizes are parts of the screen. A browser that does not know min() has the size before it.
WALL_STYLE = f"""
:root {{ color-scheme: light dark }}
* {{ box-sizing: border-box; margin: 0; padding: 0 }}
body {{ background: #000; font: 600 5vmin/1.15 system-ui, sans-serif }}
main {{ height: 100vh; padding: 4vmin; color: #fff; display: flex; flex-direction: column }}
main {{ overflow: hidden; font-variant-numeric: tabular-nums; transition: opacity .6s }}
{WALL_COLORS[0]}
header {{ display: flex; justify-content: space-between }}
h1 {{ font-size: 12vmin; line-height: 1.05; letter-spacing: -.02em; overflow-wrap: anywhere }}
.room {{ display: block; font-size: 5vmin; letter-spacing: 0 }}
.window {{ flex: none; width: 17vmin; height: 17vmin; margin-left: 3vmin }}
.window path {{ fill: #fff3; stroke: #fff; stroke-width: 1.5 }}
header + p {{ font-size: 6.5vmin; margin: 2vmin 0 auto }}
ul {{ display: flex; list-style: none; border-top: 1px solid #fff8; padding-top: 2vmin }}
li {{ flex: 1 }}
b {{ display: block; font-size: 15vw; font-size: min(26vh, 15vw); line-height: 1 }}
b.long {{ font-size: 12vw }}
.lost {{ position: fixed; bottom: 0; left: 0; right: 0; padding: 1vmin 4vmin }}
.lost {{ background: #000; color: #fff; font-size: 5vmin }}
.lost:empty {{ display: none }} .night main {{ opacity: .35 }}
@media (orientation: portrait) {{
  ul {{ display: block }} b {{ font-size: 26vw; font-size: min(26vh, 30vw) }}
  b.long {{ font-size: 23vw }}
}}
@media (prefers-color-scheme: dark) {{ {WALL_COLORS[1]}}}
@media (prefers-reduced-motion: reduce) {{ main {{ transition: none }} }}
"""
# For the browser of an old tablet: ES2017, so no optional chaining and no AbortSignal.timeout.
WALL_SCRIPT = """
const find = query => document.querySelector(query);
let heard = Date.now(), changed = 0, asked = 0, soon = 0;
// From 22 to 7 o'clock it is dim, but for 5 minutes after a change.
function tick() {
  const hour = new Date().getHours(), isBright = Date.now() - changed < 300000;
  document.body.className = (hour >= 22 || hour < 7) && !isBright ? 'night' : '';
  if (Date.now() - asked > 30000) refresh();
  if (Date.now() - heard > 60000) lose();
}
function lose() {
  const at = new Date(heard).toLocaleTimeString([], {hour: 'numeric', minute: '2-digit'});
  find('.lost').textContent = find('main').dataset.lost.replace('{at}', at);
}
async function refresh() {
  const mine = asked = Date.now();
  try {
    const answer = await fetch('/wall', {cache: 'no-store', credentials: 'same-origin',
                                         headers: {Accept: 'text/html'}});
    if (!answer.ok) throw 0;
    const next = new DOMParser().parseFromString(await answer.text(), 'text/html');
    if (mine !== asked) return;         // a later answer is on its way
    const newer = next.querySelector('main');
    if (newer.dataset.state !== find('main').dataset.state) changed = Date.now();
    find('main').replaceWith(newer);
    document.title = next.title;
    find('.lost').textContent = '';
    heard = Date.now();
    tick();
  } catch (error) { if (mine === asked) lose(); }
}
function listen() {
  const events = new EventSource('/events');
  for (const kind of ['hello', 'reading', 'verdict', 'reset'])
    events.addEventListener(kind, () => {
      if (!soon) soon = setTimeout(() => { soon = 0; refresh(); }, 250);
    });
  events.onerror = () => {
    refresh();
    if (events.readyState === EventSource.CLOSED) setTimeout(listen, 5000);
  };
}
for (const told of ['tz=' + Intl.DateTimeFormat().resolvedOptions().timeZone,
                    'offset=' + -new Date().getTimezoneOffset()])
  document.cookie = told + ';path=/;max-age=31536000;samesite=lax';
addEventListener('offline', lose);
addEventListener('online', refresh);
setInterval(tick, 1000);
listen();
"""
WALL_HEAD = Template('<noscript><meta http-equiv="refresh" content="60"></noscript>\n')()
WALL = Template("""<main class="$css" data-state="$css" data-lost="$lost">
<header><h1>$room$headline</h1>$window</header><p>$words</p>
<ul>$numbers</ul></main><p class="lost" role="status"></p>""")
WALL_NUMBER = Template('<li>$side<b class="$css">$number</b></li>')
WALL_ROOM = Template('<span class="room">$name</span> ')
WALL_LIVE = Template("<script>$script</script>")(script=Markup(WALL_SCRIPT))
WALL_HEADERS = page_headers(WALL_STYLE, script=WALL_SCRIPT)


def render_wall(places: list[Place], locale: Locale, now: int) -> bytes:
    """The page for the wall: for the most urgent room, what to do and until when."""
    rooms = rank_rooms(places)
    room, verdict = rooms[0] if rooms else (None, None)
    headline, reason, caveats = say_verdict(room, now, locale)
    css, window = dress_answer(verdict, locale)
    words = " ".join(caveats) or (say_change(room, now, locale, "wall") if room else "") or reason
    numbers = zip(("wall_inside", "wall_outside"), say_numbers(verdict, locale), strict=False)
    main = WALL(css=css, lost=locale.say("wall_lost", at="{at}"), headline=headline, words=words,
                window=window, room=WALL_ROOM(name=room.name) if room and rooms[1:] else "",
                numbers=[WALL_NUMBER(side=locale.say(side), number=number,
                                     css="long" if len(number) > len("99.9°") else "")
                         for side, number in numbers])
    return render_page(headline, main, locale.language, WALL_LIVE, WALL_STYLE, css,
                       WALL_HEAD)


async def get_wall(request: Request, server: Server) -> Answer:
    """The answer for a tablet on the wall."""
    locale = choose_locale(request, server.settings)
    body = render_wall(await server.board.look(), locale, server.now())
    tag = f'"{hashlib.sha256(body).hexdigest()[:16]}"'
    return answer_page(request, server, Answer(body, HTML, headers=(
        *WALL_HEADERS, ("ETag", tag), ("Content-Language", locale.language),
        ("Vary", "Accept-Language, Cookie"), ("Cache-Control", server.board.cache_control))))


enter(Route("GET", "/wall", get_wall))


# ------------------------------------------------------------------------------------------------
# 29. Languages
#    Law: a column of whole sentences for each language; without this wing there is English.
# ------------------------------------------------------------------------------------------------
COLUMNS = ("de", "fr", "es", "it")
# Infinitives instead of imperatives, and no word for "you". ~ is a no-break space, ^ a narrow one.
SPACES = str.maketrans("~^", "\N{NO-BREAK SPACE}\N{NARROW NO-BREAK SPACE}")
TRANSLATIONS = {
    "headline_open": (
        "Fenster öffnen", "Ouvrir les fenêtres", "Abrir las ventanas", "Aprire le finestre"),
    "headline_close": (
        "Fenster geschlossen halten",
        "Garder les fenêtres fermées",
        "Mantener las ventanas cerradas",
        "Tenere le finestre chiuse"),
    "headline_comfortable": (
        "Angenehm drinnen",
        "Il fait bon à l’intérieur",
        "Temperatura agradable dentro",
        "Temperatura gradevole in casa"),
    "headline_cold": (
        "Kalt drinnen", "Il fait froid à l’intérieur", "Hace frío dentro", "Fa freddo in casa"),
    "headline_unknown": ("Keine Antwort", "Pas de réponse", "Sin respuesta", "Nessuna risposta"),
    "headline_none": (
        "Noch keine Antwort",
        "Pas encore de réponse",
        "Aún sin respuesta",
        "Ancora nessuna risposta"),
    "pill_open": ("auf", "ouvrir", "abrir", "aprire"),
    "pill_close": ("zu", "fermer", "cerrar", "chiudere"),
    "pill_comfortable": ("angenehm", "agréable", "agradable", "gradevole"),
    "pill_cold": ("kalt", "froid", "frío", "freddo"),
    "pill_unknown": ("keine Antwort", "pas de réponse", "sin respuesta", "nessuna risposta"),
    "answer": (
        "{headline}. {reason}.",
        "{headline}. {reason}.",
        "{headline}. {reason}.",
        "{headline}. {reason}."),
    "in_room": ("{room}: {text}", "{room}~: {text}", "{room}: {text}", "{room}: {text}"),
    "answer_with_numbers": (
        "{headline}. {reason} (drinnen {inside}, draußen {outside}).",
        "{headline}. {reason} (dedans {inside}, dehors {outside}).",
        "{headline}. {reason} (dentro {inside}, fuera {outside}).",
        "{headline}. {reason} (in casa {inside}, fuori {outside})."),
    "cooler": (
        "Draußen ist es {d} kühler.",
        "Il fait {d} de moins dehors.",
        "Fuera hay {d} menos.",
        "Fuori è {d} più fresco."),
    "warmer": (
        "Draußen ist es {d} wärmer.",
        "Il fait {d} de plus dehors.",
        "Fuera hay {d} más.",
        "Fuori è {d} più caldo."),
    "even": (
        "Draußen ist es etwa so warm wie drinnen.",
        "Il fait à peu près aussi chaud dehors que dedans.",
        "Fuera hay casi la misma temperatura que dentro.",
        "Fuori c’è quasi la stessa temperatura che in casa."),
    "nothing_to_do": ("Nichts zu tun.", "Rien à faire.", "Nada que hacer.", "Niente da fare."),
    "turned_warmer": (
        "Jetzt ist es draußen {d} wärmer; wenn das so bleibt, ändert sich diese Antwort.",
        "Il fait maintenant {d} de plus dehors^; si cela dure, cette réponse changera.",
        "Ahora fuera hay {d} más; si sigue así, esta respuesta cambiará.",
        "Ora fuori è {d} più caldo; se continua così, questa risposta cambierà."),
    "turned_cooler": (
        "Jetzt ist es draußen {d} kühler; wenn das so bleibt, ändert sich diese Antwort.",
        "Il fait maintenant {d} de moins dehors^; si cela dure, cette réponse changera.",
        "Ahora fuera hay {d} menos; si sigue así, esta respuesta cambiará.",
        "Ora fuori è {d} più fresco; se continua così, questa risposta cambierà."),
    "warmer_close": (
        "Aber draußen ist es {d} wärmer: Fenster geschlossen halten.",
        "Mais il fait {d} de plus dehors~: garder les fenêtres fermées.",
        "Pero fuera hay {d} más: mantener las ventanas cerradas.",
        "Ma fuori è {d} più caldo: tenere le finestre chiuse."),
    "cold_colder": (
        "Draußen ist es {d} kälter: Fenster geschlossen halten.",
        "Il fait {d} de moins dehors~: garder les fenêtres fermées.",
        "Fuera hay {d} menos: mantener las ventanas cerradas.",
        "Fuori è {d} più freddo: tenere le finestre chiuse."),
    "cold_even": (
        "Draußen ist es kaum wärmer: Fenster geschlossen halten.",
        "Il fait à peine plus chaud dehors~: garder les fenêtres fermées.",
        "Fuera apenas hace más calor: mantener las ventanas cerradas.",
        "Fuori è appena più caldo: tenere le finestre chiuse."),
    "cold_warmer": (
        "Draußen ist es {d} wärmer: Offene Fenster wärmen den Raum.",
        "Il fait {d} de plus dehors~: ouvrir les fenêtres réchauffe la pièce.",
        "Fuera hay {d} más: abrir las ventanas calienta la habitación.",
        "Fuori è {d} più caldo: aprire le finestre scalda la stanza."),
    "cold_damp": (
        "Fenster geschlossen halten: Die Luft draußen ist warm und feucht; an kalten Wänden "
        "würde sich Wasser niederschlagen.",
        "Garder les fenêtres fermées~: l’air extérieur est chaud et humide, et son humidité se "
        "condenserait sur les murs froids.",
        "Mantener las ventanas cerradas: el aire de fuera es cálido y húmedo, y su humedad se "
        "condensaría en las paredes frías.",
        "Tenere le finestre chiuse: l’aria fuori è calda e umida e formerebbe condensa sui muri "
        "freddi."),
    "cold_wet": (
        "Fenster geschlossen halten: Draußen ist es {d} wärmer, aber an kalten Wänden würde "
        "sich Wasser niederschlagen.",
        "Garder les fenêtres fermées~: il fait {d} de plus dehors, mais l’humidité de cet air se "
        "condenserait sur les murs froids.",
        "Mantener las ventanas cerradas: fuera hay {d} más, pero la humedad de ese aire se "
        "condensaría en las paredes frías.",
        "Tenere le finestre chiuse: fuori è {d} più caldo, ma quell’aria formerebbe condensa "
        "sui muri freddi."),
    "cold_hot": (
        "Fenster geschlossen halten: Draußen ist es {d} wärmer.",
        "Garder les fenêtres fermées~: il fait {d} de plus dehors.",
        "Mantener las ventanas cerradas: fuera hay {d} más.",
        "Tenere le finestre chiuse: fuori è {d} più caldo."),
    "humid": (
        "Die Luft ist draußen feuchter: Taupunkt {outside} draußen, {inside} drinnen.",
        "L’air est plus humide dehors~: point de rosée {outside} dehors, {inside} dedans.",
        "El aire es más húmedo fuera: punto de rocío {outside} fuera, {inside} dentro.",
        "L’aria fuori è più umida: punto di rugiada {outside} fuori, {inside} in casa."),
    "smoke": (
        "Aber die Luft draußen ist voller Rauch oder Staub: PM2,5 {pm}~µg/m³.",
        "Mais l’air extérieur est chargé de fumée ou de poussière~: PM2,5 {pm}~µg/m³.",
        "Pero el aire de fuera está cargado de humo o polvo: PM2,5 {pm}~µg/m³.",
        "Ma l’aria fuori è piena di fumo o polvere: PM2,5 {pm}~µg/m³."),
    "keep_closed": (
        "Fenster geschlossen halten.",
        "Garder les fenêtres fermées.",
        "Mantener las ventanas cerradas.",
        "Tenere le finestre chiuse."),
    "hot_inside": (
        "Auch drinnen ist es heiß: wenn möglich einen kühleren Ort aufsuchen.",
        "Il fait chaud dedans aussi~: si possible, aller dans un lieu plus frais.",
        "Dentro también hace calor: si es posible, buscar un lugar más fresco.",
        "Fa caldo anche in casa: se possibile, cercare un posto più fresco."),
    "sensitive": (
        "Die Luft draußen ist schlecht für empfindliche Menschen: PM2,5 {pm}~µg/m³.",
        "L’air extérieur est mauvais pour les personnes sensibles~: PM2,5 {pm}~µg/m³.",
        "El aire de fuera es malo para las personas sensibles: PM2,5 {pm}~µg/m³.",
        "L’aria fuori fa male alle persone sensibili: PM2,5 {pm}~µg/m³."),
    "rain": (
        "Es regnet: auf die Fenster achten.",
        "Il pleut~: attention aux fenêtres.",
        "Está lloviendo: cuidado con las ventanas.",
        "Piove: attenzione alle finestre."),
    "air_unknown": (
        "„{name}“ schweigt seit {ago}: Die Luftqualität draußen ist nicht bekannt.",
        "«~{name}~» n’envoie plus rien depuis {ago}~: la qualité de l’air extérieur n’est pas "
        "connue.",
        "«{name}» lleva {ago} sin enviar datos: no se conoce la calidad del aire de fuera.",
        "«{name}» non invia dati da {ago}: la qualità dell’aria fuori non è nota."),
    "field_of": ("{label}, {name}", "{label}, {name}", "{label}, {name}", "{label}, {name}"),
    "needs_thermometer": (
        "Dafür braucht es eine Station mit der Rolle outside, die eine Temperatur sendet.",
        "Il faut une station avec le rôle outside qui envoie une température.",
        "Hace falta una estación con el rol outside que envíe una temperatura.",
        "Serve una stazione con il ruolo outside che invii una temperatura."),
    "station_silent": (
        "„{name}“ schweigt seit {ago}.",
        "«~{name}~» n’envoie plus rien depuis {ago}.",
        "«{name}» lleva {ago} sin enviar datos.",
        "«{name}» non invia dati da {ago}."),
    "no_temperature": (
        "„{name}“ hat noch keine Temperatur gesendet.",
        "«~{name}~» n’a pas encore envoyé de température.",
        "«{name}» aún no ha enviado ninguna temperatura.",
        "«{name}» non ha ancora inviato una temperatura."),
    "needs_roles": (
        "Dafür braucht es eine Station mit der Rolle inside und eine mit der Rolle outside.",
        "Il faut une station avec le rôle inside et une avec le rôle outside.",
        "Hace falta una estación con el rol inside y otra con el rol outside.",
        "Serve una stazione con il ruolo inside e una con il ruolo outside."),
    "cooler_range": (
        "Draußen ab etwa {at} kühler (zwischen {start} und {end}).",
        "Plus frais dehors à partir de {at} environ (entre {start} et {end}).",
        "Más fresco fuera desde las {at} aproximadamente (entre las {start} y las {end}).",
        "Più fresco fuori dalle {at} circa (tra le {start} e le {end})."),
    "cooler_at": (
        "Draußen ab etwa {at} kühler.",
        "Plus frais dehors à partir de {at} environ.",
        "Más fresco fuera desde las {at} aproximadamente.",
        "Più fresco fuori dalle {at} circa."),
    "row_cooler": (
        "ab {at} kühler",
        "plus frais dès {at}",
        "más fresco desde las {at}",
        "più fresco dalle {at}"),
    "cooler_soon": (
        "Draußen wird es jeden Moment kühler, wohl spätestens um {end}.",
        "Plus frais dehors d’un moment à l’autre, sans doute avant {end}.",
        "Más fresco fuera en cualquier momento, probablemente antes de las {end}.",
        "Più fresco fuori da un momento all’altro, probabilmente entro le {end}."),
    "warmer_at": (
        "Draußen ab etwa {at} wärmer.",
        "Plus chaud dehors à partir de {at} environ.",
        "Más calor fuera desde las {at} aproximadamente.",
        "Più caldo fuori dalle {at} circa."),
    "warmer_soon": (
        "Draußen wird es jeden Moment wärmer, wohl spätestens um {end}.",
        "Plus chaud dehors d’un moment à l’autre, sans doute avant {end}.",
        "Más calor fuera en cualquier momento, probablemente antes de las {end}.",
        "Più caldo fuori da un momento all’altro, probabilmente entro le {end}."),
    "open_until": (
        "Bis etwa {at} offen lassen.",
        "Les laisser ouvertes jusqu’à {at} environ.",
        "Dejarlas abiertas hasta las {at} aproximadamente.",
        "Lasciarle aperte fin verso le {at}."),
    "between": (
        "Zwischen {start} und {end}.",
        "Entre {start} et {end}.",
        "Entre las {start} y las {end}.",
        "Tra le {start} e le {end}."),
    "between_chance": (
        "Zwischen {start} und {end}, mit einer Wahrscheinlichkeit von {chance}.",
        "Entre {start} et {end}, avec une probabilité de {chance}.",
        "Entre las {start} y las {end}, con una probabilidad del {chance}.",
        "Tra le {start} e le {end} (probabilità: {chance})."),
    "brackets": (
        "Die Spanne in Klammern sollte an 8 von 10 Tagen stimmen.",
        "L’intervalle entre parenthèses devrait être juste 8 jours sur 10.",
        "El intervalo entre paréntesis debería acertar 8 de cada 10 días.",
        "L’intervallo tra parentesi dovrebbe essere giusto 8 giorni su 10."),
    "not_sure": (
        "Wann sich das ändert, ist noch nicht sicher.",
        "On ne sait pas encore quand cela changera.",
        "Aún no es seguro cuándo cambiará.",
        "Non è ancora certo quando cambierà."),
    "times_in": ("Zeiten in {zone}.", "Heures en {zone}.", "Horas en {zone}.", "Orari in {zone}."),
    "both": (
        "{inside} drinnen, {outside} draußen.",
        "{inside} dedans, {outside} dehors.",
        "{inside} dentro, {outside} fuera.",
        "{inside} in casa, {outside} fuori."),
    "daily_range": (
        "Tagestief bis -hoch", "min à max du jour", "mín a máx del día", "min – max del giorno"),
    "week": (
        "Diese Woche {hours}~h draußen kühler; am heißesten {outside} draußen, {inside} "
        "drinnen.",
        "Plus frais dehors pendant {hours}~h cette semaine^; au plus chaud {outside} dehors, "
        "{inside} dedans.",
        "Más fresco fuera durante {hours}~h esta semana; máximas {outside} fuera, {inside} "
        "dentro.",
        "Più fresco fuori per {hours}~h questa settimana; massime {outside} fuori, {inside} "
        "in casa."),
    "day_range": (
        "{day}: {name} {low} bis {high}, Mittel {mean}",
        "{day}~: {name} {low} à {high}, moyenne {mean}",
        "{day}: {name} {low} a {high}, media {mean}",
        "{day}: {name} {low} – {high}, media {mean}"),
    "day_so_far": (
        "{day}: {name} bisher {low} bis {high}",
        "{day}~: {name} {low} à {high} jusqu’ici",
        "{day}: {name} {low} a {high} hasta ahora",
        "{day}: {name} finora {low} – {high}"),
    "weekday": ("%a %-d. %b", "%a %-d %b", "%a %-d %b", "%a %-d %b"),
    "no_cooler": (
        "In den nächsten 12 Stunden bleibt es draußen wohl wärmer.",
        "Il devrait faire plus chaud dehors que dedans pendant encore 12 heures.",
        "Probablemente seguirá haciendo más calor fuera durante las próximas 12 horas.",
        "Probabilmente fuori resterà più caldo per altre 12 ore."),
    "no_warmer": (
        "In den nächsten 12 Stunden bleibt es draußen wohl kühler.",
        "Il devrait faire plus frais dehors que dedans pendant encore 12 heures.",
        "Probablemente seguirá haciendo más fresco fuera durante las próximas 12 horas.",
        "Probabilmente fuori resterà più fresco per altre 12 ore."),
    "row_warmer": (
        "ab {at} wärmer",
        "plus chaud dès {at}",
        "más calor desde las {at}",
        "più caldo dalle {at}"),
    "row_open": (
        "offen bis {at}", "ouvrir jusqu’à {at}", "abrir hasta las {at}", "aprire fino alle {at}"),
    "too_few": (
        "Noch zu wenige Tage, um zu sagen, wie genau das ist.",
        "Trop peu de jours sont passés pour dire si cette prévision est précise.",
        "Todavía son muy pocos días para saber si esta previsión es precisa.",
        "Sono passati troppo pochi giorni per dire quanto sia precisa questa previsione."),
    "record_cooler": (
        "An der Hälfte der letzten {count} Abende lag die Vorhersage höchstens {minutes} "
        "Minuten daneben.",
        "Pour la moitié des {count} dernières soirées, la prévision s’est trompée de "
        "{minutes} minutes au plus.",
        "En la mitad de las últimas {count} tardes, la previsión se desvió {minutes} minutos como "
        "mucho.",
        "Nella metà delle ultime {count} sere la previsione ha sbagliato di {minutes} minuti al "
        "massimo."),
    "record_warmer": (
        "An der Hälfte der letzten {count} Morgen lag die Mitte der Spanne höchstens {minutes} "
        "Minuten daneben.",
        "Pour la moitié des {count} derniers matins, l’écart avec le milieu de l’intervalle "
        "était de {minutes} minutes au plus.",
        "En la mitad de las últimas {count} mañanas, el centro del intervalo se desvió "
        "{minutes} minutos como mucho.",
        "Nella metà delle ultime {count} mattine lo scarto dal centro dell’intervallo è stato "
        "di {minutes} minuti al massimo."),
    "doubted": (
        "Die letzte Messung war {value}; eine zweite wird abgewartet.",
        "La dernière mesure est {value}^; une seconde est attendue.",
        "La última lectura fue {value}; se espera una segunda.",
        "L’ultima misura è {value}; se ne attende una seconda."),
    "impossible": (
        "Die letzte Messung war {value}, was unmöglich ist.",
        "La dernière mesure est {value}, ce qui est impossible.",
        "La última lectura fue {value}, lo cual es imposible.",
        "L’ultima misura è {value}, un valore impossibile."),
    "chart_begins": (
        "Das Diagramm beginnt mit der ersten Messung.",
        "Le graphique commence à la première mesure.",
        "El gráfico empieza con la primera lectura.",
        "Il grafico inizia con la prima misura."),
    "no_chart": (
        "Noch kein Diagramm: einer Station eine Rolle geben mit --edit-station NAME "
        "--role {role}.",
        "Pas encore de graphique~: donner un rôle à une station avec --edit-station NAME "
        "--role {role}.",
        "Aún sin gráfico: dar un rol a una estación con --edit-station NAME --role {role}.",
        "Ancora nessun grafico: dare un ruolo a una stazione con --edit-station NAME "
        "--role {role}."),
    "fahrenheit": (
        "Die letzte Messung war {value}, was unmöglich ist; Stationen senden °C, nicht °F.",
        "La dernière mesure est {value}, ce qui est impossible^; une station envoie des °C, pas "
        "des °F.",
        "La última lectura fue {value}, lo cual es imposible; una estación envía °C, no °F.",
        "L’ultima misura è {value}, un valore impossibile; una stazione invia °C, non °F."),
    "rising": ("steigend", "en hausse", "subiendo", "in aumento"),
    "falling": ("fallend", "en baisse", "bajando", "in calo"),
    "steady": ("gleichbleibend", "stable", "estable", "stabile"),
    "title_silent": (
        "„{name}“ schweigt",
        "«~{name}~» n’envoie plus rien",
        "«{name}» no envía datos",
        "«{name}» non invia dati"),
    "title_back": (
        "„{name}“ meldet sich wieder",
        "«~{name}~» envoie de nouveau des données",
        "«{name}» vuelve a enviar datos",
        "«{name}» invia di nuovo dati"),
    "text_back": (
        "„{name}“ meldet sich wieder.",
        "«~{name}~» envoie de nouveau des données.",
        "«{name}» vuelve a enviar datos.",
        "«{name}» invia di nuovo dati."),
    "title_plan": (
        "Wann es kühler wird",
        "Quand il fera plus frais",
        "Cuándo refrescará",
        "Quando rinfrescherà"),
    "since": (
        "So ist es seit {at}.",
        "C’est le cas depuis {at}.",
        "Último cambio: {at}.",
        "Ultimo cambio: {at}."),
    "no_word": (
        "Kein Lebenszeichen von iotserver",
        "Pas de nouvelles d’iotserver",
        "Sin noticias de iotserver",
        "Nessuna notizia da iotserver"),
    "cut_off": (
        "Seit {ago} keine Meldung: Vielleicht sind Strom, Internet oder Computer ausgefallen.",
        "Aucune nouvelle depuis {ago}~: peut-être une panne de courant, d’internet ou "
        "d’ordinateur.",
        "Sin noticias desde hace {ago}: quizá han fallado la luz, internet o el ordenador.",
        "Nessuna notizia da {ago}: forse mancano corrente o internet, o il computer è spento."),
    "test": (
        "Dies ist ein Test: Nachrichten kommen an.",
        "Ceci est un test~: les messages arrivent.",
        "Esto es una prueba: los mensajes llegan.",
        "Questa è una prova: i messaggi arrivano."),
    "messages_failed": (
        "Nachrichten an {name} kommen seit einer Stunde nicht an: {why}.",
        "Depuis une heure, les messages à {name} n’arrivent pas~: {why}.",
        "Desde hace una hora, los mensajes a {name} no llegan: {why}.",
        "Da un’ora i messaggi a {name} non arrivano: {why}."),
    "engine_dropped": (
        "{name} hat die Messung vom {at} bekommen, hat sie aber nicht. Werden so alte Messungen "
        "dort behalten? VictoriaMetrics: -retentionPeriod=100y; InfluxDB: die Retention Policy "
        "der Datenbank.",
        "{name} a reçu la mesure du {at} mais ne l’a pas. Les mesures aussi anciennes y "
        "sont-elles conservées^? VictoriaMetrics~: -retentionPeriod=100y^; InfluxDB~: la "
        "politique de rétention de la base.",
        "{name} recibió la lectura del {at}, pero no la tiene. ¿Conserva lecturas tan antiguas? "
        "VictoriaMetrics: -retentionPeriod=100y; InfluxDB: la política de retención de la base "
        "de datos.",
        "{name} ha ricevuto la misura del {at}, ma non ce l’ha. Conserva misure così vecchie? "
        "VictoriaMetrics: -retentionPeriod=100y; InfluxDB: la retention policy del database."),
    "demo": (
        "Das ist eine Vorführung: ein simuliertes Haus in einer Hitzewelle, egal zu welcher "
        "Jahreszeit.",
        "Ceci est une démonstration~: une maison simulée en pleine canicule, quelle que soit la "
        "saison.",
        "Esto es una demostración: una casa simulada en plena ola de calor, sea cual sea la "
        "estación del año.",
        "Questa è una dimostrazione: una casa simulata durante un’ondata di caldo, in qualsiasi "
        "stagione."),
    "stored": (
        "Gespeichert / Diese Messung ist Eintrag {entry}. / Sie steht schon auf der Seite.",
        "Enregistré / Cette mesure est l’entrée {entry}. / Elle est déjà sur la page.",
        "Guardado / Esta lectura es la entrada {entry}. / Ya está en la página.",
        "Registrato / Questa misura è la voce {entry}. / È già sulla pagina."),
    "purpose": (
        "Für Wetterstationen / Gekaufte Wetterstationen senden hierher, was sie messen. / "
        "--add-station NAME --mac ID --console sagt, was in ihre App einzugeben ist.",
        "Pour les stations météo / Les stations météo du commerce envoient ici leurs mesures. / "
        "--add-station NAME --mac ID --console dit ce qu’il faut saisir dans leur application.",
        "Para estaciones meteorológicas / Las estaciones meteorológicas comerciales envían "
        "aquí lo que miden. / --add-station NAME --mac ID --console dice qué escribir en su "
        "aplicación.",
        "Per stazioni meteo / Le stazioni meteo in commercio inviano qui le loro misure. / "
        "--add-station NAME --mac ID --console dice che cosa scrivere nella loro app."),
    "error_400": (
        "Fehlerhafte Anfrage / Etwas an dieser Adresse stimmt nicht. / Die Adresse mit der "
        "vergleichen, die --add-station ausgegeben hat.",
        "Requête incorrecte / Cette adresse contient une erreur. / Comparer l’adresse avec "
        "celle que --add-station a affichée.",
        "Solicitud incorrecta / Hay un error en esta dirección. / Comparar la dirección con la "
        "que mostró --add-station.",
        "Richiesta errata / In questo indirizzo c’è un errore. / Confrontare l’indirizzo con "
        "quello mostrato da --add-station."),
    "error_401": (
        "Passwort nötig / Dieser Server ist privat. / Die Seite neu laden und das Passwort des "
        "Haushalts eingeben; der Benutzername ist beliebig.",
        "Mot de passe requis / Ce serveur est privé. / Recharger la page et saisir le mot de "
        "passe du foyer^; n’importe quel nom d’utilisateur convient.",
        "Se necesita contraseña / Este servidor es privado. / Volver a cargar la página y "
        "escribir la contraseña de la casa; vale cualquier nombre de usuario.",
        "Serve la password / Questo server è privato. / Ricaricare la pagina e scrivere la "
        "password di casa; va bene qualsiasi nome utente."),
    "error_403": (
        "Nicht erlaubt / Der Server erlaubt das nicht. / MAC und Schlüssel mit der config.py "
        "der Station vergleichen oder ihr mit --new-key einen neuen Schlüssel geben.",
        "Accès refusé / Le serveur ne le permet pas. / Comparer MAC et clé avec le config.py de "
        "la station, ou lui donner une nouvelle clé avec --new-key.",
        "Acceso denegado / El servidor no lo permite. / Comparar MAC y clave con el config.py "
        "de la estación, o darle una clave nueva con --new-key.",
        "Accesso negato / Il server non lo permette. / Confrontare MAC e chiave con il "
        "config.py della stazione, o darle una chiave nuova con --new-key."),
    "error_404": (
        "Nicht gefunden / Unter dieser Adresse gibt es nichts. / Die Adresse auf Tippfehler "
        "prüfen.",
        "Page introuvable / Il n’y a rien à cette adresse. / Vérifier qu’il n’y a pas de faute "
        "de frappe.",
        "No encontrado / No hay nada en esta dirección. / Comprobar que la dirección está "
        "bien escrita.",
        "Pagina non trovata / A questo indirizzo non c’è nulla. / Controllare che l’indirizzo "
        "sia scritto bene."),
    "error_405": (
        "Methode nicht erlaubt / Diese Adresse ist nicht für Browser gedacht. / Stattdessen die "
        "Seite öffnen.",
        "Méthode non autorisée / Cette adresse n’est pas faite pour un navigateur. / Ouvrir "
        "plutôt la page.",
        "Método no permitido / Esta dirección no es para navegadores. / Abrir la página en su "
        "lugar.",
        "Metodo non consentito / Questo indirizzo non è fatto per il browser. / Aprire invece "
        "la pagina."),
    "error_429": (
        "Zu viele Anfragen / Es gab zu viele Versuche. / 15 Minuten warten, dann noch einmal "
        "versuchen.",
        "Trop de requêtes / Il y a eu trop de tentatives. / Attendre 15 minutes, puis réessayer.",
        "Demasiadas solicitudes / Ha habido demasiados intentos. / Esperar 15 minutos y volver "
        "a intentarlo.",
        "Troppe richieste / Ci sono stati troppi tentativi. / Aspettare 15 minuti e riprovare."),
    "error_503": (
        "Gerade nicht erreichbar / Der Server kann gerade nicht antworten. / In einer Minute "
        "noch einmal versuchen.",
        "Service indisponible / Le serveur ne peut pas répondre pour l’instant. / Réessayer "
        "dans une minute.",
        "Servicio no disponible / El servidor no puede responder en este momento. / Volver a "
        "intentarlo dentro de un minuto.",
        "Servizio non disponibile / Il server non può rispondere in questo momento. / Riprovare "
        "tra un minuto."),
    "error_507": (
        "Kein Platz mehr / Die Festplatte des Servers ist voll. / Auf der Festplatte des "
        "Servers Platz schaffen.",
        "Disque plein / Le disque du serveur est plein. / Libérer de la place sur le disque du "
        "serveur.",
        "Sin espacio / El disco del servidor está lleno. / Liberar espacio en el disco del "
        "servidor.",
        "Spazio esaurito / Il disco del server è pieno. / Liberare spazio sul disco del server."),
    "error": (
        "Fehler / Diese Anfrage hat der Server nicht beantwortet. / Zurück zur Seite.",
        "Erreur / Le serveur n’a pas répondu à cette requête. / Retour à la page.",
        "Error / El servidor no ha respondido a esta solicitud. / Volver a la página.",
        "Errore / Il server non ha risposto a questa richiesta. / Tornare alla pagina."),
    "open_page": ("Zur Seite", "Ouvrir la page", "Abrir la página", "Aprire la pagina"),
    "compass": (
        "N NNO NO ONO O OSO SO SSO S SSW SW WSW W WNW NW NNW",
        "N NNE NE ENE E ESE SE SSE S SSO SO OSO O ONO NO NNO",
        "N NNE NE ENE E ESE SE SSE S SSO SO OSO O ONO NO NNO",
        "N NNE NE ENE E ESE SE SSE S SSO SO OSO O ONO NO NNO"),
    "field": ("Feld {n}", "champ {n}", "campo {n}", "campo {n}"),
    "labels": (
        "Temperatur / Luftfeuchte / Luftdruck / Wind / Böen / Wind aus / Regen / Regen je "
        "Stunde / Sonne / UV-Index",
        "température / humidité / pression / vent / rafales / direction du vent / pluie / pluie "
        "horaire / soleil / indice UV",
        "temperatura / humedad / presión / viento / rachas / viento del / lluvia / lluvia por "
        "hora / sol / índice UV",
        "temperatura / umidità / pressione / vento / raffiche / vento da / pioggia / pioggia "
        "oraria / sole / indice UV"),
    "no_station": (
        "Noch keine Station / Eine anlegen mit der MAC, die die Station beim Start ausgibt, "
        "oder mit einem Wort, das sie als MAC senden wird. Dieser Befehl gibt ihren Schlüssel "
        "und die Zeilen für ihre config.py aus: / Danach eine zweite mit der Rolle outside "
        "anlegen. Oder sich erst einmal umsehen: / Diese Seite aktualisiert sich von selbst, "
        "sobald es eine Station gibt.",
        "Pas encore de station / En ajouter une avec l’adresse MAC que la station affiche au "
        "démarrage, ou avec un mot qu’elle enverra comme MAC. Cette commande affiche sa clé et "
        "les lignes de son config.py~: / Ensuite, en ajouter une autre avec le rôle outside. Ou "
        "d’abord jeter un coup d’œil~: / Cette page se met à jour dès qu’il y a une station.",
        "Aún sin estaciones / Añadir una con la MAC que la estación muestra al arrancar, o con "
        "una palabra que enviará como MAC. Este comando muestra su clave y las líneas para su "
        "config.py: / Después, añadir otra con el rol outside. O echar antes un vistazo: / Esta "
        "página se actualiza sola en cuanto haya una estación.",
        "Ancora nessuna stazione / Aggiungerne una con il MAC che la stazione mostra all’avvio, "
        "o con una parola che invierà come MAC. Questo comando mostra la sua chiave e le righe "
        "per il suo config.py: / Poi aggiungerne un’altra con il ruolo outside. Oppure dare "
        "prima un’occhiata: / Questa pagina si aggiorna da sola appena c’è una stazione."),
    "ago": ("vor {ago}", "il y a {ago}", "hace {ago}", "{ago} fa"),
    "reading": ("{name} {value}", "{name} {value}", "{name} {value}", "{name} {value}"),
    "no_reading": (
        "{name} keine Messung",
        "{name} aucune mesure",
        "{name} sin lectura",
        "{name} nessuna misura"),
    "offline": (
        "Stand {clock}, keine Verbindung",
        "données de {clock}, hors connexion",
        "datos de las {clock}, sin conexión",
        "dati delle {clock}, senza connessione"),
    "offline_day": (
        "Stand %a, {clock}, keine Verbindung",
        "données du %a, {clock}, hors connexion",
        "datos del %a, {clock}, sin conexión",
        "dati di %a, {clock}, senza connessione"),
    "touch": (
        "Diagramm berühren, um Werte zu lesen",
        "Toucher le graphique pour lire les valeurs",
        "Tocar el gráfico para leer valores",
        "Toccare il grafico per leggere i valori"),
    "point_at": (
        "Auf das Diagramm zeigen, um Werte zu lesen",
        "Survoler le graphique pour lire les valeurs",
        "Señalar el gráfico para leer valores",
        "Passare sul grafico per leggere i valori"),
    "moment": (
        "%-d. %b %Y, {clock}", "%-d %b %Y, {clock}", "%-d %b %Y, {clock}", "%-d %b %Y, {clock}"),
    "now": ("jetzt", "maintenant", "ahora", "ora"),
    "comfort": ("Komfort {value}", "confort {value}", "confort {value}", "comfort {value}"),
    "cooler_outside": (
        "draußen kühler", "plus frais dehors", "más fresco fuera", "più fresco fuori"),
    "expected": ("erwartet", "prévu", "previsto", "previsto"),
    "likely_change": (
        "wahrscheinlicher Wechsel", "changement probable", "cambio probable", "cambio probabile"),
    "ranges": (
        "24 h / 7 d / 30 d / 1 Jahr",
        "24 h / 7 j / 30 j / 1 an",
        "24 h / 7 d / 30 d / 1 año",
        "24 h / 7 g / 30 g / 1 anno"),
    "expected_line": ("{name}, erwartet", "{name}, prévu", "{name}, previsto", "{name}, previsto"),
    "line_empty": (
        "{name}: keine Messungen",
        "{name}~: aucune mesure",
        "{name}: sin lecturas",
        "{name}: nessuna misura"),
    "line_said": (
        "{name}: {low} bis {high}, zuletzt {last}",
        "{name}~: de {low} à {high}, dernière mesure {last}",
        "{name}: de {low} a {high}, última {last}",
        "{name}: da {low} a {high}, ultima {last}"),
    "no_lines": (
        "noch keine Messungen",
        "pas encore de mesures",
        "aún sin lecturas",
        "ancora nessuna misura"),
    "not_drawn": (
        "{count} nicht gezeichnet, bis zu {value}",
        "non tracé~: {count}, jusqu’à {value}",
        "{count} sin dibujar, hasta {value}",
        "non disegnati: {count}, fino a {value}"),
    "odd_not_drawn": (
        "unmögliche Messungen nicht gezeichnet",
        "mesures impossibles non tracées",
        "lecturas imposibles sin dibujar",
        "misure impossibili non disegnate"),
    "spark": (
        "Letzte 24 Stunden: {low} bis {high}",
        "24 dernières heures~: {low} à {high}",
        "Últimas 24 horas: {low} a {high}",
        "Ultime 24 ore: {low} – {high}"),
    "chart_failed": (
        "Dieses Diagramm konnte nicht gezeichnet werden.",
        "Ce graphique n’a pas pu être tracé.",
        "No se pudo dibujar este gráfico.",
        "Impossibile disegnare questo grafico."),
    "chart_range": (
        "Zeitraum des Diagramms",
        "Période du graphique",
        "Período del gráfico",
        "Periodo del grafico"),
    "chart_time": (
        "Zeitpunkt im Diagramm",
        "Instant sur le graphique",
        "Momento en el gráfico",
        "Momento sul grafico"),
    "cooler_times": (
        "Wann es draußen kühler war / von / bis",
        "Quand il faisait plus frais dehors / début / fin",
        "Cuándo hizo más fresco fuera / desde / hasta",
        "Quando fuori era più fresco / da / a"),
    "as_yesterday": ("so warm wie gestern", "comme hier", "como ayer", "come ieri"),
    "today": (
        "Heute: Tiefstwert {low} um {low_at}, Höchstwert {high} um {high_at}",
        "Aujourd’hui~: min {low} à {low_at}, max {high} à {high_at}",
        "Hoy: mín {low} a las {low_at}, máx {high} a las {high_at}",
        "Oggi: min {low} alle {low_at}, max {high} alle {high_at}"),
    "warmer_than_yesterday": (
        "{d} wärmer als gestern", "{d} de plus qu’hier", "{d} más que ayer", "{d} in più di ieri"),
    "cooler_than_yesterday": (
        "{d} kühler als gestern",
        "{d} de moins qu’hier",
        "{d} menos que ayer",
        "{d} in meno di ieri"),
    "no_reading_yet": (
        "noch keine Messung", "pas encore de mesure", "aún sin lectura", "ancora nessuna misura"),
    "stations": ("Stationen", "Stations", "Estaciones", "Stazioni"),
    "exact_times": ("Genaue Zeiten", "Heures exactes", "Horas exactas", "Orari esatti"),
    "never": ("nie", "jamais", "nunca", "mai"),
    "every": ("im Abstand von {ago}", "à {ago} d’intervalle", "cada {ago}", "ogni {ago}"),
    "state_ok": ("ok", "ok", "ok", "ok"),
    "state_silent": ("stumm", "muette", "sin datos", "senza dati"),
    "state_new": ("neu", "nouvelle", "nueva", "nuova"),
    "folded": ("{n} weitere", "{n} de plus", "{n} más", "ancora {n}"),
    "history": (
        "Verlauf seit {day}",
        "Historique depuis le {day}",
        "Historial desde el {day}",
        "Storico da {day}"),
    "no_history": (
        "Noch kein Verlauf",
        "Pas encore d’historique",
        "Aún sin historial",
        "Ancora nessuno storico"),
    "beyond": (
        "Und {n} weitere, in /api/stations.",
        "Et {n} de plus, dans /api/stations.",
        "Y {n} más, en /api/stations.",
        "E ancora {n}, in /api/stations."),
    "more_rooms": (
        "Und 1 weiterer Raum, weniger dringend. / Und {n} weitere Räume, weniger dringend.",
        "Et 1 autre pièce, moins urgente. / Et {n} autres pièces, moins urgentes.",
        "Y 1 habitación más, menos urgente. / Y {n} habitaciones más, menos urgentes.",
        "E un’altra stanza, meno urgente. / E altre {n} stanze, meno urgenti."),
    "quantity": ("{number}~{unit}", "{number}~{unit}", "{number}~{unit}", "{number}~{unit}"),
    "percent": ("{number}~%", "{number}~%", "{number}~%", "{number}~%"),
    "point": (",", ",", ",", ","),
    "seconds": ("{n}~s", "{n}~s", "{n}~s", "{n}~s"),
    "minutes": ("{n}~min", "{n}~min", "{n}~min", "{n}~min"),
    "hours": ("{n}~h", "{n}~h", "{n}~h", "{n}~h"),
    "days": ("{n}~d", "{n}~j", "{n}~d", "{n}~g"),
    "day": ("%-d. %b", "%-d %b", "%-d %b", "%-d %b"),
    "date": ("%a %-d. %b %Y", "%a %-d %b %Y", "%a %-d %b %Y", "%a %-d %b %Y"),
    "date_clock": (
        "%a %-d. %b, {clock}", "%a %-d %b, {clock}", "%a %-d %b, {clock}", "%a %-d %b, {clock}"),
    "exact": (
        "%a %-d. %b %Y {clock} %Z",
        "%a %-d %b %Y {clock} %Z",
        "%a %-d %b %Y {clock} %Z",
        "%a %-d %b %Y {clock} %Z"),
    "weekdays": (
        "Mo Di Mi Do Fr Sa So",
        "lun. mar. mer. jeu. ven. sam. dim.",
        "lun mar mié jue vie sáb dom",
        "lun mar mer gio ven sab dom"),
    "months": (
        "Jan Feb Mär Apr Mai Jun Jul Aug Sep Okt Nov Dez",
        "janv. févr. mars avr. mai juin juil. août sept. oct. nov. déc.",
        "ene feb mar abr may jun jul ago sep oct nov dic",
        "gen feb mar apr mag giu lug ago set ott nov dic"),
    "wall_cooler": (
        "Ab {at} kühler", "Plus frais dès {at}", "Más fresco desde las {at}",
        "Più fresco dalle {at}"),
    "wall_warmer": (
        "Ab {at} wärmer", "Plus chaud dès {at}", "Más calor desde las {at}",
        "Più caldo dalle {at}"),
    "wall_open": (
        "Offen bis {at}", "Ouvrir jusqu’à {at}", "Abrir hasta las {at}", "Aprire fino alle {at}"),
    "wall_lost": (
        "Keine Verbindung seit {at}",
        "Hors connexion depuis {at}",
        "Sin conexión desde las {at}",
        "Senza connessione dalle {at}"),
    "wall_inside": ("drinnen", "dedans", "dentro", "in casa"),
    "wall_outside": ("draußen", "dehors", "fuera", "fuori"),
    "one_heard": (
        "1 Station, Wert höchstens {ago} alt",
        "1 station, dernière mesure~: {ago} au plus",
        "1 estación, datos de hace {ago} como mucho",
        "1 stazione, dati da {ago} al massimo"),
    "all_heard": (
        "{n} Stationen, alle Werte höchstens {ago} alt",
        "{n} stations, dernières mesures~: {ago} au plus",
        "{n} estaciones, todas con datos de hace {ago} como mucho",
        "{n} stazioni, dati di tutte da {ago} al massimo"),
}


def enter_languages(codes: Sequence[str], table: Mapping[str, Sequence[str]]) -> None:
    """Add a language for each column of a table, and offer it to --language."""
    for code, *texts in [*zip(codes, *table.values(), strict=True)]:
        LANGUAGES[code] = {key: text.translate(SPACES)
                           for key, text in zip(table, texts, strict=True)}
    names = ("auto", *LANGUAGES)
    SETTINGS[:] = [one._replace(metavar="|".join(names), parse=one_of(*names))
                   if one.name == "language" else one for one in SETTINGS]


enter_languages(COLUMNS, TRANSLATIONS)


# ------------------------------------------------------------------------------------------------
# 30. Commands
#    Law: data on stdout, everything else on stderr; 0 done, 1 could not, 2 wrong usage.
# ------------------------------------------------------------------------------------------------
MOST_OFFSET = 10.0              # °C; a larger error means a broken thermometer
COMPARE_TIME = 5 * MINUTE       # between two compared readings; most stations send more often
LEAST_PAIRS = 10                # of readings; the median of fewer is left to chance
MOST_SPREAD = 1.0               # °C between the quartiles; side by side, noise is a tenth of it


def parse_offset(text: str) -> float:
    """°C to add to a thermometer. Raises Usage."""
    require(re.fullmatch(r"[+-]?\d{1,2}(\.\d{1,2})?", text, re.ASCII)
            and abs(float(text)) <= MOST_OFFSET,
            f"{text!r}: °C from -{MOST_OFFSET:g} to {MOST_OFFSET:g}, with at most two decimals")
    return float(text)


def parse_key(text: str) -> str:
    """An API key; `-` reads it from standard input."""
    key = sys.stdin.readline().strip() if text == "-" else text
    require(KEY.fullmatch(key), "1 to 64 characters from 0-9 A-Z a-z . _ ~ -")
    return key


def stations_of(path: Path) -> list[Station]:
    with contextlib.closing(Reader(path)) as reader:
        return reader.stations()


def add_station(args: argparse.Namespace, path: Path, name: str) -> None:
    require(args.mac, "--add-station needs --mac: the station's MAC or any word, like --mac attic")
    mac, key = args.mac.lower(), args.key or secrets.token_urlsafe(16)
    role = None if args.role == "none" else args.role
    (first, *others), say = next(
        (make(args, name) for option, make in STATION_KINDS.items() if getattr(args, option)),
        ([Newcomer(name, mac, role)], say_station))
    parse_name(first.name)
    with contextlib.closing(open_writer(path, may_create=True)) as writer:
        digest, stations = hash_key(key).hex(), stations_of(path)
        for one in (first, *others):
            refuse_taken(stations, digest, one.name, one.mac)
        running = str(writer.address()) if isinstance(writer, Remote) else ""
        print(say(args, first.name, key, *find_addresses(args, running)))
        finish_output()                 # before a station is stored, its key has to be printed
        writer.add_station(*first[:3], digest, now_ms(), first.labels, others)


def find_addresses(args: argparse.Namespace, running: str) -> tuple[str, str, str]:
    """The server's address for other devices, its address for this computer, and the command that
    makes it reachable for others if it is not yet. running is the running server's own address."""
    link = urllib.parse.urlsplit(args.link or running)
    if link.hostname and not re.fullmatch(r"localhost|127\..*|::1", link.hostname):
        # Where HTTPS has its usual port, nginx takes updates by plain HTTP on port 80.
        address = f"{link.scheme if link.port else 'http'}://{link.netloc}"
        return address, address, ""
    number = str(link.port or args.port)
    port = f":{number}" * (number != "80")
    is_service = "IOTSERVER_PROGRAM" in os.environ or (running and not link.hostname)
    usual = os.environ.get("IOTSERVER_PORT", "8000")
    start = "" if is_service else f"""
# start the server like this: other devices can then reach it
{say_program(args.db)} --host 0.0.0.0{f" --port {number}" * (number != usual)}
"""
    return f"http://{lan_address()}{port}", f"http://{link.netloc or '127.0.0.1' + port}", start


def say_station(args: argparse.Namespace, name: str, key: str, server: str, near: str,
                start: str) -> str:
    now = now_ms()
    return f"""station {name} is registered; its API key, shown only now: {key}

# its config.py
API_KEY = "{key}"
SSID = "the name of your WiFi"
WIFI_PASSWORD = "its password"
MAC_ADDRESS = "{args.mac}"
SERVER = "{server}"
{start}
# while the server runs, try it: send a reading of 26.5 °C
curl -H "X-API-Key: {key}" {near}/update/mac={args.mac}/field=1/data=26.5

# delete this reading, before the station itself sends
{say_program(args.db)} --delete-readings {shlex.quote(name)} \\
    --field 1 --start {format_time(now)[:10]} --end {format_time(now + 2 * DAY)[:10]}"""


def edit_station(args: argparse.Namespace, path: Path, name: str) -> None:
    require(args.name or args.mac or args.role or args.offset is not None,
            "--edit-station needs --name, --mac, --role or --offset")
    with contextlib.closing(open_writer(path)) as writer:
        id = find_station(stations_of(path), name).id
        writer.edit_station(name, args.name, args.mac and args.mac.lower(), args.role,
                            args.offset)
    now = find_station(stations_of(path), str(id))
    print(f"{now.name}: role {now.role or 'none'}, MAC {now.mac}, offset {now.offset:g} °C")


def subtract(ours: Sequence[Sample], theirs: Sequence[Sample]) -> list[float]:
    """Each of our readings minus the nearest of theirs, if that is within COMPARE_TIME."""
    times = [ms for ms, _ in theirs]
    found = []
    for ms, value in ours:
        i = bisect.bisect_left(times, ms)
        near = min(theirs[max(i - 1, 0):i + 1], key=lambda sample: abs(sample[0] - ms),
                   default=(LATEST_TIME, 0.0))
        if abs(near[0] - ms) <= COMPARE_TIME:
            found.append(value - near[1])
    return found


def compare(args: argparse.Namespace, path: Path, name: str, other: str) -> None:
    end = now_ms() if args.end is None else args.end
    start = end - DAY if args.start is None else args.start
    require(start < end, "--start has to be before --end")
    with contextlib.closing(open_reader(path)) as reader:
        reader.use_offsets()
        pair = [find_station(reader.stations(), text) for text in (name, other)]
        require(pair[0].id != pair[1].id, "--compare takes two stations")
        found = subtract(*(reader.recent(reader.thermometer(station.id), start, end)
                           for station in pair))
    ours, theirs = (station.name for station in pair)
    if len(found) < LEAST_PAIRS:
        raise StoreError(f"pairs of readings within {COMPARE_TIME // MINUTE} minutes: "
                         f"{len(found)}; at least {LEAST_PAIRS} are needed: let both lie side by "
                         "side for an hour, or give the --start and --end of such an hour")
    low, middle, high = statistics.quantiles(found, n=4, method="inclusive")
    print(f"{ours} minus {theirs}: {middle:+.2f} °C, the median of {len(found)} pairs; half of "
          f"them are between {low:+.2f} and {high:+.2f}")
    if high - low > MOST_SPREAD:
        raise StoreError(f"they differ by more than {MOST_SPREAD:g} °C, so no offset fits: the "
                         "two do not lie side by side, or one of them is in the sun")
    offset = round(pair[0].offset - middle, 2) + 0.0
    if abs(offset) > MOST_OFFSET:
        raise StoreError(f"{ours} would need an offset of {offset:+g} °C, more than "
                         f"{MOST_OFFSET:g}: it is broken, or measures something else")
    print(f"to make {ours} agree, type:\n"
          f"{say_program(args.db)} --edit-station {shlex.quote(ours)} --offset {offset:g}")


def list_stations(args: argparse.Namespace, path: Path) -> None:
    def say_heard(ms: int) -> str:
        return f"{ENGLISH.say_ago(now_ms() - ms)} ago" if sys.stdout.isatty() else format_time(ms)

    with contextlib.closing(open_reader(path)) as reader:
        reader.use_offsets()
        stations = reader.stations()
        entries = reader.entries(s.id for s in stations)
        fields, now = collections.defaultdict(list), now_ms()
        for series in reader.latest((s.id for s in stations), now):
            fields[series.station].append(series)
        newest = {series.station: str(series.value) for series in itertools.chain(*fields.values())
                  if series.field == 1 and series.value is not None}
        heard = {s.id: last_sign(reader, s, fields[s.id], now) for s in stations}
        table = [("id", "name", "role", "MAC", "last heard", "entries", "offset", "field 1")] + [
            (str(s.id), s.name, s.role or "-", s.mac,
             say_heard(heard[s.id]) if heard[s.id] else "never", str(entries.get(s.id, 0)),
             f"{s.offset:g}", newest.get(s.id, "-")) for s in stations]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        print("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip())


def print_key(args: argparse.Namespace, path: Path, name: str, kind: str) -> str:
    """Print a key of a station before it is stored, so that a key which cannot be printed changes
    nothing. Returns its hash."""
    key = args.key or secrets.token_urlsafe(16)
    stations, digest = stations_of(path), hash_key(key).hex()
    find_station(stations, name)
    refuse_taken(stations, digest)
    print(f"the {kind} of {name}, shown only now: {key}")
    finish_output()
    return digest


def new_key(args: argparse.Namespace, path: Path, name: str) -> None:
    with contextlib.closing(open_writer(path)) as writer:
        if writer.new_key(name, print_key(args, path, name, "new API key"), bool(args.now)):
            print("the old key works until the new one is first used")


def read_key(args: argparse.Namespace, path: Path, name: str) -> None:
    with contextlib.closing(open_writer(path)) as writer:
        writer.set_read_key(name, print_key(args, path, name, "read key"))
    print("it reads the verdict and this station's ThingSpeak feeds on a private server; an "
          "earlier read key has ended")


def remove_station(args: argparse.Namespace, path: Path, name: str) -> None:
    with contextlib.closing(open_reader(path)) as reader:
        station = find_station(reader.stations(), name)
        total = reader.count(station=station.id)
    if args.dry_run:
        print(f"{station.name} would be removed; readings: {total}; nothing was")
        return
    if sys.stdin.isatty() and not args.yes:
        print(f"remove {station.name} and its {total} readings? [y/N] ", end="", file=sys.stderr,
              flush=True)
        if sys.stdin.readline().strip().lower() not in {"y", "yes"}:
            raise StoreError("nothing was removed")
    with contextlib.closing(open_writer(path)) as writer:
        while writer.remove_step(str(station.id)) >= 0:
            pass
        freed = sum(iter(writer.shrink_step, 0))    # bytes that the file became smaller
    print(f"removed {station.name}; readings: {total}; {format_bytes(freed)} freed")


def prune(args: argparse.Namespace, path: Path, age: str) -> None:
    before = now_ms() - parse_duration(age)
    with contextlib.closing(open_reader(path)) as reader:
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
    require(args.field or args.below is args.above is None,
            "--below and --above need --field N: each field has its own unit")
    fields = [args.field] if args.field else range(1, MAX_FIELDS + 1)
    wanted = {part: getattr(args, part) for part in ("start", "end", "below", "above")}
    total = kept = 0
    with contextlib.closing(open_reader(path)) as reader:
        station = find_station(reader.stations(), name)
        for field, series in reader.series(station.id, fields).items():
            count, lowest, highest, left = reader.count_wanted(series, wanted)
            total, kept = total + count, kept + left
            if count:
                print(f"field {field}: {count} readings, " + (
                    "all texts" if highest is None else f"lowest {lowest}, highest {highest}"))
    if not args.dry_run:
        total = 0
        with contextlib.closing(open_writer(path)) as writer:
            for field in fields:
                at = args.start
                while at < args.end:
                    gone, at = writer.delete_step(name, field, {**wanted, "start": at})
                    total += gone
    print(f"{total} readings would be deleted; nothing was" if args.dry_run else
          f"deleted {total} readings")
    if kept:
        print(f"iotserver: {kept} hours were not changed: some of their readings were pruned, so "
              "they can only be deleted as whole hours, without --below and --above",
              file=sys.stderr)


def backup(args: argparse.Namespace, path: Path, name: str) -> None:
    target = Path(name).absolute()
    with replacing(target, path, True) as partial, contextlib.closing(open_reader(path)) as reader:
        with progress_bar("copying") as progress:
            try:
                reader.copy(partial, progress)
            except sqlite3.Error as error:      # the error may be of either file
                raise StoreError(f"copying {path} to {target}: {error}") from None
        with contextlib.closing(Reader(partial)) as copy, progress_bar("checking") as progress:
            damage, mistakes = copy.check(progress)
            count, size = copy.count(), sum(copy.weights())
        if damage:
            raise StoreError("the copy was not kept, because it is damaged: " + damage[0])
    if mistakes:
        print(f"iotserver: warning, in the database and its copy: {mistakes[0]}", file=sys.stderr)
    print(f"{target}: {count} readings, {format_bytes(size)}, checked")


def check(args: argparse.Namespace, path: Path) -> None:
    with contextlib.closing(open_reader(path)) as reader, progress_bar("checking") as progress:
        problems = [text for found in reader.check(progress) for text in found]
    if problems:
        raise StoreError("\n".join(problems[:100]) + f"\n{path} is damaged; restore a backup")
    print("ok")


SUM_ONLY = {"below": -LARGEST, "above": None, "end": LATEST_TIME}     # deletes nothing


def label(args: argparse.Namespace, path: Path, name: str, field: str, text: str) -> None:
    require(field in tuple("123456789"), "FIELD is a number from 1 to 9")
    require(is_label(text), f"a label has at most {MAX_NAME} characters, all printable")
    with contextlib.closing(open_writer(path)) as writer:
        writer.label(name, int(field), text)
        at = 0                          # what a thermometer's summaries are of may have changed
        while field == "1" and at < LATEST_TIME:
            _, at = writer.delete_step(name, 1, {**SUM_ONLY, "start": at})
    print(f"field {field} of {name} is now called {text!r}" if text else
          f"field {field} of {name} has no label now")


def export(args: argparse.Namespace, path: Path, name: str) -> None:
    with writing(name, path) as file, contextlib.closing(open_reader(path)) as reader, \
            progress_bar("exporting") as progress:
        total, done = reader.count(), 0
        file.write(as_csv([Row._fields]).decode())
        for station in reader.stations():
            rows = reader.rows(station)
            while chunk := list(itertools.islice(rows, PAGE_ROWS)):
                file.write(as_csv((format_time(r[0]), *r[1:]) for r in chunk).decode())
                done += len(chunk)
                progress(done / max(total, 1))


def read_sqlite(file: BinaryIO, name: str, station: Station | None, remarks: Remarks
                ) -> Iterator[Row]:
    """The rows of weewx's archive or of the older table."""
    path = Path(name)
    with contextlib.ExitStack() as stack:
        if not path.is_file():          # SQLite cannot seek in a pipe
            path = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "older.db"
            with path.open("wb") as copy:
                shutil.copyfileobj(file, copy)
        db = stack.enter_context(contextlib.closing(connect(path, "ro")))
        try:
            kind = next((kind for table, kind in TABLE_KINDS.items() if ask(
                db, "SELECT 1 FROM sqlite_master WHERE name = ?", (table,))), None)
            if kind is None:
                raise ValueError("it has no table of these: " + ", ".join(TABLE_KINDS))
            yield from kind(db, station, remarks)
        except (ValueError, TypeError, Refused, sqlite3.Error) as error:
            raise StoreError(f"{name}: {error}") from None


FILE_KINDS[b"SQLite format 3\0"] = read_sqlite


def read_own(header: list[str], lines: Iterator[list[str]], station: Station | None,
             remarks: Remarks) -> Iterator[Row]:
    """The rows of a file that --export wrote. Raises ValueError, Refused."""
    for when, owner, mac, field, value, entry in lines:
        if is_value(value):
            yield Row(parse_time(when), owner, parse_mac(mac), parse_field(field),
                      parse_value(value), parse_entry(entry))
        else:
            remarks.skip(value)


CSV_KINDS.append((lambda header: header == list(Row._fields), read_own))


def fit_cells(cells: list[str], count: int) -> list[str]:
    """The cells of a line without a comma at its end. Raises ValueError."""
    if len(cells) < count or any(cells[count:]):
        raise ValueError(f"{count} cells are expected")
    return cells[:count]


def read_csv(file: BinaryIO, name: str, station: Station | None, remarks: Remarks
             ) -> Iterator[Row]:
    """The rows of a CSV, whose kind the first line tells."""
    text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
    lines = csv.reader(text)
    remarks.where = lambda: f"line {lines.line_num}"
    try:
        header = next(lines, [])
        while header and not header[-1]:        # a comma at its end
            header.pop()
        count = len(header)
        read = next((read for is_its, read in CSV_KINDS if is_its(header)), None)
        if read is None:
            raise StoreError(f"{name} is not a file that --import can read. Its own CSV "
                             f"looks like this:\n{','.join(Row._fields)}\n"
                             "2026-07-30T22:16:34Z,outside,5c:cf:7f:01:02:03,1,21.5,")
        yield from read(header, (cells if len(cells) == count else fit_cells(cells, count)
                                 for cells in lines if cells), station, remarks)
    except (ValueError, OverflowError, csv.Error, Refused) as error:
        raise StoreError(f"{name}, line {lines.line_num}: {error}. Earlier lines may be "
                         "stored; importing them again stores nothing twice") from None
    finally:
        text.detach()                   # so that the caller's file stays open


def import_steps(rows: Iterable[Row], size: int) -> Iterator[list[Row]]:
    """The rows in steps of about this size. Rows of one instant stay in one step, because equal
    rows of an instant are counted."""
    step: list[Row] = []
    for row in rows:
        if len(step) >= size and row[0] != step[-1][0]:
            yield step
            step = []
        step.append(row)
    yield step


def find_owner(path: Path, name: str) -> Station:
    """The station whose readings a file holds; for a console its station outside."""
    stations = stations_of(path) if path.exists() else []
    names, outside = {station.name for station in stations}, f"{name} outside"
    return find_station(stations, outside if outside in names and name not in names else name)


def warn_of_names(path: Path, names: Iterable[tuple[str, str]]) -> None:
    """Report names of a file that no station may have, and the names used instead."""
    used = {station.mac: station.name for station in stations_of(path)}
    for name, mac in sorted(names):
        if name and not is_name(name):
            print(f"iotserver: {name[:MAX_NAME]!r} is not allowed as a name; {mac} is called "
                  f"{used[mac]}", file=sys.stderr)


def zone_name() -> str:
    """The name of this machine's time zone."""
    name = os.environ.get("TZ", "").lstrip(":") or os.path.realpath("/etc/localtime")
    return re.sub(".*/zoneinfo/|^/etc/localtime$", "", name) or time.tzname[0]


def take_labels(args: argparse.Namespace, path: Path, station: Station, labels: dict[int, str]
                ) -> None:
    """Call the fields of a station by the names in an imported file, where none has a label."""
    with contextlib.closing(open_reader(path)) as reader:
        fields = [series.field for series in reader.latest([station.id]) if not series.label]
    for field in labels.keys() & fields:
        label(args, path, str(station.id), str(field), labels[field])


def import_file(args: argparse.Namespace, path: Path, name: str) -> None:
    stored = known = pruned = texts = 0
    names: set[tuple[str, str]] = set()         # names of stations with their MACs
    remarks = Remarks()
    station = find_owner(path, args.station) if args.station else None
    with naming("standard input" if name == "-" else name), \
            open(0 if name == "-" else name, "rb", closefd=name != "-") as file, \
            contextlib.closing(open_writer(path, may_create=True)) as writer, \
            progress_bar("importing") as progress:
        length = os.fstat(file.fileno()).st_size        # 0 for a pipe
        start = file.peek(16).lstrip(b"\xef\xbb\xbf \r\n\t")
        read = next((read for begin, read in FILE_KINDS.items() if start.startswith(begin)),
                    read_csv)
        size = STEP_ROWS if isinstance(writer, Remote) else 10 * STEP_ROWS
        gc.disable()                    # the search for cycles takes 13 % of the time, for nothing
        for step in import_steps(read(file, name, station, remarks), size):
            counts = writer.import_rows(step, now_ms())
            stored, known, pruned = map(sum, zip(counts, (stored, known, pruned), strict=True))
            texts += [type(row.value) for row in step].count(str)
            names.update(map(operator.itemgetter(1, 2), step))
            progress(file.tell() / length if length else 0)
        gc.enable()
    print(f"imported {stored} readings; {known} were there already"
          + (f"; {pruned} were left out, because their hours were pruned" if pruned else "")
          + (f"; {texts} of them are texts, not numbers" if texts else ""))
    if station and remarks.labels:
        take_labels(args, path, station, remarks.labels)
    if remarks.clocks:
        print("times read as {}: {:%Y-%m-%d %H:%M} to {:%Y-%m-%d %H:%M}".format(
            zone_name(), *map(datetime.fromtimestamp, remarks.clocks)))
    for what, count in remarks.left_out.items():
        print(f"iotserver: left out: {count} {what}", file=sys.stderr)
    warn_of_names(path, names)


# -- the tables ----------------------------------------------------------------------------------

COMMANDS[:0] = [
    Command("add-station", ("NAME",), add_station,
            "register a station; prints its key and the lines of its config.py",
            ("mac", "role", "key", *STATION_KINDS)),
    Command("edit-station", ("NAME",), edit_station,
            "change a station's name, MAC, role or offset; id, keys and readings stay",
            ("name", "mac", "role", "offset")),
    Command("compare", ("NAME", "OTHER"), compare, "compare two thermometers that lie side by "
            "side, over the last 24 h or from --start to --end; prints the offset to set",
            ("start", "end")),
    Command("stations", (), list_stations, "list the stations"),
    Command("new-key", ("NAME",), new_key,
            "give a station a new key; the old one works until that is used", ("key", "now")),
    Command("read-key", ("NAME",), read_key,
            "give a station a key that only reads, for a --private server", ("key",)),
    Command("remove-station", ("NAME",), remove_station,
            "remove a station and its readings; on a terminal it asks first", ("dry-run", "yes")),
    Command("delete-readings", ("NAME",), delete_readings, "delete a station's readings from "
            "--start to --end, and update the hourly summaries",
            ("start", "end", "field", "below", "above", "dry-run")),
    Command("prune", ("AGE",), prune,
            "delete readings older than 90d, 12h, ...; hourly summaries stay", ("dry-run",)),
    Command("backup", ("FILE",), backup, "write a checked copy, also while the server runs"),
    Command("export", ("FILE",), export, "write all readings as CSV; - is standard output"),
    Command("import", ("FILE",), import_file, "read the CSV of --export, ThingSpeak's CSV or "
            "feeds.json, Ecowitt's CSV, weewx's archive, or an older table", ("station",)),
    Command("label", ("STATION", "FIELD", "TEXT"), label, "what the page calls a field"),
    Command("check", (), check, "check the whole database and its hourly summaries")]
OPTIONS[:0] = [
    Setting("mac", "MAC", None, lambda text: parse_mac(text) and text, "the station's MAC"),
    Setting("role", "inside|outside|none", None, one_of("inside", "outside", "none"), "its role"),
    Setting("name", "NEW", None, parse_name, "the station's new name"),
    Setting("offset", "DEGREES", None, parse_offset, "°C to add to its thermometer, -10 to 10"),
    Setting("key", "KEY", None, parse_key,
            "the API key (default: a random one); - reads it from standard input"),
    Setting("now", None, None, parse_switch, "the old key ends at once"),
    Setting("station", "NAME", None, str, "whose readings another program's file holds"),
    Setting("start", "T", None, functools.partial(parse_instant, "start"),
            "start time: 2024, 2024-01-31, 2024-01-31T18:00Z, or seconds since 1970"),
    Setting("end", "T", None, functools.partial(parse_instant, "end"),
            "end time, not included"),
    Setting("field", "N", None, parse_field, "only readings of this field"),
    Setting("below", "V", None, parse_number, "only readings below V"),
    Setting("above", "V", None, parse_number, "only readings above V"),
    Setting("dry-run", None, None, parse_switch, "only count, delete nothing"),
    Setting("yes", None, None, parse_switch, "do not ask")]


def takers(option: str) -> str:
    """The flags that take an option, in words."""
    return " or ".join(f"--{c.flag}" for c in COMMANDS if option in c.options)


def add_flag(group: "argparse._ArgumentGroup", s: Setting, text: str, given: str | None) -> None:
    how: dict[str, Any] = ({"metavar": s.metavar} if s.metavar else
                           {"action": "store_const", "const": "1"})
    group.add_argument(f"--{s.name}", default=given, help=text, **how)


def build_parser(environ: Mapping[str, str]) -> argparse.ArgumentParser:
    """The parser of the command line. parse_settings parses the values, which are texts here."""
    parser = argparse.ArgumentParser(
        prog="iotserver.py", description="Serve a household's weather stations, or run a command.",
        usage="%(prog)s [SETTING ...]\n       %(prog)s COMMAND [OPTION ...]",
        epilog="A setting can also come from the environment: IOTSERVER_PORT=8080.")
    serving = parser.add_argument_group("settings of the server")
    for s in SETTINGS:
        text = s.help + (f" (default: {s.default})" if s.default else "")
        add_flag(serving, s, text, environ.get(s.variable, s.default))
    doing = parser.add_argument_group("commands, each of which runs once and exits")
    options = parser.add_argument_group("options of the commands")
    one = doing.add_mutually_exclusive_group()
    for c in COMMANDS:
        how: dict[str, Any] = ({"metavar": c.metavar, "nargs": len(c.metavar)} if c.metavar else
                               {"action": "store_const", "const": []})
        one.add_argument(f"--{c.flag}", dest=c.flag, help=c.help, **how)
    for s in OPTIONS:
        add_flag(options, s, f"with {takers(s.name)}: {s.help}", None)
    parser.add_argument("--version", action="version", version=f"iotserver {__version__}")
    return parser


def parse_settings(args: argparse.Namespace, settings: Iterable[Setting] = SETTINGS) -> None:
    """Replace the texts of these flags by their values. Raises Usage."""
    for s in settings:
        name = s.name.replace("-", "_")
        try:
            if (text := getattr(args, name)) is not None:
                setattr(args, name, s.parse(text))
        except (Usage, ValueError) as error:
            also = "" if s.default is None else f" (or {s.variable})"
            raise Usage(f"--{s.name}{also}: {error}") from None
        except Refused as refused:              # its message begins with the flag's name
            raise Usage(f"--{refused.message}") from None


def find_command(args: argparse.Namespace) -> Command | None:
    """The command on the command line, if any. Raises Usage for an option of another command."""
    found = next((c for c in COMMANDS if getattr(args, c.flag) is not None), None)
    for option in (s.name for s in OPTIONS):
        require(getattr(args, option.replace("-", "_")) is None
                or (found and option in found.options), f"--{option} needs {takers(option)}")
    parse_settings(args, OPTIONS)
    return found


def run(argv: list[str] | None) -> None:
    """Run the command of the command line, or serve."""
    args = build_parser(os.environ).parse_args(argv)
    parse_settings(args)
    if sqlite3.sqlite_version_info < (3, 37):
        raise StoreError("iotserver needs SQLite 3.37 or newer; this Python brings "
                         f"{sqlite3.sqlite_version}")
    path = Path(os.path.realpath(args.db))      # every name of the file leads to the same lock
    try:
        if command := find_command(args):
            command.run(args, path, *getattr(args, command.flag))
        else:
            with naming(path):
                run_server(args, path)
    except sqlite3.Error as error:
        raise StoreError(f"{path}: {error}; {advise(error)}") from None


def main(argv: list[str] | None = None) -> int:
    """Run one command, or serve until SIGTERM. Returns the exit status."""
    os.umask(0o077)                             # all files that we create are private
    open_missing()
    set_output("backslashreplace")              # a terminal that lacks a character is no error
    try:
        with naming("standard output"):         # errors of other files already carry a name
            try:
                run(argv)
            finally:
                finish_output()
        return 0
    except Usage as error:
        print(f"iotserver: {error} (see --help)", file=sys.stderr)
        return 2
    except BrokenPipeError:                     # the reader of our output has closed it
        return 1
    except StoreError as error:
        print(f"iotserver: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
