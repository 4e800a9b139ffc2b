"""Flags that write a FILE: nothing of ours, and nothing that is no regular file, is replaced."""
import contextlib
import csv
import io
import os
import shlex
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time

import pytest
from harness import HEADER, INSIDE, SCRIPT, environment, problems_of, rows_of, wait_for

import iotserver

WRITERS = ("--export", "--backup", "--set-password", "--review")
PASSWORD = "a good password\n"


@pytest.fixture
def filled(database, run):
    run("--import", "-", stdin=OWN)
    return database


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()
            if path.is_file() and path.suffix != ".lock"}


@pytest.mark.parametrize("flag", WRITERS)
@pytest.mark.parametrize("name", [
    "iot.db", "iot.db-wal", "iot.db-shm", "iot.db-journal", "iot.db.lock", "iot.db.sock",
    "iot.db.courier",
    "other.db", "other.db-wal", "other.db.lock", "hard.db", "soft.db", "sub/../iot.db",
    "loose.log"])
def test_nothing_of_a_database_is_replaced(filled, run, tmp_path, flag, name):
    (tmp_path / "sub").mkdir()
    shutil.copy(filled, tmp_path / "other.db")
    os.link(filled, tmp_path / "hard.db")
    os.symlink("iot.db", tmp_path / "soft.db")
    (tmp_path / "loose.log").write_bytes(b"\x37\x7f\x06\x82" + bytes(100))
    (tmp_path / "other.db.lock").touch()        # as a server that was killed leaves it
    before = content(tmp_path)
    run(flag, name, status=1, stderr=name.rpartition("/")[2], stdin=PASSWORD)
    assert content(tmp_path) == before
    assert len(rows_of(filled)) == 1


@pytest.mark.parametrize("flag", WRITERS)
def test_nothing_of_a_served_database_is_replaced(live, run, tmp_path, flag):
    live.update(INSIDE, 21)
    for end in ("", "-wal", "-shm", ".lock", ".sock"):
        run(flag, f"iot.db{end}", status=1, stderr=f"iot.db{end}", stdin=PASSWORD)
    assert live.update(INSIDE, 22) == 2
    assert live.stop() == 0
    assert len(rows_of(live.db)) == 2


def test_a_database_not_yet_there_is_not_replaced_by_a_password(run, tmp_path):
    run("--set-password", "iot.db", status=1, stderr="iot.db", stdin=PASSWORD)
    assert not (tmp_path / "iot.db").exists()


@pytest.mark.parametrize("flag", WRITERS)
@pytest.mark.parametrize("owner", ["iot.partial", "other.db"])
def test_no_database_is_taken_for_what_a_killed_command_left(database, run, tmp_path, flag, owner):
    """FILE is FILE.partial until it is whole; a database may have that name."""
    shutil.copy(database, tmp_path / "other.db")
    database.rename(tmp_path / "iot.partial")
    before = content(tmp_path)
    run(flag, "iot", "--db", owner, status=1, stderr="iot.partial", stdin=PASSWORD)
    assert content(tmp_path) == before


def test_a_backup_takes_the_place_of_an_older_one_only(filled, run, tmp_path):
    for _ in range(2):
        run("--backup", "copy.db")
    run("--export", "copy.db", status=1, stderr="copy.db")
    assert problems_of(tmp_path / "copy.db") == []
    run("--export", "out.csv")
    run("--export", "out.csv")
    assert {path.name for path in tmp_path.iterdir()} - {"iot.db-shm", "iot.db-wal"} == {
        "copy.db", "iot.db", "iot.db.lock", "out.csv"}


def test_a_pipe_is_written_to(filled, run, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    heard = []
    reader = threading.Thread(daemon=True,     # the test may fail, and must end then, too
                              target=lambda: heard.append((tmp_path / "pipe").read_text()))
    reader.start()
    run("--export", "pipe")
    reader.join(10)
    assert heard == [run("--export", "-")]
    assert (tmp_path / "pipe").is_fifo()
    run("--backup", "pipe", status=1, stderr="pipe")
    assert run("--export", "/dev/stdout") == heard[0]
    assert run("--export", "/dev/null") == ""


def test_a_link_and_a_folder_are_refused(filled, run, tmp_path):
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "folder").mkdir()
    os.symlink("precious", tmp_path / "link")
    for flag in WRITERS:
        for name in ("link", "folder"):
            run(flag, name, status=1, stderr=name, stdin=PASSWORD)
    assert (tmp_path / "precious").read_text() == "mine"
    assert (tmp_path / "link").is_symlink()


def test_of_two_backups_to_one_file_one_waits_or_is_told(filled, run, tmp_path):
    lock = iotserver.acquire_lock(tmp_path / "copy.db.partial")
    run("--backup", "copy.db", status=1, stderr="another command is writing")
    lock.close()
    run("--backup", "copy.db")
    assert rows_of(tmp_path / "copy.db") == rows_of(filled)


def test_a_full_stick_is_named(filled, run, tmp_path, monkeypatch):
    def fails(*_):
        raise sqlite3.OperationalError("database or disk is full")
    monkeypatch.setattr(iotserver.Reader, "copy", fails)
    with pytest.raises(iotserver.StoreError, match=r"to .*copy\.db: database or disk is full"):
        iotserver.backup(None, filled, str(tmp_path / "copy.db"))
    assert not list(tmp_path.glob("copy.db*"))


def test_macos_is_asked_to_sync_past_the_disk_s_cache(filled):
    with iotserver.contextlib.closing(iotserver.Writer(filled)) as writer:
        for pragma in ("fullfsync", "checkpoint_fullfsync"):
            assert writer.db.execute(f"PRAGMA {pragma}").fetchone() == (1,)


# -- what comes in --------------------------------------------------------------------------------

OWN = HEADER + f"\n2018-07-30T12:00:00.000Z,inside,{INSIDE.mac},1,21.5,1\n"
FEEDS = '{"feeds":[{"created_at":"2018-07-30T12:00:00Z","entry_id":1,"field1":"21.5"}]}'
CELLS = "created_at,entry_id,field1\r\n2018-07-30 12:00:00 UTC,1, 21.50\r\n"


@pytest.mark.parametrize("text", [
    OWN, FEEDS, CELLS, OWN + "\n", OWN + "\r\n\r\n", CELLS + "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("name", ["-", "/dev/stdin", "file"])
def test_import_takes_every_kind_from_everywhere(database, run, tmp_path, text, mark, name):
    (tmp_path / "file").write_text(mark + text, newline="")
    run("--import", name, "--station", "inside", stdin=mark + text)
    assert [row[4] for row in rows_of(database)] == [21.5]


def test_import_of_an_older_table_from_a_pipe(database, tmp_path):
    with sqlite3.connect(tmp_path / "older.db") as db:
        db.executescript(f"""CREATE TABLE data (Id INTEGER PRIMARY KEY, API_key TEXT,
            date_time TEXT, mac TEXT, field TEXT, data TEXT); INSERT INTO data VALUES
            (7, 'k', '2018-07-30T12:00:00', '{INSIDE.mac}', '1', '21.5')""")
    db.close()
    subprocess.run([sys.executable, SCRIPT, "--db", database, "--import", "-"], check=True,
                   input=(tmp_path / "older.db").read_bytes(), timeout=60, env=environment())
    assert [row[4:] for row in rows_of(database)] == [(21.5, 7)]


def test_the_order_of_an_import_does_not_matter(database, run):
    """Nor that other instants stand between two equal rows, or between the fields of an entry."""
    rows = [f"2018-07-30T0{hour}:00:00.000Z,inside,{INSIDE.mac},{field},21.5," for _ in "ab"
            for hour in (3, 1, 2) for field in (1, 2)]
    for text in ("\n".join([HEADER, *rows]), "\n".join([HEADER, *reversed(rows)])):
        run("--import", "-", stdin=text)
        assert [(ms // 3_600_000 % 24, field, entry) for ms, _, _, field, _, entry in
                rows_of(database)] == [(hour, field, entry) for hour, entries in
                                       ((1, (1, 2)), (2, (3, 4)), (3, (5, 6)))
                                       for entry in entries for field in (1, 2)]
    assert problems_of(database) == []


def test_a_station_whose_mac_is_the_name_of_another_gets_a_name_of_its_own(database, run):
    run("--add-station", "outside 2", "--mac", "other")
    run("--import", "-", stdin="\n".join([HEADER, *(
        f"2018-07-30T12:00:00.000Z,{name},{mac},1,21.5," for name, mac in (
            ("", "inside"), ("outside", "outside")))]))
    assert {row[1:3] for row in rows_of(database)} == {
        ("inside 2", "inside"), ("outside 3", "outside")}


BAD_NAMES = ["a\nb", "7", "x" * 65, "\x1b[2J", "\u202ecba", "\u200d", " ", "7\u200c"]


@pytest.mark.parametrize("with_server", [False, True])
def test_a_name_that_add_station_would_refuse_is_not_taken(database, run, serve, with_server):
    """A line break would forge a line of /verdict.txt, and split one that goes to an engine."""
    if with_server:
        serve()
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(HEADER.split(","))
    writer.writerows([f"2018-07-30T12:0{i}:00.000Z", name, f"mac{i}", 1, 20 + i, i + 1]
                     for i, name in enumerate(BAD_NAMES))
    said = "".join(f"iotserver: {name[:64]!r} is not allowed as a name; mac{i} is called "
                   f"mac{i}\n" for name, i in sorted(zip(BAD_NAMES, range(8), strict=True)))
    assert "imported 8 readings" in run("--import", "-", stdin=text.getvalue(), stderr=said)
    assert {row[1:3] for row in rows_of(database)} == {(f"mac{i}", f"mac{i}") for i in range(8)}
    for name in BAD_NAMES:
        run("--add-station", name, "--mac", "aa", status=2, stderr="a name has")


def test_a_mac_that_is_a_number_is_no_name_either(database, run):
    run("--import", "-", stdin=f"{HEADER}\n2018-07-30T12:00:00.000Z,,12,1,21.5,\n")
    assert rows_of(database)[0][1:3] == ("12 2", "12")


def test_joiners_are_part_of_names(database, run):
    """Of Persian, and of emoji that are made of several."""
    names = ["می\u200cخواهم", "\N{MAN}\u200d\N{WOMAN}\u200d\N{GIRL}"]
    run("--add-station", names[0], "--mac", "aa")
    run("--import", "-", stdin=f"{HEADER}\n2018-07-30T12:00:00.000Z,{names[1]},bb,1,21.5,\n")
    run("--label", names[0], "1", names[1])
    with contextlib.closing(iotserver.Reader(database)) as reader:
        assert [station.name for station in reader.stations()][2:] == names


def test_texts_of_an_import_are_counted(database, run):
    cells = "created_at,entry_id,field1\n2018-07-30 12:00:00 UTC,1,on\n"
    assert "1 of them are texts" in run("--import", "-", "--station", "inside", stdin=cells)


def test_equal_rows_with_and_without_entry_numbers_are_the_same(database, run):
    bare = OWN.replace(",1\n", ",\n")
    for text in (bare, OWN.replace("5,1\n", "5,77\n"), OWN, bare):
        run("--import", "-", stdin=text)
    assert len(rows_of(database)) == 1


def test_a_summary_of_very_different_values_is_no_mistake(database, run):
    """Their sum depends on the order in which they came."""
    for hour, order in ((12, (0, 1, 2)), (13, (2, 1, 0))):
        for i in order:
            run("--import", "-", stdin=f"{HEADER}\n2018-07-30T{hour}:00:0{i}.000Z,inside,"
                f"{INSIDE.mac},1,{('21.5', '3.4e38', '-3.4e38')[i]},\n")
    assert run("--check") == "ok\n"
    run("--backup", "copy.db")


# -- what cannot be written -----------------------------------------------------------------------

OUTPUTS = {"closed": (">&-", "not writable"), "full": ("> /dev/full", "No space left on device")}


def call(folder, output, *flags, **env):
    """Call the command line by a shell, with its standard output sent to where it cannot go."""
    words = shlex.join(map(str, (sys.executable, SCRIPT, *flags)))
    return subprocess.run(f"{words} {output}", shell=True, cwd=folder, text=True, timeout=60,
                          capture_output=True, env=environment(**env), check=False)


@pytest.mark.parametrize("flags", [["--stations"], ["--export", "-"], ["--check"],
                                   ["--review", "-"], ["--backup", "copy.db"]], ids=" ".join)
@pytest.mark.parametrize(("output", "unbuffered"), [("closed", ""), ("full", ""), ("full", "1")])
def test_output_that_cannot_be_written_is_named(filled, output, unbuffered, flags):
    where, reason = OUTPUTS[output]
    done = call(filled.parent, where, *flags, PYTHONUNBUFFERED=unbuffered)
    assert (done.returncode, done.stderr) == (1, f"iotserver: standard output: {reason}\n")


def test_help_that_cannot_be_written_is_named(tmp_path):
    done = call(tmp_path, "> /dev/full", "--help", PYTHONUNBUFFERED="")
    assert (done.returncode, done.stderr) == (
        1, "iotserver: standard output: No space left on device\n")


@pytest.mark.parametrize("flags", [
    ["--add-station", "attic", "--mac", "aa"], ["--add-station", "x", "--mac", "aa", "--console"],
    ["--new-key", "inside"], ["--new-key", "inside", "--now"], ["--read-key", "inside"]],
    ids=" ".join)
@pytest.mark.parametrize(("output", "with_server"), [
    (">&-", False), ("> /dev/full", False), ("> /dev/full", True)])
def test_a_key_that_nobody_was_told_is_not_kept(database, serve, with_server, output, flags):
    """Nor does it end the one before, or the one that was to come after that."""
    if with_server:
        serve()
    with contextlib.closing(iotserver.Reader(database)) as reader:
        before = reader.stations()
    done = call(database.parent, output, *flags)
    assert done.returncode == 1
    assert done.stderr.startswith("iotserver: standard output: ")
    with contextlib.closing(iotserver.Reader(database)) as reader:
        assert reader.stations() == before


@pytest.mark.parametrize("output", OUTPUTS)
def test_a_server_serves_where_nobody_reads_its_first_line(database, output):
    words = shlex.join(map(str, (sys.executable, SCRIPT, "--port", "0")))
    process = subprocess.Popen(f"exec {words} {OUTPUTS[output][0]}", shell=True,
                               cwd=database.parent, env=environment(), stderr=subprocess.PIPE)
    try:
        wait_for(database.with_name("iot.db.sock").exists, 20)
        with contextlib.closing(iotserver.Remote(database)) as remote:
            assert remote.address().startswith("http://127.0.0.1:")
        process.send_signal(signal.SIGTERM)
        assert (process.wait(30), process.stderr.read()) == (0, b"")
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def test_a_file_that_cannot_be_read_is_named(database, run):
    run("--import", "/proc/self/mem", status=1,
        stderr="iotserver: /proc/self/mem: Input/output error\n")


# -- what else meets a command --------------------------------------------------------------------

def test_a_stopped_server_is_told_instead_of_waited_for(live, monkeypatch, capsys):
    monkeypatch.setattr(iotserver, "ANSWER_SECONDS", 1)
    os.kill(live.process.pid, signal.SIGSTOP)   # the socket is there, nobody answers
    started = time.monotonic()
    try:
        assert iotserver.main(["--label", "inside", "1", "Kitchen", "--db", str(live.db)]) == 1
    finally:
        os.kill(live.process.pid, signal.SIGCONT)
    assert "does not answer" in capsys.readouterr().err
    assert 1 <= time.monotonic() - started < 10


def test_names_are_printed_where_stdout_is_no_utf8(database, run):
    run("--add-station", "Küche", "--mac", "aa")
    done = subprocess.run(
        [sys.executable, SCRIPT, "--stations"], cwd=database.parent, capture_output=True,
        check=True, env=environment(PYTHONIOENCODING="ascii", LC_ALL="C", PYTHONUTF8="0"))
    assert b"K\\xfcche" in done.stdout


@pytest.mark.parametrize("user", [65534])
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_the_lock_that_root_leaves_is_its_owner_s(filled, run, user):
    os.chown(filled, user, user)
    filled.with_name("iot.db.lock").unlink(missing_ok=True)
    run("--prune", "1d")
    lock = filled.with_name("iot.db.lock").stat()
    assert (lock.st_uid, lock.st_gid) == (user, user)


def test_an_sqlite_that_is_too_old_is_told_in_words(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 34, 1))
    monkeypatch.setattr(sqlite3, "sqlite_version", "3.34.1")
    assert iotserver.main(["--db", str(tmp_path / "iot.db"), "--stations"]) == 1
    assert "SQLite 3.37" in capsys.readouterr().err
