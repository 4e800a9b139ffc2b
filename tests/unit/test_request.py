"""Bytes to a Request, an Answer to bytes: pure functions, asked without a socket."""
import contextlib
import itertools
import random
import shutil

import pytest
from harness import INSIDE, OUTSIDE, InProcess, request, update_path
from hypothesis import given
from hypothesis import strategies as st

import iotserver

GET = b"GET /healthz HTTP/1.1\r\nHost: h\r\n"


def parse(head, peer="192.0.2.1"):
    return iotserver.parse_head(head, peer)


def test_a_request_is_a_value():
    one = parse(b"POST http://h/update?a=1&b=2 HTTP/1.1\r\nHost: h\r\nX-Thing:  two words \r\n"
                b"x-thing: more\r\nContent-Length: 7\r\n\r\n")
    assert (one.command, one.path, one.query, one.request_version) == (
        "POST", "/update", "a=1&b=2", "HTTP/1.1")
    assert one.headers == {"host": "h", "x-thing": "two words, more", "content-length": "7"}
    assert (one.address, one.length, one.close_connection, one.fault) == (
        "192.0.2.1", 7, False, None)


def test_only_the_proxy_tells_addresses():
    head = GET + b"X-Real-IP: 198.51.100.7\r\n\r\n"
    assert parse(head, None).address == "198.51.100.7"
    assert parse(head, "192.0.2.1").address == "192.0.2.1"
    assert parse(GET + b"\r\n", None).address == ""


@pytest.mark.parametrize(("more", "status", "path"), [
    (b"Host: again\r\n", 400, "/healthz"), (b"no colon\r\n", 400, "/healthz"),
    (b"Content-Length: 1\r\n", 400, "/healthz"), (b"Expect: much\r\n", 417, "/healthz"),
    (b"Transfer-Encoding: chunked\r\n", 411, "/healthz")])
def test_what_is_refused_says_so_and_is_the_last(more, status, path):
    one = parse(GET + more + b"\r\n")
    assert (one.fault.status, one.path, one.close_connection) == (status, path, True)


@pytest.mark.parametrize(("version", "connection", "closes"), [
    ("1.1", None, False), ("1.1", "close", True), ("1.1", "keep-alive, Close", True),
    ("1.0", None, True), ("1.0", "Keep-Alive", False), ("1.0", "keep-alive ,\tclose", True)])
def test_when_a_connection_ends(version, connection, closes):
    more = {"Connection": connection} if connection else {}
    assert parse(request("GET", "/", version=version, **more)).close_connection is closes


def test_a_head_is_cut_off_when_it_is_whole_or_can_be_none():
    data = GET + b"\r\nmore"
    assert all(iotserver.cut_head(data[:n], True) is None for n in range(len(GET) + 2))
    assert iotserver.cut_head(data, True) == (data[:-4], len(data) - 4, False)
    for line in (b"nonsense\r\n", b"GET /\r\n", b"GET / HTTP/2.0\r\n", b"GET / HTTP/1.1\n",
                 b"GET  / HTTP/1.1\r\n", b"\x16\x03\x01\r\n"):
        with pytest.raises(iotserver.Refused):
            iotserver.cut_head(line, True)          # at once, not when its time is over


def test_what_a_head_means_does_not_depend_on_how_it_comes():
    """A line feed before it is forgiven on ThingSpeak's paths alone, which come behind it."""
    data = b"\nGET /update?api_key=K&field1=1 HTTP/1.1\r\nHost: h\r\n\r\n"
    assert all(iotserver.cut_head(data[:n], True) is None for n in range(1, len(data)))
    assert iotserver.cut_head(data, True)[1:] == (len(data), False)
    strict = data.replace(b"/update?", b"/events?")
    with pytest.raises(iotserver.Refused):
        iotserver.cut_head(strict[:strict.index(b"\r\n") + 2], True)
    assert parse(strict).fault.status == 400


def test_a_request_without_a_version_is_only_the_first():
    data = b"GET /update?api_key=K&field1=1\r\n"
    _, length, is_bare = iotserver.cut_head(data, True)
    assert (length, is_bare) == (len(data), True)
    with pytest.raises(iotserver.Refused):
        iotserver.cut_head(data, False)


def test_an_answer_becomes_bytes_once_it_is_known_what_is_true():
    ask, answer = parse(GET + b"\r\n"), iotserver.Answer(b"17", headers=(("X-Y", "z"),))
    head, _, body = iotserver.render(ask, answer, False, 1_532_952_000).partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    assert lines[0] == "HTTP/1.1 200 OK"
    assert {"Date: Mon, 30 Jul 2018 12:00:00 GMT", "Content-Length: 2", "X-Y: z",
            "X-Content-Type-Options: nosniff"} <= {*lines}
    assert body == b"17"
    assert b"Connection: close" in iotserver.render(ask, answer, True, 0)
    head_only = iotserver.render(ask._replace(command="HEAD"), answer, False, 1_532_952_000)
    assert head_only == head + b"\r\n\r\n"
    assert iotserver.render(ask._replace(request_version="HTTP/0.9"), answer, True, 0) == b"17"


@pytest.mark.parametrize(("method", "accept", "kind"), [
    ("GET", "text/html,*/*", "text/html"), ("GET", "application/json", "application/json"),
    ("GET", "*/*", "text/plain"), ("POST", "*/*", "application/json")])
def test_a_refusal_has_the_form_that_was_asked_for(method, accept, kind):
    ask = parse(request(method, "/update", Accept=accept))
    answer = iotserver.render_refusal(ask, iotserver.Refused(403, "no <b>", Retry_After="5"))
    assert (answer.status, answer.kind.partition(";")[0]) == (403, kind)
    assert ("Retry-After", "5") in answer.headers
    assert b"<b>" not in answer.body or kind != "text/html"


def test_each_path_has_one_route():
    places = [(route.method, route.path) for route in iotserver.ROUTES]
    assert len(places) == len({*places})
    for method, path in places:
        below = path + "x" * path.endswith("/") * (path != "/")
        assert iotserver.find_route(method, below).path == path


def test_states_follow_each_other_as_the_table_says(server):
    states = {*iotserver.FOLLOWS}
    assert states == {*iotserver.PATIENCE} == {
        "idle", "head", "body", "wait", "work", "stream", "listen", "linger"}
    for before, after in itertools.product(states, states):
        connection = server.connect()
        connection.state = before
        if after in iotserver.FOLLOWS[before]:
            connection.enter(after)
            assert connection.state == after
        else:
            with pytest.raises(RuntimeError):
                connection.enter(after)


# -- updates that are known already ---------------------------------------------------------------

FORMS = [
    request("GET", update_path(INSIDE, 21.5)), request("GET", update_path(OUTSIDE, -3, field=2)),
    request("GET", update_path(INSIDE, "21", more="/age=3/seq=b7-19")),
    request("GET", update_path(INSIDE, "1e2", more="/age=0.5"), Connection="keep-alive"),
    request("GET", f"/update/mac={INSIDE.mac}/field=1/data=7", X_API_Key=INSIDE.key),
    request("GET", update_path(INSIDE, 20), X_Real_IP="192.0.2.7", Accept="text/html"),
    request("GET", f"/update/data=4/field=1/mac={INSIDE.mac}/API_key={INSIDE.key}"),
    request("GET", update_path(INSIDE, 20), version="1.0"),
]
PIECES = [b"/data=1", b"/age=1", b"/seq=1", b"/age=-1", b"?", b"%20", b"#", b" ", b"\r\n", b"e5",
          b"nan", b"9" * 40, b"/", b"\xff", b"/mac=x", b"&", b"1_0", b"+", b"HTTP/1.1", b"\t"]


def mutate(raw, chance):
    """One or two edits, most of them in or near the values: a byte changed, a piece put in, taken
    out or doubled."""
    for _ in range(chance.randint(1, 2)):
        near = raw.find(b"/data=") + chance.randint(0, 30)
        at = min(near, len(raw) - 1) if chance.random() < 0.8 else chance.randrange(len(raw))
        end = min(len(raw), at + chance.randint(1, 8))
        raw = chance.choice([
            raw[:at] + bytes([chance.randrange(256)]) + raw[at + 1:],
            raw[:at] + chance.choice(PIECES) + raw[at:], raw[:at] + raw[end:],
            raw[:end] + raw[at:]])
    return raw


def alike(answers):
    """Without what counts up."""
    return [line for line in answers.split(b"\r\n") if not line.startswith(b"Date:")]


@given(st.integers(0, 2**32))
def test_what_is_known_is_answered_as_what_is_new(pair, seed):
    chance = random.Random(seed)
    with_table, without = pair
    for form in FORMS:
        raw = mutate(form, chance) if chance.random() < 0.7 else form
        without.server.known.table.clear()
        assert alike(with_table.exchange(raw)) == alike(without.exchange(raw)), raw
    assert len(with_table.server.known.table) >= 5


@pytest.fixture(scope="module")
def pair(template, tmp_path_factory):
    """A server that has seen all forms of an update, and one that forgets them at once."""
    folder = tmp_path_factory.mktemp("known")
    with contextlib.ExitStack() as stack:
        pair = [stack.enter_context(contextlib.closing(InProcess(
            shutil.copy(template, folder / f"{n}.db")))) for n in range(2)]
        for raw in FORMS:
            for server in pair:
                assert b" 200 " in server.exchange(raw)
        yield pair


def test_a_known_update_still_has_to_be_admitted(server):
    raw = request("GET", update_path(INSIDE, 20))
    assert b" 200 " in server.exchange(raw)
    assert b" 200 " in server.exchange(raw)
    server.writer.new_key(INSIDE.name, iotserver.hash_key("another").hex())
    assert b" 200 " in server.exchange(request(
        "GET", update_path(INSIDE, 20).replace(INSIDE.key, "another")))
    assert b" 403 " in server.exchange(raw), "the old key has ended"


def test_what_is_known_is_bounded(server, monkeypatch):
    monkeypatch.setattr(iotserver, "MAX_KNOWN", 3)
    for n in range(10):
        server.exchange(request("GET", update_path(INSIDE, 20), X_Name=n))
    server.exchange(request("GET", update_path(INSIDE, 20), X_Name="x" * 3000))
    assert len(server.server.known.table) == 3
