"""Nobody is starved: large requests are answered in turn, one network after the other."""
import contextlib
import gc
import itertools
import re
import socket
import threading
import time
import weakref

import pytest
from harness import (
    INSIDE,
    SCRIPT,
    bulk,
    memory,
    parse_responses,
    processor_seconds,
    read_until,
    receive,
    request,
    wait_for,
)

import iotserver

pytestmark = [pytest.mark.slow, pytest.mark.untraced]

LARGE = request("GET", "/channels/1/feeds.xml?results=8000")


def fill(live, times):
    """960 entries each time, a minute apart."""
    for n in range(times):
        body = bulk(INSIDE, *[{"field": 1, "data": i % 40, "age": 60 * (960 * n + i)}
                              for i in range(960)])
        assert live.ask("POST", "/update", body).status == 200


def connect_from(live, source, timeout=60):
    return socket.create_connection(("127.0.0.1", live.port), timeout, (source, 0))


def test_addresses_that_always_have_a_next_large_request_keep_nothing_from_another(live):
    """Eight kept all long requests from a ninth for as long as they went on."""
    fill(live, 9)
    answered, is_over = [], threading.Event()

    def ask_for_ever(source):
        with contextlib.suppress(OSError), connect_from(live, source) as channel:
            while not is_over.is_set():
                channel.sendall(LARGE)
                data = b""
                while b"</channel>" not in data[-100:]:
                    data += channel.recv(65536) or b"</channel>"
                answered.append(source)
    attackers = [threading.Thread(target=ask_for_ever, args=(f"127.0.1.{n}",))
                 for n in range(8) for _ in range(2)]
    for attacker in attackers:
        attacker.start()
    wait_for(lambda: len(answered) > 8, 60)
    counts = {}
    for path in ("/", "/verdict.txt", "/api/stations", "/api/verdict", "/metrics"):
        before = len(answered)
        with connect_from(live, "127.0.2.1") as channel:
            channel.sendall(request("GET", path, Connection="close"))
            assert receive(channel).startswith(b"HTTP/1.1 200 ")
        counts[path] = len(answered) - before
    is_over.set()
    for attacker in attackers:
        attacker.join()
    assert max(counts.values()) <= 3 * 8, counts


def test_requests_of_clients_that_are_gone_are_not_worked_on(live, many_files):
    """512 of them took 84 s of processor."""
    fill(live, 9)
    before = processor_seconds(live)
    assert live.get("/channels/1/feeds.xml?results=8000").status == 200
    one, before = processor_seconds(live) - before, processor_seconds(live)
    for n in range(512):
        with connect_from(live, f"127.0.1.{n % 16}") as channel:
            channel.sendall(LARGE)
    assert live.get("/").status == 200
    assert live.get("/channels/1/feeds.xml?results=8000").status == 200
    assert processor_seconds(live) - before < 30 * one + 1


def test_2000_addresses_with_one_request_each_are_all_answered(live, many_files):
    """From the 1,025th address on they got 503."""
    fill(live, 2)
    raw = request("GET", "/channels/1/feeds.xml?results=300", Connection="close")
    with contextlib.ExitStack() as stack:
        channels = [stack.enter_context(connect_from(live, f"127.1.{n // 200}.{n % 200 + 1}"))
                    for n in range(2000)]
        for channel in channels:
            channel.sendall(raw)
        statuses = {parse_responses(receive(channel))[0].status for channel in channels}
    assert statuses == {200}


def test_a_network_has_so_many_large_requests_at_a_time(live):
    """More are told at once to come again; an IPv6 user's /64 would be one network, too."""
    fill(live, 9)
    with contextlib.ExitStack() as stack:
        channels = [stack.enter_context(live.connect(60))
                    for _ in range(iotserver.MAX_WAITING + 20)]
        for channel in channels:
            channel.sendall(request("GET", "/channels/1/feeds.xml?results=8000",
                                    Connection="close"))
        answers = [parse_responses(receive(channel))[0] for channel in channels]
    statuses = [answer.status for answer in answers]
    assert set(statuses) == {200, 503}
    assert statuses.count(503) <= 20


# -- who does not read ----------------------------------------------------------------------------

@pytest.fixture
def large(database):
    """8,000 entries with texts in all fields: a feed of 5 MB, more than a socket buffers."""
    with contextlib.closing(iotserver.Writer(database)) as writer:
        now = iotserver.now_ms()
        writer.import_rows([
            (now - i * 60_000, INSIDE.name, INSIDE.mac, field, "x" * 60, i + 1)
            for i in range(8000) for field in range(1, 9)], now)


def test_what_clients_do_not_read_is_bounded_for_all_together(large, serve):
    """80 of them took 235 MB and more, as the unit's MemoryMax. Who reads is served on."""
    unit = (SCRIPT.parent / "systemd/iotserver.service").read_text()
    live = serve("--rate-limit", "0", command=(SCRIPT,), env=dict(
        line.split("=", 1) for line in re.findall("^Environment=(.*)", unit, re.MULTILINE)))
    assert live.get("/channels/1/feeds.xml?results=8000").status == 200
    before, most = memory(live), 0
    with contextlib.ExitStack() as stack:
        for n in range(80):
            channel = stack.enter_context(socket.socket())
            channel.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            channel.bind((f"127.0.1.{n % 40}", 0))
            channel.connect(("127.0.0.1", live.port))
            channel.sendall(LARGE)
        idle = 0
        while idle < 5:                         # until the server has rendered all of them
            used = processor_seconds(live)
            time.sleep(0.2)
            most = max(most, memory(live))
            idle = 0 if processor_seconds(live) - used > 0.03 else idle + 1
        assert live.update(INSIDE, 21)
        assert live.get("/").status == 200
    assert most < int(re.search("^MemoryMax=([0-9]+)M", unit, re.MULTILINE)[1]) * 2**20 * 3 / 4
    assert most - before < 120_000_000


# -- what goes wrong in a step --------------------------------------------------------------------

@pytest.mark.parametrize("addresses", [1, 8, 80])
def test_bodies_that_never_come_take_the_room_of_no_other_network(live, addresses):
    """One address with 62 of them had every longer body of others refused, for as long as it
    went on."""
    with contextlib.ExitStack() as stack:
        began = []
        for n in range(80):
            channel = stack.enter_context(connect_from(live, f"127.0.1.{1 + n % addresses}"))
            channel.sendall(request("POST", "/update", Content_Length=iotserver.MAX_BODY))
            began.append(channel)
        body = bulk(INSIDE, *[{"field": 1, "data": i % 40, "age": i} for i in range(960)])
        assert len(body) > iotserver.MAX_HEAD
        with connect_from(live, "127.0.2.1") as channel:
            channel.sendall(request("POST", "/update", body)[:-99])
            for n in range(10):         # while it is on its way, more of the others come
                other = stack.enter_context(connect_from(live, f"127.0.1.{1 + n % addresses}"))
                other.sendall(request("POST", "/update", Content_Length=iotserver.MAX_BODY))
                assert live.get("/healthz").status == 200
            channel.sendall(body[-99:])
            assert read_until(channel, b"\r\n\r\n").startswith(b"HTTP/1.1 200")
        assert len(live.rows()) == 960


def test_what_comes_behind_long_requests_is_bounded_for_all_together(live, many_files):
    """It was looked at once a second, and what those had sent that were given up stayed: 560 MB,
    and 990 after the second time."""
    behind = request("GET", "/healthz") * 8000
    for _ in range(2):
        with contextlib.ExitStack() as stack:
            for n in range(600):
                channel = stack.enter_context(connect_from(live, f"127.0.1.{1 + n % 20}"))
                channel.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, len(behind))
                channel.sendall(request("GET", "/verdict.txt"))
                channel.setblocking(False)
                with contextlib.suppress(OSError):
                    channel.send(behind)
            assert live.get("/healthz").status == 200
            assert memory(live) < 120_000_000
    assert live.get("/verdict.txt").status == 200


def test_exports_that_are_read_slowly_keep_none_from_another_network(large, live):
    """Eight addresses with four each took all of them, for as long as they went on."""
    with contextlib.ExitStack() as stack:
        slow = []
        for n in range(iotserver.MAX_STREAMS):
            channel = stack.enter_context(socket.socket())
            channel.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            channel.bind((f"127.0.1.{1 + n // 4}", 0))
            channel.connect(("127.0.0.1", live.port))
            channel.sendall(request("GET", "/export.csv"))
            read_until(channel, b"time,station")
            slow.append(channel)
        for address, status in (("127.0.1.1", b"503"), ("127.0.2.1", b"200")):
            with connect_from(live, address) as channel:
                channel.sendall(request("GET", "/export.csv", Connection="close"))
                assert read_until(channel, b"\r\n").split()[1] == status


def test_what_goes_wrong_in_a_piece_of_an_export_ends_that_export_only(in_process, monkeypatch):
    """It stopped all long work for ever."""
    server = in_process()
    server.update(INSIDE, 20)
    with monkeypatch.context() as patch, contextlib.suppress(ValueError):
        patch.setattr(iotserver, "as_csv", lambda rows: int("no number"))
        exchange = server.exchange(request("GET", "/export.csv"))
        assert not exchange.endswith(b"0\r\n\r\n"), "without its end the client knows"
    assert server.get("/api/stations").status == 200
    assert len(server.rows()) == 1


def test_what_goes_wrong_in_a_route_is_one_answer(in_process, monkeypatch):
    server = in_process()
    with monkeypatch.context() as patch:
        patch.setattr(iotserver.Reader, "latest", lambda *_: 1 / 0)
        for path in itertools.repeat("/api/stations", 3):
            assert server.get(path).status == 500
    assert server.get("/api/stations").status == 200


def test_who_has_gone_while_waiting_leaves_nothing(in_process):
    """Neither a task nor a place in the queue, whatever it waited for."""
    server = in_process()
    shares = server.server.shares
    gone = []
    gc.disable()                        # what only a search for cycles finds may stay for long
    for rounds in range(20):
        connection = server.connect()
        gone.append(weakref.ref(connection))
        connection.data_received(request("GET", "/"))
        for _ in range(rounds % 5):
            server.server.loop.call_soon(server.server.loop.stop)
            server.server.loop.run_forever()
        connection.connection_lost(None)
        del connection
    server.server.loop.run()
    left = [connection() for connection in gone if connection()]
    gc.enable()
    assert not left
    assert (shares.counts, shares.locks, shares.waiting) == ({}, {}, {})
    assert not shares.seats.locked()
    assert server.get("/").status == 200


def test_an_update_before_a_long_request_of_a_client_that_has_gone_is_stored_first(in_process):
    """Both came in one piece, and the end of the client's side behind them."""
    server = in_process()
    others = [server.connect() for _ in range(3)]
    for other in others:
        other.data_received(request("GET", "/"))
    connection = server.connect()
    path = f"/update/API_key={INSIDE.key}/mac={INSIDE.mac}/field=1/data=21"
    connection.data_received(request("GET", path) + request("GET", "/"))
    connection.eof_received()
    assert connection.transport.sent == b"", "nothing is said before the commit"
    server.server.loop.run()
    stored, refused = parse_responses(connection.transport.sent)
    assert (stored.body, refused.status) == (b"1", 503)
