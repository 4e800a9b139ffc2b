"""A full or failing disk never lies and never corrupts: an injected error at each single call,
and a real disk that is full. Refused is 507 and not stored; reading goes on; with room again
updates work again, without a restart. After a failed sync the process ends, with status 74."""
import contextlib
import shutil
from contextlib import closing
from pathlib import Path

import pytest
from harness import SCRIPT
from injection import (
    acknowledged,
    attached,
    broken,
    check_again,
    check_rule,
    inject,
    living,
    tell,
)
from tools import needs, skip

import iotserver

pytestmark = needs("strace")
COMPLAINTS = r"(iotserver: .*iot\.db: .*\n)*"


def work(live, seqs):
    """An update, a checkpoint, an update: {seq: (status, body)}."""
    answers = tell(live, seqs[:1])
    if answers:
        with (contextlib.suppress(iotserver.StoreError),
              closing(iotserver.Remote(live.db)) as writer):
            writer.shrink_step()
    return answers | tell(live, seqs[1:])


def statuses(answers):
    return {status for status, _ in answers.values()}


def check_reading(live):
    """What is stored can be seen, whatever cannot be stored."""
    assert live.get("/healthz").status == 503
    for path in ("/", "/api/stations", "/api/readings?station=inside", "/export.csv"):
        assert live.get(path).status == 200


def fail_each(folder, call, error, length="", script=SCRIPT):
    """Make the first call fail, then the second, ..., as long as there is one; the rule holds.

    (all statuses of answers, all exit statuses, how many calls there were)
    """
    path, log, found, ends = folder / "iot.db", folder / "strace.log", set(), set()
    with contextlib.ExitStack() as stack:
        live, n = stack.enter_context(living(folder, command=(script,))), 0
        while True:
            n += 1
            seqs, live.expected = [2 * n - 1, 2 * n], COMPLAINTS
            with attached(live, log, *inject(call, f"error={error}", f"{n}{length}")):
                answers = work(live, seqs)
                if length and 507 in statuses(answers):
                    check_reading(live)
            check_rule(path, answers, range(1, 2 * n + 1))
            found |= statuses(answers)
            if "INJECTED" not in log.read_text():
                return found, ends, n - 1
            if len(answers) < len(seqs):
                ends.add(live.process.wait(20))
                live = stack.enter_context(living(folder, command=(script,)))
            check_again(live, path, seqs)
            assert live.get("/healthz").status == 200


GOES_ON, ENDS = ({200, 507}, set()), ({200}, {74})


@pytest.mark.parametrize("length", ["", "+"], ids=["once", "lasting"])
@pytest.mark.parametrize(("call", "error", "expected", "least"), [
    ("pwrite64", "ENOSPC", GOES_ON, 20),
    ("pwrite64", "EIO", GOES_ON, 20),
    ("fdatasync", "EIO", ENDS, 4),
    ("fdatasync", "ENOSPC", ENDS, 4),
    ("ftruncate", "EIO", ENDS, 1)])
def test_error_at_each_single_call(database, tmp_path, call, error, expected, least, length):
    *seen, count = fail_each(tmp_path, call, error, length)
    assert tuple(seen) == expected
    assert count >= least


def test_a_server_that_answers_200_to_a_failed_write_is_found_out(database, tmp_path):
    script = broken(tmp_path, ("failure = self.failure = self.fail(error)", "pass"))
    with pytest.raises(AssertionError):
        fail_each(tmp_path, "pwrite64", "ENOSPC", script=script)


def test_a_server_that_goes_on_after_a_failed_sync_is_found_out(database, tmp_path):
    script = broken(tmp_path, ("if is_fatal(error):", "if False:"))
    assert fail_each(tmp_path, "fdatasync", "EIO", script=script)[:2] != ENDS


# -- a disk of 512 KB -----------------------------------------------------------------------------

MOUNT = """
mount -t tmpfs -o size=512k tmpfs . && cd "$PWD" && cp "$0" iot.db && exec "$@"
"""


@pytest.fixture
def small_disk(template, tmp_path):
    """A server on a file system of its own; (server, its folder as seen from here)."""
    prefix = ["unshare", "-rm", "sh", "-c", MOUNT, str(template)]
    with living(tmp_path, prefix=prefix) as live:
        if not live.port:
            live.expected = r"(?s)(unshare|mount): .*"
            skip("mount namespaces are not allowed here")
        yield live, Path(f"/proc/{live.process.pid}/root{tmp_path}")


def fill(folder):
    with contextlib.suppress(OSError), (folder / "ballast").open("wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass


def copied(folder, target):
    """SQLite opens nothing in another name space: what is there now, for a look at it."""
    for name in ("iot.db", "iot.db-wal"):
        shutil.copy(folder / name, target / name)
    return target / "iot.db"


@needs("unshare")
def test_full_disk_refuses_updates_and_heals_when_there_is_room(small_disk, tmp_path):
    live, folder = small_disk
    live.expected = COMPLAINTS
    (tmp_path / "copy").mkdir()
    answers, last = {}, 0
    for _ in range(3):
        fill(folder)
        while 507 not in statuses(answers):
            last += 1
            answers |= tell(live, [last])
        assert statuses(answers) <= {200, 507}
        check_reading(live)
        check_rule(copied(folder, tmp_path / "copy"), answers, range(last + 1))
        (folder / "ballast").unlink()
        again = tell(live, range(1, last + 1))
        assert statuses(again) == {200}, "it heals by itself"
        assert acknowledged(answers).items() <= acknowledged(again).items()
        answers = again
        check_rule(copied(folder, tmp_path / "copy"), answers, range(last + 1))
        assert live.get("/healthz").status == 200
    assert last >= 3
