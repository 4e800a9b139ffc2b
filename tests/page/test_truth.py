"""Impossible, doubted and silent mean the same in the answer, the page, the charts, the forecast,
the summaries and the messages."""
import contextlib
import itertools
import random
import re
import sqlite3
import time

import pytest
from harness import INSIDE, NOON, finish, problems_of
from house import HALF_HOUR

import iotserver as iot
from iotserver import DAY, HOUR, MINUTE

GARDEN = (("kitchen", "inside"), ("garden", "outside"))


def hours_of(house, name, field=1):
    """(count, minimum, maximum, total, pruned, odd) of each hour of a field."""
    series = house.writer.series[house.writer.find(name).id, field]
    return [row[2:] for row in house.writer.db.execute(
        "SELECT * FROM hour WHERE series = ? ORDER BY hour", (series,))]


def points_of(house, query):
    return [point[1:] for point in house.get(f"/api/readings?{query}").json["points"]]


def drawn(page, name):
    """Lowest and highest value of a line, as the chart says it in words."""
    said = page.all("svg", role="img")[0][0]["aria-label"]
    found = re.search(rf"{name}:? (?:from )?(\S+) to (\S+) ", said)
    return found and (float(found[1]), float(found[2]))


# -- what a field is ------------------------------------------------------------------------------

@pytest.mark.parametrize(("field", "label", "kind"), [
    (1, None, "temperature"), (1, "temperature °C", "temperature"), (1, "Attic", "temperature"),
    (1, "Battery %", "other"), (1, "air °F", "other"), (1, "pressure hPa", "other"),
    (2, None, "humidity"), (2, "Humidity %", "humidity"), (2, "Luftfeuchte %", "humidity"),
    (2, "humedad %", "humidity"), (2, "UMIDITÀ %", "humidity"), (2, "Humidité %", "humidity"),
    (2, "Musty %", "other"), (2, "humidity", "other"), (3, "humidity %", "other"),
    (3, "temperature °C", "other")])
def test_one_function_says_what_a_field_is(field, label, kind):
    assert iot.field_kind(field, label) == kind


def test_a_label_that_gives_field_1_another_meaning_makes_it_no_thermometer(house):
    home = house(*GARDEN)
    home.store("kitchen", HALF_HOUR, 28)
    home.store("garden", HALF_HOUR, 59)
    assert "31 °C warmer" in home.page().verdict
    home.writer.label("garden", 1, "Battery %")
    page = home.page()
    assert page.verdict.startswith("No answer")
    assert "Battery 59%" in page.text, "it is a tile now"
    assert drawn(page, "garden") is None
    home.writer.label("garden", 2, "Musty %")
    home.store("garden", [0], 44, field=2)
    assert "Musty 44%" in home.page().text


# -- impossible -----------------------------------------------------------------------------------

def test_impossible_readings_move_no_chart_and_no_summary(house):
    """A sensor that starts with 85 and fails with -127, for a month: in no line, band or table."""
    home = house(*GARDEN)
    minutes = range(-40 * 24 * 60, 1, 20)
    good = [27.0 if i % 3 == 0 else 85 if i % 3 == 1 else -127 for i in range(len(minutes))]
    home.store("kitchen", minutes, 25)
    home.store("garden", minutes, good)
    for span in ("24h", "7d", "30d", "1y"):
        page = home.page(f"/?range={span}")
        assert drawn(page, "garden") == (27, 27)
        axis = page.all("svg", role="img")[0][0]
        assert 20 < float(axis["data-low"]) < float(axis["data-high"]) < 30
        assert "impossible readings not drawn" in page.source
    assert "When it was cooler outside" not in home.page().text
    assert {tuple(row[:3]) for row in hours_of(home, "garden")} == {
        (3, 27, 27), (1, 27, 27)}
    assert points_of(home, "station=garden&points=10") == [[27, 27, 27]] * 10
    assert sorted({value for value, in points_of(home, "station=garden&points=9000")}) == [
        -127, 27, 85], "raw points stay as they were sent"
    assert problems_of(home.path) == []


def test_a_page_never_calls_outside_cooler_because_of_a_broken_sensor(house):
    home = house(*GARDEN)
    home.store("kitchen", range(-24 * 60, 1), 25)
    home.store("garden", range(-24 * 60, 1), [-127 if i % 60 == 0 else 27 for i in range(1441)])
    assert "When it was cooler outside" not in home.page("/?range=7d").text
    assert "cooler outside" not in home.page().one("figcaption")


def test_an_hour_without_a_possible_value_keeps_its_summary_and_is_not_shown(house):
    home = house(*GARDEN)
    home.store("garden", range(-120, -60), 85)
    home.store("garden", range(-60, 0), 20)
    assert hours_of(home, "garden") == [(60, 85, 85, 5100, 0, 60), (60, 20, 20, 1200, 0, 0)]
    drain = home.writer.prune_step
    while drain(round(home.time * 1000) - HOUR):
        pass
    assert hours_of(home, "garden")[0] == (60, 85, 85, 5100, 60, 60)
    assert points_of(home, "station=garden&points=2") == [[20, 20, 20]]
    assert drawn(home.page("/?range=30d"), "garden") == (20, 20)
    assert problems_of(home.path) == []
    home.writer.edit_station("garden", None, None, None, 1.5)
    assert hours_of(home, "garden")[0] == (60, 85, 85, 5100, 60, 60)
    assert points_of(home, "station=garden&points=2") == [[21.5, 21.5, 21.5]]


@pytest.mark.parametrize("offset", [0, -5.1, 0.7])
def test_the_limits_hold_for_what_was_sent(house, offset):
    home = house(*GARDEN)
    home.store("garden", range(-60, 0), [60.0, -60.0, 60.1, -60.1] * 15)
    home.writer.edit_station("garden", None, None, None, offset)
    assert hours_of(home, "garden") == [(60, -60, 60, 0, 0, 30)]
    low, high = round(-60 + offset, 6), round(60 + offset, 6)
    assert {tuple(p) for p in points_of(home, "station=garden&points=1")} == {(offset, low, high)}
    assert drawn(home.page(), "garden") == (round(low, 1), round(high, 1))


@pytest.mark.parametrize("seed", range(6))
def test_summaries_follow_whatever_comes_goes_and_is_called(house, seed):
    """Readings in any order and batch, deletions and labels: the file agrees with itself, and each
    hour that has its readings has the summary of the possible ones, if there are any."""
    mix, home = random.Random(seed), house(*GARDEN)
    series = None
    for _ in range(60):
        what = mix.random()
        if what < 0.7:
            minutes = [mix.randrange(-300, 0) for _ in range(mix.choice([1, 1, 1, 9]))]
            home.store("garden", sorted(minutes), [
                mix.choice([85, -127, 61.5, 20, 21.5, -3]) for _ in minutes])
        elif what < 0.85 and series is not None:
            start = NOON - mix.randrange(300) * MINUTE
            home.writer.delete_step("garden", 1, {
                "start": start, "end": start + mix.randrange(1, 90) * MINUTE,
                "below": mix.choice([None, 20.5]), "above": None})
        else:
            home.writer.label("garden", 1, mix.choice(["", "Battery %"]))
            home.writer.delete_step("garden", 1, {**iot.SUM_ONLY, "start": 0})
        series = home.writer.series.get((home.writer.find("garden").id, 1))
        assert problems_of(home.path) == []
        is_thermometer = home.reader.thermometer(2) is not None
        for hour, low, high in home.writer.db.execute(
                "SELECT hour, minimum, maximum FROM hour WHERE series = ?", (series,)):
            values = [value for value, in home.writer.db.execute(
                "SELECT value FROM reading WHERE series = ? AND time / 3600000 = ?",
                (series, hour))]
            fit = [v for v in values if -60 <= v <= 60] if is_thermometer else []
            assert (low, high) == (min(fit or values), max(fit or values))




@pytest.mark.parametrize("beside_a_server", [False, True])
def test_the_command_that_changes_a_meaning_sums_up_again(database, run, serve, beside_a_server):
    with contextlib.closing(iot.Writer(database)) as writer:
        writer.import_rows([(NOON + i * 7 * MINUTE, "", INSIDE.mac, 1, 20 + 80 * (i % 2), None)
                            for i in range(9000)], NOON)
    if beside_a_server:
        serve()
    for label, lows in (("Battery %", {100}), ("", {20})):
        run("--label", "inside", "1", label)
        with contextlib.closing(iot.Reader(database)) as reader:
            highs = {row[0] for row in reader.db.execute("SELECT maximum FROM hour")}
        assert highs == lows
        run("--check")


def test_a_file_of_the_layout_before_is_summed_up_where_its_readings_are(house):
    home = house(*GARDEN)
    home.store("garden", range(-60, 0), [85, 20] * 30)
    home.store("garden", range(-60, 0), [85, 20] * 30, field=4)
    home.close()
    with contextlib.closing(sqlite3.connect(home.path, isolation_level=None)) as db:
        db.executescript("""
            UPDATE hour SET minimum = 20, maximum = 85, total = 3150;
            ALTER TABLE hour DROP COLUMN odd; PRAGMA user_version = 3;
            INSERT INTO hour SELECT series, hour - 9, 9, 20, 85, 200, 9 FROM hour""")
    with contextlib.closing(iot.Writer(home.path)) as writer:
        rows = writer.db.execute("SELECT * FROM hour ORDER BY series, hour").fetchall()
    assert [row[2:] for row in rows] == [
        (9, 20, 85, 200, 9, 0), (60, 20, 20, 600, 0, 30),
        (9, 20, 85, 200, 9, 0), (60, 20, 85, 3150, 0, 0)]
    assert problems_of(home.path) == []


@pytest.mark.parametrize(("value", "unit", "note"), [
    (85, "C", "85.0 °C came last, which is impossible."),
    (-127, "F", "-196.6 °F came last, which is impossible."),
    (72.3, "C", "72.3 °C came last, which is impossible; a station sends °C, not °F."),
    (72.3, "F", "72.3 °C came last, which is impossible; a station sends °C, not °F."),
    (130.1, "C", "130.1 °C came last, which is impossible.")])
def test_what_looks_like_fahrenheit_is_called_so(house, value, unit, note):
    home = house(*GARDEN, units=unit)
    home.store("garden", [-2, -1], 20)
    home.store("garden", [0], value)
    assert note in home.page().text


# -- silent ---------------------------------------------------------------------------------------

def state_of(page, name):
    """How the list of stations calls a station, and when it was heard."""
    pattern = rf"{name} (new|ok|silent) (.*? ago|never)"
    found, = filter(None, (re.match(pattern, text) for _, text in page.all("li")))
    return found.groups()


def messages_of(home):
    post = iot.part_of(home.server, iot.Post)
    found = finish(post.collect("0" * 16, ["0" * 16], "", ""))
    post.note("0" * 16, "x", [tuple(message["told"]) for message in found], "")
    return [message["message"] for message in found]


@pytest.mark.wings("Messages")
@pytest.mark.parametrize("sent", [-127, 85, "nan"])
def test_a_broken_thermometer_is_silent_everywhere(house, sent):
    """It goes on sending each minute, but nothing that can be."""
    home = house(*GARDEN)
    home.store("kitchen", HALF_HOUR, 28)
    home.store("garden", HALF_HOUR, 24)
    assert state_of(home.page(), "garden") == ("ok", "0 s ago")
    assert len(messages_of(home)) == 1
    assert pass_time(home, 65, sent) == ["“garden” has been silent for 1 h."]
    page = home.page()
    assert page.verdict == "No answer: “garden” has been silent for 1 h."
    assert state_of(page, "garden") == ("silent", "1 h ago")
    assert "“garden” reports again." in pass_time(home, 2, 24)
    assert state_of(home.page(), "garden") == ("ok", "0 s ago")


def pass_time(home, minutes, sent):
    """The messages of so many minutes in each of which both stations send."""
    said = []
    for _ in range(minutes):
        home.time += 60
        now, writer = round(home.time * 1000), home.writer
        writer.add_entry(writer.find("kitchen"), now, {1: 28}, now)
        writer.add_entry(writer.find("garden"), now, {1: sent}, now)
        home.server.turn.end()
        said += messages_of(home)
    return said


def test_the_list_knows_broken_thermometers_without_a_role_too(house):
    """Other fields of the station are a sign of life."""
    home = house(("shed", None), ("attic", None))
    for name in ("shed", "attic"):
        home.store(name, range(-400, -300), 20)
        home.store(name, range(-300, 1), -127)
        home.writer.stations[home.writer.find(name).id].heard = round(home.time * 1000)
    home.writer.db.execute("UPDATE station SET heard = ?", (round(home.time * 1000),))
    home.store("attic", [-1], 50, field=2)
    page = home.page()
    assert state_of(page, "shed") == ("silent", "5 h ago")
    assert state_of(page, "attic") == ("ok", "1 min ago")
    now = round(home.time * 1000)
    assert [station["heard"] for station in home.get("/api/stations").json] == [
        now - 301 * MINUTE, now - MINUTE]
    home.writer.label("shed", 1, "pressure hPa")
    assert state_of(home.page(), "shed") == ("ok", "0 s ago")
    assert home.get("/api/stations").json[0]["heard"] == now


# -- doubted --------------------------------------------------------------------------------------

def test_a_doubted_reading_moves_nothing_until_it_counts(house):
    """Each 15 minutes: 45 °C between 24s are the sun on the sensor, and never count."""
    home = house(*GARDEN)
    home.store("kitchen", range(-27 * 60, 1, 15), 28)
    home.store("garden", range(-27 * 60, -120, 15), 24)
    home.store("garden", [-120], 9)                     # never confirmed
    home.store("garden", range(-105, 0, 15), 24)
    home.store("garden", [0], 45)                       # not yet
    page = home.page()
    row, = [text for _, text in page.all("li") if text.startswith("garden ") and "Today" in text]
    assert "45.0 °C came last; waiting for a second reading." in row
    assert re.search("Today: low 24.0 at .* high 24.0 at", row)
    assert "rising" not in row
    assert "as warm as yesterday" in row
    home.time += 900
    home.store("garden", [0], 44)
    row, = [text for _, text in home.page().all("li") if text.startswith("garden ")
            and "Today" in text]
    assert re.search("Today: low 24.0 at .* high 45.0 at 12:00", row), "both count now"
    assert "20 °C warmer than a day ago" in row


def test_a_doubted_reading_moves_no_forecast():
    series = [iot.Quarters(9) for _ in range(2)]
    for i in range(40):
        for quarters, values in zip(series, ([24.0], [24.0] if i != 20 else [40.0]), strict=True):
            quarters.add([(NOON + i * 15 * MINUTE, value) for value in values])
    assert series[0].values[-40:] == series[1].values[-40:]
    for quarters in series:                             # a second one confirms it
        for i in (40, 41):
            quarters.add([(NOON + i * 15 * MINUTE, 40.0)])
        assert quarters.values[-1] == 40.0
    frequent = iot.Quarters(9)
    for i, value in enumerate([24.0, 40.0]):
        frequent.add([(NOON + (i * 15 + j) * MINUTE, value) for j in (0, 5, 10)])
    assert frequent.values[-1] == 40.0, "three readings are not doubted"


# -- the first hours ------------------------------------------------------------------------------

@pytest.mark.parametrize(("every", "parts"), [(15, 1), (60, 1), (60, 6), (180, 1), (1, 1)])
def test_a_pause_is_known_from_the_second_upload_on(house, every, parts):
    """Uploads of one reading or of several with an age, as separate requests or not."""
    home = house(*GARDEN)
    home.store("kitchen", range(-DAY // MINUTE, 2 * DAY // MINUTE), 28)
    home.writer.db.execute("UPDATE station SET silence = 9000000 WHERE name = 'kitchen'")
    states = []
    for minute in range(12 * 60):
        home.time += 60
        now = round(home.time * 1000)
        for part in range(parts) if minute % every == 0 else ():
            home.writer.add_entry(home.writer.find("garden"), now - part * 10 * MINUTE, {1: 20},
                                  now + part * 100)
            home.server.turn.end()
        verdict, = home.get("/api/verdict").json["verdicts"]
        states.append(verdict["state"])
    changes = sum(a != b for a, b in itertools.pairwise(states))
    assert changes <= 2, "No answer once, before the second upload"
    assert "unknown" not in states[every:]
    assert home.writer.find("garden").silence == pytest.approx(
        max(3 * every * MINUTE, iot.SILENT_AT_LEAST), rel=0.001)


# -- what is said of it ---------------------------------------------------------------------------

def test_of_two_silent_outside_stations_the_one_heard_last_is_named(house):
    home = house(("kitchen", "inside"), ("old", "outside"), ("new", "outside"))
    home.store("kitchen", HALF_HOUR, 28)
    home.store("old", [-3000], 20)
    home.store("new", [-200], 20)
    assert home.page().verdict == "No answer: “new” has been silent for 3 h."


@pytest.mark.parametrize(("drift", "is_said"), [(25, True), (-25, True), (31, False)])
def test_a_day_ago_is_the_nearest_reading_within_half_an_hour(house, drift, is_said):
    """A station that sends each hour, yesterday some minutes later or earlier."""
    home = house(*GARDEN)
    home.store("garden", [-1440 + drift, -1440 - 55, -60, 0], [20, 9, 22, 22])
    assert ("2 °C warmer than a day ago" in home.page().text) == is_said
    assert "13 °C" not in home.page().text


def test_no_temperature_is_minus_nothing(house):
    home = house(*GARDEN)
    home.store("garden", HALF_HOUR, -0.04)
    assert "-0.0" not in home.page().text
    assert "garden 0.0 °C" in home.page().text


@pytest.mark.parametrize(("roles", "text"), [
    (("inside", "outside"), "The chart begins with the first reading."),
    (("inside", None), "give a station a role with --edit-station NAME --role outside."),
    ((None, "outside"), "give a station a role with --edit-station NAME --role inside."),
    ((None, None), "give a station a role with --edit-station NAME --role outside.")])
def test_without_a_role_the_chart_says_the_command(house, roles, text):
    home = house(*zip(("kitchen", "garden"), roles, strict=True))
    assert text in home.page().one("figure")


@pytest.mark.wings("Messages")
@pytest.mark.parametrize(("hours", "since"), [(1, "12:00"), (60, "Mon 30 Jul, 12:00")])
def test_a_late_message_says_the_day_too_if_it_is_not_today(house, hours, since, monkeypatch):
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    home = house(*GARDEN)
    home.writer.db.execute("UPDATE station SET silence = 900000000")
    home.server.board.expires = 0
    home.writer.load()
    home.store("kitchen", [0], 28)
    home.store("garden", [0], 24)
    home.time += hours * 3600
    said, = messages_of(home)
    assert said.endswith(f"It has been so since {since}.")
