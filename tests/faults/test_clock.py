"""Jumps of the clock lose nothing and hang nothing: a real server whose clock libfaketime moves
under it, while the monotonic clock goes on, as it does on a real machine."""
import contextlib
import glob
import re
import socket
import time
from contextlib import closing
from datetime import datetime
from itertools import pairwise

import pytest
from harness import INSIDE, SCRIPT, problems_of, read_until, request, update_path
from injection import acknowledged, broken, living, stored_in, tell
from tools import need, needs, skip

pytestmark = needs("faketime")
TODAY = "2026-03-28T12:00:00+00:00"
AHEAD, BACK = "2036-03-28T12:00:00+00:00", "2026-03-27T12:00:00+00:00"
JUMPS = (
    AHEAD, TODAY, BACK,
    "2026-03-29T00:59:59+00:00",        # a second later Berlin goes from 02:00 to 03:00
    "2026-10-25T00:59:59+00:00",        # ... and from 03:00 to 02:00
    "2038-01-19T03:14:07+00:00",        # the last second of a signed time_t of 32 bits
    "1970-01-01T00:00:01+00:00",        # a board without a battery starts so
    "2099-12-31T23:59:59+00:00",        # the last second that a reading can have
)
SAID = r"(.* this machine's clock was set by [+-]\d+ s, .*\n)*"
IN_BERLIN = {"Cookie": "tz=Europe/Berlin"}


@pytest.fixture
def library():
    need("faketime")
    found = glob.glob("/usr/lib/*/faketime/libfaketime.so.1")
    return found[0] if found else skip("libfaketime is not where Debian has it")


class Clock:
    """What a server believes to be the time, and the pings of its jobs."""

    def __init__(self, folder, library):
        self.file = folder / "offset"
        self.pings = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.pings.bind(str(folder / "notify"))
        self.environment = {
            "LD_PRELOAD": library, "FAKETIME_TIMESTAMP_FILE": str(self.file),
            "FAKETIME_NO_CACHE": "1", "FAKETIME_DONT_FAKE_MONOTONIC": "1", "TZ": "Europe/Berlin",
            "NOTIFY_SOCKET": str(folder / "notify"), "WATCHDOG_USEC": "2000000"}
        self.set(TODAY)

    def set(self, now):
        offset = datetime.fromisoformat(now).timestamp() - time.time()
        new = self.file.with_name("next")
        new.write_text(f"{offset:+.0f}")
        new.replace(self.file)          # in one step: an empty file would be no time at all

    def wait_for_jobs(self):
        """A job that is done each second is done again, and once more."""
        self.pings.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while self.pings.recv(100):
                pass
        self.pings.settimeout(30)
        assert self.pings.recv(100) == b"WATCHDOG=1"


@pytest.fixture
def clock(database, tmp_path, library):
    clock = Clock(tmp_path, library)
    with closing(clock.pings):
        yield clock


@contextlib.contextmanager
def listening(live):
    with live.connect() as channel:
        channel.sendall(request("GET", "/events"))
        read_until(channel, b"hello")
        yield channel


def test_all_goes_on_whatever_the_clock_says(database, tmp_path, clock):
    entries = {}
    with living(tmp_path, env=clock.environment) as live, listening(live) as events:
        live.expected = SAID
        for number, now in enumerate(JUMPS):
            clock.set(now)
            for seq, age in (2 * number, 60), (2 * number + 1, 0):
                entries[seq] = live.update(INSIDE, seq, more=f"/age={age}/seq={seq}")
                read_until(events, b'"entry":%d}' % entries[seq])
                for path in ("/", "/api/stations", "/export.csv", "/healthz"):
                    assert live.get(path, **IN_BERLIN).status == 200
                if age:
                    clock.wait_for_jobs()       # meanwhile the last second is over
        assert acknowledged(tell(live, entries)) == entries, "asked again: the same"
        assert live.stop() == 0
    assert entries == {seq: seq + 1 for seq in range(2 * len(JUMPS))}
    assert stored_in(database) == entries
    assert problems_of(database) == []
    with living(tmp_path) as live:
        assert live.update(INSIDE, 22) == len(entries) + 1
        assert live.get("/").status == 200


def test_a_jump_of_the_clock_is_logged_once_and_forgets_no_receipt(tmp_path, clock):
    with living(tmp_path, env=clock.environment) as live:
        live.expected = SAID
        entry = live.update(INSIDE, 21, more="/seq=before")
        times = [datetime.fromisoformat(now).timestamp() for now in (TODAY, AHEAD, BACK, TODAY)]
        for now in (AHEAD, BACK, TODAY):
            clock.set(now)
            for _ in range(3):
                clock.wait_for_jobs()
            assert live.update(INSIDE, 21, more="/seq=before") == entry
    steps = map(int, re.findall(r"was set by ([+-]\d+) s", (tmp_path / "stderr").read_text()))
    assert list(steps) == pytest.approx([b - a for a, b in pairwise(times)], abs=60)


def jump_while_limited(folder, clock, script=SCRIPT):
    """A jump ahead gives nobody more updates and cuts nobody off; one back takes none away."""
    with (living(folder, "--rate-limit", "40", env=clock.environment, command=(script,)) as live,
          closing(live.client()) as client):
        live.expected = SAID

        def update():
            client.request("GET", update_path(INSIDE, 1))
            response = client.getresponse()
            response.read()
            assert client.sock, "the connection is kept"
            return response.status
        statuses = [update() for _ in range(50)]
        assert statuses[:40] == [200] * 40
        assert statuses[-1] == 429
        clock.set(AHEAD)
        assert 429 in {update(), update()}
        clock.wait_for_jobs()
        clock.set(BACK)
        clock.wait_for_jobs()
        time.sleep(1.6)                 # a token's time
        assert update() == 200


def test_rate_limit_and_deadlines_do_not_follow_the_clock(tmp_path, clock):
    jump_while_limited(tmp_path, clock)


def test_a_server_that_measures_by_the_clock_is_found_out(tmp_path, clock):
    script = broken(tmp_path, ("time.monotonic", "time.time"))
    with pytest.raises(AssertionError):
        jump_while_limited(tmp_path, clock, script)
