"""The command line as its users call it, with a server running on the database and without."""
import ast
import contextlib
import csv
import io
import json
import os
import pty
import re
import select
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import quote

import pytest
from harness import (
    DAY,
    HEADER,
    INSIDE,
    NOON,
    OUTSIDE,
    SCRIPT,
    STATIONS,
    Live,
    environment,
    problems_of,
    processor_seconds,
    rows_of,
    update_path,
    wait_for,
)

import iotserver

SECRETS = [s.key for s in STATIONS]


@pytest.fixture(params=["alone", "beside a server"])
def maybe_live(request, database, serve):
    """A server on the database, or None."""
    return serve("--rate-limit", "0") if request.param == "beside a server" else None


def make_csv(path, count, station="inside", mac=INSIDE.mac, year=2020):
    """Our CSV with count readings, one a second; its text."""
    lines = [HEADER] + [
        f"{year}-{1 + i // 2_000_000:02d}-{1 + i // 86_400 % 28:02d}T{i // 3600 % 24:02d}:"
        f"{i // 60 % 60:02d}:{i % 60:02d}.000Z,{station},{mac},1,{i % 40 / 2},{i + 1}"
        for i in range(count)]
    path.write_text("\n".join(lines) + "\n")
    return path.read_text()


def rows(text):
    return list(csv.reader(io.StringIO(text)))


# -- stations and keys ----------------------------------------------------------------------------


def test_add_station_makes_up_a_key_of_128_bits_and_shows_it_once(run, serve):
    text = run("--add-station", "attic", "--mac", "AA:bb", "--role", "outside")
    key = re.search(r'^API_KEY = "([\w.~-]+)"$', text, re.MULTILINE)[1]
    assert len(key) >= 22
    assert "AA:bb" in text
    assert run("--add-station", "cellar", "--mac", "cc") != text.replace("attic", "cellar")
    assert key not in run("--stations")
    assert serve().update(SimpleNamespace(mac="aa:BB", key=key), 1) == 1


def test_add_station_while_the_server_runs(maybe_live, run, serve):
    run("--add-station", "attic", "--mac", "aa:bb", "--key", "K1")
    live = maybe_live or serve()
    assert live.update(SimpleNamespace(mac="aa:bb", key="K1"), 1) == 1


IMPOSSIBLE = [
    (["--add-station", "inside", "--mac", "m9"], "inside"),
    (["--add-station", "attic", "--mac", INSIDE.mac.upper()], "already"),
    (["--add-station", "attic", "--mac", "m9", "--key", INSIDE.key], "key"),
    (["--new-key", "nobody"], "nobody"), (["--remove-station", "nobody"], "nobody"),
    (["--label", "nobody", "1", "x"], "nobody"), (["--import", "missing.csv"], "missing.csv"),
    (["--backup", "iot.db"], "belongs to one"), (["--backup", "no/such/folder"], "folder"),
    (["--export", "no/such/folder"], "folder"), (["--import", "iot.db"], "iot.db"),
    (["--import", Path(__file__)], "test_cli.py")]


@pytest.mark.slow
def test_what_cannot_be_done_ends_with_1_and_says_why(maybe_live, run, tmp_path):
    before = run("--stations")
    with ThreadPoolExecutor(2) as pool:
        said = list(pool.map(lambda row: run(*row[0], status=1, stderr=row[1]), IMPOSSIBLE))
    assert set(said) == {""}
    assert run("--stations") == before
    assert problems_of(tmp_path / "iot.db") == []


WRONG = [
    (["--nonsense"], "nonsense"), (["--port", "x"], "x"), (["--port", "65536"], "65536"),
    (["--port", "-1"], ""), (["--rate-limit", "x"], "x"), (["--rate-limit", "-1"], ""),
    (["--units", "K"], "K"), (["--comfort", "72"], "72F"),
    (["--comfort", "22K"], "22K"),
    (["--add-station", "a"], "--mac"), (["--add-station", "a", "--mac", "a b"], "mac"),
    (["--add-station", "a", "--mac", "x" * 33], "mac"),
    (["--add-station", "a", "--mac", ""], "mac"),
    (["--add-station", "", "--mac", "m"], "name"), (["--add-station", "7", "--mac", "m"], "name"),
    (["--add-station", "a\nb", "--mac", "m"], "name"),
    (["--edit-station", "a", "--name", "7"], "--name: "),
    (["--add-station", "a", "--mac", "m", "--role", "attic"], "role"),
    (["--add-station", "a", "--mac", "m", "--key", "a/b"], "key"), (["--prune", "90"], "90"),
    (["--prune", "-1d"], ""), (["--label", "inside", "0", "x"], "FIELD"), (["--label", "a"], ""),
    (["--label", "inside", "1", "x" * 65], ""), (["--stations", "--check"], "not allowed"),
    (["extra"], "extra"),
    (["--mac", "m"], "--mac"), (["--check", "--dry-run"], "--dry-run"),
    (["--station", "x", "--export", "-"], "--station"), (["--key", "K"], "--key"),
    (["--role", "inside"], "--role")]


@pytest.mark.parametrize(("words", "word"), WRONG)
def test_wrong_usage_ends_with_2_and_says_why(tmp_path, monkeypatch, capsys, words, word):
    monkeypatch.chdir(tmp_path)
    try:
        status = iotserver.main(words)
    except SystemExit as ended:                 # of argparse
        status = ended.code
    said = capsys.readouterr()
    assert (status, said.out) == (2, "")
    assert said.err
    assert word in said.err
    assert list(tmp_path.iterdir()) == []


def test_wrong_usage_is_the_exit_status(run):
    assert run("--port", "65536", status=2, stderr="65536") == ""


def test_database_that_is_not_there_is_not_made_by_asking(run, tmp_path):
    questions = [["--stations"], ["--check"], ["--prune", "1d"], ["--export", "-"],
                 ["--backup", "copy.db"], ["--new-key", "inside"], ["--remove-station", "a"],
                 ["--label", "inside", "1", "x"], ["--import", "missing.csv"]]
    with ThreadPoolExecutor(2) as pool:
        said = list(pool.map(lambda flags: run(*flags, status=1, stderr="iotserver: "), questions))
    assert set(said) == {""}
    assert list(tmp_path.iterdir()) == []


def test_stations_is_a_table(live, run):
    live.update(INSIDE, 1)
    live.update(INSIDE, 2, 2)
    assert run("--edit-station", "inside", "--offset", "-0.25") == (
        f"inside: role inside, MAC {INSIDE.mac}, offset -0.25 °C\n")
    header, inside, outside = run("--stations").splitlines()
    assert re.split("  +", header) == ["id", "name", "role", "MAC", "last heard", "entries",
                                       "offset", "field 1"]
    now = time.strftime("%Y-%m-%d", time.gmtime())
    assert re.split("  +", inside)[:4] == ["1", "inside", "inside", INSIDE.mac]
    assert re.split("  +", inside)[4][:10] <= now
    assert re.split("  +", inside)[5:] == ["2", "-0.25", "0.75"]
    assert re.split("  +", outside)[3:] == [OUTSIDE.mac, "never", "0", "0", "-"]


def test_the_table_takes_no_broken_thermometer_for_heard(database, run):
    with contextlib.closing(iotserver.Writer(database)) as writer:
        for ms, value in ((NOON, 20), (NOON + DAY, -127)):
            writer.add_entry(writer.find("outside"), ms, {1: value}, ms)
            writer.commit()
    outside = run("--stations").splitlines()[2]
    assert re.split("  +", outside)[4:] == ["2018-07-30T12:00:00.000Z", "2", "0", "-127"]


def on_a_terminal(path, *flags, typed=""):
    """What a command says to a person who types an answer, and its status."""
    ours, theirs = os.openpty()
    with subprocess.Popen([sys.executable, SCRIPT, "--db", path, *flags], stdin=theirs,
                          stdout=theirs, stderr=theirs, env=environment()) as process:
        os.close(theirs)
        os.write(ours, typed.encode())
        said = b""
        with contextlib.suppress(OSError):      # EIO: it has ended
            while piece := os.read(ours, 65536):
                said += piece
    os.close(ours)
    return said.decode(), process.returncode


def test_on_a_terminal_the_table_says_how_long_ago(live, database):
    live.update(INSIDE, 21.5)
    said, status = on_a_terminal(database, "--stations")
    heard, *rest = re.split("  +", said.splitlines()[1])[4:]
    assert re.fullmatch(r"\d+ s ago", heard)
    assert (status, rest) == (0, ["1", "0", "21.5"])


def test_new_key_beside_the_old_one(maybe_live, run, serve):
    key = re.search(r": (\S+)\n", run("--new-key", "inside"))[1]
    live, new = maybe_live or serve(), SimpleNamespace(mac=INSIDE.mac, key=key)
    assert live.update(INSIDE, 1) == 1
    assert live.update(new, 2) == 2
    assert live.get(update_path(INSIDE, 3)).status == 403
    assert live.update(OUTSIDE, 1) == 1


def test_remove_station_with_all_its_readings(maybe_live, run, tmp_path):
    make_csv(tmp_path / "in.csv", 6_000)
    run("--import", "in.csv")
    assert "6000" in run("--remove-station", "inside")
    assert "inside" not in run("--stations")
    assert rows_of(tmp_path / "iot.db") == []
    assert problems_of(tmp_path / "iot.db") == []
    if maybe_live:
        assert maybe_live.get(update_path(INSIDE, 1)).status == 403
        assert maybe_live.update(OUTSIDE, 1) == 1


@pytest.mark.parametrize(("flags", "typed", "status"), [
    ((), "y\n", 0), ((), "Yes\n", 0), (("--yes",), "", 0),
    ((), "\n", 1), ((), "n\n", 1), ((), "\x04", 1), (("--dry-run",), "", 0)])
def test_on_a_terminal_it_asks_before_it_removes(database, run, tmp_path, flags, typed, status):
    make_csv(tmp_path / "in.csv", 60)
    run("--import", "in.csv")
    said, ended = on_a_terminal(database, "--remove-station", "1", *flags, typed=typed)
    assert ended == status
    assert ("remove inside and its 60 readings? [y/N] " in said) == (not flags)
    is_gone = status == 0 and "--dry-run" not in flags
    assert ("removed inside; readings: 60; " in said) == is_gone
    assert ("nothing was" in said) == (not is_gone)
    assert len(rows_of(database)) == (0 if is_gone else 60)


def test_a_rehearsal_of_a_removal_changes_nothing(maybe_live, run, tmp_path):
    make_csv(tmp_path / "in.csv", 60)
    run("--import", "in.csv")
    before = run("--export", "-")
    assert run("--remove-station", "inside", "--dry-run") == (
        "inside would be removed; readings: 60; nothing was\n")
    assert run("--export", "-") == before
    run("--stations", "--yes", status=2, stderr="--yes needs --remove-station")


@pytest.mark.slow
@pytest.mark.parametrize("with_database", [True, False])
def test_an_import_for_a_station_that_is_not_there_says_what_to_type_first(
        tmp_path, with_database):
    def shell(command):
        return subprocess.run(["sh", "-c", command], cwd=tmp_path, env=environment(), text=True,
                              capture_output=True, check=False)
    python = f"{sys.executable} {SCRIPT}"
    if with_database:
        shell(f"{python} --add-station other --mac aa")
    (tmp_path / "feed.csv").write_text("created_at,entry_id,field1\n2018-07-30 12:00:00 UTC,1,2\n")
    done = shell(f"{python} --import feed.csv --station 'our attic'")
    assert (done.returncode, done.stdout) == (1, "")
    flags = re.search("To register it: (.*?), which", done.stderr)[1]
    assert shell(f"{python} {flags}").returncode == 0
    assert "imported 1 readings" in shell(f"{python} --import feed.csv --station 'our attic'"
                                          ).stdout


def test_label(live, run):
    assert run("--label", "inside", "2", "") == "field 2 of inside has no label now\n"
    assert run("--label", "inside", "2", "Humidity %") == (
        "field 2 of inside is now called 'Humidity %'\n")
    live.update(INSIDE, 44, 2)
    field, = live.get("/api/stations").json[0]["fields"]
    assert (field["label"], field["value"]) == ("Humidity %", 44)


# -- prune ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_prune_deletes_old_readings_and_keeps_the_summaries(maybe_live, run, serve, tmp_path):
    make_csv(tmp_path / "in.csv", 12_000)
    run("--import", "in.csv")
    live = maybe_live or serve()
    live.update(INSIDE, 5)
    dry = run("--prune", "90d", "--dry-run")
    assert "12000" in dry
    assert len(live.rows()) == 12_001
    deleted, freed = re.search(r"(\d+) readings .*?(\d+) bytes", run("--prune", "90d")).groups()
    assert (int(deleted), int(freed) > 100_000) == (12_000, True)
    assert [row[3] for row in live.rows()] == ["5"]
    history = live.get("/api/readings?station=inside&end=2020-01-01T04:00:00Z").json["points"]
    assert len(history) == 4
    assert problems_of(tmp_path / "iot.db") == []
    assert run("--prune", "90d").startswith("deleted 0 readings")


@pytest.mark.quiet
@pytest.mark.untraced
@pytest.mark.slow
def test_updates_go_on_while_a_long_prune_works(live, run, tmp_path):
    make_csv(tmp_path / "in.csv", 30_000)
    run("--import", "in.csv")
    with start(tmp_path, "--prune", "1d") as prune:
        slowest, count = 0, 0
        while prune.poll() is None:
            begun = time.monotonic()
            live.update(OUTSIDE, 1)
            slowest, count = max(slowest, time.monotonic() - begun), count + 1
        assert prune.returncode == 0
    assert count > 3
    assert slowest < 0.5
    assert len(live.rows()) == count


# -- export, import, backup -----------------------------------------------------------------------


@pytest.mark.slow
def test_export_and_import_round_trip(maybe_live, run, tmp_path):
    text = make_csv(tmp_path / "in.csv", 11_000)
    assert "11000" in run("--import", "in.csv")
    assert run("--export", "-") == text
    assert run("--export", "out.csv") == ""
    assert (tmp_path / "out.csv").read_text() == text
    assert "imported 0 readings" in run("--import", "out.csv")
    assert "11000" in run("--import", "-", "--db", "other.db", stdin=text)
    assert run("--export", "-", "--db", "other.db") == text


@pytest.fixture
def older(tmp_path):
    """The database of the system that this one replaces: times with and without an offset, Ids
    that count over all stations, a MAC cut short, integers and whole numbers."""
    readings = [("2018-07-30T22:16:34.541168", "dc:4f:22:1c:20:e2", 1, 21.1),
                ("2018-07-30T22:17:36.407818", "dc:4f:22:1c:20:e2", 1, 21.1),
                ("2018-07-31T08:33:37.854048", "23:34:17:64", 1, 1235.0),
                *[(f"2018-07-31T20:34:{second}.940503+00:00", INSIDE.mac, 1 + second % 2,
                   second - 5.0) for second in range(10, 31)],
                ("2018-07-31T22:38:36.848550+02:00", INSIDE.mac, 2, 6)]
    with contextlib.closing(sqlite3.connect(tmp_path / "older.db")) as db:
        db.execute("CREATE TABLE data (Id INTEGER PRIMARY KEY AUTOINCREMENT, API_key text,"
                   " date_time text, mac text, field integer, data real)")
        db.executemany("INSERT INTO data (API_key, date_time, mac, field, data)"
                       " VALUES ('OLD', ?, ?, ?, ?)", readings)
        db.commit()
    return tmp_path / "older.db"


def test_import_of_the_older_table(maybe_live, run, tmp_path, older):
    before = older.read_bytes()
    assert "25" in run("--import", older)
    assert older.read_bytes() == before
    lines = rows(run("--export", "-"))[1:]
    assert len(lines) == 25
    assert ["2018-07-30T22:16:34.541Z", "dc:4f:22:1c:20:e2", "dc:4f:22:1c:20:e2", "1", "21.1",
            "1"] in lines
    assert ["2018-07-31T20:38:36.848Z", "inside", INSIDE.mac, "2", "6.0", "25"] in lines
    assert "23:34:17:64" in run("--stations")
    assert "imported 0 readings" in run("--import", older)
    assert len(rows_of(tmp_path / "iot.db")) == 25
    assert problems_of(tmp_path / "iot.db") == []


def test_rows_of_the_older_table_that_are_no_readings_are_left_out(maybe_live, run, tmp_path):
    """And Ids that are no number of an entry make none of ours impossible."""
    times = [f"2018-07-30T12:00:0{second}.000Z" for second in range(8)]
    with contextlib.closing(sqlite3.connect(tmp_path / "older.db")) as db:
        db.execute("CREATE TABLE data (Id, API_key, date_time, mac, field, data)")
        db.executemany("INSERT INTO data VALUES (?, 'OLD', ?, ?, ?, ?)", [
            (1, times[0], INSIDE.mac, 1, None), (2, times[1], INSIDE.mac, 1, b"12"),
            (3, None, INSIDE.mac, 1, 20.0), (4, times[2], None, 1, 20.0),
            (5, times[3], INSIDE.mac, 1, 20.5), ("x7", times[4], INSIDE.mac, 1, 21.0),
            (2 ** 63 - 1, times[5], INSIDE.mac, 1, 21.5), (-3, times[6], INSIDE.mac, 1, 22.0),
            (10 ** 15, times[7], INSIDE.mac, "1", "22.5")])
        db.commit()
    words = "iotserver: left out: 4 rows without a reading: NULL, or a blob\n"
    assert "imported 5 readings" in run("--import", "older.db", stderr=words)
    assert "imported 0 readings; 5 were" in run("--import", "older.db", stderr=words)
    stored = {row[4]: row[5] for row in rows_of(tmp_path / "iot.db")}
    assert (stored[20.5], stored[22.5]) == (5, 10 ** 15)
    assert stored.keys() == {20.5, 21.0, 21.5, 22.0, 22.5}
    assert all(0 < entry <= 10 ** 15 + 4 for entry in stored.values())
    if maybe_live:
        assert maybe_live.update(INSIDE, "23") == max(stored.values()) + 1
    assert problems_of(tmp_path / "iot.db") == []


def test_what_export_writes_import_takes_back(database, run):
    """Whatever numbers its entries have, also of a file that took 2^53 - 1 from another."""
    text = HEADER + "".join(f"\n2018-07-30T12:00:0{i}.000Z,inside,{INSIDE.mac},1,2{i},{entry}"
                            for i, entry in enumerate([10 ** 15, 2 ** 53 - 1, 2 ** 53])) + "\n"
    assert "imported 3 readings" in run("--import", "-", stdin=text)
    assert "imported 0 readings; 3 were" in run("--import", "-", stdin=text)
    with contextlib.closing(sqlite3.connect(database)) as db, db:
        db.execute("UPDATE reading SET entry = ?1 + time % 10000 / 1000", (2 ** 53 - 1,))
    exported = run("--export", "-")
    assert f",{2 ** 53 + 1}\n" in exported
    assert "imported 3 readings" in run("--import", "-", "--db", "other.db", stdin=exported)
    assert "imported 0 readings; 3 were" in run("--import", "-", stdin=exported)
    assert [row[:5] for row in rows_of(database.with_name("other.db"))] == [
        row[:5] for row in rows_of(database)]


def test_a_text_of_any_characters_comes_back(live, run):
    """Ends of lines, too: python 3.11 writes a lone \\r without quotes, and reads a new line."""
    texts = ["a\rb", "\r\n,\"'\"", "a\nb", "x\x85\x1c\u2028y", "\ufeff=1+1;", "\\", "#\t|"]
    texts = [f"<{text}>" for text in texts]
    for number, text in enumerate(texts, 1):
        assert live.get(f"/update?api_key={INSIDE.key}&field2={quote(text)}").text == f"{number}"
    assert run("--export", "copy.csv") == ""
    assert "imported 7 readings" in run("--import", "copy.csv", "--db", "other.db")
    exported = csv.reader(io.StringIO(live.get("/export.csv").text, newline=""))
    assert [row[3] for row in exported][1:] == texts
    feed = csv.reader(io.StringIO(live.get("/channels/1/feeds.csv").text, newline=""))
    assert [row[2] for row in feed][1:] == texts
    assert [row[4] for row in rows_of(live.db.with_name("other.db"))] == texts


def test_half_a_character_in_feeds_json_is_a_question_mark(database, run):
    feeds = {"feeds": [{"created_at": "2018-07-30T12:00:00Z", "entry_id": 1, "field1": "\ud800x"}]}
    assert "imported 1 readings" in run("--import", "-", "--station", "inside",
                                        stdin=json.dumps(feeds))
    assert [row[4] for row in rows_of(database)] == ["?x"]


THINGSPEAK = """created_at,entry_id,field1,field2,latitude,longitude,elevation,status
2018-07-30 12:00:00 UTC,1,22.5,55,,,,
2018-07-30T12:00:30+02:00,2,,56,,,,hello
2018-07-30 08:01:00 -0400,3,nan,,,,,
"""


def test_the_field_names_of_a_channel_become_labels_where_none_is_set(maybe_live, run, tmp_path):
    """Only of fields that have readings; and a name that no label may be is none."""
    run("--label", "inside", "2", "Humidity %")
    feed = {"created_at": "2018-07-30T12:00:00Z", "entry_id": 1,
            "field1": "2", "field2": "50", "field3": "3", "field4": "4", "field5": "5"}
    names = {"id": 12, "name": "cellar", "field1": " Battery V ", "field2": "rh", "field3": None,
             "field4": "a\nb", "field5": "x" * 65, "field6": "Spare"}
    for channel in (names, names | {"field1": "another"}):
        run("--import", "-", "--station", "inside",
            stdin=json.dumps({"channel": channel, "feeds": [feed]}))
        with contextlib.closing(iotserver.Reader(tmp_path / "iot.db")) as reader:
            assert [(series.field, series.label) for series in reader.latest([1])] == [
                (1, "Battery V"), (2, "Humidity %"), (3, None), (4, None), (5, None)]
    assert problems_of(tmp_path / "iot.db") == []
    for channel in (None, "x", []):
        run("--import", "-", "--station", "inside", status=int(channel == "x"),
            stderr="feeds.json" * (channel == "x"),
            stdin=json.dumps({"channel": channel, "feeds": [feed]}))


def test_import_of_a_thingspeak_csv(database, run, tmp_path):
    (tmp_path / "feeds.csv").write_text("\ufeff" + THINGSPEAK)
    run("--import", "feeds.csv", status=2, stderr="--station")
    for count in (4, 0):
        assert f"imported {count} readings" in run("--import", "feeds.csv", "--station", "outside")
    stored = rows(run("--export", "-"))[1:]
    assert [f"{line[0][11:19]},{','.join(line[3:])}" for line in stored] == [
        "10:00:30,2,56,2", "12:00:00,1,22.5,1", "12:00:00,2,55,1", "12:01:00,1,nan,3"]


LINE = HEADER + "\n2018-07-30T12:00:00.000Z,inside,"
NO_IMPORT = [
    "", "a,b\n1,2\n", HEADER + "\n1,2,3\n", HEADER + "\nnoon,inside,m,1,5,1\n",
    LINE + "m,10,5,1\n", LINE + "a b,1,5,1\n", LINE + "m,1,5,x\n", LINE + "m,1,5,1,6\n",
    HEADER + "\n1918-07-30T12:00:00.000Z,inside,m,1,5,1\n", "time,station,mac\udcff\n",
    "PK\x03\x04" + "\0" * 50, '"' * 200_000, "a" * 200_000]


def test_an_odd_cell_costs_only_itself(database, run, tmp_path):
    """Whatever file it is in, it is counted, and the first row is named."""
    odd = "x" * 300
    said = f"are no readings; the first is in {{}}: {odd[:40]!r}\n"
    words = "iotserver: left out: 2 of the cells, which " + said
    text = HEADER + "".join(f"\n2018-07-30T12:0{i}:00.000Z,inside,{INSIDE.mac},1,{value},"
                            for i, value in enumerate(["20", odd, "", "21", "N/A"]))
    assert "imported 3 readings" in run("--import", "-", stdin=text, stderr=words.format("line 3"))
    csv = THINGSPEAK.replace("22.5", odd).replace("56", odd)
    assert "imported 2 readings" in run("--import", "-", "--station", "outside", stdin=csv,
                                        stderr=words.format("line 2"))
    feeds = {"feeds": [{"created_at": f"2019-07-30T12:00:0{i}Z", "entry_id": 7 + i,
                        "field1": value} for i, value in enumerate(["1", odd, odd, "2"])]}
    assert "imported 2 readings" in run("--import", "-", "--station", "inside",
                                        stdin=json.dumps(feeds), stderr=words.format("entry 8"))
    with contextlib.closing(sqlite3.connect(tmp_path / "older.db")) as db:
        db.execute("CREATE TABLE data (Id, API_key, date_time, mac, field, data)")
        db.executemany("INSERT INTO data VALUES (?, '', ?, ?, 1, ?)", [
            (i, f"2020-07-30T12:00:0{i}Z", INSIDE.mac, value)
            for i, value in enumerate([odd, 20, odd])])
        db.commit()
    assert "imported 1 readings" in run("--import", "older.db", stderr=words.format("Id 0"))


def test_import_of_anything_else_says_which_line(database, run, tmp_path):
    def refuse(number):
        path = tmp_path / f"in{number}.csv"
        path.write_bytes(NO_IMPORT[number].encode("utf-8", "surrogateescape"))
        return run("--import", path, status=1, stderr=path.name)
    with ThreadPoolExecutor(2) as pool:
        assert set(pool.map(refuse, range(len(NO_IMPORT)))) == {""}
    assert rows_of(database) == []


def test_what_cannot_be_imported_is_answered_with_rows_that_can(database, run, tmp_path):
    (tmp_path / "cellar.csv").write_text("Date,Temp\n2026-01-01,5\n")
    shown = re.compile(r"this:\n(time,.*\n2026-.*\n)$")
    done = subprocess.run([sys.executable, SCRIPT, "--import", "cellar.csv"], cwd=tmp_path,
                          capture_output=True, text=True, check=False)
    assert done.returncode == 1
    rows = shown.search(done.stderr)[1]
    assert "1 readings" in run("--import", "-", stdin=rows)


def test_texts_survive_export_and_import(database, run):
    text = HEADER + f'\n2018-07-30T12:00:00.000Z,inside,{INSIDE.mac},1,"on, ""x""",1\n'
    run("--import", "-", stdin=text)
    assert run("--export", "-") == text
    assert problems_of(database) == []


def test_backup_is_a_database_to_start_from(maybe_live, run, tmp_path):
    text = make_csv(tmp_path / "in.csv", 11_000)
    run("--import", "in.csv")
    (tmp_path / "copy.db").write_text("an older backup")
    assert "11000 readings" in run("--backup", "copy.db")
    assert (tmp_path / "copy.db").stat().st_mode & 0o777 == 0o600
    assert run("--export", "-", "--db", "copy.db") == text
    assert not list(tmp_path.glob("*.partial*"))
    other = tmp_path / "other"
    other.mkdir()
    shutil.move(tmp_path / "copy.db", other / "iot.db")
    restored = Live(other)
    try:
        assert restored.update(INSIDE, 7) == 11_001
    finally:
        restored.check_end()
    assert run("--check", "--db", other / "iot.db") == "ok\n"


def test_check_tells_damage(database, run):
    with database.open("r+b") as file:
        file.seek(4096 * 2)
        file.write(b"\xff" * 4096)
    run("--check", status=1, stderr="damaged")
    before = database.read_bytes()
    run("--check", status=1)
    assert database.read_bytes() == before
    (database.with_name("mine.db")).write_bytes(b"mine")
    run("--backup", "mine.db", status=1)
    assert database.with_name("mine.db").read_bytes() == b"mine", "a bad copy replaces nothing"


def test_a_copy_that_is_damaged_is_not_kept(database, run, tmp_path):
    """Damage that can be copied: a row without its station."""
    run("--backup", "copy.db")
    before = (tmp_path / "copy.db").read_bytes()
    with contextlib.closing(sqlite3.connect(database)) as db:
        db.execute("INSERT INTO series (station, field) VALUES (99, 1)")
        db.commit()
    run("--check", status=1, stderr="row without its station")
    run("--backup", "copy.db", status=1, stderr="the copy was not kept, because it is damaged")
    assert (tmp_path / "copy.db").read_bytes() == before
    assert not list(tmp_path.glob("*.partial*"))


def test_backup_tells_of_wrong_summaries_and_is_kept(database, run, tmp_path, older, capsys):
    run("--import", older)
    with contextlib.closing(sqlite3.connect(database)) as db:
        db.execute("UPDATE hour SET total = total + 1")
        db.commit()
    run("--check", status=1, stderr="summary is not that of its readings")
    assert iotserver.main(["--db", str(database), "--backup", str(tmp_path / "copy.db")]) == 0
    assert "warning" in capsys.readouterr().err
    assert rows_of(tmp_path / "copy.db") == rows_of(database)


def start(folder, *flags, **options):
    return subprocess.Popen([sys.executable, SCRIPT, *flags], cwd=folder, env=environment(),
                            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, **options)


def written(folder):
    """Changes whenever a command has written something."""
    files = [folder / "iot.db-wal", *folder.glob("*.partial")]
    return [(f.stat().st_size, f.stat().st_mtime_ns) for f in files if f.exists()]


@pytest.mark.untraced
@pytest.mark.slow
@pytest.mark.parametrize("work", [["--import", "in.csv"], ["--prune", "1d"],
                                  ["--backup", "copy.db"], ["--remove-station", "inside"]])
def test_killed_half_way_leaves_the_database_whole(maybe_live, run, tmp_path, work):
    make_csv(tmp_path / "in.csv", 15_000)
    if work[0] != "--import":
        run("--import", "in.csv")
    before = written(tmp_path)
    with start(tmp_path, *work) as process:
        wait_for(lambda: written(tmp_path) != before or process.poll() is not None)
        process.kill()
    assert problems_of(tmp_path / "iot.db") == []
    run(*work, status=None)
    assert problems_of(tmp_path / "iot.db") == []
    assert not list(tmp_path.glob("*.partial*"))
    left = 15_000 if work[0] in {"--import", "--backup"} else 0
    assert len(rows_of(tmp_path / "iot.db")) == left


@pytest.mark.slow
def test_server_that_ends_meanwhile_is_told(live, run, tmp_path):
    make_csv(tmp_path / "in.csv", 20_000)
    with start(tmp_path, "--import", "in.csv", stderr=subprocess.PIPE) as process:
        wait_for(lambda: live.get("/api/readings?station=inside").json["points"])
        assert live.stop() == 0
        said = process.stderr.read().decode()
        assert process.wait(30) in {0, 1}
    assert "Traceback" not in said
    run("--import", "in.csv")
    assert len(rows_of(live.db)) == 20_000
    assert problems_of(tmp_path / "iot.db") == []


def test_closed_pipe_is_no_error_to_talk_about(database, run, tmp_path):
    make_csv(tmp_path / "in.csv", 20_000)
    run("--import", "in.csv")
    with subprocess.Popen([sys.executable, SCRIPT, "--export", "-"], cwd=tmp_path,
                          env=environment(), stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE) as process:
        assert process.stdout.readline().decode() == HEADER + "\n"
        process.stdout.close()
        assert process.stderr.read() == b""


# -- progress -------------------------------------------------------------------------------------


def run_on_a_terminal(folder, *flags):
    """What a command shows on a terminal as its stderr; it has to end with 0."""
    master, slave = pty.openpty()
    with start(folder, *flags, stderr=slave) as process:
        os.close(slave)
        shown = b""
        while select.select([master], [], [], 30)[0]:
            try:
                shown += os.read(master, 10_000)
            except OSError:             # all have closed it
                break
        os.close(master)
        assert process.wait(30) == 0
    return shown.decode()


@pytest.mark.slow
def test_progress_bar_on_a_terminal_only(database, run, tmp_path):
    make_csv(tmp_path / "in.csv", 15_000)
    for flags in (["--import", "in.csv"], ["--export", "out.csv"], ["--backup", "copy.db"],
                  ["--prune", "1d"]):
        shown = run_on_a_terminal(tmp_path, *flags)
        if flags[0] in {"--import", "--export", "--prune"}:
            percents = [int(p) for p in re.findall(r"(\d+)%", shown)]
            assert percents, (flags, shown)
            assert percents == sorted(percents)
            assert percents[-1] <= 100
        assert not shown or shown.endswith("\r\x1b[K"), "the bar is wiped away"


# -- settings, demonstration ----------------------------------------------------------------------


def test_version_and_help(run):
    assert re.fullmatch(r"iotserver \d+\.\d+\S*\n", run("--version"))
    text = run("--help")
    for flag in ("--host", "--port", "--db", "--rate-limit", "--units", "--comfort", "--demo"):
        assert flag in text


def test_an_older_python_is_told_in_one_line_which_one_is_needed():
    """From 3.8 on it can parse the file, and is told before it misses a name."""
    ast.parse(SCRIPT.read_text(encoding="utf-8"), feature_version=(3, 8))
    older = ("import datetime, runpy, sys; del datetime.UTC, sys.modules['datetime']\n"
             "sys.version_info = (3, 8, 18); runpy.run_path(sys.argv[1], run_name='__main__')")
    done = subprocess.run([sys.executable, "-c", older, SCRIPT, "--version"], text=True,
                          capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "iotserver needs Python 3.11 or newer; this is Python 3.8\n"


def test_settings_come_from_the_environment_too(database, serve, run, tmp_path):
    live = serve(env={"IOTSERVER_RATE_LIMIT": "2", "IOTSERVER_PORT": "1", "IOTSERVER_UNITS": "F"})
    assert [live.get(update_path(INSIDE, 1)).status for _ in range(3)] == [200, 200, 429]
    assert live.port > 1, "a flag wins"
    other = tmp_path / "other.db"
    run("--add-station", "a", "--mac", "m", env={"IOTSERVER_DB": str(other)})
    assert other.exists()
    (tmp_path / "state").mkdir()
    run("--add-station", "a", "--mac", "m", env={"STATE_DIRECTORY": str(tmp_path / "state")})
    assert (tmp_path / "state" / "iot.db").exists()


@pytest.mark.parametrize("name", ["PORT", "RATE_LIMIT", "UNITS", "COMFORT"])
def test_wrong_setting_in_the_environment_is_named(run, name):
    run(status=2, stderr=name.lower().replace("_", "-"), env={f"IOTSERVER_{name}": "nonsense"})


@pytest.mark.slow
def test_demo_shows_a_house_at_once_and_leaves_nothing_behind(serve, tmp_path):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    live = serve("--demo", env={"TMPDIR": str(scratch)})
    assert processor_seconds(live) < 5
    stations = live.get("/api/stations").json
    assert [station["role"] for station in stations] == ["inside", "outside", "inside"]
    now = time.time() * 1000
    assert all(abs(station["fields"][0]["time"] - now) < 3_600_000 for station in stations)
    year = live.get("/api/readings?station=outside&points=400").json["points"]
    assert len(year) > 100
    assert now - year[0][0] > 364 * 86_400_000
    assert live.stop() == 0
    assert list(scratch.iterdir()) == []
    assert [p.name for p in tmp_path.glob("*.db*")] == []


@pytest.mark.untraced
@pytest.mark.slow
def test_interrupt_ends_a_command_quietly(database, run, tmp_path):
    make_csv(tmp_path / "in.csv", 20_000)
    with start(tmp_path, "--import", "in.csv", stderr=subprocess.PIPE) as process:
        wait_for((tmp_path / "iot.db-wal").exists)
        process.send_signal(signal.SIGINT)
        said = process.stderr.read().decode()
        assert process.wait(30) in {0, 130}
    assert "Traceback" not in said
    assert problems_of(tmp_path / "iot.db") == []


def test_keys_are_in_no_output_but_the_first(live, run):
    live.get(f"/update/API_key={INSIDE.key}/mac={INSIDE.mac}/field=x/data=1")
    live.get(f"/update/{INSIDE.key}")
    shown = run("--stations") + run("--check") + run("--export", "-") + live.line
    shown += json.dumps(live.get("/api/stations").json) + live.get("/").text
    assert not [key for key in SECRETS if key in shown]
