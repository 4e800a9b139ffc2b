"""The courier as a process: when it is there, whom it speaks to, and when it is gone."""
import contextlib
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from harness import SCRIPT, environment, wait_for

import iotserver

NOWHERE = {"IOTSERVER_NOTIFY": "json://127.0.0.1:9/hook"}      # port 9: nobody is there


def command_line(number):
    return Path(f"/proc/{number}/cmdline").read_text().split("\0")


def children(process):
    """The numbers of the couriers that a server has started."""
    path = Path(f"/proc/{process}/task/{process}/children")
    return [int(number) for number in path.read_text().split()
            if "--courier" in command_line(number)]


def is_there(number):
    """Whether a process runs: one that has ended and not been asked for its status does not."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def has_socket(number):
    links = list(Path(f"/proc/{number}/fd").iterdir())
    return any("socket:" in os.readlink(link) for link in links if link.is_symlink())


@contextlib.contextmanager
def courier(folder, **env):
    """A courier alone, on iot.db in a folder."""
    with subprocess.Popen([sys.executable, SCRIPT, "--courier"], cwd=folder, text=True,
                          stderr=subprocess.PIPE, env=environment(**NOWHERE, **env)) as process:
        try:
            yield process
        finally:
            process.kill()


def say(path, *line):
    """One line to a socket, and the answer."""
    with socket.socket(socket.AF_UNIX) as channel:
        channel.settimeout(10)
        channel.connect(str(path))
        channel.sendall(json.dumps(line).encode() + b"\n")
        return json.loads(channel.makefile("rb").readline())


def test_without_destinations_there_is_no_courier(live):
    live.get("/healthz")
    assert children(live.process.pid) == []


def test_it_comes_and_goes_with_the_server(database, serve):
    live = serve(env=NOWHERE)
    number, = wait_for(lambda: children(live.process.pid))
    assert "hook" not in " ".join(command_line(number)), "in no list of processes is a secret"
    assert live.stop() == 0
    assert not is_there(number)


@pytest.mark.untraced
def test_it_is_started_again_and_outlives_no_server(database, serve):
    live = serve(env={**NOWHERE, "CLOCK_SPEED": "20"},
                 command=(Path(__file__).parent.parent / "support/clock.py", SCRIPT))
    live.expected = "iotserver: the courier ended with status -9; restarting it\n"
    first, = wait_for(lambda: children(live.process.pid))
    os.kill(first, signal.SIGKILL)
    second, = wait_for(lambda: [n for n in children(live.process.pid) if n != first], 20)
    live.kill()
    wait_for(lambda: not is_there(second), 20)


@pytest.mark.quiet
def test_alone_it_waits_for_the_server_and_stops_when_told(database, serve, tmp_path):
    with courier(tmp_path) as process:
        assert "waiting for the server" in process.stderr.readline()
        live = serve()
        wait_for(lambda: has_socket(process.pid))
        live.stop()
        assert "waiting for the server" in process.stderr.readline()
        process.terminate()
        started = time.monotonic()
        assert process.wait(10) == 0
        assert time.monotonic() - started < 5


@pytest.mark.parametrize(("folder", "socket_mode"), [
    (0o700, 0o600), (0o755, 0o600), (0o710, 0o660), (0o750, 0o660)])
def test_its_socket_is_for_a_group_where_the_folder_is(database, serve, tmp_path, folder,
                                                       socket_mode):
    tmp_path.chmod(folder)
    live = serve()
    assert stat.S_IMODE(live.db.with_name("iot.db.courier").stat().st_mode) == socket_mode
    assert stat.S_IMODE(live.db.with_name("iot.db.sock").stat().st_mode) == 0o600


def test_its_socket_knows_its_few_methods_and_no_command(live):
    path = live.db.with_name("iot.db.courier")
    for method in (*iotserver.WRITER_METHODS, "address", "__init__"):
        assert method not in iotserver.COURIER_METHODS
        assert "does not know it" in say(path, method, [])["error"]


def test_half_an_answer_is_a_server_that_has_ended(tmp_path):
    """It must not end the courier, which knows what it has not told yet."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "iot.db.courier"))
        listener.listen()
        with contextlib.closing(iotserver.Remote(tmp_path / "iot.db", ".courier")) as remote:
            channel, _ = listener.accept()
            with channel:
                channel.sendall(b'{"result":[1,')
                channel.shutdown(socket.SHUT_WR)
                with pytest.raises(iotserver.StoreError, match="ended before"):
                    remote.collect([], "", "")


def test_it_needs_something_to_carry(run):
    run("--courier", status=2, stderr="--courier needs --notify")
