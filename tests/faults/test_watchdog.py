"""Hung means restarted: the pings that keep systemd from restarting the server come as long as it
can store, and stop when the process has stopped, or the disk under it."""
import contextlib
import signal
import socket
import time

import pytest
from harness import INSIDE, SCRIPT, request, update_path
from injection import attached, broken, inject, living
from tools import needs

pytestmark = needs("strace")
SECONDS = 2                     # after so long without a ping systemd restarts the server
THREAD = ('notify("READY=1")', """notify("READY=1"); import threading; threading.Thread(
        target=lambda: [(time.sleep(0.5), notify("WATCHDOG=1")) for _ in range(60)],
        daemon=True).start()""")


@pytest.fixture
def watched(database, tmp_path):
    """Starts a server that is watched: watched() -> (server, what systemd hears)."""
    with (socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel,
          contextlib.ExitStack() as stack):
        channel.bind(str(tmp_path / "notify"))
        channel.settimeout(20)

        def start(script=SCRIPT):
            live = stack.enter_context(living(tmp_path, command=(script,), env={
                "NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": f"{SECONDS}000000"}))
            assert [channel.recv(100) for _ in range(2)] == [b"READY=1", b"WATCHDOG=1"]
            return live, channel
        yield start


def would_be_restarted(channel):
    """Whether there is a silence as long as systemd's patience; pings on the way do not count."""
    channel.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while channel.recv(100):
            pass
    channel.settimeout(2 * SECONDS)
    try:
        return channel.recv(100) != b"WATCHDOG=1"
    except TimeoutError:
        return True


def test_stopped_process_pings_no_more(watched):
    live, channel = watched()
    assert not would_be_restarted(channel)
    live.process.send_signal(signal.SIGSTOP)
    assert would_be_restarted(channel)
    live.process.send_signal(signal.SIGCONT)
    assert not would_be_restarted(channel)
    assert live.update(INSIDE, 1) == 1


@contextlib.contextmanager
def hanging_disk(live, tmp_path):
    """A sync that never returns, in which an update waits; at the end of the block it does."""
    hang = inject("fdatasync", "delay_enter=100000000", 1)
    with live.connect() as channel:
        with attached(live, tmp_path / "strace.log", *hang):
            channel.sendall(request("GET", update_path(INSIDE, 1)))
            time.sleep(1)
            yield
        assert channel.recv(100).startswith(b"HTTP/1.1 200 OK")


def test_server_whose_disk_hangs_pings_no_more(watched, tmp_path):
    live, channel = watched()
    with hanging_disk(live, tmp_path):
        assert would_be_restarted(channel)
    assert not would_be_restarted(channel)


def test_a_server_that_pings_from_another_thread_is_found_out(watched, tmp_path):
    live, channel = watched(broken(tmp_path, THREAD))
    with hanging_disk(live, tmp_path):
        assert not would_be_restarted(channel)
