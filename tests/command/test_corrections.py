"""What people have to correct: a wrong role or name, a spike, a key that leaked; pages follow."""
import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
import urllib.parse
from pathlib import Path
from types import SimpleNamespace

import hypothesis.strategies as some
import pytest
from harness import (
    HEADER,
    INSIDE,
    NOON,
    OUTSIDE,
    SCRIPT,
    bulk,
    environment,
    finish,
    problems_of,
    rows_of,
)
from hypothesis import HealthCheck, given, settings

from iotserver import HOUR, MINUTE, Board, Reader, format_time, hash_key, main

# -- stations -------------------------------------------------------------------------------------


def test_edit_station_changes_name_role_and_mac_and_nothing_else(live, run, database):
    before = run("--stations").splitlines()[1]
    run("--edit-station", "inside", "--name", "attic", "--role", "none", "--mac", "AA:01")
    after = run("--stations").splitlines()[1]
    assert after.split()[:4] == ["1", "attic", "-", "aa:01"]
    assert before.split()[4:] == after.split()[4:]
    run("--edit-station", "attic", "--role", "outside")
    assert run("--stations").splitlines()[1].split()[:4] == ["1", "attic", "outside", "aa:01"]


@pytest.mark.parametrize(("flags", "status", "said"), [
    (["inside"], 2, "--name"), (["inside", "--name", "7"], 2, "number"),
    (["inside", "--mac", "a b"], 2, "--mac"), (["cellar", "--name", "x"], 1, "cellar"),
    (["inside", "--name", "outside"], 1, "already"),
    (["inside", "--mac", OUTSIDE.mac.upper()], 1, "already")])
def test_edit_station_refuses(database, run, flags, status, said):
    before = run("--stations")
    run("--edit-station", *flags, status=status, stderr=said)
    assert run("--stations") == before


def test_a_station_removed_twice_is_not_another_one_the_second_time(database, run):
    run("--add-station", OUTSIDE.mac, "--mac", "other")
    for name in (OUTSIDE.mac, "3"):
        run("--remove-station", name, status=None)
        run("--remove-station", name, status=1, stderr="there is no station")
    for command in ("--new-key", "--read-key", "--remove-station"):
        run(command, OUTSIDE.mac, status=1, stderr="there is no station")
    assert [line.split()[1] for line in run("--stations").splitlines()[1:]] == [
        "inside", "outside"]
    run("--remove-station", "2")
    assert [line.split()[1] for line in run("--stations").splitlines()[1:]] == ["inside"]


def verdict(server):
    found, = server.get("/api/verdict").json["verdicts"]
    return {part: found[part] for part in ("station", "state", "since", "inside")}


def test_a_new_station_of_an_old_name_inherits_no_verdict(in_process):
    """Its difference is too small for a change: it would go on as it was before."""
    server, station = in_process(), SimpleNamespace(mac="another", key="K")
    for inside in (30, 20.2):
        for _ in range(4):
            server.update(INSIDE if inside == 30 else station, inside)
            server.update(OUTSIDE, 20)
            server.time += 60
        if inside == 30:
            assert verdict(server)["state"] == "open"
            while server.writer.remove_step("inside") >= 0:
                pass
            server.writer.add_station("inside", "another", "inside", hash_key("K").hex(), NOON)
    found = verdict(server)
    assert found["inside"] == 20.2
    server.server.board = Board(server.reader, server.server.settings, server.server.now)
    assert verdict(server) == found


def test_a_verdict_goes_on_under_a_new_name(server):
    for minute in range(4):
        server.update(INSIDE, 30)
        server.update(OUTSIDE, 20)
        server.time += 60 * (minute + 1)
    before = verdict(server)
    assert before["since"]
    server.writer.edit_station("inside", "attic", None, None)
    assert verdict(server) == {**before, "station": "attic"}
    assert b"attic" in server.get("/").body


def test_an_edited_station_goes_on_sending(live, run):
    assert live.update(INSIDE, 21) == 1
    run("--edit-station", "inside", "--name", "attic")
    assert live.update(INSIDE, 22) == 2
    assert live.get("/api/stations").json[0]["name"] == "attic"


def test_a_leaked_key_ends_at_once(live, run):
    run("--new-key", "inside", "--key", "SECOND")
    run("--new-key", "inside", "--now", "--key", "-", stdin="THIRD\n")
    path = f"/update/mac={INSIDE.mac}/field=1/data=1"
    assert [live.get(path, X_API_Key=key).status for key in (INSIDE.key, "SECOND", "THIRD")] == [
        403, 403, 200]


@pytest.mark.parametrize("refused", [{"field": 1, "data": "x"}, {"field": 0, "data": 1}])
def test_a_refused_update_ends_no_key_later(live, run, refused):
    """It had the second key; no other update, of whatever station, makes the third one current."""
    run("--new-key", "inside", "--key", "SECOND")
    body = bulk(INSIDE, refused, api_key="SECOND")
    assert live.ask("POST", "/update", body).status == 400
    run("--new-key", "inside", "--key", "THIRD")
    assert live.update(OUTSIDE, 1) == 1
    assert live.update(INSIDE, 1) == 1
    assert live.ask("POST", "/update", bulk(INSIDE, refused, api_key="THIRD")).status == 400
    run("--new-key", "inside", "--now", "--key", "FOURTH")
    assert live.update(OUTSIDE, 2) == 2
    assert live.get(f"/update/API_key=FOURTH/mac={INSIDE.mac}/field=1/data=2").text == "2"


def test_a_refused_update_of_a_station_that_is_removed_refuses_no_other(live, run):
    run("--new-key", "inside", "--key", "SECOND")
    body = bulk(INSIDE, {"field": 1, "data": "x"}, api_key="SECOND")
    assert live.ask("POST", "/update", body).status == 400
    run("--remove-station", "inside")
    assert live.update(OUTSIDE, 1) == 1


def test_keys_come_from_standard_input(database, run):
    assert "FROM-STDIN" in run("--add-station", "attic", "--mac", "aa", "--key", "-",
                               stdin="FROM-STDIN\n")
    run("--read-key", "attic", "--key", "-", stdin="\n", status=2, stderr="--key")
    assert hash_key("FROM-STDIN").hex() not in run("--stations")


# -- what a new station is told -------------------------------------------------------------------


def blocks(said):
    """What --add-station prints, by the comments above it."""
    return dict(re.findall(r"^# (.*)\n((?:(?!#).+\n?)+)", said, re.MULTILINE))


def find_block(said, words):
    found, = (lines.strip() for title, lines in blocks(said).items() if words in title)
    return found


@pytest.mark.slow
def test_what_a_new_station_is_told_works_as_pasted_and_leaves_nothing_behind(tmp_path):
    """In the order in which it is printed, from an empty folder on."""
    shutil.copy(SCRIPT, tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    how = {"cwd": tmp_path, "text": True, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE,
           "env": environment(PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}")}

    def paste(command):
        done = subprocess.run(["sh", "-ec", command], check=True, timeout=60, **how)
        assert done.stderr == "" or command.startswith("curl")
        return done.stdout
    add = f"python3 iotserver.py --port {port} --add-station"
    said = paste(f"{add} 'our attic' --mac aa:02")
    start, curl, delete = [lines for title, lines in blocks(said).items() if "config" not in title]
    assert "--host 0.0.0.0" in start
    server = subprocess.Popen(
        ["sh", "-c", f"exec {start.replace('0.0.0.0', '127.0.0.1')}"], **how)
    try:
        assert "serves" in server.stdout.readline()
        assert paste(curl) == "1"
        assert len(rows_of(tmp_path / "iot.db")) == 1
        assert paste(delete).endswith("deleted 1 readings\n")
        assert rows_of(tmp_path / "iot.db") == []
        assert paste(find_block(paste(f"{add} cellar --mac aa:03"), "try it")) == "1"
    finally:
        server.terminate()
        assert server.communicate(timeout=20) == ("", "")
    assert server.returncode == 0
    key = re.search(r"shown only now: (\S+)", said)[1]
    assert key not in curl.split("http")[1]


SERVERS = {                     # flags: what of it stations are told, and what is tried from here
    (): ("http://192.0.2.7:8000", "http://127.0.0.1:8000"),
    ("--port", "80"): ("http://192.0.2.7", "http://127.0.0.1"),
    ("--link", "https://weather.example.org/"): ("http://weather.example.org",) * 2,
    ("--link", "https://weather.example.org:8443/"): ("https://weather.example.org:8443",) * 2,
    ("--link", "http://pi.example.net:8000"): ("http://pi.example.net:8000",) * 2}


@pytest.mark.parametrize("flags", SERVERS)
def test_a_new_station_is_told_the_address_that_others_reach(
        tmp_path, monkeypatch, capsys, flags):
    monkeypatch.setattr("iotserver.lan_address", lambda: "192.0.2.7")
    for flag in ("attic", "--mac", "aa"), ("garden", "--mac", "bb", "--console"):
        assert main(["--db", str(tmp_path / "iot.db"), *flags, "--add-station", *flag]) == 0
    said, console = capsys.readouterr().out.split("stations garden")
    server, near = SERVERS[flags]
    assert f'SERVER = "{server}"' in said
    assert f" {near}/update/mac=aa/" in find_block(said, "try it")
    url = urllib.parse.urlsplit(server)
    assert re.search(r"Hostname: +(\S+)\nPort: +(\d+)$", console, re.MULTILINE).groups() == (
        url.hostname, str(url.port or 80))
    for text in (said, console):
        assert ("--host 0.0.0.0" in text) == ("--link" not in flags)


@pytest.mark.parametrize(("flags", "server"), [
    (("--host", "127.0.0.2"), r"http://[\d.]+:PORT"),
    (("--link", "https://weather.example.org/"), "http://weather.example.org")])
def test_a_new_station_is_told_the_address_of_the_server_that_runs(
        database, serve, run, flags, server):
    """Which need not be on this machine's usual one, nor be called by its address."""
    live = serve(*flags)
    said = run("--add-station", "attic", "--mac", "aa:02", "--port", "1")
    curl, port = find_block(said, "try it"), re.search(r":(\d+)/ from", live.line)[1]
    assert re.search(f'SERVER = "{server.replace("PORT", port)}"', said)
    if "--link" not in flags:
        assert subprocess.run(curl, shell=True, capture_output=True, check=True).stdout == b"1"


def test_an_installation_has_its_own_command(database, run):
    """As install.sh's wrapper calls it: nothing to start, and no path of a file to type."""
    wrapper = {"IOTSERVER_PROGRAM": "iotserver", "IOTSERVER_DB": str(database),
               "IOTSERVER_PORT": "80"}
    said = run("--add-station", "attic", "--mac", "aa", env=wrapper)
    assert find_block(said, "delete").startswith("iotserver --delete-readings attic ")
    assert "--host" not in said
    other = run("--db", "other.db", "--add-station", "attic", "--mac", "aa", env=wrapper)
    assert "iotserver --db other.db --delete-readings" in other


# -- readings -------------------------------------------------------------------------------------

def rows(values, field=1, mac=INSIDE.mac):
    return "".join(f"{format_time(NOON + i * 10 * MINUTE)},inside,{mac},{field},{value},\n"
                   for i, value in enumerate(values))


RANGE = ("--start", format_time(NOON), "--end", format_time(NOON + 2 * HOUR))


def test_a_spike_is_deleted_and_its_summary_follows(live, run, database):
    values = [21.0, 21.1, 85.0, 21.2, "on", -127, *[21.5] * 30]
    run("--import", "-", stdin=HEADER + "\n" + rows(values) + rows([85], 2) + rows(
        [85], mac=OUTSIDE.mac))
    wanted = ("--delete-readings", "inside", *RANGE, "--above", "50", "--below", "-50", "--field")
    first = "field 1: 2 readings, lowest -127, highest 85.0\n"
    assert run(*wanted, "1", "--dry-run") == first + "2 readings would be deleted; nothing was\n"
    assert len(rows_of(database)) == len(values) + 2
    assert run(*wanted, "1") == first + "deleted 2 readings\n"
    assert [row[4] for row in rows_of(database) if row[2:4] == (INSIDE.mac, 1)] == [
        21.0, 21.1, 21.2, "on", *[21.5] * 30], "a text is neither below nor above"
    assert run(*wanted, "2") == "field 2: 1 readings, lowest 85, highest 85\ndeleted 1 readings\n"
    assert run(*wanted, "3") == "deleted 0 readings\n"
    assert len(rows_of(database)) == 35
    assert run("--check") == "ok\n"


def test_what_goes_is_told_for_each_field(database, run):
    run("--import", "-", stdin=HEADER + "\n" + rows([21.0, 20.5]) + rows(["on", 55, 40.5], 2)
        + rows(["off"], 3))
    assert run("--delete-readings", "inside", *RANGE) == (
        "field 1: 2 readings, lowest 20.5, highest 21.0\n"
        "field 2: 3 readings, lowest 40.5, highest 55\n"
        "field 3: 1 readings, all texts\ndeleted 6 readings\n")
    assert rows_of(database) == []


@pytest.mark.parametrize("limit", ["--above", "--below"])
def test_a_limit_is_one_of_a_field(database, run, limit):
    """What is too warm is a usual humidity, and below every pressure."""
    run("--import", "-", stdin=HEADER + "\n" + rows([85]) + rows([65], 2) + rows([1013], 3))
    run("--delete-readings", "inside", *RANGE, limit, "60", status=2, stderr="need --field")
    assert len(rows_of(database)) == 3


@pytest.mark.parametrize("flags", [
    ["--start", "2018-07-30"], ["--end", "2018-07-30"], ["--start", "x", "--end", "2018-07-30"],
    [*RANGE, "--field", "0"], [*RANGE, "--below", "cold"], [*RANGE, "--above", "nan"],
    ["--start", "0", "--end", "2019"], ["--start", "201807", "--end", "2019"],
    ["--start", "978307199", "--end", "2019"], ["--start", "2018", "--end", "20180732"]])
def test_wrong_ranges_are_wrong_usage(database, run, flags):
    run("--delete-readings", "inside", *flags, status=2, stderr="--")


@pytest.mark.parametrize(("start", "end", "gone"), [
    ("2018", "2019", [1, 2]), ("20180730", "20180731", [2]), ("2018-07-30", "2099", [2, 3]),
    ("978307200", "1532908800", [0, 1])])
def test_digits_of_a_year_or_a_day_are_its_beginning(database, run, start, end, gone):
    times = ["2017-07-30T12:00:00.000Z", "2018-07-29T23:59:59.999Z", "2018-07-30T00:00:00.000Z",
             "2019-01-01T00:00:00.000Z"]
    run("--import", "-", stdin="\n".join([HEADER, *(
        f"{when},inside,{INSIDE.mac},1,21,{n}" for n, when in enumerate(times, 1))]))
    said = run("--delete-readings", "inside", "--start", start, "--end", end)
    assert said.endswith(f"deleted {len(gone)} readings\n")
    left = run("--export", "-")
    assert [n for n, when in enumerate(times) if when not in left] == gone


def test_pruned_hours_go_as_a_whole(database, run, capsys):
    run("--import", "-", stdin=HEADER + "\n" + rows([21.0] * 18))
    run("--prune", "1d")

    def delete(*flags):
        assert main(["--db", str(database), "--delete-readings", "inside", *flags]) == 0
        return capsys.readouterr().err
    two_hours = ("--end", format_time(NOON + 2 * HOUR))
    assert "1 hours were not changed" in delete("--start", format_time(NOON + MINUTE), *two_hours)
    with contextlib.closing(Reader(database)) as reader:
        assert finish(reader.first_hour()) == NOON
    assert "1 hours were not changed" in delete(*RANGE, "--field", "1", "--above", "20")
    assert delete("--start", "1970", *two_hours) == ""
    with contextlib.closing(Reader(database)) as reader:
        assert finish(reader.first_hour()) == NOON + 2 * HOUR
    assert run("--check") == "ok\n"


def test_deleting_goes_on_while_updates_come(live, run):
    count = 12_000
    text = "".join(f"{format_time(NOON + i * 1000)},inside,{INSIDE.mac},1,{i % 50},\n"
                   for i in range(count))
    run("--import", "-", stdin=HEADER + "\n" + text)
    assert run("--delete-readings", "inside", "--start", "2018-07-01", "--end", "2018-08-01",
               "--field", "1", "--above", "24") == (
        f"field 1: {count // 2} readings, lowest 25, highest 49\n"
        f"deleted {count // 2} readings\n")
    assert live.update(INSIDE, 21) == count + 1
    assert len(rows_of(live.db)) == count // 2 + 1
    assert run("--check") == "ok\n"


LIMIT = some.none() | some.floats(-3, 3)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture,
                                                  HealthCheck.too_slow])
@given(some.lists(some.tuples(some.integers(0, 5 * 60), some.sampled_from([-2, 0, 1.5, 4, "x"])),
                  max_size=40), some.integers(0, 300), some.integers(0, 300), LIMIT, LIMIT)
def test_what_is_left_is_what_was_not_wanted(server, readings, start, end, below, above):
    server.writer.db.executescript("DELETE FROM reading; DELETE FROM hour;")
    server.writer.import_rows([(NOON + minute * MINUTE, "", INSIDE.mac, 1, value, None)
                               for minute, value in readings], NOON)
    wanted = {"start": NOON + start * MINUTE, "end": NOON + end * MINUTE, "below": below,
              "above": above}

    def goes(minute, value):
        return start <= minute < end and (
            below is above is None or (value != "x" and (
                (below is not None and value < below) or (above is not None and value > above))))
    at = wanted["start"]
    while at < wanted["end"]:
        _, at = server.writer.delete_step("inside", 1, {**wanted, "start": at})
    left = sorted(((minute, value) for minute, value in readings if not goes(minute, value)),
                  key=str)
    assert sorted((((row[0] - NOON) // MINUTE, row[4]) for row in rows_of(server.path)),
                  key=str) == left
    assert problems_of(server.path) == []


