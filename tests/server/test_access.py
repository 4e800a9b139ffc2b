"""Who may write and read: guessing is throttled, a private server shows strangers nothing."""
import base64
import contextlib
import json
import os
import pty
import secrets
import stat
import subprocess
import sys
import time

import pytest
from harness import INSIDE, OUTSIDE, PASSWORD, SCRIPT, basic, bulk, environment, update_path

import iotserver

WINDOW = iotserver.GUESS_WINDOW
PRIVATE = ("/", "/events", "/api/stations", "/api/readings?station=inside", "/export.csv")


def wrong(n):
    return f"/update/API_key=wrong{n}/mac={INSIDE.mac}/field=1/data=1"


def guess(server, times, path=wrong, **headers):
    """The statuses of so many updates with wrong keys."""
    return [server.get(path(n), **headers).status for n in range(times)]


# -- guessing -------------------------------------------------------------------------------------


def test_guessing_is_throttled_and_does_not_relent_until_the_window_ends(server):
    statuses = guess(server, iotserver.MAX_GUESSES + 1)
    assert statuses == [403] * iotserver.MAX_GUESSES + [429]
    server.time += WINDOW - 30
    answer = server.get(wrong(0))
    assert (answer.status, answer.headers["retry-after"]) == (429, "30")
    server.time += 31
    assert guess(server, 2) == [403, 403]
    assert server.rows() == []


def test_who_guesses_on_learns_nothing_not_even_by_the_right_key(server):
    guess(server, iotserver.MAX_GUESSES)
    path = update_path(INSIDE, 20)
    answers = [server.get(wrong(0)), server.get(path),
               server.get(path.replace(INSIDE.key, "x" * 300)),
               server.get(path.replace(INSIDE.mac, "unknown"))]
    assert {(answer.status, answer.body) for answer in answers} == {(429, answers[0].body)}
    assert server.get(f"/update?api_key={INSIDE.key}&field1=1").status == 429
    assert server.ask("POST", "/update", bulk(INSIDE, (1, 22))).status == 429
    assert server.rows() == []
    server.peer = ("127.0.0.2", 9)
    assert server.update(INSIDE, 20) == 1               # from elsewhere it is taken
    server.peer, server.time = ("127.0.0.1", 9), server.time + WINDOW + 1
    assert server.update(INSIDE, 21) == 2


def test_what_was_right_from_there_before_gets_through_from_a_throttled_address(in_process):
    server = in_process(rate_limit=5)
    server.update(INSIDE, 19)
    assert guess(server, 400)[-1] == 429
    assert server.update(INSIDE, 20) == 2           # nor have the guesses used up its rate
    assert server.ask("POST", "/update", bulk(INSIDE, (1, 22))).status == 200
    assert server.get(f"/update?api_key={INSIDE.key}&field1=1").text == "4"
    assert server.get(update_path(OUTSIDE, 21)).status == 429       # no other key, though
    assert server.get(update_path(INSIDE, 21).replace(INSIDE.mac, OUTSIDE.mac)).status == 403
    assert server.get(wrong(0)).status == 429


def test_what_was_right_from_there_before_a_restart_gets_through(in_process):
    """Stations behind one address, where somebody else guesses before their first update."""
    before = in_process()
    before.update(INSIDE, 19)
    before.update(INSIDE, 20)
    assert len(iotserver.read_admitted(before.writer.db)) == 1, "written once, not for each update"
    before.writer.close()
    after = iotserver.Writer(before.path)
    with contextlib.closing(after):
        access = iotserver.Access(after, 0, lambda: 0.0)
        for n in range(iotserver.MAX_GUESSES):
            with pytest.raises(iotserver.Refused, match="wrong API key"):
                access.admit(INSIDE.mac, f"wrong{n}", "127.0.0.1")
        for station, address in [(OUTSIDE, "127.0.0.1"), (INSIDE, "127.0.0.2")]:
            for n in range(iotserver.MAX_GUESSES * (address == "127.0.0.2")):
                with pytest.raises(iotserver.Refused, match="wrong API key"):
                    access.admit(INSIDE.mac, f"wrong{n}", address)
            with pytest.raises(iotserver.Refused, match="too many wrong keys"):
                access.admit(station.mac, station.key, address)
        assert access.admit(INSIDE.mac, INSIDE.key, "127.0.0.1").name == INSIDE.name


def test_what_is_kept_of_who_was_right_is_bounded(server, monkeypatch):
    monkeypatch.setattr(iotserver, "MAX_ADMITTED", 3)
    server.peer = ""
    for n in range(6):
        server.get(update_path(INSIDE, n), X_Real_IP=f"10.0.0.{n}")
    digest = iotserver.hash_key(INSIDE.key)
    assert iotserver.read_admitted(server.writer.db) == [
        iotserver.hash_pair(f"10.0.0.{n}", digest) for n in (3, 4, 5)]


def test_a_flood_of_addresses_does_not_free_a_throttled_one(server):
    guess(server, iotserver.MAX_GUESSES)
    server.peer = ""                                                # the proxy, which tells them
    for n in range(iotserver.MAX_ADDRESSES + 100):
        server.get(wrong(0), X_Real_IP=f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}")
    server.peer = ("127.0.0.1", 9)
    assert server.get(update_path(INSIDE, 20)).status == 429


def test_a_site_is_throttled_beside_its_networks(server):
    """A /48 is what one customer of a provider may have: 65,536 networks of a /64."""
    server.peer = ""

    def ask(path, network):
        return server.get(path, X_Real_IP=f"2001:db8:1:{network:x}::1").status
    statuses = [ask(wrong(0), n % 500) for n in range(1001)]
    assert statuses == [403] * 1000 + [429]             # none of its networks had more than 3
    assert ask(update_path(INSIDE, 20), 60_000) == 429
    assert server.get(update_path(INSIDE, 20), X_Real_IP="2001:db8:2::1").status == 200


def test_the_throttled_are_bounded_too():
    """More networks than there is room for, each with all of its guesses."""
    guesses = iotserver.Guesses(lambda: 0.0)
    began = time.process_time()
    for n in range(iotserver.MAX_ADDRESSES + 500):
        address = f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}"
        guesses.counts[address] = (iotserver.MAX_GUESSES - 1, 900.0)
        guesses.add(address)
    assert time.process_time() - began < 1
    assert len(guesses.throttled) <= iotserver.MAX_ADDRESSES
    with pytest.raises(iotserver.Refused, match="too many wrong keys"):
        guesses.refuse(address, b"")


def test_unknown_macs_and_bodies_count_as_guesses_too(server):
    def unknown(n):
        return f"/update/API_key={INSIDE.key}/mac=unknown-{n}/field=1/data=1"
    assert guess(server, 60, unknown) == [403] * 60
    body = json.dumps({"mac": INSIDE.mac, "api_key": "x", "readings": [{"field": 1, "data": 1}]})
    statuses = [server.ask("POST", "/update", body.encode()).status for _ in range(60)]
    assert statuses == [403] * 40 + [429] * 20


def test_keys_guessed_on_thingspeaks_paths_count_too(server):
    statuses = guess(server, 110, lambda n: f"/update?api_key=wrong{n}&field1=1")
    assert statuses == [400] * 100 + [429] * 10
    assert server.get(f"/update?api_key={INSIDE.key}&field1=1").status == 429
    server.time += WINDOW + 1
    assert server.get(f"/update?api_key={INSIDE.key}&field1=1").text == "1"


def test_read_keys_guessed_count_too(in_process, password_file):
    private = in_process(private=str(password_file))
    read_key = secrets.token_urlsafe(16)
    private.writer.set_read_key("inside", iotserver.hash_key(read_key).hex())
    path = "/channels/1/feeds/last.json?api_key="

    def ask(key):
        """Whether a key opens the feed: its status, and what a stranger is told."""
        answer = private.get(path + key)
        return answer.status, answer.body
    assert ask(read_key) != ask("wrong")
    known = ask(read_key)
    for n in range(iotserver.MAX_GUESSES):
        private.get(f"{path}wrong{n}")
    assert private.get(path + "wrong").status == 429
    assert ask(read_key) == known                       # right from here before
    private.peer = ("127.0.0.2", 9)
    for n in range(iotserver.MAX_GUESSES):
        private.get(f"{path}wrong{n}")
    assert private.get(path + read_key).status == 429


def test_a_misconfigured_station_always_learns_what_is_wrong(server):
    for minute in range(120):
        server.time += 60
        assert server.get(wrong(0)).status == 403, minute


def test_the_proxy_says_who_asks_and_nobody_else(server):
    server.peer = ("192.0.2.7", 9)
    assert guess(server, 101, X_Real_IP="192.0.2.1")[-1] == 429     # a claim
    assert guess(server, 1, X_Real_IP="192.0.2.2") == [429]
    assert guess(server, 1, X_Forwarded_For="192.0.2.2") == [429]
    server.peer = ""                                                # a unix socket
    assert guess(server, 101, X_Real_IP="192.0.2.1")[-1] == 429
    assert guess(server, 1, X_Real_IP="192.0.2.2") == [403]
    assert server.get(wrong(0), X_Real_IP="192.0.2.1, 192.0.2.9").status == 403


@pytest.mark.parametrize("peer", ["", ("127.0.0.1", 9), ("127.3.2.1", 9), ("::1", 9, 0, 0),
                                  ("::ffff:127.0.0.1", 9, 0, 0)])
def test_a_proxy_on_this_machine_may_say_it_in_either_header(server, peer):
    """Caddy and Apache send X-Forwarded-For alone, and keep what the client sent before it."""
    server.peer = peer
    assert guess(server, 101, X_Forwarded_For="192.0.2.1")[-1] == 429
    assert guess(server, 1, X_Forwarded_For="192.0.2.2, 192.0.2.1") == [429]
    assert guess(server, 1, X_Forwarded_For="192.0.2.1,192.0.2.2") == [403]
    assert guess(server, 1, X_Forwarded_For="192.0.2.2", X_Real_IP="192.0.2.1") == [429]
    assert guess(server, 1) == [403]


def test_another_sites_page_uses_up_none_of_its_visitors_guesses(private):
    private.peer = ("192.0.2.7", 9)
    told = guess(private, 102, Sec_Fetch_Site="cross-site", Sec_Fetch_Dest="image")
    assert told == [403] * 100 + [429] * 2, "it may not guess for ever either"
    assert guess(private, 1) == [403]
    assert private.get(update_path(INSIDE, 1)).status == 200
    assert guess(private, 99, Sec_Fetch_Site="same-origin", Sec_Fetch_Dest="empty") == [403] * 99
    assert guess(private, 1, Sec_Fetch_Site="cross-site", Sec_Fetch_Dest="document") == [429]


@pytest.mark.parametrize(("one", "other", "are_same"), [
    ("192.0.2.1", "192.0.2.2", False),
    ("2001:db8::1", "2001:db8::ffff:1", True),          # one user has a /64
    ("2001:db8:0:1::1", "2001:db8:0:2::1", False),
    ("::ffff:192.0.2.1", "192.0.2.1", True),
    ("::ffff:192.0.2.1", "::ffff:192.0.2.2", False),
    ("fe80::1%eth0", "fe80::2", True),
    ("", "nonsense", True),
])
def test_addresses_counted_together(one, other, are_same):
    guesses = iotserver.Guesses(lambda: 0.0)
    for _ in range(iotserver.MAX_GUESSES):
        guesses.add(one)
    with pytest.raises(iotserver.Refused) if are_same else contextlib.nullcontext():
        guesses.refuse(other, b"")


def test_the_count_of_addresses_is_bounded():
    guesses = iotserver.Guesses(lambda: 0.0)
    for n in range(iotserver.MAX_ADDRESSES + 100):
        guesses.add(f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}")
        guesses.accept(f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}", b"right")
    assert len(guesses.counts) == len(guesses.right) == iotserver.MAX_ADDRESSES


# -- a private server -----------------------------------------------------------------------------


@pytest.fixture
def private(in_process, password_file):
    return in_process(private=str(password_file))


def test_nothing_is_shown_without_the_password(private):
    for path in PRIVATE:
        for method in ("GET", "HEAD"):
            answer = private.ask(method, path)
            assert answer.status == 401, path
            assert answer.headers["www-authenticate"] == 'Basic realm="iotserver", charset="UTF-8"'
            assert "inside" not in answer.text


def test_the_password_opens_everything(private):
    private.update(INSIDE, 20)
    assert [private.get(path, Authorization=basic(PASSWORD, name)).status
            for path in PRIVATE for name in ("", "anybody")] == [200] * 2 * len(PRIVATE)


def test_updates_and_health_need_no_password(private):
    assert private.update(INSIDE, 20) == 1
    assert private.ask("POST", "/update", bulk(OUTSIDE, (1, 22))).status == 200
    for path in ("/healthz", "/icon.svg", "/manifest.webmanifest", "/worker.js"):
        assert private.get(path).status == 200


@pytest.mark.parametrize("header", [
    "", "Basic", "Basic !", "Basic " + base64.b64encode(b"no colon").decode(),
    "Basic " + base64.b64encode(b"\xff:\xfe").decode(), basic(""), basic(PASSWORD + "x"),
    "Bearer " + basic(PASSWORD).split()[1], basic(INSIDE.key)])
def test_what_is_no_password(private, header):
    assert private.get("/", Authorization=header).status == 401


def test_passwords_are_guessed_slowly_and_with_the_keys_count(private):
    assert private.get("/", Authorization=basic("wrong")).status == 401
    private.get("/", Authorization=basic("wrong"))
    busy = private.get("/", Authorization=basic("wrong"))
    assert (busy.status, busy.headers["retry-after"]) == (503, "1")     # scrypt takes its time
    private.time += 2
    assert private.get("/", Authorization=basic(PASSWORD)).status == 200
    statuses = [private.get("/", Authorization=basic(f"{n}")).status for n in range(110)]
    assert (statuses[90], statuses[-1]) == (401, 429)
    assert guess(private, 1) == [429]
    assert private.get("/", Authorization=basic(PASSWORD)).status == 200    # known from here
    private.peer = ("127.0.0.2", 9)
    guess(private, 100)
    assert private.get("/", Authorization=basic(PASSWORD)).status == 429    # from there it is not


def test_after_a_restart_a_guesser_keeps_nobody_out(in_process, password_file):
    """13 of 13 who log in while somebody guesses as fast as he can."""
    for visitor in range(13):
        private = in_process(f"{visitor}.db", private=str(password_file))
        private.peer = ("127.0.0.2", 9)
        for n in range(8):
            private.get("/", Authorization=basic(f"wrong{n}"))
            private.time += 0.2
        private.get("/", Authorization=basic("wrong"))
        private.peer = ("127.0.0.1", 9)
        assert private.get("/", Authorization=basic(PASSWORD)).status == 200, visitor


def test_who_was_let_in_stays_so_after_a_restart_without_a_word(in_process, password_file):
    private = in_process(private=str(password_file))
    cookie = private.get("/", Authorization=basic(PASSWORD)).headers["set-cookie"]
    assert {"HttpOnly", "SameSite=Strict"} <= set(cookie.split("; "))
    assert PASSWORD not in cookie
    later = in_process("later.db", private=str(password_file))
    name, _, value = cookie.partition(";")[0].partition("=")
    assert later.get("/", Cookie=f"tz=UTC; {name}={value}").status == 200
    assert later.get("/", Cookie=f"{name}={value[:-1]}").status == 401
    assert later.get("/", Cookie=f"{name}=").status == 401


def test_the_private_page_says_so_to_a_browser(private):
    answer = private.get("/", Accept="text/html")
    assert "private" in answer.text
    assert answer.headers["content-security-policy"]


# -- the password file ----------------------------------------------------------------------------


def test_set_password_makes_a_file_that_serves(run, tmp_path, database, serve):
    assert "--private" in run("--set-password", "password", stdin=PASSWORD + "\n")
    path = tmp_path / "password"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert "sesame" not in path.read_text()
    server = serve("--private", "password")
    assert server.get("/api/stations").status == 401
    authorization = "Basic " + base64.b64encode(f":{PASSWORD}".encode()).decode()
    assert server.get("/api/stations", Authorization=authorization).status == 200
    first = path.read_text()
    run("--set-password", "password", stdin=PASSWORD)
    assert path.read_text() != first                    # salted


def test_set_password_asks_twice_on_a_terminal(tmp_path):
    for answers, status in (((PASSWORD, PASSWORD), 0), ((PASSWORD, "another one"), 2)):
        ours, theirs = pty.openpty()
        with subprocess.Popen([sys.executable, SCRIPT, "--set-password", "password"], cwd=tmp_path,
                              stdin=theirs, stdout=theirs, stderr=theirs, env=environment(),
                              start_new_session=True) as process:
            os.close(theirs)
            shown = b""
            for prompt, answer in zip((b"new password:", b"once more:"), answers, strict=True):
                while prompt not in shown:
                    shown += os.read(ours, 1000)
                os.write(ours, answer.encode() + b"\n")
            assert process.wait(20) == status
        os.close(ours)
        assert (tmp_path / "password").exists()         # the first one is kept
        assert b"sesame" not in shown


def test_a_password_that_is_too_short_changes_nothing(run, tmp_path):
    run("--set-password", "password", stdin="short\n", status=2, stderr="8 characters or more")
    assert not (tmp_path / "password").exists()


@pytest.mark.parametrize("content", [None, "", "open sesame\n", "scrypt 00 00\n", "\xff"])
def test_a_server_without_its_password_file_does_not_start(run, database, tmp_path, content):
    if content is not None:
        (tmp_path / "password").write_text(content, encoding="latin-1")
    run("--private", "password", "--port", "0", status=1, stderr="--set-password")


READ = ["/", "/api/stations", "/api/readings?station=inside", "/api/verdict", "/verdict.txt",
        "/export.csv", "/metrics", "/channels/1/feeds.json", "/channels/1/fields/1/last.txt",
        "/channels/1/charts/1", "/api/readings?station=none"]


@pytest.mark.parametrize("path", READ)
def test_what_needs_the_password_is_kept_nowhere(private, path):
    answer = private.get(path, Authorization=basic(PASSWORD))
    assert answer.headers["cache-control"] == "no-store", answer
    assert private.get(path).headers["cache-control"] == "no-store"


def test_a_public_server_does_not_mind(server):
    assert "cache-control" not in server.get("/export.csv").headers


def test_assets_of_a_private_server_are_kept(private):
    assert private.get("/icon.svg").headers["cache-control"] == "max-age=86400"
