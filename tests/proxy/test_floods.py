"""What a flood from one address leaves for others, on the disk and in nginx."""
import re
import subprocess
import time

import pytest
from droplet import PHONE, STATION, STRANGER, flood
from harness import INSIDE, bulk, receive, request, wait_for
from tools import SYSTEMD, need, needs

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


STOCK = """{log} {{ daily
missingok
rotate 14
compress
delaycompress
notifempty
create 0640 www-data adm
sharedscripts
postrotate
kill -USR1 $(cat {pid})
endscript
}}"""                           # as in Debian's /etc/logrotate.d/nginx


@needs("root", "logrotate")
def test_the_log_is_turned_when_it_is_large_beside_the_daily_turn(droplet):
    """Ours each ten minutes and Debian's, on the same files: nothing is in their way."""
    made = droplet()
    log, pid = made.folder / "iotserver.log", made.folder / "pid"
    shipped = (SYSTEMD / "logrotate.conf").read_text()
    assert "size 20M" in shipped
    texts = {"ours": shipped.replace("/var/log/nginx/iotserver.log", str(log))
             .replace("/run/nginx.pid", str(pid)).replace("size 20M", "size 200k"),
             "stock": STOCK.format(log=log, pid=pid)}
    for name, text in texts.items():
        (made.folder / name).write_text(text)

    def turn(name, *more):
        subprocess.run([need("logrotate"), "--state", made.folder / f"{name}.state", *more,
                        made.folder / name], check=True, capture_output=True)

    def files():
        return sorted(made.folder.glob("iotserver.log*"))
    turn("ours")
    assert files() == [log]
    for count in range(40):
        with log.open("a") as file:
            file.write("one more line of a flood, with little that differs\n" * 5000)
        turn(*(("stock", "--force") if count % 5 == 0 else ("ours",)))
        wait_for(lambda: made.http().get("/").status == 301 and log.stat().st_size > 0)
        assert log.stat().st_size < 10_000
    assert len(files()) == 15
    assert sum(path.stat().st_size for path in files()) < 400_000
    assert log.stat().st_mode & 0o777 == 0o640


def test_a_head_that_does_not_end_is_given_up(droplet):
    made = droplet()
    started = time.monotonic()
    with made.http().connect() as channel:
        channel.settimeout(40)
        channel.sendall(b"GET /update HTTP/1.1\r\nA: ")
        with pytest.raises(ConnectionResetError):
            receive(channel)
    assert 9 < time.monotonic() - started < 30


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
