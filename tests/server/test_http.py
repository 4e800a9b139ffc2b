"""Bytes in, bytes out: every row of the HTTP table, without a socket."""
import re
import urllib.parse
from types import SimpleNamespace

import pytest
from harness import INSIDE, NOON, OUTSIDE, bulk, parse_responses, problems_of, request, update_path

import iotserver
from iotserver import HOUR, MINUTE

GET = update_path(INSIDE, "22.5")
SECRETS = [text for s in (INSIDE, OUTSIDE) for text in (s.key, s.mac)]


def get(path, **headers):
    return request("GET", path, **headers)


# -- updates --------------------------------------------------------------------------------------


def test_update_answers_with_the_entry_number_and_nothing_else(server):
    for number in (b"1", b"2", b"3"):
        response = server.get(GET)
        assert (response.status, response.body) == (200, number)
        assert response.headers["content-type"].startswith("text/plain")
    assert server.update(OUTSIDE, "-1") == 1, "each station counts for itself"


def test_update_is_kept_as_it_was_sent(server):
    server.update(INSIDE, "22.5")
    server.update(INSIDE, "-0.001e2", 9, "/age=90.5")
    assert server.rows() == [["2018-07-30T11:58:29.500Z", "inside", "9", "-0.1", "2"],
                             ["2018-07-30T12:00:00.000Z", "inside", "1", "22.5", "1"]]


def test_browser_gets_a_page(server):
    response = server.get(GET, Accept="text/html,application/xhtml+xml,*/*;q=0.8")
    assert response.status == 200
    assert response.headers["content-type"].startswith("text/html")
    assert "entry 1" in response.text
    assert len(server.rows()) == 1


@pytest.mark.parametrize("path", [
    "/update/data=22.5/field=1/mac={m}/API_key={k}",
    "/update/api_KEY={k}/MAC={m}/Field=1/data=22.5",
    "/update/age=0/API_key={k}/seq=x/mac={M}/field=1/data=22.5",
    "/update/API_key={k}/mac={q}/field=%31/data=%32%32%2e5",
    "http://elsewhere/update/API_key={k}/mac={m}/field=1/data=22.5"])
def test_ways_to_write_the_same_update(server, path):
    mac = INSIDE.mac
    path = path.format(k=INSIDE.key, m=mac, M=mac.upper(), q=urllib.parse.quote(mac, safe=""))
    assert server.get(path).body == b"1"
    assert [row[1:] for row in server.rows()] == [["inside", "1", "22.5", "1"]]


def test_key_in_the_header(server):
    path = f"/update/mac={INSIDE.mac}/field=1/data=1"
    assert server.get(path, X_API_Key=INSIDE.key).body == b"1"
    assert server.get(path, X_API_Key=OUTSIDE.key).status == 403
    body = bulk(INSIDE, (1, 2), api_key=None).replace(b'"api_key": null, ', b"")
    assert server.ask("POST", "/update", body, X_API_Key=INSIDE.key).json["entries"] == [2]


def test_repeated_seq_is_answered_the_same_and_stored_once(server):
    first = server.update(INSIDE, "1", more="/seq=boot-1")
    second = server.update(INSIDE, "2", more="/seq=boot-2")
    assert (first, second) == (1, 2)
    assert server.update(INSIDE, "1", more="/seq=boot-1/age=5") == first
    assert server.update(INSIDE, "1", field=2, more="/seq=boot-1") == 3, "another field"
    assert server.update(OUTSIDE, "1", more="/seq=boot-1") == 1, "another station"
    assert len(server.rows()) == 4


def test_bulk_stores_all_readings(server):
    body = bulk(INSIDE, (1, 20), {"field": 2, "data": "55.5", "age": 60, "seq": "a"}, (1, 21))
    response = server.ask("POST", "/update", body, Content_Type="application/json")
    assert (response.status, response.json) == (200, {"stored": 3, "entries": [1, 2, 3]})
    assert [row[2:4] for row in server.rows()] == [["2", "55.5"], ["1", "20"], ["1", "21"]]
    again = server.ask("POST", "/update", bulk(
        INSIDE, {"field": 2, "data": "55.5", "seq": "a"}, {"field": 1, "data": 1, "seq": "b"},
        {"field": 1, "data": 1, "seq": "b"}))
    assert again.json == {"stored": 1, "entries": [2, 4, 4]}


def test_bulk_of_960_fits_and_961_does_not(server):
    reading = {"field": 1, "data": -12.5, "age": 2_592_000, "seq": "x" * 20}
    readings = [{**reading, "seq": f"{reading['seq']}{i}"} for i in range(961)]
    assert server.ask("POST", "/update", bulk(INSIDE, *readings)).status == 400
    assert server.rows() == []
    assert server.ask("POST", "/update", bulk(INSIDE, *readings[:960])).json["stored"] == 960


def test_equal_readings_of_one_millisecond_are_all_kept(server):
    assert [server.update(INSIDE, "5") for _ in range(3)] == [1, 2, 3]
    assert len(server.rows()) == 3


REFUSED = [                     # path behind /update/, status, what the message names
    ("API_key={k}/mac={m}/field=1", 400, "data"),
    ("API_key={k}/mac={m}/data=1", 400, "field"),
    ("API_key={k}/field=1/data=1", 400, "mac"),
    ("mac={m}/field=1/data=1", 400, "API_key"),
    ("API_key={k}/mac={m}/field=0/data=1", 400, "field"),
    ("API_key={k}/mac={m}/field=1/data=nan", 400, "data"),
    ("API_key={k}/mac={m}/field=1/data=", 400, "data"),
    ("API_key={k}/mac={m}/field=1/data=1/data=2", 400, "data"),
    ("API_key={k}/mac={m}/field=1/data=1/age=-1", 400, "age"),
    ("API_key={k}/mac={m}/field=1/data=1/age=2592000.1", 400, "age"),
    ("API_key={k}/mac={m}/field=1/data=1/seq=", 400, "seq"),
    ("API_key={k}/mac={m}/field=1/data=1/seq=" + "x" * 33, 400, "seq"),
    ("API_key={k}/mac=a%20b/field=1/data=1", 400, "mac"),
    ("API_key=wrong/mac={m}/field=1/data=1", 403, "API key"),
    ("API_key=/mac={m}/field=1/data=1", 403, "API key"),
    ("API_key={k}/mac=unknown/field=1/data=1", 403, "API key"),
    ("API_key={o}/mac={m}/field=1/data=1", 403, "API key"),
]


@pytest.mark.parametrize(("path", "status", "word"), REFUSED)
def test_refused_update_names_the_part_and_stores_nothing(server, path, status, word):
    path = "/update/" + path.format(k=INSIDE.key, m=INSIDE.mac, o=OUTSIDE.key)
    response = server.get(path)
    assert response.status == status
    assert word in response.text
    assert not [s for s in SECRETS if s in response.text]
    assert server.rows() == []
    assert server.update(INSIDE, "1") == 1, "a refusal takes no entry number"


def test_wrong_key_and_unknown_mac_are_told_alike(server):
    answers = {server.get(f"/update/API_key={key}/mac={mac}/field=1/data=1").body
               for key, mac in [("no", INSIDE.mac), (INSIDE.key, "no"), ("no", "no"),
                                (OUTSIDE.key, INSIDE.mac), (INSIDE.key + "x", INSIDE.mac)]}
    assert len(answers) == 1


@pytest.mark.parametrize(("bad", "status", "word"), [
    ((1, "nan"), 400, r"readings\[2\].data"), ((0, 1), 400, r"readings\[2\].field"),
    ({"field": 1, "data": 1, "age": 1e9}, 400, r"readings\[2\].age"),
    ({"field": 1}, 400, r"readings\[2\].data")])
def test_bulk_is_all_or_nothing(server, bad, status, word):
    response = server.ask("POST", "/update", bulk(INSIDE, (1, 1), (1, 2), bad, (1, 3)))
    assert response.status == status
    assert re.search(word, response.json["error"])
    assert server.rows() == []


def test_bulk_with_a_wrong_key(server):
    for body in (bulk(INSIDE, (1, 1), api_key="no"), bulk(INSIDE, (1, 1), mac="no")):
        assert server.ask("POST", "/update", body).status == 403
    assert server.rows() == []


def test_no_reading_of_any_size_harms_others(server):
    """Sums of the largest doubles overflow; neither the store nor JSON knows infinity or NaN."""
    for sign in "", "-":
        body = bulk(INSIDE, *[(1, f"{sign}1.7e308")] * 3)
        assert server.ask("POST", "/update", body).status == 200
        assert server.get("/healthz").status == 200
    server.update(OUTSIDE, "5")
    assert len(server.rows()) == 7
    assert problems_of(server.path) == [], "no backup is to be restored because of them"
    for points in (1, 2, 100):
        found = server.get(f"/api/readings?station=inside&points={points}")
        assert found.status == 200
        assert all(abs(value) <= 1.8e308 for point in found.json["points"] for value in point)


# -- rate limit -----------------------------------------------------------------------------------


def test_rate_limit_is_for_each_station(in_process):
    server = in_process(rate_limit=5)
    assert [server.get(GET).status for _ in range(7)] == [200] * 5 + [429] * 2
    assert server.get(GET).headers["retry-after"] == "12"
    assert server.update(OUTSIDE, "1") == 1
    server.time += 12
    assert [server.get(GET).status for _ in range(2)] == [200, 429]
    server.time += 3600
    assert [server.get(GET).status for _ in range(6)] == [200] * 5 + [429]


def test_bulk_counts_as_one_update_and_refusals_as_none(in_process):
    server = in_process(rate_limit=2)
    body = bulk(INSIDE, *[(1, i) for i in range(50)])
    for path in ("/update/API_key=no/mac=" + INSIDE.mac + "/field=1/data=1", GET + "x"):
        assert server.get(path).status in {400, 403}
    assert [server.ask("POST", "/update", body).status for _ in range(3)] == [200, 200, 429]
    assert len(server.rows()) == 100


# -- the other routes -----------------------------------------------------------------------------


def test_page_shows_each_station_with_its_last_temperature(server):
    server.update(INSIDE, "22.5")
    server.update(OUTSIDE, "-3.5", more="/age=100")
    response = server.get("/")
    assert response.status == 200
    assert response.headers["content-type"].startswith("text/html")
    for word in ("inside", "outside", "22.5", "3.5"):
        assert word in response.text
    assert not [s for s in SECRETS if s in response.text]


def test_what_a_user_wrote_is_escaped(server):
    server.writer.add_station("<b>'x'&\"", "m9", None, None, NOON)
    text = server.get("/").text
    assert "<b>'x'" not in text
    assert "&lt;b&gt;" in text


def test_stations_as_json(server):
    server.update(INSIDE, "22.5", more="/age=60")
    server.update(INSIDE, "44", 2)
    response = server.get("/api/stations")
    assert response.headers["content-type"].startswith("application/json")
    inside, outside = response.json
    assert (inside["id"], inside["name"], inside["role"]) == (1, "inside", "inside")
    fields = {f["field"]: f for f in inside["fields"]}
    assert (fields[1]["value"], fields[1]["time"]) == (22.5, NOON - 60_000)
    assert fields[2]["value"] == 44
    assert outside["name"] == "outside"
    assert not [s for s in SECRETS if s in response.text]


def test_last_value_is_that_of_the_latest_time(server):
    server.update(INSIDE, "1")
    server.update(INSIDE, "2", more="/age=3600")
    assert server.get("/api/stations").json[0]["fields"][0]["value"] == 1


@pytest.mark.parametrize("who", ["1", "inside"])
def test_readings_by_station_field_and_time(server, who):
    for age, value in ((120, 1), (60, 2), (0, 3)):
        server.update(INSIDE, value, more=f"/age={age}")
    server.update(INSIDE, 50, 2)

    def values(query):
        return [p[1] for p in server.get(f"/api/readings?station={who}{query}").json["points"]]
    assert values("") == values("&field=1") == [1, 2, 3]
    assert values("&field=2") == [50]
    assert values("&field=7") == []
    assert values("&start=2018-07-30T11:59:00Z") == [2, 3]
    assert values(f"&start={NOON // 1000 - 60}&end={NOON // 1000}") == [2]
    assert values("&end=2018-07-30T13:59:00%2B02:00") == [1]
    assert values("&end=1970") == []


@pytest.mark.parametrize("is_pruned", [False, True])
def test_no_point_is_before_the_start(server, is_pruned):
    """From half past on, of hours that are shown as one: thinned, or pruned."""
    server.writer.import_rows([(NOON - i * MINUTE, "", INSIDE.mac, 1, 20.0, None)
                               for i in range(600)], NOON)
    while is_pruned and server.writer.prune_step(NOON - 2 * HOUR):
        pass
    start = NOON - 8 * HOUR - 30 * MINUTE
    points = server.get(f"/api/readings?station=inside&start={iotserver.format_time(start)}"
                        + "&points=3" * (not is_pruned)).json["points"]
    assert points[0][0] == start
    assert points[1][0] % HOUR == 0


def test_few_readings_are_never_thinned(server):
    """Only more readings than points are thinned, however long the time is."""
    ages = [2_592_000, 2_000_000, 1_000_000, 0]
    for age in ages:
        server.update(INSIDE, age / 1000, more=f"/age={age}")
    server.time += 25 * 86_400
    server.update(INSIDE, 5)
    expected = [[NOON - age * 1000, age / 1000] for age in ages]
    expected.append([NOON + 25 * 86_400_000, 5])
    for points in (5, 1000):
        found = server.get(f"/api/readings?station=1&points={points}").json["points"]
        assert found == expected


def test_many_readings_are_thinned_to_mean_and_extremes(server):
    body = bulk(INSIDE, *[{"field": 4, "data": i, "age": 900 - i} for i in range(900)])
    assert server.ask("POST", "/update", body).status == 200
    points = server.get("/api/readings?station=1&field=4&points=10").json["points"]
    assert 3 <= len(points) <= 10
    assert {len(p) for p in points} == {4}
    assert [p[0] for p in points] == sorted(p[0] for p in points)
    assert min(p[2] for p in points) == 0
    assert max(p[3] for p in points) == 899
    assert all(p[2] <= p[1] <= p[3] for p in points)


@pytest.mark.parametrize(("path", "status", "word"), [
    ("/api/readings", 400, "station"), ("/api/readings?station=nobody", 404, "station"),
    ("/api/readings?station=1&field=x", 400, "field"),
    ("/api/readings?station=1&field=10", 400, "field"),
    ("/api/readings?station=1&points=0", 400, "points"),
    ("/api/readings?station=1&points=x", 400, "points"),
    ("/api/readings?station=1&points=10001", 400, "points"),
    ("/api/readings?station=1&points=0000000019999", 400, "points"),
    ("/api/readings?station=1&start=yesterday", 400, "start"),
    ("/api/readings?station=1&end=nan", 400, "end"),
    ("/api/readings?station=1&end=1e999", 400, "end"),
    ("/api/readings?station=1&end=-1", 400, "end"),
    ("/api/readings?station=1&start=0", 400, "start: '0' is no time"),
    ("/api/readings?station=1&end=978307199", 400, "end"),
    ("/export.csv?end=20241301", 400, "end"),
    ("/api/readings?station=1&station=2", 400, "station"),
    ("/api/readings?station=1&colour=2", 400, "colour"),
    ("/export.csv?field=0", 400, "field"), ("/export.csv?station=nobody", 404, "station"),
    ("/export.csv?start=x", 400, "start"), ("/nothing", 404, ""), ("/api/", 404, ""),
    ("//evil.example/", 400, "one /"), ("/update/..", 400, "path")])
def test_refused_questions_name_the_part(server, path, status, word):
    response = server.get(path)
    assert response.status == status
    assert word in response.text
    assert "location" not in response.headers


def test_export(server):
    server.writer.add_station('a,"b"', "m9", None, iotserver.hash_key("K9").hex(), NOON)
    server.update(SimpleNamespace(mac="m9", key="K9"), "1")
    server.update(INSIDE, "2", 3, "/age=60")
    response = server.get("/export.csv")
    assert response.headers["content-type"].startswith("text/csv")
    assert response.text.splitlines() == [
        "time,station,field,value,entry", "2018-07-30T11:59:00.000Z,inside,3,2,1",
        '2018-07-30T12:00:00.000Z,"a,""b""",1,1,1']
    for query, count in [("station=inside", 1), ("field=1", 1), ("start=2018-07-30T12:00:00Z", 1),
                         ("end=2018-07-30T12:00:00Z", 1), ("end=2018", 0), ("station=outside", 0),
                         ("start=2018&end=20180730", 0), ("start=20180730&end=2019", 2),
                         ("station=1&field=3&start=978307200&end=4000000000", 1)]:
        assert len(server.get(f"/export.csv?{query}").text.splitlines()) == 1 + count, query


def test_healthz_looks_at_the_database(server):
    assert server.get("/healthz").body.strip() == b"ok"
    server.path.rename(server.path.with_name("away"))
    response = server.get("/healthz")
    assert (response.status, "retry-after" in response.headers) == (503, True)


def test_events_begin_at_once(server):
    response = server.get("/events")
    assert response.status == 200
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["cache-control"] == "no-store"
    assert "content-length" not in response.headers


ALLOWED = {"/": "GET", "/update.json": "GET, POST, OPTIONS", GET: "GET", "/events": "GET",
           "/api/stations": "GET", "/api/readings": "GET", "/export.csv": "GET", "/healthz": "GET"}


@pytest.mark.parametrize(("path", "allowed"), [
    pytest.param(*row, marks=pytest.mark.wings("ThingSpeak") if row[0] == "/update.json" else ())
    for row in ALLOWED.items()])
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "OPTIONS", "get", "BREW"])
def test_wrong_method_is_405_with_allow(server, path, allowed, method):
    allowed = set(allowed.split(", "))
    if method in allowed:
        return
    response = server.ask(method, path)
    assert response.status == 405
    assert allowed <= set(re.split(", *", response.headers["allow"]))
    assert server.rows() == []


@pytest.mark.parametrize("path", ["/", "/api/stations", "/api/readings?station=1", "/healthz",
                                  "/export.csv", "/nothing"])
def test_head_is_get_without_a_body(server, path):
    head, get = server.ask("HEAD", path), server.get(path)
    assert head.status == get.status
    assert head.body == b""
    assert {**head.headers, "date": ""} == {**get.headers, "date": ""}


def test_head_never_stores(server):
    assert server.ask("HEAD", GET).status == 405
    assert server.rows() == []


@pytest.mark.parametrize(("path", "accept", "kind"), [
    ("/nothing", None, "text/plain"), ("/nothing", "text/html", "text/html"),
    ("/nothing", "application/json", "application/json"), ("/nothing", "*/*", "text/plain"),
    ("/api/readings", None, "application/json"), ("/api/readings", "text/html", "text/html"),
    (GET + "x", None, "text/plain"), (GET + "x", "text/html", "text/html")])
def test_error_has_the_form_that_was_asked_for(server, path, accept, kind):
    response = server.get(path, **({"Accept": accept} if accept else {}))
    assert response.status >= 400
    assert response.headers["content-type"].startswith(kind)
    if kind == "application/json":
        assert response.json["error"]
    else:
        assert (b"<!doctype" in response.body) == (kind == "text/html")


# -- connections ----------------------------------------------------------------------------------


def test_a_request_that_fails_well_keeps_the_connection(server):
    raw = (get("/nothing") + request("DELETE", "/", b"body") + get(GET + "x")
           + request("POST", "/update", b"{}") + get(GET))
    assert [r.status for r in parse_responses(server.exchange(raw))] == [404, 405, 400, 400, 200]


def test_answers_tell_little_about_the_server(server):
    headers = server.get("/").headers
    assert "Python" not in headers.get("server", "")
    assert headers["date"].endswith("GMT")


@pytest.mark.wings("ThingSpeak")
def test_half_a_character_in_json_spoils_nothing(server):
    """A lone surrogate cannot be stored; it must not take the turn's other readings with it."""
    body = b'{"api_key":"%b","field1":"\\ud800x\\u0000","status":"\\udfff"}' % INSIDE.key.encode()
    assert server.ask("POST", "/update.json", body).status == 200
    feed = server.get("/channels/1/feeds.json?status=true").json["feeds"]
    assert [(entry["field1"], entry["status"]) for entry in feed] == [("?x", "?")]
