"""The store against a model that keeps everything in lists, and what its files promise."""
import math
import random
import sqlite3
from collections import defaultdict
from contextlib import closing
from types import SimpleNamespace

import pytest
from harness import (
    DAY,
    INSIDE,
    NOON,
    OUTSIDE,
    STATIONS,
    add_console,
    bulk,
    problems_of,
    request,
    rows_of,
    update_path,
)

import iotserver

HOUR = 3_600_000


def query(path, sql):
    with closing(sqlite3.connect(path)) as db:
        return db.execute(sql).fetchall()


def drain(step, *args, end=0):
    """Call a step of some work until it says that nothing is left; what all steps said."""
    return list(iter(lambda: step(*args), end))


# -- against a model ------------------------------------------------------------------------------


class Model:
    """What the store should hold, kept in the plainest way, while both are changed at random."""

    def __init__(self, server, seed):
        self.server, self.random = server, random.Random(seed)
        self.raw = defaultdict(list)        # (mac, field): (time, value)
        self.ever = defaultdict(list)       # (mac, field, hour): values, also of pruned readings
        self.pruned = set()                 # (mac, field, hour)

    def keep(self, mac, field, ms, value):
        self.raw[mac, field].append((ms, value))
        self.ever[mac, field, ms // HOUR].append(value)

    def value(self):
        return round(self.random.uniform(-50, 50), 2)

    def update(self):
        station, age = self.random.choice(STATIONS), self.random.choice([0, 60, 7000, 200_000])
        field, value = self.random.randint(1, 2), self.value()
        self.server.update(station, value, field, f"/age={age}")
        self.keep(station.mac, field, self.server.server.now() - age * 1000, value)

    def bulk(self):
        station = self.random.choice(STATIONS)
        readings = [{"field": self.random.randint(1, 2), "data": self.value(),
                     "age": self.random.randint(0, 20_000)} for _ in range(20)]
        assert self.server.ask("POST", "/update", bulk(station, *readings)).status == 200
        for r in readings:
            self.keep(station.mac, r["field"], self.server.server.now() - r["age"] * 1000,
                      r["data"])

    def import_rows(self):
        station = self.random.choice(STATIONS)
        rows = [(self.server.server.now() - self.random.randint(0, 3 * DAY), station.name,
                 station.mac, self.random.randint(1, 2), self.value(), entry)
                for entry in self.random.choice([[None] * 20, range(5, 25), range(500, 520)])]
        wanted = [r for r in rows if (r[2], r[3], r[0] // HOUR) not in self.pruned]
        count = self.server.writer.import_rows(rows, self.server.server.now())
        assert tuple(count) == (len(wanted), 0, len(rows) - len(wanted))
        again = self.server.writer.import_rows(rows, self.server.server.now())
        assert tuple(again) == (0, len(wanted), len(rows) - len(wanted))
        for ms, _, mac, field, value, _ in wanted:
            self.keep(mac, field, ms, value)

    def prune(self):
        before = self.server.server.now() - self.random.randint(DAY // 4, 3 * DAY)
        steps = drain(self.server.writer.prune_step, before)
        gone = [(*place, ms) for place, rows in self.raw.items() for ms, _ in rows if ms < before]
        assert sum(steps) == len(gone)
        self.pruned |= {(mac, field, ms // HOUR) for mac, field, ms in gone}
        for place, rows in self.raw.items():
            self.raw[place] = [r for r in rows if r[0] >= before]

    def remove(self):
        if self.random.random() < 0.8:
            return
        station = self.random.choice(STATIONS)
        drain(self.server.writer.remove_step, station.name, end=-1)
        self.server.writer.add_station(station.name, station.mac, station.name,
                                       iotserver.hash_key(station.key).hex(), NOON)
        for mine in self.raw, self.ever:
            for place in [p for p in mine if p[0] == station.mac]:
                del mine[place]
        self.pruned = {p for p in self.pruned if p[0] != station.mac}

    def compare(self):
        path = self.server.path
        rows = defaultdict(list)
        for ms, _, mac, field, value, _ in rows_of(path):
            rows[mac, field].append((ms, value))
        assert {k: sorted(v) for k, v in rows.items()} == {
            k: sorted(v) for k, v in self.raw.items() if v}
        hours = {(mac, field, hour): figures for mac, field, hour, *figures in query(path, """
            SELECT mac, field, hour, count, minimum, maximum, total
            FROM hour JOIN series ON series.id = series JOIN station ON station.id = station""")}
        assert hours.keys() == self.ever.keys()
        for place, values in self.ever.items():
            assert hours[place][:3] == [len(values), min(values), max(values)]
            assert hours[place][3] == pytest.approx(math.fsum(values))
        for station in STATIONS:
            self.compare_points(station)

    def compare_points(self, station):
        """Raw readings where an hour has them all, the summary where not."""
        expected = []
        for (mac, field, hour), values in self.ever.items():
            if (mac, field) != (station.mac, 1):
                continue
            if (mac, field, hour) in self.pruned:
                expected.append([hour * HOUR, pytest.approx(math.fsum(values) / len(values)),
                                 min(values), max(values)])
            else:
                expected += [[ms, v] for ms, v in self.raw[mac, 1] if ms // HOUR == hour]
        found = self.server.get(f"/api/readings?station={station.name}&points=10000")
        assert sorted(found.json["points"], key=lambda p: (p[0], len(p), p[1])) == sorted(
            expected, key=lambda p: (p[0], len(p), p[1] if len(p) == 2 else 0))


@pytest.mark.parametrize("seed", range(8))
def test_random_changes_against_the_model(server, seed):
    model = Model(server, seed)
    works = [model.update] * 6 + [model.bulk, model.import_rows, model.prune, model.remove]
    for _ in range(12):
        for work in model.random.choices(works, k=6):
            work()
            server.time += model.random.choice([0, 10, 1800, 90_000])
        model.compare()
    assert problems_of(server.path) == []


# -- prune ----------------------------------------------------------------------------------------


@pytest.fixture
def full(server):
    """A server with 20,000 readings of field 1, one a minute, the last one now."""
    first = NOON - 20_000 * 60_000
    server.writer.import_rows([(first + i * 60_000, "", INSIDE.mac, 1, i % 50 / 2, i)
                               for i in range(1, 20_001)], NOON)
    return server


def test_prune_works_in_batches_between_which_updates_go_on(full):
    done = []
    while deleted := full.writer.prune_step(NOON - 60_000):
        done.append(deleted)
        full.update(INSIDE, "99", more="/age=1")
    assert sum(done) == 19_998
    assert max(done) <= 5000
    assert len(full.rows()) == 2 + len(done)
    assert problems_of(full.path) == []


def test_space_is_given_back_to_the_file_system(full):
    full.writer.checkpoint()
    before = full.path.stat().st_size
    drain(full.writer.prune_step, NOON + 1)
    freed = sum(drain(full.writer.shrink_step))
    after = full.path.stat().st_size
    assert freed == before - after
    assert after < before / 2
    assert full.get("/healthz").status == 200


def test_history_is_drawn_after_the_readings_are_gone(full):
    url = "/api/readings?station=inside&points=40"
    before = full.get(url).json["points"]
    assert 20 < len(before) <= 40
    drain(full.writer.prune_step, NOON + 1)
    after = full.get(url).json["points"]
    assert after == [[ms, pytest.approx(mean), low, high] for ms, mean, low, high in before]
    assert full.rows() == []


def test_half_done_removal_can_be_finished(full):
    full.writer.remove_step("inside")
    assert full.get(f"/update/API_key={INSIDE.key}/mac={INSIDE.mac}/field=1/data=1").status == 403
    assert problems_of(full.path) == []
    drain(full.writer.remove_step, "inside", end=-1)
    assert rows_of(full.path) == []
    assert [s["name"] for s in full.get("/api/stations").json] == ["outside"]
    assert query(full.path, "SELECT count(*) FROM hour") == [(0,)]


@pytest.mark.parametrize("fill", [
    "INSERT INTO hour SELECT series.id, value, 1, 0, 0, 0, 1, 0 FROM series, generate",
    "INSERT INTO note SELECT 1, value, 0, 'fine', NULL, NULL, NULL FROM generate"],
    ids=["hours", "notes"])
def test_no_step_of_a_removal_deletes_a_whole_history(server, fill):
    server.update(INSIDE, 21)
    rows = 3 * iotserver.STEP_ROWS
    server.writer.db.execute(f"""
        WITH RECURSIVE generate (value) AS (
            SELECT 2 UNION ALL SELECT value + 1 FROM generate WHERE value < {rows}) {fill}""")
    steps = [0]
    while steps[-1] >= 0:
        before = server.writer.db.total_changes
        steps.append(server.writer.remove_step("inside"))
        assert server.writer.db.total_changes - before < iotserver.STEP_ROWS + 100
    assert len(steps) > 4
    assert sum(steps) == 1 - 1          # one reading, and -1 at the end
    assert query(server.path, "SELECT (SELECT count(*) FROM hour), (SELECT count(*) FROM note)"
                 ) == [(0, 0)]


def test_a_removed_station_s_id_is_never_used_again(server):
    drain(server.writer.remove_step, "outside", end=-1)
    server.writer.add_station("other", "m9", None, None, NOON)
    assert [s["id"] for s in server.get("/api/stations").json] == [1, 3]


# -- export and import ----------------------------------------------------------------------------


def copied(in_process, rows, name="copy.db"):
    """A new server into which rows were imported."""
    other = in_process(name)
    other.writer.import_rows(rows, NOON)
    return other


@pytest.mark.parametrize("seed", range(5))
def test_export_and_import_give_the_same_readings(server, in_process, seed):
    """Gaps, equal times and values, late readings, several fields of one entry, texts."""
    mix = random.Random(seed)
    rows, entry = [], 0
    for _ in range(200):
        entry += mix.choice([1, 1, 1, 5])
        ms, mac = NOON - mix.choice([0, 0, 60_000, mix.randint(0, 10 * DAY)]), INSIDE.mac
        for field in mix.sample(range(1, 10), mix.choice([1, 1, 1, 3])):
            rows.append((ms, "inside", mac, field, mix.choice([1, 2.5, -0.5, "on", 7e300]), entry))
    server.writer.import_rows(rows, NOON)
    exported = rows_of(server.path)
    assert sorted(exported, key=str) == sorted(rows, key=str)
    other = copied(in_process, exported)
    assert rows_of(other.path) == exported
    assert tuple(other.writer.import_rows(exported, NOON)) == (0, len(exported), 0)
    assert rows_of(other.path) == exported
    assert problems_of(other.path) == []
    assert other.update(INSIDE, "1") == server.update(INSIDE, "1") == entry + 1


@pytest.mark.parametrize("seed", range(5))
def test_import_in_any_order_is_idempotent(server, seed):
    mix = random.Random(seed)
    rows = [(NOON + i // 3 * 1000, "", INSIDE.mac, 1 + i % 3, float(i), 10 + i // 3 * 2)
            for i in range(300)]
    shuffled = mix.sample(rows, len(rows))
    server.writer.import_rows(shuffled[:150], NOON)
    server.update(INSIDE, "77", 9)
    count = server.writer.import_rows(mix.sample(rows, len(rows)), NOON)
    assert tuple(count) == (150, 150, 0)
    assert sorted((r[0], r[3], r[4]) for r in rows_of(server.path) if r[3] != 9) == sorted(
        (r[0], r[3], r[4]) for r in rows)


def test_missing_field_of_a_known_entry_is_added(server):
    """What an import that was cut short, or one of a single field, left out."""
    rows = [(NOON, "", INSIDE.mac, field, 1.5 * field, 1) for field in (1, 2, 3)]
    server.writer.import_rows(rows[1:2], NOON)
    assert tuple(server.writer.import_rows(rows, NOON)) == (2, 1, 0)
    assert [(row[3], row[4], row[5]) for row in rows_of(server.path)] == [
        (1, 1.5, 1), (2, 3, 1), (3, 4.5, 1)]


def test_readings_whose_entry_number_is_taken_get_a_new_one(server):
    for value in (1, 2, 3):
        server.update(INSIDE, value)
    rows = [(NOON - DAY + i * 1000, "", INSIDE.mac, field, float(i), i)
            for i in (1, 2, 3) for field in (1, 2)]
    assert tuple(server.writer.import_rows(rows, NOON)) == (6, 0, 0)
    stored = [row for row in rows_of(server.path) if row[0] < NOON]
    assert [(row[3], row[5]) for row in stored] == [(1, 4), (2, 4), (1, 5), (2, 5), (1, 6), (2, 6)]
    assert tuple(server.writer.import_rows(rows, NOON)) == (0, 6, 0)
    assert server.update(INSIDE, 4) == 7


def test_equal_readings_stay_two_when_they_are_renumbered(server):
    """Two readings of one field in the same millisecond are two readings."""
    for value in (1, 2):
        server.update(INSIDE, value)
    rows = [(NOON - DAY, "", INSIDE.mac, 1, 5.0, entry) for entry in (1, 2)]
    server.writer.import_rows(rows, NOON)
    server.writer.import_rows(rows, NOON)
    assert [row[4] for row in rows_of(server.path)] == [5.0, 5.0, 1, 2]


def test_imported_gaps_are_not_given_to_updates_and_can_be_filled(server):
    def rows(*entries):
        return [(NOON + n, "", INSIDE.mac, 1, float(n), n) for n in entries]
    server.writer.import_rows(rows(2, 5, 9), NOON)
    assert server.update(INSIDE, "1") == 10
    assert tuple(server.writer.import_rows(rows(1, 2, 3, 4, 5, 7, 9), NOON)) == (4, 3, 0)
    assert sorted(row[5] for row in rows_of(server.path)) == [1, 2, 3, 4, 5, 7, 9, 10]
    assert server.reader.entries([1]) == {1: 8}


def test_mac_not_yet_known_becomes_a_station_without_a_key(server):
    server.writer.import_rows([(NOON, "", "aa:bb", 1, 5, 1), (NOON, "inside", "cc", 1, 5, 1)],
                              NOON)
    assert [(s.name, s.mac, s.key) for s in server.reader.stations()][2:] == [
        ("aa:bb", "aa:bb", None), ("cc", "cc", None)]
    for key in ("", "None"):
        assert server.get(f"/update/API_key={key}/mac=aa:bb/field=1/data=1").status == 403
    server.writer.new_key("aa:bb", iotserver.hash_key("K").hex())
    assert server.update(SimpleNamespace(mac="aa:bb", key="K"), "1") == 2


# -- keys, receipts -------------------------------------------------------------------------------


def test_only_a_hash_of_the_key_is_stored(server):
    server.update(INSIDE, "1")
    server.writer.checkpoint()
    stored = b"".join(path.read_bytes() for path in server.path.parent.glob("iot.db*"))
    assert b"inside" in stored
    assert not [s.key for s in STATIONS if s.key.encode() in stored]


def test_two_keys_live_until_the_new_one_is_used(server):
    new = SimpleNamespace(mac=INSIDE.mac, key="NEW")
    server.writer.new_key("inside", iotserver.hash_key("NEW").hex())
    assert server.update(INSIDE, "1") == 1
    assert server.update(new, "1") == 2
    old = f"/update/API_key={INSIDE.key}/mac={INSIDE.mac}/field=1/data=1"
    assert server.get(old).status == 403
    assert server.update(new, "1") == 3
    server.close()
    with closing(iotserver.Writer(server.path)) as writer:
        digest = iotserver.hash_key("NEW")
        inside = writer.by_mac[INSIDE.mac]
        assert (inside.key, inside.next_key) == (digest, None)


def test_failed_commit_leaves_memory_as_the_file_is(server):
    server.update(INSIDE, "1", more="/seq=a")
    pages, = server.writer.db.execute("PRAGMA page_count").fetchone()
    server.writer.db.execute(f"PRAGMA max_page_count = {pages}")
    station = server.writer.by_mac[INSIDE.mac]
    for i in range(3000):
        server.writer.add(station, iotserver.Reading(3 + i % 5, i, 0, f"s{i}"), NOON)
    with pytest.raises(sqlite3.Error):
        server.writer.commit()
    assert server.writer.by_mac[INSIDE.mac].last_entry == 1
    assert len(server.rows()) == 1
    server.writer.db.execute("PRAGMA max_page_count = 1000000")
    assert server.update(INSIDE, "2", 4, "/seq=s1") == 2
    assert server.update(INSIDE, "1", more="/seq=a") == 1
    assert [row[2:] for row in server.rows()] == [["1", "1", "1"], ["4", "2", "2"]]
    assert problems_of(server.path) == []


def test_a_bulk_that_is_sent_again_reads_the_receipts_once(server):
    """960 readings were 960 questions, each of which read all of them: 55 ms in one step."""
    body = bulk(INSIDE, *[{"field": 1 + n % 2, "data": n % 40, "seq": f"s{n}"}
                          for n in range(960)])
    first = server.ask("POST", "/update", body).json
    asked = []
    server.writer.db.set_trace_callback(asked.append)
    again = server.ask("POST", "/update", body).json
    server.writer.db.set_trace_callback(None)
    assert again == {"stored": 0, "entries": first["entries"]}
    assert len([sql for sql in asked if "FROM receipt" in sql]) == 1


def test_failed_import_leaves_nothing(server):
    before = query(server.path, "SELECT * FROM station")
    rows = [(NOON, "new", "m9", 1, 5, 1), (NOON, "new", "m9", 99, 5, 2)]
    with pytest.raises((sqlite3.Error, ValueError)):
        server.writer.import_rows(rows, NOON)
    assert query(server.path, "SELECT * FROM station") == before
    assert set(server.writer.by_mac) == {s.mac for s in STATIONS}
    assert server.update(OUTSIDE, "1") == 1


def test_an_empty_file_becomes_a_database(tmp_path):
    path = tmp_path / "iot.db"
    path.touch()
    with closing(iotserver.Writer(path)) as writer:
        writer.add_station("inside", INSIDE.mac, None, None, NOON)
        assert writer.add(writer.by_mac[INSIDE.mac], iotserver.Reading(1, 2, 0, None), NOON) == 1
        writer.commit()
    assert rows_of(path) == [(NOON, "inside", INSIDE.mac, 1, 2, 1)]


def test_reopened_database_goes_on_where_it_was(server, tmp_path):
    server.update(INSIDE, "1", 5)
    server.close()
    with closing(iotserver.Writer(server.path)) as writer, \
            closing(iotserver.Reader(server.path)) as reader:
        writer.add(writer.by_mac[INSIDE.mac], iotserver.Reading(5, 2, 0, None), NOON)
        writer.commit()
        assert [row[5] for row in reader.rows(reader.stations()[0])] == [1, 2]


def test_file_has_the_settings_that_only_its_birth_can_give(server):
    assert query(server.path, "PRAGMA auto_vacuum") == [(2,)]
    assert query(server.path, "PRAGMA journal_mode") == [("wal",)]
    assert server.writer.db.execute("PRAGMA synchronous").fetchone() == (2,)
    strict = dict(query(server.path, "SELECT name, strict FROM pragma_table_list"))
    assert not [n for n, is_strict in strict.items() if not is_strict and "sqlite" not in n]


def test_second_writer_is_refused(server):
    with pytest.raises(BlockingIOError):
        iotserver.Writer(server.path)


def test_reader_cannot_write(server):
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        server.reader.db.execute("DELETE FROM station")


# -- one door: whoever writes ends the open turn first --------------------------------------------


def arrive(server, value):
    """A connection whose update is in the open turn: neither stored nor answered yet."""
    connection = server.connect()
    connection.data_received(request("GET", update_path(INSIDE, value)))
    assert server.writer.batch.readings
    assert not connection.transport.sent
    return connection


def writes(server):
    """Everything by which the file can change but an update, by name."""
    writer, outbox = server.writer, lambda: iotserver.part_of(server.writer, iotserver.Outbox)
    return {
        "add_station": lambda: writer.add_station("attic", "a", None, None, NOON),
        "add_console": lambda: add_console(writer, "garden outside", "g", "00" * 32, NOON),
        "edit_station": lambda: writer.edit_station("outside", "street", None, None),
        "new_key": lambda: writer.new_key("outside", "01" * 32, True),
        "set_read_key": lambda: writer.set_read_key("outside", "02" * 32),
        "label": lambda: writer.label("outside", 2, "x"),
        "prune_step": lambda: writer.prune_step(NOON - DAY),
        "prune_notes_step": lambda: writer.prune_notes_step(NOON),
        "delete_step": lambda: writer.delete_step("outside", 1, {
            "start": 0, "end": NOON - DAY, "below": None, "above": None}),
        "import_rows": lambda: writer.import_rows([(NOON, "", OUTSIDE.mac, 1, 1.0, None)], NOON),
        "shrink_step": writer.shrink_step,
        "remove_step": lambda: writer.remove_step("outside"),
        "tell": lambda: iotserver.part_of(server.server, iotserver.Post).tell(
            "", [(1, "verdict", "open", NOON)]),
        "serve": lambda: outbox().serve("engine", NOON),
        "settle": lambda: outbox().taken.append((0, {1: (NOON, 0)})) or outbox().settle(NOON),
    }


@pytest.mark.wings("Consoles", "Messages", "Forwarding")
def test_each_way_to_write_is_tried_here(server):
    assert writes(server).keys() >= iotserver.WRITER_METHODS


@pytest.mark.wings("Consoles", "Messages", "Forwarding")
@pytest.mark.parametrize("name", writes(SimpleNamespace(writer=SimpleNamespace(shrink_step=0))))
def test_no_way_to_write_drops_the_open_turn(server, name):
    iotserver.part_of(server.writer, iotserver.Outbox).serve("engine", NOON)
    server.writer.import_rows([(NOON - 2 * DAY, "", OUTSIDE.mac, 1, 1.0, None)], NOON)
    connection = arrive(server, 22.5)
    writes(server)[name]()
    server.server.loop.run()
    assert connection.transport.sent.startswith(b"HTTP/1.1 200")
    assert [row[4] for row in rows_of(server.path) if row[2] == INSIDE.mac] == [22.5]
    assert server.update(INSIDE, 23) == 2


def test_a_turn_that_fails_at_the_door_is_told_and_the_command_goes_on(server):
    connection = arrive(server, 22.5)
    server.writer.db.execute("CREATE TEMP TRIGGER full BEFORE INSERT ON main.reading BEGIN "
                             "SELECT RAISE(FAIL, 'no room'); END")
    server.writer.edit_station("inside", "attic", None, None)
    assert connection.transport.sent.startswith(b"HTTP/1.1 503")
    assert server.writer.find("attic").last_entry == 0
    server.writer.db.execute("DROP TRIGGER full")
    assert server.update(INSIDE, 23) == 1


@pytest.mark.wings("Consoles")
def test_a_command_finds_what_the_failed_turn_left(in_process):
    """The part of a console that came with the open turn is gone when its commit fails."""
    server = in_process()
    add_console(server.writer, "garden outside", "g", iotserver.hash_key("k").hex(), NOON)
    connection = server.connect()
    connection.data_received(request("GET", "/data/report/k?PASSKEY=x&tempf=70&temp1f=60"
                                     "&dateutc=now"))
    names = {station.name for station in server.writer.stations.values()}
    part, = names - {"inside", "outside", "garden outside", "garden inside"}
    server.writer.db.execute("CREATE TEMP TRIGGER full BEFORE INSERT ON main.reading BEGIN "
                             "SELECT RAISE(FAIL, 'no room'); END")
    with pytest.raises(iotserver.StoreError, match="there is no station"):
        server.writer.label(part, 1, "x")


@pytest.mark.wings("Consoles", "Messages", "Forwarding")
@pytest.mark.parametrize(("name", "follows"), [
    (name, name not in {"prune_notes_step", "shrink_step", "tell", "serve",
                        "settle", "begin_again", "forget"})
    for name in writes(SimpleNamespace(writer=SimpleNamespace(shrink_step=0)))])
def test_what_changes_stations_or_history_is_made_known(server, name, follows):
    server.writer.import_rows([(NOON - 2 * DAY, "", OUTSIDE.mac, 1, 1.0, None)], NOON)
    board, events, outlook = server.server.board, server.server.events, server.server.outlook
    board.expires, events.is_reset, outlook.at = NOON, False, NOON
    writes(server)[name]()
    assert (board.expires == 0, events.is_reset, outlook.at == 0) == (follows,) * 3


# -- check ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", [
    "UPDATE hour SET count = count + 1", "UPDATE hour SET maximum = 99", "DELETE FROM hour",
    "UPDATE hour SET total = total + 1", "DELETE FROM reading WHERE entry = 2",
    "UPDATE reading SET value = 1000 WHERE entry = 1",
    "INSERT INTO series (station, field) VALUES (77, 1)",
    "INSERT INTO reading VALUES (99, 0, 1, 1)",
    "INSERT INTO hour VALUES (99, 0, 1, 1, 1, 1, 1, 0)"])
def test_check_finds_damage(server, damage):
    for value in (1, 2, 3):
        server.update(INSIDE, value)
    assert problems_of(server.path) == []
    server.writer.db.execute("PRAGMA foreign_keys = OFF")
    server.writer.db.execute(damage)
    assert problems_of(server.path)


def test_check_finds_a_damaged_page(full):
    full.close()
    with full.path.open("r+b") as file:
        file.seek(4096 * 20)
        file.write(b"\xff" * 4096)
    assert problems_of(full.path)


def test_check_is_not_misled_by_updates_meanwhile(server):
    server.update(INSIDE, "1")
    count = iter(range(100))

    def meanwhile(statement):
        if "reading" in statement or "hour" in statement:
            server.update(INSIDE, next(count))
    with closing(iotserver.Reader(server.path)) as reader:
        reader.db.set_trace_callback(meanwhile)
        assert reader.check(lambda fraction: None) == ([], [])
    assert next(count) > 1


def test_pruned_and_late_readings_of_one_hour_are_counted_once(server):
    for age in (7200, 7100):
        server.update(INSIDE, 10, more=f"/age={age}")
    drain(server.writer.prune_step, NOON - HOUR)
    server.update(INSIDE, 40, more="/age=7150")
    point, = server.get("/api/readings?station=1").json["points"]
    assert point == [NOON - 2 * HOUR, 20, 10, 40]
    assert problems_of(server.path) == []

