"""Bytes to a Request, an Answer to bytes: pure functions, asked without a socket."""
import contextlib
import random
import re
import shutil

import pytest
from harness import INSIDE, OUTSIDE, InProcess, request, settings, update_path
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
    assert parse(head, "127.0.0.1").address == "198.51.100.7"
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
    answer = iotserver.render_refusal(ask, iotserver.Refused(403, "no <b>", Retry_After="5"),
                                      settings())
    assert (answer.status, answer.kind.partition(";")[0]) == (403, kind)
    assert ("Retry-After", "5") in answer.headers
    assert b"<b>" not in answer.body or kind != "text/html"


def test_each_path_has_one_route():
    places = [(route.method, route.path) for route in iotserver.ROUTES]
    assert len(places) == len({*places})
    for method, path in places:
        below = path + "x" * path.endswith("/") * (path != "/")
        assert iotserver.find_route(method, below).path == path


# -- heads that were seen before ------------------------------------------------------------------

FORMS = [
    request("GET", update_path(INSIDE, 21.5)), request("GET", update_path(OUTSIDE, -3, field=2)),
    request("GET", update_path(INSIDE, "21", more="/age=3/seq=b7-19")),
    request("GET", update_path(INSIDE, "1e2", more="/age=0.5"), Connection="keep-alive"),
    request("GET", f"/update/mac={INSIDE.mac}/field=1/data=7", X_API_Key=INSIDE.key),
    request("GET", update_path(INSIDE, 20), X_Real_IP="192.0.2.7", Accept="text/html"),
    request("GET", f"/update/data=4/field=1/mac={INSIDE.mac}/API_key={INSIDE.key}"),
    request("GET", f"/update/seq=s1/age=60/mac={INSIDE.mac}/data=4/field=1/API_key={INSIDE.key}"),
    request("GET", update_path(INSIDE, 20), version="1.0"),
    request("GET", update_path(INSIDE, 20), Referer=f"http://h{update_path(INSIDE, 99)} x"),
    request("GET", f"http://data=3{update_path(INSIDE, 20)}"),
    request("GET", f"/update/seq=%C3%A9/mac={INSIDE.mac}/field=1/data=%31/API_key={INSIDE.key}"),
    request("GET", f"/update?api_key={INSIDE.key}&field1=20.5"),
    request("GET", f"/update?field1=20.5&field2=a+b%41&status=x&key={INSIDE.key}"),
    request("GET", f"/update.json?api_key={INSIDE.key}&field1=7&created_at=2018-07-30T11:00:00Z"),
    request("GET", f"/update?{INSIDE.key}&field1=20.5"),
    request("GET", "/update?field1=20.5&status=%E4%BD%A0", X_THINGSPEAKAPIKEY=INSIDE.key),
    request("GET", "/weatherstation/updateweatherstation.php?ID=c0&PASSWORD=CK1&dateutc="
                   "2018-07-30+11%3A59%3A00&tempf=70.1&humidity=50&indoortempf=72"),
    request("GET", "/weatherstation/updateweatherstation.php&ID=c0&PASSWORD=CK1&tempf=70"),
    request("GET", "/data/report/CK1?temp=20.5&hum=50"),
]
PIECES = [b"/data=1", b"/age=1", b"/seq=1", b"/age=-1", b"?", b"%20", b"#", b" ", b"\r\n", b"e5",
          b"nan", b"9" * 40, b"/", b"\xff", b"/mac=x", b"&", b"1_0", b"+", b"HTTP/1.1", b"\t",
          b"=", b"%", b"&field1=2", b"&field2=", b"?data=5", b"??", b"\n", b"\0", b"/update/",
          b"\r\nReferer: /data=99 \r\n", b"\r\nX-API-Key: " + INSIDE.key.encode(), b"/data=",
          b"&status=" + b"x" * 300, b"&1=3", b"&lat=1"]


def mutate(raw, chance):
    """One or two edits, most of them in or near the values: a byte changed, a piece put in, taken
    out or doubled."""
    for _ in range(chance.randint(1, 2)):
        line = max(raw.find(b" HTTP/"), 1)
        at = min(chance.randrange(line) if chance.random() < 0.8 else chance.randrange(len(raw)),
                 len(raw) - 1)
        if chance.random() < 0.4:
            at = max(raw.rfind(b"=", 0, at), raw.rfind(b"/", 0, at), raw.rfind(b"&", 0, at), 0)
        end = min(len(raw), at + chance.randint(1, 8))
        raw = chance.choice([
            raw[:at] + bytes([chance.randrange(256)]) + raw[at + 1:],
            raw[:at] + chance.choice(PIECES) + raw[at:], raw[:at] + raw[end:],
            raw[:end] + raw[at:]])
    return raw


def other_values(raw, chance):
    """The same form with other values, which is what a memory of forms is for."""
    line, newline, rest = raw.partition(b"\r\n")
    values = [b"1", b"-2.5", b"7", b"0", b"60", b"b7-20", b"1e1", b"", b"x", b"1%30", b"2+3"]
    return re.sub(rb"(?<=data=|.age=|.seq=|eld1=|empf=|dity=|temp=)[^/& ]*",
                  lambda match: chance.choice(values), line) + newline + rest


def alike(answers):
    """Without what counts up."""
    return [line for line in answers.split(b"\r\n") if not line.startswith(b"Date:")]


@given(st.integers(0, 2**32))
def test_what_is_known_is_answered_as_what_is_new(pair, seed):
    chance = random.Random(seed)
    with_memory, without = pair
    for form in FORMS:
        raw = other_values(form, chance) if chance.random() < 0.5 else form
        raw = mutate(raw, chance) if chance.random() < 0.6 else raw
        without.server.heads.known.clear()
        assert alike(with_memory.exchange(raw)) == alike(without.exchange(raw)), raw
    assert with_memory.rows()[-40:] == without.rows()[-40:]


@pytest.fixture(scope="module")
def pair(template, tmp_path_factory):
    """A server that has seen all forms of an update, and one that forgets them at once."""
    folder = tmp_path_factory.mktemp("known")
    with contextlib.ExitStack() as stack:
        pair = [stack.enter_context(contextlib.closing(InProcess(
            shutil.copy(template, folder / f"{n}.db")))) for n in range(2)]
        for server in pair:
            key = iotserver.hash_key("CK1").hex()
            server.writer.add_station("garden", "c0", "outside", key, 1)
        for raw in FORMS:
            for server in pair:
                assert b" 200 " in server.exchange(raw), raw
        yield pair


def test_values_are_read_wherever_they_stand(server):
    """Their second and third time, too, when the head is one that was seen before."""
    def send(path, **more):
        return server.exchange(request("GET", path, **more)).rpartition(b"\r\n")[2]
    path = f"/update/API_key={INSIDE.key}/mac={INSIDE.mac}/field=1"
    assert {send(f"{path}/seq=s1/data=20.5") for _ in range(4)} == {b"1"}
    assert [send(f"{path}/age=3600/data={n}") for n in range(3)] == [b"2", b"3", b"4"]
    for n in range(3):
        send(update_path(INSIDE, n), Referer=f"http://h{path}/data=99 /data=98")
    stamps = [(row[0][11:13], row[3]) for row in server.rows()]
    assert sorted(stamps) == [
        ("11", "0"), ("11", "1"), ("11", "2"), ("12", "0"), ("12", "1"), ("12", "2"),
        ("12", "20.5")]


def test_heads_that_differ_by_values_alone_are_parsed_once(server, monkeypatch):
    parsed, parse_head = [], iotserver.parse_head
    monkeypatch.setattr(iotserver, "parse_head", lambda *args: parsed.append(
        args) or parse_head(*args))
    for n in range(5):
        for path in (update_path(INSIDE, n, more=f"/age={n}/seq=s{n}"),
                     f"/update/age={n}/data={n}/field=1/mac={INSIDE.mac}/API_key={INSIDE.key}",
                     f"/update?api_key={INSIDE.key}&field1={n}&field2=%3{n}"):
            assert b" 200 " in server.exchange(request("GET", path))
        server.exchange(request("GET", "/healthz"))
    assert len(parsed) == 4


def test_a_known_update_still_has_to_be_admitted(server):
    raw = request("GET", update_path(INSIDE, 20))
    assert b" 200 " in server.exchange(raw)
    assert b" 200 " in server.exchange(raw)
    server.writer.new_key(INSIDE.name, iotserver.hash_key("another").hex())
    assert b" 200 " in server.exchange(request(
        "GET", update_path(INSIDE, 20).replace(INSIDE.key, "another")))
    assert b" 403 " in server.exchange(raw), "the old key has ended"


def test_what_is_known_is_bounded(server, monkeypatch):
    monkeypatch.setattr(iotserver, "MAX_HEADS", 8000)
    for n in range(10):
        server.exchange(request("GET", update_path(INSIDE, 20), X_Name=n))
    server.exchange(request("GET", update_path(INSIDE, 20), X_Name="x" * 3000))
    heads = server.server.heads
    assert 2 <= len(heads.known) <= 5
    assert heads.size == sum(known.size for known in heads.known.values()) <= 8000
