"""--review: what verdict and forecast would have said, from what was known at each hour alone."""
import contextlib
import csv
import io
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yardstick
from harness import SCRIPT, environment, wait_for
from house import House

import iotserver as iot
from iotserver import DAY, HOUR, MINUTE

WEEKS = Path(__file__).parent.parent / "data" / "falkensee_two_weeks.csv"
FIRST, MIDDLE, LAST = (1_533_081_600_000 + days * DAY for days in (0, 7, 12))   # 2018-08-01, UTC
COLUMNS = ["time", "inside", "state", "difference", "event", "at", "from", "to", "chance"]


@pytest.fixture(scope="module")
def weather():
    return yardstick.read_house(WEEKS)


def make(path, weather, until=2 ** 50, change=lambda ms, value: value):
    """A database with these readings, inside a second room that never sends."""
    with contextlib.closing(House(path, ("inside", "inside"), ("cellar", "inside"),
                                  ("outside", "outside"))) as house:
        house.writer.import_rows(sorted(
            (ms, name, mac, 1, change(ms, value), None) for name, mac in (
                ("inside", "mac-0"), ("outside", "mac-2"))
            for ms, value in getattr(weather, name) if ms <= until), LAST)
    return path


@pytest.fixture(scope="module")
def database(tmp_path_factory, weather):
    return make(tmp_path_factory.mktemp("review") / "iot.db", weather)


def review(database, *flags, target="-", status=0):
    """What the command says: its rows, and its words."""
    done = subprocess.run([sys.executable, SCRIPT, "--db", database, "--review", target,
                           *map(str, flags)], capture_output=True, text=True, timeout=240,
                          env=environment(), check=False)
    assert done.returncode == status, done
    return [*csv.DictReader(io.StringIO(done.stdout))], done.stderr


def between(start, end):
    return "--start", start // 1000, "--end", end // 1000


@pytest.fixture(scope="module")
def whole(database):
    return review(database, *between(FIRST, LAST))


def stamp(ms):
    return iot.format_time(ms) if ms else ""


def test_each_hour_has_a_row_of_each_room(whole):
    rows, _ = whole
    assert [*rows[0]] == COLUMNS
    assert [(row["time"], row["inside"]) for row in rows] == [
        (stamp(ms), name) for ms in range(FIRST, LAST, HOUR) for name in ("inside", "cellar")]
    assert {row["state"] for row in rows if row["inside"] == "cellar"} == {"unknown"}
    assert not any(row["event"] or row["difference"] for row in rows if row["state"] == "unknown")


def test_the_rows_say_what_was_said_then(whole, weather):
    known = {stamp(now): said for now, said, _ in yardstick.foresee(
        iot, weather, weather.outside[0][0] // HOUR * HOUR, LAST)}
    compared = 0
    for row in whole[0]:
        said = known[row["time"]]
        if row["event"]:
            assert [row[key] for key in COLUMNS[4:]] == [
                said.event, stamp(said.at), stamp(said.start), stamp(said.end),
                str(round(said.chance, 2))]
            assert (row["event"] == "cooler") == (float(row["difference"]) < 0)
            compared += 1
    assert compared > 50


@pytest.mark.slow
def test_no_row_depends_on_the_start(whole, database):
    rows, _ = review(database, *between(MIDDLE + 90 * MINUTE, LAST - 2 * DAY))
    assert rows == [row for row in whole[0]
                    if stamp(MIDDLE + 2 * HOUR) <= row["time"] < stamp(LAST - 2 * DAY)]


def test_there_is_no_row_of_an_hour_to_come(tmp_path):
    """A year ahead was 8,760 rows of what nobody knows."""
    now = time.time_ns() // 1_000_000
    with contextlib.closing(House(tmp_path / "iot.db", ("inside", "inside"),
                                  ("outside", "outside"))) as house:
        house.writer.import_rows([(now - i * HOUR, name, mac, 1, 20.0, None) for i in range(5)
                                  for name, mac in (("inside", "mac-0"), ("outside", "mac-1"))],
                                 now)
    rows, _ = review(tmp_path / "iot.db", *between(now - 3 * HOUR, now + 365 * DAY))
    assert len(rows) == 3
    assert all(row["time"] <= stamp(now) for row in rows)
    review(tmp_path / "iot.db", *between(now + HOUR, now + DAY), status=2)


@pytest.mark.slow
def test_a_verdict_that_lasts_does_not_depend_on_the_start_either(tmp_path):
    """A room that was comfortable once, and stays within the margin for days."""
    with contextlib.closing(House(tmp_path / "iot.db", ("inside", "inside"),
                                  ("outside", "outside"))) as house:
        house.writer.import_rows([
            (ms, name, mac, 1, 18.0 if name == "outside" else 21.0 if ms < FIRST + 10 * HOUR
             else 23.0, None) for ms in range(FIRST, FIRST + 12 * DAY, 10 * MINUTE)
            for name, mac in (("inside", "mac-0"), ("outside", "mac-1"))], LAST)
    states = [[row["state"] for row in review(tmp_path / "iot.db", *between(
        FIRST + hours * HOUR, FIRST + 240 * HOUR))[0]] for hours in (0, 200)]
    assert states[0][200:] == states[1] == ["comfortable"] * 40     # it reaches back ten days


@pytest.mark.untraced
@pytest.mark.slow
def test_no_row_depends_on_what_comes_later(whole, tmp_path, weather, monkeypatch):
    """The readings end there, or all that follows is as hot as nothing that is left out; a copy
    that peeks is found out."""
    now = MIDDLE + 15 * HOUR
    early = [row for row in whole[0] if row["time"] <= stamp(now)]
    assert early[-2]["event"] == "cooler"
    cut = make(tmp_path / "cut.db", weather, now)
    spoiled = make(tmp_path / "spoiled.db", weather,
                   change=lambda ms, value: value if ms <= now else 59.0)
    for database in (cut, spoiled):
        assert review(database, *between(FIRST, now + 1000))[0] == early

    def last_row(path):
        with contextlib.closing(iot.Reader(path)) as reader:
            *_, (_, _, rooms, _) = iot.review_hours(reader, now - HOUR, now + 1, 22.0)
            return iot.review_row(now, rooms[0])
    quarters = iot.Reader.quarters
    assert last_row(cut) == last_row(spoiled)
    monkeypatch.setattr(iot.Reader, "quarters", lambda self, series, end: quarters(
        self, series, end + iot.QUARTER))
    assert last_row(cut) != last_row(spoiled)


@pytest.mark.slow
def test_it_tells_in_words_what_a_rule_would_change(whole, database):
    assert re.fullmatch(
        r"(inside: \d\.\d changes a day; hours: \w+ \d+(, \w+ \d+)*\n|"
        r"cellar: 0\.0 changes a day; hours: unknown 288\n){2}"
        r"cooler outside, (\d+) forecasts: half of them within (\d+) minutes; "
        r"by yesterday's curve, shifted: (\d+)\n", whole[1])
    ours, theirs = map(int, re.findall(r"(?:within|shifted:) (\d+)", whole[1]))
    assert 0 < ours < theirs
    rows, words = review(database, *between(FIRST, LAST), "--comfort", "40C")
    assert "inside: 0.0 changes a day; hours: comfortable 288\n" in words
    assert [row["at"] for row in rows if row["inside"] == "inside"] == [
        row["at"] for row in whole[0] if row["inside"] == "inside"]


@pytest.mark.slow
def test_a_file_is_there_when_all_went_well(database, tmp_path, whole):
    target = tmp_path / "review.csv"
    rows, words = review(database, *between(MIDDLE, LAST), target=target)
    assert (rows, words.count("changes a day")) == ([], 2)
    with target.open(newline="") as file:
        assert [*csv.DictReader(file)] == [r for r in whole[0] if r["time"] >= stamp(MIDDLE)]
    _, words = review(database, "--start", 2020, "--end", 2020, target=target, status=2)
    assert "--start has to be before --end" in words
    _, words = review(database, target=database, status=1)
    assert "is a database" in words


def test_without_a_span_it_is_the_last_ninety_days(tmp_path):
    with contextlib.closing(House(tmp_path / "new.db", ("inside", "inside"))):
        rows, words = review(tmp_path / "new.db")
        assert len(rows) == 90 * 24
        assert words == "inside: 0.0 changes a day; hours: unknown 2160\n"


@pytest.mark.untraced
def test_interrupted_it_leaves_nothing(database, tmp_path):
    target = tmp_path / "review.csv"
    process = subprocess.Popen(
        [sys.executable, SCRIPT, "--db", database, "--review", target, "--start", "2010-01-01",
         "--end", "2019-01-01"], stderr=subprocess.PIPE, text=True, env=environment(),
        preexec_fn=lambda: signal.signal(       # noqa: PLW1509  (a shell may have it ignored)
            signal.SIGINT, signal.SIG_DFL))
    try:
        wait_for(lambda: [*tmp_path.glob("*.partial")])
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait()
    assert (process.returncode, said) == (130, "")
    assert [*tmp_path.iterdir()] == []
