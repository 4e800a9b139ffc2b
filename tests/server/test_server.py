"""The real process on real sockets: connections, durability, signals, what systemd expects."""
import json
import os
import re
import resource
import select
import shutil
import signal
import socket
import sqlite3
import stat
import struct
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from http import HTTPStatus
from pathlib import Path

import pytest
from harness import (
    ACTIVATE,
    INSIDE,
    OUTSIDE,
    SCRIPT,
    STATIONS,
    bulk,
    memory,
    parse_responses,
    read_until,
    receive,
    request,
    update_path,
    wait_for,
)
from tools import skip

GET = update_path(INSIDE, "22.5")


def get(path, **headers):
    return request("GET", path, **headers)


def tuned(change):
    """A command that serves with other limits: time-outs of seconds, not minutes."""
    code = f"import iotserver, sys; iotserver.{change}; sys.exit(iotserver.main())"
    return {"command": ("-c", code), "env": {"PYTHONPATH": str(SCRIPT.parent)}}


# -- connections ----------------------------------------------------------------------------------


def test_kept_alive_connection(live):
    with closing(live.client()) as client:
        for number in range(1, 6):
            client.request("GET", GET)
            answer = client.getresponse()
            assert (answer.status, answer.read()) == (200, b"%d" % number)
        channel = client.sock
        client.request("POST", "/update", bulk(INSIDE, (1, 2)))
        assert json.load(client.getresponse())["entries"] == [6]
        assert client.sock is channel


def test_pipelined_requests_are_answered_in_order(live):
    raw = b"".join([get(GET), request("POST", "/update", bulk(INSIDE, (1, 2), (2, 3))), get("/no"),
                    request("HEAD", "/healthz"), get(GET), get("/export.csv"), get("/healthz"),
                    get(GET, Connection="close"), get(GET)])
    methods = ["GET", "POST", "GET", "HEAD", "GET", "GET", "GET", "GET"]
    responses = live.talk(raw, methods=methods)
    assert [r.status for r in responses] == [200, 200, 404, 200, 200, 200, 200, 200]
    assert [responses[i].body for i in (0, 4, 7)] == [b"1", b"4", b"5"]
    assert responses[1].json["entries"] == [2, 3]
    assert responses[5].text.count("\n") == 5, "what was answered before is in the export"
    assert len(live.rows()) == 5, "nothing is executed behind Connection: close"


def test_requests_cut_anywhere_are_put_together(live):
    raw = b"".join([get(GET), request("POST", "/update", bulk(INSIDE, (1, 2))),
                    get(GET, Connection="close")])
    with live.connect() as channel:
        channel.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for i in range(0, len(raw), 7):
            channel.sendall(raw[i:i + 7])
        assert [r.status for r in parse_responses(receive(channel))] == [200, 200, 200]
    assert len(live.rows()) == 3


def test_http_1_0(live):
    plain, = live.talk(request("GET", GET, version="1.0"))
    assert (plain.status, plain.body, plain.headers["connection"]) == (200, b"1", "close")
    kept = live.talk(request("GET", GET, version="1.0", Connection="keep-alive") * 2,
                     half_close=True)
    assert [(r.body, r.headers["connection"]) for r in kept] == [
        (b"2", "keep-alive"), (b"3", "keep-alive")]
    export, = live.talk(request("GET", "/export.csv", version="1.0"))
    assert "transfer-encoding" not in export.headers
    assert export.text.count("\n") == 4


def test_half_closed_client_is_answered(live):
    for path in GET, "/", "/export.csv", "/healthz":
        response, = live.talk(get(path), half_close=True)
        assert response.status == 200
        assert response.body


def test_half_closed_client_gets_all_of_its_pipeline(live):
    raw = get(GET) + get("/export.csv") + get(GET)
    assert [r.status for r in live.talk(raw, half_close=True)] == [200, 200, 200]
    assert len(live.rows()) == 2


def test_client_that_hangs_up_right_after_sending_is_stored(live):
    for _ in range(20):
        with live.connect() as channel:
            channel.sendall(get(GET))
    wait_for(lambda: len(live.rows()) == 20)


CUT_OFF = [
    get(GET)[:-1], get(GET)[:-2], get(GET)[:40], get(GET).partition(b"\r\n")[0],
    request("POST", "/update", bulk(INSIDE, (1, 2)))[:-1],
    request("POST", "/update", bulk(INSIDE, (1, 2)), Content_Length=1000)]


@pytest.mark.parametrize("half_close", [True, False])
def test_request_that_was_cut_off_is_never_stored(live, half_close):
    for raw in CUT_OFF:
        with live.connect() as channel:
            channel.sendall(raw)
            if half_close:
                channel.shutdown(socket.SHUT_WR)
                assert all(r.status >= 400 for r in parse_responses(receive(channel)))
    assert live.get("/healthz").status == 200
    assert live.rows() == []


def test_client_that_is_done_leaves_no_connection_behind(live):
    """Lingering is for clients that still send."""
    before = open_sockets(live)
    for half_close in True, False:
        live.talk(b"nonsense\r\n\r\n", half_close)
        wait_for(lambda: open_sockets(live) <= before, 1)


def test_client_that_resets_its_connection_harms_nobody(live):
    """What was to be told to it cannot be; others of the same turn are answered."""
    for _ in range(50):
        with live.connect() as other, live.connect() as rude:
            rude.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            rude.sendall(b"nonsense\r\n\r\n")
            other.sendall(get(GET, Connection="close"))
            rude.close()
            response, = parse_responses(receive(other))
            assert response.status == 200


def test_expect_100_continue(live):
    body = bulk(INSIDE, (1, 2))
    with live.connect() as channel:
        channel.sendall(request("POST", "/update", Content_Length=len(body), Connection="close",
                                Expect="100-continue"))
        assert read_until(channel, b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        channel.sendall(body)
        response, = parse_responses(receive(channel))
        assert response.json == {"stored": 1, "entries": [1]}
    too_large, = live.talk(request("POST", "/update", Content_Length=300_000,
                                   Expect="100-continue"))
    assert too_large.status == 413, "said before the body is sent"


def test_too_large_is_told_even_to_a_client_that_goes_on_sending(live):
    head = b"GET / HTTP/1.1\r\nHost: a\r\n"
    for raw, status in [
            (b"GET /" + b"a" * 100_000, 414), (b"a" * 9000, 414),
            (head + b"A: " + b"a" * 100_000, 431), (head + b"A: a\r\n" * 5000, 431),
            (head + b"A: " + b"a" * 20_000 + b"\r\n\r\n", 431),
            (request("POST", "/update", b"a" * 2_000_000), 413)]:
        response, = live.talk(raw)
        assert response.status == status
        assert response.headers["connection"] == "close"


def test_body_of_256_kib_fits(live):
    body = bulk(INSIDE, (1, 2))
    body = body[:-1] + b" " * (256 * 1024 - len(body)) + b"}"
    assert live.ask("POST", "/update", body).status == 200
    assert live.ask("POST", "/update", body + b" ").status == 413


@pytest.mark.slow
def test_slow_clients_are_cut_off_in_time(database, serve):
    """A drip of bytes does not extend the deadline of a head."""
    live = serve(**tuned("PATIENCE.update(head=1, body=1, idle=1)"))
    head = request("POST", "/update", Content_Length=100)
    with ExitStack() as stack:
        drip, body, idle = (stack.enter_context(live.connect()) for _ in range(3))
        body.sendall(head)
        for channel in drip, body:
            channel.settimeout(0.2)
        answers, started = {drip: b"", body: b""}, time.monotonic()
        while answers and time.monotonic() < started + 6:
            for channel in list(answers):
                try:
                    channel.sendall(b"a")
                    answers[channel] += channel.recv(1000)
                    if b"\r\n\r\n" in answers[channel]:
                        assert answers.pop(channel).startswith(b"HTTP/1.1 408 ")
                except TimeoutError:
                    pass
        assert not answers, "still open after 6 s"
        assert idle.recv(100) == b""


@pytest.mark.quiet
@pytest.mark.untraced
def test_many_idle_connections_disturb_nobody(live, many_files):
    count = min(many_files - 200, 1500)
    if count < 300:
        skip(f"only {many_files} open files are allowed here")
    before = memory(live)
    with ExitStack() as stack:
        for _ in range(count):
            stack.enter_context(live.connect())
        started = time.monotonic()
        for number in range(1, 11):
            assert live.update(INSIDE, number) == number
        assert time.monotonic() - started < 2
        assert memory(live) - before < count * 20_000
    wait_for(lambda: open_sockets(live) < 50)


def open_sockets(live):
    """How many sockets the server has, listening ones too."""
    found = 0
    for file in Path(f"/proc/{live.process.pid}/fd").iterdir():
        with suppress(FileNotFoundError):       # closed meanwhile
            found += os.readlink(file).startswith("socket:")
    return found


def test_connections_beyond_the_limit_are_refused_with_retry_after(database, serve):
    live = serve(**tuned("MAX_CONNECTIONS = 5"))
    with ExitStack() as stack:
        channels = [stack.enter_context(live.connect()) for _ in range(5)]
        for channel in channels:
            channel.sendall(get("/healthz"))
            read_until(channel, b"ok")
        response, = live.talk(b"")
        assert response.status == 503
        assert int(response.headers["retry-after"]) > 0
    wait_for(lambda: live.get("/healthz").status == 200)


@pytest.mark.parametrize("addresses", [1, 4])
def test_no_address_takes_all_connections(database, serve, addresses):
    """One that opened 8,192 and sent nothing had every update of others refused."""
    live = serve(**tuned("MAX_CONNECTIONS = 12"))
    with ExitStack() as stack:
        for n in range(24):             # those beyond the limit are refused
            stack.enter_context(socket.create_connection(
                ("127.0.0.1", live.port), 10, (f"127.0.1.{1 + n % addresses}", 0)))
        for number in range(1, 6):
            assert live.update(INSIDE, number) == number
        channels = [stack.enter_context(live.connect()) for _ in range(2)]
        for channel in channels:        # the others go on losing theirs, not these
            channel.sendall(get("/healthz"))
            read_until(channel, b"ok")
            channel.sendall(get("/healthz"))
            read_until(channel, b"ok")
    wait_for(lambda: open_sockets(live) < 8)


# -- storing --------------------------------------------------------------------------------------


def test_any_number_of_updates_in_the_same_instant_are_all_stored(live):
    """The reason for all this: ThingSpeak drops the second of two within 15 s."""
    threads, each = 8, 40
    barrier = threading.Barrier(threads)

    def send(number):
        station = STATIONS[number % 2]
        with closing(live.client()) as client:
            barrier.wait()
            entries = []
            for i in range(each):
                client.request("GET", update_path(station, number * 1000 + i, 1 + i % 3))
                entries.append(int(client.getresponse().read()))
            return station.name, entries
    with ThreadPoolExecutor(threads) as pool:
        answers = list(pool.map(send, range(threads)))
    rows = live.rows()
    assert sorted(float(row[3]) for row in rows) == sorted(
        number * 1000 + i for number in range(threads) for i in range(each))
    for station in STATIONS:
        told = sorted(e for name, entries in answers for e in entries if name == station.name)
        assert told == list(range(1, threads * each // 2 + 1)), "no number twice, none left out"
        assert sorted(int(row[4]) for row in rows if row[1] == station.name) == told


def test_two_stations_on_new_connections_at_once(live):
    def send(number):
        return live.update(STATIONS[number % 2], number)
    with ThreadPoolExecutor(20) as pool:
        assert sorted(pool.map(send, range(100))) == sorted([*range(1, 51)] * 2)
    assert len(live.rows()) == 100


def test_answered_means_stored(live):
    """Killed in the instant of the answer: the reading is there."""
    with live.connect() as channel:
        channel.sendall(get(update_path(INSIDE, "1")) + get(update_path(OUTSIDE, "2", 3)))
        read_until(channel, b"\r\n\r\n1")
        live.kill()
    with closing(sqlite3.connect(live.db)) as db:
        values = [row[0] for row in db.execute("SELECT value FROM reading ORDER BY value")]
        assert values[:1] == [1]
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


@pytest.mark.untraced
@pytest.mark.slow
def test_killed_under_load_keeps_all_that_was_answered(live, serve):
    told = []

    def send(station):
        try:
            for i in range(10_000):
                client.request("GET", update_path(station, i))
                told.append((station.name, client.getresponse().read().decode()))
        except OSError:
            return
    for station in STATIONS:
        client = live.client()
        thread = threading.Thread(target=send, args=(station,))
        thread.start()
        wait_for(lambda: len(told) >= 100)
        live.kill()
        thread.join()
        client.close()
        live = serve("--rate-limit", "0")
        stored = {(row[1], row[4]) for row in live.rows()}
        assert set(told) <= stored
        told.clear()


def test_seq_is_remembered_over_a_restart(live, serve):
    assert live.update(INSIDE, "1", more="/seq=boot-7") == 1
    assert live.update(INSIDE, "2") == 2
    live.kill()
    live = serve()
    assert live.update(INSIDE, "1", more="/seq=boot-7") == 1
    assert live.update(INSIDE, "3") == 3
    assert len(live.rows()) == 3


def test_repetition_in_the_same_instant_is_stored_once(live):
    path = update_path(INSIDE, "1", more="/seq=x")
    assert [r.body for r in live.talk(get(path) * 5, half_close=True)] == [b"1"] * 5
    assert len(live.rows()) == 1


def test_rate_limit_tells_when_to_come_again(database, serve):
    live = serve("--rate-limit", "3")
    raw = get(GET) * 4 + get(update_path(OUTSIDE, 1))
    *granted, limited, other = live.talk(raw, half_close=True)
    assert [r.status for r in granted] == [200] * 3
    assert (limited.status, limited.headers["retry-after"]) == (429, "20")
    assert other.status == 200, "a refusal does not close the connection"
    assert len(live.rows()) == 4


@pytest.mark.untraced
@pytest.mark.slow
def test_unknown_macs_take_no_memory(database, serve):
    live = serve("--rate-limit", "3")

    def flood(start):
        raw = b"".join(get(f"/update/API_key=k/mac=unknown{i}/field=1/data=1")
                       for i in range(start, start + 5000))
        assert {r.status for r in live.talk(raw, half_close=True)} <= {403, 429}
    for i in range(2):                  # until the memory of heads is full
        flood(i * 5000)
    before = memory(live)
    for i in range(2, 5):
        flood(i * 5000)
    assert memory(live) - before < 2_000_000, "less than any table of 15,000 MACs"


def test_full_disk_is_507_and_heals_by_itself(live):
    if not hasattr(resource, "prlimit"):
        skip("the size of another process's files can be limited on Linux only")
    live.expected = r"iotserver: .*iot\.db: .*; updates are refused until this is over\n"
    assert live.update(INSIDE, "1") == 1
    unlimited = resource.prlimit(live.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(live.process.pid, resource.RLIMIT_FSIZE, (4096, unlimited[1]))
    for _ in range(3):
        refused = live.get(GET)
        assert refused.status == HTTPStatus.INSUFFICIENT_STORAGE
    assert live.get("/healthz").status == 503
    assert live.get("/api/stations").status == 200, "what is stored can still be seen"
    resource.prlimit(live.process.pid, resource.RLIMIT_FSIZE, unlimited)
    assert live.update(INSIDE, "2") == 2, "what failed took no entry number"
    assert live.get("/healthz").status == 200
    assert [row[3] for row in sorted(live.rows(), key=lambda r: int(r[4]))] == ["1", "2"]


@contextmanager
def locked(path):
    """Another program's transaction."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


def test_another_programs_transaction_is_503_at_once_and_heals_by_itself(live):
    """Each update stopped the server for 5 s, and with it whoever asked for anything."""
    live.expected = r"iotserver: .*iot\.db: database is locked; updates are refused until .*\n"
    assert live.update(INSIDE, "1") == 1
    with locked(live.db):
        began = time.monotonic()
        for _ in range(5):
            refused = live.get(GET)
            assert (refused.status, refused.headers["retry-after"]) == (503, "5")
            assert live.get("/healthz").status == 503
            assert live.get("/api/stations").status == 200
        assert time.monotonic() - began < 2
    assert live.update(INSIDE, "2") == 2
    assert live.get("/healthz").status == 200


def test_a_database_that_is_whole_is_not_called_damaged(database, run, tmp_path):
    with locked(database):
        run("--edit-station", "inside", "--name", "x", status=1,
            stderr="another program has it locked; end that program")
    with closing(sqlite3.connect(database)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("PRAGMA journal_mode = DELETE")
        other.execute("BEGIN EXCLUSIVE")
        for flags in (["--stations"], ["--edit-station", "inside", "--name", "x"]):
            run(*flags, status=1, stderr="another program has it locked; end that program")


# -- events, export, health -----------------------------------------------------------------------


def subscribe(channel):
    channel.sendall(get("/events"))
    read_until(read_head(channel), b"\n\n")


def read_head(channel):
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += channel.recv(1)
    assert head.startswith(b"HTTP/1.1 200 ")
    return channel


def read_event(channel, data=b""):
    """The fields of the next event, and what is behind it."""
    while True:
        data = read_until(channel, b"\n\n", data)
        event, _, data = data.partition(b"\n\n")
        lines = [line for line in event.decode().splitlines() if not line.startswith(":")]
        fields = dict(line.split(": ", 1) for line in lines)
        if "data" in fields:
            return {**fields, "data": json.loads(fields["data"])}, data


def test_events_tell_each_stored_reading(live):
    with live.connect() as channel, live.connect() as other:
        for each in channel, other:
            subscribe(each)
        assert live.update(INSIDE, "22.5", 2) == 1
        assert live.get(update_path(INSIDE, "nan")).status == 400
        live.ask("POST", "/update", bulk(OUTSIDE, (1, -3), (1, -4)))
        for each in channel, other:
            rest, seen = b"", []
            while len(seen) < 3:
                event, rest = read_event(each, rest)
                if event.get("event") == "reading":
                    seen.append((event["data"]["station"], event["data"]["field"],
                                 event["data"]["value"]))
            assert seen == [(1, 2, 22.5), (2, 1, -3), (2, 1, -4)]


def test_head_of_events_gets_no_events(live):
    with live.connect() as channel:
        channel.sendall(request("HEAD", "/events"))
        head = read_until(channel, b"\r\n\r\n")
        live.update(INSIDE, "1")
        channel.settimeout(0.3)
        try:
            more = channel.recv(1000)
        except TimeoutError:
            more = b""
        assert head.endswith(b"\r\n\r\n")
        assert more == b""


@pytest.mark.untraced
@pytest.mark.slow
def test_listener_that_does_not_read_is_dropped_and_others_go_on(database, serve):
    live = serve("--rate-limit", "0", **tuned("MAX_UNSENT = 2000"))
    before = open_sockets(live)
    with socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.connect(("127.0.0.1", live.port))
        subscribe(deaf)
        body = bulk(INSIDE, *[(1, i) for i in range(100)])
        for _ in range(600):
            assert live.ask("POST", "/update", body).status == 200
        wait_for(lambda: open_sockets(live) <= before)


def test_export_streams_while_updates_go_on(live):
    for _ in range(20):
        live.ask("POST", "/update", bulk(INSIDE, *[{"field": 1, "data": i, "age": i}
                                                   for i in range(960)]))
    with live.connect() as channel:
        channel.sendall(get("/export.csv", Connection="close"))
        first = channel.recv(1000)
        assert live.update(INSIDE, "7") == 20 * 960 + 1
        response, = parse_responses(first + receive(channel))
    assert 20 * 960 <= response.text.count("\n") - 1 <= 20 * 960 + 1
    lines = response.text.splitlines()[1:]
    assert lines == sorted(lines, key=lambda line: (line[:24], int(line.rpartition(",")[2])))


def test_healthz_ends_with_the_database(live):
    """Why is said in the log alone: an answer to anybody tells no path."""
    live.expected = r"iotserver: the database cannot be read: .*iot\.db is gone\n"
    assert live.get("/healthz").body.strip() == b"ok"
    live.db.rename(live.db.with_name("away.db"))
    response = live.get("/healthz")
    assert (response.status, response.headers["retry-after"].isdigit()) == (503, True)
    assert b"iot.db" not in response.body
    live.db.with_name("away.db").rename(live.db)
    assert live.get("/healthz").status == 200


# -- the process ----------------------------------------------------------------------------------


def test_first_start_tells_how_to_add_a_station(serve, tmp_path):
    live = serve()
    hint = live.process.stdout.readline()
    assert "--add-station" in hint
    page = live.get("/").text
    command = re.search(r"python3 iotserver\.py (.*?--mac) ", page, re.DOTALL)
    assert command
    assert command[1].replace("&quot;", '"').split()[1] == str(tmp_path / "iot.db")


def test_sigterm_answers_what_is_in_flight(live):
    """A request that has begun and a connection just accepted are answered; it ends with 0."""
    with live.connect() as begun, live.connect() as silent, live.connect() as idle:
        idle.sendall(get("/healthz"))
        read_until(idle, b"ok")
        begun.sendall(get(GET)[:30])
        live.get("/healthz")
        live.process.send_signal(signal.SIGTERM)
        wait_for(lambda: not is_listening(live))
        begun.sendall(get(GET)[30:])
        silent.sendall(get(update_path(OUTSIDE, "1")))
        for channel in begun, silent:
            response, = parse_responses(receive(channel))
            assert (response.status, response.body) == (200, b"1")
            assert response.headers["connection"] == "close"
        assert idle.recv(100) == b"", "an idle connection is closed, not reset"
    assert live.process.wait(30) == 0
    with closing(sqlite3.connect(live.db)) as db:
        assert db.execute("SELECT count(*) FROM reading").fetchone() == (2,)
    assert not live.db.with_name("iot.db-wal").exists(), "checkpointed"
    assert not live.db.with_name("iot.db.sock").exists()


def is_listening(live):
    try:
        live.connect().close()
    except ConnectionRefusedError:
        return False
    return True


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_under_load_loses_no_answer(live, number):
    """Whoever was connected before the signal is answered."""
    told, lost, signaled = [], [], threading.Event()

    def send(station):
        while not signaled.is_set():
            try:
                with live.connect() as channel:
                    was_signaled = signaled.is_set()
                    channel.sendall(get(update_path(station, len(told)), Connection="close"))
                    answer = receive(channel)
                    (told if b" 200 " in answer else lost).append(answer)
            except OSError as error:
                if not was_signaled:
                    lost.append(error)
    threads = [threading.Thread(target=send, args=(STATIONS[i % 2],)) for i in range(4)]
    for thread in threads:
        thread.start()
    wait_for(lambda: len(told) > 50)
    signaled.set()
    live.process.send_signal(number)
    assert live.process.wait(30) == 0
    for thread in threads:
        thread.join()
    assert lost == []
    with closing(sqlite3.connect(live.db)) as db:
        assert db.execute("SELECT count(*) FROM reading").fetchone() == (len(told),)


@pytest.mark.quiet
@pytest.mark.slow
def test_sigterm_does_not_wait_for_clients_that_never_end(live):
    with live.connect() as listener, live.connect() as cut, live.connect() as reader:
        subscribe(listener)
        cut.sendall(get(GET)[:-2])
        reader.sendall(get("/"))
        began = time.monotonic()
        assert live.stop() == 0
        assert time.monotonic() - began < 5
    assert live.db.exists()


def test_second_server_on_the_same_database_is_refused(live, run):
    run("--port", "0", status=1, stderr="in use by another iotserver")
    assert live.update(INSIDE, "1") == 1


def test_taken_port_is_told(live, run, tmp_path):
    run("--port", live.port, "--db", tmp_path / "other.db", status=1, stderr=str(live.port))


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_files_are_for_their_owner_only(serve, tmp_path):
    before = os.umask(0)
    try:
        live = serve()
    finally:
        os.umask(before)
    live.get("/healthz")
    found = {path.name: mode(path) for path in tmp_path.glob("iot.db*")}
    assert found.pop("iot.db") == found.pop("iot.db.sock") == found.pop("iot.db.courier") == 0o600
    assert set(found.values()) <= {0o600}


def test_leftovers_of_a_killed_server_are_no_obstacle(live, serve):
    live.update(INSIDE, "1")
    live.kill()
    assert live.db.with_name("iot.db.sock").exists()
    assert serve().update(INSIDE, "2") == 2


def foreign_files(folder):
    """Files that are none of ours, by name."""
    def make(name, *statements):
        with closing(sqlite3.connect(folder / name)) as db:
            for statement in statements:
                db.execute(statement)
            db.commit()
    make("older", "CREATE TABLE data (Id INTEGER, API_key, date_time, mac, field, data)",
         "INSERT INTO data VALUES (1, 'K', '2018-07-30T22:16:34', 'm', 1, 21.1)")
    make("other", "CREATE TABLE t (x)", "PRAGMA application_id = 77")
    make("zero", "PRAGMA user_version = 0")
    make("empty table", "CREATE TABLE reading (x)")
    (folder / "text").write_text("time,station\n" * 100)
    (folder / "short").write_bytes(b"SQLite format 3\0")
    (folder / "random").write_bytes(bytes(range(256)) * 20)
    shutil.copy(folder / "iot.db", folder / "newer")
    make("newer", "PRAGMA user_version = 99")
    return ["older", "other", "empty table", "text", "short", "random", "newer"]


@pytest.mark.untraced
@pytest.mark.slow
def test_large_reads_let_others_have_their_turns(database, serve):
    """Each takes some 100 ms: an update waits for none of them, and not all of them wait."""
    live = serve("--rate-limit", "0", **tuned("MAX_WORKS_PER_ADDRESS = 32"))
    body = bulk(INSIDE, *[(1, n) for n in range(960)])
    for _ in range(9):
        assert live.ask("POST", "/update", body).status == 200
    raw = get("/channels/1/feeds.xml?results=8000", Connection="close")
    with ExitStack() as stack:
        channels = [stack.enter_context(live.connect(60)) for _ in range(60)]
        for channel in channels:
            channel.sendall(raw)
        channels[-1].shutdown(socket.SHUT_WR)           # it is owed an answer all the same
        channels.pop(7).close()                         # and this one takes none
        assert live.update(OUTSIDE, 21) == 1
        unanswered = [channel for channel in channels
                      if not select.select([channel], [], [], 0)[0]]
        assert len(unanswered) > 10, "the update was answered before the reads"
        answers = [parse_responses(receive(channel))[0] for channel in channels]
    assert {answer.status for answer in answers} == {200, 503}
    refused = [answer for answer in answers if answer.status == 503]
    assert len(refused) < 60 - 32 + 5
    assert {answer.headers["retry-after"] for answer in refused} == {"5"}
    assert {a.body.count(b"<entry-id") for a in answers if a.status == 200} == {8000}


@pytest.mark.slow
def test_foreign_files_are_refused_and_left_as_they_are(database, run, tmp_path):
    for name in foreign_files(tmp_path):
        path = tmp_path / name
        before = path.read_bytes(), path.stat().st_mtime_ns, mode(path)
        for flags in ["--port", "0"], ["--stations"]:
            run("--db", path, *flags, status=1, stderr=name)
        assert (path.read_bytes(), path.stat().st_mtime_ns, mode(path)) == before
        assert not list(tmp_path.glob(f"{name}-*")), "no log beside it"


def test_database_of_a_newer_version_is_refused_with_its_number(database, run):
    with closing(sqlite3.connect(database)) as db:
        db.execute("PRAGMA user_version = 99")
    run("--port", "0", status=1, stderr="99")


# -- systemd --------------------------------------------------------------------------------------

@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_UNIX])
def test_inherited_socket_wins_over_host_and_port(database, serve, tmp_path, family):
    with socket.socket(family) as listener:
        listener.bind(("127.0.0.1", 0) if family == socket.AF_INET else str(tmp_path / "http"))
        listener.listen(100)
        with socket.socket(family) as early:
            early.connect(listener.getsockname())
            early.sendall(get(GET, Connection="close"))
            live = serve(command=("-c", ACTIVATE, str(listener.fileno()), SCRIPT),
                         pass_fds=[listener.fileno()])
            early.settimeout(30)
            response, = parse_responses(receive(early))
            assert (response.status, response.body) == (200, b"1")
        assert live.port is None
        assert live.stop() == 0


def test_systemd_is_notified(database, serve, tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.settimeout(30)
        channel.bind(str(tmp_path / "notify"))
        live = serve(env={"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "2000000"})
        assert channel.recv(100) == b"READY=1"
        assert [channel.recv(100) for _ in range(2)] == [b"WATCHDOG=1"] * 2
        live.process.send_signal(signal.SIGTERM)
        wait_for(lambda: channel.recv(100) == b"STOPPING=1")
        assert live.process.wait(30) == 0


@pytest.mark.parametrize("number", ["abc", "", "-1", "9" * 5000])
def test_numbers_of_systemd_that_are_none_are_left_out(database, serve, number):
    live = serve(env={"WATCHDOG_USEC": number, "LISTEN_FDS": number})
    assert live.update(INSIDE, "1") == 1


def test_abstract_notify_socket(database, serve):
    name = f"iotserver-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind("\0" + name)
        channel.settimeout(30)
        live = serve(env={"NOTIFY_SOCKET": "@" + name})
        assert channel.recv(100) == b"READY=1"
        assert live.stop() == 0


def test_systemd_that_does_not_listen_is_no_reason_to_fail(database, serve, tmp_path):
    live = serve(env={"NOTIFY_SOCKET": str(tmp_path / "nobody")})
    assert live.update(INSIDE, "1") == 1
    assert live.stop() == 0


def test_imported_history_is_replayed_once_after_the_start(database, serve, run, tmp_path):
    """What it tells is stored at once: otherwise each look of the first minute replays days."""
    (tmp_path / "history.csv").write_text("time,station,mac,field,value,entry\n" + "".join(
        f"{time.strftime('%FT%TZ', time.gmtime(time.time() - 60 * minute))},{station.name},"
        f"{station.mac},1,20,\n" for station in (INSIDE, OUTSIDE) for minute in range(120, 0, -1)))
    run("--import", "history.csv")
    serve()

    def courses():
        with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as reader:
            return reader.execute("SELECT count(*) FROM course").fetchone()[0]
    wait_for(lambda: courses() == 1, 20)         # a job of every minute would be too late
