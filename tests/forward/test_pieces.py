"""What is to be forwarded, piece by piece, and what becomes of each answer of an engine."""
import argparse
import base64
import collections
import contextlib
import gzip
import http.server
import itertools
import json
import re
import socket
import sqlite3
import threading
import urllib.parse
from types import SimpleNamespace
from typing import ClassVar

import hypothesis.strategies as some
import pytest
from harness import DAY, INSIDE, NOON, OUTSIDE, finish, problems_of
from hypothesis import HealthCheck, given, settings

import iotserver as iot
from iotserver import Note, Usage

ENGINE = "http://127.0.0.1/write"
FLUSH = 5                       # s after which an engine has on its disk what it took


def stored(server):
    """{(station, field): {ms: value}} of all numbers; of an instant the last one."""
    found = collections.defaultdict(dict)
    for station in server.reader.stations():
        for row in server.reader.rows(station):
            if not isinstance(row.value, str):
                found[station.name, row.field][row.time] = row.value
    return dict(found)


def due(server):
    """Those of them that are not of the future."""
    until = server.server.now() + iot.FORWARD_AHEAD
    found = {place: {ms: value for ms, value in points.items() if ms < until}
             for place, points in stored(server).items()}
    return {place: points for place, points in found.items() if points}


def lag(server):
    return finish(iot.count_from(server.reader.db, iot.part_of(server.writer, iot.Outbox).pending))


class Line:
    """What a courier has of a server in this process, as JSON."""

    def __init__(self, server):
        self.server = server

    def __getattr__(self, method):
        def call(*words):
            return json.loads(iot.as_json(
                iot.COURIER_METHODS[method](self.server.server, *words)))
        return call


class Memory:
    """An engine that keeps points in memory, and a courier to it; both on the server's clock."""

    def __init__(self, server, url=ENGINE):
        self.server, self.url = server, url
        self.points, self.recent = collections.defaultdict(dict), []
        self.taken, self.starts, self.is_away = 0, 0, False
        self.restart_courier()

    def restart_courier(self):
        self.errand = iot.Forwarder(argparse.Namespace(forward=self.url))
        self.errand.channel, self.line = self, None
        self.errand.has = lambda *sought: None

    def crash(self):
        """Start again without what came in the last seconds."""
        for at, place, ms, before in reversed(self.recent):
            if self.server.time - at < FLUSH:
                self.points[place][ms] = before
                if before is None:
                    del self.points[place][ms]
        self.recent.clear()
        self.starts += 1

    # As iot.Channel.

    def is_cut(self):
        return self.line not in {None, self.starts}

    def close(self):
        self.line = None

    def ask(self, path, body=None, headers=(), limit=0):
        if self.is_away or self.is_cut():
            raise iot.Undelivered("no answer")
        self.line = self.starts
        for line in (gzip.decompress(body) if headers else body or b"").decode().splitlines():
            station, field, value, ms = re.fullmatch(
                r"iotserver,station=(\w+),field=(\d).* value=(\S+) (\d+)", line).groups()
            place, ms = (station, int(field)), int(ms)
            self.recent.append((self.server.time, place, ms, self.points[place].get(ms)))
            self.points[place][ms] = float(value)
            self.taken += 1
        return 204, "", 0

    def step(self, seconds=0.5):
        """One of the courier's, and some seconds behind it."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(iot, "time", SimpleNamespace(monotonic=lambda: self.server.time))
            pause = self.errand.step(Line(self.server))
        self.server.time += seconds
        return pause

    def drain(self):
        """All that there is; what it then holds."""
        while self.step(0) == 0:
            pass
        return {place: points for place, points in self.points.items() if points}

    def settle(self):
        """Until the file knows that the engine has all."""
        for _ in range(200):
            self.step()
            if not any(places for _, places in iot.part_of(self.server.writer, iot.Outbox).taken):
                return
        raise AssertionError("never settled")


@pytest.fixture
def small_pieces(monkeypatch):
    monkeypatch.setattr(iot, "FORWARD_ROWS", 7)
    monkeypatch.setattr(iot, "FORWARD_SERIES", 2)


def put(server, station, ms, *values):
    server.writer.add_entry(server.writer.by_mac[station.mac], ms,
                            dict(enumerate(values, 1)), server.server.now())
    server.server.turn.end()


def bring(server, rows):
    server.writer.import_rows(rows, server.server.now())


NUMBERS = itertools.count()
PUT = some.tuples(some.just("put"), some.sampled_from([INSIDE, OUTSIDE]),
                  some.integers(-3 * DAY, iot.FORWARD_AHEAD + 20_000), some.integers(1, 3))
STEP = some.tuples(some.just("step"), some.sampled_from([0, 0.5, 1, 3]))
STEPS = some.lists(some.one_of(
    PUT, PUT, STEP, STEP, STEP,
    some.tuples(some.just("now"), some.sampled_from([INSIDE, OUTSIDE])),
    some.tuples(some.just("import"), some.integers(-9 * DAY, 0), some.integers(1, 20)),
    some.sampled_from([("crash",), ("crash",), ("away",), ("settle",), ("drain",)]),
    some.sampled_from([("load",), ("reopen",), ("courier",), ("lost",), ("label",)]),
    ), min_size=10, max_size=60)


@pytest.mark.untraced
@settings(max_examples=250, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(STEPS)
def test_an_engine_gets_all_whatever_comes_in_between(in_process, small_pieces, steps):
    """Updates, late ones, some of the future, imports; an engine that crashes, also unseen, and
    loses the last seconds; a server and a courier that are killed, answers that are lost."""
    server = in_process(f"{next(NUMBERS)}.db")
    put(server, INSIDE, NOON - 5 * DAY, 1.0)
    engine, values = Memory(server), itertools.count()
    for kind, *more in steps:
        if kind == "put":
            station, age, count = more
            put(server, station, NOON + age, *(float(next(values)) for _ in range(count)))
        elif kind == "now":
            put(server, more[0], server.server.now(), float(next(values)))
        elif kind == "import":
            start, count = more
            bring(server, [(NOON + start + i * 1000, "outside", OUTSIDE.mac, 1,
                            float(next(values)), None) for i in range(count)])
        elif kind == "step":
            engine.step(*more)
        elif kind == "lost":
            Line(server).take_unsent(engine.errand.to.id, engine.errand.session)
            engine.restart_courier()
        elif kind == "away":
            engine.is_away = not engine.is_away
        elif kind == "label":
            server.writer.label("inside", 1, "x")
        elif kind == "load":
            server.writer.load()
        elif kind == "reopen":
            now = server.time
            server.close()
            server.__init__(server.path)
            server.time = now
        elif kind == "courier":
            engine.restart_courier()
        elif kind == "drain" and not engine.is_away:
            engine.drain()
        elif kind == "crash":
            engine.crash()
        elif kind == "settle" and not engine.is_away:
            engine.step()
            engine.settle()
    engine.is_away = False
    engine.step()                       # a crash of just now is seen
    assert engine.drain() == due(server)
    is_all = due(server) == stored(server)      # else more may become due meanwhile
    engine.settle()
    engine.restart_courier()
    before = engine.taken
    assert engine.drain() == due(server)
    assert engine.taken == before or not is_all, "what is settled does not go again"
    server.time += 2 * iot.FORWARD_AHEAD / 1000
    assert engine.drain() == stored(server)
    assert lag(server) == 0
    assert problems_of(server.path) == []


class Choosy(Memory):
    """An engine that refuses some values, posts of many lines, and now and then anything."""
    bad, most, troubles = frozenset(), 9, ()

    def ask(self, path, body=None, headers=(), limit=0):
        lines = (body or b"").decode().splitlines()
        trouble = next(self.troubles, 204)
        if trouble != 204:
            return trouble, "", 0
        if len(lines) > self.most:
            return 413, "", 0
        if self.bad & {float(re.search(r"value=(\S+)", line)[1]) for line in lines}:
            return 400, "failed to parse line protocol", 0
        return super().ask(path, body, headers, limit)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(some.sets(some.integers(0, 39), max_size=38), some.integers(1, 9),
       some.lists(some.sampled_from([204, 204, 204, 503, 401, 404, 500]), max_size=60))
def test_an_engine_that_refuses_some_gets_all_the_others(
        in_process, small_pieces, bad, most, troubles):
    server = in_process(f"{next(NUMBERS)}.db")
    engine = Choosy(server)
    engine.bad, engine.most, engine.troubles = bad, most, iter(troubles)
    for number in range(40):
        put(server, (INSIDE, OUTSIDE)[number % 2], NOON - DAY + number * 1000, float(number))
    for _ in range(300):
        engine.step(20)
        outbox = iot.part_of(server.writer, iot.Outbox)
        if outbox.engine and not outbox.pending:
            break
    assert sorted(value for points in engine.points.values() for value in points.values()) == [
        number for number in range(40) if number not in bad]


def test_what_is_late_while_its_time_is_on_its_way_comes_after(server):
    for i in range(5):
        put(server, INSIDE, NOON + i * 1000, float(i))
    engine = Memory(server)
    engine.step()
    put(server, INSIDE, NOON + 1500, 1.5)
    put(server, INSIDE, NOON - 1500, -1.5)
    put(server, INSIDE, NOON + 9000, 9.0)
    assert engine.drain() == stored(server)


def test_who_was_overtaken_says_nothing(server):
    for i in range(5):
        put(server, INSIDE, NOON + i * 1000, float(i))
    first, second = Memory(server), Memory(server)
    line, session = Line(server), first.errand.session
    line.take_unsent(first.errand.to.id, session)
    line.take_unsent(second.errand.to.id, second.errand.session)
    pieces, _, _ = line.take_unsent(first.errand.to.id, session)
    assert len(pieces[0][-1]) == 5, "of what the first one took, nothing is known to be there"


def test_each_series_has_its_turn_and_each_reading_once(server, small_pieces):
    for minute in range(40):
        put(server, (INSIDE, OUTSIDE)[minute % 2], NOON - DAY + minute * 60_000, 20.0 + minute)
    engine = Memory(server)
    for _ in range(3):                  # in the first one it is noted what it lacks
        engine.step()
    assert len(engine.points) == 2
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
    assert iot.part_of(server.writer, iot.Outbox).pending == {}


def test_a_reading_of_the_future_waits_and_holds_up_nothing(server):
    engine = Memory(server)
    put(server, INSIDE, NOON + 5 * DAY, 1.0)
    for second in range(30):
        put(server, INSIDE, NOON + second * 1000, 20.0)
        put(server, OUTSIDE, NOON + second * 1000, 20.0)
        engine.step(1)
    engine.settle()
    assert engine.points == due(server)
    assert len(engine.points) == 2
    assert engine.taken == 60, "nothing goes twice"
    server.time += (5 * DAY - iot.FORWARD_AHEAD) / 1000
    assert engine.drain() == stored(server)
    assert engine.taken == 61


def test_what_is_not_forwarded_costs_nothing(server):
    put(server, INSIDE, NOON, 1.0)
    assert server.writer.db.execute("SELECT count(*) FROM unsent").fetchone() == (0,)
    assert iot.part_of(server.writer, iot.Outbox).pending == {}


def test_while_an_engine_is_away_what_it_lacks_is_one_row_a_series(server):
    Memory(server).drain()
    for minute in range(2000):
        put(server, INSIDE, NOON + minute * 60_000, 20.0)
    assert server.writer.db.execute("SELECT count(*) FROM unsent").fetchone() == (1,)
    assert lag(server) == 2000


@pytest.mark.parametrize("late", [0, 60_000])
def test_what_came_shortly_before_an_unseen_crash_comes_again(server, late):
    """The engine is back before the next post: only its connection shows what has happened."""
    engine = Memory(server)
    for minute in range(5):
        put(server, INSIDE, server.server.now() - late, float(minute))
        engine.step(1.2)
        engine.crash()
        assert engine.step() == iot.PAUSES[0]
        server.time += 60
        assert engine.drain() == stored(server)


def test_a_machine_that_loses_power_is_noticed_before_what_it_lost_is_settled(server):
    """It closes no connection, and answers no more."""
    engine = Memory(server)
    put(server, INSIDE, NOON, 1.0)
    engine.step(2.5)
    engine.is_away = True
    assert engine.step() == iot.PAUSES[0]
    engine.is_away = False
    engine.crash()
    server.time += 60
    assert engine.drain() == stored(server)


def test_a_connection_that_ends_when_all_is_settled_means_nothing(server):
    engine = Memory(server)
    put(server, INSIDE, NOON, 1.0)
    engine.drain()
    engine.settle()
    engine.starts += 1
    assert engine.step() == iot.FORWARD_SECONDS
    put(server, INSIDE, NOON + 60_000, 2.0)
    assert engine.drain() == stored(server)
    assert engine.taken == 2


def test_an_engine_that_is_away_now_and_then_makes_progress(server, small_pieces):
    for second in range(1500):
        put(server, INSIDE, NOON - 1_500_000 + second * 1000, 20.0)
    engine = Memory(server)
    for second in range(300):           # away after 17 s, and tried again after 10
        if second % 27 < 17:
            engine.step(0)
        elif second % 27 == 17:
            engine.crash()
            engine.step(0)
        server.time += 1
    outbox = iot.part_of(server.writer, iot.Outbox)
    assert min(outbox.unsent.values()) > (NOON - 1_500_000 + 100_000, 0)
    assert engine.drain() == stored(server)


def test_what_is_settled_is_forgotten_and_costs_small_steps(server, small_pieces):
    engine = Memory(server)
    put(server, INSIDE, NOON, 1.0, 2.0, 3.0)
    put(server, OUTSIDE, NOON, 1.0, 2.0, 3.0)
    counts = []
    server.writer.db.set_trace_callback(lambda text: counts.append(text.startswith("DELETE")))
    for _ in range(60):
        del counts[:]
        engine.step()
        assert sum(counts) <= iot.FORWARD_SERIES
    assert iot.part_of(server.writer, iot.Outbox).unsent == {}
    assert server.writer.db.execute("SELECT count(*) FROM unsent").fetchone() == (0,)


def test_many_series_are_noted_in_small_steps(server):
    bring(server, [(NOON, f"s{i}", f"m{i}", field, 1.0, None)
                   for i in range(100) for field in range(1, 10)])
    changes, line = [], Line(server)
    while not iot.part_of(server.writer, iot.Outbox).engine:
        before = server.writer.db.total_changes
        line.take_unsent("an engine", "a session")
        changes.append(server.writer.db.total_changes - before)
    assert max(changes) <= iot.FORWARD_SERIES + 1
    assert len(changes) == 5
    assert server.writer.db.execute("SELECT count(*) FROM unsent").fetchone() == (900,)


def test_a_crash_while_they_are_noted_loses_no_history(server, small_pieces):
    put(server, INSIDE, NOON, 1, 2, 3)
    engine = Memory(server)
    engine.step()
    assert iot.part_of(server.writer, iot.Outbox).engine is None
    assert len(iot.part_of(server.writer, iot.Outbox).unsent) == 2
    server.writer.load()
    put(server, INSIDE, NOON - DAY, 4, 5, 6, 7)
    assert engine.drain() == stored(server)


def test_it_is_remembered_for_a_week_for_the_same_engine(server):
    engine = Memory(server)
    for days, taken in ((0, 1), (6, 1), (6, 1), (8, 4)):
        server.time += days * 86_400
        put(server, INSIDE, round(server.time * 1000), 1.0)
        before = engine.taken
        engine.drain()
        engine.settle()
        assert engine.taken - before == taken
    server.time += 8 * 86_400
    put(server, INSIDE, round(server.time * 1000), 1.0)
    assert iot.part_of(server.writer, iot.Outbox).engine is None
    assert server.writer.db.execute("SELECT count(*) FROM unsent").fetchone() == (0,)
    assert engine.drain() == stored(server)
    other = Memory(server, "http://127.0.0.1/another")
    assert other.drain() == stored(server), "all history goes again"


def test_a_disk_that_fills_as_an_engine_comes_first_loses_no_history(server):
    """Nor does a crash: it is known with all that it lacks, or not at all."""
    put(server, INSIDE, NOON, 1, 2, 3)
    server.writer.db.execute("""CREATE TEMP TRIGGER full BEFORE INSERT ON main.unsent
        BEGIN SELECT RAISE(ABORT, 'database or disk is full'); END""")
    engine = Memory(server)
    with pytest.raises(sqlite3.Error):
        engine.step()
    server.writer.db.execute("DROP TRIGGER full")
    assert engine.drain() == stored(server)


def test_a_station_that_is_removed_is_not_waited_for(server):
    put(server, INSIDE, NOON, 1.0)
    put(server, OUTSIDE, NOON, 2.0)
    engine = Memory(server)
    engine.step()
    while server.writer.remove_step("inside") >= 0:
        pass
    assert engine.drain() == {("inside", 1): {NOON: 1.0}, ("outside", 1): {NOON: 2.0}}
    assert iot.part_of(server.writer, iot.Outbox).pending == {}


def test_an_invented_engine_learns_nothing_where_one_is_set(in_process):
    server = in_process(forward=ENGINE)
    put(server, INSIDE, NOON, 1.0)
    engine = Memory(server)
    engine.drain()
    with pytest.raises(iot.StoreError):
        Line(server).take_unsent("invented", "a session")
    assert iot.part_of(server.writer, iot.Outbox).engine == engine.errand.to.id


def test_prune_says_what_had_not_been_forwarded(run, database):
    run("--import", "-", stdin="time,station,mac,field,value,entry\n" + "".join(
        f"2018-07-30T12:{i:02}:00.000Z,inside,{INSIDE.mac},1,20,\n" for i in range(30)))
    writer = iot.Writer(database)
    iot.part_of(writer, iot.Outbox).serve(ENGINE, iot.now_ms())
    writer.close()
    assert "30 of them had not been forwarded" in run("--prune", "1d", "--dry-run")
    assert "30 of them had not been forwarded" in run("--prune", "1d")


# -- lines ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("station", "label", "role", "tags"), [
    ("inside", None, None, r"station=inside,field=1"),
    ("a b,c=d", "°C, 1", "outside", r"station=a\ b\,c\=d,field=1,label=°C\,\ 1,role=outside"),
    ("back\\slash\\", "x\\", None, r"station=back/slash/,field=1,label=x/")])
def test_a_line(station, label, role, tags):
    lines = iot.render_lines(station, role, 1, label, [(5, 26), (6, -1e300)])
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
        self.lines = []
        self.look = lambda path: 404
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def process_request(self, request, address):
        self.lines.append(request)
        super().process_request(request, address)

    def hang_up(self):
        """End all connections, as the kernel does for a process that has died."""
        for line in self.lines:
            with contextlib.suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request, address):
        """A client that gives up is no error of ours."""


class Answers(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers["Content-Encoding"] == "gzip":
            body = gzip.decompress(body)
        lines = body.decode().splitlines()
        self.server.requests.append(SimpleNamespace(
            path=self.path, headers=self.headers, lines=lines, peer=self.client_address))
        status, words, *headers = self.server.behave(lines)
        if status == "cut":
            self.close_connection = True
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
        if (answer := self.server.look(self.path)) == "cut":
            self.close_connection = True
            return
        status, words = answer if isinstance(answer, tuple) else (answer, "")
        self.send_response(status)
        self.send_header("Content-Length", str(len(words)))
        self.end_headers()
        self.wfile.write(words.encode())

    def log_message(self, *words):
        pass


@pytest.fixture
def engine():
    engine = Engine()
    yield engine
    while Courier.made:
        Courier.made.pop().errand.channel.close()
    engine.shutdown()
    engine.server_close()


class Courier:
    """A Forwarder beside a server in this process."""

    made: ClassVar = []

    def __init__(self, server, url):
        self.made.append(self)
        self.errand = iot.Forwarder(argparse.Namespace(forward=url))
        self.remote = Line(server)

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
    assert iot.part_of(server.writer, iot.Outbox).pending == {}
    said = capsys.readouterr().err
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
    assert sorted({*values(engine.got)}) == [*range(20)]
    assert len(engine.got) == 21, "one shows first that it takes any, and none else goes twice"
    assert iot.part_of(server.writer, iot.Outbox).pending == {}


REFUSALS = [
    (400, '{"error":"unable to parse \'iotserver\'"}'),         # InfluxDB 2
    (400, "failed to parse line protocol: invalid field value"),       # QuestDB
    (400, "field type conflict"), (400, ""), (413, ""),
    (422, '{"code":"unprocessable entity"}')]


def refuse(*bad, answer):
    """What an engine does that refuses a whole post for one of these values."""
    return lambda lines: answer if {*bad} & {*values(lines)} else (204, "")


@pytest.mark.parametrize("bad", [[7], [0], [19], [0, 1, 2, 18, 19], [*range(19)]],
                         ids=lambda bad: f"{len(bad)} from {bad[0]}")
@pytest.mark.parametrize("answer", REFUSALS, ids=str)
def test_bad_lines_do_not_hold_up_the_rest(server, engine, courier, capsys, answer, bad):
    """Whatever the engine says of them."""
    engine.behave = refuse(*bad, answer=answer)
    courier.step()
    assert {*values(engine.got)} == {*range(20)} - {*bad}
    assert capsys.readouterr().err.count("are skipped") == 1
    assert iot.part_of(server.writer, iot.Outbox).pending == {}


@pytest.mark.parametrize("answer", REFUSALS, ids=str)
def test_one_that_takes_no_line_is_not_set_up_yet(server, engine, courier, capsys, answer):
    """Nor is it, where it took lines before, and now not even those."""
    engine.behave = lambda lines: answer
    assert courier.step() == iot.PAUSES[0]
    assert "readings wait" in capsys.readouterr().err
    assert len(engine.requests) <= iot.PROBES + 10, "it is not flooded"
    engine.behave = lambda lines: (204, "")
    courier.step()
    assert values(engine.got) == [*range(20)]
    put(server, INSIDE, NOON + 60_000, 42.0)
    engine.behave = lambda lines: answer
    assert courier.step() >= iot.PAUSES[0]
    assert lag(server) > 0
    engine.behave = lambda lines: (204, "")
    courier.step()
    assert 42 in values(engine.got)


def test_a_line_that_comes_alone_is_skipped_if_others_are_taken(server, engine, courier, capsys):
    courier.step()
    put(server, INSIDE, NOON + 60_000, 42.0)
    engine.behave = refuse(42, answer=(400, "failed to parse line protocol"))
    assert courier.step() < 1
    assert "are skipped: failed to parse" in capsys.readouterr().err
    assert iot.part_of(server.writer, iot.Outbox).pending == {}


def test_a_series_that_is_refused_wholly_does_not_hold_up_the_others(
        server, engine, courier, small_pieces):
    """Its lines fill the first posts alone."""
    for i in range(20):
        put(server, OUTSIDE, NOON + i * 1000, 100.0 + i)
    engine.behave = refuse(*range(20), answer=(400, "field type conflict"))
    for _ in range(20):
        courier.step()
    assert {*values(engine.got)} == {*range(100, 120)}
    assert iot.part_of(server.writer, iot.Outbox).pending == {}


def test_the_rest_of_a_partial_write_is_there(server, engine, courier, capsys):
    engine.behave = lambda lines: (400, "partial write: field type conflict dropped=1")
    courier.step()
    assert len(engine.requests) == 1
    assert "field type conflict" in capsys.readouterr().err
    assert iot.part_of(server.writer, iot.Outbox).pending == {}


@pytest.mark.parametrize("query", [
    "db=iot&u=admin&p=s3cr3t%20word", "bucket=iot&token=s3cr3t+word", "p=s3cr3t%20word&db=iot"])
def test_what_the_address_holds_behind_its_question_mark_is_in_no_log(
        server, engine, courier, capsys, query):
    """Only the names of databases are."""
    for words in ("no database iot for /write?{query} (admin)", "admin: s3cr3t word is wrong",
                  "{query}: s3cr3t+word", "u=admin s3cr3t%20word"):
        engine.behave = lambda lines, words=words: (401, words.format(query=query))
        address = f"http://127.0.0.1:{engine.server_port}/write?{query}"
        Courier(server, address).step()
        said = capsys.readouterr().err
        assert "readings wait" in said
        assert "s3cr3t" not in said
        assert "admin" not in said or "u=" not in query
        assert "no database" not in said or "no database iot for" in said


@pytest.mark.parametrize("query", ["db=iot&rp=years&u=me&p=s%20t", "db=iot&precision=ns&u=me"])
def test_a_question_has_the_parameters_of_the_address(
        server, engine, courier, capsys, look_now, query):
    """And times are in milliseconds, whatever it says."""
    asked = []
    engine.look = lambda path: asked.append(path) or 404
    courier = Courier(server, f"http://127.0.0.1:{engine.server_port}/write?{query}")
    courier.step()
    assert len(asked) == 2
    for path in (*asked, engine.requests[-1].path):
        given = urllib.parse.parse_qs(path.partition("?")[2])
        assert given["precision"] == ["ms"]
        del given["precision"]
        mine = urllib.parse.parse_qs(query.replace("&precision=ns", ""))
        assert given | mine == given


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


@pytest.fixture
def look_now(monkeypatch):
    monkeypatch.setattr(iot, "CHECK_SECONDS", 0)


@pytest.mark.parametrize("answer", [503, 429, "cut"])
def test_who_is_too_busy_to_be_asked_is_asked_later(
        server, engine, courier, capsys, look_now, answer):
    """That is neither one who cannot be asked, nor one who has lost what it took."""
    engine.look = lambda path: answer
    assert courier.step() == 10
    assert server.server.board.notes == {}
    assert "readings wait" in capsys.readouterr().err
    assert courier.step() < 1, "meanwhile it goes on"
    assert iot.part_of(server.writer, iot.Outbox).pending == {}
    engine.look = lambda path: 404
    courier.errand.check_at = 0
    assert courier.step() < 1
    assert "cannot be asked" in capsys.readouterr().err
    assert iot.part_of(server.writer, iot.Outbox).pending == {}


def test_who_drops_what_is_old_is_told_on_the_page_and_live_readings_go_on(
        server, engine, courier, capsys, look_now):
    engine.look = lambda path: 200      # VictoriaMetrics: with nothing in it
    courier.step()
    assert "-retentionPeriod=100y" in capsys.readouterr().err
    assert "-retentionPeriod=100y" in server.get("/", accept="text/html").text
    put(server, INSIDE, NOON + 60_000, 42)
    courier.step()
    assert 42 in values(engine.got)
    assert "-retentionPeriod" not in capsys.readouterr().err, "it is asked once"
    put(server, INSIDE, NOON - DAY, 43)
    engine.look = lambda path: (200, json.dumps({"timestamps": [NOON - DAY], "values": [43]}))
    courier.step()
    assert "-retentionPeriod" not in server.get("/", accept="text/html").text


def test_lines_that_are_refused_for_good_hold_up_nothing(server, engine, courier, capsys):
    """A retention of InfluxDB 1, and what InfluxDB 2 says to it."""
    for status in (400, 422):
        put(server, INSIDE, NOON - DAY, 42)
        engine.behave = lambda lines, status=status: (
            status, f"partial write: {status}, points beyond retention policy dropped=1")
        courier.step()
        assert f"{status}, points beyond retention" in capsys.readouterr().err
        assert iot.part_of(server.writer, iot.Outbox).pending == {}


def test_a_connection_is_kept_and_its_end_is_a_new_session(server, engine, courier, monkeypatch):
    monkeypatch.setattr(Answers, "protocol_version", "HTTP/1.1")
    for i in range(3):
        put(server, INSIDE, NOON + 60_000 + i, float(i))
        courier.step()
    assert len({request.peer for request in engine.requests}) == 1
    assert len(engine.got) == 23
    engine.hang_up()
    put(server, INSIDE, NOON + 120_000, 5.0)
    assert courier.step() == 10, "it may have lost what came last"
    courier.step()
    assert len(engine.got) == 23 + 24


def test_while_it_may_lose_something_it_is_asked_for_a_sign_of_life(
        server, engine, courier, monkeypatch):
    monkeypatch.setattr(Answers, "protocol_version", "HTTP/1.1")
    monkeypatch.setattr(iot, "PROOF_SECONDS", 0)
    looks = []
    engine.look = lambda path: looks.append(path) or 204
    courier.step()
    courier.step()
    assert looks == ["/ping"]
    engine.look = lambda path: 502      # a proxy's, whose engine is gone
    assert courier.step() == 10
    assert lag(server) == 20
    engine.look = lambda path: looks.append(path) or 404
    courier.step()
    server.time += 60
    for _ in range(3):
        courier.step()
    del looks[:]
    courier.step()
    assert looks == [], "all is settled"


def test_the_proxy_of_the_environment_is_asked(server, engine, monkeypatch):
    """With its own login, and the connection to it is kept."""
    monkeypatch.setattr(Answers, "protocol_version", "HTTP/1.1")
    monkeypatch.setenv("http_proxy", f"http://me:secret@127.0.0.1:{engine.server_port}")
    monkeypatch.setenv("no_proxy", "")
    courier = Courier(server, "http://engine.invalid:8428/write?db=iot")
    for i in range(2):
        put(server, INSIDE, NOON + i, float(i))
        courier.step()
    assert {request.path for request in engine.requests} == {
        "http://engine.invalid:8428/write?db=iot&precision=ms"}
    assert {request.headers["Host"] for request in engine.requests} == {"engine.invalid:8428"}
    assert {request.headers["Proxy-Authorization"] for request in engine.requests} == {
        "Basic " + base64.b64encode(b"me:secret").decode()}
    assert len({request.peer for request in engine.requests}) == 1
    monkeypatch.setenv("no_proxy", "engine.invalid")
    courier.errand.channel.close()
    put(server, INSIDE, NOON + 9, 9.0)
    assert courier.step() == 10


def test_a_note_alone_is_nothing_to_forward(server, engine, courier):
    server.writer.add_entry(server.writer.by_mac[OUTSIDE.mac], NOON, {}, NOON, Note(status="x"))
    server.server.turn.end()
    courier.step()
    assert len(engine.got) == 20


def test_a_late_reading_of_the_open_turn_is_not_settled_with_the_rest(server):
    """Settling stores the open turn first: what it brings moves the position back."""
    put(server, INSIDE, NOON - 5 * DAY, 1.0)
    put(server, INSIDE, NOON, 2.0)
    engine = Memory(server)
    engine.drain()
    outbox = iot.part_of(server.writer, iot.Outbox)
    assert outbox.taken[0][1]
    server.writer.add_entry(server.writer.by_mac[INSIDE.mac], NOON - DAY, {1: 3.0}, NOON)
    outbox.settle(server.time + iot.SETTLE_SECONDS + iot.PROOF_SECONDS)
    server.writer.load()                        # as after a crash
    series = server.writer.series[1, 1]
    assert iot.part_of(server.writer, iot.Outbox).unsent[series] <= (NOON - DAY, 2)
