"""ThingSpeak's API: devices and programs made for it only change the host name.

What was recorded from the live service, its vendor's library and other clients is replayed from
*.txt beside this file; parameters are compared with an oracle.
"""
import contextlib
import csv
import io
import itertools
import json
import random
import re
import socket
import time
import urllib.parse
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import conversation as talks
import oracle
import pytest
from harness import (
    HEADER,
    INSIDE,
    OUTSIDE,
    basic,
    bulk,
    parse_responses,
    problems_of,
    read_until,
    receive,
    request,
    update_path,
    wait_for,
)
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tools import ROOT
from world import PASSWORD, exchange_bytes

import iotserver

CONVERSATIONS = talks.read_all()
CORS = [
    "Access-Control-Allow-Origin: *",
    "Access-Control-Allow-Methods: GET, POST, PUT, OPTIONS, DELETE, PATCH",
    "Access-Control-Allow-Headers: origin, content-type, X-Requested-With",
    "Access-Control-Max-Age: 1800"]


def seed(world, station, entries):
    """Store oracle's entries, in bulk."""
    for i in range(0, len(entries), 960):
        response = world.bulk(station, [
            {"created_at": e.time.isoformat(), **e.values} for e in entries[i:i + 960]])
        assert response.status == 202, response


# -- conversations --------------------------------------------------------------------------------


def check_head(told, lines, raw):
    assert lines[0] == told[0]
    assert [line for line in told if line not in lines] == [], lines
    names = [line.partition(":")[0] for line in lines[1:]]
    assert len(names) == len(set(names))
    assert not {"Transfer-Encoding", "X-Frame-Options"} & set(names)
    if b"headers=false" not in raw:
        assert [line for line in CORS if line not in lines] == []


@pytest.mark.parametrize("conversation", CONVERSATIONS, ids=str)
def test_conversation(worlds, conversation):
    world = worlds(conversation.group)
    station = world.station()
    names = {"$WRITE": station.key, "$CHANNEL": str(station.id), "$NAME": station.name,
             "$LONG": "ü" * 127 + "."}
    if any(b"$READ" in e.request for e in conversation.exchanges):
        names["$READ"] = world.read_key(station)
    for exchange in conversation.exchanges:
        if exchange.command:
            world.command(talks.fill(exchange.command, names))
            continue
        raw = talks.request_of(exchange, names)
        lines, body = exchange_bytes(world, raw, bool(exchange.head))
        if exchange.head:
            check_head(exchange.head, lines, raw)
        told = talks.fill(exchange.body, names)
        assert talks.is_as_told(told, body, exchange.is_xml), f"{raw}\n{told}\n{body}"


def test_a_conversation_that_differs_is_seen():
    """The comparison itself can fail: in a byte, in time, in an XML element."""
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ").encode()
    assert talks.is_as_told(b'{"at":"$TIME"}', b'{"at":"%b"}' % now)
    assert not talks.is_as_told(b'{"at":"$TIME"}', b'{"at":"2017-01-12T18:22:54Z"}')
    assert not talks.is_as_told(b'{"at":"$TIME"}', b'{"at": "%b"}' % now)
    assert not talks.is_as_told(b"1", b"1\n")
    assert talks.is_as_told(b"<a> <b/></a>", b"<a><b /></a>", is_xml=True)
    assert not talks.is_as_told(b"<a><b/></a>", b"<a><b>1</b></a>", is_xml=True)
    with pytest.raises(AssertionError):
        check_head(["HTTP/1.1 200 OK"], ["HTTP/1.1 200 OK", *CORS[1:]], b"")


# -- the table of calls ---------------------------------------------------------------------------


def table():
    """The rows (call, works here, differences) of the README beside this file."""
    text = (ROOT / "tests/thingspeak/README.md").read_text().split("\n## Call by call\n")[1]
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")]
            for line in text.splitlines() if line.startswith("| ")]
    return [row for row in rows if row[0] != "ThingSpeak call" and "**" not in row[0]]


def expand(pattern):
    """What a shell makes of braces: a{b,c} is ab and ac."""
    pieces = re.split(r"\{(.*?)\}", pattern)
    choices = [p.split(",") if i % 2 else [p] for i, p in enumerate(pieces)]
    return ["".join(choice) for choice in itertools.product(*choices)]


def named(kind):
    """What the first cells of the table name: `calls`, `parameters` or `ways`."""
    codes = [code for row in table() for code in re.findall(r"`([^`]+)`", row[0])]
    return {"calls": {call for code in codes if " /" in code for call in expand(code)},
            "parameters": {code[:-1] for code in codes if code.endswith("=")},
            "ways": {row[0] for row in table() if "`" not in row[0]}}[kind]


def shown(what):
    """The calls, or the parameters, of all conversations."""
    found = [each for talk in CONVERSATIONS for each in talks.calls(talk.exchanges)]
    if what == "calls":
        return {f"{method} {path}" for method, path, _ in found}
    return {re.sub(r"field\d|^\d$", "fieldN", name) for _, _, names in found for name in names}


def test_the_table_has_each_call_and_parameter_of_the_conversations():
    unknown = {"datetime", "hours", "wavelengths", "name"}      # sent, and meant to be ignored
    assert shown("calls") - named("calls") == set()
    assert shown("parameters") - unknown - named("parameters") == set()
    assert {talk.title for talk in CONVERSATIONS if talk.group == "transport"} - named(
        "ways") == set()


def test_each_row_of_the_table_is_proved():
    assert len(table()) > 30
    assert named("calls") - shown("calls") - set(spellings()) - CHART_CALLS == set()
    assert named("parameters") - shown("parameters") - CHART_PARAMETERS - {
        name for case in PARAMETERS for name in case} == set()
    assert named("ways") - {talk.title for talk in CONVERSATIONS} - WAYS_TESTED_BELOW == set()


def plain(path):
    """The one spelling of a path, of which the others are variants."""
    path = path.replace("/feed/", "/feeds/").replace("/field/", "/fields/")
    path = re.sub("/feed(?=[.?]|$)", "/feeds", path).replace("/statuses", "/status")
    path = path.replace("/entry/", "/").replace("/fieldN", "/N").replace(".text", ".txt")
    if not path.endswith((".json", ".csv", ".xml", ".txt")):
        is_text = re.search("/fields/N/last$|last_data_age$", path)
        path += ".txt" if is_text else ".json"
    if path.endswith(".txt") and not re.search("/fields/N/last|last_data_age", path):
        path = path[:-4] + ".json"
    return path


def spellings():
    """GET of one channel's data: each path of the table that has to work."""
    works = {call for row in table() if row[1].startswith("yes")
             for code in re.findall(r"`(GET /channels/N[^`]*)`", row[0]) for call in expand(code)}
    return sorted(works - CHART_CALLS)


def test_every_spelling_of_a_path_is_answered_as_the_plain_one(world, station):
    for i in (1, 2):
        assert world.write(station, field1=i, status=f"s{i}").body == str(i).encode()
    kinds = {".json": "application/json", ".csv": "text/csv", ".xml": "application/xml"}
    assert len(spellings()) > 60
    for call in spellings():
        found = []
        for pattern in (call[4:], plain(call[4:])):
            first, _, rest = pattern.partition("/N")
            path = f"{first}/{station.id}{rest}".replace("fieldN", "field1").replace("/N", "/1")
            found.append(world.get(path))
            suffix = re.search(r"\.\w+$|$", path)[0]
            assert found[-1].status == 200, path
            assert kinds.get(suffix, "") in found[-1].headers["content-type"], path
        ages = [re.sub(rb'\b\d(?=[",<\n]|$)', b"", each.body) for each in found]
        assert ages[0] == ages[1], call


# -- parameters of reading ------------------------------------------------------------------------

FIELDS = ("field1", "field2")
NEW_YORK, BERLIN = "America/New_York", "Europe/Berlin"
PARAMETERS = [
    {}, {"results": "5"}, {"results": "0"}, {"results": "30000"}, {"days": "1"},
    {"minutes": "60"}, {"days": "2", "results": "3"}, {"start": "-20h"}, {"end": "-20h"},
    {"start": "-30h", "end": "-20h"}, {"end": "-20h", "results": "1"},
    {"start": "-30h", "results": "2"}, {"start": "-30h", "timezone": NEW_YORK},
    {"start": "-30h", "offset": "-5"}, {"timezone": BERLIN, "results": "3"},
    {"offset": "2", "results": "3"}, {"timezone": NEW_YORK, "offset": "9", "results": "3"},
    {"timezone": "Nowhere/Here", "results": "3"}, {"round": "0"}, {"round": "1", "days": "1"},
    {"min": "19.5"}, {"max": "21.5", "results": "50"}, {"min": "19", "max": "22", "round": "2"},
    {"status": "true", "results": "9"}, {"location": "true", "results": "9"},
    {"status": "True", "location": "TRUE", "results": "9"},
    *({"timescale": m, "days": "2"} for m in ("10", "15", "20", "30", "60", "240", "720")),
    {"timescale": "daily", "days": "3"}, {"timescale": "1440", "days": "3"},
    {"sum": "60"}, {"sum": "240", "results": "50"}, {"sum": "daily", "days": "3"},
    {"average": "10", "results": "20"}, {"average": "30", "round": "1"},
    {"average": "720", "timezone": BERLIN, "days": "9"}, {"median": "20", "results": "20"},
    {"median": "240", "round": "2"}, {"median": "1440", "days": "3"},
    {"average": "7", "results": "5"}, {"sum": "x", "results": "5"},
    {"average": "60", "min": "19", "max": "21", "days": "2"},
]


@pytest.fixture(scope="module")
def weather(worlds):
    """A station with 40 hours of entries 17 minutes apart: numbers, texts, and what is absent."""
    world, rng = worlds(), random.Random(6)
    station, now = world.station(), datetime.now(UTC).replace(microsecond=0)
    entries = []
    for i in range(142):
        values = {"field1": str(round(rng.uniform(18, 23), 2)),
                  "field2": rng.choice([str(round(rng.uniform(18, 23), 3)), "NAN", "20,3", "up"]),
                  "status": f"entry {i}", "latitude": "52.5", "longitude": "13.25",
                  "elevation": "38"}
        for name in rng.sample(sorted(values), rng.choice([0, 0, 1, 3])):
            del values[name]
        at = now - timedelta(minutes=17 * (141 - i) + 5)
        entries.append(oracle.Entry(at, i + 1, values))
    del entries[60:75]                              # a silence of four hours
    entries = [e._replace(number=i) for i, e in enumerate(entries, 1)]
    seed(world, station, entries)
    return SimpleNamespace(world=world, station=station, entries=entries, now=now)


def absolute(params, now):
    """Parameters with -20h as the instant that it means, in the request's zone."""
    zone = oracle.zone_of(params)
    return {name: (now + timedelta(hours=int(value[:-1]))).astimezone(zone).strftime(
        "%Y-%m-%d %H:%M:%S") if value.endswith("h") else value for name, value in params.items()}


def approximately(rows):
    """Rows with the results of arithmetic shortened: its last digit depends on the order."""
    return [{name: f"{float(value):.9g}" if re.fullmatch(r"-?\d+\.\d{9,}", value or "") else value
             for name, value in row.items() if name != "entry_id"} for row in rows]


@pytest.mark.parametrize("params", PARAMETERS, ids=urllib.parse.urlencode)
def test_parameters_do_what_the_oracle_says(weather, params):
    params = absolute(params, weather.now)
    for fields, path in ((FIELDS, "feeds.json"), (FIELDS[1:], "fields/2.json")):
        told = oracle.feeds(weather.entries, weather.now, fields, params)
        said = weather.world.feeds(weather.station, path, **params)
        assert [row.get("entry_id") for row in said] == [row.get("entry_id") for row in told]
        assert [list(row) for row in said] == [list(row) for row in told]
        assert approximately(said) == approximately(told)


@pytest.mark.parametrize("params", [{"results": "7", "status": "true"}, {"average": "60"}])
def test_csv_and_xml_hold_what_json_holds(weather, params):
    rows = weather.world.feeds(weather.station, **params)
    table = list(csv.DictReader(io.StringIO(
        weather.world.read(weather.station, "feeds.csv", **params).text)))
    assert [{n: v for n, v in row.items() if n != "created_at"} for row in table] == [
        {n: str(v) if v is not None else "" for n, v in row.items() if n != "created_at"}
        for row in rows]
    assert [datetime.fromisoformat(row["created_at"].replace(" UTC", "+00:00")) for row in table
            ] == [datetime.fromisoformat(row["created_at"].replace("Z", "+00:00")) for row in rows]
    xml = weather.world.read(weather.station, "feeds.xml", **params).text
    found = [{e.tag.replace("-", "_"): e.text for e in feed if e.tag != "id"}
             for feed in talks.ElementTree.fromstring(xml).find("feeds")]
    assert found == [
        {n: str(v) if v is not None else None for n, v in row.items()} for row in rows]


@pytest.mark.parametrize("query", [
    "timezone=America/New_York&results=1", "timezone=America%2FNew_York&results=1"])
def test_zone_with_a_raw_slash_and_with_an_escaped_one(weather, query):
    path = f"/channels/{weather.station.id}/feeds.json?{query}"
    said, = weather.world.get(path).json["feeds"]
    told, = oracle.feeds(weather.entries, weather.now, FIELDS,
                         {"timezone": NEW_YORK, "results": "1"})
    assert said["created_at"] == told["created_at"]
    assert re.search(r"-0[45]:00$", said["created_at"])


@pytest.mark.parametrize("when", [
    "2024-03-01", "2024-03-01 00:00:00", "2024-03-01T00:00:00Z", "2024-03-01T01:00:00+01:00"])
def test_start_and_end_take_part_in_the_range(world, station, when):
    at = datetime(2024, 3, 1, tzinfo=UTC)
    seed(world, station, [oracle.Entry(at + timedelta(seconds=s), 0, {"field1": str(s)})
                          for s in (-1, 0, 1)])
    assert [row["field1"] for row in world.feeds(station, start=when)] == ["0", "1"]
    assert [row["field1"] for row in world.feeds(station, end=when)] == ["-1", "0"]
    assert [row["field1"] for row in world.feeds(station, end=when, results=1)] == ["0"]


def test_worked_numbers_of_the_specification(world, station):
    at = datetime(2024, 3, 1, 10, 10, tzinfo=UTC)
    values = ["10", "10", "9", "7", "6", "5", "4"]
    entries = [oracle.Entry(at + timedelta(minutes=i), 0, {"field1": v})
               for i, v in enumerate(values)]
    entries += [oracle.Entry(at + timedelta(minutes=30 + i), 0, {"field1": v})
                for i, v in enumerate(["10", "9", "7", "6"])]
    seed(world, station, entries)
    times = ["2024-03-01T10:10:00Z", "2024-03-01T10:20:00Z", "2024-03-01T10:30:00Z",
             "2024-03-01T10:40:00Z"]
    for name, first, last in (("average", "7.285714285714286", "8.0"), ("median", "7.0", "8.0"),
                              ("sum", "51.0", "32.0"), ("timescale", "10", "10")):
        assert world.feeds(station, **{name: 10}) == [
            {"created_at": time, "field1": value}
            for time, value in zip(times, [first, None, None, last], strict=True)], name


def test_results_limit_the_entries_before_they_are_summed(world, station):
    at = datetime(2024, 3, 1, 10, tzinfo=UTC)
    seed(world, station, [oracle.Entry(at + timedelta(minutes=i), 0, {"field1": "1"})
                          for i in range(-60, 120)])
    assert world.feeds(station, results=120, sum=60) == [
        {"created_at": "2024-03-01T10:00:00Z", "field1": "60.0"},
        {"created_at": "2024-03-01T11:00:00Z", "field1": "60.0"}]


def test_an_average_counts_only_what_is_there(world, station):
    """The live service counts the absent as 0, and would say 5.0 here."""
    at = datetime(2024, 3, 1, 10, tzinfo=UTC)
    seed(world, station, [oracle.Entry(at + timedelta(minutes=i), 0, {f"field{i % 2 + 1}": "10"})
                          for i in range(6)] + [
        oracle.Entry(at + timedelta(minutes=7), 0, {"field1": "10,0", "field2": "NAN"})])
    assert world.feeds(station, average=10) == [
        {"created_at": "2024-03-01T10:00:00Z", "field1": "10.0", "field2": "10.0"}]


def test_no_more_than_8000_entries_come_and_100_unless_asked(world, station):
    at = datetime(2024, 3, 1, tzinfo=UTC)
    seed(world, station, [oracle.Entry(at + timedelta(seconds=i), 0, {"field1": str(i)})
                          for i in range(8101)])
    for params, count in (({}, 100), ({"results": 30000}, 8000), ({"results": 8000}, 8000),
                          ({"start": "2024-01-01"}, 8000), ({"days": 9999}, 8000)):
        rows = world.feeds(station, **params)
        assert (len(rows), rows[-1]["field1"]) == (count, "8100"), params


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(["feeds.json", "fields/1.csv", "feeds/last.xml", "status.json",
                        "charts/1", "fields/2/last.txt"]),
       st.dictionaries(st.sampled_from([
           *sorted({n for case in PARAMETERS for n in case}), "callback", "prepend", "width",
           "color", "title", "metadata"]),
           st.text(max_size=12) | st.integers(-10**20, 10**20).map(str)
           | st.sampled_from(["nan", "1e999", "-1", "0", "true", "2024-02-30", "9999-12-31"])))
def test_no_parameter_is_ever_an_error_of_the_server(weather, path, params):
    response = weather.world.read(weather.station, path, **params)
    assert response.status in {200, 400}, response


# -- writing --------------------------------------------------------------------------------------


def stored(text):
    """A value as it comes back: without white space around it, None when there is nothing else.

    A character that no text of SQLite's can hold is left out.
    """
    return text.strip().replace("\0", "") or None


def is_same(sent, got):
    """Whether a value came back: numbers may be written differently."""
    sent = stored(sent)
    if sent == got:
        return True
    try:
        return float(iotserver.parse_number(sent or "")) == float(got)
    except (TypeError, ValueError):
        return False


VALUES = st.text(st.characters(exclude_categories=["Cs"]), max_size=60) | st.from_regex(
    r"[+-]?[0-9]{1,6}(\.[0-9]{0,4})?(e[+-]?[0-9])?", fullmatch=True) | st.sampled_from(
    ["NAN", "INF", "-INF", "1_0", "0x10", "٣", "1e999", "", " ", "a&b=c", "%41", "+", "\r\n"])


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.sampled_from([*(f"field{i}" for i in range(1, 9)), "status"]), VALUES))
@example({"field1": "\ufeff1", "field2": "\0", "status": "a\0b"})
def test_what_urlencode_writes_is_read_back(server, values):
    form = urllib.parse.urlencode({"api_key": INSIDE.key, **values}).encode()
    response = server.ask("POST", "/update", form)
    assert response.status == 200, response
    last = server.get("/channels/1/feeds/last.json?status=true").json
    assert last["entry_id"] == int(response.body)
    for name in (*(f"field{i}" for i in range(1, 9)), "status"):
        assert is_same(values.get(name, ""), last.get(name)), name


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=80) | st.lists(st.sampled_from([
    b"field1=", b"&", b"=", b"%", b"%4", b"+", b"1", b"api_key=", INSIDE.key.encode(), b"{", b'"',
    b"}", b":", b"[", b"created_at=", b"9" * 30, b"updates=", b",", b"|", b"status", b"\0",
    b"\xff", b"write_api_key=", b"time_format=relative"]), max_size=14).map(b"".join),
    st.sampled_from(["/update", "/update.json", "/update.xml", "/channels/1/bulk_update.json",
                     "/channels/1/bulk_update.csv"]),
    st.sampled_from(["application/x-www-form-urlencoded", "application/json", "text/plain"]))
@example(b'{"write_api_key":"GTW89NF3","updates":[{"delta_t":1e999,"field1":[1]}]}',
         "/channels/1/bulk_update.json", "application/json")
@example(b"write_api_key=GTW89NF3&time_format=relative&updates=" + b"9" * 400 + b",1",
         "/channels/1/bulk_update.csv", "application/x-www-form-urlencoded")
@example(b"[" * 50_000, "/update", "application/json")
def test_no_body_is_ever_an_error_of_the_server(server, body, path, kind):
    before = len(server.rows())
    response = server.ask("POST", path, body, Content_Type=kind, X_THINGSPEAKAPIKEY=INSIDE.key)
    assert response.status < 500, response
    if response.status >= 400:
        assert len(server.rows()) == before


def test_values_in_json_are_texts_that_need_no_further_reading(world, station):
    """The vendor's library finds a value by the text `"field1":"`."""
    world.write(station, field1="21 °C", status='say "hi" \\ <b>')
    response = world.read(station, "feeds/last.json", status="true")
    assert b'"field1":"21' in response.body
    assert response.json["field1"] == "21 °C"
    assert response.json["status"] == 'say "hi" \\ <b>'


def test_times_of_a_relative_bulk_end_now(world, station):
    world.bulk(station, [{"delta_t": d, "field1": i} for i, d in enumerate((0, "600", 1200))])
    relative = urllib.parse.urlencode({
        "write_api_key": station.key, "time_format": "relative", "updates": "0,9|700,8|500,7"})
    assert world.ask("POST", f"/channels/{station.id}/bulk_update.csv",
                     relative.encode()).status == 202
    rows = {row["entry_id"]: row for row in world.feeds(station)}
    times = {number: datetime.fromisoformat(row["created_at"].replace("Z", "+00:00")).timestamp()
             for number, row in rows.items()}
    for distances, last in (((1800, 1200, 0), 3), ((1200, 500, 0), 6)):
        assert abs(times[last] - time.time()) < 60
        assert [times[last] - times[last - 2 + i] for i in range(3)] == list(distances)
    assert [rows[n]["field1"] for n in sorted(rows)] == ["0", "1", "2", "9", "8", "7"]


def error_code(response):
    """The code of an error object, whose form is checked."""
    assert response.json["status"] == str(response.status)
    error = response.json["error"]
    assert sorted(error) == ["details", "error_code", "message"]
    assert all(isinstance(text, str) and text for text in error.values())
    return error["error_code"]


def test_a_bulk_of_960_fits_and_961_does_not(world, station):
    updates = [{"delta_t": 1, **{f"field{f}": 1000.25 for f in range(1, 6)}} for _ in range(961)]
    response = world.bulk(station, updates)
    assert (response.status, error_code(response)) == (413, "error_request_too_large")
    assert world.feeds(station) == []
    assert world.bulk(station, updates[:960]).status == 202
    assert len(world.feeds(station, days=1)) == 960


@pytest.mark.parametrize("bad", [
    {"field1": "x" * 256}, {"status": "ü" * 128}, "field1", None, {"field1": {"a": 1}}])
def test_a_bulk_with_one_bad_update_stores_none(world, station, bad):
    response = world.bulk(station, [{"delta_t": 1, "field1": 1}, bad, {"delta_t": 1, "field1": 2}])
    assert response.status == 400
    assert error_code(response).startswith("error_")
    assert world.feeds(station) == []
    assert world.write(station, field1=1).body == b"1"


def test_a_body_too_large_is_refused(world, station):
    response = world.ask("POST", f"/channels/{station.id}/bulk_update.json", b"x" * 400_000)
    assert response.status == 413
    assert world.write(station, field1="1" * 300_000).status == 413


# -- with the rest of the server ------------------------------------------------------------------


def test_what_arrives_here_shows_everywhere(live):
    with live.connect() as listener:
        listener.sendall(request("GET", "/events"))
        read_until(listener, b"hello")
        form = urllib.parse.urlencode({"api_key": INSIDE.key, "field1": "21.75", "field2": "48"})
        assert live.ask("POST", "/update", form.encode()).body == b"1"
        event = read_until(listener, b"48")
    assert b'"value":21.75' in event
    fields = live.get("/api/stations").json[0]["fields"]
    assert [(f["field"], f["value"]) for f in fields] == [(1, 21.75), (2, 48)]
    point, = live.get("/api/readings?station=inside&field=1").json["points"]
    assert point[1] == 21.75
    page = live.get("/", Accept="text/html").text
    assert "21.8" in page or "21.75" in page or "71.2" in page
    assert [row[2:] for row in live.rows()] == [["1", "21.75", "1"], ["2", "48", "1"]]


def test_what_arrives_by_the_native_path_shows_in_feeds(live):
    live.update(INSIDE, "21.5", 1, "/age=60")
    live.update(INSIDE, "48", 2, "/age=30")
    live.update(INSIDE, "7", 9)
    live.ask("POST", "/update", bulk(INSIDE, (1, 22), (8, -1)))
    answer = live.get("/channels/1/feeds.json").json
    assert [(row["entry_id"], row["field1"], row["field2"], row["field8"])
            for row in answer["feeds"] if row["entry_id"] != 3] == [
        (1, "21.5", None, None), (2, None, "48", None), (4, "22", None, None),
        (5, None, None, "-1")]
    assert answer["channel"]["field8"] == "8"
    assert "field9" not in json.dumps(answer)
    assert answer["channel"]["last_entry_id"] == 5


def test_entry_numbers_are_counted_by_both_paths_together(live):
    assert live.update(INSIDE, "1") == 1
    assert live.get(f"/update?key={INSIDE.key}&field1=2").body == b"2"
    assert live.update(INSIDE, "3") == 3
    assert live.get(f"/update?key={OUTSIDE.key}&field1=2").body == b"1"


def test_texts_are_skipped_by_charts_summaries_and_verdict(live):
    for value in ("30", "NAN", "ajar", "INF"):
        live.ask("POST", "/update", f"key={INSIDE.key}&field1={value}".encode())
    live.get(f"/update?key={OUTSIDE.key}&field1=20")
    points = live.get("/api/readings?station=inside&field=1").json["points"]
    assert [p[1] for p in points] == [30]
    assert "Open the windows" in live.get("/", Accept="text/html").text
    assert problems_of(live.db) == []
    chart = live.get("/channels/1/charts/1").text
    assert "<svg" in chart
    assert not re.search(r"\b(NAN|INF|nan|inf|ajar)\b", chart)
    assert [row["field1"] for row in live.get("/channels/1/feeds.json").json["feeds"]] == [
        "30", "NAN", "ajar", "INF"]


def test_the_native_path_stays_strict(live):
    for value in ("nan", "INF", "foobar", "22,5", ""):
        assert live.get(update_path(INSIDE, value)).status == 400
    assert live.ask("POST", "/update", bulk(INSIDE, (1, "NAN"))).status == 400
    assert live.rows() == []


def test_public_channels_are_listed(live):
    live.get(f"/update?key={OUTSIDE.key}&field1=2")
    answer = live.get("/channels/public.json").json
    assert answer["pagination"] == {"current_page": 1, "per_page": 2, "total_entries": 2}
    assert [(one["id"], one["name"], one["last_entry_id"]) for one in answer["channels"]] == [
        (1, "inside", None), (2, "outside", 1)]
    assert not [s for s in (INSIDE, OUTSIDE) if s.key in str(answer) or s.mac in str(answer)]


def test_many_public_channels_come_in_pages(server):
    with server.writer.transaction() as db:
        db.executemany("INSERT INTO station (name, mac, created) VALUES (?, ?, 1)",
                       [(f"s {i}", f"m{i}") for i in range(150)])
    first, last, none = (server.get(f"/channels/public.json?page={n}").json
                         for n in (1, 2, 10**30))
    assert first["pagination"] == {"current_page": 1, "per_page": 100, "total_entries": 152}
    ids = [channel["id"] for channel in first["channels"] + last["channels"]]
    assert (ids, none["channels"]) == ([*range(1, 153)], [])


# -- moving house ---------------------------------------------------------------------------------

FEEDS = """{"channel":{"id":86945,"name":"py thingspeak","latitude":"0.0","longitude":"0.0",
"field1":"cpu_pc","field2":"mem_avail_mb","created_at":"2016-02-09T20:22:23Z",
"updated_at":"2017-02-11T21:40:41Z","last_entry_id":16},"feeds":[
{"created_at":"2016-02-09T20:25:53Z","entry_id":1,"field1":"9.2","field2":"1000"},
{"created_at":"2017-02-11T19:48:30Z","entry_id":3,"field1":"NAN","field2":null},
{"created_at":"2017-02-11T21:40:41+01:00","entry_id":16,"field1":"1.50","field2":"7"}]}"""
EXPORT = """created_at,entry_id,field1,field2,latitude,longitude,elevation,status
2016-02-09T20:25:53+00:00,1,9.2,1000,,,,
2017-02-11T19:48:30+00:00,3,NAN,,,,,
2017-02-11 20:40:41 UTC,16,1.50,7,52.5,13.25,38,hello
"""
MOVED = [("2016-02-09T20:25:53Z", 1, "9.2", "1000"), ("2017-02-11T19:48:30Z", 3, "NAN", None),
         ("2017-02-11T20:40:41Z", 16, "1.5", "7")]


@pytest.mark.parametrize(("name", "text"), [("feeds.json", FEEDS), ("feeds.csv", EXPORT)])
def test_an_export_of_the_live_service_comes_in(database, run, serve, tmp_path, name, text):
    (tmp_path / name).write_text(text)
    assert "imported 5 readings" in run("--import", name, "--station", "inside")
    assert "imported 0 readings; 5 were there already" in run(
        "--import", name, "--station", "inside")
    live = serve()
    rows = live.get("/channels/1/feeds.json").json["feeds"]
    assert [tuple(row.values()) for row in rows] == MOVED
    assert live.get(f"/update?key={INSIDE.key}&field1=2").body == b"17"


def test_entry_numbers_that_are_taken_are_not_taken_again(database, run, serve, tmp_path):
    (tmp_path / "feeds.json").write_text(FEEDS)
    live = serve()
    for value in (1, 2, 3):
        live.update(INSIDE, value)
    run("--import", "feeds.json", "--station", "inside")
    rows = live.get("/channels/1/feeds.json?days=9999").json["feeds"]
    assert len(rows) == 6
    assert len({row["entry_id"] for row in rows}) == 6
    assert [row["entry_id"] for row in rows if row["created_at"].startswith("2017-02-11T20")
            ] == [16]


@pytest.mark.parametrize(("name", "text", "word"), [
    ("feeds.json", FEEDS[:-5], "feeds.json"), ("feeds.json", "{}", "feeds"),
    ("feeds.json", '{"feeds":[{"created_at":"x","entry_id":1,"field1":"1"}]}', "feeds.json")])
def test_a_file_that_is_no_export_is_refused(database, run, tmp_path, name, text, word):
    (tmp_path / name).write_text(text)
    run("--import", name, "--station", "inside", status=1, stderr=word)
    assert run("--export", "-") == HEADER + "\n"


def test_feeds_need_the_name_of_their_station(database, run, tmp_path):
    (tmp_path / "feeds.json").write_text(FEEDS)
    run("--import", "feeds.json", status=2, stderr="--station")


@pytest.mark.parametrize("path", ["feeds.json", "feeds.csv"])
def test_what_one_server_says_another_one_takes_in(weather, database, run, serve, tmp_path, path):
    said = weather.world.read(weather.station, path, results=8000)
    (tmp_path / path).write_bytes(said.body)
    run("--import", path, "--station", "inside")
    there = serve().get("/channels/1/feeds.json?results=8000").json["feeds"]
    here = weather.world.feeds(weather.station, results=8000)
    assert there == [row for row in here if row["field1"] or row["field2"]]


def test_our_own_export_keeps_texts_and_entries(weather, run, serve, tmp_path):
    weather.world.command(f"--export {tmp_path}/all.csv")
    (tmp_path / "one.csv").write_text("\n".join([HEADER, *(
        line for line in (tmp_path / "all.csv").read_text().splitlines()
        if line.split(",")[1] == weather.station.name)]))
    run("--add-station", weather.station.name, "--mac", weather.station.mac, "--key", "K")
    run("--import", "one.csv")
    there = serve().get("/channels/1/feeds.json?results=8000").json["feeds"]
    here = weather.world.feeds(weather.station, results=8000)
    assert there == [row for row in here if row["field1"] or row["field2"]]


# -- private --------------------------------------------------------------------------------------


def test_a_new_read_key_takes_the_place_of_the_older(worlds):
    world = worlds("private")
    station, other = world.station(), world.station()
    first, second = world.read_key(station), world.read_key(station)
    world.write(station, field1=1)
    for path in ("feeds.json", "fields/1.csv", "fields/1/last", "status.json", "charts/1",
                 "feeds/last_data_age.json"):
        for key, status in ((second, 200), (station.key, 200), (first, 400), (other.key, 400),
                            ("", 400)):
            response = world.read(station, path, api_key=key)
            assert response.status == status, (path, key)
            assert status == 200 or response.body == b"-1"
    assert first != second
    assert all(re.fullmatch(r"[\w-]{22}", key) for key in (first, second))


def test_the_password_reads_every_channel(worlds):
    world = worlds("private")
    station = world.station()
    world.write(station, field1=1)
    for path in (f"/channels/{station.id}/feeds/last.json", f"/channels/{station.id}/charts/1"):
        assert world.get(path, Authorization=basic(PASSWORD)).status == 200
        wrong = world.get(path, Authorization=basic("b", "a"))
        assert wrong.status in {400, 401}
    listed = world.get("/channels/public.json", Authorization=basic(PASSWORD)).json
    assert len(listed["channels"]) == listed["pagination"]["total_entries"]


def test_a_read_key_opens_nothing_but_its_channel(worlds):
    world = worlds("private")
    key = world.read_key(world.station())
    for path in ("/", "/api/stations", "/export.csv", "/events"):
        response = world.get(f"{path}?api_key={key}", X_API_Key=key, X_THINGSPEAKAPIKEY=key)
        assert response.status == 401, path


# -- on the wire ----------------------------------------------------------------------------------

WAYS_TESTED_BELOW = {"one TCP segment for head and body", "a device that hangs up at once"}


def test_a_device_that_hangs_up_at_once(world, station):
    lines = ["POST /update HTTP/1.1", "Host: h", f"X-THINGSPEAKAPIKEY: {station.key}"]
    for i in range(1, 25):
        body = f"field1={i}"
        end = "\n" if i % 2 else "\r\n"
        raw = end.join([*lines, f"Content-Length: {len(body)}", "", body]).encode()
        if i % 3 == 0:
            raw = f"GET /update?key={station.key}&field1={i}\r\n".encode()
        channel = world.connect()
        channel.sendall(raw)
        if i % 4 == 0:
            channel.shutdown(socket.SHUT_RDWR)
        channel.close()
    rows = wait_for(lambda: (found := world.feeds(station))[23:] and found, 20)
    assert sorted(int(row["field1"]) for row in rows) == list(range(1, 25))


@pytest.mark.parametrize("cut", [1, 8, 20])
def test_what_was_cut_off_is_not_stored(world, station, cut):
    raw = request("POST", "/update", f"key={station.key}&field1=12345&status=abcdefgh".encode())
    for end in (b"\r\n", b"\n"):
        with world.connect() as channel:
            channel.sendall(raw.replace(b"\r\n", end)[:-cut])
            channel.shutdown(socket.SHUT_WR)
            assert b" 200 " not in receive(channel)
    assert world.feeds(station) == []


# Each holds a second update, which must not be stored: {second} is one request, with its key.
HIDDEN = {
    "in a declared body": "POST /update?key={key}&field1=1 HTTP/1.1{n}Host: h{n}"
                          "Content-Length: {length}{n}{n}{second}",
    "behind a POST without a length": "POST /update HTTP/1.1{n}Host: h{n}{n}{second}",
    "behind a GET with a length": "GET /update?key={key}&field1=1 HTTP/1.1{n}Host: h{n}"
                                  "Content-Length: {length}{n}{n}{second}",
    "two lengths": "POST /update?key={key}&field1=1 HTTP/1.1{n}Host: h{n}Content-Length: 0{n}"
                   "Content-Length: {length}{n}{n}{second}",
    "a list of lengths": "POST /update?key={key}&field1=1 HTTP/1.1{n}Host: h{n}"
                         "Content-Length: 0, {length}{n}{n}{second}",
    "a length with a sign": "POST /update?key={key}&field1=1 HTTP/1.1{n}Host: h{n}"
                            "Content-Length: +0{n}{n}{second}",
    "a space before the colon": "POST /update?key={key}&field1=1 HTTP/1.1{n}Host: h{n}"
                                "Content-Length : {length}{n}{n}{second}",
    "a folded header": "POST /update?key={key}&field1=1 HTTP/1.1{n}Host: h{n}X: a{n}"
                       " Content-Length: 0{n}{n}{second}",
    "chunked": "POST /update?key={key}&field1=1 HTTP/1.1{n}Host: h{n}"
               "Transfer-Encoding: chunked{n}{n}0{n}{n}{second}",
    "chunked and a length": "POST /update?key={key}&field1=1 HTTP/1.1{n}Host: h{n}"
                            "Content-Length: 3{n}Transfer-Encoding: chunked{n}{n}0{n}{n}{second}",
    "a bare CR": "POST /update?key={key}&field1=1 HTTP/1.1{n}Host: h\rContent-Length: 0{n}{n}"
                 "{second}",
    "behind one line without a version": "GET /update?key={key}&field1=1{n}{second}",
    "behind one line with spaces": "GET /update?key={key}&field1=1 2 3{n}{second}",
    "in the headers": "GET /update?key={key}&field1=1 HTTP/1.1{n}Host: h{n}{second}",
    "a length behind a form feed": "POST /update?key={key}&field1=1 HTTP/1.1{n}Host: h{n}"
                                   "\x0cContent-Length: {length}{n}{n}{second}",
}


@pytest.mark.parametrize("end", ["\r\n", "\n"], ids=["CRLF", "LF"])
@pytest.mark.parametrize("name", HIDDEN)
def test_no_request_is_read_as_two(world, station, name, end):
    second = f"GET /update?key={station.key}&field2=2 HTTP/1.1{end}Host: h{end}{end}"
    raw = HIDDEN[name].format(key=station.key, n=end, second=second, length=len(second))
    with world.connect() as channel:
        channel.sendall(raw.encode())
        channel.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionResetError):
            receive(channel)
    rows = world.feeds(station)
    assert "2" not in [row.get("field2") for row in rows]
    assert len(rows) <= 1


def test_two_requests_that_are_two_are_read_as_two(world, station):
    """Without which the test above would prove nothing."""
    raw = b"".join(request("GET", f"/update?key={station.key}&field{i}=2") for i in (1, 2))
    assert [r.body for r in world.talk(raw, half_close=True)] == [b"1", b"2"]


@pytest.mark.parametrize("raw", [
    "GET {native} HTTP/1.1\nHost: h\n\n", "GET {native}\r\n", "GET {native}\r\n\r\n",
    "GET {native} x HTTP/1.1\r\nHost: h\r\n\r\n", "GET /api/stations HTTP/1.1\nHost: h\n\n",
    "GET /healthz\r\n\r\n", "GET /update/../update?key={key}&field1=1\r\n\r\n",
    "GET /updates?key={key}&field1= 1 HTTP/1.1\r\nHost: h\r\n\r\n",
    "GET /export.csv?station= c1 HTTP/1.1\r\nHost: h\r\n\r\n",
    "POST /update/?key={key}&field1=1 HTTP/1.1\nHost: h\nContent-Length: 0\n\n"])
def test_elsewhere_the_server_stays_strict(world, station, raw):
    raw = raw.format(native=update_path(station, 5), key=station.key)
    with world.connect() as channel:
        channel.sendall(raw.encode())
        channel.shutdown(socket.SHUT_WR)
        answers = receive(channel)
    # No answer at all: what ends in LF alone is no head yet.
    assert [response.status for response in parse_responses(answers)] in ([], [400])
    assert world.feeds(station) == []


@pytest.mark.parametrize(("raw", "status"), [
    ("POST /update HTTP/1.1\r\nHost: h\r\n\r\nkey={key}&field1=1", {400, 411}),
    ("POST /update HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
     {400, 411, 501}),
    ("POST /update HTTP/1.1\nHost: h\nContent-Length: 1\nContent-Length: 2\n\nk=", {400}),
    ("GET /update?key={key}&field1=1 HTTP/3.0\r\nHost: h\r\n\r\n", {400, 505}),
    ("GET /update?key={key}&field1=1 http/1.1\r\nHost: h\r\n\r\n", {400}),
    ("GET /update?key={key}&field1=1 HTTP/ 1.1\r\nHost: h\r\n\r\n", {400, 505}),
    ("GET /update?key={key}&field1=1 HTTP/1.1\r\n\r\n", {400})])
def test_what_stays_refused_on_update(world, station, raw, status):
    with world.connect() as channel:
        channel.sendall(raw.format(key=station.key).encode())
        channel.shutdown(socket.SHUT_WR)
        response, = parse_responses(receive(channel))
    assert response.status in status
    assert world.feeds(station) == []


# -- charts ---------------------------------------------------------------------------------------

CHART_CALLS = set(expand("GET /channels/N/charts/N"))
CHART_PARAMETERS = {
    "title", "xaxis", "yaxis", "color", "bgcolor", "type", "width", "height", "dynamic", "update",
    "yaxismin", "yaxismax", "export", "step"}


def chart(world, station, **params):
    response = world.read(station, "charts/1", **params)
    assert response.status == 200, response
    assert response.headers["content-type"].startswith("text/html")
    return response


def test_a_chart_may_stand_in_any_page(weather):
    response = chart(weather.world, weather.station)
    assert "x-frame-options" not in response.headers
    # Not even `*`: that keeps out pages that were opened from a file.
    assert "frame-ancestors" not in response.headers.get("content-security-policy", "")
    assert "<svg" in response.text
    assert "http://" not in response.text.replace("http://www.w3.org/", "")


def test_a_chart_shows_what_it_is_asked_for(weather):
    page = chart(weather.world, weather.station, title="Attic & <i>roof</i>", xaxis="When",
                 yaxis="Heat", color="#d62020", bgcolor="00ff77", width=450, height=260).text
    for text in ("Attic &amp; &lt;i&gt;roof&lt;/i&gt;", "When", "Heat", "#d62020", "#00ff77"):
        assert text in page, text
    assert "<i>" not in page
    assert chart(weather.world, weather.station, color="d62020").text.count("#d62020") >= 1


def test_charts_of_different_kinds_times_and_amounts_differ(weather):
    drawn = [chart(weather.world, weather.station, **params).text for params in (
        {}, {"results": 3}, {"results": 3, "type": "column"}, {"results": 3, "type": "step"},
        {"days": 1}, {"results": 50, "average": 60}, {"results": 3, "yaxismin": -40},
        {"results": 3, "yaxismax": 99})]
    assert len(set(drawn)) == len(drawn)
    for kinds in (("bar", "column"), ("line", "spline")):
        assert len({chart(weather.world, weather.station, type=kind).text for kind in kinds}) == 1


def test_what_the_table_calls_ignored_changes_nothing_in_a_chart(weather):
    assert len({chart(weather.world, weather.station, results=3, **params).text for params in (
        {}, {"width": 999}, {"height": 77}, {"step": "true"}, {"export": "true"})}) == 1


def test_a_dynamic_chart_comes_again_by_itself(weather):
    def refresh(**params):
        return chart(weather.world, weather.station, **params).headers.get("refresh")
    assert refresh() is refresh(update=20) is refresh(dynamic="false") is None
    assert [refresh(dynamic="true", **more) for more in ({}, {"update": 60}, {"update": 1})] == [
        "15", "60", "15"]


@pytest.mark.parametrize("name", sorted(CHART_PARAMETERS))
def test_no_parameter_of_a_chart_puts_markup_into_it(weather, name):
    hostile = "\"><script>alert(1)</script>'};x{a:url(//evil.example)}"
    page = chart(weather.world, weather.station, **{name: hostile}).text
    assert "<script>alert" not in page
    assert "url(//evil" not in page.replace("&#x27;};x{a:url(//evil", "")


@pytest.mark.parametrize(("delta", "status"), [(-600, 202), (-86_000, 202), (-1_500_000_000, 400)])
def test_no_entry_of_a_bulk_is_of_years_ahead(server, delta, status):
    """A delta below zero puts the entries before it ahead, where no page would show them."""
    body = json.dumps({"write_api_key": INSIDE.key, "updates": [
        {"delta_t": 0, "field1": 3}, {"delta_t": delta, "field1": 4}]}).encode()
    found = server.ask("POST", "/channels/1/bulk_update.json", body)
    assert found.status == status
    assert len(server.rows()) == 2 * (status == 202)


def test_an_entry_is_found_behind_older_ones_with_higher_numbers(server):
    """As after an import of years that were before the first update."""
    for value in range(3):
        server.update(INSIDE, value)
    now = server.time * 1000
    server.writer.import_rows([(now - (50_000 - i) * 60_000, "", INSIDE.mac, 1, 20.5, None)
                               for i in range(45_000)], now)
    for number in (1, 3, 4, 44_000, 45_003):
        found = server.get(f"/channels/1/feeds/{number}.json")
        assert (found.status, found.json.get("entry_id")) == (200, number)
    assert server.get("/channels/1/feeds/45004.json").status == 404


def test_a_reading_of_tomorrow_is_kept_and_shown_tomorrow(server):
    """Of a clock that runs ahead: it must not stand for the newest one until then."""
    write = f"/update?api_key={INSIDE.key}&field1="
    tomorrow = "2018-07-31T06:00:00Z"
    assert server.get(f"{write}30&created_at={tomorrow}").text == "1"
    assert server.get(f"{write}20").text == "2"
    for read in ("feeds.json", f"feeds.json?end={tomorrow}", "fields/1.json?results=5"):
        feeds = server.get(f"/channels/1/{read}").json["feeds"]
        assert [feed["entry_id"] for feed in feeds] == [2], read
    assert server.get("/channels/1/fields/1/last.txt").text == "20"
    assert server.get("/channels/1/feeds/last.json").json["entry_id"] == 2
    server.time += 86_400
    assert server.get("/channels/1/fields/1/last.txt").text == "30"
    assert len(server.get("/channels/1/feeds.json").json["feeds"]) == 2
