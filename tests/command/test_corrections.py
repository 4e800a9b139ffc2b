"""What people have to correct: a wrong role or name, a spike, a key that leaked; pages follow."""
import contextlib
import re
import subprocess

import hypothesis.strategies as some
import pytest
from harness import HEADER, INSIDE, NOON, OUTSIDE, finish, problems_of, rows_of
from hypothesis import HealthCheck, given, settings

from iotserver import HOUR, MINUTE, Reader, format_time, hash_key, main

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


def test_keys_come_from_standard_input(database, run):
    assert "FROM-STDIN" in run("--add-station", "attic", "--mac", "aa", "--key", "-",
                               stdin="FROM-STDIN\n")
    run("--read-key", "attic", "--key", "-", stdin="\n", status=2, stderr="--key")
    assert hash_key("FROM-STDIN").hex() not in run("--stations")


def test_trying_a_new_station_leaves_nothing_behind(live, run, tmp_path):
    said = run("--add-station", "attic", "--mac", "aa:02", "--role", "inside", "--port", "1")
    curl, = re.findall(r"^curl .*$", said, re.MULTILINE)
    assert f"http://127.0.0.1:{live.port}/update/" in curl, "the port of the server that runs"
    key = re.search(r"shown only now: (\S+)", said)[1]
    assert key not in curl.split("http")[1]
    assert subprocess.run(curl, shell=True, capture_output=True, check=True).stdout == b"1"
    assert len(rows_of(live.db)) == 1
    take_away = re.search(r"--delete-readings .*", said.replace("\\\n", ""))[0]
    assert run(*take_away.split()) == "deleted 1 readings\n"
    assert rows_of(live.db) == []


def test_trying_a_new_station_asks_the_address_of_the_server_that_runs(database, serve, run):
    """Which need not be on this machine's usual one."""
    serve("--host", "127.0.0.2")
    said = run("--add-station", "attic", "--mac", "aa:02", "--port", "1")
    curl, = re.findall(r"^curl .*$", said, re.MULTILINE)
    assert subprocess.run(curl, shell=True, capture_output=True, check=True).stdout == b"1"


def test_a_new_station_is_told_the_address_that_others_reach(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("iotserver.lan_address", lambda: "192.0.2.7")
    assert main(["--db", str(tmp_path / "iot.db"), "--add-station", "attic", "--mac", "aa"]) == 0
    said = capsys.readouterr().out
    assert 'SERVER = "http://192.0.2.7:8000"' in said
    assert " http://127.0.0.1:8000/update/mac=aa/" in said


# -- readings -------------------------------------------------------------------------------------

def rows(values, field=1, mac=INSIDE.mac):
    return "".join(f"{format_time(NOON + i * 10 * MINUTE)},inside,{mac},{field},{value},\n"
                   for i, value in enumerate(values))


RANGE = ("--start", format_time(NOON), "--end", format_time(NOON + 2 * HOUR))


def test_a_spike_is_deleted_and_its_summary_follows(live, run, database):
    values = [21.0, 21.1, 85.0, 21.2, "on", -127, *[21.5] * 30]
    run("--import", "-", stdin=HEADER + "\n" + rows(values) + rows([85], 2) + rows(
        [85], mac=OUTSIDE.mac))
    wanted = ("--delete-readings", "inside", *RANGE, "--above", "50", "--below", "-50")
    dry = run(*wanted, "--field", "1", "--dry-run")
    assert dry == "3 readings would go; nothing was deleted\n"
    assert len(rows_of(database)) == len(values) + 2
    assert run(*wanted, "--field", "1") == "deleted 3 readings\n"
    assert [row[4] for row in rows_of(database) if row[2:4] == (INSIDE.mac, 1)] == [
        21.0, 21.1, 21.2, *[21.5] * 30]
    assert run(*wanted) == "deleted 1 readings\n"
    assert len(rows_of(database)) == 34
    assert run("--check") == "ok\n"


@pytest.mark.parametrize("flags", [
    ["--start", "2018-07-30"], ["--end", "2018-07-30"], ["--start", "x", "--end", "2018-07-30"],
    [*RANGE, "--field", "0"], [*RANGE, "--below", "cold"], [*RANGE, "--above", "nan"]])
def test_wrong_ranges_are_wrong_usage(database, run, flags):
    run("--delete-readings", "inside", *flags, status=2, stderr="--")


def test_pruned_hours_go_as_a_whole(database, run, capsys):
    run("--import", "-", stdin=HEADER + "\n" + rows([21.0] * 18))
    run("--prune", "1d")

    def delete(*flags):
        assert main(["--db", str(database), "--delete-readings", "inside", *flags]) == 0
        return capsys.readouterr().err
    two_hours = ("--end", format_time(NOON + 2 * HOUR))
    assert "1 hours stay" in delete("--start", format_time(NOON + MINUTE), *two_hours)
    with contextlib.closing(Reader(database)) as reader:
        assert finish(reader.first_hour()) == NOON
    assert "1 hours stay" in delete(*RANGE, "--above", "20")
    assert delete("--start", "0", *two_hours) == ""
    with contextlib.closing(Reader(database)) as reader:
        assert finish(reader.first_hour()) == NOON + 2 * HOUR
    assert run("--check") == "ok\n"


def test_deleting_goes_on_while_updates_come(live, run):
    count = 12_000
    text = "".join(f"{format_time(NOON + i * 1000)},inside,{INSIDE.mac},1,{i % 50},\n"
                   for i in range(count))
    run("--import", "-", stdin=HEADER + "\n" + text)
    assert run("--delete-readings", "inside", "--start", "2018-07-01", "--end", "2018-08-01",
               "--above", "24") == f"deleted {count // 2} readings\n"
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
            value == "x" or below is above is None
            or (below is not None and value < below) or (above is not None and value > above))
    at = wanted["start"]
    while at < wanted["end"]:
        _, at = server.writer.delete_step("inside", 1, {**wanted, "start": at})
    left = sorted(((minute, value) for minute, value in readings if not goes(minute, value)),
                  key=str)
    assert sorted((((row[0] - NOON) // MINUTE, row[4]) for row in rows_of(server.path)),
                  key=str) == left
    assert problems_of(server.path) == []


