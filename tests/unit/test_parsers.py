"""Every parser of text, given as much as can reach it: linear, and below what an update notices.

The parsers are found by their names, which are a law of the file, and fed by their annotations:
one that is new is tested, too, or the test says that it does not know how.
"""
import contextlib
import functools
import inspect
import io
import itertools
import json
import re
import sys
import time
from collections.abc import Mapping
from datetime import UTC
from types import SimpleNamespace
from typing import Any, BinaryIO, get_origin, get_type_hints

import pytest
from harness import INSIDE, NOON

import iotserver

pytestmark = pytest.mark.slow

VERBS = re.compile("(?:parse|split|find|choose|cut|repair|read|load|measure|clean|to|take|bulk"
                   "|unpack|inspect|networks|refuse)(?:_|$)|check_line|check_headers|merge_headers")
INNER = {"Server", "Reader", "Writer", "Namespace", "Path", "Connection"}
LIMIT = 0.020                   # s of processor: no step of the loop takes longer
QUIET = 0.002                   # s: below that, how the time grows does not matter

UNITS = (
    "1", "9.", "0e", "x", "A", "T", "Z", " ", "\t", "|", ",", ", ", '"', "'", "%", "%4", "%41",
    "%C3", "+", "-", "&", "=", "a=1&", ";", ":", "T ", "00:", ".", "/", "a/", "(", "[", "{",
    "{}", '{"', "\\", "\\u", "\0", "\x1f", "\r", "\n", "\r\n", "\x7f", "é", "漢", "😀",
    "a: b\r\n", "tz=", "de-", "a;q=")
# Of different names, which no repetition makes: a JSON object, a list, a form.
SHAPES = tuple(lambda size, start=start, part=part, end=end: start + "".join(
    part % n for n in range(size // len(part % 0xfffff))) + end for start, part, end in (
    ("{", '"%05x":0,', '"x":0}'), ('{"mac":"m","api_key":"k","readings":[', '{"%05x":0},', "{}]}"),
    ('{"updates":[', '{"%05x":0},', "{}]}"), ("[", "[%d],", "0]"), ("", "&%05x=1", "")))
FRAMES = (("", ""), ("", "x"), ("", "\n\r\n\r\nx"), ("1", " x"), ("T", " 00:00x"),
          ("2018-07-30T12:00:00", "+00:00"))


def longest(name):
    """As many characters as can reach a parser: those of a body, unless it reads heads alone."""
    if name in READ_FILES:
        return iotserver.MAX_BODY // 8          # of a file of any length, in lines of any length
    return iotserver.MAX_HEAD if name in IN_HEADS else iotserver.MAX_BODY


READ_FILES = {"read_csv", "read_json"}          # for a command, not for the loop
BEHIND_A_KEY = {"parse_bulk_csv"}     # called once the key is known: decoding may take a while
IN_HEADS = {"repair_head", "read_head", "check_line", "check_headers", "parse_head",
            "parse_query", "split_update_path", "parse_basic",
            "merge_headers", "measure_body", "choose_unit", "choose_zone", "find_route",
            "networks", "find_cookie", "refuse_rebinding"}


def head(text):
    """A head of a request with text in each place that has one."""
    return (f"GET /update?{text} HTTP/1.1\r\nHost: h\r\nConnection: a{text}b\r\n"
            f"Cookie: {text}\r\n\r\n").encode("utf-8", "surrogatepass")


def each_name(text):
    return dict.fromkeys((
        "api_key", "key", "created_at", "timezone", "offset", "start", "end", "days", "minutes",
        "results", "round", "min", "max", "sum", "callback", "updates", "time_format", "status",
        "lat", "field1", "elevation", "field", "data", "age", "seq", "points", "cookie"), text)


def raw(text):
    return text.encode("utf-8", "surrogatepass")


def as_json(text):
    """What a text is as JSON, if it is any; this is not measured."""
    with contextlib.suppress(ValueError, RecursionError):
        return json.loads(text)


SPECIAL = {                     # what annotations do not tell: all arguments, made of a text
    "find_locale": lambda text: ("auto", "auto", text[:iotserver.MAX_LANGUAGE],
                                 text[:iotserver.MAX_COOKIES]),
    "choose_unit": lambda text: ("auto", text),
    "refuse_taken": lambda text: ([iotserver.Station(1, text, text)], None, text, text),
    "check_headers": lambda text: (b"A: " + raw(text) + b"\r\nConnection: a" + raw(text)
                                   + b"\r\n\r\n",),
    "merge_headers": lambda text: ([("A", text), ("Connection", text), ("Host", text)],),
    "parse_head": lambda text: (head(text), "127.0.0.1"),
    "read_head": lambda text: (head(text), ("127.0.0.1", False), True),
    "cut_head": lambda text: (b"GET /update?" + raw(text), True),
    "repair_head": lambda text: (b"GET /update?" + raw(text),),
    "check_line": lambda text: (b"GET /" + raw(text) + b" HTTP/1.1",),
    "split_update_path": lambda text: ("/update/" + text,),
    "parse_update": lambda text: (dict.fromkeys(iotserver.PART_NAMES, text),),
    "measure_body": lambda text: ("POST", "HTTP/1.1", {
        "content-length": text, "transfer-encoding": text}),
    "find_route": lambda text: ("GET", "/channels/" + text),
    "parse_update_json": lambda text: (
        as_json(text) or {"mac": text, "api_key": text, "readings": [text]},),
    "parse_parts": lambda text: ("body", as_json(text) or {text: text}, ("mac",)),
    "parse_json_reading": lambda text: (
        "readings[0]", {"field": 1, "data": text, "age": text, "seq": text}),
    "parse_reading": lambda text: ({"field": "1", "data": text, "age": text, "seq": text},),
    "parse_measure": lambda text: ("tempf", text, "°f"),
    "parse_report": lambda text: (dict.fromkeys(iotserver.UPLOADS, text),),
    "parse_bulk_times": lambda text: ([{"delta_t": text}, {"created_at": text}], UTC,
                                      NOON),
    "read_csv": lambda text: (io.BytesIO(b"created_at,entry_id,field1\n" + raw(text)), "file",
                              SimpleNamespace(name="inside", mac=INSIDE.mac)),
    "read_json": lambda text: (io.BytesIO(json.dumps({"feeds": [
        {"created_at": text, "entry_id": text, "field1": text}]}).encode()), "file",
        SimpleNamespace(name="inside", mac=INSIDE.mac)),
    "find_station": lambda text: ([], text),
    "parse_settings": lambda text: (SimpleNamespace(**{
        setting.name.replace("-", "_"): text for setting in iotserver.SETTINGS}),),
}
# Of a file, or of what the database holds.
NO_TEXT = {"read_password", "read_sqlite", "read_readings", "choose_answer", "choose_tiles",
           "find_air", "find_dust"}


def is_text(hint):
    return hint in {str, bytes, Any, object, BinaryIO, iotserver.Request, "str | None",
                    str | None, bytes | None} or get_origin(hint) in {dict, Mapping}


def is_inner(hint):
    """Whether it is something that no client can send."""
    return getattr(hint, "__name__", "") in INNER


def find_parsers():
    """All functions that turn text into something else, by their names and annotations."""
    for name, value in vars(iotserver).items():
        function = inspect.unwrap(value) if callable(value) else None
        if not (inspect.isfunction(function) and function.__module__ == "iotserver"
                and VERBS.match(name)) or name in NO_TEXT:
            continue
        hints = get_type_hints(function)
        asked = [hints.get(p) for p in inspect.signature(function).parameters]
        if name in SPECIAL or (any(map(is_text, asked)) and not any(map(is_inner, asked))):
            yield name


def repeat(unit, frame, size):
    """A text of many units, in a frame that makes it look like something."""
    before, behind = frame
    return before + (unit * (size // len(unit))) + behind


def feed(function, name, text):
    """The arguments for a parser, with text wherever there can be one."""
    if name in SPECIAL:
        return SPECIAL[name](text)
    values = {str: text, bytes: raw(text), str | None: text, Any: text, int: NOON, bool: True,
              bytes | None: raw(text),
              iotserver.Request: iotserver.Request(query=text, body=raw(text), headers={
                  "cookie": text, "accept": text, "authorization": text})}
    arguments = []
    for parameter, details in inspect.signature(function).parameters.items():
        hint = get_type_hints(function)[parameter]
        if details.default is not inspect.Parameter.empty:
            break
        if get_origin(hint) in {dict, Mapping}:
            arguments.append(each_name(text))
        elif parameter == "known":
            arguments.append(("start",))
        elif parameter == "zone":
            arguments.append(UTC)
        elif hint in values:
            arguments.append(values[hint])
        else:
            pytest.fail(f"{name}: how is {parameter} ({hint}) fed? Tell SPECIAL")
    return arguments


CACHES = [value for value in vars(iotserver).values() if hasattr(value, "cache_clear")]


def limit(name):
    return LIMIT * (10 if name in READ_FILES else 4 if name in BEHIND_A_KEY else 1)


def seconds(function, name, text):
    """What one call takes of the processor; what it refuses counts as well."""
    arguments = feed(function, name, text)
    for cache in CACHES:
        cache.cache_clear()
    tracer = sys.gettrace()         # that of a measurement of coverage takes its time, too
    sys.settrace(None)
    began = time.process_time()
    try:
        result = function(*arguments)
        if inspect.isgenerator(result):
            for _ in result:
                pass
    except (ValueError, TypeError, OverflowError, LookupError, AttributeError, iotserver.Refused,
            iotserver.StoreError, iotserver.Usage):
        pass
    took = time.process_time() - began
    sys.settrace(tracer)
    return took


def least(function, name, text, enough):
    """The least of some tries: the machine is noisy; one try that is quick enough is one."""
    best = seconds(function, name, text)
    for _ in range(30):
        if best <= enough:
            break
        best = min(best, seconds(function, name, text))
    return best


@pytest.mark.quiet
@pytest.mark.parametrize("name", sorted(find_parsers()))
def test_a_parser_is_linear_and_quick(name):
    function, most = inspect.unwrap(getattr(iotserver, name)), longest(name)
    slow = []
    texts = [*SHAPES, *(functools.partial(repeat, *parts) for parts in itertools.product(
        UNITS, FRAMES))]
    for make in texts:
        before_it, most_it = 0.0, limit(name)
        for size in (most // 64, most // 8, most // 4, most):   # a quadratic one would never end
            text = make(size)
            took = least(function, name, text, most_it)
            if took > most_it:
                slow.append(f"{took * 1000:.1f} ms for {text[:20]!a}...{text[-20:]!a}, "
                            f"{before_it * 1000:.1f} ms for a quarter of it")
                break
            before_it = took
            if size == most // 4:               # linear is 4 times, quadratic 16
                most_it = min(most_it, max(QUIET, 10 * before_it))
        if len(slow) > 2:
            break
    assert not slow


def test_there_are_parsers_and_each_special_one_is_there():
    found = set(find_parsers())
    assert len(found) > 30
    assert {"parse_number", "parse_time", "cut_head", "parse_form", "choose_zone"} <= found
    assert not (SPECIAL.keys() | IN_HEADS) - found
