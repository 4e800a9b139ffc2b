"""What stations, people and strangers meet at the appliance of support/droplet.py."""
import contextlib
import http.client
import itertools
import re
import shutil
import ssl
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
from droplet import NETWORKS, PHONE, STATION, STRANGER, Door, flood, tls
from harness import (
    INSIDE,
    OUTSIDE,
    basic,
    bulk,
    parse_responses,
    read_until,
    receive,
    request,
    rows_of,
    update_path,
    wait_for,
)
from tools import need, needs

pytestmark = needs("nginx", "openssl")
# -- port 80: stations ----------------------------------------------------------------------------


def test_an_update_over_plain_http_is_answered_however_it_comes(droplet):
    http = droplet().http()
    path = update_path(INSIDE, 21.5)
    answers = [http.talk(raw) for raw in (
        request("GET", path, Connection="close"),
        request("GET", path, Connection="close", Host="203.0.113.5"),       # the bare address
        request("GET", path, version="1.0"),                                # no Host at all
        request("GET", path.replace(":", "%3A"), Connection="close", Host="weather.example.org"),
        request("GET", "/" + path, Connection="close"))]
    assert [(a.status, a.body) for a, in answers[:4]] == [(200, b"%d" % n) for n in (1, 2, 3, 4)]
    assert answers[4][0].status == 400          # //update: passed on as it is, and no redirect
    answer = http.ask("POST", "/update", bulk(INSIDE, (1, 22), (2, 50)))
    assert (answer.status, answer.json["stored"]) == (200, 2)


def test_no_way_to_write_is_ever_redirected(droplet):
    http = droplet().http()
    for method, path in (
            ("GET", "/update?api_key=K&field1=1"), ("POST", "/update?api_key=K&field1=1"),
            ("GET", "/update"), ("GET", "/update/"), ("GET", "/update.json?api_key=K&field1=1"),
            ("GET", "/update.xml?api_key=K"), ("GET", "/update.txt?api_key=K&field1=1"),
            ("POST", "/update.text?api_key=K&field1=1"), ("GET", "/updates?api_key=K"),
            ("GET", "/Update/API_key=K"), ("POST", "/channels/1/bulk_update.json"),
            ("POST", "/channels/1/bulk_update.csv"), ("GET", "/update/%0A"),
            ("GET", "/update//mac=1"), ("HEAD", "/update/"), ("OPTIONS", "/update"),
            ("GET", "/weatherstation/updateweatherstation.php?ID=M&PASSWORD=K&tempf=70"),
            ("GET", "/weatherstation/updateweatherstation.phpID=M&PASSWORD=K&tempf=70"),
            ("POST", "/weatherstation/updateweatherstation.php"), ("GET", "/weatherstation"),
            ("POST", "/data/report/K"), ("POST", "/data/report/K/"), ("GET", "/data/report"),
            ("GET", "/data/report/K?&PASSKEY=P&tempf=70"), ("GET", "/data/report/K?temp=21")):
        response = http.ask(method, path, b"{}" if method == "POST" else b"")
        assert response.status == 200 or 400 <= response.status < 500, (method, path)
        assert "location" not in response.headers


def test_a_console_gets_through_over_plain_http(droplet, run, tmp_path):
    """By both protocols, HTTP/1.0 without Host among them; a wrong key in the words for it."""
    run("--add-station", "garden", "--mac", "GARDEN", "--console", "--key", "K1")
    http = droplet().http()
    path = "/weatherstation/updateweatherstation.php?ID=GARDEN&PASSWORD={}&tempf=68&indoortempf=70"
    answers = [http.talk(raw)[0] for raw in (
        request("GET", path.format("K1"), version="1.0"),
        request("GET", path.replace("?", "").format("K1"), Connection="close"),
        request("POST", "/data/report/K1/", b"PASSKEY=P&tempinf=68", Connection="close"),
        request("GET", "/data/report/K1?&PASSKEY=P&tempf=68", Connection="close"))]
    assert [(answer.status, answer.body) for answer in answers] == [(200, b"success")] * 4
    refused, = http.talk(request("POST", path.format("K2"), b"a=1", Connection="close"))
    assert (refused.status, refused.body[:17]) == (403, b"INVALIDPASSWORDID")
    assert [row[1] for row in rows_of(tmp_path / "iot.db")] == [
        "garden outside"] * 3 + ["garden inside"] * 3


def test_nginx_refuses_spaces_in_the_address_that_the_server_forgives(droplet):
    made = droplet()
    raw = request("GET", f"/update?api_key={INSIDE.key}&field1=  21.5", version="1.0")
    answer, = made.http().talk(raw)
    assert answer.status == 400
    with made.straight() as channel:
        channel.sendall(raw)
        answer, = parse_responses(receive(channel))
    assert (answer.status, answer.body) == (200, b"1")


def test_the_log_says_in_words_of_ours_what_was_asked_for(droplet):
    made = droplet()
    for path in ("/weatherstation/updateweatherstation.php?ID=M", "/data/report/KEY",
                 "/update/API_key=KEY", "/weather", "/data/reports/KEY"):
        made.http().get(path)
    log = (made.folder / "iotserver.log").read_text()
    assert re.findall(r" GET (\S+) ", log) == [
        "/weatherstation", "/data/report", "/update", "(other)", "(other)"]


def test_the_name_that_was_asked_for_is_told_to_the_server(droplet):
    """Which has to know it to tell its own pages from those that only claim to be."""
    made = droplet()
    made.end_server()
    made.listener.settimeout(20)
    for door in (made.http(), made.https()):
        with door.connect() as client:
            client.sendall(request("GET", "/update", Host="Weather.example.org:8080"))
            asked, _ = made.listener.accept()
            with asked:
                asked.settimeout(20)
                head = read_until(asked, b"\r\n\r\n")
        assert b"\r\nHost: weather.example.org\r\n" in head
        assert b"\r\nX-Real-IP: 127.0.0." in head


def test_all_else_is_sent_to_https(droplet):
    http = droplet().http()
    for path in ("/", "/?range=7d", "/api/stations", "/events", "/export.csv", "/healthz",
                 "/channels/1/feeds.json?results=2", "/.well-known/x"):
        response = http.get(path, Host="weather.example.org")
        assert response.status == 301
        assert response.headers["location"] == f"https://weather.example.org{path}"
        assert "strict-transport-security" not in response.headers


def test_certbot_finds_its_answer_over_plain_http(droplet):
    made = droplet()
    (made.folder / "www/.well-known/acme-challenge/token").write_text("token.thumbprint")
    response = made.http().get("/.well-known/acme-challenge/token")
    assert (response.status, response.body) == (200, b"token.thumbprint")
    assert made.http().get("/.well-known/acme-challenge/other").status == 404
    assert made.http().get("/.well-known/acme-challenge/../../../error.log").status != 200


# -- port 443: people -----------------------------------------------------------------------------


@pytest.mark.parametrize(("limits", "version", "cipher"), [
    ({}, "TLSv1.3", "TLS_.*"),
    ({"version": ssl.TLSVersion.TLSv1_2}, "TLSv1.2", "ECDHE-RSA-.*(GCM|POLY1305).*"),
    ({"version": ssl.TLSVersion.TLSv1_2, "ciphers": "AES128-SHA256"}, "TLSv1.2", "AES128-SHA256"),
    ({"version": ssl.TLSVersion.TLSv1_1, "ciphers": "ALL:@SECLEVEL=0"}, None, None),
    ({"version": ssl.TLSVersion.TLSv1_2, "ciphers": "AES128-SHA:@SECLEVEL=0"}, None, None),
], ids=["1.3", "1.2", "the axTLS of a board", "1.1", "CBC with SHA-1"])
def test_versions_of_tls(droplet, limits, version, cipher):
    made = droplet()
    if version is None:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            made.https().connect(**limits)
        return
    with made.https().connect(**limits) as secure:
        assert secure.version() == version
        assert re.fullmatch(cipher, secure.cipher()[0])
        secure.sendall(request("GET", update_path(INSIDE, 21.5), Connection="close"))
        response, = parse_responses(receive(secure))
    assert (response.status, response.body) == (200, b"1")


def test_tls_records_fit_into_a_boards_buffer(droplet):
    """Their lengths stand in clear: https://www.rfc-editor.org/rfc/rfc5246#section-6.2.1"""
    received, incoming, outgoing = b"", ssl.MemoryBIO(), ssl.MemoryBIO()
    secure = tls({"version": ssl.TLSVersion.TLSv1_2}).wrap_bio(incoming, outgoing)
    with Door(droplet().ports[443]).connect() as channel:
        def exchange(step):
            nonlocal received
            while True:
                with contextlib.suppress(ssl.SSLWantReadError):
                    return step()
                channel.sendall(outgoing.read())
                received += (piece := channel.recv(65536))
                incoming.write(piece)
        exchange(secure.do_handshake)
        secure.write(request("GET", "/", Connection="close"))
        page = b"".join(iter(lambda: exchange(lambda: secure.read(65536)), b""))
    lengths = []
    while received:
        lengths.append(5 + int.from_bytes(received[3:5], "big"))
        received = received[lengths[-1]:]
    assert len(page) > 8192
    assert max(lengths) < 4096 + 100


def test_the_pages_headers_pass_and_https_is_asked_for_hence(droplet):
    made = droplet()
    response = made.https().get("/", Accept="text/html")
    with made.straight() as channel:
        channel.sendall(request("GET", "/", Connection="close", Accept="text/html"))
        own, = parse_responses(receive(channel))
    assert response.body == own.body
    assert response.headers["strict-transport-security"] == "max-age=31536000"
    assert "default-src 'none'" in own.headers["content-security-policy"]
    for name in set(own.headers) - {"server", "date", "connection"}:
        assert response.headers[name] == own.headers[name]
    assert response.headers["server"] == "nginx"        # without its version


def test_events_pass_at_once(droplet):
    made = droplet()
    with made.https().connect() as channel:
        channel.sendall(request("GET", "/events"))
        data = read_until(channel, b"event: hello")
        assert made.http().update(INSIDE, 31.25) == 1
        assert b'"value":31.25' in read_until(channel, b'"entry":1}', data)


# -- who asks -------------------------------------------------------------------------------------


def wrong(n, station=INSIDE):
    return update_path(station, 1).replace(station.key, f"wrong{n}")


def test_a_guesser_is_throttled_and_nobody_else(droplet):
    """Whatever address he claims; and the station beside him, or the one he names, goes on."""
    made = droplet("--rate-limit", "60")
    guesser = made.http(STRANGER)
    assert guesser.update(INSIDE, 20) == 1          # a station behind the same address
    statuses = [guesser.get(wrong(n), X_Real_IP=f"192.0.2.{n % 200}", X_Forwarded_For=STATION,
                            Forwarded=f"for={STATION}").status for n in range(110)]
    assert statuses == [403] * 100 + [429] * 10
    response = guesser.get(wrong(0), X_Real_IP=STATION)
    assert response.status == 429
    assert int(response.headers["retry-after"]) > 800       # the server's own: set once
    assert guesser.get(update_path(OUTSIDE, 20)).status == 429, "right or wrong is not told"
    assert guesser.update(INSIDE, 20) == 2, "what was right from there before goes on"
    assert made.http(STATION).update(INSIDE, 21) == 3
    assert made.http(STATION).get(wrong(0)).status == 403


@needs("root", "setpriv", "/usr/bin/python3")
def test_only_nginx_may_connect_to_the_socket(droplet):
    """Because then what it says of the client's address can be believed."""
    made = droplet()
    connect = ("import socket, sys; socket.socket(socket.AF_UNIX)"
               f".connect('{made.folder}/iotserver.sock')")

    def attempt(user):
        return subprocess.run([need("setpriv"), "--reuid", user, "--regid", user,
                               "--clear-groups", need("/usr/bin/python3"), "-c",
                               connect], capture_output=True, text=True, check=False).stderr
    assert attempt("www-data") == ""
    assert "PermissionError" in attempt("games")


def test_a_private_server_asks_people_for_its_password_and_only_over_tls(droplet, run, tmp_path):
    run("--set-password", "password", stdin="open sesame\n")
    made = droplet("--private", str(tmp_path / "password"))
    for path in ("/", "/events", "/api/stations", "/api/readings?station=inside", "/export.csv"):
        assert made.http().get(path).status == 301
        refused = made.https().get(path)
        assert refused.status == 401
        assert refused.headers["www-authenticate"].startswith("Basic ")
    assert made.https().get("/", Authorization=basic("open sesame")).status == 200
    assert made.http().update(INSIDE, 21) == 1
    assert made.https().get("/healthz").status == 200


# -- limits ---------------------------------------------------------------------------------------


def test_a_household_behind_one_address_is_not_limited(droplet):
    """20 stations empty 20 readings each at once, ten people open the page and keep it open, and
    a board of four charts, each of which asks for 1,000 entries; four take their data along."""
    made = droplet()
    door = made.http(STATION)
    answers = flood(door, [update_path(INSIDE, n) for n in range(400)])
    assert [answer.status for answer in answers] == [200] * 400
    with contextlib.ExitStack() as stack:
        for _ in range(10):
            assert made.https(STATION).get("/").status == 200
            for path in ("/worker.js", "/icon.svg", "/manifest.webmanifest", "/api/stations"):
                assert made.https(STATION).get(path).status == 200
            channel = stack.enter_context(made.https(STATION).connect())
            channel.sendall(request("GET", "/events"))
            read_until(channel, b"event: hello")
        assert door.update(INSIDE, 1) == 401
        inside = made.https(STATION).get("/api/stations").json[0]["id"]
        asked = [*[f"/channels/{inside}/fields/{n}.json?results=1000" for n in range(1, 5)] * 10,
                 *["/export.csv"] * 4]
        with ThreadPoolExecutor(60) as browsers:
            statuses = browsers.map(lambda path: made.https(STATION).get(path).status, asked)
            assert set(statuses) == {200}


@pytest.mark.parametrize(("path", "served"), [(update_path(INSIDE, 1), 200), ("/", 301)])
def test_a_flood_from_one_address_is_refused_and_others_are_not(droplet, path, served):
    made = droplet()
    answers = flood(made.http(STRANGER), [path] * 1500)
    assert {(answer.status, answer.headers.get("retry-after")) for answer in answers} == {
        (served, None), (429, "10")}
    assert made.http(STATION).update(INSIDE, 1)
    assert made.https(PHONE).get("/").status == 200


@pytest.mark.quiet
@pytest.mark.parametrize(("path", "at_once", "a_second"), [
    ("/", 60, 20), ("/api/stations", 20, 10)])
def test_pages_and_reads_wait_for_their_turn_before_any_is_refused(
        droplet, path, at_once, a_second):
    """230 at once from one address: 200 are taken, most of which have to wait."""
    made = droplet()
    with contextlib.ExitStack() as stack:
        channels = [stack.enter_context(made.https(STRANGER).connect()) for _ in range(230)]
        started = time.monotonic()
        for channel in channels:
            channel.sendall(request("GET", path))
        assert made.https(STRANGER).get(path).status == 429
        asked = time.monotonic()
        assert made.https(PHONE).get(path).status == 200
        assert time.monotonic() - asked < 1
        time.sleep(1)
        answered = (made.folder / "iotserver.log").read_text().count(f"GET {path} 200 ")
        assert at_once < answered <= 2 + at_once + a_second * (time.monotonic() - started)


def test_one_address_cannot_take_all_connections(droplet):
    made = droplet()
    with contextlib.ExitStack() as stack:
        def listen(address):
            channel = stack.enter_context(made.https(address).connect())
            channel.sendall(request("GET", "/events"))
            return int(read_until(channel, b"\r\n\r\n").split()[1])
        assert [listen(STRANGER) for _ in range(105)] == [200] * 100 + [429] * 5
        assert listen(PHONE) == 200


def test_a_household_with_ipv6_is_a_64(droplet):
    made = droplet()

    def statuses(address, count):
        raw = [request("GET", "/", X_Test_Address=address) for _ in range(count)]
        with made.http(NETWORKS).connect() as channel:
            channel.sendall(b"".join(raw))
            data = b""
            while data.count(b"HTTP/1.1 ") < count:
                data += channel.recv(65536)
        return set(re.findall(rb"HTTP/1\.1 (\d+)", data))
    assert statuses("2001:db8:0:a::1", 190) == {b"301"}
    assert statuses("2001:db8:0:a:ffff::2", 190) == {b"301", b"429"}
    assert statuses("2001:db8:0:b::1", 190) == {b"301"}


def test_limits_of_size(droplet):
    """What is too large is refused; a body of the largest size is never put into a file."""
    made = droplet()
    shutil.rmtree(made.folder / "body")
    (made.folder / "body").write_text("no folder: nginx cannot put a file here")
    http = made.http()
    most = bulk(INSIDE, (1, 21), key=None).ljust(256 * 1024)
    assert http.ask("POST", "/update", most).status in {200, 400}   # and not 500
    chunked = b"40000\r\n" + most + b"\r\n0\r\n\r\n"
    response, = http.talk(request("POST", "/update", Transfer_Encoding="chunked",
                                  Connection="close") + chunked)
    assert response.status in {200, 400}
    refused = http.ask("POST", "/update", most + b" ")
    assert (refused.status, b"nginx" in refused.body) == (413, True)    # it never came further
    assert http.get("/update/" + 9000 * "x").status == 414
    assert http.get(update_path(INSIDE, 1), X_Long=9000 * "x").status == 400


# -- no key is written down -----------------------------------------------------------------------

CANARY = "CANARY7d1f4e0b93"


def leaks(*folders):
    """The files that hold the canary, in any case or encoding it was sent in."""
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    return {path.name for path in files if CANARY.lower().encode() in path.read_bytes().lower()}


def canary_requests():
    """A key as it is meant to come, and in all the places where people put it by mistake."""
    right = update_path(INSIDE, 21).replace(INSIDE.key, CANARY)
    paths = [right, right.replace("5c:", "5d:"), f"/update/API_key=x{CANARY}/mac=M/field=1/data=1",
             f"/update?api_key={CANARY}&field1=1", f"/update.json?key={CANARY}",
             f"/Update/API_key={CANARY}", f"/{CANARY}", f"/?api_key={CANARY}",
             f"/channels/1/feeds.json?api_key={CANARY}", f"/api/readings?station={CANARY}",
             f"/update/%41PI_key={CANARY}/../{CANARY}", f"/.well-known/acme-challenge/{CANARY}",
             f"http://h/update/API_key={CANARY}", f"/update/API_key={CANARY}/x={7000 * 'y'}",
             f"/weatherstation/updateweatherstation.php?ID=M&PASSWORD={CANARY}&tempf=70",
             f"/weatherstation/updateweatherstation.phpID=M&PASSWORD={CANARY}",
             f"/data/report/{CANARY}", f"/data/report/{CANARY}/?&tempf=70", f"/report/{CANARY}",
             f"/verdict.txt?key={CANARY}", f"/metrics/{CANARY}"]
    yield from (request("GET", path, Connection="close") for path in paths)
    plain = "/update/mac=M/field=1/data=1"
    for name in ("X_API_Key", "Referer", "User_Agent", "Cookie", "Host", "Authorization",
                 "X_Real_IP", "X_THINGSPEAKAPIKEY"):
        yield request("GET", plain, Connection="close", **{name: CANARY})
    body = bulk(INSIDE, (1, 21)).replace(INSIDE.key.encode(), CANARY.encode())
    for sent in (body, body[:-1], f"api_key={CANARY}&field1=2".encode(), body.ljust(200_000),
                 body.ljust(300_000)):
        yield request("POST", "/update", sent, Connection="close")
    yield request("POST", f"/data/report/{CANARY}", b"PASSKEY=P&tempf=70", Connection="close")
    yield from (request(CANARY, "/", Connection="close"), f"GET /{CANARY}\r\n\r\n".encode(),
                request("GET", f"/update/API_key={CANARY}", Host="a b", Connection="close"),
                request("GET", f"/update/API_key={CANARY}/{9000 * 'x'}", Connection="close"),
                request("GET", f"/update/API_key={CANARY}", Long=9000 * "x", Connection="close"),
                request("GET", f"/{CANARY}", Connection=f"close\r\n{CANARY}"),   # with no colon
                f"GET /update/API_key={CANARY} HTTP/1.1\r\nHost: h\r\nA: ".encode())


def send(door, requests):
    """What comes back, all together."""
    heard = b""
    for raw in requests:
        with door.connect() as channel, contextlib.suppress(OSError, ssl.SSLError):
            channel.sendall(raw)
            if not raw.endswith(b"A: "):        # that one hangs up in the middle
                heard += receive(channel)
    return heard


def test_no_key_is_in_any_file_or_body(droplet, run, tmp_path):
    """Sent right and wrong, to a server that is up, that is down, and that is not there at all."""
    run("--new-key", "inside", "--key", CANARY)
    made = droplet(edits=[(" if=$iot_is_logged", "")])      # each line that there can be
    heard = b"".join(send(door, canary_requests()) for door in (made.http(), made.https()))
    assert heard.count(b"HTTP/1.1 200 ") >= 8
    heard += send(made.https(), [request("GET", path, Connection="close") for path in (
        "/", "/api/stations", "/export.csv", "/channels/1/feeds.json", "/channels/1")])
    for status in (301, 400, 403, 404, 413, 414):
        assert b"HTTP/1.1 %d " % status in heard
    run("--backup", "backup.db")
    run("--export", "all.csv")
    (tmp_path / "stderr").rename(tmp_path / "server.stderr")
    made.end_server()
    made.listener.close()
    heard += send(made.https(), canary_requests())      # connection refused
    (made.folder / "iotserver.sock").unlink()
    heard += send(made.http(), canary_requests())       # no such file
    assert heard.count(b"HTTP/1.1 502 ") >= 40
    log = (made.folder / "iotserver.log").read_text()
    assert re.search(r"^127\.0\.0\.2 \[[^]]*\] http GET /update 200 \d+ [\d.]+ 200$", log, re.M)
    assert len(log.splitlines()) >= 4 * len([*canary_requests()]) - 4    # some hang up
    assert CANARY.encode() not in re.sub(rb"\nLocation: .*", b"", heard)
    assert leaks(made.folder, tmp_path) == set()


def test_the_search_for_keys_finds_them(droplet, run):
    """In a site with each of its three precautions taken away."""
    run("--new-key", "inside", "--key", CANARY)
    made = droplet(edits=[
        ("error_log /dev/null emerg", "error_log /var/log/nginx/error.iotserver crit"),
        ("$iot_method $iot_place ", "$iot_method $request_uri "),
        ("    client_body_buffer_size", "    client_body_in_file_only on; #")])
    first, *_ = canary_requests()
    assert b"HTTP/1.1 200 " in send(made.http(), [first])
    assert leaks(made.folder) == {"iotserver.log"}
    body = next(raw for raw in canary_requests() if raw.startswith(b"POST"))
    assert b"HTTP/1.1 200 " in send(made.http(), [body])
    made.end_server()
    (made.folder / "iotserver.sock").unlink()
    assert b"HTTP/1.1 502 " in send(made.http(), [first])
    assert leaks(made.folder) == {"iotserver.log", "error.iotserver", "0000000001"}


# -- restarts, and a key that changes -------------------------------------------------------------


class Load:
    """Stations that send one reading after the other, until the block ends; each reading once."""

    def __init__(self, *senders):
        self.senders, self.acknowledged, self.failures = senders, [], []
        self.ended = threading.Event()
        self.values = itertools.count(1)

    def __enter__(self):
        self.threads = [threading.Thread(target=self.run, args=(s,)) for s in self.senders]
        for thread in self.threads:
            thread.start()
        return self

    def run(self, send):
        while not self.ended.wait(0.03):        # below what nginx grants one address
            value = next(self.values)
            try:
                status, body = send(value)
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(repr(error))
            else:
                (self.acknowledged if status == 200 else self.failures).append(
                    value if status == 200 else (status, body))

    def __exit__(self, *error):
        self.ended.set()
        for thread in self.threads:
            thread.join()
        for send in self.senders:
            send.close()


class Sender:
    """A station that sends its readings on a connection which it keeps, or on a new one each."""

    def __init__(self, connect, station=INSIDE, keeps=True):
        self.connect, self.station = connect, station
        self.headers = {} if keeps else {"Connection": "close"}
        self.client = http.client.HTTPConnection("localhost")

    def __call__(self, value):
        if self.client.sock is None:
            self.client.sock = self.connect()
        self.client.request("GET", update_path(self.station, value), headers=self.headers)
        response = self.client.getresponse()
        return response.status, response.read()

    def close(self):
        self.client.close()


def test_30_restarts_under_load_lose_and_refuse_nothing(droplet, database):
    made = droplet()
    doors = [made.http(f"127.0.1.{n}").connect for n in range(6)]
    with Load(*(Sender(door, keeps=n % 2) for n, door in enumerate(doors)),
              Sender(made.straight), Sender(made.straight, OUTSIDE, keeps=False)) as load:
        for _ in range(30):
            made.restart()
    assert load.failures == []
    assert len(load.acknowledged) > 200
    made.end_server()
    assert sorted(value for *_, value, _ in rows_of(database)) == sorted(load.acknowledged)


def test_a_key_is_changed_without_losing_a_reading(droplet, run, database):
    """The old key works until the station has the new one, and not any longer."""
    made = droplet()
    station = SimpleNamespace(mac=INSIDE.mac, key=INSIDE.key)
    with Load(Sender(made.http().connect, station), Sender(made.https().connect, station)) as load:
        wait_for(lambda: len(load.acknowledged) > 5, 30)
        run("--new-key", "inside", "--key", "NEW")
        before = len(load.acknowledged)
        wait_for(lambda: len(load.acknowledged) > before + 5, 30)
    station.key = "NEW"
    with Load(Sender(made.http().connect, station)) as later:
        wait_for(lambda: len(later.acknowledged) > 5, 30)
    assert load.failures + later.failures == []
    assert made.http().get(update_path(INSIDE, 1)).status == 403
    assert len(rows_of(database)) == len(load.acknowledged) + len(later.acknowledged)


def test_a_server_that_was_down_is_found_again(droplet):
    made = droplet()
    made.end_server()
    made.listener.close()
    response = made.http().get(update_path(INSIDE, 1))
    assert (response.status, response.headers["retry-after"]) == (502, "10")
    made.listen()
    made.start()
    assert made.http().update(INSIDE, 1) == 1
