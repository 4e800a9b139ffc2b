"""Backups restore: whatever fails or is killed while one is made, FILE is the older backup or the
new one, whole; and the new one holds all that was answered before it began."""
import itertools
import shutil
import signal
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from harness import INSIDE, SCRIPT, environment, problems_of, wait_for
from injection import (
    acknowledged,
    broken,
    for_each,
    from_birth,
    inject,
    lines_of,
    living,
    stored_in,
    tell,
    watch,
)
from tools import needs

import iotserver

pytestmark = needs("strace")
FEW = range(1, 101)
CALLS = ("pwrite64", "fsync", "rename", "unlink")
KILL, FAIL = "signal=SIGKILL", "error=ENOSPC"


@pytest.fixture
def few(live):
    """A running server with a few readings."""
    assert len(acknowledged(tell(live, FEW))) == len(FEW)
    return live


def backup(folder, name, *flags, script=SCRIPT):
    """Make a backup under strace: its exit status and what it said."""
    command = from_birth(folder / f"{name}.log", *flags)
    done = subprocess.run([*command, sys.executable, script, "--backup", name], cwd=folder,
                          env=environment(), capture_output=True, text=True, check=False,
                          timeout=60)
    return done.returncode, done.stderr


def points(lines):
    """(call, n) of what changes files: of the many writes each eighth, and all the rest."""
    for call in CALLS:
        count = sum(line.startswith(f"{call}(") for line in lines)
        yield from ((call, n) for n in range(1, count + 1, 8 if call == "pwrite64" else 1))


def spoil(live, older, name, call, n, fault, script=SCRIPT):
    """Whether a backup that meets a fault has taken an older one's place; neither is damaged."""
    path = shutil.copy(older, older.with_name(name))
    before, told = stored_in(older), acknowledged(tell(live, [1000 + len(name)]))
    status, said = backup(path.parent, name, *inject(call, fault, n), script=script)
    found = stored_in(path)
    assert problems_of(path) == []
    assert found == before or told.items() <= found.items()
    if fault == KILL:
        assert status == -signal.SIGKILL
        assert backup(path.parent, name, *watch("rename")) == (0, ""), "the rest is no obstacle"
    elif status:
        assert (status, said[:11]) == (1, "iotserver: ")
    else:
        assert found != before
    assert not path.with_name(name + ".partial").exists()
    return found != before


def test_backup_that_is_killed_or_fails_leaves_a_whole_file(few, tmp_path):
    assert backup(tmp_path, "older.db", *watch(*CALLS)) == (0, "")
    cases = itertools.product(points(lines_of(tmp_path / "older.db.log")), (KILL, FAIL))
    names = ("x" * n for n in itertools.count(1))
    assert {True, False} == {*for_each(lambda case: spoil(
        few, tmp_path / "older.db", next(names), *case[0], case[1]), cases)}


def test_a_backup_made_in_place_is_found_out(few, tmp_path):
    assert backup(tmp_path, "older.db", *watch(*CALLS)) == (0, "")
    script = broken(tmp_path, ('partial = beside(target, ".partial")', "partial = target"))
    with pytest.raises((AssertionError, iotserver.StoreError, sqlite3.Error)):
        spoil(few, tmp_path / "older.db", "new.db", "pwrite64", 5, KILL, script)


def test_backup_outlives_the_server_and_is_restored(few, tmp_path):
    with ThreadPoolExecutor(2) as pool:
        slow = inject("pwrite64", "delay_enter=30000", "1+")
        made = pool.submit(backup, tmp_path, "copy.db", *slow)
        diary = pool.submit(tell, few, itertools.count(1001))
        wait_for((tmp_path / "copy.db.partial").exists, 20)
        few.kill()
        assert made.result() == (0, "")
    later, saved = acknowledged(diary.result()), stored_in(tmp_path / "copy.db")
    assert {*FEW} <= saved.keys() <= {*FEW, *later, 1001 + len(later)}
    assert sorted(saved.values()) == [*range(1, len(saved) + 1)], "as it was at one instant"
    for end in ("-wal", "-shm"):
        few.db.with_name(f"iot.db{end}").unlink()
    shutil.copy(tmp_path / "copy.db", few.db)
    assert problems_of(few.db) == []
    with living(tmp_path) as live:
        assert acknowledged(tell(live, saved)) == saved, "as if nothing had happened since"
        assert live.update(INSIDE, 22) == len(saved) + 1
