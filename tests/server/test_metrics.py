"""What is told to Prometheus: true, in its form, cheap, and without a key."""
import contextlib
import json
import re
import subprocess
import time
import urllib.parse
import urllib.request

import pytest
from harness import (
    INSIDE,
    NOON,
    OUTSIDE,
    PASSWORD,
    STATIONS,
    basic,
    bulk,
    memory,
    stepwise,
    update_path,
    wait_for,
)
from tools import SYSTEMD, need, needs

import iotserver as iot

ALERTS, DASHBOARD = SYSTEMD / "alerts.yml", SYSTEMD / "dashboard.json"
SAMPLE = re.compile(r'(iotserver_\w+)(?:\{((?:\w+="(?:[^"\\\n]|\\[\\n"])*",?)+)\})? (\S+)')
LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


def parse(text):
    """{family: {labels: value}} of the text format, which is checked on the way."""
    found, family = {}, None
    assert text.endswith("\n")
    for line in text.splitlines():
        if line.startswith("# HELP "):
            family = line.split()[2]
            assert family not in found, f"{family} is not in one piece"
            found[family] = {}
        elif not line.startswith("# TYPE "):
            name, labels, value = SAMPLE.fullmatch(line).groups()
            assert name.startswith(family)
            key = (name.removeprefix(family), *(text for _, text in LABEL.findall(labels or "")))
            assert key not in found[family], line
            found[family][key] = float(value)
    return {name.removeprefix("iotserver_"): samples for name, samples in found.items()}


def metrics(server, **headers):
    answer = server.get("/metrics", **headers)
    assert answer.status == 200
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    return parse(answer.text)


# -- what is told ---------------------------------------------------------------------------------


CONTRACT = {                    # what scripts and dashboards may count on
    "updates_total", "readings_total", "commits_total", "commit_seconds", "connections",
    "listeners", "database_bytes", "log_bytes", "reading", "heard_timestamp_seconds", "verdict",
    "messages_total", "forward_lag_readings", "build_info"}


def test_each_family_of_the_contract_is_told(server):
    assert metrics(server).keys() >= CONTRACT


def test_updates_are_counted_by_what_became_of_them(in_process):
    server = in_process(rate_limit=4)
    server.update(INSIDE, 21, more="/seq=a")
    server.update(INSIDE, 21, more="/seq=a")
    server.ask("POST", "/update", bulk(OUTSIDE, (1, 20), (2, 50)))
    assert server.get(update_path(INSIDE, "x")).status == 400
    assert server.get(f"/update?api_key={INSIDE.key}&field1=21").status == 200
    assert server.get("/update?api_key=wrong&field1=21").status == 400
    for path in (update_path(INSIDE, 22), f"/update?api_key={INSIDE.key}&field1=22"):
        assert server.get(path).status in {200, 429}
    assert server.get(f"/update?api_key={INSIDE.key}&field1=22").body == b"0"
    assert server.ask("OPTIONS", "/update").status == 200
    told = metrics(server)
    assert told["updates_total"] == {
        ("", "stored"): 5, ("", "repeated"): 1, ("", "refused"): 2, ("", "limited"): 2}
    assert told["readings_total"] == {("",): 5}
    assert told["commits_total"] == {("",): 5} == {("",): told["commit_seconds"]["_count",]}


def test_buckets_count_up_to_all_commits(server):
    clock = iter(range(100))
    server.server.monotonic = lambda: next(clock) / 5
    server.update(INSIDE, 21)
    buckets = {key[1]: n for key, n in metrics(server)["commit_seconds"].items() if key[1:]}
    assert [*buckets.values()] == sorted(buckets.values())
    assert [float(limit) for limit in buckets] == [*iot.COMMIT_SECONDS]
    assert buckets["0.05"] == 0
    assert buckets["+Inf"] == 1


def test_a_failed_commit_is_refused(server):
    server.writer.db.execute("PRAGMA query_only = ON")
    assert server.get(update_path(INSIDE, 21)).status == 503
    assert metrics(server)["updates_total"]["", "refused"] == 1


def test_newest_values_and_the_verdict(server):
    for _ in range(3):
        server.update(INSIDE, 28.25)
        server.update(OUTSIDE, 21)
        server.time += 60
    server.get(f"/update?api_key={OUTSIDE.key}&field2=fog&field3=1013.5")
    told = metrics(server)
    assert told["reading"] == {
        ("", "inside", "inside", "1", "temperature °C"): 28.25,
        ("", "outside", "outside", "1", "temperature °C"): 21,
        ("", "outside", "outside", "3", "pressure hPa"): 1013.5}
    assert told["verdict"] == {("", "inside", state): state == "open" for state in iot.URGENCY}
    assert told["heard_timestamp_seconds"]["", "outside"] == server.time
    assert told["database_bytes"]["",] > 10_000
    assert told["disk_free_bytes"]["",] > 10_000


def test_a_reading_of_the_future_is_told_in_its_time(server):
    server.update(INSIDE, 21)
    server.writer.import_rows([(NOON + iot.HOUR, "", INSIDE.mac, 1, 99.0, None)], NOON)
    assert [*metrics(server)["reading"].values()] == [21]
    server.time += 3601
    assert [*metrics(server)["reading"].values()] == [99]


def test_names_that_have_to_be_escaped(server):
    server.writer.edit_station("inside", 'a "b\\c"', None, "none")
    server.writer.label('a "b\\c"', 1, "x\\y")
    server.update(INSIDE, 21)
    text = server.get("/metrics").text
    assert r'{station="a \"b\\c\"",role="",field="1",label="x\\y"} 21' in text
    parse(text)


def test_no_key_and_no_mac(server):
    for station in STATIONS:
        server.update(station, 21)
    text = server.get("/metrics").text
    assert "inside" in text
    assert not [word for s in STATIONS for word in (s.key, s.mac, iot.hash_key(s.key).hex())
                if word.lower() in text.lower()]


def test_a_private_server_asks_for_its_password(in_process, password_file):
    server = in_process(private=password_file)
    assert server.get("/metrics").status == 401
    assert metrics(server, Authorization=basic(PASSWORD))


def test_a_thousand_stations_in_steps(server, record_property):
    with server.writer.transaction() as db:
        db.executemany("INSERT INTO station (name, mac, created, heard) VALUES (?, ?, 1, 1)",
                       [(f"station {i}", f"m-{i}") for i in range(1000)])
    server.writer.load()
    now = server.server.now()
    server.writer.import_rows([(now, "", f"m-{i}", field, i, None)
                               for i in range(1000) for field in (1, 2)], now)
    steps = 0
    began = time.process_time()
    for _ in stepwise(iot.get_metrics(iot.Request(), server.server)):
        steps += 1
    record_property("/metrics of 1,000 stations", f"{time.process_time() - began:.3f} s of "
                                                  f"processor in {steps} steps")
    assert steps >= 15
    assert len(metrics(server)["reading"]) == 2000


# -- Prometheus -----------------------------------------------------------------------------------


def promtool(*words, **options):
    done = subprocess.run([need("promtool"), *map(str, words)], capture_output=True, text=True,
                          check=False, **options)
    assert done.returncode == 0, done
    assert "rules found" in done.stdout or not (done.stdout + done.stderr), done


@needs("promtool")
def test_promtool_finds_nothing_to_complain_of(server):
    server.update(INSIDE, 21)
    server.update(OUTSIDE, 21)
    promtool("check", "metrics", input=server.get("/metrics").text)


@needs("promtool")
def test_alert_rules(tmp_path):
    promtool("check", "rules", ALERTS)
    (tmp_path / "case.yml").write_text(f"""
rule_files: [{ALERTS}]
evaluation_interval: 1m
tests:
  - interval: 1m
    input_series:
      - {{series: 'up{{job="iotserver"}}', values: '1 1 0x10'}}
      - {{series: 'iotserver_heard_timestamp_seconds{{station="attic"}}', values: '0x200'}}
      - {{series: 'iotserver_disk_free_bytes', values: '9e8x20 1e8x30'}}
      - {{series: 'iotserver_database_bytes', values: '1e8x50'}}
      - {{series: 'iotserver_forward_lag_readings', values: '20000x60'}}
    alert_rule_test:
      - {{eval_time: 3m, alertname: IotserverDown, exp_alerts: []}}
      - {{eval_time: 5m, alertname: IotserverDown, exp_alerts: [{{
          exp_labels: {{job: iotserver}}, exp_annotations: {{
          summary: " does not answer; stations keep their readings meanwhile"}}}}]}}
      - {{eval_time: 60m, alertname: IotserverStationSilent, exp_alerts: []}}
      - {{eval_time: 70m, alertname: IotserverStationSilent, exp_alerts: [{{
          exp_labels: {{station: attic}},
          exp_annotations: {{summary: attic has been silent for 1h 10m 0s}}}}]}}
      - {{eval_time: 20m, alertname: IotserverDiskNearlyFull, exp_alerts: []}}
      - {{eval_time: 40m, alertname: IotserverDiskNearlyFull, exp_alerts: [{{
          exp_labels: {{}}, exp_annotations: {{summary: "100MB are left on the disk of "}}}}]}}
      - {{eval_time: 20m, alertname: IotserverForwardBehind, exp_alerts: [{{
          exp_labels: {{}}, exp_annotations: {{summary: 20k readings of  wait for the engine}}}}]}}
""")
    done = subprocess.run([need("promtool"), "test", "rules", tmp_path / "case.yml"], text=True,
                          capture_output=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def expressions():
    """All that the dashboard asks for."""
    dashboard = json.loads(DASHBOARD.read_text())
    return [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]


@pytest.mark.parametrize("file", [ALERTS, DASHBOARD], ids=lambda path: path.name)
def test_what_rules_and_dashboard_name_is_told(file, server):
    kinds = dict(re.findall("^# TYPE (\\S+) (\\S+)$", server.get("/metrics").text, re.MULTILINE))
    histograms = {f"{name}_{part}" for name, kind in kinds.items() if kind == "histogram"
                  for part in ("bucket", "sum", "count")}
    named = set(re.findall(r"iotserver_\w+", file.read_text()))
    assert len(named) > 3
    assert named - {*kinds, *histograms} == set()


@contextlib.contextmanager
def prometheus(folder, target, password):
    """A Prometheus that asks the server each second: a function that asks it in turn."""
    (folder / "password").write_text(password)
    (folder / "prometheus.yml").write_text(f"""
global: {{scrape_interval: 1s}}
rule_files: [{ALERTS}]
scrape_configs:
  - job_name: iotserver
    basic_auth: {{username: prometheus, password_file: {folder}/password}}
    static_configs: [{{targets: ["{target}"]}}]
""")
    log = folder / "log"
    with log.open("w") as file:
        process = subprocess.Popen(
            [need("prometheus"), f"--config.file={folder}/prometheus.yml",
             f"--storage.tsdb.path={folder}/data", "--web.listen-address=127.0.0.1:0"],
            stderr=file, stdout=subprocess.DEVNULL)

    def port():
        found = re.search(r"Listening on.* address=127\.0\.0\.1:(\d+)", log.read_text())
        return found and "Server is ready" in log.read_text() and found[1]
    try:
        base = f"http://127.0.0.1:{wait_for(port, 30)}/api/v1/query?"

        def query(expression):
            with urllib.request.urlopen(
                    base + urllib.parse.urlencode({"query": expression}), timeout=20) as answer:
                document = json.load(answer)
            assert document["status"] == "success"
            return [(found["metric"], float(found["value"][1]))
                    for found in document["data"]["result"]]
        yield query
    finally:
        process.kill()
        process.wait(30)


@needs("prometheus")
def test_a_real_prometheus_asks_with_a_password(database, serve, password_file, tmp_path):
    server = serve("--private", str(password_file))
    for station in STATIONS:
        server.update(station, 21.5)
    before = memory(server)
    with prometheus(tmp_path, f"127.0.0.1:{server.port}", PASSWORD) as query:
        wait_for(lambda: query("up{job='iotserver'} == 1"), 60)
        (labels, value), = query("iotserver_reading{station='inside'}")
        assert (labels["role"], labels["field"], value) == ("inside", "1", 21.5)
        (_, stored), = query("iotserver_updates_total{result='stored'}")
        assert stored == 2
        for expression in expressions():
            query(expression.replace("$station", ".*"))
    assert memory(server) < before + 10_000_000
    server.stop()
