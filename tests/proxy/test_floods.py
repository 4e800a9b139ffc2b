"""What a flood from one address leaves for others, on the disk and in nginx."""
import re
import time

import pytest
from droplet import PHONE, STATION, STRANGER, flood
from harness import INSIDE, bulk, receive, request
from tools import needs

pytestmark = needs("nginx", "openssl")
LINE = 100                      # bytes in the log, for each request, before lines were left out


@pytest.mark.parametrize("path", ["/", "/update/API_key=no/mac=M/field=1/data=1"],
                         ids=["redirects", "updates"])
def test_a_flood_of_requests_leaves_a_sample_of_them_in_the_log(droplet, path):
    made = droplet()
    statuses = [answer.status for answer in flood(made.http(STRANGER), [path] * 20_000)]
    log = (made.folder / "iotserver.log").read_text()
    assert statuses.count(429) > 15_000
    assert len(log) < 0.1 * len(statuses) * LINE
    sample = log.count(" 429 0 ") + len(re.findall(r" 429 \d+ [\d.]+ -$", log, re.M))
    assert 0.003 < sample / statuses.count(429) < 0.03
    assert log.count("\n") - sample >= len(statuses) - statuses.count(429)      # all the others


def test_a_flood_of_what_is_no_request_leaves_a_sample_in_the_log(droplet):
    made = droplet()
    door = made.http(STRANGER)
    for _ in range(2000):
        with door.connect() as channel:
            channel.sendall(b"nonsense\r\n\r\n")
            assert b" 400 " in receive(channel)
    lines = (made.folder / "iotserver.log").read_text().count("\n")
    assert 100 < lines < 400


def test_a_head_that_does_not_end_is_given_up(droplet):
    made = droplet()
    started = time.monotonic()
    with made.http().connect() as channel:
        channel.settimeout(40)
        channel.sendall(b"GET /update HTTP/1.1\r\nA: ")
        with pytest.raises(ConnectionResetError):
            receive(channel)
    assert 9 < time.monotonic() - started < 15


def test_large_bodies_are_counted_apart(droplet):
    """A station sends what it kept: 100 large pieces at once are taken, small ones always."""
    made = droplet()
    door = made.http(STATION)

    def statuses(body, count):
        raw = request("POST", "/update", body) * (count - 1)
        return {answer.status for answer in door.talk(
            raw + request("POST", "/update", body, Connection="close"))}
    large = bulk(INSIDE, *[(1, n) for n in range(200)]).ljust(10_000)
    assert statuses(large, 101) == {200}
    assert 429 in statuses(large, 20)
    raw = request("POST", "/update", Transfer_Encoding="chunked", Connection="close") + (
        b"%x\r\n%b\r\n0\r\n\r\n" % (len(large), large))
    assert 429 in {door.talk(raw)[0].status for _ in range(10)}
    assert statuses(large.rstrip().ljust(9999), 100) == {200}
    assert made.http(PHONE).ask("POST", "/update", large).status == 200
