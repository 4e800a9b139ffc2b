"""What a 200 stands on, in system calls: the log is on the disk before the answer leaves, and no
process but the server writes to the database or copies its log back."""
import itertools
import re
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from harness import HEADER, INSIDE, OUTSIDE, SCRIPT, environment, wait_for
from injection import (
    acknowledged,
    attached,
    broken,
    from_birth,
    lines_of,
    living,
    strace,
    tell,
    watch,
)
from tools import needs

pytestmark = needs("strace")
WAL_WRITE = re.compile(r"pwrite64\(\d+<[^>]*iot\.db-wal>")
WAL_SYNC = re.compile(r"fdatasync\(\d+<[^>]*iot\.db-wal>")
ANSWER = re.compile(r"sendto\(.*HTTP/1\.1 200 OK")


def unsynced_answers(lines):
    """How many answers left while something written to the log was not yet on the disk."""
    is_dirty, wrong, right = True, 0, 0
    for line in lines:
        if WAL_WRITE.search(line):
            is_dirty = True
        elif WAL_SYNC.search(line):
            is_dirty = False
        elif ANSWER.search(line):
            wrong, right = wrong + is_dirty, right + (not is_dirty)
            is_dirty = True                     # the next answer needs a sync of its own
    return wrong, right


def test_no_answer_before_its_reading_is_on_the_disk(live, tmp_path):
    log = tmp_path / "strace.log"
    with attached(live, log, *watch("pwrite64", "fdatasync", "sendto"), "-s", "40"):
        for value in range(20):
            assert live.update(INSIDE, value) == value + 1
    lines = log.read_text().splitlines()
    assert unsynced_answers(lines) == (0, 20)
    broken = [line for line in lines if not WAL_SYNC.search(line)]      # as synchronous=OFF does
    assert unsynced_answers(broken) == (20, 0)


def test_start_and_end_without_an_update_write_nothing(database, tmp_path):
    """So that a server can start, and show what it has, on a disk that is full."""
    log, before = tmp_path / "strace.log", database.stat().st_mtime_ns
    with living(tmp_path, prefix=from_birth(log, *watch("pwrite64", "ftruncate", "fdatasync"))):
        pass
    assert [line for line in lines_of(log) if re.search(r"iot\.db(-wal)?>", line)] == []
    assert database.stat().st_mtime_ns == before


def test_file_that_is_replaced_ends_the_process(live):
    assert live.update(INSIDE, 1) == 1
    live.expected = r"iotserver: .*iot\.db.* ends.*\n"
    live.db.rename(live.db.with_name("away.db"))
    started = time.monotonic()
    wait_for(lambda: live.process.poll() is not None, seconds=30)
    assert live.process.returncode == 74
    assert time.monotonic() - started < 20


# -- one process writes ---------------------------------------------------------------------------

# SQLite before 3.51.3 can damage a database when one connection commits while another checkpoints.
# Readers may lock the -shm, and mark there, in shared memory, what they still read: no call shows
# that, and it is no part of the database.
OPENING = re.compile(r'openat\(.*/iot\.db", (?!O_RDONLY)')
CHANGING = re.compile(r"""(?:p?write\w*|ftruncate|fallocate|f(?:data)?sync|unlink\w*|rename\w*)
                      \(.*/iot\.db(?:-wal|-shm)?[>"]""", re.VERBOSE)
COMMANDS = (
    ["--import", "old.csv"], ["--add-station", "attic", "--mac", "a"], ["--new-key", "attic"],
    ["--label", "inside", "2", "x"], ["--stations"], ["--export", "all.csv"], ["--check"],
    ["--backup", "copy.db"], ["--prune", "30d"], ["--remove-station", "attic"],
)


def changes_by(folder, *args, script=SCRIPT):
    """What a command itself does to the database, or opens it for."""
    log = folder / "command.log"
    command = [*strace(log, *watch("%desc", "%file")), sys.executable, script, *args]
    done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True,
                          check=False, timeout=60)
    assert done.returncode == 0, done
    return [line for line in lines_of(log) if OPENING.match(line) or CHANGING.match(line)]


def until(stopped):
    for number in itertools.count(1):
        if stopped.wait(0.01):
            return
        yield number


def test_only_the_server_writes_to_the_database(live, tmp_path):
    rows = [f"2018-07-30T12:00:00.000Z,,{OUTSIDE.mac},1,{n},{n}" for n in range(1, 10_001)]
    (tmp_path / "old.csv").write_text("\n".join([HEADER, *rows, ""]))
    log, stopped = tmp_path / "server.log", threading.Event()
    with (ThreadPoolExecutor(1) as pool,
          attached(live, log, *watch("pwrite64", "ftruncate", "fdatasync"))):
        diary = pool.submit(tell, live, until(stopped))
        try:
            found = {command[0]: changes_by(tmp_path, *command) for command in COMMANDS}
        finally:
            stopped.set()
    assert set(map(tuple, found.values())) == {()}, found
    assert len(acknowledged(diary.result())) > 20
    assert re.search(r"pwrite64\(\d+<[^>]*/iot\.db>", log.read_text()), "it made a checkpoint"
    script = broken(tmp_path, ('connect(path, "ro")', 'connect(path, "rw")'))
    assert changes_by(tmp_path, "--stations", script=script), "a reader that could write is seen"
    assert live.stop() == 0
    assert changes_by(tmp_path, "--label", "inside", "2", "y"), "without a server it writes itself"
