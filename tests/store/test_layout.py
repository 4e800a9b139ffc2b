"""What the file holds and costs: receipts, layouts of older versions, series, and times that are
not within reason."""
import contextlib
import json
import random
import re
import sqlite3
import subprocess
import sys

import pytest
from harness import (
    DAY,
    INSIDE,
    NOON,
    OUTSIDE,
    SCRIPT,
    environment,
    finish,
    problems_of,
    request,
    rows_of,
)

import iotserver
from iotserver import HOUR, MINUTE, RECEIPTS, Reading


def store(server, count, first=0, step=5 * MINUTE, seq="4fc28b1e-%d-%d"):
    """As many readings with a seq, of two fields in turn, as the firmware names them."""
    station = server.writer.by_mac[INSIDE.mac]
    for i in range(first, first + count):
        now = NOON + i // 2 * step
        server.writer.add(station, Reading(1 + i % 2, 20 + i % 80 / 10, 0,
                                           seq and seq % (i // 5000, i % 5000)), now)
        if i % 20 == 19:
            server.writer.commit()
    server.writer.commit()


def size(server):
    server.writer.checkpoint()
    return server.path.stat().st_size


# -- receipts -------------------------------------------------------------------------------------

def test_a_reading_with_a_seq_costs_at_most_45_bytes(in_process):
    for seq, most in (("4fc28b1e-%d-%d", 45), (None, 36)):
        server = in_process(f"size{most}.db")
        before = size(server)
        store(server, 30_000, seq=seq)
        assert (size(server) - before) / 30_000 <= most


def test_the_newest_seqs_of_a_station_are_known_and_old_ones_forgotten(server):
    store(server, 12_000)
    station = server.writer.by_mac[INSIDE.mac]
    store(server, RECEIPTS, 12_000 - RECEIPTS)
    assert station.last_entry == 12_000, "the last of them, sent again, are not stored again"
    kept, = server.writer.db.execute("SELECT count(*) FROM receipt").fetchone()
    assert RECEIPTS <= kept < 10 * RECEIPTS


def test_a_whole_bulk_sent_again_is_known(server):
    station = server.writer.by_mac[INSIDE.mac]
    store(server, 3000)
    for _ in range(2):
        entries = [server.writer.add(station, Reading(1, 5, 0, f"bulk {i}"), NOON)
                   for i in range(iotserver.MAX_BULK)]
        assert entries == list(range(3001, 3001 + iotserver.MAX_BULK))
        server.writer.commit()


def test_a_seq_is_known_in_its_turn_after_its_commit_and_not_after_a_failed_one(server):
    writer, station = server.writer, server.writer.by_mac[INSIDE.mac]
    names = [f"n{i}" for i in range(3 * RECEIPTS)]          # the sets of memory are filled anew

    def add(begin=0):
        return [writer.add(station, Reading(1, 5, 0, name), NOON) for name in names[begin:]]

    first = add()
    assert add() == first, "in one turn"
    writer.db.execute("CREATE TEMP TRIGGER fail BEFORE INSERT ON reading BEGIN "
                      "SELECT RAISE(ABORT, 'no'); END")
    with pytest.raises(sqlite3.Error):
        writer.commit()
    writer.db.execute("DROP TRIGGER fail")
    station = writer.by_mac[INSIDE.mac]
    assert add() == first, "none was stored, so the numbers are free"
    writer.commit()
    assert add(-RECEIPTS) == first[-RECEIPTS:]
    assert station.last_entry == first[-1]


def test_seqs_of_other_fields_and_stations_are_others():
    names = [(field, f"{a}-{b}") for field in range(1, 10) for a in range(30) for b in range(30)]
    assert len({iotserver.hash_seq(*name) for name in names}) == len(names)
    assert iotserver.hash_seq(1, "2 3") != iotserver.hash_seq(1, "23")


# -- files of an older version --------------------------------------------------------------------

FIRST_LAYOUT = """
CREATE TABLE station (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    name       TEXT NOT NULL UNIQUE,
    mac        TEXT NOT NULL UNIQUE,
    role       TEXT CHECK (role IN ('inside', 'outside')),
    key        BLOB UNIQUE,
    next_key   BLOB UNIQUE,
    read_key   BLOB,
    created    INTEGER NOT NULL,
    heard      INTEGER,
    last_entry INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE TABLE gap (
    station INTEGER NOT NULL REFERENCES station,
    first   INTEGER NOT NULL,
    last    INTEGER NOT NULL,
    PRIMARY KEY (station, first)
) STRICT, WITHOUT ROWID;
CREATE TABLE series (
    id      INTEGER PRIMARY KEY,
    station INTEGER NOT NULL REFERENCES station,
    field   INTEGER NOT NULL CHECK (field BETWEEN 1 AND 9),
    label   TEXT,
    UNIQUE (station, field)
) STRICT;
CREATE TABLE reading (
    series INTEGER NOT NULL,
    time   INTEGER NOT NULL,
    entry  INTEGER NOT NULL,
    value  ANY NOT NULL,
    PRIMARY KEY (series, time, entry)
) STRICT, WITHOUT ROWID;
CREATE TABLE note (
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
CREATE TABLE hour (
    series  INTEGER NOT NULL,
    hour    INTEGER NOT NULL,
    count   INTEGER NOT NULL,
    minimum REAL NOT NULL,
    maximum REAL NOT NULL,
    total   REAL NOT NULL,
    pruned  INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (series, hour)
) STRICT, WITHOUT ROWID;
CREATE TABLE receipt (
    station INTEGER NOT NULL REFERENCES station,
    field   INTEGER NOT NULL,
    seq     TEXT NOT NULL,
    entry   INTEGER NOT NULL,
    time    INTEGER NOT NULL,
    PRIMARY KEY (station, field, seq)
) STRICT, WITHOUT ROWID;
CREATE INDEX receipt_time ON receipt (time);
"""


@pytest.fixture
def older(tmp_path):
    """A file of the first layout, with two stations, a seq, a label, a gap and pruned hours."""
    path = tmp_path / "first.db"
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.executescript(f"""PRAGMA auto_vacuum = INCREMENTAL; PRAGMA journal_mode = WAL;
            {FIRST_LAYOUT};
            PRAGMA application_id = {iotserver.APPLICATION_ID}; PRAGMA user_version = 1;
            INSERT INTO station (name, mac, role, key, created, heard, last_entry) VALUES
                ('inside', '{INSIDE.mac}', 'inside', x'{iotserver.hash_key(INSIDE.key).hex()}',
                 1, {NOON}, 9), ('old', 'aa', NULL, NULL, 1, NULL, 0);
            INSERT INTO gap VALUES (1, 3, 5);
            INSERT INTO series VALUES (0, 1, 1, 'Kitchen'), (4, 1, 2, NULL);
            INSERT INTO reading VALUES (0, {NOON}, 9, 21.5);
            INSERT INTO hour VALUES (0, {NOON // HOUR}, 3, 20.0, 21.5, 62.0, 2);
            INSERT INTO receipt VALUES (1, 1, 'boot-7', 9, {NOON});""")
    return path


def test_a_file_of_the_first_layout_goes_on(older):
    with contextlib.closing(iotserver.Writer(older)) as writer:
        station = writer.by_mac[INSIDE.mac]
        assert writer.add(station, Reading(1, 21.5, 0, "boot-7"), NOON) == 9, "sent again"
        assert writer.add(station, Reading(3, 5, 0, None), NOON + 1) == 10
        writer.commit()
        assert writer.series[1, 3] == 5
    assert rows_of(older) == [(NOON, "inside", INSIDE.mac, 1, 21.5, 9),
                              (NOON + 1, "inside", INSIDE.mac, 3, 5, 10)]
    assert problems_of(older) == []
    with contextlib.closing(iotserver.Reader(older)) as reader:
        assert reader.entries([1, 2]) == {1: 7, 2: 0}
        assert reader.latest([1])[0].label == "Kitchen"


def test_the_first_series_of_the_first_layout_was_heard_when_it_was(older):
    """Its id is 0, which is neither a time nor nothing."""
    with (contextlib.closing(iotserver.Writer(older)),
          contextlib.closing(iotserver.Reader(older)) as reader):
        place, = finish(iotserver.read_places(reader, NOON + 5 * DAY, 22.0, {}, {}))
    assert (place.series, place.heard) == (0, NOON)


def test_reading_a_file_of_an_older_layout_says_what_to_do(older):
    for flags in (["--stations"], ["--export", "-"], ["--check"], ["--backup", "copy.db"]):
        done = subprocess.run([sys.executable, SCRIPT, "--db", older, *flags], timeout=60,
                              capture_output=True, text=True, env=environment(),
                              cwd=older.parent, check=False)
        assert (done.returncode, done.stdout) == (1, "")
        assert "layout 1" in done.stderr
        assert len(done.stderr.splitlines()) == 1


# -- series ---------------------------------------------------------------------------------------

def test_a_removed_station_s_series_are_never_used_again(server):
    server.update(INSIDE, 1)
    server.update(OUTSIDE, 2)
    series = server.writer.series[2, 1]
    while server.writer.remove_step("outside") >= 0:
        pass
    server.writer.load()                        # as after a restart
    server.update(INSIDE, 3, field=2)
    assert server.writer.series[1, 2] > series


def test_a_series_that_is_new_after_a_command_is_told_with_its_station_and_field(server):
    server.writer.set_read_key("inside", "00" * 32)
    listener = server.connect()
    listener.data_received(request("GET", "/events", Accept="text/event-stream"))
    server.update(INSIDE, 21.5, field=7)
    told, = re.findall(rb"event: reading\ndata: (.*)\n", listener.transport.sent)
    assert json.loads(told) | {"time": 0} == {
        "station": 1, "field": 7, "time": 0, "value": 21.5, "entry": 1}


# -- times that are not within reason -------------------------------------------------------------

def test_readings_of_the_future_are_kept_and_shown_when_their_time_has_come(server):
    server.update(INSIDE, 21)
    server.writer.import_rows([(NOON + 20 * HOUR, "", INSIDE.mac, 1, 99.0, None),
                               (NOON + 2 * DAY, "", INSIDE.mac, 1, 98.0, None)], NOON)

    def shown():
        stations = server.get("/api/stations").json
        field = next(s for s in stations if s["name"] == "inside")["fields"][0]
        points = server.get("/api/readings?station=inside").json["points"]
        return field["value"], [point[1] for point in points]
    assert shown() == (21, [21])
    later = server.get(f"/api/readings?station=inside&end={NOON // 1000 + 10 * 86_400}")
    assert [point[1] for point in later.json["points"]] == [21]
    server.time += 20 * 3600 + 1
    assert shown() == (99, [21, 99])
    assert len(rows_of(server.path)) == 3


def test_history_begins_where_clocks_were_set(server):
    server.writer.import_rows([(HOUR, "", INSIDE.mac, 1, 5.0, None)], NOON)
    assert finish(server.reader.first_hour()) is None
    assert len(server.get("/api/readings?station=inside").json["points"]) == 1
    server.writer.import_rows([(NOON - i * MINUTE, "", INSIDE.mac, 1, 5.0, None)
                               for i in range(300)], NOON)
    assert finish(server.reader.first_hour()) == NOON - 5 * HOUR
    points = server.get("/api/readings?station=inside&points=100").json["points"]
    assert len(points) >= 90, "one reading of 1970 does not squeeze the others into one point"
    assert len(server.get("/api/readings?station=inside&start=1970").json["points"]) == 301


# -- the window of a verdict ----------------------------------------------------------------------

@pytest.mark.parametrize("seconds", [5, 20, 60, 300])
def test_the_verdict_s_window_is_covered_at_any_interval(server, seconds):
    start = NOON - 40 * HOUR
    rows = [(ms, "", INSIDE.mac, 1, (ms - start) / 1e7, None)
            for ms in range(start, NOON, seconds * 1000)]
    server.writer.import_rows(rows, NOON)
    recent = server.reader.recent(server.writer.series[1, 1], start, NOON)
    assert recent[0][0] - start <= MINUTE
    assert recent[-1] == (rows[-1][0], rows[-1][4])
    assert len(recent) <= 2400
    assert all(ms - start == pytest.approx(1e7 * value, abs=10) for ms, value in recent)


def test_the_lowest_and_highest_are_those_of_a_look_at_all(server):
    """Wherever the span begins, where some hours have no readings any more, and where sensors have
    started: what is impossible is no extreme. Limits are those of what was sent."""
    mix = random.Random(5)
    rows = [(NOON - 2 * DAY + i * 7 * MINUTE + mix.randrange(1000), "", INSIDE.mac, 1,
             mix.choice([85, -127, 1e300, "nan"]) if mix.random() < 0.1 else
             round(mix.gauss(20, 15), 1), None) for i in range(400)]
    server.writer.import_rows(rows, NOON)
    server.writer.prune_step(rows[60][0])
    server.writer.edit_station("inside", None, None, None, 9.5)
    rows, series = rows[60:], server.writer.series[1, 1]
    for _ in range(200):
        start = NOON - 2 * DAY + mix.randrange(200) * 15 * MINUTE
        end = start + mix.randrange(1, 30 * 60) * MINUTE
        wanted = [(round(row[4] + 9.5, 6), row[0]) for row in rows if start <= row[0] < end
                  and isinstance(row[4], float) and -60 <= row[4] <= 60]
        found = finish(server.reader.extremes(series, start, end))
        assert [value for _, value in found] == (
            [min(wanted)[0], max(wanted)[0]] if wanted else [])
        assert all((value, ms) in wanted for ms, value in found)


def test_pauses_between_updates_are_learned_and_kept(server):
    station = server.writer.by_mac[INSIDE.mac]
    for hours in range(5):
        for minutes in range(6):
            server.writer.add(station, Reading(1, 20, minutes * 10 * MINUTE, None),
                              NOON + hours * HOUR)
        server.writer.commit()
    assert station.silence == 3 * HOUR
    assert server.reader.stations()[0].silence == 3 * HOUR
