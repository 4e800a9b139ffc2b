"""What is to be forwarded, piece by piece, and what becomes of each answer of an engine."""
import argparse
import base64
import collections
import gzip
import http.server
import itertools
import json
import re
import sqlite3
import threading
import urllib.parse
from types import SimpleNamespace

import hypothesis.strategies as some
import pytest
from harness import DAY, INSIDE, NOON, OUTSIDE, finish, problems_of
from hypothesis import HealthCheck, given, settings

import iotserver as iot
from iotserver import Note, Usage

ENGINE = "an engine"


def stored(server):
    """{(station, field): {ms: value}} of all numbers; of an instant the last one."""
    found = collections.defaultdict(dict)
    for station in server.reader.stations():
        for row in server.reader.rows(station):
            if not isinstance(row.value, str):
                found[station.name, row.field][row.time] = row.value
    return dict(found)


def lag(server):
    return finish(iot.count_from(server.reader.db, server.writer.outbox.pending))


class Memory:
    """An engine that keeps points in memory, and a courier to it."""

    def __init__(self, server, name=ENGINE):
        self.server, self.name, self.ticket = server, name, None
        self.points = collections.defaultdict(dict)
        self.taken, self.recent = 0, []

    def crash(self):
        """What came in the last seconds is lost; the courier has found it away."""
        now = self.server.time
        for at, place, ms, before in reversed(self.recent):
            if now - at < iot.CRASH_SECONDS:
                self.points[place][ms] = before
                if before is None:
                    del self.points[place][ms]
        self.recent.clear()
        self.server.writer.outbox.look_back(now)

    def take(self):
        self.ticket, _, pieces = iot.take_unsent(self.server.server, self.name)
        for piece in pieces:
            place = piece.station, piece.field
            for ms, value in piece.points:
                self.recent.append((self.server.time, place, ms, self.points[place].get(ms)))
                self.points[place][ms] = value
            self.taken += len(piece.points)
        return bool(pieces)

    def say(self):
        self.server.writer.outbox.forwarded(self.ticket)

    def drain(self):
        while self.take():
            self.say()
        return {place: points for place, points in self.points.items() if points}


@pytest.fixture
def small_pieces(monkeypatch):
    monkeypatch.setattr(iot, "FORWARD_ROWS", 7)


def put(server, station, ms, *values):
    server.writer.add_entry(server.writer.by_mac[station.mac], ms,
                            dict(enumerate(values, 1)), server.server.now())
    server.server.turn.end()


def bring(server, rows):
    server.writer.import_rows(rows, server.server.now())


NUMBERS = itertools.count()
PUT = some.tuples(some.just("put"), some.sampled_from([INSIDE, OUTSIDE]),
                  some.integers(-3 * DAY, 0), some.integers(1, 3))
STEPS = some.lists(some.one_of(
    PUT, PUT,
    some.tuples(some.just("import"), some.integers(-9 * DAY, 0), some.integers(1, 20)),
    some.sampled_from([("take",), ("say",)]), some.sampled_from([("take",), ("say",)]),
    some.sampled_from([("all",), ("settle",), ("crash",)]),
    some.sampled_from([("load",), ("reopen",), ("label", "x")])), min_size=10, max_size=60)


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(STEPS)
def test_an_engine_gets_all_whatever_comes_in_between(in_process, small_pieces, steps):
    """Updates, late ones, imports; pieces that are taken and never acknowledged, or late; what is
    in memory is lost at any time, as by a crash."""
    server = in_process(f"{next(NUMBERS)}.db")
    put(server, INSIDE, NOON - 5 * DAY, 1.0)
    engine, values = Memory(server), itertools.count()
    for kind, *more in steps:
        if kind == "put":
            station, age, count = more
            put(server, station, NOON + age, *(float(next(values)) for _ in range(count)))
        elif kind == "import":
            start, count = more
            bring(server, [(NOON + start + i * 1000, "outside", OUTSIDE.mac, 1,
                            float(next(values)), None) for i in range(count)])
        elif kind == "take":
            engine.take()
        elif kind == "say":
            engine.say()
        elif kind == "label":
            server.writer.label("inside", 1, more[0])
        elif kind == "reopen":
            engine.ticket = None        # a courier that was killed knows nothing of its pieces
        elif kind == "settle":
            server.time += iot.SETTLE_SECONDS
            engine.take()
        elif kind == "crash":
            engine.crash()
        elif kind == "all":
            engine.drain()
        else:
            server.writer.load()
    wanted = stored(server)
    assert engine.drain() == wanted
    assert lag(server) == 0
    assert problems_of(server.path) == []


def test_what_is_late_while_its_time_is_on_its_way_comes_after(server):
    for i in range(5):
        put(server, INSIDE, NOON + i * 1000, float(i))
    engine = Memory(server)
    engine.take()
    put(server, INSIDE, NOON + 1500, 1.5)
    put(server, INSIDE, NOON - 1500, -1.5)
    put(server, INSIDE, NOON + 9000, 9.0)
    engine.say()
    assert engine.drain() == stored(server)


def test_who_was_overtaken_says_nothing(server):
    for i in range(5):
        put(server, INSIDE, NOON + i * 1000, float(i))
    first, second = Memory(server), Memory(server)
    first.take()
    second.take()
    first.say()
    assert lag(server) == 5
    second.say()
    assert lag(server) == 0


def test_the_oldest_go_first_and_each_once(server, small_pieces):
    for minute in range(40):
        put(server, (INSIDE, OUTSIDE)[minute % 2], NOON - DAY + minute * 60_000, 20.0 + minute)
    engine = Memory(server)
    engine.drain()
    assert engine.taken == 40
    put(server, INSIDE, NOON, 30.0)
    put(server, INSIDE, NOON - 60_000, 29.0)
    engine.drain()
    assert engine.taken == 42
    put(server, INSIDE, NOON - 30_000, 29.5)
    engine.drain()
    assert engine.taken == 44, "a late one, and what comes behind it"


def test_texts_stay_and_hold_nothing_up(server, small_pieces):
    for i in range(30):
        put(server, INSIDE, NOON - i * 1000, "fog" if i % 3 else float(i))
    engine = Memory(server)
    assert len(engine.drain()["inside", 1]) == 10
    assert not engine.take()


def test_what_is_not_forwarded_costs_nothing(server):
    put(server, INSIDE, NOON, 1.0)
    assert server.writer.db.execute("SELECT count(*) FROM unsent").fetchone() == (0,)
    assert server.writer.outbox.pending == {}


def test_while_an_engine_is_away_what_it_lacks_is_one_row_a_series(server):
    Memory(server).drain()
    for minute in range(2000):
        put(server, INSIDE, NOON + minute * 60_000, 20.0)
    assert server.writer.db.execute("SELECT count(*) FROM unsent").fetchone() == (1,)
    assert lag(server) == 2000


def test_what_was_late_shortly_before_a_crash_comes_again(server):
    engine = Memory(server)
    put(server, INSIDE, NOON, 1.0)
    for _ in range(2):
        engine.drain()
        server.time += iot.SETTLE_SECONDS - 1
        put(server, INSIDE, NOON - round(server.time), 2.0)
        engine.drain()
        server.time += 1
        engine.take()
        engine.say()
    engine.crash()
    assert engine.drain() == stored(server)


def test_an_engine_that_is_away_now_and_then_makes_progress(server, small_pieces):
    for second in range(1500):
        put(server, INSIDE, NOON + second * 1000, 20.0)
    engine = Memory(server)
    for second in range(300):           # away after 17 s, and tried again after 10
        if second % 27 < 17:
            engine.take()
            engine.say()
        elif second % 27 == 17:
            engine.crash()
        server.time += 1
    assert min(server.writer.outbox.unsent.values()) > (NOON + 100_000, 0)
    assert engine.drain() == stored(server)


def test_what_is_settled_is_forgotten(server):
    engine = Memory(server)
    for _ in range(4):
        put(server, INSIDE, NOON, 1.0)
        engine.drain()
        server.time += iot.SETTLE_SECONDS
    assert {*server.writer.outbox.unsent.values()} == {(NOON, 0)}
    for _ in range(3):
        engine.drain()
        server.time += iot.SETTLE_SECONDS
    assert server.writer.outbox.unsent == {}
    assert server.writer.db.execute("SELECT count(*) FROM unsent").fetchone() == (0,)


def test_it_is_remembered_for_a_week_for_the_same_engine(server):
    engine = Memory(server)
    for days, taken in ((0, 1), (6, 1), (6, 1), (8, 4)):
        server.time += days * 86_400
        server.writer.outbox.serve(None, server.server.now())
        put(server, INSIDE, round(server.time * 1000), 1.0)
        before = engine.taken
        engine.drain()
        assert engine.taken - before == taken
    server.time += 8 * 86_400
    server.writer.outbox.serve(None, server.server.now())
    assert server.writer.outbox.engine is None
    put(server, INSIDE, round(server.time * 1000), 1.0)
    assert server.writer.db.execute("SELECT count(*) FROM unsent").fetchone() == (0,)
    assert engine.drain() == stored(server)
    other = Memory(server, "another one")
    assert other.drain() == stored(server), "all history goes again"


def test_a_disk_that_fills_as_an_engine_comes_first_loses_no_history(server):
    """Nor does a crash: it is known with all that it lacks, or not at all."""
    put(server, INSIDE, NOON, 1, 2, 3)
    server.writer.db.execute("""CREATE TEMP TRIGGER full BEFORE INSERT ON main.unsent
        BEGIN SELECT RAISE(ABORT, 'database or disk is full'); END""")
    engine = Memory(server)
    with pytest.raises(sqlite3.Error):
        engine.take()
    server.writer.db.execute("DROP TRIGGER full")
    assert engine.drain() == stored(server)


def test_a_station_that_is_removed_is_not_waited_for(server):
    put(server, INSIDE, NOON, 1.0)
    put(server, OUTSIDE, NOON, 2.0)
    engine = Memory(server)
    engine.take()
    while server.writer.remove_step("inside") >= 0:
        pass
    engine.say()
    assert engine.drain() == {("inside", 1): {NOON: 1.0}, ("outside", 1): {NOON: 2.0}}
    assert server.writer.outbox.pending == {}


def test_prune_says_what_had_not_been_forwarded(run, database):
    run("--import", "-", stdin="time,station,mac,field,value,entry\n" + "".join(
        f"2018-07-30T12:{i:02}:00.000Z,inside,{INSIDE.mac},1,20,\n" for i in range(30)))
    writer = iot.Writer(database)
    writer.outbox.serve(ENGINE, iot.now_ms())
    writer.close()
    assert "30 of them had not been forwarded" in run("--prune", "1d", "--dry-run")
    assert "30 of them had not been forwarded" in run("--prune", "1d")


# -- lines ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("station", "label", "role", "tags"), [
    ("inside", None, None, r"station=inside,field=1"),
    ("a b,c=d", "°C, 1", "outside", r"station=a\ b\,c\=d,field=1,label=°C\,\ 1,role=outside"),
    ("back\\slash\\", "x\\", None, r"station=back/slash/,field=1,label=x/")])
def test_a_line(station, label, role, tags):
    lines = iot.render_lines(0, None, station, role, 1, label, [(5, 26), (6, -1e300)])
    assert lines == [f"iotserver,{tags} value=26.0 5\n", f"iotserver,{tags} value=-1e+300 6\n"]


@pytest.mark.parametrize("url", [
    "ftp://secret@host/", "http:///write", "http://host:0/", "http://se cret@host/", "host/write"])
def test_an_address_that_is_none_is_refused_without_its_secret(url):
    with pytest.raises(Usage) as usage:
        iot.parse_engine(url)
    assert "cret" not in str(usage.value)


# -- answers --------------------------------------------------------------------------------------


class Engine(http.server.ThreadingHTTPServer):
    """Answers what `behave(lines)` says: a status, words, headers; or cuts the line."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answers)
        self.behave, self.got, self.requests = lambda lines: (204, ""), [], []
        self.look = lambda path: 404
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def handle_error(self, request, address):
        """A client that gives up is no error of ours."""


class Answers(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers["Content-Encoding"] == "gzip":
            body = gzip.decompress(body)
        lines = body.decode().splitlines()
        self.server.requests.append(SimpleNamespace(path=self.path, headers=self.headers,
                                                    lines=lines))
        status, words, *headers = self.server.behave(lines)
        if status == "cut":
            return
        if status == 204:
            self.server.got += lines
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(words)))
        self.end_headers()
        self.wfile.write(words.encode())

    def do_GET(self):
        if (status := self.server.look(self.path)) != "cut":
            self.send_error(status)

    def log_message(self, *words):
        pass


@pytest.fixture
def engine():
    engine = Engine()
    yield engine
    engine.shutdown()
    engine.server_close()


class Courier:
    """A Forwarder beside a server in this process."""

    def __init__(self, server, url):
        self.errand = iot.Forwarder(argparse.Namespace(forward=url))
        self.remote = SimpleNamespace(**{
            name: lambda *words, method=method: json.loads(iot.as_json(
                method(server.server, *words))) for name, method in iot.COURIER_METHODS.items()})

    def step(self):
        return self.errand.step(self.remote)


@pytest.fixture
def courier(server, engine):
    for i in range(20):
        put(server, INSIDE, NOON + i * 1000, float(i))
    return Courier(server, f"http://127.0.0.1:{engine.server_port}/write?db=iot")


def values(lines):
    return sorted(float(re.search(r"value=(\S+)", line)[1]) for line in lines)


def test_taken(server, engine, courier, capsys):
    assert courier.step() == iot.FORWARD_SECONDS
    assert values(engine.got) == [*range(20)]
    request, = engine.requests
    assert request.path == "/write?db=iot&precision=ms"
    assert server.writer.outbox.pending == {}
    said = capsys.readouterr().err
    assert "cannot be asked" in said
    assert "it takes readings" in said
    courier.step()
    assert len(engine.requests) == 1, "nothing to send is not sent"


@pytest.mark.parametrize("answer", [
    (400, "database is required"), (401, "who are you"), (403, ""), (404, "database not found"),
    (413, "") , (429, "later"), (500, "oh"), (503, "busy"), (301, "", ("Location", "/elsewhere")),
    ("cut", "")], ids=lambda answer: str(answer[0]))
def test_refused_for_now(server, engine, courier, capsys, answer):
    engine.behave = lambda lines: answer
    assert courier.step() == 10
    assert courier.step() == 20
    assert lag(server) == 20
    assert capsys.readouterr().err.count("readings wait") == 1
    engine.behave = lambda lines: (204, "")
    assert courier.step() < 1
    assert values(engine.got) == [*range(20)]


def test_retry_after_is_honored(engine, courier):
    engine.behave = lambda lines: (503, "", ("Retry-After", "77"))
    assert courier.step() == 77


def test_smaller_pieces(server, engine, courier):
    engine.behave = lambda lines: (413, "") if len(lines) > 3 else (204, "")
    courier.step()
    assert values(engine.got) == [*range(20)]
    assert server.writer.outbox.pending == {}


def test_one_bad_line_does_not_hold_up_the_rest(server, engine, courier, capsys):
    engine.behave = lambda lines: (
        (400, '{"error":"unable to parse \'iotserver\'"}')
        if any("value=7.0 " in line for line in lines) else (204, ""))
    courier.step()
    assert values(engine.got) == [n for n in range(20) if n != 7]
    assert capsys.readouterr().err.count("for good") == 1
    assert server.writer.outbox.pending == {}


def test_the_rest_of_a_partial_write_is_there(server, engine, courier, capsys):
    engine.behave = lambda lines: (400, "partial write: field type conflict dropped=1")
    courier.step()
    assert len(engine.requests) == 1
    assert "field type conflict" in capsys.readouterr().err
    assert server.writer.outbox.pending == {}


@pytest.mark.parametrize(("login", "header"), [
    ("", None), ("t0ken%3D@", "Token t0ken="),
    ("me:p%40ss@", "Basic " + base64.b64encode(b"me:p@ss").decode())])
def test_who_it_is(server, engine, courier, login, header, capsys):
    secret = urllib.parse.unquote(login.rpartition(":")[2]).removesuffix("@")
    engine.behave = lambda lines: (401, f"not {secret}")
    url = f"http://{login}127.0.0.1:{engine.server_port}/api/v2/write?bucket=b"
    Courier(server, url).step()
    assert engine.requests[-1].headers["Authorization"] == header
    said = capsys.readouterr().err
    assert not secret or (secret not in said and "***" in said)


def test_many_are_sent_compressed(server, engine, courier):
    bring(server, [(NOON - i * 1000, "", OUTSIDE.mac, 1, float(i), None) for i in range(2000)])
    courier.step()
    assert engine.requests[0].headers["Content-Encoding"] == "gzip"
    assert len(engine.got) == 2020


@pytest.mark.parametrize("answer", [503, 429, "cut"])
def test_who_is_too_busy_to_be_asked_is_asked_later(server, engine, courier, capsys, answer):
    """That is neither one who cannot be asked, nor one who has lost what it took."""
    engine.look = lambda path: answer
    courier.errand.is_new = False       # so that it is all history that is looked for
    begun = []
    courier.remote.begin_again = lambda: begun.append(True)
    assert courier.step() == 10
    assert courier.errand.samples, "it is still to be looked for"
    assert not begun
    assert "readings wait" in capsys.readouterr().err
    engine.look = lambda path: 404
    assert courier.step() < 1
    assert courier.errand.samples is None
    assert server.writer.outbox.pending == {}


def test_a_note_alone_is_nothing_to_forward(server, engine, courier):
    server.writer.add_entry(server.writer.by_mac[OUTSIDE.mac], NOON, {}, NOON, Note(status="x"))
    server.server.turn.end()
    courier.step()
    assert len(engine.got) == 20
