"""A 200 stays stored whatever else opens the file: programs of the owner come and go, and somebody
removes the log under a running server."""
import contextlib
import itertools
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from harness import INSIDE, OUTSIDE, problems_of, rows_of, wait_for
from injection import acknowledged, living, stored_in, tell
from tools import needs

import iotserver

COMMANDS = (
    ["--stations"], ["--check"], ["--export", "all.csv"], ["--import", "all.csv"],
    ["--backup", "copy.db"], ["--backup", "copy.db"],
    ["--add-station", "attic", "--mac", "a"], ["--edit-station", "attic", "--name", "loft"],
    ["--new-key", "loft"], ["--read-key", "loft"], ["--label", "loft", "2", "x"],
    ["--delete-readings", "loft", "--start", "2018-07-30", "--end", "2018-07-31"],
    ["--prune", "3650d", "--dry-run"], ["--prune", "3650d"], ["--remove-station", "loft"],
)


def locked_files(pid):
    """The inodes on which a process holds a POSIX lock."""
    rows = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
    return {int(row[-3].rpartition(":")[2]) for row in rows
            if row[1] == "POSIX" and row[-4] == str(pid)}


def database_locks(path):
    """The inodes on which a server has a lock while it runs: the file, its index, its lock."""
    return {os.stat(f"{path}{suffix}").st_ino for suffix in ("", "-shm", ".lock")}


def visit(path, stopped, pause):
    """Programs that may write look into the database and go, until stopped; how many."""
    count = 0
    while not stopped.wait(pause()):
        with contextlib.closing(sqlite3.connect(path)) as db:
            count += len(db.execute("SELECT count(*) FROM reading").fetchall())
    return count


# -- programs that come and go --------------------------------------------------------------------


def test_no_command_costs_the_server_its_locks(database, serve, run):
    live = serve("--rate-limit", "0", "--notify", "json://127.0.0.1:9/", "--forward",
                 "http://127.0.0.1:9/write")
    live.expected = "(.*\n)*"                   # nobody listens there
    assert live.update(INSIDE, 1) == 1
    for command in [[], *COMMANDS]:
        if command:
            run("--db", live.db, *command)
        live.get("/healthz")
        assert locked_files(live.process.pid) == database_locks(live.db), command


def test_no_job_costs_the_server_its_locks(server):
    for value, (_, job) in enumerate(iotserver.JOBS, 1):
        server.update(INSIDE, value)
        server.time += 600
        if job is not iotserver.keep_courier and (work := job(server.server)):
            iotserver.finish(work)
        assert locked_files(os.getpid()) >= database_locks(server.path), job


@needs("sqlite3")
def test_a_look_with_sqlite_costs_nothing(live, tmp_path):
    for start in (1, 11):
        assert len(acknowledged(tell(live, range(start, start + 10)))) == 10
        subprocess.run(["sqlite3", live.db, "SELECT count(*) FROM reading"], check=True,
                       stdout=subprocess.DEVNULL, timeout=20)
    opened = [os.readlink(entry) for entry in Path(f"/proc/{live.process.pid}/fd").iterdir()]
    assert not [name for name in opened if "deleted" in name]
    live.kill()
    assert stored_in(live.db).keys() == {*range(1, 21)}


@pytest.mark.slow
def test_nothing_is_lost_whenever_programs_look_and_the_server_is_killed(database, tmp_path):
    chance = random.Random(20)
    stored, numbers = {}, itertools.count(1, 1_000_000)
    for _ in range(10):
        stopped = threading.Event()
        with living(tmp_path) as live, ThreadPoolExecutor(3) as pool:
            diaries = [pool.submit(tell, live, itertools.count(next(numbers))) for _ in range(2)]
            visits = pool.submit(visit, database, stopped, lambda: chance.uniform(0, 0.02))
            time.sleep(chance.uniform(0.2, 0.5))
            live.kill()
            stopped.set()
            for diary in diaries:
                stored |= acknowledged(diary.result())
        assert visits.result()
        assert stored.items() <= stored_in(database).items()
    assert problems_of(database) == []


# -- a log that somebody removes ------------------------------------------------------------------


def remove(path, *suffixes):
    for suffix in suffixes:
        path.with_name(path.name + suffix).unlink()


# A process that may write, and has the file open until its input ends.
READER = """
import contextlib, sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
with contextlib.suppress(sqlite3.Error):        # where the log that it finds is none
    db.execute(sys.argv[2])
    db.execute("SELECT count(*) FROM reading").fetchone()
print("open", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def reading(path, begin="BEGIN"):
    """A program that reads: with BEGIN what it sees may not be overwritten meanwhile."""
    with subprocess.Popen([sys.executable, "-c", READER, path, begin], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE) as program:
        assert program.stdout.readline() == b"open\n"
        yield program
        program.stdin.close()
        assert program.wait(20) in {0, -signal.SIGKILL}


@pytest.mark.slow
@pytest.mark.parametrize("suffixes", [["-wal"], ["-wal", "-shm"], ["-shm"]])
@pytest.mark.parametrize("begins", [[], ["BEGIN"], ["SELECT 1"]])
def test_a_log_that_is_removed_costs_nothing(database, tmp_path, suffixes, begins):
    """Under load, and where programs that had it open go on until the next server runs."""
    with contextlib.ExitStack() as stack:
        with living(tmp_path) as live, ThreadPoolExecutor(2) as pool:
            live.expected = r"iotserver: .*iot\.db.* was removed .* ends\. .*\n"
            stored = acknowledged(tell(live, range(1, 301)))
            for begin in begins:
                stack.enter_context(reading(database, begin))
            diaries = [pool.submit(tell, live, itertools.count(start)) for start in (10000, 20000)]
            wait_for(lambda: live.update(OUTSIDE, 1) > 20)
            remove(database, *suffixes)
            assert live.process.wait(20) == 74
            for diary in diaries:
                stored |= acknowledged(diary.result())
        with living(tmp_path) as live:
            assert of_inside(database).items() >= stored.items()
            stored |= acknowledged(tell(live, range(30_000, 30_300)))
            stack.close()
            stored |= acknowledged(tell(live, range(40_000, 40_300)))
            live.kill()
    assert len(stored) > 900
    assert of_inside(database).items() >= stored.items()
    assert problems_of(database) == []


@pytest.mark.slow
@pytest.mark.parametrize("suffixes", [["-wal"], ["-wal", "-shm"], ["-shm"]])
def test_who_comes_after_the_removal_and_leaves_last_spoils_nothing(database, tmp_path, suffixes):
    with contextlib.ExitStack() as stack:
        with living(tmp_path) as live:
            live.expected = r"iotserver: .*iot\.db.* was removed .* ends\. .*\n"
            stored = acknowledged(tell(live, range(1, 301)))
            remove(database, *suffixes)
            stack.enter_context(reading(database, "SELECT 1"))
            assert live.process.wait(20) == 74
        with living(tmp_path) as live:
            stored |= acknowledged(tell(live, range(301, 601)))
            live.kill()
    assert stored_in(database) == stored
    assert len(stored) == 600
    assert problems_of(database) == []


def of_inside(path):
    """{value: entry} of the station that tell() speaks for."""
    return {int(value): entry for _, name, _, _, value, entry in rows_of(path) if name == "inside"}


def test_what_came_after_the_removal_survives_an_orderly_end(database, tmp_path):
    with living(tmp_path) as live, reading(database) as program:
        live.expected = "(iotserver: .* ends. .*\n)?"        # where it was seen before the signal
        stored = acknowledged(tell(live, range(1, 101)))
        remove(database, "-wal")
        stored |= acknowledged(tell(live, range(101, 151)))
        assert live.stop() in {0, 74}
        program.kill()                          # so that it cannot save what the server did not
    assert stored.items() <= stored_in(database).items()
    assert len(stored) > 100
    assert problems_of(database) == []


def test_a_backup_put_in_place_under_a_server_is_not_spoilt(database, tmp_path, run):
    """Its log would otherwise be written into the file that took the place of its own."""
    with living(tmp_path) as live:
        live.expected = "iotserver: .* ends. .*\n"
        before = acknowledged(tell(live, range(1, 1001)))
        run("--backup", "backup.db")
        after = acknowledged(tell(live, range(1001, 1101)))
        (tmp_path / "away.db").hardlink_to(database)
        (tmp_path / "backup.db").replace(database)
        assert live.process.wait(20) == 74
    assert stored_in(tmp_path / "away.db") == before | after
    with living(tmp_path) as live:
        before |= acknowledged(tell(live, range(2001, 2011)))
    assert stored_in(database) == before
    assert problems_of(database) == []


def test_a_database_that_is_moved_while_another_program_reads_it_loses_nothing(database, tmp_path):
    """That program keeps the log from being moved into the database."""
    with living(tmp_path) as live:
        live.expected = "iotserver: .* some of its readings .*\niotserver: .* ends. .*\n"
        stored = acknowledged(tell(live, range(1, 101)))
        with contextlib.closing(sqlite3.connect(database)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM reading").fetchone()
            stored |= acknowledged(tell(live, range(101, 201)))
            database.rename(tmp_path / "iot.db.saved")
            assert live.process.wait(20) == 74
    assert not database.with_name("iot.db-wal").exists()
    assert stored_in(tmp_path / "iot.db.saved") == stored
    assert len(stored) == 200


# -- by another name ------------------------------------------------------------------------------


def test_every_name_finds_the_same_server(database, serve, run, tmp_path):
    live = serve("--rate-limit", "0")
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "elsewhere" / "other.db"
    link.symlink_to(database)
    run("--db", link, status=1, stderr="is in use by another iotserver")
    assert live.update(INSIDE, 1) == 1
    run("--db", link, "--new-key", "inside", "--key", "other", "--now")
    assert live.get(f"/update/API_key={INSIDE.key}/mac={INSIDE.mac}/field=1/data=2").status == 403
    run("--db", link, "--remove-station", "outside")
    assert live.get(f"/update/API_key={OUTSIDE.key}/mac={OUTSIDE.mac}/field=1/data=2"
                    ).status == 403
    run("--db", link, "--backup", link, status=1, stderr="is a database or belongs to one")
    run("--db", link, "--export", database, status=1, stderr="is a database or belongs to one")
    assert [*link.parent.iterdir()] == [link]
    assert live.stop() == 0


def test_a_link_that_leads_nowhere_is_followed(run, tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "iot.db").symlink_to(Path("real", "iot.db"))
    run("--add-station", "inside", "--mac", "a")
    assert {path.name for path in (tmp_path / "real").iterdir()} == {"iot.db", "iot.db.lock"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["iot.db", "real"]


def test_a_file_of_several_names_is_refused(database, live, run, tmp_path):
    (tmp_path / "other.db").hardlink_to(database)
    for name in ("other.db", "iot.db"):
        for command in ([], ["--stations"], ["--new-key", "inside"], ["--import", "-"]):
            run("--db", name, *command, status=1, stderr="has 2 names (hard links)")
    assert live.update(INSIDE, 1) == 1
    (tmp_path / "other.db").unlink()
    run("--stations")
