"""A 200 survives `kill -9`: at any moment under load, and at each single write and sync of a short
life, from the first call of a server to its last. What got no answer is asked again, with the
same seq, and is stored once."""
import itertools
import random
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest
from harness import SCRIPT, InProcess, environment, problems_of, processor_seconds
from injection import (
    acknowledged,
    broken,
    check_again,
    check_rule,
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
CLIENTS = 4


def live_and_die(folder, template, seqs, flags, script=SCRIPT):
    """A short life under strace: the database, what was answered, and how it ended."""
    folder.mkdir()
    path = shutil.copy(template, folder / "iot.db")
    with living(folder, prefix=from_birth(folder / "strace.log", *flags),
                command=(script,)) as live:
        answers = tell(live, seqs) if live.port else {}
        status = live.stop() if live.process.poll() is None else live.process.wait(20)
    return path, answers, status


# The first update of a life makes a checkpoint, too, and the end of the life makes another.
@pytest.mark.parametrize(("call", "updates"), [("fdatasync", 12), ("pwrite64", 4)])
def test_killed_at_each_single_sync_and_write(template, tmp_path, call, updates):
    seqs = range(1, updates + 1)
    _, answers, status = live_and_die(tmp_path / "clean", template, seqs, watch(call))
    assert (acknowledged(answers), status) == ({seq: seq for seq in seqs}, 0)
    count = sum(line.startswith(call) for line in lines_of(tmp_path / "clean" / "strace.log"))

    def kill_at(n):
        path, answers, status = live_and_die(tmp_path / f"at {n}", template, seqs,
                                             inject(call, "signal=SIGKILL", n))
        assert status == -signal.SIGKILL
        stored = check_rule(path, answers, seqs)
        with closing(InProcess(path)) as server:
            check_again(server, path, seqs)
        return len(acknowledged(answers)), len(stored)
    ends = for_each(kill_at, range(1, count + 1))
    assert ends[0] == (0, 0)
    assert ends[-1] == (updates, updates), "the last ones come after the last answer"
    assert any(told < stored for told, stored in ends), "one was stored, and could not be told"


def test_killed_while_the_database_is_made(tmp_path):
    def add_station(folder, *flags):
        folder.mkdir(exist_ok=True)
        command = [*from_birth(folder / "strace.log", *flags), sys.executable, SCRIPT,
                   "--add-station", "inside", "--mac", "m", "--key", "k"]
        return subprocess.run(command, cwd=folder, env=environment(), capture_output=True,
                              timeout=60, check=False).returncode

    def kill_at(case):
        folder = tmp_path / "{} {}".format(*case)
        assert add_station(folder, *inject(case[0], "signal=SIGKILL", case[1])) == -signal.SIGKILL
        assert add_station(folder, *watch("rename")) in {0, 1}      # 1: it is there already
        with closing(iotserver.Reader(folder / "iot.db")) as reader:
            assert [station.name for station in reader.stations()] == ["inside"]
        assert problems_of(folder / "iot.db") == []
    assert add_station(tmp_path / "clean", *watch("fdatasync", "pwrite64")) == 0
    calls = [line.partition("(")[0] for line in lines_of(tmp_path / "clean" / "strace.log")]
    for_each(kill_at, [(call, n) for call, step in (("fdatasync", 1), ("pwrite64", 6))
                       for n in range(1, calls.count(call) + 1, step)])


def test_a_server_that_answers_before_it_stores_is_found_out(template, tmp_path):
    script = broken(tmp_path, ("self.server.writer.commit()",
                               "self.server.loop.call_soon(self.server.writer.commit)"))

    def keeps_the_rule(n):
        path, answers, _ = live_and_die(tmp_path / f"at {n}", template, range(1, 5),
                                        inject("pwrite64", "signal=SIGKILL", n), script)
        return acknowledged(answers).items() <= stored_in(path).items()
    assert not all(for_each(keeps_the_rule, range(14, 24)))


def test_killed_at_random_moments_under_load(database, tmp_path):
    chance = random.Random(7)
    entries, missing, first_seqs = {}, [], itertools.count(1, 1_000_000)
    with living(tmp_path) as live:
        usual = processor_seconds(live)
    for _ in range(6):
        with living(tmp_path) as live, ThreadPoolExecutor(CLIENTS) as pool:
            assert processor_seconds(live) < usual + 1
            again = acknowledged(tell(live, [*missing, *list(entries)[-20:]]))
            assert all(entries.setdefault(seq, entry) == entry for seq, entry in again.items())
            starts = [next(first_seqs) for _ in range(CLIENTS)]
            diaries = [pool.submit(tell, live, itertools.count(start)) for start in starts]
            time.sleep(chance.uniform(0.05, 0.6))
            live.kill()
            told = [acknowledged(diary.result()) for diary in diaries]
        for answers in told:
            entries.update(answers)
        missing = [start + len(answers) for start, answers in zip(starts, told, strict=True)]
        stored = stored_in(database)
        assert entries.items() <= stored.items()
        assert stored.keys() <= {*entries, *missing}
        assert problems_of(database) == []
    assert len(entries) > 100
    with living(tmp_path) as live:
        check_again(live, database, missing)
