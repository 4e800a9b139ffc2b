"""A password is checked beside the event loop: nobody waits for a wrong one."""
import contextlib
import itertools
import signal
import sys
from pathlib import Path

import pytest
from harness import PASSWORD, basic, parse_responses, receive, request, wait_for

import iotserver

CHECKS = 4


def login(password=PASSWORD, body=b"", **headers):
    return request("GET", "/api/stations", body, Authorization=basic(password), Connection="close",
                   **headers)


def status_of(channel):
    response, = parse_responses(receive(channel))
    return response.status


def children(live):
    path = Path(f"/proc/{live.process.pid}/task/{live.process.pid}/children")
    return [int(pid) for pid in path.read_text().split()]


def is_running(pid):
    """Whether it computes: where nobody collects its status, a zombie remains."""
    with contextlib.suppress(OSError):
        return "(zombie)" not in Path(f"/proc/{pid}/status").read_text()
    return False


@pytest.fixture
def private(in_process, password_file):
    return in_process(private=str(password_file))


@pytest.fixture
def live(database, serve, password_file):
    return serve("--rate-limit", "0", "--private", str(password_file))


@pytest.fixture
def connect(live):
    """Makes connections that are closed at the end of the test."""
    with contextlib.ExitStack() as stack:
        yield lambda: stack.enter_context(live.connect())


def nanoseconds(live):
    """What the server itself has computed; its children are not counted."""
    return int(Path(f"/proc/{live.process.pid}/schedstat").read_text().split()[0])


def test_a_wrong_password_takes_no_time_of_the_loop(live):
    """scrypt in the server took 50 ms or more for each."""
    live.get("/api/stations")
    took, numbers = [], itertools.count()

    def check():
        before = nanoseconds(live)
        status = live.get("/api/stations", Authorization=basic(f"wrong{next(numbers)}")).status
        took.append(nanoseconds(live) - before)
        return status == 401
    for _ in range(CHECKS):
        wait_for(check)
    assert max(took) < 20_000_000


@pytest.mark.parametrize("program", [
    "import os; os.kill(os.getpid(), 9)", "import time; time.sleep(60)", "raise SystemExit(1)"])
def test_a_check_that_fails_is_neither_right_nor_wrong(private, monkeypatch, program):
    with monkeypatch.context() as patch:
        patch.setattr(iotserver, "SCRYPT_PROGRAM", program)
        patch.setattr(iotserver, "CHECK_SECONDS", 0.3)
        answer = private.ask("GET", "/api/stations", Authorization=basic(PASSWORD))
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")
    private.time += 1
    assert not private.server.access.guesses.counts
    assert private.get("/api/stations", Authorization=basic(PASSWORD)).status == 200


def test_without_a_process_to_be_had_it_is_busy(private, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", "/nonexistent/python3")
        assert private.get("/", Authorization=basic(PASSWORD)).status == 503
    private.time += 1
    assert private.get("/", Authorization=basic(PASSWORD)).status == 200


@pytest.mark.parametrize(("path", "refused"), [
    ("/", 401), ("/api/verdict", 401), ("/channels/1/feeds.json", 400)])    # as ThingSpeak does
def test_a_first_password_opens_each_kind_of_route(private, path, refused):
    assert private.get(path, Authorization=basic("wrong")).status == refused
    private.time += 1
    assert private.get(path, Authorization=basic(PASSWORD)).status == 200


def test_who_leaves_during_a_check_has_guessed(private):
    connection = private.connect()
    connection.data_received(login("wrong"))
    check, = private.server.guard.checks.values()
    private.server.loop.run()
    connection.connection_lost(None)
    refused = private.server.loop.run_until_complete(check)
    assert refused.status == 401
    assert private.server.access.guesses.counts["127.0.0.1"][0] == 1


def test_many_who_come_at_once_with_the_right_password_share_a_check(live, connect):
    channels = [connect() for _ in range(20)]
    for channel in channels:
        channel.sendall(login())
    assert [status_of(channel) for channel in channels] == [200] * 20


def test_a_thousand_wrong_passwords_at_once_keep_nobody_out(live, connect):
    channels = [connect() for _ in range(1000)]
    most = 0
    for n, channel in enumerate(channels):
        channel.sendall(login(f"wrong{n}", X_Real_IP="192.0.2.1"))
        if n % 50 == 0:
            most = max(most, len(children(live)))
    told = {status_of(channel) for channel in channels}
    assert told <= {401, 429, 503}
    assert most <= 2
    assert live.get("/healthz").status == 200
    wait_for(lambda: not children(live))
    assert live.stop() == 0


def test_a_server_that_is_stopped_during_a_check_answers_and_leaves_no_process(live, connect):
    channel = connect()
    channel.sendall(login())
    wait_for(lambda: children(live))
    child, = children(live)
    live.process.send_signal(signal.SIGTERM)
    assert status_of(channel) == 200
    assert live.process.wait(10) == 0
    assert not is_running(child)


def test_a_server_that_is_killed_during_a_check_leaves_no_process(live, connect):
    channel = connect()
    channel.sendall(login())
    wait_for(lambda: children(live))
    child, = children(live)
    live.kill()
    wait_for(lambda: not is_running(child))
