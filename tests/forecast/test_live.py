"""The forecast of a server: from its own store, at each quarter of an hour, in short steps."""
import contextlib
import json
import re
import shutil
import sqlite3
import statistics
import time
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
import yardstick
from harness import InProcess, finish, stepwise
from house import House, corners_of

import iotserver as iot
from iotserver import DAY, HOUR, MINUTE, QUARTER

pytestmark = pytest.mark.slow

WEEKS = Path(__file__).parent.parent / "data" / "falkensee_two_weeks.csv"
EVENING = 1_533_826_800_000     # 2018-08-09T15:00:00Z in ms: five o'clock, and warm
BERLIN, LOS_ANGELES = ZoneInfo("Europe/Berlin"), ZoneInfo("America/Los_Angeles")


def rows_of(weather, start, end):
    return sorted((ms, name, f"mac-{i}", 1, value, None) for i, name in enumerate(
        ("inside", "outside")) for ms, value in getattr(weather, name) if start <= ms <= end)


def renew(house):
    """All that is due; how long the steps took, in s of this process."""
    took, before = [], time.process_time()
    for _ in stepwise(house.server.outlook.renew()):
        took.append(time.process_time() - before)
        before = time.process_time()
    return [*took, time.process_time() - before]


def told(house):
    verdict, = house.get("/api/verdict").json["verdicts"]
    return verdict["forecast"]


def say(forecast):
    return forecast and {
        "event": forecast.event, "at": forecast.at, "from": forecast.start, "to": forecast.end,
        "chance": round(forecast.chance, 2)}


@pytest.fixture(scope="module")
def weather():
    return yardstick.read_house(WEEKS)


@pytest.fixture
def open_house(tmp_path, weather):
    """Makes House servers at EVENING that know the days before."""
    with contextlib.ExitStack() as stack:
        def make(file="house.db", **flags):
            house = stack.enter_context(contextlib.closing(House(
                tmp_path / file, ("inside", "inside"), ("outside", "outside"), **flags)))
            house.time = EVENING / 1000
            house.writer.import_rows(rows_of(weather, 0, EVENING), EVENING)
            return house
        yield make


@pytest.fixture(scope="module")
def filled(tmp_path_factory, weather):
    """The file of one that knows the days before EVENING."""
    path = tmp_path_factory.mktemp("filled") / "house.db"
    with contextlib.closing(House(path, ("inside", "inside"), ("outside", "outside"))) as house:
        house.time = EVENING / 1000
        house.writer.import_rows(rows_of(weather, 0, EVENING), EVENING)
    return path


@pytest.fixture
def house(filled, tmp_path):
    """One that has worked out its forecast, and is started again."""
    with contextlib.closing(House(shutil.copy(filled, tmp_path / "house.db"))) as house:
        house.time = EVENING / 1000
        renew(house)
        yield house


def past(house):
    """What became of the forecasts of this time of day."""
    said, = house.server.board.forecasts.values()
    return said.past


def advance(house, weather, minutes=15):
    """Live on: what comes in, and then what is due."""
    before = round(house.time * 1000)
    house.time += minutes * 60
    for ms, _, mac, _, value, _ in rows_of(weather, before + 1, round(house.time * 1000)):
        house.writer.add_entry(house.writer.by_mac[mac], ms, {1: value}, ms)
    house.server.turn.end()
    house.server.board.expires = 0
    return renew(house)


# -- what is told ---------------------------------------------------------------------------------


def test_the_server_says_what_its_readings_say(house, weather):
    *_, (now, said, _) = yardstick.foresee(iot, weather, weather.outside[0][0] // HOUR * HOUR,
                                           EVENING)
    assert now == EVENING
    assert said.event == "cooler"
    assert told(house) == say(said)
    assert house.get("/api/verdict").json["verdicts"][0]["state"] == "close"


@pytest.mark.parametrize(("cookie", "zone", "named"), [
    ("tz=Europe/Berlin", BERLIN, ""), ("tz=America/Los_Angeles", LOS_ANGELES, ""),
    ("", UTC, " Times are in UTC.")])
def test_the_line_is_in_the_readers_zone(house, cookie, zone, named):
    """Without a script nobody tells the zone: then it is named."""
    forecast = told(house)
    at, start, end = (format(datetime.fromtimestamp(round(forecast[key] / 300_000) * 300, zone),
                             "%H:%M") for key in ("at", "from", "to"))
    line = f"Cooler outside from about {at} ({start} to {end})."
    assert house.page(Cookie=cookie).all("summary")[0][1] == line
    assert house.get("/verdict.txt", Cookie=cookie).text.count(" Cooler outside from about ") == 1
    assert house.get("/verdict.txt", Cookie=cookie).text.endswith(f" outside. {line}{named}\n")
    assert [text for _, text in house.page(Cookie=cookie).all("p", class_="zone")] == (
        [named.strip()] if named else [])


def test_words_for_widgets_are_in_the_machines_zone(house, monkeypatch):
    monkeypatch.setenv("TZ", "Asia/Kathmandu")
    time.tzset()
    try:
        text = house.get("/verdict.txt").text
    finally:
        monkeypatch.undo()
        time.tzset()
    at = datetime.fromtimestamp(told(house)["at"] / 1000, ZoneInfo("Asia/Kathmandu"))
    assert re.search(rf"from about {at:%H}:\d[05] \(\d\d:\d\d to \d\d:\d\d\)\. "
                     r"Times are in \+0545\.\n$", text)


def room(forecast, **changes):
    return iot.Place(1, "inside", "inside", 0, 1, forecast=forecast, **changes)


def forecast(event, at, start, end, chance=0.9, **more):
    times = [ms and round(datetime.fromisoformat(ms).timestamp() * 1000)
             for ms in (at, start, end)]
    return iot.Forecast(event, *times, chance, 40, (), (), **more)


BRACKETS = "The range in brackets should be right on 8 days out of 10."
NIGHT = ("2026-10-25T00:43:00+00:00", "2026-10-25T00:20:00+00:00", "2026-10-25T01:14:00+00:00")


@pytest.mark.parametrize(("said", "zone", "line"), [
    (forecast("cooler", *NIGHT), BERLIN, "Cooler outside from about 02:45 (02:20 to 02:15). "
     + BRACKETS),
    (forecast("cooler", *NIGHT), LOS_ANGELES, "Cooler outside from about 17:45 (17:20 to 18:15). "
     + BRACKETS),
    (forecast("warmer", *NIGHT, 0.87), UTC,
     "Warmer outside from about 00:45. Between 00:20 and 01:15, with a chance of 87%."),
    (forecast("warmer", *NIGHT, 0.96), UTC,
     "Warmer outside from about 00:45. Between 00:20 and 01:15."),
    (forecast("cooler", None, None, None, 0.1), BERLIN,
     "It will probably stay warmer outside for 12 hours."),
    (forecast("warmer", None, None, None, 0.1), BERLIN,
     "It will probably stay cooler outside for 12 hours."),
    (forecast("cooler", *NIGHT[:1] * 3), BERLIN, "Cooler outside from about 02:45."),
    (None, BERLIN, "")])
def test_words_of_the_forecast_also_where_the_clocks_are_put_back(said, zone, line):
    asked = round(datetime.fromisoformat("2026-10-24T20:00:00+00:00").timestamp() * 1000)
    assert " ".join(iot.say_forecast(room(said), asked, iot.Locale(zone=zone))) == line
    cold = iot.Verdict("comfortable", 1.0, 0, None, None, reason="cold")
    assert iot.say_forecast(room(said, verdict=cold), asked, iot.Locale(zone=zone)) == []


@pytest.mark.parametrize("event", ["cooler", "warmer"])
@pytest.mark.parametrize(("minutes", "end"), [(-4, "01:15"), (9, "01:15"), (33, "01:20")])
def test_what_is_due_within_five_minutes_may_come_any_moment(event, minutes, end):
    """And what should have come already: its end is never past."""
    said = forecast(event, *NIGHT)
    assert iot.say_forecast(room(said), said.at + minutes * MINUTE, iot.ENGLISH) == [
        f"{event.title()} outside any moment, probably by {end}."]


def test_what_is_open_may_stay_so_until_it_gets_warmer():
    said = room(forecast("warmer", *NIGHT), verdict=iot.Verdict("open", 3.0, 0, None, None))
    asked = round(datetime.fromisoformat("2026-10-24T20:00:00+00:00").timestamp() * 1000)
    assert iot.say_forecast(said, asked, iot.ENGLISH) == [
        "Leave them open until about 00:45.",
        "Between 00:20 and 01:15, with a chance of 90%."]


def test_the_line_says_how_good_it_was(house):
    text = house.page().one("p", class_="record")
    assert len(past(house)) < 5
    assert "10. Too few days" in text
    few = forecast("cooler", *NIGHT)
    assert iot.say_record(few, iot.ENGLISH).startswith("Too few days")
    mornings = forecast("warmer", *NIGHT, past=(iot.Outcome("warmer", HOUR, HOUR, 1.0),) * 30)
    assert iot.say_record(mornings, iot.ENGLISH) == (
        "On half of the last 20 mornings, the middle of the range was at most 60 minutes off.")


def test_nothing_is_said_once_it_has_come_true_or_is_unknown(house):
    assert told(house)
    for minute in range(1, 4):                                  # it is cooler now
        house.time += 60
        for station in house.writer.stations.values():
            house.writer.add_entry(station, EVENING + minute * MINUTE, {1: 25.0 - station.id}, 0)
    house.server.turn.end()
    assert told(house) is None
    house.time += 3600                                          # and now they are silent
    house.server.board.expires = 0
    renew(house)
    assert told(house) is None


def test_a_forecast_that_is_not_renewed_ends():
    said = forecast("cooler", *NIGHT, asked=1000)
    place = room(None, verdict=iot.Verdict("close", -2.0, 1, 1, None),
                 outside=iot.Place(2, "outside", "outside", 0, 2))
    for now, is_told in ((999, False), (1000, True), (999 + 2 * QUARTER, True),
                         (1000 + 2 * QUARTER, False)):
        assert (iot.fresh_forecast(place, {(1, 2): said}, now) is said) == is_told
    assert iot.fresh_forecast(place._replace(verdict=None), {(1, 2): said}, 1000) is None
    assert iot.fresh_forecast(place._replace(outside=None), {(1, 2): said}, 1000) is None


# -- what is drawn --------------------------------------------------------------------------------


def corners(page, name):
    """A line of the first chart: (ms, value) of its corners, from the picture alone."""
    chart, _ = page.all("svg", role="img")[0]
    start, end, high = (float(chart[f"data-{key}"]) for key in ("start", "end", "high"))
    line, = corners_of(page.paths()[name])          # in one piece
    return [(start + x / iot.STEPS * (end - start), high - y / iot.GRAIN) for x, y in line]


def test_the_chart_of_a_day_goes_on_into_the_night(house):
    page, known = house.page(Cookie="tz=Europe/Berlin"), told(house)
    said, = house.server.board.forecasts.values()
    chart, _ = page.all("svg", role="img")[0]
    assert int(chart["data-start"]) == EVENING - DAY
    assert int(chart["data-end"]) == EVENING + 12 * HOUR
    for name, curve in (("inside", said.inside), ("outside", said.outside)):
        (_, now), *drawn = corners(page, f"{name}, expected")
        assert now == pytest.approx(corners(page, name)[-1][1])     # it goes on from the line
        assert [value for _, value in drawn] == pytest.approx(curve[:48], abs=0.1)
        assert [ms for ms, _ in drawn] == pytest.approx(
            range(EVENING + QUARTER, EVENING + 12 * HOUR + 1, QUARTER), abs=MINUTE * 5)
        assert f"{name}, expected: from {min((*curve[:48], now)):.1f} to " in chart["aria-label"]
    assert {a["class"] for a, _ in page.all("g", class_="expected")} == {
        "hue1 expected", "hue0 expected"}
    (line, _), = page.all("path", class_="present")
    now = float(chart["data-left"]) + float(chart["data-inner"]) * 24 / 36
    assert float(re.match(r"M([\d.]+) ", line["d"])[1]) == pytest.approx(now, abs=0.1)
    assert "now" in [text for _, text in page.all("text")]
    band, _ = page.all("rect", class_="interval")[0]
    left, right = float(band["x"]), float(band["x"]) + float(band["width"])
    per_ms = float(chart["data-inner"]) / (36 * HOUR)
    assert [left, right] == pytest.approx([
        float(chart["data-left"]) + (known[key] - EVENING + DAY) * per_ms
        for key in ("from", "to")], abs=0.15)
    slider, _ = page.all("input")[0]
    assert float(slider["value"]) == pytest.approx(iot.STEPS * 24 / 36, abs=1)


def test_without_a_forecast_and_over_longer_times_the_chart_ends_now(house, weather):
    longer = house.page("/?range=7d")
    house.server.board.forecasts.clear()
    house.server.board.expires = 0
    for page in (longer, house.page()):
        chart, _ = page.all("svg", role="img")[0]
        assert int(chart["data-end"]) == EVENING
        assert not page.all("rect", class_="interval") + page.all("g", class_="expected")
        slider, _ = page.all("input")[0]
        assert slider["value"] == slider["max"]


def test_the_night_is_drawn_in_the_readers_unit(house):
    page = house.page(Accept_Language="en-US")
    said, = house.server.board.forecasts.values()
    assert corners(page, "outside, expected")[-1][1] == pytest.approx(
        said.outside[47] * 1.8 + 32, abs=0.2)


@pytest.mark.parametrize(("zone", "name", "unit"), [
    (BERLIN, "Europe/Berlin", "C"), (LOS_ANGELES, "America/Los_Angeles", "F")])
def test_each_card_tells_the_days_lowest_and_highest_and_of_yesterday(house, weather, zone, name,
                                                                      unit):
    page = house.page(Cookie=f"tz={name}", Accept_Language="en-US" if unit == "F" else "nl-NL")
    told = iter([text for _, text in page.all("p", class_="day")])
    status = iter([text for _, text in page.all("p")
                   if text.endswith(" ago") and " · " in text])
    for side in ("inside", "outside"):
        readings = [r for r in getattr(weather, side) if r[0] <= EVENING]
        midnight = datetime.fromtimestamp(EVENING / 1000, zone).replace(hour=0).timestamp() * 1000
        today = [r for r in readings if r[0] >= midnight]
        lines = next(told).removeprefix("Today: ").split(", ")     # both in one line
        for line, word, extreme in zip(lines, ("low", "high"), (min, max), strict=True):
            value = extreme(value for _, value in today)
            shown = value if unit == "C" else value * 1.8 + 32
            form = "%H:%M" if unit == "C" else "%-I:%M %p"      # as the reader's region has it
            times = {format(datetime.fromtimestamp(ms / 1000, zone), form)
                     for ms, other in today if other == value}
            assert line in {f"{word} {shown:.1f} at {at}" for at in times}
        now, celsius = readings[-1]
        difference = celsius - [value for ms, value in readings if ms <= now - DAY][-1]
        assert (
            "as warm as yesterday" if abs(difference) < 0.5 else
            f"{iot.say_degrees(difference, iot.Locale(unit=unit))} "
            f"{'warmer' if difference >= 0 else 'cooler'} than a day ago"
        ) in next(status).split(" · ")
    assert [*told] == []


def test_a_card_without_a_yesterday_says_nothing_of_it(tmp_path):
    with contextlib.closing(House(tmp_path / "new.db", ("inside", "inside"),
                                  ("cellar", "inside"))) as house:
        house.store("inside", [0], 21.5)
        assert [text for _, text in house.page().all("p", class_="day")] == [
            "Today: low 21.5 at 12:00, high 21.5 at 12:00"]
        assert "yesterday" not in house.page().text


# -- as time goes by ------------------------------------------------------------------------------


def test_it_is_asked_at_each_quarter_and_never_by_a_request(house, weather, monkeypatch):
    asked = []
    monkeypatch.setattr(iot, "foretell", lambda *args: asked.append(args[2]))
    for _ in range(3):
        house.get("/api/verdict")
        house.get("/")
        house.get("/verdict.txt")
    assert list(stepwise(house.server.outlook.renew())) == asked == []
    advance(house, weather)
    assert asked == [EVENING + QUARTER - days * DAY for days in range(iot.RECORD_DAYS, -1, -1)]
    advance(house, weather, 45)
    assert asked[-1] == EVENING + HOUR


@pytest.mark.untraced
def test_live_it_says_what_it_says_of_all_readings_at_once(house, weather):
    first = weather.outside[0][0] // HOUR * HOUR
    for quarter in range(1, 11):
        advance(house, weather)
        now = EVENING + quarter * QUARTER
        *_, (_, said, _) = yardstick.foresee(iot, weather, first, now)
        verdict, = house.get("/api/verdict").json["verdicts"]
        assert verdict["forecast"] == (say(said) if said and (said.event == "cooler") == (
            verdict["difference"] < 0) else None)


def test_a_restart_says_the_same(house):
    known = house.server.board.forecasts
    house.close()
    with contextlib.closing(InProcess(house.path)) as again:
        again.time = house.time
        renew(again)
        assert again.server.board.forecasts == known


def test_a_layout_that_stored_what_became_of_forecasts_loses_that_alone(house):
    house.close()
    with contextlib.closing(sqlite3.connect(house.path)) as db:
        before = db.execute("SELECT count(*), total(value) FROM reading").fetchall()
        newer = " ".join(iot.MIGRATIONS[2:])
        for table in re.findall(r"CREATE TABLE (\w+)", newer):
            db.execute(f"DROP TABLE {table}")
        for table, column in re.findall(r"ALTER TABLE (\w+) ADD COLUMN (\w+)", newer):
            db.execute(f"ALTER TABLE {table} DROP COLUMN {column}")
        db.execute("CREATE TABLE outcome (asked INTEGER)")
        db.execute("PRAGMA user_version = 2")
    with contextlib.closing(iot.Writer(house.path)) as writer:
        assert writer.db.execute("SELECT count(*), total(value) FROM reading").fetchall() == before
        with pytest.raises(sqlite3.OperationalError, match="no such table"):
            writer.db.execute("SELECT * FROM outcome")


def test_one_evening_without_outside_readings_ends_no_forecast(tmp_path, weather):
    """Silent for 7 h while the difference crosses zero: two days later each quarter failed."""
    hole = range(EVENING - 2 * DAY, EVENING - 2 * DAY + 7 * HOUR)
    with contextlib.closing(House(tmp_path / "x.db", ("inside", "inside"),
                                  ("outside", "outside"))) as house:
        house.time = (EVENING - HOUR) / 1000
        house.writer.import_rows([row for row in rows_of(weather, 0, EVENING - HOUR)
                                  if row[2] == "mac-0" or row[0] not in hole], EVENING)
        renew(house)
        for _ in range(8):
            assert told(house)["event"] == "cooler"
            advance(house, weather)


@pytest.mark.parametrize("error", [ValueError("odd"), sqlite3.OperationalError("busy")])
def test_the_failure_of_a_room_is_its_own_and_of_that_quarter(house, weather, monkeypatch, capsys,
                                                              error):
    house.writer.add_station("attic", "mac-9", "inside", None, EVENING)
    house.writer.import_rows([(ms, "attic", "mac-9", 1, value + 1, None)
                              for ms, value in weather.inside if ms <= EVENING], EVENING)
    house.server.board.expires, house.server.outlook.at = 0, 0
    failing = house.reader.series(house.writer.find("inside").id)[1]
    quarters = house.reader.quarters

    def fail(series, end):
        if failing in series:
            raise error
        return quarters(series, end)

    def rooms():
        return {room["station"] for room in house.get("/api/verdict").json["verdicts"]
                if room["forecast"]}
    house.server.board.forecasts.clear()
    monkeypatch.setattr(house.reader, "quarters", fail)
    renew(house)
    assert rooms() == {"attic"}
    assert str(error) in capsys.readouterr().err
    monkeypatch.undo()
    advance(house, weather)
    assert "inside" in rooms()


def test_a_courier_is_no_command_at_work(house):
    """It stays connected as long as both live."""
    iot.CourierSocket(house.server).connection_made(None)
    house.time += QUARTER / 1000
    assert len(renew(house)) > 100


def test_what_was_to_come_by_now_is_told_as_of_now(house):
    place = next(place for place in finish(house.server.board.look()) if place.forecast)
    end = place.forecast.end + 8 * MINUTE
    said, = iot.say_forecast(place, end, iot.ENGLISH)
    at, = re.findall(r"\d\d:\d\d", said)
    assert at == format(datetime.fromtimestamp(-(-end // 300_000) * 300, UTC), "%H:%M")


@pytest.mark.parametrize("change", ["import", "delete", "remove"])
def test_what_changes_history_has_it_worked_out_anew(house, weather, change):
    """All is worked out anew, from what is there then."""
    def command(method, *arguments):
        house.server.controls.add(control)
        answer = json.loads(finish(control.execute(
            json.dumps([method, arguments]).encode())))
        assert "error" not in answer, answer
    control, before = iot.Control(house.server), dict(house.server.board.forecasts)
    start = weather.outside[0][0]
    if change == "import":
        command("import_rows", [[start - HOUR, "inside", "mac-0", 1, 20.0, None]], EVENING)
    elif change == "delete":
        command("delete_step", "outside", 1, {"start": EVENING - 30 * HOUR, "end": EVENING - DAY,
                                              "below": None, "above": None})
    else:
        house.writer.add_station("shed", "mac-9", None, None, EVENING)
        command("remove_step", "shed")
    assert told(house)                                          # the last one serves on
    assert len(renew(house)) == 1                               # while the command is at work
    house.server.controls.clear()
    assert len(renew(house)) > 100
    assert (house.server.board.forecasts == before) == (change != "delete")


def test_a_courier_does_not_hold_it_up(house, weather):
    """A command at work does; a courier is there for ever."""
    house.server.controls.add(iot.CourierSocket(house.server))
    asked = house.server.outlook.at
    advance(house, weather)
    assert house.server.outlook.at == asked + QUARTER


def test_a_command_that_was_stopped_holds_it_up_for_half_a_minute(house, weather):
    """`--import -` and Ctrl-Z: its connection stays open, and it may never go on."""
    control, asked = iot.Control(house.server), house.server.outlook.at
    house.server.controls.add(control)
    house.time += QUARTER / 1000 - 20
    finish(control.execute(b'["address", []]'))
    house.time += 20
    renew(house)
    assert house.server.outlook.at == asked, "it is at work"
    house.time += iot.COMMAND_SECONDS - 20
    renew(house)
    assert house.server.outlook.at == asked + QUARTER


def test_what_changes_meanwhile_has_all_begin_anew(open_house):
    house = open_house()
    work = stepwise(house.server.outlook.renew())
    for _ in range(1500):
        next(work)
    house.writer.import_rows([(EVENING - 30 * DAY, "inside", "mac-0", 1, 20.0, None)], EVENING)
    house.server.outlook.at = 0                                 # as any command does
    assert len([*work]) < 2
    assert told(house) is None
    renew(house)
    assert told(house)


def test_late_readings_count_from_the_next_quarter_on(house, weather):
    """An hour of outside came late; with it the answer is as if it had been there."""
    late = house.path.with_name("late.db")
    with contextlib.closing(House(late, ("inside", "inside"), ("outside", "outside"))) as other:
        other.time = EVENING / 1000
        hour = range(EVENING - 22 * HOUR, EVENING - 21 * HOUR)
        rows = rows_of(weather, 0, EVENING)
        other.writer.import_rows([r for r in rows if r[2] == "mac-0" or r[0] not in hour], EVENING)
        renew(other)
        assert told(other) != told(house)
        for ms, _, mac, _, value, _ in rows:
            if mac == "mac-1" and ms in hour:
                other.writer.add_entry(other.writer.by_mac[mac], ms, {1: value}, EVENING)
        other.server.turn.end()
        advance(house, weather)
        advance(other, weather)
        assert told(other)["at"] == told(house)["at"]


def test_another_outside_station_has_a_forecast_of_its_own(house, weather):
    before = told(house)
    house.writer.edit_station("outside", None, None, "none")
    house.writer.add_station("garden", "mac-2", "outside", None, EVENING)
    house.writer.import_rows([(ms, "garden", "mac-2", 1, value + 2, None) for ms, value in
                              weather.outside if ms <= EVENING], EVENING)
    house.server.board.expires, house.server.outlook.at = 0, 0
    assert told(house) is None                                  # what was known is of no use here
    renew(house)
    assert told(house)["at"] > before["at"]


def test_pruned_hours_still_tell(house):
    before, = house.server.board.forecasts.values()
    while house.writer.prune_step(EVENING - DAY):
        pass
    house.server.outlook.at = 0
    renew(house)
    after, = house.server.board.forecasts.values()
    assert after.days == before.days > 7
    assert abs(after.at - before.at) < 30 * MINUTE


def test_of_each_quarter_the_last_three_readings_are_read(house):
    for name in ("attic", "texts"):
        house.writer.add_station(name, name, None, None, EVENING)
    end = EVENING + QUARTER
    for ms, value in ((EVENING, 1), (EVENING + 1, 2), (EVENING + 2, 3), (end - 1, 55), (end, 5),
                      (end, 85), (end, 6), (end, -127), (end + 1, 7)):
        house.writer.add_entry(house.writer.find("attic"), ms, {1: value}, EVENING)
        house.writer.add_entry(house.writer.find("texts"), ms, {1: str(value)}, EVENING)
    house.server.turn.end()
    attic, texts = (house.reader.thermometer(house.writer.find(name).id)
                    for name in ("attic", "texts"))
    assert house.reader.quarters([attic, texts, 99], end) == [
        [(end - 1, 55), (end, 5), (end, 6)], [], []]
    assert house.reader.quarters([attic], end + QUARTER) == [[(end + 1, 7)]]
    assert house.reader.quarters([attic], EVENING) == [[(EVENING, 1)]]


# -- what it costs, and what may fail -------------------------------------------------------------


@pytest.mark.untraced
def test_no_step_takes_long(open_house):
    took = sorted(renew(open_house()))
    assert len(took) > 1500
    assert took[-2] < 0.02
    assert statistics.median(took) < 0.005


@pytest.mark.parametrize("every", [5000, 3 * MINUTE])
@pytest.mark.untraced
def test_a_question_takes_no_longer_at_five_seconds(tmp_path, every):
    """From the readings in the store to the answer: what is looked at does not grow."""
    with contextlib.closing(House(tmp_path / "x.db", ("inside", "inside"),
                                  ("outside", "outside"))) as house:
        times = range(EVENING - 3 * DAY, EVENING + 1, every)
        house.time = EVENING / 1000
        house.writer.import_rows(
            [(ms, name, f"mac-{i}", 1, 24 + (6 - 5 * (i == 0)) * round(
                (1 - abs((ms - 15 * HOUR) % DAY - DAY / 2) * 4 / DAY) * -1, 3), None)
             for ms in times for i, name in enumerate(("inside", "outside"))], EVENING)
        renew(house)
        house.time += 900
        assert sum(renew(house)) < 0.6                          # of these, 15,000 look-ups


def test_a_full_disk_takes_no_forecast_with_it(open_house):
    house = open_house()
    pages = house.writer.db.execute("PRAGMA page_count").fetchone()[0]
    house.writer.db.execute(f"PRAGMA max_page_count = {pages}")
    renew(house)
    assert told(house)["event"] == "cooler"
