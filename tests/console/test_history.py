"""What an owner of a console has from before: Ecowitt's CSV, and odd archives of weewx."""
import contextlib
import sqlite3
import subprocess
import sys

import pytest
from harness import SCRIPT, problems_of, rows_of

from iotserver import format_time

METRIC = ("Time,Indoor Temperature(℃),Indoor Humidity(%),Outdoor Temperature(℃),"
          "Outdoor Humidity(%),Dew Point(℃),Feels Like(℃),Wind(m/s),Gust(m/s),Wind Direction(deg),"
          "ABS Pressure(hPa),REL Pressure(hPa),Solar Rad(w/m2),UV-Index,Console Battery (V),"
          "External Supply Battery (V),Charge,Hourly Rain(mm),Event Rain(mm),Daily Rain(mm),"
          "Weekly Rain(mm),Monthly Rain(mm),Yearly Rain(mm)\r\n"
          "2024-09-18 14:25,22.8,55,23.2,54,13.4,23.2,1.1,1.6,259,989.6,1013.1,519.34,4,5.47,4.84,"
          "1,0.0,0.0,0.0,0.0,0.0,0.0\r\n"
          "2024-09-18 14:30,22.9,--,--,54,13.4,23.2,1.1,1.6,259,989.6,1013.1,519.34,4,5.47,4.84,"
          "1,0.0,0.0,0.0,0.0,0.0,0.0\r\n")
US = ("Time,Indoor Temperature(℉),Indoor Humidity(%),Outdoor Temperature(℉),"
      "Outdoor Humidity(%),Wind(mph),Gust(km/h),Wind Direction(°),ABS Pressure(inHg),"
      "REL Pressure(mmHg),Hourly Rain(in)\n"
      "2024/9/18 14:25:30,73.04,55,73.76,54,1.1,3.6,259,29.92,760,0.1\n")
ROOMS = ("Time,CH1 Temperature(℃),CH1 Dew point(℃),CH1 HeatIndex(℃),CH1 Humidity(%)\n"
         "2024-09-18 14:25,19.5,1,2,60\n")
UNKNOWN = ("iotserver: left out: 10 of the columns, not known here: Dew Point(℃), Feels Like(℃), "
           "Console Battery (V), External Supply Battery (V), Charge, Event Rain(mm), "
           "Daily Rain(mm), Weekly Rain(mm), Monthly Rain(mm), Yearly Rain(mm)\n")
AT = 1_726_669_500_000          # 2024-09-18 14:25 UTC


@pytest.fixture
def garden(database, run):
    run("--add-station", "garden", "--mac", "WH2650", "--console", "--key", "K1")
    return database


def values(path, ms):
    """{(what follows the console's MAC, field): value} of an instant."""
    return {(mac.removeprefix("wh2650"), field): value
            for time, _, mac, field, value, _ in rows_of(path) if time == ms}


@pytest.fixture
def bring(run, tmp_path):
    def bring(text, name="garden", **more):
        (tmp_path / "history.csv").write_bytes(b"\xef\xbb\xbf" + text.encode())
        if "Dew Point" in text:
            more = {"stderr": UNKNOWN, **more}
        return run("--import", "history.csv", "--station", name,
                   **{"env": {"TZ": "UTC"}, **more})
    return bring


def test_ecowitts_csv_is_imported_inside_and_outside(garden, bring):
    assert "imported 22 readings" in bring(METRIC)
    assert values(garden, AT) == {
        ("-in", 1): 22.8, ("-in", 2): 55, ("-in", 3): 989.6, ("", 1): 23.2, ("", 2): 54,
        ("", 3): 1013.1, ("", 4): 1.1, ("", 5): 1.6, ("", 6): 259, ("", 7): 0, ("", 8): 519.34,
        ("", 9): 4}
    assert "imported 0 readings; 22 were" in bring(METRIC, "garden outside")
    assert problems_of(garden) == []


def test_a_station_of_that_very_name_comes_before_a_console(garden, bring, run):
    run("--add-station", "pond", "--mac", "P", "--key", "P1")
    run("--add-station", "pond outside", "--mac", "Q", "--key", "Q1")
    bring("created_at,entry_id,field1\n2024-09-18T14:25:00Z,1,20\n", "pond")
    assert [row[2] for row in rows_of(garden)] == ["p"]


def test_its_units_are_those_of_its_header(garden, bring):
    bring(US)
    assert values(garden, AT + 30_000) == {
        ("-in", 1): 22.8, ("-in", 2): 55, ("-in", 3): 1013.2, ("", 1): 23.2, ("", 2): 54,
        ("", 3): 1013.2, ("", 4): 0.49, ("", 5): 1, ("", 6): 259, ("", 7): 2.54}


def test_a_column_in_an_unknown_unit_is_left_out_and_named(garden, bring):
    """The other columns come in; and what is only written otherwise is known."""
    text = METRIC.replace("Solar Rad(w/m2)", "Solar Rad(Klux)").replace("Gust(m/s)", "Gust(bft)")
    said = bring(text.replace("Direction(deg)", "Direction(º)"), stderr=(
        "iotserver: left out: 1 column whose unit is not known here: Gust(bft)\n"
        "iotserver: left out: 1 column whose unit is not known here: Solar Rad(Klux)\n" + UNKNOWN))
    assert "imported 18 readings" in said
    assert "imported 4 readings; 18 were" in bring(METRIC.replace("w/m2", "W/m²"))
    assert values(garden, AT)["", 6] == 259
    assert values(garden, AT)["", 8] == 519.34


def test_its_times_are_local(garden, bring):
    bring(METRIC.replace("2024-09", "2024-01"), env={"TZ": "Europe/Berlin"})
    bring(METRIC, env={"TZ": "Europe/Berlin"})
    assert {row[0] for row in rows_of(garden)} >= {
        AT - 2 * 3_600_000, AT - 3_600_000 - 244 * 86_400_000}      # in summer, in winter


def test_the_hour_that_comes_twice_as_summer_time_ends_is_stored_twice(garden, bring):
    clocks = ("02:00", "02:30", "02:00", "02:30", "03:00")
    bring("Time,Outdoor Temperature(℃)\n" + "".join(
        f"2026-10-25 {clock},{20 + i}\n" for i, clock in enumerate(clocks)),
        env={"TZ": "Europe/Berlin"})
    assert [(format_time(row[0])[11:16], row[4]) for row in rows_of(garden)] == [
        ("00:00", 20), ("00:30", 21), ("01:00", 22), ("01:30", 23), ("02:00", 24)]


def test_its_other_rooms_are_those_that_report_later(garden, bring, serve):
    assert "imported 2 readings" in bring(ROOMS, stderr=(
        "iotserver: left out: 2 of the columns, not known here: CH1 Dew point(℃), "
        "CH1 HeatIndex(℃)\n"))
    live = serve()
    assert live.get("/data/report/K1?temp1f=68").text == "success"
    assert [(row[1], row[5]) for row in rows_of(garden)] == [("garden ch1", 1), ("garden ch1", 1),
                                                             ("garden ch1", 2)]


@pytest.mark.parametrize(("old", "new", "said"), [
    ("2024-09-18 14:25", "18.9.2024", "line 2"), (",23.2,54,", ",54,", "line 2"),
    ("2024-09-18", "0001-01-01", "line 2"), ("2024-09-18", "1969-01-01", "before 1970"),
    ("2024-09-18", "9999-12-31", "after 2099")])
def test_what_is_odd_is_told_with_its_line(garden, bring, old, new, said):
    bring(METRIC.replace(old, new, 1), status=1, stderr=said)
    assert rows_of(garden) == []


def test_the_zone_and_range_of_its_times_are_said(garden, bring):
    said = bring(METRIC, env={"TZ": "Europe/Berlin"})
    assert "times read as Europe/Berlin: 2024-09-18 14:25 to 2024-09-18 14:30\n" in said
    assert "times read as UTC: 2024-09-18 14:25 to" in bring(METRIC, env={"TZ": ":UTC"})
    assert "times read as " in bring(METRIC, env={"TZ": ""})


@pytest.mark.parametrize("cell", ["N/A", "inf", "1e999", "warm", "x" * 300, "1,5"])
def test_an_odd_cell_costs_only_itself(garden, bring, cell):
    """It is counted, and the first row is named."""
    text = METRIC.replace("22.9", f'"{cell}"').replace(",259,", f',"{cell}",')
    assert text.count(f'"{cell}"') == 3
    said = bring(text, stderr=UNKNOWN + (
        "iotserver: left out: 3 of the cells, which are no readings; the first is in line 2: "
        f"{cell[:40]!r}\n"))
    assert "imported 19 readings" in said


@pytest.mark.parametrize("change", [
    lambda text: text.replace("\r\n", ",\r\n"),             # heading and lines
    lambda text: text.replace("0.0\r\n", "0.0,,\r\n"),      # lines alone
    lambda text: text.replace("(mm)\r\n", "(mm),\r\n")])    # heading alone
def test_a_comma_at_the_end_of_lines_is_nothing(garden, bring, change):
    assert "imported 22 readings" in bring(change(METRIC))
    assert change(METRIC) != METRIC


def test_a_console_has_to_be_named(garden, run, tmp_path):
    (tmp_path / "history.csv").write_text(METRIC)
    run("--import", "history.csv", status=2, stderr="--station")


def make_archive(path, columns="outTemp REAL, inTemp REAL", rows=((1, 68, 70),), start=AT // 1000):
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        db.execute(f"CREATE TABLE archive (dateTime, usUnits INTEGER, {columns})")
        db.executemany("INSERT INTO archive VALUES (?, ?, ?, ?)", [
            (start + 60 * n if n else start, *row) for n, row in enumerate(rows)])


def test_an_archive_may_change_its_units_and_have_holes(garden, run, tmp_path):
    make_archive(tmp_path / "w.sdb", rows=((1, 68, 70), (16, 20, None), (17, None, -9999)))
    assert "imported 3 readings" in run("--import", "w.sdb", "--station", "garden")
    assert [row[3:5] for row in rows_of(garden)] == [(1, 20), (1, 20), (1, 21.11)]


def test_an_archive_comes_through_a_pipe_too(garden, run, tmp_path):
    make_archive(tmp_path / "w.sdb")
    with (tmp_path / "w.sdb").open("rb") as file:
        done = subprocess.run([sys.executable, SCRIPT, "--db", garden, "--import", "-",
                               "--station", "garden"], stdin=file, capture_output=True, text=True,
                              timeout=60, check=False)
    assert "imported 2 readings" in done.stdout, done


def test_an_archive_in_unknown_units_is_refused(garden, run, tmp_path):
    make_archive(tmp_path / "w.sdb", rows=[(5, 1, 1)])
    run("--import", "w.sdb", "--station", "garden", status=1, stderr="usUnits 5")
    assert rows_of(garden) == []


def test_odd_cells_of_an_archive_cost_only_themselves(garden, run, tmp_path):
    make_archive(tmp_path / "w.sdb", "outTemp TEXT, inTemp TEXT", [
        (1, "68", "70"), (1, "warm", "70"), (1, b"68", float("inf"))])
    said = run("--import", "w.sdb", "--station", "garden", stderr=(
        "iotserver: left out: 3 of the cells, which are no readings; the first is in dateTime "
        f"{AT // 1000 + 60}: 'warm'\n"))
    assert "imported 3 readings" in said


@pytest.mark.parametrize("start", [-1, 2 ** 40, 2 ** 62, "soon", None])
def test_an_archive_of_a_wrong_clock_is_refused(garden, run, tmp_path, start):
    make_archive(tmp_path / "w.sdb", start=start)
    run("--import", "w.sdb", "--station", "garden", status=1, stderr="w.sdb")
    assert rows_of(garden) == []


def test_an_archive_needs_a_station(garden, run, tmp_path):
    make_archive(tmp_path / "w.sdb")
    run("--import", "w.sdb", status=2, stderr="--station")
    run("--import", "w.sdb", "--station", "cellar", status=1, stderr="cellar")
