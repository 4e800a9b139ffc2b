"""Do two thermometers that disagree agree in the end, wherever a temperature is seen?"""
import csv
import json
import random
import re
import shlex
import subprocess
import sys
from datetime import datetime

import pytest
from harness import INSIDE, NOON, OUTSIDE, SCRIPT, environment, request
from tools import ROOT

import iotserver
from iotserver import HOUR, MINUTE, Reader, format_time

WEEKS = ROOT / "tests/data/falkensee_two_weeks.csv"
COLUMNS = "time,station,mac,field,value,entry"


def real_weather(column, count=1440):
    """(ms, °C) of the first day of a real house."""
    with WEEKS.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row[column]][:count]
    return [(int(datetime.fromisoformat(row["time"]).timestamp() * 1000), float(row[column]))
            for row in rows]


def lay(run, tmp_path, **stations):
    """Import the readings of stations by name; the span that they cover."""
    lines = [COLUMNS] + [f"{format_time(ms)},{name},m-{name},1,{value:.2f},"
                         for name, readings in stations.items() for ms, value in readings]
    (tmp_path / "lay.csv").write_text("\n".join(lines) + "\n")
    run("--import", "lay.csv")
    times = [ms for readings in stations.values() for ms, _ in readings]
    return "--start", format_time(min(times)), "--end", format_time(max(times) + 1)


@pytest.mark.parametrize("seed", range(3))
def test_a_known_difference_is_found_in_real_noise(run, tmp_path, seed):
    """A kitchen's air, two sensors that waver by 0.2 °C and send at different seconds."""
    mix = random.Random(seed)
    truth = real_weather("inside_c")
    off = round(mix.uniform(-3, 3), 2)
    span = lay(run, tmp_path, warm=[(ms + mix.randrange(50_000), value + off + mix.gauss(0, 0.2))
                                    for ms, value in truth],
               true=[(ms, value + mix.gauss(0, 0.2)) for ms, value in truth])
    said = run("--compare", "warm", "true", *span)
    offset = float(re.search(r"--offset (\S+)$", said)[1])
    assert offset == pytest.approx(-off, abs=0.05)
    line = shlex.split(said.splitlines()[-1])       # what is printed is what one types
    assert subprocess.run(line, cwd=tmp_path, env=environment(), check=False).returncode == 0
    again = run("--compare", "warm", "true", *span)
    assert abs(float(re.match(r"warm minus true: (\S+) °C", again)[1])) <= 0.02
    assert float(re.search(r"--offset (\S+)$", again)[1]) == pytest.approx(offset, abs=0.021)


@pytest.mark.parametrize(("others", "why"), [
    ("outside_c", "do not lie side by side"), (None, "minutes: 0; at least 10 are needed")])
def test_what_does_not_lie_side_by_side_is_refused(run, tmp_path, others, why):
    there = real_weather(others) if others else [(NOON, 20.0)] * 9
    span = lay(run, tmp_path, a=real_weather("inside_c"), b=there)
    before = run("--export", "-")
    run("--compare", "a", "b", *span, status=1, stderr=why)
    run("--compare", "a", "a", *span, status=2, stderr="two stations")
    run("--compare", "a", "c", *span, status=1, stderr="there is no station 'c'")
    assert run("--export", "-") == before


@pytest.mark.parametrize("text", ["10.01", "-11", "0.125", "1e0", "", "nan", "°1"])
def test_an_offset_that_is_none_is_wrong_usage(run, database, text):
    run("--edit-station", "inside", f"--offset={text}", status=2, stderr="--offset: ")


def test_it_holds_wherever_a_temperature_is_seen_and_not_in_what_is_kept(server):
    server.update(INSIDE, 23.1)
    server.update(INSIDE, 55, field=2)
    server.update(OUTSIDE, 20)
    connection = server.connect()
    connection.data_received(request("GET", "/events"))
    server.writer.edit_station("inside", None, None, None, -0.8)
    server.time += 60
    server.update(INSIDE, 23.1)
    assert '"field":1,"time":1532952060000,"value":22.3' in connection.transport.sent.decode()
    verdict, = server.get("/api/verdict").json["verdicts"]
    assert (verdict["inside"], verdict["difference"]) == (22.3, 2.3)
    station, _ = server.get("/api/stations").json
    assert [field["value"] for field in station["fields"]] == [22.3, 55]
    for points in ("", "&points=1"):
        found = server.get(f"/api/readings?station=inside{points}").json["points"]
        assert {round(value, 9) for point in found for value in point[1:]} == {22.3}
    assert [feed["field1"] for feed in server.get("/channels/1/feeds.json").json["feeds"]] == [
        "22.3", None, "22.3"]
    assert 'iotserver_reading{station="inside",role="inside",field="1"' in server.get(
        "/metrics").text
    assert re.search(r'field="1",label="[^"]*"} 22.3\n', server.get("/metrics").text)
    assert "22.3" in server.get("/").text
    assert "23.1" not in server.get("/").text
    kept = server.get("/export.csv?station=inside&field=1").text
    assert kept.count(",23.1,") == 2
    assert "22.3" not in kept
    server.writer.edit_station("inside", None, None, None, 0.0)
    assert server.get("/api/verdict").json["verdicts"][0]["inside"] == 23.1


def test_what_is_impossible_is_so_before_an_offset(server):
    server.writer.edit_station("outside", None, None, None, 5.0)
    server.update(INSIDE, 26)
    server.update(OUTSIDE, 58)
    assert server.get("/api/verdict").json["verdicts"][0]["outside"] == 63
    for hours in range(1, 5):           # it is silent after three of its pauses
        server.time += 3600
        server.update(INSIDE, 26)
        server.update(OUTSIDE, 61)
        assert server.get("/api/verdict").json["verdicts"][0]["outside"] == (
            None if hours > 3 else 63)
    assert "which is impossible" in server.get("/").text


def test_a_view_is_searched_as_quickly_as_a_table(server):
    """The plan of each question is the same with offsets: none of them scans a table."""
    server.update(INSIDE, 23.1)
    plans = []
    for offset in (0.0, -0.8):
        server.writer.edit_station("inside", None, None, None, offset)
        plan = []
        for sql in ("SELECT time, entry, value FROM reading WHERE series = 1 AND (time, entry) >="
                    " (5, 0) AND (time, entry) < (9, 0) ORDER BY time DESC, entry DESC LIMIT 3",
                    "SELECT max(time) FROM reading WHERE series = 1 AND time <= 7",
                    "SELECT minimum FROM hour WHERE series = 1 AND hour BETWEEN 1 AND 5"):
            plan += [row[3].replace("main.", "") for row in
                     server.reader.db.execute(f"EXPLAIN QUERY PLAN {sql}")]
        plans.append(plan)
    assert plans[0] == plans[1]
    assert not [line for line in plans[1] if line.startswith("SCAN")], plans


def test_a_review_and_a_running_server_see_the_same(tmp_path, run, serve, database):
    live = serve()
    now = iotserver.now_ms()
    lines = [COLUMNS] + [f"{format_time(now - i * 10 * MINUTE)},{s.name},{s.mac},1,{value},"
                         for i in range(30) for s, value in ((INSIDE, 25), (OUTSIDE, 24.6))]
    (tmp_path / "in.csv").write_text("\n".join(lines) + "\n")
    run("--import", "in.csv")
    run("--edit-station", "outside", "--offset", "2")
    verdict, = json.loads(live.get("/api/verdict").text)["verdicts"]
    assert verdict["difference"] == pytest.approx(-1.6)
    said = subprocess.run(
        [sys.executable, SCRIPT, "--review", "-", "--start", format_time(now - 2 * HOUR)],
        cwd=tmp_path, env=environment(), check=True, text=True, capture_output=True).stdout
    assert {row.split(",")[3] for row in said.splitlines()[1:]} == {"-1.6"}
    with Reader(tmp_path / "iot.db").db as raw:
        assert {value for value, in raw.execute("SELECT value FROM reading")} == {25, 24.6}

