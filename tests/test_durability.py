"""What a 200 stands on: the system calls between a request and its answer, seen by strace."""
import re
import signal
import subprocess
import time

import pytest
from harness import INSIDE, request, update_path, wait_for
from tools import need

WAL_WRITE = re.compile(r"pwrite64\(\d+<[^>]*iot\.db-wal>")
WAL_SYNC = re.compile(r"fdatasync\(\d+<[^>]*iot\.db-wal>")
ANSWER = re.compile(r"sendto\(.*HTTP/1\.1 200 OK")


@pytest.fixture
def traced(live, tmp_path):
    """Attach strace to the running server; a function that stops it and returns its lines."""
    def trace(*flags):
        log = tmp_path / "strace.log"
        tracer = subprocess.Popen(
            [need("strace"), "-y", "-f", "-p", str(live.process.pid), "-o", log, *flags],
            stderr=subprocess.PIPE, text=True)
        assert "attached" in tracer.stderr.readline()
        started.append(tracer)

        def stop():
            tracer.send_signal(signal.SIGINT)
            tracer.wait(10)
            return log.read_text().splitlines()
        return stop
    started = []
    yield trace
    for tracer in started:
        if tracer.poll() is None:
            tracer.kill()
        tracer.wait(10)
        tracer.stderr.close()


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


def test_no_answer_before_its_reading_is_on_the_disk(live, traced):
    stop = traced("-e", "trace=pwrite64,fdatasync,sendto", "-s", "40")
    for value in range(20):
        assert live.update(INSIDE, value) == value + 1
    lines = stop()
    assert unsynced_answers(lines) == (0, 20)
    broken = [line for line in lines if not WAL_SYNC.search(line)]      # as synchronous=OFF does
    assert unsynced_answers(broken) == (20, 0)


def test_failed_fsync_is_never_acknowledged_and_ends_the_process(live, traced):
    assert live.update(INSIDE, 1) == 1
    traced("-e", "trace=fdatasync", "-e", "inject=fdatasync:error=EIO")
    live.expected = r"iotserver: .*iot\.db: disk I/O error; ending, .*\n"
    assert live.talk(request("GET", update_path(INSIDE, 2))) == [], "no answer at all"
    wait_for(lambda: live.process.poll() is not None)
    assert live.process.returncode == 74


def test_file_that_is_replaced_ends_the_process(live):
    assert live.update(INSIDE, 1) == 1
    live.expected = r"iotserver: .*iot\.db.* ending.*\n"
    live.db.rename(live.db.with_name("away.db"))
    started = time.monotonic()
    wait_for(lambda: live.process.poll() is not None, seconds=15)
    assert live.process.returncode == 74
    assert time.monotonic() - started < 13
