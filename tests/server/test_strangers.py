"""What strangers, their web pages and a leaked key can get out of a server, or into it."""
import itertools
import json
import re
import shutil
from types import SimpleNamespace

import pytest
from harness import (
    INSIDE,
    NOON,
    OUTSIDE,
    PASSWORD,
    Wire,
    basic,
    bulk,
    parse_responses,
    request,
    update_path,
)

import iotserver

LOGIN = {"Authorization": basic(PASSWORD)}


@pytest.fixture
def private(in_process, password_file):
    server = in_process(private=str(password_file))
    server.update(INSIDE, 20)
    return server


def form(server, path, **parts):
    return server.ask("POST", path, "&".join(f"{k}={v}" for k, v in parts.items()).encode())


# -- other sites' scripts in a reader's browser ---------------------------------------------------


def test_every_answer_says_what_it_is_and_who_may_embed_it(in_process, password_file):
    paths = ("/", "/nothing", "/healthz", "/api/stations", "/export.csv", "/worker.js",
             "/channels/1/feeds.json", "/channels/1/charts/1", "/channels/9/feeds.json", "/update",
             update_path(INSIDE, "x"), update_path(INSIDE, 1))
    for flags in ({}, {"private": str(password_file)}):
        server = in_process(f"{len(flags)}.db", **flags)
        for path, accept in itertools.product(paths, ("text/html", "application/json", "*/*")):
            answer = server.get(path, Accept=accept)
            assert answer.headers["x-content-type-options"] == "nosniff", path
            assert answer.headers["cross-origin-resource-policy"] in {
                "same-origin", "same-site", "cross-origin"}, path
    assert server.get("/api/stations").headers["cross-origin-resource-policy"] != "cross-origin"


def test_a_script_of_another_site_cannot_use_the_browsers_password(private):
    path = "/channels/1/feeds.json?callback=steal"
    stolen = private.get(path, **LOGIN)
    assert stolen.status >= 400
    assert not re.search("field1|inside", stolen.text)
    key = private.get(f"{path}&api_key={INSIDE.key}")
    assert (key.status, key.text[:6]) == (200, "steal(")


@pytest.mark.parametrize("path", ["/", "/api/stations", "/export.csv", "/events",
                                  "/channels/1/feeds.json", "/api/readings?station=1"])
def test_what_another_site_fetches_is_refused_whatever_the_browser_adds(private, path):
    sent = private.get("/", **LOGIN).headers["set-cookie"].partition(";")[0]
    for mode in ("cors", "no-cors", "same-origin", "websocket"):
        for proof in (LOGIN, {"Cookie": sent}):
            answer = private.get(path, Sec_Fetch_Site="cross-site", Sec_Fetch_Mode=mode, **proof)
            assert answer.status == 403
            assert "inside" not in answer.text
    for site in ("same-origin", "none"):
        assert private.get(path, Sec_Fetch_Site=site, **LOGIN).status == 200
    followed = private.get("/", Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="navigate",
                           Sec_Fetch_Dest="document", **LOGIN)
    assert followed.status == 200               # a link that somebody follows


def test_a_private_page_is_not_kept(private, in_process):
    assert "no-store" in private.get("/", **LOGIN).headers["cache-control"]
    assert "no-store" not in in_process("public.db").get("/").headers["cache-control"]


class LanWire(Wire):
    """A connection to an address of a home network, or of the machine itself."""
    own = "192.168.1.5"

    def get_extra_info(self, name):
        return (self.own, 8000) if name == "sockname" else (self.peer, 9)


def ask_lan(server, host, path="/api/stations", part="status", own=LanWire.own, method="GET",
            body=b""):
    connection, wire = iotserver.Connection(server.server), LanWire("192.168.1.77")
    wire.own = own
    connection.connection_made(wire)
    connection.data_received(request(method, path, body, Host=host))
    server.server.loop.run()
    connection.connection_lost(None)
    return getattr(parse_responses(connection.transport.sent, ["GET"])[0], part)


HOSTS = {
    "192.168.1.5": 200, "192.168.1.5:8000": 200, "[fd00::1]": 200, "[fd00::1]:8000": 200,
    "localhost": 200, "localhost:8000": 200, "droplet": 200, "weather.local": 200,
    "weather.local:8000": 200, "Weather.LAN": 200, "weather.example.org": 200,
    "pi.home": 200, "pi.internal:8000": 200, "pi.home.arpa": 200, "pi.fritz.box": 200,
    "pi.localdomain": 200, "api.thingspeak.com": 200, "evil.box": 403,
    "fritz.box.evil.example": 403, "evilfritz.box": 403, "api.thingspeak.com.evil.example": 403,
    "evil.example": 403, "evil.example:8000": 403, "192.168.1.5.evil.example": 403,
    "evil.example.": 403, "local.evil.example:80": 403, "weather.example.org.evil.example": 403,
    "x.local.evil.example": 403,
}


@pytest.mark.parametrize(("host", "status"), HOSTS.items())
def test_a_name_that_points_here_on_purpose_reads_nothing(in_process, host, status):
    """DNS rebinding: the browser believes that this is evil.example, and lets its script read."""
    server, form = in_process(link="https://weather.example.org/"), bulk(INSIDE, (1, 20))
    for path in ("/", "/api/stations", "/export.csv", "/channels/1/feeds.json"):
        assert ask_lan(server, host, path) == status, path
        assert ask_lan(server, host, path, own="127.0.0.1") == status, path
        assert ask_lan(server, host, path, own="::1") == status, path
    assert ask_lan(server, host, update_path(INSIDE, 1)) == 200     # a station's may be any
    assert ask_lan(server, host, "/update", method="POST", body=form) == 200


def test_a_socket_for_both_ips_tells_private_addresses_from_public_ones(in_process):
    """As `--host ::` and install.sh --home open it: IPv4 comes mapped into IPv6 there."""
    server = in_process()
    for own, status in (("::ffff:192.168.1.5", 403), ("::ffff:93.184.216.34", 200),
                        ("fe80::1%eth0", 403), ("2606:2800:220:1::1", 200)):
        assert ask_lan(server, "weather.example.org", own=own) == status, own


def test_a_name_of_a_vpn_is_admitted_once_the_server_is_told(in_process):
    """RFC 6598: Tailscale gives addresses of 100.64.0.0/10, which are no more public than 10/8."""
    name, server = "pi.tail1234.ts.net", in_process()
    told = in_process("told.db", link=f"http://{name}")
    for own in ("100.101.102.103", "::ffff:100.101.102.103", "fd7a:115c:a1e0::1"):
        assert (ask_lan(server, name, own=own), ask_lan(told, name, own=own)) == (403, 200)
    assert ask_lan(server, "100.101.102.103", own="100.101.102.103") == 200
    assert ask_lan(server, name, own="100.63.255.255") == 200       # a public one


def test_names_of_the_machines_own_network_are_its_own(in_process, tmp_path, monkeypatch):
    """Whatever its router calls that network; systemd-resolved writes `search .` for none."""
    resolver = tmp_path / "resolv.conf"
    monkeypatch.setattr(iotserver, "RESOLVER", resolver)
    server = in_process()

    def answers():
        return [ask_lan(server, host) for host in (
            "pi.example.net:8000", "PI.Example.NET", "pi.branch.example", "pi.evil.example",
            "example.net.evil.example", "evil-example.net")]
    assert answers() == [403] * 6
    for text, admitted in (
            ("# search example.net\nnameserver 192.168.1.1\nsearch .\n", 0),
            ("search\nexample.net\n", 0), ("domain Example.net.\n", 2), ("\xff search \n", 0),
            ("nameserver 192.168.1.1\nsearch example.net branch.example\n", 3)):
        resolver.write_text(text, encoding="latin-1")
        assert answers() == [200] * admitted + [403] * (6 - admitted), text


def test_a_name_that_is_not_known_is_answered_with_what_to_type(in_process):
    server = in_process()
    said = ask_lan(server, "pi.example.net:8000", "/verdict.txt", "text")
    flag, url = re.search(r"(--link) (\S+)$", said).groups()
    assert (flag, url) == ("--link", "http://pi.example.net:8000")
    assert ask_lan(in_process("told.db", link=url), "pi.example.net:8000") == 200


# -- what a private server tells ------------------------------------------------------------------


def test_a_private_server_does_not_tell_which_channels_there_are(private):
    """Those that are there (1, 2), and those that are not: the same to the byte."""
    for path in ("/channels/{}/feeds.json", "/channels/{}.json", "/channels/{}/charts/1",
                 "/channels/{}/fields/1/last.txt", "/channels/{}/feeds/17.json",
                 "/channels/{}/nonsense", "/channels/{}/feeds.json?api_key=wrong",
                 "/channels/{}/status.xml", "/channels/{}/feeds.json?callback=a"):
        told = set()
        for channel in (1, 2, 999, 0, "x"):
            answer = private.get(path.format(channel))
            told.add((answer.status, answer.body, tuple(answer.headers)))
        assert len(told) == 1, path


def test_health_tells_no_paths(in_process, monkeypatch):
    server = in_process()

    def fail():
        raise iotserver.StoreError(f"{server.path}: gone")
    monkeypatch.setattr(server.server.reader, "look", fail)
    answer = server.get("/healthz")
    assert answer.status == 503
    assert "/" not in answer.text


# -- bulks ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["csv", "json"])
def test_a_bulk_with_a_bad_callback_tells_the_truth(server, kind):
    """It was answered 400, and stored: stored or refused, but not both."""
    body = (f"write_api_key={INSIDE.key}&updates=0,1|1,2&time_format=relative" if kind == "csv"
            else json.dumps({"write_api_key": INSIDE.key,
                             "updates": [{"delta_t": 0, "field1": 1}]}))
    path = f"/channels/1/bulk_update.{kind}"
    for name in ("alert(1)", "a%20b", "", "x" * 1000):
        before = len(server.rows())
        answer = server.ask("POST", f"{path}?callback={name}", body.encode())
        assert (answer.status == 202) == (len(server.rows()) > before), name
        assert not answer.text.startswith(("alert", "a b", "x"))


def test_a_wrong_key_is_refused_before_the_body_is_looked_at(server, monkeypatch):
    def fail(*arguments):
        pytest.fail("looked at")
    for name in ("parse_bulk_csv", "parse_bulk_times", "parse_draft"):
        monkeypatch.setattr(iotserver, name, fail)
    for n, body in enumerate((b"updates=" + b"|" * 253_000, b'{"updates":[{}]}')):
        kind = ("csv", "json")[n]
        answer = server.ask("POST", f"/channels/1/bulk_update.{kind}?api_key=no", body)
        assert answer.status == 401


# -- tokens: by requests, by readings, by bytes ---------------------------------------------------


def send_bulk(server, station, count=960, text=None):
    """A bulk of ThingSpeak's: its status."""
    line = f"0,{text or 1}" + ",1" * 7
    return form(server, "/channels/1/bulk_update.csv", write_api_key=station.key,
                time_format="relative", updates="|".join([line] * count)).status


def test_a_station_that_was_away_for_16_hours_may_send_them_all(in_process):
    server = in_process(rate_limit=60)
    for _ in range(4):
        assert server.ask("POST", "/update", bulk(OUTSIDE, *[
            {"field": 1, "data": n, "age": n * 60} for n in range(960)])).status == 200
    assert send_bulk(server, INSIDE) == 202             # also with all eight fields
    server.time += 300
    assert send_bulk(server, INSIDE, 300) == 202        # and the rest some minutes later


@pytest.mark.untraced
@pytest.mark.slow
def test_a_key_cannot_fill_the_disk(in_process):
    """45 GB a day, of bulks of texts; a day of one key is now some hundred MB at most."""
    server = in_process(rate_limit=60)
    size = server.path.stat().st_size
    statuses = []
    for _ in range(60):                                 # an hour of them, as fast as they may come
        statuses += [send_bulk(server, INSIDE, 900, "x" * 100) for _ in range(3)]
        server.time += 60
    assert 429 in statuses
    assert statuses.count(202) < 20
    log = server.path.with_name(server.path.name + "-wal")
    assert server.path.stat().st_size + log.stat().st_size - size < 50_000_000


def test_single_readings_go_on_while_texts_are_limited(in_process):
    server = in_process(rate_limit=60)
    while send_bulk(server, INSIDE, 900, "x" * 100) == 202:
        pass
    server.time += 60
    assert server.update(INSIDE, 20)
    assert server.get(f"/update?api_key={INSIDE.key}&field1=20").text != "0"


# -- a disk that fills up -------------------------------------------------------------------------


@pytest.fixture
def fill_disk(monkeypatch):
    """Makes the disk look as if so many bytes were left, of 10 GB."""
    def fill(server, free):
        monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(
            total=10_000_000_000, used=10_000_000_000 - free, free=free))
        iotserver.watch_space(server.server)
    return fill


def test_readings_of_numbers_are_taken_last(in_process, fill_disk, capsys):
    server = in_process()
    number = f"/update?api_key={INSIDE.key}&field1=20"
    few, text = update_path(INSIDE, 20), f"/update?api_key={INSIDE.key}&status={'x' * 200}"
    taken = []
    for free in (5_000_000_000, 40_000_000, 1_000_000, 5_000_000_000):
        fill_disk(server, free)
        taken.append([server.get(few).status, server.get(number).status, server.get(text).status,
                      send_bulk(server, INSIDE, 100)])
    assert taken == [[200, 200, 200, 202], [200, 200, 507, 507], [507] * 4, [200, 200, 200, 202]]
    assert server.get(few).headers["content-type"]
    assert len(capsys.readouterr().err.splitlines()) == 3       # once for each change


def test_a_refusal_for_space_says_when_to_come_again(in_process, fill_disk):
    server = in_process()
    fill_disk(server, 1_000_000)
    answer = server.get(update_path(INSIDE, 20))
    assert int(answer.headers["retry-after"]) >= 60
    assert server.get("/").status == server.get("/export.csv").status == 200


# -- drawing --------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["1e17", "-1e17", "1.7e308", "-1.7e308", "5e-324"])
def test_a_monstrous_reading_leaves_the_page_to_all(in_process, value):
    server = in_process()
    server.update(INSIDE, value)
    server.update(OUTSIDE, 20)
    server.update(OUTSIDE, value)
    for path in ("/", "/?range=7d", "/?range=1y", "/channels/1/charts/1", "/channels/2/charts/1",
                 "/channels/1/feeds.json?average=10", "/api/readings?station=1", "/events"):
        answer = server.get(path, Accept="text/html")
        assert answer.status == 200, path
        assert not re.search(r"\b(nan|inf)\b", answer.text)


@pytest.mark.parametrize("query", [
    "yaxismin=-1e308&yaxismax=1e308", "yaxismin=1e17", "yaxismax=-1.7e308",
    "yaxismin=5&yaxismax=5", "update=1e308&dynamic=true", "results=1e308", "days=1e308",
    "min=1e308", "round=1e308", "offset=1e308", "timescale=10&days=1e300", "median=10&min=-1e308"])
def test_what_a_chart_is_asked_for_does_not_break_it(server, query):
    for n in range(3):
        server.update(INSIDE, 20 + n)
    for path in ("/channels/1/charts/1", "/channels/1/feeds.json", "/channels/1/fields/1.csv"):
        assert server.get(f"{path}?{query}").status == 200, path


# -- many texts -----------------------------------------------------------------------------------


def test_texts_do_not_make_a_chart_look_at_all_of_them(server):
    """A series of texts has no numbers to stop at: still no more than MAX_SCAN are looked at."""
    rows = [(NOON - n * 1000, "inside", INSIDE.mac, 1, "text", n + 1) for n in range(60_000)]
    for n in range(0, len(rows), 5000):
        server.writer.import_rows(rows[n:n + 5000], NOON)
    server.update(INSIDE, 20, more="/age=100000")
    server.update(INSIDE, 21)
    steps = [0]

    def count():
        steps[0] += 1
    database = server.server.reader.db
    database.set_progress_handler(count, 1000)          # steps of SQLite's machine
    answer = server.get("/api/readings?station=1&points=100")
    database.set_progress_handler(None, 0)
    assert [value for _, value in answer.json["points"]][-1] == 21
    assert steps[0] < 400, "60,000 rows take 3 times as many"



# -- keys -----------------------------------------------------------------------------------------


def test_a_key_that_leaked_can_be_ended_at_once(run, database, serve):
    """--new-key NAME --now; without it the one before lasts until the new one is used."""
    live = serve("--rate-limit", "0")
    live.update(INSIDE, 20)
    kept = re.search(r"[0-9A-Za-z_-]{16,}", run("--new-key", "inside"))[0]
    assert live.get(update_path(INSIDE, 21)).status == 200
    now = re.search(r"[0-9A-Za-z_-]{16,}", run("--new-key", "inside", "--now"))[0]
    statuses = {key: live.get(update_path(INSIDE, 22).replace(INSIDE.key, key)).status
                for key in (INSIDE.key, kept, now)}
    assert list(statuses.values()) == [403, 403, 200]


def test_the_flood_of_a_leaked_key_leaves_the_new_one_its_rate(in_process):
    server = in_process(rate_limit=10)
    server.writer.new_key("inside", iotserver.hash_key("the-new-key").hex())
    assert [server.get(update_path(INSIDE, 1)).status for _ in range(20)][-1] == 429
    fresh = SimpleNamespace(**vars(INSIDE) | {"key": "the-new-key"})
    assert server.update(fresh, 20)


def test_a_key_is_told_on_standard_input(run, database, serve):
    """Arguments can be read by every user of the machine."""
    run("--add-station", "shed", "--mac", "aa:1", "--key", "-", stdin="kept-to-ourselves-1\n")
    live = serve()
    station = SimpleNamespace(mac="aa:1", key="kept-to-ourselves-1")
    assert live.update(station, 20) == 1


def test_the_printed_example_puts_the_key_into_a_header(run, database):
    said = run("--add-station", "shed", "--mac", "aa:1", "--key", "kept-to-ourselves-1")
    example = next(line for line in said.splitlines() if "curl" in line)
    assert "X-API-Key" in example
    assert "API_key=" not in example


# -- long bodies ----------------------------------------------------------------------------------

LONG = 240_000
NESTED = b'{"mac":"m","x":' + b"[" * 900 + b"]" * 900 + b',"y":"' + b"x" * LONG + b'"}'


def bodies(key):
    """Long bodies whose decoding takes long, with a key where their clients have it."""
    text, key = "é%41".encode() * (LONG // 5), key.encode()
    bulk = b",".join([b'{"field":1,"data":1}'] * 900)
    there = b",".join([b'{"delta_t":1,"field1":1}'] * 900)
    return {
        "ours, key first": ("/update", b'{"mac":"%b","api_key":"%b","readings":[%b]}' % (
            INSIDE.mac.encode(), key, bulk)),
        "ours, key last": ("/update", b'{"readings":[%b],"mac":"%b", "api_key" : "%b"}' % (
            bulk, INSIDE.mac.encode(), key)),
        "nested": ("/update", NESTED[:-1] + b',"api_key":"%b"}' % key),
        "bulk as JSON": ("/channels/1/bulk_update.json",
                         b'{"write_api_key":"%b","updates":[%b]}' % (key, there)),
        "bulk as CSV": ("/channels/1/bulk_update.csv",
                        b"write_api_key=%b&time_format=relative&updates=%b" % (
                            key, b"|".join([b"1,20"] * 900))),
        "form": ("/channels/1/bulk_update.csv", b"updates=%b&api_key=%b" % (text, key)),
        "entry": ("/update", b"api_key=%b&status=%b" % (key, text[:16_000])),
        "report": ("/data/report/" + key.decode(), b"temp=20&x=%b" % text[:16_000]),
    }


@pytest.fixture
def decoded(monkeypatch):
    """The lengths of all that is decoded."""
    lengths = []
    loads, form = iotserver.load_json, iotserver.parse_form
    monkeypatch.setattr(iotserver, "load_json", lambda body: (
        lengths.append(len(body)), loads(body))[1])
    monkeypatch.setattr(iotserver, "parse_form", lambda text: (
        lengths.append(len(text)), form(text))[1])
    return lengths


@pytest.mark.parametrize("kind", bodies(""))
def test_a_long_body_is_decoded_for_who_has_a_key(server, decoded, kind):
    path, body = bodies("wrong")[kind]
    refused = server.ask("POST", path, body)
    assert refused.status in {400, 401, 403}
    assert sum(decoded) == 0
    assert server.rows() == []
    path, body = bodies(INSIDE.key)[kind]
    answer = server.ask("POST", path, body)
    assert max(decoded) > 2048
    if kind.startswith(("ours", "bulk")):
        assert answer.status in {200, 202}, answer
        assert len(server.rows()) == 900


@pytest.mark.parametrize("more", [{"X_API_Key": INSIDE.key}, {"THINGSPEAKAPIKEY": INSIDE.key}])
def test_the_key_of_a_long_body_may_be_in_a_header(server, more):
    updates = b",".join([b'{"delta_t":1,"field1":1}'] * 900)
    answer = server.ask("POST", "/channels/1/bulk_update.json", b'{"updates":[%b]}' % updates,
                        **more)
    assert answer.status == 202, answer
    assert len(server.rows()) == 900


LIKE_A_KEY = ",".join(['{"delta_t":1,"field1":1,"status":"battery low, key: 5"}'] * 90)
LINES = "|".join(["1,20,,,,,,,,,,a long text"] * 90)


@pytest.mark.parametrize(("kind", "body"), [
    ("json", f'{{"updates":[{LIKE_A_KEY}],"write_api_key":"{INSIDE.key}"}}'),
    ("json", f'{{"write_api_key":"{INSIDE.key}","updates":[{LIKE_A_KEY}]}}'),
    ("csv", f"updates={LINES}&time_format=relative&write_api_key=%47{INSIDE.key[1:]}")])
def test_a_right_key_of_a_long_body_is_found_beside_texts_that_look_like_one(server, kind, body):
    """And where a client has escaped it, as some do with the ~ of a key."""
    path = "/channels/1/bulk_update." + kind
    assert len(body) > 2048
    assert server.ask("POST", path, body.encode()).status == 202
    assert len(server.rows()) == 90


def test_wrong_keys_of_long_bodies_are_guesses(server):
    path, body = bodies("wrong")["ours, key first"]
    told = [server.ask("POST", path, body).status for _ in range(102)]
    assert told == [403] * 100 + [429] * 2
    path, body = bodies(INSIDE.key)["ours, key first"]
    assert server.ask("POST", path, body).status == 429, "it is not told which one is right"


def test_a_report_of_a_console_is_short(server):
    answer = server.ask("POST", "/data/report/" + INSIDE.key, b"temp=20&x=" + b"x" * 16_400)
    assert answer.status == 413
    assert server.rows() == []
