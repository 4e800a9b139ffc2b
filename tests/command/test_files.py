"""Flags that write a FILE: nothing of ours, and nothing that is no regular file, is replaced."""
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time

import pytest
from harness import HEADER, INSIDE, SCRIPT, environment, problems_of, rows_of

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
    lock = iotserver.take_lock(tmp_path / "copy.db.partial")
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


def test_files_are_synced_as_windows_needs_it(filled, tmp_path, monkeypatch):
    """There fsync needs a handle open for writing, and a directory cannot be opened at all."""
    opened, real_open, real_sync = {}, os.open, os.fsync

    def strict_open(path, flags, *more, **options):
        if os.path.isdir(path):
            raise PermissionError(13, "Permission denied", str(path))
        handle = real_open(path, flags, *more, **options)
        opened[handle] = flags
        return handle

    def strict_sync(handle):
        if not opened[handle] & (os.O_RDWR | os.O_WRONLY):
            raise OSError(9, "Bad file descriptor")
        synced.append(handle)
        real_sync(handle)
    synced = []
    monkeypatch.setattr(os, "open", strict_open)
    monkeypatch.setattr(os, "fsync", strict_sync)
    iotserver.backup(None, filled, str(tmp_path / "copy.db"))
    assert len(synced) == 1
    assert rows_of(tmp_path / "copy.db") == rows_of(filled)


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
    with subprocess.Popen(["cat", tmp_path / "older.db"], stdout=subprocess.PIPE) as cat:
        subprocess.run([sys.executable, SCRIPT, "--db", database, "--import", "-"], check=True,
                       stdin=cat.stdout, timeout=60, env=environment())
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
    said = run("--stations", env={"PYTHONIOENCODING": "ascii", "LC_ALL": "C", "PYTHONUTF8": "0"})
    assert "K\\xfcche" in said


@pytest.mark.parametrize("user", [65534])
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root")
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
