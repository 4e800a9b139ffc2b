"""The guides for a house that has something already: ThingSpeak and Home Assistant, as their pages
say it, each block pasted in its order."""
import contextlib
import datetime
import hashlib
import http.server
import json
import os
import re
import subprocess
import threading
import urllib.parse

import pytest
from harness import INSIDE, OUTSIDE, Live, environment
from tools import ROOT, needs

ENTRIES, AT_A_TIME = 17_000, 8_000
OLD_KEY, READ_KEY, CHANNEL = "XXXX1111YYYY2222", "RRRR3333SSSS4444", 12345


def blocks(page, heading, kind):
    text = (ROOT / page).read_text(encoding="utf-8").split(f"\n## {heading}\n")[1]
    return re.findall(rf"(?ms)^```{kind}\n(.*?)^```", text.split("\n## ")[0])


# -- moving from ThingSpeak -----------------------------------------------------------------------


class ThingSpeak(http.server.ThreadingHTTPServer):
    """A private channel: of what it has up to `end`, the newest 8,000 entries."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Feeds)
        first = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
        self.feeds = [
            {"created_at": f"{first + datetime.timedelta(minutes=10 * n):%Y-%m-%dT%H:%M:%SZ}",
             "entry_id": n + 1, "field1": f"{n % 300 / 10:.1f}", "field2": f"{n % 90}"}
            for n in range(ENTRIES)]
        self.asked = []
        self.thread = threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True)
        self.thread.start()

    def close(self):
        self.shutdown()
        self.server_close()


class Feeds(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        path, _, query = self.path.partition("?")
        values = dict(urllib.parse.parse_qsl(query))
        self.server.asked.append(values)
        if path != f"/channels/{CHANNEL}/feeds.json" or values.get("api_key") != READ_KEY:
            self.send_error(400)
            return
        found = [feed for feed in self.server.feeds if feed["created_at"] <= values["end"]]
        channel = {"id": CHANNEL, "name": "Balcony", "field1": "Temperature", "field2": "Humidity"}
        body = json.dumps({"channel": channel, "feeds": found[-int(values["results"]):]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *words):
        """Nobody reads it."""


@needs("curl")
def test_a_channel_moves_with_its_key_its_history_and_its_readers(tmp_path):
    register, ask, fetch, look = blocks("tests/thingspeak/README.md", "Move from ThingSpeak", "sh")
    variables = {**environment(), "PATH": os.environ["PATH"]}
    (tmp_path / "iotserver.py").symlink_to(ROOT / "iotserver.py")

    def type_in(command, stdin=""):
        done = subprocess.run(["bash", "-ac", f"{command}\nenv -0 > variables"], cwd=tmp_path,
                              env=variables, input=stdin, capture_output=True, text=True,
                              timeout=120, check=True)
        variables.update(line.split("=", 1) for line in
                         (tmp_path / "variables").read_text().split("\0") if "=" in line)
        return done.stdout + done.stderr
    with contextlib.closing(ThingSpeak()) as old:
        live = Live(tmp_path)
        try:
            assert f'API_KEY = "{OLD_KEY}"' in type_in(register, f"{OLD_KEY}\n")
            type_in(ask, f"{CHANNEL} {READ_KEY}\n")
            said = type_in(fetch.replace("https://api.thingspeak.com",
                                         f"http://127.0.0.1:{old.server_address[1]}"))
            assert [values["results"] for values in old.asked] == [str(AT_A_TIME)] * 4
            assert len(live.rows()) == 2 * ENTRIES
            assert said.count("imported ") == 4
            number = re.search(r"(?m)^ *(\d+) +outside", type_in(look))[1]
            update = f"/update?api_key={OLD_KEY}&field1=21.5"       # as the old sketch sends it
            assert live.get(update).text == str(ENTRIES + 1)
            feed = live.get(f"/channels/{number}/feeds.json?results=2").json
            assert feed["channel"]["field2"] == "Humidity"
            assert [entry["entry_id"] for entry in feed["feeds"]] == [ENTRIES, ENTRIES + 1]
            assert feed["feeds"][0]["field1"] == old.feeds[-1]["field1"]
        finally:
            live.check_end()


# -- the answer in Home Assistant -----------------------------------------------------------------


@pytest.fixture
def sensor():
    """The `rest:` block of the guide: its path, template, path of attributes and attributes."""
    block, = blocks("systemd/README.md", "The answer in Home Assistant", "yaml")
    path, = re.findall(r"resource: http://192\.0\.2\.7:8000(\S+)", block)
    template, = re.findall(r'value_template: "\{\{ value_json\.(.*) \}\}"', block)
    where, = re.findall(r'json_attributes_path: "\$\.(.*)"', block)
    names, = re.findall(r"json_attributes: \[(.*)\]", block)
    return path, template, where, names.split(", ")


def find(value, path):
    """What a path like verdicts[0].state leads to."""
    for word in re.findall(r"\w+", path):
        value = value[int(word) if word.isdigit() else word]
    return value


AGENT = {"User_Agent": "HomeAssistant/2026.1.0 httpx/0.28.1 Python/3.13", "Accept": "*/*",
         "Accept_Encoding": "gzip, deflate, br", "Host": "192.0.2.7:8000"}


def test_home_assistant_shows_the_answer(in_process, password_file, sensor):
    path, template, where, names = sensor
    for flags, more in (({}, {}), ({"private": password_file}, {"X_API_Key": "ha-reads"})):
        server = in_process(f"{len(flags)}.db", **flags)
        server.writer.set_read_key("inside", hashlib.sha256(b"ha-reads").hexdigest())
        server.update(INSIDE, 26.5)
        server.update(OUTSIDE, 23)
        if flags:
            assert server.get(path, **AGENT).status == 401
        response = server.get(path, **AGENT, **more)
        assert find(response.json, template) == "open"
        attributes = find(response.json, where)
        assert [attributes[name] for name in names] == [
            "Open the windows: it is 3.5 °C cooler outside.", 26.5, 23, 3.5,
            round(server.time * 1000)]
