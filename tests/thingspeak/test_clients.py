"""Clients that others wrote do with this server as they always do with ThingSpeak: libraries from
PyPI and npm, curl, a page in a real browser, devices that look at single segments."""
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from chromium import FLAGS as BROWSER_FLAGS
from harness import read_until, request, wait_for
from playwright.sync_api import expect, sync_playwright
from tools import CACHE, downloaded, from_npm, need, needs
from world import WRONG, exchange_bytes

CLIENTS = Path(__file__).with_name("clients")


@pytest.fixture(scope="session")
def pypi():
    """Where the clients from PyPI are; not in our own environment, whose versions they change."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
           "--target", "{folder}"]
    # mqttwarn asks for a future below 1, which does not run on Python 3.12.
    return downloaded(CACHE / "thingspeak{}.{}".format(*sys.version_info), [*pip, "thingspeak",
                     "mqttwarn"], [*pip, "--upgrade", "--no-deps", "future>=1"])


@pytest.fixture(scope="session")
def npm():
    return from_npm("thingspeakclient", "thingspeakclient", "jquery@3")


def lines_of(*command, **env):
    """What a client prints: a JSON text a line."""
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=60,
                          check=False, env={**os.environ, **env})
    assert done.returncode == 0, done
    return [json.loads(line) for line in done.stdout.splitlines()]


@needs("PyPI")
def test_thingspeak_from_pypi(world, station, pypi):
    """The library that Home Assistant uses."""
    written, number, feeds, field, last, value, age, view, wrong = lines_of(
        sys.executable, CLIENTS / "with_thingspeak.py", f"http://127.0.0.1:{world.port}",
        station.id, station.key, PYTHONPATH=str(pypi))
    assert (written["entry_id"], written["field1"], written["status"]) == (1, "21.5", "a b&c 50%")
    assert (number, value, wrong) == ("2", "22.5", 400)
    assert [(row["field1"], row["field2"], row["status"]) for row in feeds["feeds"]] == [
        ("21.5", None, "a b&c 50%"), ("22.5", "48", None)]
    assert [row["field1"] for row in field["feeds"]] == ["22.5"]
    assert (last["entry_id"], last["field1"]) == (2, "22.5")
    assert int(age["last_data_age"]) < 60
    assert age["last_data_age_units"] == "s"
    assert (view["id"], view["name"], view["last_entry_id"]) == (station.id, station.name, 2)


@needs("node", "npm")
def test_thingspeakclient_from_npm(world, station, npm):
    first, second, feeds, last, field, field_last, status, is_listed, wrong = lines_of(
        need("node"), CLIENTS / "with_thingspeakclient.js", npm,
        f"http://127.0.0.1:{world.port}", station.id, station.key)
    assert (first, second, wrong) == ("1", "2", "0")
    assert [(row["field1"], row["field2"]) for row in feeds["feeds"]] == [
        ("7", "6"), ("8.25", None)]
    assert (last["field1"], last["status"]) == ("8.25", "über 50%")
    assert [row["field2"] for row in field["feeds"]] == ["6", None]
    assert (field_last["entry_id"], field_last["field2"]) == (1, "6")
    assert [row["status"] for row in status["feeds"] if row["status"]] == ["über 50%"]
    assert is_listed is True


NGINX = """daemon off; pid {folder}/pid; error_log {folder}/error.log; events {{}}
http {{ access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
server {{ listen 127.0.0.1:{port} ssl; ssl_certificate {certificate}; ssl_certificate_key {key};
    location / {{ proxy_pass http://127.0.0.1:{upstream}; proxy_http_version 1.1; }} }} }}
"""


@pytest.fixture
def https(world, tmp_path):
    """The port of an nginx that is https://api.thingspeak.com; its certificate."""
    nginx, openssl = need("nginx"), need("openssl")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run([openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
                    "-subj", "/CN=api.thingspeak.com", "-addext",
                    "subjectAltName=DNS:api.thingspeak.com", "-keyout", key, "-out", certificate],
                   check=True, capture_output=True)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (tmp_path / "nginx.conf").write_text(NGINX.format(
        folder=tmp_path, port=port, upstream=world.port, key=key, certificate=certificate))
    process = subprocess.Popen([nginx, "-p", tmp_path, "-c", tmp_path / "nginx.conf"],
                               stderr=subprocess.DEVNULL)
    wait_for(lambda: process.poll() is not None or (tmp_path / "pid").exists(), 10)
    yield SimpleNamespace(port=port, certificate=certificate)
    process.terminate()
    assert process.wait(30) == 0


@needs("nginx", "openssl", "PyPI")
def test_mqttwarn_from_pypi(world, station, pypi, https):
    """It knows only https://api.thingspeak.com: in its process that name leads to our nginx."""
    env = {"PYTHONPATH": os.pathsep.join(map(str, (CLIENTS, pypi))),
           "SSL_CERT_FILE": str(https.certificate), "THINGSPEAK_PORT": str(https.port)}
    for message in ("21.5", "22.5"):
        options = json.dumps({"addrs": [station.key, "field1"], "message": message})
        done = subprocess.run(
            [sys.executable, "-c", "from mqttwarn.commands import run; run()",
             "--plugin=thingspeak", f"--options={options}"], env={**os.environ, **env},
            check=False, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done
    assert [row["field1"] for row in world.feeds(station)] == ["21.5", "22.5"]
    with pytest.raises(ssl.SSLCertVerificationError):       # it does look at the certificate
        ssl.create_default_context().wrap_socket(
            socket.create_connection(("127.0.0.1", https.port), 10),
            server_hostname="api.thingspeak.com")


@needs("curl")
def test_curl(world, station):
    """The examples of ThingSpeak's documentation, and its answers."""
    def curl(*words):
        return subprocess.run([need("curl"), "--silent", "--noproxy", "*", *words], timeout=30,
                              capture_output=True, text=True, check=True).stdout
    base = f"http://127.0.0.1:{world.port}"
    assert curl(f"{base}/update?api_key={station.key}&field1=0") == "1"
    assert curl("--data", f"api_key={station.key}&field1=73", f"{base}/update") == "2"
    assert json.loads(curl("-H", "Content-Type: application/json", "-d", json.dumps(
        {"write_api_key": station.key, "updates": [{"delta_t": 0, "field1": 1}]}),
        f"{base}/channels/{station.id}/bulk_update.json")) == {"success": True}
    assert curl("-X", "POST", "--data", "field3=8", f"{base}/update?key={station.key}") == "4"
    assert curl(f"{base}/channels/{station.id}/fields/1/last.txt") == "1"
    assert curl("--proxy", base, "--noproxy", "", "http://api.thingspeak.com/update?api_key="
                f"{station.key}&field1=9") == "5", "an absolute URL"


@needs("chromium", "npm")
def test_a_page_of_another_site_in_a_real_browser(world, station, npm, tmp_path):
    """fetch() needs CORS, jQuery's getJSON JSONP, and the usual <iframe> the chart."""
    for value in (20.5, 21.5, 20.25):
        world.write(station, field1=value)
    base = f"http://127.0.0.1:{world.port}"
    page_file = tmp_path / "page.html"
    text = (CLIENTS / "page.html").read_text()
    for name, value in (("JQUERY", str(npm / "jquery/dist/jquery.min.js")), ("SERVER", base),
                        ("CHANNEL", str(station.id))):
        text = text.replace(name, value)
    page_file.write_text(text)
    feeds = f"{base}/channels/{station.id}/feeds.json"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=need("chromium"), args=BROWSER_FLAGS)
        try:
            page = browser.new_page()
            problems = []
            page.on("console", lambda message: message.type == "error"
                    and problems.append(message.text))
            page.goto(page_file.as_uri())
            read = "feeds => feeds.feeds.map(one => one.field1)"
            assert page.evaluate(f"url => fetch(url).then(r => r.json()).then({read})",
                                 feeds) == ["20.5", "21.5", "20.25"]
            assert page.evaluate(f"url => $.getJSON(url + '?callback=?').then({read})",
                                 feeds) == ["20.5", "21.5", "20.25"]
            sent = page.evaluate("""([url, key]) => fetch(url + '/update.json', {method: 'POST',
                headers: {'Content-Type': 'application/json'},
                body: JSON.stringify({api_key: key, field1: 19})}).then(r => r.json())""",
                                 [base, station.key])
            assert (sent["entry_id"], sent["field1"]) == (4, "19")
            frame = page.frame_locator("iframe")
            expect(frame.locator("svg").first).to_be_visible()
            assert frame.locator("svg path, svg rect, svg polyline").count() > 0
            assert problems == []
        finally:
            browser.close()


def test_the_vendors_library_reads_its_answers_as_it_always_did(world, station):
    """The library's own steps: a literal version, a literal header, a number above 0."""
    def arduino(head, body=""):
        lines = [*head, "Host: api.thingspeak.com", "User-Agent: tslib-arduino/2.1.1 (ESP8266)",
                 f"X-THINGSPEAKAPIKEY: {station.key}"]
        if body:
            lines += ["Content-Type: application/x-www-form-urlencoded",
                      f"Content-Length: {len(body)}"]
        with world.connect() as channel:
            channel.sendall("\r\n".join([*lines, "", body]).encode())
            seen = read_until(channel, b"HTTP/1.1")
            seen = read_until(channel, b"\r\n", seen.partition(b"HTTP/1.1")[2])
            status, seen = int(seen.split()[0]), read_until(channel, b"Content-Length:", seen)
            seen = read_until(channel, b"\r\n", seen.partition(b"Content-Length:")[2])
            length, seen = int(seen.split(b"\r\n")[0]), read_until(channel, b"\r\n\r\n", seen)
            content = seen.partition(b"\r\n\r\n")[2]
            while len(content) < length:
                content += channel.recv(999)
            return status, content[:length].decode()
    status, content = arduino(["POST /update HTTP/1.1"],
                              "field1=7&field2=two words&status=20% +1&headers=false")
    assert (status, content) == (200, "1")
    assert arduino([f"GET /channels/{station.id}/fields/2/last HTTP/1.1"]) == (200, "two words")
    status, content = arduino(
        [f"GET /channels/{station.id}/feeds/last.txt?status=true&location=true HTTP/1.1"])
    fields = {name: content.partition(f'"{name}":"')[2].partition('"')[0]
              for name in ("field1", "field2", "field3", "status", "latitude")}
    assert fields == {"field1": "7", "field2": "two words", "field3": "", "status": "20%  1",
                      "latitude": ""}


def test_many_devices_at_once_each_get_their_own_number(world, station):
    numbers = []

    def device():
        for i in range(10):
            numbers.append(int(world.write(station, field1=i).body))
    threads = [threading.Thread(target=device) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(numbers) == list(range(1, 81))


@needs("strace")
def test_head_and_body_leave_in_one_write(worlds, tmp_path):
    """ESPurna takes the number behind the first segment's empty line, else it sends again."""
    world = worlds()
    station = world.station()
    log = tmp_path / "strace.log"
    with subprocess.Popen(
            [need("strace"), "-f", "-p", str(world.process.pid), "-o", log, "-s", "9999", "-xx",
             "-e", "trace=sendto,sendmsg,write,writev"], stderr=subprocess.PIPE, text=True) as spy:
        assert "attached" in spy.stderr.readline()
        answers = [exchange_bytes(world, request(method, path, body, X_THINGSPEAKAPIKEY=key))
                   for method, path, body, key in (
                       ("POST", "/update", b"field1=21.5", station.key),
                       ("POST", "/update", b"field1=21.5", WRONG),
                       ("GET", f"/channels/{station.id}/feeds.json", b"", station.key),
                       ("GET", f"/channels/{station.id}/fields/1/last", b"", station.key))]
        spy.send_signal(signal.SIGINT)
        spy.communicate(timeout=20)
    writes = [bytes.fromhex(text.replace("\\x", "")) for text in re.findall(
        r'(?:sendto|write)\(\d+, "((?:\\x[0-9a-f]{2})*)"', log.read_text())]
    sent = [data for data in writes if b"HTTP/1.1" in data]
    assert [data.partition(b"\r\n\r\n")[2] for data in sent] == [body for _, body in answers]
    assert [body for _, body in answers][::3] == [b"1", b"21.5"]
