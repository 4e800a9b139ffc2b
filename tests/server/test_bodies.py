"""A body that cannot be read stores nothing and is never answered as if it had been stored."""
import gzip
import json

import pytest
from harness import INSIDE, bulk, request

FORM = b"field1=21.5&field2=48"
ENTRY = json.dumps({"field1": 21.5, "field2": 48}).encode()
GZIPPED = gzip.compress(ENTRY, mtime=0)
KEY = {"X_API_Key": INSIDE.key}
PATHS = ("/update", "/update.json", "/update.txt", "/update.xml")
READABLE = {
    "form": FORM, "JSON": ENTRY, "bare key": f"{INSIDE.key}&field1=21.5&field2=48".encode(),
    **{f"{name} in {code}": body.decode().encode(code)
       for name, body in (("form", FORM), ("JSON", ENTRY))
       for code in ("utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32")}}
UNREADABLE = {
    "nothing": b"", "gzip": GZIPPED, "gzipped form": gzip.compress(FORM, mtime=0),
    "first byte missing": ENTRY[1:], "key of JSON": b'api_key":"x","field1":21.5}',
    "bytes": bytes(range(256)), "number": b"21.5", "word": b"hello", "line": b"temp: 21.5\n",
    "signs": b"=&&==&=", "list": b"[21.5]", "empty": b"{}", "other names": b'{"temp":21.5}',
    "multipart": b'--x\r\nContent-Disposition: form-data; name="field1"\r\n\r\n21.5\r\n--x--\r\n'}


def stored(server):
    feeds = server.get("/channels/1/feeds.json").json["feeds"]
    return [(feed["field1"], feed["field2"]) for feed in feeds]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", READABLE)
def test_what_can_be_read_is_stored(server, path, kind):
    answer = server.ask("POST", path, READABLE[kind], **KEY)
    assert answer.status == 200, answer
    assert stored(server) == [("21.5", "48")]


@pytest.mark.parametrize("query", ["", f"?api_key={INSIDE.key}"])
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", UNREADABLE)
def test_what_cannot_be_read_is_no_entry(server, path, kind, query):
    answer = server.ask("POST", path + query, UNREADABLE[kind], **KEY, Content_Length=len(
        UNREADABLE[kind]))
    assert answer.status == 400, answer
    assert server.get("/channels/1/feeds.json").json["channel"]["last_entry_id"] is None


@pytest.mark.parametrize("path", [*PATHS, "/channels/1/bulk_update.json",
                                  f"/data/report/{INSIDE.key}"])
@pytest.mark.parametrize("body", [FORM, ENTRY[1:], ENTRY[:-1], b"21.5", GZIPPED])
def test_json_that_is_none_is_400(server, path, body):
    for kind in ("application/json", "Application/JSON; charset=utf-8"):
        answer = server.ask("POST", path, body, Content_Type=kind, **KEY)
        assert answer.status == 400, answer
    assert server.rows() == []


@pytest.mark.parametrize("path", [*PATHS, "/channels/1/bulk_update.json", "/data/report/KEY",
                                  "/weatherstation/updateweatherstation.php"])
def test_a_coded_body_is_415(server, path):
    for coding in ("gzip", "deflate", "br", "gzip, identity"):
        answer = server.ask("POST", path, FORM, Content_Encoding=coding, **KEY)
        assert answer.status == 415, answer
    assert server.rows() == []
    assert server.ask("POST", "/update", FORM, Content_Encoding="identity", **KEY).status == 200


@pytest.mark.parametrize("code", ["utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_a_bulk_may_begin_with_a_byte_order_mark(server, code):
    ours = bulk(INSIDE, (1, 21.5)).decode().encode(code)
    assert server.ask("POST", "/update", ours).json == {"stored": 1, "entries": [1]}
    there = json.dumps({"write_api_key": INSIDE.key, "updates": [{"delta_t": 0, "field1": 22}]})
    answer = server.ask("POST", "/channels/1/bulk_update.json", there.encode(code))
    assert answer.status == 202, answer
    console = "temp=23&hum=48".encode(code)
    assert server.ask("POST", f"/data/report/{INSIDE.key}", console).status == 200
    assert [row[3] for row in server.rows()] == ["21.5", "22", "23", "48"]


def test_a_get_without_a_field_stays_what_thingspeak_makes_of_it(server):
    assert server.get(f"/update?api_key={INSIDE.key}").body == b"1"
    assert server.ask("POST", "/update", f"api_key={INSIDE.key}".encode()).body == b"2"


def test_an_unreadable_body_is_dropped_before_the_next_request(server):
    raw = server.exchange(request("POST", "/update", gzip.compress(FORM), Content_Encoding="gzip",
                                  **KEY) + request("GET", f"/update?api_key={INSIDE.key}"))
    assert raw.startswith(b"HTTP/1.1 415 ")
    assert raw.count(b"HTTP/1.1") == 1, "its body was read as a request"
