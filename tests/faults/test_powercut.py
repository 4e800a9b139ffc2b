"""A 200 survives a power cut: all that a server wrote is replayed from a trace, and cut at each
write, sync and answer. What was not synced by then is dropped, or survives in random pieces."""
import random
import re
from contextlib import closing

import pytest
from harness import INSIDE, SCRIPT, InProcess, bulk, problems_of
from injection import (
    IN_FULL,
    Disk,
    acknowledged,
    broken,
    from_birth,
    lines_of,
    living,
    stored_in,
    tell,
)
from tools import needs

import iotserver

pytestmark = needs("strace")
OLD = range(1001, 1901)         # values of readings that are there before, and are pruned
FIRST, SECOND = range(1, 7), range(7, 13)       # those that are sent before and after
AGE = 20 * 86_400               # s, of the old ones
ANSWER = re.compile(rb"HTTP/1\.1 200 OK\r\n.*\r\n\r\n(\d+)", re.DOTALL)


@pytest.fixture
def old(database):
    """A database with readings to prune, and no log."""
    with closing(InProcess(database)) as server:
        server.time = iotserver.now_ms() / 1000
        readings = [{"field": 1, "data": value, "age": AGE} for value in OLD]
        assert server.ask("POST", "/update", bulk(INSIDE, *readings)).status == 200
    return database


def live_traced(path, script):
    """Updates, a prune, updates and an orderly end: the disk before it, and what was done."""
    disk, log = Disk(path), path.with_name("strace.log")
    with living(path.parent, command=(script,), prefix=from_birth(log, *IN_FULL)) as live:
        answers = tell(live, FIRST)
        with closing(iotserver.Remote(path)) as writer:
            assert writer.prune_step(iotserver.now_ms() - AGE * 500) == len(OLD)
            assert sum(iter(writer.shrink_step, 0)) > 0
        answers |= tell(live, SECOND)
        assert live.stop() == 0
    assert len(acknowledged(answers)) == len(FIRST) + len(SECOND)
    return disk, lines_of(log)


def cuts(disk, lines, folder, ways):
    """(readings that were answered and are lost, what --check says) for each cut.

    ways gives the (keep, block) of the cuts that are made behind each line.
    """
    told = set(OLD)
    for line in lines:
        if answer := ANSWER.match(disk.play(line)):
            told.add(int(answer[1]) - len(OLD))
            if len(told) == len(OLD) + len(FIRST):
                told -= {*OLD}                  # from now on the prune may take them
        if not re.match("pwrite64|ftruncate|fdatasync|unlink|sendto", line):
            continue
        for keep, block in ways:
            disk.cut(folder, keep, block)
            yield told - stored_in(folder / "iot.db").keys(), problems_of(folder / "iot.db")
    assert told == {*FIRST, *SECOND}, "no answer was overlooked"


def test_what_was_answered_survives_a_power_cut_at_any_moment(old, tmp_path):
    disk, lines = live_traced(old, SCRIPT)
    (tmp_path / "cut").mkdir()
    chance = random.Random(7)
    ways = [(lambda: False, 512), *((lambda share=share: chance.random() < share, block)
                                    for share, block in ((0.1, 4096), (0.5, 512), (0.9, 512)))]
    results = list(cuts(disk, lines, tmp_path / "cut", ways))
    assert len(results) > 500
    assert {(frozenset(lost), *problems) for lost, problems in results} == {(frozenset(),)}


@pytest.mark.parametrize("mode", ["NORMAL", "OFF"])
def test_a_server_that_syncs_less_is_found_out(old, tmp_path, mode):
    script = broken(tmp_path, ("synchronous = FULL", f"synchronous = {mode}"))
    disk, lines = live_traced(old, script)
    (tmp_path / "cut").mkdir()
    losses = [len(lost) for lost, _ in cuts(disk, lines, tmp_path / "cut", [(lambda: False, 512)])]
    assert max(losses) >= len(SECOND)
