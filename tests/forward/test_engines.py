"""Real engines, killed and started again: in the end they hold what --export says."""
import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
import time

import pytest
from engines import Agent, InfluxDB, VictoriaMetrics, exported
from harness import INSIDE, OUTSIDE, SCRIPT, bulk, environment, wait_for
from tools import needs

import iotserver as iot

HISTORY = 12_000                # readings: several pieces
SECONDS = 90                    # that a loaded machine may need
ANYTHING = r"(?s)(iotserver: .*\n)*"     # said at the end, when engines go before servers do
ENGINES = [
    pytest.param(lambda folder: InfluxDB(folder).create(), marks=needs("influxd"), id="InfluxDB"),
    pytest.param(VictoriaMetrics, marks=needs("victoria-metrics"), id="VictoriaMetrics")]


@pytest.fixture
def history(database, run):
    """A database with history of several series, one with an odd name."""
    now = iot.now_ms()
    run("--import", "-", stdin="time,station,mac,field,value,entry\n" + "".join(
        f"{iot.format_time(now - i * 61_003)},{name},{mac},{field},{20 + i % 97 / 10},\n"
        for i in range(HISTORY // 4) for name, mac, field in (
            ("", INSIDE.mac, 1), ("", OUTSIDE.mac, 1), ("", OUTSIDE.mac, 2),
            ('"a b,c=d\\e" °C', "odd", 3))))
    run("--label", "outside", "2", "Humidity, %")


def wanted(live):
    """What the engine should hold: names as a tag can carry them."""
    done = subprocess.run([sys.executable, SCRIPT, "--db", live.db, "--export", "-"], text=True,
                          capture_output=True, check=True, env=environment())
    return {(station.replace("\\", "/"), field): points for (station, field), points
            in exported(done.stdout, iot.parse_time).items()}


def lag(live):
    text = live.get("/metrics").text
    return int(text.partition("\niotserver_forward_lag_readings ")[2].split()[0])


def holds_all(engine, live):
    """Whether an engine holds what --export says, soon."""
    want = wanted(live)
    try:
        wait_for(lambda: engine.points() == want, SECONDS)
    except AssertionError:
        have = engine.points()
        lacking = {place: len(points.keys() - have.get(place, {}).keys())
                   for place, points in want.items()}
        raise AssertionError(f"lacks {lacking}, of {have.keys()}") from None
    return True


@pytest.mark.parametrize("make", ENGINES)
def test_history_then_what_comes_in_late_and_imported(history, serve, run, make, tmp_path):
    with contextlib.closing(make(tmp_path / "engine")) as engine:
        live = serve("--rate-limit", "0", env={"IOTSERVER_FORWARD": engine.url})
        live.expected = r"iotserver: courier: http://127\.0\.0\.1: it takes readings\n(.*wait\n)?"
        wait_for(lambda: live.log.seek(0) or "it takes" in live.log.read(), SECONDS)
        live.update(INSIDE, 23.5)
        live.update(INSIDE, 22.5, more="/age=86400")
        live.get(f"/update?api_key={OUTSIDE.key}&field1=fog&field4=7")
        live.ask("POST", "/update", bulk(OUTSIDE, *(
            {"field": 1, "data": i, "age": i * 3600} for i in range(50))))
        run("--import", "-", stdin="time,station,mac,field,value,entry\n" + "".join(
            f"2019-01-01T00:00:{i:02}.000Z,older,older,1,{i},\n" for i in range(60)))
        wait_for(lambda: lag(live) == 0, SECONDS)
        assert holds_all(engine, live)
        assert len(wanted(live)) == 6
        began = time.monotonic()
        live.update(INSIDE, 99)
        wait_for(lambda: 99 in engine.points()["inside", 1].values(), SECONDS)
        assert time.monotonic() - began < SECONDS


def couriers(live):
    with open(f"/proc/{live.process.pid}/task/{live.process.pid}/children") as file:
        return [int(number) for number in file.read().split()]


class Load(threading.Thread):
    """Updates, now and then a late one, to whatever server is there."""

    def __init__(self, target):
        super().__init__(daemon=True)
        self.target, self.is_over, self.stored = target, False, 0

    def run(self):
        mix = random.Random(5)
        while not self.is_over:
            with contextlib.suppress(OSError, AssertionError, ValueError):
                late = f"/age={mix.randrange(90_000)}" * (mix.random() < 0.1)
                self.target().update(mix.choice((INSIDE, OUTSIDE)), mix.randrange(90), more=late)
                self.stored += 1
            time.sleep(0.002)


@pytest.mark.slow
@pytest.mark.parametrize("make", ENGINES)
def test_server_courier_and_engine_are_killed(history, serve, make, tmp_path):
    mix = random.Random(7)
    with contextlib.closing(make(tmp_path / "engine")) as engine:
        def start():
            live = serve("--rate-limit", "0", env={"IOTSERVER_FORWARD": engine.url})
            live.expected = ANYTHING
            return live
        live = start()
        load = Load(lambda: live)
        load.start()
        for victim in ("engine", "server", "courier", "server", "engine", "server"):
            time.sleep(mix.uniform(0.3, 2))
            if victim == "engine":
                engine.stop()
                time.sleep(1)
                engine.start()
            elif victim == "courier":
                for number in couriers(live):
                    os.kill(number, signal.SIGKILL)
            else:
                live.kill()
                live = start()
        load.is_over = True
        load.join(10)
        assert load.stored > 50
        assert holds_all(engine, live)


@needs("victoria-metrics")
def test_an_engine_that_drops_what_is_old_is_found_out(history, serve, tmp_path, run):
    """VictoriaMetrics says 204 to what is older than it keeps."""
    run("--import", "-", stdin="time,station,mac,field,value,entry\n"
        "2019-01-01T00:00:00.000Z,older,older,1,5,\n")
    with contextlib.closing(VictoriaMetrics(tmp_path / "engine", retention="1")) as engine:
        live = serve(env={"IOTSERVER_FORWARD": engine.url})
        live.expected = ANYTHING
        wait_for(lambda: live.log.seek(0) or "-retentionPeriod" in live.log.read(), SECONDS)
        assert "-retentionPeriod" in live.get("/", accept="text/html").text
        wait_for(lambda: lag(live) == 0, SECONDS)
        live.update(INSIDE, 99)
        wait_for(lambda: 99 in engine.points()["inside", 1].values(), SECONDS)
        engine.stop()
        engine.retention = "100y"
        engine.start()
        live.stop()
        live = serve(env={"IOTSERVER_FORWARD": engine.url + "&again=1"})
        live.expected = ANYTHING
        assert holds_all(engine, live)


@needs("influxd")
def test_an_engine_that_refuses_what_is_old_gets_the_rest(history, serve, tmp_path, run):
    """InfluxDB with a retention says 400 to a post of which it dropped something."""
    run("--import", "-", stdin="time,station,mac,field,value,entry\n" + "".join(
        f"2019-01-01T00:00:{i:02}.000Z,older,older,1,{i},\n" for i in range(60)))
    with contextlib.closing(InfluxDB(tmp_path / "engine")) as engine:
        engine.query("CREATE DATABASE iot WITH DURATION 30d")
        live = serve(env={"IOTSERVER_FORWARD": engine.url})
        live.expected = ANYTHING
        live.update(INSIDE, 99)
        want = wanted(live)
        del want["older", 1]
        wait_for(lambda: engine.points() == want, SECONDS)
        wait_for(lambda: lag(live) == 0, SECONDS)
        live.log.seek(0)
        assert "are skipped" in live.log.read()


@pytest.mark.parametrize("make", ENGINES)
def test_an_engine_is_killed_shortly_after_a_post_and_is_back_before_the_next(
        database, serve, make, tmp_path):
    """It has lost what it had not yet written, and nothing but its connection shows that."""
    with contextlib.closing(make(tmp_path / "engine")) as engine:
        live = serve(env={"IOTSERVER_FORWARD": engine.url})
        live.expected = ANYTHING
        for number in range(3):
            live.update(INSIDE, number)
            wait_for(lambda: lag(live) == 0, SECONDS)
            time.sleep(1.2)             # the machine may need some of it to post
            engine.stop()
            engine.start()
        assert holds_all(engine, live)


@needs("victoria-metrics", "vmagent")
@pytest.mark.slow
def test_two_nodes_of_which_one_is_killed(history, serve, tmp_path):
    """A distributed set-up: vmagent in front of two nodes; what one missed is kept for it.

    What a node had not yet written when it was killed is lost to it: vmagent has told us so too
    early. So it is stopped in good order once, and then killed.
    """
    nodes = [VictoriaMetrics(tmp_path / name) for name in ("one", "two")]
    with contextlib.ExitStack() as stack:
        for node in nodes:
            stack.enter_context(contextlib.closing(node))
        agent = stack.enter_context(contextlib.closing(Agent(tmp_path / "agent", *nodes)))
        live = serve("--rate-limit", "0", env={"IOTSERVER_FORWARD": agent.url})
        live.expected = ANYTHING
        wait_for(lambda: sum(map(len, nodes[0].points().values())) > HISTORY // 2, SECONDS)
        nodes[1].stop(signal.SIGTERM)
        nodes[1].start().stop()
        for i in range(50):
            live.update(INSIDE, i)
            time.sleep(0.002)           # two readings of one millisecond are one point there
        time.sleep(1)
        nodes[1].start()
        for node in nodes:
            assert holds_all(node, live)


@needs("influxd")
def test_an_engine_that_is_not_set_up_yet_loses_nothing(history, serve, tmp_path):
    with contextlib.closing(InfluxDB(tmp_path / "engine", most=100_000)) as engine:
        live = serve(env={"IOTSERVER_FORWARD": engine.url})
        live.expected = r"(?s).*it answers 404.*database not found.*it takes readings\n.*"
        wait_for(lambda: live.log.seek(0) or "404" in live.log.read(), SECONDS)
        engine.create()
        assert holds_all(engine, live)
