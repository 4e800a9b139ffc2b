"""Each connection has a deadline, whatever its state, and no address keeps the room of others."""
import os
import socket
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from harness import INSIDE, SCRIPT, processor_seconds, request, wait_for

import iotserver

PAGE = request("GET", "/")
SHORT = "PATIENCE.update(idle=1, head=1, body=1, stream=1, close=1, listen=2)"
WAYS = {                        # what a client sends that reads nothing, and whether it is at end
    "idle": (PAGE, False), "half closed": (PAGE, True),
    "close": (request("GET", "/", Connection="close"), False),
    "close, half closed": (request("GET", "/", Connection="close"), True),
    "HTTP/1.0": (request("GET", "/", version="1.0"), False),
    "half a head": (PAGE + b"GET / HTT", False),
    "half a head, half closed": (PAGE + b"GET / HTT", True),
    "half a body": (PAGE + request("POST", "/update", Content_Length=9) + b"x", False),
    "half a body, half closed": (PAGE + request("POST", "/update", Content_Length=9), True),
    "refused": (PAGE + b"no request\r\n\r\n", False),
    "refused, half closed": (PAGE + b"no request\r\n\r\n", True),
    "export": (request("GET", "/export.csv"), False),
    "export, half closed": (request("GET", "/export.csv"), True),
    "events": (PAGE + request("GET", "/events"), False),
    "events, half closed": (PAGE + request("GET", "/events"), True),
    "long": (PAGE + request("GET", "/api/stations"), False),
    "long, half closed": (PAGE + request("GET", "/api/stations"), True)}


def tuned(*changes):
    code = "import iotserver, sys; " + "".join(f"iotserver.{change}; " for change in changes)
    return {"command": ("-c", f"{code}sys.exit(iotserver.main())"),
            "env": {"PYTHONPATH": str(SCRIPT.parent)}}


def deaf(live, source, data, is_at_end=False):
    """A client that reads nothing. As on a real line, little of its answer is on the way."""
    channel = socket.socket()
    channel.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    channel.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)
    channel.bind((source, 0))
    channel.settimeout(20)
    channel.connect(("127.0.0.1", live.port))
    with suppress(OSError):         # it was disconnected already
        channel.sendall(data)
        if is_at_end:
            channel.shutdown(socket.SHUT_WR)
    return channel


def connections(live):
    """How many sockets the server has."""
    found = 0
    for file in Path(f"/proc/{live.process.pid}/fd").iterdir():
        with suppress(FileNotFoundError):       # closed meanwhile
            found += os.readlink(file).startswith("socket:")
    return found


@pytest.mark.parametrize("pages", [1, 3, 10, 30])
def test_who_reads_nothing_is_gone_in_time_in_whatever_state(database, serve, pages):
    live = serve(**tuned(SHORT))
    assert live.update(INSIDE, 20) == 1
    own = wait_for(lambda: (found := connections(live)) < 6 and found)
    with ExitStack() as stack:
        for data, is_at_end in WAYS.values():
            stack.enter_context(deaf(live, "127.0.1.1", PAGE * (pages - 1) + data, is_at_end))
        wait_for(lambda: connections(live) > own)
        wait_for(lambda: connections(live) == own, 15)


@pytest.mark.parametrize("way", ["idle", "half closed", "close", "refused, half closed"])
def test_an_address_whose_connections_do_not_end_keeps_out_nobody(database, serve, way):
    """420 of them had everybody else answered 503 until they ended."""
    live = serve(**tuned("MAX_CONNECTIONS = 60"))
    assert live.update(INSIDE, 20) == 1
    data, is_at_end = WAYS[way]
    with ExitStack() as stack:
        for _ in range(84):
            stack.enter_context(deaf(live, "127.0.1.1", PAGE * 6 + data, is_at_end))
        for number in range(2, 12):
            assert live.update(INSIDE, number) == number
        assert live.get("/").status == 200


def test_a_newcomer_is_let_in_without_looking_at_all_others(in_process):
    """6,000 open connections, half of them sending large bodies, stopped all answers for 4 s."""
    server = in_process()
    head = request("POST", "/update", Content_Length=iotserver.MAX_HEAD + 1)
    crowd = server.server.connections
    crowd.room = 4000
    for n in range(4000):
        server.peer = (f"10.0.{n % 200}.1", 9)
        connection = server.connect()
        if n % 2:
            connection.data_received(head)
    assert len(crowd.bodies) > 900
    started = time.perf_counter()
    for n in range(200):
        server.peer = (f"10.1.{n}.1", 9)
        connection = server.connect()
        connection.data_received(head)
        assert not connection.transport.is_closing()
    assert time.perf_counter() - started < 0.2
    assert crowd.room - 1 <= crowd.used == len(crowd) <= crowd.room
    assert crowd.bodies.used <= iotserver.MAX_UNFINISHED
    for connection in [*crowd]:
        connection.connection_lost(None)
    assert (crowd.used, {**crowd.shares}, crowd.members) == (0, {}, {})
    assert (crowd.bodies.used, {**crowd.bodies.shares}, crowd.bodies.members) == (0, {}, {})


def test_a_listener_that_reads_stays(database, serve):
    live = serve(**tuned("PATIENCE.update(listen=2)", "JOBS.append((0.3, lambda server: "
                         "server.events.publish(b': still here\\n\\n')))"))
    with live.connect() as listener, deaf(live, "127.0.1.1", request("GET", "/events")):
        listener.sendall(request("GET", "/events"))
        began, seen = time.monotonic(), b""
        while time.monotonic() < began + 5:
            piece = listener.recv(1000)
            assert piece, "it was disconnected"
            seen += piece
        assert seen.count(b"still here") > 10


def test_what_listeners_do_not_read_counts_with_all_that_is_unread(in_process, monkeypatch):
    server = in_process()
    listener = server.connect()
    listener.data_received(request("GET", "/events"))
    crowd = server.server.connections
    assert listener in crowd.listeners
    began, before = listener.deadline, crowd.unread
    server.time += 5
    server.server.events.publish(b"x" * 9)
    assert (crowd.unread - before, listener.deadline) == (0, began + 5), "it has read all"
    began, server.time = listener.deadline, server.time + 5
    monkeypatch.setattr(listener.transport, "get_write_buffer_size", lambda: 9)
    server.server.events.publish(b"x" * 9)
    assert (crowd.unread - before, listener.deadline) == (9, began), "it has not read"
    monkeypatch.setattr(iotserver, "MAX_UNREAD", 8)
    server.server.events.publish(b"x" * 9)
    assert listener not in crowd
    assert listener not in crowd.listeners


FOLLOWS = {                     # what a client's next state may be
    "idle": {"idle", "head", "body", "wait", "queue", "stream", "listen", "linger", "close"},
    "wait": {"idle", "head", "body", "wait", "queue", "stream", "listen", "linger", "close"},
    "head": {"head", "body", "idle", "wait", "queue", "stream", "listen", "linger", "close"},
    "body": {"head", "body", "idle", "wait", "queue", "stream", "listen", "linger", "close"},
    "queue": {"work", "idle", "head", "body", "wait", "linger", "close"},
    "work": {"idle", "wait", "stream", "linger", "close"},
    "stream": {"stream", "idle", "wait", "linger", "close"},
    "listen": {"listen", "close"}, "linger": {"close"}, "close": {"close"}}


@pytest.mark.parametrize("way", WAYS)
def test_a_connection_goes_from_state_to_state_as_planned(in_process, monkeypatch, way):
    server, seen, enter = in_process(), [], iotserver.Connection.enter
    monkeypatch.setattr(iotserver.Connection, "enter", lambda self, state: (
        seen.append((self.state, state)), enter(self, state))[1])
    data, is_at_end = WAYS[way]
    for cut in range(0, len(data), 7):
        connection = server.connect()
        for piece in (data[:cut], data[cut:]):
            connection.data_received(piece)
            server.server.loop.run()
        if is_at_end and not connection.transport.is_closing():
            connection.eof_received()
            server.server.loop.run()
        server.time += 1000
        if connection.deadline < server.time:
            connection.expire()
            server.server.loop.run()
            assert connection.transport.is_closing()
        assert connection.state in {"listen", "linger", "close"}
    assert FOLLOWS.keys() == iotserver.PATIENCE.keys()
    assert {(before, after) for before, after in seen if after not in FOLLOWS[before]} == set()


def test_many_deaf_clients_cost_no_processor(database, serve):
    """They wait for their deadline, not for the server."""
    live = serve()
    with ExitStack() as stack:
        for n in range(40):
            stack.enter_context(deaf(live, f"127.0.1.{n + 1}", PAGE * 10))
        assert live.get("/healthz").status == 200
        before = processor_seconds(live)
        time.sleep(1)
        assert processor_seconds(live) - before < 0.3
